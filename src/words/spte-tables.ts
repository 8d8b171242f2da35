/**
 * How KVM lays out shadow PTEs, per era and paging type: the raw facts, before a host's address width, L1TF and module
 * parameters are known (sptes.ts resolves those). `ept` is Intel's EPT format, for direct TDP and shadow EPT alike;
 * `legacy` is the x86 long-mode and PAE format, for NPT, shadow NPT and classic shadow paging.
 */
import type { KernelRange } from './kernels';

export type PagingType = 'ept' | 'legacy';

/** One piece of the generation stored in an MMIO spte: generation bits genLsb.. go to spte bits spteLsb... */
export interface GenPart {
  readonly genLsb: number;
  readonly spteLsb: number;
  readonly width: number;
}

/** How an era finds the reserved bits of a legacy MMIO spte from the host's MAXPHYADDR N. */
export type LegacyMmioRule =
  /** Bits N..62 and bit 0 (bit 0 not on a 52-bit host): v3.1 .. v3.10. */
  | 'N..62'
  /** Bits N..51, 63:62 and bit 0 (bit 0 not on a 52-bit host): v3.11 .. v4.10. */
  | 'N..51+63:62'
  /** Bit 51 and bit 0 beside the mark; mask and value lose bit 0 on a 52-bit host: v4.11 .. v4.20. */
  | 'bit 51, P dropped at 52'
  /** Bit 51 and bit 0; only the value loses them on a 52-bit host: v5.0 .. v5.7. */
  | 'bit 51, value drops both at 52'
  /** Bit 51 and bit 0 in the value alone, and neither on a 52-bit host: v5.8 .. v5.12. */
  | 'bit 51 in the value, neither at 52'
  /** Bit 51 and bit 0, caching off on a 52-bit host; bits above the encryption bit with SME: v5.13+. */
  | 'bit 51, off at 52';

export interface SpteEra {
  /** `v6.1`. */
  readonly era: string;
  readonly pagingType: PagingType;
  readonly ranges: readonly KernelRange[];
  readonly source: string;
  readonly checked: string;
  readonly notes: readonly string[];
  /** What makes an spte shadow-present, besides not being an MMIO spte. */
  readonly present: 'bit 0' | 'nonzero' | 'bit 11';
  readonly masks: {
    readonly present: bigint;
    readonly user: bigint;
    readonly x: bigint;
    readonly xu: bigint;
    readonly nx: bigint;
    readonly accessed: bigint;
    readonly dirty: bigint;
    readonly accTrack: bigint;
    readonly memtype: bigint;
  };
  readonly hostWritableBit: number;
  /** Null before the bit existed. */
  readonly mmuWritableBit: number | null;
  readonly adType: {
    readonly lsb: number;
    readonly width: number;
    readonly values: Readonly<Record<number, string>>;
  } | null;
  /** Where R and X (and XU) go while the spte is access-tracked: saved = (spte & savedBits) << shift. */
  readonly accTrackSaved: { readonly shift: number; readonly savedBits: bigint } | null;
  readonly mmio: {
    /** Fixed for EPT; the legacy rule's fixed part (the mark of the era). */
    readonly mask: bigint;
    readonly value: bigint;
    readonly legacyRule: LegacyMmioRule | null;
    /** Access bits that an MMIO spte keeps (WRITE=2, USER=4); 0: none. */
    readonly accessMask: number;
    readonly genBits: number;
    readonly gen: readonly GenPart[];
  };
  /** Which hosts set the address bits of non-present sptes that L1TF would leak through. */
  readonly l1tf: 'no' | 'narrow hosts' | 'affected hosts';
  readonly nonpresentValue: bigint;
  readonly frozen: { readonly value: bigint; readonly name: string } | null;
}

const NO_MASKS = { xu: 0n, memtype: 0n, accTrack: 0n };
/** VMX: R and W and X have fixed places, A and D are 8 and 9, memory type and IPAT 6:3. */
const EPT = { ...NO_MASKS, present: 0x1n, user: 0n, x: 0x4n, nx: 0n, accessed: 0x100n, dirty: 0x200n };
/** From the TDP A/D rework the readable bit stands for USER, and access tracking clears RWX. */
const EPT_TRACKED = { ...EPT, user: 0x1n, accTrack: 0x7n };
const LEGACY = { ...NO_MASKS, present: 0x1n, user: 0x4n, x: 0n, nx: 1n << 63n, accessed: 0x20n, dirty: 0x40n };

const EPT_TOGGLES = 'Accessed and dirty masks are 0 without EPT A/D bits (kvm_intel.eptad=0).';
const EXEC_ONLY = 'The R bit leaves the present mask if the processor has execute-only EPT.';

const SPECIAL_1: SpteEra['adType'] = {
  lsb: 62,
  width: 1,
  values: { 0: 'A/D enabled', 1: 'A/D disabled (SPTE_SPECIAL_MASK; together with the MMIO value it marks MMIO)' },
};
const SPECIAL_1_V5: SpteEra['adType'] = { lsb: 62, width: 1, values: { 0: 'A/D enabled', 1: 'A/D disabled' } };
const AD_VALUES = { 0: 'A/D enabled', 1: 'A/D disabled', 2: 'A/D enabled, write-protect for PML (L2)' };

const GEN_NONE = { genBits: 0, gen: [] };
const GEN_19_V3 = {
  genBits: 19,
  gen: [
    { genLsb: 0, spteLsb: 3, width: 9 },
    { genLsb: 9, spteLsb: 52, width: 10 },
  ],
};
/** Bit 0 is the update-in-progress marker and is never stored: a stored generation is even. */
const GEN_20 = {
  genBits: 20,
  gen: [
    { genLsb: 1, spteLsb: 3, width: 9 },
    { genLsb: 10, spteLsb: 52, width: 10 },
  ],
};
/** Both parts start at generation bit 0: the high part was not shifted by the width of the low one. */
const GEN_TWICE = {
  genBits: 19,
  gen: [
    { genLsb: 0, spteLsb: 3, width: 9 },
    { genLsb: 0, spteLsb: 52, width: 10 },
  ],
};
const GEN_18_V5 = {
  genBits: 18,
  gen: [
    { genLsb: 0, spteLsb: 3, width: 9 },
    { genLsb: 9, spteLsb: 54, width: 9 },
  ],
};
const GEN_19 = {
  genBits: 19,
  gen: [
    { genLsb: 0, spteLsb: 3, width: 8 },
    { genLsb: 8, spteLsb: 52, width: 11 },
  ],
};
const GEN_18_V7 = {
  genBits: 18,
  gen: [
    { genLsb: 0, spteLsb: 3, width: 7 },
    { genLsb: 7, spteLsb: 52, width: 11 },
  ],
};
const GEN_TWICE_NOTE =
  'These releases store generation bits 0..9 in the high part too and OR both parts when reading: a generation above 1023 never matches.';

const V3_1 = {
  era: 'v3.1',
  ranges: [{ from: 'v3.1', to: 'v3.5' }],
  source: 'arch/x86/kvm/mmu.c, vmx.c ept_set_mmio_spte_mask, x86.c kvm_set_mmio_spte_mask',
  checked: 'the patches that add MMIO sptes; unchanged parts in v3.6',
  present: 'bit 0',
  hostWritableBit: 9,
  mmuWritableBit: null,
  adType: null,
  accTrackSaved: null,
  l1tf: 'no',
  nonpresentValue: 0n,
  frozen: null,
} as const;
const V3_6 = {
  ...V3_1,
  era: 'v3.6',
  ranges: [{ from: 'v3.6', to: 'v3.10' }],
  source: 'arch/x86/kvm/mmu.c, vmx.c, x86.c',
  checked: 'v3.6 read',
  hostWritableBit: 10,
  mmuWritableBit: 11,
} as const;
const V3_11 = {
  ...V3_6,
  era: 'v3.11',
  ranges: [{ from: 'v3.11', to: 'v3.17' }],
  source: 'arch/x86/kvm/mmu.c generation_mmio_spte_mask, mark_mmio_spte; vmx.c ept_set_mmio_spte_mask; x86.c',
  checked: 'v3.11 read; upper bound not verified',
} as const;
const V4_1 = {
  ...V3_11,
  era: 'v4.1',
  ranges: [{ from: 'v3.18', to: 'v4.10' }],
  checked: 'v4.1.15 and v4.4.179 read; lower bound (v3.18 or v4.0) not verified',
} as const;
const V4_19 = {
  ...V4_1,
  era: 'v4.19',
  ranges: [{ from: 'v4.11', to: 'v4.20' }],
  source: 'arch/x86/kvm/mmu.c; vmx.c vmx_enable_tdp, ept_set_mmio_spte_mask',
  checked: 'v4.19 read; v4.11 .. v4.18 not verified (L1TF bits from v4.19 and stable releases of that time)',
  present: 'nonzero',
  l1tf: 'narrow hosts',
} as const;
const V5_0 = {
  ...V4_19,
  era: 'v5.0',
  ranges: [{ from: 'v5.0', to: 'v5.7' }],
  source: 'patches "Explicitly define the memslot update in-progress bit" and the later MMIO generation fix',
  checked: 'patch text only; the two-bit SPTE_SPECIAL mask came within the range (v5.4), not modelled',
  l1tf: 'affected hosts',
} as const;
const V5_10 = {
  ...V5_0,
  era: 'v5.10',
  ranges: [{ from: 'v5.8', to: 'v5.12' }],
  source: 'arch/x86/kvm/mmu/spte.h, spte.c; vmx/vmx.c vmx_enable_tdp; mmu/mmu.c kvm_set_mmio_spte_mask',
  checked: 'v5.10.262 read',
  adType: { lsb: 52, width: 2, values: { ...AD_VALUES, 3: 'MMIO SPTE' } },
} as const;
const V6_1 = {
  ...V5_10,
  era: 'v6.1',
  ranges: [{ from: 'v5.13', to: 'v6.8' }],
  source: 'arch/x86/kvm/mmu/spte.h, spte.c',
  checked: 'v5.14-rc7 and v6.1.192 read; upper bound not verified',
  present: 'bit 11',
  adType: { lsb: 52, width: 2, values: AD_VALUES },
  frozen: { value: 0x5a0n, name: 'REMOVED_SPTE' },
} as const;
const V6_12 = {
  ...V6_1,
  era: 'v6.12',
  ranges: [{ from: 'v6.9', to: 'v7.1' }],
  checked: 'v6.12.107 read; lower bound (v6.9 or v6.10) and v6.13 .. v7.1 not verified',
  nonpresentValue: 1n << 63n,
  frozen: { value: (1n << 63n) | 0x5a0n, name: 'FROZEN_SPTE' },
} as const;
const V7_2 = {
  ...V6_12,
  era: 'v7.2',
  ranges: [{ from: 'v7.2', to: 'v7.3' }],
  checked: 'v7.2.13 and v7.3.4 read',
  adType: { lsb: 60, width: 2, values: AD_VALUES },
  frozen: { value: (1n << 63n) | 0x1a0n, name: 'FROZEN_SPTE' },
} as const;

const V3_EPT_MARK = 0x01fe_0000_0000_0006n;
const V3_11_EPT_MARK = 0xc000_0000_0000_0006n;

/** Every spte layout, oldest first. A kernel uses the last one of its paging type that covers it. */
export const SPTE_ERAS: readonly SpteEra[] = [
  {
    ...V3_1,
    pagingType: 'ept',
    notes: ['Place of the host-writable bit not verified.'],
    masks: { ...EPT, accessed: 0n, dirty: 0n },
    mmio: { mask: V3_EPT_MARK, value: V3_EPT_MARK, legacyRule: null, accessMask: 6, ...GEN_NONE },
  },
  {
    ...V3_1,
    pagingType: 'legacy',
    notes: ['Place of the host-writable bit not verified.'],
    masks: LEGACY,
    mmio: { mask: 0n, value: 0n, legacyRule: 'N..62', accessMask: 6, ...GEN_NONE },
  },
  {
    ...V3_6,
    pagingType: 'ept',
    notes: [EPT_TOGGLES],
    masks: EPT,
    mmio: { mask: V3_EPT_MARK, value: V3_EPT_MARK, legacyRule: null, accessMask: 6, ...GEN_NONE },
  },
  {
    ...V3_6,
    pagingType: 'legacy',
    notes: [],
    masks: LEGACY,
    mmio: { mask: 0n, value: 0n, legacyRule: 'N..62', accessMask: 6, ...GEN_NONE },
  },
  {
    ...V3_11,
    pagingType: 'ept',
    notes: [EPT_TOGGLES, 'Access cannot be read back: bits 1 and 2 belong to the mark.'],
    masks: EPT,
    mmio: { mask: V3_11_EPT_MARK, value: V3_11_EPT_MARK, legacyRule: null, accessMask: 6, ...GEN_19_V3 },
  },
  {
    ...V3_11,
    pagingType: 'legacy',
    notes: [],
    masks: LEGACY,
    mmio: { mask: 0n, value: 0n, legacyRule: 'N..51+63:62', accessMask: 6, ...GEN_19_V3 },
  },
  {
    ...V4_1,
    pagingType: 'ept',
    notes: [EPT_TOGGLES, 'Access cannot be read back: bits 1 and 2 belong to the mark.'],
    masks: EPT,
    mmio: { mask: V3_11_EPT_MARK, value: V3_11_EPT_MARK, legacyRule: null, accessMask: 6, ...GEN_20 },
  },
  {
    ...V4_1,
    pagingType: 'legacy',
    notes: [],
    masks: LEGACY,
    mmio: { mask: 0n, value: 0n, legacyRule: 'N..51+63:62', accessMask: 6, ...GEN_20 },
  },
  {
    ...V4_19,
    pagingType: 'ept',
    notes: [EPT_TOGGLES, EXEC_ONLY],
    masks: EPT_TRACKED,
    adType: SPECIAL_1,
    accTrackSaved: { shift: 52, savedBits: 0b101n },
    mmio: { mask: (1n << 62n) | 0x7n, value: (1n << 62n) | 0x6n, legacyRule: null, accessMask: 6, ...GEN_20 },
  },
  {
    ...V4_19,
    pagingType: 'legacy',
    notes: [],
    masks: LEGACY,
    adType: SPECIAL_1,
    mmio: { mask: 1n << 62n, value: 1n << 62n, legacyRule: 'bit 51, P dropped at 52', accessMask: 6, ...GEN_20 },
  },
  {
    ...V5_0,
    pagingType: 'ept',
    notes: [EPT_TOGGLES, EXEC_ONLY, GEN_TWICE_NOTE],
    masks: EPT_TRACKED,
    adType: SPECIAL_1_V5,
    accTrackSaved: { shift: 52, savedBits: 0b101n },
    mmio: { mask: (1n << 62n) | 0x7n, value: (1n << 62n) | 0x6n, legacyRule: null, accessMask: 0, ...GEN_TWICE },
  },
  {
    ...V5_0,
    pagingType: 'legacy',
    notes: [GEN_TWICE_NOTE],
    masks: LEGACY,
    adType: SPECIAL_1_V5,
    mmio: {
      mask: 1n << 62n,
      value: 1n << 62n,
      legacyRule: 'bit 51, value drops both at 52',
      accessMask: 6,
      ...GEN_TWICE,
    },
  },
  {
    ...V5_10,
    pagingType: 'ept',
    notes: [EPT_TOGGLES, EXEC_ONLY, 'Only bits 53:52 are compared to recognise an MMIO spte.'],
    masks: EPT_TRACKED,
    accTrackSaved: { shift: 54, savedBits: 0b101n },
    mmio: { mask: 3n << 52n, value: (3n << 52n) | 0x6n, legacyRule: null, accessMask: 0, ...GEN_18_V5 },
  },
  {
    ...V5_10,
    pagingType: 'legacy',
    notes: ['Only bits 53:52 are compared to recognise an MMIO spte.'],
    masks: LEGACY,
    mmio: {
      mask: 3n << 52n,
      value: 3n << 52n,
      legacyRule: 'bit 51 in the value, neither at 52',
      accessMask: 6,
      ...GEN_18_V5,
    },
  },
  {
    ...V6_1,
    pagingType: 'ept',
    notes: [EPT_TOGGLES, EXEC_ONLY],
    masks: { ...EPT_TRACKED, memtype: 0x78n },
    hostWritableBit: 57,
    mmuWritableBit: 58,
    accTrackSaved: { shift: 54, savedBits: 0b101n },
    mmio: { mask: 0x7n, value: 0x6n, legacyRule: null, accessMask: 0, ...GEN_19 },
  },
  {
    ...V6_1,
    pagingType: 'legacy',
    notes: [],
    masks: LEGACY,
    hostWritableBit: 9,
    mmuWritableBit: 10,
    mmio: { mask: 0n, value: 0n, legacyRule: 'bit 51, off at 52', accessMask: 6, ...GEN_19 },
  },
  {
    ...V6_12,
    pagingType: 'ept',
    notes: [
      EPT_TOGGLES,
      EXEC_ONLY,
      'From v6.13 (not verified) the A/D masks stay set without EPT A/D, as software bits.',
    ],
    masks: { ...EPT_TRACKED, present: (1n << 63n) | 0x1n, memtype: 0x78n },
    hostWritableBit: 57,
    mmuWritableBit: 58,
    accTrackSaved: { shift: 54, savedBits: 0b101n },
    mmio: { mask: (1n << 63n) | 0x7n, value: 0x6n, legacyRule: null, accessMask: 0, ...GEN_19 },
  },
  {
    ...V6_12,
    pagingType: 'legacy',
    notes: [],
    masks: LEGACY,
    hostWritableBit: 9,
    mmuWritableBit: 10,
    mmio: { mask: 0n, value: 0n, legacyRule: 'bit 51, off at 52', accessMask: 6, ...GEN_19 },
  },
  {
    ...V7_2,
    pagingType: 'ept',
    notes: [
      'R comes from ACC_READ; the present mask is suppress-#VE alone.',
      'The A/D masks are always set, and are software bits when A/D is off; D is set whenever W is.',
    ],
    masks: { ...EPT_TRACKED, present: 1n << 63n, user: 0n, xu: 0x400n, accTrack: 0x407n, memtype: 0x78n },
    hostWritableBit: 53,
    mmuWritableBit: 55,
    accTrackSaved: { shift: 52, savedBits: 0x405n },
    mmio: { mask: (1n << 63n) | 0x7n, value: 0x6n, legacyRule: null, accessMask: 0, ...GEN_18_V7 },
  },
  {
    ...V7_2,
    pagingType: 'legacy',
    notes: ['Bit 0 comes from the present mask and from ACC_READ.'],
    masks: LEGACY,
    hostWritableBit: 9,
    mmuWritableBit: 10,
    mmio: { mask: 0n, value: 0n, legacyRule: 'bit 51, off at 52', accessMask: 6, ...GEN_18_V7 },
  },
];
