/**
 * What the time line needs of the thing that runs: a deterministic program of statements over a state that can be saved.
 * The scenario interpreter is one (see scenario-program.ts); tests of the time line use a tiny one of their own.
 */
import type { Observer } from '../../kvm/observer';

/** A statement that is about to run. */
export interface Statement {
  /** 1-based line of the source text */
  readonly line: number;
  /** the statement as written */
  readonly text: string;
  /** vCPU that it runs on; -1: user space or a VM ioctl */
  readonly vcpu: number;
}

/** An expectation of the scenario that was not met. */
export interface Failure {
  readonly line: number;
  readonly text: string;
}

export interface Program {
  /** The statement that {@link step} runs next; null when the program is over. */
  readonly next: Statement | null;
  /** Told of everything that happens during {@link step}; may throw StopSignal. */
  observer: Observer | null;
  /**
   * Runs the next statement, or a part of it when it is a long one.
   * @returns null while the statement is not complete, else the expectations that failed in it
   */
  step(): readonly Failure[] | null;
  /** The state between two steps, independent of what happens later. Cheap: shares what did not change. */
  save(): unknown;
  /** Back to a saved state; it may be restored again later. */
  restore(saved: unknown): void;
}
