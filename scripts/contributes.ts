/**
 * Writes what the extension contributes into package.json, out of src/extension/contributes.ts and the tables that it reads.
 *
 *   npx tsx scripts/contributes.ts
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { MANIFEST, contributes } from '../src/extension/contributes';

const FILE = new URL('../package.json', import.meta.url);

const manifest = JSON.parse(readFileSync(FILE, 'utf8')) as Record<string, unknown>;
const text = JSON.stringify({ ...manifest, ...MANIFEST, contributes: contributes() }, null, 2);
writeFileSync(FILE, `${text}\n`);
