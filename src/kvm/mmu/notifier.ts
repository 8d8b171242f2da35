/**
 * MMU notifier: the host changes its own page tables. Facts: reference kvm-mmu-model.md 12.10 and 29.14.
 */
import { emit, enter, leave } from '../observer';
import type { Kvm, KvmMemorySlot } from '../kvm_host';
import { gfn_to_index } from '../memslots';
import { kvm_flush_remote_tlbs } from '../x86_requests';
import { for_each_tdp_spte } from './dirty';
import { drop_spte } from './rmap';
import { tdp_mmu_clear_spte } from './tdp_mmu_ops';

/** kvm_mmu_notifier_invalidate_range_start(): zaps what maps [start, end) and keeps faults from mapping it until the end. */
export function kvm_mmu_notifier_invalidate_range_start(kvm: Kvm, start: bigint, end: bigint): void {
  const m = kvm.machine;
  enter(m, 'kvm_mmu_notifier_invalidate_range_start', -1, null);
  emit(m, (o) => o.event({ kind: 'kvm_unmap_hva_range', vcpu: -1, start, end }));
  enter(m, 'kvm_mmu_invalidate_begin', -1, null);
  kvm_mmu_invalidate_begin(kvm, start, end);
  leave(m);
  let flush = false;
  enter(m, '__kvm_handle_hva_range', -1, null);
  for (const set of kvm.memslots)
    for (const slot of set.slots) {
      const from = slot.userspace_addr > start ? slot.userspace_addr : start;
      const slotEnd = slot.userspace_addr + BigInt(slot.npages) * 4096n;
      const to = slotEnd < end ? slotEnd : end;
      if (from >= to) continue;
      const first = slot.base_gfn + Number((from - slot.userspace_addr) >> 12n);
      const last = slot.base_gfn + Number((to - slot.userspace_addr + 4095n) >> 12n);
      flush = kvm_unmap_gfn_range(kvm, slot, first, last) || flush;
    }
  leave(m);
  if (flush) kvm_flush_remote_tlbs(kvm, 'the host takes pages away');
  leave(m);
}

/** kvm_mmu_invalidate_begin(): the range in progress, widened when several overlap in time. */
function kvm_mmu_invalidate_begin(kvm: Kvm, start: bigint, end: bigint): void {
  if (kvm.mmu_invalidate_in_progress++ === 0) {
    kvm.mmu_invalidate_range_start = start;
    kvm.mmu_invalidate_range_end = end;
    return;
  }
  if (start < kvm.mmu_invalidate_range_start) kvm.mmu_invalidate_range_start = start;
  if (end > kvm.mmu_invalidate_range_end) kvm.mmu_invalidate_range_end = end;
}

/** kvm_mmu_notifier_invalidate_range_end(): faults that looked pages up meanwhile must try again. */
export function kvm_mmu_notifier_invalidate_range_end(kvm: Kvm): void {
  const m = kvm.machine;
  enter(m, 'kvm_mmu_notifier_invalidate_range_end', -1, null);
  enter(m, 'kvm_mmu_invalidate_end', -1, null);
  kvm.mmu_invalidate_seq++;
  kvm.mmu_invalidate_in_progress--;
  leave(m);
  leave(m);
}

/** kvm_unmap_gfn_range(): every mapping of [first, last) of a slot goes. @returns whether there was one */
function kvm_unmap_gfn_range(kvm: Kvm, slot: KvmMemorySlot, first: number, last: number): boolean {
  const m = kvm.machine;
  enter(m, 'kvm_unmap_gfn_range', -1, slot);
  enter(m, 'kvm_handle_gfn_range', -1, slot);
  let flush = false;
  for (let level = 1; level <= 3; level++) {
    const heads = slot.arch.rmap[level - 1];
    const from = gfn_to_index(first, slot.base_gfn, level);
    const to = gfn_to_index(last - 1, slot.base_gfn, level);
    for (const index of heads.keys(from, to)) {
      enter(m, 'kvm_zap_rmap', -1, slot);
      for (const sptep of heads.get(index)) {
        drop_spte(kvm, sptep);
        flush = true;
      }
      leave(m);
    }
  }
  leave(m);
  if (m.tdpMmuEnabled) {
    enter(m, 'kvm_tdp_mmu_unmap_gfn_range', -1, slot);
    enter(m, 'tdp_mmu_zap_leafs', -1, slot);
    for_each_tdp_spte(kvm, slot, first, last, 1, (root, sptep, level, gfn, lo) => {
      if (!m.spte.isLast(lo, level)) return;
      tdp_mmu_clear_spte(kvm, root, sptep, gfn, level, false);
      flush = true;
    });
    leave(m);
    leave(m);
  }
  leave(m);
  return flush;
}
