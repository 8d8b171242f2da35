/**
 * arch/x86/kvm/smm.c (x86.c before v6.2): entering and leaving system management mode.
 * Facts: reference kvm-mmu-model.md chapter 4; seed 0. Save-area layouts: src/hw/smm-state.ts.
 */
import {
  enterSmmRegisters,
  loadSmram,
  saveSmram,
  SMRAM_32,
  SMRAM_64,
  SMRAM_SAVE_OFFSET,
  SMRAM_SAVE_SIZE,
} from '../hw/smm-state';
import { CR0, CR4, EFER } from '../hw/regs';
import { emit, enter, leave } from './observer';
import { HF_SMM_INSIDE_NMI_MASK, HF_SMM_MASK, is_smm, type KvmVcpu } from './kvm_host';
import { kvm_vcpu_read_guest, kvm_vcpu_write_guest } from './kvm_main';
import { kvm_mmu_reset_context } from './mmu/calc_role';
import { vmx_flush_pml_buffer } from './pml';
import { smm_view_changed } from './smram';
import { nested_enter_smm, nested_leave_smm } from './nested';
import { kvm_make_request } from './x86_requests';
import { read_pdptrs } from './x86_regs';

/** process_smi(): in SMM already, the SMI waits for RSM. */
export function process_smi(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  enter(m, 'process_smi', vcpu.vcpu_id, null);
  vcpu.smi_pending = true;
  kvm_make_request('EVENT', vcpu);
  leave(m);
}

const layoutOf = (vcpu: KvmVcpu) => (vcpu.kvm.machine.guestFeatures.has('lm') ? SMRAM_64 : SMRAM_32);

function traceTransition(vcpu: KvmVcpu, entering: boolean): void {
  const m = vcpu.kvm.machine;
  emit(m, (o) =>
    o.event({
      kind: 'kvm_smm_transition',
      vcpu: vcpu.vcpu_id,
      smbase: BigInt(vcpu.smbase),
      entering: entering ? 1 : 0,
    }),
  );
}

/** The transition is complete: registers and roles are those of the other mode, which is what a debugger stops to see. */
function announce(vcpu: KvmVcpu, kind: 'smm_enter' | 'smm_exit'): void {
  emit(vcpu.kvm.machine, (o) => o.event({ kind, vcpu: vcpu.vcpu_id, smbase: BigInt(vcpu.smbase) }));
}

/** kvm_smm_changed(): the vCPU now uses the other address space, so its roots go and its role changes. */
export function kvm_smm_changed(vcpu: KvmVcpu, entering: boolean): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_smm_changed', vcpu.vcpu_id, null);
  traceTransition(vcpu, entering);
  if (entering) vcpu.hflags |= HF_SMM_MASK;
  else {
    vcpu.hflags &= ~(HF_SMM_MASK | HF_SMM_INSIDE_NMI_MASK);
    kvm_make_request('EVENT', vcpu);
  }
  smm_view_changed(vcpu);
  kvm_mmu_reset_context(vcpu);
  leave(m);
}

/** enter_smm(). @returns false when the state-save area is not writable: the VM is dead. */
export function enter_smm(vcpu: KvmVcpu): boolean {
  const m = vcpu.kvm.machine;
  enter(m, 'enter_smm', vcpu.vcpu_id, vcpu.regs);
  // The exit that lets the SMI in reads the processor's log (vmx_handle_exit()), while its addresses are those of this address space.
  vmx_flush_pml_buffer(vcpu);
  const bytes = saveSmram(layoutOf(vcpu), vcpu.regs, vcpu.smbase);
  const base = vcpu.smbase + SMRAM_SAVE_OFFSET;
  const write = (): boolean => {
    enter(m, 'kvm_vcpu_write_guest', vcpu.vcpu_id, null);
    const done = writeAll();
    leave(m);
    return done;
  };
  const writeAll = (): boolean => {
    for (let i = 0; i < SMRAM_SAVE_SIZE; i += 8) {
      let q = 0n;
      for (let b = 7; b >= 0; b--) q = (q << 8n) | BigInt(bytes[i + b]);
      if (!kvm_vcpu_write_guest(vcpu, base + i, 8, q)) return false;
    }
    return true;
  };
  let ok: boolean;
  // SMM belongs to L1: what runs in it is not nested, and RSM goes back to L2.
  nested_enter_smm(vcpu);
  if (m.caps.smmExitFirst) {
    kvm_smm_changed(vcpu, true);
    ok = write();
  } else {
    // v4.2..v4.19: the flag is set and the state written before the MMU hears of it.
    traceTransition(vcpu, true);
    vcpu.hflags |= HF_SMM_MASK;
    smm_view_changed(vcpu);
    ok = write();
  }
  enterSmmRegisters(vcpu.regs, vcpu.smbase);
  vcpu.regs.idtUsed = true;
  m.registersChanged(vcpu);
  kvm_mmu_reset_context(vcpu);
  if (ok) announce(vcpu, 'smm_enter');
  leave(m);
  if (!ok)
    m.warn(
      `the SMM state-save area at gpa 0x${base.toString(16)} of address space 1 is not writable: KVM marks the VM dead`,
    );
  return ok;
}

/** em_rsm(): reads the save area (in address space 1), leaves SMM, loads the registers. @returns false: RSM outside SMM is #UD */
export function em_rsm(vcpu: KvmVcpu): boolean {
  if (!is_smm(vcpu)) return false;
  const m = vcpu.kvm.machine;
  enter(m, 'em_rsm', vcpu.vcpu_id, vcpu.regs);
  const bytes = new Uint8Array(SMRAM_SAVE_SIZE);
  for (let i = 0; i < SMRAM_SAVE_SIZE; i += 8) {
    const q = kvm_vcpu_read_guest(vcpu, vcpu.smbase + SMRAM_SAVE_OFFSET + i, 8) ?? 0n;
    for (let b = 0; b < 8; b++) bytes[i + b] = Number((q >> BigInt(8 * b)) & 0xffn);
  }
  const idtUsed = m.idtPolicy.get(vcpu.vcpu_id) ?? vcpu.regs.idtUsed;
  const image = loadSmram(layoutOf(vcpu), bytes, vcpu.regs);
  enter(m, 'emulator_leave_smm', vcpu.vcpu_id, vcpu.regs);
  if (m.caps.smmExitFirst) {
    kvm_smm_changed(vcpu, false);
    nested_leave_smm(vcpu);
    load();
  } else {
    nested_leave_smm(vcpu);
    load();
    enter(m, 'kvm_set_hflags', vcpu.vcpu_id, null);
    kvm_smm_changed(vcpu, false);
    leave(m);
  }
  leave(m);
  announce(vcpu, 'smm_exit');
  leave(m);
  return true;

  function load(): void {
    enter(m, layoutOf(vcpu) === SMRAM_64 ? 'rsm_load_state_64' : 'rsm_load_state_32', vcpu.vcpu_id, vcpu.regs);
    vcpu.regs.copyFrom(image.state);
    vcpu.regs.idtUsed = idtUsed;
    vcpu.smbase = image.smbase;
    // The save area has no PDPTEs: rsm_enter_protected_mode() loads CR3 and CR0, and those load them from memory.
    const { cr0, cr3, cr4, efer } = vcpu.regs;
    if ((cr0 & CR0.PG) !== 0n && (cr4 & CR4.PAE) !== 0n && (efer & EFER.LMA) === 0n)
      read_pdptrs(vcpu, cr3)?.forEach((v, i) => (vcpu.regs.pdptrs[i] = v));
    m.registersChanged(vcpu);
    kvm_mmu_reset_context(vcpu);
    leave(m);
  }
}
