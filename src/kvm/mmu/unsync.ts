/**
 * Unsync pages: leaf-level guest tables that the guest writes without exits until the next sync.
 * Facts: reference kvm-mmu-model.md chapters 18 and 19.
 */
import { emit, enter, leave } from '../observer';
import type { Kvm, KvmMemorySlot, KvmMmuPage, KvmVcpu } from '../kvm_host';
import { role_get } from '../roles';
import { kvm_flush_remote_tlbs } from '../x86_requests';
import {
  gfn_valid_sp_with_gptes,
  kvm_mmu_commit_zap_page,
  kvm_mmu_prepare_zap_page,
  pageFields,
  spte_index,
  sptep_to_sp,
} from './pages';
import { kvm_mmu_slot_gfn_write_protect, kvm_slot_page_track_is_active } from './track';
import { sync_page } from './sync_page';
import { slotOfPage } from './pages';

const EPERM = 1;
const EEXIST = 17;

/**
 * mmu_try_to_unsync_pages(): may a writable spte for gfn be made?
 * @returns 0 (every page table of this gfn is unsync now), -EPERM (it must stay write-protected), -EEXIST (prefetch does not unsync)
 */
export function mmu_try_to_unsync_pages(
  vcpu: KvmVcpu,
  slot: KvmMemorySlot | null,
  gfn: number,
  can_unsync: boolean,
  prefetch: boolean,
): number {
  const kvm = vcpu.kvm;
  if (kvm.indirect_shadow_pages === 0) return 0;
  const m = kvm.machine;
  enter(m, 'mmu_try_to_unsync_pages', vcpu.vcpu_id, slot);
  const r = tryToUnsync(vcpu, slot, gfn, can_unsync, prefetch);
  leave(m);
  return r;
}

function tryToUnsync(
  vcpu: KvmVcpu,
  slot: KvmMemorySlot | null,
  gfn: number,
  can_unsync: boolean,
  prefetch: boolean,
): number {
  const kvm = vcpu.kvm;
  if (kvm_slot_page_track_is_active(slot, gfn)) return -EPERM;
  for (const sp of gfn_valid_sp_with_gptes(kvm, gfn)) {
    if (!can_unsync) return -EPERM;
    if (sp.unsync) continue;
    if (prefetch && !kvm.machine.caps.prefetchUnsyncs) return -EEXIST;
    if (role_get(sp.role, kvm.machine.roles.level) > 1) {
      // Upper tables are write-tracked in their own address space only, so a write to this frame number in the other one comes here. The
      // kernel WARNs and goes on to mark the page; a sync of it would then take tables for leaves.
      kvm.machine.warn(
        `WARN_ON(sp->role.level != PG_LEVEL_4K) in mmu_try_to_unsync_pages(): gfn 0x${gfn.toString(16)} is a guest table of level ${role_get(sp.role, kvm.machine.roles.level)} in the other address space`,
      );
      continue;
    }
    enter(kvm.machine, 'kvm_unsync_pages', vcpu.vcpu_id, null);
    kvm_unsync_page(kvm, sp, vcpu.vcpu_id);
    leave(kvm.machine);
  }
  return 0;
}

function kvm_unsync_page(kvm: Kvm, sp: KvmMmuPage, vcpu: number): void {
  const m = kvm.machine;
  enter(m, 'kvm_unsync_page', vcpu, sp);
  emit(m, (o) => o.event({ kind: 'kvm_mmu_unsync_page', ...pageFields(sp, vcpu) }));
  sp.unsync = true;
  enter(m, 'kvm_mmu_mark_parents_unsync', vcpu, sp);
  kvm_mmu_mark_parents_unsync(kvm, sp);
  leave(m);
  leave(m);
}

/** kvm_mmu_mark_parents_unsync() */
export function kvm_mmu_mark_parents_unsync(kvm: Kvm, sp: KvmMmuPage): void {
  for (const parent of sp.parent_ptes) mark_unsync(kvm, parent);
}

/** mark_unsync(): the bit of this entry, and upwards while a page gets its first one. */
export function mark_unsync(kvm: Kvm, sptep: number): void {
  const sp = sptep_to_sp(kvm, sptep);
  if (!sp) return;
  const i = spte_index(sptep);
  sp.unsync_child_bitmap ??= new Uint32Array(16);
  if (sp.unsync_child_bitmap[i >>> 5] & (1 << (i & 31))) return;
  sp.unsync_child_bitmap[i >>> 5] |= 1 << (i & 31);
  if (sp.unsync_children++ > 0) return;
  kvm_mmu_mark_parents_unsync(kvm, sp);
}

/** kvm_unlink_unsync_page(): the page is no longer unsync. */
export function kvm_unlink_unsync_page(kvm: Kvm, sp: KvmMmuPage): void {
  const m = kvm.machine;
  emit(m, (o) => o.event({ kind: 'kvm_mmu_sync_page', ...pageFields(sp, -1) }));
  sp.unsync = false;
}

/**
 * kvm_sync_page(): takes over what the guest's entries say now. The page stays unsync and its table writable (v6.1): only who
 * write-protects the table first may call it synchronised.
 * @returns -1 and zapped if its role no longer fits, else whether a TLB flush is due
 */
export function kvm_sync_page(vcpu: KvmVcpu, sp: KvmMmuPage, invalid: KvmMmuPage[]): number {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_sync_page', vcpu.vcpu_id, sp);
  const r = sync_page(vcpu, sp);
  if (r < 0) kvm_mmu_prepare_zap_page(vcpu.kvm, sp, invalid, vcpu.vcpu_id);
  leave(m);
  return r;
}

interface UnsyncEntry {
  sp: KvmMmuPage;
  /** (parent, index) from the leaf's parent to the top */
  parents: [KvmMmuPage, number][];
}

/** mmu_unsync_walk(): up to `limit` unsync pages below a page, each once (mmu_pages_add()) however many entries point to it. */
function mmu_unsync_walk(kvm: Kvm, top: KvmMmuPage, limit: number): UnsyncEntry[] {
  const m = kvm.machine;
  const out: UnsyncEntry[] = [];
  /** @returns whether anything unsync is below */
  const walk = (sp: KvmMmuPage, path: [KvmMmuPage, number][]): boolean => {
    const bits = sp.unsync_child_bitmap;
    let found = false;
    if (!bits) return found;
    for (let i = 0; i < 512 && out.length < limit; i++) {
      if (!(bits[i >>> 5] & (1 << (i & 31)))) continue;
      const sptep = sp.spt * 4096 + i * 8;
      const lo = m.mem.readLo(sptep);
      const hi = m.mem.readHi(sptep);
      const child = m.spte.isPresent(lo, hi) && !(lo & 0x80) ? kvm.sp_by_pfn.get(m.spte.pfn(lo, hi)) : undefined;
      const here: [KvmMmuPage, number][] = [[sp, i], ...path];
      if (child?.unsync_children) {
        if (walk(child, here)) found = true;
        else clear_unsync_child_bit(sp, i);
      } else if (child?.unsync) {
        found = true;
        if (!out.some((e) => e.sp === child)) out.push({ sp: child, parents: here });
      } else clear_unsync_child_bit(sp, i);
    }
    return found;
  };
  if (top.unsync) out.push({ sp: top, parents: [] });
  if (top.unsync_children) walk(top, []);
  return out;
}

function clear_unsync_child_bit(sp: KvmMmuPage, i: number): void {
  const bits = sp.unsync_child_bitmap;
  if (!bits || !(bits[i >>> 5] & (1 << (i & 31)))) return;
  bits[i >>> 5] &= ~(1 << (i & 31));
  sp.unsync_children--;
}

function mmu_pages_clear_parents(e: UnsyncEntry): void {
  for (const [sp, i] of e.parents) {
    clear_unsync_child_bit(sp, i);
    if (sp.unsync_children) break;
  }
}

/** mmu_sync_children(): brings everything unsync below a page up to date. */
export function mmu_sync_children(vcpu: KvmVcpu, parent: KvmMmuPage): void {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  const invalid: KvmMmuPage[] = [];
  enter(m, 'mmu_sync_children', vcpu.vcpu_id, parent);
  for (;;) {
    const batch = mmu_unsync_walk(kvm, parent, 16);
    if (!batch.length) break;
    let protect = false;
    for (const e of batch) {
      const slot = slotOfPage(kvm, e.sp, e.sp.gfn);
      if (slot) protect = kvm_mmu_slot_gfn_write_protect(kvm, slot, e.sp.gfn, 1) || protect;
    }
    let flush = false;
    if (protect) kvm_flush_remote_tlbs(kvm, 'guest tables were write-protected before a sync');
    for (const e of batch) {
      kvm_unlink_unsync_page(kvm, e.sp);
      flush = kvm_sync_page(vcpu, e.sp, invalid) > 0 || flush;
      mmu_pages_clear_parents(e);
    }
    if (invalid.length) kvm_mmu_commit_zap_page(kvm, invalid);
    else if (flush) kvm_flush_remote_tlbs(kvm, 'sptes changed in a sync');
  }
  leave(m);
}

/** mmu_zap_unsync_children() */
export function mmu_zap_unsync_children(kvm: Kvm, parent: KvmMmuPage, invalid: KvmMmuPage[]): void {
  if (role_get(parent.role, kvm.machine.roles.level) === 1) return;
  enter(kvm.machine, 'mmu_zap_unsync_children', -1, parent);
  for (;;) {
    const batch = mmu_unsync_walk(kvm, parent, 16).filter((e) => e.sp !== parent);
    if (!batch.length) break;
    for (const e of batch) {
      kvm_mmu_prepare_zap_page(kvm, e.sp, invalid, -1);
      mmu_pages_clear_parents(e);
    }
  }
  leave(kvm.machine);
}
