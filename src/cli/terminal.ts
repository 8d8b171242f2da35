/** Writing to a terminal: colours only where they are seen and wanted, columns, and pipes that close early. */

const CODES = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, blue: 34, magenta: 35, cyan: 36 } as const;
export type Colour = keyof typeof CODES;

/** Whether a stream shows colours. NO_COLOR (no-color.org) switches them off, FORCE_COLOR on. */
export function wantsColour(stream: { readonly isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): boolean {
  if (env['NO_COLOR']) return false;
  if (env['FORCE_COLOR'] && env['FORCE_COLOR'] !== '0') return true;
  return stream.isTTY === true && env['TERM'] !== 'dumb';
}

/** Where a command writes. Tests give their own. */
export interface Output {
  readonly colour: boolean;
  write(line: string): void;
  error(line: string): void;
}

export function processOutput(): Output {
  // A reader such as `head` that has seen enough is no error.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  return {
    colour: wantsColour(process.stdout),
    write: (line) => void process.stdout.write(`${line}\n`),
    error: (line) => void process.stderr.write(`${line}\n`),
  };
}

/** Text in colours, or as it is. */
export function paint(output: Pick<Output, 'colour'>, text: string, ...colours: readonly Colour[]): string {
  if (!output.colour || colours.length === 0) return text;
  return `\u001b[${colours.map((c) => CODES[c]).join(';')}m${text}\u001b[0m`;
}

/** A command's end with a sentence for the user. */
export class CliError extends Error {
  constructor(
    message: string,
    readonly exitCode: 1 | 2 = 2,
  ) {
    super(message);
  }
}
