/** Explanations as text for terminals and as Markdown for hovers. */
import type { Explanation } from './explain';
import type { ReadingField } from './reading';

const isZero = (value: string) => /^0(?:x0)?(?:$| )/.test(value);

/**
 * Explanations as text for a terminal: the first in full, the others in a line each.
 * @param max how many others to list; what is left out is counted
 */
export function explanationToText(explanations: Explanation | readonly Explanation[], max = 8): string {
  const [first, ...rest] = list(explanations);
  const shown = first.fields.filter((f) => !isZero(f.value));
  const width = Math.max(0, ...shown.map((f) => f.name.length));
  const bitsWidth = Math.max(0, ...shown.map((f) => f.bits.length));
  const lines = [
    `${first.title}`,
    `  ${first.summary}`,
    ...shown.map((f) => `  ${f.bits.padStart(bitsWidth)}  ${f.name.padEnd(width)}  ${f.value}  ${f.meaning}`),
    ...zeroLine(first.fields).map((l) => `  ${l}`),
    ...first.notes.map((n) => `  note: ${n}`),
  ];
  if (rest.length > 0) {
    lines.push('or');
    lines.push(...rest.slice(0, max).map((e) => `  ${e.title}: ${e.summary}`));
    if (rest.length > max) lines.push(`  and ${rest.length - max} more`);
  }
  return lines.join('\n');
}

/** The same as Markdown, for hovers. */
export function explanationToMarkdown(explanations: Explanation | readonly Explanation[], max = 8): string {
  const [first, ...rest] = list(explanations);
  const cell = (text: string) => text.replaceAll('|', '\\|');
  const out = [`**${first.title}**`, '', `\`${first.summary}\``];
  const shown = first.fields.filter((f) => !isZero(f.value));
  if (shown.length > 0) {
    out.push('', '| bits | field | value | meaning |', '| --- | --- | --- | --- |');
    out.push(...shown.map((f) => `| ${f.bits} | ${cell(f.name)} | ${cell(f.value)} | ${cell(f.meaning)} |`));
  }
  const zero = zeroLine(first.fields);
  if (zero.length > 0) out.push('', ...zero);
  if (first.notes.length > 0) out.push('', ...first.notes.map((n) => `- ${n}`));
  if (rest.length > 0) {
    out.push('', 'or', '', ...rest.slice(0, max).map((e) => `- ${e.title}: \`${e.summary}\``));
    if (rest.length > max) out.push(`- and ${rest.length - max} more`);
  }
  return out.join('\n');
}

function list(explanations: Explanation | readonly Explanation[]): readonly Explanation[] {
  return Array.isArray(explanations) ? (explanations as readonly Explanation[]) : [explanations as Explanation];
}

/** Names of the fields that are 0, in a line. */
function zeroLine(fields: readonly ReadingField[]): string[] {
  const names = fields.filter((f) => isZero(f.value) && !f.name.startsWith('ignored')).map((f) => f.name);
  return names.length > 0 ? [`0: ${names.join(', ')}`] : [];
}
