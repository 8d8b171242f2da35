/** kvm_handle_page_fault(): an intercepted #PF of shadow paging. Reference 12.1. */
import type { VmExit } from '../../hw/exits';
import { emit, enter, leave } from '../machine';
import type { KvmVcpu } from '../kvm_host';
import { kvm_mmu_page_fault } from './page_fault';

/** @returns 1 resume, 0 user space, negative errno */
export function kvm_handle_page_fault(vcpu: KvmVcpu, error_code: number, fault_address: bigint, exit: VmExit): number {
  const m = vcpu.kvm.machine;
  void exit;
  enter(m, 'kvm_handle_page_fault', vcpu.vcpu_id, null);
  emit(m, (o) =>
    o.event({
      kind: 'kvm_page_fault',
      vcpu: vcpu.vcpu_id,
      guest_rip: vcpu.regs.rip,
      fault_address,
      error_code: BigInt(error_code),
    }),
  );
  const r = kvm_mmu_page_fault(vcpu, Number(fault_address & 0xffffffffn), Number(fault_address >> 32n), error_code, 0);
  leave(m);
  return r;
}
