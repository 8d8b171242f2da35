import assert from 'node:assert/strict';
import { insnLoad, insnPlain, insnStore } from '../hw/insn';
import { segment } from '../hw/regs';
import { auditMachine, findingText } from './audit';
import { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_X86_NORMAL_ONLY, KVM_MEM_X86_SMRAM, type KvmVcpu } from './kvm_host';
import { Machine, machineConfig, type MachineConfig } from './machine';
import { ghc_slot, search_mode, x86_gfn_to_hva_cache_init, type SmramDesign } from './smram';

const DESIGNS: readonly SmramDesign[] = ['address-spaces', 'flag', 'three-state'];
/** Where SMM has RAM of its own; where other modes have RAM that SMM must not see. */
const OWN = 0xa0000;
const HIDDEN = 0xc0000;

interface World {
  m: Machine;
  vcpu: KvmVcpu;
  /** adds a slot of 64K for a mode, or for both. @returns the errno */
  slot: (id: number, mode: 'smm' | 'normal' | 'both', gpa: number, offset: number, flags?: number) => number;
}

/** A real-mode guest: linear addresses are guest-physical. Backing `mem` holds its offset in each 64K. */
function world(smram_design: SmramDesign, over: Partial<MachineConfig> = {}): World {
  const kernel = smram_design === 'address-spaces' ? 'v4.2' : 'seed3';
  const m = new Machine(machineConfig({ kernel, smram_design, ...over }));
  const mem = m.backing('mem', 0x100000);
  for (let at = 0; at < mem.size; at += 0x10000) m.writeBacking('mem', at, new Uint8Array([at >>> 16]));
  const slot: World['slot'] = (id, mode, gpa, offset, flags = 0) => {
    const region = { id, gpa, size: gpa === 0 ? 0x40000 : 0x10000, hva: mem.hva + BigInt(offset) };
    if (smram_design === 'address-spaces') {
      const spaces = mode === 'both' ? [0, 1] : mode === 'smm' ? [1] : [0];
      return Math.min(...spaces.map((as_id) => m.set_user_memory_region({ ...region, as_id, flags }).errno));
    }
    const mark = mode === 'smm' ? KVM_MEM_X86_SMRAM : mode === 'normal' ? KVM_MEM_X86_NORMAL_ONLY : 0;
    return m.set_user_memory_region({ ...region, as_id: 0, flags: flags | mark }).errno;
  };
  assert.equal(slot(0, 'both', 0, 0), 0);
  const vcpu = m.addVcpu();
  const data = segment({ selector: 0 });
  m.setRegs(vcpu, { cr0: 0x20n | 1n, idtr: null, ss: data, ds: { ...data }, es: { ...data }, cs: segment({ type: 0xb, db: 1 }) }); // prettier-ignore
  vcpu.regs.ripKnown = false;
  return { m, vcpu, slot };
}

/** First byte at a gpa as the guest reads it: a number, or `mmio`. */
function read({ m, vcpu }: World, gpa: number): number | 'mmio' {
  const r = m.run(vcpu, insnLoad(BigInt(gpa), 1));
  assert.equal(r.end, 'done');
  assert.deepEqual(auditMachine(m).map(findingText), []);
  return r.exits.some((e) => e.reason === 'mmio') ? 'mmio' : Number(r.value);
}

function enterSmm({ m, vcpu }: World): void {
  m.smi(vcpu);
  m.run(vcpu, insnLoad(0n, 1));
  vcpu.regs.ripKnown = false;
  assert.notEqual(vcpu.hflags & 64, 0);
}
const leaveSmm = ({ m, vcpu }: World): void => {
  m.run(vcpu, insnPlain('rsm'));
  vcpu.regs.ripKnown = false;
};

/** What the two modes read at two places, after slots were added as far as the design can say it. */
function compare(design: SmramDesign): { errnos: number[]; normal: unknown[]; smm: unknown[]; again: unknown[] } {
  const w = world(design);
  const errnos = [
    w.slot(1, 'smm', OWN, 0x80000),
    w.slot(2, 'normal', HIDDEN, 0x90000),
    w.slot(3, 'normal', OWN, 0xb0000),
  ];
  const both = (): unknown[] => [read(w, OWN), read(w, HIDDEN), read(w, 0)];
  const normal = both();
  enterSmm(w);
  const smm = both();
  leaveSmm(w);
  return { errnos, normal, smm, again: both() };
}

describe('SMRAM designs', () => {
  it('the merged one and the three-state one can say everything', () => {
    for (const design of ['address-spaces', 'three-state'] as const) {
      const { errnos, normal, smm, again } = compare(design);
      assert.deepEqual(errnos, [0, 0, 0], design);
      assert.deepEqual(normal, [0xb, 9, 0], design);
      assert.deepEqual(smm, [8, 'mmio', 0], design);
      assert.deepEqual(again, normal, design);
    }
  });

  it('the flag can hide from normal mode only, and never has RAM below SMRAM', () => {
    const { errnos, normal, smm, again } = compare('flag');
    // The flag that hides from SMM does not exist, and slots do not overlap.
    assert.deepEqual(errnos, [0, -22, -22]);
    assert.deepEqual(normal, ['mmio', 'mmio', 0]);
    assert.deepEqual(smm, [8, 'mmio', 0]);
    assert.deepEqual(again, normal);
    const w = world('flag');
    assert.equal(w.slot(1, 'smm', OWN, 0x80000), 0);
    assert.equal(w.slot(3, 'both', OWN, 0xb0000), -17);
    assert.equal(w.slot(2, 'both', HIDDEN, 0x90000), 0);
    enterSmm(w);
    assert.equal(read(w, HIDDEN), 9, 'what everybody sees SMM sees, too');
  });

  it('count every look-up, hidden or not', () => {
    for (const design of DESIGNS) {
      const { m, slot } = world(design);
      slot(1, 'smm', OWN, 0x80000);
      const before = m.kvm.memslot_lookups;
      assert.equal(search_mode(m.kvm, false, OWN / 4096), null, design);
      assert.equal(search_mode(m.kvm, true, OWN / 4096)?.id, 1, design);
      assert.equal(search_mode(m.kvm, true, 0)?.id, 0, design);
      assert.equal(m.kvm.memslot_lookups, before + 3, design);
    }
  });

  it('take each other’s flags and address spaces for mistakes', () => {
    const two = world('address-spaces');
    assert.equal(two.m.set_user_memory_region({ as_id: 0, id: 5, flags: KVM_MEM_X86_SMRAM, gpa: OWN, size: 4096, hva: two.m.host.find('mem')!.hva }).errno, -22); // prettier-ignore
    const flag = world('flag');
    assert.equal(flag.m.set_user_memory_region({ as_id: 1, id: 5, flags: 0, gpa: OWN, size: 4096, hva: flag.m.host.find('mem')!.hva }).errno, -22); // prettier-ignore
    assert.equal(flag.slot(1, 'smm', OWN, 0x80000), 0);
    assert.equal(flag.slot(1, 'both', OWN, 0x80000), -22, 'the flag of a slot cannot be toggled');
    assert.equal(world('three-state').slot(1, 'smm', 0x10000, 0x80000), -17, 'SMM against both');
    assert.equal(world('three-state').slot(1, 'normal', 0x10000, 0x80000), -17, 'normal mode against both');
  });

  it('three states: what both modes see has one dirty bitmap, two tables have two', () => {
    for (const design of ['three-state', 'address-spaces'] as const) {
      const w = world(design);
      w.slot(4, 'both', 0xd0000, 0xc0000, KVM_MEM_LOG_DIRTY_PAGES);
      w.m.run(w.vcpu, insnStore(0xd0000n, 1, 1n));
      enterSmm(w);
      w.m.run(w.vcpu, insnStore(0xd1000n, 1, 1n));
      assert.deepEqual(auditMachine(w.m).map(findingText), []);
      const bits = (as: number): number => w.m.getDirtyLog(as, 4).bitmap[0] & 3;
      assert.deepEqual(design === 'three-state' ? [bits(0)] : [bits(0), bits(1)], design === 'three-state' ? [3] : [1, 2]); // prettier-ignore
    }
  });

  it('the TDP MMU serves the designs with one table, too', () => {
    for (const design of ['flag', 'three-state'] as const) {
      const w = world(design, { kernel: 'v6.1' });
      w.slot(1, 'smm', OWN, 0x80000);
      assert.equal(read(w, OWN), 'mmio');
      enterSmm(w);
      assert.equal(read(w, OWN), 8);
      const mem = w.m.host.find('mem')!;
      w.m.invalidateBacking('mem', 0x80000, 0x1000);
      assert.deepEqual(auditMachine(w.m).map(findingText), [], 'the notifier finds the mappings of SMM');
      assert.equal(mem.pfns[0x80], -1);
      assert.equal(read(w, OWN), 0);
    }
  });

  it('a cached translation never keeps a slot that only SMM may see', () => {
    const w = world('flag');
    w.slot(1, 'smm', OWN, 0x80000);
    assert.equal(x86_gfn_to_hva_cache_init(w.vcpu, OWN, 4), null, 'outside SMM there is nothing');
    const low = x86_gfn_to_hva_cache_init(w.vcpu, 0x100, 4)!;
    assert.equal(low.memslot?.id, 0);
    const before = w.m.kvm.memslot_lookups;
    assert.deepEqual([ghc_slot(w.vcpu, low).fast, ghc_slot(w.vcpu, low).slot?.id], [true, 0]);
    assert.equal(w.m.kvm.memslot_lookups, before, 'the fast path searches nothing');
    enterSmm(w);
    const own = x86_gfn_to_hva_cache_init(w.vcpu, OWN, 4)!;
    assert.equal(own.memslot, null);
    assert.equal(own.hva, w.m.host.find('mem')!.hva + 0x80000n);
    assert.deepEqual([ghc_slot(w.vcpu, own).fast, ghc_slot(w.vcpu, own).slot?.id], [false, 1]);
    leaveSmm(w);
    assert.deepEqual([ghc_slot(w.vcpu, own).fast, ghc_slot(w.vcpu, own).slot], [false, null], 'hidden again');
    // A change of the slots makes every cache look again.
    w.slot(2, 'both', 0xe0000, 0x90000);
    assert.equal(ghc_slot(w.vcpu, low).fast, false);
    assert.equal(ghc_slot(w.vcpu, low).fast, true);
    const crossing = x86_gfn_to_hva_cache_init(w.vcpu, 0x3fffe, 4)!;
    assert.equal(crossing.memslot, null, 'what leaves the slot takes the slow path');
  });

  it('forget MMIO at each change of mode where one generation serves both', () => {
    const w = world('flag');
    w.slot(1, 'smm', OWN, 0x80000);
    assert.equal(read(w, OWN), 'mmio');
    assert.equal(w.vcpu.mmio_gfn, OWN / 4096);
    enterSmm(w);
    assert.equal(w.vcpu.mmio_gfn, 0);
    assert.equal(read(w, OWN), 8);
  });
});
