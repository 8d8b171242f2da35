import assert from 'node:assert/strict';
import type { ExprValue } from '../expr';
import type { Motion, Stop } from '../target';
import { Breakpoints, type StateNames } from './breakpoints';
import { FakeProgram, type FakeOptions } from './fake-program';
import { RunControl } from './run-control';
import { Timeline } from './timeline';

interface Session {
  control: RunControl;
  breakpoints: Breakpoints;
  program: FakeProgram;
  output: string[];
  /** moves and says where it stands: `reason@statement/stack` */
  go(motion: Motion | Motion['kind']): Promise<string>;
  stop: Stop;
}

function open(options: FakeOptions = { statements: 100, lines: 50 }): Session {
  const program = new FakeProgram(options);
  const names: StateNames = {
    scope: { has: (n) => n === 'pc' || n === 'value', names: () => ['pc', 'value'] },
    env: () => ({ get: (n): ExprValue => BigInt(n === 'pc' ? program.state.pc : program.state.value) }),
  };
  const breakpoints = new Breakpoints(names, 'v6.1');
  const timeline = new Timeline(program);
  const control = new RunControl(timeline, breakpoints);
  const output: string[] = [];
  const session: Session = {
    control,
    breakpoints,
    program,
    output,
    async go(motion) {
      const stop = await control.run((typeof motion === 'string' ? { kind: motion } : motion) as Motion, {
        output: (text) => output.push(text),
      });
      session.stop = stop;
      const reads = timeline.frames.at(-1)?.reads.length ? '+read' : '';
      return `${stop.reason}@${program.state.pc}/${timeline.frames.map((f) => f.name).join('/')}${reads}`;
    },
    stop: undefined as unknown as Stop,
  };
  return session;
}

const ALL_LINES = Array.from({ length: 50 }, (_, i) => i + 1);

describe('stepping', () => {
  it('goes over statements', async () => {
    const s = open();
    assert.equal(await s.go('next'), 'step@0/');
    assert.equal(await s.go('next'), 'step@1/');
    assert.equal(await s.go('next'), 'step@2/');
  });

  it('goes into reads and functions, and over what they call', async () => {
    const s = open();
    await s.go({ kind: 'line', line: 3, direction: 'forward' });
    assert.equal(await s.go('stepIn'), 'step@2/outer');
    assert.equal(await s.go('stepIn'), 'step@2/outer+read');
    assert.equal(await s.go('stepIn'), 'step@2/outer/inner');
    assert.equal(await s.go('next'), 'step@2/outer/inner', 'the second call of inner');
    assert.equal(await s.go('next'), 'step@3/', 'nothing more on this level');
    await s.go('stepIn');
    assert.equal(await s.go('next'), 'step@4/', 'over what outer does');
  });

  it('goes out to where a function returns, then on with its siblings', async () => {
    const s = open();
    await s.go({ kind: 'line', line: 3, direction: 'forward' });
    for (let i = 0; i < 3; i++) await s.go('stepIn');
    assert.equal(await s.go('stepOut'), 'step@2/outer+read', 'back in outer');
    assert.equal(await s.go('next'), 'step@2/outer/inner', 'the second call');
    await s.go('stepOut');
    assert.equal(await s.go('stepOut'), 'step@2/', 'outer has returned');
    assert.equal(await s.go('next'), 'step@3/');
  });

  it('goes back the same way', async () => {
    const s = open();
    await s.go({ kind: 'line', line: 4, direction: 'forward' });
    assert.equal(await s.go('stepBack'), 'step@2/');
    assert.equal(await s.go('next'), 'step@3/');
    assert.equal(await s.go('reverseStepIn'), 'step@2/outer/inner');
    assert.equal(await s.go('stepBack'), 'step@2/outer/inner', 'the first call');
    assert.equal(await s.go('stepBack'), 'step@2/outer+read');
    assert.equal(await s.go('stepBack'), 'step@2/outer');
    assert.equal(await s.go('stepBack'), 'step@2/');
    assert.equal(await s.go({ kind: 'stepBack', granularity: 'instruction' }), 'step@1/outer/inner');
    assert.equal(await s.go({ kind: 'next', granularity: 'instruction' }), 'step@2/');
  });

  it('ends, and comes back from the end', async () => {
    const s = open({ statements: 3 });
    assert.equal(await s.go('continue'), 'end@3/');
    assert.equal(await s.go('continue'), 'end@3/');
    assert.equal(await s.go('stepBack'), 'step@2/');
    assert.equal(await s.go('reverseContinue'), 'entry@0/');
    assert.equal(s.stop.description, 'the start of the run');
  });

  it('goes to events and ticks', async () => {
    const s = open();
    assert.equal(await s.go({ kind: 'event', index: 12 }), 'goto@12/outer+read');
    assert.equal(s.stop.event, 12);
    assert.equal(await s.go({ kind: 'event', index: 3 }), 'goto@3/outer+read');
    assert.equal(await s.go({ kind: 'tick', tick: 0 }), 'entry@0/');
    assert.equal(await s.go({ kind: 'event', index: 5000 }), 'end@100/');
  });
});

describe('breakpoints', () => {
  it('on lines, moved down to the next statement', async () => {
    const s = open();
    const [a, b] = s.breakpoints.setLines([{ line: 7 }, { line: 1000 }], [1, 5, 9]);
    assert.deepEqual([a.verified, a.line, b.line], [true, 9, 9]);
    assert.equal(await s.go('continue'), 'breakpoint@8/');
    assert.deepEqual(s.stop.breakpointIds, [a.id, b.id]);
    assert.equal(await s.go('continue'), 'breakpoint@58/', 'the same line again');
    assert.equal(await s.go('reverseContinue'), 'breakpoint@8/');
    assert.equal(await s.go('reverseContinue'), 'entry@0/');
    assert.deepEqual(s.breakpoints.setLines([{ line: 1 }], [])[0].verified, false);
  });

  it('on functions, doubtful ones too', async () => {
    const s = open();
    const [bp] = s.breakpoints.setFunctions([{ name: 'inner()' }]);
    assert.equal(bp.verified, false);
    assert.match(bp.message ?? '', /'inner' is not a KVM function/);
    assert.equal(await s.go('continue'), 'function breakpoint@1/outer/inner');
    assert.equal(s.stop.description, 'inner');
  });

  it('with conditions, hit counts and log messages', async () => {
    const s = open();
    const [a] = s.breakpoints.setLines([{ line: 5, condition: 'pc > 10' }], ALL_LINES);
    assert.equal(a.verified, true);
    assert.equal(await s.go('continue'), 'breakpoint@54/');
    await s.go({ kind: 'tick', tick: 0 });
    s.breakpoints.setFunctions([{ name: 'outer', hitCondition: '% 30' }]);
    s.breakpoints.setLines([{ line: 5, logMessage: 'pc is {pc}' }], ALL_LINES);
    assert.equal(await s.go('continue'), 'function breakpoint@29/outer');
    assert.deepEqual(s.output, ['pc is 4']);
    await s.go('reverseContinue');
    assert.deepEqual(s.output, ['pc is 4'], 'looking back logs nothing');
  });

  it('on events, by exception filters with conditions on their fields', async () => {
    const s = open();
    s.breakpoints.setFilters([{ filter: 'ept_violation', condition: 'write && gpa >= 0x20000' }]);
    assert.equal(await s.go('continue'), 'exception@39/outer+read');
    assert.equal(s.stop.description, 'EPT violation at gpa 0x27000 (write)');
    assert.equal(s.stop.filter, 'ept_violation');
    assert.equal(await s.go('continue'), 'exception@59/outer+read');
    assert.equal(await s.go('reverseContinue'), 'exception@39/outer+read');
  });

  it('on failed expectations', async () => {
    const s = open({ statements: 20, fails: (pc) => pc === 4 || pc === 8 });
    s.breakpoints.setFilters([{ filter: 'expect', condition: 'line > 5' }]);
    assert.equal(await s.go('continue'), 'exception@9/');
    assert.deepEqual(s.output, ['line 5: statement 4', 'line 9: statement 8']);
    assert.equal(await s.go('stepBack'), 'step@8/');
  });

  it('on memory that changes, in both directions', async () => {
    const s = open();
    const bytes = { title: 'pc', read: () => Uint8Array.of(s.program.state.pc >> 4) };
    s.breakpoints.setData([{ dataId: 'pc', bytes }]);
    assert.equal(await s.go('continue'), 'data breakpoint@16/');
    assert.equal(s.stop.description, 'pc: 0x0 → 0x1');
    assert.equal(await s.go('continue'), 'data breakpoint@32/');
    assert.equal(await s.go('reverseContinue'), 'data breakpoint@16/');
    assert.equal(s.stop.description, 'pc: 0x0 → 0x1');
    assert.equal(await s.go('next'), 'step@17/');
  });

  it('say in one sentence what is wrong with them', () => {
    const s = open();
    const message = (result: { verified: boolean; message?: string }[]) =>
      result[0].verified ? '' : (result[0].message ?? '');
    assert.match(
      message(s.breakpoints.setFilters([{ filter: 'smm' }])),
      /no exception filter 'smm': the filters are guest_page_fault/,
    );
    assert.match(
      message(s.breakpoints.setFilters([{ filter: 'ept_violation', condition: 'gpq > 1' }])),
      /'gpq'.*did you mean 'gpa'/,
    );
    assert.match(
      message(s.breakpoints.setLines([{ line: 1, condition: 'gpa > 1' }], ALL_LINES)),
      /not a name here: the names are line, pc/,
    );
    assert.match(message(s.breakpoints.setLines([{ line: 1, hitCondition: 'x' }], ALL_LINES)), /not a hit count/);
    assert.match(message(s.breakpoints.setLines([{ line: 1, logMessage: '{' }], ALL_LINES)), /not closed/);
  });

  it('a condition that fails is told and does not stop', async () => {
    const s = open();
    s.breakpoints.setLines([{ line: 2, condition: '1 / (pc - 1) == 0' }], ALL_LINES);
    assert.equal(await s.go('continue'), 'breakpoint@51/');
    assert.match(s.output[0], /'\/ 0' has no result/);
  });
});
