/** One entry in the status bar while a session is stopped: where the vCPU is, at a glance. */
import * as vscode from 'vscode';
import type { Session, Sessions } from './sessions';

export class Status implements vscode.Disposable {
  private readonly item = vscode.window.createStatusBarItem('mmuscope.status', vscode.StatusBarAlignment.Left, 0);
  private readonly listener: vscode.Disposable;

  constructor(sessions: Sessions) {
    this.item.name = 'MMU Scope';
    this.item.command = 'mmuscope.openRoleDecoder';
    this.listener = sessions.onDidChange((session) => this.show(session));
  }

  private show(session: Session | null): void {
    const state = session?.state;
    if (session === null || !state || !session.stopped) return this.item.hide();
    const vcpu = state.vcpus.find((v) => v.threadId === session.threadId);
    this.item.text = `$(server) ${state.kernel} ${state.paging.toUpperCase()}${vcpu === undefined ? '' : ` · ${vcpu.name}`}`;
    const tooltip = new vscode.MarkdownString(
      [
        `**${session.info()?.title ?? ''}** ${state.stop?.description ?? ''}`,
        `Kernel ${state.kernel}, ${state.vendor}, ${state.paging}${vcpu === undefined ? '' : `; ${vcpu.mode}`}`,
        ...state.lacks.map((l) => `- ${l}`),
        'Click for the Role Decoder.',
      ].join('\n\n'),
    );
    this.item.tooltip = tooltip;
    this.item.show();
  }

  dispose(): void {
    this.listener.dispose();
    this.item.dispose();
  }
}
