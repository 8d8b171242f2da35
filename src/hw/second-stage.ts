/**
 * The second stage of translation: nothing, EPT or NPT. Takes guest-physical addresses to host-physical ones, for the final address of
 * an access and for each of the guest's own paging-structure entries on the way there.
 */
import {
  ACC_FETCH, ACC_SHSTK, ACC_TYPE, ACC_USER, ACC_WRITE, LEAF_DIRTY, NPF, OK,
  R_ERROR, R_FAULT_GPA_HI, R_FAULT_GPA_LO, R_FAULT_LEVEL, R_HPA_HI, R_HPA_LO, R_IPAT, R_LEAF_FLAGS, R_MEMTYPE,
  R_OUT_HI, R_OUT_LEVEL, R_OUT_LO, R_OUT_SHIFT, R_QUAL_HI, R_QUAL_LO, R_RIGHTS, R_RULE, R_S2_LEVEL, R_S2_RIGHTS, R_S2_SHIFT,
  R_SPP_ALLOWED, R_TABLE_WALK, RIGHT_NX, RIGHT_U, RIGHT_W, S2_FINAL, S2_NO_GLA, S2_PDPTES, S2_TABLE,
} from './access'; // prettier-ignore
import type { WalkContext } from './context';
import { EPT_D, EPT_R, EPT_W, EPT_X, EPT_XU, eptAllowsTableWrite, walkEpt, type EptState } from './ept';
import { ruleNumber } from './rules';
import {
  T_CONTEXT, T_GPA_HI, T_GPA_LO, T_HPA_HI, T_HPA_LO, T_IPAT, T_LEVEL, T_MEMTYPE, T_RIGHTS, T_S2_LEVEL, T_S2_SHIFT, T_SERVES,
  T_SHIFT, T_VA_HI, T_VA_LO,
} from './tlb-bank'; // prettier-ignore
import { walkTables, type PagingState } from './walk';

export const S2_NONE = 0;
export const S2_EPT = 1;
export const S2_NPT = 2;

const RULE_GPA_WIDTH = ruleNumber('npt.gpa-width');
/** EXITINFO1 bits of a nested page fault, high half: bit 32 final address, bit 33 guest table. APM vol. 2, "Nested versus Guest Page Faults, Fault Ordering". */
const FINAL_HI = 1;
const TABLE_HI = 2;
/** Bit of R_S2_RIGHTS, beside RIGHT_*: the nested mapping is dirty. */
const NPT_DIRTY = 0x100;

/** Which second stage is on, and its tables. */
export class SecondStage {
  kind: typeof S2_NONE | typeof S2_EPT | typeof S2_NPT = S2_NONE;
  ept: EptState | null = null;
  npt: PagingState | null = null;
}

/**
 * Translates guest-physical hi:lo. On OK the result is in R_HPA_LO/HI, R_S2_LEVEL/SHIFT, R_MEMTYPE. Otherwise the status is that of the
 * fault, whose qualification (or EXITINFO1) and address are in R_QUAL and R_FAULT_GPA.
 * @param access ACC_* of the access itself
 * @param purpose an S2_* constant
 */
export function secondStage(x: WalkContext, s: SecondStage, lo: number, hi: number, access: number, purpose: number): number {
  if (x.tlb !== null && x.tlb.physical !== null && s.kind !== S2_NONE) return rememberedStage(x, s, lo, hi, access, purpose);
  return walkSecondStage(x, s, lo, hi, access, purpose);
} // prettier-ignore

function walkSecondStage(x: WalkContext, s: SecondStage, lo: number, hi: number, access: number, purpose: number): number {
  if (s.kind === S2_EPT) return walkEpt(x, s.ept!, lo, hi, access, purpose);
  const { r } = x;
  if (s.kind === S2_NPT) {
    const npt = s.npt!;
    const table = purpose === S2_TABLE || purpose === S2_PDPTES;
    // All accesses of the nested walk are user accesses; those to guest tables are writes. APM vol. 2, "Nested Table Walk".
    const asked = (table ? ACC_WRITE : access & ACC_TYPE) | ACC_USER;
    const outside = npt.tables.top <= 3 ? hi !== 0 : npt.tables.top === 4 && hi >>> 16 !== 0;
    if (outside) {
      if (x.recorder !== null) x.recorder.decided(RULE_GPA_WIDTH, false, `${npt.tables.mode.name} host`);
      r[R_ERROR] = ((asked & ACC_TYPE) === ACC_WRITE ? 2 : 0) | 4;
      r[R_RULE] = RULE_GPA_WIDTH;
      r[R_FAULT_LEVEL] = npt.tables.top;
    } else if (walkTables(x, npt, lo, hi, asked) === OK) {
      r[R_HPA_LO] = r[R_OUT_LO];
      r[R_HPA_HI] = r[R_OUT_HI];
      r[R_S2_LEVEL] = r[R_OUT_LEVEL];
      r[R_S2_SHIFT] = r[R_OUT_SHIFT];
      r[R_S2_RIGHTS] = r[R_RIGHTS] | ((r[R_LEAF_FLAGS] & LEAF_DIRTY) !== 0 ? NPT_DIRTY : 0);
      r[R_SPP_ALLOWED] = 0;
      r[R_MEMTYPE] = -1;
      return OK;
    }
    r[R_QUAL_LO] = r[R_ERROR];
    r[R_QUAL_HI] = table ? TABLE_HI : FINAL_HI;
    r[R_FAULT_GPA_LO] = lo;
    r[R_FAULT_GPA_HI] = hi;
    r[R_TABLE_WALK] = table ? 1 : 0;
    return NPF;
  }
  r[R_HPA_LO] = lo;
  r[R_HPA_HI] = hi;
  r[R_S2_LEVEL] = 0;
  r[R_S2_SHIFT] = 52;
  r[R_MEMTYPE] = -1;
  return OK;
} // prettier-ignore

/** As {@link secondStage}, with the guest-physical mappings of `x.tlb`: an access that one of them serves reads no table. */
function rememberedStage(x: WalkContext, s: SecondStage, lo: number, hi: number, access: number, purpose: number): number {
  const { r } = x;
  const tlb = x.tlb!;
  const bank = tlb.physical!;
  const data = bank.data;
  let o = bank.find(lo, hi, tlb.physicalContext, tlb.physicalContext);
  if (o >= 0) {
    const user = (r[R_RIGHTS] & RIGHT_U) !== 0;
    const wanted = servesFor(s, access, purpose, user);
    // Supervisor shadow-stack control has a rule of its own, guest-paging verification looks at the whole walk: both need the entries.
    const special = s.kind === S2_EPT && ((access & ACC_SHSTK) !== 0 || s.ept!.verifyPaging);
    if (!special && (data[o + T_SERVES] & wanted) === wanted) {
      r[R_HPA_LO] = data[o + T_HPA_LO] | (lo & 0xfff);
      r[R_HPA_HI] = data[o + T_HPA_HI];
      r[R_S2_LEVEL] = data[o + T_S2_LEVEL];
      r[R_S2_SHIFT] = data[o + T_S2_SHIFT];
      r[R_MEMTYPE] = data[o + T_MEMTYPE];
      r[R_IPAT] = data[o + T_IPAT];
      r[R_S2_RIGHTS] = data[o + T_RIGHTS];
      r[R_SPP_ALLOWED] = 0;
      if (x.recorder !== null) x.recorder.cached('guest-physical', r[R_S2_LEVEL], lo, hi, r[R_HPA_LO] & ~0xfff, r[R_HPA_HI]);
      return OK;
    }
  }
  const status = walkSecondStage(x, s, lo, hi, access, purpose);
  if (status !== OK || r[R_SPP_ALLOWED] !== 0) return status;
  o = bank.insert(lo, hi, tlb.physicalContext);
  data[o + T_HPA_LO] = r[R_HPA_LO] & ~0xfff;
  data[o + T_HPA_HI] = r[R_HPA_HI];
  data[o + T_GPA_LO] = lo & ~0xfff;
  data[o + T_GPA_HI] = hi;
  data[o + T_S2_LEVEL] = r[R_S2_LEVEL];
  data[o + T_S2_SHIFT] = r[R_S2_SHIFT];
  data[o + T_SHIFT] = r[R_S2_SHIFT];
  data[o + T_LEVEL] = r[R_S2_LEVEL];
  data[o + T_MEMTYPE] = r[R_MEMTYPE];
  data[o + T_IPAT] = r[R_IPAT];
  data[o + T_RIGHTS] = r[R_S2_RIGHTS];
  data[o + T_SERVES] = secondStageServes(s, r[R_S2_RIGHTS]);
  data[o + T_VA_LO] = lo & ~0xfff;
  data[o + T_VA_HI] = hi;
  data[o + T_CONTEXT] = tlb.physicalContext;
  return OK;
} // prettier-ignore

/** Bits of {@link secondStageServes} that an access needs. */
function servesFor(s: SecondStage, access: number, purpose: number, user: boolean): number {
  if (purpose === S2_FINAL || purpose === S2_NO_GLA) {
    const type = access & ACC_TYPE;
    return type === ACC_FETCH && user ? SERVES_USER_FETCH : 1 << type;
  }
  if (purpose === S2_PDPTES && s.kind === S2_EPT) return SERVES_READ;
  return s.kind === S2_NPT || s.ept!.ad ? SERVES_WRITE : SERVES_READ;
}

export const SERVES_READ = 1;
export const SERVES_WRITE = 2;
export const SERVES_FETCH = 4;
export const SERVES_USER_FETCH = 8;

/**
 * What a mapping with these R_S2_RIGHTS allows without another walk: reads, writes (its dirty flag is set or not in use), fetches from
 * supervisor-mode and from user-mode addresses.
 */
export function secondStageServes(s: SecondStage, rights: number): number {
  if (s.kind === S2_NONE) return SERVES_READ | SERVES_WRITE | SERVES_FETCH | SERVES_USER_FETCH;
  if (s.kind === S2_NPT) {
    // A nested mapping that was used is a user mapping.
    const write = (rights & RIGHT_W) !== 0 && (rights & NPT_DIRTY) !== 0 ? SERVES_WRITE : 0;
    return SERVES_READ | write | ((rights & RIGHT_NX) === 0 ? SERVES_FETCH | SERVES_USER_FETCH : 0);
  }
  const ept = s.ept!;
  const write = (rights & EPT_W) !== 0 && (!ept.ad || (rights & EPT_D) !== 0) ? SERVES_WRITE : 0;
  const userFetch = (rights & (ept.mbec ? EPT_XU : EPT_X)) !== 0 ? SERVES_USER_FETCH : 0;
  return ((rights & EPT_R) !== 0 ? SERVES_READ : 0) | write | ((rights & EPT_X) !== 0 ? SERVES_FETCH : 0) | userFetch;
}

/** Whether an accessed or dirty flag may be set in the guest entry at guest-physical hi:lo; OK or the fault. */
export function tableWriteAllowed(x: WalkContext, s: SecondStage, lo: number, hi: number): number {
  // NPT took the table access for a write already.
  return s.kind === S2_EPT ? eptAllowsTableWrite(x, s.ept!, lo, hi) : OK;
}
