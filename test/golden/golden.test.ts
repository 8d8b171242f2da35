/**
 * The golden property: after each of many random operations (guest tables edited with and without INVLPG, registers, memslots, SMM, dirty
 * logging, sub-page permissions, pages taken away by the host, on several vCPUs) the processor translates as the guest's tables and the
 * memslots say, wherever the architecture promises it, and the audit is clean. In every mode that test/golden/layout.ts lists.
 *
 * GOLDEN_SEED=N runs other operations than the usual ones. `npm run soak` runs as many as one likes.
 */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { CI_LENGTH, CI_OPERATIONS, CI_RUNS, CONFIGS, operationsText, runOperations, shrink } from './driver';
import { RAW_LIMIT, type Raw } from './operations';
import { newTally, type Tally } from './world';

const SEED = Number(process.env['GOLDEN_SEED'] ?? 20260101);

const number = fc.noBias(fc.nat(RAW_LIMIT - 1));
const operation: fc.Arbitrary<Raw> = fc.tuple(number, number, number, number, number, number);
const operations = fc.array(operation, { minLength: CI_LENGTH, maxLength: CI_LENGTH });

describe('golden property', function () {
  this.timeout(120_000);
  const all = newTally();
  const done: string[] = [];

  for (const config of CONFIGS)
    it(`holds in ${config.name}`, () => {
      const tally = newTally();
      const property = fc.property(operations, (raws) => {
        const failed = runOperations(config, raws, { tally, auditEvery: 1 });
        assert.equal(failed, null);
      });
      // Sequences are shortened below: leaving out whole stretches gets further than smaller numbers do.
      const result = fc.check(property, { seed: SEED, numRuns: CI_RUNS, endOnFailure: true });
      if (result.failed) {
        const raws = result.counterexample?.[0] ?? [];
        const short = shrink(config, raws, { auditEvery: 1 });
        assert.fail(
          `${config.name}, seed ${result.seed}, path ${result.counterexamplePath}: ${short.message}\n${operationsText({ config, operations: short.operations })}`,
        );
      }
      assert.equal(tally.operations, CI_RUNS * CI_LENGTH);
      assert.equal(tally.audits, tally.operations);
      for (const k of Object.keys(all) as (keyof Tally)[]) all[k] += tally[k];
      done.push(config.name);
    });

  it('was tried often enough, and by operations that got somewhere', function () {
    // A selection of tests says nothing about the sum.
    if (done.length < CONFIGS.length) this.skip();
    assert.ok(all.operations >= CI_OPERATIONS, `${all.operations} operations`);
    const accesses = all.promised + all.several;
    const parts: readonly (readonly [name: string, n: number, least: number])[] = [
      ['accesses with an outcome to compare', accesses, 0.6 * all.operations],
      ['accesses with exactly one', all.promised, 0.8 * accesses],
      ['accesses that reached RAM', all.ram, 0.4 * accesses],
      ['accesses that reached a device', all.mmio, 0.08 * accesses],
      ['writes to read-only memory', all.readonlyWrites, 0.001 * accesses],
      ['faults', all.faults, 0.1 * accesses],
      ['translations looked at', all.probes, 2 * all.operations],
      ['translations that exist', all.probesOk, 0.05 * all.probes],
      ['ways into SMM and out', all.smm, 0.02 * all.operations],
      ['changes of memslots', all.slots, 0.03 * all.operations],
      ['ioctls of sub-page permissions', all.spp, 200],
      ['writes that sub-pages refused', all.sppDenied, 20],
    ];
    for (const [name, n, least] of parts) assert.ok(n >= least, `${name}: ${n}, fewer than ${Math.ceil(least)}`);
    assert.ok(all.skipped < 0.03 * accesses, `${all.skipped} accesses about which nothing is promised`);
  });
});
