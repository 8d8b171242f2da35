/**
 * Fields of a VMCB by the names of the APM and of a VMCS by those of the SDM, with what a field's bits are called: for `vmcb`,
 * `vmwrite`, `vmread` and their `expect`s. Offsets and encodings are those of src/hw.
 * Source: APM vol. 2 appendix B (VMCB) and C (exit codes); SDM vol. 3D appendix B (field encodings), A.3 to A.5 (default1 controls),
 * C (exit reasons), vol. 3C 24.6 to 24.8 (controls), 27.2.1 (exit qualification).
 */
import { CPU_BASED, EXIT_REASON, SECONDARY_EXEC, VM_ENTRY, VM_EXIT_CTL, VMCS, vmcsFieldSize } from '../hw/vmcs';
import { SVM_EXIT, VMCB_FIELDS, VMCB_SEGMENTS, type VmcbFieldName } from '../hw/vmcb';
import { EXCEPTIONS, REGISTER_FLAGS, type Flag } from './tables';

/** A field that a scenario can write or expect. */
export interface ControlField {
  readonly name: string;
  readonly doc: string;
  /** bytes */
  readonly size: 1 | 2 | 4 | 8;
  /** byte offset in the VMCB, or encoding in the VMCS */
  readonly at: number;
  readonly flags?: readonly Flag[];
  /** the names are values, not bits */
  readonly pick?: boolean;
}

/** A flat segment, for `cs CODE64` and `guest_cs CODE64`. Attributes as descriptors have them in bits 55:40, limit bits left out. */
export interface SegmentKind {
  readonly name: string;
  readonly doc: string;
  readonly selector: number;
  readonly limit: number;
  readonly attributes: number;
}

const upper = (names: Readonly<Record<string, number>>, docs: Readonly<Record<string, string>> = {}): Flag[] =>
  Object.entries(names).map(([name, bit]) => ({ name, bit: BigInt(bit), doc: docs[name] ?? words(name) }));
/** `HLT_EXITING` as `HLT exiting`. */
function words(name: string): string {
  const [first, ...rest] = name.split('_');
  return [
    first,
    ...rest.map((w) =>
      /^(CR\d|EPT|VPID|PML|IA32|IA32E|EFER|MSR|IO|VMCS|TLB|RSP|RIP)$/i.test(w) ? w : w.toLowerCase(),
    ),
  ].join(' ');
}

export const SEGMENT_KINDS: readonly SegmentKind[] = [
  { name: 'CODE64', doc: '64-bit code, selector 8', selector: 8, limit: 0xffffffff, attributes: 0xa09b },
  { name: 'CODE32', doc: 'flat 32-bit code, selector 8', selector: 8, limit: 0xffffffff, attributes: 0xc09b },
  { name: 'DATA', doc: 'flat writable data, selector 0x10', selector: 0x10, limit: 0xffffffff, attributes: 0xc093 },
  { name: 'TSS', doc: 'busy TSS, selector 0x38', selector: 0x38, limit: 0x67, attributes: 0x8b },
];

/** The kinds as values, for places that want flags. */
export const SEGMENT_NAMES: readonly Flag[] = SEGMENT_KINDS.map((k, i) => ({
  name: k.name,
  bit: BigInt(i),
  doc: k.doc,
}));

// ---- VMCB ----

/** Bits of the two intercept words from offset 0x00c on: an intercept's bit is its exit code less 0x60. */
const INTERCEPTS: readonly Flag[] = Object.entries(SVM_EXIT)
  .filter(([, code]) => code >= 0x60 && code < 0xa0)
  .map(([name, code]) => ({
    name,
    bit: 1n << BigInt(code - 0x60),
    doc: `intercept ${name}, exit code 0x${code.toString(16)}`,
  }));
const EXCEPTION_BITS: readonly Flag[] = Object.entries(EXCEPTIONS).map(([name, e]) => ({
  name: name.slice(1),
  bit: 1n << BigInt(e.vector),
  doc: e.doc,
}));
const CR_INTERCEPTS: readonly Flag[] = [0, 3, 4, 8].flatMap((n) => [
  { name: `CR${n}_READ`, bit: 1n << BigInt(n), doc: `reads of CR${n}` },
  { name: `CR${n}_WRITE`, bit: 1n << BigInt(16 + n), doc: `writes of CR${n}` },
]);
const EXIT_CODES: readonly Flag[] = Object.entries(SVM_EXIT)
  .filter(([name]) => name !== 'EXCP_BASE' && name !== 'SW')
  .map(([name, code]) => ({
    name: name === 'ERR' ? 'INVALID' : name,
    bit: BigInt(code),
    doc: `exit code 0x${code.toString(16)}`,
  }));
/** EXITINFO1 of a nested page fault: the low half is an error code of #PF. */
const NPF_BITS: readonly Flag[] = [
  { name: 'P', bit: 1n << 0n, doc: 'the nested entry was present' },
  { name: 'W', bit: 1n << 1n, doc: 'write' },
  { name: 'U', bit: 1n << 2n, doc: 'user: always, as nested walks go' },
  { name: 'RSVD', bit: 1n << 3n, doc: 'a reserved bit was set in a nested entry' },
  { name: 'F', bit: 1n << 4n, doc: 'instruction fetch' },
  { name: 'FINAL', bit: 1n << 32n, doc: 'at the final guest-physical address' },
  { name: 'TABLE', bit: 1n << 33n, doc: 'at the address of a guest page table' },
];

/** Name in the APM -> name in {@link VMCB_FIELDS}, names of its bits, size where it is more than the model needs. */
const APM_NAMES: readonly (readonly [
  string,
  VmcbFieldName,
  Partial<Pick<ControlField, 'flags' | 'pick' | 'size' | 'doc'>>?,
])[] = [
  ['intercept_cr', 'intercept_cr', { flags: CR_INTERCEPTS }],
  ['intercept_dr', 'intercept_dr'],
  ['intercept_exceptions', 'intercept_exceptions', { flags: EXCEPTION_BITS }],
  [
    'intercept',
    'intercept_word3',
    { flags: INTERCEPTS, size: 8, doc: 'intercepts of instructions and events: the words at 0x00c and 0x010' },
  ],
  ['iopm_base_pa', 'iopm_base_pa'],
  ['msrpm_base_pa', 'msrpm_base_pa'],
  ['tsc_offset', 'tsc_offset'],
  ['guest_asid', 'asid'],
  ['tlb_control', 'tlb_ctl'],
  ['v_intr', 'int_ctl'],
  ['interrupt_shadow', 'int_state'],
  ['exitcode', 'exit_code', { flags: EXIT_CODES, pick: true }],
  ['exitinfo1', 'exit_info_1', { flags: NPF_BITS }],
  ['exitinfo2', 'exit_info_2'],
  ['exitintinfo', 'exit_int_info', { size: 8 }],
  ['np_enable', 'nested_ctl', { doc: 'bit 0: nested paging for this guest' }],
  ['eventinj', 'event_inj', { size: 8 }],
  ['n_cr3', 'nested_cr3'],
  ['nrip', 'next_rip'],
  ['cpl', 'cpl'],
  ['efer', 'efer', { flags: REGISTER_FLAGS.efer }],
  ['cr4', 'cr4', { flags: REGISTER_FLAGS.cr4 }],
  ['cr3', 'cr3'],
  ['cr0', 'cr0', { flags: REGISTER_FLAGS.cr0 }],
  ['dr7', 'dr7'],
  ['dr6', 'dr6'],
  ['rflags', 'rflags', { flags: REGISTER_FLAGS.rflags }],
  ['rip', 'rip'],
  ['rsp', 'rsp'],
  ['rax', 'rax'],
  ['star', 'star'],
  ['lstar', 'lstar'],
  ['cstar', 'cstar'],
  ['sfmask', 'sfmask'],
  ['kernel_gs_base', 'kernel_gs_base'],
  ['sysenter_cs', 'sysenter_cs'],
  ['sysenter_esp', 'sysenter_esp'],
  ['sysenter_eip', 'sysenter_eip'],
  ['cr2', 'cr2'],
  ['g_pat', 'g_pat'],
];

/** Segments of the VMCB that take a {@link SegmentKind}. */
export const VMCB_SEGMENT_NAMES: readonly string[] = Object.keys(VMCB_SEGMENTS).filter(
  (n) => n !== 'gdtr' && n !== 'idtr',
);

const segmentParts: readonly (readonly [string, number, 2 | 4 | 8, string])[] = [
  ['selector', 0, 2, 'selector'],
  ['attrib', 2, 2, 'attributes: bits 55:52 and 47:40 of a descriptor'],
  ['limit', 4, 4, 'limit'],
  ['base', 8, 8, 'base'],
];

/** Fields of a VMCB. */
export const VMCB: readonly ControlField[] = [
  ...APM_NAMES.map(([name, key, more]): ControlField => {
    const { offset, size, meaning } = VMCB_FIELDS[key];
    return {
      name,
      at: offset,
      size,
      doc: `VMCB offset 0x${offset.toString(16).padStart(3, '0')}: ${more?.doc ?? meaning}`,
      ...pickOf(more),
    };
  }),
  ...Object.entries(VMCB_SEGMENTS).flatMap(([segment, offset]) =>
    segmentParts.map(([part, at, size, doc]): ControlField => ({
      name: `${segment}.${part}`,
      at: offset + at,
      size,
      doc: `VMCB offset 0x${(offset + at).toString(16)}: ${doc} of ${segment.toUpperCase()}`,
    })),
  ),
];

function pickOf(more: Partial<Pick<ControlField, 'flags' | 'pick' | 'size'>> | undefined): Partial<ControlField> {
  return {
    ...(more?.flags ? { flags: more.flags } : {}),
    ...(more?.pick ? { pick: true } : {}),
    ...(more?.size ? { size: more.size } : {}),
  };
}

/** Bytes of a VMCB segment of a kind: selector, attributes, limit, base. */
export const vmcbSegment = (name: string, kind: SegmentKind): { at: number; size: 2 | 4 | 8; value: bigint }[] => {
  const offset = VMCB_SEGMENTS[name as keyof typeof VMCB_SEGMENTS];
  // The attributes of a VMCB have bits 11:8 (limit 19:16) squeezed out.
  const attrib = (kind.attributes & 0xff) | ((kind.attributes & 0xf000) >> 4);
  return [
    { at: offset, size: 2, value: BigInt(kind.selector) },
    { at: offset + 2, size: 2, value: BigInt(attrib) },
    { at: offset + 4, size: 4, value: BigInt(kind.limit) },
    { at: offset + 8, size: 8, value: 0n },
  ];
};

// ---- VMCS ----

const DEFAULT1 = (bits: number): Flag => ({
  name: 'DEFAULT1',
  bit: BigInt(bits),
  doc: 'the bits that KVM wants to be 1',
});
/** Extended-page-table pointer, SDM vol. 3C table 24-9. */
export const EPTP_FLAGS: readonly Flag[] = [
  { name: 'WB', bit: 6n, doc: 'EPT structures are write-back memory' },
  { name: 'WALK4', bit: 3n << 3n, doc: 'four levels' },
  { name: 'WALK5', bit: 4n << 3n, doc: 'five levels' },
  { name: 'AD', bit: 1n << 6n, doc: 'accessed and dirty flags' },
];
/** Exit qualification of EPT violations, SDM vol. 3C table 27-7. */
const QUALIFICATION: readonly Flag[] = [
  { name: 'READ', bit: 1n << 0n, doc: 'data read' },
  { name: 'WRITE', bit: 1n << 1n, doc: 'data write' },
  { name: 'FETCH', bit: 1n << 2n, doc: 'instruction fetch' },
  { name: 'READABLE', bit: 1n << 3n, doc: 'all entries on the way had R' },
  { name: 'WRITABLE', bit: 1n << 4n, doc: 'all entries on the way had W' },
  { name: 'EXECUTABLE', bit: 1n << 5n, doc: 'all entries on the way had X' },
  { name: 'GVA', bit: 1n << 7n, doc: 'the guest linear address is valid' },
  { name: 'FINAL', bit: 1n << 8n, doc: 'the access was to the translation of it, not to a table on the way' },
];

const VMCS_FLAGS: Readonly<Record<string, Pick<ControlField, 'flags' | 'pick'>>> = {
  pin_based_vm_exec_control: { flags: [DEFAULT1(0x16)] },
  cpu_based_vm_exec_control: { flags: [DEFAULT1(0x04006172), ...upper(CPU_BASED)] },
  secondary_vm_exec_control: { flags: upper(SECONDARY_EXEC) },
  vm_exit_controls: { flags: [DEFAULT1(0x00036dfb), ...upper(VM_EXIT_CTL)] },
  vm_entry_controls: { flags: [DEFAULT1(0x000011fb), ...upper(VM_ENTRY)] },
  exception_bitmap: { flags: EXCEPTION_BITS },
  ept_pointer: { flags: EPTP_FLAGS },
  vm_exit_reason: { flags: upper(EXIT_REASON), pick: true },
  exit_qualification: { flags: QUALIFICATION },
  guest_ia32_efer: { flags: REGISTER_FLAGS.efer },
  host_ia32_efer: { flags: REGISTER_FLAGS.efer },
  guest_rflags: { flags: REGISTER_FLAGS.rflags },
  ...Object.fromEntries(
    ['guest_cr0', 'host_cr0', 'cr0_guest_host_mask', 'cr0_read_shadow'].map((n) => [n, { flags: REGISTER_FLAGS.cr0 }]),
  ),
  ...Object.fromEntries(
    ['guest_cr4', 'host_cr4', 'cr4_guest_host_mask', 'cr4_read_shadow'].map((n) => [n, { flags: REGISTER_FLAGS.cr4 }]),
  ),
};

/** Bits 11:10 of an encoding. */
const VMCS_TYPES = ['control', 'exit information', 'guest state', 'host state'] as const;

/** Fields of a VMCS, by the SDM's names in the spelling of the encodings table. */
export const VMCS_FIELDS: readonly ControlField[] = Object.entries(VMCS).map(([name, encoding]) => {
  const size = vmcsFieldSize(encoding);
  const width = encoding >>> 13 === 3 ? 'natural width' : `${8 * size} bits`;
  return {
    name,
    at: encoding,
    size,
    doc: `VMCS field 0x${encoding.toString(16).padStart(4, '0')}: ${VMCS_TYPES[(encoding >>> 10) & 3]}, ${width}`,
    ...VMCS_FLAGS[name],
  };
});

/** Segments of the guest that take a {@link SegmentKind}: selector, limit, access rights, base at once. */
export const VMCS_SEGMENT_NAMES: readonly string[] = ['es', 'cs', 'ss', 'ds', 'fs', 'gs', 'ldtr', 'tr'].map(
  (s) => `guest_${s}`,
);

/** Fields of a VMCS segment of a kind, in the order in which they are written. */
export const vmcsSegment = (name: string, kind: SegmentKind): { at: number; value: bigint }[] =>
  (
    [
      ['selector', kind.selector],
      ['limit', kind.limit],
      ['ar_bytes', kind.attributes],
      ['base', 0],
    ] as const
  ).map(([part, value]) => ({ at: VMCS[`${name}_${part}` as keyof typeof VMCS], value: BigInt(value) }));

/** VMCS fields as values, for `vmread` and `vmwrite`. */
export const VMCS_ENCODINGS: readonly Flag[] = VMCS_FIELDS.map((f) => ({
  name: f.name,
  bit: BigInt(f.at),
  doc: f.doc,
}));

/** Types of INVEPT (SDM vol. 3C INVEPT). */
export const INVEPT_TYPES: readonly Flag[] = [
  { name: 'single', bit: 1n, doc: 'translations of one EPTP' },
  { name: 'global', bit: 2n, doc: 'translations of all EPTPs' },
];

/** Types of INVVPID (SDM vol. 3C INVVPID). */
export const INVVPID_TYPES: readonly Flag[] = [
  { name: 'address', bit: 0n, doc: 'one address of one VPID' },
  { name: 'single', bit: 1n, doc: 'one VPID' },
  { name: 'global', bit: 2n, doc: 'all VPIDs' },
  { name: 'single-nonglobal', bit: 3n, doc: 'one VPID but for global translations' },
];
