/** The reference of what orders and marks a scenario, and of what looks at or spoils the whole machine. */
import type { ReferenceEntry } from './reference-entry';

/** Statements of the group order, in the order of the reference. */
export const ORDER_STATEMENTS: readonly ReferenceEntry[] = [
  {
    words: 'audit',
    rule: 'Audit',
    group: 'order',
    syntax: 'audit',
    doc: 'Checks all invariants of KVM’s MMU (docs/audit.md). One that does not hold ends the scenario, unless an `expect audit` follows.',
    example: 'audit',
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
];
