/**
 * Sub-page write permissions: the walk of the sub-page permission table (SPPT). It is consulted for a write that EPT forbids (W = 0 in some
 * entry, R = 1 in all), if the last entry maps a 4 KiB page and has bit 61 (SPP) set. The SPPT is indexed by guest-physical address like a 4-level
 * page table; its lowest level holds, for each page, a 64-bit vector: bit 2n allows writes to the n-th sub-page of 128 bytes.
 *
 * Source: SDM vol. 3C, "Sub-Page Write Permissions".
 */
import {
  R_FAULT_GPA_HI,
  R_FAULT_GPA_LO,
  R_FAULT_LEVEL,
  R_QUAL_HI,
  R_QUAL_LO,
  R_RULE,
  SPP_MISCONFIG,
  SPP_MISS,
} from './access';
import type { WalkContext } from './context';
import { ruleNumber } from './rules';

/** The write may go ahead. Values apart from the statuses of access.ts. */
export const SPP_ALLOWED = 100;
/** The vector forbids the write: an EPT violation. */
export const SPP_DENIED = 101;

/** Exit qualification of exit reason 66: bit 11 tells a miss from a misconfiguration, bit 12 is NMI unblocking due to IRET. */
export const SPPQ_MISS = 1 << 11;
export const SPPQ_NMI_UNBLOCKING = 1 << 12;

const SUB_PAGE_SHIFT = 7;

const RULE_ELIGIBLE = ruleNumber('spp.eligible');
const RULE_VALID = ruleNumber('spp.valid');
const RULE_RSVD = ruleNumber('spp.rsvd');
const RULE_VECTOR = ruleNumber('spp.rsvd-vector');
const RULE_WRITE = ruleNumber('spp.write');

/** The sub-page permission table in use. */
export class SppState {
  rootLo = 0;
  rootHi = 0;
  /** Address bits 51:MAXPHYADDR and bits 63:52 in the high half. */
  reservedHi = 0;
}

/**
 * Looks up whether the write of `x.accessSize` bytes at guest-physical hi:lo is allowed: SPP_ALLOWED, SPP_DENIED, or the status of an
 * SPP-related event (its results are set). A write that touches several sub-pages needs the permission of each.
 */
export function checkSubPages(x: WalkContext, s: SppState, lo: number, hi: number): number {
  const { memory, recorder } = x;
  let tableLo = s.rootLo;
  let tableHi = s.rootHi;
  if (recorder !== null) recorder.decided(RULE_ELIGIBLE, true, 'SPP control, EPT entry bit 61');
  for (let level = 4; ; level--) {
    const index =
      (level === 4 ? hi >>> 7 : level === 3 ? (lo >>> 30) | (hi << 2) : lo >>> (level === 2 ? 21 : 12)) & 511;
    const at = tableLo | (index << 3);
    const word = (memory.find(at, tableHi) << 10) | (index << 1);
    const entryLo = memory.words[word];
    const entryHi = memory.words[word | 1];
    if (recorder !== null) {
      recorder.read('sppt', level, at, tableHi, at, tableHi, index, entryLo, entryHi, 8, x.forLevel);
    }
    if (level === 1) return testVector(x, lo, hi, entryLo, entryHi);
    const valid = (entryLo & 1) !== 0;
    if (recorder !== null) recorder.checked(RULE_VALID, valid, '');
    if (!valid) return event(x, lo, hi, SPP_MISS, level, RULE_VALID);
    const clean = ((entryLo & 0xffe) | (entryHi & s.reservedHi)) === 0;
    if (recorder !== null) recorder.checked(RULE_RSVD, clean, '');
    if (!clean) return event(x, lo, hi, SPP_MISCONFIG, level, RULE_RSVD);
    tableLo = entryLo & 0xffff_f000;
    tableHi = entryHi & 0x000f_ffff;
  }
}

function testVector(x: WalkContext, lo: number, hi: number, vectorLo: number, vectorHi: number): number {
  const { recorder } = x;
  const clean = ((vectorLo | vectorHi) & 0xaaaa_aaaa) === 0;
  if (recorder !== null) recorder.checked(RULE_VECTOR, clean, '');
  if (!clean) return event(x, lo, hi, SPP_MISCONFIG, 1, RULE_VECTOR);
  const first = (lo & 0xfff) >>> SUB_PAGE_SHIFT;
  const last = Math.min(0xfff, (lo & 0xfff) + x.accessSize - 1) >>> SUB_PAGE_SHIFT;
  for (let n = first; n <= last; n++) {
    const half = n < 16 ? vectorLo : vectorHi;
    const allowed = ((half >>> ((n & 15) << 1)) & 1) !== 0;
    if (recorder !== null) recorder.checked(RULE_WRITE, allowed, `sub-page ${n}`);
    if (!allowed) {
      x.r[R_RULE] = RULE_WRITE;
      return SPP_DENIED;
    }
  }
  return SPP_ALLOWED;
}

function event(x: WalkContext, lo: number, hi: number, status: number, level: number, rule: number): number {
  const { r } = x;
  r[R_QUAL_LO] = (status === SPP_MISS ? SPPQ_MISS : 0) | (x.nmiUnblockingIret ? SPPQ_NMI_UNBLOCKING : 0);
  r[R_QUAL_HI] = 0;
  r[R_FAULT_GPA_LO] = lo;
  r[R_FAULT_GPA_HI] = hi;
  r[R_FAULT_LEVEL] = level;
  r[R_RULE] = rule;
  return status;
}
