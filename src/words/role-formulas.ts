/**
 * The formulas that compute roles, one function for each kind of role word.
 *
 * Facts: kvm_calc_cpu_role, kvm_calc_tdp_mmu_root_page_role, kvm_calc_shadow_mmu_root_page_role, kvm_calc_shadow_npt_root_page_role,
 * kvm_calc_shadow_ept_root_page_role, kvm_calc_nested_mmu_role and their older forms; init_kvm_tdp_mmu, kvm_init_shadow_mmu and
 * kvm_init_shadow_ept_mmu up to v4.19. `ACC_ALL` stands for every bit of access.
 */

/** What an MMU does: the two root_mmu cases, the two guest_mmu cases, and nested_mmu, which only walks. */
export type MmuUse = 'tdp' | 'shadow' | 'shadow-npt' | 'shadow-ept' | 'walk';

/** Field name to formula. */
export type Texts = Readonly<Record<string, string>>;

/** Which form of the functions a kernel has. */
export interface RoleForm {
  /** With CR0.PG = 0 the registers do not count, and without long mode neither do PKE and LA57 (v5.14+). */
  readonly pagedOnly: boolean;
  /** TDP roots carry the guest's smep_andnot_wp and smap_andnot_wp, as they do NX and WP (v5.17, v5.18). */
  readonly tdpFollowsSmep: boolean;
  /** The base word has cr4_pae, and so has the role of every MMU (up to v5.0). */
  readonly commonHasPae: boolean;
  /**
   * Shadow EPT: up to v5.0 a copy of root_mmu's role with some fields replaced, then a word of its own marked by an impossible pair,
   * from v5.14 on without the mark and without registers.
   */
  readonly shadowEpt: 'inherited' | 'marked' | 'plain';
  /** mmu_role of nested_mmu: the common part, or all that a walk goes by. Seed 1 has cpu_role for that. */
  readonly nestedRole: 'none' | 'common' | 'full';
  /** Roles of shadow NPT have guest_mode. */
  readonly nptGuestMode: boolean;
  /** Which registers shadow NPT goes by: those of L1, L1's with CR0 = PG and no PKE, or with CR0 = PG|WP and neither SMEP nor SMAP. */
  readonly nptRegisters: 'as-they-are' | 'pg' | 'pg-wp';
  /** Shadow EPT copies smm. */
  readonly eptHasSmm: boolean;
}

const NO_REGISTERS: Texts = {
  nxe: '0',
  efer_nx: '0',
  cr0_wp: '0',
  smep_andnot_wp: '0',
  smap_andnot_wp: '0',
};
/** In no role of an MMU, only in those of some pages. */
const PAGES_ONLY: Texts = {
  quadrant: '0',
  invalid: '0',
  spp: '0',
  pad_for_nice_hex_output: '0',
  passthrough: '0',
  is_mirror: '0',
};
const MODES: Texts = { smm: 'is_smm', guest_mode: 'is_guest_mode' };

const LONG_LEVEL = 'EFER.LMA ? (CR4.LA57 ? 5 : 4)';

/** The registers of a role as formulas. */
interface Registers {
  readonly paging: string;
  readonly nx: string;
  readonly wp: string;
  readonly smep: string;
  readonly smap: string;
  readonly smepAndnotWp: string;
  readonly smapAndnotWp: string;
  readonly pae: string;
  readonly notPae: string;
  readonly pse: string;
  readonly pke: string;
  readonly la57: string;
  readonly lma: string;
  /** levels of the guest's tables */
  readonly level: string;
}

/** @param paged whether they count only while paging is on */
function registers(paged: boolean): Registers {
  const on = (condition: string): string => (paged ? `CR0.PG && ${condition}` : condition);
  const long = (condition: string): string => (paged ? `CR0.PG && EFER.LMA && ${condition}` : condition);
  return {
    paging: 'CR0.PG',
    nx: on('EFER.NX'),
    wp: on('CR0.WP'),
    smep: on('CR4.SMEP'),
    smap: on('CR4.SMAP'),
    smepAndnotWp: on('CR4.SMEP && !CR0.WP'),
    smapAndnotWp: on('CR4.SMAP && !CR0.WP'),
    pae: on('CR4.PAE'),
    notPae: on('!CR4.PAE'),
    pse: on('CR4.PSE'),
    pke: long('CR4.PKE'),
    la57: long('CR4.LA57'),
    lma: on('EFER.LMA'),
    level: `CR0.PG ? (${LONG_LEVEL} : CR4.PAE ? 3 : 2) : 0`,
  };
}

/** kvm_init_shadow_npt_mmu() from v5.14 on: L1 has paging on, and some bits mean nothing to its NPT. */
function nptRegisters(form: RoleForm): Registers {
  if (form.nptRegisters === 'as-they-are') return registers(false);
  const wp = form.nptRegisters === 'pg-wp';
  return {
    paging: '1',
    nx: 'EFER.NX',
    wp: wp ? '1' : '0',
    smep: wp ? 'tdp_has_smep' : 'CR4.SMEP',
    smap: wp ? '0' : 'CR4.SMAP',
    smepAndnotWp: wp ? '0' : 'CR4.SMEP',
    smapAndnotWp: wp ? '0' : 'CR4.SMAP',
    pae: 'CR4.PAE',
    notPae: '!CR4.PAE',
    pse: 'CR4.PSE',
    pke: '0',
    la57: 'EFER.LMA && CR4.LA57',
    lma: 'EFER.LMA',
    level: `${LONG_LEVEL} : CR4.PAE ? 3 : 2`,
  };
}

const not = (text: string): string => (text === '0' ? '1' : text === '1' ? '0' : `!${text}`);

/** The extended role of registers (kvm_calc_mmu_role_ext, and the ext half of kvm_calc_cpu_role). */
function extTexts(r: Registers, execonly = '0'): Texts {
  return {
    valid: '1',
    execonly,
    cr0_pg: r.paging,
    cr4_pae: r.pae,
    cr4_pse: r.pse,
    cr4_pke: r.pke,
    cr4_smap: r.smap,
    cr4_smep: r.smep,
    cr4_la57: r.la57,
    efer_lma: r.lma,
    maxphyaddr: 'maxphyaddr',
    has_pferr_fetch: r.paging === '1' ? `EFER.NX || ${r.smep}` : 'CR0.PG && (EFER.NX || CR4.SMEP)',
  };
}

/** Nothing but what the EPTP says: what shadow EPT keeps in ext from v5.14 on. */
const EPT_EXT: Texts = {
  ...zero('cr0_pg cr4_pae cr4_pse cr4_pke cr4_smap cr4_smep cr4_la57 efer_lma has_pferr_fetch'),
  valid: '1',
  execonly: 'execonly',
};

function zero(names: string): Texts {
  return Object.fromEntries(names.split(' ').map((name) => [name, '0']));
}

/** cpu_role (seed 1, v5.19+): kvm_calc_cpu_role(). Nothing but smm, guest_mode, access, direct and valid while paging is off. */
export function cpuRoleTexts(use: MmuUse, form: RoleForm): Texts {
  if (use === 'shadow-ept') return { ...prefix('base', shadowEptBase(form)), ...prefix('ext', EPT_EXT) };
  const r = use === 'shadow-npt' ? nptRegisters(form) : registers(true);
  return { ...prefix('base', cpuRoleBase(use, form, r)), ...prefix('ext', extTexts(r)) };
}

function cpuRoleBase(use: MmuUse, form: RoleForm, r: Registers): Texts {
  return {
    ...PAGES_ONLY,
    ...MODES,
    ...(use === 'shadow-npt' ? { guest_mode: form.nptGuestMode ? '1' : '0' } : {}),
    level: r.level,
    has_4_byte_gpte: r.notPae,
    direct: not(r.paging),
    access: 'ACC_ALL',
    efer_nx: r.nx,
    cr0_wp: r.wp,
    smep_andnot_wp: r.smepAndnotWp,
    smap_andnot_wp: r.smapAndnotWp,
    cr4_smep: r.smep,
    ad_disabled: '0',
  };
}

/** kvm_calc_shadow_ept_root_page_role() from v5.14 on: the role of guest_mmu follows the EPTP of L1 and no registers. */
function shadowEptBase(form: RoleForm): Texts {
  return {
    ...PAGES_ONLY,
    ...NO_REGISTERS,
    level: 'eptp_level',
    gpte_is_8_bytes: '1',
    has_4_byte_gpte: '0',
    direct: '0',
    access: 'ACC_ALL',
    cr4_smep: 'l1_mbec',
    ad_disabled: '!eptp_ad',
    guest_mode: '1',
    smm: form.eptHasSmm ? 'is_smm' : '0',
  };
}

/** root_role (v5.19+). */
export function rootRoleTexts(use: MmuUse, form: RoleForm): Texts {
  switch (use) {
    case 'tdp':
      return {
        ...PAGES_ONLY,
        ...MODES,
        level: 'tdp_level',
        has_4_byte_gpte: '0',
        direct: '1',
        access: 'ACC_ALL',
        efer_nx: '1',
        cr0_wp: '1',
        smep_andnot_wp: '0',
        smap_andnot_wp: '0',
        cr4_smep: 'tdp_has_smep',
        ad_disabled: '!ad_enabled',
      };
    case 'shadow': {
      const base = cpuRoleBase(use, form, registers(true));
      return { ...base, level: `max(${registers(true).level}, 3)`, efer_nx: '1' };
    }
    case 'shadow-npt': {
      const r = nptRegisters(form);
      const base = cpuRoleBase(use, form, r);
      return { ...base, level: 'tdp_level', passthrough: `tdp_level = 5 && (${r.level}) = 4` };
    }
    case 'shadow-ept':
      return shadowEptBase(form);
    case 'walk':
      return NO_ROLE;
  }
}

/** nested_mmu has no shadow pages, so no role for them. */
const NO_ROLE: Texts = {
  ...PAGES_ONLY,
  ...NO_REGISTERS,
  ...zero('level cr4_pae has_4_byte_gpte gpte_is_8_bytes direct access cr4_smep ad_disabled guest_mode smm'),
};

/** mmu_role, v4.20 .. v5.18: one 64-bit word (kvm_calc_mmu_role_common, kvm_calc_mmu_role_ext and their callers). */
export function mmuRoleTexts(use: MmuUse, form: RoleForm): Texts {
  const r = use === 'shadow-npt' ? nptRegisters(form) : registers(form.pagedOnly);
  const ext =
    use === 'shadow-ept'
      ? form.shadowEpt === 'plain'
        ? EPT_EXT
        : extTexts(r, 'execonly')
      : use === 'walk' && form.nestedRole === 'none'
        ? { ...EPT_EXT, valid: '0', execonly: '0' }
        : extTexts(r);
  return { ...prefix('base', mmuRoleBase(use, form, r)), ...prefix('ext', ext) };
}

function mmuRoleBase(use: MmuUse, form: RoleForm, r: Registers): Texts {
  const smepAndnotWp: Texts = { smep_andnot_wp: r.smepAndnotWp, smap_andnot_wp: r.smapAndnotWp };
  const common: Texts = {
    ...PAGES_ONLY,
    ...MODES,
    access: 'ACC_ALL',
    nxe: r.nx,
    efer_nx: r.nx,
    cr0_wp: r.wp,
    smep_andnot_wp: '0',
    smap_andnot_wp: '0',
    ...(form.tdpFollowsSmep ? smepAndnotWp : {}),
    // Three names and two polarities; only cr4_pae is of the common part, the others are 0 where nobody sets them.
    cr4_pae: r.pae,
    gpte_is_8_bytes: '0',
    has_4_byte_gpte: '0',
    level: '0',
    direct: '0',
    ad_disabled: '0',
  };
  const shadow: Texts = { ...common, ...smepAndnotWp, gpte_is_8_bytes: r.pae, has_4_byte_gpte: r.notPae };
  switch (use) {
    case 'tdp':
      return { ...common, level: 'tdp_level', direct: '1', ad_disabled: '!ad_enabled', gpte_is_8_bytes: '1' };
    case 'shadow':
      return { ...shadow, level: `${LONG_LEVEL} : 3`, direct: '!CR0.PG' };
    case 'shadow-npt':
      return { ...shadow, level: 'tdp_level', guest_mode: form.nptGuestMode ? '1' : '0' };
    case 'shadow-ept':
      if (form.shadowEpt === 'plain') return shadowEptBase(form);
      if (form.shadowEpt === 'marked') return { ...shadowEptBase(form), cr0_wp: '1', smap_andnot_wp: '1' };
      return { ...common, level: 'eptp_level', ad_disabled: '!eptp_ad', guest_mode: '1' };
    case 'walk':
      if (form.nestedRole === 'none') return NO_ROLE;
      if (form.nestedRole === 'common') return common;
      return { ...shadow, level: r.level, direct: '1' };
  }
}

/**
 * base_role, up to v4.19: what of a page's role is the same for all pages of the MMU. level, direct and access are no part of it, they
 * are filled in when a page is looked up (kvm_mmu_get_page).
 */
export function baseRoleTexts(use: MmuUse, form: RoleForm): Texts {
  const modes: Texts = { ...NO_ROLE, ...MODES };
  switch (use) {
    case 'tdp':
      return { ...modes, ad_disabled: '!ad_enabled' };
    case 'shadow':
    case 'shadow-npt': {
      const r = registers(false);
      return {
        ...modes,
        cr4_pae: r.pae,
        nxe: r.nx,
        cr0_wp: r.wp,
        smep_andnot_wp: r.smepAndnotWp,
        smap_andnot_wp: r.smapAndnotWp,
        ...(use === 'shadow-npt' ? { guest_mode: form.nptGuestMode ? '1' : '0' } : {}),
      };
    }
    // As it was for L1 under TDP; v4.19 replaces these two.
    case 'shadow-ept':
      return { ...modes, ad_disabled: '!eptp_ad', guest_mode: '1' };
    case 'walk':
      return NO_ROLE;
  }
}

function prefix(name: string, texts: Texts): Texts {
  return Object.fromEntries(Object.entries(texts).map(([key, text]) => [`${name}.${key}`, text]));
}
