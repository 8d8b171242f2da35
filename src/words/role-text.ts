/** Role words in one line, as the kernel's tracepoints print them and with what they leave out. */
import type { WordLayout } from './word';

/** Access strings of role.access as the tracepoints print them: x=1 w=2 u=4 (trace kvm_mmu_get_page, <= v7.1). */
export const ACCESS_3 = ['---', '--x', 'w--', 'w-x', '-u-', '-ux', 'wu-', 'wux'] as const;
/** The same from v7.2: r=1 w=2 u=4 x=8. */
export const ACCESS_4 = [
  ...['----', 'r---', '-w--', 'rw--', '--u-', 'r-u-', '-wu-', 'rwu-'],
  ...['---x', 'r--x', '-w-x', 'rw-x', '--ux', 'r-ux', '-wux', 'rwux'],
] as const;

/** Access bits of a role or spte as the kernel's tracepoints print them: `wux` (3 bits) or `rwux` (4 bits, v7.2+). */
export function accessText(access: number, width: 3 | 4 = 3): string {
  return (width === 3 ? ACCESS_3 : ACCESS_4)[access] ?? `0x${access.toString(16)}`;
}

/** Set bits that the trace text leaves out, in the order they are appended. */
const UNPRINTED = [
  ...['smm', 'guest_mode', 'cr0_wp', 'smep_andnot_wp', 'smap_andnot_wp'],
  ...['passthrough', 'is_mirror', 'cr4_smep', 'spp', 'pad_for_nice_hex_output'],
];

/**
 * The text of a page role.
 * @param layout the page-role layout whose field names to go by
 * @param field gives a field's value by name
 */
export function pageRoleText(layout: Pick<WordLayout, 'fields'>, field: (name: string) => bigint): string {
  const has = (name: string) => layout.fields.some((f) => f.name === name);
  const set = (name: string) => has(name) && field(name) !== 0n;
  const out = [`l${field('level')}`];
  if (has('cr4_pae')) out.push(...(set('cr4_pae') ? ['pae'] : []));
  else out.push((has('gpte_is_8_bytes') ? set('gpte_is_8_bytes') : !set('has_4_byte_gpte')) ? '8-byte' : '4-byte');
  if (set('quadrant')) out.push(`q${field('quadrant')}`);
  if (set('direct')) out.push('direct');
  const width = layout.fields.find((f) => f.name === 'access')!.width as 3 | 4;
  out.push(accessText(Number(field('access')), width));
  if (set('invalid')) out.push('invalid');
  out.push(set(has('nxe') ? 'nxe' : 'efer_nx') ? 'nxe' : '!nxe');
  if (has('ad_disabled')) out.push(set('ad_disabled') ? '!ad' : 'ad');
  for (const name of UNPRINTED) {
    if (!set(name)) continue;
    out.push(name === 'smm' && field(name) !== 1n ? `smm=${field(name)}` : name);
  }
  return out.join(' ');
}
