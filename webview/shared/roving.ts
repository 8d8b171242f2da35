/**
 * One tab stop for a grid of controls, arrow keys inside it: what the ARIA practices ask of grids. Controls carry data-row and
 * data-col; gaps are fine.
 */

const STEPS: Readonly<Record<string, readonly [row: number, col: number]>> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

interface Place {
  readonly element: HTMLElement;
  readonly row: number;
  readonly col: number;
}

function places(grid: Element): Place[] {
  return [...grid.querySelectorAll<HTMLElement>('[data-row][data-col]')].map((element) => ({
    element,
    row: Number(element.dataset['row']),
    col: Number(element.dataset['col']),
  }));
}

/** Makes exactly one control of the grid a tab stop: the one that has or had the focus, else the first. */
export function settleTabStop(grid: Element | null | undefined): void {
  if (!grid) return;
  const all = places(grid);
  const stop = all.find(({ element }) => element.tabIndex === 0) ?? all[0];
  for (const place of all) place.element.tabIndex = place === stop ? 0 : -1;
}

/** Moves the focus for an arrow key, Home or End; true if the key was one of these. Attach to keydown of the grid. */
export function moveFocus(grid: Element, event: KeyboardEvent): boolean {
  if (event.altKey || event.metaKey || event.shiftKey) return false;
  const all = places(grid);
  const from = all.find(({ element }) => element === event.composedPath()[0]);
  if (from === undefined) return false;
  const to = target(all, from, event);
  if (to === undefined) return false;
  event.preventDefault();
  if (to === from) return true;
  from.element.tabIndex = -1;
  to.element.tabIndex = 0;
  to.element.focus();
  return true;
}

function target(all: readonly Place[], from: Place, event: KeyboardEvent): Place | undefined {
  const sameRow = all.filter((p) => p.row === from.row).sort((a, b) => a.col - b.col);
  if (event.key === 'Home') return event.ctrlKey ? all[0] : sameRow[0];
  if (event.key === 'End') return event.ctrlKey ? all.at(-1) : sameRow.at(-1);
  const step = STEPS[event.key];
  if (step === undefined || event.ctrlKey) return undefined;
  if (step[1] !== 0) return sameRow[sameRow.indexOf(from) + step[1]] ?? from;
  const rows = [...new Set(all.map((p) => p.row))].sort((a, b) => a - b);
  const row = rows[rows.indexOf(from.row) + step[0]];
  if (row === undefined) return from;
  return all
    .filter((p) => p.row === row)
    .reduce((best, p) => (Math.abs(p.col - from.col) < Math.abs(best.col - from.col) ? p : best));
}
