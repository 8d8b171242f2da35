/** What each statement does to the machine. Knows nothing of positions, loops and expectations: those are the interpreter's. */
import type { KvmVcpu } from '../kvm/kvm_host';
import type { IoctlResult, Machine } from '../kvm/machine';
import { type Going, runCode, runInsns, type RunProgress } from './execute-guest';
import { clearDirtyLog, getDirtyLog, setMemslot } from './execute-slots';
import { mapPages, type TablePages, unmapPages } from './guest-tables';
import { readSpte } from './inspect';
import type { Op, Statement } from './program';
import { registerSet } from './registers';

/** What statements before it leave to a statement. */
export interface Before {
  /** where `map` takes table pages from; null before a `tables` */
  readonly tables: TablePages | null;
  /** of a `run` that has begun: how far it is */
  readonly going: Going | null;
}

/** What executing an action gave; absent: nothing of the kind. */
export interface ActionResult extends RunProgress {
  readonly ioctl?: IoctlResult;
  readonly dirty?: readonly number[];
  readonly subpages?: readonly number[];
  readonly tables?: TablePages;
  readonly error?: string | null;
}

/** User space's own mistakes (a mapping that cannot be made) come as errors with a sentence. Never used around the guest. */
export function attempt(f: () => unknown): ActionResult {
  try {
    f();
    return {};
  } catch (e) {
    if (e instanceof Error && e.name === 'Error') return { error: e.message };
    throw e;
  }
}

/**
 * Executes a statement that does something; `expect` and the markers do nothing here.
 * @param slice instructions of a `run` after which to come back with {@link ActionResult.going}
 */
export function execute(machine: Machine, statement: Statement, before: Before, slice = Infinity): ActionResult {
  const { op } = statement;
  switch (op.kind) {
    case 'backing':
      return attempt(() =>
        machine.backing(op.name, op.size, { huge: op.huge, readonly: op.readonly, hva: op.hva ?? undefined }),
      );
    case 'frames': {
      const huge = machine.host.find(op.backing)?.huge ?? false;
      return attempt(() => machine.setFrames(op.backing, op.offset, op.pfns, huge ? 512 : 1));
    }
    case 'memslot-add':
    case 'memslot-move':
    case 'memslot-flags':
    case 'memslot-delete':
      return { ioctl: setMemslot(machine, op) };
    case 'invalidate':
      return attempt(() => machine.invalidateBacking(op.host.backing, op.host.offset, op.size));
    case 'dirty-log-get':
      return getDirtyLog(machine, op.as_id, op.id);
    case 'dirty-log-clear':
      return { ioctl: clearDirtyLog(machine, op) };
    case 'subpages-set': {
      const { errno, text } = machine.setSubpages(op.gfn, op.access);
      return { ioctl: { errno, text } };
    }
    case 'subpages-get': {
      const { errno, text, access } = machine.getSubpages(op.gfn, op.count);
      return { ioctl: { errno, text }, subpages: errno === 0 ? access : undefined };
    }
    case 'vcpu':
      return attempt(() => {
        const vcpu = machine.addVcpu();
        machine.setRegs(vcpu, registerSet(op.registers, vcpu.regs, true));
      });
    case 'tables':
      return { tables: { as_id: op.as_id, next: op.address } };
    case 'write': {
      if (op.host) {
        const { backing, offset } = op.host;
        return attempt(() => machine.writeBacking(backing, offset, op.bytes));
      }
      const gpa = op.gpa ?? 0;
      return machine.hostWrite(op.as_id, gpa, op.bytes)
        ? {}
        : {
            error: `no memslot of address space ${op.as_id} holds all of gpa 0x${gpa.toString(16)}, ${op.bytes.length} bytes: user space has no memory there`,
          };
    }
    case 'vmcb':
      for (const { at, bytes } of op.writes)
        if (!machine.hostWrite(op.as_id, op.gpa + at, bytes))
          return {
            error: `no memslot of address space ${op.as_id} holds gpa 0x${(op.gpa + at).toString(16)}: user space has no memory there`,
          };
      return {};
    case 'setregs':
    case 'map':
    case 'unmap':
    case 'smi':
    case 'poke':
    case 'insn':
    case 'run': {
      const vcpu = machine.vcpus[statement.vcpu];
      return vcpu ? onVcpu(machine, vcpu, op, before, slice) : { error: `vCPU ${statement.vcpu} does not exist` };
    }
    default:
      return {};
  }
}

/** Statements about a vCPU that there is. */
function onVcpu(
  machine: Machine,
  vcpu: KvmVcpu,
  op: Extract<Op, { kind: 'setregs' | 'map' | 'unmap' | 'smi' | 'poke' | 'insn' | 'run' }>,
  before: Before,
  slice: number,
): ActionResult {
  switch (op.kind) {
    case 'setregs':
      machine.setRegs(vcpu, registerSet(op.registers, vcpu.regs, false));
      return {};
    case 'map': {
      if (!before.tables) return { error: 'map needs pages for guest page tables: write tables at GPA before' };
      const { pages, error } = mapPages(machine, vcpu.regs, before.tables, op);
      return { tables: pages, error };
    }
    case 'unmap':
      return { error: unmapPages(machine, vcpu.regs, before.tables ?? { as_id: 0, next: 0 }, op.gva, op.count) };
    case 'smi':
      machine.smi(vcpu);
      return {};
    case 'poke': {
      const r = readSpte(machine, vcpu, op.space, op.address, op.level);
      if (typeof r === 'string') return { error: r };
      machine.mem.writeQ(r.sptep, Number(op.value & 0xffffffffn), Number(op.value >> 32n));
      return {};
    }
    case 'insn':
      return { run: runInsns(machine, vcpu, op.insn, op.modifiers) };
    case 'run':
      return runCode(machine, vcpu, op, before.going, slice);
  }
}
