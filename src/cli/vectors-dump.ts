/**
 * `npm run vectors -- --dump DIR`: the memory dump of a real guest, walked from its CR3. What src/hw says of its address space has to
 * equal what QEMU's monitor said at the same stop: `info mem` range by range, `gva2gpa` address by address.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ACC_DRY, ACC_READ, OK, RIGHT_U, RIGHT_W } from '../hw/access';
import { intelFeatures } from '../hw/features';
import { listLeaves, type LeafRuns } from '../hw/leaves';
import { PhysMemory } from '../hw/memory';
import { Translator } from '../hw/translate';
import { formatWhy } from '../hw/why';
import { WhyRecorder } from '../hw/why-recorder';
import { ElfCore } from '../targets/dump/elf';
import { openSource } from '../targets/dump/elf-source';

/** Differences printed of each kind. */
const SHOWN = 10;
/** CR4.SMEP, SMAP and PKE: QEMU's commands answer for no access in particular. */
const ACCESS_CONTROLS = 0x0070_0000n;

/** What came of comparing one dump. */
export interface DumpOutcome {
  passed: number;
  failed: number;
  /** Lines for people: what was read, the first differences. */
  report: string[];
}

interface Registers {
  maxphyaddr: number;
  cpus: { cr0: string; cr3: string; cr4: string; efer: string }[];
}

/** First of some names that exists in a folder. @throws Error that names them all */
function fileIn(folder: string, ...names: string[]): string {
  const found = names.map((n) => join(folder, n)).find((p) => existsSync(p));
  if (found === undefined) throw new Error(`${folder} has no ${names.join(' or ')}: a dump folder holds the dump, registers.json, info-mem.txt and gva2gpa.json`); // prettier-ignore
  return found;
}

/** Text of a file, plain or xz. */
async function textOf(path: string): Promise<string> {
  const source = await openSource(path);
  const text = new TextDecoder().decode(source.read(0, source.size));
  source.close();
  return text;
}

const hex16 = (v: bigint): string => v.toString(16).padStart(16, '0');

/**
 * Ranges as QEMU's `info mem` prints them: neighbours of equal rights merged whatever their frames, XD not shown, 48-bit addresses.
 */
export function infoMem(leaves: LeafRuns): string[] {
  const lines: string[] = [];
  let start = 0n;
  let end = 0n;
  let rights = 0;
  const canonical = (v: bigint) => ((v & (1n << 47n)) !== 0n ? BigInt.asUintN(64, v | (-1n << 48n)) : v);
  const flush = () => {
    if (end === start) return;
    const prot = `${rights & RIGHT_U ? 'u' : '-'}r${rights & RIGHT_W ? 'w' : '-'}`;
    lines.push(`${hex16(canonical(start))}-${hex16(canonical(end))} ${hex16(end - start)} ${prot}`);
  };
  for (let i = 0; i < leaves.count; i++) {
    const va = leaves.va(i) & 0xffff_ffff_ffffn;
    const now = leaves.rights[i] & (RIGHT_U | RIGHT_W);
    if (va !== end || now !== rights || start === end) {
      flush();
      start = va;
      rights = now;
    }
    end = va + leaves.size(i, 9);
  }
  flush();
  return lines;
}

/** Opens the dump in `folder`, compares it with what lies beside it. */
export async function compareDump(folder: string): Promise<DumpOutcome> {
  const registers = JSON.parse(await textOf(fileIn(folder, 'registers.json'))) as Registers;
  const path = fileIn(folder, 'dump.elf.xz', 'dump.elf');
  const report: string[] = [];
  const opening = performance.now();
  const core = ElfCore.open(await openSource(path), path);
  report.push(`${path}: ${core.bits}-bit core, ${core.segments.length} segments, ${(core.memorySize / 2 ** 20).toFixed(1)} MiB, opened in ${((performance.now() - opening) / 1000).toFixed(1)} s`); // prettier-ignore
  let passed = 0;
  let failed = 0;
  try {
    const memory = new PhysMemory();
    memory.backing = (pfn) => core.frame(pfn);
    const t = new Translator(memory, intelFeatures({ maxphyaddr: registers.maxphyaddr }));
    const [cpu] = registers.cpus;
    t.setGuest({
      cr0: BigInt(cpu.cr0),
      cr3: BigInt(cpu.cr3),
      cr4: BigInt(cpu.cr4) & ~ACCESS_CONTROLS,
      efer: BigInt(cpu.efer),
    });
    const note = core.cpus.at(0);
    if (
      note !== undefined &&
      (note.cr3 !== BigInt(cpu.cr3) || note.cr0 !== BigInt(cpu.cr0) || note.cr4 !== BigInt(cpu.cr4))
    ) {
      report.push('the registers in the dump itself differ from registers.json');
      failed++;
    }

    const first = performance.now();
    listLeaves(t);
    const again = performance.now();
    const leaves = listLeaves(t);
    const done = performance.now();
    report.push(`${leaves.count} runs of pages, listed in ${(done - again).toFixed(1)} ms (the first time, reading its tables from the dump, ${(again - first).toFixed(1)} ms)`); // prettier-ignore
    const wanted = (await textOf(fileIn(folder, 'info-mem.txt', 'info-mem.txt.xz'))).split('\n').filter((l) => l !== ''); // prettier-ignore
    const actual = infoMem(leaves);
    const ranges = compareLines(wanted, actual, report);
    passed += ranges.same;
    failed += ranges.different;

    const pairs = JSON.parse(await textOf(fileIn(folder, 'gva2gpa.json'))) as [string, string | null][];
    let shown = 0;
    for (const [gva, gpa] of pairs) {
      const va = BigInt(gva);
      const status = t.translate(Number(va & 0xffff_ffffn), Number(va >> 32n), ACC_READ | ACC_DRY);
      const got = status === OK ? `0x${t.gpa.toString(16)}` : null;
      if (got === (gpa === null ? null : `0x${BigInt(gpa).toString(16)}`)) {
        passed++;
        continue;
      }
      failed++;
      if (shown++ >= SHOWN) continue;
      const why = new WhyRecorder(t);
      t.recorder = why;
      t.translate(Number(va & 0xffff_ffffn), Number(va >> 32n), ACC_READ | ACC_DRY);
      t.recorder = null;
      report.push(`gva2gpa ${gva}: QEMU says ${gpa ?? 'unmapped'}, src/hw ${got ?? 'unmapped'}`, ...formatWhy(why.record).map((l) => `  ${l}`)); // prettier-ignore
    }
    report.push(
      `info mem: ${ranges.same} ranges agree, ${ranges.different} differ; gva2gpa: ${pairs.length} addresses`,
    );
  } finally {
    core.close();
  }
  return { passed, failed, report };
}

/** Compares two lists of distinct lines; a line that only one side has is a difference. */
function compareLines(wanted: string[], actual: string[], report: string[]): { same: number; different: number } {
  const ours = new Set(actual);
  const theirs = new Set(wanted);
  let shown = 0;
  let different = 0;
  const differ = (line: string) => {
    different++;
    if (shown++ < SHOWN) report.push(line);
  };
  for (const line of wanted) if (!ours.has(line)) differ(`info mem: only QEMU has  ${line}`);
  for (const line of actual) if (!theirs.has(line)) differ(`info mem: only src/hw has ${line}`);
  return { same: wanted.filter((l) => ours.has(l)).length, different };
}
