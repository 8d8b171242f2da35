/**
 * The host under KVM: user space memory that backs memslots (hva -> pfn) and the kernel's page allocator.
 *
 * A backing is one anonymous mapping of the VMM, made of 4K or of 2M host pages. Frames are pinned from a real run or given out in
 * order on first use, so that a run is deterministic.
 */
import type { PhysMemory } from '../hw/memory';

/** First frame of memory handed to backings, and the frames between two of them (1 GiB). */
const BACKING_FIRST_PFN = 0x40000;
const BACKING_STRIDE_PFNS = 0x40000;
/** First frame of KVM's own allocations (shadow pages). */
const KERNEL_FIRST_PFN = 0x8000;
const HVA_BASE = 0x7f0000000000n;
const HVA_STRIDE = 0x4000000000n;
/** Mappings that fit between HVA_BASE and 2^47. */
const HVA_ABOVE = 4;

/** One mapping of user space memory. */
export interface Backing {
  readonly name: string;
  readonly hva: bigint;
  /** bytes */
  readonly size: number;
  /** 2M host pages: the host maps the range at level 2 */
  readonly huge: boolean;
  /** frame of each 4K page; -1 while the host has not populated it */
  readonly pfns: Float64Array;
  /** the host mapping is read-only */
  readonly readonly: boolean;
  firstPfn: number;
  /** how often pages of it were discarded: later frames come from elsewhere */
  generation: number;
}

/** Result of an hva lookup: index of the page in its backing. */
export interface HostPage {
  backing: Backing;
  index: number;
}

export class Host {
  readonly backings: Backing[] = [];
  /** frames taken by somebody: pinned guest frames and kernel pages */
  readonly taken = new Set<number>();
  private discardedPfns = 0;
  private nextKernelPfn = KERNEL_FIRST_PFN;
  private readonly freeKernelPfns: number[] = [];
  private readonly mem: PhysMemory;
  private readonly maxPfn: number;

  constructor(mem: PhysMemory, maxphyaddr: number) {
    this.mem = mem;
    this.maxPfn = 2 ** (Math.min(maxphyaddr, 52) - 12);
  }

  /**
   * Maps `size` bytes of anonymous memory. `populate` gives every page a frame at once (what MAP_POPULATE or a memset does).
   * @throws Error when the name is taken, the size is no multiple of the page size or the ranges overlap.
   */
  map(name: string, size: number, opts: { huge?: boolean; hva?: bigint; readonly?: boolean } = {}): Backing {
    const unit = opts.huge ? 0x200000 : 0x1000;
    if (this.find(name)) throw new Error(`backing "${name}" exists already; give this one another name`);
    if (size <= 0 || size % unit !== 0)
      throw new Error(`backing "${name}": size 0x${size.toString(16)} is not a multiple of ${opts.huge ? '2M' : '4K'}`);
    const n = this.backings.length;
    // Upwards as far as user addresses go (below 2^47), then down from the first.
    const place = n < HVA_ABOVE ? n : HVA_ABOVE - 1 - n;
    const hva = opts.hva ?? HVA_BASE + BigInt(place) * HVA_STRIDE;
    for (const b of this.backings)
      if (hva < b.hva + BigInt(b.size) && b.hva < hva + BigInt(size))
        throw new Error(`backing "${name}" at hva 0x${hva.toString(16)} overlaps backing "${b.name}"`);
    const firstPfn = BACKING_FIRST_PFN + n * BACKING_STRIDE_PFNS;
    const backing: Backing = {
      name,
      hva,
      size,
      huge: opts.huge ?? false,
      readonly: opts.readonly ?? false,
      generation: 0,
      pfns: new Float64Array(size / 0x1000).fill(-1),
      firstPfn:
        firstPfn + size / 0x1000 <= this.maxPfn ? firstPfn : Math.max(0x1000, (this.maxPfn >> 1) + n * (size >> 12)),
    };
    this.backings.push(backing);
    return backing;
  }

  /** The backing of that name, or undefined. */
  find(name: string): Backing | undefined {
    return this.backings.find((b) => b.name === name);
  }

  /** The backing of that name. @throws Error when there is none */
  named(name: string): Backing {
    const b = this.find(name);
    if (!b) throw new Error(`there is no backing "${name}"`);
    return b;
  }

  /** Pins the frames of `pages` 4K pages from byte `offset` on: consecutive frames from `pfn`. */
  pin(backing: Backing, offset: number, pfn: number, pages = 1): void {
    const first = offset / 0x1000;
    for (let i = 0; i < pages; i++) {
      backing.pfns[first + i] = pfn + i;
      this.taken.add(pfn + i);
    }
  }

  /** Pins host frames of a backing from byte `offset` on; each of `pfns` stands for `pagesPerEntry` 4K pages. */
  setFrames(name: string, offset: number, pfns: readonly number[], pagesPerEntry = 1): void {
    const b = this.named(name);
    pfns.forEach((pfn, i) => {
      const at = offset + i * pagesPerEntry * 4096;
      const data: (Uint32Array | null)[] = [];
      for (let p = 0; p < pagesPerEntry; p++) {
        const index = at / 4096 + p;
        const old = b.pfns[index];
        data.push(old >= 0 && old !== pfn + p ? (this.mem.peek(old)?.slice() ?? null) : null);
      }
      this.pin(b, at, pfn, pagesPerEntry);
      data.forEach((d, p) => {
        if (d) this.mem.frame(pfn + p).set(d);
      });
    });
  }

  /** find_vma() for our purposes: the page behind an hva, or null (-EFAULT). */
  lookup(hva: bigint): HostPage | null {
    for (const backing of this.backings)
      if (hva >= backing.hva && hva < backing.hva + BigInt(backing.size))
        return { backing, index: Number((hva - backing.hva) >> 12n) };
    return null;
  }

  /** The frame of a page of a backing; populates it on first use, as the host's page fault would. */
  populate(backing: Backing, index: number): number {
    const pfn = backing.pfns[index];
    if (pfn >= 0) return pfn;
    // A page that was discarded gets a frame that nobody had before, behind the mapping's own stretch.
    const shift = backing.generation === 0 ? 0 : (this.discardedPfns += 512);
    if (backing.huge) {
      const first = index & ~511;
      let base = (backing.firstPfn + first + (shift ? backing.pfns.length + shift : 0) + 511) & ~511;
      if (shift) while (this.taken.has(base)) base += 512;
      for (let i = 0; i < 512; i++) {
        backing.pfns[first + i] = base + i;
        this.taken.add(base + i);
      }
      return backing.pfns[index];
    }
    let own = backing.firstPfn + index + (shift ? backing.pfns.length + shift : 0);
    if (shift) while (this.taken.has(own)) own++;
    backing.pfns[index] = own;
    this.taken.add(own);
    return own;
  }

  /** The page is gone; its frame is not used again, so that what still points there can be told from what does not. */
  discard(backing: Backing, index: number): void {
    const first = backing.huge ? index & ~511 : index;
    for (let i = first; i < (backing.huge ? first + 512 : first + 1); i++) backing.pfns[i] = -1;
    backing.generation++;
  }

  /** User space writes memory of a backing. */
  write(name: string, offset: number, bytes: Uint8Array): void {
    const b = this.named(name);
    for (let i = 0; i < bytes.length; i++) {
      const at = offset + i;
      this.mem.write8(this.populate(b, Math.floor(at / 4096)) * 4096 + (at % 4096), bytes[i]);
    }
  }

  /** User space reads memory of a backing. */
  read(name: string, offset: number, length: number): Uint8Array {
    const b = this.named(name);
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i++) {
      const pfn = b.pfns[Math.floor((offset + i) / 4096)];
      out[i] = pfn >= 0 ? this.mem.read8(pfn * 4096 + ((offset + i) % 4096)) : 0;
    }
    return out;
  }

  /**
   * host_pfn_mapping_level(): 2 where a populated 2M host page maps this page, else 1.
   */
  mappingLevel(backing: Backing, index: number): number {
    if (!backing.huge) return 1;
    const first = backing.pfns[index & ~511];
    return first >= 0 && first % 512 === 0 ? 2 : 1;
  }

  /** A page for KVM (shadow page, pae_root …), every 64-bit word of it `hi:lo`. */
  allocPage(lo = 0, hi = 0): number {
    const again = this.freeKernelPfns.pop();
    if (again !== undefined) {
      fill(this.mem.frame(again), lo, hi);
      return again;
    }
    while (this.taken.has(this.nextKernelPfn)) this.nextKernelPfn++;
    const pfn = this.nextKernelPfn++;
    fill(this.mem.frame(pfn), lo, hi);
    return pfn;
  }

  /** Gives a page of KVM back. */
  freePage(pfn: number): void {
    this.freeKernelPfns.push(pfn);
  }
}

/** Fills a frame with one 64-bit word. */
function fill(frame: Uint32Array, lo: number, hi: number): void {
  frame.fill(lo);
  if (hi !== lo) for (let i = 1; i < frame.length; i += 2) frame[i] = hi;
}
