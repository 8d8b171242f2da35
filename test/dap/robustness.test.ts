/** What a session has to withstand: endless runs, other sessions, broken and hostile messages. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { connect } from 'node:net';
import fc from 'fast-check';
import { join } from 'node:path';
import { servePort } from '../../src/adapter/server';
import { HANDLERS } from '../../src/adapter/session';
import { HERE, scenario } from './client';
import { InlineSession } from './inline';

describe('an endless scenario', () => {
  let s: InlineSession;
  beforeEach(async () => {
    s = new InlineSession();
    await s.open({ program: scenario('endless'), stopOnEntry: true });
    const stopped = s.next('stopped');
    await s.send('configurationDone');
    await stopped;
  });
  afterEach(() => s.close());

  const pauseAfter = async (ms: number): Promise<{ took: number; reason: unknown }> => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    const stopped = s.next('stopped');
    const asked = performance.now();
    await s.send('pause', { threadId: 1 });
    const { body } = (await stopped) as DebugProtocol.StoppedEvent;
    return { took: performance.now() - asked, reason: body.reason };
  };

  it('pauses within 100 ms, again and again', async () => {
    for (const ms of [20, 200, 400]) {
      await s.send('continue', { threadId: 1 });
      const { took, reason } = await pauseAfter(ms);
      assert.equal(reason, 'pause');
      assert.ok(took < 100, `pausing took ${took.toFixed(0)} ms`);
    }
  });

  it('goes back after a long run, and forward again to the same state', async () => {
    await s.send('continue', { threadId: 1 });
    await pauseAfter(600);
    const where = async (): Promise<{ position: { tick: number; statements: number } }> => s.send('mmuscope/state');
    const counter = async (): Promise<string> => {
      const { result } = await s.send<{ result: string }>('evaluate', { expression: 'gpa 0x30000', context: 'repl' });
      return result;
    };
    const [start, value] = [await where(), await counter()];
    assert.ok(start.position.statements > 100, `only ${start.position.statements} statements ran`);
    for (let i = 0; i < 5; i++) await s.go('stepBack');
    assert.ok((await where()).position.tick < start.position.tick);
    await s.go('mmuscope/goto', { tick: start.position.tick });
    assert.equal(await counter(), value);
    assert.equal((await where()).position.tick, start.position.tick);
  });

  it('pauses a search through the past', async () => {
    await s.send('continue', { threadId: 1 });
    await pauseAfter(800);
    await s.send('setFunctionBreakpoints', { breakpoints: [{ name: 'enter_smm' }] });
    await s.send('reverseContinue', { threadId: 1 });
    const { took } = await pauseAfter(5);
    assert.ok(took < 100, `pausing took ${took.toFixed(0)} ms`);
  });

  it('shows the progress of a long way, and stops when that is cancelled', async () => {
    const started = s.next('progressStart');
    await s.send('mmuscope/goto', { event: 1_000_000_000 });
    const { progressId, title, cancellable } = (await started).body as Record<string, unknown>;
    assert.deepEqual([title, cancellable], ['Going to an event', true]);
    const [stopped, ended] = [s.next('stopped'), s.next('progressEnd')];
    await s.send('cancel', { progressId: 'another' });
    await s.send('cancel', { progressId });
    assert.equal(((await stopped) as DebugProtocol.StoppedEvent).body.reason, 'pause');
    assert.deepEqual((await ended).body, { progressId });
  });

  it('takes breakpoints while it runs, and shows each vCPU as a thread', async () => {
    await s.send('continue', { threadId: 1 });
    await assert.rejects(s.send('stackTrace', { threadId: 1 }), /in progress: pause it first/);
    await assert.rejects(s.send('next', { threadId: 1 }), /in progress/);
    const stopped = s.next('stopped');
    await s.send('setBreakpoints', { source: { path: scenario('endless') }, breakpoints: [{ line: 14 }] });
    const { body } = (await stopped) as DebugProtocol.StoppedEvent;
    assert.deepEqual([body.reason, body.threadId], ['breakpoint', 2]);
    const { threads } = await s.send<{ threads: { id: number; name: string }[] }>('threads');
    assert.deepEqual(threads, [
      { id: 1, name: 'vCPU 0' },
      { id: 2, name: 'vCPU 1' },
    ]);
    const top = async (threadId: number): Promise<string> =>
      (await s.send<{ stackFrames: { name: string }[] }>('stackTrace', { threadId })).stackFrames[0].name;
    assert.equal(await top(2), 'vcpu 1: rmw 4 [0x30004] + 1');
    assert.equal(await top(1), 'not running');
    await assert.rejects(s.send('stackTrace', { threadId: 3 }), /there is no thread 3: the vCPUs are threads 1, 2/);
  });

  it('ends at once when the client leaves', async () => {
    await s.send('continue', { threadId: 1 });
    await s.send('disconnect');
    const count = s.events.length;
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.ok(s.events.length - count <= 2);
  });
});

describe('guest code that never comes back', function () {
  this.timeout(20_000);
  it('pauses within 100 ms, in the middle of a statement, and can be stepped back from there', async () => {
    const s = new InlineSession();
    await s.open({ program: scenario('spinning') });
    await s.send('configurationDone');
    // The first slices are slower than those that follow.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const stopped = s.next('stopped');
    const asked = performance.now();
    await s.send('pause', { threadId: 1 });
    await stopped;
    const took = performance.now() - asked;
    assert.ok(took < 100, `pausing took ${took.toFixed(0)} ms`);
    const at = async (): Promise<{ tick: number; line: number }> =>
      (await s.send<{ position: { tick: number; line: number } }>('mmuscope/state')).position;
    const { tick, line } = await at();
    assert.equal(line, 7);
    await s.go('stepBack', { granularity: 'instruction' });
    assert.ok((await at()).tick < tick);
    await s.go('mmuscope/goto', { tick });
    assert.equal((await at()).tick, tick);
    s.close();
  });
});

describe('two sessions at once', () => {
  it('share nothing', async () => {
    const [a, b] = [new InlineSession(), new InlineSession()];
    await a.open({ program: scenario('tour') }, ['smm_enter']);
    await b.open({ program: scenario('tour'), vendor: 'amd' }, ['guest_page_fault']);
    const stops = [a.next('stopped'), b.next('stopped')];
    await Promise.all([a.send('configurationDone'), b.send('configurationDone')]);
    const [inA, inB] = (await Promise.all(stops)).map((e) => e.body as { description: string });
    assert.match(inA.description, /SMM entry/);
    assert.match(inB.description, /Guest page fault/);
    await a.send('writeMemory', { memoryReference: 'gpa:0x200000', data: 'AAAAAA==' });
    const { data } = await b.send<{ data: string }>('readMemory', { memoryReference: 'gpa:0x200000', count: 4 });
    assert.equal(Buffer.from(data, 'base64').readUInt32LE(), 0x11223344);
    const roots = async (s: InlineSession): Promise<string[]> =>
      (await s.send<{ roots: { kind: string }[] }>('mmuscope/roots')).roots.map((r) => r.kind);
    assert.ok((await roots(a)).includes('ept'));
    assert.ok((await roots(b)).includes('npt'));
    a.close();
    assert.equal((await b.go('continue'))['reason'], 'end');
    b.close();
  });
});

describe('hostile messages', () => {
  let s: InlineSession;
  beforeEach(async () => {
    s = new InlineSession();
    await s.open({ program: scenario('tour') }, ['ept_misconfig']);
    const stopped = s.next('stopped');
    await s.send('configurationDone');
    await stopped;
  });
  afterEach(() => s.close());

  it('unknown requests are refused by name', async () => {
    await assert.rejects(s.send('frobnicate'), /'frobnicate' is not supported/);
    await assert.rejects(s.send('stackTraces', {}), /did you mean 'stackTrace'\?/);
    await assert.rejects(s.send('constructor'), /not supported/);
    await assert.rejects(s.send('__proto__'), /not supported/);
    for (const message of [{}, { command: null }, { command: 7 }, { command: ['threads'] }]) {
      assert.equal((await s.raw(message)).success, message.command?.toString() === 'threads');
    }
  });

  it('arguments of a wrong type are named', async () => {
    await assert.rejects(s.send('stackTrace', {}), /stackTrace: argument 'threadId' must be an integer/);
    await assert.rejects(s.send('readMemory', { memoryReference: 5, count: 1 }), /'memoryReference' must be a string/);
    await assert.rejects(s.send('setBreakpoints', { source: [], breakpoints: [] }), /'source' must be an object/);
    await assert.rejects(
      s.send('setBreakpoints', { source: {}, breakpoints: [null] }),
      /a breakpoint must be an object/,
    );
    await assert.rejects(s.send('scopes', { frameId: 99999 }), /no frame 99999 any more/);
    await assert.rejects(s.send('variables', { variablesReference: -1 }), /no variables reference -1/);
    await assert.rejects(s.send('launch', { program: scenario('tour') }), /has a scenario already/);
    await assert.rejects(s.send('configurationDone'), /has been sent already/);
    const { success, message } = await s.raw({ command: 'threads', arguments: 'no' });
    assert.deepEqual([success, message], [false, 'threads: the arguments must be an object']);
  });

  it('whatever the arguments, there is an answer, no internal error, and the session goes on', async function () {
    this.timeout(60_000);
    const commands = [...HANDLERS.keys()].filter(
      (c) => !['terminate', 'disconnect', 'launch', 'attach', 'initialize'].includes(c),
    );
    const names = new Set([...HANDLERS.values()].flatMap((h) => Object.keys(h.shape)));
    const value = fc.oneof(
      fc.constantFrom<unknown>(
        null,
        true,
        false,
        '',
        'gpa:0x1000',
        '0x1000',
        'root_mmu',
        'root:0x8000000',
        'guest',
        [],
        [0],
        [0, 0, 1],
        {},
        { path: 'x' },
        { line: 3 },
      ),
      fc.integer({ min: -3, max: 600 }),
      fc.constantFrom<unknown>(1e308, -1e308, 2 ** 53, 1.5, NaN, 2 ** 31),
      fc.string({ maxLength: 12 }),
      fc.bigInt(0n, (1n << 64n) - 1n).map((v) => `0x${v.toString(16)}`),
      fc.bigInt(0n, (1n << 64n) - 1n).map((v) => `gva@0:0x${v.toString(16)}`),
    );
    const args = fc.dictionary(fc.constantFrom(...names, 'granularity', '__proto__'), value, {
      maxKeys: 5,
      noNullPrototype: true,
    });
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...commands), args, async (command, given) => {
        const response = await s.raw({ command, arguments: given });
        assert.doesNotMatch(response.message ?? '', /internal error/, `${command} ${JSON.stringify(given)}`);
        assert.ok(!(response.message ?? '').includes('\n'), response.message);
        const state = (): Promise<{ running: boolean }> => s.send('mmuscope/state');
        while ((await state()).running) await new Promise((resolve) => setImmediate(resolve));
      }),
      { numRuns: 600 },
    );
    const { position } = await s.send<{ position: object }>('mmuscope/state');
    assert.ok(position);
  });
});

describe('transports', function () {
  this.timeout(30_000);

  it('broken bytes on stdin do not end the session', async () => {
    const child = spawn(process.execPath, [join(HERE, 'stdio.mjs')], { stdio: ['pipe', 'pipe', 'inherit'] });
    let out = '';
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    const put = (text: string): void => void child.stdin.write(text);
    put('Content-Length: 9\r\n\r\n{not json');
    put('Content-Length: 4\r\n\r\nnull');
    put('Content-Length: -5\r\n\r\n');
    put('Content-Length: nonsense\r\n\r\n');
    put('Rubbish without a header\r\n\r\n');
    const request = JSON.stringify({ seq: 1, type: 'request', command: 'initialize', arguments: { adapterID: 'x' } });
    put(`Content-Length: ${request.length}\r\n\r\n${request}`);
    const begin = Date.now();
    while (!out.includes('"command":"initialize"') && Date.now() - begin < 20_000)
      await new Promise((r) => setTimeout(r, 50));
    assert.match(out, /"request_seq":1,"command":"initialize","success":true/);
    assert.match(out, /a message that is not JSON was ignored/);
    const exit = new Promise((resolve) => child.on('exit', resolve));
    child.stdin.end();
    assert.equal(await exit, 0, 'the process ends with its input');
  });

  it('a port serves this machine only', async () => {
    assert.throws(() => void servePort(0, '0.0.0.0'), /not an address of this machine alone/);
    const { port, server } = await servePort(0);
    const socket = connect(port, '127.0.0.1');
    const request = JSON.stringify({ seq: 1, type: 'request', command: 'initialize', arguments: { adapterID: 'x' } });
    socket.write(`Content-Length: ${request.length}\r\n\r\n${request}`);
    const answer = await new Promise<Buffer>((resolve) => socket.once('data', resolve));
    assert.match(answer.toString(), /"success":true/);
    socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
});
