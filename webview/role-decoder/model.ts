/**
 * What the Role Decoder shows, without the showing: the role words of a kernel side by side, field by field, with what differs and
 * where each bit comes from. Pure functions over the layouts of src/words.
 */
import { WordError } from '../../src/words/address';
import type { KernelSpec } from '../../src/words/kernels';
import type { WordField, WordLayout } from '../../src/words/word';
import { decodeWord, fieldText, knownMask } from '../../src/words/word';
import { mmuWords } from '../../src/words/roles';
import type { Formula, Inputs } from '../../src/words/formula';
import type { MmuUse } from '../../src/words/role-origins';
import { originsOf } from '../../src/words/role-origins';

/** One role word: a column of the view. */
export interface Column {
  /** `cpu_role`, `root_role`; `mmu_role` and `base_role` in older kernels. */
  readonly name: string;
  readonly bits: 32 | 64;
  readonly meaning: string;
  readonly layout: WordLayout;
  readonly origins: ReadonlyMap<string, Formula>;
}

/** One field in one word. */
export interface Cell {
  readonly column: Column;
  readonly field: WordField;
  /** undefined while the word is unknown */
  readonly value: bigint | undefined;
  readonly text: string;
  readonly origin: Formula | undefined;
  /** What the origin says the field is, if everything that it needs is known. */
  readonly expected: number | undefined;
}

/** One field across the words. */
export interface Row {
  /** base: kvm_mmu_page_role; ext: kvm_mmu_extended_role */
  readonly half: 'base' | 'ext';
  readonly name: string;
  /** Within its half. */
  readonly lsb: number;
  readonly width: number;
  readonly meaning: string;
  /** In the order of the columns; undefined where a word has no such field. */
  readonly cells: readonly (Cell | undefined)[];
  /** Two words have it, both are known, and they disagree. */
  readonly differs: boolean;
}

/** The columns of a kernel. @throws WordError for a name that is no known kernel. */
export function columnsOf(kernel: KernelSpec, use: MmuUse): readonly Column[] {
  return mmuWords(kernel).words.map(({ name, bits, meaning, layout }) => ({
    name,
    bits,
    meaning,
    layout,
    origins: originsOf(kernel, name, use),
  }));
}

/** Name and half of a field: 64-bit words carry `base.` and `ext.` in their field names, 32-bit words are all base. */
function split(field: WordField): { half: 'base' | 'ext'; name: string; lsb: number } {
  if (field.name.startsWith('ext.')) return { half: 'ext', name: field.name.slice(4), lsb: field.lsb - 32 };
  return { half: 'base', name: field.name.replace(/^base\./, ''), lsb: field.lsb };
}

/**
 * The fields of all columns, base before ext, in rising bit order.
 * @param words by column name; undefined is an unknown word
 */
export function rowsOf(
  columns: readonly Column[],
  words: Readonly<Record<string, bigint | undefined>>,
  inputs: Inputs,
): readonly Row[] {
  const places = new Map<string, { half: 'base' | 'ext'; name: string; lsb: number; field: WordField }>();
  for (const { layout } of columns) {
    for (const field of layout.fields) {
      const place = split(field);
      const key = `${place.half}.${place.name}`;
      if (!places.has(key)) places.set(key, { ...place, field });
    }
  }
  return [...places.values()]
    .sort((a, b) => (a.half === b.half ? a.lsb - b.lsb : a.half === 'base' ? -1 : 1))
    .map(({ half, name, lsb, field }) => {
      const cells = columns.map((column) => cellOf(column, half, name, words[column.name], inputs));
      const known = cells.flatMap((cell) => (cell?.value === undefined ? [] : [cell.value]));
      return {
        half,
        name,
        lsb,
        width: field.width,
        meaning: field.meaning,
        cells,
        differs: known.some((v) => v !== known[0]),
      };
    });
}

function cellOf(
  column: Column,
  half: 'base' | 'ext',
  name: string,
  word: bigint | undefined,
  inputs: Inputs,
): Cell | undefined {
  const field = column.layout.fields.find((f) => {
    const place = split(f);
    return place.half === half && place.name === name;
  });
  if (field === undefined) return undefined;
  const value = word === undefined ? undefined : (word >> BigInt(field.lsb)) & ((1n << BigInt(field.width)) - 1n);
  const origin = column.origins.get(field.name);
  return {
    column,
    field,
    value,
    text: value === undefined ? 'unknown' : fieldText(field, value),
    origin,
    expected: origin?.evaluate(inputs),
  };
}

/** The word with one bit turned over. */
export function toggleBit(word: bigint, bit: number): bigint {
  return word ^ (1n << BigInt(bit));
}

/** Bits that are set although no field of the layout owns them. KVM compares whole words, so they would matter. */
export function strayBits(column: Column, word: bigint): bigint {
  return word & ~knownMask(column.layout);
}

/** The word in one line, as tracepoints write roles. */
export function summaryOf(column: Column, word: bigint): string {
  return decodeWord(column.layout, word).summary;
}

/** `0x00003784`, `0x0000008200003784`: always all digits, so that words stay below each other. */
export function wordText(column: Column, word: bigint): string {
  return `0x${word.toString(16).padStart(column.bits / 4, '0')}`;
}

/**
 * Reads what a user typed as a word: hex with or without 0x, with blanks, `_` or `'` between digits.
 * @throws WordError in one sentence that says what to type.
 */
export function parseWord(column: Column, text: string): bigint {
  const digits = text
    .trim()
    .replace(/^0x/i, '')
    .replace(/[\s_'`]/g, '');
  if (!/^[0-9a-f]+$/i.test(digits)) {
    throw new WordError(
      `'${text.trim()}' is not a hexadecimal number: type ${column.name} as 0x${'0'.repeat(column.bits / 4)}`,
    );
  }
  const word = BigInt(`0x${digits}`);
  if (word >> BigInt(column.bits) !== 0n) {
    throw new WordError(
      `0x${word.toString(16)} has more than the ${column.bits} bits of ${column.name} in this kernel`,
    );
  }
  return word;
}

/**
 * Reading the same words under another kernel. Words with the same name keep their value as far as it fits; a word that the other
 * kernel does not have is dropped, except that a lone typed word is kept as the first word.
 */
export function carryWords(
  from: Readonly<Record<string, bigint | undefined>>,
  to: readonly Column[],
): Record<string, bigint | undefined> {
  const fit = (column: Column, word: bigint): bigint => word & ((1n << BigInt(column.bits)) - 1n);
  const out: Record<string, bigint | undefined> = {};
  for (const column of to) {
    const word = from[column.name];
    if (word !== undefined) out[column.name] = fit(column, word);
  }
  if (Object.keys(out).length === 0) {
    const first = Object.values(from).find((word) => word !== undefined);
    const column = to[0];
    if (first !== undefined && column !== undefined) out[column.name] = fit(column, first);
  }
  return out;
}
