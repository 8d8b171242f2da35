import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import type { PagingMode } from './entries';
import {
  LEVELS,
  PAGING_MODES,
  decodeGpte,
  decodeSpptL1,
  encodeSpptL1,
  entryLayouts,
  epteLayout,
  gpteLayout,
  npteLayout,
  sppteLayout,
} from './entries';
import { bits, decodeWord, encodeWord, fieldMask } from './word';

const sppt = (
  JSON.parse(readFileSync(new URL('../../test/fixtures/reference/samples.json', import.meta.url), 'utf8')) as {
    sppt: { accessMap: string; sppt_l1e: string; denied: number[] }[];
  }
).sppt;

describe('entry tables', () => {
  it('exist for every level and shape, each under its own id', () => {
    const layouts = entryLayouts();
    assert.equal(new Set(layouts.map((l) => l.id)).size, layouts.length);
    // Guest: 2 + 3 + 4 + 6 + 7; EPT and NPT: 7 each; SPPT: 4.
    assert.equal(layouts.length, 2 + 3 + 4 + 6 + 7 + 7 + 7 + 4);
  });

  for (const maxPhyAddr of [36, 46, 52]) {
    for (const layout of entryLayouts({ maxPhyAddr })) {
      it(`${layout.id} at ${maxPhyAddr} bits: disjoint, in order, encode after decode is the identity`, () => {
        let end = 0;
        for (const f of layout.fields) {
          assert.ok(f.lsb >= end, `${f.name} overlaps or is out of order`);
          end = f.lsb + f.width;
        }
        assert.ok(end <= layout.size);
        fc.assert(
          fc.property(fc.bigInt(0n, (1n << BigInt(layout.size)) - 1n), (v) => {
            const d = decodeWord(layout, v);
            const fields = Object.fromEntries(d.fields.map((f) => [f.field.name, f.value]));
            assert.equal(encodeWord(layout, fields) | d.reserved, v);
          }),
          { numRuns: 20 },
        );
      });
    }
  }

  // Reserved masks of a processor with 46 address bits, NX and no 1G pages restriction (31.2 of the KVM MMU model).
  const reserved: readonly [string, bigint, ReturnType<typeof gpteLayout>][] = [
    ['long PML4E', 0x000fc00000000080n, gpteLayout('4-level', 4, 'table', { maxPhyAddr: 46 })],
    ['long PML5E', 0x000fc00000000080n, gpteLayout('5-level', 5, 'table', { maxPhyAddr: 46 })],
    ['long 1G leaf', 0x000fc0003fffe000n, gpteLayout('4-level', 3, 'leaf', { maxPhyAddr: 46 })],
    ['long PDE table', 0x000fc00000000000n, gpteLayout('4-level', 2, 'table', { maxPhyAddr: 46 })],
    ['long 2M leaf', 0x000fc000001fe000n, gpteLayout('4-level', 2, 'leaf', { maxPhyAddr: 46 })],
    ['long PTE', 0x000fc00000000000n, gpteLayout('4-level', 1, 'leaf', { maxPhyAddr: 46 })],
    ['PAE PDPTE', 0xffffc000000001e6n, gpteLayout('pae', 3, 'table', { maxPhyAddr: 46 })],
    ['PAE 2M leaf', 0x7fffc000001fe000n, gpteLayout('pae', 2, 'leaf', { maxPhyAddr: 46 })],
    ['PAE PTE', 0x7fffc00000000000n, gpteLayout('pae', 1, 'leaf', { maxPhyAddr: 46 })],
    ['32-bit 4M leaf', 0x00200000n, gpteLayout('32-bit-pse', 2, 'leaf')],
    ['32-bit 4M leaf, 36 bits', 0x003e0000n, gpteLayout('32-bit-pse', 2, 'leaf', { maxPhyAddr: 36 })],
    ['32-bit PTE', 0n, gpteLayout('32-bit', 1, 'leaf')],
    ['EPT level 4', 0x000fc000000000f8n, epteLayout(4, 'table', { maxPhyAddr: 46 })],
    ['EPT level 5', 0x000fc000000000f8n, epteLayout(5, 'table', { maxPhyAddr: 46 })],
    ['EPT level 3 table', 0x000fc00000000078n, epteLayout(3, 'table', { maxPhyAddr: 46 })],
    ['EPT 1G leaf', 0x000fc0003ffff000n, epteLayout(3, 'leaf', { maxPhyAddr: 46 })],
    ['EPT 2M leaf', 0x000fc000001ff000n, epteLayout(2, 'leaf', { maxPhyAddr: 46 })],
    ['EPT 4K leaf', 0x000fc00000000000n, epteLayout(1, 'leaf', { maxPhyAddr: 46 })],
    ['SPPT L4E', 0xffffc00000000ffen, sppteLayout(4, { maxPhyAddr: 46 })],
    ['SPPT L1E', 0xaaaaaaaaaaaaaaaan, sppteLayout(1)],
  ];
  for (const [name, mask, layout] of reserved) {
    it(`${name} reserves 0x${mask.toString(16)}`, () => {
      const all = bits(0, layout.size);
      assert.equal(decodeWord(layout, all).reserved, mask);
    });
  }

  it('reserve bit 63 without NX', () => {
    assert.equal(decodeWord(gpteLayout('4-level', 1, 'leaf', { nx: false }), 1n << 63n).reserved, 1n << 63n);
    assert.equal(decodeWord(gpteLayout('pae', 2, 'table', { nx: false }), 1n << 63n).reserved, 1n << 63n);
  });

  it('have PAT at bit 7 in a PTE and at bit 12 in a large page', () => {
    for (const mode of ['pae', '4-level', '5-level'] as const) {
      assert.equal(fieldMask(gpteLayout(mode, 1, 'leaf'), 'PAT'), 1n << 7n);
      assert.equal(fieldMask(gpteLayout(mode, 2, 'leaf'), 'PAT'), 1n << 12n);
    }
    assert.equal(fieldMask(gpteLayout('32-bit-pse', 2, 'leaf'), 'PAT'), 1n << 12n);
    assert.equal(fieldMask(gpteLayout('4-level', 3, 'leaf'), 'PAT'), 1n << 12n);
  });

  it('have the newer EPT bits where the manual puts them', () => {
    const pte = epteLayout(1, 'leaf');
    const places = { XU: 10, VGP: 57, PW: 58, SSS: 60, SPP: 61, SVE: 63 };
    for (const [name, bit] of Object.entries(places)) assert.equal(fieldMask(pte, name), 1n << BigInt(bit));
    assert.throws(() => fieldMask(epteLayout(2, 'leaf'), 'SPP'), /no field/);
    assert.equal(fieldMask(gpteLayout('4-level', 1, 'leaf'), 'PKEY'), 0xfn << 59n);
  });
});

describe('reading entries', () => {
  const lines: readonly [PagingMode, number, bigint, string][] = [
    ['4-level', 4, 0x11027n, 'table at 0x11000 P W U A'],
    ['4-level', 1, 0x1003n, '4K page at 0x1000 P W'],
    ['4-level', 2, 0x8000000000a001e3n, '2M page at 0xa00000 P W A D G XD'],
    ['4-level', 3, 0x400010e7n, '1G page at 0x40000000 P W U A D PAT'],
    ['4-level', 1, 0x2800000000001007n, '4K page at 0x1000 P W U key 5'],
    ['4-level', 1, 0xfffffffffffffffen, 'not present'],
    ['pae', 3, 0x5001n, 'table at 0x5000 P'],
    // PSE-36: bits 16:13 are physical bits 35:32 (31.5 of the KVM MMU model).
    ['32-bit-pse', 2, 0x0041e0e7n, '4M page at 0xf00400000 P W U A D'],
    ['32-bit', 2, 0x0041e0e7n, 'table at 0x41e000 P W U A'],
    ['32-bit', 1, 0x1067n, '4K page at 0x1000 P W U A D'],
  ];
  for (const [mode, level, value, text] of lines) {
    it(`${mode} level ${level} 0x${value.toString(16)}: ${text}`, () =>
      assert.equal(decodeGpte(mode, level, value).summary, text));
  }

  it('shows what is reserved at the given width', () => {
    assert.match(decodeGpte('4-level', 1, 0x800000001003n, { maxPhyAddr: 46 }).summary, /unknown bits 47$/);
    assert.match(decodeGpte('4-level', 4, 0x10e7n).summary, /unknown bits 7$/);
  });

  it('reads EPT, NPT and SPPT entries', () => {
    const ept = (level: number, shape: 'leaf' | 'table', v: bigint) => decodeWord(epteLayout(level, shape), v).summary;
    assert.equal(ept(1, 'leaf', 0x12345b77n), '4K page at 0x12345000 rwx WB IPAT A D');
    assert.equal(ept(1, 'leaf', 0x2000000012345035n), '4K page at 0x12345000 r-x WB SPP');
    assert.equal(ept(4, 'table', 0x7654107n), 'table at 0x7654000 rwx A');
    assert.equal(ept(1, 'leaf', 0x12345036n), '4K page at 0x12345000 -wx WB, EPT misconfiguration');
    assert.equal(ept(1, 'leaf', 0x12345000n), 'not present');
    const npt = npteLayout(1, 'leaf');
    assert.match(npt.fields.find((f) => f.name === 'U')!.meaning, /nested walks count as user/);
    assert.equal(decodeWord(npt, 0x12345e67n).summary, '4K page at 0x12345000 P W U A D');
    assert.equal(decodeWord(sppteLayout(2), 0x12345001n).summary, 'table at 0x12345000');
    assert.equal(decodeWord(sppteLayout(2), 0x12345000n).summary, 'not valid: SPP miss');
  });

  it('refuses levels and shapes that do not exist', () => {
    assert.throws(() => gpteLayout('pae', 4, 'table'), /pae paging has no level 4: its levels are 3, 2, 1/);
    assert.throws(() => gpteLayout('32-bit', 2, 'leaf'), /cannot map a page/);
    assert.throws(() => gpteLayout('4-level', 1, 'table'), /cannot point to a table/);
    assert.throws(() => gpteLayout('6-level' as PagingMode, 1, 'leaf'), /the modes are 32-bit/);
    assert.throws(() => sppteLayout(5), /its levels are 4, 3, 2, 1/);
    assert.throws(() => decodeGpte('32-bit', 1, 1n << 32n), /32-bit word/);
    for (const mode of PAGING_MODES) assert.equal(LEVELS[mode].at(-1), 1);
  });
});

describe('SPPT level 1', () => {
  for (const { accessMap, sppt_l1e, denied } of sppt) {
    it(`access map ${accessMap}`, () => {
      assert.equal(encodeSpptL1(Number(accessMap)), BigInt(sppt_l1e));
      assert.equal(decodeSpptL1(BigInt(sppt_l1e)), Number(accessMap));
      const d = decodeWord(sppteLayout(1), BigInt(sppt_l1e));
      const off = d.fields.flatMap((f, i) => (f.value === 0n ? [i] : []));
      assert.deepEqual(off.slice(0, 4), denied);
    });
  }

  it('encode and decode are inverse', () => {
    fc.assert(
      fc.property(fc.nat(0xffffffff), (map) => {
        assert.equal(decodeSpptL1(encodeSpptL1(map)), map);
        assert.equal(decodeWord(sppteLayout(1), encodeSpptL1(map)).reserved, 0n);
      }),
    );
  });

  it('says which sub-pages are closed', () => {
    const text = (map: number) => decodeWord(sppteLayout(1), encodeSpptL1(map)).summary;
    assert.equal(text(0xffffffff), 'all 32 sub-pages writable');
    assert.equal(text(0), 'no sub-page writable');
    assert.equal(text(0xfffffff0), 'sub-pages not writable: 0-3');
    assert.equal(text(0x7ffffffe), 'sub-pages not writable: 0, 31');
  });
});
