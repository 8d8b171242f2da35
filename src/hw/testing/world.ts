/**
 * A processor in a small 64-bit (or 32-bit, or real-mode) world for tests: identity-mapped pages, an IDT with one handler per vector,
 * a GDT and a TSS. Test code only.
 */
import { UncachedMemory } from '../linear-memory';
import { PhysMemory } from '../memory';
import { Processor } from '../processor';
import { CpuState, CR0, CR4, EFER, segment } from '../regs';
import { intelFeatures } from '../features';
import { Translator } from '../translate';

export const WORLD = {
  code: 0x1000,
  handlers: 0x3000,
  idt: 0x4000,
  gdt: 0x5000,
  tss: 0x6000,
  stack0: 0x8000,
  faultStack: 0x9000,
  root: 0x10000,
};

export interface World {
  cpu: Processor;
  s: CpuState;
  mem: PhysMemory;
  translator: Translator;
  /** Puts code at 0x1000 and RIP there. */
  code(...bytes: number[]): void;
  /** Sets the page-table entry of a page below 2 MiB (64-bit world only). */
  map(page: number, entry: number): void;
  /** Linear addresses in the order in which the processor accessed them, with their kind. */
  accesses: string[];
}

const KIND = ['r', 'w', 'x'];

function base(mem: PhysMemory, s: CpuState): World {
  const translator = new Translator(mem, intelFeatures());
  const mmu = new UncachedMemory(translator);
  const accesses: string[] = [];
  const inner = mmu.translate.bind(mmu);
  mmu.translate = (lo, hi, access) => {
    const address = ((BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0)).toString(16);
    accesses.push(`${KIND[access & 3]}${access & 4 ? 'u' : ''}${access & 8 ? 's' : ''} ${address}`);
    return inner(lo, hi, access);
  };
  mmu.loadRegisters(s);
  const cpu = new Processor(s, mmu, mem);
  const map = (page: number, entry: number): void => mem.writeQ(WORLD.root + 0x3000 + 8 * (page >>> 12), entry | 0, 0);
  const code = (...bytes: number[]): void => {
    mem.writeBytes(WORLD.code, Uint8Array.from(bytes));
    s.rip = BigInt(WORLD.code);
  };
  return { cpu, s, mem, translator, code, map, accesses };
}

const GDT = [
  0n,
  0x00af9b000000ffffn, // 08 code64 ring 0
  0x00cf93000000ffffn, // 10 data ring 0
  0x00affb000000ffffn, // 18 code64 ring 3
  0x00cff3000000ffffn, // 20 data ring 3
  0x00cf9b000000ffffn, // 28 code32 ring 0
  0x00cffb000000ffffn, // 30 code32 ring 3
];

/** A protected-mode world; `long` chooses 64-bit code and 4-level paging, else 32-bit code without paging. */
export function world(long = true, cpl = 0): World {
  const mem = new PhysMemory();
  const s = new CpuState();
  GDT.forEach((v, i) => mem.writeQ(WORLD.gdt + 8 * i, Number(v & 0xffffffffn), Number(v >> 32n)));
  for (let v = 0; v < 32; v++) {
    const handler = WORLD.handlers + 16 * v;
    mem.writeBytes(handler, Uint8Array.from([0xf4]));
    if (long) mem.writeQ(WORLD.idt + 16 * v, handler | (0x08 << 16), 0x8e00);
    else mem.writeQ(WORLD.idt + 8 * v, handler | (0x28 << 16), 0x8e00);
  }
  mem.write32(WORLD.tss + 4, WORLD.faultStack);
  if (!long) mem.write32(WORLD.tss + 8, 0x10);
  // identity map of the first 2 MiB, everything writable and user
  mem.writeQ(WORLD.root, (WORLD.root + 0x1000) | 7, 0);
  mem.writeQ(WORLD.root + 0x1000, (WORLD.root + 0x2000) | 7, 0);
  mem.writeQ(WORLD.root + 0x2000, (WORLD.root + 0x3000) | 7, 0);
  for (let p = 0; p < 512; p++) mem.writeQ(WORLD.root + 0x3000 + 8 * p, (p << 12) | 7, 0);
  s.cr0 = CR0.PE | CR0.ET | CR0.NE | CR0.WP | (long ? CR0.PG : 0n);
  if (long) {
    s.cr4 = CR4.PAE;
    s.efer = EFER.LME | EFER.LMA | EFER.NXE;
    s.cr3 = BigInt(WORLD.root);
  }
  const data = { selector: cpl ? 0x23 : 0x10, dpl: cpl };
  for (const n of ['ss', 'ds', 'es', 'fs', 'gs'] as const) s[n] = segment(data);
  s.cs = segment({
    selector: long ? (cpl ? 0x1b : 0x08) : cpl ? 0x33 : 0x28,
    type: 0xb,
    dpl: cpl,
    l: long ? 1 : 0,
    db: long ? 0 : 1,
  });
  s.tr = segment({ selector: 0x38, base: BigInt(WORLD.tss), limit: 0x67, type: 0xb, s: 0, g: 0, db: 0 });
  s.gdtr.base = BigInt(WORLD.gdt);
  s.gdtr.limit = 0x4f;
  s.idtr.base = BigInt(WORLD.idt);
  s.idtr.limit = long ? 0x1ff : 0xff;
  s.gpr[4] = BigInt(WORLD.stack0);
  s.rip = BigInt(WORLD.code);
  return base(mem, s);
}

/** Real mode with code at 0:0x1000. */
export function realWorld(): World {
  const mem = new PhysMemory();
  const s = new CpuState();
  for (const n of ['es', 'ss', 'ds', 'fs', 'gs', 'cs'] as const) s[n] = { ...s[n], selector: 0, base: 0n };
  s.idtr.limit = 0x3ff;
  s.gpr[4] = 0x7000n;
  s.rip = BigInt(WORLD.code);
  return base(mem, s);
}

/** Runs the code at RIP until it exits. */
export const runCode = (w: World): ReturnType<Processor['run']> => w.cpu.run(() => 'fetch');
