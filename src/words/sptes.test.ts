import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { KERNEL_ERAS } from './kernels';
import type { DecodedSpte, PagingType, SpteEra, SpteLayout, SpteOptions } from './sptes';
import {
  SPTE_ERAS,
  accessTrack,
  decodeMmio,
  decodeSpte,
  encodeMmio,
  encodeMmioPair,
  isAccessTracked,
  isAccessTrackedPair,
  isFrozen,
  isMmio,
  isMmioPair,
  isShadowPresent,
  isShadowPresentPair,
  mmioGenerationPair,
  mmioGfnPair,
  pfnPair,
  restoreAccessTracked,
  spteLayout,
  spteWords,
} from './sptes';
import { bits, decodeWord, encodeWord, fromPair, toPair } from './word';

interface Sample {
  era: string;
  vendor: string;
  pagingType: PagingType;
  level: number;
  hostPhysBits: number;
  l1tf: boolean;
  spte: string;
  what: string;
  decoded: Record<string, unknown>;
}
interface EraFacts {
  id: string;
  pagingType: PagingType;
  presentRule: string;
  masks: Record<string, string>;
  mmuPresentBit: number | null;
  hostWritableBit: number;
  mmuWritableBit: number | null;
  adType: { lsb: number; width: number; values: Record<string, string> } | null;
  accTrackSaved: { shift: number; savedBits: number[] } | null;
  mmio: {
    mask: string | null;
    value: string | null;
    match: string | null;
    accessMask: number;
    genBits: number;
    genParts: { genLsb: number; spteLsb: number; width: number }[];
    genMask: string;
  };
  nonpresentValue: string;
  frozenValue: string | null;
  frozenName: string | null;
}
const read = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../test/fixtures/reference/${name}`, import.meta.url), 'utf8'));
const { samples } = read('samples.json') as { samples: Sample[] };
const { eras } = read('spte-layouts.json') as { eras: EraFacts[] };

/** A kernel of each era; the era's own id names one. */
const layoutOf = (era: string, type: PagingType, options?: SpteOptions) => spteLayout(era, type, options);
const everyLayout = SPTE_ERAS.flatMap((e) =>
  [36, 39, 46, 48, 52].flatMap((hostPhysBits) =>
    [false, true].map((l1tf) => spteLayout(e.era, e.pagingType, { hostPhysBits, l1tf })),
  ),
);

describe('spte eras', () => {
  for (const ref of eras) {
    it(`${ref.id} ${ref.pagingType} equals the reference`, () => {
      const era = SPTE_ERAS.find((e) => e.era === ref.id && e.pagingType === ref.pagingType) as SpteEra;
      for (const [name, mask] of Object.entries(ref.masks)) {
        assert.equal(era.masks[name as keyof SpteEra['masks']], BigInt(mask), name);
      }
      assert.equal(era.hostWritableBit, ref.hostWritableBit);
      assert.equal(era.mmuWritableBit, ref.mmuWritableBit);
      assert.equal(era.present, presentRule(ref.presentRule));
      assert.deepEqual(era.adType && { ...era.adType, values: { ...era.adType.values } }, ref.adType);
      assert.equal(era.accTrackSaved?.shift ?? null, ref.accTrackSaved?.shift ?? null);
      const saved = ref.accTrackSaved?.savedBits.reduce((m, b) => m | bits(b), 0n);
      assert.equal(era.accTrackSaved?.savedBits, saved);
      assert.equal(era.mmio.accessMask, ref.mmio.accessMask);
      assert.equal(era.mmio.genBits, ref.mmio.genBits);
      assert.deepEqual(era.mmio.gen, ref.mmio.genParts);
      assert.equal(era.nonpresentValue, BigInt(ref.nonpresentValue));
      assert.equal(era.frozen?.value ?? null, ref.frozenValue === null ? null : BigInt(ref.frozenValue));
      assert.equal(era.frozen?.name ?? null, ref.frozenName);

      const l = spteLayout(ref.id, ref.pagingType);
      assert.equal(l.era, era, 'the kernel of that name uses it');
      if (ref.mmio.mask !== null) {
        assert.equal(l.mmio.mask, BigInt(ref.mmio.mask));
        assert.equal(l.mmio.value, BigInt(ref.mmio.value!));
        assert.equal(l.mmio.match, BigInt(ref.mmio.match!));
      }
      assert.equal(BigInt(l.mmio.genMask), BigInt(ref.mmio.genMask));
    });
  }

  it('covers every kernel with both paging types', () => {
    for (const { id } of KERNEL_ERAS) {
      for (const type of ['ept', 'legacy'] as const) assert.match(spteLayout(id, type).id, /^spte-/);
    }
    assert.equal(SPTE_ERAS.length, eras.length);
  });

  const picks: readonly [string, string][] = [
    ['v3.1', 'v3.1'],
    ['seed2', 'v3.1'],
    ['v4.4', 'v4.1'],
    ['v4.14', 'v4.19'],
    ['v5.4', 'v5.0'],
    ['v5.12', 'v5.10'],
    ['v5.13', 'v6.1'],
    ['seed1', 'v6.1'],
    ['6.1.176', 'v6.1'],
    ['v6.8', 'v6.1'],
    ['v6.9', 'v6.12'],
    ['v7.1', 'v6.12'],
    ['v7.3', 'v7.2'],
  ];
  for (const [kernel, era] of picks) {
    it(`${kernel} uses ${era}`, () => assert.equal(spteLayout(kernel, 'ept').id, `spte-ept@${era}`));
  }

  it('refuses a host or a paging type that cannot be', () => {
    assert.throws(() => spteLayout('v6.1', 'ept', { hostPhysBits: 53 }), /32 to 52 bits/);
    assert.throws(() => spteLayout('v6.1', 'npt' as PagingType), /write ept .* or legacy/);
  });

  it('drops masks that the processor or a parameter takes away', () => {
    assert.equal(spteLayout('v6.1', 'ept').present, 0n);
    assert.equal(spteLayout('v6.1', 'ept', { eptExecOnly: false }).present, 1n);
    assert.equal(spteLayout('v6.12', 'ept').present, 1n << 63n);
    assert.equal(spteLayout('v6.1', 'ept', { eptAd: false }).accessed, 0n);
    assert.equal(spteLayout('v7.3', 'ept', { eptAd: false }).accessed, 0x100n);
    assert.equal(spteLayout('v6.1', 'legacy', { eptAd: false }).accessed, 0x20n);
  });
});

function presentRule(text: string): string {
  if (text.includes('1 << 11')) return 'bit 11';
  return text.includes('!= 0') ? 'nonzero' : 'bit 0';
}

/** The reference's names for what decodeSpte says. */
function asReference(s: DecodedSpte): Record<string, unknown> {
  const flag = (b: boolean | null) => (b === null ? undefined : Number(b));
  const shared = { kind: s.kind, shadowPresent: s.shadowPresent };
  if (s.kind === 'mmio') {
    const gfn = `0x${s.gfn!.toString(16)}`;
    return { ...shared, gfn, access: s.access, generation: s.generation, hardwareEffect: s.hardwareEffect };
  }
  if (!s.shadowPresent) return { ...shared, isNonpresentValue: s.isNonpresentValue || undefined };
  return {
    ...shared,
    pfn: `0x${s.pfn!.toString(16)}`,
    ...s.rights,
    adType: s.adType ?? undefined,
    a: flag(s.accessed),
    d: flag(s.dirty),
    hostWritable: flag(s.hostWritable),
    mmuWritable: flag(s.mmuWritable),
    large: s.large ? 1 : undefined,
    memtype: s.memtype ?? undefined,
    ipat: flag(s.ipat),
    accessTracked: s.accessTracked,
    restored: s.restored === null ? undefined : `0x${s.restored.toString(16).padStart(16, '0')}`,
    suppressVe: s.suppressVe ? 1 : undefined,
  };
}

describe("masks of a real kernel's globals", () => {
  const { kernels } = read('kvm-globals.json') as {
    kernels: { kernel: string; vendor: string; config: string; globals: Record<string, string | number> }[];
  };
  for (const { kernel, vendor, config, globals } of kernels) {
    it(`${kernel} ${vendor} ${config}`, () => {
      const value = (name: string) => BigInt(globals[name]);
      const type = globals.enable_ept === 1 ? 'ept' : 'legacy';
      // The Intel host of these runs has L1TF; AMD hosts never have.
      const l = spteLayout(kernel, type, { hostPhysBits: Number(globals.shadow_phys_bits), l1tf: vendor === 'intel' });
      assert.equal(l.present, value('shadow_present_mask'));
      assert.equal(l.user, value('shadow_user_mask'));
      assert.equal(l.x, value('shadow_x_mask'));
      assert.equal(l.nx, value('shadow_nx_mask'));
      assert.equal(l.accessed, value('shadow_accessed_mask'));
      assert.equal(l.dirty, value('shadow_dirty_mask'));
      assert.equal(l.accTrack, value('shadow_acc_track_mask'));
      assert.equal(l.memtype, value('shadow_memtype_mask'));
      assert.equal(l.hostWritable, value('shadow_host_writable_mask'));
      assert.equal(l.mmuWritable, value('shadow_mmu_writable_mask'));
      assert.equal(l.mmio.mask, value('shadow_mmio_mask'));
      assert.equal(l.mmio.value, value('shadow_mmio_value'));
      assert.equal(BigInt(l.mmio.accessMask), value('shadow_mmio_access_mask'));
      assert.equal(l.nonpresentOrRsvd, value('shadow_nonpresent_or_rsvd_mask'));
      assert.equal(l.lowerGfn, value('shadow_nonpresent_or_rsvd_lower_gfn_mask'));
      assert.equal(Number(l.mmio.enabled), globals.enable_mmio_caching);
    });
  }
});

describe('worked sptes', () => {
  assert.equal(samples.length, 46);
  for (const sample of samples) {
    it(`${sample.era} ${sample.pagingType} ${sample.spte}: ${sample.what}`, () => {
      const l = layoutOf(sample.era, sample.pagingType, sample);
      const decoded = decodeSpte(l, BigInt(sample.spte), sample.level);
      const mine = asReference(decoded);
      const { savedBits: _, ...wanted } = sample.decoded;
      for (const [name, value] of Object.entries(wanted)) assert.deepEqual(mine[name], value, name);
      for (const [name, value] of Object.entries(mine)) {
        if (value !== undefined && value !== false)
          assert.deepEqual(value, wanted[name], `${name} is not in the sample`);
      }
      if (decoded.kind === 'mmio' && decoded.layout.mmio.accessMask !== 0 && sample.pagingType === 'legacy') {
        assert.equal(encodeMmio(l, decoded.gfn!, decoded.access!, decoded.generation ?? 0), BigInt(sample.spte));
      }
    });
  }

  it('names every set bit of a sample', () => {
    for (const sample of samples) {
      const l = layoutOf(sample.era, sample.pagingType, sample);
      const { word, kind, summary } = decodeSpte(l, BigInt(sample.spte), sample.level);
      if (kind === 'zero' || kind === 'nonpresent') assert.equal(word, null);
      else assert.equal(word!.reserved, 0n, `${sample.spte} ${sample.what}`);
      assert.ok(summary.length > 5);
    }
  });

  it('reads real entries of 6.1.176', () => {
    const intel = spteLayout('6.1.176', 'ept', { hostPhysBits: 46, l1tf: true });
    const mmio = decodeSpte(intel, 0x3e0010000036n);
    assert.equal(mmio.summary, 'MMIO gfn 0x10000 generation 6, EPT misconfiguration (bits 2:0 = 110b)');
    assert.equal(intel.nonpresentOrRsvd, 0x3e0000000000n);
    const icelake = spteLayout('6.1.176', 'ept', { hostPhysBits: 46 });
    assert.equal(decodeSpte(icelake, 0x10000036n).gfn, 0x10000n);
    const shadow = decodeSpte(spteLayout('6.1.176', 'legacy', { l1tf: true }), 0x83e0010000041n);
    assert.deepEqual([shadow.kind, shadow.gfn, shadow.generation], ['mmio', 0x10000n, 8]);
    const npt = decodeSpte(spteLayout('6.1.176', 'legacy'), 0x4223a21n, 1);
    assert.equal(npt.summary, 'leaf pfn 0x4223 r-x- A host-writable');
  });

  it('judges what a value without level is, and says that it did', () => {
    const l = spteLayout('v6.1', 'ept');
    const leaf = decodeSpte(l, 0x600000012345b77n);
    assert.deepEqual([leaf.kind, leaf.level, leaf.levelKnown], ['leaf', 1, false]);
    assert.match(leaf.notes.join(), /Level not known: read as a 4K leaf/);
    assert.equal(decodeSpte(l, 0x7777907n).kind, 'nonleaf');
    assert.equal(decodeSpte(l, 0x600000080000bf3n).large, true);
  });

  it('checks the alignment of large pages as the processor does', () => {
    const l = spteLayout('v6.1', 'ept');
    const effect = (value: bigint, level: number) => decodeSpte(l, value, level).hardwareEffect;
    assert.equal(effect(0x600000040000bf7n, 3), 'translates');
    assert.match(effect(0x600000040200bf7n, 3), /low address bits/);
    assert.equal(effect(0x600000040200bf7n, 2), 'translates');
    assert.match(effect(0x600000040201bf7n, 2), /low address bits/);
  });

  it('does not take a root entry for an spte', () => {
    const d = decodeSpte(spteLayout('v6.1', 'legacy'), 0x8031001n);
    assert.equal(d.kind, 'other');
    assert.match(d.notes.join(), /pae_root/);
  });

  it('knows SPP only in kernels that have it', () => {
    const value = 0x2000000012345d75n;
    assert.equal(decodeSpte(spteLayout('spp-rfc-2018', 'ept'), value, 1).spp, true);
    assert.equal(decodeSpte(spteLayout('v4.20', 'ept'), value, 1).spp, false);
    assert.match(decodeSpte(spteLayout('v4.20', 'ept'), value, 1).notes.join(), /Bits 61 have no meaning/);
  });
});

/** How much of a gpa an MMIO spte can hold: the mark of some eras lies inside a wide host's address. */
function gpaBits(l: SpteLayout): number {
  if (l.pagingType === 'ept') return l.era.mmio.genBits === 0 ? Math.min(l.hostPhysBits, 49) : l.hostPhysBits;
  return /@v(4\.19|5\.0)$/.test(l.id) ? Math.min(l.hostPhysBits, 51) : l.hostPhysBits;
}

describe('MMIO sptes', () => {
  const gen = (e: SpteEra) => (e.era === 'v5.0' ? 1023 : 2 ** e.mmio.genBits - 1);

  for (const l of everyLayout) {
    const name = `${l.id} ${l.hostPhysBits} bits${l.l1tf ? ' L1TF' : ''}`;
    if (!l.mmio.enabled) {
      it(`${name}: caches none`, () => {
        assert.equal(l.hostPhysBits, 52);
        assert.throws(() => encodeMmio(l, 1n, 0), /caches no MMIO/);
        assert.equal(isMmio(l, l.mmio.value), false);
      });
      continue;
    }
    it(`${name}: gfn, access and generation come back`, () => {
      fc.assert(
        fc.property(
          fc.bigInt(0n, (1n << BigInt(gpaBits(l) - 12)) - 1n),
          fc.nat(15),
          fc.nat(gen(l.era)),
          (gfn, access, generation) => {
            const spte = encodeMmio(l, gfn, access, generation);
            assert.equal(isMmio(l, spte), true);
            assert.equal(isShadowPresent(l, spte), false);
            assert.equal(isFrozen(l, spte), false);
            const stored =
              l.era.mmio.gen.length === 0 ? null : l.era.mmio.genBits === 20 ? generation & ~1 : generation;
            const readable = l.pagingType === 'ept' ? 0 : access & 6;
            assert.deepEqual(decodeMmio(l, spte), { gfn, access: readable, generation: stored });
            assert.equal(decodeSpte(l, spte).kind, 'mmio');
            const out = new Uint32Array(4);
            encodeMmioPair(l.hot, Number(gfn), access, generation, out, 2);
            assert.equal(fromPair(out[2], out[3]), spte);
            assert.equal(mmioGfnPair(l.hot, out[2], out[3]), Number(gfn));
            assert.equal(mmioGenerationPair(l.hot, out[2], out[3]), stored ?? 0);
          },
        ),
        { numRuns: 60 },
      );
    });
  }

  it('are off when the parameter says so', () => {
    const l = spteLayout('v6.1', 'ept', { mmioCaching: false });
    assert.equal(isMmio(l, 6n), false);
    assert.throws(() => encodeMmio(l, 1n, 0), /caches no MMIO/);
  });

  it('avoid the C-bit under SME', () => {
    const sme = (cBit: number, reducedPhysBits: number) =>
      spteLayout('v6.1', 'legacy', { sme: { cBit, reducedPhysBits } });
    assert.equal(sme(47, 43).mmio.mask, 0xff80000000001n | (0xfn << 43n));
    assert.equal(sme(43, 43).mmio.mask & (1n << 43n), 0n);
    assert.equal(sme(51, 51).mmio.enabled, false);
  });

  it('lose the reserved bit on a 52-bit host, and say that the fault is a plain one', () => {
    const l = spteLayout('v5.10', 'legacy', { hostPhysBits: 52 });
    assert.match(decodeSpte(l, encodeMmio(l, 0xb8n, 6, 1)).hardwareEffect, /plain not-present/);
  });

  it('never match a generation above 1023 in the releases that store it twice', () => {
    const l = spteLayout('v5.4', 'ept');
    assert.notEqual(decodeMmio(l, encodeMmio(l, 1n, 0, 0x400)).generation, 0x400);
  });
});

describe('access tracking', () => {
  for (const l of everyLayout.filter((x) => x.era.accTrackSaved && x.hostPhysBits === 46 && !x.l1tf)) {
    it(`${l.id}: restores R and X, never W`, () => {
      const disabled = 1n << BigInt(l.era.adType!.lsb);
      fc.assert(
        fc.property(fc.nat(7), fc.boolean(), (rwx, xu) => {
          const spte = disabled | l.mmuPresent | 0x12345070n | BigInt(rwx) | (xu ? l.xu : 0n);
          const tracked = accessTrack(l, spte);
          assert.equal(isAccessTracked(l, tracked), true);
          assert.equal(restoreAccessTracked(l, tracked), spte & ~2n);
          assert.equal(accessTrack(l, tracked), tracked);
          const { lo, hi } = toPair(tracked);
          assert.equal(isAccessTrackedPair(l.hot, lo, hi), true);
        }),
      );
    });
  }

  it('does not exist without the saved bits', () => {
    const l = spteLayout('v4.4', 'ept');
    assert.equal(isAccessTracked(l, 0x12345070n), false);
    assert.equal(accessTrack(l, 0x77n), 0x77n);
  });
});

describe('spte tables and pairs', () => {
  for (const l of everyLayout) {
    for (const table of spteWords(l)) {
      it(`${table.id} ${l.hostPhysBits}${l.l1tf ? ' L1TF' : ''}: disjoint fields, encode after decode is the identity`, () => {
        let seen = 0n;
        for (const f of table.fields) {
          assert.equal(seen & bits(f.lsb, f.width), 0n, f.name);
          seen |= bits(f.lsb, f.width);
        }
        fc.assert(
          fc.property(fc.bigInt(0n, (1n << 64n) - 1n), (v) => {
            const d = decodeWord(table, v);
            assert.equal(
              encodeWord(table, Object.fromEntries(d.fields.map((f) => [f.field.name, f.value]))) | d.reserved,
              v,
            );
          }),
          { numRuns: 20 },
        );
      });
    }
    it(`${l.id} ${l.hostPhysBits}${l.l1tf ? ' L1TF' : ''}: halves and words agree`, () => {
      const any = fc.bigInt(0n, (1n << 64n) - 1n);
      // Random bits seldom hit the MMIO mark, so mix in values near it and near 0.
      const near = fc
        .tuple(any, fc.constantFrom(l.mmio.mask, ~l.mmio.mask))
        .map(([v, m]) => l.mmio.match | (v & ~m & bits(0, 64)));
      fc.assert(
        fc.property(fc.oneof(any, near, fc.bigInt(0n, 15n)), (v) => {
          const { lo, hi } = toPair(v);
          assert.equal(isMmioPair(l.hot, lo, hi), isMmio(l, v));
          assert.equal(isShadowPresentPair(l.hot, lo, hi), isShadowPresent(l, v));
          assert.equal(isAccessTrackedPair(l.hot, lo, hi), isAccessTracked(l, v));
          assert.equal(pfnPair(lo, hi), Number((v & l.address) >> 12n));
        }),
        { numRuns: 60 },
      );
    });
  }
});
