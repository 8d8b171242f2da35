import assert from 'node:assert/strict';
import { GUEST, inGuest, onlyFinding } from './testing/helpers';

const one = (text: string): string => {
  const list = inGuest(text);
  assert.equal(list.length, 1, list.join('\n') || 'no finding');
  return list[0];
};
const none = (text: string): void => assert.deepEqual(inGuest(text), []);

describe('what KVM will say', () => {
  it('tells the errno of a memslot that it refuses, and why', () => {
    assert.equal(
      one('memslot add id 1 gpa 1M size 4K host low'),
      '1:1 memslot KVM refuses this with -EEXIST: [0x100000, 0x101000) overlaps slot 0:0 at [0x0, 0x200000) of the same address space; ' +
        'if that is the point, write expect errno EEXIST on the next line',
    );
    assert.match(
      one('memslot add id 1 gpa 0x400100 size 4K host low'),
      /refuses this with -EINVAL: guest_phys_addr 0x400100 is not page aligned/,
    );
    assert.match(
      one('memslot add id 1 gpa 4M size 0x1100 host low'),
      /-EINVAL: memory_size 0x1100 is not a multiple of the page size/,
    );
    assert.match(
      one('memslot add id 40000 gpa 4M size 4K host low'),
      /-EINVAL: slot id 40000 is not below KVM_USER_MEM_SLOTS/,
    );
    assert.match(
      one('memslot add id 1 gpa 0xf_0000_0000_0000 size 4K host low'),
      /-EINVAL: last gfn .* is above kvm_mmu_max_gfn/,
    );
    assert.match(one('memslot delete id 7'), /-EINVAL: slot 0:7 does not exist/);
    assert.match(one('memslot add id 0 gpa 0 size 1M host low'), /-EINVAL: .*its size cannot be changed/);
  });

  it('accepts the same ranges in the other address space', () => none('memslot add as 1 id 0 gpa 0 size 2M host low'));

  it('is silent when the refusal is the point', () => {
    none('memslot add id 1 gpa 1M size 4K host low\nexpect errno EEXIST');
    none(
      'memslot add id 1 gpa 1M size 4K host low\nnote "overlap"\nexpect no event memslot_changed\nexpect errno EEXIST',
    );
  });

  it('warns when the scenario expects something else', () => {
    assert.match(
      one('memslot add id 1 gpa 1M size 4K host low\nexpect errno EINVAL'),
      /expects EINVAL, but KVM refuses this with -EEXIST/,
    );
    assert.match(
      one('memslot add id 1 gpa 4M size 4K host low\nexpect errno EEXIST'),
      /KVM accepts this, but the scenario expects EEXIST/,
    );
    assert.match(one('memslot add id 1 gpa 1M size 4K host low\nexpect errno 0'), /expects success, but KVM refuses/);
    none('memslot add id 1 gpa 4M size 4K host low\nexpect errno 0');
  });

  it('follows slots as they move and go', () => {
    none(
      'memslot add id 1 gpa 4M size 1M host low\nmemslot move id 1 gpa 5M\nmemslot add id 2 gpa 4M size 1M host low\nmemslot delete id 1\nmemslot add id 3 gpa 5M size 1M host low',
    );
    assert.match(one('memslot add id 1 gpa 4M size 1M host low\nmemslot move id 1 gpa 1M'), /-EEXIST/);
  });

  it('knows kernels with one address space', () => {
    assert.match(
      onlyFinding('machine { kernel v4.1 }\nbacking low 4K\nmemslot add as 1 id 0 gpa 0 size 4K host low').message,
      /-EINVAL: address space 1 does not exist: v4.1 has 1/,
    );
  });

  it('finds backings that cannot be mapped', () => {
    assert.match(
      onlyFinding('backing a 2M hva 0x7f0000000000\nbacking b 2M hva 0x7f0000100000').message,
      /overlaps backing "a"/,
    );
  });

  it('finds guest memory that user space does not have', () => {
    assert.match(one('qword 8M = 1'), /no-memslot no memslot of address space 0 holds gpa 0x800000 here/);
    assert.match(one('qword as 1 0 = 1'), /no-memslot no memslot of address space 1 holds gpa 0x0 here/);
    none('qword 0 = 1\nqword low = 1');
  });

  it('knows what KVM_SET_SREGS refuses', () => {
    const vcpu = (registers: string, machine = ''): string =>
      onlyFinding(`machine {\n  ${machine}\n}\nvcpu 0 { ${registers} }`).message;
    assert.match(vcpu('cr0 PG  cr4 0  efer 0'), /-EINVAL: CR0.PG needs CR0.PE/);
    assert.match(vcpu('cr0 PG|PE  cr4 0  efer LME'), /-EINVAL: EFER.LME with CR0.PG needs CR4.PAE/);
    assert.match(vcpu('cr0 PE  cr4 PAE  efer LMA'), /-EINVAL: EFER.LMA needs EFER.LME and CR0.PG/);
    assert.match(
      vcpu('cr0 PG|PE  cr3 0x400000000000  cr4 PAE  efer LME'),
      /cr3 0x400000000000 lies beyond the guest's MAXPHYADDR of 46/,
    );
    assert.match(vcpu('cr0 PE  cr4 SMEP  efer 0', 'features nx'), /cr4.SMEP needs the guest feature smep/);
    assert.match(vcpu('cr0 PE  cr4 0  efer NXE', 'features none'), /efer.NXE needs the guest feature nx/);
    assert.match(one('setregs { cr4 0 }'), /EFER.LME with CR0.PG needs CR4.PAE/);
    none('setregs { cr3 0x20000 }\nsetregs { cr0 PE  efer 0 }\nsetregs { cr4 0 }');
  });

  it('knows addresses that no translation has', () => {
    assert.match(
      one('load 4 [0x8000_0000_0000]'),
      /non-canonical 0x800000000000 is not canonical: bits 63 to 47 must be equal/,
    );
    none('load 4 [0x8000_0000_0000]\nexpect #GP error 0');
    none('load 4 [0xffff_8000_0000_0000]');
    none('setregs { cr0 PE  efer 0 }\nload 4 [0x1000]');
    assert.match(one('setregs { cr0 PE  efer 0 }\nload 4 [0x1_0000_0000]'), /does not fit the 32-bit linear addresses/);
    none('smi\nload 4 [0x1_0000_0000]');
    assert.match(one('map 0x8000_0000_0000 -> 0'), /no page-table entry belongs to it/);
    assert.match(one('map 0x200000 -> 0x400000000000'), /beyond-maxphyaddr .* fault with RSVD/);
  });

  it('follows control registers through the guest’s own writes', () => {
    const la57 = `${GUEST.replace('kernel v6.1', 'kernel v6.1\n  features nx, lm, la57').replace('cr4 PAE', 'cr4 PAE|LA57')}load 4 [0x8000_0000_0000]\n`;
    assert.deepEqual(inGuest(''), []);
    assert.deepEqual(onlyFinding(`${la57}load 4 [0x100_0000_0000_0000]`).message.includes('bits 63 to 56'), true);
  });

  it('knows which tables translate what', () => {
    assert.match(one('expect spte gva 0 is leaf'), /ept translates guest-physical addresses: write expect spte gpa/);
    assert.match(one('expect cpu_role.smn 0'), /has no field 'smn'; did you mean 'smm'\?/);
    assert.match(one('expect root_role.leval 0'), /has no field 'leval'; did you mean 'level'\?/);
    none('expect cpu_role.smm 0\nexpect cpu_role.ext.cr4_smep 0\nexpect root_role.direct 1');
    assert.match(
      onlyFinding('machine { kernel v4.4 }\nvcpu 0 { cr0 PE }\nexpect cpu_role.smm 0').message,
      /kernel v4.4 has no cpu_role/,
    );
  });
});
