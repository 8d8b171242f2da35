/**
 * One set of memslots: struct kvm_memslots of one address space, and its look-up (search_memslots / ____gfn_to_memslot).
 *
 * Both containers of the kernel, the array sorted by base_gfn with its lru_slot (v4.1..v5.16) and the later trees with
 * last_used_slot, answer alike: the remembered slot first, then a binary search. `probes` counts the slots looked at.
 */
import { KVM_MEMSLOT_INVALID, KVM_MEM_X86_NORMAL_ONLY, KVM_MEM_X86_SMRAM, type KvmMemorySlot } from './kvm_host';

/** Marks a generation whose update is in progress: bit 63 in v5.0+ (KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS). */
export class Memslots {
  readonly as_id: number;
  private list: KvmMemorySlot[] = [];
  /** base_gfn of each slot of the list, which a search reads instead of the slots */
  private bases = new Float64Array(0);
  /** number of installs times the step of the era; see KernelCaps.memslotGeneration */
  generation: number;
  updateInProgress = false;
  lruSlot: KvmMemorySlot | null = null;
  /** slots compared by the last look-up */
  probes = 0;
  /** three-state slots: what normal mode and what SMM see, each without overlaps; empty in the other designs (smram.ts) */
  readonly modes: readonly Memslots[];

  constructor(as_id: number, generation: number, threeState = false) {
    this.as_id = as_id;
    this.generation = generation;
    this.modes = threeState ? [new Memslots(as_id, generation), new Memslots(as_id, generation)] : [];
  }

  /** Slots by descending base_gfn, as the kernel's array had them. */
  get slots(): readonly KvmMemorySlot[] {
    return this.list;
  }

  set slots(slots: readonly KvmMemorySlot[]) {
    this.list = [...slots];
    this.bases = Float64Array.from(slots, (s) => s.base_gfn);
    this.lruSlot = null;
    this.modes.forEach((mode, smm) => {
      const hidden = smm ? KVM_MEM_X86_NORMAL_ONLY : KVM_MEM_X86_SMRAM;
      mode.slots = slots.filter((s) => !(s.flags & hidden));
    });
  }

  /** The slot that contains gfn, or null. Slots that are being deleted (KVM_MEMSLOT_INVALID) are found too: callers check. */
  search(gfn: number): KvmMemorySlot | null {
    const lru = this.lruSlot;
    this.probes = 1;
    if (lru !== null && gfn >= lru.base_gfn && gfn < lru.base_gfn + lru.npages) return lru;
    const { bases, list } = this;
    let start = 0;
    let end = bases.length;
    let probes = 1;
    while (start < end) {
      const middle = (start + end) >>> 1;
      probes++;
      if (gfn >= bases[middle]) end = middle;
      else start = middle + 1;
    }
    this.probes = probes;
    if (start >= list.length) return null;
    const found = list[start];
    if (gfn >= found.base_gfn + found.npages) return null;
    this.lruSlot = found;
    return found;
  }

  /** id_to_memslot() */
  byId(id: number): KvmMemorySlot | null {
    return this.list.find((s) => s.id === id) ?? null;
  }

  /** The first slot that shares a page with [base, base + npages), apart from the slot `except` and those that may; or null. */
  overlap(
    base: number,
    npages: number,
    except: number,
    may: (s: KvmMemorySlot) => boolean = () => false,
  ): KvmMemorySlot | null {
    for (const s of this.list)
      if (
        s.id !== except &&
        !may(s) &&
        !(s.flags & KVM_MEMSLOT_INVALID) &&
        base < s.base_gfn + s.npages &&
        s.base_gfn < base + npages
      )
        return s;
    return null;
  }

  /** Puts a slot in its place (update_memslots / kvm_replace_memslot). */
  insert(slot: KvmMemorySlot): void {
    const { lruSlot } = this;
    const at = this.list.findIndex((s) => s.base_gfn <= slot.base_gfn);
    this.slots = this.list.toSpliced(at < 0 ? this.list.length : at, 0, slot);
    this.lruSlot = lruSlot;
  }

  /** Takes a slot out. */
  remove(slot: KvmMemorySlot): void {
    const { lruSlot } = this;
    this.slots = this.list.filter((s) => s !== slot);
    if (lruSlot !== slot) this.lruSlot = lruSlot;
  }
}

/** Index of a gfn at a level within a slot (gfn_to_index). */
export const gfn_to_index = (gfn: number, base_gfn: number, level: number): number => {
  const pages = 512 ** (level - 1);
  return Math.floor(gfn / pages) - Math.floor(base_gfn / pages);
};

/** KVM_PAGES_PER_HPAGE() */
export const KVM_PAGES_PER_HPAGE = (level: number): number => 512 ** (level - 1);
