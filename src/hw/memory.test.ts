import assert from 'node:assert/strict';
import fc from 'fast-check';
import { MemoryError, PhysMemory } from './memory';

describe('physical memory', () => {
  it('reads zero where nothing was written, and makes no frame for it', () => {
    const m = new PhysMemory();
    assert.equal(m.read32(0x1234), 0);
    assert.equal(m.readQ(0x8_0000_0000_0000 - 8), 0n);
    assert.equal(m.peek(5), undefined);
    assert.equal(m.frameCount, 0);
  });

  it('keeps bytes, words and quadwords, little-endian', () => {
    const m = new PhysMemory();
    m.writeQ(0x1008, 0x89abcdef, 0x01234567);
    assert.equal(m.read8(0x1008), 0xef);
    assert.equal(m.read8(0x100f), 0x01);
    assert.equal(m.read16(0x100a), 0x89ab);
    assert.equal(m.read32(0x100c), 0x01234567);
    assert.equal(m.readQ(0x1008), 0x0123456789abcdefn);
    m.write8(0x1009, 0xff);
    m.write16(0x100e, 0xbeef);
    assert.equal(m.readQ(0x1008), 0xbeef456789abffefn);
  });

  it('keeps frames at every address up to 2^52 apart', () => {
    const m = new PhysMemory();
    const pfns = [0, 1, 0x7ff_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000, 2 ** 40 - 1];
    pfns.forEach((pfn, i) => m.writeQ(pfn * 4096 + 8, i + 1, pfn % 1000));
    pfns.forEach((pfn, i) => {
      assert.equal(m.readLo(pfn * 4096 + 8), i + 1, `frame ${pfn}`);
      assert.equal(m.frame(pfn)[2], i + 1);
    });
    assert.deepEqual(m.frames(), pfns);
    m.drop(0x8000_0000);
    m.drop(1);
    assert.deepEqual(m.frames(), pfns.filter((p) => p !== 0x8000_0000 && p !== 1)); // prettier-ignore
  });

  it('copies bytes across frames', () => {
    const m = new PhysMemory();
    const bytes = Uint8Array.from({ length: 9000 }, (_, i) => i * 7);
    m.writeBytes(0x1ffd, bytes);
    assert.deepEqual(m.readBytes(0x1ffd, 9000), bytes);
    assert.deepEqual(m.readBytes(0x1ffc, 2), Uint8Array.of(0, 0));
  });

  it('refuses what is no address, and says what to do', () => {
    const m = new PhysMemory();
    assert.throws(() => m.read32(2 ** 52), MemoryError);
    assert.throws(() => m.readLo(0x1004), /not a multiple of 8: use readBytes/);
    assert.throws(() => m.frame(-1), /not a frame number/);
  });

  it('behaves like a plain Map under writes, drops and forks of forks', () => {
    type Model = Map<number, number>;
    const action = fc.record({
      kind: fc.constantFrom('write', 'write', 'write', 'drop', 'fork', 'release'),
      which: fc.nat(7),
      pfn: fc.oneof(fc.nat(40), fc.constantFrom(0x7fff_ffff, 0x8000_0000, 2 ** 40 - 1), fc.nat(0x7fff_ffff)),
      value: fc.integer({ min: 1, max: 0xffff_ffff }),
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 120 }), (actions) => {
        const live: { memory: PhysMemory; model: Model }[] = [{ memory: new PhysMemory(), model: new Map() }];
        const seen = new Set<number>();
        for (const a of actions) {
          const { memory, model } = live[a.which % live.length];
          seen.add(a.pfn);
          if (a.kind === 'write') {
            memory.write32(a.pfn * 4096 + 4, a.value);
            model.set(a.pfn, a.value);
          } else if (a.kind === 'drop') {
            memory.drop(a.pfn);
            model.delete(a.pfn);
          } else if (a.kind === 'fork') {
            live.push({ memory: memory.fork(), model: new Map(model) });
          } else if (live.length > 1) {
            memory.release();
            live.splice(a.which % live.length, 1);
          }
        }
        for (const { memory, model } of live) {
          assert.equal(memory.frameCount, model.size);
          for (const pfn of seen) assert.equal(memory.read32(pfn * 4096 + 4), model.get(pfn) ?? 0);
        }
      }),
    );
  });

  it('does not copy a frame when it forks, only when a shared one is written', () => {
    const m = new PhysMemory();
    for (let pfn = 0; pfn < 100; pfn++) m.write32(pfn * 4096, pfn);
    const before = m.words.length;
    const forks = Array.from({ length: 20 }, () => m.fork());
    assert.equal(m.words.length, before);
    forks[3].write32(7 * 4096, 70);
    assert.equal(m.read32(7 * 4096), 7);
    assert.equal(forks[4].read32(7 * 4096), 7);
    assert.equal(forks[3].read32(7 * 4096), 70);
  });

  it('takes frames from its backing when they are first read, once each, in forks too', () => {
    const asked: number[] = [];
    const m = new PhysMemory();
    m.backing = (pfn) => {
      asked.push(pfn);
      return pfn % 2 === 0 ? new Uint8Array(4096).fill(pfn) : undefined;
    };
    assert.equal(m.read8(0x2000), 2);
    assert.equal(m.read8(0x2fff), 2);
    m.write8(0x4000, 9);
    assert.deepEqual([m.read8(0x4000), m.read8(0x4001)], [9, 4], 'a write keeps the rest of the frame');
    const fork = m.fork();
    assert.equal(fork.read8(0x6000), 6);
    assert.equal(m.has(6), true);
    assert.equal(m.read8(0x3000), 0);
    assert.equal(m.read8(2 ** 33 * 4096), 0);
    assert.deepEqual(asked, [2, 4, 6, 6, 3, 2 ** 33]);
  });
});
