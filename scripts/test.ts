/**
 * `npm test`: sets up what tests need, runs every check and every test, and closes with the sum.
 *
 *   tsx scripts/test.ts                 everything
 *   tsx scripts/test.ts checks unit     these parts; the parts are checks, build, unit, vscode
 *
 * Each tool among the checks counts as one, and so does the build; tests count as their runners count them. The last
 * line is `N passed, N failed` alone, and the exit code says the same. Further arguments after `--` go to mocha.
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ensureChromium } from './chromium';
import { ensureServer, ROOT } from './vscode-server';

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const PARTS = ['checks', 'build', 'unit', 'vscode'] as const;
type Part = (typeof PARTS)[number];

const RESULTS = join(ROOT, 'test-results');
const bin = (name: string) => join(ROOT, 'node_modules/.bin', process.platform === 'win32' ? `${name}.cmd` : name);

/** Everything that is read rather than run. */
const CHECKS: readonly (readonly [name: string, command: readonly string[]])[] = [
  ['eslint', [bin('eslint'), '.', '--max-warnings=0']],
  ['prettier', [bin('prettier'), '--check', '--log-level=warn', '.']],
  ['types', [bin('tsc'), '--noEmit', '-p', '.']],
  ['types of webviews', [bin('tsc'), '--noEmit', '-p', 'webview']],
  ['house rules', [bin('tsx'), 'scripts/check.ts']],
];
const BUILD = [bin('webpack'), '--mode=production', '--env=tests'];
const UNIT = [
  'src/**/*.test.ts',
  'webview/**/*.test.ts',
  'scripts/**/*.test.ts',
  'test/**/*.test.ts',
  'bench/**/*.test.ts',
];
const NOT_UNIT = 'test/vscode/**';
const VSCODE = ['test/vscode/ui/**/*.test.ts'];

async function main(): Promise<void> {
  const split = process.argv.indexOf('--', 2);
  const named = process.argv.slice(2, split < 0 ? undefined : split);
  const mochaArgs = split < 0 ? [] : process.argv.slice(split + 1);
  const unknown = named.filter((name) => !PARTS.includes(name as Part));
  if (unknown.length > 0)
    throw new Error(`No part is called ${unknown.join(', ')}; the parts are ${PARTS.join(', ')}.`);
  const wanted = new Set<Part>(named.length === 0 ? PARTS : (named as Part[]));
  // Tests in VS Code, and those that start the CLI, run what webpack made.
  if (wanted.has('vscode')) wanted.add('build');

  const total: Counts = { passed: 0, failed: 0, skipped: 0 };
  const add = (counts: Counts) => {
    total.passed += counts.passed;
    total.failed += counts.failed;
    total.skipped += counts.skipped;
  };
  // The set-up waits for the network while the checks use the processor.
  const setUp = wanted.has('vscode')
    ? Promise.all([ensureServer(), ensureChromium()]).then(
        () => undefined,
        (error: unknown) => (error instanceof Error ? error : new Error(String(error))),
      )
    : Promise.resolve(undefined);

  if (wanted.has('checks')) {
    // Two at a time: machines with two processors are what CI has.
    const rest = [...CHECKS];
    const worker = async () => {
      for (let next = rest.shift(); next !== undefined; next = rest.shift()) add(await check(...next));
    };
    await Promise.all([worker(), worker()]);
  }
  if (wanted.has('build')) add(await check('build', BUILD));
  if (wanted.has('unit')) add(await mocha('unit', UNIT, ['--exclude', NOT_UNIT, '--exclude', 'dist/**', ...mochaArgs]));
  if (wanted.has('vscode')) {
    const failure = await setUp;
    if (failure !== undefined) {
      console.log(`FAIL set-up of VS Code: ${failure.message}`);
      add({ passed: 0, failed: 1, skipped: 0 });
    } else {
      add(await counted('vscode-suite', 'tests inside VS Code', [bin('tsx'), 'test/vscode/run-suite.ts']));
      add(await mocha('vscode-ui', VSCODE, ['--timeout', '120000', ...mochaArgs]));
    }
  }
  const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : '';
  console.log(`\n${total.passed} passed, ${total.failed} failed${skipped}`);
  process.exitCode = total.failed > 0 ? 1 : 0;
}

/** Runs a tool that either succeeds or not; prints what it said only when it did not, and the build's sizes. */
async function check(name: string, command: readonly string[]): Promise<Counts> {
  const { code, output, seconds } = await run(command, true);
  const ok = code === 0;
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)`);
  if (!ok || name === 'build') console.log(output.trimEnd());
  return { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 };
}

function mocha(name: string, patterns: readonly string[], args: readonly string[]): Promise<Counts> {
  const report = ['--reporter', './test/reporter.cjs', '--reporter-option', `counts=test-results/${name}.json`];
  const command = [bin('mocha'), '--import=tsx', '--forbid-only', ...report, ...args, ...patterns];
  return counted(name, `${name} tests`, command);
}

/** Runs a test runner that leaves test-results/NAME.json; one that leaves none has failed before its first test. */
async function counted(name: string, title: string, command: readonly string[]): Promise<Counts> {
  const file = join(RESULTS, `${name}.json`);
  rmSync(file, { force: true });
  console.log(`\n${title}`);
  const { code, seconds } = await run(command, false);
  const counts = existsSync(file)
    ? (JSON.parse(readFileSync(file, 'utf8')) as Counts)
    : { passed: 0, failed: 1, skipped: 0 };
  // A runner that says it failed while no test did: an error outside of the tests.
  if (code !== 0 && counts.failed === 0) counts.failed = 1;
  if (counts.passed + counts.failed === 0) counts.failed = 1;
  console.log(`${title}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped (${seconds} s)`);
  return counts;
}

async function run(
  command: readonly string[],
  quiet: boolean,
): Promise<{ code: number | null; output: string; seconds: string }> {
  const start = Date.now();
  const [file = '', ...args] = command;
  const child = spawn(file, args, {
    cwd: ROOT,
    stdio: ['ignore', quiet ? 'pipe' : 'inherit', quiet ? 'pipe' : 'inherit'],
    shell: process.platform === 'win32',
  });
  let output = '';
  child.stdout?.on('data', (part: Buffer) => (output += part.toString()));
  child.stderr?.on('data', (part: Buffer) => (output += part.toString()));
  const code = await new Promise<number | null>((done, fail) => {
    child.once('error', fail);
    child.once('close', done);
  });
  return { code, output, seconds: ((Date.now() - start) / 1000).toFixed(1) };
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  console.log('\n0 passed, 1 failed');
  process.exitCode = 1;
});
