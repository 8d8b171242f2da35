/**
 * What a number means: the one function behind the hover, the command Decode Value, `mmuscope decode` and the debug
 * console. With a kernel and a vendor it gives that kernel's reading; without it offers every layout that fits, equal
 * readings joined; with a line of text it goes by what the line calls the value.
 */
import { WordError, formatHex } from './address';
import { leafLevel, pagingTypeOf, placeOf, wordsFor } from './explain-context';
import type { KernelSpec } from './kernels';
import { toKernel } from './kernels';
import type { ReadOptions, Reading, ReadingField } from './reading';
import { READERS } from './readings';
import type { PagingType } from './sptes';
import type { WordName } from './word-names';
import { decodableWords, wordName } from './word-names';

export { explanationToMarkdown, explanationToText } from './explain-text';
export { findValues } from './find-values';
export type { FoundValue } from './find-values';
export { decodableWords } from './word-names';
export type { DecodableWord, WordName } from './word-names';

export interface ExplainOptions {
  /** Name of a word, see `decodableWords`. */
  readonly as?: string;
  readonly kernel?: KernelSpec;
  readonly vendor?: 'intel' | 'amd';
  readonly pagingType?: PagingType;
  readonly hostPhysBits?: number;
  readonly l1tf?: boolean;
  /** Level of an spte or entry, 1 .. 5. */
  readonly level?: number;
  /**
   * The text line around the value. Lines before it may precede it, separated by newlines: the last line that has the
   * value counts, and the kvm_exit lines above it tell which processor it is.
   */
  readonly context?: string;
  /** What the line calls the value (`FoundValue.name`), for lines in which the value occurs more than once. */
  readonly name?: string;
}

/** One meaning of a value. */
export interface Explanation {
  /** Name for `as` that yields this meaning again. */
  readonly as: WordName;
  /** The word and the kernels that read it so. */
  readonly title: string;
  /** Id of the table, or the word's name if it has none. */
  readonly layoutId: string;
  /** One line. */
  readonly summary: string;
  /** Every field of the table, zero ones too, lowest bit first. */
  readonly fields: readonly ReadingField[];
  readonly notes: readonly string[];
  /** 1 for the likeliest meaning, then 2 and so on. */
  readonly rank: number;
}

/**
 * The meanings of a value, likeliest first. Never empty.
 * @param value 0 .. 2^64-1
 * @throws WordError for an unknown word, kernel or level, or a value that the word given by `as` cannot have
 */
export function explain(value: bigint, options: ExplainOptions = {}): Explanation[] {
  if (value < 0n || value >> 64n) throw new WordError(`${value} is not a 64-bit value: it must lie in 0 .. 2^64-1`);
  if (options.level !== undefined && ![1, 2, 3, 4, 5].includes(options.level)) {
    throw new WordError(`level cannot be ${options.level}: write 1 (4K) to 5`);
  }
  const place = placeOf(value, options.context, options.name);
  const read: ReadOptions = {
    kernel: options.kernel === undefined ? undefined : toKernel(options.kernel),
    vendor: options.vendor ?? place.vendor,
    pagingType: options.pagingType ?? pagingTypeOf(place, options.vendor ?? place.vendor),
    hostPhysBits: options.hostPhysBits,
    l1tf: options.l1tf,
    level: options.level ?? place.facts.level ?? leafLevel(value, place),
    rights: place.facts.rights,
  };

  let readings: Reading[];
  const notes: string[] = [];
  if (options.as !== undefined) readings = forcedReadings(wordName(options.as), value, read);
  else {
    const guess = wordsFor(value, place, read);
    notes.push(...guess.notes);
    readings = guess.words.flatMap((w, i) => {
      const all = READERS[w](value, read, true);
      // What the text calls it is certain; which layout is not, so drop those that the value can hardly have.
      const likely = all.filter((r) => r.fit > UNLIKELY);
      return (likely.length > 0 ? likely : all).map((r) => ({ ...r, fit: 10 - i + r.fit }));
    });
    if (readings.length === 0) readings = allReadings(value, read);
  }
  return sorted(readings).map((r, i) => ({
    as: r.word,
    title: r.title,
    layoutId: r.layoutId,
    summary: r.summary,
    fields: r.fields,
    notes: i === 0 ? [...notes, ...r.notes] : r.notes,
    rank: i + 1,
  }));
}

function forcedReadings(word: WordName, value: bigint, read: ReadOptions): Reading[] {
  const readings = READERS[word](value, read, true);
  if (readings.length > 0) return readings;
  const why = decodableWords().find((w) => w.name === word)!.description;
  const kernel = read.kernel ? ` of ${read.kernel.name}` : '';
  throw new WordError(
    `${formatHex(value)} cannot be a ${word}${kernel}: it does not fit a ${why}, or that kernel or level has none`,
  );
}

/** Words whose reading is offered without being asked for. The rest need `as` or a name in the text. */
const UNASKED: readonly WordName[] = [
  ...(['spte', 'role', 'cpu_role', 'gpte', 'epte', 'pfec', 'ept-qualification', 'npf', 'pferr'] as const),
  ...(['cr0', 'cr4', 'efer', 'rflags', 'pkru', 'eptp', 'cr3', 'intr-info', 'spp-qualification'] as const),
  ...(['ext_role', 'vmx-exit', 'svm-exit', 'kvm-exit', 'errno', 'gva', 'gpa', 'number'] as const),
];

function allReadings(value: bigint, read: ReadOptions): Reading[] {
  const byVendor = (r: Reading) => !read.vendor || !r.vendor || r.vendor === read.vendor;
  const readings = UNASKED.flatMap((w) => READERS[w](value, read, false)).filter(byVendor);
  const likely = readings.filter((r) => r.fit >= 0.1);
  return likely.length > 0 ? likely : readings;
}

/** Fit of a reading that has reserved bits set, or that no spte would have. */
const UNLIKELY = 0.05;

const sorted = (readings: readonly Reading[]) => [...readings].sort((a, b) => b.fit - a.fit);
