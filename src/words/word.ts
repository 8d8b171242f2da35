/**
 * What a word is: a table of fields. Every 32- or 64-bit word of the project (roles, sptes, error codes, control
 * registers, page-table entries …) is one or more `WordLayout` tables; this file reads and writes words by them.
 */
import { WordError, formatHex } from './address';

/** The words that have tables. A layout's `id` adds the kernel, vendor or level: `kvm_mmu_page_role@v5.17`. */
export type WordKind =
  | 'kvm_mmu_page_role'
  | 'kvm_mmu_extended_role'
  | 'kvm_cpu_role'
  | 'spte'
  | 'gpte'
  | 'epte'
  | 'npte'
  | 'sppte'
  | 'pf_error_code'
  | 'pferr'
  | 'ept_qualification'
  | 'spp_qualification'
  | 'cr_qualification'
  | 'io_qualification'
  | 'npf_exitinfo1'
  | 'ioio_exitinfo1'
  | 'interruption_info'
  | 'vmx_exit_reason'
  | 'svm_exit_code'
  | 'kvm_exit_reason'
  | 'ret_pf'
  | 'memslot_flags'
  | 'cr0'
  | 'cr3'
  | 'cr4'
  | 'efer'
  | 'rflags'
  | 'pkru'
  | 'pkrs'
  | 'eptp'
  | 'spptp'
  | 'ncr3';

/** How a field's value is shown: a bit, a count, a hex number, or a frame number (with the address beside it). */
export type FieldFormat = 'flag' | 'decimal' | 'hex' | 'frame';

/** A run of bits with one meaning. */
export interface WordField {
  readonly name: string;
  /** Lowest bit of the field, 0 .. 63. */
  readonly lsb: number;
  /** Number of bits, 1 .. 64. */
  readonly width: number;
  readonly meaning: string;
  /** Names of particular values. */
  readonly values?: Readonly<Record<number, string>>;
  /** Which register or control bit asked for it: `CR4.SMEP && !CR0.WP`. */
  readonly from?: string;
  /** Default: `flag` for one bit, else `decimal`. */
  readonly format?: FieldFormat;
  readonly source?: string;
}

/** One table: how a word is laid out in some kernels, on some vendor's processors, at some level. */
export interface WordLayout {
  /** Unique: `kvm_mmu_page_role@v5.17`. */
  readonly id: string;
  readonly word: WordKind;
  readonly title: string;
  readonly size: 32 | 64;
  /** Which kernels it holds for, in words. */
  readonly kernels?: string;
  readonly vendor?: 'intel' | 'amd';
  /** Where the facts come from: file and kernel version, or manual and section. */
  readonly source: string;
  /** Disjoint fields in rising bit order. Bits in no field are reserved or unused. */
  readonly fields: readonly WordField[];
  /** What else a reader should know (renames, what is not verified). */
  readonly notes?: readonly string[];
  /** Says the word in one line; without it the set fields are listed by name. */
  readonly summarize?: (field: (name: string) => bigint) => string;
}

export interface DecodedField {
  readonly field: WordField;
  readonly value: bigint;
  /** The value in words: a named value, 0/1 for a flag, decimal, hex, or frame with address. */
  readonly text: string;
}

export interface Decoded {
  readonly layout: WordLayout;
  readonly value: bigint;
  readonly fields: DecodedField[];
  /** Bits of the value that belong to no field, in place. */
  readonly reserved: bigint;
  readonly summary: string;
}

/** `width` ones starting at bit `lsb`. */
export const bits = (lsb: number, width = 1): bigint => ((1n << BigInt(width)) - 1n) << BigInt(lsb);
/** Mask of bits lo .. hi inclusive, 0 if lo > hi (rsvd_bits of arch/x86/kvm/mmu.h). */
export const bitRange = (lo: number, hi: number): bigint => (lo > hi ? 0n : bits(lo, hi - lo + 1));

/** The field of that name. @throws WordError listing the layout's field names. */
export function findField(layout: WordLayout, name: string): WordField {
  const field = layout.fields.find((f) => f.name === name);
  if (field) return field;
  const names = layout.fields.map((f) => f.name).join(', ');
  throw new WordError(`${layout.id} has no field '${name}': its fields are ${names}`);
}

/** Mask of a field, in place. @throws WordError if the layout has no such field. */
export function fieldMask(layout: WordLayout, name: string): bigint {
  const field = findField(layout, name);
  return bits(field.lsb, field.width);
}

/** Value of one field of a word. @throws WordError if the layout has no such field. */
export function fieldOf(layout: WordLayout, value: bigint, name: string): bigint {
  const field = findField(layout, name);
  return (value >> BigInt(field.lsb)) & bits(0, field.width);
}

/** A field's value in words. */
export function fieldText(field: WordField, value: bigint): string {
  const named = value <= 0xffffn ? field.values?.[Number(value)] : undefined;
  switch (field.format ?? (field.width === 1 ? 'flag' : 'decimal')) {
    case 'flag':
      return named ? `${value} (${named})` : value.toString();
    case 'decimal':
      return named ? `${value} (${named})` : value.toString();
    case 'hex':
      return named ? `${formatHex(value)} (${named})` : formatHex(value);
    case 'frame':
      return `${formatHex(value)} (address ${formatHex(value << BigInt(field.lsb))})`;
  }
}

/** Mask of all bits that some field of the layout covers. */
export function knownMask(layout: WordLayout): bigint {
  return layout.fields.reduce((mask, f) => mask | bits(f.lsb, f.width), 0n);
}

/**
 * Reads a word by a table.
 * @throws WordError if the value does not fit the word's size.
 */
export function decodeWord(layout: WordLayout, value: bigint): Decoded {
  if (value < 0n || value >> BigInt(layout.size) !== 0n) {
    throw new WordError(`${formatSigned(value)} is not a ${layout.size}-bit word, which ${layout.title} is`);
  }
  const fields = layout.fields.map((field) => {
    const v = (value >> BigInt(field.lsb)) & bits(0, field.width);
    return { field, value: v, text: fieldText(field, v) };
  });
  const reserved = value & ~knownMask(layout);
  return { layout, value, fields, reserved, summary: summarize(layout, fields, reserved) };
}

/**
 * Makes a word of field values; fields not named are 0. Inverse of `decodeWord` for words without reserved bits.
 * @throws WordError for an unknown field or a value that does not fit its field.
 */
export function encodeWord(layout: WordLayout, fields: Readonly<Record<string, bigint | number | boolean>>): bigint {
  let word = 0n;
  for (const [name, given] of Object.entries(fields)) {
    const field = findField(layout, name);
    if (typeof given === 'number' && !Number.isSafeInteger(given)) {
      throw new WordError(`${name} of ${layout.id} cannot be ${given}: pass a whole number, or a bigint above 2^53`);
    }
    const value = BigInt(given);
    const max = bits(0, field.width);
    if (value < 0n || value > max) {
      const bit = field.width === 1 ? 'bit' : 'bits';
      throw new WordError(
        `${name} of ${layout.id} cannot be ${formatSigned(value)}: it has ${field.width} ${bit}, so the largest value is ${formatHex(max)}`,
      );
    }
    word |= value << BigInt(field.lsb);
  }
  return word;
}

function formatSigned(value: bigint): string {
  return value < 0n ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}

function summarize(layout: WordLayout, fields: readonly DecodedField[], reserved: bigint): string {
  let text: string;
  if (layout.summarize) {
    const byName = new Map(fields.map((f) => [f.field.name, f.value]));
    text = layout.summarize((name) => byName.get(name) ?? 0n);
  } else {
    text = fields
      .filter((f) => f.value !== 0n)
      .map((f) => (f.field.width === 1 ? f.field.name : `${f.field.name}=${shortValue(f)}`))
      .join(' ');
  }
  const left = reserved === 0n ? '' : `${text ? ' ' : ''}unknown bits ${bitList(reserved)}`;
  return text + left || '0';
}

function shortValue({ field, value }: DecodedField): string {
  return field.format === 'hex' || field.format === 'frame' ? formatHex(value) : value.toString();
}

/** The set bits of a mask as the manuals write them, highest first: `63, 51:45, 3`. */
export function bitList(mask: bigint): string {
  return bitRuns(mask)
    .reverse()
    .map(({ lsb, width }) => (width === 1 ? `${lsb}` : `${lsb + width - 1}:${lsb}`))
    .join(', ');
}

/** The runs of adjacent set bits of a mask, lowest first. */
export function bitRuns(mask: bigint): { lsb: number; width: number }[] {
  const runs: { lsb: number; width: number }[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if (((mask >> BigInt(bit)) & 1n) === 0n) continue;
    const last = runs.at(-1);
    if (last && last.lsb + last.width === bit) last.width++;
    else runs.push({ lsb: bit, width: 1 });
  }
  return runs;
}

/** Bit numbers of a field as the manuals write them: `7`, `11:8`. */
export function bitSpan(field: { readonly lsb: number; readonly width: number }): string {
  return field.width === 1 ? `${field.lsb}` : `${field.lsb + field.width - 1}:${field.lsb}`;
}

/** A 64-bit word as two unsigned 32-bit halves: what the simulator's hot paths compute with. */
export interface Pair {
  readonly lo: number;
  readonly hi: number;
}

/** Splits a 64-bit word. */
export function toPair(value: bigint): Pair {
  return Object.freeze({ lo: Number(value & 0xffffffffn), hi: Number((value >> 32n) & 0xffffffffn) });
}

/** Joins two halves; either may be a signed 32-bit result of a bit operation. */
export function fromPair(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}
