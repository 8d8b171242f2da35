/**
 * A real VS Code for tests: its server on the loopback address, its workbench in a headless Chromium, the extension of
 * this checkout, as it ships, loaded as if under development.
 *
 *   const workbench = await openWorkbench({ folder, file, theme: 'dark' });
 *   await workbench.page.keyboard.press('F5');                                  // what a person does
 *   const stack = await workbench.host(async (vscode) => vscode.debug…);        // what the API says
 *   await workbench.screenshot('stopped-at-smm');                              // test-results/stopped-at-smm.png
 *   await workbench.close();
 *
 * Tests inside the extension host (test/vscode/suite) run with `workbench.runTests()`.
 */
import { createServer, type IncomingMessage, type Server as HttpServer, type ServerResponse } from 'node:http';
import { cp, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, relative } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { chromium, type Browser, type Frame, type Page } from 'playwright-core';
import { CHROMIUM_FLAGS, ensureChromium } from '../../scripts/chromium';
import { stage } from '../../scripts/stage';
import { ensureServer, ROOT, startServer, writeSettings, type Server } from '../../scripts/vscode-server';
import {
  HARNESS_VARIABLE,
  THEMES,
  type Favour,
  type Job,
  type JobResult,
  type SuiteReport,
  type Theme,
} from './protocol';

export type { SuiteReport, Theme } from './protocol';

/** Where screenshots, reports and logs go. */
export const RESULTS = join(ROOT, 'test-results');
/** The test bundle, `npm run build:tests`. */
const SUITE = join(ROOT, 'dist/test/suite.cjs');

/** What a window is opened with. */
export interface WorkbenchOptions {
  /** Opened as the workspace. A copy of it is, so that nothing a test writes stays. Nothing: an empty folder. */
  readonly folder?: string;
  /** Opened in the editor: a path inside `folder`, relative to it. */
  readonly file?: string;
  readonly line?: number;
  readonly theme?: Theme;
  /** As in settings.json, on top of quiet defaults. */
  readonly settings?: Readonly<Record<string, unknown>>;
  readonly width?: number;
  readonly height?: number;
  /** False: nothing of ours runs in the extension host but the extension; `host` and `runTests` are not to be had. */
  readonly control?: boolean;
}

/** What no test is about: tips, chat, update notes, anything that asks the network. */
const QUIET: Readonly<Record<string, unknown>> = {
  'workbench.startupEditor': 'none',
  'workbench.tips.enabled': false,
  'workbench.enableExperiments': false,
  'workbench.secondarySideBar.defaultVisibility': 'hidden',
  'workbench.welcomePage.walkthroughs.openOnInstall': false,
  'workbench.settings.enableNaturalLanguageSearch': false,
  'chat.disableAIFeatures': true,
  'chat.commandCenter.enabled': false,
  'extensions.ignoreRecommendations': true,
  'extensions.autoCheckUpdates': false,
  'extensions.autoUpdate': false,
  'telemetry.telemetryLevel': 'off',
  'update.mode': 'none',
  'git.enabled': false,
  'npm.autoDetect': 'off',
  'window.autoDetectColorScheme': false,
  'window.autoDetectHighContrast': false,
  'window.restoreWindows': 'preserve',
  'editor.hover.delay': 100,
};

/** Opens a window and waits until its workbench stands and its extension host answers. */
export async function openWorkbench(options: WorkbenchOptions = {}): Promise<Workbench> {
  const control = options.control ?? true;
  if (!existsSync(join(ROOT, 'dist/extension.cjs')))
    throw new Error('No dist/extension.cjs: run `npm run build` first.');
  if (control && !existsSync(SUITE)) throw new Error('No dist/test/suite.cjs: run `npm run build:tests` first.');
  const install = await ensureServer();
  const executablePath = await ensureChromium();

  const dataDir = await mkdtemp(join(tmpdir(), 'mmuscope-'));
  const folder = join(dataDir, 'workspace', options.folder === undefined ? 'empty' : basename(options.folder));
  if (options.folder === undefined) await mkdir(folder, { recursive: true });
  else await cp(options.folder, folder, { recursive: true });

  const extension = join(dataDir, 'mmuscope');
  await stage(extension);

  const post = new Post();
  let server: Server | undefined;
  let browser: Browser | undefined;
  try {
    const address = await post.open();
    const settings = { ...QUIET, 'workbench.colorTheme': THEMES[options.theme ?? 'dark'], ...options.settings };
    server = await startServer(install, { dataDir, settings, env: { [HARNESS_VARIABLE]: address } });
    browser = await chromium.launch({ executablePath, args: [...CHROMIUM_FLAGS], headless: true });
    const page = await browser.newPage({
      viewport: { width: options.width ?? 1280, height: options.height ?? 800 },
    });
    const workbench = new Workbench(page, folder, { server, browser, post, dataDir, settings, control });
    const url = server.url({
      folder,
      file: options.file === undefined ? undefined : join(folder, options.file),
      line: options.line,
      developmentPath: extension,
      testsPath: control ? SUITE : undefined,
    });
    await page.goto(url);
    await workbench.ready();
    return workbench;
  } catch (error) {
    await browser?.close();
    await server?.stop();
    post.close();
    throw error;
  }
}

interface Parts {
  readonly server: Server;
  readonly browser: Browser;
  readonly post: Post;
  readonly dataDir: string;
  readonly settings: Record<string, unknown>;
  readonly control: boolean;
}

/** An open window. */
export class Workbench {
  /** `page` is playwright's; `folder` is the copy that was opened. */
  constructor(
    readonly page: Page,
    readonly folder: string,
    private readonly parts: Parts,
  ) {
    parts.post.onFavour = (favour) => this.favour(favour);
  }

  /** Waits until the workbench is drawn and, under control, until the extension host asks for work. */
  async ready(timeout = 60_000): Promise<void> {
    await this.page.waitForSelector('.monaco-workbench .part.statusbar', { timeout });
    await this.themed();
    if (this.parts.control) await this.parts.post.connected(timeout);
  }

  /** Reloads the window, as *Developer: Reload Window* does: the extension host starts anew, editors come back. */
  async reload(): Promise<void> {
    // What the window means to keep is written a moment after it changes.
    await delay(1500);
    this.parts.post.disconnect();
    await this.page.reload();
    await this.ready();
  }

  /** Writes test-results/NAME.png and returns its path. */
  async screenshot(name: string): Promise<string> {
    await mkdir(RESULTS, { recursive: true });
    const path = join(RESULTS, `${name.replaceAll(/[^\w.-]+/g, '-')}.png`);
    await this.page.screenshot({ path });
    return path;
  }

  /** Runs a command by its title, through the command palette. */
  async command(title: string): Promise<void> {
    await this.page.keyboard.press('F1');
    const box = this.page.locator('.quick-input-widget input').first();
    await box.waitFor({ state: 'visible' });
    await box.fill(`>${title}`);
    const row = this.page.locator('.quick-input-list .monaco-list-row').filter({ hasText: title }).first();
    await row.waitFor({ state: 'visible' });
    await this.page.keyboard.press('Enter');
    await box.waitFor({ state: 'hidden' });
  }

  /**
   * The frame, inside any webview, in which a selector matches something visible (and contains a text).
   * @throws with the text of all frames when none comes in time.
   */
  async frame(selector: string, options: { containing?: string; timeout?: number } = {}): Promise<Frame> {
    const until = Date.now() + (options.timeout ?? 15_000);
    for (;;) {
      for (const frame of this.page.frames()) {
        if (frame === this.page.mainFrame()) continue;
        const text = await textIn(frame, selector);
        if (text !== undefined && (options.containing === undefined || text.includes(options.containing))) return frame;
      }
      if (Date.now() > until) break;
      await delay(100);
    }
    const seen: string[] = [];
    for (const frame of this.page.frames().slice(1)) seen.push((await textIn(frame, 'body')) ?? '(no body)');
    const what = options.containing === undefined ? selector : `${selector} with "${options.containing}"`;
    throw new Error(
      `No webview shows ${what}. ${seen.length} frames: ${seen.map((s) => JSON.stringify(s.slice(0, 300))).join(', ')}`,
    );
  }

  /** The visible text at a selector inside a webview. */
  async frameText(selector: string, options: { containing?: string; timeout?: number } = {}): Promise<string> {
    const frame = await this.frame(selector, options);
    return (await textIn(frame, selector)) ?? '';
  }

  /** Changes the colour theme of the open window. */
  async theme(theme: Theme): Promise<void> {
    await this.settings({ 'workbench.colorTheme': THEMES[theme] });
    await this.themed();
  }

  /** Themes are extensions too: the wanted one comes a moment after the workbench. */
  private async themed(): Promise<void> {
    const wanted = Object.entries(THEMES).find(([, name]) => name === this.parts.settings['workbench.colorTheme']);
    if (wanted === undefined) return;
    const kind = { light: 'vs', dark: 'vs-dark', highContrast: 'hc-black', highContrastLight: 'hc-light' }[wanted[0]];
    await this.page.waitForSelector(`.monaco-workbench.${kind}`, { timeout: 20_000 });
  }

  /** Changes settings of the open window; it follows by itself. */
  async settings(change: Readonly<Record<string, unknown>>): Promise<void> {
    Object.assign(this.parts.settings, change);
    if (!this.parts.control) return writeSettings(this.parts.dataDir, this.parts.settings);
    await this.host(async (vscode, changes) => {
      for (const [name, value] of Object.entries(changes)) {
        await vscode.workspace.getConfiguration().update(name, value, vscode.ConfigurationTarget.Global);
      }
    }, change);
  }

  /**
   * Runs a function in the extension host and returns what it returns, as JSON. The function is sent as text: it sees
   * its arguments and nothing else of the test. The second argument must survive JSON.
   */
  async host<R, A = undefined>(
    fn: (vscode: typeof import('vscode'), args: A) => R | Promise<R>,
    ...args: A extends undefined ? [] : [A]
  ): Promise<R> {
    return (await this.parts.post.send({ kind: 'call', code: fn.toString(), args: args[0] })) as R;
  }

  /** Runs test/vscode/suite inside the extension host. */
  async runTests(options: { grep?: string; timeout?: number } = {}): Promise<SuiteReport> {
    const job = { kind: 'tests' as const, grep: options.grep };
    return (await this.parts.post.send(job, options.timeout ?? 600_000)) as SuiteReport;
  }

  /** The log of VS Code's server, for when something went wrong. */
  async log(): Promise<string> {
    return readFile(this.parts.server.log, 'utf8');
  }

  async close(): Promise<void> {
    await this.parts.browser.close();
    await this.parts.server.stop();
    this.parts.post.close();
    await rm(this.parts.dataDir, { recursive: true, force: true, maxRetries: 5 });
  }

  private async favour(favour: Favour): Promise<unknown> {
    switch (favour.what) {
      case 'screenshot':
        return relative(ROOT, await this.screenshot(favour.name));
      case 'frameText':
        return this.frameText(favour.selector, favour);
      case 'press':
        return this.page.keyboard.press(favour.keys);
      case 'click':
        return favour.inFrame === true
          ? (await this.frame(favour.selector)).locator(favour.selector).first().click()
          : this.page.locator(favour.selector).first().click();
      case 'theme':
        return this.theme(favour.theme);
    }
  }
}

/** Text of the first visible match; undefined when there is none or the frame is going away. */
async function textIn(frame: Frame, selector: string): Promise<string | undefined> {
  try {
    const found = frame.locator(selector).filter({ visible: true }).first();
    if ((await found.count()) === 0) return undefined;
    return await found.innerText({ timeout: 1000 });
  } catch {
    return undefined;
  }
}

type NewJob = Job extends infer J ? (J extends Job ? Omit<J, 'id'> : never) : never;

/** The harness's end of protocol.ts. */
class Post {
  onFavour: (favour: Favour) => Promise<unknown> = () => Promise.reject(new Error('No window yet.'));
  private readonly http: HttpServer;
  private waiting: ServerResponse | undefined;
  private queue: Job[] = [];
  private readonly open_ = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  private arrivals: (() => void)[] = [];
  private ids = 0;

  constructor() {
    this.http = createServer((request, response) => {
      this.serve(request, response).catch((error: unknown) => {
        response.statusCode = 500;
        response.end(JSON.stringify({ error: String(error instanceof Error ? error.message : error) }));
      });
    });
    // A job may take minutes, and so may the wait for one.
    this.http.requestTimeout = 0;
  }

  async open(): Promise<string> {
    await new Promise<void>((done) => this.http.listen(0, '127.0.0.1', done));
    const address = this.http.address();
    if (typeof address !== 'object' || address === null) throw new Error('The harness has no address.');
    return `http://127.0.0.1:${address.port}`;
  }

  close(): void {
    this.disconnect();
    this.http.close();
    this.http.closeAllConnections();
  }

  /** Forgets the extension host that was there. */
  disconnect(): void {
    this.waiting?.end(JSON.stringify({ id: 0, kind: 'end' } satisfies Job));
    this.waiting = undefined;
    for (const job of this.open_.values()) job.reject(new Error('The window went away before the job was done.'));
    this.open_.clear();
    this.queue = [];
  }

  async connected(timeout: number): Promise<void> {
    if (this.waiting !== undefined) return;
    await within(timeout, 'The extension host did not start the test bundle', (done) =>
      this.arrivals.push(() => done(undefined)),
    );
  }

  async send(job: NewJob, timeout = 60_000): Promise<unknown> {
    const id = ++this.ids;
    return within(timeout, `The extension host did not answer`, (resolve, reject) => {
      this.open_.set(id, { resolve, reject });
      this.queue.push({ ...job, id });
      this.hand();
    });
  }

  private hand(): void {
    if (this.waiting === undefined) return;
    const job = this.queue.shift();
    if (job === undefined) return;
    this.waiting.end(JSON.stringify(job));
    this.waiting = undefined;
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body: unknown = JSON.parse((await text(request)) || 'null');
    switch (request.url) {
      case '/next':
        this.waiting = response;
        response.once('close', () => {
          if (this.waiting === response) this.waiting = undefined;
        });
        for (const arrival of this.arrivals.splice(0)) arrival();
        this.hand();
        return;
      case '/done': {
        const result = body as JobResult;
        const job = this.open_.get(result.id);
        this.open_.delete(result.id);
        if (result.error === undefined) job?.resolve(result.value);
        else job?.reject(new Error(result.error));
        response.end('null');
        return;
      }
      case '/ask':
        response.end(JSON.stringify((await this.onFavour(body as Favour)) ?? null));
        return;
      default:
        throw new Error(`Unknown request ${String(request.url)}.`);
    }
  }
}

async function text(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts).toString('utf8');
}

async function within(
  timeout: number,
  sentence: string,
  start: (resolve: (value: unknown) => void, reject: (error: Error) => void) => void,
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${sentence} within ${timeout / 1000} s.`)), timeout);
    start(
      (value) => {
        clearTimeout(timer);
        resolve(value);
      },
      (error) => {
        clearTimeout(timer);
        reject(error);
      },
    );
  });
}
