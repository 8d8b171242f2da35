import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { main } from './command-line';
import { paint, wantsColour } from './terminal';

interface Result {
  code: number;
  out: string[];
  err: string[];
}

async function cli(...argv: string[]): Promise<Result> {
  const result: Result = { code: -1, out: [], err: [] };
  result.code = await main(argv, {
    colour: false,
    write: (line) => void result.out.push(line),
    error: (line) => void result.err.push(line),
  });
  return result;
}

const GOOD = `machine { kernel v6.1 vendor intel paging ept }
backing low 1M
memslot add as 0 id 0 gpa 0 size 640K host low
vcpu 0 { cr0 NE|ET|PE  idt none }
note "one word"
store 4 [0x1000] = 5
load 4 [0x1000]
expect value 5
load 4 [0xa0000]
`;

describe('command line', function () {
  this.timeout(20_000);
  let folder: string;
  const file = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  before(() => (folder = mkdtempSync(join(tmpdir(), 'mmuscope-'))));
  after(() => rmSync(folder, { recursive: true }));

  describe('run', () => {
    it('prints a line per event and the outcome of each expect', async () => {
      const { code, out } = await cli('run', file('good.mmu', GOOD));
      assert.equal(code, 0);
      const text = out.join('\n');
      assert.match(text, /good\.mmu: v6\.1, intel, ept$/m);
      assert.match(text, /^6 {2}store 4 \[0x1000\] = 5$/m);
      assert.match(text, /^ +#\d+ v0 ept_violation +gpa 0x1000 .*write$/m);
      assert.match(text, /^8 {2}ok {5}expect value 5$/m);
      assert.match(text, /^5 {2}— one word$/m);
      assert.match(out.at(-1) ?? '', /^9 statements, \d+ events, 1 of 1 expectation met$/);
    });

    it('exits with 1 when an expectation fails, and says what was found', async () => {
      const { code, out } = await cli('run', '-q', file('bad.mmu', GOOD.replace('expect value 5', 'expect value 6')));
      assert.equal(code, 1);
      assert.deepEqual(out.slice(1), [
        '5  — one word',
        '8  FAILED expect value 6: found value 5',
        `9 statements, ${/(\d+) events/.exec(out.at(-1) ?? '')?.[1]} events, 0 of 1 expectation met`,
      ]);
    });

    it('exits with 1 when user space cannot go on', async () => {
      const text = `${GOOD}memslot add as 0 id 1 gpa 0x2000 size 4K host low\nload 4 [0]\n`;
      const { code, out } = await cli('run', '-q', file('overlap.mmu', text));
      // The check before the run finds it already.
      assert.equal(code, 2);
      assert.deepEqual(out, []);
    });

    it('--events prints these only, in the same numbering', async () => {
      const all = await cli('run', file('good.mmu', GOOD));
      const some = await cli('run', '--events', 'kvm_mmu_set_spte', '--', file('good.mmu', GOOD));
      const of = (r: Result): string[] => r.out.filter((line) => line.includes(' kvm_mmu_set_spte '));
      assert.ok(of(some).length > 0);
      assert.deepEqual(of(some), of(all));
      assert.equal(some.out.filter((line) => line.includes('kvm_exit')).length, 0);
    });

    it('--json prints objects, with the numbers as hexadecimal text', async () => {
      const { code, out } = await cli('run', '--json', file('good.mmu', GOOD));
      assert.equal(code, 0);
      const lines = out.map((line) => JSON.parse(line) as Record<string, unknown>);
      const spte = lines.find((l) => l['kind'] === 'kvm_mmu_set_spte') as {
        fields: Record<string, string>;
        line: number;
      };
      assert.equal(spte.fields['gfn'], '0x1');
      assert.equal(spte.line, 6);
      assert.deepEqual(
        lines.filter((l) => l['type'] === 'expect'),
        [{ type: 'expect', line: 8, ok: true, text: 'expect value 5', actual: 'value 5' }],
      );
      assert.equal(lines.at(-1)?.['type'], 'summary');
      const events = lines.filter((l) => l['type'] === 'event');
      assert.deepEqual(
        events.map((e) => e['index']),
        events.map((_, i) => i),
      );
    });

    it('takes several scenarios: one that cannot be read or fails does not keep the others from running', async () => {
      const [good, bad] = [file('good.mmu', GOOD), file('bad.mmu', GOOD.replace('expect value 5', 'expect value 6'))];
      const { code, out, err } = await cli('run', '-q', join(folder, 'none.mmu'), bad, good);
      assert.equal(code, 2, 'the worst of all');
      assert.match(err[0], /none\.mmu/);
      const summaries = out.filter((line) => line.includes('expectation'));
      assert.match(summaries[0], /0 of 1 expectation met/);
      assert.match(summaries[1], /1 of 1 expectation met/);
      const json = (await cli('run', '--json', bad, good)).out.map((l) => JSON.parse(l) as Record<string, unknown>);
      assert.deepEqual(
        json.filter((l) => l['type'] === 'scenario').map((l) => l['file']),
        [bad, good],
      );
      const audited = await cli('audit', good, bad);
      assert.equal(audited.code, 0);
      assert.equal(audited.out.filter((line) => line.includes('clean')).length, 2);
    });

    it('runs on another kernel and vendor', async () => {
      const { code, out } = await cli('run', '--kernel', '5.10', '--vendor', 'amd', file('good.mmu', GOOD));
      assert.equal(code, 0);
      assert.match(out[0], /v5\.10, amd, npt/);
      assert.ok(out.some((line) => line.includes('npf ')));
    });

    it('--statements ends an endless scenario', async () => {
      const text = `${GOOD}repeat forever {\n  load 4 [0x1000]\n}\n`;
      const { out } = await cli('run', '-q', '--statements', '500', file('endless.mmu', text));
      assert.match(out.at(-1) ?? '', /^500 statements/);
    });
  });

  it('walk says why, and exits with 1 when the address does not translate', async () => {
    const path = file('good.mmu', GOOD);
    const good = await cli('walk', path, '0x1008', '--write');
    assert.equal(good.code, 0);
    assert.equal(good.out[0], 'supervisor write of gva 0x1008');
    assert.match(good.out.at(-1) ?? '', /^translated to hpa 0x[0-9a-f]+008$/);
    const bad = await cli('walk', path, '0xb0000', '--gpa', '--checks');
    assert.equal(bad.code, 1);
    assert.ok(bad.out.some((line) => /FAILS ept\.present/.test(line)));
    assert.ok(bad.out.some((line) => /ok {4}ept\.write-only/.test(line)));
    const before = await cli('walk', path, '0x1000', '--at-line', '6');
    assert.deepEqual(before, {
      code: 2,
      out: [],
      err: ['mmuscope: vCPU 0 has no root to walk from: KVM makes one at the next entry (kvm_mmu_load)'],
    });
    assert.match((await cli('walk', path, '0x1000', '--at-event', '9999')).err[0], /has only \d+ events/);
    assert.match((await cli('walk', path, '0x1000', '--at-line', '99')).err[0], /line 99 is never about to run/);
    assert.match((await cli('walk', path, 'fee0')).err[0], /write 0xfee0/);
    const json = await cli('walk', path, '0x1008', '--json');
    assert.equal((JSON.parse(json.out[0]) as { verdict: { kind: string } }).verdict.kind, 'ok');
  });

  it('decode explains a value', async () => {
    const { code, out } = await cli('decode', '0x3784', '--as', 'role', '--kernel', 'v6.1');
    assert.equal(code, 0);
    assert.match(out[0], /^0x3784 as role {2}page role/);
    assert.equal(out[1], '  l4 8-byte direct wux nxe ad cr0_wp');
    assert.ok(out.some((line) => /^ +10:8 {2}access/.test(line)));
    const json = JSON.parse((await cli('decode', '3784', '--as', 'role', '--json')).out[0]) as unknown[];
    assert.ok(json.length > 0);
    assert.match((await cli('decode', '1', '--as', 'spde')).err[0], /not a word that can be decoded/);
    assert.match((await cli('decode', '1', '--kernel', '2.4')).err.join(' '), /v2\.4 is older than/);
  });

  it('check prints diagnostics and exits with 2 for errors', async () => {
    assert.deepEqual((await cli('check', file('good.mmu', GOOD))).code, 0);
    const bad = await cli('check', file('typo.mmu', 'vcpu 0 { cr0 PGG }\n'));
    assert.equal(bad.code, 2);
    assert.match(bad.out[0], /typo\.mmu:1:14: error: 'PGG' is not a flag of cr0/);
    assert.equal((await cli('check', join(folder, 'none.mmu'))).code, 2);
  });

  it('bad input has exit code 2 and one sentence', async () => {
    for (const argv of [
      ['run'],
      ['run', 'nowhere.mmu'],
      ['frob'],
      ['run', '--bogus', 'x'],
      ['dap', '--port', 'x'],
      ['dap', '--port', '0', '--host', '0.0.0.0'],
      ['run', 'x', '--vendor', 'arm'],
    ]) {
      const { code, err } = await cli(...argv);
      assert.equal(code, 2, argv.join(' '));
      assert.ok(err.length > 0);
    }
    const typo = await cli('run', file('typo.mmu', 'vcpu 0 { cr0 PGG }\n'));
    assert.equal(typo.code, 2);
    assert.match(typo.err[0], /typo\.mmu:1:14: error: 'PGG'/);
    assert.match(
      (await cli('run', '--events', 'kvm_mmu_setspte', '--', file('good.mmu', GOOD))).err[0],
      /did you mean 'kvm_mmu_set_spte'/,
    );
  });

  it('audits: the end of a scenario, each statement, the points of mmu_audit.c', async () => {
    const clean = await cli('audit', file('good.mmu', GOOD));
    assert.equal(clean.code, 0);
    assert.match(clean.out.join('\n'), /^\S*good\.mmu: 9 statements: clean$/);
    const points = await cli('audit', '--points', file('good.mmu', GOOD));
    assert.match(points.out.join('\n'), /9 statements, \d+ points: clean$/);
    const defect = file('defect.mmu', `${GOOD}poke spte gfn 1 level 1 = 0x600000000999877\nnop\n`);
    const found = await cli('audit', defect);
    assert.equal(found.code, 1);
    assert.match(
      found.out[0],
      /defect\.mmu:11: at the end: A3: page of gfn 0x0, level 1, .* entry 1 = 0x600000000999877: /,
    );
    assert.match(found.out[1], /11 statements: 1 finding$/);
    const each = await cli('audit', '--each', defect);
    assert.match(each.out[0], /defect\.mmu:10: A3: /);
    assert.equal(each.out.length, 2, 'a defect that stays is told once');
    const json = JSON.parse((await cli('audit', '--json', defect)).out[0]) as Record<string, unknown>;
    assert.equal(json.rule, 'A3');
    assert.equal(json.spte, '0x600000000999877');
    assert.equal(json.index, 1);
  });

  it('knows its version and its commands', async () => {
    assert.match((await cli('--version')).out[0], /^\d+\.\d+\.\d+$/);
    const help = (await cli('--help')).out.join('\n');
    for (const command of ['run', 'audit', 'check', 'walk', 'decode', 'dap'])
      assert.match(help, new RegExp(`^  ${command} `, 'm'));
  });
});

describe('colours', () => {
  it('only on a terminal, and never against NO_COLOR', () => {
    assert.equal(wantsColour({ isTTY: true }, {}), true);
    assert.equal(wantsColour({ isTTY: false }, {}), false);
    assert.equal(wantsColour({ isTTY: true }, { NO_COLOR: '1' }), false);
    assert.equal(wantsColour({ isTTY: true }, { NO_COLOR: '' }), true);
    assert.equal(wantsColour({ isTTY: true }, { TERM: 'dumb' }), false);
    assert.equal(wantsColour({ isTTY: false }, { FORCE_COLOR: '1' }), true);
    assert.equal(wantsColour({ isTTY: false }, { FORCE_COLOR: '1', NO_COLOR: '1' }), false);
  });
  it('paint', () => {
    assert.equal(paint({ colour: true }, 'x', 'red', 'bold'), '\u001b[31;1mx\u001b[0m');
    assert.equal(paint({ colour: false }, 'x', 'red'), 'x');
  });
});
