/** What real kernels did, done again by the model, leaves no invariant of the MMU broken: neither between statements nor inside. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { generateScenario } from '../src/cli/reenact-scenario';
import { parseState } from '../src/cli/reenact-state';
import { auditMachine, findingText } from '../src/kvm/audit';
import { AuditPoints } from '../src/kvm/audit-points';
import { Interpreter } from '../src/scenario/interpreter';
import { parseScenario } from '../src/scenario/parse';
import type { ScenarioProgram } from '../src/scenario/program';

const runs = new URL('./fixtures/kvm/', import.meta.url);
const examples = new URL('../examples/', import.meta.url);
/** Statements after which there is nothing new to audit. */
const PASSIVE = new Set(['write', 'expect', 'let', 'step', 'note', 'machine', 'backing', 'frames']);
/** Scenarios that plant defects. */
const DEFECTS = new Set<string>();

function program(text: string, name: string): ScenarioProgram {
  const parsed = parseScenario(text, name);
  assert.ok(parsed.program, parsed.diagnostics.map((d) => d.message).join('\n'));
  return parsed.program;
}

function audited(p: ScenarioProgram): string[] {
  const interpreter = new Interpreter(p);
  const found: string[] = [];
  const points = new AuditPoints(
    () => interpreter.machine,
    ({ point, findings }) => found.push(...findings.map((f) => `${point}: ${findingText(f)}`)),
  );
  interpreter.machine.observer = points;
  while (!interpreter.done && found.length === 0) {
    const { statement } = interpreter.step();
    if (!PASSIVE.has(statement.op.kind))
      found.push(...auditMachine(interpreter.machine).map((f) => `line ${statement.line}: ${findingText(f)}`));
  }
  assert.ok(points.passed > 0, 'audited inside of statements, too');
  return found;
}

describe('audit', function () {
  this.timeout(60_000);

  for (const name of readdirSync(runs).filter((n) => n.endsWith('.state.json.gz')))
    it(`is clean all through ${name.replace('.state.json.gz', '')}`, () => {
      const run = parseState(gunzipSync(readFileSync(new URL(name, runs))).toString());
      assert.deepEqual(audited(program(generateScenario(run, name).text, name)), []);
    });

  for (const name of readdirSync(examples).filter((n) => n.endsWith('.mmu') && !DEFECTS.has(n)))
    it(`is clean all through ${name}`, () => {
      assert.deepEqual(audited(program(readFileSync(new URL(name, examples), 'utf8'), name)), []);
    });
});
