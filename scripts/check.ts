/**
 * House rules that no linter knows, over every file that git has or would take: `tsx scripts/check.ts`.
 * Prints one line a finding, `file:line: what is wrong`, and exits 1 when there is one.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { satisfies } from 'semver';
import { ROOT } from './vscode-server';

/** The oldest Node that the project supports. */
export const OLDEST_NODE = '20.19.0';
/** Larger files need a reason, and a place under test/fixtures. */
const LARGEST = 1024 * 1024;

/** What a line of any text file must not have. Written so that this file does not match itself. */
const FORBIDDEN: readonly { readonly pattern: RegExp; readonly files: RegExp; readonly what: string }[] = [
  {
    pattern: /(?<![\w.~$-])\/(?:work|root|home\/(?!user\b|me\b)\w+|Users\/(?!me\b)\w+)\/\w/,
    files: /./,
    what: 'an absolute path of somebody’s machine',
  },
  {
    pattern: /\b(?:registry\.(?:npmjs\.org|yarnpkg\.com|npmmirror\.com)|deb\.debian\.org|npm\.pkg\.github\.com)\b/,
    files: /./,
    what: 'a package registry’s host: leave it to everybody’s own configuration',
  },
  { pattern: /^\s*"resolved":/, files: /package-lock\.json$/, what: 'an address to download from' },
  {
    pattern: /\b(?:describe|it|test|suite|context)\.only\(/,
    files: /\.ts$/,
    what: 'a test that keeps all others from running',
  },
  { pattern: /^(?:<{7}|>{7}) /, files: /./, what: 'a merge left half done' },
];

/** What is wrong with a text file, a line each. `file` is its path from the checkout. */
export function lineFindings(file: string, text: string): string[] {
  const rules = FORBIDDEN.filter((rule) => rule.files.test(file));
  return text
    .split('\n')
    .flatMap((line, index) =>
      rules.filter((rule) => rule.pattern.test(line)).map((rule) => `${file}:${index + 1}: ${rule.what}`),
    );
}

/** Links of a Markdown text to files that do not exist. `exists` gets a path from the checkout. */
export function linkFindings(file: string, text: string, exists: (path: string) => boolean): string[] {
  const findings: string[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    for (const match of line.matchAll(/\]\(([^)\s]+)\)/g)) {
      const target = (match[1] ?? '').replace(/#.*$/, '');
      if (target === '' || /^[a-z][a-z+.-]*:/i.test(target)) continue;
      const path = posix.normalize(posix.join(dirname(file), decodeURIComponent(target)));
      if (!exists(path)) findings.push(`${file}:${index + 1}: links to ${target}, which does not exist`);
    }
  }
  return findings;
}

interface Lock {
  readonly packages: Readonly<Record<string, { version?: string; engines?: { node?: string } | string[] }>>;
}

/** Packages of the lock file that refuse the oldest Node we support. */
export function engineFindings(lock: Lock, node = OLDEST_NODE): string[] {
  return Object.entries(lock.packages).flatMap(([path, entry]) => {
    const wanted = Array.isArray(entry.engines) ? undefined : entry.engines?.node;
    if (wanted === undefined || satisfies(node, wanted)) return [];
    return [`package-lock.json: ${path} ${entry.version ?? ''} wants Node ${wanted}, we support ${node}`];
  });
}

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
}

/** Dependencies that are not pinned to one version. */
export function pinFindings(manifest: Manifest): string[] {
  return Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })
    .filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version))
    .map(([name, version]) => `package.json: ${name} ${version} is not one exact version`);
}

function main(): void {
  const git = spawnSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  if (git.status !== 0) throw new Error(`git ls-files failed: ${git.stderr}`);
  const files = git.stdout.split('\0').filter((file) => file !== '' && existsSync(join(ROOT, file)));
  const findings: string[] = [];
  for (const file of files) {
    const path = join(ROOT, file);
    const fixture = file.startsWith('test/fixtures/');
    const { size } = statSync(path);
    if (size > LARGEST && !fixture) findings.push(`${file}: ${size} bytes; large files belong under test/fixtures`);
    const bytes = readFileSync(path);
    if (bytes.subarray(0, 8192).includes(0) || /\.(?:gz|png|woff2?)$/.test(file)) continue;
    const text = bytes.toString('utf8');
    findings.push(...lineFindings(file, text));
    if (file.endsWith('.md') && !fixture) findings.push(...linkFindings(file, text, (p) => existsSync(join(ROOT, p))));
  }
  const json = (file: string): unknown => JSON.parse(readFileSync(join(ROOT, file), 'utf8'));
  findings.push(...engineFindings(json('package-lock.json') as Lock), ...pinFindings(json('package.json') as Manifest));
  for (const finding of findings) console.log(finding);
  console.log(`${files.length} files, ${findings.length} findings`);
  if (findings.length > 0) process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
