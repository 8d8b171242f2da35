/** What a machine is made of, what its user may set, and what a run comes to. */
import { amdFeatures, intelFeatures, QUIRKS, type CpuFeatures, type Quirk } from '../hw/features';
import type { CpuState } from '../hw/regs';
import type { UserExit } from './kvm_run';

/** What a machine is made of. {@link machineConfig} fills in defaults. */
export interface MachineConfig {
  /** `v6.1`, `6.1.176`, `seed1` … */
  kernel: string;
  vendor: 'intel' | 'amd';
  /** EPT or NPT (TDP), or shadow paging */
  paging: 'ept' | 'npt' | 'shadow';
  tdp_mmu: boolean;
  /** host MAXPHYADDR */
  maxphyaddr: number;
  /** MAXPHYADDR in the guest's CPUID; the host's if left out */
  guestMaxphyaddr?: number;
  /** CPUID features of the guest: nx smep smap pku la57 pdpe1gb pcid lm svm vmx … */
  features: string[];
  l1tf: boolean;
  mmio_caching: boolean;
  nx_huge_pages: boolean;
  eager_page_split: boolean;
  /** EPT accessed/dirty flags */
  ept_ad: boolean;
  /** page-modification logging for dirty logging */
  pml: boolean;
  /** levels of the host's own paging: on AMD the NPT has as many */
  host_levels: 4 | 5;
  /** levels that EPT can have */
  maxTdpLevel: 4 | 5;
  /** deviations of an emulated processor (src/hw/features.ts QUIRKS), plus no-nrips and no-decode-assists */
  quirks: string[];
  force_flush_and_sync_on_reuse: boolean;
  /** KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: KVM_GET_DIRTY_LOG only copies, KVM_CLEAR_DIRTY_LOG clears */
  dirtyLogManualProtect: boolean;
  /** KVM_DIRTY_LOG_INITIALLY_SET */
  dirtyLogInitiallySet: boolean;
  /**
   * KVM_SET_TSS_ADDR: where kvm_intel puts the task state segment of real-mode guests. Takes a private memslot (and a memslot
   * generation) where guests cannot run unrestricted, i.e. without EPT.
   */
  tss_addr?: number;
  /** which design hides SMRAM: two address spaces (merged), the flag of the RFC, or the three-state slot of the reply to it */
  smram_design: 'address-spaces' | 'flag' | 'three-state';
  /** sub-page permissions: the processor has them and KVM is asked for them (kernels spp-rfc-2018 and spp-v12) */
  spp: boolean;
  /** exits that one instruction may cause before the run is given up as stuck */
  maxExitsPerInstruction: number;
}

/** The configuration of a recent Intel or AMD host, with the given fields replaced. */
export function machineConfig(over: Partial<MachineConfig> = {}): MachineConfig {
  const vendor = over.vendor ?? 'intel';
  return {
    kernel: 'v6.1',
    vendor,
    paging: vendor === 'intel' ? 'ept' : 'npt',
    tdp_mmu: true,
    maxphyaddr: vendor === 'intel' ? 46 : 48,
    features: ['nx', 'lm', 'smep', 'smap', 'pdpe1gb', 'pcid'],
    l1tf: false,
    mmio_caching: true,
    nx_huge_pages: false,
    eager_page_split: true,
    ept_ad: true,
    pml: false,
    host_levels: 4,
    maxTdpLevel: 4,
    quirks: [],
    force_flush_and_sync_on_reuse: false,
    dirtyLogManualProtect: false,
    dirtyLogInitiallySet: false,
    smram_design: 'address-spaces',
    spp: true,
    maxExitsPerInstruction: 100_000,
    ...over,
  };
}

/** The processor that the guest sees: the configured CPUID, with the deviations of an emulated one. */
export function guestCpu(config: MachineConfig): CpuFeatures {
  const quirks = new Set(config.quirks.filter((q): q is Quirk => q in QUIRKS));
  const f = new Set(config.features);
  const over: Partial<CpuFeatures> = {
    maxphyaddr: config.guestMaxphyaddr ?? config.maxphyaddr,
    nx: f.has('nx'),
    smep: f.has('smep'),
    smap: f.has('smap'),
    pku: f.has('pku'),
    pks: f.has('pks'),
    la57: f.has('la57'),
    pcid: f.has('pcid'),
    invpcid: f.has('invpcid'),
    lam: f.has('lam'),
    shstk: f.has('shstk'),
    eptAd: config.ept_ad,
    quirks,
  };
  return config.vendor === 'intel' ? intelFeatures(over) : amdFeatures(over);
}

/** What one instruction, or a stretch of code, came to. */
export interface RunResult {
  end: 'done' | 'fault' | 'io' | 'hlt' | 'shutdown' | 'spp' | 'error' | 'limit';
  /** what a load read */
  value: bigint | null;
  /** the exception that ended the run, because no handler is told about */
  exception: { vector: number; errorCode: number | null; cr2: bigint | null } | null;
  /** the last exception that went to a handler of the guest */
  delivered: { vector: number; errorCode: number | null; cr2: bigint | null } | null;
  exits: UserExit[];
  /** sentence for `error` and `limit` */
  text: string;
}

/** Registers as user space sets them (KVM_SET_SREGS, KVM_SET_REGS): any part of CpuState. */
export type RegisterSet = Partial<
  Pick<
    CpuState,
    | 'cr0'
    | 'cr2'
    | 'cr3'
    | 'cr4'
    | 'efer'
    | 'rip'
    | 'rflags'
    | 'pkru'
    | 'cs'
    | 'ss'
    | 'ds'
    | 'es'
    | 'fs'
    | 'gs'
    | 'tr'
    | 'ldtr'
  >
> & {
  gdtr?: { base: bigint; limit: number };
  idtr?: { base: bigint; limit: number } | null;
  gpr?: Partial<Record<number, bigint>>;
  cpl?: number;
};
