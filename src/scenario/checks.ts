/**
 * What KVM and the processor will say about statements that are well written: found before the run, with KVM's errno and its reason.
 * Memslots are tried on a machine of their own, so that the sentence is the one that the run would give.
 */
import { CR0, CR4, EFER } from '../hw/regs';
import { VMX_OPS } from '../hw/vmcs';
import { Machine, type MachineConfig } from '../kvm/machine';
import { cpuRoleLayout, pageRoleLayout } from '../words/roles';
import { isCanonical, gva as toGva } from '../words/address';
import { attempt } from './execute';
import { noRoleField, roleFieldName } from './inspect';
import { Interpreter } from './interpreter';
import {
  ScenarioProgram,
  type Diagnostic,
  type GuestInsn,
  type Op,
  type RegisterWrite,
  type Severity,
  type Statement,
} from './program';
import { flagText } from './expectations';
import { REGISTER_FLAGS } from './tables';

/** CR4 and EFER bits that KVM accepts only with a CPUID feature of the guest (kvm_valid_cr4, kvm_valid_efer). */
const CR4_FEATURES: readonly (readonly [bigint, string])[] = [
  [CR4.SMEP, 'smep'],
  [CR4.SMAP, 'smap'],
  [CR4.PKE, 'pku'],
  [CR4.PKS, 'pks'],
  [CR4.LA57, 'la57'],
  [CR4.PCIDE, 'pcid'],
  [CR4.VMXE, 'vmx'],
];
const EFER_FEATURES: readonly (readonly [bigint, string])[] = [
  [EFER.NXE, 'nx'],
  [EFER.LME, 'lm'],
  [EFER.SVME, 'svm'],
];

/** Control registers of a vCPU as far as the text tells. */
interface Known {
  cr0: bigint;
  cr3: bigint;
  cr4: bigint;
  efer: bigint;
}

/**
 * Findings about the statements in their order.
 * @param wrong lines that something has been said about already: their statements are passed over
 */
export function checkAgainstKvm(
  statements: readonly Statement[],
  config: MachineConfig,
  wrong: ReadonlySet<number>,
): Diagnostic[] {
  const check = new Check(statements, config);
  for (const s of statements) if (!wrong.has(s.line)) check.statement(s);
  return check.findings;
}

const SVM_OPS: ReadonlySet<string> = new Set(['vmrun', 'vmload', 'vmsave', 'stgi', 'clgi', 'invlpga']);
const VMX_INSNS: ReadonlySet<string> = new Set(VMX_OPS);

class Check {
  readonly findings: Diagnostic[] = [];
  private readonly statements: readonly Statement[];
  private readonly config: MachineConfig;
  /** user space's half of the scenario: backings and memslots, no vCPU */
  private readonly dry: Interpreter;
  /** by vCPU; null: not known any more */
  private readonly known = new Map<number, Known | null>();

  constructor(statements: readonly Statement[], config: MachineConfig) {
    this.statements = statements;
    this.config = config;
    this.dry = new Interpreter(new ScenarioProgram('', '', config, []), new Machine(config));
  }

  private report(severity: Severity, code: string, s: Statement, message: string): void {
    const { line, column, endLine, endColumn } = s;
    this.findings.push({ severity, code, message, line, column, endLine, endColumn });
  }

  statement(s: Statement): void {
    const { op } = s;
    switch (op.kind) {
      case 'backing':
      case 'memslot-add':
      case 'memslot-move':
      case 'memslot-flags':
      case 'memslot-delete':
        return this.userSpace(s);
      case 'vmcb':
      case 'write':
        if (op.gpa !== null && this.dry.machine.slotAt(op.as_id, Math.floor(op.gpa / 4096)) === null) {
          this.report(
            'error',
            'no-memslot',
            s,
            `no memslot of address space ${op.as_id} holds gpa 0x${op.gpa.toString(16)} here: user space has no guest memory there; add the memslot before this line, or write to a backing (NAME+OFFSET)`,
          );
        }
        return;
      case 'vcpu':
        this.known.set(s.vcpu, { cr0: CR0.ET, cr3: 0n, cr4: 0n, efer: 0n });
        return this.sregs(s, op.registers);
      case 'setregs':
        return this.sregs(s, op.registers);
      case 'smi':
      case 'run':
        // What runs now is in memory, or comes from SMRAM.
        this.known.set(s.vcpu, null);
        return;
      case 'insn':
        return this.insn(s, op);
      case 'map':
        return this.map(s, op);
      case 'expect':
        return this.expectation(s, op);
      default:
    }
  }

  /** The claim of an `expect errno` or of an exception right after a statement; undefined if there is none. */
  private expected<K extends 'errno' | 'exception'>(
    s: Statement,
    kind: K,
  ): Extract<Extract<Op, { kind: 'expect' }>['claim'], { kind: K }> | undefined {
    for (let i = s.index + 1; i < this.statements.length; i++) {
      const { op } = this.statements[i];
      if (op.kind === 'expect') {
        if (op.claim.kind === kind) return op.claim as Extract<Extract<Op, { kind: 'expect' }>['claim'], { kind: K }>;
      } else if (op.kind !== 'note' && op.kind !== 'step') return undefined;
    }
    return undefined;
  }

  private userSpace(s: Statement): void {
    const { op } = s;
    if (op.kind === 'backing') {
      // Unpopulated: only its place matters here.
      const { name, size, huge, readonly } = op;
      const { error } = attempt(() =>
        this.dry.machine.backing(name, size, { huge, readonly, hva: op.hva ?? undefined, populate: false }),
      );
      if (error) this.report('error', 'host', s, error);
      return;
    }
    if (
      (op.kind === 'memslot-move' || op.kind === 'memslot-flags') &&
      !this.dry.machine.kvm.memslots[op.as_id]?.byId(op.id)
    ) {
      this.report(
        'error',
        'unknown-memslot',
        s,
        `address space ${op.as_id} has no slot ${op.id} here, so there is nothing to change: add it before this line`,
      );
      return;
    }
    const { ioctl, error } = this.dry.perform(s);
    if (!ioctl) {
      if (error !== null) this.report('error', 'host', s, error);
      return;
    }
    const errno = ioctl.errno === 0 ? '0' : (/^-(\w+)/.exec(ioctl.text)?.[1] ?? `${ioctl.errno}`);
    const expected = this.expected(s, 'errno')?.errno;
    if (expected === undefined) {
      if (errno !== '0')
        this.report(
          s.parent < 0 ? 'error' : 'warning',
          'memslot',
          s,
          `KVM refuses this with ${ioctl.text}; if that is the point, write expect errno ${errno} on the next line`,
        );
    } else if (expected !== errno) {
      this.report(
        'warning',
        'memslot',
        s,
        errno === '0'
          ? `KVM accepts this, but the scenario expects ${expected}`
          : `the scenario expects ${expected === '0' ? 'success' : expected}, but KVM refuses this with ${ioctl.text}`,
      );
    }
  }

  private feature(
    s: Statement,
    register: string,
    value: bigint,
    features: readonly (readonly [bigint, string])[],
    refusal: string,
  ): void {
    for (const [bit, feature] of features) {
      if ((value & bit) !== 0n && !this.config.features.includes(feature)) {
        this.report(
          'error',
          'feature',
          s,
          `${register}.${flagText(bit, REGISTER_FLAGS[register])} needs the guest feature ${feature}: ${refusal}; add it to features in the machine block`,
        );
      }
    }
  }

  /** kvm_is_valid_sregs() (v6.1 x86.c) and what the bits need of CPUID. */
  private sregs(s: Statement, writes: readonly RegisterWrite[]): void {
    const old = this.known.get(s.vcpu) ?? null;
    const full = ['cr0', 'cr4', 'efer'].every((n) => writes.some((w) => w.name === n));
    if (old === null && !full) return;
    const k: Known = { ...(old ?? { cr0: 0n, cr3: 0n, cr4: 0n, efer: 0n }) };
    for (const w of writes)
      if (w.name === 'cr0' || w.name === 'cr3' || w.name === 'cr4' || w.name === 'efer') k[w.name] = w.value;
    this.known.set(s.vcpu, k);
    const refuse = (why: string): void =>
      this.report('error', 'sregs', s, `KVM_SET_SREGS refuses these registers with -EINVAL: ${why}`);
    const paging = (k.cr0 & CR0.PG) !== 0n;
    if (paging && (k.cr0 & CR0.PE) === 0n) refuse('CR0.PG needs CR0.PE');
    else if (paging && (k.efer & EFER.LME) !== 0n && (k.cr4 & CR4.PAE) === 0n)
      refuse('EFER.LME with CR0.PG needs CR4.PAE');
    else if ((k.efer & EFER.LMA) !== 0n && (!paging || (k.efer & EFER.LME) === 0n))
      refuse('EFER.LMA needs EFER.LME and CR0.PG');
    if (k.cr3 >> BigInt(this.guestBits()) && (k.cr4 & CR4.PCIDE || k.cr3 >> 52n === 0n))
      refuse(`cr3 0x${k.cr3.toString(16)} lies beyond the guest's MAXPHYADDR of ${this.guestBits()}`);
    this.feature(s, 'cr4', k.cr4, CR4_FEATURES, 'KVM_SET_SREGS answers -EINVAL without it');
    this.feature(s, 'efer', k.efer, EFER_FEATURES, 'KVM_SET_SREGS answers -EINVAL without it');
  }

  private guestBits(): number {
    return this.config.guestMaxphyaddr ?? this.config.maxphyaddr;
  }

  private insn(s: Statement, op: Extract<Op, { kind: 'insn' }>): void {
    const { insn } = op;
    this.virtualization(s, insn.op);
    const k = this.known.get(s.vcpu) ?? null;
    if (insn.op === 'rsm') {
      this.known.set(s.vcpu, null);
      return;
    }
    if (k === null) return;
    if (insn.op === 'mov') {
      if (insn.cr === 0) k.cr0 = insn.value;
      else if (insn.cr === 3) k.cr3 = insn.value & ~(1n << 63n);
      else if (insn.cr === 4) k.cr4 = insn.value;
    } else if (insn.op === 'wrmsr' && insn.msr === 0xc0000080) {
      k.efer = insn.value | ((k.cr0 & CR0.PG) !== 0n && (insn.value & EFER.LME) !== 0n ? EFER.LMA : 0n);
    }
    if (insn.op !== 'load' && insn.op !== 'store' && insn.op !== 'rmw' && insn.op !== 'fetch') return;
    if (this.expected(s, 'exception')) return;
    this.linear(s, k, insn.address, 'the access');
  }

  /** Instructions of VMX and SVM are #UD where the guest has no such thing. */
  private virtualization(s: Statement, op: GuestInsn['op']): void {
    const svm = SVM_OPS.has(op);
    if ((!svm && !VMX_INSNS.has(op)) || this.expected(s, 'exception')) return;
    const [vendor, feature] = svm ? (['amd', 'svm'] as const) : (['intel', 'vmx'] as const);
    if (this.config.vendor !== vendor)
      this.report(
        'warning',
        'feature',
        s,
        `${op} is an instruction of ${svm ? 'AMD' : 'Intel'} processors and raises #UD here: the machine has vendor ${this.config.vendor}`,
      );
    else if (!this.config.features.includes(feature))
      this.report(
        'warning',
        'feature',
        s,
        `${op} raises #UD: the guest lacks the feature ${feature}; add it to features in the machine block`,
      );
  }

  private linear(s: Statement, k: Known, address: bigint, what: string): void {
    const long = (k.efer & EFER.LME) !== 0n && (k.cr0 & CR0.PG) !== 0n;
    const width = (k.cr4 & CR4.LA57) !== 0n ? 57 : 48;
    if (long && !isCanonical(toGva(address), width)) {
      this.report(
        'warning',
        'non-canonical',
        s,
        `0x${address.toString(16)} is not canonical: bits 63 to ${width - 1} must be equal with ${width === 57 ? 5 : 4}-level paging, so ${what} raises #GP(0)`,
      );
    } else if (!long && address >> 32n) {
      this.report(
        'warning',
        'non-canonical',
        s,
        `0x${address.toString(16)} does not fit the 32-bit linear addresses of this mode`,
      );
    }
  }

  private map(s: Statement, op: Extract<Op, { kind: 'map' }>): void {
    const k = this.known.get(s.vcpu) ?? null;
    const bits = this.guestBits();
    if (BigInt(op.gpa) >> BigInt(bits)) {
      this.report(
        'info',
        'beyond-maxphyaddr',
        s,
        `gpa 0x${op.gpa.toString(16)} lies beyond the guest's MAXPHYADDR of ${bits}: the entry has reserved bits set, and accesses fault with RSVD`,
      );
    }
    if (k !== null && (k.efer & EFER.LME) !== 0n) {
      const width = (k.cr4 & CR4.LA57) !== 0n ? 57 : 48;
      if (!isCanonical(toGva(op.gva), width))
        this.report(
          'error',
          'non-canonical',
          s,
          `gva 0x${op.gva.toString(16)} is not canonical: no page-table entry belongs to it`,
        );
    }
  }

  private expectation(s: Statement, op: Extract<Op, { kind: 'expect' }>): void {
    const { claim } = op;
    const { caps } = this.dry.machine;
    if (claim.kind === 'spte' && claim.space === 'gva' && this.config.paging !== 'shadow') {
      this.report(
        'error',
        'spte-space',
        s,
        `${this.config.paging} translates guest-physical addresses: write expect spte gpa … or gfn …, not gva`,
      );
    }
    if (claim.kind !== 'state') return;
    const [base] = claim.name.split('.');
    const field = claim.name.slice(base.length + 1);
    if (base === 'cpu_role' && !caps.cpuRole) {
      this.report(
        'error',
        'unknown-state',
        s,
        `kernel ${caps.kernel.name} has no cpu_role: its role words are mmu_role.base (write root_role here) and mmu_role.ext`,
      );
    } else if ((base === 'cpu_role' || base === 'root_role') && field !== '') {
      const layout = base === 'cpu_role' ? cpuRoleLayout(caps.kernel) : pageRoleLayout(caps.kernel);
      if (roleFieldName(layout, field) === null) this.report('error', 'unknown-field', s, noRoleField(layout, field));
    }
  }
}
