/**
 * `npm run test:electron`: the suite of test/vscode/suite in a desktop VS Code, which @vscode/test-electron downloads
 * into .vscode-test/. For machines that can; CI uses the server (`npm run test:vscode`). Tests that need the harness
 * (screenshots, text inside webviews) skip.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { runTests } from '@vscode/test-electron';
import { stage } from '../../scripts/stage';
import { ROOT, TOOLS } from '../../scripts/vscode-server';

async function main(): Promise<void> {
  const suite = join(ROOT, 'dist/test/suite.cjs');
  if (!existsSync(suite)) throw new Error('No dist/test/suite.cjs: run `npm run build:tests` first.');
  const extension = join(TOOLS, 'electron', 'mmuscope');
  await stage(extension);
  await runTests({
    extensionDevelopmentPath: extension,
    extensionTestsPath: suite,
    launchArgs: [
      join(ROOT, 'examples'),
      '--disable-extensions',
      '--disable-workspace-trust',
      `--user-data-dir=${join(TOOLS, 'electron', 'data')}`,
    ],
  });
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
