/**
 * Audit rules about whole shadow pages: hash, links, roots, counters. The rules of the kernel's removed mmu_audit.c and those about
 * single entries are in audit-sptes.ts.
 */
import type { AuditRule } from './audit';
import { hex, type AuditContext, type AuditEntry, type Report } from './audit-context';
import { INVALID_PAGE, type KvmMemorySlot, type KvmMmuPage } from './kvm_host';
import { kvm_alloc_memslot_metadata } from './kvm_main';
import { gfn_to_index } from './memslots';
import { direct_page_role, sp_has_gptes } from './mmu/pages';
import { role_get, role_put } from './roles';
import { peek_role } from './smram';

const times = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`;
const at = (e: AuditEntry): { page: KvmMmuPage; index: number } => ({ page: e.sp, index: e.index });

/** Pages of the hash-table MMU, SPPT pages of the series included: everything that is not of the TDP MMU. */
const hashed = (c: AuditContext): KvmMmuPage[] => [...c.pages, ...c.sppPages].filter((sp) => !sp.tdp_mmu_page);

function hashMembership(c: AuditContext, say: Report): void {
  const { kvm } = c.m;
  const seen = new Set<KvmMmuPage>();
  for (const [gfn, bucket] of kvm.mmu_page_hash)
    for (const sp of bucket) {
      if (seen.has(sp)) say({ page: sp }, 'the page is in mmu_page_hash twice');
      seen.add(sp);
      if (sp.gfn !== gfn) say({ page: sp }, `the page of gfn ${hex(sp.gfn)} is hashed under gfn ${hex(gfn)}`);
      if (kvm.sp_by_pfn.get(sp.spt) !== sp) say({ page: sp }, `its table, frame ${hex(sp.spt)}, has another header`);
    }
  for (const sp of hashed(c))
    if (!seen.has(sp)) say({ page: sp }, 'the page is not in mmu_page_hash: no look-up finds it');
}

function uniqueness(c: AuditContext, say: Report): void {
  // The 2018 RFC makes a new SPPT page each time, so only pages with SPTEs are told apart by gfn and role.
  for (const bucket of c.m.kvm.mmu_page_hash.values()) {
    const roles = new Map<number, KvmMmuPage>();
    for (const sp of bucket) {
      if (c.obsolete(sp) || role_get(sp.role, c.m.roles.spp) === 1) continue;
      const twin = roles.get(sp.role);
      if (twin) say({ page: sp }, `frames ${hex(sp.spt)} and ${hex(twin.spt)} have the same gfn and role`);
      roles.set(sp.role, sp);
    }
  }
}

function invalidUnused(c: AuditContext, say: Report): void {
  for (const sp of c.m.kvm.active_mmu_pages)
    if (c.invalid(sp)) say({ page: sp }, 'role.invalid is set, but the page is on the active list');
  for (const [vcpu, mmu] of c.mmus()) {
    if (vcpu.requests.has('MMU_FREE_OBSOLETE_ROOTS')) continue;
    for (const { hpa } of [mmu.root, ...mmu.prev_roots]) {
      const sp = hpa === INVALID_PAGE ? undefined : c.m.kvm.sp_by_pfn.get(hpa / 4096);
      if (sp && c.obsolete(sp))
        say({ page: sp, vcpu: vcpu.vcpu_id }, `${mmu.name} keeps an obsolete root and nobody asked it to drop it`);
    }
  }
}

function usedPages(c: AuditContext, say: Report): void {
  const { n_used_mmu_pages: used } = c.m.kvm;
  const found = hashed(c).length;
  if (used !== found) say({}, `n_used_mmu_pages is ${used}, but there are ${times(found, 'page')}`);
}

function rootCounts(c: AuditContext, say: Report): void {
  const refs = c.rootReferences();
  for (const sp of [...c.pages, ...c.sppPages]) {
    const held = refs.get(sp.spt) ?? 0;
    if (sp.tdp_mmu_page) {
      if (sp.ptep !== INVALID_PAGE) continue;
      // Kernels that keep roots hold one reference until an invalidated root has been zapped.
      const own = sp.tdp_mmu_scheduled_root_to_zap || (c.m.caps.tdpRootsKept && !c.invalid(sp)) ? 1 : 0;
      if (sp.tdp_mmu_root_count !== held + own)
        say(
          { page: sp },
          `tdp_mmu_root_count is ${sp.tdp_mmu_root_count}, but vCPUs hold ${held} and KVM itself ${own}`,
        );
    } else if (sp.root_count !== held)
      say({ page: sp }, `root_count is ${sp.root_count}, but ${times(held, 'root')} of vCPUs point here`);
  }
}

function indirectPages(c: AuditContext, say: Report): void {
  const found = c.pages.filter((sp) => !sp.tdp_mmu_page && !c.invalid(sp) && sp_has_gptes(c.m, sp)).length;
  const { indirect_shadow_pages: counted } = c.m.kvm;
  if (counted !== found)
    say(
      {},
      `indirect_shadow_pages is ${counted}, but ${times(found, 'page')} shadow${found === 1 ? 's' : ''} a guest table`,
    );
}

function tdpPages(c: AuditContext, say: Report): void {
  const found = c.pages.filter((sp) => sp.tdp_mmu_page && sp.ptep !== INVALID_PAGE).length;
  const { tdp_mmu_pages: counted } = c.m.kvm;
  if (counted !== found) say({}, `tdp_mmu_pages is ${counted}, but there are ${times(found, 'page')} below roots`);
}

function unsyncCounts(c: AuditContext, say: Report): void {
  for (const sp of c.pages) {
    let bits = 0;
    for (const word of sp.unsync_child_bitmap ?? []) for (let w = word; w !== 0; w &= w - 1) bits++;
    if (sp.unsync_children !== bits)
      say(
        { page: sp },
        `unsync_children is ${sp.unsync_children}, but unsync_child_bitmap has ${times(bits, 'bit')} set`,
      );
  }
}

function liveChildren(c: AuditContext, say: Report): void {
  for (const e of c.tables) {
    const pfn = c.m.spte.pfn(e.lo, e.hi);
    const child = c.m.kvm.sp_by_pfn.get(pfn);
    if (!child) say(at(e), `the entry points to frame ${hex(pfn)}, which is no table of KVM's (freed, or never one)`);
    else if (c.invalid(child)) say(at(e), `the entry points to frame ${hex(pfn)}, whose page is invalid`);
  }
}

function parentPointers(c: AuditContext, say: Report): void {
  const { kvm } = c.m;
  for (const sp of c.pages) {
    const entries = c.parents.get(sp.spt) ?? [];
    if (sp.tdp_mmu_page) {
      if (sp.ptep === INVALID_PAGE) {
        if (!kvm.tdp_mmu_roots.includes(sp)) say({ page: sp }, 'a root of the TDP MMU is not on tdp_mmu_roots');
        for (const e of entries) say(at(e), `the entry points to a root of the TDP MMU, frame ${hex(sp.spt)}`);
        continue;
      }
      if (!entries.some((e) => e.sptep === sp.ptep))
        say({ page: sp }, `ptep is ${hex(sp.ptep)}, but the entry there does not point to this page`);
      for (const e of entries)
        if (e.sptep !== sp.ptep) say(at(e), `the entry points to frame ${hex(sp.spt)}, whose ptep is ${hex(sp.ptep)}`);
      continue;
    }
    for (const ptep of sp.parent_ptes)
      if (!entries.some((e) => e.sptep === ptep))
        say({ page: sp }, `parent_ptes has ${hex(ptep)}, but the entry there does not point to this page`);
    for (const e of entries)
      if (!sp.parent_ptes.has(e.sptep))
        say(at(e), `the entry points to frame ${hex(sp.spt)}, whose parent_ptes does not have it`);
  }
}

function childRoles(c: AuditContext, say: Report): void {
  const { m } = c;
  const R = m.roles;
  /** fields that a child has of its own */
  const own = [R.level, R.access, R.quadrant, R.direct, R.passthrough, R.gpteSize, R.invalid];
  const shared = (role: number): number => own.reduce((word, f) => role_put(word, f, 0), role);
  for (const e of c.tables) {
    const child = m.kvm.sp_by_pfn.get(m.spte.pfn(e.lo, e.hi));
    if (!child) continue;
    const wrong: string[] = [];
    const level = c.level(child);
    if (level !== e.level - 1) wrong.push(`level ${level} hangs below level ${e.level}`);
    if (shared(child.role) !== shared(e.sp.role))
      wrong.push(`role ${hex(child.role)} belongs to another mode than role ${hex(e.sp.role)} above it`);
    if (c.direct(e.sp) && !c.direct(child)) wrong.push('a page that shadows a guest table hangs below a direct page');
    if (e.sp.tdp_mmu_page !== child.tdp_mmu_page) wrong.push('a page of one MMU hangs below a page of the other');
    // With CR0.WP = 0 KVM gives supervisor writes what the guest's tables deny (reference 10.3).
    const write = (sp: KvmMmuPage): boolean => (role_get(sp.role, R.access) & 2) !== 0;
    if (role_get(e.sp.role, R.cr0_wp) === 1 && write(child) && !write(e.sp))
      wrong.push('role.access grants writes that the page above it denies');
    // Under TDP of these kernels cr4_pae = 0 does not mean 4-byte entries (kvm_mmu_get_page, shadow EPT).
    const pae = m.caps.directPageGpte === 'pae-0' && m.tdpEnabled;
    if (!pae && role_get(child.role, R.direct) === 0 && R.has4ByteGpte(child.role)) {
      const quadrant = role_get(child.role, R.quadrant);
      if (level === 1 && quadrant !== (e.index & 1))
        wrong.push(`quadrant ${quadrant} hangs at index ${e.index}, which is quadrant ${e.index & 1}`);
    }
    for (const why of wrong) say(at(e), why);
  }
}

function childPlace(c: AuditContext, say: Report): void {
  for (const e of c.tables) {
    const child = c.m.kvm.sp_by_pfn.get(c.m.spte.pfn(e.lo, e.hi));
    if (!child || !c.direct(child)) continue;
    const pages = 512 ** (e.level - 1);
    const wanted = c.direct(e.sp) ? e.gfn : child.gfn - (child.gfn % pages);
    if (child.gfn !== wanted)
      say(at(e), `a direct page of gfn ${hex(child.gfn)} hangs where gfn ${hex(wanted)} is mapped`);
  }
}

function rootRoles(c: AuditContext, say: Report): void {
  const { m } = c;
  for (const [vcpu, mmu] of c.mmus()) {
    const sp = mmu.root.hpa === INVALID_PAGE ? undefined : m.kvm.sp_by_pfn.get(mmu.root.hpa / 4096);
    if (!sp || c.invalid(sp)) continue;
    if (sp.role !== direct_page_role(m, mmu.root_role))
      say(
        { page: sp, vcpu: vcpu.vcpu_id },
        `${mmu.name} has root_role ${hex(mmu.root_role)}, but runs on a root of role ${hex(sp.role)}`,
      );
  }
}

/** What lpage_info and gfn_write_track of a slot must be, from the slot's place and the guest tables in it. */
function accounting(c: AuditContext, say: Report): void {
  const { m } = c;
  const wanted = new Map<KvmMemorySlot, KvmMemorySlot['arch']>();
  for (const set of m.kvm.memslots) for (const s of set.slots) wanted.set(s, kvm_alloc_memslot_metadata(s));
  for (const sp of c.pages) {
    if (sp.tdp_mmu_page || c.invalid(sp) || !sp_has_gptes(m, sp)) continue;
    const slot = peek_role(m, sp.role, sp.gfn);
    const arch = slot && wanted.get(slot);
    if (!slot || !arch) continue;
    for (const level of [2, 3]) arch.lpage_info[level - 2][gfn_to_index(sp.gfn, slot.base_gfn, level)]++;
    const i = sp.gfn - slot.base_gfn;
    if (c.level(sp) > 1) arch.gfn_write_track.set(i, (arch.gfn_write_track.get(i) ?? 0) + 1);
  }
  for (const [slot, arch] of wanted) {
    const name = `slot ${slot.as_id}:${slot.id}`;
    for (const level of [2, 3]) {
      const want = arch.lpage_info[level - 2];
      slot.arch.lpage_info[level - 2].forEach((count, i) => {
        if (count === want[i]) return;
        const gfn = (Math.floor(slot.base_gfn / 512 ** (level - 1)) + i) * 512 ** (level - 1);
        say({ gfn }, `${name}: disallow_lpage at level ${level} is ${count}, but it has ${times(want[i], 'cause')}`);
      });
    }
    for (const i of new Set([...arch.gfn_write_track.keys(), ...slot.arch.gfn_write_track.keys()])) {
      const [count, want] = [slot.arch.gfn_write_track.get(i) ?? 0, arch.gfn_write_track.get(i) ?? 0];
      if (count !== want)
        say(
          { gfn: slot.base_gfn + i },
          `${name}: the write-tracking count is ${count}, but ${times(want, 'page')} of level 2 and up shadow the frame`,
        );
    }
  }
}

/** In the order in which they are listed. */
export const PAGE_RULES: readonly AuditRule[] = [
  {
    id: 'H1',
    sentence:
      'A page of the hash-table MMU is in mmu_page_hash once, under its gfn, and its table’s frame leads back to its header.',
    reference: 'kvm_mmu_alloc_shadow_page(), kvm_mmu_free_shadow_page()',
    check: hashMembership,
  },
  {
    id: 'H2',
    sentence: 'No two valid pages have the same gfn and the same role word.',
    reference: 'kvm_mmu_find_shadow_page(): a page is known by gfn and whole role',
    check: uniqueness,
  },
  {
    id: 'H3',
    sentence:
      'An invalid page is not used again: it is on no list, and a vCPU that still has it as a root was asked to drop it.',
    reference: '__kvm_mmu_prepare_zap_page(), KVM_REQ_MMU_FREE_OBSOLETE_ROOTS',
    check: invalidUnused,
  },
  {
    id: 'C1',
    sentence: 'n_used_mmu_pages is the number of pages of the hash-table MMU.',
    reference: 'kvm_mod_used_mmu_pages()',
    check: usedPages,
  },
  {
    id: 'C2',
    sentence:
      'root_count is the number of vCPU roots, current and cached, that point to the page; it is never negative.',
    reference: 'mmu_alloc_root(), mmu_free_root_page(); kvm_tdp_mmu_get_root(), kvm_tdp_mmu_put_root()',
    check: rootCounts,
  },
  {
    id: 'C3',
    sentence: 'indirect_shadow_pages is the number of valid pages that shadow a guest table.',
    reference: 'account_shadowed(), unaccount_shadowed()',
    check: indirectPages,
  },
  {
    id: 'C4',
    sentence: 'tdp_mmu_pages is the number of pages of the TDP MMU below its roots.',
    reference: 'tdp_account_mmu_page(), tdp_unaccount_mmu_page()',
    check: tdpPages,
  },
  {
    id: 'C5',
    sentence:
      'disallow_lpage and the write-tracking count of a frame are what its slot’s alignment and the guest tables shadowed there add up to.',
    reference: 'kvm_alloc_memslot_metadata(), update_gfn_disallow_lpage_count(), kvm_slot_page_track_add_page()',
    check: accounting,
  },
  {
    id: 'U1',
    sentence: 'unsync_children is the number of bits set in unsync_child_bitmap.',
    reference: 'mark_unsync(), clear_unsync_child_bit()',
    check: unsyncCounts,
  },
  {
    id: 'L1',
    sentence: 'A present entry that is no leaf points to a valid page that KVM knows.',
    reference: 'kvm_mmu_commit_zap_page(): unlinked and flushed before it is freed',
    check: liveChildren,
  },
  {
    id: 'L2',
    sentence:
      'The parent pointers of a page (parent_ptes, or ptep in the TDP MMU) are exactly the entries that point to it.',
    reference: 'link_shadow_page(), drop_parent_pte(); tdp_mmu_link_sp(), handle_removed_pt()',
    check: parentPointers,
  },
  {
    id: 'L3',
    sentence:
      'The role of a page is that of the page above it, one level down; it may add direct, take access away and name its quadrant.',
    reference: 'kvm_mmu_child_role()',
    check: childRoles,
  },
  {
    id: 'L4',
    sentence: 'A direct page hangs where its gfn belongs.',
    reference: 'direct_map(), FNAME(fetch): base_gfn',
    check: childPlace,
  },
  {
    id: 'V1',
    sentence: 'The root that a vCPU runs on has the role word of its context.',
    reference: 'is_root_usable(), kvm_mmu_reset_context()',
    check: rootRoles,
  },
];
