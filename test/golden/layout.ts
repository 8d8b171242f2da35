/**
 * The small world in which random operations run: which guest-physical pages there are, which of them hold page tables, and which
 * linear addresses are looked at. Small on purpose: operations that meet in the same few pages find what operations far apart never do.
 */
import { kernelCaps } from '../../src/kvm/eras';
import type { MachineConfig } from '../../src/kvm/machine';
import { parseKernel } from '../../src/words/kernels';

/** Paging modes of the guest. */
export type GuestMode = '32' | 'pae' | '4level' | '5level';

/** One combination of machine and guest. */
export interface GoldenConfig {
  readonly name: string;
  readonly machine: Partial<MachineConfig>;
  readonly guest: GuestMode;
}

const FEATURES = ['nx', 'lm', 'smep', 'smap', 'pdpe1gb', 'pcid', 'invpcid', 'pse36'];
const TDP_FEATURES = [...FEATURES, 'pku'];

const ept = (over: Partial<MachineConfig> = {}): Partial<MachineConfig> => ({
  vendor: 'intel',
  paging: 'ept',
  features: TDP_FEATURES,
  ...over,
});
const npt = (over: Partial<MachineConfig> = {}): Partial<MachineConfig> => ({
  vendor: 'amd',
  paging: 'npt',
  features: TDP_FEATURES,
  ...over,
});
const shadow = (vendor: 'intel' | 'amd', over: Partial<MachineConfig> = {}): Partial<MachineConfig> => ({
  vendor,
  paging: 'shadow',
  features: FEATURES,
  ...over,
});
const LA57 = { features: [...FEATURES, 'la57'] };

/** Every mode that random operations run in. */
export const CONFIGS: readonly GoldenConfig[] = [
  { name: 'ept-tdp', machine: ept(), guest: '4level' },
  { name: 'ept-tdp-pae', machine: ept(), guest: 'pae' },
  { name: 'ept-tdp-32', machine: ept(), guest: '32' },
  { name: 'ept-tdp-5level', machine: ept(LA57), guest: '5level' },
  { name: 'ept-tdp-nx-huge', machine: ept({ nx_huge_pages: true, eager_page_split: false }), guest: '4level' },
  { name: 'ept-tdp-manual-dirty', machine: ept({ dirtyLogManualProtect: true, dirtyLogInitiallySet: true }), guest: '4level' },
  { name: 'ept-tdp-no-ad', machine: ept({ ept_ad: false }), guest: '4level' },
  { name: 'ept-legacy', machine: ept({ tdp_mmu: false }), guest: '4level' },
  { name: 'ept-legacy-no-ad-l1tf', machine: ept({ tdp_mmu: false, ept_ad: false, l1tf: true }), guest: 'pae' },
  { name: 'npt-tdp', machine: npt(), guest: '4level' },
  { name: 'npt-tdp-32', machine: npt(), guest: '32' },
  { name: 'npt-tdp-no-mmio-caching', machine: npt({ mmio_caching: false }), guest: '4level' },
  { name: 'npt-legacy', machine: npt({ tdp_mmu: false }), guest: '4level' },
  { name: 'npt-legacy-pae', machine: npt({ tdp_mmu: false, dirtyLogManualProtect: true }), guest: 'pae' },
  { name: 'shadow-intel', machine: shadow('intel'), guest: '4level' },
  { name: 'shadow-intel-pae', machine: shadow('intel'), guest: 'pae' },
  { name: 'shadow-intel-32', machine: shadow('intel', { mmio_caching: false }), guest: '32' },
  { name: 'shadow-amd', machine: shadow('amd'), guest: '4level' },
  { name: 'shadow-amd-pae', machine: shadow('amd', { nx_huge_pages: true }), guest: 'pae' },
  { name: 'shadow-amd-32', machine: shadow('amd', { dirtyLogManualProtect: true }), guest: '32' },
  { name: 'shadow-amd-5level', machine: shadow('amd', { ...LA57, host_levels: 5 }), guest: '5level' },
  // Page-modification logging, both MMUs.
  { name: 'ept-tdp-pml', machine: ept({ pml: true }), guest: '4level' },
  { name: 'ept-legacy-pml', machine: ept({ tdp_mmu: false, pml: true }), guest: 'pae' },
  // Sub-page permissions.
  { name: 'spp-rfc-2018', machine: ept({ kernel: 'spp-rfc-2018' }), guest: '4level' },
  { name: 'spp-rfc-2018-pae', machine: ept({ kernel: 'spp-rfc-2018', pml: true }), guest: 'pae' },
  { name: 'spp-v12', machine: ept({ kernel: 'spp-v12' }), guest: '4level' },
  { name: 'spp-v12-32', machine: ept({ kernel: 'spp-v12', ept_ad: false }), guest: '32' },
  // Other kernels: without SMM, without generations, before and after each change of the MMU.
  { name: 'v3.6-ept', machine: ept({ kernel: 'v3.6' }), guest: '4level' },
  { name: 'v3.6-shadow', machine: shadow('intel', { kernel: 'v3.6' }), guest: 'pae' },
  { name: 'v3.11-shadow', machine: shadow('amd', { kernel: 'v3.11' }), guest: '4level' },
  { name: 'v4.4-ept', machine: ept({ kernel: 'v4.4' }), guest: 'pae' },
  { name: 'v4.4-shadow', machine: shadow('intel', { kernel: 'v4.4' }), guest: '32' },
  { name: 'v4.19-npt', machine: npt({ kernel: 'v4.19' }), guest: '4level' },
  { name: 'v4.20-shadow', machine: shadow('amd', { kernel: 'v4.20' }), guest: 'pae' },
  { name: 'v5.10-ept', machine: ept({ kernel: 'v5.10' }), guest: '4level' },
  { name: 'v5.10-shadow', machine: shadow('intel', { kernel: 'v5.10' }), guest: '4level' },
  { name: 'v5.15-npt', machine: npt({ kernel: 'v5.15' }), guest: 'pae' },
  { name: 'v5.17-shadow', machine: shadow('amd', { kernel: 'v5.17' }), guest: '32' },
  { name: 'v6.12-ept', machine: ept({ kernel: 'v6.12' }), guest: '4level' },
  { name: 'v6.12-npt-legacy', machine: npt({ kernel: 'v6.12', tdp_mmu: false }), guest: '32' },
  { name: 'v6.12-shadow', machine: shadow('intel', { kernel: 'v6.12' }), guest: '4level' },
  { name: 'v7.3-ept', machine: ept({ kernel: 'v7.3', ...LA57 }), guest: '5level' },
  { name: 'v7.3-shadow', machine: shadow('amd', { kernel: 'v7.3' }), guest: 'pae' },
]; // prettier-ignore

const capsOf = (config: GoldenConfig): ReturnType<typeof kernelCaps> =>
  kernelCaps(parseKernel(config.machine.kernel ?? 'v6.1'));
/** Whether a configuration has SMM: before v4.2 there was one address space. */
export const smmOf = (config: GoldenConfig): boolean => capsOf(config).addressSpaces === 2;
/** Whether it has sub-page permissions. */
export const sppOf = (config: GoldenConfig): boolean =>
  capsOf(config).spp !== 'absent' && config.machine.paging === 'ept';

export const PAGE = 4096;

/** Host memory: name, pages, made of 2M pages or not. The flat reference memory has them one after another. */
export const BACKINGS = [
  { name: 'low', pages: 64, huge: false },
  { name: 'smram', pages: 16, huge: false },
  { name: 'mid', pages: 16, huge: false },
  { name: 'rom', pages: 16, huge: false },
  { name: 'smmdev', pages: 16, huge: false },
  { name: 'big', pages: 1024, huge: true },
  { name: 'low1', pages: 48, huge: false },
  { name: 'big1', pages: 512, huge: true },
] as const;
export type BackingName = (typeof BACKINGS)[number]['name'];

/** Page tables live here: sixteen pages from this frame on. */
export const TABLE_GFN = 0x10;
export const TABLES = 16;
/** The state-save area of SMM (SMBASE 0x30000): nothing may disturb it. */
export const SAVE_GFN = 0x3f;

/** A memslot as user space describes it. */
export interface SlotSpec {
  readonly as_id: number;
  readonly id: number;
  readonly backing: BackingName;
  /** first page in the backing */
  readonly first: number;
  readonly pages: number;
  /** frames where it may lie; the first is where it begins its life */
  readonly gfns: readonly number[];
  readonly readonly: boolean;
  /** never deleted or moved: tables and the state-save area are in it */
  readonly fixed: boolean;
  readonly initially: boolean;
}

const slot = (
  as_id: number,
  id: number,
  backing: BackingName,
  first: number,
  pages: number,
  gfns: readonly number[],
  over: { readonly?: boolean; fixed?: boolean; initially?: boolean } = {},
): SlotSpec => ({
  as_id,
  id,
  backing,
  first,
  pages,
  gfns,
  readonly: over.readonly ?? false,
  fixed: over.fixed ?? false,
  initially: over.initially ?? true,
});

/**
 * The memslots of a mode. With shadow paging no page has two names: KVM tracks writes to guest tables by frame number and address space,
 * so a table that is written under another name changes unnoticed, in the kernel as here.
 */
export const slotsOf = (config: GoldenConfig): readonly SlotSpec[] => {
  const own = config.machine.paging === 'shadow';
  const all = [
    slot(0, 0, 'low', 0, 64, [0], { fixed: true }),
    // at 0x580 the frames do not lie as huge host pages do
    slot(0, 1, 'big', 0, 1024, [0x200, 0x600, 0x580]),
    slot(0, 2, 'rom', 0, 16, [0x100], { readonly: true }),
    slot(0, 3, 'mid', 0, 16, [0x80, 0x90, 0x84]),
    // a second name for the last tables and for data pages of `low`
    ...(own ? [] : [slot(0, 5, 'low', 0x1c, 16, [0xc0], { initially: false })]),
    slot(1, 0, own ? 'low1' : 'low', 0, 48, [0], { fixed: true }),
    slot(1, 1, 'smram', 0, 16, [0x30], { fixed: true }),
    own ? slot(1, 2, 'big1', 0, 512, [0x200, 0x400, 0x380]) : slot(1, 2, 'big', 512, 512, [0x200, 0x400, 0x380]),
    slot(1, 3, 'smmdev', 0, 16, [0x80, 0x100]),
    slot(1, 4, own ? 'rom' : 'mid', 0, 16, [0x90], { readonly: true, initially: false }),
  ];
  return smmOf(config) ? all : all.filter((s) => s.as_id === 0);
};

/** Frames that leaves point to: RAM, tables, read-only memory, movable memory, holes. */
export const LEAF_GFNS: readonly number[] = [
  0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x21, 0x22, 0x28, 0x2c, 0x30,
  0x10, 0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1c, 0x1d,
  0x80, 0x81, 0x84, 0x8f, 0x90, 0x91, 0x9f, 0xc0, 0xc1, 0xcf,
  0x100, 0x101, 0x10f, 0x200, 0x201, 0x3ff, 0x400, 0x5ff, 0x600, 0x7ff,
  0x700, 0xfee00, 0x12345,
]; // prettier-ignore
/** Frames whose sub-pages get permissions: data of `low`, movable memory, huge host pages. */
export const SPP_GFNS: readonly number[] = [0x00, 0x02, 0x04, 0x20, 0x21, 0x28, 0x2c, 0x80, 0x8f, 0x90, 0x200, 0x201, 0x3ff, 0x600]; // prettier-ignore
/** First frames of large pages: over everything below 2M, over huge host pages, over a hole. */
export const LARGE_GFNS: readonly number[] = [0x0, 0x200, 0x400, 0x600, 0x800];

/** Indices in use at each level, hot ones first. */
const L1 = [0, 1, 2, 3, 7, 8, 0x10, 0x14, 0x18, 0x20, 0x21, 0x80, 0x81, 0x90, 0xc0, 0x100];

export interface ModeShape {
  readonly levels: number;
  readonly entrySize: 4 | 8;
  readonly indexBits: 9 | 10;
  /** indices by level - 1 */
  readonly indices: readonly (readonly number[])[];
  /** level that each table page is meant for */
  readonly home: readonly number[];
}

export const SHAPES: Readonly<Record<GuestMode, ModeShape>> = {
  '4level': {
    levels: 4,
    entrySize: 8,
    indexBits: 9,
    indices: [L1, [0, 1, 2], [0, 1], [0, 511]],
    home: [4, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 2, 3],
  },
  '5level': {
    levels: 5,
    entrySize: 8,
    indexBits: 9,
    indices: [L1, [0, 1, 2], [0, 1], [0, 5], [0, 511]],
    home: [5, 5, 4, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 2],
  },
  pae: {
    levels: 3,
    entrySize: 8,
    indexBits: 9,
    indices: [L1, [0, 1, 2], [0, 1, 3]],
    home: [3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1],
  },
  '32': {
    levels: 2,
    entrySize: 4,
    indexBits: 10,
    indices: [
      [...L1, 0x210, 0x3ff],
      [0, 1, 2, 0x300],
    ],
    home: [2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 2],
  },
};

/** A linear page with its index at each level. */
export interface LinearPage {
  readonly gva: bigint;
  readonly lo: number;
  readonly hi: number;
  /** by level - 1 */
  readonly index: readonly number[];
  readonly canonical: boolean;
}

/** The linear pages of a mode, hot ones (first indices everywhere) at the front; the last one of 64-bit modes is not canonical. */
export function linearPages(mode: GuestMode): readonly LinearPage[] {
  const { levels, indexBits, indices } = SHAPES[mode];
  const out: LinearPage[] = [];
  const make = (index: readonly number[], canonical: boolean): LinearPage => {
    let gva = 0n;
    index.forEach((i, l) => (gva |= BigInt(i) << BigInt(12 + indexBits * l)));
    const bits = 12 + indexBits * levels;
    if (levels > 3 && canonical) gva = BigInt.asUintN(64, BigInt.asIntN(bits, gva));
    return { gva, lo: Number(gva & 0xffffffffn), hi: Number(gva >> 32n), index, canonical };
  };
  let combos: number[][] = [[]];
  for (let l = levels - 1; l >= 0; l--) combos = combos.flatMap((c) => indices[l].map((i) => [i, ...c]));
  const heat = (c: readonly number[]): number => c.reduce((sum, i, l) => sum + indices[l].indexOf(i) * (l === 0 ? 1 : 6), 0);
  combos.sort((a, b) => heat(a) - heat(b));
  for (const c of combos) out.push(make(c, true));
  if (levels > 3) out.push(make([0, 0, 0, 256, ...(levels > 4 ? [256] : [])], false));
  return out;
} // prettier-ignore
