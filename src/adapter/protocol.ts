/**
 * What MMU Scope adds to the Debug Adapter Protocol: custom requests for the webviews and for any other client.
 *
 * Everything here is plain JSON, so that it crosses any transport unchanged: 64-bit values are hexadecimal strings
 * ({@link Hex}), counts and bit numbers are numbers. This file imports nothing; webviews may import its types.
 *
 * A request that the session cannot answer fails with one sentence (`response.message`), as every DAP request does. All
 * of these requests need a stopped session, except `mmuscope/state` and `mmuscope/decode`; answers hold until the next
 * `stopped`, `memory` or `invalidated` event. A `threadId` is a DAP thread id, which is the vCPU index + 1.
 */

/** An unsigned 64-bit value as `0x` and lower-case hexadecimal digits, without leading zeros. */
export type Hex = string;

/** Custom requests by command name: what they take and what they give. */
export interface MmuScopeRequests {
  'mmuscope/state': { arguments: StateArguments; body: StateBody };
  'mmuscope/roles': { arguments: RolesArguments; body: RolesBody };
  'mmuscope/roots': { arguments: RootsArguments; body: RootsBody };
  'mmuscope/table': { arguments: TableArguments; body: TableBody };
  'mmuscope/events': { arguments: EventsArguments; body: EventsBody };
  'mmuscope/why': { arguments: WhyArguments; body: WhyBody };
  'mmuscope/decode': { arguments: DecodeArguments; body: DecodeBody };
  'mmuscope/goto': { arguments: GotoArguments; body: Record<string, never> };
  'mmuscope/reverseStepIn': { arguments: { threadId?: number }; body: Record<string, never> };
}
export type MmuScopeCommand = keyof MmuScopeRequests;

// ---- words -------------------------------------------------------------------------------------------------------

/** One field of a word's table. */
export interface FieldView {
  name: string;
  lsb: number;
  width: number;
  meaning: string;
  /** names of particular values, keyed by the decimal value */
  values?: Record<string, string>;
  /** where the bit comes from, in general: `CR4.SMEP && !CR0.WP` */
  from?: string;
  source?: string;
}

/** One table: how a word is laid out under some kernels. */
export interface LayoutView {
  id: string;
  word: string;
  title: string;
  size: 32 | 64;
  kernels?: string;
  vendor?: 'intel' | 'amd';
  source: string;
  fields: FieldView[];
}

/** A field with its value. */
export interface FieldValue {
  name: string;
  lsb: number;
  width: number;
  value: Hex;
  /** the value in words */
  text: string;
  meaning: string;
  /** where this value comes from, now: `CR4.SMEP=1 && CR0.WP=0` */
  because?: string;
}

/** A word read by a table. */
export interface WordView {
  layoutId: string;
  title: string;
  size: 32 | 64;
  value: Hex;
  /** one line */
  summary: string;
  fields: FieldValue[];
  /** bits that no field of the table covers, in place */
  reserved: Hex;
}

// ---- mmuscope/state ----------------------------------------------------------------------------------------------

export interface StateArguments {
  /** nothing yet */
  _?: never;
}

export interface StateBody {
  /** simulator, trace, snapshot, dump, qemu */
  target: string;
  /** what is debugged: a file path or a description */
  title: string;
  /** canonical kernel name: `v6.1` */
  kernel: string;
  vendor: 'intel' | 'amd';
  /** ept, npt or shadow; `unknown` when the source does not say */
  paging: string;
  maxphyaddr: number | null;
  running: boolean;
  ended: boolean;
  position: PositionView;
  stop: StopView | null;
  vcpus: VcpuView[];
  memslots: MemslotView[];
  memslotGenerations: { asId: number; generation: Hex }[];
  /** what this source does not have, one sentence each: `A dump has no past.` */
  lacks: string[];
}

/** Where the run stands. Ticks and events count from 0 at the start of the run. */
export interface PositionView {
  tick: number;
  /** events that have happened so far: the next event gets this index */
  event: number;
  /** 1-based line of the scenario; null if the source has no text */
  line: number | null;
  statement: string | null;
  /** statements begun so far */
  statements: number;
}

export interface StopView {
  /** DAP stop reason */
  reason: string;
  /** one line: `EPT violation at gpa 0x10000000 (write)` */
  description: string;
  threadId: number;
  /** exception filter that stopped, if any */
  filter: string | null;
  event: number | null;
  hasWhy: boolean;
}

export interface VcpuView {
  threadId: number;
  vcpu: number;
  name: string;
  /** in system-management mode, so in address space 1; null if unknown */
  smm: boolean | null;
  guestMode: boolean | null;
  rip: Hex | null;
  cr3: Hex | null;
  rootHpa: Hex | null;
  /** 64-bit paging, PAE, 32-bit, real mode … */
  mode: string;
}

export interface MemslotView {
  asId: number;
  id: number;
  gpa: Hex;
  /** bytes */
  size: Hex;
  hva: Hex;
  flags: string[];
  /** name of the host memory behind it, if the source knows one */
  backing: string | null;
}

// ---- mmuscope/roles ----------------------------------------------------------------------------------------------

export interface RolesArguments {
  threadId?: number;
  /** read the words by another kernel's tables; default: the session's kernel */
  kernel?: string;
}

export interface RolesBody {
  threadId: number;
  /** the session's kernel */
  kernel: string;
  /** the kernel whose tables were used */
  layoutKernel: string;
  vendor: 'intel' | 'amd';
  mmus: MmuView[];
  registers: RegisterView[];
  /** tables used above, each once */
  layouts: LayoutView[];
  /** kernels to offer, oldest first */
  kernels: { id: string; title: string }[];
}

export interface MmuView {
  /** root_mmu, guest_mmu, nested_mmu */
  name: string;
  /** vcpu->arch.mmu points at it */
  active: boolean;
  /** vcpu->arch.walk_mmu points at it */
  walk: boolean;
  /** words by the kernel's names: cpu_role, root_role (mmu_role, base_role in older kernels) */
  words: NamedWord[];
  /** what the names in the formulas of its roles are (`CR0.WP`, `tdp_level`); what is not there is unknown */
  inputs: Record<string, number>;
  rootHpa: Hex | null;
  pgd: Hex | null;
  prevRoots: { pgd: Hex; hpa: Hex }[];
}

export interface NamedWord {
  name: string;
  word: WordView;
}

/** A register; control registers carry their flags as a word. */
export interface RegisterView {
  name: string;
  value: Hex;
  word: WordView | null;
}

// ---- mmuscope/roots and mmuscope/table ---------------------------------------------------------------------------

export interface RootsArguments {
  threadId?: number;
}

export interface RootsBody {
  threadId: number;
  roots: RootView[];
}

/** A page table tree that can be browsed. */
export interface RootView {
  /** to give back in {@link TableArguments.root} */
  id: string;
  /** `Guest page tables (CR3 0x10000)`, `EPT (root 0x2a05000, as_id 0)` */
  title: string;
  kind: TableKind;
  /** level of the root table: 4 for a 4-level tree */
  level: number;
  /** physical address of the root table, in `space` */
  address: Hex;
  space: 'gpa' | 'hpa';
  /** the tree that the processor uses now */
  current: boolean;
  asId: number | null;
}

export type TableKind = 'guest' | 'ept' | 'npt' | 'shadow' | 'sppt';

export interface TableArguments {
  threadId?: number;
  /** a {@link RootView.id}; default: the first root */
  root?: string;
  /** indexes from the root table downwards: [] is the root table itself, [3] the table that its entry 3 points at */
  path?: number[];
  /** instead of `path`: go down towards this address (gva for guest tables, gpa for the others) as far as tables go */
  address?: Hex;
  /** with `address`: stop at this level */
  level?: number;
}

export interface TableBody {
  threadId: number;
  root: RootView;
  path: number[];
  /** one per step from the root: what to show as a path and to click on */
  crumbs: { path: number[]; level: number; index: number | null; label: string }[];
  level: number;
  /** `PML4`, `PDPT`, `PD`, `PT`, `EPT PML4` … */
  levelName: string;
  /** physical address of this table, in `root.space` */
  tableAddress: Hex;
  /** first address that this table translates; each entry covers `entryCoverage` bytes */
  from: Hex;
  entryCoverage: Hex;
  /** 8, or 4 for 32-bit paging */
  entrySize: 4 | 8;
  /** all entries of the page in order: 512, or 1024 for 32-bit paging, or 4 for PAE PDPTEs */
  rows: TableRow[];
  /** struct kvm_mmu_page behind this table, if there is one */
  page: ShadowPageView | null;
  /** present rows, cached MMIO rows … counted, for a headline */
  counts: Record<string, number>;
  /** for opening the page in a memory view */
  memoryReference: string;
}

export interface ShadowPageView {
  gfn: Hex;
  role: WordView;
  rootCount: number | null;
  unsync: boolean | null;
  tdpMmu: boolean | null;
}

/** What is to be seen at a glance; free text is in `summary`. */
export type RowMark =
  | 'present'
  | 'leaf'
  | 'table'
  | 'large'
  /** a cached MMIO spte */
  | 'mmio'
  /** … whose generation is no longer that of the memslots */
  | 'stale'
  | 'readonly'
  | 'accessed'
  | 'dirty'
  | 'nx'
  | 'user'
  /** not present, but not zero either */
  | 'software'
  /** reserved bits set or another misconfiguration */
  | 'reserved'
  /** being removed by the TDP MMU */
  | 'removed'
  /** differs from what it was at the last stop */
  | 'changed';

export interface TableRow {
  index: number;
  /** the entry, whole */
  raw: Hex;
  /** physical address of the entry */
  address: Hex;
  /** first address that the entry translates */
  from: Hex;
  marks: RowMark[];
  /** the entry in words, one line; '' for a zero entry */
  summary: string;
  /** physical address that the entry points at; null if none */
  target: Hex | null;
  /** a table to go into: append `index` to the path */
  descend: boolean;
  mmio: { gfn: Hex; access: string; generation: Hex | null; currentGeneration: Hex | null } | null;
}

// ---- mmuscope/events ---------------------------------------------------------------------------------------------

export interface EventsArguments {
  /** index of the first event wanted; negative counts from the end. Default: the last `count` events */
  start?: number;
  /** default 200, at most 5000 */
  count?: number;
  /** only these kinds (`kvm_mmu_set_spte`); `start` and `count` then still count all events */
  kinds?: string[];
}

export interface EventsBody {
  /** events known so far; the run may not have ended */
  total: number;
  start: number;
  events: EventView[];
  /** index of the next event to happen at the current position */
  position: number;
}

export interface EventView {
  index: number;
  tick: number;
  kind: string;
  /** -1: a VM ioctl */
  vcpu: number;
  line: number | null;
  /** one line, as the CLI prints it */
  text: string;
  /** every field by name: 64-bit values hexadecimal, the rest as text */
  fields: Record<string, string>;
  /** fault, exit, mmu, mmio, smm, memslot, role, tlb, other: for colours and filters */
  category: string;
}

export interface GotoArguments {
  /** stop where event of this index happens */
  event?: number;
  /** … or at this tick */
  tick?: number;
}

// ---- mmuscope/why ------------------------------------------------------------------------------------------------

export interface WhyArguments {
  threadId?: number;
  /** translate this guest linear address; without `gva` and `gpa`: the record of the stop */
  gva?: Hex;
  /** translate this guest physical address through the second stage alone */
  gpa?: Hex;
  write?: boolean;
  fetch?: boolean;
  user?: boolean;
}

export interface WhyBody {
  why: WhyView | null;
}

/** A why-record: what was read, what was checked, what came of it. */
export interface WhyView {
  /** `write of gva 0x201008 by a user` */
  access: string;
  steps: WhyStepView[];
  /** checks that are about no single entry */
  checks: WhyCheckView[];
  verdict: {
    kind: string;
    /** id of the rule that decided, if one did */
    rule: string | null;
    text: string;
    /** error code, exit qualification … by name */
    codes: NamedWord[];
    /** host-physical address that the access ended at, if it succeeded */
    address: Hex | null;
    /** guest-physical address: where a second-stage fault happened, or what the guest's tables gave */
    gpa: Hex | null;
  };
  /** the whole record as text, as the CLI prints it */
  text: string;
}

export interface WhyCheckView {
  rule: string;
  ok: boolean;
  /** what has to hold */
  sentence: string;
  /** manual, volume, section */
  reference: string;
  /** register, control bit or CPUID value that asked for it */
  by: string | null;
}

export interface WhyStepView {
  table: string;
  level: number;
  levelName: string;
  index: number;
  entryAddress: Hex;
  space: 'gpa' | 'hpa';
  raw: Hex;
  summary: string;
  /** of a second-stage step: the guest level whose entry address it translates, 0 for the final address */
  forLevel: number | null;
  /** what the processor wrote back (accessed and dirty flags) */
  written: Hex | null;
  checks: WhyCheckView[];
  memoryReference: string;
}

// ---- mmuscope/decode ---------------------------------------------------------------------------------------------

export interface DecodeArguments {
  value: Hex;
  /** word kind: spte, role, pferr, cr0 …; default: all that fit */
  as?: string;
  kernel?: string;
  vendor?: 'intel' | 'amd';
  /** text around the value, to guess what it is */
  context?: string;
}

export interface DecodeBody {
  /** likeliest first */
  explanations: {
    /** name that decodes as this again */
    as: string;
    title: string;
    layoutId: string;
    /** one line */
    summary: string;
    fields: { name: string; bits: string; value: string; meaning: string }[];
    notes: string[];
  }[];
}
