import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  compileExpr,
  compileHitCondition,
  compileTemplate,
  ExprError,
  exprText,
  isTrue,
  type ExprScope,
  type ExprValue,
} from './expr';

const VALUES: Record<string, ExprValue> = {
  gpa: 0xfee00300n,
  gva: 0xffff8000_00001000n,
  write: true,
  fetch: false,
  spte: 0x4223a21n,
  'root_role.level': 4n,
  reason: 'EPT_MISCONFIG',
  code: null,
};
const scope: ExprScope = {
  has: (name) => name in VALUES,
  names: () => Object.keys(VALUES),
  functions: { slot: { usage: 'slot(id)', min: 1, max: 2 } },
};
const env = {
  get: (name: string) => VALUES[name],
  call: (_: string, [id]: readonly ExprValue[]) => (id === 1n ? ([[0xfee00000n, 0xfee00fffn]] as const) : []),
};
const run = (text: string) => compileExpr(text, scope).evaluate(env);

describe('expression language', () => {
  const cases: [string, ExprValue][] = [
    ['gpa >= 0xfee00000 && write', true],
    ['gpa >= 0xfee00000 && fetch', false],
    ['gpa == 0xfee00300', true],
    ['gpa & 0xfff == 0x300', true],
    ['!write || fetch', false],
    ['write == 1', true],
    ['gpa in 0xfee00000..0xfee00fff', true],
    ['gpa in 0xa0000..0xbffff', false],
    ['gpa in slot(1)', true],
    ['gpa in slot(2)', false],
    ['root_role.level + 1 == 5', true],
    ['1 << 4 | 1', 17n],
    ['7 - 2 - 1', 4n],
    ['2 + 3 * 4', 14n],
    ['(2 + 3) * 4 % 7', 6n],
    ['4K', 4096n],
    ['0b1010', 10n],
    ['-1', -1n],
    ['~0', (1n << 64n) - 1n],
    ['gva >> 12', 0xffff800000001n],
    ["reason == 'EPT_MISCONFIG'", true],
    ['reason != "x"', true],
    ['true && !false', true],
    // unknown values: not true, but they do not hide what is certain
    ['code == 4', null],
    ['code == 4 || write', true],
    ['code == 4 && fetch', false],
    ['code == 4 && write', null],
    ['!code', null],
    ['code in 1..2', null],
    ['reason == gpa', false],
  ];
  for (const [text, expected] of cases) it(text, () => assert.equal(run(text), expected));

  it('an unknown value does not count as true', () => assert.equal(isTrue(run('code == 4')), false));

  const errors: [string, RegExp][] = [
    ['gpaa == 1', /'gpaa' \(column 1\) is not a name here: the names are gpa, gva.*did you mean 'gpa'\?$/],
    ['', /empty/],
    ['gpa ==', /ends too early/],
    ['gpa = 4', /'=' cannot stand .* \(column 5\); write '==' to compare/],
    ['(gpa', /expected '\)' to close the '\(' of column 1, found the end/],
    ['gpa write', /'write' \(column 5\) does not follow/],
    ["reason == 'x", /no closing quote/],
    ["reason & 1 == 'x'", /compares a number with text/],
    ["'a' + 1", /needs numbers on both sides/],
    ['1 < gpa < 3', /cannot be chained .*b in a\.\.c/],
    ['gpa in 5', /expected '\.\.' after the start of a range/],
    ['gpa in slots(1)', /no function 'slots'.*slot\(id\)/],
    ['gpa in slot()', /write slot\(id\)/],
    ['slot(1)', /is a range: write for example gpa in slot\(id\)/],
    ['0xzz', /not a number/],
    ['fee0', /'fee0' \(column 1\) is not a name here/],
    ['gpa / (1 - 1)', /'\/ 0' has no result/],
    ['1 << 200', /0 \.\. 128/],
    ['(((('.repeat(60), /nests deeper/],
    ['!'.repeat(300), /nests deeper/],
    ['1'.repeat(5000), /limit is 4096/],
  ];
  for (const [text, message] of errors) {
    it(`refuses ${JSON.stringify(text.slice(0, 40))}`, () => {
      assert.throws(
        () => run(text),
        (e: unknown) => e instanceof ExprError && message.test(e.message) && !e.message.includes('\n'),
      );
    });
  }

  it('knows which names it uses', () => {
    assert.deepEqual(compileExpr('gpa > 1 && gpa < root_role.level', scope).names, ['gpa', 'root_role.level']);
  });

  it('never throws anything but an ExprError, whatever the text', () => {
    const pieces = fc.constantFrom(
      'gpa',
      'x.y',
      '0x1',
      '9G',
      '(',
      ')',
      '&&',
      '||',
      '!',
      '..',
      'in',
      'slot',
      ',',
      "'a'",
      '<<',
      '%',
      '-',
      '=',
      '\u0000',
      '[1]',
    );
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 12 }), fc.boolean(), (list, spaced) => {
        try {
          run(list.join(spaced ? ' ' : ''));
        } catch (error) {
          assert.ok(error instanceof ExprError, String(error));
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('computes what JavaScript computes', () => {
    type Tree = { text: string; value: bigint };
    const { tree } = fc.letrec<{ tree: Tree; leaf: Tree; node: Tree }>((tie) => ({
      tree: fc.oneof({ maxDepth: 5 }, tie('leaf'), tie('node')),
      leaf: fc.bigInt(0n, 1n << 52n).map((v) => ({ text: `0x${v.toString(16)}`, value: v })),
      node: fc.tuple(fc.constantFrom('+', '-', '*', '&', '|', '^'), tie('tree'), tie('tree')).map(([op, a, b]) => ({
        text: `(${a.text} ${op} ${b.text})`,
        value:
          {
            '+': a.value + b.value,
            '-': a.value - b.value,
            '*': a.value * b.value,
            '&': a.value & b.value,
            '|': a.value | b.value,
            '^': a.value ^ b.value,
          }[op] ?? 0n,
      })),
    }));
    fc.assert(fc.property(tree, (t) => run(t.text) === t.value));
  });
});

describe('log messages', () => {
  it('fills in expressions', () => {
    assert.equal(
      compileTemplate('spte {spte} level {root_role.level} {{x}} {code}', scope)(env),
      'spte 0x4223a21 level 4 {x} unknown',
    );
  });
  it('refuses an open brace', () => assert.throws(() => compileTemplate('a {gpa', scope), /column 3.*not closed/));
  it('prints negative and small numbers', () => {
    assert.deepEqual([exprText(-18n), exprText(9n), exprText(10n), exprText(true)], ['-0x12', '9', '0xa', 'true']);
  });
});

describe('hit conditions', () => {
  const hitsOf = (text: string) => [1, 2, 3, 4, 5, 6].filter(compileHitCondition(text));
  const cases: [string, number[]][] = [
    ['3', [3]],
    ['==2', [2]],
    ['>= 5', [5, 6]],
    ['> 5', [6]],
    ['< 3', [1, 2]],
    ['<=1', [1]],
    ['% 2', [2, 4, 6]],
  ];
  for (const [text, hits] of cases) it(text, () => assert.deepEqual(hitsOf(text), hits));
  for (const text of ['', 'x', '% 0', '-1', '1 2']) {
    it(`refuses '${text}'`, () => assert.throws(() => compileHitCondition(text), /not a hit count: write 3/));
  }
});
