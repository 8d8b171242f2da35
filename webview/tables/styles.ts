import { css, unsafeCSS } from 'lit';

/** Height of one row, in pixels: rows are virtual, so it is a fact and not a look. */
export const ROW_HEIGHT = 22;

export const styles = css`
  :host {
    display: flex;
    flex-direction: column;
    height: 100vh;
    container-type: inline-size;
  }
  .grow {
    flex: 1 1 320px;
    min-width: 0;
  }
  vscode-single-select.root {
    flex: 1;
    min-width: 0;
    max-width: 520px;
  }
  vscode-textfield.address {
    width: 22ch;
  }
  .empty {
    flex: 1;
    display: flex;
    flex-direction: column;
    align-items: center;
    justify-content: center;
    gap: 12px;
    padding: 24px;
    color: var(--muted);
    text-align: center;
  }
  .empty p {
    max-width: 52ch;
    margin: 0;
  }

  .crumbs {
    display: flex;
    align-items: center;
    gap: 4px;
    padding: 6px 12px 0;
  }
  .crumbs ol {
    display: flex;
    flex-wrap: wrap;
    align-items: center;
    margin: 0;
    padding: 0;
    list-style: none;
  }
  .crumbs li {
    display: inline-flex;
    align-items: center;
  }
  .crumbs button {
    color: var(--vscode-breadcrumb-foreground);
  }
  .crumbs button[aria-current='page'] {
    color: var(--vscode-breadcrumb-focusForeground);
    font-weight: 600;
  }
  .head {
    padding: 4px 16px 6px;
  }
  .strip {
    display: block;
    width: 100%;
    height: 14px;
    margin-top: 6px;
    border: 1px solid var(--line);
    background: var(--vscode-input-background);
    cursor: pointer;
  }
  .strip rect {
    fill: var(--vscode-charts-blue);
  }
  .strip rect.table {
    fill: var(--vscode-charts-green);
  }
  .strip rect.mmio {
    fill: var(--device);
  }
  .strip rect.stale,
  .strip rect.reserved {
    fill: var(--wrong);
  }
  .strip rect.software,
  .strip rect.none {
    fill: var(--muted);
  }
  .strip rect.changed {
    fill: var(--changed);
  }
  .strip rect.here {
    fill: none;
    stroke: var(--vscode-foreground);
    stroke-width: 1;
    vector-effect: non-scaling-stroke;
  }

  .bar {
    display: flex;
    flex-wrap: wrap;
    align-items: center;
    gap: 8px 14px;
    padding: 2px 16px 6px;
  }
  .bar .search {
    flex: 1 1 200px;
    max-width: 420px;
  }
  .group {
    display: inline-flex;
    gap: 4px;
  }
  .count {
    min-width: 18px;
    padding: 0 5px;
    border-radius: 9px;
    border: 1px solid var(--vscode-contrastBorder, transparent);
    background: var(--vscode-badge-background);
    color: var(--vscode-badge-foreground);
    font-size: 0.85em;
    text-align: center;
  }

  .grid {
    outline-offset: -1px !important;
    flex: 1;
    min-height: 120px;
    display: flex;
    flex-direction: column;
    overflow: hidden;
    border-top: 1px solid var(--line);
  }
  .rows {
    flex: 1;
    overflow: auto;
    position: relative;
  }
  .space {
    position: relative;
    width: 100%;
  }
  .row {
    display: grid;
    /* ch is of the editor's font: entries are written in it */
    grid-template-columns: 4px 4ch 15ch 18.5ch 128px 1fr 26px;
    font-family: var(--mono);
    font-size: var(--mono-size);
    column-gap: 10px;
    align-items: center;
    height: ${unsafeCSS(`${ROW_HEIGHT}px`)};
    padding-right: 8px;
    white-space: nowrap;
  }
  .row .kind,
  .row .meaning,
  .headings > span {
    font-family: var(--vscode-font-family);
    font-size: var(--vscode-font-size, 13px);
  }
  .row > span {
    overflow: hidden;
    text-overflow: ellipsis;
  }
  .rows .row {
    position: absolute;
    top: 0;
    left: 0;
    width: 100%;
  }
  .headings {
    flex: none;
    color: var(--muted);
    font-weight: 600;
    border-bottom: 1px solid var(--line);
    scrollbar-gutter: stable;
  }
  .index,
  .headings span:nth-child(2) {
    text-align: right;
  }
  .index,
  .from {
    color: var(--muted);
  }
  .gutter {
    align-self: stretch;
  }
  .row.changed .gutter {
    background: var(--changed);
  }
  .row.changed .raw {
    font-weight: 700;
  }
  .rows .row:hover {
    background: var(--vscode-list-hoverBackground);
  }
  .rows .row.selected {
    background: var(--vscode-list-inactiveSelectionBackground);
    outline: 1px dotted var(--vscode-contrastActiveBorder, transparent);
    outline-offset: -1px;
  }
  .grid:focus .row.selected {
    background: var(--vscode-list-activeSelectionBackground);
    color: var(--vscode-list-activeSelectionForeground);
    outline: 1px solid var(--vscode-focusBorder);
    outline-offset: -1px;
  }
  .grid:focus .row.selected .muted,
  .grid:focus .row.selected .index,
  .grid:focus .row.selected .from {
    color: inherit;
  }
  .row.none .raw,
  .row.none .kind {
    color: var(--vscode-disabledForeground);
  }
  .row button.tool {
    padding: 1px 3px;
    color: inherit;
  }
  .kind {
    display: inline-flex;
    align-items: center;
    gap: 6px;
  }

  /* a cached MMIO spte is not like the others, and must not look like them */
  .row.mmio {
    background: color-mix(in srgb, var(--device) 14%, transparent);
    box-shadow: inset 0 0 0 1px color-mix(in srgb, var(--device) 40%, transparent);
  }
  .mmio .icon,
  .row.mmio .kind,
  .kind.mmio {
    color: var(--device);
    font-weight: 700;
  }
  .row.stale,
  .row.reserved {
    background: color-mix(in srgb, var(--wrong) 14%, transparent);
    box-shadow: inset 0 0 0 1px color-mix(in srgb, var(--wrong) 45%, transparent);
  }
  .row.stale .kind,
  .row.reserved .kind,
  .kind.stale,
  .kind.reserved {
    color: var(--wrong);
    font-weight: 700;
  }
  .row.stale .raw {
    text-decoration: line-through;
  }
  :host-context(.vscode-high-contrast) .row.mmio,
  :host-context(.vscode-high-contrast) .row.stale,
  :host-context(.vscode-high-contrast) .row.reserved {
    box-shadow: inset 0 0 0 1px currentColor;
  }
  .none {
    padding: 12px 16px;
    margin: 0;
  }
  .rows .row.none {
    padding: 0 8px 0 0;
  }

  footer {
    flex: none;
    display: flex;
    flex-wrap: wrap;
    justify-content: space-between;
    gap: 4px 16px;
    padding: 6px 16px 8px;
    border-top: 1px solid var(--line);
    background: var(--vscode-editorWidget-background);
    color: var(--vscode-editorWidget-foreground);
  }
  footer .facts {
    flex: 1 1 320px;
    display: flex;
    flex-wrap: wrap;
    gap: 0 12px;
    align-items: center;
  }
  footer p {
    flex-basis: 100%;
    margin: 2px 0 0;
    min-height: 1.4em;
  }
  footer .actions {
    display: flex;
    align-items: flex-start;
    gap: 2px;
  }
  .tag {
    padding: 0 6px;
    border-left: 3px solid var(--changed);
  }
  @container (max-width: 720px) {
    .row {
      grid-template-columns: 4px 4ch 15ch 18.5ch 18px 1fr 20px;
      column-gap: 6px;
    }
    .headings span:nth-child(5),
    .rows .row .kind {
      font-size: 0;
      gap: 0;
    }
    /* the word that the kind column has no room for */
    .row.mmio .meaning::before,
    .row.stale .meaning::before {
      content: 'MMIO ';
      color: var(--device);
      font-weight: 700;
    }
    .row.stale .meaning::before {
      content: 'stale MMIO ';
      color: var(--wrong);
    }
  }
  @container (max-width: 560px) {
    .row {
      grid-template-columns: 4px 4ch 18.5ch 18px 1fr 20px;
    }
    .row > span:nth-child(3) {
      display: none;
    }
  }
`;
