/**
 * Runs random operations until something goes wrong, for mutations.test.ts: it runs copies of the sources in which a rule is broken.
 * Arguments: names of modes, each with as many operations as the golden test has. Prints a line of JSON.
 */
import { CI_LENGTH, CI_RUNS, CONFIGS, rawOperations, runOperations } from './driver';
import { newTally } from './world';

/** What a run came to. */
export interface Verdict {
  readonly operations: number;
  readonly failure: { readonly config: string; readonly seed: number; readonly message: string } | null;
}

function run(names: readonly string[]): Verdict {
  const configs = CONFIGS.filter((c) => names.includes(c.name));
  if (configs.length !== names.length) throw new Error(`not all of these are modes: ${names.join(', ')}`);
  const tally = newTally();
  for (let seed = 1; seed <= CI_RUNS; seed++)
    for (const config of configs) {
      const failed = runOperations(config, rawOperations(seed, CI_LENGTH), { tally, auditEvery: 1 });
      if (failed)
        return { operations: tally.operations, failure: { config: config.name, seed, message: failed.message } };
    }
  return { operations: tally.operations, failure: null };
}

console.log(JSON.stringify(run(process.argv.slice(2))));
