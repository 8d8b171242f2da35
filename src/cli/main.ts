/** The program `mmuscope`. */
import { main } from './command-line';
import { processOutput } from './terminal';

void main(process.argv.slice(2), processOutput()).then((code) => {
  // Not process.exit: `dap` is still serving, and pipes are still to be written.
  process.exitCode = code;
});
