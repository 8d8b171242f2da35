/**
 * One bank of a TLB: the entries of one page size, four ways to a set, in typed arrays.
 */

/** Words per entry of a bank. */
export const TLB_STRIDE = 16;
// Word offsets in an entry.
export const T_HPA_LO = 0;
export const T_HPA_HI = 1;
export const T_GPA_LO = 2;
export const T_GPA_HI = 3;
export const T_RIGHTS = 4;
/** Bits 1 << ACC_READ, ACC_WRITE, ACC_FETCH: types of access that need no walk. */
export const T_SERVES = 5;
export const T_LEAF = 6;
export const T_LEVEL = 7;
export const T_SHIFT = 8;
export const T_S2_LEVEL = 9;
export const T_S2_SHIFT = 10;
export const T_MEMTYPE = 11;
export const T_IPAT = 12;
export const T_VA_LO = 13;
export const T_VA_HI = 14;
export const T_CONTEXT = 15;

const WAYS = 4;
const EMPTY = -1;
/** Contexts are numbered from 0; the number shares a word with 13 address bits. */
const CONTEXT_SHIFT = 13;
/** How many contexts there can be. */
export const MAX_CONTEXTS = 1 << 17;

/** Entries of one page size: `sets` sets of four ways. */
export class TlbBank {
  /** Two words per entry: page number bits 31:0; page number bits above, with the context. EMPTY in the second: no entry. */
  readonly tags: Int32Array;
  readonly data: Int32Array;
  private readonly next: Uint8Array;
  count = 0;

  constructor(
    readonly shift: number,
    readonly sets: number,
  ) {
    this.tags = new Int32Array(sets * WAYS * 2).fill(EMPTY);
    this.data = new Int32Array(sets * WAYS * TLB_STRIDE);
    this.next = new Uint8Array(sets);
  }

  /** Low word of the page number. */
  private pageLo(lo: number, hi: number): number {
    return (lo >>> this.shift) | (hi << (32 - this.shift));
  }

  /** The remaining bits of the page number (57-bit addresses). */
  private pageHi(hi: number): number {
    return (hi & 0x01ff_ffff) >>> this.shift;
  }

  /** Offset in {@link data} of the entry for hi:lo in `context` or, if global, `globals`; -1 if there is none. */
  find(lo: number, hi: number, context: number, globals: number): number {
    const { tags, shift } = this;
    const page = (lo >>> shift) | (hi << (32 - shift));
    const rest = (hi & 0x01ff_ffff) >>> shift;
    const own = rest | (context << CONTEXT_SHIFT);
    const shared = rest | (globals << CONTEXT_SHIFT);
    const first = (page & (this.sets - 1)) * (WAYS * 2);
    for (let t = first; t < first + WAYS * 2; t += 2) {
      if (tags[t] === page && (tags[t + 1] === own || tags[t + 1] === shared)) return t << 3;
    }
    return -1;
  }

  /** Makes room for an entry for hi:lo and tags it; an entry for the same page and context is replaced. Returns its offset. */
  insert(lo: number, hi: number, context: number): number {
    const { tags } = this;
    const page = this.pageLo(lo, hi);
    const tag = this.pageHi(hi) | (context << CONTEXT_SHIFT);
    const set = page & (this.sets - 1);
    const first = set * WAYS * 2;
    let at = -1;
    for (let t = first; t < first + WAYS * 2; t += 2) {
      if (tags[t] === page && tags[t + 1] === tag) {
        at = t;
        break;
      }
      if (at < 0 && tags[t + 1] === EMPTY) at = t;
    }
    if (at < 0) {
      at = first + 2 * this.next[set];
      this.next[set] = (this.next[set] + 1) % WAYS;
    }
    if (tags[at + 1] === EMPTY) this.count++;
    tags[at] = page;
    tags[at + 1] = tag;
    return at << 3;
  }

  /** Whether the entry at `offset` is in use. */
  used(offset: number): boolean {
    return this.tags[(offset >>> 3) + 1] !== EMPTY;
  }

  /** Removes entries for which `condemned` (given the offset in {@link data}) holds. Returns how many. */
  remove(condemned: (offset: number) => boolean): number {
    if (this.count === 0) return 0;
    let n = 0;
    for (let offset = 0; offset < this.data.length; offset += TLB_STRIDE) {
      if (!this.used(offset) || !condemned(offset)) continue;
      this.tags[(offset >>> 3) + 1] = EMPTY;
      n++;
    }
    this.count -= n;
    return n;
  }

  clone(): TlbBank {
    const b = new TlbBank(this.shift, this.sets);
    b.tags.set(this.tags);
    b.data.set(this.data);
    b.next.set(this.next);
    b.count = this.count;
    return b;
  }
}
