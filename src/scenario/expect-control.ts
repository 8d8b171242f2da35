/** What `expect vmcb` and `expect vmcs` find. */
import { INVALID_VMPTR, VmxNested } from '../kvm/vmx_nested_state';
import type { KvmVcpu } from '../kvm/kvm_host';
import type { Machine } from '../kvm/machine';
import { type ControlField, VMCB, VMCS_FIELDS } from './control-fields';
import { showNumber } from './numbers';
import type { Claim, ControlValue } from './program';

/** A field's value with the names of its bits, or of the value itself. */
export function fieldText(field: ControlField | undefined, value: bigint): string {
  const flags = field?.flags ?? [];
  if (field?.pick) {
    const name = flags.find((f) => f.bit === value)?.name;
    return name === undefined ? showNumber(value) : `${name} (${showNumber(value)})`;
  }
  const names = flags.filter((f) => f.name !== 'DEFAULT1' && f.bit !== 0n && (value & f.bit) === f.bit);
  return names.length === 0 ? showNumber(value) : `${showNumber(value)} (${names.map((f) => f.name).join('|')})`;
}

/** Compares fields with what `read` finds; the fields that differ are named, or all if none does. */
function compare(
  fields: readonly ControlValue[],
  known: readonly ControlField[],
  read: (f: ControlValue) => bigint,
): { ok: boolean; actual: string } {
  const found = fields.map((f) => ({ f, value: read(f) }));
  const wrong = found.filter(({ f, value }) => f.value !== value);
  const told = wrong.length > 0 ? wrong : found;
  return {
    ok: wrong.length === 0,
    actual: told
      .map(
        ({ f, value }) =>
          `${f.name} ${fieldText(
            known.find((k) => k.name === f.name),
            value,
          )}`,
      )
      .join(', '),
  };
}

/** Whether fields of a VMCB or of the current VMCS are as claimed. */
export function controlVerdict(
  claim: Extract<Claim, { kind: 'vmcb' | 'vmcs' }>,
  machine: Machine,
  vcpu: KvmVcpu | null,
): { ok: boolean; actual: string } {
  if (claim.kind === 'vmcs') {
    const n = vcpu?.nested;
    if (!(n instanceof VmxNested))
      return { ok: false, actual: 'no VMCS: the machine has no nested VMX (vendor intel, features vmx)' };
    if (n.current_vmptr === INVALID_VMPTR) return { ok: false, actual: 'no current VMCS: vmptrld makes one current' };
    return compare(claim.fields, VMCS_FIELDS, (f) => n.vmcs12.read(f.at));
  }
  const page = machine.hostRead(claim.as_id, claim.gpa, 4096);
  if (page === null)
    return {
      ok: false,
      actual: `no memslot of address space ${claim.as_id} holds all of the page at gpa ${showNumber(claim.gpa)}`,
    };
  return compare(claim.fields, VMCB, ({ at, size }) =>
    page.slice(at, at + size).reduceRight((sum, b) => (sum << 8n) | BigInt(b), 0n),
  );
}
