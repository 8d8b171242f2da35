/**
 * arch/x86/kvm/mmu/mmu.c: what the role words are computed from, and when a context is rebuilt.
 * Facts: reference kvm-mmu-model.md chapter 5; seed 1 (cpu_role split from mmu_role).
 */
import { emit, enter, leave } from '../observer';
import type { Machine } from '../machine';
import { is_guest_mode, is_smm, mmu_is_nested, type KvmMmu, type KvmVcpu } from '../kvm_host';
import { role_get, role_put, type RoleField } from '../roles';
import {
  __reset_rsvds_bits_mask_ept,
  reserved_gpa_bits,
  reset_ept_shadow_zero_bits_mask,
  reset_guest_paging_metadata,
  reset_shadow_zero_bits_mask,
  reset_tdp_shadow_zero_bits_mask,
  update_permission_bitmask,
} from './metadata';
import { kvm_mmu_new_pgd, kvm_mmu_unload } from './roots';

export const CR0_PG = 1n << 31n;
export const CR0_WP = 1n << 16n;
export const CR0_PE = 1n;
export const CR4_PSE = 1n << 4n;
export const CR4_PAE = 1n << 5n;
export const CR4_PGE = 1n << 7n;
export const CR4_LA57 = 1n << 12n;
export const CR4_PCIDE = 1n << 17n;
export const CR4_SMEP = 1n << 20n;
export const CR4_SMAP = 1n << 21n;
export const CR4_PKE = 1n << 22n;
export const EFER_LME = 1n << 8n;
export const EFER_LMA = 1n << 10n;
export const EFER_NX = 1n << 11n;

/** struct kvm_mmu_role_regs: the registers that a role is computed from. */
export interface KvmMmuRoleRegs {
  cr0: bigint;
  cr4: bigint;
  efer: bigint;
}

/** vcpu_to_role_regs(): only the bits that matter (KVM_MMU_CR0_ROLE_BITS, KVM_MMU_CR4_ROLE_BITS). */
export function vcpu_to_role_regs(vcpu: KvmVcpu): KvmMmuRoleRegs {
  const r = vcpu.regs;
  return {
    cr0: r.cr0 & (CR0_PG | CR0_WP),
    cr4: r.cr4 & (CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE),
    efer: r.efer,
  };
}

/** The two halves of union kvm_cpu_role. */
export interface CpuRole {
  base: number;
  ext: number;
}

const bit = (value: bigint, mask: bigint): number => (value & mask ? 1 : 0);

/**
 * kvm_calc_cpu_role() (seed 1, v5.19+): a snapshot of the registers that govern guest page walks. For kernels without a cpu_role
 * the same facts in that kernel's layout: what mmu_role held of them.
 */
export function kvm_calc_cpu_role(vcpu: KvmVcpu, regs: KvmMmuRoleRegs): CpuRole {
  const m = vcpu.kvm.machine;
  const R = m.roles;
  let base = 0;
  let ext = 0;
  base = role_put(base, R.access, R.access.mask);
  base = role_put(base, R.smm, is_smm(vcpu) ? 1 : 0);
  base = role_put(base, R.guest_mode, is_guest_mode(vcpu) ? 1 : 0);
  ext = role_put(ext, R.ext_valid, 1);
  const paging = (regs.cr0 & CR0_PG) !== 0n;
  if (!paging) {
    base = role_put(base, R.direct, 1);
    if (m.caps.roleIgnoresUnused) return { base, ext };
  }

  const wp = bit(regs.cr0, CR0_WP);
  const smep = bit(regs.cr4, CR4_SMEP);
  const smap = bit(regs.cr4, CR4_SMAP);
  const pae = bit(regs.cr4, CR4_PAE);
  const lma = bit(regs.efer, EFER_LMA);
  const nx = bit(regs.efer, EFER_NX);
  base = role_put(base, R.efer_nx, nx);
  base = role_put(base, R.cr0_wp, wp);
  base = role_put(base, R.smep_andnot_wp, smep & ~wp);
  base = role_put(base, R.smap_andnot_wp, smap & ~wp);
  base = role_put(base, R.cr4_smep, smep);
  base = R.putGpteBytes(base, pae ? 8 : 4);
  base = role_put(base, R.level, role_regs_to_root_level(regs));
  ext = role_put(ext, R.ext_cr0_pg, paging ? 1 : 0);
  ext = role_put(ext, R.ext_cr4_pae, pae);
  ext = role_put(ext, R.ext_cr4_smep, smep);
  ext = role_put(ext, R.ext_cr4_smap, smap);
  ext = role_put(ext, R.ext_cr4_pse, bit(regs.cr4, CR4_PSE));
  const lmaCounts = m.caps.roleIgnoresUnused ? lma : 1;
  ext = role_put(ext, R.ext_cr4_pke, lmaCounts & bit(regs.cr4, CR4_PKE));
  ext = role_put(ext, R.ext_cr4_la57, lmaCounts & bit(regs.cr4, CR4_LA57));
  ext = role_put(ext, R.ext_efer_lma, lma);
  ext = role_put(ext, R.ext_has_pferr_fetch, nx | smep);
  ext = role_put(ext, R.ext_maxphyaddr, vcpu.maxphyaddr);
  return { base, ext };
}

/** role_regs_to_root_level(): levels of the guest's tables, 0 with paging off. */
export function role_regs_to_root_level(regs: KvmMmuRoleRegs): number {
  if (!(regs.cr0 & CR0_PG)) return 0;
  if (regs.efer & EFER_LMA) return regs.cr4 & CR4_LA57 ? 5 : 4;
  return regs.cr4 & CR4_PAE ? 3 : 2;
}

/** kvm_mmu_get_tdp_level(): forced by the host's own paging on AMD, else four levels unless the guest needs five. */
export function kvm_mmu_get_tdp_level(vcpu: KvmVcpu): number {
  const { config } = vcpu.kvm.machine;
  if (config.paging === 'npt') return config.host_levels;
  const max = config.maxTdpLevel;
  return max === 5 && vcpu.maxphyaddr <= 48 ? 4 : max;
}

/**
 * Whether the tables of TDP tell execution by the user from that by the supervisor: EPT with mode-based execute control, which KVM uses from
 * v7.2 on and every Intel processor since Skylake-X has. GMET of AMD is not modelled.
 */
export const tdp_has_smep = (m: Machine): boolean => m.caps.accessHasRead && m.config.paging === 'ept';

/** kvm_calc_tdp_mmu_root_page_role(): independent of the guest's registers from v5.19 on. */
export function kvm_calc_tdp_mmu_root_page_role(vcpu: KvmVcpu, cpu_role: CpuRole): number {
  const m = vcpu.kvm.machine;
  const R = m.roles;
  let role = 0;
  role = role_put(role, R.access, R.access.mask);
  if (tdp_has_smep(m)) role = role_put(role, R.cr4_smep, 1);
  if (m.caps.tdpRoleFixed) {
    role = role_put(role, R.cr0_wp, 1);
    role = role_put(role, R.efer_nx, 1);
  } else if (m.caps.tdpRoleFollows !== 'none') {
    const more = {
      'nx-wp-pae': [R.gpteSize],
      'nx-wp': [],
      'nx-wp-smep': [R.smep_andnot_wp, R.smap_andnot_wp],
    }[m.caps.tdpRoleFollows];
    for (const f of [R.cr0_wp, R.efer_nx, ...more]) role = role_put(role, f, role_get(cpu_role.base, f));
  }
  role = role_put(role, R.smm, role_get(cpu_role.base, R.smm));
  role = role_put(role, R.guest_mode, role_get(cpu_role.base, R.guest_mode));
  role = role_put(role, R.ad_disabled, m.spte.kvm_ad_enabled ? 0 : 1);
  role = role_put(role, R.level, kvm_mmu_get_tdp_level(vcpu));
  role = role_put(role, R.direct, 1);
  return m.caps.directPageGpte === '8-bytes' ? R.putGpteBytes(role, 8) : role;
}

/** kvm_calc_shadow_mmu_root_page_role() (v6.1): cpu_role.base with at least three levels and NX. */
export function kvm_calc_shadow_mmu_root_page_role(vcpu: KvmVcpu, cpu_role: CpuRole): number {
  const R = vcpu.kvm.machine.roles;
  let role = cpu_role.base;
  role = role_put(role, R.level, Math.max(role_get(role, R.level), 3));
  // KVM always runs its own shadow tables with NX, so pages differ only in what the guest sees.
  if (vcpu.kvm.machine.caps.tdpRoleFixed) role = role_put(role, R.efer_nx, 1);
  return role;
}

/** @param root_ext mmu_role.ext of kernels that have it: that of the registers, but for shadow EPT */
function setRoles(vcpu: KvmVcpu, mmu: KvmMmu, cpu: CpuRole, root_role: number, root_ext = cpu.ext): void {
  const m = vcpu.kvm.machine;
  const old = cpuRoleWord(mmu);
  const oldRoot = mmu.root_role;
  mmu.cpu_role_base = cpu.base;
  mmu.cpu_role_ext = cpu.ext;
  mmu.root_role = root_role;
  mmu.root_ext = root_ext;
  if (cpuRoleWord(mmu) === old && root_role === oldRoot) return;
  emit(m, (o) =>
    o.event({
      kind: 'role_changed',
      vcpu: vcpu.vcpu_id,
      mmu: mmu.name,
      cpu_role: cpuRoleWord(mmu),
      root_role,
      old_cpu_role: old,
      old_root_role: oldRoot,
    }),
  );
}

/** cpu_role.as_u64 */
export const cpuRoleWord = (mmu: KvmMmu): bigint => (BigInt(mmu.cpu_role_ext) << 32n) | BigInt(mmu.cpu_role_base);

/** Whether a context can stay as it is. Roles without an ext half do not tell CR4.PSE, SMEP and others: it is rebuilt then. */
const sameRole = (m: Machine, mmu: KvmMmu, cpu: CpuRole, root_role: number, root_ext = cpu.ext): boolean =>
  m.caps.contextByRole &&
  mmu.cpu_role_base === cpu.base &&
  mmu.cpu_role_ext === cpu.ext &&
  mmu.root_role === root_role &&
  mmu.root_ext === root_ext;

/** init_kvm_tdp_mmu() */
function init_kvm_tdp_mmu(vcpu: KvmVcpu, cpu: CpuRole, regs: KvmMmuRoleRegs): void {
  const m = vcpu.kvm.machine;
  const mmu = vcpu.root_mmu;
  enter(m, 'init_kvm_tdp_mmu', vcpu.vcpu_id, mmu);
  calculated(vcpu, regs, false);
  enter(m, 'kvm_calc_tdp_mmu_root_page_role', vcpu.vcpu_id, regs);
  const root_role = kvm_calc_tdp_mmu_root_page_role(vcpu, cpu);
  leave(m);
  if (!sameRole(m, mmu, cpu, root_role)) {
    setRoles(vcpu, mmu, cpu, root_role);
    mmu.walk_cr4 = Number(regs.cr4);
    mmu.page_fault = 'kvm_tdp_page_fault';
    mmu.sync_page = 'nonpaging_sync_page';
    mmu.invlpg = null;
    mmu.get_guest_pgd = 'get_guest_cr3';
    mmu.inject_page_fault = 'kvm_inject_page_fault';
    mmu.gva_to_gpa = gvaToGpaOf(regs);
    reset_guest_paging_metadata(vcpu, mmu);
    enter(m, 'reset_tdp_shadow_zero_bits_mask', vcpu.vcpu_id, mmu);
    reset_tdp_shadow_zero_bits_mask(vcpu, mmu);
    leave(m);
  }
  leave(m);
}

function gvaToGpaOf(regs: KvmMmuRoleRegs): KvmMmu['gva_to_gpa'] {
  if (!(regs.cr0 & CR0_PG)) return 'nonpaging_gva_to_gpa';
  return regs.cr4 & CR4_PAE ? 'paging64_gva_to_gpa' : 'paging32_gva_to_gpa';
}

/** shadow_mmu_init_context(): classic shadow paging and shadow NPT. */
export function shadow_mmu_init_context(
  vcpu: KvmVcpu,
  mmu: KvmMmu,
  cpu: CpuRole,
  root_role: number,
  regs: KvmMmuRoleRegs,
  root_ext = cpu.ext,
): void {
  const m = vcpu.kvm.machine;
  enter(m, 'shadow_mmu_init_context', vcpu.vcpu_id, mmu);
  if (!sameRole(m, mmu, cpu, root_role, root_ext)) {
    setRoles(vcpu, mmu, cpu, root_role, root_ext);
    mmu.walk_cr4 = Number(regs.cr4);
    mmu.gva_to_gpa = gvaToGpaOf(regs);
    const paging = (regs.cr0 & CR0_PG) !== 0n;
    const kind = !paging ? 'nonpaging' : regs.cr4 & CR4_PAE ? 'paging64' : 'paging32';
    mmu.page_fault = `${kind}_page_fault`;
    mmu.sync_page = `${kind}_sync_page`;
    mmu.invlpg = paging ? `${kind}_invlpg` : null;
    reset_guest_paging_metadata(vcpu, mmu);
    enter(m, 'reset_shadow_zero_bits_mask', vcpu.vcpu_id, mmu);
    reset_shadow_zero_bits_mask(vcpu, mmu);
    leave(m);
  }
  leave(m);
}

function init_kvm_softmmu(vcpu: KvmVcpu, cpu: CpuRole, regs: KvmMmuRoleRegs): void {
  const m = vcpu.kvm.machine;
  const mmu = vcpu.root_mmu;
  enter(m, 'init_kvm_softmmu', vcpu.vcpu_id, mmu);
  enter(m, 'kvm_init_shadow_mmu', vcpu.vcpu_id, mmu);
  calculated(vcpu, regs, false);
  shadow_mmu_init_context(vcpu, mmu, cpu, kvm_calc_shadow_mmu_root_page_role(vcpu, cpu), regs);
  leave(m);
  mmu.get_guest_pgd = 'get_guest_cr3';
  mmu.inject_page_fault = 'kvm_inject_page_fault';
  leave(m);
}

/** kvm_calc_nested_mmu_role(): nested_mmu has no shadow pages, but before cpu_role its mmu_role said what it walks by. */
function kvm_calc_nested_mmu_role(vcpu: KvmVcpu, cpu: CpuRole): CpuRole {
  const m = vcpu.kvm.machine;
  const R = m.roles;
  switch (m.caps.nestedMmuRole) {
    case 'none':
      return { base: 0, ext: 0 };
    case 'full':
      return { base: role_put(cpu.base, R.direct, 1), ext: cpu.ext };
    case 'common': {
      // cr4_pae is of the common part, gpte_is_8_bytes is not.
      const own = [R.level, R.direct, R.smep_andnot_wp, R.smap_andnot_wp];
      if (m.caps.tdpRoleFollows !== 'nx-wp-pae') own.push(R.gpteSize);
      return { base: own.reduce((role, f) => role_put(role, f, 0), cpu.base), ext: cpu.ext };
    }
  }
}

/** init_kvm_nested_mmu(): a walker only, so it has a cpu_role and no root role (seed 1). */
function init_kvm_nested_mmu(vcpu: KvmVcpu, cpu: CpuRole, regs: KvmMmuRoleRegs): void {
  const m = vcpu.kvm.machine;
  const mmu = vcpu.nested_mmu;
  const role = kvm_calc_nested_mmu_role(vcpu, cpu);
  if (sameRole(m, mmu, cpu, role.base, role.ext)) return;
  setRoles(vcpu, mmu, cpu, role.base, role.ext);
  mmu.walk_cr4 = Number(regs.cr4);
  mmu.get_guest_pgd = 'get_guest_cr3';
  mmu.inject_page_fault = 'kvm_inject_page_fault';
  mmu.invlpg = null;
  mmu.gva_to_gpa = gvaToGpaOf(regs);
  reset_guest_paging_metadata(vcpu, mmu);
}

/** The registers that a shadow NPT is made for: L1's, as far as they mean something to nested page tables. */
function shadow_npt_role_regs(m: Machine, l1: KvmMmuRoleRegs): KvmMmuRoleRegs {
  const cr4 = l1.cr4 & ~CR4_PKE;
  if (m.caps.shadowNptRegs === 'pg-wp')
    return { cr0: CR0_PG | CR0_WP, cr4: cr4 & ~(CR4_SMEP | CR4_SMAP), efer: l1.efer };
  return { cr0: CR0_PG, cr4, efer: l1.efer };
}

/**
 * kvm_init_shadow_npt_mmu(): guest_mmu shadows the nested page tables of L1, whose format follows L1's CR4 and EFER; CR0.WP does not
 * matter to them.
 */
export function kvm_init_shadow_npt_mmu(vcpu: KvmVcpu, l1: KvmMmuRoleRegs, nested_cr3: bigint): void {
  const m = vcpu.kvm.machine;
  const R = m.roles;
  const regs = shadow_npt_role_regs(m, l1);
  enter(m, 'kvm_init_shadow_npt_mmu', vcpu.vcpu_id, vcpu.guest_mmu);
  const cpu = kvm_calc_cpu_role(vcpu, regs);
  // Before v5.14 walks went by the registers above, but the role by all that the vCPU had.
  const role = m.caps.shadowNptRegs === 'l1' ? kvm_calc_cpu_role(vcpu, l1) : cpu;
  const level = kvm_mmu_get_tdp_level(vcpu);
  let root = role_put(role_put(role.base, R.level, level), R.direct, 0);
  // Five levels of the host over four of L1: the top table has one entry, and it is no guest's.
  if (level === 5 && role_get(cpu.base, R.level) === 4) root = role_put(root, R.passthrough, 1);
  shadow_mmu_init_context(vcpu, vcpu.guest_mmu, cpu, root, regs, role.ext);
  kvm_mmu_new_pgd(vcpu, nested_cr3);
  leave(m);
}

/** What L1's EPT is walked by: it knows no registers, all comes from the EPTP. */
function shadow_ept_cpu_role(vcpu: KvmVcpu, accessed_dirty: boolean, execonly: boolean, level: number): CpuRole {
  const R = vcpu.kvm.machine.roles;
  let base = 0;
  base = role_put(base, R.level, level);
  base = R.putGpteBytes(base, 8);
  base = role_put(base, R.ad_disabled, accessed_dirty ? 0 : 1);
  base = role_put(base, R.guest_mode, 1);
  base = role_put(base, R.access, R.access.mask);
  return { base, ext: role_put(role_put(0, R.ext_execonly, execonly ? 1 : 0), R.ext_valid, 1) };
}

/**
 * kvm_calc_shadow_ept_root_page_role(): the role of the shadow pages of L1's EPT.
 * @param cpu what {@link shadow_ept_cpu_role} says
 */
function kvm_calc_shadow_ept_root_page_role(vcpu: KvmVcpu, cpu: CpuRole): CpuRole {
  const m = vcpu.kvm.machine;
  const R = m.roles;
  if (m.caps.shadowEptRole === 'plain') return cpu;
  // The registers are L1's still.
  const regs = kvm_calc_cpu_role(vcpu, vcpu_to_role_regs(vcpu));
  const ext = role_put(regs.ext, R.ext_execonly, role_get(cpu.ext, R.ext_execonly));
  const l1 = vcpu.root_mmu.root_role;
  if (m.caps.shadowEptRole === 'marked') {
    let base = role_put(cpu.base, R.smm, role_get(l1, R.smm));
    // A pair that no other context has marks shadow EPT (reference 5.3).
    base = role_put(base, R.cr0_wp, 1);
    base = role_put(base, R.smap_andnot_wp, 1);
    return { base, ext };
  }
  const own = [R.level, R.direct, R.ad_disabled, R.guest_mode, R.access];
  return { base: own.reduce((role, f) => role_put(role, f, role_get(cpu.base, f)), l1), ext };
}

/** kvm_init_shadow_ept_mmu(): guest_mmu shadows L1's EPT. */
export function kvm_init_shadow_ept_mmu(
  vcpu: KvmVcpu,
  execonly: boolean,
  huge_page_level: number,
  accessed_dirty: boolean,
  eptp: bigint,
): void {
  const m = vcpu.kvm.machine;
  const mmu = vcpu.guest_mmu;
  enter(m, 'kvm_init_shadow_ept_mmu', vcpu.vcpu_id, mmu);
  const level = (eptp & 0x38n) === 0x20n ? 5 : 4;
  const cpu = shadow_ept_cpu_role(vcpu, accessed_dirty, execonly, level);
  enter(m, 'kvm_calc_shadow_ept_root_page_role', vcpu.vcpu_id, mmu);
  const role = kvm_calc_shadow_ept_root_page_role(vcpu, cpu);
  leave(m);
  if (!sameRole(m, mmu, cpu, role.base, role.ext)) {
    setRoles(vcpu, mmu, cpu, role.base, role.ext);
    mmu.page_fault = 'ept_page_fault';
    mmu.gva_to_gpa = 'ept_gva_to_gpa';
    mmu.sync_page = 'ept_sync_page';
    mmu.invlpg = 'ept_invlpg';
    update_permission_bitmask(m, mmu, true);
    mmu.pkru_mask = 0;
    __reset_rsvds_bits_mask_ept(mmu.guest_rsvd_check, reserved_gpa_bits(vcpu), execonly, huge_page_level);
    reset_ept_shadow_zero_bits_mask(vcpu, mmu, execonly);
  }
  kvm_mmu_new_pgd(vcpu, eptp);
  leave(m);
}

/** The frame of kvm_calc_cpu_role(): kernels before v5.19 (seed 1 too) call it for each context, later ones before they know which. */
function calculated(vcpu: KvmVcpu, regs: KvmMmuRoleRegs, first: boolean): void {
  const m = vcpu.kvm.machine;
  if (m.caps.tdpRoleFixed !== first) return;
  enter(m, 'kvm_calc_cpu_role', vcpu.vcpu_id, regs);
  leave(m);
}

/** kvm_init_mmu(): recomputes the roles of the current context; rebuilds it only if one changed. */
export function kvm_init_mmu(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_init_mmu', vcpu.vcpu_id, vcpu.mmu);
  const regs = vcpu_to_role_regs(vcpu);
  const cpu = kvm_calc_cpu_role(vcpu, regs);
  calculated(vcpu, regs, true);
  if (mmu_is_nested(vcpu)) {
    enter(m, 'init_kvm_nested_mmu', vcpu.vcpu_id, vcpu.nested_mmu);
    calculated(vcpu, regs, false);
    init_kvm_nested_mmu(vcpu, cpu, regs);
    leave(m);
  } else if (m.tdpEnabled) init_kvm_tdp_mmu(vcpu, cpu, regs);
  else init_kvm_softmmu(vcpu, cpu, regs);
  leave(m);
}

/** kvm_mmu_reset_context(): drop all roots, then kvm_init_mmu(). */
export function kvm_mmu_reset_context(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_mmu_reset_context', vcpu.vcpu_id, vcpu.mmu);
  kvm_mmu_unload(vcpu);
  kvm_init_mmu(vcpu);
  leave(m);
}

/** kvm_mmu_after_set_cpuid(): invalid roles make the next kvm_init_mmu() rebuild everything that depends on CPUID. */
export function kvm_mmu_after_set_cpuid(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  const R = m.roles;
  enter(m, 'kvm_mmu_after_set_cpuid', vcpu.vcpu_id, null);
  for (const mmu of [vcpu.root_mmu, vcpu.guest_mmu, vcpu.nested_mmu]) {
    mmu.root_role = 0;
    mmu.root_ext = role_put(mmu.root_ext, R.ext_valid, 0);
    mmu.cpu_role_ext = role_put(mmu.cpu_role_ext, R.ext_valid, 0);
  }
  kvm_mmu_reset_context(vcpu);
  leave(m);
}

/** is_cr0_pg(), is_cr4_pae() … of a context: read from cpu_role, never from the vCPU. */
export const is_cr0_pg = (m: Machine, mmu: KvmMmu): boolean => role_get(mmu.cpu_role_base, m.roles.level) > 0;
export const is_cr4_pae = (m: Machine, mmu: KvmMmu): boolean => !m.roles.has4ByteGpte(mmu.cpu_role_base);
/** A bit of CR4 in cpu_role.ext, or in the registers that the context was built from where roles have no ext half (before v4.20). */
const cr4Bit = (m: Machine, mmu: KvmMmu, f: RoleField, bit: bigint): boolean =>
  m.roles.extLayout === null ? (mmu.walk_cr4 & Number(bit)) !== 0 : role_get(mmu.cpu_role_ext, f) === 1;
export const is_cr4_pse = (m: Machine, mmu: KvmMmu): boolean => cr4Bit(m, mmu, m.roles.ext_cr4_pse, CR4_PSE);
export const is_cr4_smep = (m: Machine, mmu: KvmMmu): boolean =>
  cr4Bit(m, mmu, m.roles.ext_cr4_smep, CR4_SMEP) || role_get(mmu.cpu_role_base, m.roles.cr4_smep) === 1;
export const is_cr4_smap = (m: Machine, mmu: KvmMmu): boolean => cr4Bit(m, mmu, m.roles.ext_cr4_smap, CR4_SMAP);
export const is_cr4_pke = (m: Machine, mmu: KvmMmu): boolean => cr4Bit(m, mmu, m.roles.ext_cr4_pke, CR4_PKE);
export const is_efer_nx = (m: Machine, mmu: KvmMmu): boolean => role_get(mmu.cpu_role_base, m.roles.efer_nx) === 1;
export const is_efer_lma = (m: Machine, mmu: KvmMmu): boolean => role_get(mmu.cpu_role_ext, m.roles.ext_efer_lma) === 1;
export const is_cr0_wp = (m: Machine, mmu: KvmMmu): boolean => role_get(mmu.cpu_role_base, m.roles.cr0_wp) === 1;
