/** Beginning and end of a session: initialize, launch, configurationDone, terminate, disconnect. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { openTarget } from '../../targets/open';
import { TargetError, type TargetFeatures } from '../../targets/target';
import type { Context } from '../context';
import { handler, type RequestHandler } from '../handler';
import { checkLaunch, type LaunchArguments } from '../launch-attributes';

function initialize(context: Context, args: DebugProtocol.InitializeRequestArguments): void {
  context.client = {
    variablePaging: args.supportsVariablePaging === true,
    memoryEvent: args.supportsMemoryEvent === true,
    invalidatedEvent: args.supportsInvalidatedEvent === true,
    progress: args.supportsProgressReporting === true,
    linesStartAt1: args.linesStartAt1 !== false,
    columnsStartAt1: args.columnsStartAt1 !== false,
    pathFormatUri: args.pathFormat === 'uri',
  };
}

async function launch(context: Context, given: unknown): Promise<void> {
  if (context.hasTarget) throw new TargetError('this session has a scenario already: start another session');
  const args = checkLaunch(given);
  const target = await openTarget(args, context.files);
  context.launch = args;
  context.setTarget(target);
  target.trace(args.noDebug ? ['all'] : args.trace);
  // Breakpoints of the table's defaults hold until the client sends its own.
  if (!args.noDebug) {
    target.setExceptionBreakpoints(target.exceptionFilters.filter((f) => f.default).map(({ filter }) => ({ filter })));
  }
  const lacking = withdrawn(target.info.features);
  context.after(() => {
    if (Object.keys(lacking).length > 0) context.send('capabilities', { capabilities: lacking });
    context.send('initialized');
  });
}

/** Capabilities that were announced for targets in general and that this one does not have. */
function withdrawn(features: TargetFeatures): DebugProtocol.Capabilities {
  const all: DebugProtocol.Capabilities = {
    supportsStepBack: features.past,
    supportsFunctionBreakpoints: features.functionBreakpoints,
    supportsDataBreakpoints: features.dataBreakpoints,
    supportsDataBreakpointBytes: features.dataBreakpoints,
    supportsWriteMemoryRequest: features.writeMemory,
    supportsSetVariable: features.setVariable,
    supportsSetExpression: features.setVariable,
  };
  return Object.fromEntries(Object.entries(all).filter(([, has]) => !has));
}

function configurationDone(context: Context): void {
  if (context.begun) throw new TargetError('configurationDone has been sent already');
  const { launch } = context;
  if (!launch) throw new TargetError('nothing is being debugged: send a launch request first');
  context.begun = true;
  context.after(() => begin(context, launch));
}

function begin(context: Context, launch: LaunchArguments): void {
  if (!launch.noDebug) {
    if (launch.stopAtEvent !== undefined) return context.move({ kind: 'event', index: launch.stopAtEvent }, 0);
    if (launch.stopOnEntry) return context.move({ kind: 'tick', tick: 0 }, 0);
  }
  context.move({ kind: 'continue' }, 0);
}

function end(context: Context): void {
  if (context.hasTarget) {
    context.target.pause();
    context.setTarget(null);
  }
  context.after(() => context.send('terminated'));
}

export const lifecycle: Record<string, RequestHandler> = {
  initialize: handler({ clientID: 'string?', adapterID: 'string?' }, initialize),
  launch: handler({}, launch),
  attach: handler({}, () => {
    throw new TargetError('there is nothing to attach to: use "request": "launch" with \'program\', a .mmu file');
  }),
  configurationDone: handler({}, configurationDone, { supportsConfigurationDoneRequest: true }),
  terminate: handler({}, end, { supportsTerminateRequest: true }),
  disconnect: handler({}, end),
};
