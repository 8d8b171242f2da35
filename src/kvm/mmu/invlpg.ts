/** kvm_mmu_invlpg(). Reference 19.3. */
import { enter, leave } from '../machine';
import type { KvmVcpu } from '../kvm_host';
import { vcpu_clear_mmio_info } from './mmio';

/** kvm_mmu_invlpg(): drops the shadow entry of an unsync page and flushes the processor's TLB for this address. */
export function kvm_mmu_invlpg(vcpu: KvmVcpu, gva: bigint): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_mmu_invlpg', vcpu.vcpu_id, null);
  vcpu_clear_mmio_info(vcpu, gva);
  m.flush_tlb_gva(vcpu, gva);
  leave(m);
}
