/** The exception filters: named stops on events, the same for every target that has events. */
import type { KvmEventKind } from '../kvm/events';
import type { ExceptionFilterInfo } from './target';

/** An exception filter: which events it stops at. */
export interface Filter extends ExceptionFilterInfo {
  readonly kinds: readonly KvmEventKind[];
}

const FIELDS_HELP = 'for example: gpa >= 0xfee00000 && write';

/** The exception filters, in the order in which they are shown. */
export const FILTERS: readonly Filter[] = [
  {
    filter: 'guest_page_fault',
    label: 'Guest page fault',
    description: 'The guest gets a #PF, from the processor or injected by KVM.',
    default: true,
    kinds: ['guest_page_fault'],
    conditionHelp: 'for example: gva < 0x1000 || errorCode & 8 != 0',
  },
  {
    filter: 'ept_violation',
    label: 'EPT violation / nested page fault',
    description: 'The processor leaves the guest because EPT or NPT does not allow an access.',
    default: false,
    kinds: ['ept_violation', 'npf'],
    conditionHelp: FIELDS_HELP,
  },
  {
    filter: 'ept_misconfig',
    label: 'EPT misconfiguration',
    description: 'The processor met an EPT entry with an illegal value, as cached MMIO sptes are.',
    default: false,
    kinds: ['ept_misconfig'],
    conditionHelp: FIELDS_HELP,
  },
  {
    filter: 'mmio_hit',
    label: 'Cached MMIO hit',
    description: 'KVM recognised an MMIO access by a cached spte or the one-entry cache of the vCPU.',
    default: false,
    kinds: ['mmio_hit'],
    conditionHelp: "for example: gfn == 0xfee00 && how == 'spte'",
  },
  {
    filter: 'smm_enter',
    label: 'SMM entry',
    description: 'A vCPU has entered system-management mode.',
    default: false,
    kinds: ['smm_enter'],
    conditionHelp: 'for example: smbase == 0x30000',
  },
  {
    filter: 'smm_exit',
    label: 'SMM exit',
    description: 'A vCPU has left system-management mode (RSM).',
    default: false,
    kinds: ['smm_exit'],
    conditionHelp: 'for example: smbase == 0x30000',
  },
  {
    filter: 'expect',
    label: 'Failed expectation',
    description: 'An expect statement of the scenario is not met.',
    default: true,
    kinds: [],
    conditionHelp: 'for example: line > 20',
  },
];
