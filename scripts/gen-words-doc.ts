/** Writes docs/words.md, the reference of every word, from the tables in src/words: `npx tsx scripts/gen-words-doc.ts`. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import { referencePage } from '../src/words/reference-page';

/** Where the page lies. */
export const WORDS_PAGE = fileURLToPath(new URL('../docs/words.md', import.meta.url));

/** The page as it has to be on disk. */
export async function wordsPage(): Promise<string> {
  return format(referencePage(), { ...(await resolveConfig(WORDS_PAGE)), parser: 'markdown' });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(new URL('../docs/', import.meta.url), { recursive: true });
  writeFileSync(WORDS_PAGE, await wordsPage());
}
