/**
 * The extension as users get it: the files that .vscodeignore lets through, and no others. What is opened in a VS Code
 * here is always a copy of just these, so that a file forgotten there is missed in tests and not by users; and VS Code,
 * which prefers colour themes from inside the folder under development, does not find its own ones in .vscode-test/.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { cp, mkdir, rm } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';
import { ROOT } from './vscode-server';

/**
 * Paths from the checkout, with slashes, of all that ships: what .vscodeignore names after its `**`. Its lines are
 * `!FOLDER/**` or `!FOLDER/NAME`, with `*` for a part of the name. (vsce can tell too, but looks through node_modules and
 * .vscode-test for seconds; a test holds the two lists against each other.)
 */
export function shippedFiles(root = ROOT): string[] {
  const lines = readFileSync(join(root, '.vscodeignore'), 'utf8').split(/\r?\n/);
  const rules = lines.filter((line) => line !== '' && !line.startsWith('#'));
  if (rules.shift() !== '**') throw new Error('.vscodeignore must begin with ** and then name what ships.');
  const files = rules.flatMap((rule) => {
    if (!rule.startsWith('!')) throw new Error(`.vscodeignore: ${rule} names nothing that ships; lines begin with !`);
    const pattern = rule.slice(1);
    const folder = posix.dirname(pattern);
    const name = posix.basename(pattern);
    if (!existsSync(join(root, folder))) return [];
    const wanted = new RegExp(`^${name.replaceAll('.', '\\.').replaceAll(/\*+/g, '.*')}$`);
    return readdirSync(join(root, folder), { withFileTypes: true, recursive: name === '**' })
      .filter((entry) => entry.isFile() && wanted.test(entry.name))
      .map((entry) =>
        posix.relative(root.replaceAll('\\', '/'), join(entry.parentPath, entry.name).replaceAll('\\', '/')),
      );
  });
  return [...new Set(files)].sort();
}

/** Copies what ships into a folder, which then is an extension to develop. */
export async function stage(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  for (const file of shippedFiles()) {
    await mkdir(dirname(join(folder, file)), { recursive: true });
    await cp(join(ROOT, file), join(folder, file));
  }
}

/** Files that a manifest points to (its `./…` strings, and icons) and that are not among those that ship. */
export function missing(manifest: unknown, files: readonly string[]): string[] {
  const shipped = new Set(files);
  const lost = new Set<string>();
  const visit = (value: unknown, key: string): void => {
    if (typeof value === 'string') {
      const points = value.startsWith('./') || /^(icon|light|dark|svg|image|markdown)$/.test(key) || key === 'path';
      const isFile = points && /\.\w+$/.test(value) && !value.includes('$(') && !value.includes('*');
      if (isFile && !shipped.has(value.replace(/^\.\//, ''))) lost.add(value);
    } else if (Array.isArray(value)) value.forEach((item) => visit(item, key));
    else if (typeof value === 'object' && value !== null) Object.entries(value).forEach(([k, v]) => visit(v, k));
  };
  const { main, icon, contributes } = manifest as Record<string, unknown>;
  visit({ main, icon, contributes }, '');
  return [...lost].sort();
}
