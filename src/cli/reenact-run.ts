/**
 * Runs a generated scenario in the simulator and collects, step by step, its events and results in comparable form; then compares
 * them with the kernel's.
 */
import type { KvmEvent } from '../kvm/events';
import type { Observer } from '../kvm/observer';
import { Interpreter, type StepOutcome } from '../scenario/interpreter';
import { parseScenario } from '../scenario/parse';
import { formatDiagnostic, type ScenarioProgram } from '../scenario/program';
import { compareEvents, TableFrames, type Comparison } from './reenact-compare';
import { normaliseSimulated, readEvents, type KernelStep, type NormEvent } from './reenact-events';
import { kernelRelease } from './reenact-layout';
import {
  expectedOutcome,
  OutcomeProbe,
  registersOf,
  simulatedDirty,
  simulatedExitWords,
  simulatedIoctl,
  simulatedRegisters,
} from './reenact-outcome';
import { VMCB_EXIT_WORDS, VMX_EXIT_WORDS } from './reenact-nested';
import { stepReport, type FileReport, type StepReport } from './reenact-report';
import type { GeneratedScenario } from './reenact-scenario';
import { simulatedSnapshot, type KernelSnapshot } from './reenact-snapshot';
import type { ProbeRun, ProbeStep } from './reenact-state';

/** What the simulator did in one step of the probe. */
export interface SimulatedStep {
  events: NormEvent[];
  outcome: NormEvent[];
  /** KVM's structures after a snapshot step, if asked for */
  snapshot?: NormEvent[];
}

export interface SimulatedRun {
  /** by step number; 0: before the first step, -1: after the last */
  steps: Map<number, SimulatedStep>;
  /** why it did not get to the end, with the step */
  stopped: string | null;
  /** lines that the language does not take: each is left out and counts as a difference */
  refused: string[];
}

const wantsRegisters = (step: ProbeStep): boolean => step.kind === 'snapshot' || step.kind === 'smm-paging';

/** One run of a scenario, split into the probe's steps. */
class Recorder implements Observer {
  readonly steps = new Map<number, SimulatedStep>();
  private current: SimulatedStep = { events: [], outcome: [] };
  /** Events while user space sets the machine up: the probe's trace has them before "begin". */
  private recording = false;

  constructor(private readonly vendor: 'intel' | 'amd') {}

  enterStep(n: number): SimulatedStep {
    this.recording = true;
    this.current = { events: [], outcome: [] };
    this.steps.set(n, this.current);
    return this.current;
  }

  enter(): void {}
  leave(): void {}
  read(): void {}
  event(e: KvmEvent): void {
    if (!this.recording) return;
    const n = normaliseSimulated(e, this.vendor);
    if (n) this.current.events.push(n);
  }
}

/** Runs the scenario of a probe run. Never throws for what the scenario does: the reason is in `stopped`. */
export function simulate(run: ProbeRun, scenario: GeneratedScenario, name: string, snapshots = false): SimulatedRun {
  const { program, refused } = parseLeniently(scenario.text, name);
  const recorder = new Recorder(run.vendor);
  if (!program) return { steps: recorder.steps, stopped: 'the generated scenario is not valid', refused };
  const byNumber = new Map(run.steps.map((s) => [s.n, s]));
  const interpreter = new Interpreter(program);
  const { machine } = interpreter;
  machine.observer = recorder;
  let step: ProbeStep | null = null;
  let now: SimulatedStep = { events: [], outcome: [] };
  let outcomes: OutcomeProbe | null = null;
  const closeStep = (): void => {
    if (step?.kind === 'snapshot' && snapshots) now.snapshot = simulatedSnapshot(machine);
    if (step && wantsRegisters(step)) now.outcome.push(...machine.vcpus.map(simulatedRegisters));
    if (step?.kind === 'vmexit-seen-by-l1') now.outcome.push(exitWords(run, step, machine));
  };
  while (!interpreter.done) {
    const statement = interpreter.next()!.statement;
    if (statement.op.kind === 'step') {
      closeStep();
      // the probe's own view of the page tables starts here
      outcomes ??= new OutcomeProbe(machine);
      if (!recorder.steps.has(0)) recorder.enterStep(0);
      now = recorder.enterStep(statement.op.number);
      step = byNumber.get(statement.op.number) ?? null;
    }
    const vcpu = machine.vcpus[statement.vcpu];
    if (statement.op.kind === 'run' && vcpu) outcomes?.begin(vcpu);
    let done: StepOutcome;
    try {
      done = interpreter.step();
    } catch (e) {
      const text = e instanceof Error ? e.message : String(e);
      return { steps: recorder.steps, stopped: `${where(step)} the simulator failed: ${text}`, refused };
    }
    if (done.error !== null && !done.run)
      return { steps: recorder.steps, stopped: `${where(step)} line ${statement.line}: ${done.error}`, refused };
    if (done.run && step?.kind === 'guest' && vcpu && outcomes) now.outcome.push(...outcomes.end(vcpu, step, done.run));
    if (done.ioctl && step?.kind === 'memslot') now.outcome.push(simulatedIoctl(-done.ioctl.errno));
    if (statement.op.kind === 'dirty-log-get')
      now.outcome.push(...simulatedDirty(interpreter.snapshot().last?.dirty ?? []));
    if (done.error !== null)
      return { steps: recorder.steps, stopped: `${where(step)} line ${statement.line}: ${done.error}`, refused };
  }
  closeStep();
  const end = recorder.enterStep(-1);
  end.outcome.push(...machine.vcpus.map(simulatedRegisters));
  machine.destroy();
  machine.observer = null;
  return { steps: recorder.steps, stopped: null, refused };
}

const where = (step: ProbeStep | null): string => (step ? `in step ${step.n}` : 'while the machine was set up,');

/**
 * Parses a scenario; a line that has an error is taken out, so that what the language lacks costs its own step and not the whole run.
 */
function parseLeniently(text: string, name: string): { program: ScenarioProgram | null; refused: string[] } {
  const lines = text.split('\n');
  const refused: string[] = [];
  for (;;) {
    const parsed = parseScenario(lines.join('\n'), name);
    const errors = parsed.diagnostics.filter((d) => d.severity === 'error');
    if (parsed.program || errors.length === 0) return { program: parsed.program, refused };
    let removed = false;
    for (const d of errors) {
      const line = lines[d.line - 1] ?? '';
      if (line === '' || line.startsWith('#')) continue;
      refused.push(formatDiagnostic(name, d));
      lines[d.line - 1] = `# ${line}`;
      removed = true;
    }
    if (!removed) return { program: null, refused };
  }
}

/** Words that L1 finds after an exit of L2, read from memory. */
function exitWords(
  run: ProbeRun,
  step: ProbeStep & { kind: 'vmexit-seen-by-l1' },
  machine: Interpreter['machine'],
): NormEvent {
  const fields: Record<string, bigint> = {};
  for (const [name, gpa] of run.vendor === 'amd' ? VMCB_EXIT_WORDS : VMX_EXIT_WORDS) {
    if (!(name in step.fields)) continue;
    const bytes = machine.hostRead(0, Number(gpa), 8);
    fields[name] = bytes ? new DataView(bytes.buffer).getBigUint64(0, true) : 0n;
  }
  return simulatedExitWords(fields);
}

const NOTHING: Comparison = { total: 0, equal: 0, differences: [] };

/** Compares a run with its scenario's simulation. */
export function compareRun(
  run: ProbeRun,
  kernelEvents: string,
  simulated: SimulatedRun,
  scenario: GeneratedScenario | null,
  file: string,
  snapshots: readonly KernelSnapshot[] = [],
): FileReport {
  const { steps: kernel, unknown } = readEvents(kernelEvents, run);
  const frames = new TableFrames();
  const byNumber = new Map(run.steps.map((s) => [s.n, s]));
  const reports: StepReport[] = [];
  for (const k of kernel) {
    const step = byNumber.get(k.step) ?? null;
    const s = simulated.steps.get(k.step) ?? { events: [], outcome: [] };
    const expected = expectedOf(run, k, step);
    const events = compareEvents(k.events, s.events, frames);
    const outcome = compareEvents(expected, s.outcome, frames);
    const wanted = snapshots.find((x) => x.step === k.step);
    const structures = wanted ? compareEvents(wanted.items, s.snapshot ?? [], frames) : NOTHING;
    const at = { run, kernel: kernelRelease(run.kernel), step };
    reports.push(
      stepReport(
        at,
        k.step,
        scenario?.lines.get(k.step)?.[0] ?? 0,
        events.total + outcome.total + structures.total,
        events.equal + outcome.equal + structures.equal,
        [...events.differences, ...outcome.differences, ...structures.differences],
      ),
    );
  }
  return { file, steps: reports, unknown, stopped: simulated.stopped, refused: simulated.refused };
}

function expectedOf(run: ProbeRun, k: KernelStep, step: ProbeStep | null): NormEvent[] {
  if (k.step === -1) return registersOf(run.final);
  return step ? expectedOutcome(step, run) : [];
}
