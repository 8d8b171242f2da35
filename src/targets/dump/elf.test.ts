import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DumpError, ElfCore } from './elf';
import { openSource, type ByteSource } from './elf-source';

interface Segment {
  address: number;
  bytes: Uint8Array;
  length?: number;
}

/** A core dump made by hand. `over` writes bytes over the finished file. */
function core(
  segments: Segment[],
  options: { bits?: 32 | 64; note?: Uint8Array; over?: (b: Buffer) => void } = {},
): Buffer {
  const wide = options.bits !== 32;
  const headerSize = wide ? 64 : 52;
  const entrySize = wide ? 56 : 32;
  const note = options.note ?? new Uint8Array(0);
  const parts = [
    { type: 4, address: 0, bytes: note, length: note.length },
    ...segments.map((s) => ({ type: 1, ...s })),
  ];
  let at = headerSize + entrySize * parts.length;
  const out = Buffer.alloc(at + parts.reduce((n, p) => n + p.bytes.length, 0));
  out.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1]);
  out.writeUInt16LE(4, 16);
  out.writeUInt16LE(wide ? 62 : 3, 18);
  if (wide) out.writeBigUInt64LE(64n, 32);
  else out.writeUInt32LE(52, 28);
  out.writeUInt16LE(entrySize, wide ? 54 : 42);
  out.writeUInt16LE(parts.length, wide ? 56 : 44);
  parts.forEach((p, i) => {
    const h = headerSize + i * entrySize;
    out.writeUInt32LE(p.type, h);
    const length = p.length ?? p.bytes.length;
    if (wide) {
      [at, 0, p.address, p.bytes.length, length].forEach((v, k) => out.writeBigUInt64LE(BigInt(v), h + 8 + 8 * k));
    } else {
      [at, 0, p.address, p.bytes.length, length].forEach((v, k) => out.writeUInt32LE(v, h + 4 + 4 * k));
    }
    out.set(p.bytes, at);
    at += p.bytes.length;
  });
  options.over?.(out);
  return out;
}

/** Bytes in memory as a source. */
function sourceOf(bytes: Uint8Array): ByteSource {
  return {
    size: bytes.length,
    read: (offset, length) => bytes.subarray(offset, offset + length),
    close: () => undefined,
  };
}

const filled = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

function cpuNote(cr3: bigint): Uint8Array {
  const body = Buffer.alloc(432);
  body.writeUInt32LE(1, 0);
  body.writeUInt32LE(432, 4);
  body.writeBigUInt64LE(0x8005_0033n, 392);
  body.writeBigUInt64LE(cr3, 416);
  body.writeBigUInt64LE(0x20n, 424);
  const head = Buffer.alloc(20);
  head.writeUInt32LE(5, 0);
  head.writeUInt32LE(body.length, 4);
  head.write('QEMU\0', 12, 'latin1');
  return Buffer.concat([head, body]);
}

describe('ELF core dumps', () => {
  it('give frames by physical address, zeros beyond the file’s part, and nothing where nothing is', () => {
    for (const bits of [32, 64] as const) {
      const elf = ElfCore.open(
        sourceOf(core([{ address: 0x10_0000, bytes: filled(0x1800, 2), length: 0x3000 }, { address: 0, bytes: filled(0x1000, 1) }], { bits })), // prettier-ignore
      );
      assert.equal(elf.bits, bits);
      assert.deepEqual(elf.segments.map((s) => s.address), [0, 0x10_0000]); // prettier-ignore
      assert.deepEqual(elf.frame(0), filled(0x1000, 1));
      assert.equal(elf.frame(1), undefined);
      assert.deepEqual(elf.frame(0x100), filled(0x1000, 2));
      assert.deepEqual(elf.frame(0x101)?.subarray(0x7ff, 0x801), Uint8Array.of(2, 0));
      assert.deepEqual(elf.frame(0x102), filled(0x1000, 0));
      assert.equal(elf.frame(0x103), undefined);
      assert.equal(elf.memorySize, 0x4000);
    }
  });

  it('join segments that meet inside a frame', () => {
    const elf = ElfCore.open(
      sourceOf(
        core([
          { address: 0x1400, bytes: filled(0x400, 1) },
          { address: 0x1c00, bytes: filled(0x800, 2) },
        ]),
      ),
    );
    const frame = elf.frame(1)!;
    assert.deepEqual([0, 0x400, 0x7ff, 0x800, 0xc00, 0xfff].map((i) => frame[i]), [0, 1, 1, 0, 2, 2]); // prettier-ignore
  });

  it('tell the control registers of each CPU', () => {
    const note = Buffer.concat([cpuNote(0x1000n), cpuNote(0x2000n)]);
    const elf = ElfCore.open(sourceOf(core([{ address: 0, bytes: filled(16, 1) }], { note })));
    assert.deepEqual(elf.cpus.map((c) => [c.cr0, c.cr3, c.cr4]), [[0x8005_0033n, 0x1000n, 0x20n], [0x8005_0033n, 0x2000n, 0x20n]]); // prettier-ignore
  });

  it('refuse what is no dump of an x86 machine, and say what it is', () => {
    const good = [{ address: 0, bytes: filled(16, 1) }];
    const refuse = (bytes: Uint8Array, message: RegExp) =>
      assert.throws(
        () => ElfCore.open(sourceOf(bytes), 'f'),
        (e: Error) => e instanceof DumpError && message.test(e.message),
      );
    refuse(filled(100, 7), /^f is not an ELF file: give a dump made by dump-guest-memory/);
    refuse(core(good, { over: (b) => b.writeUInt16LE(2, 16) }), /no core dump \(type 2/);
    refuse(core(good, { over: (b) => b.writeUInt16LE(183, 18) }), /another processor \(ELF machine 183/);
    refuse(core(good).subarray(0, 90), /cut short/);
    refuse(core([]), /no memory in it/);
    refuse(core(good, { over: (b) => b.writeBigUInt64LE(1n << 60n, 32) }), /damaged: e_phoff/);
  });

  it('are read from files, plain and xz', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'mmuscope-elf-'));
    try {
      const plain = join(folder, 'plain');
      writeFileSync(plain, core([{ address: 0x3000, bytes: filled(0x2000, 9) }]));
      const source = await openSource(plain);
      assert.deepEqual(ElfCore.open(source).frame(4), filled(0x1000, 9));
      assert.equal(source.read(source.size - 1, 100).length, 1);
      source.close();
      await assert.rejects(openSource(join(folder, 'none')), /cannot open the dump .*none/);
      // xz's own frame, cut off after its header.
      const broken = join(folder, 'broken');
      writeFileSync(broken, Uint8Array.of(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 4));
      await assert.rejects(openSource(broken), /is not a complete xz file/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
