import assert from 'node:assert/strict';
import { parseFormula } from '../../src/words/formula';
import { formulaText, piecesOf } from './formula-view';

const text = (formula: string, inputs = {}) => formulaText(parseFormula(formula), inputs);

describe('formulas as the view writes them', () => {
  it('writes conditions as a kernel developer would check them', () => {
    assert.equal(text('CR4.SMEP && !CR0.WP'), 'CR4.SMEP=1 && CR0.WP=0');
    assert.equal(text('CR0.PG && (EFER.NX || CR4.SMEP)'), 'CR0.PG=1 && (EFER.NX=1 || CR4.SMEP=1)');
    assert.equal(text('EFER.LMA ? (CR4.LA57 ? 5 : 4) : 2'), 'EFER.LMA=1 ? (CR4.LA57=1 ? 5 : 4) : 2');
  });

  it('shows inputs that are no bits with their value', () => {
    assert.equal(text('max(tdp_level, 3)'), 'max(tdp_level, 3)');
    assert.equal(text('tdp_level = 5 && is_smm', { tdp_level: 4 }), 'tdp_level (4) = 5 && is_smm=1');
  });

  it('says of each condition whether it holds', () => {
    const holds = (inputs: Record<string, number>) =>
      piecesOf(parseFormula('CR4.SMEP && !CR0.WP'), inputs)
        .filter((p) => p.condition)
        .map((p) => p.holds);
    assert.deepEqual(holds({ 'CR4.SMEP': 1, 'CR0.WP': 0 }), [true, true]);
    assert.deepEqual(holds({ 'CR4.SMEP': 0, 'CR0.WP': 1 }), [false, false]);
    assert.deepEqual(holds({}), [undefined, undefined]);
  });
});
