/** Writes docs/rules.md, the rules of address translation, from src/hw/rules.ts: `npx tsx scripts/gen-rules-doc.ts`. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import { QUIRKS } from '../src/hw/features';
import { RULES, type Rule } from '../src/hw/rules';

/** Where the page lies. */
export const RULES_PAGE = fileURLToPath(new URL('../docs/rules.md', import.meta.url));

/** Headings by the part of an id before its dot, in the order of the page. */
const PARTS: Readonly<Record<string, string>> = {
  la: 'Linear addresses',
  pg: 'Guest paging and nested paging (NPT)',
  npt: 'Nested paging as a whole',
  ept: 'Extended page tables (EPT)',
  pml: 'Page-modification logging',
  ve: 'Virtualization exceptions',
  spp: 'Sub-page write permissions (SPP)',
  eptp: 'The EPT pointer, at VM entry',
  spptp: 'The SPPT pointer, at VM entry',
};

const cell = (text: string): string => text.replaceAll('|', '\\|');

function row({ id, sentence, consequence, reference }: Rule): string {
  return `| \`${id}\` | ${cell(sentence)} | ${cell(consequence)} | ${cell(reference)} |`;
}

/** The page as it has to be on disk. @throws Error if a rule belongs to no part */
export async function rulesPage(): Promise<string> {
  const rules = RULES.slice(1);
  const stray = rules.find((r) => !(r.id.split('.')[0] in PARTS));
  if (stray !== undefined) throw new Error(`rule ${stray.id} belongs to no part of the page: add one to PARTS`);
  const sections = Object.entries(PARTS).map(([part, heading]) => {
    const table = rules.filter((r) => r.id.startsWith(`${part}.`)).map(row);
    return [
      `## ${heading}`,
      '',
      '| rule | what has to hold | else | stated in |',
      '| --- | --- | --- | --- |',
      ...table,
    ];
  });
  const quirks = Object.entries(QUIRKS).map(([name, what]) => `| \`${name}\` | ${cell(what)} |`);
  const text = [
    '# The rules of address translation',
    '',
    '<!-- Written by scripts/gen-rules-doc.ts from src/hw/rules.ts. Do not edit. -->',
    '',
    'Every check that the simulated processor makes has a rule here. A why-record names the rules that were checked at each table entry,',
    'whether they held, and the register or control bit that asked for them. `src/hw/rules.test.ts` has two cases for each: one where it',
    'bites and one where it does not.',
    '',
    'SDM is the Intel 64 and IA-32 Architectures Software Developer’s Manual, APM the AMD64 Architecture Programmer’s Manual. Sections',
    'are named by their titles, because their numbers differ between editions.',
    ...sections.flatMap((s) => ['', ...s]),
    '',
    '## Deviations of emulated processors',
    '',
    'Without these names the processor is silicon as the manuals describe it. A run made on an emulator is repeated exactly with them.',
    '',
    '| quirk | what it does |',
    '| --- | --- |',
    ...quirks,
    '',
  ].join('\n');
  return format(text, { ...(await resolveConfig(RULES_PAGE)), parser: 'markdown' });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(new URL('../docs/', import.meta.url), { recursive: true });
  writeFileSync(RULES_PAGE, await rulesPage());
}
