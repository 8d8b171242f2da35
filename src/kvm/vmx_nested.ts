import type { Intercepts } from '../hw/exits';
import type { KvmVcpu } from './kvm_host';
export class VmxNested {}
export function nested_ept_get_eptp(n: VmxNested): bigint { void n; return 0n; }
export function nested_vmx_is_exception_vmexit(n: VmxNested, v: number, e: number): boolean { void n; void v; void e; return false; }
export function nested_vmx_merge_intercepts(vcpu: KvmVcpu, n: VmxNested, c: Intercepts): void { void vcpu; void n; void c; }
export function nested_vmx_triple_fault(vcpu: KvmVcpu, n: VmxNested): void { void vcpu; void n; }
export function vmx_check_nested_events(vcpu: KvmVcpu, n: VmxNested): void { void vcpu; void n; }
export function vmx_leave_nested(vcpu: KvmVcpu): void { void vcpu; }
export function nested_ept_inject_page_fault(vcpu: KvmVcpu, e: number, a: bigint): void { void vcpu; void e; void a; }
