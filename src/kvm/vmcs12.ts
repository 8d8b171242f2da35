/**
 * struct vmcs12 (arch/x86/kvm/vmx/vmcs12.h): how KVM lays out the VMCS that L1 sees, in its cache and, after VMCLEAR or VMPTRLD of
 * another one, in guest memory. The layout is part of KVM's interface (KVM_GET_NESTED_STATE), so it does not change.
 */
import { VMCS, VMCS_NAMES, vmcsFieldSize, type ShadowVmcs, type VmcsFieldName } from '../hw/vmcs';

export const VMCS12_SIZE = 0x1000;
/** IA32_VMX_BASIC of the guest: revision of its VMCS */
export const VMCS12_REVISION = 0x11e57ed0;
export const VMCS12_LAUNCH_STATE = 8;

/** Runs of neighbouring fields: offset of the first, then the names in order; each takes the size of its encoding. */
const RUNS: readonly (readonly [number, readonly VmcsFieldName[]])[] = [
  [40, [
    'io_bitmap_a', 'io_bitmap_b', 'msr_bitmap', 'vm_exit_msr_store_addr', 'vm_exit_msr_load_addr', 'vm_entry_msr_load_addr',
    'tsc_offset', 'virtual_apic_page_addr', 'apic_access_addr', 'posted_intr_desc_addr', 'ept_pointer', 'eoi_exit_bitmap0',
    'eoi_exit_bitmap1', 'eoi_exit_bitmap2', 'eoi_exit_bitmap3', 'xss_exit_bitmap', 'guest_physical_address', 'vmcs_link_pointer',
    'guest_ia32_debugctl', 'guest_ia32_pat', 'guest_ia32_efer', 'guest_ia32_perf_global_ctrl', 'guest_pdptr0', 'guest_pdptr1',
    'guest_pdptr2', 'guest_pdptr3', 'guest_bndcfgs', 'host_ia32_pat', 'host_ia32_efer', 'host_ia32_perf_global_ctrl',
    'vmread_bitmap', 'vmwrite_bitmap', 'vm_function_control', 'eptp_list_address', 'pml_address', 'encls_exiting_bitmap',
    'tsc_multiplier',
  ]],
  [344, ['cr0_guest_host_mask', 'cr4_guest_host_mask', 'cr0_read_shadow', 'cr4_read_shadow']],
  [408, [
    'exit_qualification', 'guest_linear_address', 'guest_cr0', 'guest_cr3', 'guest_cr4', 'guest_es_base', 'guest_cs_base',
    'guest_ss_base', 'guest_ds_base', 'guest_fs_base', 'guest_gs_base', 'guest_ldtr_base', 'guest_tr_base', 'guest_gdtr_base',
    'guest_idtr_base', 'guest_dr7', 'guest_rsp', 'guest_rip', 'guest_rflags', 'guest_pending_dbg_exceptions',
    'guest_sysenter_esp', 'guest_sysenter_eip', 'host_cr0', 'host_cr3', 'host_cr4', 'host_fs_base', 'host_gs_base',
    'host_tr_base', 'host_gdtr_base', 'host_idtr_base', 'host_ia32_sysenter_esp', 'host_ia32_sysenter_eip', 'host_rsp',
    'host_rip',
  ]],
  [744, [
    'pin_based_vm_exec_control', 'cpu_based_vm_exec_control', 'exception_bitmap', 'page_fault_error_code_mask',
    'page_fault_error_code_match', 'cr3_target_count', 'vm_exit_controls', 'vm_exit_msr_store_count', 'vm_exit_msr_load_count',
    'vm_entry_controls', 'vm_entry_msr_load_count', 'vm_entry_intr_info_field', 'vm_entry_exception_error_code',
    'vm_entry_instruction_len', 'tpr_threshold', 'secondary_vm_exec_control', 'vm_instruction_error', 'vm_exit_reason',
    'vm_exit_intr_info', 'vm_exit_intr_error_code', 'idt_vectoring_info_field', 'idt_vectoring_error_code',
    'vm_exit_instruction_len', 'vmx_instruction_info', 'guest_es_limit', 'guest_cs_limit', 'guest_ss_limit', 'guest_ds_limit',
    'guest_fs_limit', 'guest_gs_limit', 'guest_ldtr_limit', 'guest_tr_limit', 'guest_gdtr_limit', 'guest_idtr_limit',
    'guest_es_ar_bytes', 'guest_cs_ar_bytes', 'guest_ss_ar_bytes', 'guest_ds_ar_bytes', 'guest_fs_ar_bytes', 'guest_gs_ar_bytes',
    'guest_ldtr_ar_bytes', 'guest_tr_ar_bytes', 'guest_interruptibility_info', 'guest_activity_state', 'guest_sysenter_cs',
    'host_ia32_sysenter_cs', 'vmx_preemption_timer_value',
  ]],
  [960, [
    'virtual_processor_id', 'posted_intr_nv', 'guest_es_selector', 'guest_cs_selector', 'guest_ss_selector', 'guest_ds_selector',
    'guest_fs_selector', 'guest_gs_selector', 'guest_ldtr_selector', 'guest_tr_selector', 'guest_intr_status',
    'host_es_selector', 'host_cs_selector', 'host_ss_selector', 'host_ds_selector', 'host_fs_selector', 'host_gs_selector',
    'host_tr_selector', 'guest_pml_index',
  ]],
]; // prettier-ignore

/** Byte offset of each field. */
export const VMCS12_OFFSETS: ReadonlyMap<VmcsFieldName, number> = new Map(
  RUNS.flatMap(([start, names]) => {
    let at = start;
    return names.map((name): [VmcsFieldName, number] => {
      const here = at;
      at += vmcsFieldSize(VMCS[name]);
      return [name, here];
    });
  }),
);

/** Fields that L1 reads, or reads and writes, without an exit (vmcs_shadow_fields.h, v5.3 and later). */
const SHADOW_READ_WRITE: readonly VmcsFieldName[] = [
  'guest_intr_status', 'guest_pml_index', 'host_fs_selector', 'host_gs_selector', 'cpu_based_vm_exec_control',
  'pin_based_vm_exec_control', 'exception_bitmap', 'vm_entry_exception_error_code', 'vm_entry_intr_info_field',
  'vm_entry_instruction_len', 'tpr_threshold', 'guest_interruptibility_info', 'vmx_preemption_timer_value', 'guest_rip',
  'guest_rsp', 'guest_cr0', 'guest_cr3', 'guest_cr4', 'guest_rflags', 'cr0_guest_host_mask', 'cr0_read_shadow',
  'cr4_read_shadow', 'host_fs_base', 'host_gs_base',
]; // prettier-ignore
const SHADOW_READ_ONLY: readonly VmcsFieldName[] = [
  'vm_exit_reason', 'vm_exit_intr_info', 'vm_exit_instruction_len', 'idt_vectoring_info_field', 'idt_vectoring_error_code',
  'vm_exit_intr_error_code', 'guest_cs_ar_bytes', 'guest_ss_ar_bytes', 'exit_qualification', 'guest_linear_address',
  'guest_physical_address',
]; // prettier-ignore
/** What only exists where the processor has it: virtual interrupt delivery, PML, TPR shadow, preemption timer. */
const writableEncodings: ReadonlySet<number> = new Set(SHADOW_READ_WRITE.map((n) => VMCS[n]));
const readableEncodings: ReadonlySet<number> = new Set([
  ...writableEncodings,
  ...SHADOW_READ_ONLY.map((n) => VMCS[n]),
  VMCS.guest_physical_address + 1,
]);

/** The current VMCS of L1. */
export class Vmcs12 implements ShadowVmcs {
  readonly bytes = new Uint8Array(VMCS12_SIZE);

  private get view(): DataView {
    return new DataView(this.bytes.buffer, this.bytes.byteOffset, VMCS12_SIZE);
  }

  get(name: VmcsFieldName): bigint {
    const at = VMCS12_OFFSETS.get(name) ?? 0;
    const size = vmcsFieldSize(VMCS[name]);
    const v = this.view;
    return size === 8 ? v.getBigUint64(at, true) : BigInt(size === 4 ? v.getUint32(at, true) : v.getUint16(at, true));
  }

  /** A field of 16 or 32 bits. */
  num(name: VmcsFieldName): number {
    return Number(this.get(name));
  }

  set(name: VmcsFieldName, value: bigint | number): void {
    const at = VMCS12_OFFSETS.get(name) ?? 0;
    const size = vmcsFieldSize(VMCS[name]);
    const v = this.view;
    if (size === 8) v.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true);
    else if (size === 4) v.setUint32(at, Number(BigInt.asUintN(32, BigInt(value))), true);
    else v.setUint16(at, Number(BigInt.asUintN(16, BigInt(value))), true);
  }

  get launched(): boolean {
    return this.view.getUint32(VMCS12_LAUNCH_STATE, true) !== 0;
  }

  set launched(value: boolean) {
    this.view.setUint32(VMCS12_LAUNCH_STATE, value ? 1 : 0, true);
  }

  /** Whether the encoding names a field that KVM's guests have. */
  has(field: number): boolean {
    return VMCS_NAMES.has(field & ~1) && ((field & 1) === 0 || (field & 0x6000) === 0x2000);
  }

  readable(field: number): boolean {
    return readableEncodings.has(field);
  }

  writable(field: number): boolean {
    return writableEncodings.has(field);
  }

  /** VMREAD; an odd encoding is the high half of a 64-bit field. */
  read(field: number): bigint {
    const name = VMCS_NAMES.get(field & ~1);
    if (!name) return 0n;
    const v = this.get(name);
    return field & 1 ? v >> 32n : v;
  }

  /** VMWRITE; widths are cut as the processor does. */
  write(field: number, value: bigint): void {
    const name = VMCS_NAMES.get(field & ~1);
    if (!name) return;
    if (field & 1) this.set(name, (this.get(name) & 0xffffffffn) | ((value & 0xffffffffn) << 32n));
    else this.set(name, value);
  }
}
