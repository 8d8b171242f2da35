import assert from 'node:assert/strict';
import { eventText, flagText } from './expectations';
import { parseScenario } from './parse';
import { PF_ERROR_FLAGS, REGISTER_FLAGS } from './tables';
import { GUEST, runAll } from './testing/helpers';

/** Outcomes of the expects of a text: `ok`, or what was found. */
const verdicts = (text: string): string[] =>
  runAll(GUEST + text).outcomes.flatMap((o) => (o.expect ? [o.expect.ok ? 'ok' : o.expect.actual] : []));

describe('expect', () => {
  it('value', () => {
    assert.deepEqual(
      verdicts(
        'dword 0x2000 = 7\nload 4 [0x2000]\nexpect value 7\nexpect value 8\nstore 4 [0x2000] = 1\nexpect value 7',
      ),
      ['ok', 'value 7', 'no value: end done'],
    );
  });

  it('exceptions', () => {
    assert.deepEqual(
      verdicts(
        'load 4 [0x400000]\nexpect #PF\nexpect #PF error 0 cr2 0x400000\nexpect #PF error P\nexpect #PF cr2 1\nexpect #GP\nexpect no fault\nload 4 [0]\nexpect #PF\nexpect no fault',
      ),
      [
        'ok',
        'ok',
        '#PF error 0 cr2 0x400000',
        '#PF error 0 cr2 0x400000',
        '#PF error 0 cr2 0x400000',
        '#PF error 0 cr2 0x400000',
        'no fault: end done, value 0',
        'ok',
      ],
    );
  });

  it('end and exits', () => {
    assert.deepEqual(verdicts('hlt\nexpect end hlt\nexpect end done\nexpect exits 1\nexpect exits 0'), [
      'ok',
      'end hlt, hlt',
      'ok',
      '1 exit: hlt',
    ]);
  });

  it('mmio', () => {
    const text = 'map 0x209000 -> 0x10000000 W\nload 4 [0x209004]\n';
    const found = 'mmio read gpa 0x10000004 len 4 value 0xd0000001';
    assert.deepEqual(
      verdicts(
        `${text}expect mmio\nexpect mmio read gpa 0x10000004 len 4 value 0xd0000001\nexpect mmio write\nexpect mmio gpa 0\nexpect mmio len 8\nexpect mmio value 0\nexpect no mmio\nexpect no mmio write\nexpect no io\nload 4 [0]\nexpect mmio\nexpect no mmio`,
      ),
      ['ok', 'ok', found, found, found, found, found, 'ok', 'ok', 'no exit to user space: end done, value 0', 'ok'],
    );
  });

  it('io', () => {
    const found = 'io out port 0xe0 value 1';
    assert.deepEqual(
      verdicts(
        'out 0xe0, 1\nexpect io out port 0xe0 value 1\nexpect io in\nexpect io port 1\nexpect io value 2\nexpect no io\nexpect no mmio',
      ),
      ['ok', found, found, found, found, 'ok'],
    );
  });

  it('errno', () => {
    const refused = '-EEXIST: [0x0, 0x1000) overlaps slot 0:0 at [0x0, 0x200000) of the same address space';
    assert.deepEqual(
      verdicts('memslot add id 1 gpa 0 size 4K host low\nexpect errno EEXIST\nexpect errno EINVAL\nexpect errno 0'),
      ['ok', refused, refused],
    );
    assert.deepEqual(verdicts('memslot add id 1 gpa 8M size 4K host low\nexpect errno 0\nexpect errno 0'), [
      'ok',
      'ok',
    ]);
  });

  it('events', () => {
    const [a, b, c, d, e, f] = verdicts(
      'load 4 [0x1000]\nexpect event kvm_tdp_mmu_spte_changed gfn 1 level 1\nexpect event kvm_tdp_mmu_spte_changed gfn 0x999\nexpect no event ept_violation\nexpect event ept_violation write 0 times 100\nexpect event npf\nexpect no event npf',
    );
    assert.equal(a, 'ok');
    assert.match(
      b,
      /^\d+ such events, 0 with these fields: kvm_tdp_mmu_spte_changed as_id 0 gfn 0 level 4 .*; and \d+ more$/,
    );
    assert.match(c, /^\d+ such events/);
    assert.match(d, /^\d+ such events, \d with these fields/);
    assert.match(e, /^no npf; events: .*kvm_entry/);
    assert.equal(f, 'ok');
    assert.deepEqual(
      verdicts(
        'memslot delete id 0\nexpect event memslot_changed change delete id 0 as_id 0\nexpect no event memslot_changed change "create"',
      ),
      ['ok', 'ok'],
    );
  });

  it('sptes', () => {
    const text = 'map 0x209000 -> 0x10000000 W\nload 4 [0x1000]\nload 4 [0x209000]\n';
    const [a, b, c, d, e, f, g, h, i, j, k] = verdicts(
      `${text}expect spte gfn 1 is leaf\nexpect spte gpa 0x1234 level 1 is present w 1\nexpect spte gfn 1 level 2 is table\nexpect spte gpa 0x10000000 is mmio gen 2 gfn 0x10000\nexpect spte gfn 0x1ff is none\nexpect spte gfn 1 is mmio\nexpect spte gfn 1 is leaf w 0\nexpect spte gfn 1 is leaf colour 1\nexpect spte gfn 1 level 5 is leaf\nexpect spte gpa 0x40000000 level 1 is none\nexpect spte gfn 1 = 0`,
    );
    assert.deepEqual([a, b, c, d, e], ['ok', 'ok', 'ok', 'ok', 'ok']);
    assert.match(f, /^level 1: 0x[0-9a-f]+ \(leaf pfn 0x/);
    assert.match(g, /; w is 1$/);
    assert.match(h, /this entry has no field 'colour', its fields are r, w, x,/);
    assert.match(i, /the root has level 4: there is no level 5/);
    assert.match(j, /^the walk ends at level 3 with /);
    assert.match(k, /^level 1: 0x/);
    assert.deepEqual(verdicts('expect spte gfn 1 is leaf'), [
      'the vCPU has no root now: it gets one at its next entry (run an instruction first)',
    ]);
  });

  it('sptes of shadow tables, by linear address', () => {
    const shadow = GUEST.replace('kernel v6.1', 'kernel v6.1\n  paging shadow');
    const { outcomes } = runAll(
      `${shadow}load 4 [0x1000]\nexpect spte gva 0x1000 level 1 is leaf\nexpect spte gpa 0x1000 is leaf\n`,
    );
    const found = outcomes.flatMap((o) => (o.expect ? [o.expect.ok ? 'ok' : o.expect.actual] : []));
    assert.deepEqual(found, [
      'ok',
      'shadow tables translate linear addresses while the guest pages: write expect spte gva …',
    ]);
  });

  it('sptes of a PAE root', () => {
    const pae = `machine {\n  paging shadow\n}\nbacking low 2M\nmemslot add id 0 gpa 0 size 2M host low\nvcpu 0 { cr0 PG|NE|ET|PE  cr3 0x10000  cr4 PAE  efer 0 }\ntables at 0x11000\nmap 0x40001000 -> 0x1000 W\nsetregs { cr0 NE|ET|PE }\nsetregs { cr0 PG|NE|ET|PE }\n`;
    const { outcomes } = runAll(
      `${pae}load 4 [0x40001000]\nexpect spte gva 0x40001000 level 1 is leaf\nexpect spte gva 0x40001000 level 3 is present\nexpect spte gva 0x140001000 is leaf\n`,
    );
    const found = outcomes.flatMap((o) => (o.expect ? [o.expect.ok ? 'ok' : o.expect.actual] : []));
    assert.equal(found[0], 'ok');
    assert.match(found[2], /0x140001000 does not fit 32 bits/);
  });

  it('why', () => {
    const [yes, no, nothing] = verdicts(
      'store 4 [0x400000] = 1\nexpect why pg.present\nexpect why pg.smap\nload 4 [0x1000]\nload 4 [0x1000]\nexpect why pg.present',
    );
    assert.equal(yes, 'ok');
    // The walk of the guest's tables was refused by EPT before.
    assert.match(no, /^ept\.present \(.*\); pg\.present \(Bit 0 \(P\) of the entry is 1\)$/);
    assert.equal(nothing, 'no walk was refused');
  });

  it('the TLB: stale until somebody flushes', () => {
    const text = `load 4 [0x1000]\nexpect tlb 0x1abc fresh\nexpect tlb 0x1000 stale\nexpect tlb 0x5000 stale\nunmap 0x1000
expect tlb 0x1000 stale\nexpect tlb 0x1000 fresh\nexpect no tlb 0x1000\ninvlpg [0x1000]\nexpect no tlb 0x1000\nexpect tlb 0x1000 fresh\n`;
    const stale = 'tlb 0x1000 -> gpa 0x1000 stale (the tables map nothing here now)';
    assert.deepEqual(verdicts(text), [
      'ok',
      'tlb 0x1000 -> gpa 0x1000 fresh',
      'no tlb 0x5000',
      'ok',
      stale,
      stale,
      'ok',
      'no tlb 0x1000',
    ]);
  });

  it('the TLB for addresses of the upper half, and what is wrong with a word', () => {
    const high = '0xffff800000001000';
    const text = `map ${high} -> 0x1000 W\nload 4 [${high}]\nexpect tlb ${high} fresh\nunmap ${high}\nexpect tlb ${high} stale\n`;
    assert.deepEqual(verdicts(text), ['ok', 'ok']);
    const [wrong] = parseScenario(`${GUEST}expect tlb 0x1000 stake\n`).diagnostics;
    assert.match(wrong.message, /^a TLB entry is not 'stake'; did you mean 'stale'\?/);
  });

  it('the TLB of another vCPU', () => {
    const second = 'vcpu 1 { cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE }\n';
    const text = `${second}vcpu 1: load 4 [0x1000]\nunmap 0x1000\ninvlpg [0x1000]\nvcpu 1: expect tlb 0x1000 stale\nvcpu 0: expect no tlb 0x1000\n`;
    assert.deepEqual(verdicts(text), ['ok', 'ok']);
  });

  it('memory', () => {
    assert.deepEqual(
      verdicts(
        'qword 0x2000 = 0x1122334455667788\nexpect qword 0x2000 = 0x1122334455667788\nexpect dword 0x2004 0x11223344\nexpect word 0x2000 0x7788\nexpect byte 0x2007 = 0x12\nexpect byte as 1 0x2000 = 0',
      ),
      ['ok', 'ok', 'ok', '0x11', 'no memslot of address space 1 holds gpa 0x2000'],
    );
  });

  it('state', () => {
    assert.deepEqual(verdicts('load 4 [0]\nexpect cr0 PG|WP|NE|ET|PE\nexpect cr0 PE\nexpect root_level 4\nexpect generation 2\nexpect generation.1 1\nexpect memslots 1\nexpect memslots.1 0\nexpect smbase 0x30000\nexpect guest_mode 0\nexpect code 64\nexpect generation.2 0'), ['ok', 'cr0 0x80010031', 'ok', 'ok', 'ok', 'ok', 'ok', 'ok', 'ok', 'ok', 'address space 2 does not exist: v6.1 has 2']); // prettier-ignore
    assert.deepEqual(
      verdicts(
        'load 4 [0x1000]\nload 4 [0x1000]\nexpect memslot_lookups 0\nexpect shadow_pages 4\nexpect mmu_valid_gen 0\nexpect cpl 0\nexpect pkru 0',
      ),
      ['ok', 'ok', 'ok', 'ok', 'ok'],
    );
  });
});

describe('texts of findings', () => {
  it('name flags when every bit has a name', () => {
    assert.equal(flagText(3n, PF_ERROR_FLAGS), 'P|W');
    assert.equal(flagText(0n, PF_ERROR_FLAGS), '0');
    assert.equal(flagText(0x4000n, PF_ERROR_FLAGS), '0x4000');
    assert.equal(flagText(0x80000001n, REGISTER_FLAGS.cr0), 'PE|PG');
  });

  it('write events as expect does', () => {
    assert.equal(
      eventText({ kind: 'kvm_mmu_paging_element', vcpu: 0, pte: 0x1003n, level: 1 }),
      'kvm_mmu_paging_element pte 0x1003 level 1',
    );
  });
});
