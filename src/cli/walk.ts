/** `mmuscope walk`: an address translated in the state that a scenario leads to, with the reason of the verdict. */
import { parseNumber } from '../words/address';
import { wordView, whyView } from '../adapter/views';
import { openTarget, type OpenRequest } from '../targets/open';
import { whyLines } from '../targets/why-text';
import type { Simulator } from '../targets/simulator/simulator';
import { CliError, type Output, paint } from './terminal';

export interface WalkOptions {
  readonly gpa?: boolean;
  readonly vcpu: number;
  readonly write?: boolean;
  readonly fetch?: boolean;
  readonly user?: boolean;
  readonly supervisor?: boolean;
  /** stop at this event, or before this line runs, instead of at the end */
  readonly atEvent?: number;
  readonly atLine?: number;
  readonly json?: boolean;
  /** every check, also those that held */
  readonly checks?: boolean;
}

/** @throws CliError, TargetError for what cannot be walked */
export async function walkCommand(
  request: OpenRequest,
  files: { read(path: string): Promise<string> },
  addressText: string,
  options: WalkOptions,
  output: Output,
): Promise<boolean> {
  const address = parseNumber(addressText);
  const target = await openTarget(request, files);
  await go(target, options);
  const user = options.user ? true : options.supervisor ? false : undefined;
  const why = target.walk({
    vcpu: options.vcpu,
    address,
    from: options.gpa ? 'gpa' : 'gva',
    write: options.write,
    fetch: options.fetch,
    user,
  });
  if (options.json) {
    output.write(JSON.stringify(whyView(why, target)));
    return why.verdict.kind === 'ok';
  }
  for (const line of whyLines(why, (step) => target.describeStep(step), options.checks)) {
    output.write(
      /^\s*FAILS/.test(line) ? paint(output, line, 'red') : /^\s*ok /.test(line) ? paint(output, line, 'dim') : line,
    );
  }
  for (const { name, decoded } of target.verdictCodes(why)) {
    const { value, summary } = wordView(decoded);
    output.write(`${name} ${value}: ${summary}`);
  }
  return why.verdict.kind === 'ok';
}

async function go(target: Simulator, { atEvent, atLine }: WalkOptions): Promise<void> {
  const report = { output: () => {} };
  target.setExceptionBreakpoints([]);
  if (atEvent !== undefined) {
    const stop = await target.run({ kind: 'event', index: atEvent }, 0, report);
    if (stop.reason === 'end')
      throw new CliError(`the scenario has only ${target.eventCount} events: they are numbered from 0`);
  } else if (atLine !== undefined) {
    const stop = await target.run({ kind: 'line', line: atLine, direction: 'forward' }, 0, report);
    if (stop.reason === 'end')
      throw new CliError(`line ${atLine} is never about to run: no statement begins there, or it is not reached`);
  } else {
    await target.run({ kind: 'continue' }, 0, report);
  }
}
