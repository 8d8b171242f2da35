/** docs/language.md: the reference of the language, made of reference.ts and the tables. */
import { KERNEL_ERAS } from '../words/kernels';
import {
  type ControlField,
  INVEPT_TYPES,
  INVVPID_TYPES,
  SEGMENT_KINDS,
  VMCB,
  VMCB_SEGMENT_NAMES,
  VMCS_FIELDS,
  VMCS_SEGMENT_NAMES,
} from './control-fields';
import { CLAUSES, EXAMPLE_PRELUDE, GROUPS, NESTED_PRELUDES, REFERENCE, type ReferenceGroup } from './reference';
import {
  ENDS,
  ERRNOS,
  EVENT_FIELDS,
  EXCEPTIONS,
  INVPCID_TYPES,
  MACHINE_SETTINGS,
  MEMSLOT_FLAGS,
  MSR_NAMES,
  PF_ERROR_FLAGS,
  PTE_FLAGS,
  REGISTER_FLAGS,
  REGISTERS,
  SPTE_FIELDS,
  SPTE_KINDS,
  TLB_STATES,
  STATES,
  type Flag,
} from './tables';

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');
const code = (text: string): string => `\`${text}\``;
const fence = (text: string): string => `\`\`\`mmu\n${text.trimEnd()}\n\`\`\``;

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.map(cell).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

const record = (r: Readonly<Record<string, string>>, head: string): string =>
  table(
    [head, 'meaning'],
    Object.entries(r).map(([name, doc]) => [code(name), doc]),
  );

const flags = (list: readonly Flag[]): string => list.map((f) => code(f.name)).join(' ');

const INTRODUCTION = `# The scenario language

<!-- Made by scripts/gen-language-doc.ts from src/scenario/reference.ts and tables.ts: change those. -->

A \`.mmu\` file describes a machine, its memory and its vCPUs, and then what guests and user space do: one statement a line, in the
words of the KVM API and of assembler. \`expect\` statements make it a test. The grammar is src/scenario/mmu.langium; the scenarios in
examples/ are a good start.

In what follows \`x?\` and \`(x y)?\` are optional, \`x|y\` is either, \`…\` is more of the same, and words in capitals stand for values.
Brackets and braces are written as they stand.

## Lines, names and numbers

- A statement ends with its line. Blocks in braces (\`machine\`, \`vcpu\`, \`setregs\`, \`vmcb\`, \`vmwrite\`,
  \`repeat\`) may span lines.
- \`#\` begins a comment; only after \`expect\`, \`#PF\` and its kin are exceptions.
- Numbers are hexadecimal (\`0x1000\`), decimal or binary (\`0b1010\`), with \`_\` between digits where it helps, and with the units \`K\`, \`M\`,
  \`G\`, \`T\` (powers of 1024): \`640K\`, \`0x8000_0000\`, \`2M\`.
- A value is a number, a name given by \`let\`, or, where flags are meant, flag names: \`PG|WP|PE\`. \`+\` adds: \`uart+4\`, \`low+0x1000\`.
- What stands before \`expect\` is what it is about: an instruction for \`value\`, \`#PF\`, \`end\`, \`exits\`, \`mmio\`, \`io\`; an ioctl for
  \`errno\`; any statement for \`event\`. All others look at the state as it is.
- Without \`vcpu N:\` a statement is about vCPU 0, an \`expect\` about the vCPU of the statement before it.
- An ioctl that fails, or a KVM_RUN that cannot go on, ends the scenario unless an \`expect\` right after it names the outcome.`;

const types = (list: readonly Flag[]): string => list.map((t) => `${code(t.name)} (${t.bit}): ${t.doc}`).join('; ');

const fields = (list: readonly ControlField[]): string =>
  table(
    ['field', 'meaning', 'names'],
    list.map((f) => [code(f.name), f.doc, flags(f.flags ?? [])]),
  );

/** The page as Markdown, unformatted. */
export function languagePage(): string {
  const parts = [INTRODUCTION];
  for (const group of Object.keys(GROUPS) as ReferenceGroup[]) {
    parts.push(`## ${GROUPS[group]}`);
    for (const e of REFERENCE.filter((r) => r.group === group)) {
      parts.push(
        `### ${e.words}`,
        fence(e.syntax),
        e.doc,
        fence(e.kernel ? `# with kernel ${e.kernel}\n${e.example}` : e.example),
      );
      if (e.words === 'machine') parts.push(...machineTables());
    }
  }
  parts.push(
    '## Registers',
    table(
      ['register', 'meaning', 'flags'],
      REGISTERS.map((r) => [code(r.name), r.doc, flags(REGISTER_FLAGS[r.name] ?? [])]),
    ),
    '## Names',
    '### Memslot flags',
    table(
      ['flag', 'meaning'],
      MEMSLOT_FLAGS.map((f) => [code(f.name), f.doc]),
    ),
    '### Page-table flags of `map`',
    table(
      ['flag', 'meaning'],
      PTE_FLAGS.map((f) => [code(f.name), f.doc]),
    ),
    '### Error code of #PF',
    table(
      ['flag', 'bit', 'meaning'],
      PF_ERROR_FLAGS.map((f) => [code(f.name), `${f.bit.toString(2).length - 1}`, f.doc]),
    ),
    '### Exceptions',
    table(
      ['exception', 'vector', 'error code', 'meaning'],
      Object.entries(EXCEPTIONS).map(([name, e]) => [code(name), `${e.vector}`, e.error ? 'yes' : 'no', e.doc]),
    ),
    '### Errnos',
    table(
      ['errno', 'number'],
      Object.entries(ERRNOS).map(([name, n]) => [code(name), `${n}`]),
    ),
    '### Ways to end',
    record(ENDS, 'end'),
    '### MSRs',
    MSR_NAMES.map((m) => `${code(m.name)} (0x${m.bit.toString(16)})`).join(', '),
    '### Types of `invpcid`',
    types(INVPCID_TYPES),
    '### Fields of a VMCB',
    fields(VMCB),
    '### Fields of a VMCS',
    fields(VMCS_FIELDS),
    '### Flat segments',
    `For ${VMCB_SEGMENT_NAMES.map(code).join(' ')} of a VMCB and ${VMCS_SEGMENT_NAMES.map(code).join(' ')} of a VMCS.`,
    table(
      ['segment', 'meaning'],
      SEGMENT_KINDS.map((k) => [code(k.name), k.doc]),
    ),
    '### Types of `invept` and `invvpid`',
    types(INVEPT_TYPES),
    types(INVVPID_TYPES),
    '### What an spte is',
    record(SPTE_KINDS, 'kind'),
    record(SPTE_FIELDS, 'field'),
    'Further fields are the bits of the spte layout of the kernel (docs/words.md).',
    '### What a TLB entry is',
    record(TLB_STATES, 'state'),
    '### State',
    record(STATES, 'name'),
    '### Events',
    table(
      ['event', 'fields'],
      Object.entries(EVENT_FIELDS).map(([name, fields]) => [code(name), fields.map(code).join(' ')]),
    ),
    '## Words inside statements',
    record(CLAUSES, 'word'),
    '## What the examples above take as given',
    fence(EXAMPLE_PRELUDE),
    'Those of a guest hypervisor, beside that, with `vendor intel` and `features vmx`:',
    fence(NESTED_PRELUDES.vmx),
    'or with `vendor amd` and `features svm, npt`:',
    fence(NESTED_PRELUDES.svm),
  );
  return `${parts.join('\n\n')}\n`;
}

function machineTables(): string[] {
  const settings = MACHINE_SETTINGS.map((s) => {
    const values =
      s.kind === 'switch'
        ? 'on, off'
        : s.kind === 'number'
          ? `${s.range?.[0]} to ${s.range?.[1]}`
          : s.kind === 'kernel'
            ? 'see below'
            : Object.keys(s.values ?? {})
                .map(code)
                .join(' ');
    return [code(s.name), s.doc, values, s.default];
  });
  const named = MACHINE_SETTINGS.filter((s) => s.kind === 'names' || (s.kind === 'name' && s.name !== 'vendor'));
  return [
    table(['setting', 'meaning', 'values', 'default'], settings),
    'Lists (`features`, `processor`) have their members separated by commas; `none` is the empty list.',
    ...named.flatMap((s) => [`#### ${s.name}`, record(s.values ?? {}, 'value')]),
    '#### kernel',
    'Any release from the first to the last of this table, and the patch sets at its end.',
    table(
      ['kernel', 'what is new'],
      KERNEL_ERAS.map((e) => [code(e.id), e.title]),
    ),
  ];
}
