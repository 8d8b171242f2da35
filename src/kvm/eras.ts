/**
 * What differs between kernels, as named capabilities. Code asks for a capability, never for a version (design: "Kernel eras are
 * data"). Each row cites where the fact was read; reference: kvm-mmu-model.md §0.1 ff.
 */
import { parseKernel, type KernelVersion } from '../words/kernels';

/** The capabilities of a kernel's MMU. */
export interface KernelCaps {
  readonly kernel: KernelVersion;
  /** address spaces per VM on x86: 2 with SMM (v4.2+) */
  readonly addressSpaces: 1 | 2;
  /** KVM_USER_MEM_SLOTS */
  readonly userMemSlots: number;
  /** KVM_MEM_SLOTS_NUM: user and private slots */
  readonly memSlotsNum: number;
  /** memslot generation: initial value per address space, step per swap, and the "update in progress" marker */
  readonly memslotGeneration: 'none' | 'plus2-from-minus150' | 'plus2-from-as-150' | 'plus2-from-as';
  /** cpu_role beside root_role (v5.17 series on) */
  readonly cpuRole: boolean;
  /** TDP root role independent of the guest's CR0/CR4/EFER (v5.19+) */
  readonly tdpRoleFixed: boolean;
  /**
   * which guest bits the TDP role repeats before that: none (v4.19 and older), NX, WP and PAE (v4.20, v5.0), NX and WP (v5.1..v5.16),
   * SMEP/SMAP too (v5.17, seed 1)
   */
  readonly tdpRoleFollows: 'none' | 'nx-wp-pae' | 'nx-wp' | 'nx-wp-smep';
  /**
   * What kvm_mmu_get_page() makes of bit 4 in the role of a direct page: cr4_pae = 0 (up to v5.0), gpte_is_8_bytes = 1 (v5.1..v5.16),
   * or what the page above has (has_4_byte_gpte, v5.17)
   */
  readonly directPageGpte: 'pae-0' | '8-bytes' | 'as-parent';
  /**
   * Roles of shadow EPT: root_mmu's with some fields replaced (v5.0 and older), one marked by cr0_wp and smap_andnot_wp together
   * (v5.1..v5.13), or one of the EPTP alone (v5.14)
   */
  readonly shadowEptRole: 'inherited' | 'marked' | 'plain';
  /**
   * mmu_role of nested_mmu: there is none (up to v4.19, and where cpu_role is), the common part (v4.20..), or all that a walk goes by
   * (v5.14, and the stable releases that have cr4_la57 again)
   */
  readonly nestedMmuRole: 'none' | 'common' | 'full';
  /**
   * Registers that the role of shadow NPT goes by: L1's as they are (up to v5.13), CR0 = PG and L1's CR4 without PKE (v5.14), CR0 =
   * PG|WP and no SMEP and SMAP either (v7.2; SMEP stands for GMET there, which the model does not have)
   */
  readonly shadowNptRegs: 'l1' | 'pg' | 'pg-wp';
  /** with CR0.PG = 0 the registers that guest paging would use do not count in a role (v5.14); before, they count as they stand */
  readonly roleIgnoresUnused: boolean;
  /** the TDP MMU exists (v5.10+) and is on unless asked otherwise (v5.15+) */
  readonly tdpMmu: 'absent' | 'optional' | 'default';
  /** RET_PF_* numbering */
  readonly retPf: Readonly<
    Record<'CONTINUE' | 'RETRY' | 'EMULATE' | 'WRITE_PROTECTED' | 'INVALID' | 'FIXED' | 'SPURIOUS', number>
  >;
  /** the vCPU is in guest mode before the MMU for nested NPT is set up, so its pages are marked (v6.14, and stable releases since) */
  readonly nestedNptGuestMode: boolean;
  /** only a write-protected gfn is unprotected for a retry, and only a retry that unprotected something happens (v6.12) */
  readonly retryOnlyUnprotected: boolean;
  /** a huge TDP MMU entry above the goal level is split, not zapped (v6.2; 6.1 zaps, 6.12 splits) */
  readonly tdpSplitOnFault: boolean;
  /** tdp_mmu_zap_spte_atomic() lets the change take effect after the flush, so FROZEN_SPTE is never its new value (v6.10) */
  readonly zapFollowsAfterFlush: boolean;
  /** tdp_mmu_zap_root() goes 4K, 2M, 1G, root (v6.9; seen in traces of 6.12.107), not 1G, root */
  readonly zapRootLevelByLevel: boolean;
  /** INVLPG synchronizes the one entry of an unsync page, and never maps what was not mapped (v6.4) */
  readonly invlpgSyncsSpte: boolean;
  /** FNAME(is_self_change_mapping) keeps self-mapping guest huge pages small (until v6.2) */
  readonly selfChangeMapping: boolean;
  /** the page-fault path gets all 64 bits of the error code (v6.11); before, the low half */
  readonly errorCode64: boolean;
  /** kvm_page_fault has 64 bits of error code or qualification, before v6.0 the low 32 */
  readonly pageFaultEvent64: boolean;
  /** direct_pte_prefetch() maps the empty entries behind the last present one of a group, too (v5.15) */
  readonly prefetchesTrailing: boolean;
  /** mmu_set_spte() traces MMIO sptes as kvm_mmu_set_spte, too (before v5.13) */
  readonly mmioSpteEvent: boolean;
  /** kvm_mmu_spte_requested names the frame of the faulting address, a linear one with shadow paging, not the gfn (before v5.16) */
  readonly requestedFrameOfAddress: boolean;
  /**
   * make_spte() neither unsyncs nor sets D where the entry was writable: whatever it is made for (v5.16), or in kvm_sync_page() only.
   * From v6.13 on a writable entry always gets D.
   */
  readonly writableKeepsDirty: 'always' | 'sync' | 'never';
  /** a prefetched neighbour may make a guest page table unsync (before v5.16) */
  readonly prefetchUnsyncs: boolean;
  /** SVM: a shutdown resets the vCPU as INIT does (v5.13); before, only what is in the VMCB and CR0, CR4, EFER */
  readonly shutdownResets: boolean;
  /** logging that begins with all pages dirty write-protects huge pages at once (before v5.14), or when the log is cleared */
  readonly initSetProtectsHuge: boolean;
  /** kvm.eager_page_split exists (v5.18) */
  readonly eagerPageSplit: boolean;
  /** entries made for L2 count as dirty by W only where the processor logs dirty pages (v5.12), before always */
  readonly adWrprotNeedsPml: boolean;
  /** … namely entries of pages with role.guest_mode (v5.18), or those that a fault on guest_mmu makes */
  readonly adWrprotFor: 'guest_mmu' | 'guest_mode';
  /** CR4.PCIDE 1 -> 0 resets the MMU's context (before v5.16) */
  readonly pcideResetsContext: boolean;
  /** a change of CR4.PGE does, too (before v5.14) */
  readonly pgeResetsContext: boolean;
  /** CR2 of a #PF that KVM injects into L2 reaches the guest (v6.1; the exception payload was forgotten before) */
  readonly guestFaultAddressKept: boolean;
  /** SVM: rip of kvm_nested_vmenter is that of VMRUN, or of the instruction behind it (v5.13) */
  readonly nestedVmrunRip: 'vmrun' | 'next';
  /** EPT violation -> PFERR: which qualification bits make P, and whether a data read sets U */
  readonly eptPresentBits: 'readable' | 'any';
  readonly eptReadSetsUser: boolean;
  /** ACC_READ_MASK exists: a walk of L1's EPT asks for R whatever the error code says (v7.2) */
  readonly accessHasRead: boolean;
  /** new sptes have A, and D if writable, where the processor does not look at them, too (EPT without A/D flags, v6.13) */
  readonly adFlagsAlways: boolean;
  /** fast_page_fault() is tried for entries that are not present although accesses are tracked by A (EPT before v5.19) */
  readonly fastFaultWithAd: boolean;
  /** VMX: kvm_exit tells the event whose delivery the exit interrupted; 0 before v5.13, which is read behind the tracepoint */
  readonly exitHasVectoring: boolean;
  /** the context of shadow EPT has NX: a refused fetch has PFERR_FETCH (before v5.14) */
  readonly eptContextHasNx: boolean;
  /** VMX: kvm_nested_vmenter exists (v6.0) */
  readonly vmxNestedVmenter: boolean;
  /** kvm_tdp_mmu_spte_changed comes behind the page that the change removes (seen in 7.3.4; not in 6.12.107) */
  readonly tdpChangeTracedLast: boolean;
  /** PFERR_GUEST_FINAL/PAGE bits (32, 33) passed on (v4.9+ on AMD, v5.x on Intel) */
  readonly guestFinalBits: boolean;
  /** the vCPU's MMIO cache is compared with the generation of address space 0 whatever the vCPU's (v4.4 x86.h; seen in
   * snapshots of 6.1.176, where mmio_gen is the generation of address space 0 inside SMM, and in a run of 6.12.107; 6.1.192 uses the
   * vCPU's; from when on the main line does is not known, before v6.13 it does not) */
  readonly mmioCacheGenerationOfAs0: boolean;
  /** what L1 reads as exit qualification of a misconfiguration of its EPT: that of the violation behind it, or 0 (v6.10) */
  readonly eptMisconfigQualification: 'kept' | 'zero';
  /** SMM entry order: hflags and role change before (v6.1) or after (v4.4) the state is written */
  readonly smmExitFirst: boolean;
  /** a freed root of the TDP MMU stays for reuse until it is invalidated (6.1.y, v6.2+) */
  readonly tdpRootsKept: boolean;
  /** SPTEs of a table whose child is already there with the same gfn and role are left alone */
  readonly childSpExists: 'present-and-small' | 'same-gfn-and-role';
  readonly prevRoots: boolean;
  /** a context is rebuilt only if its role, base or ext, changed (v4.20); before, each time */
  readonly contextByRole: boolean;
  /** sub-page permissions: the 2018 RFC with an SPPT per kvm_mmu, the 2020 series with one per VM */
  readonly spp: 'absent' | 'rfc-2018' | 'v12';
  /** with EPT the guest writes CR0.WP without an exit (v6.4, and the stable releases of spring 2023: 6.1.29, 5.15.112) */
  readonly cr0WpGuestOwned: boolean;
}

/** Whether a kernel's release is at least `v`; the stable patch level does not count. */
function at(k: KernelVersion, v: string): boolean {
  const { major, minor } = parseKernel(v);
  return k.major > major || (k.major === major && k.minor >= minor);
}

/** Whether a kernel is of this long-term series, at least at this patch level (a name without one means the latest). */
const stable = (k: KernelVersion, major: number, minor: number, patch: number): boolean =>
  k.major === major && k.minor === minor && k.patchSet === undefined && (k.patch ?? patch) >= patch;

/** The capabilities of the kernel of that name. */
export function kernelCaps(kernel: KernelVersion): KernelCaps {
  const user = at(kernel, 'v5.11') ? 32764 : at(kernel, 'v4.1') ? 509 : at(kernel, 'v3.11') ? 125 : 32;
  return {
    kernel,
    addressSpaces: at(kernel, 'v4.2') ? 2 : 1,
    userMemSlots: user,
    memSlotsNum: user + (at(kernel, 'v3.11') ? 3 : 4),
    memslotGeneration: at(kernel, 'v5.0')
      ? 'plus2-from-as'
      : at(kernel, 'v4.19')
        ? 'plus2-from-as-150'
        : at(kernel, 'v3.11')
          ? 'plus2-from-minus150'
          : 'none',
    cpuRole: at(kernel, 'v5.17'),
    tdpRoleFixed: at(kernel, 'v5.19'),
    tdpRoleFollows: at(kernel, 'v5.17')
      ? 'nx-wp-smep'
      : at(kernel, 'v5.1')
        ? 'nx-wp'
        : at(kernel, 'v4.20')
          ? 'nx-wp-pae'
          : 'none',
    directPageGpte: at(kernel, 'v5.17') ? 'as-parent' : at(kernel, 'v5.1') ? '8-bytes' : 'pae-0',
    shadowEptRole: at(kernel, 'v5.14') ? 'plain' : at(kernel, 'v5.1') ? 'marked' : 'inherited',
    nestedMmuRole:
      !at(kernel, 'v4.20') || at(kernel, 'v5.19') || kernel.patchSet === 'seed1'
        ? 'none'
        : at(kernel, 'v5.14') || stable(kernel, 5, 10, 48) || stable(kernel, 5, 12, 15) || stable(kernel, 5, 13, 1)
          ? 'full'
          : 'common',
    shadowNptRegs: at(kernel, 'v7.2') ? 'pg-wp' : at(kernel, 'v5.14') ? 'pg' : 'l1',
    nestedNptGuestMode:
      at(kernel, 'v6.14') || stable(kernel, 6, 1, 129) || stable(kernel, 6, 6, 79) || stable(kernel, 6, 12, 16),
    roleIgnoresUnused: at(kernel, 'v5.14'),
    tdpMmu: at(kernel, 'v5.15') ? 'default' : at(kernel, 'v5.10') ? 'optional' : 'absent',
    retPf: at(kernel, 'v6.12')
      ? { CONTINUE: 0, RETRY: 1, EMULATE: 2, WRITE_PROTECTED: 3, INVALID: 4, FIXED: 5, SPURIOUS: 6 }
      : at(kernel, 'v5.17')
        ? { CONTINUE: 0, RETRY: 1, EMULATE: 2, WRITE_PROTECTED: 2, INVALID: 3, FIXED: 4, SPURIOUS: 5 }
        : { CONTINUE: -1, RETRY: 0, EMULATE: 1, WRITE_PROTECTED: 1, INVALID: 2, FIXED: 3, SPURIOUS: 4 },
    retryOnlyUnprotected: at(kernel, 'v6.12'),
    tdpSplitOnFault: at(kernel, 'v6.2'),
    zapFollowsAfterFlush: at(kernel, 'v6.10'),
    zapRootLevelByLevel: at(kernel, 'v6.9'),
    invlpgSyncsSpte: at(kernel, 'v6.4'),
    selfChangeMapping: !at(kernel, 'v6.3'),
    errorCode64: at(kernel, 'v6.11'),
    pageFaultEvent64: at(kernel, 'v6.0'),
    prefetchesTrailing: at(kernel, 'v5.15'),
    mmioSpteEvent: !at(kernel, 'v5.13'),
    requestedFrameOfAddress: !at(kernel, 'v5.16'),
    writableKeepsDirty: at(kernel, 'v6.13') ? 'never' : at(kernel, 'v5.16') ? 'always' : 'sync',
    prefetchUnsyncs: !at(kernel, 'v5.16'),
    shutdownResets: at(kernel, 'v5.13'),
    initSetProtectsHuge: !at(kernel, 'v5.14'),
    eagerPageSplit: at(kernel, 'v5.18'),
    adWrprotNeedsPml: at(kernel, 'v5.12'),
    adWrprotFor: at(kernel, 'v5.18') ? 'guest_mode' : 'guest_mmu',
    pcideResetsContext: !at(kernel, 'v5.16'),
    pgeResetsContext: !at(kernel, 'v5.14'),
    guestFaultAddressKept: at(kernel, 'v6.1'),
    nestedVmrunRip: at(kernel, 'v5.13') ? 'next' : 'vmrun',
    eptPresentBits: at(kernel, 'v4.19') ? 'any' : 'readable',
    eptReadSetsUser: at(kernel, 'v4.19') && !at(kernel, 'v7.2'),
    accessHasRead: at(kernel, 'v7.2'),
    adFlagsAlways: at(kernel, 'v6.13'),
    fastFaultWithAd: !at(kernel, 'v5.19'),
    exitHasVectoring: at(kernel, 'v5.13'),
    eptContextHasNx: !at(kernel, 'v5.14'),
    vmxNestedVmenter: at(kernel, 'v6.0'),
    tdpChangeTracedLast: at(kernel, 'v7.2'),
    guestFinalBits: at(kernel, 'v4.19'),
    // Releases that end in a stable number that nobody looked at are taken for those of the reference, 6.1.192 among them.
    mmioCacheGenerationOfAs0:
      !at(kernel, 'v7.3') && !(kernel.major === 6 && kernel.minor === 1 && (kernel.patch ?? 999) > 176),
    eptMisconfigQualification: at(kernel, 'v6.10') ? 'zero' : 'kept',
    smmExitFirst: at(kernel, 'v5.10'),
    tdpRootsKept: at(kernel, 'v6.1'),
    childSpExists: at(kernel, 'v6.1') ? 'same-gfn-and-role' : 'present-and-small',
    prevRoots: at(kernel, 'v4.20'),
    contextByRole: at(kernel, 'v4.20'),
    spp: kernel.patchSet === 'spp-rfc-2018' ? 'rfc-2018' : kernel.patchSet === 'spp-v12' ? 'v12' : 'absent',
    cr0WpGuestOwned: at(kernel, 'v6.4') || stable(kernel, 6, 1, 29) || stable(kernel, 5, 15, 112),
  };
}
