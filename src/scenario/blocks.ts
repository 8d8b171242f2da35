/** Which block a line is in, found on lines alone, so that it is right while the rest of the text is not. */

/** The block around a line. */
export type Block = 'scenario' | 'machine' | 'registers' | 'repeat' | 'vmcb' | 'vmwrite';

const BLOCKS: readonly Block[] = ['machine', 'repeat', 'vmcb', 'vmwrite'];

/** A line without texts and comments, as long as before up to the comment. */
export const codeOf = (line: string): string =>
  line.replace(/"[^"]*"?/g, (s) => ' '.repeat(s.length)).replace(/(?<!expect[ \t]+)#.*$/, '');

/** The block that is open at the end of `text`, and the line that opened it. */
export function openBlock(text: string): { block: Block; opener: string } {
  const stack: string[] = [];
  let statement = '';
  for (const line of text.split(/\r\n|\n|\r/)) {
    for (const c of codeOf(line)) {
      if (c === '{') {
        stack.push(statement.trim());
        statement = '';
      } else if (c === '}') {
        stack.pop();
        statement = '';
      } else statement += c;
    }
    statement = '';
  }
  const opener = stack.at(-1);
  if (opener === undefined) return { block: 'scenario', opener: '' };
  const word = /^(?:vcpu\b[^:]*:\s*)?(\w*)/.exec(opener)?.[1] ?? '';
  const block = BLOCKS.find((b) => b === word) ?? 'registers';
  return { block, opener };
}
