/** One spte in words: what KVM takes it for, what it maps, and what the processor does when it meets it. */
import { formatHex } from './address';
import { accessText } from './role-text';
import type { SpteLayout } from './spte-layout';
import {
  adTypeOf,
  decodeMmio,
  isAccessTracked,
  isFrozen,
  isLeaf,
  isMmio,
  isShadowPresent,
  restoreAccessTracked,
} from './spte-ops';
import type { SpteWordKind } from './spte-words';
import { EPT_MEMTYPES, spteWord } from './spte-words';
import type { Decoded } from './word';
import { bitList, bitRange, bits, decodeWord, fieldOf } from './word';

/**
 * - zero: the value 0
 * - nonpresent: an empty entry of kernels whose empty entries are not 0 (bit 63 set)
 * - mmio: a cached MMIO spte
 * - frozen: REMOVED_SPTE or FROZEN_SPTE, the entry of a table being freed
 * - leaf, nonleaf: shadow-present
 * - other: none of these under this layout
 */
export type SpteKind = 'zero' | 'nonpresent' | 'mmio' | 'frozen' | 'leaf' | 'nonleaf' | 'other';

export interface DecodedSpte {
  readonly layout: SpteLayout;
  readonly value: bigint;
  readonly kind: SpteKind;
  /** Level used; see `levelKnown`. */
  readonly level: number;
  /** False if the caller gave no level and the kind of entry was judged from its bits. */
  readonly levelKnown: boolean;
  readonly shadowPresent: boolean;
  /** Raw bits 51:12, including an encryption bit; null unless shadow-present. */
  readonly pfn: bigint | null;
  /** MMIO only. */
  readonly gfn: bigint | null;
  readonly access: number | null;
  /** MMIO only; null before v3.11 too. */
  readonly generation: number | null;
  /** Set bits by name, 0 or 1: r w x (xu) on EPT; p w u nx on legacy. Empty unless shadow-present. */
  readonly rights: Readonly<Record<string, 0 | 1>>;
  /** Name of the A/D type; null where the layout or the kind has none. */
  readonly adType: string | null;
  readonly accessed: boolean | null;
  readonly dirty: boolean | null;
  readonly hostWritable: boolean | null;
  readonly mmuWritable: boolean | null;
  /** EPT leaf: memory type number and its name. */
  readonly memtype: number | null;
  readonly memtypeName: string | null;
  readonly ipat: boolean | null;
  /** A 2M or 1G leaf. */
  readonly large: boolean;
  readonly accessTracked: boolean;
  /** What restore_acc_track_spte makes of it; null unless access-tracked. */
  readonly restored: bigint | null;
  readonly suppressVe: boolean;
  readonly spp: boolean;
  /** The value equals SHADOW_NONPRESENT_VALUE. */
  readonly isNonpresentValue: boolean;
  /** What the processor does on an access through this entry. */
  readonly hardwareEffect: string;
  /** Every bit of the value by name; null for zero, nonpresent and other. */
  readonly word: Decoded | null;
  /** One line. */
  readonly summary: string;
  readonly notes: readonly string[];
}

/**
 * Reads an spte under a layout.
 * @param level 1 .. 5 if known; else a value that looks like a leaf is read as one, and the notes say so
 */
export function decodeSpte(l: SpteLayout, value: bigint, level?: number): DecodedSpte {
  const notes: string[] = [];
  const shadowPresent = isShadowPresent(l, value) && !isFrozen(l, value);
  const assumed = level ?? assumeLevel(l, value);
  const kind = kindOf(l, value, shadowPresent, assumed);
  if (level === undefined && (kind === 'leaf' || kind === 'nonleaf')) {
    notes.push(
      `Level not known: read as ${kind === 'leaf' ? `a ${assumed > 1 ? '2M or 1G' : '4K'} leaf` : 'an entry that points to a table'}.`,
    );
  }

  const tracked = kind === 'leaf' && isAccessTracked(l, value);
  const wordKind = WORD_KINDS[kind];
  const table = wordKind && spteWord(l, tracked ? 'tracked' : wordKind, assumed);
  const word = table ? decodeWord(table, value) : null;
  const field = (name: string) =>
    table?.fields.some((f) => f.name === name) ? Number(fieldOf(table, value, name)) : null;
  const flag = (name: string) => (kind === 'mmio' || field(name) === null ? null : field(name) === 1);

  const mmio = kind === 'mmio' ? decodeMmio(l, value) : null;
  const adNumber = adTypeOf(l, value);
  const hardwareEffect = effect(l, value, kind, assumed);
  const memtype = kind === 'leaf' ? field('memtype') : null;
  const spte: Omit<DecodedSpte, 'summary'> = {
    layout: l,
    value,
    kind,
    level: assumed,
    levelKnown: level !== undefined,
    shadowPresent,
    pfn: shadowPresent ? (value & l.address) >> 12n : null,
    gfn: mmio?.gfn ?? null,
    access: mmio?.access ?? null,
    generation: mmio?.generation ?? null,
    rights: shadowPresent ? rightsOf(l, value) : {},
    adType: shadowPresent && l.era.adType ? (l.era.adType.values[adNumber] ?? `${adNumber}`) : null,
    accessed: shadowPresent ? flag('a') : null,
    dirty: kind === 'leaf' ? flag('d') : null,
    hostWritable: kind === 'leaf' ? flag('host_writable') : null,
    mmuWritable: kind === 'leaf' ? flag('mmu_writable') : null,
    memtype,
    memtypeName: memtype === null ? null : EPT_MEMTYPES[memtype as keyof typeof EPT_MEMTYPES],
    ipat: kind === 'leaf' ? flag('ipat') : null,
    large: kind === 'leaf' && assumed > 1,
    accessTracked: tracked,
    restored: tracked ? restoreAccessTracked(l, value) : null,
    suppressVe: l.pagingType === 'ept' && l.nonpresentValue !== 0n && value >> 63n === 1n,
    spp: kind === 'leaf' && (value & l.spp) !== 0n,
    isNonpresentValue: value === l.nonpresentValue,
    hardwareEffect,
    word,
    notes,
  };
  judge(l, spte, notes);
  return { ...spte, summary: summaryOf(spte) };
}

const WORD_KINDS: Readonly<Record<SpteKind, SpteWordKind | null>> = {
  zero: null,
  nonpresent: null,
  other: null,
  mmio: 'mmio',
  frozen: 'frozen',
  leaf: 'leaf',
  nonleaf: 'table',
};

function kindOf(l: SpteLayout, value: bigint, shadowPresent: boolean, level: number): SpteKind {
  if (value === 0n) return 'zero';
  if (value === l.nonpresentValue) return 'nonpresent';
  if (isFrozen(l, value)) return 'frozen';
  if (isMmio(l, value)) return 'mmio';
  if (!shadowPresent) return 'other';
  return isLeaf(l, value, level) ? 'leaf' : 'nonleaf';
}

/**
 * Without a level: bit 7 makes a large leaf. KVM links tables with every right and without memory type, dirty or
 * writable marks (make_nonleaf_spte); anything else is a 4K leaf.
 */
function assumeLevel(l: SpteLayout, value: bigint): number {
  if (value & l.large) return 2;
  const ept = l.pagingType === 'ept';
  const marks = l.hostWritable | l.mmuWritable | l.memtype | (ept ? l.dirty : 0x40n);
  const rights = ept ? 0x7n : 0x7n | l.nx;
  return (value & marks) === 0n && (value & rights) === 0x7n ? 2 : 1;
}

function rightsOf(l: SpteLayout, value: bigint): Record<string, 0 | 1> {
  const bit = (mask: bigint): 0 | 1 => ((value & mask) === 0n ? 0 : 1);
  if (l.pagingType === 'legacy') return { p: bit(1n), w: bit(2n), u: bit(4n), nx: bit(l.nx) };
  return { r: bit(1n), w: bit(2n), x: bit(4n), ...(l.xu ? { xu: bit(l.xu) } : {}) };
}

/** What an access through the entry meets, without SPP and without the rest of the walk. */
function effect(l: SpteLayout, value: bigint, kind: SpteKind, level: number): string {
  const highReserved = (value & bitRange(l.hostPhysBits, 51)) !== 0n;
  if (l.pagingType === 'legacy') {
    if ((value & 1n) === 0n) {
      return kind === 'mmio' ? 'plain not-present #PF (no reserved bit available)' : 'not-present #PF';
    }
    if (highReserved && kind !== 'leaf' && kind !== 'nonleaf') return '#PF with P=1 RSVD=1';
    if (highReserved) return '#PF with P=1 RSVD=1, unless the bits above MAXPHYADDR are an encryption bit';
    return kind === 'leaf' ? 'translates' : 'the walk goes on';
  }
  const rwx = Number(value & 7n);
  const rwxText = `bits 2:0 = ${rwx.toString(2).padStart(3, '0')}b`;
  if (rwx === 0 && (value & l.xu) === 0n) return `EPT violation (${rwxText})`;
  if (rwx === 2 || rwx === 6) return `EPT misconfiguration (${rwxText})`;
  if (highReserved) return 'EPT misconfiguration (address bits above MAXPHYADDR)';
  const memtype = Number((value >> 3n) & 7n);
  if (kind === 'leaf' && (memtype === 2 || memtype === 3 || memtype === 7)) {
    return `EPT misconfiguration (memory type ${memtype})`;
  }
  if (rwx === 4)
    return `${kind === 'leaf' ? 'translates fetches' : 'the walk goes on'} (execute-only, a misconfiguration without that feature)`;
  if (kind === 'leaf' && level > 1 && value & bits(12, level === 2 ? 9 : 18)) {
    return 'EPT misconfiguration (low address bits of a large page)';
  }
  return kind === 'leaf' ? 'translates' : 'the walk goes on';
}

/** Notes on what KVM would make of it. */
function judge(l: SpteLayout, s: Omit<DecodedSpte, 'summary'>, notes: string[]): void {
  if (s.kind === 'other') {
    notes.push(
      l.era.present === 'bit 11' && s.value & 1n
        ? 'MMU-present (bit 11) is clear, so KVM does not take it for an spte: a hardware table entry, or a root entry (pae_root, pml4_root).'
        : 'Neither empty, MMIO, frozen nor shadow-present under this layout.',
    );
  }
  if (s.kind === 'zero' && !s.isNonpresentValue) {
    notes.push(
      `Empty entries of this kernel have bit 63 set${l.pagingType === 'ept' ? ' (suppress #VE): this one can raise #VE' : ''}.`,
    );
  }
  if (s.word && s.word.reserved !== 0n) notes.push(`Bits ${bitList(s.word.reserved)} have no meaning in this layout.`);
  if (s.kind === 'mmio') {
    if (s.generation === null) notes.push('This kernel stores no generation: the entry is valid until it is zapped.');
    if (s.access === 0 && l.pagingType === 'ept') notes.push('On EPT the access cannot be read back: it reads as 0.');
  }
  if (s.kind !== 'leaf') return;
  if (s.accessTracked) {
    notes.push(
      `Access-tracked: the next access faults with P=0 and fast_page_fault restores ${formatHex(s.restored!)}.`,
    );
  }
  const writable = (s.value & 2n) !== 0n;
  if (l.mmuWritable !== 0n && !s.spp) {
    if (s.mmuWritable && !s.hostWritable) notes.push('MMU-writable without host-writable: KVM never makes that.');
    else if (writable && !s.mmuWritable) notes.push('W without MMU-writable: KVM never makes that.');
    else if (!writable && s.mmuWritable)
      notes.push(
        'Write-protected so that a write can be seen (dirty log or access tracking): fast_page_fault may set W.',
      );
    else if (!writable && s.hostWritable)
      notes.push('Write-protected by KVM (a shadowed guest page table): a write takes the slow path.');
    else if (!writable) notes.push('Read-only for the host: a read-only memslot, or a page mapped for reading only.');
  }
  if (s.spp && !writable) notes.push('Sub-page permission: a write is looked up in the SPPT.');
}

function summaryOf(s: Omit<DecodedSpte, 'summary'>): string {
  switch (s.kind) {
    case 'zero':
    case 'nonpresent':
      return `empty entry, ${s.hardwareEffect}`;
    case 'frozen':
      return `${s.layout.era.frozen!.name}, ${s.hardwareEffect}`;
    case 'mmio': {
      const gen = s.generation === null ? 'no generation' : `generation ${s.generation}`;
      const access = s.access ? ` access ${accessText(s.access)}` : '';
      return `MMIO gfn ${formatHex(s.gfn!)}${access} ${gen}, ${s.hardwareEffect}`;
    }
    case 'other':
      return `not an spte of this kernel, ${s.hardwareEffect}`;
    case 'nonleaf':
      return `table at pfn ${formatHex(s.pfn!)} ${rightsText(s)}${s.accessed ? ' A' : ''}`;
    case 'leaf': {
      const size = s.large ? (s.levelKnown ? (s.level === 2 ? '2M ' : '1G ') : 'large ') : '';
      const parts = [`${size}leaf pfn ${formatHex(s.pfn!)} ${rightsText(s)}`];
      if (s.memtypeName) parts.push(s.memtypeName + (s.ipat ? '+IPAT' : ''));
      const ad = `${s.accessed ? 'A' : ''}${s.dirty ? 'D' : ''}`;
      if (ad) parts.push(ad);
      if (s.hostWritable) parts.push('host-writable');
      if (s.mmuWritable) parts.push('mmu-writable');
      if (s.accessTracked) parts.push('access-tracked');
      if (s.adType && adTypeOf(s.layout, s.value) !== 0) parts.push(s.adType.replace(/ \(.*/, ''));
      if (s.spp) parts.push('SPP');
      return parts.join(' ');
    }
  }
}

/** Rights as the kernel's kvm_mmu_set_spte prints them, without its quirks: `rwx`, `rwxu` on legacy. */
function rightsText(s: Omit<DecodedSpte, 'summary'>): string {
  const { rights } = s;
  if (s.layout.pagingType === 'ept') {
    return `${rights.r ? 'r' : '-'}${rights.w ? 'w' : '-'}${rights.x ? 'x' : '-'}${rights.xu ? 'u' : rights.xu === 0 ? '-' : ''}`;
  }
  return `${rights.p ? 'r' : '-'}${rights.w ? 'w' : '-'}${rights.nx ? '-' : 'x'}${rights.u ? 'u' : '-'}`;
}
