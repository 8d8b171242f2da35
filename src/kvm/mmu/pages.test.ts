import assert from 'node:assert/strict';
import { insnLoad } from '../../hw/insn';
import { segment } from '../../hw/regs';
import { auditMachine, findingText } from '../audit';
import { Machine, machineConfig } from '../machine';
import { parseKernel } from '../../words/kernels';
import { role_get, role_put, RoleCodec } from '../roles';

/** Where the tables of the 32-bit guest are, and what its second directory entry maps as one page of 4 MB. */
const PD = 0x1000;
const PT = 0x2000;

/**
 * A guest without paging, or one with 32-bit tables: the first 4 MB by a table, the second 4 MB by one large entry, both of the same
 * memory. The host has 4K pages, so shadow paging and EPT need a table for the large entry.
 * @returns the roles of all pages after accesses in both halves of both, each once: level, direct, bit 4, quadrant
 */
function roles(kernel: string, paging: 'ept' | 'shadow', guest: 'none' | '32-bit'): string[] {
  const m = new Machine(machineConfig({ kernel, paging, tdp_mmu: false, features: ['pse', 'nx'] }));
  const mem = m.backing('mem', 0x400000);
  m.set_user_memory_region({ as_id: 0, id: 0, flags: 0, gpa: 0, size: 0x400000, hva: mem.hva });
  const entries = new Uint32Array(0x400);
  entries[0] = PT | 0x7;
  entries[1] = 0x87;
  m.writeBacking('mem', PD, new Uint8Array(entries.buffer));
  m.writeBacking('mem', PT, new Uint8Array(Uint32Array.from({ length: 0x400 }, (_, i) => i * 4096 + 7).buffer));
  const vcpu = m.addVcpu();
  const data = segment({ selector: 0x10, db: 1 });
  const flat = { cs: segment({ selector: 8, type: 0xb, db: 1 }), ss: data, ds: { ...data }, es: { ...data } };
  const cr0 = guest === 'none' ? 0x21n : 0x80010021n;
  m.setRegs(vcpu, { cr0, cr3: BigInt(PD), cr4: 0x10n, efer: 0n, idtr: null, ...flat });
  vcpu.regs.ripKnown = false;
  const halves = [0x5000, 0x205000, ...(guest === 'none' ? [] : [0x405000, 0x605000])];
  for (const at of halves) assert.equal(m.run(vcpu, insnLoad(BigInt(at), 4)).end, 'done');
  assert.deepEqual(auditMachine(m).map(findingText), []);
  const R = m.roles;
  const texts = [...m.kvm.sp_by_pfn.values()].map(({ role }) => {
    const [level, direct, bit4, quadrant] = [R.level, R.direct, R.gpteSize, R.quadrant].map((f) => role_get(role, f));
    return `l${level} ${direct ? 'direct' : 'shadow'} ${bit4} q${quadrant}`;
  });
  return [...new Set(texts)].sort();
}

/** Bit 4 is cr4_pae, gpte_is_8_bytes, has_4_byte_gpte. */
const FORMS = {
  cr4_pae: ['v3.11', 'v4.1', 'v4.4', 'v4.19', 'v4.20', 'v5.0', 'spp-rfc-2018'],
  gpte_is_8_bytes: ['v5.1', 'v5.10', 'v5.14', 'v5.16', 'spp-v12'],
  has_4_byte_gpte: ['v5.17', 'seed1', 'v5.19', 'v6.1', 'v7.3'],
} as const;

describe('role.access', () => {
  it('is exec 1, write 2, user 4 up to v7.1, then read 1, write 2, user 4, exec 8', () => {
    const written = (kernel: string, access: number, ept = false, mbec = 0) => {
      const R = new RoleCodec(parseKernel(kernel));
      return role_get(R.putAccess(role_put(0, R.cr4_smep, mbec), access, ept), R.access);
    };
    assert.deepEqual([7, 5, 3, 0].map((a) => written('v7.1', a)), [7, 5, 3, 0]); // prettier-ignore
    assert.deepEqual([7, 5, 3, 0].map((a) => written('v7.2', a)), [15, 13, 11, 1]); // prettier-ignore
    // In EPT 4 is reading; user execution goes by execution, and there is none without MBEC.
    assert.deepEqual([7, 6, 4, 1].map((a) => written('v7.2', a, true)), [11, 3, 1, 8]); // prettier-ignore
    assert.deepEqual([7, 6, 4, 1].map((a) => written('v7.2', a, true, 1)), [15, 3, 1, 12]); // prettier-ignore
    for (const kernel of ['v4.4', 'v7.1', 'v7.3'])
      for (const ept of [false, true]) {
        const R = new RoleCodec(parseKernel(kernel));
        for (let a = 0; a < 8; a++) assert.equal(R.getAccess(R.putAccess(0, a, ept), ept), a, `${kernel} ${a} ${ept}`);
      }
  });
});

describe('the role of a page, by what it shadows', () => {
  for (const form of ['cr4_pae', 'gpte_is_8_bytes', 'has_4_byte_gpte'] as const)
    for (const kernel of FORMS[form]) {
      const eight = form === 'gpte_is_8_bytes' ? 1 : 0;
      it(`${kernel}: a guest without paging has direct pages, which have no guest entries (${form})`, () => {
        const direct = ['l1', 'l2'].map((level) => `${level} direct ${eight} q0`);
        assert.deepEqual(roles(kernel, 'shadow', 'none'), direct);
      });

      it(`${kernel}: pages of EPT are direct and have no quadrant, whatever the guest's paging (${form})`, () => {
        const direct = ['l1', 'l2', 'l3', 'l4'].map((level) => `${level} direct ${eight} q0`);
        assert.deepEqual(roles(kernel, 'ept', '32-bit'), direct);
      });

      it(`${kernel}: a page inside a large page of a 32-bit guest is direct and has a quadrant (${form})`, () => {
        const four = form === 'has_4_byte_gpte' ? 1 : 0;
        // From v5.17 on the direct page keeps what its parent says.
        const inside = form === 'gpte_is_8_bytes' ? 1 : four;
        assert.deepEqual(roles(kernel, 'shadow', '32-bit'), [
          `l1 direct ${inside} q0`,
          `l1 direct ${inside} q1`,
          `l1 shadow ${four} q0`,
          `l1 shadow ${four} q1`,
          ...[0, 1, 2, 3].map((quadrant) => `l2 shadow ${four} q${quadrant}`),
        ]);
      });
    }
});
