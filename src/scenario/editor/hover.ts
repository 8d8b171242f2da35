/** Hover: words from the reference and the tables, numbers by what they are at their place. */
import { CstUtils, type AstNode, type LangiumDocument, type LeafCstNode } from 'langium';
import type { HoverProvider } from 'langium/lsp';
import { MarkupKind, type Hover, type HoverParams } from 'vscode-languageserver';
import { WordError } from '../../words/address';
import { explain, explanationToMarkdown } from '../../words/explain';
import { EPTP_FLAGS, INVEPT_TYPES, INVVPID_TYPES, VMCB, VMCS_ENCODINGS, VMCS_FIELDS } from '../control-fields';
import type { ControlSetting, Expectation, RegisterSetting, Term, Value } from '../generated/ast';
import { Findings } from '../findings';
import { readNumber } from '../numbers';
import { CLAUSES, entryFor } from '../reference';
import { lineWords } from '../syntax';
import {
  FIELD_FLAGS,
  INVPCID_TYPES,
  MEMSLOT_FLAGS,
  MSR_NAMES,
  PF_ERROR_FLAGS,
  PTE_FLAGS,
  REGISTER_FLAGS,
  type Flag,
} from '../tables';
import { describeEntry, describeNumber, documentNames, indices, kernelOf, vendorOf } from './describe';
import { lineContext } from './line-context';
import { namesAt } from './names';

/** What a value is, from where it stands. */
interface Meaning {
  /** word for explain(); null: a plain number */
  readonly as: string | null;
  readonly flags: readonly Flag[] | null;
  /** a linear address: show its indices */
  readonly linear: boolean;
  readonly level?: number;
}

const PLAIN: Meaning = { as: null, flags: null, linear: false };
const REGISTER_WORDS = ['cr0', 'cr3', 'cr4', 'efer', 'rflags', 'pkru'];

export class MmuHoverProvider implements HoverProvider {
  getHoverContent(document: LangiumDocument, params: HoverParams): Hover | undefined {
    const root = document.parseResult.value.$cstNode;
    const offset = document.textDocument.offsetAt(params.position);
    const leaf = root && CstUtils.findLeafNodeAtOffset(root, offset);
    if (!leaf || leaf.hidden || leaf.tokenType.name === 'NL') return undefined;
    const text = this.describe(document, leaf);
    return text === null ? undefined : { contents: { kind: MarkupKind.Markdown, value: text }, range: leaf.range };
  }

  private describe(document: LangiumDocument, leaf: LeafCstNode): string | null {
    const text = document.textDocument.getText();
    if (leaf.tokenType.name === 'NUMBER') return this.number(text, leaf);
    const c = lineContext(text, leaf.offset);
    const node = leaf.astNode;
    const isKeyword = leaf.tokenType.name === leaf.text;
    if (isKeyword) {
      const line = text.slice(
        text.lastIndexOf('\n', leaf.offset - 1) + 1,
        text.indexOf('\n', leaf.offset) < 0 ? undefined : text.indexOf('\n', leaf.offset),
      );
      const entry = entryFor(lineWords(line));
      // `vcpu` of a prefix, and words before the statement's own.
      const own = entry?.words.split(' ').includes(leaf.text) && (c.words.length < 3 || c.words[0] === 'expect');
      if (entry && own) return describeEntry(entry);
      const alone = entryFor([leaf.text]);
      // `mmio` of `is mmio` and the like are names where they stand.
      return CLAUSES[leaf.text] ?? (alone ? describeEntry(alone) : this.name(text, leaf));
    }
    const value = valueOf(node);
    if (value) {
      const combined = this.combined(text, value);
      const name = this.name(text, leaf);
      return [name, combined].filter((x) => x !== null).join('\n\n---\n\n') || null;
    }
    return this.name(text, leaf);
  }

  /** A name of one of the tables, or of the document. */
  private name(text: string, leaf: LeafCstNode): string | null {
    const c = lineContext(text, leaf.offset);
    const own = documentNames(text);
    const found = [...namesAt(c, own, kernelOf(text)), ...own].find((n) => n.name === leaf.text);
    return found ? `**${found.name}** ${found.kind}${found.doc === '' ? '' : `: ${found.doc}`}` : null;
  }

  private number(text: string, leaf: LeafCstNode): string | null {
    const value = valueOf(leaf.astNode);
    if (value && value.terms.length > 1) return this.combined(text, value);
    const number = readNumber(leaf.text);
    if (number.value === null) return number.error;
    return this.explained(text, number.value, value ? meaningOf(value) : PLAIN, describeNumber(leaf.text));
  }

  /** The number that a sum or a set of flags comes to. */
  private combined(text: string, value: Value): string | null {
    const meaning = meaningOf(value);
    const findings = new Findings();
    for (const n of documentNames(text)) {
      if (n.kind !== 'constant') continue;
      const { value: known } = readNumber(n.doc.replace(/^= /, ''));
      if (known !== null) findings.constants.set(n.name, known);
    }
    const number = findings.value(value, { what: '', flags: meaning.flags ?? undefined });
    return number === null ? null : this.explained(text, number, meaning, describeNumber(`0x${number.toString(16)}`));
  }

  private explained(text: string, value: bigint, m: Meaning, plain: string | null): string | null {
    const parts = [plain];
    if (m.linear && value > 0xfffn) parts.push(indices(value));
    if (m.as !== null) {
      try {
        parts.push(
          explanationToMarkdown(
            explain(value, { as: m.as, kernel: kernelOf(text) ?? 'v6.1', vendor: vendorOf(text), level: m.level }),
          ),
        );
      } catch (e) {
        // The value cannot be such a word (a role of more than 32 bits, an unknown kernel): the plain number is all there is to say.
        if (!(e instanceof WordError)) throw e;
      }
    }
    return parts.filter((p) => p !== null).join('\n\n') || null;
  }
}

/** The value that a term belongs to. */
function valueOf(node: AstNode): Value | null {
  if (node.$type === 'Term') return (node as Term).$container;
  return node.$type === 'Value' ? (node as Value) : null;
}

/** What a value is for. */
export function meaningOf(value: Value): Meaning {
  const owner = value.$container as AstNode;
  const property = value.$containerProperty;
  const flags = (f: readonly Flag[] | undefined, as: string | null = null): Meaning => ({
    as,
    flags: f ?? null,
    linear: false,
  });
  switch (owner.$type) {
    case 'RegisterSetting':
    case 'RegisterAssignment': {
      const { name } = owner as RegisterSetting;
      return property === 'limit' ? PLAIN : flags(REGISTER_FLAGS[name], REGISTER_WORDS.includes(name) ? name : null);
    }
    case 'Memslot':
      return property === 'flags' ? flags(MEMSLOT_FLAGS, 'memslot-flags') : PLAIN;
    case 'MapPages':
      return property === 'flags' ? flags(PTE_FLAGS, 'gpte') : { ...PLAIN, linear: property === 'gva' };
    case 'UnmapPages':
      return { ...PLAIN, linear: property === 'gva' };
    case 'Write':
      return property === 'values' && (owner as { width?: string }).width === 'qword'
        ? flags(undefined, 'gpte')
        : PLAIN;
    case 'Insn':
      return inInsn(owner, property);
    case 'ControlSetting':
      return inControlSetting(owner as ControlSetting);
    default:
      return inExpectation(owner, property);
  }
}

/** What fields of a VMCB or VMCS hold. */
const FIELD_WORDS: Readonly<Record<string, string>> = {
  ept_pointer: 'eptp',
  exit_qualification: 'ept_qualification',
  vm_exit_reason: 'vmx_exit_reason',
  exitcode: 'svm_exit_code',
  n_cr3: 'ncr3',
};

function inControlSetting({ name, $container }: ControlSetting): Meaning {
  const fields = $container.$type === 'Vmcb' || $container.$type === 'ExpectVmcb' ? VMCB : VMCS_FIELDS;
  const field = fields.find((f) => f.name === name);
  const register = name.replace(/^(guest|host)_(ia32_)?/, '');
  const as = FIELD_WORDS[name] ?? (REGISTER_WORDS.includes(register) ? register : null);
  return { ...PLAIN, as, flags: field?.flags ?? null };
}

function inInsn(node: AstNode, property: string | undefined): Meaning {
  const insn = node as AstNode & { op?: string; register?: string; msr?: Value; field?: Value };
  if (property === 'address') return { ...PLAIN, linear: !/^vm/.test(insn.op ?? '') };
  if (property === 'type')
    return { ...PLAIN, flags: { invept: INVEPT_TYPES, invvpid: INVVPID_TYPES }[insn.op ?? ''] ?? INVPCID_TYPES };
  if (insn.op === 'invept') return { ...PLAIN, flags: EPTP_FLAGS, as: 'eptp' };
  if (property === 'field') return { ...PLAIN, flags: VMCS_ENCODINGS };
  if (insn.op === 'vmwrite' && property === 'value')
    return inControlSetting({
      $type: 'ControlSetting',
      $container: node,
      name: insn.field?.terms[0]?.ref?.$refText ?? '',
    } as ControlSetting);
  if (property === 'msr') return { ...PLAIN, flags: MSR_NAMES };
  if (property !== 'value') return PLAIN;
  if (insn.op === 'mov')
    return {
      ...PLAIN,
      flags: REGISTER_FLAGS[insn.register ?? ''] ?? null,
      as: REGISTER_WORDS.includes(insn.register ?? '') ? (insn.register ?? null) : null,
    };
  if (insn.op === 'wrmsr' && insn.msr?.terms[0]?.ref?.$refText === 'EFER')
    return { ...PLAIN, flags: REGISTER_FLAGS.efer, as: 'efer' };
  return insn.op === 'wrpkru' ? { ...PLAIN, as: 'pkru' } : PLAIN;
}

const EVENT_WORDS: Readonly<Record<string, string>> = {
  spte: 'spte',
  old_spte: 'spte',
  new_spte: 'spte',
  role: 'role',
  root_role: 'role',
  old_root_role: 'role',
  cpu_role: 'cpu_role',
  old_cpu_role: 'cpu_role',
  pferr: 'pferr',
  error_code: 'pferr',
  errorCode: 'pfec',
  pte: 'gpte',
  access: 'access',
};

function inExpectation(node: AstNode, property: string | undefined): Meaning {
  const e = node as Expectation | (AstNode & { $type: 'EventField'; name: string });
  switch (e.$type) {
    case 'ExpectFault':
      return property === 'error'
        ? { ...PLAIN, flags: PF_ERROR_FLAGS, as: 'pfec' }
        : { ...PLAIN, linear: property === 'cr2' };
    case 'ExpectSpte':
      return property === 'raw'
        ? { ...PLAIN, as: 'spte' }
        : { ...PLAIN, linear: e.space === 'gva' && property === 'address' };
    case 'EventField':
      return {
        ...PLAIN,
        as: EVENT_WORDS[e.name] ?? null,
        flags: FIELD_FLAGS[e.name] ?? null,
        linear: e.name === 'gva',
      };
    case 'ExpectMemory':
      return property === 'value' && e.width === 'qword' ? { ...PLAIN, as: 'gpte' } : PLAIN;
    case 'ExpectState': {
      const word =
        e.name === 'root_role'
          ? 'role'
          : e.name === 'cpu_role'
            ? 'cpu_role'
            : REGISTER_WORDS.includes(e.name)
              ? e.name
              : null;
      return { ...PLAIN, as: word, flags: REGISTER_FLAGS[e.name] ?? null, linear: e.name === 'cr2' };
    }
    default:
      return PLAIN;
  }
}
