/**
 * KVM function names that can stand on a call stack, for function breakpoints and their completion.
 *
 * Facts: the call-order tables of the KVM MMU model (arch/x86/kvm and virt/kvm as of v3.6, v4.4, v4.19, v6.1 and v7.3, and
 * the twelfth posting of the SPP patch set). A name is listed under the kernels in which it was seen; a kernel between
 * two of them may have it or not, which is why a breakpoint on a doubtful name is set all the same. FNAME(x) of
 * paging_tmpl.h appears as its instantiations paging64_x, paging32_x and ept_x.
 */
import { type KernelVersion, compareKernels, parseKernel } from '../words/kernels';
import { suggestion } from '../words/suggest';

/** Names by the kernels they were seen in. */
const SEEN: Readonly<Record<string, string>> = {
  'spp-v12': `
    format_spp_spte handle_spp kvm_mmu_get_spp_page kvm_spp_get_page kvm_spp_mark_protection
    kvm_spp_set_permission kvm_spp_setup_structure kvm_spp_update_write_protect kvm_vm_ioctl_set_subpages
    link_spp_shadow_page mmu_free_root_page spp_flush_sppt
  `,
  'v3.6': `
    handle_mmio_page_fault_common
  `,
  'v3.6 v4.4': `
    quickly_check_mmio_pf walk_shadow_page_get_mmio_spte
  `,
  'v3.6 v4.4 v6.1': `
    handle_ept_misconfig vcpu_cache_mmio_info x86_emulate_instruction
  `,
  'v4.19 v6.1': `
    kvm_mmu_unprotect_gfn_and_retry kvm_mmu_unprotect_page kvm_mmu_write_protect_fault
  `,
  'v4.4': `
    __direct_map __kvm_unsync_page __rmap_clear_dirty __rmap_write_protect check_hugepage_cache_consistency
    check_memory_region_flags drop_large_spte emulator_write_emulated handle_exception handle_exit handle_set_cr0
    id_to_memslot init_kvm_mmu inject_page_fault install_new_memslots is_shadow_zero_bits_set
    kvm_arch_create_memslot kvm_create_dirty_bitmap kvm_handle_hva_range kvm_mmu_alloc_page kvm_mmu_free_page
    kvm_mmu_get_page kvm_mmu_invalidate_zap_all_pages kvm_mmu_new_cr3 kvm_queue_exception_e kvm_reload_remote_mmus
    kvm_unmap_hva_range kvm_unmap_rmapp kvm_unsync_pages kvm_vcpu_flush_tlb kvm_vcpu_write_guest mapping_level
    mmu_alloc_roots mmu_free_roots mmu_need_write_protect mmu_notifier_retry mmu_pte_write_flush_tlb
    mmu_pte_write_new_pte mmu_sync_roots need_remote_flush paging32_page_fault paging64_update_pte process_smi
    reset_rsvds_bits_mask set_spte spte_clear_dirty spte_write_protect tdp_page_fault transparent_hugepage_adjust
    try_async_pf update_last_pte_bitmap update_memslots vmx_enable_log_dirty_pt_masked vmx_flush_tlb write_emulate
  `,
  'v4.4 v4.19 v6.1 v7.3': `
    kvm_mmu_page_fault
  `,
  'v4.4 v6.1': `
    __gfn_to_pfn_memslot __kvm_set_memory_region check_mmio_spte detect_write_flooding detect_write_misaligned
    direct_pte_prefetch em_rsm emulator_read_emulated emulator_read_write emulator_read_write_onepage
    emulator_write_phys get_written_sptes handle_abnormal_pfn handle_cr handle_invlpg handle_mmio_page_fault
    init_kvm_softmmu init_kvm_tdp_mmu is_mmio_spte kvm_arch_commit_memory_region kvm_arch_flush_shadow_memslot
    kvm_arch_memslots_updated kvm_arch_mmu_enable_log_dirty_pt_masked kvm_arch_prepare_memory_region
    kvm_flush_remote_tlbs kvm_get_dirty_log_protect kvm_init_shadow_mmu kvm_inject_page_fault kvm_io_bus_write
    kvm_mmu_clear_dirty_pt_masked kvm_mmu_commit_zap_page kvm_mmu_invalidate_mmio_sptes kvm_mmu_invlpg
    kvm_mmu_load kvm_mmu_mark_parents_unsync kvm_mmu_notifier_invalidate_range_start kvm_mmu_prepare_zap_page
    kvm_mmu_pte_write kvm_mmu_reload kvm_mmu_reset_context kvm_mmu_slot_apply_flags kvm_mmu_sync_roots
    kvm_mmu_unload kvm_mmu_write_protect_pt_masked kvm_set_cr0 kvm_set_cr3 kvm_set_memory_region kvm_smm_changed
    kvm_vm_ioctl kvm_vm_ioctl_get_dirty_log kvm_vm_ioctl_set_memory_region kvm_zap_obsolete_pages link_shadow_page
    load_pdptrs make_mmu_pages_available mark_mmio_spte nonpaging_page_fault mmu_alloc_direct_roots mmu_alloc_shadow_roots mmu_page_zap_pte
    mmu_pte_write_fetch_gpte mmu_set_spte mmu_spte_update mmu_sync_children paging64_fetch paging64_gpte_changed
    paging64_invlpg paging64_is_self_change_mapping paging64_page_fault paging64_pte_prefetch
    paging64_update_accessed_dirty_bits paging64_walk_addr paging64_walk_addr_generic permission_fault
    pf_interception rmap_add update_permission_bitmask validate_direct_spte vcpu_enter_guest vcpu_mmio_gva_to_gpa
    vcpu_mmio_read vcpu_run vmx_handle_exit x86_emulate_insn
  `,
  'v4.4 v6.1 v7.3': `
    fast_page_fault handle_ept_violation mmu_topup_memory_caches
  `,
  'v6.1': `
    __handle_changed_spte __kvm_handle_hva_range __kvm_mmu_get_shadow_page __kvm_mmu_prepare_zap_page
    __link_shadow_page __rmap_add __vmx_handle_exit cached_root_find_and_keep_current
    cached_root_find_without_current complete_emulated_mmio direct_map direct_page_fault
    disallowed_hugepage_adjust fast_pf_fix_direct_spte fast_pgd_switch get_mmio_spte get_walk handle_exception_nmi
    handle_pml_full hva_to_pfn init_kvm_nested_mmu kvm_activate_memslot kvm_alloc_memslot_metadata
    kvm_arch_flush_remote_tlbs_memslot kvm_arch_sync_dirty_log kvm_arch_vcpu_ioctl_run kvm_calc_cpu_role
    kvm_calc_shadow_ept_root_page_role kvm_calc_tdp_mmu_root_page_role kvm_check_memslot_overlap
    kvm_commit_memory_region kvm_create_memslot kvm_delete_memslot kvm_emulate_instruction kvm_faultin_pfn
    kvm_handle_gfn_range kvm_handle_page_fault kvm_init_mmu kvm_init_shadow_ept_mmu kvm_inject_emulated_page_fault
    kvm_invalidate_memslot kvm_invalidate_pcid kvm_io_bus_read kvm_mmu_alloc_shadow_page kvm_mmu_child_role
    kvm_mmu_find_shadow_page kvm_mmu_free_roots kvm_mmu_get_child_sp kvm_mmu_get_shadow_page
    kvm_mmu_hugepage_adjust kvm_mmu_invalidate_begin kvm_mmu_invalidate_end kvm_mmu_invalidate_gva
    kvm_mmu_invalidate_zap_pages_in_memslot kvm_mmu_load_pgd kvm_mmu_max_mapping_level kvm_mmu_new_pgd
    kvm_mmu_page_unlink_children kvm_mmu_remote_flush_or_zap kvm_mmu_unlink_parents kvm_mmu_zap_all_fast
    kvm_move_memslot kvm_page_track_flush_slot kvm_page_track_write kvm_post_set_cr0 kvm_prepare_memory_region
    kvm_replace_memslot kvm_set_memslot kvm_swap_active_memslots kvm_tdp_mmu_get_vcpu_root_hpa
    kvm_tdp_mmu_get_walk kvm_tdp_mmu_invalidate_all_roots kvm_tdp_mmu_unmap_gfn_range
    kvm_tdp_mmu_zap_invalidated_roots kvm_translate_gpa kvm_unmap_gfn_range kvm_unsync_page
    kvm_update_flags_memslot kvm_vcpu_mark_page_dirty kvm_zap_rmap make_mmio_spte make_nonleaf_spte make_spte
    mark_page_dirty_in_slot mmio_info_in_cache mmu_alloc_root mmu_alloc_special_roots
    mmu_try_to_unsync_pages mmu_zap_unsync_children nested_ept_init_mmu_context nested_ept_inject_page_fault
    nested_svm_inject_npf_exit nested_svm_vmexit nested_vmx_load_cr3 nested_vmx_vmexit npf_interception
    paging64_prefetch_gpte pte_list_add reset_guest_paging_metadata reset_guest_rsvds_bits_mask
    reset_tdp_shadow_zero_bits_mask shadow_mmu_init_context svm_handle_exit svm_invoke_exit_handler
    tdp_mmu_alloc_sp tdp_mmu_init_child_sp tdp_mmu_link_sp tdp_mmu_map_handle_target_level tdp_mmu_set_spte_atomic
    tdp_mmu_zap_leafs tdp_mmu_zap_root update_pkru_bitmask vcpu_is_mmio_gpa vcpu_to_role_regs vmx_flush_pml_buffer
    vmx_flush_tlb_current vmx_flush_tlb_gva vmx_load_mmu_pgd walk_shadow_page_lockless_begin
    x86_decode_emulated_instruction
  `,
  'v6.1 v7.3': `
    enter_smm is_page_fault_stale kvm_mmu_do_page_fault kvm_tdp_mmu_map kvm_tdp_page_fault
    page_fault_handle_page_track
  `,
  'v7.3': `
    __kvm_mmu_faultin_pfn __vmx_handle_ept_violation emulator_leave_smm kvm_mmu_faultin_pfn
    kvm_mmu_finish_page_fault kvm_tdp_mmu_page_fault
  `,
};

/** The kernels whose names are known, with the first release that each speaks for. */
const SAMPLES: readonly (readonly [kernel: string, from: string, alsoSpeaks: readonly string[]])[] = [
  ['v7.3', 'v6.12', ['v6.1']],
  ['v6.1', 'v5.10', []],
  ['v4.19', 'v4.19', ['v4.4', 'v6.1']],
  ['v4.4', 'v4.2', []],
  ['v3.6', 'v3.1', ['v4.4']],
];

/** A KVM function and where it is known from. */
export interface KvmFunction {
  readonly name: string;
  /** kernels it was seen in */
  readonly kernels: readonly string[];
}

function expand(name: string): string[] {
  const m = /^paging(?:64|32)_(.*)$/.exec(name);
  return m ? [`paging64_${m[1]}`, `paging32_${m[1]}`, `ept_${m[1]}`] : [name];
}

/** Every function known, by name. */
export const KVM_FUNCTIONS: ReadonlyMap<string, KvmFunction> = (() => {
  const all = new Map<string, KvmFunction>();
  for (const [kernels, names] of Object.entries(SEEN)) {
    for (const name of names.trim().split(/\s+/).flatMap(expand)) {
      const seen = new Set([...(all.get(name)?.kernels ?? []), ...kernels.split(' ')]);
      all.set(name, { name, kernels: [...seen] });
    }
  }
  return all;
})();

/** Kernels whose names a kernel's functions are expected to have. */
function speakers(kernel: KernelVersion): readonly string[] {
  if (kernel.patchSet?.startsWith('spp')) return ['spp-v12', 'v4.19', 'v4.4', 'v6.1'];
  const sample = SAMPLES.find(([, from]) => compareKernels(kernel, { ...parseKernel(from), patch: 0 }) >= 0);
  return sample ? [sample[0], ...sample[2]] : [];
}

/** Names to offer for a kernel, in alphabetical order. */
export function functionNames(kernel: string): string[] {
  const spoken = speakers(parseKernel(kernel));
  return [...KVM_FUNCTIONS.values()]
    .filter((f) => f.kernels.some((k) => spoken.includes(k)))
    .map((f) => f.name)
    .sort();
}

/**
 * Why a function breakpoint of this name may never be hit under a kernel, as one sentence; null if the name is good.
 */
export function functionDoubt(name: string, kernel: string): string | null {
  const known = KVM_FUNCTIONS.get(name);
  const legal = functionNames(kernel);
  if (!known) return `'${name}' is not a KVM function that this debugger knows${suggestion(name, legal)}`;
  if (legal.includes(name)) return null;
  return `${name} is known from ${known.kernels.join(' and ')}, not from kernels like ${kernel}${suggestion(name, legal)}`;
}
