/**
 * Roots: allocation, caching, freeing, and kvm_mmu_load(). Facts: reference kvm-mmu-model.md chapter 6.
 */
import type { FrameName } from '../functions';
import { emit, enter, leave } from '../observer';
import type { Machine } from '../machine';
import { INVALID_PAGE, type Kvm, type KvmMmu, type KvmMmuPage, type KvmVcpu } from '../kvm_host';
import { role_get, role_put } from '../roles';
import { kvm_make_request, kvm_x86_flush_tlb_current } from '../x86_requests';
import { vcpu_clear_mmio_info } from './mmio';
import {
  direct_page_role,
  is_obsolete_sp,
  kvm_mmu_commit_zap_page,
  kvm_mmu_get_shadow_page,
  kvm_mmu_prepare_zap_page,
  make_mmu_pages_available,
} from './pages';
import { mmu_alloc_shadow_roots, mmu_alloc_special_roots } from './shadow_roots';
import { free_obsolete_sppt_root, free_sppt_root, mmu_alloc_sppt_root } from './spp';
import { kvm_tdp_mmu_get_vcpu_root_hpa } from './tdp_mmu';
import { kvm_tdp_mmu_put_root } from './tdp_mmu_ops';
import { mmu_sync_children } from './unsync';

/** to_shadow_page() of a root: null for pae_root and its kin, which have no header. */
export const root_to_sp = (kvm: Kvm, hpa: number): KvmMmuPage | null =>
  hpa === INVALID_PAGE ? null : (kvm.sp_by_pfn.get(hpa / 4096) ?? null);

/** mmu_alloc_root(): a counted reference to the page of (gfn, quadrant, level). */
export function mmu_alloc_root(vcpu: KvmVcpu, gfn: number, quadrant: number, level: number): number {
  const m = vcpu.kvm.machine;
  const R = m.roles;
  enter(m, 'mmu_alloc_root', vcpu.vcpu_id, null);
  let role = vcpu.mmu.root_role;
  role = role_put(role, R.level, level);
  if (R.has4ByteGpte(role) && !role_get(role, R.direct)) role = role_put(role, R.quadrant, quadrant);
  const sp = kvm_mmu_get_shadow_page(vcpu, gfn, direct_page_role(m, role));
  sp.root_count++;
  leave(m);
  return sp.spt * 4096;
}

/** mmu_alloc_direct_roots(). @returns false for -ENOSPC */
function mmu_alloc_direct_roots(vcpu: KvmVcpu): boolean {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const mmu = vcpu.mmu;
  enter(m, 'mmu_alloc_direct_roots', vcpu.vcpu_id, mmu);
  const level = role_get(mmu.root_role, m.roles.level);
  const ok = make_mmu_pages_available(vcpu);
  if (ok) {
    if (m.tdpMmuEnabled && mmu === vcpu.root_mmu) mmu.root.hpa = kvm_tdp_mmu_get_vcpu_root_hpa(vcpu);
    else if (level >= 4) mmu.root.hpa = mmu_alloc_root(vcpu, 0, 0, level);
    else {
      for (let i = 0; i < 4; i++) {
        const root = mmu_alloc_root(vcpu, i << 18, 0, 2);
        m.mem.writeQ(mmu.pae_root * 4096 + i * 8, (root | 1) >>> 0, Math.floor(root / 0x100000000));
      }
      mmu.root.hpa = mmu.pae_root * 4096;
    }
    mmu_alloc_sppt_root(vcpu, mmu);
    // A direct root serves every CR3.
    mmu.root.pgd = 0n;
  }
  leave(m);
  return ok;
}

/** kvm_mmu_load(): before entry when there is no root. @returns false when the vCPU cannot run (triple fault requested or no pages) */
export function kvm_mmu_load(vcpu: KvmVcpu): boolean {
  const m = vcpu.kvm.machine;
  const mmu = vcpu.mmu;
  enter(m, 'kvm_mmu_load', vcpu.vcpu_id, mmu);
  mmu_alloc_special_roots(vcpu);
  enter(m, 'mmu_alloc_roots', vcpu.vcpu_id, mmu);
  const ok = role_get(mmu.root_role, m.roles.direct) ? mmu_alloc_direct_roots(vcpu) : mmu_alloc_shadow_roots(vcpu);
  leave(m);
  if (ok) {
    kvm_mmu_sync_roots(vcpu);
    kvm_mmu_load_pgd(vcpu);
    // The page of a freed root may be this new one; a TLB could still have translations of its former life.
    kvm_x86_flush_tlb_current(vcpu, 'a new root was loaded');
  }
  leave(m);
  return ok;
}

/** kvm_x86_ops.load_mmu_pgd of the module in use. */
function load_pgd_of(m: Machine): FrameName {
  if (m.config.vendor === 'intel') return 'vmx_load_mmu_pgd';
  return m.tdpEnabled ? 'svm_load_mmu_pgd' : 'svm_load_mmu_pgd/shadow';
}

/** kvm_mmu_load_pgd(): tells the processor where the tables are now. */
export function kvm_mmu_load_pgd(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  if (vcpu.mmu.root.hpa === INVALID_PAGE) return;
  enter(m, 'kvm_mmu_load_pgd', vcpu.vcpu_id, vcpu.mmu);
  enter(m, load_pgd_of(m), vcpu.vcpu_id, vcpu.mmu);
  m.load_mmu_pgd(vcpu);
  emit(m, (o) =>
    o.event({
      kind: 'root_switched',
      vcpu: vcpu.vcpu_id,
      mmu: vcpu.mmu.name,
      root_hpa: BigInt(vcpu.mmu.root.hpa),
      pgd: vcpu.mmu.root.pgd,
    }),
  );
  leave(m);
  leave(m);
}

/** kvm_mmu_sync_roots(): nothing for direct roots. */
export function kvm_mmu_sync_roots(vcpu: KvmVcpu): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const mmu = vcpu.mmu;
  if (role_get(mmu.root_role, m.roles.direct) || mmu.root.hpa === INVALID_PAGE) return;
  vcpu_clear_mmio_info(vcpu, null);
  enter(m, 'kvm_mmu_sync_roots', vcpu.vcpu_id, mmu);
  enter(m, 'mmu_sync_roots', vcpu.vcpu_id, mmu);
  const guestLevel = role_get(mmu.cpu_role_base, m.roles.level);
  if (guestLevel >= 4) {
    const sp = root_to_sp(kvm, mmu.root.hpa);
    if (sp && (sp.unsync || sp.unsync_children)) mmu_sync_children(vcpu, sp);
  } else
    for (let i = 0; i < 4; i++) {
      const lo = m.mem.readLo(mmu.pae_root * 4096 + i * 8);
      if (!(lo & 1)) continue;
      const sp = kvm.sp_by_pfn.get((m.mem.readHi(mmu.pae_root * 4096 + i * 8) & 0xfffff) * 0x100000 + (lo >>> 12));
      if (sp) mmu_sync_children(vcpu, sp);
    }
  leave(m);
  leave(m);
}

/** mmu_free_root_page() */
function mmu_free_root_page(kvm: Kvm, hpa: number, invalid: KvmMmuPage[]): void {
  const sp = root_to_sp(kvm, hpa);
  if (!sp) return;
  enter(kvm.machine, 'mmu_free_root_page', -1, sp);
  if (sp.tdp_mmu_page) kvm_tdp_mmu_put_root(kvm, sp, false);
  else if (--sp.root_count === 0 && role_get(sp.role, kvm.machine.roles.invalid))
    kvm_mmu_prepare_zap_page(kvm, sp, invalid, -1);
  leave(kvm.machine);
}

/** kvm_mmu_free_roots(): the current root and/or the cached ones for which `which` says so. */
export function kvm_mmu_free_roots(vcpu: KvmVcpu, mmu: KvmMmu, current: boolean, which: (i: number) => boolean): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const free_current = current && mmu.root.hpa !== INVALID_PAGE;
  const some = free_current || mmu.prev_roots.some((r, i) => which(i) && r.hpa !== INVALID_PAGE);
  if (!some) return;
  enter(m, 'kvm_mmu_free_roots', vcpu.vcpu_id, mmu);
  const invalid: KvmMmuPage[] = [];
  mmu.prev_roots.forEach((r, i) => {
    if (!which(i)) return;
    if (r.hpa !== INVALID_PAGE) mmu_free_root_page(kvm, r.hpa, invalid);
    r.hpa = INVALID_PAGE;
    r.pgd = 0n;
  });
  if (free_current) {
    if (root_to_sp(kvm, mmu.root.hpa)) mmu_free_root_page(kvm, mmu.root.hpa, invalid);
    else if (mmu.pae_root !== INVALID_PAGE)
      for (let i = 0; i < 4; i++) {
        const p = mmu.pae_root * 4096 + i * 8;
        const lo = m.mem.readLo(p);
        if (lo & 1) mmu_free_root_page(kvm, ((m.mem.readHi(p) & 0xfffff) * 0x100000 + (lo >>> 12)) * 4096, invalid);
        m.mem.writeQ(p, 0, 0);
      }
    mmu.root.hpa = INVALID_PAGE;
    mmu.root.pgd = 0n;
    free_sppt_root(kvm, mmu, (hpa) => mmu_free_root_page(kvm, hpa, invalid));
  }
  kvm_mmu_commit_zap_page(kvm, invalid);
  leave(m);
}

/** kvm_mmu_free_guest_mode_roots(): cached roots of L2. */
export function kvm_mmu_free_guest_mode_roots(vcpu: KvmVcpu, mmu: KvmMmu): void {
  const { kvm } = vcpu;
  const R = kvm.machine.roles;
  kvm_mmu_free_roots(vcpu, mmu, false, (i) => {
    const sp = root_to_sp(kvm, mmu.prev_roots[i].hpa);
    return sp === null || role_get(sp.role, R.guest_mode) === 1;
  });
}

/** kvm_mmu_sync_prev_roots(): cached roots with unsync pages are simply dropped. */
export function kvm_mmu_sync_prev_roots(vcpu: KvmVcpu): void {
  const { kvm, mmu } = vcpu;
  kvm_mmu_free_roots(vcpu, mmu, false, (i) => {
    const sp = root_to_sp(kvm, mmu.prev_roots[i].hpa);
    return sp !== null && (sp.unsync || sp.unsync_children > 0);
  });
}

/** kvm_mmu_unload(): all roots of root_mmu and guest_mmu go, and the MMIO cache is emptied. */
export function kvm_mmu_unload(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_mmu_unload', vcpu.vcpu_id, vcpu.mmu);
  kvm_mmu_free_roots(vcpu, vcpu.root_mmu, true, () => true);
  kvm_mmu_free_roots(vcpu, vcpu.guest_mmu, true, () => true);
  vcpu_clear_mmio_info(vcpu, null);
  leave(m);
}

/** kvm_mmu_free_obsolete_roots(): what KVM_REQ_MMU_FREE_OBSOLETE_ROOTS asks for. */
export function kvm_mmu_free_obsolete_roots(vcpu: KvmVcpu): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'kvm_mmu_free_obsolete_roots', vcpu.vcpu_id, null);
  const obsolete = (hpa: number): boolean => {
    if (hpa === INVALID_PAGE) return false;
    // PAE roots are never in use while their pages are being zapped, so they count as obsolete.
    const sp = root_to_sp(kvm, hpa);
    return !sp || is_obsolete_sp(kvm, sp);
  };
  for (const mmu of [vcpu.root_mmu, vcpu.guest_mmu])
    kvm_mmu_free_roots(vcpu, mmu, obsolete(mmu.root.hpa), (i) => obsolete(mmu.prev_roots[i].hpa));
  const invalid: KvmMmuPage[] = [];
  free_obsolete_sppt_root(kvm, (hpa) => mmu_free_root_page(kvm, hpa, invalid));
  kvm_mmu_commit_zap_page(kvm, invalid);
  leave(m);
}

function is_root_usable(kvm: Kvm, root: { pgd: bigint; hpa: number }, pgd: bigint, role: number): boolean {
  if (root.hpa === INVALID_PAGE) return false;
  if (!role_get(role, kvm.machine.roles.direct) && root.pgd !== pgd) return false;
  return root_to_sp(kvm, root.hpa)?.role === role;
}

/** kvm_mmu_new_pgd(): a CR3 write; a cached root is taken if one fits (fast_pgd_switch). */
export function kvm_mmu_new_pgd(vcpu: KvmVcpu, new_pgd: bigint): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const mmu = vcpu.mmu;
  enter(m, 'kvm_mmu_new_pgd', vcpu.vcpu_id, mmu);
  if (fast_pgd_switch(vcpu, mmu, new_pgd)) {
    kvm_make_request('LOAD_MMU_PGD', vcpu);
    if (m.config.force_flush_and_sync_on_reuse) {
      kvm_make_request('MMU_SYNC', vcpu);
      kvm_make_request('TLB_FLUSH_CURRENT', vcpu);
    }
    vcpu_clear_mmio_info(vcpu, null);
    const sp = root_to_sp(kvm, mmu.root.hpa);
    if (sp && !sp.tdp_mmu_page) sp.write_flooding_count = 0;
  }
  leave(m);
}

function fast_pgd_switch(vcpu: KvmVcpu, mmu: KvmMmu, pgd: bigint): boolean {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'fast_pgd_switch', vcpu.vcpu_id, mmu);
  const role = mmu.root_role;
  if (mmu.root.hpa !== INVALID_PAGE && !root_to_sp(kvm, mmu.root.hpa)) kvm_mmu_free_roots(vcpu, mmu, true, () => false);
  const current = mmu.root.hpa !== INVALID_PAGE;
  enter(m, current ? 'cached_root_find_and_keep_current' : 'cached_root_find_without_current', vcpu.vcpu_id, mmu);
  const hit = ((): boolean => {
    if (current) {
      if (is_root_usable(kvm, mmu.root, pgd, role)) return true;
      for (let i = 0; i < mmu.prev_roots.length; i++) {
        // The swaps rotate the list, so that it stays in order of last use.
        [mmu.root, mmu.prev_roots[i]] = [mmu.prev_roots[i], mmu.root];
        if (is_root_usable(kvm, mmu.root, pgd, role)) return true;
      }
      kvm_mmu_free_roots(vcpu, mmu, true, () => false);
      return false;
    }
    const i = mmu.prev_roots.findIndex((r) => is_root_usable(kvm, r, pgd, role));
    if (i < 0) return false;
    mmu.root = mmu.prev_roots[i];
    mmu.prev_roots.splice(i, 1);
    mmu.prev_roots.push({ pgd: 0n, hpa: INVALID_PAGE });
    return true;
  })();
  leave(m);
  leave(m);
  return hit;
}
