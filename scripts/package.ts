/**
 * `npm run package`: builds for production and makes mmuscope-VERSION.vsix, then says what is in it and what it weighs.
 * Fails when something is missing that package.json promises.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createVSIX } from '@vscode/vsce';
import { missing, shippedFiles } from './stage';
import { ROOT } from './vscode-server';

async function main(): Promise<void> {
  rmSync(join(ROOT, 'dist'), { recursive: true, force: true });
  const webpack = join(ROOT, 'node_modules/webpack/bin/webpack.js');
  const build = spawnSync(process.execPath, [webpack, '--mode=production'], { cwd: ROOT, stdio: 'inherit' });
  if (build.status !== 0) throw new Error('The build failed.');
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  const files = await shippedFiles();
  const lost = missing(manifest, files);
  if (lost.length > 0) throw new Error(`package.json names what does not ship: ${lost.join(', ')}`);
  const packagePath = join(ROOT, `mmuscope-${manifest.version}.vsix`);
  await createVSIX({
    cwd: ROOT,
    packagePath,
    dependencies: false,
    allowMissingRepository: true,
    rewriteRelativeLinks: false,
  });
  for (const file of files) {
    console.log(`${(statSync(join(ROOT, file)).size / 1024).toFixed(1).padStart(9)} KiB  ${file}`);
  }
  console.log(
    `${(statSync(packagePath).size / 1024).toFixed(1).padStart(9)} KiB  ${packagePath.slice(ROOT.length + 1)}`,
  );
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
