/**
 * Runs a program on a machine, one statement a step. All of its own state is in {@link InterpreterState}, so that a debugger can save
 * it together with the machine and come back. Deterministic: the same program on the same machine does the same.
 */
import {
  insnFetch,
  insnIn,
  insnInvDescriptor,
  insnInvlpga,
  insnInvlpg,
  insnInvpcid,
  insnLoad,
  insnMovToCr,
  insnOut,
  insnPlain,
  insnRdmsr,
  insnRmw,
  insnStore,
  insnVmcb,
  insnVmptr,
  insnVmread,
  insnVmwrite,
  insnWrmsr,
  insnWrpkru,
  type Insn,
} from '../hw/insn';
import { RFLAGS } from '../hw/regs';
import { auditMachine, findingText } from '../kvm/audit';
import { is_smm, type KvmVcpu } from '../kvm/kvm_host';
import type { KvmEvent } from '../kvm/events';
import { Machine, type IoctlResult, type RunResult } from '../kvm/machine';
import { evaluateClaim, type ExpectResult, type LastAction } from './expectations';
import { readSpte } from './inspect';
import { mapPages, unmapPages, type TablePages } from './guest-tables';
import { composeObservers, EventCollector } from './observers';
import type { GuestInsn, InsnModifiers, Op, ScenarioProgram, Statement } from './program';
import { registerSet } from './registers';

export type { ExpectResult } from './expectations';

/** What one step did. */
export interface StepOutcome {
  readonly statement: Statement;
  /** of an `expect` */
  readonly expect: ExpectResult | null;
  /** of an instruction or a `run` */
  readonly run: RunResult | null;
  /** of a memslot ioctl */
  readonly ioctl: IoctlResult | null;
  /** why user space cannot go on: the scenario ends here; null as a rule */
  readonly error: string | null;
  /** false: the guest's code is not done, the next step goes on with the same statement */
  readonly complete: boolean;
}

/** The part of a `run` that is done. */
interface Going {
  readonly instructions: number;
  readonly exits: RunResult['exits'];
  readonly events: readonly KvmEvent[];
  readonly lookups: number;
}

/** Instructions that a `run` may take where its statement sets no limit: Machine.run's own default. */
const RUN_LIMIT = 100_000;
/** Instructions after which debugger and command line interrupt the guest's code, as a timer of the host would. */
export const RUN_SLICE = 1_000;

/** A `repeat` being run. */
interface Loop {
  /** index of the repeat statement */
  readonly index: number;
  /** rounds begun */
  readonly round: number;
}

/** Everything the interpreter knows beside the program. Immutable: keep it as long as you like. */
export interface InterpreterState {
  /** index of the next statement */
  readonly pc: number;
  readonly loops: readonly Loop[];
  readonly last: LastAction | null;
  readonly tables: TablePages | null;
  /** statements done */
  readonly steps: number;
  /** the `run` statement at `pc` has begun; null as a rule */
  readonly going: Going | null;
}

const START: InterpreterState = { pc: 0, loops: [], last: null, tables: null, steps: 0, going: null };

export class Interpreter {
  readonly program: ScenarioProgram;
  /** the machine that is driven; a debugger puts a restored one here */
  machine: Machine;
  private state: InterpreterState = START;

  /** @param machine defaults to a new one as the program wants it */
  constructor(program: ScenarioProgram, machine: Machine = new Machine(program.machineConfig)) {
    this.program = program;
    this.machine = machine;
  }

  /** The statement that {@link step} executes; null when the program is over. */
  next(): { line: number; statement: Statement } | null {
    const statement = this.program.statements[this.state.pc];
    return statement ? { line: statement.line, statement } : null;
  }

  get done(): boolean {
    return this.state.pc >= this.program.statements.length;
  }

  /** Statements executed so far. */
  get steps(): number {
    return this.state.steps;
  }

  /** Position, loops and last results; not the machine. */
  snapshot(): InterpreterState {
    return this.state;
  }

  /** Back to a saved state; the machine has to be put back as well. */
  restore(state: InterpreterState): void {
    this.state = state;
  }

  /** Back to the beginning on a machine that is as new. */
  restart(machine: Machine = new Machine(this.program.machineConfig)): void {
    this.machine = machine;
    this.state = START;
  }

  /**
   * Executes exactly one statement. What the guest suffers is in the outcome, not an exception. A StopSignal of the observer passes
   * through; state is then that before the statement, and the machine is somewhere inside it.
   * @param slice instructions of a `run` after which to come back, with {@link StepOutcome.complete} false; default: none
   * @throws Error when the program is over
   */
  step(slice = Infinity): StepOutcome {
    const statement = this.program.statements[this.state.pc];
    if (!statement) throw new Error('the scenario is over: there is no statement left to step');
    const { op } = statement;
    const outcome = { statement, expect: null, run: null, ioctl: null, error: null, complete: true };
    switch (op.kind) {
      case 'machine':
      case 'let':
      case 'step':
      case 'note':
        this.advance(this.state.last);
        return outcome;
      case 'audit': {
        // An `expect audit` after it says what must come out; without one all rules have to hold.
        const findings = this.expects(statement, 'audit') ? [] : auditMachine(this.machine).map(findingText);
        if (findings.length === 0) {
          this.advance(this.state.last);
          return outcome;
        }
        this.state = { ...this.state, pc: this.program.statements.length, loops: [], steps: this.state.steps + 1 };
        return { ...outcome, error: findings.join('\n') };
      }
      case 'repeat':
        this.enterLoop(statement, op);
        return outcome;
      case 'expect': {
        const vcpu = this.machine.vcpus[statement.vcpu] ?? null;
        const verdict = evaluateClaim(op.claim, this.machine, vcpu, this.state.last);
        this.advance(this.state.last);
        return { ...outcome, expect: { line: statement.line, text: statement.text, ...verdict } };
      }
      default:
        return this.act(statement, op, slice);
    }
  }

  /** Executes a statement that does something, with its events collected if an `expect` will ask for them. */
  private act(statement: Statement, op: Op, slice: number): StepOutcome {
    const { machine } = this;
    const collector = statement.collectsEvents ? new EventCollector() : null;
    const outer = machine.observer;
    const lookups = machine.kvm.memslot_lookups;
    let done: ActionResult;
    if (collector) machine.observer = composeObservers(collector, outer);
    try {
      done = this.execute(statement, op, slice);
    } finally {
      if (collector) machine.observer = outer;
    }
    const { going } = this.state;
    const events = collector && going ? [...going.events, ...collector.events] : (collector?.events ?? null);
    const searched = (going?.lookups ?? 0) + machine.kvm.memslot_lookups - lookups;
    if (done.going) {
      this.state = { ...this.state, going: { ...done.going, events: events ?? [], lookups: searched } };
      return { statement, expect: null, run: null, ioctl: null, error: null, complete: false };
    }
    const last: LastAction = {
      run: done.run ?? null,
      ioctl: done.ioctl ?? null,
      dirty: done.dirty ?? null,
      subpages: done.subpages ?? null,
      events,
      lookups: searched,
    };
    let error = done.error ?? null;
    if (last.ioctl && last.ioctl.errno !== 0 && !this.expects(statement, 'errno')) error = last.ioctl.text;
    if (last.run?.end === 'error' && !this.expects(statement, 'end')) error = last.run.text || 'KVM_RUN failed';
    if (error === null) this.advance(last, done.tables);
    else
      this.state = {
        ...this.state,
        pc: this.program.statements.length,
        loops: [],
        last,
        steps: this.state.steps + 1,
        going: null,
      };
    return { statement, expect: null, run: last.run, ioctl: last.ioctl, error, complete: true };
  }

  /** Whether one of the `expect`s right after a statement is of this kind. */
  private expects(statement: Statement, kind: 'errno' | 'end' | 'audit'): boolean {
    for (let i = statement.index + 1; i < this.program.statements.length; i++) {
      const { op } = this.program.statements[i];
      if (op.kind === 'expect' && op.claim.kind === kind) return true;
      if (op.kind !== 'expect' && op.kind !== 'note' && op.kind !== 'step') return false;
    }
    return false;
  }

  /** Executes one statement out of turn: position and last results stay. For checks that try statements on a machine of their own. */
  perform(statement: Statement): { readonly ioctl: IoctlResult | null; readonly error: string | null } {
    const { ioctl, error } = this.execute(statement, statement.op);
    return { ioctl: ioctl ?? null, error: error ?? null };
  }

  private execute(statement: Statement, op: Op, slice = Infinity): ActionResult {
    const { machine } = this;
    switch (op.kind) {
      case 'backing':
        return attempt(() =>
          machine.backing(op.name, op.size, { huge: op.huge, readonly: op.readonly, hva: op.hva ?? undefined }),
        );
      case 'frames': {
        const huge = machine.host.find(op.backing)?.huge ?? false;
        return attempt(() => machine.setFrames(op.backing, op.offset, op.pfns, huge ? 512 : 1));
      }
      case 'memslot-add':
      case 'memslot-move':
      case 'memslot-flags':
      case 'memslot-delete':
        return { ioctl: this.memslot(op) };
      case 'invalidate':
        return attempt(() => machine.invalidateBacking(op.host.backing, op.host.offset, op.size));
      case 'dirty-log-get':
        return this.dirtyLogGet(op.as_id, op.id);
      case 'dirty-log-clear':
        return { ioctl: this.dirtyLogClear(op) };
      case 'subpages-set': {
        const { errno, text } = machine.setSubpages(op.gfn, op.access);
        return { ioctl: { errno, text } };
      }
      case 'subpages-get': {
        const { errno, text, access } = machine.getSubpages(op.gfn, op.count);
        return { ioctl: { errno, text }, subpages: errno === 0 ? access : undefined };
      }
      case 'vcpu':
        return attempt(() => {
          const vcpu = machine.addVcpu();
          machine.setRegs(vcpu, registerSet(op.registers, vcpu.regs, true));
        });
      case 'tables':
        return { tables: { as_id: op.as_id, next: op.address } };
      case 'write': {
        if (op.host) {
          const { backing, offset } = op.host;
          return attempt(() => machine.writeBacking(backing, offset, op.bytes));
        }
        const gpa = op.gpa ?? 0;
        return machine.hostWrite(op.as_id, gpa, op.bytes)
          ? {}
          : {
              error: `no memslot of address space ${op.as_id} holds all of gpa 0x${gpa.toString(16)}, ${op.bytes.length} bytes: user space has no memory there`,
            };
      }
      case 'vmcb':
        for (const { at, bytes } of op.writes)
          if (!machine.hostWrite(op.as_id, op.gpa + at, bytes))
            return {
              error: `no memslot of address space ${op.as_id} holds gpa 0x${(op.gpa + at).toString(16)}: user space has no memory there`,
            };
        return {};
      case 'setregs':
      case 'map':
      case 'unmap':
      case 'smi':
      case 'poke':
      case 'insn':
      case 'run': {
        const vcpu = machine.vcpus[statement.vcpu];
        return vcpu ? this.onVcpu(vcpu, op, slice) : { error: `vCPU ${statement.vcpu} does not exist` };
      }
      default:
        return {};
    }
  }

  private onVcpu(
    vcpu: KvmVcpu,
    op: Extract<Op, { kind: 'setregs' | 'map' | 'unmap' | 'smi' | 'poke' | 'insn' | 'run' }>,
    slice: number,
  ): ActionResult {
    const { machine } = this;
    switch (op.kind) {
      case 'setregs':
        machine.setRegs(vcpu, registerSet(op.registers, vcpu.regs, false));
        return {};
      case 'map': {
        if (!this.state.tables) return { error: 'map needs pages for guest page tables: write tables at GPA before' };
        const { pages, error } = mapPages(machine, vcpu.regs, this.state.tables, op);
        return { tables: pages, error };
      }
      case 'unmap':
        return { error: unmapPages(machine, vcpu.regs, this.state.tables ?? { as_id: 0, next: 0 }, op.gva, op.count) };
      case 'smi':
        machine.smi(vcpu);
        return {};
      case 'poke': {
        const r = readSpte(machine, vcpu, op.space, op.address, op.level);
        if (typeof r === 'string') return { error: r };
        machine.mem.writeQ(r.sptep, Number(op.value & 0xffffffffn), Number(op.value >> 32n));
        return {};
      }
      case 'insn':
        return { run: this.runInsns(vcpu, op.insn, op.modifiers) };
      case 'run':
        return this.runCode(vcpu, op, slice);
    }
  }

  /** The guest's own code, as far as a slice reaches. */
  private runCode(vcpu: KvmVcpu, op: Extract<Op, { kind: 'run' }>, slice: number): ActionResult {
    const { machine } = this;
    const { going } = this.state;
    if (!going) {
      const set = registerSet(op.registers, vcpu.regs, false);
      if (op.rip !== null) set.rip = op.rip;
      machine.setRegs(vcpu, set);
      vcpu.regs.ripKnown = true;
    }
    const done = going?.instructions ?? 0;
    const left = (op.limit ?? RUN_LIMIT) - done;
    const instructions = Math.min(left, slice);
    const run = machine.run(vcpu, 'code', { instructions });
    const exits = [...(going?.exits ?? []), ...run.exits];
    if (run.end !== 'limit') return { run: { ...run, exits } };
    const total = done + instructions;
    if (instructions < left) return { going: { instructions: total, exits } };
    return { run: { ...run, exits, text: `the code ran for ${total} instructions without an exit to user space` } };
  }

  /** The instructions of a statement: one, or several VMWRITEs until one does not come to its end. */
  private runInsns(vcpu: KvmVcpu, insn: GuestInsn, m: InsnModifiers): RunResult {
    if (insn.op !== 'vmwrite') return this.runInsn(vcpu, toInsn(insn), m);
    const exits: RunResult['exits'] = [];
    let run: RunResult | null = null;
    for (const { field, value } of insn.writes) {
      run = this.runInsn(vcpu, insnVmwrite(field, value), m);
      exits.push(...run.exits);
      if (run.end !== 'done') break;
    }
    if (!run) throw new Error('a vmwrite without a field');
    return { ...run, exits };
  }

  /** One instruction, with privilege, AC and RIP as its statement asks; they are put back unless the guest changed them meanwhile. */
  private runInsn(vcpu: KvmVcpu, insn: Insn, m: InsnModifiers): RunResult {
    const { machine } = this;
    const { regs } = vcpu;
    const cpl = regs.cpl;
    const smm = is_smm(vcpu);
    const ac = regs.rflags & RFLAGS.AC;
    regs.ripKnown = m.rip !== null;
    if (m.rip !== null) regs.rip = m.rip;
    if (m.ac) regs.rflags |= RFLAGS.AC;
    if (m.user) setCpl(vcpu, 3);
    if (m.user || m.ac) machine.registersChanged(vcpu);
    const result = machine.run(vcpu, insn);
    if (smm === is_smm(vcpu)) {
      if (m.user && regs.cpl === 3) setCpl(vcpu, cpl);
      if (m.ac) regs.rflags = (regs.rflags & ~RFLAGS.AC) | ac;
      if (m.user || m.ac) machine.registersChanged(vcpu);
    }
    return result;
  }

  private memslot(op: Extract<Op, { kind: `memslot-${string}` }>): IoctlResult {
    const { machine } = this;
    const old = machine.kvm.memslots[op.as_id]?.byId(op.id) ?? null;
    const keep = {
      gpa: (old?.base_gfn ?? 0) * 4096,
      size: (old?.npages ?? 0) * 4096,
      hva: old?.userspace_addr ?? 0n,
      flags: old?.flags ?? 0,
    };
    const region = { as_id: op.as_id, id: op.id };
    switch (op.kind) {
      case 'memslot-add': {
        const hva = op.host ? (machine.host.find(op.host.backing)?.hva ?? 0n) + BigInt(op.host.offset) : (op.hva ?? 0n);
        return machine.set_user_memory_region({ ...region, gpa: op.gpa, size: op.size, hva, flags: op.flags });
      }
      case 'memslot-move':
        return machine.set_user_memory_region({ ...region, ...keep, gpa: op.gpa });
      case 'memslot-flags':
        return machine.set_user_memory_region({ ...region, ...keep, flags: op.flags });
      case 'memslot-delete':
        return machine.set_user_memory_region({ ...region, ...keep, size: 0 });
    }
  }

  private dirtyLogGet(as_id: number, id: number): ActionResult {
    const base = this.machine.kvm.memslots[as_id]?.byId(id)?.base_gfn ?? 0;
    const { errno, text, bitmap } = this.machine.getDirtyLog(as_id, id);
    const gfns: number[] = [];
    if (errno === 0)
      for (const [word, bits] of bitmap.entries())
        for (let bit = 0; bit < 32; bit++) if ((bits >>> bit) & 1) gfns.push(base + word * 32 + bit);
    return { ioctl: { errno, text }, dirty: errno === 0 ? gfns : undefined };
  }

  private dirtyLogClear(op: Extract<Op, { kind: 'dirty-log-clear' }>): IoctlResult {
    const slot = this.machine.kvm.memslots[op.as_id]?.byId(op.id);
    const first = op.part ? Math.floor(op.part.gpa / 4096) - (slot?.base_gfn ?? 0) : 0;
    const pages = op.part ? op.part.size / 4096 : (slot?.npages ?? 0);
    return this.machine.clearDirtyLog(
      op.as_id,
      op.id,
      first,
      pages,
      new Uint32Array(Math.ceil(pages / 32)).fill(0xffffffff),
    );
  }

  // ---- position -------------------------------------------------------------------------------------------------------------

  private enterLoop(statement: Statement, op: Extract<Op, { kind: 'repeat' }>): void {
    if (op.count === 0) this.moveTo(op.end, this.state.loops);
    else
      this.state = {
        ...this.state,
        pc: statement.index + 1,
        loops: [...this.state.loops, { index: statement.index, round: 1 }],
        steps: this.state.steps + 1,
      };
  }

  private advance(last: LastAction | null, tables: TablePages | null = this.state.tables): void {
    this.state = { ...this.state, last, tables };
    this.moveTo(this.state.pc + 1, this.state.loops);
  }

  /** Goes to a statement, or back to the top of each `repeat` that ends there and has rounds left. */
  private moveTo(target: number, running: readonly Loop[]): void {
    let pc = target;
    const loops = [...running];
    for (let top = loops.at(-1); top; top = loops.at(-1)) {
      const { op } = this.program.statements[top.index];
      if (op.kind !== 'repeat' || pc !== op.end) break;
      if (op.count === null || top.round < op.count) {
        loops[loops.length - 1] = { index: top.index, round: top.round + 1 };
        pc = top.index + 1;
        break;
      }
      loops.pop();
    }
    this.state = { ...this.state, pc, loops, steps: this.state.steps + 1, going: null };
  }
}

/** What executing an action gave; absent: nothing of the kind. */
interface ActionResult {
  readonly run?: RunResult;
  readonly ioctl?: IoctlResult;
  readonly dirty?: readonly number[];
  readonly subpages?: readonly number[];
  readonly tables?: TablePages;
  /** a `run` that is not done yet */
  readonly going?: Pick<Going, 'instructions' | 'exits'>;
  readonly error?: string | null;
}

/** User space's own mistakes (a mapping that cannot be made) come as errors with a sentence. Never used around the guest. */
export function attempt(f: () => unknown): ActionResult {
  try {
    f();
    return {};
  } catch (e) {
    if (e instanceof Error && e.name === 'Error') return { error: e.message };
    throw e;
  }
}

function setCpl(vcpu: KvmVcpu, cpl: number): void {
  vcpu.regs.cs.dpl = cpl;
  vcpu.regs.ss.dpl = cpl;
}

function toInsn(i: Exclude<GuestInsn, { readonly op: 'vmwrite' }>): Insn {
  switch (i.op) {
    case 'vmxon':
    case 'vmclear':
    case 'vmptrld':
      return insnVmptr(i.op, i.address);
    case 'vmrun':
    case 'vmload':
    case 'vmsave':
      return insnVmcb(i.op, i.address);
    case 'vmread':
      return insnVmread(i.field);
    case 'invept':
    case 'invvpid':
      return insnInvDescriptor(i.op, i.type, i.descriptor);
    case 'invlpga':
      return insnInvlpga(i.address, i.asid);
    case 'load':
      return insnLoad(i.address, i.size);
    case 'store':
      return insnStore(i.address, i.size, i.value);
    case 'rmw':
      return insnRmw(i.address, i.size, i.value);
    case 'fetch':
      return insnFetch(i.address);
    case 'invlpg':
      return insnInvlpg(i.address);
    case 'invpcid':
      return insnInvpcid(i.type, i.pcid, i.address);
    case 'mov':
      return insnMovToCr(i.cr, i.value);
    case 'wrmsr':
      return insnWrmsr(i.msr, i.value);
    case 'rdmsr':
      return insnRdmsr(i.msr);
    case 'wrpkru':
      return insnWrpkru(i.value);
    case 'out':
      return insnOut(i.port, i.value);
    case 'in':
      return insnIn(i.port);
    default:
      return insnPlain(i.op);
  }
}
