/**
 * Address translation of one logical processor: linear → guest-physical → host-physical, under its control registers and its VMCS or
 * VMCB controls. The front door of hw/: it sets up the walkers (walk.ts, ept.ts, spp.ts) and holds their results.
 */
import {
  ACC_DRY, ACC_FETCH, ACC_READ, ACC_TYPE, GP_PDPTE, NON_CANONICAL, OK,
  R_FAULT_LEVEL, R_GPA_HI, R_GPA_LO, R_GVA_HI, R_GVA_LO, R_HPA_HI, R_HPA_LO, R_LEAF_FLAGS, R_LEVEL, R_OUT_HI,
  R_OUT_LEVEL, R_OUT_LO, R_OUT_SHIFT, R_PAGE_SHIFT, R_RIGHTS, R_RULE, RIGHT_U, RIGHT_W, S2_FINAL, S2_NO_GLA, S2_PDPTES,
} from './access'; // prettier-ignore
import { WalkContext } from './context';
import { EptState, eptTables } from './ept';
import { FastPaging, FastStage2, fastTlb, fastWalk } from './fast';
import type { CpuFeatures } from './features';
import type { PhysMemory } from './memory';
import {
  CR3_LAM_U48_HI, CR3_LAM_U57_HI, CR4_LA57, CR4_LAM_SUP, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_PSE, pagingModeOf, pagingTables, PTE_P,
} from './paging'; // prettier-ignore
import { ruleNumber } from './rules';
import { S2_EPT, S2_NONE, S2_NPT, SecondStage, secondStage } from './second-stage';
import { SppState } from './spp';
import { T_GPA_HI, T_GPA_LO, T_HPA_HI, T_HPA_LO, T_LEVEL, type TlbBank } from './tlb-bank';
import type { Tlb } from './tlb';
import { entryServes, rememberPage } from './tlb-pages';
import {
  high, low, stage2Name, type EptControls, type GuestPagingRegisters, type NptControls,
} from './translate-controls'; // prettier-ignore
import { TranslationResults } from './translate-results';
import { PagingState, walkTables } from './walk';
import type { WalkRecorder } from './why';

export * from './access';
export {
  stage2Name,
  type EptControls,
  type GuestPagingRegisters,
  type NptControls,
  type Word64,
} from './translate-controls';

/** ACC_DRY, unexported for the sake of the hot path (see fast.ts). */
const ACC_DRY_BIT = 64;
const RULE_CANONICAL = ruleNumber('la.canonical');
const RULE_LAM_USER = ruleNumber('la.lam-user');
const RULE_LAM_SUPERVISOR = ruleNumber('la.lam-supervisor');
const RULE_PDPTE_RSVD = ruleNumber('pg.pdpte-rsvd');

/** log2 "page size" while paging is off: the whole 32-bit address space. */
const NO_SHIFT = 32;

/** The translation unit of one logical processor. Results of the last translation are read from its getters. */
export class Translator extends TranslationResults {
  readonly context: WalkContext;
  readonly r: Int32Array;
  readonly stage2 = new SecondStage();
  /** The guest's tables; do not edit, use {@link setGuest}. */
  readonly guest: PagingState;
  /** Bits of the high half of the linear address that must equal its sign for user/supervisor data: 0 without LAM. */
  private lamUserShift = 0;
  private lamSupervisorShift = 0;
  /** High half of the linear address without metadata, after {@link checkCanonical}. */
  private canonicalHi = 0;
  /** Of the guest's mode, at hand for {@link translate}. */
  private canonicalShift = 0;
  private caches: Tlb | null = null;
  private pge = false;
  private readonly fastGuest = new FastPaging();
  private readonly fastStage2 = new FastStage2();
  /** Whether to try the short cuts of fast.ts: nobody records. */
  private mayBeFast = true;
  private forceFull = false;
  /** See {@link translateSpan}. */
  secondHpa = -1;
  private vpid = 0;
  private pcid = 0;
  /** Name of the second stage and its root, for the TLB. */
  private stage2Name = '';

  constructor(memory: PhysMemory, features: CpuFeatures) {
    super();
    this.context = new WalkContext(memory, features);
    this.r = this.context.r;
    this.guest = new PagingState(pagingTables('off', 0, 0, 0, features), this.stage2, 'guest', 0);
    this.applyQuirks(this.guest);
  }

  get features(): CpuFeatures {
    return this.context.features;
  }

  get memory(): PhysMemory {
    return this.context.memory;
  }

  /** Exchanges host-physical memory, e.g. for a snapshot of it. */
  set memory(memory: PhysMemory) {
    this.context.memory = memory;
  }

  /** Told of each read, check and verdict while not null. Costs time; null by default. */
  get recorder(): WalkRecorder | null {
    return this.context.recorder;
  }

  set recorder(recorder: WalkRecorder | null) {
    this.context.recorder = recorder;
    this.chooseWalk();
  }

  /** Size in bytes of the coming accesses, for sub-page permissions, and of the last one; 1 by default. */
  get accessSize(): number {
    return this.context.accessSize;
  }

  set accessSize(bytes: number) {
    this.context.accessSize = bytes;
  }

  /** Whether the coming accesses are made by an IRET that unblocked NMIs: qualification bit 12. */
  set nmiUnblockingIret(value: boolean) {
    this.context.nmiUnblockingIret = value;
  }

  /**
   * The TLB and paging-structure caches; null, the default, for a processor that walks each time. To look past them once, translate
   * with ACC_DRY. Removing entries is the caller's: call the methods of {@link Tlb} where an instruction or transition does so.
   */
  get tlb(): Tlb | null {
    return this.caches;
  }

  set tlb(tlb: Tlb | null) {
    this.caches = tlb;
    this.hitBank = null;
    this.enterContext();
  }

  /** How the TLB calls the second stage in use, see {@link stage2Name}; empty without one. */
  get currentStage2(): string {
    return this.stage2Name;
  }

  /** Sets the VPID (Intel) or ASID (AMD) that TLB entries are tagged with; 0 is the host's. Removes nothing. */
  setAddressSpaceId(id: number): void {
    this.vpid = id;
    this.enterContext();
  }

  /** Never take the short cut of fast.ts: for tests that compare the two. */
  set fullWalks(value: boolean) {
    this.forceFull = value;
    this.chooseWalk();
  }

  private chooseWalk(): void {
    this.mayBeFast = this.context.recorder === null && !this.forceFull;
  }

  private enterContext(): void {
    const { guest } = this;
    this.caches?.enter(this.vpid, this.pcid, this.stage2Name, guest.rootLo, guest.rootHi);
  }

  private applyQuirks(state: PagingState): void {
    const { quirks } = this.features;
    state.accessedPerLevel = quirks.has('tcg-accessed-per-level');
    state.accessed1gEarly = quirks.has('tcg-1g-a-on-refused');
    state.rsvdWithoutP = quirks.has('tcg-rsvd-without-p');
  }

  /** Takes over the guest's registers. Call it after each change of one of them (a new CR3 too); it does not flush TLBs. */
  setGuest(regs: GuestPagingRegisters): void {
    const { guest, features } = this;
    const cr0 = low(regs.cr0);
    const cr4 = low(regs.cr4);
    const efer = low(regs.efer);
    const mode = pagingModeOf(cr0, cr4, efer);
    guest.tables = pagingTables(mode, cr0, cr4, efer, features);
    const cr3 = low(regs.cr3);
    const cr3Hi = high(regs.cr3);
    guest.rootLo = mode === 'pae' ? cr3 & 0xffff_ffe0 : cr3 & 0xffff_f000;
    guest.rootHi = mode === '4level' || mode === '5level' ? cr3Hi & 0x000f_ffff : 0;
    guest.pkru = low(regs.pkru ?? 0);
    guest.pkrs = low(regs.pkrs ?? 0);
    guest.pdpteRegisters = !features.quirks.has('tcg-pae-pdpte-reload');
    if (regs.pdptes !== undefined) {
      for (let i = 0; i < 4; i++) {
        guest.pdptes[2 * i] = low(regs.pdptes[i]);
        guest.pdptes[2 * i + 1] = high(regs.pdptes[i]);
      }
    }
    const long = mode === '4level' || mode === '5level';
    this.pge = (cr4 & CR4_PGE) !== 0;
    this.pcid = long && (cr4 & CR4_PCIDE) !== 0 ? cr3 & 0xfff : 0;
    this.enterContext();
    this.canonicalShift = guest.tables.canonicalShift;
    this.fastGuest.prepare(guest);
    const userLam = !long || !features.lam ? 0 : (cr3Hi & CR3_LAM_U57_HI) !== 0 ? 7 : (cr3Hi & CR3_LAM_U48_HI) !== 0 ? 16 : 0;
    this.lamUserShift = userLam;
    this.lamSupervisorShift = long && features.lam && (cr4 & CR4_LAM_SUP) !== 0 ? ((cr4 & CR4_LA57) !== 0 ? 7 : 16) : 0;
  } // prettier-ignore

  /** Turns the second stage off, or to EPT or NPT under these controls. It does not flush TLBs. */
  setSecondStage(kind: 'none'): void;
  setSecondStage(kind: 'ept', controls: EptControls): void;
  setSecondStage(kind: 'npt', controls: NptControls): void;
  setSecondStage(kind: 'none' | 'ept' | 'npt', controls?: EptControls | NptControls): void {
    const { stage2 } = this;
    this.stage2Name = '';
    if (kind === 'none') {
      stage2.kind = S2_NONE;
      this.fastStage2.kind = 0;
    } else if (kind === 'ept') {
      this.setEpt(controls as EptControls);
      this.stage2Name = stage2Name('ept', (controls as EptControls).eptp);
    } else {
      this.setNpt(controls as NptControls);
      this.stage2Name = stage2Name('npt', (controls as NptControls).ncr3);
    }
    this.enterContext();
  }

  private setEpt(c: EptControls): void {
    const { features, stage2 } = this;
    const tables = eptTables(features, c.mbec === true);
    const ept = (stage2.ept ??= new EptState(tables));
    ept.tables = tables;
    const lo = low(c.eptp);
    ept.rootLo = lo & 0xffff_f000;
    ept.rootHi = high(c.eptp) & 0x000f_ffff;
    ept.top = ((lo >>> 3) & 7) === 4 ? 5 : 4;
    ept.ad = (lo & 0x40) !== 0;
    ept.sss = (lo & 0x80) !== 0;
    ept.mbec = c.mbec === true;
    ept.ve = c.ve === true;
    ept.pagingWrite = c.pagingWrite === true;
    ept.verifyPaging = c.verifyPaging === true;
    ept.advancedExitInfo = features.eptAdvancedExitInfo;
    ept.adUpdateUnchecked = features.quirks.has('bochs-ept-ad-without-ad');
    ept.spp = null;
    if (c.spp === true) {
      const spp = (ept.spp = new SppState());
      spp.rootLo = low(c.sppt ?? 0) & 0xffff_f000;
      spp.rootHi = high(c.sppt ?? 0) & 0x000f_ffff;
      spp.reservedHi = 0xfff0_0000 | tables.reservedHi | 0;
    }
    stage2.kind = S2_EPT;
    this.fastStage2.prepareEpt(ept);
  }

  private setNpt(c: NptControls): void {
    const { features, stage2 } = this;
    // Of host CR4 only PAE, PSE and LA57 matter: nested accesses are user accesses, SMEP, SMAP and keys do not concern them.
    const cr4 = low(c.hostCr4) & (CR4_PAE | CR4_PSE | CR4_LA57);
    const cr0 = c.hostCr0 === undefined ? 0x8001_0001 | 0 : low(c.hostCr0);
    const efer = low(c.hostEfer);
    const mode = pagingModeOf(cr0, cr4, efer);
    const tables = pagingTables(mode, cr0, cr4, efer, features);
    if (stage2.npt === null) {
      stage2.npt = new PagingState(tables, new SecondStage(), 'npt', 48);
      this.applyQuirks(stage2.npt);
    }
    const { npt } = stage2;
    npt.tables = tables;
    npt.rootLo = low(c.ncr3) & (mode === 'pae' ? 0xffff_ffe0 : 0xffff_f000);
    npt.rootHi = mode === '4level' || mode === '5level' ? high(c.ncr3) & 0x000f_ffff : 0;
    stage2.kind = S2_NPT;
    this.fastStage2.prepareNpt(npt);
  }

  /**
   * Translates linear address hi:lo (halves, signed or unsigned; outside 64-bit mode hi is 0) for an access of flags ACC_*.
   * Sets accessed and dirty flags as the processor does, unless ACC_DRY is given.
   * @returns a status of access.ts; OK leaves the address in {@link hpa}
   */
  translate(gvaLo: number, gvaHi: number, access: number): number {
    const x = this.context;
    const { r } = this;
    const lo = gvaLo | 0;
    const hi = gvaHi | 0;
    const shift = this.canonicalShift;
    if (this.mayBeFast && (hi << shift) >> shift === hi) {
      const { caches } = this;
      if (caches !== null && (access & ACC_DRY_BIT) === 0) {
        if (this.fastGuest.serves) {
          const o = fastTlb(caches, this.fastGuest, r, lo, hi, access);
          if (o >= 0) {
            if (this.hitBank !== caches.page4k) this.hitBank = caches.page4k;
            this.hitOffset = o;
            caches.hits++;
            return 0;
          }
        }
      } else if (fastWalk(x.memory, this.fastGuest, this.fastStage2, r, lo, hi, access) === 0) {
        if (this.hitBank !== null) this.hitBank = null;
        return 0;
      }
    }
    r[R_GVA_LO] = lo;
    r[R_GVA_HI] = hi;
    x.dry = (access & ACC_DRY) !== 0;
    x.tlb = null;
    if (x.recorder !== null) {
      x.recorder.begin(lo, hi, access, true);
      const status = this.translateCanonical(lo, hi, access);
      x.recorder.end(status);
      return status;
    }
    return this.translateCanonical(lo, hi, access);
  }

  private translateCanonical(lo: number, hi: number, access: number): number {
    const shift = this.canonicalShift;
    let address = hi;
    if (shift !== 0 && ((hi << shift) >> shift !== hi || this.context.recorder !== null)) {
      if (!this.checkCanonical(hi, access)) return NON_CANONICAL;
      address = this.canonicalHi;
    }
    if (this.caches !== null && (access & ACC_DRY) === 0) return this.translateCached(this.caches, lo, address, access);
    return this.walk(lo, address, access);
  }

  /** Serves the access from the TLB if it can, else walks and remembers. */
  private translateCached(tlb: Tlb, lo: number, hi: number, access: number): number {
    const { r, guest } = this;
    let bank = tlb.page4k;
    let o = bank.find(lo, hi, tlb.context, tlb.globals);
    if (o < 0 && tlb.page2m.count !== 0) {
      bank = tlb.page2m;
      o = bank.find(lo, hi, tlb.context, tlb.globals);
    }
    if (o < 0 && tlb.page1g.count !== 0) {
      bank = tlb.page1g;
      o = bank.find(lo, hi, tlb.context, tlb.globals);
    }
    if (o >= 0 && entryServes(guest, bank.data, o, access)) {
      const d = bank.data;
      // Entries of large pages hold the base of the page; the shift of 1 GiB still fits 32-bit arithmetic.
      const offset = (1 << bank.shift) - 1;
      r[R_HPA_LO] = d[o + T_HPA_LO] | (lo & offset);
      r[R_HPA_HI] = d[o + T_HPA_HI];
      r[R_GPA_LO] = d[o + T_GPA_LO] | (lo & offset);
      r[R_GPA_HI] = d[o + T_GPA_HI];
      r[R_RULE] = 0;
      this.hitBank = bank;
      this.hitOffset = o;
      tlb.hits++;
      if (this.context.recorder !== null) this.recordHit(bank, o, lo, hi);
      return OK;
    }
    tlb.misses++;
    this.context.tlb = tlb;
    const status = this.walk(lo, hi, access);
    this.context.tlb = null;
    if (status === OK) rememberPage(tlb, this.stage2, guest, this.pge, r, lo, hi);
    return status;
  }

  private recordHit(bank: TlbBank, o: number, lo: number, hi: number): void {
    const { r } = this;
    const recorder = this.context.recorder!;
    recorder.cached('page', bank.data[o + T_LEVEL], lo, hi, r[R_HPA_LO] & ~((1 << bank.shift) - 1), r[R_HPA_HI]);
  }

  private walk(lo: number, hi: number, access: number): number {
    const x = this.context;
    const { r, guest } = this;
    r[R_RULE] = 0;
    this.hitBank = null;
    x.unverified = false;
    let rights: number;
    if (guest.tables.top === 0) {
      // CR0.PG = 0: linear addresses are physical, 32 bits; for EPT every one is a writable user-mode address.
      r[R_GPA_LO] = lo;
      r[R_GPA_HI] = 0;
      r[R_LEVEL] = 0;
      r[R_PAGE_SHIFT] = NO_SHIFT;
      rights = RIGHT_U | RIGHT_W;
      r[R_RIGHTS] = rights;
      r[R_LEAF_FLAGS] = 0;
    } else {
      const status = walkTables(x, guest, lo, hi, access);
      if (status !== OK) return status;
      r[R_GPA_LO] = r[R_OUT_LO];
      r[R_GPA_HI] = r[R_OUT_HI];
      r[R_LEVEL] = r[R_OUT_LEVEL];
      r[R_PAGE_SHIFT] = r[R_OUT_SHIFT];
      rights = r[R_RIGHTS];
    }
    x.forLevel = 0;
    const leaf = r[R_LEAF_FLAGS];
    const status = secondStage(x, this.stage2, r[R_GPA_LO], r[R_GPA_HI], access, S2_FINAL);
    // NPT has used the same words for its own walk.
    r[R_RIGHTS] = rights;
    r[R_LEAF_FLAGS] = leaf;
    return status;
  }

  /**
   * Translates an access of `size` bytes at hi:lo that may reach into the next page: both pages are checked before either is used, as
   * the processor does. On OK {@link hpa} is the first byte's address and {@link secondHpa} that of the first byte in the next page
   * (-1 if the access stays in one). On a fault {@link faultGvaLo} is where it happened: for the second page, its first byte.
   */
  translateSpan(gvaLo: number, gvaHi: number, size: number, access: number): number {
    const x = this.context;
    const { r } = this;
    const inFirst = 0x1000 - (gvaLo & 0xfff);
    this.secondHpa = -1;
    x.accessSize = Math.min(size, inFirst);
    if (size <= inFirst) return this.translate(gvaLo, gvaHi, access);
    let status = this.translate(gvaLo, gvaHi, access);
    if (status !== OK) return status;
    const lo = r[R_HPA_LO];
    const hi = r[R_HPA_HI];
    const gpaLo = r[R_GPA_LO];
    const gpaHi = r[R_GPA_HI];
    const nextLo = (gvaLo + inFirst) | 0;
    // Outside 64-bit mode linear addresses wrap at 4 GiB.
    const nextHi = nextLo === 0 && this.guest.tables.canonicalShift !== 0 ? gvaHi + 1 : gvaHi;
    x.accessSize = size - inFirst;
    status = this.translate(nextLo, nextHi, access);
    if (status !== OK) return status;
    this.secondHpa = this.hpa;
    r[R_HPA_LO] = lo;
    r[R_HPA_HI] = hi;
    r[R_GPA_LO] = gpaLo;
    r[R_GPA_HI] = gpaHi;
    return OK;
  }

  /** Canonical form under linear-address masking; the plain case is decided by the caller. SDM vol. 3A "Linear-Address Masking". */
  private checkCanonical(hi: number, access: number): boolean {
    const { recorder } = this.context;
    const { canonicalShift } = this.guest.tables;
    const data = (access & ACC_TYPE) !== ACC_FETCH;
    const supervisorPointer = hi < 0;
    const lam = data ? (supervisorPointer ? this.lamSupervisorShift : this.lamUserShift) : 0;
    let ok: boolean;
    let rule = RULE_CANONICAL;
    this.canonicalHi = hi;
    let by = canonicalShift === 7 ? '5-level paging' : '4-level paging';
    if (lam === 0) {
      ok = (hi << canonicalShift) >> canonicalShift === hi;
    } else {
      // Bits 62:48 or 62:57 are not looked at: bit 63 has to equal bit 47 or 56. Then the width of paging still applies.
      const masked = (hi << lam) >> lam;
      this.canonicalHi = masked;
      ok = masked < 0 === supervisorPointer && (masked << canonicalShift) >> canonicalShift === masked;
      rule = supervisorPointer ? RULE_LAM_SUPERVISOR : RULE_LAM_USER;
      by = supervisorPointer ? 'CR4.LAM_SUP=1' : lam === 7 ? 'CR3.LAM_U57=1' : 'CR3.LAM_U48=1';
    }
    if (recorder !== null) recorder.decided(rule, ok, by);
    if (!ok) this.r[R_RULE] = rule;
    return ok;
  }

  /**
   * Translates a guest-physical address through the second stage alone, as for an access without a linear address.
   * @param gpa bytes, below 2^52
   */
  translateGpa(gpa: number, access: number): number {
    const x = this.context;
    const { r } = this;
    this.hitBank = null;
    x.tlb = (access & ACC_DRY) !== 0 ? null : this.caches;
    const lo = gpa | 0;
    const hi = (gpa / 0x1_0000_0000) | 0;
    x.dry = (access & ACC_DRY) !== 0;
    x.forLevel = 0;
    r[R_GPA_LO] = lo;
    r[R_GPA_HI] = hi;
    r[R_RULE] = 0;
    r[R_RIGHTS] = RIGHT_U | RIGHT_W;
    if (x.recorder !== null) x.recorder.begin(lo, hi, access, false);
    const status = secondStage(x, this.stage2, lo, hi, access, S2_NO_GLA);
    x.tlb = null;
    if (x.recorder !== null) x.recorder.end(status);
    return status;
  }

  /**
   * Loads the four PDPTE registers from memory, as MOV to CR3 (or to CR0, CR4) does under PAE paging; {@link setGuest} first. The
   * addresses go through the second stage, as reads with EPT even if EPT has accessed and dirty flags.
   * @returns OK, GP_PDPTE (nothing is loaded then), or the second stage's fault
   */
  loadPdptes(): number {
    const x = this.context;
    const { r, guest, memory } = this;
    const { recorder } = x;
    x.dry = false;
    x.tlb = null;
    x.forLevel = 3;
    r[R_RULE] = 0;
    this.hitBank = null;
    if (recorder !== null) recorder.begin(guest.rootLo, 0, ACC_READ, false);
    const status = secondStage(x, this.stage2, guest.rootLo, 0, ACC_READ, S2_PDPTES);
    if (status !== OK) {
      if (recorder !== null) recorder.end(status);
      return status;
    }
    const hostLo = r[R_HPA_LO];
    const hostHi = r[R_HPA_HI];
    const word = (memory.find(hostLo, hostHi) << 10) | ((hostLo & 0xfe0) >>> 2);
    const loaded = memory.words.slice(word, word + 8);
    const [rule] = pagingTables('pae', 0, CR4_PAE, 0, this.features).entryRules[3];
    let result = OK;
    for (let i = 0; i < 4; i++) {
      const lo = loaded[2 * i];
      const hi = loaded[2 * i + 1];
      const ok = (lo & PTE_P) === 0 || ((lo & rule.lo) | (hi & rule.hi)) === 0;
      if (recorder !== null) {
        recorder.read('guest', 3, guest.rootLo | (i << 3), 0, hostLo | (i << 3), hostHi, i, lo, hi, 8, 3);
        recorder.checked(RULE_PDPTE_RSVD, ok, rule.by);
      }
      if (!ok && result === OK) {
        result = GP_PDPTE;
        r[R_RULE] = RULE_PDPTE_RSVD;
        r[R_FAULT_LEVEL] = 3;
      }
    }
    if (result === OK) guest.pdptes.set(loaded);
    if (recorder !== null) recorder.end(result);
    return result;
  }
}
