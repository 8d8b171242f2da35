/** What the examples of the reference take as given, and how an example becomes a scenario that runs. */
import type { ReferenceEntry } from './reference-entry';

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
