import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { listFiles, PackageManager } from '@vscode/vsce';
import { missing, shippedFiles } from './stage';
import { ROOT } from './vscode-server';

describe('what ships', () => {
  it('is what vsce packs', async function () {
    this.timeout(30_000);
    const packed = await listFiles({ cwd: ROOT, packageManager: PackageManager.None });
    assert.deepEqual(shippedFiles(), packed.map((file) => file.replaceAll('\\', '/')).sort());
  });

  it('has nothing that users do not need', () => {
    const allowed =
      /^(package(\.nls[.\w-]*)?\.json|README\.md|CHANGELOG\.md|LICENSE|language-configuration\.json|(media|syntaxes|snippets|walkthrough|examples)\/.*|dist\/[\w-]+\.cjs|dist\/webview\/[\w-]+\.(js|css)|dist\/THIRD_PARTY_NOTICES\.txt)$/;
    const files = shippedFiles();
    assert.deepEqual(
      files.filter((file) => !allowed.test(file)),
      [],
    );
    assert.ok(files.includes('package.json'));
    assert.ok(files.includes('LICENSE'));
  });

  it('has every source file that package.json points to', () => {
    const manifest: unknown = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
    // Bundles are there only after a build; the packaging checks those.
    assert.deepEqual(
      missing(manifest, shippedFiles()).filter((file) => !file.startsWith('./dist/')),
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
