/** Looks that both views share. Every colour is one of VS Code's own, so that a theme is a theme here too. */
import { css } from 'lit';

export const shared = css`
  :host {
    display: block;
    height: 100%;
    box-sizing: border-box;
    color: var(--vscode-foreground);
    font-family: var(--vscode-font-family);
    font-size: var(--vscode-font-size, 13px);
    line-height: 1.4;
    --mono: var(--vscode-editor-font-family, monospace);
    --mono-size: var(--vscode-editor-font-size, 13px);
    --line: var(--vscode-contrastBorder, var(--vscode-panel-border, var(--vscode-widget-border)));
    --muted: var(--vscode-descriptionForeground);
    --attention: var(--vscode-editorWarning-foreground);
    --wrong: var(--vscode-errorForeground);
    --changed: var(--vscode-editorGutter-modifiedBackground);
    --device: var(--vscode-charts-purple);
  }
  * {
    box-sizing: border-box;
  }
  .mono {
    font-family: var(--mono);
    font-size: var(--mono-size);
  }
  .muted {
    color: var(--muted);
  }
  .icon {
    flex: none;
    vertical-align: -2px;
  }
  .hidden {
    position: absolute;
    width: 1px;
    height: 1px;
    overflow: hidden;
    clip-path: inset(50%);
    white-space: nowrap;
  }
  header {
    display: flex;
    flex-wrap: wrap;
    align-items: center;
    gap: 6px 14px;
    padding: 8px 16px;
    border-bottom: 1px solid var(--line);
  }
  header .status {
    flex: 1 1 100%;
    min-width: 0;
    display: flex;
    flex-direction: column;
  }
  header .status .what {
    font-weight: 600;
    overflow: hidden;
    text-overflow: ellipsis;
    white-space: nowrap;
  }
  header .status .why {
    color: var(--muted);
    overflow: hidden;
    text-overflow: ellipsis;
    white-space: nowrap;
  }
  .choice {
    display: inline-flex;
    align-items: center;
    gap: 6px;
  }
  .choice > span,
  .choice > label {
    color: var(--muted);
    white-space: nowrap;
  }
  vscode-single-select,
  vscode-textfield {
    width: auto;
  }
  button.tool {
    display: inline-flex;
    align-items: center;
    gap: 5px;
    padding: 3px 6px;
    border: 1px solid transparent;
    border-radius: 5px;
    background: none;
    color: var(--vscode-icon-foreground);
    font: inherit;
    cursor: pointer;
  }
  button.tool:hover:not(:disabled) {
    background: var(--vscode-toolbar-hoverBackground);
    outline: 1px dashed var(--vscode-toolbar-hoverOutline, transparent);
  }
  button.tool:disabled {
    opacity: 0.4;
    cursor: default;
  }
  button.tool[aria-pressed='true'] {
    background: var(--vscode-inputOption-activeBackground);
    color: var(--vscode-inputOption-activeForeground);
    border-color: var(--vscode-inputOption-activeBorder, transparent);
  }
  :focus-visible {
    outline: 1px solid var(--vscode-focusBorder) !important;
    outline-offset: 1px;
  }
  .message {
    display: flex;
    gap: 8px;
    align-items: baseline;
    padding: 6px 16px;
    border-bottom: 1px solid var(--line);
    color: var(--wrong);
  }
`;
