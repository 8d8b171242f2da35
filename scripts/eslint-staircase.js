/**
 * ESLint rule: imports point down the stairs of ARCHITECTURE.md, and only the folders that may know about VS Code or
 * Node do.
 *
 *   words <- hw <- kvm <- scenario <- targets <- adapter <- cli, extension
 *
 * - A folder imports from itself and from the folders below it; cli and extension are both on top and do not meet.
 * - words, hw, kvm and scenario run in a browser too: they import no package and nothing of Node. scenario may import
 *   Langium and the language server's types. Their tests may import what tests need.
 * - Only src/extension imports `vscode`, besides the tests that run inside VS Code.
 * - Webviews import words, the types of the messages they exchange, and packages for the browser.
 */
import { dirname, relative, resolve, sep } from 'node:path';

/** Height of each step. */
const STAIRS = { words: 0, hw: 1, kvm: 2, scenario: 3, targets: 4, adapter: 5, cli: 6, extension: 6 };
/** Runs anywhere. */
const PURE = new Set(['words', 'hw', 'kvm', 'scenario']);
const LANGUAGE =
  /^(langium|vscode-languageserver(-types|-textdocument|-protocol)?|vscode-uri)(\/(?!node$|browser$).*)?$/;
/** What a webview may know of the rest, as types only. */
const MESSAGES = /^src\/adapter\/protocol$/;

/**
 * Why a file may not import something; undefined when it may.
 * @param {string} file path from the checkout, with slashes
 * @param {string} specifier what stands in the import
 * @param {boolean} typeOnly an `import type`
 * @returns {string | undefined}
 */
export function whyNot(file, specifier, typeOnly = false) {
  const [top, folder] = file.split('/');
  const here = top === 'src' ? folder : undefined;
  const isTest = /\.test\.ts$|\/testing\//.test(file);
  if (!specifier.startsWith('.')) {
    const node = specifier.startsWith('node:');
    const insideVscode = here === 'extension' || file.startsWith('test/vscode/suite/');
    if (specifier === 'vscode' && !insideVscode && !(typeOnly && file.startsWith('test/vscode/'))) {
      return `only src/extension imports vscode, not ${file}`;
    }
    if (top === 'webview' && node && !isTest) return 'webviews run in a browser, which has no Node modules';
    if (here === undefined || !PURE.has(here) || isTest) return undefined;
    if (here === 'scenario' && LANGUAGE.test(specifier)) return undefined;
    // Langium's parser: its types turn up where Langium is extended.
    if (here === 'scenario' && specifier === 'chevrotain' && typeOnly) return undefined;
    return `src/${here} runs in a browser too: it imports neither packages nor Node modules${here === 'scenario' ? ' but Langium' : ''}`;
  }
  const target = relative('/', resolve('/', dirname(file), specifier))
    .split(sep)
    .join('/');
  const [targetTop, targetFolder] = target.split('/');
  if (top === 'webview') {
    if (targetTop === 'webview' || (targetTop === 'src' && targetFolder === 'words')) return undefined;
    if (typeOnly && MESSAGES.test(target)) return undefined;
    return `webviews import from src only words${MESSAGES.test(target) ? ', and this file as `import type`' : ''}, not ${target}`;
  }
  if (here === undefined) return undefined;
  if (targetTop === 'webview')
    return here === 'extension' || isTest ? undefined : 'only src/extension knows the webviews';
  if (targetTop === 'package.json' || isTest) {
    if (!PURE.has(here) || targetTop !== 'src') return undefined;
  } else if (targetTop !== 'src') return `src imports from src, not from ${target}`;
  if (targetFolder === here || targetFolder === undefined) return undefined;
  const mine = STAIRS[/** @type {keyof typeof STAIRS} */ (here)];
  const theirs = STAIRS[/** @type {keyof typeof STAIRS} */ (targetFolder)];
  if (mine === undefined) return `src/${here} is no folder of ARCHITECTURE.md`;
  if (theirs === undefined) return `src/${targetFolder} is no folder of ARCHITECTURE.md`;
  if (theirs < mine) return undefined;
  return `imports point down: src/${here} may not import src/${targetFolder} (words <- hw <- kvm <- scenario <- targets <- adapter <- cli, extension)`;
}

/** @type {import('eslint').Rule.RuleModule} */
export const staircase = {
  meta: { type: 'problem', schema: [], messages: { up: '{{why}}.' } },
  create(context) {
    const file = relative(context.cwd, context.filename).split(sep).join('/');
    /** @param {any} node */
    const check = (node) => {
      const source = node.source ?? node.argument?.literal ?? node.argument;
      if (typeof source?.value !== 'string') return;
      const typeOnly = node.importKind === 'type' || node.exportKind === 'type' || node.type === 'TSImportType';
      const why = whyNot(file, source.value, typeOnly);
      if (why !== undefined) context.report({ node: source, messageId: 'up', data: { why } });
    };
    return {
      ImportDeclaration: check,
      ImportExpression: check,
      ExportNamedDeclaration: check,
      ExportAllDeclaration: check,
      TSImportType: check,
    };
  },
};
