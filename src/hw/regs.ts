/**
 * The registers of one logical processor, as the guest sees them: general registers, control registers, segments with their hidden
 * parts, descriptor tables. Plain data plus the few questions everybody asks of it (which mode, which privilege).
 *
 * Sources: SDM vol. 3A 2.5 (control registers), 3.4 (segments), 5.2 and APM vol. 2 chapter 1.3 (modes).
 */

/** CR0 bits. SDM vol. 3A 2.5. */
export const CR0 = {
  PE: 1n << 0n,
  MP: 1n << 1n,
  EM: 1n << 2n,
  TS: 1n << 3n,
  ET: 1n << 4n,
  NE: 1n << 5n,
  WP: 1n << 16n,
  AM: 1n << 18n,
  NW: 1n << 29n,
  CD: 1n << 30n,
  PG: 1n << 31n,
} as const;

/** CR4 bits. SDM vol. 3A 2.5. */
export const CR4 = {
  VME: 1n << 0n,
  PSE: 1n << 4n,
  PAE: 1n << 5n,
  MCE: 1n << 6n,
  PGE: 1n << 7n,
  OSFXSR: 1n << 9n,
  OSXMMEXCPT: 1n << 10n,
  UMIP: 1n << 11n,
  LA57: 1n << 12n,
  VMXE: 1n << 13n,
  FSGSBASE: 1n << 16n,
  PCIDE: 1n << 17n,
  OSXSAVE: 1n << 18n,
  SMEP: 1n << 20n,
  SMAP: 1n << 21n,
  PKE: 1n << 22n,
  CET: 1n << 23n,
  PKS: 1n << 24n,
  LAM_SUP: 1n << 28n,
} as const;

/** IA32_EFER bits. SDM vol. 4 table 2-2, APM vol. 2 3.1.7. */
export const EFER = {
  SCE: 1n << 0n,
  LME: 1n << 8n,
  LMA: 1n << 10n,
  NXE: 1n << 11n,
  SVME: 1n << 12n,
} as const;

/** RFLAGS bits. SDM vol. 1 3.4.3. */
export const RFLAGS = {
  CF: 1n << 0n,
  FIXED: 1n << 1n,
  PF: 1n << 2n,
  AF: 1n << 4n,
  ZF: 1n << 6n,
  SF: 1n << 7n,
  TF: 1n << 8n,
  IF: 1n << 9n,
  DF: 1n << 10n,
  OF: 1n << 11n,
  IOPL: 3n << 12n,
  NT: 1n << 14n,
  RF: 1n << 16n,
  VM: 1n << 17n,
  AC: 1n << 18n,
  VIF: 1n << 19n,
  VIP: 1n << 20n,
  ID: 1n << 21n,
} as const;

/** Numbers of the general registers, the order of ModRM/REX encodings and of {@link CpuState.gpr}. */
export const GPR = {
  RAX: 0,
  RCX: 1,
  RDX: 2,
  RBX: 3,
  RSP: 4,
  RBP: 5,
  RSI: 6,
  RDI: 7,
  R8: 8,
  R9: 9,
  R10: 10,
  R11: 11,
  R12: 12,
  R13: 13,
  R14: 14,
  R15: 15,
} as const;

/** Names of the 64-bit general registers by number. */
export const GPR_NAMES = [
  'rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15',
] as const; // prettier-ignore

/** MSR indices that the simulated processor knows. */
export const MSR = {
  APIC_BASE: 0x1b,
  FEATURE_CONTROL: 0x3a,
  SYSENTER_CS: 0x174,
  SYSENTER_ESP: 0x175,
  SYSENTER_EIP: 0x176,
  PAT: 0x277,
  PKRS: 0x6e1,
  EFER: 0xc0000080,
  STAR: 0xc0000081,
  LSTAR: 0xc0000082,
  FS_BASE: 0xc0000100,
  GS_BASE: 0xc0000101,
  KERNEL_GS_BASE: 0xc0000102,
  VM_HSAVE_PA: 0xc0010117,
} as const;

/** A segment register: the selector and the hidden part loaded from its descriptor (the fields of struct kvm_segment). */
export interface Segment {
  selector: number;
  base: bigint;
  /** Byte granular, already scaled by G. */
  limit: number;
  /** Descriptor type, 4 bits. */
  type: number;
  /** 1: code or data, 0: system. */
  s: number;
  dpl: number;
  present: number;
  /** 64-bit code. */
  l: number;
  /** Default operand size 32. */
  db: number;
  g: number;
  unusable: number;
}

/** Names of the six data/code segments in the order of their encoding (SDM vol. 2A 2.1). */
export const SEGMENT_NAMES = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const;
export type SegmentName = (typeof SEGMENT_NAMES)[number];

/** Base and limit of GDTR or IDTR. */
export interface DescriptorTable {
  base: bigint;
  limit: number;
}

/** Makes a segment; unnamed fields are those of a present flat ring-0 data segment. */
export function segment(fields: Partial<Segment> = {}): Segment {
  return {
    selector: 0,
    base: 0n,
    limit: 0xffffffff,
    type: 3,
    s: 1,
    dpl: 0,
    present: 1,
    l: 0,
    db: 1,
    g: 1,
    unusable: 0,
    ...fields,
  };
}

/** The operating modes that decide how instructions, stacks and exceptions work. SDM vol. 3A 2.2. */
export type CpuMode = 'real' | 'protected' | 'compatibility' | 'long';

const U64 = 0xffff_ffff_ffff_ffffn;

/** All registers of one logical processor. */
export class CpuState {
  cr0 = 0x60000010n;
  cr2 = 0n;
  cr3 = 0n;
  cr4 = 0n;
  cr8 = 0n;
  efer = 0n;
  /** rax rcx rdx rbx rsp rbp rsi rdi r8 … r15 */
  readonly gpr = new BigUint64Array(16);
  rip = 0xfff0n;
  /** False: the statement that runs has no address, so instruction fetches are not simulated. */
  ripKnown = true;
  /** False (`idt none` of a scenario): an exception ends the statement instead of being delivered through the IDT. */
  idtUsed = true;
  rflags = 2n;
  es = segment({ limit: 0xffff, g: 0, db: 0 });
  cs = segment({ selector: 0xf000, base: 0xffff0000n, limit: 0xffff, type: 0xb, g: 0, db: 0 });
  ss = segment({ limit: 0xffff, g: 0, db: 0 });
  ds = segment({ limit: 0xffff, g: 0, db: 0 });
  fs = segment({ limit: 0xffff, g: 0, db: 0 });
  gs = segment({ limit: 0xffff, g: 0, db: 0 });
  tr = segment({ limit: 0xffff, type: 0xb, s: 0, g: 0, db: 0 });
  ldtr = segment({ limit: 0xffff, type: 2, s: 0, g: 0, db: 0 });
  readonly gdtr: DescriptorTable = { base: 0n, limit: 0xffff };
  readonly idtr: DescriptorTable = { base: 0n, limit: 0xffff };
  pkru = 0;
  pkrs = 0;
  dr6 = 0xffff0ff0n;
  dr7 = 0x400n;
  /** The PDPTE registers of PAE paging, loaded by MOV to CR3 and friends. SDM vol. 3A 4.4.1. */
  readonly pdptrs = new BigUint64Array(4);
  /** MSRs that a guest wrote and nothing else models, by index. */
  msrs = new Map<number, bigint>();
  /** What the last `load` pseudo-instruction read; not architectural. */
  loaded: bigint | null = null;

  /** Current privilege level: DPL of SS (SDM vol. 3A 5.5; AMD keeps it in its own field of the VMCB). */
  get cpl(): number {
    return (this.cr0 & CR0.PE) === 0n ? 0 : this.vm86 ? 3 : this.ss.dpl;
  }

  /** CR0.PG. */
  get paging(): boolean {
    return (this.cr0 & CR0.PG) !== 0n;
  }

  /** EFER.LMA: IA-32e mode, whatever the code segment. */
  get longModeActive(): boolean {
    return (this.efer & EFER.LMA) !== 0n;
  }

  /** Virtual-8086 mode: RFLAGS.VM in protected mode. */
  get vm86(): boolean {
    return (this.rflags & RFLAGS.VM) !== 0n && (this.cr0 & CR0.PE) !== 0n && !this.longModeActive;
  }

  /** The operating mode. Virtual-8086 mode counts as protected: it changes segments only. */
  get mode(): CpuMode {
    if ((this.cr0 & CR0.PE) === 0n) return 'real';
    if (!this.longModeActive) return 'protected';
    return this.cs.l ? 'long' : 'compatibility';
  }

  /** Default operand and address size of code: 16, 32 or 64. */
  get codeBits(): 16 | 32 | 64 {
    if (this.longModeActive && this.cs.l) return 64;
    if ((this.cr0 & CR0.PE) === 0n) return this.cs.db ? 32 : 16;
    return this.cs.db && !this.vm86 ? 32 : 16;
  }

  /** Width of the stack pointer in bytes (SDM vol. 3A 6.2.3). */
  get stackSize(): 2 | 4 | 8 {
    if (this.longModeActive && this.cs.l) return 8;
    return this.ss.db ? 4 : 2;
  }

  /** Linear address bits that must be a sign extension: 48, or 57 with CR4.LA57. */
  get linearBits(): 48 | 57 {
    return (this.cr4 & CR4.LA57) !== 0n ? 57 : 48;
  }

  /** Whether a 64-bit linear address is canonical now. SDM vol. 1 3.3.7.1. */
  isCanonical(linear: bigint): boolean {
    return BigInt.asUintN(64, BigInt.asIntN(this.linearBits, linear)) === (linear & U64);
  }

  segmentByName(name: SegmentName): Segment {
    return this[name];
  }

  /** A deep copy. */
  clone(): CpuState {
    const c = new CpuState();
    c.copyFrom(this);
    return c;
  }

  /** Takes over every register of `o`. */
  copyFrom(o: CpuState): void {
    this.cr0 = o.cr0;
    this.cr2 = o.cr2;
    this.cr3 = o.cr3;
    this.cr4 = o.cr4;
    this.cr8 = o.cr8;
    this.efer = o.efer;
    this.gpr.set(o.gpr);
    this.rip = o.rip;
    this.ripKnown = o.ripKnown;
    this.idtUsed = o.idtUsed;
    this.rflags = o.rflags;
    for (const name of SEGMENT_NAMES) this[name] = { ...o[name] };
    this.tr = { ...o.tr };
    this.ldtr = { ...o.ldtr };
    this.gdtr.base = o.gdtr.base;
    this.gdtr.limit = o.gdtr.limit;
    this.idtr.base = o.idtr.base;
    this.idtr.limit = o.idtr.limit;
    this.pkru = o.pkru;
    this.pkrs = o.pkrs;
    this.dr6 = o.dr6;
    this.dr7 = o.dr7;
    this.pdptrs.set(o.pdptrs);
    this.msrs = new Map(o.msrs);
    this.loaded = o.loaded;
  }
}

/**
 * Why a MOV to CR0 with this value raises #GP(0), or null when it is allowed. SDM vol. 2B MOV to control registers.
 * @param codeIs64 the MOV runs in 64-bit code (clearing PG is refused there)
 */
export function cr0Fault(state: CpuState, value: bigint, codeIs64: boolean): string | null {
  if (value >> 32n) return 'bits 63:32 of CR0 are reserved';
  if ((value & CR0.PG) !== 0n && (value & CR0.PE) === 0n) return 'CR0.PG needs CR0.PE';
  if ((value & CR0.NW) !== 0n && (value & CR0.CD) === 0n) return 'CR0.NW needs CR0.CD';
  const turnsOn = (value & CR0.PG) !== 0n && !state.paging;
  if (turnsOn && (state.efer & EFER.LME) !== 0n) {
    if ((state.cr4 & CR4.PAE) === 0n) return 'EFER.LME with CR0.PG needs CR4.PAE';
    if (state.cs.l) return 'IA-32e mode cannot be entered from a 64-bit code segment';
  }
  if ((value & CR0.PG) === 0n && state.paging && (codeIs64 || (state.cr4 & CR4.PCIDE) !== 0n)) {
    return codeIs64 ? 'paging cannot be turned off in 64-bit code' : 'CR4.PCIDE needs paging';
  }
  if ((value & CR0.WP) === 0n && (state.cr4 & CR4.CET) !== 0n) return 'CR4.CET needs CR0.WP';
  return null;
}

/** Why a MOV to CR4 with this value raises #GP(0), or null. SDM vol. 2B MOV to control registers, vol. 3A 4.1. */
export function cr4Fault(state: CpuState, value: bigint): string | null {
  if (value >> 32n) return 'bits 63:32 of CR4 are reserved';
  if (state.longModeActive) {
    if ((value & CR4.PAE) === 0n) return 'CR4.PAE cannot be cleared in IA-32e mode';
    if (((value ^ state.cr4) & CR4.LA57) !== 0n) return 'CR4.LA57 cannot change in IA-32e mode';
  }
  if ((value & CR4.PCIDE) !== 0n && (state.cr4 & CR4.PCIDE) === 0n) {
    if (!state.longModeActive) return 'CR4.PCIDE needs IA-32e mode';
    if ((state.cr3 & 0xfffn) !== 0n) return 'CR4.PCIDE cannot be set while CR3 bits 11:0 are not 0';
  }
  if ((value & CR4.CET) !== 0n && (state.cr0 & CR0.WP) === 0n) return 'CR4.CET needs CR0.WP';
  return null;
}
