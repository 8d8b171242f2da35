/** `mmuscope audit`: runs a scenario and checks the invariants of KVM's MMU in the state that it leads to. */
import { auditMachine, findingText, type Finding } from '../kvm/audit';
import { AuditPoints } from '../kvm/audit-points';
import { Interpreter, RUN_SLICE } from '../scenario/interpreter';
import type { ScenarioProgram } from '../scenario/program';
import { type Output, paint } from './terminal';

export interface AuditOptions {
  readonly json?: boolean;
  /** audit after each statement, not only at the end */
  readonly each?: boolean;
  /** audit at the points at which mmu_audit.c was called, too */
  readonly points?: boolean;
  /** stop after so many statements */
  readonly statements?: number;
}

/** What an audit came to. */
export interface AuditSummary {
  readonly findings: number;
  /** statements that could not be done */
  readonly errors: number;
}

/** Runs to the end. Expectations are not looked at: a scenario may plant a defect on purpose. */
export function auditScenario(program: ScenarioProgram, options: AuditOptions, output: Output): AuditSummary {
  const interpreter = new Interpreter(program);
  let line = 0;
  let total = 0;
  const told = new Set<string>();
  const tell = (where: string, findings: readonly Finding[]): void => {
    for (const f of findings) {
      total++;
      const text = findingText(f);
      // A defect that stays is told once.
      if (told.has(text)) continue;
      told.add(text);
      output.write(
        options.json ? JSON.stringify(findingJson(f, line, where)) : `${where}: ${paint(output, text, 'red')}`,
      );
    }
  };
  const at = (): string => `${program.uri}:${line}`;
  const points = options.points
    ? new AuditPoints(
        () => interpreter.machine,
        ({ point, findings }) => tell(`${at()}: ${point}`, findings),
      )
    : null;
  interpreter.machine.observer = points;
  let statements = 0;
  let errors = 0;
  for (
    let next = interpreter.next();
    next && statements < (options.statements ?? Infinity);
    next = interpreter.next()
  ) {
    line = next.line;
    statements++;
    let outcome = interpreter.step(RUN_SLICE);
    while (!outcome.complete) outcome = interpreter.step(RUN_SLICE);
    if (outcome.error !== null && outcome.statement.op.kind !== 'audit') {
      errors++;
      output.error(`${at()}: the scenario cannot go on: ${outcome.error}`);
    }
    if (options.each) tell(at(), auditMachine(interpreter.machine));
  }
  interpreter.machine.observer = null;
  if (!options.each) tell(`${at()}: at the end`, auditMachine(interpreter.machine));
  if (!options.json) {
    const where = points ? `, ${points.passed} points` : '';
    const text = total === 0 ? 'clean' : `${told.size} finding${told.size === 1 ? '' : 's'}`;
    output.write(
      `${program.uri}: ${statements} statements${where}: ${paint(output, text, total === 0 ? 'green' : 'red')}`,
    );
  }
  return { findings: total, errors };
}

const hex = (n: number | bigint | null): string | null => (n === null ? null : `0x${n.toString(16)}`);

/** A finding as JSON: numbers that are addresses or words as hexadecimal strings. */
function findingJson(f: Finding, line: number, where: string): object {
  const { rule, why, page, index, sptep, spte, gfn, vcpu } = f;
  return {
    rule,
    why,
    line,
    where,
    page: page && { gfn: hex(page.gfn), role: hex(page.role), level: page.level, pfn: hex(page.pfn) },
    index,
    sptep: hex(sptep),
    spte: hex(spte),
    gfn: hex(gfn),
    vcpu,
  };
}
