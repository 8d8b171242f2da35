import assert from 'node:assert/strict';
import fc from 'fast-check';
import { formatMemoryReference, type MemoryRef, parseMemoryReference } from './target';

describe('memory references', () => {
  it('read back as they were written', () => {
    const space = fc.oneof(
      fc.record({ kind: fc.constant('gpa' as const), asId: fc.nat(3) }),
      fc.record({ kind: fc.constant('hpa' as const) }),
      fc.record({ kind: fc.constant('gva' as const), vcpu: fc.nat(4000) }),
    );
    const ref: fc.Arbitrary<MemoryRef> = fc.record({ space, address: fc.bigInt(0n, (1n << 64n) - 1n) });
    fc.assert(
      fc.property(ref, ({ space: { ...rest }, address }) => {
        const plain = { space: rest, address };
        assert.deepEqual(parseMemoryReference(formatMemoryReference(plain)), plain);
      }),
    );
  });

  it('a bare number is a linear address of the vCPU at hand', () => {
    assert.deepEqual(parseMemoryReference('0x1000', 3), { space: { kind: 'gva', vcpu: 3 }, address: 0x1000n });
    assert.deepEqual(parseMemoryReference('gva:4096', 2), { space: { kind: 'gva', vcpu: 2 }, address: 4096n });
    assert.deepEqual(parseMemoryReference('GPA:0xFF'), { space: { kind: 'gpa', asId: 0 }, address: 0xffn });
  });

  for (const text of [
    '',
    'gpa',
    'gpa:',
    'gpa:1g',
    'hpa@1:0',
    'gpa@12345:0',
    '0x10000000000000000',
    '99999999999999999999',
    '-1',
    ' 0x1',
  ]) {
    it(`refuses '${text}'`, () =>
      assert.throws(() => parseMemoryReference(text), /is not a memory reference: write gpa:0x…/));
  }
});
