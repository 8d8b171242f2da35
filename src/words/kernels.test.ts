import assert from 'node:assert/strict';
import { WordError } from './address';
import { KERNEL_ERAS, compareKernels, inRange, parseKernel } from './kernels';

describe('kernel names', () => {
  const names: readonly [string, string][] = [
    ['v6.1', 'v6.1'],
    ['6.1', 'v6.1'],
    ['6.1.176', 'v6.1.176'],
    ['6.1.0-50-amd64', 'v6.1'],
    ['5.15.0-91-generic', 'v5.15'],
    ['5.14.0-427.el9.x86_64', 'v5.14'],
    ['v7.3-rc7', 'v7.3'],
    ['7.3.4', 'v7.3.4'],
    ['5.10.0', 'v5.10.0'],
    ['Linux 6.12.107', 'v6.12.107'],
    ['Linux version 6.1.0-50-amd64', 'v6.1'],
    ['6.12.107+deb13-amd64', 'v6.12.107'],
    ['seed1', 'seed1'],
    ['spp', 'spp-rfc-2018'],
    ['SPP-RFC', 'spp-rfc-2018'],
    ['spp-v12', 'spp-v12'],
  ];
  for (const [text, name] of names) {
    it(`reads '${text}' as ${name}`, () => {
      const kernel = parseKernel(text);
      assert.equal(kernel.name, name);
      assert.deepEqual(parseKernel(kernel.name), kernel);
    });
  }

  it('lists the legal names when a name is wrong', () => {
    for (const text of ['', 'linux', 'v6', '6.1 z', 'seed9', '2.6.39', 'v3.0', 'v7.4']) {
      assert.throws(
        () => parseKernel(text),
        (e: Error) => e instanceof WordError && e.message.includes('v6.1, v6.12') && e.message.includes('seed1'),
        text,
      );
    }
    assert.throws(() => parseKernel('v8.0'), /newer than the newest layouts known: name v7\.3/);
  });

  it('offers eras that parse, oldest first', () => {
    const releases = KERNEL_ERAS.filter((e) => !e.kernel.patchSet).map((e) => parseKernel(e.id));
    for (let i = 1; i < releases.length; i++) assert.ok(compareKernels(releases[i - 1], releases[i]) < 0);
    assert.deepEqual(
      KERNEL_ERAS.filter((e) => e.kernel.patchSet).map((e) => e.id),
      ['seed0', 'seed1', 'seed2', 'seed3', 'spp-rfc-2018', 'spp-v12'],
    );
  });

  it('orders by release, patch level, then patch set', () => {
    const sorted = ['v4.20', 'spp-rfc-2018', 'v5.10.0', 'v5.10.47', 'v5.10', 'v6.1', 'v6.12'].map(parseKernel);
    for (let i = 1; i < sorted.length; i++) assert.ok(compareKernels(sorted[i - 1], sorted[i]) < 0, sorted[i].name);
    assert.equal(compareKernels(parseKernel('6.1'), parseKernel('v6.1')), 0);
  });

  it('takes a range without patch level as whole series, and an unknown patch level as the latest', () => {
    const range = { from: 'v5.7', to: 'v5.13.0' };
    assert.equal(inRange(parseKernel('v5.13.0'), range), true);
    assert.equal(inRange(parseKernel('v5.13.1'), range), false);
    assert.equal(inRange(parseKernel('v5.13'), range), false);
    assert.equal(inRange(parseKernel('v5.7.3'), range), true);
    assert.equal(inRange(parseKernel('v5.6'), range), false);
    assert.throws(() => inRange(parseKernel('v5.7'), { from: '5.7', to: 'v6.1' }), WordError);
  });
});
