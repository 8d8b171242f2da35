/**
 * arch/x86/kvm/mmu/mmu.c: what a context derives from its role: reserved-bit masks, the permission bitmap, the PKRU mask.
 * Facts: reference kvm-mmu-model.md chapters 10 and 11; worked numbers in 31.1 and 31.2; snapshots of real kernels.
 */
import { enter, leave } from '../observer';
import { role_get } from '../roles';
import type { KvmMmu, KvmVcpu, RsvdBitsValidate } from '../kvm_host';
import { is_cr0_pg, is_cr0_wp, is_cr4_pke, is_cr4_pse, is_cr4_smap, is_cr4_smep, is_efer_nx } from './calc_role';

/** rsvd_bits(a, b): mask of bits a..b, 0 if a > b. */
export function rsvd_bits(a: number, b: number): bigint {
  return a > b ? 0n : ((1n << BigInt(b - a + 1)) - 1n) << BigInt(a);
}

function put(r: RsvdBitsValidate, large: 0 | 1, level: number, mask: bigint): void {
  r.lo[large * 5 + level - 1] = Number(mask & 0xffffffffn);
  r.hi[large * 5 + level - 1] = Number(mask >> 32n);
}

/** rsvd_bits_mask[large][level - 1] as bigint, for display. */
export const rsvdMask = (r: RsvdBitsValidate, large: 0 | 1, level: number): bigint =>
  (BigInt(r.hi[large * 5 + level - 1]) << 32n) | BigInt(r.lo[large * 5 + level - 1]);

interface RsvdInput {
  level: number;
  /** address bits that do not exist: MAXPHYADDR..51 (and software-defined ones) */
  pa_bits_rsvd: bigint;
  nx: boolean;
  gbpages: boolean;
  pse: boolean;
  amd: boolean;
}

/** __reset_rsvds_bits_mask() */
export function __reset_rsvds_bits_mask(r: RsvdBitsValidate, i: RsvdInput): void {
  r.lo.fill(0);
  r.hi.fill(0);
  r.bad_mt_xwr = 0n;
  const exb = i.nx ? 0n : 1n << 63n;
  // CPUID without 1G pages makes bit 7 of a PDPTE reserved.
  const gb = i.gbpages ? 0n : 1n << 7n;
  // The global bit of a non-leaf entry is reserved on AMD at the upper levels only.
  const nonleaf8 = i.amd ? 1n << 8n : 0n;
  let high = i.pa_bits_rsvd;
  if (i.level < 4) high &= rsvd_bits(0, 62);
  else high &= rsvd_bits(0, 51);
  switch (i.level) {
    case 2:
      put(r, 0, 1, 0n);
      put(r, 0, 2, 0n);
      put(r, 1, 1, 0n);
      put(r, 1, 2, i.pse ? rsvd_bits(17, 21) : 0n);
      break;
    case 3:
      put(r, 0, 3, (1n << 63n) | high | rsvd_bits(5, 8) | rsvd_bits(1, 2));
      put(r, 0, 2, high);
      put(r, 0, 1, high);
      put(r, 1, 2, high | rsvd_bits(13, 20));
      put(r, 1, 1, high);
      if (exb)
        for (const [l, lv] of [
          [0, 2],
          [0, 1],
          [1, 2],
          [1, 1],
        ] as const)
          put(r, l, lv, rsvdMask(r, l, lv) | exb);
      break;
    case 5:
    case 4: {
      const top = high | nonleaf8 | (1n << 7n) | exb;
      if (i.level === 5) {
        put(r, 0, 5, top);
        put(r, 1, 5, top);
      }
      put(r, 0, 4, top);
      put(r, 1, 4, top);
      put(r, 0, 3, high | gb | exb);
      put(r, 0, 2, high | exb);
      put(r, 0, 1, high | exb);
      put(r, 1, 3, high | gb | rsvd_bits(13, 29) | exb);
      put(r, 1, 2, high | rsvd_bits(13, 20) | exb);
      put(r, 1, 1, high | exb);
      break;
    }
    default:
      break;
  }
}

/** __reset_rsvds_bits_mask_ept() */
export function __reset_rsvds_bits_mask_ept(
  r: RsvdBitsValidate,
  pa_bits_rsvd: bigint,
  execonly: boolean,
  huge_page_level: number,
): void {
  const high = pa_bits_rsvd & rsvd_bits(0, 51);
  const large1g = huge_page_level < 3 ? 1n << 7n : 0n;
  const large2m = huge_page_level < 2 ? 1n << 7n : 0n;
  put(r, 0, 5, high | rsvd_bits(3, 7));
  put(r, 0, 4, high | rsvd_bits(3, 7));
  put(r, 0, 3, high | rsvd_bits(3, 6) | large1g);
  put(r, 0, 2, high | rsvd_bits(3, 6) | large2m);
  put(r, 0, 1, high);
  put(r, 1, 5, high | rsvd_bits(3, 7));
  put(r, 1, 4, high | rsvd_bits(3, 7));
  put(r, 1, 3, high | rsvd_bits(12, 29) | large1g);
  put(r, 1, 2, high | rsvd_bits(12, 20) | large2m);
  put(r, 1, 1, high);
  let bad = (0xffn << 16n) | (0xffn << 24n) | (0xffn << 56n);
  for (let i = 0n; i < 64n; i += 8n) {
    bad |= 1n << (i + 2n);
    bad |= 1n << (i + 6n);
    if (!execonly) bad |= 1n << (i + 4n);
  }
  r.bad_mt_xwr = bad;
}

/** reserved_gpa_bits of the vCPU's CPUID: MAXPHYADDR..63. */
export const reserved_gpa_bits = (vcpu: KvmVcpu): bigint => rsvd_bits(vcpu.maxphyaddr, 63);

/** reset_guest_paging_metadata(): nothing to do with paging off. */
export function reset_guest_paging_metadata(vcpu: KvmVcpu, mmu: KvmMmu): void {
  const m = vcpu.kvm.machine;
  if (!is_cr0_pg(m, mmu)) return;
  enter(m, 'reset_guest_paging_metadata', vcpu.vcpu_id, mmu);
  enter(m, 'reset_guest_rsvds_bits_mask', vcpu.vcpu_id, mmu);
  __reset_rsvds_bits_mask(mmu.guest_rsvd_check, {
    level: role_get(mmu.cpu_role_base, m.roles.level),
    pa_bits_rsvd: reserved_gpa_bits(vcpu),
    nx: is_efer_nx(m, mmu),
    // With TDP the processor checks 1G pages by the host's CPUID, whatever the guest was told.
    gbpages: m.tdpEnabled ? m.hostFeatures.has('pdpe1gb') : m.guestFeatures.has('pdpe1gb'),
    pse: is_cr4_pse(m, mmu),
    amd: m.config.vendor === 'amd',
  });
  leave(m);
  enter(m, 'update_permission_bitmask', vcpu.vcpu_id, mmu);
  update_permission_bitmask(m, mmu, false);
  leave(m);
  enter(m, 'update_pkru_bitmask', vcpu.vcpu_id, mmu);
  update_pkru_bitmask(m, mmu);
  leave(m);
  leave(m);
}

type M = KvmVcpu['kvm']['machine'];

/** update_permission_bitmask() */
export function update_permission_bitmask(m: M, mmu: KvmMmu, ept: boolean): void {
  const x = 0xaa;
  const w = 0xcc;
  const u = 0xf0;
  const cr4_smep = is_cr4_smep(m, mmu);
  const cr4_smap = is_cr4_smap(m, mmu);
  const cr0_wp = is_cr0_wp(m, mmu);
  const efer_nx = is_efer_nx(m, mmu);
  for (let i = 0; i < 16; i++) {
    const pfec = i << 1;
    const wf = pfec & 2 ? ~w & 0xff : 0;
    const uf = pfec & 4 ? ~u & 0xff : 0;
    let ff = pfec & 16 ? ~x & 0xff : 0;
    let smepf = 0;
    let smapf = 0;
    let wfault = wf;
    if (!ept) {
      const kf = pfec & 4 ? 0 : u;
      if (!efer_nx) ff = 0;
      if (cr4_smep) smepf = pfec & 16 ? kf : 0;
      if (!cr0_wp) wfault = pfec & 4 ? wf : 0;
      // Bit 3 of the index (RSVD) stands for "SMAP does not apply"; see permission_fault().
      if (cr4_smap) smapf = pfec & (8 | 16) ? 0 : kf;
    }
    mmu.permissions[i] = ff | uf | wfault | smepf | smapf;
  }
}

/** update_pkru_bitmask() */
export function update_pkru_bitmask(m: M, mmu: KvmMmu): void {
  mmu.pkru_mask = 0;
  if (!is_cr4_pke(m, mmu)) return;
  const wp = is_cr0_wp(m, mmu);
  for (let bit = 0; bit < 16; bit++) {
    const pfec = bit << 1;
    const ff = (pfec & 16) !== 0;
    const uf = (pfec & 4) !== 0;
    const wf = (pfec & 2) !== 0;
    const pte_user = (pfec & 8) !== 0;
    const check_pkey = !ff && pte_user;
    const check_write = check_pkey && wf && (uf || wp);
    mmu.pkru_mask |= ((check_pkey ? 1 : 0) | (check_write ? 2 : 0)) << pfec;
  }
  mmu.pkru_mask >>>= 0;
}

/** reset_tdp_shadow_zero_bits_mask(): which bits must be zero in the sptes of EPT or NPT. */
export function reset_tdp_shadow_zero_bits_mask(vcpu: KvmVcpu, mmu: KvmMmu): void {
  const m = vcpu.kvm.machine;
  const rsvd = rsvd_bits(m.config.maxphyaddr, 63);
  if (m.config.vendor === 'amd')
    __reset_rsvds_bits_mask(mmu.shadow_zero_check, {
      level: role_get(mmu.root_role, m.roles.level),
      pa_bits_rsvd: rsvd,
      nx: true,
      gbpages: m.hostFeatures.has('pdpe1gb'),
      pse: true,
      amd: true,
    });
  else __reset_rsvds_bits_mask_ept(mmu.shadow_zero_check, rsvd, false, m.maxHugePageLevel);
}

/** reset_ept_shadow_zero_bits_mask(): the same for sptes that shadow L1's EPT. */
export function reset_ept_shadow_zero_bits_mask(vcpu: KvmVcpu, mmu: KvmMmu, execonly: boolean): void {
  const m = vcpu.kvm.machine;
  __reset_rsvds_bits_mask_ept(mmu.shadow_zero_check, rsvd_bits(m.config.maxphyaddr, 63), execonly, m.maxHugePageLevel);
}

/** reset_shadow_zero_bits_mask(): the same for classic shadow paging. */
export function reset_shadow_zero_bits_mask(vcpu: KvmVcpu, mmu: KvmMmu): void {
  const m = vcpu.kvm.machine;
  __reset_rsvds_bits_mask(mmu.shadow_zero_check, {
    level: role_get(mmu.root_role, m.roles.level),
    pa_bits_rsvd: rsvd_bits(m.config.maxphyaddr, 63),
    nx: true,
    gbpages: m.hostFeatures.has('pdpe1gb'),
    pse: true,
    amd: true,
  });
}

/** __is_rsvd_bits_set() for an entry that is present: the mask by level and large bit, and the EPT memory-type set. */
export function is_rsvd_bits_set(r: RsvdBitsValidate, lo: number, hi: number, level: number): boolean {
  const i = (lo & 0x80 ? 5 : 0) + level - 1;
  if (((lo & r.lo[i]) | (hi & r.hi[i])) !== 0) return true;
  return r.bad_mt_xwr !== 0n && ((r.bad_mt_xwr >> BigInt(lo & 0x3f)) & 1n) === 1n;
}
