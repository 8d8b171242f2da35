import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import {
  CompletionRequest,
  createProtocolConnection,
  DidOpenTextDocumentNotification,
  DocumentFormattingRequest,
  ExitNotification,
  HoverRequest,
  InitializedNotification,
  InitializeRequest,
  PublishDiagnosticsNotification,
  SemanticTokensRequest,
  ShutdownRequest,
  StreamMessageReader,
  StreamMessageWriter,
  type PublishDiagnosticsParams,
} from 'vscode-languageserver/node';

describe('the language server process', () => {
  it('serves a scenario over its connection', async function () {
    this.timeout(30_000);
    const server = spawn(
      process.execPath,
      ['--import=tsx', fileURLToPath(new URL('language-server.ts', import.meta.url)), '--stdio'],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    const client = createProtocolConnection(
      new StreamMessageReader(server.stdout),
      new StreamMessageWriter(server.stdin),
    );
    const uri = 'file:///scenario.mmu';
    try {
      client.listen();
      const { capabilities } = await client.sendRequest(InitializeRequest.type, {
        processId: process.pid,
        // eslint-disable-next-line @typescript-eslint/no-deprecated -- the protocol asks for it
        rootUri: null,
        workspaceFolders: null,
        capabilities: {},
      });
      for (const provider of [
        'completionProvider',
        'hoverProvider',
        'documentSymbolProvider',
        'documentFormattingProvider',
        'documentOnTypeFormattingProvider',
        'foldingRangeProvider',
        'renameProvider',
        'documentHighlightProvider',
        'definitionProvider',
        'semanticTokensProvider',
        'codeActionProvider',
      ] as const)
        assert.ok(capabilities[provider], provider);
      await client.sendNotification(InitializedNotification.type, {});

      const published = new Promise<PublishDiagnosticsParams>((resolve) => {
        client.onNotification(PublishDiagnosticsNotification.type, resolve);
      });
      const text = 'machine { kernel v6.1 }\nmapp 0 -> 0\nmov   cr0, PG|\n';
      await client.sendNotification(DidOpenTextDocumentNotification.type, {
        textDocument: { uri, languageId: 'mmu', version: 1, text },
      });
      const { diagnostics } = await published;
      assert.equal(diagnostics[0].message, "'mapp' does not begin a statement; did you mean 'map'?");
      assert.deepEqual(diagnostics[0].range, { start: { line: 1, character: 0 }, end: { line: 1, character: 4 } });

      const hover = await client.sendRequest(HoverRequest.type, {
        textDocument: { uri },
        position: { line: 0, character: 12 },
      });
      assert.match(JSON.stringify(hover?.contents), /kernel whose KVM is modelled/);
      const completion = await client.sendRequest(CompletionRequest.type, {
        textDocument: { uri },
        position: { line: 2, character: 14 },
      });
      const items = completion === null ? [] : 'items' in completion ? completion.items : completion;
      assert.ok(items.some((i) => i.label === 'WP'));
      const tokens = await client.sendRequest(SemanticTokensRequest.type, { textDocument: { uri } });
      assert.ok((tokens?.data.length ?? 0) >= 10);
      const edits = await client.sendRequest(DocumentFormattingRequest.type, {
        textDocument: { uri },
        options: { tabSize: 2, insertSpaces: true },
      });
      assert.deepEqual(edits, []);
      await client.sendRequest(ShutdownRequest.type);
      await client.sendNotification(ExitNotification.type);
    } finally {
      client.dispose();
      server.kill();
    }
  });
});
