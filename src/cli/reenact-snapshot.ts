/**
 * KVM's own structures at a marked step: those read out of the paused kernel (`*.snapshot.json`) and those of the simulated machine, as
 * two lists in the form of events, so that the same comparison serves. Lists are sorted by what identifies an item; host frames of
 * table pages are compared like those of events.
 */
import {
  is_guest_mode,
  is_smm,
  type KvmMmu,
  type KvmMmuPage,
  type KvmVcpu,
  type RsvdBitsValidate,
} from '../kvm/kvm_host';
import type { Machine } from '../kvm/machine';
import { role_get } from '../kvm/roles';
import type { Pair } from '../words/word';
import type { FieldKind, NormEvent } from './reenact-events';
import { JsonNode } from './reenact-json';

/** A snapshot file: which step it shows, and what is in it. */
export interface KernelSnapshot {
  step: number;
  name: string;
  items: NormEvent[];
}

const ALL_ONES = 0xffff_ffff_ffff_ffffn;

type Value = bigint | number | boolean;

function item(name: string, fields: Record<string, Value>, kinds: Record<string, FieldKind> = {}): NormEvent {
  return {
    name: `snapshot:${name}`,
    fields: Object.entries(fields).map(([n, v]) => [n, BigInt(v), kinds[n] ?? 'value']),
    line: 0,
  };
}

/** Sorts by name and by the fields that identify an item, so that both sides list the same things in the same order. */
function sorted(items: NormEvent[]): NormEvent[] {
  const keyOf = (e: NormEvent): string =>
    e.name +
    e.fields
      .filter(([, , kind]) => kind === 'value')
      .map(([, v]) => v.toString(16).padStart(17, '0'))
      .join(',');
  return items
    .map((e): [string, NormEvent] => [keyOf(e), e])
    .sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0))
    .map(([, e]) => e);
}

// ---- What is in a snapshot; the same fields are filled from either side ----

interface PageFields {
  role: bigint;
  gfn: bigint;
  level: bigint;
  tdp: boolean;
  unsync: boolean;
  mmu_valid_gen: number;
  root_count: number;
  /** shadow MMU only */
  unsync_children: number;
  write_flooding_count: number;
  parent_ptes: number;
  nx_huge_page_disallowed: boolean;
  spt: bigint;
  entries: { index: number; spte: bigint }[];
  /** guest frame and access that each entry stands for */
  translations: { index: number; value: bigint }[];
}

function pageItems(p: PageFields): NormEvent[] {
  const { role, gfn, level } = p;
  const page: Record<string, Value> = {
    role,
    gfn,
    level,
    tdp: p.tdp,
    unsync: p.unsync,
    mmu_valid_gen: p.mmu_valid_gen,
    root_count: p.root_count,
    spt: p.spt,
  };
  if (!p.tdp)
    Object.assign(page, {
      unsync_children: p.unsync_children,
      write_flooding_count: p.write_flooding_count,
      parent_ptes: p.parent_ptes,
    });
  page.nx_huge_page_disallowed = p.nx_huge_page_disallowed;
  return [
    item('shadow-page', page, { spt: 'sptep' }),
    ...p.entries.map((e) => item('spte', { role, gfn, level, index: e.index, spte: e.spte }, { spte: 'spte' })),
    ...p.translations.map((t) => item('shadowed-translation', { role, gfn, index: t.index, value: t.value })),
  ];
}

/** An absent root is 0 on both sides: no frame. */
const root = (hpa: bigint): bigint => (hpa === ALL_ONES || hpa < 0n ? 0n : hpa);

interface MmuFields {
  vcpu: number;
  /** 0 root_mmu, 1 guest_mmu, 2 nested_mmu */
  mmu: number;
  cpu_role: bigint;
  root_role: bigint;
  hpa: bigint;
  pgd: bigint;
  permissions: number[];
  pkru_mask: bigint;
  guest_rsvd: { masks: bigint[]; bad_mt_xwr: bigint };
  shadow_rsvd: { masks: bigint[]; bad_mt_xwr: bigint };
}

function mmuItems(m: MmuFields): NormEvent[] {
  const id = { vcpu: m.vcpu, mmu: m.mmu };
  // What lies above the top level is left over from an earlier mode: nobody reads it. PDPTEs of PAE paging map no pages.
  const used = (i: number, top: bigint): boolean => BigInt((i % 5) + 1) <= (i >= 5 && top === 3n ? 2n : top);
  const masks = (name: string, r: MmuFields['guest_rsvd'], top: bigint): NormEvent =>
    item(name, {
      ...id,
      ...Object.fromEntries(
        r.masks.map((v, i) => [`${i < 5 ? 'small' : 'large'}${(i % 5) + 1}`, used(i, top) ? v : 0n]),
      ),
      bad_mt_xwr: r.bad_mt_xwr,
    });
  return [
    item('mmu-role', { ...id, cpu_role: m.cpu_role, root_role: m.root_role }),
    item(
      'mmu-root',
      { ...id, level: m.root_role & 15n, hpa: root(m.hpa), pgd: m.hpa === ALL_ONES ? 0n : m.pgd },
      { hpa: 'sptep' },
    ),
    item('mmu-permissions', {
      ...id,
      ...Object.fromEntries(m.permissions.map((v, i) => [`pfec${i}`, v])),
      pkru_mask: m.pkru_mask,
    }),
    masks('guest-rsvd-check', m.guest_rsvd, m.cpu_role & 15n),
    masks('shadow-zero-check', m.shadow_rsvd, m.root_role & 15n),
  ];
}

const MMUS = ['root_mmu', 'guest_mmu', 'nested_mmu'] as const;

// ---- From the kernel ----

/**
 * Reads a snapshot file.
 * @throws StateFileError that names the first thing that is not as it should be
 */
export function readSnapshot(json: string): KernelSnapshot {
  const file = JsonNode.parse(json, 'snapshot');
  const vm = file.at('vms').list()[0];
  if (!vm)
    return { step: file.at('label').at('after_step').int(), name: file.at('label').at('name').text(), items: [] };
  const items: NormEvent[] = [globals(file.at('globals'))];
  items.push(
    item('vm', {
      n_used_mmu_pages: vm.at('n_used_mmu_pages').int(),
      mmu_valid_gen: vm.at('mmu_valid_gen').int(),
      indirect_shadow_pages: vm.at('indirect_shadow_pages').int(),
    }),
  );
  for (const as of vm.at('address_spaces').list()) items.push(...addressSpace(as));
  for (const sp of vm.at('shadow_pages').list()) items.push(...pageItems(kernelPage(sp)));
  for (const v of vm.at('vcpus').list()) items.push(...kernelVcpu(v));
  return {
    step: file.at('label').at('after_step').int(),
    name: file.at('label').at('name').text(),
    items: sorted(items),
  };
}

const MASKS: readonly [kernel: string, model: (m: Machine) => Pair][] = [
  ['shadow_host_writable_mask', (m) => m.spte.masks.hostWritable],
  ['shadow_mmu_writable_mask', (m) => m.spte.masks.mmuWritable],
  ['shadow_nx_mask', (m) => m.spte.masks.nx],
  ['shadow_x_mask', (m) => m.spte.masks.x],
  ['shadow_user_mask', (m) => m.spte.masks.user],
  ['shadow_accessed_mask', (m) => m.spte.masks.accessed],
  ['shadow_dirty_mask', (m) => m.spte.masks.dirty],
  ['shadow_mmio_value', (m) => m.spte.masks.mmioValue],
  ['shadow_mmio_mask', (m) => m.spte.masks.mmioMask],
  ['shadow_present_mask', (m) => m.spte.masks.present],
  ['shadow_memtype_mask', (m) => m.spte.masks.memtype],
  ['shadow_acc_track_mask', (m) => m.spte.masks.accTrack],
  ['shadow_nonpresent_or_rsvd_mask', (m) => m.spte.masks.nonpresentOrRsvd],
];

function globals(g: JsonNode): NormEvent {
  const fields: Record<string, Value> = {};
  for (const [name] of MASKS) if (g.has(name)) fields[name] = g.at(name).word();
  fields.enable_mmio_caching = g.at('enable_mmio_caching').int();
  fields.max_huge_page_level = g.at('max_huge_page_level').int();
  return item('globals', fields);
}

function addressSpace(as: JsonNode): NormEvent[] {
  const as_id = as.at('as_id').int();
  const out = [item('generation', { as_id, generation: as.at('generation').word() })];
  for (const s of as.at('slots').list()) {
    const id = s.at('id').int();
    out.push(
      item('memslot', {
        as_id,
        id,
        base_gfn: s.at('base_gfn').word(),
        npages: s.at('npages').int(),
        userspace_addr: hvaOf(id, s.at('userspace_addr').word()),
        flags: s.at('flags').int(),
        dirty_bitmap: s.at('dirty_bitmap').flag(),
      }),
    );
    for (const d of s.at('disallow_lpage').list())
      out.push(
        item('disallow-lpage', {
          as_id,
          id,
          level: d.at('level').int(),
          gfn: d.at('gfn').word(),
          count: d.at('disallow_lpage').int(),
        }),
      );
    for (const w of s.at('write_tracked').list())
      out.push(item('write-tracked', { as_id, id, gfn: w.at('gfn').word(), count: w.at('count').int() }));
    for (const r of s.at('rmap').list())
      out.push(
        item('rmap', { as_id, id, level: r.at('level').int(), gfn: r.at('gfn').word(), sptes: r.at('sptes').int() }),
      );
  }
  return out;
}

/** KVM maps the memory of its private slots itself, wherever there is room: their address is not compared. */
const FIRST_PRIVATE_SLOT = 32764;
const hvaOf = (id: number, hva: bigint): bigint => (id >= FIRST_PRIVATE_SLOT ? 0n : hva);

function kernelPage(sp: JsonNode): PageFields {
  const tdp = sp.at('kind').text() === 'tdp_mmu';
  return {
    role: sp.at('role').at('word').word(),
    gfn: sp.at('gfn').word(),
    level: BigInt(sp.at('level').int()),
    tdp,
    unsync: sp.at('unsync').flag(),
    mmu_valid_gen: sp.at('mmu_valid_gen').int(),
    root_count: sp.at('root_count').int(),
    unsync_children: tdp ? 0 : sp.at('unsync_children').int(),
    write_flooding_count: tdp ? 0 : sp.at('write_flooding_count').int(),
    parent_ptes: tdp ? 0 : sp.at('parent_ptes').int(),
    nx_huge_page_disallowed: sp.at('nx_huge_page_disallowed').flag(),
    spt: sp.at('spt_pa').word(),
    entries: sp
      .at('entries')
      .list()
      .map((e) => ({ index: e.at('index').int(), spte: e.at('spte').word() })),
    translations:
      sp.optional('shadowed_translation', (t) =>
        t.list().map((e) => ({ index: e.at('index').int(), value: e.at('value').word() })),
      ) ?? [],
  };
}

const rsvd = (n: JsonNode): MmuFields['guest_rsvd'] => ({
  masks: n
    .at('rsvd_bits_mask')
    .list()
    .flatMap((row) => row.list().map((v) => v.word())),
  bad_mt_xwr: n.at('bad_mt_xwr').word(),
});

function kernelVcpu(v: JsonNode): NormEvent[] {
  const vcpu = v.at('vcpu_id').int();
  const guestMode = v.at('guest_mode').flag();
  const out = [
    item('vcpu', {
      vcpu,
      smm: v.at('smm').flag(),
      guest_mode: guestMode,
      maxphyaddr: v.at('maxphyaddr').int(),
      smbase: v.at('smbase').word(),
    }),
    item('mmio-cache', {
      vcpu,
      gva: v.at('mmio_gva').word(),
      gfn: v.at('mmio_gfn').word(),
      access: v.at('mmio_access').word(),
      gen: v.at('mmio_gen').word(),
    }),
  ];
  MMUS.forEach((name, mmu) => {
    // the other two contexts are only set up for L2
    if (mmu > 0 && !guestMode) return;
    const m = v.at('mmus').at(name);
    out.push(
      ...mmuItems({
        vcpu,
        mmu,
        cpu_role: m.at('cpu_role').at('as_u64').word(),
        root_role: m.at('root_role').at('word').word(),
        hpa: m.at('root').at('hpa').word(),
        pgd: m.at('root').at('pgd').word(),
        permissions: m
          .at('permissions')
          .list()
          .map((p) => p.int()),
        pkru_mask: m.at('pkru_mask').word(),
        guest_rsvd: rsvd(m.at('guest_rsvd_check')),
        shadow_rsvd: rsvd(m.at('shadow_zero_check')),
      }),
    );
  });
  return out;
}

// ---- From the simulated machine ----

const pair = (p: Pair): bigint => (BigInt(p.hi >>> 0) << 32n) | BigInt(p.lo >>> 0);

/** The same lists of a machine. */
export function simulatedSnapshot(m: Machine): NormEvent[] {
  const items: NormEvent[] = [];
  items.push(
    item('globals', {
      ...Object.fromEntries(MASKS.map(([name, of]) => [name, pair(of(m))])),
      enable_mmio_caching: m.spte.enable_mmio_caching,
      max_huge_page_level: m.maxHugePageLevel,
    }),
    item('vm', {
      n_used_mmu_pages: m.kvm.n_used_mmu_pages,
      mmu_valid_gen: m.kvm.mmu_valid_gen,
      indirect_shadow_pages: m.kvm.indirect_shadow_pages,
    }),
  );
  m.kvm.memslots.forEach((slots, as_id) => items.push(...simulatedAddressSpace(m, as_id)));
  for (const sp of m.kvm.sp_by_pfn.values()) items.push(...pageItems(simulatedPage(m, sp)));
  for (const v of m.vcpus) items.push(...simulatedVcpu(v));
  return sorted(items);
}

function simulatedAddressSpace(m: Machine, as_id: number): NormEvent[] {
  const slots = m.kvm.memslots[as_id];
  const out = [item('generation', { as_id, generation: slots.generation })];
  for (const s of slots.slots) {
    const { id } = s;
    out.push(
      item('memslot', {
        as_id,
        id,
        base_gfn: s.base_gfn,
        npages: s.npages,
        userspace_addr: hvaOf(id, s.userspace_addr),
        flags: s.flags,
        dirty_bitmap: s.dirty_bitmap !== null,
      }),
    );
    s.arch.lpage_info.forEach((info, i) => {
      const level = i + 2;
      const pages = 512 ** (level - 1);
      info.forEach((count, index) => {
        if (count)
          out.push(
            item('disallow-lpage', { as_id, id, level, gfn: (Math.floor(s.base_gfn / pages) + index) * pages, count }),
          );
      });
    });
    for (const [index, count] of s.arch.gfn_write_track)
      if (count) out.push(item('write-tracked', { as_id, id, gfn: s.base_gfn + index, count }));
    s.arch.rmap.forEach((rmap, i) => {
      const pages = 512 ** i;
      for (const index of rmap.keys())
        out.push(
          item('rmap', {
            as_id,
            id,
            level: i + 1,
            gfn: (Math.floor(s.base_gfn / pages) + index) * pages,
            sptes: rmap.get(index).length,
          }),
        );
    });
  }
  return out;
}

function simulatedPage(m: Machine, sp: KvmMmuPage): PageFields {
  const entries: PageFields['entries'] = [];
  const translations: PageFields['translations'] = [];
  const absent = pair(m.spte.masks.nonpresentValue);
  for (let index = 0; index < 512; index++) {
    const spte = m.mem.readQ(sp.spt * 4096 + index * 8);
    if (spte !== 0n && spte !== absent) entries.push({ index, spte });
    if (sp.gfns && sp.accesses) {
      const value = BigInt(sp.gfns[index]) * 0x1000n + BigInt(sp.accesses[index]);
      if (value !== 0n) translations.push({ index, value });
    }
  }
  return {
    role: BigInt(sp.role >>> 0),
    gfn: BigInt(sp.gfn),
    level: BigInt(role_get(sp.role, m.roles.level)),
    tdp: sp.tdp_mmu_page,
    unsync: sp.unsync,
    mmu_valid_gen: sp.mmu_valid_gen,
    root_count: sp.tdp_mmu_page ? sp.tdp_mmu_root_count : sp.root_count,
    unsync_children: sp.unsync_children,
    write_flooding_count: sp.write_flooding_count,
    parent_ptes: sp.parent_ptes.size,
    nx_huge_page_disallowed: sp.nx_huge_page_disallowed,
    spt: BigInt(sp.spt) * 0x1000n,
    entries,
    translations,
  };
}

function simulatedRsvd(r: RsvdBitsValidate): MmuFields['guest_rsvd'] {
  const masks = Array.from(r.lo, (lo, i) => (BigInt(r.hi[i]) << 32n) | BigInt(lo));
  return { masks, bad_mt_xwr: r.bad_mt_xwr };
}

function simulatedVcpu(v: KvmVcpu): NormEvent[] {
  const out = [
    item('vcpu', {
      vcpu: v.vcpu_id,
      smm: is_smm(v),
      guest_mode: is_guest_mode(v),
      maxphyaddr: v.maxphyaddr,
      smbase: v.smbase,
    }),
    item('mmio-cache', { vcpu: v.vcpu_id, gva: v.mmio_gva, gfn: v.mmio_gfn, access: v.mmio_access, gen: v.mmio_gen }),
  ];
  MMUS.forEach((name, index) => {
    if (index > 0 && !is_guest_mode(v)) return;
    const mmu: KvmMmu = v[name];
    out.push(
      ...mmuItems({
        vcpu: v.vcpu_id,
        mmu: index,
        cpu_role: (BigInt(mmu.cpu_role_ext >>> 0) << 32n) | BigInt(mmu.cpu_role_base >>> 0),
        root_role: BigInt(mmu.root_role >>> 0),
        hpa: mmu.root.hpa < 0 ? ALL_ONES : BigInt(mmu.root.hpa),
        pgd: mmu.root.pgd,
        permissions: [...mmu.permissions],
        pkru_mask: BigInt(mmu.pkru_mask),
        guest_rsvd: simulatedRsvd(mmu.guest_rsvd_check),
        shadow_rsvd: simulatedRsvd(mmu.shadow_zero_check),
      }),
    );
  });
  return out;
}
