import assert from 'node:assert/strict';
import fc from 'fast-check';
import { ACC_DRY, ACC_READ, OK, RIGHT_U, RIGHT_W } from './access';
import { intelFeatures } from './features';
import { listLeaves } from './leaves';
import { PhysMemory } from './memory';
import { build, machinePlan } from './testing/random';
import { halves, mapEpt, mapPath, poke64 } from './testing/tables';
import { Translator } from './translate';

const LONG = { cr0: 0x8001_0033n, cr3: 0x1000n, cr4: 0x20n, efer: 0xd00n };

/** A 4-level guest without second stage over `memory`. */
function guest(memory: PhysMemory): Translator {
  const t = new Translator(memory, intelFeatures());
  t.setGuest(LONG);
  return t;
}

describe('listing all pages', () => {
  it('merges neighbours that continue each other in both address spaces with the same rights', () => {
    const memory = new PhysMemory();
    mapPath(memory, { va: 0xffff_8000_0000_0000n });
    for (let i = 0; i < 6; i++)
      poke64(memory, 0x4000 + 8 * i, BigInt(0x40_0000 + i * 0x1000) | (i < 4 ? 0x67n : 0x65n));
    poke64(memory, 0x4000 + 8 * 2, 0x80_0000n | 0x67n);
    const out = listLeaves(guest(memory));
    const rows = Array.from({ length: out.count }, (_, i) => [out.va(i), out.gpa(i), out.size(i, 9), out.rights[i]]);
    assert.deepEqual(rows, [
      [0xffff_8000_0000_0000n, 0x40_0000n, 0x2000n, RIGHT_U | RIGHT_W],
      [0xffff_8000_0000_2000n, 0x80_0000n, 0x1000n, RIGHT_U | RIGHT_W],
      [0xffff_8000_0000_3000n, 0x40_3000n, 0x1000n, RIGHT_U | RIGHT_W],
      [0xffff_8000_0000_4000n, 0x40_4000n, 0x2000n, RIGHT_U],
    ]);
  });

  it('merges across tables, and across 4 GiB of guest-physical memory', () => {
    const memory = new PhysMemory();
    mapPath(memory, { va: 0x1f_f000n, page: 0xffff_f000n });
    mapPath(memory, { va: 0x20_0000n, page: 0x1_0000_0000n, root: 0x9000 });
    poke64(memory, 0x3008, memory.readQ(0xb008));
    const out = listLeaves(guest(memory));
    assert.equal(out.count, 1);
    assert.deepEqual([out.va(0), out.gpa(0), out.pages[0]], [0x1f_f000n, 0xffff_f000n, 2]);
  });

  it('leaves out entries that fault for a reserved bit, unless asked for them', () => {
    const memory = new PhysMemory();
    mapPath(memory, { va: 0x5000n, flagsAt: { 1: 0x67n | (1n << 50n) } });
    assert.equal(listLeaves(guest(memory)).count, 0);
    assert.equal(listLeaves(guest(memory), { ignoreReserved: true }).count, 1);
  });

  it('stops at its limit and says so, however often tables refer to themselves', () => {
    const memory = new PhysMemory();
    for (let i = 0; i < 512; i++) poke64(memory, 0x1000 + 8 * i, 0x1067n);
    const out = listLeaves(guest(memory), { limit: 1000 });
    assert.equal(out.count, 1000);
    assert.equal(out.truncated, true);
    assert.equal(listLeaves(guest(new PhysMemory())).truncated, false);
  });

  it('finds the guest’s tables through EPT and leaves out those that EPT does not map', () => {
    const memory = new PhysMemory();
    mapPath(memory, { va: 0x7000n });
    for (const gpa of [0x1000n, 0x2000n, 0x3000n, 0x4000n]) mapEpt(memory, { gpa, page: gpa });
    const t = guest(memory);
    t.setSecondStage('ept', { eptp: 0x10_001en });
    const before = memory.fork();
    assert.deepEqual(listLeaves(t).gpa(0), 0x4000_0000n);
    assert.equal(memory.readQ(0x4038), before.readQ(0x4038));
    const at = mapEpt(memory, { gpa: 0x4000n, page: 0x4000n }).at[1];
    poke64(memory, at, 0n);
    assert.equal(listLeaves(t).count, 0);
  });

  it('lists a page exactly if a supervisor read without SMAP translates, to the same address', () => {
    fc.assert(
      fc.property(
        machinePlan.map((p) => ({ ...p, stage2: 'none' as const, smap: false, pke: false })),
        (plan) => {
          const { t, vas } = build(plan);
          const out = listLeaves(t);
          const { indexBits } = t.guest.tables.mode;
          const listed = (va: bigint): bigint | null => {
            for (let i = 0; i < out.count; i++) {
              const within = va - out.va(i);
              if (within >= 0n && within < out.size(i, indexBits)) return out.gpa(i) + within;
            }
            return null;
          };
          for (const base of vas) {
            for (const va of [base, base ^ 0x1000n, base ^ 0x20_0000n, base ^ 0x4000_0000n]) {
              const status = t.translate(...halves(va), ACC_READ | ACC_DRY);
              assert.equal(listed(va), status === OK ? BigInt(t.gpa) : null, `0x${va.toString(16)}`);
            }
          }
        },
      ),
      { numRuns: 400 },
    );
  }).timeout(10_000);
});
