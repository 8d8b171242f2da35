/**
 * `npm run bench`: runs bench/*.bench.ts one after the other and prints one table.
 *
 *   npm run bench -- walk dap     only the files whose name has one of these
 *   npm run bench -- --json       rows as JSON
 *   npm run bench -- --markdown   the table as Markdown, for docs/performance.md
 *
 * Exit code 1 when a file fails or a row is over its budget.
 */
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { Row } from './bench';

const FOLDER = dirname(fileURLToPath(import.meta.url));
const HEADINGS = ['what', 'here', 'against', 'ratio', 'budget', ''];

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { json: { type: 'boolean' }, markdown: { type: 'boolean' } },
  });
  const files = readdirSync(FOLDER)
    .filter((file) => file.endsWith('.bench.ts'))
    .filter((file) => positionals.length === 0 || positionals.some((part) => file.includes(part)))
    .sort();
  if (files.length === 0) throw new Error(`No bench/*.bench.ts has ${positionals.join(' or ')} in its name.`);
  const rows: Row[] = [];
  for (const file of files) {
    console.error(`${file} …`);
    try {
      const module = (await import(pathToFileURL(join(FOLDER, file)).href)) as { default: () => Promise<Row[]> };
      rows.push(...(await module.default()));
    } catch (error) {
      console.error(`${file} failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
      process.exitCode = 1;
    }
  }
  if (values.json === true) console.log(JSON.stringify(rows, null, 2));
  else print(rows.map(cells), values.markdown === true);
  if (rows.some(overBudget)) process.exitCode = 1;
}

export function overBudget(row: Row): boolean {
  if (row.budget === undefined) return false;
  return row.unit === 'per s' ? row.value < row.budget : row.value > row.budget;
}

/** The columns of one row, as text. */
export function cells(row: Row): string[] {
  const { unit, reference } = row;
  const with3 = (value: number) => Number(value.toPrecision(3)).toLocaleString('en', { maximumSignificantDigits: 3 });
  return [
    row.name,
    `${with3(row.value)} ${unit}${row.spread === undefined ? '' : ` ± ${with3(row.spread)}`}`,
    reference === undefined ? '' : `${with3(reference.value)} ${unit} (${reference.name})`,
    reference === undefined ? '' : `${with3(row.value / reference.value)}×`,
    row.budget === undefined ? '' : `${with3(row.budget)} ${unit}${overBudget(row) ? ' EXCEEDED' : ''}`,
    row.note ?? '',
  ];
}

function print(table: string[][], markdown: boolean): void {
  const lines = [HEADINGS, ...table];
  const widths = HEADINGS.map((_, column) => Math.max(3, ...lines.map((line) => line[column]?.length ?? 0)));
  const text = (line: string[]) => line.map((cell, column) => cell.padEnd(widths[column] ?? 0));
  const rule = widths.map((width) => '-'.repeat(width));
  for (const line of [HEADINGS, rule, ...table]) {
    console.log(markdown ? `| ${text(line).join(' | ')} |` : text(line).join('  ').trimEnd());
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main().catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  });
}
