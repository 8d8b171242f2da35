/** Audit rules about sub-page permissions: the SPPT and the leaves that send the processor there. */
import type { AuditRule } from './audit';
import { hex, type AuditContext, type Report } from './audit-context';
import { INVALID_PAGE, type KvmMmuPage } from './kvm_host';
import { FULL_ACCESS, format_spp_spte, is_spp_spte, subpage_access } from './mmu/spp';
import { role_get } from './roles';
import { memslots_of_mode } from './smram';

/** Entries of an SPPT page that are not zero: index, halves. */
function* entriesOf(c: AuditContext, sp: KvmMmuPage): Generator<{ index: number; lo: number; hi: number }> {
  for (let index = 0; index < 512; index++) {
    const at = sp.spt * 4096 + index * 8;
    const lo = c.m.mem.readLo(at);
    const hi = c.m.mem.readHi(at);
    if ((lo | hi) !== 0) yield { index, lo, hi };
  }
}

function tables(c: AuditContext, say: Report): void {
  const { m } = c;
  for (const sp of c.sppPages) {
    const level = c.level(sp);
    if (!c.direct(sp)) say({ page: sp }, 'an SPPT page is not direct');
    for (const parent of sp.parent_ptes) {
      const pfn = m.spte.pfn(m.mem.readLo(parent), m.mem.readHi(parent));
      if (pfn !== sp.spt)
        say({ page: sp }, `parent_ptes has ${hex(parent)}, but the entry there does not point to this page`);
    }
    if (level === 1) continue;
    for (const { index, lo, hi } of entriesOf(c, sp)) {
      const place = { page: sp, index };
      const child = m.kvm.sp_by_pfn.get(m.spte.pfn(lo, hi));
      if (lo & 0xffe || hi & 0xfff00000) say(place, 'reserved bits are set in an SPPT entry: an SPP misconfiguration');
      else if (!child || role_get(child.role, m.roles.spp) !== 1)
        say(place, 'the entry does not point to an SPPT page');
      else if (c.level(child) !== level - 1 || child.gfn !== sp.gfn + index * 512 ** (level - 1))
        say(place, `the SPPT page of gfn ${hex(child.gfn)}, level ${c.level(child)}, does not belong there`);
    }
  }
}

/**
 * Pages of vectors that a processor can reach. While an entry above is not valid it does not read them: the next miss fills them. The RFC
 * never uses a table again whose root was freed (reference 25.2).
 */
function reachable(c: AuditContext): Set<KvmMmuPage> {
  const { kvm, spte } = c.m;
  const found = new Set<KvmMmuPage>();
  const visit = (sp: KvmMmuPage | undefined): void => {
    if (!sp || found.has(sp)) return;
    found.add(sp);
    if (c.level(sp) === 1) return;
    for (const { lo, hi } of entriesOf(c, sp)) if (lo & 1) visit(kvm.sp_by_pfn.get(spte.pfn(lo, hi)));
  };
  for (const root of [kvm.sppt_root, ...kvm.vcpus.map((v) => v.root_mmu.sppt_root)])
    if (root !== INVALID_PAGE) visit(kvm.sp_by_pfn.get(root / 4096));
  return found;
}

function vectors(c: AuditContext, say: Report): void {
  const { m } = c;
  const used = reachable(c);
  /** access maps by frame; all other frames have the full one */
  const restricted = new Map<number, number>();
  for (const slot of memslots_of_mode(m.kvm, false).slots)
    for (const [page, access] of slot.arch.subpage_wp_info ?? []) restricted.set(slot.base_gfn + page, access);
  for (const sp of c.sppPages) {
    if (c.level(sp) !== 1 || !used.has(sp)) continue;
    for (const { index, lo, hi } of entriesOf(c, sp)) {
      const gfn = sp.gfn + index;
      if ((lo | hi) & 0xaaaaaaaa) {
        say({ page: sp, index, gfn }, 'odd bits are set in a vector: an SPP misconfiguration');
        continue;
      }
      const wanted = format_spp_spte(restricted.get(gfn) ?? FULL_ACCESS);
      if (lo !== wanted.lo || hi !== wanted.hi)
        say({ page: sp, index, gfn }, `the vector of gfn ${hex(gfn)} is not what its access map makes`);
    }
  }
}

function leaves(c: AuditContext, say: Report): void {
  const { m } = c;
  if (!m.sppEnabled) return;
  for (const e of c.leaves) {
    const slot = c.slotOf(e.sp, e.gfn);
    const place = { page: e.sp, index: e.index, gfn: e.gfn };
    const map = subpage_access(slot, e.gfn);
    const spp = is_spp_spte(m, e.lo, e.hi);
    if (e.level > 1) {
      for (let i = 0; i < 512 ** (e.level - 1); i++)
        if (subpage_access(slot, e.gfn + i) !== FULL_ACCESS) {
          say(place, `a huge page covers gfn ${hex(e.gfn + i)}, whose sub-pages are restricted`);
          break;
        }
      continue;
    }
    if (map !== FULL_ACCESS && spp === 'no')
      say(place, `the map of gfn ${hex(e.gfn)} is ${hex(map)}, but the leaf does not ask the SPPT`);
    if (map === FULL_ACCESS && spp !== 'no')
      say(place, `the leaf asks the SPPT, but all of gfn ${hex(e.gfn)} is writable`);
    if (spp !== 'no' && m.spte.isWritable(e.lo)) say(place, 'W is set: the processor does not look at the SPPT');
    const bits = slot?.dirty_bitmap;
    const rel = slot ? e.gfn - slot.base_gfn : 0;
    if (spp === 'armed' && map !== 0 && bits && !(bits[rel >>> 5] & (1 << (rel & 31))) && !m.config.pml)
      say(place, `sub-pages of gfn ${hex(e.gfn)} can be written unnoticed: its slot logs, and its dirty bit is clear`);
  }
}

function roots(c: AuditContext, say: Report): void {
  const { m } = c;
  if (!m.sppEnabled) return;
  for (const vcpu of m.vcpus) {
    const { root, sppt_root } = vcpu.root_mmu;
    const own = m.caps.spp === 'v12' ? m.kvm.sppt_root : sppt_root;
    const sp = own === INVALID_PAGE ? undefined : m.kvm.sp_by_pfn.get(own / 4096);
    const where = { vcpu: vcpu.vcpu_id };
    if (root.hpa !== INVALID_PAGE && own === INVALID_PAGE) say(where, 'there is an EPT root without an SPPT root');
    if (m.caps.spp === 'rfc-2018' && root.hpa === INVALID_PAGE && own !== INVALID_PAGE)
      say(where, 'the SPPT root was not freed with the EPT root');
    if (own !== INVALID_PAGE && (!sp || role_get(sp.role, m.roles.spp) !== 1 || c.level(sp) !== 4))
      say(where, `the SPPT root ${hex(own)} is no level-4 page with role.spp`);
  }
}

export const SPP_RULES: readonly AuditRule[] = [
  {
    id: 'S1',
    sentence:
      'The tables of the SPPT above its vectors point to SPPT pages one level down, of the right frames, and have no reserved bit set.',
    reference: 'kvm_spp_setup_structure(), link_spp_shadow_page(); reference 25.1',
    check: tables,
  },
  {
    id: 'S2',
    sentence:
      'A vector that the processor can reach is the access map of its frame, bit i at bit 2i, and its odd bits are clear.',
    reference: 'format_spp_spte(), spp_flush_sppt()',
    check: vectors,
  },
  {
    id: 'S3',
    sentence:
      'A 4K leaf asks the SPPT (bit 61, or bit 55 while it is protected for the dirty log) exactly if its access map is not full, and then W is clear; no huge page covers such a frame.',
    reference: 'kvm_spp_mark_protection(), check_spp_protection()',
    check: leaves,
  },
  {
    id: 'S4',
    sentence: 'Beside an EPT root there is an SPPT root, a level-4 page with role.spp.',
    reference: 'mmu_alloc_direct_roots(), kvm_mmu_free_roots(); seed 4',
    check: roots,
  },
];
