/**
 * Role words for the MMU: kvm_mmu_page_role and kvm_mmu_extended_role packed by whatever layout the kernel has.
 * The layouts themselves are data of src/words; here they become shifts and masks.
 */
import { extendedRoleLayout, hasExtendedRole, pageRoleLayout } from '../words/roles';
import type { KernelVersion } from '../words/kernels';
import type { WordLayout } from '../words/word';
import type { KvmMmu } from './kvm_host';

/** Shift and (unshifted) mask of a field; the mask is 0 where the layout has no such field. */
export interface RoleField {
  readonly shift: number;
  readonly mask: number;
}

const NONE: RoleField = { shift: 0, mask: 0 };

function field(layout: WordLayout | null, ...names: string[]): RoleField {
  for (const name of names) {
    const f = layout?.fields.find((x) => x.name === name);
    if (f) return { shift: f.lsb, mask: 2 ** f.width - 1 };
  }
  return NONE;
}

/** Reads a field. */
export const role_get = (word: number, f: RoleField): number => (word >>> f.shift) & f.mask;
/** The word with a field replaced; fields that the layout lacks are ignored. */
export const role_put = (word: number, f: RoleField, value: number): number =>
  ((word & ~(f.mask << f.shift)) | ((value & f.mask) << f.shift)) >>> 0;

/** All fields of one kernel's role words by the names of v6.1; older names map onto them. */
export class RoleCodec {
  readonly level: RoleField;
  /** polarity: `gpteIs4` tells whether 1 means four-byte entries */
  readonly gpteSize: RoleField;
  readonly gpteIs4: boolean;
  readonly quadrant: RoleField;
  readonly direct: RoleField;
  readonly access: RoleField;
  readonly invalid: RoleField;
  readonly efer_nx: RoleField;
  readonly cr0_wp: RoleField;
  readonly smep_andnot_wp: RoleField;
  readonly smap_andnot_wp: RoleField;
  readonly cr4_smep: RoleField;
  readonly ad_disabled: RoleField;
  readonly guest_mode: RoleField;
  readonly passthrough: RoleField;
  readonly spp: RoleField;
  readonly smm: RoleField;
  readonly ext_valid: RoleField;
  readonly ext_execonly: RoleField;
  readonly ext_cr0_pg: RoleField;
  readonly ext_cr4_pae: RoleField;
  readonly ext_cr4_pse: RoleField;
  readonly ext_cr4_pke: RoleField;
  readonly ext_cr4_smap: RoleField;
  readonly ext_cr4_smep: RoleField;
  readonly ext_cr4_la57: RoleField;
  readonly ext_efer_lma: RoleField;
  readonly ext_has_pferr_fetch: RoleField;
  readonly ext_maxphyaddr: RoleField;
  readonly pageLayout: WordLayout;
  readonly extLayout: WordLayout | null;

  constructor(kernel: KernelVersion) {
    const page = pageRoleLayout(kernel);
    const ext = hasExtendedRole(kernel) ? extendedRoleLayout(kernel) : null;
    this.pageLayout = page;
    this.extLayout = ext;
    this.level = field(page, 'level');
    this.gpteSize = field(page, 'has_4_byte_gpte', 'gpte_is_8_bytes', 'cr4_pae');
    this.gpteIs4 = page.fields.some((f) => f.name === 'has_4_byte_gpte');
    this.quadrant = field(page, 'quadrant');
    this.direct = field(page, 'direct');
    this.access = field(page, 'access');
    this.invalid = field(page, 'invalid');
    this.efer_nx = field(page, 'efer_nx', 'nxe');
    this.cr0_wp = field(page, 'cr0_wp');
    this.smep_andnot_wp = field(page, 'smep_andnot_wp');
    this.smap_andnot_wp = field(page, 'smap_andnot_wp');
    this.cr4_smep = field(page, 'cr4_smep');
    this.ad_disabled = field(page, 'ad_disabled');
    this.guest_mode = field(page, 'guest_mode');
    this.passthrough = field(page, 'passthrough');
    this.spp = field(page, 'spp');
    this.smm = field(page, 'smm');
    this.ext_valid = field(this.extLayout, 'valid');
    this.ext_execonly = field(this.extLayout, 'execonly');
    this.ext_cr0_pg = field(this.extLayout, 'cr0_pg');
    this.ext_cr4_pae = field(this.extLayout, 'cr4_pae');
    this.ext_cr4_pse = field(this.extLayout, 'cr4_pse');
    this.ext_cr4_pke = field(this.extLayout, 'cr4_pke');
    this.ext_cr4_smap = field(this.extLayout, 'cr4_smap');
    this.ext_cr4_smep = field(this.extLayout, 'cr4_smep');
    this.ext_cr4_la57 = field(this.extLayout, 'cr4_la57');
    this.ext_efer_lma = field(this.extLayout, 'efer_lma');
    this.ext_has_pferr_fetch = field(this.extLayout, 'has_pferr_fetch');
    this.ext_maxphyaddr = field(this.extLayout, 'maxphyaddr');
  }

  /** has_4_byte_gpte of a word, whatever the polarity of bit 4 in this layout. */
  has4ByteGpte(word: number): boolean {
    return (role_get(word, this.gpteSize) === 1) === this.gpteIs4;
  }

  /**
   * Access of a page, in the bits that the model has for entries: EXEC=1, WRITE=2, USER=4 (READ when it shadows EPT). From v7.2 on the
   * field is READ=1, WRITE=2, USER=4 and EXEC=8; for EPT, USER is execution in user mode, which goes by EXEC without MBEC.
   */
  getAccess(word: number, ept: boolean): number {
    const access = role_get(word, this.access);
    if (this.access.mask === 7) return access;
    return (access >> 3) | (access & 2) | (ept ? (access & 1) << 2 : access & 4);
  }

  /** Sets the access of a page; see {@link getAccess}. */
  putAccess(word: number, access: number, ept: boolean): number {
    if (this.access.mask === 7) return role_put(word, this.access, access);
    const exec = access & 1;
    // Of shadow EPT without MBEC nothing is executable for the user by itself.
    const userExec = role_get(word, this.cr4_smep) ? exec << 2 : 0;
    const readAndUser = ept ? ((access >> 2) & 1) | userExec : 1 | (access & 4);
    return role_put(word, this.access, (exec << 3) | (access & 2) | readAndUser);
  }

  /** Sets the size of guest entries; `bytes` 4 or 8. */
  putGpteBytes(word: number, bytes: 4 | 8): number {
    return role_put(word, this.gpteSize, (bytes === 4) === this.gpteIs4 ? 1 : 0);
  }
}

/**
 * A role word of struct kvm_mmu as the kernel stores it.
 * @param word the kernel's name: cpu_role, root_role, mmu_role or base_role; that of another kernel gives what takes its place
 */
export function mmu_role_word(R: RoleCodec, mmu: KvmMmu, word: string): bigint {
  const ext = (half: number): bigint => BigInt(half >>> 0) << 32n;
  if (word === 'cpu_role') return BigInt(mmu.cpu_role_base >>> 0) | ext(mmu.cpu_role_ext);
  if (word === 'mmu_role') return BigInt(mmu.root_role >>> 0) | ext(mmu.root_ext);
  if (word !== 'base_role' || R.extLayout !== null) return BigInt(mmu.root_role >>> 0);
  // What differs from page to page is no part of base_role (mmu_base_role_mask in v4.19).
  const base = [R.level, R.direct, R.access].reduce((role, f) => role_put(role, f, 0), mmu.root_role);
  return BigInt(base);
}
