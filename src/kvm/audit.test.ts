import assert from 'node:assert/strict';
import { insnLoad, insnMovToCr, insnStore } from '../hw/insn';
import { segment } from '../hw/regs';
import { AUDIT_RULES, auditMachine, auditRule, findingText, type Finding } from './audit';
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmMmuPage, type KvmVcpu } from './kvm_host';
import { Machine, machineConfig, type MachineConfig } from './machine';
import { mark_unsync } from './mmu/unsync';
import { drop_spte, rmapOf } from './mmu/rmap';
import { role_get, role_put } from './roles';

const MMIO = 0x10000000n;

/** A guest in 64-bit mode that has touched RAM, its tables and a device; GVAs are GPAs up to 2M. */
function world(over: Partial<MachineConfig> = {}): { m: Machine; vcpu: KvmVcpu } {
  const m = new Machine(machineConfig({ kernel: 'v6.1', ...over }));
  const low = m.backing('low', 0x400000);
  m.set_user_memory_region({ as_id: 0, id: 0, flags: 0, gpa: 0, size: 0x200000, hva: low.hva });
  m.set_user_memory_region({
    as_id: 0,
    id: 1,
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    gpa: 0x200000,
    size: 0x200000,
    hva: low.hva + 0x200000n,
  });
  const q = (gpa: number, value: bigint): void => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value, true);
    assert.ok(m.hostWrite(0, gpa, bytes));
  };
  q(0x10000, 0x11067n);
  q(0x11000, 0x12067n);
  q(0x12000, 0x13067n);
  q(0x12008, 0x14067n);
  for (let i = 0; i < 512; i++) q(0x13000 + 8 * i, BigInt(i * 4096) | 0x67n);
  q(0x14000, MMIO | 0x67n);
  for (let i = 1; i < 512; i++) q(0x14000 + 8 * i, BigInt(0x200000 + i * 4096) | 0x67n);
  const vcpu = m.addVcpu();
  const data = segment({ selector: 0x10 });
  const flat = { cs: segment({ selector: 8, type: 0xb, l: 1 }), ss: data, ds: { ...data }, es: { ...data } };
  m.setRegs(vcpu, { cr0: 0x80010021n, cr3: 0x10000n, cr4: 0x20n, efer: 0x900n, idtr: null, ...flat });
  vcpu.regs.ripKnown = false;
  for (const gva of [0x5000n, 0x6000n, 0x201000n, 0x200000n]) m.run(vcpu, insnLoad(gva, 4));
  m.run(vcpu, insnStore(0x7000n, 4, 1n));
  m.run(vcpu, insnStore(0x202000n, 4, 1n));
  return { m, vcpu };
}

const shadow = (): { m: Machine; vcpu: KvmVcpu } => world({ paging: 'shadow' });
const tdp = (): { m: Machine; vcpu: KvmVcpu } => world({ paging: 'ept' });

/** The page of that level that maps (or shadows the table of) a gfn. */
function page(m: Machine, level: number, what: (sp: KvmMmuPage) => boolean = () => true): KvmMmuPage {
  const found = [...m.kvm.sp_by_pfn.values()].find((sp) => role_get(sp.role, m.roles.level) === level && what(sp));
  assert.ok(found, `no page of level ${level}`);
  return found;
}
const sptep = (sp: KvmMmuPage, index: number): number => sp.spt * 4096 + index * 8;
const change = (m: Machine, p: number, f: (spte: bigint) => bigint): void => {
  const v = f(m.mem.readQ(p));
  m.mem.writeQ(p, Number(v & 0xffffffffn), Number(v >> 32n));
};
/** The level-1 shadow page of the guest table at 0x13000: GVAs below 2M. */
const lowTable = (m: Machine): KvmMmuPage => page(m, 1, (sp) => sp.gfn === 0x13);
const highTable = (m: Machine): KvmMmuPage => page(m, 1, (sp) => sp.gfn === 0x14);

type Plant = (w: { m: Machine; vcpu: KvmVcpu }) => void;
/** For each rule: a state, a defect planted in it, and what the finding says. Other rules may see it, too. */
const DEFECTS: Record<string, readonly (readonly [() => { m: Machine; vcpu: KvmVcpu }, Plant, RegExp])[]> = {
  A1: [
    [
      shadow,
      ({ m }) => {
        const heads = m.kvm.memslots[0].byId(0)!.arch.rmap[0];
        heads.remove(5, heads.get(5)[0]);
      },
      /page of gfn 0x13, level 1, .*entry 5 = 0x.*the rmap of gfn 0x5 at level 1 in slot 0:0/,
    ],
    [
      shadow,
      ({ m }) => {
        const sp = lowTable(m);
        if (sp.gfns) sp.gfns[5] = 0x999999;
      },
      /no memslot for gfn 0x999999/,
    ],
  ],
  A2: [
    [
      shadow,
      ({ m, vcpu }) => {
        m.run(vcpu, insnLoad(0x12000n, 4));
        change(m, rmapOf(m.kvm.memslots[0].byId(0)!, 0x12, 1)[0], (s) => s | 2n);
      },
      /gfn 0x12 is a guest table/,
    ],
  ],
  A3: [
    [shadow, ({ m }) => change(m, sptep(lowTable(m), 5), (s) => s ^ 0x1000n), /maps frame 0x.* but gfn 0x5 is frame/],
    [
      tdp,
      ({ m }) => {
        m.host.find('low')!.pfns[6] = -1;
      },
      /gfn 0x6 is not backed by the host any more/,
    ],
    [tdp, ({ m }) => m.kvm.memslots[0].remove(m.kvm.memslots[0].byId(1)!), /no memslot/],
  ],
  A4: [
    [
      shadow,
      ({ m }) => {
        lowTable(m).unsync = true;
      },
      /bit 0 of unsync_child_bitmap is clear/,
    ],
  ],
  A5: [[shadow, ({ m }) => void (page(m, 2).unsync = true), /an unsync page has level 2/]],
  R1: [
    [shadow, ({ m }) => change(m, sptep(lowTable(m), 5), () => 0n), /which is no leaf/],
    [
      shadow,
      ({ m }) => {
        const heads = m.kvm.memslots[0].byId(0)!.arch.rmap[0];
        heads.add(5, heads.get(5)[0]);
      },
      /twice/,
    ],
    [
      shadow,
      ({ m }) => {
        const { rmap } = m.kvm.memslots[0].byId(0)!.arch;
        rmap[0].add(9, rmap[0].get(5)[0]);
      },
      /which maps gfn 0x5 at level 1/,
    ],
    [
      shadow,
      ({ m }) => {
        const sp = lowTable(m);
        sp.role = role_put(sp.role, m.roles.smm, 1);
      },
      /does not see the slot/,
    ],
  ],
  E1: [
    [tdp, ({ m }) => change(m, sptep(page(m, 1), 5), (s) => s | (1n << 50n)), /reserves bits/],
    [tdp, ({ m }) => change(m, sptep(page(m, 1), 5), (s) => s & ~1n), /reserves bits/],
    [shadow, ({ m }) => change(m, sptep(page(m, 4), 0), (s) => s | 0x80n), /reserves bits/],
  ],
  E2: [
    [tdp, ({ m }) => change(m, sptep(page(m, 1), 7), (s) => s & ~(1n << 58n)), /W is set without MMU-writable/],
    [tdp, ({ m }) => change(m, sptep(page(m, 1), 7), (s) => s & ~(1n << 57n)), /without host-writable/],
    [tdp, ({ m }) => void (m.kvm.memslots[0].byId(0)!.flags |= 2), /KVM_MEM_READONLY/],
  ],
  E3: [
    [
      shadow,
      ({ m }) => {
        const sp = lowTable(m);
        if (sp.accesses) sp.accesses[7] = 0;
      },
      /grants write and execute and user/,
    ],
    [shadow, ({ m }) => void (lowTable(m).role = role_put(lowTable(m).role, m.roles.access, 5)), /grants write,/],
  ],
  M1: [
    [
      tdp,
      ({ m }) =>
        change(
          m,
          sptep(
            page(m, 1, (p) => p.gfn === 0x10000),
            0,
          ),
          (s) => s ^ 0x1000n,
        ),
      /where gfn 0x10000/,
    ],
  ],
  M2: [
    [
      tdp,
      ({ m }) => {
        const s = m.kvm.memslots[0].byId(1)!;
        m.kvm.memslots[0].insert({ ...s, base_gfn: 0x10000, id: 7 });
      },
      /is current, but gfn 0x10000 is RAM: slot 0:1|slot 0:7/,
    ],
  ],
  M3: [
    [
      () => world({ kernel: 'v7.3' }),
      ({ vcpu }) => {
        vcpu.mmio_gfn = 5;
        vcpu.mmio_gen = vcpu.kvm.memslots[0].generation;
      },
      /vCPU 0 remembers gfn 0x5 as MMIO/,
    ],
  ],
  D1: [
    [shadow, ({ m }) => void m.kvm.memslots[0].byId(1)!.dirty_bitmap!.fill(0), /can write gfn 0x202 unnoticed/],
    [tdp, ({ m }) => void m.kvm.memslots[0].byId(1)!.dirty_bitmap!.fill(0), /can write gfn 0x202 unnoticed/],
  ],
  H1: [
    [shadow, ({ m }) => void m.kvm.mmu_page_hash.delete(0x13), /not in mmu_page_hash/],
    [shadow, ({ m }) => void (lowTable(m).gfn = 0x77), /is hashed under gfn 0x13/],
    [shadow, ({ m }) => void m.kvm.mmu_page_hash.get(0x13)!.push(lowTable(m)), /twice/],
    [
      shadow,
      ({ m }) => {
        const { sp_by_pfn } = m.kvm;
        sp_by_pfn.set(lowTable(m).spt, highTable(m));
      },
      /has another header/,
    ],
  ],
  H2: [
    [
      shadow,
      ({ m }) => {
        const twin = highTable(m);
        twin.gfn = 0x13;
        m.kvm.mmu_page_hash.get(0x13)!.push(twin);
      },
      /have the same gfn and role/,
    ],
  ],
  H3: [
    [
      shadow,
      ({ m }) => {
        const sp = page(m, 4);
        sp.role = role_put(sp.role, m.roles.invalid, 1);
      },
      /role.invalid is set, but the page is on the active list|keeps an obsolete root/,
    ],
    [tdp, ({ m }) => void (page(m, 4).role |= 1 << 11), /root_mmu keeps an obsolete root/],
  ],
  C1: [[shadow, ({ m }) => void m.kvm.n_used_mmu_pages++, /n_used_mmu_pages is 6, but there are 5 pages/]],
  C2: [
    [shadow, ({ m }) => void page(m, 4).root_count--, /root_count is 0, but 1 root of vCPUs/],
    [
      tdp,
      ({ m }) => void page(m, 4).tdp_mmu_root_count++,
      /tdp_mmu_root_count is 3, but vCPUs hold 1 and KVM itself 1/,
    ],
  ],
  C3: [[shadow, ({ m }) => void m.kvm.indirect_shadow_pages--, /indirect_shadow_pages is 4, but 5 pages shadow/]],
  C4: [[tdp, ({ m }) => void m.kvm.tdp_mmu_pages++, /tdp_mmu_pages is \d+, but there are/]],
  C5: [
    [shadow, ({ m }) => void m.kvm.memslots[0].byId(0)!.arch.lpage_info[0][0]--, /disallow_lpage at level 2 is 4/],
    [shadow, ({ m }) => void m.kvm.memslots[0].byId(0)!.arch.gfn_write_track.delete(0x12), /write-tracking count is 0/],
    [tdp, ({ m }) => void m.kvm.memslots[0].byId(0)!.arch.gfn_write_track.set(1, 1), /but 0 pages of level 2/],
  ],
  U1: [[shadow, ({ m }) => void page(m, 3).unsync_children++, /unsync_children is 1, but .* has 0 bits/]],
  L1: [
    [shadow, ({ m }) => void m.kvm.sp_by_pfn.delete(lowTable(m).spt), /is no table of KVM's/],
    [tdp, ({ m }) => void (page(m, 2).role |= 1 << 11), /whose page is invalid/],
  ],
  L2: [
    [shadow, ({ m }) => lowTable(m).parent_ptes.clear(), /whose parent_ptes does not have it/],
    [shadow, ({ m }) => void lowTable(m).parent_ptes.add(sptep(page(m, 2), 77)), /but the entry there does not point/],
    [tdp, ({ m }) => void (page(m, 2).ptep += 8), /whose ptep is/],
    [tdp, ({ m }) => void m.kvm.tdp_mmu_roots.pop(), /not on tdp_mmu_roots/],
  ],
  L3: [
    [shadow, ({ m }) => void (lowTable(m).role = role_put(lowTable(m).role, m.roles.efer_nx, 0)), /another mode/],
    [
      tdp,
      ({ m }) => void (page(m, 2).role = role_put(page(m, 2).role, m.roles.level, 1)),
      /level 1 hangs below level 3/,
    ],
    [tdp, ({ m }) => void (page(m, 2).role = role_put(page(m, 2).role, m.roles.direct, 0)), /below a direct page/],
    [tdp, ({ m }) => void (page(m, 2).tdp_mmu_page = false), /of the other/],
    [shadow, ({ m }) => void (page(m, 3).role = role_put(page(m, 3).role, m.roles.access, 5)), /grants writes/],
    [quadrants, ({ m }) => void (page(m, 1).role ^= 1 << 5), /quadrant/],
  ],
  L4: [[tdp, ({ m }) => void (page(m, 1).gfn += 512), /a direct page of gfn 0x.* hangs where gfn/]],
  V1: [[tdp, ({ vcpu }) => void (vcpu.root_mmu.root_role ^= 1 << 24), /has root_role 0x1003784, but runs on a root/]],
};

/** A guest with 32-bit paging on shadow tables. */
function quadrants(): { m: Machine; vcpu: KvmVcpu } {
  const { m, vcpu } = shadow();
  const d = (gpa: number, value: number): void => {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    assert.ok(m.hostWrite(0, gpa, bytes));
  };
  d(0x20000, 0x21067);
  for (let i = 0; i < 1024; i++) d(0x21000 + 4 * i, ((i & 0x1ff) << 12) | 0x67);
  m.setRegs(vcpu, {
    cr0: 0x80010021n,
    cr3: 0x20000n,
    cr4: 0n,
    efer: 0n,
    cs: segment({ selector: 8, type: 0xb, db: 1 }),
  });
  m.run(vcpu, insnLoad(0x5000n, 4));
  m.run(vcpu, insnLoad(0x205000n, 4));
  for (const sp of [...m.kvm.sp_by_pfn.values()])
    if (!m.roles.has4ByteGpte(sp.role)) assert.equal(sp.root_count, 0, 'pages of the 64-bit guest are not in use');
  // Only the pages of the 32-bit guest are of interest: the others go.
  const set = m.kvm.memslots[0];
  assert.equal(
    m.set_user_memory_region({ as_id: 0, id: 9, flags: 0, gpa: 0x8000000, size: 0x1000, hva: m.host.find('low')!.hva })
      .errno,
    0,
  );
  assert.equal(m.set_user_memory_region({ as_id: 0, id: 9, flags: 0, gpa: 0x8000000, size: 0, hva: 0n }).errno, 0);
  assert.ok(set.byId(9) === null);
  m.run(vcpu, insnLoad(0x5000n, 4));
  m.run(vcpu, insnLoad(0x205000n, 4));
  return { m, vcpu };
}

const ids = (f: readonly Finding[]): string[] => [...new Set(f.map((x) => x.rule))];

describe('audit', () => {
  it('has a planted defect for every rule', () => {
    const spp = AUDIT_RULES.filter((r) => r.id.startsWith('S')).map((r) => r.id);
    assert.deepEqual([...Object.keys(DEFECTS), ...spp].sort(), AUDIT_RULES.map((r) => r.id).sort());
    assert.equal(new Set(AUDIT_RULES.map((r) => r.id)).size, AUDIT_RULES.length);
  });

  for (const [rule, defects] of Object.entries(DEFECTS))
    for (const [make, plant, text] of defects)
      it(`${rule} is silent, and finds a planted defect: ${text.source}`, () => {
        const w = make();
        assert.deepEqual(auditMachine(w.m).map(findingText), [], 'clean before');
        plant(w);
        const found = auditMachine(w.m);
        assert.ok(ids(found).includes(rule), `found only ${found.map(findingText).join('; ')}`);
        assert.match(
          found
            .filter((f) => f.rule === rule)
            .map(findingText)
            .join('\n'),
          text,
        );
      });

  it('A4 takes an unsync page for a defect only right after a sync', () => {
    const { m, vcpu } = shadow();
    // A store to its own leaf table: the page becomes unsync.
    m.run(vcpu, insnStore(0x13000n + 8n * 9n, 8, 0x9067n));
    assert.ok(lowTable(m).unsync);
    assert.deepEqual(ids(auditMachine(m)), []);
    assert.deepEqual(ids(auditMachine(m, { synced: vcpu })), ['A4']);
    m.run(vcpu, insnMovToCr(3, 0x10000n));
    m.run(vcpu, insnLoad(0x5000n, 4));
    assert.deepEqual(ids(auditMachine(m, { synced: vcpu })), []);
  });

  it('names page, level, role, index and entry', () => {
    const { m } = tdp();
    const sp = page(m, 1, (p) => p.gfn === 0);
    change(m, sptep(sp, 5), (s) => s ^ 0x1000n);
    const [f, ...more] = auditMachine(m);
    assert.deepEqual(more, []);
    assert.equal(f.rule, 'A3');
    assert.deepEqual(f.page, { gfn: 0, role: sp.role, level: 1, pfn: sp.spt });
    assert.equal(f.index, 5);
    assert.equal(f.sptep, sptep(sp, 5));
    assert.equal(f.spte, m.mem.readQ(sptep(sp, 5)));
    assert.equal(f.gfn, 5);
  });

  it('counts no look-up and changes nothing', () => {
    const { m } = shadow();
    const before = m.kvm.memslot_lookups;
    const lru = m.kvm.memslots[0].lruSlot;
    auditMachine(m);
    assert.equal(m.kvm.memslot_lookups, before);
    assert.equal(m.kvm.memslots[0].lruSlot, lru);
  });

  it('checks single rules, and knows those that exist', () => {
    const { m } = shadow();
    lowTable(m).unsync = true;
    m.kvm.n_used_mmu_pages++;
    assert.deepEqual(ids(auditMachine(m, { rules: ['C1'] })), ['C1']);
    assert.equal(auditRule('A1').id, 'A1');
    assert.throws(() => auditRule('A9'), /no audit rule A9/);
  });

  it('finds nothing when entries are dropped the way KVM drops them', () => {
    const { m } = shadow();
    drop_spte(m.kvm, sptep(lowTable(m), 5));
    assert.deepEqual(auditMachine(m), []);
    lowTable(m).unsync = true;
    for (const p of lowTable(m).parent_ptes) mark_unsync(m.kvm, p);
    assert.deepEqual(auditMachine(m), []);
  });
});
