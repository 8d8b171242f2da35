/** The registers of a vCPU: values, their flags by name, and setting them as user space would (KVM_SET_SREGS). */
import type { CpuState, Segment } from '../../hw/regs';
import type { KvmVcpu } from '../../kvm/kvm_host';
import type { Machine, RegisterSet } from '../../kvm/machine';
import { parseNumber } from '../../words/address';
import { CR0, CR4, EFER, parseFlags, PKRS, PKRU, RFLAGS } from '../../words/controls';
import { cr3Layout } from '../../words/pointers';
import { decodeWord, type WordLayout } from '../../words/word';
import { hexLeaf, leaf, struct, wordNode } from '../nodes';
import { formatMemoryReference, type RegisterState, TargetError, type TreeNode } from '../target';

/** General registers in the order of their encoding. */
export const GPR_NAMES = [
  ...['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'],
  ...['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'],
] as const;

type PlainRegister = 'cr0' | 'cr2' | 'cr3' | 'cr4' | 'efer' | 'rip' | 'rflags' | 'pkru';

/** A register by its name in expressions and scenarios. */
interface RegisterInfo {
  readonly name: string;
  readonly get: (s: CpuState) => bigint;
  readonly layout?: (s: CpuState, m: Machine) => WordLayout;
  /** how KVM_SET_SREGS takes it; absent: user space does not set it here */
  readonly set?: (value: bigint) => RegisterSet;
}

const plain = (name: PlainRegister, layout?: RegisterInfo['layout']): RegisterInfo => ({
  name,
  get: (s) => BigInt(s[name]),
  layout,
  set: (value) => ({ [name]: name === 'pkru' ? Number(value) : value }),
});

/** In the order in which they are shown. */
export const REGISTERS: readonly RegisterInfo[] = [
  plain('rip'),
  plain('rflags', () => RFLAGS),
  plain('cr0', () => CR0),
  plain('cr2'),
  plain('cr3', (s, m) =>
    cr3Layout(
      s.longModeActive ? ((s.cr4 >> 17n) & 1n ? 'long-pcid' : 'long') : (s.cr4 >> 5n) & 1n ? 'pae' : '32-bit',
      m.cpu.maxphyaddr,
    ),
  ),
  plain('cr4', () => CR4),
  plain('efer', () => EFER),
  { name: 'cpl', get: (s) => BigInt(s.cpl), set: (value) => ({ cpl: Number(value) }) },
  plain('pkru', () => PKRU),
  { name: 'pkrs', get: (s) => BigInt(s.pkrs), layout: () => PKRS },
  ...GPR_NAMES.map((name, i): RegisterInfo => ({
    name,
    get: (s) => s.gpr[i],
    set: (value) => ({ gpr: { [i]: value } }),
  })),
  { name: 'dr6', get: (s) => s.dr6 },
  { name: 'dr7', get: (s) => s.dr7 },
];

export const REGISTER_BY_NAME: ReadonlyMap<string, RegisterInfo> = new Map(REGISTERS.map((r) => [r.name, r]));

/** Registers that hold flags or govern translation: what the role decoder and the CLI show. */
const GOVERNING = new Set(['rip', 'rflags', 'cr0', 'cr2', 'cr3', 'cr4', 'efer', 'pkru', 'pkrs']);

export function registerStates(m: Machine, vcpu: KvmVcpu): RegisterState[] {
  const s = vcpu.regs;
  return REGISTERS.filter((r) => GOVERNING.has(r.name)).map((r) => {
    const value = r.get(s);
    const layout = r.layout?.(s, m);
    return { name: r.name, value, decoded: layout ? decodeWord(layout, value) : null };
  });
}

/** How the guest translates, in words. */
export function modeText(s: CpuState): string {
  const cpu = s.mode === 'real' ? 'real mode' : s.mode === 'long' ? '64-bit mode' : `${s.mode} mode`;
  if (!s.paging) return `${cpu}, paging off`;
  if (s.longModeActive) return `${cpu}, ${s.linearBits === 57 ? 5 : 4}-level paging`;
  return `${cpu}, ${(s.cr4 >> 5n) & 1n ? 'PAE' : '32-bit'} paging`;
}

/** Writes a register; the caller has checked that the state may be changed now. */
export type RegisterWriter = (set: RegisterSet) => void;

/**
 * Reads a register value as people write it: a number, or flags by name.
 * @throws TargetError that says what is legal
 */
export function registerValue(info: { readonly name: string; readonly layout?: WordLayout }, text: string): bigint {
  try {
    if (info.layout && /[A-Za-z|]/.test(text) && !/^\s*0x/i.test(text)) return parseFlags(info.layout, text);
    return parseNumber(text);
  } catch (error) {
    throw new TargetError(`${info.name}: ${(error as Error).message}`);
  }
}

/** The Registers scope. */
export function registersNode(machine: () => Machine, index: number, write: RegisterWriter): TreeNode {
  const vcpu = (): KvmVcpu => machine().vcpus[index];
  const one = (info: RegisterInfo): TreeNode => {
    const s = vcpu().regs;
    const value = info.get(s);
    const layout = info.layout?.(s, machine());
    const more = {
      evaluateName: info.name,
      ...(info.set
        ? {
            set: (text: string): TreeNode => {
              if (info.set) write(info.set(registerValue({ name: info.name, layout }, text)));
              return one(info);
            },
          }
        : {}),
      ...(ADDRESS_REGISTERS[info.name] ? { memoryReference: reference(info.name, value, index) } : {}),
    };
    if (info.name === 'rip' && !s.ripKnown)
      return leaf('rip', 'unknown', {
        type: 'the statement has no address: no fetch is simulated',
        evaluateName: 'rip',
      });
    return layout ? wordNode(info.name, decodeWord(layout, value), more) : hexLeaf(info.name, value, more);
  };
  return struct('Registers', '', () => [
    ...REGISTERS.map(one),
    struct('segments', '', () => segmentNodes(vcpu().regs), { type: 'segment registers with their hidden parts' }),
    struct('pdptrs', '', () => Array.from(vcpu().regs.pdptrs, (v, i) => hexLeaf(`[${i}]`, v)), {
      type: 'PDPTE registers of PAE paging',
    }),
  ]);
}

/** Registers that hold an address, with the space it lies in. */
const ADDRESS_REGISTERS: Readonly<Record<string, 'gva' | 'gpa'>> = {
  rip: 'gva',
  cr2: 'gva',
  rsp: 'gva',
  rbp: 'gva',
  rsi: 'gva',
  rdi: 'gva',
  cr3: 'gpa',
};

function reference(name: string, value: bigint, vcpu: number): string {
  const gpa = ADDRESS_REGISTERS[name] === 'gpa';
  return formatMemoryReference({
    space: gpa ? { kind: 'gpa', asId: 0 } : { kind: 'gva', vcpu },
    address: gpa ? value & 0xf_ffff_ffff_f000n : value,
  });
}

function segmentNodes(s: CpuState): TreeNode[] {
  const names = ['cs', 'ss', 'ds', 'es', 'fs', 'gs', 'tr', 'ldtr'] as const;
  return [
    ...names.map((name) => segmentNode(name, s[name])),
    leaf('gdtr', `base 0x${s.gdtr.base.toString(16)} limit 0x${s.gdtr.limit.toString(16)}`),
    leaf(
      'idtr',
      s.idtUsed
        ? `base 0x${s.idtr.base.toString(16)} limit 0x${s.idtr.limit.toString(16)}`
        : 'none: an exception ends the statement',
    ),
  ];
}

function segmentNode(name: string, seg: Segment): TreeNode {
  if (seg.unusable) return leaf(name, 'unusable');
  const kind = seg.s ? (seg.type & 8 ? 'code' : 'data') : 'system';
  const bits = seg.l ? '64-bit ' : seg.db ? '32-bit ' : '16-bit ';
  return struct(
    name,
    `0x${seg.selector.toString(16)} ${bits}${kind} dpl ${seg.dpl} base 0x${seg.base.toString(16)}`,
    () => [
      hexLeaf('selector', seg.selector),
      hexLeaf('base', seg.base),
      hexLeaf('limit', seg.limit),
      ...(['type', 's', 'dpl', 'present', 'l', 'db', 'g'] as const).map((field) => leaf(field, `${seg[field]}`)),
    ],
  );
}
