/** Why a VM exit, a page-fault handler or an ioctl came back: exit reasons, RET_PF_* per era, memslot flags, errnos. */
import { WordError } from './address';
import type { KernelRange, KernelSpec, PatchSet } from './kernels';
import { inRange, rangeText, toKernel } from './kernels';
import type { WordLayout } from './word';

/** Basic exit reasons (names without EXIT_REASON_). SPP (66) is not in mainline's list. Source: SDM vol. 3D, app. C. */
export const VMX_EXIT_REASONS: Readonly<Record<number, string>> = {
  ...{ 0: 'EXCEPTION_NMI', 1: 'EXTERNAL_INTERRUPT', 2: 'TRIPLE_FAULT', 3: 'INIT_SIGNAL', 4: 'SIPI_SIGNAL' },
  ...{ 6: 'OTHER_SMI', 7: 'INTERRUPT_WINDOW', 8: 'NMI_WINDOW', 9: 'TASK_SWITCH', 10: 'CPUID', 12: 'HLT', 13: 'INVD' },
  ...{ 14: 'INVLPG', 15: 'RDPMC', 16: 'RDTSC', 18: 'VMCALL', 19: 'VMCLEAR', 20: 'VMLAUNCH', 21: 'VMPTRLD' },
  ...{ 22: 'VMPTRST', 23: 'VMREAD', 24: 'VMRESUME', 25: 'VMWRITE', 26: 'VMOFF', 27: 'VMON', 28: 'CR_ACCESS' },
  ...{ 29: 'DR_ACCESS', 30: 'IO_INSTRUCTION', 31: 'MSR_READ', 32: 'MSR_WRITE', 33: 'INVALID_STATE' },
  ...{ 34: 'MSR_LOAD_FAIL', 36: 'MWAIT_INSTRUCTION', 37: 'MONITOR_TRAP_FLAG', 39: 'MONITOR_INSTRUCTION' },
  ...{ 40: 'PAUSE_INSTRUCTION', 41: 'MCE_DURING_VMENTRY', 43: 'TPR_BELOW_THRESHOLD', 44: 'APIC_ACCESS' },
  ...{ 45: 'EOI_INDUCED', 46: 'GDTR_IDTR', 47: 'LDTR_TR', 48: 'EPT_VIOLATION', 49: 'EPT_MISCONFIG', 50: 'INVEPT' },
  ...{ 51: 'RDTSCP', 52: 'PREEMPTION_TIMER', 53: 'INVVPID', 54: 'WBINVD', 55: 'XSETBV', 56: 'APIC_WRITE' },
  ...{ 57: 'RDRAND', 58: 'INVPCID', 59: 'VMFUNC', 60: 'ENCLS', 61: 'RDSEED', 62: 'PML_FULL', 63: 'XSAVES' },
  ...{ 64: 'XRSTORS', 66: 'SPP', 67: 'UMWAIT', 68: 'TPAUSE', 74: 'BUS_LOCK', 75: 'NOTIFY' },
};

/** SVM exit codes (names without SVM_EXIT_). Source: APM vol. 2, appendix C; arch/x86/include/uapi/asm/svm.h. */
export const SVM_EXIT_CODES: Readonly<Record<number, string>> = {
  ...{ 0x000: 'READ_CR0', 0x003: 'READ_CR3', 0x004: 'READ_CR4', 0x008: 'READ_CR8' },
  ...{ 0x010: 'WRITE_CR0', 0x013: 'WRITE_CR3', 0x014: 'WRITE_CR4', 0x018: 'WRITE_CR8' },
  ...{ 0x041: 'EXCP_BASE+DB', 0x043: 'EXCP_BASE+BP', 0x046: 'EXCP_BASE+UD', 0x04d: 'EXCP_BASE+GP' },
  ...{ 0x04e: 'EXCP_BASE+PF', 0x051: 'EXCP_BASE+AC', 0x052: 'EXCP_BASE+MC' },
  ...{ 0x060: 'INTR', 0x061: 'NMI', 0x062: 'SMI', 0x063: 'INIT', 0x064: 'VINTR', 0x065: 'CR0_SEL_WRITE' },
  ...{ 0x066: 'IDTR_READ', 0x067: 'GDTR_READ', 0x068: 'LDTR_READ', 0x069: 'TR_READ' },
  ...{ 0x06a: 'IDTR_WRITE', 0x06b: 'GDTR_WRITE', 0x06c: 'LDTR_WRITE', 0x06d: 'TR_WRITE' },
  ...{ 0x06e: 'RDTSC', 0x06f: 'RDPMC', 0x070: 'PUSHF', 0x071: 'POPF', 0x072: 'CPUID', 0x073: 'RSM', 0x074: 'IRET' },
  ...{ 0x075: 'SWINT', 0x076: 'INVD', 0x077: 'PAUSE', 0x078: 'HLT', 0x079: 'INVLPG', 0x07a: 'INVLPGA' },
  ...{ 0x07b: 'IOIO', 0x07c: 'MSR', 0x07d: 'TASK_SWITCH', 0x07e: 'FERR_FREEZE', 0x07f: 'SHUTDOWN' },
  ...{ 0x080: 'VMRUN', 0x081: 'VMMCALL', 0x082: 'VMLOAD', 0x083: 'VMSAVE', 0x084: 'STGI', 0x085: 'CLGI' },
  ...{ 0x086: 'SKINIT', 0x087: 'RDTSCP', 0x088: 'ICEBP', 0x089: 'WBINVD', 0x08a: 'MONITOR', 0x08b: 'MWAIT' },
  ...{ 0x08c: 'MWAIT_COND', 0x08d: 'XSETBV', 0x08e: 'RDPRU', 0x08f: 'EFER_WRITE_TRAP', 0x090: 'CR0_WRITE_TRAP' },
  ...{ 0x0a2: 'INVPCID', 0x400: 'NPF', 0x401: 'AVIC_INCOMPLETE_IPI', 0x402: 'AVIC_UNACCELERATED_ACCESS' },
  ...{ 0x403: 'VMGEXIT' },
};

/** kvm_run.exit_reason (names without KVM_EXIT_). Source: include/uapi/linux/kvm.h. */
export const KVM_EXIT_REASONS: Readonly<Record<number, string>> = {
  ...{ 0: 'UNKNOWN', 1: 'EXCEPTION', 2: 'IO', 3: 'HYPERCALL', 4: 'DEBUG', 5: 'HLT', 6: 'MMIO' },
  ...{ 7: 'IRQ_WINDOW_OPEN', 8: 'SHUTDOWN', 9: 'FAIL_ENTRY', 10: 'INTR', 11: 'SET_TPR', 12: 'TPR_ACCESS' },
  ...{ 16: 'NMI', 17: 'INTERNAL_ERROR', 24: 'SYSTEM_EVENT', 26: 'IOAPIC_EOI', 27: 'HYPERV' },
  ...{ 29: 'X86_RDMSR', 30: 'X86_WRMSR', 31: 'DIRTY_RING_FULL', 32: 'AP_RESET_HOLD', 33: 'X86_BUS_LOCK' },
  ...{ 34: 'XEN', 37: 'NOTIFY', 39: 'MEMORY_FAULT' },
};

/** Exit reason field of the VMCS. */
export const VMX_EXIT_REASON: WordLayout = {
  id: 'vmx_exit_reason',
  word: 'vmx_exit_reason',
  title: 'VMX exit reason',
  size: 32,
  vendor: 'intel',
  source: 'SDM vol. 3C, basic VM-exit information, and vol. 3D, appendix C',
  fields: [
    { name: 'reason', lsb: 0, width: 16, meaning: 'Basic exit reason.', values: VMX_EXIT_REASONS },
    { name: 'enclave', lsb: 27, width: 1, meaning: 'In enclave mode.' },
    { name: 'pending_mtf', lsb: 28, width: 1, meaning: 'A monitor trap flag exit is pending.' },
    { name: 'from_root', lsb: 29, width: 1, meaning: 'Exit from VMX root operation.' },
    { name: 'entry_failure', lsb: 31, width: 1, meaning: 'VM entry failed.' },
  ],
  summarize: (field) => {
    const more = ['enclave', 'pending_mtf', 'from_root', 'entry_failure'].filter((n) => field(n) !== 0n);
    return [VMX_EXIT_REASONS[Number(field('reason'))] ?? `reason ${field('reason')}`, ...more].join(', ');
  },
};

/** EXITCODE field of the VMCB; all ones is VMEXIT_INVALID. */
export const SVM_EXIT_CODE: WordLayout = {
  id: 'svm_exit_code',
  word: 'svm_exit_code',
  title: 'SVM exit code',
  size: 64,
  vendor: 'amd',
  source: 'APM vol. 2, appendix C',
  fields: [{ name: 'code', lsb: 0, width: 64, meaning: 'Exit code.', format: 'hex', values: SVM_EXIT_CODES }],
  summarize: (field) => {
    const code = field('code');
    if (code === (1n << 64n) - 1n) return 'INVALID: the VMCB state is not consistent';
    return SVM_EXIT_CODES[Number(code)] ?? `exit code 0x${code.toString(16)}`;
  },
};

/** kvm_run.exit_reason. */
export const KVM_EXIT_REASON: WordLayout = {
  id: 'kvm_exit_reason',
  word: 'kvm_exit_reason',
  title: 'KVM_RUN exit reason',
  size: 32,
  source: 'include/uapi/linux/kvm.h',
  fields: [{ name: 'reason', lsb: 0, width: 32, meaning: 'kvm_run.exit_reason.', values: KVM_EXIT_REASONS }],
  notes: ['The SPP postings used 28 (up to the ninth) or 29 (the twelfth) for KVM_EXIT_SPP, out of tree.'],
  summarize: (field) => {
    const name = KVM_EXIT_REASONS[Number(field('reason'))];
    return name ? `KVM_EXIT_${name}` : `exit reason ${field('reason')}`;
  },
};

/** Interruption information of the VMCS (`intr_info` of kvm_exit), also the shape of IDT-vectoring information. */
export const INTERRUPTION_INFO: WordLayout = {
  id: 'interruption_info',
  word: 'interruption_info',
  title: 'VM-exit interruption information',
  size: 32,
  vendor: 'intel',
  source: 'SDM vol. 3C, information for VM exits due to vectored events',
  fields: [
    {
      name: 'vector',
      lsb: 0,
      width: 8,
      meaning: 'Vector of the interrupt or exception.',
      values: { 1: '#DB', 2: 'NMI', 3: '#BP', 6: '#UD', 8: '#DF', 13: '#GP', 14: '#PF', 17: '#AC', 18: '#MC' },
    },
    {
      name: 'type',
      lsb: 8,
      width: 3,
      meaning: 'Kind of event.',
      values: {
        0: 'external interrupt',
        2: 'NMI',
        3: 'hardware exception',
        4: 'software interrupt',
        5: 'privileged software exception',
        6: 'software exception',
        7: 'other event',
      },
    },
    { name: 'error_code_valid', lsb: 11, width: 1, meaning: 'An error code was or would be delivered.' },
    { name: 'nmi_unblocking', lsb: 12, width: 1, meaning: 'NMI unblocking due to IRET.' },
    { name: 'valid', lsb: 31, width: 1, meaning: 'The field is valid.' },
  ],
  summarize: (field) => {
    if (!field('valid')) return 'no event';
    const [vector, type] = INTERRUPTION_INFO.fields;
    const what = vector.values?.[Number(field('vector'))] ?? `vector ${field('vector')}`;
    const kind = type.values?.[Number(field('type'))] ?? `type ${field('type')}`;
    return `${kind}${kind === what ? '' : ` ${what}`}${field('error_code_valid') ? ' with error code' : ''}`;
  },
};

/** Exit qualification of control-register accesses (exit reason 28). */
export const CR_QUALIFICATION: WordLayout = {
  id: 'cr_qualification',
  word: 'cr_qualification',
  title: 'control-register access exit qualification',
  size: 64,
  vendor: 'intel',
  source: 'SDM vol. 3C, exit qualification for control-register accesses',
  fields: [
    { name: 'cr', lsb: 0, width: 4, meaning: 'Number of the control register.' },
    {
      name: 'access',
      lsb: 4,
      width: 2,
      meaning: 'Kind of access.',
      values: { 0: 'mov to cr', 1: 'mov from cr', 2: 'clts', 3: 'lmsw' },
    },
    { name: 'lmsw_memory', lsb: 6, width: 1, meaning: 'LMSW with a memory operand.' },
    {
      name: 'register',
      lsb: 8,
      width: 4,
      meaning: 'General register of a MOV.',
      values: {
        ...[
          'rax',
          'rcx',
          'rdx',
          'rbx',
          'rsp',
          'rbp',
          'rsi',
          'rdi',
          'r8',
          'r9',
          'r10',
          'r11',
          'r12',
          'r13',
          'r14',
          'r15',
        ],
      },
    },
    { name: 'lmsw_source', lsb: 16, width: 16, meaning: 'Source data of LMSW.', format: 'hex' },
  ],
  summarize: (field) => {
    const register = CR_QUALIFICATION.fields[3].values?.[Number(field('register'))];
    switch (Number(field('access'))) {
      case 0:
        return `mov to cr${field('cr')} from ${register}`;
      case 1:
        return `mov from cr${field('cr')} to ${register}`;
      case 2:
        return 'clts';
      default:
        return `lmsw 0x${field('lmsw_source').toString(16)}`;
    }
  },
};

/** Exit qualification of I/O instructions (exit reason 30). */
export const IO_QUALIFICATION: WordLayout = {
  id: 'io_qualification',
  word: 'io_qualification',
  title: 'I/O instruction exit qualification',
  size: 64,
  vendor: 'intel',
  source: 'SDM vol. 3C, exit qualification for I/O instructions',
  fields: [
    {
      name: 'size',
      lsb: 0,
      width: 3,
      meaning: 'Size of the access.',
      values: { 0: '1 byte', 1: '2 bytes', 3: '4 bytes' },
    },
    { name: 'in', lsb: 3, width: 1, meaning: 'IN rather than OUT.' },
    { name: 'string', lsb: 4, width: 1, meaning: 'INS or OUTS.' },
    { name: 'rep', lsb: 5, width: 1, meaning: 'REP prefix.' },
    { name: 'immediate', lsb: 6, width: 1, meaning: 'The port is an immediate operand, not DX.' },
    { name: 'port', lsb: 16, width: 16, meaning: 'Port number.', format: 'hex' },
  ],
  summarize: (field) => ioText(field, `${Number(field('size')) + 1} byte${field('size') ? 's' : ''}`),
};

/** EXITINFO1 of SVM_EXIT_IOIO; EXITINFO2 is the address of the next instruction. */
export const IOIO_EXITINFO1: WordLayout = {
  id: 'ioio_exitinfo1',
  word: 'ioio_exitinfo1',
  title: 'I/O intercept EXITINFO1',
  size: 64,
  vendor: 'amd',
  source: 'APM vol. 2, 15.10.2 IN and OUT behavior',
  fields: [
    { name: 'in', lsb: 0, width: 1, meaning: 'IN rather than OUT.' },
    { name: 'string', lsb: 2, width: 1, meaning: 'INS or OUTS.' },
    { name: 'rep', lsb: 3, width: 1, meaning: 'REP prefix.' },
    { name: 'SZ8', lsb: 4, width: 1, meaning: '1-byte access.' },
    { name: 'SZ16', lsb: 5, width: 1, meaning: '2-byte access.' },
    { name: 'SZ32', lsb: 6, width: 1, meaning: '4-byte access.' },
    { name: 'A16', lsb: 7, width: 1, meaning: '16-bit address.' },
    { name: 'A32', lsb: 8, width: 1, meaning: '32-bit address.' },
    { name: 'A64', lsb: 9, width: 1, meaning: '64-bit address.' },
    { name: 'segment', lsb: 10, width: 3, meaning: 'Effective segment of a string access.' },
    { name: 'port', lsb: 16, width: 16, meaning: 'Port number.', format: 'hex' },
  ],
  summarize: (field) =>
    ioText(field, field('SZ8') ? '1 byte' : field('SZ16') ? '2 bytes' : field('SZ32') ? '4 bytes' : 'no size'),
};

function ioText(field: (name: string) => bigint, size: string): string {
  const rep = field('rep') ? 'rep ' : '';
  return `${rep}${field('in') ? 'in' : 'out'}${field('string') ? 's' : ''} port 0x${field('port').toString(16)}, ${size}`;
}

interface RetPfEra {
  readonly range: KernelRange;
  readonly patchSets?: readonly PatchSet[];
  readonly source: string;
  readonly names: Readonly<Record<string, number>>;
}

/** What the names mean; the numbers differ per era. */
export const RET_PF_MEANINGS: Readonly<Record<string, string>> = {
  RET_PF_CONTINUE: 'internal: go on to the next step',
  RET_PF_RETRY: 'resume the guest; it faults again if still needed',
  RET_PF_EMULATE: 'emulate the faulting instruction: MMIO, or a write-protected page table',
  RET_PF_WRITE_PROTECTED: 'the gfn is write-protected: unprotect and retry, or emulate',
  RET_PF_INVALID: 'a cached answer is stale (MMIO generation) or the fast path does not apply: run the real handler',
  RET_PF_FIXED: 'an spte was installed or changed',
  RET_PF_SPURIOUS: 'the spte already allowed the access',
  RET_PF_USERSPACE: 'exit to user space (sub-page permission)',
  RET_MMIO_PF_RETRY: 'let the processor fault again',
  RET_MMIO_PF_EMULATE: 'emulate the access',
  RET_MMIO_PF_INVALID: 'the cached MMIO spte is stale',
  RET_MMIO_PF_BUG: 'neither an MMIO spte nor zero: a bug',
};

const RET_PF_3 = { RET_PF_RETRY: 0, RET_PF_EMULATE: 1, RET_PF_INVALID: 2 };

const RET_PF_ERAS: readonly RetPfEra[] = [
  {
    range: { from: 'v3.1', to: 'v3.10' },
    source: 'v3.6 handle_mmio_page_fault_common, which returns bare numbers; named here as v3.11 does',
    names: { RET_MMIO_PF_RETRY: 0, RET_MMIO_PF_EMULATE: 1, RET_MMIO_PF_BUG: -1 },
  },
  {
    range: { from: 'v3.11', to: 'v4.15' },
    source: 'mmu.h v3.11 and v4.4; upper bound (v4.14 or v4.15) not verified',
    names: { RET_MMIO_PF_RETRY: 0, RET_MMIO_PF_EMULATE: 1, RET_MMIO_PF_INVALID: 2, RET_MMIO_PF_BUG: -1 },
  },
  { range: { from: 'v4.16', to: 'v5.9' }, source: 'mmu.c v4.19; lower bound not verified', names: RET_PF_3 },
  {
    range: { from: 'v5.10', to: 'v5.16' },
    source: 'mmu/mmu_internal.h v5.10 and v5.14',
    names: { ...RET_PF_3, RET_PF_FIXED: 3, RET_PF_SPURIOUS: 4 },
  },
  {
    range: { from: 'v5.17', to: 'v6.11' },
    source: 'mmu/mmu_internal.h v6.1; lower bound (v5.17 or v5.18) not verified',
    names: {
      ...{ RET_PF_CONTINUE: 0, RET_PF_RETRY: 1, RET_PF_EMULATE: 2 },
      ...{ RET_PF_INVALID: 3, RET_PF_FIXED: 4, RET_PF_SPURIOUS: 5 },
    },
  },
  {
    range: { from: 'v6.12', to: 'v7.3' },
    source: 'mmu/mmu_internal.h v6.12.107 and v7.3.4',
    names: {
      ...{ RET_PF_CONTINUE: 0, RET_PF_RETRY: 1, RET_PF_EMULATE: 2, RET_PF_WRITE_PROTECTED: 3 },
      ...{ RET_PF_INVALID: 4, RET_PF_FIXED: 5, RET_PF_SPURIOUS: 6 },
    },
  },
];
const RET_PF_SPP: RetPfEra = {
  range: { from: 'v5.4', to: 'v5.6' },
  patchSets: ['spp-v12'],
  source: 'SPP patches, fifth to twelfth posting',
  names: { ...RET_PF_3, RET_PF_USERSPACE: 3 },
};

/** What the page-fault path returns in a kernel, by name. A negative value that is not here is an errno. */
export function retPf(kernel: KernelSpec): Readonly<Record<string, number>> {
  return retPfEra(kernel).names;
}

function retPfEra(kernel: KernelSpec): RetPfEra {
  const version = toKernel(kernel);
  if (version.patchSet && RET_PF_SPP.patchSets!.includes(version.patchSet)) return RET_PF_SPP;
  return RET_PF_ERAS.find((e) => inRange(version, e.range))!;
}

/** Name of a value that the page-fault path returned: `RET_PF_FIXED`, `-EFAULT`, or the number if neither. */
export function retPfName(kernel: KernelSpec, value: number): string {
  const found = Object.entries(retPf(kernel)).find(([, v]) => v === value);
  return found?.[0] ?? (value < 0 ? errnoName(value) : String(value));
}

/** RET_PF_* of a kernel as a table. */
export function retPfLayout(kernel: KernelSpec): WordLayout {
  const { range, patchSets, names, source } = retPfEra(kernel);
  const kernels = patchSets?.join(', ') ?? rangeText(range);
  const values = Object.fromEntries(
    Object.entries(names)
      .filter(([, v]) => v >= 0)
      .map(([name, v]) => [v, name]),
  );
  return {
    id: `ret_pf@${patchSets?.[0] ?? range.from}`,
    word: 'ret_pf',
    title: `what the page-fault path returns, ${kernels}`,
    size: 32,
    kernels,
    source,
    fields: [{ name: 'ret', lsb: 0, width: 32, meaning: 'RET_PF_* value; negative values are errnos.', values }],
    summarize: (field) => {
      const value = Number(BigInt.asIntN(32, field('ret')));
      const name = retPfName(kernel, value);
      return RET_PF_MEANINGS[name] ? `${name}: ${RET_PF_MEANINGS[name]}` : name;
    },
  };
}

/** KVM_MEM_* flags of a memslot, with the kernel's internal one. */
export function memslotFlagsLayout(kernel: KernelSpec): WordLayout {
  const version = toKernel(kernel);
  const since = (from: string) => inRange(version, { from, to: 'v7.3' });
  const flag = (name: string, lsb: number, meaning: string) => ({ name, lsb, width: 1, meaning });
  const fields = [flag('KVM_MEM_LOG_DIRTY_PAGES', 0, 'Log dirty pages.')];
  if (since('v3.8')) fields.push(flag('KVM_MEM_READONLY', 1, 'Guest writes exit to user space.'));
  if (since('v6.8')) fields.push(flag('KVM_MEM_GUEST_MEMFD', 2, 'The slot has a guest_memfd.'));
  fields.push(flag('KVM_MEMSLOT_INVALID', 16, 'Internal: the slot is being deleted or moved.'));
  if (version.patchSet === 'seed3') fields.push(flag('KVM_MEM_X86_SMRAM', 24, 'RFC of 2015: visible only in SMM.'));
  return {
    id: `memslot_flags@${version.name}`,
    word: 'memslot_flags',
    title: 'memslot flags',
    size: 32,
    kernels: version.name,
    source: 'include/uapi/linux/kvm.h and linux/kvm_host.h; first releases of READONLY and GUEST_MEMFD not verified',
    fields,
  };
}

/** Linux errnos that KVM's ioctls return (negated). Source: include/uapi/asm-generic/errno-base.h. */
export const ERRNO = {
  ...{ EPERM: 1, ENOENT: 2, EIO: 5, ENXIO: 6, E2BIG: 7, EAGAIN: 11, ENOMEM: 12 },
  ...{ EFAULT: 14, EEXIST: 17, ENODEV: 19, EINVAL: 22, ENOSPC: 28 },
} as const;

/** `-EINVAL` for -22 (or 22); the number itself if it is no known errno. */
export function errnoName(value: number): string {
  const found = Object.entries(ERRNO).find(([, v]) => v === Math.abs(value));
  return found ? `-${found[0]}` : String(value);
}

/** Number of an errno name, `EINVAL` or `-EINVAL`, as a positive number. @throws WordError listing the known names. */
export function errnoValue(name: string): number {
  const bare = name.trim().replace(/^-/, '').toUpperCase();
  if (Object.hasOwn(ERRNO, bare)) return ERRNO[bare as keyof typeof ERRNO];
  throw new WordError(`'${name}' is not an errno that KVM returns: the names are ${Object.keys(ERRNO).join(', ')}`);
}
