/**
 * Four bundles out of one tree: the extension, the adapter with the CLI, the webviews, and the tests that run inside
 * the extension host. Types are checked by `tsc`, not here.
 *
 *   webpack --mode production             what ships
 *   webpack --mode development            with source maps, quick
 *   … --env tests                         the test bundle as well
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const root = dirname(fileURLToPath(import.meta.url));

/** Prints each file with its size, plain and compressed, so that a change in weight is seen when it is made. */
class SizeReport {
  /** @param {import('webpack').Compiler} compiler */
  apply(compiler) {
    compiler.hooks.assetEmitted.tap('SizeReport', (file, { content, targetPath }) => {
      if (!/\.c?js$/.test(file)) return;
      const kib = (/** @type {number} */ n) => `${(n / 1024).toFixed(1).padStart(8)} KiB`;
      const name = relative(root, targetPath).padEnd(32);
      console.log(`${name}${kib(content.length)}  gzip ${kib(gzipSync(content).length)}`);
    });
  }
}

/** Licences of the packages that end up in any bundle, in one file beside the bundles. */
class Notices {
  /** @type {Map<string, string>} */
  texts = new Map();

  /** @param {import('webpack').Compiler} compiler */
  apply(compiler) {
    compiler.hooks.compilation.tap('Notices', (compilation) => {
      compilation.hooks.processAssets.tap('Notices', () => {
        for (const module of compilation.modules) this.add(/** @type {{ resource?: string }} */ (module).resource);
      });
    });
    compiler.hooks.done.tap('Notices', () => {
      const sections = [...this.texts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, text]) => `${name}\n\n${text}`);
      const intro = 'MMU Scope contains the following packages.\n';
      writeFileSync(join(root, 'dist/THIRD_PARTY_NOTICES.txt'), [intro, ...sections].join(`\n${'-'.repeat(80)}\n\n`));
    });
  }

  /** @param {string | undefined} file */
  add(file) {
    const match = /^(.*[\\/]node_modules[\\/](?:@[^\\/]+[\\/])?[^\\/]+)[\\/]/.exec(file ?? '');
    const folder = match?.[1];
    if (folder === undefined) return;
    const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    const title = `${name} ${version} (${license})`;
    if (this.texts.has(title)) return;
    const licence = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    this.texts.set(title, licence === undefined ? '' : readFileSync(join(folder, licence), 'utf8').trim() + '\n');
  }
}

/** Entries whose source is there; the others are named, so that a lost file does not go unnoticed.
 * @param {Record<string, string>} entries */
function present(entries) {
  return Object.fromEntries(
    Object.entries(entries).filter(([name, file]) => {
      const found = existsSync(join(root, file));
      if (!found) console.log(`${name}: ${file} does not exist yet, skipped`);
      return found;
    }),
  );
}

/** One webview a folder, each with its index.ts. */
function webviews() {
  const folder = join(root, 'webview');
  if (!existsSync(folder)) return {};
  const names = readdirSync(folder).filter((name) => existsSync(join(folder, name, 'index.ts')));
  return Object.fromEntries(names.map((name) => [`webview/${name}`, `webview/${name}/index.ts`]));
}

/**
 * @param {Record<string, boolean>} env
 * @param {{ mode?: 'production' | 'development' }} argv
 * @returns {import('webpack').Configuration[]}
 */
export default function configure(env, argv) {
  const production = (argv.mode ?? 'production') === 'production';
  const notices = new Notices();

  /**
   * @param {string} name
   * @param {'node' | 'web'} target
   * @param {Record<string, string>} entries
   * @param {import('webpack').Configuration} [more]
   * @returns {import('webpack').Configuration[]}
   */
  function bundle(name, target, entries, more = {}) {
    const entry = present(entries);
    if (Object.keys(entry).length === 0) return [];
    const tsconfig = target === 'web' && existsSync(join(root, 'webview/tsconfig.json')) ? 'webview/' : '';
    return [
      {
        name,
        mode: production ? 'production' : 'development',
        target: target === 'node' ? 'node20' : 'web',
        context: root,
        entry: Object.fromEntries(Object.entries(entry).map(([key, file]) => [key, `./${file}`])),
        output: {
          path: join(root, 'dist'),
          filename: target === 'node' ? '[name].cjs' : '[name].js',
          ...(target === 'node' ? { library: { type: 'commonjs2' } } : {}),
          devtoolModuleFilenameTemplate: '../[resource-path]',
        },
        devtool: production ? false : 'source-map',
        resolve: {
          extensions: ['.ts', '.js'],
          mainFields: target === 'web' ? ['browser', 'module', 'main'] : ['module', 'main'],
        },
        module: {
          // langium and vscode-languageserver choose some of their imports at run time; we do not use those.
          parser: { javascript: { exprContextCritical: false, unknownContextCritical: false } },
          rules: [
            {
              test: /\.ts$/,
              exclude: /node_modules/,
              loader: 'ts-loader',
              options: {
                transpileOnly: true,
                configFile: join(root, tsconfig, 'tsconfig.json'),
                compilerOptions: { noEmit: false, sourceMap: true },
              },
            },
            { test: /\.css$/, type: 'asset/source' },
          ],
        },
        performance: { hints: false },
        plugins: production ? [new SizeReport(), ...(name === 'tests' ? [] : [notices])] : [],
        cache: { type: 'filesystem', buildDependencies: { config: [fileURLToPath(import.meta.url)] } },
        infrastructureLogging: { level: 'error' },
        stats: 'errors-warnings',
        ...more,
      },
    ];
  }

  const languageServer =
    ['src/scenario/language-server.ts', 'src/extension/language-server.ts'].find((f) => existsSync(join(root, f))) ??
    'src/extension/language-server.ts';
  return [
    ...bundle(
      'extension',
      'node',
      { extension: 'src/extension/extension.ts', 'language-server': languageServer },
      { externals: { vscode: 'commonjs vscode' } },
    ),
    ...bundle('cli', 'node', { cli: 'src/cli/main.ts' }),
    ...bundle('webviews', 'web', webviews()),
    ...(env['tests']
      ? bundle(
          'tests',
          'node',
          { 'test/suite': 'test/vscode/suite/index.ts' },
          // mocha stays outside: it finds its own files at run time, and one copy has to own describe and it.
          { externals: { vscode: 'commonjs vscode', mocha: 'import mocha' }, devtool: 'inline-source-map' },
        )
      : []),
  ];
}
