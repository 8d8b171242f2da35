import assert from 'node:assert/strict';
import fc from 'fast-check';
import { parseScenario } from '../parse';
import type { Op } from '../program';
import { EXAMPLE_PRELUDE, REFERENCE } from '../reference';
import { parseTree } from '../syntax';
import { formatText } from './formatter';

const format = (text: string): string => formatText(text);

/** What a scenario does, without places. */
const meaning = (text: string): Op[] | null => parseScenario(text).program?.statements.map((s) => s.op) ?? null;

describe('formatting', () => {
  it('writes statements in one way', () => {
    const cases: [string, string][] = [
      ['load 4[0x10]', 'load 4 [0x10]'],
      ['store 4 [ 0 ]=1', 'store 4 [0] = 1'],
      ['rmw 4 [0]+1', 'rmw 4 [0] + 1'],
      ['let   a=1', 'let a = 1'],
      ['mov cr0 ,PG | WP', 'mov cr0, PG|WP'],
      ['vcpu 1 :smi', 'vcpu 1: smi'],
      ['frames low 0 :1 2 .. 3', 'frames low 0: 1 2..3'],
      ['map 0->0 2M W', 'map 0 -> 0 2M W'],
      ['run at 0 rbx = 1 cpl=0', 'run at 0 rbx=1 cpl=0'],
      ['vcpu 0 {cr0 PG cr3 0x1000 gdt 0x5000 limit 0x67}', 'vcpu 0 { cr0 PG  cr3 0x1000  gdt 0x5000 limit 0x67 }'],
      ['machine{kernel v6.1 features nx ,smep}', 'machine { kernel v6.1  features nx, smep }'],
      ['bytes 0=8b  03', 'bytes 0 = 8b 03'],
      ['vmcb 0xa000{n_cr3 0x20000 cs CODE64}', 'vmcb 0xa000 { n_cr3 0x20000  cs CODE64 }'],
      ['vmwrite{guest_rip 1 guest_cr0 PG | PE}', 'vmwrite { guest_rip 1  guest_cr0 PG|PE }'],
      ['vmwrite guest_rip ,1', 'vmwrite guest_rip, 1'],
      ['expect vmcs  vm_exit_reason HLT guest_rip 1', 'expect vmcs vm_exit_reason HLT guest_rip 1'],
      ['expect   #PF   error P | W', 'expect #PF error P|W'],
      ['  # comment  ', '# comment'],
    ];
    for (const [before, after] of cases) assert.equal(format(before), `${after}\n`);
  });

  it('indents blocks and keeps at most one blank line', () => {
    assert.equal(
      format('\n\nrepeat 2 {\n# c\nhlt\nrepeat 3 {\nnop\n}\n}\n\n\n\nhlt'),
      'repeat 2 {\n  # c\n  hlt\n  repeat 3 {\n    nop\n  }\n}\n\nhlt\n',
    );
    assert.equal(format(''), '');
    assert.equal(format('\n \n'), '');
  });

  it('lines comments up in a paragraph, whatever the longest line is', () => {
    assert.equal(
      format('hlt # a\nnop\nstore 4 [0x1000] = 1 # b\n\nhlt # c\n'),
      'hlt                    # a\nnop\nstore 4 [0x1000] = 1  # b\n\nhlt  # c\n'.replace(
        'hlt                    # a',
        'hlt                   # a',
      ),
    );
    const long = `note "${'x'.repeat(80)}" # long\nhlt # short\n`;
    assert.equal(format(long), `note "${'x'.repeat(80)}"  # long\nhlt  # short\n`);
  });

  it('leaves lines alone that do not parse', () => {
    assert.equal(
      format('hlt   user\n   mapp   0 0  # what\nhlt   user\n'),
      'hlt user\n   mapp   0 0  # what\nhlt user\n',
    );
  });

  it('writes line ends as the language does', () => assert.equal(format('hlt\r\nnop\r\n'), 'hlt\nnop\n'));
});

describe('formatting of any scenario', () => {
  // Reference examples, glued together, with spaces and comments thrown in wherever a space may be.
  const examples = REFERENCE.filter((e) => e.words !== 'machine' && !e.example.startsWith('vcpu 2')).map(
    (e) => e.example,
  );
  const scenario = fc
    .tuple(
      fc.array(fc.constantFrom(...examples), { maxLength: 6 }),
      fc.array(fc.nat(7), { minLength: 20, maxLength: 20 }),
    )
    .map(([parts, noise]) => {
      const lines = (EXAMPLE_PRELUDE + parts.join('\n')).split('\n');
      return lines
        .map((line, i) => {
          const n = noise[i % noise.length];
          const spaced = /["#]/.test(line) ? line : line.replaceAll(' ', ' '.repeat(1 + (n % 3)));
          return `${' '.repeat(n % 4)}${spaced}${n === 7 ? ' # why' : n === 6 ? '   ' : ''}${n === 5 ? '\n\n' : ''}`;
        })
        .join('\n');
    });

  it('changes nothing the second time, and never what it does', () => {
    fc.assert(
      fc.property(scenario, (text) => {
        const once = format(text);
        assert.equal(format(once), once);
        assert.deepEqual(meaning(once), meaning(text));
      }),
      { numRuns: 60 },
    );
  }).timeout(60_000);

  it('changes nothing the second time, whatever the text', () => {
    const pieces = [
      'machine {',
      '}',
      'load 4 [0]',
      'mapp',
      '# c',
      '\n',
      '\n\n',
      '  ',
      'repeat 2 {',
      'note "x"',
      '=',
      '|',
      '+',
      'vcpu 0 { cr0 PG',
      'expect #PF',
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...pieces), { maxLength: 25 }), (list) => {
        const once = format(list.join(' '));
        assert.equal(format(once), once);
        assert.equal(parseTree(once).value.$type, 'Scenario');
      }),
      { numRuns: 300 },
    );
  }).timeout(60_000);
});
