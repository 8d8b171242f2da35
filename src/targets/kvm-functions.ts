/**
 * KVM function names for function breakpoints and their completion: the frames of the model (src/kvm/functions.ts) under the names of
 * the kernel that a scenario models, and what to say about every other name.
 */
import { frameNames, KVM_FRAMES, type KvmFrame } from '../kvm/functions';
import { type KernelVersion, NEWEST_KERNEL, OLDEST_KERNEL, parseKernel } from '../words/kernels';
import { suggestion } from '../words/suggest';

/**
 * Functions of the call-order tables (kvm-mmu-model.md chapter 29) that have no frame, as they are too small or do what a model need
 * not do, and the function whose frame to break on instead.
 */
const WITHIN: Readonly<Record<string, readonly string[]>> = {
  kvm_mmu_page_fault: ['kvm_emulate_instruction'],
  kvm_tdp_page_fault: ['mmu_topup_memory_caches', 'check_hugepage_cache_consistency', 'kvm_mmu_finish_page_fault'],
  paging64_walk_addr_generic: ['permission_fault', 'kvm_translate_gpa'],
  paging64_fetch: ['drop_large_spte', 'disallowed_hugepage_adjust'],
  kvm_tdp_mmu_map: ['kvm_tdp_mmu_split_huge_page', 'tdp_mmu_free_sp'],
  get_mmio_spte: ['is_shadow_zero_bits_set', 'walk_shadow_page_lockless_begin', 'walk_shadow_page_lockless_end'],
  handle_mmio_page_fault: ['is_mmio_spte'],
  rmap_add: ['__rmap_add', 'pte_list_add'],
  kvm_mmu_get_child_sp: ['kvm_mmu_child_role'],
  kvm_mmu_pte_write: [
    'detect_write_misaligned',
    'detect_write_flooding',
    'get_written_sptes',
    'mmu_pte_write_new_pte',
    'need_remote_flush',
  ],
  kvm_init_mmu: ['vcpu_to_role_regs'],
  init_kvm_tdp_mmu: ['update_last_pte_bitmap'],
  init_kvm_softmmu: ['kvm_calc_shadow_mmu_root_page_role'],
  kvm_init_shadow_npt_mmu: ['kvm_calc_shadow_npt_root_page_role'],
  __kvm_set_memory_region: ['check_memory_region_flags', 'id_to_memslot', 'kvm_check_memslot_overlap'],
  kvm_arch_prepare_memory_region: ['kvm_create_dirty_bitmap', 'kvm_alloc_dirty_bitmap'],
  kvm_mmu_zap_all_fast: ['kvm_reload_remote_mmus', 'kvm_make_all_cpus_request'],
  kvm_mmu_slot_apply_flags: ['kvm_mmu_slot_gfn_write_protect'],
  kvm_spp_setup_structure: ['is_spp_shadow_present'],
  mmu_sync_children: ['kvm_unlink_unsync_page'],
  mmu_page_zap_pte: ['drop_spte', 'drop_parent_pte'],
  account_shadowed: ['unaccount_shadowed'],
};

const WITHIN_OF: ReadonlyMap<string, string> = new Map(
  Object.entries(WITHIN).flatMap(([frame, names]) => names.map((name) => [name, frame] as const)),
);

/** All frames that some kernel calls by a name. */
const BY_NAME: ReadonlyMap<string, readonly KvmFrame[]> = (() => {
  const all = new Map<string, KvmFrame[]>();
  for (const frame of KVM_FRAMES)
    for (const name of new Set(frame.rows.map((r) => r.name))) all.set(name, [...(all.get(name) ?? []), frame]);
  // Another place of the same function says nothing about which kernels have it.
  for (const [name, frames] of all) {
    const whole = frames.filter((f) => !f.frame.includes('/'));
    if (whole.length > 0) all.set(name, whole);
  }
  return all;
})();

/** Every name of a frame in any kernel. */
export const ALL_FUNCTION_NAMES: readonly string[] = [...BY_NAME.keys()].sort();

const known = new Map<string, readonly string[]>();

/** Names of a kernel's functions that can stand on the call stack, in alphabetical order. */
export function functionNames(kernel: string | KernelVersion): readonly string[] {
  const version = typeof kernel === 'string' ? parseKernel(kernel) : kernel;
  let names = known.get(version.name);
  if (!names) known.set(version.name, (names = [...new Set(frameNames(version).values())].sort()));
  return names;
}

/** `up to v5.5`, `from v5.6 on`, `v4.19 to v5.6`, `spp-v12`: where frames have a name. */
function kernelsText(name: string, frames: readonly KvmFrame[]): string {
  const parts = frames
    .flatMap((f) => f.rows.filter((r) => r.name === name))
    .map(({ set, from, to }) => {
      if (set !== null) return set;
      if (from === OLDEST_KERNEL) return to === NEWEST_KERNEL ? 'all releases' : `up to ${to}`;
      if (to === NEWEST_KERNEL) return `from ${from} on`;
      return from === to ? from : `${from} to ${to}`;
    });
  return [...new Set(parts)].join(', ');
}

/** Why a function breakpoint of this name cannot be hit under a kernel, as one sentence; null if the name is good. */
export function functionDoubt(name: string, kernel: string): string | null {
  const version = parseKernel(kernel);
  const legal = functionNames(version);
  if (legal.includes(name)) return null;
  const frames = BY_NAME.get(name);
  if (frames) {
    const names = frameNames(version);
    const here = [...new Set(frames.map((f) => names.get(f.frame)).filter((n) => n !== undefined))];
    const instead = here.length > 0 ? `${kernel} calls it ${here.join(' or ')}` : `${kernel} has no such function`;
    return `${name} is a function of other kernels (${kernelsText(name, frames)}): ${instead}`;
  }
  const outer = WITHIN_OF.get(name);
  if (outer) {
    const own = BY_NAME.get(outer)?.[0];
    const frame = own && frameNames(version).get(own.frame);
    return `${name} has no frame of its own here${frame ? `: break on ${frame}, which it is a part of` : ''}`;
  }
  return `'${name}' is not a KVM function that this debugger knows${suggestion(name, legal)}`;
}
