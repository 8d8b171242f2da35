/**
 * Runs the tests of test/vscode/suite inside the extension host of a real VS Code, prints them, and leaves
 * test-results/vscode-suite.json with their counts.
 *
 *   tsx test/vscode/run-suite.ts [PATTERN]     only the tests whose full title has PATTERN
 */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ROOT } from '../../scripts/vscode-server';
import { openWorkbench, RESULTS, type SuiteReport } from './harness';

async function main(): Promise<void> {
  const examples = join(ROOT, 'examples');
  const workbench = await openWorkbench(existsSync(examples) ? { folder: examples } : {});
  let report: SuiteReport;
  try {
    report = await workbench.runTests(process.argv[2] === undefined ? {} : { grep: process.argv[2] });
  } catch (error) {
    await workbench.screenshot('suite-died');
    console.error(await workbench.log());
    throw error;
  } finally {
    await workbench.close();
  }
  const marks = { passed: '✔', failed: '✘', pending: '-' };
  for (const test of report.tests) {
    console.log(`  ${marks[test.state]} ${test.title} (${test.milliseconds} ms)`);
    if (test.error !== undefined) console.log(test.error.replaceAll(/^/gm, '      '));
  }
  await mkdir(RESULTS, { recursive: true });
  const { passed, failed, skipped } = report;
  await writeFile(join(RESULTS, 'vscode-suite.json'), JSON.stringify({ passed, failed, skipped }));
  if (failed > 0) process.exitCode = 1;
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
