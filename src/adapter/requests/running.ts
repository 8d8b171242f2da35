/** Motions: forward, backward, to a place. Each is answered at once; a `stopped` event follows when it has ended. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import type { Motion } from '../../targets/target';
import { TargetError } from '../../targets/target';
import type { Context } from '../context';
import { handler, type RequestHandler } from '../handler';

function motion(kind: 'continue' | 'reverseContinue' | 'stepIn' | 'stepOut' | 'reverseStepIn') {
  return (context: Context, args: { threadId?: number }): object => start(context, { kind }, args.threadId);
}

function step(kind: 'next' | 'stepBack') {
  return (context: Context, args: DebugProtocol.NextArguments): object => {
    const granularity = args.granularity === 'instruction' ? 'instruction' : 'statement';
    return start(context, { kind, granularity }, args.threadId);
  };
}

function start(context: Context, motion: Motion, threadId: number | undefined): object {
  const target = context.stopped;
  const vcpu = context.vcpuOf(threadId, target);
  if (BACKWARD.has(motion.kind) && !target.info.features.past) {
    throw new TargetError(`a ${target.info.kind} has no past to go back to`);
  }
  context.after(() => context.move(motion, vcpu));
  return motion.kind === 'continue' ? { allThreadsContinued: true } : {};
}

const BACKWARD = new Set<Motion['kind']>(['reverseContinue', 'stepBack', 'reverseStepIn']);

function pause(context: Context): void {
  context.target.pause();
}

function cancel(context: Context, args: DebugProtocol.CancelArguments): void {
  if (args.progressId !== undefined && args.progressId === context.activeProgress) context.target.pause();
}

/** The places that `goto` can go to on a line: the run is a line in time, so there are two. */
function gotoTargets(context: Context, args: DebugProtocol.GotoTargetsArguments): object {
  const line = context.fromClientLine(args.line);
  const [at] = context.stopped.breakpointLines(line, line);
  if (at === undefined) throw new TargetError(`line ${args.line} has no statement to go to`);
  const shown = context.toClientLine(at);
  return {
    targets: [
      { id: at * 2, label: `Line ${shown}: the next time it runs`, line: shown },
      { id: at * 2 + 1, label: `Line ${shown}: the last time it ran`, line: shown },
    ],
  };
}

function goto(context: Context, args: DebugProtocol.GotoArguments): object {
  const line = Math.floor(args.targetId / 2);
  const direction = args.targetId % 2 ? 'backward' : 'forward';
  return start(context, { kind: 'line', line, direction }, args.threadId);
}

function gotoEvent(context: Context, args: { event?: number; tick?: number }): object {
  if ((args.event === undefined) === (args.tick === undefined)) {
    throw new TargetError("mmuscope/goto: give either 'event' or 'tick'");
  }
  if ((args.event ?? args.tick ?? 0) < 0) throw new TargetError('mmuscope/goto: events and ticks count from 0');
  const motion: Motion =
    args.event !== undefined ? { kind: 'event', index: args.event } : { kind: 'tick', tick: args.tick ?? 0 };
  context.after(() =>
    context.send('continued', { threadId: context.vcpuOf(undefined, context.target) + 1, allThreadsContinued: true }),
  );
  return start(context, motion, undefined);
}

const THREAD = { threadId: 'integer?', singleThread: 'boolean?' } as const;

export const running: Record<string, RequestHandler> = {
  continue: handler(THREAD, motion('continue')),
  next: handler({ ...THREAD, granularity: 'string?' }, step('next'), { supportsSteppingGranularity: true }),
  stepIn: handler(THREAD, motion('stepIn')),
  stepOut: handler(THREAD, motion('stepOut')),
  stepBack: handler({ ...THREAD, granularity: 'string?' }, step('stepBack'), { supportsStepBack: true }),
  reverseContinue: handler(THREAD, motion('reverseContinue')),
  'mmuscope/reverseStepIn': handler(THREAD, motion('reverseStepIn')),
  pause: handler({ threadId: 'integer?' }, pause),
  cancel: handler({ requestId: 'integer?', progressId: 'string?' }, cancel, { supportsCancelRequest: true }),
  gotoTargets: handler({ source: 'object', line: 'integer' }, gotoTargets, { supportsGotoTargetsRequest: true }),
  goto: handler({ threadId: 'integer?', targetId: 'integer' }, goto),
  'mmuscope/goto': handler({ event: 'integer?', tick: 'integer?' }, gotoEvent),
};
