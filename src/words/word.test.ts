import assert from 'node:assert/strict';
import fc from 'fast-check';
import { WordError } from './address';
import type { WordLayout } from './word';
import { bitList, bitRange, bits, decodeWord, encodeWord, fieldMask, fromPair, knownMask, toPair } from './word';

const layout: WordLayout = {
  id: 'test@1',
  word: 'cr0',
  title: 'a test word',
  size: 32,
  source: 'this test',
  fields: [
    { name: 'low', lsb: 0, width: 4, meaning: 'four bits', values: { 3: 'three' } },
    { name: 'flag', lsb: 7, width: 1, meaning: 'one bit' },
    { name: 'frame', lsb: 12, width: 20, meaning: 'a frame', format: 'frame' },
  ],
};

describe('the word codec', () => {
  it('reads fields, names values and keeps what is reserved', () => {
    const d = decodeWord(layout, 0x12345093n | 0x100n);
    assert.deepEqual(
      d.fields.map((f) => [f.field.name, f.value, f.text]),
      [
        ['low', 3n, '3 (three)'],
        ['flag', 1n, '1'],
        ['frame', 0x12345n, '0x12345 (address 0x12345000)'],
      ],
    );
    assert.equal(d.reserved, 0x110n);
    assert.equal(d.summary, 'low=3 flag frame=0x12345 unknown bits 8, 4');
    assert.equal(decodeWord(layout, 0n).summary, '0');
  });

  it('writes what it reads', () => {
    assert.equal(encodeWord(layout, { low: 3, flag: true, frame: 0x12345n }), 0x12345083n);
    assert.equal(fieldMask(layout, 'frame'), 0xfffff000n);
    fc.assert(
      fc.property(fc.bigInt(0n, 0xffffffffn), (v) => {
        const d = decodeWord(layout, v);
        const fields = Object.fromEntries(d.fields.map((f) => [f.field.name, f.value]));
        assert.equal(encodeWord(layout, fields) | d.reserved, v);
        assert.equal(d.reserved & knownMask(layout), 0n);
      }),
    );
  });

  it('refuses what does not fit, in a sentence', () => {
    assert.throws(() => encodeWord(layout, { low: 16 }), {
      name: 'WordError',
      message: 'low of test@1 cannot be 0x10: it has 4 bits, so the largest value is 0xf',
    });
    assert.throws(() => encodeWord(layout, { flag: -1 }), /cannot be -0x1: it has 1 bit, so/);
    assert.throws(() => encodeWord(layout, { flag: 0.5 }), /whole number/);
    assert.throws(() => encodeWord(layout, { nope: 1 }), /no field 'nope': its fields are low, flag, frame/);
    assert.throws(() => decodeWord(layout, 1n << 32n), /0x100000000 is not a 32-bit word/);
    assert.throws(() => decodeWord(layout, -1n), WordError);
    assert.throws(() => fieldMask(layout, 'nope'), WordError);
  });

  it('names bits the way the manuals do', () => {
    assert.equal(bits(11), 0x800n);
    assert.equal(bits(3, 3), 0x38n);
    assert.equal(bitRange(46, 51), 0xfc00000000000n);
    assert.equal(bitRange(52, 51), 0n);
    assert.equal(bitList((1n << 63n) | bitRange(45, 51) | 8n), '63, 51:45, 3');
    assert.equal(bitList(0n), '');
  });

  it('splits and joins halves', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, (1n << 64n) - 1n), (v) => {
        const { lo, hi } = toPair(v);
        assert.ok(lo >= 0 && hi >= 0);
        assert.equal(fromPair(lo, hi), v);
        assert.equal(fromPair(lo | 0, hi | 0), v);
      }),
    );
  });
});
