/** A why-record as a tree: the access, each entry read with its checks, the verdict. */
import { ruleOf } from '../../hw/rules';
import type { WalkCheck, WalkStep, WhyRecord } from '../../hw/why';
import { formatHex } from '../../words/address';
import { leaf, struct, wordNode } from '../nodes';
import { formatMemoryReference, type TreeNode } from '../target';
import { accessLine, type DescribeStep, whyLines } from '../why-text';
import { verdictCodes } from './walks';

/** @param text show the whole record as the value, for the console */
export function whyNode(name: string, why: WhyRecord, describe: DescribeStep, text = false): TreeNode {
  return struct(name, text ? whyLines(why, describe).join('\n') : why.verdict.text, () => [
    leaf('access', accessLine(why)),
    ...why.steps.map((step, i) => stepNode(`[${i}]`, step, describe)),
    ...why.checked.map(checkLeaf),
    leaf('verdict', why.verdict.text, why.verdict.rule ? { type: ruleOf(why.verdict.rule).reference } : {}),
    ...verdictCodes(why).map(({ name: code, decoded }) => wordNode(code, decoded)),
  ]);
}

function stepNode(name: string, step: WalkStep, describe: DescribeStep): TreeNode {
  const { levelName, summary } = describe(step);
  const failed = step.checked.find((c) => !c.ok);
  return struct(
    name,
    `${levelName}[${step.index}] ${formatHex(step.raw)} ${summary}${failed ? ` — ${failed.rule} fails` : ''}`,
    () => step.checked.map(checkLeaf),
    {
      type: `at ${step.space} ${formatHex(step.entryAddress)}`,
      memoryReference: formatMemoryReference({ space: { kind: 'hpa' }, address: step.hostAddress }),
    },
  );
}

function checkLeaf(c: WalkCheck): TreeNode {
  const { sentence, reference } = ruleOf(c.rule);
  return leaf(c.rule, `${c.ok ? 'ok' : 'FAILS'}${c.by ? ` (${c.by})` : ''}: ${sentence}`, { type: reference });
}
