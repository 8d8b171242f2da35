import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { meaningMarkdown, meaningOf, roleWordFor, worthShowing } from './meaning';
import { hintsOf, looksLikeWord, valueAt } from './values';

const SETTINGS = { kernel: 'v6.1', vendor: 'intel', hostPhysBits: 46 } as const;
const SESSION = { title: 'smm.mmu', kernel: 'v5.10', vendor: 'amd', pagingType: 'legacy', hostPhysBits: 48 } as const;
const TRACES = fileURLToPath(new URL('../../../test/fixtures/traces/', import.meta.url));

describe('what a value means', () => {
  it('goes by the session, and offers nothing else then', () => {
    const meaning = meaningOf({ value: 0x1003784n, session: SESSION, settings: SETTINGS });
    assert.equal(meaning.own, meaning.explanations.length);
    assert.match(meaning.basis, /^v5\.10, amd · session smm\.mmu$/);
    assert.match(meaning.explanations.find((e) => e.as === 'role')?.title ?? '', /v5\.10/);
  });

  it('goes by the settings without a session, and lists what other kernels make of it after that', () => {
    const meaning = meaningOf({ value: 0x1003784n, session: null, settings: SETTINGS });
    assert.match(meaning.explanations[0]?.title ?? '', /page role, v6\.1/);
    assert.ok(meaning.own < meaning.explanations.length);
    const others = meaning.explanations.slice(meaning.own).filter((e) => e.as === 'role');
    assert.ok(others.length > 0 && others.every((e) => !/, v6\.1$/.test(e.title)));
  });

  it('believes a trace about its processor more than the settings, and says what it went by', () => {
    const ask = (hints: object) =>
      meaningOf({ value: 0x600000003088b77n, as: 'spte', session: null, settings: SETTINGS, hints });
    assert.match(ask({}).explanations[0].title, /EPT/);
    assert.equal(ask({}).basis, 'v6.1, intel · from settings');
    const amd = ask({ kernel: 'v6.1.176', vendor: 'amd', pagingType: 'legacy' });
    assert.match(amd.explanations[0].title, /NPT or shadow paging, v6\.1\.176/);
    assert.equal(amd.basis, 'v6.1.176, amd · from file name and exits of the trace');
  });

  it('names the role word of the kernel at hand', () => {
    const [role] = meaningOf({ value: 0x3784n, as: 'role', session: null, settings: SETTINGS }).explanations;
    assert.equal(roleWordFor(role, 'v6.1'), 'root_role');
    assert.equal(roleWordFor(role, 'v4.4'), 'base_role');
    const [cpu] = meaningOf({ value: 0x8100003704n, as: 'cpu_role', session: null, settings: SETTINGS }).explanations;
    assert.equal(roleWordFor(cpu, 'v6.1'), 'cpu_role');
    const [cr4] = meaningOf({ value: 0x20n, as: 'cr4', session: null, settings: SETTINGS }).explanations;
    assert.equal(roleWordFor(cr4, 'v6.1'), undefined);
  });

  it('does not bother anyone with a plain number', () => {
    const number = meaningOf({ value: 5n, as: 'number', session: null, settings: SETTINGS });
    assert.equal(worthShowing(number, false), false);
    assert.equal(worthShowing(number, true), true);
  });

  it('ends a hover with its basis and its links', () => {
    const meaning = meaningOf({ value: 0x3784n, as: 'role', session: SESSION, settings: SETTINGS });
    const text = meaningMarkdown(0x3784n, meaning, ['[Role Decoder](command:x)']);
    assert.match(text, /^`0x3784` \*\*page role, v5\.10/);
    assert.match(text, /\*v5\.10, amd · session smm\.mmu\* · \[Role Decoder\]\(command:x\)$/);
  });

  it('says so when a value cannot be what it is said to be', () => {
    assert.throws(
      () => meaningOf({ value: 1n << 40n, as: 'role', session: null, settings: SETTINGS }),
      /cannot be a role/,
    );
  });
});

/** Lines of a trace, and what a hover over a value of one of them would decode. */
function trace(file: string) {
  const lines = gunzipSync(readFileSync(TRACES + file))
    .toString('utf8')
    .split('\n');
  const hints = hintsOf(lines.slice(0, 600).join('\n'), file);
  const hover = (line: number, column: number) => {
    const found = valueAt(lines[line], column);
    if (found === undefined || !looksLikeWord(found)) return undefined;
    const context = lines.slice(Math.max(0, line - 40), line + 1).join('\n');
    return meaningOf({ value: found.value, name: found.name, context, session: null, settings: SETTINGS, hints })
      .explanations[0];
  };
  return { lines, hints, hover };
}

describe('hovering in traces of a real v6.1.176', () => {
  for (const file of readdirSync(TRACES).filter((f) => f.endsWith('.trace.txt.gz'))) {
    it(`${file}: every spte has the rights, every MMIO spte the generation that the kernel printed`, () => {
      const { lines, hover } = trace(file);
      let sptes = 0;
      for (const [n, line] of lines.entries()) {
        const set = /kvm_mmu_set_spte: gfn [0-9a-f]+ (spte )([0-9a-f]+) \(([rwx-]{3})/.exec(line);
        if (set !== null) {
          const e = hover(n, line.indexOf(set[1]) + set[1].length + 1);
          assert.equal(e?.as, 'spte', line);
          assert.ok(e.summary.includes(` ${set[3]}`), `${line}\n${e.title}: ${e.summary}`);
          sptes++;
        }
        const check = /check_mmio_spte: (spte )([0-9a-f]+) kvm_gen [0-9a-f]+ spte-gen ([0-9a-f]+)/.exec(line);
        if (check !== null) {
          const e = hover(n, line.indexOf(check[1]) + check[1].length + 1);
          assert.match(e?.summary ?? '', new RegExp(`MMIO .*generation ${parseInt(check[3], 16)}\\b`), line);
          sptes++;
        }
      }
      assert.ok(sptes > 10);
    });

    it(`${file}: error_code of kvm_page_fault is read as what this processor and paging put there`, () => {
      const { lines, hints, hover } = trace(file);
      const want = {
        'intel ept': 'ept-qualification',
        'intel legacy': 'pfec',
        'amd legacy': file.includes('npt1') ? 'npf' : 'pfec',
        'amd ept': undefined,
      }[`${hints.vendor ?? 'intel'} ${hints.pagingType ?? 'legacy'}` as const];
      let faults = 0;
      for (const [n, line] of lines.entries()) {
        const fault = /kvm_page_fault: .* (error_code )0x/.exec(line);
        if (fault === null) continue;
        const intercepted = /reason EXCEPTION_NMI|reason PF excp/.test(lines.slice(Math.max(0, n - 2), n).join());
        assert.equal(intercepted, want === 'pfec', line);
        assert.equal(hover(n, line.indexOf(fault[1]) + fault[1].length + 2)?.as, want, line);
        faults++;
      }
      assert.ok(faults > 3);
    });
  }
});
