/**
 * The KVM functions that stand on the call stack, and what each kernel calls them.
 *
 * The model is written with the names of v6.1. A function that another kernel calls otherwise is shown under that kernel's name; one
 * that it does not have (its code stood in the caller, or the feature is newer) is not shown at all. The type {@link FrameName} is
 * made from the table, so a frame that is not in it does not compile.
 *
 * Facts: call-order tables of reference/kvm-mmu-model.md chapter 29 (v3.6, v4.4, v6.1.192, v7.3 and the twelfth posting of the SPP
 * patch set) and the function definitions in arch/x86/kvm and virt/kvm of v3.6, v4.7, v4.19, v5.8.18, v5.10, v5.15.85, v6.1.175 and
 * v6.8.12. Between two of those the release that renamed a function is from the kernel's change log as far as known; a name is then
 * off by a release or two at most.
 */
import { inRange, NEWEST_KERNEL, OLDEST_KERNEL, type KernelVersion } from '../words/kernels';
import type { FrameKind, FrameLocals, Observer } from './observer';

/**
 * Function of the model -> `KERNELS NAME?` by comma: the kernels (`v5.10..`, `..v4.4`, `v5.10..v5.15`, a patch set, `*` for all) and
 * their name for it, if it differs. The first row that fits counts; where none fits there is no frame. FNAME(x) stands for the three
 * instances of paging_tmpl.h; what follows `/` tells apart two places of one function that eras treat differently.
 */
export const FRAMES = {
  // ---- KVM_RUN ----
  kvm_arch_vcpu_ioctl_run: '*',
  complete_emulated_mmio: '..v3.6 complete_mmio, v3.7..',
  vcpu_run: '..v4.0 __vcpu_run, v4.1..',
  vcpu_enter_guest: '*',
  kvm_check_and_inject_events: 'v4.8..v6.0 inject_pending_event, v6.1..',
  'kvm_check_and_inject_events/exception': '..v6.0 inject_pending_event, v6.1..',
  kvm_inject_exception: 'v5.13..',
  process_smi: 'v4.8..',
  kvm_mmu_reload: '*',
  kvm_vcpu_flush_tlb_all: 'v3.19..v5.7 kvm_vcpu_flush_tlb, v5.8..',
  kvm_vcpu_flush_tlb_current: 'v5.8..',
  kvm_vcpu_flush_tlb_guest: 'v5.8..',
  vmx_flush_tlb_all: '..v5.7 vmx_flush_tlb, v5.8..',
  vmx_flush_tlb_current: '..v5.7 vmx_flush_tlb, v5.8..',
  vmx_flush_tlb_guest: '..v5.7 vmx_flush_tlb, v5.8..',
  vmx_flush_tlb_gva: 'v4.19..',
  svm_flush_tlb_all: '..v5.19 svm_flush_tlb, v6.0..',
  svm_flush_tlb_current: '..v5.19 svm_flush_tlb, v6.0..',
  svm_flush_tlb_guest: '..v5.19 svm_flush_tlb, v6.0.. svm_flush_tlb_asid',
  svm_flush_tlb_gva: 'v4.19..',
  kvm_vcpu_reset: '..v3.6 kvm_arch_vcpu_reset, v3.7..',
  kvm_destroy_vm: '*',
  kvm_arch_vcpu_destroy: '..v5.6 kvm_arch_vcpu_free, v5.7..',

  // ---- exits of Intel processors ----
  vmx_handle_exit: '*',
  __vmx_handle_exit: 'v5.12..',
  handle_ept_violation: '*',
  __vmx_handle_ept_violation: 'v6.16..',
  handle_ept_misconfig: '*',
  kvm_io_bus_write: 'v3.15..',
  handle_pml_full: 'v4.0..',
  vmx_flush_pml_buffer: 'v4.0..',
  kvm_vcpu_mark_page_dirty: 'v4.3..',
  mark_page_dirty_in_slot: '*',
  handle_exception_nmi: '..v5.2 handle_exception, v5.3..',
  handle_ud: 'v4.17..',
  handle_cr: '*',
  handle_set_cr0: '*',
  handle_set_cr4: '*',
  handle_invlpg: '*',
  handle_io: '*',
  handle_invalid_guest_state: '*',
  handle_spp: 'spp-rfc-2018, spp-v12',

  // ---- exits of AMD processors ----
  svm_handle_exit: '..v5.17 handle_exit, v5.18..',
  svm_invoke_exit_handler: 'v5.12..',
  npf_interception: '..v4.13 pf_interception, v4.14..',
  pf_interception: '*',
  ud_interception: '*',
  cr_interception: '*',
  invlpg_interception: '*',
  io_interception: '*',
  rsm_interception: 'v4.15..',

  // ---- registers ----
  kvm_set_cr0: '*',
  kvm_post_set_cr0: 'v5.13..',
  kvm_set_cr3: '*',
  kvm_set_cr4: '*',
  kvm_post_set_cr4: 'v5.13..',
  load_pdptrs: '*',
  kvm_invalidate_pcid: 'v5.15..',
  set_efer: '*',
  kvm_emulate_rdmsr: '..v5.4 handle_rdmsr, v5.5..',
  kvm_emulate_wrmsr: '..v5.4 handle_wrmsr, v5.5..',
  kvm_skip_emulated_instruction: '..v4.10 skip_emulated_instruction, v4.11..',

  // ---- contexts and roles ----
  kvm_mmu_after_set_cpuid: 'v5.14..',
  kvm_mmu_reset_context: '*',
  kvm_init_mmu: '..v4.18 init_kvm_mmu, v4.19..',
  kvm_calc_cpu_role: 'seed1, v4.20..v5.18 kvm_calc_mmu_role_common, v5.19..',
  init_kvm_tdp_mmu: '*',
  kvm_calc_tdp_mmu_root_page_role: 'v4.20..',
  init_kvm_softmmu: '*',
  kvm_init_shadow_mmu: '*',
  shadow_mmu_init_context: 'v5.10..',
  init_kvm_nested_mmu: '*',
  kvm_init_shadow_npt_mmu: '..v5.8 kvm_init_shadow_mmu, v5.9..',
  kvm_init_shadow_ept_mmu: 'v3.12..',
  kvm_calc_shadow_ept_root_page_role: 'v4.20..',
  reset_guest_paging_metadata: 'v5.15..',
  reset_guest_rsvds_bits_mask: '..v5.15 reset_rsvds_bits_mask, v5.16..',
  update_permission_bitmask: 'v3.7..',
  update_pkru_bitmask: 'v4.6..',
  reset_tdp_shadow_zero_bits_mask: 'v4.3..',
  reset_shadow_zero_bits_mask: 'v4.3..',

  // ---- roots ----
  kvm_mmu_load: '*',
  mmu_alloc_special_roots: 'v5.12..',
  mmu_alloc_roots: '..v5.11',
  mmu_alloc_direct_roots: '*',
  mmu_alloc_shadow_roots: '*',
  mmu_alloc_root: 'v5.8..',
  kvm_tdp_mmu_get_vcpu_root_hpa: 'v5.10..',
  kvm_mmu_sync_roots: '*',
  mmu_sync_roots: '..v4.18',
  kvm_mmu_load_pgd: 'v4.19..v5.6 kvm_mmu_load_cr3, v5.7..',
  vmx_load_mmu_pgd: '..v5.6 vmx_set_cr3, v5.7..',
  svm_load_mmu_pgd: '..v5.6 set_tdp_cr3, v5.7..',
  'svm_load_mmu_pgd/shadow': '..v5.6 svm_set_cr3, v5.7..',
  kvm_mmu_unload: '*',
  kvm_mmu_free_obsolete_roots: '..v5.17 kvm_mmu_unload, v5.18..',
  kvm_mmu_free_roots: '..v4.16 mmu_free_roots, v4.17..',
  mmu_free_root_page: 'v4.19..',
  kvm_tdp_mmu_put_root: 'v5.10..v5.11 kvm_tdp_mmu_free_root, v5.12..',
  kvm_mmu_new_pgd: '..v3.12 paging_new_cr3, v3.13..v5.6 kvm_mmu_new_cr3, v5.7..',
  fast_pgd_switch: 'v4.19..v5.6 fast_cr3_switch, v5.7..',
  cached_root_find_and_keep_current: 'v4.19..v5.17 cached_root_available, v5.18..',
  cached_root_find_without_current: 'v5.18..',

  // ---- page faults ----
  kvm_handle_page_fault: 'v4.13..',
  kvm_mmu_page_fault: '*',
  'kvm_mmu_page_fault/misconfig': 'v4.15..',
  'kvm_mmu_page_fault/stale': '..v4.14',
  kvm_mmu_do_page_fault: 'v5.6..',
  kvm_tdp_page_fault: '..v5.5 tdp_page_fault, v5.6..',
  'kvm_tdp_page_fault/mmio': '..v4.5 tdp_page_fault',
  nonpaging_page_fault: '*',
  'nonpaging_page_fault/mmio': '..v4.5',
  'FNAME(page_fault)': '*',
  'FNAME(page_fault)/mmio': '..v4.5',
  direct_page_fault: 'v5.6..',
  kvm_tdp_mmu_page_fault: 'v5.6..v6.2 direct_page_fault, v6.3..',
  page_fault_handle_page_track: 'v4.6..',
  fast_page_fault: 'v3.6..',
  fast_pf_fix_direct_spte: 'v3.6..',
  kvm_faultin_pfn: '..v5.14 try_async_pf, v5.15..v6.12, v6.13.. kvm_mmu_faultin_pfn',
  __kvm_faultin_pfn: 'v6.2..v6.12, v6.13.. __kvm_mmu_faultin_pfn',
  __gfn_to_pfn_memslot: '..v4.1 gfn_to_pfn_async, v4.2..v6.12, v6.13.. __kvm_faultin_pfn',
  hva_to_pfn: 'v3.6..',
  handle_abnormal_pfn: '..v6.2',
  kvm_handle_noslot_fault: '..v6.2 handle_abnormal_pfn, v6.3..',
  kvm_handle_error_pfn: '..v6.2 handle_abnormal_pfn, v6.3..',
  is_page_fault_stale: '..v5.15 mmu_notifier_retry, v5.16..',
  make_mmu_pages_available: '..v3.10 kvm_mmu_free_some_pages, v3.11..',
  kvm_mmu_write_protect_fault: 'v6.12..',
  kvm_mmu_unprotect_gfn_and_retry: 'v6.12..',
  kvm_mmu_unprotect_page: '..v6.11, v6.12.. __kvm_mmu_unprotect_gfn_and_retry',
  kvm_mmu_unprotect_page_virt: '..v6.11',
  kvm_mmu_hugepage_adjust: '..v5.5 transparent_hugepage_adjust, v5.6..',
  kvm_mmu_max_mapping_level: '..v5.5 mapping_level, v5.11..',

  // ---- mapping with the hash-table MMU ----
  direct_map: '..v6.1.175 __direct_map, v6.1.176..v6.1, v6.2 __direct_map, v6.3..',
  kvm_mmu_get_child_sp: 'v6.0..',
  kvm_mmu_get_shadow_page: '..v5.19 kvm_mmu_get_page, v6.0..',
  __kvm_mmu_get_shadow_page: 'v6.0..',
  kvm_mmu_find_shadow_page: 'v6.0..',
  kvm_mmu_alloc_shadow_page: '..v5.19 kvm_mmu_alloc_page, v6.0..',
  link_shadow_page: '*',
  __link_shadow_page: 'v6.0..',
  make_nonleaf_spte: 'v5.10..',
  mmu_set_spte: '*',
  set_spte: '..v5.15',
  make_spte: 'v5.10..',
  mmu_spte_update: 'v3.1..',
  rmap_add: '*',
  mark_mmio_spte: '*',
  make_mmio_spte: 'v5.5..',
  direct_pte_prefetch: '*',
  'FNAME(walk_addr)': '*',
  'FNAME(walk_addr_generic)': '*',
  'FNAME(update_accessed_dirty_bits)': 'v3.7..',
  'FNAME(is_self_change_mapping)': 'v3.9..v6.2',
  'FNAME(fetch)': '*',
  'FNAME(gpte_changed)': '*',
  'FNAME(pte_prefetch)': '*',
  'FNAME(prefetch_gpte)': 'v3.8..',
  'FNAME(update_pte)': '..v5.16',
  'FNAME(gva_to_gpa)': '*',
  nonpaging_gva_to_gpa: '*',
  translate_nested_gpa: '*',
  validate_direct_spte: '*',
  kvm_inject_emulated_page_fault: '..v5.7 inject_page_fault, v5.8..',
  kvm_inject_page_fault: '*',
  kvm_queue_exception_e: '..v4.20, v5.0.. kvm_queue_exception_e_p',

  // ---- write protection, unsync pages, sync, INVLPG ----
  account_shadowed: '*',
  mmu_try_to_unsync_pages: '..v5.14 mmu_need_write_protect, v5.15..',
  kvm_unsync_pages: '..v4.5',
  kvm_unsync_page: '..v4.5 __kvm_unsync_page, v4.6..',
  kvm_mmu_mark_parents_unsync: '*',
  mmu_sync_children: '*',
  kvm_sync_page: '*',
  'FNAME(sync_page)': '..v6.3, v6.4.. kvm_sync_page_check',
  kvm_mmu_invlpg: '*',
  kvm_mmu_invalidate_gva: 'v5.8..v6.3, v6.4.. kvm_mmu_invalidate_addr',
  'FNAME(invlpg)': '..v6.3',
  __kvm_mmu_invalidate_addr: 'v6.4..',
  kvm_mmu_pte_write: '..v6.5, v6.6.. kvm_mmu_track_write',
  mmu_pte_write_fetch_gpte: '*',
  kvm_mmu_remote_flush_or_zap: '..v4.5 mmu_pte_write_flush_tlb, v4.6..v5.0 kvm_mmu_flush_or_zap, v5.1..',

  // ---- zapping ----
  kvm_mmu_prepare_zap_page: 'v5.1..',
  __kvm_mmu_prepare_zap_page: '..v5.0 kvm_mmu_prepare_zap_page, v5.1..',
  mmu_zap_unsync_children: '*',
  kvm_mmu_page_unlink_children: '*',
  mmu_page_zap_pte: '*',
  kvm_mmu_unlink_parents: '*',
  kvm_mmu_commit_zap_page: '*',
  kvm_mmu_free_shadow_page: '..v5.19 kvm_mmu_free_page, v6.0..',
  kvm_mmu_zap_all_fast: '..v3.10 kvm_mmu_zap_all, v3.11..v5.3 kvm_mmu_invalidate_zap_all_pages, v5.4..',
  kvm_zap_obsolete_pages: 'v3.11..',
  kvm_mmu_zap_all: '..v3.10, v3.11..v5.0 kvm_mmu_invalidate_zap_all_pages, v5.1..',
  kvm_mmu_invalidate_mmio_sptes: 'v3.11..',
  kvm_flush_remote_tlbs: '*',

  // ---- TDP MMU ----
  kvm_tdp_mmu_map: 'v5.10..',
  tdp_mmu_alloc_sp: 'v5.10..v5.17 alloc_tdp_mmu_page, v5.18..',
  tdp_mmu_init_child_sp: 'v5.18..v6.1',
  tdp_mmu_link_sp: 'v5.14..v5.17 tdp_mmu_link_page, v5.18..',
  tdp_mmu_map_handle_target_level: 'v5.10..',
  tdp_mmu_set_spte: 'v5.10..',
  tdp_mmu_set_spte_atomic: 'v5.12..v5.17 tdp_mmu_set_spte_atomic_no_dirty_log, v5.18..',
  handle_changed_spte: 'v5.10..v6.3 __handle_changed_spte, v6.4..',
  handle_removed_pt: 'v5.12..v5.17 handle_removed_tdp_mmu_page, v5.18..',
  tdp_mmu_zap_spte_atomic: 'v5.12..',
  tdp_mmu_split_huge_page: 'v5.18..',
  kvm_tdp_mmu_try_split_huge_pages: 'v5.18..',
  kvm_tdp_mmu_invalidate_all_roots: 'v5.13..',
  kvm_tdp_mmu_zap_invalidated_roots: 'v5.13..',
  tdp_mmu_zap_root: 'v5.18..',
  kvm_tdp_mmu_unmap_gfn_range: 'v5.13..',
  tdp_mmu_zap_leafs: 'v5.10..v5.17 zap_gfn_range, v5.18..',
  kvm_tdp_mmu_clear_dirty_pt_masked: 'v5.10..',

  // ---- MMIO ----
  handle_mmio_page_fault: '..v4.3 handle_mmio_page_fault_common, v4.4..',
  mmio_info_in_cache: '..v4.4 quickly_check_mmio_pf, v4.5..',
  get_mmio_spte: '..v5.9 walk_shadow_page_get_mmio_spte, v5.10..',
  get_walk: 'v5.10..',
  kvm_tdp_mmu_get_walk: 'v5.10..',
  check_mmio_spte: 'v3.11..',
  vcpu_cache_mmio_info: '*',

  // ---- the emulator ----
  x86_emulate_instruction: '*',
  x86_decode_emulated_instruction: '..v5.12 x86_decode_insn, v5.13..',
  x86_emulate_insn: '*',
  handle_emulation_failure: '*',
  emulator_read_emulated: '*',
  emulator_write_emulated: '*',
  emulator_cmpxchg_emulated: '*',
  emulator_read_write: '*',
  emulator_read_write_onepage: '*',
  vcpu_is_mmio_gpa: 'v4.12..',
  vcpu_mmio_gva_to_gpa: '*',
  vcpu_mmio_read: '*',
  vcpu_mmio_write: '*',
  kvm_io_bus_read: '*',
  'kvm_io_bus_write/device': '*',
  write_emulate: '*',
  emulator_write_phys: '*',
  kvm_vcpu_write_guest: '..v4.2 kvm_write_guest, v4.3..',
  kvm_page_track_write: 'v4.6..',
  kvm_emulate_hypercall: '*',

  // ---- memslots ----
  kvm_vm_ioctl: '*',
  kvm_vm_ioctl_set_memory_region: '..v6.12',
  kvm_set_memory_region: '*',
  __kvm_set_memory_region: '..v6.12',
  kvm_set_memslot: 'v5.6..',
  kvm_invalidate_memslot: 'v5.17..',
  kvm_arch_flush_shadow_memslot: '..v3.6 kvm_arch_flush_shadow, v3.7..',
  kvm_page_track_flush_slot: 'v4.10..v6.5',
  kvm_mmu_invalidate_zap_pages_in_memslot: 'v4.10..v6.5',
  kvm_arch_flush_shadow_all: '..v3.6 kvm_arch_flush_shadow, v3.7..',
  kvm_prepare_memory_region: 'v5.17..',
  kvm_arch_prepare_memory_region: '*',
  kvm_alloc_memslot_metadata: '..v5.6 kvm_arch_create_memslot, v5.7..',
  kvm_create_memslot: 'v5.17..',
  kvm_delete_memslot: 'v5.17..',
  kvm_move_memslot: 'v5.17..',
  kvm_update_flags_memslot: 'v5.17..',
  kvm_replace_memslot: '..v5.16 update_memslots, v5.17..',
  kvm_activate_memslot: 'v5.17..',
  kvm_swap_active_memslots: 'v3.9..v5.16 install_new_memslots, v5.17..',
  kvm_arch_memslots_updated: 'v3.11..',
  kvm_commit_memory_region: 'v5.17..',
  kvm_arch_commit_memory_region: '*',
  kvm_mmu_slot_apply_flags: 'v4.0..',

  // ---- dirty logging ----
  kvm_vm_ioctl_get_dirty_log: '*',
  kvm_get_dirty_log_protect: 'v4.0..',
  kvm_vm_ioctl_clear_dirty_log: 'v5.0..',
  kvm_clear_dirty_log_protect: 'v5.0..',
  kvm_arch_sync_dirty_log: 'v5.7..',
  kvm_arch_mmu_enable_log_dirty_pt_masked: 'v4.0..',
  vmx_enable_log_dirty_pt_masked: 'v4.0..v5.11',
  kvm_mmu_write_protect_pt_masked: '*',
  kvm_mmu_clear_dirty_pt_masked: 'v4.0..',
  rmap_write_protect: '..v5.16 __rmap_write_protect, v5.17..',
  spte_write_protect: '*',
  __rmap_clear_dirty: 'v4.0..',
  spte_clear_dirty: 'v4.0..',
  kvm_mmu_slot_remove_write_access: '*',
  kvm_mmu_slot_leaf_clear_dirty: 'v4.0..',
  kvm_mmu_zap_collapsible_sptes: 'v4.2..v6.12, v6.13.. kvm_mmu_recover_huge_pages',
  kvm_arch_flush_remote_tlbs_memslot: 'v5.7..v6.5, v6.6.. kvm_flush_remote_tlbs_memslot',

  // ---- MMU notifier ----
  kvm_mmu_notifier_invalidate_range_start: '*',
  kvm_mmu_notifier_invalidate_range_end: '*',
  kvm_mmu_invalidate_begin: 'v5.12..v5.19 kvm_inc_notifier_count, v6.0..',
  kvm_mmu_invalidate_end: 'v5.12..v5.19 kvm_dec_notifier_count, v6.0..',
  __kvm_handle_hva_range:
    '..v3.6 kvm_unmap_hva, v3.7..v5.12 kvm_unmap_hva_range, v5.13..v6.6, v6.7.. kvm_handle_hva_range',
  kvm_unmap_gfn_range: '..v3.6 kvm_handle_hva, v3.7..v5.12 kvm_handle_hva_range, v5.13..',
  kvm_handle_gfn_range: 'v5.13..v6.12',
  kvm_zap_rmap: '..v5.16 kvm_unmap_rmapp, v5.17..',

  // ---- SMM ----
  enter_smm: 'v4.2..v4.7 process_smi, v4.8..',
  kvm_smm_changed: 'v4.2..',
  em_rsm: 'v4.2..',
  emulator_leave_smm: 'v6.2..',
  rsm_load_state_32: 'v4.2..',
  rsm_load_state_64: 'v4.2..',
  kvm_set_hflags: 'v4.2..v5.0',

  // ---- sub-page permissions ----
  kvm_vm_ioctl_set_subpages: 'spp-rfc-2018, spp-v12',
  kvm_vm_ioctl_get_subpages: 'spp-rfc-2018, spp-v12',
  kvm_spp_set_permission: 'spp-rfc-2018, spp-v12',
  kvm_spp_mark_protection: 'spp-rfc-2018, spp-v12',
  kvm_spp_update_write_protect: 'spp-rfc-2018, spp-v12',
  spp_flush_sppt: 'spp-rfc-2018, spp-v12',
  kvm_spp_setup_structure: 'spp-rfc-2018, spp-v12',
  kvm_spp_get_page: 'spp-rfc-2018 kvm_mmu_get_spp_page, spp-v12',
  link_spp_shadow_page: 'spp-rfc-2018, spp-v12',
  format_spp_spte: 'spp-rfc-2018, spp-v12',

  // ---- nested VMX ----
  handle_vmon: '..v5.15, v5.16.. handle_vmxon',
  handle_vmoff: '..v5.15, v5.16.. handle_vmxoff',
  handle_vmclear: '*',
  handle_vmptrld: '*',
  handle_vmptrst: '*',
  handle_vmread: '*',
  handle_vmwrite: '*',
  handle_vmlaunch: '*',
  handle_vmresume: '*',
  handle_invept: 'v3.12..',
  handle_invvpid: 'v4.4..',
  nested_vmx_run: '*',
  nested_vmx_enter_non_root_mode: 'v4.11..v4.20 enter_vmx_non_root_mode, v5.0..',
  prepare_vmcs02: '*',
  nested_ept_init_mmu_context: 'v3.12..',
  nested_vmx_load_cr3: 'v4.11..',
  nested_vmx_reflect_vmexit: '..v4.13 nested_vmx_exit_handled, v4.14..',
  nested_ept_inject_page_fault: 'v3.12..',
  nested_vmx_vmexit: '*',
  load_vmcs12_host_state: '*',
  nested_vmx_inject_exception_vmexit: 'v4.13..',

  // ---- nested SVM ----
  vmrun_interception: '*',
  vmload_interception: '*',
  vmsave_interception: '*',
  stgi_interception: '*',
  clgi_interception: '*',
  invlpga_interception: '*',
  nested_svm_vmrun: '*',
  enter_svm_guest_mode: 'v4.17..',
  nested_vmcb02_prepare_control: 'v5.8..v5.11 nested_prepare_vmcb_control, v5.12..',
  nested_vmcb02_prepare_save: 'v5.8..v5.11 nested_prepare_vmcb_save, v5.12..',
  nested_svm_init_mmu_context: '*',
  nested_svm_load_cr3: 'v5.9..',
  nested_svm_exit_handled: '*',
  nested_svm_inject_npf_exit: '*',
  nested_svm_vmexit: '*',
  nested_svm_inject_exception_vmexit: '..v5.7 nested_svm_check_exception, v5.8..',
} as const satisfies Readonly<Record<string, string>>;

type Instance = 'paging64' | 'paging32' | 'ept';
type Expand<K> = K extends `FNAME(${infer F})${infer Place}` ? `${Instance}_${F}${Place}` : K;
/** A frame of the model. */
export type FrameName = Expand<keyof typeof FRAMES>;

const INSTANCES: readonly Instance[] = ['paging64', 'paging32', 'ept'];

/** One row of the table, read. */
interface Row {
  /** patch set, or bounds of releases */
  readonly set: string | null;
  readonly from: string;
  readonly to: string;
  readonly name: string;
}

/** A function of the model with its names, oldest kernel first. */
export interface KvmFrame {
  readonly frame: FrameName;
  readonly rows: readonly Row[];
}

function readRows(frame: string, rows: string): Row[] {
  const own = frame.replace(/\/.*/, '');
  return rows.split(',').map((row) => {
    const [kernels, called = own] = row.trim().split(' ');
    const instance = INSTANCES.find((i) => own.startsWith(`${i}_`));
    const name = instance ? called.replace(/^FNAME\((\w+)\)/, `${instance}_$1`) : called;
    if (kernels === '*') return { set: null, from: OLDEST_KERNEL, to: NEWEST_KERNEL, name };
    if (!/^v\d|^\.\./.test(kernels)) return { set: kernels, from: '', to: '', name };
    const [from, to = from] = kernels.split('..');
    return { set: null, from: from || OLDEST_KERNEL, to: to || NEWEST_KERNEL, name };
  });
}

/** All frames of the model. */
export const KVM_FRAMES: readonly KvmFrame[] = Object.entries(FRAMES).flatMap(([key, rows]) => {
  const m = /^FNAME\((\w+)\)(.*)$/.exec(key);
  const frames = m ? INSTANCES.map((i) => `${i}_${m[1]}${m[2]}`) : [key];
  return frames.map((frame) => ({ frame: frame as FrameName, rows: readRows(frame, rows) }));
});

const fits = (row: Row, kernel: KernelVersion): boolean =>
  row.set === null ? inRange(kernel, row) : row.set === kernel.patchSet;

const byKernel = new Map<string, ReadonlyMap<FrameName, string>>();

/** What a kernel calls each frame that it has. */
export function frameNames(kernel: KernelVersion): ReadonlyMap<FrameName, string> {
  const known = byKernel.get(kernel.name);
  if (known) return known;
  const names = new Map<FrameName, string>();
  for (const { frame, rows } of KVM_FRAMES) {
    const row = rows.find((r) => fits(r, kernel));
    if (row) names.set(frame, row.name);
  }
  byKernel.set(kernel.name, names);
  return names;
}

/** Tells a listener of the frames under their kernel's names, and keeps those from it that the kernel does not have. */
export class KernelFrames {
  /** whether each open frame was told of, innermost last */
  private readonly told: boolean[] = [];

  constructor(private readonly kernel: KernelVersion) {}

  enter(o: Observer, kind: FrameKind, frame: FrameName, vcpu: number, locals: FrameLocals): void {
    const name = frameNames(this.kernel).get(frame);
    this.told.push(name !== undefined);
    if (name !== undefined) o.enter(kind, name, vcpu, locals);
  }

  leave(o: Observer): void {
    if (this.told.pop() !== false) o.leave();
  }
}
