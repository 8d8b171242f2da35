/**
 * A why-record as text for people: one line for each entry read, what it means, and what failed. The checks that held
 * are many and are left out unless they are asked for.
 */
import { ruleOf } from '../hw/rules';
import type { WalkCheck, WalkStep, WhyRecord } from '../hw/why';
import { formatHex } from '../words/address';
import { ENTRY_NAMES } from '../words/entries';

/** Names an entry: `EPT PDE`, and says what is in it. */
export type DescribeStep = (step: WalkStep) => { readonly levelName: string; readonly summary: string };

/** The first line: what was tried. */
export function accessLine({ access }: WhyRecord): string {
  const where =
    access.gva !== undefined
      ? ` of gva ${formatHex(access.gva)}`
      : access.gpa !== undefined
        ? ` of gpa ${formatHex(access.gpa)}`
        : '';
  return `${access.text}${where}`;
}

/** @param checks all checks, also those that held */
export function whyLines(why: WhyRecord, describe: DescribeStep, checks = false): string[] {
  const rows = why.steps.map((step) => {
    const { levelName, summary } = describe(step);
    return {
      step,
      // The second stage's reads for one guest entry stand below it, further in.
      entry: `${step.forLevel === undefined ? '' : '  '}${levelName}[${step.index}]`,
      place: `${step.space} ${formatHex(step.entryAddress)}`,
      raw: formatHex(step.raw),
      meaning: `${summary}${step.written === undefined ? '' : `, written back as ${formatHex(step.written)}`}${purpose(step)}`,
    };
  });
  const width = (key: 'entry' | 'place' | 'raw'): number => Math.max(0, ...rows.map((r) => r[key].length));
  const [entry, place, raw] = [width('entry'), width('place'), width('raw')];
  const lines = [accessLine(why)];
  for (const row of rows) {
    lines.push(
      `  ${row.entry.padEnd(entry)}  ${row.place.padEnd(place)}  ${row.raw.padStart(raw)}  ${row.meaning}`.trimEnd(),
    );
    lines.push(...checkLines(row.step.checked, '      ', checks));
  }
  lines.push(...checkLines(why.checked, '  ', checks), why.verdict.text);
  return lines;
}

/** A second-stage read translates the address of a guest entry, or the final address. */
function purpose(step: WalkStep): string {
  if (step.forLevel === undefined || step.forLevel === 0) return '';
  return ` (to read the ${ENTRY_NAMES[step.forLevel] ?? `level ${step.forLevel} entry`})`;
}

function checkLines(list: readonly WalkCheck[], indent: string, all: boolean): string[] {
  return list
    .filter((c) => all || !c.ok)
    .map((c) => {
      const by = c.by ? ` [${c.by}]` : '';
      if (c.ok) return `${indent}ok    ${c.rule}${by}`;
      const { sentence, reference } = ruleOf(c.rule);
      return `${indent}FAILS ${c.rule}${by}: ${sentence} (${reference})`;
    });
}
