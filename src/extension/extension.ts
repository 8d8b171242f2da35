import * as vscode from 'vscode';

/** Called by VS Code when one of the activation events of package.json happens. */
export function activate(context: vscode.ExtensionContext): void {
  context.subscriptions.push(vscode.commands.registerCommand('mmuscope.about', () => 'MMU Scope'));
}
