/** struct kvm_mmu of a vCPU: its role words decoded, its roots, its permission bitmap, and where each role bit comes from. */
import type { CpuState } from '../../hw/regs';
import { INVALID_PAGE, is_guest_mode, is_smm, type KvmMmu, type KvmVcpu } from '../../kvm/kvm_host';
import { kvm_mmu_get_tdp_level, tdp_has_smep } from '../../kvm/mmu/calc_role';
import { mmu_role_word, role_get } from '../../kvm/roles';
import { SvmNested } from '../../kvm/svm_nested';
import { VmxNested } from '../../kvm/vmx_nested_state';
import { nested_ept_ad_enabled } from '../../kvm/vmx_nested_ept';
import { formatHex } from '../../words/address';
import { CR0, CR4, EFER } from '../../words/controls';
import type { Formula, Inputs } from '../../words/formula';
import { mmuUseOf, originText, originsOf } from '../../words/role-origins';
import { mmuWords } from '../../words/roles';
import { decodeWord, fieldOf, type Decoded, type WordLayout } from '../../words/word';
import { hexLeaf, leaf, struct, wordNode } from '../nodes';
import { formatMemoryReference, type MmuState, type MmuWord, type TreeNode } from '../target';

const registerInputs = ({ cr0, cr4, efer }: Pick<CpuState, 'cr0' | 'cr4' | 'efer'>): Inputs => {
  const bit = (layout: WordLayout, value: bigint, name: string): number => Number(fieldOf(layout, value, name));
  return {
    'CR0.PG': bit(CR0, cr0, 'PG'),
    'CR0.WP': bit(CR0, cr0, 'WP'),
    'CR4.PSE': bit(CR4, cr4, 'PSE'),
    'CR4.PAE': bit(CR4, cr4, 'PAE'),
    'CR4.LA57': bit(CR4, cr4, 'LA57'),
    'CR4.SMEP': bit(CR4, cr4, 'SMEP'),
    'CR4.SMAP': bit(CR4, cr4, 'SMAP'),
    'CR4.PKE': bit(CR4, cr4, 'PKE'),
    'EFER.LMA': bit(EFER, efer, 'LMA'),
    'EFER.NX': bit(EFER, efer, 'NX'),
  };
};

/**
 * What the names in the formulas of an MMU's roles are. An MMU that is not in use keeps the roles of another time, and guest_mmu goes by
 * what L1 had when it entered L2: where the model does not remember that, the registers stay unknown.
 */
export function roleInputs(vcpu: KvmVcpu, mmu: KvmMmu): Inputs {
  const m = vcpu.kvm.machine;
  const always: Inputs = {
    ad_enabled: m.spte.kvm_ad_enabled ? 1 : 0,
    tdp_level: kvm_mmu_get_tdp_level(vcpu),
    tdp_has_smep: tdp_has_smep(m) ? 1 : 0,
    // The model does not offer it to L1.
    l1_mbec: 0,
    maxphyaddr: vcpu.maxphyaddr,
  };
  if (vcpu.mmu !== mmu && vcpu.walk_mmu !== mmu) return always;
  const now: Inputs = { ...always, is_smm: is_smm(vcpu) ? 1 : 0, is_guest_mode: is_guest_mode(vcpu) ? 1 : 0 };
  if (mmu !== vcpu.guest_mmu) return { ...now, ...registerInputs(vcpu.regs) };
  if (vcpu.nested instanceof SvmNested) return { ...now, ...registerInputs(vcpu.nested.l1) };
  if (!(vcpu.nested instanceof VmxNested)) return now;
  const levels = Number((m.nestedPgd(vcpu) >> 3n) & 7n) + 1;
  return { ...now, eptp_level: levels, eptp_ad: nested_ept_ad_enabled(vcpu.nested) ? 1 : 0, execonly: 1 };
}

/**
 * The origin of each field of a role word, with the values that it depends on: `CR4.SMEP && !CR0.WP (CR4.SMEP=1 CR0.WP=0)`. KVM looks
 * again only when it hears of a change: a guest that owns CR0.WP can be ahead of its role, which is said.
 */
function becauseOf(origins: ReadonlyMap<string, Formula>, decoded: Decoded, inputs: Inputs): Record<string, string> {
  const because: Record<string, string> = {};
  for (const { field, value } of decoded.fields) {
    const origin = origins.get(field.name);
    if (origin === undefined) continue;
    const now = origin.evaluate(inputs);
    const older = now !== undefined && BigInt(now) !== value ? `, which is ${now} now: the role is older` : '';
    because[field.name] = originText(origin, inputs) + older;
  }
  return because;
}

/**
 * The role words that a kernel's struct kvm_mmu has. Origins are told where they are the words of the machine's own kernel.
 * @param kernel whose layouts to read them by
 */
export function roleWords(vcpu: KvmVcpu, mmu: KvmMmu, kernel: string): MmuWord[] {
  const m = vcpu.kvm.machine;
  const use = mmuUseOf(mmu.name, m.config.paging, m.config.vendor);
  const inputs = roleInputs(vcpu, mmu);
  // Words that were never computed, or that KVM_SET_CPUID2 made invalid, come from nowhere.
  const R = m.roles;
  const computed = R.extLayout === null ? mmu.cpu_role_base !== 0 : role_get(mmu.cpu_role_ext, R.ext_valid) === 1;
  const own = mmuWords(m.caps.kernel).words;
  return mmuWords(kernel).words.map(({ name, layout }) => {
    const decoded = decodeWord(layout, mmu_role_word(R, mmu, name));
    const told = computed && own.some((w) => w.name === name && w.layout.id === layout.id);
    return { name, decoded, because: told ? becauseOf(originsOf(kernel, name, use), decoded, inputs) : {} };
  });
}

const hpaOrNull = (hpa: number): bigint | null => (hpa === INVALID_PAGE ? null : BigInt(hpa));

export function mmuStates(vcpu: KvmVcpu, kernel: string): MmuState[] {
  return [vcpu.root_mmu, vcpu.guest_mmu, vcpu.nested_mmu].map((mmu) => ({
    name: mmu.name,
    active: vcpu.mmu === mmu,
    walk: vcpu.walk_mmu === mmu,
    words: roleWords(vcpu, mmu, kernel),
    inputs: roleInputs(vcpu, mmu),
    rootHpa: hpaOrNull(mmu.root.hpa),
    pgd: mmu.root.hpa === INVALID_PAGE ? null : mmu.root.pgd,
    prevRoots: mmu.prev_roots.filter((r) => r.hpa !== INVALID_PAGE).map((r) => ({ pgd: r.pgd, hpa: BigInt(r.hpa) })),
  }));
}

/** The node of one MMU; the vCPU's other MMUs are shown only when they are in use. */
export function mmuNode(vcpu: KvmVcpu, mmu: KvmMmu, kernel: string): TreeNode {
  const uses = [vcpu.mmu === mmu ? 'vcpu->arch.mmu' : '', vcpu.walk_mmu === mmu ? 'vcpu->arch.walk_mmu' : ''].filter(
    Boolean,
  );
  return struct(
    mmu.name,
    uses.length ? `struct kvm_mmu (${uses.join(', ')})` : 'struct kvm_mmu',
    () => [
      ...roleWords(vcpu, mmu, kernel).map(({ name, decoded, because }) =>
        wordNode(name, decoded, { because, evaluateName: `${mmu.name}.${name}` }),
      ),
      rootNode('root', mmu.root.pgd, mmu.root.hpa, `${mmu.name}.root`),
      struct(
        'prev_roots',
        `${mmu.prev_roots.filter((r) => r.hpa !== INVALID_PAGE).length} valid`,
        () => mmu.prev_roots.map((r, i) => rootNode(`[${i}]`, r.pgd, r.hpa, `${mmu.name}.prev_roots[${i}]`)),
        { evaluateName: `${mmu.name}.prev_roots` },
      ),
      permissionsNode(mmu),
      hexLeaf('pkru_mask', mmu.pkru_mask, { type: 'two bits per page-fault error code >> 1: which of AD, WD apply' }),
      ...(['page_fault', 'gva_to_gpa', 'sync_page', 'invlpg', 'inject_page_fault'] as const).map((slot) =>
        leaf(slot, mmu[slot] ?? 'NULL', { type: 'function slot' }),
      ),
      rsvdNode('guest_rsvd_check', mmu.guest_rsvd_check, 'reserved bits of guest entries'),
      rsvdNode('shadow_zero_check', mmu.shadow_zero_check, 'bits that are 0 in sptes'),
    ],
    { evaluateName: mmu.name },
  );
}

function rootNode(name: string, pgd: bigint, hpa: number, evaluateName: string): TreeNode {
  if (hpa === INVALID_PAGE)
    return leaf(name, 'INVALID_PAGE', { type: 'no root: KVM makes one at the next entry', evaluateName });
  return struct(
    name,
    `hpa ${formatHex(hpa)} pgd ${formatHex(pgd)}`,
    () => [
      hexLeaf('hpa', hpa, {
        memoryReference: formatMemoryReference({ space: { kind: 'hpa' }, address: BigInt(hpa) & ~0xfffn }),
      }),
      hexLeaf('pgd', pgd, { type: 'CR3, EPTP or nCR3 that the root was built for' }),
    ],
    {
      evaluateName,
      memoryReference: formatMemoryReference({ space: { kind: 'hpa' }, address: BigInt(hpa) & ~0xfffn }),
    },
  );
}

/** permissions[16]: per page-fault error code >> 1, the accesses (x=1 w=2 u=4) that fault. */
function permissionsNode(mmu: KvmMmu): TreeNode {
  const bytes = [...mmu.permissions];
  return struct(
    'permissions',
    bytes.map((b) => b.toString(16).padStart(2, '0')).join(' '),
    () =>
      bytes.map((byte, i) => {
        const pfec =
          [i & 1 && 'W', i & 2 && 'U', i & 4 && 'AC or implicit', i & 8 && 'F'].filter(Boolean).join('|') ||
          'supervisor read';
        const faults = Array.from({ length: 8 }, (_, access) => access).filter((a) => (byte >> a) & 1);
        const names = faults.map((a) => `${a & 4 ? 'u' : '-'}${a & 2 ? 'w' : '-'}${a & 1 ? 'x' : '-'}`);
        return leaf(
          `[${i}]`,
          `0x${byte.toString(16).padStart(2, '0')} ${pfec}: ${names.length ? `faults on ${names.join(' ')}` : 'never faults'}`,
        );
      }),
    {
      type: 'bit a of byte i: an access of error code i << 1 to a page with rights a faults',
      evaluateName: `${mmu.name}.permissions`,
    },
  );
}

function rsvdNode(
  name: string,
  check: { lo: Uint32Array; hi: Uint32Array; bad_mt_xwr: bigint },
  type: string,
): TreeNode {
  return struct(
    name,
    '',
    () => [
      ...Array.from({ length: 10 }, (_, i) => {
        const mask = (BigInt(check.hi[i]) << 32n) | BigInt(check.lo[i]);
        return hexLeaf(`rsvd_bits_mask[${i < 5 ? 0 : 1}][${i % 5}]`, mask, {
          type: `level ${(i % 5) + 1}${i < 5 ? '' : ', bit 7 set'}`,
        });
      }),
      hexLeaf('bad_mt_xwr', check.bad_mt_xwr),
    ],
    { type },
  );
}
