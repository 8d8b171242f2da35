/**
 * VMCS fields: encodings, widths, kinds; the control bits that decide which exits happen; the instructions that VMX adds.
 * Source: SDM vol. 3D appendix B (encodings), vol. 3C 24 (fields and controls), appendix C (exit reasons).
 */
import type { Op } from './insn';
import type { Segment } from './regs';
import { segment } from './regs';

/** Field encodings by the names of KVM's struct vmcs12. */
export const VMCS = {
  virtual_processor_id: 0x0000,
  posted_intr_nv: 0x0002,
  guest_es_selector: 0x0800,
  guest_cs_selector: 0x0802,
  guest_ss_selector: 0x0804,
  guest_ds_selector: 0x0806,
  guest_fs_selector: 0x0808,
  guest_gs_selector: 0x080a,
  guest_ldtr_selector: 0x080c,
  guest_tr_selector: 0x080e,
  guest_intr_status: 0x0810,
  guest_pml_index: 0x0812,
  host_es_selector: 0x0c00,
  host_cs_selector: 0x0c02,
  host_ss_selector: 0x0c04,
  host_ds_selector: 0x0c06,
  host_fs_selector: 0x0c08,
  host_gs_selector: 0x0c0a,
  host_tr_selector: 0x0c0c,
  io_bitmap_a: 0x2000,
  io_bitmap_b: 0x2002,
  msr_bitmap: 0x2004,
  vm_exit_msr_store_addr: 0x2006,
  vm_exit_msr_load_addr: 0x2008,
  vm_entry_msr_load_addr: 0x200a,
  pml_address: 0x200e,
  tsc_offset: 0x2010,
  virtual_apic_page_addr: 0x2012,
  apic_access_addr: 0x2014,
  posted_intr_desc_addr: 0x2016,
  vm_function_control: 0x2018,
  ept_pointer: 0x201a,
  eoi_exit_bitmap0: 0x201c,
  eoi_exit_bitmap1: 0x201e,
  eoi_exit_bitmap2: 0x2020,
  eoi_exit_bitmap3: 0x2022,
  eptp_list_address: 0x2024,
  vmread_bitmap: 0x2026,
  vmwrite_bitmap: 0x2028,
  xss_exit_bitmap: 0x202c,
  encls_exiting_bitmap: 0x202e,
  tsc_multiplier: 0x2032,
  guest_physical_address: 0x2400,
  vmcs_link_pointer: 0x2800,
  guest_ia32_debugctl: 0x2802,
  guest_ia32_pat: 0x2804,
  guest_ia32_efer: 0x2806,
  guest_ia32_perf_global_ctrl: 0x2808,
  guest_pdptr0: 0x280a,
  guest_pdptr1: 0x280c,
  guest_pdptr2: 0x280e,
  guest_pdptr3: 0x2810,
  guest_bndcfgs: 0x2812,
  host_ia32_pat: 0x2c00,
  host_ia32_efer: 0x2c02,
  host_ia32_perf_global_ctrl: 0x2c04,
  pin_based_vm_exec_control: 0x4000,
  cpu_based_vm_exec_control: 0x4002,
  exception_bitmap: 0x4004,
  page_fault_error_code_mask: 0x4006,
  page_fault_error_code_match: 0x4008,
  cr3_target_count: 0x400a,
  vm_exit_controls: 0x400c,
  vm_exit_msr_store_count: 0x400e,
  vm_exit_msr_load_count: 0x4010,
  vm_entry_controls: 0x4012,
  vm_entry_msr_load_count: 0x4014,
  vm_entry_intr_info_field: 0x4016,
  vm_entry_exception_error_code: 0x4018,
  vm_entry_instruction_len: 0x401a,
  tpr_threshold: 0x401c,
  secondary_vm_exec_control: 0x401e,
  vm_instruction_error: 0x4400,
  vm_exit_reason: 0x4402,
  vm_exit_intr_info: 0x4404,
  vm_exit_intr_error_code: 0x4406,
  idt_vectoring_info_field: 0x4408,
  idt_vectoring_error_code: 0x440a,
  vm_exit_instruction_len: 0x440c,
  vmx_instruction_info: 0x440e,
  guest_es_limit: 0x4800,
  guest_cs_limit: 0x4802,
  guest_ss_limit: 0x4804,
  guest_ds_limit: 0x4806,
  guest_fs_limit: 0x4808,
  guest_gs_limit: 0x480a,
  guest_ldtr_limit: 0x480c,
  guest_tr_limit: 0x480e,
  guest_gdtr_limit: 0x4810,
  guest_idtr_limit: 0x4812,
  guest_es_ar_bytes: 0x4814,
  guest_cs_ar_bytes: 0x4816,
  guest_ss_ar_bytes: 0x4818,
  guest_ds_ar_bytes: 0x481a,
  guest_fs_ar_bytes: 0x481c,
  guest_gs_ar_bytes: 0x481e,
  guest_ldtr_ar_bytes: 0x4820,
  guest_tr_ar_bytes: 0x4822,
  guest_interruptibility_info: 0x4824,
  guest_activity_state: 0x4826,
  guest_sysenter_cs: 0x482a,
  vmx_preemption_timer_value: 0x482e,
  host_ia32_sysenter_cs: 0x4c00,
  cr0_guest_host_mask: 0x6000,
  cr4_guest_host_mask: 0x6002,
  cr0_read_shadow: 0x6004,
  cr4_read_shadow: 0x6006,
  exit_qualification: 0x6400,
  guest_linear_address: 0x640a,
  guest_cr0: 0x6800,
  guest_cr3: 0x6802,
  guest_cr4: 0x6804,
  guest_es_base: 0x6806,
  guest_cs_base: 0x6808,
  guest_ss_base: 0x680a,
  guest_ds_base: 0x680c,
  guest_fs_base: 0x680e,
  guest_gs_base: 0x6810,
  guest_ldtr_base: 0x6812,
  guest_tr_base: 0x6814,
  guest_gdtr_base: 0x6816,
  guest_idtr_base: 0x6818,
  guest_dr7: 0x681a,
  guest_rsp: 0x681c,
  guest_rip: 0x681e,
  guest_rflags: 0x6820,
  guest_pending_dbg_exceptions: 0x6822,
  guest_sysenter_esp: 0x6824,
  guest_sysenter_eip: 0x6826,
  host_cr0: 0x6c00,
  host_cr3: 0x6c02,
  host_cr4: 0x6c04,
  host_fs_base: 0x6c06,
  host_gs_base: 0x6c08,
  host_tr_base: 0x6c0a,
  host_gdtr_base: 0x6c0c,
  host_idtr_base: 0x6c0e,
  host_ia32_sysenter_esp: 0x6c10,
  host_ia32_sysenter_eip: 0x6c12,
  host_rsp: 0x6c14,
  host_rip: 0x6c16,
} as const;

export type VmcsFieldName = keyof typeof VMCS;

/** Name of an encoding; the odd encodings of 64-bit fields are their high halves. Undefined: no field of this table. */
export const VMCS_NAMES: ReadonlyMap<number, VmcsFieldName> = new Map(
  Object.entries(VMCS).map(([name, encoding]) => [encoding, name as VmcsFieldName]),
);

/** Bytes of a field by its encoding: bits 14:13 are 0 for 16 bits, 1 for 64, 2 for 32, 3 for natural width. */
export const vmcsFieldSize = (encoding: number): 2 | 4 | 8 => {
  const width = (encoding >>> 13) & 3;
  return width === 0 ? 2 : width === 2 ? 4 : 8;
};

/** Primary processor-based controls. */
export const CPU_BASED = {
  HLT_EXITING: 1 << 7,
  INVLPG_EXITING: 1 << 9,
  RDTSC_EXITING: 1 << 12,
  CR3_LOAD_EXITING: 1 << 15,
  CR3_STORE_EXITING: 1 << 16,
  CR8_LOAD_EXITING: 1 << 19,
  CR8_STORE_EXITING: 1 << 20,
  UNCOND_IO_EXITING: 1 << 24,
  USE_IO_BITMAPS: 1 << 25,
  USE_MSR_BITMAPS: 1 << 28,
  ACTIVATE_SECONDARY_CONTROLS: (1 << 31) >>> 0,
} as const;

/** Secondary processor-based controls. */
export const SECONDARY_EXEC = {
  ENABLE_EPT: 1 << 1,
  ENABLE_VPID: 1 << 5,
  WBINVD_EXITING: 1 << 6,
  UNRESTRICTED_GUEST: 1 << 7,
  ENABLE_INVPCID: 1 << 12,
  SHADOW_VMCS: 1 << 14,
  ENABLE_PML: 1 << 17,
} as const;

export const VM_ENTRY = { IA32E_MODE: 1 << 9, LOAD_IA32_EFER: 1 << 15 } as const;
export const VM_EXIT_CTL = {
  HOST_ADDR_SPACE_SIZE: 1 << 9,
  SAVE_IA32_EFER: 1 << 20,
  LOAD_IA32_EFER: 1 << 21,
} as const;

/** Basic exit reasons that this model tells apart. */
export const EXIT_REASON = {
  EXCEPTION_NMI: 0,
  TRIPLE_FAULT: 2,
  CPUID: 10,
  HLT: 12,
  INVD: 13,
  INVLPG: 14,
  RDTSC: 16,
  VMCALL: 18,
  CR_ACCESS: 28,
  IO_INSTRUCTION: 30,
  MSR_READ: 31,
  MSR_WRITE: 32,
  INVALID_STATE: 33,
  EPT_VIOLATION: 48,
  EPT_MISCONFIG: 49,
  WBINVD: 54,
  INVPCID: 58,
  PML_FULL: 62,
} as const;

/** Instructions that exit under their own reason, with the name that KVM's trace prints. */
export const VMX_INSN_EXITS: readonly (readonly [Op, number, string])[] = [
  ['cpuid', 10, 'CPUID'],
  ['invd', 13, 'INVD'],
  ['rdtsc', 16, 'RDTSC'],
  ['vmcall', 18, 'VMCALL'],
  ['vmclear', 19, 'VMCLEAR'],
  ['vmlaunch', 20, 'VMLAUNCH'],
  ['vmptrld', 21, 'VMPTRLD'],
  ['vmptrst', 22, 'VMPTRST'],
  ['vmread', 23, 'VMREAD'],
  ['vmresume', 24, 'VMRESUME'],
  ['vmwrite', 25, 'VMWRITE'],
  ['vmxoff', 26, 'VMOFF'],
  ['vmxon', 27, 'VMON'],
  ['invept', 50, 'INVEPT'],
  ['invvpid', 53, 'INVVPID'],
  ['wbinvd', 54, 'WBINVD'],
  ['invpcid', 58, 'INVPCID'],
  ['vmfunc', 59, 'VMFUNC'],
];

/** Instructions that exit whatever the controls say, because they belong to VMX. */
export const VMX_OPS: readonly Op[] = [
  'vmxon', 'vmxoff', 'vmclear', 'vmptrld', 'vmptrst', 'vmread', 'vmwrite', 'vmlaunch', 'vmresume', 'invept', 'invvpid',
]; // prettier-ignore

/** A VMCS that VMREAD and VMWRITE reach without an exit (VMCS shadowing, SDM vol. 3C 25.1.3 and 30.3). */
export interface ShadowVmcs {
  readable(field: number): boolean;
  writable(field: number): boolean;
  read(field: number): bigint;
  write(field: number, value: bigint): void;
}

/** A segment from its four fields (access rights: SDM vol. 3C table 24-2). */
export function segmentFromVmcs(selector: number, base: bigint, limit: number, ar: number): Segment {
  return segment({
    selector,
    base,
    limit,
    type: ar & 15,
    s: (ar >>> 4) & 1,
    dpl: (ar >>> 5) & 3,
    present: (ar >>> 7) & 1,
    l: (ar >>> 13) & 1,
    db: (ar >>> 14) & 1,
    g: (ar >>> 15) & 1,
    unusable: (ar >>> 16) & 1,
  });
}

/** Access rights of a segment. */
export const accessRights = (s: Segment): number =>
  s.type | (s.s << 4) | (s.dpl << 5) | (s.present << 7) | (s.l << 13) | (s.db << 14) | (s.g << 15) | (s.unusable << 16);
