import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { checkLaunch, LAUNCH_ATTRIBUTES, launchSchema } from './launch-attributes';

describe('launch attributes', () => {
  it('have defaults', () => {
    assert.deepEqual(checkLaunch({ program: 'a.mmu' }), {
      noDebug: false,
      program: 'a.mmu',
      scenario: undefined,
      stopOnEntry: false,
      stopAtEnd: true,
      stopAtEvent: undefined,
      kernel: undefined,
      vendor: undefined,
      trace: [],
    });
  });

  it("let through what VS Code adds, and null for 'not given'", () => {
    const common = {
      type: 'mmuscope',
      request: 'launch',
      name: 'x',
      __sessionId: '1',
      presentation: {},
      preLaunchTask: 'y',
    };
    assert.equal(checkLaunch({ ...common, program: 'a.mmu', kernel: null, noDebug: true }).noDebug, true);
  });

  const wrong: [unknown, RegExp][] = [
    [undefined, /has no arguments: it needs 'program'/],
    ['a.mmu', /has no arguments/],
    [{}, /'program' is missing/],
    [{ program: 'a', scenario: 'b' }, /exclude each other/],
    [{ program: [] }, /'program' cannot be \[\]: it must be text/],
    [{ program: 'a', vender: 'amd' }, /'vender' is not known: the attributes are program, .*did you mean 'vendor'\?/],
    [{ program: 'a', vendor: 'AMD' }, /cannot be "AMD": it must be one of intel, amd; did you mean 'amd'\?/],
    [{ program: 'a', kernel: 'latest' }, /'kernel' cannot be "latest": 'latest' is not a kernel/],
    [{ program: 'a', stopOnEntry: 1 }, /it must be true or false/],
    [{ program: 'a', stopAtEvent: 1.5 }, /it must be a whole number from 0 up/],
    [{ program: 'a', trace: 'all' }, /it must be a list/],
    [{ program: 'a', trace: [5] }, /it must be a list of names/],
    [{ program: 'a', trace: ['smm'] }, /it must be one of all, kvm_mmu_get_page/],
  ];
  for (const [given, message] of wrong) {
    it(`refuses ${JSON.stringify(given) ?? 'nothing'}`, () => assert.throws(() => checkLaunch(given), message));
  }

  it('are the ones that the documentation lists', () => {
    const text = readFileSync(new URL('../../docs/debug-adapter.md', import.meta.url), 'utf8');
    const rows = [...text.matchAll(/^\| `(\w+)` +\| [^|]+\| [^|]*\| (.*?) +\|$/gm)].map((m) => [m[1], m[2]]);
    assert.deepEqual(
      rows,
      LAUNCH_ATTRIBUTES.map((a) => [a.name, a.markdownDescription]),
    );
  });

  it('the schema has a description and a type for each, and legal defaults', () => {
    const { properties } = launchSchema();
    for (const { name, markdownDescription, type } of LAUNCH_ATTRIBUTES) {
      const schema = properties[name] as Record<string, unknown>;
      assert.equal(schema['type'], type);
      assert.equal(schema['markdownDescription'], markdownDescription);
      assert.ok(markdownDescription.endsWith('.') || markdownDescription.endsWith('them.'), name);
      assert.equal(schema['check'], undefined, 'functions are not JSON');
    }
    const defaults = Object.fromEntries(
      LAUNCH_ATTRIBUTES.flatMap((a) => (a.default === undefined ? [] : [[a.name, a.default]])),
    );
    assert.doesNotThrow(() => checkLaunch(defaults));
    assert.deepEqual(JSON.parse(JSON.stringify(properties)), properties);
  });
});
