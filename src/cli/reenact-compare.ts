/**
 * Compares two lists of events: aligns them (an event too many or too few must not make all later ones differ), then looks at what an
 * alignment cannot see, the frames of table pages. Those are each allocator's own, so that they have to correspond one to one: a frame
 * of the kernel always stands for the same frame of the simulator, as long as the table lives.
 */
import type { NormEvent } from './reenact-events';

/** One place where the two sides are not equal. Either side may be absent. */
export interface Difference {
  kernel: NormEvent | null;
  simulator: NormEvent | null;
  /** fields that differ, when both are there */
  fields: string[];
}

export interface Comparison {
  /** kernel's events plus the simulator's surplus */
  total: number;
  equal: number;
  differences: Difference[];
}

const FRAME_MASK = 0x000f_ffff_ffff_f000n;
/** Roots of the TDP MMU have four or five levels. */
const LOWEST_ROOT_LEVEL = 4n;
const PAGE_SIZE_BIT = 1n << 7n;
/** Longest product of two list lengths that is aligned exactly; beyond it neighbours of the same name are paired. */
const EXACT_LIMIT = 25_000_000;

/** Whether an spte of an entry at `level` points to a lower table (both spte formats mark a huge leaf with bit 7). */
export function isTableSpte(spte: bigint, level: bigint): boolean {
  return level > 1n && (spte & PAGE_SIZE_BIT) === 0n && (spte & 7n) !== 0n && (spte & FRAME_MASK) !== 0n;
}

const levelOf = (e: NormEvent): bigint => e.fields.find(([n]) => n === 'level')?.[1] ?? 1n;

/** The frame of a field that belongs to the allocator, or null; and the field without it. */
function split(e: NormEvent, [, value, kind]: NormEvent['fields'][number]): { frame: bigint | null; rest: bigint } {
  if (kind === 'spte' && isTableSpte(value, levelOf(e)))
    return { frame: (value & FRAME_MASK) >> 12n, rest: value & ~FRAME_MASK };
  if (kind === 'sptep' && value !== 0n) return { frame: value >> 12n, rest: value & 0xfffn };
  return { frame: null, rest: value };
}

/** Text that is equal for events which are equal up to table frames. */
function key(e: NormEvent): string {
  let text = e.name;
  for (const f of e.fields) {
    const { frame, rest } = split(e, f);
    text += ` ${f[0]}=${rest.toString(16)}${frame === null ? '' : '+frame'}`;
  }
  return text;
}

/** Which table frame of the kernel stands for which of the simulator. Lives as long as the comparison of one run. */
export class TableFrames {
  private readonly toSim = new Map<bigint, Binding>();
  private readonly toKernel = new Map<bigint, Binding>();

  /** Whether the two frames may be the same table; remembers that they are. */
  same(kernel: bigint, simulator: bigint, level: bigint): boolean {
    const k = this.toSim.get(kernel);
    const s = this.toKernel.get(simulator);
    if (k && k === s) {
      k.stale = false;
      return true;
    }
    if ((k && !k.stale) || (s && !s.stale)) return false;
    if (k) this.forget(k);
    if (s) this.forget(s);
    const b: Binding = { kernel, simulator, level, stale: false };
    this.toSim.set(kernel, b);
    this.toKernel.set(simulator, b);
    return true;
  }

  /** A shadow page of `level` went away: its frame may serve another table from now on. The trace does not say which frame. */
  zapped(level: bigint): void {
    for (const b of this.toSim.values()) if (b.level === level) b.stale = true;
  }

  /** Every root was given up: their frames are not in the trace at all. */
  rootsReplaced(): void {
    for (const b of this.toSim.values()) if (b.level >= LOWEST_ROOT_LEVEL) b.stale = true;
  }

  /** This very table is gone. */
  freed(kernel: bigint): void {
    const b = this.toSim.get(kernel);
    if (b) this.forget(b);
  }

  private forget(b: Binding): void {
    this.toSim.delete(b.kernel);
    this.toKernel.delete(b.simulator);
  }
}

interface Binding {
  kernel: bigint;
  simulator: bigint;
  level: bigint;
  stale: boolean;
}

type Pair = [NormEvent | null, NormEvent | null];

/** Compares the events of one step. `frames` carries over from step to step. */
export function compareEvents(
  kernel: readonly NormEvent[],
  simulator: readonly NormEvent[],
  frames: TableFrames,
): Comparison {
  const differences: Difference[] = [];
  let equal = 0;
  let total = 0;
  for (const [k, s] of align(kernel, simulator)) {
    total++;
    if (k === null || s === null) {
      differences.push({ kernel: k, simulator: s, fields: [] });
      if (k) forgetTables(k, frames);
      continue;
    }
    const fields = differing(k, s, frames);
    if (fields.length === 0) equal++;
    else differences.push({ kernel: k, simulator: s, fields });
    forgetTables(k, frames);
  }
  return { total, equal, differences };
}

/** Names of the fields that differ. A field that one side does not have (another kernel's trace format) does not count. */
function differing(k: NormEvent, s: NormEvent, frames: TableFrames): string[] {
  const names: string[] = [];
  for (const f of k.fields) {
    const g = s.fields.find(([n]) => n === f[0]);
    if (!g) {
      names.push(f[0]);
      continue;
    }
    const a = split(k, f);
    const b = split(s, g);
    if (a.rest !== b.rest || (a.frame === null) !== (b.frame === null)) {
      names.push(f[0]);
      continue;
    }
    if (a.frame === null || b.frame === null) continue;
    // an spte at level n points to a table of level n-1; an sptep lies in a table of level n
    const level = f[2] === 'spte' ? levelOf(k) - 1n : levelOf(k);
    if (!frames.same(a.frame, b.frame, level)) names.push(f[0]);
  }
  return names;
}

/** What an event says about tables that are gone. */
function forgetTables(k: NormEvent, frames: TableFrames): void {
  if (k.name === 'kvm_mmu_zap_all_fast') frames.rootsReplaced();
  else if (k.name === 'kvm_mmu_prepare_zap_page') {
    const role = k.fields.find(([n]) => n === 'role')?.[1];
    // role.level is in the low bits of every layout
    if (role !== undefined) frames.zapped(role & 0xfn);
  } else if (k.name === 'kvm_tdp_mmu_spte_changed') {
    const level = levelOf(k);
    const old = k.fields.find(([n]) => n === 'old_spte');
    const now = k.fields.find(([n]) => n === 'new_spte');
    if (old && now && isTableSpte(old[1], level) && !isTableSpte(now[1], level))
      frames.freed((old[1] & FRAME_MASK) >> 12n);
  }
}

/** Pairs up two lists so that as many events as possible meet their equal. */
export function align(a: readonly NormEvent[], b: readonly NormEvent[]): Pair[] {
  const ka = a.map(key);
  const kb = b.map(key);
  let head = 0;
  while (head < a.length && head < b.length && ka[head] === kb[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && ka[a.length - 1 - tail] === kb[b.length - 1 - tail])
    tail++;
  const pairs: Pair[] = [];
  for (let i = 0; i < head; i++) pairs.push([a[i], b[i]]);
  const midA = a.length - tail;
  const midB = b.length - tail;
  const matches = longestCommon(ka.slice(head, midA), kb.slice(head, midB));
  let i = head;
  let j = head;
  for (const [x, y] of [...matches, [midA - head, midB - head]]) {
    pairUp(a.slice(i, head + x), b.slice(j, head + y), pairs);
    i = head + x;
    j = head + y;
    if (i < midA && j < midB) pairs.push([a[i++], b[j++]]);
  }
  for (let n = tail; n > 0; n--) pairs.push([a[a.length - n], b[b.length - n]]);
  return pairs;
}

/** Events without an equal: those of the same name meet in order, the rest stand alone. */
function pairUp(a: readonly NormEvent[], b: readonly NormEvent[], pairs: Pair[]): void {
  let j = 0;
  for (const k of a) {
    let found = -1;
    for (let n = j; n < b.length; n++) {
      if (b[n].name === k.name) {
        found = n;
        break;
      }
    }
    if (found < 0) {
      pairs.push([k, null]);
      continue;
    }
    while (j < found) pairs.push([null, b[j++]]);
    pairs.push([k, b[j++]]);
  }
  while (j < b.length) pairs.push([null, b[j++]]);
}

/** Indices of a longest common subsequence. */
function longestCommon(a: readonly string[], b: readonly string[]): [number, number][] {
  const n = a.length;
  const m = b.length;
  if (n === 0 || m === 0 || n * m > EXACT_LIMIT) return [];
  const width = m + 1;
  const length = new Uint16Array((n + 1) * width);
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      length[i * width + j] =
        a[i] === b[j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
  const out: [number, number][] = [];
  let i = 0;
  let j = 0;
  while (i < n && j < m) {
    if (a[i] === b[j]) out.push([i++, j++]);
    else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
    else j++;
  }
  return out;
}
