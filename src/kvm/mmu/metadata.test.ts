import assert from 'node:assert/strict';
import { Machine, machineConfig, type MachineConfig } from '../machine';
import { detect_write_misaligned, get_written_sptes } from './pte_write';
import { __reset_rsvds_bits_mask_ept, rsvdMask, rsvd_bits } from './metadata';
import { RsvdBitsValidate } from '../kvm_host';

const CR0_PG = 0x80000001n;
const WP = 0x10000n;
const SMEP = 1n << 20n;
const SMAP = 1n << 21n;
const PKE = 1n << 22n;

function mmuOf(cr0: bigint, cr4: bigint, efer: bigint, config: Partial<MachineConfig> = {}) {
  const m = new Machine(machineConfig({ features: ['nx', 'lm', 'smep', 'smap', 'pku'], ...config }));
  const low = m.backing('low', 0x10000);
  m.set_user_memory_region({ as_id: 0, id: 0, flags: 0, gpa: 0, size: 0x10000, hva: low.hva });
  const vcpu = m.addVcpu();
  m.setRegs(vcpu, { cr0, cr4, efer });
  return vcpu.root_mmu;
}

const bytes = (a: Uint8Array): string => Array.from(a, (b) => b.toString(16).padStart(2, '0')).join(' ');

describe('permission bitmap (update_permission_bitmask)', () => {
  const LME = 0x100n;
  const cases: [string, bigint, bigint, bigint, string][] = [
    ['NX=1 WP=1', CR0_PG | WP, 0x20n, LME | 0x800n, '00 33 0f 3f 00 33 0f 3f 55 77 5f 7f 55 77 5f 7f'],
    [
      'NX=1 WP=1 SMEP SMAP',
      CR0_PG | WP,
      0x20n | SMEP | SMAP,
      LME | 0x800n,
      'f0 f3 0f 3f 00 33 0f 3f f5 f7 5f 7f f5 f7 5f 7f',
    ],
    ['NX=1 WP=0', CR0_PG, 0x20n, LME | 0x800n, '00 00 0f 3f 00 00 0f 3f 55 55 5f 7f 55 55 5f 7f'],
    [
      'NX=1 WP=0 SMEP SMAP',
      CR0_PG,
      0x20n | SMEP | SMAP,
      LME | 0x800n,
      'f0 f0 0f 3f 00 00 0f 3f f5 f5 5f 7f f5 f5 5f 7f',
    ],
    ['NX=0 WP=1', CR0_PG | WP, 0x20n, LME, '00 33 0f 3f 00 33 0f 3f 00 33 0f 3f 00 33 0f 3f'],
  ];
  for (const [name, cr0, cr4, efer, want] of cases)
    it(`${name}: as worked out in the reference`, () => assert.equal(bytes(mmuOf(cr0, cr4, efer).permissions), want));

  it('PKRU mask depends on WP only', () => {
    assert.equal(mmuOf(CR0_PG | WP, 0x20n | PKE, LME).pkru_mask, 0xdd00);
    assert.equal(mmuOf(CR0_PG, 0x20n | PKE, LME).pkru_mask, 0xd500);
    assert.equal(mmuOf(CR0_PG | WP, 0x20n, LME).pkru_mask, 0);
  });
});

describe('reserved-bit masks', () => {
  it('rsvd_bits(a, b) is empty if a > b', () => {
    assert.equal(rsvd_bits(52, 51), 0n);
    assert.equal(rsvd_bits(46, 51), 0x000fc00000000000n);
  });

  it('long mode, MAXPHYADDR 46, no 1G pages, Intel', () => {
    const r = mmuOf(CR0_PG | WP, 0x20n, 0x900n, {
      features: ['nx', 'lm'],
      paging: 'shadow',
      tdp_mmu: false,
    }).guest_rsvd_check;
    assert.equal(rsvdMask(r, 0, 4), 0x000fc00000000080n);
    assert.equal(rsvdMask(r, 0, 3), 0x000fc00000000080n);
    assert.equal(rsvdMask(r, 1, 3), 0x000fc0003fffe080n);
    assert.equal(rsvdMask(r, 0, 2), 0x000fc00000000000n);
    assert.equal(rsvdMask(r, 1, 2), 0x000fc000001fe000n);
    assert.equal(rsvdMask(r, 0, 1), 0x000fc00000000000n);
  });

  it('PAE, MAXPHYADDR 46: bits 52..62 are reserved too', () => {
    const r = mmuOf(CR0_PG | WP, 0x20n, 0x800n).guest_rsvd_check;
    assert.equal(rsvdMask(r, 0, 3), 0xffffc000000001e6n);
    assert.equal(rsvdMask(r, 1, 2), 0x7fffc000001fe000n);
    assert.equal(rsvdMask(r, 0, 1), 0x7fffc00000000000n);
  });

  it('EPT tables and the memory-type/permission set', () => {
    const r = new RsvdBitsValidate();
    __reset_rsvds_bits_mask_ept(r, rsvd_bits(46, 63), true, 3);
    assert.equal(r.bad_mt_xwr, 0xff444444ffff4444n);
    assert.equal(rsvdMask(r, 0, 4), 0x000fc000000000f8n);
    assert.equal(rsvdMask(r, 0, 3), 0x000fc00000000078n);
    assert.equal(rsvdMask(r, 1, 3), 0x000fc0003ffff000n);
    assert.equal(rsvdMask(r, 1, 2), 0x000fc000001ff000n);
    __reset_rsvds_bits_mask_ept(r, rsvd_bits(46, 63), false, 3);
    assert.equal(r.bad_mt_xwr, 0xff545454ffff5454n);
  });
});

describe('writes to shadowed guest tables', () => {
  it('get_written_sptes: worked numbers of the reference', () => {
    assert.deepEqual(get_written_sptes(false, 1, 0, 0x128), { index: 37, count: 1 });
    assert.deepEqual(get_written_sptes(true, 1, 0, 0x128), { index: 74, count: 1 });
    assert.deepEqual(get_written_sptes(true, 1, 1, 0x928), { index: 74, count: 1 });
    assert.equal(get_written_sptes(true, 1, 1, 0x128), null);
    assert.deepEqual(get_written_sptes(true, 2, 0, 0x010), { index: 8, count: 2 });
    assert.deepEqual(get_written_sptes(true, 2, 1, 0x410), { index: 8, count: 2 });
    assert.deepEqual(get_written_sptes(true, 2, 3, 0xffc), { index: 510, count: 2 });
    assert.equal(get_written_sptes(true, 2, 0, 0x404), null);
  });

  it('detect_write_misaligned: worked numbers of the reference', () => {
    const eight: [number, number, boolean][] = [
      [0x100, 8, false],
      [0x104, 4, false],
      [0x104, 8, true],
      [0x100, 1, false],
      [0x101, 1, true],
      [0x102, 2, true],
    ];
    for (const [gpa, n, want] of eight)
      assert.equal(detect_write_misaligned(false, gpa, n), want, `${gpa.toString(16)},${n}`);
    assert.equal(detect_write_misaligned(true, 0x100, 2), true);
    assert.equal(detect_write_misaligned(true, 0x104, 8), true);
    assert.equal(detect_write_misaligned(true, 0x104, 4), false);
  });
});
