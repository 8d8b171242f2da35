/**
 * System management mode: the layout of the SMRAM state-save area, and the registers with which a handler starts.
 *
 * Two layouts exist: the 64-bit one of AMD64 processors (APM vol. 2 10.2.3), which KVM uses for every guest whose CPUID has long mode,
 * whatever the vendor, and the 32-bit one of the P6 family (SDM vol. 3C 31.4.1.1). The area is 512 bytes from SMBASE + 0xfe00 on; all
 * offsets below count from SMBASE.
 */
import { type CpuState, CR0, SEGMENT_NAMES, segment, type DescriptorTable, type Segment } from './regs';

/** First byte of the state-save area that KVM and this model use, from SMBASE. */
export const SMRAM_SAVE_OFFSET = 0xfe00;
/** Its size in bytes. */
export const SMRAM_SAVE_SIZE = 0x200;
/** Where a handler's code starts, from SMBASE. SDM vol. 3C 31.3.3, APM vol. 2 10.3. */
export const SMM_ENTRY_OFFSET = 0x8000;
/** SMBASE after reset. */
export const SMBASE_RESET = 0x30000;

export type SmramLayoutName = '64-bit' | '32-bit';

/** Registers together with SMBASE: what the area holds. */
export interface SmmImage {
  state: CpuState;
  smbase: number;
  revision: number;
}

/** One field of the area. */
export interface SmramField {
  readonly name: string;
  /** From SMBASE. */
  readonly offset: number;
  /** Bytes. */
  readonly size: 2 | 4 | 8;
  readonly get: (m: SmmImage) => bigint;
  readonly set: (m: SmmImage, value: bigint) => void;
}

export interface SmramLayout {
  readonly name: SmramLayoutName;
  readonly source: string;
  readonly fields: readonly SmramField[];
}

/** Attributes of a segment as bits 55:52 and 47:40 of its descriptor, in place (bits 23:20 and 15:8 of the upper half). */
export function segmentFlags(s: Segment): number {
  if (s.unusable) return 0;
  return (s.g << 23) | (s.db << 22) | (s.l << 21) | (s.present << 15) | (s.dpl << 13) | (s.s << 12) | (s.type << 8);
}

/** The reverse of {@link segmentFlags}. A segment that is not present is unusable. */
export function setSegmentFlags(s: Segment, flags: number): void {
  s.g = (flags >>> 23) & 1;
  s.db = (flags >>> 22) & 1;
  s.l = (flags >>> 21) & 1;
  s.present = (flags >>> 15) & 1;
  s.dpl = (flags >>> 13) & 3;
  s.s = (flags >>> 12) & 1;
  s.type = (flags >>> 8) & 15;
  s.unusable = s.present ? 0 : 1;
}

type SegmentOf = (m: SmmImage) => Segment;
type TableOf = (m: SmmImage) => DescriptorTable;

const reg = (
  name: 'rip' | 'rflags' | 'dr6' | 'dr7' | 'cr0' | 'cr3' | 'cr4' | 'efer',
  offset: number,
  size: 4 | 8,
): SmramField => ({
  name,
  offset,
  size,
  get: (m) => m.state[name],
  set: (m, v) => (m.state[name] = v),
});

const gpr = (name: string, n: number, offset: number, size: 4 | 8): SmramField => ({
  name,
  offset,
  size,
  get: (m) => m.state.gpr[n],
  set: (m, v) => (m.state.gpr[n] = v),
});

const smbase = (offset: number): SmramField => ({
  name: 'smbase',
  offset,
  size: 4,
  get: (m) => BigInt(m.smbase),
  set: (m, v) => (m.smbase = Number(v)),
});

const revision = (offset: number): SmramField => ({
  name: 'revision',
  offset,
  size: 4,
  get: (m) => BigInt(m.revision),
  set: (m, v) => (m.revision = Number(v)),
});

const selector = (name: string, of: SegmentOf, offset: number, size: 2 | 4): SmramField => ({
  name: `${name}.selector`,
  offset,
  size,
  get: (m) => BigInt(of(m).selector),
  set: (m, v) => (of(m).selector = Number(v & 0xffffn)),
});

/** `shift`: 8 where the field holds the flags without the base's low byte (64-bit layout), else 0. */
const flags = (name: string, of: SegmentOf, offset: number, size: 2 | 4, shift: number): SmramField => ({
  name: `${name}.attributes`,
  offset,
  size,
  get: (m) => BigInt(segmentFlags(of(m)) >>> shift),
  set: (m, v) => setSegmentFlags(of(m), Number(v) << shift),
});

const limit = (name: string, of: (m: SmmImage) => { limit: number }, offset: number): SmramField => ({
  name: `${name}.limit`,
  offset,
  size: 4,
  get: (m) => BigInt(of(m).limit),
  set: (m, v) => (of(m).limit = Number(v)),
});

const base = (name: string, of: (m: SmmImage) => { base: bigint }, offset: number, size: 4 | 8): SmramField => ({
  name: `${name}.base`,
  offset,
  size,
  get: (m) => of(m).base,
  set: (m, v) => (of(m).base = v),
});

const GPR_ORDER = ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'] as const;
const segments: readonly [string, SegmentOf][] = SEGMENT_NAMES.map((n) => [n, (m) => m.state[n]]);
const tr: SegmentOf = (m) => m.state.tr;
const ldtr: SegmentOf = (m) => m.state.ldtr;
const gdtr: TableOf = (m) => m.state.gdtr;
const idtr: TableOf = (m) => m.state.idtr;

const segment64 = (name: string, of: SegmentOf, at: number): SmramField[] => [
  selector(name, of, at, 2),
  flags(name, of, at + 2, 2, 8),
  limit(name, of, at + 4),
  base(name, of, at + 8, 8),
];

/** AMD64 layout. */
export const SMRAM_64: SmramLayout = {
  name: '64-bit',
  source: 'APM vol. 2 table 10-1; KVM 6.1 enter_smm_save_state_64',
  fields: [
    ...segments.flatMap(([name, of], n) => segment64(name, of, 0xfe00 + 16 * n)),
    limit('gdtr', gdtr, 0xfe64),
    base('gdtr', gdtr, 0xfe68, 8),
    ...segment64('ldtr', ldtr, 0xfe70),
    limit('idtr', idtr, 0xfe84),
    base('idtr', idtr, 0xfe88, 8),
    ...segment64('tr', tr, 0xfe90),
    reg('efer', 0xfed0, 8),
    revision(0xfefc),
    smbase(0xff00),
    reg('cr4', 0xff48, 8),
    reg('cr3', 0xff50, 8),
    reg('cr0', 0xff58, 8),
    reg('dr7', 0xff60, 8),
    reg('dr6', 0xff68, 8),
    reg('rflags', 0xff70, 4),
    reg('rip', 0xff78, 8),
    ...Array.from({ length: 16 }, (_, n) => gpr(n < 8 ? `r${GPR_ORDER[n]}` : `r${n}`, n, 0xfff8 - 8 * n, 8)),
  ],
};

const segment32 = (name: string, of: SegmentOf, at: number): SmramField[] => [
  flags(name, of, at, 4, 0),
  limit(name, of, at + 4),
  base(name, of, at + 8, 4),
];

/** P6 layout. */
export const SMRAM_32: SmramLayout = {
  name: '32-bit',
  source: 'SDM vol. 3C table 31-1; KVM 6.1 enter_smm_save_state_32',
  fields: [
    smbase(0xfef8),
    revision(0xfefc),
    reg('cr4', 0xff14, 4),
    ...segments.slice(3).flatMap(([name, of], n) => segment32(name, of, 0xff2c + 12 * n)),
    limit('idtr', idtr, 0xff54),
    base('idtr', idtr, 0xff58, 4),
    ...segment32('tr', tr, 0xff5c),
    limit('gdtr', gdtr, 0xff70),
    base('gdtr', gdtr, 0xff74, 4),
    ...segment32('ldtr', ldtr, 0xff78),
    ...segments.slice(0, 3).flatMap(([name, of], n) => segment32(name, of, 0xff84 + 12 * n)),
    ...segments.map(([name, of], n) => selector(name, of, 0xffa8 + 4 * n, 4)),
    selector('ldtr', ldtr, 0xffc0, 4),
    selector('tr', tr, 0xffc4, 4),
    reg('dr7', 0xffc8, 4),
    reg('dr6', 0xffcc, 4),
    ...GPR_ORDER.map((name, n) => gpr(`e${name}`, n, 0xffd0 + 4 * n, 4)),
    reg('rip', 0xfff0, 4),
    reg('rflags', 0xfff4, 4),
    reg('cr3', 0xfff8, 4),
    reg('cr0', 0xfffc, 4),
  ],
};

/** Revision identifiers that KVM stores: bit 17 (SMBASE relocation), and in the 64-bit layout 0x64. */
const REVISION: Readonly<Record<SmramLayoutName, number>> = { '64-bit': 0x20064, '32-bit': 0x20000 };

/** The area's bytes for these registers. Bytes that no field covers are zero. */
export function saveSmram(layout: SmramLayout, state: CpuState, smbaseValue: number): Uint8Array {
  const image: SmmImage = { state, smbase: smbaseValue, revision: REVISION[layout.name] };
  const bytes = new Uint8Array(SMRAM_SAVE_SIZE);
  for (const f of layout.fields) {
    const v = f.get(image);
    for (let i = 0; i < f.size; i++) bytes[f.offset - SMRAM_SAVE_OFFSET + i] = Number((v >> BigInt(8 * i)) & 0xffn);
  }
  return bytes;
}

/**
 * Registers from the area's bytes, as RSM reads them. What the layout does not hold (CR2, PKRU …) is taken from `current`.
 * @throws RangeError if there are fewer than 512 bytes
 */
export function loadSmram(layout: SmramLayout, bytes: Uint8Array, current: CpuState): SmmImage {
  if (bytes.length < SMRAM_SAVE_SIZE)
    throw new RangeError(`the state-save area has ${SMRAM_SAVE_SIZE} bytes, not ${bytes.length}`);
  const image: SmmImage = { state: current.clone(), smbase: 0, revision: 0 };
  for (const f of layout.fields) {
    let v = 0n;
    for (let i = f.size - 1; i >= 0; i--) v = (v << 8n) | BigInt(bytes[f.offset - SMRAM_SAVE_OFFSET + i]);
    f.set(image, v);
  }
  return image;
}

/**
 * Puts the registers into the state in which a handler starts: real mode with 4 GiB segment limits, CS based at SMBASE, interrupts
 * off. SDM vol. 3C table 31-4, APM vol. 2 10.3.1; the descriptor attributes are those that KVM loads.
 */
export function enterSmmRegisters(state: CpuState, smbaseValue: number): void {
  state.rflags = 2n;
  state.rip = BigInt(SMM_ENTRY_OFFSET);
  state.cr0 &= ~(CR0.PE | CR0.EM | CR0.TS | CR0.PG);
  state.cr4 = 0n;
  state.efer = 0n;
  state.dr7 = 0x400n;
  state.idtr.base = 0n;
  state.idtr.limit = 0;
  const flat = { limit: 0xffffffff, type: 3, s: 1, dpl: 0, present: 1, l: 0, db: 0, g: 1, unusable: 0 };
  for (const name of SEGMENT_NAMES) state[name] = segment(flat);
  state.cs = segment({ ...flat, selector: (smbaseValue >>> 4) & 0xffff, base: BigInt(smbaseValue) });
}
