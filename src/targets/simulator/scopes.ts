/** What the Variables view shows of a vCPU at the present position, and what paths in the console begin with. */
import type { PhysMemory } from '../../hw/memory';
import type { WalkStep, WhyRecord } from '../../hw/why';
import type { KvmEvent } from '../../kvm/events';
import type { KvmVcpu } from '../../kvm/kvm_host';
import type { Machine, RegisterSet } from '../../kvm/machine';
import type { Lexicon } from '../lexicon';
import { struct } from '../nodes';
import type { Frame, MemoryRef, Scope, TreeNode } from '../target';
import { controlFieldsNode } from './control-fields';
import { mmuNode } from './mmus';
import { registersNode } from './registers';
import { memslotsNode, mmioCacheNode } from './slots';
import { shadowPagesNode, tableAccess, type Tables, tableScopes } from './table-nodes';
import { tlbNode } from './tlb-nodes';
import { vcpuNode } from './vcpu-nodes';
import { describeStep } from './walks';
import { whyNode } from './why-nodes';

/** The present position, as the scopes see it. */
export interface ScopeHost {
  readonly machine: Machine;
  readonly lexicon: Lexicon;
  /** host memory at the stop before: what has changed since is marked */
  readonly before: PhysMemory | null;
  /** the last event that {@link memoKeys} gives this key */
  lastOf(key: string): KvmEvent | null;
  /** @throws TargetError in the midst of a statement */
  setRegisters(index: number, set: RegisterSet): void;
  writeMemory(ref: MemoryRef, data: Uint8Array): void;
}

/** Events whose last occurrence the views show: exits, second-stage faults, and what carries a why-record. */
export function memoKeys(event: KvmEvent): string[] {
  if (event.kind === 'kvm_exit') return [`exit/${event.vcpu}`];
  const keys: string[] = [];
  if ('why' in event && event.why) keys.push(`why/${event.vcpu}`);
  if ('gpa' in event && 'code' in event) keys.push(`fault/${event.vcpu}`);
  return keys;
}

/** The scopes of a frame of a vCPU. */
export function scopes(host: ScopeHost, index: number, frame: Frame): Scope[] {
  const local: Scope[] = frame.locals
    ? [{ name: 'Locals', expensive: false, presentation: 'locals', root: frame.locals }]
    : [];
  const m = host.machine;
  const vcpu = m.vcpus[index];
  const memslots: Scope = { name: 'Memslots', expensive: false, root: memslotsNode(m) };
  if (!vcpu) return [...local, memslots];
  const why = lastWhy(host, index);
  const fields = controlFieldsNode(m, vcpu, lastExit(host, index));
  return [
    ...local,
    { name: 'Registers', expensive: false, presentation: 'registers', root: registersScope(host, index) },
    { name: 'MMU', expensive: false, root: mmuScope(host, vcpu) },
    ...tableScopes(m, vcpu, host.lexicon, tables(host, vcpu)).map((s) => ({
      ...s,
      expensive: false,
    })),
    // Comparing every entry with the tables is work that a view must not do unasked at each stop.
    { name: 'TLB', expensive: true, root: tlbNode(m, vcpu) },
    { name: fields.name, expensive: false, root: fields.root },
    memslots,
    { name: 'Shadow pages', expensive: false, root: shadowPagesNode(m, host.lexicon) },
    ...(why ? [{ name: 'Why', expensive: false, root: whyNode('Why', why, describer(host, index)) }] : []),
  ];
}

function tables(host: ScopeHost, vcpu: KvmVcpu): Tables {
  return tableAccess(host.machine, vcpu, host.lexicon, host.before, (page, entry, value) => {
    const data = new DataView(new ArrayBuffer(page.entrySize));
    if (page.entrySize === 8) data.setBigUint64(0, value, true);
    else data.setUint32(0, Number(value), true);
    const space =
      page.root.space === 'hpa' ? ({ kind: 'hpa' } as const) : ({ kind: 'gpa', asId: page.root.asId ?? 0 } as const);
    host.writeMemory({ space, address: entry.address }, new Uint8Array(data.buffer));
  });
}

function mmuScope(host: ScopeHost, vcpu: KvmVcpu): TreeNode {
  const { kernel } = host.lexicon.options;
  const used = [vcpu.root_mmu, vcpu.guest_mmu, vcpu.nested_mmu].filter(
    (mmu) => mmu === vcpu.root_mmu || mmu === vcpu.mmu || mmu === vcpu.walk_mmu,
  );
  return struct('MMU', '', () => [
    ...used.map((mmu) => mmuNode(vcpu, mmu, kernel)),
    mmioCacheNode(host.machine, vcpu, host.lexicon),
    vcpuNode(vcpu),
  ]);
}

function registersScope(host: ScopeHost, index: number): TreeNode {
  return registersNode(
    () => host.machine,
    index,
    (set) => host.setRegisters(index, set),
  );
}

/** What paths in the console begin with. */
export function topNodes(host: ScopeHost, index: number): TreeNode[] {
  const m = host.machine;
  const vcpu = m.vcpus[index];
  const slots = memslotsNode(m);
  const memslots = struct('memslots', `${m.kvm.memslots.length} address spaces`, () =>
    (slots.children?.() ?? []).map((node, as) => ({ ...node, name: `[${as}]` })),
  );
  if (!vcpu) return [memslots];
  const { kernel } = host.lexicon.options;
  const words = mmuNode(vcpu, vcpu.mmu, kernel).children?.() ?? [];
  const fields = controlFieldsNode(m, vcpu, lastExit(host, index));
  return [
    ...(registersScope(host, index).children?.() ?? []),
    ...[vcpu.root_mmu, vcpu.guest_mmu, vcpu.nested_mmu].map((mmu) => mmuNode(vcpu, mmu, kernel)),
    ...words.filter((w) => /role$/.test(w.name)),
    { ...mmioCacheNode(m, vcpu, host.lexicon), name: 'mmio_cache' },
    { ...fields.root, name: fields.name.toLowerCase() },
    { ...vcpuNode(vcpu), name: 'vcpu' },
    memslots,
  ];
}

/** Words for the steps of a vCPU's walks, in the machine as it is now. */
export function describer(host: ScopeHost, index: number): (step: WalkStep) => { levelName: string; summary: string } {
  const m = host.machine;
  const vcpu = m.vcpus[index] ?? m.vcpus[0];
  return (step) => describeStep(m, vcpu, host.lexicon, step);
}

function lastWhy(host: ScopeHost, vcpu: number): WhyRecord | null {
  const event = host.lastOf(`why/${vcpu}`);
  return event && 'why' in event ? event.why : null;
}

function lastExit(host: ScopeHost, vcpu: number): { exit: KvmEvent | null; fault: KvmEvent | null } {
  return { exit: host.lastOf(`exit/${vcpu}`), fault: host.lastOf(`fault/${vcpu}`) };
}
