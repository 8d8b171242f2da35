/** Registers that decide how a walk goes, flag by flag, and flag lists as people write them: `PG|WP|PE`. */
import { WordError, formatHex, parseNumber } from './address';
import type { WordField, WordLayout } from './word';
import { bits, decodeWord } from './word';

type Row = readonly [name: string, bit: number, meaning: string];
const flags = (rows: readonly Row[]): WordField[] =>
  rows.map(([name, lsb, meaning]) => ({ name, lsb, width: 1, meaning }));

/** CR0. */
export const CR0: WordLayout = {
  id: 'cr0',
  word: 'cr0',
  title: 'CR0',
  size: 64,
  source: 'SDM vol. 3A, 2.5 control registers',
  summarize: (field) => highFirst(CR0, field),
  fields: flags([
    ['PE', 0, 'Protected mode.'],
    ['MP', 1, 'Monitor coprocessor.'],
    ['EM', 2, 'Emulate the FPU.'],
    ['TS', 3, 'Task switched.'],
    ['ET', 4, 'Extension type, always 1.'],
    ['NE', 5, 'Numeric errors raise #MF.'],
    ['WP', 16, 'Supervisor writes respect read-only pages.'],
    ['AM', 18, 'Alignment check mask.'],
    ['NW', 29, 'Not write-through.'],
    ['CD', 30, 'Cache disable.'],
    ['PG', 31, 'Paging.'],
  ]),
};

/** CR4. */
export const CR4: WordLayout = {
  id: 'cr4',
  word: 'cr4',
  title: 'CR4',
  size: 64,
  source: 'SDM vol. 3A, 2.5 control registers; linear-address masking and FRED in recent editions',
  summarize: (field) => highFirst(CR4, field),
  fields: flags([
    ['VME', 0, 'Virtual-8086 mode extensions.'],
    ['PVI', 1, 'Protected-mode virtual interrupts.'],
    ['TSD', 2, 'RDTSC only at CPL 0.'],
    ['DE', 3, 'Debugging extensions.'],
    ['PSE', 4, '4M pages in 32-bit paging.'],
    ['PAE', 5, '8-byte entries, physical addresses above 32 bits.'],
    ['MCE', 6, 'Machine check.'],
    ['PGE', 7, 'Global pages.'],
    ['PCE', 8, 'RDPMC at any CPL.'],
    ['OSFXSR', 9, 'FXSAVE and SSE.'],
    ['OSXMMEXCPT', 10, 'Unmasked SIMD exceptions raise #XM.'],
    ['UMIP', 11, 'SGDT, SIDT, SLDT, SMSW, STR only at CPL 0.'],
    ['LA57', 12, '5-level paging in long mode.'],
    ['VMXE', 13, 'VMX.'],
    ['SMXE', 14, 'SMX.'],
    ['FSGSBASE', 16, 'RDFSBASE and its like.'],
    ['PCIDE', 17, 'Process-context identifiers.'],
    ['OSXSAVE', 18, 'XSAVE.'],
    ['KL', 19, 'Key locker.'],
    ['SMEP', 20, 'No supervisor execution of user pages.'],
    ['SMAP', 21, 'No supervisor access to user pages, unless EFLAGS.AC.'],
    ['PKE', 22, 'Protection keys of user pages (PKRU).'],
    ['CET', 23, 'Control-flow enforcement.'],
    ['PKS', 24, 'Protection keys of supervisor pages (IA32_PKRS).'],
    ['UINTR', 25, 'User interrupts.'],
    ['LASS', 27, 'Linear-address-space separation.'],
    ['LAM_SUP', 28, 'Linear-address masking of supervisor pointers.'],
    ['FRED', 32, 'Flexible return and event delivery.'],
  ]),
};

/** IA32_EFER. */
export const EFER: WordLayout = {
  id: 'efer',
  word: 'efer',
  title: 'EFER',
  size: 64,
  source: 'SDM vol. 3A, 2.2.1 extended feature enable register; APM vol. 2, 3.1.7',
  summarize: (field) => highFirst(EFER, field),
  fields: flags([
    ['SCE', 0, 'SYSCALL.'],
    ['LME', 8, 'Long mode once paging is on.'],
    ['LMA', 10, 'Long mode is active.'],
    ['NX', 11, 'Bit 63 of an entry forbids execution.'],
    ['SVME', 12, 'SVM.'],
    ['LMSLE', 13, 'Long-mode segment limits.'],
    ['FFXSR', 14, 'Fast FXSAVE.'],
    ['TCE', 15, 'Translation cache extension.'],
    ['MCOMMIT', 17, 'MCOMMIT.'],
    ['INTWB', 18, 'Interruptible WBINVD.'],
    ['UAIE', 20, 'Upper address ignore.'],
    ['AIBRSE', 21, 'Automatic IBRS.'],
  ]),
};

/** RFLAGS. */
export const RFLAGS: WordLayout = {
  id: 'rflags',
  word: 'rflags',
  title: 'RFLAGS',
  size: 64,
  source: 'SDM vol. 1, 3.4.3 EFLAGS register',
  summarize: (field) => highFirst(RFLAGS, field),
  fields: [
    ...flags([
      ['CF', 0, 'Carry.'],
      ['FIXED', 1, 'Always 1.'],
      ['PF', 2, 'Parity.'],
      ['AF', 4, 'Auxiliary carry.'],
      ['ZF', 6, 'Zero.'],
      ['SF', 7, 'Sign.'],
      ['TF', 8, 'Single step.'],
      ['IF', 9, 'Interrupts.'],
      ['DF', 10, 'Direction.'],
      ['OF', 11, 'Overflow.'],
    ]),
    { name: 'IOPL', lsb: 12, width: 2, meaning: 'I/O privilege level.' },
    ...flags([
      ['NT', 14, 'Nested task.'],
      ['RF', 16, 'Resume.'],
      ['VM', 17, 'Virtual-8086 mode.'],
      ['AC', 18, 'Alignment check; at CPL < 3 it suspends SMAP.'],
      ['VIF', 19, 'Virtual interrupts.'],
      ['VIP', 20, 'Virtual interrupt pending.'],
      ['ID', 21, 'CPUID exists.'],
    ]),
  ],
};

function keyRights(word: 'pkru' | 'pkrs', title: string, source: string, pages: string): WordLayout {
  const fields = Array.from({ length: 16 }, (_, key): WordField[] => [
    { name: `AD${key}`, lsb: 2 * key, width: 1, meaning: `No data access to ${pages} pages with key ${key}.` },
    { name: `WD${key}`, lsb: 2 * key + 1, width: 1, meaning: `No writing to ${pages} pages with key ${key}.` },
  ]).flat();
  const layout: WordLayout = {
    id: word,
    word,
    title,
    size: 32,
    source,
    fields,
    summarize: (f) => highFirst(layout, f),
  };
  return layout;
}

/** PKRU: two bits for each protection key, for user pages. */
export const PKRU = keyRights('pkru', 'PKRU', 'SDM vol. 3A, 4.6.2 protection keys', 'user');
/** IA32_PKRS: the same for supervisor pages. */
export const PKRS = keyRights('pkrs', 'IA32_PKRS', 'SDM vol. 3A, 4.6.2 protection keys (MSR 6E1H)', 'supervisor');

/** Other spellings that are read, never written. */
const ALIASES: Readonly<Record<string, string>> = { NXE: 'NX' };

function highFirst(layout: WordLayout, field: (name: string) => bigint): string {
  const set = layout.fields.filter((f) => field(f.name) !== 0n);
  return set
    .reverse()
    .map((f) => (f.width === 1 ? f.name : `${f.name}=${field(f.name)}`))
    .join('|');
}

/**
 * A register as a flag list, highest bit first: `PG|WP|PE`. Wider fields are `IOPL=3`, unknown bits a hex number at the
 * end; no bit at all is `0`. `parseFlags` reads it back.
 */
export function formatFlags(layout: WordLayout, value: bigint): string {
  const decoded = decodeWord(layout, value);
  const set = decoded.fields.filter((f) => f.value !== 0n).reverse();
  const parts = set.map((f) => (f.field.width === 1 ? f.field.name : `${f.field.name}=${f.value}`));
  if (decoded.reserved !== 0n) parts.push(formatHex(decoded.reserved));
  return parts.join('|') || '0';
}

/**
 * Reads a flag list of a register: names joined by `|`, in any case and order, numbers among them: `PG|wp|0x1`, `IOPL=3`.
 * @throws WordError that names what is wrong and lists the register's flags
 */
export function parseFlags(layout: WordLayout, text: string): bigint {
  let value = 0n;
  for (const part of text.split('|')) value |= parsePart(layout, part.trim(), text);
  if (value >> BigInt(layout.size) !== 0n) {
    throw new WordError(`'${text}' does not fit ${layout.title}, which has ${layout.size} bits`);
  }
  return value;
}

function parsePart(layout: WordLayout, part: string, text: string): bigint {
  const m = /^([A-Za-z_][A-Za-z0-9_]*)(?:\s*=\s*(\w+))?$/.exec(part);
  if (!m) {
    if (/^\d/.test(part)) return parseNumber(part);
    throw new WordError(
      `'${text}' has an empty or unreadable part '${part}': write flags of ${layout.title} joined by |, like ${example(layout)}`,
    );
  }
  const upper = m[1].toUpperCase();
  const name = ALIASES[upper] ?? upper;
  const field = layout.fields.find((f) => f.name.toUpperCase() === name);
  if (!field) {
    const names = layout.fields.map((f) => f.name).join(', ');
    throw new WordError(`${layout.title} has no flag '${m[1]}': its flags are ${names}`);
  }
  const given = m[2] === undefined ? bits(0, field.width) : parseNumber(m[2]);
  if (m[2] === undefined && field.width > 1) {
    throw new WordError(`${field.name} of ${layout.title} has ${field.width} bits: write ${field.name}=N`);
  }
  if (given >> BigInt(field.width) !== 0n) {
    throw new WordError(`${field.name} of ${layout.title} cannot be ${m[2]}: it has ${field.width} bits`);
  }
  return given << BigInt(field.lsb);
}

function example(layout: WordLayout): string {
  return layout.fields
    .slice(-2)
    .map((f) => f.name)
    .join('|');
}
