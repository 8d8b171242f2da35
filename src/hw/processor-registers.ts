/**
 * Control registers, MSRs, INVLPG and INVPCID, ports: what each does, and when the hypervisor is told instead.
 * Sources: SDM vol. 3A 2.5, 4.10.4.1, vol. 3C 25.1.3; APM vol. 2 15.8 ff.
 */
import * as A from './access';
import { VECTOR } from './operands';
import { hi32, lo32, ProcessorAccess } from './processor-access';
import { cr0Fault, CR0, cr4Fault, CR4, EFER, MSR } from './regs';

export abstract class ProcessorRegisters extends ProcessorAccess {
  /** Each MOV to CR0 loads the PDPTEs (quirk bochs-mov-cr0-pdptes). */
  loadsPdptesAlways = false;

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

  protected crExit(n: number, write: boolean, value: bigint, selective: boolean): false {
    this.stop('cr_access');
    const gpr = write ? this.current?.src : this.current?.dst;
    this.exit.cr = { n, write, value, reg: gpr?.kind === 'reg' ? gpr.reg : -1, selective };
    return false;
  }

  protected loadCr0(value: bigint): boolean {
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

  protected loadCr3(value: bigint): boolean {
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

  protected loadCr4(value: bigint): boolean {
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

  protected reloadPdptes(): boolean {
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

  protected msrExits(msr: number): boolean {
    return this.intercepts.msrPassthrough !== null && !this.intercepts.msrPassthrough.has(msr);
  }

  protected msrExit(index: number, write: boolean, value: bigint): false {
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

  protected ioExit(port: number, size: number, write: boolean, value: bigint): false {
    this.stop('io');
    const i = this.current!;
    const where = write ? i.dst : i.src;
    this.exit.io = { port, size, write, value, nextRip: this.state.rip + BigInt(i.len), imm: where?.kind === 'imm' };
    return false;
  }
}
