import assert from 'node:assert/strict';
import { checkArguments } from './handler';
import { capabilities, HANDLERS } from './session';

describe('the handler table', () => {
  it('announces only what it answers', () => {
    const requests: Record<string, string[]> = {
      supportsConfigurationDoneRequest: ['configurationDone'],
      supportsFunctionBreakpoints: ['setFunctionBreakpoints'],
      supportsDataBreakpoints: ['setDataBreakpoints', 'dataBreakpointInfo'],
      supportsStepBack: ['stepBack', 'reverseContinue'],
      supportsSetVariable: ['setVariable'],
      supportsSetExpression: ['setExpression'],
      supportsCompletionsRequest: ['completions'],
      supportsExceptionInfoRequest: ['exceptionInfo'],
      supportsReadMemoryRequest: ['readMemory'],
      supportsWriteMemoryRequest: ['writeMemory'],
      supportsGotoTargetsRequest: ['gotoTargets', 'goto'],
      supportsBreakpointLocationsRequest: ['breakpointLocations'],
      supportsCancelRequest: ['cancel'],
      supportsTerminateRequest: ['terminate'],
      supportsLoadedSourcesRequest: ['loadedSources'],
    };
    const announced = Object.entries(capabilities())
      .filter(([, on]) => on === true)
      .map(([name]) => name);
    for (const name of announced) {
      for (const request of requests[name] ?? []) assert.ok(HANDLERS.has(request), `${name} needs ${request}`);
    }
    for (const name of Object.keys(requests)) assert.ok(announced.includes(name), name);
    for (const name of ['supportsRestartRequest', 'supportsStepInTargetsRequest', 'supportsDisassembleRequest']) {
      assert.ok(!announced.includes(name), `${name} has no handler`);
    }
  });

  it('checks the shape of arguments', () => {
    const shape = { count: 'integer', name: 'string?', list: 'array?', flag: 'boolean?' } as const;
    assert.deepEqual(checkArguments('x', shape, { count: 3, name: null, extra: 1 }), { count: 3, extra: 1 });
    assert.throws(() => checkArguments('x', shape, {}), /x: argument 'count' must be an integer/);
    assert.throws(() => checkArguments('x', shape, { count: 2 ** 60 }), /'count' must be an integer/);
    assert.throws(() => checkArguments('x', shape, { count: 1, list: {} }), /'list' must be an array/);
    assert.throws(() => checkArguments('x', shape, { count: 1, flag: 'yes' }), /'flag' must be a boolean/);
    assert.throws(() => checkArguments('x', shape, []), /the arguments must be an object/);
  });
});
