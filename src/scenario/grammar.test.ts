import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GrammarAST } from 'langium';
import { parseScenario } from './parse';
import { CLAUSES, entryFor, exampleText, REFERENCE } from './reference';
import { coreServices, keywords, parseTree, statementWords, syntaxFindings } from './syntax';
import { EVENT_FIELDS, MACHINE_SETTINGS, REGISTERS, SPTE_FIELDS, SPTE_KINDS, ENDS, STATES } from './tables';
import { failures, runAll } from './testing/helpers';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

describe('the grammar', () => {
  it('is what src/scenario/generated was made of', function () {
    this.timeout(30_000);
    const dir = mkdtempSync(join(tmpdir(), 'mmu-grammar-'));
    try {
      for (const file of ['mmu.langium', 'langium-config.json']) cpSync(here(file), join(dir, file));
      const cli = here('../../node_modules/langium-cli/bin/langium.js');
      execFileSync(process.execPath, [cli, 'generate', '-f', join(dir, 'langium-config.json')], {
        cwd: dir,
        stdio: 'pipe',
      });
      for (const file of readdirSync(here('generated'))) {
        const same =
          readFileSync(join(dir, 'generated', file), 'utf8') === readFileSync(here(`generated/${file}`), 'utf8');
        assert.equal(same, true, `src/scenario/generated/${file} is out of date: run npm run langium`);
      }
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('has a statement word for every kind of statement', () => {
    assert.ok(statementWords().includes('memslot'));
    assert.ok(statementWords().includes('smi'));
    assert.equal(statementWords().includes('gpa'), false);
  });

  const parses = (text: string): string[] => syntaxFindings(text, parseTree(text)).map((d) => `${text}: ${d.message}`);

  it('takes every name of the tables where it belongs', () => {
    const wrong: string[] = [];
    for (const [event, fields] of Object.entries(EVENT_FIELDS))
      wrong.push(...parses(`expect event ${event} ${fields.map((f) => `${f} 1`).join(' ')} times 2`));
    for (const r of REGISTERS)
      wrong.push(...parses(`vcpu 0 { ${r.name} 1 }`), ...parses(`run ${r.name}=1`), ...parses(`expect ${r.name} 1`));
    for (const s of MACHINE_SETTINGS)
      wrong.push(...parses(`machine { ${s.name} ${Object.keys(s.values ?? { 1: '' }).join(', ')} }`));
    for (const k of Object.keys(SPTE_KINDS))
      wrong.push(
        ...parses(
          `expect spte gfn 1 is ${k} ${Object.keys(SPTE_FIELDS)
            .map((f) => `${f} 1`)
            .join(' ')}`,
        ),
      );
    for (const e of Object.keys(ENDS)) wrong.push(...parses(`expect end ${e}`));
    for (const s of Object.keys(STATES)) wrong.push(...parses(`expect ${s} 1`));
    assert.deepEqual(wrong, []);
  });
});

describe('the event names of expect', () => {
  it('are those of src/kvm/events.ts, with its fields', () => {
    const source = readFileSync(here('../kvm/events.ts'), 'utf8');
    const kinds = [...source.matchAll(/kind: ((?:'[\w]+'(?: \| )?)+)/g)].flatMap((m) =>
      [...m[1].matchAll(/'(\w+)'/g)].map((k) => k[1]),
    );
    assert.deepEqual([...new Set(kinds)].sort(), Object.keys(EVENT_FIELDS).sort());
    const fields = new Set([...source.matchAll(/readonly (\w+):/g)].map((m) => m[1]));
    for (const [event, list] of Object.entries(EVENT_FIELDS))
      for (const f of list) assert.ok(fields.has(f), `${event} ${f}`);
  });
});

describe('the reference', () => {
  const rules = coreServices()
    .Grammar.rules.filter(GrammarAST.isParserRule)
    .map((r) => r.name);

  it('has an entry for every statement and every form of expect', () => {
    const described = new Set(REFERENCE.map((e) => e.rule));
    for (const e of REFERENCE) assert.ok(rules.includes(e.rule), e.rule);
    const statements = rules.filter((r) => r.startsWith('Expect') && r !== 'Expect' && r !== 'Expectation');
    for (const r of [
      ...statements,
      'Machine',
      'Constant',
      'Backing',
      'Frames',
      'Memslot',
      'Write',
      'Vcpu',
      'SetRegs',
      'Tables',
      'Run',
      'Smi',
      'Repeat',
      'Step',
      'Note',
    ])
      assert.ok(described.has(r), r);
    for (const word of statementWords())
      assert.ok(
        REFERENCE.some((e) => e.words.split(' ')[0] === word),
        word,
      );
  });

  it('says something about every word of the language', () => {
    const known = new Set([
      ...REFERENCE.flatMap((e) => e.words.split(' ')),
      ...Object.keys(CLAUSES),
      ...Object.keys(ENDS),
    ]);
    const spelled = (w: string): boolean => REFERENCE.some((e) => new RegExp(`\\b${w}\\b`).test(e.syntax));
    for (const w of keywords()) assert.ok(known.has(w) || spelled(w), w);
  });

  it('begins each syntax line with the words of its entry', () => {
    for (const e of REFERENCE) {
      const plain = e.syntax.replace('(vcpu N:)? ', '').replace('no? ', e.words.includes(' no ') ? 'no ' : '');
      const words = e.words === 'expect qword' ? 'expect' : e.words;
      assert.ok(plain.startsWith(words), `${e.words}: ${plain}`);
      assert.equal(entryFor(e.words.split(' ')), e);
    }
  });

  for (const e of REFERENCE) {
    it(`${e.words}: the example parses without a finding and comes true`, () => {
      const text = exampleText(e);
      assert.deepEqual(parseScenario(text).diagnostics, []);
      assert.deepEqual(failures(runAll(text).outcomes), []);
    });
  }
});

describe('the TextMate grammar', () => {
  const file = JSON.parse(readFileSync(here('../../syntaxes/mmu.tmLanguage.json'), 'utf8')) as {
    scopeName: string;
    repository: unknown;
  };
  const text = JSON.stringify(file.repository);

  it('knows every word of the language', () => {
    assert.equal(file.scopeName, 'source.mmu');
    for (const w of keywords().filter((k) => k !== 'cr2')) assert.match(text, new RegExp(`[(|]${w}[)|]`), w);
  });

  it('has patterns that are regular expressions', () => {
    for (const m of text.matchAll(/"(?:match|begin|end)":("(?:[^"\\]|\\.)*")/g))
      assert.ok(new RegExp(JSON.parse(m[1]) as string));
  });

  it('takes # for a comment unless an exception follows expect', () => {
    const exception = /(?<=\bexpect)([ \t]+)(#[A-Z]{2})\b/;
    assert.match(text, /expect\)\(\[ /);
    assert.equal(exception.exec('expect #PF error P')?.[2], '#PF');
    assert.equal(exception.exec('load 4 [0] #PF'), null);
  });
});
