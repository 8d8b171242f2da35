/** The command line: the same work as in the editor, without one. Exit codes: 0 good, 1 something is not as expected, 2 bad input. */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { readFile } from 'node:fs/promises';
import packageJson from '../../package.json' with { type: 'json' };
import { servePort, serveStdio } from '../adapter/server';
import { formatDiagnostic } from '../scenario/program';
import { parseScenario } from '../scenario/parse';
import { loadScenario, type OpenRequest, ScenarioError } from '../targets/open';
import { TargetError } from '../targets/target';
import { WordError } from '../words/address';
import { decodableWords } from '../words/explain';
import { parseKernel } from '../words/kernels';
import { auditScenario, type AuditOptions } from './audit';
import { decodeCommand, type DecodeOptions } from './decode';
import { runScenario, type RunOptions } from './run';
import { CliError, type Output, paint } from './terminal';
import { walkCommand, type WalkOptions } from './walk';

const files = { read: (path: string) => readFile(path, 'utf8') };

function wholeNumber(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.');
  return Number(text);
}

function kernelName(text: string): string {
  try {
    return parseKernel(text).name;
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

interface MachineOptions {
  readonly kernel?: string;
  readonly vendor?: 'intel' | 'amd';
}

const kernelOption = (): Option =>
  new Option('--kernel <version>', 'kernel, for example v6.1, 6.1.0-50-amd64 or spp-rfc-2018').argParser(kernelName);
const vendorOption = (): Option => new Option('--vendor <vendor>', 'processor vendor').choices(['intel', 'amd']);

const request = (program: string, { kernel, vendor }: MachineOptions): OpenRequest => ({ program, kernel, vendor });

/** Builds the command line. @param setExit takes the exit code */
export function commandLine(output: Output, setExit: (code: number) => void): Command {
  const cli = new Command('mmuscope');
  cli
    .description('Debug guest page tables under KVM: EPT, NPT, shadow pages, memslots, role words, cached MMIO sptes.')
    .version(packageJson.version)
    .showHelpAfterError('(mmuscope --help lists the commands)')
    .exitOverride()
    .configureOutput({ writeOut: (s) => output.write(s.trimEnd()), writeErr: (s) => output.error(s.trimEnd()) });

  cli
    .command('run')
    .description('run scenarios: one line per event, the outcome of each expect')
    .argument('<file...>', 'scenarios (.mmu)')
    .option('--json', 'one JSON object per line')
    .option('--events <kind...>', 'print only these kinds of event, for example kvm_mmu_set_spte')
    .option('-q, --quiet', 'print no events')
    .addOption(
      new Option('--statements <n>', 'stop after so many statements (for endless scenarios)').argParser(wholeNumber),
    )
    .addOption(kernelOption())
    .addOption(vendorOption())
    .action(async (paths: string[], options: RunOptions & MachineOptions) => {
      for (const path of paths)
        await guarded(output, setExit, async () => {
          const program = await loadScenario(request(path, options), (p) => files.read(p));
          const { failed, errors } = runScenario(program, options, output);
          setExit(failed + errors > 0 ? 1 : 0);
        });
    });

  cli
    .command('audit')
    .description('run scenarios and check the invariants of KVM’s MMU at their end (docs/audit.md)')
    .argument('<file...>', 'scenarios (.mmu)')
    .option('--each', 'after each statement, too')
    .option(
      '--points',
      'also before and after each page fault, guest-table write and sync, as the kernel’s mmu_audit.c did',
    )
    .option('--json', 'one JSON object per finding')
    .addOption(
      new Option('--statements <n>', 'stop after so many statements (for endless scenarios)').argParser(wholeNumber),
    )
    .addOption(kernelOption())
    .addOption(vendorOption())
    .action(async (paths: string[], options: AuditOptions & MachineOptions) => {
      for (const path of paths)
        await guarded(output, setExit, async () => {
          const program = await loadScenario(request(path, options), (p) => files.read(p));
          const { findings, errors } = auditScenario(program, options, output);
          setExit(findings + errors > 0 ? 1 : 0);
        });
    });

  cli
    .command('check')
    .description('check scenarios without running them')
    .argument('<file...>', 'scenarios (.mmu)')
    .action(async (paths: string[]) => {
      for (const path of paths) setExit((await check(path, output)) ? 0 : 2);
    });

  cli
    .command('walk')
    .description('translate an address in the state at the end of a scenario, and say why it comes out so')
    .argument('<file>', 'scenario (.mmu)')
    .argument('<address>', 'guest linear address, for example 0x201008')
    .option('--gpa', 'the address is guest-physical: walk the second stage alone')
    .option('--write', 'as a write')
    .option('--fetch', 'as an instruction fetch')
    .option('--user', 'as an access by user code')
    .option('--supervisor', 'as an access by the supervisor (default: as the CPL says)')
    .addOption(new Option('--vcpu <n>', 'vCPU').argParser(wholeNumber).default(0))
    .addOption(new Option('--at-event <n>', 'in the state where this event happens').argParser(wholeNumber))
    .addOption(new Option('--at-line <n>', 'in the state before this line runs').argParser(wholeNumber))
    .option('--checks', 'print every check, also those that held')
    .option('--json', 'the why-record as JSON')
    .addOption(kernelOption())
    .addOption(vendorOption())
    .action(async (file: string, address: string, options: WalkOptions & MachineOptions) => {
      setExit((await walkCommand(request(file, options), files, address, options, output)) ? 0 : 1);
    });

  cli
    .command('decode')
    .description('say what a number means: an spte, a role word, an error code, a control register')
    .argument('<value...>', 'hexadecimal or decimal, for example 0x4223a21')
    .addOption(
      new Option(
        '--as <word>',
        `what it is: ${decodableWords()
          .map((w) => w.name)
          .join(', ')}`,
      ),
    )
    .addOption(kernelOption())
    .addOption(vendorOption())
    .addOption(new Option('--level <n>', 'level of an entry, 1 (4K) to 5').argParser(wholeNumber))
    .option('--all', 'fields that are zero, too')
    .option('--json', 'as JSON')
    .action((values: string[], options: DecodeOptions) => {
      for (const value of values) decodeCommand(value, options, output);
    });

  cli
    .command('dap')
    .description('serve the Debug Adapter Protocol on stdin and stdout, or on a port of this machine')
    .addOption(new Option('--port <n>', 'listen on this port instead; 0 for any free one').argParser(wholeNumber))
    .addOption(new Option('--host <address>', 'loopback address to listen on').default('127.0.0.1'))
    .action(async ({ port, host }: { port?: number; host: string }) => {
      if (port === undefined) return serveStdio();
      const served = await servePort(port, host);
      output.error(`serving the Debug Adapter Protocol on ${host}:${served.port}`);
    });

  return cli;
}

/** Prints what the editor would underline. @returns whether the scenario can run */
async function check(path: string, output: Output): Promise<boolean> {
  let text: string;
  try {
    text = await files.read(path);
  } catch (error) {
    output.error(`cannot read ${path}: ${(error as Error).message}`);
    return false;
  }
  const { diagnostics } = parseScenario(text, path);
  for (const d of diagnostics) output.write(formatDiagnostic(path, d));
  const errors = diagnostics.filter((d) => d.severity === 'error').length;
  if (errors === 0) output.write(`${path}: ${paint(output, 'ok', 'green')}`);
  return errors === 0;
}

/** Does one of several things: what is wrong with it is said, and the others still get their turn. */
async function guarded(output: Output, setExit: (code: number) => void, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    setExit(report(error, output));
  }
}

/** Says what is wrong with the input. @returns the exit code @throws what no input should bring about */
function report(error: unknown, output: Output): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof ScenarioError) {
    for (const d of error.diagnostics) output.error(formatDiagnostic(error.uri, d));
    return 2;
  }
  if (error instanceof CliError || error instanceof TargetError || error instanceof WordError) {
    output.error(`mmuscope: ${error.message}`);
    return error instanceof CliError ? error.exitCode : 2;
  }
  throw error;
}

/** Runs the command line. @returns the exit code */
export async function main(argv: readonly string[], output: Output): Promise<number> {
  let code = 0;
  try {
    await commandLine(output, (c) => (code = Math.max(code, c))).parseAsync([...argv], { from: 'user' });
    return code;
  } catch (error) {
    return report(error, output);
  }
}
