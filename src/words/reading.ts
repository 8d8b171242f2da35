/** A value under one table: what the readers of all words return, and what they share. */
import { formatHex } from './address';
import type { KernelRange, KernelVersion } from './kernels';
import { joinRanges } from './kernels';
import type { PagingType } from './sptes';
import type { Decoded, WordLayout } from './word';
import { bitList, bitSpan, decodeWord } from './word';
import type { WordName } from './word-names';

/** What is known about a value besides itself. */
export interface ReadOptions {
  readonly kernel?: KernelVersion;
  readonly vendor?: 'intel' | 'amd';
  readonly pagingType?: PagingType;
  readonly hostPhysBits?: number;
  readonly l1tf?: boolean;
  readonly level?: number;
  /** Rights printed beside an spte (`rwx-`). */
  readonly rights?: string;
}

/** One field of an explanation. */
export interface ReadingField {
  readonly name: string;
  /** `7`, `11:8`. */
  readonly bits: string;
  readonly value: string;
  readonly meaning: string;
}

/** A value under one table. */
export interface Reading {
  readonly word: WordName;
  readonly title: string;
  readonly layoutId: string;
  readonly summary: string;
  readonly fields: readonly ReadingField[];
  readonly notes: readonly string[];
  /** 0 .. 1: how likely the value is this word, without context. */
  readonly fit: number;
  /** Kernels that read it so; undefined if it does not depend on the kernel. */
  readonly kernels?: string;
  readonly vendor?: 'intel' | 'amd';
}

/** All fields of a decoded word, lowest bit first, and the bits that no field covers. */
export function fieldsOf(decoded: Decoded | null): ReadingField[] {
  if (!decoded) return [];
  const fields = decoded.fields.map(({ field, text }) => ({
    name: field.name,
    bits: bitSpan(field),
    value: text,
    meaning: field.from ? `${field.meaning} From: ${field.from}.` : field.meaning,
  }));
  if (decoded.reserved !== 0n) {
    const meaning = 'Reserved, or without meaning in this layout.';
    fields.push({ name: 'unknown', bits: bitList(decoded.reserved), value: formatHex(decoded.reserved), meaning });
  }
  return fields;
}

/** What a reader adds to a decoded word. */
interface Extra {
  readonly notes?: readonly string[];
  readonly fit?: number;
  readonly kernels?: string;
}

/** A reading of one table, or none if the value does not fit the word's size. */
export function under(word: WordName, layout: WordLayout, value: bigint, extra: Extra = {}): Reading[] {
  if (value >> BigInt(layout.size) !== 0n) return [];
  const decoded = decodeWord(layout, value);
  return [
    {
      word,
      title: layout.title,
      layoutId: layout.id,
      summary: decoded.summary,
      fields: fieldsOf(decoded),
      notes: [...(extra.notes ?? []), ...(layout.notes ?? [])],
      fit: decoded.reserved === 0n ? (extra.fit ?? 0.3) : 0.05,
      kernels: extra.kernels ?? layout.kernels,
      vendor: layout.vendor,
    },
  ];
}

/** A layout among several, and the kernels that use it. */
export interface Candidate {
  readonly layout: WordLayout;
  readonly ranges: readonly KernelRange[];
  readonly patchSets?: readonly string[];
}

/** The readings of several layouts, equal ones joined under all their kernels. */
export function across(
  word: WordName,
  title: string,
  candidates: readonly Candidate[],
  value: bigint,
  fit: (d: Decoded) => number,
): Reading[] {
  const groups = new Map<string, { decoded: Decoded; candidates: Candidate[] }>();
  for (const c of candidates) {
    if (value >> BigInt(c.layout.size) !== 0n) continue;
    const decoded = decodeWord(c.layout, value);
    const key = [
      decoded.summary,
      ...decoded.fields.filter((f) => f.value !== 0n).map((f) => f.field.name + f.text),
    ].join('|');
    const group = groups.get(key);
    if (group) {
      // The newest layout speaks for the group.
      group.candidates.push(c);
      group.decoded = decoded;
    } else groups.set(key, { decoded, candidates: [c] });
  }
  return [...groups.values()].map(({ decoded, candidates: members }, age) => {
    const kernels = [joinRanges(members.flatMap((m) => m.ranges)), ...members.flatMap((m) => m.patchSets ?? [])]
      .filter(Boolean)
      .join(', ');
    return {
      word,
      title: `${title}, ${kernels}`,
      layoutId: decoded.layout.id,
      summary: decoded.summary,
      fields: fieldsOf(decoded),
      notes: decoded.layout.notes ?? [],
      // Newer kernels first, other things being equal.
      fit: decoded.reserved === 0n ? fit(decoded) + age / 1000 : 0.05,
      kernels,
    };
  });
}

/** Reads a value as one word. `forced`: also where no such word would have the value. */
export type Reader = (value: bigint, options: ReadOptions, forced: boolean) => Reading[];

/** A field of a decoded word as a number; 0 if the layout has none of that name. */
export const fieldValue = (d: Decoded, name: string) =>
  Number(d.fields.find((f) => f.field.name === name)?.value ?? 0n);

/** A reading without a table. */
export function plain(
  word: WordName,
  title: string,
  summary: string,
  fit: number,
  notes: readonly string[] = [],
): Reading {
  return { word, title, layoutId: word, summary, fields: [], notes, fit };
}
