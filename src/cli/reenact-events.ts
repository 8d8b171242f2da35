/**
 * Events in the form in which the kernel's and the simulator's are compared: which events count, which of their fields, and what is
 * left out and why. These two tables are the only place that decides it.
 */
import type { KvmEvent } from '../kvm/events';
import type { ProbeRun } from './reenact-state';

/**
 * How a field is compared. `value`: equal. `spte`: equal, but the frame of a table page is the kernel's own allocation and only has to
 * be the same table throughout. `sptep`: an entry's address, likewise. `vcpu`: the kernel's vcpu_id.
 */
export type FieldKind = 'value' | 'spte' | 'sptep' | 'vcpu';

const values = (...names: string[]): Record<string, FieldKind> =>
  Object.fromEntries(names.map((n) => [n, 'value' as const]));
const PAGE = values('mmu_valid_gen', 'gfn', 'role', 'root_count', 'unsync');

/** Events that are compared, with their fields. */
export const COMPARED: Readonly<Record<string, Readonly<Record<string, FieldKind>>>> = {
  kvm_mmu_get_page: { ...PAGE, created: 'value' },
  kvm_mmu_prepare_zap_page: PAGE,
  kvm_mmu_sync_page: PAGE,
  kvm_mmu_unsync_page: PAGE,
  kvm_mmu_pagetable_walk: values('addr', 'pferr'),
  kvm_mmu_paging_element: values('pte', 'level'),
  kvm_mmu_set_accessed_bit: values('gpa'),
  kvm_mmu_set_dirty_bit: values('gpa'),
  kvm_mmu_walker_error: values('pferr'),
  kvm_mmu_set_spte: { ...values('gfn', 'level', 'r', 'x', 'u'), spte: 'spte', sptep: 'sptep' },
  kvm_mmu_spte_requested: values('gfn', 'pfn', 'level'),
  kvm_tdp_mmu_spte_changed: { ...values('as_id', 'gfn', 'level'), old_spte: 'spte', new_spte: 'spte' },
  mark_mmio_spte: { ...values('gfn', 'access', 'gen'), sptep: 'sptep' },
  check_mmio_spte: values('spte', 'kvm_gen', 'spte_gen'),
  handle_mmio_page_fault: values('addr', 'gfn', 'access'),
  fast_page_fault: {
    ...values('cr2_or_gpa', 'error_code', 'old_spte', 'new_spte', 'ret'),
    sptep: 'sptep',
    vcpu_id: 'vcpu',
  },
  kvm_mmu_zap_all_fast: values('mmu_valid_gen', 'mmu_used_pages'),
  kvm_mmu_split_huge_page: { ...values('gfn', 'level', 'errno'), spte: 'value' },
  kvm_page_fault: { ...values('guest_rip', 'fault_address', 'error_code'), vcpu_id: 'vcpu' },
  kvm_exit: { ...values('exit_reason', 'guest_rip', 'info1', 'info2', 'intr_info', 'error_code'), vcpu_id: 'vcpu' },
  kvm_nested_vmexit: {
    ...values('exit_reason', 'guest_rip', 'info1', 'info2', 'intr_info', 'error_code'),
    vcpu_id: 'vcpu',
  },
  kvm_nested_vmenter: values('rip', 'vmcb', 'nested_rip', 'int_ctl', 'event_inj', 'tdp_enabled', 'guest_pgd'),
  kvm_nested_intercepts: values('cr_read', 'cr_write', 'exceptions', 'intercept1', 'intercept2', 'intercept3'),
  kvm_nested_vmexit_inject: values('exit_code', 'exit_info1', 'exit_info2', 'exit_int_info', 'exit_int_info_err'),
  kvm_inj_exception: values('exception', 'has_error', 'error_code', 'reinjected'),
  vcpu_match_mmio: values('gva', 'gpa', 'write', 'gpa_match'),
  kvm_mmio: values('type', 'len', 'gpa', 'val'),
  kvm_pio: values('rw', 'port', 'size', 'count', 'val'),
  kvm_smm_transition: { ...values('smbase', 'entering'), vcpu_id: 'vcpu' },
  kvm_unmap_hva_range: values('start', 'end'),
};

/** What events and their fields were called before: kvm_nested_vmrun up to v5.19, kvm_enter_smm up to v6.0. */
const FORMER: Readonly<Record<string, { readonly name: string; readonly fields?: Readonly<Record<string, string>> }>> =
  {
    kvm_nested_vmrun: { name: 'kvm_nested_vmenter', fields: { npt: 'tdp_enabled' } },
    kvm_enter_smm: { name: 'kvm_smm_transition' },
  };

/** Events of the kernel that are not compared, and why. */
export const LEFT_OUT: Readonly<Record<string, string>> = {
  kvm_entry: 'says where the guest goes on, which the next exit and the registers after the step say too',
  kvm_fpu: 'loading the guest FPU: no part of the MMU',
  kvm_userspace_exit: 'exits to user space are compared as what the step returned',
  kvm_emulate_insn: 'the bytes of the emulated instruction: what it accessed is compared',
  kvm_cr: 'the intercepted MOV itself: its exit and the registers after the step are compared',
  kvm_msr: 'the intercepted MSR access itself: its exit and the registers after the step are compared',
  kvm_cpuid: 'CPUID: no part of the MMU',
  kvm_hypercall: 'hypercalls: no part of the MMU',
  kvm_skinit: 'SKINIT: no part of the MMU',
  kvm_update_master_clock: 'time keeping',
  kvm_track_tsc: 'time keeping',
  kvm_write_tsc_offset: 'time keeping',
  kvm_pvclock_update: 'time keeping',
  kvm_hv_timer_state: 'time keeping',
  kvm_hv_stimer_cleanup: 'time keeping',
  kvm_wait_lapic_expire: 'time keeping',
  kvm_halt_poll_ns: 'time keeping of the host scheduler',
  kvm_vcpu_wakeup: 'time keeping of the host scheduler',
  kvm_ple_window_update: 'pause-loop exiting: host scheduling',
  kvm_apicv_inhibit_changed: 'interrupt controller',
  kvm_apic: 'interrupt controller',
  kvm_apic_accept_irq: 'interrupt controller',
  kvm_apic_ipi: 'interrupt controller',
  kvm_apicv_accept_irq: 'interrupt controller',
  kvm_eoi: 'interrupt controller',
  kvm_pv_eoi: 'interrupt controller',
  kvm_inj_virq: 'interrupt controller',
  kvm_ack_irq: 'interrupt controller',
  kvm_set_irq: 'interrupt controller',
  kvm_msi_set_irq: 'interrupt controller',
  kvm_pic_set_irq: 'interrupt controller',
  kvm_ioapic_set_irq: 'interrupt controller',
  kvm_set_spte_hva: 'the MMU notifier saw a page of the probe itself change (its program and stack, not guest memory)',
  kvm_age_hva: 'the host looks at accessed bits when it is short of memory: no step asks for it',
  kvm_test_age_hva: 'the host looks at accessed bits when it is short of memory: no step asks for it',
  kvm_pml_full: 'how often the log of dirty pages fills depends on what ran before',
};

/** kvm_exit reasons that come from the host, not from the guest: an interrupt arrived while the guest ran. */
const HOST_EXITS: Readonly<Record<'intel' | 'amd', ReadonlySet<number>>> = {
  // EXTERNAL_INTERRUPT, INTERRUPT_WINDOW, NMI_WINDOW, PREEMPTION_TIMER
  intel: new Set([1, 7, 8, 52]),
  // INTR, NMI, SMI, VINTR
  amd: new Set([0x60, 0x61, 0x62, 0x64]),
};

/** kvm_exit reasons whose information words are about the MMU; of the others reason and RIP count. */
const MMU_EXITS: Readonly<Record<'intel' | 'amd', ReadonlySet<number>>> = {
  // EXCEPTION_NMI, TRIPLE_FAULT, INVLPG, CR_ACCESS, EPT_VIOLATION, EPT_MISCONFIG, INVPCID, SPP_EVENT, PML_FULL
  intel: new Set([0, 2, 14, 28, 48, 49, 58, 62, 66]),
  // read and write CR0-CR4, #PF, CR0_SEL_WRITE, INVLPG, SHUTDOWN, NPF
  amd: new Set([0, 3, 4, 0x10, 0x13, 0x14, 0x4e, 0x65, 0x79, 0x7f, 0x400]),
};
const INFO_FIELDS = ['info1', 'info2', 'intr_info', 'error_code'];
/** Valid bit of interruption information; without it the other bits mean nothing (SDM vol. 3C 24.9.2, APM vol. 2 15.7.2). */
const INFO_VALID = 0x80000000n;
/** Linear map of the kernel's physical memory with 4- and 5-level paging (Documentation/arch/x86/x86_64/mm.rst), no KASLR. */
const DIRECT_MAPS = [0xffff888000000000n, 0xff11000000000000n];
const DIRECT_MAP_SIZE = 1n << 46n;

/** One event, ready to be compared. */
export interface NormEvent {
  name: string;
  /** in the order of {@link COMPARED} */
  fields: [name: string, value: bigint, kind: FieldKind][];
  /** where it is: line of the events file, 0 for the simulator's and for outcomes */
  line: number;
}

/** One record of the events file. */
interface RawEvent {
  event: string;
  line: number;
  fields: Record<string, bigint | string>;
}

/** The kernel's events of one step: 0 before the first one; -1 after the last ("end"), while the VM is torn down. */
export interface KernelStep {
  step: number;
  events: NormEvent[];
}

/** Events of neither table. */
export interface UnknownEvents {
  name: string;
  count: number;
}

export class EventsFileError extends Error {
  override readonly name = 'EventsFileError';
}

/**
 * Reads an events file.
 * @throws EventsFileError with the number of the first bad line
 */
export function readEvents(text: string, run: ProbeRun): { steps: KernelStep[]; unknown: UnknownEvents[] } {
  const steps: KernelStep[] = [];
  const unknown = new Map<string, number>();
  let raw: RawEvent[] = [];
  let step = Number.NaN;
  const close = (): void => {
    if (!Number.isNaN(step)) steps.push({ step, events: normaliseKernel(raw, run, unknown) });
    raw = [];
  };
  text.split('\n').forEach((line, i) => {
    if (line === '') return;
    const e = parseLine(line, i + 1);
    if (e.event !== 'marker') {
      raw.push(e);
      return;
    }
    const marker = String(e.fields.text ?? '');
    const m = /^PROBE \S+ (?:step (\d+):|(begin|end)\b)/.exec(marker);
    if (!m) return;
    close();
    step = m[1] !== undefined ? Number(m[1]) : m[2] === 'begin' ? 0 : -1;
  });
  close();
  if (steps.length === 0)
    throw new EventsFileError('the events file has no "PROBE … begin" marker: is it the one of this state file?');
  return { steps, unknown: [...unknown].map(([name, count]) => ({ name, count })) };
}

function parseLine(line: string, number: number): RawEvent {
  let raw: unknown;
  try {
    raw = JSON.parse(line);
  } catch {
    raw = null;
  }
  const record = raw as Record<string, unknown> | null;
  if (typeof record !== 'object' || record === null || typeof record.event !== 'string')
    throw new EventsFileError(
      `line ${number} of the events file is not a trace record: it should be a JSON object with an "event"`,
    );
  const fields: Record<string, bigint | string> = {};
  for (const [name, value] of Object.entries(record)) {
    if (name === 'event') continue;
    if (typeof value === 'number' && Number.isInteger(value)) fields[name] = BigInt(value);
    else if (typeof value === 'string' && /^-?0x[0-9a-f]+$/i.test(value)) fields[name] = BigInt(value);
    else fields[name] = String(value);
  }
  const former = FORMER[record.event];
  for (const [was, is] of Object.entries(former?.fields ?? {})) if (was in fields) fields[is] = fields[was];
  return { event: former?.name ?? record.event, line: number, fields };
}

function normaliseKernel(raw: RawEvent[], run: ProbeRun, unknown: Map<string, number>): NormEvent[] {
  const out: NormEvent[] = [];
  /** a host interrupt cut the delivery of an event short, so that the next injection repeats it */
  let repeated = false;
  for (const e of raw) {
    const spec = COMPARED[e.event];
    if (!spec) {
      // Until the guest runs again, KVM injects an event once more whenever something for the host comes in between.
      if (e.event === 'kvm_entry') repeated = false;
      if (!(e.event in LEFT_OUT)) unknown.set(e.event, (unknown.get(e.event) ?? 0) + 1);
      continue;
    }
    if (isExit(e.event) && HOST_EXITS[run.vendor].has(Number(e.fields.exit_reason))) {
      const info = run.vendor === 'amd' ? e.fields.intr_info : e.fields.info2;
      repeated = typeof info === 'bigint' && (info & INFO_VALID) !== 0n;
      continue;
    }
    if (e.event === 'kvm_inj_exception') {
      if (repeated && e.fields.reinjected === 1n) continue;
      repeated = true;
    }
    if (e.event === 'kvm_unmap_hva_range' && !touchesGuestMemory(e, run)) continue;
    const fields: NormEvent['fields'] = [];
    for (const [name, kind] of Object.entries(spec)) {
      const v = e.fields[name];
      if (typeof v === 'bigint') fields.push([name, kernelValue(name, kind, v), kind]);
    }
    out.push(finish({ name: e.event, fields, line: e.line }, run.vendor));
  }
  return out;
}

/** Pointers into the linear map become physical addresses. */
function kernelValue(name: string, kind: FieldKind, v: bigint): bigint {
  if (kind !== 'sptep') return v;
  for (const base of DIRECT_MAPS) if (v >= base && v < base + DIRECT_MAP_SIZE) return v - base;
  return v;
}

function touchesGuestMemory(e: RawEvent, run: ProbeRun): boolean {
  const { start, end } = e.fields;
  if (typeof start !== 'bigint' || typeof end !== 'bigint') return false;
  const slots = [...run.initial.memslots, ...run.steps.flatMap((s) => (s.kind === 'memslot' ? s.memslots : []))];
  return slots.some((s) => start < s.hva + s.size && s.hva < end);
}

/** An exit of the guest, and the same once more when the guest was L2. */
const isExit = (name: string): boolean => name === 'kvm_exit' || name === 'kvm_nested_vmexit';

/** Rules that hold for both sides. */
function finish(e: NormEvent, vendor: 'intel' | 'amd'): NormEvent {
  if (!isExit(e.name)) return e;
  const reason = e.fields.find(([n]) => n === 'exit_reason')?.[1] ?? -1n;
  const about = MMU_EXITS[vendor].has(Number(reason));
  const fields = e.fields.filter(([n]) => about || !INFO_FIELDS.includes(n));
  const intr = fields.find(([n]) => n === 'intr_info');
  if (intr && (intr[1] & INFO_VALID) === 0n) intr[1] = 0n;
  return { ...e, fields };
}

/** An event of the simulator in the same form; null for those without a counterpart in the kernel's trace. */
export function normaliseSimulated(e: KvmEvent, vendor: 'intel' | 'amd'): NormEvent | null {
  const spec = COMPARED[e.kind];
  if (!spec) return null;
  const record = e as unknown as Record<string, unknown>;
  const fields: NormEvent['fields'] = [];
  for (const [name, kind] of Object.entries(spec)) {
    const v = record[kind === 'vcpu' ? 'vcpu' : name];
    if (typeof v === 'bigint') fields.push([name, v, kind]);
    else if (typeof v === 'number') fields.push([name, BigInt(v), kind]);
    else if (typeof v === 'boolean') fields.push([name, v ? 1n : 0n, kind]);
  }
  return finish({ name: e.kind, fields, line: 0 }, vendor);
}

/** The event as one line of text. */
export function eventText(e: NormEvent): string {
  const show = (v: bigint): string => (v < 0n ? String(v) : v < 10n ? String(v) : `0x${v.toString(16)}`);
  return `${e.name} ${e.fields.map(([name, v]) => `${name}=${show(v)}`).join(' ')}`;
}
