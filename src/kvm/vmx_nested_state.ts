/**
 * arch/x86/kvm/vmx/vmx.h, nested.h: what KVM keeps about an L1 hypervisor on VMX, and the controls that its VMCS sets.
 * Facts: SDM vol. 3C 24; v6.1 names.
 */
import { CR0, CR4 } from '../hw/regs';
import { CPU_BASED, SECONDARY_EXEC } from '../hw/vmcs';
import { Vmcs12 } from './vmcs12';

/** No current VMCS. */
export const INVALID_VMPTR = -1;

/** struct nested_vmx, and what of vmcs02 outlives an exit. */
export class VmxNested {
  vmxon = false;
  vmxon_ptr = INVALID_VMPTR;
  current_vmptr = INVALID_VMPTR;
  readonly vmcs12 = new Vmcs12();
  /** L1's page-modification log was full when a dirty flag had to be logged */
  pml_full = false;
  /** what an SMI interrupted: VMX operation, and in it L2 */
  smm_vmxon = false;
  smm_guest_mode = false;
  /** vmcs02: CR0_READ_SHADOW, CR4_READ_SHADOW, GUEST_LINEAR_ADDRESS of the last exit that had one */
  cr0_read_shadow = 0n;
  cr4_read_shadow = 0n;
  guest_linear_address = 0n;
  /** the last exit of L2: length of its instruction */
  instruction_len = 0;
}

/** nested_cpu_has() */
export const nested_cpu_has = (n: VmxNested, bit: number): boolean =>
  (n.vmcs12.num('cpu_based_vm_exec_control') & bit) !== 0;
/** nested_cpu_has2() */
export const nested_cpu_has2 = (n: VmxNested, bit: number): boolean =>
  nested_cpu_has(n, CPU_BASED.ACTIVATE_SECONDARY_CONTROLS) && (n.vmcs12.num('secondary_vm_exec_control') & bit) !== 0;

export const nested_cpu_has_ept = (n: VmxNested): boolean => nested_cpu_has2(n, SECONDARY_EXEC.ENABLE_EPT);
export const nested_cpu_has_vpid = (n: VmxNested): boolean => nested_cpu_has2(n, SECONDARY_EXEC.ENABLE_VPID);

/** Bits of CR0 and CR4 that VMX operation of L1 and L2 needs (IA32_VMX_CR0_FIXED0, CR4_FIXED0; KVM's values). */
export const VMXON_CR0_ALWAYSON = CR0.PE | CR0.PG | CR0.NE;
export const VMXON_CR4_ALWAYSON = CR4.VMXE;
