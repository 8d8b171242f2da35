/**
 * System instructions: control registers, MSRs, ports, TLB invalidation, descriptor tables, IRET and everything that a hypervisor
 * likes to intercept. SDM vol. 2 (each instruction's own page), APM vol. 3 chapter 4.
 */
import type { Bus } from './bus';
import { iret } from './exceptions';
import { advance } from './exec';
import type { Insn, Operand } from './insn';
import {
  effectiveAddress,
  linearize,
  operandAddress,
  readGpr,
  readOperand,
  truncate,
  VECTOR,
  writeGpr,
  writeOperand,
} from './operands';
import { CR0, CR4, EFER, GPR, RFLAGS, type CpuState } from './regs';
import { farJump, loadSystemSegment, tableAddress } from './segments';

const immediate = (o: Operand | null): bigint | null => (o && o.kind === 'imm' ? o.value : null);

/** The part of {@link import('./exec').execute} that deals with system instructions. */
export function executeSystem(i: Insn, s: CpuState, bus: Bus): boolean {
  switch (i.op) {
    case 'ud':
    case 'ud2':
      return bus.exception(VECTOR.UD, null);
    case 'hlt':
    case 'invd':
    case 'wbinvd':
      return privileged(s, bus) && bus.special(i, null) && advance(i, s);
    case 'rsm':
      return bus.special(i, null);
    case 'invlpg': {
      if (!privileged(s, bus)) return false;
      // INVLPG never faults on its operand: a non-canonical address is ignored
      const o = i.src!;
      const linear = o.kind === 'lin' ? o.gva : invlpgAddress(s, i, o as Operand & { kind: 'mem' });
      if (s.longModeActive && !s.isCanonical(linear)) return advance(i, s);
      return bus.invlpg(linear) && advance(i, s);
    }
    case 'invpcid':
      return invpcid(i, s, bus);
    case 'wrmsr':
    case 'rdmsr':
      return msr(i, s, bus);
    case 'in':
    case 'out':
      return portAccess(i, s, bus);
    case 'cpuid':
    case 'rdtsc':
      return bus.special(i, null) && advance(i, s);
    case 'rdpkru':
    case 'wrpkru':
      return pkru(i, s, bus);
    case 'clac':
    case 'stac':
      if (s.cpl !== 0) return bus.exception(VECTOR.UD, null);
      s.rflags = i.op === 'clac' ? s.rflags & ~RFLAGS.AC : s.rflags | RFLAGS.AC;
      return advance(i, s);
    case 'cli':
    case 'sti':
      if (s.cpl > ioPrivilege(s)) return bus.exception(VECTOR.GP, 0);
      s.rflags = i.op === 'cli' ? s.rflags & ~RFLAGS.IF : s.rflags | RFLAGS.IF;
      return advance(i, s);
    case 'cld':
      s.rflags &= ~RFLAGS.DF;
      return advance(i, s);
    case 'std':
      s.rflags |= RFLAGS.DF;
      return advance(i, s);
    case 'clc':
      s.rflags &= ~RFLAGS.CF;
      return advance(i, s);
    case 'stc':
      s.rflags |= RFLAGS.CF;
      return advance(i, s);
    case 'clts':
      return privileged(s, bus) && bus.readCr(0) && bus.writeCr(0, bus.value & ~CR0.TS) && advance(i, s);
    case 'lmsw': {
      if (!privileged(s, bus) || !readOperand(s, bus, i, i.src!)) return false;
      const low = bus.value & 0xfn;
      if (!bus.readCr(0)) return false;
      // LMSW can set PE but not clear it
      return bus.writeCr(0, (bus.value & ~0xen) | low) && advance(i, s);
    }
    case 'smsw':
      return bus.readCr(0) && writeOperand(s, bus, i, i.dst!, bus.value) && advance(i, s);
    case 'lgdt':
    case 'lidt':
      return loadTable(i, s, bus);
    case 'sgdt':
    case 'sidt':
      return storeTable(i, s, bus);
    case 'ltr':
    case 'lldt':
      if ((s.cr0 & CR0.PE) === 0n) return bus.exception(VECTOR.UD, null);
      if (!privileged(s, bus) || !readOperand(s, bus, i, i.src!)) return false;
      return loadSystemSegment(s, bus, i.op === 'ltr' ? 'tr' : 'ldtr', Number(bus.value)) && advance(i, s);
    case 'swapgs': {
      if (!privileged(s, bus) || !bus.readMsr(0xc0000102)) return false;
      const kernel = bus.value;
      if (!bus.writeMsr(0xc0000102, s.gs.base)) return false;
      s.gs = { ...s.gs, base: kernel };
      return advance(i, s);
    }
    case 'jmpf':
      return farJump(
        s,
        bus,
        Number((i.src as Operand & { kind: 'imm' }).value),
        (i.dst as Operand & { kind: 'imm' }).value,
      );
    case 'iret':
      return iret(i, s, bus);
    case 'int':
    case 'int3':
      return bus.special(i, null);
    case 'vmrun':
    case 'vmload':
    case 'vmsave':
    case 'stgi':
    case 'clgi':
    case 'invlpga':
    case 'skinit':
      if ((s.cr0 & CR0.PE) === 0n || (s.efer & EFER.SVME) === 0n) return bus.exception(VECTOR.UD, null);
      if (!privileged(s, bus)) return false;
      registerOperands(i, s);
      return bus.special(i, readGpr(s, GPR.RAX, i.addrSize)) && advance(i, s);
    case 'vmread':
    case 'vmwrite':
    case 'vmxon':
    case 'vmxoff':
    case 'vmclear':
    case 'vmptrld':
    case 'vmptrst':
    case 'vmlaunch':
    case 'vmresume':
    case 'invept':
    case 'invvpid':
    case 'vmcall':
    case 'vmmcall':
    case 'vmfunc': {
      const operand = [i.dst, i.src].find((o) => o && (o.kind === 'mem' || o.kind === 'lin'));
      if (!operand) return bus.special(i, null) && advance(i, s);
      const linear = operandAddress(s, bus, i, operand, false);
      return linear !== null && bus.special(i, linear) && advance(i, s);
    }
    default:
      throw new Error(`${i.op} has no semantics`);
  }
}

/** A pseudo-instruction's operands go where the instruction has them: RAX, and ECX for an ASID. */
function registerOperands(i: Insn, s: CpuState): void {
  const address = immediate(i.src);
  const asid = immediate(i.dst);
  if (address !== null) writeGpr(s, GPR.RAX, 8, address);
  if (asid !== null) writeGpr(s, GPR.RCX, 4, asid);
}

function privileged(s: CpuState, bus: Bus): boolean {
  return s.cpl === 0 || bus.exception(VECTOR.GP, 0);
}

function invlpgAddress(s: CpuState, i: Insn, o: Operand & { kind: 'mem' }): bigint {
  const offset = effectiveAddress(s, i, o);
  if (s.codeBits === 64) return BigInt.asUintN(64, offset + (o.seg === 'fs' || o.seg === 'gs' ? s[o.seg].base : 0n));
  return (offset + s[o.seg].base) & 0xffff_ffffn;
}

function invpcid(i: Insn, s: CpuState, bus: Bus): boolean {
  if (!privileged(s, bus)) return false;
  let type: number;
  let pcid: bigint;
  let linear: bigint;
  if (i.bytes) {
    const dst = i.dst as Operand & { kind: 'reg' };
    const wide = readGpr(s, dst.reg, dst.size);
    if (wide > 3n) return bus.exception(VECTOR.GP, 0);
    type = Number(wide);
    const address = operandAddress(s, bus, i, i.src!, false);
    if (address === null || !bus.read(address, 16)) return false;
    pcid = bus.value & 0xffff_ffff_ffff_ffffn;
    linear = bus.value >> 64n;
  } else {
    type = i.cond;
    pcid = immediate(i.dst)!;
    linear = (i.src as Operand & { kind: 'lin' }).gva;
  }
  if (type > 3 || pcid >> 12n || (type < 2 && pcid !== 0n && (s.cr4 & CR4.PCIDE) === 0n))
    return bus.exception(VECTOR.GP, 0);
  if (type === 0 && !s.isCanonical(linear)) return bus.exception(VECTOR.GP, 0);
  return bus.invpcid(type, Number(pcid), linear) && advance(i, s);
}

function msr(i: Insn, s: CpuState, bus: Bus): boolean {
  if (!privileged(s, bus)) return false;
  if (i.op === 'wrmsr') {
    const index = immediate(i.dst) ?? readGpr(s, GPR.RCX, 4);
    const value = immediate(i.src) ?? (readGpr(s, GPR.RDX, 4) << 32n) | readGpr(s, GPR.RAX, 4);
    return bus.writeMsr(Number(index), value) && advance(i, s);
  }
  const index = immediate(i.src) ?? readGpr(s, GPR.RCX, 4);
  if (!bus.readMsr(Number(index))) return false;
  if (!i.bytes) {
    s.loaded = bus.value;
    return true;
  }
  writeGpr(s, GPR.RAX, 4, bus.value & 0xffff_ffffn);
  writeGpr(s, GPR.RDX, 4, bus.value >> 32n);
  return advance(i, s);
}

const ioPrivilege = (s: CpuState): number => Number((s.rflags & RFLAGS.IOPL) >> 12n);

function portAccess(i: Insn, s: CpuState, bus: Bus): boolean {
  const where = i.op === 'out' ? i.dst! : i.src!;
  if (!readOperand(s, bus, i, where)) return false;
  const port = Number(bus.value);
  if (!mayUsePort(s, bus, port, i.opSize)) return false;
  if (i.op === 'out') {
    readOperand(s, bus, i, i.src!);
    return bus.out(port, i.opSize, bus.value) && advance(i, s);
  }
  if (!bus.in(port, i.opSize)) return false;
  if (i.dst) writeOperand(s, bus, i, i.dst, bus.value);
  else s.loaded = bus.value;
  return advance(i, s);
}

/** I/O privilege: IOPL first, then the I/O permission map of the TSS. SDM vol. 1 19.5. */
function mayUsePort(s: CpuState, bus: Bus, port: number, size: number): boolean {
  if ((s.cr0 & CR0.PE) === 0n || (!s.vm86 && s.cpl <= ioPrivilege(s))) return true;
  if (s.tr.limit < 0x67) return bus.exception(VECTOR.GP, 0);
  if (!bus.systemRead(tableAddress(s, s.tr.base + 0x66n), 2)) return false;
  const at = Number(bus.value) + (port >> 3);
  if (at + 1 > s.tr.limit) return bus.exception(VECTOR.GP, 0);
  if (!bus.systemRead(tableAddress(s, s.tr.base + BigInt(at)), 2)) return false;
  const mask = ((1 << size) - 1) << (port & 7);
  return (Number(bus.value) & mask) === 0 || bus.exception(VECTOR.GP, 0);
}

function pkru(i: Insn, s: CpuState, bus: Bus): boolean {
  if ((s.cr4 & CR4.PKE) === 0n) return bus.exception(VECTOR.UD, null);
  if (!i.bytes) {
    return bus.writePkru(Number(truncate(immediate(i.src)!, 4)));
  }
  if (readGpr(s, GPR.RCX, 4) !== 0n) return bus.exception(VECTOR.GP, 0);
  if (i.op === 'rdpkru') {
    writeGpr(s, GPR.RAX, 4, BigInt(s.pkru));
    writeGpr(s, GPR.RDX, 4, 0n);
    return advance(i, s);
  }
  if (readGpr(s, GPR.RDX, 4) !== 0n) return bus.exception(VECTOR.GP, 0);
  return bus.writePkru(Number(readGpr(s, GPR.RAX, 4))) && advance(i, s);
}

/** Base width of LGDT and friends: 8 bytes in 64-bit code, else 4, of which 16-bit operand size uses 3. */
function loadTable(i: Insn, s: CpuState, bus: Bus): boolean {
  if (!privileged(s, bus)) return false;
  const o = i.src as Operand & { kind: 'mem' };
  const wide = s.codeBits === 64 ? 8 : 4;
  const offset = effectiveAddress(s, i, o);
  const at = linearize(s, bus, o.seg, offset, 2 + wide, false);
  if (at === null || !bus.read(at, 2)) return false;
  const limit = Number(bus.value);
  if (!bus.read(tableAddress(s, at + 2n), wide)) return false;
  let base = bus.value;
  if (wide === 4 && i.opSize === 2) base &= 0xffffffn;
  if (wide === 8 && !s.isCanonical(base)) return bus.exception(VECTOR.GP, 0);
  const table = i.op === 'lgdt' ? s.gdtr : s.idtr;
  table.base = base;
  table.limit = limit;
  return advance(i, s);
}

function storeTable(i: Insn, s: CpuState, bus: Bus): boolean {
  const o = i.dst as Operand & { kind: 'mem' };
  if ((s.cr4 & CR4.UMIP) !== 0n && s.cpl > 0) return bus.exception(VECTOR.GP, 0);
  const wide = s.codeBits === 64 ? 8 : 4;
  const at = linearize(s, bus, o.seg, effectiveAddress(s, i, o), 2 + wide, true);
  if (at === null) return false;
  const table = i.op === 'sgdt' ? s.gdtr : s.idtr;
  const image = (table.base << 16n) | BigInt(table.limit & 0xffff);
  return bus.write(at, 2 + wide, truncate(image, 2 + wide)) && advance(i, s);
}
