import assert from 'node:assert/strict';
import { intelFeatures, type Quirk } from './features';
import { PhysMemory } from './memory';
import { halves, mapEpt, mapPath, poke64 } from './testing/tables';
import { ACC_DRY, ACC_FETCH, ACC_READ, ACC_USER, ACC_WRITE, EPT_VIOLATION, GP_PDPTE, NON_CANONICAL, NPF, OK, PF, Translator, VE } from './translate'; // prettier-ignore
import { formatWhy } from './why';
import { WhyRecorder } from './why-recorder';

/** Guest tables at 0x1000 …, one page: gva 0x7f0000203000 → gpa 0x5000. */
function guestTables(memory: PhysMemory, base = 0, flags = 7): void {
  memory.writeQ(base + 0x1000 + 8 * 0xfe, 0x2000 | flags, 0);
  memory.writeQ(base + 0x2000, 0x3000 | flags, 0);
  memory.writeQ(base + 0x3000 + 8, 0x4000 | flags, 0);
  memory.writeQ(base + 0x4000 + 8 * 3, 0x5000 | flags, 0);
}

const LONG = { cr0: 0x80010033n, cr3: 0x1000n, cr4: 0x20n, efer: 0xd00n };

describe('translator', () => {
  it('walks four levels, sets A on each and D on the last', () => {
    const memory = new PhysMemory();
    guestTables(memory);
    const t = new Translator(memory, intelFeatures());
    t.setGuest(LONG);
    assert.equal(t.translate(0x203abc, 0x7f00, ACC_READ), OK);
    assert.equal(t.hpa, 0x5abc);
    assert.equal(memory.readLo(0x17f0), 0x2027);
    assert.equal(memory.readLo(0x4018), 0x5027);
    assert.equal(t.translate(0x203abc, 0x7f00, ACC_WRITE | ACC_USER), OK);
    assert.equal(memory.readLo(0x4018), 0x5067);
  });

  it('leaves memory alone when asked to', () => {
    const memory = new PhysMemory();
    guestTables(memory);
    const t = new Translator(memory, intelFeatures());
    t.setGuest(LONG);
    assert.equal(t.translate(0x203abc, 0x7f00, ACC_WRITE | ACC_DRY), OK);
    assert.equal(memory.readLo(0x4018), 0x5007);
  });

  it('says why: the rule, the level, the register bit', () => {
    const memory = new PhysMemory();
    guestTables(memory, 0, 5);
    const t = new Translator(memory, intelFeatures());
    t.setGuest(LONG);
    const why = new WhyRecorder(t);
    t.recorder = why;
    assert.equal(t.translate(0x203abc, 0x7f00, ACC_WRITE), PF);
    assert.equal(t.errorCode, 3);
    assert.equal(t.failedRule, 'pg.write-supervisor');
    assert.equal(why.record.steps.length, 4);
    assert.deepEqual(why.record.checked.at(-1), { rule: 'pg.write-supervisor', ok: false, by: 'CR0.WP=1' });
    assert.match(formatWhy(why.record).at(-1)!, /#PF, error code 0x3 \(P\|W\): pg\.write-supervisor failed/);
  });

  it('takes each guest table through EPT: 24 loads for a 4-level walk through 4 levels', () => {
    const memory = new PhysMemory();
    guestTables(memory, 0x40_0000, 0x67);
    memory.writeQ(0x10_0000, 0x10_1007, 0);
    memory.writeQ(0x10_1000, 0x10_2007, 0);
    memory.writeQ(0x10_2000, 0x10_3007, 0);
    for (let i = 0; i < 5; i++) memory.writeQ(0x10_3000 + 8 * i, (0x40_0000 + i * 0x1000) | 0x37, 0);
    const t = new Translator(memory, intelFeatures());
    t.setGuest(LONG);
    t.setSecondStage('ept', { eptp: 0x10_001en });
    const why = new WhyRecorder(t);
    t.recorder = why;
    assert.equal(t.translate(0x203abc, 0x7f00, ACC_READ), EPT_VIOLATION);
    assert.equal(t.faultGpa, 0x5abc);
    assert.equal(t.qualLo, 0x781);
    assert.equal(t.faultIsTableWalk, false);
    memory.writeQ(0x10_3000 + 8 * 5, 0x77_7037, 0);
    assert.equal(t.translate(0x203abc, 0x7f00, ACC_READ), OK);
    assert.equal(t.hpa, 0x77_7abc);
    assert.equal(why.record.steps.length, 24);
    assert.deepEqual(
      [4, 3, 2, 1, 0].map((level) => why.record.steps.filter((s) => s.forLevel === level).length),
      [4, 4, 4, 4, 4],
    );
  });

  it('reports guest table accesses under NPT as user writes with bit 33, the final access with bit 32', () => {
    const memory = new PhysMemory();
    guestTables(memory, 0, 0x67);
    memory.writeQ(0x10_0000, 0x10_1067, 0);
    memory.writeQ(0x10_1000, 0x10_2067, 0);
    memory.writeQ(0x10_2000, 0x10_3067, 0);
    const t = new Translator(memory, intelFeatures({ vendor: 'amd' }));
    t.setGuest(LONG);
    t.setSecondStage('npt', { ncr3: 0x10_0000n, hostCr4: 0x20n, hostEfer: 0xd00n });
    assert.equal(t.translate(0x203abc, 0x7f00, ACC_READ), NPF);
    assert.deepEqual([t.qualHi, t.qualLo, t.faultGpa], [2, 6, 0x17f0]);
    for (let i = 0; i < 5; i++) memory.writeQ(0x10_3000 + 8 * i, (i * 0x1000) | 0x67, 0);
    assert.equal(t.translate(0x203abc, 0x7f00, ACC_READ), NPF);
    assert.deepEqual([t.qualHi, t.qualLo, t.faultGpa], [1, 4, 0x5abc]);
  });

  it('needs 35 loads for five levels through five levels', () => {
    const memory = new PhysMemory();
    const va = 0x0012_3456_789a_b000n;
    mapPath(memory, { mode: '5level', va });
    for (let gfn = 1; gfn <= 5; gfn++) mapEpt(memory, { levels: 5, gpa: BigInt(gfn << 12), page: BigInt(gfn << 12) });
    mapEpt(memory, { levels: 5, gpa: 0x4000_0000n });
    const t = new Translator(memory, intelFeatures());
    t.setGuest({ ...LONG, cr4: 0x1020n });
    t.setSecondStage('ept', { eptp: 0x10_0026n });
    const why = new WhyRecorder(t);
    t.recorder = why;
    assert.equal(t.translate(...halves(va), ACC_READ), OK);
    assert.equal(why.record.steps.length, 35);
    assert.deepEqual(
      [5, 4, 3, 2, 1, 0].map((level) => why.record.steps.filter((s) => s.forLevel === level).length),
      [5, 5, 5, 5, 5, 5],
    );
    const text = formatWhy(why.record);
    assert.match(text[0], /^supervisor read of gva 0x123456789ab000$/);
    assert.match(text.at(-1)!, /translated to hpa 0x50000000/);
  });

  it('checks both pages of an access that crosses, before it uses either', () => {
    const memory = new PhysMemory();
    const va = 0x7f00_0000_3000n;
    mapPath(memory, { va });
    poke64(memory, 0x4000 + 8 * 4, 0x7777_7067n);
    const t = new Translator(memory, intelFeatures());
    t.setGuest(LONG);
    assert.equal(t.translateSpan(...halves(va + 0xff8n), 8, ACC_READ), OK);
    assert.equal(t.secondHpa, -1);
    assert.equal(t.translateSpan(...halves(va + 0xffcn), 8, ACC_READ), OK);
    assert.deepEqual([t.hpa, t.secondHpa, t.gpa], [0x4000_0ffc, 0x7777_7000, 0x4000_0ffc]);
    poke64(memory, 0x4000 + 8 * 4, 0n);
    assert.equal(t.translateSpan(...halves(va + 0xffcn), 8, ACC_WRITE), PF);
    assert.equal(
      (BigInt(t.faultGvaHi) << 32n) | BigInt(t.faultGvaLo),
      va + 0x1000n,
      'CR2 is the first byte of the second page',
    );
    const last = 0x7fff_ffff_f000n;
    mapPath(memory, { va: last, root: 0x1000 });
    assert.equal(t.translateSpan(...halves(last + 0xfffn), 2, ACC_READ), NON_CANONICAL);
  });

  it('asks the SPP vector for each sub-page that a write touches', () => {
    const memory = new PhysMemory();
    mapPath(memory, { va: 0x7000n });
    for (const gpa of [0x1000n, 0x2000n, 0x3000n, 0x4000n]) mapEpt(memory, { gpa, page: gpa });
    mapEpt(memory, { gpa: 0x4000_0000n, leafFlags: 0x35n | (1n << 61n) });
    [0x20_1001n, 0x20_2001n, 0x20_3001n, 0b0001n].forEach((value, i) => {
      poke64(memory, 0x20_0000 + i * 0x1000 + (i === 1 ? 8 : 0), value);
    });
    const t = new Translator(memory, intelFeatures());
    t.setGuest(LONG);
    t.setSecondStage('ept', { eptp: 0x10_001en, spp: true, sppt: 0x20_0000n });
    const write = (offset: bigint, size: number) => t.translateSpan(...halves(0x7000n + offset), size, ACC_WRITE);
    assert.equal(write(0x78n, 8), OK);
    assert.equal(t.allowedBySpp, true);
    assert.equal(write(0x79n, 8), EPT_VIOLATION);
    assert.equal(t.failedRule, 'spp.write');
    assert.equal(write(0x80n, 1), EPT_VIOLATION);
    assert.equal(t.translate(...halves(0x7080n), ACC_READ), OK);
  });

  it('with paging off translates 32-bit addresses by the second stage alone, as writable user-mode addresses', () => {
    const memory = new PhysMemory();
    mapEpt(memory, { gpa: 0xf000n, leafFlags: 0x33n });
    const t = new Translator(memory, intelFeatures());
    t.setGuest({ cr0: 1n, cr3: 0n, cr4: 0n, efer: 0n });
    assert.equal(t.translate(0xf123, 0, ACC_READ), OK);
    assert.equal(t.hpa, 0xf123, 'no second stage');
    t.setSecondStage('ept', { eptp: 0x10_001en });
    assert.equal(t.translate(0xf123, 0, ACC_WRITE), OK);
    assert.equal(t.hpa, 0x5000_0123);
    assert.equal(t.translate(0xf123, 0, ACC_FETCH), EPT_VIOLATION);
    assert.equal(t.qualLo, 0x79c, 'read, write; GLA valid, final, user, writable');
    assert.equal(t.translateGpa(0xf000, ACC_FETCH), EPT_VIOLATION);
    assert.equal(t.qualLo, 0x1c, 'no linear address');
  });

  it('turns a violation into #VE, and keeps what the entry suppresses', () => {
    const memory = new PhysMemory();
    mapEpt(memory, { gpa: 0xf000n, leafFlags: 0x31n });
    mapEpt(memory, { gpa: 0x1_0000n, leafFlags: 1n << 63n });
    const t = new Translator(memory, intelFeatures());
    t.setGuest({ cr0: 1n, cr3: 0n, cr4: 0n, efer: 0n });
    t.setSecondStage('ept', { eptp: 0x10_001en, ve: true });
    assert.equal(t.translate(0xf000, 0, ACC_WRITE), VE);
    assert.equal(t.faultGpa, 0xf000);
    assert.equal(t.translate(0x1_0000, 0, ACC_WRITE), EPT_VIOLATION);
    assert.equal(t.translate(0x1_1000, 0, ACC_WRITE), VE);
  });

  it('keeps the PDPTEs that were loaded, whatever memory says later; QEMU reads them each time', () => {
    for (const quirks of [[], ['tcg-pae-pdpte-reload']] as Quirk[][]) {
      const memory = new PhysMemory();
      mapPath(memory, { mode: 'pae', va: 0xc000_0000n });
      const t = new Translator(memory, intelFeatures({ quirks: new Set(quirks) }));
      t.setGuest({ ...LONG, efer: 0x800n });
      assert.equal(t.loadPdptes(), OK);
      const pdpte = memory.readQ(0x1018);
      poke64(memory, 0x1018, 0n);
      assert.equal(t.translate(0xc000_0000, 0, ACC_READ), quirks.length === 0 ? OK : PF);
      poke64(memory, 0x1018, pdpte);
      assert.equal(t.translate(0xc000_0000, 0, ACC_READ), OK);
      assert.equal(memory.readQ(0x1018) - pdpte, quirks.length === 0 ? 0n : 0x20n, 'QEMU sets bit 5');
      poke64(memory, 0x1018, 0x21n);
      assert.equal(t.loadPdptes(), quirks.length === 0 ? GP_PDPTE : OK, 'bit 5 is reserved on a processor');
    }
  });

  it('repeats what Bochs does: a guest flag is set on a page that EPT makes read-only', () => {
    for (const quirk of [false, true]) {
      const memory = new PhysMemory();
      mapPath(memory, { va: 0x7000n, flags: 0x47n });
      for (const gpa of [0x1000n, 0x2000n, 0x3000n, 0x4000n]) mapEpt(memory, { gpa, page: gpa, leafFlags: 0x35n });
      mapEpt(memory, { gpa: 0x4000_0000n });
      const t = new Translator(
        memory,
        intelFeatures({ quirks: new Set(quirk ? (['bochs-ept-ad-without-ad'] as const) : []) }),
      );
      t.setGuest(LONG);
      t.setSecondStage('ept', { eptp: 0x10_001en });
      assert.equal(t.translate(0x7000, 0, ACC_READ), quirk ? OK : EPT_VIOLATION);
      assert.equal(memory.readLo(0x1000) & 0x20, quirk ? 0x20 : 0);
      if (!quirk) assert.deepEqual([t.qualLo, t.faultGpa, t.failedRule], [0xaa, 0x1000, 'ept.ad-update']);
    }
  });

  it('stops where a recorder throws, and can be used again', () => {
    const memory = new PhysMemory();
    mapPath(memory, { va: 0x7000n, flags: 0x47n });
    const t = new Translator(memory, intelFeatures());
    t.setGuest(LONG);
    class Stop extends WhyRecorder {
      override read(...args: Parameters<WhyRecorder['read']>): void {
        super.read(...args);
        if (args[1] === 2) throw new Error('stop');
      }
    }
    const stop = new Stop(t);
    t.recorder = stop;
    assert.throws(() => t.translate(0x7000, 0, ACC_READ), /stop/);
    assert.deepEqual(stop.record.steps.map((s) => [s.level, s.checked.length]), [[4, 3], [3, 2], [2, 0]]); // prettier-ignore
    assert.equal(memory.readLo(0x1000) & 0x20, 0);
    t.recorder = null;
    assert.equal(t.translate(0x7000, 0, ACC_READ), OK);
  });
});
