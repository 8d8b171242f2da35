/**
 * What the request handlers of one session share: the target, the handles that the client holds, and the way to send
 * events. Two sessions share nothing.
 */
import type { DebugProtocol } from '@vscode/debugprotocol';
import {
  type Frame,
  type Motion,
  type RunReport,
  type Stop,
  type Target,
  TargetError,
  type TreeNode,
} from '../targets/target';
import type { LaunchArguments } from './launch-attributes';

/** Files as the session sees them; the extension may bring its own (virtual workspaces). */
export interface Files {
  /** @throws if there is no such file */
  read(path: string): Promise<string>;
}

export interface FrameHandle {
  readonly vcpu: number;
  readonly frame: Frame;
}

/** What the client said that it can do. */
export interface ClientAbilities {
  readonly variablePaging: boolean;
  readonly memoryEvent: boolean;
  readonly invalidatedEvent: boolean;
  readonly progress: boolean;
  readonly linesStartAt1: boolean;
  readonly columnsStartAt1: boolean;
  readonly pathFormatUri: boolean;
}

const NO_ABILITIES: ClientAbilities = {
  variablePaging: false,
  memoryEvent: false,
  invalidatedEvent: false,
  progress: false,
  linesStartAt1: true,
  columnsStartAt1: true,
  pathFormatUri: false,
};

/** Milliseconds after which a motion shows its progress. */
const PROGRESS_AFTER = 500;
/** Memory ranges that the client has read, for memory events. */
const MAX_RANGES = 256;

export class Context {
  client: ClientAbilities = NO_ABILITIES;
  launch: LaunchArguments | null = null;
  /** configurationDone has come: the run has begun */
  begun = false;
  /** the client will not be told of anything any more */
  closed = false;
  private currentTarget: Target | null = null;
  private readonly variables: { node: TreeNode; vcpu: number }[] = [];
  private readonly frameHandles: FrameHandle[] = [];
  private readonly readRanges = new Map<string, { from: number; to: number }>();
  private readonly afterResponse: (() => void)[] = [];
  private progressCount = 0;
  activeProgress: string | null = null;

  constructor(
    private readonly emit: (event: string, body: object) => void,
    readonly files: Files,
  ) {}

  // ---- the target ------------------------------------------------------------------------------------------------

  setTarget(target: Target | null): void {
    this.currentTarget?.dispose();
    this.currentTarget = target;
    this.forget();
  }

  get hasTarget(): boolean {
    return this.currentTarget !== null;
  }

  /** @throws TargetError before a launch has succeeded */
  get target(): Target {
    if (!this.currentTarget) throw new TargetError('nothing is being debugged: send a launch request first');
    return this.currentTarget;
  }

  /** The target while it stands still. @throws TargetError while it runs */
  get stopped(): Target {
    const { target } = this;
    if (target.running) throw new TargetError('the run is in progress: pause it first');
    return target;
  }

  /** vCPU of a DAP thread. @throws TargetError if there is none */
  vcpuOf(threadId: number | undefined, target = this.stopped): number {
    const vcpus = target.vcpus();
    if (threadId === undefined) return target.lastStop?.vcpu ?? vcpus[0].index;
    const vcpu = vcpus.find((v) => v.index + 1 === threadId);
    if (vcpu) return vcpu.index;
    const known = vcpus.map((v) => v.index + 1).join(', ');
    throw new TargetError(`there is no thread ${threadId}: the vCPUs are threads ${known}`);
  }

  // ---- handles: good until the run moves -------------------------------------------------------------------------

  forget(): void {
    this.variables.length = 0;
    this.frameHandles.length = 0;
  }

  addFrame(handle: FrameHandle): number {
    return this.frameHandles.push(handle);
  }

  /** @throws TargetError for a frame of an earlier stop */
  frame(id: number): FrameHandle {
    const handle = this.frameHandles[id - 1];
    if (!handle) throw new TargetError(`there is no frame ${id} any more: ask for the stack trace again`);
    return handle;
  }

  /** 0 for a node without children, as the protocol wants it. */
  addVariable(node: TreeNode, vcpu: number): number {
    return node.children ? this.variables.push({ node, vcpu }) : 0;
  }

  /** @throws TargetError for a reference of an earlier stop */
  variable(reference: number): { node: TreeNode; vcpu: number } {
    const found = this.variables[reference - 1];
    if (!found)
      throw new TargetError(`there is no variables reference ${reference} any more: ask for the scopes again`);
    return found;
  }

  // ---- events ----------------------------------------------------------------------------------------------------

  send(event: string, body: object = {}): void {
    if (!this.closed) this.emit(event, body);
  }

  output(text: string, category: 'console' | 'stdout' | 'stderr', line: number | null = null): void {
    const source = this.source();
    const place = line !== null && source ? { source, line: this.toClientLine(line) } : {};
    this.send('output', { category, output: `${text}\n`, ...place });
  }

  /** Runs when the response to the request at hand has been sent. */
  after(action: () => void): void {
    this.afterResponse.push(action);
  }

  responseSent(): void {
    for (const action of this.afterResponse.splice(0)) action();
  }

  /** The source of all frames, as the protocol wants it. */
  source(): DebugProtocol.Source | undefined {
    const source = this.currentTarget?.source;
    if (!source) return undefined;
    return source.path === null
      ? { name: source.name, sourceReference: 1 }
      : { name: source.name, path: this.client.pathFormatUri ? toUri(source.path) : source.path };
  }

  toClientLine(line: number): number {
    return this.client.linesStartAt1 ? line : line - 1;
  }

  fromClientLine(line: number): number {
    return this.client.linesStartAt1 ? line : line + 1;
  }

  // ---- memory ----------------------------------------------------------------------------------------------------

  /** Remembers that the client shows this memory. */
  noteMemory(reference: string, from: number, to: number): void {
    const known = this.readRanges.get(reference) ?? { from, to };
    this.readRanges.delete(reference);
    this.readRanges.set(reference, { from: Math.min(known.from, from), to: Math.max(known.to, to) });
    const [oldest] = this.readRanges.keys();
    if (this.readRanges.size > MAX_RANGES) this.readRanges.delete(oldest);
  }

  /** Tells the client that the memory it shows may have changed. */
  memoryChanged(): void {
    if (!this.client.memoryEvent) return;
    for (const [memoryReference, { from, to }] of this.readRanges) {
      this.send('memory', { memoryReference, offset: from, count: to - from });
    }
  }

  /** State was changed by the user: everything shown is stale. */
  stateChanged(): void {
    this.memoryChanged();
    if (this.client.invalidatedEvent) this.send('invalidated', { areas: ['all'] });
  }

  // ---- running ---------------------------------------------------------------------------------------------------

  /** Starts a motion and tells the client when it has ended. Never throws. */
  move(motion: Motion, vcpu: number): void {
    const { target } = this;
    this.forget();
    const end = this.beginProgress(motion);
    const report: RunReport = {
      output: (text, category, line) => this.output(text, category, line),
      progress: end.update,
    };
    target
      .run(motion, vcpu, report)
      .then((stop) => {
        end.done();
        this.announce(stop, motion);
      })
      .catch((error: unknown) => {
        end.done();
        this.output(`the run cannot go on: ${error instanceof Error ? error.message : String(error)}`, 'stderr');
        if (!(error instanceof TargetError) && error instanceof Error && error.stack)
          this.output(error.stack, 'stderr');
        this.sendStopped(
          'exception',
          vcpu,
          'the run cannot go on',
          error instanceof Error ? error.message : String(error),
        );
      });
  }

  private announce(stop: Stop, motion: Motion): void {
    const wasAtEnd = motion.kind === 'continue' && this.atEnd;
    this.atEnd = stop.reason === 'end';
    if (stop.reason === 'end' && (wasAtEnd || !this.launch?.stopAtEnd || this.launch.noDebug)) return this.finish();
    const reason = stop.reason === 'end' ? 'end' : stop.reason;
    this.sendStopped(reason, stop.vcpu, stop.description, stop.why?.verdict.text ?? null, stop.breakpointIds);
    this.memoryChanged();
  }
  private atEnd = false;

  private sendStopped(
    reason: string,
    vcpu: number,
    description: string,
    text: string | null,
    hitBreakpointIds: readonly number[] = [],
  ): void {
    this.send('stopped', {
      reason,
      threadId: vcpu + 1,
      allThreadsStopped: true,
      ...(description ? { description: capitalized(description) } : {}),
      ...(text ? { text } : {}),
      ...(hitBreakpointIds.length ? { hitBreakpointIds } : {}),
    });
  }

  /** The program is over and nobody wants to look at it any more. */
  finish(): void {
    this.send('exited', { exitCode: this.currentTarget?.failed ? 1 : 0 });
    this.send('terminated');
  }

  private beginProgress(motion: Motion): { update: () => void; done: () => void } {
    if (!this.client.progress || motion.kind === 'continue') return { update: () => {}, done: () => {} };
    const id = `motion-${++this.progressCount}`;
    const begin = performance.now();
    let shown = false;
    return {
      update: () => {
        if (shown || performance.now() - begin < PROGRESS_AFTER) return;
        shown = true;
        this.activeProgress = id;
        this.send('progressStart', { progressId: id, title: MOTION_TITLES[motion.kind], cancellable: true });
      },
      done: () => {
        this.activeProgress = null;
        if (shown) this.send('progressEnd', { progressId: id });
      },
    };
  }
}

const MOTION_TITLES: Record<Motion['kind'], string> = {
  continue: 'Running',
  reverseContinue: 'Running backwards',
  stepOut: 'Stepping out',
  stepIn: 'Stepping in',
  reverseStepIn: 'Stepping back',
  next: 'Stepping',
  stepBack: 'Stepping back',
  event: 'Going to an event',
  tick: 'Going to a tick',
  line: 'Going to a line',
};

/** A sentence begins with a capital, the name of a function stays as it is. */
function capitalized(text: string): string {
  return /^[a-z]+ /.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text;
}

/** A path as a file URI, for clients that speak in URIs. */
function toUri(path: string): string {
  const slashed = path.replaceAll('\\', '/');
  const encoded = slashed.split('/').map(encodeURIComponent).join('/');
  return `file://${encoded.startsWith('/') ? '' : '/'}${encoded}`;
}
