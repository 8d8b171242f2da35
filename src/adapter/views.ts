/** From what targets say (bigint) to what clients read (plain JSON, see protocol.ts). */
import type { WhyRecord } from '../hw/why';
import { ruleOf } from '../hw/rules';
import type { Decoded, WordLayout } from '../words/word';
import type {
  EventEntry,
  MemslotState,
  MmuState,
  RegisterState,
  Stop,
  TablePage,
  TableRoot,
  Target,
  Vcpu,
} from '../targets/target';
import { eventFields, eventInfo, eventText, type WordReader } from '../targets/event-info';
import { formatMemoryReference } from '../targets/target';
import { accessLine, whyLines } from '../targets/why-text';
import type {
  EventView,
  FieldView,
  Hex,
  LayoutView,
  MemslotView,
  MmuView,
  NamedWord,
  RegisterView,
  RootView,
  RowMark,
  StopView,
  TableBody,
  VcpuView,
  WhyView,
  WordView,
} from './protocol';

export const hex = (value: bigint | number): Hex => `0x${BigInt.asUintN(64, BigInt(value)).toString(16)}`;
const hexOrNull = (value: bigint | null): Hex | null => (value === null ? null : hex(value));

export function layoutView(layout: WordLayout): LayoutView {
  const { id, word, title, size, kernels, vendor, source } = layout;
  const fields: FieldView[] = layout.fields.map((f) => ({
    name: f.name,
    lsb: f.lsb,
    width: f.width,
    meaning: f.meaning,
    ...(f.values ? { values: Object.fromEntries(Object.entries(f.values)) } : {}),
    ...(f.from === undefined ? {} : { from: f.from }),
    ...(f.source === undefined ? {} : { source: f.source }),
  }));
  return {
    id,
    word,
    title,
    size,
    ...(kernels === undefined ? {} : { kernels }),
    ...(vendor === undefined ? {} : { vendor }),
    source,
    fields,
  };
}

export function wordView(decoded: Decoded, because: Readonly<Record<string, string>> = {}): WordView {
  const { layout, value, fields, reserved, summary } = decoded;
  return {
    layoutId: layout.id,
    title: layout.title,
    size: layout.size,
    value: hex(value),
    summary,
    fields: fields.map(({ field, value: v, text }) => ({
      name: field.name,
      lsb: field.lsb,
      width: field.width,
      value: hex(v),
      text,
      meaning: field.meaning,
      ...(because[field.name] === undefined ? {} : { because: because[field.name] }),
    })),
    reserved: hex(reserved),
  };
}

export function mmuView(mmu: MmuState): MmuView {
  return {
    name: mmu.name,
    active: mmu.active,
    walk: mmu.walk,
    words: mmu.words.map(({ name, decoded, because }) => ({ name, word: wordView(decoded, because) })),
    inputs: Object.fromEntries(Object.entries(mmu.inputs).flatMap(([k, v]) => (v === undefined ? [] : [[k, v]]))),
    rootHpa: hexOrNull(mmu.rootHpa),
    pgd: hexOrNull(mmu.pgd),
    prevRoots: mmu.prevRoots.map(({ pgd, hpa }) => ({ pgd: hex(pgd), hpa: hex(hpa) })),
  };
}

export function registerView({ name, value, decoded }: RegisterState): RegisterView {
  return { name, value: hex(value), word: decoded ? wordView(decoded) : null };
}

export function memslotView(slot: MemslotState): MemslotView {
  const { asId, id, gpa, size, hva, flags, backing } = slot;
  return { asId, id, gpa: hex(gpa), size: hex(size), hva: hex(hva), flags: [...flags], backing };
}

export function vcpuView(vcpu: Vcpu): VcpuView {
  return {
    threadId: vcpu.index + 1,
    vcpu: vcpu.index,
    name: vcpu.name,
    smm: vcpu.smm,
    guestMode: vcpu.guestMode,
    rip: hexOrNull(vcpu.rip),
    cr3: hexOrNull(vcpu.cr3),
    rootHpa: hexOrNull(vcpu.rootHpa),
    mode: vcpu.mode,
  };
}

export function stopView(stop: Stop): StopView {
  return {
    reason: stop.reason,
    description: stop.description,
    threadId: stop.vcpu + 1,
    filter: stop.filter,
    event: stop.event,
    hasWhy: stop.why !== null,
  };
}

export function rootView(root: TableRoot): RootView {
  return { ...root, address: hex(root.address) };
}

export function tableBody(page: TablePage, threadId: number): TableBody {
  const { root, path } = page;
  const counts: Record<string, number> = {};
  const rows = Array.from({ length: page.count }, (_, index) => {
    const entry = page.entry(index);
    for (const mark of entry.marks) counts[mark] = (counts[mark] ?? 0) + 1;
    return {
      index,
      raw: hex(entry.raw),
      address: hex(entry.address),
      from: hex(entry.from),
      marks: entry.marks as RowMark[],
      summary: entry.summary,
      target: hexOrNull(entry.target),
      descend: entry.descend,
      mmio: entry.mmio && {
        gfn: hex(entry.mmio.gfn),
        access: entry.mmio.access,
        generation: hexOrNull(entry.mmio.generation),
        currentGeneration: hexOrNull(entry.mmio.currentGeneration),
      },
    };
  });
  return {
    threadId,
    root: rootView(root),
    path: [...path],
    crumbs: page.crumbs.map((c) => ({ ...c, path: [...c.path] })),
    level: page.level,
    levelName: page.levelName,
    tableAddress: hex(page.address),
    from: hex(page.from),
    entryCoverage: hex(page.coverage),
    entrySize: page.entrySize,
    rows,
    page: page.page && {
      gfn: hex(page.page.gfn),
      role: wordView(page.page.role),
      rootCount: page.page.rootCount,
      unsync: page.page.unsync,
      tdpMmu: page.page.tdpMmu,
    },
    counts,
    memoryReference: formatMemoryReference({
      space: root.space === 'hpa' ? { kind: 'hpa' } : { kind: 'gpa', asId: root.asId ?? 0 },
      address: page.address,
    }),
  };
}

export function eventView(entry: EventEntry, words?: WordReader): EventView {
  const { index, tick, line, event } = entry;
  return {
    index,
    tick,
    kind: event.kind,
    vcpu: event.vcpu,
    line,
    text: eventText(event, words),
    fields: eventFields(event, words),
    category: eventInfo(event.kind).category,
  };
}

/** A why-record with its rules spelled out and its codes decoded. */
export function whyView(why: WhyRecord, target: Pick<Target, 'describeStep' | 'verdictCodes'>): WhyView {
  const { steps, verdict } = why;
  const check = (c: WhyRecord['checked'][number]) => {
    const rule = ruleOf(c.rule);
    return { rule: c.rule, ok: c.ok, sentence: rule.sentence, reference: rule.reference, by: c.by || null };
  };
  const codes: NamedWord[] = target.verdictCodes(why).map(({ name, decoded }) => ({ name, word: wordView(decoded) }));
  return {
    access: accessLine(why),
    steps: steps.map((step) => ({
      table: step.table,
      level: step.level,
      ...target.describeStep(step),
      index: step.index,
      entryAddress: hex(step.entryAddress),
      space: step.space,
      raw: hex(step.raw),
      forLevel: step.forLevel ?? null,
      written: step.written === undefined ? null : hex(step.written),
      checks: step.checked.map(check),
      memoryReference: formatMemoryReference({ space: { kind: 'hpa' }, address: step.hostAddress }),
    })),
    checks: why.checked.map(check),
    verdict: {
      kind: verdict.kind,
      rule: verdict.rule ?? null,
      text: verdict.text,
      codes,
      address: verdict.hpa === undefined ? null : hex(verdict.hpa),
      gpa: verdict.gpa === undefined ? null : hex(verdict.gpa),
    },
    text: whyLines(why, (step) => target.describeStep(step)).join('\n'),
  };
}
