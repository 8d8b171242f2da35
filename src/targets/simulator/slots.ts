/** Memslots of both address spaces, and the vCPU's one-entry MMIO cache. */
import {
  is_smm,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  KVM_MEM_X86_SMRAM,
  KVM_MEMSLOT_INVALID,
  type KvmMemorySlot,
  type KvmVcpu,
} from '../../kvm/kvm_host';
import type { Machine } from '../../kvm/machine';
import { formatHex, formatSize } from '../../words/address';
import type { Lexicon } from '../lexicon';
import { hexLeaf, leaf, list, struct } from '../nodes';
import { formatMemoryReference, type MemslotState, type TreeNode } from '../target';

const FLAGS: readonly (readonly [number, string])[] = [
  [KVM_MEM_LOG_DIRTY_PAGES, 'LOG_DIRTY_PAGES'],
  [KVM_MEM_READONLY, 'READONLY'],
  [KVM_MEMSLOT_INVALID, 'INVALID'],
  [KVM_MEM_X86_SMRAM, 'X86_SMRAM'],
];

export function slotState(m: Machine, slot: KvmMemorySlot): MemslotState {
  return {
    asId: slot.as_id,
    id: slot.id,
    gpa: BigInt(slot.base_gfn) << 12n,
    size: BigInt(slot.npages) << 12n,
    hva: slot.userspace_addr,
    flags: FLAGS.filter(([bit]) => slot.flags & bit).map(([, name]) => name),
    backing: m.host.lookup(slot.userspace_addr)?.backing.name ?? null,
  };
}

/** All slots by address space and rising gpa. */
export function slotStates(m: Machine): MemslotState[] {
  return m.kvm.memslots.flatMap((set) =>
    [...set.slots].sort((a, b) => a.base_gfn - b.base_gfn).map((slot) => slotState(m, slot)),
  );
}

/** The Memslots scope: one node per address space. */
export function memslotsNode(m: Machine): TreeNode {
  return struct('Memslots', '', () =>
    m.kvm.memslots.map((set, as) => {
      const slots = [...set.slots].sort((a, b) => a.base_gfn - b.base_gfn);
      return list(
        `as_id ${as}`,
        `${slots.length} slot${slots.length === 1 ? '' : 's'}, generation ${set.generation}${as === 1 ? ' (SMM)' : ''}`,
        slots.length,
        (i) => slotNode(m, slots[i], i),
        {
          evaluateName: `memslots[${as}]`,
          members: () => [leaf('generation', `${set.generation}`, { evaluateName: `memslots[${as}].generation` })],
        },
      );
    }),
  );
}

function slotNode(m: Machine, slot: KvmMemorySlot, index: number): TreeNode {
  const s = slotState(m, slot);
  const end = s.gpa + s.size - 1n;
  const logged = slot.dirty_bitmap;
  const dirty = logged ? countBits(logged) : 0;
  return struct(
    `[${index}]`,
    `id ${s.id}: gpa ${formatHex(s.gpa)}..${formatHex(end)} ${formatSize(s.size)}${s.flags.length ? ` ${s.flags.join('|')}` : ''}${s.backing ? ` = ${s.backing}` : ''}`,
    () => [
      leaf('id', `${s.id}`),
      hexLeaf('base_gfn', slot.base_gfn),
      hexLeaf('npages', slot.npages),
      hexLeaf('userspace_addr', s.hva),
      leaf('flags', `${formatHex(slot.flags)} ${s.flags.join('|')}`.trim()),
      leaf('dirty_bitmap', logged ? `${dirty} dirty page${dirty === 1 ? '' : 's'}` : 'NULL'),
      struct('lpage_info', '', () =>
        slot.arch.lpage_info.map((counts, i) => {
          const disallowed = counts.reduce((n, c) => n + (c !== 0 ? 1 : 0), 0);
          return leaf(`level ${i + 2}`, `${disallowed} of ${counts.length} disallow_lpage`);
        }),
      ),
      struct('rmap', '', () => slot.arch.rmap.map((gfns, i) => leaf(`level ${i + 1}`, `${gfns.size} mapped`))),
      leaf('gfn_write_track', `${slot.arch.gfn_write_track.size} tracked`),
    ],
    {
      type: 'struct kvm_memory_slot',
      memoryReference: formatMemoryReference({ space: { kind: 'gpa', asId: s.asId }, address: s.gpa }),
    },
  );
}

function countBits(words: Uint32Array): number {
  let n = 0;
  for (let w of words) for (; w; w &= w - 1) n++;
  return n;
}

/** mmio_gva, mmio_gfn, mmio_access, mmio_gen of the vCPU. */
export function mmioCacheNode(m: Machine, vcpu: KvmVcpu, lexicon: Lexicon): TreeNode {
  const as = m.caps.mmioCacheGenerationOfAs0 || m.kvm.memslots.length < 2 ? 0 : is_smm(vcpu) ? 1 : 0;
  const current = m.kvm.memslots[as]?.generation ?? 0;
  const valid = vcpu.mmio_gfn !== 0 && vcpu.mmio_gen === current;
  const state =
    vcpu.mmio_gfn === 0
      ? 'empty'
      : valid
        ? `gfn ${formatHex(vcpu.mmio_gfn)}`
        : `gfn ${formatHex(vcpu.mmio_gfn)}, stale`;
  return struct(
    'MMIO cache',
    state,
    () => [
      hexLeaf('mmio_gva', vcpu.mmio_gva, {
        type: vcpu.mmio_gva === 0n ? 'no address is cached' : 'page of the linear address',
      }),
      hexLeaf('mmio_gfn', vcpu.mmio_gfn),
      leaf('mmio_access', `${vcpu.mmio_access} (${lexicon.access(vcpu.mmio_access)})`),
      leaf('mmio_gen', `${vcpu.mmio_gen}${valid ? '' : ` (address space ${as} is at ${current})`}`),
    ],
    { type: 'one-entry MMIO cache of the vCPU', evaluateName: 'mmio_cache' },
  );
}
