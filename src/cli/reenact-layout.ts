/**
 * What the probe's guest has in memory before its first step, as far as the state file does not list it: descriptor tables, fault
 * handlers, TSS, return instructions, SMM handler. Addresses come from the state file; the rest are facts of the probe (its image,
 * the same for every run).
 */
import type { ProbeRun } from './reenact-state';

/** Bytes that user space puts somewhere in a backing. */
export interface MemoryBlock {
  backing: string;
  offset: bigint;
  bytes: Uint8Array;
  /** what it is, for a comment */
  what: string;
}

/** The area that page-table pages are handed out from, and that state files list word by word. */
export const TABLES_START = 0x10000n;
/** End of the area that page-table pages are handed out from. */
export const TABLES_END = 0x30000n;
export const SMBASE = 0x30000n;
/** Offset in SMRAM of the SMM handler, and of the stubs for 16-bit code behind it. */
const SMM_HANDLER = 0x8000n;
const SMM_STUBS = 0x8100n;
const STUB_SIZE = 16n;
const PORT_FAULT = 0xe1;
const PORT_SMI = 0xe2;
/** What the OUT at the end of a stub says: how the step ended. */
export const PORT_ENDS: Readonly<Record<number, string>> = { 0xe0: 'done', 0xe1: 'fault', 0xe2: 'smi', 0xe3: 'l1' };
/** `read` and `write` for 16-bit code: the last two stubs, which the state file does not list. */
const STUBS_16BIT = ['67668b03e6e0f4', '67668903e6e0f4'];
export const VMCB_GPA = 0xa000n;
export const PERM_GPA = 0xc000n;
export const VMX_INFO = 0x2f80n;

/** CR0 of the probe's guests without paging: PE MP ET NE WP AM. */
export const CR0_BASE = 0x50033n;

/** Sizes of the probe's mappings, and which are of 2M host pages. */
export const BACKINGS: Readonly<Record<string, { size: bigint; huge: boolean }>> = {
  low: { size: 0x200000n, huge: false },
  data: { size: 0x200000n, huge: false },
  big: { size: 0x400000n, huge: true },
  smram: { size: 0x10000n, huge: false },
  aseg: { size: 0x20000n, huge: false },
  extra: { size: 0x200000n, huge: false },
};

/** The kernels that Debian packages stand for: their uname hides the stable patch level. */
const DEBIAN_KERNELS: Readonly<Record<string, string>> = { '6.1.0-50': '6.1.176', '6.1.0-56': '6.1.192' };

/** The stable release behind a uname, as far as known. */
export function kernelRelease(uname: string): string {
  const m = /^(\d+\.\d+\.0-\d+)/.exec(uname);
  return (m && DEBIAN_KERNELS[m[1]]) ?? uname;
}

/** Whether the guest's code is 64-bit: decides the width of gates and handlers. */
export function is64(mode: string): boolean {
  return mode === '4-level' || mode === '5-level';
}

/** Mode that the image was built for: the first vCPU's at the start. */
export const imageBits = (run: ProbeRun): 32 | 64 => (is64(run.initial.vcpus[0]?.mode ?? '') ? 64 : 32);

function hexBytes(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (h) => Number(`0x${h}`));
}

function le(value: bigint, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}

const GDT = [
  [1n, 0x00af9b000000ffffn, 'code 64-bit ring 0'],
  [2n, 0x00cf93000000ffffn, 'data ring 0'],
  [3n, 0x00affb000000ffffn, 'code 64-bit ring 3'],
  [4n, 0x00cff3000000ffffn, 'data ring 3'],
  [5n, 0x00cf9b000000ffffn, 'code 32-bit ring 0'],
  [6n, 0x00cffb000000ffffn, 'code 32-bit ring 3'],
] as const;

/** The guest image in page 0 … 0xf of `low`: stubs, handlers, IDT, GDT, TSS. */
export function guestImage(run: ProbeRun): MemoryBlock[] {
  const l = run.layout;
  const bits = imageBits(run);
  const blocks: MemoryBlock[] = [];
  const put = (gpa: bigint, bytes: Uint8Array, what: string): void =>
    void blocks.push({ backing: 'low', offset: gpa, bytes, what });
  for (const c of allStubs(run)) put(l.stubs + c.offset, c.bytes, `stub ${c.op}`);
  for (let v = 0n; v < 32n; v++) {
    const handler = l.handlers + 16n * v;
    // mov esi, vector; out 0xe1, al; hlt
    put(handler, Uint8Array.from([0xbe, Number(v), 0, 0, 0, 0xe6, PORT_FAULT, 0xf4]), `handler of vector ${v}`);
  }
  const selector = bits === 64 ? 0x08n : 0x28n;
  for (let v = 0n; v < 32n; v++) {
    const a = l.handlers + 16n * v;
    const gate = (a & 0xffffn) | (selector << 16n) | (0x8en << 40n) | ((a >> 16n) << 48n);
    if (bits === 64) put(l.idt + 16n * v, Uint8Array.from([...le(gate, 8), ...le(0n, 8)]), `IDT gate ${v}`);
    else put(l.idt + 8n * v, le(gate, 8), `IDT gate ${v}`);
  }
  for (const [i, value, what] of GDT)
    put(l.gdt + 8n * i, le(value, 8), `GDT ${(8n * i).toString(16).padStart(2, '0')}: ${what}`);
  put(l.gdt + 0x38n, le(0x00008b0000000067n | (l.tss << 16n), 8), 'GDT 38: TSS');
  if (bits === 64) {
    put(l.tss + 4n, le(l.stackFaultTop, 8), 'TSS: stack of ring 0');
  } else {
    put(l.tss + 4n, le(l.stackFaultTop, 4), 'TSS: stack of ring 0');
    put(l.tss + 8n, le(0x10n, 4), 'TSS: stack segment of ring 0');
  }
  put(l.tss + 0x66n, le(0x68n, 2), 'TSS: no I/O permission map');
  return blocks;
}

interface Stub {
  op: string;
  offset: bigint;
  bytes: Uint8Array;
}

/** Every stub with its offset from the first: those listed, then the two for 16-bit code. */
function allStubs(run: ProbeRun): Stub[] {
  const stubs: Stub[] = run.layout.code.map((c) => ({
    op: c.op,
    offset: c.gpa - run.layout.stubs,
    bytes: hexBytes(c.bytes),
  }));
  const next = stubs.reduce((max, s) => (s.offset >= max ? s.offset + STUB_SIZE : max), 0n);
  STUBS_16BIT.forEach((hex, i) =>
    stubs.push({
      op: i ? 'write (16-bit code)' : 'read (16-bit code)',
      offset: next + BigInt(i) * STUB_SIZE,
      bytes: hexBytes(hex),
    }),
  );
  return stubs;
}

/** Return instructions that `exec` steps call. The SMM scenario has one only. */
export function returns(run: ProbeRun): MemoryBlock[] {
  const ret = (backing: string, offset: bigint): MemoryBlock => ({
    backing,
    offset,
    bytes: Uint8Array.of(0xc3),
    what: 'ret',
  });
  if (run.scenario === 'smm') return [ret('data', 0x7000n)];
  return [
    ...[0x4000n, 0x6000n, 0x7000n, 0x8000n].map((o) => ret('data', o)),
    ...[0x1000n, 0x200000n].map((o) => ret('big', o)),
  ];
}

/** SMRAM and A segment of the SMM scenario. */
export function smmImage(run: ProbeRun): MemoryBlock[] {
  if (!run.initial.memslots.some((s) => s.as_id === 1)) return [];
  const blocks: MemoryBlock[] = [
    { backing: 'smram', offset: 0x100n, bytes: new Uint8Array(16).fill(0x77), what: 'a pattern that reads find' },
    // out 0xe2, al; hlt; jmp back
    {
      backing: 'smram',
      offset: SMM_HANDLER,
      bytes: Uint8Array.from([0xe6, PORT_SMI, 0xf4, 0xeb, 0xfb]),
      what: 'SMI handler',
    },
  ];
  for (const s of allStubs(run))
    blocks.push({ backing: 'smram', offset: SMM_STUBS + s.offset, bytes: s.bytes, what: `stub ${s.op}` });
  blocks.push({
    backing: 'aseg',
    offset: 0x10n,
    bytes: new Uint8Array(16).fill(0x88),
    what: 'a pattern that reads find',
  });
  return blocks;
}

/** The recognisable word at the start of each page of a backing. */
export function pageMark(backing: string, offset: bigint): bigint {
  return 0x5a00_0000_0000_0000n | (BigInt(backing.charCodeAt(0)) << 48n) | offset;
}

/** Pages of `low` that the image clears, so that they have no mark: below the page tables (whose words the state file lists). */
export const LOW_CLEARED_END = TABLES_END;

/** CR4 and EFER that the probe's host loads for a paging mode. */
export function modeControls(mode: string): { cr4: bigint; efer: bigint } {
  switch (mode) {
    case '5-level':
      return { cr4: 0x1020n, efer: 0xd00n };
    case '4-level':
      return { cr4: 0x20n, efer: 0xd00n };
    case 'pae':
      return { cr4: 0x20n, efer: 0x800n };
    case '32-bit-pse':
      return { cr4: 0x10n, efer: 0n };
    default:
      return { cr4: 0n, efer: 0n };
  }
}

/** Whether an address is one of the 16-bit stubs behind the SMM handler (code offset 0x8100 …). */
export const isSmramStub = (rip: bigint): boolean => rip >= SMM_STUBS && rip < SMM_STUBS + 0x200n;
