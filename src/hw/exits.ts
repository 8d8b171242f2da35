/**
 * What leaves the guest: the reasons for which the processor hands control to the hypervisor, and what the hypervisor tells the
 * processor to watch for. The union of what VMX and SVM have; the KVM model turns it into exit reasons and qualifications.
 *
 * Sources: SDM vol. 3C chapters 24.6, 25, 27; APM vol. 2 chapter 15.
 */
import type { Insn, Op } from './insn';

/** Kinds of event as the interruption-information fields of both vendors number them (SDM vol. 3C 24.8.3, APM vol. 2 15.20). */
export const EVENT_TYPE = { EXTINT: 0, NMI: 2, EXCEPTION: 3, SWINT: 4, SWEXC: 6 } as const;

/** An exception or interrupt that is to be, is being or was delivered. */
export interface GuestEvent {
  vector: number;
  /** One of {@link EVENT_TYPE}. */
  type: number;
  /** Error code that goes on the stack; null: this vector has none. */
  errorCode: number | null;
  /** Length of the INT instruction, for software events. */
  insnLen: number;
}

/** A device access by IN or OUT. */
export interface IoAccess {
  port: number;
  size: number;
  write: boolean;
  /** what OUT writes */
  value: bigint;
  /** RIP of the next instruction (EXITINFO2 of SVM). */
  nextRip: bigint;
  /** the port number is an immediate */
  imm: boolean;
}

export type VmExitKind =
  | 'npf'
  | 'ept_violation'
  | 'ept_misconfig'
  | 'spp'
  | 'pml_full'
  | 'exception'
  | 'io'
  | 'hlt'
  | 'cr_access'
  | 'msr'
  | 'invlpg'
  | 'rsm'
  | 'shutdown'
  | 'insn'
  | 'done';

/** How and why a run of the processor ended. One object per processor, overwritten by the next run. */
export interface VmExit {
  /**
   * `done` is no exit: the pseudo-instruction finished (or, with `idt none`, ended in {@link exception}) and KVM never sees it;
   * `insn` is any other intercepted instruction, named by `insn.op`; `exception` an intercepted vector.
   */
  kind: VmExitKind;
  /** The instruction that was running; null during event delivery and instruction fetch. */
  insn: Insn | null;
  /** Guest physical address of `npf`, `ept_violation`, `ept_misconfig`, `spp`. */
  gpa: number;
  /** Exit qualification (EPT violation, SPP) or EXITINFO1 (NPF), as two 32-bit halves. */
  codeLo: number;
  codeHi: number;
  /** Guest linear address of the access that caused a paging exit, or null when it has none. */
  gva: bigint | null;
  /** Vector and error code of `exception` and of a `done` that ended in one. */
  exception: GuestEvent | null;
  /** The event whose delivery was interrupted by this exit (IDT-vectoring information, EXITINTINFO). */
  idtVectoring: GuestEvent | null;
  /** The last event that was delivered since the entry: QEMU's SVM leaves it in EXITINTINFO with the valid bit clear. */
  delivered: GuestEvent | null;
  io: IoAccess | null;
  /** CR access: number, direction, value, general register (-1: an immediate of a pseudo-instruction). */
  cr: { n: number; write: boolean; value: bigint; reg: number; selective: boolean } | null;
  msr: { index: number; write: boolean; value: bigint } | null;
  /** Linear address operand of INVLPG, or of the memory operand of an intercepted instruction. */
  address: bigint | null;
}

/** What makes the guest exit: data that the hypervisor sets per vendor and mode. Nothing is intercepted by default. */
export interface Intercepts {
  /** Exception bitmap by vector. */
  exceptions: number;
  /** VMX: a #PF with bit 14 of the bitmap set exits when (errorCode & pfecMask) == pfecMatch, else the opposite. */
  pfecMask: number;
  pfecMatch: number;
  /** Bitmaps of CR numbers. */
  crRead: number;
  crWrite: number;
  /** SVM: MOV to CR0 (or LMSW, CLTS) that changes more than TS and MP exits. */
  cr0SelectiveWrite: boolean;
  /** VMX guest/host masks: a bit set here belongs to the host, reads give the shadow's bit, writes that differ from it exit. */
  cr0Mask: bigint;
  /** null: the shadow is what the guest believes CR0 to be, the value in its CpuState */
  cr0Shadow: bigint | null;
  cr4Mask: bigint;
  cr4Shadow: bigint | null;
  /** All ports. */
  io: boolean;
  /** MSRs that do not exit; null: none exits. */
  msrPassthrough: ReadonlySet<number> | null;
  /** Other instructions, by name. */
  insns: ReadonlySet<Op>;
  /** VMX: an exit during event delivery saves RFLAGS.RF as the frame would have had it (SDM vol. 3C 27.3.3). */
  savesRf: boolean;
  /** SVM: whether a shutdown exits with the interrupted event in EXITINTINFO; VMX: never. */
  shutdownKeepsEvent: boolean;
}

export function noIntercepts(): Intercepts {
  return {
    exceptions: 0,
    pfecMask: 0,
    pfecMatch: 0,
    crRead: 0,
    crWrite: 0,
    cr0SelectiveWrite: false,
    cr0Mask: 0n,
    cr0Shadow: null,
    cr4Mask: 0n,
    cr4Shadow: null,
    io: false,
    msrPassthrough: null,
    insns: new Set(),
    savesRf: false,
    shutdownKeepsEvent: false,
  };
}

/** An exit record with nothing in it. */
export function emptyExit(): VmExit {
  return {
    kind: 'done',
    insn: null,
    gpa: 0,
    codeLo: 0,
    codeHi: 0,
    gva: null,
    exception: null,
    idtVectoring: null,
    delivered: null,
    io: null,
    cr: null,
    msr: null,
    address: null,
  };
}
