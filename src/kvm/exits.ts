/**
 * What the exits of both vendors share: the kvm_exit event, port I/O, skipping an instruction.
 */
import type { VmExit } from '../hw/exits';
import { emit, enter, leave } from './observer';
import { is_smm, type KvmVcpu } from './kvm_host';
import { x86_emulate_instruction } from './emulate';
import { kvm_get_msr, kvm_set_msr } from './x86_regs';
import { pseudoDone } from './guest_work';
import { userExit } from './kvm_run';
import { kvm_multiple_exception } from './x86_exceptions';

/** Interruption information of an event: valid bit, error-code bit, type, vector (both vendors). */
export function eventInfo(e: { vector: number; type: number; errorCode: number | null } | null, valid = true): number {
  if (!e) return 0;
  const v = ((valid ? 0x80000000 : 0) | (e.errorCode !== null ? 0x800 : 0) | (e.type << 8) | e.vector) >>> 0;
  return v;
}

/** trace_kvm_exit() */
export function exitEvent(
  vcpu: KvmVcpu,
  exit: VmExit,
  exit_reason: number,
  reason: string,
  info1: bigint,
  info2?: bigint,
  kind: 'kvm_exit' | 'kvm_nested_vmexit' = 'kvm_exit',
): void {
  const m = vcpu.kvm.machine;
  if (!m.observer) return;
  const amd = m.config.vendor === 'amd';
  const vectoring = exit.idtVectoring;
  // AMD reports EXITINTINFO here, Intel the interruption information of an exception exit.
  const intr = amd
    ? vectoring
      ? eventInfo(vectoring)
      : exit.delivered
        ? eventInfo(exit.delivered, false)
        : 0
    : exit.kind === 'rsm'
      ? 0x80000306
      : eventInfo(exit.exception);
  const error = amd ? (vectoring?.errorCode ?? 0) : (exit.exception?.errorCode ?? 0);
  m.observer.event({
    kind,
    vcpu: vcpu.vcpu_id,
    reason,
    exit_reason,
    guest_rip: vcpu.regs.rip,
    info1,
    info2: info2 ?? (kind === 'kvm_nested_vmexit' || m.caps.exitHasVectoring ? BigInt(eventInfo(vectoring)) : 0n),
    intr_info: intr,
    error_code: error,
  });
}

/** The fault event that exception filters listen to, with the record of the walk. */
export function guestFaultEvent(
  vcpu: KvmVcpu,
  exit: VmExit,
  kind: 'ept_violation' | 'ept_misconfig' | 'npf' | 'spp_miss' | 'spp_misconfig',
  code: bigint,
  write: boolean,
  fetch: boolean,
  user: boolean,
): void {
  const m = vcpu.kvm.machine;
  m.lastFaultWrite = write;
  emit(m, (o) =>
    o.event({
      kind,
      vcpu: vcpu.vcpu_id,
      gpa: BigInt(exit.gpa),
      gva: exit.gva,
      code,
      write,
      fetch,
      user: user && vcpu.regs.cpl === 3,
      why: m.lastWhy,
    }),
  );
}

/** kvm_skip_emulated_instruction(): the length is known, or (AMD without NRIPS) found by decoding. */
export function skip_emulated_instruction(vcpu: KvmVcpu, exit: VmExit): void {
  const m = vcpu.kvm.machine;
  const insn = exit.insn;
  enter(m, 'kvm_skip_emulated_instruction', vcpu.vcpu_id, null);
  if (m.config.vendor === 'amd' && !m.nrips && insn?.bytes) x86_emulate_instruction(vcpu, 0n, null, null, true);
  else vcpu.regs.rip = (vcpu.regs.rip + BigInt(insn?.len ?? 0)) & 0xffffffffffffffffn;
  pseudoDone(m, insn);
  leave(m);
}

/** kvm_fast_pio(): out completes at once with an exit to user space; in waits for its data. */
export function complete_pio(vcpu: KvmVcpu, exit: VmExit, handler: 'handle_io' | 'io_interception'): number {
  const m = vcpu.kvm.machine;
  const io = exit.io;
  if (!io) return 1;
  enter(m, handler, vcpu.vcpu_id, io);
  const smm = is_smm(vcpu) ? 1 : 0;
  if (io.write) {
    emit(m, (o) =>
      o.event({
        kind: 'kvm_pio',
        vcpu: vcpu.vcpu_id,
        rw: 1,
        port: io.port,
        size: io.size,
        count: 1,
        val: io.value & ((1n << BigInt(8 * io.size)) - 1n),
      }),
    );
  } else {
    const value = (1n << BigInt(8 * io.size)) - 1n;
    emit(m, (o) =>
      o.event({ kind: 'kvm_pio', vcpu: vcpu.vcpu_id, rw: 0, port: io.port, size: io.size, count: 1, val: value }),
    );
    vcpu.regs.gpr[0] = (vcpu.regs.gpr[0] & ~value) | value;
    vcpu.regs.loaded = value;
  }
  vcpu.regs.rip = (vcpu.regs.rip + BigInt(exit.insn?.len ?? 0)) & 0xffffffffffffffffn;
  pseudoDone(m, exit.insn);
  userExit(m, { reason: 'io', port: io.port, size: io.size, write: io.write, data: io.value, smm });
  leave(m);
  return 0;
}

/** kvm_emulate_rdmsr(), kvm_emulate_wrmsr(): what handle_msr of either vendor comes down to. */
export function kvm_emulate_msr(vcpu: KvmVcpu, exit: VmExit): number {
  const m = vcpu.kvm.machine;
  const msr = exit.msr;
  if (!msr) return 1;
  enter(m, msr.write ? 'kvm_emulate_wrmsr' : 'kvm_emulate_rdmsr', vcpu.vcpu_id, msr);
  let ok = true;
  if (msr.write) ok = kvm_set_msr(vcpu, msr.index, msr.value);
  else {
    const v = kvm_get_msr(vcpu, msr.index);
    ok = v !== null;
    if (v !== null) {
      vcpu.regs.gpr[0] = v & 0xffffffffn;
      vcpu.regs.gpr[2] = v >> 32n;
      vcpu.regs.loaded = v;
    }
  }
  if (ok) skip_emulated_instruction(vcpu, exit);
  else kvm_multiple_exception(vcpu, 13, 0, null);
  leave(m);
  return 1;
}
