/** What the guest does in a statement: one instruction with its modifiers, or its own code, a slice at a time. */
import {
  insnFetch,
  insnIn,
  insnInvDescriptor,
  insnInvlpga,
  insnInvlpg,
  insnInvpcid,
  insnLoad,
  insnMovToCr,
  insnOut,
  insnPlain,
  insnRdmsr,
  insnRmw,
  insnStore,
  insnVmcb,
  insnVmptr,
  insnVmread,
  insnVmwrite,
  insnWrmsr,
  insnWrpkru,
  type Insn,
} from '../hw/insn';
import { RFLAGS } from '../hw/regs';
import type { KvmEvent } from '../kvm/events';
import { is_smm, type KvmVcpu } from '../kvm/kvm_host';
import type { Machine, RunResult } from '../kvm/machine';
import type { GuestInsn, InsnModifiers, Op } from './program';
import { registerSet } from './registers';

/** Instructions that a `run` may take where its statement sets no limit: Machine.run's own default. */
const RUN_LIMIT = 100_000;

/** The part of a `run` that is done. */
export interface Going {
  readonly instructions: number;
  readonly exits: RunResult['exits'];
  readonly events: readonly KvmEvent[];
  readonly lookups: number;
}

/** A `run` that came to its end, or how far it is. */
export interface RunProgress {
  readonly run?: RunResult;
  /** a `run` that is not done yet */
  readonly going?: Pick<Going, 'instructions' | 'exits'>;
}

/** The guest's own code, as far as a slice reaches. */
export function runCode(
  machine: Machine,
  vcpu: KvmVcpu,
  op: Extract<Op, { kind: 'run' }>,
  going: Going | null,
  slice: number,
): RunProgress {
  if (!going) {
    const set = registerSet(op.registers, vcpu.regs, false);
    if (op.rip !== null) set.rip = op.rip;
    machine.setRegs(vcpu, set);
    vcpu.regs.ripKnown = true;
  }
  const done = going?.instructions ?? 0;
  const left = (op.limit ?? RUN_LIMIT) - done;
  const instructions = Math.min(left, slice);
  const run = machine.run(vcpu, 'code', { instructions });
  const exits = [...(going?.exits ?? []), ...run.exits];
  if (run.end !== 'limit') return { run: { ...run, exits } };
  const total = done + instructions;
  if (instructions < left) return { going: { instructions: total, exits } };
  return { run: { ...run, exits, text: `the code ran for ${total} instructions without an exit to user space` } };
}

/** The instructions of a statement: one, or several VMWRITEs until one does not come to its end. */
export function runInsns(machine: Machine, vcpu: KvmVcpu, insn: GuestInsn, m: InsnModifiers): RunResult {
  if (insn.op !== 'vmwrite') return runInsn(machine, vcpu, toInsn(insn), m);
  const exits: RunResult['exits'] = [];
  let run: RunResult | null = null;
  for (const { field, value } of insn.writes) {
    run = runInsn(machine, vcpu, insnVmwrite(field, value), m);
    exits.push(...run.exits);
    if (run.end !== 'done') break;
  }
  if (!run) throw new Error('a vmwrite without a field');
  return { ...run, exits };
}

/** One instruction, with privilege, AC and RIP as its statement asks; they are put back unless the guest changed them meanwhile. */
function runInsn(machine: Machine, vcpu: KvmVcpu, insn: Insn, m: InsnModifiers): RunResult {
  const { regs } = vcpu;
  const cpl = regs.cpl;
  const smm = is_smm(vcpu);
  const ac = regs.rflags & RFLAGS.AC;
  regs.ripKnown = m.rip !== null;
  if (m.rip !== null) regs.rip = m.rip;
  if (m.ac) regs.rflags |= RFLAGS.AC;
  if (m.user) setCpl(vcpu, 3);
  if (m.user || m.ac) machine.registersChanged(vcpu);
  const result = machine.run(vcpu, insn);
  if (smm === is_smm(vcpu)) {
    if (m.user && regs.cpl === 3) setCpl(vcpu, cpl);
    if (m.ac) regs.rflags = (regs.rflags & ~RFLAGS.AC) | ac;
    if (m.user || m.ac) machine.registersChanged(vcpu);
  }
  return result;
}

function setCpl(vcpu: KvmVcpu, cpl: number): void {
  vcpu.regs.cs.dpl = cpl;
  vcpu.regs.ss.dpl = cpl;
}

function toInsn(i: Exclude<GuestInsn, { readonly op: 'vmwrite' }>): Insn {
  switch (i.op) {
    case 'vmxon':
    case 'vmclear':
    case 'vmptrld':
      return insnVmptr(i.op, i.address);
    case 'vmrun':
    case 'vmload':
    case 'vmsave':
      return insnVmcb(i.op, i.address);
    case 'vmread':
      return insnVmread(i.field);
    case 'invept':
    case 'invvpid':
      return insnInvDescriptor(i.op, i.type, i.descriptor);
    case 'invlpga':
      return insnInvlpga(i.address, i.asid);
    case 'load':
      return insnLoad(i.address, i.size);
    case 'store':
      return insnStore(i.address, i.size, i.value);
    case 'rmw':
      return insnRmw(i.address, i.size, i.value);
    case 'fetch':
      return insnFetch(i.address);
    case 'invlpg':
      return insnInvlpg(i.address);
    case 'invpcid':
      return insnInvpcid(i.type, i.pcid, i.address);
    case 'mov':
      return insnMovToCr(i.cr, i.value);
    case 'wrmsr':
      return insnWrmsr(i.msr, i.value);
    case 'rdmsr':
      return insnRdmsr(i.msr);
    case 'wrpkru':
      return insnWrpkru(i.value);
    case 'out':
      return insnOut(i.port, i.value);
    case 'in':
      return insnIn(i.port);
    default:
      return insnPlain(i.op);
  }
}
