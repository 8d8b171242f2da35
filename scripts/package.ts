/**
 * `npm run package`: builds for production and makes mmuscope-VERSION.vsix (or `-- --out FILE`), then says what is in
 * it and what it weighs. Fails when something is missing that package.json promises.
 */
import { readFileSync, rmSync, statSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { createVSIX } from '@vscode/vsce';
import { missing, shippedFiles } from './stage';
import { ROOT } from './vscode-server';

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { out: { type: 'string' } } });
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  const packagePath = resolve(values.out ?? join(ROOT, `mmuscope-${manifest.version}.vsix`));
  rmSync(join(ROOT, 'dist'), { recursive: true, force: true });
  // Runs `vscode:prepublish`, which builds.
  await createVSIX({
    cwd: ROOT,
    packagePath,
    dependencies: false,
    allowMissingRepository: true,
    rewriteRelativeLinks: false,
  });
  const files = shippedFiles();
  const lost = missing(manifest, files);
  if (lost.length > 0) {
    rmSync(packagePath);
    throw new Error(`package.json names what does not ship: ${lost.join(', ')}`);
  }
  for (const file of files) {
    console.log(`${(statSync(join(ROOT, file)).size / 1024).toFixed(1).padStart(9)} KiB  ${file}`);
  }
  console.log(`${(statSync(packagePath).size / 1024).toFixed(1).padStart(9)} KiB  ${relative(ROOT, packagePath)}`);
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
