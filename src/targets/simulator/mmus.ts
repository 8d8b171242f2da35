/** struct kvm_mmu of a vCPU: its role words decoded, its roots, its permission bitmap, and where each role bit comes from. */
import type { CpuState } from '../../hw/regs';
import { INVALID_PAGE, is_guest_mode, is_smm, type KvmMmu, type KvmVcpu } from '../../kvm/kvm_host';
import { formatHex } from '../../words/address';
import { CR0, CR4, EFER } from '../../words/controls';
import { mmuWords } from '../../words/roles';
import { decodeWord, fieldOf, type WordLayout } from '../../words/word';
import { hexLeaf, leaf, struct, wordNode } from '../nodes';
import { formatMemoryReference, type MmuState, type MmuWord, type TreeNode } from '../target';

/** Names that the origin of a role bit mentions, with their values now. */
function inputs(vcpu: KvmVcpu): ReadonlyMap<string, bigint> {
  const values = new Map<string, bigint>();
  const add = (prefix: string, layout: WordLayout, value: bigint): void => {
    for (const f of layout.fields) values.set(`${prefix}.${f.name}`, fieldOf(layout, value, f.name));
  };
  const s: CpuState = vcpu.regs;
  add('CR0', CR0, s.cr0);
  add('CR4', CR4, s.cr4);
  add('EFER', EFER, s.efer);
  values.set('EFER.NX', (s.efer >> 11n) & 1n);
  values.set('is_smm(vcpu)', is_smm(vcpu) ? 1n : 0n);
  values.set('is_guest_mode(vcpu)', is_guest_mode(vcpu) ? 1n : 0n);
  return values;
}

/**
 * The origin of each field with the values of the registers that it names: `CR4.SMEP && !CR0.WP (CR4.SMEP=1 CR0.WP=0)`.
 * The tables give origins for the guest's own mode, so a word that describes EPT or NPT keeps only what is not the guest's.
 * @param word the kernel's name of the word
 */
export function becauseOf(word: string, layout: WordLayout, vcpu: KvmVcpu): Record<string, string> {
  const values = inputs(vcpu);
  const ofTdp = word !== 'cpu_role' && vcpu.kvm.machine.tdpEnabled;
  const because: Record<string, string> = {};
  for (const { name, from } of layout.fields) {
    const origin = from && originFor(from, ofTdp);
    if (!origin) continue;
    const named = [...new Set(origin.match(/(?:CR0|CR4|EFER)\.\w+|is_\w+\(vcpu\)/g) ?? [])];
    const known = named.flatMap((n) => (values.has(n) ? [`${n}=${values.get(n)}`] : []));
    because[name] =
      known.length && named.join() !== origin ? `${origin} (${known.join(' ')})` : known.join(' ') || origin;
  }
  return because;
}

/** Where an origin tells the two words apart (`… (cpu_role); … (root_role)`), the half that is meant. */
function originFor(from: string, ofTdp: boolean): string | null {
  const tag = ofTdp ? '(root_role)' : '(cpu_role)';
  const half = from.split(';').find((part) => part.includes(tag));
  if (half) {
    const origin = half.replace(tag, '').trim();
    return /^\d+$/.test(origin) ? 'always so' : origin;
  }
  return ofTdp && /CR[04]\.|EFER\./.test(from) ? null : from;
}

/** A role word's value by the kernel's name for it. */
function wordValue(mmu: KvmMmu, name: string, bits: 32 | 64): bigint {
  const cpu = BigInt(mmu.cpu_role_base >>> 0) | (BigInt(mmu.cpu_role_ext >>> 0) << 32n);
  if (name === 'cpu_role') return cpu;
  const root = BigInt(mmu.root_role >>> 0);
  return bits === 64 ? root | (BigInt(mmu.cpu_role_ext >>> 0) << 32n) : root;
}

/** The role words that this kernel's struct kvm_mmu has. */
export function roleWords(vcpu: KvmVcpu, mmu: KvmMmu, kernel: string): MmuWord[] {
  return mmuWords(kernel).words.map(({ name, bits, layout }) => ({
    name,
    decoded: decodeWord(layout, wordValue(mmu, name, bits)),
    because: becauseOf(name, layout, vcpu),
  }));
}

const hpaOrNull = (hpa: number): bigint | null => (hpa === INVALID_PAGE ? null : BigInt(hpa));

export function mmuStates(vcpu: KvmVcpu, kernel: string): MmuState[] {
  return [vcpu.root_mmu, vcpu.guest_mmu, vcpu.nested_mmu].map((mmu) => ({
    name: mmu.name,
    active: vcpu.mmu === mmu,
    walk: vcpu.walk_mmu === mmu,
    words: roleWords(vcpu, mmu, kernel),
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
