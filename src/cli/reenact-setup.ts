/** What the host set up before the first step, as statements: backings, host frames, memslots, memory, guest tables, vCPUs. */
import {
  BACKINGS,
  guestImage,
  imageBits,
  is64,
  LOW_CLEARED_END,
  pageMark,
  returns,
  smmImage,
  type MemoryBlock,
} from './reenact-layout';
import { nestedImage, nestedTarget } from './reenact-nested';
import type { ProbeMemslot, ProbeRun, ProbeSnapshot } from './reenact-state';
import { cr0, cr4, efer, flags, hex, MEMSLOT_FLAGS, type Writer } from './reenact-writer';

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
export function firstFrames(run: ProbeRun, backing: string): Map<bigint, bigint> {
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

export function usedBackings(run: ProbeRun): BackingUse[] {
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

export function backings(w: Writer, run: ProbeRun): void {
  w.comment('host memory of the probe');
  for (const b of usedBackings(run))
    w.line(`backing ${b.name} ${sizeText(b.size)}${b.huge ? ' huge' : ''} hva ${hex(b.hva)}`);
  w.line();
}

export function frames(w: Writer, run: ProbeRun): void {
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

export const inAs = (as_id: number): string => (as_id ? `as ${as_id} ` : '');

export function addSlot(s: ProbeMemslot): string {
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

export function memory(w: Writer, run: ProbeRun): void {
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
export function pageTables(w: Writer, run: ProbeRun): void {
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

export function vcpus(w: Writer, run: ProbeRun): void {
  w.line();
  for (const v of run.initial.vcpus) {
    w.line(`vcpu ${v.vcpu} {`);
    w.line(`  cr0 ${cr0(v.cr0)}  cr3 ${hex(v.cr3)}  cr4 ${cr4(v.cr4)}  efer ${efer(v.efer)}  cpl ${v.cpl}`);
    w.line(`  ${tableRegisters(run, is64(v.mode) ? 64 : 32)}  tr ${hex(run.layout.tss)} limit 0x67`);
    w.line('}');
  }
}
