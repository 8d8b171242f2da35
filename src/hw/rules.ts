/**
 * The rules of address translation, one per check: an id, the requirement as a sentence, and where the manuals state it.
 * Walks refer to rules by number (index in {@link RULES}), everything that people read by id. docs/rules.md is made from this file.
 *
 * SDM: Intel 64 and IA-32 Architectures Software Developer's Manual; APM: AMD64 Architecture Programmer's Manual. Sections are named by
 * their titles: their numbers differ between editions.
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
  ['la.canonical', 'Bits 63:47 (4-level paging) or 63:56 (5-level paging) of a linear address are all equal.', 'SDM vol. 1, Canonical Addressing; APM vol. 2, Canonical Address Form', '#GP(0), or #SS(0) for a stack access'],
  ['la.lam-user', 'With linear-address masking for user pointers (CR3 bit 61 or 62), bit 63 equals bit 56 (LAM_U57) or bit 47 (LAM_U48); the bits between are not checked.', 'SDM vol. 3A, Linear-Address Masking', '#GP(0), or #SS(0) for a stack access'],
  ['la.lam-supervisor', 'With CR4.LAM_SUP, bit 63 of a supervisor pointer equals bit 56 (5-level paging) or bit 47 (4-level paging); the bits between are not checked.', 'SDM vol. 3A, Linear-Address Masking', '#GP(0), or #SS(0) for a stack access'],
  // Guest and nested paging: the entries
  ['pg.present', 'Bit 0 (P) of the entry is 1.', 'SDM vol. 3A, Page-Fault Exceptions; APM vol. 2, Page-Translation-Table Entry Fields: Present (P) Bit', PF_P0],
  ['pg.rsvd-maxphyaddr', 'Address bits at and above MAXPHYADDR are 0.', 'SDM vol. 3A, PAE Paging and 4-Level Paging and 5-Level Paging; APM vol. 2, Long-Mode Page Translation', PF_RSVD],
  ['pg.rsvd-pae-high', 'In PAE paging bits 62:52 are 0.', 'SDM vol. 3A, Linear-Address Translation with PAE Paging; APM vol. 2, PAE Paging', PF_RSVD],
  ['pg.rsvd-xd', 'Bit 63 (XD) is 0 while EFER.NXE = 0.', 'SDM vol. 3A, Linear-Address Translation with 4-Level Paging and 5-Level Paging; APM vol. 2, No Execute (NX) Bit', PF_RSVD],
  ['pg.rsvd-ps', 'Bit 7 (PS) of a PML4E or PML5E is 0.', 'SDM vol. 3A, Format of a PML4 Entry and of a PML5 Entry; APM vol. 2, Long-Mode Page Translation', PF_RSVD],
  ['pg.rsvd-amd-bit8', 'On AMD processors bit 8 of a PML4E or PML5E is 0 (must be zero).', 'APM vol. 2, Long-Mode Page Translation (4-Kbyte PML4E); KVM: nonleaf_bit8_rsvd in __reset_rsvds_bits_mask()', PF_RSVD],
  ['pg.rsvd-1g', 'Bit 7 (PS) of a PDPTE is 0 on a processor without 1 GiB pages.', 'SDM vol. 3A, Linear-Address Translation with 4-Level Paging and 5-Level Paging; APM vol. 2, 1-Gbyte Paging Support', PF_RSVD],
  ['pg.rsvd-large', 'The address bits below the page size of a large page are 0 (20:13 for 2 MiB, 29:13 for 1 GiB, 21:13 for 4 MiB without PSE-36).', 'SDM vol. 3A, formats of entries that map a page; APM vol. 2, Page-Translation-Table Entry Fields', PF_RSVD],
  ['pg.rsvd-pse36', 'In a 4 MiB PDE the bits above the address field are 0: bit 21, and the bits for address bits at and above min(40, MAXPHYADDR).', 'SDM vol. 3A, 32-Bit Paging (Format of a 32-Bit Page-Directory Entry that Maps a 4-MByte Page)', PF_RSVD],
  ['pg.pdpte-present', 'Bit 0 (P) of the PDPTE register is 1.', 'SDM vol. 3A, PDPTE Registers', PF_P0],
  ['pg.pdpte-rsvd', 'Bits 2:1, 8:5 and 63:MAXPHYADDR of a present PAE PDPTE are 0 when it is loaded.', 'SDM vol. 3A, PDPTE Registers', '#GP(0) from MOV to CR0, CR3 or CR4; an NPF where NPT reads it'],
  // Guest and nested paging: the access
  ['pg.user', 'A user-mode access needs U/S = 1 in all entries.', 'SDM vol. 3A, Determination of Access Rights; APM vol. 2, User/Supervisor Protection', PF_P1],
  ['pg.write-user', 'A user-mode write needs R/W = 1 in all entries.', 'SDM vol. 3A, Determination of Access Rights; APM vol. 2, Read/Write Protection', PF_P1],
  ['pg.write-supervisor', 'With CR0.WP = 1 a supervisor-mode write needs R/W = 1 in all entries.', 'SDM vol. 3A, Determination of Access Rights; APM vol. 2, Read/Write Protection', PF_P1],
  ['pg.xd', 'A fetch needs XD = 0 in all entries (EFER.NXE = 1).', 'SDM vol. 3A, Determination of Access Rights; APM vol. 2, No Execute (NX) Bit', PF_P1],
  ['pg.smep', 'With CR4.SMEP = 1 a supervisor-mode fetch must not be from a user-mode address.', 'SDM vol. 3A, Determination of Access Rights; APM vol. 2, Supervisor-Mode Execution Prevention', PF_P1],
  ['pg.smap', 'With CR4.SMAP = 1 a supervisor-mode data access must not be to a user-mode address, unless it is explicit and RFLAGS.AC = 1.', 'SDM vol. 3A, Determination of Access Rights; APM vol. 2, Supervisor-Mode Access Prevention', PF_P1],
  ['pg.shstk-mode', 'A shadow-stack access is to an address of its own mode: user to user-mode, supervisor to supervisor-mode addresses.', 'SDM vol. 3A, Determination of Access Rights (shadow-stack accesses)', PF_P1],
  ['pg.shstk-page', 'A shadow-stack access is to a shadow-stack page: R/W = 0 and D = 1 in the last entry, R/W = 1 in all others.', 'SDM vol. 3A, Access Rights (shadow-stack addresses)', PF_P1],
  ['pg.pkru-ad', 'With CR4.PKE = 1 a data access to a user-mode address needs AD = 0 in PKRU for its protection key.', 'SDM vol. 3A, Protection Keys; APM vol. 2, Memory Protection Keys', '#PF, error bits 0 (P) and 5 (PK) set'],
  ['pg.pkru-wd', 'With CR4.PKE = 1 a write to a user-mode address needs WD = 0 in PKRU for its protection key (supervisor writes only if CR0.WP = 1).', 'SDM vol. 3A, Protection Keys; APM vol. 2, Memory Protection Keys', '#PF, error bits 0 (P) and 5 (PK) set'],
  ['pg.pkrs-ad', 'With CR4.PKS = 1 a data access to a supervisor-mode address needs AD = 0 in IA32_PKRS for its protection key.', 'SDM vol. 3A, Protection Keys', '#PF, error bits 0 (P) and 5 (PK) set'],
  ['pg.pkrs-wd', 'With CR4.PKS = 1 a write to a supervisor-mode address needs WD = 0 in IA32_PKRS for its protection key, if CR0.WP = 1.', 'SDM vol. 3A, Protection Keys', '#PF, error bits 0 (P) and 5 (PK) set'],
  // NPT as a whole
  ['npt.gpa-width', 'A guest-physical address fits the host’s paging mode: 32 bits with 32-bit and PAE paging, 48 bits with 4 levels.', 'APM vol. 2, Nested Paging', 'nested page fault, EXITINFO1 bit 0 (P) clear'],
  // EPT: the entries
  ['ept.gpa-width', 'A guest-physical address has no bit above 47 set with 4-level EPT.', 'SDM vol. 3C, EPT Translation Mechanism', VIOLATION],
  ['ept.present', 'One of bits 2:0 (with mode-based execute control also bit 10) of the entry is 1.', 'SDM vol. 3C, EPT Translation Mechanism', VIOLATION],
  ['ept.write-only', 'An entry that allows writes (bit 1) also allows reads (bit 0).', 'SDM vol. 3C, EPT Misconfigurations', MISCONFIG],
  ['ept.exec-only', 'An entry that allows execution but not reads needs a processor with execute-only translations.', 'SDM vol. 3C, EPT Misconfigurations; VPID and EPT Capabilities', MISCONFIG],
  ['ept.rsvd-low', 'Bits 7:3 of a PML5E or PML4E, bits 6:3 of a PDPTE or PDE that refers to a table are 0.', 'SDM vol. 3C, EPT Translation Mechanism; EPT Misconfigurations', MISCONFIG],
  ['ept.page-size', 'Bit 7 of a PDPTE or PDE is 0 on a processor without EPT pages of that size.', 'SDM vol. 3C, EPT Translation Mechanism; VPID and EPT Capabilities', MISCONFIG],
  ['ept.rsvd-large', 'The address bits below the page size of a large page are 0: 20:12 for 2 MiB, 29:12 for 1 GiB.', 'SDM vol. 3C, EPT Translation Mechanism', MISCONFIG],
  ['ept.rsvd-maxphyaddr', 'Bits 51:MAXPHYADDR are 0.', 'SDM vol. 3C, EPT Translation Mechanism; EPT Misconfigurations', MISCONFIG],
  ['ept.memtype', 'The memory type (bits 5:3) of an entry that maps a page is 0, 1, 4, 5 or 6.', 'SDM vol. 3C, EPT Misconfigurations; EPT and Memory Typing', MISCONFIG],
  // EPT: the access
  ['ept.read', 'A data read needs bit 0 (R) in all entries.', 'SDM vol. 3C, EPT Violations', VIOLATION],
  ['ept.write', 'A data write needs bit 1 (W) in all entries.', 'SDM vol. 3C, EPT Violations', VIOLATION],
  ['ept.exec', 'A fetch needs bit 2 (X) in all entries; with mode-based execute control only a fetch from a supervisor-mode address.', 'SDM vol. 3C, EPT Violations', VIOLATION],
  ['ept.exec-user', 'With mode-based execute control a fetch from a user-mode address needs bit 10 (XU) in all entries.', 'SDM vol. 3C, EPT Violations', VIOLATION],
  ['ept.supervisor-shstk', 'With EPTP bit 7 a supervisor shadow-stack access needs R in all entries, W in all but the last, and bit 60 in the last.', 'SDM vol. 3C, EPT Violations', VIOLATION],
  ['ept.ad-table-write', 'With EPT accessed and dirty flags (EPTP bit 6) an access to a guest paging-structure entry counts as a write.', 'SDM vol. 3C, EPT Violations; Accessed and Dirty Flags for EPT', VIOLATION],
  ['ept.ad-update', 'Setting an accessed or dirty flag in a guest paging-structure entry is a write: W is needed in all entries.', 'SDM vol. 3C, EPT Violations', VIOLATION],
  ['ept.paging-write', 'With the EPT paging-write control an accessed or dirty flag in a guest entry may be set if bit 58 of the last entry is 1, although W is 0.', 'SDM vol. 3C, EPT Violations; EPT Translation Mechanism', VIOLATION],
  ['ept.verify-paging', 'With guest-paging verification and bit 57 of the last entry, the guest’s entries that led to the address were on pages with the paging-write bit (58).', 'SDM vol. 3C, EPT Violations; EPT Translation Mechanism', VIOLATION],
  ['pml.room', 'The PML index is at most 511 when an access is about to set the dirty flag of an EPT entry.', 'SDM vol. 3C, Page-Modification Logging', 'page-modification log full, exit reason 62'],
  ['ve.suppress', 'An EPT violation becomes a virtualization exception only if bit 63 (suppress #VE) of the entry at which it happened is 0.', 'SDM vol. 3C, Convertible EPT Violations', 'EPT violation instead of #VE'],
  // SPP
  ['spp.eligible', 'The SPPT is consulted for a data write that EPT makes readable but not writable, if the last entry maps a 4 KiB page and has bit 61 (SPP) set; not for accesses to guest tables or without a linear address.', 'SDM vol. 3C, Sub-Page Write Permissions', VIOLATION],
  ['spp.valid', 'Bit 0 of an SPPT level 4, 3 or 2 entry is 1.', 'SDM vol. 3C, Sub-Page Write Permissions', SPP_EXIT + ' (miss)'],
  ['spp.rsvd', 'Bits 11:1 and 63:MAXPHYADDR of an SPPT level 4, 3 or 2 entry are 0.', 'SDM vol. 3C, Sub-Page Write Permissions', SPP_EXIT + ' (misconfiguration)'],
  ['spp.rsvd-vector', 'The odd bits of an SPP vector are 0.', 'SDM vol. 3C, Sub-Page Write Permissions', SPP_EXIT + ' (misconfiguration)'],
  ['spp.write', 'Bit 2n of the SPP vector is 1 for each 128-byte sub-page n that the write touches.', 'SDM vol. 3C, Sub-Page Write Permissions', VIOLATION],
  // Control fields
  ['eptp.memtype', 'Bits 2:0 of the EPTP are 0 (UC) or 6 (WB), as IA32_VMX_EPT_VPID_CAP allows.', 'SDM vol. 3C, VM-Execution Control Fields (checks of VM entry)', 'VM entry fails (VM-instruction error 7)'],
  ['eptp.walk-length', 'Bits 5:3 of the EPTP are 3 (4 levels), or 4 (5 levels) on a processor that has them.', 'SDM vol. 3C, VM-Execution Control Fields (checks of VM entry)', 'VM entry fails (VM-instruction error 7)'],
  ['eptp.ad', 'Bit 6 of the EPTP is 0 on a processor without EPT accessed and dirty flags.', 'SDM vol. 3C, VM-Execution Control Fields (checks of VM entry)', 'VM entry fails (VM-instruction error 7)'],
  ['eptp.sss', 'Bit 7 of the EPTP is 0 on a processor without supervisor shadow-stack control.', 'SDM vol. 3C, VM-Execution Control Fields (checks of VM entry)', 'VM entry fails (VM-instruction error 7)'],
  ['eptp.rsvd', 'Bits 11:8 and 63:MAXPHYADDR of the EPTP are 0.', 'SDM vol. 3C, VM-Execution Control Fields (checks of VM entry)', 'VM entry fails (VM-instruction error 7)'],
  ['spptp.ept', 'Sub-page write permissions need EPT.', 'SDM vol. 3C, VM-Execution Control Fields (checks of VM entry)', 'VM entry fails (VM-instruction error 7)'],
  ['spptp.rsvd', 'Bits 11:0 and 63:MAXPHYADDR of the SPPTP are 0.', 'SDM vol. 3C, VM-Execution Control Fields (checks of VM entry)', 'VM entry fails (VM-instruction error 7)'],
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
