/** Selects and text fields of @vscode-elements, as the views use them. */
import { html, nothing, type TemplateResult } from 'lit';
import type { SessionInfo } from '../messages';

/** What a select or a text field holds, from its event. */
export function valueOf(event: Event): string {
  return (event.target as HTMLElement & { value: string }).value;
}

/** The choice of vCPU; nothing where there is only one. */
export function renderThreads(
  session: Pick<SessionInfo, 'threads'>,
  threadId: number,
  select: (threadId: number) => void,
): TemplateResult | typeof nothing {
  if (session.threads.length <= 1) return nothing;
  return html`<span class="choice"
    ><span aria-hidden="true">vCPU</span>
    <vscode-single-select label="vCPU" .value=${String(threadId)} @change=${(e: Event) => select(Number(valueOf(e)))}>
      ${session.threads.map((t) => html`<vscode-option value=${t.id} ?selected=${t.id === threadId}>${t.name}</vscode-option>`)}
    </vscode-single-select></span
  >`;
}
