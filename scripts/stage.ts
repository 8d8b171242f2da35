/**
 * The extension as users get it: the files that .vscodeignore lets through, and no others. What is opened in a VS Code
 * here is always a copy of just these, so that a file forgotten there is missed in tests and not by users; and VS Code,
 * which prefers colour themes from inside the folder under development, does not find its own ones in .vscode-test/.
 */
import { cp, mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { listFiles, PackageManager } from '@vscode/vsce';
import { ROOT } from './vscode-server';

/** Paths from the checkout, with slashes, of all that ships. */
export async function shippedFiles(): Promise<string[]> {
  const files = await listFiles({ cwd: ROOT, packageManager: PackageManager.None });
  return files.map((file) => file.replaceAll('\\', '/')).sort();
}

/** Copies what ships into a folder, which then is an extension to develop. */
export async function stage(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  for (const file of await shippedFiles()) {
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
