/**
 * Where a position is: in which block, in which statement, after which words. Works on lines, so that it stays right while the rest
 * of the text is not.
 */
import { codeOf, openBlock, type Block } from '../blocks';
import { lineWords } from '../syntax';

/** A position in its line. */
export interface LineContext {
  readonly block: Block;
  /** the line up to the word at the position */
  readonly before: string;
  /** the word at the position, up to it */
  readonly word: string;
  /** words of the statement before `word`, without a leading `vcpu N:` */
  readonly words: readonly string[];
  /** text that parses to the same place without the rest of the document */
  readonly prefix: string;
}

/** The context of an offset. */
export function lineContext(text: string, offset: number): LineContext {
  const start = Math.max(text.lastIndexOf('\n', offset - 1), text.lastIndexOf('\r', offset - 1)) + 1;
  const line = text.slice(start, offset);
  const word = /(?<=expect[ \t]+)#\w*$|[\w.-]*$/.exec(line)?.[0] ?? '';
  let before = line.slice(0, line.length - word.length);
  let { block, opener } = openBlock(text.slice(0, start));
  // A block that opens on this very line: `vcpu 0 { cr0 …`
  const brace = codeOf(before).lastIndexOf('{');
  if (brace >= 0 && !codeOf(before).slice(brace).includes('}')) {
    ({ block, opener } = openBlock(before));
    before = before.slice(brace + 1);
  }
  const all = lineWords(before);
  const words = all[0] === 'vcpu' && all[2] === ':' ? all.slice(3) : all;
  const head =
    block === 'scenario' ? '' : block === 'repeat' ? 'repeat forever {\n' : `${opener.replace(/^.*?:\s*/, '')} {\n`;
  return { block, before, word, words, prefix: `${head}${before}` };
}
