/**
 * The VMX instructions of an L1 hypervisor, each of which exits to KVM (arch/x86/kvm/vmx/nested.c): VMXON to INVVPID, and the checks
 * of VMLAUNCH and VMRESUME. Facts: SDM vol. 3C chapter 30 (instructions), 26 (checks on VM entry); v6.1 for the order.
 */
import type { VmExit } from '../hw/exits';
import type { Insn } from '../hw/insn';
import { readGpr, writeGpr } from '../hw/operands';
import { CR0, CR4, EFER, RFLAGS } from '../hw/regs';
import { VM_ENTRY, VM_EXIT_CTL } from '../hw/vmcs';
import { checkEptp } from '../hw/vmx-pointers';
import { skip_emulated_instruction } from './exits';
import type { FrameName } from './functions';
import { enter, leave } from './observer';
import type { KvmVcpu } from './kvm_host';
import { kvm_vcpu_read_guest, kvm_vcpu_write_guest } from './kvm_main';
import { cplAccess, gva_to_gpa, lastWalk, PFERR_WRITE } from './mmu/paging_tmpl';
import { kvm_mmu_free_guest_mode_roots, kvm_mmu_free_roots } from './mmu/roots';
import { kvm_inject_emulated_page_fault } from './mmu/shadow_fault';
import { VMCS12_LAUNCH_STATE, VMCS12_REVISION, VMCS12_SIZE } from './vmcs12';
import {
  INVALID_VMPTR,
  nested_cpu_has_ept,
  nested_cpu_has_vpid,
  VmxNested,
  VMXON_CR0_ALWAYSON,
  VMXON_CR4_ALWAYSON,
} from './vmx_nested_state';
import { nested_ept_root_matches } from './vmx_nested_ept';
import { nested_vmx_enter_non_root_mode } from './vmx_nested';
import { kvm_multiple_exception } from './x86_exceptions';
import { pseudoDone } from './guest_work';
import { kvm_x86_flush_tlb_guest } from './x86_requests';

/** VM-instruction errors (SDM vol. 3C 30.4). */
const VMXERR = {
  VMCLEAR_INVALID_ADDRESS: 2,
  VMCLEAR_VMXON_POINTER: 3,
  VMLAUNCH_NONCLEAR_VMCS: 4,
  VMRESUME_NONLAUNCHED_VMCS: 5,
  ENTRY_INVALID_CONTROL_FIELD: 7,
  ENTRY_INVALID_HOST_STATE_FIELD: 8,
  VMPTRLD_INVALID_ADDRESS: 9,
  VMPTRLD_VMXON_POINTER: 10,
  VMPTRLD_INCORRECT_VMCS_REVISION_ID: 11,
  UNSUPPORTED_VMCS_COMPONENT: 12,
  VMXON_IN_VMX_ROOT_OPERATION: 15,
  INVALID_OPERAND_TO_INVEPT_INVVPID: 28,
} as const;

/** Controls that must be 1 in what L1 asks for (KVM's TRUE capability MSRs, nested_vmx_setup_ctls_msrs()). */
const MUST_BE_ONE = { pin: 0x16, cpu: 0x04006172, exit: 0x00036dfb, entry: 0x000011fb } as const;
const FLAGS = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF;

/** An instruction that L1 executes; its handler. */
type Handler = (vcpu: KvmVcpu, n: VmxNested, exit: VmExit, insn: Insn) => void;

const HANDLERS: Readonly<Record<string, Handler>> = {
  vmxon: handle_vmon,
  vmxoff: handle_vmoff,
  vmclear: handle_vmclear,
  vmptrld: handle_vmptrld,
  vmptrst: handle_vmptrst,
  vmread: handle_vmread,
  vmwrite: handle_vmwrite,
  vmlaunch: nested_vmx_run,
  vmresume: nested_vmx_run,
  invept: handle_invept,
  invvpid: handle_invvpid,
};
type VmxInsn =
  'vmclear' | 'vmptrld' | 'vmptrst' | 'vmread' | 'vmwrite' | 'vmlaunch' | 'vmresume' | 'invept' | 'invvpid';
/** The kernel's names of the handlers. */
const frameOf = (op: string): FrameName =>
  op === 'vmxon' ? 'handle_vmon' : op === 'vmxoff' ? 'handle_vmoff' : `handle_${op as VmxInsn}`;

/** The exit handlers of VMX instructions, and VMCALL. @returns 1: the guest goes on */
export function handle_vmx_instruction(vcpu: KvmVcpu, exit: VmExit, insn: Insn): number {
  const m = vcpu.kvm.machine;
  const n = vcpu.nested;
  if (insn.op === 'vmcall') {
    enter(m, 'kvm_emulate_hypercall', vcpu.vcpu_id, vcpu.regs);
    // -KVM_ENOSYS: the model offers no hypercall.
    vcpu.regs.gpr[0] = BigInt.asUintN(64, -1000n);
    skip_emulated_instruction(vcpu, exit);
    leave(m);
    return 1;
  }
  const handler = HANDLERS[insn.op];
  if (!handler || !(n instanceof VmxNested)) {
    kvm_multiple_exception(vcpu, 6, null, null);
    return 1;
  }
  enter(m, frameOf(insn.op), vcpu.vcpu_id, n);
  if (insn.op === 'vmxon' || nested_vmx_check_permission(vcpu, n)) handler(vcpu, n, exit, insn);
  leave(m);
  return 1;
}

/** nested_vmx_check_permission(): VMX operation, and CPL 0. */
function nested_vmx_check_permission(vcpu: KvmVcpu, n: VmxNested): boolean {
  if (!n.vmxon) kvm_multiple_exception(vcpu, 6, null, null);
  else if (vcpu.regs.cpl !== 0) kvm_multiple_exception(vcpu, 13, 0, null);
  else return true;
  return false;
}

// ---- How an instruction ends ----

function finish(vcpu: KvmVcpu, exit: VmExit, flags: bigint): void {
  const s = vcpu.regs;
  s.rflags = (s.rflags & ~FLAGS) | flags;
  skip_emulated_instruction(vcpu, exit);
}

const nested_vmx_succeed = (vcpu: KvmVcpu, exit: VmExit): void => finish(vcpu, exit, 0n);
const nested_vmx_failInvalid = (vcpu: KvmVcpu, exit: VmExit): void => finish(vcpu, exit, RFLAGS.CF);

/** nested_vmx_fail(): the error number goes into the current VMCS, if there is one. */
function nested_vmx_fail(vcpu: KvmVcpu, n: VmxNested, exit: VmExit, error: number): void {
  if (n.current_vmptr === INVALID_VMPTR) return nested_vmx_failInvalid(vcpu, exit);
  n.vmcs12.set('vm_instruction_error', error);
  finish(vcpu, exit, RFLAGS.ZF);
}

/**
 * kvm_read_guest_virt(): through the guest's tables, with the rights of the guest.
 * @returns null: the guest gets a #PF, or L1's tables a fault
 */
function kvm_read_guest_virt(vcpu: KvmVcpu, gva: bigint, bytes: number): bigint | null {
  let value = 0n;
  for (let done = 0; done < bytes;) {
    const at = gva + BigInt(done);
    const part = Math.min(bytes - done, 4096 - Number(at & 0xfffn));
    const gpa = gva_to_gpa(vcpu, at, cplAccess(vcpu));
    if (gpa < 0) {
      kvm_inject_emulated_page_fault(vcpu, lastWalk());
      return null;
    }
    const read = kvm_vcpu_read_guest(vcpu, gpa, part);
    // Memory that is not there cannot hold an operand: KVM's emulation fails and the guest gets #UD.
    if (read === null) {
      kvm_multiple_exception(vcpu, 6, null, null);
      return null;
    }
    value |= read << BigInt(8 * done);
    done += part;
  }
  return value;
}

/** The memory operand of an instruction, which a pseudo-instruction has with it. */
function memoryOperand(vcpu: KvmVcpu, exit: VmExit, bytes: 8 | 16): bigint | null {
  const src = exit.insn?.src;
  return src?.kind === 'imm' ? src.value : kvm_read_guest_virt(vcpu, exit.address ?? 0n, bytes);
}

/** nested_vmx_get_vmptr(): the 64-bit operand. */
const nested_vmx_get_vmptr = (vcpu: KvmVcpu, exit: VmExit): bigint | null => memoryOperand(vcpu, exit, 8);

/** page_address_valid() */
const page_address_valid = (vcpu: KvmVcpu, gpa: bigint): boolean =>
  (gpa & 0xfffn) === 0n && gpa >> BigInt(vcpu.maxphyaddr) === 0n;

const revisionAt = (vcpu: KvmVcpu, gpa: bigint): number => Number(kvm_vcpu_read_guest(vcpu, Number(gpa), 4) ?? -1n);

// ---- VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST ----

/** handle_vmon(). The feature-control MSR is taken to be set up by user space. */
function handle_vmon(vcpu: KvmVcpu, n: VmxNested, exit: VmExit): void {
  const s = vcpu.regs;
  if (!(s.cr4 & CR4.VMXE) || !(s.cr0 & CR0.PE) || (s.longModeActive && !s.cs.l)) {
    kvm_multiple_exception(vcpu, 6, null, null);
    return;
  }
  if (s.cpl !== 0) {
    kvm_multiple_exception(vcpu, 13, 0, null);
    return;
  }
  if (n.vmxon) return nested_vmx_fail(vcpu, n, exit, VMXERR.VMXON_IN_VMX_ROOT_OPERATION);
  if ((s.cr0 & VMXON_CR0_ALWAYSON) !== VMXON_CR0_ALWAYSON) {
    kvm_multiple_exception(vcpu, 13, 0, null);
    return;
  }
  const ptr = nested_vmx_get_vmptr(vcpu, exit);
  if (ptr === null) return;
  if (!page_address_valid(vcpu, ptr) || revisionAt(vcpu, ptr) !== VMCS12_REVISION)
    return nested_vmx_failInvalid(vcpu, exit);
  n.vmxon_ptr = Number(ptr);
  n.vmxon = true;
  n.current_vmptr = INVALID_VMPTR;
  nested_vmx_succeed(vcpu, exit);
}

/** handle_vmoff(): free_nested(). */
function handle_vmoff(vcpu: KvmVcpu, n: VmxNested, exit: VmExit): void {
  n.vmxon = false;
  n.vmxon_ptr = INVALID_VMPTR;
  n.current_vmptr = INVALID_VMPTR;
  vcpu.processor.shadowVmcs = null;
  // Nobody finds the roots of L2 again.
  kvm_mmu_free_roots(vcpu, vcpu.guest_mmu, true, () => true);
  nested_vmx_succeed(vcpu, exit);
}

/** nested_release_vmcs12(): the cached VMCS goes back to guest memory. */
function nested_release_vmcs12(vcpu: KvmVcpu, n: VmxNested): void {
  if (n.current_vmptr === INVALID_VMPTR) return;
  const { bytes } = n.vmcs12;
  const view = new DataView(bytes.buffer, bytes.byteOffset, VMCS12_SIZE);
  for (let i = 0; i < VMCS12_SIZE; i += 8)
    kvm_vcpu_write_guest(vcpu, n.current_vmptr + i, 8, view.getBigUint64(i, true));
  // kvm_mmu_free_roots() of guest_mmu, v6.1: a VMCS that is put away may not be used again.
  kvm_mmu_free_roots(vcpu, vcpu.guest_mmu, true, () => true);
  n.current_vmptr = INVALID_VMPTR;
  vcpu.processor.shadowVmcs = null;
}

function handle_vmclear(vcpu: KvmVcpu, n: VmxNested, exit: VmExit): void {
  const ptr = nested_vmx_get_vmptr(vcpu, exit);
  if (ptr === null) return;
  if (!page_address_valid(vcpu, ptr)) return nested_vmx_fail(vcpu, n, exit, VMXERR.VMCLEAR_INVALID_ADDRESS);
  if (Number(ptr) === n.vmxon_ptr) return nested_vmx_fail(vcpu, n, exit, VMXERR.VMCLEAR_VMXON_POINTER);
  if (Number(ptr) === n.current_vmptr) nested_release_vmcs12(vcpu, n);
  kvm_vcpu_write_guest(vcpu, Number(ptr) + VMCS12_LAUNCH_STATE, 4, 0n);
  nested_vmx_succeed(vcpu, exit);
}

function handle_vmptrld(vcpu: KvmVcpu, n: VmxNested, exit: VmExit): void {
  const ptr = nested_vmx_get_vmptr(vcpu, exit);
  if (ptr === null) return;
  if (!page_address_valid(vcpu, ptr)) return nested_vmx_fail(vcpu, n, exit, VMXERR.VMPTRLD_INVALID_ADDRESS);
  if (Number(ptr) === n.vmxon_ptr) return nested_vmx_fail(vcpu, n, exit, VMXERR.VMPTRLD_VMXON_POINTER);
  if (Number(ptr) !== n.current_vmptr) {
    if (revisionAt(vcpu, ptr) !== VMCS12_REVISION)
      return nested_vmx_fail(vcpu, n, exit, VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID);
    nested_release_vmcs12(vcpu, n);
    const view = new DataView(n.vmcs12.bytes.buffer, n.vmcs12.bytes.byteOffset, VMCS12_SIZE);
    for (let i = 0; i < VMCS12_SIZE; i += 8)
      view.setBigUint64(i, kvm_vcpu_read_guest(vcpu, Number(ptr) + i, 8) ?? 0n, true);
    n.current_vmptr = Number(ptr);
    // set_current_vmptr(): with VMCS shadowing most of what L1 reads and writes does not exit.
    vcpu.processor.shadowVmcs = n.vmcs12;
  }
  nested_vmx_succeed(vcpu, exit);
}

function handle_vmptrst(vcpu: KvmVcpu, n: VmxNested, exit: VmExit): void {
  if (exit.insn && !exit.insn.dst) {
    vcpu.regs.loaded = n.current_vmptr === INVALID_VMPTR ? 0xffffffffffffffffn : BigInt(n.current_vmptr);
    return nested_vmx_succeed(vcpu, exit);
  }
  const gpa = gva_to_gpa(vcpu, exit.address ?? 0n, PFERR_WRITE);
  if (gpa < 0) {
    kvm_inject_emulated_page_fault(vcpu, lastWalk());
    return;
  }
  const value = n.current_vmptr === INVALID_VMPTR ? 0xffffffffffffffffn : BigInt(n.current_vmptr);
  kvm_vcpu_write_guest(vcpu, gpa, 8, value);
  nested_vmx_succeed(vcpu, exit);
}

// ---- VMREAD, VMWRITE ----

const fieldOf = (vcpu: KvmVcpu, insn: Insn): number => {
  const o = insn.op === 'vmread' ? insn.src : insn.dst;
  if (o?.kind === 'imm') return Number(o.value);
  return o?.kind === 'reg' ? Number(readGpr(vcpu.regs, o.reg, o.size) & 0xffffffffn) : -1;
};

function handle_vmread(vcpu: KvmVcpu, n: VmxNested, exit: VmExit, insn: Insn): void {
  if (n.current_vmptr === INVALID_VMPTR) return nested_vmx_failInvalid(vcpu, exit);
  const field = fieldOf(vcpu, insn);
  if (!n.vmcs12.has(field)) return nested_vmx_fail(vcpu, n, exit, VMXERR.UNSUPPORTED_VMCS_COMPONENT);
  const value = n.vmcs12.read(field);
  if (!insn.dst) vcpu.regs.loaded = value;
  else if (insn.dst.kind === 'reg') writeGpr(vcpu.regs, insn.dst.reg, insn.dst.size, value);
  else {
    const gpa = gva_to_gpa(vcpu, exit.address ?? 0n, PFERR_WRITE);
    if (gpa < 0) {
      kvm_inject_emulated_page_fault(vcpu, lastWalk());
      return;
    }
    kvm_vcpu_write_guest(vcpu, gpa, insn.opSize, value);
  }
  nested_vmx_succeed(vcpu, exit);
}

function handle_vmwrite(vcpu: KvmVcpu, n: VmxNested, exit: VmExit, insn: Insn): void {
  if (n.current_vmptr === INVALID_VMPTR) return nested_vmx_failInvalid(vcpu, exit);
  let value: bigint | null;
  if (insn.src?.kind === 'imm') ({ value } = insn.src);
  else if (insn.src?.kind === 'reg') value = readGpr(vcpu.regs, insn.src.reg, insn.src.size);
  else value = kvm_read_guest_virt(vcpu, exit.address ?? 0n, insn.opSize);
  if (value === null) return;
  const field = fieldOf(vcpu, insn);
  if (!n.vmcs12.has(field)) return nested_vmx_fail(vcpu, n, exit, VMXERR.UNSUPPORTED_VMCS_COMPONENT);
  n.vmcs12.write(field, value);
  nested_vmx_succeed(vcpu, exit);
}

// ---- VMLAUNCH, VMRESUME ----

/** nested_vmx_run() */
function nested_vmx_run(vcpu: KvmVcpu, n: VmxNested, exit: VmExit, insn: Insn): void {
  const m = vcpu.kvm.machine;
  enter(m, 'nested_vmx_run', vcpu.vcpu_id, n);
  const launch = insn.op === 'vmlaunch';
  run();
  leave(m);

  function run(): void {
    if (n.current_vmptr === INVALID_VMPTR) return nested_vmx_failInvalid(vcpu, exit);
    if (n.vmcs12.launched === launch)
      return nested_vmx_fail(vcpu, n, exit, launch ? VMXERR.VMLAUNCH_NONCLEAR_VMCS : VMXERR.VMRESUME_NONLAUNCHED_VMCS);
    const controls = nested_vmx_check_controls(vcpu, n);
    if (controls) {
      m.warn(`${insn.op.toUpperCase()} fails: ${controls}`);
      return nested_vmx_fail(vcpu, n, exit, VMXERR.ENTRY_INVALID_CONTROL_FIELD);
    }
    const host = nested_vmx_check_host_state(vcpu, n);
    if (host) {
      m.warn(`${insn.op.toUpperCase()} fails: ${host}`);
      return nested_vmx_fail(vcpu, n, exit, VMXERR.ENTRY_INVALID_HOST_STATE_FIELD);
    }
    // The instruction of L1 is over once L2 runs: on the way out L1 goes on at its host RIP.
    pseudoDone(m, insn);
    nested_vmx_enter_non_root_mode(vcpu, n, insn.op.toUpperCase());
  }
}

/** nested_vmx_check_controls(): what is wrong with the control fields, or null. */
function nested_vmx_check_controls(vcpu: KvmVcpu, n: VmxNested): string | null {
  const m = vcpu.kvm.machine;
  const v = n.vmcs12;
  const lacks = (value: number, bits: number): boolean => (value & bits) !== bits;
  if (lacks(v.num('pin_based_vm_exec_control'), MUST_BE_ONE.pin)) return 'a pin-based control that must be 1 is 0';
  if (lacks(v.num('cpu_based_vm_exec_control'), MUST_BE_ONE.cpu))
    return 'a processor-based control that must be 1 is 0';
  if (lacks(v.num('vm_exit_controls'), MUST_BE_ONE.exit)) return 'a VM-exit control that must be 1 is 0';
  if (lacks(v.num('vm_entry_controls'), MUST_BE_ONE.entry)) return 'a VM-entry control that must be 1 is 0';
  if (nested_cpu_has_vpid(n) && v.num('virtual_processor_id') === 0) return 'the VPID is 0';
  if (nested_cpu_has_ept(n)) {
    if (!m.tdpEnabled) return 'EPT is asked for, but the host runs without it';
    const rule = checkEptp(v.get('ept_pointer'), { ...m.cpu, maxphyaddr: vcpu.maxphyaddr });
    if (rule) return `the EPTP 0x${v.get('ept_pointer').toString(16)} breaks ${rule}`;
  }
  const wide = (v.num('vm_exit_controls') & VM_EXIT_CTL.HOST_ADDR_SPACE_SIZE) !== 0;
  if (wide !== ((vcpu.regs.efer & EFER.LMA) !== 0n)) return 'host address-space size differs from EFER.LMA';
  return null;
}

/** nested_vmx_check_host_state() as far as it concerns paging. */
function nested_vmx_check_host_state(vcpu: KvmVcpu, n: VmxNested): string | null {
  const v = n.vmcs12;
  if ((v.get('host_cr0') & VMXON_CR0_ALWAYSON) !== VMXON_CR0_ALWAYSON) return 'host CR0 lacks PE, PG or NE';
  if ((v.get('host_cr4') & VMXON_CR4_ALWAYSON) !== VMXON_CR4_ALWAYSON) return 'host CR4 lacks VMXE';
  if (v.get('host_cr3') >> BigInt(vcpu.maxphyaddr)) return 'host CR3 has reserved bits set';
  const wide = (v.num('vm_exit_controls') & VM_EXIT_CTL.HOST_ADDR_SPACE_SIZE) !== 0;
  if (wide && !(v.get('host_cr4') & CR4.PAE)) return 'a 64-bit host needs CR4.PAE';
  if (!wide && v.num('vm_entry_controls') & VM_ENTRY.IA32E_MODE) return 'a 32-bit host cannot run a 64-bit guest';
  for (const name of ['cs', 'ss', 'ds', 'es', 'fs', 'gs', 'tr'] as const)
    if (v.num(`host_${name}_selector`) & 7) return `the host selector of ${name.toUpperCase()} has RPL or TI set`;
  if (v.num('host_cs_selector') === 0 || v.num('host_tr_selector') === 0) return 'the host selector of CS or TR is 0';
  return null;
}

// ---- INVEPT, INVVPID ----

/** The register operand of INVEPT and INVVPID. */
function invalidationType(vcpu: KvmVcpu, insn: Insn): bigint {
  if (insn.dst?.kind === 'imm') return insn.dst.value;
  return insn.dst?.kind === 'reg' ? readGpr(vcpu.regs, insn.dst.reg, insn.dst.size) : 0n;
}

/** handle_invept(). Without EPT KVM offers L1 none, nor the instruction. */
function handle_invept(vcpu: KvmVcpu, n: VmxNested, exit: VmExit, insn: Insn): void {
  if (!vcpu.kvm.machine.tdpEnabled) return kvm_multiple_exception(vcpu, 6, null, null);
  const type = invalidationType(vcpu, insn);
  if (type !== 1n && type !== 2n) return nested_vmx_fail(vcpu, n, exit, VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
  const operand = memoryOperand(vcpu, exit, 16);
  if (operand === null) return;
  const eptp = operand & 0xffffffffffffffffn;
  const mmu = vcpu.guest_mmu;
  if (type === 1n) {
    if (checkEptp(eptp, { ...vcpu.kvm.machine.cpu, maxphyaddr: vcpu.maxphyaddr }))
      return nested_vmx_fail(vcpu, n, exit, VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
    const current = nested_ept_root_matches(mmu.root, eptp);
    kvm_mmu_free_roots(vcpu, mmu, current, (i) => nested_ept_root_matches(mmu.prev_roots[i], eptp));
  } else kvm_mmu_free_roots(vcpu, mmu, true, () => true);
  nested_vmx_succeed(vcpu, exit);
}

/** handle_invvpid(): KVM gives L2 its own VPID, so L1's are flushed by flushing that. */
function handle_invvpid(vcpu: KvmVcpu, n: VmxNested, exit: VmExit, insn: Insn): void {
  const type = invalidationType(vcpu, insn);
  if (type > 3n) return nested_vmx_fail(vcpu, n, exit, VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
  const operand = memoryOperand(vcpu, exit, 16);
  if (operand === null) return;
  const vpid = operand & 0xffffffffffffffffn;
  if (vpid >> 16n || (type !== 2n && vpid === 0n))
    return nested_vmx_fail(vcpu, n, exit, VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
  const m = vcpu.kvm.machine;
  kvm_x86_flush_tlb_guest(vcpu, 'INVVPID of L1');
  // With shadow paging the cached roots of L2 are dropped, so that the next entry syncs them.
  if (!m.tdpEnabled) kvm_mmu_free_guest_mode_roots(vcpu, vcpu.root_mmu);
  nested_vmx_succeed(vcpu, exit);
}
