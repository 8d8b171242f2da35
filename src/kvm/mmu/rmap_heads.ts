/**
 * The rmap heads of one slot at one level (struct kvm_rmap_head × the slot's gfns): which leaf sptes map each gfn.
 *
 * As in the kernel a head holds the address of the only spte itself, and a list only when there are several (pte_list_add()). The heads
 * are made in chunks as gfns get mapped: eight bytes for each gfn of a chunk, nothing for memory that nobody touched.
 */

/** Heads of a chunk: what one page table maps. */
const CHUNK = 512;

export class RmapHeads {
  /**
   * chunk number -> heads. A head is 0 (no spte), spteAddress + 1 (odd: the only spte) or 2 × list (even: an index into `lists`).
   */
  private readonly chunks = new Map<number, Float64Array>();
  private readonly lists: number[][] = [[]];
  private readonly freeLists: number[] = [];
  private mapped = 0;

  /** Number of gfns with an spte. */
  get size(): number {
    return this.mapped;
  }

  /** The sptes of the gfn with this index, oldest first: a copy, so that they may be dropped while it is read. */
  get(index: number): readonly number[] {
    const head = this.head(index);
    if (head === 0) return [];
    return head % 2 === 1 ? [head - 1] : [...this.lists[head / 2]];
  }

  /** pte_list_add(). @returns the number of sptes before */
  add(index: number, sptep: number): number {
    const at = index % CHUNK;
    const number = (index - at) / CHUNK;
    let chunk = this.chunks.get(number);
    if (chunk === undefined) {
      chunk = new Float64Array(CHUNK);
      this.chunks.set(number, chunk);
    }
    const head = chunk[at];
    if (head === 0) {
      chunk[at] = sptep + 1;
      this.mapped++;
      return 0;
    }
    if (head % 2 === 1) {
      const list = this.freeLists.pop() ?? this.lists.length;
      this.lists[list] = [head - 1, sptep];
      chunk[at] = 2 * list;
      return 1;
    }
    return this.lists[head / 2].push(sptep) - 1;
  }

  /** pte_list_remove(). @returns false when the spte is not there */
  remove(index: number, sptep: number): boolean {
    const at = index % CHUNK;
    const chunk = this.chunks.get((index - at) / CHUNK);
    const head = chunk?.[at] ?? 0;
    if (chunk === undefined || head === 0) return false;
    if (head % 2 === 1) {
      if (head !== sptep + 1) return false;
      chunk[at] = 0;
      this.mapped--;
      return true;
    }
    const list = this.lists[head / 2];
    const found = list.indexOf(sptep);
    if (found < 0) return false;
    list.splice(found, 1);
    if (list.length === 1) {
      chunk[at] = list[0] + 1;
      list.length = 0;
      this.freeLists.push(head / 2);
    }
    return true;
  }

  /** The indices in [from, to] that have an spte, ascending, as they are now. */
  keys(from = 0, to = Infinity): readonly number[] {
    const found: number[] = [];
    const numbers = [...this.chunks.keys()].filter((n) => (n + 1) * CHUNK > from && n * CHUNK <= to);
    for (const number of numbers.sort((a, b) => a - b))
      this.chunks.get(number)?.forEach((head, at) => {
        const index = number * CHUNK + at;
        if (head !== 0 && index >= from && index <= to) found.push(index);
      });
    return found;
  }

  private head(index: number): number {
    const at = index % CHUNK;
    return this.chunks.get((index - at) / CHUNK)?.[at] ?? 0;
  }
}
