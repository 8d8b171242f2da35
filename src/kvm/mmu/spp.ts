/**
 * arch/x86/kvm/mmu/spp.c of the sub-page permission patches (never merged): the SPPT, its ioctls, the processor's SPP exits.
 * Facts: reference kvm-mmu-model.md chapter 25, seed 4, and the later postings.
 *
 * The two kernels that have it differ in the root: the 2018 RFC has one SPPT for each kvm_mmu, made and dropped with its EPT root; the
 * series of 2020 has one for the VM. Everything else is alike. Access maps have a bit for each sub-page of 128 bytes, 1 = writable.
 */
import { emit, enter, leave } from '../observer';
import type { Machine } from '../machine';
import { EINVAL, kvm_slot_dirty_track_enabled, kvm_vcpu_gfn_to_memslot, type IoctlResult } from '../kvm_main';
import {
  ACC_ALL,
  INVALID_PAGE,
  is_guest_mode,
  type Kvm,
  type KvmMemorySlot,
  type KvmMmu,
  type KvmMmuPage,
  type KvmVcpu,
} from '../kvm_host';
import { role_get, role_put } from '../roles';
import { peek_mode } from '../smram';
import { kvm_flush_remote_tlbs } from '../x86_requests';
import { kvm_mmu_alloc_shadow_page, pageFields } from './pages';
import { drop_spte, rmapOf } from './rmap';
import { root_to_sp } from './roots';
import { userExit } from '../kvm_run';

/** Every sub-page is writable: what a page has that nobody restricted. */
export const FULL_ACCESS = 0xffffffff;
/** The SPPT has four levels whatever EPT has (SDM). */
const SPPT_LEVELS = 4;

const ENODEV = 19;
const EPERM = 1;
const EFAULT = 14;

/** Most pages of one ioctl: SUBPAGE_MAX_BITMAP, 512 in the later postings. */
export const subpageLimit = (m: Machine): number => (m.caps.spp === 'rfc-2018' ? 64 : 512);

/** Outcome of KVM_SUBPAGES_GET_ACCESS: as any ioctl, and the maps. */
export interface SubpagesResult extends IoctlResult {
  /** pages done, which is what the ioctl returns */
  readonly npages: number;
  readonly access: readonly number[];
}

/** The access map of a frame. */
export const subpage_access = (slot: KvmMemorySlot | null, gfn: number): number =>
  slot?.arch.subpage_wp_info?.get(gfn - slot.base_gfn) ?? FULL_ACCESS;

/** Root of the SPPT that a vCPU's processor uses, or INVALID_PAGE. */
export const sppt_root_of = (vcpu: KvmVcpu): number =>
  vcpu.kvm.machine.caps.spp === 'v12' ? vcpu.kvm.sppt_root : vcpu.root_mmu.sppt_root;

/** check_spp_protection(): a huge page must not cover a frame with restricted sub-pages. */
export function spp_protects_range(slot: KvmMemorySlot, gfn: number, level: number): boolean {
  const maps = slot.arch.subpage_wp_info;
  if (!maps || maps.size === 0) return false;
  const pages = 512 ** (level - 1);
  const first = gfn - (gfn % pages) - slot.base_gfn;
  for (const index of maps.keys()) if (index >= first && index < first + pages) return true;
  return false;
}

// ---- Pages ----

/** kvm_mmu_get_spp_page() of the RFC, kvm_spp_get_page() later. Only the later one looks for a page that exists. */
function kvm_spp_get_page(vcpu: KvmVcpu, gfn: number, level: number): KvmMmuPage {
  const { kvm } = vcpu;
  const m = kvm.machine;
  const R = m.roles;
  const rfc = m.caps.spp === 'rfc-2018';
  enter(m, 'kvm_spp_get_page', vcpu.vcpu_id, null);
  let role = vcpu.root_mmu.root_role;
  role = role_put(role, R.level, level);
  role = role_put(role, R.direct, 1);
  role = role_put(role, R.access, ACC_ALL);
  role = role_put(role, R.spp, 1);
  const base = gfn - (gfn % 512 ** level);
  let sp = rfc
    ? undefined
    : kvm.mmu_page_hash.get(base)?.find((p) => p.role === role && p.mmu_valid_gen === kvm.mmu_valid_gen);
  const created = sp ? 0 : 1;
  sp ??= kvm_mmu_alloc_shadow_page(vcpu, base, role);
  const page = sp;
  emit(m, (o) => o.event({ kind: 'kvm_mmu_get_page', ...pageFields(page, vcpu.vcpu_id), created }));
  leave(m);
  return sp;
}

/** mmu_alloc_direct_roots(): the SPPT root beside the EPT root. */
export function mmu_alloc_sppt_root(vcpu: KvmVcpu, mmu: KvmMmu): void {
  const { kvm } = vcpu;
  const m = kvm.machine;
  if (!m.sppEnabled || mmu !== vcpu.root_mmu) return;
  if (m.caps.spp === 'v12') {
    if (kvm.sppt_root !== INVALID_PAGE) return;
    const sp = kvm_spp_get_page(vcpu, 0, SPPT_LEVELS);
    sp.root_count++;
    kvm.sppt_root = sp.spt * 4096;
    return;
  }
  // The RFC takes the level of EPT; with five levels that could not work, so four are meant.
  const sp = kvm_spp_get_page(vcpu, 0, SPPT_LEVELS);
  sp.root_count++;
  mmu.sppt_root = sp.spt * 4096;
}

/**
 * kvm_mmu_free_roots(): the SPPT root goes with the EPT root (RFC), or when it is obsolete (one for the VM).
 * @param put mmu_free_root_page()
 */
export function free_sppt_root(kvm: Kvm, mmu: KvmMmu, put: (hpa: number) => void): void {
  const m = kvm.machine;
  if (!m.sppEnabled) return;
  if (mmu.sppt_root !== INVALID_PAGE) {
    put(mmu.sppt_root);
    mmu.sppt_root = INVALID_PAGE;
  }
  free_obsolete_sppt_root(kvm, put);
}

/** The SPPT root of the VM goes when it was zapped: no vCPU may load it again, also one that has no EPT root to free. */
export function free_obsolete_sppt_root(kvm: Kvm, put: (hpa: number) => void): void {
  const m = kvm.machine;
  const shared = root_to_sp(kvm, kvm.sppt_root);
  if (shared && role_get(shared.role, m.roles.invalid)) {
    put(kvm.sppt_root);
    kvm.sppt_root = INVALID_PAGE;
  }
}

/** What zapping an SPPT page does to one entry: a vector is cleared, a table loses its parent. */
export function zap_spp_entry(kvm: Kvm, sp: KvmMmuPage, sptep: number): void {
  const m = kvm.machine;
  if (role_get(sp.role, m.roles.level) > 1)
    kvm.sp_by_pfn.get(m.spte.pfn(m.mem.readLo(sptep), m.mem.readHi(sptep)))?.parent_ptes.delete(sptep);
  m.mem.writeQ(sptep, 0, 0);
}

// ---- Entries ----

/** format_spp_spte(): bit i of a map becomes bit 2i of the vector; the odd bits are reserved. The halves of one 64-bit word. */
export function format_spp_spte(access: number): { lo: number; hi: number } {
  const spread = (half: number): number => {
    let out = 0;
    for (let i = 0; i < 16; i++) if ((half >>> i) & 1) out |= 1 << (2 * i);
    return out >>> 0;
  };
  return { lo: spread(access & 0xffff), hi: spread(access >>> 16) };
}

const is_spp_shadow_present = (lo: number): boolean => (lo & 1) !== 0;

/** Address of the SPPT entry of a frame at a level, below a root; INVALID_PAGE where a table is missing or not valid. */
export function sppt_entry(m: Machine, root: number, gfn: number, level: number, through: 'valid' | 'any'): number {
  let table = root / 4096;
  for (let l = SPPT_LEVELS; ; l--) {
    const at = table * 4096 + (Math.floor(gfn / 512 ** (l - 1)) % 512) * 8;
    if (l === level) return at;
    const lo = m.mem.readLo(at);
    const pfn = m.spte.pfn(lo, m.mem.readHi(at));
    if (through === 'valid' ? !is_spp_shadow_present(lo) : pfn === 0) return INVALID_PAGE;
    table = pfn;
  }
}

/** kvm_spp_setup_structure(): answers an SPP miss: tables down to the vectors, and all 512 vectors of the block. */
export function kvm_spp_setup_structure(vcpu: KvmVcpu, gfn: number): void {
  const { kvm } = vcpu;
  const m = kvm.machine;
  enter(m, 'kvm_spp_setup_structure', vcpu.vcpu_id, null);
  let table = sppt_root_of(vcpu) / 4096;
  for (let level = SPPT_LEVELS; level > 1; level--) {
    const at = table * 4096 + (Math.floor(gfn / 512 ** (level - 1)) % 512) * 8;
    const lo = m.mem.readLo(at);
    let pfn = m.spte.pfn(lo, m.mem.readHi(at));
    if (pfn === 0) pfn = link_spp_shadow_page(vcpu, at, kvm_spp_get_page(vcpu, gfn, level - 1));
    // The valid bit alone was taken away by spp_flush_sppt(): the address still holds.
    else if (!is_spp_shadow_present(lo)) m.mem.writeQ(at, (lo | 1) >>> 0, m.mem.readHi(at));
    table = pfn;
  }
  const first = gfn - (gfn % 512);
  for (let i = 0; i < 512; i++) {
    const slot = kvm_vcpu_gfn_to_memslot_quietly(vcpu, first + i);
    const access = subpage_access(slot, first + i);
    // Frames only where a map says something: all 512 are rebuilt.
    if (access !== FULL_ACCESS) enter(m, 'format_spp_spte', vcpu.vcpu_id, slot);
    const { lo, hi } = format_spp_spte(access);
    m.mem.writeQ(table * 4096 + i * 8, lo, hi);
    if (access !== FULL_ACCESS) leave(m);
  }
  kvm_flush_remote_tlbs(kvm, 'a block of the SPPT was filled');
  leave(m);
}

/** The slot for bookkeeping of a whole block: no look-up of the guest's. */
const kvm_vcpu_gfn_to_memslot_quietly = (vcpu: KvmVcpu, gfn: number): KvmMemorySlot | null =>
  peek_mode(vcpu.kvm.machine, false, gfn);

function link_spp_shadow_page(vcpu: KvmVcpu, sptep: number, sp: KvmMmuPage): number {
  const m = vcpu.kvm.machine;
  enter(m, 'link_spp_shadow_page', vcpu.vcpu_id, sp);
  m.mem.writeQ(sptep, ((sp.spt << 12) | 1) >>> 0, Math.floor(sp.spt / 0x100000));
  sp.parent_ptes.add(sptep);
  leave(m);
  return sp.spt;
}

// ---- Leaves of EPT ----

/** Whether a leaf sends writes to the SPPT (bit 61), or would (bit 55) were it not protected for another reason. */
export function is_spp_spte(m: Machine, lo: number, hi: number): 'armed' | 'saved' | 'no' {
  const { spp } = m.spte.masks;
  if (!m.sppEnabled) return 'no';
  if (((lo & spp.lo) | (hi & spp.hi)) !== 0) return 'armed';
  return (hi & SPP_SAVED_HI) !== 0 ? 'saved' : 'no';
}

const SPP_SAVED_HI = 1 << 23;

/**
 * make_spte(): a 4K leaf of a restricted frame is never writable; the SPP bit takes the place of W. Changes `m.spte.lo/hi`.
 * @returns whether it did: some sub-pages can be written without an exit
 */
export function spp_mark_new_leaf(m: Machine, slot: KvmMemorySlot | null, gfn: number, level: number): boolean {
  if (level !== 1 || subpage_access(slot, gfn) === FULL_ACCESS) return false;
  const s = m.spte;
  s.lo = (s.lo & ~2) >>> 0;
  s.hi = (s.hi | s.masks.spp.hi) >>> 0;
  return true;
}

/** spte_write_protect(): while a leaf is protected for the dirty log no write may go through the SPPT unnoticed. */
export function spp_save(m: Machine, sptep: number): boolean {
  const hi = m.mem.readHi(sptep);
  if (!m.sppEnabled || !(hi & m.spte.masks.spp.hi)) return false;
  m.mem.writeQ(sptep, m.mem.readLo(sptep), ((hi & ~m.spte.masks.spp.hi) | SPP_SAVED_HI) >>> 0);
  return true;
}

/** fast_page_fault(): a leaf that was protected for the dirty log gets its SPP bit back in place of W. Changes `m.spte.lo/hi`. */
export function spp_restore(m: Machine): void {
  const s = m.spte;
  s.lo = (s.lo & ~2) >>> 0;
  s.hi = ((s.hi & ~SPP_SAVED_HI) | s.masks.spp.hi) >>> 0;
}

const is_dirty = (slot: KvmMemorySlot, gfn: number): boolean => {
  const page = gfn - slot.base_gfn;
  return slot.dirty_bitmap !== null && ((slot.dirty_bitmap[page >>> 5] >>> (page & 31)) & 1) === 1;
};

/** kvm_spp_mark_protection(): what a leaf that exists becomes when its frame's map changes. */
function kvm_spp_mark_protection(kvm: Kvm, slot: KvmMemorySlot, gfn: number, access: number): void {
  const m = kvm.machine;
  enter(m, 'kvm_spp_mark_protection', -1, slot);
  for (let level = 2; level <= 3; level++) for (const sptep of [...rmapOf(slot, gfn, level)]) drop_spte(kvm, sptep);
  for (const sptep of rmapOf(slot, gfn, 1)) {
    enter(m, 'kvm_spp_update_write_protect', -1, slot);
    const { spp } = m.spte.masks;
    const lo = m.mem.readLo(sptep);
    const hi = m.mem.readHi(sptep) & ~SPP_SAVED_HI;
    // While the page is protected for the dirty log the first write has to be noticed, as after spp_save().
    const unseen = kvm_slot_dirty_track_enabled(slot) && !m.config.pml && !is_dirty(slot, gfn);
    if (access === FULL_ACCESS) m.mem.writeQ(sptep, lo, (hi & ~spp.hi) >>> 0);
    else if (unseen) m.mem.writeQ(sptep, (lo & ~2) >>> 0, ((hi & ~spp.hi) | SPP_SAVED_HI) >>> 0);
    else m.mem.writeQ(sptep, (lo & ~2) >>> 0, (hi | spp.hi) >>> 0);
    leave(m);
  }
  leave(m);
}

/** spp_flush_sppt(): takes the valid bit of the level-2 entry, so that the processor asks again; the address stays. */
function spp_flush_sppt(kvm: Kvm, gfn: number): void {
  const m = kvm.machine;
  enter(m, 'spp_flush_sppt', -1, null);
  const roots = m.caps.spp === 'v12' ? [kvm.sppt_root] : kvm.vcpus.map((v) => v.root_mmu.sppt_root);
  for (const root of roots) {
    const at = root === INVALID_PAGE ? INVALID_PAGE : sppt_entry(m, root, gfn, 2, 'valid');
    if (at !== INVALID_PAGE) m.mem.writeQ(at, (m.mem.readLo(at) & ~1) >>> 0, m.mem.readHi(at));
  }
  leave(m);
}

// ---- Ioctls ----

function refuse(m: Machine, npages: number): IoctlResult | null {
  if (!m.sppEnabled)
    return {
      errno: -ENODEV,
      text: `-ENODEV: sub-page permissions are not active${m.caps.spp === 'absent' ? `: kernel ${m.caps.kernel.name} does not have them, choose spp-rfc-2018 or spp-v12` : ''}`,
    };
  if (npages > subpageLimit(m))
    return {
      errno: -EINVAL,
      text: `-EINVAL: ${npages} pages are more than the ${subpageLimit(m)} that one call takes`,
    };
  if (m.vcpus.some((v) => is_guest_mode(v)))
    return { errno: -EPERM, text: '-EPERM: sub-page permissions and nested guests exclude each other' };
  return null;
}

const noSlot = (gfn: number): string => `-EFAULT: no memslot holds gfn 0x${gfn.toString(16)}`;

/** KVM_SUBPAGES_SET_ACCESS: one map for each page from gfn_base on. */
export function kvm_vm_ioctl_set_subpages(kvm: Kvm, gfn_base: number, maps: readonly number[]): SubpagesResult {
  const m = kvm.machine;
  enter(m, 'kvm_vm_ioctl', -1, null);
  enter(m, 'kvm_vm_ioctl_set_subpages', -1, { gfn_base, maps });
  const result = ((): SubpagesResult => {
    const no = refuse(m, maps.length);
    if (no) return { ...no, npages: 0, access: [] };
    enter(m, 'kvm_spp_set_permission', -1, { gfn_base, maps });
    const done = set();
    leave(m);
    return done;
  })();
  leave(m);
  leave(m);
  return result;

  function set(): SubpagesResult {
    let npages = 0;
    for (const [i, access] of maps.entries()) {
      const gfn = gfn_base + i;
      const slot = peek_mode(m, false, gfn);
      if (!slot) {
        if (npages) kvm_flush_remote_tlbs(kvm, 'sub-page permissions changed as far as there is memory');
        return { errno: -EFAULT, text: noSlot(gfn), npages, access: [] };
      }
      const info = (slot.arch.subpage_wp_info ??= new Map());
      if (access >>> 0 === FULL_ACCESS) info.delete(gfn - slot.base_gfn);
      else info.set(gfn - slot.base_gfn, access >>> 0);
      spp_flush_sppt(kvm, gfn);
      kvm_spp_mark_protection(kvm, slot, gfn, access >>> 0);
      npages++;
    }
    if (npages) {
      emit(m, (o) =>
        o.event({ kind: 'kvm_spp_set_subpages', vcpu: -1, gfn: BigInt(gfn_base), npages, access: maps[0] >>> 0 }),
      );
      kvm_flush_remote_tlbs(kvm, 'sub-page permissions changed');
    }
    return { errno: 0, text: 'ok', npages, access: [] };
  }
}

/** KVM_SUBPAGES_GET_ACCESS. */
export function kvm_vm_ioctl_get_subpages(kvm: Kvm, gfn_base: number, npages: number): SubpagesResult {
  const m = kvm.machine;
  enter(m, 'kvm_vm_ioctl_get_subpages', -1, { gfn_base, npages });
  const result = ((): SubpagesResult => {
    const no = refuse(m, npages);
    if (no) return { ...no, npages: 0, access: [] };
    const access: number[] = [];
    for (let gfn = gfn_base; gfn < gfn_base + npages; gfn++) {
      const slot = peek_mode(m, false, gfn);
      if (!slot) return { errno: -EFAULT, text: noSlot(gfn), npages: access.length, access };
      access.push(subpage_access(slot, gfn));
    }
    return { errno: 0, text: 'ok', npages, access };
  })();
  leave(m);
  return result;
}

// ---- Faults ----

/**
 * fast_page_fault() of the series: a write that the SPPT refuses is user space's to judge (KVM_EXIT_SPP).
 * @returns false when the sub-page is writable by now: the guest tries again
 */
export function spp_induced_page_fault(vcpu: KvmVcpu, gpa: number): boolean {
  const m = vcpu.kvm.machine;
  const gfn = Math.floor(gpa / 4096);
  const slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
  // KVM looks at the address alone; with the size, a write that reaches into a forbidden sub-page does not try forever.
  const bytes = vcpu.translator.accessSize;
  const first = Math.floor((gpa % 4096) / 128);
  const last = Math.floor(Math.min(4095, (gpa % 4096) + bytes - 1) / 128);
  const map = subpage_access(slot, gfn);
  let allowed = true;
  for (let i = first; i <= last; i++) if (!((map >>> i) & 1)) allowed = false;
  if (allowed) return false;
  const insn_len = m.exitInsnLength;
  emit(m, (o) => o.event({ kind: 'kvm_spp_induced_page_fault', vcpu: vcpu.vcpu_id, gpa: BigInt(gpa), insn_len }));
  userExit(m, { reason: 'spp', gpa, insn_len });
  return true;
}
