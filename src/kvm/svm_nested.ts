/**
 * arch/x86/kvm/svm/nested.c: an L1 hypervisor on AMD-V runs L2. KVM merges L1's VMCB with its own, runs L2 on the result, and gives
 * L1 the exits that L1 asked for.
 * Facts: APM vol. 2 chapter 15 (VMRUN, #VMEXIT, nested paging); reference kvm-mmu-model.md 5.5-5.7; v6.1 function names and order.
 */
import { EVENT_TYPE, type GuestEvent, type Intercepts, type VmExit } from '../hw/exits';
import type { Op } from '../hw/insn';
import { CR0, CR4, CpuState, EFER } from '../hw/regs';
import { SVM_EXIT, SVM_INSN_EXITS, Vmcb, VMLOAD_MSRS } from '../hw/vmcb';
import { eventInfo, skip_emulated_instruction } from './exits';
import { emit, enter, leave } from './observer';
import { is_guest_mode, type KvmVcpu } from './kvm_host';
import { kvm_gpa_to_hpa, kvm_vcpu_gfn_to_memslot, kvm_vcpu_read_guest } from './kvm_main';
import { kvm_init_mmu, kvm_init_shadow_npt_mmu } from './mmu/calc_role';
import { kvm_mmu_new_pgd } from './mmu/roots';
import { announce, enter_guest_mode, leave_guest_mode } from './nested';
import { kvm_make_request, kvm_x86_flush_tlb_gva } from './x86_requests';
import { load_pdptrs } from './x86_regs';
import { kvm_multiple_exception } from './x86_exceptions';

const PAGE_MASK = 0xfffn;
const SVM_NESTED_CTL_NP_ENABLE = 1n;
const VALID = 0x80000000;

/** An exit as a VMCB reports it. */
export interface SvmExitInfo {
  code: number;
  info1: bigint;
  info2: bigint;
  intInfo: number;
  intInfoErr: number;
}

const noExit = (): SvmExitInfo => ({ code: 0, info1: 0n, info2: 0n, intInfo: 0, intInfoErr: 0 });

/** struct svm_nested_state with the control area of vmcb12 as KVM cached it at VMRUN, and vmcb01's save area. */
export class SvmNested {
  /** global interrupt flag: STGI, CLGI */
  gif = true;
  /** L1's VMCB; 0 while L1 runs */
  vmcb12_gpa = 0;
  /** intercept words 0..5 of vmcb12 */
  readonly intercepts = new Uint32Array(6);
  iopm_base_pa = 0;
  msrpm_base_pa = 0;
  nested_ctl = 0n;
  nested_cr3 = 0n;
  int_ctl = 0;
  tlb_ctl = 0;
  event_inj = 0;
  event_inj_err = 0;
  /** vmcb01.save: L1's registers at VMRUN */
  readonly l1 = new CpuState();
  /** the VMCB that L2 ran on when an SMI came; 0: none */
  smm_vmcb12_gpa = 0;
  /** vmcb02: the last exit of L2 */
  exit: SvmExitInfo = noExit();

  get npt(): boolean {
    return (this.nested_ctl & SVM_NESTED_CTL_NP_ENABLE) !== 0n;
  }

  /** vmcb12_is_intercept(): intercepts are numbered like the exits they cause. */
  intercepted(exit_code: number): boolean {
    const word = exit_code >>> 5;
    return word < 6 && ((this.intercepts[word] >>> (exit_code & 31)) & 1) === 1;
  }
}

/** nested_svm_get_tdp_cr3() */
export const nested_svm_get_tdp_cr3 = (n: SvmNested): bigint => n.nested_cr3;

/** kvm_vcpu_map(): the VMCB behind a guest-physical address, or null where no memory is. */
function map_vmcb(vcpu: KvmVcpu, gpa: bigint): Vmcb | null {
  const m = vcpu.kvm.machine;
  if (gpa & PAGE_MASK || gpa >> BigInt(vcpu.maxphyaddr)) return null;
  const hpa = kvm_gpa_to_hpa(m, kvm_vcpu_gfn_to_memslot(vcpu, Number(gpa >> 12n)), Number(gpa), true);
  return hpa < 0 ? null : new Vmcb(m.mem, hpa);
}

/** nested_svm_check_permissions(): SVM instructions need EFER.SVME, paging and CPL 0. @returns false: an exception is queued */
function nested_svm_check_permissions(vcpu: KvmVcpu): boolean {
  const s = vcpu.regs;
  if (!(s.efer & EFER.SVME) || !s.paging) kvm_multiple_exception(vcpu, 6, null, null);
  else if (s.cpl !== 0) kvm_multiple_exception(vcpu, 13, 0, null);
  else return true;
  return false;
}

/** Instructions of SVM with a handler of their own. */
type SvmInsn = 'vmrun' | 'vmload' | 'vmsave' | 'stgi' | 'clgi' | 'invlpga';

/** vmrun_interception(), vmload_interception() and the rest. @returns 1: the guest goes on */
export function svm_instruction_interception(vcpu: KvmVcpu, exit: VmExit, op: Op): number {
  const m = vcpu.kvm.machine;
  const n = vcpu.nested;
  if (op === 'vmmcall') {
    enter(m, 'kvm_emulate_hypercall', vcpu.vcpu_id, vcpu.regs);
    // -KVM_ENOSYS: the model offers no hypercall.
    vcpu.regs.gpr[0] = BigInt.asUintN(64, -1000n);
    skip_emulated_instruction(vcpu, exit);
    leave(m);
    return 1;
  }
  if (!(n instanceof SvmNested) || op === 'skinit') {
    kvm_multiple_exception(vcpu, 6, null, null);
    return 1;
  }
  enter(m, `${op as SvmInsn}_interception`, vcpu.vcpu_id, vcpu.regs);
  if (nested_svm_check_permissions(vcpu)) {
    if (op === 'vmrun') nested_svm_vmrun(vcpu, n, exit);
    else if (op === 'vmload' || op === 'vmsave') vmload_vmsave(vcpu, exit, op);
    else {
      if (op === 'stgi' || op === 'clgi') n.gif = op === 'stgi';
      else if (op === 'invlpga') kvm_x86_flush_tlb_gva(vcpu, exit.address ?? 0n);
      skip_emulated_instruction(vcpu, exit);
    }
  }
  leave(m);
  return 1;
}

/** vmload_vmsave_interception() */
function vmload_vmsave(vcpu: KvmVcpu, exit: VmExit, op: 'vmload' | 'vmsave'): void {
  const s = vcpu.regs;
  const vmcb12 = map_vmcb(vcpu, s.gpr[0]);
  if (!vmcb12) {
    kvm_multiple_exception(vcpu, 13, 0, null);
    return;
  }
  skip_emulated_instruction(vcpu, exit);
  for (const name of ['fs', 'gs', 'tr', 'ldtr'] as const)
    if (op === 'vmload') s[name] = vmcb12.segment(name);
    else vmcb12.setSegment(name, s[name]);
  for (const [field, msr] of VMLOAD_MSRS)
    if (op === 'vmload') s.msrs.set(msr, vmcb12.get(field));
    else vmcb12.set(field, s.msrs.get(msr) ?? 0n);
}

/** nested_svm_vmrun(): checks vmcb12, keeps L1's state, enters L2. */
function nested_svm_vmrun(vcpu: KvmVcpu, n: SvmNested, exit: VmExit): void {
  const m = vcpu.kvm.machine;
  const vmcb12_gpa = vcpu.regs.gpr[0];
  enter(m, 'nested_svm_vmrun', vcpu.vcpu_id, n);
  const vmcb12 = map_vmcb(vcpu, vmcb12_gpa);
  if (!vmcb12) kvm_multiple_exception(vcpu, 13, 0, null);
  else {
    skip_emulated_instruction(vcpu, exit);
    nested_copy_vmcb_control_to_cache(n, vmcb12);
    const why = nested_vmcb_check(vcpu, n, vmcb12);
    if (why) {
      m.warn(`VMRUN of the VMCB at gpa 0x${vmcb12_gpa.toString(16)} is refused: ${why}`);
      vmcb12.set('exit_code', SVM_EXIT.ERR);
      vmcb12.set('exit_code_hi', 0);
      vmcb12.set('exit_info_1', 0);
      vmcb12.set('exit_info_2', 0);
    } else {
      n.l1.copyFrom(vcpu.regs);
      enter_svm_guest_mode(vcpu, n, Number(vmcb12_gpa), vmcb12);
    }
  }
  leave(m);
}

/** nested_copy_vmcb_control_to_cache(): L1 may change its VMCB while L2 runs, and it must not matter. */
function nested_copy_vmcb_control_to_cache(n: SvmNested, vmcb12: Vmcb): void {
  n.intercepts[0] = vmcb12.num('intercept_cr');
  n.intercepts[1] = vmcb12.num('intercept_dr');
  n.intercepts[2] = vmcb12.num('intercept_exceptions');
  n.intercepts[3] = vmcb12.num('intercept_word3');
  n.intercepts[4] = vmcb12.num('intercept_word4');
  n.intercepts[5] = vmcb12.num('intercept_word5');
  n.iopm_base_pa = Number(vmcb12.get('iopm_base_pa') & ~PAGE_MASK & 0xfffffffffffffn);
  n.msrpm_base_pa = Number(vmcb12.get('msrpm_base_pa') & ~PAGE_MASK & 0xfffffffffffffn);
  n.nested_ctl = vmcb12.get('nested_ctl');
  n.nested_cr3 = vmcb12.get('nested_cr3');
  n.int_ctl = vmcb12.num('int_ctl');
  n.tlb_ctl = vmcb12.num('tlb_ctl');
  n.event_inj = vmcb12.num('event_inj');
  n.event_inj_err = vmcb12.num('event_inj_err');
}

/** nested_vmcb_check_controls() and nested_vmcb_check_save(). @returns what is wrong, or null (APM vol. 2 15.5.1) */
function nested_vmcb_check(vcpu: KvmVcpu, n: SvmNested, vmcb12: Vmcb): string | null {
  const m = vcpu.kvm.machine;
  const cr0 = vmcb12.get('cr0');
  const cr3 = vmcb12.get('cr3');
  const cr4 = vmcb12.get('cr4');
  const efer = vmcb12.get('efer');
  if (!(efer & EFER.SVME)) return 'EFER.SVME is clear';
  if ((cr0 & CR0.CD) === 0n && cr0 & CR0.NW) return 'CR0.NW is set without CR0.CD';
  if (cr0 >> 32n || cr4 >> 32n) return 'bits 63:32 of CR0 or CR4 are set';
  if (efer & EFER.LME && cr0 & CR0.PG) {
    if (!(cr4 & CR4.PAE)) return 'EFER.LME and CR0.PG need CR4.PAE';
    if (!(cr0 & CR0.PE)) return 'EFER.LME and CR0.PG need CR0.PE';
    if (cr3 >> BigInt(vcpu.maxphyaddr)) return 'CR3 has reserved bits set';
  }
  if (!n.intercepted(SVM_EXIT.VMRUN)) return 'VMRUN is not intercepted';
  if (vmcb12.num('asid') === 0) return 'the ASID is 0';
  if (n.npt && !m.tdpEnabled) return 'nested paging is asked for, but the host runs without it';
  return null;
}

/** Length of VMRUN. */
const VMRUN_BYTES = 3n;

/** enter_svm_guest_mode() */
function enter_svm_guest_mode(vcpu: KvmVcpu, n: SvmNested, vmcb12_gpa: number, vmcb12: Vmcb, how = 'VMRUN'): void {
  const m = vcpu.kvm.machine;
  enter(m, 'enter_svm_guest_mode', vcpu.vcpu_id, n);
  const word = (i: number): number => n.intercepts[i] >>> 0;
  emit(m, (o) => {
    o.event({
      kind: 'kvm_nested_vmenter',
      vcpu: vcpu.vcpu_id,
      rip: m.caps.nestedVmrunRip === 'next' ? vcpu.regs.rip : vcpu.regs.rip - VMRUN_BYTES,
      vmcb: BigInt(vmcb12_gpa),
      nested_rip: vmcb12.get('rip'),
      int_ctl: n.int_ctl,
      event_inj: n.event_inj,
      tdp_enabled: n.npt ? 1 : 0,
      guest_pgd: n.npt ? n.nested_cr3 : vmcb12.get('cr3'),
    });
    o.event({
      kind: 'kvm_nested_intercepts',
      vcpu: vcpu.vcpu_id,
      cr_read: word(0) & 0xffff,
      cr_write: word(0) >>> 16,
      exceptions: word(2),
      intercept1: word(3),
      intercept2: word(4),
      intercept3: word(5),
    });
  });
  n.vmcb12_gpa = vmcb12_gpa;
  enter(m, 'nested_vmcb02_prepare_control', vcpu.vcpu_id, n);
  if (m.caps.nestedNptGuestMode) enter_guest_mode(vcpu);
  if (n.npt) nested_svm_init_mmu_context(vcpu, n);
  nested_svm_transition_tlb_flush(vcpu);
  if (!m.caps.nestedNptGuestMode) enter_guest_mode(vcpu);
  leave(m);

  enter(m, 'nested_vmcb02_prepare_save', vcpu.vcpu_id, vcpu.regs);
  const s = vcpu.regs;
  vmcb12.loadVmrunState(s);
  if (s.efer & EFER.LME && s.cr0 & CR0.PG) s.efer |= EFER.LMA;
  leave(m);
  const ok = nested_svm_load_cr3(vcpu, s.cr3, n.npt, true);
  n.exit = noExit();
  if (n.event_inj & VALID) vcpu.processor.inject = injected(n);
  m.load_mmu_pgd(vcpu);
  announce(vcpu, 'l2_enter', how);
  if (!ok) {
    n.exit.code = SVM_EXIT.ERR;
    nested_svm_vmexit(vcpu, n, 'VMEXIT_INVALID');
  }
  leave(m);
}

/** The event that L1 injects at VMRUN (EVENTINJ, APM vol. 2 15.20). */
function injected(n: SvmNested): GuestEvent {
  return {
    vector: n.event_inj & 0xff,
    type: (n.event_inj >>> 8) & 7,
    errorCode: n.event_inj & 0x800 ? n.event_inj_err : null,
    insnLen: 0,
  };
}

/** nested_svm_init_mmu_context(): guest_mmu shadows L1's nested page tables, nested_mmu walks L2's own. */
function nested_svm_init_mmu_context(vcpu: KvmVcpu, n: SvmNested): void {
  const m = vcpu.kvm.machine;
  enter(m, 'nested_svm_init_mmu_context', vcpu.vcpu_id, vcpu.guest_mmu);
  vcpu.mmu = vcpu.guest_mmu;
  kvm_init_shadow_npt_mmu(vcpu, n.l1, n.nested_cr3);
  vcpu.mmu.get_guest_pgd = 'nested_svm_get_tdp_cr3';
  vcpu.mmu.inject_page_fault = 'nested_svm_inject_npf_exit';
  vcpu.walk_mmu = vcpu.nested_mmu;
  leave(m);
}

/** nested_svm_uninit_mmu_context() */
function nested_svm_uninit_mmu_context(vcpu: KvmVcpu): void {
  vcpu.mmu = vcpu.root_mmu;
  vcpu.walk_mmu = vcpu.root_mmu;
}

/** nested_svm_transition_tlb_flush(): KVM does not track ASIDs of L1, so each transition is a flush. */
function nested_svm_transition_tlb_flush(vcpu: KvmVcpu): void {
  kvm_make_request('MMU_SYNC', vcpu);
  kvm_make_request('TLB_FLUSH_CURRENT', vcpu);
}

/** nested_svm_load_cr3() for either direction; the registers are those of the side that runs next. @returns false: bad PDPTEs */
function nested_svm_load_cr3(vcpu: KvmVcpu, cr3: bigint, nested_npt: boolean, reload_pdptrs: boolean): boolean {
  const m = vcpu.kvm.machine;
  enter(m, 'nested_svm_load_cr3', vcpu.vcpu_id, vcpu.regs);
  const s = vcpu.regs;
  const pae = s.paging && (s.cr4 & CR4.PAE) !== 0n && !s.longModeActive;
  let ok = true;
  if (reload_pdptrs && !nested_npt && pae) ok = load_pdptrs(vcpu, cr3);
  if (ok) {
    s.cr3 = cr3;
    kvm_init_mmu(vcpu);
    if (!nested_npt) kvm_mmu_new_pgd(vcpu, cr3);
  }
  leave(m);
  return ok;
}

/**
 * nested_svm_exit_special() and nested_svm_exit_handled(): who handles an exit of L2.
 * @returns true: L1 does, and the vCPU runs L1 again
 */
export function nested_svm_exit(vcpu: KvmVcpu, n: SvmNested, exit: VmExit, info: SvmExitInfo, name: string): boolean {
  const m = vcpu.kvm.machine;
  n.exit = info;
  // What KVM intercepts for itself it looks at first: nested page faults and the exceptions of shadow paging.
  if (info.code === SVM_EXIT.NPF || info.code === SVM_EXIT.INTR || info.code === SVM_EXIT.NMI) return false;
  const exception = info.code - SVM_EXIT.EXCP_BASE;
  if (exception >= 0 && exception < 32 && (exception === 6 || (exception === 14 && !m.tdpEnabled))) return false;
  enter(m, 'nested_svm_exit_handled', vcpu.vcpu_id, n);
  const l1 = nested_svm_intercept(vcpu, n, exit, info);
  if (l1) nested_svm_vmexit(vcpu, n, name);
  leave(m);
  return l1;
}

/** nested_svm_intercept(): what L1 asked for, port by port and MSR by MSR. */
function nested_svm_intercept(vcpu: KvmVcpu, n: SvmNested, exit: VmExit, info: SvmExitInfo): boolean {
  if (info.code === SVM_EXIT.ERR) return true;
  if (!n.intercepted(info.code)) return false;
  if (info.code === SVM_EXIT.IOIO && exit.io) {
    const { port, size } = exit.io;
    const bits = kvm_vcpu_read_guest(vcpu, n.iopm_base_pa + (port >> 3), 2);
    return bits === null || ((Number(bits) >> (port & 7)) & ((1 << size) - 1)) !== 0;
  }
  if (info.code === SVM_EXIT.MSR && exit.msr) {
    const at = msrpm_offset(exit.msr.index);
    if (at === null) return true;
    const byte = kvm_vcpu_read_guest(vcpu, n.msrpm_base_pa + (at >> 3), 1);
    return byte === null || ((Number(byte) >> (at & 7)) & (exit.msr.write ? 2 : 1)) !== 0;
  }
  return true;
}

/** Bit number of an MSR's read bit in the MSR permission map (APM vol. 2 15.11), null for MSRs that it does not cover. */
function msrpm_offset(msr: number): number | null {
  const ranges = [0, 0xc0000000, 0xc0010000];
  const i = ranges.findIndex((base) => msr >= base && msr < base + 0x2000);
  return i < 0 ? null : i * 0x4000 + 2 * (msr - ranges[i]);
}

/** nested_svm_inject_npf_exit(): the fault is in L1's nested page tables. */
export function nested_svm_inject_npf_exit(vcpu: KvmVcpu, error_code: number, address: bigint): void {
  const m = vcpu.kvm.machine;
  const n = vcpu.nested;
  if (!(n instanceof SvmNested)) return;
  enter(m, 'nested_svm_inject_npf_exit', vcpu.vcpu_id, n);
  if (n.exit.code !== SVM_EXIT.NPF) {
    // KVM met the fault while it emulated; the kernel always says "final address" then.
    n.exit = { ...n.exit, code: SVM_EXIT.NPF, info1: 1n << 32n, info2: address };
  }
  n.exit.info1 = (n.exit.info1 & ~0xffffffffn) | BigInt(error_code);
  nested_svm_vmexit(vcpu, n, 'npf');
  leave(m);
}

/** nested_svm_vmexit(): vmcb12 gets L2's state and the exit, the vCPU gets L1's state back. */
export function nested_svm_vmexit(vcpu: KvmVcpu, n: SvmNested, name: string): void {
  const m = vcpu.kvm.machine;
  enter(m, 'nested_svm_vmexit', vcpu.vcpu_id, n);
  const s = vcpu.regs;
  const vmcb12 = map_vmcb(vcpu, BigInt(n.vmcb12_gpa));
  leave_guest_mode(vcpu);
  n.vmcb12_gpa = 0;
  if (n.exit.code !== SVM_EXIT.ERR) nested_save_pending_event_to_vmcb12(vcpu, n);
  if (vmcb12) {
    vmcb12.storeVmrunState(s);
    vmcb12.set('int_state', 0);
    vmcb12.set('exit_code', n.exit.code);
    vmcb12.set('exit_code_hi', 0);
    vmcb12.set('exit_info_1', n.exit.info1);
    vmcb12.set('exit_info_2', n.exit.info2);
    vmcb12.set('exit_int_info', n.exit.intInfo);
    vmcb12.set('exit_int_info_err', n.exit.intInfoErr);
    vmcb12.set('int_ctl', n.int_ctl);
    vmcb12.set('tlb_ctl', n.tlb_ctl);
    vmcb12.set('event_inj', n.event_inj);
    vmcb12.set('event_inj_err', n.event_inj_err);
  } else kvm_multiple_exception(vcpu, 13, 0, null);
  n.gif = false;
  restore_l1(s, n.l1);
  const e = n.exit;
  emit(m, (o) =>
    o.event({
      kind: 'kvm_nested_vmexit_inject',
      vcpu: vcpu.vcpu_id,
      exit_code: e.code,
      exit_info1: e.info1,
      exit_info2: e.info2,
      exit_int_info: e.intInfo,
      exit_int_info_err: e.intInfoErr,
    }),
  );
  nested_svm_transition_tlb_flush(vcpu);
  nested_svm_uninit_mmu_context(vcpu);
  m.registersChanged(vcpu);
  nested_svm_load_cr3(vcpu, n.l1.cr3, false, true);
  vcpu.exception = null;
  vcpu.exception_vmexit = null;
  vcpu.processor.inject = null;
  m.load_mmu_pgd(vcpu);
  announce(vcpu, 'l2_exit', name);
  leave(m);
}

/** nested_save_pending_event_to_vmcb12(): an event whose delivery the exit cut short is L1's to inject again. */
function nested_save_pending_event_to_vmcb12(vcpu: KvmVcpu, n: SvmNested): void {
  const e = vcpu.exception;
  if (!e?.injected) return;
  n.exit.intInfo = eventInfo({ vector: e.vector, type: EVENT_TYPE.EXCEPTION, errorCode: e.errorCode });
  n.exit.intInfoErr = e.errorCode ?? 0;
}

/** What #VMEXIT loads of L1's state (APM vol. 2 15.6); the rest stays as L2 left it. */
function restore_l1(s: CpuState, l1: CpuState): void {
  for (const name of ['es', 'cs', 'ss', 'ds'] as const) s[name] = { ...l1[name] };
  Object.assign(s.gdtr, l1.gdtr);
  Object.assign(s.idtr, l1.idtr);
  s.rflags = l1.rflags;
  s.efer = l1.efer;
  s.cr0 = l1.cr0 | CR0.PE;
  s.cr3 = l1.cr3;
  s.cr4 = l1.cr4;
  s.gpr[0] = l1.gpr[0];
  s.gpr[4] = l1.gpr[4];
  s.rip = l1.rip;
  s.dr7 = 0x400n;
}

/** svm_leave_nested(): the registers stay, nobody is told. */
export function svm_leave_nested(vcpu: KvmVcpu): void {
  if (!is_guest_mode(vcpu) || !(vcpu.nested instanceof SvmNested)) return;
  vcpu.nested.vmcb12_gpa = 0;
  leave_guest_mode(vcpu);
  nested_svm_uninit_mmu_context(vcpu);
  vcpu.exception_vmexit = null;
  announce(vcpu, 'l2_exit', 'reset');
}

/** svm_enter_smm(): nobody in L1 sees this exit; RSM undoes it. */
export function svm_enter_smm(vcpu: KvmVcpu, n: SvmNested): void {
  n.smm_vmcb12_gpa = 0;
  if (!is_guest_mode(vcpu)) return;
  n.smm_vmcb12_gpa = n.vmcb12_gpa;
  n.exit = { ...noExit(), code: SVM_EXIT.SW };
  nested_svm_vmexit(vcpu, n, 'SMI');
}

/** svm_leave_smm() */
export function svm_leave_smm(vcpu: KvmVcpu, n: SvmNested): void {
  const gpa = n.smm_vmcb12_gpa;
  n.smm_vmcb12_gpa = 0;
  const vmcb12 = gpa === 0 ? null : map_vmcb(vcpu, BigInt(gpa));
  if (!vmcb12) return;
  nested_copy_vmcb_control_to_cache(n, vmcb12);
  n.event_inj = 0;
  enter_svm_guest_mode(vcpu, n, gpa, vmcb12, 'RSM');
}

/** nested_svm_is_exception_vmexit() */
export const nested_svm_check_exception = (n: SvmNested, vector: number): boolean =>
  n.intercepted(SVM_EXIT.EXCP_BASE + vector);

/** svm_check_nested_events(): nested_svm_inject_exception_vmexit(). */
export function svm_check_nested_events(vcpu: KvmVcpu, n: SvmNested): void {
  const e = vcpu.exception_vmexit;
  if (!e) return;
  const m = vcpu.kvm.machine;
  enter(m, 'nested_svm_inject_exception_vmexit', vcpu.vcpu_id, e);
  vcpu.exception_vmexit = null;
  n.exit = {
    code: SVM_EXIT.EXCP_BASE + e.vector,
    info1: BigInt(e.errorCode ?? 0),
    info2: e.vector === 14 ? (e.payload ?? vcpu.regs.cr2) : 0n,
    intInfo: 0,
    intInfoErr: 0,
  };
  nested_svm_vmexit(vcpu, n, `excp_${e.vector}`);
  leave(m);
}

/** nested_svm_triple_fault() */
export function nested_svm_triple_fault(vcpu: KvmVcpu, n: SvmNested): void {
  if (!n.intercepted(SVM_EXIT.SHUTDOWN)) return;
  vcpu.requests.delete('TRIPLE_FAULT');
  n.exit = { ...noExit(), code: SVM_EXIT.SHUTDOWN };
  nested_svm_vmexit(vcpu, n, 'shutdown');
}

/** recalc_intercepts(): L1's intercepts besides KVM's own; VMMCALL is L1's alone. */
export function nested_svm_merge_intercepts(n: SvmNested, c: Intercepts): void {
  c.crRead |= n.intercepts[0] & 0xffff;
  c.crWrite |= n.intercepts[0] >>> 16;
  c.exceptions |= n.intercepts[2];
  if (n.intercepted(SVM_EXIT.CR0_SEL_WRITE)) c.cr0SelectiveWrite = true;
  if (n.intercepted(SVM_EXIT.MSR)) c.msrPassthrough = new Set();
  const insns = new Set(c.insns);
  insns.delete('vmmcall');
  for (const [op, code] of SVM_INSN_EXITS) if (n.intercepted(code)) insns.add(op);
  c.insns = insns;
}
