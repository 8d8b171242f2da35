/**
 * The field tables of sptes: one `WordLayout` per layout, kind of spte and level class. Built from the resolved masks,
 * so that every bit that KVM or the processor gives a meaning is a named field.
 */
import type { SpteLayout } from './spte-layout';
import type { WordField, WordLayout } from './word';
import { bitRuns, bits } from './word';

/** Kinds of spte that have a table. An access-tracked leaf differs from a leaf by the saved R and X. */
export type SpteWordKind = 'leaf' | 'tracked' | 'table' | 'mmio' | 'frozen';

/** EPT memory types (SDM vol. 3C, EPT paging-structure entries). */
export const EPT_MEMTYPES = {
  0: 'UC',
  1: 'WC',
  2: 'reserved',
  3: 'reserved',
  4: 'WT',
  5: 'WP',
  6: 'WB',
  7: 'reserved',
};

const cache = new WeakMap<SpteLayout, Map<string, WordLayout>>();

/**
 * The table of one kind of spte.
 * @param level 1 .. 5; decides whether bit 7 is PS
 */
export function spteWord(l: SpteLayout, kind: SpteWordKind, level = 1): WordLayout {
  let tables = cache.get(l);
  if (!tables) cache.set(l, (tables = new Map<string, WordLayout>()));
  const large = level > 1;
  const key = kind === 'leaf' || kind === 'tracked' ? `${kind}${large ? '-large' : ''}` : kind;
  let table = tables.get(key);
  if (!table) {
    const fields =
      kind === 'mmio' ? mmioFields(l) : kind === 'frozen' ? frozenFields(l) : presentFields(l, kind, large);
    table = {
      id: `${l.id}/${key}`,
      word: 'spte',
      title: `${l.pagingType === 'ept' ? 'EPT' : 'legacy'} spte, ${TITLES[kind]}${large && key.endsWith('large') ? ', 2M or 1G' : ''}`,
      size: 64,
      kernels: l.era.ranges.map((r) => `${r.from} .. ${r.to}`).join(', '),
      vendor: l.pagingType === 'ept' ? 'intel' : undefined,
      source: `${l.era.source}; ${l.era.checked}`,
      fields,
      notes: l.era.notes,
    };
    tables.set(key, table);
  }
  return table;
}

const TITLES: Readonly<Record<SpteWordKind, string>> = {
  leaf: 'leaf',
  tracked: 'access-tracked leaf',
  table: 'entry that points to a table',
  mmio: 'cached MMIO',
  frozen: 'frozen entry',
};

/** All tables of a layout, for the reference page and the tests. */
export function spteWords(l: SpteLayout): WordLayout[] {
  const out = [spteWord(l, 'leaf', 1), spteWord(l, 'leaf', 2)];
  if (l.era.accTrackSaved) out.push(spteWord(l, 'tracked', 1), spteWord(l, 'tracked', 2));
  out.push(spteWord(l, 'table', 2));
  if (l.mmio.enabled) out.push(spteWord(l, 'mmio'));
  return out;
}

type Add = (mask: bigint, name: string, meaning: string, extra?: Partial<WordField>) => void;

/** Collects fields; a mask of several runs becomes `name`, `name_2` …; bits already taken are left out. */
function collector(): { add: Add; done: () => WordField[] } {
  const fields: WordField[] = [];
  let taken = 0n;
  const add: Add = (mask, name, meaning, extra = {}) => {
    bitRuns(mask & ~taken).forEach(({ lsb, width }, i) => {
      fields.push({ name: i === 0 ? name : `${name}_${i + 1}`, lsb, width, meaning, ...extra });
    });
    taken |= mask;
  };
  return { add, done: () => fields.sort((a, b) => a.lsb - b.lsb) };
}

function presentFields(l: SpteLayout, kind: 'leaf' | 'tracked' | 'table', large: boolean): WordField[] {
  const { add, done } = collector();
  if (l.pagingType === 'ept') eptHardware(l, kind, large, add);
  else legacyHardware(l, kind, large, add);
  add(l.mmuPresent, 'mmu_present', 'Shadow-present for KVM, whatever the hardware bits say (SPTE_MMU_PRESENT_MASK).');
  if (kind !== 'table') {
    add(l.hostWritable, 'host_writable', 'The host mapping (the memslot and the VMA) allows writes.');
    add(
      l.mmuWritable,
      'mmu_writable',
      'KVM does not write-protect the gfn: fast_page_fault may set W without the lock.',
    );
    add(l.spp, 'spp', 'Sub-page permission: a write with W=0 is looked up in the SPPT.');
    add(l.sppSaved, 'spp_saved', 'SPP bit kept here while the leaf is write-protected for another reason.');
  }
  const type = l.era.adType;
  if (type)
    add(l.adType, 'ad_type', 'Whether hardware accessed/dirty bits count for this spte.', { values: type.values });
  if (kind === 'tracked' && l.era.accTrackSaved) {
    const { savedBits, shift } = l.era.accTrackSaved;
    const names: readonly [bigint, string][] = [
      [1n, 'r'],
      [4n, 'x'],
      [0x400n, 'xu'],
    ];
    for (const [bit, name] of names) {
      if (savedBits & bit)
        add(bit << BigInt(shift), `saved_${name}`, `${name.toUpperCase()} before access tracking cleared it.`);
    }
  }
  add(l.address, 'pfn', 'Host frame (bits 51:12; with SME it includes the C-bit).', { format: 'frame' });
  return done();
}

function eptHardware(l: SpteLayout, kind: 'leaf' | 'tracked' | 'table', large: boolean, add: Add): void {
  add(1n, 'r', 'Read.');
  add(2n, 'w', 'Write.');
  add(4n, 'x', l.xu ? 'Execute; supervisor execute with mode-based execute control.' : 'Execute.');
  if (kind !== 'table') {
    add(bits(3, 3), 'memtype', 'EPT memory type.', { values: EPT_MEMTYPES });
    add(bits(6), 'ipat', "Ignore the guest's PAT.");
  }
  add(bits(7), 'large', large || kind === 'table' ? 'PS: maps a 2M or 1G page.' : 'Ignored by hardware at level 1.');
  add(bits(8), 'a', 'Accessed, if EPT A/D is in use.');
  add(bits(9), ...eptBit9(l, kind));
  add(l.xu, 'xu', 'User-mode execute (mode-based execute control).');
  if (l.present >> 63n || l.nonpresentValue !== 0n)
    add(bits(63), 'suppress_ve', 'Suppress #VE: an EPT violation here exits.');
}

/** In v3.1 bit 9 was the software host-writable bit; from v3.6 it is the dirty flag. */
function eptBit9(l: SpteLayout, kind: string): [string, string] {
  if (l.era.hostWritableBit === 9)
    return ['host_writable', 'The host mapping (the memslot and the VMA) allows writes.'];
  return ['d', kind === 'table' ? 'Ignored in an entry that points to a table.' : 'Dirty, if EPT A/D is in use.'];
}

function legacyHardware(l: SpteLayout, kind: 'leaf' | 'tracked' | 'table', large: boolean, add: Add): void {
  add(1n, 'p', 'Present.');
  add(2n, 'w', 'Write.');
  add(4n, 'u', 'User. NPT needs it in every entry: nested walks count as user accesses.');
  add(8n, 'pwt', 'Page write-through.');
  add(16n, 'pcd', 'Page cache disable.');
  add(32n, 'a', 'Accessed.');
  add(64n, 'd', kind === 'table' ? 'Ignored in an entry that points to a table.' : 'Dirty.');
  add(128n, 'large', large || kind === 'table' ? 'PS: maps a 2M or 1G page.' : 'PAT at level 1.');
  if (kind !== 'table') add(256n, 'g', 'Global.');
  add(l.nx, 'nx', 'No execute.');
}

function mmioFields(l: SpteLayout): WordField[] {
  const { add, done } = collector();
  const why =
    l.pagingType === 'ept' ? 'write/execute without read: an EPT misconfiguration' : 'reserved or not present';
  const mark = l.mmio.mask | l.mmio.value;
  for (const part of [...l.era.mmio.gen].reverse()) {
    const top = part.genLsb + part.width - 1;
    add(
      bits(part.spteLsb, part.width),
      `gen_${top}_${part.genLsb}`,
      `Bits ${top}:${part.genLsb} of the memslot generation.`,
      {
        format: 'hex',
      },
    );
  }
  add(mark, 'mmio', `The mark of an MMIO spte (${why}).`, { format: 'hex' });
  const access = BigInt(l.mmio.accessMask) & ~mark;
  if (access)
    add(access, 'access', 'Access of the mapping (ACC_WRITE_MASK, ACC_USER_MASK).', {
      values: { 0: 'none', 1: 'write', 2: 'user', 3: 'write, user' },
    });
  const displaced = l.nonpresentOrRsvd << 5n;
  add(l.nonpresentOrRsvd, 'l1tf', 'All ones, so that L1TF reads no cacheable address.', { format: 'hex' });
  add(displaced, 'gfn_high', 'The gfn bits that the L1TF ones displace, five bits higher.', { format: 'hex' });
  add(l.lowerGfn & ~displaced & l.address, 'gfn', 'Frame without memslot.', { format: 'frame' });
  return done();
}

function frozenFields(l: SpteLayout): WordField[] {
  const { add, done } = collector();
  const name = l.era.frozen?.name ?? 'frozen';
  add(l.frozenValue ?? 0n, name.toLowerCase(), `Part of the pattern ${name}.`, { format: 'hex' });
  return done();
}
