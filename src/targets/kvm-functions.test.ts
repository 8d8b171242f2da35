import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { FRAMES, KVM_FRAMES } from '../kvm/functions';
import { KERNEL_ERAS, parseKernel } from '../words/kernels';
import { ALL_FUNCTION_NAMES, functionDoubt, functionNames } from './kvm-functions';

/** The model's source: all of src/kvm but tests and the table itself. */
const sources = (readdirSync('src/kvm', { recursive: true }) as string[])
  .filter((f) => f.endsWith('.ts') && !f.endsWith('.test.ts') && f !== 'functions.ts')
  .map((f) => readFileSync(`src/kvm/${f}`, 'utf8'))
  .join('\n');

/** Whether some line of the source can enter a frame. Names made of parts are found by their parts. */
function entered(frame: string): boolean {
  if (sources.includes(`'${frame}'`)) return true;
  const fname = /^FNAME\((\w+)\)(.*)$/.exec(frame);
  if (fname) {
    const [, name, place] = fname;
    return sources.includes(`_${name}${place}\``) || sources.includes(`'paging64_${name}${place}'`);
  }
  const vmx = /^handle_(\w+)$/.exec(frame);
  if (vmx) return sources.includes(`'${vmx[1]}'`) && sources.includes('`handle_${');
  const svm = /^(\w+)_interception$/.exec(frame);
  return svm !== null && sources.includes(`'${svm[1]}'`) && sources.includes('}_interception`');
}

describe('KVM function names', () => {
  it('are those that the model enters: each frame of the table is entered somewhere', () => {
    assert.deepEqual(
      Object.keys(FRAMES).filter((f) => !entered(f)),
      [],
    );
    assert.ok(!entered('kvm_mmu_no_such_thing') && !entered('FNAME(no_such_thing)'));
  });

  it('are those that the model enters: each name in a call of enter() is in the table', () => {
    const frames = new Set<string>(KVM_FRAMES.map((f) => f.frame));
    const calls = [
      ...sources.matchAll(/\benter\(\s*(?:m|this|this\.m|kvm\.machine),\s*([^;]*?),\s*(?:vcpu\b|this\.vcpu|-1)/g),
    ];
    const names = calls.flatMap(([, name]) =>
      [...name.replace(/\S+ === '\w+'/g, '').matchAll(/'([^']+)'/g)].map((m) => m[1]),
    );
    assert.ok(calls.length > 200 && names.length > 180, `${calls.length} calls, ${names.length} names`);
    assert.deepEqual(
      names.filter((n) => !frames.has(n)),
      [],
    );
  });

  it('are C identifiers, and each is good in some kernel', () => {
    const somewhere = new Set(KERNEL_ERAS.flatMap((e) => [...functionNames(e.kernel)]));
    for (const name of ALL_FUNCTION_NAMES) assert.match(name, /^[a-z_][a-z0-9_]*$/);
    // A release between two eras may have a name of its own.
    const between = ALL_FUNCTION_NAMES.filter((n) => !somewhere.has(n));
    assert.deepEqual(
      between.filter((n) => ['v3.2', 'v5.3', 'v5.6', 'v5.12', 'v6.2'].every((k) => !functionNames(k).includes(n))),
      [],
    );
    assert.deepEqual(functionNames('v6.1'), [...new Set(functionNames('v6.1'))].sort());
    assert.ok(functionNames('v6.1').length > 240 && functionNames('v4.4').length > 180);
  });

  it('rows of a frame do not overlap and are in order', () => {
    for (const { frame, rows } of KVM_FRAMES) {
      const releases = rows.filter((r) => r.set === null);
      for (const [i, row] of releases.entries()) {
        for (const bound of [row.from, row.to]) assert.doesNotThrow(() => parseKernel(bound), `${frame}: ${bound}`);
        if (i > 0) assert.notEqual(row.from, releases[i - 1].from, frame);
      }
    }
  });

  it('knows those of the kernel at hand', () => {
    for (const name of [
      'handle_ept_misconfig',
      'kvm_mmu_page_fault',
      'enter_smm',
      'kvm_tdp_mmu_map',
      'nested_svm_vmrun',
    ])
      assert.equal(functionDoubt(name, 'v6.1'), null, name);
    for (const name of ['tdp_page_fault', '__direct_map', 'kvm_mmu_get_page', 'try_async_pf', 'install_new_memslots'])
      assert.equal(functionDoubt(name, 'v4.4'), null, name);
    assert.equal(functionDoubt('process_smi', 'v4.4.302'), null);
    assert.equal(functionDoubt('handle_spp', 'spp-v12'), null);
    assert.equal(functionDoubt('kvm_mmu_get_spp_page', 'spp-rfc-2018'), null);
    assert.equal(functionDoubt('kvm_mmu_write_protect_fault', 'v6.12'), null);
  });

  it('says what the kernel at hand calls a function of another', () => {
    assert.equal(
      functionDoubt('tdp_page_fault', 'v6.1'),
      'tdp_page_fault is a function of other kernels (up to v5.5): v6.1 calls it kvm_tdp_page_fault',
    );
    assert.equal(
      functionDoubt('kvm_mmu_get_shadow_page', 'v4.4'),
      'kvm_mmu_get_shadow_page is a function of other kernels (from v6.0 on): v4.4 calls it kvm_mmu_get_page',
    );
    assert.equal(
      functionDoubt('kvm_spp_get_page', 'spp-rfc-2018'),
      'kvm_spp_get_page is a function of other kernels (spp-v12): spp-rfc-2018 calls it kvm_mmu_get_spp_page',
    );
    assert.equal(
      functionDoubt('kvm_tdp_mmu_map', 'v4.4'),
      'kvm_tdp_mmu_map is a function of other kernels (from v5.10 on): v4.4 has no such function',
    );
    assert.equal(
      functionDoubt('fast_cr3_switch', 'v6.1'),
      'fast_cr3_switch is a function of other kernels (v4.19 to v5.6): v6.1 calls it fast_pgd_switch',
    );
  });

  it('says where a function without a frame is a part', () => {
    assert.equal(
      functionDoubt('permission_fault', 'v6.1'),
      'permission_fault has no frame of its own here: break on paging64_walk_addr_generic, which it is a part of',
    );
    assert.equal(
      functionDoubt('mmu_topup_memory_caches', 'v4.4'),
      'mmu_topup_memory_caches has no frame of its own here: break on tdp_page_fault, which it is a part of',
    );
  });

  it('says that a name is none', () => {
    assert.match(
      functionDoubt('kvm_mmu_pagefault', 'v6.1') ?? '',
      /not a KVM function.*did you mean 'kvm_mmu_page_fault'\?/,
    );
    assert.match(functionDoubt('toString', 'v6.1') ?? '', /not a KVM function/);
    assert.match(functionDoubt('', 'v6.1') ?? '', /not a KVM function/);
  });
});
