/**
 * What the debug console understands: commands (walk, decode, gpa …), names of state (`root_mmu.root_role.level`), and
 * expressions. Every answer is a tree node, so that it can be opened like a variable.
 */
import { AUDIT_RULES, auditRule, findingPath, findingText, type Finding } from '../../kvm/audit';
import { formatHex, parseNumber } from '../../words/address';
import { decodableWords, explain } from '../../words/explain';
import { compileExpr, type ExprScope, exprText } from '../expr';
import { leaf, struct } from '../nodes';
import { suggestion } from '../../words/suggest';
import {
  type Completion,
  type Frame,
  formatMemoryReference,
  type MemoryRef,
  parseMemoryReference,
  TargetError,
  type TreeNode,
} from '../target';
import type { StateNames } from './breakpoints';

/** What the console needs of the target. */
export interface ConsoleHost {
  readonly names: StateNames;
  readonly kernel: string;
  readonly vendor: 'intel' | 'amd';
  readonly paging: 'ept' | 'npt' | 'shadow';
  readonly hostPhysBits: number;
  /** nodes that paths begin with: registers, root_mmu, memslots … */
  topNodes(vcpu: number): readonly TreeNode[];
  walkNode(request: {
    vcpu: number;
    from: 'gva' | 'gpa';
    address: bigint;
    write: boolean;
    fetch: boolean;
    user?: boolean;
  }): TreeNode;
  /** the invariants of KVM's MMU, all or those named, in the state where the debugger stands */
  audit(rules: readonly string[] | undefined): Finding[];
  readMemory(ref: MemoryRef, count: number): { data: Uint8Array; unreadable: number };
  slotText(asId: number, gpa: bigint): string;
  addressSpaces(): number;
}

interface Command {
  readonly name: string;
  readonly usage: string;
  readonly meaning: string;
  run(host: ConsoleHost, words: string[], vcpu: number): TreeNode;
}

const WALK_WORDS = ['user', 'supervisor', 'read', 'write', 'fetch'];

const COMMANDS: readonly Command[] = [
  {
    name: 'walk',
    usage: 'walk gva ADDRESS [user|supervisor] [write|fetch]',
    meaning: 'translate an address and say why it comes out so; gpa instead of gva: the second stage alone',
    run: walk,
  },
  {
    name: 'gva',
    usage: 'gva ADDRESS',
    meaning: 'memory at a guest linear address',
    run: (h, w, v) => memory(h, w, { kind: 'gva', vcpu: v }),
  },
  {
    name: 'gpa',
    usage: 'gpa ADDRESS [as 1]',
    meaning: 'memory at a guest-physical address, and its memslot',
    run: gpa,
  },
  {
    name: 'hpa',
    usage: 'hpa ADDRESS',
    meaning: 'memory at a host-physical address',
    run: (h, w) => memory(h, w, { kind: 'hpa' }),
  },
  {
    name: 'decode',
    usage: 'decode VALUE [as WORD]',
    meaning: 'what a number means; words: spte, role, cr0, pferr …',
    run: decode,
  },
  {
    name: 'audit',
    usage: 'audit [RULE …]',
    meaning: 'check the invariants of KVM’s MMU in this state (docs/audit.md lists them)',
    run: audit,
  },
  { name: 'help', usage: 'help', meaning: 'this list', run: help },
];

function audit(host: ConsoleHost, words: string[]): TreeNode {
  const legal = AUDIT_RULES.map((r) => r.id);
  const rules = words.map((w) => w.replace(/,$/, ''));
  const unknown = rules.find((r) => !legal.includes(r));
  if (unknown !== undefined)
    throw new TargetError(`'${unknown}' is not a rule of the audit: the rules are ${legal.join(', ')}`);
  const findings = host.audit(rules.length > 0 ? rules : undefined);
  if (findings.length === 0) return leaf('audit', rules.length > 0 ? `${rules.join(', ')}: clean` : 'clean');
  const nodes = findings.map((f) =>
    leaf(f.rule, `${findingPath(f)}${findingPath(f) ? ': ' : ''}${f.why}`, { type: auditRule(f.rule).sentence }),
  );
  return struct('audit', findings.map(findingText).join('\n'), () => nodes);
}

function help(): TreeNode {
  const width = Math.max(...COMMANDS.map((c) => c.usage.length));
  const lines = COMMANDS.map((c) => `${c.usage.padEnd(width)}  ${c.meaning}`);
  const text = [
    ...lines,
    `${'EXPRESSION'.padEnd(width)}  for example cr0 & 0x10000, gpa in slot(1), root_role.level, root_mmu, memslots[0]`,
  ];
  return struct('help', text.join('\n'), () => COMMANDS.map((c) => leaf(c.usage, c.meaning)));
}

function number(words: string[], what: string): bigint {
  const text = words.shift();
  if (text === undefined) throw new TargetError(`${what} is missing: write a number such as 0xfee00000`);
  try {
    return parseNumber(text);
  } catch (error) {
    throw new TargetError((error as Error).message);
  }
}

function done(words: readonly string[], usage: string): void {
  if (words.length) throw new TargetError(`'${words.join(' ')}' does not belong here: write ${usage}`);
}

function walk(host: ConsoleHost, words: string[], vcpu: number): TreeNode {
  const [{ usage }] = COMMANDS;
  const from = words[0] === 'gva' || words[0] === 'gpa' ? words.shift() : 'gva';
  const address = number(words, 'the address');
  const asked = new Set<string>();
  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    const name = word.replace(/,$/, '');
    if (!WALK_WORDS.includes(name)) {
      throw new TargetError(`'${name}' is not a kind of access: write ${usage}${suggestion(name, WALK_WORDS)}`);
    }
    asked.add(name);
  }
  const user = asked.has('user') ? true : asked.has('supervisor') ? false : undefined;
  return host.walkNode({
    vcpu,
    from: from as 'gva' | 'gpa',
    address,
    write: asked.has('write'),
    fetch: asked.has('fetch'),
    user,
  });
}

function gpa(host: ConsoleHost, words: string[]): TreeNode {
  const address = number(words, 'the address');
  let asId = 0;
  if (words[0] === 'as') {
    words.shift();
    asId = Number(number(words, 'the address space'));
  }
  if (asId >= host.addressSpaces())
    throw new TargetError(`there is no address space ${asId}: this kernel has ${host.addressSpaces()}`);
  done(words, 'gpa ADDRESS [as 1]');
  return memoryNode(host, { space: { kind: 'gpa', asId }, address }, host.slotText(asId, address));
}

function memory(host: ConsoleHost, words: string[], space: MemoryRef['space']): TreeNode {
  const address = number(words, 'the address');
  done(words, `${space.kind} ADDRESS`);
  return memoryNode(host, { space, address }, '');
}

const PREVIEW = 64;

/** A few words of memory, with a reference that opens the rest. */
function memoryNode(host: ConsoleHost, ref: MemoryRef, note: string): TreeNode {
  const memoryReference = formatMemoryReference(ref);
  const { data } = host.readMemory(ref, PREVIEW);
  if (data.length === 0) throw new TargetError(`there is no memory at ${memoryReference}${note ? ` (${note})` : ''}`);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const words = Array.from({ length: Math.floor(data.length / 8) }, (_, i) => view.getBigUint64(i * 8, true));
  const rows = words.map((w, i) => leaf(formatHex(ref.address + BigInt(i * 8)), formatHex(w, 16)));
  const first = words.length ? formatHex(words[0], 16) : `${data.length} bytes`;
  return struct(memoryReference, `${first}${note ? `  ${note}` : ''}`, () => rows, { memoryReference });
}

function decode(host: ConsoleHost, words: string[]): TreeNode {
  const value = number(words, 'the value');
  let as: string | undefined;
  if (words[0] === 'as') {
    words.shift();
    as = words.shift();
    if (as === undefined)
      throw new TargetError(
        `decode … as needs a word: ${decodableWords()
          .map((w) => w.name)
          .join(', ')}`,
      );
  }
  done(words, 'decode VALUE [as WORD]');
  return explanationNode(host, value, { as });
}

/** The meanings of a number under the session's kernel and vendor. */
export function explanationNode(
  host: ConsoleHost,
  value: bigint,
  more: { as?: string; context?: string } = {},
): TreeNode {
  const { kernel, vendor, hostPhysBits } = host;
  const pagingType = host.paging === 'ept' ? 'ept' : 'legacy';
  try {
    const found = explain(value, { kernel, vendor, hostPhysBits, pagingType, ...more });
    const nodes = found.map((e) =>
      struct(
        e.as,
        e.summary,
        () => [
          ...e.fields.map((f) => leaf(f.name, f.value, { type: `bits ${f.bits}: ${f.meaning}` })),
          ...e.notes.map((n) => leaf('note', n)),
        ],
        { type: e.title },
      ),
    );
    if (nodes.length === 1) return nodes[0];
    const text = found.map((e) => `${e.as}: ${e.summary}`);
    return struct(formatHex(value), text.join('\n'), () => nodes);
  } catch (error) {
    if (error instanceof TargetError) throw error;
    throw new TargetError((error as Error).message);
  }
}

// ---- evaluation ----------------------------------------------------------------------------------------------------

const HEX = /^(?:0x)?([0-9a-fA-F]{1,16})$/;

export function evaluate(
  host: ConsoleHost,
  text: string,
  vcpu: number,
  frame: Frame | null,
  context: string,
): TreeNode {
  const trimmed = text.trim();
  if (trimmed === '') throw new TargetError("there is nothing to evaluate: 'help' lists the commands");
  if (context === 'hover') return hover(host, trimmed, vcpu, frame);
  const [word, ...rest] = trimmed.split(/\s+/);
  const command = COMMANDS.find((c) => c.name === word);
  if (command && (context === 'repl' || rest.length > 0)) return command.run(host, rest, vcpu);
  const node = path(trimmed, [...host.topNodes(vcpu), ...(frame?.locals?.children?.() ?? [])]);
  if (node) return node;
  if (/^(?:gpa|hpa|gva)(?:@\d+)?:/i.test(trimmed)) return memoryNode(host, parseMemoryReference(trimmed, vcpu), '');
  return expression(host, trimmed, vcpu, context);
}

function expression(host: ConsoleHost, text: string, vcpu: number, context: string): TreeNode {
  const { scope } = host.names;
  const commands = COMMANDS.map((c) => c.name);
  const wide: ExprScope = {
    ...scope,
    explain: (name) =>
      scope.explain?.(name) ??
      (commands.some((c) => suggestion(name, [c]))
        ? `'${name}' is neither a command nor a name here${suggestion(name, [...commands, ...scope.names()])}`
        : null),
  };
  const value = compileExpr(text, wide).evaluate(host.names.env(vcpu));
  const shown = exprText(value);
  if (context === 'repl' && typeof value === 'bigint' && HEX.test(text.replace(/\s/g, '')))
    return explanationNode(host, value);
  return leaf(text, typeof value === 'bigint' && value >= 10n ? `${shown} (${value})` : shown);
}

/** A hover stands over one word of text: a name of the state, or a number. */
function hover(host: ConsoleHost, text: string, vcpu: number, frame: Frame | null): TreeNode {
  const node = path(text, [...host.topNodes(vcpu), ...(frame?.locals?.children?.() ?? [])]);
  if (node) return node;
  const m = HEX.exec(text);
  // Decimal numbers are counts as a rule; without a prefix only what has the look of a word is one.
  if (m && (text.startsWith('0x') || (m[1].length >= 6 && /[a-f]/i.test(m[1]))))
    return explanationNode(host, BigInt(`0x${m[1]}`));
  if (host.names.scope.has(text)) {
    return leaf(text, exprText(compileExpr(text, host.names.scope).evaluate(host.names.env(vcpu))));
  }
  throw new TargetError(`'${text}' has no value here`);
}

/**
 * A node by its path: `root_mmu.root_role.level`, `memslots[0][1].flags`. Names may themselves contain dots, so the
 * longest name that fits is taken. @returns null if there is no such node
 */
export function path(text: string, nodes: readonly TreeNode[]): TreeNode | null {
  if (!/^[A-Za-z_[][\w.[\]]*$/.test(text)) return null;
  for (const node of nodes) {
    if (text === node.name) return node;
  }
  const inside = nodes
    .filter((node) => text.startsWith(`${node.name}.`) || text.startsWith(`${node.name}[`))
    .sort((a, b) => b.name.length - a.name.length);
  for (const node of inside) {
    const rest = text.slice(node.name.length);
    const found = path(rest.startsWith('.') ? rest.slice(1) : rest, node.children?.() ?? []);
    if (found) return found;
  }
  return null;
}

// ---- completion ----------------------------------------------------------------------------------------------------

export function completions(host: ConsoleHost, text: string, column: number, vcpu: number): Completion[] {
  const before = text.slice(0, column);
  const words = before.trimStart().split(/\s+/);
  const typed = words.at(-1) ?? '';
  const first = words.length <= 1;
  const command = COMMANDS.find((c) => c.name === words[0]);
  if (!first && command) return commandCompletions(command.name, words);
  const member = /^(.*)\.[\w]*$/.exec(typed);
  if (member) {
    const children = path(member[1], host.topNodes(vcpu))?.children?.('named') ?? [];
    return children
      .map((c): Completion => ({ label: `${member[1]}.${c.name}`, detail: c.value.slice(0, 60), kind: 'property' }))
      .filter((c) => c.label.startsWith(typed));
  }
  const state: Completion[] = host.names.scope.names().map((label) => ({ label, kind: 'variable' }));
  const tops: Completion[] = host.topNodes(vcpu).map((n) => ({ label: n.name, detail: n.type, kind: 'variable' }));
  const seen = new Set<string>();
  const all: Completion[] = [
    ...(first ? COMMANDS.map((c): Completion => ({ label: c.name, detail: c.meaning, kind: 'keyword' })) : []),
    ...tops,
    ...state,
    { label: 'slot', text: 'slot(', detail: 'addresses of a memslot: gpa in slot(1)', kind: 'function' },
  ];
  return all.filter((c) => c.label.startsWith(typed) && !seen.has(c.label) && seen.add(c.label));
}

function commandCompletions(name: string, words: readonly string[]): Completion[] {
  if (name === 'walk') {
    const options = words.length === 2 ? ['gva', 'gpa'] : WALK_WORDS.filter((w) => !words.includes(w));
    return options.map((label) => ({ label, kind: 'keyword' }));
  }
  if (name === 'decode' && words.at(-2) === 'as') {
    return decodableWords()
      .filter((w) => w.name.startsWith(words.at(-1) ?? ''))
      .map((w) => ({ label: w.name, detail: w.description, kind: 'value' }));
  }
  return (name === 'decode' || name === 'gpa') && words.length === 3 ? [{ label: 'as', kind: 'keyword' }] : [];
}
