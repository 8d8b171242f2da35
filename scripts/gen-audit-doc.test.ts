import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { AUDIT_RULES } from '../src/kvm/audit';
import { AUDIT_PAGE, auditPage } from './gen-audit-doc';

describe('docs/audit.md', () => {
  it('is what the code says', async function () {
    this.timeout(20_000);
    const wanted = await auditPage();
    assert.equal(
      readFileSync(AUDIT_PAGE, 'utf8') === wanted,
      true,
      'docs/audit.md is out of date: run npx tsx scripts/gen-audit-doc.ts',
    );
  });

  it('has a row for every rule', () => {
    const page = readFileSync(AUDIT_PAGE, 'utf8');
    for (const { id, sentence } of AUDIT_RULES) {
      assert.match(page, new RegExp(`^\\| ${id} +\\|`, 'm'));
      assert.match(sentence, /^[A-Za-z_].*\.$/);
    }
  });
});
