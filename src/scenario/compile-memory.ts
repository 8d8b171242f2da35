/** Statements about memory: backings and their frames, memslots, dirty logs, bytes that user space writes. */
import type { MachineConfig } from '../kvm/machine';
import type { Findings } from './findings';
import type {
  Backing,
  DirtyLog,
  FrameRange,
  Invalidate,
  Memslot,
  Poke,
  Statement as StatementNode,
  Subpages,
  Value,
  Write,
} from './generated/ast';
import type { Op } from './program';
import { remedy } from '../words/suggest';
import { MEMSLOT_FLAGS } from './tables';

const WIDTHS = { qword: 8, dword: 4, word: 2, byte: 1 } as const;

/** `invalidate`: whole pages of a backing. Like all below: null when the statement is incomplete or wrong, which is reported. */
export function invalidateOp(node: Invalidate, f: Findings): Op | null {
  const host = f.host(node.host, 'invalidate');
  const size = f.number(node.size, { what: 'size' });
  if (host === null || size === null) return null;
  if (host.offset % 4096 || size % 4096 || size === 0)
    f.error('unaligned', node, 'the host takes whole pages away: offset and size must be multiples of 4K');
  else if (host.offset + size > (f.backings.get(host.backing)?.size ?? 0))
    f.error('beyond-backing', node, `the range reaches beyond backing '${host.backing}'`, 'size');
  return { kind: 'invalidate', host, size };
}

/** `backing`; defines its name. */
export function backingOp(node: Backing, f: Findings): Op | null {
  const size = f.number(node.size, { what: 'the size of a backing', max: 1n << 44n });
  const hva = node.hva ? f.value(node.hva, { what: 'hva', max: (1n << 47n) - 1n }) : null;
  if (size === null || (node.hva && hva === null)) return null;
  const unit = node.huge ? 0x200000 : 0x1000;
  if (size === 0 || size % unit)
    f.error(
      'unaligned',
      node,
      `a ${node.huge ? 'huge ' : ''}backing is a multiple of ${node.huge ? '2M' : '4K'}, not 0x${size.toString(16)} bytes`,
      'size',
    );
  if (hva !== null && hva % BigInt(unit))
    f.error('unaligned', node, `hva must be a multiple of ${node.huge ? '2M' : '4K'}`, 'hva');
  if (f.backings.has(node.name) || f.constants.has(node.name))
    f.error('twice', node, `'${node.name}' is defined twice: choose another name`, 'name');
  f.backings.set(node.name, { size, huge: node.huge });
  return { kind: 'backing', name: node.name, size, huge: node.huge, readonly: node.readonly, hva };
}

/** `frames`: one host frame for each page of the backing, ranges written out. */
export function framesOp(
  backing: string,
  offsetValue: Value,
  ranges: readonly FrameRange[],
  node: StatementNode,
  f: Findings,
): Op | null {
  const known = f.backings.get(backing);
  if (!known) {
    f.error(
      'unknown-backing',
      node,
      `'${backing}' is not a backing${remedy(backing, [...f.backings.keys()])}`,
      'backing',
    );
    return null;
  }
  const offset = f.number(offsetValue, { what: 'the offset of frames' });
  const unit = known.huge ? 0x200000 : 0x1000;
  const pfns: number[] = [];
  for (const range of ranges) {
    const first = f.literal(range, range.first, 'frame');
    const last = range.last === undefined ? first : f.literal(range, range.last, 'frame');
    if (first === null || last === null) return null;
    if (last < first) {
      f.error(
        'number',
        range,
        `the range ${range.first}..${range.last ?? ''} runs backwards: write the smaller frame first`,
      );
      return null;
    }
    if (last >> 40n || last - first > 1n << 20n) {
      f.error(
        'number',
        range,
        `0x${last.toString(16)} is not a host frame number: frames are physical addresses shifted right by 12`,
      );
      return null;
    }
    const step = BigInt(unit / 0x1000);
    if (known.huge && first % step)
      f.error(
        'unaligned',
        range,
        `'${backing}' has 2M pages: their frames are multiples of 0x200, and 0x${first.toString(16)} is not`,
      );
    for (let pfn = first; pfn <= last; pfn += step) pfns.push(Number(pfn));
  }
  if (offset === null) return null;
  if (offset % unit)
    f.error('unaligned', node, `frames of '${backing}' start at a multiple of ${known.huge ? '2M' : '4K'}`, 'offset');
  else if (offset + pfns.length * unit > known.size)
    f.error(
      'beyond-backing',
      node,
      `${pfns.length} frames from offset 0x${offset.toString(16)} reach beyond backing '${backing}' of 0x${known.size.toString(16)} bytes`,
    );
  return { kind: 'frames', backing, offset, pfns };
}

/** `as 0` or `as 1`. Default 0. */
export function addressSpace(v: Value | undefined, f: Findings): number | null {
  if (!v) return 0;
  const as = f.number(v, { what: 'the address space' });
  if (as !== null && as > 1) {
    f.error('address-space', v, `address space ${as} does not exist: 0 is the normal one, 1 that of SMM`);
    return null;
  }
  return as;
}

/** `memslot add`, `move`, `flags`, `delete`. Whether KVM accepts it is checks.ts. */
export function memslotOp(node: Memslot, f: Findings): Op | null {
  const as_id = addressSpace(node.as, f);
  const id = f.number(node.slot, { what: 'the slot id', max: 0xffffn });
  const gpa = node.gpa ? f.number(node.gpa, { what: 'gpa', max: (1n << 52n) - 1n }) : null;
  const flags = node.flags
    ? f.number(node.flags, { what: 'the memslot flags', flags: MEMSLOT_FLAGS, max: 0xffffffffn })
    : 0;
  if (as_id === null || id === null || flags === null || (node.gpa && gpa === null)) return null;
  switch (node.action) {
    case 'add': {
      const size = f.number(node.size, { what: 'size', max: (1n << 52n) - 1n });
      const host = node.host ? f.host(node.host, 'host') : null;
      const hva = node.hva ? f.value(node.hva, { what: 'hva' }) : null;
      if (gpa === null || size === null || (node.host ? host === null : hva === null)) return null;
      if (host !== null && host.offset + size > (f.backings.get(host.backing)?.size ?? 0)) {
        f.warn(
          'beyond-backing',
          node,
          `the slot reaches beyond backing '${host.backing}': accesses there fail with -EFAULT, and KVM_RUN returns it to user space`,
          'host',
        );
      }
      return { kind: 'memslot-add', as_id, id, gpa, size, host, hva, flags };
    }
    case 'move':
      return gpa === null ? null : { kind: 'memslot-move', as_id, id, gpa };
    case 'flags':
      return { kind: 'memslot-flags', as_id, id, flags };
    case 'delete':
      return { kind: 'memslot-delete', as_id, id };
    default:
      return null;
  }
}

/** `dirty_log get` and `clear`. */
export function dirtyLogOp(node: DirtyLog, config: MachineConfig, f: Findings): Op | null {
  const as_id = addressSpace(node.as, f);
  const id = f.number(node.slot, { what: 'the slot id', max: 0xffffn });
  const gpa = node.gpa ? f.number(node.gpa, { what: 'gpa' }) : null;
  const size = node.size ? f.number(node.size, { what: 'size' }) : null;
  if (as_id === null || id === null || (node.gpa && gpa === null) || (node.size && size === null)) return null;
  if (node.action === 'clear') {
    if (!config.dirtyLogManualProtect) {
      f.warn(
        'dirty-log',
        node,
        'KVM_CLEAR_DIRTY_LOG goes with manual protection: write dirty_log manual-protect in the machine block',
      );
    }
    return { kind: 'dirty-log-clear', as_id, id, part: gpa === null || size === null ? null : { gpa, size } };
  }
  if (gpa !== null) f.error('dirty-log', node, 'KVM_GET_DIRTY_LOG reports a whole slot: leave gpa and size out', 'gpa');
  return { kind: 'dirty-log-get', as_id, id };
}

/** `subpages set` and `get`. Whether KVM has them is its errno. */
export function subpagesOp(node: Subpages, f: Findings): Op | null {
  const gfn = f.number(node.gfn, { what: 'gfn', max: (1n << 40n) - 1n });
  const count = node.count ? f.number(node.count, { what: 'count', max: 0x10000n }) : null;
  if (gfn === null || (node.count && count === null)) return null;
  if (node.action === 'get') return { kind: 'subpages-get', gfn, count: count ?? 1 };
  if (node.access.length === 0) return null;
  const access: number[] = [];
  for (const v of node.access) {
    const map = f.number(v, { what: 'an access map', max: 0xffffffffn });
    if (map === null) return null;
    access.push(map);
  }
  if (count !== null && access.length > 1) {
    f.error('subpages', node, 'several maps are for several pages already: leave `count` out', 'count');
    return null;
  }
  return { kind: 'subpages-set', gfn, access: count === null ? access : new Array<number>(count).fill(access[0]) };
}

/** `poke spte`: a defect planted into KVM's tables. */
export function pokeOp(node: Poke, f: Findings): Op | null {
  const max = node.space === 'gfn' ? (1n << 40n) - 1n : undefined;
  const given = f.value(node.address, { what: node.space, max });
  const level = node.level ? f.number(node.level, { what: 'level', max: 5n }) : null;
  const value = f.value(node.value, { what: 'spte' });
  if (given === null || value === null || (node.level && level === null)) return null;
  if (level === 0) {
    f.error('level', node, 'levels are 1 (4K), 2 (2M), 3 (1G), 4 and 5: there is no level 0', 'level');
    return null;
  }
  const address = node.space === 'gfn' ? given << 12n : given;
  return { kind: 'poke', space: node.space === 'gva' ? 'gva' : 'gpa', address, level, value };
}

/** `qword` … `bytes`: what is written where, little endian. */
export function writeOp(node: Write, f: Findings): Op | null {
  const as_id = addressSpace(node.as, f);
  const toHost = f.namesBacking(node.address);
  if (toHost && node.as) f.error('address-space', node, 'a backing has no address space: leave `as` out', 'as');
  const host = toHost ? f.host(node.address, node.width) : null;
  const gpa = toHost ? null : f.number(node.address, { what: 'the address', max: (1n << 52n) - 1n });
  const bytes = node.width === 'bytes' ? hexBytes(node, f) : wideBytes(node, WIDTHS[node.width], f);
  if (as_id === null || bytes === null || (toHost ? host === null : gpa === null)) return null;
  if (host !== null && host.offset + bytes.length > (f.backings.get(host.backing)?.size ?? 0)) {
    f.error(
      'beyond-backing',
      node,
      `${bytes.length} bytes from offset 0x${host.offset.toString(16)} reach beyond backing '${host.backing}'`,
    );
    return null;
  }
  return { kind: 'write', as_id, gpa, host, bytes };
}

/** Values of 1, 2, 4 or 8 bytes as bytes. */
function wideBytes(node: Write, width: 1 | 2 | 4 | 8, f: Findings): Uint8Array | null {
  const out = new Uint8Array(node.values.length * width);
  for (const [i, v] of node.values.entries()) {
    let value = f.value(v, { what: node.width, max: (1n << BigInt(8 * width)) - 1n });
    if (value === null) return null;
    for (let b = 0; b < width; b++, value >>= 8n) out[i * width + b] = Number(value & 0xffn);
  }
  return node.values.length === 0 ? null : out;
}

/** Bytes written as hexadecimal digits without 0x. */
function hexBytes(node: Write, f: Findings): Uint8Array | null {
  const text = node.bytes.join('');
  const bad = node.bytes.find((b) => b.length % 2 || !/^[0-9a-fA-F]+$/.test(b));
  if (bad !== undefined) {
    f.error(
      'number',
      node,
      `'${bad}' is not a run of bytes: write two hexadecimal digits a byte without 0x, as in bytes 0x1000 = 8b 03 f4`,
      'bytes',
    );
    return null;
  }
  if (text === '') return null;
  return Uint8Array.from({ length: text.length / 2 }, (_, i) => Number(`0x${text.slice(2 * i, 2 * i + 2)}`));
}
