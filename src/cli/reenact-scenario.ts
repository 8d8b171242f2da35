/**
 * Turns a probe run into a .mmu scenario: what the host set up and did, and what the guest was told to do. What the run *returned*
 * appears only in `expect` lines. The text is meant to be read: each block says what it is.
 */
import { CR0, CR4, EFER } from '../hw/regs';
import { machineLines, emulatorOf } from './reenact-config';
import {
  BACKINGS,
  CR0_BASE,
  guestImage,
  imageBits,
  is64,
  LOW_CLEARED_END,
  modeControls,
  pageMark,
  returns,
  smmImage,
  type MemoryBlock,
} from './reenact-layout';
import { nestedImage, nestedTarget, VMCB_EXIT_WORDS, VMX_EXIT_WORDS, VMX_RESUME_VALUES } from './reenact-nested';
import type { GuestStep, ProbeFrames, ProbeMemslot, ProbeRun, ProbeSnapshot, ProbeStep } from './reenact-state';

/** The generated text, and where in it each step of the probe is. */
export interface GeneratedScenario {
  text: string;
  /** first and last line (from 1) of each step number */
  lines: Map<number, [number, number]>;
}

const hex = (v: bigint | number): string => `0x${v.toString(16)}`;

/** `0x80050033` as `PG|AM|…` when every bit has a name. */
function flags(value: bigint, names: Readonly<Record<string, bigint>>): string {
  const found = Object.entries(names)
    .filter(([, bit]) => (value & bit) !== 0n)
    .sort((a, b) => (a[1] > b[1] ? -1 : 1));
  const known = found.reduce((sum, [, bit]) => sum | bit, 0n);
  return value !== 0n && known === value ? found.map(([name]) => name).join('|') : hex(value);
}

const cr0 = (v: bigint): string => flags(v, CR0);
const cr4 = (v: bigint): string => flags(v, CR4);
const efer = (v: bigint): string => flags(v, EFER);

const MEMSLOT_FLAGS: Readonly<Record<string, bigint>> = { LOG_DIRTY_PAGES: 1n, READONLY: 2n };
const IDT_LIMIT_ZERO = 'IDT limit set to 0 by the host';
const SMI_NOTE = 'KVM_SMI';
const LA57_NOTE = 'the host maps a gva above bit 47';
const FLAGS_300_NOTE = 'memslot 8 changes its flags 300 times';

/** Collects lines. */
class Writer {
  readonly out: string[] = [];
  readonly lines = new Map<number, [number, number]>();
  private step = 0;

  line(text = ''): void {
    this.out.push(text);
    const at = this.lines.get(this.step);
    if (at && text) at[1] = this.out.length;
  }

  comment(text: string): void {
    this.line(`# ${text}`);
  }

  begin(n: number, text: string): void {
    this.line();
    this.step = n;
    this.lines.set(n, [this.out.length + 1, this.out.length + 1]);
    this.line(`step ${n} "${text.replaceAll('"', "'")}"`);
  }
}

/**
 * Writes the scenario of a run.
 * @param source name of the state file, for the head comment and for what only the name says (configuration)
 */
export function generateScenario(run: ProbeRun, source: string): GeneratedScenario {
  const w = new Writer();
  head(w, run, source);
  backings(w, run);
  frames(w, run);
  w.comment('memslots, in the order in which user space added them');
  for (const s of run.initial.memslots) w.line(addSlot(s));
  memory(w, run);
  pageTables(w, run);
  vcpus(w, run);
  const state = new Replay(run);
  for (const step of run.steps) {
    writeStep(w, run, step, state);
    state.advance(step);
  }
  return { text: `${w.out.join('\n')}\n`, lines: w.lines };
}

function head(w: Writer, run: ProbeRun, source: string): void {
  w.comment(`${run.scenario}: what kvmprobe did on kernel ${run.kernel}, generated from ${source}.`);
  w.comment(
    `A real kvm_${run.vendor} ran these steps on ${emulatorOf(run).title}; the expect lines are what it returned.`,
  );
  w.comment('Compare the events, too: npm run reenact -- the same state file.');
  w.line();
  w.line('machine {');
  for (const l of machineLines(run, source)) w.line(`  ${l}`);
  w.line('}');
  w.line();
}

/** Every memslot that ever existed, in the order of first use. */
function allSlots(run: ProbeRun): ProbeMemslot[] {
  return [...run.initial.memslots, ...run.steps.flatMap((s) => (s.kind === 'memslot' ? s.memslots : []))];
}

const snapshots = (run: ProbeRun): ProbeSnapshot[] => [
  run.initial,
  ...run.steps.flatMap((s) => (s.kind === 'snapshot' ? [s.state] : [])),
  run.final,
];

/** The host frame of each 4K page of a backing, as first seen. */
function firstFrames(run: ProbeRun, backing: string): Map<bigint, bigint> {
  const pfns = new Map<bigint, bigint>();
  for (const s of snapshots(run)) {
    for (const r of s.frames ?? []) {
      if (r.backing !== backing) continue;
      for (let i = 0n; i < BigInt(r.pages); i++) {
        const offset = r.offset + i * 0x1000n;
        if (!pfns.has(offset)) pfns.set(offset, r.pfn + i);
      }
    }
  }
  return pfns;
}

interface BackingUse {
  name: string;
  size: bigint;
  huge: boolean;
  hva: bigint;
}

function usedBackings(run: ProbeRun): BackingUse[] {
  const used = new Map<string, BackingUse>();
  for (const s of allSlots(run)) {
    if (used.has(s.backing)) continue;
    const known = BACKINGS[s.backing];
    const frames = firstFrames(run, s.backing);
    const covered = BigInt(frames.size) * 0x1000n;
    const size = known?.size ?? (covered > s.offset + s.size ? covered : s.offset + s.size);
    used.set(s.backing, {
      name: s.backing,
      size,
      huge: known?.huge && isHuge(frames, size),
      hva: s.hva - s.offset,
    });
  }
  return [...used.values()];
}

/** Whether each 2M of the backing is one aligned host page. */
function isHuge(frames: Map<bigint, bigint>, size: bigint): boolean {
  for (let o = 0n; o < size; o += 0x200000n) {
    const first = frames.get(o);
    if (first === undefined || (first & 0x1ffn) !== 0n) return false;
    for (let i = 1n; i < 512n; i++) if (frames.get(o + i * 0x1000n) !== first + i) return false;
  }
  return true;
}

const sizeText = (v: bigint): string =>
  v !== 0n && v % 0x100000n === 0n ? `${v >> 20n}M` : v % 0x400n === 0n ? `${v >> 10n}K` : hex(v);

function backings(w: Writer, run: ProbeRun): void {
  w.comment('host memory of the probe');
  for (const b of usedBackings(run))
    w.line(`backing ${b.name} ${sizeText(b.size)}${b.huge ? ' huge' : ''} hva ${hex(b.hva)}`);
  w.line();
}

function frames(w: Writer, run: ProbeRun): void {
  w.comment('its host frames, from /proc/self/pagemap');
  for (const b of usedBackings(run)) {
    const pfns = [...firstFrames(run, b.name)].sort((x, y) => (x[0] < y[0] ? -1 : 1));
    if (b.huge) {
      // of 2M host pages the first frame of each
      const first = pfns.filter(([offset]) => offset % 0x200000n === 0n).map(([, pfn]) => hex(pfn));
      w.line(`frames ${b.name} 0x0: ${first.join(' ')}`);
      continue;
    }
    frameLines(w, b.name, pfns);
  }
  w.line();
}

/** `frames` lines of at most eight ranges each. */
function frameLines(w: Writer, backing: string, pfns: [bigint, bigint][]): void {
  let i = 0;
  while (i < pfns.length) {
    const start = pfns[i][0];
    const ranges: string[] = [];
    let next = start;
    while (i < pfns.length && pfns[i][0] === next && ranges.length < 8) {
      const first = pfns[i][1];
      let n = 1;
      while (
        i + n < pfns.length &&
        pfns[i + n][0] === next + BigInt(n) * 0x1000n &&
        pfns[i + n][1] === first + BigInt(n)
      )
        n++;
      ranges.push(n === 1 ? hex(first) : `${hex(first)}..${hex(first + BigInt(n) - 1n)}`);
      i += n;
      next += BigInt(n) * 0x1000n;
    }
    w.line(`frames ${backing} ${hex(start)}: ${ranges.join(' ')}`);
  }
}

const inAs = (as_id: number): string => (as_id ? `as ${as_id} ` : '');

function addSlot(s: ProbeMemslot): string {
  const host = s.offset ? `${s.backing}+${hex(s.offset)}` : s.backing;
  const f = s.flags ? ` flags ${flags(BigInt(s.flags), MEMSLOT_FLAGS)}` : '';
  return `memslot add ${inAs(s.as_id)}id ${s.id} gpa ${hex(s.gpa)} size ${sizeText(s.size)} host ${host}${f}`;
}

// ---- Memory ----

function bytesText(bytes: Uint8Array): string {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join(' ');
}

function trimmed(b: MemoryBlock): Uint8Array {
  let end = b.bytes.length;
  while (end > 1 && b.bytes[end - 1] === 0) end--;
  return b.bytes.subarray(0, end);
}

function memory(w: Writer, run: ProbeRun): void {
  w.line();
  w.comment(`the guest's image: stubs, fault handlers, IDT, GDT, TSS (${imageBits(run)}-bit)`);
  writeBlocks(w, guestImage(run));
  const extra = [...smmImage(run), ...nestedImage(run)];
  if (extra.length) {
    w.comment(run.scenario.startsWith('nested') ? 'what L1 needs to run L2' : 'SMRAM and the A segment');
    writeBlocks(w, extra);
  }
  const marks = pageMarks(run);
  if (marks.length) {
    w.comment('the probe marks the start of each page; those that the steps read');
    for (const m of marks) w.line(`qword ${m.backing}+${hex(m.offset)} = ${hex(pageMark(m.backing, m.offset))}`);
  }
  w.comment('return instructions for the exec steps');
  const used = new Set(usedBackings(run).map((b) => b.name));
  writeBlocks(
    w,
    returns(run).filter((b) => used.has(b.backing)),
  );
}

function writeBlocks(w: Writer, blocks: MemoryBlock[]): void {
  for (const b of blocks) w.line(`bytes ${b.backing}+${hex(b.offset)} = ${bytesText(trimmed(b))}   # ${b.what}`);
}

/** Pages that the steps touch, by backing and offset. */
function pageMarks(run: ProbeRun): { backing: string; offset: bigint }[] {
  const marks = new Map<string, { backing: string; offset: bigint }>();
  for (const step of run.steps) {
    if (step.kind !== 'guest' || step.gpa === null) continue;
    const gpa = nestedTarget(run, step.gpa);
    for (const s of allSlots(run)) {
      if (gpa < s.gpa || gpa >= s.gpa + s.size) continue;
      const offset = s.offset + ((gpa - s.gpa) & ~0xfffn);
      if (s.backing === 'low' && offset < LOW_CLEARED_END) continue;
      marks.set(`${s.backing}+${offset}`, { backing: s.backing, offset });
    }
  }
  return [...marks.values()].sort((a, b) =>
    a.backing < b.backing ? -1 : a.backing > b.backing ? 1 : a.offset < b.offset ? -1 : 1,
  );
}

/** All words of the page-table area, runs of neighbours on one line. */
function pageTables(w: Writer, run: ProbeRun): void {
  const { pt } = run.initial;
  const size = BigInt(pt.entryBytes);
  const wide = pt.entryBytes === 8 ? 'qword' : 'dword';
  w.line();
  w.comment(`guest page tables, ${pt.entryBytes} bytes an entry`);
  const values = new Map(pt.entries.map((e) => [e.gpa, e.value]));
  const pages = [...new Set(pt.entries.map((e) => e.gpa & ~0xfffn))].sort((a, b) => (a < b ? -1 : 1));
  for (const page of pages) {
    const t = pt.tables.find((x) => x.gpa === page);
    w.comment(t ? `${hex(page)}: level ${t.level} of space ${t.space}` : `${hex(page)}: not a table (yet)`);
    for (let a = page; a < page + 0x1000n;) {
      if (!values.has(a)) {
        a += size;
        continue;
      }
      const run8: string[] = [];
      const start = a;
      while (run8.length < 8 && values.has(a) && a < page + 0x1000n) {
        run8.push(hex(values.get(a)!));
        a += size;
      }
      w.line(`${wide} low+${hex(start)} = ${run8.join(' ')}`);
    }
  }
}

function tableRegisters(run: ProbeRun, bits: 32 | 64): string {
  const l = run.layout;
  return `gdt ${hex(l.gdt)} limit 0x4f  idt ${hex(l.idt)} limit ${bits === 64 ? '0x1ff' : '0xff'}`;
}

function vcpus(w: Writer, run: ProbeRun): void {
  w.line();
  for (const v of run.initial.vcpus) {
    w.line(`vcpu ${v.vcpu} {`);
    w.line(`  cr0 ${cr0(v.cr0)}  cr3 ${hex(v.cr3)}  cr4 ${cr4(v.cr4)}  efer ${efer(v.efer)}  cpl ${v.cpl}`);
    w.line(`  ${tableRegisters(run, is64(v.mode) ? 64 : 32)}  tr ${hex(run.layout.tss)} limit 0x67`);
    w.line('}');
  }
}

// ---- Steps ----

/** What earlier steps left behind that later statements need. */
class Replay {
  readonly knownFrames = new Map<string, bigint>();
  entryBytes: 4 | 8;
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

function writeStep(w: Writer, run: ProbeRun, step: ProbeStep, state: Replay): void {
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
  const wide = state.entryBytes === 8 ? 'qword' : 'dword';
  for (const c of o.ptChanges) w.line(`expect ${wide} ${hex(c.gpa)} ${hex(c.new)}`);
}
