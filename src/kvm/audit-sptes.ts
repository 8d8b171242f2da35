/**
 * Audit rules about entries: the five of the kernel's removed mmu_audit.c (A1 to A5), reverse maps, rights, cached MMIO, dirty logging.
 */
import type { AuditRule } from './audit';
import { hex, type AuditContext, type AuditEntry, type Report } from './audit-context';
import {
  ACC_EXEC,
  ACC_USER,
  ACC_WRITE,
  INVALID_PAGE,
  KVM_MEM_READONLY,
  KVM_MEMSLOT_INVALID,
  type KvmMemorySlot,
  type KvmMmuPage,
} from './kvm_host';
import { gfn_to_hva_memslot, kvm_is_visible_memslot } from './kvm_main';
import { gfn_to_index } from './memslots';
import { is_rsvd_bits_set } from './mmu/metadata';
import { sp_has_gptes } from './mmu/pages';
import { rmapOf } from './mmu/rmap';
import { tdpWalk } from './mmu/tdp_mmu_ops';
import { role_get } from './roles';
import { memslots_of_mode, peek_mode, role_sees_slot } from './smram';
import { is_smm } from './kvm_host';

const at = (e: AuditEntry): { page: KvmMmuPage; index: number; gfn: number } => ({
  page: e.sp,
  index: e.index,
  gfn: e.gfn,
});
const slotName = (s: KvmMemorySlot): string => `slot ${s.as_id}:${s.id}`;

function leafInRmap(c: AuditContext, say: Report): void {
  for (const e of c.leaves) {
    if (e.sp.tdp_mmu_page) continue;
    const slot = c.slotOf(e.sp, e.gfn);
    if (!slot) say(at(e), `no memslot for gfn ${hex(e.gfn)}`);
    else if (!rmapOf(slot, e.gfn, e.level).includes(e.sptep))
      say(at(e), `the rmap of gfn ${hex(e.gfn)} at level ${e.level} in ${slotName(slot)} does not have this entry`);
  }
}

function tablesProtected(c: AuditContext, say: Report): void {
  const { m } = c;
  for (const sp of c.pages) {
    if (sp.tdp_mmu_page || c.invalid(sp) || sp.unsync || !sp_has_gptes(m, sp)) continue;
    const slot = c.slotOf(sp, sp.gfn);
    if (!slot) continue;
    const why = `gfn ${hex(sp.gfn)} is a guest table, shadowed by frame ${hex(sp.spt)} and in sync, but this entry lets the guest write it`;
    for (let level = 1; level <= 3; level++)
      for (const sptep of rmapOf(slot, sp.gfn, level))
        if (m.spte.isWritable(m.mem.readLo(sptep)))
          say({ page: m.kvm.sp_by_pfn.get(Math.floor(sptep / 4096)), sptep, gfn: sp.gfn }, why);
    for (const root of m.kvm.tdp_mmu_roots) {
      if (c.invalid(root) || !role_sees_slot(m, root.role, slot)) continue;
      tdpWalk(m.kvm, root, sp.gfn, (sptep, level, lo, hi) => {
        if (m.spte.isPresent(lo, hi) && m.spte.isLast(lo, level) && m.spte.isWritable(lo))
          say({ page: m.kvm.sp_by_pfn.get(Math.floor(sptep / 4096)), sptep, gfn: sp.gfn }, why);
        return true;
      });
    }
  }
}

/** The frame behind a gfn, without populating it: -1 where the host has none, null where the look-up is an error. */
function pfnOf(c: AuditContext, slot: KvmMemorySlot, gfn: number): number | null {
  const page = c.m.host.lookup(gfn_to_hva_memslot(slot, gfn));
  return page ? page.backing.pfns[page.index] : null;
}

function rightFrame(c: AuditContext, say: Report): void {
  // The host is changing its tables: what maps the range is being zapped.
  if (c.m.kvm.mmu_invalidate_in_progress) return;
  for (const e of c.leaves) {
    const slot = c.slotOf(e.sp, e.gfn);
    if (!slot) {
      if (e.sp.tdp_mmu_page) say(at(e), `no memslot for gfn ${hex(e.gfn)}`);
      continue;
    }
    if (slot.flags & KVM_MEMSLOT_INVALID) continue;
    const pfn = c.m.spte.pfn(e.lo, e.hi);
    const wanted = pfnOf(c, slot, e.gfn);
    if (wanted !== null && pfn !== wanted)
      say(
        at(e),
        `the entry maps frame ${hex(pfn)}, but gfn ${hex(e.gfn)} is ${wanted < 0 ? 'not backed by the host any more' : `frame ${hex(wanted)}`}`,
      );
  }
}

function syncFindsAll(c: AuditContext, say: Report): void {
  const { kvm, spte } = c.m;
  for (const e of c.tables) {
    const child = kvm.sp_by_pfn.get(spte.pfn(e.lo, e.hi));
    if (!child || (!child.unsync && child.unsync_children === 0)) continue;
    const bits = e.sp.unsync_child_bitmap;
    if (!bits || !(bits[e.index >>> 5] & (1 << (e.index & 31))))
      say(
        at(e),
        `something below this entry is unsync, but bit ${e.index} of unsync_child_bitmap is clear: a sync would miss it`,
      );
  }
  if (!c.synced) return;
  const { mmu, vcpu_id } = c.synced;
  const seen = new Set<KvmMmuPage>();
  const visit = (sp: KvmMmuPage): void => {
    if (seen.has(sp)) return;
    seen.add(sp);
    if (sp.unsync) say({ page: sp, vcpu: vcpu_id }, 'the page is unsync after the roots were synced');
    for (const e of c.tables) {
      const child = e.sp === sp ? kvm.sp_by_pfn.get(spte.pfn(e.lo, e.hi)) : undefined;
      if (child) visit(child);
    }
  };
  const root = mmu.root.hpa === INVALID_PAGE ? undefined : kvm.sp_by_pfn.get(mmu.root.hpa / 4096);
  if (root) visit(root);
}

function unsyncLevel(c: AuditContext, say: Report): void {
  for (const sp of c.pages)
    if (sp.unsync && c.level(sp) !== 1) say({ page: sp }, `an unsync page has level ${c.level(sp)}`);
}

function rmapEntries(c: AuditContext, say: Report): void {
  const { m } = c;
  const leaves = new Map(c.leaves.map((e) => [e.sptep, e]));
  for (const set of m.kvm.memslots)
    for (const slot of set.slots)
      slot.arch.rmap.forEach((heads, l) => {
        for (const index of heads.keys()) {
          const list = heads.get(index);
          const gfn = (Math.floor(slot.base_gfn / 512 ** l) + index) * 512 ** l;
          for (const [i, sptep] of list.entries()) {
            const where = { sptep, page: m.kvm.sp_by_pfn.get(Math.floor(sptep / 4096)), gfn };
            const name = `the rmap of gfn ${hex(gfn)} at level ${l + 1} in ${slotName(slot)}`;
            const e = leaves.get(sptep);
            if (!e) say(where, `${name} has this entry, which is no leaf`);
            else if (list.indexOf(sptep) !== i) say(where, `${name} has this entry twice`);
            else if (e.level !== l + 1 || gfn_to_index(e.gfn, slot.base_gfn, e.level) !== index)
              say(where, `${name} has this entry, which maps gfn ${hex(e.gfn)} at level ${e.level}`);
            else if (!role_sees_slot(m, e.sp.role, slot))
              say(where, `${name} has this entry of a page with role ${hex(e.sp.role)}, which does not see the slot`);
          }
        }
      });
}

function reserved(c: AuditContext, say: Report): void {
  for (const e of c.entries)
    if (e.present && is_rsvd_bits_set(c.reservedBits(e.sp), e.lo, e.hi, e.level))
      say(
        at(e),
        `the processor reserves bits that are set in the entry (level ${e.level}): walking it would be a misconfiguration`,
      );
}

function writable(c: AuditContext, say: Report): void {
  const { spte } = c.m;
  const { mmuWritable: mw, hostWritable: hw } = spte.masks;
  for (const e of c.leaves) {
    const mmu = (mw.lo | mw.hi) === 0 ? null : spte.isMmuWritable(e.lo, e.hi);
    const host = (hw.lo | hw.hi) === 0 ? null : spte.isHostWritable(e.lo, e.hi);
    if (spte.isWritable(e.lo) && mmu === false) say(at(e), 'W is set without MMU-writable');
    if (mmu === true && host === false) say(at(e), 'MMU-writable is set without host-writable');
    const slot = c.slotOf(e.sp, e.gfn);
    if (slot && slot.flags & KVM_MEM_READONLY && (spte.isWritable(e.lo) || mmu === true))
      say(at(e), `the guest may write gfn ${hex(e.gfn)} of ${slotName(slot)}, which is KVM_MEM_READONLY`);
  }
}

function rights(c: AuditContext, say: Report): void {
  const { spte, roles: R } = c.m;
  const { user } = spte.masks;
  for (const e of c.leaves) {
    const granted = c.direct(e.sp) ? null : (e.sp.accesses?.[e.index] ?? null);
    const too: string[] = [];
    if (spte.isWritable(e.lo)) {
      // Pages for CR0.WP = 0 grant supervisor writes against the guest's W (reference 10.3).
      const roleDenies = role_get(e.sp.role, R.cr0_wp) === 1 && !(role_get(e.sp.role, R.access) & ACC_WRITE);
      if (roleDenies || (granted !== null && !(granted & ACC_WRITE))) too.push('write');
    }
    if (granted !== null) {
      if (spte.isExecutable(e.lo, e.hi) && !(granted & ACC_EXEC)) too.push('execute');
      const u = (user.lo | user.hi) !== 0 && ((e.lo & user.lo) | (e.hi & user.hi)) !== 0;
      if (u && !(granted & ACC_USER)) too.push('user');
    }
    if (too.length) say(at(e), `the entry grants ${too.join(' and ')}, which the guest’s tables do not`);
  }
}

function mmioPlace(c: AuditContext, say: Report): void {
  const { m } = c;
  for (const e of c.entries) {
    if (!e.mmio) continue;
    const gfn = m.spte.mmioGfn(e.lo, e.hi);
    if (e.level !== 1) say(at(e), `a cached MMIO entry at level ${e.level}`);
    else if (e.sp.gfns === null && gfn !== e.gfn)
      say(at(e), `the entry says MMIO gfn ${hex(gfn)} where gfn ${hex(e.gfn)} is mapped`);
  }
}

/** Sets of both modes for one role: generations as sptes store them. */
function mmioGeneration(c: AuditContext, say: Report): void {
  const { m } = c;
  for (const e of c.entries) {
    if (!e.mmio) continue;
    const smm = role_get(e.sp.role, m.roles.smm) !== 0;
    const set = memslots_of_mode(m.kvm, smm);
    const current = (set.generation & m.spte.layout.mmio.genMask) >>> 0;
    const stored = m.spte.mmioGeneration(e.lo, e.hi) >>> 0;
    if (set.updateInProgress || stored !== current) continue;
    const gfn = m.spte.mmioGfn(e.lo, e.hi);
    const slot = peek_mode(m, smm, gfn);
    if (kvm_is_visible_memslot(m, slot))
      say(at(e), `generation ${stored} is current, but gfn ${hex(gfn)} is RAM: ${slotName(slot)}`);
  }
}

function vcpuMmio(c: AuditContext, say: Report): void {
  const { m } = c;
  // That kernel compares with address space 0 whatever the vCPU's: what it remembers may be outdated, a known quirk.
  if (m.caps.mmioCacheGenerationOfAs0 && m.kvm.memslots.length > 1) return;
  for (const vcpu of m.vcpus) {
    const smm = is_smm(vcpu);
    const set = memslots_of_mode(m.kvm, smm);
    if (vcpu.mmio_gfn === 0 || vcpu.mmio_gen !== set.generation) continue;
    const slot = peek_mode(m, smm, vcpu.mmio_gfn);
    if (kvm_is_visible_memslot(m, slot))
      say(
        { vcpu: vcpu.vcpu_id, gfn: vcpu.mmio_gfn },
        `vCPU ${vcpu.vcpu_id} remembers gfn ${hex(vcpu.mmio_gfn)} as MMIO, but it is RAM: ${slotName(slot)}`,
      );
  }
}

function dirtyLogged(c: AuditContext, say: Report): void {
  const { m } = c;
  // With PML the processor's dirty flag tells, and the buffer of the vCPU may not have been read yet.
  if (m.config.pml) return;
  for (const e of c.leaves) {
    if (!m.spte.isWritable(e.lo)) continue;
    const slot = c.slotOf(e.sp, e.gfn);
    const bits = slot?.dirty_bitmap;
    if (!slot || !bits || slot.flags & KVM_MEMSLOT_INVALID) continue;
    for (let i = 0; i < 512 ** (e.level - 1); i++) {
      const rel = e.gfn + i - slot.base_gfn;
      if (rel < 0 || rel >= slot.npages || bits[rel >>> 5] & (1 << (rel & 31))) continue;
      say(
        at(e),
        `the guest can write gfn ${hex(e.gfn + i)} unnoticed: ${slotName(slot)} logs, and its dirty bit is clear`,
      );
      break;
    }
  }
}

/** In the order in which they are listed. */
export const SPTE_RULES: readonly AuditRule[] = [
  {
    id: 'A1',
    sentence:
      'Every leaf of the hash-table MMU is in the rmap of its gfn, in the slot that role.smm selects, at the level of its page.',
    reference: 'mmu_audit.c inspect_spte_has_rmap(); seed 0',
    check: leafInRmap,
  },
  {
    id: 'A2',
    sentence:
      'While a page shadows a guest table and is in sync, nothing lets the guest write that table without an exit.',
    reference: 'mmu_audit.c audit_write_protection(); account_shadowed()',
    check: tablesProtected,
  },
  {
    id: 'A3',
    sentence: 'A leaf maps the frame that the memslot has for its gfn.',
    reference: 'mmu_audit.c audit_mappings()',
    check: rightFrame,
  },
  {
    id: 'A4',
    sentence:
      'After the roots were synced, nothing reachable is unsync; so at all times unsync_child_bitmap leads to every unsync page.',
    reference: 'mmu_audit.c audit_spte_after_sync(); mmu_unsync_walk()',
    check: syncFindsAll,
  },
  {
    id: 'A5',
    sentence: 'An unsync page has level 1.',
    reference: 'mmu_audit.c audit_mappings(): unsync sp with level > 1; kvm_unsync_page()',
    check: unsyncLevel,
  },
  {
    id: 'R1',
    sentence: 'Every entry of an rmap is a leaf that maps that gfn at that level, once, in a page that sees the slot.',
    reference: 'pte_list_remove(), rmap_remove(): anything else is a BUG',
    check: rmapEntries,
  },
  {
    id: 'E1',
    sentence: 'No bit is set in a present entry that the processor reserves at its level.',
    reference: 'is_rsvd_spte(), get_mmio_spte(); reference 11.3',
    check: reserved,
  },
  {
    id: 'E2',
    sentence:
      'W implies MMU-writable, MMU-writable implies host-writable, and nothing of a read-only slot is writable.',
    reference: 'spte.h: check_spte_writable_invariants(); make_spte()',
    check: writable,
  },
  {
    id: 'E3',
    sentence: 'A leaf grants no more than the guest’s tables above it do (role.access) and the guest’s own entry.',
    reference: 'FNAME(fetch), kvm_mmu_page_set_access(); reference 7.5',
    check: rights,
  },
  {
    id: 'M1',
    sentence: 'A cached MMIO entry has level 1 and, in a direct page, names the gfn of its place.',
    reference: 'make_mmio_spte(), handle_mmio_page_fault()',
    check: mmioPlace,
  },
  {
    id: 'M2',
    sentence: 'A cached MMIO entry with the current generation stands for a gfn without a memslot.',
    reference: 'check_mmio_spte(), kvm_arch_memslots_updated(); seed 2',
    check: mmioGeneration,
  },
  {
    id: 'M3',
    sentence: 'What a vCPU remembers as MMIO under the current generation has no memslot.',
    reference: 'vcpu_cache_mmio_info(), vcpu_match_mmio_gen()',
    check: vcpuMmio,
  },
  {
    id: 'D1',
    sentence:
      'A page that the guest can write without an exit is marked dirty, if its slot logs and PML does not do it.',
    reference: 'kvm_arch_mmu_enable_log_dirty_pt_masked(), make_spte(), fast_pf_fix_direct_spte()',
    check: dirtyLogged,
  },
];
