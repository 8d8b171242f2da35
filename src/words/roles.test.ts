import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { KERNEL_ERAS } from './kernels';
import {
  EXTENDED_ROLES,
  PAGE_ROLES,
  cpuRoleLayout,
  extendedRoleLayout,
  hasExtendedRole,
  mmuWords,
  pageRoleLayout,
  roleAddressSpace,
  roleSummary,
} from './roles';
import { decodeWord, encodeWord } from './word';

interface Reference {
  eras: { word: string; era: string; fields: [string, number, number][] }[];
  samples: {
    word: string;
    era: string;
    hex: string;
    what: string;
    decoded: Record<string, number>;
    addressSpace: number;
  }[];
}
const reference = JSON.parse(
  readFileSync(new URL('../../test/fixtures/reference/role-layouts.json', import.meta.url), 'utf8'),
) as Reference;
const tables = [...PAGE_ROLES, ...EXTENDED_ROLES].map((e) => e.layout);
const table = (word: string, era: string) => tables.find((t) => t.id === `${word}@${era}`)!;

describe('role tables', () => {
  for (const { word, era, fields } of reference.eras) {
    it(`${word} ${era} equals the reference, field by field`, () => {
      const layout = table(word, era);
      assert.deepEqual(
        layout.fields.map((f) => [f.name, f.lsb, f.width]),
        fields.filter(([name]) => !name.startsWith('reserved_')),
      );
      for (const f of layout.fields) assert.ok(f.meaning.length > 0, f.name);
    });
  }

  it('has every layout of the reference, and one more for the later SPP postings', () => {
    assert.equal(tables.length, reference.eras.length + 1);
    assert.equal(new Set(tables.map((t) => t.id)).size, tables.length);
  });

  for (const sample of reference.samples) {
    it(`reads ${sample.hex} (${sample.era}: ${sample.what})`, () => {
      const layout = table(sample.word, sample.era);
      const decoded = decodeWord(layout, BigInt(sample.hex));
      assert.deepEqual(Object.fromEntries(decoded.fields.map((f) => [f.field.name, Number(f.value)])), sample.decoded);
      assert.equal(decoded.reserved, 0n);
      assert.equal(encodeWord(layout, sample.decoded), BigInt(sample.hex));
      if (sample.word === 'kvm_mmu_page_role') {
        assert.equal(roleAddressSpace(layout, BigInt(sample.hex)), sample.addressSpace);
      }
    });
  }

  for (const layout of [...tables, cpuRoleLayout('v4.20'), cpuRoleLayout('v6.1'), cpuRoleLayout('v7.3')]) {
    it(`${layout.id}: encode after decode is the identity`, () => {
      fc.assert(
        fc.property(fc.bigInt(0n, (1n << BigInt(layout.size)) - 1n), (word) => {
          const decoded = decodeWord(layout, word);
          const fields = Object.fromEntries(decoded.fields.map((f) => [f.field.name, f.value]));
          assert.equal(encodeWord(layout, fields) | decoded.reserved, word);
        }),
        { numRuns: 50 },
      );
    });
  }
});

describe('which role a kernel has', () => {
  const page: readonly [string, string][] = [
    ['v3.6', 'v3.6'],
    ['seed2', 'v3.6'],
    ['v3.11', 'v3.6'],
    ['v4.1', 'v4.1'],
    ['seed3', 'v4.2'],
    ['seed0', 'v4.2'],
    ['v4.2', 'v4.2'],
    ['v4.4.179', 'v4.2'],
    ['v4.19', 'v4.19'],
    ['v5.0', 'v4.19'],
    ['spp-rfc-2018', 'spp-rfc-2018'],
    ['v4.20', 'v4.19'],
    ['v5.10', 'v5.1'],
    ['v5.16', 'v5.1'],
    ['v5.17', 'v5.17'],
    ['seed1', 'v5.17'],
    ['v5.19', 'v6.1'],
    ['6.1.176', 'v6.1'],
    ['v6.12.107', 'v6.1'],
    ['v6.16', 'v6.14'],
    ['v7.1', 'v6.14'],
    ['v7.3', 'v7.2'],
  ];
  for (const [kernel, era] of page) {
    it(`${kernel}: page role ${era}`, () => assert.equal(pageRoleLayout(kernel).id, `kvm_mmu_page_role@${era}`));
  }

  const ext: readonly [string, string][] = [
    ['v4.20', 'v4.20'],
    ['v5.0', 'v5.0'],
    ['v5.4', 'v5.2'],
    ['v5.7', 'v5.7'],
    ['v5.10', 'v5.10-stable'],
    ['v5.10.0', 'v5.7'],
    ['5.10.262', 'v5.10-stable'],
    ['v5.11', 'v5.7'],
    ['v5.12.15', 'v5.10-stable'],
    ['v5.13.0', 'v5.7'],
    ['v5.13.1', 'v5.10-stable'],
    ['v5.14', 'v5.14'],
    ['v5.15.0', 'v5.14'],
    ['v5.15', 'v5.16'],
    ['v5.18', 'v5.16'],
    ['seed1', 'v5.16'],
    ['v6.1', 'v6.1'],
    ['v7.1', 'v6.1'],
    ['v7.2', 'v7.2'],
  ];
  for (const [kernel, era] of ext) {
    it(`${kernel}: extended role ${era}`, () =>
      assert.equal(extendedRoleLayout(kernel).id, `kvm_mmu_extended_role@${era}`));
  }

  it('says that old kernels have one word', () => {
    assert.equal(hasExtendedRole('v4.19'), false);
    assert.throws(() => extendedRoleLayout('v4.4'), /v4\.4 has no kvm_mmu_extended_role.*base_role/);
    assert.throws(() => cpuRoleLayout('v4.1'), /base_role/);
  });

  it('lists the words that struct kvm_mmu holds', () => {
    const words = (kernel: string) => mmuWords(kernel).words.map((w) => [w.name, w.type, w.bits]);
    assert.deepEqual(words('v4.4'), [['base_role', 'kvm_mmu_page_role', 32]]);
    assert.deepEqual(words('v5.10'), [['mmu_role', 'kvm_mmu_role', 64]]);
    assert.deepEqual(words('seed1'), [
      ['cpu_role', 'kvm_mmu_role', 64],
      ['mmu_role', 'kvm_mmu_role', 64],
    ]);
    const v6 = [
      ['cpu_role', 'kvm_cpu_role', 64],
      ['root_role', 'kvm_mmu_page_role', 32],
    ];
    assert.deepEqual(words('v6.1'), v6);
    assert.deepEqual(words('v7.3'), v6);
    assert.match(mmuWords('v7.3').holder, /kvm_pagewalk/);
    for (const { id } of KERNEL_ERAS) {
      for (const w of mmuWords(id).words) assert.equal(w.layout.size, w.bits, `${id} ${w.name}`);
    }
  });

  it('gives the address space that role.smm holds, the whole byte', () => {
    assert.equal(roleAddressSpace(pageRoleLayout('v6.1'), 0x02003784n), 2);
    assert.equal(roleAddressSpace(pageRoleLayout('v4.1'), 0x0211c021n), 0, 'no smm field yet');
  });

  it('puts ext above base in the 64-bit word', () => {
    const cpu = cpuRoleLayout('v6.1');
    const word = encodeWord(cpu, { 'base.level': 4, 'base.smm': 1, 'ext.valid': 1, 'ext.efer_lma': 1 });
    assert.equal(word, 0x81_0100_0004n);
    assert.equal(cpuRoleLayout('v6.1'), cpu, 'one object per layout');
  });
});

describe('a role in one line', () => {
  const lines: readonly [string, bigint, string][] = [
    ['v6.1', 0x01003784n, 'l4 8-byte direct wux nxe ad smm cr0_wp'],
    ['v6.1', 0x00003784n, 'l4 8-byte direct wux nxe ad cr0_wp'],
    ['v6.1', 0x00033785n, 'l5 8-byte direct wux nxe !ad guest_mode cr0_wp'],
    ['v6.1', 0x00003772n, 'l2 4-byte q3 wux nxe ad cr0_wp'],
    ['v5.10', 0x00003794n, 'l4 8-byte direct wux nxe ad cr0_wp'],
    ['v4.4', 0x00003714n, 'l4 pae wux nxe cr0_wp'],
    ['v4.4', 0x00004721n, 'l1 q1 wux !nxe smep_andnot_wp'],
    ['spp', 0x00040784n, 'l4 direct wux !nxe ad spp'],
    ['v7.3', 0x01006f84n, 'l4 8-byte direct rwux nxe ad smm cr0_wp'],
    ['v6.1', 0x00080000n, 'l0 8-byte --- !nxe ad unknown bits 19'],
  ];
  for (const [kernel, word, text] of lines) {
    it(`${kernel} 0x${word.toString(16)}: ${text}`, () =>
      assert.equal(roleSummary(pageRoleLayout(kernel), word), text));
  }

  it('says both halves of a 64-bit role', () => {
    const decoded = decodeWord(cpuRoleLayout('v6.1'), 0xb5_0000_3784n);
    assert.equal(decoded.summary, 'l4 8-byte direct wux nxe ad cr0_wp | valid cr4_pse cr4_smap cr4_smep efer_lma');
  });
});
