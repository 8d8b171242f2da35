/**
 * What nested virtualization of both vendors shares: entering and leaving guest mode, the root of L1's tables for L2, and what of
 * L2's exceptions belongs to L1. SVM is in svm_nested.ts, VMX in vmx_nested.ts.
 * Facts: reference kvm-mmu-model.md 5.6, 9.1; arch/x86/kvm/{kvm_cache_regs.h,x86.c}, v6.1.
 */
import type { Intercepts } from '../hw/exits';
import { emit } from './observer';
import type { Machine } from './machine';
import { HF_GUEST_MASK, is_guest_mode, type KvmVcpu } from './kvm_host';
import { kvm_vcpu_read_guest } from './kvm_main';
import {
  nested_svm_check_exception,
  nested_svm_get_tdp_cr3,
  nested_svm_merge_intercepts,
  nested_svm_triple_fault,
  svm_check_nested_events,
  svm_enter_smm,
  svm_leave_nested,
  svm_leave_smm,
  SvmNested,
} from './svm_nested';
import { VmxNested } from './vmx_nested_state';
import { nested_ept_get_eptp } from './vmx_nested_ept';
import { nested_vmx_is_exception_vmexit, nested_vmx_merge_intercepts } from './vmx_nested_wants';
import {
  nested_vmx_triple_fault,
  vmx_check_nested_events,
  vmx_enter_smm,
  vmx_leave_nested,
  vmx_leave_smm,
} from './vmx_nested';
import { pseudoAbandoned } from './guest_work';

/** What a new vCPU has: null where its CPUID offers neither SVM nor VMX. */
export function nested_init(m: Machine): SvmNested | VmxNested | null {
  if (m.config.vendor === 'amd') return m.guestFeatures.has('svm') ? new SvmNested() : null;
  return m.guestFeatures.has('vmx') ? new VmxNested() : null;
}

/** enter_guest_mode(): from now on the vCPU's registers are L2's. */
export function enter_guest_mode(vcpu: KvmVcpu): void {
  vcpu.hflags |= HF_GUEST_MASK;
  vcpu.stat['guest_mode'] = 1;
}

/** leave_guest_mode() */
export function leave_guest_mode(vcpu: KvmVcpu): void {
  vcpu.hflags &= ~HF_GUEST_MASK;
  vcpu.stat['guest_mode'] = 0;
}

/** The switch is complete, which is what a debugger stops to see. An instruction without code that L2 was to run is over with it. */
export function announce(vcpu: KvmVcpu, kind: 'l2_enter' | 'l2_exit', reason: string): void {
  if (kind === 'l2_exit') pseudoAbandoned(vcpu.kvm.machine);
  emit(vcpu.kvm.machine, (o) => o.event({ kind, vcpu: vcpu.vcpu_id, reason }));
}

/** svm_enter_smm(), vmx_enter_smm(): an SMI that arrives in L2 leaves it first; its registers are in the state-save area. */
export function nested_enter_smm(vcpu: KvmVcpu): void {
  if (vcpu.nested instanceof SvmNested) svm_enter_smm(vcpu, vcpu.nested);
  else if (vcpu.nested instanceof VmxNested) vmx_enter_smm(vcpu, vcpu.nested);
}

/** svm_leave_smm(), vmx_leave_smm(): back into L2 if the SMI came there; RSM then loads its registers. */
export function nested_leave_smm(vcpu: KvmVcpu): void {
  if (vcpu.nested instanceof SvmNested) svm_leave_smm(vcpu, vcpu.nested);
  else if (vcpu.nested instanceof VmxNested) vmx_leave_smm(vcpu, vcpu.nested);
}

/** kvm_leave_nested(): forget L2 without telling L1 (reset, KVM_SET_NESTED_STATE). */
export function kvm_leave_nested(vcpu: KvmVcpu): void {
  if (vcpu.nested instanceof SvmNested) svm_leave_nested(vcpu);
  else if (vcpu.nested instanceof VmxNested) vmx_leave_nested(vcpu);
}

/** guest_mmu.get_guest_pgd: nCR3 or EPTP of L1. */
export function nested_get_tdp_pgd(vcpu: KvmVcpu): bigint {
  if (vcpu.nested instanceof SvmNested) return nested_svm_get_tdp_cr3(vcpu.nested);
  if (vcpu.nested instanceof VmxNested) return nested_ept_get_eptp(vcpu.nested);
  return vcpu.regs.cr3;
}

/** guest_mmu.get_pdptr: PAE nested page tables are read from memory at each walk (nested_svm_get_tdp_pdptr()). */
export function nested_get_tdp_pdptr(vcpu: KvmVcpu, index: number): bigint {
  return kvm_vcpu_read_guest(vcpu, Number(nested_get_tdp_pgd(vcpu) & 0xffffffe0n) + 8 * index, 8) ?? 0n;
}

/** nested_ops->is_exception_vmexit(): L1 intercepts this exception of L2. */
export function nested_is_exception_vmexit(vcpu: KvmVcpu, vector: number, errorCode: number | null): boolean {
  if (!is_guest_mode(vcpu)) return false;
  if (vcpu.nested instanceof SvmNested) return nested_svm_check_exception(vcpu.nested, vector);
  return vcpu.nested instanceof VmxNested && nested_vmx_is_exception_vmexit(vcpu.nested, vector, errorCode ?? 0);
}

/** kvm_check_nested_events(): exits to L1 that KVM itself has brought about. */
export function kvm_check_nested_events(vcpu: KvmVcpu): void {
  if (vcpu.nested instanceof SvmNested) svm_check_nested_events(vcpu, vcpu.nested);
  else if (vcpu.nested instanceof VmxNested) vmx_check_nested_events(vcpu, vcpu.nested);
}

/** nested_ops->triple_fault(): a shutdown of L2 is L1's business if L1 wants to know. */
export function nested_triple_fault(vcpu: KvmVcpu): void {
  if (vcpu.nested instanceof SvmNested) nested_svm_triple_fault(vcpu, vcpu.nested);
  else if (vcpu.nested instanceof VmxNested) nested_vmx_triple_fault(vcpu, vcpu.nested);
}

/** While L2 runs, what L1 intercepts is intercepted besides what KVM itself does. */
export function nested_merge_intercepts(vcpu: KvmVcpu, c: Intercepts): void {
  if (!is_guest_mode(vcpu)) return;
  if (vcpu.nested instanceof SvmNested) nested_svm_merge_intercepts(vcpu.nested, c);
  else if (vcpu.nested instanceof VmxNested) nested_vmx_merge_intercepts(vcpu, vcpu.nested, c);
}
