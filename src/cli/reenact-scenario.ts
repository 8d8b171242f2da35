/**
 * Turns a probe run into a .mmu scenario: what the host set up and did, and what the guest was told to do. What the run *returned*
 * appears only in `expect` lines. The text is meant to be read: each block says what it is.
 */
import { emulatorOf, machineLines } from './reenact-config';
import { addSlot, backings, frames, memory, pageTables, vcpus } from './reenact-setup';
import type { ProbeRun } from './reenact-state';
import { Replay, writeStep } from './reenact-steps';
import { Writer } from './reenact-writer';

/** The generated text, and where in it each step of the probe is. */
export interface GeneratedScenario {
  text: string;
  /** first and last line (from 1) of each step number */
  lines: Map<number, [number, number]>;
}

/**
 * Writes the scenario of a run.
 * @param source name of the state file, for the head comment and for what only the name says (configuration)
 */
export function generateScenario(run: ProbeRun, source: string): GeneratedScenario {
  const w = new Writer();
  head(w, run, source);
  backings(w, run);
  frames(w, run);
  w.comment('memslots, in the order in which user space added them');
  for (const s of run.initial.memslots) w.line(addSlot(s));
  memory(w, run);
  pageTables(w, run);
  vcpus(w, run);
  const state = new Replay(run);
  for (const step of run.steps) {
    writeStep(w, run, step, state);
    state.advance(step);
  }
  return { text: `${w.out.join('\n')}\n`, lines: w.lines };
}

function head(w: Writer, run: ProbeRun, source: string): void {
  w.comment(`${run.scenario}: what kvmprobe did on kernel ${run.kernel}, generated from ${source}.`);
  w.comment(
    `A real kvm_${run.vendor} ran these steps on ${emulatorOf(run).title}; the expect lines are what it returned.`,
  );
  w.comment('Compare the events, too: npm run reenact -- the same state file.');
  w.line();
  w.line('machine {');
  for (const l of machineLines(run, source)) w.line(`  ${l}`);
  w.line('}');
  w.line();
}
