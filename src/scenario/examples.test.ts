import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { formatText } from './editor/formatter';
import { parseScenario } from './parse';
import { failures, runAll } from './testing/helpers';

const folder = new URL('../../examples/', import.meta.url);

describe('examples', () => {
  const names = readdirSync(folder).filter((n) => n.endsWith('.mmu'));

  it('are there', () => {
    for (const name of ['mmio.mmu', 'smm.mmu', 'roles.mmu', 'faults.mmu']) assert.ok(names.includes(name), name);
  });

  for (const name of names) {
    const text = readFileSync(new URL(name, folder), 'utf8');

    it(`${name} has three lines on what it shows, no finding, and comes true`, () => {
      const [first, second, third, fourth] = text.split('\n');
      for (const line of [first, second, third]) assert.match(line, /^# \S.{20,}/);
      assert.doesNotMatch(fourth, /^#/);
      assert.deepEqual(
        parseScenario(text, name).diagnostics.filter((d) => d.severity !== 'info'),
        [],
      );
      const { outcomes } = runAll(text);
      assert.deepEqual(failures(outcomes), []);
      assert.ok(outcomes.filter((o) => o.expect).length >= 10);
    });

    it(`${name} is formatted`, () => assert.equal(formatText(text), text));
  }
});
