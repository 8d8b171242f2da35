import assert from 'node:assert/strict';
import type { Inputs } from './formula';
import { parseFormula } from './formula';
import { KERNEL_ERAS, RELEASES } from './kernels';
import type { MmuUse } from './role-origins';
import { INPUTS, MMU_USES, deriveWord, mmuUseOf, originText, originsOf } from './role-origins';
import { mmuWords } from './roles';

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

const derived = (kernel: string, use: MmuUse, word: string, inputs: Inputs): string => {
  const layout = mmuWords(kernel).words.find((w) => w.name === word)?.layout;
  assert.ok(layout, `${kernel} has no ${word}`);
  const value = deriveWord({ layout, origins: originsOf(kernel, word, use) }, inputs);
  assert.notEqual(value, undefined, `${kernel} ${word} ${use}`);
  return `0x${(value ?? 0n).toString(16)}`;
};

describe('where role bits come from', () => {
  it('gives the TDP root roles that v6.1 traces: 0x3784, and 0x1003784 in SMM', () => {
    assert.equal(derived('v6.1', 'tdp', 'root_role', LONG64), '0x3784');
    assert.equal(derived('v6.1', 'tdp', 'root_role', { ...LONG64, is_smm: 1 }), '0x1003784');
  });

  it('gives a shadow root the role of the guest with NX forced, at least three levels', () => {
    assert.equal(derived('v6.1', 'shadow', 'root_role', { ...LONG64, 'EFER.NX': 0 }), '0x3704');
    const off = { ...LONG64, 'CR0.PG': 0 };
    assert.equal(derived('v6.1', 'shadow', 'root_role', off), '0x1783');
    assert.equal(derived('v6.1', 'shadow', 'cpu_role', off), '0x100000780');
  });

  it('keeps nothing of the registers in cpu_role while paging is off', () => {
    const all: Inputs = { ...LONG64, 'CR0.PG': 0, 'CR4.SMEP': 1, 'CR4.SMAP': 1, 'CR4.PSE': 1, is_smm: 1 };
    assert.equal(derived('v6.1', 'tdp', 'cpu_role', all), '0x101000780');
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

  it('has an origin for every field of every word, in every kernel and for every use', () => {
    for (const id of [...RELEASES, ...KERNEL_ERAS.map((e) => e.id), 'v5.10.1', 'v5.15.0']) {
      for (const use of Object.keys(MMU_USES) as MmuUse[]) {
        for (const { name, layout } of mmuWords(id).words) {
          const origins = originsOf(id, name, use);
          const missing = layout.fields.map((f) => f.name).filter((f) => !origins.has(f));
          assert.deepEqual(missing, [], `${id} ${name} ${use}`);
        }
      }
    }
  });

  it('gives no nested_mmu a role for shadow pages, as it has none', () => {
    assert.equal(derived('v6.1', 'walk', 'root_role', {}), '0x0');
    assert.equal(derived('v4.19', 'walk', 'base_role', {}), '0x0');
  });

  it('takes maxphyaddr from CPUID, in the releases that have it', () => {
    const role = (kernel: string) =>
      originsOf(kernel, 'mmu_role', 'tdp').get('ext.maxphyaddr')?.evaluate({ maxphyaddr: 46 });
    assert.deepEqual(['v4.20', 'v5.0', 'v5.10', 'v5.13', 'v5.14'].map(role), [undefined, 46, 46, 46, undefined]);
  });

  it('writes a formula with what its names are', () => {
    const text = (formula: string) => originText(parseFormula(formula), { 'CR0.WP': 0, 'CR4.SMEP': 1 });
    assert.equal(text('CR4.SMEP && !CR0.WP'), 'CR4.SMEP && !CR0.WP (CR4.SMEP=1 CR0.WP=0)');
    assert.equal(text('CR0.PG && CR0.WP'), 'CR0.PG && CR0.WP (CR0.PG=unknown CR0.WP=0)');
    assert.equal(text('CR4.SMEP'), 'CR4.SMEP=1');
    assert.equal(text('7'), 'always 7');
  });

  it('knows what each MMU is for', () => {
    assert.equal(mmuUseOf('root_mmu', 'ept', 'intel'), 'tdp');
    assert.equal(mmuUseOf('root_mmu', 'shadow', 'amd'), 'shadow');
    assert.equal(mmuUseOf('guest_mmu', 'npt', 'amd'), 'shadow-npt');
    assert.equal(mmuUseOf('guest_mmu', 'ept', 'intel'), 'shadow-ept');
    assert.equal(mmuUseOf('nested_mmu', null, null), 'walk');
  });
});
