/** A value as a role word: of one kernel, or of all, those that read alike joined. */
import type { KernelRange } from './kernels';
import { RELEASES } from './kernels';
import type { Candidate, Reader, Reading } from './reading';
import { across, fieldValue, under } from './reading';
import {
  EXTENDED_ROLES,
  PAGE_ROLES,
  cpuRoleLayout,
  extendedRoleLayout,
  hasExtendedRole,
  pageRoleLayout,
} from './roles';
import type { Decoded, WordLayout } from './word';
import type { WordName } from './word-names';

/** A page role has a level and, unless it is a zeroed or paging-off word, access: all of it in a root. */
function roleFit(d: Decoded, prefix = ''): number {
  const value = (name: string) => fieldValue(d, prefix + name);
  const access = d.layout.fields.find((f) => f.name === `${prefix}access`)!;
  if (value('level') === 0 || value('level') > 5 || value('smm') > 1 || value('access') === 0) return 0.15;
  if (value('pad_for_nice_hex_output') !== 0) return 0.1;
  return value('access') === 2 ** access.width - 1 && value('invalid') === 0 ? 0.72 : 0.45;
}

const cpuRoleFit = (d: Decoded) => (fieldValue(d, 'ext.valid') === 1 ? 0.1 + roleFit(d, 'base.') : 0.05);

/** The reading of one kernel's layout. */
function one(
  word: WordName,
  title: string,
  layout: WordLayout,
  kernel: string,
  value: bigint,
  fit: (d: Decoded) => number,
): Reading[] {
  return across(word, title, [{ layout, ranges: [] }], value, fit).map((r) => ({
    ...r,
    title: `${title}, ${kernel}`,
    kernels: kernel,
  }));
}

/** kvm_mmu_page_role. */
export const readRole: Reader = (value, { kernel }) =>
  kernel
    ? one('role', 'page role', pageRoleLayout(kernel), kernel.name, value, (d) => roleFit(d))
    : across('role', 'page role', PAGE_ROLES, value, (d) => roleFit(d));

/** kvm_mmu_extended_role; nothing before v4.20. */
export const readExtendedRole: Reader = (value, { kernel }) => {
  if (!kernel) {
    const fit = (d: Decoded) => (fieldValue(d, 'valid') === 1 ? 0.35 : 0.1);
    return across('ext_role', 'extended role', EXTENDED_ROLES, value, fit);
  }
  if (!hasExtendedRole(kernel)) return [];
  return under('ext_role', extendedRoleLayout(kernel), value, { fit: 0.35, kernels: kernel.name });
};

/** kvm_mmu_role or kvm_cpu_role; nothing before v4.20. */
export const readCpuRole: Reader = (value, { kernel }) => {
  if (!kernel) return across('cpu_role', '64-bit role', allCpuRoles(), value, cpuRoleFit);
  if (!hasExtendedRole(kernel)) return [];
  return one('cpu_role', '64-bit role', cpuRoleLayout(kernel), kernel.name, value, cpuRoleFit);
};

let cpuRoles: Candidate[] | undefined;

/** The 64-bit roles of all kernels, each union once with the releases that use it. */
function allCpuRoles(): Candidate[] {
  if (cpuRoles) return cpuRoles;
  const byId = new Map<string, { layout: WordLayout; ranges: KernelRange[] }>();
  for (const release of RELEASES.filter(hasExtendedRole)) {
    const layout = cpuRoleLayout(release);
    const entry = byId.get(layout.id) ?? { layout, ranges: [] };
    entry.ranges.push({ from: release, to: release });
    byId.set(layout.id, entry);
  }
  return (cpuRoles = [...byId.values()]);
}
