/** The entries of a page as a list of any length, and the one that is selected in full. */
import { html, nothing, type TemplateResult } from 'lit';
import { classMap } from 'lit/directives/class-map.js';
import { repeat } from 'lit/directives/repeat.js';
import type { TableRow } from '../../src/adapter/protocol';
import { FROM_VIEW } from '../messages';
import { icon, type IconName } from '../shared/icons';
import type { RowKind } from './model';
import { KIND_NAMES, kindOf, mmioText } from './model';
import type { View } from './view';

const KIND_ICONS: Readonly<Record<RowKind, IconName | null>> = {
  stale: 'stale',
  mmio: 'mmio',
  reserved: 'reserved',
  removed: 'reset',
  large: 'large',
  leaf: 'page',
  table: 'table',
  software: null,
  none: null,
};

export function renderRows(view: View): TemplateResult {
  const { body, rows, virtual } = view;
  const items = virtual?.getVirtualItems() ?? [];
  return html`<div
    class="grid"
    tabindex="0"
    role="grid"
    aria-label="Entries of ${body.levelName}. Arrows move, Enter goes into a table, Backspace goes up, n and p find entries that are not empty."
    aria-rowcount=${rows.length + 1}
    aria-colcount="5"
    aria-activedescendant="row-${view.selected}"
    @keydown=${(e: KeyboardEvent) => view.onKey(e)}
  >
    <div class="row headings" role="row" aria-rowindex="1">
      <span></span>
      <span role="columnheader">#</span>
      <span role="columnheader">${body.root.kind === 'guest' ? 'gva' : 'gpa'}</span>
      <span role="columnheader">Raw</span>
      <span role="columnheader">Kind</span>
      <span role="columnheader">Meaning</span>
      <span></span>
    </div>
    <div class="rows" role="rowgroup">
      <div class="space" .style=${`height: ${virtual?.getTotalSize() ?? 0}px`}>
        ${repeat(
          items,
          (item) => item.key,
          (item) => {
            const row = rows[item.index];
            return row === undefined ? nothing : renderRow(view, row, item.index, item.start);
          },
        )}
      </div>
      ${rows.length === 0 ? html`<p class="none muted">No entry of this page is left by the filter.</p>` : nothing}
    </div>
  </div>`;
}

function renderRow(view: View, row: TableRow, at: number, start: number): TemplateResult {
  const kind = kindOf(row);
  const changed = row.marks.includes('changed');
  const name = KIND_ICONS[kind];
  return html`<div
    id="row-${row.index}"
    class=${classMap({ row: true, [kind]: true, changed, selected: row.index === view.selected })}
    role="row"
    aria-rowindex=${at + 2}
    aria-selected=${row.index === view.selected ? 'true' : 'false'}
    .style=${`transform: translateY(${start}px)`}
    @click=${() => view.point(row.index)}
    @dblclick=${() => view.descend(row)}
  >
    <span class="gutter">${changed ? html`<span class="hidden">changed since the last stop</span>` : nothing}</span>
    <span class="mono index" role="gridcell">${row.index}</span>
    <span class="mono from" role="gridcell">${row.from}</span>
    <span class="mono raw" role="gridcell">${row.raw === '0x0' ? '0' : `0x${row.raw.slice(2).padStart(16, '0')}`}</span>
    <span class="kind" role="gridcell">${name === null ? nothing : icon(name)} ${KIND_NAMES[kind]}</span>
    <span class="meaning" role="gridcell" title=${row.summary}>${renderMeaning(row)}</span>
    ${
      row.descend
        ? html`<button
            class="tool"
            tabindex="-1"
            aria-label="Go into entry ${row.index}"
            title="Go into this table (Enter)"
            @click=${() => view.descend(row)}
          >
            ${icon('right')}
          </button>`
        : html`<span></span>`
    }
  </div>`;
}

function renderMeaning(row: TableRow): TemplateResult {
  if (row.mmio === null) return html`${row.summary}`;
  return html`<b>${mmioText(row.mmio)}</b> <span class="muted">${row.summary}</span>`;
}

export function renderDetail(view: View): TemplateResult {
  const { body } = view;
  const row = body.rows.find((r) => r.index === view.selected);
  if (row === undefined) return html``;
  const kind = kindOf(row);
  const name = KIND_ICONS[kind];
  return html`<footer aria-live="polite">
    <div class="facts">
      <span class=${`kind ${kind}`}
        >${name === null ? nothing : icon(name)} <b>Entry ${row.index}</b> ${KIND_NAMES[kind]}</span
      >
      <span class="mono muted">${body.root.space} ${row.address}</span>
      ${row.target === null ? nothing : html`<span class="mono">→ ${row.target}</span>`}
      ${row.marks.includes('changed') ? html`<span class="tag">changed since the last stop</span>` : nothing}
      <p>
        ${row.mmio === null ? (row.summary === '' ? 'Not present: an access here exits or faults.' : row.summary) : html`Cached MMIO: <b>${mmioText(row.mmio)}</b>. ${row.summary}`}
      </p>
    </div>
    <div class="actions">
      <button class="tool" ?disabled=${!row.descend} @click=${() => view.descend(row)}>${icon('table')} Go in</button>
      <button class="tool" @click=${() => view.send({ type: FROM_VIEW.decode, value: row.raw })}>
        ${icon('lens')} Decode
      </button>
      <button
        class="tool"
        @click=${() => view.send({ type: FROM_VIEW.copy, text: `${body.levelName}[${row.index}] ${row.raw} ${row.summary}`.trim() })}
      >
        ${icon('copy')} Copy
      </button>
      <button
        class="tool"
        @click=${() => view.send({ type: FROM_VIEW.openMemory, memoryReference: body.memoryReference })}
      >
        ${icon('memory')} Memory
      </button>
    </div>
  </footer>`;
}
