import { css } from 'lit';

export const styles = css`
  :host {
    display: flex;
    flex-direction: column;
    container-type: inline-size;
    /* the ruler: names in front, a gap after every four bits, and squares as wide as there is room for */
    --name: 78px;
    --gap: 5px;
    --square: clamp(9px, (100cqw - 34px - var(--name) - 8 * var(--gap)) / 32, 20px);
  }
  main {
    flex: 1;
    overflow: auto;
    padding: 12px 16px 24px;
    display: flex;
    flex-direction: column;
    gap: 18px;
  }
  main > * {
    flex: none;
  }
  header .status {
    flex-basis: 100%;
  }
  .tag {
    margin-left: 6px;
    padding: 0 6px;
    border: 1px solid var(--attention);
    border-radius: 8px;
    color: var(--attention);
    font-size: 0.85em;
    font-weight: normal;
  }
  vscode-single-select.kernel {
    width: 130px;
  }
  vscode-single-select.use {
    width: 110px;
  }
  .wrong {
    color: var(--wrong);
  }

  /* the words */
  .words {
    display: grid;
    grid-template-columns: max-content max-content max-content 1fr;
    align-items: center;
    gap: 6px 10px;
  }
  .word {
    display: contents;
  }
  .word label {
    font-family: var(--mono);
    font-weight: 600;
    font-size: var(--mono-size);
  }
  .word .summary {
    overflow-wrap: anywhere;
  }
  .word .summary.wrong:last-child:nth-child(5) {
    grid-column: 2 / -1;
  }
  vscode-textfield {
    --vscode-font-family: var(--mono);
    width: 15ch;
  }
  vscode-textfield.wide {
    width: 25ch;
  }
  vscode-textfield,
  vscode-textfield.wide {
    max-width: 100%;
  }

  /* the ruler */
  /* where there is no room for all bits, the low ones are seen first, and the names stay */
  .scroll {
    overflow-x: auto;
    direction: rtl;
    text-align: left;
  }
  .lines {
    display: inline-flex;
    flex-direction: column;
    gap: 3px;
    direction: ltr;
  }
  .line {
    display: flex;
    align-items: flex-start;
    gap: var(--gap);
  }
  .names {
    position: relative;
    font-size: 11.5px;
    color: var(--muted);
  }
  .names {
    display: flex;
    align-items: flex-end;
  }
  .names .half {
    position: sticky;
    left: 0;
    color: var(--vscode-foreground);
    font-weight: 600;
  }
  .names .label {
    position: absolute;
    bottom: 0;
    padding: 0 3px;
    transform: translate(-2px, 0) rotate(-45deg);
    transform-origin: 0 100%;
    line-height: 1;
    white-space: nowrap;
    cursor: default;
  }
  .names .label.differs {
    color: var(--attention);
  }
  .names .label.at {
    color: var(--vscode-foreground);
    text-decoration: underline;
  }
  .line .name {
    position: sticky;
    left: 0;
    z-index: 2;
    background: var(--vscode-editor-background);
    flex: none;
    width: var(--name);
    line-height: 20px;
    overflow: hidden;
    text-overflow: ellipsis;
  }
  .line.scale {
    margin: 2px 0 -3px;
    color: var(--muted);
    font-size: 0.8em;
  }
  .nibble {
    display: grid;
    grid-template-columns: repeat(4, var(--square));
  }
  .scale .nibble span {
    text-align: center;
  }
  .digit {
    grid-column: 1 / -1;
    text-align: center;
    line-height: 1.25;
    border: solid var(--line);
    border-width: 0 1px 1px 1px;
    border-radius: 0 0 3px 3px;
    margin: 1px 1px 0;
  }
  .bit {
    position: relative;
    width: var(--square);
    height: max(18px, var(--square));
    padding: 0;
    border: 1px solid var(--vscode-input-border, var(--vscode-checkbox-border, var(--line)));
    margin: 0 -1px 0 0;
    background: var(--vscode-input-background);
    color: var(--muted);
    font-family: var(--mono);
    font-size: min(12px, calc(var(--square) - 1px));
    line-height: 1;
    cursor: pointer;
  }
  .bit.one {
    background: var(--vscode-button-background);
    color: var(--vscode-button-foreground);
    font-weight: 700;
  }
  /* themes of high contrast have no button colour */
  :host-context(.vscode-high-contrast) .bit.one {
    background: var(--vscode-foreground);
    color: var(--vscode-editor-background);
  }
  .bit.reserved {
    opacity: 0.45;
    border-style: dotted;
  }
  .bit.reserved.one {
    opacity: 1;
    background: none;
    color: var(--wrong);
    border: 1px solid var(--wrong);
  }
  .bit.differs {
    box-shadow: inset 0 -3px 0 var(--attention);
  }
  .bit.changed::after {
    content: '';
    position: absolute;
    top: -4px;
    left: calc(50% - 3px);
    width: 6px;
    height: 6px;
    border-radius: 3px;
    background: var(--changed);
  }
  .bit.at {
    z-index: 1;
    outline: 1px solid var(--vscode-focusBorder);
    outline-offset: -1px;
  }
  .bit:hover:not(:disabled) {
    z-index: 1;
    border-color: var(--vscode-focusBorder);
  }
  .explain {
    min-height: 2.8em;
    margin: 8px 0 0;
    max-width: 90ch;
  }
  .explain b {
    margin-right: 4px;
  }
  .explain .muted {
    margin-right: 6px;
  }

  /* the table */
  .fields .bar {
    display: flex;
    align-items: center;
    gap: 12px;
    margin-bottom: 4px;
  }
  .fields .source {
    overflow: hidden;
    text-overflow: ellipsis;
    white-space: nowrap;
  }
  .group {
    display: inline-flex;
    gap: 4px;
    white-space: nowrap;
  }
  .count {
    min-width: 18px;
    padding: 0 5px;
    border-radius: 9px;
    background: var(--vscode-badge-background);
    color: var(--vscode-badge-foreground);
    border: 1px solid var(--vscode-contrastBorder, transparent);
    font-size: 0.85em;
    text-align: center;
  }
  table {
    width: 100%;
    border-collapse: collapse;
  }
  thead th {
    position: sticky;
    top: -12px;
    z-index: 2;
    background: var(--vscode-editor-background);
    color: var(--muted);
    font-weight: 600;
    text-align: left;
    padding: 4px 10px;
    box-shadow: inset 0 -1px 0 var(--line);
  }
  thead th.mono {
    font-size: inherit;
  }
  td,
  tbody th {
    padding: 2px 10px;
    text-align: left;
    vertical-align: top;
    font-weight: normal;
    border-bottom: 1px solid color-mix(in srgb, var(--line) 45%, transparent);
  }
  tbody th {
    color: var(--vscode-symbolIcon-fieldForeground, inherit);
  }
  tr.half th {
    padding-top: 12px;
    color: var(--muted);
  }
  tr.half th b {
    color: var(--vscode-foreground);
    margin-right: 6px;
  }
  tr.half th .mono {
    margin-right: 6px;
    font-size: 0.95em;
  }
  tr.at td,
  tr.at th {
    background: var(--vscode-list-hoverBackground);
  }
  td.span {
    white-space: nowrap;
    text-align: right;
    width: 1%;
  }
  thead th.span {
    text-align: right;
  }
  td.value {
    white-space: nowrap;
    color: var(--muted);
  }
  td.value.set .number {
    color: var(--vscode-foreground);
    font-weight: 700;
  }
  td.value.changed {
    box-shadow: inset 3px 0 0 var(--changed);
  }
  td.value .named {
    margin-left: 6px;
  }
  td.none {
    color: var(--vscode-disabledForeground);
  }
  td.mark,
  th.mark {
    width: 1%;
    padding: 2px 4px;
  }
  td.mark {
    color: var(--attention);
    font-weight: 700;
  }
  tr.differs th {
    font-weight: 600;
  }
  .from > div {
    display: grid;
    grid-template-columns: max-content 1fr;
    gap: 10px;
  }
  .from .who {
    min-width: 76px;
    color: var(--muted);
    font-family: var(--mono);
    font-size: 0.92em;
  }
  .formula {
    font-size: 0.95em;
    color: var(--muted);
  }
  .condition {
    border-bottom: 1px dotted var(--muted);
    color: var(--vscode-foreground);
  }
  .condition.holds {
    color: var(--vscode-charts-green);
    border-bottom: 1px solid currentColor;
    font-weight: 600;
  }
  .condition.fails {
    color: var(--muted);
    text-decoration: none;
    border-bottom-style: none;
  }
  td.empty {
    padding: 10px;
  }

  /* the registers */
  h2 {
    margin: 0 0 6px;
    font-size: 1em;
    font-weight: 600;
  }
  .groups {
    display: flex;
    flex-wrap: wrap;
    gap: 6px 22px;
  }
  .groups .group {
    align-items: center;
    flex-wrap: wrap;
  }
  .groups .name {
    color: var(--muted);
    margin-right: 2px;
  }
  .chip {
    display: inline-flex;
    gap: 6px;
    padding: 1px 8px;
    border: 1px solid var(--vscode-input-border, var(--vscode-checkbox-border, var(--line)));
    border-radius: 10px;
    background: var(--vscode-input-background);
    color: var(--muted);
    font: inherit;
    cursor: pointer;
  }
  .chip.one {
    color: var(--vscode-foreground);
    border-color: var(--vscode-contrastBorder, var(--vscode-button-background));
    box-shadow: inset 0 0 0 1px var(--vscode-contrastBorder, var(--vscode-button-background));
  }
  .chip.unknown {
    border-style: dashed;
  }
  .chip:hover {
    border-color: var(--vscode-focusBorder);
  }

  @container (max-width: 640px) {
    .names .label {
      display: none;
    }
    .names {
      height: 1.4em !important;
    }
  }
  @container (max-width: 680px) {
    td.from {
      overflow-wrap: anywhere;
    }
    .words {
      grid-template-columns: max-content minmax(0, max-content) 1fr;
    }
    .word .summary {
      grid-column: 1 / -1;
      margin: -4px 0 4px;
    }
    td,
    th,
    thead th {
      padding-left: 6px;
      padding-right: 6px;
    }
    td.value .named {
      display: block;
      margin: 0;
      white-space: normal;
      font-size: 0.9em;
    }
    .from > div {
      display: block;
    }
    .from .who {
      margin-right: 6px;
    }
    .fields .source {
      display: none;
    }
  }
`;
