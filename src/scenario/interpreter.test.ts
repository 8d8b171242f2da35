import assert from 'node:assert/strict';
import { Machine } from '../kvm/machine';
import type { Observer } from '../kvm/observer';
import { StopSignal } from '../kvm/observer';
import { Interpreter, type InterpreterState } from './interpreter';
import { composeObservers, EventCollector } from './observers';
import { failures, GUEST, program, runAll } from './testing/helpers';

/** Lines executed, in order. */
const trace = (text: string): number[] => {
  const i = new Interpreter(program(text));
  const lines: number[] = [];
  for (let at = i.next(); at; at = i.next()) {
    lines.push(at.line);
    assert.equal(i.step().statement.line, at.line);
    assert.ok(lines.length < 1000);
  }
  assert.equal(i.done, true);
  assert.equal(i.steps, lines.length);
  return lines;
};

describe('the order of statements', () => {
  it('is that of the text', () => assert.deepEqual(trace('note "a"\n\nnote "b"'), [1, 3]));

  it('repeats blocks', () => {
    assert.deepEqual(trace('repeat 3 {\n  note "a"\n}\nnote "b"'), [1, 2, 2, 2, 4]);
    assert.deepEqual(trace('repeat 0 {\n  note "a"\n}\nnote "b"'), [1, 4]);
    assert.deepEqual(trace('repeat 2 {\n  note "a"\n  repeat 2 {\n    note "b"\n  }\n}'), [1, 2, 3, 4, 4, 2, 3, 4, 4]);
    assert.deepEqual(trace('repeat 2 {\n  repeat 0 {\n    note "b"\n  }\n}\nnote "c"'), [1, 2, 2, 6]);
  });

  it('repeats without end', () => {
    const i = new Interpreter(program('repeat forever {\n  note "a"\n}'));
    for (let n = 0; n < 1000; n++) i.step();
    assert.equal(i.done, false);
    assert.equal(i.next()?.line, 2);
  });

  it('refuses to step past the end', () => {
    const i = new Interpreter(program('note "a"'));
    i.step();
    assert.throws(() => i.step(), /the scenario is over/);
  });
});

describe('running', () => {
  it('drives the machine', () => {
    const { outcomes, interpreter } = runAll(
      `${GUEST}store 4 [0x2000] = 0x1234\nload 4 [0x2000]\nexpect value 0x1234\nexpect qword 0x2000 0x1234\n`,
    );
    assert.deepEqual(failures(outcomes), []);
    assert.equal(interpreter.machine.vcpus.length, 1);
  });

  it('gives the result of each instruction', () => {
    const { outcomes } = runAll(`${GUEST}store 4 [0x400000] = 1\nload 4 [0x1000]\nhlt\nud2\nout 0xe0, 1\n`);
    const runs = outcomes.flatMap((o) => (o.run ? [[o.run.end, o.run.exception?.vector ?? null]] : []));
    assert.deepEqual(runs, [['fault', 14], ['done', null], ['hlt', null], ['fault', 6], ['done', null]]); // prettier-ignore
  });

  it('runs machine code from memory', () => {
    // mov eax, [rbx]; hlt
    const { outcomes } = runAll(
      `${GUEST}dword 0x2000 = 0x77\nbytes 0x1000 = 8b 03 f4\nrun at 0x1000 rbx=0x2000\nexpect end hlt\nexpect rax 0x77\nexpect rip 0x1003\n`,
    );
    assert.deepEqual(failures(outcomes), []);
  });

  it('interrupts machine code when asked to, and goes on with it', () => {
    // inc dword [rbx]; jmp
    const text = `${GUEST}bytes 0x1000 = ff 03 eb fc\nrun at 0x1000 rbx=0x2000 limit 100\nexpect end limit\nexpect qword 0x2000 = 50\n`;
    const i = new Interpreter(program(text));
    let pieces = 0;
    while (!i.done) {
      const o = i.step(10);
      if (!o.complete) pieces++;
      assert.notEqual(o.expect?.ok, false, o.expect?.actual);
    }
    assert.ok(pieces >= 9, `${pieces} pieces`);
  });

  it('gives up code that runs for ever', () => {
    const { outcomes } = runAll(`${GUEST}bytes 0x1000 = eb fe\nrun at 0x1000 limit 100\nexpect end limit\n`);
    assert.deepEqual(failures(outcomes), []);
  });

  it('puts privilege and AC back after the instruction', () => {
    const { outcomes } = runAll(
      `${GUEST}map 0x41000 -> 0x41000 W|U\nload 4 [0x41000] user\nexpect no fault\nexpect cpl 0\nload 4 [0x41000] ac\nexpect rflags FIXED\nload 4 [0x1000] user\nexpect #PF error P|U\n`,
    );
    assert.deepEqual(failures(outcomes), []);
  });

  it('simulates the fetch of an instruction with an address', () => {
    const { outcomes } = runAll(
      `${GUEST}load 4 [0x1000] at 0x900000\nexpect #PF error F cr2 0x900000\nload 4 [0x1000] at 0x2000\nexpect no fault\n`,
    );
    assert.deepEqual(failures(outcomes), []);
  });

  it('runs several vCPUs', () => {
    const { outcomes } = runAll(
      `${GUEST}vcpu 1 { cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE }\nvcpu 1: store 4 [0x3000] = 5\nload 4 [0x3000]\nexpect value 5\nvcpu 1: smi\nvcpu 1: nop\nvcpu 0: expect smm 0\nvcpu 1: expect smm 0\n`.replace(
        'vcpu 1: nop',
        'memslot add as 1 id 0 gpa 0 size 2M host low\nvcpu 1: nop\nvcpu 1: expect smm 1',
      ),
    );
    assert.deepEqual(
      failures(outcomes),
      ['18: expect smm 0: smm 1'].map((f) =>
        f.replace('18', `${outcomes.at(-1)?.statement.line}`).replace('expect', 'vcpu 1: expect'),
      ),
    );
  });

  it('ends the scenario when an ioctl fails that nobody expected to', () => {
    const p = program(
      `${GUEST}repeat 2 {\n  memslot add id 5 gpa 8M size 4K host low\n  memslot delete id 5\n}\nnote "end"`,
    );
    const i = new Interpreter(p);
    while (i.next()?.statement.op.kind !== 'memslot-delete') i.step();
    i.machine.set_user_memory_region({ as_id: 0, id: 5, gpa: 0, size: 0, hva: 0n, flags: 0 });
    const o = i.step();
    assert.match(o.error ?? '', /-EINVAL/);
    assert.equal(i.done, true);
    const expected = runAll(`${GUEST}memslot add id 1 gpa 0 size 4K host low\nexpect errno EEXIST\nnote "end"`);
    assert.deepEqual(failures(expected.outcomes), []);
    assert.equal(expected.outcomes.at(-1)?.statement.text, 'note "end"');
  });

  it('says why page tables cannot be written', () => {
    const { outcomes } = runAll(
      'backing low 2M\nmemslot add id 0 gpa 0 size 2M host low\nvcpu 0 { cr0 PG|PE  cr3 0x400000  cr4 PAE  efer LME }\ntables at 0x10000\nmap 0 -> 0',
    );
    assert.match(
      outcomes.at(-1)?.error ?? '',
      /no memslot of address space 0 holds the guest page table at gpa 0x400000/,
    );
  });

  it('keeps a dirty log', () => {
    // With EPT A/D flags, walks of the guest's tables count as writes: the tables are dirty again after a load.
    const text = `${GUEST}memslot flags id 0 LOG_DIRTY_PAGES\nstore 4 [0x2000] = 1\nstore 4 [0x3000] = 1\ndirty_log get id 0\nexpect errno 0\ndirty_log get id 0\nexpect no dirty\nload 4 [0x2000]\ndirty_log get id 0\nexpect dirty 0x10 0x11 0x12 0x13\nmemslot flags id 0 0\ndirty_log get id 0\nexpect errno ENOENT\n`;
    const { outcomes } = runAll(text);
    assert.deepEqual(failures(outcomes), []);
    const wrong = runAll(
      `${GUEST}memslot flags id 0 LOG_DIRTY_PAGES\nstore 4 [0x2000] = 1\ndirty_log get id 0\nexpect dirty 3`,
    );
    assert.match(failures(wrong.outcomes)[0], /expect dirty 3: dirty .*2/);
  });

  it('lets the host take memory away', () => {
    const { outcomes } = runAll(
      `${GUEST}store 4 [0x2000] = 1\ninvalidate low+0x2000 size 4K\nexpect event kvm_unmap_hva_range\nload 4 [0x2000]\nexpect value 0\n`,
    );
    assert.deepEqual(failures(outcomes), []);
  });
});

describe('state of the interpreter', () => {
  const TEXT = `${GUEST}repeat 3 {\n  rmw 4 [0x2000] + 1\n  expect event kvm_entry\n}\nload 4 [0x2000]\nexpect value 3\nload 4 [0x20a000]\n`;

  it('can be saved anywhere and gone back to, with the machine', () => {
    const straight = runAll(TEXT).outcomes;
    const i = new Interpreter(program(TEXT));
    const saved: { state: InterpreterState; machine: ReturnType<Machine['snapshot']>; at: number }[] = [];
    for (let n = 0; !i.done; n++) {
      saved.push({ state: i.snapshot(), machine: i.machine.snapshot(), at: n });
      i.step();
    }
    for (const { state, machine, at } of saved) {
      i.machine = Machine.fromSnapshot(machine);
      i.restore(state);
      for (const wanted of straight.slice(at)) {
        const { run, expect } = i.step();
        assert.deepEqual(expect, wanted.expect);
        assert.deepEqual(run, wanted.run);
      }
      assert.equal(i.done, true);
    }
    i.restart();
    assert.equal(i.next()?.line, 1);
    assert.equal(i.machine.vcpus.length, 0);
  });

  it('lets a StopSignal through and stays before the statement', () => {
    const i = new Interpreter(program(TEXT));
    while (i.next()?.statement.op.kind !== 'insn') i.step();
    const before = i.snapshot();
    const stopper: Observer = {
      enter() {
        throw new StopSignal();
      },
      leave() {},
      read() {},
      event() {},
    };
    i.machine.observer = stopper;
    assert.throws(() => i.step(), StopSignal);
    assert.equal(i.snapshot(), before);
    assert.equal(i.machine.observer, stopper);
  });

  it('listens only for an expect that asks, and beside others', () => {
    const seen = new EventCollector();
    const p = program(`${GUEST}load 4 [0x1000]\nload 4 [0x3000]\nexpect event kvm_entry\n`);
    const i = new Interpreter(p);
    while (i.next()?.statement.op.kind !== 'insn') i.step();
    i.step();
    assert.equal(i.snapshot().last?.events, null);
    i.machine.observer = seen;
    i.step();
    assert.equal(i.machine.observer, seen);
    assert.deepEqual(i.snapshot().last?.events, seen.events);
    assert.equal(i.step().expect?.ok, true);
  });
});

describe('composeObservers', () => {
  it('tells each in order and leaves out those that are not there', () => {
    const calls: string[] = [];
    const make = (name: string): Observer => ({
      enter: (kind, f) => void calls.push(`${name} enter ${kind} ${f}`),
      leave: () => void calls.push(`${name} leave`),
      read: () => void calls.push(`${name} read`),
      event: (e) => void calls.push(`${name} ${e.kind}`),
    });
    const both = composeObservers(make('a'), null, make('b'), undefined);
    both?.enter('kvm', 'f', 0, null);
    both?.read({} as never, 0);
    both?.event({ kind: 'kvm_entry', vcpu: 0, rip: 0n });
    both?.leave();
    assert.deepEqual(calls, [
      'a enter kvm f',
      'b enter kvm f',
      'a read',
      'b read',
      'a kvm_entry',
      'b kvm_entry',
      'a leave',
      'b leave',
    ]);
    assert.equal(composeObservers(null, undefined), null);
    const one = make('c');
    assert.equal(composeObservers(null, one), one);
  });
});
