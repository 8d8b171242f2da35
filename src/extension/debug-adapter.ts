/** The debug adapter, inside the extension: no process is started, and any file system of VS Code will do. */
import * as vscode from 'vscode';
import { DEBUG_TYPE } from './sessions';

/** Reads scenarios as VS Code sees them: an open document with its unsaved changes, a file, or a URI of any file system. */
async function read(path: string): Promise<string> {
  const uri = uriOf(path);
  const open = vscode.workspace.textDocuments.find((d) => d.uri.toString() === uri.toString());
  if (open !== undefined) return open.getText();
  return new TextDecoder().decode(await vscode.workspace.fs.readFile(uri));
}

/** `C:\x.mmu` is a path, `untitled:Untitled-1` and `vscode-vfs://github/x.mmu` are URIs. */
export function uriOf(path: string): vscode.Uri {
  return /^[a-z][a-z0-9+.-]+:/i.test(path) ? vscode.Uri.parse(path) : vscode.Uri.file(path);
}

class InlineAdapterFactory implements vscode.DebugAdapterDescriptorFactory {
  async createDebugAdapterDescriptor(): Promise<vscode.DebugAdapterDescriptor> {
    // The adapter brings the whole simulator along; nobody waits for it before the first F5.
    const { MmuScopeSession } = await import(/* webpackChunkName: "debug-adapter" */ '../adapter/session');
    return new vscode.DebugAdapterInlineImplementation(new MmuScopeSession({ read }));
  }
}

export function registerDebugAdapter(): vscode.Disposable {
  return vscode.debug.registerDebugAdapterDescriptorFactory(DEBUG_TYPE, new InlineAdapterFactory());
}
