/**
 * Differences that have a cause in the kernel or in the emulated processor, not in the simulator. Each is described in
 * docs/differences.md; the predicate must be so narrow that a defect of the simulator cannot hide behind it.
 */
import type { Difference } from './reenact-compare';
import type { ProbeRun, ProbeStep } from './reenact-state';

/** Where a difference was found. */
export interface Place {
  run: ProbeRun;
  /** stable release or uname */
  kernel: string;
  step: ProbeStep | null;
}

export interface Explanation {
  readonly id: string;
  /** anchor in docs/differences.md */
  readonly anchor: string;
  /** one line for the report */
  readonly text: string;
  readonly applies: (d: Difference, at: Place) => boolean;
}

export const EXPLANATIONS: readonly Explanation[] = [];

/** The explanation of a difference, or null. */
export function explain(d: Difference, at: Place): Explanation | null {
  return EXPLANATIONS.find((e) => e.applies(d, at)) ?? null;
}
