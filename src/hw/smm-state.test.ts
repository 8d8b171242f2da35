import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { CpuState, CR0, segment } from './regs';
import {
  enterSmmRegisters,
  loadSmram,
  saveSmram,
  SMRAM_32,
  SMRAM_64,
  SMRAM_SAVE_OFFSET,
  type SmramLayout,
} from './smm-state';

const at = (offset: number): number => offset - SMRAM_SAVE_OFFSET;

function longState(): CpuState {
  const s = new CpuState();
  s.cr0 = 0x80050033n;
  s.cr3 = 0x10000n;
  s.cr4 = 0x20n;
  s.efer = 0xd00n;
  s.rip = 0x1000n;
  s.rflags = 2n;
  for (let i = 0; i < 16; i++) s.gpr[i] = BigInt(0x1111 * (i + 1)) << 32n;
  s.cs = segment({ selector: 8, type: 0xb, l: 1, db: 0 });
  s.tr = segment({ selector: 0x38, base: 0x6000n, limit: 0x67, type: 0xb, s: 0, g: 0, db: 0 });
  s.ldtr = segment({ unusable: 1, present: 0 });
  return s;
}

describe('SMRAM state-save area', () => {
  it('has the 64-bit fields where the manual has them', () => {
    const b = saveSmram(SMRAM_64, longState(), 0x30000);
    const view = new DataView(b.buffer);
    assert.equal(view.getBigUint64(at(0xff78), true), 0x1000n); // RIP
    assert.equal(view.getBigUint64(at(0xfff8), true), 0x1111n << 32n); // RAX
    assert.equal(view.getBigUint64(at(0xff80), true), 0x11110n << 32n); // R15
    assert.equal(view.getUint32(at(0xff00), true), 0x30000); // SMBASE
    assert.equal(view.getUint32(at(0xfefc), true), 0x20064);
    assert.equal(view.getUint16(at(0xfe10), true), 8); // CS selector
    assert.equal(view.getUint16(at(0xfe12), true), 0xa09b); // G, L, present code
    assert.equal(view.getUint16(at(0xfe72), true), 0); // unusable LDTR
    assert.equal(view.getBigUint64(at(0xfed0), true), 0xd00n);
  });

  it('has the 32-bit fields where the manual has them', () => {
    const s = longState();
    s.gpr[0] = 0x12345678n;
    const view = new DataView(saveSmram(SMRAM_32, s, 0xa0000).buffer);
    assert.equal(view.getUint32(at(0xfff0), true), 0x1000); // EIP
    assert.equal(view.getUint32(at(0xffd0), true), 0x12345678); // EAX
    assert.equal(view.getUint32(at(0xfef8), true), 0xa0000); // SMBASE
    assert.equal(view.getUint32(at(0xffac), true), 8); // CS
    assert.equal(view.getUint32(at(0xfffc), true), 0x80050033);
    assert.equal(view.getUint32(at(0xff60), true), 0x67); // TR limit
  });

  it('keeps fields apart', () => {
    for (const layout of [SMRAM_64, SMRAM_32]) {
      const used = new Map<number, string>();
      for (const f of layout.fields)
        for (let i = 0; i < f.size; i++) {
          assert.equal(
            used.get(f.offset + i),
            undefined,
            `${layout.name} ${f.name} and ${used.get(f.offset + i)} overlap`,
          );
          used.set(f.offset + i, f.name);
        }
    }
  });

  const word = (size: number): fc.Arbitrary<bigint> => fc.bigInt({ min: 0n, max: (1n << BigInt(8 * size)) - 1n });
  for (const layout of [SMRAM_64, SMRAM_32] as SmramLayout[]) {
    const size = layout === SMRAM_64 ? 8 : 4;
    it(`restores what it saved (${layout.name})`, () => {
      const seg = fc.record({
        selector: fc.nat(0xffff),
        base: word(size),
        limit: fc.nat(0xffffffff),
        type: fc.nat(15),
        s: fc.nat(1),
        dpl: fc.nat(3),
        l: fc.nat(1),
        db: fc.nat(1),
        g: fc.nat(1),
      });
      fc.assert(
        fc.property(
          fc.array(word(size), { minLength: 16, maxLength: 16 }),
          fc.array(seg, { minLength: 8, maxLength: 8 }),
          word(size),
          fc.nat(0xffffffff),
          (gprs, segs, cr3, smbase) => {
            const s = new CpuState();
            gprs.slice(0, size === 8 ? 16 : 8).forEach((v, i) => (s.gpr[i] = v));
            const names = ['es', 'cs', 'ss', 'ds', 'fs', 'gs', 'tr', 'ldtr'] as const;
            names.forEach((n, i) => (s[n] = segment(segs[i])));
            s.cr3 = cr3;
            const back = loadSmram(layout, saveSmram(layout, s, smbase), new CpuState());
            assert.equal(back.smbase, smbase);
            assert.deepEqual(back.state.gpr, s.gpr);
            assert.equal(back.state.cr3, cr3);
            for (const n of names) assert.deepEqual(back.state[n], s[n]);
          },
        ),
      );
    });
  }

  it('refuses a short area', () => {
    assert.throws(() => loadSmram(SMRAM_64, new Uint8Array(10), new CpuState()), /512 bytes/);
  });

  it('starts handlers in real mode at SMBASE + 0x8000', () => {
    const s = longState();
    enterSmmRegisters(s, 0x30000);
    assert.equal(s.mode, 'real');
    assert.equal(s.codeBits, 16);
    assert.equal(s.cs.base + s.rip, 0x38000n);
    assert.equal(s.cs.selector, 0x3000);
    assert.equal(s.cr0 & (CR0.PE | CR0.PG), 0n);
    assert.equal(s.cr0 & CR0.WP, CR0.WP);
    assert.equal(s.ds.limit, 0xffffffff);
  });
});
