/** A value as an entry of a table that the processor walks. */
import type { EntryShape, PagingMode } from './entries';
import { ENTRY_NAMES, LEVELS, gpteLayout, gpteShape, sppteLayout } from './entries';
import type { ReadOptions, Reader, Reading } from './reading';
import { under } from './reading';
import type { WordLayout } from './word';
import type { WordName } from './word-names';

/** How a reading names a paging mode. 4- and 5-level entries have one format. */
const MODE_NAMES: Readonly<Record<string, string>> = {
  '5-level': 'long mode',
  pae: 'PAE',
  '32-bit-pse': '32-bit with PSE',
  '32-bit': '32-bit',
};

/** An entry's reading, with what its title is put together from. */
interface EntryReading extends Reading {
  readonly entry: string;
  readonly mode: string;
}

/** Guest entries of some modes; without a level, of every level. */
export function readGpte(word: WordName, modes: readonly PagingMode[], value: bigint, options: ReadOptions): Reading[] {
  const readings = modes.flatMap((mode) => {
    const levels = LEVELS[mode].filter((l) => options.level === undefined || l === options.level);
    return levels.flatMap((level) =>
      under(word, gpteLayout(mode, level, gpteShape(mode, level, value)), value, {
        fit: (value & 1n) === 1n && value >> 12n !== 0n ? 0.45 : 0.1,
      }).map((r) => ({ ...r, entry: ENTRY_NAMES[level], mode: MODE_NAMES[mode] })),
    );
  });
  return mergeEntries('guest', readings);
}

/** Entries that read alike at several levels or in several modes become one reading. */
function mergeEntries(party: string, readings: readonly EntryReading[]): Reading[] {
  const groups = new Map<string, EntryReading[]>();
  for (const r of readings) {
    const key = [
      r.mode,
      r.summary,
      ...r.fields.filter((f) => !/^0(x0)?\b/.test(f.value)).map((f) => f.name + f.bits + f.value),
    ];
    const group = groups.get(key.join('|'));
    if (group) group.push(r);
    else groups.set(key.join('|'), [r]);
  }
  return [...groups.values()].map((group) => {
    const { entry: _, mode, ...first } = group[0];
    const entries = [...new Set(group.map((r) => r.entry))].join('/');
    return { ...first, title: `${party} ${entries}${mode ? `, ${mode}` : ''}` };
  });
}

const LEVELS_64 = [5, 4, 3, 2, 1];

/** EPT or nested entries; without a level, of every level. */
export function readEntries(word: 'epte' | 'npte', make: (level: number, shape: EntryShape) => WordLayout): Reader {
  return (value, options) => {
    const levels = LEVELS_64.filter((l) => options.level === undefined || l === options.level);
    const present = (value & 1n) === 1n && value >> 12n !== 0n;
    const readings = levels.flatMap((level) =>
      under(word, make(level, gpteShape('5-level', level, value)), value, { fit: present ? 0.3 : 0.08 }).map((r) => ({
        ...r,
        entry: ENTRY_NAMES[level],
        mode: '',
      })),
    );
    return mergeEntries(word === 'epte' ? 'EPT' : 'nested', readings);
  };
}

/** SPPT entries; without a level, of every level. */
export const readSppte: Reader = (value, { level }) =>
  [1, 2, 3, 4]
    .filter((l) => level === undefined || level === l)
    .flatMap((l) => under('sppte', sppteLayout(l), value, { fit: l === 1 ? 0.15 : 0.1 }));
