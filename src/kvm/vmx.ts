/**
 * arch/x86/kvm/vmx/vmx.c: VM exits of Intel processors, as far as they concern the MMU.
 * Facts: reference kvm-mmu-model.md 12.1, 23.4, 27; error-codes.json (conversions).
 */
import type { VmExit } from '../hw/exits';
import { SPPQ_MISS } from '../hw/spp';
import { CR0 } from '../hw/regs';
import { emit, enter, leave } from './observer';
import type { Machine } from './machine';
import { kvm_set_memory_region } from './kvm_main';
import { is_guest_mode, type KvmVcpu } from './kvm_host';
import { VMX_INSN_EXITS } from '../hw/vmcs';
import { VmxNested } from './vmx_nested_state';
import { nested_vmx_cr_value } from './vmx_nested_wants';
import { nested_vmx_reflect_vmexit } from './vmx_nested';
import { handle_vmx_instruction } from './vmx_nested_insns';
import { complete_pio, exitEvent, guestFaultEvent, kvm_emulate_msr, skip_emulated_instruction } from './exits';
import { TRAP_UD, x86_emulate_instruction } from './emulate';
import {
  kvm_mmu_page_fault,
  PFERR_FETCH,
  PFERR_GUEST_FINAL_HI,
  PFERR_GUEST_PAGE_HI,
  PFERR_PRESENT,
  PFERR_RSVD,
  PFERR_USER,
  PFERR_WRITE,
} from './mmu/page_fault';
import { kvm_set_cr0, kvm_set_cr3, kvm_set_cr4 } from './x86_regs';
import { vmx_flush_pml_buffer } from './pml';
import { tdp_has_smep } from './mmu/calc_role';
import { kvm_mmu_invlpg } from './mmu/invlpg';
import { kvm_spp_setup_structure } from './mmu/spp';
import { kvm_handle_page_fault } from './mmu/handle_page_fault';
import { pseudoDone } from './guest_work';
import { haltExit, userExit } from './kvm_run';
import { kvm_multiple_exception } from './x86_exceptions';

/** Basic exit reasons (SDM vol. 3D appendix C) with the names that kvm_exit prints. */
const REASON: Record<VmExit['kind'], [number, string]> = {
  exception: [0, 'EXCEPTION_NMI'],
  shutdown: [2, 'TRIPLE_FAULT'],
  hlt: [12, 'HLT'],
  invlpg: [14, 'INVLPG'],
  rsm: [0, 'EXCEPTION_NMI'],
  cr_access: [28, 'CR_ACCESS'],
  io: [30, 'IO_INSTRUCTION'],
  msr: [32, 'MSR_WRITE'],
  ept_violation: [48, 'EPT_VIOLATION'],
  ept_misconfig: [49, 'EPT_MISCONFIG'],
  pml_full: [62, 'PML_FULL'],
  spp: [66, 'SPP_EVENT'],
  npf: [0, 'NPF'],
  insn: [18, 'VMCALL'],
  done: [0, 'done'],
};

const IO_QUAL = (exit: VmExit): bigint => {
  const io = exit.io;
  if (!io) return 0n;
  return (BigInt(io.port) << 16n) | (io.imm ? 1n << 6n : 0n) | (io.write ? 0n : 1n << 3n) | BigInt(io.size - 1);
};

/** TSS_PRIVATE_MEMSLOT: three pages that only KVM knows of. */
export function vmx_set_tss_addr(m: Machine, addr: number): void {
  const pages = m.backing('kvm-tss', 0x3000);
  // __x86_set_memory_region() puts a private slot into every address space.
  for (const { as_id } of m.kvm.memslots)
    kvm_set_memory_region(
      m.kvm,
      { as_id, id: m.caps.userMemSlots, flags: 0, gpa: addr, size: 0x3000, hva: pages.hva },
      true,
    );
}

/**
 * vmx_emulation_required(): without EPT a guest cannot run unrestricted, so real mode runs as virtual-8086 mode; where its segments do
 * not look like that (SMM handlers with their 4 GiB limits), KVM emulates instruction by instruction.
 */
export function vmx_emulation_required(vcpu: KvmVcpu): boolean {
  const m = vcpu.kvm.machine;
  if (m.config.vendor !== 'intel' || m.tdpEnabled || vcpu.regs.cr0 & CR0.PE) return false;
  const s = vcpu.regs;
  return [s.cs, s.ss, s.ds, s.es, s.fs, s.gs].some(
    (seg) => seg.base !== BigInt(seg.selector) << 4n || seg.limit !== 0xffff,
  );
}

/** handle_invalid_guest_state(). @returns as {@link handle_exit_vmx} */
export function handle_invalid_guest_state(vcpu: KvmVcpu, proceed: () => boolean): number {
  const m = vcpu.kvm.machine;
  enter(m, 'handle_invalid_guest_state', vcpu.vcpu_id, vcpu.regs);
  let r = 1;
  while (r > 0 && vmx_emulation_required(vcpu) && proceed()) r = x86_emulate_instruction(vcpu, 0n, null);
  leave(m);
  return r;
}

/** Exit reason and its name. */
function reasonOf(exit: VmExit): readonly [number, string] {
  if (exit.kind === 'msr' && exit.msr && !exit.msr.write) return [31, 'MSR_READ'];
  const insn = exit.kind === 'insn' ? VMX_INSN_EXITS.find(([op]) => op === exit.insn?.op) : undefined;
  return insn ? [insn[1], insn[2]] : REASON[exit.kind];
}

/** vmx_handle_exit(). @returns 1 resume, 0 user space, negative errno */
export function handle_exit_vmx(vcpu: KvmVcpu, exit: VmExit): number {
  const m = vcpu.kvm.machine;
  const [reason, name] = reasonOf(exit);
  const qual =
    exit.kind === 'ept_violation' || exit.kind === 'spp'
      ? (BigInt(exit.codeHi) << 32n) | BigInt(exit.codeLo)
      : exit.kind === 'io'
        ? IO_QUAL(exit)
        : exit.kind === 'cr_access' && exit.cr
          ? BigInt(exit.cr.n | (exit.cr.write ? 0 : 1 << 4) | (Math.max(exit.cr.reg, 0) << 8))
          : exit.kind === 'exception' && exit.exception?.vector === 14
            ? (exit.gva ?? 0n)
            : exit.kind === 'invlpg'
              ? (exit.address ?? 0n)
              : 0n;
  exitEvent(vcpu, exit, reason, name, qual);
  enter(m, 'vmx_handle_exit', vcpu.vcpu_id, exit);
  enter(m, '__vmx_handle_exit', vcpu.vcpu_id, exit);
  // The log is emptied at every exit, so that it is seldom full and the bitmaps lag no further than one run of the guest.
  if (!is_guest_mode(vcpu)) vmx_flush_pml_buffer(vcpu);
  const r = handledByL1() ? 1 : dispatch();
  leave(m);
  leave(m);
  return r;

  function handledByL1(): boolean {
    const n = vcpu.nested;
    if (!is_guest_mode(vcpu) || !(n instanceof VmxNested)) return false;
    exitEvent(vcpu, exit, reason, name, qual, undefined, 'kvm_nested_vmexit');
    return nested_vmx_reflect_vmexit(vcpu, n, exit, { reason, name, qualification: qual });
  }

  function dispatch(): number {
    switch (exit.kind) {
      case 'ept_violation':
        return handle_ept_violation(vcpu, exit, qual);
      case 'ept_misconfig':
        return handle_ept_misconfig(vcpu, exit);
      case 'spp':
        return handle_spp(vcpu, exit, qual);
      case 'pml_full':
        // Emptying the log was all there is to do; the write is made again.
        enter(m, 'handle_pml_full', vcpu.vcpu_id, exit);
        leave(m);
        return 1;
      case 'exception':
        return handle_exception_nmi(vcpu, exit);
      case 'rsm':
        return handle_ud(vcpu);
      case 'io':
        return complete_pio(vcpu, exit, 'handle_io');
      case 'hlt':
        vcpu.regs.rip += BigInt(exit.insn?.len ?? 0);
        pseudoDone(m, exit.insn);
        return haltExit(vcpu);
      case 'shutdown':
        userExit(m, { reason: 'shutdown' });
        return 0;
      case 'cr_access':
        return handle_cr(vcpu, exit);
      case 'msr':
        return kvm_emulate_msr(vcpu, exit);
      case 'invlpg':
        enter(m, 'handle_invlpg', vcpu.vcpu_id, null);
        kvm_mmu_invlpg(vcpu, exit.address ?? 0n);
        skip_emulated_instruction(vcpu, exit);
        leave(m);
        return 1;
      case 'insn':
        if (exit.insn) return handle_vmx_instruction(vcpu, exit, exit.insn);
        kvm_multiple_exception(vcpu, 6, null, null);
        return 1;
      default:
        kvm_multiple_exception(vcpu, 6, null, null);
        return 1;
    }
  }
}

/** handle_ept_violation(): qualification to PFERR, by the rules of the era. */
function handle_ept_violation(vcpu: KvmVcpu, exit: VmExit, qual: bigint): number {
  const m = vcpu.kvm.machine;
  const q = exit.codeLo;
  guestFaultEvent(vcpu, exit, 'ept_violation', qual, (q & 2) !== 0, (q & 4) !== 0, false);
  enter(m, 'handle_ept_violation', vcpu.vcpu_id, exit);
  emit(m, (o) =>
    o.event({
      kind: 'kvm_page_fault',
      vcpu: vcpu.vcpu_id,
      guest_rip: vcpu.regs.rip,
      fault_address: BigInt(exit.gpa),
      error_code: qual,
    }),
  );
  vcpu.exit_qualification = qual;
  let err = 0;
  if (m.caps.eptReadSetsUser && q & 1) err |= PFERR_USER;
  if (q & 2) err |= PFERR_WRITE;
  if (q & 4) err |= PFERR_FETCH;
  m.exitInsnLength = exit.insn?.len ?? 0;
  const rights = (m.caps.eptPresentBits === 'any' ? 0x38 : 0x08) | (tdp_has_smep(m) ? 0x40 : 0);
  if (q & rights) err |= PFERR_PRESENT;
  const hi = m.caps.guestFinalBits ? (q & 0x100 ? PFERR_GUEST_FINAL_HI : PFERR_GUEST_PAGE_HI) : 0;
  enter(m, '__vmx_handle_ept_violation', vcpu.vcpu_id, exit);
  const r = kvm_mmu_page_fault(vcpu, (exit.gpa % 0x100000000) >>> 0, Math.floor(exit.gpa / 0x100000000), err, hi);
  leave(m);
  leave(m);
  return r;
}

/** handle_spp() (sub-page permission patches): a miss is answered by filling the SPPT; a misconfiguration ends the run. */
function handle_spp(vcpu: KvmVcpu, exit: VmExit, qual: bigint): number {
  const m = vcpu.kvm.machine;
  const miss = (exit.codeLo & SPPQ_MISS) !== 0;
  guestFaultEvent(vcpu, exit, miss ? 'spp_miss' : 'spp_misconfig', qual, true, false, false);
  enter(m, 'handle_spp', vcpu.vcpu_id, exit);
  if (miss) kvm_spp_setup_structure(vcpu, Math.floor(exit.gpa / 4096));
  else
    userExit(m, {
      reason: 'unknown',
      hardware_exit_reason: 66,
      text: `KVM_EXIT_UNKNOWN: SPP misconfiguration (hardware exit reason 66) at gpa 0x${exit.gpa.toString(16)}: a reserved bit is set in the SPPT`,
    });
  leave(m);
  return miss ? 1 : 0;
}

/** handle_ept_misconfig(): a cached MMIO access, or something broken. */
function handle_ept_misconfig(vcpu: KvmVcpu, exit: VmExit): number {
  const m = vcpu.kvm.machine;
  guestFaultEvent(vcpu, exit, 'ept_misconfig', 0n, m.lastAccessWrite(), false, false);
  enter(m, 'handle_ept_misconfig', vcpu.vcpu_id, exit);
  // No device of the model sits on the fast MMIO bus.
  enter(m, 'kvm_io_bus_write', vcpu.vcpu_id, null);
  leave(m);
  const r = kvm_mmu_page_fault(vcpu, (exit.gpa % 0x100000000) >>> 0, Math.floor(exit.gpa / 0x100000000), PFERR_RSVD, 0);
  leave(m);
  return r;
}

function handle_exception_nmi(vcpu: KvmVcpu, exit: VmExit): number {
  const m = vcpu.kvm.machine;
  const e = exit.exception;
  enter(m, 'handle_exception_nmi', vcpu.vcpu_id, exit);
  let r = 1;
  if (e?.vector === 6) r = handle_ud(vcpu);
  else if (e?.vector === 14) r = kvm_handle_page_fault(vcpu, e.errorCode ?? 0, exit.gva ?? 0n);
  else if (e) kvm_multiple_exception(vcpu, e.vector, e.errorCode, null);
  leave(m);
  return r;
}

/** handle_ud(): the emulator knows instructions that the processor refuses here (RSM). */
function handle_ud(vcpu: KvmVcpu): number {
  const m = vcpu.kvm.machine;
  enter(m, 'handle_ud', vcpu.vcpu_id, null);
  const r = x86_emulate_instruction(vcpu, 0n, TRAP_UD);
  leave(m);
  return r;
}

function handle_cr(vcpu: KvmVcpu, exit: VmExit): number {
  const m = vcpu.kvm.machine;
  const cr = exit.cr;
  if (!cr) return 1;
  enter(m, 'handle_cr', vcpu.vcpu_id, cr);
  let ok = true;
  if (cr.write) {
    if (cr.n === 0) ok = handle_set_cr0(vcpu, cr.value);
    else if (cr.n === 3) ok = kvm_set_cr3(vcpu, cr.value);
    else if (cr.n === 4) ok = handle_set_cr4(vcpu, cr.value);
    else if (cr.n === 8) vcpu.regs.cr8 = cr.value;
  } else if (cr.reg >= 0) {
    const s = vcpu.regs;
    s.gpr[cr.reg] = cr.n === 0 ? s.cr0 : cr.n === 3 ? s.cr3 : cr.n === 4 ? s.cr4 : s.cr8;
  }
  if (ok) skip_emulated_instruction(vcpu, exit);
  else kvm_multiple_exception(vcpu, 13, 0, null);
  leave(m);
  return 1;
}

/** handle_set_cr0(): what L2 reads afterwards is what it wrote, whatever L1 keeps of the register. @returns false for #GP */
function handle_set_cr0(vcpu: KvmVcpu, value: bigint): boolean {
  const m = vcpu.kvm.machine;
  const n = vcpu.nested;
  const l2 = is_guest_mode(vcpu) && n instanceof VmxNested ? n : null;
  enter(m, 'handle_set_cr0', vcpu.vcpu_id, null);
  const ok = kvm_set_cr0(vcpu, l2 ? nested_vmx_cr_value(l2, 0, value) : value);
  if (ok && l2) {
    l2.cr0_read_shadow = value;
    vcpu.processor.intercepts.cr0Shadow = value;
  }
  leave(m);
  return ok;
}

/** handle_set_cr4(): as {@link handle_set_cr0}. */
function handle_set_cr4(vcpu: KvmVcpu, value: bigint): boolean {
  const m = vcpu.kvm.machine;
  const n = vcpu.nested;
  const l2 = is_guest_mode(vcpu) && n instanceof VmxNested ? n : null;
  enter(m, 'handle_set_cr4', vcpu.vcpu_id, null);
  const ok = kvm_set_cr4(vcpu, l2 ? nested_vmx_cr_value(l2, 4, value) : value);
  if (ok && l2) {
    l2.cr4_read_shadow = value;
    vcpu.processor.intercepts.cr4Shadow = value;
  }
  leave(m);
  return ok;
}
