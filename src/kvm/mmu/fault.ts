/**
 * struct kvm_page_fault and the RET_PF_* results (arch/x86/kvm/mmu/mmu_internal.h, v6.1).
 */
import type { KvmMemorySlot } from '../kvm_host';
import type { PfnKind } from '../kvm_main';

/** RET_PF_*: names, because the numbers change with the kernel (KernelCaps.retPf has them). Negative: an errno for user space. */
export const enum RET_PF {
  CONTINUE = 0,
  RETRY = 1,
  EMULATE = 2,
  INVALID = 3,
  FIXED = 4,
  SPURIOUS = 5,
  USERSPACE = 6,
  /** a gfn that shadow pages keep write-protected; kernels before v6.12 say EMULATE and look again */
  WRITE_PROTECTED = 7,
}

/** One fault on its way through the MMU. A vCPU has one, reused: faults allocate nothing. */
export class KvmPageFault {
  /** faulting address: a gpa with TDP, a gva with shadow paging */
  addrLo = 0;
  addrHi = 0;
  /** PFERR_* */
  error_code = 0;
  error_code_hi = 0;
  prefetch = false;
  exec = false;
  write = false;
  present = false;
  rsvd = false;
  user = false;
  is_tdp = false;
  nx_huge_page_workaround_enabled = false;
  huge_page_disallowed = false;
  max_level = 3;
  req_level = 1;
  goal_level = 1;
  gfn = 0;
  slot: KvmMemorySlot | null = null;
  pfnKind: PfnKind = 'noslot';
  pfn = 0;
  map_writable = false;
  mmu_seq = 0;
  write_fault_to_shadow_pgtable = false;

  /** The address as a double (exact up to 2^53: physical addresses). */
  get addr(): number {
    return this.addrHi * 0x100000000 + this.addrLo;
  }
}
