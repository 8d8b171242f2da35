/**
 * arch/x86/kvm/vmx/nested.c: an L1 hypervisor on VMX runs L2. Entering and leaving L2. What L1 wants to hear of is in
 * vmx_nested_wants.ts, L1's EPT in vmx_nested_ept.ts, the instructions by which L1 asks for it in vmx_nested_insns.ts, the layout of
 * its VMCS in vmcs12.ts.
 * Facts: SDM vol. 3C 24-28; reference kvm-mmu-model.md 5.5-5.7, error-codes.json (kvmInjectedToL1); v6.1 function names and order.
 */
import { EVENT_TYPE, type GuestEvent, type VmExit } from '../hw/exits';
import { CR4, EFER, segment } from '../hw/regs';
import { accessRights, EXIT_REASON, segmentFromVmcs, VM_ENTRY, VM_EXIT_CTL } from '../hw/vmcs';
import { eventInfo } from './exits';
import { emit, enter, leave } from './observer';
import { is_guest_mode, type KvmVcpu } from './kvm_host';
import { kvm_init_mmu } from './mmu/calc_role';
import { kvm_mmu_new_pgd } from './mmu/roots';
import { announce, enter_guest_mode, leave_guest_mode } from './nested';
import { kvm_service_local_tlb_flush_requests } from './x86';
import { kvm_make_request } from './x86_requests';
import { load_pdptrs } from './x86_regs';
import { INVALID_VMPTR, nested_cpu_has_ept, nested_cpu_has_vpid, VmxNested } from './vmx_nested_state';
import { nested_ept_init_mmu_context, nested_ept_uninit_mmu_context } from './vmx_nested_ept';
import { nested_vmx_l0_wants_exit, nested_vmx_l1_wants_exit } from './vmx_nested_wants';

/** nested_vmx_vmexit() without an exit for L1 to see. */
const NO_EXIT = -1;
const SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs', 'ldtr', 'tr'] as const;
const VALID = 0x80000000;

// ---- Entering L2 ----

/** nested_vmx_enter_non_root_mode(): the checks are done. */
export function nested_vmx_enter_non_root_mode(vcpu: KvmVcpu, n: VmxNested, op: string): void {
  const m = vcpu.kvm.machine;
  const v = n.vmcs12;
  enter(m, 'nested_vmx_enter_non_root_mode', vcpu.vcpu_id, n);
  const ept = nested_cpu_has_ept(n);
  if (m.caps.vmxNestedVmenter)
    emit(m, (o) =>
      o.event({
        kind: 'kvm_nested_vmenter',
        vcpu: vcpu.vcpu_id,
        rip: vcpu.regs.rip,
        vmcb: BigInt(n.current_vmptr),
        nested_rip: v.get('guest_rip'),
        int_ctl: v.num('guest_intr_status'),
        event_inj: v.num('vm_entry_intr_info_field'),
        tdp_enabled: ept ? 1 : 0,
        guest_pgd: ept ? v.get('ept_pointer') : v.get('guest_cr3'),
      }),
    );
  kvm_service_local_tlb_flush_requests(vcpu);
  // VMCS shadowing serves L1 only.
  vcpu.processor.shadowVmcs = null;
  enter_guest_mode(vcpu);
  const ok = prepare_vmcs02(vcpu, n);
  m.load_mmu_pgd(vcpu);
  announce(vcpu, 'l2_enter', op);
  if (!ok) nested_vmx_vmexit(vcpu, n, EXIT_REASON.INVALID_STATE | VALID, 0, 0, 0n, 'INVALID_STATE');
  leave(m);
}

/** prepare_vmcs02(): L2's registers and MMUs. @returns false: CR3 is bad */
function prepare_vmcs02(vcpu: KvmVcpu, n: VmxNested): boolean {
  const m = vcpu.kvm.machine;
  const s = vcpu.regs;
  const v = n.vmcs12;
  enter(m, 'prepare_vmcs02', vcpu.vcpu_id, v);
  for (const name of SEGMENTS)
    s[name] = segmentFromVmcs(
      v.num(`guest_${name}_selector`),
      v.get(`guest_${name}_base`),
      v.num(`guest_${name}_limit`),
      v.num(`guest_${name}_ar_bytes`),
    );
  for (const name of ['gdtr', 'idtr'] as const) {
    s[name].base = v.get(`guest_${name}_base`);
    s[name].limit = v.num(`guest_${name}_limit`);
  }
  s.dr7 = v.get('guest_dr7');
  s.rflags = v.get('guest_rflags') | 2n;
  nested_vmx_transition_tlb_flush(vcpu, n);
  if (nested_cpu_has_ept(n)) nested_ept_init_mmu_context(vcpu, n);
  s.cr0 = v.get('guest_cr0');
  s.cr4 = v.get('guest_cr4');
  s.efer = nested_vmx_calc_efer(vcpu, n);
  n.cr0_read_shadow = effective(v.get('guest_cr0'), v.get('cr0_guest_host_mask'), v.get('cr0_read_shadow'));
  n.cr4_read_shadow = effective(v.get('guest_cr4'), v.get('cr4_guest_host_mask'), v.get('cr4_read_shadow'));
  const ok = nested_vmx_load_cr3(vcpu, v.get('guest_cr3'), nested_cpu_has_ept(n));
  const pae = s.paging && (s.cr4 & CR4.PAE) !== 0n && !s.longModeActive;
  if (pae && nested_cpu_has_ept(n)) for (const i of [0, 1, 2, 3] as const) s.pdptrs[i] = v.get(`guest_pdptr${i}`);
  s.gpr[4] = v.get('guest_rsp');
  s.rip = v.get('guest_rip');
  const info = v.num('vm_entry_intr_info_field');
  if (info & VALID) vcpu.processor.inject = injected(n, info);
  leave(m);
  return ok;
}

/** nested_read_cr0(), nested_read_cr4(): what L2 reads, bits of L1's mask from the shadow. */
const effective = (guest: bigint, mask: bigint, shadow: bigint): bigint => (guest & ~mask) | (shadow & mask);

/** nested_vmx_calc_efer() */
function nested_vmx_calc_efer(vcpu: KvmVcpu, n: VmxNested): bigint {
  const ctl = n.vmcs12.num('vm_entry_controls');
  const { efer } = vcpu.regs;
  if (ctl & VM_ENTRY.LOAD_IA32_EFER) return n.vmcs12.get('guest_ia32_efer');
  return ctl & VM_ENTRY.IA32E_MODE ? efer | EFER.LMA | EFER.LME : efer & ~(EFER.LMA | EFER.LME);
}

/** The event that L1 injects at VM entry (SDM vol. 3C 24.8.3). */
function injected(n: VmxNested, info: number): GuestEvent {
  return {
    vector: info & 0xff,
    type: (info >>> 8) & 7,
    errorCode: info & 0x800 ? n.vmcs12.num('vm_entry_exception_error_code') : null,
    insnLen: n.vmcs12.num('vm_entry_instruction_len'),
  };
}

/** nested_vmx_load_cr3() for either direction. @returns false: CR3 or a PDPTE is bad */
function nested_vmx_load_cr3(vcpu: KvmVcpu, cr3: bigint, nested_ept: boolean): boolean {
  const m = vcpu.kvm.machine;
  const s = vcpu.regs;
  enter(m, 'nested_vmx_load_cr3', vcpu.vcpu_id, s);
  const pae = s.paging && (s.cr4 & CR4.PAE) !== 0n && !s.longModeActive;
  const ok = cr3 >> BigInt(vcpu.maxphyaddr) === 0n && (nested_ept || !pae || load_pdptrs(vcpu, cr3));
  if (ok) {
    s.cr3 = cr3;
    kvm_init_mmu(vcpu);
    if (!nested_ept) kvm_mmu_new_pgd(vcpu, cr3);
  }
  leave(m);
  return ok;
}

/**
 * nested_vmx_transition_tlb_flush(): without a VPID each transition flushes linear and combined mappings, which includes the sync of
 * shadow pages where KVM shadows L1's or L2's own tables. Entries of L1's EPT are not flushed: only INVEPT does that.
 */
function nested_vmx_transition_tlb_flush(vcpu: KvmVcpu, n: VmxNested): void {
  kvm_make_request(nested_cpu_has_vpid(n) ? 'TLB_FLUSH_CURRENT' : 'TLB_FLUSH_GUEST', vcpu);
}

// ---- Leaving L2 ----

/** What an exit of L2 reports. */
export interface VmxExitInfo {
  reason: number;
  name: string;
  qualification: bigint;
}

/**
 * nested_vmx_reflect_vmexit(): who handles an exit of L2.
 * @returns true: L1 does, and the vCPU runs L1 again
 */
export function nested_vmx_reflect_vmexit(vcpu: KvmVcpu, n: VmxNested, exit: VmExit, info: VmxExitInfo): boolean {
  const m = vcpu.kvm.machine;
  if (exit.gva !== null && info.reason === EXIT_REASON.EPT_VIOLATION) n.guest_linear_address = exit.gva;
  n.instruction_len = exit.insn?.len ?? 0;
  enter(m, 'nested_vmx_reflect_vmexit', vcpu.vcpu_id, n);
  const l1 = !nested_vmx_l0_wants_exit(vcpu, exit, info.reason) && nested_vmx_l1_wants_exit(vcpu, n, exit, info.reason);
  if (l1) {
    const e = exit.kind === 'rsm' ? { vector: 6, type: EVENT_TYPE.EXCEPTION, errorCode: null } : exit.exception;
    const intr = info.reason === EXIT_REASON.EXCEPTION_NMI ? eventInfo(e) : 0;
    nested_vmx_vmexit(vcpu, n, info.reason, intr, e?.errorCode ?? 0, info.qualification, info.name);
  }
  leave(m);
  return l1;
}

/** nested_vmx_vmexit(): vmcs12 gets L2's state and the exit, the vCPU gets the host state that L1 asked for. */
export function nested_vmx_vmexit(
  vcpu: KvmVcpu,
  n: VmxNested,
  reason: number,
  intr_info: number,
  intr_error: number,
  qualification: bigint,
  name: string,
): void {
  const m = vcpu.kvm.machine;
  const v = n.vmcs12;
  enter(m, 'nested_vmx_vmexit', vcpu.vcpu_id, n);
  kvm_service_local_tlb_flush_requests(vcpu);
  leave_guest_mode(vcpu);
  sync_vmcs02_to_vmcs12(vcpu, n);
  if (reason !== NO_EXIT) prepare_vmcs12(vcpu, n, reason, intr_info, intr_error, qualification);
  vcpu.exception = null;
  vcpu.exception_vmexit = null;
  vcpu.processor.inject = null;
  if (reason !== NO_EXIT)
    emit(m, (o) =>
      o.event({
        kind: 'kvm_nested_vmexit_inject',
        vcpu: vcpu.vcpu_id,
        exit_code: reason >>> 0,
        exit_info1: qualification,
        exit_info2: v.get('idt_vectoring_info_field'),
        exit_int_info: v.num('vm_exit_intr_info'),
        exit_int_info_err: v.num('vm_exit_intr_error_code'),
      }),
    );
  load_vmcs12_host_state(vcpu, n);
  vcpu.processor.shadowVmcs = v;
  m.load_mmu_pgd(vcpu);
  announce(vcpu, 'l2_exit', name);
  leave(m);
}

/** sync_vmcs02_to_vmcs12(): L2's registers, as L1 may see them. */
function sync_vmcs02_to_vmcs12(vcpu: KvmVcpu, n: VmxNested): void {
  const s = vcpu.regs;
  const v = n.vmcs12;
  const own = (value: bigint, kept: bigint, mask: bigint): bigint => (value & ~mask) | (kept & mask);
  v.set('guest_cr0', own(s.cr0, v.get('guest_cr0'), v.get('cr0_guest_host_mask')));
  v.set('guest_cr4', own(s.cr4, v.get('guest_cr4'), v.get('cr4_guest_host_mask')));
  v.set('guest_rsp', s.gpr[4]);
  v.set('guest_rip', s.rip);
  v.set('guest_rflags', s.rflags);
  for (const name of SEGMENTS) {
    const seg = s[name];
    v.set(`guest_${name}_selector`, seg.selector);
    v.set(`guest_${name}_base`, seg.base);
    v.set(`guest_${name}_limit`, seg.limit);
    v.set(`guest_${name}_ar_bytes`, accessRights(seg));
  }
  for (const name of ['gdtr', 'idtr'] as const) {
    v.set(`guest_${name}_base`, s[name].base);
    v.set(`guest_${name}_limit`, s[name].limit);
  }
  // With shadow paging GUEST_CR3 is KVM's own, so vmcs12 keeps what L1 wrote: a CR3 that L2 loaded itself is lost (as in the kernel).
  if (vcpu.kvm.machine.tdpEnabled) v.set('guest_cr3', s.cr3);
  const pae = s.paging && (s.cr4 & CR4.PAE) !== 0n && !s.longModeActive;
  if (pae && nested_cpu_has_ept(n)) for (const i of [0, 1, 2, 3] as const) v.set(`guest_pdptr${i}`, s.pdptrs[i]);
  v.set('guest_linear_address', n.guest_linear_address);
  const entry = v.num('vm_entry_controls') & ~VM_ENTRY.IA32E_MODE;
  v.set('vm_entry_controls', (entry | (s.longModeActive ? VM_ENTRY.IA32E_MODE : 0)) >>> 0);
  if (v.num('vm_exit_controls') & VM_EXIT_CTL.SAVE_IA32_EFER) v.set('guest_ia32_efer', s.efer);
}

/** prepare_vmcs12(): the exit information; of a failed entry only reason and qualification. */
function prepare_vmcs12(
  vcpu: KvmVcpu,
  n: VmxNested,
  reason: number,
  intr_info: number,
  intr_error: number,
  qualification: bigint,
): void {
  const v = n.vmcs12;
  v.set('vm_exit_reason', reason >>> 0);
  v.set('exit_qualification', qualification);
  if (reason & VALID) return;
  v.launched = true;
  v.set('vm_entry_intr_info_field', (v.num('vm_entry_intr_info_field') & ~VALID) >>> 0);
  // vmcs12_save_pending_event(): an event whose delivery the exit cut short is L1's to inject again.
  const e = vcpu.exception;
  v.set('idt_vectoring_info_field', 0);
  if (e?.injected && reason !== EXIT_REASON.TRIPLE_FAULT) {
    v.set(
      'idt_vectoring_info_field',
      eventInfo({ vector: e.vector, type: EVENT_TYPE.EXCEPTION, errorCode: e.errorCode }),
    );
    if (e.errorCode !== null) v.set('idt_vectoring_error_code', e.errorCode);
  }
  v.set('vm_exit_intr_info', intr_info);
  if (intr_info & 0x800) v.set('vm_exit_intr_error_code', intr_error);
  v.set('vm_exit_instruction_len', n.instruction_len);
}

/** load_vmcs12_host_state(): L1's registers are those that its VMCS names (SDM vol. 3C 27.5). */
function load_vmcs12_host_state(vcpu: KvmVcpu, n: VmxNested): void {
  const m = vcpu.kvm.machine;
  const s = vcpu.regs;
  const v = n.vmcs12;
  enter(m, 'load_vmcs12_host_state', vcpu.vcpu_id, v);
  const ctl = v.num('vm_exit_controls');
  const wide = (ctl & VM_EXIT_CTL.HOST_ADDR_SPACE_SIZE) !== 0;
  if (ctl & VM_EXIT_CTL.LOAD_IA32_EFER) s.efer = v.get('host_ia32_efer');
  else s.efer = wide ? s.efer | EFER.LMA | EFER.LME : s.efer & ~(EFER.LMA | EFER.LME);
  s.gpr[4] = v.get('host_rsp');
  s.rip = v.get('host_rip');
  s.rflags = 2n;
  s.cr0 = v.get('host_cr0');
  s.cr4 = v.get('host_cr4');
  nested_ept_uninit_mmu_context(vcpu);
  m.registersChanged(vcpu);
  nested_vmx_load_cr3(vcpu, v.get('host_cr3'), false);
  nested_vmx_transition_tlb_flush(vcpu, n);
  Object.assign(s.gdtr, { base: v.get('host_gdtr_base'), limit: 0xffff });
  Object.assign(s.idtr, { base: v.get('host_idtr_base'), limit: 0xffff });
  s.cs = segment({ selector: v.num('host_cs_selector'), type: 11, l: wide ? 1 : 0, db: wide ? 0 : 1 });
  for (const name of ['ds', 'es', 'ss'] as const) s[name] = segment({ selector: v.num(`host_${name}_selector`) });
  s.fs = segment({ selector: v.num('host_fs_selector'), base: v.get('host_fs_base') });
  s.gs = segment({ selector: v.num('host_gs_selector'), base: v.get('host_gs_base') });
  s.tr = segment({
    selector: v.num('host_tr_selector'),
    base: v.get('host_tr_base'),
    limit: 0x67,
    type: 11,
    s: 0,
    db: 0,
    g: 0,
  });
  s.ldtr = segment({ limit: 0, type: 0, s: 0, present: 0, db: 0, g: 0, unusable: 1 });
  s.dr7 = 0x400n;
  leave(m);
}

/** vmx_leave_nested(): the registers stay, nobody is told; VMX operation ends. */
export function vmx_leave_nested(vcpu: KvmVcpu): void {
  const n = vcpu.nested;
  if (!(n instanceof VmxNested)) return;
  const inL2 = is_guest_mode(vcpu);
  if (inL2) {
    leave_guest_mode(vcpu);
    nested_ept_uninit_mmu_context(vcpu);
  }
  n.vmxon = false;
  n.current_vmptr = INVALID_VMPTR;
  vcpu.processor.shadowVmcs = null;
  vcpu.exception_vmexit = null;
  if (inL2) announce(vcpu, 'l2_exit', 'reset');
}

/** vmx_enter_smm(): outside VMX operation until RSM. L1 sees no exit. */
export function vmx_enter_smm(vcpu: KvmVcpu, n: VmxNested): void {
  n.smm_guest_mode = is_guest_mode(vcpu);
  if (n.smm_guest_mode) nested_vmx_vmexit(vcpu, n, NO_EXIT, 0, 0, 0n, 'SMI');
  n.smm_vmxon = n.vmxon;
  n.vmxon = false;
}

/** vmx_leave_smm() */
export function vmx_leave_smm(vcpu: KvmVcpu, n: VmxNested): void {
  n.vmxon ||= n.smm_vmxon;
  n.smm_vmxon = false;
  if (!n.smm_guest_mode) return;
  n.smm_guest_mode = false;
  nested_vmx_enter_non_root_mode(vcpu, n, 'RSM');
}

/** vmx_check_nested_events(): nested_vmx_inject_exception_vmexit(). */
export function vmx_check_nested_events(vcpu: KvmVcpu, n: VmxNested): void {
  const e = vcpu.exception_vmexit;
  if (!e) return;
  const m = vcpu.kvm.machine;
  enter(m, 'nested_vmx_inject_exception_vmexit', vcpu.vcpu_id, e);
  vcpu.exception_vmexit = null;
  const info = eventInfo({ vector: e.vector, type: EVENT_TYPE.EXCEPTION, errorCode: e.errorCode });
  const qualification = e.vector === 14 ? (e.payload ?? vcpu.regs.cr2) : 0n;
  nested_vmx_vmexit(vcpu, n, EXIT_REASON.EXCEPTION_NMI, info, e.errorCode ?? 0, qualification, 'EXCEPTION_NMI');
  leave(m);
}

/** nested_vmx_triple_fault(): L1 always hears of it. */
export function nested_vmx_triple_fault(vcpu: KvmVcpu, n: VmxNested): void {
  vcpu.requests.delete('TRIPLE_FAULT');
  nested_vmx_vmexit(vcpu, n, EXIT_REASON.TRIPLE_FAULT, 0, 0, 0n, 'TRIPLE_FAULT');
}
