/**
 * Every layout of union kvm_mmu_page_role and union kvm_mmu_extended_role (arch/x86/include/asm/kvm_host.h), one table
 * each, oldest first. KVM compares whole words when it looks a shadow page up, so bits in no field must be 0.
 *
 * Rows are [field, lowest bit, width]; what a field means is said once, in MEANINGS, because it does not move with it.
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

const pageRole = (table: Table) => era('kvm_mmu_page_role', table);
const extRole = (table: Table) => era('kvm_mmu_extended_role', table);

/** union kvm_mmu_page_role: identity of a shadow page together with its gfn, and `.base` of the 64-bit roles. */
export const PAGE_ROLES: readonly RoleEra[] = [
  pageRole({
    era: 'v3.6',
    ranges: [{ from: 'v3.1', to: 'v4.0' }],
    patchSets: ['seed2'],
    checked: 'v3.6 and v3.11 read',
    notes: ['v3.1 .. v3.5 and the last release before smap_andnot_wp (v3.14 .. v4.0) are not verified.'],
    fields: [
      ['level', 0, 4],
      ['cr4_pae', 4, 1],
      ['quadrant', 5, 2],
      ['pad_for_nice_hex_output', 7, 6],
      ['direct', 13, 1],
      ['access', 14, 3],
      ['invalid', 17, 1],
      ['nxe', 18, 1],
      ['cr0_wp', 19, 1],
      ['smep_andnot_wp', 20, 1],
    ],
  }),
  pageRole({
    era: 'v4.1',
    ranges: [{ from: 'v4.1', to: 'v4.1' }],
    checked: 'v4.1.15 read; it is the "-" side of the patch that adds smm',
    notes: ['One address space: there is no smm field.'],
    fields: [
      ['level', 0, 4],
      ['cr4_pae', 4, 1],
      ['quadrant', 5, 2],
      ['pad_for_nice_hex_output', 7, 6],
      ['direct', 13, 1],
      ['access', 14, 3],
      ['invalid', 17, 1],
      ['nxe', 18, 1],
      ['cr0_wp', 19, 1],
      ['smep_andnot_wp', 20, 1],
      ['smap_andnot_wp', 21, 1],
    ],
  }),
  pageRole({
    era: 'v4.2',
    ranges: [{ from: 'v4.2', to: 'v4.12' }],
    patchSets: ['seed0', 'seed3'],
    checked: 'v4.4.179 read; it is the "+" side of the patch that adds smm',
    notes: ['The padding went, direct and what follows moved down by 6 bits, smm came as a byte of its own.'],
    fields: [
      ['level', 0, 4],
      ['cr4_pae', 4, 1],
      ['quadrant', 5, 2],
      ['direct', 7, 1],
      ['access', 8, 3],
      ['invalid', 11, 1],
      ['nxe', 12, 1],
      ['cr0_wp', 13, 1],
      ['smep_andnot_wp', 14, 1],
      ['smap_andnot_wp', 15, 1],
      ['smm', 24, 8],
    ],
  }),
  pageRole({
    era: 'v4.19',
    ranges: [{ from: 'v4.13', to: 'v5.0' }],
    checked: 'v4.19 read',
    notes: ['The releases that added ad_disabled (v4.13 or v4.14) and guest_mode (v4.17 .. v4.19) are not verified.'],
    fields: [
      ['level', 0, 4],
      ['cr4_pae', 4, 1],
      ['quadrant', 5, 2],
      ['direct', 7, 1],
      ['access', 8, 3],
      ['invalid', 11, 1],
      ['nxe', 12, 1],
      ['cr0_wp', 13, 1],
      ['smep_andnot_wp', 14, 1],
      ['smap_andnot_wp', 15, 1],
      ['ad_disabled', 16, 1],
      ['guest_mode', 17, 1],
      ['smm', 24, 8],
    ],
  }),
  pageRole({
    era: 'spp-rfc-2018',
    ranges: [],
    patchSets: ['spp-rfc-2018'],
    checked: '2018 RFC of the SPP series, on v4.20',
    notes: ['The bit keeps an SPPT page from matching an EPT page of the same gfn, level, direct and access.'],
    fields: [
      ['level', 0, 4],
      ['cr4_pae', 4, 1],
      ['quadrant', 5, 2],
      ['direct', 7, 1],
      ['access', 8, 3],
      ['invalid', 11, 1],
      ['nxe', 12, 1],
      ['cr0_wp', 13, 1],
      ['smep_andnot_wp', 14, 1],
      ['smap_andnot_wp', 15, 1],
      ['ad_disabled', 16, 1],
      ['guest_mode', 17, 1],
      ['spp', 18, 1],
      ['smm', 24, 8],
    ],
  }),
  pageRole({
    era: 'spp-v12',
    ranges: [],
    patchSets: ['spp-v12'],
    checked: 'later postings of the SPP series, on v5.4 .. v5.6; not verified for every posting',
    notes: ['As the RFC, with the base kernel’s new name of bit 4.'],
    fields: [
      ['level', 0, 4],
      ['gpte_is_8_bytes', 4, 1],
      ['quadrant', 5, 2],
      ['direct', 7, 1],
      ['access', 8, 3],
      ['invalid', 11, 1],
      ['nxe', 12, 1],
      ['cr0_wp', 13, 1],
      ['smep_andnot_wp', 14, 1],
      ['smap_andnot_wp', 15, 1],
      ['ad_disabled', 16, 1],
      ['guest_mode', 17, 1],
      ['spp', 18, 1],
      ['smm', 24, 8],
    ],
  }),
  pageRole({
    era: 'v5.1',
    ranges: [{ from: 'v5.1', to: 'v5.16' }],
    checked: 'BTF of 5.10.262',
    notes: ['cr4_pae renamed by commit 47c42e6b4192. nxe is spelled efer_nx from v5.14, at the same bit.'],
    fields: [
      ['level', 0, 4],
      ['gpte_is_8_bytes', 4, 1],
      ['quadrant', 5, 2],
      ['direct', 7, 1],
      ['access', 8, 3],
      ['invalid', 11, 1],
      ['nxe', 12, 1],
      ['cr0_wp', 13, 1],
      ['smep_andnot_wp', 14, 1],
      ['smap_andnot_wp', 15, 1],
      ['ad_disabled', 16, 1],
      ['guest_mode', 17, 1],
      ['smm', 24, 8],
    ],
  }),
  pageRole({
    era: 'v5.17',
    ranges: [{ from: 'v5.17', to: 'v5.18' }],
    patchSets: ['seed1'],
    checked: 'commit bb3b394d35e8 and the context lines of the cpu_role series; no binary of these releases read',
    notes: ['gpte_is_8_bytes inverted to has_4_byte_gpte: bit 4 changes polarity.'],
    fields: [
      ['level', 0, 4],
      ['has_4_byte_gpte', 4, 1],
      ['quadrant', 5, 2],
      ['direct', 7, 1],
      ['access', 8, 3],
      ['invalid', 11, 1],
      ['efer_nx', 12, 1],
      ['cr0_wp', 13, 1],
      ['smep_andnot_wp', 14, 1],
      ['smap_andnot_wp', 15, 1],
      ['ad_disabled', 16, 1],
      ['guest_mode', 17, 1],
      ['smm', 24, 8],
    ],
  }),
  pageRole({
    era: 'v6.1',
    ranges: [{ from: 'v5.19', to: 'v6.13' }],
    checked: 'BTF of 6.1.192 and 6.12.107',
    notes: ['The first release with passthrough (v5.18 or v5.19) is not verified.'],
    fields: [
      ['level', 0, 4],
      ['has_4_byte_gpte', 4, 1],
      ['quadrant', 5, 2],
      ['direct', 7, 1],
      ['access', 8, 3],
      ['invalid', 11, 1],
      ['efer_nx', 12, 1],
      ['cr0_wp', 13, 1],
      ['smep_andnot_wp', 14, 1],
      ['smap_andnot_wp', 15, 1],
      ['ad_disabled', 16, 1],
      ['guest_mode', 17, 1],
      ['passthrough', 18, 1],
      ['smm', 24, 8],
    ],
  }),
  pageRole({
    era: 'v6.14',
    ranges: [{ from: 'v6.14', to: 'v7.1' }],
    checked: 'BTF of 6.16.12, 6.19.14, 7.0.13 and 7.1.13',
    notes: ['The first release with is_mirror is not verified.'],
    fields: [
      ['level', 0, 4],
      ['has_4_byte_gpte', 4, 1],
      ['quadrant', 5, 2],
      ['direct', 7, 1],
      ['access', 8, 3],
      ['invalid', 11, 1],
      ['efer_nx', 12, 1],
      ['cr0_wp', 13, 1],
      ['smep_andnot_wp', 14, 1],
      ['smap_andnot_wp', 15, 1],
      ['ad_disabled', 16, 1],
      ['guest_mode', 17, 1],
      ['passthrough', 18, 1],
      ['is_mirror', 19, 1],
      ['smm', 24, 8],
    ],
  }),
  pageRole({
    era: 'v7.2',
    ranges: [{ from: 'v7.2', to: 'v7.3' }],
    checked: 'BTF of 7.2.13 and 7.3-rc7, source of 7.2.13 and 7.3.4',
    notes: ['access grew to 4 bits, so invalid, efer_nx and cr0_wp moved up by one; smep_andnot_wp went.'],
    fields: [
      ['level', 0, 4],
      ['has_4_byte_gpte', 4, 1],
      ['quadrant', 5, 2],
      ['direct', 7, 1],
      ['access', 8, 4],
      ['invalid', 12, 1],
      ['efer_nx', 13, 1],
      ['cr0_wp', 14, 1],
      ['smap_andnot_wp', 15, 1],
      ['ad_disabled', 16, 1],
      ['guest_mode', 17, 1],
      ['passthrough', 18, 1],
      ['is_mirror', 19, 1],
      ['cr4_smep', 20, 1],
      ['smm', 24, 8],
    ],
  }),
];

/** union kvm_mmu_extended_role: the part of a role that only says when the context must be rebuilt. */
export const EXTENDED_ROLES: readonly RoleEra[] = [
  extRole({
    era: 'v4.20',
    ranges: [{ from: 'v4.20', to: 'v4.20' }],
    patchSets: ['spp-rfc-2018'],
    checked: 'commit 7dcd57552008; release boundary not verified',
    notes: ['First split of the role into base and ext.'],
    fields: [
      ['valid', 0, 1],
      ['execonly', 1, 1],
      ['cr0_pg', 2, 1],
      ['cr4_pse', 3, 1],
      ['cr4_pke', 4, 1],
      ['cr4_smap', 5, 1],
      ['cr4_smep', 6, 1],
      ['cr4_la57', 7, 1],
    ],
  }),
  extRole({
    era: 'v5.0',
    ranges: [{ from: 'v5.0', to: 'v5.0' }],
    checked: 'commit de3ccd26fafc; release boundary not verified',
    fields: [
      ['valid', 0, 1],
      ['execonly', 1, 1],
      ['cr0_pg', 2, 1],
      ['cr4_pse', 3, 1],
      ['cr4_pke', 4, 1],
      ['cr4_smap', 5, 1],
      ['cr4_smep', 6, 1],
      ['cr4_la57', 7, 1],
      ['maxphyaddr', 8, 6],
    ],
  }),
  extRole({
    era: 'v5.2',
    ranges: [{ from: 'v5.1', to: 'v5.6' }],
    checked: 'patch text; release boundaries not verified',
    notes: ['cr4_pae went in before cr4_pse: everything above moved by one bit.'],
    fields: [
      ['valid', 0, 1],
      ['execonly', 1, 1],
      ['cr0_pg', 2, 1],
      ['cr4_pae', 3, 1],
      ['cr4_pse', 4, 1],
      ['cr4_pke', 5, 1],
      ['cr4_smap', 6, 1],
      ['cr4_smep', 7, 1],
      ['cr4_la57', 8, 1],
      ['maxphyaddr', 9, 6],
    ],
  }),
  extRole({
    era: 'v5.7',
    ranges: [{ from: 'v5.7', to: 'v5.13.0' }],
    checked: 'commit 8053f924cad3, which dropped cr4_la57; release boundary not verified',
    fields: [
      ['valid', 0, 1],
      ['execonly', 1, 1],
      ['cr0_pg', 2, 1],
      ['cr4_pae', 3, 1],
      ['cr4_pse', 4, 1],
      ['cr4_pke', 5, 1],
      ['cr4_smap', 6, 1],
      ['cr4_smep', 7, 1],
      ['maxphyaddr', 8, 6],
    ],
  }),
  extRole({
    era: 'v5.10-stable',
    ranges: [
      { from: 'v5.10.48', to: 'v5.10' },
      { from: 'v5.12.15', to: 'v5.12' },
      { from: 'v5.13.1', to: 'v5.13' },
    ],
    checked: 'BTF of 5.10.262',
    notes: [
      'Stable releases brought cr4_la57 back: 5.12.15, 5.13.1 and a 5.10.y taken to be the one of the same day, 5.10.48.',
      'A kernel named without patch level (v5.10) is taken to be the latest stable release, thus this layout.',
    ],
    fields: [
      ['valid', 0, 1],
      ['execonly', 1, 1],
      ['cr0_pg', 2, 1],
      ['cr4_pae', 3, 1],
      ['cr4_pse', 4, 1],
      ['cr4_pke', 5, 1],
      ['cr4_smap', 6, 1],
      ['cr4_smep', 7, 1],
      ['cr4_la57', 8, 1],
      ['maxphyaddr', 9, 6],
    ],
  }),
  extRole({
    era: 'v5.14',
    ranges: [{ from: 'v5.14', to: 'v5.15.0' }],
    checked: 'v5.14-rc7 read, and commit 6c032f12dd1e, which removed maxphyaddr',
    fields: [
      ['valid', 0, 1],
      ['execonly', 1, 1],
      ['cr0_pg', 2, 1],
      ['cr4_pae', 3, 1],
      ['cr4_pse', 4, 1],
      ['cr4_pke', 5, 1],
      ['cr4_smap', 6, 1],
      ['cr4_smep', 7, 1],
      ['cr4_la57', 8, 1],
    ],
  }),
  extRole({
    era: 'v5.16',
    ranges: [{ from: 'v5.15.1', to: 'v5.18' }],
    patchSets: ['seed1'],
    checked: 'header of the v5.16 time and the context lines of the cpu_role series',
    notes: ['The 5.15.y that took efer_lma is not verified.'],
    fields: [
      ['valid', 0, 1],
      ['execonly', 1, 1],
      ['cr0_pg', 2, 1],
      ['cr4_pae', 3, 1],
      ['cr4_pse', 4, 1],
      ['cr4_pke', 5, 1],
      ['cr4_smap', 6, 1],
      ['cr4_smep', 7, 1],
      ['cr4_la57', 8, 1],
      ['efer_lma', 9, 1],
    ],
  }),
  extRole({
    era: 'v6.1',
    ranges: [{ from: 'v5.19', to: 'v7.1' }],
    checked: 'BTF of 6.1.192, 6.12.107, 6.16.12, 6.19.14, 7.0.13 and 7.1.13',
    fields: [
      ['valid', 0, 1],
      ['execonly', 1, 1],
      ['cr4_pse', 2, 1],
      ['cr4_pke', 3, 1],
      ['cr4_smap', 4, 1],
      ['cr4_smep', 5, 1],
      ['cr4_la57', 6, 1],
      ['efer_lma', 7, 1],
    ],
  }),
  extRole({
    era: 'v7.2',
    ranges: [{ from: 'v7.2', to: 'v7.3' }],
    checked: 'BTF of 7.2.13 and 7.3-rc7, source of 7.2.13 and 7.3.4',
    notes: ['cr4_smep moved to the base word.'],
    fields: [
      ['valid', 0, 1],
      ['execonly', 1, 1],
      ['cr4_pse', 2, 1],
      ['cr4_pke', 3, 1],
      ['cr4_smap', 4, 1],
      ['cr4_la57', 5, 1],
      ['efer_lma', 6, 1],
      ['has_pferr_fetch', 7, 1],
    ],
  }),
];
