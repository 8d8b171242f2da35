/** Opening a target: what a launch request, or a command line, asks to look at. */
import { machineConfig } from '../kvm/machine';
import { type Diagnostic, formatDiagnostic, ScenarioProgram } from '../scenario/program';
import { parseScenario } from '../scenario/parse';
import { parseKernel } from '../words/kernels';
import { Simulator } from './simulator/simulator';
import { TargetError } from './target';

export interface OpenRequest {
  /** path of a scenario */
  readonly program?: string;
  /** … or its text */
  readonly scenario?: string;
  readonly kernel?: string;
  readonly vendor?: 'intel' | 'amd';
}

/** A scenario that cannot be run: every finding, in the words of the editor. */
export class ScenarioError extends TargetError {
  constructor(
    readonly uri: string,
    readonly diagnostics: readonly Diagnostic[],
  ) {
    const [first] = diagnostics;
    const more = diagnostics.length > 1 ? ` (and ${diagnostics.length - 1} more)` : '';
    super(`${formatDiagnostic(baseName(uri), first)}${more}`);
  }
}

const baseName = (path: string): string => path.replace(/^.*[\\/]/, '');

/** Reads and checks a scenario. @throws ScenarioError with all errors; @throws TargetError if the file cannot be read */
export async function loadScenario(
  request: OpenRequest,
  read: (path: string) => Promise<string>,
): Promise<ScenarioProgram> {
  const { program: path, scenario } = request;
  const uri = path ?? 'scenario.mmu';
  let text: string;
  if (scenario !== undefined) text = scenario;
  else {
    try {
      text = await read(uri);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      const why =
        code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'it is a folder' : (error as Error).message;
      throw new TargetError(`cannot read the scenario ${uri}: ${why}`);
    }
  }
  const { program, diagnostics } = parseScenario(text, uri);
  const errors = diagnostics.filter((d) => d.severity === 'error');
  if (!program || errors.length > 0) throw new ScenarioError(uri, errors.length ? errors : diagnostics);
  return overridden(program, request);
}

/** The program on another kernel or vendor than it names. */
function overridden(program: ScenarioProgram, { kernel, vendor }: OpenRequest): ScenarioProgram {
  const config = program.machineConfig;
  const other = vendor !== undefined && vendor !== config.vendor;
  if (kernel === undefined && !other) return program;
  const changed = machineConfig({
    ...config,
    ...(kernel === undefined ? {} : { kernel: parseKernel(kernel).name }),
    ...(other ? { vendor, paging: config.paging === 'shadow' ? 'shadow' : vendor === 'intel' ? 'ept' : 'npt' } : {}),
  });
  return new ScenarioProgram(program.uri, program.text, changed, program.statements);
}

/** Opens what a launch request names. @throws TargetError with the sentence that the user should read */
export async function openTarget(
  request: OpenRequest,
  files: { read(path: string): Promise<string> },
): Promise<Simulator> {
  const program = await loadScenario(request, (path) => files.read(path));
  return new Simulator(program, { name: baseName(program.uri), path: request.program ?? null, text: program.text });
}
