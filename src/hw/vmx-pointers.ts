/**
 * Checks that VM entry makes on the pointers to second-stage tables.
 * Source: SDM vol. 3C, "VM-Execution Control Fields" (checks on EPTP and SPPTP).
 */
import type { CpuFeatures } from './features';
import type { RuleId } from './rules';

const bits = (value: bigint, lsb: bigint, width: bigint): bigint => (value >> lsb) & ((1n << width) - 1n);

/** The first rule that an EPTP breaks on this processor, null if VM entry accepts it. */
export function checkEptp(eptp: bigint, cpu: CpuFeatures): RuleId | null {
  const memtype = bits(eptp, 0n, 3n);
  if (memtype !== 0n && memtype !== 6n) return 'eptp.memtype';
  const length = bits(eptp, 3n, 3n) + 1n;
  if (length !== 4n && !(length === 5n && cpu.ept5)) return 'eptp.walk-length';
  if (bits(eptp, 6n, 1n) !== 0n && !cpu.eptAd) return 'eptp.ad';
  if (bits(eptp, 7n, 1n) !== 0n && !cpu.eptSss) return 'eptp.sss';
  if (bits(eptp, 8n, 4n) !== 0n || eptp >> BigInt(cpu.maxphyaddr) !== 0n) return 'eptp.rsvd';
  return null;
}

/** The first rule that an SPPTP breaks, null if VM entry accepts it. @param eptEnabled the "enable EPT" control */
export function checkSpptp(spptp: bigint, eptEnabled: boolean, cpu: CpuFeatures): RuleId | null {
  if (!eptEnabled) return 'spptp.ept';
  if (bits(spptp, 0n, 12n) !== 0n || spptp >> BigInt(cpu.maxphyaddr) !== 0n) return 'spptp.rsvd';
  return null;
}
