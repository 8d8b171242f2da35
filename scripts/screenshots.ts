/**
 * `npm run screenshots`: renews the pictures of the documentation. Each docs/images/NAME.png is replaced by the
 * screenshot NAME that the tests in VS Code took last (test-results/NAME.png); run `npm run test:vscode` first.
 */
import { copyFileSync, existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './vscode-server';

const images = join(ROOT, 'docs/images');
const names = existsSync(images) ? readdirSync(images).filter((name) => name.endsWith('.png')) : [];
for (const name of names) {
  const taken = join(ROOT, 'test-results', name);
  if (existsSync(taken)) copyFileSync(taken, join(images, name));
  else {
    console.error(`docs/images/${name}: no test took ${name}.`);
    process.exitCode = 1;
  }
}
console.log(`${names.length} pictures in docs/images.`);
