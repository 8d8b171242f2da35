/**
 * What an instruction is to the simulated processor: an operation, its operands and sizes. decode.ts makes one of bytes; what they
 * do is exec.ts.
 *
 * Scenario statements that have no code of their own (`load 4 [gva]`) are pseudo-instructions: the same type with explicit linear
 * addresses and values and no bytes, so that the processor and KVM's emulator run both through one set of semantics.
 */
import { GPR_NAMES, type SegmentName } from './regs';

export { decodeInsn } from './decode';

export type OperandSize = 1 | 2 | 4 | 8 | 16;

/** Where an operand is. Sizes are bytes. */
export type Operand =
  | {
      readonly kind: 'reg';
      readonly reg: number;
      readonly size: OperandSize;
      /** AH, CH, DH, BH */ readonly high: boolean;
    }
  | {
      readonly kind: 'mem';
      readonly seg: SegmentName;
      /** register number, -1: none, 16: RIP of the next instruction */
      readonly base: number;
      readonly index: number;
      readonly scale: number;
      readonly disp: bigint;
      readonly size: OperandSize;
    }
  /** A linear address, segmentation already done (pseudo-instructions). */
  | { readonly kind: 'lin'; readonly gva: bigint; readonly size: OperandSize }
  | { readonly kind: 'imm'; readonly value: bigint; readonly size: OperandSize }
  | { readonly kind: 'cr' | 'dr'; readonly n: number }
  | { readonly kind: 'sreg'; readonly seg: SegmentName };

/** What an instruction does. `load`, `store`, `rmw` and `fetch` exist only as pseudo-instructions. */
export type Op =
  | 'load' | 'store' | 'rmw' | 'fetch'
  | 'mov' | 'movzx' | 'movsx' | 'lea' | 'xchg' | 'push' | 'pop' | 'pushf' | 'popf'
  | 'add' | 'or' | 'adc' | 'sbb' | 'and' | 'sub' | 'xor' | 'cmp' | 'test' | 'inc' | 'dec' | 'not' | 'neg'
  | 'shl' | 'shr' | 'sar' | 'bt' | 'bts' | 'btr' | 'btc'
  | 'xadd' | 'cmpxchg' | 'cmpxchg8b' | 'cmpxchg16b'
  | 'movs' | 'stos' | 'lods'
  | 'call' | 'jmp' | 'jcc' | 'loop' | 'jcxz' | 'ret' | 'iret' | 'int' | 'int3' | 'jmpf'
  | 'invlpg' | 'invpcid' | 'invd' | 'wbinvd' | 'wrmsr' | 'rdmsr' | 'rdtsc' | 'cpuid' | 'rdpkru' | 'wrpkru' | 'in' | 'out'
  | 'hlt' | 'nop' | 'pause' | 'fence' | 'rsm' | 'cli' | 'sti' | 'cld' | 'std' | 'clc' | 'stc' | 'clac' | 'stac' | 'clts' | 'lmsw' | 'smsw'
  | 'lgdt' | 'lidt' | 'sgdt' | 'sidt' | 'ltr' | 'lldt' | 'swapgs' | 'ud2'
  | 'vmrun' | 'vmload' | 'vmsave' | 'stgi' | 'clgi' | 'vmmcall' | 'skinit' | 'invlpga'
  | 'vmxon' | 'vmxoff' | 'vmclear' | 'vmptrld' | 'vmptrst' | 'vmread' | 'vmwrite' | 'vmlaunch' | 'vmresume' | 'invept' | 'invvpid' | 'vmcall' | 'vmfunc'
  /** an opcode that raises #UD in this mode */
  | 'ud'
  /** bytes this decoder does not know: nothing is claimed about them */
  | 'unknown'
  /** the given bytes end before the instruction does */
  | 'truncated'; // prettier-ignore

/** One decoded (or pseudo-) instruction. */
export interface Insn {
  readonly op: Op;
  /** Bytes; 0 for pseudo-instructions. */
  readonly len: number;
  /** The instruction's own bytes, null for pseudo-instructions. */
  readonly bytes: Uint8Array | null;
  readonly mode: 16 | 32 | 64;
  /** Operand size in bytes. */
  readonly opSize: OperandSize;
  /** Address size in bytes. */
  readonly addrSize: 2 | 4 | 8;
  readonly lock: boolean;
  readonly rep: 'none' | 'rep' | 'repne';
  readonly dst: Operand | null;
  readonly src: Operand | null;
  /** Condition code of jcc (0-15), or the shift count source of shifts. */
  readonly cond: number;
}

/** An instruction without bytes. */
export function pseudo(op: Op, opSize: OperandSize, dst: Operand | null, src: Operand | null, lock = false): Insn {
  return { op, len: 0, bytes: null, mode: 64, opSize, addrSize: 8, lock, rep: 'none', dst, src, cond: 0 };
}

const imm = (value: bigint, size: OperandSize): Operand => ({ kind: 'imm', value, size });
const lin = (gva: bigint, size: OperandSize): Operand => ({ kind: 'lin', gva, size });

/** Reads `size` bytes at a linear address; the value goes to {@link CpuState.loaded}. */
export const insnLoad = (gva: bigint, size: OperandSize): Insn => pseudo('load', size, null, lin(gva, size));
/** Writes `size` bytes at a linear address. */
export const insnStore = (gva: bigint, size: OperandSize, value: bigint): Insn =>
  pseudo('store', size, lin(gva, size), imm(value, size));
/** Atomically adds to `size` bytes at a linear address; the old value goes to {@link CpuState.loaded}. */
export const insnRmw = (gva: bigint, size: OperandSize, addend: bigint): Insn =>
  pseudo('rmw', size, lin(gva, size), imm(addend, size), true);
/** Fetches an instruction at a linear address (which runs nothing). */
export const insnFetch = (gva: bigint): Insn => pseudo('fetch', 1, null, lin(gva, 1));
/** MOV to CR`n` of a value. */
export const insnMovToCr = (n: number, value: bigint): Insn => pseudo('mov', 8, { kind: 'cr', n }, imm(value, 8));
/** WRMSR of a value to an MSR. */
export const insnWrmsr = (msr: number, value: bigint): Insn => pseudo('wrmsr', 8, imm(BigInt(msr), 4), imm(value, 8));
/** RDMSR; the value goes to {@link CpuState.loaded}. */
export const insnRdmsr = (msr: number): Insn => pseudo('rdmsr', 8, null, imm(BigInt(msr), 4));
/** INVLPG of a linear address. */
export const insnInvlpg = (gva: bigint): Insn => pseudo('invlpg', 1, null, lin(gva, 1));
/** INVPCID: `type` 0 address, 1 single context, 2 all, 3 all but global; the descriptor's fields are given, not read from memory. */
export const insnInvpcid = (type: number, pcid: number, gva: bigint): Insn => ({
  ...pseudo('invpcid', 16, imm(BigInt(pcid), 8), lin(gva, 16)),
  cond: type,
});
export const insnHlt = (): Insn => pseudo('hlt', 1, null, null);
export const insnRsm = (): Insn => pseudo('rsm', 1, null, null);
export const insnNop = (): Insn => pseudo('nop', 1, null, null);
/** OUT of a value of `size` bytes to a port. */
export const insnOut = (port: number, value: bigint, size: 1 | 2 | 4 = 1): Insn =>
  pseudo('out', size, imm(BigInt(port), 2), imm(value, size));
/** IN from a port; the value goes to {@link CpuState.loaded}. */
export const insnIn = (port: number, size: 1 | 2 | 4 = 1): Insn => pseudo('in', size, null, imm(BigInt(port), 2));
/** WRPKRU of a value. */
export const insnWrpkru = (value: number): Insn => pseudo('wrpkru', 4, null, imm(BigInt(value), 4));
/** VMXON, VMCLEAR, VMPTRLD of a physical address: the operand is given, not read from memory. */
export const insnVmptr = (op: 'vmxon' | 'vmclear' | 'vmptrld', address: bigint): Insn =>
  pseudo(op, 8, null, imm(address, 8));
/** VMREAD of a field by its encoding; the value goes to {@link CpuState.loaded}. */
export const insnVmread = (field: number): Insn => pseudo('vmread', 8, null, imm(BigInt(field), 8));
/** VMWRITE of a value to a field by its encoding. */
export const insnVmwrite = (field: number, value: bigint): Insn =>
  pseudo('vmwrite', 8, imm(BigInt(field), 8), imm(value, 8));
/** INVEPT and INVVPID: the 128-bit descriptor is given, not read from memory. */
export const insnInvDescriptor = (op: 'invept' | 'invvpid', type: number, descriptor: bigint): Insn =>
  pseudo(op, 16, imm(BigInt(type), 8), imm(descriptor, 16));
/** VMRUN, VMLOAD, VMSAVE of the VMCB at a physical address, which is put into RAX first. */
export const insnVmcb = (op: 'vmrun' | 'vmload' | 'vmsave', address: bigint): Insn =>
  pseudo(op, 8, null, imm(address, 8));
/** INVLPGA of a linear address and an ASID, which are put into RAX and ECX first. */
export const insnInvlpga = (gva: bigint, asid: number): Insn => pseudo('invlpga', 8, imm(BigInt(asid), 4), imm(gva, 8));
/** An instruction without operands, by name (`clac`, `stac`, `vmmcall`, `vmcall`, `ud2` …). */
export const insnPlain = (op: Op): Insn => pseudo(op, 8, null, null);

const REG32 = ['eax', 'ecx', 'edx', 'ebx', 'esp', 'ebp', 'esi', 'edi'];
const REG16 = ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'];
const REG8 = ['al', 'cl', 'dl', 'bl', 'spl', 'bpl', 'sil', 'dil'];
const REG8H = ['ah', 'ch', 'dh', 'bh'];
const CONDITIONS = ['o', 'no', 'b', 'ae', 'e', 'ne', 'be', 'a', 's', 'ns', 'p', 'np', 'l', 'ge', 'le', 'g'];

function regName(reg: number, size: OperandSize, high: boolean): string {
  if (high) return REG8H[reg];
  if (reg >= 8) return GPR_NAMES[reg] + (size === 8 ? '' : size === 4 ? 'd' : size === 2 ? 'w' : 'b');
  return size === 8 ? GPR_NAMES[reg] : size === 4 ? REG32[reg] : size === 2 ? REG16[reg] : REG8[reg];
}

const hex = (v: bigint): string => (v < 0n ? `-0x${(-v).toString(16)}` : `0x${v.toString(16)}`);

function operandText(o: Operand, addrSize: 2 | 4 | 8): string {
  switch (o.kind) {
    case 'reg':
      return regName(o.reg, o.size, o.high);
    case 'imm':
      return hex(o.value);
    case 'lin':
      return `[${hex(o.gva)}]`;
    case 'cr':
    case 'dr':
      return `${o.kind}${o.n}`;
    case 'sreg':
      return o.seg;
    case 'mem': {
      const parts: string[] = [];
      if (o.base === 16) parts.push('rip');
      else if (o.base >= 0) parts.push(regName(o.base, addrSize, false));
      if (o.index >= 0) parts.push(regName(o.index, addrSize, false) + (o.scale > 1 ? `*${o.scale}` : ''));
      if (o.disp !== 0n || parts.length === 0) parts.push(hex(o.disp));
      return `${o.seg === 'ds' ? '' : `${o.seg}:`}[${parts.join('+').replace('+-', '-')}]`;
    }
  }
}

/** The instruction in assembler words (Intel order), for stacks and messages. */
export function insnText(i: Insn): string {
  const name = i.op === 'jcc' ? `j${CONDITIONS[i.cond]}` : i.op;
  const operands = [i.dst, i.src].filter((o): o is Operand => o !== null).map((o) => operandText(o, i.addrSize));
  const prefix = i.lock && i.op !== 'xchg' && i.bytes ? 'lock ' : '';
  return `${prefix}${name}${operands.length ? ` ${operands.join(', ')}` : ''}`;
}
