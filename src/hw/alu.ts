/**
 * Integer arithmetic with its flags. SDM vol. 1 3.4.3.1 and the instruction pages of vol. 2.
 */
import type { Op } from './insn';
import { truncate } from './operands';
import { RFLAGS } from './regs';

const STATUS = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF;

/** PF, ZF and SF of a result. */
function resultFlags(result: bigint, size: number): bigint {
  let f = 0n;
  if (result === 0n) f |= RFLAGS.ZF;
  if ((result >> BigInt(8 * size - 1)) & 1n) f |= RFLAGS.SF;
  let ones = 0;
  for (let b = Number(result & 0xffn); b; b &= b - 1) ones++;
  if ((ones & 1) === 0) f |= RFLAGS.PF;
  return f;
}

/** A result and the RFLAGS after it. */
export interface AluResult {
  value: bigint;
  rflags: bigint;
}

function addFlags(a: bigint, b: bigint, carry: bigint, size: number, rflags: bigint): AluResult {
  const wide = a + b + carry;
  const value = truncate(wide, size);
  let f = resultFlags(value, size);
  if (wide !== value) f |= RFLAGS.CF;
  if ((a ^ b ^ value) & 0x10n) f |= RFLAGS.AF;
  if (((a ^ value) & (b ^ value)) >> BigInt(8 * size - 1)) f |= RFLAGS.OF;
  return { value, rflags: (rflags & ~STATUS) | f };
}

function subFlags(a: bigint, b: bigint, borrow: bigint, size: number, rflags: bigint): AluResult {
  const value = truncate(a - b - borrow, size);
  let f = resultFlags(value, size);
  if (a < b + borrow) f |= RFLAGS.CF;
  if ((a ^ b ^ value) & 0x10n) f |= RFLAGS.AF;
  if (((a ^ b) & (a ^ value)) >> BigInt(8 * size - 1)) f |= RFLAGS.OF;
  return { value, rflags: (rflags & ~STATUS) | f };
}

/**
 * `dst op src` for the two-operand operations and `op dst` for inc, dec, not, neg.
 * @param a destination, @param b source, both cut to `size` bytes; a shift count for shifts
 */
export function alu(op: Op, a: bigint, b: bigint, size: number, rflags: bigint): AluResult {
  const cf = rflags & RFLAGS.CF;
  switch (op) {
    case 'add':
    case 'xadd':
    case 'rmw':
      return addFlags(a, b, 0n, size, rflags);
    case 'adc':
      return addFlags(a, b, cf, size, rflags);
    case 'sub':
    case 'cmp':
    case 'cmpxchg':
      return subFlags(a, b, 0n, size, rflags);
    case 'sbb':
      return subFlags(a, b, cf, size, rflags);
    case 'inc': {
      const r = addFlags(a, 1n, 0n, size, rflags);
      return { value: r.value, rflags: (r.rflags & ~RFLAGS.CF) | cf };
    }
    case 'dec': {
      const r = subFlags(a, 1n, 0n, size, rflags);
      return { value: r.value, rflags: (r.rflags & ~RFLAGS.CF) | cf };
    }
    case 'neg':
      return subFlags(0n, a, 0n, size, rflags);
    case 'not':
      return { value: truncate(~a, size), rflags };
    case 'and':
    case 'test':
    case 'or':
    case 'xor': {
      const value = op === 'or' ? a | b : op === 'xor' ? a ^ b : a & b;
      return { value, rflags: (rflags & ~STATUS) | resultFlags(value, size) };
    }
    case 'shl':
    case 'shr':
    case 'sar':
      return shift(op, a, Number(b) & (size === 8 ? 63 : 31), size, rflags);
    case 'bt':
    case 'bts':
    case 'btr':
    case 'btc': {
      const bit = 1n << (b & BigInt(8 * size - 1));
      const carry = a & bit ? RFLAGS.CF : 0n;
      const value = op === 'bts' ? a | bit : op === 'btr' ? a & ~bit : op === 'btc' ? a ^ bit : a;
      return { value, rflags: (rflags & ~RFLAGS.CF) | carry };
    }
    default:
      throw new Error(`${op} is not arithmetic`);
  }
}

function shift(op: 'shl' | 'shr' | 'sar', a: bigint, count: number, size: number, rflags: bigint): AluResult {
  if (count === 0) return { value: a, rflags };
  const bits = BigInt(8 * size);
  const n = BigInt(count);
  const top = bits - 1n;
  let value: bigint;
  let carry: bigint;
  let overflow: bigint;
  if (op === 'shl') {
    value = truncate(a << n, size);
    carry = n <= bits ? (a >> (bits - n)) & 1n : 0n;
    overflow = (value >> top) ^ carry;
  } else {
    const signed = op === 'sar' ? BigInt.asIntN(8 * size, a) : a;
    value = truncate(signed >> n, size);
    carry = (signed >> (n - 1n)) & 1n;
    overflow = op === 'shr' ? (a >> top) & 1n : 0n;
  }
  let f = resultFlags(value, size);
  if (carry) f |= RFLAGS.CF;
  if (overflow) f |= RFLAGS.OF;
  return { value, rflags: (rflags & ~STATUS) | f };
}

/** Whether condition code 0-15 (the low nibble of Jcc) holds. SDM vol. 1 appendix B. */
export function condition(code: number, rflags: bigint): boolean {
  const is = (f: bigint): boolean => (rflags & f) !== 0n;
  let yes: boolean;
  switch (code >> 1) {
    case 0:
      yes = is(RFLAGS.OF);
      break;
    case 1:
      yes = is(RFLAGS.CF);
      break;
    case 2:
      yes = is(RFLAGS.ZF);
      break;
    case 3:
      yes = is(RFLAGS.CF) || is(RFLAGS.ZF);
      break;
    case 4:
      yes = is(RFLAGS.SF);
      break;
    case 5:
      yes = is(RFLAGS.PF);
      break;
    case 6:
      yes = is(RFLAGS.SF) !== is(RFLAGS.OF);
      break;
    default:
      yes = is(RFLAGS.ZF) || is(RFLAGS.SF) !== is(RFLAGS.OF);
  }
  return (code & 1) === 1 ? !yes : yes;
}
