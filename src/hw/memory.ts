/**
 * Host-physical memory: sparse frames of 4 KiB, cheap to snapshot.
 *
 * All frames of a memory and of the snapshots forked from it live in one growing array of 32-bit words, the arena. A memory is a
 * hash table from frame number to slot in the arena; the table walkers index it directly ({@link PhysMemory.find},
 * {@link PhysMemory.words}), because a page walk is little more than such loads. Slot 0 is a frame of zeros: memory that was never
 * written reads as zero without a branch. Frames are shared between a memory and its forks until one of them writes: then that one
 * copies the frame. Reads pay nothing for this, a write pays one look at a reference count.
 *
 * Addresses are plain numbers (a physical address is at most 2^52, a double holds it exactly); 64-bit words are pairs (lo, hi) of
 * 32-bit numbers.
 */

import { Arena, FIBONACCI, FRAME_SIZE, FRAME_WORDS, FrameTable, FREE, NEAR_LIMIT } from './memory-frames';

/** This module's own names: V8 folds them into the lookup below, imported ones it loads each time. */
const HASH = FIBONACCI;
const NONE = FREE;

/** Gives back the frames of forks that were dropped without {@link PhysMemory.release}. */
const dropped = new FinalizationRegistry<FrameTable>((table) => table.release());

/** Thrown for an address or frame number that no physical memory has. The message is one sentence for the user. */
export class MemoryError extends Error {
  override readonly name = 'MemoryError';
}

/** Sparse physical memory of 4 KiB frames. See the head of this file for how it works. */
export class PhysMemory {
  private readonly table: FrameTable;
  private readonly arena: Arena;
  /** Whether `dropped` knows this memory. A memory that was never forked takes its whole arena with it and needs no watching. */
  private watched = false;

  constructor(table: FrameTable = new FrameTable(new Arena())) {
    this.table = table;
    this.arena = table.arena;
  }

  /**
   * Where frames come from that are not in memory yet (a dump, a running machine): their bytes, or undefined if there is no such frame.
   * A frame is asked for once, when it is first read or written. Forks have the same backing.
   */
  backing: ((pfn: number) => Uint8Array | undefined) | null = null;

  /** Number of frames that exist, i.e. were written or asked for with {@link frame}. */
  get frameCount(): number {
    return this.table.count + (this.table.far?.size ?? 0);
  }

  /** Frame numbers of all existing frames, ascending. */
  frames(): number[] {
    const { places, far } = this.table;
    const pfns: number[] = [];
    for (let i = 0; i < places.length; i += 2) if (places[i] !== FREE) pfns.push(places[i]);
    if (far !== null) pfns.push(...far.keys());
    return pfns.sort((a, b) => a - b);
  }

  /**
   * A copy-on-write snapshot: both memories read the same now, and what either writes from now on the other does not see.
   * Costs four bytes per existing frame, no frame is copied. Drop the snapshot or, when memory matters, {@link release} it.
   */
  fork(): PhysMemory {
    const child = new PhysMemory(this.table.clone());
    child.backing = this.backing;
    dropped.register(child, child.table);
    if (!this.watched) {
      this.watched = true;
      dropped.register(this, this.table);
    }
    return child;
  }

  /** Gives this memory's frames back. It reads as zeros afterwards. Optional: a dropped fork is found by the garbage collector. */
  release(): void {
    this.table.release();
  }

  // ---- What the table walkers use ----

  /**
   * The arena's words, indexed by `slot << 10 | word`. Signed, because V8 handles signed 32-bit integers without detours.
   * The array is replaced when the arena grows: take it anew for each walk, and write through {@link own} only.
   */
  get words(): Int32Array {
    return this.arena.words;
  }

  /** The hash table: pairs of frame number and slot, see {@link find}. Replaced when it grows. */
  get places(): Int32Array {
    return this.table.places;
  }

  /** How far the hash of a frame number is shifted right to give a pair's number. */
  get placeShift(): number {
    return this.table.shift;
  }

  /** Slot of the frame at `hi:lo` (a physical address in two 32-bit halves); 0, the zero frame, if it does not exist. */
  find(lo: number, hi: number): number {
    if (hi >>> 11 !== 0) return this.findFar((hi >>> 0) * 0x10_0000 + (lo >>> 12));
    const pfn = (lo >>> 12) | (hi << 20);
    const { places, shift } = this.table;
    const mask = places.length - 1;
    let i = (Math.imul(pfn, HASH) >>> shift) << 1;
    for (;;) {
      const at = places[i];
      if (at === pfn) return places[i | 1];
      if (at === NONE) return this.backing === null ? 0 : this.fetch(pfn);
      i = (i + 2) & mask;
    }
  }

  /** Takes a frame from the backing store into memory; 0 if it has none. */
  private fetch(pfn: number): number {
    const bytes = this.backing!(pfn);
    if (bytes === undefined) return 0;
    const slot = this.arena.allocate();
    new Uint8Array(this.arena.words.buffer, slot * FRAME_SIZE, FRAME_SIZE).set(bytes.subarray(0, FRAME_SIZE));
    this.table.set(pfn, slot);
    return slot;
  }

  /** Slot of frame `pfn`, made if need be, that only this memory refers to: the one that may be written. */
  own(pfn: number): number {
    const slot = this.slotOf(pfn);
    const { arena } = this;
    if (slot !== 0 && arena.refs[slot] === 1) return slot;
    const mine = slot === 0 ? arena.allocate() : arena.copyOf(slot);
    if (slot !== 0) arena.release(slot);
    this.table.set(pfn, mine);
    return mine;
  }

  // ---- Whole frames ----

  /**
   * The 1024 words of frame `pfn`, made of zeros if it does not exist, for reading and writing.
   *
   * The view is for immediate use. It goes stale as soon as another frame comes into being or {@link fork} is called: writes to it
   * are lost then. Code that holds on to a table holds its frame number, and reads and writes with the methods below.
   * @throws MemoryError if `pfn` is no frame number (an integer in 0 .. 2^40-1).
   */
  frame(pfn: number): Uint32Array {
    checkFrame(pfn);
    return this.view(this.own(pfn));
  }

  /** The words of frame `pfn` for reading only, undefined if it does not exist. The view goes stale as that of {@link frame}. */
  peek(pfn: number): Uint32Array | undefined {
    const slot = this.slotOf(pfn);
    return slot === 0 ? undefined : this.view(slot);
  }

  /** Whether frame `pfn` exists. */
  has(pfn: number): boolean {
    return this.slotOf(pfn) !== 0;
  }

  /** Forgets frame `pfn`: it reads as zeros and takes no space. */
  drop(pfn: number): void {
    const slot = this.table.delete(pfn);
    if (slot !== 0) this.arena.release(slot);
  }

  // ---- Words. Multi-byte words are little-endian and naturally aligned, as page-table entries are. ----

  read8(pa: number): number {
    const word = this.arena.words[this.at(pa)];
    return (word >>> ((pa & 3) << 3)) & 0xff;
  }

  /** @throws MemoryError if `pa` is not a multiple of 2; likewise below. */
  read16(pa: number): number {
    checkAligned(pa, 2);
    const word = this.arena.words[this.at(pa)];
    return (word >>> ((pa & 2) << 3)) & 0xffff;
  }

  read32(pa: number): number {
    checkAligned(pa, 4);
    return this.arena.words[this.at(pa)] >>> 0;
  }

  /** Low half of the aligned 64-bit word at `pa`, 0 .. 2^32-1. */
  readLo(pa: number): number {
    checkAligned(pa, 8);
    return this.arena.words[this.at(pa)] >>> 0;
  }

  /** High half of the aligned 64-bit word at `pa`, 0 .. 2^32-1. */
  readHi(pa: number): number {
    checkAligned(pa, 8);
    return this.arena.words[this.at(pa) | 1] >>> 0;
  }

  /** The aligned 64-bit word at `pa`. Allocates: for displays and tests, not for walks. */
  readQ(pa: number): bigint {
    return (BigInt(this.readHi(pa)) << 32n) | BigInt(this.readLo(pa));
  }

  write8(pa: number, value: number): void {
    const shift = (pa & 3) << 3;
    const at = this.writable(pa);
    const { words } = this.arena;
    words[at] = (words[at] & ~(0xff << shift)) | ((value & 0xff) << shift);
  }

  write16(pa: number, value: number): void {
    checkAligned(pa, 2);
    const shift = (pa & 2) << 3;
    const at = this.writable(pa);
    const { words } = this.arena;
    words[at] = (words[at] & ~(0xffff << shift)) | ((value & 0xffff) << shift);
  }

  write32(pa: number, value: number): void {
    checkAligned(pa, 4);
    const at = this.writable(pa);
    this.arena.words[at] = value;
  }

  /** Writes the aligned 64-bit word at `pa`. */
  writeQ(pa: number, lo: number, hi: number): void {
    checkAligned(pa, 8);
    const at = this.writable(pa);
    const { words } = this.arena;
    words[at] = lo;
    words[at | 1] = hi;
  }

  /** `length` bytes from `pa` on, across frames. */
  readBytes(pa: number, length: number): Uint8Array {
    checkAddress(pa);
    const out = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const offset = (pa + done) % FRAME_SIZE;
      const part = Math.min(FRAME_SIZE - offset, length - done);
      const slot = this.slotOf(Math.floor((pa + done) / FRAME_SIZE));
      if (slot !== 0) out.set(new Uint8Array(this.arena.words.buffer, slot * FRAME_SIZE + offset, part), done);
      done += part;
    }
    return out;
  }

  /** Writes `bytes` from `pa` on, across frames. */
  writeBytes(pa: number, bytes: Uint8Array): void {
    checkAddress(pa);
    for (let done = 0; done < bytes.length;) {
      const offset = (pa + done) % FRAME_SIZE;
      const part = Math.min(FRAME_SIZE - offset, bytes.length - done);
      const slot = this.own(Math.floor((pa + done) / FRAME_SIZE));
      new Uint8Array(this.arena.words.buffer, slot * FRAME_SIZE + offset, part).set(bytes.subarray(done, done + part));
      done += part;
    }
  }

  private slotOf(pfn: number): number {
    return pfn < NEAR_LIMIT ? this.find(pfn << 12, (pfn / 0x10_0000) | 0) : this.findFar(pfn);
  }

  private findFar(pfn: number): number {
    return this.table.far?.get(pfn) ?? (this.backing === null ? 0 : this.fetch(pfn));
  }

  private view(slot: number): Uint32Array {
    return new Uint32Array(this.arena.words.buffer, slot * FRAME_SIZE, FRAME_WORDS);
  }

  /** Index in the arena of the word that holds `pa`. */
  private at(pa: number): number {
    const lo = pa >>> 0;
    const hi = (pa / 0x1_0000_0000) >>> 0;
    // Cheaper than checkAddress(), and as strict: fractions, negative numbers and NaN are not the sum of their halves.
    if (hi >= 0x10_0000 || hi * 0x1_0000_0000 + lo !== pa) checkAddress(pa);
    return (this.find(lo | 0, hi | 0) << 10) | ((pa & 0xffc) >>> 2);
  }

  private writable(pa: number): number {
    const lo = pa >>> 0;
    const hi = (pa / 0x1_0000_0000) >>> 0;
    if (hi >= 0x10_0000 || hi * 0x1_0000_0000 + lo !== pa) checkAddress(pa);
    return (this.own(hi * 0x10_0000 + (lo >>> 12)) << 10) | ((pa & 0xffc) >>> 2);
  }
}

function checkAddress(pa: number): void {
  if (!(pa >= 0 && pa < 2 ** 52) || !Number.isInteger(pa)) {
    throw new MemoryError(`${pa} is not a physical address: it must be an integer from 0 to 2^52-1`);
  }
}

function checkAligned(pa: number, size: number): void {
  if ((pa & (size - 1)) !== 0) {
    throw new MemoryError(
      `physical address 0x${pa.toString(16)} is not a multiple of ${size}: use readBytes/writeBytes`,
    );
  }
}

function checkFrame(pfn: number): void {
  if (!(pfn >= 0 && pfn < 2 ** 40) || !Number.isInteger(pfn)) {
    throw new MemoryError(`${pfn} is not a frame number: it must be an integer from 0 to 2^40-1`);
  }
}
