import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { missing, shippedFiles } from './stage';
import { ROOT } from './vscode-server';

describe('what ships', () => {
  it('has nothing that users do not need', async function () {
    this.timeout(20_000);
    const allowed =
      /^(package(\.nls[.\w-]*)?\.json|README\.md|CHANGELOG\.md|LICENSE|language-configuration\.json|(media|syntaxes|snippets|walkthrough|examples)\/.*|dist\/[\w-]+\.cjs|dist\/webview\/[\w-]+\.(js|css)|dist\/THIRD_PARTY_NOTICES\.txt)$/;
    const files = await shippedFiles();
    assert.deepEqual(
      files.filter((file) => !allowed.test(file)),
      [],
    );
    assert.ok(files.includes('package.json'));
    assert.ok(files.includes('LICENSE'));
  });

  it('has every source file that package.json points to', async function () {
    this.timeout(20_000);
    const manifest: unknown = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
    // Bundles are there only after a build; the packaging checks those.
    assert.deepEqual(
      missing(manifest, await shippedFiles()).filter((file) => !file.startsWith('./dist/')),
      [],
    );
  });

  it('notices what a manifest points to and does not ship', () => {
    const manifest = {
      main: './dist/a.cjs',
      contributes: {
        grammars: [{ language: 'mmu', scopeName: 'source.mmu', path: './syntaxes/mmu.json' }],
        commands: [
          { command: 'x', icon: '$(refresh)' },
          { command: 'y', icon: { light: 'media/l.svg', dark: 'media/d.svg' } },
        ],
      },
    };
    assert.deepEqual(missing(manifest, ['dist/a.cjs', 'media/l.svg']), ['./syntaxes/mmu.json', 'media/d.svg']);
  });
});
