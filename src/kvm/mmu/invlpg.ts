/**
 * INVLPG: kvm_mmu_invlpg(), kvm_mmu_invalidate_gva(), FNAME(invlpg). Facts: reference kvm-mmu-model.md 19.3.
 */
import { enter, leave } from '../observer';
import { INVALID_PAGE, type KvmMmu, type KvmVcpu } from '../kvm_host';
import { kvm_gpa_to_hpa, kvm_vcpu_gfn_to_memslot } from '../kvm_main';
import { role_get } from '../roles';
import { kvm_flush_remote_tlbs_with_address, kvm_x86_flush_tlb_gva } from '../x86_requests';
import { ShadowWalk } from './direct_map';
import { vcpu_clear_mmio_info } from './mmio';
import { kvm_mmu_page_get_gfn, mmu_page_zap_pte, spte_index, sptep_to_sp } from './pages';
import { instance, prefetch_gpte } from './shadow_fault';
import { get_level1_sp_gpa, sync_spte } from './sync_page';

/** kvm_mmu_invlpg(): the current root and the cached ones. */
export function kvm_mmu_invlpg(vcpu: KvmVcpu, gva: bigint): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_mmu_invlpg', vcpu.vcpu_id, null);
  kvm_mmu_invalidate_gva(vcpu, vcpu.walk_mmu, gva, INVALID_PAGE);
  leave(m);
}

/** kvm_mmu_invalidate_gva(): INVALID_PAGE stands for all roots of the context. */
export function kvm_mmu_invalidate_gva(vcpu: KvmVcpu, mmu: KvmMmu, gva: bigint, root_hpa: number): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_mmu_invalidate_gva', vcpu.vcpu_id, mmu);
  const body = (): void => {
    if (mmu !== vcpu.guest_mmu) {
      if (!vcpu.regs.isCanonical(gva)) return;
      kvm_x86_flush_tlb_gva(vcpu, gva);
    }
    if (!mmu.invlpg) return;
    if (root_hpa !== INVALID_PAGE) {
      invlpg(vcpu, mmu, gva, root_hpa);
      return;
    }
    invlpg(vcpu, mmu, gva, mmu.root.hpa);
    for (const prev of mmu.prev_roots) if (prev.hpa !== INVALID_PAGE) invlpg(vcpu, mmu, gva, prev.hpa);
  };
  body();
  leave(m);
}

/** FNAME(invlpg), since v6.4 __kvm_mmu_invalidate_addr(): only entries of unsync pages can differ from the guest's. */
function invlpg(vcpu: KvmVcpu, mmu: KvmMmu, gva: bigint, root_hpa: number): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  vcpu_clear_mmio_info(vcpu, gva);
  if (root_hpa === INVALID_PAGE) return;
  enter(m, m.caps.invlpgSyncsSpte ? '__kvm_mmu_invalidate_addr' : `${instance(vcpu)}_invlpg`, vcpu.vcpu_id, mmu);
  const it = new ShadowWalk();
  for (it.init(vcpu, Number(gva & 0xffffffffn), Number(gva >> 32n), root_hpa); it.okay();) {
    const sptep = it.sptep;
    const sp = sptep_to_sp(kvm, sptep);
    if (!sp) break;
    const lo = m.mem.readLo(sptep);
    const hi = m.mem.readHi(sptep);
    if (m.caps.invlpgSyncsSpte) {
      if (sp.unsync) {
        const r = sync_spte(vcpu, sp, spte_index(sptep));
        if (r < 0) mmu_page_zap_pte(kvm, sp, sptep, null);
        if (r)
          kvm_flush_remote_tlbs_with_address(
            kvm,
            kvm_mmu_page_get_gfn(m, sp, spte_index(sptep)),
            512 ** (role_get(sp.role, m.roles.level) - 1),
            'INVLPG changed a shadow entry',
          );
      }
    } else if (m.spte.isLast(lo, it.level)) {
      if (!sp.unsync) break;
      const four = m.roles.has4ByteGpte(sp.role);
      const gpa = get_level1_sp_gpa(vcpu, sp) + spte_index(sptep) * (four ? 4 : 8);
      mmu_page_zap_pte(kvm, sp, sptep, null);
      if (m.spte.isPresent(lo, hi))
        kvm_flush_remote_tlbs_with_address(
          kvm,
          kvm_mmu_page_get_gfn(m, sp, spte_index(sptep)),
          512 ** (role_get(sp.role, m.roles.level) - 1),
          'INVLPG dropped a shadow entry',
        );
      const hpa = kvm_gpa_to_hpa(m, kvm_vcpu_gfn_to_memslot(vcpu, Math.floor(gpa / 4096)), gpa, false);
      if (hpa < 0) break;
      enter(m, `${instance(vcpu)}_update_pte`, vcpu.vcpu_id, sp);
      prefetch_gpte(vcpu, sp, sptep, four ? m.mem.read32(hpa) : m.mem.readLo(hpa), four ? 0 : m.mem.readHi(hpa), false);
      leave(m);
    }
    if (!sp.unsync_children) break;
    it.step(vcpu);
  }
  leave(m);
}
