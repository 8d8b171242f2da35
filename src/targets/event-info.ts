/**
 * The events for people: which fields each has, how a field is written, and an event in one line. Conditions, logpoints,
 * the timeline, the CLI and the debug console all name events and fields by this table; TypeScript checks that it names
 * every event of src/kvm/events.ts and every field of each.
 */
import type { KvmEvent, KvmEventKind } from '../kvm/events';
import type { ExprValue } from './expr';

/** hex: an address or a word; frame: a frame number; dec: a count; flag: yes or no; text; role, spte, access: words. */
export type FieldForm =
  'hex' | 'frame' | 'dec' | 'flag' | 'text' | 'role' | 'cpu_role' | 'spte' | 'access' | 'npferr' | 'pf';

export type EventCategory = 'fault' | 'exit' | 'mmu' | 'mmio' | 'smm' | 'memslot' | 'role' | 'tlb' | 'nested' | 'other';

/** The type of the events of one kind. */
export type EventOf<K extends KvmEventKind, E = KvmEvent> = E extends { readonly kind: infer Kinds }
  ? K extends Kinds
    ? E
    : never
  : never;
type OwnFields<K extends KvmEventKind> = Exclude<keyof EventOf<K>, 'kind' | 'vcpu' | 'why'>;

export interface EventInfo<F extends PropertyKey = string> {
  readonly category: EventCategory;
  /** what it means that this event happens, for completion and hover */
  readonly meaning: string;
  readonly fields: Readonly<Record<F, FieldForm>>;
}

const PAGE = { gfn: 'frame', role: 'role', root_count: 'dec', unsync: 'flag', mmu_valid_gen: 'dec' } as const;
const FAULT = { gpa: 'hex', gva: 'hex', code: 'hex', write: 'flag', fetch: 'flag', user: 'flag' } as const;

const TABLE: { readonly [K in KvmEventKind]: EventInfo<OwnFields<K>> } = {
  kvm_mmu_get_page: {
    category: 'mmu',
    meaning: 'A shadow page was found or created.',
    fields: { ...PAGE, created: 'flag' },
  },
  kvm_mmu_prepare_zap_page: { category: 'mmu', meaning: 'A shadow page is being zapped.', fields: PAGE },
  kvm_mmu_sync_page: {
    category: 'mmu',
    meaning: 'An unsync shadow page is synchronised with its guest table.',
    fields: PAGE,
  },
  kvm_mmu_unsync_page: {
    category: 'mmu',
    meaning: 'A shadow page becomes unsync: the guest may write the table.',
    fields: PAGE,
  },
  kvm_mmu_pagetable_walk: {
    category: 'mmu',
    meaning: 'KVM walks the guest page tables.',
    fields: { addr: 'hex', pferr: 'pf' },
  },
  kvm_mmu_paging_element: {
    category: 'mmu',
    meaning: 'KVM read a guest page-table entry.',
    fields: { pte: 'hex', level: 'dec' },
  },
  kvm_mmu_set_accessed_bit: {
    category: 'mmu',
    meaning: 'KVM sets the accessed bit of a guest entry.',
    fields: { gpa: 'hex' },
  },
  kvm_mmu_set_dirty_bit: {
    category: 'mmu',
    meaning: 'KVM sets the dirty bit of a guest entry.',
    fields: { gpa: 'hex' },
  },
  kvm_mmu_walker_error: { category: 'fault', meaning: 'The guest walk ended in a fault.', fields: { pferr: 'pf' } },
  kvm_mmu_set_spte: {
    category: 'mmu',
    meaning: 'A leaf spte was written.',
    fields: { gfn: 'frame', level: 'dec', spte: 'spte', r: 'flag', x: 'flag', u: 'dec', sptep: 'hex' },
  },
  kvm_mmu_spte_requested: {
    category: 'mmu',
    meaning: 'KVM is about to map a page at a level.',
    fields: { gfn: 'frame', pfn: 'frame', level: 'dec' },
  },
  kvm_tdp_mmu_spte_changed: {
    category: 'mmu',
    meaning: 'The TDP MMU changed an spte.',
    fields: { as_id: 'dec', gfn: 'frame', level: 'dec', old_spte: 'spte', new_spte: 'spte' },
  },
  mark_mmio_spte: {
    category: 'mmio',
    meaning: 'An MMIO spte was cached.',
    fields: { gfn: 'frame', access: 'access', gen: 'hex', sptep: 'hex' },
  },
  check_mmio_spte: {
    category: 'mmio',
    meaning: 'The generation of a cached MMIO spte is compared with that of the memslots.',
    fields: { spte: 'spte', kvm_gen: 'hex', spte_gen: 'hex' },
  },
  handle_mmio_page_fault: {
    category: 'mmio',
    meaning: 'A fault is answered by a cached MMIO spte.',
    fields: { addr: 'hex', gfn: 'frame', access: 'access' },
  },
  fast_page_fault: {
    category: 'mmu',
    meaning: 'A fault was fixed without mmu_lock.',
    fields: { cr2_or_gpa: 'hex', error_code: 'npferr', sptep: 'hex', old_spte: 'spte', new_spte: 'spte', ret: 'dec' },
  },
  kvm_mmu_zap_all_fast: {
    category: 'mmu',
    meaning: 'All shadow pages become obsolete.',
    fields: { mmu_valid_gen: 'dec', mmu_used_pages: 'dec' },
  },
  kvm_mmu_split_huge_page: {
    category: 'mmu',
    meaning: 'A huge spte was split eagerly.',
    fields: { gfn: 'frame', spte: 'spte', level: 'dec', errno: 'dec' },
  },
  kvm_page_fault: {
    category: 'exit',
    meaning: 'A page fault or EPT violation arrives at KVM.',
    fields: { fault_address: 'hex', error_code: 'npferr', guest_rip: 'hex' },
  },
  kvm_exit: {
    category: 'exit',
    meaning: 'The guest exits to KVM.',
    fields: {
      reason: 'text',
      exit_reason: 'dec',
      guest_rip: 'hex',
      info1: 'hex',
      info2: 'hex',
      intr_info: 'hex',
      error_code: 'hex',
    },
  },
  kvm_entry: { category: 'exit', meaning: 'KVM enters the guest.', fields: { rip: 'hex' } },
  kvm_inj_exception: {
    category: 'fault',
    meaning: 'KVM injects an exception into the guest.',
    fields: { exception: 'dec', has_error: 'flag', error_code: 'hex', reinjected: 'flag' },
  },
  vcpu_match_mmio: {
    category: 'mmio',
    meaning: 'The one-entry MMIO cache of the vCPU matched.',
    fields: { gva: 'hex', gpa: 'hex', write: 'flag', gpa_match: 'flag' },
  },
  kvm_mmio: {
    category: 'mmio',
    meaning: 'An MMIO access: 0 read that needs user space, 1 read with its value, 2 write.',
    fields: { type: 'dec', len: 'dec', gpa: 'hex', val: 'hex' },
  },
  kvm_pio: {
    category: 'exit',
    meaning: 'A port access.',
    fields: { rw: 'flag', port: 'hex', size: 'dec', count: 'dec', val: 'hex' },
  },
  kvm_emulate_insn: {
    category: 'exit',
    meaning: 'KVM emulates an instruction.',
    fields: { rip: 'hex', csbase: 'hex', insn: 'text', len: 'dec', failed: 'flag' },
  },
  kvm_userspace_exit: {
    category: 'exit',
    meaning: 'KVM_RUN returns to user space.',
    fields: { reason: 'dec', errno: 'dec' },
  },
  kvm_smm_transition: {
    category: 'smm',
    meaning: 'The vCPU enters or leaves SMM.',
    fields: { smbase: 'hex', entering: 'flag' },
  },
  kvm_unmap_hva_range: {
    category: 'mmu',
    meaning: 'The host takes pages away (MMU notifier).',
    fields: { start: 'hex', end: 'hex' },
  },

  guest_page_fault: {
    category: 'fault',
    meaning: 'The guest gets a #PF.',
    fields: { gva: 'hex', errorCode: 'pf', injected: 'flag' },
  },
  guest_exception: {
    category: 'fault',
    meaning: 'The guest gets an exception.',
    fields: { vector: 'dec', errorCode: 'hex' },
  },
  ept_violation: { category: 'fault', meaning: 'The processor exits with an EPT violation.', fields: FAULT },
  ept_misconfig: { category: 'fault', meaning: 'The processor exits with an EPT misconfiguration.', fields: FAULT },
  npf: { category: 'fault', meaning: 'The processor exits with a nested page fault.', fields: FAULT },
  spp_miss: { category: 'fault', meaning: 'The processor exits with an SPP miss.', fields: FAULT },
  spp_misconfig: { category: 'fault', meaning: 'The processor exits with an SPP misconfiguration.', fields: FAULT },
  kvm_spp_set_subpages: {
    category: 'mmu',
    meaning: 'User space set the sub-page permissions of pages.',
    fields: { gfn: 'frame', npages: 'dec', access: 'hex' },
  },
  kvm_spp_induced_page_fault: {
    category: 'fault',
    meaning: 'A write to a sub-page without permission goes to user space (KVM_EXIT_SPP).',
    fields: { gpa: 'hex', insn_len: 'dec' },
  },
  mmio_hit: {
    category: 'mmio',
    meaning: 'An access was recognised as MMIO by a cache, without a memslot search.',
    fields: { gpa: 'hex', gfn: 'frame', write: 'flag', spte: 'spte', generation: 'hex', how: 'text' },
  },

  smm_enter: { category: 'smm', meaning: 'The vCPU has entered SMM.', fields: { smbase: 'hex' } },
  smm_exit: { category: 'smm', meaning: 'The vCPU has left SMM.', fields: { smbase: 'hex' } },
  role_changed: {
    category: 'role',
    meaning: 'A role word of an MMU changed.',
    fields: { mmu: 'text', old_cpu_role: 'cpu_role', cpu_role: 'cpu_role', old_root_role: 'role', root_role: 'role' },
  },
  root_switched: {
    category: 'role',
    meaning: 'Another root was loaded.',
    fields: { mmu: 'text', root_hpa: 'hex', pgd: 'hex' },
  },
  memslot_changed: {
    category: 'memslot',
    meaning: 'A memslot was created, deleted, moved or got other flags.',
    fields: { as_id: 'dec', id: 'dec', change: 'text', generation: 'hex' },
  },
  memslot_error: {
    category: 'memslot',
    meaning: 'KVM refused a memslot.',
    fields: { as_id: 'dec', id: 'dec', errno: 'dec', text: 'text' },
  },
  tlb_flush: {
    category: 'tlb',
    meaning: 'Cached translations are dropped.',
    fields: { scope: 'text', reason: 'text' },
  },
  kvm_nested_vmexit: {
    category: 'nested',
    meaning: 'L2 left the guest; whether L1 or KVM handles it is decided now.',
    fields: {
      reason: 'text',
      exit_reason: 'hex',
      guest_rip: 'hex',
      info1: 'hex',
      info2: 'hex',
      intr_info: 'hex',
      error_code: 'hex',
    },
  },
  kvm_nested_vmenter: {
    category: 'nested',
    meaning: 'L1 enters L2 (VMRUN, VMLAUNCH, VMRESUME).',
    fields: {
      rip: 'hex',
      nested_rip: 'hex',
      vmcb: 'hex',
      int_ctl: 'hex',
      event_inj: 'hex',
      tdp_enabled: 'dec',
      guest_pgd: 'hex',
    },
  },
  kvm_nested_intercepts: {
    category: 'nested',
    meaning: 'What L1 intercepts of L2 (SVM).',
    fields: {
      cr_read: 'hex',
      cr_write: 'hex',
      exceptions: 'hex',
      intercept1: 'hex',
      intercept2: 'hex',
      intercept3: 'hex',
    },
  },
  kvm_nested_vmexit_inject: {
    category: 'nested',
    meaning: 'An exit of L2 is handed to L1, with what L1 reads of it.',
    fields: {
      exit_code: 'hex',
      exit_info1: 'hex',
      exit_info2: 'hex',
      exit_int_info: 'hex',
      exit_int_info_err: 'hex',
    },
  },
  l2_enter: { category: 'nested', meaning: 'The vCPU enters L2.', fields: { reason: 'text' } },
  l2_exit: { category: 'nested', meaning: 'The vCPU leaves L2.', fields: { reason: 'text' } },
};

/** All kinds of event, by name. */
export const EVENTS: ReadonlyMap<string, EventInfo> = new Map(Object.entries(TABLE) as [string, EventInfo][]);

/** What an event is. Kinds that this table does not know (a newer source) are `other` with hexadecimal fields. */
export function eventInfo(kind: string): EventInfo {
  return EVENTS.get(kind) ?? { category: 'other', meaning: '', fields: {} };
}

/** Names the words in an event: a role, an spte. Without one, words are shown as hexadecimal only. */
export interface WordReader {
  role(word: bigint): string;
  cpuRole(word: bigint): string;
  spte(word: bigint, level: number | undefined): string;
  access(bits: number): string;
}

/** A field of an event as a value of the expression language; null if the event has none of that name. */
export function eventField(event: KvmEvent, name: string): ExprValue {
  if (name === 'kind') return event.kind;
  const value: unknown = Object.hasOwn(event, name) ? event[name as keyof KvmEvent] : undefined;
  if (typeof value === 'number') return BigInt(Math.trunc(value));
  return typeof value === 'bigint' || typeof value === 'boolean' || typeof value === 'string' ? value : null;
}

/** #PF error code bits that are set, by the architecture's names (SDM vol. 3A 4.7). */
export function pfText(code: bigint): string {
  const names = ['P', 'W', 'U', 'RSVD', 'I', 'PK', 'SS'];
  const set = names.filter((_, bit) => (code >> BigInt(bit)) & 1n);
  return set.length ? set.join('|') : 'not present, supervisor read';
}

const hex = (v: bigint): string => (v < 0n ? `-0x${(-v).toString(16)}` : `0x${v.toString(16)}`);

/** A field's value as text; words are named when a reader is given. */
export function fieldText(form: FieldForm, value: ExprValue, level?: number, words?: WordReader): string {
  if (value === null) return 'unknown';
  if (typeof value !== 'bigint') return typeof value === 'boolean' ? (value ? '1' : '0') : value;
  switch (form) {
    case 'dec':
    case 'flag':
      return value.toString();
    case 'role':
      return words ? `${hex(value)} (${words.role(value)})` : hex(value);
    case 'cpu_role':
      return words ? `${hex(value)} (${words.cpuRole(value)})` : hex(value);
    case 'spte':
      return words && value !== 0n ? `${hex(value)} (${words.spte(value, level)})` : hex(value);
    case 'access':
      return words ? `${value} (${words.access(Number(value))})` : value.toString();
    case 'pf':
      return `${hex(value)} (${pfText(value)})`;
    case 'npferr':
    case 'hex':
    case 'frame':
    case 'text':
      return hex(value);
  }
}

/** Every field of an event by name, as text. */
export function eventFields(event: KvmEvent, words?: WordReader): Record<string, string> {
  const { fields } = eventInfo(event.kind);
  const level = 'level' in event && typeof event.level === 'number' ? event.level : undefined;
  return Object.fromEntries(
    Object.entries(fields).flatMap(([name, form]) => {
      const value = eventField(event, name);
      return value === null ? [] : [[name, fieldText(form, value, level, words)]];
    }),
  );
}

/** An event in one line: its kind, then its fields by name. Flags that are not set are left out. */
export function eventText(event: KvmEvent, words?: WordReader): string {
  const { fields } = eventInfo(event.kind);
  const parts = Object.entries(eventFields(event, words)).flatMap(([name, text]) => {
    if (text === '') return [];
    if (fields[name] !== 'flag') return [`${name} ${text}`];
    return text === '1' ? [name] : [];
  });
  return [event.kind, ...parts].join(' ');
}
