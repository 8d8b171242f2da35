/** Runs random operations by the number: seeds in, failures out, with the shortest sequence that still fails. */
import { CONFIGS, type GoldenConfig } from './layout';
import { decode, modeOf, RAW_LIMIT, type Raw } from './operations';
import { newTally, World, type Depth, type Tally } from './world';

/** Operations of a run of the golden test, at least: in each mode so many sequences of so many. */
export const CI_OPERATIONS = 100_000;
export const CI_LENGTH = 800;
export const CI_RUNS = Math.ceil(CI_OPERATIONS / (CONFIGS.length * CI_LENGTH));

/** Marsaglia's xorshift32: deterministic, and the same everywhere. */
export class XorShift {
  private x: number;

  constructor(seed: number) {
    this.x = Math.imul(seed + 1, 0x9e3779b1) | 0 || 1;
  }

  next(limit: number): number {
    let x = this.x;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.x = x;
    return (x >>> 0) % limit;
  }
}

/** The raw operations of a seed. */
export function rawOperations(seed: number, count: number): Raw[] {
  const rng = new XorShift(seed);
  for (let i = 0; i < 8; i++) rng.next(2);
  const n = (): number => rng.next(0x7fffffff) % RAW_LIMIT;
  return Array.from({ length: count }, () => [n(), n(), n(), n(), n(), n()]);
}

export interface Failure {
  readonly config: GoldenConfig;
  readonly seed: number;
  readonly message: string;
  /** the operations that fail, shortest known */
  readonly operations: readonly Raw[];
  /** whether they were shortened */
  readonly shrunk: boolean;
}

export interface RunOptions extends Depth {
  readonly tally?: Tally;
}

/** Runs operations in a new world. @returns what went wrong at which operation, or null */
export function runOperations(
  config: GoldenConfig,
  raws: readonly Raw[],
  options: RunOptions = {},
): { at: number; message: string } | null {
  const world = new World(config, options.tally ?? newTally(), options);
  let at = 0;
  try {
    for (; at < raws.length; at++) world.step(decode(world.mode, raws[at]));
    world.checkAll();
    return null;
  } catch (e) {
    return { at, message: e instanceof Error ? e.message : String(e) };
  }
}

/** A shorter sequence that fails: ever smaller pieces are left out as long as something still goes wrong. */
export function shrink(
  config: GoldenConfig,
  raws: readonly Raw[],
  options: RunOptions,
  milliseconds = 20_000,
): { operations: readonly Raw[]; message: string } {
  const until = performance.now() + milliseconds;
  // Looking at everything after each operation finds a failure where it happens.
  let strict: RunOptions = { tally: newTally(), fullEvery: 1, auditEvery: options.auditEvery ? 1 : 0 };
  let current = raws;
  let failed = runOperations(config, current, strict);
  if (!failed) {
    strict = { ...options, tally: newTally() };
    failed = runOperations(config, current, strict);
  }
  if (!failed) return { operations: raws, message: 'the failure does not come back' };
  // Only the same failure counts, whatever its addresses are.
  const kind = (message: string): string => message.replace(/0x[0-9a-f]+|\d+/g, '#').replace(/;.*/, '');
  const wanted = kind(failed.message);
  current = current.slice(0, failed.at + 1);
  for (let size = Math.ceil(current.length / 2); size >= 1 && performance.now() < until;) {
    let gone = false;
    for (let from = 0; from < current.length && performance.now() < until;) {
      const shorter = [...current.slice(0, from), ...current.slice(from + size)];
      const f = runOperations(config, shorter, strict);
      if (f && kind(f.message) === wanted) {
        current = shorter.slice(0, f.at + 1);
        failed = f;
        gone = true;
      } else from += size;
    }
    if (size === 1 && !gone) break;
    size = size === 1 ? 1 : Math.ceil(size / 2);
  }
  return { operations: current, message: failed.message };
}

/** One seed in one mode. @returns null or the failure, shortened */
export function runSeed(
  config: GoldenConfig,
  seed: number,
  operations: number,
  options: RunOptions = {},
): Failure | null {
  const raws = rawOperations(seed, operations);
  const failed = runOperations(config, raws, options);
  if (!failed) return null;
  const short = shrink(config, raws.slice(0, failed.at + 1), options);
  return { config, seed, message: short.message, operations: short.operations, shrunk: true };
}

/** The operations of a failure, one a line, as they are meant and as raw numbers. */
export function operationsText(f: Pick<Failure, 'config' | 'operations'>): string {
  const mode = modeOf(f.config);
  const word = (_: string, v: unknown): unknown => (typeof v === 'bigint' ? `0x${v.toString(16)}` : v);
  const most = 200;
  const text = f.operations
    .slice(0, most)
    .map((raw) => {
      const op = decode(mode, raw);
      const gva = 'page' in op ? `  page at 0x${mode.pages[op.page].gva.toString(16)}` : '';
      return `  [${raw.join(', ')}]  ${JSON.stringify(op, word)}${gva}`;
    })
    .join('\n');
  return f.operations.length > most ? `${text}\n  and ${f.operations.length - most} more` : text;
}

export { CONFIGS };
