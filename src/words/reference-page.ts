/** The reference page docs/words.md, made of the same tables that decode: `npx tsx scripts/gen-words-doc.ts`. */
import { formatHex } from './address';
import { CR0, CR4, EFER, PKRU, RFLAGS } from './controls';
import { entryLayouts } from './entries';
import {
  CR_QUALIFICATION,
  EPT_QUALIFICATION,
  INTERRUPTION_INFO,
  IOIO_EXITINFO1,
  IO_QUALIFICATION,
  KVM_EXIT_REASON,
  NPF_EXITINFO1,
  PFERR_ERAS,
  PF_ERROR_CODE,
  RET_PF_MEANINGS,
  SPP_QUALIFICATION,
  SVM_EXIT_CODE,
  VMX_EXIT_REASON,
  eptConversionText,
  memslotFlagsLayout,
  retPf,
} from './errors';
import { KERNEL_ERAS, RELEASES, joinRanges, rangeText } from './kernels';
import { cr3Layout, eptpLayout, ncr3Layout, spptpLayout } from './pointers';
import { EXTENDED_ROLES, PAGE_ROLES, mmuWords } from './roles';
import type { RoleEra } from './roles';
import type { PagingType, SpteEra } from './sptes';
import { SPTE_ERAS, spteLayout, spteWord } from './sptes';
import { decodableWords } from './word-names';
import type { WordLayout } from './word';
import { bitList, bitSpan } from './word';

/** The page as Markdown, before Prettier. */
export function referencePage(): string {
  return [
    ...intro(),
    ...roles(),
    ...sptes(),
    ...errorCodes(),
    ...returnValues(),
    ...registers(),
    ...entries(),
    ...exits(),
    '',
  ].join('\n');
}

const cell = (text: string) => text.replaceAll('|', '\\|').replaceAll('\n', ' ');

function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const row = (cells: readonly string[]) => `| ${cells.map(cell).join(' | ')} |`;
  return ['', row(head), row(head.map(() => '---')), ...rows.map(row), ''];
}

/** Named values in a cell, as far as a reader can use them there. */
function valuesText(values: Readonly<Record<number, string>> | undefined): string {
  const entries = Object.entries(values ?? {});
  if (entries.length === 0 || entries.length > 16) return '';
  return ` ${entries.map(([v, name]) => `${v} ${name}`).join('; ')}.`;
}

function layoutTable(layout: WordLayout): string[] {
  const rows = layout.fields.map((f) => [
    bitSpan(f),
    `\`${f.name}\``,
    f.meaning + valuesText(f.values) + (f.from ? ` From ${f.from}.` : ''),
  ]);
  const about = [`Source: ${layout.source}.`, ...(layout.notes ?? [])];
  return [...table(['bits', 'field', 'meaning'], rows), ...about.flatMap((line) => [line, ''])];
}

function section(level: number, title: string, body: readonly string[]): string[] {
  return ['', `${'#'.repeat(level)} ${title}`, '', ...body];
}

function intro(): string[] {
  return [
    '# Words',
    '',
    'Every word that MMU Scope decodes, field by field, from the tables that decode it (`src/words`). A word is always read',
    'under a layout: that of a kernel, a vendor, a paging mode, a level. Bits in no field are reserved or unused.',
    '',
    'This page is generated: change the tables, then run `npx tsx scripts/gen-words-doc.ts`.',
    ...section(2, 'Names for decoding', [
      'What `mmuscope decode VALUE --as NAME` and the command _MMU Scope: Decode Value…_ take. Without a name every layout',
      'that fits is offered, the likeliest first.',
      ...table(
        ['name', 'also', 'word'],
        decodableWords().map((w) => [`\`${w.name}\``, w.aliases.map((a) => `\`${a}\``).join(', '), w.description]),
      ),
    ]),
    ...section(2, 'Kernels', [
      `Any release from ${RELEASES[0]} to ${RELEASES.at(-1)!} can be named (\`6.1\`, \`v6.1.176\`, \`6.1.0-50-amd64\`), and these patch sets. The list has`,
      'the releases in which something changed.',
      ...table(
        ['kernel', 'what is new'],
        KERNEL_ERAS.map((e) => [`\`${e.id}\``, e.title]),
      ),
    ]),
  ];
}

function roles(): string[] {
  const union = (name: string, eras: readonly RoleEra[]) =>
    section(3, `union ${name}`, [
      ...matrix(eras),
      ...meanings(eras),
      ...eras.flatMap(({ layout }) => {
        const era = layout.id.split('@')[1];
        return [
          `- **${era}** (${layout.kernels}): ${[layout.source.split(': ')[1], ...(layout.notes ?? [])].join('. ')}`,
        ];
      }),
      '',
    ]);
  const words = new Map<string, { kernels: string[]; text: string[] }>();
  for (const release of RELEASES) {
    const { holder, words: held } = mmuWords(release);
    const text = [holder, held.map((w) => `\`${w.name}\` (${w.type}, ${w.bits} bits)`).join(', ')];
    const entry = words.get(text.join()) ?? { kernels: [], text };
    entry.kernels.push(release);
    words.set(text.join(), entry);
  }
  const seed = mmuWords('seed1');
  const held = [...words.values()].map((w) => [joinRanges(w.kernels.map((k) => ({ from: k, to: k }))), ...w.text]);
  held.push(['seed1', seed.holder, seed.words.map((w) => `\`${w.name}\` (${w.type}, ${w.bits} bits)`).join(', ')]);
  return section(2, 'Roles', [
    'A role says what a shadow page is for. KVM looks pages up by the whole word.',
    ...union('kvm_mmu_page_role', PAGE_ROLES),
    ...union('kvm_mmu_extended_role', EXTENDED_ROLES),
    ...section(3, 'Role words of an MMU', [
      'The 64-bit unions `kvm_mmu_role` (v4.20 .. v5.18) and `kvm_cpu_role` (v5.19 and later) are the page role in bits 31:0',
      'and the extended role in bits 63:32.',
      ...table(['kernels', 'held by', 'words'], held),
    ]),
  ]);
}

/** Fields in rows, layouts in columns, bits in cells. */
function matrix(eras: readonly RoleEra[]): string[] {
  const names = fieldNames(eras);
  const rows = names.map((name) => [
    `\`${name}\``,
    ...eras.map(({ layout }) => {
      const field = layout.fields.find((f) => f.name === name);
      return field ? bitSpan(field) : '';
    }),
  ]);
  return table(['field', ...eras.map((e) => e.layout.id.split('@')[1])], rows);
}

function fieldNames(eras: readonly RoleEra[]): string[] {
  return [...new Set(eras.flatMap((e) => e.layout.fields.map((f) => f.name)))];
}

function meanings(eras: readonly RoleEra[]): string[] {
  const rows = fieldNames(eras).flatMap((name) => {
    const fields = eras.flatMap((e) => e.layout.fields.filter((f) => f.name === name));
    const texts = [...new Set(fields.map((f) => f.meaning))];
    return texts.map((meaning) => {
      const field = fields.find((f) => f.meaning === meaning)!;
      return [`\`${name}\``, meaning + valuesText(field.values), field.from ?? ''];
    });
  });
  return table(['field', 'meaning', 'from'], rows);
}

function sptes(): string[] {
  const type = (pagingType: PagingType, title: string) => {
    const eras = SPTE_ERAS.filter((e) => e.pagingType === pagingType);
    return section(3, title, [
      ...spteMatrix(eras),
      ...eras.flatMap((era) => {
        const notes = [era.checked, ...era.notes].join('. ');
        return [`- **${era.era}** (${era.ranges.map(rangeText).join(', ')}): ${era.source}. ${notes}`];
      }),
      ...eras.flatMap((era) => spteTables(era)),
    ]);
  };
  return section(2, 'Shadow PTEs', [
    'Shadow-present is what KVM goes by; the processor looks at its own bits only. Masks that depend on the host are',
    'given for 46 physical address bits without L1TF. On a host with L1TF an MMIO spte has ones in the five highest',
    'address bits, and the frame bits they displace five bits higher.',
    ...type('ept', 'EPT format'),
    ...type('legacy', 'NPT and shadow paging format'),
  ]);
}

function spteMatrix(eras: readonly SpteEra[]): string[] {
  const layouts = eras.map((e) => spteLayout(e.era, e.pagingType));
  const row = (name: string, value: (era: SpteEra, i: number) => string) => [name, ...eras.map(value)];
  const at = (mask: bigint) => bitList(mask);
  const hex = (value: bigint) => formatHex(value);
  return table(
    ['', ...eras.map((e) => e.era)],
    [
      row('shadow-present', (e) => (e.present === 'bit 11' ? 'bit 11' : `${e.present}, not MMIO`)),
      row('host-writable', (_, i) => at(layouts[i].hostWritable)),
      row('MMU-writable', (_, i) => at(layouts[i].mmuWritable)),
      row('accessed', (_, i) => at(layouts[i].accessed)),
      row('dirty', (_, i) => at(layouts[i].dirty)),
      row('A/D type', (_, i) => at(layouts[i].adType)),
      row('access tracking saves', (e) =>
        e.accTrackSaved
          ? `${at(e.accTrackSaved.savedBits)} at ${at(e.accTrackSaved.savedBits << BigInt(e.accTrackSaved.shift))}`
          : '',
      ),
      row('MMIO mask', (_, i) => hex(layouts[i].mmio.mask)),
      row('MMIO value', (_, i) => hex(layouts[i].mmio.value)),
      row('MMIO access bits', (_, i) => at(BigInt(layouts[i].mmio.accessMask) & ~layouts[i].mmio.mask)),
      row('generation bits', (e) => (e.mmio.genBits ? String(e.mmio.genBits) : '')),
      row('generation: spte bits', (_, i) => at(layouts[i].mmio.genField)),
      row('L1TF ones', (e) => e.l1tf),
      row('empty entry', (_, i) => hex(layouts[i].nonpresentValue)),
      row('frozen entry', (e) => (e.frozen ? `${e.frozen.name} ${hex(e.frozen.value)}` : '')),
    ],
  );
}

function spteTables(era: SpteEra): string[] {
  const l = spteLayout(era.era, era.pagingType);
  const kinds = ['leaf', ...(era.accTrackSaved ? (['tracked'] as const) : []), 'table', 'mmio'] as const;
  return kinds.flatMap((kind) => {
    const layout = spteWord(l, kind, kind === 'table' ? 2 : 1);
    const rows = layout.fields.map((f) => [bitSpan(f), `\`${f.name}\``, f.meaning + valuesText(f.values)]);
    return section(4, `${era.era} ${layout.title}`, table(['bits', 'field', 'meaning'], rows));
  });
}

function errorCodes(): string[] {
  const kernels = ['v3.6', 'v4.4', 'v6.1', 'v7.3'];
  return section(2, 'Error codes', [
    ...[PF_ERROR_CODE, ...PFERR_ERAS.map((e) => e.layout), EPT_QUALIFICATION, NPF_EXITINFO1, SPP_QUALIFICATION].flatMap(
      (layout) => section(3, layout.title, layoutTable(layout)),
    ),
    ...section(3, 'What KVM makes of an EPT violation', [
      'The error code that the handler passes to `kvm_mmu_page_fault`, from the exit qualification q.',
      ...table(
        ['as in', 'formula', 'source'],
        kernels.map((k) => [k, eptConversionText(k).formula, eptConversionText(k).source]),
      ),
    ]),
  ]);
}

function returnValues(): string[] {
  const kernels = ['v3.6', 'v4.4', 'v4.19', 'v5.10', 'v6.1', 'v6.12', 'spp-v12'];
  const numbers = kernels.map((k) => retPf(k));
  const names = Object.keys(RET_PF_MEANINGS).filter((name) => numbers.some((n) => name in n));
  return section(2, 'Return values of the page-fault path', [
    ...table(
      ['name', ...kernels, 'meaning'],
      names.map((name) => [
        `\`${name}\``,
        ...numbers.map((n) => (name in n ? String(n[name]) : '')),
        RET_PF_MEANINGS[name],
      ]),
    ),
    ...section(3, 'Memslot flags', layoutTable(memslotFlagsLayout('v7.3'))),
  ]);
}

function registers(): string[] {
  const layouts = [
    ...[CR0, CR4, EFER, RFLAGS],
    ...(['long', 'long-pcid', 'pae', '32-bit'] as const).map((mode) => cr3Layout(mode)),
    ...[eptpLayout(), spptpLayout(), ncr3Layout()],
  ];
  return section(2, 'Registers and table pointers', [
    'Flag lists are written `PG|WP|PE`, in any case and order, with numbers among them; a wider field is `IOPL=3`.',
    ...layouts.flatMap((layout) => section(3, layout.title, layoutTable(layout))),
    ...section(3, 'PKRU and IA32_PKRS', [
      `Two bits for each of 16 keys. ${PKRU.fields[0].meaning} ${PKRU.fields[1].meaning} IA32_PKRS has the same for supervisor pages.`,
    ]),
  ]);
}

function entries(): string[] {
  // 4-level entries are those of 5-level paging without the top one.
  const layouts = entryLayouts().filter((l) => !l.id.startsWith('gpte/4-level') && l.id !== 'sppte/L1E');
  return section(2, 'Table entries', [
    'Addresses are shown with 52 bits; bits from MAXPHYADDR to 51 are reserved. 4-level paging has the entries of 5-level',
    'paging without the PML5E.',
    ...layouts.flatMap((layout) => section(3, layout.title, layoutTable(layout))),
    ...section(3, 'SPPT L1E', [
      'Bit 2i is 1 if sub-page i (128 bytes, guest physical address bits 11:7 = i) is writable; odd bits are reserved.',
    ]),
  ]);
}

function exits(): string[] {
  const list = (layout: WordLayout) => {
    const values = Object.entries(layout.fields[0].values ?? {});
    const hex = layout.fields[0].format === 'hex';
    return section(3, layout.title, [
      ...table(
        ['value', 'name'],
        values.map(([v, name]) => [hex ? formatHex(Number(v)) : v, name]),
      ),
      `Source: ${layout.source}.`,
      '',
      ...(layout.notes ?? []),
    ]);
  };
  return section(2, 'Exits', [
    ...[VMX_EXIT_REASON, SVM_EXIT_CODE, KVM_EXIT_REASON].flatMap(list),
    ...[INTERRUPTION_INFO, CR_QUALIFICATION, IO_QUALIFICATION, IOIO_EXITINFO1].flatMap((layout) =>
      section(3, layout.title, layoutTable(layout)),
    ),
  ]);
}
