/**
 * The structures of KVM's x86 MMU: struct kvm, kvm_vcpu, kvm_mmu, kvm_mmu_page, kvm_memory_slot (include/linux/kvm_host.h and
 * arch/x86/include/asm/kvm_host.h, v6.1 unless a field says otherwise). Field names are the kernel's.
 *
 * Units: gfn and pfn are frame numbers, hpa and gpa byte addresses, all as exact doubles (<= 2^52); 64-bit words are pairs of
 * unsigned 32-bit numbers (`lo`, `hi`) on the fault path and bigint where nobody counts nanoseconds. An absent physical address
 * (INVALID_PAGE) is {@link INVALID_PAGE}.
 */
import type { CpuState } from '../hw/regs';
import type { PmlState } from '../hw/pml';
import type { Processor } from '../hw/processor';
import type { Translator } from '../hw/translate';
import type { Machine } from './machine';
import type { Memslots } from './memslots';

/** INVALID_PAGE: no root. The kernel's value is all ones, which is not a physical address either. */
export const INVALID_PAGE = -1;
/** KVM_MMU_NUM_PREV_ROOTS (v4.20+). */
export const KVM_MMU_NUM_PREV_ROOTS = 3;

/** Access bits of shadow pages up to v7.1: ACC_EXEC_MASK, ACC_WRITE_MASK, ACC_USER_MASK, ACC_ALL. */
export const ACC_EXEC = 1;
export const ACC_WRITE = 2;
export const ACC_USER = 4;
export const ACC_ALL = 7;

/** KVM_MEM_* flags (include/uapi/linux/kvm.h) and KVM's own KVM_MEMSLOT_INVALID. */
export const KVM_MEM_LOG_DIRTY_PAGES = 1 << 0;
export const KVM_MEM_READONLY = 1 << 1;
export const KVM_MEMSLOT_INVALID = 1 << 16;
/** The flag of the 2015 RFC; never merged. */
export const KVM_MEM_X86_SMRAM = 1 << 24;
/** Third state of the design proposed in reply to it: hidden in SMM. The proposal gave it no name. */
export const KVM_MEM_X86_NORMAL_ONLY = 1 << 25;

/** hflags (arch/x86/include/asm/kvm_host.h). */
export const HF_GUEST_MASK = 1 << 5;
export const HF_SMM_MASK = 1 << 6;
export const HF_SMM_INSIDE_NMI_MASK = 1 << 7;

/** Requests that the MMU model uses; the kernel's numbers do not matter, their order of service does (vcpu_enter_guest). */
export type KvmRequest =
  | 'MMU_FREE_OBSOLETE_ROOTS'
  | 'MMU_SYNC'
  | 'LOAD_MMU_PGD'
  | 'TLB_FLUSH'
  | 'TLB_FLUSH_CURRENT'
  | 'TLB_FLUSH_GUEST'
  | 'TRIPLE_FAULT'
  | 'SMI'
  | 'EVENT';

/** struct kvm_memory_slot. */
export interface KvmMemorySlot {
  id: number;
  as_id: number;
  base_gfn: number;
  npages: number;
  /** host virtual address of base_gfn */
  userspace_addr: bigint;
  flags: number;
  /** one bit per page, or null when the slot does not log */
  dirty_bitmap: Uint32Array | null;
  /** the mapping of user space behind the whole slot and its page there; null where there is none, or several */
  backing: { readonly of: import('./host').Backing; readonly first: number } | null;
  arch: {
    /** lpage_info[level - 2][index].disallow_lpage for levels 2 and 3 */
    lpage_info: [Int32Array, Int32Array];
    /** rmap[level - 1]: by gfn index, the addresses of the leaf sptes that map it */
    rmap: import('./mmu/rmap_heads').RmapHeads[];
    /** gfn_write_track counts by gfn index */
    gfn_write_track: Map<number, number>;
    /** SPP: access maps by gfn index, only of frames that are restricted */
    subpage_wp_info?: Map<number, number>;
  };
}

/** struct kvm_mmu_page: the header of one shadow page. */
export class KvmMmuPage {
  /** kvm_mmu_page_role.word */
  role = 0;
  gfn = 0;
  /** pfn of the page that holds the 512 entries */
  spt = 0;
  mmu_valid_gen = 0;
  root_count = 0;
  tdp_mmu_page = false;
  tdp_mmu_root_count = 0;
  /** TDP MMU: the root was scheduled to be zapped (tdp_mmu_scheduled_root_to_zap) */
  tdp_mmu_scheduled_root_to_zap = false;
  unsync = false;
  unsync_children = 0;
  /** bit per index with an unsync child; allocated with the first one */
  unsync_child_bitmap: Uint32Array | null = null;
  /** addresses of the non-leaf sptes that point here */
  parent_ptes: Set<number> = new Set();
  /** TDP MMU: address of the only parent entry, or INVALID_PAGE for a root */
  ptep = INVALID_PAGE;
  /** indirect pages: gfn of each entry (shadowed_translation without the access bits), else null */
  gfns: Float64Array | null = null;
  /** indirect pages: guest access of each entry, else null */
  accesses: Uint8Array | null = null;
  write_flooding_count = 0;
  nx_huge_page_disallowed = false;
}

/** rsvd_bits_validate: [large][level-1] masks plus the EPT memory-type/permission set. */
export class RsvdBitsValidate {
  /** [large * 5 + level - 1] low halves */
  readonly lo = new Uint32Array(10);
  /** [large * 5 + level - 1] high halves */
  readonly hi = new Uint32Array(10);
  /** 64-bit set indexed by the low six bits of an entry; 0 where it does not apply */
  bad_mt_xwr = 0n;
}

/** One remembered root: struct kvm_mmu_root_info. */
export interface RootInfo {
  /** CR3, EPTP or nCR3 the root was built for; 0 for direct roots */
  pgd: bigint;
  hpa: number;
}

/** Which guest walker a context uses (FNAME(x) instances; `nonpaging` when CR0.PG is clear). */
export type GvaToGpa = 'nonpaging_gva_to_gpa' | 'paging32_gva_to_gpa' | 'paging64_gva_to_gpa' | 'ept_gva_to_gpa' | null;

/** struct kvm_mmu. */
export class KvmMmu {
  readonly name: 'root_mmu' | 'guest_mmu' | 'nested_mmu';
  /** cpu_role.base.word and cpu_role.ext.word */
  cpu_role_base = 0;
  cpu_role_ext = 0;
  /** CR4 as the context was built from: before v4.20 no half of a role tells its bits */
  walk_cr4 = 0;
  /** root_role.word (v5.19+), mmu_role.base (v4.20 .. v5.18); before, base_role with level, direct and access of the root added */
  root_role = 0;
  /** mmu_role.ext (v4.20 .. v5.18) */
  root_ext = 0;
  root: RootInfo = { pgd: 0n, hpa: INVALID_PAGE };
  prev_roots: RootInfo[] = [];
  /** SPP RFC: root of the sub-page permission table */
  sppt_root = INVALID_PAGE;
  permissions = new Uint8Array(16);
  pkru_mask = 0;
  guest_rsvd_check = new RsvdBitsValidate();
  shadow_zero_check = new RsvdBitsValidate();
  page_fault:
    | 'kvm_tdp_page_fault'
    | 'nonpaging_page_fault'
    | 'paging64_page_fault'
    | 'paging32_page_fault'
    | 'ept_page_fault'
    | null = null;
  gva_to_gpa: GvaToGpa = null;
  sync_page: string | null = null;
  invlpg: string | null = null;
  get_guest_pgd: 'get_guest_cr3' | 'nested_ept_get_eptp' | 'nested_svm_get_tdp_cr3' | null = null;
  inject_page_fault: 'kvm_inject_page_fault' | 'nested_ept_inject_page_fault' | 'nested_svm_inject_npf_exit' | null =
    null;
  /** pfns of the pae_root, pml4_root and pml5_root pages, or INVALID_PAGE */
  pae_root = INVALID_PAGE;
  pml4_root = INVALID_PAGE;
  pml5_root = INVALID_PAGE;
  pdptrs = new BigUint64Array(4);

  constructor(name: KvmMmu['name']) {
    this.name = name;
    for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) this.prev_roots.push({ pgd: 0n, hpa: INVALID_PAGE });
  }
}

/** An exception waiting for injection (struct kvm_queued_exception), or being delivered when the last exit came. */
export interface QueuedException {
  vector: number;
  errorCode: number | null;
  /** faulting address of a #PF: goes to CR2 when injected */
  payload: bigint | null;
  injected: boolean;
}

/** One piece of an MMIO access that user space has to complete (struct kvm_mmio_fragment). */
export interface MmioFragment {
  gpa: number;
  len: number;
  data: bigint;
}

/** struct kvm_vcpu with the parts of kvm_vcpu_arch that the MMU and the exits around it need. */
export class KvmVcpu {
  readonly kvm: Kvm;
  readonly vcpu_id: number;
  /** the processor's registers: guest state while the guest runs, vcpu->arch.regs and cr0..4 to KVM */
  readonly regs: CpuState;
  readonly processor: Processor;
  readonly translator: Translator;
  hflags = 0;
  /** nested virtualization: what L1 asked for and, while L2 runs, how to get back; null where the guest has neither SVM nor VMX */
  nested: import('./svm_nested').SvmNested | import('./vmx_nested_state').VmxNested | null = null;
  /** an exception of L2 that L1 intercepts, to be turned into an exit before the next entry (exception_vmexit) */
  exception_vmexit: QueuedException | null = null;
  /** EPT: qualification of the last violation, or what the walk of L1's EPT made of it (vcpu->arch.exit_qualification) */
  exit_qualification = 0n;
  /** the page-modification log; null until a slot logs dirty pages */
  pml: PmlState | null = null;
  smbase = 0x30000;
  smi_pending = false;
  readonly root_mmu = new KvmMmu('root_mmu');
  readonly guest_mmu = new KvmMmu('guest_mmu');
  readonly nested_mmu = new KvmMmu('nested_mmu');
  mmu: KvmMmu = this.root_mmu;
  walk_mmu: KvmMmu = this.root_mmu;
  /** the one-entry MMIO cache */
  mmio_gva = 0n;
  mmio_access = 0;
  mmio_gfn = 0;
  mmio_gen = 0;
  requests: Set<KvmRequest> = new Set();
  exception: QueuedException | null = null;
  last_used_slot: KvmMemorySlot | null = null;
  last_used_slot_gen = -1;
  maxphyaddr = 36;
  last_retry_eip = 0n;
  last_retry_addr = 0n;
  /** emulator state that survives an exit to user space */
  emul: import('./emulate').EmulateCtxt | null = null;
  mmio_needed = false;
  mmio_is_write = false;
  mmio_read_completed = false;
  mmio_fragments: MmioFragment[] = [];
  /** counters of struct kvm_vcpu_stat that users ask for, by kernel name */
  stat: Record<string, number> = {};
  /** halted by HLT (mp_state KVM_MP_STATE_HALTED) */
  halted = false;

  constructor(kvm: Kvm, vcpu_id: number, regs: CpuState, processor: Processor, translator: Translator) {
    this.kvm = kvm;
    this.vcpu_id = vcpu_id;
    this.regs = regs;
    this.processor = processor;
    this.translator = translator;
  }
}

/** struct kvm with the MMU parts of kvm_arch. */
export class Kvm {
  readonly machine: Machine;
  readonly memslots: Memslots[];
  readonly vcpus: KvmVcpu[] = [];
  /** shadow pages by gfn (mmu_page_hash without its bucket collisions) */
  readonly mmu_page_hash = new Map<number, KvmMmuPage[]>();
  /** oldest first, which is the kernel's list read from its tail */
  readonly active_mmu_pages = new Set<KvmMmuPage>();
  /** page_header(): table frame -> its header */
  readonly sp_by_pfn = new Map<number, KvmMmuPage>();
  /** newest first */
  readonly tdp_mmu_roots: KvmMmuPage[] = [];
  tdp_mmu_pages = 0;
  mmu_valid_gen = 0;
  n_used_mmu_pages = 0;
  n_requested_mmu_pages = 0;
  n_max_mmu_pages = 64;
  indirect_shadow_pages = 0;
  mmu_invalidate_seq = 0;
  mmu_invalidate_in_progress = 0;
  mmu_invalidate_range_start = 0n;
  mmu_invalidate_range_end = 0n;
  /** SPP from 2020 on: root of the one sub-page permission table of the VM */
  sppt_root = INVALID_PAGE;
  /** how often a memslot was searched (lookups that the MMIO cache saves) */
  memslot_lookups = 0;
  stat: Record<string, number> = {};

  constructor(machine: Machine, memslots: Memslots[]) {
    this.machine = machine;
    this.memslots = memslots;
  }
}

/** is_smm() */
export const is_smm = (vcpu: KvmVcpu): boolean => (vcpu.hflags & HF_SMM_MASK) !== 0;
/** is_guest_mode(): the vCPU runs L2 */
export const is_guest_mode = (vcpu: KvmVcpu): boolean => (vcpu.hflags & HF_GUEST_MASK) !== 0;
/** mmu_is_nested() */
export const mmu_is_nested = (vcpu: KvmVcpu): boolean => vcpu.walk_mmu === vcpu.nested_mmu;
/** kvm_arch_vcpu_memslots_id(): the address space that the vCPU's accesses use (v4.2+) */
export const kvm_arch_vcpu_memslots_id = (vcpu: KvmVcpu): number => (vcpu.hflags & HF_SMM_MASK ? 1 : 0);
/** VALID_PAGE() */
export const VALID_PAGE = (hpa: number): boolean => hpa !== INVALID_PAGE;
