/**
 * The seven kinds of address and frame number that KVM tells apart, as branded bigints.
 *
 * A brand exists only at compile time: at run time a `Gpa` is a bigint. Arithmetic on a branded value yields a plain
 * `bigint`, so a result has to be given a kind again, which is where mix-ups are caught. The names follow
 * include/linux/kvm_types.h (gva_t, gpa_t, hva_t, hpa_t, gfn_t, kvm_pfn_t); `L2Gpa` is what KVM's comments call nGPA.
 */

/** Thrown for input that no word, field, address or kernel can be made of. The message is one sentence for the user. */
export class WordError extends Error {
  override readonly name = 'WordError';
}

declare const kind: unique symbol;
type Branded<K extends string> = bigint & { readonly [kind]: K };

/** Guest linear ("virtual") address: what a guest instruction uses. */
export type Gva = Branded<'gva'>;
/** Guest physical address of L1: what memslots are keyed by. */
export type Gpa = Branded<'gpa'>;
/** Guest physical address of L2, translated to a `Gpa` by the EPT or NPT that L1 made. */
export type L2Gpa = Branded<'l2gpa'>;
/** Linear address in the userspace process that owns the VM (`userspace_addr` of a memslot). */
export type Hva = Branded<'hva'>;
/** Host physical address: what the hardware tables hold. */
export type Hpa = Branded<'hpa'>;
/** Guest frame number, gpa >> 12. */
export type Gfn = Branded<'gfn'>;
/** Host frame number, hpa >> 12. */
export type Pfn = Branded<'pfn'>;
/** Any byte address (not a frame number). */
export type Address = Gva | Gpa | L2Gpa | Hva | Hpa;

/** log2 of the base page size. */
export const PAGE_SHIFT = 12n;
/** Base page size in bytes. */
export const PAGE_SIZE = 4096n;

const MAX_U64 = (1n << 64n) - 1n;

function u64(value: bigint | number, what: string): bigint {
  if (typeof value === 'number' && !Number.isSafeInteger(value)) {
    throw new WordError(`${value} cannot be a ${what}: a number above 2^53 has lost bits, pass a bigint`);
  }
  const v = BigInt(value);
  if (v < 0n || v > MAX_U64) throw new WordError(`${v} cannot be a ${what}: it must lie in 0 .. 2^64-1`);
  return v;
}

/** Makes a `Gva` of a bigint or safe integer. @throws WordError outside 0 .. 2^64-1. The same holds for the six below. */
export const gva = (value: bigint | number): Gva => u64(value, 'guest virtual address') as Gva;
export const gpa = (value: bigint | number): Gpa => u64(value, 'guest physical address') as Gpa;
export const l2gpa = (value: bigint | number): L2Gpa => u64(value, 'L2 guest physical address') as L2Gpa;
export const hva = (value: bigint | number): Hva => u64(value, 'host virtual address') as Hva;
export const hpa = (value: bigint | number): Hpa => u64(value, 'host physical address') as Hpa;
export const gfn = (value: bigint | number): Gfn => u64(value, 'guest frame number') as Gfn;
export const pfn = (value: bigint | number): Pfn => u64(value, 'host frame number') as Pfn;

/** Frame that a guest physical address lies in (gpa >> 12). */
export const gfnOf = (address: Gpa): Gfn => (address >> PAGE_SHIFT) as Gfn;
/** First byte of a guest frame. @throws WordError if gfn << 12 does not fit 64 bits. */
export const gpaOf = (frame: Gfn): Gpa => gpa(frame << PAGE_SHIFT);
/** Frame that a host physical address lies in (hpa >> 12). */
export const pfnOf = (address: Hpa): Pfn => (address >> PAGE_SHIFT) as Pfn;
/** First byte of a host frame. @throws WordError if pfn << 12 does not fit 64 bits. */
export const hpaOf = (frame: Pfn): Hpa => hpa(frame << PAGE_SHIFT);

/** Offset of an address in its page. `size` in bytes, a power of two (4096, 2M, 1G). */
export const pageOffset = (address: Address, size: bigint = PAGE_SIZE): bigint => address & (size - 1n);
/** The address rounded down to its page, of the same kind. */
export const pageBase = <A extends Address>(address: A, size: bigint = PAGE_SIZE): A => (address & ~(size - 1n)) as A;
/** address + bytes, of the same kind. @throws WordError if the sum leaves 0 .. 2^64-1. */
export const addBytes = <A extends Address>(address: A, bytes: bigint | number): A =>
  u64(address + BigInt(bytes), 'sum of an address and an offset') as A;

/**
 * Whether a linear address is canonical: bits 63 .. width-1 all equal.
 * @param width 48 (4-level paging) or 57 (CR4.LA57). Source: SDM vol. 1, 3.3.7.1.
 */
export function isCanonical(address: Gva, width: 48 | 57 = 48): boolean {
  return BigInt.asUintN(64, BigInt.asIntN(width, address)) === address;
}

const UNITS: Readonly<Record<string, bigint>> = { K: 10n, M: 20n, G: 30n, T: 40n };

/**
 * Reads a 64-bit number as people write it: `0x1000`, `4096`, `4K`, `2M`, `1G`, `0x80G`, `0xffff_8000_0000_0000`.
 * Units are powers of 1024. A bare number is decimal; hexadecimal needs 0x (ftrace's bare hex is `parseBareHex`).
 * @throws WordError that names the text, and what to write instead.
 */
export function parseNumber(text: string): bigint {
  const t = text.trim();
  const m = /^(0[xX][0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|\d+(?:_\d+)*)([KMGT])?(?:i?B)?$/.exec(t);
  if (!m || (!m[2] && /B$/.test(t) && !/^0[xX]/.test(t))) {
    if (/^[0-9a-fA-F]+$/.test(t) && /[a-fA-F]/.test(t)) {
      throw new WordError(`'${t}' is not a number: hexadecimal needs a prefix, write 0x${t}`);
    }
    throw new WordError(`'${text}' is not a number: write hexadecimal (0x1000), decimal (4096) or a size (4K, 2M, 1G)`);
  }
  const value = BigInt(m[1].replaceAll('_', '')) << (m[2] ? UNITS[m[2]] : 0n);
  if (value > MAX_U64)
    throw new WordError(`'${text}' does not fit 64 bits: the largest value is ${formatHex(MAX_U64)}`);
  return value;
}

/** Reads hexadecimal with or without 0x, as ftrace prints it (`spte 4223a21`). @throws WordError if it is not hex. */
export function parseBareHex(text: string): bigint {
  const t = text.trim().replace(/^0[xX]/, '');
  if (!/^[0-9a-fA-F]{1,16}$/.test(t)) {
    throw new WordError(
      `'${text}' is not a 64-bit hexadecimal number: write up to 16 digits 0-9a-f, with or without 0x`,
    );
  }
  return BigInt(`0x${t}`);
}

/** `0x…` in lower case. `digits` pads with zeros (16 for a whole 64-bit word). */
export function formatHex(value: bigint | number, digits = 0): string {
  return `0x${BigInt.asUintN(64, BigInt(value)).toString(16).padStart(digits, '0')}`;
}

/** A byte count as people write it: 4096 → `4K`, 2097152 → `2M`, 1000 → `1000`. Parses back with `parseNumber`. */
export function formatSize(bytes: bigint | number): string {
  const v = BigInt(bytes);
  for (const unit of ['T', 'G', 'M', 'K']) {
    const shift = UNITS[unit];
    if (v !== 0n && (v & ((1n << shift) - 1n)) === 0n) return `${v >> shift}${unit}`;
  }
  return v.toString();
}
