/** The `machine` block: settings, their defaults and what excludes what. */
import { WordError } from '../words/address';
import { parseKernel } from '../words/kernels';
import { kernelCaps } from '../kvm/eras';
import { machineConfig as machineDefaults, type MachineConfig } from '../kvm/machine';
import type { Machine as MachineNode, MachineSetting } from './generated/ast';
import type { Findings } from './findings';
import { readNumber } from './numbers';
import { remedy } from '../words/suggest';
import { MACHINE_SETTINGS, type MachineSettingInfo } from './tables';

/** The settings as written, checked one by one. */
interface Settings {
  kernel?: string;
  vendor?: 'intel' | 'amd';
  paging?: 'ept' | 'npt' | 'shadow';
  switches: Map<string, boolean>;
  numbers: Map<string, number>;
  names: Map<string, string[]>;
}

/** The configuration that a scenario without a `machine` block has. */
export const defaultConfig = (): MachineConfig =>
  toConfig({ switches: new Map(), numbers: new Map(), names: new Map() });

/** Reads a `machine` block, reporting what is wrong with it; wrong settings have their default. */
export function machineConfig(node: MachineNode, findings: Findings): MachineConfig {
  const read: Settings = { switches: new Map(), numbers: new Map(), names: new Map() };
  const seen = new Map<string, MachineSetting>();
  for (const s of node.settings) {
    const info = MACHINE_SETTINGS.find((i) => i.name === s.name);
    if (!info) {
      findings.error(
        'unknown-setting',
        s,
        `'${s.name}' is not a setting of the machine${remedy(
          s.name,
          MACHINE_SETTINGS.map((i) => i.name),
        )}`,
        'name',
      );
      continue;
    }
    if (seen.has(s.name)) findings.error('twice', s, `'${s.name}' is set twice: keep one of them`, 'name');
    seen.set(s.name, s);
    if (s.values.length > 0) readSetting(s, info, read, findings);
  }
  exclusions(read, seen, findings);
  return toConfig(read);
}

function readSetting(s: MachineSetting, info: MachineSettingInfo, read: Settings, findings: Findings): void {
  const [value] = s.values;
  const bad = (message: string): void => findings.error('setting-value', s, message, 'values');
  if (info.kind !== 'names' && s.values.length > 1) return bad(`${info.name} takes one value, not a list`);
  switch (info.kind) {
    case 'kernel':
      try {
        read.kernel = parseKernel(value).name;
      } catch (e) {
        if (!(e instanceof WordError)) throw e;
        findings.error('unknown-kernel', s, e.message, 'values');
      }
      return;
    case 'switch':
      if (value !== 'on' && value !== 'off') return bad(`${info.name} is on or off, not '${value}'`);
      read.switches.set(info.name, value === 'on');
      return;
    case 'number': {
      const { value: n, error } = readNumber(value);
      const [low, high] = info.range ?? [0, Number.MAX_SAFE_INTEGER];
      if (error !== null || n < BigInt(low) || n > BigInt(high))
        return bad(`${info.name} is a number from ${low} to ${high}, not '${value}'`);
      read.numbers.set(info.name, Number(n));
      return;
    }
    case 'name':
    case 'names': {
      const legal = Object.keys(info.values ?? {});
      const list = s.values.filter((v) => v !== 'none' || info.kind === 'name');
      for (const v of list)
        if (!legal.includes(v)) return bad(`'${v}' is not a value of ${info.name}${remedy(v, legal)}`);
      if (info.name === 'vendor') read.vendor = value as 'intel' | 'amd';
      else if (info.name === 'paging') read.paging = value as 'ept' | 'npt' | 'shadow';
      else read.names.set(info.name, list);
    }
  }
}

function exclusions(read: Settings, seen: ReadonlyMap<string, MachineSetting>, findings: Findings): void {
  const vendor = read.vendor ?? 'intel';
  const other = vendor === 'intel' ? 'npt' : 'ept';
  if (read.paging === other) {
    findings.error(
      'setting-value',
      seen.get('paging'),
      `paging ${other} does not exist on ${vendor}: write paging ${vendor === 'intel' ? 'ept' : 'npt'} or shadow, or vendor ${vendor === 'intel' ? 'amd' : 'intel'}`,
    );
  }
  const caps = kernelCaps(parseKernel(read.kernel ?? 'v6.1'));
  if (read.switches.get('tdp_mmu')) {
    if (read.paging === 'shadow')
      findings.error(
        'setting-value',
        seen.get('tdp_mmu'),
        `tdp_mmu on has no effect with paging shadow: the TDP MMU builds EPT and NPT only; write tdp_mmu off`,
      );
    else if (caps.tdpMmu === 'absent')
      findings.error(
        'setting-value',
        seen.get('tdp_mmu'),
        `kernel ${caps.kernel.name} has no TDP MMU (it came with v5.10): write tdp_mmu off`,
      );
  }
  if (read.switches.get('spp') && (caps.spp === 'absent' || vendor === 'amd' || read.paging === 'shadow'))
    findings.error(
      'setting-value',
      seen.get('spp'),
      'sub-page permissions need a kernel that has them and EPT: write kernel spp-rfc-2018 or spp-v12, vendor intel, paging ept',
    );
  const guest = read.numbers.get('guest_maxphyaddr');
  const host = read.numbers.get('maxphyaddr') ?? (vendor === 'intel' ? 46 : 48);
  if (guest !== undefined && guest > host) {
    findings.warn(
      'setting-value',
      seen.get('guest_maxphyaddr'),
      `the guest is told ${guest} physical-address bits but the host has ${host}: guests with such addresses fault in ways that no real guest sees`,
    );
  }
  if (read.names.get('dirty_log')?.join() === 'initially-set')
    findings.error(
      'setting-value',
      seen.get('dirty_log'),
      'initially-set goes with manual-protect: write dirty_log manual-protect, initially-set',
    );
  for (const name of ['ept_ad', 'pml']) {
    if (seen.has(name) && vendor === 'amd')
      findings.warn('setting-value', seen.get(name), `${name} is a parameter of kvm_intel and has no effect on amd`);
  }
}

function toConfig(read: Settings): MachineConfig {
  const kernel = read.kernel ?? 'v6.1';
  const caps = kernelCaps(parseKernel(kernel));
  const d = machineDefaults({ kernel, vendor: read.vendor ?? 'intel' });
  const paging = read.paging ?? d.paging;
  const on = (name: string, otherwise: boolean): boolean => read.switches.get(name) ?? otherwise;
  const maxphyaddr = read.numbers.get('maxphyaddr') ?? d.maxphyaddr;
  const dirty = read.names.get('dirty_log') ?? [];
  const smram = kernel === 'seed3' ? 'flag' : d.smram_design;
  return {
    ...d,
    paging,
    tdp_mmu: paging !== 'shadow' && on('tdp_mmu', caps.tdpMmu === 'default'),
    maxphyaddr,
    guestMaxphyaddr: read.numbers.get('guest_maxphyaddr') ?? maxphyaddr,
    features: read.names.get('features') ?? d.features,
    mmio_caching: on('mmio_caching', d.mmio_caching),
    nx_huge_pages: on('nx_huge_pages', d.nx_huge_pages),
    eager_page_split: on('eager_page_split', d.eager_page_split),
    ept_ad: on('ept_ad', d.ept_ad),
    pml: on('pml', d.pml),
    l1tf: on('l1tf', d.l1tf),
    force_flush_and_sync_on_reuse: on('flush_on_reuse', d.force_flush_and_sync_on_reuse),
    host_levels: (read.numbers.get('host_levels') ?? d.host_levels) as 4 | 5,
    maxTdpLevel: (read.numbers.get('ept_levels') ?? d.maxTdpLevel) as 4 | 5,
    quirks: (read.names.get('processor') ?? d.quirks).filter((q) => q !== 'silicon'),
    ...(read.numbers.has('tss_addr') ? { tss_addr: read.numbers.get('tss_addr') } : {}),
    dirtyLogManualProtect: dirty.length > 0,
    dirtyLogInitiallySet: dirty.includes('initially-set'),
    spp: on('spp', d.spp),
    smram_design: (read.names.get('smram')?.[0] ?? smram) as MachineConfig['smram_design'],
  };
}
