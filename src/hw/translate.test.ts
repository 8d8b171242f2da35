import assert from 'node:assert/strict';
import { intelFeatures } from './features';
import { PhysMemory } from './memory';
import { ACC_DRY, ACC_READ, ACC_USER, ACC_WRITE, EPT_VIOLATION, NPF, OK, PF, Translator } from './translate';
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
});
