/**
 * Arming and disarming dirty logging on a slot. Facts: reference kvm-mmu-model.md 3.7 and chapter 21.
 */
import { enter, leave } from '../machine';
import type { Kvm, KvmMemorySlot } from '../kvm_host';
import { kvm_flush_remote_tlbs } from '../x86_requests';
import { role_get } from '../roles';
import { drop_spte, spte_write_protect } from './rmap';
import { kvm_mmu_role_as_id } from './pages';
import { tdp_mmu_set_spte } from './tdp_mmu_ops';
import { host_pfn_mapping_level } from '../kvm_main';
import { gfn_to_index } from '../memslots';

/** Visits every present TDP MMU entry of a slot's range, top down. */
export function for_each_tdp_spte(
  kvm: Kvm,
  slot: KvmMemorySlot,
  visit: (
    root: import('../kvm_host').KvmMmuPage,
    sptep: number,
    level: number,
    gfn: number,
    lo: number,
    hi: number,
  ) => void,
): void {
  const m = kvm.machine;
  const end = slot.base_gfn + slot.npages;
  for (const root of kvm.tdp_mmu_roots) {
    if (role_get(root.role, m.roles.invalid) || kvm_mmu_role_as_id(m, root.role) !== slot.as_id) continue;
    const walk = (table: number, level: number, base: number): void => {
      const pages = 512 ** (level - 1);
      for (let i = 0; i < 512; i++) {
        const gfn = base + i * pages;
        if (gfn >= end || gfn + pages <= slot.base_gfn) continue;
        const sptep = table * 4096 + i * 8;
        const lo = m.mem.readLo(sptep);
        const hi = m.mem.readHi(sptep);
        if (!m.spte.isPresent(lo, hi)) continue;
        visit(root, sptep, level, gfn, lo, hi);
        const nowLo = m.mem.readLo(sptep);
        const nowHi = m.mem.readHi(sptep);
        if (m.spte.isPresent(nowLo, nowHi) && !m.spte.isLast(nowLo, level))
          walk(m.spte.pfn(nowLo, nowHi), level - 1, gfn);
      }
    };
    walk(root.spt, role_get(root.role, m.roles.level), 0);
  }
}

/** Every leaf spte of the hash-table MMU in a slot. */
export function for_each_rmap_spte(
  slot: KvmMemorySlot,
  minLevel: number,
  visit: (sptep: number, level: number) => void,
): void {
  for (let level = minLevel; level <= 3; level++)
    for (const index of [...slot.arch.rmap[level - 1].keys()].sort((a, b) => a - b))
      for (const sptep of [...(slot.arch.rmap[level - 1].get(index) ?? [])]) visit(sptep, level);
}

/** Logging on: write-protect everything, or with PML clear D of small leaves and write-protect only huge ones. */
export function slot_enable_log_dirty(kvm: Kvm, slot: KvmMemorySlot): void {
  const m = kvm.machine;
  if (m.config.dirtyLogInitiallySet) return;
  const from = m.config.pml ? 2 : 1;
  enter(m, 'kvm_mmu_slot_remove_write_access', -1, slot);
  for_each_rmap_spte(slot, from, (sptep) => spte_write_protect(kvm, sptep, false));
  if (m.tdpMmuEnabled)
    for_each_tdp_spte(kvm, slot, (root, sptep, level, gfn, lo, hi) => {
      if (level < from || !m.spte.isLast(lo, level) || !m.spte.isWritable(lo)) return;
      tdp_mmu_set_spte(kvm, root, sptep, gfn, level, (lo & ~2) >>> 0, hi, false, -1);
    });
  leave(m);
  if (m.config.pml) {
    enter(m, 'kvm_mmu_slot_leaf_clear_dirty', -1, slot);
    const d = m.spte.masks.dirty;
    const clear = (sptep: number): void => {
      m.mem.writeQ(sptep, (m.mem.readLo(sptep) & ~d.lo) >>> 0, (m.mem.readHi(sptep) & ~d.hi) >>> 0);
    };
    for_each_rmap_spte(slot, 1, (sptep, level) => {
      if (level === 1) clear(sptep);
    });
    if (m.tdpMmuEnabled)
      for_each_tdp_spte(kvm, slot, (root, sptep, level, gfn, lo, hi) => {
        if (level !== 1) return;
        const newLo = (lo & ~d.lo) >>> 0;
        const newHi = (hi & ~d.hi) >>> 0;
        if (newLo !== lo || newHi !== hi) tdp_mmu_set_spte(kvm, root, sptep, gfn, level, newLo, newHi, false, -1);
      });
    leave(m);
  }
  kvm_flush_remote_tlbs(kvm, 'dirty logging was switched on');
}

/** Logging off: small leaves that could be huge again are zapped (kvm_mmu_zap_collapsible_sptes). */
export function slot_disable_log_dirty(kvm: Kvm, slot: KvmMemorySlot): void {
  const m = kvm.machine;
  enter(m, 'kvm_mmu_zap_collapsible_sptes', -1, slot);
  let flush = false;
  const maxLevel = (gfn: number): number => {
    const host = host_pfn_mapping_level(m, slot, gfn);
    let max = Math.min(host, m.maxHugePageLevel);
    for (; max > 1; max--) if (slot.arch.lpage_info[max - 2][gfn_to_index(gfn, slot.base_gfn, max)] === 0) break;
    return max;
  };
  for (const index of [...slot.arch.rmap[0].keys()]) {
    const gfn = slot.base_gfn + index;
    if (maxLevel(gfn) <= 1) continue;
    for (const sptep of [...(slot.arch.rmap[0].get(index) ?? [])]) {
      drop_spte(kvm, sptep);
      flush = true;
    }
  }
  if (m.tdpMmuEnabled)
    for_each_tdp_spte(kvm, slot, (root, sptep, level, gfn, lo) => {
      if (level < 2 || m.spte.isLast(lo, level)) return;
      // A table whose whole range could be one huge page goes, with everything below it.
      if (gfn < slot.base_gfn || gfn + 512 ** (level - 1) > slot.base_gfn + slot.npages || maxLevel(gfn) < level)
        return;
      tdp_mmu_set_spte(kvm, root, sptep, gfn, level, 0, 0, true, -1);
      flush = true;
    });
  leave(m);
  if (flush) kvm_flush_remote_tlbs(kvm, 'small pages will be mapped huge again');
}
