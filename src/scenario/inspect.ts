/** State that `expect` asks for: registers, roles, generations, sptes. Reads only; no look-up is counted. */
import { CR0, GPR_NAMES } from '../hw/regs';
import { checkTlb, type CheckedTlbEntry } from '../hw/tlb-stale';
import { INVALID_PAGE, is_guest_mode, is_smm, type KvmVcpu } from '../kvm/kvm_host';
import type { Machine } from '../kvm/machine';
import { sppt_root_of } from '../kvm/mmu/spp';
import { cpuRoleLayout, pageRoleLayout } from '../words/roles';
import { decodeSpte, type DecodedSpte } from '../words/sptes';
import { fieldOf, type WordLayout } from '../words/word';
import { remedy } from '../words/suggest';

/** A value, or a sentence why there is none. */
export type Reading =
  { readonly value: bigint; readonly text: string | null } | { readonly value: null; readonly text: string };

const ok = (value: bigint | number): Reading => ({ value: BigInt(value), text: null });
const none = (text: string): Reading => ({ value: null, text });

function roleField(layout: WordLayout, word: bigint, field: string | undefined): Reading {
  if (field === undefined) return ok(word);
  const name = roleFieldName(layout, field);
  return name === null ? none(noRoleField(layout, field)) : ok(fieldOf(layout, word, name));
}

/** The full name of a role field; in cpu_role the part (`base.`, `ext.`) may be left out. Null if there is none. */
export const roleFieldName = (layout: WordLayout, field: string): string | null =>
  [field, `base.${field}`, `ext.${field}`].find((n) => layout.fields.some((f) => f.name === n)) ?? null;

/** The sentence for a role field that does not exist. */
export const noRoleField = (layout: WordLayout, field: string): string =>
  `${layout.title} has no field '${field}'${remedy(
    field,
    layout.fields.map((f) => f.name.replace(/^(base|ext)\./, '')),
  )}`;

/** cpu_role as one word: base in the low half, ext in the high half. */
const cpuRole = (vcpu: KvmVcpu): bigint =>
  BigInt(vcpu.mmu.cpu_role_base >>> 0) | (BigInt(vcpu.mmu.cpu_role_ext >>> 0) << 32n);

/**
 * Reads a register or a piece of state by the name that scenarios use.
 * @param lookups memslot searches of the last statement
 */
export function readState(machine: Machine, vcpu: KvmVcpu | null, name: string, lookups: number): Reading {
  const [base] = name.split('.');
  const field = name.includes('.') ? name.slice(base.length + 1) : undefined;
  const kernel = machine.caps.kernel;
  switch (base) {
    case 'generation':
    case 'memslots': {
      const as = field === undefined ? 0 : Number(field);
      const set = machine.kvm.memslots[as];
      if (!set)
        return none(`address space ${field ?? 0} does not exist: ${kernel.name} has ${machine.kvm.memslots.length}`);
      return ok(base === 'generation' ? BigInt.asUintN(64, BigInt(set.generation)) : set.slots.length);
    }
    case 'memslot_lookups':
      return ok(lookups);
    case 'shadow_pages':
      return ok(machine.kvm.sp_by_pfn.size);
    case 'mmu_valid_gen':
      return ok(machine.kvm.mmu_valid_gen);
    default:
  }
  if (vcpu === null) return none('there is no vCPU yet');
  const regs = vcpu.regs;
  const gpr = (GPR_NAMES as readonly string[]).indexOf(name);
  if (gpr >= 0) return ok(regs.gpr[gpr]);
  switch (base) {
    case 'cr0':
    case 'cr2':
    case 'cr3':
    case 'cr4':
    case 'efer':
    case 'rip':
    case 'rflags':
      return ok(regs[base]);
    case 'cpl':
      return ok(regs.cpl);
    case 'pkru':
      return ok(regs.pkru >>> 0);
    case 'code':
      return ok(regs.codeBits);
    case 'smm':
      return ok(is_smm(vcpu) ? 1 : 0);
    case 'smbase':
      return ok(vcpu.smbase);
    case 'guest_mode':
      return ok(is_guest_mode(vcpu) ? 1 : 0);
    case 'cpu_role':
      if (!machine.caps.cpuRole) return none(`${kernel.name} has no cpu_role: ask for root_role`);
      return roleField(cpuRoleLayout(kernel), cpuRole(vcpu), field);
    case 'root_role':
      return roleField(pageRoleLayout(kernel), BigInt(vcpu.mmu.root_role >>> 0), field);
    case 'root_level':
      return ok(fieldOf(pageRoleLayout(kernel), BigInt(vcpu.mmu.root_role >>> 0), 'level'));
    case 'sppt_root': {
      const root = sppt_root_of(vcpu);
      return ok(root === INVALID_PAGE ? (1n << 64n) - 1n : root);
    }
    case 'root_hpa':
      return ok(vcpu.mmu.root.hpa === INVALID_PAGE ? (1n << 64n) - 1n : vcpu.mmu.root.hpa);
    default:
      return none(`'${name}' is not known`);
  }
}

/** An entry of the tables that the processor walks for a vCPU. */
export interface SpteReading {
  readonly level: number;
  readonly raw: bigint;
  /** host-physical address of the entry */
  readonly sptep: number;
  readonly decoded: DecodedSpte;
}

/**
 * Walks the vCPU's current root: EPT or NPT by guest-physical address, shadow tables by linear address (by guest-physical address
 * while guest paging is off).
 * @param level where to stop; null: at the leaf or the first entry that points nowhere
 * @returns the entry, or a sentence why there is none
 */
export function readSpte(
  machine: Machine,
  vcpu: KvmVcpu,
  space: 'gpa' | 'gva',
  address: bigint,
  level: number | null,
): SpteReading | string {
  const paging = machine.config.paging;
  const guestPaging = (vcpu.regs.cr0 & CR0.PG) !== 0n;
  if (paging === 'shadow' && guestPaging && space === 'gpa')
    return 'shadow tables translate linear addresses while the guest pages: write expect spte gva …';
  if (paging !== 'shadow' && space === 'gva')
    return `${paging} translates guest-physical addresses: write expect spte gpa … or gfn …`;
  const { hpa } = vcpu.mmu.root;
  if (hpa === INVALID_PAGE) return 'the vCPU has no root now: it gets one at its next entry (run an instruction first)';
  const { kernel } = machine.caps;
  const top = Number(fieldOf(pageRoleLayout(kernel), BigInt(vcpu.mmu.root_role >>> 0), 'level'));
  if (level !== null && level > top) return `the root has level ${top}: there is no level ${level}`;
  if (top === 3 && address >> 32n)
    return `0x${address.toString(16)} does not fit 32 bits, and the root is that of a PAE walk`;
  const layout = machine.spte.layout;
  let table = hpa;
  for (let l = top; ; l--) {
    const index = Number((address >> BigInt(12 + 9 * (l - 1))) & 511n);
    const sptep = table + 8 * index;
    const raw = machine.mem.readQ(sptep);
    // The four entries of a pae_root are PDPTEs: present bit and address, nothing of KVM's.
    const pdpte = top === 3 && l === 3;
    const decoded = decodeSpte(layout, raw, l);
    const descends = pdpte ? (raw & 1n) !== 0n : decoded.kind === 'nonleaf';
    if (l === level || !descends || l === 1) {
      if (level !== null && l !== level) return `the walk ends at level ${l} with ${decoded.summary}`;
      return { level: l, raw, sptep, decoded };
    }
    table = Number(raw & 0x000ffffffffff000n);
  }
}

/**
 * What the vCPU's TLB holds for a linear address in the context that is current (global entries included), each entry compared with the
 * tables in memory. Caches of upper table levels do not count: an access that uses one still reads the last level.
 */
export function readTlb(machine: Machine, vcpu: KvmVcpu, gva: bigint): CheckedTlbEntry[] {
  const { tlb } = machine.memoryOf(vcpu);
  return checkTlb(vcpu.translator).filter(
    (e) =>
      e.kind === 'page' &&
      (e.contextNumber === tlb.context || e.contextNumber === tlb.globals) &&
      e.address >> BigInt(e.shift) === gva >> BigInt(e.shift),
  );
}
