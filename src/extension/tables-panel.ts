/** The extension's end of the Tables view. */
import * as vscode from 'vscode';
import {
  FROM_VIEW,
  TO_VIEW,
  VIEW_TYPES,
  type FromTablesView,
  type GoToMessage,
  type TableRequestMessage,
  type ToTablesView,
} from '../../webview/messages';
import { openMemory } from './memory';
import type { PanelContext } from './panels';
import { ViewPanel } from './panels';
import type { Session } from './sessions';

export class TablesPanel extends ViewPanel<ToTablesView, FromTablesView> {
  constructor(context: PanelContext) {
    super(context, { viewType: VIEW_TYPES.tables, name: 'tables', title: 'Page Tables', icon: 'tables.svg' });
  }

  /** Opens the view where an address is translated. */
  goTo(where: Omit<GoToMessage, 'type'>): void {
    this.open();
    this.send({ type: TO_VIEW.goTo, ...where });
  }

  protected override async sendStop(session: Session): Promise<void> {
    const { stop, threadId } = session;
    const asks = session.state?.stop?.hasWhy === true && session.state.stop.threadId === threadId;
    const [why, roots] = await Promise.all([
      asks ? session.request('mmuscope/why', { threadId }) : { why: null },
      session.request('mmuscope/roots', { threadId }),
    ]);
    if (session.stop !== stop) return;
    this.send({ type: TO_VIEW.why, stop, why: why.why });
    this.send({ type: TO_VIEW.roots, stop, body: roots });
  }

  protected override async receive(message: FromTablesView): Promise<void> {
    switch (message.type) {
      case FROM_VIEW.table:
        return this.sendTable(message);
      case FROM_VIEW.decode:
        await vscode.commands.executeCommand('mmuscope.decodeValue', { value: message.value, as: message.as });
        return;
      case FROM_VIEW.openMemory:
        return openMemory(this.context.sessions.stopped, message.memoryReference);
      default:
        return;
    }
  }

  private async sendTable({ request, threadId, root, path, address, level }: TableRequestMessage): Promise<void> {
    const session = this.context.sessions.stopped;
    if (session === null) {
      this.sendFailure(request, new Error('Tables can be read while a debug session is stopped.'));
      return;
    }
    const { stop } = session;
    try {
      const body = await session.request('mmuscope/table', {
        threadId,
        ...(root === undefined ? {} : { root }),
        ...(path === undefined ? {} : { path: [...path] }),
        ...(address === undefined ? {} : { address }),
        ...(level === undefined ? {} : { level }),
      });
      if (session.stop === stop) this.send({ type: TO_VIEW.table, stop, request, body });
    } catch (error) {
      this.sendFailure(request, error);
    }
  }
}
