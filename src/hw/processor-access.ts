/**
 * The part of a processor that the others stand on: its accesses to memory, and how an instruction ends that cannot complete, in an
 * exception or an exit.
 */
import * as A from './access';
import {
  emptyExit,
  EVENT_TYPE,
  noIntercepts,
  type GuestEvent,
  type Intercepts,
  type VmExit,
  type VmExitKind,
} from './exits';
import type { Insn } from './insn';
import type { LinearMemory } from './linear-memory';
import type { PhysMemory } from './memory';
import { truncate, VECTOR } from './operands';
import { RFLAGS, type CpuState } from './regs';

const U32 = 0xffff_ffffn;
export const PAGE = 4096;

export const lo32 = (v: bigint): number => Number(v & U32) | 0;
export const hi32 = (v: bigint): number => Number((v >> 32n) & U32) | 0;

/** Accesses, exceptions and exits. There is one concrete class: layers keep the files small and the objects of one shape. */
export abstract class ProcessorAccess {
  intercepts: Intercepts = noIntercepts();

  /** {@link Bus.value} */
  value = 0n;
  protected readonly exit: VmExit = emptyExit();
  protected exited = false;
  protected pending: GuestEvent | null = null;
  protected pendingAddress: bigint | null = null;
  /** an event is being delivered: the flags that an exit saves are those of its frame */
  protected delivering = false;
  protected current: Insn | null = null;
  /** Host addresses of the two parts of the last prepared access, and how many bytes the first has. */
  protected hpa0 = 0;
  protected hpa1 = 0;
  protected part0 = 0;

  constructor(
    readonly state: CpuState,
    public mmu: LinearMemory,
    public memory: PhysMemory,
  ) {}

  /** {@link Bus.exception} */
  exception(vector: number, errorCode: number | null): false {
    this.pending = { vector, type: EVENT_TYPE.EXCEPTION, errorCode, insnLen: 0 };
    return false;
  }

  protected stop(kind: VmExitKind): false {
    this.exited = true;
    // Set again by what is a fault; an instruction that exits by itself leaves no RF behind (SDM vol. 3C 27.3.3).
    if (this.intercepts.savesRf && !this.delivering) this.state.rflags &= ~RFLAGS.RF;
    this.exit.kind = kind;
    this.exit.insn = this.current;
    return false;
  }

  /** Turns the status of a failed translation into an exception or an exit. */
  protected translationFailed(status: number, linear: bigint | null): false {
    const { r } = this.mmu;
    switch (status) {
      case A.PF:
        this.pendingAddress = linear;
        return this.exception(VECTOR.PF, r[A.R_ERROR]);
      case A.NON_CANONICAL:
      case A.GP_PDPTE:
        return this.exception(VECTOR.GP, 0);
      case A.VE:
        return this.exception(VECTOR.VE, null);
      default: {
        this.stop(
          status === A.NPF
            ? 'npf'
            : status === A.EPT_VIOLATION
              ? 'ept_violation'
              : status === A.EPT_MISCONFIG
                ? 'ept_misconfig'
                : status === A.PML_FULL
                  ? 'pml_full'
                  : 'spp',
        );
        if (this.intercepts.savesRf && !this.delivering) this.state.rflags |= RFLAGS.RF;
        this.exit.gpa = (r[A.R_FAULT_GPA_HI] >>> 0) * 0x1_0000_0000 + (r[A.R_FAULT_GPA_LO] >>> 0);
        this.exit.codeLo = r[A.R_QUAL_LO] >>> 0;
        this.exit.codeHi = r[A.R_QUAL_HI] >>> 0;
        this.exit.gva = linear;
        return false;
      }
    }
  }

  // ---- Memory ----

  protected dataAccess(type: number): number {
    const s = this.state;
    return type | (s.cpl === 3 ? A.ACC_USER : 0) | ((s.rflags & RFLAGS.AC) !== 0n ? A.ACC_AC : 0);
  }

  /** Translates all of an access, which may cross a page, before any of it is done. */
  protected prepare(linear: bigint, size: number, access: number): boolean {
    const { mmu } = this;
    const lo = lo32(linear);
    const hi = hi32(linear);
    mmu.setAccessSize(size);
    let status = mmu.translate(lo, hi, access);
    if (status !== A.OK) return this.translationFailed(status, linear);
    this.hpa0 = (mmu.r[A.R_HPA_HI] >>> 0) * 0x1_0000_0000 + (mmu.r[A.R_HPA_LO] >>> 0);
    const room = PAGE - (lo & (PAGE - 1));
    this.part0 = size <= room ? size : room;
    if (size <= room) return true;
    const second = this.wrap(linear + BigInt(room));
    status = mmu.translate(lo32(second), hi32(second), access);
    if (status !== A.OK) return this.translationFailed(status, second);
    this.hpa1 = (mmu.r[A.R_HPA_HI] >>> 0) * 0x1_0000_0000 + (mmu.r[A.R_HPA_LO] >>> 0);
    return true;
  }

  protected wrap(linear: bigint): bigint {
    return truncate(linear, this.state.longModeActive ? 8 : 4);
  }

  protected readPrepared(size: number): void {
    const { memory, hpa0 } = this;
    if (this.part0 === size && (hpa0 & (size - 1)) === 0 && size <= 8) {
      this.value =
        size === 8
          ? memory.readQ(hpa0)
          : BigInt(size === 4 ? memory.read32(hpa0) : size === 2 ? memory.read16(hpa0) : memory.read8(hpa0));
      return;
    }
    let v = bytesToBigint(memory.readBytes(hpa0, this.part0));
    if (this.part0 < size) v |= bytesToBigint(memory.readBytes(this.hpa1, size - this.part0)) << BigInt(8 * this.part0);
    this.value = v;
  }

  protected writePrepared(size: number, value: bigint): void {
    const { memory, hpa0 } = this;
    if (this.part0 === size && (hpa0 & (size - 1)) === 0 && size <= 8) {
      if (size === 8) memory.writeQ(hpa0, lo32(value), hi32(value));
      else if (size === 4) memory.write32(hpa0, lo32(value));
      else if (size === 2) memory.write16(hpa0, Number(value));
      else memory.write8(hpa0, Number(value));
      return;
    }
    const bytes = bigintToBytes(value, size);
    memory.writeBytes(hpa0, bytes.subarray(0, this.part0));
    if (this.part0 < size) memory.writeBytes(this.hpa1, bytes.subarray(this.part0));
  }

  read(linear: bigint, size: number): boolean {
    if (!this.prepare(linear, size, this.dataAccess(A.ACC_READ))) return false;
    this.readPrepared(size);
    return true;
  }

  write(linear: bigint, size: number, value: bigint): boolean {
    if (!this.prepare(linear, size, this.dataAccess(A.ACC_WRITE))) return false;
    this.writePrepared(size, value);
    return true;
  }

  rmwRead(linear: bigint, size: number): boolean {
    if (!this.prepare(linear, size, this.dataAccess(A.ACC_WRITE))) return false;
    this.readPrepared(size);
    return true;
  }

  /** The pages were checked for writing by {@link rmwRead}. */
  rmwWrite(_linear: bigint, size: number, _old: bigint, value: bigint): boolean {
    this.writePrepared(size, value);
    return true;
  }

  systemRead(linear: bigint, size: number): boolean {
    if (!this.prepare(linear, size, A.ACC_READ | A.ACC_IMPLICIT)) return false;
    this.readPrepared(size);
    return true;
  }

  systemWrite(linear: bigint, size: number, value: bigint): boolean {
    if (!this.prepare(linear, size, A.ACC_WRITE | A.ACC_IMPLICIT)) return false;
    this.writePrepared(size, value);
    return true;
  }

  fetch(linear: bigint): boolean {
    return this.prepare(linear, 1, this.dataAccess(A.ACC_FETCH));
  }
}

function bytesToBigint(bytes: Uint8Array): bigint {
  let v = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) v = (v << 8n) | BigInt(bytes[i]);
  return v;
}

function bigintToBytes(value: bigint, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = Number((value >> BigInt(8 * i)) & 0xffn);
  return bytes;
}
