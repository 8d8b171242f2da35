/**
 * What a line of text says a number is: the names of ftrace's fields, register dumps and JSON, and the kvm_exit lines
 * above, which tell the processor and so what an error code is.
 */
import type { FoundValue, LineFacts } from './find-values';
import { findValues, lineFacts } from './find-values';
import type { ReadOptions } from './reading';
import type { PagingType } from './sptes';
import type { WordName } from './word-names';

/** Where in the text the value stands. */
export interface Place {
  readonly name?: string;
  readonly facts: LineFacts;
  /** Exit reason of the line, or of the nearest kvm_exit above it. */
  readonly reason?: string;
  readonly vendor?: 'intel' | 'amd';
}

/** The TDP MMU of an Intel host writes EPT entries, whatever else is not known. */
export function pagingTypeOf(place: Place, vendor?: 'intel' | 'amd'): PagingType | undefined {
  return vendor === 'intel' && place.facts.event === 'kvm_tdp_mmu_spte_changed' ? 'ept' : undefined;
}

/** fast_page_fault prints no level, but acts on leaves only. */
export function leafLevel(value: bigint, place: Place): number | undefined {
  const isOld = place.name === 'old' || place.name === 'new';
  return place.facts.event === 'fast_page_fault' && isOld && (value & 0x80n) === 0n ? 1 : undefined;
}

/** Exit reasons are printed in upper case on VMX and, but for a few, in lower case on SVM. */
function vendorOf(reason: string | undefined): 'intel' | 'amd' | undefined {
  if (!reason) return undefined;
  if (/^[A-Z0-9_]+$/.test(reason)) return 'intel';
  return /^[a-z]/.test(reason) || / excp$/.test(reason) ? 'amd' : undefined;
}

/** Finds the value in the text, the lines above included. */
export function placeOf(value: bigint, context?: string, name?: string): Place {
  if (context === undefined) return { name: name?.toLowerCase(), facts: {} };
  const lines = context.split(/\r?\n/);
  let at = -1;
  let found: FoundValue | undefined;
  for (let i = lines.length - 1; i >= 0 && !found; i--) {
    const here = findValues(lines[i]).filter((f) => f.value === value);
    found = here.find((f) => f.name !== undefined && (!name || f.name === name)) ?? here[0];
    if (found) at = i;
  }
  const facts = lineFacts(lines[at === -1 ? lines.length - 1 : at]);
  let reason: string | undefined;
  for (let i = at; i >= 0 && !reason; i--) {
    const above = lineFacts(lines[i]);
    const sameVcpu = above.vcpu === undefined || facts.vcpu === undefined || above.vcpu === facts.vcpu;
    if (sameVcpu) reason = above.reason;
  }
  return { name: (name ?? found?.name)?.toLowerCase(), facts, reason, vendor: vendorOf(reason) };
}

/** Names in text that stand for one word whatever the line is. */
const BY_NAME: Readonly<Record<string, readonly WordName[]>> = {
  ...{ spte: ['spte'], old_spte: ['spte'], new_spte: ['spte'] },
  ...{ role: ['role'], base_role: ['role'], root_role: ['role'], page_role: ['role'], ext_role: ['ext_role'] },
  ...{ cpu_role: ['cpu_role', 'role'], mmu_role: ['cpu_role', 'role'] },
  ...{ pte: ['gpte', 'epte'], gpte: ['gpte'], epte: ['epte'], npte: ['npte'], sppte: ['sppte'] },
  ...{ pgd: ['gpte'], p4d: ['gpte'], pud: ['gpte'], pmd: ['gpte'] },
  ...{ pferr: ['pferr'], qual: ['ept-qualification'], qualification: ['ept-qualification'] },
  ...{ exit_qualification: ['ept-qualification', 'cr-qualification'], exitinfo1: ['npf', 'pfec'] },
  ...{ cr0: ['cr0'], cr2: ['gva'], cr3: ['cr3'], cr4: ['cr4'], efer: ['efer'], rflags: ['rflags'], rfl: ['rflags'] },
  ...{ eflags: ['rflags'], pkru: ['pkru'], pkrs: ['pkrs'], eptp: ['eptp'], spptp: ['spptp'], ncr3: ['ncr3'] },
  ...{ gen: ['generation'], kvm_gen: ['generation'], spte_gen: ['generation'], generation: ['generation'] },
  ...{ access: ['access'], gfn: ['gfn'], table_gfn: ['gfn'], mmio_gfn: ['gfn'], base_gfn: ['gfn'], pfn: ['pfn'] },
  ...{ gpa: ['gpa'], smbase: ['gpa'], gva: ['gva'], gla: ['gva'], rip: ['gva'], guest_rip: ['gva'], rsp: ['gva'] },
  ...{ hpa: ['hpa'], root_hpa: ['hpa'], hva: ['hva'], userspace_addr: ['hva'], intr_info: ['intr-info'] },
};

/** What the place in the text says the value is; no words if it says nothing. */
export function wordsFor(
  value: bigint,
  place: Place,
  read: ReadOptions,
): { words: readonly WordName[]; notes: string[] } {
  const { name, facts } = place;
  if (facts.event === 'kvm_unmap_hva_range' || facts.event === 'kvm_age_hva') return { words: ['hva'], notes: [] };
  if (!name) return { words: [], notes: [] };
  switch (facts.event) {
    case 'kvm_page_fault':
    case undefined:
      if (name === 'error_code') return errorCode(value, place, read);
      // CR2 for #PF, a guest physical address for EPT violations and NPF.
      if (name === 'address' || name === 'fault_address') return faultAddress(place, read);
      break;
    case 'kvm_exit':
    case 'kvm_nested_vmexit':
    case 'kvm_nested_vmexit_inject':
      return exitValue(name, place);
    case 'kvm_inj_exception':
      if (name === 'error_code') return { words: ['pfec'], notes: [] };
      break;
    case 'kvm_mmu_walker_error':
      if (name === 'pferr') return { words: ['pferr'], notes: ['The error code that the guest will see.'] };
      break;
    case 'fast_page_fault':
      if (name === 'old' || name === 'new') return { words: ['spte'], notes: [] };
      if (name === 'sptep') return { words: ['number'], notes: ['Kernel pointer to the spte, hashed by %p.'] };
      if (name === 'gva')
        return {
          words: ['gva', 'gpa'],
          notes: ['The faulting address: physical with TDP, linear with shadow paging.'],
        };
      break;
    case 'kvm_mmu_set_spte':
      if (name === 'at') return { words: ['hpa'], notes: ['Host physical address of the spte itself.'] };
      break;
    case 'mark_mmio_spte':
      if (name === 'sptep') {
        return { words: ['number'], notes: ['Kernel pointer to the spte, hashed by %p from v4.15.'] };
      }
      break;
    case 'handle_mmio_page_fault':
      if (name === 'addr') return { words: ['gva'], notes: ['The faulting linear address; 0 for a direct MMU.'] };
      break;
    case 'kvm_mmu_pagetable_walk':
      if (name === 'addr')
        return {
          words: ['gva', 'gpa'],
          notes: ['The address being translated: an L2 physical one if it is a nested walk.'],
        };
      if (name === 'pferr') {
        return { words: ['pferr'], notes: ['The access that is asked for: bit 0 (present) says nothing here.'] };
      }
      break;
    case 'kvm_mmu_get_page':
    case 'kvm_mmu_prepare_zap_page':
    case 'kvm_mmu_sync_page':
    case 'kvm_mmu_unsync_page':
      if (name === 'gen')
        return { words: ['number'], notes: ['mmu_valid_gen, the generation of shadow pages; not that of memslots.'] };
      break;
  }
  return byName(name, facts);
}

/** The word for a name; in a trace line a name without one is just a number. */
function byName(name: string, facts: LineFacts): { words: readonly WordName[]; notes: string[] } {
  if (Object.hasOwn(BY_NAME, name)) return { words: BY_NAME[name], notes: [] };
  return { words: facts.event ? ['number'] : [], notes: [] };
}

function faultAddress(place: Place, read: ReadOptions): { words: readonly WordName[]; notes: string[] } {
  const shadow = isShadowExit(place.reason) || (read.pagingType === 'legacy' && read.vendor === 'intel');
  if (shadow) return { words: ['gva'], notes: ['CR2 of the guest’s #PF exit.'] };
  if (isSecondStageExit(place.reason)) return { words: ['gpa'], notes: ['The guest physical address that faulted.'] };
  return { words: ['gpa', 'gva'], notes: ['A guest physical address with EPT or NPT, CR2 with shadow paging.'] };
}

const isSecondStageExit = (reason?: string) =>
  reason === 'EPT_VIOLATION' || reason === 'EPT_MISCONFIG' || reason === 'npf';
const isShadowExit = (reason?: string) => reason === 'EXCEPTION_NMI' || reason === 'PF excp';

/**
 * error_code of kvm_page_fault: on VMX with EPT the exit qualification, on SVM with NPT EXITINFO1, with shadow paging
 * the #PF error code. The kvm_exit above decides; else what the value and what is known of the host allow.
 */
function errorCode(value: bigint, place: Place, read: ReadOptions): { words: readonly WordName[]; notes: string[] } {
  const isTrace = place.facts.event === 'kvm_page_fault';
  if (!isTrace && !place.reason) {
    return { words: value >> 32n ? ['npf', 'pferr'] : ['pfec', 'pferr'], notes: [] };
  }
  if (place.reason === 'EPT_VIOLATION') {
    return { words: ['ept-qualification'], notes: ['On VMX kvm_page_fault prints the exit qualification here.'] };
  }
  if (place.reason === 'npf') return { words: ['npf'], notes: [] };
  if (isShadowExit(place.reason)) return { words: ['pfec'], notes: [] };
  const { vendor, pagingType } = read;
  if (value >> 32n) return { words: ['npf'], notes: [] };
  if (vendor === 'intel' && pagingType === 'legacy') return { words: ['pfec'], notes: [] };
  if (vendor === 'intel' && pagingType === 'ept') return { words: ['ept-qualification'], notes: [] };
  const looksEpt = (value & 0x80n) !== 0n;
  if (vendor === 'amd') {
    return { words: ['pfec', 'npf'], notes: ['With shadow paging the #PF error code, with NPT EXITINFO1.'] };
  }
  const notes = [
    'On VMX with EPT the exit qualification, on SVM with NPT EXITINFO1, with shadow paging the #PF error code.',
  ];
  if (looksEpt) return { words: ['ept-qualification'], notes: [notes[0]] };
  return { words: ['pfec', 'ept-qualification', ...(vendor === 'intel' ? [] : (['npf'] as const))], notes };
}

/** Fields of kvm_exit by exit reason. */
function exitValue(name: string, place: Place): { words: readonly WordName[]; notes: string[] } {
  const reason = place.reason ?? '';
  const intel = place.vendor === 'intel';
  const plainNumber = (note: string) => ({ words: ['number'] as const, notes: [note] });
  if (name === 'intr_info') return { words: intel ? ['intr-info'] : ['intr-info', 'number'], notes: [] };
  if (name === 'error_code') {
    const { intrInfo } = place.facts;
    if (intrInfo !== undefined && (intrInfo & 0x80000800n) !== 0x80000800n) {
      return plainNumber('Not in use: intr_info tells of no exception with an error code.');
    }
    return { words: ['pfec'], notes: ['Error code of the exception in intr_info.'] };
  }
  if (name === 'rip' || name === 'guest_rip') return { words: ['gva'], notes: [] };
  if (name === 'info1') {
    if (reason === 'EPT_VIOLATION') return { words: ['ept-qualification'], notes: [] };
    if (reason === 'IO_INSTRUCTION') return { words: ['io-qualification'], notes: [] };
    if (reason === 'io') return { words: ['ioio'], notes: [] };
    if (reason === 'CR_ACCESS') return { words: ['cr-qualification'], notes: [] };
    if (reason === 'EXCEPTION_NMI')
      return { words: ['gva'], notes: ['Exit qualification: for #PF the linear address (CR2).'] };
    if (reason === 'EPT_MISCONFIG')
      return plainNumber('The exit qualification of an EPT misconfiguration is undefined.');
    if (reason === 'SPP' || reason === '66') return { words: ['spp-qualification'], notes: [] };
    if (reason === 'npf') return { words: ['npf'], notes: [] };
    if (reason === 'PF excp') return { words: ['pfec'], notes: ['EXITINFO1 of a #PF intercept.'] };
    return plainNumber(`${intel ? 'Exit qualification' : 'EXITINFO1'} of ${reason || 'this exit'}: no table for it.`);
  }
  if (name === 'info2') {
    if (reason === 'npf') return { words: ['gpa'], notes: ['EXITINFO2: the guest physical address.'] };
    if (reason === 'PF excp') return { words: ['gva'], notes: ['EXITINFO2: CR2.'] };
    if (reason === 'io') return { words: ['gva'], notes: ['EXITINFO2: address of the next instruction.'] };
    if (intel)
      return {
        words: ['intr-info'],
        notes: ['IDT-vectoring information: the event whose delivery was interrupted, if any.'],
      };
    return plainNumber(`EXITINFO2 of ${reason || 'this exit'}: no table for it.`);
  }
  return byName(name, place.facts);
}
