/**
 * A formula as the view writes it: `CR4.SMEP && !CR0.WP` becomes `CR4.SMEP=1 && CR0.WP=0`, each condition with whether it holds
 * now. Pure: text in, pieces out.
 */
import type { Formula, Inputs } from '../../src/words/formula';
import { INPUTS } from '../../src/words/role-origins';

/** A run of text; conditions say whether they hold, undefined where that is unknown. */
export interface Piece {
  readonly text: string;
  readonly condition: boolean;
  readonly holds: boolean | undefined;
}

const VALUED = new Set(INPUTS.filter((i) => i.values !== undefined).map((i) => i.name));

/** The pieces of a formula in order. */
export function piecesOf(formula: Formula, inputs: Inputs): readonly Piece[] {
  const tokens = formula.text.match(/\d+|[A-Za-z_][\w.]*|&&|\|\||<=|>=|[()!?:=<>,]/g) ?? [];
  const pieces: Piece[] = [];
  const plain = (text: string): void => void pieces.push({ text, condition: false, holds: undefined });
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i];
    const negated = token === '!' && /^[A-Za-z_]/.test(tokens[i + 1] ?? '');
    const name = negated ? tokens[i + 1] : token;
    if (negated) i++;
    if (/^[A-Za-z_]/.test(name) && name !== 'max' && !VALUED.has(name)) {
      const value = inputs[name];
      const wanted = negated ? 0 : 1;
      pieces.push({
        text: `${name}=${wanted}`,
        condition: true,
        holds: value === undefined ? undefined : value === wanted,
      });
    } else if (VALUED.has(name)) {
      const value = inputs[name];
      plain(value === undefined ? name : `${name} (${value})`);
    } else if (/^(&&|\|\||[?:=<>]|<=|>=)$/.test(token)) plain(` ${token} `);
    else if (token === ',') plain(', ');
    else plain(token);
  }
  return pieces;
}

/** The same as one string. */
export function formulaText(formula: Formula, inputs: Inputs): string {
  return piecesOf(formula, inputs)
    .map((p) => p.text)
    .join('');
}
