/**
 * What is under {@link PhysMemory}: the arena that a memory and its forks share, and the hash table from frame number to slot in it.
 */

/** Words of a frame. */
export const FRAME_WORDS = 1024;
/** Bytes of a frame. */
export const FRAME_SIZE = 4096;
/** Frame numbers below this are hashed as 32-bit integers; the rest (addresses of 8 TiB and more) live in a Map. */
export const NEAR_LIMIT = 0x8000_0000;
/** Marks a free place in the hash table. No frame number: they are below 2^31. */
export const FREE = -1;
/** 2^32 / golden ratio, as a signed 32-bit number: spreads neighbouring frame numbers over the table. */
export const FIBONACCI = 0x9e3779b1 | 0;
/** The zero frame is never written: its count stays above 1, so that every writer makes a copy. */
const ZERO_SLOT_REFS = 0x3fff_ffff;

/** The frames that a memory and its forks share, with a reference count each. */
export class Arena {
  words = new Int32Array(16 * FRAME_WORDS);
  refs = new Int32Array(16);
  used = 1;
  readonly free: number[] = [];

  constructor() {
    this.refs[0] = ZERO_SLOT_REFS;
  }

  /** A slot of zeros with one reference. */
  allocate(): number {
    const recycled = this.free.pop();
    if (recycled !== undefined) {
      this.words.fill(0, recycled * FRAME_WORDS, (recycled + 1) * FRAME_WORDS);
      this.refs[recycled] = 1;
      return recycled;
    }
    if (this.used === this.refs.length) this.grow();
    this.refs[this.used] = 1;
    return this.used++;
  }

  copyOf(slot: number): number {
    const copy = this.allocate();
    this.words.copyWithin(copy * FRAME_WORDS, slot * FRAME_WORDS, (slot + 1) * FRAME_WORDS);
    return copy;
  }

  release(slot: number): void {
    if (--this.refs[slot] === 0) this.free.push(slot);
  }

  private grow(): void {
    const words = new Int32Array(this.words.length * 2);
    words.set(this.words);
    this.words = words;
    const refs = new Int32Array(this.refs.length * 2);
    refs.set(this.refs);
    this.refs = refs;
  }
}

/** Which slot each frame is in: what a memory owns and what has to be given back when it is gone. */
export class FrameTable {
  /** Places of two words: frame number (or FREE), slot. Length is a power of two. */
  places = new Int32Array(2 * 64).fill(FREE);
  /** 32 - log2(number of places). */
  shift = 26;
  count = 0;
  far: Map<number, number> | null = null;
  released = false;

  constructor(readonly arena: Arena) {}

  clone(): FrameTable {
    const t = new FrameTable(this.arena);
    t.places = this.places.slice();
    t.shift = this.shift;
    t.count = this.count;
    t.far = this.far === null ? null : new Map(this.far);
    const { places } = t;
    const { refs } = this.arena;
    for (let i = 0; i < places.length; i += 2) if (places[i] !== FREE) refs[places[i + 1]]++;
    if (t.far !== null) for (const slot of t.far.values()) refs[slot]++;
    return t;
  }

  release(): void {
    if (this.released) return;
    this.released = true;
    for (let i = 0; i < this.places.length; i += 2) {
      if (this.places[i] !== FREE) this.arena.release(this.places[i + 1]);
    }
    if (this.far !== null) for (const slot of this.far.values()) this.arena.release(slot);
    this.places = new Int32Array(2 * 2).fill(FREE);
    this.shift = 31;
    this.count = 0;
    this.far = null;
  }

  /** Index of the place of `pfn`, or of the free place where it would go. */
  place(pfn: number): number {
    const { places } = this;
    const mask = places.length - 1;
    let i = (Math.imul(pfn, FIBONACCI) >>> this.shift) << 1;
    while (places[i] !== pfn && places[i] !== FREE) i = (i + 2) & mask;
    return i;
  }

  set(pfn: number, slot: number): void {
    if (pfn >= NEAR_LIMIT) {
      (this.far ??= new Map()).set(pfn, slot);
      return;
    }
    let i = this.place(pfn);
    if (this.places[i] === FREE) {
      // Two thirds full at most: the hash spreads neighbouring frames so evenly that few meet.
      if (this.count * 3 >= this.places.length) {
        this.double();
        i = this.place(pfn);
      }
      this.places[i] = pfn;
      this.count++;
    }
    this.places[i + 1] = slot;
  }

  /** Takes `pfn` out; returns its slot, 0 if it had none. */
  delete(pfn: number): number {
    if (pfn >= NEAR_LIMIT) {
      const slot = this.far?.get(pfn) ?? 0;
      this.far?.delete(pfn);
      return slot;
    }
    let hole = this.place(pfn);
    const { places } = this;
    if (places[hole] === FREE) return 0;
    const slot = places[hole + 1];
    const mask = places.length - 1;
    // Linear probing: move later entries of the run back so that no lookup ends early at the hole.
    for (let i = (hole + 2) & mask; places[i] !== FREE; i = (i + 2) & mask) {
      const home = (Math.imul(places[i], FIBONACCI) >>> this.shift) << 1;
      if (((i - home) & mask) >= ((i - hole) & mask)) {
        places[hole] = places[i];
        places[hole + 1] = places[i + 1];
        hole = i;
      }
    }
    places[hole] = FREE;
    this.count--;
    return slot;
  }

  private double(): void {
    const old = this.places;
    this.places = new Int32Array(old.length * 2).fill(FREE);
    this.shift--;
    for (let i = 0; i < old.length; i += 2) {
      if (old[i] === FREE) continue;
      const j = this.place(old[i]);
      this.places[j] = old[i];
      this.places[j + 1] = old[i + 1];
    }
  }
}
