import assert from 'node:assert/strict';
import { openBlock } from '../blocks';
import { lineContext } from './line-context';

const at = (text: string): ReturnType<typeof lineContext> => {
  const offset = text.indexOf('§');
  return lineContext(text.replace('§', ''), offset);
};

describe('the block around a line', () => {
  it('is found by braces that count', () => {
    assert.equal(openBlock('').block, 'scenario');
    assert.equal(openBlock('machine {\n').block, 'machine');
    assert.equal(openBlock('machine {\n}\n').block, 'scenario');
    assert.equal(openBlock('vcpu 0 {\n').block, 'registers');
    assert.equal(openBlock('vcpu 1: setregs {\n').block, 'registers');
    assert.equal(openBlock('repeat 2 {\n machine {\n}\n').block, 'repeat');
    assert.equal(openBlock('# machine {\nnote "machine {"\n').block, 'scenario');
    assert.equal(openBlock('}\n').block, 'scenario');
  });
});

describe('the place of a position', () => {
  it('is its block, the words before it and the word at it', () => {
    assert.deepEqual(at('hlt\nvcpu 1: load 4 [ua§rt]'), {
      block: 'scenario',
      before: 'vcpu 1: load 4 [',
      word: 'ua',
      words: ['load', '4', '['],
      prefix: 'vcpu 1: load 4 [',
    });
    assert.equal(at('machine {\n kernel v§').prefix, 'machine {\n kernel ');
    assert.equal(at('vcpu 1: setregs {\n cr0 P§').prefix, 'setregs {\n cr0 ');
    const inline = at('vcpu 0 { cr0 PG|W§ }');
    assert.deepEqual([inline.block, inline.word, inline.words], ['registers', 'W', ['cr0', 'PG', '|']]);
    assert.equal(at('vcpu 0 { cr0 PG } §').block, 'scenario');
    assert.equal(at('expect #P§').word, '#P');
  });
});
