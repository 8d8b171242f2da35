/**
 * A small decoder: the instructions that touch memory, control registers, the TLB, MSRs, ports, protection keys and the two
 * virtualization extensions, in 16-, 32- and 64-bit code.
 *
 * Sources: SDM vol. 2A chapter 2 and appendix A (encodings), APM vol. 3 appendix A.
 */
import { pseudo, type Insn, type Op, type Operand, type OperandSize } from './insn';
import { GPR, SEGMENT_NAMES, type SegmentName } from './regs';

const imm = (value: bigint, size: OperandSize): Operand => ({ kind: 'imm', value, size });

const ALU = ['add', 'or', 'adc', 'sbb', 'and', 'sub', 'xor', 'cmp'] as const;
const SHIFT = ['rol', 'ror', 'rcl', 'rcr', 'shl', 'shr', 'shl', 'sar'] as const;
const MAX_LENGTH = 15;

class Truncated extends Error {}

/** The cursor and prefixes of one decoding. */
class Decoder {
  pos = 0;
  rex = 0;
  opsize66 = false;
  addr67 = false;
  lock = false;
  rep: 'none' | 'rep' | 'repne' = 'none';
  seg: SegmentName | null = null;
  opSize: OperandSize = 4;
  addrSize: 2 | 4 | 8 = 4;
  mod = 0;
  reg = 0;
  rm = 0;
  /** memory operand of the ModRM byte without its size, null when it names a register */
  mem: { seg: SegmentName; base: number; index: number; scale: number; disp: bigint } | null = null;

  constructor(
    readonly bytes: Uint8Array,
    readonly mode: 16 | 32 | 64,
  ) {}

  u8(): number {
    if (this.pos >= this.bytes.length) throw new Truncated();
    return this.bytes[this.pos++];
  }

  /** little-endian immediate of `size` bytes, sign-extended */
  signed(size: number): bigint {
    let v = 0n;
    for (let i = 0; i < size; i++) v |= BigInt(this.u8()) << BigInt(8 * i);
    return BigInt.asIntN(8 * size, v);
  }

  prefixes(): number {
    for (;;) {
      const b = this.u8();
      switch (b) {
        case 0x66:
          this.opsize66 = true;
          break;
        case 0x67:
          this.addr67 = true;
          break;
        case 0xf0:
          this.lock = true;
          break;
        case 0xf2:
          this.rep = 'repne';
          break;
        case 0xf3:
          this.rep = 'rep';
          break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
          // in 64-bit code these four are accepted and ignored
          if (this.mode !== 64) this.seg = SEGMENT_NAMES[(b >> 3) & 3];
          break;
        case 0x64:
          this.seg = 'fs';
          break;
        case 0x65:
          this.seg = 'gs';
          break;
        default:
          if (this.mode === 64 && (b & 0xf0) === 0x40) {
            // only a REX right before the opcode counts
            this.rex = b;
            const next = this.u8();
            if (isLegacyPrefix(next) || (next & 0xf0) === 0x40) {
              this.rex = 0;
              this.pos--;
              break;
            }
            return next;
          }
          return b;
      }
    }
  }

  sizes(): void {
    const w = (this.rex & 8) !== 0;
    if (this.mode === 64) {
      this.opSize = w ? 8 : this.opsize66 ? 2 : 4;
      this.addrSize = this.addr67 ? 4 : 8;
    } else {
      this.opSize = (this.mode === 32) !== this.opsize66 ? 4 : 2;
      this.addrSize = (this.mode === 32) !== this.addr67 ? 4 : 2;
    }
  }

  modrm(): void {
    const b = this.u8();
    this.mod = b >> 6;
    this.reg = ((b >> 3) & 7) | ((this.rex & 4) << 1);
    this.rm = b & 7;
    this.mem = null;
    if (this.mod === 3) {
      this.rm |= (this.rex & 1) << 3;
      return;
    }
    this.mem = this.addrSize === 2 ? this.mem16() : this.mem32();
  }

  private mem16(): NonNullable<Decoder['mem']> {
    // SDM vol. 2A table 2-1
    const bases = [GPR.RBX, GPR.RBX, GPR.RBP, GPR.RBP, GPR.RSI, GPR.RDI, GPR.RBP, GPR.RBX];
    const indexes = [GPR.RSI, GPR.RDI, GPR.RSI, GPR.RDI, -1, -1, -1, -1];
    let base: number = bases[this.rm];
    if (this.mod === 0 && this.rm === 6) {
      base = -1;
      return { seg: this.seg ?? 'ds', base, index: -1, scale: 1, disp: this.signed(2) };
    }
    const disp = this.mod === 1 ? this.signed(1) : this.mod === 2 ? this.signed(2) : 0n;
    return { seg: this.seg ?? (base === GPR.RBP ? 'ss' : 'ds'), base, index: indexes[this.rm], scale: 1, disp };
  }

  private mem32(): NonNullable<Decoder['mem']> {
    let base = this.rm | ((this.rex & 1) << 3);
    let index = -1;
    let scale = 1;
    let needDisp32 = false;
    if (this.rm === 4) {
      const sib = this.u8();
      scale = 1 << (sib >> 6);
      index = ((sib >> 3) & 7) | ((this.rex & 2) << 2);
      if (index === 4) index = -1;
      base = (sib & 7) | ((this.rex & 1) << 3);
      if ((sib & 7) === 5 && this.mod === 0) {
        base = -1;
        needDisp32 = true;
      }
    } else if (this.rm === 5 && this.mod === 0) {
      base = this.mode === 64 ? 16 : -1;
      needDisp32 = true;
    }
    const disp = this.mod === 1 ? this.signed(1) : this.mod === 2 || needDisp32 ? this.signed(4) : 0n;
    const stack = base === GPR.RSP || base === GPR.RBP;
    return { seg: this.seg ?? (stack ? 'ss' : 'ds'), base, index, scale, disp };
  }

  gpr(reg: number, size: OperandSize): Operand {
    // without REX, byte registers 4-7 are AH CH DH BH
    const high = size === 1 && this.rex === 0 && reg >= 4 && reg < 8;
    return { kind: 'reg', reg: high ? reg - 4 : reg, size, high };
  }

  rmOperand(size: OperandSize): Operand {
    return this.mem ? { kind: 'mem', ...this.mem, size } : this.gpr(this.rm, size);
  }

  /** sign-extended immediate of the operand size, at most 4 bytes */
  immZ(): Operand {
    return { kind: 'imm', value: this.signed(this.opSize === 2 ? 2 : 4), size: this.opSize };
  }
}

function isLegacyPrefix(b: number): boolean {
  return [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65].includes(b);
}

interface Partial2 {
  op: Op;
  dst?: Operand | null;
  src?: Operand | null;
  opSize?: OperandSize;
  cond?: number;
}

/** The instructions whose LOCK prefix is legal with a memory destination. SDM vol. 2A LOCK. */
const LOCKABLE = new Set<Op>([
  'add', 'or', 'adc', 'sbb', 'and', 'sub', 'xor', 'inc', 'dec', 'not', 'neg', 'xchg', 'xadd', 'cmpxchg', 'cmpxchg8b', 'cmpxchg16b',
  'bts', 'btr', 'btc',
]); // prettier-ignore

/**
 * Decodes the instruction at the start of `bytes`.
 * @param bytes up to 15 bytes of code; with fewer than the instruction needs the result is `truncated`
 * @param mode width of the code segment
 * @returns never throws: unknown encodings are `unknown`, invalid ones `ud`
 */
export function decodeInsn(bytes: Uint8Array, mode: 16 | 32 | 64): Insn {
  const d = new Decoder(bytes.length > MAX_LENGTH ? bytes.subarray(0, MAX_LENGTH) : bytes, mode);
  try {
    const first = d.prefixes();
    d.sizes();
    const p = first === 0x0f ? decode0f(d, d.u8()) : decode1(d, first);
    let op = p.op;
    if (d.lock && op !== 'unknown' && (!LOCKABLE.has(op) || p.dst?.kind !== 'mem')) op = 'ud';
    const implicitLock = op === 'xchg' && p.dst?.kind === 'mem';
    return {
      op,
      len: d.pos,
      bytes: bytes.slice(0, d.pos),
      mode,
      opSize: p.opSize ?? d.opSize,
      addrSize: d.addrSize,
      lock: d.lock || implicitLock,
      rep: d.rep,
      dst: p.dst ?? null,
      src: p.src ?? null,
      cond: p.cond ?? 0,
    };
  } catch (e) {
    if (!(e instanceof Truncated)) throw e;
    // more than 15 bytes is #GP on a processor; the decoder has been given 15 and still wants more
    const op = bytes.length >= MAX_LENGTH ? 'ud' : 'truncated';
    return { ...pseudo(op, 1, null, null), mode, len: d.pos, bytes: bytes.slice(0, d.pos) };
  }
}

/** Operand size of instructions that are 64-bit by default in 64-bit code (near branches, push, pop). */
function stackOpSize(d: Decoder): OperandSize {
  return d.mode === 64 ? (d.opsize66 ? 2 : 8) : d.opSize;
}

// prettier-ignore
function decode1(d: Decoder, b: number): Partial2 {
  const os = d.opSize;
  if (b < 0x40 && (b & 7) < 6) return decodeAlu(d, ALU[b >> 3], b & 7);
  switch (b) {
    case 0x50: case 0x51: case 0x52: case 0x53: case 0x54: case 0x55: case 0x56: case 0x57: {
      const s = stackOpSize(d);
      return { op: 'push', src: { kind: 'reg', reg: (b & 7) | ((d.rex & 1) << 3), size: s, high: false }, opSize: s };
    }
    case 0x58: case 0x59: case 0x5a: case 0x5b: case 0x5c: case 0x5d: case 0x5e: case 0x5f: {
      const s = stackOpSize(d);
      return { op: 'pop', dst: { kind: 'reg', reg: (b & 7) | ((d.rex & 1) << 3), size: s, high: false }, opSize: s };
    }
    case 0x63:
      if (d.mode !== 64) return { op: 'unknown' };
      d.modrm();
      return { op: 'movsx', dst: d.gpr(d.reg, os), src: d.rmOperand(4) };
    case 0x68: {
      const s = stackOpSize(d);
      return { op: 'push', src: { kind: 'imm', value: d.signed(s === 2 ? 2 : 4), size: s }, opSize: s };
    }
    case 0x6a: {
      const s = stackOpSize(d);
      return { op: 'push', src: { kind: 'imm', value: d.signed(1), size: s }, opSize: s };
    }
    case 0x80: case 0x81: case 0x83: {
      d.modrm();
      const size = b === 0x80 ? 1 : os;
      const dst = d.rmOperand(size);
      const src: Operand = b === 0x81 ? d.immZ() : { kind: 'imm', value: d.signed(1), size };
      return { op: ALU[d.reg & 7], dst, src, opSize: size };
    }
    case 0x84: case 0x85: {
      d.modrm();
      const size = b & 1 ? os : 1;
      return { op: 'test', dst: d.rmOperand(size), src: d.gpr(d.reg, size), opSize: size };
    }
    case 0x86: case 0x87: {
      d.modrm();
      const size = b & 1 ? os : 1;
      return { op: 'xchg', dst: d.rmOperand(size), src: d.gpr(d.reg, size), opSize: size };
    }
    case 0x88: case 0x89: {
      d.modrm();
      const size = b & 1 ? os : 1;
      return { op: 'mov', dst: d.rmOperand(size), src: d.gpr(d.reg, size), opSize: size };
    }
    case 0x8a: case 0x8b: {
      d.modrm();
      const size = b & 1 ? os : 1;
      return { op: 'mov', dst: d.gpr(d.reg, size), src: d.rmOperand(size), opSize: size };
    }
    case 0x8c: case 0x8e: {
      d.modrm();
      const n = d.reg & 7;
      if (n > 5 || (b === 0x8e && n === 1)) return { op: 'ud' };
      const sreg: Operand = { kind: 'sreg', seg: SEGMENT_NAMES[n] };
      if (b === 0x8c) return { op: 'mov', dst: d.rmOperand(d.mem ? 2 : os), src: sreg, opSize: d.mem ? 2 : os };
      return { op: 'mov', dst: sreg, src: d.rmOperand(2), opSize: 2 };
    }
    case 0x8d:
      d.modrm();
      return d.mem ? { op: 'lea', dst: d.gpr(d.reg, os), src: d.rmOperand(os) } : { op: 'ud' };
    case 0x8f: {
      d.modrm();
      const s = stackOpSize(d);
      return (d.reg & 7) === 0 ? { op: 'pop', dst: d.rmOperand(s), opSize: s } : { op: 'unknown' };
    }
    case 0x90:
      return (d.rex & 1) === 0 ? { op: d.rep === 'rep' ? 'pause' : 'nop' } : { op: 'xchg', dst: d.gpr(8, os), src: d.gpr(0, os) };
    case 0x91: case 0x92: case 0x93: case 0x94: case 0x95: case 0x96: case 0x97:
      return { op: 'xchg', dst: d.gpr((b & 7) | ((d.rex & 1) << 3), os), src: d.gpr(0, os) };
    case 0x9c: case 0x9d:
      return { op: b === 0x9c ? 'pushf' : 'popf', opSize: stackOpSize(d) };
    case 0xa0: case 0xa1: case 0xa2: case 0xa3: {
      const size = b & 1 ? os : 1;
      const disp = BigInt.asUintN(8 * d.addrSize, d.signed(d.addrSize));
      const mem: Operand = { kind: 'mem', seg: d.seg ?? 'ds', base: -1, index: -1, scale: 1, disp, size };
      const acc: Operand = { kind: 'reg', reg: GPR.RAX, size, high: false };
      return b < 0xa2 ? { op: 'mov', dst: acc, src: mem, opSize: size } : { op: 'mov', dst: mem, src: acc, opSize: size };
    }
    case 0xa4: case 0xa5: case 0xaa: case 0xab: case 0xac: case 0xad: {
      const size = b & 1 ? os : 1;
      const mem = (seg: SegmentName, base: number): Operand => ({ kind: 'mem', seg, base, index: -1, scale: 1, disp: 0n, size });
      const acc: Operand = { kind: 'reg', reg: GPR.RAX, size, high: false };
      const from = mem(d.seg ?? 'ds', GPR.RSI);
      const to = mem('es', GPR.RDI);
      if (b < 0xa6) return { op: 'movs', dst: to, src: from, opSize: size };
      return b < 0xac ? { op: 'stos', dst: to, src: acc, opSize: size } : { op: 'lods', dst: acc, src: from, opSize: size };
    }
    case 0xa8: case 0xa9: {
      const size = b & 1 ? os : 1;
      const src: Operand = b & 1 ? d.immZ() : { kind: 'imm', value: d.signed(1), size };
      return { op: 'test', dst: { kind: 'reg', reg: GPR.RAX, size, high: false }, src, opSize: size };
    }
    case 0xb0: case 0xb1: case 0xb2: case 0xb3: case 0xb4: case 0xb5: case 0xb6: case 0xb7:
      return { op: 'mov', dst: d.gpr((b & 7) | ((d.rex & 1) << 3), 1), src: { kind: 'imm', value: d.signed(1), size: 1 }, opSize: 1 };
    case 0xb8: case 0xb9: case 0xba: case 0xbb: case 0xbc: case 0xbd: case 0xbe: case 0xbf:
      return { op: 'mov', dst: d.gpr((b & 7) | ((d.rex & 1) << 3), os), src: { kind: 'imm', value: d.signed(os), size: os } };
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3: {
      d.modrm();
      const size = b & 1 ? os : 1;
      const name = SHIFT[d.reg & 7];
      const dst = d.rmOperand(size);
      const src: Operand =
        b < 0xd0 ? { kind: 'imm', value: BigInt(d.u8()), size: 1 } : b < 0xd2 ? imm(1n, 1) : { kind: 'reg', reg: GPR.RCX, size: 1, high: false };
      return name === 'shl' || name === 'shr' || name === 'sar' ? { op: name, dst, src, opSize: size } : { op: 'unknown' };
    }
    case 0xc2: case 0xc3: {
      const s = stackOpSize(d);
      return { op: 'ret', src: imm(b === 0xc2 ? BigInt.asUintN(16, d.signed(2)) : 0n, 2), opSize: s };
    }
    case 0xc6: case 0xc7: {
      d.modrm();
      if ((d.reg & 7) !== 0) return { op: 'unknown' };
      const size = b & 1 ? os : 1;
      const dst = d.rmOperand(size);
      return { op: 'mov', dst, src: b & 1 ? d.immZ() : { kind: 'imm', value: d.signed(1), size }, opSize: size };
    }
    case 0xcc: return { op: 'int3' };
    case 0xcd:
      return { op: 'int', src: imm(BigInt(d.u8()), 1) };
    case 0xcf: return { op: 'iret' };
    case 0xe0: case 0xe1: case 0xe2:
      return { op: 'loop', src: imm(d.signed(1), 1), cond: b & 3, opSize: d.mode === 64 ? 8 : os };
    case 0xe3:
      return { op: 'jcxz', src: imm(d.signed(1), 1), opSize: d.mode === 64 ? 8 : os };
    case 0xe4: case 0xe5: case 0xec: case 0xed: {
      const size = ioSize(b, os);
      const port: Operand = b < 0xe8 ? imm(BigInt(d.u8()), 1) : { kind: 'reg', reg: GPR.RDX, size: 2, high: false };
      return { op: 'in', dst: { kind: 'reg', reg: GPR.RAX, size, high: false }, src: port, opSize: size };
    }
    case 0xe6: case 0xe7: case 0xee: case 0xef: {
      const size = ioSize(b, os);
      const port: Operand = b < 0xe8 ? imm(BigInt(d.u8()), 1) : { kind: 'reg', reg: GPR.RDX, size: 2, high: false };
      return { op: 'out', dst: port, src: { kind: 'reg', reg: GPR.RAX, size, high: false }, opSize: size };
    }
    case 0xe8: case 0xe9: {
      const s = stackOpSize(d);
      return { op: b === 0xe8 ? 'call' : 'jmp', src: imm(d.signed(s === 2 ? 2 : 4), s), opSize: s };
    }
    case 0xea:
      if (d.mode === 64) return { op: 'ud' };
      return { op: 'jmpf', dst: imm(BigInt.asUintN(8 * os, d.signed(os)), os), src: imm(BigInt.asUintN(16, d.signed(2)), 2) };
    case 0xeb:
      return { op: 'jmp', src: imm(d.signed(1), 1), opSize: stackOpSize(d) };
    case 0xf4: return { op: 'hlt' };
    case 0xf6: case 0xf7: {
      d.modrm();
      const size = b & 1 ? os : 1;
      const dst = d.rmOperand(size);
      const n = d.reg & 7;
      if (n < 2) return { op: 'test', dst, src: b & 1 ? d.immZ() : { kind: 'imm', value: d.signed(1), size }, opSize: size };
      return n === 2 ? { op: 'not', dst, opSize: size } : n === 3 ? { op: 'neg', dst, opSize: size } : { op: 'unknown' };
    }
    case 0xf8: return { op: 'clc' };
    case 0xf9: return { op: 'stc' };
    case 0xfa: return { op: 'cli' };
    case 0xfb: return { op: 'sti' };
    case 0xfc: return { op: 'cld' };
    case 0xfd: return { op: 'std' };
    case 0xfe: case 0xff:
      return decodeGroup5(d, b);
    default:
      if (b >= 0x40 && b < 0x50) {
        const dst = d.gpr(b & 7, os);
        return { op: b < 0x48 ? 'inc' : 'dec', dst };
      }
      if (b >= 0x70 && b < 0x80) return { op: 'jcc', src: imm(d.signed(1), 1), cond: b & 15, opSize: stackOpSize(d) };
      return { op: 'unknown' };
  }
}

const ioSize = (b: number, os: OperandSize): 1 | 2 | 4 => (b & 1 ? (os === 2 ? 2 : 4) : 1);

function decodeAlu(d: Decoder, op: Op, form: number): Partial2 {
  const size: OperandSize = form & 1 ? d.opSize : 1;
  if (form < 4) {
    d.modrm();
    const rm = d.rmOperand(size);
    const reg = d.gpr(d.reg, size);
    return form < 2 ? { op, dst: rm, src: reg, opSize: size } : { op, dst: reg, src: rm, opSize: size };
  }
  const src: Operand = form === 5 ? d.immZ() : { kind: 'imm', value: d.signed(1), size };
  return { op, dst: { kind: 'reg', reg: GPR.RAX, size, high: false }, src, opSize: size };
}

function decodeGroup5(d: Decoder, b: number): Partial2 {
  d.modrm();
  const n = d.reg & 7;
  const size: OperandSize = b & 1 ? d.opSize : 1;
  if (n < 2) return { op: n === 0 ? 'inc' : 'dec', dst: d.rmOperand(size), opSize: size };
  if (b === 0xfe) return { op: 'unknown' };
  const s = stackOpSize(d);
  if (n === 2) return { op: 'call', src: d.rmOperand(s), opSize: s };
  if (n === 4) return { op: 'jmp', src: d.rmOperand(s), opSize: s };
  if (n === 6) return { op: 'push', src: d.rmOperand(s), opSize: s };
  return { op: 'unknown' };
}

// prettier-ignore
function decode0f(d: Decoder, b: number): Partial2 {
  const os = d.opSize;
  if (b >= 0x80 && b < 0x90) {
    const s = stackOpSize(d);
    return { op: 'jcc', src: imm(d.signed(s === 2 ? 2 : 4), s), cond: b & 15, opSize: s };
  }
  switch (b) {
    case 0x00:
      d.modrm();
      if ((d.reg & 7) === 2) return { op: 'lldt', src: d.rmOperand(2), opSize: 2 };
      return (d.reg & 7) === 3 ? { op: 'ltr', src: d.rmOperand(2), opSize: 2 } : { op: 'unknown' };
    case 0x01:
      return decode0f01(d);
    case 0x06: return { op: 'clts' };
    case 0x08: return { op: 'invd' };
    case 0x09: return { op: 'wbinvd' };
    case 0x0b: return { op: 'ud2' };
    case 0x1e: case 0x1f:
      d.modrm();
      return { op: 'nop' };
    case 0x20: case 0x21: case 0x22: case 0x23: {
      // MOV to and from control and debug registers ignore ModRM.mod: the operand is always a register
      const m = d.u8();
      const n = ((m >> 3) & 7) | ((d.rex & 4) << 1);
      const size: OperandSize = d.mode === 64 ? 8 : 4;
      const gpr: Operand = { kind: 'reg', reg: (m & 7) | ((d.rex & 1) << 3), size, high: false };
      const special: Operand = { kind: b & 1 ? 'dr' : 'cr', n };
      if (!(b & 1) && ![0, 2, 3, 4, 8].includes(n)) return { op: 'ud' };
      return b < 0x22 ? { op: 'mov', dst: gpr, src: special, opSize: size } : { op: 'mov', dst: special, src: gpr, opSize: size };
    }
    case 0x30: return { op: 'wrmsr' };
    case 0x31: return { op: 'rdtsc' };
    case 0x32: return { op: 'rdmsr' };
    case 0x38: return decode0f38(d, d.u8());
    case 0x78: case 0x79: {
      if (d.opsize66 || d.rep !== 'none') return { op: 'unknown' };
      d.modrm();
      const size: OperandSize = d.mode === 64 ? 8 : 4;
      const value = d.rmOperand(size);
      const field = d.gpr(d.reg, size);
      return b === 0x78 ? { op: 'vmread', dst: value, src: field, opSize: size } : { op: 'vmwrite', dst: field, src: value, opSize: size };
    }
    case 0xa2: return { op: 'cpuid' };
    case 0xa3: case 0xab: case 0xb3: case 0xbb:
      d.modrm();
      return { op: (['bt', 'bts', 'btr', 'btc'] as const)[(b >> 3) & 3], dst: d.rmOperand(os), src: d.gpr(d.reg, os) };
    case 0xba: {
      d.modrm();
      if ((d.reg & 7) < 4) return { op: 'unknown' };
      const dst = d.rmOperand(os);
      return { op: (['bt', 'bts', 'btr', 'btc'] as const)[d.reg & 3], dst, src: imm(BigInt(d.u8()), 1) };
    }
    case 0xaa: return { op: 'rsm' };
    case 0xae:
      d.modrm();
      return d.mod === 3 && (d.reg & 7) >= 5 ? { op: 'fence' } : { op: 'unknown' };
    case 0xb0: case 0xb1: {
      d.modrm();
      const size = b & 1 ? os : 1;
      return { op: 'cmpxchg', dst: d.rmOperand(size), src: d.gpr(d.reg, size), opSize: size };
    }
    case 0xb6: case 0xb7: case 0xbe: case 0xbf:
      d.modrm();
      return { op: b < 0xb8 ? 'movzx' : 'movsx', dst: d.gpr(d.reg, os), src: d.rmOperand(b & 1 ? 2 : 1) };
    case 0xc0: case 0xc1: {
      d.modrm();
      const size = b & 1 ? os : 1;
      return { op: 'xadd', dst: d.rmOperand(size), src: d.gpr(d.reg, size), opSize: size };
    }
    case 0xc7:
      d.modrm();
      if (!d.mem) return { op: 'unknown' };
      switch (d.reg & 7) {
        case 1: {
          const wide = os === 8;
          return { op: wide ? 'cmpxchg16b' : 'cmpxchg8b', dst: d.rmOperand(wide ? 16 : 8), opSize: wide ? 16 : 8 };
        }
        case 6:
          return { op: d.rep === 'rep' ? 'vmxon' : d.opsize66 ? 'vmclear' : 'vmptrld', src: d.rmOperand(8), opSize: 8 };
        case 7:
          return { op: 'vmptrst', dst: d.rmOperand(8), opSize: 8 };
        default:
          return { op: 'unknown' };
      }
    default:
      return { op: 'unknown' };
  }
}

function decode0f38(d: Decoder, b: number): Partial2 {
  if (!d.opsize66 || b < 0x80 || b > 0x82) return { op: 'unknown' };
  d.modrm();
  if (!d.mem) return { op: 'ud' };
  const op = (['invept', 'invvpid', 'invpcid'] as const)[b - 0x80];
  const size: OperandSize = d.mode === 64 ? 8 : 4;
  return { op, dst: d.gpr(d.reg, size), src: d.rmOperand(16), opSize: 16 };
}

const FIXED_0F01: Readonly<Record<number, Op>> = {
  0xc1: 'vmcall', 0xc2: 'vmlaunch', 0xc3: 'vmresume', 0xc4: 'vmxoff', 0xca: 'clac', 0xcb: 'stac', 0xd4: 'vmfunc', 0xd8: 'vmrun',
  0xd9: 'vmmcall', 0xda: 'vmload', 0xdb: 'vmsave', 0xdc: 'stgi', 0xdd: 'clgi', 0xde: 'skinit', 0xdf: 'invlpga', 0xee: 'rdpkru',
  0xef: 'wrpkru', 0xf8: 'swapgs',
}; // prettier-ignore

function decode0f01(d: Decoder): Partial2 {
  const at = d.pos;
  const m = d.u8();
  if (m >= 0xc0) {
    const op = FIXED_0F01[m];
    if (op !== undefined) return op === 'swapgs' && d.mode !== 64 ? { op: 'ud' } : { op };
  }
  d.pos = at;
  d.modrm();
  switch (d.reg & 7) {
    case 0:
      return d.mem ? { op: 'sgdt', dst: d.rmOperand(8) } : { op: 'unknown' };
    case 1:
      return d.mem ? { op: 'sidt', dst: d.rmOperand(8) } : { op: 'unknown' };
    case 2:
      return d.mem ? { op: 'lgdt', src: d.rmOperand(8) } : { op: 'unknown' };
    case 3:
      return d.mem ? { op: 'lidt', src: d.rmOperand(8) } : { op: 'unknown' };
    case 4:
      return { op: 'smsw', dst: d.rmOperand(d.mem ? 2 : d.opSize), opSize: d.mem ? 2 : d.opSize };
    case 6:
      return { op: 'lmsw', src: d.rmOperand(2), opSize: 2 };
    case 7:
      return d.mem ? { op: 'invlpg', src: d.rmOperand(1), opSize: 1 } : { op: 'unknown' };
    default:
      return { op: 'unknown' };
  }
}
