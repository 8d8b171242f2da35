/**
 * The Role Decoder says where role bits come from by formulas of its own; the KVM model computes roles as the kernel does. Written
 * apart, they must agree for every state of the registers.
 */
import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { Machine, machineConfig } from '../src/kvm/machine';
import { roleWords } from '../src/targets/simulator/mmus';
import { columnsOf, deriveWord, wordText } from '../webview/role-decoder/model';
import type { Inputs } from '../webview/role-decoder/expression';
import type { MmuUse } from '../webview/role-decoder/origins';

/** Registers as a guest can have them: LMA only with PG and PAE, LA57 only in long mode. */
const registers = fc
  .record({
    pg: fc.boolean(),
    wp: fc.boolean(),
    pae: fc.boolean(),
    pse: fc.boolean(),
    la57: fc.boolean(),
    smep: fc.boolean(),
    smap: fc.boolean(),
    pke: fc.boolean(),
    lme: fc.boolean(),
    nx: fc.boolean(),
  })
  .map((r) => {
    const long = r.pg && r.lme;
    return { ...r, pae: r.pae || long, la57: r.la57 && long, lma: long };
  });

/** One draw of the above. */
type Registers = typeof registers extends fc.Arbitrary<infer T> ? T : never;

const bit = (on: boolean, n: number): bigint => (on ? 1n << BigInt(n) : 0n);

function words(kernel: string, use: 'tdp' | 'shadow', r: Registers): Record<string, string> {
  const machine = new Machine(
    machineConfig({
      kernel,
      vendor: 'intel',
      paging: use === 'tdp' ? 'ept' : 'shadow',
      features: ['nx', 'lm', 'smep', 'smap', 'pku', 'la57', 'pse', 'pae'],
    }),
  );
  const vcpu = machine.addVcpu();
  machine.setRegs(vcpu, {
    cr0: 0x21n | bit(r.pg, 31) | bit(r.wp, 16),
    cr4: bit(r.pse, 4) | bit(r.pae, 5) | bit(r.la57, 12) | bit(r.smep, 20) | bit(r.smap, 21) | bit(r.pke, 22),
    efer: bit(r.lme, 8) | bit(r.lma, 10) | bit(r.nx, 11),
  });
  const ad = machine.spte.kvm_ad_enabled;
  const level = use === 'tdp' ? Number(vcpu.root_mmu.root_role & 15) : 4;
  const inputs: Inputs = {
    'CR0.PG': Number(r.pg),
    'CR0.WP': Number(r.wp),
    'CR4.PAE': Number(r.pae),
    'CR4.PSE': Number(r.pse),
    'CR4.LA57': Number(r.la57),
    'CR4.SMEP': Number(r.smep),
    'CR4.SMAP': Number(r.smap),
    'CR4.PKE': Number(r.pke),
    'EFER.LMA': Number(r.lma),
    'EFER.NX': Number(r.nx),
    is_smm: 0,
    is_guest_mode: 0,
    ad_enabled: Number(ad),
    tdp_level: level,
    tdp_has_smep: 0,
  };
  const model = new Map(roleWords(vcpu, vcpu.root_mmu, kernel).map((w) => [w.name, w.decoded.value]));
  return Object.fromEntries(
    columnsOf(kernel, use as MmuUse).map((column) => {
      const formula = deriveWord(column, inputs);
      const value = model.get(column.name);
      const text = (v: bigint | undefined) => (v === undefined ? 'unknown' : wordText(column, v));
      return [column.name, `${text(formula)} ${formula === value ? '=' : `but the model has ${text(value)}`}`];
    }),
  );
}
describe('the formulas of the Role Decoder against the KVM model', () => {
  for (const kernel of ['v4.20', 'v5.14', 'v5.17', 'seed1', 'v5.19', 'v6.1', 'v6.14', 'v7.3']) {
    for (const use of ['tdp', 'shadow'] as const) {
      it(`${kernel} ${use}: cpu_role and root_role agree`, () => {
        fc.assert(
          fc.property(registers, (r) => {
            for (const [name, text] of Object.entries(words(kernel, use, r))) assert.match(text, /=$/, name);
          }),
          { numRuns: 60 },
        );
      });
    }
  }
});
