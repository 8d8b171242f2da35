/** Breakpoints of all kinds. They may be changed at any time, also while the run is in progress. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import type { BreakpointOptions, BreakpointResult } from '../../targets/target';
import { TargetError } from '../../targets/target';
import type { Context } from '../context';
import { handler, type RequestHandler } from '../handler';

/** What of a breakpoint request the target wants, from whatever the client sent. */
function options(item: unknown): BreakpointOptions & Record<string, unknown> {
  if (typeof item !== 'object' || item === null) throw new TargetError('a breakpoint must be an object');
  const { condition, hitCondition, logMessage, ...rest } = item as Record<string, unknown>;
  const text = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined);
  return { ...rest, condition: text(condition), hitCondition: text(hitCondition), logMessage: text(logMessage) };
}

function answer(context: Context, results: readonly BreakpointResult[], withSource: boolean): object {
  const source = withSource ? context.source() : undefined;
  return {
    breakpoints: results.map(({ id, verified, line, message }) => ({
      id,
      verified,
      ...(message === undefined ? {} : { message, ...(verified ? {} : { reason: 'failed' }) }),
      ...(line === undefined ? {} : { line: context.toClientLine(line), ...(source ? { source } : {}) }),
    })),
  };
}

/** Whether the client means the source of this session. */
function isOurs(context: Context, source: DebugProtocol.Source): boolean {
  const ours = context.source();
  if (!ours) return false;
  if (source.sourceReference) return source.sourceReference === ours.sourceReference;
  return source.path !== undefined && source.path === ours.path;
}

function setBreakpoints(context: Context, args: DebugProtocol.SetBreakpointsArguments): object {
  const wanted = (args.breakpoints ?? []).map((b) => {
    const o = options(b);
    if (typeof o['line'] !== 'number') throw new TargetError("setBreakpoints: a breakpoint needs a 'line'");
    return { ...o, line: context.fromClientLine(Math.trunc(o['line'])) };
  });
  if (!isOurs(context, args.source)) {
    const name = context.target.source?.name ?? 'the scenario';
    return answer(
      context,
      wanted.map(({ line }, id) => ({
        id: -1 - id,
        verified: false,
        line,
        message: `this session debugs ${name}, not this file`,
      })),
      false,
    );
  }
  if (context.launch?.noDebug)
    return answer(
      context,
      wanted.map(({ line }, i) => ({ id: i + 1, verified: false, line })),
      true,
    );
  return answer(context, context.target.setLineBreakpoints(wanted), true);
}

function setFunctionBreakpoints(context: Context, args: DebugProtocol.SetFunctionBreakpointsArguments): object {
  const wanted = args.breakpoints.map((b) => {
    const o = options(b);
    if (typeof o['name'] !== 'string') throw new TargetError("setFunctionBreakpoints: a breakpoint needs a 'name'");
    return { ...o, name: o['name'] };
  });
  if (context.launch?.noDebug) return { breakpoints: wanted.map(() => ({ verified: false })) };
  return answer(context, context.target.setFunctionBreakpoints(wanted), false);
}

function setExceptionBreakpoints(context: Context, args: DebugProtocol.SetExceptionBreakpointsArguments): object {
  const plain = args.filters.map((filter) => ({ filter: String(filter) }));
  const conditional = (args.filterOptions ?? []).map((f) => {
    const o = options(f);
    if (typeof o['filterId'] !== 'string')
      throw new TargetError("setExceptionBreakpoints: an option needs a 'filterId'");
    return { ...o, filter: o['filterId'] };
  });
  if (context.launch?.noDebug) return { breakpoints: [] };
  return answer(context, context.target.setExceptionBreakpoints([...plain, ...conditional]), false);
}

function dataBreakpointInfo(context: Context, args: DebugProtocol.DataBreakpointInfoArguments): object {
  const target = context.stopped;
  let expression = args.name;
  let vcpu = args.frameId === undefined ? context.vcpuOf(undefined) : context.frame(args.frameId).vcpu;
  if (args.variablesReference) {
    const parent = context.variable(args.variablesReference);
    vcpu = parent.vcpu;
    const node = parent.node.children?.().find((n) => n.name === args.name);
    expression = node?.memoryReference ?? node?.evaluateName ?? args.name;
  }
  const { dataId, description } = target.dataBreakpointInfo(expression, vcpu, args.bytes);
  return { dataId, description, accessTypes: ['write'], canPersist: dataId !== null };
}

function setDataBreakpoints(context: Context, args: DebugProtocol.SetDataBreakpointsArguments): object {
  const wanted = args.breakpoints.map((b) => {
    const o = options(b);
    if (typeof o['dataId'] !== 'string') throw new TargetError("setDataBreakpoints: a breakpoint needs a 'dataId'");
    if (b.accessType !== undefined && b.accessType !== 'write') {
      throw new TargetError('data breakpoints stop when memory changes: reads are not watched');
    }
    return { ...o, dataId: o['dataId'] };
  });
  return answer(context, context.target.setDataBreakpoints(wanted), false);
}

function breakpointLocations(context: Context, args: DebugProtocol.BreakpointLocationsArguments): object {
  if (!isOurs(context, args.source)) return { breakpoints: [] };
  const from = context.fromClientLine(args.line);
  const to = args.endLine === undefined ? from : context.fromClientLine(args.endLine);
  const lines = context.target.breakpointLines(from, to);
  return { breakpoints: lines.map((line) => ({ line: context.toClientLine(line) })) };
}

export const breakpoints: Record<string, RequestHandler> = {
  setBreakpoints: handler({ source: 'object', breakpoints: 'array?' }, setBreakpoints, {
    supportsConditionalBreakpoints: true,
    supportsHitConditionalBreakpoints: true,
    supportsLogPoints: true,
  }),
  setFunctionBreakpoints: handler({ breakpoints: 'array' }, setFunctionBreakpoints, {
    supportsFunctionBreakpoints: true,
  }),
  setExceptionBreakpoints: handler({ filters: 'array', filterOptions: 'array?' }, setExceptionBreakpoints, {
    supportsExceptionFilterOptions: true,
  }),
  dataBreakpointInfo: handler(
    { name: 'string', variablesReference: 'integer?', frameId: 'integer?', bytes: 'integer?' },
    dataBreakpointInfo,
  ),
  setDataBreakpoints: handler({ breakpoints: 'array' }, setDataBreakpoints, {
    supportsDataBreakpoints: true,
    supportsDataBreakpointBytes: true,
  }),
  breakpointLocations: handler({ source: 'object', line: 'integer', endLine: 'integer?' }, breakpointLocations, {
    supportsBreakpointLocationsRequest: true,
  }),
};
