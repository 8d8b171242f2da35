import assert from 'node:assert/strict';
import { hintsOf, looksLikeWord, valueAt } from './values';

/** `^` marks where the pointer is; it is taken out. */
function at(marked: string) {
  const column = marked.indexOf('^');
  return valueAt(marked.replace('^', ''), column);
}
const word = (marked: string) => {
  const found = at(marked);
  return found !== undefined && looksLikeWord(found) ? `${found.name ?? '-'} ${found.value.toString(16)}` : undefined;
};

describe('values under the pointer', () => {
  it('finds words of a trace by the names in front of them', () => {
    assert.equal(word('check_mmio_spte: spte 3e00^000a0046 kvm_gen 8 spte-gen 8 valid 1'), 'spte 3e00000a0046');
    assert.equal(word(' kvm_tdp_mmu_spte_changed: as id 0 gfn 0 level 4 old_spte ^0 new_spte 8644907'), 'old_spte 0');
    assert.equal(
      word(' kvm_tdp_mmu_spte_changed: as id 0 gfn 0 level 4 old_spte 0 new_spte 8644907^'),
      'new_spte 8644907',
    );
    assert.equal(
      word(' kvm_page_fault: vcpu 0 rip 0x1000 address 0x0000000000010000 error_code 0x^83'),
      'error_code 83',
    );
    assert.equal(word(' kvm_mmu_walker_error: pferr ^11 P|F'), 'pferr 11');
    assert.equal(word(' kvm_inj_exception: #PF (0x^3) [reinjected]'), 'error_code 3');
    assert.equal(
      word(' kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x1000 info1 0x000000000000058^4 info2 0x0'),
      'info1 584',
    );
    assert.equal(word(' kvm_mmu_paging_element: pte ^11027 level 4'), 'pte 11027');
    assert.equal(word(' kvm_mmu_set_spte: gfn ^10 spte 600000003088b77 (rwxu) level 1 at 8642080'), 'gfn 10');
  });

  it('finds them in JSON, C and register dumps', () => {
    assert.equal(word('{"event":"kvm_mmu_get_page","role":"0x10^03784"}'), 'role 1003784');
    assert.equal(word('root_role = 0x^3784;'), 'root_role 3784');
    assert.equal(word('CR2: 0000000000201008 CR3: 0000000103c6a000 CR4: 0000000000^372ef0'), 'cr4 372ef0');
    assert.equal(word('pte = 0x8000_0000_^0020_9067'), 'pte 8000000000209067');
  });

  it('takes the first and the one past the last column, and no further', () => {
    assert.equal(at('spte ^4223a21 x')?.start, 5);
    assert.equal(at('spte 4223a21^ x')?.end, 12);
    assert.equal(at('spte 4223a21 ^x'), undefined);
  });

  it('takes long values that nothing says is an address', () => {
    assert.equal(word('see 0x600000003088^b77 there'), 'see 600000003088b77');
    assert.equal(word('[<0000000000^372ef0>]'), '- 372ef0');
    assert.equal(word('rip 0x00000000000100^00'), undefined);
    assert.equal(word('RAX: 00000000000100^00'), undefined);
  });

  it('leaves the numbers of everyday text alone', () => {
    for (const text of [
      'if (n == 0x^10) return;',
      'color: #ff^aa00cc;',
      'commit 7dcd5755^2008 ("KVM")',
      'commit 7dcd5755^20087dcd575520087dcd575520087dcd',
      '12345^67890 bytes',
      'a dead beef c^afe',
      '550e8400-e29b-41d4-a716-4466554400^00',
      'version 6.1.1^76',
      '192.168.100.2^00',
      'kvm_mmu_f^ace',
      '0x1234567890^1234567890 is too long',
      'as gfn 1^0 of it',
      'mark_mmio_spte: sptep:00000000ff1^5d86e gfn 10000',
    ]) {
      assert.equal(word(text), undefined, text);
    }
  });

  it('does not read whole lines of a megabyte', () => {
    const line = `${'f'.repeat(500_000)} spte 4223a21 ${'0'.repeat(500_000)}`;
    const begin = performance.now();
    for (let i = 0; i < 1000; i++) valueAt(line, 500_010);
    assert.equal(valueAt(line, 500_008)?.value, 0x4223a21n);
    assert.ok(performance.now() - begin < 1000);
    for (let column = 0; column < 2000; column += 100) assert.equal(valueAt(line, column), undefined);
  });
});

describe('what a text says of its machine', () => {
  const trace = (reason: string) =>
    `kvmprobe-420 [000] d..1. 1.6: kvm_exit: vcpu 0 reason ${reason} rip 0x1000 info1 0x83`;

  it('knows VMX with EPT, VMX without, SVM with NPT and SVM without', () => {
    assert.deepEqual(hintsOf(trace('EPT_VIOLATION'), 'trace.txt'), { vendor: 'intel', pagingType: 'ept' });
    assert.deepEqual(hintsOf(trace('EXCEPTION_NMI'), 'trace.txt'), { vendor: 'intel', pagingType: 'legacy' });
    assert.deepEqual(hintsOf(trace('npf'), 'trace.txt'), { vendor: 'amd', pagingType: 'legacy' });
    assert.deepEqual(hintsOf(trace('PF excp'), 'trace.txt'), { vendor: 'amd', pagingType: 'legacy' });
    const userspace = 'kvmprobe-420 [000] .....  1.6: kvm_userspace_exit: reason KVM_EXIT_IO (2)';
    assert.deepEqual(hintsOf(`${userspace}\n${trace('npf')}`, 'trace.txt'), { vendor: 'amd', pagingType: 'legacy' });
    assert.deepEqual(hintsOf(userspace, 'trace.txt'), {});
  });

  it('takes the kernel from the name of a trace only', () => {
    assert.equal(hintsOf(trace('npf'), '6.1.176-amd-npt1-tdp1-smm.trace.txt').kernel, 'v6.1.176');
    assert.equal(hintsOf(trace('npf'), 'trace-2024.1.2.txt').kernel, undefined);
    assert.deepEqual(hintsOf('int main(void) { }', 'linux-6.1.c'), {});
  });
});
