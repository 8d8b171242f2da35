import assert from 'node:assert/strict';
import { insnLoad, insnStore } from '../../hw/insn';
import { segment } from '../../hw/regs';
import { encodeSpptL1 } from '../../words/entries';
import { auditMachine, findingText } from '../audit';
import type { KvmEvent } from '../events';
import { INVALID_PAGE, KVM_MEM_LOG_DIRTY_PAGES, type KvmVcpu } from '../kvm_host';
import { Machine, machineConfig, type MachineConfig, type RunResult } from '../machine';
import { role_get } from '../roles';
import { format_spp_spte, sppt_entry, sppt_root_of } from './spp';
import { rmapOf } from './rmap';

/** A guest without paging: linear addresses are guest-physical. Slot 1 at 2M is of 2M host pages. */
function world(kernel: string, over: Partial<MachineConfig> = {}): { m: Machine; vcpu: KvmVcpu } {
  const m = new Machine(machineConfig({ kernel, ...over }));
  const low = m.backing('low', 0x200000);
  const big = m.backing('big', 0x400000, { huge: true });
  m.set_user_memory_region({ as_id: 0, id: 0, flags: 0, gpa: 0, size: 0x200000, hva: low.hva });
  m.set_user_memory_region({ as_id: 0, id: 1, flags: 0, gpa: 0x200000, size: 0x400000, hva: big.hva });
  return { m, vcpu: newVcpu(m) };
}

function newVcpu(m: Machine): KvmVcpu {
  const vcpu = m.addVcpu();
  const data = segment({ selector: 0x10, db: 1 });
  const flat = { cs: segment({ selector: 8, type: 0xb, db: 1 }), ss: data, ds: { ...data }, es: { ...data } };
  m.setRegs(vcpu, { cr0: 0x21n, cr3: 0n, cr4: 0n, efer: 0n, idtr: null, ...flat });
  vcpu.regs.ripKnown = false;
  return vcpu;
}

function run(m: Machine, vcpu: KvmVcpu, f: () => RunResult): { result: RunResult; events: KvmEvent[] } {
  const events: KvmEvent[] = [];
  m.observer = { enter: () => {}, leave: () => {}, read: () => {}, event: (e) => void events.push(e) };
  const result = f();
  m.observer = null;
  assert.deepEqual(auditMachine(m).map(findingText), []);
  return { result, events };
}
const store = (m: Machine, vcpu: KvmVcpu, gpa: number, size: 1 | 4 | 8 = 4): RunResult =>
  m.run(vcpu, insnStore(BigInt(gpa), size, 0x55n));
const leafOf = (m: Machine, gfn: number): bigint => {
  const [sptep] = rmapOf(m.slotAt(0, gfn)!, gfn, 1);
  return sptep === undefined ? 0n : m.mem.readQ(sptep);
};
const SPP = 1n << 61n;
const SAVED = 1n << 55n;

for (const kernel of ['spp-rfc-2018', 'spp-v12'])
  describe(`sub-page permissions (${kernel})`, () => {
    it('lets the guest write what the map allows and tells user space of the rest', () => {
      const { m, vcpu } = world(kernel);
      store(m, vcpu, 0x5000);
      assert.equal(leafOf(m, 5) & 2n, 2n);
      assert.equal(m.setSubpages(5, [0xfffffffe]).npages, 1);
      assert.equal(leafOf(m, 5) & (2n | SPP), SPP, 'W clear, bit 61 set');
      const first = run(m, vcpu, () => store(m, vcpu, 0x5080));
      assert.equal(first.result.end, 'done');
      assert.deepEqual(
        first.events.filter((e) => e.kind === 'kvm_exit').map((e) => e.reason),
        ['SPP_EVENT'],
        'a miss, then the processor finds the vector by itself',
      );
      assert.ok(first.events.some((e) => e.kind === 'spp_miss' && e.code === 0x800n));
      const vector = m.mem.readQ(sppt_entry(m, sppt_root_of(vcpu), 5, 1, 'valid'));
      assert.equal(vector, encodeSpptL1(0xfffffffe));
      const second = run(m, vcpu, () => store(m, vcpu, 0x5100));
      assert.equal(second.events.filter((e) => e.kind === 'kvm_exit').length, 0);
      const denied = run(m, vcpu, () => store(m, vcpu, 0x5008));
      assert.equal(denied.result.end, 'spp');
      assert.deepEqual(denied.result.exits, [{ reason: 'spp', gpa: 0x5008, insn_len: 0 }]);
      assert.ok(denied.events.some((e) => e.kind === 'ept_violation' && e.write));
      assert.equal(m.hostRead(0, 0x5008, 1)?.[0], 0, 'nothing was written');
      assert.equal(m.run(vcpu, insnLoad(0x5008n, 4)).end, 'done', 'reads are not concerned');
    });

    it('refuses a write that reaches into a forbidden sub-page', () => {
      const { m, vcpu } = world(kernel);
      m.setSubpages(5, [0b01]);
      assert.equal(store(m, vcpu, 0x507c, 4).end, 'done');
      assert.equal(store(m, vcpu, 0x507e, 4).end, 'spp');
    });

    it('gives the page back when user space relaxes the map', () => {
      const { m, vcpu } = world(kernel);
      m.setSubpages(5, [0]);
      assert.equal(store(m, vcpu, 0x5000).end, 'spp');
      m.setSubpages(5, [1]);
      assert.equal(run(m, vcpu, () => store(m, vcpu, 0x5000)).result.end, 'done');
      m.setSubpages(5, [0xffffffff]);
      assert.equal(leafOf(m, 5) & SPP, 0n);
      assert.equal(run(m, vcpu, () => store(m, vcpu, 0x5ffc)).result.end, 'done');
      assert.equal(leafOf(m, 5) & 2n, 2n);
      assert.deepEqual(m.getSubpages(4, 2).access, [0xffffffff, 0xffffffff]);
    });

    it('takes the valid bit of the level-2 entry, keeps its address, and fills the whole block at the next miss', () => {
      const { m, vcpu } = world(kernel);
      m.setSubpages(5, [2, 4]);
      store(m, vcpu, 0x5080);
      const l2 = sppt_entry(m, sppt_root_of(vcpu), 5, 2, 'valid');
      const before = m.mem.readQ(l2);
      assert.equal(before & 1n, 1n);
      m.setSubpages(9, [8]);
      assert.equal(m.mem.readQ(l2), before & ~1n);
      const { events } = run(m, vcpu, () => store(m, vcpu, 0x5080));
      assert.ok(events.some((e) => e.kind === 'spp_miss'));
      assert.equal(m.mem.readQ(l2), before);
      for (const [gfn, map] of [
        [5, 2],
        [6, 4],
        [9, 8],
        [7, 0xffffffff],
      ])
        assert.equal(m.mem.readQ(sppt_entry(m, sppt_root_of(vcpu), gfn, 1, 'valid')), encodeSpptL1(map), `gfn ${gfn}`);
    });

    it('splits a huge page and keeps 4K as long as a map needs it', () => {
      const { m, vcpu } = world(kernel);
      store(m, vcpu, 0x200000);
      const slot = m.slotAt(0, 0x200)!;
      assert.equal(rmapOf(slot, 0x200, 2).length, 1);
      m.setSubpages(0x203, [1]);
      assert.equal(rmapOf(slot, 0x200, 2).length, 0, 'the huge mapping went');
      run(m, vcpu, () => store(m, vcpu, 0x200000));
      assert.equal(rmapOf(slot, 0x200, 1).length, 1);
      assert.equal(store(m, vcpu, 0x203080).end, 'spp');
      store(m, vcpu, 0x400000);
      assert.equal(rmapOf(slot, 0x400, 2).length, 1, 'the next 2M are not concerned');
    });

    it('has pages with role.spp beside those of EPT, with roots that come and go together', () => {
      const { m, vcpu } = world(kernel);
      store(m, vcpu, 0x5000);
      const root = sppt_root_of(vcpu);
      const sp = m.kvm.sp_by_pfn.get(root / 4096)!;
      assert.equal(role_get(sp.role, m.roles.spp), 1);
      assert.equal(role_get(sp.role, m.roles.level), 4);
      assert.equal(sp.root_count, 1);
      assert.equal(vcpu.translator.stage2.ept?.spp?.rootLo, root >>> 0, 'SPPTP of the processor');
      m.setSubpages(5, [1]);
      store(m, vcpu, 0x5000);
      const levels = [...m.kvm.sp_by_pfn.values()].filter((p) => role_get(p.role, m.roles.spp)).map((p) => role_get(p.role, m.roles.level)); // prettier-ignore
      assert.deepEqual(levels, [4, 3, 2, 1]);
      // Zapping everything frees both roots; both are made anew, and the map still holds.
      assert.equal(m.set_user_memory_region({ as_id: 0, id: 1, flags: 0, gpa: 0x200000, size: 0, hva: 0n }).errno, 0);
      assert.equal(run(m, vcpu, () => store(m, vcpu, 0x5080)).result.end, 'spp');
      assert.equal(run(m, vcpu, () => store(m, vcpu, 0x5000)).result.end, 'done');
      m.destroy();
      assert.equal(m.kvm.sp_by_pfn.size, 0, 'nothing is left');
    });

    it('is one for the VM, or one for each vCPU', () => {
      const { m, vcpu } = world(kernel);
      const second = newVcpu(m);
      m.setSubpages(5, [1]);
      assert.equal(store(m, vcpu, 0x5000).end, 'done');
      assert.equal(store(m, second, 0x5000).end, 'done');
      assert.equal(sppt_root_of(vcpu) === sppt_root_of(second), kernel === 'spp-v12');
      m.setSubpages(5, [2]);
      assert.equal(store(m, second, 0x5000).end, 'spp');
      assert.equal(store(m, vcpu, 0x5080).end, 'done');
      assert.deepEqual(auditMachine(m), []);
    });

    it('keeps the dirty log right: the SPP bit waits in bit 55', () => {
      const { m, vcpu } = world(kernel);
      m.setSubpages(5, [3]);
      store(m, vcpu, 0x5000);
      const low = m.host.find('low')!;
      const log = (flags: number): void =>
        assert.equal(m.set_user_memory_region({ as_id: 0, id: 0, flags, gpa: 0, size: 0x200000, hva: low.hva }).errno, 0); // prettier-ignore
      log(KVM_MEM_LOG_DIRTY_PAGES);
      assert.equal(leafOf(m, 5) & (SPP | SAVED), SAVED);
      assert.deepEqual(auditMachine(m).map(findingText), []);
      run(m, vcpu, () => store(m, vcpu, 0x5080));
      assert.equal(leafOf(m, 5) & (SPP | SAVED), SPP);
      assert.equal(m.getDirtyLog(0, 0).bitmap[0] & (1 << 5), 1 << 5);
      assert.equal(leafOf(m, 5) & (SPP | SAVED), SAVED, 'armed again');
      assert.equal(run(m, vcpu, () => store(m, vcpu, 0x5100)).result.end, 'spp');
    });

    it('ends the run at a misconfiguration', () => {
      const { m, vcpu } = world(kernel);
      m.setSubpages(5, [1]);
      store(m, vcpu, 0x5000);
      const at = sppt_entry(m, sppt_root_of(vcpu), 5, 1, 'valid');
      m.mem.writeQ(at, 2, 0);
      const r = store(m, vcpu, 0x5000);
      assert.equal(r.end, 'error');
      assert.deepEqual({ ...r.exits[0], text: '' }, { reason: 'unknown', hardware_exit_reason: 66, text: '' });
      assert.deepEqual([...new Set(auditMachine(m).map((f) => f.rule))], ['S2']);
    });

    it('refuses what the ioctl refuses', () => {
      const { m } = world(kernel);
      const limit = kernel === 'spp-v12' ? 512 : 64;
      const full = (n: number): number[] => new Array<number>(n).fill(0xffffffff);
      assert.equal(m.setSubpages(0, full(limit)).npages, limit);
      assert.match(m.setSubpages(0, full(limit + 1)).text, /^-EINVAL: /);
      assert.match(m.getSubpages(0, limit + 1).text, /^-EINVAL: /);
      assert.deepEqual(m.setSubpages(0x1ff, [1, 1]).npages, 2);
      const outside = m.setSubpages(0x5ff, [1, 1]);
      assert.match(outside.text, /^-EFAULT: no memslot holds gfn 0x600/);
      assert.equal(outside.npages, 1);
      assert.match(m.getSubpages(0x600, 1).text, /^-EFAULT/);
      assert.deepEqual(m.setSubpages(0x999, []), { errno: 0, text: 'ok', npages: 0, access: [] });
    });

    it('each audit rule finds a planted defect', () => {
      const defects: [string, RegExp, (m: Machine, vcpu: KvmVcpu) => void][] = [
        ['S1', /reserved bits/, (m, v) => poke(m, sppt_entry(m, sppt_root_of(v), 5, 3, 'valid'), 0x10n)],
        ['S1', /does not point to an SPPT page/, (m, v) => poke(m, sppt_entry(m, sppt_root_of(v), 5, 3, 'valid'), 1n << 30n)],
        ['S1', /does not belong there/, (m, v) => void (m.kvm.sp_by_pfn.get(Math.floor(sppt_entry(m, sppt_root_of(v), 5, 1, 'valid') / 4096))!.gfn = 512)], // prettier-ignore
        ['S2', /is not what its access map makes/, (m, v) => poke(m, sppt_entry(m, sppt_root_of(v), 5, 1, 'valid'), 4n)],
        ['S2', /odd bits/, (m, v) => poke(m, sppt_entry(m, sppt_root_of(v), 5, 1, 'valid'), 2n)],
        ['S3', /does not ask the SPPT/, (m) => poke(m, rmapOf(m.slotAt(0, 5)!, 5, 1)[0], SPP)],
        ['S3', /asks the SPPT, but all/, (m) => void m.slotAt(0, 5)!.arch.subpage_wp_info!.delete(5)],
        ['S3', /W is set/, (m) => poke(m, rmapOf(m.slotAt(0, 5)!, 5, 1)[0], 2n)],
        ['S4', /without an SPPT root/, (m, v) => {
          v.root_mmu.sppt_root = INVALID_PAGE;
          m.kvm.sppt_root = INVALID_PAGE;
        }],
      ]; // prettier-ignore
      for (const [rule, text, plant] of defects) {
        const { m, vcpu } = world(kernel);
        m.setSubpages(5, [1]);
        store(m, vcpu, 0x5000);
        assert.deepEqual(auditMachine(m).map(findingText), []);
        plant(m, vcpu);
        const found = auditMachine(m).filter((f) => f.rule === rule);
        assert.match(found.map(findingText).join('\n'), text, rule);
      }
    });
  });

function poke(m: Machine, at: number, flip: bigint): void {
  const v = m.mem.readQ(at) ^ flip;
  m.mem.writeQ(at, Number(v & 0xffffffffn), Number(v >> 32n));
}

describe('sub-page permissions elsewhere', () => {
  it('do not exist in other kernels, on other paging, or when not asked for', () => {
    for (const [kernel, over] of [
      ['v6.1', {}],
      ['spp-v12', { spp: false }],
      ['spp-v12', { paging: 'shadow' }],
    ] as const) {
      const { m, vcpu } = world(kernel, over);
      assert.match(m.setSubpages(5, [1]).text, /^-ENODEV: /);
      store(m, vcpu, 0x5000);
      assert.equal(sppt_root_of(vcpu), INVALID_PAGE);
    }
  });

  it('format_spp_spte agrees with the layout table', () => {
    for (const map of [0, 1, 0x80000000, 0xffffffff, 0x12345678, 0xdeadbeef]) {
      const { lo, hi } = format_spp_spte(map);
      assert.equal((BigInt(hi) << 32n) | BigInt(lo), encodeSpptL1(map));
    }
  });
});
