/**
 * What machine a probe run was made on: kernel, module parameters, emulated processor. From the state file's own fields; the
 * configuration's name (in the file name and in `id`) says what the file has no field for.
 */
import { QUIRKS } from '../hw/features';
import { kernelRelease } from './reenact-layout';
import type { ProbeRun } from './reenact-state';

export interface Emulator {
  /** prefix of its quirks in hw/features.ts */
  quirks: 'tcg' | 'bochs';
  /** abilities that it lacks, as the machine block names them */
  lacks: string[];
  title: string;
}

/** The processor under the lab's kernels: QEMU's for AMD, Bochs' for Intel. */
export function emulatorOf(run: ProbeRun): Emulator {
  return run.vendor === 'amd'
    ? { quirks: 'tcg', lacks: ['no-nrips', 'no-decode-assists'], title: "QEMU's emulated AMD processor (TCG)" }
    : { quirks: 'bochs', lacks: [], title: "Bochs' emulated Intel processor" };
}

/** The processor models of the Intel runs and what matters of them beyond CPUID of the guest; runs that name none are Skylake-X's. */
const INTEL_MODELS: readonly { id: RegExp; l1tf: boolean }[] = [
  { id: /\bicl\b|icelake|ice-lake/i, l1tf: false },
  { id: /sapphire|host5/i, l1tf: false },
  { id: /skylake/i, l1tf: true },
];

/** Names of the configuration: the file name and the run's id. */
function configuration(run: ProbeRun, source: string): string {
  return `${source} ${run.id}`;
}

/** Guest CPUID features of the state file that a scenario can name. */
const FEATURES = ['pdpe1gb', 'la57', 'smep', 'smap', 'pku', 'svm', 'npt', 'vmx'];

const on = (value: string | undefined): boolean => value !== undefined && /^(y|1|force|on|auto)/i.test(value);

/** Settings of the `machine` block, one a line. */
export function machineLines(run: ProbeRun, source: string): string[] {
  const name = configuration(run, source);
  const p = run.params;
  const intel = run.vendor === 'intel';
  const tdp = on(p[intel ? 'kvm_intel.ept' : 'kvm_amd.npt']);
  const release = /(?:^|[/\\])(\d+\.\d+\.\d+)-(?:amd|intel)-/.exec(source)?.[1] ?? kernelRelease(run.kernel);
  const emulator = emulatorOf(run);
  const quirks = [...Object.keys(QUIRKS).filter((q) => q.startsWith(`${emulator.quirks}-`)), ...emulator.lacks];
  const model = INTEL_MODELS.find((m) => m.id.test(name));
  const switches: [string, boolean][] = [
    ['tdp_mmu', tdp && on(p['kvm.tdp_mmu'])],
    ['mmio_caching', 'kvm.mmio_caching' in p ? on(p['kvm.mmio_caching']) : !/nommiocache/.test(name)],
    ['nx_huge_pages', 'kvm.nx_huge_pages' in p ? on(p['kvm.nx_huge_pages']) : /nxhuge/.test(name)],
    ['eager_page_split', 'kvm.eager_page_split' in p ? on(p['kvm.eager_page_split']) : !/lazysplit/.test(name)],
  ];
  if (intel) {
    const ad = tdp && on(p['kvm_intel.eptad']);
    // kvm_intel turns page-modification logging on where EPT has A/D flags; all of Bochs' models here have it
    switches.push(['ept_ad', on(p['kvm_intel.eptad'])], ['pml', ad], ['l1tf', model?.l1tf ?? true]);
  }
  const lines = [
    `kernel ${release}`,
    `vendor ${run.vendor}`,
    `paging ${tdp ? (intel ? 'ept' : 'npt') : 'shadow'}`,
    `maxphyaddr ${run.maxphyaddr}`,
    `features ${['nx', 'lm', ...FEATURES.filter((f) => run.features.includes(f))].join(', ')}`,
    ...switches.map(([setting, value]) => `${setting} ${value ? 'on' : 'off'}`),
  ];
  // The probe sets it for Intel guests before anything else; see vm_create() there.
  if (intel) lines.push('tss_addr 0xfffbd000');
  if (/host5|sapphire/i.test(name)) lines.push('host_levels 5');
  if (run.scenario === 'dirty-manual') lines.push('dirty_log manual-protect, initially-set');
  lines.push(`processor ${quirks.length ? quirks.join(', ') : 'silicon'}`);
  return lines;
}
