/**
 * arch/x86/kvm/mmu/tdp_mmu.c: roots and the fault path. Operations on whole trees are in tdp_mmu_ops.ts.
 * Facts: reference kvm-mmu-model.md chapter 15.
 */
import { enter, leave } from '../observer';
import { ACC_ALL, type KvmMmuPage, type KvmVcpu } from '../kvm_host';
import { role_get, role_put } from '../roles';
import { kvm_flush_remote_tlbs_with_address } from '../x86_requests';
import { KVM_PAGES_PER_HPAGE } from '../memslots';
import { markMmioEvent, traceRequested } from './direct_map';
import { RET_PF, type KvmPageFault } from './fault';
import { disallowed_hugepage_adjust, kvm_mmu_hugepage_adjust } from './hugepage';
import { tdp_mmu_init_sp_of, tdp_mmu_set_spte, tdp_mmu_zap_spte_atomic, tdpWalk } from './tdp_mmu_ops';
import { tdp_mmu_split_huge_page } from './tdp_mmu_split';

const bigSpte = (lo: number, hi: number): bigint => (BigInt(hi) << 32n) | BigInt(lo);

const tdp_mmu_init_sp = (vcpu: KvmVcpu, gfn: number, role: number, ptep: number): KvmMmuPage =>
  tdp_mmu_init_sp_of(vcpu.kvm, gfn, role, ptep, vcpu.vcpu_id);

/** kvm_tdp_mmu_get_vcpu_root_hpa(): an existing root with this role, or a new one. @returns its physical address */
export function kvm_tdp_mmu_get_vcpu_root_hpa(vcpu: KvmVcpu): number {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'kvm_tdp_mmu_get_vcpu_root_hpa', vcpu.vcpu_id, vcpu.mmu);
  const role = vcpu.mmu.root_role;
  let root = kvm.tdp_mmu_roots.find((r) => r.role === role && r.tdp_mmu_root_count > 0);
  if (root) root.tdp_mmu_root_count++;
  else {
    root = tdp_mmu_init_sp(vcpu, 0, role, -1);
    // One reference for the vCPU; kernels that keep roots hold another until the root is invalidated.
    root.tdp_mmu_root_count = m.caps.tdpRootsKept ? 2 : 1;
    kvm.tdp_mmu_roots.unshift(root);
  }
  leave(m);
  return root.spt * 4096;
}

/** kvm_tdp_mmu_map(): walks down to the goal level, adding tables on the way, and installs the leaf. */
export function kvm_tdp_mmu_map(vcpu: KvmVcpu, fault: KvmPageFault): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const R = m.roles;
  enter(m, 'kvm_tdp_mmu_map', vcpu.vcpu_id, fault);
  kvm_mmu_hugepage_adjust(vcpu, fault);
  traceRequested(vcpu, fault);
  const root = kvm.sp_by_pfn.get(vcpu.mmu.root.hpa / 4096);
  if (!root) {
    leave(m);
    return RET_PF.RETRY;
  }
  let sp = root;
  let level = role_get(root.role, R.level);
  let sptep = 0;
  let lo = 0;
  let hi = 0;
  let base = 0;
  for (;;) {
    const pages = KVM_PAGES_PER_HPAGE(level);
    base = fault.gfn - (fault.gfn % pages);
    sptep = sp.spt * 4096 + (Math.floor(fault.gfn / pages) % 512) * 8;
    lo = m.mem.readLo(sptep);
    hi = m.mem.readHi(sptep);
    if (fault.nx_huge_page_workaround_enabled) disallowed_hugepage_adjust(vcpu, fault, lo, hi, level);
    if (level === fault.goal_level) break;
    if (m.caps.tdpSplitOnFault && m.spte.isPresent(lo, hi) && m.spte.isLast(lo, level)) {
      sp = tdp_mmu_split_huge_page(kvm, root, sptep, base, level, lo, hi, vcpu.vcpu_id);
      if (fault.huge_page_disallowed && fault.req_level >= level) sp.nx_huge_page_disallowed = true;
      level--;
      continue;
    }
    if (m.spte.isPresent(lo, hi) && m.spte.isLast(lo, level)) {
      // A huge mapping above the goal: freeze it, flush, and let a table take its place.
      tdp_mmu_zap_spte_atomic(kvm, root, sptep, base, level, vcpu.vcpu_id, 'a huge page is being split');
      lo = m.spte.nonpresentLo;
      hi = m.spte.nonpresentHi;
    }
    if (!m.spte.isPresent(lo, hi)) {
      if (m.spte.isRemoved(lo, hi)) {
        leave(m);
        return RET_PF.RETRY;
      }
      enter(m, 'tdp_mmu_alloc_sp', vcpu.vcpu_id, null);
      leave(m);
      enter(m, 'tdp_mmu_init_child_sp', vcpu.vcpu_id, null);
      const child = tdp_mmu_init_sp(vcpu, base, role_put(sp.role, R.level, level - 1), sptep);
      kvm.tdp_mmu_pages++;
      leave(m);
      enter(m, 'tdp_mmu_link_sp', vcpu.vcpu_id, child);
      enter(m, 'make_nonleaf_spte', vcpu.vcpu_id, null);
      m.spte.make_nonleaf_spte(child.spt, role_get(child.role, R.ad_disabled) === 1);
      leave(m);
      tdp_mmu_set_spte(kvm, root, sptep, base, level, m.spte.lo, m.spte.hi, true, vcpu.vcpu_id);
      if (fault.huge_page_disallowed && fault.req_level >= level) child.nx_huge_page_disallowed = true;
      leave(m);
      sp = child;
    } else {
      const child = kvm.sp_by_pfn.get(m.spte.pfn(lo, hi));
      if (!child) {
        leave(m);
        return RET_PF.RETRY;
      }
      sp = child;
    }
    level--;
  }
  if (m.spte.isRemoved(lo, hi)) {
    leave(m);
    return RET_PF.RETRY;
  }
  const r = tdp_mmu_map_handle_target_level(vcpu, fault, root, sp, sptep, base, level, lo, hi);
  leave(m);
  return r;
}

function tdp_mmu_map_handle_target_level(
  vcpu: KvmVcpu,
  fault: KvmPageFault,
  root: KvmMmuPage,
  sp: KvmMmuPage,
  sptep: number,
  gfn: number,
  level: number,
  oldLo: number,
  oldHi: number,
): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const f = m.spte;
  enter(m, 'tdp_mmu_map_handle_target_level', vcpu.vcpu_id, fault);
  let wrprot = false;
  let ret: RET_PF = RET_PF.FIXED;
  if (!fault.slot) {
    enter(m, 'make_mmio_spte', vcpu.vcpu_id, fault);
    f.make_mmio_spte(vcpu, gfn, ACC_ALL);
  } else {
    enter(m, 'make_spte', vcpu.vcpu_id, fault);
    wrprot = f.make_spte(
      vcpu,
      sp,
      fault.slot,
      ACC_ALL,
      gfn,
      fault.pfn,
      oldLo,
      fault.prefetch,
      true,
      fault.map_writable,
    );
  }
  leave(m);
  const lo = f.lo;
  const hi = f.hi;
  if (lo === oldLo && hi === oldHi) ret = RET_PF.SPURIOUS;
  else {
    tdp_mmu_set_spte(kvm, root, sptep, gfn, level, lo, hi, true, vcpu.vcpu_id);
    if (f.isPresent(oldLo, oldHi) && !f.isLast(oldLo, level))
      kvm_flush_remote_tlbs_with_address(kvm, gfn, 512 ** (level - 1), 'a huge page replaced a table');
  }
  if (wrprot && fault.write) ret = RET_PF.WRITE_PROTECTED;
  if (f.isMmio(lo, hi)) {
    vcpu.stat['pf_mmio_spte_created'] = (vcpu.stat['pf_mmio_spte_created'] ?? 0) + 1;
    if (m.observer) m.observer.event(markMmioEvent(vcpu, sptep, gfn, lo, hi));
    ret = RET_PF.EMULATE;
  } else if (m.observer) m.observer.event(setSpteEvent(vcpu, gfn, sptep, level, lo, hi));
  leave(m);
  return ret;
}

/** The kvm_mmu_set_spte event of an entry: what its r/x/u fields show. */
export function setSpteEvent(vcpu: KvmVcpu, gfn: number, sptep: number, level: number, lo: number, hi: number) {
  const m = vcpu.kvm.machine;
  // With MBEC in the format u is execution by the user.
  const u = m.spte.layout.xu === 0n ? m.spte.masks.user : m.spte.layout.hot.xu;
  const present = m.spte.masks.present;
  const executable = m.spte.isExecutable(lo, hi);
  return {
    kind: 'kvm_mmu_set_spte' as const,
    vcpu: vcpu.vcpu_id,
    gfn: BigInt(gfn),
    spte: bigSpte(lo, hi),
    sptep: BigInt(sptep),
    level,
    // TP_fast_assign of v6.1: r is "not execute-only".
    r: (present.lo | present.hi) !== 0 || (lo & 1) !== 0 ? 1 : 0,
    x: executable ? 1 : 0,
    u: (u.lo | u.hi) !== 0 ? (((lo & u.lo) | (hi & u.hi)) !== 0 ? 1 : 0) : -1,
  };
}

/** kvm_tdp_mmu_get_walk(): the entries from the root down to the last one that exists. */
export interface SpteWalk {
  count: number;
  readonly sptep: Float64Array;
  readonly level: Uint8Array;
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
}

export const newSpteWalk = (): SpteWalk => ({
  count: 0,
  sptep: new Float64Array(6),
  level: new Uint8Array(6),
  lo: new Uint32Array(6),
  hi: new Uint32Array(6),
});

/** kvm_tdp_mmu_get_walk() */
export function kvm_tdp_mmu_get_walk(vcpu: KvmVcpu, gfn: number, out: SpteWalk): void {
  const root = vcpu.kvm.sp_by_pfn.get(vcpu.mmu.root.hpa / 4096);
  out.count = 0;
  if (!root) return;
  tdpWalk(vcpu.kvm, root, gfn, (sptep, level, lo, hi) => {
    const i = out.count++;
    out.sptep[i] = sptep;
    out.level[i] = level;
    out.lo[i] = lo;
    out.hi[i] = hi;
    return true;
  });
}
