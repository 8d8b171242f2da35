import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Machine, machineConfig } from './machine';
import type { KvmMemorySlot } from './kvm_host';
import { Memslots } from './memslots';

const slot = (id: number, base_gfn: number, npages: number): KvmMemorySlot => ({
  id,
  as_id: 0,
  base_gfn,
  npages,
  userspace_addr: 0n,
  flags: 0,
  dirty_bitmap: null,
  backing: null,
  arch: { lpage_info: [new Int32Array(0), new Int32Array(0)], rmap: [], gfn_write_track: new Map() },
});

describe('memslot look-up', () => {
  const make = () => {
    const set = new Memslots(0, 0);
    for (const s of [slot(0, 0, 0xa0), slot(1, 0xc0, 0x7ff40), slot(2, 0xfffc0, 0x40), slot(3, 0x100000, 0x40000)])
      set.insert(s);
    return set;
  };

  it('keeps the array by descending base', () => {
    assert.deepEqual(
      make().slots.map((s) => s.id),
      [3, 2, 1, 0],
    );
  });

  it('finds what the reference works out, and remembers the slot', () => {
    const set = make();
    assert.equal(set.search(0x50)?.id, 0);
    assert.equal(set.lruSlot?.id, 0);
    assert.equal(set.search(0xb0), null);
    assert.equal(set.lruSlot?.id, 0, 'a miss leaves the remembered slot alone');
    assert.equal(set.search(0x100)?.id, 1);
    assert.equal(set.search(0xfffc5)?.id, 2);
    assert.equal(set.search(0x200000), null);
    set.search(0xfffc5);
    assert.equal(set.probes, 1, 'the second look at the same slot costs one probe');
  });
});

describe('memslots', () => {
  it('find what looking at each slot finds, after any changes', () => {
    const step = fc.record({
      id: fc.nat(20),
      base: fc.nat(60),
      npages: fc.integer({ min: 1, max: 8 }),
      put: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const set = new Memslots(0, 0);
        const plain: KvmMemorySlot[] = [];
        for (const { id, base, npages, put } of steps) {
          const old = plain.find((s) => s.id === id);
          assert.equal(set.byId(id) ?? undefined, old);
          if (old) {
            plain.splice(plain.indexOf(old), 1);
            set.remove(old);
          }
          const over = (s: KvmMemorySlot) => s.base_gfn < base + npages && base < s.base_gfn + s.npages;
          assert.equal(set.overlap(base, npages, id) !== null, plain.some(over));
          if (put && !plain.some(over)) {
            const fresh = slot(id, base, npages);
            plain.push(fresh);
            set.insert(fresh);
          }
          for (let gfn = 0; gfn < 70; gfn++) {
            const want = plain.find((s) => gfn >= s.base_gfn && gfn < s.base_gfn + s.npages) ?? null;
            assert.equal(set.peek(gfn), want);
            assert.equal(set.search(gfn), want);
          }
          assert.equal(set.npages, plain.reduce((n, s) => n + s.npages, 0)); // prettier-ignore
        }
      }),
    );
  });
});

describe('KVM_SET_USER_MEMORY_REGION', () => {
  const make = (kernel = 'v6.1') => {
    const m = new Machine(machineConfig({ kernel }));
    return { m, b: m.backing('low', 0x400000) };
  };
  const region = (hva: bigint) => ({ as_id: 0, id: 0, flags: 0, gpa: 0, size: 0x200000, hva });

  it('checks in the kernel’s order, with the kernel’s errno and a reason', () => {
    const { m, b } = make();
    const r = region(b.hva);
    const refused: [string, object, RegExp][] = [
      ['EINVAL', { size: 0x1001 }, /multiple of the page size/],
      ['EINVAL', { gpa: 0x800 }, /not page aligned/],
      ['EINVAL', { hva: b.hva + 1n }, /userspace_addr/],
      ['EINVAL', { flags: 4 }, /0x4/],
      ['EINVAL', { id: 32764 }, /KVM_USER_MEM_SLOTS/],
      ['EINVAL', { as_id: 2 }, /address space 2/],
      ['EINVAL', { size: 0 }, /does not exist/],
    ];
    for (const [errno, change, why] of refused) {
      const got = m.set_user_memory_region({ ...r, ...change });
      assert.match(got.text, new RegExp(`^-${errno}: `));
      assert.match(got.text, why);
    }
    assert.equal(m.kvm.memslots[0].generation, 0, 'a refused change moves no generation');
    assert.equal(m.set_user_memory_region(r).errno, 0);
    assert.match(m.set_user_memory_region({ ...r, size: 0x100000 }).text, /EINVAL.*size cannot be changed/);
    assert.match(m.set_user_memory_region({ ...r, hva: b.hva + 0x1000n }).text, /EINVAL.*userspace_addr/);
    assert.match(m.set_user_memory_region({ ...r, flags: 2 }).text, /READONLY.*toggled/);
    assert.match(
      m.set_user_memory_region({ ...r, id: 1, gpa: 0x1ff000, size: 0x2000 }).text,
      /EEXIST.*overlaps slot 0:0/,
    );
    assert.equal(
      m.set_user_memory_region({ ...r, as_id: 1 }).errno,
      0,
      'the other address space is a table of its own',
    );
  });

  it('moves the generation by two per swap; deleting and moving swap twice', () => {
    const { m, b } = make();
    const r = region(b.hva);
    const gen = () => m.kvm.memslots.map((s) => s.generation);
    assert.deepEqual(gen(), [0, 1]);
    m.set_user_memory_region(r);
    assert.deepEqual(gen(), [2, 1]);
    m.set_user_memory_region(r);
    assert.deepEqual(gen(), [2, 1], 'nothing changed');
    m.set_user_memory_region({ ...r, flags: 1 });
    assert.deepEqual(gen(), [4, 1]);
    m.set_user_memory_region({ ...r, flags: 1, gpa: 0x400000 });
    assert.deepEqual(gen(), [8, 1]);
    m.set_user_memory_region({ ...r, size: 0 });
    assert.deepEqual(gen(), [12, 1]);
    m.set_user_memory_region({ ...r, as_id: 1 });
    assert.deepEqual(gen(), [12, 3]);
  });

  it('knows one address space and fewer slots before SMM support', () => {
    const { m, b } = make('v4.1');
    assert.match(m.set_user_memory_region({ ...region(b.hva), as_id: 1 }).text, /EINVAL.*v4.1 has 1/);
    assert.match(m.set_user_memory_region({ ...region(b.hva), id: 509 }).text, /509 in v4.1/);
  });

  it('forbids huge pages where slot ends or host address do not fit', () => {
    const { m, b } = make();
    m.set_user_memory_region({ ...region(b.hva), size: 0x201000 });
    assert.deepEqual(Array.from(m.kvm.memslots[0].slots[0].arch.lpage_info[0]), [0, 1]);
    m.set_user_memory_region({ ...region(b.hva + 0x1000n), id: 1, gpa: 0x800000, size: 0x200000 });
    assert.deepEqual(Array.from(m.kvm.memslots[0].slots[0].arch.lpage_info[0]), [1]);
  });
});
