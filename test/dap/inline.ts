/** A session in this process, as VS Code runs it inline: messages go in and come out as objects. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { readFile } from 'node:fs/promises';
import { MmuScopeSession } from '../../src/adapter/session';

export class InlineSession {
  readonly session: MmuScopeSession;
  readonly events: DebugProtocol.Event[] = [];
  private readonly responses = new Map<number, (r: DebugProtocol.Response) => void>();
  private readonly watchers: { name: string; resolve: (e: DebugProtocol.Event) => void }[] = [];
  private seq = 1;

  constructor() {
    this.session = new MmuScopeSession({ read: (path) => readFile(path, 'utf8') });
    this.session.onDidSendMessage((message) => this.receive(message as DebugProtocol.ProtocolMessage));
  }

  private receive(message: DebugProtocol.ProtocolMessage): void {
    if (message.type === 'event') {
      const event = message as DebugProtocol.Event;
      this.events.push(event);
      const index = this.watchers.findIndex((w) => w.name === event.event);
      if (index >= 0) this.watchers.splice(index, 1)[0].resolve(event);
    } else if (message.type === 'response') {
      const response = message as DebugProtocol.Response;
      this.responses.get(response.request_seq)?.(response);
    }
  }

  /** Any message, however wrong; resolves with the response, fails after a while without one. */
  raw(message: Record<string, unknown>): Promise<DebugProtocol.Response> {
    const seq = this.seq++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no response to ${JSON.stringify(message)}`)), 5000);
      this.responses.set(seq, (r) => {
        clearTimeout(timer);
        resolve(r);
      });
      this.session.handleMessage({ seq, type: 'request', ...message });
    });
  }

  /** @throws Error with the adapter's message */
  async send<T = unknown>(command: string, args?: object): Promise<T> {
    const response = await this.raw({ command, arguments: args });
    if (!response.success) throw new Error(response.message);
    return response.body as T;
  }

  /** The next event of a kind from now on. Ask for it before sending what causes it. */
  next(name: string): Promise<DebugProtocol.Event> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no event '${name}' came`)), 10_000);
      this.watchers.push({
        name,
        resolve: (e) => {
          clearTimeout(timer);
          resolve(e);
        },
      });
    });
  }

  async open(launch: object, filters: string[] = []): Promise<void> {
    await this.send('initialize', {
      adapterID: 'mmuscope',
      supportsMemoryEvent: true,
      supportsProgressReporting: true,
    });
    const initialized = this.next('initialized');
    await this.send('launch', launch);
    await initialized;
    await this.send('setExceptionBreakpoints', { filters });
  }

  /** Sends a motion and waits for where it ends. */
  async go(command: string, args: object = {}): Promise<Record<string, unknown>> {
    const stopped = this.next('stopped');
    await this.send(command, { threadId: 1, ...args });
    return (await stopped).body as Record<string, unknown>;
  }

  close(): void {
    this.session.dispose();
  }
}
