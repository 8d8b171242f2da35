import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../../../scripts/vscode-server';
import { openWorkbench, type Workbench } from '../harness';

/** The harness must not say that something is there when it is not: each of its promises is tried here. */
describe('the VS Code harness', () => {
  let workbench: Workbench;

  before(async () => {
    workbench = await openWorkbench({ theme: 'light', settings: { 'editor.tabSize': 3 } });
  });
  after(async () => {
    await workbench?.close();
  });

  const background = () =>
    workbench.page.evaluate<string>("getComputedStyle(document.querySelector('.part.editor')).backgroundColor");

  it('runs functions in the extension host, with arguments, and brings their errors back', async () => {
    const sum = await workbench.host((_vscode, { a, b }) => a + b, { a: 40, b: 2 });
    assert.equal(sum, 42);
    await assert.rejects(
      workbench.host(() => {
        throw new Error('no such slot');
      }),
      /no such slot/,
    );
  });

  it('listens on the loopback address and no other', async function () {
    const port = Number(new URL(workbench.page.url()).port);
    const others = Object.values(networkInterfaces()).flatMap((list) => (list ?? []).filter((item) => !item.internal));
    if (others.length === 0) this.skip();
    for (const { address, scopeid } of others) {
      const host = scopeid ? `${address}%${scopeid}` : address;
      const answer = await new Promise<string>((done) => {
        const socket = connect({ host, port, timeout: 2000 }, () => done('connected'));
        socket.once('error', (error: NodeJS.ErrnoException) => done(error.code ?? 'error'));
        socket.once('timeout', () => done('timeout'));
      });
      assert.notEqual(answer, 'connected', `the server answers at ${address}`);
    }
  });

  it('opens with the settings that were asked for', async () => {
    const size = await workbench.host((vscode) => vscode.workspace.getConfiguration('editor').get('tabSize'));
    assert.equal(size, 3);
  });

  it('opens a copy of a folder, with a file at a line', async () => {
    const window = await openWorkbench({ folder: join(ROOT, '.vscode'), file: 'launch.json', line: 5 });
    try {
      const shown = await window.host(async (vscode) => {
        for (let i = 0; i < 50 && vscode.window.activeTextEditor === undefined; i++) {
          await new Promise((done) => setTimeout(done, 100));
        }
        const editor = vscode.window.activeTextEditor;
        return { path: editor?.document.uri.fsPath, line: editor?.selection.active.line };
      });
      assert.deepEqual(shown, { path: join(window.folder, 'launch.json'), line: 4 });
      assert.notEqual(window.folder, join(ROOT, '.vscode'));
    } finally {
      await window.close();
    }
  });

  it('changes the theme of the open window', async () => {
    assert.equal(await background(), 'rgb(255, 255, 255)');
    await workbench.theme('highContrast');
    assert.equal(await background(), 'rgb(0, 0, 0)');
    await workbench.theme('light');
  });

  it('reads text inside a webview, and says what is there when the wanted text is not', async () => {
    await workbench.host((vscode) => {
      const panel = vscode.window.createWebviewPanel('probe', 'Probe', vscode.ViewColumn.One, { enableScripts: true });
      panel.webview.html = '<p id="who">static</p><script>who.textContent = "scripted"</script><p hidden>unseen</p>';
    });
    assert.equal(await workbench.frameText('#who', { containing: 'scripted' }), 'scripted');
    await assert.rejects(workbench.frameText('#who', { containing: 'static', timeout: 300 }), /No webview .*scripted/);
    await assert.rejects(workbench.frameText('p[hidden]', { timeout: 300 }), /No webview shows p\[hidden\]/);
  });

  it('brings editors back after a reload, with a new extension host', async () => {
    const pid = await workbench.host(async (vscode) => {
      const text = await vscode.workspace.openTextDocument({ content: 'kept over the reload' });
      await vscode.window.showTextDocument(text);
      return process.pid;
    });
    await workbench.reload();
    const after = await workbench.host(async (vscode) => {
      for (let i = 0; i < 50 && vscode.window.activeTextEditor === undefined; i++) {
        await new Promise((done) => setTimeout(done, 100));
      }
      return { pid: process.pid, text: vscode.window.activeTextEditor?.document.getText() };
    });
    assert.notEqual(after.pid, pid);
    assert.equal(after.text, 'kept over the reload');
  });

  it('runs commands through the palette', async () => {
    await workbench.command('View: Toggle Zen Mode');
    await workbench.page.waitForSelector('.monaco-workbench .part.statusbar', { state: 'hidden' });
    await workbench.command('View: Toggle Zen Mode');
    await workbench.page.waitForSelector('.monaco-workbench .part.statusbar');
  });
});
