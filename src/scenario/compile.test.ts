import assert from 'node:assert/strict';
import { parseScenario } from './parse';
import { GUEST, GUEST_LINES, inGuest, onlyFinding, program } from './testing/helpers';

/** `code message` of the only finding of a text that follows the guest. */
const one = (text: string): string => {
  const list = inGuest(text);
  assert.equal(list.length, 1, list.join('\n') || 'no finding');
  return list[0];
};
const none = (text: string): void => assert.deepEqual(inGuest(text), []);

describe('programs', () => {
  it('have statements with their place and what they do', () => {
    const p = program(`${GUEST}let a = 0x1000\nvcpu 0: load 4 [a+8] user # why\nrepeat 3 {\n  nop\n}\n`);
    const load = p.statements.find((s) => s.op.kind === 'insn');
    assert.deepEqual(
      { ...load, index: 0 },
      {
        index: 0,
        line: GUEST_LINES + 2,
        column: 1,
        endLine: GUEST_LINES + 2,
        endColumn: 26,
        text: 'vcpu 0: load 4 [a+8] user',
        vcpu: 0,
        parent: -1,
        op: {
          kind: 'insn',
          insn: { op: 'load', size: 4, address: 0x1008n },
          modifiers: { user: true, ac: false, rip: null },
        },
        collectsEvents: false,
      },
    );
    const repeat = p.statements.find((s) => s.op.kind === 'repeat');
    assert.deepEqual(repeat?.op, { kind: 'repeat', count: 3, end: p.statements.length });
    assert.equal(p.statements.at(-1)?.parent, repeat?.index);
  });

  it('say where breakpoints can sit', () => {
    const p = program('# comment\nmachine {\n  kernel v6.1\n}\n\nnote "x"\nrepeat 2 {\n\n  note "y"\n}\nnote "z"\n');
    assert.deepEqual(p.executableLines, [2, 6, 7, 9, 11]);
    assert.deepEqual(
      [1, 2, 3, 5, 7, 8, 10, 11, 12].map((l) => p.breakpointLine(l)),
      [2, 2, 2, 6, 7, 9, 11, 11, null],
    );
    assert.equal(p.statementAt(9)?.text, 'note "y"');
    assert.equal(p.statementAt(8)?.op.kind, 'repeat');
    assert.equal(p.statementAt(1), null);
  });

  it('resolve flags, sums, units and names', () => {
    const p = program(
      `${GUEST}let page = 4K\nmov cr0, PG|WP|PE\nmov cr3, page+page\nqword low+0x20 = 1|2 page\nwrmsr EFER, LME|0x800\n`,
    );
    const ops = p.statements.slice(-4).map((s) => s.op);
    assert.deepEqual(ops[0].kind === 'insn' && ops[0].insn, { op: 'mov', cr: 0, value: 0x80010001n });
    assert.deepEqual(ops[1].kind === 'insn' && ops[1].insn, { op: 'mov', cr: 3, value: 0x2000n });
    assert.deepEqual(ops[2].kind === 'write' && [ops[2].host, [...ops[2].bytes]], [
      { backing: 'low', offset: 0x20 },
      [3, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
    ]);
    assert.deepEqual(ops[3].kind === 'insn' && ops[3].insn, { op: 'wrmsr', msr: 0xc0000080, value: 0x900n });
  });

  it('know which statements need their events collected', () => {
    const p = program(
      `${GUEST}repeat 2 {\n  expect event kvm_entry\n  nop\n  note "x"\n  hlt\n}\nload 4 [0]\nexpect value 0\nexpect no event npf\n`.replace(
        'repeat',
        'nop\nrepeat',
      ),
    );
    const collecting = p.statements.filter((s) => s.collectsEvents).map((s) => s.text);
    assert.deepEqual(collecting, ['nop', 'hlt', 'load 4 [0]']);
  });

  it('take the vCPU of an expect from what it is about', () => {
    const p = program(`${GUEST}vcpu 1 { cr0 PE }\nvcpu 1: nop\nexpect cpl 0\nvcpu 0: expect cpl 0\n`);
    assert.deepEqual(
      p.statements.slice(-3).map((s) => s.vcpu),
      [1, 1, 0],
    );
  });
});

describe('the machine block', () => {
  const machine = (settings: string): string => {
    const d = onlyFinding(`machine {\n${settings}\n}`);
    return `${d.line}:${d.column} ${d.code} ${d.message}`;
  };

  it('lists the legal settings, values and kernels', () => {
    assert.match(
      machine('kernal v6.1'),
      /^2:1 unknown-setting 'kernal' is not a setting of the machine; did you mean 'kernel'\? It can be kernel, vendor,/,
    );
    assert.match(machine('kernel v9.9'), /^2:8 unknown-kernel kernel v9.9 is newer .*v3\.1, .*, v6\.1, .*spp-v12$/);
    assert.match(
      machine('kernel fedora'),
      /unknown-kernel 'fedora' is not a kernel: write a release from v3.1 to v7.3/,
    );
    assert.equal(machine('vendor via'), "2:8 setting-value 'via' is not a value of vendor; it can be intel or amd");
    assert.equal(machine('tdp_mmu yes'), "2:9 setting-value tdp_mmu is on or off, not 'yes'");
    assert.equal(machine('maxphyaddr 64'), "2:12 setting-value maxphyaddr is a number from 32 to 52, not '64'");
    assert.match(
      machine('features nx, smop'),
      /setting-value 'smop' is not a value of features; did you mean 'smep'\?/,
    );
    assert.equal(machine('kernel v6.1, v6.2'), '2:8 setting-value kernel takes one value, not a list');
    assert.equal(machine('kernel v6.1\nkernel v6.1'), "3:1 twice 'kernel' is set twice: keep one of them");
  });

  it('knows what excludes what', () => {
    assert.equal(
      machine('paging npt'),
      '2:1 setting-value paging npt does not exist on intel: write paging ept or shadow, or vendor amd',
    );
    assert.match(machine('vendor amd\npaging ept'), /paging ept does not exist on amd/);
    assert.match(machine('kernel v4.4\ntdp_mmu on'), /kernel v4.4 has no TDP MMU/);
    assert.match(machine('paging shadow\ntdp_mmu on'), /no effect with paging shadow/);
    assert.match(
      machine('maxphyaddr 36\nguest_maxphyaddr 40'),
      /setting-value the guest is told 40 physical-address bits but the host has 36/,
    );
    assert.match(machine('vendor amd\npml on'), /pml is a parameter of kvm_intel/);
    assert.match(machine('dirty_log initially-set'), /goes with manual-protect/);
  });

  it('becomes the configuration of the machine', () => {
    const c = program(
      'machine {\n  kernel 6.1.0-50-amd64  vendor amd  maxphyaddr 40\n  features none\n  processor tcg-rsvd-without-p, no-nrips\n  mmio_caching off\n}',
    ).machineConfig;
    assert.equal(c.kernel, 'v6.1');
    assert.equal(c.paging, 'npt');
    assert.equal(c.maxphyaddr, 40);
    assert.equal(c.guestMaxphyaddr, 40);
    assert.deepEqual(c.features, []);
    assert.deepEqual(c.quirks, ['tcg-rsvd-without-p', 'no-nrips']);
    assert.equal(c.mmio_caching, false);
    assert.equal(program('note "x"').machineConfig.kernel, 'v6.1');
    assert.equal(program('machine { kernel v4.4 }').machineConfig.tdp_mmu, false);
    assert.equal(program('machine { kernel v6.1 }').machineConfig.tdp_mmu, true);
    assert.equal(program('machine { kernel v6.1  paging shadow }').machineConfig.tdp_mmu, false);
    assert.equal(
      program('machine { dirty_log manual-protect, initially-set }').machineConfig.dirtyLogInitiallySet,
      true,
    );
  });

  it('comes first and once', () => {
    assert.match(onlyFinding('backing a 4K\nmachine { kernel v6.1 }').message, /comes before all other statements/);
    assert.match(onlyFinding('machine { kernel v6.1 }\nmachine { vendor amd }').message, /one machine in a scenario/);
  });
});

describe('findings about names and numbers', () => {
  it('lists the legal flags', () => {
    assert.equal(
      one('mov cr0, PG|WX'),
      "1:13 unknown-flag 'WX' is not a flag of cr0; did you mean 'WP'? Legal names are PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG",
    );
    assert.match(
      one('memslot add id 3 gpa 4M size 4K host low flags RO'),
      /'RO' is not a flag of the memslot flags; .*egal names are LOG_DIRTY_PAGES, READONLY, X86_SMRAM, X86_NORMAL_ONLY$/,
    );
    assert.match(one('map 0x200000 -> 0 WR'), /'WR' is not a flag of map; /);
    assert.match(
      one('load 4 [0]\nexpect #PF error RSV'),
      /'RSV' is not a flag of the error code of #PF; did you mean 'RSVD'\?/,
    );
    none('mov cr0, PG|WP|PE\nload 4 [0]\nexpect no fault');
  });

  it('explains names that have no value', () => {
    assert.equal(
      one('load 4 [uart]'),
      "1:9 unknown-name 'uart' has no value: give it one before this line with let uart = …",
    );
    assert.equal(one('let uart = 0\nload 4 [uat]'), "2:9 unknown-name 'uat' has no value; did you mean 'uart'?");
    assert.equal(one('load 4 [low]'), "1:9 unknown-name the address is a number, but 'low' is a backing");
    assert.equal(one('let a = 1\nlet a = 2'), "2:5 twice 'a' is defined twice: choose another name");
    assert.match(one('let W = 1'), /^1:5 name-taken 'W' is also the name of a flag/);
  });

  it('explains numbers', () => {
    assert.equal(
      one('load 4 [12ab]'),
      "1:9 number the address: '12ab' is not a number: hexadecimal needs a prefix, write 0x12ab",
    );
    assert.equal(
      one('dword 0 = 0x1_0000_0000'),
      '1:11 number dword: 0x100000000 is too large, the largest value is 0xffffffff',
    );
    assert.equal(one('load 3 [0]'), '1:6 access-size load takes 1, 2, 4, 8 or 16 bytes, not 3');
    assert.equal(one('store 1 [0] = 256'), '1:15 number store: 0x100 is too large, the largest value is 0xff');
    assert.match(one('load 4 [0xffffffffffffffff+1]'), /does not fit 64 bits/);
    assert.match(one('bytes 0 = 8b0'), /'8b0' is not a run of bytes: write two hexadecimal digits a byte without 0x/);
    assert.match(one('memslot add as 2 id 1 gpa 4M size 4K host low'), /address-space address space 2 does not exist/);
  });

  it('explains backings and frames', () => {
    assert.equal(
      one('memslot add id 1 gpa 4M size 4K host lo'),
      "1:38 unknown-backing host must name a backing, but 'lo' is none; did you mean 'low'?",
    );
    assert.equal(
      one('memslot add id 1 gpa 4M size 4K host 0x1000'),
      '1:38 unknown-backing host must name a backing, but a number is none; write one of low, with an offset if needed (low+0x1000)',
    );
    assert.equal(
      onlyFinding('memslot add id 1 gpa 4M size 4K host low').message,
      "host must name a backing, but 'low' is none: there is none yet, map one before this line with backing NAME SIZE",
    );
    assert.match(
      one('memslot add id 1 gpa 4M size 4M host low'),
      /beyond-backing the slot reaches beyond backing 'low'/,
    );
    assert.match(one('qword low+2M = 1'), /beyond-backing offset 0x200000 lies beyond backing 'low'/);
    assert.match(one('bytes low+0x1fffff = 0102'), /2 bytes from offset 0x1fffff reach beyond/);
    assert.match(one('qword as 1 low = 1'), /a backing has no address space/);
    assert.match(one('qword low|1 = 1'), /added to a backing with \+/);
    assert.match(one('backing low 4K'), /'low' is defined twice/);
    assert.match(one('backing x 1K'), /unaligned a backing is a multiple of 4K, not 0x400 bytes/);
    assert.match(one('backing x 1M huge'), /unaligned a huge backing is a multiple of 2M/);
    assert.match(one('backing x 4K hva 0x7f0000000010'), /unaligned hva must be a multiple of 4K/);
    assert.match(one('frames lo 0: 1'), /'lo' is not a backing; did you mean 'low'\?/);
    assert.match(one('frames low 1: 1'), /start at a multiple of 4K/);
    assert.match(one('frames low 0x1ff000: 1 2'), /2 frames from offset 0x1ff000 reach beyond/);
    assert.match(one('frames low 0: 5..4'), /runs backwards/);
    assert.match(one('frames low 0: 0x1000000000000'), /is not a host frame number/);
    assert.match(one('backing h 2M huge\nframes h 0: 3'), /frames are multiples of 0x200/);
    none('frames low 0: 0x29d1 0x3102..0x3108\nbacking h 4M huge\nframes h 0: 0x400..0x600');
    assert.match(one('invalidate low size 1'), /whole pages/);
    assert.match(one('invalidate low size 4M'), /reaches beyond backing/);
  });

  it('explains vCPUs and registers', () => {
    assert.equal(one('vcpu 2 { cr0 PE }'), '1:6 unknown-vcpu vCPUs are created in order: the next one is vcpu 1');
    assert.match(one('vcpu 0 { cr0 PE }'), /vCPU 0 exists already; to change its registers write: vcpu 0: setregs/);
    assert.match(one('vcpu 3: hlt'), /vCPU 3 does not exist here: create it before this line/);
    assert.match(onlyFinding('hlt').message, /there is no vCPU yet: create one/);
    assert.match(one('setregs { cr1 0 }'), /'cr1' is not a register; did you mean 'cr0'\?/);
    assert.match(one('setregs { cpl 4 }'), /cpl is 0, 1, 2 or 3, not 4/);
    assert.match(one('setregs { code 8 }'), /code is 16, 32 or 64/);
    assert.match(one('setregs { idt 0x1000 }'), /idt needs its limit/);
    assert.match(one('setregs { rax 1 limit 3 }'), /rax has no limit/);
    assert.match(one('setregs { cr3 none }'), /only descriptor tables can be none/);
    assert.match(one('setregs { rax 1 rax 2 }'), /'rax' is set twice/);
    assert.match(one('mov efer, 1'), /'efer' is not cr0, cr2, cr3 or cr4; EFER is written with wrmsr/);
    none('setregs { idt 0x4000 limit 0xfff  gdt none  rax 1 }');
  });

  it('explains page tables', () => {
    assert.match(
      onlyFinding('vcpu 0 { cr0 PE }\nmap 0 -> 0').message,
      /say where they are before this line with tables at/,
    );
    assert.match(one('map 0x1001 -> 0'), /gva 0x1001 is not a multiple of the page size 4K/);
    assert.match(one('map 0 -> 0x1000 2M'), /gpa 0x1000 is not a multiple of the page size 2M/);
    assert.match(one('map 0 -> 0 8K'), /page-size '8K' is not a page size/);
    assert.match(one('tables at 0x10001'), /write tables at 0x10000/);
  });

  it('keeps statements on lines of their own', () => {
    assert.equal(one('hlt nop'), '1:5 one-a-line one statement a line: put `nop` on a line of its own');
    assert.match(one('repeat 2 { hlt }'), /one-a-line/);
    assert.match(one('repeat 2 {\n}'), /empty-repeat/);
    assert.match(one('repeat 2 {\n  backing x 4K\n}'), /in-repeat backing can be done once only/);
  });

  it('knows what an expect is about', () => {
    assert.match(one('expect value 1'), /`expect value 1` is about the instruction before it, but `map 0 ->` is none/);
    assert.match(
      one('load 4 [0]\nexpect errno EEXIST'),
      /`expect errno` is about the ioctl before it, but `load 4 \[0\]` is none/,
    );
    assert.match(one('load 4 [0]\nexpect dirty 1'), /known after dirty_log get/);
    assert.match(onlyFinding('expect event kvm_entry').message, /there is none/);
    assert.match(one('load 4 [0]\nexpect no event kvm_entry times 2'), /exclude each other/);
    assert.match(one('load 4 [0]\nexpect event kvm_entyr'), /'kvm_entyr' is not an event; did you mean 'kvm_entry'\?/);
    assert.match(
      one('load 4 [0]\nexpect event kvm_entry rp 1'),
      /kvm_entry has no field 'rp'; did you mean 'rip'\? It can be rip or vcpu/,
    );
    assert.match(one('load 4 [0]\nexpect end dead'), /'dead' is not a way to end; /);
    assert.match(one('load 4 [0]\nexpect #XX'), /'#XX' is not an exception/);
    assert.match(one('load 4 [0]\nexpect #UD error 0'), /#UD has no error code/);
    assert.match(one('load 4 [0]\nexpect #GP cr2 0'), /only #PF sets CR2/);
    assert.match(one('expect spte gfn 1 is mapped'), /an spte is not 'mapped'/);
    assert.match(one('expect spte gfn 1 level 0 is leaf'), /there is no level 0/);
    assert.match(one('expect smmm 1'), /'smmm' is not something to expect; did you mean 'smm'\?/);
    assert.match(one('memslot delete id 0\nexpect errno EBADF'), /'EBADF' is not an errno of these ioctls/);
    none('load 4 [0]\nnote "still about the load"\nexpect value 0\nexpect end done\nexpect exits 0');
  });

  it('says nothing about what follows from a line that is wrong already', () => {
    const { diagnostics } = parseScenario(`${GUEST}lod 4 [0]\nexpect value 1\nload 3 [0]\nexpect value 1\n`);
    assert.deepEqual(
      diagnostics.map((d) => [d.line - GUEST_LINES, d.code]),
      [
        [1, 'syntax'],
        [2, 'expect-subject'],
        [3, 'access-size'],
      ],
    );
  });

  it('warns of dirty log calls that need another setting', () => {
    assert.match(
      one('memslot flags id 0 LOG_DIRTY_PAGES\ndirty_log clear id 0'),
      /write dirty_log manual-protect in the machine block/,
    );
    assert.match(one('memslot flags id 0 LOG_DIRTY_PAGES\ndirty_log get id 0 gpa 0 size 4K'), /reports a whole slot/);
    assert.match(one('memslot move id 9 gpa 4M'), /address space 0 has no slot 9 here, so there is nothing to change/);
  });
});
