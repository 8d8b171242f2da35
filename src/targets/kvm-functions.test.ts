import assert from 'node:assert/strict';
import { functionDoubt, functionNames, KVM_FUNCTIONS } from './kvm-functions';

describe('KVM function names', () => {
  it('knows those of the kernel at hand', () => {
    for (const name of [
      'handle_ept_misconfig',
      'kvm_mmu_page_fault',
      'enter_smm',
      'kvm_tdp_mmu_map',
      'paging64_walk_addr',
    ]) {
      assert.equal(functionDoubt(name, 'v6.1'), null, name);
    }
    assert.equal(functionDoubt('tdp_page_fault', 'v4.4'), null);
    assert.equal(functionDoubt('process_smi', 'v4.4.302'), null);
    assert.equal(functionDoubt('handle_spp', 'spp-v12'), null);
  });

  it('says where another kernel has it', () => {
    assert.match(
      functionDoubt('tdp_page_fault', 'v6.1') ?? '',
      /known from v4\.4, not from kernels like v6\.1; did you mean 'kvm_tdp_page_fault'\?/,
    );
    assert.match(functionDoubt('kvm_tdp_mmu_map', 'v4.4') ?? '', /known from v6\.1 and v7\.3/);
  });

  it('says that a name is none', () => {
    assert.match(
      functionDoubt('kvm_mmu_pagefault', 'v6.1') ?? '',
      /not a KVM function.*did you mean 'kvm_mmu_page_fault'\?/,
    );
    assert.match(functionDoubt('toString', 'v6.1') ?? '', /not a KVM function/);
    assert.match(functionDoubt('', 'v6.1') ?? '', /not a KVM function/);
  });

  it('names are C identifiers, each under a kernel', () => {
    for (const f of KVM_FUNCTIONS.values()) {
      assert.match(f.name, /^[a-z_][a-z0-9_]*$/);
      assert.ok(f.kernels.length > 0);
    }
    assert.ok(KVM_FUNCTIONS.size > 280);
    assert.deepEqual(functionNames('v6.1'), [...new Set(functionNames('v6.1'))].sort());
  });
});
