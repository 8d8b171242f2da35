/** What is to be seen at a stop: threads, frames, scopes, variables, the source, and why it stopped. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { TargetError, type TreeNode } from '../../targets/target';
import type { Context } from '../context';
import { bounded, handler, type RequestHandler } from '../handler';
import { whyView } from '../views';

function threads(context: Context): object {
  return { threads: context.target.vcpus().map((v) => ({ id: v.index + 1, name: v.name })) };
}

function stackTrace(context: Context, args: DebugProtocol.StackTraceArguments): object {
  const vcpu = context.vcpuOf(args.threadId);
  const frames = context.stopped.frames(vcpu);
  const first = bounded(args.startFrame, 0);
  const count = bounded(args.levels || undefined, frames.length);
  const source = context.source();
  return {
    totalFrames: frames.length,
    stackFrames: frames.slice(first, first + count).map((frame) => ({
      id: context.addFrame({ vcpu, frame }),
      name: frame.name,
      line: frame.line === null ? 0 : context.toClientLine(frame.line),
      column: frame.line === null ? 0 : context.client.columnsStartAt1 ? 1 : 0,
      ...(frame.line !== null && source ? { source } : {}),
      ...(frame.line === null ? { presentationHint: 'subtle' } : {}),
    })),
  };
}

function scopes(context: Context, args: DebugProtocol.ScopesArguments): object {
  const { vcpu, frame } = context.frame(args.frameId);
  return {
    scopes: context.stopped.scopes(vcpu, frame).map(({ name, expensive, presentation, root }) => ({
      name,
      expensive,
      ...(presentation ? { presentationHint: presentation } : {}),
      variablesReference: context.addVariable(root, vcpu),
      ...counts(root),
    })),
  };
}

function counts(node: TreeNode): { indexedVariables?: number; namedVariables?: number } {
  return {
    ...(node.indexed ? { indexedVariables: node.indexed } : {}),
    ...(node.indexed && node.named !== undefined ? { namedVariables: node.named } : {}),
  };
}

export function variableOf(context: Context, node: TreeNode, vcpu: number): DebugProtocol.Variable {
  return {
    name: node.name,
    value: node.value,
    ...(node.type === undefined ? {} : { type: node.type }),
    variablesReference: context.addVariable(node, vcpu),
    ...counts(node),
    ...(node.memoryReference === undefined ? {} : { memoryReference: node.memoryReference }),
    ...(node.evaluateName === undefined ? {} : { evaluateName: node.evaluateName }),
    ...presentation(node),
  };
}

function presentation(node: TreeNode): { presentationHint?: DebugProtocol.VariablePresentationHint } {
  if (!node.lazy && !node.attributes?.length && node.set) return {};
  const attributes = [...(node.attributes ?? []), ...(node.set ? [] : ['readOnly'])];
  return { presentationHint: { attributes, ...(node.lazy ? { lazy: true } : {}) } };
}

function variables(context: Context, args: DebugProtocol.VariablesArguments): object {
  void context.stopped;
  const { node, vcpu } = context.variable(args.variablesReference);
  const filter = args.filter === 'indexed' || args.filter === 'named' ? args.filter : undefined;
  const count = args.count ? args.count : undefined;
  const children = node.children?.(filter, bounded(args.start, 0), count) ?? [];
  return { variables: children.map((child) => variableOf(context, child, vcpu)) };
}

function setVariable(context: Context, args: DebugProtocol.SetVariableArguments): object {
  void context.stopped;
  const { node, vcpu } = context.variable(args.variablesReference);
  const child = node.children?.().find((n) => n.name === args.name);
  if (!child) throw new TargetError(`there is no '${args.name}' here`);
  return assign(context, child, args.value, vcpu);
}

/** Writes a node and tells the client what else may have changed. */
export function assign(context: Context, node: TreeNode, value: string, vcpu: number): object {
  if (!node.set) throw new TargetError(`'${node.name}' cannot be changed: it is computed from other state`);
  const changed = node.set(value);
  context.after(() => context.stateChanged());
  const { name: _, evaluateName: _e, ...result } = variableOf(context, changed, vcpu);
  return result;
}

function exceptionInfo(context: Context, args: DebugProtocol.ExceptionInfoArguments): object {
  context.vcpuOf(args.threadId);
  const stop = context.stopped.lastStop;
  if (stop?.reason !== 'exception') throw new TargetError('the run did not stop at an exception');
  const why = stop.why ? whyView(stop.why, context.target) : null;
  return {
    exceptionId: stop.filter ?? 'exception',
    description: stop.description,
    breakMode: 'always',
    details: {
      message: why?.verdict.text ?? stop.description,
      typeName: stop.filter ?? 'exception',
      ...(why ? { stackTrace: why.text } : {}),
    },
    mmuscope: { why, event: stop.event },
  };
}

function source(context: Context, args: { source?: DebugProtocol.Source; sourceReference?: number }): object {
  const ours = context.target.source;
  const reference = args.source?.sourceReference ?? args.sourceReference;
  if (!ours || (ours.path === null ? reference !== 1 : args.source?.path !== context.source()?.path)) {
    throw new TargetError('this session has no such source');
  }
  return { content: ours.text, mimeType: 'text/x-mmu' };
}

function loadedSources(context: Context): object {
  const ours = context.source();
  return { sources: ours ? [ours] : [] };
}

export const stack: Record<string, RequestHandler> = {
  threads: handler({}, threads),
  stackTrace: handler({ threadId: 'integer', startFrame: 'integer?', levels: 'integer?' }, stackTrace, {
    supportsDelayedStackTraceLoading: true,
  }),
  scopes: handler({ frameId: 'integer' }, scopes),
  variables: handler(
    { variablesReference: 'integer', filter: 'string?', start: 'integer?', count: 'integer?' },
    variables,
  ),
  setVariable: handler({ variablesReference: 'integer', name: 'string', value: 'string' }, setVariable, {
    supportsSetVariable: true,
  }),
  exceptionInfo: handler({ threadId: 'integer?' }, exceptionInfo, { supportsExceptionInfoRequest: true }),
  source: handler({ sourceReference: 'integer?', source: 'object?' }, source),
  loadedSources: handler({}, loadedSources, { supportsLoadedSourcesRequest: true }),
};
