/**
 * What the fields of the role unions mean, said once because it does not move with a field, and the making of a layout from a table of
 * [field, lowest bit, width].
 */
import type { KernelRange, PatchSet } from './kernels';
import { rangeText } from './kernels';
import { ACCESS_3, ACCESS_4, pageRoleText } from './role-text';
import type { WordField, WordLayout } from './word';

/** A role layout and the kernels that use it. */
export interface RoleEra {
  readonly layout: WordLayout;
  readonly ranges: readonly KernelRange[];
  /** Patch sets that use it in place of their base release's. */
  readonly patchSets?: readonly PatchSet[];
}

type Row = readonly [name: string, lsb: number, width: number];
type About = Omit<WordField, 'name' | 'lsb' | 'width'>;

const LEVELS = { 0: 'paging off', 1: 'PT, 4K leaves', 2: 'PD, 2M', 3: 'PDPT, 1G', 4: 'PML4', 5: 'PML5' };
const MEANINGS: Readonly<Record<string, About>> = {
  level: {
    meaning: 'Paging level of the table this page is; in cpu_role.base the paging level of the guest.',
    values: LEVELS,
    from: 'CR0.PG, CR4.PAE, EFER.LMA, CR4.LA57 (cpu_role); EPT/NPT depth (root_role)',
  },
  cr4_pae: {
    meaning: 'Guest entries are 8 bytes wide. A page lookup forces it to 0 for direct pages.',
    from: 'CR4.PAE',
  },
  gpte_is_8_bytes: {
    meaning: 'Guest entries are 8 bytes wide (cr4_pae renamed). Set in TDP roots too.',
    from: 'CR4.PAE, or direct',
  },
  has_4_byte_gpte: {
    meaning: 'Guest entries are 4 bytes wide: the opposite of cr4_pae and gpte_is_8_bytes.',
    from: 'CR0.PG && !CR4.PAE',
  },
  quadrant: {
    meaning: 'Which part of a table of 4-byte guest entries this page covers: level 1 0..1, level 2 0..3, else 0.',
    from: 'faulting address, 32-bit guests',
  },
  pad_for_nice_hex_output: { meaning: 'Padding, always 0.' },
  direct: {
    meaning: 'Maps a linear range of gfns: TDP, guest paging off, or the inside of a guest large page. No guest table.',
    from: 'TDP, or CR0.PG=0',
  },
  access: {
    meaning: 'Access inherited from the tables above: EXEC=1, WRITE=2, USER=4 (READ when it shadows EPT).',
    values: { ...ACCESS_3 },
    from: 'AND of the guest entries above',
  },
  invalid: {
    meaning: 'Zapped but still referenced as a root. Never matches a lookup.',
    from: 'kvm_mmu_prepare_zap_page',
  },
  nxe: { meaning: 'EFER.NX: bit 63 of an entry is NX, not reserved.', from: 'EFER.NX' },
  efer_nx: {
    meaning: 'EFER.NX. Always 1 in root roles of TDP and, from v5.18, of shadow paging: the host runs with NX.',
    from: 'EFER.NX (cpu_role); 1 (root_role)',
  },
  cr0_wp: { meaning: 'CR0.WP: supervisor writes respect read-only pages.', from: 'CR0.WP' },
  smep_andnot_wp: {
    meaning: 'A supervisor write to a read-only user page gets an spte with U=0 W=1, which must then be NX as well.',
    from: 'CR4.SMEP && !CR0.WP',
  },
  smap_andnot_wp: {
    meaning: 'The same U=0 spte must not be reused once SMAP is on.',
    from: 'CR4.SMAP && !CR0.WP',
  },
  ad_disabled: {
    meaning: 'The sptes of this page do not use hardware accessed/dirty bits.',
    from: "EPT without A/D, or bit 6 of L1's EPTP clear",
  },
  guest_mode: { meaning: 'Made while the vCPU ran L2.', from: 'is_guest_mode(vcpu)' },
  passthrough: {
    meaning:
      'Nothing in the guest behind it though direct=0: the extra top level of a 5-level host NPT over a 4-level one.',
    from: 'NPT level 5 shadows level 4',
  },
  is_mirror: { meaning: "Belongs to the mirror of a TDX VM's private page table.", from: 'TDX private memory' },
  spp: { meaning: 'A table of the sub-page permission table (SPPT), not of EPT.', from: 'kvm_mmu_get_spp_page' },
  smm: {
    meaning:
      'Address space of the memslots it was built from; a whole byte, so role.word >> 24 is the address-space id.',
    values: { 0: 'address space 0', 1: 'address space 1, SMM' },
    from: 'is_smm(vcpu)',
  },

  valid: { meaning: 'The role has been computed. KVM_SET_CPUID clears it so that the next comparison fails.' },
  execonly: { meaning: 'Shadow EPT: L1 may use execute-only entries.', from: 'IA32_VMX_EPT_VPID_CAP bit 0' },
  cr0_pg: { meaning: 'CR0.PG. From v5.19 base.level != 0 says it.', from: 'CR0.PG' },
  cr4_pse: { meaning: 'CR4.PSE: 4M pages in 32-bit paging.', from: 'CR4.PSE' },
  cr4_pke: { meaning: 'Protection keys (from v5.14 only in long mode).', from: 'CR4.PKE && EFER.LMA' },
  cr4_smap: { meaning: 'CR4.SMAP.', from: 'CR4.SMAP' },
  cr4_smep: { meaning: 'CR4.SMEP.', from: 'CR4.SMEP' },
  cr4_la57: { meaning: '5-level paging (from v5.14 only in long mode).', from: 'CR4.LA57 && EFER.LMA' },
  maxphyaddr: {
    meaning: 'Guest MAXPHYADDR, so that a new CPUID rebuilds the masks of reserved bits.',
    from: 'CPUID.80000008H:EAX[7:0]',
  },
  efer_lma: { meaning: 'EFER.LMA: long mode.', from: 'EFER.LMA' },
  has_pferr_fetch: {
    meaning: 'The guest #PF error code reports bit 4 (instruction fetch).',
    from: 'EFER.NX || CR4.SMEP',
  },
};

const EXT_CR4_PAE: About = { meaning: 'CR4.PAE. From v5.19 !base.has_4_byte_gpte says it.', from: 'CR4.PAE' };
const ACCESS_4_BITS: About = {
  meaning: 'Access inherited from the tables above: READ=1, WRITE=2, USER=4 (USER_EXEC on EPT), EXEC=8.',
  values: { ...ACCESS_4 },
  from: 'AND of the guest entries above',
};
const BASE_CR4_SMEP: About = {
  meaning: 'CR4.SMEP for shadow paging; for TDP, the format tells user from supervisor execution.',
  from: 'CR4.SMEP (cpu_role); EPT MBEC or NPT GMET (root_role)',
};

const OWN_MEANING: Readonly<Record<string, Readonly<Record<string, About>>>> = {
  'kvm_mmu_page_role@v7.2': { access: ACCESS_4_BITS, cr4_smep: BASE_CR4_SMEP },
};

function about(id: string, word: string, name: string): About {
  if (word === 'kvm_mmu_extended_role' && name === 'cr4_pae') return EXT_CR4_PAE;
  return OWN_MEANING[id]?.[name] ?? MEANINGS[name];
}

type Word = 'kvm_mmu_page_role' | 'kvm_mmu_extended_role';
/** One layout as it is written down. */
interface Table {
  readonly era: string;
  readonly ranges: readonly KernelRange[];
  readonly patchSets?: readonly PatchSet[];
  /** How it is known. */
  readonly checked: string;
  readonly notes?: readonly string[];
  readonly fields: readonly Row[];
}

function era(word: Word, table: Table): RoleEra {
  const id = `${word}@${table.era}`;
  const fields = table.fields.map(([name, lsb, width]) => ({ name, lsb, width, ...about(id, word, name) }));
  const kernels = [...table.ranges.map(rangeText), ...(table.patchSets ?? [])].join(', ');
  const layout: WordLayout = {
    id,
    word,
    title: `union ${word} (${kernels})`,
    size: 32,
    kernels,
    source: `arch/x86/include/asm/kvm_host.h, union ${word}: ${table.checked}`,
    fields,
    notes: table.notes,
    summarize: word === 'kvm_mmu_page_role' ? (field) => pageRoleText({ fields }, field) : undefined,
  };
  return { layout, ranges: table.ranges, patchSets: table.patchSets };
}

/** Layout and kernels of a table of union kvm_mmu_page_role. */
export const pageRole = (table: Table) => era('kvm_mmu_page_role', table);
/** Layout and kernels of a table of union kvm_mmu_extended_role. */
export const extRole = (table: Table) => era('kvm_mmu_extended_role', table);
