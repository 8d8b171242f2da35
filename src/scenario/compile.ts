/**
 * From syntax tree to program: names and numbers resolved, every statement checked against the language. What KVM or the processor
 * would say about a correct statement (overlapping slots, addresses out of range) is checks.ts.
 */
import type {
  Backing,
  DirtyLog,
  FrameRange,
  Frames,
  Insn,
  MapPages,
  Memslot,
  RegisterAssignment,
  RegisterSetting,
  Repeat,
  Run,
  Scenario,
  Statement as StatementNode,
  Value,
  VcpuAction,
  Write,
} from './generated/ast';
import type { MachineConfig } from '../kvm/machine';
import { compileClaim, isAboutEvents, isAboutIoctl, isAboutRun } from './compile-expect';
import { Findings, placeOf } from './findings';
import { defaultConfig, machineConfig } from './machine-config';
import {
  ScenarioProgram,
  type Diagnostic,
  type GuestInsn,
  type Op,
  type RegisterWrite,
  type Statement,
} from './program';
import { entryFor } from './reference';
import { remedy } from './suggest';
import { INVPCID_TYPES, MEMSLOT_FLAGS, MSR_NAMES, PTE_FLAGS, REGISTER_FLAGS, REGISTERS, type Flag } from './tables';

const SIZES = [1, 2, 4, 8, 16];
const PAGE_SIZES: Readonly<Record<string, number>> = { '4K': 0x1000, '2M': 0x200000, '4M': 0x400000, '1G': 0x40000000 };
const WIDTHS = { qword: 8, dword: 4, word: 2, byte: 1 } as const;
/** Most pages that one `map` writes. */
const MAX_MAP = 1 << 20;

/** A statement under construction; {@link Statement} when everything is known. */
type Draft = { -readonly [K in keyof Statement]: Statement[K] };

/** Statements that do nothing on their own: the last action before them is what an `expect` is about. */
export const isPassive = (op: Op): boolean => ['machine', 'let', 'expect', 'step', 'note', 'repeat'].includes(op.kind);
/** Statements that are an ioctl with an errno. */
export const isIoctl = (op: Op): boolean => op.kind.startsWith('memslot-') || op.kind.startsWith('dirty-log-');
/** Statements that run a vCPU. */
export const isRun = (op: Op): boolean => op.kind === 'insn' || op.kind === 'run';

export interface Compiled {
  /** null when the text has an error */
  readonly program: ScenarioProgram | null;
  /** all statements that could be read, for checks and the editor */
  readonly statements: readonly Statement[];
  readonly config: MachineConfig;
  readonly findings: readonly Diagnostic[];
}

/**
 * Compiles a scenario.
 * @param broken lines with a syntax error: nothing more is said about them
 */
export function compile(tree: Scenario, text: string, uri: string, broken: ReadonlySet<number>): Compiled {
  const c = new Compiler(text, broken);
  c.block(tree.statements, -1);
  c.finish();
  const findings = c.findings.list.filter((d) => !broken.has(d.line));
  const ok = broken.size === 0 && !findings.some((d) => d.severity === 'error');
  return {
    program: ok ? new ScenarioProgram(uri, text, c.config, c.statements) : null,
    statements: c.statements,
    config: c.config,
    findings,
  };
}

class Compiler {
  readonly findings = new Findings();
  readonly statements: Draft[] = [];
  config: MachineConfig = defaultConfig();
  private machineSeen = false;
  private vcpus = 0;
  private tablesSeen = false;
  /** the last action could not be read: nothing can be said about what an `expect` is about */
  private lastActionBroken = false;
  private readonly text: string;
  private readonly broken: ReadonlySet<number>;

  constructor(text: string, broken: ReadonlySet<number>) {
    this.text = text;
    this.broken = broken;
  }

  /** Compiles the statements of a block in order. */
  block(nodes: readonly StatementNode[], parent: number): void {
    let last = parent < 0 ? 0 : this.statements[parent].line;
    for (const node of nodes) {
      const place = placeOf(node.$cstNode);
      if (place.line === last) {
        const text = (node.$cstNode?.text ?? '').split(/[\r\n]/)[0];
        this.findings.error('one-a-line', node, `one statement a line: put \`${text}\` on a line of its own`);
      }
      last = place.endLine;
      this.statement(node, parent, place);
    }
  }

  private statement(node: StatementNode, parent: number, place: ReturnType<typeof placeOf>): void {
    const before = this.findings.list.length;
    const draft: Draft = {
      index: this.statements.length,
      ...place,
      text: node.$cstNode?.text ?? '',
      vcpu: -1,
      parent,
      op: { kind: 'let' },
      collectsEvents: false,
    };
    if (node.$type === 'Repeat') {
      this.repeat(node, draft);
      return;
    }
    const op = this.op(node, draft);
    if (op !== null && parent >= 0 && ['machine', 'let', 'backing', 'vcpu'].includes(op.kind)) {
      this.findings.error('in-repeat', node, `${op.kind} can be done once only: move it before the repeat`);
    }
    // A line that the parser gave up on may lack anything; what is wrong with it has been said.
    if (op === null && this.findings.list.length === before && !this.brokenBetween(place)) {
      this.findings.error(
        'incomplete',
        node,
        `this statement is not complete; write: ${entryFor(draft.text.split(/\s+/))?.syntax ?? 'the rest of it'}`,
      );
    }
    if (op === null) {
      this.lastActionBroken = !['Constant', 'Expect', 'Step', 'Note', 'Machine'].includes(
        node.$type === 'Vcpu' ? (node.action?.$type ?? 'Vcpu') : node.$type,
      );
      return;
    }
    if (!isPassive(op)) this.lastActionBroken = false;
    draft.op = op;
    this.statements.push(draft);
  }

  private brokenBetween(place: { line: number; endLine: number }): boolean {
    for (let l = place.line; l <= place.endLine; l++) if (this.broken.has(l)) return true;
    return false;
  }

  private repeat(node: Repeat, draft: Draft): void {
    const count = node.forever ? null : this.findings.number(node.count, { what: 'the count of repeat' });
    this.statements.push(draft);
    if (node.statements.length === 0 && !this.brokenBetween(draft)) {
      this.findings.error(
        'empty-repeat',
        node,
        'repeat has nothing to repeat: put statements between { and }, one a line',
      );
    }
    this.block(node.statements, draft.index);
    draft.op = { kind: 'repeat', count: node.forever ? null : (count ?? 0), end: this.statements.length };
  }

  /** What a statement does; null when it cannot be said. */
  private op(node: StatementNode, draft: Draft): Op | null {
    const f = this.findings;
    switch (node.$type) {
      case 'Machine':
        if (this.machineSeen)
          f.error(
            'machine-first',
            node,
            'there is one machine in a scenario: put all settings into the first machine block',
          );
        else if (this.statements.some((s) => s.op.kind !== 'let' && s.op.kind !== 'note'))
          f.error('machine-first', node, 'the machine block comes before all other statements: move it to the top');
        this.machineSeen = true;
        this.config = machineConfig(node, f);
        return { kind: 'machine' };
      case 'Constant': {
        const value = f.value(node.value, { what: node.name });
        if (value === null) return null;
        const known = [...MEMSLOT_FLAGS, ...PTE_FLAGS, ...Object.values(REGISTER_FLAGS).flat()].some(
          (x) => x.name === node.name,
        );
        if (known)
          f.warn(
            'name-taken',
            node,
            `'${node.name}' is also the name of a flag and means the flag where flags are written: choose another name`,
            'name',
          );
        if (f.constants.has(node.name) || f.backings.has(node.name))
          f.error('twice', node, `'${node.name}' is defined twice: choose another name`, 'name');
        f.constants.set(node.name, value);
        return { kind: 'let' };
      }
      case 'Backing':
        return this.backing(node);
      case 'Frames':
        // Absent when the line breaks off there.
        return (node.backing as Frames['backing'] | undefined) === undefined
          ? null
          : this.frames(node.backing.$refText, node.offset, node.ranges, node);
      case 'Memslot':
        return this.memslot(node);
      case 'Write':
        return this.write(node);
      case 'Invalidate': {
        const host = f.host(node.host, 'invalidate');
        const size = f.number(node.size, { what: 'size' });
        if (host === null || size === null) return null;
        if (host.offset % 4096 || size % 4096 || size === 0)
          f.error('unaligned', node, 'the host takes whole pages away: offset and size must be multiples of 4K');
        else if (host.offset + size > (f.backings.get(host.backing)?.size ?? 0))
          f.error('beyond-backing', node, `the range reaches beyond backing '${host.backing}'`, 'size');
        return { kind: 'invalidate', host, size };
      }
      case 'DirtyLog':
        return this.dirtyLog(node);
      case 'Tables': {
        const address = f.number(node.address, { what: 'the address of tables' });
        const as_id = this.addressSpace(node.as);
        if (address === null || as_id === null) return null;
        if (address % 4096)
          f.error(
            'unaligned',
            node,
            `page tables start at a page boundary: write tables at 0x${(address - (address % 4096)).toString(16)}`,
            'address',
          );
        this.tablesSeen = true;
        return { kind: 'tables', as_id, address };
      }
      case 'Step': {
        const number = f.literal(node, node.number, 'the number of the step', 'number');
        return number === null ? null : { kind: 'step', number: Number(number), text: unquote(node.text) };
      }
      case 'Note':
        return { kind: 'note', text: unquote(node.text) };
      case 'Vcpu': {
        const index = f.number(node.index, { what: 'the number of the vCPU' });
        if (index === null) return null;
        if (node.action) {
          if (index >= this.vcpus) {
            f.error(
              'unknown-vcpu',
              node,
              `vCPU ${index} does not exist here: create it before this line with vcpu ${index} { … }`,
              'index',
            );
            return null;
          }
          draft.vcpu = index;
          return this.action(node.action, draft, true);
        }
        if (index !== this.vcpus) {
          f.error(
            'unknown-vcpu',
            node,
            index < this.vcpus
              ? `vCPU ${index} exists already; to change its registers write: vcpu ${index}: setregs { … }`
              : `vCPUs are created in order: the next one is vcpu ${this.vcpus}`,
            'index',
          );
        }
        this.vcpus++;
        draft.vcpu = index;
        return { kind: 'vcpu', registers: this.registers(node.registers, true) };
      }
      case 'Repeat':
        return null;
      default:
        draft.vcpu = 0;
        return this.action(node, draft, false);
    }
  }

  // ---- memory ---------------------------------------------------------------------------------------------------------------

  private backing(node: Backing): Op | null {
    const f = this.findings;
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

  private frames(backing: string, offsetValue: Value, ranges: readonly FrameRange[], node: StatementNode): Op | null {
    const f = this.findings;
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
  private addressSpace(v: Value | undefined): number | null {
    if (!v) return 0;
    const as = this.findings.number(v, { what: 'the address space' });
    if (as !== null && as > 1) {
      this.findings.error('address-space', v, `address space ${as} does not exist: 0 is the normal one, 1 that of SMM`);
      return null;
    }
    return as;
  }

  private memslot(node: Memslot): Op | null {
    const f = this.findings;
    const as_id = this.addressSpace(node.as);
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

  private dirtyLog(node: DirtyLog): Op | null {
    const f = this.findings;
    const as_id = this.addressSpace(node.as);
    const id = f.number(node.slot, { what: 'the slot id', max: 0xffffn });
    const gpa = node.gpa ? f.number(node.gpa, { what: 'gpa' }) : null;
    const size = node.size ? f.number(node.size, { what: 'size' }) : null;
    if (as_id === null || id === null || (node.gpa && gpa === null) || (node.size && size === null)) return null;
    if (node.action === 'clear') {
      if (!this.config.dirtyLogManualProtect) {
        f.warn(
          'dirty-log',
          node,
          'KVM_CLEAR_DIRTY_LOG goes with manual protection: write dirty_log manual-protect in the machine block',
        );
      }
      return { kind: 'dirty-log-clear', as_id, id, part: gpa === null || size === null ? null : { gpa, size } };
    }
    if (gpa !== null)
      f.error('dirty-log', node, 'KVM_GET_DIRTY_LOG reports a whole slot: leave gpa and size out', 'gpa');
    return { kind: 'dirty-log-get', as_id, id };
  }

  private write(node: Write): Op | null {
    const f = this.findings;
    const as_id = this.addressSpace(node.as);
    const toHost = f.namesBacking(node.address);
    if (toHost && node.as) f.error('address-space', node, 'a backing has no address space: leave `as` out', 'as');
    const host = toHost ? f.host(node.address, node.width) : null;
    const gpa = toHost ? null : f.number(node.address, { what: 'the address', max: (1n << 52n) - 1n });
    const bytes = node.width === 'bytes' ? this.hexBytes(node) : this.wideBytes(node, WIDTHS[node.width]);
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

  private wideBytes(node: Write, width: 1 | 2 | 4 | 8): Uint8Array | null {
    const out = new Uint8Array(node.values.length * width);
    for (const [i, v] of node.values.entries()) {
      let value = this.findings.value(v, { what: node.width, max: (1n << BigInt(8 * width)) - 1n });
      if (value === null) return null;
      for (let b = 0; b < width; b++, value >>= 8n) out[i * width + b] = Number(value & 0xffn);
    }
    return node.values.length === 0 ? null : out;
  }

  private hexBytes(node: Write): Uint8Array | null {
    const text = node.bytes.join('');
    const bad = node.bytes.find((b) => b.length % 2 || !/^[0-9a-fA-F]+$/.test(b));
    if (bad !== undefined) {
      this.findings.error(
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

  // ---- vCPUs ----------------------------------------------------------------------------------------------------------------

  private registers(list: readonly (RegisterSetting | RegisterAssignment)[], all: boolean): RegisterWrite[] {
    const out: RegisterWrite[] = [];
    for (const r of list) {
      const info = REGISTERS.find((i) => i.name === r.name);
      if (!info) {
        this.findings.error(
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
      if (out.some((o) => o.name === r.name))
        this.findings.error('twice', r, `'${r.name}' is set twice: keep one of them`, 'name');
      const none = r.value?.terms.length === 1 && r.value.terms[0].ref?.$refText === 'none';
      if (none && !info.table)
        this.findings.error(
          'register-value',
          r,
          `only descriptor tables can be none; write a value for ${r.name}`,
          'value',
        );
      const value = none ? 0n : this.findings.value(r.value, { what: r.name, flags: REGISTER_FLAGS[r.name] });
      const limitNode = 'limit' in r ? r.limit : undefined;
      const limit = limitNode ? this.findings.number(limitNode, { what: 'limit', max: 0xffffffffn }) : null;
      if (limitNode && !info.table)
        this.findings.error('register-value', r, `${r.name} has no limit: only gdt, idt and tr have one`, 'limit');
      if (value === null) continue;
      if (r.name === 'cpl' && value > 3n)
        this.findings.error('register-value', r, `cpl is 0, 1, 2 or 3, not ${value}`, 'value');
      if (r.name === 'code' && ![16n, 32n, 64n].includes(value))
        this.findings.error('register-value', r, `code is 16, 32 or 64, not ${value}`, 'value');
      if (info.table && all && !none && limit === null)
        this.findings.error('register-value', r, `${r.name} needs its limit: write ${r.name} 0x… limit 0x…`, 'value');
      out.push({ name: r.name, value, none, limit });
    }
    return out;
  }

  /** An action of a vCPU; `prefixed` when `vcpu N:` stood before it. */
  private action(node: VcpuAction, draft: Draft, prefixed: boolean): Op | null {
    const f = this.findings;
    if (node.$type !== 'Expect' && draft.vcpu >= this.vcpus) {
      f.error(
        'unknown-vcpu',
        node,
        'there is no vCPU yet: create one before this line with vcpu 0 { cr0 … cr3 … cr4 … efer … }',
      );
      return null;
    }
    switch (node.$type) {
      case 'SetRegs':
        return { kind: 'setregs', registers: this.registers(node.registers, true) };
      case 'MapPages':
        return this.map(node);
      case 'UnmapPages': {
        const gva = f.value(node.gva, { what: 'gva' });
        const count = node.count ? f.number(node.count, { what: 'count', max: BigInt(MAX_MAP) }) : 1;
        return gva === null || count === null ? null : { kind: 'unmap', gva, count };
      }
      case 'Insn': {
        const insn = this.insn(node);
        const rip = node.rip ? f.value(node.rip, { what: 'at' }) : null;
        return insn === null || (node.rip && rip === null)
          ? null
          : { kind: 'insn', insn, modifiers: { user: node.user, ac: node.ac, rip } };
      }
      case 'Run':
        return this.run(node);
      case 'Smi':
        return { kind: 'smi' };
      case 'Expect': {
        const subject = this.subject();
        if (!prefixed) draft.vcpu = subject !== null && subject.vcpu >= 0 ? subject.vcpu : this.vcpus > 0 ? 0 : -1;
        if (!node.what) return null;
        const claim = compileClaim(node.what, node.absent, f, (v) => this.addressSpace(v));
        if (claim === null) return null;
        if (this.lastActionBroken) return { kind: 'expect', claim };
        if (isAboutRun(claim) && !(subject && isRun(subject.op))) {
          f.error(
            'expect-subject',
            node,
            `\`${firstWords(draft.text)}\` is about the instruction before it, but ${subject ? `\`${firstWords(subject.text)}\` is none` : 'there is none'}: put it after load, store, run …`,
          );
        } else if (isAboutIoctl(claim) && !(subject && isIoctl(subject.op))) {
          f.error(
            'expect-subject',
            node,
            `\`expect errno\` is about the ioctl before it, but ${subject ? `\`${firstWords(subject.text)}\` is none` : 'there is none'}: put it after memslot or dirty_log`,
          );
        } else if (claim.kind === 'dirty' && subject?.op.kind !== 'dirty-log-get') {
          f.error(
            'expect-subject',
            node,
            'which pages are dirty is known after dirty_log get: put this line after one',
          );
        } else if (isAboutEvents(claim) && !subject) {
          f.error(
            'expect-subject',
            node,
            `\`expect ${claim.kind}\` is about the statement before it, but there is none`,
          );
        }
        return { kind: 'expect', claim };
      }
      default:
        return null;
    }
  }

  private map(node: MapPages): Op | null {
    const f = this.findings;
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
    if (!this.tablesSeen) {
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

  private run(node: Run): Op | null {
    const rip = node.rip ? this.findings.value(node.rip, { what: 'at' }) : null;
    const limit = node.limit ? this.findings.number(node.limit, { what: 'limit' }) : null;
    if (node.rip && rip === null) return null;
    return { kind: 'run', rip, registers: this.registers(node.registers, false), limit };
  }

  private insn(node: Insn): GuestInsn | null {
    const f = this.findings;
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
      default:
        return { op };
    }
  }

  // ---- order ----------------------------------------------------------------------------------------------------------------

  /** The last action before the statement being compiled, in the order of the text. */
  private subject(): Draft | null {
    for (let i = this.statements.length - 1; i >= 0; i--)
      if (!isPassive(this.statements[i].op)) return this.statements[i];
    return null;
  }

  /** Marks the statements whose events a later `expect` asks for. */
  finish(): void {
    for (const s of this.statements) {
      if (s.op.kind !== 'expect' || !isAboutEvents(s.op.claim)) continue;
      for (let i = s.index - 1; i >= 0; i--) {
        const before = this.statements[i];
        if (before.op.kind === 'repeat' && before.op.end > s.index) {
          // First in the body: from the second round on, it is about the last action of the body.
          for (let j = before.op.end - 1; j > i; j--)
            if (!isPassive(this.statements[j].op)) {
              this.statements[j].collectsEvents = true;
              break;
            }
        }
        if (isPassive(before.op)) continue;
        before.collectsEvents = true;
        break;
      }
    }
  }
}

const unquote = (text: string | undefined): string => (text ?? '').replace(/^"|"$/g, '');
const firstWords = (text: string): string =>
  text
    .split(/[\r\n]/)[0]
    .split(/\s+/)
    .slice(0, 3)
    .join(' ');
