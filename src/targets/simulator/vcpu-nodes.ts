/** struct kvm_vcpu: the list of vCPUs, and their state outside the MMUs. */
import { INVALID_PAGE, is_guest_mode, is_smm, type KvmVcpu } from '../../kvm/kvm_host';
import type { Machine } from '../../kvm/machine';
import { formatHex } from '../../words/address';
import { leaf, struct } from '../nodes';
import type { TreeNode, Vcpu } from '../target';
import { addressSpaceOf } from './guest-memory';
import { modeText } from './registers';

/** All vCPUs as the debugger lists them; before the first there is a stand-in of which nothing is known. */
export function vcpuList(m: Machine): Vcpu[] {
  const list = m.vcpus.map((vcpu, index): Vcpu => {
    const smm = is_smm(vcpu);
    const l2 = is_guest_mode(vcpu);
    const notes = [smm ? 'SMM' : '', l2 ? 'L2' : ''].filter(Boolean);
    return {
      index,
      name: `vCPU ${index}${notes.length ? ` (${notes.join(', ')})` : ''}`,
      smm,
      guestMode: l2,
      rip: vcpu.regs.ripKnown ? vcpu.regs.rip : null,
      cr3: vcpu.regs.cr3,
      rootHpa: vcpu.mmu.root.hpa === INVALID_PAGE ? null : BigInt(vcpu.mmu.root.hpa),
      mode: modeText(vcpu.regs),
    };
  });
  if (list.length > 0) return list;
  return [
    {
      index: 0,
      name: 'no vCPU yet',
      smm: null,
      guestMode: null,
      rip: null,
      cr3: null,
      rootHpa: null,
      mode: 'not created',
    },
  ];
}

/** State of struct kvm_vcpu outside its MMUs. */
export function vcpuNode(vcpu: KvmVcpu): TreeNode {
  return struct('vcpu->arch', is_smm(vcpu) ? 'in SMM' : '', () => [
    leaf('smm', `${is_smm(vcpu)}`, { type: 'HF_SMM_MASK' }),
    leaf('as_id', `${addressSpaceOf(vcpu)}`, { type: 'address space of its accesses' }),
    leaf('guest_mode', `${is_guest_mode(vcpu)}`, { type: 'HF_GUEST_MASK: runs L2' }),
    leaf('smbase', formatHex(vcpu.smbase)),
    leaf('smi_pending', `${vcpu.smi_pending}`),
    leaf('requests', [...vcpu.requests].map((r) => `KVM_REQ_${r}`).join(' ') || 'none'),
    leaf(
      'exception',
      vcpu.exception
        ? `vector ${vcpu.exception.vector}${vcpu.exception.errorCode === null ? '' : ` error ${formatHex(vcpu.exception.errorCode)}`}`
        : 'none',
    ),
    leaf('halted', `${vcpu.halted}`),
    struct('stat', '', () => Object.entries(vcpu.stat).map(([name, n]) => leaf(name, `${n}`))),
  ]);
}
