/**
 * Where each bit of each role word comes from, as formulas over the registers of the vCPU and what the MMU is for: which word and
 * which form of the functions a kernel has. The formulas themselves are in role-formulas.ts.
 *
 * Facts: arch/x86/kvm/mmu/mmu.c (mmu.c up to v5.5) as far as it was read: v4.19, v5.10, v5.14, v5.15, the patches between, v6.1 and
 * v7.3; reference of the roles in role-tables.ts. Boundaries that were not read are said where they are written.
 */
import type { Formula, Inputs } from './formula';
import { parseFormula } from './formula';
import type { KernelRange, KernelSpec, KernelVersion } from './kernels';
import { inRange, toKernel } from './kernels';
import type { MmuUse, RoleForm, Texts } from './role-formulas';
import { baseRoleTexts, cpuRoleTexts, mmuRoleTexts, rootRoleTexts } from './role-formulas';
import { mmuWords, pageRoleLayout } from './roles';
import type { WordLayout } from './word';
import { knownMask } from './word';

export type { MmuUse } from './role-formulas';

/** For lists: what the user reads. */
export const MMU_USES: Readonly<Record<MmuUse, string>> = {
  tdp: 'TDP: EPT or NPT below the guest',
  shadow: 'shadow: KVM shadows the tables of CR3',
  'shadow-npt': 'nested: KVM shadows an NPT of L1',
  'shadow-ept': 'nested: KVM shadows an EPT of L1',
  walk: 'nested: walks the tables of L2 only',
};

/** What an MMU of struct kvm_vcpu_arch is for, by its name there. Paging and vendor that are not known count as EPT. */
export function mmuUseOf(mmu: string, paging: string | null | undefined, vendor: string | null | undefined): MmuUse {
  if (mmu === 'nested_mmu') return 'walk';
  if (mmu === 'guest_mmu') return vendor === 'amd' ? 'shadow-npt' : 'shadow-ept';
  return paging === 'shadow' ? 'shadow' : 'tdp';
}

/** A name in a formula, with what a reader has to know of it. */
export interface InputInfo {
  readonly name: string;
  readonly meaning: string;
  /** Legal values; without it the input is a bit. */
  readonly values?: readonly number[];
}

/**
 * Everything that the formulas mention. The registers are those of the vCPU when the role was computed: of L2 for nested_mmu, of L1
 * for guest_mmu.
 */
export const INPUTS: readonly InputInfo[] = [
  { name: 'CR0.PG', meaning: 'paging is on' },
  { name: 'CR0.WP', meaning: 'the supervisor obeys read-only pages' },
  { name: 'CR4.PAE', meaning: 'guest entries are 8 bytes' },
  { name: 'CR4.PSE', meaning: '4 MB pages in 32-bit tables' },
  { name: 'CR4.LA57', meaning: '5-level paging' },
  { name: 'CR4.SMEP', meaning: 'the supervisor may not fetch from user pages' },
  { name: 'CR4.SMAP', meaning: 'the supervisor may not touch user pages' },
  { name: 'CR4.PKE', meaning: 'protection keys for user pages' },
  { name: 'EFER.LMA', meaning: 'long mode is active' },
  { name: 'EFER.NX', meaning: 'bit 63 of an entry forbids execution (EFER.NXE)' },
  { name: 'is_smm', meaning: 'the vCPU is in system management mode (HF_SMM_MASK)' },
  { name: 'is_guest_mode', meaning: 'the vCPU runs L2 (HF_GUEST_MASK)' },
  { name: 'ad_enabled', meaning: 'sptes use hardware accessed and dirty bits (kvm_ad_enabled)' },
  { name: 'tdp_level', meaning: 'levels of EPT or NPT (kvm_mmu_get_tdp_level)', values: [3, 4, 5] },
  { name: 'eptp_level', meaning: "levels of L1's EPT, from its EPTP", values: [4, 5] },
  { name: 'eptp_ad', meaning: "L1's EPT uses accessed and dirty bits (EPTP bit 6)" },
  { name: 'execonly', meaning: 'L1 may use execute-only EPT entries' },
  { name: 'l1_mbec', meaning: 'L1 has mode-based execute control on for L2' },
  { name: 'tdp_has_smep', meaning: 'the TDP format tells user from supervisor execution (MBEC, GMET)' },
  {
    name: 'maxphyaddr',
    meaning: 'guest MAXPHYADDR (CPUID.80000008H:EAX[7:0])',
    values: [32, 36, 39, 40, 42, 44, 45, 46, 48, 52],
  },
];

const within = (kernel: KernelVersion, ...ranges: KernelRange[]): boolean => ranges.some((r) => inRange(kernel, r));

/** Which form of the functions a kernel has, read off its layout where that tells and off its release where not. */
function formOf(kernel: KernelVersion, layout: WordLayout): RoleForm {
  const has = (field: string): boolean => layout.fields.some((f) => f.name === field || f.name === `base.${field}`);
  const to = 'v7.3';
  const pagedOnly = within(kernel, { from: 'v5.14', to });
  return {
    pagedOnly,
    // v5.17: kvm_calc_mmu_role_common() took over smep_andnot_wp and smap_andnot_wp.
    tdpFollowsSmep: has('has_4_byte_gpte'),
    commonHasPae: has('cr4_pae'),
    shadowEpt: pagedOnly ? 'plain' : within(kernel, { from: 'v5.1', to }) ? 'marked' : 'inherited',
    // kvm_calc_nested_mmu_role(): v5.14, and taken to have come to stable releases together with cr4_la57.
    nestedRole:
      kernel.patchSet === 'seed1'
        ? 'none'
        : pagedOnly ||
            within(
              kernel,
              { from: 'v5.10.48', to: 'v5.10' },
              { from: 'v5.12.15', to: 'v5.12' },
              { from: 'v5.13.1', to: 'v5.13' },
            )
          ? 'full'
          : 'common',
    // The vCPU enters guest mode before or after nested_svm_init_mmu_context().
    nptGuestMode: within(
      kernel,
      { from: 'v6.1.129', to: 'v6.1' },
      { from: 'v6.6.79', to: 'v6.6' },
      { from: 'v6.12.16', to: 'v6.12' },
      { from: 'v6.14', to },
    ),
    // Shadow NPT: from v5.14 on a made-up CR0 and what of L1's CR4 means something to an NPT.
    nptRegisters: within(kernel, { from: 'v7.2', to }) ? 'pg-wp' : pagedOnly ? 'pg' : 'as-they-are',
    // v5.18: shadow EPT does not copy smm any more, it is 0 (KVM has no SMM transfer monitor).
    eptHasSmm: !within(kernel, { from: 'v5.18', to }),
  };
}

/**
 * Formulas for the fields of one role word, by the field names of its layout (`base.level` and `ext.valid` in 64-bit words). Empty for
 * a word that the kernel does not have.
 * @throws WordError for a name that is no known kernel.
 */
export function originsOf(kernel: KernelSpec, word: string, use: MmuUse): ReadonlyMap<string, Formula> {
  const version = toKernel(kernel);
  const key = `${version.name} ${word} ${use}`;
  let origins = known.get(key);
  if (origins === undefined) known.set(key, (origins = derive(version, word, use)));
  return origins;
}

const known = new Map<string, ReadonlyMap<string, Formula>>();

function derive(version: KernelVersion, word: string, use: MmuUse): ReadonlyMap<string, Formula> {
  const layout = mmuWords(version).words.find((w) => w.name === word)?.layout;
  if (layout === undefined) return new Map();
  const form = formOf(version, layout);
  let texts: Texts;
  if (word === 'base_role') texts = baseRoleTexts(use, form);
  else if (word === 'cpu_role') texts = cpuRoleTexts(use, form);
  else if (word === 'root_role') texts = rootRoleTexts(use, form);
  else texts = mmuRoleTexts(use, form);

  const accessWidth = pageRoleLayout(version).fields.find((f) => f.name === 'access')?.width ?? 3;
  const all = String(2 ** accessWidth - 1);
  return new Map(
    layout.fields.flatMap(({ name }): [string, Formula][] => {
      const text = texts[name];
      return text === undefined ? [] : [[name, parseFormula(text.replace('ACC_ALL', all))]];
    }),
  );
}

/**
 * The word that the formulas give. Fields without a formula, or with one that needs an unknown input, keep what they are in
 * `otherwise`, and so do set bits of no field; undefined if that is unknown too.
 */
export function deriveWord(
  word: { readonly layout: WordLayout; readonly origins: ReadonlyMap<string, Formula> },
  inputs: Inputs,
  otherwise?: bigint,
): bigint | undefined {
  let value = otherwise === undefined ? 0n : otherwise & ~knownMask(word.layout);
  for (const { name, lsb, width } of word.layout.fields) {
    const field = word.origins.get(name)?.evaluate(inputs);
    if (field !== undefined) value |= BigInt(field) << BigInt(lsb);
    else if (otherwise !== undefined) value |= otherwise & (((1n << BigInt(width)) - 1n) << BigInt(lsb));
    else return undefined;
  }
  return value;
}

/** A formula that is a number does not depend on anything. */
export function isConstant(formula: Formula): boolean {
  return formula.names.length === 0;
}

/**
 * A formula in one line, with what the names in it are now: `CR4.SMEP && !CR0.WP (CR4.SMEP=1 CR0.WP=unknown)`; `CR0.WP=1` when it is
 * no more than a name, `always 1` when it depends on nothing.
 */
export function originText(formula: Formula, inputs: Inputs): string {
  if (isConstant(formula)) return `always ${formula.text}`;
  const values = formula.names.map((name) => `${name}=${inputs[name] ?? 'unknown'}`).join(' ');
  return formula.names[0] === formula.text ? values : `${formula.text} (${values})`;
}
