/** How pages get into the TLB, and when an entry may answer for the tables. */
import {
  ACC_SHSTK, ACC_TYPE, LEAF_DIRTY, LEAF_GLOBAL, LEAF_PKEY_SHIFT, R_GPA_HI, R_GPA_LO, R_HPA_HI, R_HPA_LO, R_IPAT, R_LEAF_FLAGS, R_LEVEL,
  R_MEMTYPE, R_PAGE_SHIFT, R_RIGHTS, R_S2_LEVEL, R_S2_RIGHTS, R_S2_SHIFT, R_SPP_ALLOWED, RIGHT_U,
} from './access'; // prettier-ignore
import {
  secondStageServes, SERVES_FETCH, SERVES_READ, SERVES_USER_FETCH, SERVES_WRITE, type SecondStage,
} from './second-stage'; // prettier-ignore
import type { Tlb } from './tlb';
import {
  T_CONTEXT, T_GPA_HI, T_GPA_LO, T_HPA_HI, T_HPA_LO, T_IPAT, T_LEAF, T_LEVEL, T_MEMTYPE, T_RIGHTS, T_S2_LEVEL, T_S2_SHIFT,
  T_SERVES, T_SHIFT, T_VA_HI, T_VA_LO,
} from './tlb-bank'; // prettier-ignore
import { keyRule, type PagingState } from './walk';

/** Whether a TLB entry allows the access without a walk. An access that it does not allow walks again, it does not fault from it. */
export function entryServes(guest: PagingState, d: Int32Array, o: number, access: number): boolean {
  const { tables } = guest;
  if (((d[o + T_SERVES] >>> (access & ACC_TYPE)) & 1) === 0) return false;
  if ((access & ACC_SHSTK) !== 0) return false;
  if (tables.top === 0) return true;
  const rights = d[o + T_RIGHTS];
  if (tables.decisions[((access & 63) << 4) | rights] !== 0) return false;
  return tables.keys === 0 || keyRule(guest, access, rights, d[o + T_LEAF] >>> LEAF_PKEY_SHIFT) === 0;
}

/** Puts the translation just made, whose results are in `r`, into the TLB. @param pge CR4.PGE: global pages are in use */
export function rememberPage(tlb: Tlb, stage2: SecondStage, guest: PagingState, pge: boolean, r: Int32Array, lo: number, hi: number): void {
  if (r[R_SPP_ALLOWED] !== 0) return;
  const size = Math.min(r[R_PAGE_SHIFT], r[R_S2_SHIFT]);
  const bank = size >= 30 ? tlb.page1g : size >= 21 ? tlb.page2m : tlb.page4k;
  const rights = r[R_RIGHTS];
  const leaf = r[R_LEAF_FLAGS];
  const paging = guest.tables.top !== 0;
  const global = paging && pge && (leaf & LEAF_GLOBAL) !== 0;
  const serves = secondStageServes(stage2, r[R_S2_RIGHTS]);
  const dirty = !paging || (leaf & LEAF_DIRTY) !== 0;
  const fetch = (serves & ((rights & RIGHT_U) !== 0 ? SERVES_USER_FETCH : SERVES_FETCH)) !== 0;
  const context = global ? tlb.globals : tlb.context;
  const o = bank.insert(lo, hi, context);
  const d = bank.data;
  const base = ~((1 << bank.shift) - 1);
  d[o + T_HPA_LO] = r[R_HPA_LO] & base;
  d[o + T_HPA_HI] = r[R_HPA_HI];
  d[o + T_GPA_LO] = r[R_GPA_LO] & base;
  d[o + T_GPA_HI] = r[R_GPA_HI];
  d[o + T_RIGHTS] = rights;
  d[o + T_SERVES] = (serves & SERVES_READ) | (dirty ? serves & SERVES_WRITE : 0) | (fetch ? SERVES_FETCH : 0);
  d[o + T_LEAF] = leaf;
  d[o + T_LEVEL] = r[R_LEVEL];
  d[o + T_SHIFT] = r[R_PAGE_SHIFT];
  d[o + T_S2_LEVEL] = r[R_S2_LEVEL];
  d[o + T_S2_SHIFT] = r[R_S2_SHIFT];
  d[o + T_MEMTYPE] = r[R_MEMTYPE];
  d[o + T_IPAT] = r[R_IPAT];
  d[o + T_VA_LO] = lo & base;
  d[o + T_VA_HI] = hi;
  d[o + T_CONTEXT] = context;
} // prettier-ignore
