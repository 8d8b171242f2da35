/**
 * Whole debug sessions over stdio, compared with transcripts that were read and accepted (test/dap/golden).
 * RESET_RESULTS=1 accepts what is now; read the difference before committing it.
 */
import assert from 'node:assert/strict';
import { scenario, Session } from './client';

describe('debug sessions', function () {
  this.timeout(60_000);
  let s: Session;
  beforeEach(() => (s = new Session()));
  afterEach(() => s.stop());

  const tour = { program: scenario('tour') };
  const lines = (...wanted: (number | object)[]) => ({
    source: { path: scenario('tour') },
    breakpoints: wanted.map((b) => (typeof b === 'number' ? { line: b } : b)),
  });

  it('begins, announces what it can do, and ends', async () => {
    s.note('initialize');
    await s.start();
    await s.send('initialize', { adapterID: 'mmuscope', linesStartAt1: true });
    s.note('launch and stop at the entry');
    await s.send('launch', { ...tour, stopOnEntry: true });
    await s.event('initialized');
    await s.send('configurationDone');
    await s.stopped();
    await s.send('threads');
    await s.stack();
    await s.send('loadedSources');
    s.note('to the end, where it stays until it is told to go on');
    await s.send('setExceptionBreakpoints', { filters: ['expect'] });
    await s.go('continue');
    await s.stack();
    await s.send('continue', { threadId: 1 });
    await s.event('terminated');
    await s.send('disconnect');
    s.golden('life');
  });

  it('breakpoints of each kind', async () => {
    await s.open(tour, async () => {
      await s.send('breakpointLocations', { source: { path: scenario('tour') }, line: 14, endLine: 18 });
      await s.send(
        'setBreakpoints',
        lines(21, { line: 29, logMessage: 'rip {rip}, level {root_role.level}' }, { line: 24, condition: 'smm' }),
      );
      await s.send('setFunctionBreakpoints', {
        breakpoints: [{ name: 'kvm_tdp_mmu_map', hitCondition: '3' }, { name: 'tdp_page_fault' }],
      });
      await s.send('setExceptionBreakpoints', { filters: [] });
    });
    await s.stopped();
    await s.stack();
    s.note('a line');
    await s.go('continue');
    s.note('other kinds in place of these');
    await s.send('setFunctionBreakpoints', { breakpoints: [] });
    await s.send('setExceptionBreakpoints', {
      filters: ['guest_page_fault', 'smm_exit'],
      filterOptions: [
        { filterId: 'ept_violation', condition: 'gpa >= 0x10000000 && !write' },
        { filterId: 'smm_enter', condition: 'smbase == 0x30000' },
      ],
    });
    for (const filter of ['ept_violation', 'guest_page_fault', 'smm_enter', 'smm_exit']) {
      s.note(filter);
      await s.go('continue');
      await s.stack();
    }
    s.note('memory that changes');
    await s.send('dataBreakpointInfo', { name: 'gpa:0x200000', bytes: 4 });
    await s.send('setDataBreakpoints', { breakpoints: [{ dataId: 'gpa:0x200000/4' }] });
    await s.send('setExceptionBreakpoints', { filters: [] });
    await s.send('setBreakpoints', lines());
    await s.go('reverseContinue');
    await s.stack();
    s.golden('breakpoints');
  });

  it('steps in, over, out, and back', async () => {
    await s.open(tour, async () => {
      await s.send('setBreakpoints', lines(21));
      await s.send('setExceptionBreakpoints', { filters: [] });
    });
    await s.stopped();
    s.note('into the store: the first entry that the processor reads, then KVM');
    for (let i = 0; i < 10; i++) {
      await s.go('stepIn');
      await s.stack();
    }
    s.note('out of the function, then over the next one');
    await s.go('stepOut');
    await s.stack();
    await s.go('next');
    await s.stack();
    s.note('back, station by station');
    for (let i = 0; i < 3; i++) {
      await s.go('stepBack', { granularity: 'instruction' });
      await s.stack();
    }
    await s.go('stepBack');
    await s.stack();
    s.note('over statements');
    await s.go('next');
    await s.go('next');
    await s.stack();
    s.note('back again, to the start of the run, and to an event');
    await s.go('stepBack');
    await s.go('stepBack');
    await s.stack();
    await s.send('setBreakpoints', lines());
    await s.go('reverseContinue');
    await s.stack();
    await s.send('mmuscope/goto', { event: 12 });
    await s.stopped();
    await s.stack();
    await s.send('gotoTargets', { source: { path: scenario('tour') }, line: 24 });
    await s.go('goto', { targetId: 48 });
    await s.stack();
    s.golden('stepping');
  });

  it('shows registers, MMUs, tables, slots and the structs of KVM', async () => {
    await s.open(tour, async () => {
      await s.send('setExceptionBreakpoints', { filters: [] });
      await s.send('setFunctionBreakpoints', { breakpoints: [{ name: 'handle_mmio_page_fault' }] });
    });
    await s.stopped();
    await s.stack();
    await s.show('Locals');
    await s.show('Registers');
    await s.show('Registers', 'cr0');
    await s.show('MMU');
    await s.show('MMU', 'root_mmu');
    await s.show('MMU', 'root_mmu', 'cpu_role');
    await s.show('MMU', 'root_mmu', 'root_role');
    await s.show('MMU', 'root_mmu', 'permissions');
    await s.show('MMU', 'MMIO cache');
    await s.show('Guest page tables');
    await s.show('Guest page tables', '[0]', '[0]', '[1]');
    await s.show('Guest page tables', '[0]', '[0]', '[1]', '[1]');
    await s.show('EPT');
    await s.show('EPT', '[0]', '[0]');
    await s.show('EPT', '[0]', '[0]', '[128]');
    await s.show('EPT', '[0]', '[0]', '[128]', '[0]');
    await s.show('VMCS');
    await s.show('VMCS', 'EPTP');
    await s.show('Memslots', 'as_id 0');
    await s.show('Memslots', 'as_id 1');
    await s.show('Memslots', 'as_id 0', '[1]');
    await s.show('Shadow pages');
    await s.show('Why');
    s.note('in SMM');
    await s.send('setFunctionBreakpoints', { breakpoints: [] });
    await s.send('setExceptionBreakpoints', { filters: ['smm_enter'] });
    await s.go('continue');
    await s.stack();
    await s.show('MMU', 'root_mmu', 'root_role');
    await s.show('MMU', 'vcpu->arch');
    s.golden('variables');
  });

  it('pages long tables', async () => {
    await s.open({ ...tour }, async () => {
      await s.send('setExceptionBreakpoints', { filters: ['smm_enter'] });
    });
    await s.stopped();
    await s.send('setBreakpoints', lines(26));
    await s.go('reverseContinue');
    await s.stack();
    const [pdpt] = (await s.children('Guest page tables')).slice(-1);
    const open = (variablesReference: number, filter: string, start = 0, count = 0) =>
      s.send('variables', { variablesReference, filter, start, count }) as Promise<{
        body: { variables: { variablesReference: number }[] };
      }>;
    const pd = await open(pdpt.variablesReference, 'indexed');
    const pt = await open(pd.body.variables[0].variablesReference, 'indexed', 0, 1);
    s.note('64 pages, eight at a time');
    await open(pt.body.variables[0].variablesReference, 'indexed', 0, 8);
    await open(pt.body.variables[0].variablesReference, 'indexed', 60, 8);
    await open(pt.body.variables[0].variablesReference, 'named');
    s.golden('paging');
  });

  it('reads and writes memory in three spaces, with holes', async () => {
    await s.open(tour, async () => {
      await s.send('setBreakpoints', lines(23));
      await s.send('setExceptionBreakpoints', { filters: [] });
    });
    await s.stopped();
    const read = (memoryReference: string, count: number, offset?: number) =>
      s.send('readMemory', { memoryReference, count, ...(offset === undefined ? {} : { offset }) });
    s.note('the same word as the guest, KVM and the host see it');
    await read('gva@0:0x200000', 8);
    await read('gpa:0x200000', 8);
    await read('hpa:0x80000000', 8);
    s.note('SMRAM is in address space 1 only');
    await read('gpa@1:0x30100', 4);
    await read('gpa:0x30100', 4);
    s.note('can it be read at all?');
    await read('gpa:0x200000', 0);
    s.note('holes: the end of a slot, no slot, an unmapped page');
    await read('gpa:0x9fff8', 16);
    await read('gpa:0xa0000', 16);
    await read('gva@0:0x300000', 4);
    await read('gpa:0x200004', 4, -4);
    s.note('what cannot be');
    await s.fails('readMemory', { memoryReference: 'gpb:0x1000', count: 4 });
    await s.fails('readMemory', { memoryReference: 'gpa@2:0x1000', count: 4 });
    await s.fails('readMemory', { memoryReference: 'gva@7:0x1000', count: 4 });
    await s.fails('readMemory', { memoryReference: 'gpa:0x0', count: -1 });
    await s.fails('readMemory', { memoryReference: 'gpa:0x0', offset: -1, count: 4 });
    s.note('writing: the guest reads it, and the views are told');
    await s.send('writeMemory', {
      memoryReference: 'gpa:0x200000',
      data: Buffer.from([0xaa, 0xbb]).toString('base64'),
    });
    await read('gva@0:0x200000', 8);
    await s.fails('writeMemory', { memoryReference: 'gpa:0x9ffff', data: 'AQID' });
    await s.send('writeMemory', { memoryReference: 'gpa:0x9ffff', data: 'AQID', allowPartial: true });
    s.note('an expectation fails because of it, here and after going back');
    await s.send('setExceptionBreakpoints', { filters: ['expect'] });
    await s.go('next');
    await s.go('stepBack');
    await s.go('continue');
    s.golden('memory');
  });

  it('sets registers between statements', async () => {
    await s.open({ ...tour, stopOnEntry: true }, async () => {
      await s.send('setBreakpoints', lines(21));
      await s.send('setExceptionBreakpoints', { filters: [] });
    });
    await s.stopped();
    await s.go('continue');
    await s.stack();
    const registers = s as unknown as { scopes: { name: string; variablesReference: number }[] };
    const { variablesReference } = registers.scopes.find((x) => x.name === 'Registers') ?? { variablesReference: 0 };
    await s.send('setVariable', { variablesReference, name: 'cr0', value: 'PG|NE|ET|PE' });
    await s.send('setVariable', { variablesReference, name: 'rax', value: '0x1234' });
    await s.fails('setVariable', { variablesReference, name: 'cr4', value: 'PEA' });
    await s.fails('setVariable', { variablesReference, name: 'cr9', value: '1' });
    await s.send('setExpression', { expression: 'rbx', value: '7' });
    await s.stack();
    await s.show('Registers', 'cr0');
    await s.show('MMU', 'root_mmu', 'cpu_role');
    s.note('with WP clear the write to the read-only page is not refused, so its expectation fails');
    await s.send('setExceptionBreakpoints', { filters: ['guest_page_fault', 'expect'] });
    await s.go('continue');
    await s.fails('exceptionInfo', { threadId: 2 });
    await s.send('exceptionInfo', { threadId: 1 });
    s.note('not in the middle of an access');
    await s.go('reverseContinue');
    await s.go('stepIn');
    await s.stack();
    await s.fails('setExpression', { expression: 'cr3', value: '0x11000' });
    s.golden('registers');
  });

  it('says why', async () => {
    await s.open(tour, async () => {
      await s.send('setExceptionBreakpoints', { filters: ['ept_misconfig', 'guest_page_fault'] });
    });
    await s.stopped();
    await s.send('exceptionInfo', { threadId: 1 });
    await s.go('continue');
    await s.send('exceptionInfo', { threadId: 1 });
    await s.send('mmuscope/why', { gva: '0x202000', user: true });
    await s.send('mmuscope/why', { gpa: '0x10000008' });
    await s.fails('mmuscope/why', { gva: '1', gpa: '2' });
    await s.go('stepOut');
    await s.fails('exceptionInfo', { threadId: 1 });
    s.golden('why');
  });

  it('answers in the debug console, in hovers and watches', async () => {
    await s.open(tour, async () => {
      await s.send('setExceptionBreakpoints', { filters: ['guest_page_fault'] });
    });
    await s.stopped();
    const { stackFrames } = await s.quiet<{ stackFrames: { id: number }[] }>('stackTrace', { threadId: 1 });
    const frameId = stackFrames[0].id;
    const repl = (expression: string, context = 'repl') => s.send('evaluate', { expression, frameId, context });
    for (const text of [
      'help',
      'walk gva 0x201008',
      'walk gva 0x202000 user write',
      'walk gpa 0x10000000',
      'gpa 0x200000',
      'gpa 0x30100 as 1',
      'gva 0x200000',
      'decode 0x600000080000b77 as spte',
      'decode 0x3784 as role',
      'root_mmu.root_role',
      'root_mmu.root_role.level',
      'root_mmu.cpu_role.base.level',
      'cpu_role.smm',
      'memslots[0][1].base_gfn',
      'cr0 & 0x10000',
      'cr3',
      '0x200000 in slot(1)',
      'vmcs.EPTP',
      'audit',
      'audit A1 A3',
    ]) {
      await repl(text);
    }
    s.note('mistakes');
    for (const text of [
      '',
      'walk',
      'walk gva 0x1000 rite',
      'root_mmu.root_role.levle',
      'wlak 0x1000',
      'gpa 0xa0000',
      'gpa 0 as 5',
      'decode 5 as spde',
      'audit A9',
      '1 +',
    ]) {
      await s.fails('evaluate', { expression: text, frameId, context: 'repl' });
    }
    s.note('hovers');
    for (const text of ['0x600000080000b77', 'cr0', 'root_role', '600000080000b77']) await repl(text, 'hover');
    await s.fails('evaluate', { expression: 'nothing', frameId, context: 'hover' });
    await s.fails('evaluate', { expression: '4096', frameId, context: 'hover' });
    s.note('completion');
    for (const text of ['wa', 'walk ', 'walk gva 0x1000 ', 'root_mmu.', 'root_role.l', 'decode 1 as sp', 'sl']) {
      await s.send('completions', { text, column: text.length + 1, frameId });
    }
    s.golden('console');
  });

  it('gives the webviews what they show', async () => {
    await s.open(tour, async () => {
      await s.send('setExceptionBreakpoints', { filters: ['ept_misconfig'] });
    });
    await s.stopped();
    await s.send('mmuscope/state');
    const { body } = (await s.send('mmuscope/roots')) as { body: { roots: { id: string }[] } };
    const root = body.roots[1].id;
    type Roles = { mmus: { words: { name: string; word: { value: string } }[] }[] };
    const { mmus: roles } = await s.quiet<Roles>('mmuscope/roles', {});
    assert.deepEqual(
      roles[0].words.map((w) => `${w.name} ${w.word.value}`),
      ['cpu_role 0x8100003704', 'root_role 0x3784'],
    );
    await s.send('mmuscope/roles', { kernel: 'v4.4' });
    const table = await s.quiet<{ rows: { index: number; marks: string[] }[]; levelName: string }>('mmuscope/table', {
      root,
      address: '0x10000000',
    });
    assert.equal(table.rows.length, 512);
    assert.deepEqual(
      table.rows.filter((r) => r.marks.includes('mmio')).map((r) => r.index),
      [0],
    );
    const page = await s.quiet<Record<string, unknown>>('mmuscope/table', { root, path: [0, 0, 128] });
    s.note('the page table that has the cached MMIO spte, first rows');
    (s as unknown as { write(head: string, body: unknown): void }).write('← mmuscope/table', {
      ...page,
      rows: (page['rows'] as object[]).slice(0, 2),
    });
    await s.fails('mmuscope/table', { root: 'nowhere' });
    await s.fails('mmuscope/table', { root, path: [5] });
    await s.fails('mmuscope/table', { root, path: [512] });
    await s.fails('mmuscope/roles', { kernel: 'v99' });
    await s.send('mmuscope/events', { start: 0, count: 4 });
    await s.send('mmuscope/events', { count: 40, kinds: ['mark_mmio_spte', 'kvm_mmu_set_spte'] });
    await s.send('mmuscope/decode', { value: '0x3784', as: 'role' });
    s.golden('webviews');
  });

  it('a wrong launch says what is wrong and what is right', async () => {
    await s.start();
    await s.send('initialize', { adapterID: 'mmuscope' });
    for (const launch of [
      {},
      { program: scenario('tour'), scenario: 'x' },
      { program: 42 },
      { program: scenario('tour'), stopOnEnrty: true },
      { program: scenario('tour'), stopOnEntry: 'yes' },
      { program: scenario('tour'), vendor: 'arm' },
      { program: scenario('tour'), kernel: '2.6.32' },
      { program: scenario('tour'), stopAtEvent: -1 },
      { program: scenario('tour'), trace: ['kvm_mmu_set_sptes'] },
      { program: scenario('nowhere') },
      { program: scenario('broken') },
      { scenario: 'vcpu 0 { cr0 PE }\nlode 4 [0]\n' },
    ]) {
      await s.fails('launch', launch);
    }
    await s.fails('attach', { program: scenario('tour') });
    s.golden('launch-errors');
  });

  it('runs without debugging, with another kernel and vendor, tracing events', async () => {
    await s.open({ ...tour, noDebug: true, vendor: 'amd', kernel: '6.12', trace: ['smm_enter'] }, async () => {
      await s.send('setBreakpoints', lines(21));
      await s.send('setExceptionBreakpoints', { filters: ['guest_page_fault'] });
    });
    const exited = await s.event('exited');
    assert.deepEqual(exited.body, { exitCode: 0 });
    await s.event('terminated');
    const output = s.text();
    assert.match(output, /npf gpa 0x200000/);
    assert.doesNotMatch(output, /event stopped/);
  });

  it('stops at a failed expectation, and the exit code tells', async () => {
    await s.open({ program: scenario('failing'), stopAtEnd: false });
    await s.stopped();
    await s.stack();
    await s.go('stepBack');
    await s.send('setExceptionBreakpoints', { filters: [] });
    await s.send('continue', { threadId: 1 });
    await s.event('terminated');
    s.golden('failing');
  });
});
