/** The call stack: the table entry being read, KVM's functions, the hardware walk below them, the scenario statement. */
import type { WalkStep, WhyRecord } from '../../hw/why';
import { formatHex } from '../../words/address';
import type { Lexicon } from '../lexicon';
import { hexLeaf, leaf, struct } from '../nodes';
import { formatMemoryReference, type Frame, type TreeNode } from '../target';
import type { Statement } from './program';
import { membersOf } from './struct-nodes';
import type { LiveFrame } from './timeline';
import { whyNode } from './why-nodes';

type DescribeStep = (step: WalkStep) => { levelName: string; summary: string };

export interface StackView {
  readonly frames: readonly LiveFrame[];
  readonly statement: Statement | null;
  /** the run stands at the read of the last entry of the innermost frame */
  readonly reading: boolean;
  readonly lexicon: Lexicon;
  readonly describe: DescribeStep;
}

/** The stack of the vCPU that is active, innermost first. */
export function activeStack({ frames, statement, reading, lexicon, describe }: StackView): Frame[] {
  const line = statement?.line ?? null;
  const stack: Frame[] = [];
  const step = frames.at(-1)?.reads.at(-1);
  if (reading && step) stack.push(readFrame(step, line, describe));
  for (const frame of [...frames].reverse()) {
    stack.push({
      kind: frame.kind === 'kvm' ? 'kvm' : 'hw',
      name: frame.name,
      line,
      locals: localsOf(frame, lexicon, describe),
    });
  }
  stack.push({
    kind: 'scenario',
    name: statement ? firstLine(statement.text) : 'end of the scenario',
    line,
    locals: null,
  });
  return stack;
}

/** A vCPU that is doing nothing now. */
export function idleStack(statement: Statement | null): Frame[] {
  return [{ kind: 'scenario', name: 'not running', line: statement?.line ?? null, locals: null }];
}

const firstLine = (text: string): string => text.split('\n', 1)[0].trim();

function readFrame(step: WalkStep, line: number | null, describe: DescribeStep): Frame {
  const { levelName } = describe(step);
  const name = `read ${levelName}[${step.index}] at ${step.space} ${formatHex(step.entryAddress)}`;
  return { kind: 'read', name, line, locals: struct('Locals', '', () => stepMembers(step, describe)) };
}

/** One entry that a walk read. */
export function stepMembers(step: WalkStep, describe: DescribeStep): TreeNode[] {
  const { levelName, summary } = describe(step);
  const host = formatMemoryReference({ space: { kind: 'hpa' }, address: step.hostAddress });
  return [
    leaf('entry', `${formatHex(step.raw, step.size * 2)} ${summary}`.trimEnd(), {
      type: levelName,
      memoryReference: host,
    }),
    hexLeaf('address', step.entryAddress, { type: step.space, memoryReference: host }),
    leaf('index', `${step.index}`),
    leaf('level', `${step.level}`),
    ...(step.written === undefined
      ? []
      : [hexLeaf('written', step.written, { type: 'accessed and dirty flags written back' })]),
    ...step.checked.map((c) => leaf(c.rule, `${c.ok ? 'ok' : 'FAILS'}${c.by ? ` (${c.by})` : ''}`)),
  ];
}

function localsOf(frame: LiveFrame, lexicon: Lexicon, describe: DescribeStep): TreeNode | null {
  const { locals, reads } = frame;
  if (frame.kind === 'hw') {
    const why = isWhy(locals) ? locals : null;
    return struct('Locals', '', () =>
      why
        ? (whyNode('walk', why, describe).children?.() ?? [])
        : reads.map((step, i) =>
            struct(`[${i}]`, `${describe(step).levelName} ${formatHex(step.raw)}`, () => stepMembers(step, describe)),
          ),
    );
  }
  return locals === null ? null : struct('Locals', '', () => membersOf(locals, lexicon));
}

function isWhy(locals: object | null): locals is WhyRecord {
  return locals !== null && 'steps' in locals && 'verdict' in locals;
}
