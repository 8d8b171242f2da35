import assert from 'node:assert/strict';
import { middle, time } from './bench';
import { cells, overBudget } from './run';

describe('benchmarks', () => {
  it('measure a known duration', async () => {
    const row = await time(
      '2 ms',
      () => {
        const end = performance.now() + 2;
        while (performance.now() < end);
      },
      { unit: 'ms', seconds: 0.1 },
    );
    assert.ok(row.value >= 2 && row.value < 3, `${row.value}`);
  });

  it('take the median and half of the middle half’s spread', () => {
    assert.deepEqual(middle([9, 1, 3, 2, 100, 4, 5, 6]), { value: 5, spread: 3 });
  });

  it('say the ratio to the reference and what exceeds its budget', () => {
    const row = { name: 'walk', value: 30, unit: 'ns' as const, reference: { name: 'C', value: 10 }, budget: 20 };
    assert.deepEqual(cells(row), ['walk', '30 ns', '10 ns (C)', '3×', '20 ns EXCEEDED', '']);
    assert.equal(overBudget({ ...row, budget: 30 }), false);
    assert.equal(overBudget({ name: 'rate', value: 5, unit: 'per s', budget: 6 }), true);
  });
});
