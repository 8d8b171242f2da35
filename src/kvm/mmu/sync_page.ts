/**
 * FNAME(sync_page): an unsync leaf table against the guest's entries. Facts: reference kvm-mmu-model.md 19.1.
 */
import { enter, leave } from '../machine';
import type { KvmMmuPage, KvmVcpu } from '../kvm_host';
import { kvm_gpa_to_hpa, kvm_vcpu_gfn_to_memslot } from '../kvm_main';
import { role_get, role_put } from '../roles';
import { mark_mmio_spte, mmu_spte_update } from './direct_map';
import { kvm_mmu_page_get_gfn } from './pages';
import { gpte_access } from './paging_tmpl';
import { drop_spte } from './rmap';
import { gpte_to_gfn, instance, prefetch_invalid_gpte, protect_clean_gpte } from './shadow_fault';

/** FNAME(get_level1_sp_gpa): where the guest entries behind a level-1 shadow page begin. */
export function get_level1_sp_gpa(vcpu: KvmVcpu, sp: KvmMmuPage): number {
  const R = vcpu.kvm.machine.roles;
  const offset = R.has4ByteGpte(sp.role) ? role_get(sp.role, R.quadrant) * 512 * 4 : 0;
  return sp.gfn * 4096 + offset;
}

/** -1: the page does not fit its context any more and has to be zapped; 1: sptes changed, flush; 0: nothing to flush. */
export function sync_page(vcpu: KvmVcpu, sp: KvmMmuPage): number {
  const m = vcpu.kvm.machine;
  enter(m, `${instance(vcpu)}_sync_page`, vcpu.vcpu_id, sp);
  const r = body();
  leave(m);
  return r;

  function body(): number {
    const R = m.roles;
    let ignore = 0;
    for (const f of [R.level, R.access, R.quadrant, R.passthrough]) ignore = role_put(ignore, f, f.mask);
    if (role_get(sp.role, R.direct) || (sp.role ^ vcpu.mmu.root_role) & ~ignore) return -1;
    const four = R.has4ByteGpte(sp.role);
    const first = get_level1_sp_gpa(vcpu, sp);
    const hpa = kvm_gpa_to_hpa(m, kvm_vcpu_gfn_to_memslot(vcpu, Math.floor(first / 4096)), first, false);
    let flush = false;
    for (let i = 0; i < 512; i++) {
      const sptep = sp.spt * 4096 + i * 8;
      const oldLo = m.mem.readLo(sptep);
      const oldHi = m.mem.readHi(sptep);
      if (m.spte.isNonpresent(oldLo, oldHi)) continue;
      if (hpa < 0) return -1;
      const lo = four ? m.mem.read32(hpa + i * 4) : m.mem.readLo(hpa + i * 8);
      const hi = four ? 0 : m.mem.readHi(hpa + i * 8);
      if (prefetch_invalid_gpte(vcpu, sptep, lo, hi)) {
        flush = true;
        continue;
      }
      const gfn = gpte_to_gfn(four, lo, hi);
      const access = protect_clean_gpte(role_get(sp.role, R.access) & gpte_access(lo, hi), lo);
      if (m.spte.isMmio(oldLo, oldHi)) {
        if (gfn !== m.spte.mmioGfn(oldLo, oldHi)) m.mem.writeQ(sptep, m.spte.nonpresentLo, m.spte.nonpresentHi);
        else mark_mmio_spte(vcpu, sptep, gfn, access);
        continue;
      }
      const present = m.spte.masks.present;
      if ((access === 0 && (present.lo | present.hi) === 0) || gfn !== kvm_mmu_page_get_gfn(m, sp, i)) {
        drop_spte(vcpu.kvm, sptep);
        flush = true;
        continue;
      }
      if (sp.accesses) sp.accesses[i] = access;
      const slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
      const writable = m.spte.isHostWritable(oldLo, oldHi);
      m.spte.make_spte(vcpu, sp, slot, access, gfn, m.spte.pfn(oldLo, oldHi), oldLo, true, false, writable);
      flush = mmu_spte_update(vcpu, sptep, oldLo, oldHi, m.spte.lo, m.spte.hi) || flush;
    }
    return flush ? 1 : 0;
  }
}
