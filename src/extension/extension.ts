/**
 * Entry of the extension. Registers what there is; the debug adapter, the word tables and the language client are loaded when they
 * are needed first.
 */
import * as vscode from 'vscode';
import { registerCommands } from './commands';
import { registerDebugAdapter } from './debug-adapter';
import { registerConfigurations } from './debug-configurations';
import { registerHovers } from './hover';
import { ScenarioLanguage } from './language-client';
import { RoleDecoderPanel } from './role-decoder-panel';
import { DEBUG_TYPE, Sessions } from './sessions';
import { Status } from './status';
import { TablesPanel } from './tables-panel';

/** Called by VS Code when one of the activation events of package.json happens. */
export function activate(context: vscode.ExtensionContext): void {
  const { extensionUri, subscriptions } = context;
  const sessions = new Sessions();
  const roles = new RoleDecoderPanel({ extensionUri, sessions });
  const tables = new TablesPanel({ extensionUri, sessions });
  subscriptions.push(
    sessions,
    roles,
    tables,
    new Status(sessions),
    registerDebugAdapter(),
    registerConfigurations(),
    registerHovers(sessions),
    registerCommands({ extensionUri, sessions, roles, tables }),
    new ScenarioLanguage(extensionUri),
    // The first step of the walkthrough is done when something was debugged.
    vscode.debug.onDidStartDebugSession(({ type }) => {
      if (type === DEBUG_TYPE) void vscode.commands.executeCommand('setContext', 'mmuscope.hasDebugged', true);
    }),
  );
}
