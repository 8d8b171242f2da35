/** Register blocks of `vcpu`, `setregs` and `run`: what user space passes to KVM_SET_SREGS and KVM_SET_REGS. */
import { CR0, EFER, GPR_NAMES, segment, type CpuState, type Segment } from '../hw/regs';
import type { RegisterSet } from '../kvm/machine';
import type { RegisterWrite } from './program';

/** Code and data segments that fit the mode: flat, as every 32- and 64-bit system has them; 64K at 0 in real mode. */
function segmentsFor(
  cr0: bigint,
  efer: bigint,
  cpl: number,
  code: number | null,
): Partial<Record<'cs' | 'ss' | 'ds' | 'es', Segment>> {
  const long = (cr0 & CR0.PG) !== 0n && (efer & (EFER.LME | EFER.LMA)) !== 0n;
  const width = code ?? ((cr0 & CR0.PE) === 0n ? 16 : long ? 64 : 32);
  const big = width === 32 ? 1 : 0;
  const limit = (cr0 & CR0.PE) === 0n && width === 16 ? { limit: 0xffff, g: 0 } : {};
  const data = segment({ selector: (cr0 & CR0.PE) === 0n ? 0 : 0x10 | cpl, dpl: cpl, db: big, ...limit });
  return {
    cs: segment({
      selector: (cr0 & CR0.PE) === 0n ? 0 : 8 | cpl,
      type: 0xb,
      dpl: cpl,
      l: width === 64 ? 1 : 0,
      db: big,
      ...limit,
    }),
    ss: { ...data },
    ds: { ...data },
    es: { ...data },
  };
}

/**
 * The registers to set.
 * @param state registers now
 * @param fresh a new vCPU: segments follow from the mode, and `idt none` holds unless an IDT is given
 */
export function registerSet(writes: readonly RegisterWrite[], state: CpuState, fresh: boolean): RegisterSet {
  const set: RegisterSet & Record<string, unknown> = {};
  const gpr: Partial<Record<number, bigint>> = {};
  let code: number | null = null;
  for (const w of writes) {
    const n = (GPR_NAMES as readonly string[]).indexOf(w.name);
    if (n >= 0) gpr[n] = w.value;
    else if (w.name === 'gdt') set.gdtr = { base: w.value, limit: w.limit ?? (w.none ? 0 : state.gdtr.limit) };
    else if (w.name === 'idt') set.idtr = w.none ? null : { base: w.value, limit: w.limit ?? state.idtr.limit };
    else if (w.name === 'tr')
      set.tr = { ...state.tr, base: w.value, limit: w.limit ?? state.tr.limit, selector: state.tr.selector || 0x28 };
    // like a VMM that spares the ioctl when nothing changes
    else if (w.name === 'cpl') {
      if (fresh || Number(w.value) !== state.cpl) set.cpl = Number(w.value);
    } else if (w.name === 'pkru') set.pkru = Number(w.value);
    else if (w.name === 'code') code = Number(w.value);
    else if (w.name === 'rflags') set.rflags = w.value | 2n;
    else set[w.name] = w.value;
  }
  if (Object.keys(gpr).length > 0) set.gpr = gpr;
  const modeChanges = set.cr0 !== undefined || set.efer !== undefined || code !== null;
  if (fresh || modeChanges) {
    const cpl = set.cpl ?? (fresh ? 0 : state.cpl);
    Object.assign(set, segmentsFor(set.cr0 ?? state.cr0, set.efer ?? state.efer, cpl, code));
  }
  if (fresh && set.idtr === undefined) set.idtr = null;
  return set;
}
