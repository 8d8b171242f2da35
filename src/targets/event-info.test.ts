import assert from 'node:assert/strict';
import type { KvmEvent } from '../kvm/events';
import { eventField, eventFields, eventInfo, EVENTS, eventText, pfText } from './event-info';
import { Lexicon } from './lexicon';

const words = new Lexicon({ kernel: 'v6.1', vendor: 'intel', paging: 'ept', guestPhysBits: 46 });

const SPTE: KvmEvent = {
  kind: 'kvm_mmu_set_spte',
  vcpu: 0,
  gfn: 0x10n,
  level: 1,
  spte: 0x600000040010b77n,
  r: 1,
  x: 1,
  u: -1,
  sptep: 0x8003080n,
};
const FAULT: KvmEvent = {
  kind: 'ept_violation',
  vcpu: 1,
  gpa: 0xfee00300n,
  gva: null,
  code: 0x182n,
  write: true,
  fetch: false,
  user: false,
  why: null,
};

describe('events as text', () => {
  const cases: [string, KvmEvent, string][] = [
    [
      'words are named',
      SPTE,
      'kvm_mmu_set_spte gfn 0x10 level 1 spte 0x600000040010b77 (leaf pfn 0x40010 rwx WB+IPAT AD host-writable mmu-writable) r x u -1 sptep 0x8003080',
    ],
    ['flags that are not set are left out, unknown fields too', FAULT, 'ept_violation gpa 0xfee00300 code 0x182 write'],
    [
      'text',
      { kind: 'tlb_flush', vcpu: 0, scope: 'all', reason: 'a slot went' },
      'tlb_flush scope all reason a slot went',
    ],
    [
      'roles',
      {
        kind: 'kvm_mmu_get_page',
        vcpu: 0,
        gfn: 0n,
        role: 0x3784,
        root_count: 1,
        unsync: 0,
        mmu_valid_gen: 0,
        created: 1,
      },
      'kvm_mmu_get_page gfn 0x0 role 0x3784 (l4 8-byte direct wux nxe ad cr0_wp) root_count 1 mmu_valid_gen 0 created',
    ],
    [
      'error codes',
      { kind: 'guest_page_fault', vcpu: 0, gva: 0x1000n, errorCode: 7, injected: false, why: null },
      'guest_page_fault gva 0x1000 errorCode 0x7 (P|W|U)',
    ],
  ];
  for (const [name, event, text] of cases) it(name, () => assert.equal(eventText(event, words), text));

  it('without a kernel, words are numbers', () => {
    assert.equal(eventFields(SPTE)['spte'], '0x600000040010b77');
  });

  it('fields are values for conditions', () => {
    assert.equal(eventField(SPTE, 'level'), 1n);
    assert.equal(eventField(FAULT, 'write'), true);
    assert.equal(eventField(FAULT, 'gva'), null);
    assert.equal(eventField(FAULT, 'kind'), 'ept_violation');
    assert.equal(eventField(FAULT, 'why'), null);
    assert.equal(eventField(FAULT, 'toString'), null);
  });

  it('every kind has a category and a sentence', () => {
    for (const [kind, info] of EVENTS) {
      assert.match(info.meaning, /\.$/, kind);
      assert.notEqual(info.category, 'other', kind);
    }
    assert.deepEqual(eventInfo('kvm_something_new'), { category: 'other', meaning: '', fields: {} });
  });

  it('#PF error codes by name', () => {
    assert.deepEqual([0n, 1n, 0x1fn, 0x60n].map(pfText), [
      'not present, supervisor read',
      'P',
      'P|W|U|RSVD|I',
      'PK|SS',
    ]);
  });
});
