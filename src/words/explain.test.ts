import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import type { Explanation, ExplainOptions } from './explain';
import { decodableWords, explain, explanationToMarkdown, explanationToText, findValues } from './explain';
import { KERNEL_ERAS } from './kernels';
import type { PagingType } from './sptes';

const first = (value: bigint, options?: ExplainOptions): Explanation => explain(value, options)[0];
const line = (e: Explanation) => `${e.as}: ${e.summary}`;

const MMIO = 'EPT misconfiguration (bits 2:0 = 110b)';

/** Explains the value that a line gives a name, as a hover does. */
function hover(text: string, name: string, options: ExplainOptions = {}): Explanation[] {
  const last = text.split('\n').at(-1)!;
  const found = findValues(last).find((f) => f.name === name);
  assert.ok(found, `${name} is not found in ${last}`);
  return explain(found.value, { ...options, context: text, name });
}

describe('explain, without anything known', () => {
  const values: readonly [bigint, string][] = [
    [0x600000012345b77n, 'spte: leaf pfn 0x12345 rwx WB+IPAT AD host-writable mmu-writable'],
    [0x4223a21n, 'spte: leaf pfn 0x4223 r-x- A host-writable'],
    [0x3e0010000036n, `spte: MMIO gfn 0x10000 generation 6, ${MMIO}`],
    [0x83e0010000041n, 'spte: MMIO gfn 0x10000 generation 8, #PF with P=1 RSVD=1'],
    [0x8000010000031n, 'spte: MMIO gfn 0x10000 generation 6, #PF with P=1 RSVD=1'],
    [0x84ed907n, 'spte: table at pfn 0x84ed rwx A'],
    [0x803c827n, 'spte: table at pfn 0x803c rwxu A'],
    [0x7ffffff0feb00007n, 'spte: MMIO gfn 0xfeb00 access wu- no generation, #PF with P=1 RSVD=1'],
    [0x01fe0000feb00006n, `spte: MMIO gfn 0xfeb00 no generation, ${MMIO}`],
    [0x3784n, 'role: l4 8-byte direct wux nxe ad cr0_wp'],
    [0x01003784n, 'role: l4 8-byte direct wux nxe ad smm cr0_wp'],
    [0x8100003704n, 'cpu_role: l4 8-byte wux nxe ad cr0_wp | valid efer_lma'],
    [0x80050033n, 'cr0: PG|AM|WP|NE|ET|MP|PE'],
    [0x3000b0n, 'cr4: SMAP|SMEP|PGE|PAE|PSE'],
    [0xd01n, 'efer: NX|LMA|LME|SCE'],
    [0x181n, 'ept-qualification: read of the final address, an entry not present'],
    [0x100000004n, 'npf: read of the final address, not present'],
    [0x11027n, 'gpte: table at 0x11000 P W U A'],
    [0x7n, 'pfec: user write, not allowed'],
    [0xffffffffffffffean, 'errno: -EINVAL (-22)'],
    [0xffff888000001000n, 'gva: 0xffff888000001000: PML4[273] PDPT[0] PD[0] PT[1] + 0x0'],
    [0x80000b0en, 'intr-info: hardware exception #PF with error code'],
    [0x55555554n, 'pkru: AD15|AD14|AD13|AD12|AD11|AD10|AD9|AD8|AD7|AD6|AD5|AD4|AD3|AD2|AD1'],
  ];
  for (const [value, text] of values) {
    it(`0x${value.toString(16)} is first ${text.slice(0, 60)}`, () => assert.equal(line(first(value)), text));
  }

  it('offers every layout that fits, joined by kernels that read alike', () => {
    const all = explain(0x600000012345b77n);
    assert.match(all[0].title, /EPT, v5\.13 \.\. v6\.8$/);
    assert.ok(
      all.some((e) => e.as === 'spte' && e.title.includes('v6.9 .. v7.1')),
      'suppress-#VE missing, so unlikely',
    );
    assert.ok(all.some((e) => e.as === 'gpte' && e.title.includes('long mode')));
    assert.ok(all.some((e) => e.as === 'epte'));
    const roles = explain(0x3784n).filter((e) => e.as === 'role');
    assert.deepEqual(
      roles.slice(0, 2).map((e) => e.title),
      ['page role, v5.17 .. v7.1, seed1', 'page role, v5.1 .. v5.16, spp-v12'],
    );
    const legacy = explain(0x4223a21n, { as: 'spte', vendor: 'amd' });
    assert.equal(legacy[0].title, 'spte, NPT or shadow paging, v5.13 .. v7.3');
  });

  it('says how it read an L1TF host, and offers the other reading', () => {
    const all = explain(0x3e0010000036n);
    assert.match(all[0].notes.join(), /L1TF and 46 physical address bits: bits 45:41/);
    assert.ok(all.some((e) => e.summary.startsWith('MMIO gfn 0x3e0010000 ')));
    const higher = explain(0x83e0010000036n, { as: 'spte', kernel: 'v6.1', pagingType: 'ept' });
    assert.ok(!higher[0].notes.join().includes('L1TF'), 'a bit above the ones speaks against it');
    const told = explain(0x3e0010000036n, {
      as: 'spte',
      kernel: 'v6.1',
      pagingType: 'ept',
      l1tf: true,
      hostPhysBits: 46,
    });
    assert.deepEqual([told.length, told[0].summary], [1, `MMIO gfn 0x10000 generation 6, ${MMIO}`]);
    const not = explain(0x3e0010000036n, {
      as: 'spte',
      kernel: 'v6.1',
      pagingType: 'ept',
      l1tf: false,
      hostPhysBits: 46,
    });
    assert.match(not[0].summary, /gfn 0x3e0010000 /);
  });

  it('ranks from 1, and always has an answer', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, (1n << 64n) - 1n), (v) => {
        const all = explain(v);
        assert.ok(all.length > 0);
        assert.deepEqual(
          all.map((e) => e.rank),
          all.map((_, i) => i + 1),
        );
        const seen = new Set(all.map((e) => [e.as, e.title, e.summary, e.notes.join()].join('|')));
        assert.equal(seen.size, all.length, 'equal readings are joined');
      }),
      { numRuns: 60 },
    );
  });
});

describe('explain, with a kernel and a vendor', () => {
  it('reads the 46 worked sptes as stated', () => {
    const { samples } = JSON.parse(
      readFileSync(new URL('../../test/fixtures/reference/samples.json', import.meta.url), 'utf8'),
    ) as {
      samples: {
        era: string;
        pagingType: PagingType;
        level: number;
        hostPhysBits: number;
        l1tf: boolean;
        spte: string;
        decoded: Record<string, unknown>;
      }[];
    };
    for (const s of samples) {
      const all = explain(BigInt(s.spte), { ...s, as: 'spte', kernel: s.era });
      assert.equal(all.length, 1, s.spte);
      const { kind, gfn, pfn, generation } = s.decoded;
      const text = all[0].summary;
      if (kind === 'mmio') {
        assert.ok(text.startsWith(`MMIO gfn ${gfn as string} `), text);
        assert.ok(text.includes(generation === null ? 'no generation' : `generation ${generation as number}`), text);
        assert.ok(text.endsWith(s.decoded.hardwareEffect as string), text);
      } else if (pfn !== undefined) assert.ok(text.includes(`pfn ${pfn as string} `), text);
    }
  });

  it('takes one kernel, one vendor, one level', () => {
    const told = explain(0x600000012345b77n, { kernel: 'v6.1', vendor: 'intel', level: 1 });
    assert.equal(told[0].title, 'spte, EPT, v6.1');
    assert.ok(told.every((e) => !/NPT$/.test(e.title) && e.as !== 'npf'));
    assert.equal(first(0x4223a21n, { kernel: '6.1.176', vendor: 'amd' }).title, 'spte, NPT or shadow paging, v6.1.176');
    assert.equal(
      first(0x80000bf3n, { as: 'spte', kernel: 'v6.1', pagingType: 'ept', level: 2 }).summary.split(' ')[0],
      '2M',
    );
    assert.equal(first(0x3784n, { as: 'role', kernel: 'v4.4' }).title, 'page role, v4.4');
    assert.equal(first(0x181n, { kernel: 'v4.4' }).notes[0].split(':')[0], 'v4.4 passes 0x0 (0) to kvm_mmu_page_fault');
    assert.equal(
      first(5n, { as: 'ret-pf', kernel: 'v6.1' }).summary,
      'RET_PF_SPURIOUS: the spte already allowed the access',
    );
    assert.equal(
      first(0x10002n, { as: 'memslot-flags', kernel: 'v6.1' }).summary,
      'KVM_MEM_READONLY KVM_MEMSLOT_INVALID',
    );
  });

  it('decodes every word by its name and aliases', () => {
    const value: Record<string, bigint> = { errno: 0xffffffean, access: 7n };
    for (const word of decodableWords()) {
      assert.ok(word.description.length > 0);
      for (const name of [
        word.name,
        ...word.aliases,
        word.name.toUpperCase(),
        ...word.aliases.map((a) => a.replaceAll('_', '-')),
      ]) {
        const all = explain(value[word.name] ?? 0x10n, { as: name });
        assert.ok(all.length > 0 && all[0].as === word.name, name);
        assert.equal(explain(value[word.name] ?? 0x10n, { as: all[0].as })[0].summary, all[0].summary);
      }
    }
    assert.equal(
      new Set(decodableWords().flatMap((w) => [w.name, ...w.aliases])).size,
      decodableWords().flatMap((w) => [w.name, ...w.aliases]).length,
    );
  });

  it('works for every era', () => {
    for (const { id } of KERNEL_ERAS) {
      for (const vendor of ['intel', 'amd'] as const) {
        assert.ok(explain(0x12345067n, { kernel: id, vendor }).length > 0, id);
        assert.equal(first(0x12345067n, { as: 'spte', kernel: id, vendor }).as, 'spte');
      }
    }
  });

  it('says what is wrong in a sentence', () => {
    assert.throws(() => explain(-1n), /0 \.\. 2\^64-1/);
    assert.throws(() => explain(1n << 64n), /64-bit value/);
    assert.throws(
      () => explain(1n, { as: 'spt' }),
      /'spt' is not a word that can be decoded: the names are spte, role/,
    );
    assert.throws(() => explain(1n, { kernel: 'v9' }), /not a kernel/);
    assert.throws(() => explain(1n, { level: 6 }), /level cannot be 6: write 1 \(4K\) to 5/);
    assert.throws(() => explain(1n, { as: 'cpu_role', kernel: 'v4.4' }), /cannot be a cpu_role of v4\.4/);
    assert.throws(() => explain(1n << 40n, { as: 'role' }), /0x10000000000 cannot be a role/);
    assert.throws(() => explain(1n, { as: 'gpte-pae', level: 4 }), /cannot be a gpte-pae/);
  });
});

describe('explain, in a line of a real trace', () => {
  const AMD_NPF = [
    'kvm_exit: vcpu 0 reason npf rip 0x1000 info1 0x0000000200000006 info2 0x0000000000010000 intr_info 0x00000000 error_code 0x00000000',
    'kvm_page_fault: vcpu 0 rip 0x1000 address 0x0000000000010000 error_code 0x200000006',
  ];
  const INTEL_EPT = [
    'kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x1000 info1 0x0000000000000083 info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000',
    'kvm_page_fault: vcpu 0 rip 0x1000 address 0x0000000000010000 error_code 0x83',
  ];
  const INTEL_SHADOW = [
    'kvm_exit: vcpu 0 reason EXCEPTION_NMI rip 0x1000 info1 0x0000000000001000 info2 0x0000000000000000 intr_info 0x80000b0e error_code 0x00000010',
    'kvm_page_fault: vcpu 0 rip 0x1000 address 0x0000000000001000 error_code 0x10',
  ];
  const AMD_SHADOW = [
    'kvm_exit: vcpu 0 reason PF excp rip 0x1000 info1 0x0000000000000010 info2 0x0000000000001000 intr_info 0x00000000 error_code 0x00000000',
    'kvm_page_fault: vcpu 0 rip 0x1000 address 0x0000000000001000 error_code 0x10',
  ];

  const cases: readonly [string, string, string, ExplainOptions?][] = [
    // AMD, NPT
    [
      'kvm_tdp_mmu_spte_changed: as id 0 gfn 0 level 4 old_spte 0 new_spte 803c827',
      'new_spte',
      'spte: table at pfn 0x803c rwxu A',
    ],
    [
      'kvm_tdp_mmu_spte_changed: as id 0 gfn 0 level 4 old_spte 0 new_spte 803c827',
      'old_spte',
      'spte: empty entry, EPT violation (bits 2:0 = 000b)',
    ],
    [AMD_NPF.join('\n'), 'error_code', 'npf: write of a guest paging entry, not present'],
    [AMD_NPF[1], 'error_code', 'npf: write of a guest paging entry, not present'],
    [AMD_NPF.join('\n'), 'address', 'gpa: 0x10000: gfn 0x10 PML4[0] PDPT[0] PD[0] PT[16] + 0x0'],
    [AMD_NPF[0], 'info1', 'npf: write of a guest paging entry, not present'],
    [AMD_NPF[0], 'info2', 'gpa: 0x10000: gfn 0x10 PML4[0] PDPT[0] PD[0] PT[16] + 0x0'],
    // Intel, EPT
    [
      'kvm_tdp_mmu_spte_changed: as id 0 gfn 0 level 4 old_spte 0 new_spte 84ed907',
      'new_spte',
      'spte: table at pfn 0x84ed rwx A',
    ],
    [INTEL_EPT.join('\n'), 'error_code', 'ept-qualification: read+write of a guest paging entry, an entry not present'],
    [INTEL_EPT[1], 'error_code', 'ept-qualification: read+write of a guest paging entry, an entry not present'],
    [INTEL_EPT.join('\n'), 'address', 'gpa: 0x10000: gfn 0x10 PML4[0] PDPT[0] PD[0] PT[16] + 0x0'],
    [INTEL_EPT[0], 'info1', 'ept-qualification: read+write of a guest paging entry, an entry not present'],
    [INTEL_EPT[0], 'error_code', 'number: 0x0 = 0, no bit set'],
    [
      'kvm_exit: vcpu 0 reason IO_INSTRUCTION rip 0x1002 info1 0x0000000000e00040 info2 0x0 intr_info 0x0 error_code 0x0',
      'info1',
      'io-qualification: out port 0xe0, 1 byte',
    ],
    [
      'kvm_exit: vcpu 0 reason io rip 0x1002 info1 0x0000000000e00010 info2 0x0000000000001004 intr_info 0x0 error_code 0x0',
      'info1',
      'ioio: out port 0xe0, 1 byte',
    ],
    // Shadow paging
    [INTEL_SHADOW.join('\n'), 'error_code', 'pfec: supervisor fetch, not present'],
    [INTEL_SHADOW.join('\n'), 'address', 'gva: 0x1000: PML4[0] PDPT[0] PD[0] PT[1] + 0x0'],
    [INTEL_SHADOW[0], 'info1', 'gva: 0x1000: PML4[0] PDPT[0] PD[0] PT[1] + 0x0'],
    [INTEL_SHADOW[0], 'intr_info', 'intr-info: hardware exception #PF with error code'],
    [INTEL_SHADOW[0], 'error_code', 'pfec: supervisor fetch, not present'],
    [AMD_SHADOW.join('\n'), 'error_code', 'pfec: supervisor fetch, not present'],
    [AMD_SHADOW[0], 'info1', 'pfec: supervisor fetch, not present'],
    [AMD_SHADOW[0], 'info2', 'gva: 0x1000: PML4[0] PDPT[0] PD[0] PT[1] + 0x0'],
    [
      'kvm_mmu_set_spte: gfn 1 spte 29c0a21 (r-x-) level 1 at 8031008',
      'spte',
      'spte: leaf pfn 0x29c0 r-x- A host-writable',
    ],
    ['kvm_mmu_set_spte: gfn 1 spte 29c0a21 (r-x-) level 1 at 8031008', 'gfn', 'gfn: 0x1: address 0x1000'],
    [
      'kvm_mmu_set_spte: gfn 1 spte 29c0a21 (r-x-) level 1 at 8031008',
      'at',
      'hpa: 0x8031008: pfn 0x8031 PML4[0] PDPT[0] PD[64] PT[49] + 0x8',
    ],
    [
      'fast_page_fault: vcpu 0 gva 10000008 error_code P|W|U sptep 000000009f67dff4 old 0x30a0825 new 30a0825 spurious 0 fixed 0',
      'old',
      'spte: leaf pfn 0x30a0 r-xu A',
      { vendor: 'amd', kernel: '6.1.176' },
    ],
    [
      'fast_page_fault: vcpu 0 gva 10000008 error_code P|W sptep 000000003db1942e old 0x6481975 new 6481975 spurious 0 fixed 0',
      'new',
      'spte: leaf pfn 0x6481 r-x WB+IPAT A',
      { vendor: 'intel', kernel: '6.1.176' },
    ],
    // MMIO
    [
      'check_mmio_spte: spte 8000010000031 kvm_gen 6 spte-gen 6 valid 1',
      'spte',
      'spte: MMIO gfn 0x10000 generation 6, #PF with P=1 RSVD=1',
    ],
    ['check_mmio_spte: spte 83e0010000041 kvm_gen a spte-gen 8 valid 0', 'kvm_gen', 'generation: generation 10 (0xa)'],
    ['check_mmio_spte: spte 83e0010000041 kvm_gen a spte-gen 8 valid 0', 'spte_gen', 'generation: generation 8 (0x8)'],
    ['mark_mmio_spte: sptep:000000001885970b gfn 10001 access 5 gen 6', 'access', 'access: -ux (x=1 w=2 u=4)'],
    [
      'handle_mmio_page_fault: addr:209000 gfn 10000 access 0',
      'addr',
      'gva: 0x209000: PML4[0] PDPT[0] PD[1] PT[9] + 0x0',
    ],
    // The guest's side
    ['kvm_mmu_pagetable_walk: addr 1000 pferr 10 F', 'pferr', 'pferr: supervisor fetch, not present'],
    ['kvm_mmu_walker_error: pferr 3 P|W', 'pferr', 'pferr: supervisor write, not allowed'],
    ['kvm_mmu_paging_element: pte 11027 level 4', 'pte', 'gpte: table at 0x11000 P W U A'],
    ['kvm_inj_exception: #PF (0x3) [reinjected]', 'error_code', 'pfec: supervisor write, not allowed'],
    ['kvm_cr: cr_write 0 = 0x80050033', 'cr0', 'cr0: PG|AM|WP|NE|ET|MP|PE'],
    ['kvm_msr: msr_write c0000080 = 0x500', 'efer', 'efer: LMA|LME'],
    [
      'kvm_mmu_spte_requested: gfn 10000 pfn 8000000000000000 level 1',
      'pfn',
      'pfn: 0x8000000000000000: not a frame (KVM marks error and no-slot frames by bits 63:62)',
    ],
    [
      '{"event":"kvm_mmu_get_page","gfn":"0x10","role":"0x3704","root_count":"0x0"}',
      'role',
      'role: l4 8-byte wux nxe ad cr0_wp',
    ],
    [
      '"cpu_role":{"as_u64":"0x0000008100003704"}',
      'cpu_role',
      'cpu_role: l4 8-byte wux nxe ad cr0_wp | valid efer_lma',
    ],
    ['"root_role":{"word":"0x01003784"}', 'root_role', 'role: l4 8-byte direct wux nxe ad smm cr0_wp'],
    ['kvm_pio: pio_write at 0xe0 size 1 count 1 val 0x11 ', 'val', 'number: 0x11 = 17, bits 4, 0'],
    ['kvm_mmu_get_page: sp gen 0 gfn 10 l4 8-byte q0 wux nxe ad root 0 sync new', 'gen', 'number: 0x0 = 0, no bit set'],
  ];
  for (const [text, name, wanted, options] of cases) {
    it(`${name} of ${text.split('\n').at(-1)!.slice(0, 70)}`, () =>
      assert.equal(line(hover(text, name, options)[0]), wanted));
  }

  it('says both when the line does not tell the vendor', () => {
    const [, fault] = INTEL_SHADOW;
    const both = hover(fault, 'error_code');
    assert.deepEqual(
      both.map((e) => e.as),
      ['pfec', 'ept-qualification', 'npf'],
    );
    assert.match(both[0].notes[0], /On VMX with EPT the exit qualification, on SVM with NPT EXITINFO1/);
    assert.deepEqual(
      hover(fault, 'error_code', { vendor: 'intel' }).map((e) => e.as),
      ['pfec', 'ept-qualification'],
    );
    assert.deepEqual(
      hover(fault, 'error_code', { vendor: 'amd' }).map((e) => e.as),
      ['pfec', 'npf'],
    );
    assert.deepEqual(
      hover(fault, 'error_code', { vendor: 'intel', pagingType: 'ept' }).map((e) => e.as),
      ['ept-qualification'],
    );
    assert.deepEqual(
      hover(fault, 'error_code', { vendor: 'intel', pagingType: 'legacy' }).map((e) => e.as),
      ['pfec'],
    );
  });

  it('goes by the nearest kvm_exit of the same vCPU', () => {
    const other = INTEL_EPT[0].replace('vcpu 0', 'vcpu 1');
    const text = [INTEL_SHADOW[0], other, INTEL_SHADOW[1]].join('\n');
    assert.deepEqual(
      hover(text, 'error_code').map((e) => e.as),
      ['pfec'],
    );
  });

  it('tells the level of an spte and of a guest entry', () => {
    const large = 'kvm_tdp_mmu_spte_changed: as id 0 gfn 800 level 2 old_spte 0 new_spte 600000002c00bf7';
    assert.equal(
      hover(large, 'new_spte', { vendor: 'intel' })[0].summary,
      '2M leaf pfn 0x2c00 rwx WB+IPAT AD host-writable mmu-writable',
    );
    const leaf = hover('kvm_mmu_paging_element: pte 1003 level 1', 'pte');
    assert.equal(leaf[0].summary, '4K page at 0x1000 P W');
    assert.ok(
      leaf.some((e) => e.as === 'epte'),
      'the walker of shadow EPT prints the same event',
    );
  });

  it('knows that the TDP MMU of an Intel host writes EPT entries', () => {
    const text = 'kvm_tdp_mmu_spte_changed: as id 0 gfn 0 level 4 old_spte 0 new_spte 84ed907';
    const told = hover(text, 'old_spte', { vendor: 'intel', kernel: 'v6.1' });
    assert.deepEqual(told.map(line), ['spte: empty entry, EPT violation (bits 2:0 = 000b)']);
    assert.equal(hover(text, 'old_spte', { vendor: 'amd', kernel: 'v6.1' })[0].summary, 'empty entry, not-present #PF');
  });

  it('leaves out layouts in which the value has reserved bits', () => {
    const told = hover('kvm_mmu_paging_element: pte 12007 level 3', 'pte');
    assert.deepEqual(told.map(line), ['gpte: table at 0x12000 P W U', 'epte: table at 0x12000 rwx']);
  });

  it('finds the name itself when only the line is given', () => {
    const text = 'kvm_mmu_set_spte: gfn 1 spte 29c0a21 (r-x-) level 1 at 8031008';
    assert.equal(first(0x29c0a21n, { context: text }).as, 'spte');
    assert.equal(first(0x1n, { context: text }).as, 'gfn');
    assert.equal(first(0x29c0a21n, { context: 'nothing of it here' }).as, 'spte', 'judged by itself');
  });
});

describe('explanations as text', () => {
  const all = explain(0x600000012345b77n, { kernel: 'v6.1', vendor: 'intel', level: 1 });

  it('plain', () => {
    const text = explanationToText(all);
    const [title, summary, r] = text.split('\n');
    assert.equal(title, 'spte, EPT, v6.1');
    assert.equal(summary, '  leaf pfn 0x12345 rwx WB+IPAT AD host-writable mmu-writable');
    assert.match(r, /^ +0 {2}r +1 {2}Read\.$/);
    assert.match(text, /\n {2}0: large, ad_type\n/);
    assert.match(text, /\nor\n {2}guest /);
  });

  it('Markdown, with cells that hold a |', () => {
    const text = explanationToMarkdown(all);
    assert.match(text, /^\*\*spte, EPT, v6\.1\*\*\n\n`leaf pfn/);
    assert.match(text, /\| 51:12 \| pfn \| 0x12345 \(address 0x12345000\) \|/);
    const role = explanationToMarkdown(explain(0x00104720n, { as: 'role', kernel: 'v4.1' }));
    for (const row of role.split('\n').filter((l) => l.startsWith('| '))) {
      assert.equal(row.replaceAll('\\|', '').split('|').length, 6, row);
    }
  });

  it('cut the list of others, and say so', () => {
    const many = explain(0x4223a21n);
    assert.ok(many.length > 4);
    assert.match(explanationToText(many, 2), new RegExp(`and ${many.length - 3} more$`));
    assert.match(explanationToMarkdown(many, 2), new RegExp(`and ${many.length - 3} more$`));
    assert.ok(!explanationToText(many[0]).includes('\nor\n'));
  });
});
