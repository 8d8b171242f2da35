/**
 * FNAME(sync_page): an unsync leaf table against the guest's entries. Facts: reference kvm-mmu-model.md 19.1.
 */
import { enter, leave } from '../observer';
import type { KvmMmuPage, KvmVcpu } from '../kvm_host';
import { kvm_gpa_to_hpa, kvm_vcpu_gfn_to_memslot } from '../kvm_main';
import { role_get, role_put } from '../roles';
import { mark_mmio_spte, mmu_spte_update } from './direct_map';
import { kvm_mmu_page_get_gfn } from './pages';
import { drop_spte } from './rmap';
import { gpte_to_gfn, instance, leaf_access, prefetch_invalid_gpte } from './shadow_fault';

/**
 * Whether this instance of the paging templates reads 4-byte entries. The context tells, not the page: up to v5.0 the role of a page
 * that shadows L1's EPT can have cr4_pae = 0.
 */
const four_byte_gptes = (vcpu: KvmVcpu): boolean => vcpu.kvm.machine.roles.has4ByteGpte(vcpu.mmu.cpu_role_base);

/** FNAME(get_level1_sp_gpa): where the guest entries behind a level-1 shadow page begin. */
export function get_level1_sp_gpa(vcpu: KvmVcpu, sp: KvmMmuPage): number {
  const { quadrant } = vcpu.kvm.machine.roles;
  const offset = four_byte_gptes(vcpu) ? role_get(sp.role, quadrant) * 512 * 4 : 0;
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
    let flush = 0;
    for (let i = 0; i < 512; i++) {
      const r = sync_spte(vcpu, sp, i);
      if (r < 0) return -1;
      flush |= r;
    }
    return flush;
  }
}

/** FNAME(sync_spte), before v6.4 the loop of FNAME(sync_page): entry `i` of a shadow page. Results as for {@link sync_page}. */
export function sync_spte(vcpu: KvmVcpu, sp: KvmMmuPage, i: number): number {
  const m = vcpu.kvm.machine;
  const sptep = sp.spt * 4096 + i * 8;
  const oldLo = m.mem.readLo(sptep);
  const oldHi = m.mem.readHi(sptep);
  if (m.spte.isNonpresent(oldLo, oldHi)) return 0;
  const four = four_byte_gptes(vcpu);
  const gpa = get_level1_sp_gpa(vcpu, sp) + i * (four ? 4 : 8);
  const hpa = kvm_gpa_to_hpa(m, kvm_vcpu_gfn_to_memslot(vcpu, Math.floor(gpa / 4096)), gpa, false);
  if (hpa < 0) return -1;
  const lo = four ? m.mem.read32(hpa) : m.mem.readLo(hpa);
  const hi = four ? 0 : m.mem.readHi(hpa);
  if (prefetch_invalid_gpte(vcpu, sptep, lo, hi)) return 1;
  const gfn = gpte_to_gfn(four, lo, hi);
  const access = leaf_access(vcpu, sp, lo, hi);
  if (m.spte.isMmio(oldLo, oldHi)) {
    if (gfn !== m.spte.mmioGfn(oldLo, oldHi)) m.mem.writeQ(sptep, m.spte.nonpresentLo, m.spte.nonpresentHi);
    else mark_mmio_spte(vcpu, sptep, gfn, access);
    return 0;
  }
  const present = m.spte.masks.present;
  if ((access === 0 && (present.lo | present.hi) === 0) || gfn !== kvm_mmu_page_get_gfn(m, sp, i)) {
    drop_spte(vcpu.kvm, sptep);
    return 1;
  }
  // Since v6.4 an entry whose rights are the same is left as it is.
  if (m.caps.invlpgSyncsSpte && sp.accesses?.[i] === access) return 0;
  if (sp.accesses) sp.accesses[i] = access;
  const slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
  const writable = m.spte.isHostWritable(oldLo, oldHi);
  m.spte.make_spte(vcpu, sp, slot, access, gfn, m.spte.pfn(oldLo, oldHi), oldLo, true, false, writable);
  return mmu_spte_update(vcpu, sptep, oldLo, oldHi, m.spte.lo, m.spte.hi) ? 1 : 0;
}
