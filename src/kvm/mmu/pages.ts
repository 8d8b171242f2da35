/**
 * arch/x86/kvm/mmu/mmu.c: shadow pages of the hash-table MMU: lookup, creation, links, zapping.
 * Facts: reference kvm-mmu-model.md chapter 7.
 */
import { emit, enter, leave } from '../observer';
import type { Machine } from '../machine';
import { KvmMmuPage, type Kvm, type KvmMemorySlot, type KvmVcpu } from '../kvm_host';
import { role_get, role_put } from '../roles';
import { search_role } from '../smram';
import { gfn_to_index } from '../memslots';
import { drop_spte } from './rmap';
import { kvm_flush_remote_tlbs, kvm_make_all_cpus_request } from '../x86_requests';
import { zap_spp_entry } from './spp';
import { account_shadowed, unaccount_shadowed } from './track';
import { kvm_sync_page, kvm_unlink_unsync_page, mark_unsync, mmu_zap_unsync_children } from './unsync';

/** Fields that every kvm_mmu_page trace event has. */
export const pageFields = (sp: KvmMmuPage, vcpu: number) => ({
  vcpu,
  mmu_valid_gen: sp.mmu_valid_gen,
  gfn: BigInt(sp.gfn),
  role: sp.role,
  root_count: sp.tdp_mmu_page ? sp.tdp_mmu_root_count : sp.root_count,
  unsync: sp.unsync ? 1 : 0,
});

/** kvm_mmu_page_as_id(): the address space is in the role. */
export const kvm_mmu_role_as_id = (m: Machine, role: number): number => (role_get(role, m.roles.smm) ? 1 : 0);

/** sptep_to_sp() */
export const sptep_to_sp = (kvm: Kvm, sptep: number): KvmMmuPage | undefined =>
  kvm.sp_by_pfn.get(Math.floor(sptep / 4096));

/** spte_index() */
export const spte_index = (sptep: number): number => (sptep % 4096) / 8;

/** is_obsolete_sp(): invalid, or of an older generation (TDP MMU pages carry none). */
export function is_obsolete_sp(kvm: Kvm, sp: KvmMmuPage): boolean {
  if (role_get(sp.role, kvm.machine.roles.invalid)) return true;
  return !sp.tdp_mmu_page && sp.mmu_valid_gen !== kvm.mmu_valid_gen;
}

/** sp_has_gptes(): shadows a guest table (and is not a passthrough copy of one). */
export function sp_has_gptes(m: Machine, sp: KvmMmuPage): boolean {
  return !role_get(sp.role, m.roles.direct) && !role_get(sp.role, m.roles.passthrough);
}

/** Whether the context's shadow pages are of L1's EPT, where the bit of user access means reading. */
const shadows_ept = (vcpu: KvmVcpu): boolean => vcpu.mmu.page_fault === 'ept_page_fault';

/** role.access of a page of the current context, in the bits of ACC_ALL whatever the kernel's. */
export const page_access = (vcpu: KvmVcpu, sp: KvmMmuPage): number =>
  vcpu.kvm.machine.roles.getAccess(sp.role, shadows_ept(vcpu));

/** kvm_mmu_page_get_gfn(): the guest frame that entry `index` of a page maps. */
export function kvm_mmu_page_get_gfn(m: Machine, sp: KvmMmuPage, index: number): number {
  if (role_get(sp.role, m.roles.passthrough)) return sp.gfn;
  if (sp.gfns) return sp.gfns[index];
  return sp.gfn + index * 512 ** (role_get(sp.role, m.roles.level) - 1);
}

/** kvm_mmu_find_shadow_page(): by gfn and whole role word; unsync leaf pages found on the way to a table of a higher level are zapped. */
function kvm_mmu_find_shadow_page(vcpu: KvmVcpu, gfn: number, role: number): KvmMmuPage | null {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const R = m.roles;
  const invalid: KvmMmuPage[] = [];
  let found: KvmMmuPage | null = null;
  enter(m, 'kvm_mmu_find_shadow_page', vcpu.vcpu_id, null);
  for (const sp of [...(kvm.mmu_page_hash.get(gfn) ?? [])]) {
    if (is_obsolete_sp(kvm, sp)) continue;
    if (sp.role !== role) {
      if (role_get(role, R.level) > 1 && sp.unsync) kvm_mmu_prepare_zap_page(kvm, sp, invalid, vcpu.vcpu_id);
      continue;
    }
    if (!role_get(sp.role, R.direct) && sp.unsync) {
      const r = kvm_sync_page(vcpu, sp, invalid);
      if (r < 0) break;
      if (r > 0) kvm_flush_remote_tlbs(kvm, 'synchronised an unsync page');
    }
    sp.write_flooding_count = 0;
    found = sp;
    break;
  }
  kvm_mmu_commit_zap_page(kvm, invalid);
  leave(m);
  return found;
}

/** kvm_mmu_get_shadow_page(): finds or creates the page of (gfn, role). */
export function kvm_mmu_get_shadow_page(vcpu: KvmVcpu, gfn: number, role: number): KvmMmuPage {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'kvm_mmu_get_shadow_page', vcpu.vcpu_id, null);
  enter(m, '__kvm_mmu_get_shadow_page', vcpu.vcpu_id, null);
  let created = 0;
  let sp = kvm_mmu_find_shadow_page(vcpu, gfn, role);
  if (!sp) {
    created = 1;
    sp = kvm_mmu_alloc_shadow_page(vcpu, gfn, role);
  }
  const page = sp;
  emit(m, (o) => o.event({ kind: 'kvm_mmu_get_page', ...pageFields(page, vcpu.vcpu_id), created }));
  leave(m);
  leave(m);
  return sp;
}

/** A new page of (gfn, role), hashed and accounted. */
export function kvm_mmu_alloc_shadow_page(vcpu: KvmVcpu, gfn: number, role: number): KvmMmuPage {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'kvm_mmu_alloc_shadow_page', vcpu.vcpu_id, null);
  const sp = new KvmMmuPage();
  sp.spt = m.host.allocPage(m.spte.nonpresentLo, m.spte.nonpresentHi);
  sp.gfn = gfn;
  sp.role = role;
  sp.mmu_valid_gen = kvm.mmu_valid_gen;
  if (!role_get(role, m.roles.direct)) {
    sp.gfns = new Float64Array(512);
    sp.accesses = new Uint8Array(512);
  }
  kvm.active_mmu_pages.add(sp);
  kvm.n_used_mmu_pages++;
  kvm.sp_by_pfn.set(sp.spt, sp);
  const bucket = kvm.mmu_page_hash.get(gfn);
  if (bucket) bucket.unshift(sp);
  else kvm.mmu_page_hash.set(gfn, [sp]);
  if (sp_has_gptes(m, sp)) account_shadowed(kvm, sp);
  leave(m);
  return sp;
}

/**
 * What kvm_mmu_get_page() made of the size of guest entries in the role of a direct page, which shadows none: cr4_pae = 0 up to v5.0,
 * gpte_is_8_bytes = 1 in v5.1 .. v5.16. From v5.17 on has_4_byte_gpte stays as it is.
 */
export function direct_page_role(m: Machine, role: number): number {
  if (m.caps.directPageGpte === 'as-parent' || !role_get(role, m.roles.direct)) return role;
  return role_put(role, m.roles.gpteSize, m.caps.directPageGpte === '8-bytes' ? 1 : 0);
}

/**
 * Whether the pages below a page have quadrants: it shadows tables of 4-byte entries. Up to v5.0 its role does not tell, cr4_pae is 0
 * in direct pages too and in those of L1's EPT; there the context is asked, as kvm_mmu_get_page() did.
 */
function has_quadrants(vcpu: KvmVcpu, role: number): boolean {
  const R = vcpu.kvm.machine.roles;
  if (vcpu.kvm.machine.caps.directPageGpte !== 'pae-0') return R.has4ByteGpte(role);
  const guest_level = role_get(vcpu.mmu.cpu_role_base, R.level);
  return !role_get(vcpu.mmu.root_role, R.direct) && guest_level <= 2;
}

/** kvm_mmu_child_role(): the parent's role one level down. */
export function kvm_mmu_child_role(
  vcpu: KvmVcpu,
  parent: KvmMmuPage,
  sptep: number,
  direct: boolean,
  access: number,
): number {
  const m = vcpu.kvm.machine;
  const R = m.roles;
  let role = parent.role;
  role = role_put(role, R.level, role_get(role, R.level) - 1);
  role = R.putAccess(role, access, shadows_ept(vcpu));
  role = role_put(role, R.direct, direct ? 1 : 0);
  role = role_put(role, R.passthrough, 0);
  // A 32-bit guest's table of 1024 entries needs two shadow pages; the quadrant says which half this is.
  if (has_quadrants(vcpu, parent.role)) role = role_put(role, R.quadrant, spte_index(sptep) & 1);
  return direct_page_role(m, role);
}

/** kvm_mmu_get_child_sp(): null (the kernel's -EEXIST) when the right child hangs there already. */
export function kvm_mmu_get_child_sp(
  vcpu: KvmVcpu,
  sptep: number,
  gfn: number,
  direct: boolean,
  access: number,
): KvmMmuPage | null {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const parent = sptep_to_sp(kvm, sptep);
  if (!parent) throw new Error('sptep of no shadow page');
  const role = kvm_mmu_child_role(vcpu, parent, sptep, direct, access);
  const lo = m.mem.readLo(sptep);
  const hi = m.mem.readHi(sptep);
  if (m.spte.isPresent(lo, hi) && !(lo & 0x80)) {
    if (m.caps.childSpExists === 'present-and-small') return null;
    const child = kvm.sp_by_pfn.get(m.spte.pfn(lo, hi));
    if (child && child.gfn === gfn && child.role === role) return null;
  }
  enter(m, 'kvm_mmu_get_child_sp', vcpu.vcpu_id, parent);
  const sp = kvm_mmu_get_shadow_page(vcpu, gfn, role);
  leave(m);
  return sp;
}

/** link_shadow_page(): points an entry at a table, taking away what was there. */
export function link_shadow_page(vcpu: KvmVcpu, sptep: number, sp: KvmMmuPage): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'link_shadow_page', vcpu.vcpu_id, sp);
  enter(m, '__link_shadow_page', vcpu.vcpu_id, sp);
  const lo = m.mem.readLo(sptep);
  const hi = m.mem.readHi(sptep);
  if (m.spte.isPresent(lo, hi)) {
    const parent = sptep_to_sp(kvm, sptep);
    if (parent) {
      mmu_page_zap_pte(kvm, parent, sptep, null);
      kvm_flush_remote_tlbs(kvm, 'an entry was replaced by a table');
    }
  }
  enter(m, 'make_nonleaf_spte', vcpu.vcpu_id, null);
  m.spte.make_nonleaf_spte(sp.spt, role_get(sp.role, m.roles.ad_disabled) === 1);
  leave(m);
  m.mem.writeQ(sptep, m.spte.lo, m.spte.hi);
  sp.parent_ptes.add(sptep);
  if (sp.unsync_children || sp.unsync) mark_unsync(kvm, sptep);
  leave(m);
  leave(m);
}

/** drop_parent_pte() */
export function drop_parent_pte(kvm: Kvm, sp: KvmMmuPage, parent_pte: number): void {
  sp.parent_ptes.delete(parent_pte);
  const { mem, spte } = kvm.machine;
  mem.writeQ(parent_pte, spte.nonpresentLo, spte.nonpresentHi);
}

/** mmu_page_zap_pte(): empties one entry. @returns how many pages went to the invalid list because of it. */
export function mmu_page_zap_pte(kvm: Kvm, sp: KvmMmuPage, sptep: number, invalid: KvmMmuPage[] | null): number {
  const m = kvm.machine;
  if (role_get(sp.role, m.roles.spp)) {
    zap_spp_entry(kvm, sp, sptep);
    return 0;
  }
  enter(m, 'mmu_page_zap_pte', -1, sp);
  const zapped = zap_pte(kvm, sp, sptep, invalid);
  leave(m);
  return zapped;
}

function zap_pte(kvm: Kvm, sp: KvmMmuPage, sptep: number, invalid: KvmMmuPage[] | null): number {
  const m = kvm.machine;
  const lo = m.mem.readLo(sptep);
  const hi = m.mem.readHi(sptep);
  if (m.spte.isPresent(lo, hi)) {
    if (m.spte.isLast(lo, role_get(sp.role, m.roles.level))) {
      drop_spte(kvm, sptep);
    } else {
      const child = kvm.sp_by_pfn.get(m.spte.pfn(lo, hi));
      if (child) {
        drop_parent_pte(kvm, child, sptep);
        // Nested TDP: a page of L2 without parents is garbage that nobody would find again.
        if (m.tdpEnabled && invalid && role_get(child.role, m.roles.guest_mode) && child.parent_ptes.size === 0)
          return kvm_mmu_prepare_zap_page(kvm, child, invalid, -1) ? 1 : 0;
      }
    }
  } else if (m.spte.isMmio(lo, hi)) {
    m.mem.writeQ(sptep, m.spte.nonpresentLo, m.spte.nonpresentHi);
  }
  return 0;
}

/** kvm_mmu_prepare_zap_page(): {@link __kvm_mmu_prepare_zap_page} for callers that do not go through a list. */
export function kvm_mmu_prepare_zap_page(kvm: Kvm, sp: KvmMmuPage, invalid: KvmMmuPage[], vcpu: number): boolean {
  const m = kvm.machine;
  enter(m, 'kvm_mmu_prepare_zap_page', vcpu, sp);
  const any = __kvm_mmu_prepare_zap_page(kvm, sp, invalid, vcpu);
  leave(m);
  return any;
}

/**
 * __kvm_mmu_prepare_zap_page(): empties a page, unlinks it and puts it on `invalid`; a page in use as a root stays, marked invalid.
 * The pages are freed by {@link kvm_mmu_commit_zap_page} after its TLB flush.
 */
export function __kvm_mmu_prepare_zap_page(kvm: Kvm, sp: KvmMmuPage, invalid: KvmMmuPage[], vcpu: number): boolean {
  const m = kvm.machine;
  const R = m.roles;
  enter(m, '__kvm_mmu_prepare_zap_page', vcpu, sp);
  emit(m, (o) => o.event({ kind: 'kvm_mmu_prepare_zap_page', ...pageFields(sp, vcpu) }));
  const before = invalid.length;
  mmu_zap_unsync_children(kvm, sp, invalid);
  enter(m, 'kvm_mmu_page_unlink_children', vcpu, sp);
  for (let i = 0; i < 512; i++) {
    const sptep = sp.spt * 4096 + i * 8;
    if (!m.spte.isNonpresent(m.mem.readLo(sptep), m.mem.readHi(sptep))) mmu_page_zap_pte(kvm, sp, sptep, invalid);
  }
  leave(m);
  enter(m, 'kvm_mmu_unlink_parents', vcpu, sp);
  for (const parent of [...sp.parent_ptes]) drop_parent_pte(kvm, sp, parent);
  leave(m);
  const wasInvalid = role_get(sp.role, R.invalid) === 1;
  if (!wasInvalid && sp_has_gptes(m, sp)) unaccount_shadowed(kvm, sp);
  if (sp.unsync) kvm_unlink_unsync_page(kvm, sp);
  if (sp.root_count === 0) {
    invalid.push(sp);
    kvm.active_mmu_pages.delete(sp);
    kvm.n_used_mmu_pages--;
  } else {
    kvm.active_mmu_pages.delete(sp);
    if (!is_obsolete_sp(kvm, sp)) kvm_make_all_cpus_request(kvm, 'MMU_FREE_OBSOLETE_ROOTS');
  }
  sp.role = role_put(sp.role, R.invalid, 1);
  leave(m);
  return invalid.length > before;
}

/** kvm_mmu_commit_zap_page(): one flush of all TLBs, then the pages are free. */
export function kvm_mmu_commit_zap_page(kvm: Kvm, invalid: KvmMmuPage[]): void {
  if (!invalid.length) return;
  const m = kvm.machine;
  enter(m, 'kvm_mmu_commit_zap_page', -1, invalid);
  kvm_flush_remote_tlbs(kvm, 'shadow pages are being freed');
  for (const sp of invalid) kvm_mmu_free_shadow_page(kvm, sp);
  invalid.length = 0;
  leave(m);
}

function kvm_mmu_free_shadow_page(kvm: Kvm, sp: KvmMmuPage): void {
  enter(kvm.machine, 'kvm_mmu_free_shadow_page', -1, sp);
  const bucket = kvm.mmu_page_hash.get(sp.gfn);
  if (bucket) {
    const rest = bucket.filter((x) => x !== sp);
    if (rest.length) kvm.mmu_page_hash.set(sp.gfn, rest);
    else kvm.mmu_page_hash.delete(sp.gfn);
  }
  kvm.sp_by_pfn.delete(sp.spt);
  kvm.machine.host.freePage(sp.spt);
  leave(kvm.machine);
}

/** for_each_gfn_valid_sp_with_gptes() */
export function* gfn_valid_sp_with_gptes(kvm: Kvm, gfn: number): Generator<KvmMmuPage> {
  for (const sp of [...(kvm.mmu_page_hash.get(gfn) ?? [])])
    if (!is_obsolete_sp(kvm, sp) && sp_has_gptes(kvm.machine, sp)) yield sp;
}

/** make_mmu_pages_available(): recycles the oldest pages. @returns false for the kernel's -ENOSPC. */
export function make_mmu_pages_available(vcpu: KvmVcpu): boolean {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const available = (): number => Math.max(kvm.n_max_mmu_pages - kvm.n_used_mmu_pages, 0);
  enter(m, 'make_mmu_pages_available', vcpu.vcpu_id, null);
  if (available() >= 5) {
    leave(m);
    return true;
  }
  const invalid: KvmMmuPage[] = [];
  for (const sp of [...kvm.active_mmu_pages]) {
    if (available() >= 25) break;
    // Zapping one page may have zapped this one with it.
    if (sp.root_count || !kvm.active_mmu_pages.has(sp)) continue;
    __kvm_mmu_prepare_zap_page(kvm, sp, invalid, vcpu.vcpu_id);
  }
  kvm_mmu_commit_zap_page(kvm, invalid);
  leave(m);
  return available() > 0;
}

/** The slot that a page's own bookkeeping uses: role.smm picks the address space (seed 0). */
export function slotOfPage(kvm: Kvm, sp: KvmMmuPage, gfn: number): KvmMemorySlot | null {
  return search_role(kvm, sp.role, gfn);
}

/** update_gfn_disallow_lpage_count() */
export function update_gfn_disallow_lpage_count(slot: KvmMemorySlot, gfn: number, count: number): void {
  for (const level of [2, 3]) slot.arch.lpage_info[level - 2][gfn_to_index(gfn, slot.base_gfn, level)] += count;
}
