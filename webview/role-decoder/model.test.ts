import assert from 'node:assert/strict';
import { KERNEL_ERAS } from '../../src/words/kernels';
import { mmuWords } from '../../src/words/roles';
import type { Inputs } from './expression';
import { carryWords, columnsOf, deriveWord, parseWord, rowsOf, strayBits, toggleBit, wordText } from './model';
import type { MmuUse } from './origins';
import { INPUTS, MMU_USES, originsOf } from './origins';

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
};

const derived = (kernel: string, use: MmuUse, word: string, inputs: Inputs): string => {
  const column = columnsOf(kernel, use).find((c) => c.name === word);
  assert.ok(column, `${kernel} has no ${word}`);
  const value = deriveWord(column, inputs);
  assert.notEqual(value, undefined, `${kernel} ${word} ${use}`);
  return wordText(column, value ?? 0n);
};

describe('where role bits come from', () => {
  it('gives the TDP root roles that v6.1 traces: 0x3784, and 0x1003784 in SMM', () => {
    assert.equal(derived('v6.1', 'tdp', 'root_role', LONG64), '0x00003784');
    assert.equal(derived('v6.1', 'tdp', 'root_role', { ...LONG64, is_smm: 1 }), '0x01003784');
  });

  it('gives a shadow root the role of the guest with NX forced, at least three levels', () => {
    assert.equal(derived('v6.1', 'shadow', 'root_role', { ...LONG64, 'EFER.NX': 0 }), '0x00003704');
    const off = { ...LONG64, 'CR0.PG': 0 };
    assert.equal(derived('v6.1', 'shadow', 'root_role', off), '0x00001783');
    assert.equal(derived('v6.1', 'shadow', 'cpu_role', off), '0x0000000100000780');
  });

  it('keeps nothing of the registers in cpu_role while paging is off', () => {
    const all: Inputs = { ...LONG64, 'CR0.PG': 0, 'CR4.SMEP': 1, 'CR4.SMAP': 1, 'CR4.PSE': 1, is_smm: 1 };
    assert.equal(derived('v6.1', 'tdp', 'cpu_role', all), '0x0000000101000780');
  });

  it('knows smep_andnot_wp up to v7.1 and cr4_smep from v7.2', () => {
    const inputs = { ...LONG64, 'CR4.SMEP': 1, 'CR0.WP': 0 };
    assert.equal(originsOf('v6.1', 'cpu_role', 'tdp').get('base.smep_andnot_wp')?.evaluate(inputs), 1);
    assert.equal(
      originsOf('v6.1', 'cpu_role', 'tdp')
        .get('base.smep_andnot_wp')
        ?.evaluate({ ...inputs, 'CR0.WP': 1 }),
      0,
    );
    assert.equal(originsOf('v7.3', 'cpu_role', 'tdp').get('base.cr4_smep')?.evaluate(inputs), 1);
    assert.equal(originsOf('v7.3', 'root_role', 'tdp').get('access')?.evaluate({}), 15);
  });

  it('marks the role of a shadowed EPT of v5.10 by a pair that no guest has', () => {
    const origins = originsOf('v5.10', 'mmu_role', 'shadow-ept');
    assert.equal(origins.get('base.cr0_wp')?.evaluate({}), 1);
    assert.equal(origins.get('base.smap_andnot_wp')?.evaluate({}), 1);
    assert.equal(origins.get('base.guest_mode')?.evaluate({}), 1);
  });

  it('mentions only inputs that the view offers, in every kernel and for every use', () => {
    const offered = new Set(INPUTS.map((i) => i.name));
    for (const { id } of KERNEL_ERAS) {
      for (const { name } of mmuWords(id).words) {
        for (const use of Object.keys(MMU_USES) as MmuUse[]) {
          for (const [field, formula] of originsOf(id, name, use)) {
            for (const input of formula.names) assert.ok(offered.has(input), `${id} ${name} ${use} ${field}: ${input}`);
          }
        }
      }
    }
  });

  it('has an origin for every field of cpu_role and of TDP and shadow root roles in every kernel that has them', () => {
    // maxphyaddr comes from CPUID, not from a register (v5.0 .. v5.13); level, direct and access of base_role (up to v4.19)
    // are those of the page that is looked up.
    const none = ['ext.maxphyaddr', 'level', 'direct', 'access'];
    for (const { id } of KERNEL_ERAS) {
      for (const use of ['tdp', 'shadow'] as const) {
        for (const { name, origins, layout } of columnsOf(id, use)) {
          const missing = layout.fields
            .map((f) => f.name)
            .filter((f) => !origins.has(f) && !(none.includes(f) && name !== 'root_role'));
          assert.deepEqual(missing, [], `${id} ${name} ${use}`);
        }
      }
    }
  });
});

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
