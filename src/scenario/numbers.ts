/**
 * Numbers as scenarios write them: hexadecimal, decimal, binary, with `_` between digits and the units K, M, G, T (powers of 1024).
 */
import { formatHex, parseNumber, WordError } from '../words/address';

/** A literal's value, or the sentence that says what is wrong with it. */
export type NumberResult =
  { readonly value: bigint; readonly error: null } | { readonly value: null; readonly error: string };

const BINARY = /^0[bB]([01]+(?:_[01]+)*)$/;

/** Reads one literal (`0x1000`, `4K`, `0b1010_0011`). Never throws. */
export function readNumber(text: string): NumberResult {
  const binary = BINARY.exec(text);
  if (binary) {
    const value = BigInt(`0b${binary[1].replaceAll('_', '')}`);
    return value >> 64n ? { value: null, error: `${text} does not fit 64 bits` } : { value, error: null };
  }
  if (/^0[bB]/.test(text)) {
    return { value: null, error: `'${text}' is not a number: after 0b only the digits 0 and 1 follow` };
  }
  try {
    return { value: parseNumber(text), error: null };
  } catch (e) {
    if (e instanceof WordError) return { value: null, error: e.message };
    throw e;
  }
}

/** How messages and reports write a number: small ones in decimal, the rest in hexadecimal. */
export const showNumber = (value: bigint | number): string =>
  BigInt(value) < 10n && BigInt(value) >= 0n ? `${value}` : formatHex(value);
