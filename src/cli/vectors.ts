/**
 * `npm run vectors -- FILE… [--dump FOLDER]`: runs files of processor test vectors (JSON lines, plain or gzip) through src/hw.
 * Prints per file how many lines agree, the first differences with both sides and the why-record; exit code 1 if a line disagrees.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { compareDump } from './vectors-dump';
import type { VectorOutcome } from './vectors-compare';
import { parseVector, vectorName, type Vector } from './vectors-format';
import { runVector } from './vectors-run';

/** Differences shown per file. */
const SHOWN = 5;

/** What came of one file. */
export interface FileOutcome {
  file: string;
  passed: number;
  failed: number;
  /** Number of lines by reason for not comparing with the maker's own result. */
  notes: Map<string, number>;
  /** The first lines that disagree. */
  shown: { id: string; outcome: VectorOutcome }[];
}

/** The lines of a vector file, unpacked if its first bytes are gzip's. @throws Error that names the file and the line */
export function readVectors(file: string): Vector[] {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (e) {
    throw new Error(`cannot read ${file}: ${(e as Error).message}`, { cause: e });
  }
  const text = bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes).toString('utf8') : bytes.toString('utf8');
  const vectors: Vector[] = [];
  text.split('\n').forEach((line, i) => {
    if (line.trim() === '') return;
    try {
      vectors.push(parseVector(line));
    } catch (e) {
      throw new Error(`${file} line ${i + 1} ${(e as Error).message}`, { cause: e });
    }
  });
  return vectors;
}

/** Runs all lines of a file. */
export function runFile(file: string): FileOutcome {
  const out: FileOutcome = { file, passed: 0, failed: 0, notes: new Map(), shown: [] };
  readVectors(file).forEach((v, i) => {
    const outcome = runVector(v);
    if (outcome.note !== undefined) out.notes.set(outcome.note, (out.notes.get(outcome.note) ?? 0) + 1);
    if (outcome.status === 'passed') out.passed++;
    if (outcome.status === 'failed') {
      out.failed++;
      if (out.shown.length < SHOWN) out.shown.push({ id: vectorName(v, i + 1), outcome });
    }
  });
  return out;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function report(o: FileOutcome): void {
  print(`${o.file}: ${o.passed} agree, ${o.failed} differ`);
  for (const [note, n] of o.notes) print(`  ${n} lines: ${note}`);
  for (const { id, outcome } of o.shown) {
    print(`  ${id}`);
    for (const d of outcome.differences) print(`    ${d.field}: expected ${d.expected}, got ${d.actual}`);
    for (const line of outcome.why) print(`      ${line}`);
  }
}

/** The command. Returns the exit code: 1 if something differs, 2 if it was called wrongly. */
export async function main(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { dump: { type: 'string', multiple: true } },
  });
  const dumps = values.dump ?? [];
  if (positionals.length + dumps.length === 0) {
    process.stderr.write(
      'nothing to compare: npm run vectors -- FILE… (JSON lines, plain or gzip), or --dump FOLDER\n',
    );
    return 2;
  }
  let passed = 0;
  let failed = 0;
  for (const file of positionals) {
    const outcome = runFile(file);
    report(outcome);
    passed += outcome.passed;
    failed += outcome.failed;
  }
  for (const folder of dumps) {
    const outcome = await compareDump(folder);
    outcome.report.forEach(print);
    passed += outcome.passed;
    failed += outcome.failed;
  }
  print(`${passed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}
