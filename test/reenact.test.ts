/**
 * Runs of real kernels, repeated in the simulator: test/fixtures/kvm holds what Debian's 6.1.176 and 6.12.107 did on emulated AMD and
 * Intel processors. And the tool that compares them: it has to find every change, and nothing else.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { describe, it } from 'mocha';
import { reenactMain } from '../src/cli/reenact-command';
import { runScenario } from '../src/cli/run';
import { align, compareEvents, isTableSpte, TableFrames } from '../src/cli/reenact-compare';
import { COMPARED, LEFT_OUT, readEvents, type NormEvent } from '../src/cli/reenact-events';
import { figures, fileText } from '../src/cli/reenact-report';
import { compareRun, simulate } from '../src/cli/reenact-run';
import { generateScenario } from '../src/cli/reenact-scenario';
import { readSnapshot, simulatedSnapshot } from '../src/cli/reenact-snapshot';
import { parseState, StateFileError, type ProbeRun } from '../src/cli/reenact-state';
import { Interpreter } from '../src/scenario/interpreter';
import { parseScenario } from '../src/scenario/parse';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const FIXTURES = join(ROOT, 'test/fixtures/kvm');
const unpack = (name: string): string => gunzipSync(readFileSync(join(FIXTURES, name))).toString('utf8');
const runs = readdirSync(FIXTURES)
  .filter((f) => f.endsWith('.state.json.gz'))
  .map((f) => f.replace('.state.json.gz', ''));
const snapshotFiles = (name: string): string[] =>
  readdirSync(FIXTURES).filter((f) => f.startsWith(`${name}.`) && f.endsWith('.snapshot.json.gz'));
const load = (name: string): { run: ProbeRun; events: string } => ({
  run: parseState(unpack(`${name}.state.json.gz`)),
  events: unpack(`${name}.events.jsonl.gz`),
});

describe('reenact: runs of real kernels', function () {
  this.timeout(120_000);
  it('has the runs that it should have', () => {
    for (const scenario of ['long64', 'mmio', 'smm'])
      for (const config of [
        'amd-npt1-tdp1',
        'amd-npt1-tdp0',
        'amd-npt0',
        'intel-ept1-tdp1',
        'intel-ept1-tdp0',
        'intel-ept0',
      ])
        assert.ok(runs.includes(`6.1.176-${config}-${scenario}`), `${config}-${scenario}`);
    for (const other of ['pt-modify', 'pae', 'paging-off', 'smp2', 'dirty-manual'])
      assert.ok(runs.includes(`6.1.176-amd-npt1-tdp1-${other}`), other);
    assert.ok(runs.some((r) => r.startsWith('6.12.107-')));
  });
  for (const name of runs) {
    it(`${name}: every event, result and structure is equal or explained`, () => {
      const { run, events } = load(name);
      const snapshots = snapshotFiles(name).map((f) => readSnapshot(unpack(f)));
      const scenario = generateScenario(run, `${name}.state.json`);
      const report = compareRun(run, events, simulate(run, scenario, name, true), scenario, name, snapshots);
      const f = figures([report]);
      assert.equal(f.unexplained, 0, fileText(report, 10));
      assert.ok(f.total >= 200, `only ${f.total} events were compared`);
      if (/^6\.1\.176-\w+-\w+-tdp\d-(long64|mmio|smm)$/.test(name)) assert.ok(snapshots.length > 0, 'no snapshots');
      for (const s of snapshots)
        assert.ok(
          report.steps.some((r) => r.step === s.step),
          `step ${s.step}`,
        );
    });
  }
});

describe('reenact: snapshots', () => {
  const name = snapshotFiles('6.1.176-intel-ept1-tdp0-smm').find((f) => f.includes('smm-real-mode'))!;
  const { items } = readSnapshot(unpack(name));

  it('reads roles, roots, shadow pages, sptes, memslots, generations, permissions and reserved masks', () => {
    const kinds = new Set(items.map((e) => e.name.replace('snapshot:', '')));
    for (const kind of [
      'globals',
      'vm',
      'generation',
      'memslot',
      'disallow-lpage',
      'rmap',
      'shadow-page',
      'spte',
      'vcpu',
      'mmio-cache',
      'mmu-role',
      'mmu-root',
      'mmu-permissions',
      'guest-rsvd-check',
      'shadow-zero-check',
    ])
      assert.ok(kinds.has(kind), kind);
    const role = items.find((e) => e.name === 'snapshot:mmu-role')!;
    assert.equal(role.fields.find(([n]) => n === 'root_role')?.[1], 0x1003784n);
  });

  it('finds each changed field of each structure', () => {
    const seen = new Set<string>();
    for (const e of items) {
      for (const [i, [field, value, kind]] of e.fields.entries()) {
        if (seen.has(`${e.name}.${field}`)) continue;
        seen.add(`${e.name}.${field}`);
        const changed: NormEvent = { ...e, fields: e.fields.map((f, n) => (n === i ? [field, value ^ 1n, kind] : f)) };
        assert.equal(compareEvents([e], [changed], new TableFrames()).equal, 0, `${e.name}.${field}`);
      }
    }
  });

  it('finds a wrong role in the simulated machine', () => {
    const { run } = load('6.1.176-amd-npt1-tdp1-long64');
    const program = parseScenario(generateScenario(run, 'x.state.json').text).program!;
    const interpreter = new Interpreter(program);
    while (!interpreter.done) interpreter.step();
    const before = simulatedSnapshot(interpreter.machine);
    interpreter.machine.vcpus[0].root_mmu.cpu_role_ext ^= 8;
    const c = compareEvents(before, simulatedSnapshot(interpreter.machine), new TableFrames());
    assert.deepEqual(
      c.differences.map((d) => d.fields),
      [['cpu_role']],
    );
  });

  it('refuses what is no snapshot with one sentence', () => {
    assert.throws(() => readSnapshot('{'), /snapshot file is not JSON/);
    assert.throws(() => readSnapshot('{"label":{}}'), /vms should be a list, but is nothing/);
  });
});

describe('reenact: the comparison', () => {
  const { run, events } = load('6.1.176-amd-npt1-tdp1-mmio');
  const shadow = load('6.1.176-intel-ept1-tdp0-mmio');
  const flat = (r: ProbeRun, text: string): NormEvent[] => readEvents(text, r).steps.flatMap((s) => s.events);
  const copy = (list: readonly NormEvent[]): NormEvent[] =>
    list.map((e) => ({ ...e, fields: e.fields.map((f) => [...f]) }));
  const all = [...flat(run, events), ...flat(shadow.run, shadow.events)];

  it('finds a run equal to itself', () => {
    for (const { run: r, events: text } of [{ run, events }, shadow]) {
      const frames = new TableFrames();
      for (const s of readEvents(text, r).steps) {
        const c = compareEvents(s.events, copy(s.events), frames);
        assert.equal(c.equal, c.total);
        assert.equal(c.differences.length, 0);
      }
    }
  });

  it('finds each changed field of each kind of event', () => {
    const seen = new Set<string>();
    for (const e of all) {
      for (const [i, [name, value, kind]] of e.fields.entries()) {
        const id = `${e.name}.${name}`;
        if (seen.has(id)) continue;
        seen.add(id);
        const [changed] = copy([e]);
        // bit 0 is no part of a frame, so it must be seen in entries and addresses of entries as well
        changed.fields[i] = [name, value ^ 1n, kind];
        const c = compareEvents([e], [changed], new TableFrames());
        assert.equal(c.equal, 0, id);
        assert.deepEqual(c.differences[0].fields, [name], id);
      }
    }
    for (const name of [
      'kvm_exit.info1',
      'kvm_mmu_get_page.role',
      'kvm_tdp_mmu_spte_changed.new_spte',
      'mark_mmio_spte.gen',
    ])
      assert.ok(seen.has(name), name);
  });

  it('finds an event that is missing and one that is too much, without losing its place', () => {
    const list = all.slice(0, 60);
    const without = compareEvents(list, [...list.slice(0, 20), ...list.slice(21)], new TableFrames());
    assert.deepEqual([without.total, without.equal], [60, 59]);
    assert.equal(without.differences[0].kernel, list[20]);
    const more = compareEvents(
      list,
      [...list.slice(0, 20), { name: 'kvm_pio', fields: [], line: 0 }, ...list.slice(20)],
      new TableFrames(),
    );
    assert.deepEqual([more.total, more.equal], [61, 60]);
    assert.equal(more.differences[0].kernel, null);
  });

  it('pairs a changed event with its counterpart', () => {
    const list = all.slice(0, 10);
    const changed = copy(list);
    changed[5].fields[0] = [changed[5].fields[0][0], 0x123456n, changed[5].fields[0][2]];
    assert.deepEqual(
      align(list, changed).map(([a, b]) => [list.indexOf(a!), changed.indexOf(b!)]),
      list.map((_, i) => [i, i]),
    );
  });

  const table = (frame: bigint, gfn = 0n): NormEvent => ({
    name: 'kvm_tdp_mmu_spte_changed',
    line: 0,
    fields: [
      ['as_id', 0n, 'value'],
      ['gfn', gfn, 'value'],
      ['level', 3n, 'value'],
      ['old_spte', 0n, 'spte'],
      ['new_spte', (frame << 12n) | 0x827n, 'spte'],
    ],
  });
  const zap = (role: bigint): NormEvent => ({
    name: 'kvm_mmu_prepare_zap_page',
    line: 0,
    fields: [['role', role, 'value']],
  });

  it('lets table frames differ, but only as another name for the same table', () => {
    const renamed = compareEvents(
      [table(5n), table(6n), table(5n)],
      [table(50n), table(60n), table(50n)],
      new TableFrames(),
    );
    assert.equal(renamed.equal, 3);
    const mixed = compareEvents(
      [table(5n), table(6n), table(5n)],
      [table(50n), table(60n), table(60n)],
      new TableFrames(),
    );
    assert.deepEqual(
      mixed.differences.map((d) => d.fields),
      [['new_spte']],
    );
    const two = compareEvents([table(5n), table(6n)], [table(50n), table(50n)], new TableFrames());
    assert.equal(two.equal, 1);
  });

  it('lets a frame serve another table after its page was zapped, and not before', () => {
    const kernel = [table(5n), zap(2n), table(5n)];
    assert.equal(compareEvents(kernel, [table(50n), zap(2n), table(51n)], new TableFrames()).equal, 3);
    const other = [table(5n), zap(1n), table(5n)];
    assert.equal(compareEvents(other, [table(50n), zap(1n), table(51n)], new TableFrames()).equal, 2);
  });

  it('never lets the frame of a leaf differ', () => {
    assert.equal(isTableSpte(0x803c827n, 2n), true);
    assert.equal(isTableSpte(0x8400ee7n, 2n), false); // 2M leaf
    assert.equal(isTableSpte(0x29bbe67n, 1n), false);
    assert.equal(isTableSpte(0x5a0n, 3n), false); // frozen
    const leaf = (spte: bigint): NormEvent => ({
      name: 'kvm_mmu_set_spte',
      line: 0,
      fields: [
        ['level', 1n, 'value'],
        ['spte', spte, 'spte'],
      ],
    });
    assert.equal(compareEvents([leaf(0x29bbe67n)], [leaf(0x29bce67n)], new TableFrames()).equal, 0);
  });

  it('leaves out nothing without a reason, and reports what it does not know', () => {
    for (const [name, reason] of Object.entries(LEFT_OUT)) {
      assert.ok(reason.length > 10, name);
      assert.ok(!(name in COMPARED), `${name} is both compared and left out`);
    }
    for (const known of runs) {
      const { run: r, events: text } = load(known);
      assert.deepEqual(readEvents(text, r).unknown, [], known);
    }
    const strange = `${events.split('\n')[0]}\n{"ts_ns":1,"event":"marker","text":"PROBE mmio begin"}\n{"event":"kvm_from_mars"}\n`;
    assert.deepEqual(readEvents(strange, run).unknown, [{ name: 'kvm_from_mars', count: 1 }]);
  });

  it('takes interrupts of the host for noise, with the injection that they repeat', () => {
    const line = (o: object): string => JSON.stringify(o);
    const text = [
      line({ event: 'marker', text: 'PROBE mmio step 2: read' }),
      line({
        event: 'kvm_exit',
        exit_reason: '0x60',
        guest_rip: '0x1000',
        info1: '0x0',
        info2: '0x0',
        intr_info: '0x80000b0e',
        error_code: '0x3',
      }),
      line({ event: 'kvm_inj_exception', exception: 14, has_error: 1, error_code: '0x3', reinjected: 1 }),
      line({ event: 'kvm_entry', rip: '0x1000' }),
      line({ event: 'kvm_inj_exception', exception: 14, has_error: 1, error_code: '0x3', reinjected: 1 }),
      line({
        event: 'kvm_exit',
        exit_reason: '0x400',
        guest_rip: '0x1000',
        info1: '0x6',
        info2: '0x7',
        intr_info: '0xb0e',
        error_code: '0x0',
      }),
    ].join('\n');
    const [step] = readEvents(text, run).steps;
    assert.deepEqual(
      step.events.map((e) => e.name),
      ['kvm_inj_exception', 'kvm_exit'],
    );
    // without its valid bit the interruption information means nothing
    assert.equal(step.events[1].fields.find(([n]) => n === 'intr_info')?.[1], 0n);
  });
});

describe('reenact: the scenario', () => {
  it('is valid for every run', function () {
    this.timeout(30_000);
    for (const name of runs) {
      const { text } = generateScenario(load(name).run, `${name}.state.json`);
      assert.deepEqual(parseScenario(text).diagnostics, [], name);
    }
  });

  it('takes nothing from the results but expectations', function () {
    this.timeout(30_000);
    for (const name of runs) {
      const { run } = load(name);
      const inputs = (r: ProbeRun): string[] =>
        generateScenario(r, `${name}.state.json`)
          .text.split('\n')
          .filter((l) => !/^(vcpu \d+: )?expect /.test(l));
      const changed = structuredClone(run);
      for (const s of changed.steps) {
        if (s.kind === 'guest') {
          s.outcome = {
            exits: [],
            end: 'error',
            vector: 3,
            error: 77n,
            cr2: 78n,
            result: 79n,
            detail: null,
            smmAfter: 1,
            registers: { cr0: 1n, cr3: 2n, cr4: 3n, efer: 4n },
            ptChanges: [{ gpa: 0x10000n, old: 1n, new: 2n }],
          };
        } else if (s.kind === 'snapshot') {
          for (const v of s.state.vcpus) Object.assign(v, { cr0: 1n, cr3: 2n, cr4: 3n, efer: 4n, smm: 1 });
          s.state.pt.entries = [];
        }
      }
      changed.final.vcpus = [];
      assert.deepEqual(inputs(changed), inputs(run), name);
    }
  });

  /** A run with one step of every operation that the probe knows, and one that it does not. */
  function everything(): ProbeRun {
    const { run } = load('6.1.176-amd-npt1-tdp1-long64');
    const outcome = run.steps.find((s) => s.kind === 'guest')!.outcome;
    const guest = (op: string, more: object): object => ({
      kind: 'guest', vcpu: 0, op, gva: null, gpa: null, value: 0x123456789n, msr: null, compare: null, routine: null, cpl: 0, ac: 0, smm: 0, rip: 0x1000n, outcome, ...more,
    }); // prettier-ignore
    const steps = [
      guest('wrmsr', { msr: 0xc0000080n, rip: 0x1090n }),
      guest('cmpxchg8b', { gva: 0x200000n, gpa: 0x200000n, compare: 0x1_0000_0002n, rip: 0x10a0n }),
      guest('rmw', { gva: 0x200000n, gpa: 0x200000n, rip: 0x1030n }),
      guest('invlpg', { gva: 0x200000n, gpa: 0x200000n, rip: 0x1050n }),
      guest('mov-cr3', { rip: 0x1070n }),
      guest('wrpkru', { rip: 0x10e0n }),
      guest('read', { gva: 0x200000n, gpa: 0x200000n, cpl: 3, ac: 1, rip: 0x401000n }),
      guest('vmx', { routine: 0x2080n, outcome: { ...outcome, end: 'l1' } }),
      guest('vmx', { routine: 0x2080n }),
      { kind: 'note', text: 'the host maps a gva above bit 47' },
      { kind: 'note', text: 'memslot 8 changes its flags 300 times' },
      {
        kind: 'memslot',
        change: 'change-flags',
        as_id: 0,
        id: 2,
        gpa: 0x800000n,
        size: 0x400000n,
        flags: 1,
        memslots: run.initial.memslots,
      },
      {
        kind: 'memslot',
        change: 'move',
        as_id: 0,
        id: 2,
        gpa: 0x900000n,
        size: 0x400000n,
        flags: 0,
        memslots: run.initial.memslots,
      },
      { kind: 'get-dirty-log', id: 2, dirty: [1, 5] },
      { kind: 'get-dirty-log', id: 2, dirty: [] },
      { kind: 'clear-dirty-log', id: 2, first: 64, pages: 64 },
      { kind: 'vmexit-seen-by-l1', fields: { code: 0x400n, info1: 1n, info2: 2n } },
      { kind: 'smm-paging', mode: '4-level', cr3: 0x10000n, vcpus: run.initial.vcpus },
      { kind: 'unknown', op: 'teleport' },
    ];
    run.steps = steps.map((s, i) => ({ ...s, n: i + 1 })) as ProbeRun['steps'];
    return run;
  }

  it('has statements for every operation of the probe', () => {
    const run = everything();
    const { text, lines } = generateScenario(run, 'x.state.json');
    assert.equal(lines.size, run.steps.length);
    for (const wanted of [
      'rcx=0xc0000080 rdx=0x1',
      'rbx=0x23456789 rsi=0x200000 rax=0x2 rdx=0x1 rcx=0x1',
      'rsp=0x40a000 rflags=0x43002 cpl=0x3',
      'map 0x12340000000000 -> 0x200000 W',
      'repeat 150 {',
      'memslot flags id 2 LOG_DIRTY_PAGES',
      'memslot move id 2 gpa 0x900000',
      'dirty_log get id 2',
      'dirty_log clear id 2 gpa 0x840000 size 0x40000',
      'expect qword 0xa070 0x400',
      'setregs { cr0 PG|AM|WP|NE|ET|MP|PE  cr3 0x10000',
      'note "step 19 (teleport) is not repeated"',
    ])
      assert.ok(text.includes(wanted), wanted);
  });

  it('costs what the simulator cannot do its own step, not the run', () => {
    const run = everything();
    const scenario = generateScenario(run, 'x.state.json');
    scenario.text = scenario.text.replace('memslot move id 2', 'teleport slot 2');
    const simulated = simulate(run, scenario, 'x.mmu');
    assert.ok(
      simulated.refused.some((r) => /^x\.mmu:\d+:1: error: 'teleport'/.test(r)),
      simulated.refused.join('\n'),
    );
    assert.ok(simulated.steps.size > 3);
  });

  it('refuses what is no state file with one sentence', () => {
    const cases: [string, RegExp][] = [
      ['', /not JSON/],
      ['[]', /the file should be an object/],
      ['{"probe":2}', /no "probe": 1/],
      ['{"probe":1,"vendor":"via"}', /vendor should be "intel" or "amd", but is "via"/],
    ];
    for (const [text, message] of cases)
      assert.throws(
        () => parseState(text),
        (e) => e instanceof StateFileError && message.test(e.message),
      );
    const good = JSON.parse(unpack(`${runs[0]}.state.json.gz`)) as {
      steps: { gva?: unknown }[];
      initial: { memslots: object[] };
    };
    good.initial.memslots.push({ as_id: 'zero' });
    const n = good.initial.memslots.length - 1;
    assert.throws(
      () => parseState(JSON.stringify(good)),
      new RegExp(`initial\\.memslots\\[${n}\\]\\.as_id should be a whole number, but is "zero"`),
    );
  });
});

describe('reenact: the command', function () {
  this.timeout(60_000);
  const reenact = (...args: string[]): { status: number; out: string; err: string } => {
    const out: string[] = [];
    const err: string[] = [];
    const status = reenactMain(args, { out: (l) => out.push(l), err: (l) => err.push(l) });
    return { status, out: out.join('\n'), err: err.join('\n') };
  };
  const smm = join(FIXTURES, '6.1.176-amd-npt1-tdp1-smm.state.json.gz');

  it('ends with the sum over all files', () => {
    const r = reenact(smm, join(FIXTURES, '6.1.176-intel-ept1-tdp0-smm.state.json.gz'));
    assert.equal(r.status, 0, r.out);
    const lines = r.out.trim().split('\n');
    const sums = lines.map((l) => /^(?:\S+: )?(\d+) of (\d+) events equal$/.exec(l)).filter((m) => m !== null);
    assert.equal(sums.length, 3);
    assert.equal(Number(sums[2][1]), Number(sums[0][1]) + Number(sums[1][1]));
    assert.match(lines.at(-1) ?? '', /^\d+ of \d+ events equal$/);
  });

  it('prints differences with both sides and exits with 1', () => {
    const dir = mkdtempSync(join(tmpdir(), 'reenact-'));
    try {
      const state = join(dir, 'x.state.json');
      writeFileSync(state, gunzipSync(readFileSync(smm)));
      const text = unpack('6.1.176-amd-npt1-tdp1-smm.events.jsonl.gz');
      writeFileSync(
        join(dir, 'x.events.jsonl'),
        text.replace('"role":"0x1003784"', '"role":"0x1003785"').replace('"role": "0x1003784"', '"role": "0x1003785"'),
      );
      const r = reenact(state);
      assert.equal(r.status, 1, r.out + r.err);
      assert.match(r.out, /step 10, read 0x200000 cpl 0 \(scenario line \d+\): \d+ of \d+ equal/);
      assert.match(
        r.out,
        /differs in role\n {4}kernel {4}kvm_mmu_get_page .*role=0x1003785.*\(events line \d+\)\n {4}simulator kvm_mmu_get_page .*role=0x1003784/,
      );
      const json = JSON.parse(reenact('--json', state).out) as {
        unexplained: number;
        files: { differences: { fields: string[] }[] }[];
      };
      assert.equal(json.unexplained, 1);
      assert.deepEqual(json.files[0].differences[0].fields, ['role']);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('writes the scenario, which runs by itself', () => {
    const dir = mkdtempSync(join(tmpdir(), 'reenact-'));
    try {
      const file = join(dir, 'smm.mmu');
      assert.equal(reenact('--emit', file, smm).status, 0);
      const text = readFileSync(file, 'utf8');
      assert.deepEqual(parseScenario(text).diagnostics, []);
      assert.match(text, /^# smm: what kvmprobe did on kernel 6\.1\.0-50-amd64/);
      const { program } = parseScenario(text, file);
      assert.ok(program);
      const lines: string[] = [];
      const put = (line: string): void => void lines.push(line);
      const { met, failed, errors } = runScenario(program, { quiet: true }, { write: put, error: put, colour: false });
      assert.deepEqual([failed, errors], [0, 0], lines.filter((l) => l.includes('FAILED')).join('\n'));
      assert.ok(met > 150, `${met} expectations`);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('compares snapshots when asked to', () => {
    const plain = Number(/(\d+) events equal$/.exec(reenact(smm).out)?.[1]);
    const r = reenact('--snapshot', smm);
    assert.equal(r.status, 0, r.out);
    assert.ok(Number(/(\d+) events equal$/.exec(r.out)?.[1]) > plain + 100);
  });

  it('is there as an npm script', () => {
    const r = spawnSync('npm', ['run', '-s', 'reenact', '--', '--help'], { cwd: ROOT, encoding: 'utf8' });
    assert.equal(r.status, 0, r.stderr);
    assert.match(r.stdout, /usage: npm run reenact/);
  });

  it('answers bad input with one sentence and exit code 2', () => {
    const cases: [string[], RegExp][] = [
      [[], /^reenact: no file is given/],
      [['--frobnicate'], /^reenact: --frobnicate is not an option; the options are/],
      [['nowhere.state.json'], /^reenact: nowhere\.state\.json cannot be read \(ENOENT\)/],
      [[join(ROOT, 'package.json')], /^reenact: .*package\.json: the file has no "probe": 1/],
      [['--emit', 'x.mmu', smm, smm], /^reenact: --emit writes one scenario/],
    ];
    for (const [args, message] of cases) {
      const r = reenact(...args);
      assert.equal(r.status, 2, args.join(' '));
      assert.match(r.err, message);
      assert.equal(r.err.trim().split('\n').length, 1);
    }
    assert.match(reenact('--help').out, /usage: npm run reenact/);
  });
});
