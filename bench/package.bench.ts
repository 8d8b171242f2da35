import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { shippedFiles } from '../scripts/stage';
import { ROOT } from '../scripts/vscode-server';
import type { Row } from './bench';

/** Weight of the package that users download, and of what activates with the extension. */
export default async function weight(): Promise<Row[]> {
  const folder = mkdtempSync(join(tmpdir(), 'mmuscope-vsix-'));
  try {
    const out = join(folder, 'mmuscope.vsix');
    execFileSync(process.execPath, ['--import=tsx', 'scripts/package.ts', '--out', out], { cwd: ROOT, stdio: 'pipe' });
    const kib = (path: string) => statSync(path).size / 1024;
    return [
      { name: 'size of the .vsix', value: kib(out), unit: 'KiB', note: `${shippedFiles().length} files` },
      { name: 'size of extension.cjs', value: kib(join(ROOT, 'dist/extension.cjs')), unit: 'KiB' },
    ];
  } finally {
    rmSync(folder, { recursive: true });
  }
}
