/**
 * Mocha reporter of `npm test`: a dot a test, then what failed with its difference, the slowest tests, and a JSON file
 * with the counts ({ passed, failed, skipped }) for the sum that scripts/test.ts prints.
 *
 *   mocha --reporter ./test/reporter.cjs --reporter-option counts=test-results/unit.json
 */
const { mkdirSync, writeFileSync } = require('node:fs');
const { dirname } = require('node:path');
const { default: Mocha } = require('mocha');

const SLOWEST = 5;
const SLOW_MS = 1000;

class Reporter extends Mocha.reporters.Dot {
  constructor(runner, options) {
    super(runner, options);
    const slow = [];
    runner.on('test end', (test) => {
      if (test.duration >= SLOW_MS) slow.push(test);
    });
    // A run that dies before its end leaves this, and so counts as failed.
    const counts = options.reporterOption?.counts ?? options.reporterOptions?.counts;
    const write = (passed, failed, skipped) => {
      if (counts === undefined) return;
      mkdirSync(dirname(counts), { recursive: true });
      writeFileSync(counts, JSON.stringify({ passed, failed, skipped }));
    };
    write(0, 1, 0);
    runner.once('end', () => {
      for (const test of slow.sort((a, b) => b.duration - a.duration).slice(0, SLOWEST)) {
        console.log(`  slow: ${(test.duration / 1000).toFixed(1)} s  ${test.fullTitle()}`);
      }
      write(this.stats.passes, this.stats.failures, this.stats.pending);
    });
  }
}

module.exports = Reporter;
