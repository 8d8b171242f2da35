/** Hovers over values: in any text file, in the debug console's input, and, while a session is stopped, over scenario expressions. */
import * as vscode from 'vscode';
import type { Session, Sessions } from './sessions';
import { settingsFor } from './settings';
import type { SessionBasis } from './text/meaning';
import { hintsOf, looksLikeWord, valueAt, type TextHints, type ValueInText } from './text/values';

/** Lines above a value that may say which exit it belongs to. */
const LINES_ABOVE = 40;
/** Lines of a file that are read once, to learn whose trace it is. */
const SAMPLE_LINES = 600;
/** Longest piece of a line that is looked at. */
const LINE_REACH = 400;

/** The machine of a session, for decoding. */
export function basisOf(session: Session | null): SessionBasis | null {
  const state = session?.state;
  if (!state) return null;
  const { kernel, vendor, paging, maxphyaddr } = state;
  const title = state.title.replace(/^.*[\\/]/, '');
  return { title, kernel, vendor, pagingType: paging === 'ept' ? 'ept' : 'legacy', hostPhysBits: maxphyaddr };
}

/** What a document says of the machine that it is from; read once a version. */
class Hints {
  private readonly byUri = new Map<string, { version: number; hints: TextHints }>();

  of(document: vscode.TextDocument): TextHints {
    const key = document.uri.toString();
    const known = this.byUri.get(key);
    if (known?.version === document.version) return known.hints;
    const lines: string[] = [];
    for (let i = 0; i < Math.min(SAMPLE_LINES, document.lineCount); i++) {
      lines.push(document.lineAt(i).text.slice(0, LINE_REACH));
    }
    const hints = hintsOf(lines.join('\n'), document.uri.path.replace(/^.*\//, ''));
    if (this.byUri.size > 50) this.byUri.clear();
    this.byUri.set(key, { version: document.version, hints });
    return hints;
  }
}

/** A link to a command, as markdown. */
function link(title: string, command: string, argument: unknown): string {
  return `[${title}](command:${command}?${encodeURIComponent(JSON.stringify([argument]))})`;
}

class ValueHover implements vscode.HoverProvider {
  private readonly hints = new Hints();

  constructor(private readonly sessions: Sessions) {}

  async provideHover(document: vscode.TextDocument, position: vscode.Position): Promise<vscode.Hover | undefined> {
    const { line, character } = position;
    const settings = settingsFor(document);
    if (settings.hover === 'off') return undefined;
    if (!settings.hoverLanguages.includes('*') && !settings.hoverLanguages.includes(document.languageId))
      return undefined;
    const found = valueAt(document.lineAt(line).text, character);
    if (found === undefined || (settings.hover === 'words' && !looksLikeWord(found))) return undefined;
    // The tables are not loaded before the first value worth decoding.
    const { meaningMarkdown, meaningOf, roleWordFor, worthShowing } = await import(
      /* webpackChunkName: "words" */ './text/meaning'
    );
    const meaning = meaningOf({
      value: found.value,
      name: found.name,
      context: this.context(document, line, found),
      session: basisOf(this.sessions.active),
      settings,
      hints: this.hints.of(document),
    });
    if (!worthShowing(meaning, found.name !== undefined)) return undefined;
    const value = `0x${found.value.toString(16)}`;
    const first = meaning.explanations[0];
    const kernel = this.sessions.active?.state?.kernel ?? settings.kernel;
    const word = first && roleWordFor(first, kernel);
    const text = new vscode.MarkdownString(
      meaningMarkdown(found.value, meaning, [
        ...(word === undefined ? [] : [link('Role Decoder', 'mmuscope.openRoleDecoder', { word, value })]),
        link('Decode as…', 'mmuscope.decodeValue', { value, ...(first === undefined ? {} : { as: first.as }) }),
      ]),
    );
    text.isTrusted = { enabledCommands: ['mmuscope.openRoleDecoder', 'mmuscope.decodeValue'] };
    return new vscode.Hover(text, new vscode.Range(line, found.start, line, found.end));
  }

  /** The line and those above it, cut to what is near. Only traces need more than the line itself. */
  private context(document: vscode.TextDocument, line: number, found: ValueInText): string {
    const from = found.inTrace ? Math.max(0, line - LINES_ABOVE) : line;
    const lines: string[] = [];
    for (let i = from; i < line; i++) lines.push(document.lineAt(i).text.slice(0, LINE_REACH));
    const text = document.lineAt(line).text;
    const start = text.length <= 2 * LINE_REACH ? 0 : Math.max(0, found.start - LINE_REACH);
    lines.push(text.slice(start, start + 2 * LINE_REACH));
    return lines.join('\n');
  }
}

/** Names and values of a scenario that a stopped session can evaluate: `root_mmu.root_role.smm`, `cr4`, `0x3784`. */
class ScenarioExpressions implements vscode.EvaluatableExpressionProvider {
  provideEvaluatableExpression(
    document: vscode.TextDocument,
    position: vscode.Position,
  ): vscode.EvaluatableExpression | undefined {
    const line = document.lineAt(position.line).text;
    const comment = line.indexOf('#');
    if (comment >= 0 && position.character > comment) return undefined;
    const range = document.getWordRangeAtPosition(position, /0x[\da-fA-F_]+|[A-Za-z_]\w*(?:\.\w+)*/);
    return range && new vscode.EvaluatableExpression(range);
  }
}

export function registerHovers(sessions: Sessions): vscode.Disposable {
  return vscode.Disposable.from(
    vscode.languages.registerHoverProvider({ pattern: '**' }, new ValueHover(sessions)),
    vscode.languages.registerEvaluatableExpressionProvider({ language: 'mmu' }, new ScenarioExpressions()),
  );
}
