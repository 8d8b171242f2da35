import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  WordError,
  addBytes,
  formatHex,
  formatSize,
  gfn,
  gfnOf,
  gpa,
  gpaOf,
  gva,
  hpa,
  hpaOf,
  isCanonical,
  l2gpa,
  pageBase,
  pageOffset,
  parseBareHex,
  parseNumber,
  pfn,
  pfnOf,
} from './address';
import type { Gfn, Gpa, Gva, Hpa, L2Gpa, Pfn } from './address';

describe('addresses', () => {
  it('converts between addresses and frames of the same space', () => {
    assert.equal(gfnOf(gpa(0xfee00123n)), 0xfee00n);
    assert.equal(gpaOf(gfn(0xfee00)), 0xfee00000n);
    assert.equal(pfnOf(hpa(0x12345678)), 0x12345n);
    assert.equal(hpaOf(pfn(0x12345)), 0x12345000n);
    assert.equal(pageOffset(gva(0x12345678)), 0x678n);
    assert.equal(pageBase(gva(0x12345678), 0x200000n), 0x12200000n);
    assert.equal(addBytes(gpa(0x1000), 8), 0x1008n);
  });

  it('does not compile when kinds are mixed up', () => {
    const takesGpa = (_: Gpa) => 1;
    const takesGva = (_: Gva) => 1;
    const takesHpa = (_: Hpa) => 1;
    const takesGfn = (_: Gfn) => 1;
    const takesPfn = (_: Pfn) => 1;
    const takesL2 = (_: L2Gpa) => 1;
    assert.equal(takesGpa(gpa(1)), 1);
    // @ts-expect-error a linear address is not a physical one
    assert.equal(takesGpa(gva(1)), 1);
    // @ts-expect-error the guest's physical address is not the host's
    assert.equal(takesHpa(gpa(1)), 1);
    // @ts-expect-error an L2 address has to be translated first
    assert.equal(takesGpa(l2gpa(1)), 1);
    // @ts-expect-error and L1's is not L2's
    assert.equal(takesL2(gpa(1)), 1);
    // @ts-expect-error a frame number is not an address
    assert.equal(takesGpa(gfn(1)), 1);
    // @ts-expect-error a host frame is not a guest frame
    assert.equal(takesGfn(pfn(1)), 1);
    // @ts-expect-error nor the other way round
    assert.equal(takesPfn(gfn(1)), 1);
    // @ts-expect-error a bare bigint has no kind
    assert.equal(takesGva(1n), 1);
    // @ts-expect-error arithmetic loses the kind
    assert.equal(takesGva(gva(1) + 1n), 1);
    // @ts-expect-error gfnOf takes guest physical addresses only
    assert.equal(gfnOf(hpa(0x1000)), 1n);
  });

  it('refuses what is no 64-bit address', () => {
    assert.throws(() => gpa(-1), /0 \.\. 2\^64-1/);
    assert.throws(() => gpa(1n << 64n), WordError);
    assert.throws(() => gpa(2 ** 60), /pass a bigint/);
    assert.throws(() => addBytes(gva(0xffff_ffff_ffff_f000n), 0x1000), WordError);
    assert.throws(() => gpaOf(gfn(1n << 52n)), WordError);
  });

  it('knows canonical addresses of both widths', () => {
    assert.equal(isCanonical(gva(0x7fff_ffff_ffffn)), true);
    assert.equal(isCanonical(gva(0x8000_0000_0000n)), false);
    assert.equal(isCanonical(gva(0xffff_8000_0000_0000n)), true);
    assert.equal(isCanonical(gva(0x8000_0000_0000n), 57), true);
    assert.equal(isCanonical(gva(0x0100_0000_0000_0000n), 57), false);
  });
});

describe('numbers as people write them', () => {
  const good: readonly [string, bigint][] = [
    ['0', 0n],
    ['4096', 4096n],
    ['0x1000', 4096n],
    ['0XFEE00000', 0xfee00000n],
    ['4K', 4096n],
    ['2M', 0x200000n],
    ['1G', 0x40000000n],
    ['1T', 1n << 40n],
    ['4KiB', 4096n],
    ['0x10K', 0x4000n],
    ['0xffff_8000_0000_0000', 0xffff_8000_0000_0000n],
    [' 12 ', 12n],
    ['18446744073709551615', (1n << 64n) - 1n],
  ];
  for (const [text, value] of good) it(`reads '${text}'`, () => assert.equal(parseNumber(text), value));

  it('reads 0x1B as hexadecimal, not as bytes', () => assert.equal(parseNumber('0x1B'), 0x1bn));

  const bad = [
    '',
    '-1',
    '1.5',
    '0x',
    '4k4',
    '1P',
    '1_',
    '_1',
    '0x_1',
    '10B',
    'zz',
    '18446744073709551616',
    '16777216T',
  ];
  for (const text of bad) it(`refuses '${text}'`, () => assert.throws(() => parseNumber(text), WordError));

  it('says how to write hexadecimal', () => {
    assert.throws(() => parseNumber('fee00'), /hexadecimal needs a prefix, write 0xfee00/);
  });

  it("reads ftrace's bare hexadecimal", () => {
    assert.equal(parseBareHex('4223a21'), 0x4223a21n);
    assert.equal(parseBareHex('0x10'), 16n);
    assert.throws(() => parseBareHex('12345678901234567'), WordError);
    assert.throws(() => parseBareHex('4K'), WordError);
  });

  it('formats so that it parses back', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, (1n << 64n) - 1n), (v) => {
        assert.equal(parseNumber(formatHex(v)), v);
        assert.equal(parseNumber(formatHex(v, 16)), v);
        assert.equal(parseBareHex(v.toString(16)), v);
      }),
    );
    fc.assert(fc.property(fc.bigInt(0n, 1n << 63n), (v) => assert.equal(parseNumber(formatSize(v)), v)));
    assert.equal(formatSize(0x200000), '2M');
    assert.equal(formatSize(0x201000), '2052K');
    assert.equal(formatSize(1000), '1000');
    assert.equal(formatHex(0x1000, 16), '0x0000000000001000');
  });
});
