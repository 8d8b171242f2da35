/**
 * What instructions do, written once: the processor runs them through its own Bus, KVM's instruction emulator through another.
 *
 * An instruction either completes (true: registers, RIP and memory have changed) or is abandoned (false: the bus knows why, nothing
 * has changed but bytes that the instruction will write again when it restarts). So every function here reads first, writes memory
 * next and changes registers last.
 */
import { alu, condition } from './alu';
import type { Bus } from './bus';
import { executeSystem } from './exec-system';
import type { Insn, Operand } from './insn';
import {
  isMemory,
  linearize,
  operandAddress,
  readGpr,
  readOperand,
  sizeOf,
  truncate,
  VECTOR,
  writeGpr,
  writeOperand,
} from './operands';
import { GPR, RFLAGS, type CpuState } from './regs';
import { loadSegment } from './segments';

/**
 * Runs one instruction.
 * @param s registers; RIP names this instruction and moves on when it completes
 * @returns whether it completed
 */
export function execute(i: Insn, s: CpuState, bus: Bus): boolean {
  switch (i.op) {
    case 'load':
      if (!readOperand(s, bus, i, i.src!)) return false;
      s.loaded = bus.value;
      return true;
    case 'store':
      return writeOperand(s, bus, i, i.dst!, (i.src as Operand & { kind: 'imm' }).value);
    case 'fetch': {
      const linear = operandAddress(s, bus, i, i.src!, false);
      return linear !== null && bus.fetch(linear);
    }
    case 'rmw': {
      const addend = truncate((i.src as Operand & { kind: 'imm' }).value, i.opSize);
      return modify(i, s, bus, i.dst!, (old) => {
        s.loaded = old;
        return truncate(old + addend, i.opSize);
      });
    }
    case 'mov':
      return mov(i, s, bus);
    case 'movzx':
    case 'movsx': {
      if (!readOperand(s, bus, i, i.src!)) return false;
      const from = sizeOf(i.src!);
      const value = i.op === 'movzx' ? bus.value : BigInt.asUintN(64, BigInt.asIntN(8 * from, bus.value));
      writeOperand(s, bus, i, i.dst!, value);
      return advance(i, s);
    }
    case 'lea': {
      const o = i.src as Operand & { kind: 'mem' };
      const base = o.base === 16 ? s.rip + BigInt(i.len) : o.base >= 0 ? s.gpr[o.base] : 0n;
      const index = o.index >= 0 ? s.gpr[o.index] * BigInt(o.scale) : 0n;
      writeOperand(s, bus, i, i.dst!, truncate(base + index + o.disp, i.addrSize));
      return advance(i, s);
    }
    case 'add':
    case 'or':
    case 'adc':
    case 'sbb':
    case 'and':
    case 'sub':
    case 'xor':
    case 'shl':
    case 'shr':
    case 'sar':
    case 'inc':
    case 'dec':
    case 'not':
    case 'neg':
    case 'bts':
    case 'btr':
    case 'btc':
      return arithmetic(i, s, bus);
    case 'cmp':
    case 'test':
    case 'bt':
      return compare(i, s, bus);
    case 'xchg':
    case 'xadd':
    case 'cmpxchg':
      return exchange(i, s, bus);
    case 'cmpxchg8b':
    case 'cmpxchg16b':
      return compareExchangePair(i, s, bus);
    case 'push':
      if (!readOperand(s, bus, i, i.src!)) return false;
      // an immediate is sign-extended to the operand size, a segment selector zero-extended
      return (
        push(s, bus, i.opSize, i.src!.kind === 'imm' ? truncate(i.src!.value, i.opSize) : bus.value) && advance(i, s)
      );
    case 'pop':
      return popInto(i, s, bus);
    case 'pushf':
      return push(s, bus, i.opSize, s.rflags & ~(RFLAGS.RF | RFLAGS.VM)) && advance(i, s);
    case 'popf':
      return popf(i, s, bus);
    case 'movs':
    case 'stos':
    case 'lods':
      return stringOp(i, s, bus);
    case 'call':
      return call(i, s, bus);
    case 'jmp': {
      const target = branchTarget(i, s, bus);
      return target !== null && jump(i, s, bus, target);
    }
    case 'jcc':
      return condition(i.cond, s.rflags) ? jump(i, s, bus, relative(i, s)) : advance(i, s);
    case 'loop':
    case 'jcxz':
      return loop(i, s, bus);
    case 'ret':
      return ret(i, s, bus);
    case 'nop':
    case 'pause':
    case 'fence':
      return advance(i, s);
    case 'truncated':
    case 'unknown':
      throw new Error(`an instruction that is ${i.op} cannot be run`);
    default:
      return executeSystem(i, s, bus);
  }
}

/** Address of the next instruction, cut to the width of the code segment. */
export function nextRip(i: Insn, s: CpuState): bigint {
  const next = s.rip + BigInt(i.len);
  return s.codeBits === 64 ? BigInt.asUintN(64, next) : s.codeBits === 32 ? next & 0xffff_ffffn : next & 0xffffn;
}

/** Moves RIP past the instruction. Pseudo-instructions have no length. Always true. */
export function advance(i: Insn, s: CpuState): true {
  if (i.len) s.rip = nextRip(i, s);
  return true;
}

function mov(i: Insn, s: CpuState, bus: Bus): boolean {
  const dst = i.dst!;
  const src = i.src!;
  const special = dst.kind === 'cr' || dst.kind === 'dr' || src.kind === 'cr' || src.kind === 'dr';
  if (special) {
    if (s.cpl !== 0) return bus.exception(VECTOR.GP, 0);
    if (!readOperand(s, bus, i, src)) return false;
    if (dst.kind === 'cr') return bus.writeCr(dst.n, bus.value) && advance(i, s);
    if (dst.kind === 'dr') {
      if (dst.n === 7) s.dr7 = bus.value | 0x400n;
      else if (dst.n === 6) s.dr6 = bus.value;
      return advance(i, s);
    }
    return writeOperand(s, bus, i, dst, bus.value) && advance(i, s);
  }
  if (!readOperand(s, bus, i, src)) return false;
  if (dst.kind === 'sreg') return loadSegment(s, bus, dst.seg, Number(bus.value)) && advance(i, s);
  return writeOperand(s, bus, i, dst, bus.value) && advance(i, s);
}

/** Reads, changes and writes back one memory or register operand. */
function modify(i: Insn, s: CpuState, bus: Bus, dst: Operand, change: (old: bigint) => bigint): boolean {
  if (!isMemory(dst)) {
    if (!readOperand(s, bus, i, dst)) return false;
    return writeOperand(s, bus, i, dst, change(bus.value));
  }
  const linear = operandAddress(s, bus, i, dst, true);
  const size = sizeOf(dst);
  if (linear === null || !bus.rmwRead(linear, size)) return false;
  const old = bus.value;
  const value = change(old);
  return bus.rmwWrite(linear, size, old, value, i.lock);
}

/** Shift counts and bit numbers keep their own size, everything else is cut to the destination's. */
function sourceValue(i: Insn, s: CpuState, bus: Bus): bigint | null {
  if (!i.src) return 0n;
  if (!readOperand(s, bus, i, i.src)) return null;
  return bus.value;
}

function arithmetic(i: Insn, s: CpuState, bus: Bus): boolean {
  const b = sourceValue(i, s, bus);
  if (b === null) return false;
  let rflags = s.rflags;
  const done = modify(i, s, bus, i.dst!, (a) => {
    const r = alu(i.op, a, b, i.opSize, rflags);
    rflags = r.rflags;
    return r.value;
  });
  if (!done) return false;
  s.rflags = rflags;
  return advance(i, s);
}

function compare(i: Insn, s: CpuState, bus: Bus): boolean {
  const b = sourceValue(i, s, bus);
  if (b === null || !readOperand(s, bus, i, i.dst!)) return false;
  s.rflags = alu(i.op, bus.value, b, i.opSize, s.rflags).rflags;
  return advance(i, s);
}

function exchange(i: Insn, s: CpuState, bus: Bus): boolean {
  const src = i.src as Operand & { kind: 'reg' };
  const b = readGpr(s, src.reg, src.size, src.high);
  const accumulator = readGpr(s, GPR.RAX, i.opSize);
  let old = 0n;
  let rflags = s.rflags;
  let equal = false;
  const done = modify(i, s, bus, i.dst!, (a) => {
    old = a;
    if (i.op === 'xchg') return b;
    if (i.op === 'xadd') {
      const r = alu('add', a, b, i.opSize, rflags);
      rflags = r.rflags;
      return r.value;
    }
    rflags = alu('cmp', accumulator, a, i.opSize, rflags).rflags;
    equal = accumulator === a;
    // a mismatch still is a write cycle, of the old value
    return equal ? b : a;
  });
  if (!done) return false;
  s.rflags = rflags;
  if (i.op !== 'cmpxchg') {
    // XADD reg, same reg: the sum wins over the exchanged value
    if (!(i.op === 'xadd' && i.dst!.kind === 'reg' && i.dst!.reg === src.reg))
      writeGpr(s, src.reg, src.size, old, src.high);
  } else if (!equal) {
    writeGpr(s, GPR.RAX, i.opSize, old);
  }
  return advance(i, s);
}

function compareExchangePair(i: Insn, s: CpuState, bus: Bus): boolean {
  const half = i.opSize === 16 ? 8 : 4;
  const shift = BigInt(8 * half);
  const pair = (hi: number, lo: number): bigint => (readGpr(s, hi, half) << shift) | readGpr(s, lo, half);
  const linear = operandAddress(s, bus, i, i.dst!, true);
  if (linear === null) return false;
  if (i.opSize === 16 && (linear & 15n) !== 0n) return bus.exception(VECTOR.GP, 0);
  if (!bus.rmwRead(linear, i.opSize)) return false;
  const old = bus.value;
  const equal = old === pair(GPR.RDX, GPR.RAX);
  if (!bus.rmwWrite(linear, i.opSize, old, equal ? pair(GPR.RCX, GPR.RBX) : old, i.lock)) return false;
  if (!equal) {
    writeGpr(s, GPR.RAX, half, truncate(old, half));
    writeGpr(s, GPR.RDX, half, old >> shift);
  }
  s.rflags = equal ? s.rflags | RFLAGS.ZF : s.rflags & ~RFLAGS.ZF;
  return advance(i, s);
}

/** Stack pointer plus `delta`, wrapped to the stack's width. */
function stackPointer(s: CpuState, delta: number): bigint {
  return truncate(s.gpr[GPR.RSP] + BigInt(delta), s.stackSize);
}

/** Pushes one value of `size` bytes; RSP moves only if the write succeeds. */
export function push(s: CpuState, bus: Bus, size: number, value: bigint): boolean {
  const offset = stackPointer(s, -size);
  const linear = linearize(s, bus, 'ss', offset, size, true);
  if (linear === null || !bus.write(linear, size, truncate(value, size))) return false;
  writeGpr(s, GPR.RSP, s.stackSize, offset);
  return true;
}

/** Reads the value `depth` bytes above the top of the stack into `bus.value`; RSP stays. */
export function peekStack(s: CpuState, bus: Bus, depth: number, size: number): boolean {
  const linear = linearize(s, bus, 'ss', stackPointer(s, depth), size, false);
  return linear !== null && bus.read(linear, size);
}

function popInto(i: Insn, s: CpuState, bus: Bus): boolean {
  if (!peekStack(s, bus, 0, i.opSize)) return false;
  const value = bus.value;
  const before = s.gpr[GPR.RSP];
  // a memory operand that uses RSP sees it already incremented; POP RSP keeps what it popped
  writeGpr(s, GPR.RSP, s.stackSize, stackPointer(s, i.opSize));
  if (!writeOperand(s, bus, i, i.dst!, value)) {
    s.gpr[GPR.RSP] = before;
    return false;
  }
  return advance(i, s);
}

function popf(i: Insn, s: CpuState, bus: Bus): boolean {
  if (!peekStack(s, bus, 0, i.opSize)) return false;
  let may = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.TF | RFLAGS.DF | RFLAGS.OF | RFLAGS.NT;
  if (i.opSize > 2) may |= RFLAGS.AC | RFLAGS.ID;
  if (s.cpl === 0) may |= RFLAGS.IOPL;
  if (s.cpl <= Number((s.rflags & RFLAGS.IOPL) >> 12n)) may |= RFLAGS.IF;
  s.rflags = (s.rflags & ~(may | RFLAGS.RF)) | (bus.value & may) | RFLAGS.FIXED;
  writeGpr(s, GPR.RSP, s.stackSize, stackPointer(s, i.opSize));
  return advance(i, s);
}

/** One iteration of MOVS, STOS or LODS; with REP the instruction repeats by leaving RIP where it is. */
function stringOp(i: Insn, s: CpuState, bus: Bus): boolean {
  const width = i.addrSize;
  const repeated = i.rep !== 'none';
  if (repeated && readGpr(s, GPR.RCX, width) === 0n) return advance(i, s);
  if (!readOperand(s, bus, i, i.src!)) return false;
  const value = bus.value;
  if (!writeOperand(s, bus, i, i.dst!, value)) return false;
  const step = BigInt((s.rflags & RFLAGS.DF) !== 0n ? -i.opSize : i.opSize);
  if (i.op !== 'stos') writeGpr(s, GPR.RSI, width, truncate(s.gpr[GPR.RSI] + step, width));
  if (i.op !== 'lods') writeGpr(s, GPR.RDI, width, truncate(s.gpr[GPR.RDI] + step, width));
  if (!repeated) return advance(i, s);
  const left = truncate(s.gpr[GPR.RCX] - 1n, width);
  writeGpr(s, GPR.RCX, width, left);
  return left === 0n ? advance(i, s) : true;
}

function relative(i: Insn, s: CpuState): bigint {
  const target = nextRip(i, s) + (i.src as Operand & { kind: 'imm' }).value;
  return i.opSize === 2 ? target & 0xffffn : s.codeBits === 64 ? BigInt.asUintN(64, target) : target & 0xffff_ffffn;
}

function branchTarget(i: Insn, s: CpuState, bus: Bus): bigint | null {
  if (i.src!.kind === 'imm') return relative(i, s);
  return readOperand(s, bus, i, i.src!) ? bus.value : null;
}

/** Sets RIP after the checks of a near branch: canonical in 64-bit code, inside the code segment otherwise. */
export function jump(_i: Insn, s: CpuState, bus: Bus, target: bigint): boolean {
  const bad = s.codeBits === 64 ? !s.isCanonical(target) : target > BigInt(s.cs.limit);
  if (bad) return bus.exception(VECTOR.GP, 0);
  s.rip = target;
  return true;
}

function call(i: Insn, s: CpuState, bus: Bus): boolean {
  const target = branchTarget(i, s, bus);
  if (target === null) return false;
  if (s.codeBits === 64 ? !s.isCanonical(target) : target > BigInt(s.cs.limit)) return bus.exception(VECTOR.GP, 0);
  if (!push(s, bus, i.opSize, nextRip(i, s))) return false;
  s.rip = target;
  return true;
}

function ret(i: Insn, s: CpuState, bus: Bus): boolean {
  if (!peekStack(s, bus, 0, i.opSize)) return false;
  if (!jump(i, s, bus, bus.value)) return false;
  const release = i.opSize + Number((i.src as Operand & { kind: 'imm' }).value);
  writeGpr(s, GPR.RSP, s.stackSize, stackPointer(s, release));
  return true;
}

function loop(i: Insn, s: CpuState, bus: Bus): boolean {
  const width = i.addrSize;
  const count = readGpr(s, GPR.RCX, width);
  if (i.op === 'jcxz') return count === 0n ? jump(i, s, bus, relative(i, s)) : advance(i, s);
  const left = truncate(count - 1n, width);
  const zero = (s.rflags & RFLAGS.ZF) !== 0n;
  const taken = left !== 0n && (i.cond === 2 || (i.cond === 1 ? zero : !zero));
  const before = s.gpr[GPR.RCX];
  writeGpr(s, GPR.RCX, width, left);
  if (!taken) return advance(i, s);
  if (jump(i, s, bus, relative(i, s))) return true;
  s.gpr[GPR.RCX] = before;
  return false;
}
