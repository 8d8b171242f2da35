/**
 * The value under the pointer, whether it is worth a hover, and what the text around it says of the machine that it is from. Pure
 * text, and no more of it than is near: it does not matter how large the file or how long the line is.
 */
import { findValues, lineFacts, type FoundValue } from '../../words/find-values';
import { parseKernel } from '../../words/kernels';

/** A value in a line, with how it is written. */
export interface ValueInText extends FoundValue {
  readonly text: string;
  /** written with 0x */
  readonly prefixed: boolean;
  /** digits as written, leading zeros included */
  readonly digits: number;
  /** the line is a trace event, in JSON or in text */
  readonly inTrace: boolean;
}

/** How far to both sides of the pointer a line is read: lines of minified files have no end. */
const REACH = 400;

/** The value at a column, or undefined. Columns count UTF-16 units from 0; the one behind the last digit counts as well. */
export function valueAt(line: string, column: number): ValueInText | undefined {
  const from = Math.max(0, column - REACH);
  const part = line.slice(from, column + REACH);
  const found = findValues(part).find((v) => column - from >= v.start && column - from <= v.end);
  if (found === undefined) return undefined;
  // Cut off at either end: what is left of it would be another number.
  if ((from > 0 && found.start === 0) || (found.end === part.length && column + REACH < line.length)) return undefined;
  const text = part.slice(found.start, found.end);
  const prefixed = /^0x/i.test(text);
  return {
    ...found,
    start: from + found.start,
    end: from + found.end,
    text,
    prefixed,
    digits: text.replace(/^0x/i, '').replaceAll('_', '').length,
    inTrace: lineFacts(line.slice(0, 2 * REACH)).event !== undefined,
  };
}

/** Names of words, in any text. */
const WORDS =
  /^(?:(?:(?:old|new|shadow|leaf|root|mmio|iter|removed|frozen|guest)_?)?(?:spte|pte|gpte|epte|npte|sppte|pde|pdpte|pmd|pud|pgd)s?|(?:(?:root|cpu|mmu|base|ext|page|sp)_?)?role(?:_?word)?|(?:page_fault_|pf_|intr_)?error_?code|errcode|pfec|pferr|(?:exit_?)?qual(?:ification)?|exit_?info_?1|info1|intr_info|cr[034]|efer|rflags|eflags|pkrus?|pkrs|eptp|spptp|ncr3)$/;
/** Names of addresses, frames and hashes: such a value is no word, however long it is. */
const NO_WORDS =
  /^(?:\w*(?:addr|address|rip|rsp|rbp|ptr|pointer|gva|gpa|hva|hpa|gfn|pfn|sptep|smbase|base|offset|hash|commit|uuid|guid|id|color|colour)|cr2|range|start|end|sha\d*|ts|ts_ns|time\w*|tsc|r(?:[abcd]x|[sd]i|\d+))$/;

/** Digits from which on a value without a name counts as a word. */
const WORD_DIGITS = 8;

/**
 * Whether a value looks like a word of the MMU: it is named as one, or nothing says what it is and it has eight digits and more
 * after its 0x, or sixteen without, as in register dumps. In trace events every value that the line names is worth it.
 */
export function looksLikeWord(found: ValueInText): boolean {
  const name = found.name ?? '';
  if (found.inTrace && name !== '' && name !== 'sptep') return true;
  if (WORDS.test(name)) return true;
  if (NO_WORDS.test(name)) return false;
  return found.prefixed ? found.digits >= WORD_DIGITS : found.digits === 16;
}

/** What a text tells of the machine that it was written on; nothing is guessed that it does not say. */
export interface TextHints {
  readonly kernel?: string;
  readonly vendor?: 'intel' | 'amd';
  readonly pagingType?: 'ept' | 'legacy';
}

/**
 * Reads a trace's exit reasons (VMX prints EPT_VIOLATION, SVM npf), and a kernel version that the file is named after.
 * @param sample some lines of the text
 * @param fileName without its folder
 */
export function hintsOf(sample: string, fileName: string): TextHints {
  if (!/\bkvm_\w+: |"event"\s*:\s*"kvm/.test(sample)) return {};
  // `reason npf rip 0x1000` of kvm_exit; kvm_userspace_exit has reasons too, but no rip.
  const reasons = [...sample.matchAll(/\breason"?\s*[:=]?\s*"?([\w ]+?)"? (?:rip|guest_rip)\b/g)].map((m) => m[1]);
  if (reasons.length === 0) return kernelIn(fileName);
  // SVM prints its exits in lower case, or as `PF excp`; VMX in upper case.
  const vendor = reasons.some((r) => /^[a-z]| excp$/.test(r)) ? 'amd' : 'intel';
  return { ...kernelIn(fileName), vendor, pagingType: reasons.some((r) => r.startsWith('EPT_')) ? 'ept' : 'legacy' };
}

/** `6.1.176-intel-ept1-tdp1-smm.trace.txt` is of v6.1.176. */
function kernelIn(fileName: string): { kernel?: string } {
  const m = /(?:^|[^\d.])v?(\d+\.\d+(?:\.\d+)?)(?=[-_.])/.exec(fileName);
  try {
    return m?.[1] === undefined ? {} : { kernel: parseKernel(m[1]).name };
  } catch {
    return {};
  }
}
