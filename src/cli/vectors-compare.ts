/** What the runners of all vector formats share: setting up a processor, comparing field by field, finding what was written. */
import { ACC_FETCH, ACC_READ, ACC_SHSTK, ACC_WRITE } from '../hw/access';
import type { CpuFeatures } from '../hw/features';
import { PhysMemory } from '../hw/memory';
import { Translator } from '../hw/translate';
import { formatWhy } from '../hw/why';
import { WhyRecorder } from '../hw/why-recorder';

/** One field on which two sides disagree. */
export interface Difference {
  field: string;
  expected: string;
  actual: string;
}

/** What came of one line. */
export interface VectorOutcome {
  status: 'passed' | 'failed' | 'skipped';
  /** Why it was skipped, or which authority was compared with in place of the maker's result. */
  note?: string;
  differences: Difference[];
  /** The why-record, as text, of a line that failed. */
  why: string[];
}

export const skipped = (note: string): VectorOutcome => ({ status: 'skipped', note, differences: [], why: [] });

export const low = (v: bigint): number => Number(BigInt.asIntN(32, v));
export const high = (v: bigint): number => Number(BigInt.asIntN(32, v >> 32n));

const hex = (v: bigint | number | undefined | null): string =>
  v === undefined || v === null ? 'none' : `0x${BigInt(v).toString(16)}`;

/** Writes a 4- or 8-byte entry at a physical address given as text. */
export function poke(memory: PhysMemory, address: string, value: string, size: 4 | 8): void {
  const at = Number(BigInt(address));
  const v = BigInt(value);
  if (size === 8) memory.writeQ(at, low(v), high(v));
  else memory.write32(at, Number(v));
}

/** A processor with a recorder, and the comparison under way. */
export class Run {
  readonly t: Translator;
  readonly why: WhyRecorder;
  private readonly differences: Difference[] = [];

  constructor(features: CpuFeatures, memory = new PhysMemory()) {
    this.t = new Translator(memory, features);
    this.why = new WhyRecorder(this.t);
    this.t.recorder = this.why;
  }

  get differs(): boolean {
    return this.differences.length > 0;
  }

  same(field: string, expected: unknown, actual: unknown): void {
    if (String(expected) !== String(actual)) {
      this.differences.push({ field, expected: String(expected), actual: String(actual) });
    }
  }

  /** As {@link same}, but an absent expectation is none. */
  sameIfGiven(field: string, expected: unknown, actual: unknown): void {
    if (expected !== undefined) this.same(field, expected, actual);
  }

  /** Compares numbers, of which those as text are hexadecimal; bits of `ignore` may differ. An absent expectation is none. */
  sameNumber(field: string, expected: string | number | bigint | null | undefined, actual: bigint | number | undefined, ignore = 0n): void {
    if (expected === undefined) return;
    const e = expected === null ? undefined : BigInt(expected) & ~ignore;
    const a = actual === undefined ? undefined : BigInt(actual) & ~ignore;
    if (e !== a) this.differences.push({ field, expected: hex(e), actual: hex(a) });
  } // prettier-ignore

  outcome(note?: string): VectorOutcome {
    return {
      status: this.differs ? 'failed' : 'passed',
      ...(note === undefined ? {} : { note }),
      differences: this.differences,
      why: this.differs ? formatWhy(this.why.record) : [],
    };
  }
}

/** Entries as they were before a run, to find what the run wrote. */
export class Watch {
  private readonly before = new Map<number, bigint>();

  constructor(
    private readonly memory: PhysMemory,
    addresses: Iterable<string>,
    private readonly size: 4 | 8,
  ) {
    for (const a of addresses) this.before.set(Number(BigInt(a)), this.read(Number(BigInt(a))));
  }

  private read(at: number): bigint {
    return this.size === 8 ? this.memory.readQ(at) : BigInt(this.memory.read32(at));
  }

  /** Address → new value of each entry that differs now. */
  changes(): Map<number, bigint> {
    const out = new Map<number, bigint>();
    for (const [at, was] of this.before) if (this.read(at) !== was) out.set(at, this.read(at));
    return out;
  }
}

/** `0x1000=0x67, …`, ascending: the form in which writes are compared. */
export function writesText(writes: Map<number, bigint>): string {
  const list = [...writes].sort((a, b) => a[0] - b[0]).map(([a, v]) => `${hex(a)}=${hex(v)}`);
  return list.length === 0 ? 'none' : list.join(', ');
}

const ACCESS_FLAGS: Readonly<Record<string, number>> = {
  r: ACC_READ,
  w: ACC_WRITE,
  x: ACC_FETCH,
  rmw: ACC_WRITE,
  ssr: ACC_READ | ACC_SHSTK,
  ssw: ACC_WRITE | ACC_SHSTK,
};

/** ACC_* flags of an access by the MMU vectors' name. @throws Error for an unknown name */
export function accessFlags(name: string): number {
  if (!(name in ACCESS_FLAGS)) throw new Error(`access '${name}' is unknown: it is one of ${Object.keys(ACCESS_FLAGS).join(', ')}`); // prettier-ignore
  return ACCESS_FLAGS[name];
}

/** ACC_* flags of an access in the paging vectors' form. */
export function plainAccess(access: { write: boolean; fetch: boolean }): number {
  return access.write ? ACC_WRITE : access.fetch ? ACC_FETCH : ACC_READ;
}

/** Names of the entries in the MMU vectors, by level. */
export const LEVELS = ['', 'pte', 'pde', 'pdpte', 'pml4e', 'pml5e'];
export const SPPT_LEVELS = ['', 'spptl1e', 'spptl2e', 'spptl3e', 'spptl4e'];

/** Causes that the MMU vectors name, by the rule of src/hw that says the same. */
const CAUSES: Readonly<Record<string, string>> = {
  'pg.present': 'not_present',
  'pg.pdpte-present': 'not_present',
  'pg.user': 'user_supervisor',
  'pg.write-user': 'write_protect',
  'pg.write-supervisor': 'write_protect',
  'pg.xd': 'execute_disable',
  'pg.smep': 'smep',
  'pg.smap': 'smap',
  'pg.shstk-mode': 'shadow_stack_us',
  'pg.shstk-page': 'not_shadow_stack',
  'pg.pdpte-rsvd': 'reserved',
  'ept.present': 'not_present',
  'ept.write-only': 'write_only',
  'ept.rsvd-low': 'reserved_low_bits',
  'ept.rsvd-large': 'reserved_address_bits',
  'ept.rsvd-maxphyaddr': 'reserved_address_bits',
  'ept.memtype': 'memtype',
  'ept.page-size': 'page_size',
};

function causeOf(rule: string | null): string | undefined {
  if (rule === null || rule in CAUSES) return rule === null ? undefined : CAUSES[rule];
  if (rule.startsWith('pg.pk')) return 'pkey';
  if (rule.startsWith('pg.rsvd')) return 'reserved';
  return rule.startsWith('ept.') || rule === 'spp.write' ? 'permission' : rule;
}

/** Where an access breaks several rules at once, which one is named first is each model's own choice within these sets. */
const INTERCHANGEABLE = [
  [
    'user_supervisor',
    'write_protect',
    'execute_disable',
    'smep',
    'smap',
    'pkey',
    'not_shadow_stack',
    'shadow_stack_us',
  ],
  ['write_only', 'reserved_low_bits', 'reserved_address_bits', 'memtype', 'page_size'],
];

/** Compares the cause that a vector names with the rule that failed here. */
export function sameCause(run: Run, expected: string | undefined): void {
  if (expected === undefined) return;
  const actual = causeOf(run.t.failedRule);
  if (actual !== undefined && INTERCHANGEABLE.some((set) => set.includes(expected) && set.includes(actual))) return;
  run.same('cause', expected, actual);
}
