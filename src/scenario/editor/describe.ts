/** Markdown for hovers and completions, and what a document says about itself. */
import type { ReferenceEntry } from '../reference';
import { readNumber } from '../numbers';
import type { Name } from './names';

const fence = (code: string): string => `\`\`\`mmu\n${code}\n\`\`\``;

/** A statement of the reference. */
export const describeEntry = (e: ReferenceEntry): string => `${fence(e.syntax)}\n\n${e.doc}\n\n${fence(e.example)}`;

/** Constants and backings of a text, whether or not the rest of it is right. */
export function documentNames(text: string): Name[] {
  const names: Name[] = [];
  for (const m of text.matchAll(/^[ \t]*(let|backing)[ \t]+([A-Za-z_][\w.-]*)[ \t]*=?[ \t]*([^#\r\n]*)/gm)) {
    const [, kind, name, rest] = m;
    names.push(
      kind === 'let'
        ? { name, kind: 'constant', doc: `= ${rest.trim()}` }
        : { name, kind: 'backing', doc: `backing of ${rest.trim()}` },
    );
  }
  return names;
}

/** The kernel that a text names in its machine block. */
export const kernelOf = (text: string): string | null => /^[^#\n]*\bkernel[ \t]+([\w.+~-]+)/m.exec(text)?.[1] ?? null;
/** The vendor that it names. */
export const vendorOf = (text: string): 'intel' | 'amd' =>
  /^[^#\n]*\bvendor[ \t]+amd\b/m.test(text) ? 'amd' : 'intel';

/** Paging-structure indices of a linear address, largest level first, and the offset in the page. */
export function indices(address: bigint): string {
  const index = (level: number): string => `${(address >> BigInt(12 + 9 * (level - 1))) & 511n}`;
  return `PML4 ${index(4)} · PDPT ${index(3)} · PD ${index(2)} · PT ${index(1)} · offset 0x${(address & 0xfffn).toString(16)}`;
}

/** A literal in the ways people write it. */
export function describeNumber(text: string): string | null {
  const { value } = readNumber(text);
  if (value === null) return null;
  const forms = [`0x${value.toString(16)}`, value.toString()];
  if (value !== 0n && value < 1n << 16n) forms.push(`0b${value.toString(2)}`);
  for (const [unit, shift] of [
    ['G', 30n],
    ['M', 20n],
    ['K', 10n],
  ] as const) {
    if (value !== 0n && (value & ((1n << shift) - 1n)) === 0n) {
      forms.push(`${value >> shift}${unit}`);
      break;
    }
  }
  return [...new Set(forms)].map((f) => `\`${f}\``).join(' = ');
}
