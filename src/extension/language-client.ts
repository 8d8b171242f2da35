/**
 * Editing help for .mmu files: starts the language server when the first scenario is opened, and not before. The server is our own
 * bundle on the Node that runs VS Code's extensions; it reads documents through the client, so that it works on any file system.
 */
import * as vscode from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';

const LANGUAGE = 'mmu';

export class ScenarioLanguage implements vscode.Disposable {
  private client: Promise<LanguageClient> | null = null;
  private readonly disposables: vscode.Disposable[] = [];

  constructor(private readonly extensionUri: vscode.Uri) {
    if (vscode.workspace.textDocuments.some((document) => this.isOurs(document))) this.start();
    else {
      this.disposables.push(
        vscode.workspace.onDidOpenTextDocument((document) => {
          if (this.isOurs(document)) this.start();
        }),
      );
    }
  }

  /** Resolves when the server answers; undefined when no scenario was ever open. */
  async whenReady(): Promise<void> {
    await this.client;
  }

  private isOurs(document: vscode.TextDocument): boolean {
    return document.languageId === LANGUAGE;
  }

  private start(): void {
    if (this.client !== null) return;
    this.client = this.run();
    this.client.catch((error: unknown) => {
      const reason = error instanceof Error ? error.message : String(error);
      void vscode.window.showErrorMessage(`Help for .mmu files is off: the language server did not start (${reason}).`);
    });
  }

  private async run(): Promise<LanguageClient> {
    const { LanguageClient, TransportKind } = await import(
      /* webpackChunkName: "language-client" */ 'vscode-languageclient/node'
    );
    const module = vscode.Uri.joinPath(this.extensionUri, 'dist', 'language-server.cjs').fsPath;
    const client = new LanguageClient(
      'mmuscope',
      'MMU Scope Language Server',
      { run: { module, transport: TransportKind.ipc }, debug: { module, transport: TransportKind.ipc } },
      { documentSelector: [{ language: LANGUAGE }], outputChannelName: 'MMU Scope Language Server' },
    );
    await client.start();
    return client;
  }

  dispose(): void {
    for (const disposable of this.disposables) disposable.dispose();
    void this.client?.then(
      (client) => client.stop(),
      () => undefined,
    );
  }
}
