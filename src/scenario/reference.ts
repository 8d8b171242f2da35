/**
 * The language in words: one entry for each statement and each form of `expect`. Hover, completion, the usage line of syntax
 * errors and docs/language.md come from here; a test holds it against the grammar and parses every example. The entries lie in the
 * files that {@link REFERENCE} joins; settings, registers and other names of values lie in tables.ts.
 */
import type { ReferenceEntry, ReferenceGroup } from './reference-entry';
import { EXPECTATIONS } from './reference-expect';
import { GUEST_STATEMENTS } from './reference-guest';
import { MACHINE_STATEMENTS } from './reference-machine';
import { NESTED_STATEMENTS } from './reference-nested';
import { ORDER_STATEMENTS } from './reference-order';

export type { ReferenceEntry, ReferenceGroup } from './reference-entry';
export { EXAMPLE_PRELUDE, exampleText, NESTED_PRELUDES } from './reference-examples';

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

/** All entries, chapter by chapter. */
export const REFERENCE: readonly ReferenceEntry[] = [
  ...MACHINE_STATEMENTS,
  ...GUEST_STATEMENTS,
  ...NESTED_STATEMENTS,
  ...ORDER_STATEMENTS,
  ...EXPECTATIONS,
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
