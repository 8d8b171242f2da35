/** VS Code's hex view on memory of a debug session. */
import * as vscode from 'vscode';
import type { Session } from './sessions';

const HEX_EDITOR = 'ms-vscode.hexeditor';

/**
 * Opens the hex view at a memory reference of the protocol (`hpa:0x8642000`). The view is an extension of VS Code's own makers that
 * not everyone has; VS Code offers it the same way from its Variables view.
 */
export async function openMemory(session: Session | null, memoryReference: string): Promise<void> {
  if (session === null) {
    void vscode.window.showInformationMessage('Memory can be read while a debug session is stopped.');
    return;
  }
  if (vscode.extensions.getExtension(HEX_EDITOR) === undefined) {
    const install = 'Show the Hex Editor';
    const answer = await vscode.window.showInformationMessage(
      'Memory is shown by the extension "Hex Editor", which is not installed.',
      install,
    );
    if (answer === install) await vscode.commands.executeCommand('workbench.extensions.search', `@id:${HEX_EDITOR}`);
    return;
  }
  const uri = vscode.Uri.from({
    scheme: 'vscode-debug-memory',
    authority: session.debug.id,
    path: `/${encodeURIComponent(memoryReference)}/memory.bin`,
  });
  await vscode.commands.executeCommand('vscode.openWith', uri, 'hexEditor.hexedit');
}
