import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { EXTENDED_ROLES, PAGE_ROLES } from '../src/words/roles';
import { WORDS_PAGE, wordsPage } from './gen-words-doc';

describe('docs/words.md', () => {
  it('is what the tables say', async function () {
    this.timeout(20_000);
    const wanted = await wordsPage();
    assert.equal(
      readFileSync(WORDS_PAGE, 'utf8') === wanted,
      true,
      'docs/words.md is out of date: run npx tsx scripts/gen-words-doc.ts',
    );
  });

  it('has a row for every role field and a column for every layout', () => {
    const page = readFileSync(WORDS_PAGE, 'utf8');
    for (const { layout } of [...PAGE_ROLES, ...EXTENDED_ROLES]) {
      for (const f of layout.fields) assert.ok(page.includes(`\`${f.name}\``), f.name);
      assert.ok(page.includes(layout.id.split('@')[1]));
    }
  });
});
