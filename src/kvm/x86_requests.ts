/**
 * Requests and TLB flushes: kvm_make_request(), kvm_flush_remote_tlbs() and what the flush requests do to the processors' TLBs.
 * Facts: reference kvm-mmu-model.md chapter 27 and 12.9.
 */
import { emit, enter, leave } from './observer';
import type { Kvm, KvmRequest, KvmVcpu } from './kvm_host';

/** kvm_make_request() */
export const kvm_make_request = (req: KvmRequest, vcpu: KvmVcpu): void => {
  vcpu.requests.add(req);
};

/** kvm_check_request(): tests and clears. */
export const kvm_check_request = (req: KvmRequest, vcpu: KvmVcpu): boolean =>
  vcpu.requests.size > 0 && vcpu.requests.delete(req);

/** kvm_make_all_cpus_request(); null only makes every vCPU leave the guest. */
export function kvm_make_all_cpus_request(kvm: Kvm, req: KvmRequest | null): void {
  if (req) for (const vcpu of kvm.vcpus) vcpu.requests.add(req);
}

/** kvm_flush_remote_tlbs(): every vCPU flushes before it runs guest code again. */
export function kvm_flush_remote_tlbs(kvm: Kvm, reason: string): void {
  const m = kvm.machine;
  enter(m, 'kvm_flush_remote_tlbs', -1, null);
  emit(m, (o) => o.event({ kind: 'tlb_flush', vcpu: -1, scope: 'all vCPUs', reason }));
  kvm_make_all_cpus_request(kvm, 'TLB_FLUSH');
  leave(m);
}

/** kvm_flush_remote_tlbs_with_address(): the model flushes everything, which is what hardware without ranges does. */
export const kvm_flush_remote_tlbs_with_address = (kvm: Kvm, _gfn: number, _pages: number, reason: string): void =>
  kvm_flush_remote_tlbs(kvm, reason);
