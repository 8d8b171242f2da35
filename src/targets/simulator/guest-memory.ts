/** Where guest-physical memory lies, found without side effects: no page is populated, no memslot cache is filled. */
import { is_smm, KVM_MEMSLOT_INVALID, type KvmVcpu } from '../../kvm/kvm_host';
import type { Machine } from '../../kvm/machine';

const PAGE = 4096;

/** Where a page of some space lies: host address, zeros that nobody has touched yet, or nothing. */
export type Place = number | 'zeros' | null;

/** Host place of the page that holds a guest-physical address in an address space. */
export function gpaToHost(m: Machine, asId: number, gpa: number): Place {
  const gfn = Math.floor(gpa / PAGE);
  const slot = m.slotAt(asId, gfn);
  if (!slot || slot.flags & KVM_MEMSLOT_INVALID) return null;
  const page = m.host.lookup(slot.userspace_addr + BigInt(gfn - slot.base_gfn) * 4096n);
  if (!page) return null;
  const pfn = page.backing.pfns[page.index];
  return pfn < 0 ? 'zeros' : pfn * PAGE + (gpa % PAGE);
}

/** The address space that a vCPU's accesses use. */
export const addressSpaceOf = (vcpu: KvmVcpu): number => (is_smm(vcpu) && vcpu.kvm.machine.addressSpaces > 1 ? 1 : 0);

/** An aligned 64-bit (or 32-bit) word of guest-physical memory; null where there is none. */
export function readGuestWord(m: Machine, asId: number, gpa: number, size: 4 | 8): bigint | null {
  const at = gpaToHost(m, asId, gpa);
  if (at === null || at === 'zeros') return at === null ? null : 0n;
  return size === 8 ? m.mem.readQ(at) : BigInt(m.mem.read32(at));
}

/** Uses a vCPU's translator and leaves it as it was. */
export function undisturbed<T>(vcpu: KvmVcpu, use: () => T): T {
  const t = vcpu.translator;
  const { recorder, r } = t;
  const kept = r.slice();
  try {
    return use();
  } finally {
    r.set(kept);
    t.recorder = recorder;
  }
}
