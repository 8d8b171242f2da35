/**
 * What both webview panels have in common: one panel each, a page with a strict content security policy, messages in both
 * directions, and a serializer, so that a panel is back after the window was reloaded.
 */
import { randomBytes } from 'node:crypto';
import * as vscode from 'vscode';
import { FROM_VIEW, TO_VIEW, type SessionMessage } from '../../webview/messages';
import type { Session, Sessions } from './sessions';
import { settingsFor } from './settings';

/** What every panel class is made with. */
export interface PanelContext {
  readonly extensionUri: vscode.Uri;
  readonly sessions: Sessions;
}

/** What a panel shows: its bundle, its custom element, its title. */
export interface PanelKind {
  readonly viewType: string;
  /** bundle in dist/webview, and `mmu-<name>` is its element */
  readonly name: string;
  readonly title: string;
  readonly icon: string;
}

/** The messages that all views send have these. */
interface FromAnyView {
  readonly type: string;
  readonly text?: string;
  readonly threadId?: number;
}

/** One kind of panel. Subclasses say what is sent at a stop and answer the messages of their own view. */
export abstract class ViewPanel<ToView extends { readonly type: string }, FromView extends { readonly type: string }>
  implements vscode.WebviewPanelSerializer, vscode.Disposable
{
  /** the open panels of all kinds */
  private static readonly open = new Set<vscode.WebviewPanel>();
  private panel: vscode.WebviewPanel | null = null;
  private ready = false;
  private waiting: ToView[] = [];
  private readonly disposables: vscode.Disposable[];

  constructor(
    protected readonly context: PanelContext,
    private readonly kind: PanelKind,
  ) {
    this.disposables = [
      vscode.window.registerWebviewPanelSerializer(kind.viewType, this),
      context.sessions.onDidChange(() => void this.follow()),
      vscode.workspace.onDidChangeConfiguration((e) => {
        if (e.affectsConfiguration('mmuscope')) this.sendSession();
      }),
    ];
  }

  /** Opens the panel, or brings it to the front; never takes the focus from where the user debugs unless asked. */
  open(options: { readonly preserveFocus?: boolean } = {}): void {
    const preserveFocus = options.preserveFocus ?? false;
    if (this.panel !== null) {
      this.panel.reveal(undefined, preserveFocus);
      return;
    }
    const { viewType, title } = this.kind;
    // The views share a column: one look at the code, one at the machine.
    const viewColumn =
      [...ViewPanel.open].find((panel) => panel.viewColumn !== undefined)?.viewColumn ?? vscode.ViewColumn.Beside;
    this.adopt(
      vscode.window.createWebviewPanel(viewType, title, { viewColumn, preserveFocus }, { enableFindWidget: true }),
    );
  }

  get isOpen(): boolean {
    return this.panel !== null;
  }

  /** Called by VS Code after a reload of the window; the view takes its own state from where VS Code kept it. */
  async deserializeWebviewPanel(panel: vscode.WebviewPanel): Promise<void> {
    if (this.panel === null) this.adopt(panel);
    else panel.dispose();
    return Promise.resolve();
  }

  /** Sends when the view listens. */
  protected send(message: ToView): void {
    if (this.panel !== null && this.ready) void this.panel.webview.postMessage(message);
    else this.waiting.push(message);
  }

  /** What the view needs at a stop, after it was told of the session. */
  protected abstract sendStop(session: Session): Promise<void>;

  /** A message of this view that not all views have. */
  protected abstract receive(message: FromView): Promise<void>;

  private adopt(panel: vscode.WebviewPanel): void {
    this.panel = panel;
    this.ready = false;
    ViewPanel.open.add(panel);
    const { extensionUri } = this.context;
    const root = vscode.Uri.joinPath(extensionUri, 'dist', 'webview');
    panel.iconPath = vscode.Uri.joinPath(extensionUri, 'media', this.kind.icon);
    panel.webview.options = { enableScripts: true, localResourceRoots: [root] };
    panel.webview.onDidReceiveMessage((message: FromAnyView) => void this.hear(message));
    panel.onDidDispose(() => {
      ViewPanel.open.delete(panel);
      this.panel = null;
      this.ready = false;
      this.waiting = [];
    });
    panel.webview.html = page(panel.webview, vscode.Uri.joinPath(root, `${this.kind.name}.js`), this.kind);
  }

  private async hear(message: FromAnyView): Promise<void> {
    switch (message.type) {
      case FROM_VIEW.ready: {
        this.ready = true;
        const waiting = this.waiting;
        this.waiting = [];
        await this.follow();
        for (const late of waiting) this.send(late);
        break;
      }
      case FROM_VIEW.selectThread: {
        const session = this.context.sessions.active;
        if (session !== null && message.threadId !== undefined) session.threadId = message.threadId;
        await this.follow();
        break;
      }
      case FROM_VIEW.copy:
        await vscode.env.clipboard.writeText(message.text ?? '');
        vscode.window.setStatusBarMessage(`Copied ${message.text ?? ''}`, 3000);
        break;
      default:
        await this.receive(message as unknown as FromView);
    }
  }

  /** Brings the view to where the session is. */
  private async follow(): Promise<void> {
    if (this.panel === null || !this.ready) return;
    this.sendSession();
    const session = this.context.sessions.stopped;
    if (session === null) return;
    const { stop } = session;
    try {
      await this.sendStop(session);
    } catch (error) {
      // An answer that comes after the session went on is of no use, and neither is its error.
      if (session.stop === stop && session.stopped) this.sendFailure(null, error);
    }
  }

  private sendSession(): void {
    if (this.panel === null || !this.ready) return;
    const { kernel, vendor } = settingsFor();
    const message: SessionMessage = {
      type: TO_VIEW.session,
      session: this.context.sessions.active?.info() ?? null,
      defaults: { kernel, vendor },
    };
    this.send(message as unknown as ToView);
  }

  protected sendFailure(request: number | null, error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    this.send({ type: TO_VIEW.failed, request, message } as unknown as ToView);
  }

  dispose(): void {
    for (const disposable of this.disposables) disposable.dispose();
    this.panel?.dispose();
  }
}

/** The page of a webview. Scripts run by nonce only; styles come from adopted style sheets, so none are allowed inline. */
function page(webview: vscode.Webview, script: vscode.Uri, kind: PanelKind): string {
  const nonce = randomBytes(16).toString('base64url');
  const policy = `default-src 'none'; script-src 'nonce-${nonce}'; style-src 'nonce-${nonce}'; img-src ${webview.cspSource}; font-src ${webview.cspSource}`;
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta http-equiv="Content-Security-Policy" content="${policy}" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>${kind.title}</title>
    <style nonce="${nonce}">
      html, body { height: 100%; margin: 0; padding: 0; overflow: hidden; }
    </style>
  </head>
  <body>
    <mmu-${kind.name}></mmu-${kind.name}>
    <script nonce="${nonce}" type="module" src="${webview.asWebviewUri(script).toString()}"></script>
  </body>
</html>`;
}
