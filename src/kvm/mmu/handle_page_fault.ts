/** kvm_handle_page_fault(): an intercepted #PF of shadow paging. Reference 12.1. */
import { emit, enter, leave } from '../observer';
import type { KvmVcpu } from '../kvm_host';
import { role_get } from '../roles';
import { kvm_mmu_page_fault, kvm_mmu_unprotect_page } from './page_fault';
import { cplAccess, gva_to_gpa } from './paging_tmpl';

/** @returns 1 resume, 0 user space, negative errno */
export function kvm_handle_page_fault(vcpu: KvmVcpu, error_code: number, fault_address: bigint): number {
  const m = vcpu.kvm.machine;
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
  if (vcpu.exception?.injected && !m.caps.retryOnlyUnprotected) kvm_mmu_unprotect_page_virt(vcpu, fault_address);
  const r = kvm_mmu_page_fault(vcpu, Number(fault_address & 0xffffffffn), Number(fault_address >> 32n), error_code, 0);
  leave(m);
  return r;
}

/** kvm_mmu_unprotect_page_virt(): an event that is being delivered must not hit a write-protected stack or table. */
function kvm_mmu_unprotect_page_virt(vcpu: KvmVcpu, gva: bigint): void {
  const m = vcpu.kvm.machine;
  if (role_get(vcpu.mmu.root_role, m.roles.direct)) return;
  enter(m, 'kvm_mmu_unprotect_page_virt', vcpu.vcpu_id, null);
  const gpa = gva_to_gpa(vcpu, gva, cplAccess(vcpu));
  if (gpa >= 0) kvm_mmu_unprotect_page(vcpu, Math.floor(gpa / 4096));
  leave(m);
}
