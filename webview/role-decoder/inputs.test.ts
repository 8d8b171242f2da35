import assert from 'node:assert/strict';
import { inputsFor, inputsOf } from './inputs';

const register = (name: string, value: string) => ({ name, value, word: null });
const thread = { id: 1, name: 'vCPU 0', smm: true, guestMode: false };

describe('the inputs that a session gives', () => {
  const inputs = inputsOf(
    [register('cr0', '0x80010031'), register('CR4', '0x320020'), register('efer', '0xd00')],
    thread,
  );

  it('takes bits by their numbers in the manuals', () => {
    assert.deepEqual(
      ['CR0.PG', 'CR0.WP', 'CR4.PAE', 'CR4.PSE', 'CR4.SMEP', 'CR4.SMAP', 'CR4.PKE', 'EFER.LMA', 'EFER.NX'].map(
        (n) => inputs[n],
      ),
      [1, 1, 1, 0, 1, 1, 0, 1, 1],
    );
    assert.equal(inputs['is_smm'], 1);
    assert.equal(inputs['is_guest_mode'], 0);
  });

  it('leaves unknown what is not said', () => {
    assert.equal(inputs['ad_enabled'], undefined);
    assert.equal(inputsOf([], { ...thread, smm: null })['is_smm'], undefined);
    assert.equal(inputsOf([], undefined)['CR0.PG'], undefined);
  });

  it('does not explain an MMU by registers that its roles were not made of', () => {
    assert.equal(inputsFor({ name: 'root_mmu', active: true, walk: true }, inputs), inputs);
    assert.deepEqual(inputsFor({ name: 'root_mmu', active: false, walk: false }, inputs), {});
    assert.deepEqual(inputsFor({ name: 'guest_mmu', active: true, walk: false }, inputs), {
      is_smm: 1,
      is_guest_mode: 0,
    });
    assert.equal(inputsFor({ name: 'nested_mmu', active: false, walk: true }, inputs), inputs);
  });
});
