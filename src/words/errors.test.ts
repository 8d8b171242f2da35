import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import {
  CR_QUALIFICATION,
  EPT_QUALIFICATION,
  ERRNO,
  INTERRUPTION_INFO,
  IOIO_EXITINFO1,
  IO_QUALIFICATION,
  KVM_EXIT_REASON,
  KVM_EXIT_REASONS,
  NPF_EXITINFO1,
  PFERR,
  PFERR_ERAS,
  PF_ERROR_CODE,
  RET_PF_MEANINGS,
  SPP_QUALIFICATION,
  SVM_EXIT_CODE,
  SVM_EXIT_CODES,
  VMX_EXIT_REASON,
  VMX_EXIT_REASONS,
  eptConversionText,
  eptQualificationToPferr,
  errnoName,
  errnoValue,
  memslotFlagsLayout,
  npfToPferr,
  pferrLayout,
  retPf,
  retPfLayout,
  retPfName,
} from './errors';
import { KERNEL_ERAS } from './kernels';
import type { WordLayout } from './word';
import { decodeWord, encodeWord } from './word';

type Bits = [number, string][];
const reference = JSON.parse(
  readFileSync(new URL('../../test/fixtures/reference/error-codes.json', import.meta.url), 'utf8'),
) as {
  pageFault: Bits;
  pferr: { era: string; inherits: string | null; bits: Bits }[];
  eptViolation: Bits;
  eptToPferr: { qualification: string; v4_4: string; v6_1: string; v7_3: string }[];
  spp: Bits;
  npf: Bits;
  vmxExitReasons: Bits;
  svmExitCodes: [string, string][];
  kvmExitReasons: [number | string, string][];
  retPf: { era: string; names: Record<string, number> }[];
  memFlags: Bits;
  errnos: Record<string, number>;
};

const bitNumbers = (layout: WordLayout) => layout.fields.map((f) => f.lsb);
const numbers = (rows: Bits) => rows.map(([bit]) => bit);
const summary = (layout: WordLayout, value: bigint) => decodeWord(layout, value).summary;

describe('error codes', () => {
  it('have the bits of the manuals', () => {
    assert.deepEqual(bitNumbers(PF_ERROR_CODE), numbers(reference.pageFault));
    assert.deepEqual(bitNumbers(EPT_QUALIFICATION), numbers(reference.eptViolation));
    assert.deepEqual(bitNumbers(SPP_QUALIFICATION), numbers(reference.spp));
    assert.deepEqual(bitNumbers(NPF_EXITINFO1), numbers(reference.npf));
    for (const [bit, name] of reference.eptViolation.filter(([, n]) => n.startsWith('EPT_'))) {
      assert.equal(EPT_QUALIFICATION.fields.find((f) => f.lsb === bit)!.source, name);
    }
  });

  for (const [i, ref] of reference.pferr.entries()) {
    it(`PFERR of ${ref.era} has the kernel's bits by the kernel's names`, () => {
      const layout = PFERR_ERAS[i].layout;
      const mine = layout.fields.map((f) => [f.lsb, f.source]);
      const inherited = ref.inherits ? reference.pferr.find((e) => e.era === ref.inherits)!.bits : [];
      const wanted = [...inherited, ...ref.bits].sort(([a], [b]) => a - b);
      assert.deepEqual(mine, wanted);
    });
  }

  it('PFERR is picked by kernel', () => {
    assert.equal(pferrLayout('v4.4').id, 'pferr@v3.6');
    assert.equal(pferrLayout('v4.19').id, 'pferr@v4.19');
    assert.equal(pferrLayout('v5.10').id, 'pferr@v4.19');
    assert.equal(pferrLayout('6.1.176').id, 'pferr@v6.1');
    assert.equal(pferrLayout('6.12.107').id, 'pferr@v6.12');
    assert.equal(pferrLayout('v7.3').id, 'pferr@v7.3');
    for (const { id } of KERNEL_ERAS) assert.ok(pferrLayout(id).fields.length >= 5, id);
    for (const [name, bit] of Object.entries(PFERR)) {
      assert.equal(encodeWord(pferrLayout('v7.3'), { [name]: 1 }), BigInt(bit));
    }
  });

  it('say in words what happened', () => {
    assert.equal(summary(PF_ERROR_CODE, 0x2n), 'supervisor write, not present');
    assert.equal(summary(PF_ERROR_CODE, 0x7n), 'user write, not allowed');
    assert.equal(summary(PF_ERROR_CODE, 0x15n), 'user fetch, not allowed');
    assert.equal(summary(PF_ERROR_CODE, 0x25n), 'user read, not allowed, PK');
    assert.equal(summary(pferrLayout('v6.1'), 0x100000009n), 'supervisor read, reserved bit set, GUEST_FINAL');
    assert.equal(summary(EPT_QUALIFICATION, 0x181n), 'read of the final address, an entry not present');
    assert.equal(summary(EPT_QUALIFICATION, 0x83n), 'read+write of a guest paging entry, an entry not present');
    assert.equal(summary(EPT_QUALIFICATION, 0x1aan), 'write of the final address, EPT allows r-x');
    assert.equal(
      summary(EPT_QUALIFICATION, 0x1001n),
      'read of no linear address, an entry not present, NMI unblocking',
    );
    assert.equal(summary(NPF_EXITINFO1, 0x100000006n), 'write of the final address, not present');
    assert.equal(summary(NPF_EXITINFO1, 0x20000000fn), 'write of a guest paging entry, reserved bit set');
    assert.equal(summary(SPP_QUALIFICATION, 0x800n), 'SPP miss');
    assert.equal(summary(SPP_QUALIFICATION, 0x1000n), 'SPP misconfiguration, NMI unblocking');
  });
});

describe('what KVM makes of a qualification', () => {
  for (const { qualification, ...wanted } of reference.eptToPferr) {
    for (const [era, code] of Object.entries(wanted)) {
      const kernel = era.replace('_', '.');
      it(`${qualification} on ${kernel}: ${code}`, () =>
        assert.equal(eptQualificationToPferr(kernel, BigInt(qualification)), BigInt(code)));
    }
  }

  it('knows the oldest form, MBEC and private memory', () => {
    assert.equal(eptQualificationToPferr('v3.6', 0x18cn), 1n, 'no fetch bit yet');
    assert.equal(eptQualificationToPferr('v3.6', 0x18an), 3n);
    assert.equal(eptQualificationToPferr('v7.3', 0x1c1n), 0x100000000n);
    assert.equal(eptQualificationToPferr('v7.3', 0x102n), 2n, 'bit 8 says nothing without bit 7');
    assert.equal(eptQualificationToPferr('v7.3', 0x1c1n, { mbec: true }), 0x100000001n);
    assert.equal(eptQualificationToPferr('v7.3', 0x2n, { privateGpa: true }), 2n | (1n << 49n));
    assert.match(eptConversionText('6.1.176').formula, /GUEST_FINAL/);
  });

  it('never yields a bit that the era does not have', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 0x1ffffn), fc.constantFrom(...KERNEL_ERAS.map((e) => e.id)), (q, kernel) => {
        assert.equal(decodeWord(pferrLayout(kernel), eptQualificationToPferr(kernel, q)).reserved, 0n);
      }),
    );
  });

  it('passes EXITINFO1 through, cut to 32 bits while the code was a u32', () => {
    assert.equal(npfToPferr('v6.1', 0x10000000fn), 0x10000000fn);
    assert.equal(npfToPferr('v4.4', 0x10000000fn), 0xfn);
  });
});

describe('exit reasons and return values', () => {
  it('have the numbers of the reference', () => {
    for (const [reason, name] of reference.vmxExitReasons) assert.equal(VMX_EXIT_REASONS[reason], name);
    for (const [code, name] of reference.svmExitCodes.slice(1)) {
      assert.equal(`SVM_EXIT_${SVM_EXIT_CODES[Number(code)]}`, name);
    }
    assert.equal(SVM_EXIT_CODES[0x4e], 'EXCP_BASE+PF');
    for (const [value, name] of reference.kvmExitReasons) {
      if (typeof value === 'number') assert.equal(`KVM_EXIT_${KVM_EXIT_REASONS[value]}`, name);
    }
    assert.deepEqual({ ...ERRNO }, reference.errnos);
  });

  it('are said by name', () => {
    assert.equal(summary(VMX_EXIT_REASON, 0x80000021n), 'INVALID_STATE, entry_failure');
    assert.equal(summary(VMX_EXIT_REASON, 48n), 'EPT_VIOLATION');
    assert.equal(summary(VMX_EXIT_REASON, 5n), 'reason 5');
    assert.equal(summary(SVM_EXIT_CODE, 0x400n), 'NPF');
    assert.match(summary(SVM_EXIT_CODE, (1n << 64n) - 1n), /INVALID/);
    assert.equal(summary(KVM_EXIT_REASON, 6n), 'KVM_EXIT_MMIO');
    assert.equal(summary(INTERRUPTION_INFO, 0x80000b0en), 'hardware exception #PF with error code');
    assert.equal(summary(INTERRUPTION_INFO, 0x80000202n), 'NMI');
    assert.equal(summary(INTERRUPTION_INFO, 0x800000ecn), 'external interrupt vector 236');
    assert.equal(summary(INTERRUPTION_INFO, 0xb0en), 'no event');
    assert.equal(summary(CR_QUALIFICATION, 0x314n), 'mov from cr4 to rbx');
    assert.equal(summary(CR_QUALIFICATION, 0x50030n), 'lmsw 0x5');
    assert.equal(summary(IO_QUALIFICATION, 0xe00040n), 'out port 0xe0, 1 byte');
    assert.equal(summary(IO_QUALIFICATION, 0x3f8003bn), 'rep ins port 0x3f8, 4 bytes');
    assert.equal(summary(IOIO_EXITINFO1, 0xe00010n), 'out port 0xe0, 1 byte');
    assert.equal(summary(IOIO_EXITINFO1, 0x3f8004dn), 'rep ins port 0x3f8, 4 bytes');
    assert.equal(decodeWord(CR_QUALIFICATION, 0x300n).fields[3].text, '3 (rbx)');
  });

  for (const { era, names } of reference.retPf.filter((e) => Object.keys(e.names).length > 0)) {
    const kernel = era.startsWith('SPP') ? 'spp-v12' : /v[\d.]+\d/.exec(era)![0];
    it(`RET_PF of ${era} has its numbers`, () => {
      assert.deepEqual(retPf(kernel), names);
      for (const [name, value] of Object.entries(names)) {
        assert.equal(retPfName(kernel, value), name);
        assert.ok(RET_PF_MEANINGS[name], name);
        if (value >= 0) assert.ok(summary(retPfLayout(kernel), BigInt(value)).startsWith(name));
      }
    });
  }

  it('RET_PF numbers move: RETRY is 0, then 1', () => {
    assert.equal(retPfName('v5.10', 0), 'RET_PF_RETRY');
    assert.equal(retPfName('v6.1', 0), 'RET_PF_CONTINUE');
    assert.equal(retPfName('v6.1', -14), '-EFAULT');
    assert.equal(retPfName('v6.1', 99), '99');
    assert.equal(retPfName('v3.6', -1), 'RET_MMIO_PF_BUG');
    assert.equal(summary(retPfLayout('v6.1'), 0xfffffff2n), '-EFAULT');
  });

  it('memslot flags come with the kernels that have them', () => {
    const names = (kernel: string) => memslotFlagsLayout(kernel).fields.map((f) => f.name);
    for (const [bit, name] of reference.memFlags) {
      const kernel = bit === 24 ? 'seed3' : 'v7.3';
      assert.equal(memslotFlagsLayout(kernel).fields.find((f) => f.name === name)?.lsb, bit, name);
    }
    assert.ok(!names('v7.3').includes('KVM_MEM_X86_SMRAM'));
    assert.ok(!names('v6.1').includes('KVM_MEM_GUEST_MEMFD'));
    assert.ok(!names('v3.6').includes('KVM_MEM_READONLY'));
  });

  it('errnos have names both ways', () => {
    assert.equal(errnoName(-22), '-EINVAL');
    assert.equal(errnoName(-1000), '-1000');
    assert.equal(errnoValue('-EEXIST'), 17);
    assert.equal(errnoValue('einval'), 22);
    assert.throws(() => errnoValue('EWHAT'), /the names are EPERM, ENOENT/);
  });
});
