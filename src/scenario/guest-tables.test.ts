import assert from 'node:assert/strict';
import { failures, runAll } from './testing/helpers';

const machine = (registers: string, features = 'nx, lm, pdpe1gb, la57'): string => `machine {
  kernel v6.1
  features ${features}
}
backing low 4M
memslot add id 0 gpa 0 size 4M host low
vcpu 0 { ${registers} }
tables at 0x10000
`;
const holds = (text: string): void => assert.deepEqual(failures(runAll(text).outcomes), []);
const error = (text: string): string => runAll(text).outcomes.at(-1)?.error ?? 'no error';

const LONG = 'cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE';
const LA57 = 'cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE|LA57  efer LME|LMA|NXE';
const PAE = 'cr0 PG|WP|NE|ET|PE  cr3 0x10020  cr4 PAE  efer NXE';
const BITS32 = 'cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PSE  efer 0';

describe('map', () => {
  it('writes 4-level tables, taking pages as it needs them', () => {
    holds(
      `${machine(LONG)}map 0x1000 -> 0x5000 W|U|NX\nexpect qword 0x10000 = 0x11007\nexpect qword 0x11000 = 0x12007\nexpect qword 0x12000 = 0x13007\nexpect qword 0x13008 = 0x8000000000005007\nmap 0x200000 -> 0x200000 2M W\nexpect qword 0x12008 = 0x200083\nmap 0x40000000 -> 0 1G\nexpect qword 0x11008 = 0x81\nload 4 [0x40005000]\nexpect no fault\nload 4 [0x201000]\nexpect no fault\nstore 4 [0x1000] = 1 user\nexpect no fault\nfetch [0x1000]\nexpect #PF error P|F\n`,
    );
  });

  it('maps many pages, and entries that are not present', () => {
    holds(
      `${machine(LONG)}map 0 -> 0 W count 600\nexpect qword 0x12000 = 0x13007\nexpect qword 0x12008 = 0x14007\nload 4 [599*4096]\n`.replace(
        '599*4096',
        '0x257000',
      ) +
        'expect no fault\nload 4 [0x258000]\nexpect #PF error 0\nmap 0x258000 -> 0x1000 W|NP\nexpect qword 0x142c0 = 0x1002\n',
    );
  });

  it('writes 5-level tables', () =>
    holds(
      `${machine(LA57)}map 0x1000000000000 -> 0x5000 W\nload 4 [0x1000000000000]\nexpect no fault\nexpect qword 0x10008 = 0x11027\n`,
    ));

  it('writes PAE tables, whose top entries have no W and U', () => {
    holds(
      `${machine(PAE)}map 0x40001000 -> 0x5000 W\nexpect qword 0x10028 = 0x11001\nmap 0xc0000000 -> 0x200000 2M W\nexpect qword 0x10038 = 0x13001\nsetregs { cr3 0x10020  cr0 PG|NE|ET|PE }\nload 4 [0x40001000]\nexpect no fault\nload 4 [0xc0000008]\nexpect no fault\n`,
    );
  });

  it('writes 32-bit tables, and 4M pages beyond 4G as PSE-36 has them', () => {
    holds(
      `${machine(BITS32)}map 0x401000 -> 0x5000 W\nexpect dword 0x10004 = 0x11007\nexpect dword 0x11004 = 0x5003\nload 4 [0x401000]\nexpect no fault\nmap 0x800000 -> 0x1_0040_0000 4M W\nexpect dword 0x10008 = 0x402083\n`,
    );
  });

  it('says what a mode cannot do', () => {
    assert.match(error(`${machine(BITS32)}map 0 -> 0 2M`), /32-bit paging has pages of 4K and 4M only/);
    assert.match(error(`${machine(BITS32)}map 0 -> 0 NX`), /no NX bit/);
    assert.match(error(`${machine(LONG)}map 0 -> 0 4M`), /pages of 4K, 2M and 1G, not of 4M/);
    assert.match(error(`${machine(PAE)}map 0 -> 0 1G`), /PAE paging has pages of 4K and 2M only/);
    assert.match(
      error(`${machine(LONG)}map 0 -> 0 2M\nmap 0x1000 -> 0`),
      /gva 0x1000 already lies in a larger page .*unmap that first/,
    );
  });

  it('does not use the root page as a table', () =>
    holds(
      `${machine(LONG)}tables at 0xf000\nmap 0 -> 0\nexpect qword 0x10000 = 0xf007\nexpect qword 0xf000 = 0x11007\n`,
    ));
});

describe('unmap', () => {
  it('clears entries of any size and passes by what is not mapped', () => {
    holds(
      `${machine(LONG)}map 0 -> 0 W count 4\nmap 0x200000 -> 0 2M\nunmap 0x1000 count 2\nexpect qword 0x13000 = 3\nexpect qword 0x13008 = 0\nexpect qword 0x13010 = 0\nexpect qword 0x13018 = 0x3003\nunmap 0x200000\nexpect qword 0x12008 = 0\nunmap 0x7f0000000000\n`,
    );
  });
});
