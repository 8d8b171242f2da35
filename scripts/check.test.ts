import assert from 'node:assert/strict';
import { engineFindings, lineFindings, linkFindings, pinFindings } from './check';

describe('house rules', () => {
  // Put together here, so that this file itself keeps the rules.
  const home = ['', 'root', 'x'].join('/');
  const host = ['registry', 'npmjs', 'org'].join('.');

  it('finds paths of a machine and registry hosts, with their line', () => {
    assert.deepEqual(lineFindings('a.md', `fine\nsee ${home}/y`), ['a.md:2: an absolute path of somebody’s machine']);
    assert.equal(lineFindings('.npmrc', `registry=https://${host}/`).length, 1);
  });

  it('lets URLs, relative paths and paths of every machine be', () => {
    for (const line of ['../work/x', 'https://example.org/root/x', '/usr/bin/env', '/proc/PID/mem', 'src/root/x.ts']) {
      assert.deepEqual(lineFindings('a.md', line), [], line);
    }
  });

  it('finds a test that keeps others from running, in TypeScript only', () => {
    const line = ['it', 'only("x")'].join('.');
    assert.equal(lineFindings('a.test.ts', line).length, 1);
    assert.equal(lineFindings('a.md', line).length, 0);
  });

  it('finds an address in the lock file', () => {
    assert.equal(lineFindings('package-lock.json', `      ${JSON.stringify('resolved')}: "x"`).length, 1);
  });

  it('finds dead links, relative to the file they stand in', () => {
    const exists = (path: string) => path === 'docs/b.md' || path === 'README.md';
    const text = '[b](b.md#top) [up](../README.md) [web](https://example.org) [here](#x)\n[lost](c.md)';
    assert.deepEqual(linkFindings('docs/a.md', text, exists), ['docs/a.md:2: links to c.md, which does not exist']);
  });

  it('finds packages that refuse the oldest Node', () => {
    const lock = {
      packages: { new: { version: '2.0.0', engines: { node: '>=22' } }, old: { engines: { node: '>=18' } } },
    };
    assert.deepEqual(engineFindings(lock, '20.19.0'), [
      'package-lock.json: new 2.0.0 wants Node >=22, we support 20.19.0',
    ]);
  });

  it('finds dependencies that are not pinned', () => {
    const found = pinFindings({ dependencies: { a: '1.2.3', b: '^1.2.3' }, devDependencies: { c: '1.2' } });
    assert.equal(found.length, 2);
  });
});
