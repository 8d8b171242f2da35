/** What the tests of the language share. */
import { ok } from 'node:assert/strict';
import type { StepOutcome } from '../interpreter';
import { Interpreter } from '../interpreter';
import { parseScenario } from '../parse';
import type { Diagnostic, ScenarioProgram } from '../program';

/** A small 64-bit guest with 2M of memory, its first 64 pages mapped to themselves. */
export const GUEST = `machine {
  kernel v6.1
}
backing low 2M
memslot add id 0 gpa 0 size 2M host low
vcpu 0 { cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE }
tables at 0x10000
map 0 -> 0 W count 64
`;

/** Lines of {@link GUEST}: the first line of what follows it is this plus 1. */
export const GUEST_LINES = GUEST.split('\n').length - 1;

/** Findings as `line:column code message`, lines counted after {@link GUEST}. */
export const inGuest = (text: string): string[] =>
  parseScenario(GUEST + text).diagnostics.map((d) => `${d.line - GUEST_LINES}:${d.column} ${d.code} ${d.message}`);

/** The only finding of a text. */
export function onlyFinding(text: string): Diagnostic {
  const { diagnostics } = parseScenario(text);
  ok(diagnostics.length === 1, `one finding expected, got:\n${diagnostics.map((d) => d.message).join('\n')}`);
  return diagnostics[0];
}

/** A program that must be right. */
export function program(text: string): ScenarioProgram {
  const parsed = parseScenario(text);
  ok(parsed.program, parsed.diagnostics.map((d) => `${d.line}:${d.column} ${d.message}`).join('\n'));
  return parsed.program;
}

/** Runs a text to its end. */
export function runAll(text: string): { outcomes: StepOutcome[]; interpreter: Interpreter } {
  const interpreter = new Interpreter(program(text));
  const outcomes: StepOutcome[] = [];
  while (!interpreter.done) outcomes.push(interpreter.step());
  return { outcomes, interpreter };
}

/** What is wrong after a run: expectations that failed and errors, as `line: actual`. */
export const failures = (outcomes: readonly StepOutcome[]): string[] =>
  outcomes.flatMap((o) => {
    if (o.error !== null) return [`${o.statement.line}: ${o.error}`];
    return o.expect && !o.expect.ok ? [`${o.expect.line}: ${o.expect.text}: ${o.expect.actual}`] : [];
  });
