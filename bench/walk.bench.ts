/**
 * Address translation against a C program that makes the same checks (bench/c/walk.c, compiled here with cc -O2), in the same run on the
 * same work: both sides build the same tables and add up their results to the same number.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { amdFeatures, intelFeatures } from '../src/hw/features';
import { listLeaves } from '../src/hw/leaves';
import { PhysMemory } from '../src/hw/memory';
import { Tlb } from '../src/hw/tlb';
import { ElfCore } from '../src/targets/dump/elf';
import { openSource } from '../src/targets/dump/elf-source';
import { ACC_READ, ACC_USER, R_HPA_HI, R_HPA_LO, Translator } from '../src/hw/translate';
import { collect, type Row } from './bench';

/** Own constants: imported ones are loaded and checked at each use, which would count as the walk's time. */
const HPA_LO = R_HPA_LO;
const HPA_HI = R_HPA_HI;
const USER_READ = ACC_READ | ACC_USER;
const FOLDER = dirname(fileURLToPath(import.meta.url));
const PAGES = 65536;
const ROOT = 0x10_0000;
const REGISTERS = { cr0: 0x8001_0033n, cr3: BigInt(ROOT), cr4: 0x30_00a0n, efer: 0xd00n };
/** Base of the linear pages, 0x7f0000000000, without its low half. */
const VA_HI = 0x7f00;

/** The generator of walk.c. */
class Random {
  private state: bigint;

  constructor(seed: number) {
    this.state = BigInt(seed);
  }

  next(): number {
    this.state = BigInt.asUintN(64, this.state * 6364136223846793005n + 1442695040888963407n);
    return Number(this.state >> 33n);
  }
}

/** Linear pages as pairs (lo, hi), in random order: all of a 256 MiB region, or random ones of 64 GiB. */
function choosePages(spread: boolean): Int32Array {
  const random = new Random(1);
  const frames = new Float64Array(PAGES);
  for (let i = 0; i < PAGES; i++) frames[i] = spread ? random.next() % 0x100_0000 : i;
  for (let i = PAGES - 1; i > 0; i--) {
    const j = random.next() % (i + 1);
    [frames[i], frames[j]] = [frames[j], frames[i]];
  }
  const pages = new Int32Array(2 * PAGES);
  frames.forEach((f, i) => {
    pages[2 * i] = f << 12;
    pages[2 * i + 1] = VA_HI + Math.floor(f / 0x10_0000);
  });
  return pages;
}

/** Maps pages in tables whose frames are handed out one after the other. */
class Tables {
  constructor(
    readonly memory: PhysMemory,
    private nextFrame: number,
    private readonly flags: number,
  ) {}

  child(table: number, index: number): number {
    const at = table + index * 8;
    const lo = this.memory.readLo(at);
    if ((lo & 1) !== 0) return this.memory.readHi(at) * 0x1_0000_0000 + (lo - (lo % 4096));
    const frame = this.nextFrame++;
    this.memory.writeQ(at, (frame << 12) | this.flags, Math.floor(frame / 0x10_0000));
    return frame * 4096;
  }

  map(root: number, lo: number, hi: number, frame: number, flags: number): void {
    const pml4 = (hi >>> 7) & 511;
    const table = this.child(this.child(this.child(root, pml4), ((lo >>> 30) | (hi << 2)) & 511), (lo >>> 21) & 511);
    this.memory.writeQ(table + ((lo >>> 12) & 511) * 8, (frame << 12) | flags, Math.floor(frame / 0x10_0000));
  }
}

const scatter = (i: number, mask: number): number => Math.imul(i, 0x9e3779b1) & mask;

function flat(spread: boolean): { translator: Translator; pages: Int32Array } {
  const memory = new PhysMemory();
  const tables = new Tables(memory, 0x101, 0x67);
  const pages = choosePages(spread);
  for (let i = 0; i < PAGES; i++) {
    tables.map(ROOT, pages[2 * i], pages[2 * i + 1], 0x10_0000 + scatter(i, 0xf_ffff), 0x67);
  }
  const translator = new Translator(memory, intelFeatures());
  translator.setGuest(REGISTERS);
  return { translator, pages };
}

function nested(kind: 'ept' | 'npt', spread: boolean): { translator: Translator; pages: Int32Array } {
  const memory = new PhysMemory();
  const root = 0x4_0000_0000;
  const leaf = kind === 'ept' ? 0x37 : 0x67;
  const outer = new Tables(memory, root / 4096 + 1, kind === 'ept' ? 7 : 0x67);
  const base = 0x10_0000;
  const back = (gfn: number) => outer.map(root, gfn << 12, Math.floor(gfn / 0x10_0000), gfn + base, leaf);
  const pages = choosePages(spread);
  let nextGfn = 0x101;
  for (let i = 0; i < PAGES; i++) {
    const lo = pages[2 * i];
    const hi = pages[2 * i + 1];
    let table = ROOT / 4096;
    back(table);
    for (const index of [(hi >>> 7) & 511, ((lo >>> 30) | (hi << 2)) & 511, (lo >>> 21) & 511]) {
      const at = (table + base) * 4096 + index * 8;
      if ((memory.readLo(at) & 1) === 0) {
        const gfn = nextGfn++;
        memory.writeQ(at, (gfn << 12) | 0x67, 0);
        back(gfn);
      }
      table = memory.readLo(at) >>> 12;
    }
    const gfn = 0x8_0000 + scatter(i, 0x3_ffff);
    memory.writeQ((table + base) * 4096 + ((lo >>> 12) & 511) * 8, (gfn << 12) | 0x67, 0);
    back(gfn);
  }
  const translator = new Translator(memory, kind === 'ept' ? intelFeatures() : amdFeatures({ maxphyaddr: 46 }));
  translator.setGuest(REGISTERS);
  if (kind === 'ept') translator.setSecondStage('ept', { eptp: BigInt(root) + 0x1en });
  else translator.setSecondStage('npt', { ncr3: BigInt(root), hostCr4: 0x20n, hostEfer: 0xd00n });
  return { translator, pages };
}

/** Translates all pages once; a sum over the host frames. */
function walkAll(t: Translator, pages: Int32Array): number {
  const { r } = t;
  let check = 0;
  for (let i = 0; i < 2 * PAGES; i += 2) {
    if (t.translate(pages[i], pages[i + 1], USER_READ) !== 0) throw new Error(`page ${i / 2} did not translate`);
    check = (Math.imul(check, 31) + ((r[HPA_LO] >>> 12) | (r[HPA_HI] << 20))) | 0;
  }
  return check;
}

function hotTlb(): { translator: Translator; order: Int32Array } {
  const memory = new PhysMemory();
  const tables = new Tables(memory, 0x101, 0x67);
  const random = new Random(7);
  for (let i = 0; i < 512; i++) tables.map(ROOT, i << 12, VA_HI, 0x10_0000 + scatter(i, 0xf_ffff), 0x67);
  const order = new Int32Array(PAGES);
  for (let i = 0; i < PAGES; i++) {
    const page = random.next() & 511;
    order[i] = (page << 12) | (random.next() & 0xff8);
  }
  const translator = new Translator(memory, intelFeatures());
  translator.setGuest(REGISTERS);
  translator.tlb = new Tlb();
  return { translator, order };
}

function hitAll(t: Translator, order: Int32Array): number {
  const { r } = t;
  let check = 0;
  for (let i = 0; i < PAGES; i++) {
    if (t.translate(order[i], VA_HI, USER_READ) !== 0) throw new Error(`access ${i} did not translate`);
    check = (Math.imul(check, 31) + ((r[HPA_LO] >>> 3) | (r[HPA_HI] << 29))) | 0;
  }
  return check;
}

function millionPages(): Translator {
  const memory = new PhysMemory();
  const tables = new Tables(memory, 0x101, 0x67);
  for (let i = 0; i < 1_048_576; i++) tables.map(ROOT, i << 12, VA_HI, 0x40_0000 - i, 0x67);
  const t = new Translator(memory, intelFeatures());
  t.setGuest(REGISTERS);
  return t;
}

/** Walks that the short cut of src/hw/fast.ts leaves to the full walk: what they cost, for comparison. */
function fullWalks(): [string, () => number][] {
  const dense = flat(false);
  dense.translator.fullWalks = true;
  const ept = nested('ept', false);
  ept.translator.fullWalks = true;
  return [
    ['4-level walk without the short cut', () => walkAll(dense.translator, dense.pages)],
    ['2-D walk 4×4, EPT, without the short cut', () => walkAll(ept.translator, ept.pages)],
  ];
}

/** The guest whose page tables are kept for tests. */
async function linuxGuest(): Promise<Translator> {
  const folder = join(FOLDER, '../test/fixtures/vectors/guest-4level');
  const core = ElfCore.open(await openSource(join(folder, 'dump.elf.xz')));
  const [cpu] = core.cpus;
  const memory = new PhysMemory();
  memory.backing = (pfn) => core.frame(pfn);
  const t = new Translator(memory, intelFeatures({ maxphyaddr: 40 }));
  t.setGuest({ cr0: cpu.cr0, cr3: cpu.cr3, cr4: cpu.cr4, efer: 0xd01n });
  return t;
}

/** Best time of `repeat` runs of `work`, after the optimiser had its chance. */
function best(repeat: number, work: () => number): { ns: number; check: number } {
  let ns = Infinity;
  let check = 0;
  for (let i = 0; i < repeat; i++) {
    const start = process.hrtime.bigint();
    check = work();
    ns = Math.min(ns, Number(process.hrtime.bigint() - start));
  }
  return { ns, check };
}

/** The C program, compiled. */
class Reference {
  private constructor(
    private readonly folder: string,
    private readonly program: string,
  ) {}

  /** Null without a C compiler. */
  static compile(): Reference | null {
    const folder = mkdtempSync(join(tmpdir(), 'mmuscope-walk-'));
    const program = join(folder, 'walk');
    try {
      execFileSync('cc', ['-O2', '-o', program, join(FOLDER, 'c/walk.c')], { stdio: ['ignore', 'ignore', 'inherit'] });
      return new Reference(folder, program);
    } catch (e) {
      rmSync(folder, { recursive: true });
      if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
      return null;
    }
  }

  run(name: string): { ns: number; check: number } {
    const [, ns, check] = execFileSync(this.program, [name], { encoding: 'utf8' }).trim().split(' ');
    return { ns: Number(ns), check: Number(check) };
  }

  remove(): void {
    rmSync(this.folder, { recursive: true });
  }
}

/** Heap growth in bytes per call over `calls` calls of a function that makes PAGES walks. */
function heapGrowth(work: () => number, calls: number): number {
  collect();
  const before = process.memoryUsage().heapUsed;
  for (let i = 0; i < calls; i++) work();
  return process.memoryUsage().heapUsed - before;
}

/** Rounds in which both sides take turns, so that what else the machine does slows both. */
const ROUNDS = 4;

export default async function walk(): Promise<Row[]> {
  const c = Reference.compile();
  try {
    return await measure(c);
  } finally {
    c?.remove();
  }
}

async function measure(c: Reference | null): Promise<Row[]> {
  const rows: Row[] = [];

  /**
   * Best of both sides; their results have to be the same. `make` sets up the work anew in each round, as the C program does: how memory
   * happens to lie matters more than anything else where caches decide.
   */
  const compared = (
    name: string,
    repeat: number,
    make: () => () => number,
  ): { ns: number; cNs?: number; check: number } => {
    let ns = Infinity;
    let cNs = Infinity;
    let check = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const here = best(repeat, make());
      ns = Math.min(ns, here.ns);
      check = here.check;
      if (c === null) continue;
      const there = c.run(name);
      if (there.check !== check >>> 0) throw new Error(`${name}: C says ${there.check}, src/hw ${check >>> 0}`);
      cNs = Math.min(cNs, there.ns);
    }
    return c === null ? { ns, check } : { ns, cNs, check };
  };
  /** A row in ns per page. The target is a share of C's speed; 0 for work that waits for memory, which no code makes faster. */
  const perPage = (name: string, title: string, repeat: number, share: number, make: () => () => number) => {
    const { ns, cNs } = compared(name, repeat, make);
    const row: Row = { name: title, value: ns / PAGES, unit: 'ns' };
    if (cNs === undefined) rows.push({ ...row, note: 'no C compiler here' });
    else if (share === 0) rows.push({ ...row, reference: { name: 'C', value: cNs }, note: 'waits for memory' });
    else rows.push({ ...row, reference: { name: 'C', value: cNs }, budget: cNs / share });
  };

  for (const [name, title, spread] of [
    ['walk-dense', '4-level walk, 64 Ki pages of 256 MiB', false],
    ['walk-spread', '4-level walk, 64 Ki random pages of 64 GiB', true],
  ] as const) {
    perPage(name, title, 30, spread ? 0 : 0.5, () => {
      const { translator, pages } = flat(spread);
      return () => walkAll(translator, pages);
    });
    if (!spread) {
      const { translator, pages } = flat(spread);
      walkAll(translator, pages);
      const bytes = heapGrowth(() => walkAll(translator, pages), 160);
      rows.push({ name: 'heap growth over 10 M walks', value: bytes / 1024, unit: 'KiB', budget: 64 });
    }
  }
  for (const [name, title, kind, spread] of [
    ['ept-dense', '2-D walk 4×4, EPT, 64 Ki pages of 256 MiB', 'ept', false],
    ['ept-spread', '2-D walk 4×4, EPT, 64 Ki random pages of 64 GiB', 'ept', true],
    ['npt-dense', '2-D walk 4×4, NPT, 64 Ki pages of 256 MiB', 'npt', false],
  ] as const) {
    perPage(name, title, 15, spread ? 0 : 0.5, () => {
      const { translator, pages } = nested(kind, spread);
      return () => walkAll(translator, pages);
    });
  }
  perPage('tlb-hit', 'TLB hit', 60, 0.3, () => {
    const { translator, order } = hotTlb();
    return () => hitAll(translator, order);
  });
  for (const [title, run] of fullWalks()) {
    rows.push({ name: title, value: best(20, run).ns / PAGES, unit: 'ns' });
  }

  const million = millionPages();
  const leaves = compared('leaves', 5, () => () => listLeaves(million).count);
  rows.push({
    name: 'all leaves of 1,048,576 pages',
    value: leaves.ns / 1e6,
    unit: 'ms',
    budget: 50,
    ...(leaves.cNs === undefined ? {} : { reference: { name: 'C', value: leaves.cNs } }),
  });
  const linux = await linuxGuest();
  const runs = best(30, () => listLeaves(linux).count);
  rows.push({ name: 'all leaves of a Linux guest’s dump', value: runs.ns / 1e6, unit: 'ms', budget: 10, note: `${runs.check} runs of pages` }); // prettier-ignore
  return rows;
}
