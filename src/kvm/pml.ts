/**
 * Page-modification logging of kvm_intel: the processor writes down which pages it made dirty, KVM copies that into the dirty bitmaps.
 * Facts: arch/x86/kvm/vmx/vmx.c (vmx_flush_pml_buffer(), vmx_update_cpu_dirty_logging(), handle_pml_full()), v6.1; reference 3.7.
 */
import { PML_ENTRIES, PmlState } from '../hw/pml';
import { enter, leave } from './observer';
import { is_guest_mode, type Kvm, type KvmVcpu } from './kvm_host';
import { kvm_vcpu_gfn_to_memslot, mark_page_dirty_in_slot } from './kvm_main';

/** vmx_update_cpu_dirty_logging(): the processor logs while some slot wants to know, and never for L2. */
export function vmx_update_cpu_dirty_logging(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  const ept = vcpu.translator.stage2.ept;
  if (!m.config.pml || !ept) return;
  const logging = vcpu.kvm.memslots.some((slots) => slots.logging > 0);
  if (logging) vcpu.pml ??= new PmlState(m.host.allocPage());
  ept.pml = logging && !is_guest_mode(vcpu) ? vcpu.pml : null;
}

/** vmx_flush_pml_buffer(): what one vCPU has logged goes into the bitmaps. */
export function vmx_flush_pml_buffer(vcpu: KvmVcpu): void {
  const { pml } = vcpu;
  if (!pml || pml.index === PML_ENTRIES - 1) return;
  const m = vcpu.kvm.machine;
  enter(m, 'vmx_flush_pml_buffer', vcpu.vcpu_id, null);
  for (let i = pml.full ? 0 : pml.index + 1; i < PML_ENTRIES; i++) {
    const at = pml.pfn * 4096 + i * 8;
    const gfn = m.mem.readHi(at) * 0x100000 + (m.mem.readLo(at) >>> 12);
    enter(m, 'kvm_vcpu_mark_page_dirty', vcpu.vcpu_id, null);
    enter(m, 'mark_page_dirty_in_slot', vcpu.vcpu_id, null);
    mark_page_dirty_in_slot(kvm_vcpu_gfn_to_memslot(vcpu, gfn), gfn);
    leave(m);
    leave(m);
  }
  pml.index = PML_ENTRIES - 1;
  leave(m);
}

/** vmx_flush_pml_buffer() of every vCPU: KVM kicks them all out of the guest before it reads a bitmap. */
export function flush_pml_buffers(kvm: Kvm): void {
  for (const vcpu of kvm.vcpus) vmx_flush_pml_buffer(vcpu);
}
