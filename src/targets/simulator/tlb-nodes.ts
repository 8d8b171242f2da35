/** What a vCPU's processor remembers of translations, in the variables view: pages, paging-structure entries, guest-physical mappings. */
import { RIGHT_NX, RIGHT_U, RIGHT_W } from '../../hw/access';
import type { TlbEntry, TlbKind } from '../../hw/tlb';
import { checkTlb, type CheckedTlbEntry } from '../../hw/tlb-stale';
import type { KvmVcpu } from '../../kvm/kvm_host';
import type { Machine } from '../../kvm/machine';
import { formatHex, formatSize } from '../../words/address';
import { hexLeaf, leaf, list, struct } from '../nodes';
import { formatMemoryReference, type TreeNode } from '../target';
import { undisturbed } from './guest-memory';

const GROUPS: readonly (readonly [TlbKind, string, string])[] = [
  ['page', 'Pages', 'translations of linear addresses'],
  ['paging-structure', 'Paging-structure caches', 'entries of upper levels of the guest’s tables'],
  ['guest-physical', 'Guest-physical mappings', 'translations of the second stage alone'],
];

/**
 * The TLB and the paging-structure caches of a vCPU, each entry compared with what the tables in memory say now. Nothing is read before
 * the node is opened, and opening it changes neither the caches nor the memory.
 */
export function tlbNode(m: Machine, vcpu: KvmVcpu): TreeNode {
  return struct('TLB', '', () => {
    const entries = undisturbed(vcpu, () => checkTlb(vcpu.translator));
    return GROUPS.map(([kind, name, type]) => {
      const own = entries.filter((e) => e.kind === kind).sort(byFreshnessAndAddress);
      const stale = own.filter((e) => e.freshness.state === 'stale').length;
      const count = `${own.length} ${own.length === 1 ? 'entry' : 'entries'}`;
      const value = stale ? `${count}, ${stale} stale` : count;
      return list(name, value, own.length, (i) => entryNode(m, vcpu, own[i]), { type });
    });
  });
}

/** Stale entries first: they are what one looks for, and a list of a thousand comes in pages. */
function byFreshnessAndAddress(a: CheckedTlbEntry, b: CheckedTlbEntry): number {
  const late = (e: CheckedTlbEntry): number => (e.freshness.state === 'stale' ? 0 : 1);
  return late(a) - late(b) || (a.address < b.address ? -1 : a.address > b.address ? 1 : a.shift - b.shift);
}

function entryNode(m: Machine, vcpu: KvmVcpu, entry: CheckedTlbEntry): TreeNode {
  const { freshness } = entry;
  const mark =
    freshness.state === 'stale'
      ? `stale: ${freshness.why}; `
      : freshness.state === 'unknown'
        ? `not checked: ${freshness.why}; `
        : '';
  const tag = m.config.vendor === 'amd' ? 'ASID' : 'VPID';
  const { context } = entry;
  const physical = entry.kind === 'guest-physical';
  const tags = [
    ...(entry.global ? ['global'] : []),
    ...(physical ? [] : [...(entry.global ? [] : [`PCID ${context.pcid}`]), `${tag} ${context.vpid}`]),
  ];
  const value = [
    `${mark}${formatSize(1n << BigInt(entry.shift))}`,
    `-> ${targetText(entry)}`,
    rightsText(entry),
    ...tags,
  ];
  const space = physical ? ({ kind: 'gpa', asId: 0 } as const) : ({ kind: 'gva', vcpu: vcpu.vcpu_id } as const);
  return struct(
    formatHex(entry.address),
    value.filter(Boolean).join(' '),
    () => [
      leaf('state', freshness.state === 'fresh' ? 'fresh' : `${freshness.state}: ${freshness.why}`, {
        type: 'whether the tables in memory still say the same',
      }),
      leaf('size', formatSize(1n << BigInt(entry.shift))),
      ...(entry.kind === 'paging-structure'
        ? [hexLeaf('table', entry.target, { type: 'guest-physical address of the next table' })]
        : [
            ...(physical ? [] : [hexLeaf('gpa', entry.gpa, { type: 'guest-physical address of the page' })]),
            hexLeaf('hpa', entry.target, {
              type: 'host-physical address of the page',
              memoryReference: formatMemoryReference({ space: { kind: 'hpa' }, address: entry.target }),
            }),
          ]),
      ...(physical ? [] : [leaf('rights', rightsText(entry), { type: 'of the guest’s tables' })]),
      ...(entry.serves ? [leaf('serves', entry.serves, { type: 'accesses that need no walk' })] : []),
      ...(physical
        ? []
        : [
            leaf('global', `${entry.global}`),
            leaf('PCID', entry.global ? 'any' : `${context.pcid}`),
            leaf(tag, `${context.vpid}`),
          ]),
      leaf('second stage', context.stage2 || 'none'),
      leaf('level', `${entry.level}`),
    ],
    { memoryReference: formatMemoryReference({ space, address: entry.address }) },
  );
}

function targetText(entry: TlbEntry): string {
  if (entry.kind === 'paging-structure') return `table ${formatHex(entry.target)} of level ${entry.level - 1}`;
  if (entry.kind === 'guest-physical' || entry.context.stage2 === '') return `hpa ${formatHex(entry.target)}`;
  return `gpa ${formatHex(entry.gpa)}, hpa ${formatHex(entry.target)}`;
}

/** `W U NX`, as the table entries are written; of a guest-physical mapping what it serves. */
function rightsText({ kind, rights, serves }: TlbEntry): string {
  if (kind === 'guest-physical') return serves;
  return `${rights & RIGHT_W ? 'W' : 'R'}${rights & RIGHT_U ? ' U' : ''}${rights & RIGHT_NX ? ' NX' : ''}`;
}
