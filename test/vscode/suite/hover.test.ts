import assert from 'node:assert/strict';
import * as vscode from 'vscode';
import { activated, hoverAt } from './helpers';

/** What a real v6.1.176 on VMX printed (fixtures kvm-traces, intel-ept1-tdp1-smm). */
const INTEL = `        kvmprobe-420     [000] d..1.     1.663446: kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x1000 info1 0x0000000000000083 info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000
        kvmprobe-420     [000] .....     1.663447: kvm_page_fault: vcpu 0 rip 0x1000 address 0x0000000000010000 error_code 0x83
        kvmprobe-420     [000] ...1.     1.663449: kvm_tdp_mmu_spte_changed: as id 0 gfn 10 level 1 old_spte 0 new_spte 600000003088b77
        kvmprobe-420     [000] ...1.     1.663449: kvm_mmu_set_spte: gfn 10 spte 600000003088b77 (rwxu) level 1 at 8642080
        kvmprobe-420     [000] ...1.     1.708450: check_mmio_spte: spte 3e00000a0046 kvm_gen 8 spte-gen 8 valid 1
`;

/** The same on SVM with NPT. */
const AMD = `        kvmprobe-420     [000] d..1.     1.663446: kvm_exit: vcpu 0 reason npf rip 0x1000 info1 0x0000000200000006 info2 0x0000000000010000 intr_info 0x00000000 error_code 0x00000000
        kvmprobe-420     [000] .....     1.663447: kvm_page_fault: vcpu 0 rip 0x1000 address 0x0000000000010000 error_code 0x200000006
        kvmprobe-420     [000] ...1.     1.663449: check_mmio_spte: spte 80000000a0047 kvm_gen 8 spte-gen 8 valid 1
`;

const NOISE = `int main(void) { int x = 0x10; return x ? 42 : 0; } /* color #aabbccdd, commit 7dcd57552008 */\n`;

/** Text of all hovers over the first match's last group. */
async function hoverOver(document: vscode.TextDocument, pattern: RegExp): Promise<string> {
  const m = pattern.exec(document.getText());
  assert.ok(m, String(pattern));
  const offset = m.index + m[0].lastIndexOf(m[1]) + 1;
  return hoverAt(document, document.positionAt(offset));
}

describe('hovers', () => {
  before(activated);
  const open = (content: string, language = 'plaintext') => vscode.workspace.openTextDocument({ content, language });

  it('reads an spte of a VMX trace as an EPT entry', async () => {
    const text = await hoverOver(await open(INTEL), /spte (600000003088b77) \(/);
    assert.match(text, /spte, EPT/);
    assert.match(text, /pfn 0x3088/);
    assert.match(text, /rwx WB\+IPAT/);
    assert.match(text, /host-writable mmu-writable/);
  });

  it('reads a cached MMIO spte with its gfn and generation', async () => {
    const text = await hoverOver(await open(INTEL), /spte (3e00000a0046)/);
    assert.match(text, /MMIO/);
    assert.match(text, /gfn 0xa0/);
    assert.match(text, /gen(?:eration)? 8/);
  });

  it('reads error_code as the exit qualification after an EPT violation, and as EXITINFO1 after a nested page fault', async () => {
    assert.match(await hoverOver(await open(INTEL), /error_code (0x83)/), /EPT violation exit qualification/);
    const npf = await hoverOver(await open(AMD), /error_code (0x200000006)/);
    assert.match(npf, /EXITINFO1|nested page fault/i);
    assert.doesNotMatch(npf, /EPT violation/);
  });

  it('reads the MMIO spte of an SVM trace by the legacy layout', async () => {
    const text = await hoverOver(await open(AMD), /spte (80000000a0047)/);
    assert.match(text, /NPT or shadow paging/);
    assert.match(text, /gfn 0xa0/);
  });

  it('reads a role word in C and offers the Role Decoder', async () => {
    const text = await hoverOver(await open('vcpu->arch.mmu->root_role = 0x1003784;\n', 'c'), /(0x1003784)/);
    assert.match(text, /page role/);
    assert.match(text, /smm/);
    assert.match(text, /command:mmuscope\.openRoleDecoder/);
  });

  it('reads control registers of a register dump', async () => {
    const text = await hoverOver(
      await open('CR3: 0000000103c6a000 CR4: 0000000000372ef0\n'),
      /CR4: (0000000000372ef0)/,
    );
    assert.match(text, /CR4/);
    assert.match(text, /SMEP/);
  });

  it('says by whose tables it read', async () => {
    const settings = vscode.workspace.getConfiguration('mmuscope');
    assert.match(await hoverOver(await open(INTEL), /spte (600000003088b77) \(/), /v6\.1, intel/);
    await settings.update('defaultKernel', 'v7.3', vscode.ConfigurationTarget.Global);
    try {
      assert.match(await hoverOver(await open(INTEL), /spte (600000003088b77) \(/), /v7\.3, intel/);
    } finally {
      await settings.update('defaultKernel', undefined, vscode.ConfigurationTarget.Global);
    }
  });

  it('leaves the numbers of everyday text alone', async () => {
    const document = await open(NOISE, 'c');
    for (const pattern of [/(0x10);/, /(42)/, /#(aabbccdd)/, /commit (7dcd57552008)/]) {
      assert.equal(await hoverOver(document, pattern), '', String(pattern));
    }
  });

  it('obeys its settings', async () => {
    const settings = vscode.workspace.getConfiguration('mmuscope');
    const document = await open(INTEL);
    const noise = await open(NOISE, 'c');
    const set = (key: string, value: unknown) => settings.update(key, value, vscode.ConfigurationTarget.Global);
    try {
      await set('hover.values', 'off');
      assert.equal(await hoverOver(document, /spte (600000003088b77) \(/), '');
      await set('hover.values', 'all');
      assert.notEqual(await hoverOver(noise, /(0x10);/), '');
      await set('hover.languages', ['log']);
      assert.equal(await hoverOver(document, /spte (600000003088b77) \(/), '');
    } finally {
      await set('hover.values', undefined);
      await set('hover.languages', undefined);
    }
  });

  it('answers at once in a file of a hundred thousand lines', async () => {
    const big = await open(INTEL.repeat(20_000));
    await hoverOver(big, /spte (600000003088b77) \(/);
    const begin = performance.now();
    await hoverOver(big, /new_spte (600000003088b77)/);
    assert.ok(performance.now() - begin < 1000);
  });
});
