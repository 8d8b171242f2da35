/**
 * The words say where role bits come from by formulas; the KVM model computes roles as the kernel does. Written apart, they must agree
 * for every state of the registers, in every kernel and every MMU.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { is_guest_mode, type KvmMmu, type KvmVcpu } from '../src/kvm/kvm_host';
import { Machine, machineConfig } from '../src/kvm/machine';
import { enter_guest_mode } from '../src/kvm/nested';
import {
  kvm_init_mmu,
  kvm_init_shadow_ept_mmu,
  kvm_init_shadow_npt_mmu,
  kvm_mmu_get_tdp_level,
  tdp_has_smep,
} from '../src/kvm/mmu/calc_role';
import { mmu_role_word } from '../src/kvm/roles';
import { Interpreter } from '../src/scenario/interpreter';
import { parseScenario } from '../src/scenario/parse';
import { roleInputs, roleWords } from '../src/targets/simulator/mmus';
import type { Inputs } from '../src/words/formula';
import { KERNEL_ERAS, RELEASES } from '../src/words/kernels';
import { deriveWord, mmuUseOf, originsOf, type MmuUse } from '../src/words/role-origins';
import { mmuWords } from '../src/words/roles';
import { decodeWord } from '../src/words/word';

/** Stable releases on either side of a backport that changed roles. */
const STABLE = ['v5.10.1', 'v5.10.48', 'v5.12.14', 'v5.13.0', 'v5.15.0', 'v6.1.100', 'v6.6.78', 'v6.6.79', 'v6.12.15'];

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

const REGISTER_INPUTS = (r: Registers): Inputs => ({
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
});

const controls = (r: Registers) => ({
  cr0: 0x21n | bit(r.pg, 31) | bit(r.wp, 16),
  cr4: bit(r.pse, 4) | bit(r.pae, 5) | bit(r.la57, 12) | bit(r.smep, 20) | bit(r.smap, 21) | bit(r.pke, 22),
  efer: bit(r.lme, 8) | bit(r.lma, 10) | bit(r.nx, 11),
});

/** A vCPU with these registers. */
function vcpuWith(kernel: string, paging: 'ept' | 'npt' | 'shadow', r: Registers): KvmVcpu {
  const machine = new Machine(
    machineConfig({
      kernel,
      vendor: paging === 'npt' ? 'amd' : 'intel',
      paging,
      features: ['nx', 'lm', 'smep', 'smap', 'pku', 'la57', 'pse', 'pae', 'pse36', 'gbpages'],
    }),
  );
  const vcpu = machine.addVcpu();
  machine.setRegs(vcpu, controls(r));
  return vcpu;
}

/** The inputs that do not come from registers. */
const others = (vcpu: KvmVcpu): Inputs => ({
  is_smm: 0,
  is_guest_mode: is_guest_mode(vcpu) ? 1 : 0,
  ad_enabled: Number(vcpu.kvm.machine.spte.kvm_ad_enabled),
  tdp_level: kvm_mmu_get_tdp_level(vcpu),
  l1_mbec: 0,
  tdp_has_smep: Number(tdp_has_smep(vcpu.kvm.machine)),
  maxphyaddr: vcpu.maxphyaddr,
});

/** Word by word what the formulas and the model say, equal or not. */
function compare(kernel: string, use: MmuUse, vcpu: KvmVcpu, mmu: KvmMmu, inputs: Inputs): Record<string, string> {
  return Object.fromEntries(
    mmuWords(kernel).words.map(({ name, layout }) => {
      const formula = deriveWord({ layout, origins: originsOf(kernel, name, use) }, inputs);
      const model = mmu_role_word(vcpu.kvm.machine.roles, mmu, name);
      const text = (v: bigint | undefined) =>
        v === undefined ? 'unknown' : `0x${v.toString(16)} ${decodeWord(layout, v).summary}`;
      return [name, formula === model ? '=' : `${text(formula)}, but the model has ${text(model)}`];
    }),
  );
}

const agree = (compared: Record<string, string>) =>
  assert.deepEqual(compared, Object.fromEntries(Object.keys(compared).map((name) => [name, '='])));

/** One release of every form of role, and the patch sets. */
const KERNELS = [...new Set([...RELEASES, ...KERNEL_ERAS.map((e) => e.id), ...STABLE])];

describe('where role bits come from, against the KVM model', () => {
  for (const kernel of KERNELS) {
    const check = (use: MmuUse, property: (r: Registers, l1: Registers, ad: boolean) => Record<string, string>) =>
      it(`${kernel} ${use}`, () => {
        fc.assert(
          fc.property(registers, registers, fc.boolean(), (r, l1, ad) => agree(property(r, l1, ad))),
          { numRuns: 25 },
        );
      });

    for (const use of ['tdp', 'shadow'] as const) {
      check(use, (r) => {
        const vcpu = vcpuWith(kernel, use === 'tdp' ? 'ept' : 'shadow', r);
        return compare(kernel, use, vcpu, vcpu.root_mmu, { ...REGISTER_INPUTS(r), ...others(vcpu) });
      });
    }

    check('shadow-npt', (_, any) => {
      // VMRUN needs paging.
      const l1 = { ...any, pg: true, lma: any.lme, pae: any.pae || any.lme, la57: any.la57 && any.lme };
      const vcpu = vcpuWith(kernel, 'npt', l1);
      if (vcpu.kvm.machine.caps.nestedNptGuestMode) enter_guest_mode(vcpu);
      vcpu.mmu = vcpu.guest_mmu;
      kvm_init_shadow_npt_mmu(vcpu, vcpu.regs, 0n);
      return compare(kernel, 'shadow-npt', vcpu, vcpu.guest_mmu, { ...REGISTER_INPUTS(l1), ...others(vcpu) });
    });

    check('shadow-ept', (_, l1, ad) => {
      const vcpu = vcpuWith(kernel, 'ept', l1);
      enter_guest_mode(vcpu);
      vcpu.mmu = vcpu.guest_mmu;
      kvm_init_shadow_ept_mmu(vcpu, true, 3, ad, 0x1en | bit(ad, 6));
      const ept = { eptp_level: 4, eptp_ad: Number(ad), execonly: 1 };
      return compare(kernel, 'shadow-ept', vcpu, vcpu.guest_mmu, { ...REGISTER_INPUTS(l1), ...others(vcpu), ...ept });
    });

    check('walk', (l2, l1) => {
      const vcpu = vcpuWith(kernel, 'ept', l1);
      enter_guest_mode(vcpu);
      vcpu.mmu = vcpu.guest_mmu;
      vcpu.walk_mmu = vcpu.nested_mmu;
      Object.assign(vcpu.regs, controls(l2));
      kvm_init_mmu(vcpu);
      return compare(kernel, 'walk', vcpu, vcpu.nested_mmu, { ...REGISTER_INPUTS(l2), ...others(vcpu) });
    });
  }
});

describe('where role bits come from, as the Variables view says it', () => {
  for (const example of ['roles', 'nested', 'nested-vmx'])
    for (const kernel of ['v4.4', 'v4.20', 'v5.10', 'v5.14', 'seed1', 'v6.1', 'v7.3'])
      it(`holds after every statement of ${example}.mmu under ${kernel}`, () => {
        const text = readFileSync(new URL(`../examples/${example}.mmu`, import.meta.url), 'utf8');
        const lines = text.replace(/^( *kernel ).*$/m, `$1${kernel}`).split('\n');
        // What a kernel expects of itself is not the question here.
        const { program } = parseScenario(lines.filter((l) => !/^ *expect /.test(l)).join('\n'), example);
        assert.ok(program);
        const interpreter = new Interpreter(program);
        let known = 0;
        /** MMUs that were in use, and all origins of which could be computed */
        const used = new Set<string>();
        while (!interpreter.done) {
          const { statement } = interpreter.step();
          for (const vcpu of interpreter.machine.vcpus)
            for (const mmu of [vcpu.root_mmu, vcpu.guest_mmu, vcpu.nested_mmu]) {
              const { paging, vendor } = interpreter.machine.config;
              const use = mmuUseOf(mmu.name, paging, vendor);
              const words = roleWords(vcpu, mmu, kernel);
              const inUse = vcpu.mmu === mmu || vcpu.walk_mmu === mmu;
              if (inUse && !words.some((w) => Object.values(w.because).some((b) => b.includes('unknown'))))
                used.add(mmu.name);
              for (const { name, decoded, because } of words)
                for (const { field, value } of decoded.fields) {
                  if (because[field.name] === undefined) continue;
                  const origin = originsOf(kernel, name, use).get(field.name)?.evaluate(roleInputs(vcpu, mmu));
                  const place = `line ${statement.line}: ${mmu.name}.${name}.${field.name} ← ${because[field.name]}`;
                  if (origin === undefined) assert.match(because[field.name], /=unknown/, place);
                  // With EPT the guest may change CR0.WP without an exit (__kvm_mmu_refresh_passthrough_bits).
                  else if (because[field.name].includes('the role is older'))
                    assert.equal(interpreter.machine.caps.cr0WpGuestOwned && place.includes('CR0.WP'), true, place);
                  else assert.equal(Number(value), origin, place);
                  known++;
                }
            }
        }
        assert.ok(known > 0);
        // Shadow EPT of v4.20 .. v5.13 has registers that L1 had when it entered L2, which nobody remembers.
        const forgotten = example === 'nested-vmx' && ['v4.20', 'v5.10'].includes(kernel);
        if (example !== 'roles')
          assert.deepEqual([...used].sort(), [...(forgotten ? [] : ['guest_mmu']), 'nested_mmu', 'root_mmu']);
      });
});
