/**
 * Kernel names and eras. A layout belongs to a range of kernels; a scenario, a trace or a user names one kernel.
 * Patch sets that were posted but not merged in that form are kernels of their own, on top of a release.
 */
import { WordError } from './address';

/** Patch sets outside a release that the project models. */
export type PatchSet = 'seed0' | 'seed1' | 'seed2' | 'seed3' | 'spp-rfc-2018' | 'spp-v12';

/** A kernel as far as the MMU's layouts depend on it. */
export interface KernelVersion {
  readonly major: number;
  readonly minor: number;
  /**
   * Stable patch level. Undefined when the name does not tell (`v5.10`, or a distribution's `6.1.0-50-amd64`, whose
   * third number is always 0): then the series' latest stable release is meant.
   */
  readonly patch?: number;
  readonly patchSet?: PatchSet;
  /** Canonical name: `v6.1`, `v6.1.176`, `spp-rfc-2018`. Parses back to the same version. */
  readonly name: string;
}

/** What functions that need a kernel accept. */
export type KernelSpec = string | KernelVersion;

/** A kernel that a user can pick: one per set of layouts or behaviours that differ. */
export interface KernelEra {
  readonly id: string;
  readonly kernel: KernelVersion;
  /** What is new in it, for completion lists. */
  readonly title: string;
}

interface PatchSetInfo {
  readonly id: PatchSet;
  readonly base: readonly [number, number];
  readonly aliases: readonly string[];
  readonly title: string;
}

const PATCH_SETS: readonly PatchSetInfo[] = [
  { id: 'seed0', base: [4, 2], aliases: ['smm-role'], title: '2015: smm in the page role, two address spaces' },
  {
    id: 'seed1',
    base: [5, 18],
    aliases: ['cpu-role'],
    title: 'April 2022: cpu_role split from mmu_role, both 64 bits',
  },
  { id: 'seed2', base: [3, 1], aliases: ['mmio-caching'], title: '2011: MMIO sptes, without generation' },
  { id: 'seed3', base: [4, 1], aliases: ['smram-rfc'], title: '2015 RFC: KVM_MEM_X86_SMRAM slot flag' },
  {
    id: 'spp-rfc-2018',
    base: [4, 20],
    aliases: ['seed4', 'spp', 'spp-rfc'],
    title: '2018 RFC: sub-page permission tables, spp in the page role',
  },
  {
    id: 'spp-v12',
    base: [5, 6],
    aliases: [],
    title: '2020: sub-page permission, twelfth posting (base release not verified)',
  },
];

/** Oldest and newest release whose layouts are known. */
export const OLDEST_KERNEL = 'v3.1';
export const NEWEST_KERNEL = 'v7.3';

function release(major: number, minor: number, patch?: number): KernelVersion {
  return { major, minor, patch, name: `v${major}.${minor}${patch === undefined ? '' : `.${patch}`}` };
}

function patchSetKernel(info: PatchSetInfo): KernelVersion {
  return { major: info.base[0], minor: info.base[1], patchSet: info.id, name: info.id };
}

const ERA_TITLES: readonly (readonly [number, number, string])[] = [
  [3, 1, 'first MMIO sptes, no generation'],
  [3, 6, 'host- and MMU-writable in bits 10 and 11'],
  [3, 11, '19-bit generation in MMIO sptes'],
  [4, 1, '20-bit generation; last release with one address space'],
  [4, 2, 'SMM: two address spaces, smm in the page role'],
  [4, 4, 'SMM, long-term release'],
  [4, 19, 'ad_disabled and guest_mode in the page role, L1TF, access tracking'],
  [4, 20, '64-bit mmu_role (base and ext), cached roots'],
  [5, 0, 'odd generations belong to address space 1'],
  [5, 2, 'gpte_is_8_bytes, cr4_pae in ext'],
  [5, 7, 'cr4_la57 dropped from ext'],
  [5, 8, 'MMIO sptes marked by bits 53:52'],
  [5, 10, 'TDP MMU optional; RET_PF_FIXED and SPURIOUS'],
  [5, 13, 'MMU-present bit 11'],
  [5, 14, 'maxphyaddr dropped from ext'],
  [5, 15, 'TDP MMU by default'],
  [5, 17, 'has_4_byte_gpte: bit 4 changes polarity; memslots in trees'],
  [5, 19, 'cpu_role (64 bits) and root_role (32 bits)'],
  [6, 1, 'cpu_role and root_role, long-term release'],
  [6, 12, 'FROZEN_SPTE, suppress-#VE, RET_PF_WRITE_PROTECTED'],
  [6, 14, 'is_mirror in the page role'],
  [7, 2, '4-bit access, cr4_smep in the page role, 18-bit generation'],
  [7, 3, 'newest: gva_walk and ngpa_walk'],
];

/** Every kernel to offer in a list, oldest first, the patch sets last. Any release between them is accepted too. */
export const KERNEL_ERAS: readonly KernelEra[] = [
  ...ERA_TITLES.map(([major, minor, title]) => ({ id: `v${major}.${minor}`, kernel: release(major, minor), title })),
  ...PATCH_SETS.map((info) => ({ id: info.id, kernel: patchSetKernel(info), title: info.title })),
];

/**
 * Reads a kernel's name: `v6.1`, `6.1.176`, `6.1.0-50-amd64`, `5.14.0-427.el9.x86_64`, `v7.3-rc7`, `Linux 6.12.107`, or
 * a patch set (`seed1`, `spp-rfc-2018`, `spp`). A release candidate counts as its release.
 * @throws WordError that lists the legal names.
 */
export function parseKernel(text: string): KernelVersion {
  const name = text.trim().replace(/^linux(?:\s+version)?[\s-]+/i, '');
  const wanted = name.toLowerCase();
  const set = PATCH_SETS.find((s) => s.id === wanted || s.aliases.includes(wanted));
  if (set) return patchSetKernel(set);

  const m = /^v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-+~.]\S*)?$/i.exec(name);
  if (!m) throw new WordError(`'${text}' is not a kernel: ${legalKernels()}`);
  const [major, minor] = [Number(m[1]), Number(m[2])];
  // Debian, Ubuntu and RHEL name the ABI after ".0-" and keep the real patch level to themselves.
  const distribution = m[3] === '0' && /^v?\d+\.\d+\.0-\d/i.test(name);
  const patch = m[3] === undefined || distribution ? undefined : Number(m[3]);
  const version = release(major, minor, patch);
  if (before(version, OLDEST)) {
    throw new WordError(
      `kernel ${version.name} is older than MMIO caching in sptes (${OLDEST_KERNEL}): ${legalKernels()}`,
    );
  }
  if (before(NEWEST, version)) {
    throw new WordError(
      `kernel ${version.name} is newer than the newest layouts known: name ${NEWEST_KERNEL} to read its words by those, or another of: ${eraList()}`,
    );
  }
  return version;
}

const OLDEST = release(3, 1);
const NEWEST = release(7, 3);

/** A kernel given by name or as a version. @throws WordError as `parseKernel`. */
export function toKernel(kernel: KernelSpec): KernelVersion {
  return typeof kernel === 'string' ? parseKernel(kernel) : kernel;
}

function before(a: KernelVersion, b: KernelVersion): boolean {
  return a.major < b.major || (a.major === b.major && a.minor < b.minor);
}

function eraList(): string {
  return KERNEL_ERAS.map((e) => e.id).join(', ');
}

function legalKernels(): string {
  return `write a release from ${OLDEST_KERNEL} to ${NEWEST_KERNEL} (6.1, 6.1.176, 6.1.0-50-amd64) or one of: ${eraList()}`;
}

/**
 * Order in time: by release, then patch level (unknown = latest), then without before with a patch set.
 * @returns negative, 0 or positive, for sorting. Behaviour must not be chosen by this: test a capability by name.
 */
export function compareKernels(a: KernelVersion, b: KernelVersion): number {
  const patch = (k: KernelVersion) => k.patch ?? Number.MAX_SAFE_INTEGER;
  return (
    a.major - b.major ||
    a.minor - b.minor ||
    (a.patchSet ? 1 : 0) - (b.patchSet ? 1 : 0) ||
    Math.sign(patch(a) - patch(b)) ||
    (a.patchSet ?? '').localeCompare(b.patchSet ?? '')
  );
}

/** A closed range of releases as the tables write it. A bound without patch level covers the whole series. */
export interface KernelRange {
  readonly from: string;
  readonly to: string;
}

const BOUND = /^v(\d+)\.(\d+)(?:\.(\d+))?$/;

/**
 * Whether a kernel lies in a range. Patch sets count as their base release.
 * @throws WordError if a bound is not written v6.1 or v6.1.2.
 */
export function inRange(kernel: KernelVersion, range: KernelRange): boolean {
  return sideOf(kernel, range.from) >= 0 && sideOf(kernel, range.to) <= 0;
}

function sideOf(kernel: KernelVersion, bound: string): number {
  const m = BOUND.exec(bound);
  if (!m) throw new WordError(`'${bound}' is not a bound of a kernel range: write v6.1 or v6.1.2`);
  const release = kernel.major - Number(m[1]) || kernel.minor - Number(m[2]);
  if (release !== 0 || m[3] === undefined) return release;
  return (kernel.patch ?? Number.MAX_SAFE_INTEGER) - Number(m[3]);
}

/** `v5.13 .. v6.8`, or one name if both bounds are equal. */
export function rangeText(range: KernelRange): string {
  return range.from === range.to ? range.from : `${range.from} .. ${range.to}`;
}

/** Last minor release of each major, so that v5.19 and v6.0 are neighbours. */
const LAST_MINOR: readonly (readonly [number, number, number])[] = [
  [3, 1, 19],
  [4, 0, 20],
  [5, 0, 19],
  [6, 0, 19],
  [7, 0, 3],
];

/** Every release that the tables cover, oldest first: `v3.1` … `v7.3`. */
export const RELEASES: readonly string[] = LAST_MINOR.flatMap(([major, first, last]) =>
  Array.from({ length: last - first + 1 }, (_, i) => `v${major}.${first + i}`),
);

/**
 * Ranges as text, neighbours joined and patch levels dropped: `v5.13 .. v6.8, v6.9 .. v7.1` becomes `v5.13 .. v7.1`.
 * Empty for no range.
 */
export function joinRanges(ranges: readonly KernelRange[]): string {
  const index = (bound: string) => RELEASES.indexOf(/^v\d+\.\d+/.exec(bound)![0]);
  const spans: { from: number; to: number }[] = [];
  for (const range of [...ranges].sort((a, b) => index(a.from) - index(b.from))) {
    const [from, to] = [index(range.from), index(range.to)];
    const last = spans.at(-1);
    if (last && from <= last.to + 1) last.to = Math.max(last.to, to);
    else spans.push({ from, to });
  }
  return spans.map((s) => rangeText({ from: RELEASES[s.from], to: RELEASES[s.to] })).join(', ');
}
