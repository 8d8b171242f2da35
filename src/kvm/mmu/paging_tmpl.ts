/**
 * arch/x86/kvm/mmu/paging_tmpl.h: KVM's own walk of guest page tables, one function for its three instances (64-bit entries, 32-bit
 * entries, EPT). Facts: reference kvm-mmu-model.md chapters 9 and 10.
 */
import type { FrameName } from '../functions';
import { enter, leave } from '../observer';
import type { Machine } from '../machine';
import { ACC_EXEC, ACC_USER, ACC_WRITE, type KvmMmu, type KvmVcpu } from '../kvm_host';
import { kvm_gpa_to_hpa, kvm_vcpu_gfn_to_memslot, mark_page_dirty_in_slot } from '../kvm_main';
import { role_get } from '../roles';
import { is_cr0_pg, is_cr0_wp, is_cr4_pae, is_cr4_pse, is_cr4_smep, is_efer_nx } from './calc_role';
import { is_rsvd_bits_set, reset_guest_paging_metadata } from './metadata';
import { role_put } from '../roles';
import { nested_vmx_write_pml_buffer } from '../vmx_nested_ept';

const PFERR_PRESENT = 1;
const PFERR_WRITE = 2;
const PFERR_USER = 4;
const PFERR_RSVD = 8;
const PFERR_FETCH = 16;
const PFERR_PK = 32;
/** PFERR_IMPLICIT_ACCESS: software bit, kept outside the 32 hardware bits. */
export const PFERR_IMPLICIT_ACCESS = 0x40000000;

/** struct guest_walker: the result of one walk. Indexed by level - 1 where the kernel does. */
export class GuestWalker {
  level = 0;
  max_level = 0;
  gfn = 0;
  pte_access = 0;
  readonly ptesLo = new Uint32Array(5);
  readonly ptesHi = new Uint32Array(5);
  readonly table_gfn = new Float64Array(5);
  readonly pte_gpa = new Float64Array(5);
  /** host address of each entry read */
  readonly pte_hpa = new Float64Array(5);
  readonly pte_writable = new Uint8Array(5);
  readonly pt_access = new Uint8Array(5);
  fault_error_code = 0;
  fault_address = 0n;
  nested_page_fault = false;
}

/** The fault of a walk: struct x86_exception as far as walks fill it. */
export type WalkFault = Pick<GuestWalker, 'fault_error_code' | 'fault_address' | 'nested_page_fault'>;

/** What the three instances of the template differ in. Masks are of the low half of an entry. */
export interface GuestPteFormat {
  readonly name: 'paging64' | 'paging32' | 'ept';
  /** bytes of an entry */
  readonly size: 4 | 8;
  /** index bits a level */
  readonly bits: 9 | 10;
  /** FNAME(is_present_gpte): any of these bits */
  readonly present: number;
  /** PT_GUEST_ACCESSED_MASK, PT_GUEST_DIRTY_MASK */
  readonly accessed: number;
  readonly dirty: number;
  /** FNAME() of the functions on the fault path, made once */
  readonly walk_addr: FrameName;
  readonly walk_addr_generic: FrameName;
  readonly update_accessed_dirty_bits: FrameName;
  readonly page_fault: FrameName;
  readonly is_self_change_mapping: FrameName;
  readonly fetch: FrameName;
  readonly gpte_changed: FrameName;
  readonly pte_prefetch: FrameName;
  readonly prefetch_gpte: FrameName;
}

type Instance = Pick<GuestPteFormat, 'name' | 'size' | 'bits' | 'present' | 'accessed' | 'dirty'>;

const named = (format: Instance): GuestPteFormat => ({
  ...format,
  walk_addr: `${format.name}_walk_addr`,
  walk_addr_generic: `${format.name}_walk_addr_generic`,
  update_accessed_dirty_bits: `${format.name}_update_accessed_dirty_bits`,
  page_fault: `${format.name}_page_fault`,
  is_self_change_mapping: `${format.name}_is_self_change_mapping`,
  fetch: `${format.name}_fetch`,
  gpte_changed: `${format.name}_gpte_changed`,
  pte_prefetch: `${format.name}_pte_prefetch`,
  prefetch_gpte: `${format.name}_prefetch_gpte`,
});

const PAGING64 = named({ name: 'paging64', size: 8, bits: 9, present: 1, accessed: 0x20, dirty: 0x40 });
const PAGING32 = named({ name: 'paging32', size: 4, bits: 10, present: 1, accessed: 0x20, dirty: 0x40 });
const EPT = named({ name: 'ept', size: 8, bits: 9, present: 7, accessed: 0x100, dirty: 0x200 });

/** The instance that walks a context's guest tables. */
export function guest_format(m: Machine, mmu: KvmMmu): GuestPteFormat {
  if (mmu.gva_to_gpa === 'ept_gva_to_gpa') return EPT;
  return is_cr4_pae(m, mmu) ? PAGING64 : PAGING32;
}

/** PT_HAVE_ACCESSED_DIRTY(): always, but for EPT whose EPTP does not enable the flags. */
export const have_ad = (m: Machine, mmu: KvmMmu): boolean =>
  mmu.gva_to_gpa !== 'ept_gva_to_gpa' || role_get(mmu.cpu_role_base, m.roles.ad_disabled) === 0;

/** FNAME(gpte_access): ACC_* of a guest entry. In EPT the right to read stands in for U. */
export function gpte_access(format: GuestPteFormat, lo: number, hi: number): number {
  if (format === EPT) return (lo & 2 ? ACC_WRITE : 0) | (lo & 4 ? ACC_EXEC : 0) | (lo & 1 ? ACC_USER : 0);
  return (lo & (ACC_WRITE | ACC_USER)) | (hi & 0x80000000 ? 0 : ACC_EXEC);
}

/** Access bits in the order of an EPT entry: R, W, X. */
const rwx = (access: number): number =>
  (access & ACC_USER ? 1 : 0) | (access & ACC_WRITE ? 2 : 0) | (access & ACC_EXEC ? 4 : 0);

/** __kvm_mmu_refresh_passthrough_bits(): CR0.WP may have changed without an exit (reference 5.10). */
function refresh_passthrough_bits(vcpu: KvmVcpu, mmu: KvmMmu): void {
  const m = vcpu.kvm.machine;
  if (!m.tdpEnabled || mmu === vcpu.guest_mmu) return;
  const wp = vcpu.regs.cr0 & (1n << 16n) ? 1 : 0;
  if (!is_cr0_pg(m, mmu) || wp === role_get(mmu.cpu_role_base, m.roles.cr0_wp)) return;
  mmu.cpu_role_base = role_put(mmu.cpu_role_base, m.roles.cr0_wp, wp);
  reset_guest_paging_metadata(vcpu, mmu);
}

/** permission_fault(): 0, or the #PF error code (P, maybe PK). */
export function permission_fault(vcpu: KvmVcpu, mmu: KvmMmu, pte_access: number, pkey: number, access: number): number {
  refresh_passthrough_bits(vcpu, mmu);
  const rflags = vcpu.regs.rflags;
  const implicit = (access & PFERR_IMPLICIT_ACCESS) !== 0;
  const not_smap = (rflags & (1n << 18n)) !== 0n && !implicit;
  const pfec = access & 0x1f;
  const index = (pfec | (not_smap ? PFERR_RSVD : 0)) >> 1;
  let fault = (mmu.permissions[index] >> pte_access) & 1;
  let error = PFERR_PRESENT;
  if (mmu.pkru_mask) {
    let bits = (vcpu.regs.pkru >>> (pkey * 2)) & 3;
    const offset = (pfec & ~1) + ((pte_access & ACC_USER ? 1 : 0) << 3);
    bits &= mmu.pkru_mask >>> offset;
    if (bits) {
      error |= PFERR_PK;
      fault = 1;
    }
  }
  return fault ? error : 0;
}

/** FNAME(is_last_gpte) (seed 1, v6.1): reads CR4.PSE from the role, not from the vCPU. */
function is_last_gpte(pse: boolean, four: boolean, level: number, lo: number): boolean {
  if (level === 1) return true;
  if (!(lo & 0x80)) return false;
  return four ? level === 2 && pse : true;
}

/**
 * FNAME(walk_addr_generic): walks the guest's tables for address hi:lo.
 * @param access wanted rights as PFERR bits (W, U, F, implicit)
 * @returns true with the walk in `w`; false with the fault in `w.fault_*`
 */
export function walk_addr_generic(
  w: GuestWalker,
  vcpu: KvmVcpu,
  mmu: KvmMmu,
  addrLo: number,
  addrHi: number,
  access: number,
): boolean {
  const m = vcpu.kvm.machine;
  const R = m.roles;
  const format = guest_format(m, mmu);
  const { size, bits } = format;
  const four = size === 4;
  enter(m, format.walk_addr_generic, vcpu.vcpu_id, w);
  const addr = (BigInt(addrHi) << 32n) | BigInt(addrLo);
  const write_fault = (access & PFERR_WRITE) !== 0;
  const fetch_fault = (access & PFERR_FETCH) !== 0;
  if (m.observer) m.observer.event({ kind: 'kvm_mmu_pagetable_walk', vcpu: vcpu.vcpu_id, addr, pferr: access & 0x1f });
  let errcode = 0;
  /** what the entries read so far allow together, of the one that failed too */
  let pte_access = 7;
  const result = retry();
  // A fault of the tables below these is the other walk's: it is passed on as it is.
  if (result === 'error') {
    errcode |= access & (PFERR_WRITE | PFERR_USER);
    const nx = is_efer_nx(m, mmu) || is_cr4_smep(m, mmu) || (format === EPT && m.caps.eptContextHasNx);
    if (fetch_fault && nx) errcode |= PFERR_FETCH;
    if (format === EPT && !(errcode & PFERR_RSVD)) set_exit_qualification();
    w.fault_error_code = errcode;
    w.fault_address = addr;
    w.nested_page_fault = mmu !== vcpu.walk_mmu;
    if (m.observer) m.observer.event({ kind: 'kvm_mmu_walker_error', vcpu: vcpu.vcpu_id, pferr: errcode });
  }
  leave(m);
  return result === 'ok';

  function retry(): 'ok' | 'error' | 'nested' {
    for (;;) {
      const r = once();
      if (r !== 'again') return r;
    }
  }

  /** The exit qualification that L1 gets: what was wanted, what its entries allow, and whether for a table (reference, error-codes). */
  function set_exit_qualification(): void {
    let q = vcpu.exit_qualification & 0x180n;
    if (write_fault) q |= 2n;
    if (m.caps.accessHasRead ? !write_fault && !fetch_fault : access & PFERR_USER) q |= 1n;
    if (fetch_fault) q |= 4n;
    vcpu.exit_qualification = q | (BigInt(rwx(pte_access)) << 3n);
  }

  function element(lo: number, hi: number, level: number): void {
    if (m.observer)
      m.observer.event({
        kind: 'kvm_mmu_paging_element',
        vcpu: vcpu.vcpu_id,
        pte: (BigInt(hi) << 32n) | BigInt(lo),
        level,
      });
  }

  function once(): 'ok' | 'error' | 'nested' | 'again' {
    errcode = 0;
    let level = role_get(mmu.cpu_role_base, R.level);
    const pgd = m.guestPgd(vcpu, mmu);
    let lo = Number(pgd & 0xffffffffn);
    let hi = Number(pgd >> 32n);
    if (!four && level === 3) {
      const pdptr = m.guestPdptr(vcpu, mmu, addrLo >>> 30);
      lo = Number(pdptr & 0xffffffffn);
      hi = Number(pdptr >> 32n);
      element(lo, hi, level);
      if (!(lo & 1)) return 'error';
      level--;
    }
    w.max_level = level;
    let pt_access = 7;
    pte_access = 7;
    for (;;) {
      pt_access = pte_access;
      const shift = 12 + bits * (level - 1);
      const indexMask = (1 << bits) - 1;
      const shifted = shift >= 32 ? addrHi >>> (shift - 32) : (addrLo >>> shift) | (shift ? addrHi << (32 - shift) : 0);
      const index = shifted & indexMask;
      const table_gfn = four ? lo >>> 12 : (hi & 0xfffff) * 0x100000 + (lo >>> 12);
      const pte_gpa = table_gfn * 4096 + index * size;
      w.table_gfn[level - 1] = table_gfn;
      w.pte_gpa[level - 1] = pte_gpa;
      const real = m.translateTableGpa(vcpu, mmu, pte_gpa, w);
      if (real < 0) return 'nested';
      const slot = kvm_vcpu_gfn_to_memslot(vcpu, Math.floor(real / 4096));
      const hpa = kvm_gpa_to_hpa(m, slot, real, false);
      if (hpa < 0) return 'error';
      w.pte_hpa[level - 1] = hpa;
      w.pte_writable[level - 1] = m.pfnResult.writable ? 1 : 0;
      if (four) {
        lo = m.mem.read32(hpa) >>> 0;
        hi = 0;
      } else {
        lo = m.mem.readLo(hpa) >>> 0;
        hi = m.mem.readHi(hpa) >>> 0;
      }
      element(lo, hi, level);
      // Bit 0 of `pte_access` follows XD inverted, bits 1 and 2 are W and U: an AND over the levels.
      pte_access = pt_access & gpte_access(format, lo, hi);
      if (!(lo & format.present)) return 'error';
      if (is_rsvd_bits_set(mmu.guest_rsvd_check, lo, hi, level)) {
        errcode = PFERR_RSVD | PFERR_PRESENT;
        return 'error';
      }
      w.ptesLo[level - 1] = lo;
      w.ptesHi[level - 1] = hi;
      w.pt_access[level - 1] = pt_access;
      if (is_last_gpte(is_cr4_pse(m, mmu), four, level, lo)) break;
      level--;
    }
    w.level = level;
    const pkey = format === PAGING64 ? (hi >>> 27) & 15 : 0;
    w.pte_access = pte_access;
    // The model has one bit for U of page tables and R of EPT.
    const needsRead = format === EPT && m.caps.accessHasRead && !fetch_fault;
    errcode = permission_fault(vcpu, mmu, pte_access, pkey, needsRead ? access | PFERR_USER : access);
    if (errcode) return 'error';
    const frame = four ? lo >>> 12 : (hi & 0xfffff) * 0x100000 + (lo >>> 12);
    const pages = four ? 1024 ** (level - 1) : 512 ** (level - 1);
    let gfn = frame - (frame % pages);
    if (four && level > 1) gfn += ((lo >>> 13) & 0xf) << 20;
    gfn += (four ? addrLo >>> 12 : addrLo >>> 12) % pages;
    if (!four && pages > 0x100000) gfn += (addrHi % (pages / 0x100000)) * 0x100000;
    const real_gpa = m.translateFinalGpa(vcpu, mmu, gfn * 4096, access, w);
    if (real_gpa < 0) return 'nested';
    w.gfn = Math.floor(real_gpa / 4096);
    if (!have_ad(m, mmu)) return 'ok';
    // A clean page is mapped read-only first, so that the write that follows sets D.
    if (!write_fault && !(lo & format.dirty)) w.pte_access &= ~ACC_WRITE;
    enter(m, format.update_accessed_dirty_bits, vcpu.vcpu_id, w);
    const r = update_accessed_dirty_bits(level, write_fault);
    leave(m);
    return r;
  }

  /** FNAME(update_accessed_dirty_bits): top down; entries in memory that the guest cannot write are skipped. */
  function update_accessed_dirty_bits(leaf: number, write: boolean): 'ok' | 'error' | 'again' {
    for (let level = w.max_level; level >= leaf; level--) {
      const i = level - 1;
      const orig = w.ptesLo[i];
      let want = orig;
      if (!(orig & format.accessed)) {
        if (m.observer)
          m.observer.event({ kind: 'kvm_mmu_set_accessed_bit', vcpu: vcpu.vcpu_id, gpa: BigInt(w.pte_gpa[i]) });
        want |= format.accessed;
      }
      if (level === leaf && write && !(orig & format.dirty)) {
        if (m.observer)
          m.observer.event({ kind: 'kvm_mmu_set_dirty_bit', vcpu: vcpu.vcpu_id, gpa: BigInt(w.pte_gpa[i]) });
        // write_log_dirty(): L1 may log what L2 makes dirty.
        if (format === EPT && !nested_vmx_write_pml_buffer(vcpu, Number(addr))) return 'error';
        want |= format.dirty;
      }
      if (want === orig || !w.pte_writable[i]) continue;
      if (m.mem.read32(w.pte_hpa[i]) >>> 0 !== orig) return 'again';
      m.mem.write32(w.pte_hpa[i], want >>> 0);
      const gfn = Math.floor(w.pte_gpa[i] / 4096);
      mark_page_dirty_in_slot(kvm_vcpu_gfn_to_memslot(vcpu, gfn), gfn);
      w.ptesLo[i] = want >>> 0;
    }
    return 'ok';
  }
}

const walker = new GuestWalker();

/** The fault of the last failed {@link gva_to_gpa}. */
export const lastWalk = (): GuestWalker => walker;

/**
 * mmu->gva_to_gpa() of the vCPU's walk_mmu.
 * @returns the gpa, or -1 (INVALID_GPA) with the fault in {@link lastWalk}
 */
export function gva_to_gpa(vcpu: KvmVcpu, gva: bigint, access: number): number {
  const m = vcpu.kvm.machine;
  const mmu = vcpu.walk_mmu;
  if (mmu.gva_to_gpa === 'nonpaging_gva_to_gpa' || mmu.gva_to_gpa === null) {
    enter(m, 'nonpaging_gva_to_gpa', vcpu.vcpu_id, null);
    leave(m);
    return Number(gva & 0xffffffffffffn);
  }
  enter(m, mmu.gva_to_gpa, vcpu.vcpu_id, walker);
  const ok = walk_addr_generic(
    walker,
    vcpu,
    mmu,
    Number(gva & 0xffffffffn),
    Number((gva >> 32n) & 0xffffffffn),
    access,
  );
  leave(m);
  return ok ? walker.gfn * 4096 + Number(gva & 0xfffn) : -1;
}

const nestedWalker = new GuestWalker();

/**
 * translate_nested_gpa(): an address of L2 through L1's tables, always as a user access.
 * @param w receives the fault of L1's tables
 * @returns the address of L1, or -1
 */
export function translate_nested_gpa(vcpu: KvmVcpu, gpa: number, access: number, w: GuestWalker): number {
  const m = vcpu.kvm.machine;
  enter(m, 'translate_nested_gpa', vcpu.vcpu_id, nestedWalker);
  enter(m, vcpu.mmu.gva_to_gpa ?? 'nonpaging_gva_to_gpa', vcpu.vcpu_id, nestedWalker);
  const n = nestedWalker;
  const hi = Math.floor(gpa / 0x100000000);
  const ok = walk_addr_generic(n, vcpu, vcpu.mmu, gpa >>> 0, hi, access | PFERR_USER);
  leave(m);
  leave(m);
  if (ok) return n.gfn * 4096 + (gpa % 4096);
  w.fault_error_code = n.fault_error_code;
  w.fault_address = n.fault_address;
  w.nested_page_fault = n.nested_page_fault;
  return -1;
}

/** Access bits of a CPL: PFERR_USER at CPL 3. */
export const cplAccess = (vcpu: KvmVcpu): number => (vcpu.regs.cpl === 3 ? PFERR_USER : 0);

export { PFERR_FETCH, PFERR_USER, PFERR_WRITE, is_cr0_wp };
