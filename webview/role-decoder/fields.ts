/** The words field by field: value in each word, what differs, and where each value comes from. */
import { html, nothing, type TemplateResult } from 'lit';
import { classMap } from 'lit/directives/class-map.js';
import { isConstant } from '../../src/words/role-origins';
import { bitSpan } from '../../src/words/word';
import { icon } from '../shared/icons';
import { formulaText, piecesOf } from './formula-view';
import type { Cell, Column, Row } from './model';
import type { Show, View } from './view';

const SHOWS: Readonly<Record<Show, string>> = { all: 'All fields', set: 'Set', different: 'Different' };

export function renderFields(view: View): TemplateResult {
  const { columns, rows } = view;
  const visible = rows.filter(
    (row) =>
      view.show === 'all' ||
      (view.show === 'different' && (row.differs || row.cells.some((c) => disagrees(c)))) ||
      (view.show === 'set' && row.cells.some((c) => (c?.value ?? 0n) !== 0n)),
  );
  const differing = rows.filter((r) => r.differs).length;
  return html`<section class="fields" aria-label="Fields of the role words">
    <div class="bar">
      <div class="group" role="group" aria-label="Fields to show">
        ${(Object.keys(SHOWS) as Show[]).map(
          (show) =>
            html`<button
              class="tool"
              aria-pressed=${view.show === show ? 'true' : 'false'}
              @click=${() => view.setShow(show)}
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
      <tbody @pointerleave=${() => view.leave()}>
        ${visible.map((row, i) => html`${visible[i - 1]?.half === row.half ? nothing : renderHalf(columns, row.half)} ${renderRow(view, row)}`)}
        ${
          visible.length === 0
            ? html`<tr>
                <td class="muted empty" colspan="9">${view.show === 'set' ? 'No bit is set.' : 'No field differs.'}</td>
              </tr>`
            : nothing
        }
      </tbody>
    </table>
  </section>`;
}

function renderHalf(columns: readonly Column[], half: 'base' | 'ext'): TemplateResult {
  const union = half === 'base' ? 'union kvm_mmu_page_role' : 'union kvm_mmu_extended_role';
  const about = half === 'base' ? 'what a shadow page is' : 'when a context must be rebuilt';
  return html`<tr class="half">
    <th colspan="9" scope="rowgroup">
      <b>${columns.some((c) => c.bits === 64) ? half : 'word'}</b> <span class="mono">${union}</span>
      <span>${about}</span>
    </th>
  </tr>`;
}

function renderRow(view: View, row: Row): TemplateResult {
  const at = view.at?.name === row.name && view.at.half === row.half;
  return html`<tr class=${classMap({ at, differs: row.differs })} @pointerenter=${() => view.look(row.half, row.name)}>
    <td class="span mono muted">${bitSpan(row)}</td>
    <th class="mono" scope="row" title=${row.meaning}>${row.name}</th>
    ${row.cells.map((cell) => renderCell(view, cell))}
    ${
      view.columns.length > 1
        ? html`<td class="mark">
            ${row.differs ? html`<span title="The words differ here" role="img" aria-label="differs">≠</span>` : nothing}
          </td>`
        : nothing
    }
    <td class="from">${renderOrigins(view, row)}</td>
  </tr>`;
}

function renderCell(view: View, cell: Cell | undefined): TemplateResult {
  if (cell === undefined) return html`<td class="value none" aria-label="not in this word">–</td>`;
  const changed = fieldChanged(view, cell);
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

function fieldChanged(view: View, cell: Cell): boolean {
  const mask = ((1n << BigInt(cell.field.width)) - 1n) << BigInt(cell.field.lsb);
  return (view.changedBits(cell.column) & mask) !== 0n;
}

/** One line when all words agree on where the field comes from, else one a word. */
function renderOrigins(view: View, row: Row): TemplateResult | readonly TemplateResult[] | typeof nothing {
  const cells = row.cells.filter((c): c is Cell => c?.origin !== undefined);
  const texts = new Set(cells.map((c) => c.origin?.text));
  if (cells.length === 0)
    return html`<span class="muted">${row.cells.find((c) => c !== undefined)?.field.from ?? nothing}</span>`;
  if (texts.size === 1 && cells[0] !== undefined) return renderOrigin(view, cells[0]);
  return cells.map((c) => html`<div><span class="who">${c.column.name}</span>${renderOrigin(view, c)}</div>`);
}

function renderOrigin(view: View, { origin }: Cell): TemplateResult {
  if (origin === undefined) return html``;
  if (isConstant(origin)) return html`<span class="muted">always ${origin.text}</span>`;
  return html`<span class="formula mono" aria-label=${formulaText(origin, view.inputs)}
    >${piecesOf(origin, view.inputs).map((p) =>
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

function disagrees(cell: Cell | undefined): boolean {
  return cell?.expected !== undefined && cell.value !== undefined && BigInt(cell.expected) !== cell.value;
}
