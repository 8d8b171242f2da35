/**
 * virt/kvm/kvm_main.c: memslots and how they change, gfn -> hva -> pfn, dirty bitmaps.
 * Facts: reference kvm-mmu-model.md chapter 3 (checked there against v4.4.179 and v6.1.192).
 */
import type { Backing } from './host';
import { emit, enter, leave } from './observer';
import type { Machine } from './machine';
import {
  KVM_MEMSLOT_INVALID,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  is_smm,
  type Kvm,
  type KvmMemorySlot,
  type KvmVcpu,
} from './kvm_host';
import { gfn_to_index, KVM_PAGES_PER_HPAGE, type Memslots } from './memslots';
import { RmapHeads } from './mmu/rmap_heads';
import { vmx_update_cpu_dirty_logging } from './pml';
import {
  kvm_mmu_invalidate_mmio_sptes,
  kvm_mmu_slot_apply_flags,
  kvm_mmu_zap_all,
  kvm_mmu_zap_all_fast,
} from './mmu/zap';
import { memslots_of_mode, search_mode, slots_exclude } from './smram';
import { kvm_make_all_cpus_request } from './x86_requests';

const KVM_MEM_MAX_NR_PAGES = 2 ** 31 - 1;

/** Linux errno values that these ioctls return (negated). */
export const EINVAL = 22;
export const EEXIST = 17;
export const ENOENT = 2;
export const EFAULT = 14;

const ERRNO_NAMES: Record<number, string> = {
  [EINVAL]: 'EINVAL',
  [EEXIST]: 'EEXIST',
  [ENOENT]: 'ENOENT',
  [EFAULT]: 'EFAULT',
};

/** Outcome of a VM ioctl: 0 or a negated errno, and why in a sentence. */
export interface IoctlResult {
  errno: number;
  text: string;
}

const OK: IoctlResult = { errno: 0, text: 'ok' };

/** struct kvm_userspace_memory_region with the address space split off `slot`. Sizes and addresses in bytes. */
export interface UserMemoryRegion {
  as_id: number;
  id: number;
  flags: number;
  gpa: number;
  size: number;
  hva: bigint;
}

const hex = (n: number | bigint): string => `0x${n.toString(16)}`;

/**
 * KVM_SET_USER_MEMORY_REGION (or, `internal`, one of KVM's private slots): checks in the kernel's order, then the change.
 */
export function kvm_set_memory_region(kvm: Kvm, r: UserMemoryRegion, internal = false): IoctlResult {
  const m = kvm.machine;
  // KVM's own slots do not come from user space.
  if (!internal) {
    enter(m, 'kvm_vm_ioctl', -1, null);
    enter(m, 'kvm_vm_ioctl_set_memory_region', -1, r);
    enter(m, 'kvm_set_memory_region', -1, r);
  }
  enter(m, '__kvm_set_memory_region', -1, r);
  const result = checkAndSet(kvm, r, internal);
  if (result.errno !== 0 && m.observer)
    m.observer.event({
      kind: 'memslot_error',
      vcpu: -1,
      as_id: r.as_id,
      id: r.id,
      errno: result.errno,
      text: result.text,
    });
  for (let frames = internal ? 1 : 4; frames > 0; frames--) leave(m);
  return result;
}

function fail(errno: number, why: string): IoctlResult {
  return { errno: -errno, text: `-${ERRNO_NAMES[errno] ?? errno}: ${why}` };
}

function checkAndSet(kvm: Kvm, r: UserMemoryRegion, internal: boolean): IoctlResult {
  const m = kvm.machine;
  const caps = m.caps;
  if (r.id >= (internal ? caps.memSlotsNum : caps.userMemSlots))
    return fail(
      EINVAL,
      `slot id ${r.id} is not below KVM_USER_MEM_SLOTS (${caps.userMemSlots} in ${caps.kernel.name})`,
    );
  const bad = r.flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY | m.extraMemslotFlags);
  if (bad) return fail(EINVAL, `flags ${hex(r.flags)} have bits that KVM does not know: ${hex(bad)}`);
  if (r.size % 4096 !== 0) return fail(EINVAL, `memory_size ${hex(r.size)} is not a multiple of the page size`);
  if (r.gpa % 4096 !== 0) return fail(EINVAL, `guest_phys_addr ${hex(r.gpa)} is not page aligned`);
  if (r.hva & 0xfffn) return fail(EINVAL, `userspace_addr ${hex(r.hva)} is not page aligned`);
  if (r.hva >> 47n || (r.hva + BigInt(r.size)) >> 47n)
    return fail(EINVAL, `userspace_addr ${hex(r.hva)} is not a user address`);
  if (r.as_id >= kvm.memslots.length)
    return fail(EINVAL, `address space ${r.as_id} does not exist: ${caps.kernel.name} has ${kvm.memslots.length}`);
  if (r.gpa + r.size > 2 ** 52)
    return fail(EINVAL, `${hex(r.gpa)} + ${hex(r.size)} wraps or exceeds what can be addressed`);
  const npages = r.size / 4096;
  const base_gfn = r.gpa / 4096;
  if (npages > KVM_MEM_MAX_NR_PAGES) return fail(EINVAL, `${npages} pages exceed KVM_MEM_MAX_NR_PAGES`);

  const slots = kvm.memslots[r.as_id];
  const old = slots.byId(r.id);
  if (npages === 0) {
    if (!old) return fail(EINVAL, `slot ${r.as_id}:${r.id} does not exist, so it cannot be deleted`);
    return kvm_set_memslot(kvm, slots, old, null, 'delete');
  }
  if (old) {
    if (old.userspace_addr !== r.hva)
      return fail(
        EINVAL,
        `slot ${r.as_id}:${r.id} exists with userspace_addr ${hex(old.userspace_addr)}; it cannot be changed to ${hex(r.hva)}, delete the slot first`,
      );
    if (old.npages !== npages)
      return fail(
        EINVAL,
        `slot ${r.as_id}:${r.id} exists with ${old.npages} pages; its size cannot be changed to ${npages}, delete the slot first`,
      );
    if ((old.flags ^ r.flags) & KVM_MEM_READONLY)
      return fail(EINVAL, `KVM_MEM_READONLY of slot ${r.as_id}:${r.id} cannot be toggled, delete the slot first`);
    // Nothing would zap what the slot showed before; the RFC's patch leaves that open, the model refuses it.
    if ((old.flags ^ r.flags) & m.extraMemslotFlags)
      return fail(EINVAL, `in which mode slot ${r.as_id}:${r.id} is seen cannot be changed, delete the slot first`);
    if (old.base_gfn === base_gfn && old.flags === r.flags) return OK;
  }
  const change = !old ? 'create' : old.base_gfn !== base_gfn ? 'move' : 'flags';
  if (change !== 'flags') {
    const other = slots.overlap(base_gfn, npages, r.id, (s) => slots_exclude(m, s, r));
    if (other)
      return fail(
        EEXIST,
        `[${hex(r.gpa)}, ${hex(r.gpa + r.size)}) overlaps slot ${other.as_id}:${other.id} at [${hex(other.base_gfn * 4096)}, ${hex((other.base_gfn + other.npages) * 4096)}) ${m.config.smram_design === 'three-state' ? 'in a mode that sees both' : 'of the same address space'}`,
      );
    const max_gfn = 2 ** (m.tdpEnabled ? m.config.maxphyaddr - 12 : 40) - 1;
    if (base_gfn + npages - 1 > max_gfn)
      return fail(EINVAL, `last gfn ${hex(base_gfn + npages - 1)} is above kvm_mmu_max_gfn() ${hex(max_gfn)}`);
  }
  const fresh: KvmMemorySlot = {
    id: r.id,
    as_id: r.as_id,
    base_gfn,
    npages,
    userspace_addr: r.hva,
    flags: r.flags,
    dirty_bitmap: null,
    backing: null,
    arch: { lpage_info: [new Int32Array(0), new Int32Array(0)], rmap: [], gfn_write_track: new Map() },
  };
  return kvm_set_memslot(kvm, slots, old, fresh, change);
}

/** What kvm_set_memslot() calls for a change. */
const CHANGES = {
  create: 'kvm_create_memslot',
  delete: 'kvm_delete_memslot',
  move: 'kvm_move_memslot',
  flags: 'kvm_update_flags_memslot',
} as const;

/** kvm_set_memslot(): invalidate, prepare, replace, commit; each swap of the active set moves the generation. */
function kvm_set_memslot(
  kvm: Kvm,
  slots: Memslots,
  old: KvmMemorySlot | null,
  fresh: KvmMemorySlot | null,
  change: 'create' | 'delete' | 'move' | 'flags',
): IoctlResult {
  const m = kvm.machine;
  enter(m, 'kvm_set_memslot', -1, { old, new: fresh, change });
  if (old && (change === 'delete' || change === 'move')) {
    enter(m, 'kvm_invalidate_memslot', -1, old);
    old.flags |= KVM_MEMSLOT_INVALID;
    kvm_swap_active_memslots(kvm, slots);
    enter(m, 'kvm_arch_flush_shadow_memslot', -1, old);
    enter(m, 'kvm_page_track_flush_slot', -1, old);
    enter(m, 'kvm_mmu_invalidate_zap_pages_in_memslot', -1, old);
    kvm_mmu_zap_all_fast(kvm);
    leave(m);
    leave(m);
    leave(m);
    leave(m);
  }
  if (fresh) {
    enter(m, 'kvm_prepare_memory_region', -1, fresh);
    if (fresh.flags & KVM_MEM_LOG_DIRTY_PAGES) {
      fresh.dirty_bitmap = old?.dirty_bitmap ?? new Uint32Array((fresh.npages + 31) >>> 5);
      if (!old?.dirty_bitmap && m.config.dirtyLogInitiallySet) fresh.dirty_bitmap.fill(0xffffffff);
    }
    const first = m.host.lookup(fresh.userspace_addr);
    if (first && first.index + fresh.npages <= first.backing.pfns.length)
      fresh.backing = { of: first.backing, first: first.index };
    enter(m, 'kvm_arch_prepare_memory_region', -1, fresh);
    if (change === 'flags' && old) fresh.arch = old.arch;
    else {
      enter(m, 'kvm_alloc_memslot_metadata', -1, fresh);
      fresh.arch = kvm_alloc_memslot_metadata(fresh);
      leave(m);
    }
    leave(m);
    leave(m);
  }
  enter(m, CHANGES[change], -1, { old, new: fresh, change });
  enter(m, 'kvm_replace_memslot', -1, { old, new: fresh, change });
  if (old) slots.remove(old);
  if (fresh) slots.insert(fresh);
  leave(m);
  enter(m, 'kvm_activate_memslot', -1, fresh);
  kvm_swap_active_memslots(kvm, slots);
  leave(m);
  leave(m);
  const id = fresh?.id ?? old?.id ?? 0;
  emit(m, (o) =>
    o.event({
      kind: 'memslot_changed',
      vcpu: -1,
      as_id: slots.as_id,
      id,
      change,
      generation: BigInt(slots.generation),
    }),
  );
  enter(m, 'kvm_commit_memory_region', -1, { old, new: fresh, change });
  enter(m, 'kvm_arch_commit_memory_region', -1, { old, new: fresh, change });
  if (change === 'create' || change === 'delete') recomputeBudget(kvm);
  for (const vcpu of kvm.vcpus) vmx_update_cpu_dirty_logging(vcpu);
  kvm_mmu_slot_apply_flags(kvm, old, fresh, change);
  leave(m);
  leave(m);
  if (m.caps.memslotGeneration === 'none' && (change === 'create' || change === 'move')) {
    // v3.1..v3.10: MMIO sptes carry no generation, so a new slot can only be seen once all of them are gone.
    enter(m, 'kvm_arch_flush_shadow_all', -1, fresh);
    kvm_mmu_zap_all(kvm);
    leave(m);
  }
  leave(m);
  return OK;
}

/** kvm_swap_active_memslots(): a new generation for this address space. */
function kvm_swap_active_memslots(kvm: Kvm, slots: Memslots): void {
  const m = kvm.machine;
  enter(m, 'kvm_swap_active_memslots', -1, slots);
  slots.updateInProgress = true;
  slots.generation += 2;
  slots.updateInProgress = false;
  for (const vcpu of kvm.vcpus) vcpu.last_used_slot = null;
  enter(m, 'kvm_arch_memslots_updated', -1, slots);
  kvm_mmu_invalidate_mmio_sptes(kvm, slots.generation);
  kvm_make_all_cpus_request(kvm, null);
  leave(m);
  leave(m);
}

/** kvm_alloc_memslot_metadata(): the rmap heads and where huge pages are impossible from the start. */
export function kvm_alloc_memslot_metadata(slot: KvmMemorySlot): KvmMemorySlot['arch'] {
  const info = [2, 3].map((level) => {
    const entries = gfn_to_index(slot.base_gfn + slot.npages - 1, slot.base_gfn, level) + 1;
    const a = new Int32Array(entries);
    const pages = KVM_PAGES_PER_HPAGE(level);
    if (slot.base_gfn % pages !== 0) a[0] = 1;
    if ((slot.base_gfn + slot.npages) % pages !== 0) a[entries - 1] = 1;
    const ugfn = Number(slot.userspace_addr >> 12n);
    // A huge page needs gfn and hva to agree in the low bits.
    if (ugfn % pages !== slot.base_gfn % pages) a.fill(1);
    return a;
  });
  return {
    lpage_info: [info[0], info[1]],
    rmap: [1, 2, 3].map(() => new RmapHeads()),
    gfn_write_track: new Map(),
  };
}

/** kvm_mmu_calculate_default_mmu_pages(): two percent of the memory in slots, at least KVM_MIN_ALLOC_MMU_PAGES. */
function recomputeBudget(kvm: Kvm): void {
  if (kvm.n_requested_mmu_pages) return;
  let pages = 0;
  for (const s of kvm.memslots) pages += s.npages;
  kvm.n_max_mmu_pages = Math.max(Math.floor(pages / 50), 64);
}

/** gfn_to_memslot() in one address space. */
export function __gfn_to_memslot(kvm: Kvm, as_id: number, gfn: number): KvmMemorySlot | null {
  return search_mode(kvm, as_id === 1, gfn);
}

/** kvm_vcpu_memslots(): the set that the vCPU's accesses use. */
export const kvm_vcpu_memslots = (vcpu: KvmVcpu): Memslots => memslots_of_mode(vcpu.kvm, is_smm(vcpu));

/** kvm_vcpu_gfn_to_memslot(): the vCPU's own last slot first, while the generation stands. */
export function kvm_vcpu_gfn_to_memslot(vcpu: KvmVcpu, gfn: number): KvmMemorySlot | null {
  const slots = kvm_vcpu_memslots(vcpu);
  if (vcpu.last_used_slot_gen !== slots.generation) {
    vcpu.last_used_slot = null;
    vcpu.last_used_slot_gen = slots.generation;
  }
  const last = vcpu.last_used_slot;
  if (last !== null && gfn >= last.base_gfn && gfn < last.base_gfn + last.npages) {
    vcpu.kvm.memslot_lookups++;
    return last;
  }
  const slot = search_mode(vcpu.kvm, is_smm(vcpu), gfn);
  if (slot) vcpu.last_used_slot = slot;
  return slot;
}

/** kvm_is_visible_memslot(): user slots that are not being deleted. */
export const kvm_is_visible_memslot = (m: Machine, slot: KvmMemorySlot | null): slot is KvmMemorySlot =>
  slot !== null && slot.id < m.caps.userMemSlots && !(slot.flags & KVM_MEMSLOT_INVALID);

/** kvm_vcpu_is_visible_gfn() */
export const kvm_vcpu_is_visible_gfn = (vcpu: KvmVcpu, gfn: number): boolean =>
  kvm_is_visible_memslot(vcpu.kvm.machine, kvm_vcpu_gfn_to_memslot(vcpu, gfn));

/** What __gfn_to_pfn_memslot() found. The kernel encodes the failures in the pfn itself. */
export type PfnKind = 'pfn' | 'noslot' | 'ro-fault' | 'error';

/** Result record of {@link __gfn_to_pfn_memslot}; one per machine, overwritten by each call. */
export interface PfnResult {
  kind: PfnKind;
  pfn: number;
  /** the host would allow writes */
  writable: boolean;
}

/** KVM_PFN_NOSLOT as the trace events print it. */
export const KVM_PFN_NOSLOT = 0x8000000000000000n;

/**
 * __gfn_to_pfn_memslot(): slot -> hva -> pfn. `atomic` finds only pages that the host has mapped already (what the prefetch of
 * neighbours uses) and yields 'error' otherwise.
 */
export function __gfn_to_pfn_memslot(
  m: Machine,
  slot: KvmMemorySlot | null,
  gfn: number,
  write: boolean,
  atomic: boolean,
  out: PfnResult,
): void {
  out.pfn = -1;
  out.writable = false;
  if (slot === null || slot.flags & KVM_MEMSLOT_INVALID) {
    out.kind = 'noslot';
    return;
  }
  if (slot.flags & KVM_MEM_READONLY && write) {
    out.kind = 'ro-fault';
    return;
  }
  let backing: Backing;
  let index: number;
  if (slot.backing) {
    backing = slot.backing.of;
    index = slot.backing.first + gfn - slot.base_gfn;
  } else {
    const page = m.host.lookup(gfn_to_hva_memslot(slot, gfn));
    if (page === null) {
      out.kind = 'error';
      return;
    }
    backing = page.backing;
    index = page.index;
  }
  if ((write && backing.readonly) || (atomic && backing.pfns[index] < 0)) {
    out.kind = 'error';
    return;
  }
  out.kind = 'pfn';
  const pfn = backing.pfns[index];
  out.pfn = pfn >= 0 ? pfn : m.host.populate(backing, index);
  out.writable = !(slot.flags & KVM_MEM_READONLY) && !backing.readonly;
}

/** __gfn_to_hva_memslot() */
export const gfn_to_hva_memslot = (slot: KvmMemorySlot, gfn: number): bigint =>
  slot.userspace_addr + BigInt((gfn - slot.base_gfn) * 4096);

/** host_pfn_mapping_level(): how large the host maps this gfn. */
export function host_pfn_mapping_level(m: Machine, slot: KvmMemorySlot, gfn: number): number {
  if (slot.backing) return m.host.mappingLevel(slot.backing.of, slot.backing.first + gfn - slot.base_gfn);
  const page = m.host.lookup(gfn_to_hva_memslot(slot, gfn));
  return page ? m.host.mappingLevel(page.backing, page.index) : 1;
}

/** mark_page_dirty_in_slot() */
export function mark_page_dirty_in_slot(slot: KvmMemorySlot | null, gfn: number): void {
  if (!slot?.dirty_bitmap) return;
  const rel = gfn - slot.base_gfn;
  slot.dirty_bitmap[rel >>> 5] |= 1 << (rel & 31);
}

/** kvm_slot_dirty_track_enabled() */
export const kvm_slot_dirty_track_enabled = (slot: KvmMemorySlot | null): boolean =>
  slot !== null && (slot.flags & KVM_MEM_LOG_DIRTY_PAGES) !== 0;

/**
 * The host-physical byte address behind a guest-physical one for accesses by KVM or user space, or -1 (-EFAULT: no slot, deleted,
 * read-only and written). Populates the page.
 */
export function kvm_gpa_to_hpa(m: Machine, slot: KvmMemorySlot | null, gpa: number, write: boolean): number {
  const gfn = Math.floor(gpa / 4096);
  const out = m.pfnResult;
  __gfn_to_pfn_memslot(m, slot, gfn, write, false, out);
  return out.kind === 'pfn' ? out.pfn * 4096 + (gpa % 4096) : -1;
}

/** kvm_vcpu_read_guest() of up to 16 bytes within one page; null is -EFAULT. Little endian. */
export function kvm_vcpu_read_guest(vcpu: KvmVcpu, gpa: number, len: number): bigint | null {
  const m = vcpu.kvm.machine;
  let value = 0n;
  for (let i = 0; i < len; i++) {
    const hpa = kvm_gpa_to_hpa(m, kvm_vcpu_gfn_to_memslot(vcpu, Math.floor((gpa + i) / 4096)), gpa + i, false);
    if (hpa < 0) return null;
    value |= BigInt(m.mem.read8(hpa)) << BigInt(8 * i);
  }
  return value;
}

/** kvm_vcpu_write_guest() of up to 16 bytes; false is -EFAULT. Marks the page dirty. */
export function kvm_vcpu_write_guest(vcpu: KvmVcpu, gpa: number, len: number, value: bigint): boolean {
  const m = vcpu.kvm.machine;
  for (let i = 0; i < len; i++) {
    const gfn = Math.floor((gpa + i) / 4096);
    const slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
    const hpa = kvm_gpa_to_hpa(m, slot, gpa + i, true);
    if (hpa < 0) return false;
    m.mem.write8(hpa, Number((value >> BigInt(8 * i)) & 0xffn));
    mark_page_dirty_in_slot(slot, gfn);
  }
  return true;
}
