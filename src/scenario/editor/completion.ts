/** Completion: keywords from the grammar, names from the tables, each with its reference. */
import { GrammarAST, type LangiumDocument } from 'langium';
import type { CompletionProvider, CompletionProviderOptions, LangiumServices, NextFeature } from 'langium/lsp';
import { findFirstFeatures, findNextFeatures } from 'langium/lsp';
import {
  CompletionItemKind,
  CompletionList,
  MarkupKind,
  type CompletionItem,
  type CompletionParams,
} from 'vscode-languageserver';
import { CLAUSES, entryFor } from '../reference';
import { statementWords } from '../syntax';
import { lineContext, type LineContext } from './line-context';
import { namesAt, type Name, type NameKind } from './names';
import { describeEntry, documentNames, kernelOf } from './describe';

const KINDS: Readonly<Record<NameKind, CompletionItemKind>> = {
  setting: CompletionItemKind.Property,
  value: CompletionItemKind.EnumMember,
  register: CompletionItemKind.Variable,
  flag: CompletionItemKind.EnumMember,
  event: CompletionItemKind.Event,
  field: CompletionItemKind.Field,
  state: CompletionItemKind.Property,
  constant: CompletionItemKind.Constant,
  backing: CompletionItemKind.Module,
};

/** Sizes worth offering where a number must stand. */
const NUMBERS: Readonly<Record<string, readonly string[]>> = {
  load: ['1', '2', '4', '8', '16'],
  store: ['1', '2', '4', '8', '16'],
  rmw: ['1', '2', '4', '8', '16'],
  map: ['4K', '2M', '1G'],
};

export class MmuCompletionProvider implements CompletionProvider {
  readonly completionOptions: CompletionProviderOptions = { triggerCharacters: ['|', '#', '.', '[', ','] };
  private readonly parser: LangiumServices['parser']['CompletionParser'];
  private readonly grammar: GrammarAST.Grammar;

  constructor(services: LangiumServices) {
    this.parser = services.parser.CompletionParser;
    this.grammar = services.Grammar;
  }

  getCompletion(document: LangiumDocument, params: CompletionParams): CompletionList {
    const text = document.textDocument.getText();
    const offset = document.textDocument.offsetAt(params.position);
    const c = lineContext(text, offset);
    if (inCommentOrString(text, offset)) return CompletionList.create([]);
    const features = this.featuresAt(c.prefix);
    const range = {
      start: { line: params.position.line, character: params.position.character - c.word.length },
      end: params.position,
    };
    const items = new Map<string, CompletionItem>();
    const add = (label: string, kind: CompletionItemKind, doc: string, sort: string): void => {
      if (items.has(label)) return;
      items.set(label, {
        label,
        kind,
        sortText: `${sort}${label}`,
        documentation: doc === '' ? undefined : { kind: MarkupKind.Markdown, value: doc },
        textEdit: { range, newText: label },
      });
    };
    if (features.some(wantsName)) for (const n of this.names(document, c)) add(n.name, KINDS[n.kind], n.doc, '0');
    if (features.some((f) => f.property === 'size' && GrammarAST.isRuleCall(f.feature)))
      for (const n of NUMBERS[c.words[0]] ?? []) add(n, CompletionItemKind.Value, '', '0');
    for (const word of this.keywords(features, c)) add(word, CompletionItemKind.Keyword, keywordDoc(word, c), '1');
    return CompletionList.create([...items.values()]);
  }

  /** What the grammar allows after a text. */
  private featuresAt(text: string): NextFeature[] {
    const result = this.parser.parse(text);
    if (result.tokenIndex === 0) {
      const entry = this.grammar.rules.filter(GrammarAST.isParserRule).find((r) => r.entry);
      return entry ? findFirstFeatures(entry.definition).map((f) => f[f.length - 1]) : [];
    }
    return findNextFeatures(
      [result.elementStack.map((feature) => ({ feature }))],
      result.tokens.slice(result.tokenIndex),
    );
  }

  private names(document: LangiumDocument, c: LineContext): Name[] {
    return namesAt(c, documentNames(document.textDocument.getText()), kernelOf(document.textDocument.getText()));
  }

  private keywords(features: readonly NextFeature[], c: LineContext): string[] {
    const found = features
      .flatMap((f) => (GrammarAST.isKeyword(f.feature) ? [f.feature.value] : []))
      .filter((k) => /^\w/.test(k));
    // A statement can end here, but the next one begins on a new line.
    const statementDone =
      c.before.trim() !== '' &&
      features.some((f) => GrammarAST.isRuleCall(f.feature) && f.feature.rule.$refText === 'NL');
    const statements = new Set(statementWords());
    return statementDone ? found.filter((k) => !statements.has(k)) : found;
  }
}

/** A feature that a name of one of the tables can fill. */
function wantsName(f: NextFeature): boolean {
  if (GrammarAST.isCrossReference(f.feature)) return true;
  if (!GrammarAST.isRuleCall(f.feature)) return false;
  const rule = f.feature.rule.$refText;
  return (rule === 'ID' && f.type !== 'Constant' && f.type !== 'Backing') || rule === 'EXCEPTION';
}

function keywordDoc(word: string, c: LineContext): string {
  const entry = entryFor([...c.words, word]) ?? entryFor([word]);
  return entry?.words.split(' ').includes(word) ? describeEntry(entry) : (CLAUSES[word] ?? '');
}

function inCommentOrString(text: string, offset: number): boolean {
  const line = text.slice(Math.max(text.lastIndexOf('\n', offset - 1), text.lastIndexOf('\r', offset - 1)) + 1, offset);
  const plain = line.replace(/"[^"]*"/g, '');
  return plain.includes('"') || /(?<!expect[ \t]+)#/.test(plain);
}
