/**
 * All pages that a set of page tables maps, in address order: neighbours that continue each other are one run. Columns of typed arrays,
 * because a kernel maps a million pages and a list of objects would cost more than the walk.
 */
import { OK, R_HPA_HI, R_HPA_LO, RIGHT_NX, S2_TABLE } from './access';
import type { PhysMemory } from './memory';
import { LV_FIXED, LV_LEAF, LV_LEAF_HI, LV_LEAF_LO, LV_STRIDE, LV_TABLE_HI, LV_TABLE_LO, PTE_P } from './paging';
import { S2_NONE, secondStage } from './second-stage';
import type { Translator } from './translate';

/** What to list and how. */
export interface LeafOptions {
  /** List entries with reserved bits set too, as QEMU's monitor does; a processor faults on them. */
  ignoreReserved?: boolean;
  /** Rows after which to stop; the result says if it did. Tables that refer to themselves can map any number of pages. */
  limit?: number;
}

/** Rows that are listed unless asked otherwise: more than any kernel maps. */
const DEFAULT_LIMIT = 1 << 24;

/** Low bits of the last entry that tell runs apart: U/S, R/W, PWT, PCD, PAT/PS and G, not A and D. */
const ATTRIBUTES = 0x19e;

/** Runs of mapped pages, one row each. */
export class LeafRuns {
  count = 0;
  /** The limit was reached: there are more. */
  truncated = false;
  private room = 1024;
  /** First linear address, halves (signed). */
  vaLo = new Int32Array(this.room);
  vaHi = new Int32Array(this.room);
  /** Guest-physical address that it is mapped to, halves. */
  gpaLo = new Int32Array(this.room);
  gpaHi = new Int32Array(this.room);
  /** Number of pages. */
  pages = new Int32Array(this.room);
  /** Level of the entries that map them: 1 = 4 KiB, 2 = 2 or 4 MiB, 3 = 1 GiB. */
  level = new Uint8Array(this.room);
  /** Effective rights, all levels combined: RIGHT_*. */
  rights = new Uint8Array(this.room);
  /** Low 9 bits of the last entry that are neither P, A nor D. */
  attributes = new Uint16Array(this.room);

  grow(): void {
    // Fresh memory costs more than copying: few, large steps, of which the system backs only what is used.
    this.room *= 4;
    const { room } = this;
    const wider = <T extends Int32Array | Uint8Array | Uint16Array>(a: T): T => {
      const b = new (a.constructor as new (n: number) => T)(room);
      b.set(a);
      return b;
    };
    this.vaLo = wider(this.vaLo);
    this.vaHi = wider(this.vaHi);
    this.gpaLo = wider(this.gpaLo);
    this.gpaHi = wider(this.gpaHi);
    this.pages = wider(this.pages);
    this.level = wider(this.level);
    this.rights = wider(this.rights);
    this.attributes = wider(this.attributes);
  }

  get full(): boolean {
    return this.count === this.room;
  }

  /** First linear address of row `i`, canonical form. */
  va(i: number): bigint {
    return (BigInt(this.vaHi[i] >>> 0) << 32n) | BigInt(this.vaLo[i] >>> 0);
  }

  gpa(i: number): bigint {
    return (BigInt(this.gpaHi[i] >>> 0) << 32n) | BigInt(this.gpaLo[i] >>> 0);
  }

  /** Bytes per page of row `i` under `t`'s paging mode. */
  pageSize(i: number, indexBits: 9 | 10): bigint {
    return 1n << BigInt(12 + (this.level[i] - 1) * indexBits);
  }

  /** Bytes of row `i`. */
  size(i: number, indexBits: 9 | 10): bigint {
    return BigInt(this.pages[i]) * this.pageSize(i, indexBits);
  }
}

/**
 * Lists what the guest's tables of `t` map now. Nothing is written. Guest tables that the second stage does not map are left out.
 */
export function listLeaves(t: Translator, options: LeafOptions = {}): LeafRuns {
  const out = new LeafRuns();
  const { guest } = t;
  const { tables } = guest;
  if (tables.top === 0) return out;
  const x = t.context;
  const saved = { dry: x.dry, tlb: x.tlb, recorder: x.recorder };
  x.dry = true;
  x.tlb = null;
  x.recorder = null;
  try {
    const lister = new Lister(t, out, options.ignoreReserved === true, options.limit ?? DEFAULT_LIMIT);
    if (tables.top === 3 && guest.pdpteRegisters) {
      for (let i = 0; i < 4; i++) {
        const lo = guest.pdptes[2 * i];
        const hi = guest.pdptes[2 * i + 1];
        if ((lo & PTE_P) !== 0) lister.table(2, lo & 0xffff_f000, hi & 0x000f_ffff, i << 30, 0, -1, 0);
      }
    } else {
      lister.table(tables.top, guest.rootLo, guest.rootHi, 0, 0, -1, 0);
    }
  } finally {
    Object.assign(x, saved);
  }
  return out;
}

class Lister {
  private readonly memory: PhysMemory;
  private readonly levels: Int32Array;
  private readonly wide: boolean;
  private readonly indexBits: number;
  private readonly canonicalShift: number;
  private readonly pse36Mask: number;
  private readonly nested: boolean;
  /** Where the last run would go on: guest-physical and linear address, halves. */
  private readonly next = new Int32Array(4);

  constructor(
    private readonly t: Translator,
    private readonly out: LeafRuns,
    private readonly ignoreReserved: boolean,
    private readonly limit: number,
  ) {
    const { tables, stage2 } = t.guest;
    this.memory = t.memory;
    this.levels = tables.levels;
    this.wide = tables.entryShift === 3;
    this.indexBits = tables.mode.indexBits;
    this.canonicalShift = tables.canonicalShift;
    this.pse36Mask = tables.pse36Mask;
    this.nested = stage2.kind !== S2_NONE;
  }

  /** Slot of the frame that holds the table, through the second stage; -1 if it is not mapped. */
  private slot(lo: number, hi: number): number {
    if (!this.nested) return this.memory.find(lo, hi);
    const { context: x, stage2 } = this.t;
    if (secondStage(x, stage2, lo, hi, 0, S2_TABLE) !== OK) return -1;
    return this.memory.find(x.r[R_HPA_LO], x.r[R_HPA_HI]);
  }

  /** Lists one table and what it refers to. `and`, `nx`: all entries above it combined. */
  table(level: number, lo: number, hi: number, vaLo: number, vaHi: number, and: number, nx: number): void {
    const slot = this.slot(lo, hi);
    if (slot <= 0) return;
    const { levels, wide, ignoreReserved } = this;
    const { words } = this.memory;
    const at = level * LV_STRIDE;
    const leafBit = levels[at + LV_LEAF];
    const tableLo = ignoreReserved ? 0 : levels[at + LV_TABLE_LO];
    const tableHi = ignoreReserved ? 0 : levels[at + LV_TABLE_HI];
    const leafLo = ignoreReserved ? 0 : levels[at + LV_LEAF_LO];
    const leafHi = ignoreReserved ? 0 : levels[at + LV_LEAF_HI];
    const fixed = levels[at + LV_FIXED];
    const shift = 12 + (level - 1) * this.indexBits;
    const base = (slot << 10) | (level === 3 && wide ? (lo & 0xfe0) >>> 2 : 0);
    const n = level === 3 && this.t.guest.tables.top === 3 ? 4 : 1 << this.indexBits;
    for (let i = 0; i < n && !this.out.truncated; i++) {
      const w = wide ? base + 2 * i : base + i;
      const entryLo = words[w];
      if ((entryLo & PTE_P) === 0) continue;
      const entryHi = wide ? words[w + 1] : 0;
      // `i << shift` in 64 bits; the top level's sign fills the bits above.
      const pageLo = shift < 32 ? vaLo | (i << shift) : vaLo;
      let pageHi = vaHi | (shift >= 32 ? i << (shift - 32) : shift > 22 ? i >>> (32 - shift) : 0);
      if (this.canonicalShift !== 0) pageHi = (pageHi << this.canonicalShift) >> this.canonicalShift;
      if ((entryLo & leafBit) !== 0) {
        if (((entryLo & leafLo) | (entryHi & leafHi)) === 0) this.leaf(level, shift, entryLo, entryHi, pageLo, pageHi, and, nx);
      } else if (((entryLo & tableLo) | (entryHi & tableHi)) === 0) {
        this.table(level - 1, entryLo & 0xffff_f000, entryHi & 0x000f_ffff, pageLo, pageHi, and & (entryLo | fixed), nx | entryHi);
      }
    }
  } // prettier-ignore

  private leaf(level: number, shift: number, lo: number, hi: number, vaLo: number, vaHi: number, and: number, nx: number): void {
    const { out, next } = this;
    const bytes = 1 << shift;
    const gpaLo = lo & -bytes & 0xffff_f000;
    const gpaHi = this.wide ? hi & 0x000f_ffff : level === 2 ? (lo >>> 13) & this.pse36Mask : 0;
    const rights = (((and & lo) >>> 1) & 3) | ((nx | hi) < 0 ? RIGHT_NX : 0);
    const attributes = lo & ATTRIBUTES;
    let row = out.count - 1;
    // Does this page continue the last run, in linear and in guest-physical addresses, with the same rights?
    if (
      gpaLo === next[0] &&
      gpaHi === next[1] &&
      vaLo === next[2] &&
      vaHi === next[3] &&
      row >= 0 &&
      out.level[row] === level &&
      out.rights[row] === rights &&
      out.attributes[row] === attributes
    ) {
      out.pages[row]++;
    } else {
      if (out.count >= this.limit) {
        out.truncated = true;
        return;
      }
      if (out.full) out.grow();
      row = out.count++;
      out.vaLo[row] = vaLo;
      out.vaHi[row] = vaHi;
      out.gpaLo[row] = gpaLo;
      out.gpaHi[row] = gpaHi;
      out.pages[row] = 1;
      out.level[row] = level;
      out.rights[row] = rights;
      out.attributes[row] = attributes;
    }
    next[0] = gpaLo + bytes;
    next[1] = gpaHi + (next[0] === 0 ? 1 : 0);
    next[2] = vaLo + bytes;
    next[3] = vaHi + (next[2] === 0 ? 1 : 0);
  } // prettier-ignore
}
