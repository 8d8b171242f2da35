import assert from 'node:assert/strict';
import type { Inputs } from '../../src/words/formula';
import { carryWords, columnsOf, parseWord, rowsOf, strayBits, toggleBit } from './model';

/** Registers of a 64-bit guest with EPT; the probe's `long64` guest. */
const LONG64: Inputs = {
  'CR0.PG': 1,
  'CR0.WP': 1,
  'CR4.PAE': 1,
  'CR4.PSE': 0,
  'CR4.LA57': 0,
  'CR4.SMEP': 0,
  'CR4.SMAP': 0,
  'CR4.PKE': 0,
  'EFER.LMA': 1,
  'EFER.NX': 1,
  is_smm: 0,
  is_guest_mode: 0,
  ad_enabled: 1,
  tdp_level: 4,
  eptp_level: 4,
  eptp_ad: 1,
  execonly: 1,
  tdp_has_smep: 0,
  l1_mbec: 0,
};

describe('the rows of the Role Decoder', () => {
  it('puts base fields of both words side by side and marks those that differ', () => {
    const columns = columnsOf('v6.1', 'tdp');
    assert.deepEqual(
      columns.map((c) => `${c.name}:${c.bits}`),
      ['cpu_role:64', 'root_role:32'],
    );
    // The guest runs without NX and with paging off; the root does not care.
    const rows = rowsOf(columns, { cpu_role: 0x0000_0001_0000_0780n, root_role: 0x3784n }, { ...LONG64, 'CR0.PG': 0 });
    assert.deepEqual(
      rows.filter((r) => r.differs).map((r) => r.name),
      ['level', 'efer_nx', 'cr0_wp'],
    );
    const level = rows[0];
    assert.equal(level?.name, 'level');
    assert.deepEqual(
      level?.cells.map((c) => c?.value),
      [0n, 4n],
    );
    const valid = rows.find((r) => r.half === 'ext' && r.name === 'valid');
    assert.equal(valid?.lsb, 0);
    assert.deepEqual(
      valid?.cells.map((c) => c?.value),
      [1n, undefined],
    );
    assert.equal(valid?.differs, false);
  });

  it('does not call an unknown word different', () => {
    const rows = rowsOf(columnsOf('v6.1', 'tdp'), { root_role: 0x3784n }, {});
    assert.ok(rows.every((r) => !r.differs));
    assert.equal(rows[0]?.cells[0]?.text, 'unknown');
  });

  it('says what the registers ask for where a word disagrees', () => {
    const rows = rowsOf(columnsOf('v6.1', 'tdp'), { root_role: 0x0100_3784n }, LONG64);
    const smm = rows.find((r) => r.name === 'smm')?.cells[1];
    assert.equal(smm?.value, 1n);
    assert.equal(smm?.expected, 0);
  });

  it('turns one bit over and back', () => {
    assert.equal(toggleBit(0x3784n, 24), 0x0100_3784n);
    assert.equal(toggleBit(toggleBit(0x3784n, 13), 13), 0x3784n);
  });

  it('finds bits that no field owns', () => {
    const root = columnsOf('v6.1', 'tdp')[1];
    assert.ok(root);
    assert.equal(strayBits(root, 0x0080_3784n), 0x0080_0000n);
  });

  it('reads words as people write them and refuses others in one sentence', () => {
    const root = columnsOf('v6.1', 'tdp')[1];
    assert.ok(root);
    assert.equal(parseWord(root, ' 0x0100_3784 '), 0x0100_3784n);
    assert.equal(parseWord(root, '3784'), 0x3784n);
    assert.throws(() => parseWord(root, 'role'), /'role' is not a hexadecimal number: type root_role as 0x00000000/);
    assert.throws(() => parseWord(root, '0x100000000'), /more than the 32 bits of root_role/);
  });

  it('carries typed words over to another kernel', () => {
    assert.deepEqual(carryWords({ cpu_role: 5n, root_role: 0x3784n }, columnsOf('v7.3', 'tdp')), {
      cpu_role: 5n,
      root_role: 0x3784n,
    });
    assert.deepEqual(carryWords({ cpu_role: undefined, root_role: 0x3784n }, columnsOf('v4.4', 'tdp')), {
      base_role: 0x3784n,
    });
  });
});
