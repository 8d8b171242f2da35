/** VMCS or VMCB fields that the walk and the exits use, under the manuals' names, with what is in them. */
import { construct_eptp } from '../../kvm/hw_setup';
import { INVALID_PAGE, type KvmVcpu } from '../../kvm/kvm_host';
import type { KvmEvent } from '../../kvm/events';
import type { Machine } from '../../kvm/machine';
import { sppt_root_of } from '../../kvm/mmu/spp';
import { role_get } from '../../kvm/roles';
import { CR0, CR4, EFER } from '../../words/controls';
import { EPT_QUALIFICATION, NPF_EXITINFO1, PF_ERROR_CODE } from '../../words/errors';
import { INTERRUPTION_INFO, SVM_EXIT_CODE, VMX_EXIT_REASON } from '../../words/exits';
import { eptpLayout, ncr3Layout, spptpLayout } from '../../words/pointers';
import { decodeWord, type WordLayout } from '../../words/word';
import type { EventOf } from '../event-info';
import { hexLeaf, leaf, struct, wordNode } from '../nodes';
import { formatMemoryReference, type TreeNode } from '../target';

type Exit = EventOf<'kvm_exit'>;
type Fault = EventOf<'ept_violation'>;

/** The last exit of a vCPU and the last second-stage fault, as far as they are known. */
export interface LastExit {
  readonly exit: KvmEvent | null;
  readonly fault: KvmEvent | null;
}

const unknown = (name: string): TreeNode => leaf(name, 'unknown', { type: 'no exit has been seen yet' });

function field(name: string, value: bigint, layout: WordLayout | null, source: string): TreeNode {
  return layout ? wordNode(name, decodeWord(layout, value), { type: source }) : hexLeaf(name, value, { type: source });
}

export function controlFieldsNode(m: Machine, vcpu: KvmVcpu, last: LastExit): { name: string; root: TreeNode } {
  const exit = last.exit?.kind === 'kvm_exit' ? last.exit : null;
  const fault = last.fault && 'gpa' in last.fault && 'code' in last.fault ? last.fault : null;
  const intel = m.config.vendor === 'intel';
  const name = intel ? 'VMCS' : 'VMCB';
  return {
    name,
    root: struct(name, '', () => (intel ? vmcs(m, vcpu, exit, fault) : vmcb(m, vcpu, exit, fault)), {
      evaluateName: name.toLowerCase(),
    }),
  };
}

/** SDM vol. 3C 25: field names of appendix B. */
function vmcs(m: Machine, vcpu: KvmVcpu, exit: Exit | null, fault: Fault | null): TreeNode[] {
  const { regs, processor, mmu } = vcpu;
  const c = processor.intercepts;
  const level = role_get(mmu.root_role, m.roles.level);
  const root = mmu.root.hpa;
  return [
    ...(m.tdpEnabled
      ? [root === INVALID_PAGE ? leaf('EPTP', 'unknown', { type: 'no root is loaded' }) : eptp(m, root, level)]
      : []),
    ...(m.sppEnabled ? [spptp(m, sppt_root_of(vcpu))] : []),
    hexLeaf('GUEST_CR3', m.tdpEnabled ? regs.cr3 : root === INVALID_PAGE ? 0n : BigInt(root), {
      type: m.tdpEnabled ? 'the guest’s own' : 'the root of the shadow tables',
    }),
    field('GUEST_CR0', regs.cr0, CR0, 'guest-state area'),
    field('GUEST_CR4', regs.cr4, CR4, 'guest-state area'),
    field('GUEST_IA32_EFER', regs.efer, EFER, 'guest-state area'),
    maskLeaf('CR0_GUEST_HOST_MASK', c.cr0Mask, CR0),
    field('CR0_READ_SHADOW', c.cr0Shadow ?? regs.cr0, CR0, 'what the guest reads for those'),
    maskLeaf('CR4_GUEST_HOST_MASK', c.cr4Mask, CR4),
    field('CR4_READ_SHADOW', c.cr4Shadow ?? regs.cr4, CR4, 'what the guest reads for those'),
    hexLeaf('EXCEPTION_BITMAP', c.exceptions, { type: 'vectors that exit' }),
    ...(exit
      ? [
          field('VM_EXIT_REASON', BigInt(exit.exit_reason), VMX_EXIT_REASON, 'last exit'),
          field('EXIT_QUALIFICATION', exit.info1, exit.exit_reason === 48 ? EPT_QUALIFICATION : null, 'last exit'),
          fault
            ? hexLeaf('GUEST_PHYSICAL_ADDRESS', fault.gpa, gpaReference(fault.gpa))
            : unknown('GUEST_PHYSICAL_ADDRESS'),
          fault?.gva != null ? hexLeaf('GUEST_LINEAR_ADDRESS', fault.gva) : unknown('GUEST_LINEAR_ADDRESS'),
          field('VM_EXIT_INTR_INFO', BigInt(exit.intr_info >>> 0), INTERRUPTION_INFO, 'last exit'),
          field(
            'VM_EXIT_INTR_ERROR_CODE',
            BigInt(exit.error_code),
            exit.intr_info & 0x800 ? PF_ERROR_CODE : null,
            'last exit',
          ),
          field(
            'IDT_VECTORING_INFO',
            BigInt.asUintN(32, exit.info2),
            INTERRUPTION_INFO,
            'event whose delivery the exit interrupted',
          ),
        ]
      : [unknown('VM_EXIT_REASON')]),
  ];
}

/** Which bits belong to the host: by what is missing when it is nearly all of them. */
function maskLeaf(name: string, mask: bigint, layout: WordLayout): TreeNode {
  const flags = layout.fields.filter((f) => f.width === 1);
  const owned = flags.filter((f) => (mask >> BigInt(f.lsb)) & 1n);
  const others = flags.filter((f) => !owned.includes(f)).map((f) => f.name);
  const text =
    owned.length === 0
      ? 'none'
      : owned.length * 2 > flags.length
        ? `all but ${others.join('|') || 'none'}`
        : owned.map((f) => f.name).join('|');
  return leaf(name, `0x${mask.toString(16)} ${text}`, { type: 'bits that the host owns' });
}

function eptp(m: Machine, root: number, level: number): TreeNode {
  const value = construct_eptp(m, root, level);
  return wordNode('EPTP', decodeWord(eptpLayout(m.config.maxphyaddr), value), {
    memoryReference: formatMemoryReference({ space: { kind: 'hpa' }, address: BigInt(root) }),
  });
}

/** Field 0x2030: the sub-page permission table. */
function spptp(m: Machine, root: number): TreeNode {
  const name = 'SPPT_POINTER';
  if (root === INVALID_PAGE) return leaf(name, 'unknown', { type: 'field 0x2030; no root is loaded' });
  return wordNode(name, decodeWord(spptpLayout(m.config.maxphyaddr), BigInt(root)), {
    type: 'field 0x2030',
    memoryReference: formatMemoryReference({ space: { kind: 'hpa' }, address: BigInt(root) }),
  });
}

/** APM vol. 2 appendix B: control area and state-save area. */
function vmcb(m: Machine, vcpu: KvmVcpu, exit: Exit | null, fault: Fault | null): TreeNode[] {
  const { regs, processor, mmu } = vcpu;
  const root = mmu.root.hpa;
  const npf = exit?.exit_reason === 0x400;
  const pf = exit?.exit_reason === 0x4e;
  return [
    leaf('NP_ENABLE', m.tdpEnabled ? '1' : '0', { type: 'nested paging' }),
    ...(m.tdpEnabled
      ? [
          root === INVALID_PAGE
            ? leaf('N_CR3', 'unknown', { type: 'no root is loaded' })
            : wordNode('N_CR3', decodeWord(ncr3Layout(m.config.maxphyaddr), BigInt(root)), {
                memoryReference: formatMemoryReference({ space: { kind: 'hpa' }, address: BigInt(root) }),
              }),
        ]
      : []),
    hexLeaf('CR3', m.tdpEnabled ? regs.cr3 : root === INVALID_PAGE ? 0n : BigInt(root), {
      type: m.tdpEnabled ? 'the guest’s own' : 'the root of the shadow tables',
    }),
    field('CR0', regs.cr0, CR0, 'state-save area'),
    field('CR4', regs.cr4, CR4, 'state-save area'),
    field('EFER', regs.efer, EFER, 'state-save area'),
    hexLeaf('CR2', regs.cr2, { type: 'state-save area' }),
    hexLeaf('INTERCEPT_EXCEPTIONS', processor.intercepts.exceptions, { type: 'vectors that exit' }),
    ...(exit
      ? [
          field('EXITCODE', BigInt(exit.exit_reason >>> 0), SVM_EXIT_CODE, 'last exit'),
          field('EXITINFO1', exit.info1, npf ? NPF_EXITINFO1 : pf ? PF_ERROR_CODE : null, 'last exit'),
          hexLeaf(
            'EXITINFO2',
            exit.info2,
            npf ? { type: 'guest-physical address', ...gpaReference(fault?.gpa ?? exit.info2) } : { type: 'last exit' },
          ),
          field(
            'EXITINTINFO',
            BigInt(exit.intr_info >>> 0),
            INTERRUPTION_INFO,
            'event whose delivery the exit interrupted',
          ),
        ]
      : [unknown('EXITCODE')]),
  ];
}

function gpaReference(gpa: bigint): { memoryReference: string } {
  return { memoryReference: formatMemoryReference({ space: { kind: 'gpa', asId: 0 }, address: gpa }) };
}
