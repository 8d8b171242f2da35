/** What the commands on a variable need to know of it, out of what the Variables and Watch views show. Pure text. */
import { valueAt } from './values';

/** What VS Code hands to commands of `debug/variables/context`, as far as it is used. */
export interface VariableLike {
  readonly name: string;
  readonly value: string;
  readonly evaluateName?: string;
  readonly memoryReference?: string;
  readonly type?: string;
}

/** An address to look at, and by which tables it is translated. */
export interface Place {
  readonly address: string;
  readonly kind: 'guest' | 'second';
}

/** The first hexadecimal value in what a variable shows, as `0x…`; undefined if it shows none. */
export function wordOf(variable: VariableLike): string | undefined {
  const m = /0x[0-9a-f]+/i.exec(variable.value);
  const found = m === null ? undefined : valueAt(variable.value, m.index + 1);
  return found === undefined ? undefined : `0x${found.value.toString(16)}`;
}

const LINEAR = /^(?:gva|gla|cr2|rip|rsp|rbp|guest_rip|.*_gva|fault_address|linear.*)$/i;
const PHYSICAL = /^(?:gpa|.*_gpa|cr3|pgd|smbase|guest_physical.*)$/i;
const FRAMES = /^(?:gfn|base_gfn|.*_gfn)$/i;

/**
 * Where a variable leads: its memory if that is guest memory, else its value if its name says that it is an address of the guest.
 * Host-physical memory has no translation, and what is no address leads nowhere.
 */
export function placeOf(variable: VariableLike): Place | undefined {
  const word = wordOf(variable);
  if (word !== undefined && LINEAR.test(variable.name)) return { address: word, kind: 'guest' };
  if (word !== undefined && PHYSICAL.test(variable.name)) return { address: word, kind: 'second' };
  if (word !== undefined && FRAMES.test(variable.name))
    return { address: `0x${(BigInt(word) << 12n).toString(16)}`, kind: 'second' };
  const m = /^(?<space>gva|gpa)\b.*:(?<address>0x[0-9a-f]+)$/i.exec(variable.memoryReference ?? '');
  if (m?.groups === undefined) return undefined;
  return { address: m.groups['address'], kind: m.groups['space'] === 'gva' ? 'guest' : 'second' };
}

/** Which role word a variable is: `root_role`, `cpu_role` …; undefined if it is none. */
export function roleWordOf(variable: VariableLike): string | undefined {
  const m =
    /(?:^|[.\s])((?:root|cpu|mmu|base)_role|role)\b(?:\.word)?$/.exec(variable.evaluateName ?? variable.name) ??
    /^((?:root|cpu|mmu|base)_role|role)$/.exec(variable.name);
  return m?.[1];
}
