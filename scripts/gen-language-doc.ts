/** Writes docs/language.md, the reference of the scenario language: `npx tsx scripts/gen-language-doc.ts`. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import { languagePage } from '../src/scenario/language-page';

/** Where the page lies. */
export const LANGUAGE_PAGE = fileURLToPath(new URL('../docs/language.md', import.meta.url));

/** The page as it has to be on disk. */
export async function languagePageOnDisk(): Promise<string> {
  return format(languagePage(), { ...(await resolveConfig(LANGUAGE_PAGE)), parser: 'markdown' });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(new URL('../docs/', import.meta.url), { recursive: true });
  writeFileSync(LANGUAGE_PAGE, await languagePageOnDisk());
}
