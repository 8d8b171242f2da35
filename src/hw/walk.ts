/**
 * The walk of x86 page tables in every mode: 32-bit, PAE, 4-level, 5-level; for the guest's tables and for NPT's, which have the same
 * formats. What differs between modes is data (paging.ts). With a second stage each table of the guest is itself found through it.
 *
 * Order of a walk, as SDM vol. 3A, "Paging", and APM vol. 2, "Page Translation and Protection", have it: top down, at each level presence, then reserved bits; at the
 * last level access rights and protection keys; then accessed and dirty flags; then (in the caller) the final address goes through the
 * second stage. A refused access sets no flag here; processors may have set accessed flags of upper levels, the SDM leaves it open.
 */
import {
  ACC_FETCH, ACC_IMPLICIT, ACC_READ, ACC_SHSTK, ACC_TYPE, ACC_USER, ACC_WRITE, OK, PF,
  PFEC_P, PFEC_PK, PFEC_RSVD, PFEC_SS, PFEC_U, PFEC_W,
  R_ERROR, R_FAULT_LEVEL, R_HPA_HI, R_HPA_LO, R_LEAF_FLAGS, R_OUT_HI, R_OUT_LEVEL, R_OUT_LO, R_OUT_SHIFT, R_RIGHTS, R_RULE,
  RIGHT_SS, RIGHT_U, S2_TABLE,
} from './access'; // prettier-ignore
import type { WalkContext } from './context';
import {
  LV_FIXED, LV_LEAF, LV_LEAF_HI, LV_LEAF_LO, LV_OFFSET, LV_PAGE_SHIFT, LV_SHIFT, LV_STRIDE, LV_TABLE_HI, LV_TABLE_LO,
  PTE_A, PTE_D, PTE_G, PTE_P, PTE_W, type PagingTables,
} from './paging'; // prettier-ignore
import { ruleNumber } from './rules';
import { S2_NONE, secondStage, tableWriteAllowed, type SecondStage } from './second-stage';
import type { Tlb } from './tlb';
import { T_CONTEXT, T_LEVEL, T_VA_HI, T_VA_LO } from './tlb-bank';

const RULE_PRESENT = ruleNumber('pg.present');
const RULE_PDPTE_PRESENT = ruleNumber('pg.pdpte-present');
const RULE_PKRU_AD = ruleNumber('pg.pkru-ad');
const RULE_PKRU_WD = ruleNumber('pg.pkru-wd');
const RULE_PKRS_AD = ruleNumber('pg.pkrs-ad');
const RULE_PKRS_WD = ruleNumber('pg.pkrs-wd');

/** Words per entry of {@link WalkContext.pending}. */
const PENDING_STRIDE = 8;

/** One set of page tables and the controls that govern it: the guest's, or NPT's. */
export class PagingState {
  /** Physical address of the top table (of the PDPTEs with PAE), in halves. */
  rootLo = 0;
  rootHi = 0;
  /** The four PDPTE registers as pairs (lo, hi), used in PAE mode if `pdpteRegisters`. */
  readonly pdptes = new Int32Array(8);
  pdpteRegisters = false;
  pkru = 0;
  pkrs = 0;
  /** Set the accessed flag of each level as soon as its entry is checked (quirk tcg-accessed-per-level). */
  accessedPerLevel = false;
  /** Set the accessed flag of a 1 GiB page before its rights are checked (quirk tcg-1g-a-on-refused). */
  accessed1gEarly = false;
  rsvdWithoutP = false;

  constructor(
    public tables: PagingTables,
    /** What physical addresses of these tables go through. */
    public readonly stage2: SecondStage,
    /** Kind of table for the recorder. */
    readonly kind: 'guest' | 'npt',
    /** First word of {@link WalkContext.pending} that this walk may use. */
    readonly pendingBase: number,
  ) {}
}

/**
 * Walks `g` for linear (NPT: guest-physical) address hi:lo. On OK the physical address is in R_OUT_LO/HI, its level and page size in
 * R_OUT_LEVEL/SHIFT, effective rights in R_RIGHTS. On PF the error code is in R_ERROR. Other statuses come from the second stage.
 */
export function walkTables(x: WalkContext, g: PagingState, vLo: number, vHi: number, access: number): number {
  const { r, memory, recorder } = x;
  const t = g.tables;
  const { levels, entryShift, indexMask } = t;
  const nested = g.stage2.kind !== S2_NONE;
  let level = t.top;
  let tableLo = g.rootLo;
  let tableHi = g.rootHi;
  let lo = 0;
  let hi = 0;
  /** AND of the entries above the last one, OR of their high halves. */
  let and = -1;
  let nx = 0;
  let pending = 0;
  let addressLo = 0;
  let hostLo = 0;
  let hostHi = 0;

  // Only the guest's own tables have paging-structure caches here; what they refer to are guest-physical addresses.
  const tlb = g.kind === 'guest' ? x.tlb : null;
  if (tlb !== null) {
    const found = findStructure(x, tlb, t, vLo, vHi);
    if (found !== 0) {
      const at = found << 2;
      tableLo = x.path[at];
      tableHi = x.path[at + 1];
      and = x.path[at + 2];
      nx = x.path[at + 3];
      level = found - 1;
    }
  }

  if (level === 3 && g.pdpteRegisters && t.top === 3) {
    const i = vLo >>> 30;
    lo = g.pdptes[i << 1];
    if (recorder !== null) recorder.decided(RULE_PDPTE_PRESENT, (lo & PTE_P) !== 0, `PDPTE${i}`);
    if ((lo & PTE_P) === 0) return entryFault(x, g, access, 3, 0, RULE_PDPTE_PRESENT);
    tableLo = lo & 0xffff_f000;
    tableHi = g.pdptes[(i << 1) | 1] & 0x000f_ffff;
    level = 2;
  }

  for (;;) {
    const at = level * LV_STRIDE;
    const shift = levels[at + LV_SHIFT];
    const index = (level > 3 ? vHi >>> shift : level === 3 ? (vLo >>> 30) | (vHi << 2) : vLo >>> shift) & indexMask;
    addressLo = tableLo | (index << entryShift);
    hostLo = addressLo;
    hostHi = tableHi;
    if (nested) {
      x.forLevel = level;
      const status = secondStage(x, g.stage2, addressLo, tableHi, ACC_READ, S2_TABLE);
      if (status !== OK) return status;
      hostLo = r[R_HPA_LO];
      hostHi = r[R_HPA_HI];
    }
    const word = (memory.find(hostLo, hostHi) << 10) | ((hostLo & 0xffc) >>> 2);
    lo = memory.words[word];
    hi = entryShift === 3 ? memory.words[word | 1] : 0;
    if (recorder !== null) {
      const size = entryShift === 3 ? 8 : 4;
      recorder.read(g.kind, level, addressLo, tableHi, hostLo, hostHi, index, lo, hi, size, x.forLevel);
      explainEntry(x, t, level, lo, hi);
    }
    if ((lo & PTE_P) === 0) return entryFault(x, g, access, level, 0, RULE_PRESENT);
    if ((lo & levels[at + LV_LEAF]) !== 0) break;
    if (((lo & levels[at + LV_TABLE_LO]) | (hi & levels[at + LV_TABLE_HI])) !== 0) {
      return entryFault(x, g, access, level, PFEC_RSVD, reservedRule(t, level, lo, hi));
    }
    const effective = lo | levels[at + LV_FIXED];
    and &= effective;
    nx |= hi;
    if ((effective & PTE_A) === 0) {
      if (g.accessedPerLevel) {
        if (!x.dry) setFlags(x, hostLo, hostHi, PTE_A);
      } else {
        pending = note(x, g, pending, hostLo, hostHi, addressLo, tableHi, PTE_A);
      }
    }
    tableLo = lo & 0xffff_f000;
    tableHi = hi & 0x000f_ffff;
    if (tlb !== null) {
      const p = level << 2;
      x.path[p] = tableLo;
      x.path[p + 1] = tableHi;
      x.path[p + 2] = and;
      x.path[p + 3] = nx;
    }
    level--;
  }

  // `lo`, `hi` is the entry that maps the page.
  const at = level * LV_STRIDE;
  // QEMU looks at the high reserved bits first, sets A, and then at the low ones.
  const early = g.accessed1gEarly && level === 3 && (lo & PTE_A) === 0 && (hi & levels[at + LV_LEAF_HI]) === 0;
  if (early && !x.dry) setFlags(x, hostLo, hostHi, PTE_A);
  if (((lo & levels[at + LV_LEAF_LO]) | (hi & levels[at + LV_LEAF_HI])) !== 0) {
    return entryFault(x, g, access, level, PFEC_RSVD, reservedRule(t, level, lo, hi));
  }
  let rights = ((and & lo) >>> 1) & 3;
  rights |= ((nx | hi) >>> 31) << 2;
  if ((access & ACC_SHSTK) !== 0 && (lo & (PTE_W | PTE_D)) === PTE_D && (and & PTE_W) !== 0) rights |= RIGHT_SS;
  const key = t.keys === 0 ? 0 : (hi >>> 27) & 15;
  if (recorder !== null) explainAccess(x, g, access, rights, key);
  const denied = t.decisions[((access & 63) << 4) | rights];
  if (denied !== 0) return accessFault(x, g, access, level, rights, key, denied);
  if (t.keys !== 0) {
    const keyDenied = keyRule(g, access, rights, key);
    if (keyDenied !== 0) return accessFault(x, g, access, level, rights, key, keyDenied);
  }

  let flags = (lo & PTE_A) === 0 && !early ? PTE_A : 0;
  if ((lo & PTE_D) === 0 && (access & ACC_TYPE) === ACC_WRITE) flags |= PTE_D;
  if (flags !== 0) pending = note(x, g, pending, hostLo, hostHi, addressLo, tableHi, flags);
  if (pending !== 0) {
    const status = applyPending(x, g, pending);
    if (status !== OK) return status;
  }
  if (tlb !== null) rememberStructures(x, tlb, t, vLo, vHi, level + 1);

  const offset = levels[at + LV_OFFSET];
  r[R_OUT_LO] = (lo & ~offset) | (vLo & offset);
  // Bits 20:13 of a 4 MiB PDE are address bits 39:32 (PSE-36); elsewhere the mask is 0 or `hi` holds them.
  r[R_OUT_HI] = entryShift === 3 ? hi & 0x000f_ffff : level === 2 ? (lo >>> 13) & t.pse36Mask : 0;
  r[R_OUT_LEVEL] = level;
  r[R_OUT_SHIFT] = levels[at + LV_PAGE_SHIFT];
  r[R_RIGHTS] = rights;
  r[R_LEAF_FLAGS] = (((lo | flags) & PTE_D) >>> 6) | ((lo & PTE_G) >>> 7) | (key << 4);
  return OK;
}

/** Address halves by which the entry of `level` for hi:lo is remembered: levels 4 and 5 by the high half alone. */
const structureLo = (level: number, lo: number, hi: number, large: boolean): number =>
  level > 3 ? hi & 0x01ff_ffff : large ? lo & 0xffc0_0000 : lo;
const structureHi = (level: number, hi: number): number => (level > 3 ? 0 : hi);

/** Level of the lowest remembered entry for hi:lo, whose words are put into `path`; 0 if there is none. */
function findStructure(x: WalkContext, tlb: Tlb, t: PagingTables, lo: number, hi: number): number {
  const large = t.entryShift === 2;
  for (let level = 2; level <= t.top; level++) {
    const bank = tlb.structures[level];
    if (bank === null || bank.count === 0) continue;
    const o = bank.find(structureLo(level, lo, hi, large), structureHi(level, hi), tlb.context, tlb.context);
    if (o < 0) continue;
    for (let i = 0; i < 4; i++) x.path[(level << 2) + i] = bank.data[o + i];
    if (x.recorder !== null) x.recorder.cached('paging-structure', level, lo, hi, bank.data[o], bank.data[o + 1]);
    return level;
  }
  return 0;
}

/** Remembers the entries from `lowest` up that the walk just made used. Their accessed flags are set by now. */
function rememberStructures(x: WalkContext, tlb: Tlb, t: PagingTables, lo: number, hi: number, lowest: number): void {
  const large = t.entryShift === 2;
  // The PDPTEs of PAE paging are registers, no cache.
  const highest = t.top === 3 ? 2 : t.top;
  for (let level = Math.max(lowest, 2); level <= highest; level++) {
    const bank = tlb.structures[level];
    if (bank === null) continue;
    const keyLo = structureLo(level, lo, hi, large);
    const keyHi = structureHi(level, hi);
    if (bank.find(keyLo, keyHi, tlb.context, tlb.context) >= 0) continue;
    const o = bank.insert(keyLo, keyHi, tlb.context);
    for (let i = 0; i < 4; i++) bank.data[o + i] = x.path[(level << 2) + i];
    bank.data[o + T_LEVEL] = level;
    bank.data[o + T_VA_LO] = lo;
    bank.data[o + T_VA_HI] = hi;
    bank.data[o + T_CONTEXT] = tlb.context;
  }
}

/** Remembers that the entry needs `flags`; returns the new number of remembered words. */
function note(x: WalkContext, g: PagingState, n: number, hostLo: number, hostHi: number, lo: number, hi: number, flags: number): number {
  const { pending } = x;
  const at = g.pendingBase + n;
  pending[at] = hostLo;
  pending[at + 1] = hostHi;
  pending[at + 2] = lo;
  pending[at + 3] = hi;
  pending[at + 4] = flags;
  return n + PENDING_STRIDE;
} // prettier-ignore

/** Sets the remembered flags, top level first. With EPT each is a write that the guest-physical address must allow. */
function applyPending(x: WalkContext, g: PagingState, n: number): number {
  const { pending } = x;
  for (let at = g.pendingBase; at < g.pendingBase + n; at += PENDING_STRIDE) {
    const status = tableWriteAllowed(x, g.stage2, pending[at + 2], pending[at + 3]);
    if (status !== OK) return status;
    if (!x.dry) setFlags(x, pending[at], pending[at + 1], pending[at + 4]);
  }
  return OK;
}

/** Sets bits in the low word of the entry at host-physical hi:lo. */
export function setFlags(x: WalkContext, lo: number, hi: number, flags: number): void {
  const { memory } = x;
  const slot = memory.own((hi >>> 0) * 0x10_0000 + (lo >>> 12));
  const { words } = memory;
  const word = (slot << 10) | ((lo & 0xffc) >>> 2);
  words[word] |= flags;
  if (x.recorder !== null) x.recorder.wrote(lo, hi, words[word], words[word | 1]);
}

/** The protection-key rule that forbids the access, 0 if none. SDM vol. 3A, "Protection Keys". */
export function keyRule(g: PagingState, access: number, rights: number, key: number): number {
  const { keys, wp } = g.tables;
  const type = access & ACC_TYPE;
  if (type === ACC_FETCH) return 0;
  if ((rights & RIGHT_U) !== 0) {
    if ((keys & 1) === 0) return 0;
    const bits = (g.pkru >>> (key << 1)) & 3;
    if ((bits & 1) !== 0) return RULE_PKRU_AD;
    const user = (access & ACC_USER) !== 0 && (access & ACC_IMPLICIT) === 0;
    return (bits & 2) !== 0 && type === ACC_WRITE && (user || wp) ? RULE_PKRU_WD : 0;
  }
  if ((keys & 2) === 0) return 0;
  const bits = (g.pkrs >>> (key << 1)) & 3;
  if ((bits & 1) !== 0) return RULE_PKRS_AD;
  return (bits & 2) !== 0 && type === ACC_WRITE && wp ? RULE_PKRS_WD : 0;
}

/** Error bits that only depend on the access. */
function accessBits(t: PagingTables, access: number): number {
  let error = 0;
  if ((access & ACC_TYPE) === ACC_WRITE) error |= PFEC_W;
  if ((access & ACC_USER) !== 0 && (access & ACC_IMPLICIT) === 0) error |= PFEC_U;
  if ((access & ACC_TYPE) === ACC_FETCH) error |= t.fetchBit;
  if ((access & ACC_SHSTK) !== 0) error |= PFEC_SS;
  return error;
}

function entryFault(x: WalkContext, g: PagingState, access: number, level: number, rsvd: number, rule: number): number {
  const { r } = x;
  const present = rsvd !== 0 && !g.rsvdWithoutP ? PFEC_P : 0;
  r[R_ERROR] = present | rsvd | accessBits(g.tables, access);
  r[R_RULE] = rule;
  r[R_FAULT_LEVEL] = level;
  return PF;
}

function accessFault(x: WalkContext, g: PagingState, access: number, level: number, rights: number, key: number, rule: number): number {
  const { r } = x;
  const pk = keyRule(g, access, rights, key) !== 0 ? PFEC_PK : 0;
  r[R_ERROR] = PFEC_P | pk | accessBits(g.tables, access);
  r[R_RULE] = rule;
  r[R_FAULT_LEVEL] = level;
  return PF;
} // prettier-ignore

/** The first reserved-bit rule that the entry breaks. */
function reservedRule(t: PagingTables, level: number, lo: number, hi: number): number {
  const kind = (lo & t.levels[level * LV_STRIDE + LV_LEAF]) !== 0 ? 'leaf' : 'table';
  for (const rule of t.entryRules[level]) {
    if ((rule.kind === 'any' || rule.kind === kind) && ((lo & rule.lo) | (hi & rule.hi)) !== 0) return rule.rule;
  }
  return 0;
}

/** Tells the recorder each check of an entry up to the first that fails. */
function explainEntry(x: WalkContext, t: PagingTables, level: number, lo: number, hi: number): void {
  const recorder = x.recorder!;
  const present = (lo & PTE_P) !== 0;
  recorder.checked(RULE_PRESENT, present, '');
  if (!present) return;
  const kind = (lo & t.levels[level * LV_STRIDE + LV_LEAF]) !== 0 ? 'leaf' : 'table';
  for (const rule of t.entryRules[level]) {
    if (rule.kind !== 'any' && rule.kind !== kind) continue;
    const ok = ((lo & rule.lo) | (hi & rule.hi)) === 0;
    recorder.checked(rule.rule, ok, rule.by);
    if (!ok) return;
  }
}

/** Tells the recorder each check of the mapping that concerns this access. */
function explainAccess(x: WalkContext, g: PagingState, access: number, rights: number, key: number): void {
  const recorder = x.recorder!;
  for (const rule of g.tables.accessRules) {
    if (rule.applies(access)) recorder.decided(rule.rule, rule.holds(access, rights), rule.by);
  }
  if ((access & ACC_TYPE) === ACC_FETCH) return;
  const user = (rights & RIGHT_U) !== 0;
  if ((g.tables.keys & (user ? 1 : 2)) === 0) return;
  const broken = keyRule(g, access, rights, key);
  const bits = ((user ? g.pkru : g.pkrs) >>> (key << 1)) & 3;
  const by = `${user ? 'PKRU' : 'IA32_PKRS'} key ${key}: AD=${bits & 1} WD=${bits >> 1}`;
  recorder.decided(user ? RULE_PKRU_AD : RULE_PKRS_AD, (bits & 1) === 0, by);
  if ((access & ACC_TYPE) === ACC_WRITE && (bits & 1) === 0) {
    recorder.decided(user ? RULE_PKRU_WD : RULE_PKRS_WD, broken === 0, `${by}, CR0.WP=${g.tables.wp ? 1 : 0}`);
  }
}
