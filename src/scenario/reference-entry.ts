/** What the reference says of a statement or of a form of `expect`. */

/** The chapters of the reference. */
export type ReferenceGroup = 'machine' | 'memory' | 'vcpu' | 'guest' | 'nested' | 'order' | 'expect';

/** One statement, or one form of `expect`. */
export interface ReferenceEntry {
  /** the words that introduce it: `memslot add`, `expect mmio` */
  readonly words: string;
  /** parser rule of mmu.langium */
  readonly rule: string;
  readonly group: ReferenceGroup;
  /** `x?` and `(x y)?` optional, `x|y` either, `…` more of the same, capitals stand for values; brackets and braces are written */
  readonly syntax: string;
  /** one or two sentences */
  readonly doc: string;
  /** lines that parse without a finding after EXAMPLE_PRELUDE of reference-examples.ts */
  readonly example: string;
  /** kernel of the prelude, where the example needs another one */
  readonly kernel?: string;
  /** the example is of a guest hypervisor, which NESTED_PRELUDES of reference-examples.ts sets up */
  readonly nested?: 'vmx' | 'svm';
}
