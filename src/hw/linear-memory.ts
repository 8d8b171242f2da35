/**
 * The memory that instructions see: a translator, and how the registers of a CpuState get into it.
 */
import type { CpuState } from './regs';
import type { Translator } from './translate';

/** What the processor needs of its translation unit. */
export interface LinearMemory {
  /** Result words, indices R_* of access.ts. */
  readonly r: Int32Array;
  /** Translates a linear address given as two halves; `access` is made of ACC_* flags. Returns a status of access.ts. */
  translate(lo: number, hi: number, access: number): number;
  /** Takes over CR0, CR3, CR4, EFER, PKRU, PKRS and the PDPTE registers after one of them changed. */
  loadRegisters(state: CpuState): void;
  /** Loads the four PDPTE registers from memory at CR3 (PAE paging); a status of access.ts. On success the state has them too. */
  loadPdptes(state: CpuState): number;
  /** Invalidates cached translations of one linear address. */
  invlpg(lo: number, hi: number): void;
  /** INVPCID types 0-3. */
  invpcid(type: number, pcid: number, lo: number, hi: number): void;
  /** Invalidates the current context; `global`: global entries too. */
  flush(global: boolean): void;
  /** Size in bytes of the next accesses, for sub-page permissions. */
  setAccessSize(bytes: number): void;
}

/** A translator without a TLB: every access walks. */
export class UncachedMemory implements LinearMemory {
  readonly r: Int32Array;

  constructor(readonly translator: Translator) {
    this.r = translator.r;
  }

  translate(lo: number, hi: number, access: number): number {
    return this.translator.translate(lo, hi, access);
  }

  loadRegisters(s: CpuState): void {
    this.translator.setGuest({
      cr0: s.cr0,
      cr3: s.cr3,
      cr4: s.cr4,
      efer: s.efer,
      pkru: s.pkru,
      pkrs: s.pkrs,
      pdptes: [s.pdptrs[0], s.pdptrs[1], s.pdptrs[2], s.pdptrs[3]],
    });
  }

  loadPdptes(s: CpuState): number {
    this.loadRegisters(s);
    const status = this.translator.loadPdptes();
    if (status === 0) {
      const { pdptes } = this.translator.guest;
      for (let i = 0; i < 4; i++) s.pdptrs[i] = (BigInt(pdptes[2 * i + 1] >>> 0) << 32n) | BigInt(pdptes[2 * i] >>> 0);
    }
    return status;
  }

  invlpg(_lo: number, _hi: number): void {
    // nothing is cached
  }

  invpcid(_type: number, _pcid: number, _lo: number, _hi: number): void {
    // nothing is cached
  }

  flush(_global: boolean): void {
    // nothing is cached
  }

  setAccessSize(bytes: number): void {
    this.translator.accessSize = bytes;
  }
}
