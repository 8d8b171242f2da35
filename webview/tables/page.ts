/** One page of a table: the way to it, what it is, all its entries as strokes, and which of them are listed. */
import { html, nothing, svg, type TemplateResult } from 'lit';
import { live } from 'lit/directives/live.js';
import { icon } from '../shared/icons';
import { valueOf } from '../shared/select';
import type { RowFilter } from './model';
import { countsText, kindOf, sizeText, visibleRows } from './model';
import { renderDetail, renderRows } from './rows';
import type { View } from './view';

const FILTERS: Readonly<Record<RowFilter, string>> = {
  all: 'All',
  present: 'Not empty',
  mmio: 'MMIO',
  changed: 'Changed',
};

export function renderPage(view: View): TemplateResult {
  const { body } = view;
  const first = BigInt(body.from);
  const coverage = BigInt(body.entryCoverage);
  const last = first + coverage * BigInt(body.rows.length) - 1n;
  return html`
    <nav class="crumbs" aria-label="Way from the root to this table">
      <button
        class="tool"
        ?disabled=${body.path.length === 0}
        title="Up one table (Backspace)"
        aria-label="Up one table"
        @click=${() => view.up()}
      >
        ${icon('up')}
      </button>
      <ol>
        ${body.crumbs.map((crumb, i) => {
          const here = i === body.crumbs.length - 1;
          return html`<li>
            ${i === 0 ? nothing : html`<span class="muted" aria-hidden="true">${icon('right', 11)}</span>`}
            <button
              class="tool mono"
              aria-current=${here ? 'page' : 'false'}
              @click=${() => !here && view.show(crumb.path, body.path[crumb.path.length] ?? null)}
            >
              ${crumb.label}
            </button>
          </li>`;
        })}
      </ol>
    </nav>
    <section class="head">
      <div>
        <b>${body.levelName}</b> at <span class="mono">${body.root.space} ${body.tableAddress}</span>
        <span class="muted">· translates</span> <span class="mono">${hex(first)} – ${hex(last)}</span>
        <span class="muted">, ${sizeText(coverage)} an entry · ${countsText(body)}</span>
      </div>
      ${
        body.page === null
          ? nothing
          : html`<div class="muted">
              kvm_mmu_page gfn <span class="mono">${body.page.gfn}</span>, role
              <span class="mono">${body.page.role.value}</span>
              <span class="mono">${body.page.role.summary}</span>${body.page.tdpMmu === true ? ', TDP MMU' : ''}${
                body.page.rootCount === null || body.page.rootCount === 0 ? '' : `, root_count ${body.page.rootCount}`
              }${body.page.unsync === true ? html`, <b>unsync</b>` : nothing}
            </div>`
      }
      ${renderStrip(view)}
    </section>
    <div class="bar">
      <div class="group" role="group" aria-label="Entries to show">
        ${(Object.keys(FILTERS) as RowFilter[]).map(
          (filter) =>
            html`<button
              class="tool"
              aria-pressed=${view.filter === filter ? 'true' : 'false'}
              @click=${() => view.setFilter(filter)}
            >
              ${FILTERS[filter]}${
                filter === 'all'
                  ? nothing
                  : html`<span class="count">${visibleRows(body.rows, filter, '').length}</span>`
              }
            </button>`,
        )}
      </div>
      <vscode-textfield
        class="search"
        label="Search entries"
        placeholder="Search entries: index, address, raw, meaning (/)"
        .value=${live(view.search)}
        @input=${(e: Event) => view.setSearch(valueOf(e))}
        @keydown=${(e: KeyboardEvent) => {
          if (e.key === 'Escape') view.setSearch('');
          if (e.key === 'Escape' || e.key === 'Enter') view.focusGrid();
        }}
      ></vscode-textfield>
    </div>
    ${renderRows(view)} ${renderDetail(view)}
  `;
}

/** All entries of the page side by side, each a stroke. */
function renderStrip(view: View): TemplateResult {
  const { body } = view;
  const count = body.rows.length;
  return html`<svg
    class="strip"
    aria-hidden="true"
    viewBox="0 0 ${count} 10"
    preserveAspectRatio="none"
    @click=${(e: PointerEvent) => {
      const box = (e.currentTarget as Element).getBoundingClientRect();
      view.select(Math.min(count - 1, Math.floor(((e.clientX - box.left) / box.width) * count)));
      view.focusGrid();
    }}
  >
    ${body.rows.map((row) => {
      const kind = kindOf(row);
      const changed = row.marks.includes('changed');
      if (kind === 'none' && !changed) return nothing;
      return svg`<rect class=${kind} x=${row.index} y="0" width="1" height="10" />
        ${changed ? svg`<rect class="changed" x=${row.index} y="7" width="1" height="3" />` : nothing}`;
    })}
    ${svg`<rect class="here" x=${view.selected} y="0" width="1" height="10" />`}
  </svg>`;
}

const hex = (n: bigint): string => `0x${n.toString(16)}`;
