/**
 * A debug session: requests in, responses and events out. Runs inline in the extension, on stdio and on a socket; the
 * transport is @vscode/debugadapter's. Every request has one entry in the table of handlers; whatever is not there, or
 * does not fit, or fails, is answered with an error and the session goes on.
 */
import { DebugSession } from '@vscode/debugadapter';
import type { DebugProtocol } from '@vscode/debugprotocol';
import { readFile } from 'node:fs/promises';
import { FILTERS } from '../targets/filters';
import { TargetError } from '../targets/target';
import { Context, type Files } from './context';
import { checkArguments, type RequestHandler } from './handler';
import { breakpoints } from './requests/breakpoints';
import { debugConsole } from './requests/console';
import { custom } from './requests/custom';
import { lifecycle } from './requests/lifecycle';
import { memory } from './requests/memory';
import { running } from './requests/running';
import { stack } from './requests/stack';
import { suggestion } from '../words/suggest';

/** Every request that is answered, by name. */
export const HANDLERS: ReadonlyMap<string, RequestHandler> = new Map(
  [lifecycle, breakpoints, running, stack, memory, debugConsole, custom].flatMap((part) => Object.entries(part)),
);

/** What the adapter announces: the capabilities of the handlers that there are. */
export function capabilities(): DebugProtocol.Capabilities {
  const all: DebugProtocol.Capabilities = {};
  for (const { capabilities: own } of HANDLERS.values()) Object.assign(all, own);
  all.exceptionBreakpointFilters = FILTERS.map(({ filter, label, description, default: on, conditionHelp }) => ({
    filter,
    label,
    description,
    default: on,
    supportsCondition: true,
    conditionDescription: conditionHelp,
  }));
  return all;
}

const diskFiles: Files = { read: (path) => readFile(path, 'utf8') };

/** Error ids of the protocol: a mistake that the user can mend, and a defect of the adapter. */
const USER_ERROR = 1000;
const INTERNAL_ERROR = 2000;

export class MmuScopeSession extends DebugSession {
  private readonly context: Context;
  /** requests are answered in the order in which they came */
  private queue: Promise<void> = Promise.resolve();

  constructor(files: Files = diskFiles) {
    super();
    this.context = new Context((event, body) => this.sendEvent({ seq: 0, type: 'event', event, body }), files);
    // The base class ends the process on broken input; a broken message is no reason to lose the session.
    this.removeAllListeners('error');
    this.on('error', () => this.context.output('a message that is not JSON was ignored', 'stderr'));
  }

  override dispose(): void {
    this.context.closed = true;
    if (this.context.hasTarget) this.context.target.pause();
    this.context.setTarget(null);
    super.dispose();
  }

  protected override dispatchRequest(request: DebugProtocol.Request): void {
    // Pausing must not wait behind a request that is waiting for something itself.
    if (request.command === 'pause' || request.command === 'cancel') void this.answer(request);
    else this.queue = this.queue.then(() => this.answer(request));
  }

  private async answer(request: DebugProtocol.Request): Promise<void> {
    const response: DebugProtocol.Response = {
      seq: 0,
      type: 'response',
      request_seq: Number.isInteger(request.seq) ? request.seq : 0,
      command: String(request.command),
      success: true,
    };
    try {
      const body = await this.handle(response.command, request.arguments);
      if (body !== undefined) response.body = body;
    } catch (error) {
      this.fail(response, error);
    }
    this.sendResponse(response);
    this.context.responseSent();
    if (response.command === 'disconnect') this.shutdown();
  }

  private async handle(command: string, given: unknown): Promise<unknown> {
    const known = HANDLERS.get(command);
    if (!known) {
      throw new TargetError(`the request '${command}' is not supported${suggestion(command, HANDLERS.keys())}`);
    }
    const body = await known.run(this.context, checkArguments(command, known.shape, given));
    return command === 'initialize' ? capabilities() : body;
  }

  private fail(response: DebugProtocol.Response, error: unknown): void {
    const user = error instanceof TargetError;
    const message = error instanceof Error ? error.message : String(error);
    const format = user ? message : `internal error in '${response.command}': ${message}`;
    response.success = false;
    response.message = format;
    response.body = { error: { id: user ? USER_ERROR : INTERNAL_ERROR, format, showUser: user } };
    if (!user && error instanceof Error) this.context.output(error.stack ?? message, 'stderr');
  }
}
