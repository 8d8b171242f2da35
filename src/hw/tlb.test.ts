import assert from 'node:assert/strict';
import { ACC_DRY, ACC_FETCH, ACC_READ, ACC_USER, ACC_WRITE, EPT_VIOLATION, OK, PF } from './access';
import { amdFeatures, intelFeatures } from './features';
import { PhysMemory } from './memory';
import { halves, mapEpt, mapPath, poke64, type Path } from './testing/tables';
import { Tlb } from './tlb';
import { checkTlb } from './tlb-stale';
import { Translator, stage2Name } from './translate';
import { WhyRecorder } from './why-recorder';

const VA = 0x7f12_3456_7000n;
const OTHER = 0x7f12_3456_9000n;
const CR4 = 0xa0n;
const PCIDE = 1n << 17n;

/** A 4-level guest with one page at VA, one at OTHER in the same tables, and a TLB. */
function machine(flags = 0x67n, leaf = 1): { t: Translator; tlb: Tlb; memory: PhysMemory; path: Path; other: Path } {
  const memory = new PhysMemory();
  const path = mapPath(memory, { va: VA, flags, leaf });
  const other = leaf === 1 ? mapPath(memory, { va: OTHER, flags, page: 0x6000_0000n }) : path;
  const t = new Translator(memory, intelFeatures());
  t.setGuest({ cr0: 0x8001_0033n, cr3: 0x1000n, cr4: CR4, efer: 0xd00n });
  const tlb = new Tlb();
  t.tlb = tlb;
  return { t, tlb, memory, path, other };
}

const read = (t: Translator, va = VA, access = ACC_READ): number => t.translate(...halves(va), access);

/** Takes the page away in memory; whether it still translates. */
function serves(t: Translator, va = VA): boolean {
  return read(t, va) === OK;
}

describe('TLB', () => {
  it('serves a page without reading tables, and sets no flags then', () => {
    const { t, memory, path } = machine();
    assert.equal(read(t), OK);
    assert.equal(t.fromTlb, false);
    poke64(memory, path.at[1], path.page | 0x47n);
    const why = new WhyRecorder(t);
    t.recorder = why;
    assert.equal(t.translate(...halves(VA + 0x123n), ACC_READ), OK);
    t.recorder = null;
    assert.equal(t.hpa, Number(path.page) + 0x123);
    assert.equal(why.record.steps.length, 0);
    assert.deepEqual(why.record.cached.map((c) => c.kind), ['page']); // prettier-ignore
    assert.equal(memory.readLo(path.at[1]) & 0x20, 0);
    assert.equal(read(t), OK);
    assert.equal(t.fromTlb, true);
    assert.deepEqual([t.pageLevel, t.pageSize, t.memtype, t.rights], [1, 4096, -1, 3]);
  });

  it('walks for the first write, to set D, and not for the second', () => {
    const { t, memory, path } = machine(0x27n);
    read(t);
    assert.equal(read(t, VA, ACC_WRITE), OK);
    assert.equal(t.fromTlb, false);
    assert.equal(memory.readLo(path.at[1]) & 0x40, 0x40);
    assert.equal(read(t, VA, ACC_WRITE), OK);
    assert.equal(t.fromTlb, true);
  });

  it('keeps what was taken away until it is flushed; what was added is found without', () => {
    const { t, memory, path } = machine();
    read(t, VA, ACC_WRITE);
    poke64(memory, path.at[1], path.page | 0x65n);
    assert.equal(read(t, VA, ACC_WRITE), OK, 'stale: R/W was taken away');
    assert.equal(read(t, VA, ACC_WRITE | ACC_DRY), PF, 'a look past the TLB');
    t.tlb!.invlpg(...halves(VA));
    assert.equal(read(t, VA, ACC_WRITE), PF);
    poke64(memory, path.at[1], path.page | 0x67n);
    assert.equal(read(t, VA, ACC_WRITE), OK, 'a refusal is not remembered');
  });

  it('does not let a supervisor entry serve a user, and looks at CR0.WP, SMEP and PKRU as they are now', () => {
    const { t } = machine(0x65n);
    assert.equal(read(t, VA, ACC_WRITE | ACC_USER), PF);
    t.setGuest({ cr0: 0x8000_0033n, cr3: 0x1000n, cr4: CR4, efer: 0xd00n });
    assert.equal(read(t, VA, ACC_WRITE), OK);
    t.setGuest({ cr0: 0x8001_0033n, cr3: 0x1000n, cr4: CR4, efer: 0xd00n });
    assert.equal(read(t, VA, ACC_WRITE), PF);
    assert.equal(read(t, VA, ACC_FETCH), OK);
    t.setGuest({ cr0: 0x8001_0033n, cr3: 0x1000n, cr4: CR4 | (1n << 20n), efer: 0xd00n });
    assert.equal(read(t, VA, ACC_FETCH), PF);
    t.setGuest({ cr0: 0x8001_0033n, cr3: 0x1000n, cr4: CR4 | (1n << 22n), efer: 0xd00n, pkru: 1 });
    assert.equal(read(t), PF);
  });

  it('INVLPG removes the page, global or not, all of a large one, and the paging-structure entries of the PCID', () => {
    const { t, tlb, memory, path } = machine(0x167n);
    read(t);
    read(t, OTHER);
    poke64(memory, path.at[1], 0n);
    assert.equal(serves(t), true);
    assert.ok(tlb.invlpg(...halves(VA)) >= 2);
    assert.equal(serves(t), false);
    assert.equal(serves(t, OTHER), true);
    assert.equal(tlb.entries().filter((e) => e.kind === 'paging-structure').length, 0);

    const large = machine(0x67n, 2);
    read(large.t);
    poke64(large.memory, large.path.at[2], 0n);
    assert.equal(serves(large.t, VA + 0x3000n), true, 'one entry for 2 MiB');
    large.tlb.invlpg(...halves((VA & ~0x1f_ffffn) + 0x1f_f000n));
    assert.equal(serves(large.t), false);
  });

  it('MOV CR3 removes the entries of the PCID it loads but global ones, and none with bit 63', () => {
    const { t, tlb, memory, path } = machine();
    const pcid = (n: number) =>
      t.setGuest({ cr0: 0x8001_0033n, cr3: 0x1000n | BigInt(n), cr4: CR4 | PCIDE, efer: 0xd00n });
    pcid(1);
    read(t);
    tlb.movCr3(2, false);
    pcid(2);
    poke64(memory, path.at[1], 0n);
    assert.equal(serves(t), false, 'another PCID does not see it');
    tlb.movCr3(1, true);
    pcid(1);
    assert.equal(serves(t), true, 'bit 63: kept');
    tlb.movCr3(1, false);
    assert.equal(serves(t), false);
  });

  it('keeps global pages over MOV CR3 and INVPCID types 0, 1 and 3, and drops them with type 2', () => {
    const { t, tlb, memory, path } = machine(0x167n);
    read(t);
    assert.equal(tlb.entries().find((e) => e.kind === 'page')?.global, true);
    poke64(memory, path.at[1], 0n);
    tlb.movCr3(0, false);
    tlb.invpcid(0, 0, ...halves(VA));
    tlb.invpcid(1, 0, 0, 0);
    tlb.invpcid(3, 0, 0, 0);
    assert.equal(serves(t), true);
    tlb.invpcid(2, 0, 0, 0);
    assert.equal(serves(t), false);
    assert.throws(() => tlb.invpcid(4, 0, 0, 0), /INVPCID type 4 does not exist/);
  });

  it('a page is global only while CR4.PGE = 1', () => {
    const { t, tlb } = machine(0x167n);
    t.setGuest({ cr0: 0x8001_0033n, cr3: 0x1000n, cr4: 0x20n, efer: 0xd00n });
    read(t);
    assert.equal(tlb.entries().find((e) => e.kind === 'page')?.global, false);
  });

  it('keeps VPIDs apart; INVVPID types', () => {
    const { t, tlb, memory, path } = machine(0x167n);
    for (const vpid of [1, 2]) {
      t.setAddressSpaceId(vpid);
      read(t);
    }
    poke64(memory, path.at[1], 0n);
    t.setAddressSpaceId(3);
    assert.equal(serves(t), false);
    tlb.invvpid(3, 1, 0, 0);
    t.setAddressSpaceId(1);
    assert.equal(serves(t), true, 'type 3 keeps global entries');
    tlb.invvpid(0, 1, ...halves(VA));
    assert.equal(serves(t), false);
    t.setAddressSpaceId(2);
    assert.equal(serves(t), true);
    tlb.invvpid(2, 0, 0, 0);
    assert.equal(serves(t), false);
  });

  it('AMD: TLB_CONTROL and INVLPGA go by ASID', () => {
    const { t, tlb, memory, path } = machine();
    t.setAddressSpaceId(5);
    read(t);
    read(t, OTHER);
    poke64(memory, path.at[1], 0n);
    tlb.tlbControl(0, 5);
    tlb.tlbControl(3, 6);
    tlb.invlpga(6, ...halves(VA));
    assert.equal(serves(t), true);
    tlb.invlpga(5, ...halves(VA));
    assert.equal(serves(t), false);
    assert.equal(serves(t, OTHER), true);
    poke64(memory, path.at[2], 0n);
    tlb.tlbControl(3, 5);
    assert.equal(serves(t, OTHER), false);
  });

  it('remembers tables too: an edited PDE is found only after a flush, and the walk starts below it', () => {
    const { t, tlb, memory, path } = machine();
    read(t);
    poke64(memory, path.at[2], 0n);
    const why = new WhyRecorder(t);
    t.recorder = why;
    assert.equal(read(t, OTHER), OK, 'by the remembered PDE');
    t.recorder = null;
    assert.deepEqual(why.record.steps.map((s) => s.level), [1]); // prettier-ignore
    assert.deepEqual(why.record.cached.map((c) => [c.kind, c.level]), [['paging-structure', 2]]); // prettier-ignore
    const emulator = machine();
    emulator.t.tlb = new Tlb({ pagingStructures: false });
    read(emulator.t);
    poke64(emulator.memory, emulator.path.at[2], 0n);
    assert.equal(serves(emulator.t, OTHER), false, 'without paging-structure caches');
    tlb.invlpg(0x1000, 0);
    assert.equal(serves(t, OTHER), true, 'the page itself stays');
    tlb.invlpg(...halves(OTHER));
    assert.equal(serves(t, OTHER), false);
  });

  it('with EPT keeps guest-physical mappings until INVEPT; INVLPG leaves them', () => {
    const memory = new PhysMemory();
    mapPath(memory, { va: VA });
    for (const gpa of [0x1000n, 0x2000n, 0x3000n, 0x4000n]) mapEpt(memory, { gpa, page: gpa });
    const leaf = mapEpt(memory, { gpa: 0x4000_0000n, page: 0x5000_0000n });
    const t = new Translator(memory, intelFeatures());
    t.setGuest({ cr0: 0x8001_0033n, cr3: 0x1000n, cr4: CR4, efer: 0xd00n });
    t.setSecondStage('ept', { eptp: 0x10_001en });
    const tlb = new Tlb();
    t.tlb = tlb;
    assert.equal(read(t), OK);
    assert.equal(t.hpa, 0x5000_0000);
    poke64(memory, leaf.at[1], 0n);
    tlb.invlpg(...halves(VA));
    assert.equal(serves(t), true, 'INVLPG does not touch guest-physical mappings');
    tlb.invept(stage2Name('ept', 0x20_001en));
    assert.equal(serves(t), true);
    tlb.invept(stage2Name('ept', 0x10_001en));
    assert.equal(read(t), EPT_VIOLATION);
    assert.equal(t.faultGpa, 0x4000_0000);
  });

  it('splits a large guest page over small EPT pages, and INVLPG finds all parts', () => {
    const memory = new PhysMemory();
    const path = mapPath(memory, { va: VA, leaf: 2, page: 0x4000_0000n });
    for (const gpa of [0x1000n, 0x2000n, 0x3000n]) mapEpt(memory, { gpa, page: gpa });
    const offset = VA & 0x1f_f000n;
    for (const page of [0n, 0x1000n])
      mapEpt(memory, { gpa: 0x4000_0000n + offset + page, page: 0x5000_0000n + page * 8n });
    const t = new Translator(memory, intelFeatures());
    t.setGuest({ cr0: 0x8001_0033n, cr3: 0x1000n, cr4: CR4, efer: 0xd00n });
    t.setSecondStage('ept', { eptp: 0x10_001en });
    const tlb = new Tlb();
    t.tlb = tlb;
    assert.equal(read(t), OK);
    assert.equal(read(t, VA + 0x1000n), OK);
    assert.equal(t.hpa, 0x5000_8000);
    assert.equal(tlb.page4k.count, 2);
    poke64(memory, path.at[2], 0n);
    tlb.invlpg(...halves((VA & ~0x1f_ffffn) + 0x10_0000n));
    assert.equal(serves(t), false);
    assert.equal(serves(t, VA + 0x1000n), false);
  });

  it('shows its entries and marks the stale ones, with what changed', () => {
    const { t, memory, path, other } = machine();
    read(t, VA, ACC_WRITE);
    read(t, OTHER);
    assert.deepEqual(new Set(checkTlb(t).map((e) => e.freshness.state)), new Set(['fresh']));
    poke64(memory, path.at[1], path.page | 0x65n);
    poke64(memory, other.at[1], 0x7777_7067n);
    const before = memory.fork();
    const pages = checkTlb(t).filter((e) => e.kind === 'page');
    assert.deepEqual(
      pages.map((e) => [e.address, e.serves, e.freshness]).sort((a, b) => (a[0] < b[0] ? -1 : 1)),
      [
        [VA, 'rwx', { state: 'stale', why: 'R/W is 0 now' }],
        [OTHER, 'rwx', { state: 'stale', why: 'the tables lead to gpa 0x77777000 now, the entry to 0x60000000' }],
      ],
    );
    poke64(memory, path.at[2], 0n);
    const structure = checkTlb(t).find((e) => e.kind === 'paging-structure' && e.level === 2);
    assert.deepEqual(structure?.freshness, { state: 'stale', why: 'the level 2 entry is not present now' });
    assert.equal(before.readQ(path.at[1]), memory.readQ(path.at[1]), 'looking changes nothing');
  });

  it('marks entries that EPT or NPT has outrun', () => {
    for (const kind of ['ept', 'npt'] as const) {
      const memory = new PhysMemory();
      mapPath(memory, { va: VA });
      const t = new Translator(memory, kind === 'ept' ? intelFeatures() : amdFeatures());
      t.setGuest({ cr0: 0x8001_0033n, cr3: 0x1000n, cr4: CR4, efer: 0xd00n });
      let at: number;
      if (kind === 'ept') {
        for (const gpa of [0x1000n, 0x2000n, 0x3000n, 0x4000n]) mapEpt(memory, { gpa, page: gpa });
        at = mapEpt(memory, { gpa: 0x4000_0000n }).at[1];
        t.setSecondStage('ept', { eptp: 0x10_001en });
      } else {
        // Identity for the tables, the page by a 1 GiB entry of its own.
        poke64(memory, 0x10_0000, 0x10_1067n);
        poke64(memory, 0x10_1000, 0xe7n);
        at = 0x10_1008;
        poke64(memory, at, 0x4000_00e7n);
        t.setSecondStage('npt', { ncr3: 0x10_0000n, hostCr4: 0x20n, hostEfer: 0xd00n });
      }
      t.tlb = new Tlb();
      assert.equal(read(t, VA, ACC_WRITE), OK);
      assert.deepEqual(new Set(checkTlb(t).map((e) => e.freshness.state)), new Set(['fresh']), kind);
      poke64(memory, at, memory.readQ(at) & ~2n);
      const stale = checkTlb(t).filter((e) => e.freshness.state === 'stale');
      assert.deepEqual([...new Set(stale.map((e) => e.kind))].sort(), ['guest-physical', 'page']);
      assert.ok(stale.every((e) => e.freshness.state === 'stale' && /forbids writes now/.test(e.freshness.why)));
      // The guest's own tables go: whatever came from them is stale, paging-structure entries too.
      poke64(memory, 0x1000 + Number((VA >> 39n) & 511n) * 8, 0n);
      const structures = checkTlb(t).filter((e) => e.kind === 'paging-structure');
      assert.ok(structures.length > 0 && structures.every((e) => e.freshness.state === 'stale'), kind);
    }
  });

  it('is copied with its contents for a snapshot', () => {
    const { t, tlb, memory, path } = machine();
    read(t);
    poke64(memory, path.at[1], 0n);
    const copy = tlb.clone();
    tlb.flushAll();
    assert.equal(serves(t), false);
    t.tlb = copy;
    assert.equal(serves(t), true);
  });

  it('keeps the results of a hit apart from those of the walk that follows', () => {
    const { t, memory } = machine();
    mapPath(memory, { va: 0x20_0000n, root: 0x9000, leaf: 2 });
    poke64(memory, 0x1000, 0xa067n);
    read(t);
    read(t);
    assert.deepEqual([t.fromTlb, t.pageLevel], [true, 1]);
    assert.equal(read(t, 0x20_0000n, ACC_READ | ACC_DRY), OK);
    assert.deepEqual([t.fromTlb, t.pageLevel, t.pageSize], [false, 2, 2 ** 21]);
    read(t);
    t.recorder = new WhyRecorder(t);
    t.recorder = null;
    assert.deepEqual([t.fromTlb, t.pageLevel], [true, 1], 'taking the recorder away changes no result');
  });
});
