/** The settings, typed, with what holds when they are wrong. Their descriptions are in package.json. */
import * as vscode from 'vscode';
import { parseKernel } from '../words/kernels';

export type Vendor = 'intel' | 'amd';
/** Which values get a hover: words only, every hexadecimal number, none. */
export type HoverMode = 'words' | 'all' | 'off';

export interface Settings {
  /** canonical kernel name */
  readonly kernel: string;
  readonly vendor: Vendor;
  /** MAXPHYADDR of the host, 32 .. 52 */
  readonly hostPhysBits: number;
  readonly hover: HoverMode;
  /** language ids in which values get a hover; `*` is all */
  readonly hoverLanguages: readonly string[];
}

/** The settings that hold for a document. */
export function settingsFor(scope?: vscode.ConfigurationScope): Settings {
  const settings = vscode.workspace.getConfiguration('mmuscope', scope);
  const vendor = settings.get<string>('defaultVendor');
  const hover = settings.get<string>('hover.values');
  const bits = settings.get<number>('defaultHostPhysicalBits');
  return {
    kernel: kernelName(settings.get<string>('defaultKernel')),
    vendor: vendor === 'amd' ? 'amd' : 'intel',
    hostPhysBits: typeof bits === 'number' && bits >= 32 && bits <= 52 ? Math.trunc(bits) : 46,
    hover: hover === 'all' || hover === 'off' ? hover : 'words',
    hoverLanguages: settings.get<string[]>('hover.languages') ?? ['*'],
  };
}

/** v6.1 for a name that is not a kernel: the setting is checked in the settings editor, not at every hover. */
function kernelName(name: string | undefined): string {
  try {
    return parseKernel(name ?? 'v6.1').name;
  } catch {
    return 'v6.1';
  }
}
