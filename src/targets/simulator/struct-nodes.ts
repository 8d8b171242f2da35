/**
 * The locals of a KVM frame: whatever object of the model the function works on (struct kvm_page_fault, a shadow page, a
 * VM exit …), member by member. Names decide how a number is shown; nothing is expanded before somebody opens it.
 */
import { INVALID_PAGE, KvmMmu, KvmMmuPage, KvmVcpu } from '../../kvm/kvm_host';
import { formatHex } from '../../words/address';
import { CR0, CR4, EFER, RFLAGS } from '../../words/controls';
import { decodeWord, type WordLayout } from '../../words/word';
import type { Lexicon } from '../lexicon';
import { hexLeaf, leaf, list, struct, wordNode } from '../nodes';
import { formatMemoryReference, type TreeNode } from '../target';
import { mmuNode } from './mmus';

/** Members that count or name something: decimal. All other numbers are addresses, frames or words: hexadecimal. */
const DECIMAL =
  /^(id|as_id|level|.*_level|count|npages|size|len|length|errno|vector|mmu_seq|vcpu_id|root_count|tdp_mmu_root_count|unsync_children|write_flooding_count|index|cpl|dpl|type|port|n|reg|insnLen|mmu_valid_gen|generation|forLevel|max_level|req_level|goal_level)$/;

/** Words of the processor, which are taken apart wherever they appear. */
const WORDS: ReadonlyMap<string, WordLayout> = new Map([
  ['cr0', CR0],
  ['cr4', CR4],
  ['efer', EFER],
  ['rflags', RFLAGS],
]);

/** Struct names of the kernel for classes of the model. */
const TYPES: Readonly<Record<string, string>> = {
  KvmPageFault: 'struct kvm_page_fault',
  KvmMmuPage: 'struct kvm_mmu_page',
  KvmMmu: 'struct kvm_mmu',
  KvmVcpu: 'struct kvm_vcpu',
  Kvm: 'struct kvm',
  CpuState: 'registers',
};

/** An object of the model as a node. */
export function objectNode(name: string, value: object, lexicon: Lexicon): TreeNode {
  const type = TYPES[value.constructor.name];
  if (value instanceof KvmMmu) return struct(name, value.name, () => mmuMembers(value, lexicon), { type });
  return struct(name, summaryOf(value, lexicon), () => membersOf(value, lexicon), type === undefined ? {} : { type });
}

function mmuMembers(mmu: KvmMmu, lexicon: Lexicon): TreeNode[] {
  return [
    hexLeaf('cpu_role_base', mmu.cpu_role_base >>> 0),
    wordNode('root_role', lexicon.decodeRole(mmu.root_role)),
    leaf('root.hpa', mmu.root.hpa === INVALID_PAGE ? 'INVALID_PAGE' : formatHex(mmu.root.hpa)),
  ];
}

/** The members of an object, in the order of the model's class. */
export function membersOf(value: object, lexicon: Lexicon): TreeNode[] {
  if (value instanceof KvmVcpu) return [mmuNode(value, value.mmu, lexicon.options.kernel)];
  const own = Object.entries(value as Record<string, unknown>).filter(([, v]) => typeof v !== 'function');
  return joinHalves(own).map(([name, member]) => memberNode(name, member, lexicon));
}

/** `addrLo` and `addrHi` are one address, `error_code` and `error_code_hi` one code. */
function joinHalves(members: [string, unknown][]): [string, unknown][] {
  const byName = new Map(members);
  const joined: [string, unknown][] = [];
  for (const [name, value] of members) {
    const base =
      /^(.*)Lo$/.exec(name)?.[1] ?? (name === 'lo' ? '' : undefined) ?? (byName.has(`${name}_hi`) ? name : undefined);
    if (/(?:Hi|_hi|^hi)$/.test(name) && (byName.has(name.replace(/Hi$/, 'Lo')) || byName.has(name.replace(/_hi$/, ''))))
      continue;
    const high =
      base === undefined
        ? undefined
        : byName.get(name.endsWith('Lo') ? `${base}Hi` : name === 'lo' ? 'hi' : `${base}_hi`);
    if (base !== undefined && typeof value === 'number' && typeof high === 'number') {
      joined.push([base || 'value', (BigInt(high >>> 0) << 32n) | BigInt(value >>> 0)]);
    } else joined.push([name, value]);
  }
  return joined;
}

function memberNode(name: string, value: unknown, lexicon: Lexicon): TreeNode {
  switch (typeof value) {
    case 'number':
      if (value === INVALID_PAGE && /hpa|ptep|root|pfn|pt$/.test(name)) return leaf(name, 'INVALID_PAGE');
      if (/^(role|root_role)$/.test(name)) return wordNode(name, lexicon.decodeRole(value));
      if (DECIMAL.test(name) || !Number.isInteger(value)) return leaf(name, `${value}`);
      return value < 0 ? leaf(name, `${value}`) : hexLeaf(name, value, addressReference(name, BigInt(value)));
    case 'bigint': {
      const layout = WORDS.get(name);
      if (layout) return wordNode(name, decodeWord(layout, value));
      return hexLeaf(name, value, addressReference(name, value));
    }
    case 'boolean':
      return leaf(name, value ? 'true' : 'false');
    case 'string':
      return leaf(name, value);
    case 'object':
      return value === null ? leaf(name, 'NULL') : objectMember(name, value, lexicon);
    default:
      return leaf(name, 'unknown');
  }
}

function objectMember(name: string, value: object, lexicon: Lexicon): TreeNode {
  if (ArrayBuffer.isView(value)) return arrayNode(name, value as Uint32Array | BigUint64Array);
  if (Array.isArray(value))
    return list(name, `${value.length}`, value.length, (i) => memberNode(`[${i}]`, value[i] as unknown, lexicon));
  if (value instanceof Map || value instanceof Set) {
    const entries = [...value.entries()];
    return list(name, `${value.size}`, entries.length, (i) => {
      const [key, member] = entries[i] as [unknown, unknown];
      return memberNode(
        value instanceof Set || (typeof key !== 'string' && typeof key !== 'number') ? `[${i}]` : `[${key}]`,
        member,
        lexicon,
      );
    });
  }
  return objectNode(name, value, lexicon);
}

function arrayNode(
  name: string,
  array: { readonly length: number; readonly [index: number]: number | bigint },
): TreeNode {
  return list(name, `${array.length} elements`, array.length, (i) => hexLeaf(`[${i}]`, array[i]));
}

function addressReference(name: string, value: bigint): { memoryReference?: string } {
  const page = (kind: 'gpa' | 'hpa', address: bigint): { memoryReference: string } => ({
    memoryReference: formatMemoryReference({ space: kind === 'gpa' ? { kind, asId: 0 } : { kind }, address }),
  });
  if (/^(gpa|addr|gva)$/.test(name)) return name === 'gva' ? {} : page('gpa', value);
  if (/gfn/.test(name)) return page('gpa', value << 12n);
  if (/pfn|^spt$/.test(name)) return page('hpa', value << 12n);
  if (/hpa|sptep|ptep/.test(name)) return page('hpa', value);
  return {};
}

function summaryOf(value: object, lexicon: Lexicon): string {
  if (value instanceof KvmMmuPage) return `gfn ${formatHex(value.gfn)} ${lexicon.role(BigInt(value.role >>> 0))}`;
  if (value instanceof KvmVcpu) return `vCPU ${value.vcpu_id}`;
  const { base_gfn, id, as_id, kind, name } = value as Record<string, unknown>;
  if (typeof base_gfn === 'number') return `id ${String(id)} as_id ${String(as_id)} gfn ${formatHex(base_gfn)}`;
  if (typeof kind === 'string') return kind;
  return typeof name === 'string' ? name : '';
}
