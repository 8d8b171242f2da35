/** Statements about VMCBs and VMCSs: fields by name, and the instructions of VMX and SVM. */
import {
  type ControlField,
  EPTP_FLAGS,
  INVEPT_TYPES,
  INVVPID_TYPES,
  SEGMENT_KINDS,
  SEGMENT_NAMES,
  type SegmentKind,
  VMCB,
  VMCB_SEGMENT_NAMES,
  vmcbSegment,
  VMCS_ENCODINGS,
  VMCS_FIELDS,
  VMCS_SEGMENT_NAMES,
  vmcsSegment,
} from './control-fields';
import { addressSpace } from './compile-memory';
import type { Findings } from './findings';
import type { ControlSetting, ExpectVmcb, ExpectVmcs, Insn, Vmcb } from './generated/ast';
import type { Claim, ControlValue, GuestInsn, Op } from './program';
import { nearest } from '../words/suggest';

const MAX = { 1: 0xffn, 2: 0xffffn, 4: 0xffffffffn, 8: undefined } as const;

/** The value of a field, or null after reporting. */
function fieldValue(node: ControlSetting, field: ControlField, f: Findings): bigint | null {
  return f.value(node.value, { what: node.name, flags: field.flags, pick: field.pick, max: MAX[field.size] });
}

function unknown(node: ControlSetting, what: string, legal: readonly string[], f: Findings): void {
  const near = nearest(node.name, legal);
  const instead = near ? `; did you mean '${near}'?` : '; docs/language.md has a table of them';
  f.error('unknown-field', node, `'${node.name}' is not a field of a ${what}${instead}`, 'name');
}

/** The kind of a flat segment, or null after reporting. */
function segmentKind(node: ControlSetting, parts: string, f: Findings): SegmentKind | null {
  const name = node.value?.terms.length === 1 ? node.value.terms[0].ref?.$refText : undefined;
  if (name === undefined && node.value !== undefined && node.value.terms.length > 0) {
    f.error(
      'register-value',
      node,
      `${node.name} takes a flat segment (${SEGMENT_KINDS.map((k) => k.name).join(', ')}); for another write ${parts}`,
      'value',
    );
    return null;
  }
  const picked = f.value(node.value, { what: node.name, flags: SEGMENT_NAMES, pick: true });
  return picked === null ? null : SEGMENT_KINDS[Number(picked)];
}

/** Reports settings of a name that stands there twice. */
function once(settings: readonly ControlSetting[], f: Findings): void {
  const seen = new Set<string>();
  for (const s of settings) {
    if (seen.has(s.name)) f.error('twice', s, `'${s.name}' is set twice: keep one of them`, 'name');
    seen.add(s.name);
  }
}

function bytesOf(size: number, value: bigint): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}

/** The page of a VMCB, or null after reporting. */
function vmcbPage(node: Vmcb | ExpectVmcb, f: Findings): { as_id: number; gpa: number } | null {
  const as_id = addressSpace(node.as, f);
  const gpa = f.number(node.address, { what: 'the address of the VMCB', max: (1n << 52n) - 1n });
  if (as_id === null || gpa === null) return null;
  if (gpa % 4096 === 0) return { as_id, gpa };
  f.error('unaligned', node, `a VMCB is a page: write vmcb 0x${(gpa - (gpa % 4096)).toString(16)}`, 'address');
  return null;
}

/** `vmcb`: user space writes fields of a VMCB in guest memory. */
export function vmcbOp(node: Vmcb, f: Findings): Op | null {
  const page = vmcbPage(node, f);
  const writes: { at: number; bytes: Uint8Array }[] = [];
  let right = page !== null;
  once(node.settings, f);
  for (const s of node.settings) {
    const field = VMCB.find((x) => x.name === s.name);
    if (VMCB_SEGMENT_NAMES.includes(s.name)) {
      const kind = segmentKind(s, `${s.name}.selector, ${s.name}.attrib, ${s.name}.limit and ${s.name}.base`, f);
      if (kind) writes.push(...vmcbSegment(s.name, kind).map((w) => ({ at: w.at, bytes: bytesOf(w.size, w.value) })));
      else right = false;
    } else if (field) {
      const value = fieldValue(s, field, f);
      if (value === null) right = false;
      else writes.push({ at: field.at, bytes: bytesOf(field.size, value) });
    } else {
      unknown(s, 'VMCB', [...VMCB_SEGMENT_NAMES, ...VMCB.map((x) => x.name)], f);
      right = false;
    }
  }
  // Without a field it is not complete, which the compiler says.
  if (node.settings.length === 0) return null;
  return page && right ? { kind: 'vmcb', ...page, writes } : null;
}

/** The writes of a `vmwrite { … }`, or null after reporting. */
function vmcsWrites(settings: readonly ControlSetting[], f: Findings): { field: number; value: bigint }[] | null {
  const out: { field: number; value: bigint }[] = [];
  let right = true;
  once(settings, f);
  for (const s of settings) {
    const field = VMCS_FIELDS.find((x) => x.name === s.name);
    if (VMCS_SEGMENT_NAMES.includes(s.name)) {
      const kind = segmentKind(s, `${s.name}_selector, ${s.name}_limit, ${s.name}_ar_bytes and ${s.name}_base`, f);
      if (kind) out.push(...vmcsSegment(s.name, kind).map((w) => ({ field: w.at, value: w.value })));
      else right = false;
    } else if (field) {
      const value = fieldValue(s, field, f);
      if (value === null) right = false;
      else out.push({ field: field.at, value });
    } else {
      unknown(s, 'VMCS', [...VMCS_SEGMENT_NAMES, ...VMCS_FIELDS.map((x) => x.name)], f);
      right = false;
    }
  }
  return right ? out : null;
}

/** Instructions of VMX and SVM; undefined: `node` is none of them, null: it is incomplete or wrong, which is reported. */
export function virtualizationInsn(node: Insn, f: Findings): GuestInsn | null | undefined {
  switch (node.op) {
    case 'vmxon':
    case 'vmclear':
    case 'vmptrld':
    case 'vmrun':
    case 'vmload':
    case 'vmsave': {
      const address = f.value(node.address, { what: `the address of ${node.op}` });
      return address === null ? null : { op: node.op, address };
    }
    case 'vmread': {
      const field = f.number(node.field, { what: 'the VMCS field', flags: VMCS_ENCODINGS, pick: true, max: 0x7fffn });
      return field === null ? null : { op: 'vmread', field };
    }
    case 'vmwrite': {
      if (!node.field) {
        const writes = vmcsWrites(node.settings, f);
        if (writes?.length === 0) return null;
        return writes && { op: 'vmwrite', writes };
      }
      const field = f.number(node.field, { what: 'the VMCS field', flags: VMCS_ENCODINGS, pick: true, max: 0x7fffn });
      const info = VMCS_FIELDS.find((x) => x.at === field);
      const value = f.value(node.value, { what: info?.name ?? 'vmwrite', flags: info?.flags, pick: info?.pick });
      return field === null || value === null ? null : { op: 'vmwrite', writes: [{ field, value }] };
    }
    case 'invept': {
      const type = f.number(node.type, { what: 'the type of invept', flags: INVEPT_TYPES, pick: true, max: 3n });
      const eptp = node.value ? f.value(node.value, { what: 'the EPTP', flags: EPTP_FLAGS }) : 0n;
      if (type === null || eptp === null) return null;
      if (type === 1 && !node.value) {
        f.error('incomplete', node, 'invept single needs the EPTP: write invept single, EPTP');
        return null;
      }
      return { op: 'invept', type, descriptor: eptp };
    }
    case 'invvpid': {
      const type = f.number(node.type, { what: 'the type of invvpid', flags: INVVPID_TYPES, pick: true, max: 3n });
      const vpid = node.value ? f.value(node.value, { what: 'the VPID', max: 0xffffn }) : 0n;
      const address = node.address ? f.value(node.address, { what: 'the address' }) : 0n;
      if (type === null || vpid === null || address === null) return null;
      if ((type !== 2 && !node.value) || (type === 0 && !node.address)) {
        f.error(
          'incomplete',
          node,
          `invvpid ${INVVPID_TYPES[type].name} needs the VPID${type === 0 ? ' and the address' : ''}: write invvpid ${INVVPID_TYPES[type].name}, VPID${type === 0 ? ', [GVA]' : ''}`,
        );
        return null;
      }
      return { op: 'invvpid', type, descriptor: vpid | (address << 64n) };
    }
    case 'invlpga': {
      const address = f.value(node.address, { what: 'the address' });
      const asid = f.number(node.value, { what: 'the ASID', max: 0xffffffffn });
      return address === null || asid === null ? null : { op: 'invlpga', address, asid };
    }
    default:
      return undefined;
  }
}

function expected(
  settings: readonly ControlSetting[],
  fields: readonly ControlField[],
  what: string,
  f: Findings,
): ControlValue[] | null {
  const out: ControlValue[] = [];
  let right = true;
  for (const s of settings) {
    const field = fields.find((x) => x.name === s.name);
    const value = field ? fieldValue(s, field, f) : null;
    if (!field)
      unknown(
        s,
        what,
        fields.map((x) => x.name),
        f,
      );
    if (field && value !== null) out.push({ name: field.name, at: field.at, size: field.size, value });
    else right = false;
  }
  return right && out.length > 0 ? out : null;
}

/** `expect vmcb` */
export function vmcbClaim(node: ExpectVmcb, f: Findings): Claim | null {
  const page = vmcbPage(node, f);
  const fields = expected(node.settings, VMCB, 'VMCB', f);
  return page && fields && { kind: 'vmcb', ...page, fields };
}

/** `expect vmcs` */
export function vmcsClaim(node: ExpectVmcs, f: Findings): Claim | null {
  const fields = expected(node.settings, VMCS_FIELDS, 'VMCS', f);
  return fields && { kind: 'vmcs', fields };
}
