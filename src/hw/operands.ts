/**
 * Operands: effective addresses, segmentation, register and memory values. SDM vol. 1 3.7, vol. 3A 3.4 and 5.3.
 */
import type { Bus } from './bus';
import type { Insn, Operand } from './insn';
import { CR0, RFLAGS, type CpuState, type Segment, type SegmentName } from './regs';

export const VECTOR = {
  DB: 1,
  BP: 3,
  OF: 4,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  AC: 17,
  VE: 20,
  CP: 21,
} as const;

const U32 = 0xffff_ffffn;
const U64 = 0xffff_ffff_ffff_ffffn;

/** Cuts a value to `size` bytes. */
export const truncate = (value: bigint, size: number): bigint => BigInt.asUintN(8 * size, value);
/** Reads `size` bytes of a value as a signed number. */
export const signExtend = (value: bigint, size: number): bigint => BigInt.asIntN(8 * size, value);

/** Value of a general register of the given size. `high`: AH, CH, DH, BH. */
export function readGpr(s: CpuState, reg: number, size: number, high = false): bigint {
  return high ? (s.gpr[reg] >> 8n) & 0xffn : truncate(s.gpr[reg], size);
}

/** Writes a general register: 32-bit writes clear the upper half, narrower ones keep the rest. SDM vol. 1 3.4.1.1. */
export function writeGpr(s: CpuState, reg: number, size: number, value: bigint, high = false): void {
  if (size === 8) s.gpr[reg] = value & U64;
  else if (size === 4) s.gpr[reg] = value & U32;
  else if (size === 2) s.gpr[reg] = (s.gpr[reg] & ~0xffffn & U64) | (value & 0xffffn);
  else if (high) s.gpr[reg] = (s.gpr[reg] & ~0xff00n & U64) | ((value & 0xffn) << 8n);
  else s.gpr[reg] = (s.gpr[reg] & ~0xffn & U64) | (value & 0xffn);
}

/** Offset in its segment that a memory operand names. */
export function effectiveAddress(s: CpuState, i: Insn, o: Operand & { kind: 'mem' }): bigint {
  let a = o.disp;
  if (o.base === 16) a += s.rip + BigInt(i.len);
  else if (o.base >= 0) a += s.gpr[o.base];
  if (o.index >= 0) a += s.gpr[o.index] * BigInt(o.scale);
  return truncate(a, i.addrSize);
}

/**
 * Linear address of `offset` in a segment, after the segment's own checks.
 * @returns null if a check failed and the bus was told (#GP or #SS)
 */
export function linearize(
  s: CpuState,
  bus: Bus,
  name: SegmentName,
  offset: bigint,
  size: number,
  write: boolean,
): bigint | null {
  const vector = name === 'ss' ? VECTOR.SS : VECTOR.GP;
  const seg = s[name];
  if (s.codeBits === 64) {
    const base = name === 'fs' || name === 'gs' ? seg.base : 0n;
    const linear = (offset + base) & U64;
    if (!s.isCanonical(linear) || (size > 1 && !s.isCanonical((linear + BigInt(size - 1)) & U64))) {
      bus.exception(vector, 0);
      return null;
    }
    return aligned(s, bus, linear, size);
  }
  if (!segmentAllows(s, seg, offset, size, write)) {
    bus.exception(vector, 0);
    return null;
  }
  return aligned(s, bus, (seg.base + offset) & U32, size);
}

/** Presence, type and limit of a segment for a data access outside 64-bit code. SDM vol. 3A 5.3-5.4. */
function segmentAllows(s: CpuState, seg: Segment, offset: bigint, size: number, write: boolean): boolean {
  const isProtected = (s.cr0 & CR0.PE) !== 0n && !s.vm86;
  if (isProtected) {
    if (seg.unusable || !seg.present) return false;
    const code = (seg.type & 8) !== 0;
    if (write ? code || (seg.type & 2) === 0 : code && (seg.type & 2) === 0) return false;
  }
  const last = Number(offset) + size - 1;
  const expandDown = isProtected && (seg.type & 0xc) === 4;
  if (expandDown) return Number(offset) > seg.limit && last <= (seg.db ? 0xffffffff : 0xffff);
  return last <= seg.limit;
}

/** Alignment check: at CPL 3 with CR0.AM and RFLAGS.AC a misaligned access raises #AC. SDM vol. 3A 6.15 (#AC). */
function aligned(s: CpuState, bus: Bus, linear: bigint, size: number): bigint | null {
  if ((s.rflags & RFLAGS.AC) !== 0n && (s.cr0 & CR0.AM) !== 0n && s.cpl === 3 && (linear & BigInt(size - 1)) !== 0n) {
    bus.exception(VECTOR.AC, 0);
    return null;
  }
  return linear;
}

/** Linear address of a memory operand (`mem` or `lin`), checked; null if the bus was told of a fault. */
export function operandAddress(s: CpuState, bus: Bus, i: Insn, o: Operand, write: boolean): bigint | null {
  if (o.kind === 'mem') return linearize(s, bus, o.seg, effectiveAddress(s, i, o), o.size, write);
  if (o.kind !== 'lin') throw new Error(`${o.kind} is not a memory operand`);
  if (!s.longModeActive) return o.gva & U32;
  if (s.isCanonical(o.gva) && s.isCanonical((o.gva + BigInt(o.size - 1)) & U64)) return o.gva;
  bus.exception(VECTOR.GP, 0);
  return null;
}

export const isMemory = (o: Operand): boolean => o.kind === 'mem' || o.kind === 'lin';

/** Value of any operand into `bus.value`. */
export function readOperand(s: CpuState, bus: Bus, i: Insn, o: Operand): boolean {
  switch (o.kind) {
    case 'reg':
      bus.value = readGpr(s, o.reg, o.size, o.high);
      return true;
    case 'imm':
      bus.value = truncate(o.value, o.size);
      return true;
    case 'sreg':
      bus.value = BigInt(s[o.seg].selector);
      return true;
    case 'dr':
      bus.value = o.n === 7 || o.n === 5 ? s.dr7 : o.n === 6 || o.n === 4 ? s.dr6 : 0n;
      return true;
    case 'cr':
      return bus.readCr(o.n);
    default: {
      const linear = operandAddress(s, bus, i, o, false);
      return linear !== null && bus.read(linear, o.size);
    }
  }
}

/** Writes a register or memory operand. Memory first in every instruction: once this is true the registers may change. */
export function writeOperand(s: CpuState, bus: Bus, i: Insn, o: Operand, value: bigint): boolean {
  if (o.kind === 'reg') {
    writeGpr(s, o.reg, o.size, value, o.high);
    return true;
  }
  const linear = operandAddress(s, bus, i, o, true);
  return linear !== null && bus.write(linear, sizeOf(o), truncate(value, sizeOf(o)));
}

/** Size in bytes of a value operand. */
export function sizeOf(o: Operand): number {
  return 'size' in o ? o.size : 8;
}
