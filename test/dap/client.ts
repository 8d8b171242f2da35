/** A DAP client for tests that writes down everything that passes, in a form that can be compared and read. */
import { DebugClient } from '@vscode/debugadapter-testsupport';
import type { DebugProtocol } from '@vscode/debugprotocol';
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const HERE = fileURLToPath(new URL('.', import.meta.url));
export const scenario = (name: string): string => join(HERE, 'scenarios', `${name}.mmu`);

/** What the base class hides but this one has to see. */
interface Internals {
  dispatch(body: string): void;
  /** number of the next request */
  sequence: number;
}

type Message = DebugProtocol.Request | DebugProtocol.Response | DebugProtocol.Event;

export class Session extends DebugClient {
  private readonly log: string[] = [];
  private readonly references = new Map<number, number>();
  private readonly waiting: { event: string; resolve: (e: DebugProtocol.Event) => void }[] = [];
  private readonly unread: DebugProtocol.Event[] = [];
  /** requests that the transcript does not show */
  private readonly hidden = new Set<number>();
  private scopes: DebugProtocol.Scope[] = [];
  recording = true;

  constructor() {
    super('node', join(HERE, 'stdio.mjs'), 'mmuscope', undefined, true);
    this.defaultTimeout = 20_000;
    const internals = this as unknown as Internals;
    const dispatch = internals.dispatch.bind(this);
    internals.dispatch = (body) => {
      this.incoming(JSON.parse(body) as Message);
      dispatch(body);
    };
  }

  private incoming(message: Message): void {
    if (message.type === 'event') {
      const event = message as DebugProtocol.Event;
      this.write(`← event ${event.event}`, event.body);
      const waiter = this.waiting.findIndex((w) => w.event === event.event);
      if (waiter >= 0) this.waiting.splice(waiter, 1)[0].resolve(event);
      else this.unread.push(event);
    } else {
      const response = message as DebugProtocol.Response;
      if (this.hidden.has(response.request_seq)) return;
      const text = response.success
        ? `← ${response.command}`
        : `← ${response.command} FAILS: ${response.message?.replaceAll(HERE, '…/')}`;
      this.write(text, response.success ? response.body : undefined);
    }
  }

  override async send(command: string, args?: unknown): Promise<never> {
    this.write(`→ ${command}`, args);
    try {
      return (await super.send(command, args)) as never;
    } finally {
      await this.settled();
    }
  }

  /** Waits until everything that the adapter has sent so far is here, so that the transcript has one order only. */
  private async settled(): Promise<void> {
    this.hidden.add((this as unknown as Internals).sequence);
    await super.send('threads').catch(() => {});
  }

  /** The next event of a kind, one that came before included. */
  event(name: string): Promise<DebugProtocol.Event> {
    const index = this.unread.findIndex((e) => e.event === name);
    if (index >= 0) return Promise.resolve(this.unread.splice(index, 1)[0]);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no event '${name}' came`)), this.defaultTimeout);
      this.waiting.push({
        event: name,
        resolve: (e) => {
          clearTimeout(timer);
          resolve(e);
        },
      });
    });
  }

  /** A request that has to fail. @returns its message */
  async fails(command: string, args?: unknown): Promise<string> {
    try {
      await this.send(command, args);
    } catch (error) {
      return (error as Error).message;
    }
    assert.fail(`${command} did not fail`);
  }

  // ---- what sessions do --------------------------------------------------------------------------------------------

  async open(launch: object, configure: () => Promise<unknown> = async () => {}): Promise<void> {
    this.recording = false;
    await this.start();
    await this.send('initialize', {
      adapterID: 'mmuscope',
      supportsVariablePaging: true,
      supportsMemoryEvent: true,
      supportsInvalidatedEvent: true,
    });
    this.recording = true;
    await this.send('launch', launch);
    await this.event('initialized');
    await configure();
    await this.send('configurationDone');
  }

  /** Sends a motion and waits for where it ends. */
  async go(command: string, args: object = {}): Promise<DebugProtocol.StoppedEvent['body']> {
    await this.send(command, { threadId: 1, ...args });
    return this.stopped();
  }

  async stopped(): Promise<DebugProtocol.StoppedEvent['body']> {
    const stopped = (await this.event('stopped')) as DebugProtocol.StoppedEvent;
    await this.settled();
    return stopped.body;
  }

  /** The stack, as one line a frame, in the transcript. */
  async stack(threadId = 1): Promise<string[]> {
    const { stackFrames } = await this.quiet<DebugProtocol.StackTraceResponse['body']>('stackTrace', { threadId });
    const lines = stackFrames.map((f) => `${f.name}${f.line ? ` (line ${f.line})` : ''}`);
    this.write('  stack', lines);
    if (stackFrames.length > 0) {
      const { scopes } = await this.quiet<DebugProtocol.ScopesResponse['body']>('scopes', {
        frameId: stackFrames[0].id,
      });
      this.scopes = scopes;
    }
    return lines;
  }

  /** The variables below a scope, as one line each, in the transcript. */
  async show(scope: string, ...names: string[]): Promise<DebugProtocol.Variable[]> {
    const list = await this.children(scope, names);
    this.write(
      `  ${[scope, ...names].join(' / ')}`,
      list.map((v) => `${v.name} = ${v.value}`),
    );
    return list;
  }

  /** The variables below a scope, without a trace of it. Call {@link stack} before. */
  async children(scope: string, names: readonly string[] = []): Promise<DebugProtocol.Variable[]> {
    const top = this.scopes.find((s) => s.name === scope);
    assert.ok(top, `no scope '${scope}' among ${this.scopes.map((s) => s.name).join(', ')}`);
    let reference = top.variablesReference;
    for (const name of names) {
      const found = (await this.variables(reference)).find((v) => v.name === name || v.name.startsWith(`${name} `));
      assert.ok(found, `no '${name}'`);
      reference = found.variablesReference;
    }
    return this.variables(reference);
  }

  private async variables(variablesReference: number): Promise<DebugProtocol.Variable[]> {
    if (!variablesReference) return [];
    return (await this.quiet<DebugProtocol.VariablesResponse['body']>('variables', { variablesReference })).variables;
  }

  /** A request that the transcript does not show. */
  async quiet<T>(command: string, args: object): Promise<T> {
    const { recording } = this;
    this.recording = false;
    try {
      return ((await this.send(command, args)) as DebugProtocol.Response).body as T;
    } finally {
      this.recording = recording;
    }
  }

  // ---- the transcript ----------------------------------------------------------------------------------------------

  text(): string {
    return this.log.join('\n');
  }

  note(text: string): void {
    this.log.push('', `# ${text}`);
  }

  private write(head: string, body: unknown): void {
    if (!this.recording) return;
    this.log.push(`${head}${inline(this.stable(body))}`);
  }

  /** Numbers that only name things are given anew, in the order in which they appear. */
  private stable(value: unknown, key = ''): unknown {
    if (Array.isArray(value)) {
      // Checks are many: their names will do.
      if (key === 'checks')
        return (value as { rule: string; ok: boolean }[]).map((c) => `${c.ok ? '' : 'FAILS '}${c.rule}`);
      return value.map((v) => this.stable(v));
    }
    if (typeof value === 'object' && value !== null) {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, this.stable(v, k)]));
    }
    if (typeof value === 'string') return value.replaceAll(HERE, '…/');
    if ((key === 'variablesReference' || key === 'frameId') && typeof value === 'number' && value > 0) {
      if (!this.references.has(value)) this.references.set(value, this.references.size + 1);
      return `‹${this.references.get(value)}›`;
    }
    return value;
  }

  /** Compares the transcript with the one that was accepted; RESET_RESULTS=1 accepts this one. */
  golden(name: string): void {
    const file = join(HERE, 'golden', `${name}.txt`);
    const text = `${this.log.join('\n').trim()}\n`;
    if (process.env['RESET_RESULTS'] === '1') {
      writeFileSync(file, text);
      return;
    }
    assert.ok(existsSync(file), `${file} does not exist: RESET_RESULTS=1 makes it`);
    assert.equal(text, readFileSync(file, 'utf8'), `the session differs from ${file}; RESET_RESULTS=1 accepts it`);
  }
}

/** A value as text: short ones on the line, long ones below it, a line for each member. */
function inline(value: unknown): string {
  if (value === undefined || (typeof value === 'object' && value !== null && Object.keys(value).length === 0))
    return '';
  const short = flat(value);
  if (short.length <= 110 && !short.includes('\n')) return ` ${short}`;
  return `\n${block(value, '    ')}`;
}

function flat(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(flat).join(', ')}]`;
  if (typeof value === 'object' && value !== null) {
    return `{ ${Object.entries(value)
      .map(([k, v]) => `${k}: ${flat(v)}`)
      .join(', ')} }`;
  }
  return typeof value === 'string' ? value : String(value);
}

function block(value: unknown, indent: string): string {
  const entries: [string, unknown][] = Array.isArray(value)
    ? value.map((v) => ['-', v])
    : Object.entries(value as object);
  return entries
    .map(([k, v]) => {
      const label = k === '-' ? '- ' : `${k}: `;
      const short = flat(v);
      if (short.length + indent.length <= 130 && !short.includes('\n')) return `${indent}${label}${short}`;
      if (typeof v === 'object' && v !== null) return `${indent}${label.trimEnd()}\n${block(v, `${indent}  `)}`;
      return `${indent}${label}${short.replaceAll('\n', `\n${indent}  `)}`;
    })
    .join('\n');
}
