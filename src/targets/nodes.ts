/** Making the tree nodes that variables views show: leaves, structs, decoded words and long lists. */
import { formatHex } from '../words/address';
import { bitSpan, type Decoded } from '../words/word';
import type { TreeNode } from './target';

type More = Partial<Omit<TreeNode, 'name' | 'value' | 'children'>>;

export function leaf(name: string, value: string, more: More = {}): TreeNode {
  return { name, value, ...more };
}

/** A 64-bit number that means an address or a count: hexadecimal. */
export function hexLeaf(name: string, value: bigint | number, more: More = {}): TreeNode {
  return leaf(name, formatHex(value), more);
}

/** A node whose children have names. They are made when somebody opens it. */
export function struct(name: string, value: string, members: () => readonly TreeNode[], more: More = {}): TreeNode {
  return {
    name,
    value,
    ...more,
    children: (filter, start = 0, count) => (filter === 'indexed' ? [] : page(members(), start, count)),
  };
}

/**
 * A node with many children of one kind, made a page at a time, and possibly some that have names.
 * @param make the child of a number below `count`
 */
export function list(
  name: string,
  value: string,
  count: number,
  make: (index: number) => TreeNode,
  more: More & { readonly members?: () => readonly TreeNode[] } = {},
): TreeNode {
  const { members, ...rest } = more;
  const indexed = (start: number, wanted: number): TreeNode[] =>
    Array.from({ length: Math.max(0, Math.min(wanted, count - start)) }, (_, i) => make(start + i));
  return {
    name,
    value,
    ...rest,
    indexed: count,
    ...(members ? { named: members().length } : { named: 0 }),
    children: (filter, start = 0, wanted = Infinity) => {
      if (filter === 'named') return page(members?.() ?? [], start, wanted);
      if (filter === 'indexed') return indexed(start, wanted);
      const all = [...(members?.() ?? []), ...indexed(0, count)];
      return page(all, start, wanted);
    },
  };
}

function page(nodes: readonly TreeNode[], start: number, count: number | undefined): TreeNode[] {
  return count === undefined || count === Infinity ? nodes.slice(start) : nodes.slice(start, start + count);
}

/**
 * A word with its fields as children, bit by bit.
 * @param because per field: where its value comes from now
 */
export function wordNode(
  name: string,
  decoded: Decoded,
  more: More & { readonly because?: Readonly<Record<string, string>> } = {},
): TreeNode {
  const { because = {}, ...rest } = more;
  const { evaluateName } = rest;
  const value = `${formatHex(decoded.value)} ${decoded.summary}`.trimEnd();
  return struct(name, value, () => fieldNodes(decoded, because, evaluateName), { type: decoded.layout.title, ...rest });
}

/** The fields of a word as nodes; bits without a meaning come last, if there are any set. */
export function fieldNodes(
  decoded: Decoded,
  because: Readonly<Record<string, string>> = {},
  path?: string,
): TreeNode[] {
  const nodes = decoded.fields.map(({ field, text }) => {
    const origin = because[field.name];
    return leaf(field.name, origin === undefined ? text : `${text} ← ${origin}`, {
      type: `bit${field.width === 1 ? '' : 's'} ${bitSpan(field)}: ${field.meaning}`,
      ...(path === undefined ? {} : { evaluateName: `${path}.${field.name}` }),
    });
  });
  if (decoded.reserved !== 0n)
    nodes.push(leaf('(no meaning)', formatHex(decoded.reserved), { type: 'bits in no field of this layout' }));
  return nodes;
}
