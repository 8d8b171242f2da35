/**
 * What a step returned, as a list in the form of events, so that the same comparison and the same report serve both. From the state
 * file on one side, from the simulated machine on the other.
 */
import type { RunResult } from '../kvm/machine';
import type { KvmVcpu } from '../kvm/kvm_host';
import { is_smm } from '../kvm/kvm_host';
import type { Machine } from '../kvm/machine';
import type { NormEvent } from './reenact-events';
import { PORT_ENDS, TABLES_END, TABLES_START } from './reenact-layout';
import { slotGpa } from './reenact-steps';
import type { GuestStep, ProbeOutcome, ProbeRun, ProbeSnapshot, ProbeStep, ProbeVcpu } from './reenact-state';

const WITH_ERROR = new Set([8, 10, 11, 12, 13, 14, 17, 21]);

/** Makes one result. Names begin with `result:` in reports. */
function item(name: string, fields: Record<string, bigint | number>): NormEvent {
  return { name: `result:${name}`, fields: Object.entries(fields).map(([n, v]) => [n, BigInt(v), 'value']), line: 0 };
}

/** Changes of page-table words, cut into halves of four bytes so that the width of an entry does not matter. */
function tableChange(gpa: bigint, before: bigint, after: bigint): NormEvent[] {
  const out: NormEvent[] = [];
  for (const [at, shift] of [
    [0n, 0n],
    [4n, 32n],
  ]) {
    const old = (before >> shift) & 0xffff_ffffn;
    const now = (after >> shift) & 0xffff_ffffn;
    if (old !== now) out.push(item('table-word', { gpa: gpa + at, old, new: now }));
  }
  return out;
}

/** What the state file says that this step returned. */
export function expectedOutcome(step: ProbeStep, run: ProbeRun): NormEvent[] {
  switch (step.kind) {
    case 'guest':
      return guestOutcome(step, step.outcome);
    case 'snapshot':
      return registersOf(step.state);
    case 'memslot':
      return [item('ioctl', { errno: 0 })];
    case 'smm-paging':
      return step.vcpus.map(vcpuItem);
    case 'get-dirty-log':
      return simulatedDirty(step.dirty.map((page) => Number(slotGpa(run, step.n, step.id) / 0x1000n) + page));
    case 'vmexit-seen-by-l1':
      return [item('exit-seen-by-l1', step.fields)];
    default:
      return [];
  }
}

export const registersOf = (s: ProbeSnapshot): NormEvent[] => s.vcpus.map(vcpuItem);

function vcpuItem(v: ProbeVcpu): NormEvent {
  const { vcpu, cr0, cr2, cr3, cr4, efer, rip, rsp, rflags, cpl, smm } = v;
  return item('registers', { vcpu, cr0, cr2, cr3, cr4, efer, rip, rsp, rflags, cpl, smm });
}

/** The same of a simulated vCPU. */
export function simulatedRegisters(vcpu: KvmVcpu): NormEvent {
  const s = vcpu.regs;
  return vcpuItem({
    vcpu: vcpu.vcpu_id,
    mode: '',
    cr0: s.cr0,
    cr2: s.cr2,
    cr3: s.cr3,
    cr4: s.cr4,
    efer: s.efer,
    rip: s.rip,
    rsp: s.gpr[4],
    rflags: s.rflags,
    cpl: s.cpl,
    smm: is_smm(vcpu) ? 1 : 0,
  });
}

function guestOutcome(step: GuestStep, o: ProbeOutcome): NormEvent[] {
  const out: NormEvent[] = [];
  for (const e of o.exits) {
    if ('gpa' in e)
      out.push(item('mmio', { gpa: e.gpa, len: e.len, write: e.write ? 1 : 0, data: e.data, smm: e.smm }));
    else if ('port' in e) out.push(item('io', { port: e.port, smm: e.smm }));
    else out.push(item('exit', { [e.reason]: 1 }));
  }
  out.push(item('end', { [o.end]: 1 }));
  if (o.end === 'fault') {
    const vector = o.vector ?? -1;
    const fault: Record<string, bigint | number> = { vector };
    if (WITH_ERROR.has(vector)) fault.error = o.error ?? 0n;
    fault.cr2 = o.cr2 ?? 0n;
    out.push(item('fault', fault));
  } else if (o.result !== null) out.push(item('value', { rax: o.result }));
  if (o.smmAfter !== null) out.push(item('smm', { smm: o.smmAfter }));
  if (o.registers) out.push(item('control', { ...o.registers }));
  for (const c of o.ptChanges) out.push(...tableChange(c.gpa, c.old, c.new));
  void step;
  return out;
}

/** Watches the results of guest steps on a simulated machine: registers before and after, and the words of the guest's tables. */
export class OutcomeProbe {
  private tables: Uint8Array;
  private before: { smm: boolean; cr0: bigint; cr3: bigint; cr4: bigint; efer: bigint } | null = null;

  constructor(readonly machine: Machine) {
    this.tables = this.readTables();
  }

  private readTables(): Uint8Array {
    const size = Number(TABLES_END - TABLES_START);
    if (!this.machine.host.find('low')) return new Uint8Array(size);
    return this.machine.readBacking('low', Number(TABLES_START), size);
  }

  /** Call before a guest step runs (after its registers were set, before the guest is entered; MMU registers are not set by steps). */
  begin(vcpu: KvmVcpu): void {
    const { cr0, cr3, cr4, efer } = vcpu.regs;
    this.before = { smm: is_smm(vcpu), cr0, cr3, cr4, efer };
  }

  /** What the step came to. */
  end(vcpu: KvmVcpu, step: GuestStep, result: RunResult): NormEvent[] {
    const out: NormEvent[] = [];
    let port = -1;
    for (const e of result.exits) {
      if (e.reason === 'mmio') {
        for (const f of e.fragments) {
          const mask = f.len >= 8 ? 0xffff_ffff_ffff_ffffn : (1n << BigInt(8 * f.len)) - 1n;
          out.push(
            item('mmio', { gpa: f.gpa, len: f.len, write: e.write ? 1 : 0, data: f.data & mask, smm: e.smm ?? 0 }),
          );
        }
      } else if (e.reason === 'io') {
        port = e.port;
        out.push(item('io', { port: e.port, smm: e.smm ?? 0 }));
      } else out.push(item('exit', { [e.reason === 'hlt' || e.reason === 'shutdown' ? e.reason : 'other']: 1 }));
    }
    const end =
      result.end === 'io'
        ? (PORT_ENDS[port] ?? 'port')
        : result.end === 'limit'
          ? 'stuck'
          : result.end === 'fault'
            ? 'undelivered-fault'
            : result.end;
    out.push(item('end', { [end]: 1 }));
    const smm = is_smm(vcpu);
    const s = vcpu.regs;
    if (end === 'fault') {
      const vector = Number(s.gpr[6] & 0xffff_ffffn);
      const fault: Record<string, bigint | number> = { vector };
      if (WITH_ERROR.has(vector)) fault.error = this.errorCode(smm ? 1 : 0, s.gpr[4]);
      fault.cr2 = s.cr2;
      out.push(item('fault', fault));
    } else if (step.op === 'read') out.push(item('value', { rax: s.gpr[0] & 0xffff_ffffn }));
    const b = this.before;
    if (b && b.smm !== smm) out.push(item('smm', { smm: smm ? 1 : 0 }));
    if (b && (b.cr0 !== s.cr0 || b.cr3 !== s.cr3 || b.cr4 !== s.cr4 || b.efer !== s.efer))
      out.push(item('control', { cr0: s.cr0, cr3: s.cr3, cr4: s.cr4, efer: s.efer }));
    out.push(...this.changes());
    return out;
  }

  /** Top of the handler's stack; stacks of ring 0 are identity-mapped. */
  private errorCode(as_id: number, rsp: bigint): number {
    const bytes = this.machine.hostRead(as_id, Number(rsp), 4);
    return bytes ? new DataView(bytes.buffer).getUint32(0, true) : 0;
  }

  private changes(): NormEvent[] {
    const now = this.readTables();
    const a = new DataView(this.tables.buffer);
    const b = new DataView(now.buffer);
    const out: NormEvent[] = [];
    for (let o = 0; o < now.length; o += 4) {
      const before = a.getUint32(o, true);
      const after = b.getUint32(o, true);
      if (before !== after) out.push(item('table-word', { gpa: TABLES_START + BigInt(o), old: before, new: after }));
    }
    this.tables = now;
    return out;
  }
}

export const simulatedIoctl = (errno: number): NormEvent => item('ioctl', { errno });
export const simulatedDirty = (gfns: readonly number[]): NormEvent[] => gfns.map((gfn) => item('dirty', { gfn }));
export const simulatedExitWords = (fields: Record<string, bigint>): NormEvent => item('exit-seen-by-l1', fields);
