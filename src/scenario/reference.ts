/**
 * The language in words: one entry for each statement and each form of `expect`. Hover, completion, the usage line of syntax
 * errors and docs/language.md come from here; a test holds it against the grammar and parses every example.
 */

export type ReferenceGroup = 'machine' | 'memory' | 'vcpu' | 'guest' | 'nested' | 'order' | 'expect';

export interface ReferenceEntry {
  /** the words that introduce it: `memslot add`, `expect mmio` */
  readonly words: string;
  /** parser rule of mmu.langium */
  readonly rule: string;
  readonly group: ReferenceGroup;
  /** `x?` and `(x y)?` optional, `x|y` either, `…` more of the same, capitals stand for values; brackets and braces are written */
  readonly syntax: string;
  /** one or two sentences */
  readonly doc: string;
  /** lines that parse without a finding after {@link EXAMPLE_PRELUDE} */
  readonly example: string;
  /** kernel of the prelude, where the example needs another one */
  readonly kernel?: string;
  /** the example is of a guest hypervisor, which {@link NESTED_PRELUDES} sets up */
  readonly nested?: 'vmx' | 'svm';
}

/** What the examples take as given. */
export const EXAMPLE_PRELUDE = `machine {
  kernel v6.1
  vendor intel
  dirty_log manual-protect
}
backing low 2M
backing data 2M
let uart = 0x10000000
memslot add id 0 gpa 0 size 2M host low
memslot add as 1 id 0 gpa 0 size 2M host low
vcpu 0 { cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE }
vcpu 1 { cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE }
tables at 0x10000
map 0 -> 0 W count 64
map 0x209000 -> uart W
load 4 [0x1000]
`;

/** What examples of guest hypervisors take as given beside that: L1 has a guest ready that begins at 0x1000. */
export const NESTED_PRELUDES: Readonly<Record<'vmx' | 'svm', string>> = {
  vmx: `mov cr4, PAE|VMXE
dword 0xd000 = 0x11e57ed0
dword 0xe000 = 0x11e57ed0
vmxon 0xd000
vmclear 0xe000
vmptrld 0xe000
vmwrite {
  pin_based_vm_exec_control DEFAULT1
  cpu_based_vm_exec_control DEFAULT1|HLT_EXITING
  vm_exit_controls DEFAULT1|HOST_ADDR_SPACE_SIZE
  vm_entry_controls DEFAULT1|IA32E_MODE
  guest_cs CODE64  guest_ss DATA  guest_ds DATA  guest_es DATA  guest_tr TSS
  guest_cr0 PG|WP|NE|ET|PE  guest_cr3 0x10000  guest_cr4 PAE|VMXE  guest_rip 0x1000  guest_rflags FIXED
  host_cr0 PG|WP|NE|ET|PE  host_cr3 0x10000  host_cr4 PAE|VMXE  host_rip 0x1100
  host_cs_selector 8  host_ss_selector 0x10  host_ds_selector 0x10  host_es_selector 0x10  host_tr_selector 0x38
}
`,
  svm: `wrmsr EFER, LME|LMA|NXE|SVME
vmcb 0xa000 {
  intercept HLT|SHUTDOWN|VMRUN  guest_asid 1
  cs CODE64  ss DATA  ds DATA  es DATA
  cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE|SVME
  rip 0x1000  rflags FIXED
}
`,
};

/** An entry's example as a scenario that runs. */
export function exampleText(e: ReferenceEntry): string {
  if (e.words === 'machine') return e.example;
  const prelude = EXAMPLE_PRELUDE.replace('kernel v6.1', `kernel ${e.kernel ?? 'v6.1'}`);
  if (!e.nested) return prelude + e.example;
  const vendor =
    e.nested === 'vmx' ? 'vendor intel\n  features nx, lm, vmx' : 'vendor amd\n  features nx, lm, svm, npt';
  return prelude.replace('vendor intel', vendor) + NESTED_PRELUDES[e.nested] + e.example;
}

/** Titles of the groups, in the order of the reference. */
export const GROUPS: Readonly<Record<ReferenceGroup, string>> = {
  machine: 'The machine',
  memory: 'Memory and memslots: what user space does',
  vcpu: 'vCPUs and guest page tables',
  guest: 'What the guest does',
  nested: 'What a guest hypervisor does',
  order: 'Order and markers',
  expect: 'What must be true',
};

export const REFERENCE: readonly ReferenceEntry[] = [
  {
    words: 'machine',
    rule: 'Machine',
    group: 'machine',
    syntax: 'machine { SETTING VALUE … }',
    doc: 'The host, its KVM and the CPUID of the guest. Comes first and once; what is not set has the default of the table below.',
    example:
      'machine {\n  kernel v6.1\n  vendor intel\n  paging ept\n  maxphyaddr 46\n  features nx, lm, smep, smap, pdpe1gb\n}',
  },
  {
    words: 'let',
    rule: 'Constant',
    group: 'machine',
    syntax: 'let NAME = VALUE',
    doc: 'Names a number. The name can stand wherever a number can, also in a sum (uart+4).',
    example: 'let timer = 0xfed00000',
  },
  {
    words: 'backing',
    rule: 'Backing',
    group: 'memory',
    syntax: 'backing NAME SIZE huge? readonly? (hva ADDRESS)?',
    doc: 'User space maps SIZE bytes of anonymous host memory. `huge`: of 2M host pages. `readonly`: the host mapping refuses writes. `hva`: at this host-virtual address, else at a free one.',
    example: 'backing big 4M huge\nbacking rom 64K readonly\nbacking fixed 2M hva 0x7fc59bc00000',
  },
  {
    words: 'frames',
    rule: 'Frames',
    group: 'memory',
    syntax: 'frames BACKING OFFSET: PFN|FIRST..LAST …',
    doc: 'Pins the host frames behind a backing, one for each 4K from OFFSET on (one for each 2M of a huge backing). Without it frames are given out in order on first use. Taken from a real run, it makes sptes comparable bit by bit.',
    example: 'frames low 0: 0x29d1 0x3102 0x29cd..0x29cf',
  },
  {
    words: 'memslot add',
    rule: 'Memslot',
    group: 'memory',
    syntax: 'memslot add (as AS)? id ID gpa GPA size SIZE host BACKING(+OFFSET)? (flags FLAGS)?',
    doc: 'KVM_SET_USER_MEMORY_REGION with a new slot: guest frames from GPA on are backed by host memory. `as 1` is the address space of SMM. `hva ADDRESS` in place of `host` gives userspace_addr raw.',
    example:
      'memslot add id 1 gpa 2M size 2M host data flags LOG_DIRTY_PAGES\nmemslot add as 1 id 1 gpa 2M size 1M host data+1M',
  },
  {
    words: 'memslot move',
    rule: 'Memslot',
    group: 'memory',
    syntax: 'memslot move (as AS)? id ID gpa GPA',
    doc: 'KVM_SET_USER_MEMORY_REGION with another guest address for an existing slot.',
    example: 'memslot move id 0 gpa 16M',
  },
  {
    words: 'memslot flags',
    rule: 'Memslot',
    group: 'memory',
    syntax: 'memslot flags (as AS)? id ID FLAGS',
    doc: 'KVM_SET_USER_MEMORY_REGION with other flags for an existing slot: how dirty logging is turned on and off.',
    example: 'memslot flags id 0 LOG_DIRTY_PAGES\nmemslot flags id 0 0',
  },
  {
    words: 'memslot delete',
    rule: 'Memslot',
    group: 'memory',
    syntax: 'memslot delete (as AS)? id ID',
    doc: 'KVM_SET_USER_MEMORY_REGION with memory_size 0.',
    example: 'memslot delete id 0',
  },
  {
    words: 'qword',
    rule: 'Write',
    group: 'memory',
    syntax: 'qword (as AS)? GPA|BACKING+OFFSET = VALUE …',
    doc: 'User space writes guest memory through its own mapping, 8 bytes a value, at rising addresses. KVM and the processor do not take part.',
    example: 'qword 0x10000 = 0x11007 0 0x12007\nqword low+0x8000 = 0x83',
  },
  {
    words: 'dword',
    rule: 'Write',
    group: 'memory',
    syntax: 'dword (as AS)? GPA|BACKING+OFFSET = VALUE …',
    doc: 'As qword with 4 bytes a value.',
    example: 'dword 0x2000 = 0x11111111',
  },
  {
    words: 'word',
    rule: 'Write',
    group: 'memory',
    syntax: 'word (as AS)? GPA|BACKING+OFFSET = VALUE …',
    doc: 'As qword with 2 bytes a value.',
    example: 'word 0x2000 = 0x1234 0x5678',
  },
  {
    words: 'byte',
    rule: 'Write',
    group: 'memory',
    syntax: 'byte (as AS)? GPA|BACKING+OFFSET = VALUE …',
    doc: 'As qword with 1 byte a value.',
    example: 'byte 0x2000 = 0xf4',
  },
  {
    words: 'bytes',
    rule: 'Write',
    group: 'memory',
    syntax: 'bytes (as AS)? GPA|BACKING+OFFSET = HEX …',
    doc: 'User space writes a string of bytes: two hexadecimal digits each, without 0x, with or without spaces.',
    example: 'bytes 0x1000 = 8b 03 f4\nbytes as 1 0x38000 = 0faa',
  },
  {
    words: 'invalidate',
    rule: 'Invalidate',
    group: 'memory',
    syntax: 'invalidate BACKING(+OFFSET)? size SIZE',
    doc: 'The host takes the pages of a range away (madvise, migration): the MMU notifier unmaps them, and the next access finds fresh pages of zeros.',
    example: 'invalidate low+64K size 4K',
  },
  {
    words: 'dirty_log get',
    rule: 'DirtyLog',
    group: 'memory',
    syntax: 'dirty_log get (as AS)? id ID',
    doc: 'KVM_GET_DIRTY_LOG of a slot. What it reports is tested with `expect dirty`.',
    example: 'memslot flags id 0 LOG_DIRTY_PAGES\ndirty_log get id 0\nexpect no dirty',
  },
  {
    words: 'dirty_log clear',
    rule: 'DirtyLog',
    group: 'memory',
    syntax: 'dirty_log clear (as AS)? id ID (gpa GPA size SIZE)?',
    doc: 'KVM_CLEAR_DIRTY_LOG of a slot or a part of it: clears the bits and arms the pages again. Goes with `dirty_log manual-protect` in the machine block.',
    example: 'memslot flags id 0 LOG_DIRTY_PAGES\ndirty_log clear id 0 gpa 0 size 256K',
  },
  {
    words: 'subpages set',
    rule: 'Subpages',
    group: 'memory',
    syntax: 'subpages set gfn GFN access MAP … (count N)?',
    doc: 'KVM_SUBPAGES_SET_ACCESS: an access map for each page from GFN on, or one for N pages. Bit i of a map is 1 if the 128 bytes at 128 * i are writable. Kernels spp-rfc-2018 and spp-v12 with EPT have it.',
    example: 'subpages set gfn 5 access 0xfffffffe\nstore 4 [0x5000] = 1\nexpect end spp',
    kernel: 'spp-v12',
  },
  {
    words: 'subpages get',
    rule: 'Subpages',
    group: 'memory',
    syntax: 'subpages get gfn GFN (count N)?',
    doc: 'KVM_SUBPAGES_GET_ACCESS. What it reports is tested with `expect subpages`.',
    example: 'subpages get gfn 5 count 2\nexpect subpages 0xffffffff 0xffffffff',
    kernel: 'spp-v12',
  },
  {
    words: 'audit',
    rule: 'Audit',
    group: 'order',
    syntax: 'audit',
    doc: 'Checks all invariants of KVM’s MMU (docs/audit.md). One that does not hold ends the scenario, unless an `expect audit` follows.',
    example: 'audit',
  },
  {
    words: 'vcpu',
    rule: 'Vcpu',
    group: 'vcpu',
    syntax: 'vcpu INDEX { REGISTER VALUE … }',
    doc: 'KVM_CREATE_VCPU, then KVM_SET_CPUID2 and KVM_SET_SREGS with these registers. Registers that are not named have the reset value; segments follow from CR0, EFER and cpl.',
    example: 'vcpu 2 {\n  cr0 PG|WP|NE|ET|PE\n  cr3 0x10000\n  cr4 PAE\n  efer LME|LMA|NXE\n  cpl 0\n  idt none\n}',
  },
  {
    words: 'setregs',
    rule: 'SetRegs',
    group: 'vcpu',
    syntax: '(vcpu N:)? setregs { REGISTER VALUE … }',
    doc: 'KVM_SET_SREGS and KVM_SET_REGS by user space, with the reset of the MMU context that they cause. Registers that are not named keep their value.',
    example: 'setregs { cr4 PAE|SMEP|SMAP }\nvcpu 1: setregs { cr3 0x11000 }',
  },
  {
    words: 'tables',
    rule: 'Tables',
    group: 'vcpu',
    syntax: 'tables at GPA (as AS)?',
    doc: 'Where `map` takes new guest page-table pages from, upwards. The page that CR3 points to is left out.',
    example: 'tables at 0x10000',
  },
  {
    words: 'map',
    rule: 'MapPages',
    group: 'vcpu',
    syntax: '(vcpu N:)? map GVA -> GPA (4K|2M|4M|1G)? FLAGS? (count N)?',
    doc: 'User space writes guest page-table entries of the paging mode that the vCPU is in, from its CR3 down; tables on the way are made writable and user. FLAGS are those of the leaf; without W, U, NX it is read-only, supervisor, executable. `count`: that many pages in a row.',
    example: 'map 0 -> 0 W count 64\nmap 0x200000 -> 0x200000 2M W|U|NX',
  },
  {
    words: 'unmap',
    rule: 'UnmapPages',
    group: 'vcpu',
    syntax: '(vcpu N:)? unmap GVA (count N)?',
    doc: 'User space clears guest page-table entries. Nothing is flushed.',
    example: 'map 0x5000 -> 0x5000 W\nunmap 0x5000',
  },
  {
    words: 'load',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? load SIZE [GVA] user? ac? (at RIP)?',
    doc: 'The guest reads SIZE bytes (1, 2, 4, 8, 16) at a linear address. `user`: at CPL 3. `ac`: with RFLAGS.AC. `at`: by an instruction at RIP, whose fetch is simulated too.',
    example: 'load 4 [0x209000]\nload 8 [uart+8] user at 0x1000',
  },
  {
    words: 'store',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? store SIZE [GVA] = VALUE user? ac? (at RIP)?',
    doc: 'The guest writes SIZE bytes at a linear address.',
    example: 'store 4 [0x2000] = 0x51515151\nvcpu 1: store 1 [0x2000] = 7 user',
  },
  {
    words: 'rmw',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? rmw SIZE [GVA] + VALUE user? ac? (at RIP)?',
    doc: 'The guest adds to SIZE bytes in one locked read-modify-write (LOCK XADD). The old value is the statement’s value.',
    example: 'rmw 4 [0x2000] + 1',
  },
  {
    words: 'fetch',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? fetch [GVA] user?',
    doc: 'The guest fetches an instruction at a linear address. Nothing is executed.',
    example: 'fetch [0x1000] user',
  },
  {
    words: 'mov',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? mov cr0|cr2|cr3|cr4, VALUE',
    doc: 'MOV to a control register by the guest, with the #GP checks of the SDM. Bit 63 of a CR3 value keeps the TLB entries of the PCID.',
    example: 'mov cr0, PG|NE|ET|PE\nmov cr3, 0x20000',
  },
  {
    words: 'wrmsr',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? wrmsr MSR, VALUE',
    doc: 'WRMSR by the guest; the MSR by name or number.',
    example: 'wrmsr EFER, LME|LMA\nwrmsr 0x277, 0x0007040600070406',
  },
  {
    words: 'rdmsr',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? rdmsr MSR',
    doc: 'RDMSR by the guest; what it reads is the statement’s value.',
    example: 'rdmsr EFER',
  },
  {
    words: 'invlpg',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? invlpg [GVA]',
    doc: 'INVLPG by the guest: drops the translation of one address, global or not.',
    example: 'invlpg [0x200000]',
  },
  {
    words: 'invpcid',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? invpcid address|context|all|all-nonglobal, PCID (, [GVA])?',
    doc: 'INVPCID by the guest.',
    example: 'invpcid address, 1, [0x200000]\ninvpcid all, 0',
  },
  {
    words: 'wrpkru',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? wrpkru VALUE',
    doc: 'WRPKRU by the guest: two bits a key, access disable (even) and write disable (odd).',
    example: 'wrpkru 0x55555554',
  },
  {
    words: 'out',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? out PORT, VALUE',
    doc: 'OUT of one byte: an exit to user space.',
    example: 'out 0xe0, 1',
  },
  {
    words: 'in',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? in PORT',
    doc: 'IN of one byte: an exit to user space.',
    example: 'in 0x60',
  },
  {
    words: 'hlt',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? hlt',
    doc: 'HLT: ends in KVM_EXIT_HLT.',
    example: 'hlt',
  },
  {
    words: 'rsm',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? rsm',
    doc: 'RSM: leaves system management mode; outside it #UD.',
    example: 'smi\nrsm',
  },
  {
    words: 'nop',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? nop (at RIP)?',
    doc: 'NOP; with `at` its fetch is simulated. KVM serves its requests (SMI, TLB flush, new roots) before it.',
    example: 'nop',
  },
  {
    words: 'clac',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? clac',
    doc: 'Clears RFLAGS.AC: with SMAP, supervisor accesses to user pages fault.',
    example: 'clac',
  },
  {
    words: 'stac',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? stac',
    doc: 'Sets RFLAGS.AC: with SMAP, supervisor accesses to user pages are allowed.',
    example: 'stac',
  },
  {
    words: 'ud2',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? ud2',
    doc: 'Raises #UD.',
    example: 'ud2',
  },
  {
    words: 'vmcall',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? vmcall',
    doc: 'Hypercall on Intel.',
    example: 'vmcall',
  },
  {
    words: 'vmmcall',
    rule: 'Insn',
    group: 'guest',
    syntax: '(vcpu N:)? vmmcall',
    doc: 'Hypercall on AMD.',
    example: 'vmmcall',
  },
  {
    words: 'vmcb',
    rule: 'Vmcb',
    group: 'nested',
    syntax: 'vmcb (as AS)? GPA { FIELD VALUE … }',
    doc: 'User space writes fields of a VMCB in guest memory, by the names of the APM; the table below has them. `cs CODE64` and the like fill all parts of a flat segment. What is not named stays as it is.',
    example:
      'vmcb 0xa000 {\n  intercept HLT|VMRUN  guest_asid 1\n  np_enable 1  n_cr3 0x20000\n  cs CODE64  ss DATA  ds DATA  es DATA\n  cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE|SVME\n  rip 0x1000  rflags FIXED\n}',
  },
  {
    words: 'vmrun',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmrun GPA',
    doc: 'VMRUN by L1 of the VMCB at a guest-physical address, which goes into RAX first. When it has worked, the next instruction statements are those of L2, until a #VMEXIT that L1 gets.',
    example: 'vmrun 0xa000\nexpect guest_mode 1\nhlt\nexpect guest_mode 0\nexpect vmcb 0xa000 exitcode HLT',
    nested: 'svm',
  },
  {
    words: 'vmload',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmload GPA',
    doc: 'VMLOAD: FS, GS, TR, LDTR and the MSRs of SYSCALL and SYSENTER from a VMCB.',
    example: 'vmload 0xa000',
    nested: 'svm',
  },
  {
    words: 'vmsave',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmsave GPA',
    doc: 'VMSAVE: the same state into a VMCB.',
    example: 'vmsave 0xa000',
    nested: 'svm',
  },
  {
    words: 'stgi',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? stgi',
    doc: 'Sets the global interrupt flag.',
    example: 'stgi',
    nested: 'svm',
  },
  {
    words: 'clgi',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? clgi',
    doc: 'Clears the global interrupt flag.',
    example: 'clgi',
    nested: 'svm',
  },
  {
    words: 'invlpga',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? invlpga [GVA], ASID',
    doc: 'INVLPGA: drops the translation of one address of an ASID; the operands go into RAX and ECX first.',
    example: 'invlpga [0x1000], 1',
    nested: 'svm',
  },
  {
    words: 'vmxon',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmxon GPA',
    doc: 'VMXON with a region at a guest-physical address, whose first four bytes are the revision (KVM: 0x11e57ed0). The operand is given, not read from memory, here and below. CR4.VMXE has to be set.',
    example: 'vmxoff\nvmxon 0xd000',
    nested: 'vmx',
  },
  {
    words: 'vmxoff',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmxoff',
    doc: 'VMXOFF.',
    example: 'vmxoff',
    nested: 'vmx',
  },
  {
    words: 'vmclear',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmclear GPA',
    doc: 'VMCLEAR: the VMCS goes back to memory, and VMLAUNCH is what runs it.',
    example: 'vmclear 0xe000',
    nested: 'vmx',
  },
  {
    words: 'vmptrld',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmptrld GPA',
    doc: 'VMPTRLD: makes a VMCS the current one.',
    example: 'vmptrld 0xe000',
    nested: 'vmx',
  },
  {
    words: 'vmptrst',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmptrst',
    doc: 'VMPTRST; the address is the statement’s value.',
    example: 'vmptrst\nexpect value 0xe000',
    nested: 'vmx',
  },
  {
    words: 'vmread',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmread FIELD',
    doc: 'VMREAD of a field of the current VMCS, by name or encoding; what it reads is the statement’s value.',
    example: 'vmread guest_rip\nexpect value 0x1000',
    nested: 'vmx',
  },
  {
    words: 'vmwrite',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmwrite FIELD, VALUE | (vcpu N:)? vmwrite { FIELD VALUE … }',
    doc: 'VMWRITE to a field of the current VMCS; in braces one for each, in this order. `guest_cs CODE64` and the like write all parts of a flat segment.',
    example:
      'vmwrite guest_rip, 0x2000\nvmwrite {\n  guest_cs CODE64\n  ept_pointer 0x20000|WB|WALK4|AD\n}\nexpect vmcs guest_rip 0x2000 guest_cs_selector 8',
    nested: 'vmx',
  },
  {
    words: 'vmlaunch',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmlaunch',
    doc: 'VMLAUNCH by L1 of the current VMCS. When it has worked, the next instruction statements are those of L2, until a VM exit that L1 gets. When not, L1 goes on, and `expect vmcs vm_instruction_error` says why.',
    example: 'vmlaunch\nexpect guest_mode 1\nhlt\nexpect guest_mode 0\nexpect vmcs vm_exit_reason HLT',
    nested: 'vmx',
  },
  {
    words: 'vmresume',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? vmresume',
    doc: 'VMRESUME: as vmlaunch, of a VMCS that was launched.',
    example: 'vmlaunch\nhlt\nvmresume\nexpect guest_mode 1',
    nested: 'vmx',
  },
  {
    words: 'invept',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? invept single|global (, EPTP)?',
    doc: 'INVEPT: drops what was cached from L1’s EPT, of one EPTP or of all.',
    example: 'invept single, 0x2001e\ninvept global',
    nested: 'vmx',
  },
  {
    words: 'invvpid',
    rule: 'Insn',
    group: 'nested',
    syntax: '(vcpu N:)? invvpid address|single|global|single-nonglobal (, VPID (, [GVA])?)?',
    doc: 'INVVPID: drops translations of a VPID, or of all.',
    example: 'invvpid address, 1, [0x1000]\ninvvpid global',
    nested: 'vmx',
  },
  {
    words: 'run',
    rule: 'Run',
    group: 'guest',
    syntax: '(vcpu N:)? run (at RIP)? (REGISTER=VALUE …)? (limit N)?',
    doc: 'KVM_RUN with real machine code from guest memory, until an exit to user space that is not MMIO. Registers are set before. `limit`: at most that many instructions.',
    example: 'bytes 0x1000 = 8b 03 f4\nrun at 0x1000 rbx=0x2000 rax=0x11 cpl=0',
  },
  {
    words: 'smi',
    rule: 'Smi',
    group: 'guest',
    syntax: '(vcpu N:)? smi',
    doc: 'KVM_SMI: the vCPU enters system management mode, in address space 1, before its next instruction.',
    example: 'smi',
  },
  {
    words: 'poke spte',
    rule: 'Poke',
    group: 'order',
    syntax: '(vcpu N:)? poke spte gfn|gpa|gva ADDRESS (level LEVEL)? = VALUE',
    doc: 'Overwrites an entry of the tables that the processor walks for the vCPU, behind KVM’s back: to see what a defect does, and that the audit finds it. Nothing is flushed.',
    example: 'poke spte gfn 1 level 1 = 0',
  },
  {
    words: 'repeat',
    rule: 'Repeat',
    group: 'order',
    syntax: 'repeat COUNT|forever { STATEMENT … }',
    doc: 'Runs the statements again and again.',
    example: 'repeat 10 {\n  load 4 [0x2000]\n  expect no fault\n}',
  },
  {
    words: 'step',
    rule: 'Step',
    group: 'order',
    syntax: 'step NUMBER "TEXT"?',
    doc: 'A marker that ties what follows to a numbered step, of a recorded run for instance.',
    example: 'step 5 "the read-only page"',
  },
  {
    words: 'note',
    rule: 'Note',
    group: 'order',
    syntax: 'note "TEXT"',
    doc: 'Prints a line while the scenario runs.',
    example: 'note "outside SMM"',
  },
  {
    words: 'expect value',
    rule: 'ExpectValue',
    group: 'expect',
    syntax: 'expect value VALUE',
    doc: 'What the last load, rmw, rdmsr or in read.',
    example: 'expect value 0',
  },
  {
    words: 'expect #PF',
    rule: 'ExpectFault',
    group: 'expect',
    syntax: 'expect #PF (error FLAGS)? (cr2 GVA)?',
    doc: 'The last instruction raised this exception (#PF, #GP, #UD …), with this error code, at this address. Of a `run`: the last exception for which the guest’s handler was called, or the one that ended it.',
    example: 'store 4 [0x30000000] = 1\nexpect #PF error W cr2 0x30000000',
  },
  {
    words: 'expect no fault',
    rule: 'ExpectFault',
    group: 'expect',
    syntax: 'expect no fault',
    doc: 'The last instruction, or anything in the last `run`, raised no exception.',
    example: 'expect no fault',
  },
  {
    words: 'expect end',
    rule: 'ExpectEnd',
    group: 'expect',
    syntax: 'expect end done|fault|io|hlt|shutdown|error|limit',
    doc: 'How the last instruction or run ended.',
    example: 'hlt\nexpect end hlt',
  },
  {
    words: 'expect exits',
    rule: 'ExpectExits',
    group: 'expect',
    syntax: 'expect exits COUNT',
    doc: 'How many exits to user space the last instruction or run took.',
    example: 'expect exits 0',
  },
  {
    words: 'expect mmio',
    rule: 'ExpectMmio',
    group: 'expect',
    syntax: 'expect no? mmio (read|write)? (gpa GPA)? (len BYTES)? (value VALUE)?',
    doc: 'One of the exits of the last instruction was KVM_EXIT_MMIO, with these fields; with `no`: none was.',
    example: 'expect no mmio\nload 4 [0x209000]\nexpect mmio read gpa uart len 4',
  },
  {
    words: 'expect io',
    rule: 'ExpectIo',
    group: 'expect',
    syntax: 'expect no? io (in|out)? (port PORT)? (value VALUE)?',
    doc: 'One of the exits of the last instruction was KVM_EXIT_IO, with these fields; with `no`: none was.',
    example: 'out 0xe0, 1\nexpect io out port 0xe0 value 1',
  },
  {
    words: 'expect errno',
    rule: 'ExpectErrno',
    group: 'expect',
    syntax: 'expect errno 0|NAME',
    doc: 'What the last ioctl returned. An ioctl that fails without such an `expect` after it ends the scenario.',
    example: 'memslot add id 7 gpa 0 size 4K host low\nexpect errno EEXIST',
  },
  {
    words: 'expect event',
    rule: 'ExpectEvent',
    group: 'expect',
    syntax: 'expect no? event NAME (FIELD VALUE …)? (times COUNT)?',
    doc: 'During the last statement an event of this name with these fields happened (COUNT times, or at least once); with `no`: none did. Names and fields are those of the trace events.',
    example:
      'load 4 [0x2000]\nexpect event kvm_tdp_mmu_spte_changed gfn 2 level 1 old_spte 0 times 1\nexpect no event check_mmio_spte',
  },
  {
    words: 'expect why',
    rule: 'ExpectWhy',
    group: 'expect',
    syntax: 'expect why RULE',
    doc: 'A page walk of the last statement ended, in a fault or an exit, because of this rule (docs/rules.md lists them).',
    example: 'load 4 [0x30000000]\nexpect why pg.present',
  },
  {
    words: 'expect spte',
    rule: 'ExpectSpte',
    group: 'expect',
    syntax: 'expect spte gfn|gpa|gva ADDRESS (level LEVEL)? is KIND (FIELD VALUE …)?',
    doc: 'The entry for an address in the tables that the processor walks now (EPT, NPT, shadow: gva), at a level or where the walk ends. KIND is none, leaf, table, present, mmio or frozen; FIELD is gen, gfn, pfn, access or a bit of the spte layout. `= VALUE` compares the raw entry.',
    example:
      'load 4 [0x209000]\nexpect spte gpa uart is mmio gen 2\nexpect spte gfn 1 level 1 is leaf w 1\nexpect spte gfn 0x20 level 1 = 0',
  },
  {
    words: 'expect qword',
    rule: 'ExpectMemory',
    group: 'expect',
    syntax: 'expect qword|dword|word|byte (as AS)? GPA =? VALUE',
    doc: 'What guest memory holds now, read through user space’s mapping: accessed and dirty bits, stores.',
    example: 'expect qword 0x10000 = 0x11027\nexpect dword as 1 0x2000 = 0',
  },
  {
    words: 'expect vmcb',
    rule: 'ExpectVmcb',
    group: 'expect',
    syntax: 'expect vmcb (as AS)? GPA FIELD VALUE …',
    doc: 'What fields of a VMCB in guest memory hold now, after a #VMEXIT for instance.',
    example: 'vmrun 0xa000\nhlt\nexpect vmcb 0xa000 exitcode HLT',
    nested: 'svm',
  },
  {
    words: 'expect vmcs',
    rule: 'ExpectVmcs',
    group: 'expect',
    syntax: '(vcpu N:)? expect vmcs FIELD VALUE …',
    doc: 'What fields of the current VMCS of L1 hold now, as KVM has them: no VMREAD is executed.',
    example: 'vmlaunch\nhlt\nexpect vmcs vm_exit_reason HLT',
    nested: 'vmx',
  },
  {
    words: 'expect dirty',
    rule: 'ExpectDirty',
    group: 'expect',
    syntax: 'expect dirty GFN … | expect no dirty',
    doc: 'The frames that the `dirty_log get` before it reported: these and no others.',
    example:
      'memslot flags id 0 LOG_DIRTY_PAGES\nstore 4 [0x2000] = 1\ndirty_log get id 0\nexpect dirty 2 0x10 0x11 0x12 0x13',
  },
  {
    words: 'expect tlb',
    rule: 'ExpectTlb',
    group: 'expect',
    syntax: '(vcpu N:)? expect tlb GVA stale|fresh | (vcpu N:)? expect no tlb GVA',
    doc: 'What the TLB of the vCPU holds now for a linear address, in the current PCID or as a global entry. `stale`: the tables in memory no longer say the same, a flush is missing; `fresh`: they do; `no`: there is no entry, the next access walks.',
    example: 'expect tlb 0x1000 fresh\nunmap 0x1000\nexpect tlb 0x1000 stale\ninvlpg [0x1000]\nexpect no tlb 0x1000',
  },
  {
    words: 'expect subpages',
    rule: 'ExpectSubpages',
    group: 'expect',
    syntax: 'expect subpages MAP …',
    doc: 'The access maps that the `subpages get` before it reported.',
    example: 'subpages set gfn 5 access 3\nsubpages get gfn 5\nexpect subpages 3',
    kernel: 'spp-v12',
  },
  {
    words: 'expect sppte',
    rule: 'ExpectSppte',
    group: 'expect',
    syntax: 'expect sppte gfn|gpa ADDRESS (level LEVEL)? = VALUE',
    doc: 'The raw entry for a frame in the sub-page permission table; level 1, the vector of the page, unless given.',
    example: 'subpages set gfn 5 access 3\nstore 4 [0x5000] = 1\nexpect sppte gfn 5 = 0b101',
    kernel: 'spp-v12',
  },
  {
    words: 'expect audit',
    rule: 'ExpectAudit',
    group: 'expect',
    syntax: 'expect audit clean|RULE …',
    doc: 'All invariants of KVM’s MMU hold now, or these at least do not (docs/audit.md lists them).',
    example: 'expect audit clean\npoke spte gfn 1 level 1 = 0x600000000999877\nexpect audit A3',
  },
  {
    words: 'expect',
    rule: 'ExpectState',
    group: 'expect',
    syntax: '(vcpu N:)? expect REGISTER|STATE VALUE',
    doc: 'A register or a piece of state as it is now: cr0, cpl, smm, cpu_role, root_role.level, generation …',
    example: 'expect cr0 PG|WP|NE|ET|PE\nvcpu 1: expect smm 0\nexpect root_role.level 4',
  },
];

/** Words inside statements, for hover: what they introduce. */
export const CLAUSES: Readonly<Record<string, string>> = {
  as: 'Address space of the memslot or the memory access: 0 is what a vCPU sees normally, 1 what it sees in SMM. Default 0.',
  id: 'Slot id: bits 15:0 of kvm_userspace_memory_region.slot.',
  gpa: 'Guest-physical address.',
  gva: 'Guest linear address.',
  gfn: 'Guest frame number: gpa >> 12.',
  size: 'Size in bytes; 4K, 2M and 1G can be written so.',
  host: 'The backing, and the offset in it, that holds the memory.',
  hva: 'Host-virtual address in the user space process.',
  flags: 'Flags of the memslot: LOG_DIRTY_PAGES, READONLY.',
  huge: 'The host maps the backing with 2M pages.',
  readonly: 'The host mapping refuses writes.',
  at: 'The address of the instruction (RIP) or of the table pages.',
  user: 'At CPL 3.',
  ac: 'With RFLAGS.AC set: SMAP does not apply.',
  count: 'Number of pages in a row.',
  limit: 'Largest offset of a descriptor table, or the most instructions that `run` executes.',
  forever: 'Without end; the debugger’s pause or a break of the run stops it.',
  error: 'Error code of the exception, as a number or as flags: P, W, U, RSVD, F, PK, SS.',
  cr2: 'Linear address of the page fault.',
  level: 'Level of the paging structure: 1 maps 4K, 2 maps 2M, 3 maps 1G.',
  len: 'Number of bytes.',
  read: 'The guest read.',
  write: 'The guest wrote.',
  is: 'What the entry is: none, leaf, table, present, mmio or frozen.',
  times: 'How many such events, exactly.',
  no: 'The opposite: nothing like it happened.',
  event: 'An event of the run: a trace event of KVM by its name, or an event of the processor.',
  port: 'I/O port.',
  tlb: 'Translations that the processor remembers until they are flushed.',
  access: 'Access maps of pages: bit i is 1 if the 128 bytes at 128 * i are writable.',
  why: 'The rule that ended a page walk.',
  vmcb: 'The control block of a nested guest of AMD processors, by its address.',
  vmcs: 'The current VMCS of the hypervisor in the guest.',
};

/** The entry that a statement's leading words belong to: the longest match, with `vcpu N:` skipped. */
export function entryFor(words: readonly string[]): ReferenceEntry | null {
  let list = words;
  if (list[0] === 'vcpu' && list[2] === ':') list = list.slice(3);
  const shortest = list[0] === 'expect' && list[1] === 'no' ? 2 : 1;
  for (let n = Math.min(3, list.length); n >= shortest; n--) {
    const text = list.slice(0, n).join(' ');
    const found = REFERENCE.find((e) => e.words === text);
    if (found) return found;
  }
  if (list[0] === 'expect') {
    if (list[1]?.startsWith('#')) return REFERENCE.find((e) => e.words === 'expect #PF') ?? null;
    if (list[1] === 'no') return REFERENCE.find((e) => e.words === `expect ${list[2]}`) ?? null;
    if (list[1] === 'dword' || list[1] === 'word' || list[1] === 'byte')
      return REFERENCE.find((e) => e.words === 'expect qword') ?? null;
  }
  return null;
}
