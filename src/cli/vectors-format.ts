/**
 * The formats of processor test vectors, one JSON object a line, and how to tell them apart. Numbers are text in hexadecimal, because
 * they need 64 bits.
 *
 * The MMU vectors (ept, spp, guest-paging, npt, ept-2d, npt-2d) come from an emulator's page walkers, with the verdict of a second model
 * of the manuals where the two disagree (`disputed`, `sdm`). The paging vectors come from kvm-unit-tests' access test (`stratum`), from
 * KVM_TRANSLATE and from QEMU (`oracle`). docs/differences.md says which lines are compared with what.
 */

type Hex = string;
type ByLevel<T> = Readonly<Partial<Record<string, T>>>;

/** What a model says came of an access. Which fields are there depends on `kind`. */
export interface MmuResult {
  kind: string;
  level?: string;
  cause?: string;
  pa?: Hex;
  hpa?: Hex;
  gpa?: Hex;
  page_size?: number;
  memtype?: number;
  ipat?: boolean;
  write_allowed_by_spp?: boolean;
  error_code?: Hex;
  qualification?: Hex;
  qual_undefined?: Hex;
  exitinfo1?: Hex;
  exitinfo2?: Hex;
  ad_writes?: { entry?: string; level?: string; addr?: Hex; address?: Hex; value: Hex }[];
  writes?: Readonly<Record<Hex, Hex>>;
}

/** Of every MMU vector. */
interface MmuVector {
  id: string;
  group: string;
  maxphyaddr: number;
  page_1g?: boolean;
  access: string;
  result: MmuResult;
  disputed?: boolean;
  dispute?: string;
  /** The second model's result, where it differs; 2-D vectors abbreviate two names. */
  sdm?: MmuResult & { qual?: Hex; qual_undef?: Hex };
}

interface GuestRegisters {
  mode: '32bit' | 'pae' | '4level' | '5level';
  cr0: Hex;
  cr3: Hex;
  cr4: Hex;
  efer: Hex;
  cpl: number;
  la: Hex;
}

export interface GuestVector extends MmuVector, GuestRegisters {
  format: 'guest';
  pkru: Hex;
  pkrs: Hex;
  rflags_ac: boolean;
  implicit_supervisor: boolean;
  entries: ByLevel<Hex>;
  entry_addrs: ByLevel<Hex>;
}

interface EptControls {
  eptp: Hex;
  mbec: boolean;
  ve_enabled: boolean;
}

export interface EptVector extends MmuVector, EptControls {
  format: 'ept';
  adv_exit_info: boolean;
  nmi_unblocking_iret?: boolean;
  entries: ByLevel<Hex>;
  entry_addrs: ByLevel<Hex>;
  gpa: Hex;
  gla: Hex | null;
  page_walk: boolean;
  user: boolean;
  gpt_writable: boolean;
  gpt_nx: boolean;
  spp_enabled?: boolean;
  sppt_root?: Hex;
  spp_entries?: ByLevel<Hex>;
  spp_entry_addrs?: ByLevel<Hex>;
  write_size?: number;
}

interface NptControls {
  ncr3: Hex;
  host_cr4: Hex;
  host_efer: Hex;
}

export interface NptVector extends MmuVector, NptControls {
  format: 'npt';
  nested_mode: GuestRegisters['mode'];
  entries: ByLevel<Hex>;
  entry_addrs: ByLevel<Hex>;
  gpa: Hex;
  page_walk: boolean;
}

interface TwoDimensional extends MmuVector, GuestRegisters {
  /** Every quadword that either walk can read. */
  memory: Readonly<Record<Hex, Hex>>;
}

export interface Ept2dVector extends TwoDimensional, EptControls {
  format: 'ept-2d';
}

export interface Npt2dVector extends TwoDimensional, NptControls {
  format: 'npt-2d';
}

/** kvm-unit-tests' access test. */
export interface AccessVector {
  format: 'access';
  stratum: string;
  maxphyaddr: number;
  cr0: Hex;
  cr3: Hex;
  cr4: Hex;
  efer: Hex;
  pkru: Hex;
  la: Hex;
  access: { write: boolean; fetch: boolean; user: boolean; twice: boolean };
  entries: { level: number; gpa: Hex; value: Hex }[];
  fault: boolean;
  error: number | null;
  pa: Hex | null;
  pdeAfter: Hex;
  pdeIgnore: Hex;
  pteAfter: Hex | null;
}

/** KVM_TRANSLATE, or an access made in QEMU. */
export interface TranslateVector {
  format: 'translate';
  oracle: 'kvm_translate' | 'qemu_tcg_exec';
  mode: '32bit' | '32bit-pse' | 'pae' | '4level' | '5level';
  cr0: Hex;
  cr3: Hex;
  cr4: Hex;
  efer: Hex;
  maxphyaddr: number;
  gbpages: boolean;
  vendor?: 'GenuineIntel' | 'AuthenticAMD';
  memory: [Hex, Hex][];
  unbacked: Hex | null;
  gva: Hex;
  valid: boolean;
  gpa: Hex | null;
  after: [Hex, Hex][];
  access?: { write: boolean; fetch: boolean; user: boolean };
  fault?: 'pf' | 'gp' | null;
  error?: number | null;
}

export type Vector = GuestVector | EptVector | NptVector | Ept2dVector | Npt2dVector | AccessVector | TranslateVector;

/** Fields by which each format is known, the more special ones first. */
const FORMATS: readonly (readonly [Vector['format'], readonly string[]])[] = [
  ['translate', ['oracle', 'gva', 'memory']],
  ['access', ['stratum', 'entries', 'la']],
  ['ept-2d', ['eptp', 'la', 'memory']],
  ['npt-2d', ['ncr3', 'la', 'memory']],
  ['ept', ['eptp', 'gpa', 'entries']],
  ['npt', ['ncr3', 'gpa', 'entries']],
  ['guest', ['mode', 'la', 'entries']],
];

/** Makes a vector of one line. @throws Error, without the line's place, if it is no JSON or of no known format */
export function parseVector(line: string): Vector {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (e) {
    throw new Error('is not JSON: one object per line is expected', { cause: e });
  }
  if (typeof value !== 'object' || value === null) throw new Error('is not a JSON object');
  const format = FORMATS.find(([, fields]) => fields.every((f) => f in value))?.[0];
  if (format === undefined) {
    const known = FORMATS.map(([name, fields]) => `${name} (${fields.join(', ')})`).join('; ');
    throw new Error(`is of no known format; the formats and the fields that mark them are: ${known}`);
  }
  return { ...value, format } as Vector;
}

/** Name of a line in reports: its id, else its number. */
export function vectorName(v: Vector, line: number): string {
  return 'id' in v ? v.id : `line ${line}`;
}
