import assert from 'node:assert/strict';
import fc from 'fast-check';
import { parseScenario } from './parse';
import { parseTree, statementWords, syntaxFindings } from './syntax';
import { GUEST } from './testing/helpers';

const messages = (text: string): string[] =>
  syntaxFindings(text, parseTree(text)).map((d) => `${d.line}:${d.column} ${d.message}`);

describe('sentences of syntax errors', () => {
  const says = (text: string, ...wanted: string[]): void => assert.deepEqual(messages(text), wanted, text);

  it('proposes the statement that was meant', () => {
    says('mapp 0 -> 0', "1:1 'mapp' does not begin a statement; did you mean 'map'?");
    says('memslt add id 0', "1:1 'memslt' does not begin a statement; did you mean 'memslot'?");
    assert.match(
      messages('frobnicate 1')[0],
      /^1:1 'frobnicate' does not begin a statement; it can be audit, backing, byte, .* or wrpkru$/,
    );
    says('repeat 2 {\n  lod 4 [0]\n}', "2:3 'lod' does not begin a statement; did you mean 'load'?");
    says(
      'vcpu 1: stoer 4 [0] = 1',
      "1:9 expected one of 'setregs', 'map', 'unmap', 'load', 'store', 'rmw', 'fetch', 'invlpg', 'invpcid', 'mov' … but found 'stoer'; did you mean 'store'?",
    );
  });

  it('proposes the word that was meant, and shows how the statement is written', () => {
    says(
      'memslot add id 1 gpa 2M sise 2M host low',
      "1:25 expected 'size' but found 'sise'; did you mean 'size'? Write: memslot add (as AS)? id ID gpa GPA size SIZE host BACKING(+OFFSET)? (flags FLAGS)?",
    );
    says(
      'memslot add id 1 gpa 2M size 2M host low flag READONLY',
      "1:42 'flag' is not expected here; did you mean 'flags'? Write: memslot add (as AS)? id ID gpa GPA size SIZE host BACKING(+OFFSET)? (flags FLAGS)?",
    );
    says(
      'memslot ad id 1',
      "1:9 expected 'add', 'move', 'flags' or 'delete' but found 'ad'; did you mean 'add'? Write: memslot add|move|flags|delete (as AS)? id ID …",
    );
    says(
      'expect no falt',
      "1:11 expected 'fault', 'dirty', 'mmio', 'io', 'event' or 'tlb' but found 'falt'; did you mean 'fault'?",
    );
  });

  it('names what is missing', () => {
    says('load 4 0x1000', "1:8 expected '[' but found '0x1000'; write: (vcpu N:)? load SIZE [GVA] user? ac? (at RIP)?");
    says(
      'store 4 [0]\nhlt',
      "1:12 expected '=' but found the end of the line; write: (vcpu N:)? store SIZE [GVA] = VALUE user? ac? (at RIP)?",
    );
    says(
      'load 4 [0',
      "1:10 expected ']' but found the end of the text; write: (vcpu N:)? load SIZE [GVA] user? ac? (at RIP)?",
    );
    says('repeat 3 {\nhlt', "2:4 the text ends inside a block: expected '}'");
  });

  it('says what cannot be a name', () => {
    says(
      'backing host 2M',
      "1:9 'host' is a word of the language and cannot be a name here; write: backing NAME SIZE huge? readonly? (hva ADDRESS)?",
    );
  });

  it('knows the block it is in', () => {
    says(
      'machine {\n  =\n}',
      "2:3 '=' is not a setting of the machine; it can be " + messages('machine {\n  =\n}')[0].split('it can be ')[1],
    );
    says(
      'vcpu 0 {\n  [\n}',
      "2:3 '[' is not a register; it can be " + messages('vcpu 0 {\n  [\n}')[0].split('it can be ')[1],
    );
  });

  it('explains characters, braces and texts', () => {
    says('hlt; nop', "1:4 ';' does not separate statements: write each on a line of its own");
    says('hlt @', "1:5 '@' has no meaning here");
    says('}', "1:1 '}' closes nothing: there is no open block");
    says('note "abc', '1:6 the text in double quotes does not end on this line');
    says('x = 3', "1:1 'x' does not begin a statement; to name a number write: let x = …");
  });

  it('reports one error a line and goes on with the next', () => {
    const found = messages('mapp 1 2 3\nload 4 0x3 0x4\nhlt\nnop foo bar\nhlt');
    assert.deepEqual(
      found.map((m) => m.split(' ')[0]),
      ['1:1', '2:8', '4:5'],
    );
  });

  it('takes # for a comment except after expect', () => {
    assert.deepEqual(messages('hlt # #PF is no exception here\nexpect #PF error P # but here it is\n# expect #PF'), []);
    assert.deepEqual(messages('#PF'), []);
  });

  it('accepts every kind of line end', () => {
    assert.deepEqual(messages('hlt\r\nnop\rhlt\n'), []);
  });
});

describe('parseScenario', () => {
  it('throws on no text', () => {
    const words = [
      ...statementWords(),
      ...'{ } [ ] = + | , : -> .. 0 0x10 4K 2M low x "t" #PF # expect no event value is at user vcpu 0 \n \n \n'.split(
        ' ',
      ),
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...words), { maxLength: 60 }), (list) => {
        const { program, diagnostics } = parseScenario(list.join(' '));
        assert.equal(
          program === null,
          diagnostics.some((d) => d.severity === 'error'),
        );
        for (const d of diagnostics) assert.ok(d.line >= 1 && d.column >= 1 && d.message.length > 10, d.message);
      }),
      { numRuns: 200 },
    );
    fc.assert(
      fc.property(fc.string({ maxLength: 200, unit: 'binary' }), (text) => parseScenario(text).diagnostics.length >= 0),
      { numRuns: 200 },
    );
  }).timeout(60_000);

  it('survives the loss of any line or character of a scenario', () => {
    const lines = `${GUEST}load 4 [0x1000]\nexpect no fault\nrepeat 2 {\n  store 4 [0x2000] = 1\n}\n`.split('\n');
    for (let i = 0; i < lines.length; i++) parseScenario(lines.filter((_, n) => n !== i).join('\n'));
    const text = lines.join('\n');
    for (let i = 0; i < text.length; i += 7) parseScenario(text.slice(0, i));
  }).timeout(60_000);
});
