#!/usr/bin/env node
/**
 * `mmuscope`: the bundle when there is one that is newer than the sources, else the sources themselves, so that a fresh
 * checkout works after `npm ci` and an edited one never runs old code.
 */
import { readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const bundle = join(root, 'dist/cli.cjs');
const main = join(root, 'src/cli/main.ts');

/** When a file, or anything in a folder, was last written; 0 when it does not exist. */
function written(path) {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return 0;
  if (!stat.isDirectory()) return stat.mtimeMs;
  let latest = 0;
  for (const entry of readdirSync(path)) latest = Math.max(latest, written(join(path, entry)));
  return latest;
}

const built = written(bundle);
if (built > 0 && built >= Math.max(written(join(root, 'src')), written(join(root, 'package.json')))) {
  await import(pathToFileURL(bundle).href);
} else {
  const { register } = await import('tsx/esm/api');
  register();
  await import(pathToFileURL(main).href);
}
