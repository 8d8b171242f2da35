/** The simulator as a target: a scenario that runs on a simulated machine, in both directions of time. */
import type { PhysMemory } from '../../hw/memory';
import type { WalkStep, WhyRecord } from '../../hw/why';
import { auditMachine } from '../../kvm/audit';
import type { KvmVcpu } from '../../kvm/kvm_host';
import type { Machine, RegisterSet } from '../../kvm/machine';
import type { ScenarioProgram } from '../../scenario/program';
import { formatHex, formatSize } from '../../words/address';
import type { Decoded } from '../../words/word';
import { eventText, type WordReader } from '../event-info';
import { FILTERS } from '../filters';
import { Lexicon } from '../lexicon';
import {
  type BreakpointResult,
  type Completion,
  type DataBreakpoint,
  type DataBreakpointInfo,
  type EvaluateResult,
  type EventEntry,
  type ExceptionFilter,
  type Frame,
  type FunctionBreakpoint,
  type LineBreakpoint,
  type MemoryRead,
  type MemoryRef,
  type MmuState,
  type Motion,
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
  type Vcpu,
  type WalkRequest,
} from '../target';
import { Breakpoints } from './breakpoints';
import { stateNames } from './conditions';
import { completions, type ConsoleHost, evaluate } from './console';
import { dataBreakpointInfo, watchedBytes } from './data-breakpoints';
import { activeStack, idleStack } from './frames';
import { checkSpace, readMemory, writeMemory } from './memory';
import { mmuStates } from './mmus';
import type { Failure } from './program';
import { registerStates } from './registers';
import { RunControl } from './run-control';
import { ScenarioRun } from './scenario-program';
import { describer, memoKeys, type ScopeHost, scopes, topNodes } from './scopes';
import { slotStates } from './slots';
import { tablePage, tablePath, tableRoots } from './tables';
import { Timeline } from './timeline';
import { vcpuList } from './vcpu-nodes';
import { verdictCodes, walk } from './walks';
import { whyNode } from './why-nodes';

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
  private readonly scopeHost: ScopeHost;
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
    this.scopeHost = this.makeScopeHost();
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
    return this.breakpoints.setData(
      breakpoints.map((b) => ({ ...b, bytes: watchedBytes(() => this.machine, b.dataId) })),
    );
  }

  dataBreakpointInfo(expression: string, vcpu: number, bytes?: number): DataBreakpointInfo {
    return dataBreakpointInfo(() => this.machine, this.consoleHost, expression, vcpu, bytes);
  }

  breakpointLines(from: number, to: number): number[] {
    return this.scenario.program.executableLines.filter((line) => line >= from && line <= to);
  }

  // ---- vCPUs, frames, variables ----------------------------------------------------------------------------------

  vcpus(): Vcpu[] {
    return vcpuList(this.machine);
  }

  frames(vcpu: number): Frame[] {
    const { statement, frames } = this.timeline;
    if (this.machine.vcpus.length > 1 && vcpu !== this.control.activeVcpu()) return idleStack(statement);
    return activeStack({
      frames,
      statement,
      reading: this.control.reading,
      lexicon: this.lexicon,
      describe: describer(this.scopeHost, vcpu),
    });
  }

  scopes(index: number, frame: Frame): Scope[] {
    return scopes(this.scopeHost, index, frame);
  }

  /** @throws TargetError in the midst of a statement */
  private setRegisters(index: number, set: RegisterSet): void {
    if (this.timeline.midway) {
      throw new TargetError(
        'registers can be set between two statements, as KVM_SET_SREGS does: step to the next statement first',
      );
    }
    this.timeline.patch(() => this.silently((m) => m.setRegs(m.vcpus[index], set)));
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
    return describer(this.scopeHost, this.control.activeVcpu())(step);
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

  private makeScopeHost(): ScopeHost {
    const machine = (): Machine => this.machine;
    const before = (): PhysMemory | null => this.before;
    return {
      get machine() {
        return machine();
      },
      get before() {
        return before();
      },
      lexicon: this.lexicon,
      lastOf: (key) => this.timeline.lastOf(key),
      setRegisters: (index, set) => this.setRegisters(index, set),
      writeMemory: (ref, data) => this.writeMemory(ref, data),
    };
  }

  private makeConsoleHost(): ConsoleHost {
    const { kernel, vendor, paging } = this.lexicon.options;
    return {
      names: stateNames(() => this.machine, kernel),
      kernel,
      vendor,
      paging,
      hostPhysBits: this.machine.config.maxphyaddr,
      topNodes: (index) => topNodes(this.scopeHost, index),
      walkNode: (request) =>
        whyNode('walk', walk(this.machine, request), describer(this.scopeHost, request.vcpu), true),
      readMemory: (ref, count) => readMemory(this.machine, ref, count),
      slotText: (asId, gpa) => this.slotText(asId, gpa),
      audit: (rules) => auditMachine(this.machine, { rules }),
      addressSpaces: () => this.machine.addressSpaces,
    };
  }

  private slotText(asId: number, gpa: bigint): string {
    const slot = this.machine.slotAt(asId, Number(gpa >> 12n));
    if (!slot) return `no memslot of address space ${asId}: an access is MMIO`;
    const flags = slotStates(this.machine).find((s) => s.asId === asId && s.id === slot.id)?.flags ?? [];
    return `memslot ${slot.id} of address space ${asId}, gpa ${formatHex(slot.base_gfn * 4096)} ${formatSize(slot.npages * 4096)}${flags.length ? ` ${flags.join('|')}` : ''}`;
  }
}
