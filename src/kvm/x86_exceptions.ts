/**
 * arch/x86/kvm/x86.c: an exception of the guest on its way in: queued, injected at the next entry, queued again when an exit cuts its
 * delivery short. Facts: SDM vol. 3A 6.15 (double fault), reference kvm-mmu-model.md 12.9.
 */
import { EVENT_TYPE, type VmExit } from '../hw/exits';
import { is_guest_mode, type KvmVcpu } from './kvm_host';
import { nested_is_exception_vmexit } from './nested';
import { emit, enter, leave } from './observer';
import { kvm_make_request } from './x86_requests';

const DF_VECTOR = 8;

/** exception_class() (SDM vol. 3A table 6-4) */
function exception_class(vector: number): 'benign' | 'contributory' | 'page-fault' {
  if (vector === 14) return 'page-fault';
  return [0, 10, 11, 12, 13].includes(vector) ? 'contributory' : 'benign';
}

/** kvm_multiple_exception(): queues an exception, on top of one whose delivery it interrupts. */
export function kvm_multiple_exception(
  vcpu: KvmVcpu,
  vector: number,
  errorCode: number | null,
  payload: bigint | null,
): void {
  const first = vcpu.exception;
  kvm_make_request('EVENT', vcpu);
  // An exception of L2 that L1 intercepts becomes an exit; one that is merely injected again does not (kvm_multiple_exception()).
  if (nested_is_exception_vmexit(vcpu, vector, errorCode)) {
    vcpu.exception_vmexit = { vector, errorCode, payload, injected: false };
    return;
  }
  if (first?.injected) {
    if (first.vector === DF_VECTOR) {
      vcpu.exception = null;
      kvm_make_request('TRIPLE_FAULT', vcpu);
      return;
    }
    const was = exception_class(first.vector);
    const is = exception_class(vector);
    if ((was === 'contributory' && is === 'contributory') || (was === 'page-fault' && is !== 'benign')) {
      vcpu.exception = { vector: DF_VECTOR, errorCode: 0, payload: null, injected: false };
      return;
    }
  }
  vcpu.exception = { vector, errorCode, payload, injected: false };
}

/** kvm_inject_exception() for what is queued. */
export function kvm_inject_exception(vcpu: KvmVcpu): void {
  const e = vcpu.exception;
  if (!e) return;
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_check_and_inject_events/exception', vcpu.vcpu_id, e);
  enter(m, 'kvm_inject_exception', vcpu.vcpu_id, e);
  emit(m, (o) =>
    o.event({
      kind: 'kvm_inj_exception',
      vcpu: vcpu.vcpu_id,
      exception: e.vector,
      has_error: e.errorCode === null ? 0 : 1,
      error_code: e.errorCode ?? 0,
      reinjected: e.injected ? 1 : 0,
    }),
  );
  if (e.payload !== null && e.vector === 14 && (m.caps.guestFaultAddressKept || !is_guest_mode(vcpu)))
    vcpu.regs.cr2 = e.payload;
  vcpu.processor.inject = { vector: e.vector, type: EVENT_TYPE.EXCEPTION, errorCode: e.errorCode, insnLen: 0 };
  vcpu.exception = null;
  leave(m);
  leave(m);
}

/** What vmx_complete_interrupts()/svm_complete_interrupts() do with an event whose delivery the exit interrupted. */
export function requeueException(vcpu: KvmVcpu, exit: VmExit): void {
  const e = exit.idtVectoring;
  if (!e || e.type !== EVENT_TYPE.EXCEPTION) return;
  vcpu.exception = { vector: e.vector, errorCode: e.errorCode, payload: null, injected: true };
  kvm_make_request('EVENT', vcpu);
}
