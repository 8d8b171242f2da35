import assert from 'node:assert/strict';
import { parseScenario } from './parse';
import { failures, GUEST, onlyFinding, runAll } from './testing/helpers';

const SPP = GUEST.replace('kernel v6.1', 'kernel spp-v12');
const verdicts = (text: string): string[] =>
  runAll(text).outcomes.flatMap((o) => (o.expect ? [o.expect.ok ? 'ok' : o.expect.actual] : []));
const message = (text: string): string => onlyFinding(GUEST + text).message;

describe('audit in a scenario', () => {
  const defect = 'load 4 [0x5000]\npoke spte gfn 5 level 1 = 0x600000000999877\n';

  it('passes over a clean state and says what comes before it still', () => {
    assert.deepEqual(
      failures(runAll(`${GUEST}load 4 [0x5000]\naudit\nexpect value 0\nexpect audit clean\n`).outcomes),
      [],
    );
  });

  it('ends the scenario with the findings unless they are expected', () => {
    const [failure, ...more] = failures(runAll(`${GUEST}${defect}audit\nnop\n`).outcomes);
    assert.deepEqual(more, []);
    assert.match(
      failure,
      /A3: page of gfn 0x0, level 1, role 0x\w+, entry 5 = 0x600000000999877: the entry maps frame 0x999/,
    );
    assert.deepEqual(failures(runAll(`${GUEST}${defect}audit\nexpect audit A3\nnop\n`).outcomes), []);
  });

  it('expects rules that do not hold, or none', () => {
    assert.deepEqual(verdicts(`${GUEST}${defect}expect audit A3\n`), ['ok']);
    assert.match(verdicts(`${GUEST}${defect}expect audit clean\n`)[0], /^A3: /);
    assert.match(verdicts(`${GUEST}${defect}expect audit A3 A1\n`)[0], /^A3: /);
    assert.deepEqual(verdicts(`${GUEST}load 4 [0x5000]\nexpect audit A1\n`), ['audit clean']);
  });

  it('refuses what is no rule and what cannot be poked', () => {
    assert.match(message('expect audit A9\n'), /^'A9' is not a rule of the audit/);
    assert.match(message('expect audit clean A1\n'), /exclude each other/);
    assert.match(message('poke spte gfn 1 level 0 = 1\n'), /there is no level 0/);
    assert.match(failures(runAll(`${GUEST}poke spte gfn 1 = 0\n`).outcomes)[0], /the vCPU has no root now/);
    assert.match(failures(runAll(`${GUEST}load 4 [0]\npoke spte gva 1 = 0\n`).outcomes)[0], /guest-physical addresses/);
  });
});

describe('sub-page permissions in a scenario', () => {
  it('are set, reported and looked at', () => {
    const text = `${SPP}subpages set gfn 5 access 0xfffffffe 0 count 1\n`.replace(' count 1', '');
    assert.deepEqual(
      verdicts(
        `${text}subpages get gfn 4 count 3\nexpect subpages 0xffffffff 0xfffffffe 0\nexpect subpages 1\nstore 1 [0x5000] = 1\nexpect end spp\nexpect end done\nstore 1 [0x5080] = 1\nexpect end done\nexpect sppte gfn 5 = 0x5555555555555554\nexpect sppte gpa 0x6000 = 1\nexpect spte gfn 5 is leaf spp 1 w 0\naudit\n`,
      ),
      [
        'ok',
        'subpages 0xffffffff 0xfffffffe 0',
        'ok',
        'end spp, spp gpa 0x5000',
        'ok',
        'ok',
        'level 1: 0 (no sub-page writable)',
        'ok',
      ],
    );
    assert.deepEqual(
      verdicts(
        `${SPP}subpages set gfn 0x200 access 1\nexpect errno EFAULT\nsubpages set gfn 0 access 1 count 513\nexpect errno EINVAL\n`,
      ),
      ['ok', 'ok'],
    );
    assert.deepEqual(verdicts(`${GUEST}subpages get gfn 0\nexpect errno ENODEV\nexpect sppt_root 0xffffffffffffffff\n`), ['ok', 'ok']); // prettier-ignore
  });

  it('end the scenario where KVM has none', () => {
    assert.match(
      failures(runAll(`${GUEST}subpages set gfn 0 access 1\n`).outcomes)[0],
      /^\d+: -ENODEV: .*choose spp-rfc/,
    );
  });

  it('say what is wrong with a statement', () => {
    assert.match(message('subpages set gfn 0 access 1 2 count 2\n'), /leave `count` out/);
    assert.match(message('load 4 [0]\nexpect subpages 1\n'), /known after subpages get/);
    assert.match(message('expect sppte gfn 1 level 0 = 0\n'), /levels of the SPPT/);
    const { diagnostics } = parseScenario('machine {\n  kernel v6.1\n  spp on\n}\n');
    assert.match(diagnostics[0].message, /write kernel spp-rfc-2018 or spp-v12/);
  });
});
