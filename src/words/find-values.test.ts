import assert from 'node:assert/strict';
import fc from 'fast-check';
import { findValues, lineFacts } from './find-values';

/** `name=hex` of each value found; a value without name has none before the equals sign. */
const found = (line: string) => findValues(line).map((f) => `${f.name ?? ''}=${f.value.toString(16)}`);

describe('values in a line', () => {
  const lines: readonly [string, string[]][] = [
    // ftrace text of 6.1.176, as the kernel printed it.
    [
      '        kvmprobe-346     [000] ...1.     5.426331: kvm_mmu_set_spte: gfn 1 spte 29c0a21 (r-x-) level 1 at 8031008',
      ['gfn=1', 'spte=29c0a21', 'at=8031008'],
    ],
    [
      'kvm_tdp_mmu_spte_changed: as id 0 gfn 0 level 4 old_spte 0 new_spte 84ed907',
      ['gfn=0', 'old_spte=0', 'new_spte=84ed907'],
    ],
    ['kvm_mmu_pagetable_walk: addr 1000 pferr 10 F', ['addr=1000', 'pferr=10']],
    ['kvm_mmu_pagetable_walk: addr 209000 pferr 0 ', ['addr=209000', 'pferr=0']],
    ['kvm_mmu_paging_element: pte 11027 level 4', ['pte=11027']],
    [
      'check_mmio_spte: spte 83e0010000041 kvm_gen a spte-gen 8 valid 0',
      ['spte=83e0010000041', 'kvm_gen=a', 'spte_gen=8'],
    ],
    ['handle_mmio_page_fault: addr:209000 gfn 10000 access 0', ['addr=209000', 'gfn=10000', 'access=0']],
    [
      'mark_mmio_spte: sptep:000000004ae3700b gfn 10000 access 1 gen 6',
      ['sptep=4ae3700b', 'gfn=10000', 'access=1', 'gen=6'],
    ],
    [
      'fast_page_fault: vcpu 0 gva 10000008 error_code P|W|U sptep 000000009f67dff4 old 0x30a0825 new 30a0825 spurious 0 fixed 0',
      ['gva=10000008', 'sptep=9f67dff4', 'old=30a0825', 'new=30a0825'],
    ],
    [
      'kvm_exit: vcpu 0 reason EXCEPTION_NMI rip 0x1000 info1 0x0000000000001000 info2 0x0000000000000000 intr_info 0x80000b0e error_code 0x00000010',
      ['rip=1000', 'info1=1000', 'info2=0', 'intr_info=80000b0e', 'error_code=10'],
    ],
    ['kvm_exit: reason EPT_VIOLATION rip 0x1000 info 181 0', ['rip=1000', 'info1=181', 'info2=0']],
    ['kvm_page_fault: address 209000 error_code 181', ['address=209000', 'error_code=181']],
    ['kvm_inj_exception: #PF (0x3) [reinjected]', ['error_code=3']],
    ['kvm_cr: cr_write 0 = 0x80050033', ['cr0=80050033']],
    ['kvm_msr: msr_write c0000080 = 0x500', ['msr=c0000080', 'efer=500']],
    ['kvm_mmu_get_page: sp gen 0 gfn 10 l4 8-byte q0 direct wux nxe ad root 0 sync new', ['gen=0', 'gfn=10']],
    ['kvm_pio: pio_write at 0xe0 size 1 count 1 val 0x11 ', ['at=e0', 'val=11']],
    ['vcpu_match_mmio: gva 0x209000 gpa 0x10000000 Read GVA', ['gva=209000', 'gpa=10000000']],
    ['kvm_smm_transition: vcpu 0: entering SMM, smbase 0x30000', ['smbase=30000']],
    // JSON of the same records, and of KVM's structures.
    [
      '{"ts_ns":1270853980,"event":"kvm_mmu_get_page","mmu_valid_gen":0,"gfn":"0x10","role":"0x3704","unsync":0}',
      ['gfn=10', 'role=3704'],
    ],
    ['{"event":"kvm_mmu_get_page","role":14084,"created":1}', ['role=3704']],
    [
      '  "cpu_role":{"as_u64":"0x0000008100003704"}, "root_role":{"word":"0x00003704"}',
      ['cpu_role=8100003704', 'root_role=3704'],
    ],
    // Register dumps of QEMU and of an oops.
    [
      'CR0=80050033 CR2=00007f1203800000 CR3=0000000000010000 CR4=000006f0',
      ['cr0=80050033', 'cr2=7f1203800000', 'cr3=10000', 'cr4=6f0'],
    ],
    ['EFER=0000000000000d01', ['efer=d01']],
    ['#PF: error_code(0x0002) - not-present page', ['error_code=2']],
    ['PGD 10a0e067 P4D 10a0e067 PUD 10a0f067 PMD 0 ', ['pgd=10a0e067', 'p4d=10a0e067', 'pud=10a0f067', 'pmd=0']],
    ['EPT pointer = 0x000000010a0e005e', ['eptp=10a0e005e']],
    // Prose.
    ['the spte 0x600000012345b77 was seen.', ['spte=600000012345b77']],
    ['mask = 0xffff_8000_0000_0000;', ['mask=ffff800000000000']],
    ['0000000012345b77 and 12345b77', ['=12345b77', 'and=12345b77']],
    ['mmu.cpu_role = 0x8100003704', ['cpu_role=8100003704']],
    ['fast_page_fault: vcpu 0 gva 10 error_code F sptep 000000009f67dff4', ['gva=10', 'sptep=9f67dff4']],
    ['kvm_mmu_walker_error: pferr 14 U|F', ['pferr=14']],
    ['word 0000000012345678 alone', ['word=12345678']],
    // Not values: times, versions, words, counts, git hashes, more than 64 bits.
    ['[   12.345678] kvm: nested 2024-01-02 v6.1.176 added face 12 deadbeef_x', []],
    ['stuck at bed 12 at face', []],
    ['commit 0595488db7c7d750aabbccddeeff001122334455', []],
    ['0x12345678901234567', []],
  ];
  for (const [line, values] of lines) {
    it(line.trim().slice(0, 90), () => assert.deepEqual(found(line), values));
  }

  it('says where they stand', () => {
    const line = 'gfn 1 spte 29c0a21 at';
    const spte = findValues(line)[1];
    assert.equal(line.slice(spte.start, spte.end), '29c0a21');
    const prefixed = findValues('x 0xfee00000 y')[0];
    assert.deepEqual([prefixed.start, prefixed.end], [2, 12]);
  });

  it('finds every 0x number wherever it stands', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, (1n << 64n) - 1n), fc.constantFrom('', 'a ', '(', '"k": "', 'spte='), (v, before) => {
        const all = findValues(`${before}0x${v.toString(16)}`);
        assert.deepEqual([all.length, all[0].value, all[0].start], [1, v, before.length]);
      }),
    );
  });

  it('never takes long on any text', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 2000 }), (text) => {
        const start = performance.now();
        for (const f of findValues(text)) assert.ok(f.start < f.end && f.value >= 0n);
        assert.ok(performance.now() - start < 200);
      }),
    );
    const start = performance.now();
    findValues('spte '.repeat(20000));
    findValues('a'.repeat(100000));
    findValues(' : '.repeat(30000));
    assert.ok(performance.now() - start < 1000, `${performance.now() - start} ms`);
  });
});

describe('facts of a line', () => {
  it('knows events, levels, exit reasons and vCPUs', () => {
    const exit = lineFacts(
      '  x-1 [000] d..1. 1.27: kvm_exit: vcpu 3 reason PF excp rip 0x1 info1 0x10 intr_info 0x80000b0e',
    );
    assert.deepEqual([exit.event, exit.reason, exit.vcpu, exit.intrInfo], ['kvm_exit', 'PF excp', 3, 0x80000b0en]);
    assert.equal(lineFacts('kvm_mmu_set_spte: gfn 1 spte 1 (rwxu) level 2 at 8').level, 2);
    assert.equal(lineFacts('kvm_mmu_set_spte: gfn 1 spte 1 (rwxu) level 2 at 8').rights, 'rwxu');
    assert.equal(lineFacts('{"event":"kvm_tdp_mmu_spte_changed","level":3}').level, 3);
    assert.equal(lineFacts('{"event":"kvm_tdp_mmu_spte_changed","level":3}').event, 'kvm_tdp_mmu_spte_changed');
    assert.equal(lineFacts('qemu-1 [001] 5.1: kvmmmu:mark_mmio_spte: sptep:0 gfn 1').event, 'mark_mmio_spte');
    assert.deepEqual(lineFacts('some text'), {
      event: undefined,
      vcpu: undefined,
      level: undefined,
      reason: undefined,
      rights: undefined,
      intrInfo: undefined,
    });
  });
});
