/**
 * Write protection and write tracking of guest page tables: account_shadowed() and arch/x86/kvm/mmu/page_track.c.
 * Facts: reference kvm-mmu-model.md 7.6 and chapter 18.
 */
import { enter, leave } from '../observer';
import type { Kvm, KvmMemorySlot, KvmMmuPage } from '../kvm_host';
import { role_get } from '../roles';
import { gfn_to_index } from '../memslots';
import { kvm_flush_remote_tlbs } from '../x86_requests';
import { slotOfPage, update_gfn_disallow_lpage_count } from './pages';
import { rmap_write_protect_slot_gfn } from './rmap';
import { kvm_tdp_mmu_write_protect_gfn } from './tdp_mmu_ops';

/** kvm_mmu_slot_gfn_write_protect(): every mapping of gfn in this slot from `min_level` up loses write access. */
export function kvm_mmu_slot_gfn_write_protect(kvm: Kvm, slot: KvmMemorySlot, gfn: number, min_level: number): boolean {
  let flush = rmap_write_protect_slot_gfn(kvm, slot, gfn, min_level);
  if (kvm.machine.tdpMmuEnabled) flush = kvm_tdp_mmu_write_protect_gfn(kvm, slot, gfn, min_level) || flush;
  return flush;
}

/** account_shadowed(): from now on writes to this guest table are caught. */
export function account_shadowed(kvm: Kvm, sp: KvmMmuPage): void {
  const m = kvm.machine;
  enter(m, 'account_shadowed', -1, sp);
  kvm.indirect_shadow_pages++;
  const slot = slotOfPage(kvm, sp, sp.gfn);
  if (slot) {
    if (role_get(sp.role, m.roles.level) > 1) {
      const index = gfn_to_index(sp.gfn, slot.base_gfn, 1);
      slot.arch.gfn_write_track.set(index, (slot.arch.gfn_write_track.get(index) ?? 0) + 1);
      update_gfn_disallow_lpage_count(slot, sp.gfn, 1);
      if (kvm_mmu_slot_gfn_write_protect(kvm, slot, sp.gfn, 1))
        kvm_flush_remote_tlbs(kvm, 'a guest table became write-tracked');
    } else {
      update_gfn_disallow_lpage_count(slot, sp.gfn, 1);
      if (kvm_mmu_slot_gfn_write_protect(kvm, slot, sp.gfn, 1))
        kvm_flush_remote_tlbs(kvm, 'a guest table became write-protected');
    }
  }
  leave(m);
}

/** unaccount_shadowed() */
export function unaccount_shadowed(kvm: Kvm, sp: KvmMmuPage): void {
  kvm.indirect_shadow_pages--;
  const slot = slotOfPage(kvm, sp, sp.gfn);
  if (!slot) return;
  if (role_get(sp.role, kvm.machine.roles.level) > 1) {
    const index = gfn_to_index(sp.gfn, slot.base_gfn, 1);
    const count = (slot.arch.gfn_write_track.get(index) ?? 0) - 1;
    if (count > 0) slot.arch.gfn_write_track.set(index, count);
    else slot.arch.gfn_write_track.delete(index);
  }
  update_gfn_disallow_lpage_count(slot, sp.gfn, -1);
}

/** kvm_slot_page_track_is_active() for writes */
export function kvm_slot_page_track_is_active(slot: KvmMemorySlot | null, gfn: number): boolean {
  return slot !== null && (slot.arch.gfn_write_track.get(gfn - slot.base_gfn) ?? 0) > 0;
}
