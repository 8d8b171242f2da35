/** The registers that one starts from without a session. */
import type { Inputs } from '../../src/words/formula';

/** A 64-bit guest with paging on, for when there is no session: something to start turning bits over from. */
export const TYPICAL: Inputs = {
  'CR0.PG': 1,
  'CR0.WP': 1,
  'CR4.PSE': 0,
  'CR4.PAE': 1,
  'CR4.LA57': 0,
  'CR4.SMEP': 1,
  'CR4.SMAP': 1,
  'CR4.PKE': 0,
  'EFER.LMA': 1,
  'EFER.NX': 1,
  is_smm: 0,
  is_guest_mode: 0,
  ad_enabled: 1,
  tdp_level: 4,
  eptp_level: 4,
  eptp_ad: 1,
  execonly: 1,
  tdp_has_smep: 0,
  l1_mbec: 0,
  maxphyaddr: 46,
};
