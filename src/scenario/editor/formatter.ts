/**
 * Formatting, line by line: two spaces a block, one space between words, `|` and `+` tight in values, settings on one line two
 * spaces apart, comments after code in a column. Lines that do not parse stay as they are. Formatting twice changes nothing more.
 */
import { AstUtils, type LangiumDocument, type ParseResult } from 'langium';
import type { Formatter } from 'langium/lsp';
import type {
  DocumentFormattingParams,
  DocumentOnTypeFormattingOptions,
  DocumentOnTypeFormattingParams,
  DocumentRangeFormattingParams,
  TextEdit,
} from 'vscode-languageserver';
import { coreServices, lineWords, parseTree, syntaxFindings } from '../syntax';

type Token = ReturnType<ReturnType<typeof coreServices>['parser']['Lexer']['tokenize']>['tokens'][number];

interface Line {
  /** indentation and code; null: left as it is */
  code: string | null;
  comment: string;
}

const INDENT = '  ';
/** Code wider than this does not decide where comments go. */
const LONG = 60;

/** Whether a space (or two) goes between two tokens of a line. */
function gap(left: Token, right: Token, tight: boolean, settings: ReadonlySet<number>): string {
  const l = left.image;
  const r = right.image;
  if (r === ',' || r === ':' || r === ']' || l === '[' || l === '..' || r === '..') return '';
  if (l === '|' || r === '|') return '';
  // A sum is tight; the addend of rmw stands after the closing bracket.
  if (r === '+' && l !== ']') return '';
  if (l === '+' && !tight) return '';
  if (r === '[' && l === '[') return '';
  if ((l === '=' || r === '=') && tight) return '';
  return settings.has(right.startOffset) && l !== '{' ? '  ' : ' ';
}

/** The lines of a text, formatted; their number is that of the text's lines. */
function formatLines(text: string, result: ParseResult): string[] {
  const source = text.split(/\r\n|\n|\r/);
  const broken = new Set(syntaxFindings(text, result).map((d) => d.line));
  const settings = new Set<number>();
  for (const node of AstUtils.streamAst(result.value)) {
    const block = node.$container?.$type === 'Vmcb' || node.$container?.$type === 'Insn';
    const setting = /^(Register|Machine)Setting$/.test(node.$type) || (node.$type === 'ControlSetting' && block);
    if (setting && node.$cstNode) settings.add(node.$cstNode.offset);
  }
  const { tokens, hidden } = coreServices().parser.Lexer.tokenize(text);
  const byLine = new Map<number, Token[]>();
  for (const t of tokens) {
    if (t.tokenType.name === 'NL' || t.startLine === undefined) continue;
    const list = byLine.get(t.startLine);
    if (list) list.push(t);
    else byLine.set(t.startLine, [t]);
  }
  const comments = new Map(
    hidden.filter((t) => t.tokenType.name === 'COMMENT').map((t) => [t.startLine ?? 0, t.image.trimEnd()]),
  );
  let depth = 0;
  const lines = source.map((raw, i): Line => {
    const here = byLine.get(i + 1) ?? [];
    const opens = here.filter((t) => t.image === '{').length;
    const closes = here.filter((t) => t.image === '}').length;
    const dedent = here[0]?.image === '}' ? 1 : 0;
    const level = Math.max(0, depth - dedent);
    depth = Math.max(0, depth + opens - closes);
    const comment = comments.get(i + 1) ?? '';
    if (broken.has(i + 1)) return { code: null, comment };
    const words = lineWords(raw);
    const first = words[0] === 'vcpu' && words[2] === ':' ? words[3] : words[0];
    const tightAssign = first === 'run';
    let code = '';
    here.forEach((t, n) => {
      const left = here[n - 1];
      // `+` after `]` is the operator of rmw and stays apart on both sides.
      const apart = left?.image === '+' && here[n - 2]?.image === ']';
      code += (n === 0 ? '' : gap(left, t, left?.image === '+' ? apart : tightAssign, settings)) + t.image;
    });
    return {
      code: code === '' ? '' : INDENT.repeat(level) + code,
      comment: code === '' && comment !== '' ? INDENT.repeat(level) + comment : comment,
    };
  });
  return withComments(lines, source);
}

/** Joins code and comments; comments after code line up within a paragraph (lines without a blank one between them). */
function withComments(lines: readonly Line[], source: readonly string[]): string[] {
  const blank = (l: Line): boolean => l.code === '' && l.comment === '';
  const out: string[] = [];
  for (let i = 0; i < lines.length;) {
    let end = i;
    while (end < lines.length && !blank(lines[end])) end++;
    const paragraph = lines.slice(i, end);
    const widths = paragraph.filter((l) => l.comment !== '' && l.code !== '').map((l) => (l.code ?? '').length);
    // A long line keeps its comment close and does not push those of the others away.
    const column = Math.max(0, ...widths.filter((w) => w <= LONG));
    paragraph.forEach((l, n) => {
      if (l.code === null) out.push(source[i + n].trimEnd());
      else out.push(l.code === '' || l.comment === '' ? l.code + l.comment : `${l.code.padEnd(column)}  ${l.comment}`);
    });
    if (end < lines.length) out.push('');
    i = end + 1;
  }
  return out;
}

/** A whole text formatted: at most one blank line in a row, none at the ends, a newline at the end. */
export function formatText(text: string, result: ParseResult = parseTree(text)): string {
  const lines = formatLines(text, result);
  const kept = lines.filter((l, i) => l !== '' || (i > 0 && lines[i - 1] !== ''));
  while (kept.length > 0 && kept[0] === '') kept.shift();
  while (kept.length > 0 && kept[kept.length - 1] === '') kept.pop();
  return kept.length === 0 ? '' : `${kept.join('\n')}\n`;
}

export class MmuFormatter implements Formatter {
  formatDocument(document: LangiumDocument, _params: DocumentFormattingParams): TextEdit[] {
    const text = document.textDocument.getText();
    const wanted = formatText(text, document.parseResult);
    if (wanted === text) return [];
    return smallestEdit(document, text, wanted);
  }

  formatDocumentRange(document: LangiumDocument, params: DocumentRangeFormattingParams): TextEdit[] {
    return this.lines(document, params.range.start.line, params.range.end.line);
  }

  formatDocumentOnType(document: LangiumDocument, params: DocumentOnTypeFormattingParams): TextEdit[] {
    const { line } = params.position;
    return this.lines(document, params.ch === '\n' ? line - 1 : line, params.ch === '\n' ? line - 1 : line);
  }

  get formatOnTypeOptions(): DocumentOnTypeFormattingOptions {
    return { firstTriggerCharacter: '\n', moreTriggerCharacter: ['}'] };
  }

  /** Edits of single lines; their number stays. */
  private lines(document: LangiumDocument, from: number, to: number): TextEdit[] {
    const text = document.textDocument.getText();
    const source = text.split(/\r\n|\n|\r/);
    const wanted = formatLines(text, document.parseResult);
    const edits: TextEdit[] = [];
    for (let l = Math.max(0, from); l <= to && l < source.length; l++) {
      if (source[l] === wanted[l]) continue;
      edits.push({
        range: { start: { line: l, character: 0 }, end: { line: l, character: source[l].length } },
        newText: wanted[l],
      });
    }
    return edits;
  }
}

/** One edit of what differs, so that the cursor and the marks elsewhere stay. */
function smallestEdit(document: LangiumDocument, from: string, to: string): TextEdit[] {
  let start = 0;
  while (start < from.length && start < to.length && from[start] === to[start]) start++;
  let end = 0;
  while (
    end < from.length - start &&
    end < to.length - start &&
    from[from.length - 1 - end] === to[to.length - 1 - end]
  )
    end++;
  const { textDocument } = document;
  return [
    {
      range: { start: textDocument.positionAt(start), end: textDocument.positionAt(from.length - end) },
      newText: to.slice(start, to.length - end),
    },
  ];
}
