/** FNAME(sync_page): an unsync leaf table against the guest's entries. */
import type { KvmMmuPage, KvmVcpu } from '../kvm_host';

/** -1: the page does not fit its context any more and has to be zapped; 1: sptes changed, flush; 0: nothing to flush. */
export function sync_page(vcpu: KvmVcpu, sp: KvmMmuPage): number {
  void vcpu;
  void sp;
  return -1;
}
