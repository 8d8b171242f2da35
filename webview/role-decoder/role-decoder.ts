/**
 * The Role Decoder: cpu_role and root_role (or the words an older kernel has) bit by bit, side by side. Follows the session's stops;
 * without one it works on typed words and on registers that the user turns over.
 */
import { LitElement, html, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, state } from 'lit/decorators.js';
import { classMap } from 'lit/directives/class-map.js';
import { live } from 'lit/directives/live.js';
import type { RolesBody } from '../../src/adapter/protocol';
import { KERNEL_ERAS, parseKernel } from '../../src/words/kernels';
import { bitSpan } from '../../src/words/word';
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
import { moveFocus, settleTabStop } from '../shared/roving';
import { shared } from '../shared/styles';
import type { Inputs } from '../../src/words/formula';
import { formulaText, piecesOf } from './formula-view';
import { TYPICAL, inputsFor, inputsOf } from './inputs';
import type { Cell, Column, Row } from './model';
import { carryWords, columnsOf, parseWord, rowsOf, strayBits, summaryOf, toggleBit, wordText } from './model';
import { INPUTS, MMU_USES, deriveWord, isConstant, mmuUseOf, type MmuUse } from '../../src/words/role-origins';
import { styles } from './styles';

type Words = Record<string, bigint | undefined>;

/** What survives a reload: bigints as hex. */
interface Saved {
  readonly session: SessionInfo | null;
  readonly body: RolesBody | null;
  readonly mmu: string;
  readonly kernel: string;
  readonly ownKernel: boolean;
  readonly use: MmuUse;
  readonly words: Readonly<Record<string, string>>;
  readonly previous: Readonly<Record<string, string>>;
  readonly inputs: Readonly<Record<string, number | undefined>>;
  readonly edited: boolean;
  readonly show: Show;
}

type Show = 'all' | 'set' | 'different';
const SHOWS: Readonly<Record<Show, string>> = { all: 'All fields', set: 'Set', different: 'Different' };

const host = connect<ToRolesView, FromRolesView, Saved>(1);

@customElement('mmu-role-decoder')
export class RoleDecoder extends LitElement {
  static override styles = [shared, styles];

  @state() private session: SessionInfo | null = null;
  @state() private body: RolesBody | null = null;
  /** root_mmu, guest_mmu or nested_mmu */
  @state() private mmu = 'root_mmu';
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
    if (!body.mmus.some((m) => m.name === this.mmu)) {
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
    const now = inputsOf(
      body.registers,
      this.session?.threads.find((t) => t.id === body.threadId),
    );
    this.inputs = mmu === undefined ? {} : inputsFor(mmu, now);
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
    const words: Words = { ...this.words };
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
    this.kernel = known(this.body.kernel);
    this.takeMmu();
  }

  private look(half: string, name: string): void {
    this.at = { half, name };
  }

  // ---- over a reload --------------------------------------------------------------------------------------------

  private restore(saved: Saved): void {
    const words = (from: Readonly<Record<string, string>>): Words =>
      Object.fromEntries(Object.entries(from).map(([name, word]) => [name, BigInt(word)]));
    this.session = saved.session;
    this.body = saved.body;
    this.mmu = saved.mmu;
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
    const { session, body, mmu, kernel, ownKernel, use, inputs, edited, show } = this;
    host.save({
      session,
      body,
      mmu,
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
    const columns = this.columns();
    const rows = rowsOf(columns, this.words, this.inputs);
    return html`
      ${this.renderHeader()}
      ${this.problem === null ? nothing : html`<div class="message" role="alert">${icon('reserved')} ${this.problem}</div>`}
      <main>
        <section class="words" aria-label="Role words">${columns.map((column) => this.renderWord(column))}</section>
        ${this.renderRuler(columns, rows)} ${this.renderInputs(columns)} ${this.renderTable(columns, rows)}
      </main>
    `;
  }

  private renderHeader(): TemplateResult {
    const { session, body } = this;
    const thread = session?.threads.find((t) => t.id === (body?.threadId ?? session.threadId));
    return html`<header>
      <div class="status" role="status">
        <span class="what"
          >${session === null ? 'No debug session' : session.title}${thread === undefined ? nothing : html` · ${thread.name}`}
          ${this.edited && session !== null ? html`<span class="tag">edited</span>` : nothing}</span
        >
        <span class="why"
          >${
            session === null
              ? 'Type a role word, turn its bits over, or turn registers over.'
              : (session.reason ?? 'Runs; these are the words of its last stop.')
          }</span
        >
      </div>
      ${
        session !== null && session.threads.length > 1
          ? html`<span class="choice"
              ><span aria-hidden="true">vCPU</span>
              <vscode-single-select
                label="vCPU"
                .value=${String(body?.threadId ?? session.threadId)}
                @change=${(e: Event) => host.send({ type: FROM_VIEW.selectThread, threadId: Number(valueOf(e)) })}
              >
                ${session.threads.map((t) => html`<vscode-option value=${t.id} ?selected=${t.id === thread?.id}>${t.name}</vscode-option>`)}
              </vscode-single-select></span
            >`
          : nothing
      }
      ${
        body !== null && body.mmus.length > 1
          ? html`<span class="choice"
              ><span aria-hidden="true">MMU</span>
              <vscode-single-select
                label="MMU"
                .value=${this.mmu}
                @change=${(e: Event) => {
                  this.mmu = valueOf(e);
                  this.takeMmu();
                }}
              >
                ${body.mmus.map(
                  (m) =>
                    html`<vscode-option value=${m.name} ?selected=${m.name === this.mmu}
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
          .value=${this.kernel}
          @change=${(e: Event) => this.setKernel(valueOf(e))}
        >
          ${kernelsToOffer(this.kernel, body?.kernel).map(
            ({ id, title }) =>
              html`<vscode-option value=${id} description=${title} ?selected=${id === this.kernel}
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
          .value=${this.use}
          @change=${(e: Event) => (this.use = valueOf(e) as MmuUse)}
        >
          ${Object.entries(MMU_USES).map(
            ([id, title]) =>
              html`<vscode-option value=${id} description=${title} ?selected=${id === this.use}
                >${title.split(':')[0] === 'nested' ? id : title.split(':')[0]}</vscode-option
              >`,
          )}
        </vscode-single-select></span
      >
      <button class="tool" ?disabled=${!this.edited && !this.ownKernel} @click=${() => this.reset()}>
        ${icon('reset')} ${session === null ? 'Start over' : 'Back to the session'}
      </button>
    </header>`;
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

  /** The words as rows of 32 squares above each other, base first; hex digits under their four bits. */
  private renderRuler(columns: readonly Column[], rows: readonly Row[]): TemplateResult {
    const lines: { column: Column; half: 'base' | 'ext'; shift: number }[] = [
      ...columns.map((column) => ({ column, half: 'base' as const, shift: 0 })),
      ...columns.filter((c) => c.bits === 64).map((column) => ({ column, half: 'ext' as const, shift: 32 })),
    ];
    const at = rows.find((r) => r.half === this.at?.half && r.name === this.at.name);
    return html`<section class="ruler" aria-label="Bits of the role words">
      <div class="scroll">
        <div
          class="lines"
          role="toolbar"
          aria-label="Bits of the role words. Arrow keys move, space turns a bit over."
          data-roving
          @keydown=${(e: KeyboardEvent) => moveFocus(e.currentTarget as Element, e)}
          @pointerleave=${() => (this.at = null)}
        >
          ${lines.map((line, y) => {
            const first = lines.findIndex((l) => l.half === line.half) === y;
            return html`
              ${first ? this.renderScale(line.half, rows) : nothing}
              ${this.renderLine(line.column, line.half, line.shift, y, rows)}
            `;
          })}
        </div>
      </div>
      <p class="explain" aria-live="polite">${at === undefined ? this.renderHint() : this.renderAt(at)}</p>
    </section>`;
  }

  private renderHint(): TemplateResult {
    return html`<span class="muted"
      >Point at a bit to see what it is; click it, or press Space, to turn it over. A dot: changed since the last
      stop.</span
    >`;
  }

  private renderAt(row: Row): TemplateResult {
    return html`<b class="mono">${row.half}.${row.name}</b>
      <span class="muted">${row.width === 1 ? 'bit' : 'bits'} ${bitSpan(row)}</span> ${row.meaning}`;
  }

  /** Names over the fields, slanted to find room, and bit numbers at both ends of every four bits. */
  private renderScale(half: 'base' | 'ext', rows: readonly Row[]): TemplateResult {
    const named = rows.filter((r) => r.half === half && !/^(reserved|pad)_/.test(r.name));
    const longest = Math.max(...named.map((r) => r.name.length));
    return html`<div class="names mono" aria-hidden="true" .style=${`height: ${Math.round(longest * 4.9 + 14)}px`}>
        <span class="half">${half}</span>
        ${named.map(
          (row) =>
            html`<span
              class=${classMap({ label: true, at: this.at?.name === row.name && this.at.half === half, differs: row.differs })}
              .style=${`left: ${bitCentre(row.lsb + (row.width - 1) / 2)}`}
              @pointerenter=${() => this.look(half, row.name)}
              >${row.name}</span
            >`,
        )}
      </div>
      <div class="line scale" aria-hidden="true">
        <span class="name"></span>
        ${[7, 6, 5, 4, 3, 2, 1, 0].map(
          (n) =>
            html`<span class="nibble"><span>${n * 4 + 3}</span><span></span><span></span><span>${n * 4}</span></span>`,
        )}
      </div>`;
  }

  private renderLine(
    column: Column,
    half: 'base' | 'ext',
    shift: number,
    y: number,
    rows: readonly Row[],
  ): TemplateResult {
    const word = this.words[column.name];
    const index = (bit: number): Row | undefined =>
      rows.find((r) => r.half === half && bit >= r.lsb && bit < r.lsb + r.width);
    return html`<div class="line" role="group" aria-label="${column.name}, ${half}">
      <span class="name mono" aria-hidden="true">${column.name}</span>
      ${[7, 6, 5, 4, 3, 2, 1, 0].map((n) => {
        const digit = word === undefined ? '?' : ((word >> BigInt(shift + n * 4)) & 15n).toString(16);
        return html`<span class="nibble">
          ${[3, 2, 1, 0].map((i) => {
            const bit = n * 4 + i;
            return this.renderBit(column, shift + bit, bit, index(bit), y, 31 - bit);
          })}
          <span class="digit mono ${digit === '0' ? 'muted' : ''}" aria-hidden="true">${digit}</span>
        </span>`;
      })}
    </div>`;
  }

  /** One square. `place` is the bit in its word, `bit` in its half. */
  private renderBit(
    column: Column,
    place: number,
    bit: number,
    row: Row | undefined,
    y: number,
    x: number,
  ): TemplateResult {
    const word = this.words[column.name];
    const value = word === undefined ? undefined : Number((word >> BigInt(place)) & 1n);
    const changed = ((this.changedBits(column) >> BigInt(place)) & 1n) === 1n;
    const own = row?.cells.some((c) => c?.column === column) ?? false;
    const name = row === undefined || !own ? 'no field' : row.width === 1 ? row.name : `${row.name}[${bit - row.lsb}]`;
    const classes = {
      bit: true,
      one: value === 1,
      reserved: !own,
      last: own && row !== undefined && bit === row.lsb,
      changed,
      differs: own && row !== undefined && this.bitDiffers(row, bit),
      at: own && this.at?.name === row?.name && this.at?.half === row?.half,
    };
    const label = `bit ${bit} ${name} of ${column.name}: ${value ?? 'unknown'}${changed ? ', changed' : ''}${classes.differs ? ', differs' : ''}`;
    return html`<button
      class=${classMap(classes)}
      tabindex="-1"
      data-row=${y}
      data-col=${x}
      aria-label=${label}
      aria-pressed=${value === 1 ? 'true' : 'false'}
      title=${`${bit}: ${name}`}
      ?disabled=${value === undefined}
      @click=${() => word !== undefined && this.edit(column, toggleBit(word, place))}
      @focus=${() => row && this.look(row.half, row.name)}
      @pointerenter=${() => (row && own ? this.look(row.half, row.name) : (this.at = null))}
    >
      ${value ?? '?'}
    </button>`;
  }

  private bitDiffers(row: Row, bit: number): boolean {
    if (!row.differs) return false;
    const bits = row.cells.flatMap((c) => (c?.value === undefined ? [] : [(c.value >> BigInt(bit - row.lsb)) & 1n]));
    return bits.some((b) => b !== bits[0]);
  }

  private renderTable(columns: readonly Column[], rows: readonly Row[]): TemplateResult {
    const visible = rows.filter(
      (row) =>
        this.show === 'all' ||
        (this.show === 'different' && (row.differs || row.cells.some((c) => disagrees(c)))) ||
        (this.show === 'set' && row.cells.some((c) => (c?.value ?? 0n) !== 0n)),
    );
    const differing = rows.filter((r) => r.differs).length;
    return html`<section class="fields" aria-label="Fields of the role words">
      <div class="bar">
        <div class="group" role="group" aria-label="Fields to show">
          ${(Object.keys(SHOWS) as Show[]).map(
            (show) =>
              html`<button
                class="tool"
                aria-pressed=${this.show === show ? 'true' : 'false'}
                @click=${() => (this.show = show)}
              >
                ${SHOWS[show]}${show === 'different' ? html`<span class="count">${differing}</span>` : nothing}
              </button>`,
          )}
        </div>
        <span class="muted source">${columns[0]?.layout.source.split(';')[0]}</span>
      </div>
      <table>
        <thead>
          <tr>
            <th class="span" scope="col">Bits</th>
            <th scope="col">Field</th>
            ${columns.map((c) => html`<th class="value mono" scope="col">${c.name}</th>`)}
            ${columns.length > 1 ? html`<th class="mark" scope="col"><span class="hidden">Differs</span></th>` : nothing}
            <th scope="col">Comes from</th>
          </tr>
        </thead>
        <tbody @pointerleave=${() => (this.at = null)}>
          ${visible.map((row, i) => html`${visible[i - 1]?.half === row.half ? nothing : this.renderHalf(columns, row.half)} ${this.renderRow(columns, row)}`)}
          ${
            visible.length === 0
              ? html`<tr>
                  <td class="muted empty" colspan="9">
                    ${this.show === 'set' ? 'No bit is set.' : 'No field differs.'}
                  </td>
                </tr>`
              : nothing
          }
        </tbody>
      </table>
    </section>`;
  }

  private renderHalf(columns: readonly Column[], half: 'base' | 'ext'): TemplateResult {
    const union = half === 'base' ? 'union kvm_mmu_page_role' : 'union kvm_mmu_extended_role';
    const about = half === 'base' ? 'what a shadow page is' : 'when a context must be rebuilt';
    return html`<tr class="half">
      <th colspan="9" scope="rowgroup">
        <b>${columns.some((c) => c.bits === 64) ? half : 'word'}</b> <span class="mono">${union}</span>
        <span>${about}</span>
      </th>
    </tr>`;
  }

  private renderRow(columns: readonly Column[], row: Row): TemplateResult {
    const at = this.at?.name === row.name && this.at.half === row.half;
    return html`<tr
      class=${classMap({ at, differs: row.differs })}
      @pointerenter=${() => this.look(row.half, row.name)}
    >
      <td class="span mono muted">${bitSpan(row)}</td>
      <th class="mono" scope="row" title=${row.meaning}>${row.name}</th>
      ${row.cells.map((cell) => this.renderCell(cell))}
      ${
        columns.length > 1
          ? html`<td class="mark">
              ${row.differs ? html`<span title="The words differ here" role="img" aria-label="differs">≠</span>` : nothing}
            </td>`
          : nothing
      }
      <td class="from">${this.renderOrigins(row)}</td>
    </tr>`;
  }

  private renderCell(cell: Cell | undefined): TemplateResult {
    if (cell === undefined) return html`<td class="value none" aria-label="not in this word">–</td>`;
    const changed = this.previous[cell.column.name] !== undefined && this.fieldChanged(cell);
    const note = disagrees(cell)
      ? html`<span class="wrong" title="The registers ask for ${cell.expected}; the word says otherwise">
          ${icon('reserved', 12)} not ${cell.expected}</span
        >`
      : nothing;
    const named = cell.field.values?.[Number(cell.value ?? -1n)];
    return html`<td class=${classMap({ value: true, mono: true, set: (cell.value ?? 0n) !== 0n, changed })}>
      <span class="number">${cell.value === undefined ? '?' : cell.value.toString()}</span>
      ${named === undefined ? nothing : html`<span class="named">${named}</span>`} ${note}
      ${changed ? html`<span class="hidden">changed since the last stop</span>` : nothing}
    </td>`;
  }

  private fieldChanged(cell: Cell): boolean {
    const mask = ((1n << BigInt(cell.field.width)) - 1n) << BigInt(cell.field.lsb);
    return (this.changedBits(cell.column) & mask) !== 0n;
  }

  /** One line when all words agree on where the field comes from, else one a word. */
  private renderOrigins(row: Row): TemplateResult | readonly TemplateResult[] | typeof nothing {
    const cells = row.cells.filter((c): c is Cell => c?.origin !== undefined);
    const texts = new Set(cells.map((c) => c.origin?.text));
    if (cells.length === 0)
      return html`<span class="muted">${row.cells.find((c) => c !== undefined)?.field.from ?? nothing}</span>`;
    if (texts.size === 1 && cells[0] !== undefined) return this.renderOrigin(cells[0]);
    return cells.map((c) => html`<div><span class="who">${c.column.name}</span>${this.renderOrigin(c)}</div>`);
  }

  private renderOrigin({ origin }: Cell): TemplateResult {
    if (origin === undefined) return html``;
    if (isConstant(origin)) return html`<span class="muted">always ${origin.text}</span>`;
    return html`<span class="formula mono" aria-label=${formulaText(origin, this.inputs)}
      >${piecesOf(origin, this.inputs).map((p) =>
        p.condition
          ? html`<span
              class=${classMap({ condition: true, holds: p.holds === true, fails: p.holds === false })}
              title=${p.holds === undefined ? 'unknown' : p.holds ? 'holds' : 'does not hold'}
              >${p.text}</span
            >`
          : p.text,
      )}</span
    >`;
  }

  /** The registers that the formulas of these words mention: shown as they are, and to be turned over. */
  private renderInputs(columns: readonly Column[]): TemplateResult {
    const wanted = new Set(columns.flatMap((c) => [...c.origins.values()].flatMap((f) => f.names)));
    const offered = INPUTS.filter((i) => wanted.has(i.name));
    const groups = new Map<string, typeof offered>();
    for (const input of offered) {
      const dot = input.name.indexOf('.');
      const group = dot > 0 ? input.name.slice(0, dot) : input.name.startsWith('is_') ? 'vCPU' : 'MMU';
      groups.set(group, [...(groups.get(group) ?? []), input]);
    }
    return html`<section class="inputs" aria-label="Registers that the roles are made of">
      <h2>${this.session === null || this.edited ? 'What if' : 'Registers'}</h2>
      <div class="groups" data-roving @keydown=${(e: KeyboardEvent) => moveFocus(e.currentTarget as Element, e)}>
        ${[...groups].map(
          ([group, inputs], y) =>
            html`<div class="group" role="group" aria-label=${group}>
              <span class="name">${group}</span>
              ${inputs.map((input, x) => {
                const value = this.inputs[input.name];
                const next = input.values === undefined ? (value === 1 ? 0 : 1) : after(input.values, value);
                const short = input.name.slice(input.name.indexOf('.') + 1);
                return html`<button
                  class=${classMap({ chip: true, one: value !== undefined && value !== 0, unknown: value === undefined })}
                  tabindex="-1"
                  data-row=${y}
                  data-col=${x}
                  title=${`${input.name}: ${input.meaning}${value === undefined ? ' (unknown)' : ''}`}
                  aria-label=${`${input.name} ${value ?? 'unknown'}, ${input.meaning}`}
                  @click=${() => this.setInput(input.name, next)}
                >
                  <span class="mono">${short}</span><b class="mono">${value ?? '?'}</b>
                </button>`;
              })}
            </div>`,
        )}
      </div>
    </section>`;
  }
}

/** Where the middle of a bit's square is, from the left end of a line, as CSS; halves are between two squares. */
function bitCentre(bit: number): string {
  const nibbles = 7 - Math.floor(bit / 4);
  const squares = 4 * nibbles + 3 - (bit % 4) + 0.5;
  return `calc(var(--name) + ${nibbles + 1} * var(--gap) + ${squares} * var(--square))`;
}

function disagrees(cell: Cell | undefined): boolean {
  return cell?.expected !== undefined && cell.value !== undefined && BigInt(cell.expected) !== cell.value;
}

function after(values: readonly number[], value: number | undefined): number {
  const at = value === undefined ? -1 : values.indexOf(value);
  return values[(at + 1) % values.length] ?? 0;
}

function valueOf(event: Event): string {
  return (event.target as HTMLElement & { value: string }).value;
}

/** The kernel under its canonical name, or the default where the name is not known to the tables. */
function known(kernel: string): string {
  try {
    return parseKernel(kernel).name;
  } catch {
    return 'v6.1';
  }
}

/** The eras, with the kernel in use among them even when it is a release between two. */
function kernelsToOffer(...extra: (string | undefined)[]): readonly { id: string; title: string }[] {
  const eras = KERNEL_ERAS.map(({ id, title }) => ({ id, title }));
  const missing = [...new Set(extra)].filter((id): id is string => id !== undefined && !eras.some((e) => e.id === id));
  return [...missing.map((id) => ({ id, title: "the session's" })), ...eras];
}

declare global {
  interface HTMLElementTagNameMap {
    'mmu-role-decoder': RoleDecoder;
  }
}
