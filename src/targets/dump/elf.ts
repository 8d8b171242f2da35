/**
 * Reader of ELF core dumps of whole machines, as QEMU's dump-guest-memory and `virsh dump --memory-only` write them: PT_LOAD segments
 * by physical address, notes with the registers of each CPU.
 *
 * Sources: System V ABI (ELF header, program header, notes), elf.h; QEMU target/i386/arch_dump.c for the "QEMU" note's layout.
 */
import type { ByteSource } from './elf-source';

/** A run of guest-physical memory in the file. Addresses and lengths in bytes; physical addresses are below 2^52. */
export interface DumpSegment {
  readonly address: number;
  /** Bytes in memory; those beyond `fileLength` are zero. */
  readonly length: number;
  readonly offset: number;
  readonly fileLength: number;
}

/** Control registers of one CPU, from its "QEMU" note. */
export interface DumpCpu {
  readonly cr0: bigint;
  readonly cr2: bigint;
  readonly cr3: bigint;
  readonly cr4: bigint;
  readonly rip: bigint;
  readonly rsp: bigint;
  readonly rflags: bigint;
  /** CS attributes: bit 21 is L (64-bit code). */
  readonly csFlags: number;
}

/** Thrown for files that are no core dump. The message is one sentence for the user. */
export class DumpError extends Error {
  override readonly name = 'DumpError';
}

const PT_LOAD = 1;
const PT_NOTE = 4;
const ET_CORE = 4;
const EM_386 = 3;
const EM_X86_64 = 62;
/** More program headers than e_phnum can count: the number is in section header 0. */
const PN_XNUM = 0xffff;
const FRAME = 4096;

/** An opened dump. */
export class ElfCore {
  private constructor(
    private readonly source: ByteSource,
    /** By address, not overlapping. */
    readonly segments: readonly DumpSegment[],
    readonly cpus: readonly DumpCpu[],
    /** 64 for a dump of a machine that was in long mode. */
    readonly bits: 32 | 64,
    /** The bytes of all note segments. */
    readonly notes: Uint8Array,
  ) {}

  /** Reads the headers of a dump. @throws DumpError if it is none, with what it is instead where that can be told */
  static open(source: ByteSource, name = 'the file'): ElfCore {
    const head = view(source.read(0, 64));
    if (head.byteLength < 52 || head.getUint32(0) !== 0x7f454c46) {
      throw new DumpError(`${name} is not an ELF file: give a dump made by dump-guest-memory with paging off`);
    }
    const bits = head.getUint8(4) === 2 ? 64 : 32;
    if (head.getUint8(5) !== 1) throw new DumpError(`${name} is big-endian: dumps of x86 machines are little-endian`);
    const type = head.getUint16(16, true);
    const machine = head.getUint16(18, true);
    if (type !== ET_CORE) throw new DumpError(`${name} is an ELF file but no core dump (type ${type}, a core is 4)`);
    if (machine !== EM_X86_64 && machine !== EM_386) {
      throw new DumpError(`${name} is a core dump of another processor (ELF machine ${machine}, x86 is 3 or 62)`);
    }
    const segments: DumpSegment[] = [];
    let notes: Uint8Array = new Uint8Array(0);
    for (const p of programHeaders(source, head, bits, name)) {
      if (p.type === PT_LOAD && p.fileLength + p.length > 0) segments.push(p);
      if (p.type === PT_NOTE) notes = joined(notes, source.read(p.offset, p.fileLength));
    }
    if (segments.length === 0) throw new DumpError(`${name} has no memory in it (no PT_LOAD segment)`);
    segments.sort((a, b) => a.address - b.address);
    return new ElfCore(source, segments, cpuNotes(notes), bits, notes);
  }

  /** The segment that holds a physical address, undefined if none does. */
  segmentAt(address: number): DumpSegment | undefined {
    const { segments } = this;
    let low = 0;
    let high = segments.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const s = segments[middle];
      if (address < s.address) high = middle - 1;
      else if (address >= s.address + Math.max(s.length, s.fileLength)) low = middle + 1;
      else return s;
    }
    return undefined;
  }

  /** The 4096 bytes of frame `pfn`, undefined if no byte of it is in the dump. Suits {@link PhysMemory.backing}. */
  frame(pfn: number): Uint8Array | undefined {
    const from = pfn * FRAME;
    const out = new Uint8Array(FRAME);
    let found = false;
    for (let at = from; at < from + FRAME;) {
      const s = this.segmentAt(at);
      if (s === undefined) {
        // Segments need not begin on a page; look for one that begins inside it.
        const next = this.segments.find((x) => x.address > at && x.address < from + FRAME);
        if (next === undefined) break;
        at = next.address;
        continue;
      }
      const within = at - s.address;
      const inSegment = Math.min(from + FRAME - at, Math.max(s.length, s.fileLength) - within);
      const inFile = Math.max(0, Math.min(inSegment, s.fileLength - within));
      if (inFile > 0) out.set(this.source.read(s.offset + within, inFile), at - from);
      found = true;
      at += inSegment;
    }
    return found ? out : undefined;
  }

  /** Bytes of memory that the dump covers. */
  get memorySize(): number {
    return this.segments.reduce((sum, s) => sum + Math.max(s.length, s.fileLength), 0);
  }

  close(): void {
    this.source.close();
  }
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function toNumber(value: bigint, what: string, name: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new DumpError(`${name} is damaged: ${what} is ${value}`);
  return Number(value);
}

function programHeaders(source: ByteSource, head: DataView, bits: 32 | 64, name: string): (DumpSegment & { type: number })[] {
  const wide = bits === 64;
  const offset = wide ? toNumber(head.getBigUint64(32, true), 'e_phoff', name) : head.getUint32(28, true);
  const entrySize = head.getUint16(wide ? 54 : 42, true);
  let count = head.getUint16(wide ? 56 : 44, true);
  if (count === PN_XNUM) {
    const sections = wide ? toNumber(head.getBigUint64(40, true), 'e_shoff', name) : head.getUint32(32, true);
    const section = view(source.read(sections, wide ? 64 : 40));
    count = section.getUint32(wide ? 44 : 28, true);
  }
  const table = view(source.read(offset, count * entrySize));
  if (table.byteLength < count * entrySize || entrySize < (wide ? 56 : 32)) {
    throw new DumpError(`${name} is cut short: its program headers end after ${table.byteLength} of ${count * entrySize} bytes`);
  }
  const out: (DumpSegment & { type: number })[] = [];
  for (let i = 0; i < count; i++) {
    const at = i * entrySize;
    const u64 = (o: number) => toNumber(table.getBigUint64(at + o, true), 'a program header', name);
    const u32 = (o: number) => table.getUint32(at + o, true);
    out.push(
      wide
        ? { type: u32(0), offset: u64(8), address: u64(24), fileLength: u64(32), length: u64(40) }
        : { type: u32(0), offset: u32(4), address: u32(12), fileLength: u32(16), length: u32(20) },
    );
  }
  return out;
} // prettier-ignore

/** The CPUs in a note segment: notes named "QEMU". */
function cpuNotes(bytes: Uint8Array): DumpCpu[] {
  const v = view(bytes);
  const cpus: DumpCpu[] = [];
  const pad = (n: number) => (n + 3) & ~3;
  for (let at = 0; at + 12 <= v.byteLength;) {
    const nameLength = v.getUint32(at, true);
    const length = v.getUint32(at + 4, true);
    const name = new TextDecoder('latin1').decode(bytes.subarray(at + 12, at + 12 + nameLength)).replace(/\0.*$/, '');
    const body = at + 12 + pad(nameLength);
    if (body + length > v.byteLength) break;
    const cpu = name === 'QEMU' ? qemuCpu(new DataView(v.buffer, v.byteOffset + body, length)) : null;
    if (cpu !== null) cpus.push(cpu);
    at = body + pad(length);
  }
  return cpus;
}

/**
 * struct QEMUCPUState: version and size (u32 each), 16 general registers, rip, rflags (u64 each), ten segments of 24 bytes
 * (cs ds es fs gs ss ldt tr gdt idt: selector, limit, flags, pad as u32, base as u64), cr0 … cr4 as u64.
 */
function qemuCpu(v: DataView): DumpCpu | null {
  const SEGMENTS = 8 + 18 * 8;
  const CONTROL = SEGMENTS + 10 * 24;
  if (v.byteLength < CONTROL + 5 * 8 || v.getUint32(0, true) !== 1) return null;
  const u64 = (o: number) => v.getBigUint64(o, true);
  return {
    rsp: u64(8 + 7 * 8),
    rip: u64(8 + 16 * 8),
    rflags: u64(8 + 17 * 8),
    csFlags: v.getUint32(SEGMENTS + 8, true),
    cr0: u64(CONTROL),
    cr2: u64(CONTROL + 16),
    cr3: u64(CONTROL + 24),
    cr4: u64(CONTROL + 32),
  };
}
