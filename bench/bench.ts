/**
 * What a benchmark file is. `bench/NAME.bench.ts` exports, as default, a function that measures and returns rows;
 * `npm run bench` prints the rows of all files as one table.
 *
 *   export default async function (): Promise<Row[]> {
 *     const walk = await time('4-level walk', () => walkOnce(), { perCall: 1000 });   // one call does 1000 walks
 *     return [{ ...walk, reference: { name: 'C, same checks', value: 9.1 } }];
 *   }
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Bench } from 'tinybench';

export type Unit = 'ns' | 'µs' | 'ms' | 's' | 'KiB' | 'MiB' | 'per s';

/** One line of the table. */
export interface Row {
  readonly name: string;
  readonly value: number;
  readonly unit: Unit;
  /** Half of the middle half's spread, in the same unit; unknown for what is measured once. */
  readonly spread?: number;
  /** What it is measured against, in the same unit and, where it is a speed, the same run. */
  readonly reference?: { readonly name: string; readonly value: number };
  /** The value must not be above this (for `per s`: below). The run fails when it is. */
  readonly budget?: number;
  readonly note?: string;
}

const NANOSECONDS: Readonly<Record<'ns' | 'µs' | 'ms' | 's', number>> = { ns: 1, µs: 1e3, ms: 1e6, s: 1e9 };

/**
 * Median time of a function, after warming up. A function that takes less than some microseconds should do its work
 * many times a call and say so with `perCall`, so that the clock does not count.
 */
export async function time(
  name: string,
  work: () => unknown,
  options: { perCall?: number; unit?: keyof typeof NANOSECONDS; seconds?: number } = {},
): Promise<Row> {
  const { perCall = 1, unit = 'ns', seconds = 1 } = options;
  const bench = new Bench({ time: seconds * 1000, warmupTime: seconds * 200, retainSamples: true, throws: true });
  bench.add(name, work);
  const [task] = await bench.run();
  const result = task?.result;
  if (result === undefined || !('latency' in result)) throw new Error(`${name} was not measured.`);
  const samples = result.latency.samples;
  if (samples === undefined) throw new Error(`${name} has no samples.`);
  const scale = 1e6 / NANOSECONDS[unit] / perCall;
  return { name, unit, ...middle(samples.map((ms) => ms * scale)) };
}

/** Median of some samples, and half of the spread of their middle half. */
export function middle(samples: readonly number[]): { value: number; spread: number } {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (part: number) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? NaN;
  return { value: at(0.5), spread: (at(0.75) - at(0.25)) / 2 };
}

/** Collects all garbage. */
export function collect(): void {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
}

/** Bytes in use, on the heap and in buffers, once all garbage is collected: finalizers and buffers take a turn of their own. */
export async function bytesInUse(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    collect();
    await new Promise((done) => setTimeout(done, 20));
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
