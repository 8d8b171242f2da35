/** Statements about vCPUs: register blocks, guest page tables, instructions and machine code. */
import { virtualizationInsn } from './compile-control';
import type { Findings } from './findings';
import type { Insn, MapPages, RegisterAssignment, RegisterSetting, Run, Value } from './generated/ast';
import type { GuestInsn, Op, PlainOp, RegisterWrite } from './program';
import { remedy } from '../words/suggest';
import { INVPCID_TYPES, MSR_NAMES, PTE_FLAGS, REGISTER_FLAGS, REGISTERS, type Flag } from './tables';

const SIZES = [1, 2, 4, 8, 16];
const PAGE_SIZES: Readonly<Record<string, number>> = { '4K': 0x1000, '2M': 0x200000, '4M': 0x400000, '1G': 0x40000000 };
/** Most pages that one `map` writes. */
export const MAX_MAP = 1 << 20;

/**
 * Registers of a block or of `run`.
 * @param all a block: descriptor tables need their limit
 */
export function registerWrites(
  list: readonly (RegisterSetting | RegisterAssignment)[],
  all: boolean,
  f: Findings,
): RegisterWrite[] {
  const out: RegisterWrite[] = [];
  for (const r of list) {
    const info = REGISTERS.find((i) => i.name === r.name);
    if (!info) {
      f.error(
        'unknown-register',
        r,
        `'${r.name}' is not a register${remedy(
          r.name,
          REGISTERS.map((i) => i.name),
        )}`,
        'name',
      );
      continue;
    }
    if (out.some((o) => o.name === r.name)) f.error('twice', r, `'${r.name}' is set twice: keep one of them`, 'name');
    const none = r.value?.terms.length === 1 && r.value.terms[0].ref?.$refText === 'none';
    if (none && !info.table)
      f.error('register-value', r, `only descriptor tables can be none; write a value for ${r.name}`, 'value');
    const value = none ? 0n : f.value(r.value, { what: r.name, flags: REGISTER_FLAGS[r.name] });
    const limitNode = 'limit' in r ? r.limit : undefined;
    const limit = limitNode ? f.number(limitNode, { what: 'limit', max: 0xffffffffn }) : null;
    if (limitNode && !info.table)
      f.error('register-value', r, `${r.name} has no limit: only gdt, idt and tr have one`, 'limit');
    if (value === null) continue;
    if (r.name === 'cpl' && value > 3n) f.error('register-value', r, `cpl is 0, 1, 2 or 3, not ${value}`, 'value');
    if (r.name === 'code' && ![16n, 32n, 64n].includes(value))
      f.error('register-value', r, `code is 16, 32 or 64, not ${value}`, 'value');
    if (info.table && all && !none && limit === null)
      f.error('register-value', r, `${r.name} needs its limit: write ${r.name} 0x… limit 0x…`, 'value');
    out.push({ name: r.name, value, none, limit });
  }
  return out;
}

/**
 * `map`.
 * @param tablesSeen a `tables at` stands before it
 */
export function mapOp(node: MapPages, tablesSeen: boolean, f: Findings): Op | null {
  const gva = f.value(node.gva, { what: 'gva' });
  const gpa = f.number(node.gpa, { what: 'gpa', max: (1n << 52n) - 1n });
  const flags = node.flags ? f.value(node.flags, { what: 'map', flags: PTE_FLAGS }) : 0n;
  const count = node.count ? f.number(node.count, { what: 'count', max: BigInt(MAX_MAP) }) : 1;
  const size = node.size === undefined ? 0x1000 : PAGE_SIZES[node.size];
  if (size === undefined) {
    f.error(
      'page-size',
      node,
      `'${node.size ?? ''}' is not a page size: write 4K, 2M, 4M (32-bit paging) or 1G`,
      'size',
    );
    return null;
  }
  if (gva === null || gpa === null || flags === null || count === null) return null;
  if (gva % BigInt(size))
    f.error(
      'unaligned',
      node,
      `gva 0x${gva.toString(16)} is not a multiple of the page size ${node.size ?? '4K'}`,
      'gva',
    );
  if (gpa % size)
    f.error(
      'unaligned',
      node,
      `gpa 0x${gpa.toString(16)} is not a multiple of the page size ${node.size ?? '4K'}: its low bits would be reserved bits of the entry`,
      'gpa',
    );
  if (!tablesSeen) {
    f.error(
      'no-tables',
      node,
      'map needs pages for guest page tables: say where they are before this line with tables at 0x10000',
    );
    return null;
  }
  const absent = node.flags?.terms.some((t) => t.ref?.$refText === 'NP') ?? false;
  return { kind: 'map', gva, gpa, size, flags: absent ? flags : flags | 1n, count };
}

/** `run`: machine code from memory. */
export function runOp(node: Run, f: Findings): Op | null {
  const rip = node.rip ? f.value(node.rip, { what: 'at' }) : null;
  const limit = node.limit ? f.number(node.limit, { what: 'limit' }) : null;
  if (node.rip && rip === null) return null;
  return { kind: 'run', rip, registers: registerWrites(node.registers, false, f), limit };
}

/** An instruction statement with its operands; null when it is incomplete or wrong, which is reported. */
export function guestInsn(node: Insn, f: Findings): GuestInsn | null {
  const value = (v: Value | undefined, what: string, flags?: readonly Flag[], pick = false): bigint | null =>
    f.value(v, { what, flags, pick });
  const op = node.op;
  switch (op) {
    case 'load':
    case 'store':
    case 'rmw': {
      const size = f.literal(node, node.size, `the size of ${op}`, 'size');
      const address = value(node.address, 'the address');
      if (size !== null && !SIZES.includes(Number(size))) {
        f.error('access-size', node, `${op} takes 1, 2, 4, 8 or 16 bytes, not ${node.size ?? ''}`, 'size');
        return null;
      }
      if (size === null || address === null) return null;
      const bytes = Number(size) as 1 | 2 | 4 | 8 | 16;
      if (op === 'load') return { op, size: bytes, address };
      const data = f.value(node.value, { what: op, max: bytes >= 8 ? undefined : (1n << BigInt(8 * bytes)) - 1n });
      return data === null ? null : { op, size: bytes, address, value: data };
    }
    case 'fetch':
    case 'invlpg': {
      const address = value(node.address, 'the address');
      return address === null ? null : { op, address };
    }
    case 'invpcid': {
      const type = f.number(node.type, { what: 'the type of invpcid', flags: INVPCID_TYPES, pick: true, max: 3n });
      const pcid = f.number(node.pcid, { what: 'the PCID', max: 0xfffn });
      const address = node.address ? value(node.address, 'the address') : 0n;
      if (type === null || pcid === null || address === null) return null;
      if (type === 0 && !node.address)
        f.error('incomplete', node, 'invpcid address needs the address: write invpcid address, PCID, [GVA]');
      return { op, type, pcid, address };
    }
    case 'mov': {
      const cr = /^cr([0234])$/.exec(node.register ?? '');
      if (node.register !== undefined && !cr) {
        f.error(
          'unknown-register',
          node,
          `mov writes control registers: '${node.register}' is not cr0, cr2, cr3 or cr4${node.register === 'efer' ? '; EFER is written with wrmsr EFER, …' : ''}`,
          'register',
        );
        return null;
      }
      const data = value(node.value, node.register ?? 'mov', REGISTER_FLAGS[node.register ?? '']);
      return !cr || data === null ? null : { op, cr: Number(cr[1]), value: data };
    }
    case 'wrmsr':
    case 'rdmsr': {
      const msr = f.number(node.msr, { what: 'the MSR', flags: MSR_NAMES, pick: true, max: 0xffffffffn });
      if (msr === null) return null;
      if (op === 'rdmsr') return { op, msr };
      const data = value(node.value, 'the MSR', msr === 0xc0000080 ? REGISTER_FLAGS.efer : undefined);
      return data === null ? null : { op, msr, value: data };
    }
    case 'wrpkru': {
      const pkru = f.number(node.value, { what: 'PKRU', max: 0xffffffffn });
      return pkru === null ? null : { op, value: pkru };
    }
    case 'out':
    case 'in': {
      const port = f.number(node.port, { what: 'the port', max: 0xffffn });
      if (port === null) return null;
      if (op === 'in') return { op, port };
      const data = f.value(node.value, { what: 'out', max: 0xffn });
      return data === null ? null : { op, port, value: data };
    }
    case undefined:
      return null;
    default: {
      const insn = virtualizationInsn(node, f);
      return insn === undefined ? { op: op as PlainOp } : insn;
    }
  }
}
