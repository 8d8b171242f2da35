import assert from 'node:assert/strict';
import { placeOf, roleWordOf, wordOf } from './variables';

describe('variables of the Variables view', () => {
  it('takes the first hexadecimal value that is shown', () => {
    assert.equal(wordOf({ name: 'root_role', value: '0x01003784  l4 8-byte direct wux' }), '0x1003784');
    assert.equal(wordOf({ name: 'text', value: 'unknown' }), undefined);
  });

  it('leads to guest tables for linear addresses and to the second stage for physical ones', () => {
    assert.deepEqual(placeOf({ name: 'cr2', value: '0x201008' }), { address: '0x201008', kind: 'guest' });
    assert.deepEqual(placeOf({ name: 'gpa', value: '0xfee00000' }), { address: '0xfee00000', kind: 'second' });
    assert.deepEqual(placeOf({ name: 'gfn', value: '0xa0' }), { address: '0xa0000', kind: 'second' });
    assert.deepEqual(placeOf({ name: '[3]', value: '0x23', memoryReference: 'gpa:0x10018' }), {
      address: '0x10018',
      kind: 'second',
    });
    assert.deepEqual(placeOf({ name: '[3]', value: '0x23', memoryReference: 'gva@cr3=0x1000:0x7018' }), {
      address: '0x7018',
      kind: 'guest',
    });
    assert.equal(placeOf({ name: '[3]', value: '0x23', memoryReference: 'hpa:0x8642018' }), undefined);
  });

  it('knows role words by name', () => {
    assert.equal(roleWordOf({ name: 'root_role', value: '0x3784' }), 'root_role');
    assert.equal(roleWordOf({ name: 'word', value: '0x3784', evaluateName: 'root_mmu.cpu_role' }), 'cpu_role');
    assert.equal(roleWordOf({ name: 'level', value: '4', evaluateName: 'root_mmu.root_role.level' }), undefined);
    assert.equal(roleWordOf({ name: 'cr0', value: '0x11' }), undefined);
  });
});
