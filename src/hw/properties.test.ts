import assert from 'node:assert/strict';
import fc from 'fast-check';
import { ACC_READ, ACC_SHSTK, ACC_TYPE, ACC_WRITE, EPT_MISCONFIG, OK, PF } from './access';
import { PhysMemory } from './memory';
import { accesses, build, machinePlan, type MachinePlan } from './testing/random';
import { halves, mapPath } from './testing/tables';
import { Tlb } from './tlb';
import { ACC_DRY, Translator } from './translate';
import { intelFeatures } from './features';

const RUNS = { numRuns: 600 };

/** Status and address of one access on a fresh copy of the machine. */
function once(plan: MachinePlan, page: number, access: number): { status: number; hpa: number } {
  const { t, vas } = build(plan);
  const status = t.translate(...halves(vas[page % vas.length]), access);
  return { status, hpa: status === OK ? t.hpa : -1 };
}

describe('properties of translation', () => {
  it('a walk that succeeds for a write succeeds for a read, at the same address', () => {
    fc.assert(
      fc.property(machinePlan, fc.nat(3), accesses, (plan, page, access) => {
        const write = once(plan, page, (access & ~ACC_TYPE) | ACC_WRITE);
        if (write.status !== OK) return;
        assert.deepEqual(once(plan, page, (access & ~ACC_TYPE) | ACC_READ), write);
      }),
      RUNS,
    );
  }).timeout(20_000);

  it('taking a right away never turns a fault into a success', () => {
    // R/W, U/S of single entries and XD, and R, W, X of EPT entries; for shadow stacks R/W = 0 is a right, so they are left out.
    fc.assert(
      fc.property(
        machinePlan.map((p) => ({ ...p, nxe: true, smep: false, smap: false })),
        fc.nat(3),
        accesses.filter((a) => (a & ACC_SHSTK) === 0),
        fc.record({ level: fc.nat(4), what: fc.constantFrom('w', 'u', 'xd', 'ept w', 'ept x', 'ept r') }),
        (plan, page, access, less) => {
          const before = once(plan, page, access);
          const shrunk: MachinePlan = {
            ...plan,
            pages: plan.pages.map((p) => ({
              ...p,
              flags: p.flags.map((f, i) => {
                if (i !== less.level) return f;
                return less.what === 'w'
                  ? f & ~2n
                  : less.what === 'u'
                    ? f & ~4n
                    : less.what === 'xd'
                      ? f | (1n << 63n)
                      : f;
              }),
              eptFlags: p.eptFlags.map((f) => {
                if (!less.what.startsWith('ept')) return f;
                return less.what === 'ept w' ? f & ~2n : less.what === 'ept x' ? f & ~4n : f & ~1n;
              }),
            })),
          };
          // U/S is no plain right where it also chooses the rule: PKRU or PKRS, execution for users or for supervisors.
          if (less.what === 'u' && (plan.pke || plan.mbec)) return;
          // XD is a reserved bit in 32-bit tables and the PDPTE, not a right.
          if (less.what === 'xd' && plan.mode === '32bit') return;
          // W without R is no right but a malformed entry: without W it may be an execute-only one.
          if (less.what === 'ept w' && before.status === EPT_MISCONFIG) return;
          if (before.status !== OK) assert.notEqual(once(shrunk, page, access).status, OK);
        },
      ),
      RUNS,
    );
  }).timeout(20_000);

  it('five levels with a permissive first PML5E translate the lower half like four levels', () => {
    fc.assert(
      fc.property(
        fc.record({
          leaf: fc.constantFrom(1, 2, 3),
          va: fc.bigInt({ min: 0n, max: (1n << 47n) - 1n }),
          flags: fc.array(fc.constantFrom(0x67n, 0x65n, 0x63n, 0x66n, 0x47n, 0x167n, 0x67n | (1n << 63n), 0x67n | (1n << 46n)), { minLength: 4, maxLength: 4 }), // prettier-ignore
        }),
        accesses,
        (o, access) => {
          const results = (['4level', '5level'] as const).map((mode) => {
            const memory = new PhysMemory();
            const flagsAt: Record<number, bigint> = {};
            for (let level = 1; level <= 4; level++) {
              flagsAt[level] = o.flags[level - 1] | (level === o.leaf && o.leaf > 1 ? 0x80n : 0n);
            }
            // The same tables from 0x2000 on; the 5-level root before them refers to them.
            mapPath(memory, { mode: '4level', root: 0x2000, va: o.va, leaf: o.leaf, flagsAt });
            memory.writeQ(0x1000, 0x2067, 0);
            const t = new Translator(memory, intelFeatures());
            const la57 = mode === '5level' ? 0x1000n : 0n;
            t.setGuest({
              cr0: 0x8001_0033n,
              cr3: mode === '5level' ? 0x1000n : 0x2000n,
              cr4: 0x30_0020n | la57,
              efer: 0xd00n,
            });
            const status = t.translate(...halves(o.va), access);
            const levels = [0x2000, 0x3000, 0x4000, 0x5000].map((table) => memory.readBytes(table, 4096).join());
            return { status, address: status === OK ? t.hpa : 0, error: status === PF ? t.errorCode : 0, levels };
          });
          assert.deepEqual(results[1], results[0]);
        },
      ),
      RUNS,
    );
  }).timeout(20_000);

  it('an INVLPG’d page is never served stale', () => {
    fc.assert(
      fc.property(
        machinePlan.map((p) => ({ ...p, stage2: 'none' as const })),
        fc.array(
          fc.record({
            page: fc.nat(3),
            access: accesses,
            edit: fc.bigInt({ min: 0n, max: 0x67n }),
            flush: fc.boolean(),
          }),
          {
            minLength: 1,
            maxLength: 10,
          },
        ),
        (plan, steps) => {
          const { t, vas } = build(plan);
          t.tlb = new Tlb();
          const leafOf = (va: bigint): number => {
            // The entry that maps the page, found by a recorder-free dry walk of the tables themselves.
            const { top, entryShift, indexMask } = t.guest.tables;
            let table = BigInt(t.guest.rootLo >>> 0);
            for (let level = top; ; level--) {
              const bits = entryShift === 3 ? 9 : 10;
              const index = Number((va >> BigInt(12 + (level - 1) * bits)) & BigInt(indexMask));
              if (level === 3 && top === 3) {
                table = BigInt(t.guest.pdptes[2 * (index & 3)] >>> 0) & ~0xfffn;
                continue;
              }
              const at = Number(table) + index * (1 << entryShift);
              const entry = entryShift === 3 ? t.memory.readQ(at) : BigInt(t.memory.read32(at));
              if (level === 1 || (entry & 0x81n) !== 1n) return at;
              table = entry & 0x000f_ffff_ffff_f000n;
            }
          };
          for (const s of steps) {
            const va = vas[s.page % vas.length];
            t.translate(...halves(va), s.access);
            const at = leafOf(va);
            t.memory.write32(at, Number((BigInt(t.memory.read32(at)) & ~0x67n) | s.edit));
            if (!s.flush) continue;
            t.tlb.invlpg(...halves(va));
            const status = t.translate(...halves(va), s.access);
            const served = status === OK ? t.hpa : -1;
            const now = t.translate(...halves(va), s.access | ACC_DRY);
            assert.equal(status, now);
            if (now === OK) assert.equal(served, t.hpa);
          }
        },
      ),
      RUNS,
    );
  }).timeout(20_000);
});
