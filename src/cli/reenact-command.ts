/**
 * The command `reenact`: repeats runs of a real kernel in the simulator and compares them step by step.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { EventsFileError } from './reenact-events';
import { fileJson, figures, fileText, type FileReport } from './reenact-report';
import { compareRun, simulate } from './reenact-run';
import { generateScenario } from './reenact-scenario';
import { readSnapshot, type KernelSnapshot } from './reenact-snapshot';
import { parseState, StateFileError } from './reenact-state';

const USAGE = `usage: npm run reenact -- [--snapshot] [--emit FILE.mmu] [--json] [--all] FILE.state.json[.gz]…

Turns each run of the probe into a scenario, runs it in the simulator and compares with the kernel's events, which are taken
from FILE.events.jsonl[.gz] beside the state file. Exit code 1: a difference that docs/differences.md does not explain; 2: bad input.

  --snapshot       compare KVM's structures at the marked steps, too: roles, shadow pages, sptes, memslots, reserved masks; from
                   STEM.*.snapshot.json[.gz] beside the state file or in ../kvm-snapshots
  --emit FILE.mmu  write the scenario of the (only) run to FILE.mmu
  --json           a report for programs
  --all            print every difference, not the first 20 of each file`;

/** A wrong command line or a file that cannot be used. The message is one sentence. */
class UsageError extends Error {}

interface Options {
  files: string[];
  emit: string | null;
  snapshot: boolean;
  json: boolean;
  all: boolean;
}

function options(args: readonly string[]): Options {
  const o: Options = { files: [], emit: null, snapshot: false, json: false, all: false };
  for (let i = 0; i < args.length; i++) {
    const a = args[i];
    if (a === '--json') o.json = true;
    else if (a === '--all') o.all = true;
    else if (a === '--snapshot') o.snapshot = true;
    else if (a === '--emit') {
      o.emit = args[++i] ?? null;
      if (o.emit === null) throw new UsageError('--emit needs the name of a file to write');
    } else if (a.startsWith('-'))
      throw new UsageError(`${a} is not an option; the options are --snapshot, --emit FILE.mmu, --json and --all`);
    else o.files.push(a);
  }
  if (o.files.length === 0) throw new UsageError('no file is given: name one or more FILE.state.json of the probe');
  if (o.emit !== null && o.files.length > 1)
    throw new UsageError('--emit writes one scenario: give one state file with it');
  return o;
}

function readText(file: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (e) {
    throw new UsageError(`${file} cannot be read (${(e as NodeJS.ErrnoException).code ?? 'error'})`);
  }
  // the magic number of gzip, whatever the name says
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes.toString('utf8');
  try {
    return gunzipSync(bytes).toString('utf8');
  } catch {
    throw new UsageError(`${file} is damaged: it begins as gzip but cannot be unpacked`);
  }
}

/** The events file beside a state file. */
function eventsFile(file: string): string {
  const stem = file.replace(/\.state\.json(\.gz)?$/, '');
  if (stem === file)
    throw new UsageError(`${file} does not end in .state.json or .state.json.gz, so its events file cannot be found`);
  for (const end of ['.events.jsonl.gz', '.events.jsonl']) if (existsSync(stem + end)) return stem + end;
  throw new UsageError(`${file} has no events file beside it (${basename(stem)}.events.jsonl.gz)`);
}

/** The snapshots of a run, beside its state file or in the folder of snapshots next to that. */
function snapshotsOf(file: string): KernelSnapshot[] {
  const stem = basename(file).replace(/\.state\.json(\.gz)?$/, '');
  for (const folder of [dirname(file), join(dirname(file), '..', 'kvm-snapshots')]) {
    if (!existsSync(folder)) continue;
    const names = readdirSync(folder).filter((f) => f.startsWith(`${stem}.`) && /\.snapshot\.json(\.gz)?$/.test(f));
    if (names.length) return names.map((f) => readSnapshot(readText(join(folder, f))));
  }
  throw new UsageError(
    `${file} has no snapshots (${stem}.*.snapshot.json) beside it or in ../kvm-snapshots: leave --snapshot out`,
  );
}

function reenact(file: string, { emit, snapshot }: Options): FileReport {
  const run = parseState(readText(file));
  const events = readText(eventsFile(file));
  const scenario = generateScenario(run, basename(file));
  if (emit !== null) writeFileSync(emit, scenario.text);
  const snapshots = snapshot ? snapshotsOf(file) : [];
  const simulated = simulate(run, scenario, emit ?? `${basename(file)}.mmu`, snapshot);
  return compareRun(run, events, simulated, scenario, basename(file), snapshots);
}

/** Where the command writes: lines without their end. */
export interface Output {
  out: (line: string) => void;
  err: (line: string) => void;
}

/**
 * Runs the command.
 * @returns its exit code: 0 all equal or explained, 1 an unexplained difference, 2 bad input (one sentence in `err`)
 */
export function reenactMain(args: readonly string[], io: Output): number {
  try {
    return main(args, io);
  } catch (e) {
    if (!(e instanceof UsageError)) throw e;
    io.err(`reenact: ${e.message}`);
    return 2;
  }
}

function main(args: readonly string[], io: Output): number {
  if (args.includes('--help') || args.includes('-h')) {
    io.out(USAGE);
    return 0;
  }
  const o = options(args);
  const reports: FileReport[] = [];
  for (const file of o.files) {
    try {
      const r = reenact(file, o);
      reports.push(r);
      if (!o.json) io.out(fileText(r, o.all ? Number.POSITIVE_INFINITY : 20));
    } catch (e) {
      if (e instanceof StateFileError || e instanceof EventsFileError) throw new UsageError(`${file}: ${e.message}`);
      throw e;
    }
  }
  const f = figures(reports);
  if (o.json) io.out(JSON.stringify({ files: reports.map(fileJson), ...f }, null, 1));
  else io.out(`${f.equal} of ${f.total} events equal`);
  return f.unexplained > 0 ? 1 : 0;
}
