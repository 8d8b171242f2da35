/** Writes docs/audit.md, the invariants that the audit checks, from src/kvm/audit.ts: `npx tsx scripts/gen-audit-doc.ts`. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import { AUDIT_RULES, type AuditRule } from '../src/kvm/audit';

/** Where the page lies. */
export const AUDIT_PAGE = fileURLToPath(new URL('../docs/audit.md', import.meta.url));

/** Headings by the letter of an id, in the order of the page. */
const PARTS: Readonly<Record<string, string>> = {
  A: 'The rules of the kernel’s mmu_audit.c',
  R: 'Reverse maps',
  E: 'Entries',
  M: 'Cached MMIO',
  D: 'Dirty logging',
  H: 'Pages',
  C: 'Counts',
  U: 'Unsync pages',
  L: 'Links',
  V: 'vCPUs',
  S: 'Sub-page permissions',
};

const cell = (text: string): string => text.replaceAll('|', '\\|');
const row = (r: AuditRule): string => `| ${r.id} | ${cell(r.sentence)} | ${cell(r.reference)} |`;

/** The page as it has to be on disk. @throws Error if a rule belongs to no part */
export async function auditPage(): Promise<string> {
  const stray = AUDIT_RULES.find((r) => !(r.id[0] in PARTS));
  if (stray !== undefined) throw new Error(`rule ${stray.id} belongs to no part of the page: add one to PARTS`);
  const sections = Object.entries(PARTS).map(([letter, heading]) => [
    `## ${heading}`,
    '',
    '| rule | what has to hold | where the kernel relies on it |',
    '| --- | --- | --- |',
    ...AUDIT_RULES.filter((r) => r.id.startsWith(letter)).map(row),
  ]);
  const text = [
    '# The audit',
    '',
    '<!-- Written by scripts/gen-audit-doc.ts from src/kvm/audit.ts. Do not edit. -->',
    '',
    'Invariants of KVM’s MMU, checked on any state of the simulated machine. Older kernels could check some of them themselves',
    '(mmu_audit.c, with CONFIG_MMU_AUDIT); those keep their numbers here, as far as they fit later kernels. A finding names the rule, the',
    'shadow page with its role, the entry, and why it is wrong. `src/kvm/audit.test.ts` plants a defect for each rule.',
    '',
    '- `npx mmuscope audit FILE.mmu` runs a scenario and audits its end; with `--points` also at the six places where mmu_audit.c was called.',
    '- `audit` in the debug console audits the state where the debugger stands.',
    '- In a scenario, `audit` checks all rules, `expect audit clean` or `expect audit A1` says what must come out, and `poke spte …` plants a',
    '  defect.',
    ...sections.flatMap((s) => ['', ...s]),
    '',
  ].join('\n');
  return format(text, { ...(await resolveConfig(AUDIT_PAGE)), parser: 'markdown' });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(new URL('../docs/', import.meta.url), { recursive: true });
  writeFileSync(AUDIT_PAGE, await auditPage());
}
