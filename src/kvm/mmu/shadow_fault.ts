/** FNAME(page_fault): faults under shadow paging. */
import type { KvmVcpu } from '../kvm_host';
import { RET_PF, type KvmPageFault } from './fault';

/** Handles a #PF intercepted under shadow paging. */
export function shadow_page_fault(vcpu: KvmVcpu, fault: KvmPageFault): RET_PF {
  void vcpu;
  void fault;
  return -5 as RET_PF;
}
