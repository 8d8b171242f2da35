/** Data breakpoints of the simulator: which bytes one watches, and what its id says. */
import type { Machine } from '../../kvm/machine';
import { type DataBreakpointInfo, formatMemoryReference, parseMemoryReference, type TreeNode } from '../target';
import type { WatchedBytes } from './breakpoints';
import { type ConsoleHost, evaluate } from './console';
import { readMemory } from './memory';

/** Largest range that one data breakpoint watches, in bytes. */
const MAX_WATCH = 4096;

/**
 * What can be watched at an address or at the address of a console expression.
 * @param host where expressions are looked up
 * @param bytes 8 unless given
 */
export function dataBreakpointInfo(
  machine: () => Machine,
  host: ConsoleHost,
  expression: string,
  vcpu: number,
  bytes?: number,
): DataBreakpointInfo {
  const refuse = (description: string): DataBreakpointInfo => ({ dataId: null, description });
  let reference = expression;
  if (!/^(gpa|hpa|gva)\b.*:|^(0x)?[0-9a-f]+$/i.test(expression)) {
    const node = tryEvaluate(host, expression, vcpu);
    if (!node?.memoryReference) return refuse(`'${expression}' has no address: give gpa:0x…, hpa:0x… or gva@0:0x…`);
    reference = node.memoryReference;
  }
  try {
    const ref = parseMemoryReference(reference, vcpu);
    const dataId = `${formatMemoryReference(ref)}/${bytes ?? 8}`;
    const watched = watchedBytes(machine, dataId);
    return typeof watched === 'string'
      ? refuse(watched)
      : { dataId, description: `${watched.title} (stops when it changes)` };
  } catch (error) {
    return refuse((error as Error).message);
  }
}

/**
 * The bytes of a data breakpoint, or a sentence why there are none.
 * @param machine the one of the present position, asked each time that the bytes are read
 */
export function watchedBytes(machine: () => Machine, dataId: string): WatchedBytes | string {
  const m = /^(.*)\/(\d{1,6})$/.exec(dataId);
  const count = m ? Number(m[2]) : 0;
  if (!m || count < 1 || count > MAX_WATCH) return `a data breakpoint watches 1 to ${MAX_WATCH} bytes`;
  const ref = parseMemoryReference(m[1]);
  const read = (): Uint8Array | null => {
    const { data, unreadable } = readMemory(machine(), ref, count);
    return unreadable ? null : data;
  };
  return { title: `${count} byte${count === 1 ? '' : 's'} at ${formatMemoryReference(ref)}`, read };
}

function tryEvaluate(host: ConsoleHost, expression: string, vcpu: number): TreeNode | null {
  try {
    return evaluate(host, expression, vcpu, null, 'watch');
  } catch {
    return null;
  }
}
