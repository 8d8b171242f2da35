/** Where walks start: CR3, nCR3, EPTP, SPPTP. */
import { WordError, formatHex } from './address';
import type { WordField, WordLayout } from './word';

const pageAddress = (maxPhyAddr: number, meaning: string): WordField => ({
  name: 'pfn',
  lsb: 12,
  width: maxPhyAddr - 12,
  meaning,
  format: 'frame',
});

function checkWidth(maxPhyAddr: number): void {
  if (!Number.isInteger(maxPhyAddr) || maxPhyAddr < 32 || maxPhyAddr > 52) {
    throw new WordError(`maxPhyAddr cannot be ${maxPhyAddr}: a physical address has 32 to 52 bits`);
  }
}

/** EPT pointer of the VMCS. Bits at and above MAXPHYADDR and 11:8 are reserved. @throws WordError for a width not 32 .. 52. */
export function eptpLayout(maxPhyAddr = 52): WordLayout {
  checkWidth(maxPhyAddr);
  return {
    id: 'eptp',
    word: 'eptp',
    title: 'EPT pointer (EPTP)',
    size: 64,
    vendor: 'intel',
    source: 'SDM vol. 3C, extended-page-table pointer; bit 7 in recent editions',
    fields: [
      {
        name: 'memtype',
        lsb: 0,
        width: 3,
        meaning: 'Memory type of the EPT tables themselves.',
        values: { 0: 'UC', 6: 'WB' },
      },
      {
        name: 'walk_length',
        lsb: 3,
        width: 3,
        meaning: 'Page-walk length minus 1.',
        values: { 3: '4 levels', 4: '5 levels' },
      },
      { name: 'ad', lsb: 6, width: 1, meaning: 'Accessed and dirty flags for EPT.' },
      { name: 'sss', lsb: 7, width: 1, meaning: 'Access rights of supervisor shadow-stack pages are enforced.' },
      pageAddress(maxPhyAddr, 'Frame of the top EPT table.'),
    ],
    summarize: (field) => {
      const levels = field('walk_length') + 1n;
      const type =
        ({ 0: 'UC', 6: 'WB' } as Record<string, string>)[`${field('memtype')}`] ?? `memtype ${field('memtype')}`;
      const ad = field('ad') ? ' A/D' : '';
      return `${levels}-level EPT at ${formatHex(field('pfn') << 12n)} ${type}${ad}${field('sss') ? ' supervisor shadow stack' : ''}`;
    },
  };
}

/** Sub-page permission table pointer, VMCS field 0x2030. @throws WordError for a width not 32 .. 52. */
export function spptpLayout(maxPhyAddr = 52): WordLayout {
  checkWidth(maxPhyAddr);
  return {
    id: 'spptp',
    word: 'spptp',
    title: 'sub-page permission table pointer (SPPTP)',
    size: 64,
    vendor: 'intel',
    source: 'SDM vol. 3C, sub-page-permission-table pointer',
    fields: [pageAddress(maxPhyAddr, 'Frame of the level-4 SPPT table; the table always has 4 levels.')],
    summarize: (field) => `4-level SPPT at ${formatHex(field('pfn') << 12n)}`,
  };
}

/** What CR3 looks like depends on the paging mode and CR4.PCIDE. */
export type Cr3Mode = '32-bit' | 'pae' | 'long' | 'long-pcid';

const CACHE_BITS: readonly WordField[] = [
  { name: 'PWT', lsb: 3, width: 1, meaning: 'Write-through for the top table.' },
  { name: 'PCD', lsb: 4, width: 1, meaning: 'Cache disable for the top table.' },
];

/**
 * CR3 in a paging mode: `32-bit`, `pae`, `long` (4 or 5 levels), `long-pcid` (with CR4.PCIDE).
 * @throws WordError for a width not 32 .. 52
 */
export function cr3Layout(mode: Cr3Mode = 'long', maxPhyAddr = 52): WordLayout {
  checkWidth(maxPhyAddr);
  const long: readonly WordField[] = [
    pageAddress(maxPhyAddr, 'Frame of the PML4 or PML5.'),
    { name: 'LAM_U57', lsb: 61, width: 1, meaning: 'Linear-address masking: user pointers of 57 bits.' },
    { name: 'LAM_U48', lsb: 62, width: 1, meaning: 'Linear-address masking: user pointers of 48 bits.' },
  ];
  const fields: Record<Cr3Mode, readonly WordField[]> = {
    '32-bit': [...CACHE_BITS, { ...pageAddress(32, 'Frame of the page directory.') }],
    pae: [{ name: 'pdpt', lsb: 5, width: 27, meaning: 'Bits 31:5 of the address of the four PDPTEs.', format: 'hex' }],
    long: [...CACHE_BITS, ...long],
    'long-pcid': [
      { name: 'PCID', lsb: 0, width: 12, meaning: 'Process-context identifier.', format: 'hex' },
      ...long,
      { name: 'NOFLUSH', lsb: 63, width: 1, meaning: 'In a MOV to CR3: keep the translations of this PCID.' },
    ],
  };
  return {
    id: `cr3/${mode}`,
    word: 'cr3',
    title: `CR3, ${mode} paging`,
    size: 64,
    source: 'SDM vol. 3A, 4.3, 4.4.1, 4.5.2; linear-address masking in recent editions',
    fields: fields[mode],
    notes: mode === 'pae' ? ['Bits 4:0 and 63:32 are ignored.'] : undefined,
    summarize: (field) => {
      const root = mode === 'pae' ? field('pdpt') << 5n : field('pfn') << 12n;
      const more = fields[mode].slice(mode === 'pae' ? 1 : 0).filter((f) => f.name !== 'pfn' && field(f.name) !== 0n);
      const text = more.map((f) => (f.width === 1 ? f.name : `${f.name} ${formatHex(field(f.name))}`));
      return [`${mode === 'pae' ? 'PDPTEs' : 'top table'} at ${formatHex(root)}`, ...text].join(' ');
    },
  };
}

/** nCR3 of the VMCB: where nested page tables start. Its format is that of CR3 in the host's paging mode. */
export function ncr3Layout(maxPhyAddr = 52): WordLayout {
  checkWidth(maxPhyAddr);
  return {
    id: 'ncr3',
    word: 'ncr3',
    title: 'nested CR3 (nCR3)',
    size: 64,
    vendor: 'amd',
    source: 'APM vol. 2, 15.25.3 nested paging',
    fields: [...CACHE_BITS, pageAddress(maxPhyAddr, 'Frame of the top nested table.')],
    summarize: (field) => `nested tables at ${formatHex(field('pfn') << 12n)}`,
  };
}
