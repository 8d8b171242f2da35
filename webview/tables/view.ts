/** What the parts of the Tables view are given to draw, and what they tell it. */
import type { Virtualizer } from '@tanstack/virtual-core';
import type { TableBody, TableRow } from '../../src/adapter/protocol';
import type { FromTablesView } from '../messages';
import type { RowFilter } from './model';

/** One page of a table. */
export interface View {
  readonly body: TableBody;
  /** those that filter and search leave */
  readonly rows: readonly TableRow[];
  /** index of the entry that the keyboard is at */
  readonly selected: number;
  readonly filter: RowFilter;
  readonly search: string;
  /** null until there is an element to scroll */
  readonly virtual: Virtualizer<HTMLElement, HTMLElement> | null;
  up(): void;
  descend(row: TableRow): void;
  /** goes to another page of the same tree */
  show(path: readonly number[], select: number | null): void;
  /** selects an entry and scrolls to it */
  select(index: number): void;
  /** selects an entry that is seen */
  point(index: number): void;
  setFilter(filter: RowFilter): void;
  setSearch(search: string): void;
  focusGrid(): void;
  onKey(event: KeyboardEvent): void;
  send(message: FromTablesView): void;
}
