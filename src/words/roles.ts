/**
 * Role words: which layout a kernel uses, which words struct kvm_mmu holds, and a role in one line.
 *
 * kvm_mmu_page_role (32 bits) is what a shadow page *is*; kvm_mmu_extended_role (32 bits, v4.20+) says only when a
 * context must be rebuilt; both together make the 64-bit kvm_mmu_role (v4.20 .. v5.18) or kvm_cpu_role (v5.19+).
 */
import { WordError } from './address';
import type { KernelSpec, KernelVersion } from './kernels';
import { inRange, toKernel } from './kernels';
import { EXTENDED_ROLES } from './extended-role-tables';
import type { RoleEra } from './role-fields';
import { PAGE_ROLES } from './role-tables';
import { pageRoleText } from './role-text';
import type { WordField, WordLayout } from './word';
import { decodeWord } from './word';

export { EXTENDED_ROLES } from './extended-role-tables';
export { PAGE_ROLES } from './role-tables';
export { ACCESS_3, ACCESS_4, accessText } from './role-text';
export type { RoleEra } from './role-fields';

/** A role word that struct kvm_mmu (or kvm_pagewalk) of some kernel holds. */
export interface MmuWord {
  /** The kernel's field name: `root_role`. */
  readonly name: string;
  /** The kernel's union: `kvm_mmu_page_role`. */
  readonly type: 'kvm_mmu_page_role' | 'kvm_mmu_role' | 'kvm_cpu_role';
  readonly bits: 32 | 64;
  readonly meaning: string;
  readonly layout: WordLayout;
}

/** The role words of one kernel's MMU. */
export interface MmuWords {
  /** Structures that hold them. */
  readonly holder: string;
  readonly words: readonly MmuWord[];
  readonly source: string;
}

/** The last table that covers the kernel; a patch set's own table wins over its base release's. */
function pick(eras: readonly RoleEra[], kernel: KernelVersion): WordLayout | undefined {
  const own = kernel.patchSet && eras.find((e) => e.patchSets?.includes(kernel.patchSet!));
  return (own || eras.findLast((e) => e.ranges.some((r) => inRange(kernel, r))))?.layout;
}

/**
 * Layout of union kvm_mmu_page_role in a kernel.
 * @throws WordError for a name that is no known kernel.
 */
export function pageRoleLayout(kernel: KernelSpec): WordLayout {
  return pick(PAGE_ROLES, toKernel(kernel))!;
}

/** Whether the kernel has kvm_mmu_extended_role, and so 64-bit role words (v4.20+). */
export function hasExtendedRole(kernel: KernelSpec): boolean {
  return pick(EXTENDED_ROLES, toKernel(kernel)) !== undefined;
}

/**
 * Layout of union kvm_mmu_extended_role in a kernel.
 * @throws WordError before v4.20, where the role is one 32-bit word.
 */
export function extendedRoleLayout(kernel: KernelSpec): WordLayout {
  const version = toKernel(kernel);
  const layout = pick(EXTENDED_ROLES, version);
  if (layout) return layout;
  throw new WordError(
    `${version.name} has no kvm_mmu_extended_role: until v4.19 the role is the one word base_role, see mmuWords()`,
  );
}

const cpuRoles = new Map<string, WordLayout>();

/**
 * Layout of the 64-bit role, base | ext << 32, with fields `base.level`, `ext.valid` …: union kvm_cpu_role from v5.19,
 * union kvm_mmu_role in v4.20 .. v5.18.
 * @throws WordError before v4.20.
 */
export function cpuRoleLayout(kernel: KernelSpec): WordLayout {
  const version = toKernel(kernel);
  const ext = extendedRoleLayout(version);
  const base = pageRoleLayout(version);
  const union = unionName(version);
  const id = `${union}@${base.id.split('@')[1]}+${ext.id.split('@')[1]}`;
  let layout = cpuRoles.get(id);
  if (!layout) {
    layout = {
      id,
      word: 'kvm_cpu_role',
      title: `union ${union}: ${base.kernels} (base), ${ext.kernels} (ext)`,
      size: 64,
      kernels: ext.kernels,
      source: `${base.source}; ${ext.source}`,
      fields: [...prefixed('base', 0, base.fields), ...prefixed('ext', 32, ext.fields)],
      notes: [...(base.notes ?? []), ...(ext.notes ?? [])],
      summarize: (field) => cpuRoleSummary(base, ext, field),
    };
    cpuRoles.set(id, layout);
  }
  return layout;
}

const hasCpuRoleUnion = { from: 'v5.19', to: 'v7.3' };

function unionName(kernel: KernelVersion): 'kvm_mmu_role' | 'kvm_cpu_role' {
  return inRange(kernel, hasCpuRoleUnion) ? 'kvm_cpu_role' : 'kvm_mmu_role';
}

function prefixed(prefix: string, shift: number, fields: readonly WordField[]): WordField[] {
  return fields.map((f) => ({ ...f, name: `${prefix}.${f.name}`, lsb: f.lsb + shift }));
}

const CPU_ROLE_MEANING =
  'What the vCPU runs, from guest CR0, CR4 and EFER: drives the guest walker, the permission bitmap and the reserved bits.';

/**
 * The role words that struct kvm_mmu holds in a kernel, each with its layout.
 * Source: struct kvm_mmu and struct kvm_pagewalk in arch/x86/include/asm/kvm_host.h; BTF of v6.1 (cpu_role @72,
 * root_role @80 of 384 bytes) and of 7.3-rc7.
 */
export function mmuWords(kernel: KernelSpec): MmuWords {
  const version = toKernel(kernel);
  const page = pageRoleLayout(version);
  if (!hasExtendedRole(version)) {
    const meaning = 'One word for both: the mode of the vCPU and the template of the role of shadow pages.';
    return {
      holder: 'struct kvm_mmu',
      words: [{ name: 'base_role', type: 'kvm_mmu_page_role', bits: 32, meaning, layout: page }],
      source: 'kvm_host.h, up to v4.19',
    };
  }
  const layout = cpuRoleLayout(version);
  if (version.patchSet === 'seed1') {
    const meaning = 'What the shadow pages look like. Only .base matters for page lookup.';
    return {
      holder: 'struct kvm_mmu',
      words: [
        { name: 'cpu_role', type: 'kvm_mmu_role', bits: 64, meaning: CPU_ROLE_MEANING, layout },
        { name: 'mmu_role', type: 'kvm_mmu_role', bits: 64, meaning, layout },
      ],
      source: 'the patch "split cpu_role from mmu_role", April 2022',
    };
  }
  if (unionName(version) === 'kvm_mmu_role') {
    const meaning = 'base is the template of the role of shadow pages; ext only guards re-initialisation.';
    return {
      holder: 'struct kvm_mmu',
      words: [{ name: 'mmu_role', type: 'kvm_mmu_role', bits: 64, meaning, layout }],
      source: 'kvm_host.h v5.10 (BTF: 8 bytes, base @0, ext @4)',
    };
  }
  const split = inRange(version, { from: 'v7.2', to: 'v7.3' });
  const meaning = 'What the shadow pages look like: template of the page role, and the level of the root.';
  return {
    holder: split ? 'struct kvm_pagewalk (cpu_role) and struct kvm_mmu (root_role)' : 'struct kvm_mmu',
    words: [
      { name: 'cpu_role', type: 'kvm_cpu_role', bits: 64, meaning: CPU_ROLE_MEANING, layout },
      { name: 'root_role', type: 'kvm_mmu_page_role', bits: 32, meaning, layout: page },
    ],
    source: split ? 'kvm_host.h v7.3.4 and BTF of 7.3-rc7 (split in v7.2 not verified)' : 'kvm_host.h v6.1, BTF',
  };
}

/**
 * A page role in one line, in the order and spelling of the kernel's tracepoints (`l4 8-byte q0 direct wux nxe ad`),
 * followed by the set bits that the kernel does not print: smm, guest_mode, cr0_wp and so on.
 * @param layout from `pageRoleLayout`
 */
export function roleSummary(layout: WordLayout, word: bigint | number): string {
  return decodeWord(layout, BigInt(word)).summary;
}

/** Memslot address space a role belongs to (role.smm), 0 before v4.2. */
export function roleAddressSpace(layout: WordLayout, word: bigint | number): number {
  return layout.fields.some((f) => f.name === 'smm') ? Number(BigInt(word) >> 24n) & 0xff : 0;
}

function cpuRoleSummary(base: WordLayout, ext: WordLayout, field: (name: string) => bigint): string {
  const baseText = pageRoleText(base, (name) => field(`base.${name}`));
  const extText = ext.fields
    .filter((f) => field(`ext.${f.name}`) !== 0n)
    .map((f) => (f.width === 1 ? f.name : `${f.name}=${field(`ext.${f.name}`)}`));
  return `${baseText} | ${extText.join(' ') || 'ext 0'}`;
}
