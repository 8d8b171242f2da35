/**
 * The state bus: what the debug sessions of MMU Scope are doing, out of the DAP traffic alone. Views and hovers read it from here and
 * never ask a session themselves when it stopped.
 */
import * as vscode from 'vscode';
import type { MmuScopeCommand, MmuScopeRequests, StateBody } from '../adapter/protocol';
import type { SessionInfo } from '../../webview/messages';

export const DEBUG_TYPE = 'mmuscope';

/** Requests that set a session going. */
const MOTIONS: ReadonlySet<string> = new Set([
  ...['continue', 'next', 'stepIn', 'stepOut', 'stepBack', 'reverseContinue', 'goto', 'restartFrame', 'restart'],
  ...['mmuscope/goto', 'mmuscope/reverseStepIn'],
]);
/** Milliseconds before the views say that a session runs. */
const RUNNING_SHOWN_AFTER = 250;

/** One debug session and what is known of it. */
export class Session {
  /** counts stops; 0 before the first */
  stop = 0;
  stopped = false;
  ended = false;
  /** thread that stopped, or that the user picked in a view or the call stack */
  threadId = 1;
  /** answer of the last `mmuscope/state` */
  state: StateBody | null = null;

  constructor(readonly debug: vscode.DebugSession) {}

  /** A custom request of the protocol. @throws Error with the adapter's sentence. */
  async request<C extends MmuScopeCommand>(
    command: C,
    args: MmuScopeRequests[C]['arguments'],
  ): Promise<MmuScopeRequests[C]['body']> {
    return (await this.debug.customRequest(command, args)) as MmuScopeRequests[C]['body'];
  }

  /** What views show of it; null until the session has said what it is. */
  info(): SessionInfo | null {
    const { state } = this;
    if (state === null) return null;
    return {
      id: this.debug.id,
      name: this.debug.name,
      title: state.title.replace(/^.*[\\/]/, ''),
      kernel: state.kernel,
      vendor: state.vendor,
      paging: state.paging,
      stopped: this.stopped,
      stop: this.stop,
      reason: this.stopped ? reasonOf(state) : null,
      threadId: this.threadId,
      threads: state.vcpus.map(({ threadId, name, smm, guestMode }) => ({ id: threadId, name, smm, guestMode })),
    };
  }
}

/** Why it stands, and where: `SMM entry (smbase 0x30000) · line 27: load 4 [0xa0010]`. */
function reasonOf({ stop, position }: StateBody): string {
  const reason = stop?.description || stop?.reason || 'stopped';
  const where =
    position.line === null ? '' : ` · line ${position.line}${position.statement ? `: ${position.statement}` : ''}`;
  // The name of a function stays as it is.
  const sentence = /^[a-z]+( |$)/.test(reason) ? reason.charAt(0).toUpperCase() + reason.slice(1) : reason;
  return `${sentence}${where}`;
}

/** All sessions, and the one that views follow: VS Code's active one, or the last that stopped. */
export class Sessions implements vscode.DebugAdapterTrackerFactory, vscode.Disposable {
  private readonly byId = new Map<string, Session>();
  private current: Session | null = null;
  private readonly changed = new vscode.EventEmitter<Session | null>();
  private readonly disposables: vscode.Disposable[] = [this.changed];

  /** The followed session stopped, went on, ended, or another is followed now. */
  readonly onDidChange = this.changed.event;

  constructor() {
    this.disposables.push(
      vscode.debug.registerDebugAdapterTrackerFactory(DEBUG_TYPE, this),
      vscode.debug.onDidChangeActiveDebugSession((debug) => {
        const session = debug && this.byId.get(debug.id);
        if (session !== undefined && session !== this.current) this.follow(session);
      }),
      vscode.debug.onDidChangeActiveStackItem((item) => {
        const session = item && this.byId.get(item.session.id);
        if (session === undefined || item === undefined || !('threadId' in item) || session.threadId === item.threadId)
          return;
        session.threadId = item.threadId;
        if (session === this.current && session.stopped) this.changed.fire(session);
      }),
      vscode.debug.onDidTerminateDebugSession((debug) => this.end(debug.id)),
    );
  }

  /** The session that views follow; null when there is none. */
  get active(): Session | null {
    return this.current;
  }

  /** Followed session if it is stopped: only then tables and roles can be asked for. */
  get stopped(): Session | null {
    return this.current?.stopped === true ? this.current : null;
  }

  createDebugAdapterTracker(debug: vscode.DebugSession): vscode.DebugAdapterTracker {
    const session = new Session(debug);
    this.byId.set(debug.id, session);
    return {
      onWillReceiveMessage: ({ type, command }: { type?: string; command?: string }) => {
        if (type === 'request' && MOTIONS.has(command ?? '')) this.run(session);
      },
      onDidSendMessage: (message: {
        type?: string;
        event?: string;
        command?: string;
        success?: boolean;
        body?: unknown;
      }) => {
        if (message.type === 'event') this.hear(session, message.event ?? '', message.body);
        // A motion that was refused leaves the session where it was.
        if (message.type === 'response' && message.success === false && MOTIONS.has(message.command ?? '')) {
          session.stopped = session.stop > 0;
          if (session === this.current) this.changed.fire(session);
        }
        // The user changed a register or memory: what views show is no longer so.
        const writes =
          message.command === 'setVariable' || message.command === 'setExpression' || message.command === 'writeMemory';
        if (message.type === 'response' && message.success === true && writes) void this.refresh(session);
      },
    };
  }

  private hear(session: Session, event: string, body: unknown): void {
    switch (event) {
      case 'stopped': {
        session.stop++;
        session.stopped = true;
        session.threadId = (body as { threadId?: number } | undefined)?.threadId ?? session.threadId;
        this.current = session;
        void this.refresh(session);
        break;
      }
      case 'continued':
        this.run(session);
        break;
      case 'terminated':
        this.end(session.debug.id);
        break;
    }
  }

  /** The session goes on. Listeners hear of it if it does not stop again at once, as it does at most steps. */
  private run(session: Session): void {
    if (!session.stopped) return;
    session.stopped = false;
    const { stop } = session;
    setTimeout(() => {
      if (session.stop === stop && !session.stopped && !session.ended && session === this.current)
        this.changed.fire(session);
    }, RUNNING_SHOWN_AFTER);
  }

  /** Asks what the session is at now, then tells the listeners; a stop that came in the meantime wins. */
  private async refresh(session: Session): Promise<void> {
    const { stop } = session;
    try {
      const state = await session.request('mmuscope/state', {});
      if (session.stop !== stop || session.ended) return;
      session.state = state;
    } catch {
      // It ended while it was asked.
      return;
    }
    if (session === this.current) this.changed.fire(session);
  }

  private follow(session: Session): void {
    this.current = session;
    if (session.state === null) void this.refresh(session);
    else this.changed.fire(session);
  }

  private end(id: string): void {
    const session = this.byId.get(id);
    if (session === undefined) return;
    session.ended = true;
    session.stopped = false;
    this.byId.delete(id);
    if (session !== this.current) return;
    this.current = [...this.byId.values()].at(-1) ?? null;
    this.changed.fire(this.current);
  }

  dispose(): void {
    for (const disposable of this.disposables) disposable.dispose();
  }
}
