/**
 * What memory must contain, kept flat and apart from the machine: the pages of all backings one after another, the memslots of each
 * address space as a plain list, and what page-table entries used to be (a processor may remember an entry until it is told to forget).
 */
import { BACKINGS, PAGE, type BackingName, type SlotSpec } from './layout';

const WORDS = PAGE / 4;

/** A memslot as it is now. */
export interface SlotState {
  readonly spec: SlotSpec;
  gfn: number;
  logging: boolean;
  /** it came since shadow pages were last zapped, so stale MMIO sptes of its frames may be left */
  young: boolean;
  /** it was young since its address space last changed: a vCPU may remember a frame of it as MMIO, which no zap makes it forget */
  remembered: boolean;
  /** pages (index in the slot) that the guest wrote since the log was last taken */
  dirty: Set<number>;
  /** access maps of pages (index in the slot) whose sub-pages are not all writable: bit i for the 128 bytes from 128 i on */
  readonly maps: Map<number, number>;
}

/** A page-table entry as memory holds it, or held it; page -1: there is no memory. */
export interface EntryValue {
  readonly page: number;
  readonly lo: number;
  readonly hi: number;
}

interface WordChange {
  /** word in the page, -1: the whole page, which was `before` */
  readonly word: number;
  readonly old: number;
  readonly before: Uint32Array | null;
  readonly until: number;
}

const first = new Map<BackingName, number>();
let total = 0;
for (const b of BACKINGS) {
  first.set(b.name, total);
  total += b.pages;
}

/** Number of pages in the reference memory. */
export const TOTAL_PAGES = total;
/** Reference page of a page of a backing. */
export const pageIn = (name: BackingName, index: number): number => (first.get(name) as number) + index;
/** The backing of a reference page, and the page's index in it. */
export function placeOf(page: number): { name: BackingName; index: number } {
  const b = BACKINGS.findLast((x) => (first.get(x.name) as number) <= page) as (typeof BACKINGS)[number];
  return { name: b.name, index: page - (first.get(b.name) as number) };
}

export class Reference {
  /** Moves with each change and each flush; what was true `until` a time was seen before it. */
  now = 1;
  readonly words = new Uint32Array(TOTAL_PAGES * WORDS);
  /** by address space */
  readonly slots: SlotState[][] = [[], []];
  /** pages whose content may differ from zero */
  readonly touched = new Set<number>();
  private readonly changes = new Map<number, WordChange[]>();
  /** `as * 2^40 + gfn` -> pages that were there */
  private readonly moved = new Map<number, { page: number; until: number }[]>();
  /** last change of anything that a walk may read */
  lastChange = 0;

  /** The slot of a frame, or null for a hole. */
  slotAt(as: number, gfn: number): SlotState | null {
    for (const s of this.slots[as]) if (gfn >= s.gfn && gfn < s.gfn + s.spec.pages) return s;
    return null;
  }

  /** The reference page behind a guest frame, -1 for a hole. */
  pageAt(as: number, gfn: number): number {
    const s = this.slotAt(as, gfn);
    return s === null ? -1 : pageIn(s.spec.backing, s.spec.first + gfn - s.gfn);
  }

  read32(page: number, offset: number): number {
    return this.words[page * WORDS + (offset >>> 2)];
  }

  read(page: number, offset: number, size: number): bigint {
    let v = 0n;
    for (let i = size - 1; i >= 0; i--) {
      const at = offset + i;
      v = (v << 8n) | BigInt((this.words[page * WORDS + (at >>> 2)] >>> (8 * (at & 3))) & 0xff);
    }
    return v;
  }

  /** Somebody writes: what was there stays possible for a processor that has not flushed. */
  write(page: number, offset: number, size: number, value: bigint): void {
    const until = ++this.now;
    this.lastChange = until;
    this.touched.add(page);
    for (let word = offset >>> 2; word <= (offset + size - 1) >>> 2; word++) {
      const at = page * WORDS + word;
      const old = this.words[at];
      let v = old;
      for (let b = 0; b < 4; b++) {
        const i = word * 4 + b - offset;
        if (i < 0 || i >= size) continue;
        const byte = Number((value >> BigInt(8 * i)) & 0xffn);
        v = (v & ~(0xff << (8 * b))) | (byte << (8 * b));
      }
      this.words[at] = v;
      this.note(page, { word, old, before: null, until });
    }
  }

  /** An accessed or dirty flag that a processor set: no other value was ever usable instead. */
  setFlags(page: number, offset: number, value: number): void {
    this.touched.add(page);
    this.words[page * WORDS + (offset >>> 2)] = value;
  }

  /** The page is full of zeros from now on. */
  zero(page: number): void {
    const at = page * WORDS;
    const before = this.words.slice(at, at + WORDS);
    if (before.every((w) => w === 0)) return;
    const until = ++this.now;
    this.lastChange = until;
    this.words.fill(0, at, at + WORDS);
    this.note(page, { word: -1, old: 0, before, until });
  }

  private note(page: number, c: WordChange): void {
    const list = this.changes.get(page);
    if (list) list.push(c);
    else this.changes.set(page, [c]);
  }

  /** Changes the memslots of an address space with `edit`, remembering where table pages used to be. */
  changeSlots(as: number, gfns: Iterable<number>, edit: () => void): void {
    const watched = [...gfns];
    const before = watched.map((g) => this.pageAt(as, g));
    edit();
    const until = ++this.now;
    this.lastChange = until;
    watched.forEach((g, i) => {
      if (before[i] === this.pageAt(as, g)) return;
      const key = as * 2 ** 40 + g;
      const list = this.moved.get(key);
      if (list) list.push({ page: before[i], until });
      else this.moved.set(key, [{ page: before[i], until }]);
    });
  }

  /** Every value that the entry at a guest-physical address has had since a time, the present one first. */
  values(as: number, gfn: number, offset: number, size: 4 | 8, since: number, out: EntryValue[]): void {
    out.length = 0;
    this.versions(this.pageAt(as, gfn), offset, size, since, out);
    if (this.lastChange <= since) return;
    const old = this.moved.get(as * 2 ** 40 + gfn);
    if (old) for (const m of old) if (m.until > since) this.versions(m.page, offset, size, since, out);
  }

  private versions(page: number, offset: number, size: 4 | 8, since: number, out: EntryValue[]): void {
    if (page < 0) {
      out.push({ page, lo: 0, hi: 0 });
      return;
    }
    const word = offset >>> 2;
    let lo = this.words[page * WORDS + word];
    let hi = size === 8 ? this.words[page * WORDS + word + 1] : 0;
    add(out, page, lo, hi);
    if (this.lastChange <= since) return;
    const list = this.changes.get(page);
    if (!list) return;
    for (let i = list.length - 1; i >= 0 && list[i].until > since; i--) {
      const c = list[i];
      if (c.word === -1) {
        lo = (c.before as Uint32Array)[word];
        if (size === 8) hi = (c.before as Uint32Array)[word + 1];
      } else if (c.word === word) lo = c.old;
      else if (size === 8 && c.word === word + 1) hi = c.old;
      else continue;
      // both halves of one write change together
      if (i > 0 && list[i - 1].until === c.until) continue;
      add(out, page, lo, hi);
    }
  }

  /** Forgets what happened before a time: every processor has flushed since. */
  prune(before: number): void {
    for (const [page, list] of this.changes) {
      const keep = list.findIndex((c) => c.until > before);
      if (keep < 0) this.changes.delete(page);
      else if (keep > 0) list.splice(0, keep);
    }
    for (const [key, list] of this.moved) {
      const keep = list.filter((c) => c.until > before);
      if (keep.length === 0) this.moved.delete(key);
      else this.moved.set(key, keep);
    }
  }

  /** The access map of a frame: which of its sub-pages may be written. */
  mapAt(as: number, gfn: number): number {
    const s = this.slotAt(as, gfn);
    return s?.maps.get(gfn - s.gfn) ?? 0xffffffff;
  }

  /** Whether sub-page permissions forbid a write of so many bytes. */
  forbidden(as: number, gfn: number, offset: number, size: number): boolean {
    const map = this.mapAt(as, gfn);
    for (let i = offset >>> 7; i <= Math.min(4095, offset + size - 1) >>> 7; i++)
      if (((map >>> i) & 1) === 0) return true;
    return false;
  }

  /** The guest wrote a frame: a slot that logs has to know. */
  markDirty(as: number, gfn: number): void {
    const s = this.slotAt(as, gfn);
    if (s?.logging) s.dirty.add(gfn - s.gfn);
  }
}

function add(out: EntryValue[], page: number, lo: number, hi: number): void {
  for (const e of out) if (e.page === page && e.lo === lo && e.hi === hi) return;
  out.push({ page, lo, hi });
}
