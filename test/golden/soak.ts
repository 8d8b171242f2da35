/**
 * `npm run soak`: random operations for as long as one likes, on all processors, in every mode that the golden test has.
 *
 *   npm run soak -- --operations 10000000 --seed 1     how many in all, and where the seeds begin
 *               [--audit N] [--jobs N] [--only REGEXP] [--length N] [--markdown FILE]
 *
 * `--audit N` audits after each N-th operation (1: after each, which is the default; 0: never); `--length` is the number of operations
 * from one fresh machine to the next; `--markdown docs/soak.md` puts the result into that file, after its marker. Ctrl-C stops it: what was done until then is printed. The exit code is 1 after a failure, whose
 * shortest known sequence is printed with the command that runs it again.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CONFIGS, operationsText, runSeed, type Failure } from './driver';
import { newTally, type Tally } from './world';

interface Settings {
  operations: number;
  seed: number;
  auditEvery: number;
  jobs: number;
  only: string;
  length: number;
  markdown: string | null;
}

/** What a worker says of one seed in one mode. */
interface Done {
  readonly config: string;
  readonly seed: number;
  readonly tally: Tally;
  readonly failure: { readonly message: string; readonly text: string } | null;
}

/** A seed in a mode. */
type Task = readonly [config: string, seed: number, length: number, auditEvery: number];

const WORKER = 'MMUSCOPE_SOAK_WORKER';
const MARKER = '<!-- From here on written by npm run soak -- --markdown docs/soak.md -->';
/** After so many failures it stops. */
const MOST_FAILURES = 5;
const count = (n: number): string => n.toLocaleString('en-US');

function number(text: string | undefined, name: string, fallback: number, least: number): number {
  if (text === undefined) return fallback;
  const n = Number(text);
  if (!Number.isInteger(n) || n < least) throw new Error(`--${name} wants a whole number from ${least} on, not "${text}".`);
  return n;
} // prettier-ignore

function settings(): Settings {
  const { values } = parseArgs({
    options: {
      operations: { type: 'string' },
      seed: { type: 'string' },
      audit: { type: 'string' },
      jobs: { type: 'string' },
      only: { type: 'string' },
      length: { type: 'string' },
      markdown: { type: 'string' },
    },
  });
  return {
    operations: number(values.operations, 'operations', 10_000_000, 1),
    seed: number(values.seed, 'seed', 1, 0),
    auditEvery: number(values.audit, 'audit', 1, 0),
    jobs: number(values.jobs, 'jobs', availableParallelism(), 1),
    only: values.only ?? '',
    length: number(values.length, 'length', 2000, 1),
    markdown: values.markdown ?? null,
  };
}

// ---- One worker ----

/** Does what it is told, a task at a time, until its parent goes. */
function work(): void {
  process.on('message', ([name, seed, length, auditEvery]: Task) => {
    const config = CONFIGS.find((c) => c.name === name);
    if (!config) throw new Error(`there is no mode ${name}`);
    const tally = newTally();
    const failure = runSeed(config, seed, length, { tally, auditEvery });
    process.send!({ config: name, seed, tally, failure: failure && describe(failure) } satisfies Done);
  });
  process.on('SIGINT', () => undefined);
  process.on('disconnect', () => process.exit(0));
}

const describe = (f: Failure): Done['failure'] => ({ message: f.message, text: operationsText(f) });

// ---- All of them ----

async function main(): Promise<number> {
  const s = settings();
  const configs = CONFIGS.filter((c) => new RegExp(s.only).test(c.name));
  if (configs.length === 0) throw new Error(`--only ${s.only} fits no mode; they are ${CONFIGS.map((c) => c.name).join(', ')}.`);
  const rounds = Math.ceil(s.operations / (s.length * configs.length));
  const tallies = new Map<string, Tally>(configs.map((c) => [c.name, newTally()]));
  const failures: Done[] = [];
  const started = performance.now();
  let given = 0;
  let interrupted = false;
  let shown = 0;
  const total = (): number => [...tallies.values()].reduce((n, t) => n + t.operations, 0);
  const next = (): Task | null => {
    if (interrupted || failures.length >= MOST_FAILURES || given >= rounds * configs.length) return null;
    const task: Task = [configs[given % configs.length].name, s.seed + Math.floor(given / configs.length), s.length, s.auditEvery];
    given++;
    return task;
  };
  const progress = (): void => {
    const now = performance.now();
    if (now - shown < (process.stderr.isTTY ? 1000 : 30_000)) return;
    shown = now;
    const seconds = (now - started) / 1000;
    const line = `${count(total())} of ${count(rounds * configs.length * s.length)} operations, ${count(Math.round(total() / seconds))} a second, ${failures.length} failures`;
    process.stderr.write(process.stderr.isTTY ? `\r${line} ` : `${line}\n`);
  };
  const take = (d: Done): void => {
    const sum = tallies.get(d.config) as Tally;
    for (const k of Object.keys(sum) as (keyof Tally)[]) sum[k] += d.tally[k];
    if (d.failure) failures.push(d);
    progress();
  };
  process.on('SIGINT', () => {
    interrupted = true;
  });
  await Promise.all(Array.from({ length: Math.min(s.jobs, rounds * configs.length) }, () => runWorker(next, take)));
  if (process.stderr.isTTY) process.stderr.write('\n');

  const seconds = (performance.now() - started) / 1000;
  const report = resultText(s, tallies, seconds, failures.length);
  console.log(report);
  if (interrupted) console.log('Stopped early.');
  for (const f of failures) {
    console.log(`\nFAIL ${f.config}, seed ${f.seed}: ${f.failure?.message}\n${f.failure?.text}`);
    console.log(`Again: npm run soak -- --only '^${f.config}$' --seed ${f.seed} --operations ${s.length} --length ${s.length} --audit ${s.auditEvery}`);
  }
  if (s.markdown !== null && failures.length === 0 && !interrupted) insert(s.markdown, report);
  return failures.length > 0 || interrupted ? 1 : 0;
} // prettier-ignore

/** Puts the result into a file: after the marker if there is one, else as the whole file. */
function insert(file: string, report: string): void {
  const old = existsSync(file) ? readFileSync(file, 'utf8') : '';
  const at = old.indexOf(MARKER);
  writeFileSync(file, at < 0 ? report : `${old.slice(0, at + MARKER.length)}\n\n${report}`);
}

/** A process of its own, fed until there is nothing left to do. */
function runWorker(next: () => Task | null, take: (d: Done) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const first = next();
    if (first === null) return resolve();
    const child: ChildProcess = spawn(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url)], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      env: { ...process.env, [WORKER]: '1' },
    });
    let running: Task = first;
    let over = false;
    child.on('message', (d: Done) => {
      take(d);
      const task = next();
      if (task === null) {
        over = true;
        child.disconnect();
        resolve();
      } else child.send((running = task));
    });
    child.on('error', reject);
    child.on('exit', (code) => {
      if (!over) reject(new Error(`a worker ended with code ${code} at ${running[0]}, seed ${running[1]}`));
    });
    child.send(first);
  });
}

// ---- What it came to ----

/** The result, as Markdown: it is read on a terminal and becomes a part of docs/soak.md. */
function resultText(s: Settings, tallies: ReadonlyMap<string, Tally>, seconds: number, failures: number): string {
  const sum = newTally();
  for (const t of tallies.values()) for (const k of Object.keys(sum) as (keyof Tally)[]) sum[k] += t[k];
  const h = Math.floor(seconds / 3600);
  const min = Math.floor((seconds % 3600) / 60);
  const time = `${h > 0 ? `${h} h ` : ''}${min} min ${Math.round(seconds % 60)} s`;
  const audit = s.auditEvery === 0 ? 'no audit' : s.auditEvery === 1 ? 'an audit after each' : `an audit after each ${s.auditEvery}th`;
  const columns: readonly (readonly [string, (t: Tally) => number])[] = [
    ['operations', (t) => t.operations],
    ['audits', (t) => t.audits],
    ['accesses', (t) => t.promised + t.several],
    ['RAM', (t) => t.ram],
    ['MMIO', (t) => t.mmio + t.readonlyWrites],
    ['#PF, #GP', (t) => t.faults],
    ['SPP exits', (t) => t.sppDenied],
    ['probes', (t) => t.probes],
    ['SMI, RSM', (t) => t.smm],
    ['memslots', (t) => t.slots],
  ];
  const rows = [
    ['mode', ...columns.map(([name]) => name)],
    ...[...tallies].map(([name, t]) => [name, ...columns.map(([, f]) => count(f(t)))]),
    ['all', ...columns.map(([, f]) => count(f(sum)))],
  ];
  const widths = rows[0].map((_, i) => Math.max(...rows.map((r) => r[i].length)));
  const line = (r: readonly string[]): string => `| ${r.map((c, i) => (i === 0 ? c.padEnd(widths[i]) : c.padStart(widths[i]))).join(' | ')} |`;
  const rule = `| ${widths.map((w, i) => (i === 0 ? '-'.repeat(w) : `${'-'.repeat(w - 1)}:`)).join(' | ')} |`;
  return [
    `${count(sum.operations)} operations from seed ${s.seed} on, ${s.length} to a machine, ${audit}: ${failures} failure${failures === 1 ? '' : 's'}. ` +
      `${time} with ${s.jobs} job${s.jobs === 1 ? '' : 's'}, ${count(Math.round(sum.operations / seconds))} operations a second.`,
    '',
    line(rows[0]),
    rule,
    ...rows.slice(1).map(line),
    '',
  ].join('\n');
} // prettier-ignore

if (process.env[WORKER] === '1') work();
else
  main().then(
    (code) => process.exit(code),
    (error: unknown) => {
      console.error(error instanceof Error ? error.message : String(error));
      process.exit(2);
    },
  );
