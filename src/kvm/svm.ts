/**
 * arch/x86/kvm/svm/svm.c: #VMEXITs of AMD processors, as far as they concern the MMU.
 * Facts: reference kvm-mmu-model.md 12.1, 27; APM vol. 2 appendix C (exit codes).
 */
import type { VmExit } from '../hw/exits';
import { emit, enter, leave } from './observer';
import { is_guest_mode, type KvmVcpu } from './kvm_host';
import {
  complete_pio,
  eventInfo,
  exitEvent,
  guestFaultEvent,
  kvm_emulate_msr,
  skip_emulated_instruction,
} from './exits';
import { TRAP_UD, x86_emulate_instruction } from './emulate';
import { kvm_mmu_page_fault } from './mmu/page_fault';
import { kvm_set_cr0, kvm_set_cr3, kvm_set_cr4, kvm_vcpu_reset } from './x86_regs';
import { kvm_mmu_invlpg } from './mmu/invlpg';
import { kvm_handle_page_fault } from './mmu/handle_page_fault';

import { SVM_INSN_EXITS } from '../hw/vmcb';
import { nested_svm_exit, svm_instruction_interception, SvmNested } from './svm_nested';
import { haltExit, userExit } from './kvm_run';
import { kvm_multiple_exception } from './x86_exceptions';

const RSM_BYTES = new Uint8Array([0x0f, 0xaa]);

/** Exit code and the name that kvm_exit prints. */
function codeOf(exit: VmExit): [number, string] {
  switch (exit.kind) {
    case 'npf':
      return [0x400, 'npf'];
    case 'exception':
      return [0x40 + (exit.exception?.vector ?? 0), `excp_${exit.exception?.vector ?? 0}`];
    case 'io':
      return [0x7b, 'io'];
    case 'hlt':
      return [0x78, 'hlt'];
    case 'rsm':
      return [0x73, 'rsm'];
    case 'shutdown':
      return [0x7f, 'shutdown'];
    case 'invlpg':
      return [0x79, 'invlpg'];
    case 'msr':
      return [0x7c, 'msr'];
    case 'cr_access': {
      const cr = exit.cr;
      if (cr?.n === 0 && cr.selective) return [0x65, 'cr0_sel_write'];
      return [(cr?.write ? 0x10 : 0) + (cr?.n ?? 0), `${cr?.write ? 'write' : 'read'}_cr${cr?.n ?? 0}`];
    }
    case 'insn': {
      const found = SVM_INSN_EXITS.find(([op]) => op === exit.insn?.op);
      return found ? [found[1], found[2]] : [-1, exit.insn?.op ?? exit.kind];
    }
    default:
      return [-1, exit.kind];
  }
}

/** svm_handle_exit(). @returns 1 resume, 0 user space, negative errno */
export function handle_exit_svm(vcpu: KvmVcpu, exit: VmExit): number {
  const m = vcpu.kvm.machine;
  const [code, name] = codeOf(exit);
  const io = exit.io;
  const info1 =
    exit.kind === 'npf'
      ? (BigInt(exit.codeHi) << 32n) | BigInt(exit.codeLo)
      : io
        ? (BigInt(io.port) << 16n) | (BigInt(io.size) << 4n) | (io.write ? 0n : 1n)
        : exit.kind === 'exception'
          ? BigInt(exit.exception?.errorCode ?? 0)
          : exit.kind === 'msr'
            ? BigInt(exit.msr?.write ? 1 : 0)
            : 0n;
  const info2 =
    exit.kind === 'npf' ? BigInt(exit.gpa) : io ? io.nextRip : exit.kind === 'exception' ? (exit.gva ?? 0n) : 0n;
  exitEvent(vcpu, exit, code, name, info1, info2);
  enter(m, 'svm_handle_exit', vcpu.vcpu_id, exit);
  let r = 1;
  if (!handledByL1()) {
    enter(m, 'svm_invoke_exit_handler', vcpu.vcpu_id, exit);
    r = dispatch();
    leave(m);
  }
  leave(m);
  return r;

  function handledByL1(): boolean {
    const n = vcpu.nested;
    if (!is_guest_mode(vcpu) || !(n instanceof SvmNested)) return false;
    exitEvent(vcpu, exit, code, name, info1, info2, 'kvm_nested_vmexit');
    const vectoring = exit.idtVectoring;
    const state = {
      code,
      info1,
      info2,
      intInfo: vectoring ? eventInfo(vectoring) : 0,
      intInfoErr: vectoring?.errorCode ?? 0,
    };
    return nested_svm_exit(vcpu, n, exit, state, name);
  }

  function dispatch(): number {
    switch (exit.kind) {
      case 'npf':
        return npf_interception(vcpu, exit, info1);
      case 'exception':
        return exception_interception(vcpu, exit);
      case 'rsm':
        enter(m, 'rsm_interception', vcpu.vcpu_id, null);
        return leaveWith(x86_emulate_instruction(vcpu, 0n, null, RSM_BYTES));
      case 'io':
        return complete_pio(vcpu, exit, 'io_interception');
      case 'hlt':
        skip_emulated_instruction(vcpu, exit);
        return haltExit(vcpu);
      case 'shutdown':
        // The VMCB is undefined after a shutdown, so KVM puts the vCPU into its INIT state (shutdown_interception(), v6.1).
        kvm_vcpu_reset(vcpu);
        userExit(m, { reason: 'shutdown' });
        return 0;
      case 'cr_access':
        return cr_interception(vcpu, exit);
      case 'msr':
        return kvm_emulate_msr(vcpu, exit);
      case 'invlpg':
        enter(m, 'invlpg_interception', vcpu.vcpu_id, null);
        if (!m.decodeAssists) return leaveWith(x86_emulate_instruction(vcpu, 0n, null));
        kvm_mmu_invlpg(vcpu, exit.address ?? 0n);
        skip_emulated_instruction(vcpu, exit);
        return leaveWith(1);
      case 'insn':
        if (exit.insn) return svm_instruction_interception(vcpu, exit, exit.insn.op);
        kvm_multiple_exception(vcpu, 6, null, null);
        return 1;
      default:
        kvm_multiple_exception(vcpu, 6, null, null);
        return 1;
    }
  }

  function leaveWith(r: number): number {
    leave(m);
    return r;
  }
}

/** npf_interception(): EXITINFO1 is the error code as it is. */
function npf_interception(vcpu: KvmVcpu, exit: VmExit, info1: bigint): number {
  const m = vcpu.kvm.machine;
  const lo = exit.codeLo;
  guestFaultEvent(vcpu, exit, 'npf', info1, (lo & 2) !== 0, (lo & 16) !== 0, (lo & 4) !== 0);
  enter(m, 'npf_interception', vcpu.vcpu_id, exit);
  emit(m, (o) =>
    o.event({
      kind: 'kvm_page_fault',
      vcpu: vcpu.vcpu_id,
      guest_rip: vcpu.regs.rip,
      fault_address: BigInt(exit.gpa),
      error_code: m.caps.pageFaultEvent64 ? info1 : BigInt.asUintN(32, info1),
    }),
  );
  const r = kvm_mmu_page_fault(
    vcpu,
    (exit.gpa % 0x100000000) >>> 0,
    Math.floor(exit.gpa / 0x100000000),
    exit.codeLo,
    exit.codeHi,
  );
  leave(m);
  return r;
}

function exception_interception(vcpu: KvmVcpu, exit: VmExit): number {
  const m = vcpu.kvm.machine;
  const e = exit.exception;
  if (e?.vector === 14) {
    enter(m, 'pf_interception', vcpu.vcpu_id, exit);
    const r = kvm_handle_page_fault(vcpu, e.errorCode ?? 0, exit.gva ?? 0n);
    leave(m);
    return r;
  }
  if (e?.vector === 6) {
    enter(m, 'ud_interception', vcpu.vcpu_id, null);
    enter(m, 'handle_ud', vcpu.vcpu_id, null);
    const r = x86_emulate_instruction(vcpu, 0n, TRAP_UD);
    leave(m);
    leave(m);
    return r;
  }
  if (e) kvm_multiple_exception(vcpu, e.vector, e.errorCode, null);
  return 1;
}

/** cr_interception(): without decode assists the instruction is emulated. */
function cr_interception(vcpu: KvmVcpu, exit: VmExit): number {
  const m = vcpu.kvm.machine;
  const cr = exit.cr;
  enter(m, 'cr_interception', vcpu.vcpu_id, cr);
  const r = ((): number => {
    if (!m.decodeAssists || !cr) return x86_emulate_instruction(vcpu, 0n, null);
    let ok = true;
    if (cr.write) {
      if (cr.n === 0) ok = kvm_set_cr0(vcpu, cr.value);
      else if (cr.n === 3) ok = kvm_set_cr3(vcpu, cr.value);
      else if (cr.n === 4) ok = kvm_set_cr4(vcpu, cr.value);
    } else if (cr.reg >= 0) {
      const s = vcpu.regs;
      s.gpr[cr.reg] = cr.n === 0 ? s.cr0 : cr.n === 2 ? s.cr2 : cr.n === 3 ? s.cr3 : cr.n === 4 ? s.cr4 : s.cr8;
    }
    if (ok) skip_emulated_instruction(vcpu, exit);
    else kvm_multiple_exception(vcpu, 13, 0, null);
    return 1;
  })();
  leave(m);
  return r;
}
