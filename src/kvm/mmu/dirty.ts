/**
 * Dirty logging: arming and disarming a slot, KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG, splitting huge pages ahead of time.
 * Facts: reference kvm-mmu-model.md 3.7, 3.9, chapters 20 and 21; order of steps as in v6.1.
 */
import { enter, leave } from '../observer';
import type { Kvm, KvmMemorySlot, KvmMmuPage } from '../kvm_host';
import { EINVAL, ENOENT, type IoctlResult } from '../kvm_main';
import { role_get } from '../roles';
import { flush_pml_buffers } from '../pml';
import { kvm_flush_remote_tlbs } from '../x86_requests';
import { kvm_mmu_max_mapping_level } from './hugepage';
import { role_sees_slot } from '../smram';
import { sptep_to_sp } from './pages';
import { drop_spte, rmapOf, spte_write_protect } from './rmap';
import { kvm_mmu_slot_gfn_write_protect } from './track';
import { tdp_mmu_set_spte, tdp_mmu_zap_spte_atomic } from './tdp_mmu_ops';
import { tdp_mmu_split_huge_page } from './tdp_mmu_split';

type Visit = (root: KvmMmuPage, sptep: number, level: number, gfn: number, lo: number, hi: number) => void;

/** for_each_tdp_pte_min_level() over the roots of a slot's address space: present entries in [start, end), top down. */
export function for_each_tdp_spte(
  kvm: Kvm,
  slot: KvmMemorySlot,
  start: number,
  end: number,
  min_level: number,
  visit: Visit,
): void {
  const m = kvm.machine;
  for (const root of kvm.tdp_mmu_roots) {
    if (role_get(root.role, m.roles.invalid) || !role_sees_slot(m, root.role, slot)) continue;
    const walk = (table: number, level: number, base: number): void => {
      const pages = 512 ** (level - 1);
      for (let i = 0; i < 512; i++) {
        const gfn = base + i * pages;
        if (gfn >= end || gfn + pages <= start) continue;
        const sptep = table * 4096 + i * 8;
        const lo = m.mem.readLo(sptep);
        const hi = m.mem.readHi(sptep);
        if (!m.spte.isPresent(lo, hi)) continue;
        visit(root, sptep, level, gfn, lo, hi);
        const nowLo = m.mem.readLo(sptep);
        const nowHi = m.mem.readHi(sptep);
        if (level > min_level && m.spte.isPresent(nowLo, nowHi) && !m.spte.isLast(nowLo, level))
          walk(m.spte.pfn(nowLo, nowHi), level - 1, gfn);
      }
    };
    walk(root.spt, role_get(root.role, m.roles.level), 0);
  }
}

/** Every leaf spte of the hash-table MMU in a slot, by level and gfn. */
function for_each_rmap_spte(
  slot: KvmMemorySlot,
  minLevel: number,
  visit: (sptep: number, level: number) => void,
): void {
  for (let level = minLevel; level <= 3; level++)
    for (const index of slot.arch.rmap[level - 1].keys())
      for (const sptep of slot.arch.rmap[level - 1].get(index)) visit(sptep, level);
}

const slotEnd = (slot: KvmMemorySlot): number => slot.base_gfn + slot.npages;

/** kvm_mmu_slot_apply_flags(): logging was switched on. */
export function slot_enable_log_dirty(kvm: Kvm, slot: KvmMemorySlot): void {
  const m = kvm.machine;
  if (m.config.dirtyLogInitiallySet) {
    if (!m.caps.initSetProtectsHuge) return;
    kvm_mmu_slot_remove_write_access(kvm, slot, 2);
    kvm_flush_remote_tlbs(kvm, 'dirty logging was switched on');
    return;
  }
  if (m.caps.eagerPageSplit && m.config.eager_page_split)
    kvm_mmu_try_split_huge_pages(kvm, slot, slot.base_gfn, slotEnd(slot));
  if (m.config.pml) {
    kvm_mmu_slot_leaf_clear_dirty(kvm, slot);
    kvm_mmu_slot_remove_write_access(kvm, slot, 2);
  } else kvm_mmu_slot_remove_write_access(kvm, slot, 1);
  kvm_flush_remote_tlbs(kvm, 'dirty logging was switched on');
}

/** kvm_mmu_slot_remove_write_access() */
function kvm_mmu_slot_remove_write_access(kvm: Kvm, slot: KvmMemorySlot, from: number): void {
  const m = kvm.machine;
  enter(m, 'kvm_mmu_slot_remove_write_access', -1, slot);
  for_each_rmap_spte(slot, from, (sptep) => spte_write_protect(kvm, sptep, false));
  if (m.tdpMmuEnabled)
    for_each_tdp_spte(kvm, slot, slot.base_gfn, slotEnd(slot), from, (root, sptep, level, gfn, lo, hi) => {
      if (!m.spte.isLast(lo, level) || !m.spte.isWritable(lo)) return;
      tdp_mmu_set_spte(kvm, root, sptep, gfn, level, (lo & ~2) >>> 0, hi, true, -1);
    });
  leave(m);
}

/** kvm_mmu_slot_leaf_clear_dirty(): with PML the processor reports the next write itself. */
function kvm_mmu_slot_leaf_clear_dirty(kvm: Kvm, slot: KvmMemorySlot): void {
  const m = kvm.machine;
  enter(m, 'kvm_mmu_slot_leaf_clear_dirty', -1, slot);
  for_each_rmap_spte(slot, 1, (sptep, level) => {
    if (level === 1) spte_clear_dirty(kvm, sptep);
  });
  if (m.tdpMmuEnabled)
    for_each_tdp_spte(kvm, slot, slot.base_gfn, slotEnd(slot), 1, (root, sptep, level, gfn, lo, hi) => {
      if (m.spte.isLast(lo, level)) clearTdpDirty(kvm, root, sptep, gfn, level, lo, hi, false);
    });
  leave(m);
}

/** spte_clear_dirty(), or write protection where D does not count. */
function spte_clear_dirty(kvm: Kvm, sptep: number): boolean {
  const m = kvm.machine;
  const lo = m.mem.readLo(sptep);
  const hi = m.mem.readHi(sptep);
  if (m.spte.adNeedsWriteProtect(lo, hi)) return spte_write_protect(kvm, sptep, false);
  const d = m.spte.masks.dirty;
  if (((lo & d.lo) | (hi & d.hi)) === 0) return false;
  m.mem.writeQ(sptep, (lo & ~d.lo) >>> 0, (hi & ~d.hi) >>> 0);
  return true;
}

function clearTdpDirty(
  kvm: Kvm,
  root: KvmMmuPage,
  sptep: number,
  gfn: number,
  level: number,
  lo: number,
  hi: number,
  wrprot: boolean,
): void {
  const m = kvm.machine;
  const d = m.spte.masks.dirty;
  let newLo = lo;
  let newHi = hi;
  if (wrprot || m.spte.adNeedsWriteProtect(lo, hi)) newLo = (lo & ~2) >>> 0;
  else {
    newLo = (lo & ~d.lo) >>> 0;
    newHi = (hi & ~d.hi) >>> 0;
  }
  if (newLo !== lo || newHi !== hi) tdp_mmu_set_spte(kvm, root, sptep, gfn, level, newLo, newHi, false, -1);
}

/** kvm_mmu_zap_collapsible_sptes(): logging is off, so small mappings that could be huge go. */
export function slot_disable_log_dirty(kvm: Kvm, slot: KvmMemorySlot): void {
  const m = kvm.machine;
  enter(m, 'kvm_mmu_zap_collapsible_sptes', -1, slot);
  let flush = false;
  for_each_rmap_spte(slot, 1, (sptep, level) => {
    const sp = sptep_to_sp(kvm, sptep);
    // Indirect pages follow the guest's page size.
    if (!sp || level > 2 || !role_get(sp.role, m.roles.direct)) return;
    if (sp.gfn < slot.base_gfn || level >= kvm_mmu_max_mapping_level(m, slot, sp.gfn, 3)) return;
    drop_spte(kvm, sptep);
    flush = true;
  });
  if (flush) kvm_flush_remote_tlbs(kvm, 'small pages will be mapped huge again');
  if (m.tdpMmuEnabled)
    for_each_tdp_spte(kvm, slot, slot.base_gfn, slotEnd(slot), 2, (root, sptep, level, gfn, lo) => {
      if (level > 3 || m.spte.isLast(lo, level) || gfn < slot.base_gfn || gfn >= slotEnd(slot)) return;
      if (kvm_mmu_max_mapping_level(m, slot, gfn, 3) < level) return;
      tdp_mmu_zap_spte_atomic(kvm, root, sptep, gfn, level, -1, 'a table will be replaced by a huge page');
    });
  leave(m);
}

/** kvm_mmu_try_split_huge_pages(): only with the TDP MMU, so that write protection and dirty bits work on 4K pages. */
function kvm_mmu_try_split_huge_pages(kvm: Kvm, slot: KvmMemorySlot, start: number, end: number): void {
  const m = kvm.machine;
  if (!m.tdpMmuEnabled) return;
  enter(m, 'kvm_tdp_mmu_try_split_huge_pages', -1, slot);
  for_each_tdp_spte(kvm, slot, start, end, 2, (root, sptep, level, gfn, lo, hi) => {
    if (m.spte.isLast(lo, level)) tdp_mmu_split_huge_page(kvm, root, sptep, gfn, level, lo, hi, -1);
  });
  leave(m);
}

/** Outcome of KVM_GET_DIRTY_LOG: the bitmap as it was, bit per page of the slot. */
export interface DirtyLogResult extends IoctlResult {
  bitmap: Uint32Array;
}

/** The slot that a dirty-log ioctl names, or the errno. */
function loggedSlot(kvm: Kvm, as_id: number, id: number): KvmMemorySlot | IoctlResult {
  if (as_id >= kvm.memslots.length || id >= kvm.machine.caps.userMemSlots)
    return { errno: -EINVAL, text: `-EINVAL: there is no slot ${as_id}:${id}` };
  const slot = kvm.memslots[as_id].byId(id);
  if (!slot?.dirty_bitmap) {
    const why = slot ? 'does not log dirty pages (KVM_MEM_LOG_DIRTY_PAGES is not set)' : 'does not exist';
    return { errno: -ENOENT, text: `-ENOENT: slot ${as_id}:${id} ${why}` };
  }
  return slot;
}

/** kvm_arch_sync_dirty_log() */
function kvm_arch_sync_dirty_log(kvm: Kvm, slot: KvmMemorySlot): void {
  enter(kvm.machine, 'kvm_arch_sync_dirty_log', -1, slot);
  flush_pml_buffers(kvm);
  leave(kvm.machine);
}

/** kvm_arch_flush_remote_tlbs_memslot() */
function flush_memslot(kvm: Kvm, slot: KvmMemorySlot): void {
  enter(kvm.machine, 'kvm_arch_flush_remote_tlbs_memslot', -1, slot);
  kvm_flush_remote_tlbs(kvm, 'pages were armed for the dirty log again');
  leave(kvm.machine);
}

/** KVM_GET_DIRTY_LOG. Without manual protection it clears the bitmap and arms the pages again; with it, it only copies. */
export function kvm_vm_ioctl_get_dirty_log(kvm: Kvm, as_id: number, id: number): DirtyLogResult {
  const m = kvm.machine;
  enter(m, 'kvm_vm_ioctl', -1, null);
  enter(m, 'kvm_vm_ioctl_get_dirty_log', -1, null);
  enter(m, 'kvm_get_dirty_log_protect', -1, null);
  const result = body();
  leave(m);
  leave(m);
  leave(m);
  return result;

  function body(): DirtyLogResult {
    const slot = loggedSlot(kvm, as_id, id);
    if ('errno' in slot) return { ...slot, bitmap: new Uint32Array(0) };
    const bits = slot.dirty_bitmap as Uint32Array;
    kvm_arch_sync_dirty_log(kvm, slot);
    const copy = bits.slice();
    if (m.config.dirtyLogManualProtect) return { errno: 0, text: 'ok', bitmap: copy };
    let flush = false;
    for (let word = 0; word < bits.length; word += 2) {
      const lo = bits[word];
      const hi = word + 1 < bits.length ? bits[word + 1] : 0;
      if (!(lo | hi)) continue;
      flush = true;
      bits[word] = 0;
      if (word + 1 < bits.length) bits[word + 1] = 0;
      kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, word * 32, lo, hi);
    }
    if (flush) flush_memslot(kvm, slot);
    return { errno: 0, text: 'ok', bitmap: copy };
  }
}

/**
 * KVM_CLEAR_DIRTY_LOG: clears the given pages' bits and arms those that were set.
 * @param first_page multiple of 64; `num_pages` too unless the range ends with the slot
 */
export function kvm_vm_ioctl_clear_dirty_log(
  kvm: Kvm,
  as_id: number,
  id: number,
  first_page: number,
  num_pages: number,
  bitmap: Uint32Array,
): IoctlResult {
  const m = kvm.machine;
  enter(m, 'kvm_vm_ioctl', -1, null);
  enter(m, 'kvm_vm_ioctl_clear_dirty_log', -1, null);
  enter(m, 'kvm_clear_dirty_log_protect', -1, null);
  const result = body();
  leave(m);
  leave(m);
  leave(m);
  return result;

  function body(): IoctlResult {
    const slot = loggedSlot(kvm, as_id, id);
    if ('errno' in slot) return slot;
    const why =
      first_page % 64
        ? `first_page ${first_page} is not a multiple of 64`
        : first_page > slot.npages || num_pages > slot.npages - first_page
          ? `pages ${first_page}..${first_page + num_pages} leave the slot of ${slot.npages} pages`
          : num_pages < slot.npages - first_page && num_pages % 64
            ? `num_pages ${num_pages} is not a multiple of 64`
            : null;
    if (why) return { errno: -EINVAL, text: `-EINVAL: ${why}` };
    const bits = slot.dirty_bitmap as Uint32Array;
    kvm_arch_sync_dirty_log(kvm, slot);
    let flush = false;
    for (let page = 0; page < num_pages; page += 64) {
      const at = (first_page + page) / 32;
      const lo = bits[at] & (bitmap[page / 32] ?? 0);
      const hi = (bits[at + 1] ?? 0) & (bitmap[page / 32 + 1] ?? 0);
      if (!(lo | hi)) continue;
      flush = true;
      bits[at] &= ~lo;
      if (at + 1 < bits.length) bits[at + 1] &= ~hi;
      kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, first_page + page, lo >>> 0, hi >>> 0);
    }
    if (flush) flush_memslot(kvm, slot);
    return { errno: 0, text: 'ok' };
  }
}

/** kvm_arch_mmu_enable_log_dirty_pt_masked(): arms the pages of a 64-page mask (lo, hi) from gfn_offset on. */
function kvm_arch_mmu_enable_log_dirty_pt_masked(
  kvm: Kvm,
  slot: KvmMemorySlot,
  gfn_offset: number,
  lo: number,
  hi: number,
): void {
  const m = kvm.machine;
  enter(m, 'kvm_arch_mmu_enable_log_dirty_pt_masked', -1, slot);
  const base = slot.base_gfn + gfn_offset;
  const set = (i: number): boolean => ((i < 32 ? lo >>> i : hi >>> (i - 32)) & 1) === 1;
  if (m.config.dirtyLogInitiallySet && !m.caps.initSetProtectsHuge) {
    // Huge pages were not protected when logging began; a write must split them, so it has to fault.
    const all = Array.from({ length: 64 }, (_, i) => i).filter(set);
    const start = base + all[0];
    const end = base + all[all.length - 1];
    if (m.caps.eagerPageSplit && m.config.eager_page_split) kvm_mmu_try_split_huge_pages(kvm, slot, start, end);
    kvm_mmu_slot_gfn_write_protect(kvm, slot, start, 2);
    if (Math.ceil(start / 512) !== Math.ceil(end / 512)) kvm_mmu_slot_gfn_write_protect(kvm, slot, end, 2);
  }
  const { pml } = m.config;
  if (pml) enter(m, 'vmx_enable_log_dirty_pt_masked', -1, slot);
  enter(m, pml ? 'kvm_mmu_clear_dirty_pt_masked' : 'kvm_mmu_write_protect_pt_masked', -1, slot);
  if (m.tdpMmuEnabled) {
    enter(m, 'kvm_tdp_mmu_clear_dirty_pt_masked', -1, slot);
    for_each_tdp_spte(kvm, slot, base, base + 64, 1, (root, sptep, level, gfn, sLo, sHi) => {
      if (level > 1 || gfn < base || !set(gfn - base)) return;
      clearTdpDirty(kvm, root, sptep, gfn, level, sLo, sHi, !pml);
    });
    leave(m);
  }
  for (let i = 0; i < 64; i++) {
    const sptes = set(i) ? rmapOf(slot, base + i, 1) : [];
    if (sptes.length === 0) continue;
    enter(m, pml ? '__rmap_clear_dirty' : 'rmap_write_protect', -1, slot);
    for (const sptep of sptes) {
      enter(m, pml ? 'spte_clear_dirty' : 'spte_write_protect', -1, null);
      if (pml) spte_clear_dirty(kvm, sptep);
      else spte_write_protect(kvm, sptep, false);
      leave(m);
    }
    leave(m);
  }
  leave(m);
  if (pml) leave(m);
  leave(m);
}
