import assert from 'node:assert/strict';
import fc from 'fast-check';
import { OK } from './access';
import { accesses, build, dump, machinePlan, type MachinePlan } from './testing/random';
import { halves } from './testing/tables';
import type { Translator } from './translate';

/** All that a caller can see of the last translation. */
function seen(t: Translator, status: number): unknown {
  const common = { status, rule: t.failedRule };
  if (status === OK) {
    const { hpa, gpa, pageLevel, pageSize, secondStageLevel, secondStagePageSize, memtype, rights, allowedBySpp } = t;
    const ignorePat = memtype < 0 ? null : t.ignorePat;
    return { ...common, hpa, gpa, pageLevel, pageSize, secondStageLevel, secondStagePageSize, memtype, rights, allowedBySpp, ignorePat }; // prettier-ignore
  }
  const { errorCode, qualLo, qualHi, faultGpa, faultIsTableWalk, faultLevel } = t;
  return status === 1
    ? { ...common, errorCode, faultLevel }
    : { ...common, qualLo, qualHi, faultGpa, faultIsTableWalk, faultLevel };
}

/** The same accesses on two copies of a machine. */
function bothWays(plan: MachinePlan, list: { page: number; access: number; offset: number }[]): number {
  const short = build(plan);
  const full = build(plan);
  full.t.fullWalks = true;
  let translated = 0;
  for (const { page, access, offset } of list) {
    const va = short.vas[page % short.vas.length] + BigInt(offset);
    const a = short.t.translate(...halves(va), access);
    const b = full.t.translate(...halves(va), access);
    assert.deepEqual(seen(short.t, a), seen(full.t, b));
    if (a === OK) translated++;
  }
  assert.equal(dump(short.t.memory), dump(full.t.memory));
  return translated;
}

describe('the short walk', () => {
  it('answers what the full walk answers, and writes what it writes', () => {
    let translated = 0;
    let all = 0;
    fc.assert(
      fc.property(
        machinePlan,
        fc.array(fc.record({ page: fc.nat(3), access: accesses, offset: fc.nat(4095) }), {
          minLength: 1,
          maxLength: 12,
        }),
        (plan, list) => {
          translated += bothWays(plan, list);
          all += list.length;
        },
      ),
      { numRuns: 1500 },
    );
    // The property says little if nothing ever translates.
    assert.ok(translated > all / 10, `${translated} of ${all} accesses translated`);
  }).timeout(20_000);

  it('works again after the memory behind it grew, was forked and written', () => {
    const plan: MachinePlan = {
      mode: '4level', stage2: 'ept', maxphyaddr: 46, wp: true, smep: false, smap: false, pke: false, nxe: true, eptAd: false, mbec: false,
      page1g: true, pkru: 0, pages: [{ slot: 1, leaf: 1, flags: Array<bigint>(5).fill(0x67n), eptFlags: Array<bigint>(5).fill(0x737n) }],
    }; // prettier-ignore
    const { t, vas } = build(plan);
    const where = () => (t.translate(...halves(vas[0]), 0) === OK ? t.hpa : -1);
    const first = where();
    assert.notEqual(first, -1);
    const fork = t.memory.fork();
    for (let pfn = 0x90_0000; pfn < 0x90_0400; pfn++) t.memory.write32(pfn * 4096, 1);
    assert.equal(where(), first);
    t.memory = fork;
    assert.equal(where(), first);
    assert.equal(fork.has(0x90_0000), false);
  });
});
