/**
 * Where each bit of each role word comes from, as formulas over the registers of the vCPU and what the MMU is for.
 *
 * Facts: arch/x86/kvm/mmu/mmu.c (mmu.c up to v5.5), functions kvm_calc_cpu_role, kvm_calc_tdp_mmu_root_page_role,
 * kvm_calc_shadow_mmu_root_page_role, kvm_calc_shadow_npt_root_page_role, kvm_calc_shadow_ept_root_page_role and their older
 * forms; init_kvm_tdp_mmu and kvm_init_shadow_mmu up to v4.19. Which form a kernel has is read off its layout's fields and words.
 */
import type { KernelSpec } from '../../src/words/kernels';
import { mmuWords, pageRoleLayout } from '../../src/words/roles';
import type { Formula } from './expression';
import { parseFormula } from './expression';

/** What an MMU does: the two root_mmu cases, the two guest_mmu cases, and nested_mmu, which only walks. */
export type MmuUse = 'tdp' | 'shadow' | 'shadow-npt' | 'shadow-ept' | 'walk';

/** For lists: what the user reads. */
export const MMU_USES: Readonly<Record<MmuUse, string>> = {
  tdp: 'TDP: EPT or NPT below the guest',
  shadow: 'shadow: KVM shadows the tables of CR3',
  'shadow-npt': 'nested: KVM shadows an NPT of L1',
  'shadow-ept': 'nested: KVM shadows an EPT of L1',
  walk: 'nested: walks the tables of L2 only',
};

/** A name in a formula, with what a reader has to know of it. */
export interface InputInfo {
  readonly name: string;
  readonly meaning: string;
  /** Legal values; without it the input is a bit. */
  readonly values?: readonly number[];
}

/** Everything that the formulas mention. */
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
  { name: 'tdp_has_smep', meaning: 'the TDP format tells user from supervisor execution (MBEC, GMET)' },
];

type Texts = Readonly<Record<string, string>>;

const USE_EXCEPT_WALK: Texts = { smm: 'is_smm', guest_mode: 'is_guest_mode' };

/** kvm_calc_cpu_role: nothing but smm, guest_mode, access, direct and valid while paging is off. */
function cpuRoleTexts(use: MmuUse): Texts {
  if (use === 'shadow-ept') return { ...shadowEptBase(), ...prefix('ext', { valid: '1', execonly: 'execonly' }) };
  const paged = (condition: string): string => `CR0.PG && ${condition}`;
  return {
    ...prefix('base', {
      level: 'CR0.PG ? (EFER.LMA ? (CR4.LA57 ? 5 : 4) : CR4.PAE ? 3 : 2) : 0',
      has_4_byte_gpte: paged('!CR4.PAE'),
      quadrant: '0',
      direct: '!CR0.PG',
      access: 'ACC_ALL',
      invalid: '0',
      efer_nx: paged('EFER.NX'),
      cr0_wp: paged('CR0.WP'),
      smep_andnot_wp: paged('CR4.SMEP && !CR0.WP'),
      smap_andnot_wp: paged('CR4.SMAP && !CR0.WP'),
      cr4_smep: paged('CR4.SMEP'),
      ad_disabled: '0',
      passthrough: '0',
      is_mirror: '0',
      ...USE_EXCEPT_WALK,
    }),
    ...prefix('ext', {
      valid: '1',
      execonly: '0',
      cr0_pg: 'CR0.PG',
      cr4_pae: paged('CR4.PAE'),
      cr4_pse: paged('CR4.PSE'),
      cr4_pke: paged('EFER.LMA && CR4.PKE'),
      cr4_smap: paged('CR4.SMAP'),
      cr4_smep: paged('CR4.SMEP'),
      cr4_la57: paged('EFER.LMA && CR4.LA57'),
      efer_lma: paged('EFER.LMA'),
      has_pferr_fetch: paged('(EFER.NX || CR4.SMEP)'),
    }),
  };
}

/** kvm_calc_shadow_ept_root_page_role: the role of guest_mmu follows the EPTP of L1, not the registers of L2. */
function shadowEptBase(): Texts {
  return prefix('base', {
    level: 'eptp_level',
    has_4_byte_gpte: '0',
    quadrant: '0',
    direct: '0',
    access: 'ACC_ALL',
    invalid: '0',
    efer_nx: '0',
    cr0_wp: '0',
    smep_andnot_wp: '0',
    smap_andnot_wp: '0',
    cr4_smep: 'tdp_has_smep',
    ad_disabled: '!eptp_ad',
    guest_mode: '1',
    passthrough: '0',
    is_mirror: '0',
    smm: 'is_smm',
  });
}

/** root_role from v5.19 on. */
function rootRoleTexts(use: MmuUse, cpuBase: Texts): Texts {
  switch (use) {
    case 'tdp':
      return {
        level: 'tdp_level',
        has_4_byte_gpte: '0',
        quadrant: '0',
        direct: '1',
        access: 'ACC_ALL',
        invalid: '0',
        efer_nx: '1',
        cr0_wp: '1',
        smep_andnot_wp: '0',
        smap_andnot_wp: '0',
        cr4_smep: 'tdp_has_smep',
        ad_disabled: '!ad_enabled',
        passthrough: '0',
        is_mirror: '0',
        ...USE_EXCEPT_WALK,
      };
    case 'shadow':
      return { ...cpuBase, level: `max(${cpuBase['level'] ?? '0'}, 3)`, efer_nx: '1' };
    case 'shadow-npt': {
      const level = cpuBase['level'] ?? '0';
      return { ...cpuBase, level: 'tdp_level', passthrough: `tdp_level = 5 && (${level}) = 4` };
    }
    case 'shadow-ept':
      return cpuBase;
    case 'walk':
      return {};
  }
}

/**
 * mmu_role, v4.20 .. v5.18: one 64-bit word (kvm_calc_mmu_role_common, kvm_calc_mmu_role_ext and their callers).
 * @param pagedOnly from v5.14 on the registers count only while paging is on, PKE and LA57 only in long mode
 * @param tdpFollowsSmep from v5.17 on TDP roots carry the guest's smep_andnot_wp and smap_andnot_wp, as they do NX and WP
 */
function mmuRoleTexts(use: MmuUse, pagedOnly: boolean, tdpFollowsSmep: boolean): Texts {
  const paged = (condition: string): string => (pagedOnly ? `CR0.PG && ${condition}` : condition);
  const longMode = (condition: string): string => (pagedOnly ? `CR0.PG && EFER.LMA && ${condition}` : condition);
  const ext: Texts = {
    valid: '1',
    execonly: use === 'shadow-ept' ? 'execonly' : '0',
    cr0_pg: 'CR0.PG',
    cr4_pae: paged('CR4.PAE'),
    cr4_pse: paged('CR4.PSE'),
    cr4_pke: longMode('CR4.PKE'),
    cr4_smap: paged('CR4.SMAP'),
    cr4_smep: paged('CR4.SMEP'),
    cr4_la57: longMode('CR4.LA57'),
    efer_lma: paged('EFER.LMA'),
  };
  const common: Texts = {
    quadrant: '0',
    access: 'ACC_ALL',
    invalid: '0',
    spp: '0',
    nxe: paged('EFER.NX'),
    efer_nx: paged('EFER.NX'),
    cr0_wp: paged('CR0.WP'),
    ...USE_EXCEPT_WALK,
  };
  /** The bit has three names and two polarities; direct and EPT roots say 8 bytes whatever the guest has. */
  const gpteSize = (eightBytes: boolean): Texts => ({
    cr4_pae: eightBytes ? '1' : paged('CR4.PAE'),
    gpte_is_8_bytes: eightBytes ? '1' : paged('CR4.PAE'),
    has_4_byte_gpte: eightBytes ? '0' : paged('!CR4.PAE'),
  });
  const notWp: Texts = {
    smep_andnot_wp: paged('CR4.SMEP && !CR0.WP'),
    smap_andnot_wp: paged('CR4.SMAP && !CR0.WP'),
  };
  const guestLevel = 'EFER.LMA ? (CR4.LA57 ? 5 : 4)';
  const base: Texts = {
    tdp: {
      ...common,
      level: 'tdp_level',
      direct: '1',
      ad_disabled: '!ad_enabled',
      ...(tdpFollowsSmep ? notWp : { smep_andnot_wp: '0', smap_andnot_wp: '0' }),
      ...gpteSize(true),
      // v4.20 sets it for shadow paging only.
      cr4_pae: '0',
    },
    shadow: {
      ...common,
      ...notWp,
      level: `${guestLevel} : 3`,
      direct: '!CR0.PG',
      ad_disabled: '0',
      ...gpteSize(false),
    },
    'shadow-npt': { ...common, ...notWp, level: 'tdp_level', direct: '0', ad_disabled: '0', ...gpteSize(false) },
    'shadow-ept': {
      ...common,
      level: 'eptp_level',
      direct: '0',
      ad_disabled: '!eptp_ad',
      guest_mode: '1',
      nxe: '0',
      efer_nx: '0',
      cr0_wp: '1',
      smep_andnot_wp: '0',
      smap_andnot_wp: '1',
      ...gpteSize(true),
    },
    walk: {
      ...common,
      ...notWp,
      level: `CR0.PG ? (${guestLevel} : CR4.PAE ? 3 : 2) : 0`,
      direct: '1',
      ad_disabled: '0',
      ...gpteSize(false),
    },
  }[use];
  return { ...prefix('base', base), ...prefix('ext', ext) };
}

/** base_role up to v4.19. Level, direct and access have no formula: they are filled in when a page is looked up. */
function baseRoleTexts(use: MmuUse): Texts {
  const zero = { quadrant: '0', pad_for_nice_hex_output: '0', invalid: '0', spp: '0' };
  if (use === 'tdp') {
    const none = { cr4_pae: '0', nxe: '0', cr0_wp: '0', smep_andnot_wp: '0', smap_andnot_wp: '0' };
    return { ...zero, ...none, ad_disabled: '!ad_enabled', ...USE_EXCEPT_WALK };
  }
  if (use === 'shadow' || use === 'shadow-npt') {
    return {
      ...zero,
      cr4_pae: 'CR4.PAE',
      nxe: 'EFER.NX',
      cr0_wp: 'CR0.WP',
      smep_andnot_wp: 'CR4.SMEP && !CR0.WP',
      smap_andnot_wp: 'CR4.SMAP && !CR0.WP',
      ad_disabled: '0',
      ...USE_EXCEPT_WALK,
    };
  }
  return {};
}

function prefix(name: string, texts: Texts): Texts {
  return Object.fromEntries(Object.entries(texts).map(([key, text]) => [`${name}.${key}`, text]));
}

function ofBase(texts: Texts): Texts {
  return Object.fromEntries(
    Object.entries(texts).flatMap(([key, text]) => (key.startsWith('base.') ? [[key.slice(5), text]] : [])),
  );
}

/**
 * Formulas for the fields of one role word, by the field names of its layout (`base.level` and `ext.valid` in 64-bit words). Fields
 * without an entry have no known origin: for them the views show none.
 * @throws WordError for a name that is no known kernel.
 */
export function originsOf(kernel: KernelSpec, word: string, use: MmuUse): ReadonlyMap<string, Formula> {
  const info = mmuWords(kernel);
  const layout = info.words.find((w) => w.name === word)?.layout;
  if (layout === undefined) return new Map();
  const has = (field: string): boolean => layout.fields.some((f) => f.name === field);
  let texts: Texts;
  if (word === 'base_role') texts = baseRoleTexts(use);
  else if (word === 'cpu_role') texts = cpuRoleTexts(use);
  else if (word === 'root_role') texts = rootRoleTexts(use, ofBase(cpuRoleTexts(use)));
  // maxphyaddr left the extended role in the release that made it depend on CR0.PG (v5.14); v4.20 did not have it yet.
  else texts = mmuRoleTexts(use, has('ext.cr4_pae') && !has('ext.maxphyaddr'), has('base.has_4_byte_gpte'));

  const accessWidth = pageRoleLayout(kernel).fields.find((f) => f.name === 'access')?.width ?? 3;
  const all = String(2 ** accessWidth - 1);
  return new Map(
    layout.fields.flatMap(({ name }): [string, Formula][] => {
      const text = texts[name];
      return text === undefined ? [] : [[name, parseFormula(text.replace('ACC_ALL', all))]];
    }),
  );
}
