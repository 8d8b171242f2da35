/**
 * Zapping whole VMs and slots: kvm_mmu_zap_all_fast(), what a new memslot generation entails, and flag changes.
 * Facts: reference kvm-mmu-model.md 3.7, 23.5 and chapter 26.
 */
import { emit, enter, leave } from '../observer';
import { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, type Kvm, type KvmMemorySlot, type KvmMmuPage } from '../kvm_host';
import { kvm_make_all_cpus_request } from '../x86_requests';
import { is_obsolete_sp, kvm_mmu_commit_zap_page, __kvm_mmu_prepare_zap_page } from './pages';
import { kvm_tdp_mmu_invalidate_all_roots, kvm_tdp_mmu_zap_invalidated_roots, tdp_mmu_zap_root } from './tdp_mmu_ops';
import { role_get } from '../roles';
import { slot_disable_log_dirty, slot_enable_log_dirty } from './dirty';

/** kvm_mmu_zap_all_fast(): a new generation makes everything obsolete; then it is zapped, oldest first. */
export function kvm_mmu_zap_all_fast(kvm: Kvm): void {
  const m = kvm.machine;
  enter(m, 'kvm_mmu_zap_all_fast', -1, null);
  emit(m, (o) =>
    o.event({
      kind: 'kvm_mmu_zap_all_fast',
      vcpu: -1,
      mmu_valid_gen: kvm.mmu_valid_gen,
      mmu_used_pages: kvm.n_used_mmu_pages,
    }),
  );
  kvm.mmu_valid_gen = kvm.mmu_valid_gen ? 0 : 1;
  if (m.tdpMmuEnabled) kvm_tdp_mmu_invalidate_all_roots(kvm);
  kvm_make_all_cpus_request(kvm, 'MMU_FREE_OBSOLETE_ROOTS');
  kvm_zap_obsolete_pages(kvm);
  if (m.tdpMmuEnabled) kvm_tdp_mmu_zap_invalidated_roots(kvm);
  leave(m);
}

function kvm_zap_obsolete_pages(kvm: Kvm): void {
  const m = kvm.machine;
  enter(m, 'kvm_zap_obsolete_pages', -1, null);
  const invalid: KvmMmuPage[] = [];
  for (const sp of [...kvm.active_mmu_pages]) {
    if (!is_obsolete_sp(kvm, sp)) break;
    if (role_get(sp.role, m.roles.invalid)) continue;
    __kvm_mmu_prepare_zap_page(kvm, sp, invalid, -1);
  }
  kvm_mmu_commit_zap_page(kvm, invalid);
  leave(m);
}

/** kvm_mmu_invalidate_mmio_sptes(): the generation wrapped as far as sptes store it, so old ones could match again. */
export function kvm_mmu_invalidate_mmio_sptes(kvm: Kvm, generation: number): void {
  const m = kvm.machine;
  const stored = m.spte.layout.mmio.genMask;
  enter(m, 'kvm_mmu_invalidate_mmio_sptes', -1, null);
  // Bit 0 of a generation only tells the address space (v5.0+).
  const counting = stored & ~(m.caps.addressSpaces - 1);
  if (stored !== 0 && (generation & counting) === 0) {
    m.warn(
      'the memslot generation wrapped: all shadow pages are zapped, so that no old MMIO spte matches the new generation',
    );
    kvm_mmu_zap_all_fast(kvm);
  }
  leave(m);
}

/** kvm_mmu_slot_apply_flags() (v6.1): only a change of flags on a writable slot does anything. */
export function kvm_mmu_slot_apply_flags(
  kvm: Kvm,
  old: KvmMemorySlot | null,
  fresh: KvmMemorySlot | null,
  change: string,
): void {
  if (change !== 'flags' || !old || !fresh || fresh.flags & KVM_MEM_READONLY) return;
  const was = old.flags & KVM_MEM_LOG_DIRTY_PAGES;
  const is = fresh.flags & KVM_MEM_LOG_DIRTY_PAGES;
  if (was === is) return;
  const m = kvm.machine;
  enter(m, 'kvm_mmu_slot_apply_flags', -1, fresh);
  if (is) slot_enable_log_dirty(kvm, fresh);
  else slot_disable_log_dirty(kvm, fresh);
  leave(m);
}

/** kvm_mmu_zap_all(): the VM goes; newest shadow pages first, then what the TDP MMU has. */
export function kvm_mmu_zap_all(kvm: Kvm): void {
  const m = kvm.machine;
  enter(m, 'kvm_mmu_zap_all', -1, null);
  const invalid: KvmMmuPage[] = [];
  for (;;) {
    // Zapping one page may zap others, so the list is read anew each time.
    const sp = [...kvm.active_mmu_pages].findLast((p) => !role_get(p.role, m.roles.invalid));
    if (!sp) break;
    __kvm_mmu_prepare_zap_page(kvm, sp, invalid, -1);
  }
  kvm_mmu_commit_zap_page(kvm, invalid);
  if (m.tdpMmuEnabled) for (const root of [...kvm.tdp_mmu_roots]) tdp_mmu_zap_root(kvm, root, false);
  leave(m);
}
