import assert from 'node:assert/strict';
import { openTarget } from '../open';
import type { TreeNode } from '../target';
import type { Simulator } from './simulator';

const quiet = { output: () => {} };

const scenario = (vendor: string, paging: string): string => `machine { vendor ${vendor}  paging ${paging} }
backing low 4M
memslot add id 0 gpa 0 size 4M host low
vcpu 0 { cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE }
tables at 0x10000
map 0x1000 -> 0x21000 W
load 4 [0x1000]
unmap 0x1000
load 4 [0x1000]
invlpg [0x1000]
nop
`;

async function at(line: number, vendor = 'intel', paging = 'ept'): Promise<Simulator> {
  const t = await openTarget(
    { scenario: scenario(vendor, paging) },
    { read: () => Promise.reject(new Error('no files')) },
  );
  t.setExceptionBreakpoints([]);
  const { reason } = await t.run({ kind: 'line', line, direction: 'forward' }, 0, quiet);
  assert.notEqual(reason, 'end');
  return t;
}

const scope = (t: Simulator): TreeNode => {
  const found = t.scopes(0, t.frames(0)[0]).find((s) => s.name === 'TLB');
  assert.ok(found);
  return found.root;
};
const groups = (t: Simulator): TreeNode[] => [...(scope(t).children?.() ?? [])];
const pages = (t: Simulator): string[] => (groups(t)[0].children?.('indexed') ?? []).map((n) => `${n.name} ${n.value}`);

describe('the TLB in the variables view', () => {
  it('shows an entry, marks it when the table no longer maps the page, and drops it after INVLPG', async () => {
    const [fresh] = pages(await at(8));
    assert.match(fresh, /^0x1000 4K -> gpa 0x21000, hpa 0x[0-9a-f]+ W PCID 0 VPID 1$/);
    const t = await at(9);
    assert.equal(groups(t)[0].value, '1 entry, 1 stale');
    assert.match(pages(t)[0], /^0x1000 stale: the tables map nothing here now; 4K -> gpa 0x21000/);
    assert.deepEqual(pages(await at(11)), []);
  });

  it('lists paging-structure caches and guest-physical mappings', async () => {
    const [, structures, physical] = groups(await at(9));
    assert.deepEqual(
      structures.children?.('indexed').map((n) => n.value),
      [
        '2M -> table 0x13000 of level 1 W U PCID 0 VPID 1',
        '1G -> table 0x12000 of level 2 W U PCID 0 VPID 1',
        '512G -> table 0x11000 of level 3 W U PCID 0 VPID 1',
      ],
    );
    assert.ok((physical.indexed ?? 0) > 0);
    assert.doesNotMatch(physical.value, /stale/);
  });

  for (const [vendor, paging, tag] of [
    ['amd', 'npt', 'ASID'],
    ['intel', 'shadow', 'VPID'],
    ['amd', 'shadow', 'ASID'],
  ])
    it(`${vendor}, ${paging}: entries carry the ${tag}`, async () => {
      const [entry] = pages(await at(8, vendor, paging));
      assert.match(entry, new RegExp(`^0x1000 4K -> .* PCID 0 ${tag} 1$`));
    });

  it('opening it changes nothing', async () => {
    const t = await at(9);
    const open = (n: TreeNode): unknown => [n.name, n.value, n.children?.().map(open)];
    const before = t.machine.mem.frames().length;
    assert.deepEqual(open(scope(t)), open(scope(t)));
    assert.equal(t.machine.mem.frames().length, before);
    const { reason } = await t.run({ kind: 'line', line: 10, direction: 'forward' }, 0, quiet);
    assert.notEqual(reason, 'end');
    assert.deepEqual(pages(t).length, 1);
  });
});
