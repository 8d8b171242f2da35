/**
 * What the processor can do, as far as translation goes: the CPUID bits and VMX capability bits that change a rule.
 */

/**
 * Deviations of emulated processors, by name. The default processor has none: it is silicon as SDM and APM describe it. A run made on
 * an emulator is repeated exactly with its quirks on.
 */
export const QUIRKS = {
  'tcg-rsvd-without-p': 'QEMU TCG: a reserved-bit fault (#PF or NPF) has error bit 0 (P) clear.',
  'tcg-accessed-per-level':
    'QEMU TCG: the accessed flag of a guest or NPT entry is set as soon as the entry was checked, also if a lower level then faults.',
  'tcg-pae-pdpte-reload':
    'QEMU TCG: PAE paging reads the PDPTE from memory at each walk and sets bit 5 of it, instead of using the four loaded PDPTEs.',
  'tcg-1g-a-on-refused':
    'QEMU TCG: the accessed flag of a 1 GiB page is set even if the access is then refused, or if an address bit below its size is set.',
  'tcg-no-amd-bit8': 'QEMU TCG: bit 8 of a PML4E or PML5E is not reserved on an AMD processor.',
  'bochs-ept-ad-without-ad':
    'Bochs: setting an accessed or dirty flag in a guest entry is not checked against EPT write permission when EPT A/D flags are off.',
  'bochs-tss-ss-first': 'Bochs: a change of stack through a 32-bit or 16-bit TSS reads SS before the stack pointer.',
  'bochs-mov-cr0-pdptes':
    'Bochs: each MOV to CR0 under PAE paging loads the PDPTEs again, not only one that changes PG, CD or NW.',
} as const;

/** Name of a quirk: a key of {@link QUIRKS}. */
export type Quirk = keyof typeof QUIRKS;

/** Features of a processor. See {@link intelFeatures} and {@link amdFeatures} for two complete sets. */
export interface CpuFeatures {
  vendor: 'intel' | 'amd';
  /** Physical-address width M, 32 … 52: CPUID 80000008H:EAX[7:0]. */
  maxphyaddr: number;
  /** 1 GiB pages in guest and NPT paging: CPUID 80000001H:EDX[26]. */
  page1g: boolean;
  /** PSE-36, CPUID 1:EDX[17]: 4 MiB pages reach up to 40 address bits. */
  pse36: boolean;
  /** XD/NX, CPUID 80000001H:EDX[20]. Without it EFER.NXE cannot be set. */
  nx: boolean;
  smep: boolean;
  smap: boolean;
  pku: boolean;
  pks: boolean;
  la57: boolean;
  pcid: boolean;
  invpcid: boolean;
  /** Linear-address masking, CPUID 7.1:EAX[26]. */
  lam: boolean;
  /** CET shadow stacks, CPUID 7:ECX[7]. */
  shstk: boolean;
  /** EPT execute-only translations, IA32_VMX_EPT_VPID_CAP[0]. */
  eptExecuteOnly: boolean;
  /** EPT page-walk length 5, IA32_VMX_EPT_VPID_CAP[7]. */
  ept5: boolean;
  /** 2 MiB EPT pages, IA32_VMX_EPT_VPID_CAP[16]. */
  ept2m: boolean;
  /** 1 GiB EPT pages, IA32_VMX_EPT_VPID_CAP[17]. */
  ept1g: boolean;
  /** EPT accessed and dirty flags, IA32_VMX_EPT_VPID_CAP[21]. */
  eptAd: boolean;
  /** Advanced exit information for EPT violations (qualification bits 11:9), IA32_VMX_EPT_VPID_CAP[22]. */
  eptAdvancedExitInfo: boolean;
  /** Supervisor shadow-stack control (EPTP bit 7), IA32_VMX_EPT_VPID_CAP[23]. */
  eptSss: boolean;
  /** Deviations of an emulated processor. */
  quirks: ReadonlySet<Quirk>;
}

/** A recent Intel processor with everything, 46 physical-address bits. `over` replaces single features. */
export function intelFeatures(over: Partial<CpuFeatures> = {}): CpuFeatures {
  return {
    vendor: 'intel',
    maxphyaddr: 46,
    page1g: true,
    pse36: true,
    nx: true,
    smep: true,
    smap: true,
    pku: true,
    pks: true,
    la57: true,
    pcid: true,
    invpcid: true,
    lam: true,
    shstk: true,
    eptExecuteOnly: true,
    ept5: true,
    ept2m: true,
    ept1g: true,
    eptAd: true,
    eptAdvancedExitInfo: true,
    eptSss: true,
    quirks: new Set(),
    ...over,
  };
}

/** A recent AMD processor, 48 physical-address bits. `over` replaces single features. */
export function amdFeatures(over: Partial<CpuFeatures> = {}): CpuFeatures {
  return intelFeatures({
    vendor: 'amd',
    maxphyaddr: 48,
    pks: false,
    lam: false,
    eptExecuteOnly: false,
    ept5: false,
    ept2m: false,
    ept1g: false,
    eptAd: false,
    eptAdvancedExitInfo: false,
    eptSss: false,
    ...over,
  });
}
