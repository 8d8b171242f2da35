/**
 * KVM_RUN as user space sees it: the loop of a VMM, the exits that it gets (struct kvm_run) and what it answers.
 */
import type { Insn } from '../hw/insn';
import type { GuestWork } from './guest_work';
import { is_smm, type KvmVcpu } from './kvm_host';
import type { Machine } from './machine';
import type { RunResult } from './machine-config';
import { emit } from './observer';
import { vcpu_run } from './x86';

const MEM_READ_RESULT = 0xd0000000n;

/** Exits to user space that the model knows; a page-crossing MMIO access has several fragments. */
export type UserExit =
  | { reason: 'mmio'; fragments: { gpa: number; len: number; data: bigint }[]; write: boolean; smm?: number }
  | { reason: 'io'; port: number; size: number; write: boolean; data: bigint; smm?: number }
  | { reason: 'hlt' }
  | { reason: 'shutdown' }
  /** KVM_EXIT_SPP: a write to a sub-page without write permission; gpa is exact to the byte */
  | { reason: 'spp'; gpa: number; insn_len: number }
  /** KVM_EXIT_UNKNOWN */
  | { reason: 'unknown'; hardware_exit_reason: number; text: string }
  | { reason: 'internal-error'; suberror: number; text: string }
  | { reason: 'error'; errno: number; text: string };

// ---- The VMM ----

/**
 * KVM_RUN until an instruction without code is done, or (`code`) until the guest's code exits to user space for anything but MMIO.
 * MMIO is answered by {@link mmioRead}, as a VMM would, and the run goes on.
 */
export function run(vcpu: KvmVcpu, insn: Insn | 'code', limits: { instructions?: number } = {}): RunResult {
  const m = vcpu.kvm.machine;
  const work: GuestWork = {
    insn,
    count: 0,
    limit: limits.instructions ?? 100_000,
    done: false,
    exception: null,
    delivered: null,
  };
  vcpu.regs.loaded = null;
  vcpu.halted = false;
  const result: RunResult = { end: 'done', value: null, exception: null, delivered: null, exits: [], text: '' };
  for (;;) {
    m.pending = work;
    vcpu.processor.stopOnDelivery = insn !== 'code' && !vcpu.regs.idtUsed;
    const exit = vcpu_run(vcpu, work);
    if (exit === null) {
      if (insn === 'code') {
        result.end = 'limit';
        result.text = `the code ran for ${work.count} instructions without an exit to user space`;
      }
      break;
    }
    if (exit.reason === 'mmio') {
      exit.smm = is_smm(vcpu) ? 1 : 0;
      if (!exit.write) for (const f of exit.fragments) f.data = mmioRead(m, f.len);
      // What user space supplied is what the completion finds in kvm_run.
      exit.fragments.forEach((f, i) => (vcpu.mmio_fragments[i].data = f.data));
      emit(m, (o) => o.event({ kind: 'kvm_userspace_exit', vcpu: vcpu.vcpu_id, reason: 6, errno: 0 }));
      result.exits.push(exit);
      continue;
    }
    emit(m, (o) => o.event({ kind: 'kvm_userspace_exit', vcpu: vcpu.vcpu_id, reason: exitNumber(exit), errno: 0 }));
    result.exits.push(exit);
    result.end = exit.reason === 'internal-error' || exit.reason === 'unknown' ? 'error' : exit.reason;
    if (exit.reason === 'error' || exit.reason === 'internal-error' || exit.reason === 'unknown')
      result.text = exit.text;
    if (result.end === 'io' && insn !== 'code' && insn.op !== 'out' && insn.op !== 'in') continue;
    break;
  }
  m.pending = null;
  m.closeHwFrame();
  result.value = vcpu.regs.loaded;
  result.exception = work.exception;
  result.delivered = work.delivered;
  if (work.exception) result.end = 'fault';
  else if (result.end === 'io' && insn !== 'code') result.end = 'done';
  return result;
}

/** What user space answers to an MMIO read: distinct values, as a VMM under test would. Deterministic. */
function mmioRead(m: Machine, len: number): bigint {
  m.mmioReads++;
  const v = MEM_READ_RESULT + BigInt(m.mmioReads);
  return len >= 8 ? v : v & ((1n << BigInt(8 * len)) - 1n);
}

function exitNumber(e: UserExit): number {
  switch (e.reason) {
    case 'io':
      return 2;
    case 'hlt':
      return 5;
    case 'mmio':
      return 6;
    case 'shutdown':
      return 8;
    case 'internal-error':
      return 17;
    case 'error':
    case 'unknown':
      return 0;
    case 'spp':
      return 29;
  }
}

// ---- Exits on their way to the VMM ----

/** Notes an exit to user space; the vCPU loop picks it up. */
export function userExit(m: Machine, exit: UserExit): void {
  m.exitToUser = exit;
}

/** The exit to user space that was noted, if there was one. */
export function takeUserExit(m: Machine): UserExit | null {
  const e = m.exitToUser;
  m.exitToUser = null;
  return e;
}

/** HLT without an interrupt controller in the kernel: user space waits. */
export function haltExit(vcpu: KvmVcpu): number {
  vcpu.halted = true;
  userExit(vcpu.kvm.machine, { reason: 'hlt' });
  return 0;
}

/** emulator_pio_out_emulated() */
export function pioOut(vcpu: KvmVcpu, port: number, size: number, value: bigint): void {
  const m = vcpu.kvm.machine;
  emit(m, (o) => o.event({ kind: 'kvm_pio', vcpu: vcpu.vcpu_id, rw: 1, port, size, count: 1, val: value }));
  userExit(m, { reason: 'io', port, size, write: true, data: value, smm: is_smm(vcpu) ? 1 : 0 });
  m.pioDone = true;
}

/** emulator_pio_in_emulated(): no device answers. @returns all ones */
export function pioIn(vcpu: KvmVcpu, port: number, size: number): bigint {
  const m = vcpu.kvm.machine;
  const val = (1n << BigInt(8 * size)) - 1n;
  emit(m, (o) => o.event({ kind: 'kvm_pio', vcpu: vcpu.vcpu_id, rw: 0, port, size, count: 1, val }));
  return val;
}

/** Whether the emulated instruction did port I/O that user space has to see. */
export function takePio(m: Machine): boolean {
  const p = m.pioDone;
  m.pioDone = false;
  return p;
}
