/** Ioctls on memslots as statements write them: what the statement leaves out is asked of the machine. */
import type { IoctlResult, Machine } from '../kvm/machine';
import type { Op } from './program';

/** KVM_SET_USER_MEMORY_REGION; what a statement does not name stays as the slot has it. */
export function setMemslot(machine: Machine, op: Extract<Op, { kind: `memslot-${string}` }>): IoctlResult {
  const old = machine.kvm.memslots[op.as_id]?.byId(op.id) ?? null;
  const keep = {
    gpa: (old?.base_gfn ?? 0) * 4096,
    size: (old?.npages ?? 0) * 4096,
    hva: old?.userspace_addr ?? 0n,
    flags: old?.flags ?? 0,
  };
  const region = { as_id: op.as_id, id: op.id };
  switch (op.kind) {
    case 'memslot-add': {
      const hva = op.host ? (machine.host.find(op.host.backing)?.hva ?? 0n) + BigInt(op.host.offset) : (op.hva ?? 0n);
      return machine.set_user_memory_region({ ...region, gpa: op.gpa, size: op.size, hva, flags: op.flags });
    }
    case 'memslot-move':
      return machine.set_user_memory_region({ ...region, ...keep, gpa: op.gpa });
    case 'memslot-flags':
      return machine.set_user_memory_region({ ...region, ...keep, flags: op.flags });
    case 'memslot-delete':
      return machine.set_user_memory_region({ ...region, ...keep, size: 0 });
  }
}

/**
 * KVM_GET_DIRTY_LOG.
 * @returns `dirty`: the frame numbers that it reports, undefined where the ioctl fails
 */
export function getDirtyLog(
  machine: Machine,
  as_id: number,
  id: number,
): { ioctl: IoctlResult; dirty?: readonly number[] } {
  const base = machine.kvm.memslots[as_id]?.byId(id)?.base_gfn ?? 0;
  const { errno, text, bitmap } = machine.getDirtyLog(as_id, id);
  const gfns: number[] = [];
  if (errno === 0)
    for (const [word, bits] of bitmap.entries())
      for (let bit = 0; bit < 32; bit++) if ((bits >>> bit) & 1) gfns.push(base + word * 32 + bit);
  return { ioctl: { errno, text }, dirty: errno === 0 ? gfns : undefined };
}

/** KVM_CLEAR_DIRTY_LOG with all bits of a slot set, or all of a part of it. */
export function clearDirtyLog(machine: Machine, op: Extract<Op, { kind: 'dirty-log-clear' }>): IoctlResult {
  const slot = machine.kvm.memslots[op.as_id]?.byId(op.id);
  const first = op.part ? Math.floor(op.part.gpa / 4096) - (slot?.base_gfn ?? 0) : 0;
  const pages = op.part ? op.part.size / 4096 : (slot?.npages ?? 0);
  return machine.clearDirtyLog(op.as_id, op.id, first, pages, new Uint32Array(Math.ceil(pages / 32)).fill(0xffffffff));
}
