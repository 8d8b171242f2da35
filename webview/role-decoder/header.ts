/** The bar at the top: what is shown, and the choice of vCPU, MMU, kernel and use. */
import { html, nothing, type TemplateResult } from 'lit';
import type { RolesBody } from '../../src/adapter/protocol';
import { KERNEL_ERAS } from '../../src/words/kernels';
import { MMU_USES, type MmuUse } from '../../src/words/role-origins';
import type { SessionInfo } from '../messages';
import { icon } from '../shared/icons';
import { renderThreads, valueOf } from '../shared/select';

/** What is chosen now, and what to call when something else is. */
export interface Choices {
  readonly session: SessionInfo | null;
  readonly body: RolesBody | null;
  readonly mmu: string;
  readonly kernel: string;
  readonly use: MmuUse;
  readonly edited: boolean;
  /** there is something to go back from */
  readonly changed: boolean;
  selectThread(threadId: number): void;
  selectMmu(mmu: string): void;
  selectKernel(kernel: string): void;
  selectUse(use: MmuUse): void;
  reset(): void;
}

export function renderHeader(choices: Choices): TemplateResult {
  const { session, body } = choices;
  const thread = session?.threads.find((t) => t.id === (body?.threadId ?? session.threadId));
  return html`<header>
    <div class="status" role="status">
      <span class="what"
        >${session === null ? 'No debug session' : session.title}${thread === undefined ? nothing : html` · ${thread.name}`}
        ${choices.edited && session !== null ? html`<span class="tag">edited</span>` : nothing}</span
      >
      <span class="why"
        >${
          session === null
            ? 'Type a role word, turn its bits over, or turn registers over.'
            : (session.reason ?? 'Runs; these are the words of its last stop.')
        }</span
      >
    </div>
    ${session === null ? nothing : renderThreads(session, body?.threadId ?? session.threadId, (id) => choices.selectThread(id))}
    ${
      body !== null && body.mmus.length > 1
        ? html`<span class="choice"
            ><span aria-hidden="true">MMU</span>
            <vscode-single-select
              label="MMU"
              .value=${choices.mmu}
              @change=${(e: Event) => choices.selectMmu(valueOf(e))}
            >
              ${body.mmus.map(
                (m) =>
                  html`<vscode-option value=${m.name} ?selected=${m.name === choices.mmu}
                    >${m.name}${m.active ? ' (in use)' : ''}</vscode-option
                  >`,
              )}
            </vscode-single-select></span
          >`
        : nothing
    }
    <span class="choice"
      ><span aria-hidden="true">Kernel</span>
      <vscode-single-select
        class="kernel"
        label="Kernel"
        combobox
        .value=${choices.kernel}
        @change=${(e: Event) => choices.selectKernel(valueOf(e))}
      >
        ${kernelsToOffer(choices.kernel, body?.kernel).map(
          ({ id, title }) =>
            html`<vscode-option value=${id} description=${title} ?selected=${id === choices.kernel}
              >${id}</vscode-option
            >`,
        )}
      </vscode-single-select></span
    >
    <span class="choice"
      ><span aria-hidden="true">Used for</span>
      <vscode-single-select
        class="use"
        label="Used for"
        .value=${choices.use}
        @change=${(e: Event) => choices.selectUse(valueOf(e) as MmuUse)}
      >
        ${Object.entries(MMU_USES).map(
          ([id, title]) =>
            html`<vscode-option value=${id} description=${title} ?selected=${id === choices.use}
              >${title.split(':')[0] === 'nested' ? id : title.split(':')[0]}</vscode-option
            >`,
        )}
      </vscode-single-select></span
    >
    <button class="tool" ?disabled=${!choices.changed} @click=${() => choices.reset()}>
      ${icon('reset')} ${session === null ? 'Start over' : 'Back to the session'}
    </button>
  </header>`;
}

/** The eras, with the kernel in use among them even when it is a release between two. */
function kernelsToOffer(...extra: (string | undefined)[]): readonly { id: string; title: string }[] {
  const eras = KERNEL_ERAS.map(({ id, title }) => ({ id, title }));
  const missing = [...new Set(extra)].filter((id): id is string => id !== undefined && !eras.some((e) => e.id === id));
  return [...missing.map((id) => ({ id, title: "the session's" })), ...eras];
}
