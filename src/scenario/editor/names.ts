/** Which table the names at a place come from: the one answer behind completion and hover. */
import { RULES } from '../../hw/rules';
import { spteLayout, spteWord } from '../../words/sptes';
import { WordError } from '../../words/address';
import { KERNEL_ERAS } from '../../words/kernels';
import { cpuRoleLayout, pageRoleLayout } from '../../words/roles';
import type { WordLayout } from '../../words/word';
import {
  EPTP_FLAGS,
  INVEPT_TYPES,
  INVVPID_TYPES,
  SEGMENT_KINDS,
  VMCB,
  VMCB_SEGMENT_NAMES,
  VMCS_ENCODINGS,
  VMCS_FIELDS,
  VMCS_SEGMENT_NAMES,
  type ControlField,
} from '../control-fields';
import {
  ENDS,
  ERRNOS,
  EVENT_FIELDS,
  EXCEPTIONS,
  FIELD_FLAGS,
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
} from '../tables';
import type { LineContext } from './line-context';

/** What sort of thing a name is; decides icon and colour. */
export type NameKind = 'setting' | 'value' | 'register' | 'flag' | 'event' | 'field' | 'state' | 'constant' | 'backing';

/** A name that can stand somewhere. */
export interface Name {
  readonly name: string;
  readonly kind: NameKind;
  readonly doc: string;
}

const fromRecord = (record: Readonly<Record<string, string>>, kind: NameKind): Name[] =>
  Object.entries(record).map(([name, doc]) => ({ name, kind, doc }));
const flagNames = (flags: readonly Flag[] | undefined): Name[] =>
  (flags ?? []).map((f) => ({
    name: f.name,
    kind: 'flag',
    doc: f.bit === 0n ? f.doc : `${f.doc} (0x${f.bit.toString(16)})`,
  }));
const registers = (): Name[] => REGISTERS.map((r) => ({ name: r.name, kind: 'register', doc: r.doc }));

/** Names of the values of a machine setting. */
export function settingValues(setting: string): Name[] {
  const info = MACHINE_SETTINGS.find((s) => s.name === setting);
  switch (info?.kind) {
    case 'kernel':
      return [...KERNEL_ERAS].reverse().map((e) => ({ name: e.id, kind: 'value', doc: e.title }));
    case 'switch':
      return fromRecord({ on: '', off: '' }, 'value');
    case 'names':
      return fromRecord({ ...info.values, none: 'nothing of the list' }, 'value');
    case 'name':
      return fromRecord(info.values ?? {}, 'value');
    default:
      return [];
  }
}

/** Fields of a role word of a kernel as `expect` names them; none where the kernel has no such word. */
function roleFields(name: string, layout: () => WordLayout): Name[] {
  try {
    return layout().fields.map((f) => ({
      name: `${name}.${f.name.replace(/^(base|ext)\./, '')}`,
      kind: 'state',
      doc: f.meaning,
    }));
  } catch (e) {
    if (e instanceof WordError) return [];
    throw e;
  }
}

/** State that `expect` can name, role fields of a kernel included. */
export function stateNames(kernel: string | null): Name[] {
  const plain = registers().filter((r) => !REGISTERS.find((x) => x.name === r.name)?.table);
  const k = kernel ?? 'v6.1';
  return [
    ...plain,
    ...fromRecord(STATES, 'state'),
    ...roleFields('root_role', () => pageRoleLayout(k)),
    ...roleFields('cpu_role', () => cpuRoleLayout(k)),
  ];
}

const lastOf = (words: readonly string[], test: (w: string) => boolean): string | undefined =>
  [...words].reverse().find(test);

/**
 * Names other than keywords that can stand at a place.
 * @param c the place
 * @param own constants and backings of the document
 * @param kernel of the machine block
 */
export function namesAt(c: LineContext, own: readonly Name[], kernel: string | null): Name[] {
  const { words } = c;
  const constants = own.filter((n) => n.kind === 'constant');
  const backings = own.filter((n) => n.kind === 'backing');
  if (c.block === 'machine') return inMachine(words);
  if (c.block === 'registers') return inRegisters(words, constants);
  if (c.block === 'vmcb') return inFields(words, VMCB, VMCB_SEGMENT_NAMES, constants);
  if (c.block === 'vmwrite') return inFields(words, VMCS_FIELDS, VMCS_SEGMENT_NAMES, constants);
  const [first, second] = words;
  const last = words.at(-1);
  // Inside `A|B`: what the first name was of, the next is too.
  const operator = last === '|' || last === '+';
  switch (first) {
    case 'memslot':
      if (
        words.includes('flags') && second !== 'flags'
          ? lastOf(words, (w) => /^(flags|host|hva|size|gpa)$/.test(w)) === 'flags'
          : second === 'flags' && words.includes('id') && last !== 'id'
      )
        return flagNames(MEMSLOT_FLAGS);
      return last === 'host' || (operator && words.includes('host')) ? [...backings, ...constants] : constants;
    case 'frames':
      return words.length === 1 ? backings : constants;
    case 'qword':
    case 'dword':
    case 'word':
    case 'byte':
    case 'bytes':
      return words.includes('=') ? constants : [...backings, ...constants];
    case 'map':
      return words.includes('->') && last !== '->' && !operator
        ? flagNames(PTE_FLAGS)
        : operator && words.some((w) => PTE_FLAGS.some((f) => f.name === w))
          ? flagNames(PTE_FLAGS)
          : constants;
    case 'mov':
      return words.includes(',')
        ? [...flagNames(REGISTER_FLAGS[second ?? '']), ...constants]
        : registers().filter((r) => /^cr[0-4]$/.test(r.name));
    case 'wrmsr':
    case 'rdmsr':
      if (words.includes(',')) return second === 'EFER' ? flagNames(REGISTER_FLAGS.efer) : constants;
      return flagNames(MSR_NAMES);
    case 'invpcid':
      return words.includes(',') ? constants : flagNames(INVPCID_TYPES);
    case 'vmread':
      return operator ? constants : flagNames(VMCS_ENCODINGS);
    case 'vmwrite':
      return words.includes(',')
        ? [...flagNames(VMCS_FIELDS.find((x) => x.name === second)?.flags), ...constants]
        : flagNames(VMCS_ENCODINGS);
    case 'invept':
      return words.includes(',') ? [...flagNames(EPTP_FLAGS), ...constants] : flagNames(INVEPT_TYPES);
    case 'invvpid':
      return words.includes(',') ? constants : flagNames(INVVPID_TYPES);
    case 'run': {
      if (last === '=' || operator)
        return [
          ...flagNames(REGISTER_FLAGS[lastOf(words.slice(0, words.lastIndexOf('=')), () => true) ?? '']),
          ...constants,
        ];
      return last === 'at' || last === 'limit' ? constants : registers();
    }
    case 'expect':
      return inExpect(words, constants, kernel);
    default:
      return constants;
  }
}

function inMachine(words: readonly string[]): Name[] {
  const setting = lastOf(words, (w) => MACHINE_SETTINGS.some((s) => s.name === w));
  const last = words.at(-1);
  if (setting !== undefined && (last === setting || last === ',')) return settingValues(setting);
  return MACHINE_SETTINGS.map((s) => ({ name: s.name, kind: 'setting', doc: `${s.doc}. Default: ${s.default}.` }));
}

/** Inside `vmcb ADDRESS { … }` and the like: fields, and the names of their bits. */
function inFields(
  words: readonly string[],
  fields: readonly ControlField[],
  segments: readonly string[],
  constants: readonly Name[],
): Name[] {
  const isField = (w: string): boolean => segments.includes(w) || fields.some((f) => f.name === w);
  const name = lastOf(words, isField);
  const last = words.at(-1);
  if (name !== undefined && (last === name || last === '|' || last === '+'))
    return segments.includes(name)
      ? fromRecord(Object.fromEntries(SEGMENT_KINDS.map((k) => [k.name, k.doc])), 'value')
      : [...flagNames(fields.find((f) => f.name === name)?.flags), ...constants];
  return [
    ...segments.map((s): Name => ({ name: s, kind: 'field', doc: 'a flat segment, all of its parts at once' })),
    ...fields.map((f): Name => ({ name: f.name, kind: 'field', doc: f.doc })),
  ];
}

function inRegisters(words: readonly string[], constants: readonly Name[]): Name[] {
  const register = lastOf(words, (w) => REGISTERS.some((r) => r.name === w));
  const last = words.at(-1);
  if (register !== undefined && (last === register || last === '|' || last === '+')) {
    const none: Name[] = REGISTERS.find((r) => r.name === register)?.table
      ? [{ name: 'none', kind: 'value', doc: 'no table' }]
      : [];
    return [...flagNames(REGISTER_FLAGS[register]), ...none, ...constants];
  }
  return last === 'limit' ? [...constants] : registers();
}

/** Bits of leaf sptes of a kernel, of both formats. */
function spteBits(kernel: string | null): Name[] {
  try {
    const words = (['ept', 'legacy'] as const).map((type) => spteWord(spteLayout(kernel ?? 'v6.1', type), 'leaf'));
    const fields = new Map(words.flatMap((w) => w.fields.map((f) => [f.name, f.meaning])));
    return [...fields].map(([name, doc]) => ({ name, kind: 'field', doc }));
  } catch (e) {
    if (e instanceof WordError) return [];
    throw e;
  }
}

function inExpect(words: readonly string[], constants: readonly Name[], kernel: string | null): Name[] {
  const what = words[1] === 'no' ? words[2] : words[1];
  const last = words.at(-1);
  if (words.length === 1)
    return [
      ...fromRecord(Object.fromEntries(Object.entries(EXCEPTIONS).map(([n, e]) => [n, e.doc])), 'value'),
      ...stateNames(kernel),
    ];
  switch (what) {
    case 'event': {
      if (last === 'event')
        return Object.entries(EVENT_FIELDS).map(([name, fields]) => ({
          name,
          kind: 'event',
          doc: `fields ${fields.join(', ')}`,
        }));
      const event = words[words.indexOf('event') + 1];
      const fields = EVENT_FIELDS[event] ?? [];
      const field = fields.find((f) => f === last);
      if (field) return [...flagNames(FIELD_FLAGS[field]), ...constants];
      if (last === '|') return flagNames(FIELD_FLAGS[lastOf(words, (w) => w in FIELD_FLAGS) ?? '']);
      return fields.map((name) => ({ name, kind: 'field', doc: `field of ${event}` }));
    }
    case 'spte':
      if (last === 'is') return fromRecord(SPTE_KINDS, 'value');
      if (words.includes('is'))
        return last !== undefined && last in SPTE_FIELDS
          ? [...constants]
          : [...fromRecord(SPTE_FIELDS, 'field'), ...spteBits(kernel)];
      return [...constants];
    case 'vmcs':
      return inFields(words, VMCS_FIELDS, [], constants);
    case 'vmcb':
      return last === 'vmcb' || last === 'as' || (words.length < 5 && last === '+')
        ? [...constants]
        : inFields(words, VMCB, [], constants);
    case 'tlb':
      return words.at(-1) === 'tlb' || words.includes('no')
        ? [...constants]
        : [...fromRecord(TLB_STATES, 'value'), ...constants];
    case 'why':
      return RULES.map((r) => ({ name: r.id, kind: 'value', doc: `${r.sentence} (${r.reference})` }));
    case 'end':
      return fromRecord(ENDS, 'value');
    case 'errno':
      return [
        { name: '0', kind: 'value', doc: 'success' },
        ...Object.entries(ERRNOS).map(([name, n]): Name => ({ name, kind: 'value', doc: `errno ${n}` })),
      ];
    default:
      if (what?.startsWith('#')) return last === 'error' || last === '|' ? flagNames(PF_ERROR_FLAGS) : [...constants];
      return [...flagNames(REGISTER_FLAGS[what ?? '']), ...constants];
  }
}
