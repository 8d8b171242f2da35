/** The outline and the folding ranges: machine, vCPUs, and the steps with what happens in them. */
import type { AstNode, LangiumDocument } from 'langium';
import type { DocumentSymbolProvider, FoldingRangeProvider } from 'langium/lsp';
import {
  FoldingRangeKind,
  SymbolKind,
  type DocumentSymbol,
  type FoldingRange,
  type Range,
} from 'vscode-languageserver';
import type { ControlSetting, MachineSetting, RegisterSetting, Scenario, Statement } from '../generated/ast';

const firstLine = (text: string): string => text.split(/\r\n|\n|\r/)[0].replace(/\s*\{.*$/, '');
const NOWHERE: Range = { start: { line: 0, character: 0 }, end: { line: 0, character: 0 } };
const rangeOf = (node: AstNode): Range => node.$cstNode?.range ?? NOWHERE;

/** Kind of the symbol of a statement; null: not in the outline. */
function kindOf(s: Statement): SymbolKind | null {
  switch (s.$type) {
    case 'Machine':
      return SymbolKind.Module;
    case 'Constant':
      return SymbolKind.Constant;
    case 'Backing':
      return SymbolKind.Array;
    case 'Memslot':
    case 'Vmcb':
      return SymbolKind.Struct;
    case 'Vcpu':
      return s.action ? kindOf(s.action) : SymbolKind.Object;
    case 'SetRegs':
      return SymbolKind.Object;
    case 'Insn':
    case 'Run':
    case 'Smi':
      return SymbolKind.Function;
    case 'Repeat':
      return SymbolKind.Namespace;
    case 'Step':
    case 'Note':
      return SymbolKind.Event;
    default:
      return null;
  }
}

function symbolOf(s: Statement): DocumentSymbol | null {
  const kind = kindOf(s);
  if (kind === null || !s.$cstNode) return null;
  const range = rangeOf(s);
  const first = firstLine(s.$cstNode.text);
  const selectionRange = {
    start: range.start,
    end: { line: range.start.line, character: range.start.character + first.length },
  };
  const named = s.$type === 'Constant' || s.$type === 'Backing' ? s.name : undefined;
  return {
    name: named ?? first,
    detail: named === undefined ? undefined : first,
    kind,
    range,
    selectionRange,
    children: childrenOf(s),
  };
}

function childrenOf(s: Statement): DocumentSymbol[] {
  if (s.$type === 'Repeat') return symbolsOf(s.statements);
  const settings: readonly (ControlSetting | MachineSetting | RegisterSetting)[] =
    s.$type === 'Machine' || s.$type === 'Vmcb' || s.$type === 'Insn'
      ? s.settings
      : s.$type === 'Vcpu' || s.$type === 'SetRegs'
        ? s.registers
        : [];
  return settings.map((x) => ({
    name: x.name,
    detail: (x.$cstNode?.text ?? '').slice(x.name.length).trim(),
    kind: SymbolKind.Property,
    range: rangeOf(x),
    selectionRange: rangeOf(x),
  }));
}

/** Statements after a `step` or `note` belong to it, until the next one. */
function symbolsOf(statements: readonly Statement[]): DocumentSymbol[] {
  const out: DocumentSymbol[] = [];
  let section: DocumentSymbol | null = null;
  for (const s of statements) {
    const symbol = symbolOf(s);
    if (s.$type === 'Step' || s.$type === 'Note') {
      section = symbol;
      if (symbol) out.push({ ...symbol, children: [] });
      section = out.at(-1) ?? null;
      continue;
    }
    if (section) section.range = { start: section.range.start, end: rangeOf(s).end };
    if (symbol) (section?.children ?? out).push(symbol);
  }
  return out;
}

export class MmuDocumentSymbolProvider implements DocumentSymbolProvider {
  getSymbols(document: LangiumDocument): DocumentSymbol[] {
    return symbolsOf((document.parseResult.value as Scenario).statements);
  }
}

export class MmuFoldingRangeProvider implements FoldingRangeProvider {
  getFoldingRanges(document: LangiumDocument): FoldingRange[] {
    const ranges: FoldingRange[] = [];
    const add = (startLine: number, endLine: number, kind?: FoldingRangeKind): void => {
      if (endLine > startLine) ranges.push({ startLine, endLine, kind });
    };
    this.blocks((document.parseResult.value as Scenario).statements, add);
    const lines = document.textDocument.getText().split(/\r\n|\n|\r/);
    let first = -1;
    for (let l = 0; l <= lines.length; l++) {
      const comment = l < lines.length && /^\s*#/.test(lines[l]);
      if (comment && first < 0) first = l;
      if (!comment && first >= 0) {
        add(first, l - 1, FoldingRangeKind.Comment);
        first = -1;
      }
    }
    return ranges;
  }

  private blocks(
    statements: readonly Statement[],
    add: (start: number, end: number, kind?: FoldingRangeKind) => void,
  ): void {
    let section = -1;
    let last = -1;
    for (const s of statements) {
      const { start, end } = rangeOf(s);
      if (s.$type === 'Step' || s.$type === 'Note') {
        if (section >= 0) add(section, last, FoldingRangeKind.Region);
        section = start.line;
      }
      // The closing brace stays visible.
      if (['Machine', 'Vcpu', 'SetRegs', 'Repeat', 'Vmcb', 'Insn'].includes(s.$type)) add(start.line, end.line - 1);
      if (s.$type === 'Repeat') this.blocks(s.statements, add);
      last = end.line;
    }
    if (section >= 0) add(section, last, FoldingRangeKind.Region);
  }
}
