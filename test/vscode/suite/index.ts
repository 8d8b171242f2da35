/**
 * Runs inside the extension host; VS Code calls `run()`. Under the harness it does what the harness asks, until the
 * window closes; in a desktop VS Code it runs every test once.
 */
import Mocha from 'mocha';
import * as vscode from 'vscode';
import { post } from '../harness-client';
import { HARNESS_VARIABLE, type Job, type JobResult, type SuiteReport, type TestRecord } from '../protocol';

export async function run(): Promise<void> {
  if (process.env[HARNESS_VARIABLE] === undefined) {
    const report = await runTests();
    if (report.failed > 0) throw new Error(`${report.failed} of ${report.tests.length} tests failed.`);
    return;
  }
  for (;;) {
    const job = (await post('/next', null)) as Job;
    if (job.kind === 'end') return;
    const result = await work(job).then(
      (value): JobResult => ({ id: job.id, value }),
      (error: unknown): JobResult => ({ id: job.id, error: describe(error) }),
    );
    await post('/done', result);
  }
}

async function work(job: Exclude<Job, { kind: 'end' }>): Promise<unknown> {
  if (job.kind === 'tests') return runTests(job.grep);
  // The text of a function of the test outside. Its compiler names functions through __name.
  // eslint-disable-next-line @typescript-eslint/no-implied-eval
  const make = new Function('__name', `return (${job.code});`) as (
    name: unknown,
  ) => (v: unknown, a: unknown) => unknown;
  return make((f: unknown) => f)(vscode, job.args);
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

async function runTests(grep?: string): Promise<SuiteReport> {
  const mocha = new Mocha({ ui: 'bdd', timeout: 30_000, color: true, ...(grep === undefined ? {} : { grep }) });
  // Hands out describe, it and the hooks, as loading a file would.
  mocha.suite.emit('pre-require', globalThis as unknown as Mocha.MochaGlobals, '', mocha);
  const files = import.meta.webpackContext('./', { recursive: true, regExp: /\.test\.ts$/, mode: 'eager' });
  for (const file of files.keys()) await files(file);
  const tests: TestRecord[] = [];
  await new Promise<void>((done) => {
    const runner = mocha.run(() => done());
    runner.on('pass', (test) => tests.push(record(test, 'passed')));
    runner.on('pending', (test) => tests.push(record(test, 'pending')));
    runner.on('fail', (test, error: unknown) => tests.push({ ...record(test, 'failed'), error: describe(error) }));
  });
  const count = (state: TestRecord['state']) => tests.filter((test) => test.state === state).length;
  return { tests, passed: count('passed'), failed: count('failed'), skipped: count('pending') };
}

function record(test: Mocha.Runnable, state: TestRecord['state']): TestRecord {
  return { title: test.fullTitle(), state, milliseconds: test.duration ?? 0 };
}
