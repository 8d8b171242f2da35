/** Each step of a probe as statements, and what it returned as expectations. */
import { CR0 } from '../hw/regs';
import { CR0_BASE, is64, modeControls } from './reenact-layout';
import { VMCB_EXIT_WORDS, VMX_EXIT_WORDS, VMX_RESUME_VALUES } from './reenact-nested';
import { addSlot, firstFrames, inAs, usedBackings } from './reenact-setup';
import type { GuestStep, ProbeFrames, ProbeRun, ProbeSnapshot, ProbeStep } from './reenact-state';
import { cr0, cr4, efer, flags, hex, MEMSLOT_FLAGS, type Writer } from './reenact-writer';

const IDT_LIMIT_ZERO = 'IDT limit set to 0 by the host';
const SMI_NOTE = 'KVM_SMI';
const LA57_NOTE = 'the host maps a gva above bit 47';
const FLAGS_300_NOTE = 'memslot 8 changes its flags 300 times';

/** What earlier steps left behind that later statements need. */
export class Replay {
  readonly knownFrames = new Map<string, bigint>();
  entryBytes: 4 | 8;
  /** frames of tables that were seen to have 4-byte entries */
  readonly narrowTables = new Set<bigint>();
  lastTable: bigint;
  /** the operation after which the probe looked at what L1 saw, whose address and value it gives L1 for the next entry */
  exited: GuestStep | null = null;
  private last: GuestStep | null = null;

  constructor(run: ProbeRun) {
    this.entryBytes = run.initial.pt.entryBytes;
    this.lastTable = run.initial.pt.tables.reduce((max, t) => (t.gpa > max ? t.gpa : max), run.layout.tables);
    for (const b of usedBackings(run))
      for (const [o, pfn] of firstFrames(run, b.name)) this.knownFrames.set(`${b.name}+${o}`, pfn);
  }

  /** Pages whose frame differs from what it was: the host moved them. */
  moved(list: ProbeFrames[]): { backing: string; offset: bigint; pfn: bigint }[] {
    const moved: { backing: string; offset: bigint; pfn: bigint }[] = [];
    for (const r of list) {
      for (let i = 0n; i < BigInt(r.pages); i++) {
        const key = `${r.backing}+${r.offset + i * 0x1000n}`;
        const before = this.knownFrames.get(key);
        this.knownFrames.set(key, r.pfn + i);
        if (before !== undefined && before !== r.pfn + i)
          moved.push({ backing: r.backing, offset: r.offset + i * 0x1000n, pfn: r.pfn + i });
      }
    }
    return moved;
  }

  advance(step: ProbeStep): void {
    if (step.kind === 'snapshot') this.entryBytes = step.state.pt.entryBytes;
    if (step.kind === 'guest') this.last = step;
    if (step.kind === 'vmexit-seen-by-l1') this.exited = this.last;
  }
}

export function writeStep(w: Writer, run: ProbeRun, step: ProbeStep, state: Replay): void {
  switch (step.kind) {
    case 'guest':
      return guestStep(w, run, step, state);
    case 'note':
      return noteStep(w, run, step.n, step.text, state);
    case 'snapshot':
      return snapshotStep(w, step.n, step.name, step.state, state);
    case 'memslot':
      return memslotStep(w, step);
    case 'smm-paging': {
      const bits = is64(step.mode) ? 64 : 32;
      const c = modeControls(step.mode);
      w.begin(step.n, `the host sets ${step.mode} paging inside SMM`);
      w.line(
        `setregs { cr0 ${cr0(CR0_BASE | CR0.PG)}  cr3 ${hex(step.cr3)}  cr4 ${cr4(c.cr4)}  efer ${efer(c.efer)}  cpl 0  code ${bits}  ` +
          `gdt ${hex(run.layout.gdt)} limit 0x4f  idt ${hex(run.layout.idt)} limit 0x1ff }`,
      );
      return;
    }
    case 'get-dirty-log': {
      w.begin(step.n, `KVM_GET_DIRTY_LOG of slot ${step.id}`);
      w.line(`dirty_log get id ${step.id}`);
      const base = slotGpa(run, step.n, step.id);
      const gfns = step.dirty.map((page) => hex((base >> 12n) + BigInt(page)));
      w.line(gfns.length ? `expect dirty ${gfns.join(' ')}` : 'expect no dirty');
      return;
    }
    case 'clear-dirty-log': {
      w.begin(step.n, `KVM_CLEAR_DIRTY_LOG of slot ${step.id}`);
      const base = slotGpa(run, step.n, step.id);
      const gpa = base + BigInt(step.first) * 0x1000n;
      w.line(`dirty_log clear id ${step.id} gpa ${hex(gpa)} size ${hex(BigInt(step.pages) * 0x1000n)}`);
      return;
    }
    case 'vmexit-seen-by-l1': {
      w.begin(step.n, 'what L1 sees of the exit');
      const words = run.vendor === 'amd' ? VMCB_EXIT_WORDS : VMX_EXIT_WORDS;
      for (const [name, gpa] of words) {
        const value = step.fields[name];
        if (value !== undefined) w.line(`expect qword ${hex(gpa)} ${hex(value)}   # ${name}`);
      }
      return;
    }
    default:
      w.begin(step.n, `${step.op}: an operation that this program does not know`);
      w.line(`note "step ${step.n} (${step.op}) is not repeated"`);
  }
}

/** Guest address of a slot of address space 0 just before step `n`. */
export function slotGpa(run: ProbeRun, n: number, id: number): bigint {
  let slots = run.initial.memslots;
  for (const s of run.steps) if (s.kind === 'memslot' && s.n < n) slots = s.memslots;
  return slots.find((s) => s.as_id === 0 && s.id === id)?.gpa ?? 0n;
}

function noteStep(w: Writer, run: ProbeRun, n: number, text: string, state: Replay): void {
  if (text.startsWith(IDT_LIMIT_ZERO)) {
    w.begin(n, text);
    w.line(`setregs { idt ${hex(run.layout.idt)} limit 0 }`);
    return;
  }
  w.begin(n, text);
  if (text.startsWith(SMI_NOTE)) w.line('smi');
  else if (text.startsWith(LA57_NOTE)) {
    const table = state.lastTable + 0x1000n;
    w.line(`tables at ${hex(table)}`);
    w.line('map 0x12340000000000 -> 0x200000 W');
    w.line('map 0x12340000200000 -> 0x800000 2M W');
  } else if (text.startsWith(FLAGS_300_NOTE)) {
    w.line('repeat 150 {');
    w.line('  memslot flags id 8 LOG_DIRTY_PAGES');
    w.line('  memslot flags id 8 0');
    w.line('}');
  } else w.line(`note "${text.replaceAll('"', "'")}"`);
}

function snapshotStep(w: Writer, n: number, name: string, s: ProbeSnapshot, state: Replay): void {
  w.begin(n, `snapshot ${name}`);
  for (const m of state.moved(s.frames ?? [])) {
    w.comment('the host moved a page');
    w.line(`invalidate ${m.backing}+${hex(m.offset)} size 4K`);
    w.line(`frames ${m.backing} ${hex(m.offset)}: ${hex(m.pfn)}`);
  }
  for (const v of s.vcpus) {
    const on = s.vcpus.length > 1 ? `vcpu ${v.vcpu}: ` : '';
    w.line(`${on}expect cr0 ${cr0(v.cr0)}`);
    w.line(`${on}expect cr3 ${hex(v.cr3)}`);
    w.line(`${on}expect cr4 ${cr4(v.cr4)}`);
    w.line(`${on}expect efer ${efer(v.efer)}`);
    w.line(`${on}expect smm ${v.smm}`);
  }
}

function memslotStep(w: Writer, step: ProbeStep & { kind: 'memslot' }): void {
  const { as_id, id } = step;
  const slot = step.memslots.find((s) => s.as_id === as_id && s.id === id);
  w.begin(step.n, `memslot-${step.change} as_id=${as_id} id=${id}`);
  switch (step.change) {
    case 'delete':
      w.line(`memslot delete ${inAs(as_id)}id ${id}`);
      return;
    case 'move':
      w.line(`memslot move ${inAs(as_id)}id ${id} gpa ${hex(step.gpa)}`);
      return;
    case 'change-flags':
      w.line(`memslot flags ${inAs(as_id)}id ${id} ${flags(BigInt(step.flags), MEMSLOT_FLAGS)}`);
      return;
    default:
      if (slot) w.line(addSlot(slot));
      else w.line(`note "slot ${as_id}:${id} was added, but the state file does not list it"`);
  }
}

/** Registers that the host loads before an operation, as the probe's do_step does. */
function registersOf(run: ProbeRun, step: GuestStep): [string, bigint][] {
  const l = run.layout;
  // in SMM the probe's stubs for real mode lie behind the SMI handler
  const real = step.smm === 1 && step.rip >= 0x8000n && step.rip < 0x9000n;
  const address = step.op === 'wrmsr' ? step.msr : step.op === 'vmx' ? step.routine : step.gva;
  const where = address ?? 0n;
  const regs: [string, bigint][] = [];
  const alias = step.rip >= l.userAlias ? l.userAlias : 0n;
  let rax = step.value;
  let rbx = where;
  const more: [string, bigint][] = [];
  if (step.op === 'wrmsr') more.push(['rcx', where], ['rdx', step.value >> 32n]);
  if (step.op === 'cmpxchg8b') {
    const old = step.compare ?? 0n;
    rax = old & 0xffff_ffffn;
    rbx = step.value & 0xffff_ffffn;
    more.push(['rdx', old >> 32n], ['rcx', step.value >> 32n]);
  }
  if (step.op === 'wrpkru') more.push(['rcx', 0n], ['rdx', 0n]);
  regs.push(['rbx', rbx], ['rsi', where], ['rax', rax], ...more);
  regs.push(['rsp', real ? 0x7000n : step.cpl ? alias + l.stackRing3 + 0x1000n : l.stackRing0Top]);
  regs.push(['rflags', 2n | (step.cpl ? 0x3000n : 0n) | (step.ac ? 0x40000n : 0n)]);
  if (!real) regs.push(['cpl', BigInt(step.cpl)]);
  return regs;
}

function describe(step: GuestStep): string {
  const parts = [step.op];
  if (step.gva !== null) parts.push(`gva=${hex(step.gva)} gpa=${step.gpa === null ? 'none' : hex(step.gpa)}`);
  if (step.msr !== null) parts.push(`msr=${hex(step.msr)}`);
  if (step.routine !== null) parts.push(`routine=${hex(step.routine)}`);
  if (!['read', 'exec', 'invlpg', 'hlt', 'nop', 'rsm'].includes(step.op)) parts.push(`value=${hex(step.value)}`);
  parts.push(`cpl=${step.cpl}`);
  if (step.ac) parts.push('ac=1');
  if (step.smm) parts.push('smm=1');
  return parts.join(' ');
}

function guestStep(w: Writer, run: ProbeRun, step: GuestStep, state: Replay): void {
  w.begin(step.n, describe(step));
  const on = run.initial.vcpus.length > 1 ? `vcpu ${step.vcpu}: ` : '';
  if (step.op === 'vmx' && step.routine !== null && (step.routine & 0xffn) === 0x80n && state.exited) {
    w.comment("the host tells L1 what L2's registers are when it resumes");
    w.line(`qword ${hex(VMX_RESUME_VALUES)} = ${hex(state.exited.gva ?? 0n)} ${hex(state.exited.value)}`);
  }
  const regs = registersOf(run, step).map(([name, value]) => `${name}=${hex(value)}`);
  w.line(`${on}run at ${hex(step.rip)} ${regs.join(' ')}`);
  expectations(w, on, step, state);
}

const ENDS: Readonly<Record<string, string>> = { hlt: 'hlt', shutdown: 'shutdown', error: 'error', stuck: 'limit' };
const EXCEPTIONS: Readonly<Record<number, string>> = {
  0: '#DE', 1: '#DB', 3: '#BP', 6: '#UD', 7: '#NM', 8: '#DF', 10: '#TS', 11: '#NP', 12: '#SS', 13: '#GP', 14: '#PF', 17: '#AC', 18: '#MC',
  20: '#VE', 21: '#CP',
}; // prettier-ignore
const WITH_ERROR = new Set([8, 10, 11, 12, 13, 14, 17, 21]);

function expectations(w: Writer, on: string, step: GuestStep, state: Replay): void {
  const o = step.outcome;
  for (const e of o.exits) {
    if ('gpa' in e)
      w.line(`${on}expect mmio ${e.write ? 'write' : 'read'} gpa ${hex(e.gpa)} len ${e.len} value ${hex(e.data)}`);
    else if ('port' in e) w.line(`${on}expect io out port ${hex(e.port)}`);
  }
  w.line(`${on}expect end ${ENDS[o.end] ?? 'io'}`);
  if (o.end === 'fault' && o.vector !== null) {
    const name = EXCEPTIONS[o.vector];
    if (name) {
      const error = o.error !== null && WITH_ERROR.has(o.vector) ? ` error ${hex(o.error)}` : '';
      w.line(`${on}expect ${name}${error}${o.vector === 14 && o.cr2 !== null ? ` cr2 ${hex(o.cr2)}` : ''}`);
    } else w.line(`${on}expect rsi ${hex(o.vector)}   # the vector, from its handler`);
  } else if (o.end !== 'shutdown' && o.end !== 'error') w.line(`${on}expect no fault`);
  if (o.result !== null && o.end !== 'smi') w.line(`${on}expect rax ${hex(o.result)}`);
  if (o.registers) {
    w.line(`${on}expect cr0 ${cr0(o.registers.cr0)}`);
    w.line(`${on}expect cr3 ${hex(o.registers.cr3)}`);
    w.line(`${on}expect cr4 ${cr4(o.registers.cr4)}`);
    w.line(`${on}expect efer ${efer(o.registers.efer)}`);
  }
  if (o.smmAfter !== null) w.line(`${on}expect smm ${o.smmAfter}`);
  // A run may leave PAE or come to it; the state file says how wide entries are at snapshots only.
  const narrow = o.ptChanges.some((c) => c.gpa % 8n === 4n);
  for (const { gpa, new: value } of o.ptChanges) {
    if (narrow) state.narrowTables.add(gpa >> 12n);
    const wide = state.entryBytes === 8 && !state.narrowTables.has(gpa >> 12n);
    w.line(`expect ${wide ? 'qword' : 'dword'} ${hex(gpa)} ${hex(value)}`);
  }
}
