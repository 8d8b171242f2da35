/** The debug console, watches and hovers. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import type { Context } from '../context';
import { handler, type RequestHandler } from '../handler';
import { assign, variableOf } from './stack';

type EvaluateContext = 'repl' | 'watch' | 'hover' | 'clipboard';

function at(context: Context, frameId: number | undefined) {
  if (frameId === undefined) return { vcpu: context.vcpuOf(undefined), frame: null };
  return context.frame(frameId);
}

function evaluate(context: Context, args: DebugProtocol.EvaluateArguments): object {
  const { vcpu, frame } = at(context, args.frameId);
  const wanted: EvaluateContext =
    args.context === 'watch' || args.context === 'hover' || args.context === 'clipboard' ? args.context : 'repl';
  const { node } = context.stopped.evaluate(args.expression, vcpu, frame, wanted);
  const { name: _, evaluateName: _e, value, ...rest } = variableOf(context, node, vcpu);
  return { result: value, ...rest };
}

function setExpression(context: Context, args: DebugProtocol.SetExpressionArguments): object {
  const { vcpu, frame } = at(context, args.frameId);
  const { node } = context.stopped.evaluate(args.expression, vcpu, frame, 'watch');
  return assign(context, node, args.value, vcpu);
}

/** DAP's name for each kind of completion. */
const KINDS: Record<string, DebugProtocol.CompletionItemType> = {
  keyword: 'keyword',
  property: 'property',
  variable: 'variable',
  function: 'function',
  value: 'value',
};

function completions(context: Context, args: DebugProtocol.CompletionsArguments): object {
  const { vcpu } = at(context, args.frameId);
  const lines = args.text.split('\n');
  const text = lines[Math.min(Math.max((args.line ?? 1) - 1, 0), lines.length - 1)];
  const column = Math.min(Math.max(args.column - (context.client.columnsStartAt1 ? 1 : 0), 0), text.length);
  const typed = /[A-Za-z_][\w.]*$/.exec(text.slice(0, column))?.[0] ?? '';
  return {
    targets: context.stopped.completions(text, column, vcpu).map(({ label, text: insert, detail, kind }) => ({
      label,
      ...(insert === undefined ? {} : { text: insert }),
      ...(detail === undefined ? {} : { detail }),
      type: KINDS[kind],
      start: column - typed.length,
      length: typed.length,
    })),
  };
}

export const debugConsole: Record<string, RequestHandler> = {
  evaluate: handler({ expression: 'string', frameId: 'integer?', context: 'string?' }, evaluate, {
    supportsEvaluateForHovers: true,
    supportsClipboardContext: true,
  }),
  setExpression: handler({ expression: 'string', value: 'string', frameId: 'integer?' }, setExpression, {
    supportsSetExpression: true,
  }),
  completions: handler({ text: 'string', column: 'integer', line: 'integer?', frameId: 'integer?' }, completions, {
    supportsCompletionsRequest: true,
    completionTriggerCharacters: ['.', ' '],
  }),
};
