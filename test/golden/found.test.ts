/** What random operations found once, in the fewest operations that show it. */
import { CONFIGS } from './driver';
import type { Op } from './operations';
import { EDITOR } from './operations';
import { World } from './world';

const store = (vcpu: number, gfn: number, page: number, offset = 0x400): Op => ({
  kind: 'access',
  vcpu,
  page,
  gfn,
  offset,
  access: 'store',
  size: 4,
  user: false,
  ac: false,
  value: 0x1234n,
});
const load = (vcpu: number, page: number): Op => ({ ...store(vcpu, 0x20, page), access: 'load' }) as Op;
const fetch = (vcpu: number, page: number): Op => ({ ...store(vcpu, 0x20, page), access: 'fetch', size: 1 }) as Op;
const log: Op = { kind: 'slot', slot: 0, action: 'log', where: 0 };
const smm = (vcpu: number): Op => ({ kind: 'smm', vcpu });
const zapAll: Op = { kind: 'slot', slot: 3, action: 'move', where: 1 };

const CASES: readonly (readonly [what: string, config: string, ops: readonly Op[]])[] = [
  [
    'before v4.20 a change of CR4.SMEP alone rebuilds the context',
    'v4.4-shadow',
    [load(0, 0), fetch(0, 0), { kind: 'cr4', vcpu: 0, bit: 'SMEP' }, fetch(0, 0), fetch(0, 1)],
  ],
  [
    'before v6.1 zapping a root of the TDP MMU does not take the reference of its vCPUs',
    'v5.10-ept',
    [load(0, 0), load(1, 0), zapAll, load(0, 0), load(1, 0)],
  ],
  ['entries of EPT have R in v7.2 and later', 'v7.3-ept', [store(EDITOR, 0x20, 0), load(0, 0)]],
  [
    'a sub-page that becomes restricted is not writable behind the dirty log',
    'spp-v12',
    [store(EDITOR, 0x20, 0), log, { kind: 'spp', gfn: 0x20, maps: [0xfffffffe], offset: 0x400 }],
  ],
  [
    'sub-page permissions that end at a hole hold for the pages before it',
    'spp-rfc-2018',
    [
      { kind: 'spp', gfn: 0x8f, maps: [0xffffffff, 0xffffffff], offset: 0xf98 },
      { kind: 'spp', gfn: 0x8f, maps: [0x3c, 0xffffffff], offset: 0x88 },
    ],
  ],
  [
    'what PML logged before an SMI belongs to address space 0',
    'ept-tdp-pml',
    [
      log,
      ...[0, 1, 2, 3].map((page) => store(1, 0x20, page)),
      { kind: 'dirty-get', slot: 0 },
      ...[0, 1, 2, 3].map((page) => store(1, 0x20, page, 0x408)),
      smm(1),
      { kind: 'dirty-get', slot: 0 },
    ],
  ],
];

describe('what random operations found', () => {
  for (const [what, name, ops] of CASES)
    it(what, () => {
      const config = CONFIGS.find((c) => c.name === name);
      if (!config) throw new Error(`there is no mode ${name}`);
      const world = new World(config, undefined, { auditEvery: 1, fullEvery: 1 });
      for (const op of ops) world.step(op);
    });
});
