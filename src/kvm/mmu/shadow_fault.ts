/**
 * arch/x86/kvm/mmu/paging_tmpl.h: FNAME(page_fault) and FNAME(fetch), faults under shadow paging.
 * Facts: reference kvm-mmu-model.md 12.8, chapter 14 and 7.9.
 */
import { enter, leave } from '../observer';
import { ACC_ALL, ACC_EXEC, ACC_USER, ACC_WRITE, INVALID_PAGE, type KvmMmuPage, type KvmVcpu } from '../kvm_host';
import { kvm_vcpu_gfn_to_memslot, __gfn_to_pfn_memslot } from '../kvm_main';
import { role_get } from '../roles';
import { is_cr0_wp, is_cr4_smep } from './calc_role';
import {
  direct_pte_prefetch,
  gfn_to_memslot_dirty_bitmap,
  mmu_set_spte,
  ShadowWalk,
  traceRequested,
} from './direct_map';
import { RET_PF, type KvmPageFault } from './fault';
import { disallowed_hugepage_adjust, kvm_mmu_hugepage_adjust } from './hugepage';
import { kvm_mmu_invalidate_gva } from './invlpg';
import { is_rsvd_bits_set } from './metadata';
import {
  drop_parent_pte,
  kvm_mmu_get_child_sp,
  link_shadow_page,
  make_mmu_pages_available,
  page_access,
  spte_index,
  sptep_to_sp,
} from './pages';
import { handle_abnormal_pfn, is_page_fault_stale, kvm_faultin_pfn, page_fault_handle_page_track } from './page_fault';
import { gpte_access, guest_format, GuestWalker, have_ad, walk_addr_generic, type WalkFault } from './paging_tmpl';
import { drop_spte } from './rmap';
import { mmu_sync_children } from './unsync';
import { kvm_flush_remote_tlbs_with_address } from '../x86_requests';
import { nested_svm_inject_npf_exit } from '../svm_nested';
import { nested_ept_inject_page_fault } from '../vmx_nested_ept';
import { kvm_multiple_exception } from '../x86_exceptions';

const PTE_PREFETCH_NUM = 8;

/** Eight guest entries around the faulting one, read by gpte_changed() at level 1. */
interface PrefetchPtes {
  lo: Uint32Array;
  hi: Uint32Array;
}

const walker = new GuestWalker();
const levels = new ShadowWalk();
const prefetch: PrefetchPtes = { lo: new Uint32Array(PTE_PREFETCH_NUM), hi: new Uint32Array(PTE_PREFETCH_NUM) };

/** The name of the instance that serves a context. */
export const instance = (vcpu: KvmVcpu): 'paging64' | 'paging32' | 'ept' =>
  guest_format(vcpu.kvm.machine, vcpu.mmu).name;

/** FNAME(page_fault) */
export function shadow_page_fault(vcpu: KvmVcpu, f: KvmPageFault): RET_PF {
  const m = vcpu.kvm.machine;
  enter(m, guest_format(m, vcpu.mmu).page_fault, vcpu.vcpu_id, f);
  const r = page_fault(vcpu, f, walker);
  leave(m);
  return r;
}

function page_fault(vcpu: KvmVcpu, f: KvmPageFault, w: GuestWalker): RET_PF {
  const m = vcpu.kvm.machine;
  enter(m, guest_format(m, vcpu.mmu).walk_addr, vcpu.vcpu_id, w);
  const mapped = walk_addr_generic(w, vcpu, vcpu.mmu, f.addrLo, f.addrHi, f.error_code & ~8);
  leave(m);
  if (!mapped) {
    if (!f.prefetch) kvm_inject_emulated_page_fault(vcpu, w);
    return RET_PF.RETRY;
  }
  f.gfn = w.gfn;
  f.slot = kvm_vcpu_gfn_to_memslot(vcpu, f.gfn);
  if (page_fault_handle_page_track(vcpu, f)) {
    shadow_page_table_clear_flood(vcpu, f);
    return RET_PF.WRITE_PROTECTED;
  }
  f.max_level = w.level;
  if (m.caps.selfChangeMapping) {
    enter(m, guest_format(m, vcpu.mmu).is_self_change_mapping, vcpu.vcpu_id, w);
    if (is_self_change_mapping(vcpu, w, f)) f.max_level = 1;
    leave(m);
  }
  const got = kvm_faultin_pfn(vcpu, f);
  if (got !== RET_PF.CONTINUE) return got;
  const abnormal = handle_abnormal_pfn(vcpu, f, w.pte_access);
  if (abnormal !== RET_PF.CONTINUE) return abnormal;
  if (f.write && !(w.pte_access & ACC_WRITE) && !is_cr0_wp(m, vcpu.mmu) && !f.user && f.slot) {
    // CR0.WP=0: the kernel may write a read-only page, through an entry that user mode cannot use.
    w.pte_access |= ACC_WRITE;
    w.pte_access &= ~ACC_USER;
    if (is_cr4_smep(m, vcpu.mmu)) w.pte_access &= ~ACC_EXEC;
  }
  if (is_page_fault_stale(vcpu, f)) return RET_PF.RETRY;
  if (!make_mmu_pages_available(vcpu)) return -28 as RET_PF;
  return fetch(vcpu, f, w);
}

/** kvm_inject_emulated_page_fault(): a stale translation of the address must go, or the guest would fault for ever. */
export function kvm_inject_emulated_page_fault(vcpu: KvmVcpu, fault: WalkFault): void {
  const m = vcpu.kvm.machine;
  const { fault_error_code: error_code, fault_address: address } = fault;
  // A fault in L1's tables is L1's; one in L2's own tables goes to L2.
  const mmu = fault.nested_page_fault ? vcpu.mmu : vcpu.walk_mmu;
  enter(m, 'kvm_inject_emulated_page_fault', vcpu.vcpu_id, fault);
  if (error_code & 1 && !(error_code & 8)) kvm_mmu_invalidate_gva(vcpu, mmu, address, mmu.root.hpa);
  if (mmu.inject_page_fault === 'nested_svm_inject_npf_exit') nested_svm_inject_npf_exit(vcpu, error_code, address);
  else if (mmu.inject_page_fault === 'nested_ept_inject_page_fault')
    nested_ept_inject_page_fault(vcpu, error_code, address);
  else kvm_inject_page_fault(vcpu, error_code, address);
  leave(m);
}

/** kvm_inject_page_fault(): a #PF for the guest that runs. */
function kvm_inject_page_fault(vcpu: KvmVcpu, error_code: number, address: bigint): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_inject_page_fault', vcpu.vcpu_id, null);
  if (m.observer)
    m.observer.event({
      kind: 'guest_page_fault',
      vcpu: vcpu.vcpu_id,
      gva: address,
      errorCode: error_code,
      injected: true,
      why: m.lastWhy,
    });
  enter(m, 'kvm_queue_exception_e', vcpu.vcpu_id, null);
  kvm_multiple_exception(vcpu, 14, error_code, address);
  leave(m);
  leave(m);
}

/** FNAME(is_self_change_mapping): the page maps one of the tables it was reached through. */
function is_self_change_mapping(vcpu: KvmVcpu, w: GuestWalker, f: KvmPageFault): boolean {
  if (!(w.pte_access & ACC_WRITE || (!is_cr0_wp(vcpu.kvm.machine, vcpu.mmu) && !f.user))) return false;
  const pages = 512 ** (w.level - 1);
  let self = false;
  for (let level = w.level; level <= w.max_level; level++) {
    const table = w.table_gfn[level - 1];
    if (Math.floor(table / pages) === Math.floor(w.gfn / pages)) self = true;
    if (table === w.gfn) f.write_fault_to_shadow_pgtable = true;
  }
  return self;
}

function shadow_page_table_clear_flood(vcpu: KvmVcpu, f: KvmPageFault): void {
  const it = new ShadowWalk();
  for (it.init(vcpu, f.addrLo, f.addrHi); it.okay();) {
    clear_flood(vcpu, it.sptep);
    it.step(vcpu);
  }
}

function clear_flood(vcpu: KvmVcpu, sptep: number): void {
  const sp = sptep_to_sp(vcpu.kvm, sptep);
  if (sp) sp.write_flooding_count = 0;
}

/** FNAME(gpte_changed): the guest (another vCPU of it) may have edited the entry since the walk. */
function gpte_changed(vcpu: KvmVcpu, w: GuestWalker, level: number): boolean {
  const m = vcpu.kvm.machine;
  enter(m, guest_format(m, vcpu.mmu).gpte_changed, vcpu.vcpu_id, w);
  const { size } = guest_format(m, vcpu.mmu);
  const four = size === 4;
  const hpa = w.pte_hpa[level - 1];
  if (level === 1) {
    const base = hpa - (hpa % (PTE_PREFETCH_NUM * size));
    const { words } = m.mem;
    const at = (m.mem.find(base | 0, (base / 0x1_0000_0000) | 0) << 10) | ((base & 0xfff) >>> 2);
    for (let i = 0; i < PTE_PREFETCH_NUM; i++) {
      prefetch.lo[i] = words[four ? at + i : at + 2 * i];
      prefetch.hi[i] = four ? 0 : words[at + 2 * i + 1];
    }
  }
  const lo = four ? m.mem.read32(hpa) : m.mem.readLo(hpa);
  const hi = four ? 0 : m.mem.readHi(hpa);
  leave(m);
  return lo >>> 0 !== w.ptesLo[level - 1] || hi >>> 0 !== w.ptesHi[level - 1];
}

/** FNAME(fetch): shadow tables for the guest's tables, direct tables below a guest huge page, then the leaf. */
function fetch(vcpu: KvmVcpu, f: KvmPageFault, w: GuestWalker): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, guest_format(m, vcpu.mmu).fetch, vcpu.vcpu_id, f);
  const r = fetch_levels(vcpu, f, w);
  leave(m);
  return r;
}

function fetch_levels(vcpu: KvmVcpu, f: KvmPageFault, w: GuestWalker): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const direct_access = w.pte_access;
  let top = role_get(vcpu.mmu.cpu_role_base, m.roles.level);
  if (top === 3) top = 2;
  if (gpte_changed(vcpu, w, top)) return RET_PF.RETRY;
  if (vcpu.mmu.root.hpa === INVALID_PAGE) return RET_PF.RETRY;
  const it = levels;
  for (it.init(vcpu, f.addrLo, f.addrHi); it.okay() && it.level > w.level; it.step(vcpu)) {
    clear_flood(vcpu, it.sptep);
    const sp = kvm_mmu_get_child_sp(vcpu, it.sptep, w.table_gfn[it.level - 2], false, w.pt_access[it.level - 2]);
    // A table that is linked again may have fallen behind while nobody used it.
    if (sp?.unsync_children) mmu_sync_children(vcpu, sp);
    if (gpte_changed(vcpu, w, it.level - 1)) return RET_PF.RETRY;
    if (sp) link_shadow_page(vcpu, it.sptep, sp);
    if (!m.caps.selfChangeMapping && f.write && w.table_gfn[it.level - 2] === f.gfn)
      f.write_fault_to_shadow_pgtable = true;
  }
  kvm_mmu_hugepage_adjust(vcpu, f);
  traceRequested(vcpu, f, m.caps.requestedFrameOfAddress ? w.level : f.goal_level);
  let base = f.gfn;
  for (; it.okay(); it.step(vcpu)) {
    clear_flood(vcpu, it.sptep);
    if (f.nx_huge_page_workaround_enabled)
      disallowed_hugepage_adjust(vcpu, f, m.mem.readLo(it.sptep), m.mem.readHi(it.sptep), it.level);
    base = f.gfn - (f.gfn % 512 ** (it.level - 1));
    if (it.level === f.goal_level) break;
    validate_direct_spte(vcpu, it.sptep, direct_access);
    const sp = kvm_mmu_get_child_sp(vcpu, it.sptep, base, true, direct_access);
    if (!sp) continue;
    link_shadow_page(vcpu, it.sptep, sp);
    if (f.huge_page_disallowed && f.req_level >= it.level) sp.nx_huge_page_disallowed = true;
  }
  if (it.level !== f.goal_level) return -14 as RET_PF;
  const ret = mmu_set_spte(vcpu, f.slot, it.sptep, w.pte_access, base, f.pfnKind === 'pfn' ? f.pfn : -1, f);
  if (ret !== RET_PF.SPURIOUS) pte_prefetch(vcpu, it.sptep);
  return ret;
}

/** validate_direct_spte(): a direct table below a guest huge page whose rights have changed is replaced. */
function validate_direct_spte(vcpu: KvmVcpu, sptep: number, direct_access: number): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const lo = m.mem.readLo(sptep);
  const hi = m.mem.readHi(sptep);
  if (!m.spte.isPresent(lo, hi) || lo & 0x80) return;
  const child = kvm.sp_by_pfn.get(m.spte.pfn(lo, hi));
  if (!child || page_access(vcpu, child) === direct_access) return;
  enter(m, 'validate_direct_spte', vcpu.vcpu_id, child);
  drop_parent_pte(kvm, child, sptep);
  kvm_flush_remote_tlbs_with_address(kvm, child.gfn, 512, 'a direct table had other access rights');
  leave(m);
}

/** FNAME(pte_prefetch): the neighbours whose guest entries are present and accessed. */
function pte_prefetch(vcpu: KvmVcpu, sptep: number): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const R = m.roles;
  const sp = sptep_to_sp(kvm, sptep);
  if (!sp || role_get(sp.role, R.level) > 1 || kvm.mmu_invalidate_in_progress) return;
  if (role_get(sp.role, R.direct)) {
    direct_pte_prefetch(vcpu, sptep);
    return;
  }
  enter(m, guest_format(m, vcpu.mmu).pte_prefetch, vcpu.vcpu_id, sp);
  const first = spte_index(sptep) & ~(PTE_PREFETCH_NUM - 1);
  for (let j = 0; j < PTE_PREFETCH_NUM; j++) {
    const p = sp.spt * 4096 + (first + j) * 8;
    if (p === sptep || m.spte.isPresent(m.mem.readLo(p), m.mem.readHi(p))) continue;
    if (!prefetch_gpte(vcpu, sp, p, prefetch.lo[j], prefetch.hi[j], true)) break;
  }
  leave(m);
}

/** FNAME(prefetch_invalid_gpte): drops the entry where the guest's is absent, unused or malformed. */
export function prefetch_invalid_gpte(vcpu: KvmVcpu, sptep: number, lo: number, hi: number): boolean {
  const m = vcpu.kvm.machine;
  const { mmu } = vcpu;
  const format = guest_format(m, mmu);
  const ok =
    (lo & format.present) !== 0 &&
    (!have_ad(m, mmu) || (lo & format.accessed) !== 0) &&
    !is_rsvd_bits_set(mmu.guest_rsvd_check, lo, hi, 1);
  if (!ok) drop_spte(vcpu.kvm, sptep);
  return !ok;
}

/** Access of a 4K guest entry in page `sp`; a clean page stays read-only until it is written (FNAME(protect_clean_gpte)). */
export function leaf_access(vcpu: KvmVcpu, sp: KvmMmuPage, lo: number, hi: number): number {
  const m = vcpu.kvm.machine;
  const format = guest_format(m, vcpu.mmu);
  const access = page_access(vcpu, sp) & gpte_access(format, lo, hi) & ACC_ALL;
  return !have_ad(m, vcpu.mmu) || lo & format.dirty ? access : access & ~ACC_WRITE;
}

/** Frame of a 4K guest entry. */
export const gpte_to_gfn = (four: boolean, lo: number, hi: number): number =>
  four ? lo >>> 12 : (hi & 0xfffff) * 0x100000 + (lo >>> 12);

/** FNAME(prefetch_gpte). @returns false to stop prefetching */
export function prefetch_gpte(
  vcpu: KvmVcpu,
  sp: KvmMmuPage,
  sptep: number,
  lo: number,
  hi: number,
  no_dirty_log: boolean,
): boolean {
  const m = vcpu.kvm.machine;
  enter(m, guest_format(m, vcpu.mmu).prefetch_gpte, vcpu.vcpu_id, sp);
  const go = prefetch_entry(vcpu, sp, sptep, lo, hi, no_dirty_log);
  leave(m);
  return go;
}

function prefetch_entry(
  vcpu: KvmVcpu,
  sp: KvmMmuPage,
  sptep: number,
  lo: number,
  hi: number,
  no_dirty_log: boolean,
): boolean {
  const m = vcpu.kvm.machine;
  if (prefetch_invalid_gpte(vcpu, sptep, lo, hi)) return false;
  const gfn = gpte_to_gfn(guest_format(m, vcpu.mmu).size === 4, lo, hi);
  const access = leaf_access(vcpu, sp, lo, hi);
  const slot = gfn_to_memslot_dirty_bitmap(vcpu, gfn, no_dirty_log && (access & ACC_WRITE) !== 0);
  if (!slot) return false;
  const out = m.pfnResult;
  __gfn_to_pfn_memslot(m, slot, gfn, true, true, out);
  if (out.kind !== 'pfn') return false;
  mmu_set_spte(vcpu, slot, sptep, access, gfn, out.pfn, null);
  return true;
}
