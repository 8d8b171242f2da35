import assert from 'node:assert/strict';
import type { RootView, TableBody, TableRow, WhyStepView, WhyView } from '../../src/adapter/protocol';
import {
  countsText,
  goalOfWalk,
  kindOf,
  mmioText,
  parseAddress,
  rootAfterStop,
  rootOfWalk,
  rowAt,
  sizeText,
  visibleRows,
} from './model';

const row = (index: number, more: Partial<TableRow> = {}): TableRow => ({
  index,
  raw: '0x0',
  address: `0x${(0x8642000 + index * 8).toString(16)}`,
  from: `0x${(index * 0x1000).toString(16)}`,
  marks: [],
  summary: '',
  target: null,
  descend: false,
  mmio: null,
  ...more,
});
const mmio = { gfn: '0xa0', access: 'WU', generation: '0x6', currentGeneration: '0x8' };
const ROWS = [
  row(0, { raw: '0x600000003088b77', marks: ['present', 'leaf'], summary: 'RWX WB', target: '0x3088000' }),
  row(1),
  row(2, { raw: '0x3e00000a0036', marks: ['mmio', 'stale'], mmio }),
  row(3, { raw: '0x8643907', marks: ['present', 'table', 'changed'], descend: true }),
  row(4, { raw: '0x8000000000000000', marks: ['software'] }),
];
const root = (id: string, kind: RootView['kind'], current: boolean): RootView => ({
  id,
  title: id,
  kind,
  level: 4,
  address: '0x1000',
  space: kind === 'guest' ? 'gpa' : 'hpa',
  current,
  asId: null,
});

describe('the rows of the Tables view', () => {
  it('tells a stale cached MMIO spte from a live one, and both from pages', () => {
    assert.deepEqual(ROWS.map(kindOf), ['leaf', 'none', 'stale', 'table', 'software']);
    assert.equal(kindOf(row(0, { raw: '0x1', marks: ['mmio'], mmio })), 'mmio');
    assert.equal(mmioText(mmio), 'gfn 0xa0, access WU, generation 6 (now 8)');
    assert.equal(mmioText({ ...mmio, currentGeneration: '0x6' }), 'gfn 0xa0, access WU, generation 6');
    assert.equal(mmioText({ ...mmio, generation: null }), 'gfn 0xa0, access WU');
  });

  it('filters by kind', () => {
    const left = (filter: Parameters<typeof visibleRows>[1]) => visibleRows(ROWS, filter, '').map((r) => r.index);
    assert.deepEqual(left('all'), [0, 1, 2, 3, 4]);
    assert.deepEqual(left('present'), [0, 2, 3, 4]);
    assert.deepEqual(left('mmio'), [2]);
    assert.deepEqual(left('changed'), [3]);
  });

  it('searches index, address, raw, meaning and gfn; all words must be there', () => {
    const left = (search: string) => visibleRows(ROWS, 'all', search).map((r) => r.index);
    assert.deepEqual(left('3088'), [0]);
    assert.deepEqual(left('rwx wb'), [0]);
    assert.deepEqual(left('rwx stale'), []);
    assert.deepEqual(left('stale'), [2]);
    assert.deepEqual(left('#3'), [3]);
    assert.deepEqual(left('0xa0'), [2]);
  });

  it('finds the entry that translates an address, to the last byte', () => {
    const body = { rows: ROWS, entryCoverage: '0x1000' } as unknown as TableBody;
    assert.equal(rowAt(body, 0x2fffn)?.index, 2);
    assert.equal(rowAt(body, 0x3000n)?.index, 3);
    assert.equal(rowAt(body, 0x5000n), undefined);
  });

  it('puts the counts that matter into one line', () => {
    const counts = { accessed: 9, present: 6, table: 1, large: 2, mmio: 2, stale: 1, changed: 0 };
    assert.equal(
      countsText({ counts } as unknown as TableBody),
      '6 present · 1 table · 2 large pages · 2 cached MMIO · 1 stale',
    );
    assert.equal(countsText({ counts: {} } as unknown as TableBody), 'no entry present');
  });

  it('reads addresses as people write them', () => {
    assert.equal(parseAddress(' 0xFEE0_0000 '), '0xfee00000');
    assert.equal(parseAddress('fee00000'), '0xfee00000');
    assert.throws(() => parseAddress('here'), /'here' is not an address: type hexadecimal digits/);
    assert.throws(() => parseAddress('0x10000000000000000'), /more than 64 bits/);
  });

  it('writes sizes as whole units', () => {
    assert.deepEqual([4096n, 2n << 20n, 1n << 30n, 512n << 30n, 1536n].map(sizeText), [
      '4 KiB',
      '2 MiB',
      '1 GiB',
      '512 GiB',
      '1536 B',
    ]);
  });
});

describe('following the stops', () => {
  const body = (...roots: RootView[]) => ({ threadId: 1, roots });

  it('starts with the second stage in use', () => {
    assert.equal(
      rootAfterStop(null, body(root('cr3', 'guest', true), root('as1', 'ept', false), root('as0', 'ept', true)))?.id,
      'as0',
    );
    assert.equal(rootAfterStop(null, body(root('cr3', 'guest', true)))?.id, 'cr3');
    assert.equal(rootAfterStop(null, body()), null);
  });

  it('moves to the EPT of address space 1 when SMM entry puts it in use', () => {
    const before = root('as0', 'ept', true);
    assert.equal(rootAfterStop(before, body(root('as0', 'ept', false), root('as1', 'ept', true)))?.id, 'as1');
  });

  it('stays at a root that the user picked although it was not in use', () => {
    const before = root('as1', 'ept', false);
    assert.equal(rootAfterStop(before, body(root('as0', 'ept', true), root('as1', 'ept', false)))?.id, 'as1');
  });

  it('takes another root of the kind when the one it showed is gone', () => {
    assert.equal(
      rootAfterStop(root('cr3-1', 'guest', true), body(root('cr3-2', 'guest', true), root('as0', 'ept', true)))?.id,
      'cr3-2',
    );
  });

  const step = (table: string, level: number, index: number) => ({ table, level, index }) as WhyStepView;
  const walk = (steps: WhyStepView[], access = '', text = '') =>
    ({ access, steps, verdict: { text } }) as unknown as WhyView;

  it('finds the entry at which the last walk of a kind ended', () => {
    const why = walk([
      ...[step('ept', 4, 0), step('ept', 3, 0), step('ept', 2, 0), step('ept', 1, 16)],
      step('guest', 4, 5),
      ...[step('ept', 4, 0), step('ept', 3, 1), step('ept', 2, 7)],
    ]);
    assert.deepEqual(goalOfWalk(why, { kind: 'ept', level: 4 }), { path: [0, 1], index: 7 });
    assert.deepEqual(goalOfWalk(why, { kind: 'guest', level: 4 }), { path: [], index: 5 });
    assert.equal(goalOfWalk(why, { kind: 'npt', level: 4 }), undefined);
  });

  it('goes by the address where caches took the place of the upper levels', () => {
    const access = 'supervisor read of gva 0x209004';
    const text = 'EPT misconfiguration at gpa 0x10000004: ept.write-only failed';
    const why = walk([step('guest', 1, 9), step('ept', 1, 0)], access, text);
    assert.deepEqual(goalOfWalk(why, { kind: 'guest', level: 4 }), { address: '0x209004', level: 1 });
    assert.deepEqual(goalOfWalk(why, { kind: 'ept', level: 4 }), { address: '0x10000004', level: 1 });
  });

  it('follows a fault to the tree whose entry decided it', () => {
    const roots = [root('cr3', 'guest', true), root('as1', 'ept', false), root('as0', 'ept', true)];
    assert.equal(rootOfWalk(walk([step('guest', 1, 9), step('ept', 1, 0)]), roots)?.id, 'as0');
    assert.equal(rootOfWalk(walk([step('guest', 1, 9)]), roots)?.id, 'cr3');
    assert.equal(rootOfWalk(walk([]), roots), null);
  });
});
