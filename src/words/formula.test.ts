import assert from 'node:assert/strict';
import { parseFormula } from './formula';

const value = (text: string, inputs: Record<string, number | undefined> = {}) => parseFormula(text).evaluate(inputs);

describe('formulas of role bits', () => {
  it('binds && tighter than ||, and comparison tighter than both', () => {
    assert.equal(value('1 || 0 && 0'), 1);
    assert.equal(value('(1 || 0) && 0'), 0);
    assert.equal(value('a = 5 && b', { a: 5, b: 1 }), 1);
    assert.equal(value('a = 5 && b', { a: 4, b: 1 }), 0);
  });

  it('reads a chain of conditions as the kernel writes it', () => {
    const level = 'EFER.LMA ? (CR4.LA57 ? 5 : 4) : CR4.PAE ? 3 : 2';
    assert.equal(value(level, { 'EFER.LMA': 1, 'CR4.LA57': 1 }), 5);
    assert.equal(value(level, { 'EFER.LMA': 1, 'CR4.LA57': 0 }), 4);
    assert.equal(value(level, { 'EFER.LMA': 0, 'CR4.PAE': 1 }), 3);
    assert.equal(value(level, { 'EFER.LMA': 0, 'CR4.PAE': 0 }), 2);
    assert.equal(value(`max(${level}, 3)`, { 'EFER.LMA': 0, 'CR4.PAE': 0 }), 3);
  });

  it('is unknown only where the unknown matters', () => {
    assert.equal(value('CR0.PG && CR4.SMEP', { 'CR0.PG': 0 }), 0);
    assert.equal(value('CR0.PG && CR4.SMEP', { 'CR0.PG': 1 }), undefined);
    assert.equal(value('CR4.SMEP || CR0.PG', { 'CR0.PG': 1 }), 1);
    assert.equal(value('!x'), undefined);
    assert.equal(value('x ? 4 : 4'), 4);
    assert.equal(value('x ? 4 : 5'), undefined);
  });

  it('lists the names it needs once each', () => {
    assert.deepEqual(parseFormula('CR4.SMEP && !CR0.WP || CR4.SMEP').names, ['CR4.SMEP', 'CR0.WP']);
  });

  it('names the place of a mistake', () => {
    assert.throws(() => parseFormula('CR0.PG && '), /expected a value before 'its end'/);
    assert.throws(() => parseFormula('(CR0.PG'), /expected '\)'/);
    assert.throws(() => parseFormula('CR0.PG CR0.WP'), /did not expect 'CR0.WP'/);
    assert.throws(() => parseFormula('CR0.PG § 1'), /cannot read '§ 1'/);
  });
});
