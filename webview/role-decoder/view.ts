/** What the parts of the Role Decoder are given to draw, and what they tell it. */
import type { Inputs } from '../../src/words/formula';
import type { Column, Row } from './model';

/** Which fields the list shows. */
export type Show = 'all' | 'set' | 'different';

/** Values of words by name; undefined is unknown. */
export type Words = Readonly<Record<string, bigint | undefined>>;

export interface View {
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
  readonly words: Words;
  readonly inputs: Inputs;
  readonly show: Show;
  /** the field under the pointer or the focus */
  readonly at: { readonly half: string; readonly name: string } | null;
  /** the registers are not those of a session */
  readonly whatIf: boolean;
  /** bits that are not as at the stop before */
  changedBits(column: Column): bigint;
  look(half: string, name: string): void;
  leave(): void;
  edit(column: Column, word: bigint): void;
  setShow(show: Show): void;
  setInput(name: string, value: number): void;
}
