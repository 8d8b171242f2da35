/**
 * A value as an spte when not everything is known: under every layout that the kernel, vendor and paging type leave
 * open, equal readings joined, the likelier ones first.
 */
import { formatHex } from './address';
import type { KernelRange, KernelVersion } from './kernels';
import { inRange, joinRanges } from './kernels';
import type { ReadOptions, Reading } from './reading';
import { fieldsOf } from './reading';
import type { DecodedSpte, PagingType, SpteEra, SpteLayout, SpteOptions } from './sptes';
import { SPTE_ERAS, decodeSpte, isMmio, spteLayout } from './sptes';

/** All readings of a value as an spte; `forced` keeps those that no spte would have. */
export function readSpte(value: bigint, options: ReadOptions, forced: boolean): Reading[] {
  const groups = new Map<string, { spte: DecodedSpte; ranges: KernelRange[]; fit: number; note?: string }>();
  for (const type of pagingTypes(options)) {
    for (const { kernel, ranges } of kernelsOf(type, options.kernel)) {
      for (const { layout, note } of hosts(kernel, type, value, options)) {
        const spte = decodeSpte(layout, value, options.level);
        if (spte.kind === 'other' && !forced) continue;
        const fit =
          plausibility(spte, options) - (note === undefined && guessesHost(layout, value, options) ? 0.15 : 0);
        const set = spte.word?.fields.filter((f) => f.value !== 0n).map((f) => f.field.name + f.text) ?? [];
        const key = [type, note, fit, spte.summary, spte.notes.join(), ...set].join('|');
        const group = groups.get(key);
        if (!group) groups.set(key, { spte, ranges: [...ranges], fit, note });
        else {
          group.ranges.push(...ranges);
          // The newest kernel speaks for the group.
          group.spte = spte;
        }
      }
    }
  }
  return [...groups.values()].map((g) => toReading(g.spte, g.ranges, g.fit, g.note, options));
}

function toReading(
  spte: DecodedSpte,
  ranges: readonly KernelRange[],
  fit: number,
  note: string | undefined,
  options: ReadOptions,
): Reading {
  const { layout } = spte;
  const format = layout.pagingType === 'ept' ? 'EPT' : 'NPT or shadow paging';
  const kernels = options.kernel ? options.kernel.name : joinRanges(ranges);
  const notes = [...(note ? [note] : []), ...spte.notes, ...generationNotes(spte)];
  if (spte.kind === 'leaf' || spte.kind === 'nonleaf') notes.unshift(`Processor: ${spte.hardwareEffect}.`);
  return {
    word: 'spte',
    title: `spte, ${format}, ${kernels}`,
    layoutId: spte.word?.layout.id ?? layout.id,
    summary: spte.summary,
    fields: fieldsOf(spte.word),
    notes,
    fit,
    kernels,
    vendor: layout.pagingType === 'ept' ? 'intel' : options.vendor,
  };
}

function generationNotes(spte: DecodedSpte): string[] {
  if (spte.kind !== 'mmio' || spte.generation === null) return [];
  const hasParity = inRange(spte.layout.kernel, { from: 'v5.0', to: 'v7.3' });
  const parity = hasParity ? `, of address space ${spte.generation & 1}` : '';
  return [
    `Valid while the memslot generation, cut to ${spte.layout.era.mmio.genBits} bits, is ${formatHex(BigInt(spte.generation))}${parity}.`,
  ];
}

function pagingTypes({ pagingType, vendor }: ReadOptions): readonly PagingType[] {
  if (pagingType) return [pagingType];
  return vendor === 'amd' ? ['legacy'] : ['ept', 'legacy'];
}

function kernelsOf(
  type: PagingType,
  kernel?: KernelVersion,
): { kernel: KernelVersion | string; ranges: readonly KernelRange[] }[] {
  if (kernel) return [{ kernel, ranges: [] }];
  return SPTE_ERAS.filter((e) => e.pagingType === type).map((e) => ({ kernel: e.ranges.at(-1)!.to, ranges: e.ranges }));
}

const layouts = new Map<string, SpteLayout>();

/** Layouts are asked for on every hover; there are few different ones. */
function cachedLayout(kernel: KernelVersion | string, type: PagingType, host: SpteOptions): SpteLayout {
  const key = `${typeof kernel === 'string' ? kernel : kernel.name} ${type} ${host.hostPhysBits} ${host.l1tf}`;
  let layout = layouts.get(key);
  if (!layout) layouts.set(key, (layout = spteLayout(kernel, type, host)));
  return layout;
}

/** The hosts to read it on: the given one; else a wide one, and the one that the value itself points to. */
function hosts(
  kernel: KernelVersion | string,
  type: PagingType,
  value: bigint,
  options: ReadOptions,
): { layout: SpteLayout; note?: string }[] {
  const given: SpteOptions = { hostPhysBits: options.hostPhysBits, l1tf: options.l1tf };
  if (options.hostPhysBits !== undefined && options.l1tf !== undefined)
    return [{ layout: cachedLayout(kernel, type, given) }];
  const on = (host: SpteOptions) => cachedLayout(kernel, type, host);
  // 51 bits leave one reserved bit for the MMIO sptes that need one, and cut off no address that hosts have.
  const plain = on({ ...given, hostPhysBits: options.hostPhysBits ?? 51 });
  const out: { layout: SpteLayout; note?: string }[] = [{ layout: plain }];
  if (!isMmio(plain, value)) return out;
  const bits = guessHost(plain.era, plain, value, options);
  if (bits === null) return out;
  const l1tf = plain.era.l1tf !== 'no';
  const layout = on({ hostPhysBits: bits, l1tf });
  const why = l1tf
    ? `Read as on a host with L1TF and ${bits} physical address bits: bits ${bits - 1}:${bits - 5} are all set.`
    : `Read as on a host with ${bits} physical address bits: the mark reaches down to bit ${bits}.`;
  out.unshift({ layout, note: why });
  return out;
}

function guessesHost(layout: SpteLayout, value: bigint, options: ReadOptions): boolean {
  return isMmio(layout, value) && guessHost(layout.era, layout, value, options) !== null;
}

/** Address width that an MMIO spte shows: by the L1TF ones below it, or in v3.x legacy by the mark above it. */
function guessHost(era: SpteEra, plain: SpteLayout, value: bigint, options: ReadOptions): number | null {
  const set = (bit: number) => ((value >> BigInt(bit)) & 1n) === 1n;
  if (era.mmio.legacyRule === 'N..62' || era.mmio.legacyRule === 'N..51+63:62') {
    if (options.hostPhysBits !== undefined || !set(51)) return null;
    let bits = 51;
    while (bits > 32 && set(bits - 1)) bits--;
    return bits < 51 ? bits : null;
  }
  if (era.l1tf === 'no' || options.l1tf === false) return null;
  for (let bits = 46; bits >= 36; bits--) {
    if (options.hostPhysBits !== undefined && bits !== options.hostPhysBits) continue;
    const ones = [1, 2, 3, 4, 5].every((i) => set(bits - i));
    // Above the ones only the five displaced gfn bits and the mark may be set.
    let above = 0n;
    for (let bit = bits + 5; bit < 52; bit++) above |= value & (1n << BigInt(bit)) & ~plain.mmio.value;
    if (ones && above === 0n) return bits;
  }
  return null;
}

/** How likely KVM made such an spte, 0 .. 1. Recent kernels are likelier than old ones. */
function plausibility(s: DecodedSpte, options: ReadOptions): number {
  if (options.rights && !rightsMatch(s, options.rights)) return 0.05;
  const age = { 'bit 11': 0, nonzero: 0.1, 'bit 0': 0.2 }[s.layout.era.present];
  const odd = (s.word?.reserved ?? 0n) !== 0n;
  switch (s.kind) {
    case 'zero':
    case 'nonpresent':
      return 0.6;
    case 'frozen':
      return 0.9;
    case 'mmio':
      return Math.max(0.05, mmioFit(s, odd) - age);
    case 'other':
      return 0.05;
    case 'nonleaf':
      return Math.max(0.05, nonleafFit(s, odd) - age);
    case 'leaf':
      return Math.max(0.05, leafFit(s, odd) - age);
  }
}

/** Few bits mark an EPT MMIO spte (v5.13+), so a small or a huge frame makes another reading likelier. */
function mmioFit(s: DecodedSpte, odd: boolean): number {
  const { layout, value } = s;
  if (odd || (value & layout.mmio.value) !== layout.mmio.value) return 0.3;
  if (layout.nonpresentOrRsvd !== 0n && value & (layout.nonpresentOrRsvd << 5n)) return 0.5;
  if (s.gfn! < 0xa0n) return 0.3;
  return s.gfn! >> 34n === 0n ? 0.85 : 0.4;
}

/** The host does not give its first megabyte to guests or page tables. */
const LOWEST_PFN = 0x100n;

function nonleafFit(s: DecodedSpte, odd: boolean): number {
  if (odd || s.pfn! < LOWEST_PFN) return 0.15;
  if (s.hardwareEffect !== 'the walk goes on' || (s.value & s.layout.present) !== s.layout.present) return 0.2;
  // Tables are linked readable, writable, executable and for the user.
  const { r, w, x, u } = s.rights;
  return w && (r ?? 1) && (x ?? 1) && (u ?? 1) ? 0.75 : 0.3;
}

function leafFit(s: DecodedSpte, odd: boolean): number {
  const { layout, value } = s;
  const legacy = layout.pagingType === 'legacy';
  let fit = 0.85;
  if (odd || s.pfn! < LOWEST_PFN) fit -= 0.4;
  if (s.large && s.pfn! & 0x1ffn) fit -= 0.4;
  if ((value & layout.present) !== layout.present) fit -= 0.4;
  if (s.memtype !== null && s.memtype !== 6 && s.memtype !== 0) fit -= 0.3;
  // KVM sets neither PWT, PCD nor G in legacy sptes.
  if (legacy && value & 0x118n) fit -= 0.3;
  if (s.mmuWritable && !s.hostWritable) fit -= 0.4;
  if (s.mmuWritable !== null && s.rights.w === 1 && !s.mmuWritable) fit -= 0.4;
  if (s.rights.r === 0 && !s.accessTracked) fit -= 0.3;
  if (s.dirty && !s.accessed) fit -= 0.15;
  if (!s.hardwareEffect.startsWith('translates') && !s.accessTracked) fit -= 0.3;
  return fit;
}

/** kvm_mmu_set_spte prints r, w, x and, where there is a user mask, u. On EPT u is the R bit again (v6.1). */
function rightsMatch(s: DecodedSpte, rights: string): boolean {
  if (!s.shadowPresent) return true;
  const { r, p, w, x, nx, u } = s.rights;
  const want = [
    (r ?? p) ? 'r' : '-',
    w ? 'w' : '-',
    (x ?? 1 - (nx ?? 0)) ? 'x' : '-',
    s.layout.user === 0n ? '' : (s.layout.pagingType === 'ept' ? r : u) ? 'u' : '-',
  ].join('');
  return want === rights;
}
