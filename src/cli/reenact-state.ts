/**
 * Reads a probe's state file (`*.state.json`, plain or gzip): what was set up, each step with what it returned, and the snapshots of
 * registers, memslots, page tables and host frames between them. Everything is checked here; nobody behind it looks at raw JSON.
 *
 * Numbers are bigint where they are addresses or register values, else plain.
 */

import { JsonNode, StateFileError } from './reenact-json';

export { StateFileError } from './reenact-json';

export interface ProbeMemslot {
  as_id: number;
  id: number;
  gpa: bigint;
  size: bigint;
  flags: number;
  hva: bigint;
  backing: string;
  offset: bigint;
}

export interface ProbeVcpu {
  vcpu: number;
  mode: string;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  efer: bigint;
  rip: bigint;
  rsp: bigint;
  rflags: bigint;
  cpl: number;
  smm: number;
}

export interface ProbeTable {
  gpa: bigint;
  level: number;
  space: string;
}

export interface ProbePageTables {
  entryBytes: 4 | 8;
  tables: ProbeTable[];
  /** every word that is not 0 */
  entries: { gpa: bigint; value: bigint }[];
}

/** A run of host frames behind a backing. */
export interface ProbeFrames {
  backing: string;
  offset: bigint;
  pfn: bigint;
  pages: number;
}

/** Registers, memslots and page tables at one moment; `frames` only when they changed. */
export interface ProbeSnapshot {
  vcpus: ProbeVcpu[];
  memslots: ProbeMemslot[];
  pt: ProbePageTables;
  frames: ProbeFrames[] | null;
}

export type ProbeExit =
  | { reason: 'io'; port: number; smm: number }
  | { reason: 'mmio'; gpa: bigint; len: number; write: boolean; data: bigint; smm: number }
  | { reason: string };

/** What an operation did: the result half of a guest step. */
export interface ProbeOutcome {
  exits: ProbeExit[];
  /** done fault hlt smi l1 shutdown error stuck port */
  end: string;
  /** of a fault */
  vector: number | null;
  error: bigint | null;
  cr2: bigint | null;
  /** value read */
  result: bigint | null;
  /** why it ended in `error` */
  detail: string | null;
  smmAfter: number | null;
  /** control registers, when one changed */
  registers: { cr0: bigint; cr3: bigint; cr4: bigint; efer: bigint } | null;
  ptChanges: { gpa: bigint; old: bigint; new: bigint }[];
}

/** One operation that the guest executed. */
export interface GuestStep {
  kind: 'guest';
  n: number;
  vcpu: number;
  op: string;
  gva: bigint | null;
  gpa: bigint | null;
  value: bigint;
  msr: bigint | null;
  /** cmpxchg8b: the value to compare with */
  compare: bigint | null;
  /** vmx: address of the routine */
  routine: bigint | null;
  cpl: number;
  ac: number;
  smm: number;
  rip: bigint;
  outcome: ProbeOutcome;
}

export type ProbeStep =
  | GuestStep
  | { kind: 'note'; n: number; text: string }
  | { kind: 'snapshot'; n: number; name: string; state: ProbeSnapshot }
  | {
      kind: 'memslot';
      n: number;
      change: string;
      as_id: number;
      id: number;
      gpa: bigint;
      size: bigint;
      flags: number;
      memslots: ProbeMemslot[];
    }
  | { kind: 'smm-paging'; n: number; mode: string; cr3: bigint; vcpus: ProbeVcpu[] }
  | { kind: 'get-dirty-log'; n: number; id: number; dirty: number[] }
  | { kind: 'clear-dirty-log'; n: number; id: number; first: number; pages: number }
  | { kind: 'vmexit-seen-by-l1'; n: number; fields: Record<string, bigint> }
  /** an operation that this program does not know */
  | { kind: 'unknown'; n: number; op: string };

export interface ProbeLayout {
  stubs: bigint;
  handlers: bigint;
  idt: bigint;
  gdt: bigint;
  tss: bigint;
  stackRing0Top: bigint;
  stackFaultTop: bigint;
  stackRing3: bigint;
  userAlias: bigint;
  tables: bigint;
  /** operation and first bytes of each stub, in the order of their addresses */
  code: { gpa: bigint; op: string; bytes: string }[];
}

/** A whole state file. */
export interface ProbeRun {
  id: string;
  scenario: string;
  kernel: string;
  vendor: 'intel' | 'amd';
  maxphyaddr: number;
  params: Record<string, string>;
  features: string[];
  layout: ProbeLayout;
  initial: ProbeSnapshot;
  steps: ProbeStep[];
  final: ProbeSnapshot;
}

const word = (n: JsonNode): bigint => n.word();
const int = (n: JsonNode): number => n.int();
const text = (n: JsonNode): string => n.text();

const memslots = (n: JsonNode): ProbeMemslot[] =>
  n.list().map((s) => ({
    as_id: s.at('as_id').int(),
    id: s.at('id').int(),
    gpa: s.at('gpa').word(),
    size: s.at('size').word(),
    flags: s.at('flags').int(),
    hva: s.at('hva').word(),
    backing: s.at('backing').text(),
    offset: s.at('offset').word(),
  }));

const vcpus = (n: JsonNode): ProbeVcpu[] =>
  n.list().map((v) => ({
    vcpu: v.at('vcpu').int(),
    mode: v.at('mode').text(),
    cr0: v.at('cr0').word(),
    cr2: v.at('cr2').word(),
    cr3: v.at('cr3').word(),
    cr4: v.at('cr4').word(),
    efer: v.at('efer').word(),
    rip: v.at('rip').word(),
    rsp: v.at('rsp').word(),
    rflags: v.at('rflags').word(),
    cpl: v.at('cpl').int(),
    smm: v.at('smm').int(),
  }));

function pageTables(n: JsonNode): ProbePageTables {
  const bytes = n.at('entry_bytes').int();
  return {
    entryBytes: bytes === 4 ? 4 : 8,
    tables: n
      .at('tables')
      .list()
      .map((t) => ({ gpa: t.at('gpa').word(), level: t.at('level').int(), space: t.at('space').text() })),
    entries: n
      .at('entries')
      .list()
      .map((e) => ({ gpa: e.at('gpa').word(), value: e.at('value').word() })),
  };
}

const frames = (n: JsonNode): ProbeFrames[] =>
  n.list().map((r) => ({
    backing: r.at('backing').text(),
    offset: r.at('offset').word(),
    pfn: r.at('pfn').word(),
    pages: r.at('pages').int(),
  }));

const snapshot = (n: JsonNode): ProbeSnapshot => ({
  vcpus: vcpus(n.at('vcpus')),
  memslots: memslots(n.at('memslots')),
  pt: pageTables(n.at('pt')),
  frames: n.optional('host_pfns', frames),
});

function exit(n: JsonNode): ProbeExit {
  const reason = n.at('reason').text();
  if (reason === 'io') return { reason, port: n.at('port').int(), smm: n.at('smm').int() };
  if (reason !== 'mmio') return { reason };
  return {
    reason,
    gpa: n.at('gpa').word(),
    len: n.at('len').int(),
    write: n.at('write').flag(),
    data: n.at('data').word(),
    smm: n.at('smm').int(),
  };
}

function outcome(n: JsonNode): ProbeOutcome {
  return {
    exits: n.at('exits').list().map(exit),
    end: n.at('end').text(),
    vector: n.optional('vector', int),
    error: n.optional('error', word),
    cr2: n.optional('cr2', word),
    result: n.optional('result', word),
    detail: n.optional('detail', text),
    smmAfter: n.optional('smm_after', int),
    registers: n.has('cr0')
      ? { cr0: n.at('cr0').word(), cr3: n.at('cr3').word(), cr4: n.at('cr4').word(), efer: n.at('efer').word() }
      : null,
    ptChanges: n
      .at('pt_changes')
      .list()
      .map((c) => ({ gpa: c.at('gpa').word(), old: c.at('old').word(), new: c.at('new').word() })),
  };
}

function step(node: JsonNode): ProbeStep {
  const n = node.at('n').int();
  const op = node.at('op').text();
  if (node.has('stub_rip')) {
    return {
      kind: 'guest',
      n,
      vcpu: node.at('vcpu').int(),
      op,
      gva: node.optional('gva', word),
      gpa: node.optional('gpa', word),
      value: node.at('value').word(),
      msr: node.optional('msr', word),
      compare: node.optional('expect', word),
      routine: node.optional('routine', word),
      cpl: node.at('cpl').int(),
      ac: node.at('ac').int(),
      smm: node.at('smm').int(),
      rip: node.at('stub_rip').word(),
      outcome: outcome(node),
    };
  }
  switch (op) {
    case 'note':
      return { kind: 'note', n, text: node.at('text').text() };
    case 'snapshot':
      return { kind: 'snapshot', n, name: node.at('name').text(), state: snapshot(node) };
    case 'memslot-add':
    case 'memslot-delete':
    case 'memslot-move':
    case 'memslot-change-flags':
      return {
        kind: 'memslot',
        n,
        change: op.slice('memslot-'.length),
        as_id: node.at('as_id').int(),
        id: node.at('id').int(),
        gpa: node.at('gpa').word(),
        size: node.at('size').word(),
        flags: node.at('flags').int(),
        memslots: memslots(node.at('memslots')),
      };
    case 'smm-paging':
      return {
        kind: 'smm-paging',
        n,
        mode: node.at('mode').text(),
        cr3: node.at('cr3').word(),
        vcpus: vcpus(node.at('vcpus')),
      };
    case 'get-dirty-log':
      return { kind: 'get-dirty-log', n, id: node.at('id').int(), dirty: node.at('dirty').list().map(int) };
    case 'clear-dirty-log':
      return {
        kind: 'clear-dirty-log',
        n,
        id: node.at('id').int(),
        first: node.at('first').int(),
        pages: node.at('pages').int(),
      };
    case 'vmexit-seen-by-l1': {
      const fields: Record<string, bigint> = {};
      for (const [name, value] of node.entries()) if (name !== 'n' && name !== 'op') fields[name] = value.word();
      return { kind: 'vmexit-seen-by-l1', n, fields };
    }
    default:
      return { kind: 'unknown', n, op };
  }
}

function layout(n: JsonNode): ProbeLayout {
  const at = (key: string): bigint => n.at(key).word();
  const code = n
    .at('code')
    .entries()
    .map(([gpa, c]) => ({
      gpa: new JsonNode(gpa, `${c.path} (address)`).word(),
      op: c.at('op').text(),
      bytes: c.at('bytes').text(),
    }))
    .sort((a, b) => (a.gpa < b.gpa ? -1 : 1));
  return {
    stubs: at('stubs'),
    handlers: at('handlers'),
    idt: at('idt'),
    gdt: at('gdt'),
    tss: at('tss'),
    stackRing0Top: at('stack_ring0_top'),
    stackFaultTop: at('stack_fault_top'),
    stackRing3: at('stack_ring3'),
    userAlias: at('user_alias'),
    tables: at('tables'),
    code,
  };
}

/**
 * Reads the text of a state file.
 * @throws StateFileError with the path of the first thing that is not as it should be
 */
export function parseState(json: string): ProbeRun {
  const root = JsonNode.parse(json, 'state');
  if (root.at('probe').value !== 1)
    throw new StateFileError('the file has no "probe": 1, so it is not the state file of a probe run');
  const vendor = root.at('vendor').text();
  if (vendor !== 'intel' && vendor !== 'amd')
    throw new StateFileError(`vendor should be "intel" or "amd", but is "${vendor}"`);
  const params: Record<string, string> = {};
  for (const [name, value] of root.at('params').entries()) params[name] = value.text();
  return {
    id: root.at('id').text(),
    scenario: root.at('scenario').text(),
    kernel: root.at('kernel').text(),
    vendor,
    maxphyaddr: root.at('maxphyaddr').int(),
    params,
    features: root
      .at('guest_features')
      .entries()
      .filter(([, v]) => v.int() === 1)
      .map(([name]) => name),
    layout: layout(root.at('layout')),
    initial: snapshot(root.at('initial')),
    steps: root.at('steps').list().map(step),
    final: snapshot(root.at('final')),
  };
}
