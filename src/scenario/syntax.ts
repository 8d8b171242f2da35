/**
 * From text to syntax tree, and from parser errors to sentences: what was found, what was expected, what was probably meant, and
 * how the statement is written.
 */
import {
  createDefaultCoreModule,
  createDefaultSharedCoreModule,
  EmptyFileSystem,
  GrammarAST,
  inject,
  type LangiumCoreServices,
  type LangiumSharedCoreServices,
  type Module,
  type ParseResult,
} from 'langium';
import { AstUtils } from 'langium';
import { MmuGeneratedModule, MmuGeneratedSharedModule } from './generated/module';
import type { Scenario } from './generated/ast';
import { openBlock, type Block } from './blocks';
import { VMCB, VMCB_SEGMENT_NAMES, VMCS_FIELDS, VMCS_SEGMENT_NAMES } from './control-fields';
import { entryFor } from './reference';
import { nearest, orList } from '../words/suggest';
import type { Diagnostic } from './program';
import { MACHINE_SETTINGS, REGISTERS } from './tables';

/** The parser library's types, as far as Langium shows them. */
type IParserErrorMessageProvider = LangiumCoreServices['parser']['ParserErrorMessageProvider'];
type IToken = ParseResult['parserErrors'][number]['token'];
type TokenType = IToken['tokenType'];

/** What the parser wanted where it met a token. */
interface Wanted {
  readonly types: readonly TokenType[];
  /** the token cannot be there at all: the statement before it is complete */
  readonly redundant: boolean;
}

const wantedAt = new WeakMap<IToken, Wanted>();

const HUMAN_NAMES: Readonly<Record<string, string>> = {
  NUMBER: 'a number',
  ID: 'a name',
  STRING: 'a text in double quotes',
  VERSION: 'a version',
  EXCEPTION: 'an exception such as #PF',
  NL: 'the end of the line',
  EOF: 'the end of the text',
};

const isWord = (name: string): boolean => /^[a-z]/.test(name);
const show = (token: IToken): string =>
  token.tokenType.name === 'NL'
    ? 'the end of the line'
    : token.tokenType.name === 'EOF'
      ? 'the end of the text'
      : `'${token.image}'`;

/** Remembers what was wanted; the sentence is made later, when the line is known. */
class ErrorMessages implements IParserErrorMessageProvider {
  buildMismatchTokenMessage({ expected, actual }: { expected: TokenType; actual: IToken }): string {
    const redundant = expected.name === 'EOF' || expected.name === '}';
    wantedAt.set(actual, { types: [expected], redundant });
    return `expected ${expected.name}`;
  }
  buildNotAllInputParsedMessage({ firstRedundant }: { firstRedundant: IToken }): string {
    wantedAt.set(firstRedundant, { types: [], redundant: true });
    return 'redundant input';
  }
  buildNoViableAltMessage({
    expectedPathsPerAlt,
    actual,
  }: {
    expectedPathsPerAlt: TokenType[][][];
    actual: IToken[];
  }): string {
    wantedAt.set(actual[0], { types: expectedPathsPerAlt.flat().map((path) => path[0]), redundant: false });
    return 'no viable alternative';
  }
  buildEarlyExitMessage({
    expectedIterationPaths,
    actual,
  }: {
    expectedIterationPaths: TokenType[][];
    actual: IToken[];
  }): string {
    wantedAt.set(actual[0], { types: expectedIterationPaths.map((path) => path[0]), redundant: false });
    return 'early exit';
  }
}

/** Overrides that every set of services of the language shares (parsing here, the editor in services.ts). */
export const MmuParserModule: Module<LangiumCoreServices, object> = {
  parser: { ParserErrorMessageProvider: () => new ErrorMessages() },
};

let cached: LangiumCoreServices | null = null;

/** Parser services without files and without an editor. Parsing keeps no state. */
export function coreServices(): LangiumCoreServices {
  if (cached) return cached;
  const shared: LangiumSharedCoreServices = inject(
    createDefaultSharedCoreModule(EmptyFileSystem),
    MmuGeneratedSharedModule,
  );
  cached = inject(createDefaultCoreModule({ shared }), MmuGeneratedModule, MmuParserModule);
  shared.ServiceRegistry.register(cached);
  return cached;
}

/** Parses a text. The tree is complete as far as the text is right. */
export const parseTree = (text: string): ParseResult<Scenario> =>
  coreServices().parser.LangiumParser.parse<Scenario>(text);

let words: readonly string[] | null = null;

/** The words that begin a statement, from the grammar. */
export function statementWords(): readonly string[] {
  if (words) return words;
  const rules = coreServices().Grammar.rules.filter(GrammarAST.isParserRule);
  const ruleOf = (name: string): GrammarAST.ParserRule | undefined => rules.find((r) => r.name === name);
  const found = new Set<string>();
  const collect = (element: GrammarAST.AbstractElement): boolean => {
    // Returns whether the element must be present, so that what follows it cannot come first.
    let must = element.cardinality !== '?' && element.cardinality !== '*';
    if (GrammarAST.isAction(element)) return false;
    if (GrammarAST.isKeyword(element)) found.add(element.value);
    else if (GrammarAST.isAssignment(element)) must = collect(element.terminal) && must;
    else if (GrammarAST.isAlternatives(element)) element.elements.forEach(collect);
    else if (GrammarAST.isGroup(element)) must = element.elements.some(collect) && must;
    else if (GrammarAST.isRuleCall(element) && GrammarAST.isParserRule(element.rule.ref))
      must = collect(element.rule.ref.definition) && must;
    return must;
  };
  const statement = ruleOf('Statement');
  if (statement) collect(statement.definition);
  words = [...found];
  return words;
}

/** All keywords of the grammar that are words. */
export function keywords(): string[] {
  const found = new Set<string>();
  for (const rule of coreServices().Grammar.rules.filter(GrammarAST.isParserRule))
    for (const node of AstUtils.streamAllContents(rule))
      if (GrammarAST.isKeyword(node) && isWord(node.value)) found.add(node.value);
  return [...found].sort();
}

/** Tokens of one line as plain words: `vcpu`, `0`, `:`, `load`, … */
export const lineWords = (line: string): string[] =>
  line.replace(/(?<!expect[ \t]+(no[ \t]+)?)#.*$/, '').match(/->|\.\.|#?\w+(?:[.-]\w+)*|[^\s\w]/g) ?? [];

function usage(line: string): { syntax: string; words: readonly string[] } | null {
  const list = lineWords(line);
  const entry = entryFor(list);
  if (entry) return { syntax: entry.syntax, words: entry.syntax.match(/[a-z_]\w+/g) ?? [] };
  const first = list[0] === 'vcpu' && list[2] === ':' ? list[3] : list[0];
  if (first === 'memslot')
    return { syntax: 'memslot add|move|flags|delete (as AS)? id ID …', words: ['add', 'move', 'flags', 'delete'] };
  if (first === 'subpages') return { syntax: 'subpages set|get gfn GFN …', words: ['set', 'get'] };
  if (first === 'dirty_log') return { syntax: 'dirty_log get|clear (as AS)? id ID', words: ['get', 'clear'] };
  return null;
}

/** More names than a sentence can hold. */
const MANY = 100;

/** The words that can begin something in a block. */
function beginners(block: Block): { legal: readonly string[]; what: string } {
  switch (block) {
    case 'machine':
      return { legal: MACHINE_SETTINGS.map((m) => m.name), what: 'is not a setting of the machine' };
    case 'vmcb':
      return { legal: [...VMCB_SEGMENT_NAMES, ...VMCB.map((f) => f.name)], what: 'is not a field of a VMCB' };
    case 'vmwrite':
      return { legal: [...VMCS_SEGMENT_NAMES, ...VMCS_FIELDS.map((f) => f.name)], what: 'is not a field of a VMCS' };
    case 'registers':
      return { legal: REGISTERS.map((r) => r.name), what: 'is not a register' };
    default:
      return { legal: statementWords(), what: 'does not begin a statement' };
  }
}

function sentence(token: IToken, line: string, before: string): string {
  const wanted = wantedAt.get(token) ?? { types: [], redundant: true };
  const found = show(token);
  const atStart = token.tokenType.name !== 'EOF' && line.slice(0, (token.startColumn ?? 1) - 1).trim() === '';
  const use = usage(line);
  const help = (near: string | undefined): string =>
    `${near ? `; did you mean '${near}'?` : ''}${use === null ? '' : `${near ? ' Write' : '; write'}: ${use.syntax}`}`;
  if (wanted.redundant) {
    if (token.tokenType.name === 'EOF') return `the text ends inside a block: expected '}'`;
    if (token.image === '}') return `'}' closes nothing: there is no open block`;
    if (atStart) {
      const { legal, what } = beginners(openBlock(before).block);
      const near = nearest(token.image, legal);
      const assignment = /^\s*[\w.]+\s*=/.test(line) ? `; to name a number write: let ${token.image} = …` : '';
      const instead =
        near && near !== token.image
          ? `; did you mean '${near}'?`
          : assignment ||
            (legal.length > MANY
              ? '; docs/language.md has a table of them'
              : `; it can be ${orList([...legal].sort())}`);
      return `${found} ${what}${instead}`;
    }
    const near = use ? nearest(token.image, use.words) : undefined;
    return `${found} is not expected here${help(near === token.image ? undefined : near) || '; expected the end of the line'}`;
  }
  const names = [...new Set(wanted.types.map((t) => t.name))];
  const expected = names.map((n) => HUMAN_NAMES[n] ?? `'${n}'`);
  const near = isWord(token.image) ? nearest(token.image, names.filter(isWord)) : undefined;
  const reserved =
    names.includes('ID') &&
    !['NUMBER', 'ID', 'STRING', 'NL', 'EOF', 'VERSION'].includes(token.tokenType.name) &&
    isWord(token.image);
  const what = reserved
    ? `${found} is a word of the language and cannot be a name here`
    : `expected ${expected.length > 10 ? `one of ${expected.slice(0, 10).join(', ')} …` : orList(expected)} but found ${found}`;
  return what + help(near === token.image ? undefined : near);
}

/** The findings of lexer and parser, at most one a line (what follows on a broken line is not worth reading). */
export function syntaxFindings(text: string, result: ParseResult): Diagnostic[] {
  const lines = text.split(/\r\n|\n|\r/);
  const found: Diagnostic[] = [];
  const taken = new Set<number>();
  const add = (line: number, column: number, length: number, message: string): void => {
    if (taken.has(line)) return;
    taken.add(line);
    found.push({
      severity: 'error',
      code: 'syntax',
      message,
      line,
      column,
      endLine: line,
      endColumn: column + Math.max(1, length),
    });
  };
  for (const e of result.lexerErrors) {
    const line = lines[(e.line ?? 1) - 1] ?? '';
    const column = e.column ?? 1;
    const char = line[column - 1] ?? '';
    const message =
      char === '"'
        ? 'the text in double quotes does not end on this line'
        : char === ';'
          ? `';' does not separate statements: write each on a line of its own`
          : `'${line.slice(column - 1, column - 1 + Math.max(1, e.length))}' has no meaning here`;
    add(e.line ?? 1, column, e.length, message);
  }
  for (const e of result.parserErrors) {
    const t = e.token;
    if (Number.isNaN(t.startOffset) || t.startLine === undefined || Number.isNaN(t.startLine)) {
      let last = lines.length;
      while (last > 1 && lines[last - 1].trim() === '') last--;
      add(last, lines[last - 1].length + 1, 1, sentence(t, lines[last - 1], ''));
    } else {
      const length = t.tokenType.name === 'NL' ? 1 : t.image.length;
      add(
        t.startLine,
        t.startColumn ?? 1,
        length,
        sentence(t, lines[t.startLine - 1], lines.slice(0, t.startLine - 1).join('\n')),
      );
    }
  }
  return found.sort((a, b) => a.line - b.line || a.column - b.column);
}
