/**
 * arch/x86/kvm/vmx/nested.c: which exits of L2 are L1's and which are KVM's own, and what the processor has to intercept for both.
 * Facts: SDM vol. 3C 24.6, 25; v6.1 function names and order.
 */
import type { Intercepts, VmExit } from '../hw/exits';
import { CPU_BASED, EXIT_REASON, SECONDARY_EXEC, VMX_OPS } from '../hw/vmcs';
import type { KvmVcpu } from './kvm_host';
import { kvm_vcpu_read_guest } from './kvm_main';
import { nested_cpu_has, nested_cpu_has2, type VmxNested } from './vmx_nested_state';

/** nested_vmx_l0_wants_exit(): exits that KVM causes for its own purposes. */
export function nested_vmx_l0_wants_exit(vcpu: KvmVcpu, exit: VmExit, reason: number): boolean {
  switch (reason) {
    case EXIT_REASON.EXCEPTION_NMI:
      return exit.exception?.vector === 14 && !vcpu.kvm.machine.tdpEnabled;
    case EXIT_REASON.EPT_VIOLATION:
    case EXIT_REASON.EPT_MISCONFIG:
    case EXIT_REASON.PML_FULL:
      return true;
    default:
      return false;
  }
}

/** nested_vmx_l1_wants_exit(): what the controls in vmcs12 ask for. */
export function nested_vmx_l1_wants_exit(vcpu: KvmVcpu, n: VmxNested, exit: VmExit, reason: number): boolean {
  switch (reason) {
    case EXIT_REASON.EXCEPTION_NMI: {
      const vector = exit.kind === 'rsm' ? 6 : (exit.exception?.vector ?? 0);
      return nested_vmx_is_exception_vmexit(n, vector, exit.exception?.errorCode ?? 0);
    }
    case EXIT_REASON.HLT:
      return nested_cpu_has(n, CPU_BASED.HLT_EXITING);
    case EXIT_REASON.INVLPG:
      return nested_cpu_has(n, CPU_BASED.INVLPG_EXITING);
    case EXIT_REASON.RDTSC:
      return nested_cpu_has(n, CPU_BASED.RDTSC_EXITING);
    case EXIT_REASON.CR_ACCESS:
      return nested_vmx_exit_handled_cr(n, exit);
    case EXIT_REASON.IO_INSTRUCTION:
      return nested_vmx_exit_handled_io(vcpu, n, exit);
    case EXIT_REASON.MSR_READ:
    case EXIT_REASON.MSR_WRITE:
      return nested_vmx_exit_handled_msr(vcpu, n, exit);
    case EXIT_REASON.WBINVD:
      return nested_cpu_has2(n, SECONDARY_EXEC.WBINVD_EXITING);
    case EXIT_REASON.INVPCID:
      return nested_cpu_has2(n, SECONDARY_EXEC.ENABLE_INVPCID) && nested_cpu_has(n, CPU_BASED.INVLPG_EXITING);
    default:
      return true;
  }
}

/** nested_vmx_exit_handled_cr() */
function nested_vmx_exit_handled_cr(n: VmxNested, exit: VmExit): boolean {
  const { cr } = exit;
  const v = n.vmcs12;
  if (!cr) return true;
  if (cr.n === 3) return nested_cpu_has(n, cr.write ? CPU_BASED.CR3_LOAD_EXITING : CPU_BASED.CR3_STORE_EXITING);
  if (cr.n === 8) return nested_cpu_has(n, cr.write ? CPU_BASED.CR8_LOAD_EXITING : CPU_BASED.CR8_STORE_EXITING);
  if (cr.n === 0) return (v.get('cr0_guest_host_mask') & (cr.value ^ v.get('cr0_read_shadow'))) !== 0n;
  return (v.get('cr4_guest_host_mask') & (cr.value ^ v.get('cr4_read_shadow'))) !== 0n;
}

/** nested_vmx_exit_handled_io() */
function nested_vmx_exit_handled_io(vcpu: KvmVcpu, n: VmxNested, exit: VmExit): boolean {
  if (!nested_cpu_has(n, CPU_BASED.USE_IO_BITMAPS)) return nested_cpu_has(n, CPU_BASED.UNCOND_IO_EXITING);
  const { port, size } = exit.io ?? { port: 0, size: 1 };
  for (let p = port; p < port + size; p++) {
    if (p > 0xffff) return true;
    const bitmap = n.vmcs12.get(p < 0x8000 ? 'io_bitmap_a' : 'io_bitmap_b');
    const byte = kvm_vcpu_read_guest(vcpu, Number(bitmap) + ((p & 0x7fff) >> 3), 1);
    if (byte === null || (Number(byte) >> (p & 7)) & 1) return true;
  }
  return false;
}

/** nested_vmx_exit_handled_msr() */
function nested_vmx_exit_handled_msr(vcpu: KvmVcpu, n: VmxNested, exit: VmExit): boolean {
  if (!nested_cpu_has(n, CPU_BASED.USE_MSR_BITMAPS) || !exit.msr) return true;
  const high = exit.msr.index >= 0xc0000000;
  const msr = high ? exit.msr.index - 0xc0000000 : exit.msr.index;
  if (msr >= 0x2000) return true;
  const at = Number(n.vmcs12.get('msr_bitmap')) + (exit.msr.write ? 2048 : 0) + (high ? 1024 : 0) + (msr >> 3);
  const byte = kvm_vcpu_read_guest(vcpu, at, 1);
  return byte === null || ((Number(byte) >> (msr & 7)) & 1) === 1;
}

/** nested_vmx_is_exception_vmexit(): #PF also by mask and match of its error code (SDM vol. 3C 24.6.3). */
export function nested_vmx_is_exception_vmexit(n: VmxNested, vector: number, error_code: number): boolean {
  const v = n.vmcs12;
  const bit = ((v.num('exception_bitmap') >>> vector) & 1) === 1;
  if (vector !== 14) return bit;
  const mask = v.num('page_fault_error_code_mask');
  const match = v.num('page_fault_error_code_match');
  return bit === ((error_code & mask) >>> 0 === match);
}

/** What prepare_vmcs02() makes of both hypervisors' wishes. */
export function nested_vmx_merge_intercepts(vcpu: KvmVcpu, n: VmxNested, c: Intercepts): void {
  const v = n.vmcs12;
  const m = vcpu.kvm.machine;
  const bitmap = v.num('exception_bitmap');
  c.exceptions |= bitmap;
  if (m.tdpEnabled) {
    // KVM itself has no use for #PF exits then, so mask and match are L1's.
    c.pfecMask = v.num('page_fault_error_code_mask');
    c.pfecMatch = v.num('page_fault_error_code_match');
  }
  if (nested_cpu_has(n, CPU_BASED.CR3_LOAD_EXITING)) c.crWrite |= 1 << 3;
  if (nested_cpu_has(n, CPU_BASED.CR3_STORE_EXITING)) c.crRead |= 1 << 3;
  if (nested_cpu_has(n, CPU_BASED.CR8_LOAD_EXITING)) c.crWrite |= 1 << 8;
  if (nested_cpu_has(n, CPU_BASED.CR8_STORE_EXITING)) c.crRead |= 1 << 8;
  c.cr0Mask |= v.get('cr0_guest_host_mask');
  c.cr4Mask |= v.get('cr4_guest_host_mask');
  c.cr0Shadow = n.cr0_read_shadow;
  c.cr4Shadow = n.cr4_read_shadow;
  if (!nested_cpu_has(n, CPU_BASED.USE_MSR_BITMAPS)) c.msrPassthrough = new Set();
  const insns = new Set(c.insns);
  for (const op of ['cpuid', 'invd', ...VMX_OPS] as const) insns.add(op);
  if (nested_cpu_has(n, CPU_BASED.INVLPG_EXITING)) insns.add('invlpg').add('invpcid');
  if (nested_cpu_has(n, CPU_BASED.RDTSC_EXITING)) insns.add('rdtsc');
  if (nested_cpu_has2(n, SECONDARY_EXEC.WBINVD_EXITING)) insns.add('wbinvd');
  c.insns = insns;
}

/** CR0 or CR4 as KVM has to set it for L2: bits that L1 owns keep L1's value (handle_set_cr0(), handle_set_cr4()). */
export function nested_vmx_cr_value(n: VmxNested, cr: 0 | 4, value: bigint): bigint {
  const v = n.vmcs12;
  const mask = v.get(cr === 0 ? 'cr0_guest_host_mask' : 'cr4_guest_host_mask');
  return (value & ~mask) | (v.get(cr === 0 ? 'guest_cr0' : 'guest_cr4') & mask);
}
