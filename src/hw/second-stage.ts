/**
 * The second stage of translation: nothing, EPT or NPT. Takes guest-physical addresses to host-physical ones, for the final address of
 * an access and for each of the guest's own paging-structure entries on the way there.
 */
import {
  ACC_TYPE, ACC_USER, ACC_WRITE, NPF, OK,
  R_ERROR, R_FAULT_GPA_HI, R_FAULT_GPA_LO, R_FAULT_LEVEL, R_HPA_HI, R_HPA_LO, R_MEMTYPE, R_OUT_HI, R_OUT_LEVEL, R_OUT_LO, R_OUT_SHIFT,
  R_QUAL_HI, R_QUAL_LO, R_RIGHTS, R_RULE, R_S2_LEVEL, R_S2_RIGHTS, R_S2_SHIFT, R_TABLE_WALK, S2_PDPTES, S2_TABLE,
} from './access'; // prettier-ignore
import type { WalkContext } from './context';
import { eptAllowsTableWrite, walkEpt, type EptState } from './ept';
import { ruleNumber } from './rules';
import { walkTables, type PagingState } from './walk';

export const S2_NONE = 0;
export const S2_EPT = 1;
export const S2_NPT = 2;

const RULE_GPA_WIDTH = ruleNumber('npt.gpa-width');
/** EXITINFO1 bits of a nested page fault, high half: bit 32 final address, bit 33 guest table. APM vol. 2 15.25.6. */
const FINAL_HI = 1;
const TABLE_HI = 2;

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
  if (s.kind === S2_EPT) return walkEpt(x, s.ept!, lo, hi, access, purpose);
  const { r } = x;
  if (s.kind === S2_NPT) {
    const npt = s.npt!;
    const table = purpose === S2_TABLE || purpose === S2_PDPTES;
    // All accesses of the nested walk are user accesses; those to guest tables are writes. APM vol. 2 15.25.5.
    const asked = (table ? ACC_WRITE : access & ACC_TYPE) | ACC_USER;
    const outside = npt.tables.top <= 3 ? hi !== 0 : npt.tables.top === 4 && hi >>> 16 !== 0;
    if (outside) {
      r[R_ERROR] = ((asked & ACC_TYPE) === ACC_WRITE ? 2 : 0) | 4;
      r[R_RULE] = RULE_GPA_WIDTH;
      r[R_FAULT_LEVEL] = npt.tables.top;
    } else if (walkTables(x, npt, lo, hi, asked) === OK) {
      r[R_HPA_LO] = r[R_OUT_LO];
      r[R_HPA_HI] = r[R_OUT_HI];
      r[R_S2_LEVEL] = r[R_OUT_LEVEL];
      r[R_S2_SHIFT] = r[R_OUT_SHIFT];
      r[R_S2_RIGHTS] = r[R_RIGHTS];
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

/** Whether an accessed or dirty flag may be set in the guest entry at guest-physical hi:lo; OK or the fault. */
export function tableWriteAllowed(x: WalkContext, s: SecondStage, lo: number, hi: number): number {
  // NPT took the table access for a write already.
  return s.kind === S2_EPT ? eptAllowsTableWrite(x, s.ept!, lo, hi) : OK;
}
