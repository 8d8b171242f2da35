/** The way into the language: text to program and findings. The same findings appear in the editor, at launch and in the CLI. */
import type { ParseResult } from 'langium';
import { checkAgainstKvm } from './checks';
import { compile } from './compile';
import type { Scenario } from './generated/ast';
import type { Diagnostic, ScenarioProgram } from './program';
import { parseTree, syntaxFindings } from './syntax';

export interface ParsedScenario {
  /** null when there is an error */
  readonly program: ScenarioProgram | null;
  /** in the order of the text */
  readonly diagnostics: readonly Diagnostic[];
}

/**
 * Parses and checks a scenario. Never throws on any text.
 * @param uri where the text is from, for messages
 */
export const parseScenario = (text: string, uri = 'scenario.mmu'): ParsedScenario =>
  checkTree(parseTree(text), text, uri);

/** Checks a text that is parsed already. */
export function checkTree(result: ParseResult<Scenario>, text: string, uri: string): ParsedScenario {
  const syntax = syntaxFindings(text, result);
  const broken = new Set(syntax.map((d) => d.line));
  const compiled = compile(result.value, text, uri, broken);
  const wrong = new Set([...broken, ...compiled.findings.filter((d) => d.severity === 'error').map((d) => d.line)]);
  const kvm = checkAgainstKvm(compiled.statements, compiled.config, wrong);
  const diagnostics = [...syntax, ...compiled.findings, ...kvm].sort((a, b) => a.line - b.line || a.column - b.column);
  const failed = diagnostics.some((d) => d.severity === 'error');
  return { program: failed ? null : compiled.program, diagnostics };
}
