/**
 * Compares remembered translations with what the tables in memory say now. A processor cannot do this; the debugger can, and so shows
 * where software forgot a flush.
 */
import { ACC_READ, OK, RIGHT_NX, RIGHT_U, RIGHT_W } from './access';
import { R_GPA_HI, R_GPA_LO, R_OUT_HI, R_OUT_LO, R_OUT_SHIFT, R_RIGHTS } from './access';
import { EPT_R, EPT_W, EPT_X, EPT_XU, eptLeaf } from './ept';
import { PTE_P, type PagingTables } from './paging';
import { S2_EPT, S2_NPT } from './second-stage';
import type { TlbEntry } from './tlb';
import type { Translator } from './translate';
import { PagingState, walkTables } from './walk';

/** Whether an entry still says what the tables say. `unknown` where the tables it came from are not in use now. */
export type Freshness = { state: 'fresh' } | { state: 'stale'; why: string } | { state: 'unknown'; why: string };

/** A TLB entry with its freshness. */
export type CheckedTlbEntry = TlbEntry & { freshness: Freshness };

const hex = (v: bigint | number): string => `0x${v.toString(16)}`;
const fresh: Freshness = { state: 'fresh' };
const stale = (why: string): Freshness => ({ state: 'stale', why });

/** The tables of a mode with every access allowed: what a page maps to is asked, not who may use it. */
function permissive(t: PagingTables): PagingTables {
  return { ...t, decisions: new Uint8Array(t.decisions.length), keys: 0, accessRules: [] };
}

/** All entries of the translator's caches, each with whether the tables in memory still agree. Nothing in memory changes. */
export function checkTlb(t: Translator): CheckedTlbEntry[] {
  return (t.tlb?.entries() ?? []).map((entry) => ({ ...entry, freshness: freshnessOf(t, entry) }));
}

/** Whether one entry still says what the tables say. */
export function freshnessOf(t: Translator, entry: TlbEntry): Freshness {
  const x = t.context;
  const saved = { dry: x.dry, tlb: x.tlb, recorder: x.recorder };
  const results = t.r.slice();
  x.dry = true;
  x.tlb = null;
  x.recorder = null;
  try {
    if (entry.context.stage2 !== t.currentStage2) return { state: 'unknown', why: 'of another second stage' };
    if (entry.kind === 'guest-physical') return secondStageFreshness(t, entry, entry.address, entry.target);
    if (entry.kind === 'paging-structure') return structureFreshness(t, entry);
    return pageFreshness(t, entry);
  } finally {
    Object.assign(x, saved);
    t.r.set(results);
  }
}

/** The guest's tables as they were rooted when the entry's context was last in use. */
function tablesOf(t: Translator, entry: TlbEntry): PagingState {
  const g = new PagingState(permissive(t.guest.tables), t.stage2, 'guest', 0);
  const { rootLo, rootHi } = t.tlb!.contextOf(entry.contextNumber);
  g.rootLo = rootLo;
  g.rootHi = rootHi;
  g.pdptes.set(t.guest.pdptes);
  g.pdpteRegisters = t.guest.pdpteRegisters;
  return g;
}

function pageFreshness(t: Translator, entry: TlbEntry): Freshness {
  const { r } = t;
  const lo = Number(BigInt.asIntN(32, entry.address));
  const hi = Number(BigInt.asIntN(32, entry.address >> 32n));
  if (t.guest.tables.top === 0) return secondStageFreshness(t, entry, entry.address, entry.target);
  if (walkTables(t.context, tablesOf(t, entry), lo, hi, ACC_READ) !== OK)
    return stale('the tables map nothing here now');
  const gpa = (BigInt(r[R_OUT_HI] >>> 0) << 32n) | BigInt(r[R_OUT_LO] >>> 0);
  if (gpa !== entry.gpa) return stale(`the tables lead to gpa ${hex(gpa)} now, the entry to ${hex(entry.gpa)}`);
  const now = r[R_RIGHTS];
  const changed = (now ^ entry.rights) & (RIGHT_W | RIGHT_U | RIGHT_NX);
  if ((changed & RIGHT_W) !== 0) return stale((now & RIGHT_W) !== 0 ? 'R/W is 1 now' : 'R/W is 0 now');
  if ((changed & RIGHT_U) !== 0) return stale((now & RIGHT_U) !== 0 ? 'U/S is 1 now' : 'U/S is 0 now');
  if ((changed & RIGHT_NX) !== 0) return stale((now & RIGHT_NX) !== 0 ? 'XD is 1 now' : 'XD is 0 now');
  if (2 ** r[R_OUT_SHIFT] < 2 ** entry.shift) return stale('the page is smaller now');
  r[R_GPA_LO] = Number(BigInt.asIntN(32, gpa));
  r[R_GPA_HI] = Number(BigInt.asIntN(32, gpa >> 32n));
  return secondStageFreshness(t, entry, gpa, entry.target);
}

/** Where the second stage leads a guest-physical address now, and what for (rwx); null where it maps nothing. */
function throughSecondStage(t: Translator, gpa: bigint): { hpa: bigint; serves: string } | null {
  const { r, stage2 } = t;
  const lo = Number(BigInt.asIntN(32, gpa));
  const hi = Number(BigInt.asIntN(32, gpa >> 32n));
  if (stage2.kind === S2_EPT) {
    const leaf = eptLeaf(t.context, stage2.ept!, lo, hi);
    if (leaf === null) return null;
    const offset = (1n << BigInt(3 + 9 * leaf.level)) - 1n;
    const frame = ((BigInt(leaf.hi & 0x000f_ffff) << 32n) | BigInt(leaf.lo >>> 0)) & 0x000f_ffff_ffff_f000n;
    const execute = leaf.and & (stage2.ept!.mbec ? EPT_X | EPT_XU : EPT_X);
    return {
      hpa: (frame & ~offset) | (gpa & offset),
      serves: `${leaf.and & EPT_R ? 'r' : ''}${leaf.and & EPT_W ? 'w' : ''}${execute ? 'x' : ''}`,
    };
  }
  if (stage2.kind === S2_NPT) {
    const npt = new PagingState(permissive(stage2.npt!.tables), stage2.npt!.stage2, 'npt', stage2.npt!.pendingBase);
    npt.rootLo = stage2.npt!.rootLo;
    npt.rootHi = stage2.npt!.rootHi;
    if (walkTables(t.context, npt, lo, hi, ACC_READ) !== OK) return null;
    const now = r[R_RIGHTS];
    return {
      hpa: (BigInt(r[R_OUT_HI] >>> 0) << 32n) | BigInt(r[R_OUT_LO] >>> 0),
      serves: `${now & RIGHT_U ? 'r' : ''}${now & RIGHT_W ? 'w' : ''}${now & RIGHT_NX ? '' : 'x'}`,
    };
  }
  return { hpa: gpa, serves: 'rwx' };
}

/** The second stage's name, which maps nothing any more. */
const nameOf = (t: Translator): string => (t.stage2.kind === S2_EPT ? 'EPT' : 'NPT');

function secondStageFreshness(t: Translator, entry: TlbEntry, gpa: bigint, target: bigint): Freshness {
  const now = throughSecondStage(t, gpa);
  if (now === null) return stale(`${nameOf(t)} maps nothing here now`);
  if (now.hpa !== target) return stale(`the tables lead to hpa ${hex(now.hpa)} now, the entry to ${hex(target)}`);
  for (const c of entry.serves)
    if (c !== '-' && !now.serves.includes(c)) return stale(`the second stage forbids ${NAMES[c]} now`);
  return fresh;
}

const NAMES: Readonly<Record<string, string>> = { r: 'reads', w: 'writes', x: 'fetches' };

/** Re-reads the guest's entries down to the level of a paging-structure entry. */
function structureFreshness(t: Translator, entry: TlbEntry): Freshness {
  const g = tablesOf(t, entry);
  const { memory } = t;
  const { entryShift, indexMask, mode } = g.tables;
  if (mode.name === 'off') return { state: 'unknown', why: 'paging is off' };
  let table = (BigInt(g.rootHi >>> 0) << 32n) | BigInt(g.rootLo >>> 0);
  for (let level = mode.top as number; level >= entry.level; level--) {
    let raw: bigint;
    if (level === 3 && mode.name === 'pae') {
      const i = Number(entry.address >> 30n) & 3;
      raw = (BigInt(g.pdptes[2 * i + 1] >>> 0) << 32n) | BigInt(g.pdptes[2 * i] >>> 0);
    } else {
      const shift = BigInt(12 + (level - 1) * mode.indexBits);
      const index = Number(entry.address >> shift) & indexMask;
      const gpa = table + BigInt(index << entryShift);
      const now = throughSecondStage(t, gpa);
      if (now === null) return stale(`${nameOf(t)} maps the guest's level ${level} table nowhere now`);
      raw = entryShift === 3 ? memory.readQ(Number(now.hpa)) : BigInt(memory.read32(Number(now.hpa)));
    }
    if ((raw & BigInt(PTE_P)) === 0n) return stale(`the level ${level} entry is not present now`);
    table = raw & 0x000f_ffff_ffff_f000n;
  }
  return table === entry.target ? fresh : stale(`the level ${entry.level} entry leads to ${hex(table)} now`);
}
