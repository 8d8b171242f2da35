/**
 * One logical processor: it fetches, decodes and runs instructions, delivers exceptions, and stops at whatever the hypervisor asked
 * to be told about. It knows registers, control fields and host-physical memory; nothing of KVM.
 *
 * An access that faults or exits abandons its instruction without effect, so the hypervisor can resolve the cause and run again:
 * the instruction restarts. An exit during event delivery reports the event, and the hypervisor puts it into {@link Processor.inject}.
 *
 * Sources: SDM vol. 3A chapter 6 (delivery), vol. 3C 25-27 (what exits, what is saved); APM vol. 2 chapter 15.
 */
import type { Bus } from './bus';
import { combine, deliver, frameFlags, softwareEvent, type DeliveryOptions } from './exceptions';
import { advance, execute } from './exec';
import { emptyExit, EVENT_TYPE, type GuestEvent, type VmExit } from './exits';
import { decodeInsn, type Insn } from './insn';
import { readGpr, readOperand, truncate, VECTOR, writeOperand } from './operands';
import { lo32, PAGE } from './processor-access';
import { ProcessorRegisters } from './processor-registers';
import { RFLAGS } from './regs';
import type { ShadowVmcs } from './vmcs';

export { EVENT_TYPE, noIntercepts } from './exits';
export type { GuestEvent, Intercepts, VmExit, VmExitKind } from './exits';

const U32 = 0xffff_ffffn;

/** Largest number of nested deliveries before a fault loop would be our bug. */
const MAX_DELIVERIES = 64;

export class Processor extends ProcessorRegisters implements Bus {
  /** The event to deliver before the first instruction of the next run (event injection); taken by the run. */
  inject: GuestEvent | null = null;
  /** A pseudo-instruction that raised an exception is over once that was delivered: the run ends with `done`. */
  stopOnDelivery = false;
  delivery: DeliveryOptions = { pushBeforeVector: false, ssBeforeEsp: false };
  /** Values of RDTSC and CPUID, data of the machine. */
  tsc = 0n;
  cpuid: (leaf: number, subleaf: number) => readonly [number, number, number, number] = () => [0, 0, 0, 0];
  /** VMCS shadowing: the VMCS that VMREAD and VMWRITE reach without an exit where it allows them; null: none. */
  shadowVmcs: ShadowVmcs | null = null;
  /** Told of each event when its delivery begins. */
  onEvent: ((e: GuestEvent, address: bigint | null) => void) | null = null;

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
