/**
 * struct x86_emulate_ops: the accesses of an emulated instruction. They go through KVM's own walk, the memslots and the MMIO path.
 * Facts: reference kvm-mmu-model.md 12.2, 18.3, 23.6, 23.7.
 */
import type { Bus } from '../hw/bus';
import type { Insn } from '../hw/insn';
import { enter, leave } from './observer';
import type { KvmVcpu } from './kvm_host';
import { kvm_gpa_to_hpa, kvm_vcpu_gfn_to_memslot, kvm_vcpu_read_guest, kvm_vcpu_write_guest } from './kvm_main';
import { kvm_mmu_invlpg } from './mmu/invlpg';
import { vcpu_match_mmio_gpa, vcpu_match_mmio_gva } from './mmu/mmio';
import {
  cplAccess,
  gva_to_gpa,
  lastWalk,
  permission_fault,
  PFERR_FETCH,
  PFERR_IMPLICIT_ACCESS,
  PFERR_WRITE,
  type WalkFault,
} from './mmu/paging_tmpl';
import { kvm_page_track_write } from './mmu/pte_write';
import { kvm_inject_emulated_page_fault } from './mmu/shadow_fault';
import { em_rsm } from './smm';
import { kvm_get_msr, kvm_set_cr0, kvm_set_cr3, kvm_set_cr4, kvm_set_msr } from './x86_regs';
import { kvm_multiple_exception } from './x86_exceptions';
import { pioIn, pioOut } from './kvm_run';

/** struct x86_emulate_ctxt as far as it survives an exit to user space. */
export interface EmulateCtxt {
  insn: Insn;
  eip: bigint;
  gpa_available: boolean;
  gpa_val: number;
  /** read_cache: values read so far, so that a restart after an MMIO exit does not read twice */
  mem_read: bigint[];
}

const MSR_UNKNOWN_GP = 13;
const UD_VECTOR = 6;
const PF_VECTOR = 14;
const APIC_DEFAULT_PHYS_BASE = 0xfee00000;

/** struct x86_exception: `fault` is there for a #PF. */
export interface EmulatedException {
  vector: number;
  errorCode: number | null;
  fault: WalkFault | null;
}

/** The #PF of a walk of KVM's. */
export const pageFaultOf = (w: WalkFault): EmulatedException => ({
  vector: PF_VECTOR,
  errorCode: w.fault_error_code,
  fault: {
    fault_error_code: w.fault_error_code,
    fault_address: w.fault_address,
    nested_page_fault: w.nested_page_fault,
  },
});

/** inject_emulated_exception(): a fault of L1's tables for L2 becomes an exit to L1, any other a guest exception. */
export function inject_emulated_exception(vcpu: KvmVcpu, e: EmulatedException): void {
  if (e.fault) kvm_inject_emulated_page_fault(vcpu, e.fault);
  else kvm_multiple_exception(vcpu, e.vector, e.errorCode, null);
}

/** The emulator's accesses. One per vCPU run; not kept. */
export class EmulatorBus implements Bus {
  value = 0n;
  exception_: EmulatedException | null = null;
  ioNeeded = false;
  failed = false;
  private pos = 0;

  constructor(
    private readonly vcpu: KvmVcpu,
    private readonly ctxt: EmulateCtxt,
  ) {}

  private get m() {
    return this.vcpu.kvm.machine;
  }

  exception(vector: number, errorCode: number | null): false {
    this.exception_ = { vector, errorCode, fault: null };
    return false;
  }

  private pageFault(): false {
    this.exception_ = pageFaultOf(lastWalk());
    return false;
  }

  read(linear: bigint, size: number): boolean {
    if (this.pos < this.ctxt.mem_read.length) {
      this.value = this.ctxt.mem_read[this.pos++];
      return true;
    }
    enter(this.m, 'emulator_read_emulated', this.vcpu.vcpu_id, this.ctxt);
    const ok = this.readWrite(linear, size, null);
    leave(this.m);
    if (!ok) return false;
    this.ctxt.mem_read.push(this.value);
    this.pos++;
    return true;
  }

  write(linear: bigint, size: number, value: bigint): boolean {
    enter(this.m, 'emulator_write_emulated', this.vcpu.vcpu_id, this.ctxt);
    const ok = this.readWrite(linear, size, value);
    leave(this.m);
    return ok;
  }

  rmwRead(linear: bigint, size: number): boolean {
    const ok = this.read(linear, size);
    // The read is the first half of a write, and the error code of a fault has to say so (x86_emulate_insn(), v6.1).
    const e = this.exception_;
    if (!ok && e?.fault) e.fault.fault_error_code |= PFERR_WRITE;
    return ok;
  }

  rmwWrite(linear: bigint, size: number, old: bigint, value: bigint, locked: boolean): boolean {
    if (!locked) return this.write(linear, size, value);
    enter(this.m, 'emulator_cmpxchg_emulated', this.vcpu.vcpu_id, this.ctxt);
    const ok = this.cmpxchg(linear, size, old, value);
    leave(this.m);
    return ok;
  }

  /** emulator_cmpxchg_emulated(): in place on the host page, or a plain write where that is not possible. */
  private cmpxchg(linear: bigint, size: number, old: bigint, value: bigint): boolean {
    const vcpu = this.vcpu;
    const crosses = Number(linear & 0xfffn) + size > 4096;
    if (size > 8 || size & (size - 1)) return this.write(linear, size, value);
    const gpa = gva_to_gpa(vcpu, linear, cplAccess(vcpu) | PFERR_WRITE);
    if (gpa < 0 || Math.floor(gpa / 4096) * 4096 === APIC_DEFAULT_PHYS_BASE || crosses)
      return this.write(linear, size, value);
    const slot = kvm_vcpu_gfn_to_memslot(vcpu, Math.floor(gpa / 4096));
    if (kvm_gpa_to_hpa(this.m, slot, gpa, true) < 0) return this.write(linear, size, value);
    void old;
    kvm_vcpu_write_guest(vcpu, gpa, size, value);
    kvm_page_track_write(vcpu, gpa, value, size);
    return true;
  }

  /** write_emulate(): into memory, and the shadow MMU hears of it. @returns false: there is no memory to write to */
  private writePhys(gpa: number, value: bigint, bytes: number): boolean {
    const { m, vcpu } = this;
    enter(m, 'write_emulate', vcpu.vcpu_id, this.ctxt);
    enter(m, 'emulator_write_phys', vcpu.vcpu_id, this.ctxt);
    enter(m, 'kvm_vcpu_write_guest', vcpu.vcpu_id, null);
    const done = kvm_vcpu_write_guest(vcpu, gpa, bytes, value);
    leave(m);
    if (done) kvm_page_track_write(vcpu, gpa, value, bytes);
    leave(m);
    leave(m);
    return done;
  }

  /** emulator_read_write(): page by page; `value` null reads. */
  private readWrite(linear: bigint, size: number, value: bigint | null): boolean {
    enter(this.m, 'emulator_read_write', this.vcpu.vcpu_id, this.ctxt);
    const ok = this.pageByPage(linear, size, value);
    leave(this.m);
    return ok;
  }

  private pageByPage(linear: bigint, size: number, value: bigint | null): boolean {
    const vcpu = this.vcpu;
    const m = this.m;
    if (value === null && vcpu.mmio_read_completed) {
      // read_prepare(): user space has supplied what the first pass asked for.
      const frags = vcpu.mmio_fragments;
      let v = 0n;
      let at = 0;
      for (const f of frags) {
        v |= f.data << BigInt(8 * at);
        at += f.len;
      }
      this.value = v;
      vcpu.mmio_read_completed = false;
      if (m.observer)
        m.observer.event({
          kind: 'kvm_mmio',
          vcpu: vcpu.vcpu_id,
          type: 1,
          len: size,
          gpa: BigInt(frags[0]?.gpa ?? 0),
          val: v,
        });
      vcpu.mmio_fragments = [];
      return true;
    }
    vcpu.mmio_fragments = [];
    const room = 4096 - Number(linear & 0xfffn);
    const first = Math.min(size, room);
    if (!this.onePage(linear, first, value === null ? null : value & ((1n << BigInt(8 * first)) - 1n))) return false;
    let got = this.value;
    if (first < size) {
      const rest = size - first;
      if (!this.onePage(linear + BigInt(first), rest, value === null ? null : value >> BigInt(8 * first))) return false;
      got |= this.value << BigInt(8 * first);
    }
    this.value = got;
    if (!vcpu.mmio_fragments.length) return true;
    const gpa = BigInt(vcpu.mmio_fragments[0].gpa);
    vcpu.mmio_needed = true;
    vcpu.mmio_is_write = value !== null;
    if (value === null) {
      if (m.observer) m.observer.event({ kind: 'kvm_mmio', vcpu: vcpu.vcpu_id, type: 0, len: size, gpa, val: 0n });
      this.ioNeeded = true;
      return false;
    }
    return true;
  }

  /** emulator_read_write_onepage() */
  private onePage(linear: bigint, bytes: number, value: bigint | null): boolean {
    const vcpu = this.vcpu;
    const m = this.m;
    const write = value !== null;
    enter(m, 'emulator_read_write_onepage', vcpu.vcpu_id, this.ctxt);
    let gpa: number;
    let mmio: boolean;
    if (this.ctxt.gpa_available && (linear & 0xfffn) === BigInt(this.ctxt.gpa_val % 4096)) {
      gpa = this.ctxt.gpa_val;
      enter(m, 'vcpu_is_mmio_gpa', vcpu.vcpu_id, vcpu);
      mmio = this.isMmioGpa(linear, gpa, write);
      leave(m);
    } else {
      enter(m, 'vcpu_mmio_gva_to_gpa', vcpu.vcpu_id, vcpu);
      const r = this.mmioGvaToGpa(linear, write);
      leave(m);
      if (r.gpa < 0) {
        leave(m);
        return this.pageFault();
      }
      gpa = r.gpa;
      mmio = r.mmio;
    }
    let done = false;
    if (!mmio) {
      if (write) {
        done = this.writePhys(gpa, value, bytes);
      } else {
        const v = kvm_vcpu_read_guest(vcpu, gpa, bytes);
        if (v !== null) {
          this.value = v;
          done = true;
        }
      }
    }
    if (!done) {
      // No device of the model is in the kernel: the bus finds none, and user space is asked.
      enter(m, write ? 'vcpu_mmio_write' : 'vcpu_mmio_read', vcpu.vcpu_id, vcpu);
      enter(m, write ? 'kvm_io_bus_write/device' : 'kvm_io_bus_read', vcpu.vcpu_id, null);
      leave(m);
      leave(m);
      if (write && m.observer)
        m.observer.event({ kind: 'kvm_mmio', vcpu: vcpu.vcpu_id, type: 2, len: bytes, gpa: BigInt(gpa), val: value });
      for (let at = 0; at < bytes; at += 8)
        vcpu.mmio_fragments.push({
          gpa: gpa + at,
          len: Math.min(8, bytes - at),
          data: write ? (value >> BigInt(8 * at)) & 0xffffffffffffffffn : 0n,
        });
      this.value = 0n;
    }
    leave(m);
    return true;
  }

  /** The tracepoint vcpu_match_mmio: the MMIO cache of the vCPU knew the page. */
  private matched(gva: bigint, gpa: number, write: boolean, gpa_match: 0 | 1): void {
    this.m.observer?.event({
      kind: 'vcpu_match_mmio',
      vcpu: this.vcpu.vcpu_id,
      gva,
      gpa: BigInt(gpa),
      write: write ? 1 : 0,
      gpa_match,
    });
  }

  /** vcpu_is_mmio_gpa() */
  private isMmioGpa(gva: bigint, gpa: number, write: boolean): boolean {
    const vcpu = this.vcpu;
    if (Math.floor(gpa / 4096) * 4096 === APIC_DEFAULT_PHYS_BASE) return true;
    if (!vcpu_match_mmio_gpa(vcpu, gpa)) return false;
    this.matched(gva, gpa, write, 1);
    return true;
  }

  /** vcpu_mmio_gva_to_gpa(): without a walk where the MMIO cache knows the page. */
  private mmioGvaToGpa(gva: bigint, write: boolean): { gpa: number; mmio: boolean } {
    const vcpu = this.vcpu;
    const access = cplAccess(vcpu) | (write ? PFERR_WRITE : 0);
    if (
      vcpu_match_mmio_gva(vcpu, gva) &&
      (!vcpu.regs.paging ||
        // With ACC_READ_MASK what is remembered of an MMIO spte lacks R (shadow_mmio_access_mask is W and U): it allows no read.
        ((write || !vcpu.kvm.machine.caps.accessHasRead) &&
          !permission_fault(vcpu, vcpu.walk_mmu, vcpu.mmio_access, 0, access)))
    ) {
      const gpa = vcpu.mmio_gfn * 4096 + Number(gva & 0xfffn);
      this.matched(gva, gpa, write, 0);
      return { gpa, mmio: true };
    }
    const gpa = gva_to_gpa(vcpu, gva, access);
    return gpa < 0 ? { gpa, mmio: false } : { gpa, mmio: this.isMmioGpa(gva, gpa, write) };
  }

  fetch(linear: bigint): boolean {
    const gpa = gva_to_gpa(this.vcpu, linear, cplAccess(this.vcpu) | PFERR_FETCH);
    if (gpa < 0) return this.pageFault();
    // Code in a hole cannot be read, so it cannot be emulated.
    this.failed = kvm_vcpu_read_guest(this.vcpu, gpa, 1) === null;
    return !this.failed;
  }

  systemRead(linear: bigint, size: number): boolean {
    const gpa = gva_to_gpa(this.vcpu, linear, PFERR_IMPLICIT_ACCESS);
    if (gpa < 0) return this.pageFault();
    const v = kvm_vcpu_read_guest(this.vcpu, gpa, size);
    if (v === null) return !(this.failed = true);
    this.value = v;
    return true;
  }

  systemWrite(linear: bigint, size: number, value: bigint): boolean {
    const gpa = gva_to_gpa(this.vcpu, linear, PFERR_WRITE | PFERR_IMPLICIT_ACCESS);
    if (gpa < 0) return this.pageFault();
    if (!kvm_vcpu_write_guest(this.vcpu, gpa, size, value)) return !(this.failed = true);
    return true;
  }

  readCr(n: number): boolean {
    const s = this.vcpu.regs;
    const all: Record<number, bigint> = { 0: s.cr0, 2: s.cr2, 3: s.cr3, 4: s.cr4, 8: s.cr8 };
    if (!(n in all)) return this.exception(UD_VECTOR, null);
    this.value = all[n];
    return true;
  }

  writeCr(n: number, value: bigint): boolean {
    const vcpu = this.vcpu;
    const ok =
      n === 0
        ? kvm_set_cr0(vcpu, value)
        : n === 3
          ? kvm_set_cr3(vcpu, value)
          : n === 4
            ? kvm_set_cr4(vcpu, value)
            : n === 2
              ? ((vcpu.regs.cr2 = value), true)
              : n === 8 && value < 16n
                ? ((vcpu.regs.cr8 = value), true)
                : false;
    return ok || this.exception(MSR_UNKNOWN_GP, 0);
  }

  readMsr(msr: number): boolean {
    const v = kvm_get_msr(this.vcpu, msr);
    if (v === null) return this.exception(MSR_UNKNOWN_GP, 0);
    this.value = v;
    return true;
  }

  writeMsr(msr: number, value: bigint): boolean {
    return kvm_set_msr(this.vcpu, msr, value) || this.exception(MSR_UNKNOWN_GP, 0);
  }

  writePkru(value: number): boolean {
    this.vcpu.regs.pkru = value >>> 0;
    this.m.registersChanged(this.vcpu);
    return true;
  }

  invlpg(linear: bigint): boolean {
    kvm_mmu_invlpg(this.vcpu, linear);
    return true;
  }

  invpcid(): boolean {
    this.failed = true;
    return false;
  }

  in(port: number, size: number): boolean {
    this.value = pioIn(this.vcpu, port, size);
    return true;
  }

  out(port: number, size: number, value: bigint): boolean {
    pioOut(this.vcpu, port, size, value);
    return true;
  }

  special(insn: Insn): boolean {
    if (insn.op === 'rsm') {
      if (em_rsm(this.vcpu)) {
        this.rsmDone = true;
        return true;
      }
      return this.exception(UD_VECTOR, null);
    }
    if (insn.op === 'hlt') {
      this.vcpu.halted = true;
      return true;
    }
    this.failed = true;
    return false;
  }

  /** RSM loaded RIP itself. */
  rsmDone = false;
}
