/** Page tables for tests: one path from a root to a page, with the flags of each entry chosen. */
import type { PhysMemory } from '../memory';
import { PAGING_MODES, type PagingModeName } from '../paging';

const low = (v: bigint): number => Number(BigInt.asIntN(32, v));
const high = (v: bigint): number => Number(BigInt.asIntN(32, v >> 32n));

/** Writes a 64-bit word. */
export function poke64(memory: PhysMemory, address: number, value: bigint): void {
  memory.writeQ(address, low(value), high(value));
}

/** Halves of an address, as Translator.translate takes them. */
export const halves = (v: bigint): [number, number] => [low(v), high(v)];

export interface Path {
  /** Address of the entry by level. */
  at: Record<number, number>;
  /** Address of the page. */
  page: bigint;
}

export interface PathOptions {
  mode?: Exclude<PagingModeName, 'off'>;
  /** Address of the top table; the tables below follow page by page. */
  root?: number;
  va: bigint;
  /** Address of the page; its default lies well away from the tables. */
  page?: bigint;
  /** Level at which the page is mapped: 1, or 2 and 3 for large pages (PS is set). */
  leaf?: number;
  /** Flags of all entries (default P, W, U, A, D), and of single levels in their place. */
  flags?: bigint;
  flagsAt?: Record<number, bigint>;
}

/** Makes one path of guest (or NPT) tables. The page's address is aligned down to its size. */
export function mapPath(memory: PhysMemory, o: PathOptions): Path {
  const mode = PAGING_MODES[o.mode ?? '4level'];
  const leaf = o.leaf ?? 1;
  const at: Record<number, number> = {};
  let table = o.root ?? 0x1000;
  const size = 1n << BigInt(12 + (leaf - 1) * mode.indexBits);
  const page = ((o.page ?? 0x4000_0000n) / size) * size;
  for (let level: number = mode.top; level >= leaf; level--) {
    const shift = BigInt(12 + (level - 1) * mode.indexBits);
    const index = Number((o.va >> shift) & BigInt((1 << mode.indexBits) - 1));
    at[level] = table + index * (1 << mode.entryShift);
    // A PAE PDPTE has no flags but P.
    const usual =
      mode.name === 'pae' && level === 3 ? 1n : (o.flags ?? 0x67n) | (level === leaf && leaf > 1 ? 0x80n : 0n);
    const flags = o.flagsAt?.[level] ?? usual;
    const next = level === leaf ? page : BigInt((Math.floor(table / 0x1000) + 1) * 0x1000);
    const value = next | flags;
    if (mode.entryShift === 3) poke64(memory, at[level], value);
    else memory.write32(at[level], Number(value));
    table = Number(next);
  }
  return { at, page };
}

export interface EptPathOptions {
  root?: number;
  levels?: 4 | 5;
  gpa: bigint;
  page?: bigint;
  leaf?: number;
  /** Flags of entries that refer to tables (default 7), of the last entry (default 0x37), of single levels. */
  flags?: bigint;
  leafFlags?: bigint;
  flagsAt?: Record<number, bigint>;
}

/** Makes one path of EPT tables, from 0x100000 on unless told otherwise. Tables that exist are kept. */
export function mapEpt(memory: PhysMemory, o: EptPathOptions): Path {
  const leaf = o.leaf ?? 1;
  const at: Record<number, number> = {};
  const root = o.root ?? 0x10_0000;
  let table = root;
  const size = 1n << BigInt(3 + 9 * leaf);
  const page = ((o.page ?? 0x5000_0000n) / size) * size;
  for (let level: number = o.levels ?? 4; level >= leaf; level--) {
    at[level] = table + Number((o.gpa >> BigInt(3 + 9 * level)) & 511n) * 8;
    const there = memory.readQ(at[level]);
    const usual = level === leaf ? (o.leafFlags ?? 0x37n) | (leaf > 1 ? 0x80n : 0n) : (o.flags ?? 7n);
    const flags = o.flagsAt?.[level] ?? usual;
    let next = page;
    if (level !== leaf) {
      // Frames after the root are handed out in the order in which tables are needed; the count is kept beside the root.
      const counter = root - 8;
      if ((there & 7n) !== 0n) next = there & 0x000f_ffff_ffff_f000n;
      else {
        const n = memory.read32(counter) + 1;
        memory.write32(counter, n);
        next = BigInt(root + n * 0x1000);
      }
    }
    poke64(memory, at[level], next | flags);
    table = Number(next);
  }
  return { at, page };
}
