/**
 * What a vCPU is to execute in the guest, and its running there: code in memory, or one instruction without code bytes (a
 * pseudo-instruction), which either the processor or KVM's emulator completes.
 */
import { EVENT_TYPE, type GuestEvent, type VmExit } from '../hw/exits';
import type { Insn } from '../hw/insn';
import type { KvmVcpu } from './kvm_host';
import type { Machine } from './machine';

/** What the vCPU is to execute in the guest. */
export interface GuestWork {
  /** a single instruction without code bytes, or the code in memory */
  insn: Insn | 'code';
  /** instructions run so far */
  count: number;
  /** instructions after which a `code` run ends */
  limit: number;
  /** the pseudo-instruction has completed */
  done: boolean;
  /** exception that ended it (idt none) */
  exception: { vector: number; errorCode: number | null; cr2: bigint | null } | null;
  /** the last exception that went to a handler of the guest */
  delivered: { vector: number; errorCode: number | null; cr2: bigint | null } | null;
}

/** Enters the guest; called by vcpu_enter_guest(). */
export function runGuest(vcpu: KvmVcpu, work: GuestWork): VmExit {
  const m = vcpu.kvm.machine;
  if (m.recorder) {
    m.recorder.attach(vcpu);
    vcpu.translator.recorder = m.recorder;
    // Set per run: a function that lived in the processor would tie a copy of the machine to this one.
    vcpu.processor.onEvent = (e, address) => guestEvent(vcpu, e, address);
  }
  // An emulated processor loads CR3 at each entry and forgets everything with it.
  if (m.flushOnEntry) m.memoryOf(vcpu).tlb.flushAll();
  const insn = work.insn;
  const exit = vcpu.processor.run(() => {
    if (insn === 'code') {
      if (work.count >= work.limit) return null;
      work.count++;
      return 'fetch';
    }
    if (work.done) return null;
    if (work.count > 0) {
      work.done = true;
      return null;
    }
    work.count = 1;
    return insn;
  });
  const e = exit.delivered;
  if (e?.type === EVENT_TYPE.EXCEPTION)
    work.delivered = { vector: e.vector, errorCode: e.errorCode, cr2: e.vector === 14 ? vcpu.regs.cr2 : null };
  if (insn !== 'code' && !work.done) work.count = 0;
  // The instruction that exits runs again; it is not one more.
  else if (insn === 'code' && exit.kind !== 'done' && work.count > 0) work.count--;
  vcpu.translator.recorder = null;
  vcpu.processor.onEvent = null;
  return exit;
}

/** The processor begins to deliver an exception. */
function guestEvent(vcpu: KvmVcpu, e: GuestEvent, address: bigint | null): void {
  const m = vcpu.kvm.machine;
  const o = m.observer;
  if (!o || e.type !== EVENT_TYPE.EXCEPTION) return;
  if (e.vector === 14)
    o.event({
      kind: 'guest_page_fault',
      vcpu: vcpu.vcpu_id,
      gva: address ?? vcpu.regs.cr2,
      errorCode: e.errorCode ?? 0,
      injected: false,
      why: m.lastWhy,
    });
  else
    o.event({
      kind: 'guest_exception',
      vcpu: vcpu.vcpu_id,
      vector: e.vector,
      errorCode: e.errorCode,
      why: m.lastWhy,
    });
}

/** The pseudo-instruction of the running statement completed inside KVM (emulated, or skipped). */
export function pseudoDone(m: Machine, insn: Insn | null): void {
  const w = m.pending;
  if (!w) return;
  if (w.insn === 'code') w.count++;
  else if (insn === w.insn || insn === null || insn.op === w.insn.op) w.done = true;
}

/** L2's instruction has become an exit to L1, which must not run it in L2's stead. */
export function pseudoAbandoned(m: Machine): void {
  if (m.pending && m.pending.insn !== 'code') m.pending.done = true;
}

/** The pseudo-instruction that the emulator is to run, or null when it must decode code. */
export function pendingPseudo(m: Machine): Insn | null {
  return m.pending && m.pending.insn !== 'code' ? m.pending.insn : null;
}
