/**
 * Which memslots a vCPU sees in and outside system management mode. This is the one place that decides it; look-ups by vCPU, by the role
 * of a shadow page and by user space all come here.
 *
 * Three designs were on the table in 2015 (seed 3 and its reply; reference kvm-mmu-model.md 3.10, 3.11):
 *  - `address-spaces`, merged in v4.2: two tables of slots, one for each mode, each spanning all of guest-physical memory.
 *  - `flag`, the RFC: one table; a slot with KVM_MEM_X86_SMRAM is hidden outside SMM. Slots still must not overlap, so what is below
 *    SMRAM outside SMM can only be MMIO, and RAM cannot be hidden in SMM.
 *  - `three-state`, proposed in the reply: one table; a slot is for SMM, for normal mode, or for both. Two slots may share frames if
 *    no mode sees both.
 */
import {
  is_smm,
  KVM_MEM_X86_NORMAL_ONLY,
  KVM_MEM_X86_SMRAM,
  type Kvm,
  type KvmMemorySlot,
  type KvmVcpu,
} from './kvm_host';
import type { Machine } from './machine';
import { Memslots } from './memslots';
import { role_get } from './roles';

export type SmramDesign = 'address-spaces' | 'flag' | 'three-state';

/** Flags of KVM_SET_USER_MEMORY_REGION that a design adds. */
export function smramFlags(design: SmramDesign): number {
  if (design === 'flag') return KVM_MEM_X86_SMRAM;
  return design === 'three-state' ? KVM_MEM_X86_SMRAM | KVM_MEM_X86_NORMAL_ONLY : 0;
}

/** The sets of slots that a VM has under a design. @param spaces address spaces that the kernel has @param first generation of each */
export function smramMemslots(design: SmramDesign, spaces: number, first: (as: number) => number): Memslots[] {
  if (design === 'address-spaces') return Array.from({ length: spaces }, (_, as) => new Memslots(as, first(as)));
  return [new Memslots(0, first(0), design === 'three-state')];
}

/** Whether accesses in SMM, or outside it, see a slot. */
export function slot_visible(m: Machine, slot: KvmMemorySlot, smm: boolean): boolean {
  switch (m.config.smram_design) {
    case 'address-spaces':
      return slot.as_id === (smm && m.kvm.memslots.length > 1 ? 1 : 0);
    case 'flag':
      return smm || (slot.flags & KVM_MEM_X86_SMRAM) === 0;
    case 'three-state':
      return (slot.flags & (smm ? KVM_MEM_X86_NORMAL_ONLY : KVM_MEM_X86_SMRAM)) === 0;
  }
}

/** The set in which a mode's slots are. */
export const memslots_of_mode = (kvm: Kvm, smm: boolean): Memslots =>
  kvm.memslots[smm && kvm.memslots.length > 1 ? 1 : 0];

/** Finds the slot of a frame as a mode sees it. Counted as one look-up. */
export function search_mode(kvm: Kvm, smm: boolean, gfn: number): KvmMemorySlot | null {
  kvm.memslot_lookups++;
  const set = memslots_of_mode(kvm, smm);
  const m = kvm.machine;
  if (m.config.smram_design === 'three-state') return set.modes[smm ? 1 : 0].search(gfn);
  const slot = set.search(gfn);
  // The flag costs one test for each look-up that finds something.
  return slot !== null && m.config.smram_design === 'flag' && !slot_visible(m, slot, smm) ? null : slot;
}

/** As {@link search_mode}, but nothing is counted or remembered: for displays, user space and the audit. */
export function peek_mode(m: Machine, smm: boolean, gfn: number): KvmMemorySlot | null {
  const set = memslots_of_mode(m.kvm, smm);
  if (m.config.smram_design === 'three-state') return set.modes[smm ? 1 : 0].peek(gfn);
  const slot = set.peek(gfn);
  return slot && slot_visible(m, slot, smm) ? slot : null;
}

/** The slot of a frame for the bookkeeping of a shadow page: role.smm tells the mode for which the page was built (seed 0). */
export const search_role = (kvm: Kvm, role: number, gfn: number): KvmMemorySlot | null =>
  search_mode(kvm, role_get(role, kvm.machine.roles.smm) !== 0, gfn);

/** As {@link search_role} without a trace. */
export const peek_role = (m: Machine, role: number, gfn: number): KvmMemorySlot | null =>
  peek_mode(m, role_get(role, m.roles.smm) !== 0, gfn);

/** Whether pages of that role can map frames of a slot. */
export const role_sees_slot = (m: Machine, role: number, slot: KvmMemorySlot): boolean =>
  slot_visible(m, slot, role_get(role, m.roles.smm) !== 0);

/** Whether a slot may be where another is: only if no mode would see both. */
export function slots_exclude(m: Machine, a: { flags: number }, b: { flags: number }): boolean {
  if (m.config.smram_design !== 'three-state') return false;
  const both = KVM_MEM_X86_SMRAM | KVM_MEM_X86_NORMAL_ONLY;
  return ((a.flags | b.flags) & both) === both;
}

/**
 * The vCPU enters or leaves SMM. Two tables have two generations, so that what one mode remembers about MMIO cannot match in the other;
 * designs with one table have to forget it (their patches do not say how).
 */
export function smm_view_changed(vcpu: KvmVcpu): void {
  vcpu.last_used_slot = null;
  if (vcpu.kvm.machine.config.smram_design === 'address-spaces') return;
  vcpu.mmio_gva = 0n;
  vcpu.mmio_gfn = 0;
}

/** struct gfn_to_hva_cache: a translation that KVM keeps for a guest structure that it writes again and again. */
export interface GfnToHvaCache {
  generation: number;
  readonly gpa: number;
  readonly len: number;
  hva: bigint;
  /** null: every access takes the slow path, a look-up each time */
  memslot: KvmMemorySlot | null;
}

/**
 * x86_gfn_to_hva_cache_init() (seed 3): kvm_gfn_to_hva_cache_init() and, with the flag design, no cached slot for SMRAM: the cache has
 * no vCPU, so a cached slot would open SMRAM to everybody.
 * @returns null (-EFAULT) where the mode has no slot
 */
export function x86_gfn_to_hva_cache_init(vcpu: KvmVcpu, gpa: number, len: number): GfnToHvaCache | null {
  const { kvm } = vcpu;
  const gfn = Math.floor(gpa / 4096);
  const slot = search_mode(kvm, is_smm(vcpu), gfn);
  if (slot === null) return null;
  const crosses = Math.floor((gpa + len - 1) / 4096) >= slot.base_gfn + slot.npages;
  const hidden = smramFlags(kvm.machine.config.smram_design) & slot.flags;
  return {
    generation: memslots_of_mode(kvm, is_smm(vcpu)).generation,
    gpa,
    len,
    hva: slot.userspace_addr + BigInt((gfn - slot.base_gfn) * 4096 + (gpa % 4096)),
    memslot: crosses || hidden ? null : slot,
  };
}

/**
 * kvm_write_guest_cached() and kvm_read_guest_cached(): the slot behind a cache, found anew if the slots changed since.
 * @returns the slot, or null (-EFAULT); `fast` tells whether it came without a look-up
 */
export function ghc_slot(vcpu: KvmVcpu, ghc: GfnToHvaCache): { slot: KvmMemorySlot | null; fast: boolean } {
  const { kvm } = vcpu;
  const current = memslots_of_mode(kvm, is_smm(vcpu)).generation;
  if (ghc.memslot !== null && ghc.generation === current) return { slot: ghc.memslot, fast: true };
  const fresh = x86_gfn_to_hva_cache_init(vcpu, ghc.gpa, ghc.len);
  if (fresh !== null) Object.assign(ghc, { generation: fresh.generation, hva: fresh.hva, memslot: fresh.memslot });
  return { slot: search_mode(kvm, is_smm(vcpu), Math.floor(ghc.gpa / 4096)), fast: false };
}
