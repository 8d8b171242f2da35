/**
 * arch/x86/kvm/vmx/nested.c: the EPT that L1 has for L2. KVM shadows it in guest_mmu; faults in it and its page-modification log are
 * L1's. Facts: SDM vol. 3C 28.2; reference kvm-mmu-model.md 5.5-5.7; v6.1 function names.
 */
import { EXIT_REASON, SECONDARY_EXEC } from '../hw/vmcs';
import type { KvmVcpu } from './kvm_host';
import { kvm_vcpu_write_guest } from './kvm_main';
import { kvm_init_shadow_ept_mmu } from './mmu/calc_role';
import { kvm_mmu_invalidate_gva } from './mmu/invlpg';
import { enter, leave } from './observer';
import { nested_vmx_vmexit } from './vmx_nested';
import { nested_cpu_has2, nested_cpu_has_ept, VmxNested } from './vmx_nested_state';

const PML_ENTITY_NUM = 512;
/** Huge pages that KVM lets L1's EPT have: 1G, whatever the host (nested_vmx_setup_ctls_msrs()). */
const EPT_LPAGE_LEVEL = 3;
const EP4TA = 0xffffffffff000n;

/** nested_ept_get_eptp() */
export const nested_ept_get_eptp = (n: VmxNested): bigint => n.vmcs12.get('ept_pointer');
/** nested_ept_ad_enabled() */
export const nested_ept_ad_enabled = (n: VmxNested): boolean =>
  nested_cpu_has_ept(n) && (n.vmcs12.get('ept_pointer') & 0x40n) !== 0n;

/** nested_ept_root_matches(): roots of L1 are the same if their tables are, whatever the flags in the EPTP. */
export const nested_ept_root_matches = (root: { pgd: bigint; hpa: number }, eptp: bigint): boolean =>
  root.hpa >= 0 && (root.pgd & EP4TA) === (eptp & EP4TA);

/** nested_ept_init_mmu_context(): guest_mmu shadows L1's EPT, nested_mmu walks L2's own tables. */
export function nested_ept_init_mmu_context(vcpu: KvmVcpu, n: VmxNested): void {
  const m = vcpu.kvm.machine;
  enter(m, 'nested_ept_init_mmu_context', vcpu.vcpu_id, vcpu.guest_mmu);
  vcpu.mmu = vcpu.guest_mmu;
  kvm_init_shadow_ept_mmu(vcpu, true, EPT_LPAGE_LEVEL, nested_ept_ad_enabled(n), nested_ept_get_eptp(n));
  vcpu.mmu.get_guest_pgd = 'nested_ept_get_eptp';
  vcpu.mmu.inject_page_fault = 'nested_ept_inject_page_fault';
  vcpu.walk_mmu = vcpu.nested_mmu;
  leave(m);
}

/** nested_ept_uninit_mmu_context() */
export function nested_ept_uninit_mmu_context(vcpu: KvmVcpu): void {
  vcpu.mmu = vcpu.root_mmu;
  vcpu.walk_mmu = vcpu.root_mmu;
}

/** nested_ept_inject_page_fault(): the fault is in L1's EPT. */
export function nested_ept_inject_page_fault(vcpu: KvmVcpu, error_code: number, address: bigint): void {
  const m = vcpu.kvm.machine;
  const n = vcpu.nested;
  if (!(n instanceof VmxNested)) return;
  enter(m, 'nested_ept_inject_page_fault', vcpu.vcpu_id, n);
  let qualification = vcpu.exit_qualification;
  let reason: number = EXIT_REASON.EPT_VIOLATION;
  if (n.pml_full) {
    n.pml_full = false;
    reason = EXIT_REASON.PML_FULL;
    qualification &= 1n << 12n;
  } else {
    if (error_code & 8) {
      reason = EXIT_REASON.EPT_MISCONFIG;
      if (m.caps.eptMisconfigQualification === 'zero') qualification = 0n;
    }
    nested_ept_invalidate_addr(vcpu, n, address);
  }
  const name = reason === EXIT_REASON.PML_FULL ? 'PML_FULL' : error_code & 8 ? 'EPT_MISCONFIG' : 'EPT_VIOLATION';
  nested_vmx_vmexit(vcpu, n, reason, 0, 0, qualification, name);
  n.vmcs12.set('guest_physical_address', address);
  leave(m);
}

/** nested_ept_invalidate_addr(): cached roots over the same tables of L1 must not keep the stale entry either. */
function nested_ept_invalidate_addr(vcpu: KvmVcpu, n: VmxNested, address: bigint): void {
  for (const root of vcpu.mmu.prev_roots)
    if (nested_ept_root_matches(root, nested_ept_get_eptp(n)))
      kvm_mmu_invalidate_gva(vcpu, vcpu.mmu, address, root.hpa);
}

/**
 * vmx_write_pml_buffer(): a dirty flag of L1's EPT goes into L1's page-modification log.
 * @returns false: the log is full, L1 gets an exit for it
 */
export function nested_vmx_write_pml_buffer(vcpu: KvmVcpu, gpa: number): boolean {
  const n = vcpu.nested;
  if (!(n instanceof VmxNested) || !nested_cpu_has2(n, SECONDARY_EXEC.ENABLE_PML)) return true;
  const index = n.vmcs12.num('guest_pml_index');
  if (index >= PML_ENTITY_NUM) {
    n.pml_full = true;
    return false;
  }
  const at = Number(n.vmcs12.get('pml_address')) + 8 * index;
  if (kvm_vcpu_write_guest(vcpu, at, 8, BigInt(gpa - (gpa % 4096)))) n.vmcs12.set('guest_pml_index', index - 1);
  return true;
}
