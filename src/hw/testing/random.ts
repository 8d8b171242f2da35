/** Random machines for property tests: a guest with a few mapped pages, in any mode, under any second stage. */
import fc from 'fast-check';
import { ACC_AC, ACC_FETCH, ACC_IMPLICIT, ACC_READ, ACC_SHSTK, ACC_USER, ACC_WRITE } from '../access';
import { amdFeatures, intelFeatures } from '../features';
import { PhysMemory } from '../memory';
import { PAGING_MODES, type PagingModeName } from '../paging';
import { mapEpt, mapPath, poke64 } from './tables';
import { Translator } from '../translate';

export type GuestMode = Exclude<PagingModeName, 'off'>;

/** What a machine is made of. */
export interface MachinePlan {
  mode: GuestMode;
  stage2: 'none' | 'ept' | 'npt';
  maxphyaddr: number;
  wp: boolean;
  smep: boolean;
  smap: boolean;
  pke: boolean;
  nxe: boolean;
  eptAd: boolean;
  mbec: boolean;
  page1g: boolean;
  pkru: number;
  pages: PagePlan[];
}

/** One page: which slot of the address space, how large, and the flags of its entries from the top down. */
export interface PagePlan {
  slot: number;
  leaf: number;
  flags: bigint[];
  eptFlags: bigint[];
}

/** Flags as they occur: mostly all set, sometimes one missing, sometimes a bit that may be reserved. */
const guestFlags = fc.oneof(
  { weight: 6, arbitrary: fc.constant(0x67n) },
  { weight: 3, arbitrary: fc.constantFrom(0x66n, 0x65n, 0x63n, 0x47n, 0x27n, 0x61n, 0x25n) },
  { weight: 1, arbitrary: fc.nat(127).map(BigInt) },
  { weight: 2, arbitrary: fc.constantFrom(1n, 3n, 15n).map((key) => 0x67n | (key << 59n)) },
  { weight: 2, arbitrary: fc.constantFrom(1n << 63n, 1n << 45n, 1n << 51n, 0x100n, 0x180n, 0x2000n).map((b) => 0x67n | b) },
); // prettier-ignore
const eptFlags = fc.oneof(
  { weight: 8, arbitrary: fc.constant(0x737n) },
  { weight: 3, arbitrary: fc.constantFrom(0x37n, 0x735n, 0x733n, 0x734n, 0x731n, 0x536n, 0x337n) },
  { weight: 1, arbitrary: fc.nat(0x7ff).map(BigInt) },
  { weight: 1, arbitrary: fc.constantFrom(1n << 63n, 1n << 51n, 1n << 60n, 0x1000n).map((b) => 0x737n | b) },
);

export const pagePlan: fc.Arbitrary<PagePlan> = fc.record({
  slot: fc.nat(7),
  leaf: fc.constantFrom(1, 1, 1, 2, 3),
  flags: fc.array(guestFlags, { minLength: 5, maxLength: 5 }),
  eptFlags: fc.array(eptFlags, { minLength: 5, maxLength: 5 }),
});

export const machinePlan: fc.Arbitrary<MachinePlan> = fc.record({
  mode: fc.constantFrom<GuestMode>('32bit', 'pae', '4level', '4level', '5level'),
  stage2: fc.constantFrom('none', 'ept', 'npt'),
  maxphyaddr: fc.constantFrom(36, 40, 46, 52),
  wp: fc.boolean(),
  smep: fc.boolean(),
  smap: fc.boolean(),
  pke: fc.boolean(),
  nxe: fc.boolean(),
  eptAd: fc.boolean(),
  mbec: fc.boolean(),
  page1g: fc.boolean(),
  pkru: fc.constantFrom(0, 0x5555_5554, 0xaaaa_aaa8, 4, 8),
  pages: fc.array(pagePlan, { minLength: 1, maxLength: 4 }),
});

export const accesses = fc
  .record({
    type: fc.constantFrom(ACC_READ, ACC_WRITE, ACC_FETCH),
    flags: fc.constantFrom(0, 0, ACC_USER, ACC_USER, ACC_AC, ACC_IMPLICIT | ACC_USER, ACC_SHSTK | ACC_USER, ACC_SHSTK),
  })
  .map(({ type, flags }) => (type === ACC_FETCH ? type | (flags & ~ACC_SHSTK) : type | flags));

/** Linear address of a slot: slots differ at every level. */
export function slotAddress(mode: GuestMode, slot: number): bigint {
  const { indexBits, top } = PAGING_MODES[mode];
  let va = BigInt(slot * 0x111);
  for (let level = 1; level <= top; level++) {
    // PAE has two bits of index at its top level.
    const index = mode === 'pae' && level === 3 ? slot & 3 : (slot * 3 + level) & ((1 << (indexBits - 1)) - 1);
    va |= BigInt(index) << BigInt(12 + (level - 1) * indexBits);
  }
  return va & ~0xfffn;
}

const GUEST_TABLES = 0x10_0000;
/** Guest-physical addresses are backed at this distance when there is a second stage. */
const BACKING = 0x1000_0000;
const EPT_ROOT = 0x800_0000;

/** Builds the machine. Returns it with the linear addresses of its pages. */
export function build(plan: MachinePlan, memory = new PhysMemory()): { t: Translator; vas: bigint[] } {
  const features = { maxphyaddr: plan.maxphyaddr, page1g: plan.page1g };
  const cpu = plan.stage2 === 'npt' ? amdFeatures(features) : intelFeatures(features);
  const { mode } = plan;
  const nested = plan.stage2 !== 'none';
  const distance = nested ? BACKING : 0;
  const size4 = mode === '32bit';
  // Each page has tables of its own below the root, at gpa GUEST_TABLES + 0x10000 * slot; only the roots' entries are shared.
  const root = GUEST_TABLES;
  const mapped = new Set<number>();
  const back = (gfn: number, flags: readonly bigint[]) => {
    if (!nested || mapped.has(gfn)) return;
    mapped.add(gfn);
    const gpa = BigInt(gfn) << 12n;
    const page = gpa + BigInt(BACKING);
    if (plan.stage2 === 'ept') {
      mapEpt(memory, { root: EPT_ROOT, gpa, page, flags: 0x707n, leafFlags: flags[0] });
    } else {
      nptPage(memory, gpa, page, flags[0]);
    }
  };
  const vas = plan.pages.map((p) => {
    const top = PAGING_MODES[mode].top;
    const highest = mode === 'pae' || mode === '32bit' ? 2 : 3;
    const leaf = Math.min(p.leaf, highest);
    const va = slotAddress(mode, p.slot);
    const tables = root + 0x1_0000 * (p.slot + 1);
    const flagsAt: Record<number, bigint> = {};
    for (let level = 1; level <= top; level++) {
      const flags = p.flags[level - 1];
      flagsAt[level] = size4 ? flags & 0xfffn : flags;
      if (level === leaf && leaf > 1) flagsAt[level] |= 0x80n;
      if (level === 3 && mode === 'pae') flagsAt[level] = 1n;
    }
    // The page's own tables are made with their root at `tables`; the shared root gets a copy of the top entry.
    const path = mapPath(memory, { mode, root: tables + distance, va, leaf, flagsAt, page: 0x2000_0000n + BigInt(p.slot << 21) });
    for (let level = top; level >= leaf; level--) {
      const at = path.at[level];
      // Entries refer to guest-physical addresses.
      if (nested && level > leaf) {
        if (size4) memory.write32(at, memory.read32(at) - BACKING);
        else poke64(memory, at, memory.readQ(at) - BigInt(BACKING));
      }
      if (level === top) {
        const shared = root + distance + (at % 4096);
        if (size4) memory.write32(shared, memory.read32(at));
        else poke64(memory, shared, memory.readQ(at));
      }
      back(Math.floor((at - distance) / 4096), ['0', '1', '2', '3', '4'].map((_, i) => p.eptFlags[(level + i) % 5]));
    }
    const page = Number(path.page / 4096n) + (leaf > 1 ? Number(va / 4096n) % 512 : 0);
    back(page, p.eptFlags);
    return va;
  });
  back(root / 4096, [0x737n]);
  const t = new Translator(memory, cpu);
  const long = mode === '4level' || mode === '5level';
  t.setGuest({
    cr0: 0x8000_0033n | (plan.wp ? 0x1_0000n : 0n),
    cr3: root,
    cr4:
      (mode === '32bit' ? 0x10n : 0x20n) |
      (mode === '5level' ? 0x1000n : 0n) |
      (plan.smep ? 1n << 20n : 0n) |
      (plan.smap ? 1n << 21n : 0n) |
      (plan.pke && long ? 1n << 22n : 0n),
    efer: (long ? 0x500n : 0n) | (plan.nxe ? 0x800n : 0n),
    pkru: plan.pkru,
  });
  if (plan.stage2 === 'ept') t.setSecondStage('ept', { eptp: BigInt(EPT_ROOT) | (plan.eptAd ? 0x5en : 0x1en), mbec: plan.mbec });
  if (plan.stage2 === 'npt') t.setSecondStage('npt', { ncr3: BigInt(EPT_ROOT), hostCr4: 0x20n, hostEfer: 0xd00n });
  if (mode === 'pae') t.loadPdptes();
  return { t, vas };
} // prettier-ignore

/** One page of NPT, in tables after the root whose number is kept beside it. The EPT flags are read as page-table flags. */
function nptPage(memory: PhysMemory, gpa: bigint, page: bigint, flags: bigint): void {
  let table = EPT_ROOT;
  for (let level = 4; level > 1; level--) {
    const at = table + Number((gpa >> BigInt(3 + 9 * level)) & 511n) * 8;
    let next = memory.readQ(at) & 0x000f_ffff_ffff_f000n;
    if (next === 0n) {
      const n = memory.read32(EPT_ROOT - 8) + 1;
      memory.write32(EPT_ROOT - 8, n);
      next = BigInt(EPT_ROOT + n * 0x1000);
    }
    poke64(memory, at, next | 0x67n);
    table = Number(next);
  }
  const at = table + Number((gpa >> 12n) & 511n) * 8;
  // R, W, X of EPT become P, W and U; A and D move down.
  const low = (flags & 1n) | (flags & 2n) | 4n | ((flags & 0x300n) >> 3n);
  poke64(memory, at, page | low | (flags & (1n << 63n)) | (flags & (1n << 51n)));
}

/** Contents of all frames, as text that differs if a word does. */
export function dump(memory: PhysMemory): string {
  return memory.frames().map((pfn) => `${pfn}:${Buffer.from(memory.readBytes(pfn * 4096, 4096)).toString('base64')}`).join('\n'); // prettier-ignore
}
