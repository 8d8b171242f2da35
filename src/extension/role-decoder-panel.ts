/** The extension's end of the Role Decoder. */
import * as vscode from 'vscode';
import {
  FROM_VIEW,
  TO_VIEW,
  VIEW_TYPES,
  type FromRolesView,
  type ShowWordMessage,
  type ToRolesView,
} from '../../webview/messages';
import type { PanelContext } from './panels';
import { ViewPanel } from './panels';
import type { Session } from './sessions';

export class RoleDecoderPanel extends ViewPanel<ToRolesView, FromRolesView> {
  constructor(context: PanelContext) {
    super(context, {
      viewType: VIEW_TYPES.roles,
      name: 'role-decoder',
      title: 'Role Decoder',
      icon: 'role-decoder.svg',
    });
  }

  /** Opens the decoder on a word. @param word `root_role`, `cpu_role` …; undefined: the first word that it fits */
  show(word: Omit<ShowWordMessage, 'type'>): void {
    this.open();
    this.send({ type: TO_VIEW.showWord, ...word });
  }

  protected override async sendStop(session: Session): Promise<void> {
    const { stop, threadId } = session;
    const body = await session.request('mmuscope/roles', { threadId });
    if (session.stop === stop) this.send({ type: TO_VIEW.roles, stop, body });
  }

  protected override async receive(message: FromRolesView): Promise<void> {
    if (message.type === FROM_VIEW.decode) {
      await vscode.commands.executeCommand('mmuscope.decodeValue', { value: message.value, as: message.as });
    }
  }
}
