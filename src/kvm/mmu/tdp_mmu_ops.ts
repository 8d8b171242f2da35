/**
 * arch/x86/kvm/mmu/tdp_mmu.c: operations on a whole tree: zapping, write protection. The fault path is in tdp_mmu.ts.
 * Facts: reference kvm-mmu-model.md chapter 15.
 */
import { emit, enter, leave } from '../observer';
import { KvmMmuPage, type Kvm, type KvmMemorySlot } from '../kvm_host';
import type { Machine } from '../machine';
import { role_get, role_put } from '../roles';
import { mark_page_dirty_in_slot } from '../kvm_main';
import { role_sees_slot, search_role } from '../smram';
import { kvm_flush_remote_tlbs_with_address } from '../x86_requests';
import { kvm_mmu_role_as_id, pageFields } from './pages';

const hex64 = (lo: number, hi: number): bigint => (BigInt(hi) << 32n) | BigInt(lo);

/** tdp_mmu_init_sp(): a fresh page of the TDP MMU; it is not linked yet. `vcpu` -1: made by an ioctl. */
export function tdp_mmu_init_sp_of(kvm: Kvm, gfn: number, role: number, ptep: number, vcpu: number): KvmMmuPage {
  const m = kvm.machine;
  const sp = new KvmMmuPage();
  sp.spt = m.host.allocPage(m.spte.nonpresentLo, m.spte.nonpresentHi);
  sp.gfn = gfn;
  sp.role = role;
  sp.ptep = ptep;
  sp.tdp_mmu_page = true;
  kvm.sp_by_pfn.set(sp.spt, sp);
  emit(m, (o) => o.event({ kind: 'kvm_mmu_get_page', ...pageFields(sp, vcpu), created: 1 }));
  return sp;
}

/** tdp_mmu_set_spte()/…_atomic(): writes an entry and lets everything follow that a change entails. */
export function tdp_mmu_set_spte(
  kvm: Kvm,
  root: KvmMmuPage,
  sptep: number,
  gfn: number,
  level: number,
  lo: number,
  hi: number,
  shared: boolean,
  vcpu: number,
): void {
  const m = kvm.machine;
  enter(m, shared ? 'tdp_mmu_set_spte_atomic' : 'tdp_mmu_set_spte', vcpu, root);
  const oldLo = m.mem.readLo(sptep);
  const oldHi = m.mem.readHi(sptep);
  m.mem.writeQ(sptep, lo, hi);
  const as_id = kvm_mmu_role_as_id(m, root.role);
  handle_changed_spte(kvm, as_id, gfn, oldLo, oldHi, lo, hi, level, shared, vcpu);
  if (!shared && level === 1 && m.spte.isWritable(lo) && m.spte.isPresent(lo, hi)) {
    const pfnChanged = m.spte.pfn(oldLo, oldHi) !== m.spte.pfn(lo, hi);
    if (!m.spte.isWritable(oldLo) || pfnChanged) mark_page_dirty_in_slot(search_role(kvm, root.role, gfn), gfn);
  }
  leave(m);
}

/** Writes SHADOW_NONPRESENT_VALUE; no vCPU of its own: an ioctl or a worker does this. */
export function tdp_mmu_clear_spte(
  kvm: Kvm,
  root: KvmMmuPage,
  sptep: number,
  gfn: number,
  level: number,
  shared: boolean,
): void {
  const { nonpresentLo, nonpresentHi } = kvm.machine.spte;
  tdp_mmu_set_spte(kvm, root, sptep, gfn, level, nonpresentLo, nonpresentHi, shared, -1);
}

/** tdp_mmu_zap_spte_atomic(): nobody may use the entry until every TLB has forgotten it. */
export function tdp_mmu_zap_spte_atomic(
  kvm: Kvm,
  root: KvmMmuPage,
  sptep: number,
  gfn: number,
  level: number,
  vcpu: number,
  why: string,
): void {
  const m = kvm.machine;
  const { frozenLo, frozenHi, nonpresentLo, nonpresentHi } = m.spte;
  enter(m, 'tdp_mmu_zap_spte_atomic', vcpu, root);
  const pages = 512 ** (level - 1);
  if (m.caps.zapFollowsAfterFlush) {
    const lo = m.mem.readLo(sptep);
    const hi = m.mem.readHi(sptep);
    m.mem.writeQ(sptep, frozenLo, frozenHi);
    kvm_flush_remote_tlbs_with_address(kvm, gfn, pages, why);
    m.mem.writeQ(sptep, nonpresentLo, nonpresentHi);
    const as_id = kvm_mmu_role_as_id(m, root.role);
    handle_changed_spte(kvm, as_id, gfn, lo, hi, nonpresentLo, nonpresentHi, level, true, vcpu);
  } else {
    tdp_mmu_set_spte(kvm, root, sptep, gfn, level, frozenLo, frozenHi, true, vcpu);
    kvm_flush_remote_tlbs_with_address(kvm, gfn, pages, why);
    m.mem.writeQ(sptep, nonpresentLo, nonpresentHi);
  }
  leave(m);
}

/** trace_kvm_tdp_mmu_spte_changed() */
function traceChanged(
  m: Machine,
  vcpu: number,
  as_id: number,
  gfn: number,
  level: number,
  old_spte: bigint,
  new_spte: bigint,
): void {
  m.observer?.event({ kind: 'kvm_tdp_mmu_spte_changed', vcpu, as_id, gfn: BigInt(gfn), level, old_spte, new_spte });
}

/** __handle_changed_spte() */
export function handle_changed_spte(
  kvm: Kvm,
  as_id: number,
  gfn: number,
  oldLo: number,
  oldHi: number,
  lo: number,
  hi: number,
  level: number,
  shared: boolean,
  vcpu: number,
): void {
  if (oldLo === lo && oldHi === hi) return;
  const m = kvm.machine;
  const f = m.spte;
  enter(m, 'handle_changed_spte', vcpu, null);
  const traced = m.observer !== null;
  if (traced && !m.caps.tdpChangeTracedLast)
    traceChanged(m, vcpu, as_id, gfn, level, hex64(oldLo, oldHi), hex64(lo, hi));
  const wasPresent = f.isPresent(oldLo, oldHi);
  const isPresent = f.isPresent(lo, hi);
  const wasLeaf = wasPresent && f.isLast(oldLo, level);
  const isLeaf = isPresent && f.isLast(lo, level);
  if (wasLeaf && isLeaf && f.pfn(oldLo, oldHi) !== f.pfn(lo, hi))
    throw new Error(`TDP MMU: gfn 0x${gfn.toString(16)} changes its frame without being zapped first`);
  if (wasPresent && !wasLeaf && (isLeaf || !isPresent)) handle_removed_pt(kvm, f.pfn(oldLo, oldHi), shared, vcpu);
  if (traced && m.caps.tdpChangeTracedLast)
    traceChanged(m, vcpu, as_id, gfn, level, hex64(oldLo, oldHi), hex64(lo, hi));
  leave(m);
}

/** handle_removed_pt(): a table left the tree; its entries are frozen one by one, tables below it follow. */
function handle_removed_pt(kvm: Kvm, pt: number, shared: boolean, vcpu: number): void {
  const m = kvm.machine;
  const sp = kvm.sp_by_pfn.get(pt);
  if (!sp) return;
  enter(m, 'handle_removed_pt', vcpu, sp);
  emit(m, (o) => o.event({ kind: 'kvm_mmu_prepare_zap_page', ...pageFields(sp, vcpu) }));
  kvm.tdp_mmu_pages--;
  const level = role_get(sp.role, m.roles.level);
  const as_id = kvm_mmu_role_as_id(m, sp.role);
  const pages = 512 ** (level - 1);
  for (let i = 0; i < 512; i++) {
    const sptep = pt * 4096 + i * 8;
    const oldLo = m.mem.readLo(sptep);
    const oldHi = m.mem.readHi(sptep);
    // Under the read lock another thread may be installing an entry, so every one is frozen; under the write lock nobody can.
    if (!shared && !m.spte.isPresent(oldLo, oldHi)) continue;
    const { frozenLo, frozenHi } = m.spte;
    m.mem.writeQ(sptep, frozenLo, frozenHi);
    handle_changed_spte(kvm, as_id, sp.gfn + i * pages, oldLo, oldHi, frozenLo, frozenHi, level, shared, vcpu);
  }
  kvm.sp_by_pfn.delete(pt);
  m.host.freePage(pt);
  leave(m);
}

/** kvm_tdp_mmu_invalidate_all_roots(): new roots will be made; the old ones wait to be zapped. */
export function kvm_tdp_mmu_invalidate_all_roots(kvm: Kvm): void {
  const m = kvm.machine;
  enter(m, 'kvm_tdp_mmu_invalidate_all_roots', -1, null);
  for (const root of kvm.tdp_mmu_roots)
    if (!role_get(root.role, m.roles.invalid)) {
      root.tdp_mmu_scheduled_root_to_zap = true;
      // The reference that keeps the root until it has been zapped; kernels that keep roots have it since its birth.
      if (!m.caps.tdpRootsKept) root.tdp_mmu_root_count++;
      root.role = role_put(root.role, m.roles.invalid, 1);
    }
  leave(m);
}

/** kvm_tdp_mmu_zap_invalidated_roots(): under the read lock, first what hangs below 1G entries, then the top. */
export function kvm_tdp_mmu_zap_invalidated_roots(kvm: Kvm): void {
  const m = kvm.machine;
  enter(m, 'kvm_tdp_mmu_zap_invalidated_roots', -1, null);
  for (const root of [...kvm.tdp_mmu_roots]) {
    if (!root.tdp_mmu_scheduled_root_to_zap) continue;
    root.tdp_mmu_scheduled_root_to_zap = false;
    tdp_mmu_zap_root(kvm, root, true);
    kvm_tdp_mmu_put_root(kvm, root, true);
  }
  leave(m);
}

/** tdp_mmu_zap_root(): in passes, so that no single step frees more than 1G worth of tables; newer kernels go level by level. */
export function tdp_mmu_zap_root(kvm: Kvm, root: KvmMmuPage, shared: boolean): void {
  const m = kvm.machine;
  enter(m, 'tdp_mmu_zap_root', -1, root);
  const rootLevel = role_get(root.role, m.roles.level);
  const zap = (table: number, level: number, gfn: number, zap_level: number): void => {
    const pages = 512 ** (level - 1);
    for (let i = 0; i < 512; i++) {
      const sptep = table * 4096 + i * 8;
      const lo = m.mem.readLo(sptep);
      const hi = m.mem.readHi(sptep);
      if (!m.spte.isPresent(lo, hi)) continue;
      if (level <= zap_level) tdp_mmu_clear_spte(kvm, root, sptep, gfn + i * pages, level, shared);
      else if (!m.spte.isLast(lo, level)) zap(m.spte.pfn(lo, hi), level - 1, gfn + i * pages, zap_level);
    }
  };
  if (m.caps.zapRootLevelByLevel) for (let level = 1; level < 3; level++) zap(root.spt, rootLevel, 0, level);
  zap(root.spt, rootLevel, 0, 3);
  zap(root.spt, rootLevel, 0, rootLevel);
  leave(m);
}

/** kvm_tdp_mmu_put_root(): the last reference frees the root and what is left below it. */
export function kvm_tdp_mmu_put_root(kvm: Kvm, root: KvmMmuPage, shared: boolean): void {
  if (--root.tdp_mmu_root_count > 0) return;
  const m = kvm.machine;
  enter(m, 'kvm_tdp_mmu_put_root', -1, root);
  // A kernel that does not keep roots zaps the tree now.
  if (!role_get(root.role, m.roles.invalid)) {
    root.role = role_put(root.role, m.roles.invalid, 1);
    tdp_mmu_zap_root(kvm, root, shared);
  }
  const at = kvm.tdp_mmu_roots.indexOf(root);
  if (at >= 0) kvm.tdp_mmu_roots.splice(at, 1);
  kvm.sp_by_pfn.delete(root.spt);
  m.host.freePage(root.spt);
  leave(m);
}

/** The leaf or the last entry on the way to gfn below a root; level and address, or null. */
export function tdpWalk(
  kvm: Kvm,
  root: KvmMmuPage,
  gfn: number,
  visit: (sptep: number, level: number, lo: number, hi: number) => boolean,
): void {
  const m = kvm.machine;
  let level = role_get(root.role, m.roles.level);
  let table = root.spt;
  for (;;) {
    const sptep = table * 4096 + (Math.floor(gfn / 512 ** (level - 1)) % 512) * 8;
    const lo = m.mem.readLo(sptep);
    const hi = m.mem.readHi(sptep);
    if (!visit(sptep, level, lo, hi)) return;
    if (!m.spte.isPresent(lo, hi) || m.spte.isLast(lo, level)) return;
    table = m.spte.pfn(lo, hi);
    level--;
  }
}

/** kvm_tdp_mmu_write_protect_gfn(): in every root of the slot's address space. */
export function kvm_tdp_mmu_write_protect_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: number, min_level: number): boolean {
  const m = kvm.machine;
  let changed = false;
  for (const root of kvm.tdp_mmu_roots) {
    if (!role_sees_slot(m, root.role, slot)) continue;
    tdpWalk(kvm, root, gfn, (sptep, level, lo, hi) => {
      if (level < min_level || !m.spte.isPresent(lo, hi) || !m.spte.isLast(lo, level)) return true;
      const w = m.spte.masks.mmuWritable;
      const newLo = (lo & ~2 & ~w.lo) >>> 0;
      const newHi = (hi & ~w.hi) >>> 0;
      if (newLo !== lo || newHi !== hi) {
        changed = true;
        const base = Math.floor(gfn / 512 ** (level - 1)) * 512 ** (level - 1);
        tdp_mmu_set_spte(kvm, root, sptep, base, level, newLo, newHi, false, -1);
      }
      return true;
    });
  }
  return changed;
}
