/**
 * The Tables view: one page of a guest table, EPT, NPT or shadow table at a time, 512 entries and no row limit, with the way down from
 * the root above it. Follows the session's stops.
 */
import { Virtualizer, elementScroll, observeElementOffset, observeElementRect } from '@tanstack/virtual-core';
import { LitElement, html, nothing, type PropertyValues, type TemplateResult } from 'lit';
import { customElement, query, state } from 'lit/decorators.js';
import type { RootView, RootsBody, TableBody, TableRow, WhyView } from '../../src/adapter/protocol';
import {
  FROM_VIEW,
  TO_VIEW,
  type FromTablesView,
  type GoToMessage,
  type SessionInfo,
  type ToTablesView,
} from '../messages';
import { connect } from '../shared/host';
import { icon } from '../shared/icons';
import { renderThreads, valueOf } from '../shared/select';
import { shared } from '../shared/styles';
import type { RowFilter } from './model';
import { goalOfWalk, kindOf, parseAddress, rootAfterStop, rootOfWalk, rowAt, visibleRows } from './model';
import { keyAction } from './keys';
import { renderPage } from './page';
import { ROW_HEIGHT, styles } from './styles';
import type { View } from './view';

/** What survives a reload. */
interface Saved {
  readonly session: SessionInfo | null;
  readonly threadId: number;
  readonly roots: readonly RootView[];
  readonly root: RootView | null;
  readonly body: TableBody | null;
  readonly selected: number;
  readonly filter: RowFilter;
  readonly search: string;
  readonly follow: boolean;
}

const host = connect<ToTablesView, FromTablesView, Saved>(1);

/** What a request was for, to be known again when its answer comes. */
interface Wanted {
  readonly request: number;
  readonly root: RootView | null;
  readonly path: readonly number[];
  /** entry to select in the answer: an index, or the one that translates an address */
  readonly select: number | bigint | null;
  readonly follows: boolean;
}

@customElement('mmu-tables')
export class Tables extends LitElement {
  static override styles = [shared, styles];

  @state() private session: SessionInfo | null = null;
  @state() private threadId = 1;
  @state() private roots: readonly RootView[] = [];
  @state() private root: RootView | null = null;
  @state() private body: TableBody | null = null;
  /** index of the entry that the keyboard is at */
  @state() private selected = 0;
  @state() private filter: RowFilter = 'all';
  @state() private search = '';
  @state() private problem: string | null = null;
  /** at a stop, go to the entry that the walk ended at */
  @state() private follow = true;
  private why: WhyView | null = null;
  private wanted: Wanted | null = null;
  private requests = 0;
  /** asked for from outside before there was a table to go to */
  private pending: GoToMessage | null = null;
  private restored = false;

  @query('.grid') private grid?: HTMLElement;
  @query('.rows') private scroller?: HTMLElement;
  @query('vscode-textfield.address') private addressField?: HTMLElement & { value: string };
  @query('vscode-textfield.search') private searchField?: HTMLElement & { value: string };
  private virtualizer: Virtualizer<HTMLElement, HTMLElement> | null = null;
  private detach: (() => void) | null = null;

  override connectedCallback(): void {
    super.connectedCallback();
    const saved = host.restore();
    if (saved !== undefined) this.restore(saved);
    host.listen((message) => this.receive(message));
    host.send({ type: FROM_VIEW.ready });
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.detach?.();
    this.virtualizer = null;
  }

  // ---- what comes in --------------------------------------------------------------------------------------------

  private receive(message: ToTablesView): void {
    switch (message.type) {
      case TO_VIEW.session:
        this.followSession(message.session);
        break;
      case TO_VIEW.why:
        this.why = message.why;
        break;
      case TO_VIEW.roots:
        this.takeRoots(message.body);
        break;
      case TO_VIEW.table:
        this.takeTable(message.request, message.body);
        break;
      case TO_VIEW.goTo:
        this.goTo(message);
        break;
      case TO_VIEW.failed:
        this.failed(message.request, message.message);
        break;
    }
  }

  private followSession(session: SessionInfo | null): void {
    if (session === null) {
      if (this.session !== null) {
        this.session = {
          ...this.session,
          stopped: false,
          reason: 'The session has ended; this is what it showed last.',
        };
      }
      return;
    }
    if (session.id !== this.session?.id && !this.restored) {
      this.body = null;
      this.root = null;
    }
    this.restored = false;
    this.session = session;
  }

  private takeRoots(roots: RootsBody): void {
    this.problem = null;
    this.threadId = roots.threadId;
    const before = this.root;
    this.roots = roots.roots;
    this.root = rootAfterStop(before, roots);
    if (this.pending !== null) return this.goTo(this.pending);
    if (this.root === null) {
      this.body = null;
      return;
    }
    // A fault leads to the tree whose entry decided it, whichever was looked at before.
    const why = this.follow ? this.why : null;
    const root = (why === null ? null : rootOfWalk(why, this.roots)) ?? this.root;
    const goal = why === null ? undefined : goalOfWalk(why, root);
    if (goal !== undefined) {
      this.root = root;
      if ('path' in goal) this.ask(root, goal.path, goal.index, true);
      else this.askAddress(root, goal.address, goal.level);
    } else if (this.root.kind === before?.kind && this.body !== null)
      this.ask(this.root, this.body.path, this.selected, true);
    else this.ask(this.root, [], null, true);
  }

  private takeTable(request: number, body: TableBody): void {
    if (request !== this.wanted?.request) return;
    const { select } = this.wanted;
    this.wanted = null;
    this.problem = null;
    this.body = body;
    this.root = this.roots.find((r) => r.id === body.root.id) ?? body.root;
    if (typeof select === 'bigint') this.selected = rowAt(body, select)?.index ?? 0;
    else this.selected = Math.min(select ?? firstInUse(body), body.rows.length - 1);
    void this.updateComplete.then(() => this.showSelected());
  }

  /** A table on the way that was followed may be gone by the next stop: then the one above it is shown. */
  private failed(request: number | null, message: string): void {
    if (request !== null && request !== this.wanted?.request) return;
    const wanted = this.wanted;
    this.wanted = null;
    if (wanted?.follows === true && wanted.path.length > 0 && wanted.root !== null) {
      this.ask(wanted.root, wanted.path.slice(0, -1), wanted.path.at(-1) ?? 0, true);
      return;
    }
    this.problem = message;
  }

  private goTo(message: GoToMessage): void {
    if (this.roots.length === 0) {
      this.pending = message;
      return;
    }
    this.pending = null;
    const wanted = (r: RootView): boolean =>
      message.kind === undefined
        ? r.id === this.root?.id
        : message.kind === 'guest'
          ? r.kind === 'guest'
          : r.kind !== 'guest' && r.kind !== 'sppt';
    const root = this.roots.find((r) => wanted(r) && r.current) ?? this.roots.find(wanted) ?? this.root;
    if (root !== null) this.askAddress(root, message.address);
  }

  // ---- what goes out --------------------------------------------------------------------------------------------

  private ask(root: RootView, path: readonly number[], select: number | null, follows = false): void {
    const request = ++this.requests;
    this.wanted = { request, root, path, select, follows };
    host.send({ type: FROM_VIEW.table, request, threadId: this.threadId, root: root.id, path });
  }

  private askAddress(root: RootView, address: string, level?: number): void {
    const request = ++this.requests;
    this.wanted = { request, root, path: [], select: BigInt(address), follows: false };
    host.send({
      type: FROM_VIEW.table,
      request,
      threadId: this.threadId,
      root: root.id,
      address,
      ...(level === undefined ? {} : { level }),
    });
  }

  private descend(row: TableRow): void {
    if (!row.descend || this.root === null || this.body === null) return;
    this.ask(this.root, [...this.body.path, row.index], null);
  }

  private up(): void {
    const path = this.body?.path ?? [];
    if (this.root !== null && path.length > 0) this.ask(this.root, path.slice(0, -1), path.at(-1) ?? 0);
  }

  private typeAddress(text: string): void {
    if (text.trim() === '' || this.root === null) return;
    try {
      this.askAddress(this.root, parseAddress(text));
      this.grid?.focus();
    } catch (error) {
      this.problem = error instanceof Error ? error.message : String(error);
    }
  }

  // ---- over a reload --------------------------------------------------------------------------------------------

  private restore(saved: Saved): void {
    this.session = saved.session;
    this.threadId = saved.threadId;
    this.roots = saved.roots;
    this.root = saved.root;
    this.body = saved.body;
    this.selected = saved.selected;
    this.filter = saved.filter;
    this.search = saved.search;
    this.follow = saved.follow;
    this.restored = true;
    void this.updateComplete.then(() => this.showSelected());
  }

  protected override updated(changed: PropertyValues): void {
    super.updated(changed);
    const { session, threadId, roots, root, body, selected, filter, search, follow } = this;
    if (body !== null) host.save({ session, threadId, roots, root, body, selected, filter, search, follow });
  }

  // ---- rows -----------------------------------------------------------------------------------------------------

  private rows(): readonly TableRow[] {
    return this.body === null ? [] : visibleRows(this.body.rows, this.filter, this.search);
  }

  /** The virtualizer for so many rows; made as soon as there is an element to scroll. */
  private virtual(count: number): Virtualizer<HTMLElement, HTMLElement> | null {
    const options = {
      count,
      getScrollElement: () => this.scroller ?? null,
      estimateSize: () => ROW_HEIGHT,
      overscan: 8,
      observeElementRect,
      observeElementOffset,
      scrollToFn: elementScroll,
      onChange: () => this.requestUpdate(),
    };
    if (this.virtualizer === null) {
      if (this.scroller === undefined || this.scroller === null) {
        void this.updateComplete.then(() => this.requestUpdate());
        return null;
      }
      this.virtualizer = new Virtualizer(options);
      this.detach = this.virtualizer._didMount();
    } else {
      this.virtualizer.setOptions(options);
    }
    this.virtualizer._willUpdate();
    return this.virtualizer;
  }

  /** Scrolls as little as it takes; to the middle when the entry is not next to what is seen. */
  private showSelected(): void {
    const at = this.rows().findIndex((r) => r.index === this.selected);
    const { virtualizer } = this;
    if (at < 0 || virtualizer === null) return;
    const { startIndex, endIndex } = virtualizer.range ?? { startIndex: 0, endIndex: 0 };
    const near = at >= startIndex - 2 && at <= endIndex + 2;
    virtualizer.scrollToIndex(at, { align: near ? 'auto' : 'center' });
  }

  private select(index: number): void {
    this.selected = index;
    this.showSelected();
  }

  private onKey(event: KeyboardEvent): void {
    // Buttons in rows know what to do with Enter themselves.
    if (event.composedPath()[0] instanceof HTMLButtonElement) return;
    const action = keyAction(event, {
      rows: this.rows(),
      selected: this.selected,
      page: Math.max(1, Math.floor((this.scroller?.clientHeight ?? 0) / ROW_HEIGHT) - 1),
      select: (index) => this.select(index),
      descend: (row) => this.descend(row),
      up: () => this.up(),
      decode: (row) => host.send({ type: FROM_VIEW.decode, value: row.raw }),
      search: () => this.searchField?.focus(),
      goTo: () => this.addressField?.focus(),
    });
    if (action === undefined || event.metaKey) return;
    event.preventDefault();
    action();
  }

  // ---- what is seen ---------------------------------------------------------------------------------------------

  protected override render(): TemplateResult {
    return html`
      ${this.renderHeader()}
      ${this.problem === null ? nothing : html`<div class="message" role="alert">${icon('reserved')} ${this.problem}</div>`}
      ${this.body === null ? this.renderEmpty() : renderPage(this.view(this.body))}
    `;
  }

  private renderEmpty(): TemplateResult {
    const text =
      this.session === null
        ? 'Start a debug session (open a .mmu scenario and press F5): at every stop this view shows the page tables of the guest and of KVM.'
        : this.session.stopped
          ? 'This stop has no page table: paging is off and KVM has made no root yet.'
          : 'The session runs. Tables are shown when it stops.';
    return html`<div class="empty">
      ${icon('table', 40)}
      <p>${text}</p>
    </div>`;
  }

  private renderHeader(): TemplateResult {
    const { session } = this;
    const thread = session?.threads.find((t) => t.id === this.threadId);
    return html`<header>
      <div class="status" role="status">
        <span class="what"
          >${session === null ? 'No debug session' : session.title}${thread === undefined ? nothing : html` · ${thread.name}`}</span
        >
        <span class="why"
          >${session === null ? '' : (session.reason ?? 'Runs; this is what its last stop showed.')}</span
        >
      </div>
      ${session === null ? nothing : renderThreads(session, this.threadId, (threadId) => host.send({ type: FROM_VIEW.selectThread, threadId }))}
      ${
        this.roots.length === 0
          ? nothing
          : html`<span class="choice grow"
                ><span id="root">Tables</span>
                <vscode-single-select
                  class="root"
                  label="Tables"
                  .value=${this.root?.id ?? ''}
                  @change=${(e: Event) => {
                    const root = this.roots.find((r) => r.id === valueOf(e));
                    if (root !== undefined) this.ask(root, [], null);
                  }}
                >
                  ${this.roots.map(
                    (r) =>
                      html`<vscode-option value=${r.id} ?selected=${r.id === this.root?.id}
                        >${r.title}${r.current ? ' · in use' : ''}</vscode-option
                      >`,
                  )}
                </vscode-single-select></span
              >
              <span class="choice"
                ><span aria-hidden="true">${this.root?.kind === 'guest' ? 'gva' : 'gpa'}</span>
                <vscode-textfield
                  class="address"
                  label="Go to address"
                  placeholder="0x…  go to (g)"
                  @keydown=${(e: KeyboardEvent) => {
                    if (e.key === 'Enter') this.typeAddress(valueOf(e));
                    if (e.key === 'Escape') this.grid?.focus();
                  }}
                ></vscode-textfield
              ></span>
              <button
                class="tool"
                aria-pressed=${this.follow ? 'true' : 'false'}
                title="At each stop, go to the entry that the walk ended at"
                @click=${() => (this.follow = !this.follow)}
              >
                ${icon('pin')} Follow faults
              </button>`
      }
    </header>`;
  }

  private setFilter(filter: RowFilter): void {
    this.filter = filter;
    void this.updateComplete.then(() => this.showSelected());
  }

  private view(body: TableBody): View {
    const rows = this.rows();
    return {
      body,
      rows,
      selected: this.selected,
      filter: this.filter,
      search: this.search,
      virtual: this.virtual(rows.length),
      up: () => this.up(),
      descend: (row) => this.descend(row),
      show: (path, select) => this.root && this.ask(this.root, path, select),
      select: (index) => this.select(index),
      point: (index) => (this.selected = index),
      setFilter: (filter) => this.setFilter(filter),
      setSearch: (search) => (this.search = search),
      focusGrid: () => this.grid?.focus(),
      onKey: (event) => this.onKey(event),
      send: (message) => host.send(message),
    };
  }
}

function firstInUse(body: TableBody): number {
  return body.rows.find((row) => kindOf(row) !== 'none')?.index ?? 0;
}

declare global {
  interface HTMLElementTagNameMap {
    'mmu-tables': Tables;
  }
}
