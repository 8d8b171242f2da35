/**
 * The call stack at the interesting moment of each flow, in the kernels whose call orders are known
 * (reference/kvm-mmu-model.md chapter 29, 3.12 and 4.4).
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import type { KvmEvent } from '../kvm/events';
import { frameNames } from '../kvm/functions';
import type { Observer } from '../kvm/observer';
import { parseKernel } from '../words/kernels';
import { Interpreter } from './interpreter';
import { program } from './testing/helpers';

/** Every stack of a run, by what was innermost: a function's name, or an event's kind. */
function stacksOf(text: string): Map<string, Set<string>> {
  const interpreter = new Interpreter(program(text));
  const found = new Map<string, Set<string>>();
  const open: (string | null)[] = [];
  const note = (what: string): void => {
    const stack = open.filter((n) => n !== null).join(' → ');
    let set = found.get(what);
    if (!set) found.set(what, (set = new Set()));
    set.add(stack);
  };
  const observer: Observer = {
    enter(kind, name) {
      open.push(kind === 'kvm' ? name : null);
      if (kind === 'kvm') note(name);
    },
    leave: () => void open.pop(),
    read: () => {},
    event: (e: KvmEvent) => note(`event ${e.kind}`),
  };
  interpreter.machine.observer = observer;
  while (!interpreter.done) {
    const { error } = interpreter.step();
    if (error !== null) assert.fail(error);
    assert.deepEqual(open, [], 'every frame that is entered is left');
  }
  return found;
}

/** Asserts that a stack was seen. It is written from the outside in, as the tables of the reference are. */
function saw(stacks: ReadonlyMap<string, ReadonlySet<string>>, expected: string, what?: string): void {
  const inner = what ?? expected.split(' → ').at(-1) ?? '';
  const seen = [...(stacks.get(inner) ?? [])];
  assert.ok(
    seen.some((s) => s.endsWith(expected)),
    `at ${inner}\n  expected … ${expected}\n  saw ${seen.join('\n      ') || 'nothing'}`,
  );
}

/** A 64-bit guest that touches memory, a device, and its own tables. */
const guest = (kernel: string, settings = ''): string => `machine {
  kernel ${kernel}
  ${settings}
}
backing low 2M
backing data 2M
memslot add id 0 gpa 0 size 2M host low
memslot add id 1 gpa 2M size 2M host data
vcpu 0 { cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE }
tables at 0x10000
map 0 -> 0 W count 64
map 0x200000 -> 0x200000 W count 16
map 0x300000 -> 0x10000000 W
load 4 [0x1000]
load 4 [0x300000]
load 4 [0x300008]
store 4 [0x300010] = 1
`;

describe('call stacks', () => {
  describe('EPT violation', () => {
    it('v6.1: the TDP MMU', () => {
      const s = stacksOf(guest('v6.1'));
      const outer =
        'kvm_arch_vcpu_ioctl_run → vcpu_run → vcpu_enter_guest → vmx_handle_exit → __vmx_handle_exit → handle_ept_violation → kvm_mmu_page_fault → kvm_mmu_do_page_fault → kvm_tdp_page_fault → direct_page_fault';
      for (const inner of [
        'page_fault_handle_page_track',
        'fast_page_fault',
        'kvm_faultin_pfn → __gfn_to_pfn_memslot → hva_to_pfn',
        'is_page_fault_stale',
        'kvm_tdp_mmu_map → kvm_mmu_hugepage_adjust → kvm_mmu_max_mapping_level',
        'kvm_tdp_mmu_map → tdp_mmu_alloc_sp',
        'kvm_tdp_mmu_map → tdp_mmu_init_child_sp',
        'kvm_tdp_mmu_map → tdp_mmu_link_sp → tdp_mmu_set_spte_atomic → __handle_changed_spte',
        'kvm_tdp_mmu_map → tdp_mmu_map_handle_target_level → make_spte',
        'kvm_tdp_mmu_map → tdp_mmu_map_handle_target_level → make_mmio_spte',
        'handle_abnormal_pfn → vcpu_cache_mmio_info',
      ])
        saw(s, `${outer} → ${inner}`);
    });

    it('v6.1: the hash-table MMU', () => {
      const s = stacksOf(guest('v6.1', 'tdp_mmu off'));
      const outer = 'kvm_tdp_page_fault → direct_page_fault';
      for (const inner of [
        'make_mmu_pages_available',
        'direct_map → kvm_mmu_hugepage_adjust',
        'direct_map → kvm_mmu_get_child_sp → kvm_mmu_get_shadow_page → __kvm_mmu_get_shadow_page → kvm_mmu_find_shadow_page',
        'direct_map → kvm_mmu_get_child_sp → kvm_mmu_get_shadow_page → __kvm_mmu_get_shadow_page → kvm_mmu_alloc_shadow_page',
        'direct_map → link_shadow_page → __link_shadow_page → make_nonleaf_spte',
        'direct_map → mmu_set_spte → make_spte',
        'direct_map → mmu_set_spte → rmap_add',
        'direct_map → mmu_set_spte → mark_mmio_spte → make_mmio_spte',
        'direct_map → direct_pte_prefetch',
      ])
        saw(s, `${outer} → ${inner}`);
    });

    it('v4.4', () => {
      const s = stacksOf(guest('v4.4'));
      const outer =
        'vcpu_run → vcpu_enter_guest → vmx_handle_exit → handle_ept_violation → kvm_mmu_page_fault → tdp_page_fault';
      for (const inner of [
        'fast_page_fault',
        'try_async_pf → __gfn_to_pfn_memslot',
        'handle_abnormal_pfn',
        'mmu_notifier_retry',
        'make_mmu_pages_available',
        '__direct_map → kvm_mmu_get_page → kvm_mmu_alloc_page',
        '__direct_map → link_shadow_page',
        '__direct_map → mmu_set_spte → set_spte → mmu_spte_update',
        '__direct_map → mmu_set_spte → rmap_add',
        '__direct_map → direct_pte_prefetch',
        '__direct_map → mmu_set_spte → mark_mmio_spte',
      ])
        saw(s, `${outer} → ${inner}`);
    });

    it('v7.3', () => {
      const s = stacksOf(guest('v7.3'));
      const outer =
        'handle_ept_violation → __vmx_handle_ept_violation → kvm_mmu_page_fault → kvm_mmu_do_page_fault → kvm_tdp_page_fault → kvm_tdp_mmu_page_fault';
      for (const inner of ['fast_page_fault', 'kvm_mmu_faultin_pfn → __kvm_mmu_faultin_pfn', 'kvm_tdp_mmu_map'])
        saw(s, `${outer} → ${inner}`);
    });
  });

  describe('NPF', () => {
    it('v6.1', () => {
      const s = stacksOf(guest('v6.1', 'vendor amd'));
      saw(
        s,
        'vcpu_enter_guest → svm_handle_exit → svm_invoke_exit_handler → npf_interception → kvm_mmu_page_fault → kvm_mmu_do_page_fault → kvm_tdp_page_fault → direct_page_fault',
      );
      saw(s, 'npf_interception → kvm_mmu_page_fault → handle_mmio_page_fault');
    });
    it('v4.4', () => {
      const s = stacksOf(guest('v4.4', 'vendor amd'));
      saw(s, 'vcpu_enter_guest → handle_exit → pf_interception → kvm_mmu_page_fault → tdp_page_fault → __direct_map');
      saw(s, 'pf_interception → kvm_mmu_page_fault → tdp_page_fault → handle_mmio_page_fault');
    });
  });

  describe('MMIO', () => {
    it('v3.6: the caching of seed 2', () => {
      const s = stacksOf(guest('v3.6'));
      saw(s, 'vmx_handle_exit → handle_ept_misconfig → handle_mmio_page_fault_common → quickly_check_mmio_pf');
      saw(s, 'handle_ept_misconfig → x86_emulate_instruction');
    });
    it('v4.4', () => {
      const s = stacksOf(
        guest('v4.4', 'vendor intel') + 'wrmsr EFER, LME|LMA|NXE\nload 4 [0x2000]\nload 4 [0x300000]\n',
      );
      for (const inner of ['kvm_io_bus_write', 'handle_mmio_page_fault → quickly_check_mmio_pf'])
        saw(s, `handle_ept_misconfig → ${inner}`);
      saw(
        s,
        'handle_ept_misconfig → x86_emulate_instruction → x86_emulate_insn → emulator_read_emulated → emulator_read_write → emulator_read_write_onepage → vcpu_mmio_read',
      );
    });
    it('v4.4: an entry of an old generation', () => {
      const s = stacksOf(guest('v4.4') + 'memslot add id 2 gpa 32M size 4K host data\nload 4 [0x300000]\n');
      saw(
        s,
        'handle_ept_misconfig → kvm_mmu_page_fault → tdp_page_fault → __direct_map → mmu_set_spte → mark_mmio_spte',
      );
    });
    it('v6.1', () => {
      const s = stacksOf(guest('v6.1'));
      saw(s, 'handle_ept_misconfig → kvm_io_bus_write');
      saw(s, 'handle_ept_misconfig → kvm_mmu_page_fault → handle_mmio_page_fault → mmio_info_in_cache');
      const emulator = 'kvm_mmu_page_fault → x86_emulate_instruction → x86_emulate_insn';
      saw(
        s,
        `${emulator} → emulator_read_emulated → emulator_read_write → emulator_read_write_onepage → vcpu_mmio_read → kvm_io_bus_read`,
      );
      saw(
        s,
        `${emulator} → emulator_write_emulated → emulator_read_write → emulator_read_write_onepage → vcpu_mmio_write → kvm_io_bus_write`,
      );
      saw(s, 'kvm_arch_vcpu_ioctl_run → complete_emulated_mmio → x86_emulate_insn');
    });
    it('v6.1: the entry says what the vCPU has forgotten', () => {
      const s = stacksOf(guest('v6.1') + 'map 0x301000 -> 0x10001000 W\nload 4 [0x301000]\nload 4 [0x300000]\n');
      const outer = 'kvm_mmu_page_fault → handle_mmio_page_fault';
      for (const inner of ['get_mmio_spte → kvm_tdp_mmu_get_walk', 'check_mmio_spte', 'vcpu_cache_mmio_info'])
        saw(s, `${outer} → ${inner}`);
    });
  });

  describe('shadow paging', () => {
    // The guest writes a leaf table of its own (unsync), flushes, reloads CR3 (sync), edits an upper table, and faults.
    const edits = `map 0x201000 -> 0x201000 W
store 4 [0x201000] = 1
mov cr3, 0x10000
store 4 [0x201000] = 1
store 8 [0x13008] = 0x1003
invlpg [0x1000]
load 4 [0x1000]
store 8 [0x13010] = 0x2003
mov cr3, 0x10000
load 4 [0x2000]
store 8 [0x12000] = 0x13003
load 4 [0x31000000]
`;
    const shadow = (kernel: string): Map<string, Set<string>> => stacksOf(guest(kernel, 'paging shadow') + edits);

    it('v6.1: the fault', () => {
      const s = shadow('v6.1');
      const outer =
        '__vmx_handle_exit → handle_exception_nmi → kvm_handle_page_fault → kvm_mmu_page_fault → kvm_mmu_do_page_fault → paging64_page_fault';
      for (const inner of [
        'paging64_walk_addr → paging64_walk_addr_generic → paging64_update_accessed_dirty_bits',
        'page_fault_handle_page_track',
        'paging64_is_self_change_mapping',
        'kvm_faultin_pfn',
        'make_mmu_pages_available',
        'is_page_fault_stale',
        'paging64_fetch → paging64_gpte_changed',
        'paging64_fetch → kvm_mmu_get_child_sp → kvm_mmu_get_shadow_page',
        'paging64_fetch → link_shadow_page',
        'paging64_fetch → mmu_set_spte → make_spte → mmu_try_to_unsync_pages → kvm_unsync_page → kvm_mmu_mark_parents_unsync',
        'paging64_fetch → paging64_pte_prefetch',
        'kvm_inject_emulated_page_fault → kvm_inject_page_fault → kvm_queue_exception_e_p',
      ])
        saw(s, `${outer} → ${inner}`);
    });

    it('v4.4: the fault', () => {
      const s = shadow('v4.4');
      const outer = 'vmx_handle_exit → handle_exception → kvm_mmu_page_fault → paging64_page_fault';
      for (const inner of [
        'paging64_walk_addr → paging64_walk_addr_generic',
        'try_async_pf',
        'paging64_fetch → kvm_mmu_get_page',
        'paging64_fetch → mmu_set_spte → set_spte → mmu_need_write_protect → kvm_unsync_pages → __kvm_unsync_page → kvm_mmu_mark_parents_unsync',
        'inject_page_fault → kvm_inject_page_fault → kvm_queue_exception_e',
      ])
        saw(s, `${outer} → ${inner}`);
    });

    it('INVLPG', () => {
      const now = shadow('v6.1');
      saw(now, 'handle_invlpg → kvm_mmu_invlpg → kvm_mmu_invalidate_gva → vmx_flush_tlb_gva');
      saw(now, 'kvm_mmu_invalidate_gva → paging64_invlpg → mmu_page_zap_pte');
      saw(now, 'kvm_mmu_invalidate_gva → paging64_invlpg → paging64_prefetch_gpte');
      const then = shadow('v4.4');
      saw(then, 'handle_invlpg → kvm_mmu_invlpg → paging64_invlpg → mmu_page_zap_pte');
      saw(then, 'paging64_invlpg → paging64_update_pte → paging64_prefetch_gpte');
      saw(shadow('v6.12'), 'kvm_mmu_invlpg → kvm_mmu_invalidate_addr → __kvm_mmu_invalidate_addr');
    });

    it('CR3', () => {
      const now = shadow('v6.1');
      saw(now, 'handle_cr → kvm_set_cr3 → kvm_invalidate_pcid');
      saw(now, 'vcpu_enter_guest → kvm_mmu_sync_roots → mmu_sync_children → kvm_sync_page → paging64_sync_page');
      saw(now, 'vcpu_enter_guest → kvm_mmu_reload → kvm_mmu_load → mmu_alloc_shadow_roots → mmu_alloc_root');
      saw(now, 'kvm_mmu_load → kvm_mmu_load_pgd → vmx_load_mmu_pgd');
      saw(now, 'kvm_mmu_load → vmx_flush_tlb_current');
      const then = shadow('v4.4');
      saw(then, 'kvm_mmu_sync_roots → mmu_sync_roots → mmu_sync_children');
      saw(then, 'vcpu_enter_guest → kvm_mmu_reload → kvm_mmu_load → mmu_alloc_roots → mmu_alloc_shadow_roots');
      const switched = guest('v6.1', 'paging shadow') + 'qword 0x18000 = 0x11003\nmov cr3, 0x18000\nload 4 [0x1000]\n';
      const s = stacksOf(switched);
      saw(s, 'kvm_set_cr3 → kvm_mmu_new_pgd → fast_pgd_switch → cached_root_find_and_keep_current');
      const old = stacksOf(switched.replace('v6.1', 'v4.4'));
      saw(old, 'handle_cr → kvm_set_cr3 → kvm_mmu_new_cr3');
    });

    it('an emulated write to a guest table', () => {
      const now = shadow('v6.1');
      const emulator =
        'x86_emulate_insn → emulator_write_emulated → emulator_read_write → emulator_read_write_onepage → write_emulate → emulator_write_phys';
      saw(now, `${emulator} → kvm_page_track_write → kvm_mmu_pte_write → mmu_pte_write_fetch_gpte`);
      saw(now, 'kvm_mmu_pte_write → kvm_mmu_remote_flush_or_zap');
      const then = shadow('v4.4');
      saw(then, `${emulator} → kvm_vcpu_write_guest`);
      saw(then, `${emulator} → kvm_mmu_pte_write → mmu_pte_write_flush_tlb`);
      saw(shadow('v6.12'), `${emulator} → kvm_page_track_write → kvm_mmu_track_write`);
    });
  });

  describe('contexts', () => {
    const wp = 'mov cr0, PG|NE|ET|PE\nload 4 [0x1000]\n';
    it('v6.1', () => {
      const s = stacksOf(guest('v6.1.0', 'paging shadow') + wp);
      const outer = 'handle_cr → handle_set_cr0 → kvm_set_cr0 → kvm_post_set_cr0 → kvm_mmu_reset_context';
      saw(s, `${outer} → kvm_mmu_unload → kvm_mmu_free_roots`);
      saw(s, `${outer} → kvm_init_mmu → kvm_calc_cpu_role`);
      const init = `${outer} → kvm_init_mmu → init_kvm_softmmu → kvm_init_shadow_mmu → shadow_mmu_init_context`;
      saw(s, `${init} → reset_guest_paging_metadata → reset_guest_rsvds_bits_mask`);
      saw(s, `${init} → reset_guest_paging_metadata → update_permission_bitmask`);
      saw(s, `${init} → reset_shadow_zero_bits_mask`);
    });
    it('seed 1: each context computes its cpu_role', () => {
      const s = stacksOf(guest('seed1') + 'mov cr4, PAE|SMEP\nload 4 [0x1000]\n');
      saw(s, 'kvm_init_mmu → init_kvm_tdp_mmu → kvm_calc_cpu_role');
      saw(s, 'kvm_init_mmu → init_kvm_tdp_mmu → kvm_calc_tdp_mmu_root_page_role');
    });
    it('v4.4', () => {
      const s = stacksOf(guest('v4.4', 'paging shadow') + wp);
      const outer = 'handle_cr → handle_set_cr0 → kvm_set_cr0 → kvm_mmu_reset_context';
      saw(s, `${outer} → kvm_mmu_unload → mmu_free_roots`);
      saw(s, `${outer} → init_kvm_mmu → init_kvm_softmmu → kvm_init_shadow_mmu → reset_rsvds_bits_mask`);
    });
  });

  describe('memslots', () => {
    const changes = `memslot move id 1 gpa 4M
memslot flags id 0 LOG_DIRTY_PAGES
memslot delete id 1
load 4 [0x2000]
`;
    it('v6.1', () => {
      const s = stacksOf(guest('v6.1') + changes);
      const outer =
        'kvm_vm_ioctl → kvm_vm_ioctl_set_memory_region → kvm_set_memory_region → __kvm_set_memory_region → kvm_set_memslot';
      for (const inner of [
        'kvm_invalidate_memslot → kvm_swap_active_memslots → kvm_arch_memslots_updated → kvm_mmu_invalidate_mmio_sptes',
        'kvm_invalidate_memslot → kvm_arch_flush_shadow_memslot → kvm_page_track_flush_slot → kvm_mmu_invalidate_zap_pages_in_memslot → kvm_mmu_zap_all_fast → kvm_tdp_mmu_invalidate_all_roots',
        'kvm_prepare_memory_region → kvm_arch_prepare_memory_region → kvm_alloc_memslot_metadata',
        'kvm_create_memslot → kvm_replace_memslot',
        'kvm_move_memslot → kvm_activate_memslot → kvm_swap_active_memslots',
        'kvm_update_flags_memslot → kvm_replace_memslot',
        'kvm_delete_memslot → kvm_replace_memslot',
        'kvm_commit_memory_region → kvm_arch_commit_memory_region → kvm_mmu_slot_apply_flags',
      ])
        saw(s, `${outer} → ${inner}`);
      saw(s, 'kvm_mmu_zap_all_fast → kvm_tdp_mmu_zap_invalidated_roots → tdp_mmu_zap_root');
    });
    it('v4.4', () => {
      const s = stacksOf(guest('v4.4') + changes);
      const outer = 'kvm_set_memory_region → __kvm_set_memory_region';
      for (const inner of [
        'kvm_arch_flush_shadow_memslot → kvm_mmu_invalidate_zap_all_pages → kvm_zap_obsolete_pages → kvm_mmu_prepare_zap_page',
        'kvm_zap_obsolete_pages → kvm_mmu_commit_zap_page → kvm_mmu_free_page',
        'install_new_memslots → kvm_arch_memslots_updated → kvm_mmu_invalidate_mmio_sptes',
        'update_memslots',
        'kvm_arch_prepare_memory_region → kvm_arch_create_memslot',
        'kvm_arch_commit_memory_region → kvm_mmu_slot_apply_flags',
      ])
        saw(s, inner.startsWith('kvm_zap') ? inner : `${outer} → ${inner}`);
    });
  });

  describe('dirty log', () => {
    const log = `memslot flags id 0 LOG_DIRTY_PAGES
store 4 [0x3000] = 1
store 4 [0x4000] = 1
dirty_log get id 0
store 4 [0x3000] = 2
dirty_log get id 0
`;
    it('v6.1: GET, and the next write', () => {
      const s = stacksOf(guest('v6.1') + log);
      const outer = 'kvm_vm_ioctl → kvm_vm_ioctl_get_dirty_log → kvm_get_dirty_log_protect';
      saw(s, `${outer} → kvm_arch_sync_dirty_log`);
      saw(
        s,
        `${outer} → kvm_arch_mmu_enable_log_dirty_pt_masked → kvm_mmu_write_protect_pt_masked → kvm_tdp_mmu_clear_dirty_pt_masked`,
      );
      saw(s, `${outer} → kvm_arch_flush_remote_tlbs_memslot → kvm_flush_remote_tlbs`);
      saw(s, 'fast_page_fault → fast_pf_fix_direct_spte → mark_page_dirty_in_slot');
    });
    it('v4.4: GET', () => {
      const s = stacksOf(guest('v4.4') + log);
      saw(
        s,
        'kvm_vm_ioctl_get_dirty_log → kvm_get_dirty_log_protect → kvm_arch_mmu_enable_log_dirty_pt_masked → kvm_mmu_write_protect_pt_masked → __rmap_write_protect → spte_write_protect',
      );
      saw(s, 'kvm_get_dirty_log_protect → kvm_flush_remote_tlbs');
    });
    it('PML', () => {
      const now = stacksOf(guest('v6.1', 'pml on') + log);
      saw(now, 'vmx_flush_pml_buffer → kvm_vcpu_mark_page_dirty → mark_page_dirty_in_slot');
      saw(now, 'kvm_arch_mmu_enable_log_dirty_pt_masked → kvm_mmu_clear_dirty_pt_masked');
      const then = stacksOf(guest('v4.4', 'pml on') + log);
      saw(
        then,
        'kvm_arch_mmu_enable_log_dirty_pt_masked → vmx_enable_log_dirty_pt_masked → kvm_mmu_clear_dirty_pt_masked → __rmap_clear_dirty → spte_clear_dirty',
      );
    });
    it('CLEAR', () => {
      const s = stacksOf(guest('v6.1', 'dirty_log manual-protect') + log + 'dirty_log clear id 0\n');
      saw(s, 'kvm_vm_ioctl_clear_dirty_log → kvm_clear_dirty_log_protect → kvm_arch_mmu_enable_log_dirty_pt_masked');
    });
  });

  it('MMU notifier', () => {
    const text = 'load 4 [0x2000]\ninvalidate low+8K size 4K\n';
    const now = stacksOf(guest('v6.1') + text);
    saw(now, 'kvm_mmu_notifier_invalidate_range_start → kvm_mmu_invalidate_begin');
    saw(
      now,
      'kvm_mmu_notifier_invalidate_range_start → __kvm_handle_hva_range → kvm_unmap_gfn_range → kvm_tdp_mmu_unmap_gfn_range → tdp_mmu_zap_leafs',
    );
    saw(now, 'kvm_mmu_notifier_invalidate_range_end → kvm_mmu_invalidate_end');
    const rmap = stacksOf(guest('v6.1', 'tdp_mmu off') + text);
    saw(rmap, 'kvm_unmap_gfn_range → kvm_handle_gfn_range → kvm_zap_rmap');
    const then = stacksOf(guest('v4.4') + text);
    saw(then, 'kvm_mmu_notifier_invalidate_range_start → kvm_unmap_hva_range → kvm_handle_hva_range → kvm_unmap_rmapp');
    saw(then, 'kvm_mmu_notifier_invalidate_range_start → kvm_flush_remote_tlbs');
  });

  describe('SMM', () => {
    const smm = (kernel: string): Map<string, Set<string>> =>
      stacksOf(
        guest(kernel).replace('vcpu 0', 'memslot add as 1 id 0 gpa 0 size 2M host low\nvcpu 0') +
          'smi\nnop\nrsm\nnop\n',
      );
    it('v6.1', () => {
      const s = smm('v6.1');
      const entry = 'vcpu_enter_guest → kvm_check_and_inject_events → enter_smm';
      saw(s, 'vcpu_enter_guest → process_smi');
      saw(s, `${entry} → kvm_smm_changed → kvm_mmu_reset_context → kvm_mmu_unload → kvm_mmu_free_roots`);
      saw(s, `${entry} → kvm_smm_changed → kvm_mmu_reset_context → kvm_init_mmu → init_kvm_tdp_mmu`);
      saw(s, `${entry} → kvm_vcpu_write_guest`);
      saw(s, 'x86_emulate_insn → em_rsm → kvm_smm_changed → kvm_mmu_reset_context');
      saw(s, 'em_rsm → rsm_load_state_64');
    });
    it('v4.4', () => {
      const s = smm('v4.4');
      saw(s, 'vcpu_enter_guest → process_smi → kvm_vcpu_write_guest');
      saw(s, 'vcpu_enter_guest → process_smi → kvm_mmu_reset_context → kvm_mmu_unload → mmu_free_roots');
      saw(s, 'kvm_mmu_reset_context → init_kvm_mmu → init_kvm_tdp_mmu');
      saw(s, 'em_rsm → rsm_load_state_64');
      saw(s, 'em_rsm → kvm_set_hflags → kvm_smm_changed → kvm_mmu_reset_context');
    });
    it('v6.12', () => saw(smm('v6.12'), 'em_rsm → emulator_leave_smm → kvm_smm_changed'));
  });

  describe('sub-page permissions', () => {
    const text = 'subpages set gfn 5 access 0xfffffffe\nstore 4 [0x5080] = 1\nstore 4 [0x5000] = 1\nexpect end spp\n';
    it('v12', () => {
      const s = stacksOf(guest('spp-v12') + text);
      saw(s, 'kvm_vm_ioctl → kvm_vm_ioctl_set_subpages → kvm_spp_set_permission → spp_flush_sppt');
      saw(s, 'handle_spp → kvm_spp_setup_structure → kvm_spp_get_page');
      saw(s, 'handle_spp → kvm_spp_setup_structure → link_spp_shadow_page');
      saw(s, 'handle_spp → kvm_spp_setup_structure → format_spp_spte');
      saw(
        s,
        'handle_ept_violation → kvm_mmu_page_fault → kvm_mmu_do_page_fault → kvm_tdp_page_fault → direct_page_fault → fast_page_fault',
        'event kvm_spp_induced_page_fault',
      );
      const mapped = stacksOf(guest('spp-v12') + 'store 4 [0x5000] = 1\n' + text);
      saw(mapped, 'kvm_spp_set_permission → kvm_spp_mark_protection → kvm_spp_update_write_protect');
    });
    it('the RFC of 2018', () => {
      const s = stacksOf(guest('spp-rfc-2018') + text);
      saw(s, 'kvm_mmu_load → mmu_alloc_roots → mmu_alloc_direct_roots → kvm_mmu_get_spp_page');
      const gone = stacksOf(guest('spp-rfc-2018') + 'memslot delete id 1\nload 4 [0x1000]\n');
      saw(gone, 'kvm_mmu_free_roots → mmu_free_root_page');
    });
  });
});

describe('call stacks of nested guests', () => {
  const example = (name: string, kernel: string): Map<string, Set<string>> =>
    stacksOf(readFileSync(`examples/${name}.mmu`, 'utf8').replace(/kernel \S+/, `kernel ${kernel}`));

  it('v6.1, Intel', () => {
    const s = example('nested-vmx', 'v6.1');
    const entry =
      '__vmx_handle_exit → handle_vmlaunch → nested_vmx_run → nested_vmx_enter_non_root_mode → prepare_vmcs02';
    saw(s, `${entry} → nested_ept_init_mmu_context → kvm_init_shadow_ept_mmu → kvm_mmu_new_pgd`);
    saw(s, `${entry} → nested_ept_init_mmu_context → kvm_init_shadow_ept_mmu → kvm_calc_shadow_ept_root_page_role`);
    saw(s, `${entry} → nested_vmx_load_cr3 → kvm_init_mmu → init_kvm_nested_mmu`);
    const fault = 'handle_ept_violation → kvm_mmu_page_fault → kvm_mmu_do_page_fault → ept_page_fault';
    saw(s, `${fault} → ept_walk_addr → ept_walk_addr_generic`);
    saw(s, `${fault} → ept_fetch → kvm_mmu_get_child_sp → kvm_mmu_get_shadow_page`);
    saw(s, `${fault} → kvm_inject_emulated_page_fault → nested_ept_inject_page_fault → nested_vmx_vmexit`);
    saw(s, '__vmx_handle_exit → nested_vmx_reflect_vmexit → nested_vmx_vmexit → load_vmcs12_host_state');
    saw(s, '__vmx_handle_exit → handle_invept');
  });

  it('v4.19, Intel', () => {
    const s = example('nested-vmx', 'v4.19');
    saw(s, 'handle_vmlaunch → nested_vmx_run → enter_vmx_non_root_mode → prepare_vmcs02');
    saw(s, 'ept_page_fault → inject_page_fault → nested_ept_inject_page_fault → nested_vmx_vmexit');
  });

  it('v6.1, AMD', () => {
    const s = example('nested', 'v6.1');
    const entry = 'svm_invoke_exit_handler → vmrun_interception → nested_svm_vmrun → enter_svm_guest_mode';
    saw(s, `${entry} → nested_vmcb02_prepare_control → nested_svm_init_mmu_context → kvm_init_shadow_npt_mmu`);
    saw(s, `${entry} → nested_svm_load_cr3`);
    const fault = 'npf_interception → kvm_mmu_page_fault → kvm_mmu_do_page_fault → paging64_page_fault';
    saw(s, `${fault} → kvm_inject_emulated_page_fault → nested_svm_inject_npf_exit → nested_svm_vmexit`);
    saw(s, 'svm_handle_exit → nested_svm_exit_handled → nested_svm_vmexit');
    saw(s, 'paging64_gva_to_gpa → paging64_walk_addr_generic → translate_nested_gpa');
  });

  it('v4.4, AMD', () => {
    const s = example('nested', 'v4.4');
    saw(s, 'handle_exit → vmrun_interception → nested_svm_vmrun → nested_svm_init_mmu_context → kvm_init_shadow_mmu');
    saw(
      s,
      'pf_interception → kvm_mmu_page_fault → paging64_page_fault → inject_page_fault → nested_svm_inject_npf_exit',
    );
  });
});

describe('names of frames', () => {
  it('are function-breakpoint names of the kernel, whatever an example does in it', () => {
    const kernels = ['v3.6', 'v4.4', 'v4.19', 'v5.10', 'v6.1', 'v6.12', 'v7.3'];
    for (const kernel of kernels) {
      const legal = new Set(frameNames(parseKernel(kernel)).values());
      for (const settings of ['', 'vendor amd', 'paging shadow', 'tdp_mmu off']) {
        const names = [...stacksOf(guest(kernel, settings)).keys()].filter((n) => !n.startsWith('event '));
        assert.ok(names.length > 30, `${kernel} ${settings}: ${names.length} functions`);
        assert.deepEqual(
          names.filter((n) => !legal.has(n)),
          [],
          `${kernel} ${settings}`,
        );
      }
    }
  });
});
