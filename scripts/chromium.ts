/**
 * A Chromium for the tests that drive VS Code: one found on the machine, else playwright's own, else Debian's package.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { chromium } from 'playwright-core';
import { which, withLock, TOOLS } from './vscode-server';

/** Flags for a browser without a screen, a GPU or anything outside this machine to talk to. */
export const CHROMIUM_FLAGS: readonly string[] = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'microsoft-edge', 'chrome'];
const PLACES = [
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
  'C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe',
  'C:\\Program Files (x86)\\Microsoft\\Edge\\Application\\msedge.exe',
];

/**
 * A browser already here, or nothing. `MMUSCOPE_CHROMIUM` names one that is to be used and no other.
 * @throws when `MMUSCOPE_CHROMIUM` names a file that does not exist.
 */
export function findChromium(): string | undefined {
  const named = process.env['MMUSCOPE_CHROMIUM'];
  if (named !== undefined && named !== '') {
    if (!existsSync(named)) throw new Error(`MMUSCOPE_CHROMIUM names ${named}, which does not exist.`);
    return named;
  }
  for (const name of NAMES) {
    const path = which(name);
    if (path !== undefined) return path;
  }
  const own = chromium.executablePath();
  return [...PLACES, own].find((path) => path !== '' && existsSync(path));
}

/** A browser, installed when there is none. */
export async function ensureChromium(say: (line: string) => void = console.error): Promise<string> {
  const found = findChromium();
  if (found !== undefined) return found;
  return withLock(join(TOOLS, 'chromium.lock'), () => {
    const other = findChromium();
    if (other !== undefined) return Promise.resolve(other);
    say('No Chromium on this machine: asking playwright for one …');
    const cli = join(dirname(createRequire(import.meta.url).resolve('playwright-core/package.json')), 'cli.js');
    run(process.execPath, [cli, 'install', 'chromium', '--no-shell'], 300_000);
    let path = findChromium();
    if (path === undefined && process.getuid?.() === 0 && which('apt-get') !== undefined) {
      say("playwright has none for this machine: installing Debian's package …");
      run('apt-get', ['update', '-qq'], 300_000);
      run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'chromium'], 600_000);
      path = findChromium();
    }
    if (path === undefined) {
      throw new Error(
        'The VS Code tests need a Chromium and none could be installed. Install one (on Debian: apt-get install ' +
          'chromium), or set MMUSCOPE_CHROMIUM to the path of a Chromium, Chrome or Edge.',
      );
    }
    return Promise.resolve(path);
  });
}

function run(command: string, args: readonly string[], timeout: number): void {
  spawnSync(command, args, {
    timeout,
    stdio: ['ignore', 'ignore', 'ignore'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  });
}
