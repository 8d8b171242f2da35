import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { explain } from './explain';
import type { PagingType } from './sptes';
import { decodeSpte, spteLayout } from './sptes';

interface Host {
  host: string;
  vendor: 'intel' | 'amd';
  pagingType: PagingType;
  hostPhysBits: number;
  l1tf: boolean;
  sptes: [string, number][];
  mmio: [string, number][];
  rights: [string, string, number][];
}
const { kernel, hosts } = JSON.parse(
  readFileSync(new URL('../../test/fixtures/reference/real-sptes.json', import.meta.url), 'utf8'),
) as { kernel: string; hosts: Host[] };

describe(`sptes that KVM ${kernel} made`, () => {
  for (const host of hosts) {
    const l = spteLayout(kernel, host.pagingType, host);

    it(`${host.host}: each is a known kind, with no bit unexplained`, () => {
      assert.ok(host.sptes.length > 50);
      for (const [value, level] of host.sptes) {
        const spte = decodeSpte(l, BigInt(value), level);
        assert.notEqual(spte.kind, 'other', value);
        assert.equal(spte.word?.reserved ?? 0n, 0n, value);
        assert.ok(!spte.notes.some((n) => n.includes('KVM never')), `${value} ${spte.notes.join()}`);
      }
    });

    it(`${host.host}: the generation is the one that check_mmio_spte printed`, () => {
      for (const [value, generation] of host.mmio) {
        assert.equal(decodeSpte(l, BigInt(value)).generation, generation, value);
      }
    });

    it(`${host.host}: the rights are those that kvm_mmu_set_spte printed`, () => {
      for (const [value, printed, level] of host.rights) {
        const { r, p, w, x, nx, u } = decodeSpte(l, BigInt(`0x${value}`), level).rights;
        // On EPT the user mask is the R bit.
        const mine = [(r ?? p) ? 'r' : '-', w ? 'w' : '-', (x ?? 1 - nx) ? 'x' : '-', (u ?? r) ? 'u' : '-'].join('');
        assert.equal(mine, printed, value);
      }
    });

    it(`${host.host}: explain finds the reading by itself`, function () {
      this.timeout(20_000);
      for (const [value, level] of host.sptes) {
        const spte = decodeSpte(l, BigInt(value), level);
        const told = explain(BigInt(value), { as: 'spte', kernel, vendor: host.vendor, level });
        assert.equal(told[0].summary, spte.summary, `${value} with kernel, vendor and level`);
        // An empty or frozen entry is the same number in both formats.
        if (spte.kind === 'zero' || spte.kind === 'frozen') continue;
        const found = explain(BigInt(value), { level })[0];
        assert.equal(`${found.as} ${found.summary}`, `spte ${spte.summary}`, `${value} with nothing but the level`);
      }
    });
  }
});
