/**
 * Requests and TLB flushes: kvm_make_request(), kvm_flush_remote_tlbs() and what the flush requests do to the processors' TLBs.
 * Facts: reference kvm-mmu-model.md chapter 27 and 12.9.
 */
import { emit, enter, leave } from './observer';
import type { Kvm, KvmRequest, KvmVcpu } from './kvm_host';

/** kvm_x86_ops.flush_tlb_… of the two modules. */
const FLUSHES = {
  intel: {
    all: 'vmx_flush_tlb_all',
    current: 'vmx_flush_tlb_current',
    guest: 'vmx_flush_tlb_guest',
    gva: 'vmx_flush_tlb_gva',
  },
  amd: {
    all: 'svm_flush_tlb_all',
    current: 'svm_flush_tlb_current',
    guest: 'svm_flush_tlb_guest',
    gva: 'svm_flush_tlb_gva',
  },
} as const;

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

/** kvm_x86_ops.flush_tlb_all */
export function kvm_x86_flush_tlb_all(vcpu: KvmVcpu, reason: string): void {
  const m = vcpu.kvm.machine;
  enter(m, FLUSHES[m.config.vendor].all, vcpu.vcpu_id, null);
  flushed(vcpu, 'all', reason);
  m.memoryOf(vcpu).flushBy('all');
  leave(m);
}

/** kvm_x86_ops.flush_tlb_current */
export function kvm_x86_flush_tlb_current(vcpu: KvmVcpu, reason: string): void {
  const m = vcpu.kvm.machine;
  enter(m, FLUSHES[m.config.vendor].current, vcpu.vcpu_id, null);
  flushed(vcpu, 'current', reason);
  m.memoryOf(vcpu).flushBy('current');
  leave(m);
}

/** kvm_x86_ops.flush_tlb_guest */
export function kvm_x86_flush_tlb_guest(vcpu: KvmVcpu, reason: string): void {
  const m = vcpu.kvm.machine;
  enter(m, FLUSHES[m.config.vendor].guest, vcpu.vcpu_id, null);
  flushed(vcpu, 'guest', reason);
  m.memoryOf(vcpu).flushBy('guest');
  leave(m);
}

/** kvm_x86_ops.flush_tlb_gva */
export function kvm_x86_flush_tlb_gva(vcpu: KvmVcpu, gva: bigint): void {
  const m = vcpu.kvm.machine;
  enter(m, FLUSHES[m.config.vendor].gva, vcpu.vcpu_id, null);
  flushed(vcpu, 'gva', `INVLPG 0x${gva.toString(16)}`);
  vcpu.processor.mmu.invlpg(Number(gva & 0xffffffffn), Number(gva >> 32n));
  leave(m);
}

function flushed(vcpu: KvmVcpu, scope: string, reason: string): void {
  emit(vcpu.kvm.machine, (o) => o.event({ kind: 'tlb_flush', vcpu: vcpu.vcpu_id, scope, reason }));
}
