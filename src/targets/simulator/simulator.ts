/** The simulator as a target: a scenario that runs on a simulated machine, in both directions of time. */
import type { PhysMemory } from '../../hw/memory';
import type { WalkStep, WhyRecord } from '../../hw/why';
import { auditMachine } from '../../kvm/audit';
import { is_guest_mode, is_smm, INVALID_PAGE, type KvmVcpu } from '../../kvm/kvm_host';
import type { KvmEvent } from '../../kvm/events';
import type { Machine } from '../../kvm/machine';
import type { ScenarioProgram } from '../../scenario/program';
import { formatHex, formatSize } from '../../words/address';
import type { Decoded } from '../../words/word';
import { eventText, type WordReader } from '../event-info';
import { FILTERS } from '../filters';
import { Lexicon } from '../lexicon';
import { leaf, struct } from '../nodes';
import {
  type BreakpointResult,
  type Completion,
  type DataBreakpoint,
  type DataBreakpointInfo,
  type EvaluateResult,
  type EventEntry,
  type ExceptionFilter,
  formatMemoryReference,
  type Frame,
  type FunctionBreakpoint,
  type LineBreakpoint,
  type MemoryRead,
  type MemoryRef,
  type MmuState,
  type Motion,
  parseMemoryReference,
  type Position,
  type RegisterState,
  type RunReport,
  type Scope,
  type SourceText,
  type Stop,
  type TablePage,
  type TableRoot,
  type Target,
  TargetError,
  type TargetInfo,
  type TreeNode,
  type Vcpu,
  type WalkRequest,
} from '../target';
import { Breakpoints, type WatchedBytes } from './breakpoints';
import { stateNames } from './conditions';
import { completions, type ConsoleHost, evaluate } from './console';
import { controlFieldsNode } from './control-fields';
import { activeStack, idleStack } from './frames';
import { addressSpaceOf } from './guest-memory';
import { checkSpace, readMemory, writeMemory } from './memory';
import { mmuNode, mmuStates } from './mmus';
import type { Failure } from './program';
import { modeText, registersNode, registerStates } from './registers';
import { RunControl } from './run-control';
import { ScenarioRun } from './scenario-program';
import { memslotsNode, mmioCacheNode, slotStates } from './slots';
import { shadowPagesNode, tableAccess, type Tables, tableScopes } from './table-nodes';
import { tablePage, tablePath, tableRoots } from './tables';
import { Timeline } from './timeline';
import { tlbNode } from './tlb-nodes';
import { describeStep, verdictCodes, walk } from './walks';
import { whyNode } from './why-nodes';

/** Largest range that one data breakpoint watches, in bytes. */
const MAX_WATCH = 4096;

export class Simulator implements Target {
  readonly info: TargetInfo;
  readonly source: SourceText;
  readonly exceptionFilters = FILTERS;
  readonly words: WordReader;
  private readonly scenario: ScenarioRun;
  private readonly timeline: Timeline;
  private readonly control: RunControl;
  private readonly breakpoints: Breakpoints;
  private readonly lexicon: Lexicon;
  private readonly consoleHost: ConsoleHost;
  /** host memory at the stop before the present one: what has changed since is marked */
  private before: PhysMemory | null = null;

  constructor(program: ScenarioProgram, source: SourceText) {
    this.source = source;
    this.scenario = new ScenarioRun(program);
    const { config, caps, spte, cpu } = this.machine;
    const kernel = caps.kernel.name;
    this.info = {
      kind: 'simulator',
      title: source.name,
      kernel,
      vendor: config.vendor,
      paging: config.paging,
      maxphyaddr: config.maxphyaddr,
      features: {
        run: true,
        past: true,
        functionBreakpoints: true,
        dataBreakpoints: true,
        writeMemory: true,
        setVariable: true,
      },
      lacks: [],
    };
    this.lexicon = new Lexicon({
      kernel,
      vendor: config.vendor,
      paging: config.paging,
      guestPhysBits: cpu.maxphyaddr,
      sptes: spte.layout,
    });
    this.words = this.lexicon;
    const names = stateNames(() => this.machine, kernel);
    this.breakpoints = new Breakpoints(names, kernel);
    this.timeline = new Timeline(this.scenario);
    this.timeline.memoKeys = memoKeys;
    this.control = new RunControl(this.timeline, this.breakpoints);
    this.control.describe = (event) => eventText(event, this.lexicon);
    this.consoleHost = this.makeConsoleHost();
  }

  /** The machine of the present position. */
  get machine(): Machine {
    return this.scenario.machine;
  }

  // ---- position and running --------------------------------------------------------------------------------------

  get position(): Position {
    const { statement } = this.timeline;
    return { ...this.timeline.position, line: statement?.line ?? null, statement: statement?.text ?? null };
  }
  get running(): boolean {
    return this.timeline.running;
  }
  get ended(): boolean {
    return this.timeline.ended;
  }
  get failed(): boolean {
    return this.timeline.failures.length > 0;
  }
  /** Expectations known not to be met, in the order of the run. */
  get failures(): readonly Failure[] {
    return this.timeline.failures;
  }
  get lastStop(): Stop | null {
    return this.control.lastStop;
  }

  async run(motion: Motion, _vcpu: number, report: RunReport): Promise<Stop> {
    // Before the first stop nothing has been seen, so nothing counts as changed.
    const before = this.control.lastStop ? this.machine.mem.fork() : null;
    const stop = await this.control.run(motion, report);
    this.before?.release();
    this.before = before;
    return stop;
  }

  trace(kinds: readonly string[]): void {
    this.control.traced = new Set(kinds);
  }

  pause(): void {
    this.timeline.pause();
  }

  async restart(): Promise<void> {
    await this.timeline.to(0);
  }

  dispose(): void {
    this.timeline.pause();
  }

  // ---- breakpoints -----------------------------------------------------------------------------------------------

  setLineBreakpoints(breakpoints: readonly LineBreakpoint[]): BreakpointResult[] {
    return this.breakpoints.setLines(breakpoints, this.scenario.program.executableLines);
  }
  setFunctionBreakpoints(breakpoints: readonly FunctionBreakpoint[]): BreakpointResult[] {
    return this.breakpoints.setFunctions(breakpoints);
  }
  setExceptionBreakpoints(filters: readonly ExceptionFilter[]): BreakpointResult[] {
    return this.breakpoints.setFilters(filters);
  }

  setDataBreakpoints(breakpoints: readonly DataBreakpoint[]): BreakpointResult[] {
    return this.breakpoints.setData(breakpoints.map((b) => ({ ...b, bytes: this.watched(b.dataId) })));
  }

  dataBreakpointInfo(expression: string, vcpu: number, bytes?: number): DataBreakpointInfo {
    const refuse = (description: string): DataBreakpointInfo => ({ dataId: null, description });
    let reference = expression;
    if (!/^(gpa|hpa|gva)\b.*:|^(0x)?[0-9a-f]+$/i.test(expression)) {
      const node = this.tryEvaluate(expression, vcpu);
      if (!node?.memoryReference) return refuse(`'${expression}' has no address: give gpa:0x…, hpa:0x… or gva@0:0x…`);
      reference = node.memoryReference;
    }
    try {
      const ref = parseMemoryReference(reference, vcpu);
      const dataId = `${formatMemoryReference(ref)}/${bytes ?? 8}`;
      const watched = this.watched(dataId);
      return typeof watched === 'string'
        ? refuse(watched)
        : { dataId, description: `${watched.title} (stops when it changes)` };
    } catch (error) {
      return refuse((error as Error).message);
    }
  }

  /** The bytes of a data breakpoint, or a sentence why there are none. */
  private watched(dataId: string): WatchedBytes | string {
    const m = /^(.*)\/(\d{1,6})$/.exec(dataId);
    const count = m ? Number(m[2]) : 0;
    if (!m || count < 1 || count > MAX_WATCH) return `a data breakpoint watches 1 to ${MAX_WATCH} bytes`;
    const ref = parseMemoryReference(m[1]);
    const read = (): Uint8Array | null => {
      const { data, unreadable } = readMemory(this.machine, ref, count);
      return unreadable ? null : data;
    };
    return { title: `${count} byte${count === 1 ? '' : 's'} at ${formatMemoryReference(ref)}`, read };
  }

  private tryEvaluate(expression: string, vcpu: number): TreeNode | null {
    try {
      return evaluate(this.consoleHost, expression, vcpu, null, 'watch');
    } catch {
      return null;
    }
  }

  breakpointLines(from: number, to: number): number[] {
    return this.scenario.program.executableLines.filter((line) => line >= from && line <= to);
  }

  // ---- vCPUs, frames, variables ----------------------------------------------------------------------------------

  vcpus(): Vcpu[] {
    const list = this.machine.vcpus.map((vcpu, index): Vcpu => {
      const smm = is_smm(vcpu);
      const l2 = is_guest_mode(vcpu);
      const notes = [smm ? 'SMM' : '', l2 ? 'L2' : ''].filter(Boolean);
      return {
        index,
        name: `vCPU ${index}${notes.length ? ` (${notes.join(', ')})` : ''}`,
        smm,
        guestMode: l2,
        rip: vcpu.regs.ripKnown ? vcpu.regs.rip : null,
        cr3: vcpu.regs.cr3,
        rootHpa: vcpu.mmu.root.hpa === INVALID_PAGE ? null : BigInt(vcpu.mmu.root.hpa),
        mode: modeText(vcpu.regs),
      };
    });
    if (list.length > 0) return list;
    return [
      {
        index: 0,
        name: 'no vCPU yet',
        smm: null,
        guestMode: null,
        rip: null,
        cr3: null,
        rootHpa: null,
        mode: 'not created',
      },
    ];
  }

  frames(vcpu: number): Frame[] {
    const { statement, frames } = this.timeline;
    if (this.machine.vcpus.length > 1 && vcpu !== this.control.activeVcpu()) return idleStack(statement);
    return activeStack({
      frames,
      statement,
      reading: this.control.reading,
      lexicon: this.lexicon,
      describe: this.describer(vcpu),
    });
  }

  scopes(index: number, frame: Frame): Scope[] {
    const local: Scope[] = frame.locals
      ? [{ name: 'Locals', expensive: false, presentation: 'locals', root: frame.locals }]
      : [];
    const m = this.machine;
    const vcpu = m.vcpus[index];
    const memslots: Scope = { name: 'Memslots', expensive: false, root: memslotsNode(m) };
    if (!vcpu) return [...local, memslots];
    const why = this.lastWhy(index);
    const fields = controlFieldsNode(m, vcpu, this.lastExit(index));
    return [
      ...local,
      { name: 'Registers', expensive: false, presentation: 'registers', root: this.registersScope(index) },
      { name: 'MMU', expensive: false, root: this.mmuScope(vcpu) },
      ...tableScopes(m, vcpu, this.lexicon, this.tables(vcpu)).map((s) => ({
        ...s,
        expensive: false,
      })),
      // Comparing every entry with the tables is work that a view must not do unasked at each stop.
      { name: 'TLB', expensive: true, root: tlbNode(m, vcpu) },
      { name: fields.name, expensive: false, root: fields.root },
      memslots,
      { name: 'Shadow pages', expensive: false, root: shadowPagesNode(m, this.lexicon) },
      ...(why ? [{ name: 'Why', expensive: false, root: whyNode('Why', why, this.describer(index)) }] : []),
    ];
  }

  private tables(vcpu: KvmVcpu): Tables {
    return tableAccess(this.machine, vcpu, this.lexicon, this.before, (page, entry, value) => {
      const data = new DataView(new ArrayBuffer(page.entrySize));
      if (page.entrySize === 8) data.setBigUint64(0, value, true);
      else data.setUint32(0, Number(value), true);
      const space =
        page.root.space === 'hpa' ? ({ kind: 'hpa' } as const) : ({ kind: 'gpa', asId: page.root.asId ?? 0 } as const);
      this.writeMemory({ space, address: entry.address }, new Uint8Array(data.buffer));
    });
  }

  private mmuScope(vcpu: KvmVcpu): TreeNode {
    const { kernel } = this.lexicon.options;
    const used = [vcpu.root_mmu, vcpu.guest_mmu, vcpu.nested_mmu].filter(
      (mmu) => mmu === vcpu.root_mmu || mmu === vcpu.mmu || mmu === vcpu.walk_mmu,
    );
    return struct('MMU', '', () => [
      ...used.map((mmu) => mmuNode(vcpu, mmu, kernel)),
      mmioCacheNode(this.machine, vcpu, this.lexicon),
      vcpuNode(vcpu),
    ]);
  }

  private registersScope(index: number): TreeNode {
    return registersNode(
      () => this.machine,
      index,
      (set) => {
        if (this.timeline.midway) {
          throw new TargetError(
            'registers can be set between two statements, as KVM_SET_SREGS does: step to the next statement first',
          );
        }
        this.timeline.patch(() => this.silently((m) => m.setRegs(m.vcpus[index], set)));
      },
    );
  }

  /** Does something to the machine of which nobody is told. */
  private silently(action: (m: Machine) => void): void {
    const m = this.machine;
    const { observer } = m;
    m.observer = null;
    try {
      action(m);
    } finally {
      m.observer = observer;
    }
  }

  private describer(index: number): (step: WalkStep) => { levelName: string; summary: string } {
    const m = this.machine;
    const vcpu = m.vcpus[index] ?? m.vcpus[0];
    return (step) => describeStep(m, vcpu, this.lexicon, step);
  }

  private lastWhy(vcpu: number): WhyRecord | null {
    const event = this.timeline.lastOf(`why/${vcpu}`);
    return event && 'why' in event ? event.why : null;
  }

  private lastExit(vcpu: number): { exit: KvmEvent | null; fault: KvmEvent | null } {
    return { exit: this.timeline.lastOf(`exit/${vcpu}`), fault: this.timeline.lastOf(`fault/${vcpu}`) };
  }

  // ---- state -----------------------------------------------------------------------------------------------------

  mmus(vcpu: number, kernel = this.lexicon.options.kernel): MmuState[] {
    return mmuStates(this.vcpu(vcpu), kernel);
  }
  registers(vcpu: number): RegisterState[] {
    return registerStates(this.machine, this.vcpu(vcpu));
  }
  memslots(): ReturnType<Target['memslots']> {
    const generations = this.machine.kvm.memslots.map((set) => ({
      asId: set.as_id,
      generation: BigInt(set.generation),
    }));
    return { slots: slotStates(this.machine), generations };
  }
  tableRoots(vcpu: number): TableRoot[] {
    return tableRoots(this.machine, this.vcpu(vcpu), this.lexicon);
  }
  table(vcpu: number, root: string, path: readonly number[]): TablePage {
    return tablePage(this.machine, this.vcpu(vcpu), this.lexicon, root, path, this.before);
  }
  tablePath(vcpu: number, root: string, address: bigint, level?: number): number[] {
    return tablePath(this.machine, this.vcpu(vcpu), this.lexicon, root, address, level);
  }
  walk(request: WalkRequest): WhyRecord {
    return walk(this.machine, request);
  }
  describeStep(step: WalkStep): { levelName: string; summary: string } {
    return this.describer(this.control.activeVcpu())(step);
  }
  verdictCodes(why: WhyRecord): { name: string; decoded: Decoded }[] {
    return verdictCodes(why);
  }

  private vcpu(index: number): KvmVcpu {
    const vcpu = this.machine.vcpus[index];
    if (!vcpu) throw new TargetError('the scenario has not created a vCPU yet: run its vcpu statement first');
    return vcpu;
  }

  readMemory(ref: MemoryRef, count: number): MemoryRead {
    return readMemory(this.machine, ref, count);
  }

  writeMemory(ref: MemoryRef, data: Uint8Array): number {
    checkSpace(this.machine, ref.space);
    const bytes = data.slice();
    let written = 0;
    this.timeline.patch(() => this.silently((m) => (written = writeMemory(m, ref, bytes))));
    return written;
  }

  get eventCount(): number {
    return this.timeline.knownEvents;
  }
  events(start: number, count: number): Promise<EventEntry[]> {
    return this.timeline.events(start, count);
  }

  // ---- the debug console -----------------------------------------------------------------------------------------

  evaluate(
    expression: string,
    vcpu: number,
    frame: Frame | null,
    context: 'repl' | 'watch' | 'hover' | 'clipboard',
  ): EvaluateResult {
    return { node: evaluate(this.consoleHost, expression, vcpu, frame, context) };
  }
  completions(text: string, column: number, vcpu: number): Completion[] {
    return completions(this.consoleHost, text, column, vcpu);
  }

  private makeConsoleHost(): ConsoleHost {
    const { kernel, vendor, paging } = this.lexicon.options;
    return {
      names: stateNames(() => this.machine, kernel),
      kernel,
      vendor,
      paging,
      hostPhysBits: this.machine.config.maxphyaddr,
      topNodes: (index) => this.topNodes(index),
      walkNode: (request) => whyNode('walk', walk(this.machine, request), this.describer(request.vcpu), true),
      readMemory: (ref, count) => readMemory(this.machine, ref, count),
      slotText: (asId, gpa) => this.slotText(asId, gpa),
      audit: (rules) => auditMachine(this.machine, { rules }),
      addressSpaces: () => this.machine.addressSpaces,
    };
  }

  /** What paths in the console begin with. */
  private topNodes(index: number): TreeNode[] {
    const m = this.machine;
    const vcpu = m.vcpus[index];
    const slots = memslotsNode(m);
    const memslots = struct('memslots', `${m.kvm.memslots.length} address spaces`, () =>
      (slots.children?.() ?? []).map((node, as) => ({ ...node, name: `[${as}]` })),
    );
    if (!vcpu) return [memslots];
    const { kernel } = this.lexicon.options;
    const words = mmuNode(vcpu, vcpu.mmu, kernel).children?.() ?? [];
    const fields = controlFieldsNode(m, vcpu, this.lastExit(index));
    return [
      ...(this.registersScope(index).children?.() ?? []),
      ...[vcpu.root_mmu, vcpu.guest_mmu, vcpu.nested_mmu].map((mmu) => mmuNode(vcpu, mmu, kernel)),
      ...words.filter((w) => /role$/.test(w.name)),
      { ...mmioCacheNode(m, vcpu, this.lexicon), name: 'mmio_cache' },
      { ...fields.root, name: fields.name.toLowerCase() },
      { ...vcpuNode(vcpu), name: 'vcpu' },
      memslots,
    ];
  }

  private slotText(asId: number, gpa: bigint): string {
    const slot = this.machine.slotAt(asId, Number(gpa >> 12n));
    if (!slot) return `no memslot of address space ${asId}: an access is MMIO`;
    const flags = slotStates(this.machine).find((s) => s.asId === asId && s.id === slot.id)?.flags ?? [];
    return `memslot ${slot.id} of address space ${asId}, gpa ${formatHex(slot.base_gfn * 4096)} ${formatSize(slot.npages * 4096)}${flags.length ? ` ${flags.join('|')}` : ''}`;
  }
}

/** Events whose last occurrence the views show: exits, second-stage faults, and what carries a why-record. */
function memoKeys(event: KvmEvent): string[] {
  if (event.kind === 'kvm_exit') return [`exit/${event.vcpu}`];
  const keys: string[] = [];
  if ('why' in event && event.why) keys.push(`why/${event.vcpu}`);
  if ('gpa' in event && 'code' in event) keys.push(`fault/${event.vcpu}`);
  return keys;
}

/** State of struct kvm_vcpu outside its MMUs. */
function vcpuNode(vcpu: KvmVcpu): TreeNode {
  return struct('vcpu->arch', is_smm(vcpu) ? 'in SMM' : '', () => [
    leaf('smm', `${is_smm(vcpu)}`, { type: 'HF_SMM_MASK' }),
    leaf('as_id', `${addressSpaceOf(vcpu)}`, { type: 'address space of its accesses' }),
    leaf('guest_mode', `${is_guest_mode(vcpu)}`, { type: 'HF_GUEST_MASK: runs L2' }),
    leaf('smbase', formatHex(vcpu.smbase)),
    leaf('smi_pending', `${vcpu.smi_pending}`),
    leaf('requests', [...vcpu.requests].map((r) => `KVM_REQ_${r}`).join(' ') || 'none'),
    leaf(
      'exception',
      vcpu.exception
        ? `vector ${vcpu.exception.vector}${vcpu.exception.errorCode === null ? '' : ` error ${formatHex(vcpu.exception.errorCode)}`}`
        : 'none',
    ),
    leaf('halted', `${vcpu.halted}`),
    struct('stat', '', () => Object.entries(vcpu.stat).map(([name, n]) => leaf(name, `${n}`))),
  ]);
}
