/** The names under which `--as`, the command Decode Value and the debug console know the words. */
import { WordError } from './address';

export interface DecodableWord {
  /** Name for `--as`. */
  readonly name: string;
  readonly aliases: readonly string[];
  readonly description: string;
}

const WORDS = [
  ['spte', [], 'shadow PTE: EPT, NPT or shadow paging, cached MMIO'],
  ['role', ['root_role', 'base_role', 'page_role', 'kvm_mmu_page_role'], 'role of a shadow page (32 bits)'],
  ['cpu_role', ['mmu_role', 'kvm_cpu_role', 'kvm_mmu_role'], '64-bit role: base and ext (v4.20 and later)'],
  ['ext_role', ['extended_role', 'kvm_mmu_extended_role'], 'the upper half of a 64-bit role (v4.20 and later)'],
  ['gpte', ['pte'], 'guest page-table entry, any mode; give its level'],
  ['gpte-long', [], 'guest entry of 4- or 5-level paging'],
  ['gpte-pae', [], 'guest entry of PAE paging'],
  ['gpte-32', [], 'guest entry of 32-bit paging, with and without CR4.PSE'],
  ['epte', ['ept'], 'EPT entry as the processor reads it; give its level'],
  ['npte', ['npt'], 'nested page-table entry (AMD) as the processor reads it; give its level'],
  ['sppte', ['sppt'], 'entry of the sub-page permission table; give its level'],
  ['pfec', ['pf_error_code', 'page_fault_error_code'], '#PF error code as the processor pushes it'],
  ['pferr', [], "KVM's page-fault error code (PFERR_*)"],
  ['ept-qualification', ['ept_qualification', 'qualification'], 'exit qualification of an EPT violation'],
  ['npf', ['exitinfo1', 'npf_exitinfo1'], 'EXITINFO1 of a nested page fault'],
  ['spp-qualification', ['spp_qualification'], 'exit qualification of an SPP event'],
  ['cr-qualification', ['cr_qualification'], 'exit qualification of a control-register access'],
  ['io-qualification', ['io_qualification'], 'exit qualification of an I/O instruction'],
  ['ioio', ['ioio_exitinfo1'], 'EXITINFO1 of an I/O intercept'],
  ['intr-info', ['intr_info', 'interruption_info'], 'VM-exit interruption information'],
  ['cr0', [], 'CR0'],
  ['cr3', [], 'CR3'],
  ['cr4', [], 'CR4'],
  ['efer', [], 'EFER'],
  ['rflags', ['eflags', 'rfl'], 'RFLAGS'],
  ['pkru', [], 'PKRU'],
  ['pkrs', [], 'IA32_PKRS'],
  ['eptp', [], 'EPT pointer'],
  ['spptp', [], 'sub-page permission table pointer'],
  ['ncr3', [], 'nested CR3'],
  ['vmx-exit', ['vmx_exit_reason'], 'VMX exit reason'],
  ['svm-exit', ['svm_exit_code'], 'SVM exit code'],
  ['kvm-exit', ['kvm_exit_reason'], 'exit reason of KVM_RUN'],
  ['ret-pf', ['ret_pf'], 'RET_PF_* of the page-fault path'],
  ['memslot-flags', ['memslot_flags', 'slot_flags'], 'flags of a memslot'],
  ['access', ['acc'], 'ACC_* bits of a role or an MMIO spte'],
  ['generation', ['gen'], 'memslot generation as MMIO sptes store it'],
  ['errno', [], 'negative errno of an ioctl'],
  ['gva', ['gla'], 'guest virtual address'],
  ['gpa', [], 'guest physical address'],
  ['hpa', [], 'host physical address'],
  ['hva', [], 'host virtual address'],
  ['gfn', [], 'guest frame number'],
  ['pfn', [], 'host frame number'],
  ['number', [], 'plain number: decimal, bits, size'],
] as const satisfies readonly (readonly [string, readonly string[], string])[];

/** Canonical name of a decodable word. */
export type WordName = (typeof WORDS)[number][0];

const LIST: readonly DecodableWord[] = WORDS.map(([name, aliases, description]) => ({ name, aliases, description }));

/** Every name that `explain` takes as `as`, with a description, in the order to offer them. */
export function decodableWords(): readonly DecodableWord[] {
  return LIST;
}

/** The canonical name for a name or alias in any case. @throws WordError that lists the names. */
export function wordName(text: string): WordName {
  const wanted = text.trim().toLowerCase();
  const plain = (s: string) => s.replaceAll('_', '-');
  const word = LIST.find((w) => [w.name, ...w.aliases].some((n) => plain(n) === plain(wanted)));
  if (word) return word.name as WordName;
  throw new WordError(
    `'${text}' is not a word that can be decoded: the names are ${LIST.map((w) => w.name).join(', ')}`,
  );
}
