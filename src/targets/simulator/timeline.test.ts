import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Checkpoints } from './checkpoints';
import { FakeProgram, type FakeOptions } from './fake-program';
import { Timeline, type Watcher } from './timeline';

/** What the machine looks like at every tick of a run, told by a listener that never stops. */
function record(options: FakeOptions): { kind: string; value: number; depth: number; pc: number }[] {
  const program = new FakeProgram(options);
  const ticks: { kind: string; value: number; depth: number; pc: number }[] = [];
  let depth = 0;
  const note = (kind: string): void =>
    void ticks.push({ kind, value: program.state.value, depth, pc: program.state.pc });
  program.observer = {
    enter: () => (depth++, note('enter')),
    leave: () => (depth--, note('leave')),
    read: () => note('read'),
    event: () => note('event'),
  };
  while (program.next) {
    if (program.state.part === 0) note('statement');
    const failures = program.step();
    if (failures?.length) note('failed');
  }
  return ticks;
}

const anywhere: Watcher = {
  statement: () => true,
  enter: () => true,
  leave: () => true,
  read: () => true,
  event: () => true,
  failed: () => true,
};
const OPTIONS: FakeOptions = { statements: 400, parts: (pc) => (pc % 50 === 7 ? 4 : 1), fails: (pc) => pc % 60 === 59 };

describe('time line', () => {
  const ticks = record(OPTIONS);
  const kinds = (kind: string): number[] => ticks.flatMap((t, i) => (t.kind === kind ? [i] : []));
  const make = (capacity?: number): { line: Timeline; program: FakeProgram } => {
    const program = new FakeProgram(OPTIONS);
    return { line: new Timeline(program, capacity), program };
  };
  const check = (line: Timeline, program: FakeProgram, tick: number): void => {
    assert.equal(line.position.tick, tick);
    assert.equal(program.state.value, ticks[tick].value, `value at tick ${tick}`);
    assert.equal(line.frames.length, ticks[tick].depth, `depth at tick ${tick}`);
  };

  it('stops at every tick in turn, in the state of that tick', async () => {
    const { line, program } = make();
    for (let tick = 0; tick < 300; tick++) {
      assert.equal(await line.forward(anywhere), 'stopped');
      check(line, program, tick);
    }
  });

  it('goes back through every tick in turn', async () => {
    const { line, program } = make();
    assert.equal(await line.to(700), 'arrived');
    for (let tick = 699; tick >= 500; tick--) {
      assert.equal(await line.backward(anywhere), 'stopped');
      check(line, program, tick);
    }
  });

  it('reaches any tick from any other', async () => {
    const { line, program } = make(8);
    await fc.assert(
      fc.asyncProperty(fc.nat(ticks.length - 1), async (tick) => {
        assert.equal(await line.to(tick), 'arrived');
        check(line, program, tick);
      }),
      { numRuns: 300 },
    );
  });

  it('says that the program is over, and can go back from there', async () => {
    const { line, program } = make();
    assert.equal(await line.forward({}), 'end');
    assert.equal(line.ended, true);
    assert.equal(line.position.tick, ticks.length);
    assert.equal(await line.forward({}), 'end');
    assert.equal(await line.backward({ statement: () => true }), 'stopped');
    check(line, program, kinds('statement').at(-1) ?? -1);
    assert.equal(line.ended, false);
    assert.equal(await line.backward({}), 'start');
    check(line, program, 0);
  });

  it('finds the last match before the present, and the one after', async () => {
    const { line, program } = make();
    const wanted: Watcher = { statement: (s) => s.line % 40 === 0 };
    const stops = kinds('statement').filter((t) => (ticks[t].pc + 1) % 40 === 0);
    await line.to(kinds('read')[210]);
    const before = stops.filter((t) => t < line.position.tick);
    assert.equal(await line.backward(wanted), 'stopped');
    check(line, program, before.at(-1) ?? -1);
    assert.equal(await line.backward(wanted), 'stopped');
    check(line, program, before.at(-2) ?? -1);
    assert.equal(await line.forward(wanted), 'stopped');
    check(line, program, before.at(-1) ?? -1);
  });

  it('stops on failed expectations after their statement', async () => {
    const { line, program } = make();
    assert.equal(await line.forward({ failed: () => true }), 'stopped');
    check(line, program, kinds('failed')[0]);
    assert.equal(line.statement?.text, 'statement 59');
    assert.equal(await line.forward({ statement: () => true }), 'stopped');
    check(line, program, kinds('failed')[0] + 1);
    assert.equal(await line.backward({ failed: () => true }), 'stopped');
    check(line, program, kinds('failed')[0]);
  });

  it('goes to an event by number, in both directions', async () => {
    const { line, program } = make();
    for (const index of [120, 7, 399, 0, 250]) {
      assert.equal(await line.toEvent(index), 'stopped');
      check(line, program, kinds('event')[index]);
      assert.equal(line.position.event, index + 1);
    }
    assert.equal(await line.toEvent(100_000), 'end');
  });

  it('lists events of the past that it has forgotten, and stays where it was', async () => {
    const program = new FakeProgram({ statements: 30_000 });
    const line = new Timeline(program);
    await line.forward({});
    const value = program.state.value;
    const events = await line.events(100, 5);
    assert.deepEqual(
      events.map((e) => e.index),
      [100, 101, 102, 103, 104],
    );
    assert.equal(events[0].line, 101);
    assert.equal(program.state.value, value);
    assert.equal(line.ended, true);
    assert.equal((await line.events(29_999, 10)).length, 1);
    assert.deepEqual(await line.events(40_000, 10), []);
  });

  it('repeats a change made by the user whenever it passes there, and forgets the old future', async () => {
    const { line, program } = make();
    for (const home of [kinds('statement')[20], kinds('read')[20]]) {
      await line.forward({});
      await line.to(home);
      const old = program.state.value;
      line.patch(() => void (program.state.value = 4242));
      await line.to(home + 3);
      const after = program.state.value;
      assert.notEqual(after, ticks[home + 3].value);
      await line.to(2);
      assert.equal(program.state.value, ticks[2].value);
      await line.to(home);
      assert.equal(program.state.value, 4242);
      await line.to(home + 3);
      assert.equal(program.state.value, after);
      await line.to(home);
      line.patch(() => void (program.state.value = old));
    }
  });

  it('keeps few checkpoints however long the run is, and goes back cheaply', async function () {
    this.timeout(20_000);
    const program = new FakeProgram({ statements: 300_000 });
    const line = new Timeline(program, 32);
    await line.to(1_500_000);
    assert.ok(line.checkpoints.size <= 32);
    assert.equal(line.checkpoints.ticks[0], 0);
    let ran = 0;
    const step = program.step.bind(program);
    program.step = () => (ran++, step());
    await line.backward({ statement: () => true });
    assert.ok(ran < 60_000, `one step back ran ${ran} statements`);
    ran = 0;
    for (let i = 0; i < 20; i++) await line.backward({ statement: () => true });
    assert.ok(ran < 20 * 20_000, `twenty more ran ${ran}`);
  });

  it('pauses an endless run within 100 ms', async () => {
    const line = new Timeline(new FakeProgram({ statements: Infinity }));
    const run = line.forward({});
    await new Promise((resolve) => setTimeout(resolve, 150));
    const asked = performance.now();
    line.pause();
    assert.equal(await run, 'paused');
    assert.ok(performance.now() - asked < 100);
    const { tick } = line.position;
    assert.ok(tick > 1000);
    assert.equal(await line.backward({ statement: () => true }), 'stopped');
    assert.ok(line.position.tick < tick);
  });

  it('survives a defect of the model: it can go back, and meets it again', async () => {
    const program = new FakeProgram({ statements: 50, breaks: 20 });
    const line = new Timeline(program);
    for (let i = 0; i < 2; i++) {
      await assert.rejects(line.forward({}), /the model is broken/);
      assert.equal(line.running, false);
      assert.equal(line.frames.at(-1)?.name, 'outer');
      assert.equal(await line.backward({ statement: () => true }), 'stopped');
      assert.equal(program.state.pc, 20);
      assert.equal(await line.to(3), 'arrived');
      assert.equal(await line.backward({}), 'start');
    }
  });

  it('refuses a second run at the same time', async () => {
    const line = new Timeline(new FakeProgram({ statements: Infinity }));
    const run = line.forward({});
    await assert.rejects(line.forward({}), /in progress: pause it first/);
    assert.throws(() => line.patch(() => {}), /only while the run is stopped/);
    line.pause();
    await run;
  });
});

describe('checkpoints', () => {
  const at = (tick: number) => ({ tick, event: 0, statements: 0, entered: false, saved: tick, extra: null });

  it('gaps stay a fraction of the distance', () => {
    const list = new Checkpoints(48);
    for (let tick = 0; tick <= 1_000_000; tick += 100) list.add(at(tick), tick);
    const { ticks } = list;
    assert.equal(ticks.length, 48);
    for (let i = 1; i < ticks.length; i++) {
      const gap = ticks[i] - ticks[i - 1];
      assert.ok(gap <= 300 || gap <= (1_000_000 - ticks[i - 1]) / 2, `gap ${gap} at ${ticks[i]}`);
    }
  });

  it('finds the one at or before', () => {
    const list = new Checkpoints();
    for (const tick of [0, 10, 20]) list.add(at(tick), tick);
    assert.equal(list.before(15)?.tick, 10);
    assert.equal(list.before(20)?.tick, 20);
    assert.equal(list.before(-1), undefined);
    list.dropAfter(10);
    assert.deepEqual(list.ticks, [0, 10]);
  });
});
