/**
 * One set of memslots: struct kvm_memslots of one address space, and its look-up (search_memslots / ____gfn_to_memslot).
 *
 * Both containers of the kernel, the array sorted by base_gfn with its lru_slot (v4.1..v5.16) and the later trees with
 * last_used_slot, answer alike: the remembered slot first, then a binary search. `probes` counts the slots that a binary search looks at.
 */
import {
  KVM_MEMSLOT_INVALID,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_X86_NORMAL_ONLY,
  KVM_MEM_X86_SMRAM,
  type KvmMemorySlot,
} from './kvm_host';

export class Memslots {
  readonly as_id: number;
  private list: KvmMemorySlot[] = [];
  private ids = new Map<number, KvmMemorySlot>();
  /**
   * The bases as a search tree without pointers (children of node k at 2k and 2k + 1), and beside each its slot's end and place in the
   * list: a search reads one cache line for several levels and has no branch to predict. Made anew by the first search after a change.
   */
  private tree = new Float64Array(1);
  private ends = new Float64Array(1);
  private places = new Int32Array(1);
  private stale = false;
  /** number of installs times the step of the era; see KernelCaps.memslotGeneration */
  generation: number;
  updateInProgress = false;
  private lru: KvmMemorySlot | null = null;
  private lruBase = 0;
  private lruEnd = 0;
  /** slots compared by the last look-up */
  probes = 0;
  /** pages of all slots (kvm->nr_memslot_pages) */
  npages = 0;
  /** slots with KVM_MEM_LOG_DIRTY_PAGES (kvm->nr_memslots_dirty_logging) */
  logging = 0;
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

  /** The remembered slot: lru_slot, last_used_slot. */
  get lruSlot(): KvmMemorySlot | null {
    return this.lru;
  }

  /** The slot that contains gfn, or null. Slots that are being deleted (KVM_MEMSLOT_INVALID) are found too: callers check. */
  search(gfn: number): KvmMemorySlot | null {
    if (gfn >= this.lruBase && gfn < this.lruEnd) {
      this.probes = 1;
      return this.lru;
    }
    if (this.stale) this.index();
    const { tree } = this;
    const count = tree.length - 1;
    let k = 1;
    while (k <= count) k = 2 * k + Number(tree[k] <= gfn);
    this.probes = 32 - Math.clz32(k);
    // The last turn to the right was at the slot with the highest base that is not above gfn.
    k >>>= 32 - Math.clz32(k & -k);
    if (k === 0 || gfn >= this.ends[k]) return null;
    const found = this.list[this.places[k]];
    this.lru = found;
    this.lruBase = tree[k];
    this.lruEnd = this.ends[k];
    return found;
  }

  /** As {@link search}, and nothing is remembered. */
  peek(gfn: number): KvmMemorySlot | null {
    const found = this.list.at(this.placeOf(gfn)) ?? null;
    return found && gfn < found.base_gfn + found.npages ? found : null;
  }

  /** id_to_memslot() */
  byId(id: number): KvmMemorySlot | null {
    return this.ids.get(id) ?? null;
  }

  /** The first slot that shares a page with [base, base + npages), apart from the slot `except` and those that may; or null. */
  overlap(
    base: number,
    npages: number,
    except: number,
    may: (s: KvmMemorySlot) => boolean = () => false,
  ): KvmMemorySlot | null {
    const { list } = this;
    for (let i = this.placeOf(base + npages - 1); i < list.length; i++) {
      const s = list[i];
      const apart = base >= s.base_gfn + s.npages;
      // Only three-state slots may lie over one another, so that a lower one could still reach up to here.
      if (apart && this.modes.length === 0) return null;
      if (!apart && s.id !== except && !(s.flags & KVM_MEMSLOT_INVALID) && !may(s)) return s;
    }
    return null;
  }

  /** Puts a slot in its place (update_memslots / kvm_replace_memslot). */
  insert(slot: KvmMemorySlot): void {
    this.list.splice(this.placeOf(slot.base_gfn), 0, slot);
    this.ids.set(slot.id, slot);
    this.count(slot, 1);
    for (const mode of this.modesOf(slot)) mode.insert(slot);
  }

  /** Takes a slot out. */
  remove(slot: KvmMemorySlot): void {
    const at = this.list.indexOf(slot, this.placeOf(slot.base_gfn));
    if (at < 0) return;
    this.list.splice(at, 1);
    this.ids.delete(slot.id);
    this.count(slot, -1);
    if (this.lru === slot) this.forget();
    for (const mode of this.modesOf(slot)) mode.remove(slot);
  }

  private forget(): void {
    this.lru = null;
    this.lruBase = 0;
    this.lruEnd = 0;
  }

  /** Place of the first slot whose base is not above gfn. */
  private placeOf(gfn: number): number {
    let start = 0;
    let end = this.list.length;
    while (start < end) {
      const middle = (start + end) >>> 1;
      if (this.list[middle].base_gfn <= gfn) end = middle;
      else start = middle + 1;
    }
    return start;
  }

  private count(slot: KvmMemorySlot, by: 1 | -1): void {
    this.npages += by * slot.npages;
    if (slot.flags & KVM_MEM_LOG_DIRTY_PAGES) this.logging += by;
    this.stale = true;
  }

  private modesOf(slot: KvmMemorySlot): Memslots[] {
    return this.modes.filter((_, smm) => !(slot.flags & (smm ? KVM_MEM_X86_NORMAL_ONLY : KVM_MEM_X86_SMRAM)));
  }

  private index(): void {
    const { list } = this;
    const count = list.length;
    this.tree = new Float64Array(count + 1);
    this.ends = new Float64Array(count + 1);
    this.places = new Int32Array(count + 1);
    let place = count - 1;
    const fill = (k: number): void => {
      if (k > count) return;
      fill(2 * k);
      const s = list[place];
      this.tree[k] = s.base_gfn;
      this.ends[k] = s.base_gfn + s.npages;
      this.places[k] = place--;
      fill(2 * k + 1);
    };
    fill(1);
    this.stale = false;
  }
}

/** A power is a call, and there is one for each level of each fault. Level 0 does not exist. */
const PAGES_AT: readonly number[] = [NaN, 1, 512, 512 ** 2, 512 ** 3, 512 ** 4];

/** KVM_PAGES_PER_HPAGE(): 4K pages that an entry of a level (1 to 5) maps. */
export const KVM_PAGES_PER_HPAGE = (level: number): number => PAGES_AT[level];

/** Index of a gfn at a level within a slot (gfn_to_index). */
export const gfn_to_index = (gfn: number, base_gfn: number, level: number): number => {
  const pages = KVM_PAGES_PER_HPAGE(level);
  return Math.floor(gfn / pages) - Math.floor(base_gfn / pages);
};
