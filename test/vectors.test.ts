import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runFile, readVectors } from '../src/cli/vectors';
import { compareDump } from '../src/cli/vectors-dump';
import { parseVector } from '../src/cli/vectors-format';
import { runVector } from '../src/cli/vectors-run';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const VECTORS = join(ROOT, 'test/fixtures/vectors');

/** Lines that are compared with nothing, and why. A change here is a change of what the project claims. */
const LEFT_OUT: Readonly<Record<string, number>> = {
  'ept-2d.jsonl.gz': 50,
  'ept.jsonl.gz': 8,
  'spp.jsonl.gz': 13,
  'translate-vectors.jsonl.gz': 36,
};

/** The command in a process of its own. */
function command(...args: string[]): { code: number; out: string; err: string } {
  try {
    const out = execFileSync(process.execPath, ['--import=tsx', join(ROOT, 'src/cli/vectors-main.ts'), ...args], {
      encoding: 'utf8',
      stdio: 'pipe',
    });
    return { code: 0, out, err: '' };
  } catch (e) {
    const { status, stdout, stderr } = e as { status: number; stdout: string; stderr: string };
    return { code: status, out: stdout, err: stderr };
  }
}

describe('processor vectors', () => {
  const files = readdirSync(VECTORS).filter((f) => f.endsWith('.jsonl.gz'));

  it('are here, of every kind', () => {
    assert.equal(files.length, 8);
  });

  for (const file of files) {
    it(`agree: ${file}`, () => {
      const path = join(VECTORS, file);
      const { passed, failed, shown } = runFile(path);
      assert.deepEqual(shown, []);
      assert.equal(failed, 0);
      assert.equal(readVectors(path).length - passed, LEFT_OUT[file] ?? 0);
    }).timeout(20_000);
  }

  it('fail when a result is another: each field of each kind is looked at', () => {
    const flipped = (text: string): string => `0x${(BigInt(text) ^ 0x1000n).toString(16)}`;
    for (const file of files) {
      const seen = new Set<string>();
      for (const v of readVectors(join(VECTORS, file))) {
        if (!('result' in v) || v.disputed === true) continue;
        for (const [field, value] of Object.entries(v.result)) {
          const kind = `${v.result.kind} ${field}`;
          if (seen.has(kind) || ['exit_reason', 'qual_undefined', 'cause', 'kind'].includes(field)) continue;
          if (field === 'writes' || field === 'ad_writes') continue;
          seen.add(kind);
          const wrong: unknown =
            typeof value === 'boolean' ? !value : typeof value === 'number' ? value + 1 : field === 'level' ? 'pml9e' : flipped(value as string); // prettier-ignore
          // Bits that the SDM leaves undefined may be anything.
          if (field === 'qualification' && (BigInt(v.result.qual_undefined ?? 0) & 0x1000n) !== 0n) continue;
          const outcome = runVector({ ...v, result: { ...v.result, [field]: wrong } });
          assert.equal(outcome.status, 'failed', `${file} ${v.id}: ${field}`);
          assert.ok(outcome.why.length > 1);
        }
      }
    }
  });

  it('fail when an accessed or dirty flag is missing or too many', () => {
    const [v] = readVectors(join(VECTORS, 'guest-paging.jsonl.gz')).filter(
      (x) =>
        x.format === 'guest' && x.result.kind === 'ok' && (x.result.ad_writes?.length ?? 0) > 1 && x.disputed !== true,
    );
    assert.ok(v?.format === 'guest');
    const fewer = { ...v, result: { ...v.result, ad_writes: v.result.ad_writes?.slice(1) } };
    assert.deepEqual(runVector(fewer).differences.map((d) => d.field), ['ad_writes']); // prettier-ignore
  });

  it('compare the dump of a Linux guest with QEMU’s info mem and gva2gpa', async () => {
    const { passed, failed, report } = await compareDump(join(VECTORS, 'guest-4level'));
    assert.equal(failed, 0, report.join('\n'));
    assert.equal(passed, 65_744 + 93);
  }).timeout(20_000);
});

describe('npm run vectors', () => {
  it('ends with the sum, and with 1 if a line differs, showing both sides and the why-record', () => {
    const folder = mkdtempSync(join(tmpdir(), 'mmuscope-vectors-'));
    try {
      const good = readVectors(join(VECTORS, 'npt-2d.jsonl.gz')).find(
        (v) => v.format === 'npt-2d' && v.result.kind === 'ok',
      );
      assert.ok(good?.format === 'npt-2d');
      const { format: _, ...line } = good;
      const file = join(folder, 'npt-2d.jsonl');
      writeFileSync(file, `${JSON.stringify(line)}\n\n${JSON.stringify({ ...line, id: 'changed', result: { ...line.result, hpa: '0x1' } })}\n`); // prettier-ignore
      const { code, out } = command(file);
      assert.equal(code, 1);
      assert.match(out, /npt-2d\.jsonl: 1 agree, 1 differ\n {2}changed\n {4}hpa: expected 0x1, got 0x52345234/);
      assert.match(out, /npt level 1\[/);
      assert.match(out, /\n1 passed, 1 failed\n$/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }).timeout(20_000);

  it('says what is wrong with what it is given', () => {
    assert.match(command().err, /nothing to compare/);
    assert.match(command('/nowhere.jsonl').err, /cannot read \/nowhere\.jsonl/);
    assert.equal(command('/nowhere.jsonl').code, 2);
    assert.match(command('--dump', tmpdir()).err, /has no registers\.json/);
    assert.throws(() => parseVector('{'), /is not JSON/);
    assert.throws(() => parseVector('{"a":1}'), /of no known format; .*ept \(eptp, gpa, entries\)/);
  }).timeout(20_000);
});
