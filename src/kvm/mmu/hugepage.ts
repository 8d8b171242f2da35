/**
 * Which page size a fault gets. Facts: reference kvm-mmu-model.md chapter 20.
 */
import { enter, leave } from '../observer';
import type { Machine } from '../machine';
import type { KvmMemorySlot, KvmVcpu } from '../kvm_host';
import { host_pfn_mapping_level, kvm_slot_dirty_track_enabled } from '../kvm_main';
import { gfn_to_index } from '../memslots';
import type { KvmPageFault } from './fault';
import { spp_protects_range } from './spp';

/** kvm_mmu_max_mapping_level(): limited by the host page, by slot alignment and by shadowed tables inside the range. */
export function kvm_mmu_max_mapping_level(m: Machine, slot: KvmMemorySlot, gfn: number, max_level: number): number {
  let max = Math.min(max_level, m.maxHugePageLevel);
  for (; max > 1; max--)
    if (
      slot.arch.lpage_info[max - 2][gfn_to_index(gfn, slot.base_gfn, max)] === 0 &&
      !spp_protects_range(slot, gfn, max)
    )
      break;
  if (max === 1) return 1;
  return Math.min(max, host_pfn_mapping_level(m, slot, gfn));
}

/** kvm_mmu_hugepage_adjust(): sets req_level and goal_level, and aligns the pfn to the goal. */
export function kvm_mmu_hugepage_adjust(vcpu: KvmVcpu, fault: KvmPageFault): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_mmu_hugepage_adjust', vcpu.vcpu_id, fault);
  fault.huge_page_disallowed = fault.exec && fault.nx_huge_page_workaround_enabled;
  if (fault.max_level > 1 && fault.pfnKind === 'pfn' && fault.slot && !kvm_slot_dirty_track_enabled(fault.slot)) {
    enter(m, 'kvm_mmu_max_mapping_level', vcpu.vcpu_id, fault);
    fault.req_level = kvm_mmu_max_mapping_level(m, fault.slot, fault.gfn, fault.max_level);
    leave(m);
    if (fault.req_level > 1 && !fault.huge_page_disallowed) {
      fault.goal_level = fault.req_level;
      const pages = 512 ** (fault.goal_level - 1);
      fault.pfn -= fault.pfn % pages;
    }
  }
  leave(m);
}

/** disallowed_hugepage_adjust(): a table at the goal level exists because of NX or a split; it stays. */
export function disallowed_hugepage_adjust(
  vcpu: KvmVcpu,
  fault: KvmPageFault,
  lo: number,
  hi: number,
  cur_level: number,
): void {
  const f = vcpu.kvm.machine.spte;
  if (cur_level > 1 && cur_level === fault.goal_level && f.isPresent(lo, hi) && !(lo & 0x80)) {
    const pages = 512 ** (cur_level - 1);
    const small = 512 ** (cur_level - 2);
    const offset = fault.gfn % pages;
    fault.pfn += offset - (offset % small);
    fault.goal_level--;
  }
}
