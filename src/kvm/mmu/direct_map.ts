/**
 * arch/x86/kvm/mmu/mmu.c: walking shadow tables and mapping pages with the hash-table MMU.
 * Facts: reference kvm-mmu-model.md chapters 6.2 (walk start), 7.9 (prefetch) and 13.
 */
import type { KvmEvent } from '../events';
import { enter, leave } from '../observer';
import { ACC_ALL, ACC_WRITE, INVALID_PAGE, type KvmMemorySlot, type KvmMmuPage, type KvmVcpu } from '../kvm_host';
import {
  KVM_PFN_NOSLOT,
  kvm_slot_dirty_track_enabled,
  kvm_vcpu_gfn_to_memslot,
  __gfn_to_pfn_memslot,
} from '../kvm_main';
import { role_get } from '../roles';
import { kvm_flush_remote_tlbs_with_address } from '../x86_requests';
import { RET_PF, type KvmPageFault } from './fault';
import { disallowed_hugepage_adjust, kvm_mmu_hugepage_adjust } from './hugepage';
import {
  drop_parent_pte,
  kvm_mmu_get_child_sp,
  kvm_mmu_page_get_gfn,
  link_shadow_page,
  page_access,
  spte_index,
  sptep_to_sp,
} from './pages';
import { drop_spte, rmap_add } from './rmap';
import { setSpteEvent, type SpteWalk } from './tdp_mmu';

/** PTE_PREFETCH_NUM */
const PTE_PREFETCH_NUM = 8;

/** is_tdp_mmu(): the root belongs to the TDP MMU. */
export function is_tdp_mmu(vcpu: KvmVcpu): boolean {
  const hpa = vcpu.mmu.root.hpa;
  if (hpa === INVALID_PAGE) return false;
  return vcpu.kvm.sp_by_pfn.get(hpa / 4096)?.tdp_mmu_page ?? false;
}

/** struct kvm_shadow_walk_iterator: where the shadow tables lead for one address. */
export class ShadowWalk {
  level = 0;
  sptep = 0;
  index = 0;
  private table = 0;
  private lo = 0;
  private hi = 0;

  /** shadow_walk_init(): a guest with fewer levels than the root starts at its pae_root entry. */
  init(vcpu: KvmVcpu, addrLo: number, addrHi: number, root_hpa = vcpu.mmu.root.hpa): void {
    const m = vcpu.kvm.machine;
    const mmu = vcpu.mmu;
    const R = m.roles;
    this.lo = addrLo;
    this.hi = addrHi;
    this.table = root_hpa / 4096;
    this.level = role_get(mmu.root_role, R.level);
    const guestLevel = role_get(mmu.cpu_role_base, R.level);
    if (this.level >= 4 && guestLevel < 4 && !role_get(mmu.root_role, R.direct)) this.level = 3;
    if (this.level === 3) {
      const pae = mmu.pae_root * 4096 + (addrLo >>> 30) * 8;
      const lo = m.mem.readLo(pae);
      const hi = m.mem.readHi(pae);
      this.level--;
      if (!(lo & 1)) {
        this.level = 0;
        return;
      }
      this.table = (hi & 0xfffff) * 0x100000 + (lo >>> 12);
    }
  }

  /** shadow_walk_okay(): false below the last level. */
  okay(): boolean {
    if (this.level < 1) return false;
    const shift = 12 + 9 * (this.level - 1);
    const bits = shift < 32 ? (this.lo >>> shift) | (shift ? this.hi << (32 - shift) : 0) : this.hi >>> (shift - 32);
    this.index = bits & 511;
    this.sptep = this.table * 4096 + this.index * 8;
    return true;
  }

  /** shadow_walk_next(): down through the entry just looked at. */
  next(vcpu: KvmVcpu, lo: number, hi: number): void {
    const f = vcpu.kvm.machine.spte;
    if (!f.isPresent(lo, hi) || f.isLast(lo, this.level)) {
      this.level = 0;
      return;
    }
    this.table = f.pfn(lo, hi);
    this.level--;
  }

  /** __shadow_walk_next() with the entry as it is now. */
  step(vcpu: KvmVcpu): void {
    const { mem } = vcpu.kvm.machine;
    this.next(vcpu, mem.readLo(this.sptep), mem.readHi(this.sptep));
  }
}

const scratch = new ShadowWalk();

/** get_walk(): the entries of a lockless walk, root first. */
export function get_walk(vcpu: KvmVcpu, addr: bigint, out: SpteWalk): void {
  const m = vcpu.kvm.machine;
  out.count = 0;
  if (vcpu.mmu.root.hpa === INVALID_PAGE) return;
  const w = scratch;
  for (w.init(vcpu, Number(addr & 0xffffffffn), Number(addr >> 32n)); w.okay();) {
    const lo = m.mem.readLo(w.sptep);
    const hi = m.mem.readHi(w.sptep);
    const i = out.count++;
    out.sptep[i] = w.sptep;
    out.level[i] = w.level;
    out.lo[i] = lo;
    out.hi[i] = hi;
    w.next(vcpu, lo, hi);
  }
}

/** direct_map(): tables down to the goal level, then the leaf and its neighbours. */
export function direct_map(vcpu: KvmVcpu, fault: KvmPageFault): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'direct_map', vcpu.vcpu_id, fault);
  kvm_mmu_hugepage_adjust(vcpu, fault);
  traceRequested(vcpu, fault);
  const w = new ShadowWalk();
  let base = fault.gfn;
  let lo = 0;
  let hi = 0;
  for (w.init(vcpu, fault.addrLo, fault.addrHi); w.okay(); w.next(vcpu, lo, hi)) {
    lo = m.mem.readLo(w.sptep);
    hi = m.mem.readHi(w.sptep);
    if (fault.nx_huge_page_workaround_enabled) disallowed_hugepage_adjust(vcpu, fault, lo, hi, w.level);
    const pages = 512 ** (w.level - 1);
    base = fault.gfn - (fault.gfn % pages);
    if (w.level === fault.goal_level) break;
    const sp = kvm_mmu_get_child_sp(vcpu, w.sptep, base, true, ACC_ALL);
    if (!sp) continue;
    link_shadow_page(vcpu, w.sptep, sp);
    if (fault.huge_page_disallowed && fault.req_level >= w.level) sp.nx_huge_page_disallowed = true;
    lo = m.mem.readLo(w.sptep);
    hi = m.mem.readHi(w.sptep);
  }
  if (w.level !== fault.goal_level) {
    leave(m);
    return -14 as RET_PF;
  }
  const ret = mmu_set_spte(vcpu, fault.slot, w.sptep, ACC_ALL, base, fault.pfnKind === 'pfn' ? fault.pfn : -1, fault);
  if (ret !== RET_PF.SPURIOUS) direct_pte_prefetch(vcpu, w.sptep);
  leave(m);
  return ret;
}

/** trace_kvm_mmu_spte_requested(): the frame of the gfn itself, also where a huge page is asked for. */
export function traceRequested(vcpu: KvmVcpu, fault: KvmPageFault, level = fault.goal_level): void {
  const m = vcpu.kvm.machine;
  const frame = fault.addrHi * 0x100000 + (fault.addrLo >>> 12);
  const gfn = m.caps.requestedFrameOfAddress ? frame : fault.gfn;
  if (m.observer)
    m.observer.event({
      kind: 'kvm_mmu_spte_requested',
      vcpu: vcpu.vcpu_id,
      gfn: BigInt(gfn),
      pfn: (fault.pfnKind === 'pfn' ? BigInt(fault.pfn) : KVM_PFN_NOSLOT) | BigInt(gfn % 512 ** (level - 1)),
      level,
    });
}

/**
 * mmu_set_spte(): installs a leaf; pfn -1 is KVM_PFN_NOSLOT and makes an MMIO spte. `fault` is null for prefetched neighbours.
 */
export function mmu_set_spte(
  vcpu: KvmVcpu,
  slot: KvmMemorySlot | null,
  sptep: number,
  pte_access: number,
  gfn: number,
  pfn: number,
  fault: KvmPageFault | null,
): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const f = m.spte;
  enter(m, 'mmu_set_spte', vcpu.vcpu_id, fault);
  const sp = sptep_to_sp(kvm, sptep) as KvmMmuPage;
  const level = role_get(sp.role, m.roles.level);
  // FNAME(prefetch_gpte) and direct prefetch map pages writable only when the host page is.
  const host_writable = fault ? fault.map_writable : true;
  const prefetch = fault ? fault.prefetch : true;
  const write_fault = fault ? fault.write : false;
  let was_rmapped = false;
  let flush = false;
  let ret: RET_PF = RET_PF.FIXED;
  const oldLo = m.mem.readLo(sptep);
  const oldHi = m.mem.readHi(sptep);
  if (f.isPresent(oldLo, oldHi)) {
    if (level > 1 && !f.isLast(oldLo, level)) {
      const child = kvm.sp_by_pfn.get(f.pfn(oldLo, oldHi));
      if (child) drop_parent_pte(kvm, child, sptep);
      flush = true;
    } else if (pfn !== f.pfn(oldLo, oldHi)) {
      drop_spte(kvm, sptep);
      flush = true;
    } else was_rmapped = true;
  }
  if (pfn < 0) {
    vcpu.stat['pf_mmio_spte_created'] = (vcpu.stat['pf_mmio_spte_created'] ?? 0) + 1;
    mark_mmio_spte(vcpu, sptep, gfn, pte_access);
    if (m.observer && m.caps.mmioSpteEvent)
      m.observer.event(setSpteEvent(vcpu, gfn, sptep, level, m.mem.readLo(sptep), m.mem.readHi(sptep)));
    if (flush) kvm_flush_remote_tlbs_with_address(kvm, gfn, 512 ** (level - 1), 'a present spte became an MMIO spte');
    leave(m);
    return RET_PF.EMULATE;
  }
  enter(m, 'set_spte', vcpu.vcpu_id, fault);
  enter(m, 'make_spte', vcpu.vcpu_id, fault);
  const currentLo = m.mem.readLo(sptep);
  const currentHi = m.mem.readHi(sptep);
  const wrprot = f.make_spte(vcpu, sp, slot, pte_access, gfn, pfn, currentLo, prefetch, true, host_writable);
  leave(m);
  const lo = f.lo;
  const hi = f.hi;
  if (lo === currentLo && hi === currentHi) ret = RET_PF.SPURIOUS;
  else {
    flush = mmu_spte_update(vcpu, sptep, currentLo, currentHi, lo, hi) || flush;
    if (m.observer) m.observer.event(setSpteEvent(vcpu, gfn, sptep, level, lo, hi));
  }
  leave(m);
  if (wrprot && write_fault) ret = RET_PF.WRITE_PROTECTED;
  if (flush)
    kvm_flush_remote_tlbs_with_address(kvm, gfn, 512 ** (level - 1), 'a mapping was replaced or lost write access');
  if (!was_rmapped) {
    if (slot) {
      enter(m, 'rmap_add', vcpu.vcpu_id, sp);
      rmap_add(vcpu, slot, sptep, gfn, pte_access);
      leave(m);
    }
  } else if (sp.gfns && sp.accesses) {
    sp.gfns[spte_index(sptep)] = gfn;
    sp.accesses[spte_index(sptep)] = pte_access;
  }
  leave(m);
  return ret;
}

/** mmu_spte_update(): @returns whether TLBs may hold rights that the entry lost */
export function mmu_spte_update(
  vcpu: KvmVcpu,
  sptep: number,
  oldLo: number,
  oldHi: number,
  lo: number,
  hi: number,
): boolean {
  const m = vcpu.kvm.machine;
  enter(m, 'mmu_spte_update', vcpu.vcpu_id, null);
  m.mem.writeQ(sptep, lo, hi);
  leave(m);
  if (!m.spte.isPresent(oldLo, oldHi)) return false;
  if (m.spte.isMmuWritable(oldLo, oldHi) && !m.spte.isWritable(lo)) return true;
  // Pages that KVM forgets to be accessed or dirty must be noticed again by the processor.
  return (
    (m.spte.isAccessed(oldLo, oldHi) && !m.spte.isAccessed(lo, hi)) ||
    (m.spte.isDirty(oldLo, oldHi) && !m.spte.isDirty(lo, hi))
  );
}

/** The tracepoint mark_mmio_spte of an entry. */
export const markMmioEvent = (vcpu: KvmVcpu, sptep: number, gfn: number, lo: number, hi: number): KvmEvent => ({
  kind: 'mark_mmio_spte',
  vcpu: vcpu.vcpu_id,
  sptep: BigInt(sptep),
  gfn: BigInt(gfn),
  access: lo & 7,
  gen: BigInt(vcpu.kvm.machine.spte.mmioGeneration(lo, hi)),
});

/** mark_mmio_spte() */
export function mark_mmio_spte(vcpu: KvmVcpu, sptep: number, gfn: number, access: number): void {
  const m = vcpu.kvm.machine;
  enter(m, 'mark_mmio_spte', vcpu.vcpu_id, null);
  enter(m, 'make_mmio_spte', vcpu.vcpu_id, null);
  m.spte.make_mmio_spte(vcpu, gfn, access);
  leave(m);
  const { lo, hi } = m.spte;
  if (m.observer) m.observer.event(markMmioEvent(vcpu, sptep, gfn, lo, hi));
  m.mem.writeQ(sptep, lo, hi);
  leave(m);
}

/** direct_pte_prefetch(): empty neighbours in the aligned group of eight. */
export function direct_pte_prefetch(vcpu: KvmVcpu, sptep: number): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const R = m.roles;
  const sp = sptep_to_sp(kvm, sptep);
  // Without A/D bits nobody could tell a page that was only prefetched from one that is used.
  if (!sp || role_get(sp.role, R.ad_disabled) || role_get(sp.role, R.level) > 1) return;
  if (kvm.mmu_invalidate_in_progress) return;
  enter(m, 'direct_pte_prefetch', vcpu.vcpu_id, sp);
  const first = spte_index(sptep) & ~(PTE_PREFETCH_NUM - 1);
  let start = -1;
  for (let i = first; i < first + PTE_PREFETCH_NUM; i++) {
    const p = sp.spt * 4096 + i * 8;
    // an outdated MMIO spte counts as empty, too: it is not shadow-present
    const empty = !m.spte.isPresent(m.mem.readLo(p), m.mem.readHi(p));
    if (!empty || p === sptep) {
      if (start < 0) continue;
      if (!direct_pte_prefetch_many(vcpu, sp, start, i)) {
        leave(m);
        return;
      }
      start = -1;
    } else if (start < 0) start = i;
  }
  if (start >= 0 && m.caps.prefetchesTrailing) direct_pte_prefetch_many(vcpu, sp, start, first + PTE_PREFETCH_NUM);
  leave(m);
}

/** direct_pte_prefetch_many(): maps [start, end) as far as the host has the pages ready. @returns false to give up. */
function direct_pte_prefetch_many(vcpu: KvmVcpu, sp: KvmMmuPage, start: number, end: number): boolean {
  const m = vcpu.kvm.machine;
  const access = page_access(vcpu, sp);
  const gfn = kvm_mmu_page_get_gfn(m, sp, start);
  const slot = gfn_to_memslot_dirty_bitmap(vcpu, gfn, (access & ACC_WRITE) !== 0);
  if (!slot) return false;
  const out = m.pfnResult;
  // gfn_to_page_many_atomic(): no further than the slot, and only pages that the host maps (writable) already.
  let ready = 0;
  for (let g = gfn; g < gfn + (end - start) && g < slot.base_gfn + slot.npages; g++) {
    __gfn_to_pfn_memslot(m, slot, g, true, true, out);
    if (out.kind !== 'pfn') break;
    ready++;
  }
  if (ready <= 0) return false;
  for (let i = 0; i < ready; i++) {
    __gfn_to_pfn_memslot(m, slot, gfn + i, true, true, out);
    mmu_set_spte(vcpu, slot, sp.spt * 4096 + (start + i) * 8, access, gfn + i, out.pfn, null);
  }
  return true;
}

/** gfn_to_memslot_dirty_bitmap(): null where prefetching would mark pages dirty that nobody wrote. */
export function gfn_to_memslot_dirty_bitmap(vcpu: KvmVcpu, gfn: number, no_dirty_log: boolean): KvmMemorySlot | null {
  const slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
  if (!slot || slot.flags & (1 << 16)) return null;
  if (no_dirty_log && kvm_slot_dirty_track_enabled(slot)) return null;
  return slot;
}
