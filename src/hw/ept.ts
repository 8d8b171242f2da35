/**
 * The walk of the extended page tables, 4 and 5 levels: misconfigurations, permissions, accessed and dirty flags, exit qualification.
 *
 * Source: SDM vol. 3C, "The Extended Page Table Mechanism (EPT)" and its sections on EPT misconfigurations, EPT violations, accessed
 * and dirty flags; exit qualification: "Exit Qualification for EPT Violations".
 */
import {
  ACC_FETCH, ACC_IMPLICIT, ACC_SHSTK, ACC_TYPE, ACC_USER, ACC_WRITE, EPT_MISCONFIG, EPT_VIOLATION, OK, PML_FULL,
  R_FAULT_GPA_HI, R_FAULT_GPA_LO, R_FAULT_LEVEL, R_HPA_HI, R_HPA_LO, R_IPAT, R_MEMTYPE, R_QUAL_HI, R_QUAL_LO, R_RIGHTS, R_RULE,
  R_S2_LEVEL, R_S2_RIGHTS, R_S2_SHIFT, R_SPP_ALLOWED, R_TABLE_WALK, RIGHT_NX, RIGHT_U, RIGHT_W, S2_FINAL, S2_TABLE, VE,
} from './access'; // prettier-ignore
import type { WalkContext } from './context';
import type { CpuFeatures } from './features';
import { ruleNumber, type RuleId } from './rules';
import type { PmlState } from './pml';
import { checkSubPages, SPP_ALLOWED, SPP_DENIED, type SppState } from './spp';
import { setFlags } from './walk';

// ---- Bits of an EPT entry ----

export const EPT_R = 0x001;
export const EPT_W = 0x002;
export const EPT_X = 0x004;
export const EPT_IPAT = 0x040;
export const EPT_LARGE = 0x080;
export const EPT_A = 0x100;
export const EPT_D = 0x200;
/** Execute for user-mode linear addresses, with mode-based execute control. */
export const EPT_XU = 0x400;
// In the high half:
export const EPT_VERIFY_HI = 1 << 25;
export const EPT_PAGING_WRITE_HI = 1 << 26;
export const EPT_SSS_HI = 1 << 28;
export const EPT_SPP_HI = 1 << 29;
export const EPT_SUPPRESS_VE_HI = 0x8000_0000 | 0;

// ---- Exit qualification of an EPT violation ----

export const EPTQ_READ = 1 << 0;
export const EPTQ_WRITE = 1 << 1;
export const EPTQ_FETCH = 1 << 2;
export const EPTQ_USER_EXEC = 1 << 6;
export const EPTQ_GLA_VALID = 1 << 7;
export const EPTQ_FINAL = 1 << 8;
export const EPTQ_USER = 1 << 9;
export const EPTQ_WRITABLE = 1 << 10;
export const EPTQ_NX = 1 << 11;
export const EPTQ_NMI_UNBLOCKING = 1 << 12;
export const EPTQ_SHSTK = 1 << 13;
export const EPTQ_SSS_PAGE = 1 << 14;
export const EPTQ_VERIFY = 1 << 15;

/** High bits of the last entry that R_S2_RIGHTS keeps. */
const S2_RIGHTS_HI = EPT_VERIFY_HI | EPT_PAGING_WRITE_HI | EPT_SSS_HI | EPT_SPP_HI;

/** What an entry is, by its low bits. */
const NOT_PRESENT = 0;
const TABLE = 1;
const LEAF = 2;
const MISCONFIGURED = 3;

/** A misconfiguration rule. `bits` holds entry bits 7:0 and, in bit 8, entry bit 10. */
interface EptEntryRule {
  rule: number;
  by: string;
  /** Whether the rule concerns entries of this level. */
  applies(level: number, bits: number): boolean;
  holds(level: number, bits: number): boolean;
}

/** Tables of one processor and set of controls, shared by all walks under them. */
export interface EptTables {
  /** NOT_PRESENT … MISCONFIGURED by level << 9 | bits. */
  readonly classes: Uint8Array;
  /** Address bits 51:MAXPHYADDR in the high half. */
  readonly reservedHi: number;
  readonly rules: readonly EptEntryRule[];
  readonly maxphyaddr: number;
  /** Whether pages of 2 MiB and 1 GiB exist. */
  readonly ept2m: boolean;
  readonly ept1g: boolean;
}

/** Address bits, low half, that must be 0 in an entry that maps a page, by level. */
const LARGE_RESERVED = Int32Array.of(0, 0, 0x001f_f000, 0x3fff_f000, 0, 0);
const OFFSET_MASK = Int32Array.of(0, 0xfff, 0x001f_ffff, 0x3fff_ffff, 0, 0);

const ENTRY_RULE_LARGE = ruleNumber('ept.rsvd-large');
const ENTRY_RULE_WIDTH = ruleNumber('ept.rsvd-maxphyaddr');
const RULE_PRESENT = ruleNumber('ept.present');
const RULE_GPA_WIDTH = ruleNumber('ept.gpa-width');
const RULE_READ = ruleNumber('ept.read');
const RULE_WRITE = ruleNumber('ept.write');
const RULE_EXEC = ruleNumber('ept.exec');
const RULE_EXEC_USER = ruleNumber('ept.exec-user');
const RULE_SSS = ruleNumber('ept.supervisor-shstk');
const RULE_TABLE_WRITE = ruleNumber('ept.ad-table-write');
const RULE_AD_UPDATE = ruleNumber('ept.ad-update');
const RULE_PAGING_WRITE = ruleNumber('ept.paging-write');
const RULE_VERIFY = ruleNumber('ept.verify-paging');
const RULE_PML = ruleNumber('pml.room');
const RULE_SUPPRESS_VE = ruleNumber('ve.suppress');

function isPresent(bits: number, mbec: boolean): boolean {
  return (bits & (mbec ? 0x107 : 7)) !== 0;
}

function isLeaf(level: number, bits: number): boolean {
  return level === 1 || (level <= 3 && (bits & EPT_LARGE) !== 0);
}

function rulesOf(cpu: CpuFeatures, mbec: boolean): EptEntryRule[] {
  const rules: EptEntryRule[] = [];
  const add = (id: RuleId, by: string, applies: EptEntryRule['applies'], holds: EptEntryRule['holds']) =>
    rules.push({ rule: ruleNumber(id), by, applies, holds });
  const any = () => true;
  add('ept.write-only', '', any, (_, b) => (b & 3) !== EPT_W);
  if (!cpu.eptExecuteOnly) {
    add('ept.exec-only', 'IA32_VMX_EPT_VPID_CAP[0]=0', any, (_, b) => (b & EPT_R) !== 0 || (b & (mbec ? 0x104 : 4)) === 0); // prettier-ignore
  }
  add('ept.rsvd-low', '', (l) => l >= 4, (_, b) => (b & 0xf8) === 0); // prettier-ignore
  add('ept.rsvd-low', '', (l, b) => (l === 2 || l === 3) && !isLeaf(l, b), (_, b) => (b & 0x78) === 0); // prettier-ignore
  if (!cpu.ept1g) add('ept.page-size', 'IA32_VMX_EPT_VPID_CAP[17]=0', (l) => l === 3, (_, b) => (b & EPT_LARGE) === 0); // prettier-ignore
  if (!cpu.ept2m) add('ept.page-size', 'IA32_VMX_EPT_VPID_CAP[16]=0', (l) => l === 2, (_, b) => (b & EPT_LARGE) === 0); // prettier-ignore
  add('ept.memtype', '', isLeaf, (_, b) => ![2, 3, 7].includes((b >>> 3) & 7)); // prettier-ignore
  return rules;
}

const cache = new Map<string, EptTables>();

/** The tables for this processor, with or without mode-based execute control. Made once per combination. */
export function eptTables(cpu: CpuFeatures, mbec: boolean): EptTables {
  const key = [cpu.maxphyaddr, cpu.eptExecuteOnly, cpu.ept1g, cpu.ept2m, mbec].join();
  let tables = cache.get(key);
  if (tables === undefined) {
    const rules = rulesOf(cpu, mbec);
    const classes = new Uint8Array(6 << 9);
    for (let level = 1; level <= 5; level++) {
      for (let bits = 0; bits < 512; bits++) {
        classes[(level << 9) | bits] = !isPresent(bits, mbec)
          ? NOT_PRESENT
          : rules.some((r) => r.applies(level, bits) && !r.holds(level, bits))
            ? MISCONFIGURED
            : isLeaf(level, bits)
              ? LEAF
              : TABLE;
      }
    }
    const m = cpu.maxphyaddr;
    const reservedHi = m >= 52 ? 0 : 0x000f_ffff & ~((1 << (m - 32)) - 1);
    tables = { classes, reservedHi, rules, maxphyaddr: m, ept2m: cpu.ept2m, ept1g: cpu.ept1g };
    cache.set(key, tables);
  }
  return tables;
}

/** The extended page tables in use and the controls that govern them. */
export class EptState {
  rootLo = 0;
  rootHi = 0;
  /** Page-walk length. */
  top: 4 | 5 = 4;
  /** EPTP bit 6: accessed and dirty flags. */
  ad = false;
  /** EPTP bit 7: supervisor shadow-stack control. */
  sss = false;
  /** VM-execution controls. */
  mbec = false;
  ve = false;
  spp: SppState | null = null;
  /** Page-modification logging; needs {@link ad}. */
  pml: PmlState | null = null;
  pagingWrite = false;
  verifyPaging = false;
  advancedExitInfo = true;
  /** Quirk bochs-ept-ad-without-ad. */
  adUpdateUnchecked = false;

  constructor(public tables: EptTables) {}
}

/** Index of guest-physical hi:lo in the table of `level`. */
function eptIndex(level: number, lo: number, hi: number): number {
  if (level === 1) return (lo >>> 12) & 511;
  if (level === 2) return (lo >>> 21) & 511;
  if (level === 3) return ((lo >>> 30) | (hi << 2)) & 511;
  return (level === 4 ? hi >>> 7 : hi >>> 16) & 511;
}

/** Words of {@link WalkContext.pending} for entries that need their accessed flag: host address pairs from here on. */
const PENDING = 48;

/** Translates guest-physical hi:lo through EPT; results and parameters as {@link secondStage}. */
export function walkEpt(x: WalkContext, e: EptState, gLo: number, gHi: number, access: number, purpose: number): number {
  const { r, memory, recorder, pending } = x;
  const { classes, reservedHi } = e.tables;
  let level: number = e.top;
  if (level === 4 && gHi >>> 16 !== 0) {
    if (recorder !== null) recorder.decided(RULE_GPA_WIDTH, false, 'EPTP[5:3]=3');
    return violation(x, e, gLo, gHi, access, purpose, 0, 0, level, RULE_GPA_WIDTH);
  }
  let tableLo = e.rootLo;
  let tableHi = e.rootHi;
  let lo = 0;
  let hi = 0;
  let hostLo = 0;
  /** AND of all entries above the last. */
  let and = -1;
  let noted = 0;
  for (;;) {
    const index = eptIndex(level, gLo, gHi);
    hostLo = tableLo | (index << 3);
    const word = (memory.find(hostLo, tableHi) << 10) | ((hostLo & 0xff8) >>> 2);
    lo = memory.words[word];
    hi = memory.words[word | 1];
    if (recorder !== null) {
      recorder.read('ept', level, hostLo, tableHi, hostLo, tableHi, index, lo, hi, 8, x.forLevel);
      explainEntry(x, e, level, lo, hi);
    }
    const kind = classes[(level << 9) | (lo & 0xff) | ((lo >>> 2) & 0x100)];
    if (kind === LEAF) break;
    if (kind === NOT_PRESENT) return violation(x, e, gLo, gHi, access, purpose, and & lo, hi, level, RULE_PRESENT);
    if (kind === MISCONFIGURED || (hi & reservedHi) !== 0) return misconfiguration(x, e, gLo, gHi, purpose, level, lo);
    and &= lo;
    if ((lo & EPT_A) === 0) {
      pending[PENDING + noted] = hostLo;
      pending[PENDING + noted + 1] = tableHi;
      noted += 2;
    }
    tableLo = lo & 0xffff_f000;
    tableHi = hi & 0x000f_ffff;
    level--;
  }
  if (((lo & LARGE_RESERVED[level]) | (hi & reservedHi)) !== 0) return misconfiguration(x, e, gLo, gHi, purpose, level, lo);

  const type = access & ACC_TYPE;
  const rights = and & lo;
  let dirty = type === ACC_WRITE ? EPT_D : 0;
  let need: number;
  let rule: number;
  if (purpose === S2_TABLE) {
    const asWrite = e.ad || type === ACC_WRITE;
    need = asWrite ? EPT_R | EPT_W : EPT_R;
    rule = asWrite && (rights & EPT_R) !== 0 ? (e.ad ? RULE_TABLE_WRITE : RULE_AD_UPDATE) : RULE_READ;
    dirty = asWrite ? EPT_D : 0;
  } else if (type === ACC_FETCH) {
    const user = e.mbec && (r[R_RIGHTS] & RIGHT_U) !== 0;
    need = user ? EPT_XU : EPT_X;
    rule = user ? RULE_EXEC_USER : RULE_EXEC;
  } else {
    need = type === ACC_WRITE ? EPT_W : EPT_R;
    rule = type === ACC_WRITE ? RULE_WRITE : RULE_READ;
  }
  r[R_SPP_ALLOWED] = 0;
  let allowed = (rights & need) === need;
  if (e.sss && purpose === S2_FINAL && (access & ACC_SHSTK) !== 0 && !isUserAccess(access)) {
    // Supervisor shadow-stack accesses go by bit 60 in place of W of the last entry.
    allowed = (rights & EPT_R) !== 0 && (and & EPT_W) !== 0 && (hi & EPT_SSS_HI) !== 0;
    rule = RULE_SSS;
  }
  if (recorder !== null) recorder.decided(rule, allowed, describeControls(e, rule));
  if (purpose === S2_TABLE) {
    const pagingWrite = (hi & EPT_PAGING_WRITE_HI) !== 0;
    if (!pagingWrite) x.unverified = true;
    if (!allowed && e.pagingWrite && need !== EPT_R && (rights & EPT_R) !== 0) {
      allowed = pagingWrite;
      rule = RULE_PAGING_WRITE;
      if (recorder !== null) recorder.decided(RULE_PAGING_WRITE, allowed, 'EPT paging-write control');
    }
  } else if (e.verifyPaging && purpose === S2_FINAL && allowed && (hi & EPT_VERIFY_HI) !== 0) {
    if (recorder !== null) recorder.decided(RULE_VERIFY, !x.unverified, 'guest-paging verification');
    if (x.unverified) {
      const status = violation(x, e, gLo, gHi, access, purpose, rights, hi, level, RULE_VERIFY);
      r[R_QUAL_LO] |= EPTQ_VERIFY;
      return status;
    }
  }
  if (!allowed) {
    const eligible = purpose === S2_FINAL && type === ACC_WRITE && (access & ACC_SHSTK) === 0;
    if (e.spp !== null && eligible && level === 1 && (hi & EPT_SPP_HI) !== 0 && (rights & EPT_R) !== 0) {
      const verdict = checkSubPages(x, e.spp, gLo, gHi);
      if (verdict !== SPP_ALLOWED && verdict !== SPP_DENIED) return verdict;
      allowed = verdict === SPP_ALLOWED;
      r[R_SPP_ALLOWED] = allowed ? 1 : 0;
      if (!allowed) rule = r[R_RULE];
    }
    if (!allowed) return violation(x, e, gLo, gHi, access, purpose, rights, hi, level, rule);
  }

  if (e.ad && !x.dry) {
    if (e.pml !== null && (dirty & ~lo) !== 0) {
      // A full log stops the access before it changes anything.
      if (recorder !== null) recorder.decided(RULE_PML, !e.pml.full, 'enable PML');
      if (e.pml.full) {
        r[R_RULE] = RULE_PML;
        r[R_FAULT_GPA_LO] = gLo;
        r[R_FAULT_GPA_HI] = gHi;
        r[R_QUAL_LO] = 0;
        r[R_QUAL_HI] = 0;
        return PML_FULL;
      }
      e.pml.log(memory, gLo, gHi);
    }
    for (let i = 0; i < noted; i += 2) setFlags(x, pending[PENDING + i], pending[PENDING + i + 1], EPT_A);
    const flags = (EPT_A | dirty) & ~lo;
    if (flags !== 0) setFlags(x, hostLo, tableHi, flags);
  }
  const offset = OFFSET_MASK[level];
  r[R_HPA_LO] = (lo & ~offset) | (gLo & offset);
  r[R_HPA_HI] = hi & 0x000f_ffff;
  r[R_S2_LEVEL] = level;
  r[R_S2_SHIFT] = 3 + 9 * level;
  r[R_MEMTYPE] = (lo >>> 3) & 7;
  r[R_IPAT] = (lo >>> 6) & 1;
  r[R_S2_RIGHTS] = (rights & (EPT_R | EPT_W | EPT_X | EPT_XU)) | ((lo | dirty) & EPT_D) | (hi & S2_RIGHTS_HI);
  return OK;
} // prettier-ignore

function isUserAccess(access: number): boolean {
  return (access & ACC_USER) !== 0 && (access & ACC_IMPLICIT) === 0;
}

/** Words of {@link EptLeaf}. */
const leaf = { and: 0, lo: 0, hi: 0, level: 0 };
/** The entry that maps a guest-physical address, and the AND of all entries on the way to it. */
export type EptLeaf = Readonly<typeof leaf>;

/**
 * Finds the entry that maps guest-physical hi:lo without asking for rights and without any effect. Null if an entry is not present or
 * misconfigured. The object is reused by the next call.
 */
export function eptLeaf(x: WalkContext, e: EptState, gLo: number, gHi: number): EptLeaf | null {
  const { memory } = x;
  const { classes, reservedHi } = e.tables;
  let tableLo = e.rootLo;
  let tableHi = e.rootHi;
  if (e.top === 4 && gHi >>> 16 !== 0) return null;
  leaf.and = -1;
  for (let level: number = e.top; ; level--) {
    const index = eptIndex(level, gLo, gHi);
    const word = (memory.find(tableLo | (index << 3), tableHi) << 10) | (index << 1);
    leaf.lo = memory.words[word];
    leaf.hi = memory.words[word | 1];
    leaf.and &= leaf.lo;
    leaf.level = level;
    const kind = classes[(level << 9) | (leaf.lo & 0xff) | ((leaf.lo >>> 2) & 0x100)];
    if (kind === NOT_PRESENT || kind === MISCONFIGURED || (leaf.hi & reservedHi) !== 0) return null;
    if (kind === LEAF) return (leaf.lo & LARGE_RESERVED[level]) === 0 ? leaf : null;
    tableLo = leaf.lo & 0xffff_f000;
    tableHi = leaf.hi & 0x000f_ffff;
  }
}

/**
 * Whether an accessed or dirty flag may be set in the guest entry at guest-physical hi:lo. With EPT accessed and dirty flags the read of
 * the entry was checked as a write already. Otherwise the update is a write of its own.
 */
export function eptAllowsTableWrite(x: WalkContext, e: EptState, gLo: number, gHi: number): number {
  if (e.ad || e.adUpdateUnchecked) return OK;
  const found = eptLeaf(x, e, gLo, gHi);
  // The read of the entry may have used a remembered mapping; then this walk is the first to see what has changed since.
  if (found === null) return walkEpt(x, e, gLo, gHi, ACC_WRITE, S2_TABLE);
  const { and, hi, level } = found;
  if ((and & EPT_W) !== 0) return OK;
  const pagingWrite = e.pagingWrite && (hi & EPT_PAGING_WRITE_HI) !== 0;
  if (x.recorder !== null) {
    if (e.pagingWrite) x.recorder.decided(RULE_PAGING_WRITE, pagingWrite, 'EPT paging-write control');
    else x.recorder.decided(RULE_AD_UPDATE, false, 'EPTP[6]=0');
  }
  if (pagingWrite) return OK;
  const rule = e.pagingWrite ? RULE_PAGING_WRITE : RULE_AD_UPDATE;
  return violation(x, e, gLo, gHi, ACC_WRITE, S2_TABLE, and, hi, level, rule);
}

/** Sets up the results of an EPT violation; VE if it becomes a virtualization exception. */
function violation(x: WalkContext, e: EptState, gLo: number, gHi: number, access: number, purpose: number, rights: number, hi: number, level: number, rule: number): number {
  const { r } = x;
  const type = access & ACC_TYPE;
  let q = (rights & 7) << 3;
  if (purpose === S2_TABLE && e.ad) q |= EPTQ_READ | EPTQ_WRITE;
  else q |= type === ACC_WRITE ? EPTQ_WRITE : type === ACC_FETCH ? EPTQ_FETCH : EPTQ_READ;
  if (e.mbec && (rights & EPT_XU) !== 0) q |= EPTQ_USER_EXEC;
  if (purpose === S2_FINAL || purpose === S2_TABLE) {
    q |= EPTQ_GLA_VALID;
    if (purpose === S2_FINAL) {
      q |= EPTQ_FINAL;
      if (e.advancedExitInfo) {
        const guest = r[R_RIGHTS];
        if ((guest & RIGHT_U) !== 0) q |= EPTQ_USER;
        if ((guest & RIGHT_W) !== 0) q |= EPTQ_WRITABLE;
        if ((guest & RIGHT_NX) !== 0) q |= EPTQ_NX;
      }
      if ((access & ACC_SHSTK) !== 0) q |= EPTQ_SHSTK;
    }
  }
  if (x.nmiUnblockingIret) q |= EPTQ_NMI_UNBLOCKING;
  if (e.sss && (hi & EPT_SSS_HI) !== 0) q |= EPTQ_SSS_PAGE;
  r[R_QUAL_LO] = q;
  r[R_QUAL_HI] = 0;
  r[R_FAULT_GPA_LO] = gLo;
  r[R_FAULT_GPA_HI] = gHi;
  r[R_FAULT_LEVEL] = level;
  r[R_RULE] = rule;
  r[R_TABLE_WALK] = purpose === S2_TABLE ? 1 : 0;
  if (!e.ve) return EPT_VIOLATION;
  const converts = (hi & EPT_SUPPRESS_VE_HI) === 0;
  if (x.recorder !== null) x.recorder.decided(RULE_SUPPRESS_VE, converts, 'EPT-violation #VE control');
  return converts ? VE : EPT_VIOLATION;
} // prettier-ignore

function misconfiguration(x: WalkContext, e: EptState, gLo: number, gHi: number, purpose: number, level: number, lo: number): number {
  const { r } = x;
  const bits = (lo & 0xff) | ((lo >>> 2) & 0x100);
  const broken = e.tables.rules.find((rule) => rule.applies(level, bits) && !rule.holds(level, bits));
  const large = isLeaf(level, bits) && (lo & LARGE_RESERVED[level]) !== 0;
  r[R_RULE] = broken !== undefined ? broken.rule : large ? ENTRY_RULE_LARGE : ENTRY_RULE_WIDTH;
  r[R_QUAL_LO] = 0;
  r[R_QUAL_HI] = 0;
  r[R_FAULT_GPA_LO] = gLo;
  r[R_FAULT_GPA_HI] = gHi;
  r[R_FAULT_LEVEL] = level;
  r[R_TABLE_WALK] = purpose === S2_TABLE ? 1 : 0;
  return EPT_MISCONFIG;
} // prettier-ignore

function explainEntry(x: WalkContext, e: EptState, level: number, lo: number, hi: number): void {
  const recorder = x.recorder!;
  const bits = (lo & 0xff) | ((lo >>> 2) & 0x100);
  const present = isPresent(bits, e.mbec);
  recorder.checked(RULE_PRESENT, present, e.mbec ? 'mode-based execute control' : '');
  if (!present) return;
  for (const rule of e.tables.rules) {
    if (!rule.applies(level, bits)) continue;
    const ok = rule.holds(level, bits);
    recorder.checked(rule.rule, ok, rule.by);
    if (!ok) return;
  }
  if (isLeaf(level, bits) && level > 1) {
    const ok = (lo & LARGE_RESERVED[level]) === 0;
    recorder.checked(ENTRY_RULE_LARGE, ok, level === 2 ? '2 MiB page' : '1 GiB page');
    if (!ok) return;
  }
  recorder.checked(ENTRY_RULE_WIDTH, (hi & e.tables.reservedHi) === 0, `MAXPHYADDR=${e.tables.maxphyaddr}`);
}

function describeControls(e: EptState, rule: number): string {
  if (rule === RULE_TABLE_WRITE) return 'EPTP[6]=1';
  if (rule === RULE_EXEC_USER) return 'mode-based execute control';
  if (rule === RULE_SSS) return 'EPTP[7]=1';
  return '';
}
