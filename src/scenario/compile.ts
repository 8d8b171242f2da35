/**
 * From syntax tree to program: names and numbers resolved, every statement checked against the language. What KVM or the processor
 * would say about a correct statement (overlapping slots, addresses out of range) is checks.ts.
 */
import type { MachineConfig } from '../kvm/machine';
import { compileClaim, isAboutEvents, isAboutIoctl, isAboutRun } from './compile-expect';
import {
  addressSpace,
  backingOp,
  dirtyLogOp,
  framesOp,
  invalidateOp,
  memslotOp,
  pokeOp,
  subpagesOp,
  writeOp,
} from './compile-memory';
import { guestInsn, mapOp, MAX_MAP, registerWrites, runOp } from './compile-vcpu';
import { Findings, placeOf } from './findings';
import type { Frames, Repeat, Scenario, Statement as StatementNode, VcpuAction } from './generated/ast';
import { vmcbOp } from './compile-control';
import { defaultConfig, machineConfig } from './machine-config';
import { ScenarioProgram, type Diagnostic, type Op, type Statement } from './program';
import { entryFor } from './reference';
import { MEMSLOT_FLAGS, PTE_FLAGS, REGISTER_FLAGS } from './tables';

/** A statement under construction; {@link Statement} when everything is known. */
type Draft = { -readonly [K in keyof Statement]: Statement[K] };

/** Statements that do nothing on their own: the last action before them is what an `expect` is about. */
export const isPassive = (op: Op): boolean =>
  ['machine', 'let', 'expect', 'step', 'note', 'repeat', 'audit'].includes(op.kind);
/** Statements that are an ioctl with an errno. */
export const isIoctl = (op: Op): boolean => /^(memslot|dirty-log|subpages)-/.test(op.kind);
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
      this.lastActionBroken = !['Constant', 'Expect', 'Step', 'Note', 'Machine', 'Audit'].includes(
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
        return backingOp(node, f);
      case 'Frames':
        // Absent when the line breaks off there.
        return (node.backing as Frames['backing'] | undefined) === undefined
          ? null
          : framesOp(node.backing.$refText, node.offset, node.ranges, node, f);
      case 'Memslot':
        return memslotOp(node, f);
      case 'Write':
        return writeOp(node, f);
      case 'Vmcb':
        return vmcbOp(node, f);
      case 'Invalidate':
        return invalidateOp(node, f);
      case 'DirtyLog':
        return dirtyLogOp(node, this.config, f);
      case 'Subpages':
        return subpagesOp(node, f);
      case 'Audit':
        return { kind: 'audit' };
      case 'Tables': {
        const address = f.number(node.address, { what: 'the address of tables' });
        const as_id = addressSpace(node.as, f);
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
        return { kind: 'vcpu', registers: registerWrites(node.registers, true, f) };
      }
      case 'Repeat':
        return null;
      default:
        draft.vcpu = 0;
        return this.action(node, draft, false);
    }
  }

  // ---- vCPUs ----------------------------------------------------------------------------------------------------------------

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
        return { kind: 'setregs', registers: registerWrites(node.registers, true, f) };
      case 'MapPages':
        return mapOp(node, this.tablesSeen, f);
      case 'UnmapPages': {
        const gva = f.value(node.gva, { what: 'gva' });
        const count = node.count ? f.number(node.count, { what: 'count', max: BigInt(MAX_MAP) }) : 1;
        return gva === null || count === null ? null : { kind: 'unmap', gva, count };
      }
      case 'Insn': {
        const insn = guestInsn(node, f);
        const rip = node.rip ? f.value(node.rip, { what: 'at' }) : null;
        return insn === null || (node.rip && rip === null)
          ? null
          : { kind: 'insn', insn, modifiers: { user: node.user, ac: node.ac, rip } };
      }
      case 'Run':
        return runOp(node, f);
      case 'Smi':
        return { kind: 'smi' };
      case 'Poke':
        return pokeOp(node, f);
      case 'Expect': {
        const subject = this.subject();
        if (!prefixed) draft.vcpu = subject !== null && subject.vcpu >= 0 ? subject.vcpu : this.vcpus > 0 ? 0 : -1;
        if (!node.what) return null;
        const claim = compileClaim(node.what, node.absent, f, (v) => addressSpace(v, f));
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
            `\`expect errno\` is about the ioctl before it, but ${subject ? `\`${firstWords(subject.text)}\` is none` : 'there is none'}: put it after memslot, dirty_log or subpages`,
          );
        } else if (claim.kind === 'dirty' && subject?.op.kind !== 'dirty-log-get') {
          f.error(
            'expect-subject',
            node,
            'which pages are dirty is known after dirty_log get: put this line after one',
          );
        } else if (claim.kind === 'subpages' && subject?.op.kind !== 'subpages-get') {
          f.error('expect-subject', node, 'access maps are known after subpages get: put this line after one');
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
