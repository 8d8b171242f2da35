/**
 * Operations as data. A raw operation is six small numbers, so that a generator of random numbers, fast-check and a shrinker all make
 * them the same way; {@link decode} says what they mean in a mode. No operation depends on the state of the machine: one that makes no
 * sense when its turn comes does nothing.
 */
import {
  LARGE_GFNS, LEAF_GFNS, linearPages, SHAPES, slotsOf, sppOf, SPP_GFNS, TABLE_GFN, TABLES,
  type GoldenConfig, type GuestMode, type LinearPage, type ModeShape, type SlotSpec,
} from './layout'; // prettier-ignore
import type { AccessKind } from './oracle';

export type Raw = readonly [kind: number, a: number, b: number, c: number, d: number, e: number];
/** Exclusive upper bound of each number of a raw operation. */
export const RAW_LIMIT = 0x10000;

export type Flush = 'none' | 'invlpg' | 'all' | 'one';

export type Op =
  | {
      readonly kind: 'access';
      readonly vcpu: number;
      /** index into {@link Modes.pages}; with paging off the frame is taken */
      readonly page: number;
      readonly gfn: number;
      readonly offset: number;
      readonly access: AccessKind;
      readonly size: 1 | 2 | 4 | 8;
      readonly user: boolean;
      readonly ac: boolean;
      readonly value: bigint;
    }
  | {
      readonly kind: 'edit';
      readonly table: number;
      readonly index: number;
      readonly value: bigint;
      readonly size: 4 | 8;
      readonly flush: Flush;
      readonly vcpu: number;
      readonly page: number;
    }
  | { readonly kind: 'invlpg'; readonly vcpu: number; readonly page: number }
  | { readonly kind: 'invpcid'; readonly vcpu: number; readonly type: number; readonly pcid: number; readonly page: number }
  | { readonly kind: 'cr3'; readonly vcpu: number; readonly table: number; readonly pcid: number; readonly noflush: boolean }
  | { readonly kind: 'cr0'; readonly vcpu: number; readonly bit: 'WP' | 'PG' }
  | { readonly kind: 'cr4'; readonly vcpu: number; readonly bit: 'SMEP' | 'SMAP' | 'PGE' | 'PKE' | 'PCIDE' | 'PSE' }
  | { readonly kind: 'nxe'; readonly vcpu: number }
  | { readonly kind: 'pkru'; readonly vcpu: number; readonly value: number }
  | { readonly kind: 'flush'; readonly vcpu: number }
  | { readonly kind: 'smm'; readonly vcpu: number }
  | { readonly kind: 'smm-paging'; readonly vcpu: number; readonly table: number }
  | { readonly kind: 'slot'; readonly slot: number; readonly action: 'exist' | 'move' | 'log'; readonly where: number }
  | { readonly kind: 'dirty-get'; readonly slot: number }
  | { readonly kind: 'dirty-clear'; readonly slot: number; readonly mask: number }
  | { readonly kind: 'invalidate'; readonly slot: number; readonly index: number }
  | { readonly kind: 'spp'; readonly gfn: number; readonly maps: readonly number[]; readonly offset: number }
  | { readonly kind: 'host-write'; readonly slot: number; readonly index: number; readonly offset: number; readonly value: bigint }
  | { readonly kind: 'snapshot' }; // prettier-ignore

/** What {@link decode} needs to know about a mode, computed once. */
export interface Mode {
  readonly config: GoldenConfig;
  readonly guest: GuestMode;
  readonly shape: ModeShape;
  readonly pages: readonly LinearPage[];
  readonly slots: readonly SlotSpec[];
  /** for each level and index: pages whose translation reads that entry of a table */
  readonly pagesAt: ReadonlyMap<number, readonly number[]>;
  /** slots that come, go and move */
  readonly movable: readonly number[];
  /** sub-page permissions exist */
  readonly spp: boolean;
}

/** Key of {@link Mode.pagesAt}. */
export const atKey = (level: number, index: number): number => level * 1024 + index;

function pagesAt(pages: readonly LinearPage[]): Map<number, number[]> {
  const out = new Map<number, number[]>();
  pages.forEach((p, n) =>
    p.index.forEach((index, l) => {
      const list = out.get(atKey(l + 1, index));
      if (list) list.push(n);
      else out.set(atKey(l + 1, index), [n]);
    }),
  );
  return out;
}

export const modeOf = (config: GoldenConfig): Mode => ({
  config,
  guest: config.guest,
  shape: SHAPES[config.guest],
  pages: linearPages(config.guest),
  pagesAt: pagesAt(linearPages(config.guest)),
  slots: slotsOf(config),
  movable: slotsOf(config).flatMap((s, i) => (s.fixed ? [] : [i])),
  spp: sppOf(config),
});

/** vCPUs that run guests with paging; the next one only edits tables, with paging off. */
export const GUEST_VCPUS = 2;
export const EDITOR = 2;

const pick = <T>(list: readonly T[], n: number): T => list[n % list.length];

/** Low numbers are likelier: half of all picks are among the first quarter. */
const skewed = (n: number, count: number): number => {
  const x = n / RAW_LIMIT;
  return Math.min(count - 1, Math.floor(x * x * count));
};

/** A page-table entry. `n` chooses what it says, `flags` its rights. */
export function entry(mode: Mode, level: number, n: number, flags: number, target: number): bigint {
  const { shape, guest } = mode;
  const four = shape.entrySize === 4;
  const long = guest === '4level' || guest === '5level';
  const kind = n % 100;
  const pdpte = guest === 'pae' && level === 3;
  let gfn: number;
  let large = false;
  if (level === 1) gfn = pick(LEAF_GFNS, target);
  else if ((level === 2 || (level === 3 && long)) && kind >= 70 && kind < 88) {
    large = true;
    gfn = level === 2 ? (four ? pick([0, 0x400, 0x800], target) : pick(LARGE_GFNS, target)) : 0;
  } else {
    const home = shape.home.flatMap((h, i) => (h === level - 1 ? [i] : []));
    gfn = TABLE_GFN + (kind % 10 === 9 ? target % TABLES : pick(home, target));
  }
  if (kind >= 92 && kind < 96) return BigInt(flags & 0xffe); // not present, with junk
  if (kind >= 96 && kind < 98) return 0n;
  let lo = 1n;
  if (flags % 8 !== 0) lo |= 2n;
  if ((flags >> 3) % 5 !== 0) lo |= 4n;
  if ((flags >> 5) & 1) lo |= 0x20n;
  if ((flags >> 6) & 1) lo |= 0x40n;
  if ((flags >> 7) % 3 === 0 && (level === 1 || large)) lo |= 0x100n;
  if (pdpte) lo = 1n;
  if (large) lo |= 0x80n;
  let v = lo | (BigInt(gfn) << 12n);
  if (!four && !pdpte && (flags >> 9) % 6 === 0) v |= 1n << 63n;
  if (long && (flags >> 11) % 4 === 0) v |= BigInt((flags >> 13) & 3) << 59n;
  if (kind >= 98) {
    // a reserved bit
    if (four) v |= large ? 0x200000n : 0n;
    else if (pdpte) v |= pick([2n, 0x20n, 1n << 50n], flags);
    else if (level === 4 || level === 5) v |= pick([0x80n, 1n << 51n], flags);
    else v |= large ? pick([1n << 13n, 1n << 51n, 1n << 20n], flags) : 1n << 51n;
  }
  return v;
}

/** What a raw operation means in a mode. */
export function decode(mode: Mode, raw: Raw): Op {
  const [kind, a, b, c, d, e] = raw;
  const { shape, slots, pages } = mode;
  const k = Math.floor((kind * 1000) / RAW_LIMIT);
  const vcpu = a % GUEST_VCPUS;
  const page = skewed(b, pages.length);
  if (k < 40 && mode.spp) {
    const map = (n: number): number => (n % 3 === 0 ? 0xffffffff : n % 16 === 1 ? 0 : Math.imul(n, 0x9e3779b1) >>> 0);
    return { kind: 'spp', gfn: pick(SPP_GFNS, b), maps: Array.from({ length: 1 + (c % 3) }, (_, i) => map(d + i * e)), offset: (e & 0x3fe) * 4 };
  }
  if (k < 430) {
    const offsets = e % 3 === 0 ? pick(shape.indices[0], e >> 2) * shape.entrySize : pick([0x400, 0x408, 0x7f0, 0x3f8], e);
    const wide = shape.entrySize === 8 && (mode.guest === '4level' || mode.guest === '5level');
    const size = pick(wide ? ([4, 8, 8, 1] as const) : ([4, 4, 4, 2] as const), c >> 4);
    const access = pick(['load', 'load', 'load', 'store', 'store', 'store', 'rmw', 'fetch'] as const, c);
    const junk = entry(mode, 1 + (d % shape.levels), d >> 3, e, b);
    return {
      // with sub-pages also one that reaches from one into the next
      kind: 'access', vcpu, page, gfn: pick(LEAF_GFNS, b), offset: mode.spp && e % 16 === 5 ? 0x47c : offsets & 0xff8, access,
      size: access === 'fetch' ? 1 : size, user: ((c >> 8) & 3) === 0, ac: ((c >> 10) & 3) === 0,
      value: BigInt.asUintN(8 * size, d % 4 === 0 ? BigInt(e) * 0x1_0001_0000n + BigInt(d) : junk),
    }; // prettier-ignore
  }
  if (k < 660) {
    const table = skewed(b, TABLES);
    const home = shape.home[table];
    const level = c % 8 === 0 ? 1 + ((c >> 3) % shape.levels) : home;
    const list = shape.indices[home - 1];
    const index = list[skewed((c * 7) % RAW_LIMIT, list.length)];
    // Mostly a page is looked at (and flushed) that the entry is for.
    const near = mode.pagesAt.get(atKey(home, index)) ?? [0];
    return {
      kind: 'edit', table, index, value: entry(mode, level, d % 100, e, (d >> 4) ^ c), size: shape.entrySize,
      flush: pick(['none', 'none', 'invlpg', 'invlpg', 'all', 'all', 'one'] as const, a >> 1), vcpu, page: e % 4 === 0 ? skewed(c, pages.length) : near[skewed((c * 3) % RAW_LIMIT, near.length)],
    }; // prettier-ignore
  }
  if (k < 700) return { kind: 'invlpg', vcpu, page };
  if (k < 710) return { kind: 'invpcid', vcpu, type: c % 4, pcid: d % 3, page };
  if (k < 760)
    return { kind: 'cr3', vcpu, table: b % 5 === 0 ? (b >> 3) % TABLES : (b >> 3) % 2, pcid: c % 3, noflush: d % 2 === 0 };
  if (k < 780) return { kind: 'cr0', vcpu, bit: b % 4 === 0 ? 'PG' : 'WP' };
  if (k < 810) return { kind: 'cr4', vcpu, bit: pick(['SMEP', 'SMAP', 'PGE', 'PKE', 'PCIDE', 'PSE'] as const, b) };
  if (k < 818) return { kind: 'nxe', vcpu };
  if (k < 826) return { kind: 'pkru', vcpu, value: (c & 0xff) * (d % 3 === 0 ? 0 : 1) };
  if (k < 850) return { kind: 'flush', vcpu };
  if (k < 885) return { kind: 'smm', vcpu };
  if (k < 890) return { kind: 'smm-paging', vcpu, table: b % 2 };
  if (k < 925) {
    const action = pick(['exist', 'exist', 'move', 'move', 'log'] as const, c);
    return { kind: 'slot', slot: action === 'log' ? b % slots.length : pick(mode.movable, b), action, where: d };
  }
  if (k < 935) return { kind: 'slot', slot: b % slots.length, action: 'log', where: 0 };
  if (k < 955) return { kind: 'dirty-get', slot: b % slots.length };
  if (k < 965) return { kind: 'dirty-clear', slot: b % slots.length, mask: c * RAW_LIMIT + d };
  if (k < 983) return { kind: 'invalidate', slot: b % slots.length, index: c };
  if (k < 998)
    return { kind: 'host-write', slot: b % slots.length, index: c, offset: (d & 0x1ff) * 8, value: entry(mode, 1, d >> 3, e, a) };
  return { kind: 'snapshot' };
} // prettier-ignore
