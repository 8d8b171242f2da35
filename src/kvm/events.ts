/**
 * The typed events of a run. Those that the kernel traces carry the kernel's trace event name and its field names
 * (arch/x86/kvm/mmu/mmutrace.h, arch/x86/kvm/trace.h, v6.1), so that a run of the simulator and a recorded trace can be compared
 * field by field; the others are what the processor does or what the MMU does without a trace event.
 *
 * Units: gfn/pfn are frame numbers, gpa/hpa byte addresses; 64-bit words are bigint. `vcpu` is the vCPU index, -1 for a VM ioctl.
 */
import type { WhyRecord } from '../hw/why';

/** Fields common to all events. */
export interface EventBase {
  readonly vcpu: number;
}

/** kvmmmu:kvm_mmu_get_page and its siblings: one shadow page header. */
export interface PageEventFields extends EventBase {
  /** kvm_mmu_page.mmu_valid_gen */
  readonly mmu_valid_gen: number;
  readonly gfn: bigint;
  /** the whole kvm_mmu_page_role word */
  readonly role: number;
  readonly root_count: number;
  readonly unsync: number;
}

/** Events with the kernel's trace event names. */
export type TraceEvent =
  | (PageEventFields & { readonly kind: 'kvm_mmu_get_page'; readonly created: number })
  | (PageEventFields & { readonly kind: 'kvm_mmu_prepare_zap_page' | 'kvm_mmu_sync_page' | 'kvm_mmu_unsync_page' })
  | (EventBase & { readonly kind: 'kvm_mmu_pagetable_walk'; readonly addr: bigint; readonly pferr: number })
  | (EventBase & { readonly kind: 'kvm_mmu_paging_element'; readonly pte: bigint; readonly level: number })
  | (EventBase & { readonly kind: 'kvm_mmu_set_accessed_bit' | 'kvm_mmu_set_dirty_bit'; readonly gpa: bigint })
  | (EventBase & { readonly kind: 'kvm_mmu_walker_error'; readonly pferr: number })
  | (EventBase & {
      readonly kind: 'kvm_mmu_set_spte';
      readonly gfn: bigint;
      readonly spte: bigint;
      /** physical address of the entry */
      readonly sptep: bigint;
      readonly level: number;
      readonly r: number;
      readonly x: number;
      /** -1 where the format has no user bit */
      readonly u: number;
    })
  | (EventBase & {
      readonly kind: 'kvm_mmu_spte_requested';
      readonly gfn: bigint;
      readonly pfn: bigint;
      readonly level: number;
    })
  | (EventBase & {
      readonly kind: 'kvm_tdp_mmu_spte_changed';
      readonly as_id: number;
      readonly gfn: bigint;
      readonly level: number;
      readonly old_spte: bigint;
      readonly new_spte: bigint;
    })
  | (EventBase & {
      readonly kind: 'mark_mmio_spte';
      readonly sptep: bigint;
      readonly gfn: bigint;
      readonly access: number;
      readonly gen: bigint;
    })
  | (EventBase & {
      readonly kind: 'check_mmio_spte';
      readonly spte: bigint;
      readonly kvm_gen: bigint;
      readonly spte_gen: bigint;
    })
  | (EventBase & {
      readonly kind: 'handle_mmio_page_fault';
      readonly addr: bigint;
      readonly gfn: bigint;
      readonly access: number;
    })
  | (EventBase & {
      readonly kind: 'fast_page_fault';
      readonly cr2_or_gpa: bigint;
      readonly error_code: bigint;
      readonly sptep: bigint;
      readonly old_spte: bigint;
      readonly new_spte: bigint;
      /** RET_PF_* of the era */
      readonly ret: number;
    })
  | (EventBase & {
      readonly kind: 'kvm_mmu_zap_all_fast';
      readonly mmu_valid_gen: number;
      readonly mmu_used_pages: number;
    })
  | (EventBase & {
      readonly kind: 'kvm_mmu_split_huge_page';
      readonly gfn: bigint;
      readonly spte: bigint;
      readonly level: number;
      readonly errno: number;
    })
  | (EventBase & {
      readonly kind: 'kvm_page_fault';
      readonly guest_rip: bigint;
      readonly fault_address: bigint;
      readonly error_code: bigint;
    })
  | (EventBase & {
      readonly kind: 'kvm_exit';
      /** name of the exit: EPT_VIOLATION, EPT_MISCONFIG, npf, IO_INSTRUCTION, io, … as the kernel prints it */
      readonly reason: string;
      readonly exit_reason: number;
      readonly guest_rip: bigint;
      readonly info1: bigint;
      readonly info2: bigint;
      readonly intr_info: number;
      readonly error_code: number;
    })
  | (EventBase & {
      /** an exit of L2, before it is decided whether L1 or KVM handles it; the same fields */
      readonly kind: 'kvm_nested_vmexit';
      readonly reason: string;
      readonly exit_reason: number;
      readonly guest_rip: bigint;
      readonly info1: bigint;
      readonly info2: bigint;
      readonly intr_info: number;
      readonly error_code: number;
    })
  | (EventBase & {
      /** L1 entered L2: VMRUN, VMLAUNCH or VMRESUME */
      readonly kind: 'kvm_nested_vmenter';
      /** RIP of L1, RIP of L2 */
      readonly rip: bigint;
      readonly nested_rip: bigint;
      /** guest-physical address of L1's VMCB or VMCS */
      readonly vmcb: bigint;
      readonly int_ctl: number;
      readonly event_inj: number;
      /** nested NPT or nested EPT is on; guest_pgd then is nCR3 or EPTP, else L2's CR3 */
      readonly tdp_enabled: number;
      readonly guest_pgd: bigint;
    })
  | (EventBase & {
      /** what L1 intercepts (SVM only) */
      readonly kind: 'kvm_nested_intercepts';
      readonly cr_read: number;
      readonly cr_write: number;
      readonly exceptions: number;
      readonly intercept1: number;
      readonly intercept2: number;
      readonly intercept3: number;
    })
  | (EventBase & {
      /** an exit that L1 gets to see: #VMEXIT or VM exit as L1's VMCB or VMCS reports it */
      readonly kind: 'kvm_nested_vmexit_inject';
      readonly exit_code: number;
      readonly exit_info1: bigint;
      readonly exit_info2: bigint;
      readonly exit_int_info: number;
      readonly exit_int_info_err: number;
    })
  | (EventBase & { readonly kind: 'kvm_entry'; readonly rip: bigint })
  | (EventBase & {
      readonly kind: 'kvm_inj_exception';
      readonly exception: number;
      readonly has_error: number;
      readonly error_code: number;
      readonly reinjected: number;
    })
  | (EventBase & {
      readonly kind: 'vcpu_match_mmio';
      readonly gva: bigint;
      readonly gpa: bigint;
      readonly write: number;
      readonly gpa_match: number;
    })
  | (EventBase & {
      readonly kind: 'kvm_mmio';
      /** 0 read that needs user space, 1 read with its value, 2 write */
      readonly type: 0 | 1 | 2;
      readonly len: number;
      readonly gpa: bigint;
      readonly val: bigint;
    })
  | (EventBase & {
      readonly kind: 'kvm_pio';
      readonly rw: number;
      readonly port: number;
      readonly size: number;
      readonly count: number;
      readonly val: bigint;
    })
  | (EventBase & {
      readonly kind: 'kvm_emulate_insn';
      readonly rip: bigint;
      readonly csbase: bigint;
      readonly insn: string;
      readonly len: number;
      readonly failed: number;
    })
  | (EventBase & { readonly kind: 'kvm_userspace_exit'; readonly reason: number; readonly errno: number })
  | (EventBase & { readonly kind: 'kvm_smm_transition'; readonly smbase: bigint; readonly entering: number })
  | (EventBase & { readonly kind: 'kvm_unmap_hva_range'; readonly start: bigint; readonly end: bigint });

/** Why a guest or KVM is interrupted; each carries the record of the walk that decided. */
export type FaultEvent =
  | (EventBase & {
      readonly kind: 'guest_page_fault';
      readonly gva: bigint;
      readonly errorCode: number;
      readonly injected: boolean;
      readonly why: WhyRecord | null;
    })
  | (EventBase & {
      readonly kind: 'guest_exception';
      readonly vector: number;
      readonly errorCode: number | null;
      readonly why: WhyRecord | null;
    })
  | (EventBase & {
      readonly kind: 'ept_violation' | 'ept_misconfig' | 'npf' | 'spp_miss' | 'spp_misconfig';
      readonly gpa: bigint;
      readonly gva: bigint | null;
      /** exit qualification (Intel) or EXITINFO1 (AMD) */
      readonly code: bigint;
      readonly write: boolean;
      readonly fetch: boolean;
      readonly user: boolean;
      readonly why: WhyRecord | null;
    })
  | (EventBase & {
      readonly kind: 'mmio_hit';
      readonly gpa: bigint;
      readonly gfn: bigint;
      readonly write: boolean;
      readonly spte: bigint | null;
      readonly generation: bigint | null;
      readonly how: 'spte' | 'vcpu-cache';
      readonly why: WhyRecord | null;
    });

/** Events of the sub-page permission patches. */
export type SppEvent =
  | (EventBase & {
      readonly kind: 'kvm_spp_set_subpages';
      readonly gfn: bigint;
      readonly npages: number;
      /** map of the first page: bit i is 1 if the 128 bytes at 128 * i are writable */
      readonly access: number;
    })
  | (EventBase & {
      readonly kind: 'kvm_spp_induced_page_fault';
      /** exact to the byte */
      readonly gpa: bigint;
      readonly insn_len: number;
    });

/** Changes of state that have no trace event of their own in the kernel. */
export type StateEvent =
  | (EventBase & { readonly kind: 'smm_enter' | 'smm_exit'; readonly smbase: bigint })
  | (EventBase & {
      readonly kind: 'role_changed';
      readonly mmu: string;
      readonly cpu_role: bigint;
      readonly root_role: number;
      readonly old_cpu_role: bigint;
      readonly old_root_role: number;
    })
  | (EventBase & {
      readonly kind: 'root_switched';
      readonly mmu: string;
      readonly root_hpa: bigint;
      readonly pgd: bigint;
    })
  | (EventBase & {
      readonly kind: 'memslot_changed';
      readonly as_id: number;
      readonly id: number;
      readonly change: 'create' | 'delete' | 'move' | 'flags';
      readonly generation: bigint;
    })
  | (EventBase & {
      readonly kind: 'memslot_error';
      readonly as_id: number;
      readonly id: number;
      readonly errno: number;
      readonly text: string;
    })
  | (EventBase & { readonly kind: 'tlb_flush'; readonly scope: string; readonly reason: string })
  | (EventBase & { readonly kind: 'l2_enter' | 'l2_exit'; readonly reason: string });

export type KvmEvent = TraceEvent | FaultEvent | SppEvent | StateEvent;
export type KvmEventKind = KvmEvent['kind'];
