import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { LANGUAGE_PAGE, languagePageOnDisk } from './gen-language-doc';

describe('docs/language.md', () => {
  it('is what the reference and the tables say', async function () {
    this.timeout(20_000);
    const same = readFileSync(LANGUAGE_PAGE, 'utf8') === (await languagePageOnDisk());
    assert.equal(same, true, 'docs/language.md is out of date: run npx tsx scripts/gen-language-doc.ts');
  });
});
