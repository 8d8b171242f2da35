/** `expect` statements: what they claim, with names and numbers resolved. */
import type {
  EventField,
  Deniable,
  Expectation,
  ExpectAudit,
  ExpectEvent,
  ExpectFault,
  ExpectSpte,
  ExpectState,
  ExpectTlb,
  Value,
} from './generated/ast';
import { RULES, type RuleId } from '../hw/rules';
import { AUDIT_RULES } from '../kvm/audit';
import type { KvmEventKind } from '../kvm/events';
import { vmcbClaim, vmcsClaim } from './compile-control';
import type { Findings } from './findings';
import type { Claim, FieldTest } from './program';
import { REFERENCE } from './reference';
import { nearest, remedy } from '../words/suggest';
import {
  ENDS,
  ERRNOS,
  EVENT_FIELDS,
  EXCEPTIONS,
  FIELD_FLAGS,
  PF_ERROR_FLAGS,
  REGISTER_FLAGS,
  REGISTERS,
  SPTE_KINDS,
  STATES,
  TLB_STATES,
} from './tables';

const WIDTHS = { qword: 8, dword: 4, word: 2, byte: 1 } as const;

/** Claims about the instruction or run before them. */
export const isAboutRun = (c: Claim): boolean =>
  ['value', 'exception', 'no-fault', 'end', 'exits', 'mmio', 'io'].includes(c.kind);
/** Claims about the ioctl before them. */
export const isAboutIoctl = (c: Claim): boolean => c.kind === 'errno';

/** Claims about the events of the statement before them. */
export const isAboutEvents = (c: Claim): boolean => c.kind === 'event' || c.kind === 'why';

/** What an expectation claims, or null after reporting what is wrong with it. */
export function compileClaim(
  node: Deniable | Expectation,
  absent: boolean,
  f: Findings,
  addressSpace: (v: Value | undefined) => number | null,
): Claim | null {
  const optional = (v: Value | undefined, what: string): number | null | undefined =>
    v ? f.number(v, { what }) : undefined;
  const optionalBig = (v: Value | undefined, what: string): bigint | null | undefined =>
    v ? f.value(v, { what }) : undefined;
  switch (node.$type) {
    case 'ExpectValue': {
      const value = f.value(node.value, { what: 'value' });
      return value === null ? null : { kind: 'value', value };
    }
    case 'NoFault':
      return { kind: 'no-fault' };
    case 'NoDirty':
      return { kind: 'dirty', gfns: [] };
    case 'ExpectFault':
      return fault(node, f);
    case 'ExpectEnd':
      if (node.end === undefined) return null;
      if (node.end in ENDS) return { kind: 'end', end: node.end };
      f.error('unknown-name', node, `'${node.end}' is not a way to end${remedy(node.end, Object.keys(ENDS))}`, 'end');
      return null;
    case 'ExpectExits': {
      const count = f.number(node.count, { what: 'the number of exits' });
      return count === null ? null : { kind: 'exits', count };
    }
    case 'ExpectMmio': {
      const gpa = optional(node.gpa, 'gpa');
      const len = optional(node.len, 'len');
      const value = optionalBig(node.value, 'value');
      if (gpa === null || len === null || value === null) return null;
      return {
        kind: 'mmio',
        absent,
        write: node.direction === undefined ? null : node.direction === 'write',
        gpa: gpa ?? null,
        len: len ?? null,
        value: value ?? null,
      };
    }
    case 'ExpectIo': {
      const port = optional(node.port, 'port');
      const value = optionalBig(node.value, 'value');
      if (port === null || value === null) return null;
      return {
        kind: 'io',
        absent,
        write: node.direction === undefined ? null : node.direction === 'out',
        port: port ?? null,
        value: value ?? null,
      };
    }
    case 'ExpectErrno': {
      if (node.errno === undefined) return null;
      const name = node.errno.replace(/^-/, '');
      if (name === '0' || name in ERRNOS) return { kind: 'errno', errno: name };
      f.error(
        'unknown-name',
        node,
        `'${node.errno}' is not an errno of these ioctls${remedy(name, ['0', ...Object.keys(ERRNOS)])}`,
        'errno',
      );
      return null;
    }
    case 'ExpectEvent':
      return event(node, absent, f);
    case 'ExpectWhy': {
      if (node.rule === undefined) return null;
      const rule = RULES.find((r) => r.id === node.rule);
      if (rule) return { kind: 'why', rule: rule.id as RuleId };
      f.error(
        'unknown-rule',
        node,
        `'${node.rule}' is not a rule of address translation${remedy(
          node.rule,
          RULES.map((r) => r.id),
        )}`,
        'rule',
      );
      return null;
    }
    case 'ExpectSpte':
      return spte(node, f);
    case 'ExpectMemory': {
      const size = WIDTHS[node.width];
      const as_id = addressSpace(node.as);
      const gpa = f.number(node.address, { what: 'the address' });
      const value = f.value(node.value, { what: node.width, max: (1n << BigInt(8 * size)) - 1n });
      return as_id === null || gpa === null || value === null ? null : { kind: 'memory', as_id, size, gpa, value };
    }
    case 'ExpectVmcb':
      return vmcbClaim(node, f);
    case 'ExpectVmcs':
      return vmcsClaim(node, f);
    case 'ExpectDirty': {
      const gfns = node.gfns.map((g) => f.number(g, { what: 'gfn' }));
      return gfns.every((g) => g !== null) ? { kind: 'dirty', gfns: [...gfns].sort((a, b) => a - b) } : null;
    }
    case 'NoTlb': {
      const address = f.value(node.address, { what: 'gva' });
      return address === null ? null : { kind: 'tlb', address, state: 'absent' };
    }
    case 'ExpectTlb':
      return tlb(node, f);
    case 'ExpectSubpages': {
      const access = node.access.map((v) => f.number(v, { what: 'an access map', max: 0xffffffffn }));
      return access.every((a) => a !== null) ? { kind: 'subpages', access } : null;
    }
    case 'ExpectSppte': {
      const max = node.space === 'gfn' ? (1n << 40n) - 1n : undefined;
      const given = f.value(node.address, { what: node.space, max });
      const level = node.level ? f.number(node.level, { what: 'level', max: 4n }) : 1;
      const raw = f.value(node.raw, { what: 'sppte' });
      if (given === null || level === null || raw === null) return null;
      if (level === 0) {
        f.error('level', node, 'levels of the SPPT are 1 (vectors) to 4: there is no level 0', 'level');
        return null;
      }
      return { kind: 'sppte', gfn: Number(node.space === 'gfn' ? given : given >> 12n), level, raw };
    }
    case 'ExpectAudit':
      return audit(node, f);
    case 'ExpectState':
      return state(node, f);
    default:
      return null;
  }
}

function audit(node: ExpectAudit, f: Findings): Claim | null {
  const legal = AUDIT_RULES.map((r) => r.id);
  const rules = node.rules.filter((r) => r !== 'clean');
  if (node.rules.length === 0) return null;
  for (const rule of rules)
    if (!legal.includes(rule)) {
      f.error(
        'unknown-rule',
        node,
        `'${rule}' is not a rule of the audit${remedy(rule, ['clean', ...legal])}`,
        'rules',
      );
      return null;
    }
  if (rules.length === node.rules.length || node.rules.length === 1) return { kind: 'audit', rules };
  f.error('unknown-rule', node, '`clean` and rules that do not hold exclude each other', 'rules');
  return null;
}

function fault(node: ExpectFault, f: Findings): Claim | null {
  const info = node.exception === undefined ? undefined : EXCEPTIONS[node.exception];
  if (!info) {
    if (node.exception !== undefined)
      f.error(
        'unknown-name',
        node,
        `'${node.exception}' is not an exception${remedy(node.exception, Object.keys(EXCEPTIONS))}`,
        'exception',
      );
    return null;
  }
  const error = node.error
    ? f.number(node.error, {
        what: `the error code of ${node.exception ?? ''}`,
        flags: info.vector === 14 ? PF_ERROR_FLAGS : undefined,
        max: 0xffffffffn,
      })
    : null;
  const cr2 = node.cr2 ? f.value(node.cr2, { what: 'cr2' }) : null;
  if ((node.error && error === null) || (node.cr2 && cr2 === null)) return null;
  if (node.error && !info.error)
    f.error('register-value', node, `${node.exception ?? ''} has no error code: leave \`error\` out`, 'error');
  if (node.cr2 && info.vector !== 14) f.error('register-value', node, `only #PF sets CR2: leave \`cr2\` out`, 'cr2');
  return { kind: 'exception', vector: info.vector, error, cr2 };
}

function event(node: ExpectEvent, absent: boolean, f: Findings): Claim | null {
  if (node.event === undefined) return null;
  const names = Object.keys(EVENT_FIELDS);
  if (!names.includes(node.event)) {
    f.error('unknown-event', node, `'${node.event}' is not an event${remedy(node.event, names)}`, 'event');
    return null;
  }
  const fields = fieldTests(node.fields, f, node.event, EVENT_FIELDS[node.event]);
  const times = node.times ? f.number(node.times, { what: 'times' }) : null;
  if (fields === null || (node.times && times === null)) return null;
  if (absent && node.times) f.error('expect-times', node, '`no event` and `times` exclude each other', 'times');
  return { kind: 'event', event: node.event as KvmEventKind, fields, times: absent ? 0 : times };
}

function fieldTests(
  nodes: readonly EventField[],
  f: Findings,
  what: string,
  legal: readonly string[] | null,
): FieldTest[] | null {
  const out: FieldTest[] = [];
  for (const n of nodes) {
    if (legal && !legal.includes(n.name)) {
      f.error('unknown-field', n, `${what} has no field '${n.name}'${remedy(n.name, legal)}`, 'name');
      return null;
    }
    const name = n.value?.terms.length === 1 ? n.value.terms[0].ref?.$refText : undefined;
    if (n.word !== undefined) out.push({ name: n.name, value: n.word });
    else if (n.text !== undefined) out.push({ name: n.name, value: n.text.replace(/^"|"$/g, '') });
    // A single name that is no constant and no flag is a word of the event: reason EPT_MISCONFIG.
    else if (name !== undefined && !f.constants.has(name) && !FIELD_FLAGS[n.name]?.some((x) => x.name === name))
      out.push({ name: n.name, value: name });
    else {
      const value = f.value(n.value, { what: n.name, flags: FIELD_FLAGS[n.name] });
      if (value === null) return null;
      out.push({ name: n.name, value });
    }
  }
  return out;
}

function spte(node: ExpectSpte, f: Findings): Claim | null {
  const max = node.space === 'gfn' ? (1n << 40n) - 1n : undefined;
  const given = f.value(node.address, { what: node.space, max });
  const level = node.level ? f.number(node.level, { what: 'level', max: 5n }) : null;
  const raw = node.raw ? f.value(node.raw, { what: 'spte' }) : null;
  if (given === null || (node.level && level === null) || (node.raw && raw === null)) return null;
  if (level === 0) {
    f.error('level', node, 'levels are 1 (4K), 2 (2M), 3 (1G), 4 and 5: there is no level 0', 'level');
    return null;
  }
  if (node.kind !== undefined && !(node.kind in SPTE_KINDS)) {
    f.error('unknown-name', node, `an spte is not '${node.kind}'${remedy(node.kind, Object.keys(SPTE_KINDS))}`, 'kind');
    return null;
  }
  if (node.kind === undefined && raw === null) return null;
  const fields = fieldTests(node.fields, f, 'an spte', null);
  if (fields === null) return null;
  return {
    kind: 'spte',
    space: node.space === 'gva' ? 'gva' : 'gpa',
    address: node.space === 'gfn' ? given << 12n : given,
    level,
    raw,
    is: node.kind ?? null,
    fields,
  };
}

function tlb(node: ExpectTlb, f: Findings): Claim | null {
  const address = f.value(node.address, { what: 'gva' });
  const { state } = node;
  if (address === null || state === undefined) return null;
  if (state === 'stale' || state === 'fresh') return { kind: 'tlb', address, state };
  f.error('unknown-name', node, `a TLB entry is not '${state}'${remedy(state, Object.keys(TLB_STATES))}`, 'state');
  return null;
}

function state(node: ExpectState, f: Findings): Claim | null {
  if (node.name === undefined) return null;
  const [base] = node.name.split('.');
  const isRegister = REGISTERS.some((r) => r.name === node.name && !r.table);
  if (!isRegister && !(base in STATES)) {
    const legal = [...REGISTERS.filter((r) => !r.table).map((r) => r.name), ...Object.keys(STATES)];
    const words = REFERENCE.filter((e) => e.group === 'expect').map((e) => e.words.split(' ')[1] ?? '');
    const near = nearest(node.name, [...legal, ...words]);
    f.error(
      'unknown-state',
      node,
      `'${node.name}' is not something to expect${near ? `; did you mean '${near}'?` : remedy(node.name, legal)}`,
      'name',
    );
    return null;
  }
  const value = f.value(node.value, { what: node.name, flags: REGISTER_FLAGS[node.name] });
  return value === null ? null : { kind: 'state', name: node.name, value };
}
