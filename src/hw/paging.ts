/**
 * The paging modes as data: for each mode its levels, for each level the bits that are reserved and why. From this the tables are made
 * that the walker (walk.ts) runs on: masks per level and a table of 1024 access decisions. Guest paging and NPT share all of it.
 *
 * Sources: SDM vol. 3A, "Paging"; APM vol. 2, "Page Translation and Protection" and "Nested Paging".
 */
import { ACC_AC, ACC_COUNT, ACC_FETCH, ACC_IMPLICIT, ACC_SHSTK, ACC_TYPE, ACC_USER, ACC_WRITE } from './access';
import { RIGHT_NX, RIGHT_SS, RIGHT_U, RIGHT_W } from './access';
import type { CpuFeatures } from './features';
import { ruleNumber, type RuleId } from './rules';

// ---- Bits of an entry, low half ----

export const PTE_P = 0x001;
export const PTE_W = 0x002;
export const PTE_U = 0x004;
export const PTE_A = 0x020;
export const PTE_D = 0x040;
export const PTE_PS = 0x080;
export const PTE_G = 0x100;
/** Bit 63 of an entry, in its high half, as a signed number. */
export const PTE_NX_HI = 0x8000_0000 | 0;

/** Control register bits that govern translation, as 32-bit numbers (EFER and CR4 bits all lie in the low half). */
export const CR0_PE = 1;
export const CR0_WP = 1 << 16;
export const CR0_PG = 0x8000_0000;
export const CR4_PSE = 1 << 4;
export const CR4_PAE = 1 << 5;
export const CR4_PGE = 1 << 7;
export const CR4_LA57 = 1 << 12;
export const CR4_PCIDE = 1 << 17;
export const CR4_SMEP = 1 << 20;
export const CR4_SMAP = 1 << 21;
export const CR4_PKE = 1 << 22;
export const CR4_CET = 1 << 23;
export const CR4_PKS = 1 << 24;
export const CR4_LAM_SUP = 1 << 28;
export const EFER_LME = 1 << 8;
export const EFER_LMA = 1 << 10;
export const EFER_NXE = 1 << 11;
/** CR3 bits 62 and 61, in its high half. */
export const CR3_LAM_U48_HI = 1 << 30;
export const CR3_LAM_U57_HI = 1 << 29;

export type PagingModeName = 'off' | '32bit' | 'pae' | '4level' | '5level';

/** What is fixed about a mode. Level 1 is the PTE. */
export interface PagingMode {
  readonly name: PagingModeName;
  /** Level of the topmost table; the topmost level of `pae` is the PDPTE register. */
  readonly top: 0 | 2 | 3 | 4 | 5;
  /** log2 of the size of an entry in bytes. */
  readonly entryShift: 2 | 3;
  /** Index bits per level. */
  readonly indexBits: 9 | 10;
}

export const PAGING_MODES: Readonly<Record<PagingModeName, PagingMode>> = {
  off: { name: 'off', top: 0, entryShift: 3, indexBits: 9 },
  '32bit': { name: '32bit', top: 2, entryShift: 2, indexBits: 10 },
  pae: { name: 'pae', top: 3, entryShift: 3, indexBits: 9 },
  '4level': { name: '4level', top: 4, entryShift: 3, indexBits: 9 },
  '5level': { name: '5level', top: 5, entryShift: 3, indexBits: 9 },
};

/** Names of the entries by level. */
export const LEVEL_NAMES = ['page', 'pte', 'pde', 'pdpte', 'pml4e', 'pml5e'] as const;

/** The paging mode that control registers select. SDM vol. 3A, "Four Paging Modes". */
export function pagingModeOf(cr0: number, cr4: number, efer: number): PagingModeName {
  if ((cr0 & CR0_PG) === 0) return 'off';
  if ((cr4 & CR4_PAE) === 0) return '32bit';
  if ((efer & EFER_LMA) === 0) return 'pae';
  return (cr4 & CR4_LA57) === 0 ? '4level' : '5level';
}

/** A reserved-bit rule at one level: if one of `lo`/`hi` is set in a present entry of this kind, the rule is broken. */
export interface EntryRule {
  readonly rule: number;
  /** The register, control bit or CPUID value that makes these bits reserved. */
  readonly by: string;
  readonly lo: number;
  readonly hi: number;
  /** Kind of entry: one that refers to a table, one that maps a page, or both. */
  readonly kind: 'table' | 'leaf' | 'any';
}

/** A rule about an access to a mapped page. */
export interface AccessRule {
  readonly rule: number;
  readonly by: string;
  /** Whether the rule concerns an access with these flags. */
  applies(access: number): boolean;
  /** Whether it holds for these effective rights (RIGHT_*). */
  holds(access: number, rights: number): boolean;
}

// Layout of PagingTables.levels: sixteen words per level.
export const LV_STRIDE = 16;
/** Amount by which the linear address (its high half from level 4 on) is shifted right for the index. */
export const LV_SHIFT = 0;
/** Bits of which one makes a present entry a leaf; level 1: P, always set. */
export const LV_LEAF = 1;
export const LV_TABLE_LO = 2;
export const LV_TABLE_HI = 3;
export const LV_LEAF_LO = 4;
export const LV_LEAF_HI = 5;
/** Offset mask of a page mapped at this level. */
export const LV_OFFSET = 6;
/** log2 of its size. */
export const LV_PAGE_SHIFT = 7;
/** Bits of an entry that count as 1 whatever it holds: a PAE PDPTE has no R/W, U/S and A. */
export const LV_FIXED = 8;

/** All that a walk in one mode under one set of controls needs, except the root. Immutable, shared. */
export interface PagingTables {
  readonly mode: PagingMode;
  /** As in `mode`, at hand for the walk. */
  readonly top: number;
  readonly entryShift: number;
  readonly indexMask: number;
  readonly levels: Int32Array;
  /** Rule number of the first access rule broken, 0 if the access is allowed: index is access << 4 | rights. */
  readonly decisions: Uint8Array;
  /** PFEC_ID if fetches report error bit 4, else 0. */
  readonly fetchBit: number;
  /** Whether protection keys are looked at: bit 0 PKE, bit 1 PKS. */
  readonly keys: number;
  readonly wp: boolean;
  /** 32-bit page directories hold address bits 39:32 in bits 20:13 of a 4 MiB PDE. */
  readonly pse36Mask: number;
  /** Shift that sign-extends the high half of a canonical address: 16 (48 bits), 7 (57 bits), 0: any address is fine. */
  readonly canonicalShift: number;
  readonly entryRules: readonly (readonly EntryRule[])[];
  readonly accessRules: readonly AccessRule[];
}

/** Bits 31:0 of the mask of address bits at and above `width` (32 … 52), in the high half of an entry: bits 51:width. */
function above(width: number): number {
  return width >= 52 ? 0 : 0x000f_ffff & ~((1 << (width - 32)) - 1);
}

function entryRulesOf(mode: PagingMode, efer: number, cpu: CpuFeatures): EntryRule[][] {
  const levels: EntryRule[][] = [[], [], [], [], [], []];
  const add = (level: number, id: RuleId, by: string, lo: number, hi: number, kind: EntryRule['kind'] = 'any') =>
    levels[level].push({ rule: ruleNumber(id), by, lo, hi, kind });
  const width = cpu.maxphyaddr;
  const m = `MAXPHYADDR=${width}`;

  if (mode.name === '32bit') {
    const top = Math.min(40, width);
    if (cpu.pse36) {
      const field = ((1 << (40 - 32)) - 1) & ~((1 << (top - 32)) - 1);
      add(2, 'pg.rsvd-pse36', `CPUID.PSE-36, ${m}`, 0x0020_0000 | (field << 13), 0, 'leaf');
    } else {
      add(2, 'pg.rsvd-large', 'no CPUID.PSE-36', 0x003f_e000, 0, 'leaf');
    }
    return levels;
  }
  for (let level = 1; level <= mode.top; level++) {
    const pdpteOfPae = mode.name === 'pae' && level === 3;
    if (pdpteOfPae) {
      // With guest paging these are checked when the PDPTEs are loaded; NPT reads and checks them at each walk.
      const reserved = cpu.quirks.has('tcg-pae-pdpte-reload') ? 0x1c6 : 0x1e6;
      add(level, 'pg.pdpte-rsvd', m, reserved, 0xfff0_0000 | above(width) | 0);
      continue;
    }
    add(level, 'pg.rsvd-maxphyaddr', m, 0, above(width));
    if (mode.name === 'pae') add(level, 'pg.rsvd-pae-high', 'PAE paging', 0, 0x7ff0_0000);
    if ((efer & EFER_NXE) === 0) add(level, 'pg.rsvd-xd', 'EFER.NXE=0', 0, PTE_NX_HI);
    if (level >= 4) {
      add(level, 'pg.rsvd-ps', `${mode.top}-level paging`, PTE_PS, 0);
      if (cpu.vendor === 'amd' && !cpu.quirks.has('tcg-no-amd-bit8')) add(level, 'pg.rsvd-amd-bit8', 'AMD', 0x100, 0);
    }
    if (level === 3) {
      if (cpu.page1g) add(level, 'pg.rsvd-large', '1 GiB page', 0x3fff_e000, 0, 'leaf');
      else add(level, 'pg.rsvd-1g', 'no CPUID.Page1GB', PTE_PS, 0);
    }
    if (level === 2) add(level, 'pg.rsvd-large', '2 MiB page', 0x001f_e000, 0, 'leaf');
  }
  return levels;
}

function accessRulesOf(cr0: number, cr4: number, efer: number): AccessRule[] {
  const userMode = (a: number) => (a & ACC_USER) !== 0 && (a & ACC_IMPLICIT) === 0;
  const shadow = (a: number) => (a & ACC_SHSTK) !== 0;
  const type = (a: number) => a & ACC_TYPE;
  const rules: AccessRule[] = [];
  const add = (id: RuleId, by: string, applies: AccessRule['applies'], holds: AccessRule['holds']) =>
    rules.push({ rule: ruleNumber(id), by, applies, holds });

  add('pg.user', 'CPL=3', userMode, (_, r) => (r & RIGHT_U) !== 0);
  // Shadow-stack accesses have rules of their own in place of R/W, SMAP and SMEP.
  add('pg.shstk-mode', 'supervisor shadow-stack access', (a) => shadow(a) && !userMode(a), (_, r) => (r & RIGHT_U) === 0); // prettier-ignore
  add('pg.shstk-page', 'CR4.CET=1', shadow, (_, r) => (r & RIGHT_SS) !== 0);
  const write = (a: number) => type(a) === ACC_WRITE && !shadow(a);
  add(
    'pg.write-user',
    'CPL=3',
    (a) => write(a) && userMode(a),
    (_, r) => (r & RIGHT_W) !== 0,
  );
  if ((cr0 & CR0_WP) !== 0) {
    add(
      'pg.write-supervisor',
      'CR0.WP=1',
      (a) => write(a) && !userMode(a),
      (_, r) => (r & RIGHT_W) !== 0,
    );
  }
  const fetch = (a: number) => type(a) === ACC_FETCH;
  if ((efer & EFER_NXE) !== 0) add('pg.xd', 'EFER.NXE=1', fetch, (_, r) => (r & RIGHT_NX) === 0);
  if ((cr4 & CR4_SMEP) !== 0) {
    add(
      'pg.smep',
      'CR4.SMEP=1',
      (a) => fetch(a) && !userMode(a),
      (_, r) => (r & RIGHT_U) === 0,
    );
  }
  if ((cr4 & CR4_SMAP) !== 0) {
    const lifted = (a: number) => (a & ACC_AC) !== 0 && (a & ACC_IMPLICIT) === 0;
    add('pg.smap', 'CR4.SMAP=1', (a) => !fetch(a) && !shadow(a) && !userMode(a), (a, r) => (r & RIGHT_U) === 0 || lifted(a)); // prettier-ignore
  }
  return rules;
}

function build(mode: PagingMode, cr0: number, cr4: number, efer: number, cpu: CpuFeatures): PagingTables {
  const entryRules = entryRulesOf(mode, efer, cpu);
  const accessRules = accessRulesOf(cr0, cr4, efer);
  const levels = new Int32Array(LV_STRIDE * 6);
  for (let level = 1; level <= mode.top; level++) {
    const at = level * LV_STRIDE;
    const pageShift = 12 + (level - 1) * mode.indexBits;
    levels[at + LV_SHIFT] = pageShift >= 32 ? pageShift - 32 : pageShift;
    levels[at + LV_PAGE_SHIFT] = pageShift;
    levels[at + LV_OFFSET] = pageShift < 32 ? 2 ** pageShift - 1 : -1;
    const largeAllowed =
      mode.name === '32bit'
        ? level === 2 && (cr4 & CR4_PSE) !== 0
        : level === 2 || (level === 3 && mode.top > 3 && cpu.page1g);
    if (mode.name === 'pae' && level === 3) {
      // Bit 5 of a PDPTE is reserved: no processor sets it, QEMU TCG does.
      levels[at + LV_FIXED] = PTE_W | PTE_U | (cpu.quirks.has('tcg-pae-pdpte-reload') ? 0 : PTE_A);
    }
    levels[at + LV_LEAF] = level === 1 ? PTE_P : largeAllowed ? PTE_PS : 0;
    for (const r of entryRules[level]) {
      if (r.kind !== 'leaf') {
        levels[at + LV_TABLE_LO] |= r.lo;
        levels[at + LV_TABLE_HI] |= r.hi;
      }
      if (r.kind !== 'table') {
        levels[at + LV_LEAF_LO] |= r.lo;
        levels[at + LV_LEAF_HI] |= r.hi;
      }
    }
  }
  const decisions = new Uint8Array(ACC_COUNT * 16);
  for (let access = 0; access < ACC_COUNT; access++) {
    for (let rights = 0; rights < 16; rights++) {
      const broken = accessRules.find((r) => r.applies(access) && !r.holds(access, rights));
      decisions[(access << 4) | rights] = broken?.rule ?? 0;
    }
  }
  const long = mode.top >= 4;
  const nxe = (efer & EFER_NXE) !== 0 && mode.entryShift === 3;
  return {
    mode,
    top: mode.top,
    entryShift: mode.entryShift,
    indexMask: (1 << mode.indexBits) - 1,
    levels,
    decisions,
    fetchBit: nxe || (cr4 & CR4_SMEP) !== 0 ? 16 : 0,
    keys: long ? ((cr4 & CR4_PKE) !== 0 ? 1 : 0) | ((cr4 & CR4_PKS) !== 0 ? 2 : 0) : 0,
    wp: (cr0 & CR0_WP) !== 0,
    pse36Mask: mode.name === '32bit' && cpu.pse36 ? 0xff : 0,
    canonicalShift: mode.top === 5 ? 7 : mode.top === 4 ? 16 : 0,
    entryRules,
    accessRules,
  };
}

const cache = new Map<string, PagingTables>();

/** CR4 and EFER bits that the tables depend on. */
const CR4_BITS = CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS;
const EFER_BITS = EFER_LMA | EFER_NXE;

/** The tables for a mode under these controls on this processor. Made once per combination. */
export function pagingTables(
  mode: PagingModeName,
  cr0: number,
  cr4: number,
  efer: number,
  cpu: CpuFeatures,
): PagingTables {
  const nxe = cpu.nx ? efer : efer & ~EFER_NXE;
  const bit8 = cpu.vendor === 'amd' && !cpu.quirks.has('tcg-no-amd-bit8');
  const key = [
    mode,
    cr0 & CR0_WP,
    cr4 & CR4_BITS,
    nxe & EFER_BITS,
    cpu.maxphyaddr,
    cpu.page1g,
    cpu.pse36,
    bit8,
    cpu.quirks.has('tcg-pae-pdpte-reload'),
  ].join();
  let tables = cache.get(key);
  if (tables === undefined) {
    tables = build(PAGING_MODES[mode], cr0, cr4, nxe, cpu);
    cache.set(key, tables);
  }
  return tables;
}
