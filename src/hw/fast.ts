/**
 * The common case of a walk, made short: 64-bit entries, everything present and well formed, the access allowed, all accessed and dirty
 * flags already set, nobody recording. What it cannot decide it leaves to the full walk (walk.ts, ept.ts): it answers SLOW before it has
 * changed anything. So it holds no rule of its own, and fast.test.ts holds it to the full walk's answers.
 *
 * Why it looks as it does. A walk is a chain of dependent loads; the processor overlaps one walk with the next only if few instructions
 * lie between. So the levels are written out one after the other, masks are plain numbers, and constants are repeated here unexported:
 * V8 folds a module's own constants into the code, imported ones it loads and checks at each use. docs/performance.md has the figures.
 */
import { ACC_COUNT } from './access';
import type { EptState } from './ept';
import type { PhysMemory } from './memory';
import { LV_LEAF, LV_LEAF_LO, LV_STRIDE, LV_TABLE_HI, LV_TABLE_LO } from './paging';
import type { Tlb } from './tlb';
import type { PagingState } from './walk';

/** What {@link fastWalk} answers if the full walk has to decide; not 0 (OK). */
const SLOW = -1;

// Result words, as in access.ts.
const R_HPA_LO = 0;
const R_HPA_HI = 1;
const R_GPA_LO = 2;
const R_GPA_HI = 3;
const R_LEVEL = 4;
const R_PAGE_SHIFT = 5;
const R_S2_LEVEL = 6;
const R_S2_SHIFT = 7;
const R_MEMTYPE = 8;
const R_IPAT = 9;
const R_RULE = 19;
const R_RIGHTS = 20;
const R_SPP_ALLOWED = 21;
const R_LEAF_FLAGS = 27;

/** As in memory.ts: the hash of a frame number. */
const FIBONACCI = 0x9e3779b1 | 0;
/** P and A of an entry: 1 in all entries that the fast walk takes. */
const P_A = 0x21;
const D = 0x40;
const PS = 0x80;
const G = 0x100;
const ADDRESS_LO = 0xffff_f000 | 0;
const ADDRESS_HI = 0x000f_ffff;
/** High half of physical addresses from 2^43 on: their frames are not in the hash table. */
const FAR_HI = 0x7ff;
/** Address bits of a large page below its size that have to be 0. */
const RSVD_2M = 0x001f_e000;
const RSVD_1G = 0x3fff_e000;
const NO_STAGE2_SHIFT = 52;

const EPT_R = 1;
const EPT_W = 2;
const EPT_A = 0x100;
const EPT_D = 0x200;
/** Bits 6:3 and 7 of an EPT entry that refers to a table are 0. */
const EPT_TABLE_ZERO = 0xf8;
const EPT_RSVD_2M = 0x001f_f000;
const EPT_RSVD_1G = 0x3fff_f000;
/** Bit n: memory type n exists. */
const EPT_MEMTYPES = 0b0111_0011;

/** One set of x86 page tables in the form that the fast walk wants; {@link prepare} it when registers change. */
export class FastPaging {
  /** Level of the table at the root: 4 or 5; 2 with PAE, whose PDPTEs are registers; 0: every walk is SLOW. */
  top = 0;
  rootLo = 0;
  rootHi = 0;
  pdptes: Int32Array = new Int32Array(8);
  /** Reserved bits in the high half, the same at all levels. */
  reservedHi = 0;
  /** Bits of which a PML4E or PML5E has P and A set and the others clear. */
  upper = 0;
  /** Likewise for a PDPTE that refers to a table; PS is among them if there are no 1 GiB pages. */
  third = 0;
  decisions: Uint8Array = new Uint8Array(ACC_COUNT * 16);
  /** Whether {@link fastTlb} may be asked: paging is on. */
  serves = false;
  /** Protection keys in use: PKRU and IA32_PKRS, 0 where they do not matter. */
  pkru = 0;
  pkrs = 0;

  /** Takes over tables and root. */
  prepare(g: PagingState): void {
    const t = g.tables;
    const usable = t.entryShift === 3 && (t.top >= 4 || (t.top === 3 && g.pdpteRegisters));
    this.top = usable ? (t.top === 3 ? 2 : t.top) : 0;
    this.serves = t.top !== 0;
    this.rootLo = g.rootLo;
    this.rootHi = g.rootHi;
    this.pdptes = g.pdptes;
    this.decisions = t.decisions;
    this.pkru = (t.keys & 1) !== 0 ? g.pkru : 0;
    this.pkrs = (t.keys & 2) !== 0 ? g.pkrs : 0;
    const word = (level: number, offset: number) => t.levels[level * LV_STRIDE + offset];
    this.reservedHi = word(1, LV_TABLE_HI);
    this.upper = P_A | word(4, LV_TABLE_LO) | (t.top === 5 ? word(5, LV_TABLE_LO) : 0);
    this.third = P_A | word(3, LV_TABLE_LO);
    if (!usable) return;
    for (let level = 1; level <= this.top; level++) {
      const leafRules = level === 1 ? 0 : level === 2 ? RSVD_2M : RSVD_1G;
      const leaf = word(level, LV_LEAF) === PS || level === 1;
      const asExpected =
        word(level, LV_TABLE_HI) === this.reservedHi && (!leaf || word(level, LV_LEAF_LO) === leafRules);
      // A mode whose rules have another shape is none for the fast walk.
      if (!asExpected) this.top = 0;
    }
  }
}

/** The second stage in the form that the fast walk wants. */
export class FastStage2 {
  /** 0 none, 1 EPT, 2 NPT, 3: every walk is SLOW. */
  kind = 0;
  /** NPT. */
  readonly npt = new FastPaging();
  /** EPT. */
  five = false;
  rootLo = 0;
  rootHi = 0;
  reservedHi = 0;
  /** Bits that an EPT entry has set: R, with accessed and dirty flags A too. */
  set = 0;
  /** Rights that a guest table access needs, and D if it counts as a write. */
  table = 0;
  ad = false;
  mbec = false;
  large2m = false;
  large1g = false;

  prepareEpt(e: EptState): void {
    const { ept1g, ept2m } = e.tables;
    this.kind = e.verifyPaging ? 3 : 1;
    this.five = e.top === 5;
    this.rootLo = e.rootLo;
    this.rootHi = e.rootHi;
    this.reservedHi = e.tables.reservedHi;
    this.set = e.ad ? EPT_R | EPT_A : EPT_R;
    this.table = e.ad ? EPT_R | EPT_W : EPT_R;
    this.ad = e.ad;
    this.mbec = e.mbec;
    this.large2m = ept2m;
    this.large1g = ept1g;
  }

  prepareNpt(g: PagingState): void {
    this.npt.prepare(g);
    // PAE hosts read the PDPTEs at each walk: left to the full walk.
    this.kind = this.npt.top >= 4 ? 2 : 3;
  }
}

// Words of a TLB entry, as in tlb.ts.
const T_HPA_LO = 0;
const T_HPA_HI = 1;
const T_GPA_LO = 2;
const T_GPA_HI = 3;
const T_RIGHTS = 4;
const T_SERVES = 5;
const T_LEAF = 6;
const CONTEXT_SHIFT = 13;
const TLB_SETS_4K = 256;

/**
 * Looks for a 4 KiB page in the TLB. Returns the entry's offset with addresses in `r` if it serves the access without a walk, else SLOW.
 */
export function fastTlb(t: Tlb, g: FastPaging, r: Int32Array, vLo: number, vHi: number, access: number): number {
  vLo |= 0;
  vHi |= 0;
  access |= 0;
  const { page4k } = t;
  const { tags } = page4k;
  const page = (vLo >>> 12) | (vHi << 20);
  const rest = (vHi & 0x01ff_ffff) >>> 12;
  const own = rest | (t.context << CONTEXT_SHIFT);
  const shared = rest | (t.globals << CONTEXT_SHIFT);
  let i = (page & (TLB_SETS_4K - 1)) << 3;
  if (tags[i] !== page || (tags[i | 1] !== own && tags[i | 1] !== shared)) {
    i += 2;
    if (tags[i] !== page || (tags[i | 1] !== own && tags[i | 1] !== shared)) {
      i += 2;
      if (tags[i] !== page || (tags[i | 1] !== own && tags[i | 1] !== shared)) {
        i += 2;
        if (tags[i] !== page || (tags[i | 1] !== own && tags[i | 1] !== shared)) return SLOW;
      }
    }
  }
  const d = page4k.data;
  const o = i << 3;
  if (((d[o | T_SERVES] >>> (access & 3)) & 1) === 0 || (access & 0x10) !== 0) return SLOW;
  const rights = d[o | T_RIGHTS];
  if (g.decisions[((access & 63) << 4) | rights] !== 0) return SLOW;
  if (((((rights & 2) !== 0 ? g.pkru : g.pkrs) >>> (d[o | T_LEAF] >>> 3)) & 3) !== 0) return SLOW;
  r[R_HPA_LO] = d[o | T_HPA_LO] | (vLo & 0xfff);
  r[R_HPA_HI] = d[o | T_HPA_HI];
  r[R_GPA_LO] = d[o | T_GPA_LO] | (vLo & 0xfff);
  r[R_GPA_HI] = d[o | T_GPA_HI];
  r[R_RULE] = 0;
  return o;
}

/** Slot of frame `pfn` from place `i` on, when the place looked at first held another one. */
function probe(places: Int32Array, pfn: number, i: number): number {
  const mask = places.length - 1;
  for (;;) {
    const at = places[i];
    if (at === pfn) return places[i | 1];
    if (at === -1) return 0;
    i = (i + 2) & mask;
  }
}

/**
 * Translates linear address vHi:vLo (canonical) through guest tables `g` and second stage `s`. OK (0) with the results in `r`, or SLOW.
 */
export function fastWalk(m: PhysMemory, g: FastPaging, s: FastStage2, r: Int32Array, vLo: number, vHi: number, access: number): number {
  const top = g.top;
  // Bit 4: shadow-stack accesses.
  if (top === 0 || (access & 0x10) !== 0 || s.kind === 3) return SLOW;
  // Tells V8 once that these are 32-bit integers.
  vLo |= 0;
  vHi |= 0;
  access |= 0;
  const { reservedHi } = g;
  const nested = s.kind !== 0;
  const { words, places } = m;
  const shift = m.placeShift;
  let lo = g.rootLo;
  let hi = g.rootHi;
  let and = -1;
  let nx = 0;
  let level = 1;
  let pfn = 0;
  let i = 0;
  let w = 0;

  find: {
    if (top === 2) {
      i = (vLo >>> 30) << 1;
      lo = g.pdptes[i];
      hi = g.pdptes[i | 1];
      if ((lo & 1) === 0) return SLOW;
    } else {
      if (top === 5) {
        hi &= ADDRESS_HI;
        pfn = nested ? fastStage2(m, s, r, lo, hi, s.table, false) : hi > FAR_HI ? SLOW : (lo >>> 12) | (hi << 20);
        if (pfn < 0) return SLOW;
        i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
        w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((vHi >>> 15) & 0x3fe);
        lo = words[w];
        hi = words[w | 1];
        if ((((lo ^ P_A) & g.upper) | (hi & reservedHi)) !== 0) return SLOW;
        and &= lo;
        nx |= hi;
      }
      hi &= ADDRESS_HI;
      pfn = nested ? fastStage2(m, s, r, lo, hi, s.table, false) : hi > FAR_HI ? SLOW : (lo >>> 12) | (hi << 20);
      if (pfn < 0) return SLOW;
      i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
      w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((vHi >>> 6) & 0x3fe);
      lo = words[w];
      hi = words[w | 1];
      if ((((lo ^ P_A) & g.upper) | (hi & reservedHi)) !== 0) return SLOW;
      and &= lo;
      nx |= hi;

      hi &= ADDRESS_HI;
      pfn = nested ? fastStage2(m, s, r, lo, hi, s.table, false) : hi > FAR_HI ? SLOW : (lo >>> 12) | (hi << 20);
      if (pfn < 0) return SLOW;
      i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
      w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((vLo >>> 29) & 6) | ((vHi << 3) & 0x3f8);
      lo = words[w];
      hi = words[w | 1];
      if ((lo & PS) !== 0) {
        if ((lo & RSVD_1G) !== 0 || (g.third & PS) !== 0) return SLOW;
        level = 3;
        break find;
      }
      if ((((lo ^ P_A) & g.third) | (hi & reservedHi)) !== 0) return SLOW;
      and &= lo;
      nx |= hi;
    }

    hi &= ADDRESS_HI;
    pfn = nested ? fastStage2(m, s, r, lo, hi, s.table, false) : hi > FAR_HI ? SLOW : (lo >>> 12) | (hi << 20);
    if (pfn < 0) return SLOW;
    i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
    w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((vLo >>> 20) & 0x3fe);
    lo = words[w];
    hi = words[w | 1];
    if ((lo & PS) !== 0) {
      if ((lo & RSVD_2M) !== 0) return SLOW;
      level = 2;
      break find;
    }
    if ((((lo ^ P_A) & P_A) | (hi & reservedHi)) !== 0) return SLOW;
    and &= lo;
    nx |= hi;

    hi &= ADDRESS_HI;
    pfn = nested ? fastStage2(m, s, r, lo, hi, s.table, false) : hi > FAR_HI ? SLOW : (lo >>> 12) | (hi << 20);
    if (pfn < 0) return SLOW;
    i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
    w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((vLo >>> 11) & 0x3fe);
    lo = words[w];
    hi = words[w | 1];
  }

  // hi:lo is the entry that maps the page. A write needs D too.
  const need = (access & 3) === 1 ? P_A | D : P_A;
  if (((~lo & need) | (hi & reservedHi)) !== 0) return SLOW;
  const rights = (((and & lo) >>> 1) & 3) | (((nx | hi) >>> 31) << 2);
  if (g.decisions[((access & 63) << 4) | rights] !== 0) return SLOW;
  const key = (hi >>> 27) & 15;
  // A key with AD or WD set may or may not forbid the access.
  if (((((rights & 2) !== 0 ? g.pkru : g.pkrs) >>> (key << 1)) & 3) !== 0) return SLOW;
  const pageShift = 3 + 9 * level;
  const offset = (1 << pageShift) - 1;
  const outLo = (lo & ADDRESS_LO & ~offset) | (vLo & offset);
  hi &= ADDRESS_HI;
  r[R_GPA_LO] = outLo;
  r[R_GPA_HI] = hi;
  r[R_LEVEL] = level;
  r[R_PAGE_SHIFT] = pageShift;
  r[R_RIGHTS] = rights;
  r[R_LEAF_FLAGS] = ((lo & D) >>> 6) | ((lo & G) >>> 7) | (key << 4);
  r[R_RULE] = 0;
  if (nested) {
    const type = access & 3;
    const rightsNeeded = type === 0 ? EPT_R : type === 1 ? EPT_W : s.mbec && (rights & 2) !== 0 ? 0x400 : 4;
    pfn = fastStage2(m, s, r, outLo, hi, rightsNeeded, true);
    if (pfn < 0) return SLOW;
    r[R_HPA_LO] = (pfn << 12) | (outLo & 0xfff);
    r[R_HPA_HI] = pfn >>> 20;
    r[R_SPP_ALLOWED] = 0;
    return 0;
  }
  r[R_HPA_LO] = outLo;
  r[R_HPA_HI] = hi;
  r[R_S2_LEVEL] = 0;
  r[R_S2_SHIFT] = NO_STAGE2_SHIFT;
  r[R_MEMTYPE] = -1;
  return 0;
} // prettier-ignore

/**
 * Host frame of the guest-physical address in hi:lo (an entry or an address), or SLOW.
 * @param need EPT rights; bit 1 (W) means that D has to be set where dirty flags are in use
 * @param final whether to leave the mapping's level and memory type in `r`
 */
function fastStage2(m: PhysMemory, s: FastStage2, r: Int32Array, lo: number, hi: number, need: number, final: boolean): number {
  return s.kind === 1 ? fastEpt(m, s, r, lo, hi, need, final) : fastNpt(m, s.npt, r, lo, hi, need, final);
} // prettier-ignore

function fastEpt(m: PhysMemory, s: FastStage2, r: Int32Array, gLo: number, gHi: number, need: number, final: boolean): number {
  const { words, places } = m;
  const shift = m.placeShift;
  const { reservedHi, set } = s;
  const zero = set | EPT_TABLE_ZERO;
  let lo = s.rootLo;
  let hi = s.rootHi;
  let and = need;
  let pfn = 0;
  let i = 0;
  let w = 0;
  if (s.five) {
    if (hi > FAR_HI) return SLOW;
    pfn = (lo >>> 12) | (hi << 20);
    i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
    w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((gHi >>> 15) & 0x3fe);
    lo = words[w];
    hi = words[w | 1];
    if ((((lo ^ set) & zero) | (hi & reservedHi)) !== 0) return SLOW;
    and &= lo;
    hi &= ADDRESS_HI;
  } else if (gHi >>> 16 !== 0) {
    return SLOW;
  }
  if (hi > FAR_HI) return SLOW;
  pfn = (lo >>> 12) | (hi << 20);
  i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
  w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((gHi >>> 6) & 0x3fe);
  lo = words[w];
  hi = words[w | 1];
  if ((((lo ^ set) & zero) | (hi & reservedHi)) !== 0) return SLOW;
  and &= lo;

  hi &= ADDRESS_HI;
  if (hi > FAR_HI) return SLOW;
  pfn = (lo >>> 12) | (hi << 20);
  i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
  w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((gLo >>> 29) & 6) | ((gHi << 3) & 0x3f8);
  lo = words[w];
  hi = words[w | 1];
  let level = 3;
  if ((lo & PS) === 0) {
    if ((((lo ^ set) & zero) | (hi & reservedHi)) !== 0) return SLOW;
    and &= lo;

    hi &= ADDRESS_HI;
    if (hi > FAR_HI) return SLOW;
    pfn = (lo >>> 12) | (hi << 20);
    i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
    w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((gLo >>> 20) & 0x3fe);
    lo = words[w];
    hi = words[w | 1];
    level = 2;
    if ((lo & PS) === 0) {
      if ((((lo ^ set) & zero) | (hi & reservedHi)) !== 0) return SLOW;
      and &= lo;

      hi &= ADDRESS_HI;
      if (hi > FAR_HI) return SLOW;
      pfn = (lo >>> 12) | (hi << 20);
      i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
      w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | ((gLo >>> 11) & 0x3fe);
      lo = words[w];
      hi = words[w | 1];
      level = 1;
    } else if (!s.large2m || (lo & EPT_RSVD_2M) !== 0) {
      return SLOW;
    }
  } else if (!s.large1g || (lo & EPT_RSVD_1G) !== 0) {
    return SLOW;
  }
  const flags = s.ad && (need & EPT_W) !== 0 ? set | EPT_D : set;
  if (((~lo & flags) | (hi & reservedHi)) !== 0) return SLOW;
  if ((and & lo & need) !== need || ((EPT_MEMTYPES >>> ((lo >>> 3) & 7)) & 1) === 0) return SLOW;
  hi &= ADDRESS_HI;
  if (hi > FAR_HI) return SLOW;
  if (final) {
    r[R_S2_LEVEL] = level;
    r[R_S2_SHIFT] = 3 + 9 * level;
    r[R_MEMTYPE] = (lo >>> 3) & 7;
    r[R_IPAT] = (lo >>> 6) & 1;
  }
  const inPage = (1 << (9 * level - 9)) - 1;
  return (((lo >>> 12) | (hi << 20)) & ~inPage) | ((gLo >>> 12) & inPage);
} // prettier-ignore

/** NPT with 4 or 5 levels: the walk of page tables again, all accesses by a user; guest tables are written. */
function fastNpt(m: PhysMemory, g: FastPaging, r: Int32Array, gLo: number, gHi: number, need: number, final: boolean): number {
  if (g.top === 4 && gHi >>> 16 !== 0) return SLOW;
  const { words, places } = m;
  const shift = m.placeShift;
  const { reservedHi } = g;
  let level = g.top;
  let lo = g.rootLo;
  let hi = g.rootHi;
  let and = -1;
  let nx = 0;
  for (;;) {
    if (hi > FAR_HI) return SLOW;
    const pfn = (lo >>> 12) | (hi << 20);
    const i = (Math.imul(pfn, FIBONACCI) >>> shift) << 1;
    const index =
      level === 1 ? (gLo >>> 11) & 0x3fe
      : level === 2 ? (gLo >>> 20) & 0x3fe
      : level === 3 ? ((gLo >>> 29) & 6) | ((gHi << 3) & 0x3f8)
      : level === 4 ? (gHi >>> 6) & 0x3fe
      : (gHi >>> 15) & 0x3fe;
    const w = ((places[i] === pfn ? places[i | 1] : probe(places, pfn, i)) << 10) | index;
    lo = words[w];
    hi = words[w | 1];
    const mask = level > 3 ? g.upper : level === 3 ? g.third : P_A;
    if ((((lo ^ P_A) & mask) | (hi & reservedHi)) !== 0) return SLOW;
    and &= lo;
    nx |= hi;
    hi &= ADDRESS_HI;
    if (level === 1) break;
    if ((lo & PS) !== 0) {
      if ((lo & (level === 2 ? RSVD_2M : RSVD_1G)) !== 0) return SLOW;
      break;
    }
    level--;
  }
  // Table accesses are writes; 4 stands for a fetch, 1 for a read.
  const type = final ? (need === EPT_W ? 1 : need === EPT_R ? 0 : 2) : 1;
  if (type === 1 && (lo & D) === 0) return SLOW;
  if (g.decisions[((type | 4) << 4) | ((and >>> 1) & 3) | ((nx >>> 31) << 2)] !== 0) return SLOW;
  if (hi > FAR_HI) return SLOW;
  if (final) {
    r[R_S2_LEVEL] = level;
    r[R_S2_SHIFT] = 3 + 9 * level;
    r[R_MEMTYPE] = -1;
  }
  const inPage = (1 << (9 * level - 9)) - 1;
  return (((lo >>> 12) | (hi << 20)) & ~inPage) | ((gLo >>> 12) & inPage);
} // prettier-ignore
