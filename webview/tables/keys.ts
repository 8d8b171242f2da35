/** What keys do in the list of entries. */
import type { TableRow } from '../../src/adapter/protocol';
import { kindOf } from './model';

/** Where the keyboard is, and what it can do. */
export interface Place {
  /** the entries that are listed */
  readonly rows: readonly TableRow[];
  /** index of the entry that is selected */
  readonly selected: number;
  /** rows that are seen at once */
  readonly page: number;
  select(index: number): void;
  descend(row: TableRow): void;
  up(): void;
  decode(row: TableRow): void;
  search(): void;
  goTo(): void;
}

/** What a key does, or undefined if nothing. */
export function keyAction(
  event: Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'altKey'>,
  place: Place,
): (() => void) | undefined {
  const { rows, page } = place;
  const at = Math.max(
    0,
    rows.findIndex((r) => r.index === place.selected),
  );
  const move = (to: number): void => {
    const row = rows[Math.max(0, Math.min(rows.length - 1, to))];
    if (row !== undefined) place.select(row.index);
  };
  /** The next entry that is not empty, for pages that are mostly holes. */
  const jump = (step: 1 | -1): void => {
    for (let i = at + step; i >= 0 && i < rows.length; i += step) {
      const row = rows[i];
      if (row !== undefined && kindOf(row) !== 'none') return place.select(row.index);
    }
  };
  const row = rows[at];
  const keys: Readonly<Record<string, () => void>> = {
    ArrowDown: () => (event.ctrlKey || event.altKey ? jump(1) : move(at + 1)),
    ArrowUp: () => (event.ctrlKey || event.altKey ? jump(-1) : move(at - 1)),
    PageDown: () => move(at + page),
    PageUp: () => move(at - page),
    Home: () => move(0),
    End: () => move(rows.length - 1),
    Enter: () => row && place.descend(row),
    ArrowRight: () => row && place.descend(row),
    Backspace: () => place.up(),
    ArrowLeft: () => place.up(),
    n: () => jump(1),
    p: () => jump(-1),
    d: () => row && place.decode(row),
    '/': () => place.search(),
    g: () => place.goTo(),
  };
  return keys[event.key];
}
