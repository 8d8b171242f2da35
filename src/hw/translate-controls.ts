/** What a {@link Translator} is told: the guest's registers and the controls of its second stage. */

/** A 64-bit register value. */
export type Word64 = bigint | number;

/** The guest's registers that govern translation. */
export interface GuestPagingRegisters {
  cr0: Word64;
  cr3: Word64;
  cr4: Word64;
  efer: Word64;
  /** PKRU; 0 if left out. */
  pkru?: Word64;
  /** IA32_PKRS; 0 if left out. */
  pkrs?: Word64;
  /**
   * The four PDPTE registers (PAE paging), as loaded by the last MOV to CR3, CR0 or CR4 or by VM entry. Left out: they stay as they are
   * (zero at first); see {@link Translator.loadPdptes}.
   */
  pdptes?: readonly Word64[];
}

/** Controls of EPT, from the VMCS. */
export interface EptControls {
  eptp: Word64;
  /** Mode-based execute control for EPT. */
  mbec?: boolean;
  /** EPT-violation #VE. The caller keeps the other conditions (VE information area free, CR0.PE = 1, no event being delivered). */
  ve?: boolean;
  /** Sub-page write permissions, and the SPPTP. */
  spp?: boolean;
  sppt?: Word64;
  /** EPT paging-write control. */
  pagingWrite?: boolean;
  /** Guest-paging verification. */
  verifyPaging?: boolean;
}

/** Controls of NPT: nCR3 from the VMCB, the rest from the host's registers at VMRUN. */
export interface NptControls {
  ncr3: Word64;
  /** Host CR0; PG and WP are taken to be 1 if left out. */
  hostCr0?: Word64;
  hostCr4: Word64;
  hostEfer: Word64;
}

/** How the TLB calls a second stage. Bits of the pointer that are no address do not tell mappings apart. */
export const stage2Name = (kind: 'ept' | 'npt', pointer: Word64): string =>
  `${kind}:0x${(BigInt(pointer) & 0x000f_ffff_ffff_f000n).toString(16)}`;

/** Low half of a register value, as a signed 32-bit number. */
export const low = (v: Word64): number => (typeof v === 'bigint' ? Number(BigInt.asIntN(32, v)) : v | 0);
/** High half, likewise. */
export const high = (v: Word64): number =>
  typeof v === 'bigint' ? Number(BigInt.asIntN(32, v >> 32n)) : Math.floor(v / 0x1_0000_0000) | 0;
