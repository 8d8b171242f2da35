/**
 * Entries of the tables that the processor walks: guest page tables in each mode and level, EPT, NPT, SPPT. One table
 * (`WordLayout`) per format, level and shape; address fields are as wide as MAXPHYADDR, so that what lies above shows
 * as reserved.
 */
import { WordError, formatHex } from './address';
import { EPT_MEMTYPES } from './spte-words';
import type { WordField, WordLayout } from './word';
import { decodeWord } from './word';
import type { Decoded } from './word';

/** Guest paging modes. `32-bit-pse` is 32-bit paging with CR4.PSE. */
export type PagingMode = '32-bit' | '32-bit-pse' | 'pae' | '4-level' | '5-level';
export const PAGING_MODES: readonly PagingMode[] = ['32-bit', '32-bit-pse', 'pae', '4-level', '5-level'];

/** What an entry is: it points to a table, or it maps a page. */
export type EntryShape = 'table' | 'leaf';

export interface EntryOptions {
  /** Physical address width, 32 .. 52. Default 52. */
  readonly maxPhyAddr?: number;
  /** EFER.NX; without it bit 63 is reserved. Default true. */
  readonly nx?: boolean;
}

/** Levels of a mode, top first. */
export const LEVELS: Readonly<Record<PagingMode, readonly number[]>> = {
  '32-bit': [2, 1],
  '32-bit-pse': [2, 1],
  pae: [3, 2, 1],
  '4-level': [4, 3, 2, 1],
  '5-level': [5, 4, 3, 2, 1],
};

/** Name of an entry of a level: PTE, PDE, PDPTE, PML4E, PML5E. */
export const ENTRY_NAMES: Readonly<Record<number, string>> = { 1: 'PTE', 2: 'PDE', 3: 'PDPTE', 4: 'PML4E', 5: 'PML5E' };

/** log2 of the page that a leaf of a level maps. */
function leafShift(mode: PagingMode, level: number): number {
  return mode.startsWith('32-bit') ? 12 + 10 * (level - 1) : 12 + 9 * (level - 1);
}

/** Sizes of large pages in titles. */
const SIZES: Readonly<Record<number, string>> = { 12: '4K', 21: '2M', 22: '4M', 30: '1G' };

const flag = (name: string, lsb: number, meaning: string): WordField => ({ name, lsb, width: 1, meaning });
const P = flag('P', 0, 'Present.');
const W = flag('W', 1, 'R/W: writing allowed.');
const U = flag('U', 2, 'U/S: user access allowed.');
const PWT = flag('PWT', 3, 'Page write-through; with PCD and PAT the memory type.');
const PCD = flag('PCD', 4, 'Page cache disable.');
const A = flag('A', 5, 'Accessed.');
const D = flag('D', 6, 'Dirty.');
const PS = flag('PS', 7, 'Page size: 1 maps a page here.');
const G = flag('G', 8, 'Global, if CR4.PGE.');
const XD = flag('XD', 63, 'Execution forbidden, if EFER.NX.');
const ignored = (lsb: number, width: number): WordField => ({
  name: `ignored_${lsb}`,
  lsb,
  width,
  meaning: 'Ignored by the processor, free for software.',
  format: width === 1 ? 'flag' : 'hex',
});
const pat = (bit: number) => flag('PAT', bit, 'Page attribute table.');
const frame = (lsb: number, end: number, what: string): WordField => ({
  name: 'pfn',
  lsb,
  width: end - lsb,
  meaning: what,
  format: 'frame',
});

function checkLevel(mode: PagingMode, level: number, shape: EntryShape): void {
  if (!PAGING_MODES.includes(mode)) {
    throw new WordError(`'${mode}' is not a paging mode: the modes are ${PAGING_MODES.join(', ')}`);
  }
  if (!LEVELS[mode].includes(level)) {
    throw new WordError(`${mode} paging has no level ${level}: its levels are ${LEVELS[mode].join(', ')}`);
  }
  const canBeLeaf = level === 1 || (level === 2 && mode !== '32-bit') || (level === 3 && mode.endsWith('level'));
  if (shape === 'leaf' && !canBeLeaf) throw new WordError(`a level-${level} entry of ${mode} paging cannot map a page`);
  if (shape === 'table' && level === 1) throw new WordError('a level-1 entry cannot point to a table');
}

/**
 * A guest page-table entry.
 * @param shape `leaf` if the entry maps a page (level 1, or bit 7 where the mode has large pages)
 * @throws WordError for a level or shape that the mode does not have
 */
export function gpteLayout(mode: PagingMode, level: number, shape: EntryShape, options: EntryOptions = {}): WordLayout {
  checkLevel(mode, level, shape);
  const maxPhyAddr = options.maxPhyAddr ?? 52;
  const narrow = mode.startsWith('32-bit');
  const size = shape === 'leaf' ? ` ${SIZES[leafShift(mode, level)]} page` : '';
  const fields = narrow
    ? fields32(level, shape, maxPhyAddr, mode)
    : mode === 'pae'
      ? fieldsPae(level, shape, maxPhyAddr, options)
      : fieldsLong(level, shape, maxPhyAddr, options);
  return {
    id: `gpte/${mode}/${ENTRY_NAMES[level]}${shape === 'leaf' && level > 1 ? '-large' : ''}`,
    word: 'gpte',
    title: `guest ${ENTRY_NAMES[level]}, ${mode} paging,${size || ' points to a table'}`,
    size: narrow ? 32 : 64,
    source: narrow
      ? 'SDM vol. 3A, 4.3 32-bit paging'
      : mode === 'pae'
        ? 'SDM vol. 3A, 4.4 PAE paging'
        : 'SDM vol. 3A, 4.5 4-level and 5-level paging; APM vol. 2, 5.3',
    fields,
    summarize: (field) => gpteSummary(fields, shape, leafShift(mode, level), field),
  };
}

function fields32(level: number, shape: EntryShape, maxPhyAddr: number, mode: PagingMode): WordField[] {
  if (level === 1) return [P, W, U, PWT, PCD, A, D, pat(7), G, ignored(9, 3), frame(12, 32, 'Frame of the 4K page.')];
  if (shape === 'table') {
    // Without CR4.PSE the page-size bit is ignored; with it, it is 0 in this shape.
    const bit7 = mode === '32-bit' ? ignored(7, 1) : PS;
    return [P, W, U, PWT, PCD, A, ignored(6, 1), bit7, ignored(8, 4), frame(12, 32, 'Frame of the page table.')];
  }
  const high: WordField = {
    name: 'pfn_39_32',
    lsb: 13,
    width: Math.min(8, Math.max(0, maxPhyAddr - 32)),
    meaning: 'PSE-36: bits 39:32 of the physical address, as far as MAXPHYADDR reaches.',
    format: 'hex',
  };
  return [
    ...[P, W, U, PWT, PCD, A, D, PS, G, ignored(9, 3), pat(12)],
    ...(high.width > 0 ? [high] : []),
    frame(22, 32, 'Bits 31:22 of the address of the 4M page.'),
  ];
}

function fieldsPae(level: number, shape: EntryShape, maxPhyAddr: number, options: EntryOptions): WordField[] {
  if (level === 3) {
    return [P, PWT, PCD, ignored(9, 3), frame(12, maxPhyAddr, 'Frame of the page directory.')];
  }
  const nx = (options.nx ?? true) ? [XD] : [];
  if (shape === 'table') {
    return [
      P,
      W,
      U,
      PWT,
      PCD,
      A,
      ignored(6, 1),
      PS,
      ignored(8, 4),
      frame(12, maxPhyAddr, 'Frame of the page table.'),
      ...nx,
    ];
  }
  const common = [P, W, U, PWT, PCD, A, D];
  return level === 1
    ? [...common, pat(7), G, ignored(9, 3), frame(12, maxPhyAddr, 'Frame of the 4K page.'), ...nx]
    : [...common, PS, G, ignored(9, 3), pat(12), frame(21, maxPhyAddr, 'Address of the 2M page.'), ...nx];
}

function fieldsLong(level: number, shape: EntryShape, maxPhyAddr: number, options: EntryOptions): WordField[] {
  const nx = (options.nx ?? true) ? [XD] : [];
  const hlat = flag('R', 11, 'HLAT: 1 restarts the walk with ordinary paging; else ignored.');
  if (shape === 'table') {
    // In levels 4 and 5 bit 7 is reserved; AMD reserves bit 8 there too.
    const bit7 = level >= 4 ? [] : [PS];
    const low = [P, W, U, PWT, PCD, A, ignored(6, 1), ...bit7, ignored(8, 3), hlat];
    return [...low, frame(12, maxPhyAddr, 'Frame of the next table.'), ignored(52, 11), ...nx];
  }
  const key: WordField = {
    name: 'PKEY',
    lsb: 59,
    width: 4,
    meaning: 'Protection key, if CR4.PKE or CR4.PKS; else ignored.',
  };
  const low = [P, W, U, PWT, PCD, A, D, ...(level === 1 ? [pat(7)] : [PS]), G, ignored(9, 2), hlat];
  const large = level > 1 ? [pat(12)] : [];
  const shift = 12 + 9 * (level - 1);
  return [
    ...low,
    ...large,
    frame(shift, maxPhyAddr, `Address of the ${SIZES[shift]} page.`),
    ignored(52, 7),
    key,
    ...nx,
  ];
}

function gpteSummary(
  fields: readonly WordField[],
  shape: EntryShape,
  shift: number,
  field: (name: string) => bigint,
): string {
  const has = (name: string) => fields.some((f) => f.name === name);
  if (field('P') === 0n) return 'not present';
  const pfn = fields.find((f) => f.name === 'pfn')!;
  let address = field('pfn') << BigInt(pfn.lsb);
  if (has('pfn_39_32')) address |= field('pfn_39_32') << 32n;
  const letters = ['W', 'U', 'A', 'D', 'G', 'PWT', 'PCD', 'PAT', 'XD'].filter((n) => has(n) && field(n) !== 0n);
  const what = shape === 'table' ? 'table at' : `${SIZES[shift]} page at`;
  const key = has('PKEY') && field('PKEY') !== 0n ? ` key ${field('PKEY')}` : '';
  return `${what} ${formatHex(address)} ${['P', ...letters].join(' ')}${key}`;
}

/** Whether bit 7 makes an entry of this mode and level a leaf. Level 1 always is one. */
export function gpteShape(mode: PagingMode, level: number, value: bigint): EntryShape {
  if (level === 1) return 'leaf';
  const largePossible = (level === 2 && mode !== '32-bit') || (level === 3 && mode.endsWith('level'));
  return largePossible && (value & 0x80n) !== 0n ? 'leaf' : 'table';
}

/**
 * Reads a guest entry, choosing the shape by bit 7.
 * @throws WordError for a level that the mode does not have, or a value wider than its entries
 */
export function decodeGpte(mode: PagingMode, level: number, value: bigint, options: EntryOptions = {}): Decoded {
  checkLevel(mode, level, level === 1 ? 'leaf' : 'table');
  return decodeWord(gpteLayout(mode, level, gpteShape(mode, level, value), options), value);
}

/**
 * An entry of a nested page table (AMD). The format is that of long mode; U must be 1 for any guest access because
 * nested walks count as user accesses, and there are no protection keys.
 * @throws WordError for a level outside 1 .. 5 or a shape it does not have
 */
export function npteLayout(level: number, shape: EntryShape, options: EntryOptions = {}): WordLayout {
  const base = gpteLayout('5-level', level, shape, options);
  const fields = base.fields
    .filter((f) => f.name !== 'PKEY' && f.name !== 'R')
    .map((f) => (f.name === 'U' ? { ...f, meaning: 'U/S: must be 1, nested walks count as user accesses.' } : f));
  return {
    ...base,
    id: base.id.replace('gpte/5-level', 'npte'),
    word: 'npte',
    title: `nested ${ENTRY_NAMES[level]}${shape === 'leaf' ? `, ${SIZES[12 + 9 * (level - 1)]} page` : ', points to a table'}`,
    vendor: 'amd',
    source: 'APM vol. 2, 15.25 nested paging and 5.3 long-mode entries',
    fields: [...fields, ignored(11, 1), ...(shape === 'leaf' ? [ignored(59, 4)] : [])].sort((a, b) => a.lsb - b.lsb),
  };
}

/**
 * An EPT paging-structure entry.
 * @throws WordError for a level outside 1 .. 5 or a shape it does not have
 */
export function epteLayout(level: number, shape: EntryShape, options: EntryOptions = {}): WordLayout {
  checkLevel('5-level', level, shape);
  const maxPhyAddr = options.maxPhyAddr ?? 52;
  const shift = 12 + 9 * (level - 1);
  const rwx = [
    flag('R', 0, 'Reading allowed.'),
    flag('W', 1, 'Writing allowed.'),
    flag('X', 2, 'Execution allowed; by the supervisor only, with mode-based execute control.'),
  ];
  const accessed = flag('A', 8, 'Accessed, if EPTP bit 6; else ignored.');
  const xu = flag('XU', 10, 'User execution allowed, with mode-based execute control; else ignored.');
  const ve = flag('SVE', 63, 'Suppress #VE, with EPT-violation #VE; else ignored.');
  const fields: WordField[] =
    shape === 'table'
      ? [
          ...rwx,
          ...(level >= 4 ? [] : [PS]),
          ...[accessed, ignored(9, 1), xu, ignored(11, 1)],
          ...[frame(12, maxPhyAddr, 'Frame of the next table.'), ignored(52, 12)],
        ]
      : [
          ...rwx,
          {
            name: 'memtype',
            lsb: 3,
            width: 3,
            meaning: 'Memory type; 2, 3 and 7 are misconfigurations.',
            values: EPT_MEMTYPES,
          },
          flag('IPAT', 6, "Ignore the guest's PAT."),
          ...(level === 1 ? [ignored(7, 1)] : [PS]),
          ...[accessed, flag('D', 9, 'Dirty, if EPTP bit 6; else ignored.'), xu, ignored(11, 1)],
          ...[frame(shift, maxPhyAddr, `Address of the ${SIZES[shift]} page.`), ignored(52, 5)],
          flag('VGP', 57, 'Verify guest paging, with that control; else ignored.'),
          flag('PW', 58, 'Paging-write access, with that control; else ignored.'),
          ignored(59, 1),
          flag('SSS', 60, 'Supervisor shadow-stack page, if EPTP bit 7; else ignored.'),
          ...(level === 1
            ? [flag('SPP', 61, 'Sub-page write permissions are checked, with that control.')]
            : [ignored(61, 1)]),
          ignored(62, 1),
          ve,
        ];
  return {
    id: `epte/${ENTRY_NAMES[level]}${shape === 'leaf' && level > 1 ? '-large' : ''}`,
    word: 'epte',
    title: `EPT ${ENTRY_NAMES[level]}${shape === 'leaf' ? `, ${SIZES[shift]} page` : ', points to a table'}`,
    size: 64,
    vendor: 'intel',
    source: 'SDM vol. 3C, EPT paging-structure entries; bits 57, 58 and 60 in recent editions',
    fields,
    summarize: (field) => epteSummary(shape, shift, field),
  };
}

function epteSummary(shape: EntryShape, shift: number, field: (name: string) => bigint): string {
  const rwx = `${field('R') ? 'r' : '-'}${field('W') ? 'w' : '-'}${field('X') ? 'x' : '-'}`;
  const xu = field('XU') ? ' XU' : '';
  if (rwx === '---' && !xu) return 'not present';
  const where = formatHex(field('pfn') << BigInt(shape === 'table' ? 12 : shift));
  const bad = rwx === '-w-' || rwx === '-wx' ? ', EPT misconfiguration' : '';
  if (shape === 'table') return `table at ${where} ${rwx}${xu}${field('A') ? ' A' : ''}${bad}`;
  const type = EPT_MEMTYPES[Number(field('memtype')) as keyof typeof EPT_MEMTYPES];
  const marks = ['IPAT', 'A', 'D', 'SPP', 'SSS', 'PW', 'VGP', 'SVE'].filter((n) => field(n) !== 0n);
  return [`${SIZES[shift]} page at ${where} ${rwx}${xu} ${type}`, ...marks].join(' ') + bad;
}

/**
 * An entry of the sub-page permission table. Levels 4 to 2 point to a table; level 1 holds 32 write permissions.
 * @throws WordError for a level outside 1 .. 4
 */
export function sppteLayout(level: number, options: EntryOptions = {}): WordLayout {
  if (![1, 2, 3, 4].includes(level)) throw new WordError(`the SPPT has no level ${level}: its levels are 4, 3, 2, 1`);
  const maxPhyAddr = options.maxPhyAddr ?? 52;
  const subpages = Array.from({ length: 32 }, (_, i) =>
    flag(
      `W${i}`,
      2 * i,
      `Sub-page ${i} (bytes 0x${(128 * i).toString(16)}..0x${(128 * i + 127).toString(16)}) is writable.`,
    ),
  );
  const next = [flag('V', 0, 'Valid.'), frame(12, maxPhyAddr, 'Frame of the next table.')];
  return {
    id: `sppte/L${level}E`,
    word: 'sppte',
    title: `SPPT L${level}E`,
    size: 64,
    vendor: 'intel',
    source: 'SDM vol. 3C, sub-page write permissions; SPP patch series',
    fields: level === 1 ? subpages : next,
    notes: ['Reserved bits that are set are an SPP misconfiguration (exit reason 66, bit 11 clear).'],
    summarize: (field) => {
      if (level > 1) return field('V') ? `table at ${formatHex(field('pfn') << 12n)}` : 'not valid: SPP miss';
      const denied = subpages.flatMap((f, i) => (field(f.name) ? [] : [i]));
      if (denied.length === 0) return 'all 32 sub-pages writable';
      if (denied.length === 32) return 'no sub-page writable';
      return `sub-pages not writable: ${ranges(denied)}`;
    },
  };
}

function ranges(numbers: readonly number[]): string {
  const out: string[] = [];
  for (let i = 0; i < numbers.length; i++) {
    const first = numbers[i];
    while (numbers[i + 1] === numbers[i] + 1) i++;
    out.push(first === numbers[i] ? `${first}` : `${first}-${numbers[i]}`);
  }
  return out.join(', ');
}

/** format_spp_spte: bit i of a 32-bit access map (1 = writable) to bit 2i of an L1E. */
export function encodeSpptL1(accessMap: number): bigint {
  let entry = 0n;
  for (let i = 0; i < 32; i++) if ((accessMap >>> i) & 1) entry |= 1n << BigInt(2 * i);
  return entry;
}

/** The access map of an L1E; odd bits (reserved) are not looked at. Unsigned 32 bits. */
export function decodeSpptL1(entry: bigint): number {
  let map = 0;
  for (let i = 0; i < 32; i++) if ((entry >> BigInt(2 * i)) & 1n) map |= 1 << i;
  return map >>> 0;
}

/** Every entry table, for the reference page and the tests. */
export function entryLayouts(options: EntryOptions = {}): WordLayout[] {
  const shapes = ['table', 'leaf'] as const;
  const tryAll = (make: (shape: EntryShape) => WordLayout) =>
    shapes.flatMap((shape) => {
      try {
        return [make(shape)];
      } catch {
        return []; // a shape that the level does not have
      }
    });
  const guest = PAGING_MODES.flatMap((mode) =>
    LEVELS[mode].flatMap((level) => tryAll((shape) => gpteLayout(mode, level, shape, options))),
  );
  const second = [5, 4, 3, 2, 1];
  return [
    ...guest,
    ...second.flatMap((level) => tryAll((shape) => epteLayout(level, shape, options))),
    ...second.flatMap((level) => tryAll((shape) => npteLayout(level, shape, options))),
    ...[4, 3, 2, 1].map((level) => sppteLayout(level, options)),
  ];
}
