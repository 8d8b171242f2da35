/**
 * What `reenact` prints: each difference with both sides, where it is in the trace and in the scenario, and the figures.
 */
import { eventText, type NormEvent, type UnknownEvents } from './reenact-events';
import type { Difference } from './reenact-compare';
import { explain, type Explanation, type Place } from './reenact-explain';
import type { ProbeStep } from './reenact-state';

/** The comparison of one step, or of what came before or after all steps. */
export interface StepReport {
  /** 0: before the first step; -1: after the last */
  step: number;
  title: string;
  /** line of the scenario, 0 if none */
  line: number;
  total: number;
  equal: number;
  differences: { difference: Difference; explanation: Explanation | null }[];
}

export interface FileReport {
  file: string;
  steps: StepReport[];
  unknown: UnknownEvents[];
  /** the simulator gave up: why, and in which step */
  stopped: string | null;
  /** lines of the scenario that the language does not take */
  refused: string[];
}

export interface Figures {
  total: number;
  equal: number;
  explained: number;
  unexplained: number;
}

export function titleOf(step: ProbeStep | null, number: number): string {
  if (number === 0) return 'before the first step';
  if (number < 0 || !step) return 'the VM is torn down';
  switch (step.kind) {
    case 'guest':
      return `${step.op}${step.gva === null ? '' : ` 0x${step.gva.toString(16)}`} cpl ${step.cpl}${step.smm ? ' smm' : ''}`;
    case 'note':
      return step.text;
    case 'snapshot':
      return `snapshot ${step.name}`;
    case 'memslot':
      return `memslot ${step.change} ${step.as_id}:${step.id}`;
    default:
      return step.kind;
  }
}

/** Adds explanations to the differences of a step. */
export function stepReport(
  at: Place,
  number: number,
  line: number,
  total: number,
  equal: number,
  differences: Difference[],
): StepReport {
  return {
    step: number,
    title: titleOf(at.step, number),
    line,
    total,
    equal,
    differences: differences.map((difference) => ({ difference, explanation: explain(difference, at) })),
  };
}

export function figures(reports: readonly FileReport[]): Figures {
  const f: Figures = { total: 0, equal: 0, explained: 0, unexplained: 0 };
  for (const r of reports) {
    for (const s of r.steps) {
      f.total += s.total;
      f.equal += s.equal;
      for (const d of s.differences) f[d.explanation ? 'explained' : 'unexplained']++;
    }
    f.unexplained += r.refused.length + (r.stopped !== null ? 1 : 0);
  }
  return f;
}

function side(name: string, e: NormEvent | null): string {
  const where = e && e.line ? ` (events line ${e.line})` : '';
  return `    ${name.padEnd(9)} ${e ? eventText(e) : 'nothing'}${where}`;
}

/** The report of one file as text, at most `limit` differences in full. */
export function fileText(r: FileReport, limit: number): string {
  const out: string[] = [];
  let shown = 0;
  if (r.stopped !== null) out.push(`${r.file}: ${r.stopped}`);
  out.push(...r.refused);
  for (const s of r.steps) {
    if (s.differences.length === 0) continue;
    const name = s.step > 0 ? `step ${s.step}` : s.step === 0 ? 'start' : 'end';
    out.push(
      `${r.file}: ${name}, ${s.title}${s.line ? ` (scenario line ${s.line})` : ''}: ${s.equal} of ${s.total} equal`,
    );
    for (const { difference: d, explanation } of s.differences) {
      if (++shown > limit) continue;
      if (d.fields.length)
        out.push(`  differs in ${d.fields.join(', ')}${explanation ? `, explained: ${explanation.text}` : ''}`);
      else out.push(`  ${d.kernel ? 'missing' : 'too much'}${explanation ? `, explained: ${explanation.text}` : ''}`);
      out.push(side('kernel', d.kernel), side('simulator', d.simulator));
    }
  }
  if (shown > limit) out.push(`  … and ${shown - limit} more differences; --all prints every one`);
  for (const u of r.unknown)
    out.push(`${r.file}: ${u.count} ${u.name} events are of no kind that is compared or known to be left out`);
  const f = figures([r]);
  const explained = f.explained ? ` (${f.explained} of the rest explained, see docs/differences.md)` : '';
  out.push(`${r.file}: ${f.equal} of ${f.total} events equal${explained}`);
  return out.join('\n');
}

/** The report for programs. */
export function fileJson(r: FileReport): object {
  const event = (e: NormEvent | null): object | null =>
    e && {
      name: e.name,
      line: e.line || undefined,
      fields: Object.fromEntries(e.fields.map(([n, v]) => [n, v < 0n ? String(v) : `0x${v.toString(16)}`])),
    };
  return {
    file: r.file,
    ...figures([r]),
    stopped: r.stopped ?? undefined,
    refused: r.refused,
    unknownEvents: r.unknown,
    differences: r.steps.flatMap((s) =>
      s.differences.map(({ difference: d, explanation }) => ({
        step: s.step,
        title: s.title,
        line: s.line,
        fields: d.fields,
        kernel: event(d.kernel),
        simulator: event(d.simulator),
        explanation: explanation && { id: explanation.id, text: explanation.text, anchor: explanation.anchor },
      })),
    ),
  };
}
