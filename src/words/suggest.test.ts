import assert from 'node:assert/strict';
import { nearest, orList, remedy, suggestion } from './suggest';

describe('proposals', () => {
  it('finds what was meant', () => {
    assert.equal(nearest('laod', ['load', 'store']), 'load');
    assert.equal(nearest('memslt', ['machine', 'memslot', 'map']), 'memslot');
    assert.equal(nearest('sm', ['nx', 'lm', 'smep']), 'smep');
    assert.equal(nearest('READ_ONLY', ['LOG_DIRTY_PAGES', 'READONLY']), 'READONLY');
    assert.equal(nearest('frobnicate', ['load', 'store']), undefined);
  });

  it('lists what is legal when the list is short, and the near word when it is long', () => {
    assert.equal(remedy('x', ['on', 'off']), '; it can be on or off');
    assert.equal(orList(['a', 'b', 'c']), 'a, b or c');
    const many = Array.from({ length: 40 }, (_, i) => `event_number_${i}`);
    assert.equal(remedy('zzz', many).includes('event_number_39'), true);
    assert.equal(remedy('event_number_1x', many), "; did you mean 'event_number_1'?");
  });
});

describe('proposals among names of the kernel', () => {
  const names = ['kvm_mmu_page_fault', 'kvm_tdp_page_fault', 'enter_smm', 'level', 'gpa', 'gva'];
  const cases: [string, string | undefined][] = [
    ['kvm_mmu_pagefault', 'kvm_mmu_page_fault'],
    ['tdp_page_fault', 'kvm_tdp_page_fault'],
    ['enter-smm', 'enter_smm'],
    ['LEVLE', 'level'],
    ['gap', 'gpa'],
    ['something else', undefined],
    ['', undefined],
  ];
  for (const [word, meant] of cases)
    it(`${word || '(nothing)'} → ${meant ?? 'none'}`, () => assert.equal(nearest(word, names), meant));
  it('as the end of a sentence', () => {
    assert.equal(suggestion('gpq', names), "; did you mean 'gpa'?");
    assert.equal(suggestion('xyz', names), '');
  });
});
