/** `mmuscope run`: a scenario from its first to its last statement, one line per event and per expectation. */
import type { KvmEvent } from '../kvm/events';
import type { Observer } from '../kvm/observer';
import { Interpreter, RUN_SLICE, type StepOutcome } from '../scenario/interpreter';
import type { ScenarioProgram, Statement } from '../scenario/program';
import { EVENTS, eventFields, eventInfo, eventText, type EventCategory } from '../targets/event-info';
import { Lexicon } from '../targets/lexicon';
import { suggestion } from '../words/suggest';
import { CliError, type Colour, type Output, paint } from './terminal';

export interface RunOptions {
  readonly json?: boolean;
  /** kinds of event to print; without it all */
  readonly events?: readonly string[];
  /** no events at all */
  readonly quiet?: boolean;
  /** stop after so many statements */
  readonly statements?: number;
}

/** What a run came to. */
export interface RunSummary {
  readonly events: number;
  readonly statements: number;
  readonly met: number;
  readonly failed: number;
  /** the scenario could not go on */
  readonly errors: number;
}

const CATEGORY_COLOURS: Readonly<Record<EventCategory, Colour | null>> = {
  fault: 'red',
  exit: 'dim',
  mmu: 'blue',
  mmio: 'magenta',
  smm: 'yellow',
  memslot: 'cyan',
  role: 'green',
  tlb: 'dim',
  nested: 'cyan',
  other: null,
};

/** @throws CliError that lists the kinds */
function checkKinds(kinds: readonly string[]): void {
  for (const kind of kinds) {
    if (EVENTS.has(kind)) continue;
    const names = [...EVENTS.keys()];
    throw new CliError(`there is no event '${kind}': the events are ${names.join(', ')}${suggestion(kind, names)}`);
  }
}

/** Runs to the end. Events are numbered as the debugger numbers them. */
export function runScenario(program: ScenarioProgram, options: RunOptions, output: Output): RunSummary {
  checkKinds(options.events ?? []);
  const interpreter = new Interpreter(program);
  const { config, spte, cpu, caps } = interpreter.machine;
  const lexicon = new Lexicon({
    kernel: caps.kernel.name,
    vendor: config.vendor,
    paging: config.paging,
    guestPhysBits: cpu.maxphyaddr,
    sptes: spte.layout,
  });
  const kinds = options.events && options.events.length > 0 ? new Set(options.events) : null;
  const printer = options.json ? new JsonPrinter(output, program, lexicon) : new TextPrinter(output, program, lexicon);
  let events = 0;
  const observer: Observer = {
    enter: () => {},
    leave: () => {},
    read: () => {},
    event: (event) => {
      const index = events++;
      if (!options.quiet && (!kinds || kinds.has(event.kind))) printer.event(index, event, statement);
    },
  };
  let statement: Statement | null = null;
  const counts = { statements: 0, met: 0, failed: 0, errors: 0 };
  const limit = options.statements ?? Infinity;
  interpreter.machine.observer = observer;
  while (counts.statements < limit) {
    statement = interpreter.next()?.statement ?? null;
    if (!statement) break;
    counts.statements++;
    printer.statement(statement);
    // Interrupted as the debugger interrupts it, so that events have the same numbers there.
    let outcome = interpreter.step(RUN_SLICE);
    while (!outcome.complete) outcome = interpreter.step(RUN_SLICE);
    if (outcome.expect?.ok) counts.met++;
    else if (outcome.expect) counts.failed++;
    if (outcome.error !== null) counts.errors++;
    printer.outcome(outcome);
  }
  const summary = { events, ...counts };
  printer.summary(summary);
  return summary;
}

interface Printer {
  statement(statement: Statement): void;
  event(index: number, event: KvmEvent, statement: Statement | null): void;
  outcome(outcome: StepOutcome): void;
  summary(summary: RunSummary): void;
}

/** One JSON object per line; 64-bit values are hexadecimal strings. */
class JsonPrinter implements Printer {
  constructor(
    private readonly output: Output,
    { uri }: ScenarioProgram,
    { options: { kernel, vendor, paging } }: Lexicon,
  ) {
    this.put({ type: 'scenario', file: uri, kernel, vendor, paging });
  }

  private put(value: object): void {
    this.output.write(JSON.stringify(value));
  }

  statement(): void {}

  event(index: number, event: KvmEvent, statement: Statement | null): void {
    const { kind, vcpu } = event;
    this.put({ type: 'event', index, line: statement?.line ?? null, vcpu, kind, fields: eventFields(event) });
  }

  outcome({ expect, error, statement }: StepOutcome): void {
    if (expect)
      this.put({ type: 'expect', line: expect.line, ok: expect.ok, text: expect.text, actual: expect.actual });
    if (error !== null) this.put({ type: 'error', line: statement.line, text: statement.text, error });
  }

  summary(summary: RunSummary): void {
    this.put({ type: 'summary', ...summary, ok: summary.failed === 0 && summary.errors === 0 });
  }
}

/** Statements with their events below them, in columns. */
class TextPrinter implements Printer {
  private readonly lineWidth: number;
  private readonly kindWidth = Math.max(...[...EVENTS.keys()].map((kind) => kind.length));
  private pending: Statement | null = null;

  constructor(
    private readonly output: Output,
    program: ScenarioProgram,
    private readonly lexicon: Lexicon,
  ) {
    this.lineWidth = String(program.statements.at(-1)?.line ?? 0).length;
    const { kernel, vendor, paging } = lexicon.options;
    output.write(paint(output, `${program.uri}: ${kernel}, ${vendor}, ${paging}`, 'bold'));
  }

  private lineNumber(line: number): string {
    return String(line).padStart(this.lineWidth);
  }

  /** Statements are named when something happens in them. */
  statement(statement: Statement): void {
    const { op } = statement;
    this.pending = statement;
    if (op.kind !== 'note' && op.kind !== 'step') return;
    // What the author says about what follows.
    this.pending = null;
    const text = op.kind === 'step' ? `${op.number}. ${op.text}` : op.text;
    this.output.write(`${this.lineNumber(statement.line)}  ${paint(this.output, `— ${text}`, 'cyan', 'bold')}`);
  }

  private heading(): void {
    const { pending } = this;
    this.pending = null;
    if (pending)
      this.output.write(`${this.lineNumber(pending.line)}  ${paint(this.output, firstLine(pending.text), 'bold')}`);
  }

  event(index: number, event: KvmEvent): void {
    this.heading();
    const colour = CATEGORY_COLOURS[eventInfo(event.kind).category];
    const kind = paint(this.output, event.kind.padEnd(this.kindWidth), ...(colour ? [colour] : []));
    const text = eventText(event, this.lexicon).slice(event.kind.length).trimStart();
    const number = paint(this.output, `#${index}`.padStart(6), 'dim');
    const vcpu = event.vcpu < 0 ? '  ' : `v${event.vcpu}`;
    this.output.write(`${' '.repeat(this.lineWidth)}${number} ${vcpu} ${kind} ${text}`.trimEnd());
  }

  outcome({ expect, error, ioctl, statement }: StepOutcome): void {
    const line = this.lineNumber(statement.line);
    if (expect) {
      this.pending = null;
      const verdict = expect.ok ? paint(this.output, 'ok    ', 'green') : paint(this.output, 'FAILED', 'red', 'bold');
      this.output.write(`${line}  ${verdict} ${firstLine(expect.text)}${expect.ok ? '' : `: found ${expect.actual}`}`);
    } else if (error !== null) {
      this.heading();
      this.output.write(`${line}  ${paint(this.output, 'ERROR ', 'red', 'bold')} ${error}`);
    } else if (ioctl && ioctl.errno !== 0) {
      this.heading();
      this.output.write(`${' '.repeat(this.lineWidth)}  ${paint(this.output, ioctl.text, 'yellow')}`);
    }
  }

  summary({ events, statements, met, failed, errors }: RunSummary): void {
    const expectations = `${met} of ${met + failed} expectation${met + failed === 1 ? '' : 's'} met`;
    const end = errors > 0 ? ', stopped by an error' : '';
    const text = `${statements} statement${statements === 1 ? '' : 's'}, ${events} event${events === 1 ? '' : 's'}, ${expectations}${end}`;
    this.output.write(paint(this.output, text, failed + errors > 0 ? 'red' : 'green'));
  }
}

const firstLine = (text: string): string => text.split('\n', 1)[0].trim();
