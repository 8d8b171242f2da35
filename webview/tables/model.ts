/** What the Tables view shows, without the showing: which rows, what kind each is, where to go next. Pure functions over JSON. */
import type { RootView, RowMark, RootsBody, TableBody, TableRow, WhyView } from '../../src/adapter/protocol';

/** Which rows to show. */
export type RowFilter = 'all' | 'present' | 'mmio' | 'changed';

/** What an entry is, for its picture and its first word. The order is from most to least urgent. */
export type RowKind = 'stale' | 'mmio' | 'reserved' | 'removed' | 'large' | 'leaf' | 'table' | 'software' | 'none';

/** How each kind is called in the view. */
export const KIND_NAMES: Readonly<Record<RowKind, string>> = {
  stale: 'MMIO, stale',
  mmio: 'MMIO',
  reserved: 'misconfigured',
  removed: 'being removed',
  large: 'large page',
  leaf: 'page',
  table: 'table',
  software: 'not present',
  none: 'not present',
};

const has = (row: TableRow, mark: RowMark): boolean => row.marks.includes(mark);

export function kindOf(row: TableRow): RowKind {
  if (has(row, 'stale')) return 'stale';
  if (row.mmio !== null || has(row, 'mmio')) return 'mmio';
  if (has(row, 'reserved')) return 'reserved';
  if (has(row, 'removed')) return 'removed';
  if (has(row, 'large')) return 'large';
  if (has(row, 'table') || row.descend) return 'table';
  if (has(row, 'leaf') || has(row, 'present')) return 'leaf';
  if (has(row, 'software') || BigInt(row.raw) !== 0n) return 'software';
  return 'none';
}

/**
 * The rows that a filter and a search leave. The search is of words that must all be there, in the index (`#12`, `12`, `0xc`), the
 * address, the raw entry, its meaning or its kind.
 */
export function visibleRows(rows: readonly TableRow[], filter: RowFilter, search: string): readonly TableRow[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => passes(row, filter) && words.every((word) => matches(row, word)));
}

function passes(row: TableRow, filter: RowFilter): boolean {
  switch (filter) {
    case 'all':
      return true;
    case 'present':
      return kindOf(row) !== 'none';
    case 'mmio':
      return row.mmio !== null || has(row, 'mmio');
    case 'changed':
      return has(row, 'changed');
  }
}

function matches(row: TableRow, word: string): boolean {
  if (word.startsWith('#')) return row.index === Number(word.slice(1));
  return (
    String(row.index) === word ||
    row.raw.includes(word) ||
    row.from.includes(word) ||
    (row.target ?? '').includes(word) ||
    row.summary.toLowerCase().includes(word) ||
    row.marks.some((mark) => mark === word) ||
    (row.mmio?.gfn.includes(word) ?? false)
  );
}

/** The row that translates an address; undefined if the page does not cover it. */
export function rowAt(body: TableBody, address: bigint): TableRow | undefined {
  const size = BigInt(body.entryCoverage);
  if (size === 0n) return undefined;
  return body.rows.find((row) => address >= BigInt(row.from) && address < BigInt(row.from) + size);
}

/**
 * Which root to show after a stop. The one that was shown stays as long as it is there, except when it was the one in use and is
 * no longer: then the view moves on to the root of its kind that is in use now, as SMM entry or a new CR3 makes it.
 */
export function rootAfterStop(before: RootView | null, body: RootsBody): RootView | null {
  const { roots } = body;
  const first = roots.find((r) => r.current && r.kind !== 'guest') ?? roots.find((r) => r.current) ?? roots[0] ?? null;
  if (before === null) return first;
  const same = roots.find((r) => r.id === before.id);
  if (same !== undefined && (same.current || !before.current)) return same;
  const inUse = roots.find((r) => r.kind === before.kind && r.current);
  return inUse ?? same ?? roots.find((r) => r.kind === before.kind) ?? first;
}

/** Reads an address as people write it. @throws Error, one sentence. */
export function parseAddress(text: string): string {
  const digits = text.trim().replace(/[\s_'`]/g, '');
  if (!/^(0x)?[0-9a-f]+$/i.test(digits)) {
    throw new Error(`'${text.trim()}' is not an address: type hexadecimal digits, as 0xfee00000`);
  }
  const value = BigInt(digits.toLowerCase().startsWith('0x') ? digits : `0x${digits}`);
  if (value >> 64n !== 0n) throw new Error(`0x${value.toString(16)} has more than 64 bits`);
  return `0x${value.toString(16)}`;
}

/** `4 KiB`, `2 MiB`, `512 GiB`. */
export function sizeText(bytes: bigint): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let n = bytes;
  let unit = 0;
  while (n >= 1024n && n % 1024n === 0n && unit < units.length - 1) {
    n /= 1024n;
    unit++;
  }
  return `${n} ${units[unit] ?? ''}`;
}

/** The word on a row's MMIO: `gfn 0x10000, generation 6`, with what the generation should be if it is another. */
export function mmioText(mmio: NonNullable<TableRow['mmio']>): string {
  const generation = mmio.generation === null ? '' : `, generation ${BigInt(mmio.generation)}`;
  const stale =
    mmio.generation !== null &&
    mmio.currentGeneration !== null &&
    BigInt(mmio.generation) !== BigInt(mmio.currentGeneration)
      ? ` (now ${BigInt(mmio.currentGeneration)})`
      : '';
  return `gfn ${mmio.gfn}${mmio.access === '' ? '' : `, access ${mmio.access}`}${generation}${stale}`;
}

/** The counts of a page that are worth a headline, as the view words them. */
const COUNTS: readonly (readonly [mark: string, one: string, more?: string])[] = [
  ['present', 'present'],
  ['table', 'table', 'tables'],
  ['large', 'large page', 'large pages'],
  ['mmio', 'cached MMIO'],
  ['stale', 'stale'],
  ['reserved', 'misconfigured'],
  ['removed', 'being removed'],
  ['changed', 'changed'],
];

/** A page in one line: `12 present · 2 cached MMIO · 1 changed`. Zero counts are left out. */
export function countsText(body: TableBody): string {
  const parts = COUNTS.flatMap(([mark, one, more = one]) => {
    const count = body.counts[mark] ?? 0;
    return count === 0 ? [] : [`${count} ${count === 1 ? one : more}`];
  });
  return parts.length === 0 ? 'no entry present' : parts.join(' · ');
}

/** Where to go in a tree: the indexes down to a table and an entry in it, or an address and the level at which to stop. */
export type Goal =
  { readonly path: readonly number[]; readonly index: number } | { readonly address: string; readonly level: number };

/** The root in use of the tree whose entry decided a walk; null if the walk read no table that can be shown. */
export function rootOfWalk(why: WhyView, roots: readonly RootView[]): RootView | null {
  const table = why.steps.at(-1)?.table;
  return roots.find((r) => r.kind === table && r.current) ?? null;
}

/**
 * The entry at which the last walk through trees of a kind ended. A walk of guest tables under EPT holds many EPT walks; the last is
 * the one that counts. Where paging-structure caches took the place of the upper levels, the address leads there instead.
 */
export function goalOfWalk(why: WhyView, root: Pick<RootView, 'kind' | 'level'>): Goal | undefined {
  const own = why.steps.filter((s) => s.table === root.kind);
  const last = own.at(-1);
  if (last === undefined) return undefined;
  const start = own.findLastIndex((s) => s.level === root.level);
  const walk = start < 0 ? [] : own.slice(start);
  if (walk.length > 0 && walk.every((s, i) => s.level === root.level - i)) {
    return { path: walk.slice(0, -1).map((s) => s.index), index: last.index };
  }
  const m =
    root.kind === 'guest'
      ? /\bgva (0x[0-9a-f]+)/.exec(why.access)
      : /\bgpa (0x[0-9a-f]+)/.exec(`${why.verdict.text} ${why.access}`);
  return m?.[1] === undefined ? undefined : { address: m[1], level: last.level };
}
