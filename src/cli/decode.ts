/** `mmuscope decode`: what a number means. */
import { formatHex, parseBareHex, parseNumber } from '../words/address';
import { explain, type ExplainOptions, type Explanation } from '../words/explain';
import { type Output, paint } from './terminal';

export interface DecodeOptions {
  readonly as?: string;
  readonly kernel?: string;
  readonly vendor?: 'intel' | 'amd';
  readonly level?: number;
  readonly json?: boolean;
  /** zero fields too */
  readonly all?: boolean;
}

/** Reads 0x…, decimal, and hexadecimal without a prefix if it has a letter in it, as traces print it. */
export function readValue(text: string): bigint {
  return /^[0-9a-f]*[a-f][0-9a-f]*$/i.test(text) ? parseBareHex(text) : parseNumber(text);
}

/** @throws WordError for what is no number, word or kernel */
export function decodeCommand(text: string, options: DecodeOptions, output: Output): void {
  const value = readValue(text);
  const { as, kernel, vendor, level } = options;
  const asked: ExplainOptions = { as, kernel, vendor, level };
  const found = explain(value, asked);
  if (options.json) {
    output.write(JSON.stringify(found));
    return;
  }
  found.forEach((e, i) => {
    if (i > 0) output.write('');
    print(value, e, options.all === true, output);
  });
}

function print(value: bigint, e: Explanation, all: boolean, output: Output): void {
  output.write(`${paint(output, `${formatHex(value)} as ${e.as}`, 'bold')}  ${paint(output, e.title, 'dim')}`);
  output.write(`  ${e.summary}`);
  const fields = e.fields.filter((f) => all || !/^(?:0|0x0)(?: |$)/.test(f.value));
  const name = Math.max(0, ...fields.map((f) => f.name.length));
  const bits = Math.max(0, ...fields.map((f) => f.bits.length));
  const width = Math.max(0, ...fields.map((f) => f.value.length));
  for (const f of fields) {
    output.write(
      `  ${f.bits.padStart(bits)}  ${f.name.padEnd(name)}  ${f.value.padEnd(width)}  ${paint(output, f.meaning, 'dim')}`.trimEnd(),
    );
  }
  for (const note of e.notes) output.write(paint(output, `  ${note}`, 'yellow'));
}
