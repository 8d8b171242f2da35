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
import { ACC_READ, ACC_USER, OK, R_HPA_HI, R_HPA_LO, Translator } from '../src/hw/translate';
import type { Row } from './bench';

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

/** Translates all pages once; the XOR of the host frames. */
function walkAll(t: Translator, pages: Int32Array): number {
  const { r } = t;
  let check = 0;
  for (let i = 0; i < 2 * PAGES; i += 2) {
    if (t.translate(pages[i], pages[i + 1], ACC_READ | ACC_USER) !== OK)
      throw new Error(`page ${i / 2} did not translate`);
    check ^= (r[R_HPA_LO] >>> 12) | (r[R_HPA_HI] << 20);
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
    if (t.translate(order[i], VA_HI, ACC_READ | ACC_USER) !== OK) throw new Error(`access ${i} did not translate`);
    check ^= (r[R_HPA_LO] >>> 3) | (r[R_HPA_HI] << 29);
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

/** Figures of the C program by name, null without a C compiler. */
function runC(): Map<string, { ns: number; check: number }> | null {
  const folder = mkdtempSync(join(tmpdir(), 'mmuscope-walk-'));
  try {
    const program = join(folder, 'walk');
    try {
      execFileSync('cc', ['-O2', '-o', program, join(FOLDER, 'c/walk.c')], { stdio: ['ignore', 'ignore', 'inherit'] });
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
      return null;
    }
    const lines = execFileSync(program, { encoding: 'utf8' }).trim().split('\n');
    return new Map(
      lines.map((l) => l.split(' ')).map(([name, ns, check]) => [name, { ns: Number(ns), check: Number(check) }]),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Heap growth in bytes per call over `calls` calls of a function that makes PAGES walks. */
function heapGrowth(work: () => number, calls: number): number {
  globalThis.gc?.();
  const before = process.memoryUsage().heapUsed;
  for (let i = 0; i < calls; i++) work();
  return process.memoryUsage().heapUsed - before;
}

export default async function walk(): Promise<Row[]> {
  const c = runC();
  const rows: Row[] = [];
  const against = (name: string, check: number, scale = 1): Partial<Row> => {
    const reference = c?.get(name);
    if (reference === undefined) return { note: 'no C compiler here' };
    if (reference.check !== check >>> 0) throw new Error(`${name}: C says ${reference.check}, src/hw ${check >>> 0}`);
    return { reference: { name: 'C', value: reference.ns * scale } };
  };
  const nsRow = (name: string, title: string, repeat: number, work: () => number, limit: number) => {
    const { ns, check } = best(repeat, work);
    const row: Row = { name: title, value: ns / PAGES, unit: 'ns', ...against(name, check) };
    // The targets are shares of C's speed.
    rows.push(row.reference === undefined ? row : { ...row, budget: row.reference.value / limit });
  };

  for (const [name, title, spread] of [
    ['walk-dense', '4-level walk, 64 Ki pages of 256 MiB', false],
    ['walk-spread', '4-level walk, 64 Ki random pages of 64 GiB', true],
  ] as const) {
    const { translator, pages } = flat(spread);
    nsRow(name, title, 100, () => walkAll(translator, pages), 0.5);
    if (!spread) {
      const bytes = heapGrowth(() => walkAll(translator, pages), 160);
      rows.push({ name: 'heap growth over 10 M walks', value: bytes / 1024, unit: 'KiB', budget: 64 });
    }
  }
  for (const [name, title, kind, spread] of [
    ['ept-dense', '2-D walk 4×4, EPT, 64 Ki pages of 256 MiB', 'ept', false],
    ['ept-spread', '2-D walk 4×4, EPT, 64 Ki random pages of 64 GiB', 'ept', true],
    ['npt-dense', '2-D walk 4×4, NPT, 64 Ki pages of 256 MiB', 'npt', false],
  ] as const) {
    const { translator, pages } = nested(kind, spread);
    nsRow(name, title, 60, () => walkAll(translator, pages), 0.5);
  }
  const { translator, order } = hotTlb();
  nsRow('tlb-hit', 'TLB hit', 200, () => hitAll(translator, order), 0.3);

  const million = millionPages();
  const leaves = best(10, () => listLeaves(million).count);
  rows.push({ name: 'all leaves of 1,048,576 pages', value: leaves.ns / 1e6, unit: 'ms', ...against('leaves', leaves.check), budget: 50 }); // prettier-ignore
  return rows;
}
