/**
 * Reverse maps of the hash-table MMU: (slot, level, gfn index) -> leaf sptes. Facts: reference kvm-mmu-model.md chapter 8.
 */
import type { Kvm, KvmMemorySlot, KvmVcpu } from '../kvm_host';
import { role_get } from '../roles';
import { gfn_to_index } from '../memslots';
import { kvm_mmu_page_get_gfn, slotOfPage, spte_index, sptep_to_sp } from './pages';
import { kvm_flush_remote_tlbs } from '../x86_requests';
import { spp_save } from './spp';

const RMAP_RECYCLE_THRESHOLD = 1000;

/** rmap_add(): records a leaf; a gfn with too many mappings loses them all (and this one with them is re-faulted). */
export function rmap_add(vcpu: KvmVcpu, slot: KvmMemorySlot, sptep: number, gfn: number, access: number): void {
  const kvm = vcpu.kvm;
  const sp = sptep_to_sp(kvm, sptep);
  if (!sp) return;
  const i = spte_index(sptep);
  if (sp.gfns && sp.accesses) {
    sp.gfns[i] = gfn;
    sp.accesses[i] = access;
  }
  const level = role_get(sp.role, kvm.machine.roles.level);
  const heads = slot.arch.rmap[level - 1];
  const index = gfn_to_index(gfn, slot.base_gfn, level);
  if (heads.add(index, sptep) > RMAP_RECYCLE_THRESHOLD) {
    for (const p of heads.get(index)) drop_spte(kvm, p);
    kvm_flush_remote_tlbs(kvm, 'too many mappings of one gfn');
  }
}

/** rmap_remove() with the slot found through role.smm. @throws Error when the entry is not there: KVM would BUG. */
export function rmap_remove(kvm: Kvm, sptep: number): void {
  const m = kvm.machine;
  const sp = sptep_to_sp(kvm, sptep);
  if (!sp) return;
  const level = role_get(sp.role, m.roles.level);
  const gfn = kvm_mmu_page_get_gfn(m, sp, spte_index(sptep));
  const slot = slotOfPage(kvm, sp, gfn);
  if (!slot) return;
  if (!slot.arch.rmap[level - 1].remove(gfn_to_index(gfn, slot.base_gfn, level), sptep))
    throw new Error(`spte 0x${sptep.toString(16)} is not in the rmap of gfn 0x${gfn.toString(16)}`);
}

/** drop_spte(): clears a leaf and takes it out of its rmap. */
export function drop_spte(kvm: Kvm, sptep: number): void {
  const m = kvm.machine;
  const lo = m.mem.readLo(sptep);
  const hi = m.mem.readHi(sptep);
  m.mem.writeQ(sptep, m.spte.nonpresentLo, m.spte.nonpresentHi);
  if (m.spte.isPresent(lo, hi)) rmap_remove(kvm, sptep);
}

/** The sptes that map gfn at a level, oldest first. */
export function rmapOf(slot: KvmMemorySlot, gfn: number, level: number): readonly number[] {
  return slot.arch.rmap[level - 1].get(gfn_to_index(gfn, slot.base_gfn, level));
}

/**
 * spte_write_protect(): takes W away; `pt_protect` (a guest table) takes MMU-writable too.
 * @returns whether a TLB may still hold the writable entry
 */
export function spte_write_protect(kvm: Kvm, sptep: number, pt_protect: boolean): boolean {
  const m = kvm.machine;
  const flush = spp_save(m, sptep);
  let lo = m.mem.readLo(sptep);
  let hi = m.mem.readHi(sptep);
  const mmuWritable = m.spte.isMmuWritable(lo, hi);
  if (!m.spte.isWritable(lo) && !(pt_protect && mmuWritable)) return flush;
  if (pt_protect) {
    lo &= ~m.spte.masks.mmuWritable.lo;
    hi &= ~m.spte.masks.mmuWritable.hi;
  }
  lo &= ~2;
  m.mem.writeQ(sptep, lo >>> 0, hi >>> 0);
  return mmuWritable;
}

/** The rmap half of kvm_mmu_slot_gfn_write_protect() with pt_protect. */
export function rmap_write_protect_slot_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: number, min_level: number): boolean {
  let flush = false;
  for (let level = min_level; level <= 3; level++)
    for (const sptep of rmapOf(slot, gfn, level)) flush = spte_write_protect(kvm, sptep, true) || flush;
  return flush;
}
