import assert from 'node:assert/strict';
import { join } from 'node:path';
import { ESLint } from 'eslint';
import { whyNot } from './eslint-staircase.js';
import { ROOT } from './vscode-server';

describe('import staircase', () => {
  const allowed: [file: string, specifier: string][] = [
    ['src/kvm/machine.ts', '../hw/memory'],
    ['src/kvm/mmu/spte.ts', '../../words/sptes'],
    ['src/adapter/session.ts', '../targets/target'],
    ['src/adapter/session.ts', 'node:path'],
    ['src/extension/extension.ts', 'vscode'],
    ['src/extension/panel.ts', '../../webview/messages'],
    ['src/scenario/module.ts', 'langium/lsp'],
    ['src/words/word.test.ts', 'node:assert'],
    ['src/words/word.test.ts', 'fast-check'],
    ['src/cli/main.ts', 'commander'],
    ['webview/tables/tables.ts', '../../src/words/explain'],
    ['webview/tables/tables.ts', 'lit'],
    ['test/vscode/suite/a.test.ts', 'vscode'],
    ['test/dap/a.test.ts', '../../src/adapter/session'],
  ];
  const forbidden: [file: string, specifier: string, why: RegExp][] = [
    ['src/words/word.ts', '../hw/memory', /imports point down: src\/words may not import src\/hw/],
    ['src/words/word.test.ts', '../kvm/machine', /imports point down/],
    ['src/hw/walk.ts', 'node:fs', /neither packages nor Node/],
    ['src/hw/walk.ts', 'fs', /neither packages nor Node/],
    ['src/hw/walk.ts', '../../webview/messages', /only src\/extension knows the webviews/],
    ['src/scenario/run.ts', 'node:fs', /but Langium/],
    ['src/scenario/run.ts', 'vscode-languageserver/node', /but Langium/],
    ['src/adapter/session.ts', 'vscode', /only src\/extension imports vscode/],
    ['src/cli/main.ts', '../extension/config', /imports point down/],
    ['src/extension/a.ts', '../cli/main', /imports point down/],
    ['src/nowhere/a.ts', '../words/word', /no folder of ARCHITECTURE/],
    ['webview/tables/tables.ts', '../../src/kvm/machine', /from src only words/],
    ['webview/tables/tables.ts', '../../src/adapter/protocol', /as `import type`/],
    ['webview/tables/tables.ts', 'node:fs', /run in a browser/],
    ['webview/tables/tables.ts', 'vscode', /only src\/extension imports vscode/],
  ];

  for (const [file, specifier] of allowed) {
    it(`lets ${file} import ${specifier}`, () => assert.equal(whyNot(file, specifier), undefined));
  }
  for (const [file, specifier, why] of forbidden) {
    it(`keeps ${file} from importing ${specifier}`, () => assert.match(whyNot(file, specifier) ?? 'allowed', why));
  }

  it('lets a webview have the types of messages', () => {
    assert.equal(whyNot('webview/tables/tables.ts', '../../src/adapter/protocol', true), undefined);
  });

  it('is enforced by `npm run lint`, on every way to import', async function () {
    this.timeout(30_000);
    // The project's own configuration, less what needs the text to be a file of the TypeScript project.
    const eslint = new ESLint({
      cwd: ROOT,
      overrideConfig: { languageOptions: { parserOptions: { projectService: false, project: null } } },
      ruleFilter: ({ ruleId }) => ruleId === 'house/staircase',
    });
    const text = [
      "import { a } from '../kvm/machine';",
      "export { b } from '../hw/memory';",
      "export * from '../adapter/session';",
      "const c = await import('node:fs');",
      "type D = import('vscode').Uri;",
      "import { ok } from './address';",
    ].join('\n');
    const [result] = await eslint.lintText(text, { filePath: join(ROOT, 'src/words/word.ts') });
    assert.deepEqual(
      result?.messages.map((message) => [message.ruleId, message.line]),
      [1, 2, 3, 4, 5].map((line) => ['house/staircase', line]),
    );
  });
});
