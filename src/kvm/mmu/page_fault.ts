/**
 * arch/x86/kvm/mmu/mmu.c: from an exit to RET_PF_*. Facts: reference kvm-mmu-model.md chapters 12 and 17.
 */
import { enter, leave } from '../observer';
import { ACC_ALL, INVALID_PAGE, is_guest_mode, KVM_MEMSLOT_INVALID, type KvmVcpu } from '../kvm_host';
import {
  gfn_to_hva_memslot,
  kvm_slot_dirty_track_enabled,
  kvm_vcpu_gfn_to_memslot,
  __gfn_to_pfn_memslot,
  mark_page_dirty_in_slot,
} from '../kvm_main';
import { role_get } from '../roles';
import { x86_emulate_instruction } from '../emulate';
import { direct_map, get_walk, is_tdp_mmu } from './direct_map';
import { type KvmPageFault, RET_PF } from './fault';
import { handle_mmio_page_fault, mmio_info_in_cache, vcpu_cache_mmio_info } from './mmio';
import {
  gfn_valid_sp_with_gptes,
  is_obsolete_sp,
  kvm_mmu_commit_zap_page,
  kvm_mmu_prepare_zap_page,
  make_mmu_pages_available,
  sptep_to_sp,
} from './pages';
import { root_to_sp } from './roots';
import { kvm_tdp_mmu_get_walk, kvm_tdp_mmu_map, newSpteWalk } from './tdp_mmu';
import { is_spp_spte, spp_induced_page_fault, spp_restore } from './spp';
import { kvm_slot_page_track_is_active } from './track';
import { shadow_page_fault } from './shadow_fault';
import { gva_to_gpa } from './paging_tmpl';

/** PFERR_* (arch/x86/include/asm/kvm_host.h) */
export const PFERR_PRESENT = 1;
export const PFERR_WRITE = 2;
export const PFERR_USER = 4;
export const PFERR_RSVD = 8;
export const PFERR_FETCH = 16;
/** high half: PFERR_GUEST_FINAL (bit 32), PFERR_GUEST_PAGE (bit 33) */
export const PFERR_GUEST_FINAL_HI = 1;
export const PFERR_GUEST_PAGE_HI = 2;

/** EMULTYPE_* as far as they matter here. */
export interface EmulType {
  pf: boolean;
  allowRetryPf: boolean;
  writePfToSp: boolean;
  /** EMULTYPE_TRAP_UD: what the emulator does not know is #UD of the guest, not a failure */
  trapUd?: boolean;
}

const walkScratch = newSpteWalk();

/** Where old kernels look for MMIO sptes: in the fault handler of the context. */
const MMIO_PLACE = {
  kvm_tdp_page_fault: 'kvm_tdp_page_fault/mmio',
  nonpaging_page_fault: 'nonpaging_page_fault/mmio',
  paging64_page_fault: 'paging64_page_fault/mmio',
  paging32_page_fault: 'paging32_page_fault/mmio',
  ept_page_fault: 'ept_page_fault/mmio',
} as const;

/**
 * kvm_mmu_page_fault(): the address is a gpa with TDP, a gva with shadow paging.
 * @returns what the vCPU loop wants: 1 resume, 0 exit to user space, negative errno
 */
export function kvm_mmu_page_fault(
  vcpu: KvmVcpu,
  addrLo: number,
  addrHi: number,
  error_code: number,
  error_code_hi: number,
): number {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const direct = role_get(vcpu.mmu.root_role, m.roles.direct) === 1;
  // Before v4.15 an EPT misconfiguration had its MMIO path in its own handler.
  const misconfig = (error_code & PFERR_RSVD) !== 0 && m.config.paging === 'ept' && m.tdpEnabled;
  enter(m, misconfig ? 'kvm_mmu_page_fault/misconfig' : 'kvm_mmu_page_fault', vcpu.vcpu_id, m.fault);
  const emulation: EmulType = { pf: true, allowRetryPf: false, writePfToSp: false };
  if (vcpu.mmu.root.hpa === INVALID_PAGE) {
    leave(m);
    return 1;
  }
  let r: RET_PF = RET_PF.INVALID;
  const addr = (BigInt(addrHi) << 32n) | BigInt(addrLo);
  if (error_code & PFERR_RSVD) {
    // v4.4 looks for MMIO sptes in the context's fault handler; for EPT see above.
    if (!misconfig) enter(m, MMIO_PLACE[vcpu.mmu.page_fault ?? 'nonpaging_page_fault'], vcpu.vcpu_id, m.fault);
    r = handle_mmio_page_fault(vcpu, addr, direct);
    if (!misconfig) leave(m);
  }
  const cachedMmio = r === RET_PF.EMULATE;
  if (r === RET_PF.INVALID) {
    if (misconfig) enter(m, 'kvm_mmu_page_fault/stale', vcpu.vcpu_id, m.fault);
    r = kvm_mmu_do_page_fault(vcpu, addrLo, addrHi, error_code, error_code_hi);
    if (misconfig) leave(m);
    if (m.fault.write_fault_to_shadow_pgtable) emulation.writePfToSp = true;
  }
  if ((r as number) < 0) {
    leave(m);
    return r;
  }
  const nestedWrite =
    direct &&
    (error_code_hi & PFERR_GUEST_PAGE_HI) !== 0 &&
    (error_code & (PFERR_WRITE | PFERR_PRESENT)) === (PFERR_WRITE | PFERR_PRESENT);
  if (r === RET_PF.WRITE_PROTECTED && m.caps.retryOnlyUnprotected) {
    r = kvm_mmu_write_protect_fault(vcpu, addr, nestedWrite, emulation);
  } else if (r === RET_PF.EMULATE || r === RET_PF.WRITE_PROTECTED) {
    // An MMIO spte has said that there is no memory: nothing can be unprotected (`goto emulate`).
    if (!m.caps.retryOnlyUnprotected && !cachedMmio) {
      if (nestedWrite) {
        kvm_mmu_unprotect_page(vcpu, Math.floor(Number(addr) / 4096));
        leave(m);
        return 1;
      }
      emulation.allowRetryPf = !mmio_info_in_cache(vcpu, addr, direct) && !is_guest_mode(vcpu);
    }
    r = RET_PF.EMULATE;
  }
  if (r !== RET_PF.EMULATE) {
    leave(m);
    // RET_PF_USERSPACE of the SPP patches: the exit is noted already.
    if (r === RET_PF.USERSPACE) return 0;
    return 1;
  }
  const done = x86_emulate_instruction(vcpu, addr, emulation);
  leave(m);
  return done;
}

/** kvm_mmu_write_protect_fault() (v6.12): unprotects and retries where that helps, else says whether the emulator may. */
function kvm_mmu_write_protect_fault(vcpu: KvmVcpu, addr: bigint, nestedWrite: boolean, emulation: EmulType): RET_PF {
  const m = vcpu.kvm.machine;
  const direct = role_get(vcpu.mmu.root_role, m.roles.direct) === 1;
  enter(m, 'kvm_mmu_write_protect_fault', vcpu.vcpu_id, m.fault);
  const r = body();
  leave(m);
  return r;

  function body(): RET_PF {
    // The same instruction and address again: unprotecting did not help, so the instruction has to be emulated.
    if (vcpu.last_retry_eip === vcpu.regs.rip && vcpu.last_retry_addr === addr) return RET_PF.EMULATE;
    vcpu.last_retry_eip = 0n;
    vcpu.last_retry_addr = 0n;
    // An event in delivery would be late if KVM emulated instructions first.
    const eventWaits = !direct && vcpu.exception?.injected === true;
    if ((nestedWrite || eventWaits) && kvm_mmu_unprotect_gfn_and_retry(vcpu, addr)) return RET_PF.RETRY;
    emulation.allowRetryPf = !is_guest_mode(vcpu);
    return RET_PF.EMULATE;
  }
}

/** kvm_mmu_unprotect_gfn_and_retry() (v6.12): whether shadow pages went, so that running the instruction again will do. */
export function kvm_mmu_unprotect_gfn_and_retry(vcpu: KvmVcpu, cr2_or_gpa: bigint): boolean {
  const kvm = vcpu.kvm;
  if (kvm.indirect_shadow_pages === 0) return false;
  const gpa = role_get(vcpu.mmu.root_role, kvm.machine.roles.direct)
    ? Number(cr2_or_gpa)
    : gva_to_gpa(vcpu, cr2_or_gpa, PFERR_WRITE);
  if (gpa < 0 || !unprotect()) return false;
  vcpu.last_retry_eip = vcpu.regs.rip;
  vcpu.last_retry_addr = cr2_or_gpa;
  return true;

  function unprotect(): boolean {
    enter(kvm.machine, 'kvm_mmu_unprotect_gfn_and_retry', vcpu.vcpu_id, null);
    const any = kvm_mmu_unprotect_page(vcpu, Math.floor(gpa / 4096));
    leave(kvm.machine);
    return any;
  }
}

/** kvm_mmu_do_page_fault(): fills struct kvm_page_fault and calls the context's handler. */
export function kvm_mmu_do_page_fault(
  vcpu: KvmVcpu,
  addrLo: number,
  addrHi: number,
  err: number,
  err_hi: number,
): RET_PF {
  const m = vcpu.kvm.machine;
  const mmu = vcpu.mmu;
  const f = m.fault;
  f.addrLo = addrLo;
  f.addrHi = addrHi;
  f.error_code = err;
  f.error_code_hi = err_hi;
  f.prefetch = false;
  f.exec = (err & PFERR_FETCH) !== 0;
  f.write = (err & PFERR_WRITE) !== 0;
  f.present = (err & PFERR_PRESENT) !== 0;
  f.rsvd = (err & PFERR_RSVD) !== 0;
  f.user = (err & PFERR_USER) !== 0;
  f.is_tdp = mmu.page_fault === 'kvm_tdp_page_fault';
  f.nx_huge_page_workaround_enabled = m.config.nx_huge_pages;
  f.huge_page_disallowed = false;
  f.max_level = 3;
  f.req_level = 1;
  f.goal_level = 1;
  f.slot = null;
  f.pfn = 0;
  f.pfnKind = 'noslot';
  f.map_writable = false;
  f.write_fault_to_shadow_pgtable = false;
  enter(m, 'kvm_mmu_do_page_fault', vcpu.vcpu_id, f);
  let r: RET_PF;
  if (mmu.page_fault === 'kvm_tdp_page_fault' || mmu.page_fault === 'nonpaging_page_fault') {
    enter(m, mmu.page_fault, vcpu.vcpu_id, f);
    if (mmu.page_fault === 'nonpaging_page_fault') f.max_level = 2;
    r = direct_page_fault(vcpu, f);
    leave(m);
  } else r = shadow_page_fault(vcpu, f);
  leave(m);
  return r;
}

/** direct_page_fault() */
function direct_page_fault(vcpu: KvmVcpu, f: KvmPageFault): RET_PF {
  const m = vcpu.kvm.machine;
  enter(m, f.is_tdp && m.tdpMmuEnabled ? 'kvm_tdp_mmu_page_fault' : 'direct_page_fault', vcpu.vcpu_id, f);
  const r = direct_fault(vcpu, f);
  leave(m);
  return r;
}

function direct_fault(vcpu: KvmVcpu, f: KvmPageFault): RET_PF {
  f.gfn = Math.floor(f.addr / 4096);
  f.slot = kvm_vcpu_gfn_to_memslot(vcpu, f.gfn);
  if (page_fault_handle_page_track(vcpu, f)) return RET_PF.WRITE_PROTECTED;
  const fast = fast_page_fault(vcpu, f);
  if (fast !== RET_PF.INVALID) return fast;
  const got = kvm_faultin_pfn(vcpu, f);
  if (got !== RET_PF.CONTINUE) return got;
  const abnormal = handle_abnormal_pfn(vcpu, f, ACC_ALL);
  if (abnormal !== RET_PF.CONTINUE) return abnormal;
  if (is_page_fault_stale(vcpu, f)) return RET_PF.RETRY;
  if (is_tdp_mmu(vcpu)) return kvm_tdp_mmu_map(vcpu, f);
  if (!make_mmu_pages_available(vcpu)) return -28 as RET_PF;
  return direct_map(vcpu, f);
}

/** page_fault_handle_page_track(): a write to a tracked guest table is emulated. */
export function page_fault_handle_page_track(vcpu: KvmVcpu, f: KvmPageFault): boolean {
  const m = vcpu.kvm.machine;
  enter(m, 'page_fault_handle_page_track', vcpu.vcpu_id, f);
  const tracked = !f.rsvd && f.present && f.write && kvm_slot_page_track_is_active(f.slot, f.gfn);
  leave(m);
  return tracked;
}

/** kvm_faultin_pfn(): the host frame of the faulting gfn. */
export function kvm_faultin_pfn(vcpu: KvmVcpu, f: KvmPageFault): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'kvm_faultin_pfn', vcpu.vcpu_id, f);
  enter(m, '__kvm_faultin_pfn', vcpu.vcpu_id, f);
  const r = faultin_pfn(vcpu, f);
  leave(m);
  leave(m);
  return r;
}

function faultin_pfn(vcpu: KvmVcpu, f: KvmPageFault): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  f.mmu_seq = kvm.mmu_invalidate_seq;
  let slot = f.slot;
  if (slot && slot.flags & KVM_MEMSLOT_INVALID) return RET_PF.RETRY;
  if (slot && slot.id >= m.caps.userMemSlots && is_guest_mode(vcpu)) {
    // Private slots are for L1 only: L2 sees nothing there.
    f.slot = null;
    slot = null;
    f.pfnKind = 'noslot';
    f.map_writable = false;
    return RET_PF.CONTINUE;
  }
  const out = m.pfnResult;
  enter(m, '__gfn_to_pfn_memslot', vcpu.vcpu_id, f);
  // Without a slot there is no host address to look up.
  if (slot) enter(m, 'hva_to_pfn', vcpu.vcpu_id, f);
  __gfn_to_pfn_memslot(m, slot, f.gfn, f.write, false, out);
  if (slot) leave(m);
  leave(m);
  f.pfnKind = out.kind;
  f.pfn = out.pfn;
  f.map_writable = out.writable;
  return RET_PF.CONTINUE;
}

/** handle_abnormal_pfn(): failed look-ups, and accesses without a slot. */
export function handle_abnormal_pfn(vcpu: KvmVcpu, f: KvmPageFault, access: number): RET_PF {
  const m = vcpu.kvm.machine;
  if (f.slot && f.pfnKind === 'pfn') {
    // Kernels before v6.3 enter the function to find that out.
    enter(m, 'handle_abnormal_pfn', vcpu.vcpu_id, f);
    leave(m);
    return RET_PF.CONTINUE;
  }
  enter(m, f.slot ? 'kvm_handle_error_pfn' : 'kvm_handle_noslot_fault', vcpu.vcpu_id, f);
  let r: RET_PF = RET_PF.CONTINUE;
  if (f.pfnKind === 'ro-fault') r = RET_PF.EMULATE;
  else if (f.pfnKind === 'error') r = -14 as RET_PF;
  else if (!f.slot) {
    const gva = f.is_tdp ? 0n : (BigInt(f.addrHi) << 32n) | BigInt(f.addrLo);
    vcpu_cache_mmio_info(vcpu, gva, f.gfn, access & m.spte.layout.mmio.accessMask);
    // A gfn above what an spte can hold, or no reserved bit to mark it with: emulate each time.
    const max = m.tdpEnabled ? 2 ** (m.config.maxphyaddr - 12) - 1 : 2 ** 40 - 1;
    if (!m.spte.enable_mmio_caching || f.gfn > max) r = RET_PF.EMULATE;
  }
  leave(m);
  return r;
}

/** is_page_fault_stale(): the root went away, or the host changed the mapping meanwhile. */
export function is_page_fault_stale(vcpu: KvmVcpu, f: KvmPageFault): boolean {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'is_page_fault_stale', vcpu.vcpu_id, f);
  const sp = root_to_sp(kvm, vcpu.mmu.root.hpa);
  const stale =
    (sp !== null && is_obsolete_sp(kvm, sp)) ||
    (sp === null && vcpu.requests.has('MMU_FREE_OBSOLETE_ROOTS')) ||
    (f.slot !== null && mmu_invalidate_retry_hva(vcpu, f));
  leave(m);
  return stale;
}

function mmu_invalidate_retry_hva(vcpu: KvmVcpu, f: KvmPageFault): boolean {
  const kvm = vcpu.kvm;
  if (kvm.mmu_invalidate_in_progress && f.slot) {
    const hva = gfn_to_hva_memslot(f.slot, f.gfn);
    if (hva >= kvm.mmu_invalidate_range_start && hva < kvm.mmu_invalidate_range_end) return true;
  }
  return kvm.mmu_invalidate_seq !== f.mmu_seq;
}

/** page_fault_can_be_fast() */
function page_fault_can_be_fast(vcpu: KvmVcpu, f: KvmPageFault): boolean {
  if (f.rsvd) return false;
  const { accTrack, mmuWritable } = vcpu.kvm.machine.spte.masks;
  // Entries that look not present because their accesses are tracked exist since access tracking does (v4.12).
  if (!f.present) {
    const { spte, caps } = vcpu.kvm.machine;
    // Before v5.19 the mask alone counted, which EPT has with accessed flags, too.
    return (accTrack.lo | accTrack.hi) !== 0 && (caps.fastFaultWithAd || !spte.kvm_ad_enabled);
  }
  // Without MMU-writable (before v3.6) nothing tells that an entry may be made writable again.
  return f.write && (mmuWritable.lo | mmuWritable.hi) !== 0;
}

/** is_access_allowed() */
function is_access_allowed(vcpu: KvmVcpu, f: KvmPageFault, lo: number, hi: number): boolean {
  const s = vcpu.kvm.machine.spte;
  if (f.exec) return s.isExecutable(lo, hi);
  if (f.write) return s.isWritable(lo);
  // A read fault needs a readable entry: access-tracked ones are not.
  return (lo & 1) !== 0;
}

/** fast_page_fault(): makes an entry writable again, or restores a tracked one, without the MMU lock. */
export function fast_page_fault(vcpu: KvmVcpu, f: KvmPageFault): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const s = m.spte;
  enter(m, 'fast_page_fault', vcpu.vcpu_id, f);
  if (!page_fault_can_be_fast(vcpu, f)) {
    leave(m);
    return RET_PF.INVALID;
  }
  let ret: RET_PF = RET_PF.INVALID;
  const w = walkScratch;
  const tdp = is_tdp_mmu(vcpu);
  if (tdp) kvm_tdp_mmu_get_walk(vcpu, f.gfn, w);
  else get_walk(vcpu, (BigInt(f.addrHi) << 32n) | BigInt(f.addrLo), w);
  const last = w.count - 1;
  const sptep = last >= 0 ? w.sptep[last] : 0;
  const lo = last >= 0 ? w.lo[last] : 0;
  const hi = last >= 0 ? w.hi[last] : 0;
  if (last >= 0 && s.isPresent(lo, hi)) {
    const sp = sptep_to_sp(kvm, sptep);
    const level = w.level[last];
    if (sp && s.isLast(lo, level)) {
      const spp = m.sppEnabled && f.write ? is_spp_spte(m, lo, hi) : 'no';
      if (spp === 'armed') ret = spp_induced_page_fault(vcpu, f.addr) ? RET_PF.USERSPACE : RET_PF.RETRY;
      else if (spp === 'saved') {
        // Protected for the dirty log: the write goes to the SPPT from now on.
        enter(m, 'fast_pf_fix_direct_spte', vcpu.vcpu_id, f);
        s.lo = lo;
        s.hi = hi;
        spp_restore(m);
        m.mem.writeQ(sptep, s.lo, s.hi);
        enter(m, 'mark_page_dirty_in_slot', vcpu.vcpu_id, f.slot);
        mark_page_dirty_in_slot(f.slot, f.gfn);
        leave(m);
        leave(m);
        ret = RET_PF.FIXED;
      } else if (is_access_allowed(vcpu, f, lo, hi)) ret = RET_PF.SPURIOUS;
      else {
        s.lo = lo;
        s.hi = hi;
        if (!s.kvm_ad_enabled && s.isAccessTrack(lo, hi)) s.restore_acc_track_spte();
        let give_up = false;
        if (f.write && s.isMmuWritable(lo, hi)) {
          s.lo |= 2;
          // A huge page of a logged slot has to be split; only the slow path can.
          if (level > 1 && kvm_slot_dirty_track_enabled(f.slot)) give_up = true;
        }
        if (!give_up && !(s.lo === lo && s.hi === hi) && is_access_allowed(vcpu, f, s.lo, s.hi)) {
          enter(m, 'fast_pf_fix_direct_spte', vcpu.vcpu_id, f);
          m.mem.writeQ(sptep, s.lo, s.hi);
          if (s.isWritable(s.lo) && !s.isWritable(lo)) {
            enter(m, 'mark_page_dirty_in_slot', vcpu.vcpu_id, f.slot);
            mark_page_dirty_in_slot(f.slot, f.gfn);
            leave(m);
          }
          leave(m);
          ret = RET_PF.FIXED;
        }
      }
    }
  }
  if (m.observer)
    m.observer.event({
      kind: 'fast_page_fault',
      vcpu: vcpu.vcpu_id,
      cr2_or_gpa: (BigInt(f.addrHi) << 32n) | BigInt(f.addrLo),
      error_code: BigInt(f.error_code) | (m.caps.errorCode64 ? BigInt(f.error_code_hi) << 32n : 0n),
      sptep: BigInt(sptep),
      old_spte: (BigInt(hi) << 32n) | BigInt(lo),
      new_spte: last >= 0 ? (BigInt(m.mem.readHi(sptep)) << 32n) | BigInt(m.mem.readLo(sptep)) : 0n,
      ret: m.retPfNumber(ret),
    });
  leave(m);
  return ret;
}

/** kvm_mmu_unprotect_page(): every page that shadows gfn goes. */
export function kvm_mmu_unprotect_page(vcpu: KvmVcpu, gfn: number): boolean {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'kvm_mmu_unprotect_page', vcpu.vcpu_id, null);
  const invalid = [] as import('../kvm_host').KvmMmuPage[];
  let any = false;
  for (const sp of gfn_valid_sp_with_gptes(kvm, gfn)) {
    any = true;
    kvm_mmu_prepare_zap_page(kvm, sp, invalid, vcpu.vcpu_id);
  }
  kvm_mmu_commit_zap_page(kvm, invalid);
  leave(m);
  return any;
}
