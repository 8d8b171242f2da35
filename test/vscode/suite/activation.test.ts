import assert from 'node:assert/strict';
import * as vscode from 'vscode';
import { harness } from '../harness-client';

describe('the extension in a real VS Code', () => {
  it('activates', async () => {
    const extension = vscode.extensions.getExtension('mmuscope.mmuscope');
    assert.ok(extension, 'VS Code does not know mmuscope.mmuscope');
    await extension.activate();
    assert.equal(extension.isActive, true);
  });

  it('shows itself', async function () {
    if (!harness) this.skip();
    assert.equal(await harness.screenshot('activation'), 'test-results/activation.png');
  });
});
