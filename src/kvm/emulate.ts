/**
 * arch/x86/kvm/emulate.c and x86_emulate_instruction() of x86.c: KVM runs one instruction itself, because the processor could not
 * (MMIO, a write to a tracked page table, an intercept without decode assists). The semantics are those of src/hw/exec.ts; only the
 * accesses differ, which are in emulate_ops.ts.
 * Facts: reference kvm-mmu-model.md 12.2, 18.3, 23.6, 23.7.
 */
import { execute } from '../hw/exec';
import { decodeInsn, type Insn } from '../hw/insn';
import { RFLAGS } from '../hw/regs';
import { EmulatorBus, inject_emulated_exception, pageFaultOf, type EmulateCtxt } from './emulate_ops';
import { enter, leave } from './observer';
import type { KvmVcpu } from './kvm_host';
import { kvm_vcpu_read_guest } from './kvm_main';
import { kvm_mmu_unprotect_gfn_and_retry, kvm_mmu_unprotect_page, type EmulType } from './mmu/page_fault';
import { cplAccess, gva_to_gpa, lastWalk, PFERR_FETCH, PFERR_WRITE } from './mmu/paging_tmpl';
import { role_get } from './roles';
import { pendingPseudo, pseudoDone } from './guest_work';
import { kvm_multiple_exception } from './x86_exceptions';
import { haltExit, takePio, userExit } from './kvm_run';

export type { EmulateCtxt };

/** Instructions that the emulator marks PageTable: a guest may well be editing its tables with them (opcode tables of emulate.c). */
const PAGE_TABLE_WRITERS = new Set([
  'mov',
  'store',
  'xchg',
  'cmpxchg',
  'cmpxchg8b',
  'cmpxchg16b',
  'or',
  'and',
  'bts',
  'btc',
]);

const UD_VECTOR = 6;

/** How {@link emulate} ended, for x86_emulate_instruction(). */
type EmulationEnd = 'ok' | 'failed';

/** x86_decode_emulated_instruction(): fetches through the guest's tables, unless the bytes are known. */
function decode(vcpu: KvmVcpu, known: Uint8Array | null): { insn: Insn | null; end: EmulationEnd; fault: boolean } {
  const m = vcpu.kvm.machine;
  const s = vcpu.regs;
  if (pendingPseudo(m)) {
    const pseudo = pendingPseudo(m) as Insn;
    if (s.ripKnown && !known) {
      const gpa = gva_to_gpa(vcpu, codeAddress(vcpu), cplAccess(vcpu) | PFERR_FETCH);
      if (gpa < 0) return { insn: null, end: 'failed', fault: true };
    }
    return { insn: pseudo, end: 'ok', fault: false };
  }
  let bytes: Uint8Array;
  if (known) bytes = known;
  else {
    const linear = codeAddress(vcpu);
    const room = 4096 - Number(linear & 0xfffn);
    bytes = new Uint8Array(15);
    const first = Math.min(15, room);
    if (!fetchBytes(vcpu, linear, bytes, 0, first)) return { insn: null, end: 'failed', fault: lastFetchFaulted };
    let insn = decodeInsn(bytes.subarray(0, first), s.codeBits);
    if (insn.op === 'truncated') {
      if (!fetchBytes(vcpu, linear + BigInt(first), bytes, first, 15 - first))
        return { insn: null, end: 'failed', fault: lastFetchFaulted };
      insn = decodeInsn(bytes, s.codeBits);
    }
  }
  const insn = decodeInsn(bytes, s.codeBits);
  return { insn, end: insn.op === 'unknown' || insn.op === 'truncated' ? 'failed' : 'ok', fault: false };
}

let lastFetchFaulted = false;

/** Linear address of RIP. */
export function codeAddress(vcpu: KvmVcpu): bigint {
  const s = vcpu.regs;
  return s.codeBits === 64 ? s.rip : (s.cs.base + s.rip) & 0xffffffffn;
}

function fetchBytes(vcpu: KvmVcpu, linear: bigint, into: Uint8Array, at: number, n: number): boolean {
  const gpa = gva_to_gpa(vcpu, linear, cplAccess(vcpu) | PFERR_FETCH);
  lastFetchFaulted = gpa < 0;
  if (gpa < 0) return false;
  for (let i = 0; i < n; i++) {
    const b = kvm_vcpu_read_guest(vcpu, gpa + i, 1);
    if (b === null) return false;
    into[at + i] = Number(b);
  }
  return true;
}

const hexBytes = (b: Uint8Array | null): string =>
  b ? Array.from(b, (x) => x.toString(16).padStart(2, '0')).join('') : '';

/** EMULTYPE_TRAP_UD, for instructions that the processor refused. */
export const TRAP_UD: EmulType = Object.freeze({ pf: false, allowRetryPf: false, writePfToSp: false, trapUd: true });

/**
 * x86_emulate_instruction().
 * @param type how the instruction came here; null for an intercept that is simply emulated
 * @param known instruction bytes where the vendor code has them (RSM)
 * @returns 1 resume the guest, 0 exit to user space
 */
export function x86_emulate_instruction(
  vcpu: KvmVcpu,
  cr2_or_gpa: bigint,
  type: EmulType | null,
  known: Uint8Array | null = null,
  skip = false,
): number {
  const m = vcpu.kvm.machine;
  enter(m, 'x86_emulate_instruction', vcpu.vcpu_id, vcpu.regs);
  const r = start();
  leave(m);
  return r;

  function start(): number {
    enter(m, 'x86_decode_emulated_instruction', vcpu.vcpu_id, vcpu.regs);
    const d = decode(vcpu, known);
    if (m.observer && !d.fault)
      m.observer.event({
        kind: 'kvm_emulate_insn',
        vcpu: vcpu.vcpu_id,
        rip: vcpu.regs.rip,
        csbase: vcpu.regs.codeBits === 64 ? 0n : vcpu.regs.cs.base,
        insn: hexBytes(d.insn?.bytes ?? null),
        len: d.insn?.len ?? 0,
        failed: d.end === 'failed' ? 1 : 0,
      });
    leave(m);
    if (d.fault) {
      inject_emulated_exception(vcpu, pageFaultOf(lastWalk()));
      return 1;
    }
    if (!d.insn || d.end === 'failed') return emulation_failed(vcpu, type);
    if (skip) {
      vcpu.regs.rip = (vcpu.regs.rip + BigInt(d.insn.len)) & 0xffffffffffffffffn;
      return 1;
    }
    if (retry_instruction(vcpu, d.insn, cr2_or_gpa, type)) return 1;
    const direct = role_get(vcpu.mmu.root_role, m.roles.direct) === 1;
    vcpu.emul = {
      insn: d.insn,
      eip: vcpu.regs.rip,
      gpa_available: type?.pf === true && direct,
      gpa_val: type?.pf ? Number(cr2_or_gpa) : 0,
      mem_read: [],
    };
    return emulate(vcpu, type);
  }
}

/** retry_instruction(); since v6.12 part of x86_emulate_instruction(): not an instruction that edits page tables, so dropping the protection and running it again is better. */
function retry_instruction(vcpu: KvmVcpu, insn: Insn, cr2_or_gpa: bigint, type: EmulType | null): boolean {
  const m = vcpu.kvm.machine;
  if (m.caps.retryOnlyUnprotected)
    return type?.allowRetryPf === true && !writesPageTables(insn) && kvm_mmu_unprotect_gfn_and_retry(vcpu, cr2_or_gpa);
  const lastEip = vcpu.last_retry_eip;
  const lastAddr = vcpu.last_retry_addr;
  vcpu.last_retry_eip = 0n;
  vcpu.last_retry_addr = 0n;
  if (!type?.allowRetryPf) return false;
  if (writesPageTables(insn)) return false;
  if (vcpu.regs.rip === lastEip && lastAddr === cr2_or_gpa) return false;
  vcpu.last_retry_eip = vcpu.regs.rip;
  vcpu.last_retry_addr = cr2_or_gpa;
  const gpa = role_get(vcpu.mmu.root_role, m.roles.direct)
    ? Number(cr2_or_gpa)
    : gva_to_gpa(vcpu, cr2_or_gpa, PFERR_WRITE);
  kvm_mmu_unprotect_page(vcpu, Math.floor(gpa / 4096));
  return true;
}

/** x86_page_table_writing_insn(): MOV only in its forms that store. */
function writesPageTables(insn: Insn): boolean {
  if (!PAGE_TABLE_WRITERS.has(insn.op)) return false;
  return insn.op !== 'mov' || (insn.dst !== null && (insn.dst.kind === 'mem' || insn.dst.kind === 'lin'));
}

/** The emulator does not know the instruction. @returns as {@link x86_emulate_instruction} */
function emulation_failed(vcpu: KvmVcpu, type: EmulType | null): number {
  if (!type?.trapUd) return handle_emulation_failure(vcpu);
  kvm_multiple_exception(vcpu, UD_VECTOR, null, null);
  return 1;
}

function handle_emulation_failure(vcpu: KvmVcpu): number {
  const m = vcpu.kvm.machine;
  enter(m, 'handle_emulation_failure', vcpu.vcpu_id, null);
  kvm_multiple_exception(vcpu, UD_VECTOR, null, null);
  const toUser = vcpu.regs.cpl === 0;
  if (toUser)
    userExit(m, {
      reason: 'internal-error',
      suberror: 1,
      text: 'KVM_INTERNAL_ERROR_EMULATION: the instruction cannot be emulated',
    });
  leave(m);
  return toUser ? 0 : 1;
}

/** x86_emulate_insn() on the instruction in vcpu.emul, from its start. */
function emulate(vcpu: KvmVcpu, type: EmulType | null): number {
  const m = vcpu.kvm.machine;
  const ctxt = vcpu.emul as EmulateCtxt;
  const bus = new EmulatorBus(vcpu, ctxt);
  enter(m, 'x86_emulate_insn', vcpu.vcpu_id, ctxt);
  const ok = execute(ctxt.insn, vcpu.regs, bus);
  // as on a processor, an instruction that completes clears RF
  if (ok && !['iret', 'popf', 'rsm'].includes(ctxt.insn.op)) vcpu.regs.rflags &= ~RFLAGS.RF;
  leave(m);
  if (bus.exception_) {
    inject_emulated_exception(vcpu, bus.exception_);
    vcpu.emul = null;
    return 1;
  }
  if (bus.failed) {
    vcpu.emul = null;
    return emulation_failed(vcpu, type);
  }
  if (vcpu.mmio_needed) {
    const f = vcpu.mmio_fragments;
    vcpu.stat['mmio_exits'] = (vcpu.stat['mmio_exits'] ?? 0) + 1;
    // A write has completed as far as the guest is concerned; a read is run again with its data.
    if (vcpu.mmio_is_write && ok) pseudoDone(m, ctxt.insn);
    userExit(m, { reason: 'mmio', fragments: f.map((x) => ({ ...x })), write: vcpu.mmio_is_write });
    return 0;
  }
  if (ok) pseudoDone(m, ctxt.insn);
  vcpu.emul = null;
  if (takePio(m)) return 0;
  if (vcpu.halted) return haltExit(vcpu);
  return 1;
}

/** complete_emulated_mmio(): user space has answered. @returns as {@link x86_emulate_instruction} */
export function complete_emulated_mmio(vcpu: KvmVcpu): number {
  const m = vcpu.kvm.machine;
  enter(m, 'complete_emulated_mmio', vcpu.vcpu_id, vcpu.emul);
  vcpu.mmio_needed = false;
  let r = 1;
  if (vcpu.mmio_is_write) {
    vcpu.emul = null;
    vcpu.mmio_fragments = [];
  } else {
    vcpu.mmio_read_completed = true;
    r = emulate(vcpu, null);
  }
  leave(m);
  return r;
}
