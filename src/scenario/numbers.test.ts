import assert from 'node:assert/strict';
import fc from 'fast-check';
import { readNumber, showNumber } from './numbers';

describe('numbers of scenarios', () => {
  it('reads hexadecimal, decimal, binary, units and separators', () => {
    const cases: [string, bigint][] = [
      ['0x1000', 4096n],
      ['0X10', 16n],
      ['4096', 4096n],
      ['4K', 4096n],
      ['640K', 0xa0000n],
      ['2M', 0x200000n],
      ['1G', 1n << 30n],
      ['0x80G', 0x80n << 30n],
      ['0b1010_0011', 0xa3n],
      ['0x8000_0000_0000_0000', 1n << 63n],
      ['0xffffffffffffffff', (1n << 64n) - 1n],
    ];
    for (const [text, value] of cases) assert.deepEqual(readNumber(text), { value, error: null }, text);
  });

  it('says what is wrong with the rest', () => {
    assert.match(readNumber('0b102').error ?? '', /only the digits 0 and 1/);
    assert.match(readNumber(`0b1${'0'.repeat(64)}`).error ?? '', /does not fit 64 bits/);
    assert.match(readNumber('12ab').error ?? '', /write 0x12ab/);
    assert.match(readNumber('0x1_0000_0000_0000_0000').error ?? '', /does not fit 64 bits/);
    assert.match(readNumber('3Q').error ?? '', /is not a number/);
  });

  it('reads back what it shows', () => {
    fc.assert(fc.property(fc.bigInt(0n, (1n << 64n) - 1n), (v) => readNumber(showNumber(v)).value === v));
    assert.equal(showNumber(9), '9');
    assert.equal(showNumber(10), '0xa');
  });
});
