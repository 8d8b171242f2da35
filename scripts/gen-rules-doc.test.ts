import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { RULES } from '../src/hw/rules';
import { RULES_PAGE, rulesPage } from './gen-rules-doc';

describe('docs/rules.md', () => {
  it('is what the code says', async function () {
    this.timeout(20_000);
    const wanted = await rulesPage();
    assert.equal(
      readFileSync(RULES_PAGE, 'utf8') === wanted,
      true,
      'docs/rules.md is out of date: run npx tsx scripts/gen-rules-doc.ts',
    );
  });

  it('has a row for every rule', () => {
    const page = readFileSync(RULES_PAGE, 'utf8');
    for (const { id } of RULES.slice(1)) assert.ok(page.includes(`| \`${id}\` `), id);
  });
});
