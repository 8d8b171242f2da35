/** Page tables in the variables view: present entries only, level by level, in pages; raw value and meaning side by side. */
import type { PhysMemory } from '../../hw/memory';
import type { KvmMmuPage, KvmVcpu } from '../../kvm/kvm_host';
import type { Machine } from '../../kvm/machine';
import { role_get } from '../../kvm/roles';
import { formatHex, formatSize, parseNumber } from '../../words/address';
import type { Lexicon } from '../lexicon';
import { fieldNodes, hexLeaf, leaf, list, struct, wordNode } from '../nodes';
import {
  formatMemoryReference,
  type TableEntry,
  type TablePage,
  type TableRoot,
  TargetError,
  type TreeNode,
} from '../target';
import { tablePage, tableRoots } from './tables';

/** A machine's tables, to read and to change. */
export interface Tables {
  open(root: string, path: readonly number[]): TablePage;
  write(page: TablePage, entry: TableEntry, value: bigint): void;
}

/** The node of one tree, from its root table. */
export function tableRootNode(tables: Tables, root: TableRoot, name: string): TreeNode {
  return tableNode(tables, tables.open(root.id, []), name, root.title);
}

/** Indexes of the entries worth showing: present ones, cached MMIO, and whatever else is not empty. */
function shown(page: TablePage): number[] {
  const indexes: number[] = [];
  for (let i = 0; i < page.count; i++) if (page.entry(i).marks.some((mark) => mark !== 'changed')) indexes.push(i);
  return indexes;
}

function tableNode(tables: Tables, page: TablePage, name: string, title: string): TreeNode {
  const indexes = shown(page);
  return list(
    name,
    `${title}: ${indexes.length} of ${page.count} entries`,
    indexes.length,
    (n) => entryNode(tables, page, indexes[n]),
    {
      type: page.levelName,
      memoryReference: pageReference(page, page.address),
      ...(page.page ? { members: () => [shadowPageLeaf(page)] } : {}),
    },
  );
}

function shadowPageLeaf({ page }: TablePage): TreeNode {
  return page
    ? wordNode('role', page.role, { type: `shadow page of gfn ${formatHex(page.gfn)}` })
    : leaf('role', 'unknown');
}

function pageReference(page: TablePage, address: bigint): string {
  return formatMemoryReference({
    space: page.root.space === 'hpa' ? { kind: 'hpa' } : { kind: 'gpa', asId: page.root.asId ?? 0 },
    address,
  });
}

function entryNode(tables: Tables, page: TablePage, index: number): TreeNode {
  const entry = page.entry(index);
  const name = `[${index}] ${formatHex(entry.from)}`;
  const changed = entry.marks.includes('changed') ? ' (changed)' : '';
  const value = `${formatHex(entry.raw, 16)} ${entry.summary}${mmioText(entry)}${changed}`;
  const more = {
    type: `${page.levelName}E ${index}, covers ${formatSize(page.coverage)}`,
    memoryReference: pageReference(page, entry.address),
    set: (text: string): TreeNode => {
      tables.write(page, entry, entryValue(text, page.entrySize));
      return entryNode(tables, tables.open(page.root.id, page.path), index);
    },
  };
  const decoded = entry.decode();
  if (!entry.descend) return struct(name, value, () => [...bits(entry), ...targetLeaf(page, entry)], more);
  const below = tables.open(page.root.id, [...page.path, index]);
  const indexes = shown(below);
  return list(name, `${value}, ${indexes.length} below`, indexes.length, (n) => entryNode(tables, below, indexes[n]), {
    ...more,
    members: () => [
      ...(decoded ? [wordNode('entry', decoded, { memoryReference: more.memoryReference })] : []),
      ...(below.page ? [shadowPageLeaf(below)] : []),
    ],
  });
}

/** @throws TargetError for what does not fit an entry */
function entryValue(text: string, size: 4 | 8): bigint {
  let value: bigint;
  try {
    value = parseNumber(text);
  } catch (error) {
    throw new TargetError((error as Error).message);
  }
  if (value >> BigInt(size * 8))
    throw new TargetError(`0x${value.toString(16)} does not fit an entry of ${size} bytes`);
  return value;
}

/** A cached MMIO spte says whether it is still good. */
function mmioText({ mmio, marks }: TableEntry): string {
  if (!mmio) return '';
  if (!marks.includes('stale')) return ' [MMIO]';
  return ` [MMIO, stale: the memslots are at generation ${mmio.currentGeneration}]`;
}

function bits(entry: TableEntry): TreeNode[] {
  const decoded = entry.decode();
  return decoded ? fieldNodes(decoded) : [hexLeaf('raw', entry.raw)];
}

function targetLeaf(page: TablePage, entry: TableEntry): TreeNode[] {
  if (entry.target === null) return [];
  const kind = page.root.kind === 'guest' ? 'gpa' : 'hpa';
  const space = kind === 'gpa' ? ({ kind, asId: page.root.asId ?? 0 } as const) : ({ kind } as const);
  return [
    hexLeaf(kind, entry.target, {
      memoryReference: formatMemoryReference({ space, address: entry.target }),
      type: 'first byte of the page',
    }),
  ];
}

/** Scopes of page tables: the guest's, and those of every root KVM keeps. */
export function tableScopes(
  m: Machine,
  vcpu: KvmVcpu,
  lexicon: Lexicon,
  tables: Tables,
): { name: string; root: TreeNode }[] {
  const roots = tableRoots(m, vcpu, lexicon);
  const guest = roots.find((r) => r.kind === 'guest');
  const second = roots.filter((r) => r.kind !== 'guest');
  const name = m.config.paging === 'ept' ? 'EPT' : m.config.paging === 'npt' ? 'NPT' : 'Shadow page tables';
  return [
    {
      name: 'Guest page tables',
      root: guest ? tableRootNode(tables, guest, 'Guest page tables') : emptyTree('paging is off'),
    },
    { name, root: secondScope(tables, second, name) },
  ];
}

function secondScope(tables: Tables, roots: readonly TableRoot[], name: string): TreeNode {
  if (roots.length === 0) return emptyTree('no root yet: KVM makes one at the next entry');
  if (roots.length === 1) return tableRootNode(tables, roots[0], name);
  return struct(name, `${roots.length} roots`, () =>
    roots.map((r) => tableRootNode(tables, r, r.current ? 'root' : `root ${formatHex(r.address)}`)),
  );
}

function emptyTree(why: string): TreeNode {
  return struct('none', why, () => [leaf('(none)', why)]);
}

/** kvm->arch: shadow pages, those of the TDP MMU among them. */
export function shadowPagesNode(m: Machine, lexicon: Lexicon): TreeNode {
  const pages: KvmMmuPage[] = [...m.kvm.sp_by_pfn.values()];
  return list('Shadow pages', `${pages.length}`, pages.length, (i) => shadowPageNode(m, pages[i], i, lexicon), {
    members: () => [
      leaf('mmu_valid_gen', `${m.kvm.mmu_valid_gen}`),
      leaf('n_used_mmu_pages', `${m.kvm.n_used_mmu_pages}`),
      leaf('n_max_mmu_pages', `${m.kvm.n_max_mmu_pages}`),
      leaf('tdp_mmu_pages', `${m.kvm.tdp_mmu_pages}`),
      leaf('indirect_shadow_pages', `${m.kvm.indirect_shadow_pages}`),
    ],
  });
}

function shadowPageNode(m: Machine, sp: KvmMmuPage, index: number, lexicon: Lexicon): TreeNode {
  const roots = sp.tdp_mmu_page ? sp.tdp_mmu_root_count : sp.root_count;
  const marks = [sp.tdp_mmu_page ? 'TDP MMU' : '', roots ? `root_count ${roots}` : '', sp.unsync ? 'unsync' : '']
    .filter(Boolean)
    .join(', ');
  const hpa = BigInt(sp.spt) << 12n;
  const level = role_get(sp.role, m.roles.level);
  return struct(
    `[${index}]`,
    `level ${level} gfn ${formatHex(sp.gfn)} spt ${formatHex(hpa)}${marks ? `, ${marks}` : ''}`,
    () => [
      wordNode('role', lexicon.decodeRole(sp.role)),
      hexLeaf('gfn', sp.gfn),
      hexLeaf('spt', hpa, { memoryReference: formatMemoryReference({ space: { kind: 'hpa' }, address: hpa }) }),
      leaf('mmu_valid_gen', `${sp.mmu_valid_gen}`),
      leaf('root_count', `${roots}`),
      leaf('unsync', `${sp.unsync}`),
      leaf('unsync_children', `${sp.unsync_children}`),
      leaf('write_flooding_count', `${sp.write_flooding_count}`),
      struct('parent_ptes', `${sp.parent_ptes.size}`, () => [...sp.parent_ptes].map((p, i) => hexLeaf(`[${i}]`, p))),
    ],
    { type: 'struct kvm_mmu_page' },
  );
}

/** How tables are opened, bound to a machine. */
export function tableAccess(
  m: Machine,
  vcpu: KvmVcpu,
  lexicon: Lexicon,
  before: PhysMemory | null,
  write: Tables['write'],
): Tables {
  return { open: (root, path) => tablePage(m, vcpu, lexicon, root, path, before), write };
}
