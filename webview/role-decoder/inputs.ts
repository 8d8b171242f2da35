/** The inputs of the formulas out of what a debug session says: registers by the SDM's bit numbers (vol. 3, 2.5 and 2.2.1). */
import type { RegisterView } from '../../src/adapter/protocol';
import type { ThreadInfo } from '../messages';
import type { Inputs } from '../../src/words/formula';

const BITS: Readonly<Record<string, readonly [register: string, bit: number]>> = {
  'CR0.PG': ['cr0', 31],
  'CR0.WP': ['cr0', 16],
  'CR4.PSE': ['cr4', 4],
  'CR4.PAE': ['cr4', 5],
  'CR4.LA57': ['cr4', 12],
  'CR4.SMEP': ['cr4', 20],
  'CR4.SMAP': ['cr4', 21],
  'CR4.PKE': ['cr4', 22],
  'EFER.LMA': ['efer', 10],
  'EFER.NX': ['efer', 11],
};

/** What a session's registers and vCPU state say; what they do not say stays unknown. */
export function inputsOf(registers: readonly RegisterView[], thread: ThreadInfo | undefined): Inputs {
  const inputs: Record<string, number | undefined> = {};
  for (const [name, [register, bit]] of Object.entries(BITS)) {
    const value = registers.find((r) => r.name.toLowerCase() === register)?.value;
    if (value !== undefined) inputs[name] = Number((BigInt(value) >> BigInt(bit)) & 1n);
  }
  const flag = (value: boolean | null | undefined): number | undefined =>
    typeof value === 'boolean' ? Number(value) : undefined;
  inputs['is_smm'] = flag(thread?.smm);
  inputs['is_guest_mode'] = flag(thread?.guestMode);
  return inputs;
}

/** A 64-bit guest with paging on, for when there is no session: something to start turning bits over from. */
export const TYPICAL: Inputs = {
  'CR0.PG': 1,
  'CR0.WP': 1,
  'CR4.PSE': 0,
  'CR4.PAE': 1,
  'CR4.LA57': 0,
  'CR4.SMEP': 1,
  'CR4.SMAP': 1,
  'CR4.PKE': 0,
  'EFER.LMA': 1,
  'EFER.NX': 1,
  is_smm: 0,
  is_guest_mode: 0,
  ad_enabled: 1,
  tdp_level: 4,
  eptp_level: 4,
  eptp_ad: 1,
  execonly: 1,
  tdp_has_smep: 0,
  maxphyaddr: 46,
};

/**
 * Which of the session's inputs an MMU's roles were made of. An MMU that is not in use kept the roles of another time, and guest_mmu
 * goes by the EPTP or the host state of L1, not by the registers of L2 that the vCPU has now: there the registers are unknown.
 */
export function inputsFor(
  mmu: { readonly name: string; readonly active: boolean; readonly walk: boolean },
  now: Inputs,
): Inputs {
  if (!mmu.active && !mmu.walk) return {};
  if (mmu.name !== 'guest_mmu') return now;
  return { is_smm: now['is_smm'], is_guest_mode: now['is_guest_mode'] };
}
