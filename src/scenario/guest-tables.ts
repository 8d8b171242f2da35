/**
 * `map` and `unmap`: user space edits guest page tables in guest memory, in the format of the paging mode that the vCPU is in (or
 * that CR4 and EFER select, while CR0.PG is still clear). SDM vol. 3A 4.3 to 4.5.
 */
import { CR4, EFER, type CpuState } from '../hw/regs';
import type { Machine } from '../kvm/machine';

/** Where new table pages come from. */
export interface TablePages {
  readonly as_id: number;
  /** guest-physical address of the next free page */
  readonly next: number;
}

/** Geometry of a paging mode. */
interface Format {
  readonly levels: number;
  readonly entryBytes: 4 | 8;
  /** index bits of one level */
  readonly bits: 9 | 10;
  readonly root: number;
  /** bits of an entry that points to a lower table, by level */
  tableFlags(level: number): bigint;
}

const USER_WRITABLE = 7n;
const PS = 0x80n;
const ADDRESS = 0x000ffffffffff000n;

function formatOf(s: CpuState): Format {
  if (s.efer & (EFER.LME | EFER.LMA)) {
    return {
      levels: s.cr4 & CR4.LA57 ? 5 : 4,
      entryBytes: 8,
      bits: 9,
      root: Number(s.cr3 & ADDRESS),
      tableFlags: () => USER_WRITABLE,
    };
  }
  if (s.cr4 & CR4.PAE) {
    // Bits 1 and 2 of a PDPTE are reserved.
    return {
      levels: 3,
      entryBytes: 8,
      bits: 9,
      root: Number(s.cr3 & 0xffffffe0n),
      tableFlags: (l) => (l === 3 ? 1n : USER_WRITABLE),
    };
  }
  return { levels: 2, entryBytes: 4, bits: 10, root: Number(s.cr3 & 0xfffff000n), tableFlags: () => USER_WRITABLE };
}

/** Level whose entries map pages of this size in this mode, or a sentence why there is none. */
function levelOf(f: Format, size: number): number | string {
  const level = size === 0x1000 ? 1 : size === 0x40000000 ? 3 : 2;
  if (f.entryBytes === 4)
    return size === 0x200000 || size === 0x40000000 ? '32-bit paging has pages of 4K and 4M only' : level;
  if (size === 0x400000) return 'this paging mode has pages of 4K, 2M and 1G, not of 4M';
  return level === 3 && f.levels === 3 ? 'PAE paging has pages of 4K and 2M only' : level;
}

const shift = (f: Format, level: number): bigint => 12n + BigInt(f.bits) * BigInt(level - 1);
const hex = (v: bigint | number): string => `0x${v.toString(16)}`;

class Tables {
  next: number;
  error: string | null = null;
  private readonly machine: Machine;
  private readonly format: Format;
  private readonly pages: TablePages;

  constructor(machine: Machine, format: Format, pages: TablePages) {
    this.machine = machine;
    this.format = format;
    this.pages = pages;
    this.next = pages.next;
  }

  read(gpa: number): bigint {
    const bytes = this.machine.hostRead(this.pages.as_id, gpa, this.format.entryBytes);
    if (bytes === null) return this.fail(gpa);
    let v = 0n;
    for (let i = bytes.length - 1; i >= 0; i--) v = (v << 8n) | BigInt(bytes[i]);
    return v;
  }

  write(gpa: number, value: bigint): void {
    const bytes = Uint8Array.from({ length: this.format.entryBytes }, (_, i) =>
      Number((value >> BigInt(8 * i)) & 0xffn),
    );
    if (!this.machine.hostWrite(this.pages.as_id, gpa, bytes)) this.fail(gpa);
  }

  private fail(gpa: number): bigint {
    this.error ??= `no memslot of address space ${this.pages.as_id} holds the guest page table at gpa ${hex(gpa)}: add one, or move the tables with tables at`;
    return 0n;
  }

  private allocate(): number {
    const rootPage = this.format.root - (this.format.root % 4096);
    if (this.next === rootPage) this.next += 4096;
    const page = this.next;
    this.next += 4096;
    if (!this.machine.hostWrite(this.pages.as_id, page, new Uint8Array(4096))) this.fail(page);
    return page;
  }

  /** Address of the entry for a linear address at a level; -1 when a table on the way is missing and `create` is not set. */
  entryAt(gva: bigint, level: number, create: boolean): number {
    const f = this.format;
    let table = f.root;
    for (let l = f.levels; ; l--) {
      const index = Number((gva >> shift(f, l)) & ((1n << BigInt(f.bits)) - 1n));
      const address = table + (l === 3 && f.levels === 3 ? index & 3 : index) * f.entryBytes;
      if (l === level) return address;
      let entry = this.read(address);
      if (this.error !== null) return -1;
      if ((entry & 1n) === 0n) {
        if (!create) return -1;
        entry = BigInt(this.allocate()) | f.tableFlags(l);
        this.write(address, entry);
      } else if (l <= 3 && entry & PS && !(l === 3 && f.levels === 3)) {
        this.error ??= `gva ${hex(gva)} already lies in a larger page (entry ${hex(entry)} at gpa ${hex(address)}): unmap that first`;
        return -1;
      }
      table = Number(entry & (f.entryBytes === 4 ? 0xfffff000n : ADDRESS));
    }
  }
}

/** Result of an edit: the pages used so far, or a sentence why it cannot be done. */
export type TableEdit = { readonly pages: TablePages; readonly error: string | null };

/** Maps `count` pages of `size` bytes from `gva` to `gpa` with the bits `flags` in their leaves. */
export function mapPages(
  machine: Machine,
  state: CpuState,
  pages: TablePages,
  m: {
    readonly gva: bigint;
    readonly gpa: number;
    readonly size: number;
    readonly flags: bigint;
    readonly count: number;
  },
): TableEdit {
  const format = formatOf(state);
  const level = levelOf(format, m.size);
  if (typeof level === 'string') return { pages, error: level };
  if (format.entryBytes === 4 && m.flags >> 32n)
    return { pages, error: '32-bit paging has no NX bit and no protection keys' };
  const tables = new Tables(machine, format, pages);
  for (let i = 0; i < m.count && tables.error === null; i++) {
    const gva = m.gva + BigInt(i) * BigInt(m.size);
    const gpa = BigInt(m.gpa) + BigInt(i) * BigInt(m.size);
    const address = tables.entryAt(gva, level, true);
    if (address < 0) break;
    // PSE-36: address bits 39:32 of a 4M page are in bits 20:13 of its entry.
    const frame = format.entryBytes === 4 && level === 2 ? (gpa & 0xffc00000n) | (((gpa >> 32n) & 0xffn) << 13n) : gpa;
    tables.write(address, frame | m.flags | (level > 1 ? PS : 0n));
  }
  return { pages: { as_id: pages.as_id, next: tables.next }, error: tables.error };
}

/** Clears the entries of `count` pages from `gva` on; each of the size that maps it now. Pages that are not mapped are passed by. */
export function unmapPages(
  machine: Machine,
  state: CpuState,
  pages: TablePages,
  gva: bigint,
  count: number,
): string | null {
  const format = formatOf(state);
  const tables = new Tables(machine, format, pages);
  let at = gva;
  for (let i = 0; i < count; i++) {
    let size = 1n << 12n;
    for (let level = Math.min(3, format.levels); level >= 1; level--) {
      const address = tables.entryAt(at, level, false);
      if (tables.error !== null) return tables.error;
      if (address < 0) break;
      const entry = tables.read(address);
      const leaf = level === 1 || ((entry & PS) !== 0n && !(level === 3 && format.levels === 3));
      if ((entry & 1n) === 0n || !leaf) continue;
      tables.write(address, 0n);
      size = 1n << shift(format, level);
      break;
    }
    at += size;
  }
  return tables.error;
}
