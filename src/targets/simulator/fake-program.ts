/** A tiny deterministic program for the tests of the time line: statements that call, read and report. */
import type { WalkStep } from '../../hw/why';
import type { KvmEvent } from '../../kvm/events';
import type { Observer } from '../../kvm/observer';
import type { Failure, Program, Statement } from './program';

interface State {
  pc: number;
  part: number;
  value: number;
}

export interface FakeOptions {
  /** statements; Infinity for an endless program */
  statements: number;
  /** statements (by number) that take several steps */
  parts?: (pc: number) => number;
  /** statements that end with a failed expectation */
  fails?: (pc: number) => boolean;
  lines?: number;
  /** statement that breaks the model */
  breaks?: number;
}

/** Statement n calls `outer`, which reads, calls `inner` n % 3 times, and reports an event. */
export class FakeProgram implements Program {
  observer: Observer | null = null;
  state: State = { pc: 0, part: 0, value: 1 };
  saves = 0;

  constructor(readonly options: FakeOptions) {}

  get next(): Statement | null {
    const { pc } = this.state;
    if (pc >= this.options.statements) return null;
    return { line: (pc % (this.options.lines ?? 1000)) + 1, text: `statement ${pc}`, vcpu: 0 };
  }

  step(): readonly Failure[] | null {
    const { state, observer } = this;
    const parts = this.options.parts?.(state.pc) ?? 1;
    const tick = (): void => void (state.value = (state.value * 1103515245 + 12345) % 2147483648);
    observer?.enter('kvm', 'outer', 0, { pc: state.pc });
    tick();
    observer?.read({ level: 4, value: state.value } as unknown as WalkStep, 0);
    tick();
    for (let i = 0; i < state.pc % 3; i++) {
      observer?.enter('kvm', 'inner', 0, null);
      tick();
      observer?.leave();
      tick();
    }
    if (state.pc === this.options.breaks) throw new Error('the model is broken');
    observer?.event(this.event(state.pc));
    tick();
    observer?.leave();
    if (++state.part < parts) return null;
    const pc = state.pc++;
    state.part = 0;
    return this.options.fails?.(pc) ? [{ line: (this.options.lines ?? 1000) && pc + 1, text: `statement ${pc}` }] : [];
  }

  /** Every tenth statement violates EPT, writing in every twentieth. */
  private event(pc: number): KvmEvent {
    if (pc % 10 !== 9) return { kind: 'kvm_entry', vcpu: 0, rip: BigInt(this.state.value) };
    const access = { gva: null, code: 0n, write: pc % 20 === 19, fetch: false, user: false };
    return { kind: 'ept_violation', vcpu: 0, gpa: BigInt(pc) << 12n, ...access, why: null };
  }

  save(): State {
    this.saves++;
    return { ...this.state };
  }

  restore(saved: unknown): void {
    this.state = { ...(saved as State) };
  }
}
