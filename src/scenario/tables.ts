/**
 * The closed lists of the language: machine settings, registers, flags, exceptions, errnos, event names with their fields, what
 * `expect` can ask of the state. Checks, completion, hover and docs/language.md all read these tables.
 */
import { CR0, CR4, EFER, GPR_NAMES, MSR, RFLAGS } from '../hw/regs';
import { QUIRKS } from '../hw/features';
import { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_MEM_X86_NORMAL_ONLY, KVM_MEM_X86_SMRAM } from '../kvm/kvm_host';
import { KERNEL_ERAS } from '../words/kernels';

/** A named bit. */
export interface Flag {
  readonly name: string;
  readonly bit: bigint;
  readonly doc: string;
}

const flags = (bits: Readonly<Record<string, bigint>>, docs: Readonly<Record<string, string>>): Flag[] =>
  Object.entries(bits).map(([name, bit]) => ({ name, bit, doc: docs[name] ?? '' }));

const CR0_FLAGS = flags(CR0, {
  PE: 'protected mode',
  MP: 'monitor coprocessor',
  EM: 'x87 emulation',
  TS: 'task switched',
  ET: 'extension type, always 1',
  NE: 'numeric error',
  WP: 'supervisor writes honour read-only pages',
  AM: 'alignment mask',
  NW: 'not write-through',
  CD: 'cache disable',
  PG: 'paging',
});

const CR4_FLAGS = flags(CR4, {
  VME: 'virtual-8086 extensions',
  PSE: '4M pages in 32-bit paging',
  PAE: 'physical address extension: 8-byte entries',
  MCE: 'machine check',
  PGE: 'global pages',
  UMIP: 'user-mode instruction prevention',
  LA57: '5-level paging',
  VMXE: 'VMX',
  PCIDE: 'process-context identifiers',
  SMEP: 'no supervisor fetches from user pages',
  SMAP: 'no supervisor data accesses to user pages unless RFLAGS.AC',
  PKE: 'protection keys for user pages',
  CET: 'control-flow enforcement',
  PKS: 'protection keys for supervisor pages',
  LAM_SUP: 'linear-address masking for supervisor pointers',
});

const EFER_FLAGS = flags(EFER, {
  SCE: 'SYSCALL',
  LME: 'long mode enabled',
  LMA: 'long mode active',
  NXE: 'no-execute bit in page-table entries',
  SVME: 'SVM',
});

const RFLAGS_FLAGS = flags(RFLAGS, {
  CF: 'carry',
  FIXED: 'always 1',
  PF: 'parity',
  AF: 'auxiliary carry',
  ZF: 'zero',
  SF: 'sign',
  TF: 'single step',
  IF: 'interrupts enabled',
  DF: 'direction',
  OF: 'overflow',
  IOPL: 'I/O privilege level 3',
  AC: 'alignment check; with SMAP: supervisor may access user pages',
  VM: 'virtual-8086 mode',
});

/** #PF error code. SDM vol. 3A 4.7, APM vol. 2 8.4.2. */
export const PF_ERROR_FLAGS: readonly Flag[] = [
  { name: 'P', bit: 1n << 0n, doc: 'the translation was present: a protection violation or a reserved bit' },
  { name: 'W', bit: 1n << 1n, doc: 'write' },
  { name: 'U', bit: 1n << 2n, doc: 'user-mode access' },
  { name: 'RSVD', bit: 1n << 3n, doc: 'a reserved bit was set in a paging-structure entry' },
  { name: 'F', bit: 1n << 4n, doc: 'instruction fetch' },
  { name: 'PK', bit: 1n << 5n, doc: 'protection key' },
  { name: 'SS', bit: 1n << 6n, doc: 'shadow-stack access' },
  { name: 'HLAT', bit: 1n << 7n, doc: 'no translation through HLAT paging' },
  { name: 'SGX', bit: 1n << 15n, doc: 'SGX access control' },
  { name: 'RMP', bit: 1n << 31n, doc: 'SEV-SNP reverse map' },
];

/** struct kvm_userspace_memory_region.flags. */
export const MEMSLOT_FLAGS: readonly Flag[] = [
  { name: 'LOG_DIRTY_PAGES', bit: BigInt(KVM_MEM_LOG_DIRTY_PAGES), doc: 'keep a dirty bitmap' },
  { name: 'READONLY', bit: BigInt(KVM_MEM_READONLY), doc: 'guest writes exit to user space as MMIO' },
  {
    name: 'X86_SMRAM',
    bit: BigInt(KVM_MEM_X86_SMRAM),
    doc: 'visible in SMM only; needs smram flag or three-state (the RFC of 2015, kernel seed3)',
  },
  {
    name: 'X86_NORMAL_ONLY',
    bit: BigInt(KVM_MEM_X86_NORMAL_ONLY),
    doc: 'hidden in SMM; needs smram three-state. The proposal gave the flag no name',
  },
];

/** Leaf bits of a guest page-table entry that `map` sets. Present is implied; `NP` clears it again. SDM vol. 3A 4.5. */
export const PTE_FLAGS: readonly Flag[] = [
  { name: 'NP', bit: 0n, doc: 'not present' },
  { name: 'R', bit: 0n, doc: 'readable: implied, for readers' },
  { name: 'W', bit: 1n << 1n, doc: 'writable' },
  { name: 'U', bit: 1n << 2n, doc: 'user' },
  { name: 'PWT', bit: 1n << 3n, doc: 'write-through' },
  { name: 'PCD', bit: 1n << 4n, doc: 'cache disable' },
  { name: 'A', bit: 1n << 5n, doc: 'accessed' },
  { name: 'D', bit: 1n << 6n, doc: 'dirty' },
  { name: 'G', bit: 1n << 8n, doc: 'global' },
  { name: 'NX', bit: 1n << 63n, doc: 'no execute' },
  ...Array.from({ length: 15 }, (_, i) => ({
    name: `PK${i + 1}`,
    bit: BigInt(i + 1) << 59n,
    doc: `protection key ${i + 1}`,
  })),
];

/** Registers whose value is written with flag names. */
export const REGISTER_FLAGS: Readonly<Record<string, readonly Flag[]>> = {
  cr0: CR0_FLAGS,
  cr4: CR4_FLAGS,
  efer: EFER_FLAGS,
  rflags: RFLAGS_FLAGS,
};

/** INVPCID types (SDM vol. 2A INVPCID). */
export const INVPCID_TYPES: readonly Flag[] = [
  { name: 'address', bit: 0n, doc: 'one address of one PCID' },
  { name: 'context', bit: 1n, doc: 'one PCID except global translations' },
  { name: 'all', bit: 2n, doc: 'everything, global translations included' },
  { name: 'all-nonglobal', bit: 3n, doc: 'everything but global translations' },
];

/** MSR names for wrmsr and rdmsr. */
export const MSR_NAMES: readonly Flag[] = Object.entries(MSR).map(([name, index]) => ({
  name,
  bit: BigInt(index),
  doc: `MSR 0x${index.toString(16)}`,
}));

/** Exceptions with a name; the vector is the number. SDM vol. 3A table 6-1. */
export const EXCEPTIONS: Readonly<
  Record<string, { readonly vector: number; readonly error: boolean; readonly doc: string }>
> = {
  '#DE': { vector: 0, error: false, doc: 'divide error' },
  '#DB': { vector: 1, error: false, doc: 'debug' },
  '#BP': { vector: 3, error: false, doc: 'breakpoint' },
  '#UD': { vector: 6, error: false, doc: 'invalid opcode' },
  '#NM': { vector: 7, error: false, doc: 'device not available' },
  '#DF': { vector: 8, error: true, doc: 'double fault' },
  '#TS': { vector: 10, error: true, doc: 'invalid TSS' },
  '#NP': { vector: 11, error: true, doc: 'segment not present' },
  '#SS': { vector: 12, error: true, doc: 'stack segment' },
  '#GP': { vector: 13, error: true, doc: 'general protection' },
  '#PF': { vector: 14, error: true, doc: 'page fault' },
  '#AC': { vector: 17, error: true, doc: 'alignment check' },
  '#MC': { vector: 18, error: false, doc: 'machine check' },
  '#VE': { vector: 20, error: false, doc: 'virtualization exception' },
  '#CP': { vector: 21, error: true, doc: 'control protection' },
};

/** Linux errno values that the ioctls of the model return. */
export const ERRNOS: Readonly<Record<string, number>> = {
  EPERM: 1,
  ENOENT: 2,
  ENXIO: 6,
  ENOMEM: 12,
  EFAULT: 14,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
};

/** How an instruction statement can end (`expect end`). */
export const ENDS: Readonly<Record<string, string>> = {
  done: 'the instruction finished',
  fault: 'an exception was delivered to the guest',
  io: 'KVM_EXIT_IO',
  hlt: 'KVM_EXIT_HLT',
  spp: 'a write to a sub-page without permission: KVM_EXIT_SPP',
  shutdown: 'triple fault: KVM_EXIT_SHUTDOWN',
  error: 'KVM_EXIT_INTERNAL_ERROR',
  limit: 'the limit of steps was reached',
};

/** A register that `vcpu`, `setregs`, `run` and `expect` know. */
export interface RegisterInfo {
  readonly name: string;
  readonly doc: string;
  /** takes a limit (gdt 0x5000 limit 0x67) */
  readonly table?: boolean;
}

/** Registers by name. */
export const REGISTERS: readonly RegisterInfo[] = [
  { name: 'cr0', doc: 'control register 0: protection and paging' },
  { name: 'cr2', doc: 'linear address of the last page fault' },
  { name: 'cr3', doc: 'guest-physical address of the root page table, PCID in bits 11:0' },
  { name: 'cr4', doc: 'control register 4: paging extensions' },
  { name: 'efer', doc: 'IA32_EFER: long mode, no-execute' },
  { name: 'cpl', doc: 'current privilege level: DPL of SS and CS' },
  { name: 'rip', doc: 'instruction pointer' },
  { name: 'rflags', doc: 'flags; AC opens SMAP' },
  ...GPR_NAMES.map((name) => ({ name, doc: 'general register' })),
  { name: 'pkru', doc: 'protection keys of user pages: two bits a key, access disable and write disable' },
  { name: 'gdt', doc: 'linear address of the GDT, with `limit`', table: true },
  {
    name: 'idt',
    doc: 'linear address of the IDT, with `limit`; `none`: an exception ends the statement undelivered',
    table: true,
  },
  { name: 'tr', doc: 'linear address of the TSS, with `limit`', table: true },
  { name: 'code', doc: 'width of the code segment: 16, 32 or 64; chosen by CR0 and EFER unless given' },
];

/** What a machine setting takes. */
export type SettingKind = 'kernel' | 'switch' | 'number' | 'name' | 'names';

export interface MachineSettingInfo {
  readonly name: string;
  readonly kind: SettingKind;
  readonly doc: string;
  /** legal names with what they mean (`name`, `names`), or smallest and largest number */
  readonly values?: Readonly<Record<string, string>>;
  readonly range?: readonly [number, number];
  readonly default: string;
}

/** CPUID features of the guest. */
export const FEATURES: Readonly<Record<string, string>> = {
  nx: 'no-execute pages (EFER.NXE)',
  lm: 'long mode (EFER.LME)',
  smep: 'CR4.SMEP',
  smap: 'CR4.SMAP',
  pdpe1gb: '1G pages',
  la57: '5-level paging (CR4.LA57)',
  pku: 'protection keys for user pages (CR4.PKE)',
  pks: 'protection keys for supervisor pages (CR4.PKS)',
  pcid: 'process-context identifiers (CR4.PCIDE)',
  invpcid: 'the INVPCID instruction',
  pse36: '4M pages above 4G in 32-bit paging',
  lam: 'linear-address masking',
  shstk: 'shadow stacks',
  vmx: 'nested VMX',
  svm: 'nested SVM',
  npt: 'nested paging for nested SVM',
};

/** Settings of the `machine` block. */
export const MACHINE_SETTINGS: readonly MachineSettingInfo[] = [
  {
    name: 'kernel',
    kind: 'kernel',
    doc: 'kernel whose KVM is modelled: a release (v6.1, 6.1.176, 6.1.0-50-amd64) or a patch set',
    default: 'v6.1',
  },
  {
    name: 'vendor',
    kind: 'name',
    doc: 'processor vendor',
    values: { intel: 'VMX: EPT', amd: 'SVM: NPT' },
    default: 'intel',
  },
  {
    name: 'paging',
    kind: 'name',
    doc: 'how guest-physical memory is virtualized',
    values: { ept: 'Intel EPT', npt: 'AMD nested page tables', shadow: 'shadow page tables' },
    default: 'ept (npt on amd)',
  },
  {
    name: 'tdp_mmu',
    kind: 'switch',
    doc: 'kvm.tdp_mmu: the TDP MMU builds EPT/NPT instead of the shadow MMU',
    default: 'as the kernel',
  },
  {
    name: 'maxphyaddr',
    kind: 'number',
    range: [32, 52],
    doc: 'physical-address bits of the host',
    default: '46 (intel), 48 (amd)',
  },
  {
    name: 'guest_maxphyaddr',
    kind: 'number',
    range: [32, 52],
    doc: 'physical-address bits in the CPUID of the guest',
    default: 'maxphyaddr',
  },
  {
    name: 'features',
    kind: 'names',
    doc: 'CPUID features of the guest',
    values: FEATURES,
    default: 'nx, lm, smep, smap, pdpe1gb, pcid',
  },
  { name: 'mmio_caching', kind: 'switch', doc: 'kvm.mmio_caching: remember MMIO pages in sptes', default: 'on' },
  {
    name: 'nx_huge_pages',
    kind: 'switch',
    doc: 'kvm.nx_huge_pages: huge pages are not executable (iTLB multihit)',
    default: 'off',
  },
  {
    name: 'eager_page_split',
    kind: 'switch',
    doc: 'kvm.eager_page_split: split huge pages when dirty logging starts',
    default: 'on',
  },
  { name: 'ept_ad', kind: 'switch', doc: 'kvm_intel.eptad: EPT accessed and dirty flags', default: 'on' },
  { name: 'pml', kind: 'switch', doc: 'kvm_intel.pml: page-modification logging', default: 'off' },
  {
    name: 'l1tf',
    kind: 'switch',
    doc: 'the host is affected by L1TF: MMIO sptes have their high address bits set',
    default: 'off',
  },
  {
    name: 'tss_addr',
    kind: 'number',
    range: [0, 0xffffffff],
    doc: 'KVM_SET_TSS_ADDR: a private memslot of kvm_intel for real-mode guests; it exists only without EPT',
    default: 'none',
  },
  {
    name: 'flush_on_reuse',
    kind: 'switch',
    doc: 'kvm.flush_on_reuse: a cached root is synced and flushed whenever it is used again',
    default: 'off',
  },
  {
    name: 'ept_levels',
    kind: 'number',
    range: [4, 5],
    doc: 'levels that the processor’s EPT can have; five are used when the guest has more than 48 physical-address bits',
    default: '4',
  },
  {
    name: 'host_levels',
    kind: 'number',
    range: [4, 5],
    doc: 'levels of the host page tables, and of NPT',
    default: '4',
  },
  {
    name: 'processor',
    kind: 'names',
    doc: 'deviations of an emulated processor, to repeat a run made on one',
    values: {
      silicon: 'as SDM and APM say',
      ...QUIRKS,
      'no-nrips': 'no next-RIP save (AMD): KVM decodes an instruction just to skip it',
      'no-decode-assists': 'no instruction bytes in the VMCB (AMD): KVM fetches what it emulates',
    },
    default: 'silicon',
  },
  {
    name: 'smram',
    kind: 'name',
    doc: 'how SMM sees its own memory',
    values: {
      'address-spaces': 'two address spaces, as merged in v4.2',
      flag: 'KVM_MEM_X86_SMRAM on a slot (RFC of 2015)',
      'three-state': 'slots for SMM, for normal mode, or for both (proposed in the review of the RFC)',
    },
    default: 'as the kernel',
  },
  {
    name: 'spp',
    kind: 'switch',
    doc: 'sub-page write permissions (kernels spp-rfc-2018 and spp-v12, with EPT)',
    default: 'on in those kernels',
  },
  {
    name: 'dirty_log',
    kind: 'names',
    doc: 'KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2',
    values: {
      'manual-protect': 'KVM_GET_DIRTY_LOG only copies the bitmap, KVM_CLEAR_DIRTY_LOG arms the pages again',
      'initially-set': 'all pages start dirty (with manual-protect)',
    },
    default: 'none: KVM_GET_DIRTY_LOG arms them',
  },
];

/** Kernel names offered in lists. */
export const KERNEL_NAMES: readonly string[] = KERNEL_ERAS.map((e) => e.id);

/** Event names that `expect event` knows with their fields, as src/kvm/events.ts defines them (a test compares the two). */
export const EVENT_FIELDS: Readonly<Record<string, readonly string[]>> = (() => {
  const page = ['mmu_valid_gen', 'gfn', 'role', 'root_count', 'unsync'];
  const fault = ['gpa', 'gva', 'code', 'write', 'fetch', 'user'];
  const table: Record<string, readonly string[]> = {
    kvm_mmu_get_page: [...page, 'created'],
    kvm_mmu_prepare_zap_page: page,
    kvm_mmu_sync_page: page,
    kvm_mmu_unsync_page: page,
    kvm_mmu_pagetable_walk: ['addr', 'pferr'],
    kvm_mmu_paging_element: ['pte', 'level'],
    kvm_mmu_set_accessed_bit: ['gpa'],
    kvm_mmu_set_dirty_bit: ['gpa'],
    kvm_mmu_walker_error: ['pferr'],
    kvm_mmu_set_spte: ['gfn', 'spte', 'sptep', 'level', 'r', 'x', 'u'],
    kvm_mmu_spte_requested: ['gfn', 'pfn', 'level'],
    kvm_tdp_mmu_spte_changed: ['as_id', 'gfn', 'level', 'old_spte', 'new_spte'],
    mark_mmio_spte: ['sptep', 'gfn', 'access', 'gen'],
    check_mmio_spte: ['spte', 'kvm_gen', 'spte_gen'],
    handle_mmio_page_fault: ['addr', 'gfn', 'access'],
    fast_page_fault: ['cr2_or_gpa', 'error_code', 'sptep', 'old_spte', 'new_spte', 'ret'],
    kvm_mmu_zap_all_fast: ['mmu_valid_gen', 'mmu_used_pages'],
    kvm_mmu_split_huge_page: ['gfn', 'spte', 'level', 'errno'],
    kvm_page_fault: ['guest_rip', 'fault_address', 'error_code'],
    kvm_exit: ['reason', 'exit_reason', 'guest_rip', 'info1', 'info2', 'intr_info', 'error_code'],
    kvm_nested_vmexit: ['reason', 'exit_reason', 'guest_rip', 'info1', 'info2', 'intr_info', 'error_code'],
    kvm_nested_vmenter: ['rip', 'nested_rip', 'vmcb', 'int_ctl', 'event_inj', 'tdp_enabled', 'guest_pgd'],
    kvm_nested_intercepts: ['cr_read', 'cr_write', 'exceptions', 'intercept1', 'intercept2', 'intercept3'],
    kvm_nested_vmexit_inject: ['exit_code', 'exit_info1', 'exit_info2', 'exit_int_info', 'exit_int_info_err'],
    kvm_entry: ['rip'],
    kvm_inj_exception: ['exception', 'has_error', 'error_code', 'reinjected'],
    vcpu_match_mmio: ['gva', 'gpa', 'write', 'gpa_match'],
    kvm_mmio: ['type', 'len', 'gpa', 'val'],
    kvm_pio: ['rw', 'port', 'size', 'count', 'val'],
    kvm_emulate_insn: ['rip', 'csbase', 'insn', 'len', 'failed'],
    kvm_userspace_exit: ['reason', 'errno'],
    kvm_smm_transition: ['smbase', 'entering'],
    kvm_unmap_hva_range: ['start', 'end'],
    guest_page_fault: ['gva', 'errorCode', 'injected'],
    guest_exception: ['vector', 'errorCode'],
    ept_violation: fault,
    ept_misconfig: fault,
    npf: fault,
    spp_miss: fault,
    spp_misconfig: fault,
    kvm_spp_set_subpages: ['gfn', 'npages', 'access'],
    kvm_spp_induced_page_fault: ['gpa', 'insn_len'],
    mmio_hit: ['gpa', 'gfn', 'write', 'spte', 'generation', 'how'],
    smm_enter: ['smbase'],
    smm_exit: ['smbase'],
    role_changed: ['mmu', 'cpu_role', 'root_role', 'old_cpu_role', 'old_root_role'],
    root_switched: ['mmu', 'root_hpa', 'pgd'],
    memslot_changed: ['as_id', 'id', 'change', 'generation'],
    memslot_error: ['as_id', 'id', 'errno', 'text'],
    tlb_flush: ['scope', 'reason'],
    l2_enter: ['reason'],
    l2_exit: ['reason'],
  };
  return Object.fromEntries(Object.entries(table).map(([name, fields]) => [name, [...fields, 'vcpu']]));
})();

/** Fields of events that hold a word with flag names, for values like `error_code P|W`. */
export const FIELD_FLAGS: Readonly<Record<string, readonly Flag[]>> = {
  pferr: PF_ERROR_FLAGS,
  error_code: PF_ERROR_FLAGS,
  errorCode: PF_ERROR_FLAGS,
};

/** What `expect spte … is` can say. */
export const SPTE_KINDS: Readonly<Record<string, string>> = {
  none: 'zero or the non-present value: nothing is mapped',
  leaf: 'maps memory',
  table: 'points to a lower table',
  mmio: 'a cached MMIO page',
  frozen: 'being changed by another vCPU (REMOVED_SPTE, FROZEN_SPTE)',
  present: 'leaf or table',
};

/** What `expect tlb ADDRESS …` can say. */
export const TLB_STATES: Readonly<Record<string, string>> = {
  stale: 'an entry is there and the tables in memory no longer say the same: a flush is missing',
  fresh: 'an entry is there and the tables in memory still say the same',
};

/** Fields of an spte in `expect spte … is KIND field value` that are not bits of its layout. */
export const SPTE_FIELDS: Readonly<Record<string, string>> = {
  gen: 'memslot generation stored in an MMIO spte',
  gfn: 'frame stored in an MMIO spte',
  access: 'access stored in an MMIO spte',
  pfn: 'host frame of a leaf or a table',
  level: 'level at which the walk ended',
};

/** State that `expect NAME value` can ask for beside registers. Roles take `.field` (cpu_role.smm). */
export const STATES: Readonly<Record<string, string>> = {
  smm: '1 while the vCPU is in system management mode',
  smbase: 'SMBASE',
  guest_mode: '1 while the vCPU runs L2',
  cpu_role: 'cpu_role of the current MMU, with .field for one of its fields',
  root_role: 'root_role (mmu_role.base before v5.19) of the current MMU, with .field',
  root_level: 'level of the current root',
  sppt_root: 'host-physical address of the SPPT (SPPTP, VMCS field 0x2030); all ones when there is none',
  root_hpa: 'host-physical address of the current root; all ones when there is none',
  generation: 'memslot generation of address space 0; generation.1 for address space 1',
  memslots: 'number of memslots in address space 0; memslots.1 for address space 1',
  memslot_lookups: 'memslot searches during the last statement',
  shadow_pages: 'shadow pages in use, of the shadow MMU and the TDP MMU together',
  mmu_valid_gen: 'generation of shadow pages',
};
