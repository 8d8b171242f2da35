/**
 * Each rule of KVM's MMU that is broken on purpose is found by the golden property, within the number of operations that it runs with.
 * A mutation is a piece of source text that another takes the place of; a copy of the sources is made, changed and run.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import type { Verdict } from './mutant';

interface Mutation {
  /** what is broken */
  readonly rule: string;
  readonly file: string;
  /** text that must be there exactly once */
  readonly from: string;
  readonly to: string;
  /** modes in which it shows */
  readonly modes: readonly string[];
}

const MUTATIONS: readonly Mutation[] = [
  {
    rule: 'no TLB is flushed when mappings go',
    file: 'src/kvm/x86_requests.ts',
    from: "kvm_make_all_cpus_request(kvm, 'TLB_FLUSH');",
    to: '',
    modes: ['ept-tdp', 'npt-legacy', 'shadow-intel'],
  },
  {
    rule: 'guest tables of the lowest level are not write-protected',
    file: 'src/kvm/mmu/track.ts',
    from: `if (kvm_mmu_slot_gfn_write_protect(kvm, slot, sp.gfn, 1))
        kvm_flush_remote_tlbs(kvm, 'a guest table became write-protected');`,
    to: '',
    modes: ['shadow-intel', 'shadow-amd-pae'],
  },
  {
    rule: 'a vCPU in SMM sees the memslots of address space 0',
    file: 'src/kvm/kvm_main.ts',
    from: 'const slot = search_mode(vcpu.kvm, is_smm(vcpu), gfn);',
    to: 'const slot = search_mode(vcpu.kvm, false, gfn);',
    modes: ['ept-tdp', 'shadow-amd'],
  },
  {
    rule: 'the role of a page does not tell SMM',
    file: 'src/kvm/mmu/calc_role.ts',
    from: 'base = role_put(base, R.smm, is_smm(vcpu) ? 1 : 0);',
    to: '',
    modes: ['npt-legacy', 'shadow-intel'],
  },
  {
    rule: 'unsync pages are never synced',
    file: 'src/kvm/mmu/unsync.ts',
    from: 'const batch = mmu_unsync_walk(kvm, parent, 16);',
    to: 'const batch: UnsyncEntry[] = [];',
    modes: ['shadow-intel', 'shadow-amd-pae'],
  },
  {
    rule: 'writes do not get into the dirty log',
    file: 'src/kvm/kvm_main.ts',
    from: 'slot.dirty_bitmap[rel >>> 5] |= 1 << (rel & 31);',
    to: '',
    modes: ['ept-tdp', 'shadow-intel-32'],
  },
  {
    rule: 'cached MMIO outlives the generation of the memslots',
    file: 'src/kvm/mmu/mmio.ts',
    from: 'return kvm_gen === spte_gen;',
    to: 'return true;',
    modes: ['ept-tdp', 'npt-legacy'],
  },
  {
    rule: 'the MMU notifier leaves what the rmap knows',
    file: 'src/kvm/mmu/notifier.ts',
    from: `drop_spte(kvm, sptep);
        flush = true;`,
    to: '',
    modes: ['ept-legacy', 'shadow-amd'],
  },
  {
    rule: 'rights of the upper tables do not count',
    file: 'src/kvm/mmu/paging_tmpl.ts',
    from: 'pte_access = pt_access & gpte_access(format, lo, hi);',
    to: 'pte_access = gpte_access(format, lo, hi);',
    modes: ['shadow-intel', 'shadow-amd-32'],
  },
  {
    rule: 'XD of guest entries does not count',
    file: 'src/kvm/mmu/paging_tmpl.ts',
    from: '(hi & 0x80000000 ? 0 : ACC_EXEC)',
    to: 'ACC_EXEC',
    modes: ['shadow-intel', 'shadow-amd-pae'],
  },
  {
    rule: 'huge pages are mapped where disallow_lpage forbids it',
    file: 'src/kvm/mmu/hugepage.ts',
    from: 'slot.arch.lpage_info[max - 2][gfn_to_index(gfn, slot.base_gfn, max)] === 0 &&',
    to: '',
    modes: ['ept-tdp', 'npt-legacy', 'shadow-amd'],
  },
  {
    rule: 'restricted sub-pages are mapped writable',
    file: 'src/kvm/mmu/spp.ts',
    from: 'if (level !== 1 || subpage_access(slot, gfn) === FULL_ACCESS) return false;',
    to: 'return false;',
    modes: ['spp-v12', 'spp-rfc-2018'],
  },
  {
    rule: 'with CR0.WP = 0 user mode may use what the kernel wrote through',
    file: 'src/kvm/mmu/shadow_fault.ts',
    from: 'w.pte_access &= ~ACC_USER;',
    to: '',
    modes: ['shadow-intel', 'shadow-amd-pae', 'shadow-intel-32'],
  },
  {
    rule: 'INVLPG does not reach the shadow pages',
    file: 'src/kvm/mmu/invlpg.ts',
    from: 'invlpg(vcpu, mmu, gva, mmu.root.hpa);',
    to: '',
    modes: ['shadow-intel', 'shadow-amd'],
  },
  {
    rule: 'what PML logged is not read',
    file: 'src/kvm/pml.ts',
    from: 'mark_page_dirty_in_slot(kvm_vcpu_gfn_to_memslot(vcpu, gfn), gfn);',
    to: '',
    modes: ['ept-tdp-pml', 'ept-legacy-pml'],
  },
];
const CONTROL = ['ept-tdp', 'ept-legacy', 'npt-legacy', 'shadow-intel'];

const root = fileURLToPath(new URL('../../', import.meta.url));
const tsx = pathToFileURL(fileURLToPath(import.meta.resolve('tsx'))).href;
const run = promisify(execFile);

/** The sources that random operations need, with something else in the place of a piece of text. */
function copy(to: string, mutation: Mutation | null): void {
  for (const folder of ['src/words', 'src/hw', 'src/kvm', 'test/golden'])
    cpSync(join(root, folder), join(to, folder), {
      recursive: true,
      filter: (file) => !file.endsWith('.test.ts'),
    });
  writeFileSync(join(to, 'package.json'), '{ "type": "module" }');
  if (!mutation) return;
  const file = join(to, mutation.file);
  const parts = readFileSync(file, 'utf8').split(mutation.from);
  assert.equal(parts.length, 2, `${mutation.file} has this ${parts.length - 1} times, not once: ${mutation.from}`);
  writeFileSync(file, parts.join(mutation.to));
}

describe('golden property of broken rules', function () {
  this.timeout(120_000);
  let folder = '';
  /** two at a time, as CI has two processors */
  const queue: (() => Promise<void>)[] = [];
  const verdicts = new Map<string, Promise<Verdict>>();

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'mmuscope-mutations-'));
    for (const mutation of [null, ...MUTATIONS]) {
      const verdict = new Promise<Verdict>((resolve, reject) => {
        queue.push(() => verdictOf(mutation).then(resolve, reject));
      });
      verdict.catch(() => undefined);
      verdicts.set(mutation?.rule ?? '', verdict);
    }
    const worker = async (): Promise<void> => {
      for (let next = queue.shift(); next; next = queue.shift()) await next();
    };
    void Promise.all([worker(), worker()]);
  });
  after(() => {
    queue.length = 0;
    rmSync(folder, { recursive: true, force: true });
  });

  async function verdictOf(mutation: Mutation | null): Promise<Verdict> {
    const to = join(folder, String(mutation ? MUTATIONS.indexOf(mutation) : 'none'));
    mkdirSync(to);
    copy(to, mutation);
    const args = ['--import', tsx, join(to, 'test/golden/mutant.ts'), ...(mutation?.modes ?? CONTROL)];
    const { stdout } = await run(process.execPath, args, { cwd: to });
    return JSON.parse(stdout) as Verdict;
  }

  it('passes with all rules in their place', async () => {
    const { failure, operations } = (await verdicts.get('')) as Verdict;
    assert.equal(failure, null, JSON.stringify(failure));
    assert.ok(operations > 0);
  });

  for (const { rule } of MUTATIONS)
    it(`finds that ${rule}`, async () => {
      const { failure, operations } = (await verdicts.get(rule)) as Verdict;
      assert.ok(failure, `${operations} operations found nothing`);
      assert.doesNotMatch(
        failure.message,
        /is not a function|is not defined|Cannot read/,
        'it fails, but not by a check',
      );
    });
});
