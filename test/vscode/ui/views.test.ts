/** What only somebody at the window can try: the pointer over a value, the palette, a reload. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ROOT } from '../../../scripts/vscode-server';
import { openWorkbench, type Workbench } from '../harness';

/** Lines that a real v6.1.176 on VMX printed (fixtures kvm-traces, intel-ept1-tdp1-smm). */
const TRACE = `  kvmprobe-420 [000] d..1. 1.663446: kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x1000 info1 0x0000000000000083 info2 0x0
  kvmprobe-420 [000] ..... 1.663447: kvm_page_fault: vcpu 0 rip 0x1000 address 0x0000000000010000 error_code 0x83
  kvmprobe-420 [000] ...1. 1.663447: kvm_mmu_spte_requested: gfn 10 pfn 3088 level 1
  kvmprobe-420 [000] ...1. 1.663449: kvm_mmu_set_spte: gfn 10 spte 600000003088b77 (rwxu) level 1 at 8642080
  kvmprobe-420 [000] ...1. 1.708450: check_mmio_spte: spte 3e00000a0046 kvm_gen 8 spte-gen 8 valid 1
`;

describe('the extension at the window', function () {
  this.timeout(120_000);
  let workbench: Workbench;

  before(async () => {
    workbench = await openWorkbench({ folder: join(ROOT, 'examples'), file: 'mmio.mmu' });
    await writeFile(join(workbench.folder, '6.1.176-intel.trace.txt'), TRACE);
    await workbench.host(async (vscode) => {
      await vscode.extensions.getExtension('mmuscope.mmuscope')?.activate();
    });
  });
  after(async () => {
    await workbench?.close();
  });

  /** Opens a file of the workspace with the focus in it. */
  const open = (name: string) =>
    workbench.host(async (vscode, file) => {
      const [folder] = vscode.workspace.workspaceFolders ?? [];
      if (folder === undefined) throw new Error('no workspace');
      await vscode.window.showTextDocument(vscode.Uri.joinPath(folder.uri, file), {
        viewColumn: vscode.ViewColumn.One,
      });
    }, name);

  it('decodes the value under the pointer', async () => {
    await open('6.1.176-intel.trace.txt');
    // The last token of the line that holds an spte; the pointer goes to its middle.
    const value = workbench.page.locator('.view-line span span').filter({ hasText: '600000003088b77' }).last();
    const box = await value.boundingBox();
    assert.ok(box);
    const text = (await value.innerText()).replaceAll(/\u00a0/g, ' ');
    const column = text.indexOf('600000003088b77') + 5;
    await workbench.page.mouse.move(box.x + (box.width * column) / text.length, box.y + box.height / 2, { steps: 4 });
    const hover = workbench.page.locator('.monaco-hover:visible').filter({ hasText: 'pfn 0x3088' }).first();
    await hover.waitFor({ timeout: 10_000 });
    const shown = await hover.innerText();
    assert.match(shown, /spte, EPT, v6\.1\.176/);
    assert.match(shown, /Memory type|memory type/);
    assert.match(shown, /file name and exits of the trace/);
    await workbench.screenshot('hover');
    await workbench.page.mouse.move(5, 5);
  });

  it('decodes while one types in Decode Value, and opens a reading field by field', async () => {
    await workbench.page.keyboard.press('F1');
    const input = workbench.page.locator('.quick-input-widget input').first();
    await input.fill('>MMU Scope: Decode Value');
    await workbench.page
      .locator('.quick-input-list .monaco-list-row')
      .filter({ hasText: 'Decode Value' })
      .first()
      .click();
    await workbench.page.locator('.quick-input-titlebar').filter({ hasText: 'Decode Value' }).waitFor();
    await input.fill('0x1003784');
    const first = workbench.page.locator('.quick-input-list .monaco-list-row').first();
    await workbench.page
      .locator('.quick-input-list .monaco-list-row')
      .filter({ hasText: 'smm cr0_wp' })
      .first()
      .waitFor();
    assert.match(await first.innerText(), /page role, v6\.1/);
    await workbench.screenshot('decode-value');
    await workbench.page.keyboard.press('Enter');
    await workbench.page
      .locator('.quick-input-list .monaco-list-row')
      .filter({ hasText: 'Always 1 in root roles' })
      .first()
      .waitFor();
    await workbench.page.keyboard.press('Escape');
  });

  it('has a walkthrough of three steps', async () => {
    await workbench.host((vscode) =>
      vscode.commands.executeCommand('workbench.action.openWalkthrough', 'mmuscope.mmuscope#start', false),
    );
    const steps = workbench.page.locator('.getting-started-step');
    await steps.first().waitFor();
    assert.equal(await steps.count(), 3);
    await delay(1000);
    await workbench.screenshot('walkthrough');
    await workbench.host((vscode) => vscode.commands.executeCommand('workbench.action.closeAllEditors'));
  });

  it('keeps both views over a reload of the window, with what they showed', async () => {
    await open('mmio.mmu');
    await workbench.host(async (vscode) => {
      const document = vscode.window.activeTextEditor?.document;
      if (document === undefined) throw new Error('no scenario');
      const line = document.getText().split('\n').indexOf('expect generation 8') + 1;
      const place = new vscode.Location(document.uri, new vscode.Position(line, 0));
      vscode.debug.addBreakpoints([new vscode.SourceBreakpoint(place)]);
    });
    await workbench.page.keyboard.press('F5');
    await workbench.page.waitForSelector('.debug-top-stack-frame-column, .debug-top-stack-frame-line', {
      timeout: 20_000,
    });
    await workbench.host(async (vscode) => {
      await vscode.commands.executeCommand('workbench.action.closePanel');
      await vscode.commands.executeCommand('mmuscope.openTables');
    });
    await workbench.frame('mmu-tables .head', { containing: 'EPT PML4' });
    await workbench.host((vscode) => vscode.commands.executeCommand('mmuscope.walkAddress', 'gpa 0x10000000'));
    await workbench.frame('mmu-tables .row.stale', { containing: '0x10000' });
    // Beside each other, so that both are visible when the window comes back.
    await workbench.host(async (vscode) => {
      await vscode.commands.executeCommand('mmuscope.openRoleDecoder');
      await vscode.commands.executeCommand('workbench.action.moveEditorToNextGroup');
    });
    await workbench.frame('mmu-role-decoder .words', { containing: 'l4 8-byte direct wux nxe ad cr0_wp' });

    // A workbench in a browser writes what it keeps every five seconds, and cannot on its way out.
    await delay(7000);
    await workbench.reload();

    const tables = await workbench.frameText('mmu-tables .row.stale', { containing: '0x10000', timeout: 30_000 });
    assert.match(tables, /generation 6 \(now 8\)/);
    assert.match(await workbench.frameText('mmu-tables header'), /mmio\.mmu/);
    const roles = await workbench.frameText('mmu-role-decoder header', { containing: 'mmio.mmu', timeout: 30_000 });
    assert.match(roles, /has ended/);
    const words = await workbench.frameText('mmu-role-decoder .words', { containing: 'cr0_wp' });
    assert.match(words, /l4 8-byte direct wux nxe ad cr0_wp/);
    await workbench.screenshot('reloaded');
  });

  it('works on typed words without a session', async () => {
    await workbench.host(async (vscode) => {
      await vscode.extensions.getExtension('mmuscope.mmuscope')?.activate();
      await vscode.debug.stopDebugging();
      await vscode.commands.executeCommand('mmuscope.openRoleDecoder', { value: '0x1003784', word: 'root_role' });
    });
    await workbench.frame('mmu-role-decoder .words', { containing: 'l4 8-byte direct wux nxe ad smm cr0_wp' });
  });
});
