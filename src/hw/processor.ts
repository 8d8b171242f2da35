/**
 * One logical processor: it fetches, decodes and runs instructions, delivers exceptions, and stops at whatever the hypervisor asked
 * to be told about. It knows registers, control fields and host-physical memory; nothing of KVM.
 *
 * An access that faults or exits abandons its instruction without effect, so the hypervisor can resolve the cause and run again:
 * the instruction restarts. An exit during event delivery reports the event, and the hypervisor puts it into {@link Processor.inject}.
 *
 * Sources: SDM vol. 3A chapter 6 (delivery), vol. 3C 25-27 (what exits, what is saved); APM vol. 2 chapter 15.
 */
import * as A from './access';
import type { Bus } from './bus';
import { combine, deliver, frameFlags, softwareEvent, type DeliveryOptions } from './exceptions';
import { advance, execute } from './exec';
import {
  emptyExit,
  EVENT_TYPE,
  noIntercepts,
  type GuestEvent,
  type Intercepts,
  type VmExit,
  type VmExitKind,
} from './exits';
import { decodeInsn, type Insn } from './insn';
import type { LinearMemory } from './linear-memory';
import type { PhysMemory } from './memory';
import { readGpr, readOperand, truncate, VECTOR, writeOperand } from './operands';
import type { ShadowVmcs } from './vmcs';
import { cr0Fault, CR0, cr4Fault, CR4, EFER, MSR, RFLAGS, type CpuState } from './regs';

export { EVENT_TYPE, noIntercepts } from './exits';
export type { GuestEvent, Intercepts, VmExit, VmExitKind } from './exits';

const U32 = 0xffff_ffffn;
const PAGE = 4096;

const lo32 = (v: bigint): number => Number(v & U32) | 0;
const hi32 = (v: bigint): number => Number((v >> 32n) & U32) | 0;

/** Largest number of nested deliveries before a fault loop would be our bug. */
const MAX_DELIVERIES = 64;

export class Processor implements Bus {
  intercepts: Intercepts = noIntercepts();
  /** The event to deliver before the first instruction of the next run (event injection); taken by the run. */
  inject: GuestEvent | null = null;
  /** A pseudo-instruction that raised an exception is over once that was delivered: the run ends with `done`. */
  stopOnDelivery = false;
  delivery: DeliveryOptions = { pushBeforeVector: false, ssBeforeEsp: false };
  /** Each MOV to CR0 loads the PDPTEs (quirk bochs-mov-cr0-pdptes). */
  loadsPdptesAlways = false;
  /** Values of RDTSC and CPUID, data of the machine. */
  tsc = 0n;
  cpuid: (leaf: number, subleaf: number) => readonly [number, number, number, number] = () => [0, 0, 0, 0];
  /** VMCS shadowing: the VMCS that VMREAD and VMWRITE reach without an exit where it allows them; null: none. */
  shadowVmcs: ShadowVmcs | null = null;
  /** Told of each event when its delivery begins. */
  onEvent: ((e: GuestEvent, address: bigint | null) => void) | null = null;

  /** {@link Bus.value} */
  value = 0n;
  private readonly exit: VmExit = emptyExit();
  private exited = false;
  private pending: GuestEvent | null = null;
  private pendingAddress: bigint | null = null;
  /** an event is being delivered: the flags that an exit saves are those of its frame */
  private delivering = false;
  private current: Insn | null = null;
  /** Host addresses of the two parts of the last prepared access, and how many bytes the first has. */
  private hpa0 = 0;
  private hpa1 = 0;
  private part0 = 0;

  constructor(
    readonly state: CpuState,
    public mmu: LinearMemory,
    public memory: PhysMemory,
  ) {}

  /**
   * Runs until something exits.
   * @param next what to run next: an instruction, the code at RIP (`fetch`), or nothing more (null)
   * @returns the exit, valid until the next run
   */
  run(next: () => Insn | null | 'fetch'): VmExit {
    Object.assign(this.exit, emptyExit());
    this.exited = false;
    this.current = null;
    if (this.inject) {
      const e = this.inject;
      this.inject = null;
      if (this.deliverChain(e, true)) return this.exit;
      if (this.stopOnDelivery) return this.finish(e);
    }
    for (;;) {
      const wanted = next();
      if (wanted === null) return this.finish(null);
      this.current = null;
      const insn = wanted === 'fetch' ? this.fetchInsn() : this.fetchPseudo(wanted);
      this.current = insn;
      if (insn && execute(insn, this.state, this)) {
        // every instruction that completes clears RF, except those that load it
        if ((this.state.rflags & RFLAGS.RF) !== 0n && insn.op !== 'iret' && insn.op !== 'popf')
          this.state.rflags &= ~RFLAGS.RF;
        continue;
      }
      if (this.exited) return this.exit;
      const e = this.takePending();
      if (this.deliverChain(e, false)) return this.exit;
      if (this.stopOnDelivery) return this.finish(e);
    }
  }

  /** Ends a run without an exit. */
  private finish(exception: GuestEvent | null): VmExit {
    this.exit.kind = 'done';
    this.exit.insn = this.current;
    this.exit.exception = exception;
    return this.exit;
  }

  // ---- Exceptions ----

  private takePending(): GuestEvent {
    const e = this.pending;
    if (!e) throw new Error(`${this.current?.op ?? 'fetch'} stopped without a reason`);
    this.pending = null;
    return e;
  }

  /**
   * Delivers an event and whatever its delivery raises. True: the run is over.
   * @param injected the hypervisor asked for it: its own vector is not intercepted again
   */
  private deliverChain(first: GuestEvent, injected: boolean): boolean {
    if (!injected && this.intercepted(first)) return this.exceptionExit(first, null);
    let e = first;
    for (let n = 0; n < MAX_DELIVERIES; n++) {
      if (e.vector === VECTOR.PF && this.pendingAddress !== null) this.state.cr2 = this.pendingAddress;
      this.pendingAddress = null;
      this.onEvent?.(e, e.vector === VECTOR.PF ? this.state.cr2 : null);
      if (!this.state.idtUsed) {
        this.finish(e);
        return true;
      }
      this.delivering = true;
      const delivered = deliver(this.state, this, e, this.delivery);
      this.delivering = false;
      if (delivered) {
        this.exit.delivered = e;
        return false;
      }
      if (this.exited) {
        this.saveRf(e);
        this.exit.insn = null;
        this.exit.idtVectoring = e;
        return true;
      }
      const second = this.takePending();
      // the exception bitmap is looked at before the rules of double faults (SDM vol. 3C 25.2, APM vol. 2 15.12)
      if (this.intercepted(second)) return this.exceptionExit(second, e);
      const combined = combine(e, second);
      if (!combined) {
        this.stop('shutdown');
        this.saveRf(e);
        this.exit.idtVectoring = this.intercepts.shutdownKeepsEvent ? first : null;
        return true;
      }
      // a double fault that exits is not reported as having interrupted anything (SDM vol. 3C 27.2.4)
      if (combined !== second && this.intercepted(combined)) return this.exceptionExit(combined, null);
      e = combined;
    }
    throw new Error('event delivery does not end');
  }

  /** RFLAGS.RF as the interrupted delivery would have pushed it. */
  private saveRf(e: GuestEvent): void {
    if (this.intercepts.savesRf) this.state.rflags = frameFlags(this.state, e);
  }

  private exceptionExit(e: GuestEvent, interrupted: GuestEvent | null): true {
    this.stop('exception');
    this.saveRf(e);
    this.exit.exception = e;
    this.exit.gva = e.vector === VECTOR.PF ? this.pendingAddress : null;
    this.exit.idtVectoring = interrupted;
    this.pendingAddress = null;
    return true;
  }

  private intercepted(e: GuestEvent): boolean {
    if (e.type === EVENT_TYPE.EXTINT || e.type === EVENT_TYPE.SWINT) return false;
    const bit = (this.intercepts.exceptions >>> e.vector) & 1;
    if (e.vector !== VECTOR.PF) return bit === 1;
    const match = ((e.errorCode ?? 0) & this.intercepts.pfecMask) === this.intercepts.pfecMatch;
    return (bit === 1) === match;
  }

  /** {@link Bus.exception} */
  exception(vector: number, errorCode: number | null): false {
    this.pending = { vector, type: EVENT_TYPE.EXCEPTION, errorCode, insnLen: 0 };
    return false;
  }

  // ---- Exits ----

  private stop(kind: VmExitKind): false {
    this.exited = true;
    // Set again by what is a fault; an instruction that exits by itself leaves no RF behind (SDM vol. 3C 27.3.3).
    if (this.intercepts.savesRf && !this.delivering) this.state.rflags &= ~RFLAGS.RF;
    this.exit.kind = kind;
    this.exit.insn = this.current;
    return false;
  }

  /** Turns the status of a failed translation into an exception or an exit. */
  private translationFailed(status: number, linear: bigint | null): false {
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

  private dataAccess(type: number): number {
    const s = this.state;
    return type | (s.cpl === 3 ? A.ACC_USER : 0) | ((s.rflags & RFLAGS.AC) !== 0n ? A.ACC_AC : 0);
  }

  /** Translates all of an access, which may cross a page, before any of it is done. */
  private prepare(linear: bigint, size: number, access: number): boolean {
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

  private wrap(linear: bigint): bigint {
    return truncate(linear, this.state.longModeActive ? 8 : 4);
  }

  private readPrepared(size: number): void {
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

  private writePrepared(size: number, value: bigint): void {
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

  // ---- Fetch ----

  private fetchPseudo(insn: Insn): Insn | null {
    if (!this.state.ripKnown) return insn;
    return this.fetch(this.codeAddress(0)) ? insn : null;
  }

  private codeAddress(offset: number): bigint {
    const s = this.state;
    const base = s.codeBits === 64 ? 0n : s.cs.base;
    return truncate(base + s.rip + BigInt(offset), s.codeBits === 64 ? 8 : 4);
  }

  /** Reads and decodes the instruction at CS:RIP; null when that faulted or exited. */
  private fetchInsn(): Insn | null {
    const s = this.state;
    const linear = this.codeAddress(0);
    if (s.codeBits === 64 ? !s.isCanonical(linear) : s.rip > BigInt(s.cs.limit)) {
      this.exception(VECTOR.GP, 0);
      return null;
    }
    if (!this.fetch(linear)) return null;
    const room = PAGE - (lo32(linear) & (PAGE - 1));
    const first = this.memory.readBytes(this.hpa0, Math.min(15, room));
    let insn = decodeInsn(first, s.codeBits);
    if (insn.op === 'truncated') {
      if (!this.fetch(this.codeAddress(room))) return null;
      const both = new Uint8Array(15);
      both.set(first);
      both.set(this.memory.readBytes(this.hpa0, 15 - room), room);
      insn = decodeInsn(both, s.codeBits);
    }
    if (insn.op === 'unknown') {
      const bytes = Array.from(first.subarray(0, 8), (b) => b.toString(16).padStart(2, '0')).join(' ');
      throw new UnknownInstruction(
        `the instruction at 0x${linear.toString(16)} (bytes ${bytes}) is not one that the simulated processor knows`,
      );
    }
    return insn;
  }

  // ---- Control registers, MSRs, ports ----

  readCr(n: number): boolean {
    const s = this.state;
    if ((this.intercepts.crRead >>> n) & 1) return this.crExit(n, false, 0n, false);
    const { cr0Mask, cr4Mask } = this.intercepts;
    const cr0Shadow = this.intercepts.cr0Shadow ?? s.cr0;
    const cr4Shadow = this.intercepts.cr4Shadow ?? s.cr4;
    switch (n) {
      case 0:
        this.value = (s.cr0 & ~cr0Mask) | (cr0Shadow & cr0Mask);
        return true;
      case 2:
        this.value = s.cr2;
        return true;
      case 3:
        this.value = s.cr3;
        return true;
      case 4:
        this.value = (s.cr4 & ~cr4Mask) | (cr4Shadow & cr4Mask);
        return true;
      case 8:
        this.value = s.cr8;
        return true;
      default:
        return this.exception(VECTOR.UD, null);
    }
  }

  writeCr(n: number, value: bigint): boolean {
    const s = this.state;
    const { intercepts: c } = this;
    if ((c.crWrite >>> n) & 1) return this.crExit(n, true, value, false);
    if (n === 0) {
      if (c.cr0SelectiveWrite && ((value ^ s.cr0) & ~(CR0.TS | CR0.MP)) !== 0n)
        return this.crExit(0, true, value, true);
      if (((value ^ (c.cr0Shadow ?? s.cr0)) & c.cr0Mask) !== 0n) return this.crExit(0, true, value, false);
      return this.loadCr0((s.cr0 & c.cr0Mask) | (value & ~c.cr0Mask));
    }
    if (n === 3) return this.loadCr3(value);
    if (n === 4) {
      if (((value ^ (c.cr4Shadow ?? s.cr4)) & c.cr4Mask) !== 0n) return this.crExit(4, true, value, false);
      return this.loadCr4((s.cr4 & c.cr4Mask) | (value & ~c.cr4Mask));
    }
    if (n === 2) s.cr2 = value;
    else if (n === 8) {
      if (value > 15n) return this.exception(VECTOR.GP, 0);
      s.cr8 = value;
    } else return this.exception(VECTOR.UD, null);
    return true;
  }

  private crExit(n: number, write: boolean, value: bigint, selective: boolean): false {
    this.stop('cr_access');
    const gpr = write ? this.current?.src : this.current?.dst;
    this.exit.cr = { n, write, value, reg: gpr?.kind === 'reg' ? gpr.reg : -1, selective };
    return false;
  }

  private loadCr0(value: bigint): boolean {
    const s = this.state;
    value |= CR0.ET;
    if (cr0Fault(s, value, s.codeBits === 64)) return this.exception(VECTOR.GP, 0);
    const old = s.cr0;
    const pagingChanged = ((old ^ value) & CR0.PG) !== 0n;
    const oldEfer = s.efer;
    s.cr0 = value;
    if (pagingChanged && (s.efer & EFER.LME) !== 0n) s.efer = value & CR0.PG ? s.efer | EFER.LMA : s.efer & ~EFER.LMA;
    const pae = s.paging && (s.cr4 & CR4.PAE) !== 0n && !s.longModeActive;
    const reloads = this.loadsPdptesAlways || ((old ^ value) & (CR0.PG | CR0.CD | CR0.NW)) !== 0n;
    if (pae && reloads && !this.reloadPdptes()) {
      s.cr0 = old;
      s.efer = oldEfer;
      this.mmu.loadRegisters(s);
      return false;
    }
    this.mmu.loadRegisters(s);
    // SDM vol. 3A 4.10.4.1: changing PG or setting WP.. only PG 1->0 invalidates everything by itself
    if (pagingChanged) this.mmu.flush(true);
    return true;
  }

  private loadCr3(value: bigint): boolean {
    const s = this.state;
    const keep = (s.cr4 & CR4.PCIDE) !== 0n && value >> 63n === 1n;
    if ((s.cr4 & CR4.PCIDE) !== 0n) value &= (1n << 63n) - 1n;
    if (s.longModeActive && value >> 52n) return this.exception(VECTOR.GP, 0);
    const old = s.cr3;
    s.cr3 = value;
    if (s.paging && (s.cr4 & CR4.PAE) !== 0n && !s.longModeActive && !this.reloadPdptes()) {
      s.cr3 = old;
      this.mmu.loadRegisters(s);
      return false;
    }
    this.mmu.loadRegisters(s);
    if (!keep) this.mmu.flush(false);
    return true;
  }

  private loadCr4(value: bigint): boolean {
    const s = this.state;
    if (cr4Fault(s, value)) return this.exception(VECTOR.GP, 0);
    const old = s.cr4;
    s.cr4 = value;
    const changed = old ^ value;
    const pae = s.paging && (value & CR4.PAE) !== 0n && !s.longModeActive;
    if (pae && (changed & (CR4.PAE | CR4.PSE | CR4.PGE | CR4.SMEP)) !== 0n && !this.reloadPdptes()) {
      s.cr4 = old;
      this.mmu.loadRegisters(s);
      return false;
    }
    this.mmu.loadRegisters(s);
    const smepSet = (changed & value & CR4.SMEP) !== 0n;
    const pcideCleared = (changed & old & CR4.PCIDE) !== 0n;
    if ((changed & (CR4.PGE | CR4.PAE | CR4.PSE | CR4.LA57)) !== 0n || pcideCleared) this.mmu.flush(true);
    else if (smepSet) this.mmu.flush(false);
    return true;
  }

  private reloadPdptes(): boolean {
    const status = this.mmu.loadPdptes(this.state);
    return status === A.OK || this.translationFailed(status, null);
  }

  readMsr(msr: number): boolean {
    if (this.msrExits(msr)) return this.msrExit(msr, false, 0n);
    const s = this.state;
    switch (msr) {
      case MSR.EFER:
        this.value = s.efer;
        return true;
      case MSR.FS_BASE:
        this.value = s.fs.base;
        return true;
      case MSR.GS_BASE:
        this.value = s.gs.base;
        return true;
      case MSR.PKRS:
        this.value = BigInt(s.pkrs);
        return true;
      default:
        this.value = s.msrs.get(msr) ?? 0n;
        return true;
    }
  }

  writeMsr(msr: number, value: bigint): boolean {
    if (this.msrExits(msr)) return this.msrExit(msr, true, value);
    const s = this.state;
    switch (msr) {
      case MSR.EFER: {
        if (s.paging && ((value ^ s.efer) & EFER.LME) !== 0n) return this.exception(VECTOR.GP, 0);
        s.efer = (value & ~EFER.LMA) | (s.efer & EFER.LMA);
        this.mmu.loadRegisters(s);
        return true;
      }
      case MSR.FS_BASE:
      case MSR.GS_BASE: {
        if (!s.isCanonical(value)) return this.exception(VECTOR.GP, 0);
        const name = msr === MSR.FS_BASE ? 'fs' : 'gs';
        s[name] = { ...s[name], base: value };
        return true;
      }
      case MSR.PKRS:
        if (value >> 32n) return this.exception(VECTOR.GP, 0);
        s.pkrs = Number(value);
        this.mmu.loadRegisters(s);
        return true;
      default:
        s.msrs.set(msr, value);
        return true;
    }
  }

  private msrExits(msr: number): boolean {
    return this.intercepts.msrPassthrough !== null && !this.intercepts.msrPassthrough.has(msr);
  }

  private msrExit(index: number, write: boolean, value: bigint): false {
    this.stop('msr');
    this.exit.msr = { index, write, value };
    return false;
  }

  writePkru(value: number): boolean {
    this.state.pkru = value >>> 0;
    this.mmu.loadRegisters(this.state);
    return true;
  }

  invlpg(linear: bigint): boolean {
    if (this.intercepts.insns.has('invlpg')) {
      this.stop('invlpg');
      this.exit.address = linear;
      return false;
    }
    this.mmu.invlpg(lo32(linear), hi32(linear));
    return true;
  }

  invpcid(type: number, pcid: number, linear: bigint): boolean {
    if (this.intercepts.insns.has('invpcid')) {
      this.stop('insn');
      this.exit.address = linear;
      return false;
    }
    this.mmu.invpcid(type, pcid, lo32(linear), hi32(linear));
    return true;
  }

  in(port: number, size: number): boolean {
    if (this.intercepts.io) return this.ioExit(port, size, false, 0n);
    // no device is simulated below the hypervisor: an empty bus reads as ones
    this.value = (1n << BigInt(8 * size)) - 1n;
    return true;
  }

  out(port: number, size: number, value: bigint): boolean {
    return this.intercepts.io ? this.ioExit(port, size, true, value) : true;
  }

  private ioExit(port: number, size: number, write: boolean, value: bigint): false {
    this.stop('io');
    const i = this.current!;
    const where = write ? i.dst : i.src;
    this.exit.io = { port, size, write, value, nextRip: this.state.rip + BigInt(i.len), imm: where?.kind === 'imm' };
    return false;
  }

  /** VMREAD or VMWRITE of a shadow VMCS; null: this field exits. */
  private shadowVmcsAccess(vmcs: ShadowVmcs, insn: Insn): boolean | null {
    const s = this.state;
    const read = insn.op === 'vmread';
    const o = read ? insn.src : insn.dst;
    if (s.cpl !== 0 || (o?.kind !== 'reg' && o?.kind !== 'imm')) return null;
    const field = o.kind === 'reg' ? readGpr(s, o.reg, o.size) : o.value;
    if (field >> 15n || !(read ? vmcs.readable(Number(field)) : vmcs.writable(Number(field)))) return null;
    if (read) {
      const value = vmcs.read(Number(field));
      if (!insn.dst) s.loaded = value;
      else if (!writeOperand(s, this, insn, insn.dst, value)) return false;
    } else {
      if (!readOperand(s, this, insn, insn.src!)) return false;
      vmcs.write(Number(field), this.value);
    }
    s.rflags &= ~(RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF);
    return true;
  }

  special(insn: Insn, address: bigint | null): boolean {
    if (this.shadowVmcs && (insn.op === 'vmread' || insn.op === 'vmwrite')) {
      const done = this.shadowVmcsAccess(this.shadowVmcs, insn);
      if (done !== null) return done;
    }
    if (this.intercepts.insns.has(insn.op)) {
      this.stop(insn.op === 'hlt' ? 'hlt' : insn.op === 'rsm' ? 'rsm' : 'insn');
      this.exit.address = address;
      return false;
    }
    const s = this.state;
    switch (insn.op) {
      case 'invd':
      case 'wbinvd':
        return true;
      case 'hlt': {
        // nobody wakes a halted processor here: the run ends at the next instruction
        advance(insn, s);
        return this.stop('hlt');
      }
      case 'int':
      case 'int3': {
        const vector = insn.op === 'int3' ? 3 : Number((insn.src as { value: bigint }).value & 0xffn);
        this.pending = softwareEvent(insn, s, vector);
        return false;
      }
      case 'cpuid': {
        const [a, b, c, d] = this.cpuid(Number(s.gpr[0] & U32), Number(s.gpr[1] & U32));
        s.gpr[0] = BigInt(a >>> 0);
        s.gpr[3] = BigInt(b >>> 0);
        s.gpr[1] = BigInt(c >>> 0);
        s.gpr[2] = BigInt(d >>> 0);
        return true;
      }
      case 'rdtsc':
        s.gpr[0] = this.tsc & U32;
        s.gpr[2] = this.tsc >> 32n;
        return true;
      default:
        // RSM outside SMM, VMX outside VMX operation, VMMCALL without a hypervisor
        return this.exception(VECTOR.UD, null);
    }
  }
}

/** Thrown for code that the decoder does not know. The message is one sentence for the user. */
export class UnknownInstruction extends Error {
  override readonly name = 'UnknownInstruction';
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
