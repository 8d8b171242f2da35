import assert from 'node:assert/strict';
import fc from 'fast-check';
import { RmapHeads } from './rmap_heads';

describe('rmap heads', () => {
  it('answer as a map of lists does', () => {
    const step = fc.record({
      add: fc.boolean(),
      index: fc.constantFrom(0, 1, 511, 512, 513, 262_144, 0x3_ffff_ffff),
      sptep: fc.constantFrom(0, 0x1000, 0x1008, 0xffff_ffff_f000),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const heads = new RmapHeads();
        const plain = new Map<number, number[]>();
        for (const { add, index, sptep } of steps) {
          const list = plain.get(index) ?? [];
          if (add) {
            assert.equal(heads.add(index, sptep), list.length);
            plain.set(index, [...list, sptep]);
          } else {
            const at = list.indexOf(sptep);
            assert.equal(heads.remove(index, sptep), at >= 0);
            if (at >= 0) plain.set(index, list.toSpliced(at, 1));
          }
          const mapped = [...plain].filter(([, l]) => l.length).map(([i]) => i).sort((a, b) => a - b); // prettier-ignore
          assert.equal(heads.size, mapped.length);
          assert.deepEqual(heads.keys(), mapped);
          assert.deepEqual(
            heads.keys(1, 512),
            mapped.filter((i) => i >= 1 && i <= 512),
          );
          for (const i of [0, 1, 2, 511, 512, 513, 262_144, 0x3_ffff_ffff])
            assert.deepEqual(heads.get(i), plain.get(i) ?? []);
        }
      }),
    );
  });
});
