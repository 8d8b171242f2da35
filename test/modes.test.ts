import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { formatText } from '../src/scenario/editor/formatter';
import { failures, runAll } from '../src/scenario/testing/helpers';

const FOLDER = new URL('modes/', import.meta.url);

describe('paging modes, as scenarios', () => {
  for (const name of readdirSync(FOLDER).filter((n) => n.endsWith('.mmu'))) {
    const text = readFileSync(new URL(name, FOLDER), 'utf8');

    it(`${name} comes true`, () => {
      const { outcomes } = runAll(text);
      assert.deepEqual(failures(outcomes), []);
      assert.ok(outcomes.filter((o) => o.expect).length >= 5);
    });

    it(`${name} is formatted`, () => assert.equal(formatText(text), text));
  }
});
