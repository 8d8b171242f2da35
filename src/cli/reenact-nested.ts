/**
 * The memory of the probe's nested guests: the VMCB of the SVM scenarios; code, pointers and VMCS fields of the VMX ones.
 * Control values are those that KVM's nested VMX capabilities leave of what the probe wants (v6.1 nested_vmx_setup_ctls_msrs).
 */
import { CR0_BASE, PERM_GPA, VMCB_GPA, VMX_INFO, type MemoryBlock } from './reenact-layout';
import type { ProbeRun } from './reenact-state';

const VMX_CODE = 0x2000n;
const VMX_TABLE = 0x2400n;
const VMX_PTRS = 0x2f00n;
const VMXON_GPA = 0xd000n;
const VMCS_GPA = 0xe000n;
const VMCS12_REVISION = 0x11e57ed0n;
const CR0 = CR0_BASE | 0x80000000n;
const NOP_STUB = 'nop';

/** VMXON and VMLAUNCH; VMRESUME with L2's registers from memory; INVEPT; where exits of L2 arrive. Offsets from VMX_CODE. */
const VMX_ROUTINES: readonly [bigint, string, string][] = [
  [
    0x00n,
    '0f20e0480d002000000f22e0f30fc73425002f00007635660fc73425082f0000762a0fc73425082f00007620be00240000488b16488b46084883faff740b' +
      '0f79d076094883c610ebe80f01c2ba004400000f78d1e6e4f4',
    'VMXON, load the VMCS from the table, VMLAUNCH',
  ],
  [0x80n, '488b1c25602f0000488b0425682f00000f01c3ebb7', 'VMRESUME'],
  [0xc0n, '0f79d87687e6e0f4', 'VMWRITE'],
  [0xe0n, 'b801000000660f38800425402f00000f8657ffffffe6e0f4', 'INVEPT'],
  [
    0x100n,
    'ba024400000f78d048890425802f0000ba006400000f78d048890425882f0000ba002400000f78d048890425902f0000ba0a6400000f78d0' +
      '48890425982f0000e6e3f4',
    'exits of L2 arrive here: store reason, qualification and addresses',
  ],
];

function le(value: bigint, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}

/** What the nested scenarios have in memory beside the plain guest; empty for the others. */
export function nestedImage(run: ProbeRun): MemoryBlock[] {
  if (!run.scenario.startsWith('nested')) return [];
  return run.vendor === 'amd' ? vmcb(run) : vmcs(run);
}

/** Where L1's nested tables of the probe put an address of L2 that they do not map to itself. */
export function nestedTarget(run: ProbeRun, gpa: bigint): bigint {
  const second = root(run, 'NPT') ?? root(run, 'EPT');
  return second !== null && gpa >> 12n === 0x10001n ? 0x20d000n + (gpa & 0xfffn) : gpa;
}

const root = (run: ProbeRun, space: string): bigint | null =>
  run.initial.pt.tables.find((t) => t.space === space)?.gpa ?? null;

function stubAddress(run: ProbeRun): bigint {
  return run.layout.code.find((c) => c.op === NOP_STUB)?.gpa ?? run.layout.stubs;
}

/** VMCB of L2. Offsets: APM vol. 2 appendix B. */
function vmcb(run: ProbeRun): MemoryBlock[] {
  const blocks: MemoryBlock[] = [];
  const put = (offset: bigint, value: bigint, size: number, what: string): void =>
    void blocks.push({ backing: 'low', offset: VMCB_GPA + offset, bytes: le(value, size), what: `VMCB ${what}` });
  const l = run.layout;
  const ncr3 = root(run, 'NPT');
  put(0x00cn, (1n << 24n) | (1n << 31n), 4, 'intercepts: HLT, SHUTDOWN');
  put(0x010n, 3n, 4, 'intercepts: VMRUN, VMMCALL');
  put(0x040n, PERM_GPA, 8, 'I/O permission map');
  put(0x048n, PERM_GPA, 8, 'MSR permission map');
  put(0x058n, 1n, 4, 'ASID');
  if (ncr3 !== null) {
    put(0x090n, 1n, 8, 'nested paging');
    put(0x0b0n, ncr3, 8, 'nCR3');
  }
  const seg = (at: bigint, selector: bigint, attr: bigint, limit: bigint, base: bigint, what: string): void =>
    put(at, selector | (attr << 16n) | (limit << 32n) | (base << 64n), 16, what);
  for (const [i, name] of ['es', 'cs', 'ss', 'ds', 'fs', 'gs'].entries())
    seg(0x400n + 16n * BigInt(i), i === 1 ? 8n : 0x10n, i === 1 ? 0xa9bn : 0xc93n, 0xffffffffn, 0n, name);
  seg(0x460n, 0n, 0n, 0x4fn, l.gdt, 'gdtr');
  seg(0x480n, 0n, 0n, 0x1ffn, l.idt, 'idtr');
  seg(0x490n, 0x38n, 0x8bn, 0x67n, l.tss, 'tr');
  put(0x4d0n, 0x1d00n, 8, 'EFER');
  put(0x548n, 0x20n, 8, 'CR4');
  put(0x550n, root(run, 'L2') ?? 0n, 8, 'CR3');
  put(0x558n, CR0, 8, 'CR0');
  put(0x560n, 0x400n, 8, 'DR7');
  put(0x568n, 0xffff0ff0n, 8, 'DR6');
  put(0x570n, 2n, 8, 'RFLAGS');
  put(0x578n, stubAddress(run), 8, 'RIP');
  put(0x5d8n, l.stackRing0Top, 8, 'RSP');
  put(0x668n, 0x0007040600070406n, 8, 'PAT');
  return blocks;
}

function vmcs(run: ProbeRun): MemoryBlock[] {
  const ept = root(run, 'EPT');
  const eptp = ept === null ? 0n : ept | 6n | (3n << 3n) | (run.scenario === 'nested-ept-ad' ? 1n << 6n : 0n);
  const blocks: MemoryBlock[] = [];
  const put = (offset: bigint, bytes: Uint8Array, what: string): void =>
    void blocks.push({ backing: 'low', offset, bytes, what });
  for (const [at, hex, what] of VMX_ROUTINES)
    put(
      VMX_CODE + at,
      Uint8Array.from(hex.match(/../g) ?? [], (h) => Number(`0x${h}`)),
      what,
    );
  put(VMX_PTRS, le(VMXON_GPA, 8), 'address of the VMXON region');
  put(VMX_PTRS + 8n, le(VMCS_GPA, 8), 'address of the VMCS');
  put(VMX_PTRS + 0x40n, le(eptp, 8), 'INVEPT descriptor');
  put(VMXON_GPA, le(VMCS12_REVISION, 4), 'revision of the VMXON region');
  put(VMCS_GPA, le(VMCS12_REVISION, 4), 'revision of the VMCS');
  const fields = vmcsFields(run, eptp);
  const table = new Uint8Array(fields.length * 16);
  fields.forEach(([field, value], i) => {
    table.set(le(field, 8), 16 * i);
    table.set(le(value, 8), 16 * i + 8);
  });
  put(VMX_TABLE, table, 'VMCS fields and values, ended by -1');
  return blocks;
}

/** Fields in the probe's order. Encodings: SDM vol. 3D appendix B. */
function vmcsFields(r: ProbeRun, pointer: bigint): [bigint, bigint][] {
  const l = r.layout;
  const f: [bigint, bigint][] = [];
  const add = (field: number, value: bigint): void => void f.push([BigInt(field), value]);
  const cr4 = 0x2020n;
  add(0x4000, 0x16n);
  add(0x4002, 0x940061f2n);
  // The probe leaves out what KVM does not offer: EPT, where KVM runs without it.
  add(0x401e, pointer && /^(y|1)/i.test(r.params['kvm_intel.ept'] ?? 'y') ? 2n : 0n);
  add(0x400c, 0x36ffbn);
  add(0x4012, 0x13fbn);
  add(0x2004, PERM_GPA);
  if (pointer) add(0x201a, pointer);
  for (let e = 0x4004; e <= 0x4016; e += 2) if (e !== 0x400c && e !== 0x4012) add(e, 0n);
  add(0x2800, 0xffff_ffff_ffff_ffffn);
  add(0x2802, 0n);
  [0n, 0n, CR0, cr4].forEach((v, i) => add(0x6000 + 2 * i, v));
  const rights = [0xc093n, 0xa09bn, 0xc093n, 0xc093n, 0xc093n, 0xc093n, 0x10000n, 0x8bn];
  for (let i = 0; i < 8; i++) {
    add(0x0800 + 2 * i, i === 1 ? 8n : i === 6 ? 0n : i === 7 ? 0x38n : 0x10n);
    add(0x4800 + 2 * i, i === 7 ? 0x67n : i === 6 ? 0n : 0xffffffffn);
    add(0x4814 + 2 * i, rights[i]);
    add(0x6806 + 2 * i, i === 7 ? l.tss : 0n);
  }
  add(0x4810, 0x4fn);
  add(0x4812, 0x1ffn);
  add(0x6816, l.gdt);
  add(0x6818, l.idt);
  for (const e of [0x4824, 0x4826, 0x482a]) add(e, 0n);
  add(0x6800, CR0);
  add(0x6802, root(r, 'L2') ?? 0n);
  add(0x6804, cr4);
  add(0x681a, 0x400n);
  add(0x681c, l.stackRing0Top);
  add(0x681e, stubAddress(r));
  add(0x6820, 2n);
  for (const e of [0x6822, 0x6824, 0x6826]) add(e, 0n);
  for (let i = 0; i < 6; i++) add(0x0c00 + 2 * i, i === 1 ? 8n : 0x10n);
  add(0x0c0c, 0x38n);
  add(0x4c00, 0n);
  add(0x6c00, CR0);
  add(0x6c02, root(r, 'L1') ?? 0n);
  add(0x6c04, cr4);
  add(0x6c06, 0n);
  add(0x6c08, 0n);
  add(0x6c0a, l.tss);
  add(0x6c0c, l.gdt);
  add(0x6c0e, l.idt);
  for (const e of [0x6c10, 0x6c12]) add(e, 0n);
  add(0x6c14, l.stackRing0Top);
  add(0x6c16, VMX_CODE + 0x100n);
  f.push([0xffff_ffff_ffff_ffffn, 0n]);
  return f;
}

/** Host writes that the probe makes before a VMX routine: the values that VMRESUME loads into L2's registers. */
export const VMX_RESUME_VALUES = VMX_PTRS + 0x60n;
/** Where L1 stores what it saw of an exit, and the names of the words there. */
export const VMX_EXIT_WORDS: readonly [string, bigint][] = ['reason', 'qualification', 'gpa', 'gla'].map((name, i) => [
  name,
  VMX_INFO + 8n * BigInt(i),
]);
/** The same in the VMCB. */
export const VMCB_EXIT_WORDS: readonly [string, bigint][] = [
  ['code', VMCB_GPA + 0x70n],
  ['info1', VMCB_GPA + 0x78n],
  ['info2', VMCB_GPA + 0x80n],
];
