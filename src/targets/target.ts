/**
 * The one interface that every source of truth stands behind: the simulator, a trace, a snapshot, a memory dump, a
 * running QEMU. The adapter, the views and the CLI are written against this file and know no target by name.
 *
 * A target is inspected at its current position; running moves the position. What is read (frames, nodes, tables) is
 * good until the position moves. Addresses and 64-bit words are bigint; nothing here is on a hot path. Whatever a source
 * cannot know is null or a node whose value says `unknown`, never a guess. User errors are {@link TargetError}.
 */
import type { Inputs } from '../words/formula';
import type { Decoded } from '../words/word';
import type { WalkStep, WhyRecord } from '../hw/why';
import type { KvmEvent } from '../kvm/events';
import type { WordReader } from './event-info';

/** A mistake of the user or a limit of the source, as one sentence for the user. */
export class TargetError extends Error {
  override readonly name = 'TargetError';
}

// ---- what the target is ------------------------------------------------------------------------------------------

/** Abilities by name; the DAP capabilities follow from them. */
export interface TargetFeatures {
  /** can run forward */
  readonly run: boolean;
  /** stepBack, reverseContinue, going to an event of the past */
  readonly past: boolean;
  readonly functionBreakpoints: boolean;
  readonly dataBreakpoints: boolean;
  readonly writeMemory: boolean;
  readonly setVariable: boolean;
}

export interface TargetInfo {
  /** simulator, trace, snapshot, dump, qemu */
  readonly kind: string;
  /** what is debugged: a file or a description */
  readonly title: string;
  /** canonical kernel name: `v6.1`; null if the source does not tell */
  readonly kernel: string | null;
  readonly vendor: 'intel' | 'amd' | null;
  readonly paging: 'ept' | 'npt' | 'shadow' | null;
  readonly maxphyaddr: number | null;
  readonly features: TargetFeatures;
  /** one sentence for each thing this source does not have */
  readonly lacks: readonly string[];
}

export interface Vcpu {
  readonly index: number;
  readonly name: string;
  readonly smm: boolean | null;
  readonly guestMode: boolean | null;
  readonly rip: bigint | null;
  readonly cr3: bigint | null;
  readonly rootHpa: bigint | null;
  /** `64-bit paging, 4 levels`, `real mode` … */
  readonly mode: string;
}

/** Where the run stands. All counts start at 0 with the run. */
export interface Position {
  /** calls of the observer so far: the finest coordinate there is */
  readonly tick: number;
  /** events so far; the next one gets this index */
  readonly event: number;
  /** statements begun so far */
  readonly statements: number;
  readonly line: number | null;
  readonly statement: string | null;
}

// ---- source text -------------------------------------------------------------------------------------------------

/** The text that line breakpoints sit in: a scenario, a trace. */
export interface SourceText {
  readonly name: string;
  /** absolute path, or null when the text came with the launch request */
  readonly path: string | null;
  readonly text: string;
}

// ---- frames and variables ----------------------------------------------------------------------------------------

export interface Frame {
  readonly kind: 'scenario' | 'hw' | 'kvm' | 'read';
  readonly name: string;
  /** 1-based line of the scenario statement; null where it does not apply */
  readonly line: number | null;
  /** what is local to the frame: struct kvm_page_fault, the reads of a walk */
  readonly locals: TreeNode | null;
}

/** A lazily expanded value. Nodes are made when somebody looks and thrown away when the position moves. */
export interface TreeNode {
  readonly name: string;
  readonly value: string;
  readonly type?: string;
  /** opens a memory view: see {@link parseMemoryReference} */
  readonly memoryReference?: string;
  /** what to type in the debug console to get this value */
  readonly evaluateName?: string;
  /** how many children are array elements; they come in pages */
  readonly indexed?: number;
  /** how many children have names */
  readonly named?: number;
  /** expensive to make: show it only when asked */
  readonly lazy?: boolean;
  /** for change marking and icons: DAP's VariablePresentationHint attributes */
  readonly attributes?: readonly string[];
  /**
   * Children `start` … `start + count - 1` of one kind. Absent when there are none.
   * @param filter `indexed` or `named`; without it both, named ones first.
   */
  children?(filter?: 'indexed' | 'named', start?: number, count?: number): TreeNode[];
  /** Writes a new value. @throws TargetError if the text is not one, naming what is. */
  set?(text: string): TreeNode;
}

export interface Scope {
  readonly name: string;
  readonly expensive: boolean;
  readonly presentation?: 'locals' | 'registers';
  readonly root: TreeNode;
}

// ---- memory ------------------------------------------------------------------------------------------------------

/** gpa: as a vCPU in address space `as` sees it; hpa: host memory; gva: through the current tables of a vCPU. */
export type MemorySpace =
  | { readonly kind: 'gpa'; readonly asId: number }
  | { readonly kind: 'hpa' }
  | { readonly kind: 'gva'; readonly vcpu: number };

export interface MemoryRef {
  readonly space: MemorySpace;
  readonly address: bigint;
}

/** A run of readable bytes and what follows it. `data.length + unreadable` is the count asked for. */
export interface MemoryRead {
  readonly data: Uint8Array;
  readonly unreadable: number;
}

/**
 * Memory references as text, stable for the life of a session: `gpa:0x1000` (address space 0), `gpa@1:0x1000` (address
 * space 1, SMM), `hpa:0x1000`, `gva@0:0x1000` (through the tables of vCPU 0).
 */
export function formatMemoryReference(ref: MemoryRef): string {
  const { space } = ref;
  const prefix =
    space.kind === 'gpa'
      ? space.asId
        ? `gpa@${space.asId}`
        : 'gpa'
      : space.kind === 'gva'
        ? `gva@${space.vcpu}`
        : 'hpa';
  return `${prefix}:0x${BigInt.asUintN(64, ref.address).toString(16)}`;
}

const MEMORY_REFERENCE = /^(gpa|hpa|gva)(?:@(\d{1,4}))?:(0x[0-9a-f]{1,16}|\d{1,20})$/i;

/** Reads what {@link formatMemoryReference} writes. A bare number is a guest linear address of `vcpu`. @throws TargetError */
export function parseMemoryReference(text: string, vcpu = 0): MemoryRef {
  const bare = /^(0x[0-9a-f]{1,16}|\d{1,20})$/i.exec(text);
  const m = bare ? ['', 'gva', `${vcpu}`, bare[1]] : MEMORY_REFERENCE.exec(text);
  const address = m ? BigInt(m[3]) : 0n;
  if (!m || address >> 64n || (m[1].toLowerCase() === 'hpa' && m[2] !== undefined)) {
    throw new TargetError(
      `'${text}' is not a memory reference: write gpa:0x… (gpa@1:0x… for the SMM address space), hpa:0x… or gva@0:0x… with the vCPU`,
    );
  }
  const number = m[2] === undefined ? 0 : Number(m[2]);
  switch (m[1].toLowerCase()) {
    case 'gpa':
      return { space: { kind: 'gpa', asId: number }, address };
    case 'gva':
      return { space: { kind: 'gva', vcpu: m[2] === undefined ? vcpu : number }, address };
    default:
      return { space: { kind: 'hpa' }, address };
  }
}

// ---- tables, words, slots ----------------------------------------------------------------------------------------

export type TableKind = 'guest' | 'ept' | 'npt' | 'shadow' | 'sppt';

export interface TableRoot {
  readonly id: string;
  readonly title: string;
  readonly kind: TableKind;
  readonly level: number;
  readonly address: bigint;
  readonly space: 'gpa' | 'hpa';
  readonly current: boolean;
  readonly asId: number | null;
}

export interface TableEntry {
  readonly index: number;
  readonly raw: bigint;
  readonly address: bigint;
  /** first address that the entry translates */
  readonly from: bigint;
  /** see RowMark in src/adapter/protocol.ts */
  readonly marks: readonly string[];
  readonly summary: string;
  readonly target: bigint | null;
  readonly descend: boolean;
  readonly mmio: {
    readonly gfn: bigint;
    readonly access: string;
    readonly generation: bigint | null;
    readonly currentGeneration: bigint | null;
  } | null;
  /** the entry under its table, bit by bit */
  decode(): Decoded | null;
}

export interface TablePage {
  readonly root: TableRoot;
  readonly path: readonly number[];
  readonly level: number;
  readonly levelName: string;
  readonly address: bigint;
  readonly from: bigint;
  readonly coverage: bigint;
  readonly entrySize: 4 | 8;
  readonly count: number;
  /** one for each table from the root to this one */
  readonly crumbs: readonly {
    readonly path: readonly number[];
    readonly level: number;
    /** index in the table above; null for the root */
    readonly index: number | null;
    readonly label: string;
  }[];
  readonly page: {
    readonly gfn: bigint;
    readonly role: Decoded;
    readonly rootCount: number | null;
    readonly unsync: boolean | null;
    readonly tdpMmu: boolean | null;
  } | null;
  entry(index: number): TableEntry;
}

export interface MmuWord {
  readonly name: string;
  readonly decoded: Decoded;
  /** per field name: where its value comes from now, `CR4.SMEP=1 && CR0.WP=0` */
  readonly because: Readonly<Record<string, string>>;
}

export interface MmuState {
  readonly name: string;
  readonly active: boolean;
  readonly walk: boolean;
  readonly words: readonly MmuWord[];
  /** what the names in the formulas of its roles are (src/words/role-origins.ts), as far as it is known */
  readonly inputs: Inputs;
  readonly rootHpa: bigint | null;
  readonly pgd: bigint | null;
  readonly prevRoots: readonly { readonly pgd: bigint; readonly hpa: bigint }[];
}

export interface RegisterState {
  readonly name: string;
  readonly value: bigint;
  readonly decoded: Decoded | null;
}

export interface MemslotState {
  readonly asId: number;
  readonly id: number;
  readonly gpa: bigint;
  readonly size: bigint;
  readonly hva: bigint;
  readonly flags: readonly string[];
  readonly backing: string | null;
}

// ---- walks and events --------------------------------------------------------------------------------------------

export interface WalkRequest {
  readonly vcpu: number;
  readonly address: bigint;
  /** gva: both stages from the vCPU's registers; gpa: the second stage alone */
  readonly from: 'gva' | 'gpa';
  readonly write?: boolean;
  readonly fetch?: boolean;
  /** default: as the vCPU's CPL says */
  readonly user?: boolean;
}

/** An event with its place in the run. */
export interface EventEntry {
  readonly index: number;
  readonly tick: number;
  readonly line: number | null;
  readonly event: KvmEvent;
}

// ---- running -----------------------------------------------------------------------------------------------------

export type Motion =
  | { readonly kind: 'continue' | 'reverseContinue' | 'stepOut' | 'stepIn' | 'reverseStepIn' }
  /** `statement` goes over what the current frame calls; `instruction` goes to the next (previous) station of any kind */
  | { readonly kind: 'next' | 'stepBack'; readonly granularity?: 'statement' | 'instruction' }
  | { readonly kind: 'event'; readonly index: number }
  | { readonly kind: 'tick'; readonly tick: number }
  /** to the next or the previous time that this line is about to run */
  | { readonly kind: 'line'; readonly line: number; readonly direction: 'forward' | 'backward' };

export type StopReason =
  | 'entry'
  | 'step'
  | 'goto'
  | 'pause'
  | 'breakpoint'
  | 'function breakpoint'
  | 'data breakpoint'
  | 'exception'
  /** the run is over; it can still be inspected and gone back in */
  | 'end';

export interface Stop {
  readonly reason: StopReason;
  readonly vcpu: number;
  /** one line for the user: `EPT violation at gpa 0x10000000 (write)` */
  readonly description: string;
  readonly breakpointIds: readonly number[];
  /** exception filter that stopped */
  readonly filter: string | null;
  /** index of the event that stopped, or of the last event before */
  readonly event: number | null;
  readonly why: WhyRecord | null;
}

export interface RunReport {
  /** messages of logpoints, failed expectations, traced events: as they come */
  output(text: string, category: 'console' | 'stdout' | 'stderr', line: number | null): void;
  /** now and then during a long run */
  progress?(position: Position): void;
}

// ---- breakpoints -------------------------------------------------------------------------------------------------

export interface BreakpointOptions {
  readonly condition?: string;
  readonly hitCondition?: string;
  readonly logMessage?: string;
}

export interface LineBreakpoint extends BreakpointOptions {
  readonly line: number;
}

export interface FunctionBreakpoint extends BreakpointOptions {
  readonly name: string;
}

export interface ExceptionFilter extends BreakpointOptions {
  readonly filter: string;
}

export interface DataBreakpoint extends BreakpointOptions {
  /** as {@link Target.dataBreakpointInfo} gave it */
  readonly dataId: string;
}

/** What became of a breakpoint that was asked for. */
export interface BreakpointResult {
  readonly id: number;
  readonly verified: boolean;
  readonly line?: number;
  /** why it is not verified, or what is special about it */
  readonly message?: string;
}

export interface ExceptionFilterInfo {
  readonly filter: string;
  readonly label: string;
  readonly description: string;
  readonly default: boolean;
  /** shown in the condition's input box */
  readonly conditionHelp: string;
}

export interface DataBreakpointInfo {
  readonly dataId: string | null;
  readonly description: string;
}

// ---- the target --------------------------------------------------------------------------------------------------

/** Result of an expression of the debug console. */
export interface EvaluateResult {
  readonly node: TreeNode;
}

export interface Completion {
  readonly label: string;
  /** text to insert, if it is not the label */
  readonly text?: string;
  readonly detail?: string;
  readonly kind: 'keyword' | 'property' | 'variable' | 'function' | 'value';
}

export interface Target {
  readonly info: TargetInfo;
  readonly source: SourceText | null;

  // position
  readonly position: Position;
  readonly running: boolean;
  readonly ended: boolean;
  /** an expectation was not met on the way here */
  readonly failed: boolean;
  /** why the run stands where it stands; null before the first run */
  readonly lastStop: Stop | null;

  // running; at most one at a time
  run(motion: Motion, vcpu: number, report: RunReport): Promise<Stop>;
  /** Kinds of event that runs report as output from now on; `all` for every one. */
  trace(kinds: readonly string[]): void;
  /** Makes a run in progress stop as soon as it can; the run's promise then resolves. */
  pause(): void;
  /** Back to the very beginning, with all breakpoints kept. */
  restart(): Promise<void>;
  dispose(): void;

  // breakpoints: each call replaces those of its kind
  readonly exceptionFilters: readonly ExceptionFilterInfo[];
  setLineBreakpoints(breakpoints: readonly LineBreakpoint[]): BreakpointResult[];
  setFunctionBreakpoints(breakpoints: readonly FunctionBreakpoint[]): BreakpointResult[];
  setExceptionBreakpoints(filters: readonly ExceptionFilter[]): BreakpointResult[];
  setDataBreakpoints(breakpoints: readonly DataBreakpoint[]): BreakpointResult[];
  dataBreakpointInfo(expression: string, vcpu: number, bytes?: number): DataBreakpointInfo;
  /** lines (1-based) that breakpoints can sit on, within the range given */
  breakpointLines(from: number, to: number): number[];

  // vCPUs and their stacks
  vcpus(): Vcpu[];
  /** innermost first; never empty for a vCPU that exists */
  frames(vcpu: number): Frame[];
  /** state of the whole machine as seen from a frame */
  scopes(vcpu: number, frame: Frame): Scope[];

  // state
  /** @param kernel read the words by another kernel's tables */
  mmus(vcpu: number, kernel?: string): MmuState[];
  registers(vcpu: number): RegisterState[];
  memslots(): { slots: MemslotState[]; generations: { asId: number; generation: bigint }[] };
  tableRoots(vcpu: number): TableRoot[];
  /** @throws TargetError if the root or the path does not exist */
  table(vcpu: number, root: string, path: readonly number[]): TablePage;
  /** Path to the lowest table (not below `level`) that leads to an address: a gva in guest tables, a gpa in others. */
  tablePath(vcpu: number, root: string, address: bigint, level?: number): number[];
  walk(request: WalkRequest): WhyRecord;
  /** An entry that a walk read, in words. */
  describeStep(step: WalkStep): { readonly levelName: string; readonly summary: string };
  /** The codes that a verdict delivered (error code, exit qualification), decoded. */
  verdictCodes(why: WhyRecord): readonly { readonly name: string; readonly decoded: Decoded }[];
  /** Names the words in events by the source's kernel and vendor. */
  readonly words: WordReader | undefined;

  readMemory(ref: MemoryRef, count: number): MemoryRead;
  /** @returns bytes written before a hole; all of them as a rule */
  writeMemory(ref: MemoryRef, data: Uint8Array): number;

  /** events known so far, also of times after the present position that have been seen */
  readonly eventCount: number;
  events(start: number, count: number): Promise<EventEntry[]>;

  // the debug console
  evaluate(
    expression: string,
    vcpu: number,
    frame: Frame | null,
    context: 'repl' | 'watch' | 'hover' | 'clipboard',
  ): EvaluateResult;
  completions(text: string, column: number, vcpu: number): Completion[];
}
