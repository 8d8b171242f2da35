/**
 * arch/x86/kvm/x86.c: KVM_RUN. Requests, event injection, entry, exits. What the exits of one vendor mean is in vmx.ts and svm.ts.
 * Facts: reference kvm-mmu-model.md 12.9; call orders of chapter 29.
 */
import { enter, leave } from './observer';
import { INVALID_PAGE, is_guest_mode, is_smm, type KvmVcpu } from './kvm_host';
import { kvm_check_nested_events, nested_triple_fault } from './nested';
import { complete_emulated_mmio } from './emulate';
import {
  kvm_mmu_free_obsolete_roots,
  kvm_mmu_load,
  kvm_mmu_load_pgd,
  kvm_mmu_sync_prev_roots,
  kvm_mmu_sync_roots,
} from './mmu/roots';
import { enter_smm, process_smi } from './smm';
import { handle_exit_svm } from './svm';
import { handle_exit_vmx, handle_invalid_guest_state, vmx_emulation_required } from './vmx';
import {
  kvm_check_request,
  kvm_x86_flush_tlb_all,
  kvm_x86_flush_tlb_current,
  kvm_x86_flush_tlb_guest,
} from './x86_requests';
import { takeUserExit, userExit, type UserExit } from './kvm_run';
import { type GuestWork, runGuest } from './guest_work';
import { kvm_inject_exception, requeueException } from './x86_exceptions';

/** KVM_RUN: kvm_arch_vcpu_ioctl_run() with what user space has answered, then vcpu_run(). @returns null when done, else the exit */
export function vcpu_run(vcpu: KvmVcpu, work: GuestWork): UserExit | null {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_arch_vcpu_ioctl_run', vcpu.vcpu_id, null);
  takeUserExit(m);
  const r = vcpu.mmio_needed ? complete_emulated_mmio(vcpu) : 1;
  let result: UserExit | null = null;
  if (r <= 0) result = takeUserExit(m) ?? errorExit(r);
  else if (!work.done) {
    enter(m, 'vcpu_run', vcpu.vcpu_id, null);
    result = loop();
    leave(m);
  }
  leave(m);
  return result;

  function loop(): UserExit | null {
    for (let rounds = 0; ; rounds++) {
      // A fault that KVM resolves again and again without progress is a defect (of the guest's or the model's); it must not hang us.
      if (rounds > m.config.maxExitsPerInstruction)
        return {
          reason: 'error',
          errno: 0,
          text: `the instruction at 0x${vcpu.regs.rip.toString(16)} does not get done: ${rounds} exits without progress`,
        };
      const before = work.count;
      if (is_guest_mode(vcpu)) kvm_check_nested_events(vcpu);
      const r = vcpu_enter_guest(vcpu, work);
      if (r <= 0) return takeUserExit(m) ?? errorExit(r);
      if (work.done) return null;
      if (work.count !== before) rounds = 0;
      if (work.insn === 'code' && work.count >= work.limit) return null;
    }
  }
}

const errorExit = (r: number): UserExit => ({ reason: 'error', errno: -r, text: `KVM_RUN fails with errno ${-r}` });

/** vcpu_enter_guest(): requests in the kernel's order, event injection, the MMU's root, the guest, the exit. */
function vcpu_enter_guest(vcpu: KvmVcpu, work: GuestWork): number {
  const m = vcpu.kvm.machine;
  enter(m, 'vcpu_enter_guest', vcpu.vcpu_id, null);
  const r = body();
  // The frame of a walk that ended in an exit lies inside this one.
  m.closeHwFrame();
  leave(m);
  return r;

  function body(): number {
    if (vcpu.requests.size) {
      if (kvm_check_request('MMU_FREE_OBSOLETE_ROOTS', vcpu)) kvm_mmu_free_obsolete_roots(vcpu);
      if (kvm_check_request('MMU_SYNC', vcpu)) kvm_mmu_sync_roots(vcpu);
      if (kvm_check_request('LOAD_MMU_PGD', vcpu)) kvm_mmu_load_pgd(vcpu);
      if (kvm_check_request('TLB_FLUSH', vcpu)) {
        kvm_vcpu_flush_tlb_all(vcpu);
        vcpu.requests.delete('TLB_FLUSH_CURRENT');
      }
      if (kvm_check_request('TLB_FLUSH_CURRENT', vcpu)) kvm_vcpu_flush_tlb_current(vcpu);
      if (kvm_check_request('TLB_FLUSH_GUEST', vcpu)) kvm_vcpu_flush_tlb_guest(vcpu);
      if (is_guest_mode(vcpu) && vcpu.requests.has('TRIPLE_FAULT')) nested_triple_fault(vcpu);
      if (kvm_check_request('TRIPLE_FAULT', vcpu)) {
        userExit(m, { reason: 'shutdown' });
        return 0;
      }
      if (kvm_check_request('SMI', vcpu)) process_smi(vcpu);
      kvm_check_request('EVENT', vcpu);
    }
    if (vcpu.exception?.injected !== true && vcpu.smi_pending && !is_smm(vcpu)) {
      vcpu.smi_pending = false;
      enter(m, 'kvm_check_and_inject_events', vcpu.vcpu_id, null);
      const ok = enter_smm(vcpu);
      leave(m);
      if (!ok) {
        userExit(m, {
          reason: 'internal-error',
          suberror: 0,
          text: 'the VM is dead: the SMM state could not be saved',
        });
        return 0;
      }
    }
    kvm_inject_exception(vcpu);
    if (vcpu.mmu.root.hpa === INVALID_PAGE && !kvm_mmu_reload(vcpu)) {
      // The triple fault is served at the next round; running out of pages is user space's problem.
      if (vcpu.requests.has('TRIPLE_FAULT')) return 1;
      return -28;
    }
    if (vmx_emulation_required(vcpu))
      return handle_invalid_guest_state(
        vcpu,
        () => !work.done && !vcpu.requests.size && (work.insn !== 'code' || work.count < work.limit),
      );
    if (m.observer) m.observer.event({ kind: 'kvm_entry', vcpu: vcpu.vcpu_id, rip: vcpu.regs.rip });
    m.closeHwFrame();
    const exit = runGuest(vcpu, work);
    if (exit.idtVectoring) requeueException(vcpu, exit);
    if (exit.kind === 'done') {
      work.done = work.insn !== 'code' || work.done;
      if (exit.exception) {
        const e = exit.exception;
        work.exception = { vector: e.vector, errorCode: e.errorCode, cr2: e.vector === 14 ? vcpu.regs.cr2 : null };
      }
      return 1;
    }
    return m.config.vendor === 'intel' ? handle_exit_vmx(vcpu, exit) : handle_exit_svm(vcpu, exit);
  }
}

/** kvm_vcpu_flush_tlb_guest(): a flush that the guest asked for; with shadow paging that includes the shadow pages. */
function kvm_vcpu_flush_tlb_guest(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_vcpu_flush_tlb_guest', vcpu.vcpu_id, null);
  if (!m.tdpEnabled) {
    kvm_mmu_sync_roots(vcpu);
    kvm_mmu_sync_prev_roots(vcpu);
  }
  kvm_x86_flush_tlb_guest(vcpu, 'KVM_REQ_TLB_FLUSH_GUEST');
  leave(m);
}

/** kvm_vcpu_flush_tlb_all(); the one kvm_vcpu_flush_tlb() before v5.8 */
function kvm_vcpu_flush_tlb_all(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_vcpu_flush_tlb_all', vcpu.vcpu_id, null);
  kvm_x86_flush_tlb_all(vcpu, 'KVM_REQ_TLB_FLUSH');
  leave(m);
}

/** kvm_vcpu_flush_tlb_current() */
function kvm_vcpu_flush_tlb_current(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_vcpu_flush_tlb_current', vcpu.vcpu_id, null);
  kvm_x86_flush_tlb_current(vcpu, 'KVM_REQ_TLB_FLUSH_CURRENT');
  leave(m);
}

/** kvm_mmu_reload(): there is no root, so one is made. @returns as {@link kvm_mmu_load} */
function kvm_mmu_reload(vcpu: KvmVcpu): boolean {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_mmu_reload', vcpu.vcpu_id, null);
  const ok = kvm_mmu_load(vcpu);
  leave(m);
  return ok;
}

/** kvm_service_local_tlb_flush_requests(): before the vCPU changes between L1 and L2, what is asked for the one is done. */
export function kvm_service_local_tlb_flush_requests(vcpu: KvmVcpu): void {
  if (kvm_check_request('TLB_FLUSH_CURRENT', vcpu)) kvm_vcpu_flush_tlb_current(vcpu);
  if (kvm_check_request('TLB_FLUSH_GUEST', vcpu)) kvm_vcpu_flush_tlb_guest(vcpu);
}
