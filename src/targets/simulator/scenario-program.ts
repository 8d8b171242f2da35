/** The scenario interpreter as a program of the time line. */
import { Machine, type MachineState } from '../../kvm/machine';
import type { Observer } from '../../kvm/observer';
import { Interpreter, type InterpreterState, RUN_SLICE } from '../../scenario/interpreter';
import type { ScenarioProgram } from '../../scenario/program';
import type { Failure, Program, Statement } from './program';

interface Saved {
  readonly interpreter: InterpreterState;
  readonly machine: MachineState;
}

export class ScenarioRun implements Program {
  private readonly interpreter: Interpreter;
  private listener: Observer | null = null;

  constructor(readonly program: ScenarioProgram) {
    this.interpreter = new Interpreter(program);
  }

  /** The machine of now; another one after {@link restore}. */
  get machine(): Machine {
    return this.interpreter.machine;
  }

  get next(): Statement | null {
    return this.interpreter.next()?.statement ?? null;
  }

  get observer(): Observer | null {
    return this.listener;
  }

  set observer(observer: Observer | null) {
    this.listener = observer;
    this.machine.observer = observer;
  }

  step(): readonly Failure[] | null {
    const { expect, error, statement, complete } = this.interpreter.step(RUN_SLICE);
    if (!complete) return null;
    const failures: Failure[] = [];
    if (expect && !expect.ok)
      failures.push({ line: expect.line, text: `${oneLine(expect.text)}: found ${expect.actual}` });
    if (error !== null) failures.push({ line: statement.line, text: `${oneLine(statement.text)}: ${error}` });
    return failures;
  }

  save(): Saved {
    return { interpreter: this.interpreter.snapshot(), machine: this.machine.snapshot() };
  }

  restore(saved: unknown): void {
    const { interpreter, machine } = saved as Saved;
    this.interpreter.machine = Machine.fromSnapshot(machine);
    this.interpreter.restore(interpreter);
    this.machine.observer = this.listener;
  }
}

const oneLine = (text: string): string => text.split('\n', 1)[0].trim();
