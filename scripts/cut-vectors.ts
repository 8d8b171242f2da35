/**
 * Cuts what tests need out of whole sets of processor vectors and out of a guest's memory dump:
 *
 *   tsx scripts/cut-vectors.ts MMU_VECTORS PAGING test/fixtures/vectors
 *
 * All MMU vectors (*.jsonl), every fourth paging vector (*.jsonl.gz), and of the dump the frames that hold its page tables, as a core
 * dump of their own beside `info mem`, gva2gpa and the registers. Needs the xz program.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { intelFeatures } from '../src/hw/features';
import { listLeaves } from '../src/hw/leaves';
import { PhysMemory } from '../src/hw/memory';
import { Translator } from '../src/hw/translate';
import { ElfCore } from '../src/targets/dump/elf';
import { openSource } from '../src/targets/dump/elf-source';

const EVERY = 4;

const pack = (text: string): Buffer => gzipSync(text, { level: 9 });

/** A 64-bit x86 core dump of some frames, with one note. */
function coreOf(memory: PhysMemory, note: Uint8Array): Buffer {
  const runs: { pfn: number; n: number }[] = [];
  for (const pfn of memory.frames()) {
    const last = runs.at(-1);
    if (last !== undefined && last.pfn + last.n === pfn) last.n++;
    else runs.push({ pfn, n: 1 });
  }
  const headers = 64 + 56 * (runs.length + 1);
  const noteAt = headers;
  let at = Math.ceil((noteAt + note.length) / 4096) * 4096;
  const out = Buffer.alloc(at + runs.reduce((sum, r) => sum + r.n * 4096, 0));
  out.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  out.writeUInt16LE(4, 16);
  out.writeUInt16LE(62, 18);
  out.writeUInt32LE(1, 20);
  out.writeBigUInt64LE(64n, 32);
  out.writeUInt16LE(64, 52);
  out.writeUInt16LE(56, 54);
  out.writeUInt16LE(runs.length + 1, 56);
  const header = (i: number, type: number, offset: number, address: number, length: number) => {
    const p = 64 + 56 * i;
    out.writeUInt32LE(type, p);
    out.writeBigUInt64LE(BigInt(offset), p + 8);
    out.writeBigUInt64LE(BigInt(address), p + 24);
    out.writeBigUInt64LE(BigInt(length), p + 32);
    out.writeBigUInt64LE(BigInt(length), p + 40);
  };
  header(0, 4, noteAt, 0, note.length);
  out.set(note, noteAt);
  runs.forEach((r, i) => {
    header(i + 1, 1, at, r.pfn * 4096, r.n * 4096);
    out.set(memory.readBytes(r.pfn * 4096, r.n * 4096), at);
    at += r.n * 4096;
  });
  return out;
}

async function cutDump(from: string, to: string): Promise<void> {
  mkdirSync(to, { recursive: true });
  const registers = JSON.parse(readFileSync(join(from, 'registers.json'), 'utf8')) as {
    maxphyaddr: number;
    cpus: { cr0: string; cr3: string; cr4: string; efer: string }[];
  };
  const source = await openSource(join(from, 'dump.elf.xz'));
  const core = ElfCore.open(source);
  const memory = new PhysMemory();
  memory.backing = (pfn) => core.frame(pfn);
  const t = new Translator(memory, intelFeatures({ maxphyaddr: registers.maxphyaddr }));
  const [cpu] = registers.cpus;
  t.setGuest({ cr0: BigInt(cpu.cr0), cr3: BigInt(cpu.cr3), cr4: BigInt(cpu.cr4), efer: BigInt(cpu.efer) });
  // Listing all leaves reads the frames of all tables and no others.
  listLeaves(t);
  const elf = join(to, 'dump.elf');
  writeFileSync(elf, coreOf(memory, core.notes));
  execFileSync('xz', ['-9e', '-f', elf]);
  const ranges = join(to, 'info-mem.txt');
  copyFileSync(join(from, 'info-mem.txt'), ranges);
  chmodSync(ranges, 0o644);
  execFileSync('xz', ['-9e', '-f', ranges]);
  copyFileSync(join(from, 'gva2gpa.json'), join(to, 'gva2gpa.json'));
  copyFileSync(join(from, 'registers.json'), join(to, 'registers.json'));
}

async function main([mmu, paging, to]: string[]): Promise<void> {
  if (to === undefined) throw new Error('usage: tsx scripts/cut-vectors.ts MMU_VECTORS PAGING TARGET');
  mkdirSync(to, { recursive: true });
  for (const file of readdirSync(mmu).filter((f) => f.endsWith('.jsonl'))) {
    writeFileSync(join(to, `${file}.gz`), pack(readFileSync(join(mmu, file), 'utf8')));
  }
  for (const file of readdirSync(paging).filter((f) => f.endsWith('.jsonl.gz'))) {
    const lines = gunzipSync(readFileSync(join(paging, file))).toString('utf8').trimEnd().split('\n'); // prettier-ignore
    writeFileSync(join(to, file), pack(`${lines.filter((_, i) => i % EVERY === 0).join('\n')}\n`));
  }
  await cutDump(join(paging, 'guest-4level'), join(to, 'guest-4level'));
}

main(process.argv.slice(2)).catch((e: unknown) => {
  console.error(e instanceof Error ? e.message : e);
  process.exitCode = 1;
});
