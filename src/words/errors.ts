/**
 * Why an access failed, as the processor and KVM code it: #PF error codes, KVM's PFERR_* bits per era, exit
 * qualifications of EPT violations and SPP events, EXITINFO1 of nested page faults, and what KVM makes of them.
 * Exit reasons, RET_PF_* and errnos are in exits.ts.
 */
import type { KernelRange, KernelSpec } from './kernels';
import { inRange, rangeText, toKernel } from './kernels';
import type { WordField, WordLayout } from './word';

export * from './exits';

type Row = readonly [name: string, bit: number, meaning: string, source?: string];

const flags = (rows: readonly Row[]): WordField[] =>
  rows.map(([name, lsb, meaning, source]) => ({ name, lsb, width: 1, meaning, source }));

const setNames = (layout: readonly WordField[], field: (name: string) => bigint) =>
  layout.filter((f) => field(f.name) !== 0n).map((f) => f.name);

/** What kind of access an error code tells of: `user write`, `supervisor fetch`. */
function accessWords(field: (name: string) => bigint): string {
  const who = field('U') ? 'user' : 'supervisor';
  return `${who} ${field('F') ? 'fetch' : field('W') ? 'write' : 'read'}`;
}

function pageFaultSummary(fields: readonly WordField[]) {
  return (field: (name: string) => bigint): string => {
    const why = field('RSVD') ? 'reserved bit set' : field('P') ? 'not allowed' : 'not present';
    const more = setNames(fields, field).filter((n) => !['P', 'W', 'U', 'F', 'RSVD'].includes(n));
    return [`${accessWords(field)}, ${why}`, ...more].join(', ');
  };
}

const PF_FIELDS = flags([
  ['P', 0, '1: the access was not allowed, or a reserved bit was set; 0: an entry was not present.'],
  ['W', 1, 'W/R: the access was a write.'],
  ['U', 2, 'U/S: the access was made in user mode (CPL 3, not an implicit supervisor access).'],
  ['RSVD', 3, 'A reserved bit was set in a present entry; P is then 1 too.'],
  ['F', 4, 'I/D: instruction fetch. Reported only if CR4.SMEP=1, or CR4.PAE=1 and EFER.NX=1.'],
  ['PK', 5, 'Protection-key violation (data accesses only).'],
  ['SS', 6, 'Shadow-stack access.'],
  ['HLAT', 7, 'No translation during a HLAT walk.', 'Intel'],
  ['SGX', 15, 'SGX access-control violation.', 'Intel'],
  ['RMP', 31, 'RMP violation.', 'AMD SEV-SNP'],
]);

/** The error code of a #PF as the processor pushes it. */
export const PF_ERROR_CODE: WordLayout = {
  id: 'pf_error_code',
  word: 'pf_error_code',
  title: '#PF error code',
  size: 32,
  source: 'SDM vol. 3A, page-fault exceptions; APM vol. 2, 8.2.15',
  fields: PF_FIELDS,
  notes: [
    'A fault on an entry that is not present never sets RSVD or PK, whatever its other bits are.',
    'The walk ends at the first entry that is not present or has a reserved bit; permissions are checked at its end.',
  ],
  summarize: pageFaultSummary(PF_FIELDS),
};

/** Bits of a #PF error code and of KVM's PFERR_*, as numbers for hot paths. */
export const PFERR = {
  P: 1 << 0,
  W: 1 << 1,
  U: 1 << 2,
  RSVD: 1 << 3,
  F: 1 << 4,
  PK: 1 << 5,
  SS: 1 << 6,
  SGX: 1 << 15,
} as const;

/** PFERR bits above 31, which need bigint (or the high half of a pair). */
export const PFERR_GUEST_FINAL = 1n << 32n;
export const PFERR_GUEST_PAGE = 1n << 33n;
export const PFERR_IMPLICIT_ACCESS = 1n << 48n;
export const PFERR_PRIVATE_ACCESS = 1n << 49n;

const PFERR_BASE: readonly Row[] = [
  ['P', 0, 'present', 'PFERR_PRESENT_MASK'],
  ['W', 1, 'write', 'PFERR_WRITE_MASK'],
  ['U', 2, 'user; until v7.1 an EPT data read sets it too', 'PFERR_USER_MASK'],
  ['RSVD', 3, 'reserved bit; the EPT misconfiguration handler passes it too', 'PFERR_RSVD_MASK'],
  ['F', 4, 'fetch', 'PFERR_FETCH_MASK'],
];
const PK: Row = ['PK', 5, 'protection key', 'PFERR_PK_MASK'];
const SS: Row = ['SS', 6, 'shadow stack', 'PFERR_SS_MASK'];
const SGX: Row = ['SGX', 15, 'SGX', 'PFERR_SGX_MASK'];
const STAGE: readonly Row[] = [
  ['GUEST_FINAL', 32, 'nested fault on the final guest physical address', 'PFERR_GUEST_FINAL_MASK'],
  ['GUEST_PAGE', 33, 'nested fault on the address of a guest page-table entry', 'PFERR_GUEST_PAGE_MASK'],
];
const SNP: readonly Row[] = [
  ['ENC', 34, 'the guest accessed private (encrypted) memory', 'PFERR_GUEST_ENC_MASK'],
  ['SIZEM', 35, 'RMP size mismatch', 'PFERR_GUEST_SIZEM_MASK'],
  ['VMPL', 36, 'VMPL check failed', 'PFERR_GUEST_VMPL_MASK'],
];
const RMP: Row = ['RMP', 31, 'RMP violation', 'PFERR_GUEST_RMP_MASK'];
const IMPLICIT: Row = [
  'IMPLICIT',
  48,
  'software: implicit supervisor access, which EFLAGS.AC cannot excuse from SMAP',
  'PFERR_IMPLICIT_ACCESS',
];
const PRIVATE: Row = ['PRIVATE', 49, 'software: access to private memory', 'PFERR_PRIVATE_ACCESS'];

interface Era {
  readonly range: KernelRange;
  readonly layout: WordLayout;
}

function pferr(era: string, from: string, to: string, size: 32 | 64, checked: string, rows: readonly Row[]): Era {
  const range = { from, to };
  const fields = flags(rows);
  const layout: WordLayout = {
    id: `pferr@${era}`,
    word: 'pferr',
    title: `KVM page-fault error code (PFERR_*), ${rangeText(range)}`,
    size,
    kernels: rangeText(range),
    source: `arch/x86/kvm/mmu.h, from v4.19 arch/x86/include/asm/kvm_host.h: ${checked}`,
    fields,
    summarize: pageFaultSummary(fields),
  };
  return { range, layout };
}

/** KVM's own error code per era: the processor's bits, and bits that only KVM sets. */
export const PFERR_ERAS: readonly Era[] = [
  pferr('v3.6', 'v3.1', 'v4.5', 32, 'v3.6 and v4.4 read; upper bound not verified', PFERR_BASE),
  pferr('v4.19', 'v4.6', 'v5.16', 64, 'v4.19 and v5.10 read; bounds not verified', [...PFERR_BASE, PK, ...STAGE]),
  pferr('v6.1', 'v5.17', 'v6.9', 64, 'v6.1.192 read; bounds not verified', [
    ...PFERR_BASE,
    PK,
    SGX,
    ...STAGE,
    IMPLICIT,
  ]),
  pferr('v6.12', 'v6.10', 'v7.1', 64, 'v6.12.107 read; bounds not verified', [
    ...PFERR_BASE,
    ...[PK, SGX, RMP, ...STAGE, ...SNP, IMPLICIT, PRIVATE],
  ]),
  pferr('v7.3', 'v7.2', 'v7.3', 64, 'v7.3.4 read; lower bound not verified', [
    ...PFERR_BASE,
    ...[PK, SS, SGX, RMP, ...STAGE, ...SNP, IMPLICIT, PRIVATE],
  ]),
];

const eraOf = <T extends { range: KernelRange }>(eras: readonly T[], kernel: KernelSpec): T => {
  const version = toKernel(kernel);
  return eras.find((e) => inRange(version, e.range))!;
};

/** PFERR_* layout of a kernel. @throws WordError for a name that is no known kernel. */
export const pferrLayout = (kernel: KernelSpec): WordLayout => eraOf(PFERR_ERAS, kernel).layout;

const EPT_FIELDS = flags([
  ['ACC_READ', 0, 'The access was a data read.', 'EPT_VIOLATION_ACC_READ'],
  ['ACC_WRITE', 1, 'The access was a data write.', 'EPT_VIOLATION_ACC_WRITE'],
  ['ACC_INSTR', 2, 'The access was an instruction fetch.', 'EPT_VIOLATION_ACC_INSTR'],
  ['PROT_READ', 3, 'All EPT entries used allow reading.', 'EPT_VIOLATION_PROT_READ'],
  ['PROT_WRITE', 4, 'All EPT entries used allow writing.', 'EPT_VIOLATION_PROT_WRITE'],
  [
    'PROT_EXEC',
    5,
    'All EPT entries used allow execution (by the supervisor, with mode-based execute control).',
    'EPT_VIOLATION_PROT_EXEC',
  ],
  [
    'PROT_USER_EXEC',
    6,
    'All EPT entries used have bit 10, with mode-based execute control; else undefined.',
    'EPT_VIOLATION_PROT_USER_EXEC',
  ],
  ['GVA_IS_VALID', 7, 'The guest linear address field is valid.', 'EPT_VIOLATION_GVA_IS_VALID'],
  [
    'GVA_TRANSLATED',
    8,
    'If bit 7: 1 the address that the linear address translates to; 0 the address of a guest paging entry.',
    'EPT_VIOLATION_GVA_TRANSLATED',
  ],
  ['GVA_USER', 9, 'If bits 7 and 8, with advanced information: a user-mode linear address.', 'EPT_VIOLATION_GVA_USER'],
  ['GVA_WRITABLE', 10, 'The same: the guest tables allow writing.', 'EPT_VIOLATION_GVA_WRITABLE'],
  ['GVA_NX', 11, 'The same: the guest tables forbid execution.', 'EPT_VIOLATION_GVA_NX'],
  ['NMI_UNBLOCKING', 12, 'NMI unblocking due to IRET.', 'INTR_INFO_UNBLOCK_NMI'],
  ['SHADOW_STACK', 13, 'Shadow-stack access (CET).'],
  ['SSS_PAGE', 14, 'Bit 60 of the EPT entry that maps the page, if EPTP bit 7 is set; else undefined.'],
  ['VERIFICATION', 15, 'Guest-paging verification failed.'],
  ['ASYNC', 16, 'Asynchronous to instruction execution (trace output, PEBS).'],
]);

/** Exit qualification of an EPT violation (exit reason 48). */
export const EPT_QUALIFICATION: WordLayout = {
  id: 'ept_qualification',
  word: 'ept_qualification',
  title: 'EPT violation exit qualification',
  size: 64,
  vendor: 'intel',
  source: 'SDM vol. 3C, exit qualification for EPT violations; names of arch/x86/include/asm/vmx.h v7.3',
  fields: EPT_FIELDS,
  notes: [
    'With EPT A/D flags an access to a guest paging entry counts as a write: bits 0 and 1 are both set.',
    'A read-modify-write may set bit 0 as well as bit 1: do not expect exactly one of bits 2:0.',
  ],
  summarize: eptSummary,
};

function eptSummary(field: (name: string) => bigint): string {
  const bit = (name: string, text: string) => (field(name) ? [text] : []);
  const access = [...bit('ACC_READ', 'read'), ...bit('ACC_WRITE', 'write'), ...bit('ACC_INSTR', 'fetch')];
  const rwx = ['READ', 'WRITE', 'EXEC'].map((n, i) => (field(`PROT_${n}`) ? 'rwx'[i] : '-')).join('');
  const where = !field('GVA_IS_VALID')
    ? 'no linear address'
    : field('GVA_TRANSLATED')
      ? 'the final address'
      : 'a guest paging entry';
  const prot = rwx === '---' ? 'an entry not present' : `EPT allows ${rwx}`;
  const more = [
    ...bit('NMI_UNBLOCKING', 'NMI unblocking'),
    ...bit('SHADOW_STACK', 'shadow stack'),
    ...bit('SSS_PAGE', 'supervisor shadow-stack page'),
    ...bit('VERIFICATION', 'guest-paging verification'),
    ...bit('ASYNC', 'asynchronous'),
  ];
  return [`${access.join('+') || 'no access bit'} of ${where}`, prot, ...more].join(', ');
}

/** Exit qualification of an SPP-related event (exit reason 66). All other bits are 0 or undefined. */
export const SPP_QUALIFICATION: WordLayout = {
  id: 'spp_qualification',
  word: 'spp_qualification',
  title: 'SPP event exit qualification',
  size: 64,
  vendor: 'intel',
  source: 'SDM vol. 3C, SPP-related events; SPPT_INDUCED_EXIT_TYPE of the SPP patch series',
  fields: [
    {
      name: 'MISS',
      lsb: 11,
      width: 1,
      meaning: '1: an SPPT entry at level 4, 3 or 2 is not valid; 0: a valid entry has a reserved bit set.',
      values: { 0: 'SPP misconfiguration', 1: 'SPP miss' },
    },
    { name: 'NMI_UNBLOCKING', lsb: 12, width: 1, meaning: 'NMI unblocking due to IRET.' },
  ],
  notes: ['A sub-page that is not writable is no SPP event: the processor reports an EPT violation (48).'],
  summarize: (field) =>
    (field('MISS') ? 'SPP miss' : 'SPP misconfiguration') + (field('NMI_UNBLOCKING') ? ', NMI unblocking' : ''),
};

const NPF_FIELDS = flags([
  ['P', 0, '1: the nested entry is present but does not allow it; 0: not present.'],
  ['W', 1, 'RW: write. Accesses to guest paging entries always count as writes.'],
  ['U', 2, 'US: always 1, nested walks count as user accesses.'],
  ['RSVD', 3, 'RSV: reserved bit in a nested entry: how KVM recognises its MMIO sptes.'],
  ['F', 4, 'ID: instruction fetch.'],
  ['SS', 6, 'Shadow-stack access.'],
  ['RMP', 31, 'RMP check failed.', 'SEV-SNP'],
  ['GUEST_FINAL', 32, 'The fault is for the final guest physical address.'],
  ['GUEST_PAGE', 33, 'The fault is for the address of a guest page-table entry.'],
  ['ENC', 34, 'The guest physical address was accessed as private.', 'SEV-SNP'],
  ['SIZEM', 35, 'Page size of the access or PVALIDATE differs from the RMP.', 'SEV-SNP'],
  ['VMPL', 36, 'VMPL permission check failed.', 'SEV-SNP'],
  ['SSS', 37, 'Supervisor shadow-stack mismatch.'],
]);

/** EXITINFO1 of a nested page fault (SVM_EXIT_NPF, 0x400); EXITINFO2 is the guest physical address. */
export const NPF_EXITINFO1: WordLayout = {
  id: 'npf_exitinfo1',
  word: 'npf_exitinfo1',
  title: 'nested page fault EXITINFO1',
  size: 64,
  vendor: 'amd',
  source: 'APM vol. 2, 15.25.6 nested versus guest page faults; SEV-SNP chapter',
  fields: NPF_FIELDS,
  summarize: (field) => {
    const access = field('F') ? 'fetch' : field('W') ? 'write' : 'read';
    const where = field('GUEST_PAGE')
      ? 'a guest paging entry'
      : field('GUEST_FINAL')
        ? 'the final address'
        : 'an address';
    const why = field('RSVD') ? 'reserved bit set' : field('P') ? 'not allowed' : 'not present';
    const told = ['P', 'W', 'U', 'F', 'RSVD', 'GUEST_PAGE', 'GUEST_FINAL'];
    return [`${access} of ${where}, ${why}`, ...setNames(NPF_FIELDS, field).filter((n) => !told.includes(n))].join(
      ', ',
    );
  },
};

interface ConversionOptions {
  /** Mode-based execute control is on for this EPT (v7.2+): bit 6 counts as a protection bit. */
  readonly mbec?: boolean;
  /** The gPA is private memory of a TDX VM (v7.2+). */
  readonly privateGpa?: boolean;
}

type Conversion = (q: bigint, options: ConversionOptions) => bigint;
const bitTo = (q: bigint, from: number, to: number) => ((q >> BigInt(from)) & 1n) << BigInt(to);

/** How the EPT violation handler makes PFERR_* of a qualification, per era. */
const EPT_CONVERSIONS: readonly { range: KernelRange; formula: string; source: string; convert: Conversion }[] = [
  {
    range: { from: 'v3.1', to: 'v3.11' },
    formula: 'W = q[1]; P = q[3]',
    source: 'vmx.c handle_ept_violation v3.6; upper bound not verified',
    convert: (q) => bitTo(q, 1, 1) | bitTo(q, 3, 0),
  },
  {
    range: { from: 'v3.12', to: 'v4.10' },
    formula: 'W = q[1]; F = q[2]; P = q[3] (only the readable bit)',
    source: 'vmx.c handle_ept_violation v4.4; bounds not verified',
    convert: (q) => bitTo(q, 1, 1) | bitTo(q, 2, 4) | bitTo(q, 3, 0),
  },
  {
    range: { from: 'v4.11', to: 'v7.1' },
    formula: 'U = q[0]; W = q[1]; F = q[2]; P = q[5:3] != 0; GUEST_FINAL if q[8], else GUEST_PAGE',
    source: 'vmx/vmx.c handle_ept_violation v4.19, v6.1 and v6.12; bounds not verified',
    convert: (q) =>
      bitTo(q, 0, 2) |
      bitTo(q, 1, 1) |
      bitTo(q, 2, 4) |
      ((q & 0x38n) === 0n ? 0n : 1n) |
      (q & 0x100n ? PFERR_GUEST_FINAL : PFERR_GUEST_PAGE),
  },
  {
    range: { from: 'v7.2', to: 'v7.3' },
    formula:
      'W = q[1]; F = q[2]; P = q[5:3] != 0, or q[6] with MBEC; if q[7]: q[8] ? GUEST_FINAL and U = q[9] : GUEST_PAGE',
    source: 'vmx/common.h __vmx_handle_ept_violation v7.3.4; lower bound not verified',
    convert: (q, { mbec, privateGpa }) => {
      let code = bitTo(q, 1, 1) | bitTo(q, 2, 4);
      if ((q & 0x38n) !== 0n || (mbec && q & 0x40n)) code |= 1n;
      if (q & 0x80n) code |= q & 0x100n ? PFERR_GUEST_FINAL | bitTo(q, 9, 2) : PFERR_GUEST_PAGE;
      return privateGpa ? code | PFERR_PRIVATE_ACCESS : code;
    },
  },
];

/**
 * The error code that KVM's EPT violation handler passes to kvm_mmu_page_fault.
 * @param qualification exit qualification of exit reason 48
 * @throws WordError for a name that is no known kernel
 */
export function eptQualificationToPferr(
  kernel: KernelSpec,
  qualification: bigint,
  options: ConversionOptions = {},
): bigint {
  return eraOf(EPT_CONVERSIONS, kernel).convert(qualification, options);
}

/** The conversion as a formula, and where it was read. */
export function eptConversionText(kernel: KernelSpec): { formula: string; source: string } {
  const { formula, source } = eraOf(EPT_CONVERSIONS, kernel);
  return { formula, source };
}

/** The error code that the NPF handler passes on: EXITINFO1 itself, cut to 32 bits while the argument was a u32. */
export function npfToPferr(kernel: KernelSpec, exitInfo1: bigint): bigint {
  return pferrLayout(kernel).size === 32 ? exitInfo1 & 0xffffffffn : exitInfo1;
}
