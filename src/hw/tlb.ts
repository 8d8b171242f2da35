/**
 * What a logical processor remembers of earlier translations: the TLB, the paging-structure caches and, with a second stage, the
 * guest-physical mappings. Entries stay until an instruction flushes them or they are displaced; nothing notices that a table in memory
 * was edited. That is the point: a missing flush shows as a stale translation.
 *
 * Every entry belongs to a context, i.e. what hardware tags it with: VPID (or ASID), PCID and the root of the second stage (EP4TA).
 * Which entries an instruction removes follows SDM vol. 3A "Caching Translation Information" (INVLPG, INVPCID, MOV to CR), vol. 3C
 * "Caching Translation Information" (INVEPT, INVVPID, VM transitions) and APM vol. 2, "Translation-Lookaside Buffer" and "TLB Control" (ASIDs). Where the
 * manuals leave room, entries here live as long as they are allowed to: removed is what must be removed.
 *
 * Sizes and replacement are this model's own (1024 entries of 4 KiB, 64 of 2 MiB, 16 of 1 GiB, four ways, round robin) and deterministic.
 */

import {
  MAX_CONTEXTS,
  T_CONTEXT,
  T_GPA_HI,
  T_GPA_LO,
  T_HPA_HI,
  T_HPA_LO,
  T_LEVEL,
  T_RIGHTS,
  T_SERVES,
  T_SHIFT,
  T_VA_HI,
  T_VA_LO,
  TLB_STRIDE,
  TlbBank,
} from './tlb-bank';

/** The tags of a set of entries. */
export interface TlbContext {
  /** VPID, or ASID on AMD; 0 outside VMX non-root operation. */
  readonly vpid: number;
  readonly pcid: number;
  /** Root of the second stage as text of its kind and address (`ept:0x1000`), empty without one. */
  readonly stage2: string;
}

/** Levels at which translations are remembered: pages by their size, entries that refer to tables by their level. */
export type TlbKind = 'page' | 'paging-structure' | 'guest-physical';

/** One remembered translation, for display. */
export interface TlbEntry {
  kind: TlbKind;
  context: TlbContext;
  global: boolean;
  /** First linear (kind guest-physical: guest-physical) address that it covers. */
  address: bigint;
  /** log2 of how many bytes it covers. */
  shift: number;
  /** Page: host-physical address of the page. Paging structure: guest-physical address of the next table. */
  target: bigint;
  /** Guest-physical address of the page; same as `target` without second stage. */
  gpa: bigint;
  /** Effective guest rights: RIGHT_* of access.ts. */
  rights: number;
  /** What the entry serves without a walk: `r`, `w` (all dirty flags were set), `x`. */
  serves: string;
  /** Of a paging-structure entry: level of the table entry it remembers (2 … 5); of a page: level of the guest's last entry. */
  level: number;
  /** Number of the context, see {@link Tlb.contextOf}. */
  contextNumber: number;
}

// Words of a paging-structure entry, in the layout of a page entry: T_HPA is the next table (as the entry holds it), T_GPA the AND of
// the low and the OR of the high halves of the entries from the top down to this one.
export const P_TABLE_LO = T_HPA_LO;
export const P_TABLE_HI = T_HPA_HI;
export const P_AND = T_GPA_LO;
export const P_NX = T_GPA_HI;

/** Shift of the addresses that an entry of this level covers, for 64-bit entries. */
const structureShift = (level: number): number => 3 + 9 * level;

/** What a context number stands for: entries of one PCID, global entries of a VPID, or mappings of a second stage alone. */
type ContextKind = 'pcid' | 'global' | 'physical';

interface ContextRecord extends TlbContext {
  readonly kind: ContextKind;
  /** Last root of the guest's tables used with it, for finding stale entries. */
  rootLo: number;
  rootHi: number;
}

/** Which caches a {@link Tlb} has. */
export interface TlbOptions {
  /** Remember entries that refer to tables. Emulators (TCG, Bochs) have no such cache. */
  pagingStructures?: boolean;
  /** Remember guest-physical mappings apart from linear ones. */
  guestPhysical?: boolean;
}

/** All translation caches of one logical processor. */
export class Tlb {
  page4k = new TlbBank(12, 256);
  page2m = new TlbBank(21, 16);
  page1g = new TlbBank(30, 4);
  /** By level of the entry, 2 … 5; null if paging-structure caches are off. */
  structures: (TlbBank | null)[];
  physical: TlbBank | null;
  /** Number of the current context, of its global entries and of its guest-physical mappings. */
  context = 0;
  globals = 0;
  physicalContext = 0;
  private contexts: ContextRecord[] = [];
  private numbers = new Map<string, number>();
  private vpid = 0;
  private pcid = 0;
  private stage2 = '';
  /** Counters since the last {@link resetCounters}. */
  hits = 0;
  misses = 0;

  constructor(readonly options: TlbOptions = {}) {
    const { pagingStructures = true, guestPhysical = true } = options;
    // A PDE covers 2 MiB, a PDPTE 1 GiB, a PML4E 512 GiB, a PML5E 256 TiB. The bank's address shift is at most 31, so the upper two
    // are looked up by the high half of the address alone, as if it were the low one: see walk.ts.
    this.structures = [
      null,
      null,
      ...[2, 3, 4, 5].map((level) => (pagingStructures ? new TlbBank(level === 2 ? 21 : level === 3 ? 30 : level === 4 ? 7 : 16, 16) : null)),
    ]; // prettier-ignore
    this.physical = guestPhysical ? new TlbBank(12, 256) : null;
    this.enter(0, 0, '', 0, 0);
  }

  /** A copy with the same contents, for snapshots of a machine. */
  clone(): Tlb {
    const t = new Tlb(this.options);
    t.page4k = this.page4k.clone();
    t.page2m = this.page2m.clone();
    t.page1g = this.page1g.clone();
    t.structures = this.structures.map((b) => b?.clone() ?? null);
    t.physical = this.physical?.clone() ?? null;
    t.context = this.context;
    t.globals = this.globals;
    t.physicalContext = this.physicalContext;
    t.contexts = this.contexts.map((c) => ({ ...c }));
    t.numbers = new Map(this.numbers);
    t.vpid = this.vpid;
    t.pcid = this.pcid;
    t.stage2 = this.stage2;
    t.hits = this.hits;
    t.misses = this.misses;
    return t;
  }

  private numberOf(
    kind: ContextKind,
    vpid: number,
    pcid: number,
    stage2: string,
    rootLo: number,
    rootHi: number,
  ): number {
    const key = `${kind} ${vpid} ${pcid} ${stage2}`;
    let n = this.numbers.get(key);
    if (n === undefined) {
      n = this.contexts.length;
      this.contexts.push({ kind, vpid, pcid, stage2, rootLo, rootHi });
      this.numbers.set(key, n);
    }
    this.contexts[n].rootLo = rootLo;
    this.contexts[n].rootHi = rootHi;
    return n;
  }

  /** All numbers are used up: start over with empty caches, as a processor may at any time. */
  private forgetContexts(): void {
    this.flushAll();
    this.contexts = [];
    this.numbers.clear();
  }

  /**
   * Makes the entries of a VPID (ASID), PCID and second-stage root the current ones. Removes nothing.
   * @param stage2 kind and root, empty without second stage
   */
  enter(vpid: number, pcid: number, stage2: string, rootLo: number, rootHi: number): void {
    this.vpid = vpid;
    this.pcid = pcid;
    this.stage2 = stage2;
    if (this.contexts.length + 3 > MAX_CONTEXTS) this.forgetContexts();
    this.globals = this.numberOf('global', vpid, 0, stage2, rootLo, rootHi);
    this.physicalContext = this.numberOf('physical', 0, 0, stage2, 0, 0);
    this.context = this.numberOf('pcid', vpid, pcid, stage2, rootLo, rootHi);
  }

  /** The context of an entry's number, with the root last used in it. */
  contextOf(number: number): Readonly<ContextRecord> {
    return this.contexts[number];
  }

  resetCounters(): void {
    this.hits = 0;
    this.misses = 0;
  }

  // ---- Removal. Each returns the number of entries removed. ----

  private removePages(condemned: (c: ContextRecord, data: Int32Array, offset: number) => boolean): number {
    let n = 0;
    for (const bank of [this.page4k, this.page2m, this.page1g]) {
      n += bank.remove((o) => condemned(this.contexts[bank.data[o + T_CONTEXT]], bank.data, o));
    }
    return n;
  }

  private removeStructures(condemned: (c: ContextRecord) => boolean): number {
    let n = 0;
    for (const bank of this.structures) {
      if (bank !== null) n += bank.remove((o) => condemned(this.contexts[bank.data[o + T_CONTEXT]]));
    }
    return n;
  }

  /** Empties everything, as at reset. */
  flushAll(): number {
    return this.removePages(() => true) + this.removeStructures(() => true) + (this.physical?.remove(() => true) ?? 0);
  }

  /**
   * INVLPG: the page of the current VPID and PCID that holds hi:lo, global or not, however it was split up, and all paging-structure
   * entries of the current PCID.
   */
  invlpg(lo: number, hi: number): number {
    return this.invalidatePage(this.vpid, this.pcid, lo, hi, true);
  }

  private invalidatePage(vpid: number, pcid: number, lo: number, hi: number, globals: boolean): number {
    const pages = this.removePages(
      (c, d, o) => c.vpid === vpid && (c.kind === 'global' ? globals : c.pcid === pcid) && covers(d, o, lo, hi),
    );
    return pages + this.removeStructures((c) => c.vpid === vpid && c.pcid === pcid);
  }

  /** INVPCID. @param type 0 one address of a PCID (not global ones), 1 a PCID (not global), 2 all, 3 all but global ones */
  invpcid(type: number, pcid: number, lo: number, hi: number): number {
    const { vpid } = this;
    switch (type) {
      case 0:
        return this.invalidatePage(vpid, pcid, lo, hi, false);
      case 1:
        return this.flushContext(vpid, pcid);
      case 2:
        return this.flushVpid(vpid, true);
      case 3:
        return this.flushVpid(vpid, false);
      default:
        throw new RangeError(`INVPCID type ${type} does not exist: types are 0 to 3 (the instruction raises #GP)`);
    }
  }

  /** Entries of a VPID and PCID that are not global. */
  private flushContext(vpid: number, pcid: number): number {
    return (
      this.removePages((c) => c.vpid === vpid && c.kind !== 'global' && c.pcid === pcid) +
      this.removeStructures((c) => c.vpid === vpid && c.pcid === pcid)
    );
  }

  /** All entries of a VPID (ASID); without `globals` global ones stay. */
  flushVpid(vpid: number, globals: boolean): number {
    return (
      this.removePages((c) => c.vpid === vpid && (globals || c.kind !== 'global')) +
      this.removeStructures((c) => c.vpid === vpid)
    );
  }

  /**
   * MOV to CR3: entries of the PCID that is being loaded go, unless bit 63 of the source operand was 1 (CR4.PCIDE = 1). Without PCIDs
   * all are PCID 0. Call it before {@link enter}.
   */
  movCr3(newPcid: number, noFlush: boolean): number {
    return noFlush ? 0 : this.flushContext(this.vpid, newPcid);
  }

  /** A change of CR0.PG, CR4.PGE, PAE, PSE, LA57, of CR4.PCIDE to 0: everything of the current VPID, global entries too. */
  flushCurrent(): number {
    return this.flushVpid(this.vpid, true);
  }

  /** Setting CR4.SMEP: entries of the current PCID, not the global ones. */
  flushCurrentPcid(): number {
    return this.flushContext(this.vpid, this.pcid);
  }

  /** INVEPT. @param stage2 as in {@link enter}; null for type 2 (all contexts) */
  invept(stage2: string | null): number {
    const gone = (s: string) => s !== '' && (stage2 === null || s === stage2);
    const physical = this.physical;
    return (
      this.removePages((c) => gone(c.stage2)) +
      this.removeStructures((c) => gone(c.stage2)) +
      (physical?.remove((o) => gone(this.contexts[physical.data[o + T_CONTEXT]].stage2)) ?? 0)
    );
  }

  /** INVVPID. @param type 0 one address, 1 a VPID, 2 all VPIDs but 0, 3 a VPID without its global entries */
  invvpid(type: number, vpid: number, lo: number, hi: number): number {
    switch (type) {
      case 0:
        return (
          this.removePages((c, d, o) => c.vpid === vpid && covers(d, o, lo, hi)) +
          this.removeStructures((c) => c.vpid === vpid)
        );
      case 1:
        return this.flushVpid(vpid, true);
      case 2:
        return this.removePages((c) => c.vpid !== 0) + this.removeStructures((c) => c.vpid !== 0);
      case 3:
        return this.flushVpid(vpid, false);
      default:
        throw new RangeError(`INVVPID type ${type} does not exist: types are 0 to 3 (the instruction fails)`);
    }
  }

  /** AMD INVLPGA: one address of an ASID, global or not. */
  invlpga(asid: number, lo: number, hi: number): number {
    return (
      this.removePages((c, d, o) => c.vpid === asid && covers(d, o, lo, hi)) +
      this.removeStructures((c) => c.vpid === asid)
    );
  }

  /**
   * TLB_CONTROL of a VMCB at VMRUN (APM vol. 2, "TLB Flush"): 1 all, 3 the guest's ASID, 7 the guest's ASID without global entries. With NPT
   * guest-physical mappings go along.
   */
  tlbControl(control: number, asid: number): number {
    if (control === 0) return 0;
    const physical = this.physical?.remove(() => true) ?? 0;
    if (control === 1) return physical + this.flushAll();
    return physical + this.flushVpid(asid, control !== 7);
  }

  // ---- Display ----

  /** All entries: pages, paging structures, guest-physical mappings. */
  entries(): TlbEntry[] {
    const out: TlbEntry[] = [];
    for (const bank of [this.page4k, this.page2m, this.page1g]) this.collect(bank, 'page', out);
    for (const bank of this.structures) if (bank !== null) this.collect(bank, 'paging-structure', out);
    if (this.physical !== null) this.collect(this.physical, 'guest-physical', out);
    return out;
  }

  private collect(bank: TlbBank, kind: TlbKind, out: TlbEntry[]): void {
    const { data: d } = bank;
    for (let o = 0; o < d.length; o += TLB_STRIDE) {
      if (!bank.used(o)) continue;
      const level = d[o + T_LEVEL];
      const c = this.contexts[d[o + T_CONTEXT]];
      const shift = kind === 'paging-structure' ? structureShift(level) : bank.shift;
      const serves = d[o + T_SERVES];
      const join = (lo: number, hi: number) => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
      const address = (join(d[o + T_VA_LO], d[o + T_VA_HI]) >> BigInt(shift)) << BigInt(shift);
      const structure = kind === 'paging-structure';
      out.push({
        kind,
        context: { vpid: c.vpid, pcid: c.pcid, stage2: c.stage2 },
        global: c.kind === 'global',
        address,
        shift,
        target: join(d[o + T_HPA_LO], d[o + T_HPA_HI]),
        gpa: structure ? join(d[o + P_TABLE_LO], d[o + P_TABLE_HI]) : join(d[o + T_GPA_LO], d[o + T_GPA_HI]),
        rights: structure ? ((d[o + P_AND] >>> 1) & 3) | ((d[o + P_NX] >>> 31) << 2) : d[o + T_RIGHTS],
        serves: structure ? '' : `${serves & 1 ? 'r' : '-'}${serves & 2 ? 'w' : '-'}${serves & 4 ? 'x' : '-'}`,
        level,
        contextNumber: d[o + T_CONTEXT],
      });
    }
  }
}

/** Whether the guest's page of the entry at `o` (which may be larger than what the entry covers) holds hi:lo. */
function covers(d: Int32Array, o: number, lo: number, hi: number): boolean {
  const shift = Math.max(d[o + T_SHIFT], 12);
  const high = (hi ^ d[o + T_VA_HI]) & 0x01ff_ffff;
  const low = lo ^ d[o + T_VA_LO];
  return shift >= 32 ? high === 0 : high === 0 && low >>> shift === 0;
}
