/** The names that conditions, logpoints and the debug console know: registers, state of the vCPU, words of its MMUs. */
import { INVALID_PAGE, is_guest_mode, is_smm, type KvmVcpu } from '../../kvm/kvm_host';
import type { Machine } from '../../kvm/machine';
import { mmu_role_word } from '../../kvm/roles';
import { memslots_of_mode } from '../../kvm/smram';
import { mmuWords } from '../../words/roles';
import type { WordLayout } from '../../words/word';
import { fieldOf } from '../../words/word';
import type { ExprEnv, ExprRange, ExprScope, ExprValue } from '../expr';
import { suggestion } from '../../words/suggest';
import { addressSpaceOf } from './guest-memory';
import type { StateNames } from './breakpoints';
import { REGISTER_BY_NAME, REGISTERS } from './registers';

/** State that is neither a register nor a word, by name. */
const FACTS: Readonly<Record<string, (vcpu: KvmVcpu) => ExprValue>> = {
  smm: (v) => is_smm(v),
  guest_mode: (v) => is_guest_mode(v),
  smbase: (v) => BigInt(v.smbase),
  as_id: (v) => BigInt(addressSpaceOf(v)),
  root_hpa: (v) => (v.mmu.root.hpa === INVALID_PAGE ? null : BigInt(v.mmu.root.hpa)),
  mmio_gfn: (v) => BigInt(v.mmio_gfn),
  mmio_gva: (v) => v.mmio_gva,
  generation: (v) => BigInt(memslots_of_mode(v.kvm, is_smm(v)).generation),
};

const MMUS = ['root_mmu', 'guest_mmu', 'nested_mmu'] as const;

interface RoleWord {
  readonly name: string;
  readonly layout: WordLayout;
}

/** A dotted name of a role word taken apart: `root_mmu.cpu_role.base.level`, `root_role.level`, `cpu_role.smm`. */
function roleName(
  name: string,
  words: readonly RoleWord[],
): { mmu: (typeof MMUS)[number] | null; word: RoleWord; field: string | null } | string | null {
  const parts = name.split('.');
  const mmu = MMUS.find((m) => m === parts[0]) ?? null;
  if (mmu) parts.shift();
  const word = words.find((w) => w.name === parts[0]);
  if (!word) {
    if (!mmu) return null;
    return `${mmu} has no word '${parts[0] ?? ''}': its words are ${words.map((w) => w.name).join(', ')}${suggestion(
      parts[0] ?? '',
      words.map((w) => w.name),
    )}`;
  }
  if (parts.length === 1) return { mmu, word, field: null };
  const wanted = parts.slice(1).join('.');
  const fields = word.layout.fields.map((f) => f.name);
  const field = fields.includes(wanted)
    ? wanted
    : (fields.find((f) => f === `base.${wanted}`) ?? fields.find((f) => f === `ext.${wanted}`));
  if (field) return { mmu, word, field };
  return `${word.name} has no field '${wanted}': its fields are ${fields.join(', ')}${suggestion(wanted, fields)}`;
}

/** The names of one machine. The machine is asked for anew each time: going back in time replaces it. */
export function stateNames(machine: () => Machine, kernel: string): StateNames {
  const { words } = mmuWords(kernel);
  const plain = [...Object.keys(FACTS), ...REGISTERS.map((r) => r.name)];
  const dotted = words.flatMap((w) => [w.name, ...w.layout.fields.map((f) => `${w.name}.${f.name}`)]);
  const scope: ExprScope = {
    has: (name) => {
      if (plain.includes(name)) return true;
      const role = roleName(name, words);
      return role !== null && typeof role !== 'string';
    },
    names: () => [...plain, ...dotted],
    explain: (name) => {
      const role = roleName(name, words);
      return typeof role === 'string' ? role : null;
    },
    functions: { slot: { usage: 'slot(id) or slot(id, as_id)', min: 1, max: 2 } },
  };
  return { scope, env: (vcpu) => stateEnv(machine(), vcpu, words) };
}

function stateEnv(m: Machine, index: number, words: readonly RoleWord[]): ExprEnv {
  const vcpu: KvmVcpu | undefined = m.vcpus[index];
  return {
    get: (name) => {
      if (!vcpu) return null;
      const fact = Object.hasOwn(FACTS, name) ? FACTS[name] : undefined;
      if (fact) return fact(vcpu);
      const register = REGISTER_BY_NAME.get(name);
      if (register) return register.get(vcpu.regs);
      const role = roleName(name, words);
      if (role === null || typeof role === 'string') return null;
      const value = mmu_role_word(m.roles, role.mmu ? vcpu[role.mmu] : vcpu.mmu, role.word.name);
      return role.field === null ? value : fieldOf(role.word.layout, value, role.field);
    },
    call: (_, [id, as]): readonly ExprRange[] | null => {
      if (typeof id !== 'bigint') return null;
      const asId = typeof as === 'bigint' ? Number(as) : vcpu ? addressSpaceOf(vcpu) : 0;
      const slot = (m.kvm.memslots[asId] ?? m.kvm.memslots[0]).slots.find((s) => BigInt(s.id) === id);
      if (!slot) return [];
      const first = BigInt(slot.base_gfn) << 12n;
      return [[first, first + (BigInt(slot.npages) << 12n) - 1n]];
    },
  };
}
