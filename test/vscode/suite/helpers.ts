/** What the tests of this folder share: scenarios of the workspace, sessions, and waiting for what happens in its own time. */
import * as vscode from 'vscode';
import type { MmuScopeCommand, MmuScopeRequests, StateBody } from '../../../src/adapter/protocol';

/** Waits until `probe` gives something. @throws naming what it waited for */
export async function until<T>(
  what: string,
  probe: () => T | undefined | Promise<T | undefined>,
  timeout = 15_000,
): Promise<T> {
  const end = Date.now() + timeout;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > end) throw new Error(`${what}: not within ${timeout / 1000} s`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** Activates the extension and returns it. */
export async function activated(): Promise<vscode.Extension<unknown>> {
  const extension = vscode.extensions.getExtension('mmuscope.mmuscope');
  if (extension === undefined) throw new Error('VS Code does not know mmuscope.mmuscope');
  await extension.activate();
  return extension;
}

/** Opens a file of the workspace and puts the focus into its editor. */
export async function openExample(name: string): Promise<vscode.TextEditor> {
  const [folder] = vscode.workspace.workspaceFolders ?? [];
  if (folder === undefined) throw new Error('The tests want the folder examples as their workspace.');
  const document = await vscode.workspace.openTextDocument(vscode.Uri.joinPath(folder.uri, name));
  const editor = await vscode.window.showTextDocument(document, vscode.ViewColumn.One);
  await vscode.commands.executeCommand('workbench.action.focusActiveEditorGroup');
  return editor;
}

/** 0-based number of the first line that has the text. */
export function lineOf(document: vscode.TextDocument, text: string): number {
  for (let line = 0; line < document.lineCount; line++) {
    if (document.lineAt(line).text.includes(text)) return line;
  }
  throw new Error(`${document.uri.path} has no line with ${text}`);
}

/** Every `stopped` event of the sessions that start after this was made, told apart from the answers that VS Code asks for. */
export class Stops implements vscode.Disposable {
  count = 0;
  /** the one that stopped last */
  session: vscode.DebugSession | undefined;
  private readonly registration: vscode.Disposable;

  constructor() {
    this.registration = vscode.debug.registerDebugAdapterTrackerFactory('mmuscope', {
      createDebugAdapterTracker: (session) => ({
        onDidSendMessage: (message: { type?: string; event?: string }) => {
          if (message.type !== 'event' || message.event !== 'stopped') return;
          this.session = session;
          this.count++;
        },
      }),
    });
  }

  /** Does something that makes the session stop, waits for that stop, and says where the session is then. */
  async after(action: () => unknown, timeout = 20_000): Promise<StateBody> {
    const before = this.count;
    await action();
    await until('a stopped event', () => (this.count > before ? true : undefined), timeout);
    return (await this.session?.customRequest('mmuscope/state', {})) as StateBody;
  }

  dispose(): void {
    this.registration.dispose();
  }
}

/** A custom request to the active session. */
export async function request<C extends MmuScopeCommand>(
  command: C,
  args: MmuScopeRequests[C]['arguments'],
): Promise<MmuScopeRequests[C]['body']> {
  const session = vscode.debug.activeDebugSession;
  if (session === undefined) throw new Error(`There is no debug session to ask ${command}.`);
  return (await session.customRequest(command, args)) as MmuScopeRequests[C]['body'];
}

/** Ends all debug sessions. */
export async function endSessions(): Promise<void> {
  await vscode.debug.stopDebugging();
  await until('the end of the session', () => vscode.debug.activeDebugSession === undefined || undefined);
}

/** The text of all hovers at a place. */
export async function hoverAt(document: vscode.TextDocument, position: vscode.Position): Promise<string> {
  const hovers = await vscode.commands.executeCommand<vscode.Hover[]>(
    'vscode.executeHoverProvider',
    document.uri,
    position,
  );
  return hovers.flatMap((h) => h.contents.map((c) => (c as vscode.MarkdownString).value)).join('\n');
}

/** A file system of one read-only file, whatever its path: what a virtual workspace is to the extension. */
export class OneFile implements vscode.FileSystemProvider {
  readonly onDidChangeFile = new vscode.EventEmitter<vscode.FileChangeEvent[]>().event;
  private readonly bytes: Uint8Array;

  constructor(text: string) {
    this.bytes = new TextEncoder().encode(text);
  }
  watch = (): vscode.Disposable => new vscode.Disposable(() => undefined);
  stat = (uri: vscode.Uri): vscode.FileStat => ({
    type: uri.path.endsWith('.mmu') ? vscode.FileType.File : vscode.FileType.Directory,
    ctime: 0,
    mtime: 0,
    size: this.bytes.length,
  });
  readFile = (): Uint8Array => this.bytes;
  readDirectory = (): [string, vscode.FileType][] => [];
  private readonly refuse = (): never => {
    throw vscode.FileSystemError.NoPermissions('read-only');
  };
  createDirectory = this.refuse;
  writeFile = this.refuse;
  delete = this.refuse;
  rename = this.refuse;
}
