/** The words bit by bit: rows of 32 squares above each other, names over them and hex digits under their four bits. */
import { html, nothing, type TemplateResult } from 'lit';
import { classMap } from 'lit/directives/class-map.js';
import { bitSpan } from '../../src/words/word';
import { moveFocus } from '../shared/roving';
import type { Column, Row } from './model';
import { toggleBit } from './model';
import type { View } from './view';

/** The words as rows of 32 squares above each other, base first; hex digits under their four bits. */
export function renderRuler(view: View): TemplateResult {
  const { columns, rows } = view;
  const lines: { column: Column; half: 'base' | 'ext'; shift: number }[] = [
    ...columns.map((column) => ({ column, half: 'base' as const, shift: 0 })),
    ...columns.filter((c) => c.bits === 64).map((column) => ({ column, half: 'ext' as const, shift: 32 })),
  ];
  const at = rows.find((r) => r.half === view.at?.half && r.name === view.at.name);
  return html`<section class="ruler" aria-label="Bits of the role words">
    <div class="scroll">
      <div
        class="lines"
        role="toolbar"
        aria-label="Bits of the role words. Arrow keys move, space turns a bit over."
        data-roving
        @keydown=${(e: KeyboardEvent) => moveFocus(e.currentTarget as Element, e)}
        @pointerleave=${() => view.leave()}
      >
        ${lines.map((line, y) => {
          const first = lines.findIndex((l) => l.half === line.half) === y;
          return html`
            ${first ? renderScale(view, line.half) : nothing} ${renderLine(view, line.column, line.half, line.shift, y)}
          `;
        })}
      </div>
    </div>
    <p class="explain" aria-live="polite">${at === undefined ? renderHint() : renderAt(at)}</p>
  </section>`;
}

function renderHint(): TemplateResult {
  return html`<span class="muted"
    >Point at a bit to see what it is; click it, or press Space, to turn it over. A dot: changed since the last
    stop.</span
  >`;
}

function renderAt(row: Row): TemplateResult {
  return html`<b class="mono">${row.half}.${row.name}</b>
    <span class="muted">${row.width === 1 ? 'bit' : 'bits'} ${bitSpan(row)}</span> ${row.meaning}`;
}

/** Names over the fields, slanted to find room, and bit numbers at both ends of every four bits. */
function renderScale(view: View, half: 'base' | 'ext'): TemplateResult {
  const named = view.rows.filter((r) => r.half === half && !/^(reserved|pad)_/.test(r.name));
  const longest = Math.max(...named.map((r) => r.name.length));
  return html`<div class="names mono" aria-hidden="true" .style=${`height: ${Math.round(longest * 4.9 + 14)}px`}>
      <span class="half">${half}</span>
      ${named.map(
        (row) =>
          html`<span
            class=${classMap({ label: true, at: view.at?.name === row.name && view.at.half === half, differs: row.differs })}
            .style=${`left: ${bitCentre(row.lsb + (row.width - 1) / 2)}`}
            @pointerenter=${() => view.look(half, row.name)}
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

function renderLine(view: View, column: Column, half: 'base' | 'ext', shift: number, y: number): TemplateResult {
  const word = view.words[column.name];
  const index = (bit: number): Row | undefined =>
    view.rows.find((r) => r.half === half && bit >= r.lsb && bit < r.lsb + r.width);
  return html`<div class="line" role="group" aria-label="${column.name}, ${half}">
    <span class="name mono" aria-hidden="true">${column.name}</span>
    ${[7, 6, 5, 4, 3, 2, 1, 0].map((n) => {
      const digit = word === undefined ? '?' : ((word >> BigInt(shift + n * 4)) & 15n).toString(16);
      return html`<span class="nibble">
        ${[3, 2, 1, 0].map((i) => {
          const bit = n * 4 + i;
          return renderBit(view, column, shift + bit, bit, index(bit), y, 31 - bit);
        })}
        <span class="digit mono ${digit === '0' ? 'muted' : ''}" aria-hidden="true">${digit}</span>
      </span>`;
    })}
  </div>`;
}

/** One square. `place` is the bit in its word, `bit` in its half. */
function renderBit(
  view: View,
  column: Column,
  place: number,
  bit: number,
  row: Row | undefined,
  y: number,
  x: number,
): TemplateResult {
  const word = view.words[column.name];
  const value = word === undefined ? undefined : Number((word >> BigInt(place)) & 1n);
  const changed = ((view.changedBits(column) >> BigInt(place)) & 1n) === 1n;
  const own = row?.cells.some((c) => c?.column === column) ?? false;
  const name = row === undefined || !own ? 'no field' : row.width === 1 ? row.name : `${row.name}[${bit - row.lsb}]`;
  const classes = {
    bit: true,
    one: value === 1,
    reserved: !own,
    last: own && row !== undefined && bit === row.lsb,
    changed,
    differs: own && row !== undefined && bitDiffers(row, bit),
    at: own && view.at?.name === row?.name && view.at?.half === row?.half,
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
    @click=${() => word !== undefined && view.edit(column, toggleBit(word, place))}
    @focus=${() => row && view.look(row.half, row.name)}
    @pointerenter=${() => (row && own ? view.look(row.half, row.name) : view.leave())}
  >
    ${value ?? '?'}
  </button>`;
}

function bitDiffers(row: Row, bit: number): boolean {
  if (!row.differs) return false;
  const bits = row.cells.flatMap((c) => (c?.value === undefined ? [] : [(c.value >> BigInt(bit - row.lsb)) & 1n]));
  return bits.some((b) => b !== bits[0]);
}

/** Where the middle of a bit's square is, from the left end of a line, as CSS; halves are between two squares. */
function bitCentre(bit: number): string {
  const nibbles = 7 - Math.floor(bit / 4);
  const squares = 4 * nibbles + 3 - (bit % 4) + 0.5;
  return `calc(var(--name) + ${nibbles + 1} * var(--gap) + ${squares} * var(--square))`;
}
