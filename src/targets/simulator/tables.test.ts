import assert from 'node:assert/strict';
import { openTarget } from '../open';
import { TargetError, type TreeNode } from '../target';
import type { Simulator } from './simulator';

const quiet = { output: () => {} };

/** A guest in some paging mode that has touched what it mapped. */
async function guest(machine: string, registers: string, body: string): Promise<Simulator> {
  const scenario = `machine { ${machine} }
backing low 16M
memslot add as 0 id 0 gpa 0 size 16M host low
vcpu 0 { ${registers}  cr3 0x10000  idt none }
tables at 0x10000
${body}`;
  const target = await openTarget({ scenario }, { read: () => Promise.reject(new Error('no files')) });
  target.setExceptionBreakpoints([]);
  const { reason } = await target.run({ kind: 'continue' }, 0, quiet);
  assert.equal(reason, 'end');
  assert.deepEqual(target.failures, []);
  return target;
}

const LONG = 'cr0 PG|WP|NE|ET|PE  cr4 PAE  efer LME|LMA|NXE';
const PAE = 'cr0 PG|WP|NE|ET|PE  cr4 PAE';
const MODES: [string, string, string, number, number][] = [
  ['4 levels', 'vendor intel', LONG, 4, 512],
  ['5 levels', 'vendor intel  features nx, lm, la57', LONG.replace('cr4 PAE', 'cr4 PAE|LA57'), 5, 512],
  ['PAE', 'vendor intel', PAE, 3, 4],
  ['32 bits', 'vendor intel', 'cr0 PG|WP|NE|ET|PE', 2, 1024],
  ['4 levels on NPT', 'vendor amd', LONG, 4, 512],
  ['4 levels, shadowed', 'vendor intel  paging shadow', LONG, 4, 512],
  ['PAE, shadowed', 'vendor amd  paging shadow', PAE, 3, 4],
];

describe('page tables as trees', () => {
  for (const [name, machine, registers, level, rootEntries] of MODES) {
    it(`${name}: browsing leads where the processor goes`, async () => {
      const t = await guest(
        machine,
        registers,
        'map 0 -> 0 W|U count 32\nmap 0x400000 -> 0x5000 W|U\nmov cr3, 0x10000\nstore 4 [0x3004] = 1\nstore 4 [0x400008] = 2\n',
      );
      const roots = t.tableRoots(0);
      assert.deepEqual([roots[0].kind, roots[0].level], ['guest', level]);
      assert.equal(t.table(0, 'guest', []).count, rootEntries);
      const second = roots.find((r) => r.kind !== 'guest' && r.current);
      assert.ok(second);
      for (const [gva, gpa] of [
        [0x3004n, 0x3004n],
        [0x400008n, 0x5008n],
      ]) {
        assert.equal(lookUp(t, 'guest', gva), gpa, `gva ${gva}`);
        const why = t.walk({ vcpu: 0, address: gva, from: 'gva', write: true });
        assert.equal(why.verdict.kind, 'ok', why.verdict.text);
        // EPT and NPT translate what the guest's tables give, shadow tables the linear address itself.
        assert.equal(lookUp(t, second.id, second.kind === 'shadow' ? gva : gpa), why.verdict.hpa);
        const word = (space: object): number => t.readMemory({ space, address: gva } as never, 4).data[0];
        assert.equal(word({ kind: 'gva', vcpu: 0 }), gva === 0x3004n ? 1 : 2);
      }
    });
  }

  it('paging off: no guest tables', async () => {
    const t = await guest('vendor intel', 'cr0 NE|ET|PE', 'load 4 [0x1000]\n');
    assert.deepEqual(
      t.tableRoots(0).map((r) => r.kind),
      ['ept'],
    );
    assert.equal(t.readMemory({ space: { kind: 'gva', vcpu: 0 }, address: 0x1000n }, 4).data.length, 4);
  });

  it('marks cached MMIO entries, with their generation, and stale ones', async () => {
    const body = 'map 0 -> 0 W count 16\nmap 0x400000 -> 0x10000000 W\nload 4 [0x400000]\n';
    const mark = async (more: string): Promise<[readonly string[], bigint | null, bigint | null]> => {
      const t = await guest('vendor intel', LONG, body + more);
      const ept = t.tableRoots(0)[1].id;
      const page = t.table(0, ept, t.tablePath(0, ept, 0x10000000n));
      const { marks, mmio } = page.entry(0);
      assert.equal(mmio?.gfn, 0x10000n);
      assert.equal(page.from, 0x10000000n);
      return [marks.filter((m) => m !== 'changed'), mmio.generation, mmio.currentGeneration];
    };
    assert.deepEqual(await mark(''), [['mmio'], 2n, 2n]);
    // A new slot advances the generation; the entry stays until somebody uses it.
    const more = 'backing more 4K\nmemslot add as 0 id 5 gpa 0x20000000 size 4K host more\n';
    assert.deepEqual(await mark(more), [['mmio', 'stale'], 2n, 4n]);
  });

  it('entries can be written, and the guest suffers what it must', async () => {
    const t = await guest(
      'vendor intel',
      LONG,
      'map 0 -> 0 W count 16\nload 4 [0x3000]\nrepeat 2 {\n  load 4 [0x3000]\n}\n',
    );
    await t.run({ kind: 'line', line: 9, direction: 'backward' }, 0, quiet);
    const scope = (): TreeNode | undefined =>
      t.scopes(0, t.frames(0)[0]).find((s) => s.name === 'Guest page tables')?.root;
    const child = (node: TreeNode | undefined, name: string): TreeNode | undefined =>
      node?.children?.('indexed').find((n) => n.name.startsWith(`${name} `));
    const pt = child(child(child(scope(), '[0]'), '[0]'), '[0]');
    const pte = child(pt, '[3]');
    assert.match(pte?.value ?? '', /^0x0000000000003023 4K page at 0x3000 P W A/);
    assert.throws(() => pte?.set?.('many'), /is not a number/);
    assert.match(pte?.set?.('0x3022').value ?? '', /^0x0000000000003022 not present/);
    // The translation may still be cached: the guest has to flush it.
    t.setExceptionBreakpoints([{ filter: 'guest_page_fault' }]);
    assert.equal(t.walk({ vcpu: 0, address: 0x3000n, from: 'gva' }).verdict.kind, 'pf');
    const ept = child(
      child(child(t.scopes(0, t.frames(0)[0]).find((s) => s.name === 'EPT')?.root, '[0]'), '[0]'),
      '[0]',
    );
    const spte = child(ept, '[3]');
    spte?.set?.('0');
    assert.equal(t.walk({ vcpu: 0, address: 0x3000n, from: 'gpa' }).verdict.kind, 'ept_violation');
  });

  it('says what is wrong with a path', async () => {
    const t = await guest('vendor intel', LONG, 'map 0 -> 0 W\nload 4 [0]\n');
    const refuse = (root: string, path: number[], message: RegExp): void =>
      assert.throws(
        () => t.table(0, root, path),
        (e: unknown) => e instanceof TargetError && message.test(e.message),
      );
    refuse('nowhere', [], /there is no page table root 'nowhere' now: the roots are guest, root:0x/);
    refuse('guest', [512], /a PML4 has entries 0 to 511, not 512/);
    refuse('guest', [-1], /not -1/);
    refuse('guest', [7], /entry 7 of the PML4 at 0x10000 leads to no table: it is empty/);
    refuse('guest', [0, 0, 0, 0, 0], /leads to no table/);
  });

  it('canonical addresses in the upper half', async () => {
    const t = await guest('vendor intel', LONG, 'map 0xffff800000000000 -> 0x5000 W\nload 4 [0xffff800000000000]\n');
    const page = t.table(0, 'guest', t.tablePath(0, 'guest', 0xffff800000000000n));
    assert.equal(page.from, 0xffff800000000000n);
    assert.deepEqual(page.path, [256, 0, 0]);
  });
});

/** Where a tree leads an address. */
function lookUp(t: Simulator, root: string, address: bigint): bigint | null {
  const page = t.table(0, root, t.tablePath(0, root, address));
  const index = Number((address - page.from) / page.coverage);
  const { target } = page.entry(index);
  return target === null ? null : target + ((address - page.from) % page.coverage);
}
