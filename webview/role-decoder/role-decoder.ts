/**
 * The Role Decoder: cpu_role and root_role (or the words an older kernel has) bit by bit, side by side. Follows the session's stops;
 * without one it works on typed words and on registers that the user turns over.
 */
import { LitElement, html, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, state } from 'lit/decorators.js';
import { classMap } from 'lit/directives/class-map.js';
import { live } from 'lit/directives/live.js';
import type { RolesBody } from '../../src/adapter/protocol';
import type { Inputs } from '../../src/words/formula';
import { parseKernel } from '../../src/words/kernels';
import { deriveWord, mmuUseOf, type MmuUse } from '../../src/words/role-origins';
import {
  FROM_VIEW,
  TO_VIEW,
  type FromRolesView,
  type SessionInfo,
  type ShowWordMessage,
  type ToRolesView,
} from '../messages';
import { connect } from '../shared/host';
import { icon } from '../shared/icons';
import { settleTabStop } from '../shared/roving';
import { valueOf } from '../shared/select';
import { shared } from '../shared/styles';
import { renderFields } from './fields';
import { renderHeader, type Choices } from './header';
import { TYPICAL } from './inputs';
import type { Column } from './model';
import { carryWords, columnsOf, parseWord, rowsOf, strayBits, summaryOf, wordText } from './model';
import { renderInputs } from './registers';
import { renderRuler } from './ruler';
import { styles } from './styles';
import type { Show, View, Words } from './view';

/** What survives a reload: bigints as hex. */
interface Saved {
  readonly session: SessionInfo | null;
  readonly body: RolesBody | null;
  readonly mmu: string;
  readonly ownMmu: boolean;
  readonly kernel: string;
  readonly ownKernel: boolean;
  readonly use: MmuUse;
  readonly words: Readonly<Record<string, string>>;
  readonly previous: Readonly<Record<string, string>>;
  readonly inputs: Readonly<Record<string, number | undefined>>;
  readonly edited: boolean;
  readonly show: Show;
}

const host = connect<ToRolesView, FromRolesView, Saved>(3);

@customElement('mmu-role-decoder')
export class RoleDecoder extends LitElement {
  static override styles = [shared, styles];

  @state() private session: SessionInfo | null = null;
  @state() private body: RolesBody | null = null;
  /** root_mmu, guest_mmu or nested_mmu */
  @state() private mmu = 'root_mmu';
  /** the user chose the MMU; else it is the one in use */
  @state() private ownMmu = false;
  @state() private kernel = 'v6.1';
  /** the user chose another kernel than the session's */
  @state() private ownKernel = false;
  @state() private use: MmuUse = 'tdp';
  @state() private words: Words = {};
  /** the words at the stop before, to mark what changed */
  @state() private previous: Words = {};
  @state() private inputs: Inputs = TYPICAL;
  /** words or registers are no longer what the session said */
  @state() private edited = false;
  @state() private show: Show = 'all';
  @state() private problem: string | null = null;
  /** per word: what is in the field while it is no word */
  @state() private typed: Record<string, { text: string; problem: string } | undefined> = {};
  /** the field under the pointer or the focus */
  @state() private at: { half: string; name: string } | null = null;
  private started = false;
  /** number of the stop that is shown */
  private stop = -1;

  override connectedCallback(): void {
    super.connectedCallback();
    const saved = host.restore();
    if (saved !== undefined) this.restore(saved);
    host.listen((message) => this.receive(message));
    host.send({ type: FROM_VIEW.ready });
  }

  // ---- what comes in --------------------------------------------------------------------------------------------

  private receive(message: ToRolesView): void {
    this.problem = null;
    switch (message.type) {
      case TO_VIEW.session:
        this.follow(message.session, message.defaults.kernel);
        break;
      case TO_VIEW.roles:
        this.takeRoles(message.body, message.stop);
        break;
      case TO_VIEW.showWord:
        this.showWord(message);
        break;
      case TO_VIEW.failed:
        this.problem = message.message;
        break;
    }
  }

  private follow(session: SessionInfo | null, defaultKernel: string): void {
    const other = session !== null && session.id !== this.session?.id;
    if (session !== null) this.session = session;
    else if (this.session !== null)
      this.session = { ...this.session, stopped: false, reason: 'The session has ended; these are its last words.' };
    if (other) {
      this.body = null;
      this.previous = {};
      this.ownKernel = false;
      this.ownMmu = false;
    }
    if (this.session === null && !this.started) {
      this.setKernel(defaultKernel);
      this.deriveAll(TYPICAL);
      this.edited = false;
    }
    this.started = true;
  }

  private takeRoles(body: RolesBody, stop: number): void {
    // The same stop may be told again (another thread, a changed register): what changed is counted from the stop before.
    const again = stop === this.stop && body.threadId === this.body?.threadId;
    const comparable = this.body !== null && !this.edited && body.threadId === this.body.threadId;
    const previous = again ? this.previous : comparable ? this.words : {};
    this.stop = stop;
    this.body = body;
    this.typed = {};
    if (!this.ownKernel) this.kernel = known(body.kernel);
    if (!this.ownMmu || !body.mmus.some((m) => m.name === this.mmu)) {
      this.mmu = (body.mmus.find((m) => m.active) ?? body.mmus[0])?.name ?? 'root_mmu';
    }
    this.takeMmu();
    this.previous = previous;
  }

  /** Words and registers of the chosen MMU, as the session said them. */
  private takeMmu(): void {
    const { body } = this;
    if (body === null) return;
    const mmu = body.mmus.find((m) => m.name === this.mmu);
    this.use = mmuUseOf(this.mmu, this.session?.paging, this.session?.vendor);
    this.inputs = mmu?.inputs ?? {};
    const said: Words = Object.fromEntries((mmu?.words ?? []).map(({ name, word }) => [name, BigInt(word.value)]));
    this.words = carryWords(said, this.columns());
    this.previous = {};
    this.edited = false;
  }

  private showWord({ word, value, kernel }: ShowWordMessage): void {
    if (kernel !== undefined) this.setKernel(kernel);
    const number = BigInt(value);
    const columns = this.columns();
    const fits = (c: Column): boolean => number >> BigInt(c.bits) === 0n;
    const column =
      columns.find((c) => c.name === word && fits(c)) ??
      columns.find((c) => c.bits === 32 && fits(c)) ??
      columns.find(fits);
    if (column === undefined) this.problem = `${value} has more bits than any role word of ${this.kernel}.`;
    else this.edit(column, number);
  }

  // ---- what the user does ---------------------------------------------------------------------------------------

  private columns(): readonly Column[] {
    return columnsOf(this.kernel, this.use);
  }

  private setKernel(kernel: string): void {
    const words = this.words;
    this.kernel = known(kernel);
    this.ownKernel = this.session !== null && this.body !== null && this.kernel !== known(this.body.kernel);
    this.words = carryWords(words, this.columns());
    this.previous = {};
    this.typed = {};
  }

  private edit(column: Column, word: bigint): void {
    this.words = { ...this.words, [column.name]: word };
    this.typed = { ...this.typed, [column.name]: undefined };
    this.edited = true;
  }

  private typeWord(column: Column, text: string): void {
    try {
      this.edit(column, parseWord(column, text));
    } catch (error) {
      this.typed = {
        ...this.typed,
        [column.name]: { text, problem: String(error instanceof Error ? error.message : error) },
      };
    }
  }

  /** Turns a register over: the words follow as far as their formulas can be computed. */
  private setInput(name: string, value: number): void {
    this.deriveAll({ ...this.inputs, [name]: value });
  }

  private deriveAll(inputs: Inputs): void {
    this.inputs = inputs;
    const words: Record<string, bigint | undefined> = { ...this.words };
    for (const column of this.columns()) words[column.name] = deriveWord(column, inputs, words[column.name]);
    this.words = words;
    this.typed = {};
    this.edited = true;
  }

  private reset(): void {
    this.typed = {};
    if (this.body === null) {
      this.deriveAll(TYPICAL);
      this.edited = false;
      return;
    }
    this.ownKernel = false;
    this.ownMmu = false;
    this.mmu = this.body.mmus.find((m) => m.active)?.name ?? this.mmu;
    this.kernel = known(this.body.kernel);
    this.takeMmu();
  }

  // ---- over a reload --------------------------------------------------------------------------------------------

  private restore(saved: Saved): void {
    const words = (from: Readonly<Record<string, string>>): Words =>
      Object.fromEntries(Object.entries(from).map(([name, word]) => [name, BigInt(word)]));
    this.session = saved.session;
    this.body = saved.body;
    this.mmu = saved.mmu;
    this.ownMmu = saved.ownMmu;
    this.kernel = saved.kernel;
    this.ownKernel = saved.ownKernel;
    this.use = saved.use;
    this.words = words(saved.words);
    this.previous = words(saved.previous);
    this.inputs = saved.inputs;
    this.edited = saved.edited;
    this.show = saved.show;
    this.started = true;
  }

  protected override updated(changed: PropertyValues): void {
    super.updated(changed);
    for (const grid of this.renderRoot.querySelectorAll('[data-roving]')) settleTabStop(grid);
    if (!this.started) return;
    const words = (from: Words): Record<string, string> =>
      Object.fromEntries(
        Object.entries(from).flatMap(([name, word]) => (word === undefined ? [] : [[name, `0x${word.toString(16)}`]])),
      );
    const { session, body, mmu, ownMmu, kernel, ownKernel, use, inputs, edited, show } = this;
    host.save({
      session,
      body,
      mmu,
      ownMmu,
      kernel,
      ownKernel,
      use,
      inputs,
      edited,
      show,
      words: words(this.words),
      previous: words(this.previous),
    });
  }

  // ---- what is seen ---------------------------------------------------------------------------------------------

  protected override render(): TemplateResult {
    const view = this.view();
    return html`
      ${renderHeader(this.choices())}
      ${this.problem === null ? nothing : html`<div class="message" role="alert">${icon('reserved')} ${this.problem}</div>`}
      <main>
        <section class="words" aria-label="Role words">
          ${view.columns.map((column) => this.renderWord(column))}
        </section>
        ${renderRuler(view)} ${renderInputs(view)} ${renderFields(view)}
      </main>
    `;
  }

  private view(): View {
    const columns = this.columns();
    return {
      columns,
      rows: rowsOf(columns, this.words, this.inputs),
      words: this.words,
      inputs: this.inputs,
      show: this.show,
      at: this.at,
      whatIf: this.session === null || this.edited,
      changedBits: (column) => this.changedBits(column),
      look: (half, name) => (this.at = { half, name }),
      leave: () => (this.at = null),
      edit: (column, word) => this.edit(column, word),
      setShow: (show) => (this.show = show),
      setInput: (name, value) => this.setInput(name, value),
    };
  }

  private choices(): Choices {
    const { session, body, mmu, kernel, use, edited, ownKernel } = this;
    return {
      session,
      body,
      mmu,
      kernel,
      use,
      edited,
      changed: edited || ownKernel,
      selectThread: (threadId) => host.send({ type: FROM_VIEW.selectThread, threadId }),
      selectMmu: (name) => {
        this.mmu = name;
        this.ownMmu = true;
        this.takeMmu();
      },
      selectKernel: (id) => this.setKernel(id),
      selectUse: (to) => (this.use = to),
      reset: () => this.reset(),
    };
  }

  private renderWord(column: Column): TemplateResult {
    const word = this.words[column.name];
    const typed = this.typed[column.name];
    const stray = word === undefined ? 0n : strayBits(column, word);
    const changed = this.changedBits(column);
    return html`<div class="word">
      <label for=${column.name} title=${column.meaning}>${column.name}</label>
      <vscode-textfield
        id=${column.name}
        class=${classMap({ wide: column.bits === 64, changed: changed !== 0n })}
        label="${column.name}, ${column.bits} bits, hexadecimal"
        placeholder="unknown"
        ?invalid=${typed !== undefined}
        .value=${live(typed?.text ?? (word === undefined ? '' : wordText(column, word)))}
        @change=${(e: Event) => this.typeWord(column, valueOf(e))}
        @keydown=${(e: KeyboardEvent) => {
          if (e.key === 'Enter') this.typeWord(column, valueOf(e));
        }}
      ></vscode-textfield>
      <button
        class="tool"
        title="Copy ${column.name}"
        aria-label="Copy ${column.name}"
        ?disabled=${word === undefined}
        @click=${() => word !== undefined && host.send({ type: FROM_VIEW.copy, text: wordText(column, word) })}
      >
        ${icon('copy')}
      </button>
      ${
        typed === undefined
          ? html`<span class="summary mono">${word === undefined ? 'unknown' : summaryOf(column, word)}</span>`
          : html`<span class="summary wrong" role="alert">${typed.problem}</span>`
      }
      ${
        stray === 0n
          ? nothing
          : html`<span class="summary wrong"
              >${icon('reserved')} bits 0x${stray.toString(16)} belong to no field of this kernel</span
            >`
      }
    </div>`;
  }

  private changedBits(column: Column): bigint {
    const now = this.words[column.name];
    const before = this.previous[column.name];
    return now === undefined || before === undefined ? 0n : now ^ before;
  }
}

/** The kernel under its canonical name, or the default where the name is not known to the tables. */
function known(kernel: string): string {
  try {
    return parseKernel(kernel).name;
  } catch {
    return 'v6.1';
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'mmu-role-decoder': RoleDecoder;
  }
}
