/**
 * Runs a program on a machine, one statement a step. All of its own state is in {@link InterpreterState}, so that a debugger can save
 * it together with the machine and come back. Deterministic: the same program on the same machine does the same.
 */
import { auditMachine, findingText } from '../kvm/audit';
import { Machine, type IoctlResult, type RunResult } from '../kvm/machine';
import { type ActionResult, execute } from './execute';
import type { Going } from './execute-guest';
import { evaluateClaim, type ExpectResult, type LastAction } from './expectations';
import type { TablePages } from './guest-tables';
import { composeObservers, EventCollector } from './observers';
import type { Op, ScenarioProgram, Statement } from './program';

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
        return this.act(statement, slice);
    }
  }

  /** Executes a statement that does something, with its events collected if an `expect` will ask for them. */
  private act(statement: Statement, slice: number): StepOutcome {
    const { machine } = this;
    const collector = statement.collectsEvents ? new EventCollector() : null;
    const outer = machine.observer;
    const lookups = machine.kvm.memslot_lookups;
    let done: ActionResult;
    if (collector) machine.observer = composeObservers(collector, outer);
    try {
      done = execute(machine, statement, this.state, slice);
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
    const { ioctl, error } = execute(this.machine, statement, this.state);
    return { ioctl: ioctl ?? null, error: error ?? null };
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
