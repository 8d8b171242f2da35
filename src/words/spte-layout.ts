/**
 * Shadow PTEs of a kernel on a host: the masks resolved from the era's facts, the host's address width, L1TF and the
 * module parameters. The predicates and the MMIO codec are in spte-ops.ts.
 */
import { WordError } from './address';
import type { KernelSpec, KernelVersion } from './kernels';
import { inRange, toKernel } from './kernels';
import type { PagingType, SpteEra } from './spte-tables';
import { SPTE_ERAS } from './spte-tables';
import type { Pair } from './word';
import { bitRange, bits, toPair } from './word';

/** What an spte layout depends on besides the kernel. */
export interface SpteOptions {
  /** MAXPHYADDR of the host (CPUID.80000008H:EAX[7:0]), 32 .. 52. Default 46. */
  readonly hostPhysBits?: number;
  /** x86_cache_bits of an L1TF host where it differs from MAXPHYADDR (44 on Nehalem .. Haswell). */
  readonly cacheBits?: number;
  /** The host has X86_BUG_L1TF. Default false. v4.11 .. v4.20 ignore it and go by the address width. */
  readonly l1tf?: boolean;
  /** kvm.mmio_caching. Default true. */
  readonly mmioCaching?: boolean;
  /** EPT accessed/dirty bits in use (kvm_intel.eptad and the processor). Default true. */
  readonly eptAd?: boolean;
  /** The processor has execute-only EPT entries. Default true. */
  readonly eptExecOnly?: boolean;
  /** AMD SME active: position of the C-bit and the physical address width that it leaves. */
  readonly sme?: { readonly cBit: number; readonly reducedPhysBits: number };
}

/** What the hot paths need, as pairs of unsigned 32-bit halves. Every object has the same shape. */
export interface SpteMasks {
  /** Shadow-present rule: 0 bit 0, 1 nonzero, 2 bit 11; the first two except MMIO sptes. */
  readonly presentRule: 0 | 1 | 2;
  readonly mmioEnabled: boolean;
  readonly mmioAccessMask: number;
  readonly genMask: number;
  /** Low part of the generation: its first generation bit, its first bit in lo, its width (0: none stored). */
  readonly genLo: { readonly gen: number; readonly shift: number; readonly mask: number };
  /** High part, in hi. */
  readonly genHi: { readonly gen: number; readonly shift: number; readonly mask: number };
  /** First bit of the A/D type in hi, and its mask there; mask 0 without the field. */
  readonly adShift: number;
  readonly present: Pair;
  readonly user: Pair;
  readonly x: Pair;
  readonly xu: Pair;
  readonly nx: Pair;
  readonly write: Pair;
  readonly accessed: Pair;
  readonly dirty: Pair;
  readonly accTrack: Pair;
  readonly memtype: Pair;
  readonly mmuPresent: Pair;
  readonly hostWritable: Pair;
  readonly mmuWritable: Pair;
  readonly adType: Pair;
  readonly large: Pair;
  readonly address: Pair;
  readonly mmioMask: Pair;
  readonly mmioMatch: Pair;
  readonly mmioValue: Pair;
  readonly nonpresentOrRsvd: Pair;
  readonly lowerGfn: Pair;
  readonly nonpresentValue: Pair;
  readonly frozenValue: Pair;
  readonly spp: Pair;
}

/** An era's layout on one host. All masks are in place; 0 means the layout has no such bit. */
export interface SpteLayout {
  /** `spte-ept@v6.1`. */
  readonly id: string;
  readonly kernel: KernelVersion;
  readonly era: SpteEra;
  readonly pagingType: PagingType;
  readonly hostPhysBits: number;
  readonly l1tf: boolean;
  readonly present: bigint;
  readonly write: bigint;
  readonly user: bigint;
  readonly x: bigint;
  /** User-mode execute (EPT with mode-based execute control, v7.2+). */
  readonly xu: bigint;
  readonly nx: bigint;
  readonly accessed: bigint;
  readonly dirty: bigint;
  /** Bits that access tracking clears. */
  readonly accTrack: bigint;
  /** Memory type and IPAT of EPT leaves. */
  readonly memtype: bigint;
  readonly mmuPresent: bigint;
  readonly hostWritable: bigint;
  readonly mmuWritable: bigint;
  readonly adType: bigint;
  readonly large: bigint;
  /** Bits 51:12. */
  readonly address: bigint;
  readonly mmio: {
    /** kvm.mmio_caching after KVM's own adjustments: false if no recognisable spte can be made. */
    readonly enabled: boolean;
    readonly mask: bigint;
    readonly value: bigint;
    /** What (spte & mask) equals for an MMIO spte. */
    readonly match: bigint;
    readonly accessMask: number;
    /** Spte bits that hold the generation. */
    readonly genField: bigint;
    /** Generation bits that are stored: what memslots.generation is masked with. */
    readonly genMask: number;
  };
  /** Address bits set in MMIO sptes so that L1TF finds no cacheable address; 0 without L1TF. */
  readonly nonpresentOrRsvd: bigint;
  /** Spte bits of an MMIO spte that hold gpa bits in their own place. */
  readonly lowerGfn: bigint;
  /** Value of an empty entry (SHADOW_NONPRESENT_VALUE). */
  readonly nonpresentValue: bigint;
  /** Value of an entry frozen while its table is freed (REMOVED_SPTE, FROZEN_SPTE); null if the era has none. */
  readonly frozenValue: bigint | null;
  /** Sub-page permission: bit 61, and bit 55 where it waits while the leaf is otherwise protected. */
  readonly spp: bigint;
  readonly sppSaved: bigint;
  readonly hot: SpteMasks;
}

/** How many address bits KVM sets against L1TF, and how far it moves the gfn bits they displace. */
export const SHADOW_NONPRESENT_OR_RSVD_LEN = 5;
const DEFAULT_PHYS_BITS = 46;

/**
 * The spte layout of a kernel on a host.
 * @param pagingType `ept` for Intel TDP and shadow EPT, `legacy` for NPT and shadow paging
 * @throws WordError for an unknown kernel, paging type or an address width outside 32 .. 52
 */
export function spteLayout(kernel: KernelSpec, pagingType: PagingType, options: SpteOptions = {}): SpteLayout {
  const version = toKernel(kernel);
  const hostPhysBits = options.hostPhysBits ?? DEFAULT_PHYS_BITS;
  if (!Number.isInteger(hostPhysBits) || hostPhysBits < 32 || hostPhysBits > 52) {
    throw new WordError(`hostPhysBits cannot be ${hostPhysBits}: a physical address has 32 to 52 bits`);
  }
  if (pagingType !== 'ept' && pagingType !== 'legacy') {
    throw new WordError(
      `'${String(pagingType)}' is not a paging type: write ept (Intel TDP) or legacy (NPT, shadow paging)`,
    );
  }
  const era = SPTE_ERAS.findLast((e) => e.pagingType === pagingType && e.ranges.some((r) => inRange(version, r)))!;
  return resolve(version, era, hostPhysBits, options);
}

function resolve(kernel: KernelVersion, era: SpteEra, hostPhysBits: number, options: SpteOptions): SpteLayout {
  const { pagingType, masks } = era;
  const eptAd = pagingType === 'legacy' || era.era === 'v7.2' || (options.eptAd ?? true);
  const dropR = pagingType === 'ept' && era.accTrackSaved !== null && (options.eptExecOnly ?? true);
  const mmio = resolveMmio(era, hostPhysBits, options);
  const l1tf = l1tfMask(era, hostPhysBits, options);
  const genField = era.mmio.gen.reduce((m, p) => m | bits(p.spteLsb, p.width), 0n);
  const sppSet = pagingType === 'ept' && (kernel.patchSet === 'spp-rfc-2018' || kernel.patchSet === 'spp-v12');
  const layout = {
    id: `spte-${pagingType}@${era.era}${sppSet ? '+spp' : ''}`,
    kernel,
    era,
    pagingType,
    hostPhysBits,
    l1tf: l1tf !== 0n,
    present: dropR ? masks.present & ~1n : masks.present,
    write: 2n,
    user: masks.user,
    x: masks.x,
    xu: masks.xu,
    nx: masks.nx,
    accessed: eptAd ? masks.accessed : 0n,
    dirty: eptAd ? masks.dirty : 0n,
    accTrack: masks.accTrack,
    memtype: pagingType === 'ept' ? 0x78n : 0n,
    mmuPresent: era.present === 'bit 11' ? 1n << 11n : 0n,
    hostWritable: bits(era.hostWritableBit),
    mmuWritable: era.mmuWritableBit === null ? 0n : bits(era.mmuWritableBit),
    adType: era.adType ? bits(era.adType.lsb, era.adType.width) : 0n,
    large: 0x80n,
    address: bitRange(12, 51),
    mmio: {
      ...mmio,
      match: mmio.mask & mmio.value,
      accessMask: era.mmio.accessMask,
      genField,
      genMask: Number(bits(0, era.mmio.genBits)),
    },
    nonpresentOrRsvd: l1tf,
    lowerGfn: lowerGfnMask(era, mmio.value | genField, l1tf, hostPhysBits),
    nonpresentValue: era.nonpresentValue,
    frozenValue: era.frozen?.value ?? null,
    spp: sppSet ? 1n << 61n : 0n,
    sppSaved: sppSet ? 1n << 55n : 0n,
  };
  return Object.freeze({ ...layout, hot: hotMasks(layout) });
}

/** MMIO mask and value of the host. Source: kvm_set_mmio_spte_mask and its successors, svm_adjust_mmio_mask. */
function resolveMmio(era: SpteEra, physBits: number, options: SpteOptions) {
  const off = { enabled: false, mask: 0n, value: 0n };
  if (options.mmioCaching === false) return off;
  const { mask, value, legacyRule } = era.mmio;
  const both = (m: bigint) => ({ enabled: true, mask: mask | m, value: value | m });
  const p = physBits === 52 ? 0n : 1n;
  switch (legacyRule) {
    case null:
      return both(0n);
    case 'N..62':
      return both(bitRange(physBits, 62) | p);
    case 'N..51+63:62':
      return both(bitRange(physBits, 51) | bits(62, 2) | p);
    case 'bit 51, P dropped at 52':
      return both(bits(51) | p);
    case 'bit 51, value drops both at 52':
      return { enabled: true, mask: mask | bits(51) | 1n, value: physBits === 52 ? value : value | bits(51) | 1n };
    case 'bit 51 in the value, neither at 52':
      return { enabled: true, mask, value: physBits === 52 ? value : value | bits(51) | 1n };
    case 'bit 51, off at 52': {
      if (!options.sme) return physBits === 52 ? off : both(bits(51) | 1n);
      const { cBit, reducedPhysBits } = options.sme;
      const first = reducedPhysBits + (cBit === reducedPhysBits ? 1 : 0);
      return first >= 52 ? off : both(bitRange(first, 51) | 1n);
    }
  }
}

/** shadow_nonpresent_or_rsvd_mask: the top 5 cacheable address bits of a host with L1TF. */
function l1tfMask(era: SpteEra, physBits: number, options: SpteOptions): bigint {
  const cacheBits = options.cacheBits ?? physBits;
  const len = SHADOW_NONPRESENT_OR_RSVD_LEN;
  switch (era.l1tf) {
    case 'no':
      return 0n;
    case 'narrow hosts':
      return physBits < 52 - len ? bitRange(physBits - len, physBits - 1) : 0n;
    case 'affected hosts':
      return options.l1tf && cacheBits < 52 - len ? bitRange(cacheBits - len, cacheBits - 1) : 0n;
  }
}

/**
 * Where an MMIO spte keeps gpa bits in place. Up to v4.10: every bit that is neither mark nor generation. Later: up to
 * the L1TF bits or MAXPHYADDR, less a mark that would lie there (v4.11 .. v4.20 on a 52-bit host).
 */
function lowerGfnMask(era: SpteEra, taken: bigint, l1tf: bigint, physBits: number): bigint {
  if (era.l1tf === 'no') return bitRange(12, 63) & ~taken;
  if (l1tf === 0n) return bitRange(12, physBits - 1) & ~taken;
  return bitRange(12, 51) & ((l1tf & -l1tf) - 1n);
}

const PRESENT_RULES = { 'bit 0': 0, nonzero: 1, 'bit 11': 2 } as const;

function hotMasks(l: Omit<SpteLayout, 'hot'>): SpteMasks {
  const part = (inHi: boolean) => {
    const p = l.era.mmio.gen.find((g) => g.spteLsb >= 32 === inHi);
    return Object.freeze({
      gen: p?.genLsb ?? 0,
      shift: p ? p.spteLsb - (inHi ? 32 : 0) : 0,
      mask: p ? 2 ** p.width - 1 : 0,
    });
  };
  return Object.freeze({
    presentRule: PRESENT_RULES[l.era.present],
    mmioEnabled: l.mmio.enabled,
    mmioAccessMask: l.mmio.accessMask,
    genMask: l.mmio.genMask,
    genLo: part(false),
    genHi: part(true),
    adShift: l.era.adType ? l.era.adType.lsb - 32 : 0,
    present: toPair(l.present),
    user: toPair(l.user),
    x: toPair(l.x),
    xu: toPair(l.xu),
    nx: toPair(l.nx),
    write: toPair(l.write),
    accessed: toPair(l.accessed),
    dirty: toPair(l.dirty),
    accTrack: toPair(l.accTrack),
    memtype: toPair(l.memtype),
    mmuPresent: toPair(l.mmuPresent),
    hostWritable: toPair(l.hostWritable),
    mmuWritable: toPair(l.mmuWritable),
    adType: toPair(l.adType),
    large: toPair(l.large),
    address: toPair(l.address),
    mmioMask: toPair(l.mmio.mask),
    mmioMatch: toPair(l.mmio.match),
    mmioValue: toPair(l.mmio.value),
    nonpresentOrRsvd: toPair(l.nonpresentOrRsvd),
    lowerGfn: toPair(l.lowerGfn),
    nonpresentValue: toPair(l.nonpresentValue),
    frozenValue: toPair(l.frozenValue ?? 0n),
    spp: toPair(l.spp),
  });
}
