/**
 * The rules of address translation, one per check: an id, the requirement as a sentence, and where the manuals state it.
 * Walks refer to rules by number (index in {@link RULES}), everything that people read by id. docs/rules.md is made from this file.
 *
 * SDM: Intel 64 and IA-32 Architectures Software Developer's Manual; APM: AMD64 Architecture Programmer's Manual.
 */

/** One check of the processor. */
export interface Rule {
  readonly id: string;
  /** What must hold. */
  readonly sentence: string;
  /** Manual, volume, section. */
  readonly reference: string;
  /** What happens if it does not hold. */
  readonly consequence: string;
}

const PF_P0 = '#PF, error bit 0 (P) clear';
const PF_RSVD = '#PF, error bits 0 (P) and 3 (RSVD) set';
const PF_P1 = '#PF, error bit 0 (P) set';
const MISCONFIG = 'EPT misconfiguration, exit reason 49';
const VIOLATION = 'EPT violation, exit reason 48, or #VE';
const SPP_EXIT = 'SPP-related event, exit reason 66';

const LIST = [
  // Linear addresses
  ['la.canonical', 'Bits 63:47 (4-level paging) or 63:56 (5-level paging) of a linear address are all equal.', 'SDM vol. 1 3.3.7.1; APM vol. 2 5.3.1', '#GP(0), or #SS(0) for a stack access'],
  ['la.lam-user', 'With linear-address masking for user pointers (CR3 bit 61 or 62), bit 63 equals bit 56 (LAM_U57) or bit 47 (LAM_U48); the bits between are not checked.', 'SDM vol. 1 3.3.7.1, vol. 3A 4.4', '#GP(0), or #SS(0) for a stack access'],
  ['la.lam-supervisor', 'With CR4.LAM_SUP, bit 63 of a supervisor pointer equals bit 56 (5-level paging) or bit 47 (4-level paging); the bits between are not checked.', 'SDM vol. 1 3.3.7.1, vol. 3A 4.4', '#GP(0), or #SS(0) for a stack access'],
  // Guest and nested paging: the entries
  ['pg.present', 'Bit 0 (P) of the entry is 1.', 'SDM vol. 3A 4.7; APM vol. 2 5.4.1', PF_P0],
  ['pg.rsvd-maxphyaddr', 'Address bits at and above MAXPHYADDR are 0.', 'SDM vol. 3A 4.4.2, 4.5.4; APM vol. 2 5.3', PF_RSVD],
  ['pg.rsvd-pae-high', 'In PAE paging bits 62:52 are 0.', 'SDM vol. 3A 4.4.2 tables 4-9 to 4-11; APM vol. 2 5.2.3', PF_RSVD],
  ['pg.rsvd-xd', 'Bit 63 (XD) is 0 while EFER.NXE = 0.', 'SDM vol. 3A 4.5.4; APM vol. 2 5.4.1', PF_RSVD],
  ['pg.rsvd-ps', 'Bit 7 (PS) of a PML4E or PML5E is 0.', 'SDM vol. 3A tables 4-14, 4-15; APM vol. 2 5.3.3', PF_RSVD],
  ['pg.rsvd-amd-bit8', 'On AMD processors bit 8 of a PML4E or PML5E is 0 (must be zero).', 'APM vol. 2 5.3.3 figure 5-20; KVM nonleaf_bit8_rsvd in __reset_rsvds_bits_mask', PF_RSVD],
  ['pg.rsvd-1g', 'Bit 7 (PS) of a PDPTE is 0 on a processor without 1 GiB pages.', 'SDM vol. 3A 4.5.4; APM vol. 2 5.3.5', PF_RSVD],
  ['pg.rsvd-large', 'The address bits below the page size of a large page are 0 (20:13 for 2 MiB, 29:13 for 1 GiB, 21:13 for 4 MiB without PSE-36).', 'SDM vol. 3A tables 4-5, 4-10, 4-16, 4-18; APM vol. 2 5.3', PF_RSVD],
  ['pg.rsvd-pse36', 'In a 4 MiB PDE the bits above the address field are 0: bit 21, and the bits for address bits at and above min(40, MAXPHYADDR).', 'SDM vol. 3A 4.3, table 4-4', PF_RSVD],
  ['pg.pdpte-present', 'Bit 0 (P) of the PDPTE register is 1.', 'SDM vol. 3A 4.4.1', PF_P0],
  ['pg.pdpte-rsvd', 'Bits 2:1, 8:5 and 63:MAXPHYADDR of a present PAE PDPTE are 0 when it is loaded.', 'SDM vol. 3A 4.4.1 table 4-8', '#GP(0) from MOV to CR0, CR3 or CR4; an NPF where NPT reads it'],
  // Guest and nested paging: the access
  ['pg.user', 'A user-mode access needs U/S = 1 in all entries.', 'SDM vol. 3A 4.6.1; APM vol. 2 5.6.1', PF_P1],
  ['pg.write-user', 'A user-mode write needs R/W = 1 in all entries.', 'SDM vol. 3A 4.6.1; APM vol. 2 5.6.2', PF_P1],
  ['pg.write-supervisor', 'With CR0.WP = 1 a supervisor-mode write needs R/W = 1 in all entries.', 'SDM vol. 3A 4.6.1; APM vol. 2 5.6.2', PF_P1],
  ['pg.xd', 'A fetch needs XD = 0 in all entries (EFER.NXE = 1).', 'SDM vol. 3A 4.6.1; APM vol. 2 5.6.3', PF_P1],
  ['pg.smep', 'With CR4.SMEP = 1 a supervisor-mode fetch must not be from a user-mode address.', 'SDM vol. 3A 4.6.1; APM vol. 2 5.6.5', PF_P1],
  ['pg.smap', 'With CR4.SMAP = 1 a supervisor-mode data access must not be to a user-mode address, unless it is explicit and RFLAGS.AC = 1.', 'SDM vol. 3A 4.6.1; APM vol. 2 5.6.6', PF_P1],
  ['pg.shstk-mode', 'A shadow-stack access is to an address of its own mode: user to user-mode, supervisor to supervisor-mode addresses.', 'SDM vol. 3A 4.6.1', PF_P1],
  ['pg.shstk-page', 'A shadow-stack access is to a shadow-stack page: R/W = 0 and D = 1 in the last entry, R/W = 1 in all others.', 'SDM vol. 3A 4.6', PF_P1],
  ['pg.pkru-ad', 'With CR4.PKE = 1 a data access to a user-mode address needs AD = 0 in PKRU for its protection key.', 'SDM vol. 3A 4.6.2; APM vol. 2 5.6.7', '#PF, error bits 0 (P) and 5 (PK) set'],
  ['pg.pkru-wd', 'With CR4.PKE = 1 a write to a user-mode address needs WD = 0 in PKRU for its protection key (supervisor writes only if CR0.WP = 1).', 'SDM vol. 3A 4.6.2; APM vol. 2 5.6.7', '#PF, error bits 0 (P) and 5 (PK) set'],
  ['pg.pkrs-ad', 'With CR4.PKS = 1 a data access to a supervisor-mode address needs AD = 0 in IA32_PKRS for its protection key.', 'SDM vol. 3A 4.6.2', '#PF, error bits 0 (P) and 5 (PK) set'],
  ['pg.pkrs-wd', 'With CR4.PKS = 1 a write to a supervisor-mode address needs WD = 0 in IA32_PKRS for its protection key, if CR0.WP = 1.', 'SDM vol. 3A 4.6.2', '#PF, error bits 0 (P) and 5 (PK) set'],
  // NPT as a whole
  ['npt.gpa-width', 'A guest-physical address fits the host’s paging mode: 32 bits with 32-bit and PAE paging, 48 bits with 4 levels.', 'APM vol. 2 15.25', 'nested page fault, EXITINFO1 bit 0 (P) clear'],
  // EPT: the entries
  ['ept.gpa-width', 'A guest-physical address has no bit above 47 set with 4-level EPT.', 'SDM vol. 3C 30.3.2', VIOLATION],
  ['ept.present', 'One of bits 2:0 (with mode-based execute control also bit 10) of the entry is 1.', 'SDM vol. 3C 30.3.2', VIOLATION],
  ['ept.write-only', 'An entry that allows writes (bit 1) also allows reads (bit 0).', 'SDM vol. 3C 30.3.3.1', MISCONFIG],
  ['ept.exec-only', 'An entry that allows execution but not reads needs a processor with execute-only translations.', 'SDM vol. 3C 30.3.3.1, A.10', MISCONFIG],
  ['ept.rsvd-low', 'Bits 7:3 of a PML5E or PML4E, bits 6:3 of a PDPTE or PDE that refers to a table are 0.', 'SDM vol. 3C 30.3.2, 30.3.3.1', MISCONFIG],
  ['ept.page-size', 'Bit 7 of a PDPTE or PDE is 0 on a processor without EPT pages of that size.', 'SDM vol. 3C 30.3.2, A.10', MISCONFIG],
  ['ept.rsvd-large', 'The address bits below the page size of a large page are 0: 20:12 for 2 MiB, 29:12 for 1 GiB.', 'SDM vol. 3C 30.3.2', MISCONFIG],
  ['ept.rsvd-maxphyaddr', 'Bits 51:MAXPHYADDR are 0.', 'SDM vol. 3C 30.3.2, 30.3.3.1', MISCONFIG],
  ['ept.memtype', 'The memory type (bits 5:3) of an entry that maps a page is 0, 1, 4, 5 or 6.', 'SDM vol. 3C 30.3.3.1, 30.3.7.2', MISCONFIG],
  // EPT: the access
  ['ept.read', 'A data read needs bit 0 (R) in all entries.', 'SDM vol. 3C 30.3.3.2', VIOLATION],
  ['ept.write', 'A data write needs bit 1 (W) in all entries.', 'SDM vol. 3C 30.3.3.2', VIOLATION],
  ['ept.exec', 'A fetch needs bit 2 (X) in all entries; with mode-based execute control only a fetch from a supervisor-mode address.', 'SDM vol. 3C 30.3.3.2', VIOLATION],
  ['ept.exec-user', 'With mode-based execute control a fetch from a user-mode address needs bit 10 (XU) in all entries.', 'SDM vol. 3C 30.3.3.2', VIOLATION],
  ['ept.supervisor-shstk', 'With EPTP bit 7 a supervisor shadow-stack access needs R in all entries, W in all but the last, and bit 60 in the last.', 'SDM vol. 3C 30.3.3.2', VIOLATION],
  ['ept.ad-table-write', 'With EPT accessed and dirty flags (EPTP bit 6) an access to a guest paging-structure entry counts as a write.', 'SDM vol. 3C 30.3.3.2, 30.3.5', VIOLATION],
  ['ept.ad-update', 'Setting an accessed or dirty flag in a guest paging-structure entry is a write: W is needed in all entries.', 'SDM vol. 3C 30.3.3.2', VIOLATION],
  ['ept.paging-write', 'With the EPT paging-write control an accessed or dirty flag in a guest entry may be set if bit 58 of the last entry is 1, although W is 0.', 'SDM vol. 3C 30.3.3.2, 30.3.2', VIOLATION],
  ['ept.verify-paging', 'With guest-paging verification and bit 57 of the last entry, the guest’s entries that led to the address were on pages with the paging-write bit (58).', 'SDM vol. 3C 30.3.3.2, 30.3.2', VIOLATION],
  ['ve.suppress', 'An EPT violation becomes a virtualization exception only if bit 63 (suppress #VE) of the entry at which it happened is 0.', 'SDM vol. 3C 27.5.7.1', 'EPT violation instead of #VE'],
  // SPP
  ['spp.eligible', 'The SPPT is consulted for a data write that EPT makes readable but not writable, if the last entry maps a 4 KiB page and has bit 61 (SPP) set; not for accesses to guest tables or without a linear address.', 'SDM vol. 3C 30.3.4', VIOLATION],
  ['spp.valid', 'Bit 0 of an SPPT level 4, 3 or 2 entry is 1.', 'SDM vol. 3C 30.3.4.1', SPP_EXIT + ' (miss)'],
  ['spp.rsvd', 'Bits 11:1 and 63:MAXPHYADDR of an SPPT level 4, 3 or 2 entry are 0.', 'SDM vol. 3C 30.3.4.1', SPP_EXIT + ' (misconfiguration)'],
  ['spp.rsvd-vector', 'The odd bits of an SPP vector are 0.', 'SDM vol. 3C 30.3.4.1', SPP_EXIT + ' (misconfiguration)'],
  ['spp.write', 'Bit 2n of the SPP vector is 1 for each 128-byte sub-page n that the write touches.', 'SDM vol. 3C 30.3.4.1', VIOLATION],
  // Control fields
  ['eptp.memtype', 'Bits 2:0 of the EPTP are 0 (UC) or 6 (WB), as IA32_VMX_EPT_VPID_CAP allows.', 'SDM vol. 3C 28.2.1.1', 'VM entry fails (VM-instruction error 7)'],
  ['eptp.walk-length', 'Bits 5:3 of the EPTP are 3 (4 levels), or 4 (5 levels) on a processor that has them.', 'SDM vol. 3C 28.2.1.1', 'VM entry fails (VM-instruction error 7)'],
  ['eptp.ad', 'Bit 6 of the EPTP is 0 on a processor without EPT accessed and dirty flags.', 'SDM vol. 3C 28.2.1.1', 'VM entry fails (VM-instruction error 7)'],
  ['eptp.sss', 'Bit 7 of the EPTP is 0 on a processor without supervisor shadow-stack control.', 'SDM vol. 3C 28.2.1.1', 'VM entry fails (VM-instruction error 7)'],
  ['eptp.rsvd', 'Bits 11:8 and 63:MAXPHYADDR of the EPTP are 0.', 'SDM vol. 3C 28.2.1.1', 'VM entry fails (VM-instruction error 7)'],
  ['spptp.ept', 'Sub-page write permissions need EPT.', 'SDM vol. 3C 28.2.1.1', 'VM entry fails (VM-instruction error 7)'],
  ['spptp.rsvd', 'Bits 11:0 and 63:MAXPHYADDR of the SPPTP are 0.', 'SDM vol. 3C 28.2.1.1', 'VM entry fails (VM-instruction error 7)'],
] as const; // prettier-ignore

/** Id of a rule. */
export type RuleId = (typeof LIST)[number][0];

/** All rules. Number 0 stands for "no rule": a walk without a failed check. */
export const RULES: readonly Rule[] = [
  { id: 'none', sentence: 'No check failed.', reference: '', consequence: '' },
  ...LIST.map(([id, sentence, reference, consequence]) => ({ id, sentence, reference, consequence })),
];

const numbers = new Map<string, number>(RULES.map((r, i) => [r.id, i]));

/** Number of a rule. */
export function ruleNumber(id: RuleId): number {
  return numbers.get(id)!;
}

/** Rule of an id or number. @throws RangeError if there is none. */
export function ruleOf(which: RuleId | number): Rule {
  const rule = RULES[typeof which === 'number' ? which : (numbers.get(which) ?? -1)];
  if (rule === undefined) throw new RangeError(`there is no translation rule ${which}: see docs/rules.md`);
  return rule;
}
