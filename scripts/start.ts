/**
 * `npm start`: builds the extension and opens a VS Code with it on the shipped examples.
 *
 *   npm start                    the desktop VS Code when `code` is on PATH and there is a display, else the server
 *   npm start -- --server        the server, and its address for any browser
 *   npm start -- --port 8123     the server, at this port
 *   npm start -- --folder DIR    another folder than examples/
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { stage } from './stage';
import { ensureServer, ROOT, startServer, TOOLS, which } from './vscode-server';

/** Shown first: it has a page fault's and SMM's stops. */
const FIRST = 'smm.mmu';
/** For a first look: no chat, no tips, the example in the middle. */
const SETTINGS: Readonly<Record<string, unknown>> = {
  'workbench.startupEditor': 'none',
  'workbench.secondarySideBar.defaultVisibility': 'hidden',
  'chat.disableAIFeatures': true,
  'debug.toolBarLocation': 'docked',
  'git.enabled': false,
};

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { server: { type: 'boolean' }, port: { type: 'string' }, folder: { type: 'string' } },
  });
  const port = values.port === undefined ? 0 : Number(values.port);
  if (!Number.isInteger(port) || port < 0 || port > 65535)
    throw new Error(`--port wants 1 to 65535, not ${values.port}.`);
  const folder = resolve(values.folder ?? join(ROOT, 'examples'));
  if (!existsSync(folder)) throw new Error(`There is no folder ${folder}; --folder names another.`);
  const scenarios = readdirSync(folder)
    .filter((name) => name.endsWith('.mmu'))
    .sort();
  const first = scenarios.includes(FIRST) ? FIRST : scenarios[0];
  const file = first === undefined ? undefined : join(folder, first);

  console.log('Building …');
  const webpack = join(ROOT, 'node_modules/webpack/bin/webpack.js');
  const build = spawnSync(process.execPath, [webpack, '--mode=development'], { cwd: ROOT, stdio: 'inherit' });
  if (build.status !== 0) throw new Error('The build failed.');

  const desktop = which('code');
  if (desktop !== undefined && hasDisplay() && values.server !== true && values.port === undefined) {
    // As root, VS Code wants to be told where to keep its data, and Chromium's sandbox does not work.
    const root = process.getuid?.() === 0 ? ['--no-sandbox', `--user-data-dir=${join(TOOLS, 'desktop')}`] : [];
    const args = ['--new-window', `--extensionDevelopmentPath=${ROOT}`, ...root, folder, ...(file ? [file] : [])];
    spawn(desktop, args, { detached: true, stdio: 'ignore', shell: process.platform === 'win32' }).unref();
    console.log(`VS Code opens on ${folder}. Press F5 in a .mmu file.`);
    return;
  }

  const install = await ensureServer(console.log);
  const extension = join(TOOLS, 'start', 'mmuscope');
  await stage(extension);
  const dataDir = join(TOOLS, 'start', 'data');
  // What a person sets there stays.
  const settings = existsSync(dataDir) ? undefined : SETTINGS;
  const server = await startServer(install, { dataDir, port, settings });
  console.log(
    `\nVS Code with MMU Scope, on ${folder}:\n\n  ${server.url({ folder, file, developmentPath: extension })}\n`,
  );
  console.log('Open it in a browser on this machine and press F5 in a .mmu file. Ctrl+C here ends it.');
  const end = () => void server.stop().then(() => process.exit(0));
  process.once('SIGINT', end);
  process.once('SIGTERM', end);
  const code = await server.exited;
  if (code !== 0) throw new Error(`VS Code's server ended (exit ${code}); its log is ${server.log}`);
}

function hasDisplay(): boolean {
  if (process.platform === 'darwin' || process.platform === 'win32') return true;
  return Boolean(process.env['DISPLAY'] ?? process.env['WAYLAND_DISPLAY']);
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
