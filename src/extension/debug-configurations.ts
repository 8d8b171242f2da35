/* eslint-disable no-template-curly-in-string -- VS Code writes its variables so: ${file} */
/** Launch configurations: those that VS Code offers, and what becomes of a launch without one. */
import * as vscode from 'vscode';
import { DEBUG_TYPE } from './sessions';

const LANGUAGE = 'mmu';

/** What a new launch.json gets. */
const INITIAL: vscode.DebugConfiguration = {
  type: DEBUG_TYPE,
  request: 'launch',
  name: 'Debug the open scenario',
  program: '${file}',
};

/** A launch of one scenario. The program of a file is its path, of anything else its URI. */
export function launchOf(uri: vscode.Uri, more: Partial<vscode.DebugConfiguration> = {}): vscode.DebugConfiguration {
  return {
    type: DEBUG_TYPE,
    request: 'launch',
    name: nameOf(uri),
    program: uri.scheme === 'file' ? uri.fsPath : uri.toString(),
    ...more,
  };
}

function nameOf(uri: vscode.Uri): string {
  return uri.path.replace(/^.*\//, '');
}

/** For launch.json (Initial). Resolves every launch, with or without launch.json. */
class ConfigurationProvider implements vscode.DebugConfigurationProvider {
  provideDebugConfigurations(): vscode.DebugConfiguration[] {
    return [INITIAL];
  }

  /** F5 without a launch.json comes with an empty configuration: then the open scenario is meant. */
  resolveDebugConfiguration(
    _folder: vscode.WorkspaceFolder | undefined,
    configuration: vscode.DebugConfiguration,
  ): vscode.ProviderResult<vscode.DebugConfiguration> {
    const open = vscode.window.activeTextEditor?.document;
    const scenario = open?.languageId === LANGUAGE ? open.uri : undefined;
    const empty = !configuration.type && !configuration.request && !configuration.name;
    if (empty) {
      if (scenario !== undefined) return { ...launchOf(scenario), ...(configuration.noDebug ? { noDebug: true } : {}) };
      void vscode.window.showErrorMessage('Open a .mmu scenario to debug it, or name one as "program" in launch.json.');
      return undefined;
    }
    // ${file} is a path; a scenario that is no file has none.
    const wantsOpen = configuration['program'] === undefined || configuration['program'] === '${file}';
    if (wantsOpen && configuration['scenario'] === undefined && scenario !== undefined) {
      return { ...configuration, program: launchOf(scenario)['program'] as string };
    }
    if (configuration['program'] === '${file}' && open !== undefined && scenario === undefined) {
      void vscode.window.showErrorMessage(
        `"${configuration.name}" debugs the open file, but ${nameOf(open.uri)} is not a .mmu scenario: open one, or name it as "program" in launch.json.`,
      );
      return undefined;
    }
    return configuration;
  }
}

/** Every scenario of the workspace, for the list under "Run and Debug" (Dynamic). */
class DynamicProvider implements vscode.DebugConfigurationProvider {
  async provideDebugConfigurations(
    folder: vscode.WorkspaceFolder | undefined,
    token?: vscode.CancellationToken,
  ): Promise<vscode.DebugConfiguration[]> {
    const pattern = folder === undefined ? '**/*.mmu' : new vscode.RelativePattern(folder, '**/*.mmu');
    const files = await vscode.workspace.findFiles(pattern, '**/node_modules/**', 200, token);
    return files
      .sort((a, b) => a.path.localeCompare(b.path))
      .map((uri) => launchOf(uri, { name: `Debug ${vscode.workspace.asRelativePath(uri)}` }));
  }
}

/** Registers both providers. */
export function registerConfigurations(): vscode.Disposable {
  const { Initial, Dynamic } = vscode.DebugConfigurationProviderTriggerKind;
  return vscode.Disposable.from(
    vscode.debug.registerDebugConfigurationProvider(DEBUG_TYPE, new ConfigurationProvider(), Initial),
    vscode.debug.registerDebugConfigurationProvider(DEBUG_TYPE, new DynamicProvider(), Dynamic),
  );
}

/** Starts a scenario: the one of an editor title button, or the open one. */
export async function startScenario(uri: vscode.Uri | undefined, noDebug: boolean): Promise<void> {
  const target = uri ?? vscode.window.activeTextEditor?.document.uri;
  if (target === undefined) {
    void vscode.window.showErrorMessage('Open a .mmu scenario first.');
    return;
  }
  await vscode.debug.startDebugging(vscode.workspace.getWorkspaceFolder(target), launchOf(target), { noDebug });
}
