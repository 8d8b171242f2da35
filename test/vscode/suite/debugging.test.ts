/** One session from F5 to the views, as a user goes through it. The tests lean on each other, in this order. */
import assert from 'node:assert/strict';
import * as vscode from 'vscode';
import { harness } from '../harness-client';
import { THEMES } from '../protocol';
import type { StateBody } from '../../../src/adapter/protocol';
import { activated, endSessions, hoverAt, lineOf, OneFile, openExample, request, Stops, until } from './helpers';

/** Checkbox of an exception filter in the Breakpoints view. */
const filterBox = (label: string) => `.debug-breakpoints .monaco-list-row:has-text("${label}") [role=checkbox]`;

/** Light, high contrast and dark, each in a picture: beside the code, and alone in the window. */
async function pictures(name: string): Promise<void> {
  if (!harness) return;
  const workbench = vscode.workspace.getConfiguration('workbench');
  for (const theme of ['light', 'highContrast', 'dark'] as const) {
    await workbench.update('colorTheme', THEMES[theme], vscode.ConfigurationTarget.Global);
    // Until the new colours have reached the frames of the views.
    await new Promise((done) => setTimeout(done, 800));
    const suffix = theme === 'highContrast' ? 'high-contrast' : theme;
    await harness.screenshot(`${name}-beside-${suffix}`);
    await vscode.commands.executeCommand('workbench.action.maximizeEditorHideSidebar');
    await new Promise((done) => setTimeout(done, 400));
    await harness.screenshot(`${name}-${suffix}`);
    await vscode.commands.executeCommand('workbench.action.evenEditorWidths');
    await vscode.commands.executeCommand('workbench.view.debug');
  }
  await workbench.update('colorTheme', undefined, vscode.ConfigurationTarget.Global);
}

describe('debugging a scenario', function () {
  // Three themes, two pictures each, on a machine that may have other things to do.
  this.timeout(120_000);
  let stops: Stops;

  before(async () => {
    await activated();
    stops = new Stops();
  });
  after(async () => {
    stops.dispose();
    await vscode.debug.stopDebugging();
    vscode.debug.removeBreakpoints(vscode.debug.breakpoints);
    await vscode.commands.executeCommand('workbench.action.closeAllEditors');
  });

  it('F5 debugs the open scenario without a launch.json, to its end', async function () {
    if (!harness) this.skip();
    await openExample('smm.mmu');
    const state = await stops.after(() => harness?.press('F5'));
    assert.equal(state.title.replace(/^.*[\\/]/, ''), 'smm.mmu');
    assert.equal(state.stop?.reason, 'end');
    assert.equal(vscode.debug.activeDebugSession?.configuration['request'], 'launch');
  });

  it('stops at SMM entry: the stack is KVM’s, the role word that of a real v6.1.176', async function () {
    if (!harness) this.skip();
    await vscode.commands.executeCommand('workbench.view.debug');
    await harness.click(filterBox('SMM entry'));
    await endSessions();
    const { document } = await openExample('smm.mmu');
    const state = await stops.after(() => harness?.press('F5'));
    assert.equal(state.stop?.filter, 'smm_enter');
    assert.match(state.stop.description, /SMM entry/);
    assert.equal(
      state.position.line,
      lineOf(document, 'smi') + 2,
      'the statement after smi is the one that enters SMM',
    );

    const session = vscode.debug.activeDebugSession;
    const { stackFrames } = (await session?.customRequest('stackTrace', { threadId: 1 })) as {
      stackFrames: { name: string; line: number; source?: { path?: string } }[];
    };
    const names = stackFrames.map((f) => f.name);
    assert.deepEqual(names.slice(-5, -1), [
      'kvm_check_and_inject_events',
      'vcpu_enter_guest',
      'vcpu_run',
      'kvm_arch_vcpu_ioctl_run',
    ]);
    assert.ok(names.includes('enter_smm'), names.join(' < '));
    assert.match(names.at(-1) ?? '', /^load 4/);
    assert.equal(stackFrames.at(-1)?.line, state.position.line);

    const roles = await request('mmuscope/roles', { threadId: 1 });
    const words = Object.fromEntries(
      (roles.mmus.find((m) => m.name === 'root_mmu')?.words ?? []).map((w) => [w.name, w.word.value]),
    );
    // kvm_mmu_get_page of the trace 6.1.176-intel-ept1-tdp1-smm: "role":"0x1003784" for the root in SMM.
    assert.equal(words['root_role'], '0x1003784');
    assert.equal(words['cpu_role'], '0x101000780');
  });

  it('shows the stop in VS Code: the line, the call stack, the reason', async function () {
    if (!harness) this.skip();
    const item = await until('a focused frame', () => vscode.debug.activeStackItem);
    assert.equal(item.session.type, 'mmuscope');
    await vscode.commands.executeCommand('workbench.action.closePanel');
    // The workbench asks for the rest of the stack and for the variables a moment after it shows the stop.
    await new Promise((done) => setTimeout(done, 1500));
    await harness.screenshot('stopped-at-smm');
  });

  it('decodes on hover with the session’s kernel', async () => {
    const file = vscode.Uri.joinPath(vscode.workspace.workspaceFolders?.[0]?.uri ?? vscode.Uri.file('/'), 'notes.txt');
    await vscode.workspace.fs.writeFile(file, new TextEncoder().encode('spte 0x600000003088b77\n'));
    const document = await vscode.workspace.openTextDocument(file);
    const text = await hoverAt(document, new vscode.Position(0, 8));
    assert.match(text, /v6\.1\.176, intel · session smm\.mmu/);
    assert.match(text, /spte, EPT/);
  });

  it('Role Decoder: the words of the stop, bit by bit, with what differs and where it comes from', async function () {
    if (!harness) this.skip();
    await vscode.commands.executeCommand('mmuscope.openRoleDecoder');
    const words = await harness.frameText('mmu-role-decoder .words', { containing: 'l4 8-byte direct wux nxe ad smm' });
    assert.match(words, /root_role/);
    assert.match(words, /cpu_role/);
    assert.match(words, /l0 8-byte direct/);
    const head = await harness.frameText('mmu-role-decoder header', { containing: 'SMM entry' });
    assert.match(head, /smm\.mmu/);
    const table = await harness.frameText('mmu-role-decoder table');
    for (const name of ['level', 'efer_nx', 'cr0_wp', 'smep_andnot_wp', 'smm', 'cr4_smep', 'efer_lma'])
      assert.match(table, new RegExp(`\\b${name}\\b`));
    assert.match(table, /CR4\.SMEP=1 && CR0\.WP=0/);
    assert.match(table, /address space 1, SMM/);
    await pictures('role-decoder');
  });

  it('Role Decoder: Space turns a bit over and the word follows', async function () {
    if (!harness) this.skip();
    const bit = 'mmu-role-decoder .bit[aria-label^="bit 24 smm[0] of root_role"]';
    await harness.click(bit, { inFrame: true });
    assert.match(await harness.frameText('mmu-role-decoder .words', { containing: 'nxe ad cr0_wp' }), /root_role/);
    // The registers still say SMM: the field is marked.
    assert.match(await harness.frameText('mmu-role-decoder table', { containing: 'not 1' }), /not 1/);
    await harness.press('Space');
    await harness.frameText('mmu-role-decoder .words', { containing: 'l4 8-byte direct wux nxe ad smm' });
    // One up is the same bit of cpu_role, sixteen to the right is access.x.
    await harness.press('ArrowUp');
    for (let i = 0; i < 24 - 8; i++) await harness.press('ArrowRight');
    await harness.press('Space');
    await harness.frameText('mmu-role-decoder .words', { containing: 'l0 8-byte direct wu- ' });
    await harness.press('Space');
    await harness.frameText('mmu-role-decoder .words', { containing: 'l0 8-byte direct wux ' });
  });

  it('follows the next stop', async function () {
    if (!harness) this.skip();
    await openExample('smm.mmu');
    const state = await stops.after(() => vscode.commands.executeCommand('workbench.action.debug.stepOver'));
    assert.notEqual(state.stop?.filter, 'smm_enter');
    await harness.frameText('mmu-role-decoder header', { containing: `line ${state.position.line ?? 0}` });
  });

  it('Tables: a page of 512 entries, down to the leaf by keyboard and up again', async function () {
    if (!harness) this.skip();
    const { document } = await openExample('mmio.mmu');
    await endSessions();
    const stale = lineOf(document, 'expect generation 8') + 1;
    vscode.debug.addBreakpoints([
      new vscode.SourceBreakpoint(new vscode.Location(document.uri, new vscode.Position(stale, 0))),
    ]);
    const state = await stops.after(() => harness?.press('F5'));
    assert.equal(state.position.line, stale + 1);
    await vscode.commands.executeCommand('mmuscope.openTables');
    const top = await harness.frameText('mmu-tables .head', { containing: 'EPT PML4' });
    assert.match(top, /512 GiB an entry/);
    assert.match(await harness.frameText('mmu-tables .rows', { containing: 'table' }), /0x0/);
    await harness.click('mmu-tables .rows', { inFrame: true });
    await harness.press('Home');
    await harness.press('Enter');
    await harness.frameText('mmu-tables .head', { containing: 'EPT PDPT' });
    await harness.press('Enter');
    await harness.frameText('mmu-tables .head', { containing: 'EPT PD at' });
    await harness.press('Backspace');
    await harness.frameText('mmu-tables .head', { containing: 'EPT PDPT' });
  });

  it('Tables: cached MMIO sptes of an old generation are marked as stale, in words', async function () {
    if (!harness) this.skip();
    await vscode.commands.executeCommand('mmuscope.walkAddress', 'gpa 0x10000000');
    await harness.frameText('mmu-tables .head', { containing: 'EPT PT at' });
    const row = await harness.frameText('mmu-tables .row.stale', { containing: '0x10000' });
    assert.match(row, /MMIO, stale/);
    assert.match(row, /generation 6 \(now 8\)/);
    assert.match(await harness.frameText('mmu-tables footer', { containing: 'Entry 0' }), /gfn 0x10000/);
    await vscode.commands.executeCommand('workbench.action.closePanel');
    await pictures('tables');
  });

  it('Tables: after the access the entry is made anew, live and marked as changed', async function () {
    if (!harness) this.skip();
    await openExample('mmio.mmu');
    await stops.after(() => vscode.commands.executeCommand('workbench.action.debug.stepOver'));
    const row = await harness.frameText('mmu-tables .row.mmio.changed', { containing: 'generation 8' });
    assert.doesNotMatch(row, /stale/);
    // The other device was not touched: its entry stays behind.
    assert.match(await harness.frameText('mmu-tables .row.stale'), /gfn 0x10001/);
  });

  it('Tables: a guest page fault leads to the guest entry that decided it', async function () {
    if (!harness) this.skip();
    await endSessions();
    await openExample('faults.mmu');
    const state = await stops.after(() => harness?.press('F5'));
    assert.equal(state.stop?.filter, 'guest_page_fault');
    const gva = BigInt(/gva (0x[0-9a-f]+)/.exec(state.stop.description)?.[1] ?? '0');
    const index = Number((gva >> 12n) & 511n);
    assert.match(await harness.frameText('mmu-tables footer', { containing: `Entry ${index}` }), /gpa 0x/);
    assert.match(await harness.frameText('mmu-tables .head'), /^PT at gpa/);
    await openExample('mmio.mmu');
    await endSessions();
    await stops.after(() => harness?.press('F5'));
  });

  it('keeps two sessions apart', async () => {
    const [folder] = vscode.workspace.workspaceFolders ?? [];
    assert.ok(folder);
    const first = vscode.debug.activeDebugSession;
    assert.ok(first);
    const starts: vscode.DebugSession[] = [];
    const listener = vscode.debug.onDidStartDebugSession((session) => starts.push(session));
    await stops.after(() =>
      vscode.debug.startDebugging(folder, {
        type: 'mmuscope',
        request: 'launch',
        name: 'second',
        program: vscode.Uri.joinPath(folder.uri, 'smm.mmu').fsPath,
        stopOnEntry: true,
      }),
    );
    listener.dispose();
    const second = starts.find((s) => s.name === 'second');
    assert.ok(second);
    const state = async (session: vscode.DebugSession) =>
      (await session.customRequest('mmuscope/state', {})) as StateBody;
    assert.match((await state(second)).title, /smm\.mmu$/);
    assert.match((await state(first)).title, /mmio\.mmu$/);
    // The second stands before its first statement; the first has not moved.
    assert.equal((await state(second)).position.statements <= 1, true);
    assert.ok((await state(first)).position.statements > 10);
    await vscode.debug.stopDebugging(second);
  });

  it('debugs a scenario that is no file, with breakpoints in it', async () => {
    const [folder] = vscode.workspace.workspaceFolders ?? [];
    assert.ok(folder);
    await endSessions();
    const text = new TextDecoder().decode(
      await vscode.workspace.fs.readFile(vscode.Uri.joinPath(folder.uri, 'smm.mmu')),
    );
    const files = vscode.workspace.registerFileSystemProvider('memory', new OneFile(text));
    const document = await vscode.workspace.openTextDocument(vscode.Uri.parse('memory:/folder/smm.mmu'));
    assert.equal(document.languageId, 'mmu');
    await vscode.window.showTextDocument(document, vscode.ViewColumn.One);
    const line = lineOf(document, 'rsm');
    const breakpoint = new vscode.SourceBreakpoint(new vscode.Location(document.uri, new vscode.Position(line, 0)));
    vscode.debug.addBreakpoints([breakpoint]);
    const state = await stops.after(() => vscode.commands.executeCommand('mmuscope.debugScenario'));
    // The filter for SMM entry is still set: the first stop is there, the second at the breakpoint.
    const there =
      state.position.line === line + 1
        ? state
        : await stops.after(() => vscode.commands.executeCommand('workbench.action.debug.continue'));
    assert.equal(there.position.line, line + 1);
    const { stackFrames } = (await stops.session?.customRequest('stackTrace', { threadId: 1 })) as {
      stackFrames: { source?: { path?: string } }[];
    };
    assert.equal(stackFrames[0].source?.path, document.uri.toString());
    vscode.debug.removeBreakpoints([breakpoint]);
    await endSessions();
    files.dispose();
  });

  it('says what is wrong with a launch attribute, and what to write', async function () {
    // A dialog with this sentence, which VS Code refuses to show in tests.
    if (!harness) this.skip();
    const [folder] = vscode.workspace.workspaceFolders ?? [];
    const configuration = { type: 'mmuscope', request: 'launch', name: 'wrong', program: 'nowhere.mmu', vendor: 'via' };
    await assert.rejects(
      async () => vscode.debug.startDebugging(folder, configuration),
      /launch attribute 'vendor' cannot be "via": it must be one of intel, amd/,
    );
  });
});
