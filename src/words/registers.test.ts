import assert from 'node:assert/strict';
import fc from 'fast-check';
import { CR0, CR4, EFER, PKRS, PKRU, RFLAGS, formatFlags, parseFlags } from './controls';
import { cr3Layout, eptpLayout, ncr3Layout, spptpLayout } from './pointers';
import { decodeWord, encodeWord, fieldMask } from './word';

const summary = (layout: Parameters<typeof decodeWord>[0], value: bigint) => decodeWord(layout, value).summary;

describe('control registers', () => {
  const places: readonly [typeof CR0, string, number][] = [
    [CR0, 'PE', 0],
    [CR0, 'WP', 16],
    [CR0, 'CD', 30],
    [CR0, 'PG', 31],
    [CR4, 'PSE', 4],
    [CR4, 'PAE', 5],
    [CR4, 'PGE', 7],
    [CR4, 'LA57', 12],
    [CR4, 'VMXE', 13],
    [CR4, 'PCIDE', 17],
    [CR4, 'SMEP', 20],
    [CR4, 'SMAP', 21],
    [CR4, 'PKE', 22],
    [CR4, 'CET', 23],
    [CR4, 'PKS', 24],
    [EFER, 'LME', 8],
    [EFER, 'LMA', 10],
    [EFER, 'NX', 11],
    [EFER, 'SVME', 12],
    [RFLAGS, 'AC', 18],
    [RFLAGS, 'VM', 17],
    [PKRU, 'AD3', 6],
    [PKRU, 'WD3', 7],
    [PKRS, 'WD15', 31],
  ];
  for (const [layout, name, bit] of places) {
    it(`${layout.title}.${name} is bit ${bit}`, () => assert.equal(fieldMask(layout, name), 1n << BigInt(bit)));
  }

  it('print as flag lists, highest bit first', () => {
    assert.equal(formatFlags(CR0, 0x80050033n), 'PG|AM|WP|NE|ET|MP|PE');
    assert.equal(formatFlags(CR4, 0x3000b0n), 'SMAP|SMEP|PGE|PAE|PSE');
    assert.equal(formatFlags(EFER, 0xd01n), 'NX|LMA|LME|SCE');
    assert.equal(formatFlags(RFLAGS, 0x3202n), 'IOPL=3|IF|FIXED');
    assert.equal(formatFlags(CR0, 0n), '0');
    assert.equal(formatFlags(CR0, 0x80000100n), 'PG|0x100');
    assert.equal(formatFlags(PKRU, 0x55555554n).split('|').length, 15);
    assert.equal(summary(CR0, 0x80050033n), 'PG|AM|WP|NE|ET|MP|PE');
  });

  it('read what they print, for every value', () => {
    for (const layout of [CR0, CR4, EFER, RFLAGS, PKRU, PKRS]) {
      fc.assert(
        fc.property(fc.bigInt(0n, (1n << BigInt(layout.size)) - 1n), (v) => {
          assert.equal(parseFlags(layout, formatFlags(layout, v)), v);
        }),
      );
    }
  });

  it('read lists in any case and order, with numbers among them', () => {
    assert.equal(parseFlags(CR0, 'PG|WP|PE'), 0x80010001n);
    assert.equal(parseFlags(CR0, ' pe | wp |PG'), 0x80010001n);
    assert.equal(parseFlags(CR0, '0x80050033'), 0x80050033n);
    assert.equal(parseFlags(CR0, 'PG|0x1'), 0x80000001n);
    assert.equal(parseFlags(EFER, 'NXE|LME|LMA'), 0xd00n);
    assert.equal(parseFlags(RFLAGS, 'IOPL=3|IF'), 0x3200n);
  });

  it('say which flag is unknown and which there are', () => {
    assert.throws(
      () => parseFlags(CR0, 'PG|SMEP'),
      /CR0 has no flag 'SMEP': its flags are PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG/,
    );
    assert.throws(() => parseFlags(CR0, 'PG||PE'), /empty or unreadable part/);
    assert.throws(() => parseFlags(CR0, ''), /write flags of CR0 joined by \|/);
    assert.throws(() => parseFlags(RFLAGS, 'IOPL'), /write IOPL=N/);
    assert.throws(() => parseFlags(RFLAGS, 'IOPL=4'), /it has 2 bits/);
    assert.throws(() => parseFlags(PKRU, '0x100000000'), /has 32 bits/);
    assert.throws(() => parseFlags(CR0, 'PG|fee'), /no flag 'fee'/);
  });
});

describe('table pointers', () => {
  it('EPTP', () => {
    const eptp = eptpLayout(46);
    assert.equal(summary(eptp, 0x1234505en), '4-level EPT at 0x12345000 WB A/D');
    assert.equal(summary(eptp, 0x12345026n | 0x80n), '5-level EPT at 0x12345000 WB supervisor shadow stack');
    assert.equal(summary(eptp, 0x1n), '1-level EPT at 0x0 memtype 1');
    assert.equal(decodeWord(eptp, (1n << 46n) | 0x100n).reserved, (1n << 46n) | 0x100n);
    assert.equal(encodeWord(eptp, { memtype: 6, walk_length: 3, ad: 1, pfn: 0x12345 }), 0x1234505en);
  });

  it('SPPTP', () => {
    assert.equal(summary(spptpLayout(46), 0x12345000n), '4-level SPPT at 0x12345000');
    assert.equal(decodeWord(spptpLayout(46), 1n).reserved, 1n);
  });

  it('CR3 by paging mode', () => {
    assert.equal(summary(cr3Layout('long'), 0x10018n), 'top table at 0x10000 PWT PCD');
    assert.equal(summary(cr3Layout('long-pcid'), 0x8000000000010007n), 'top table at 0x10000 PCID 0x7 NOFLUSH');
    assert.equal(summary(cr3Layout('pae'), 0x10020n), 'PDPTEs at 0x10020');
    assert.equal(summary(cr3Layout('32-bit'), 0x10000n), 'top table at 0x10000');
    assert.equal(summary(cr3Layout('long'), (1n << 62n) | 0x1000n), 'top table at 0x1000 LAM_U48');
    assert.equal(summary(ncr3Layout(48), 0x7000n), 'nested tables at 0x7000');
  });

  it('refuse a width that cannot be', () => {
    for (const make of [eptpLayout, spptpLayout, ncr3Layout, (n: number) => cr3Layout('long', n)]) {
      assert.throws(() => make(53), /32 to 52 bits/);
    }
  });
});
