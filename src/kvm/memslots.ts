/**
 * One set of memslots: struct kvm_memslots of one address space, and its look-up (search_memslots / ____gfn_to_memslot).
 *
 * Both containers of the kernel, the array sorted by base_gfn with its lru_slot (v4.1..v5.16) and the later trees with
 * last_used_slot, answer alike: the remembered slot first, then a binary search. `probes` counts the slots looked at.
 */
import { KVM_MEMSLOT_INVALID, type KvmMemorySlot } from './kvm_host';

/** Marks a generation whose update is in progress: bit 63 in v5.0+ (KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS). */
export class Memslots {
  readonly as_id: number;
  /** by descending base_gfn, as the kernel's array had it */
  slots: KvmMemorySlot[] = [];
  /** number of installs times the step of the era; see KernelCaps.memslotGeneration */
  generation: number;
  updateInProgress = false;
  lruSlot: KvmMemorySlot | null = null;
  /** slots compared by the last look-up */
  probes = 0;

  constructor(as_id: number, generation: number) {
    this.as_id = as_id;
    this.generation = generation;
  }

  /** The slot that contains gfn, or null. Slots that are being deleted (KVM_MEMSLOT_INVALID) are found too: callers check. */
  search(gfn: number): KvmMemorySlot | null {
    const lru = this.lruSlot;
    this.probes = 1;
    if (lru !== null && gfn >= lru.base_gfn && gfn < lru.base_gfn + lru.npages) return lru;
    const slots = this.slots;
    let start = 0;
    let end = slots.length;
    while (start < end) {
      const middle = start + ((end - start) >> 1);
      this.probes++;
      if (gfn >= slots[middle].base_gfn) end = middle;
      else start = middle + 1;
    }
    if (start >= slots.length) return null;
    const found = slots[start];
    if (gfn >= found.base_gfn + found.npages) return null;
    this.lruSlot = found;
    return found;
  }

  /** id_to_memslot() */
  byId(id: number): KvmMemorySlot | null {
    return this.slots.find((s) => s.id === id) ?? null;
  }

  /** The first slot that shares a page with [base, base + npages), apart from the slot `except`; or null. */
  overlap(base: number, npages: number, except: number): KvmMemorySlot | null {
    for (const s of this.slots)
      if (
        s.id !== except &&
        !(s.flags & KVM_MEMSLOT_INVALID) &&
        base < s.base_gfn + s.npages &&
        s.base_gfn < base + npages
      )
        return s;
    return null;
  }

  /** Puts a slot in its place (update_memslots / kvm_replace_memslot). */
  insert(slot: KvmMemorySlot): void {
    let at = 0;
    while (at < this.slots.length && this.slots[at].base_gfn > slot.base_gfn) at++;
    this.slots.splice(at, 0, slot);
  }

  /** Takes a slot out. */
  remove(slot: KvmMemorySlot): void {
    this.slots = this.slots.filter((s) => s !== slot);
    if (this.lruSlot === slot) this.lruSlot = null;
  }
}

/** Index of a gfn at a level within a slot (gfn_to_index). */
export const gfn_to_index = (gfn: number, base_gfn: number, level: number): number => {
  const pages = 512 ** (level - 1);
  return Math.floor(gfn / pages) - Math.floor(base_gfn / pages);
};

/** KVM_PAGES_PER_HPAGE() */
export const KVM_PAGES_PER_HPAGE = (level: number): number => 512 ** (level - 1);
