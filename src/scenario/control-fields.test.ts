import assert from 'node:assert/strict';
import { VMCB_FIELDS, VMCB_SEGMENTS, Vmcb } from '../hw/vmcb';
import { PhysMemory } from '../hw/memory';
import { segmentFromVmcs, VMCS } from '../hw/vmcs';
import {
  SEGMENT_KINDS,
  VMCB,
  VMCB_SEGMENT_NAMES,
  vmcbSegment,
  VMCS_ENCODINGS,
  VMCS_FIELDS,
  VMCS_SEGMENT_NAMES,
  vmcsSegment,
} from './control-fields';
import { exampleText, REFERENCE } from './reference';
import { parseScenario } from './parse';
import { failures, inGuest, onlyFinding, runAll } from './testing/helpers';

/** A guest hypervisor that is ready to run its guest, and more lines. */
const l1 = (kind: 'vmx' | 'svm', more: string): string => {
  const entry = REFERENCE.find((e) => e.words === (kind === 'vmx' ? 'vmxoff' : 'stgi'));
  assert.ok(entry);
  return exampleText({ ...entry, example: more });
};
const run = (kind: 'vmx' | 'svm', more: string): string[] => failures(runAll(l1(kind, more)).outcomes);

describe('fields of control blocks', () => {
  it('have names that are unique and sizes that do not overlap', () => {
    for (const list of [VMCB, VMCS_FIELDS]) assert.equal(new Set(list.map((f) => f.name)).size, list.length);
    const sorted = [...VMCB].sort((a, b) => a.at - b.at);
    for (const [i, f] of sorted.entries())
      if (i > 0)
        assert.ok(sorted[i - 1].at + sorted[i - 1].size <= f.at, `${sorted[i - 1].name} reaches into ${f.name}`);
    for (const f of VMCB) assert.ok(f.at + f.size <= 0x670 && f.doc.includes('VMCB offset'));
  });

  it('cover the tables of the processor', () => {
    const offsets = new Set(VMCB.flatMap((f) => Array.from({ length: f.size }, (_, i) => f.at + i)));
    const later = ['intercept_word5', 'int_vector', 'exit_code_hi'];
    for (const [name, { offset }] of Object.entries(VMCB_FIELDS))
      assert.ok(offsets.has(offset) || later.includes(name), name);
    assert.deepEqual(
      VMCS_FIELDS.map((f) => f.at),
      Object.values(VMCS),
    );
    assert.equal(VMCS_ENCODINGS.length, VMCS_FIELDS.length);
  });

  it('flags of a field fit its size', () => {
    for (const f of [...VMCB, ...VMCS_FIELDS])
      for (const flag of f.flags ?? []) assert.ok(flag.bit >> BigInt(8 * f.size) === 0n, `${f.name} ${flag.name}`);
  });

  it('flat segments are the same in a VMCB, in a VMCS and for the processor', () => {
    assert.deepEqual(
      VMCB_SEGMENT_NAMES,
      Object.keys(VMCB_SEGMENTS).filter((n) => !/dtr$/.test(n) || n === 'ldtr'),
    );
    for (const kind of SEGMENT_KINDS) {
      const mem = new PhysMemory();
      for (const { at, size, value } of vmcbSegment('cs', kind))
        for (let i = 0; i < size; i++) mem.write8(at + i, Number((value >> BigInt(8 * i)) & 0xffn));
      const parts = new Map(vmcsSegment('guest_cs', kind).map(({ at, value }) => [at, value]));
      const of = (name: keyof typeof VMCS): number => Number(parts.get(VMCS[name]));
      const vmx = segmentFromVmcs(of('guest_cs_selector'), 0n, of('guest_cs_limit'), of('guest_cs_ar_bytes'));
      assert.deepEqual({ ...new Vmcb(mem, 0).segment('cs') }, { ...vmx }, kind.name);
    }
    assert.equal(VMCS_SEGMENT_NAMES.length, 8);
  });
});

describe('statements of a guest hypervisor', () => {
  it('say what is wrong with a field', () => {
    assert.deepEqual(inGuest('vmcb 0xa000 { n_cr 0x20000 }'), [
      "1:15 unknown-field 'n_cr' is not a field of a VMCB; did you mean 'n_cr3'?",
    ]);
    assert.match(inGuest('vmcb 0xa000 { intercept HALT }')[0], /unknown-flag 'HALT' is not a flag of intercept/);
    assert.match(inGuest('vmcb 0xa000 { guest_asid 0x100000000 }')[0], /too large, the largest value is 0xffffffff/);
    assert.match(
      inGuest('vmcb 0xa000 { cs 8 }')[0],
      /cs takes a flat segment \(CODE64, .*write cs\.selector, cs\.attrib/,
    );
    assert.match(inGuest('vmcb 0xa000 { cs CODE }')[0], /did you mean 'CODE(64|32)'\?/);
    assert.match(inGuest('vmcb 0xa010 { rip 0 }')[0], /unaligned a VMCB is a page: write vmcb 0xa000/);
    assert.match(inGuest('vmcb 0xa000 { rip 0  rip 1 }')[0], /'rip' is set twice/);
    assert.match(
      inGuest('vmcb 0xa000 { }')[0],
      /this statement is not complete; write: vmcb \(as AS\)\? GPA \{ FIELD VALUE … \}/,
    );
    assert.match(inGuest('vmcb 8M { rip 0 }')[0], /no memslot of address space 0 holds gpa 0x800000/);
    assert.match(inGuest('expect vmcb 0xa000 exit 1')[0], /'exit' is not a field of a VMCB; did you mean '/);
    assert.match(onlyFinding(l1('vmx', 'vmwrite guest_ripp, 1')).message, /did you mean 'guest_rip'\?/);
    assert.match(onlyFinding(l1('vmx', 'vmwrite { eptpointer 1 }')).message, /did you mean 'ept_pointer'\?/);
    assert.match(onlyFinding(l1('vmx', 'invept single')).message, /invept single needs the EPTP/);
    assert.match(onlyFinding(l1('vmx', 'invvpid address, 1')).message, /write invvpid address, VPID, \[GVA\]/);
    assert.match(onlyFinding(l1('vmx', 'vmwrite {\n  guest_rip 1 guest\n}')).message, /expected/);
    assert.match(onlyFinding(l1('vmx', 'vmwrite {\n  = 1\n}')).message, /'=' is not a field of a VMCS/);
  });

  it('warn where the guest has no such instructions', () => {
    const { diagnostics } = parseScenario(l1('svm', 'vmlaunch'));
    assert.match(diagnostics[0].message, /vmlaunch is an instruction of Intel processors and raises #UD here/);
    assert.deepEqual(inGuest('vmlaunch'), [
      '1:1 feature vmlaunch raises #UD: the guest lacks the feature vmx; add it to features in the machine block',
    ]);
    assert.deepEqual(inGuest('vmlaunch\nexpect #UD'), []);
    assert.deepEqual(parseScenario(l1('vmx', 'vmwrite { }')).diagnostics.length, 1);
    assert.deepEqual(run('svm', 'vmlaunch\nexpect #UD'), []);
  });

  it('write a VMCB that VMRUN takes, and read what #VMEXIT left', () => {
    assert.deepEqual(
      run(
        'svm',
        'vmrun 0xa000\nexpect guest_mode 1\nexpect rax 0\nhlt\nexpect vmcb 0xa000 exitcode HLT rip 0x1000\nexpect rax 0xa000',
      ),
      [],
    );
    const { outcomes } = runAll(l1('svm', 'vmrun 0xa000\nhlt\nexpect vmcb 0xa000 exitcode NPF'));
    assert.equal(outcomes.at(-1)?.expect?.actual, 'exitcode HLT (0x78)');
  });

  it('write the fields of a VMCS one by one', () => {
    assert.deepEqual(
      run(
        'vmx',
        `vmwrite {
  guest_ds DATA
  guest_rip 0x2000
  cpu_based_vm_exec_control DEFAULT1|HLT_EXITING|INVLPG_EXITING
}
expect vmcs guest_ds_selector 0x10 guest_ds_ar_bytes 0xc093 guest_rip 0x2000
vmread guest_ds_limit
expect value 0xffffffff
vmread 0x681e
expect value 0x2000
vmptrst
expect value 0xe000
vmlaunch
expect event kvm_nested_vmenter nested_rip 0x2000 vmcb 0xe000
invlpg [0x1000]
expect guest_mode 0
expect vmcs vm_exit_reason INVLPG
vmlaunch
expect vmcs vm_instruction_error 4
vmresume
expect guest_mode 1`,
      ),
      [],
    );
  });

  it('stop a block of VMWRITEs at the one that does not come to its end', () => {
    const { outcomes } = runAll(l1('vmx', 'vmxoff\nvmwrite { guest_rip 1  guest_rsp 2 }\nexpect #UD'));
    assert.equal(outcomes.at(-1)?.expect?.ok, true);
    const none = runAll(l1('vmx', 'vmxoff\nexpect vmcs guest_rip 0'));
    assert.equal(none.outcomes.at(-1)?.expect?.actual, 'no current VMCS: vmptrld makes one current');
    const other = runAll(l1('svm', 'expect vmcs guest_rip 0'));
    assert.match(other.outcomes.at(-1)?.expect?.actual ?? '', /no nested VMX/);
  });

  it('invalidate', () => {
    assert.deepEqual(
      run(
        'vmx',
        'invept global\ninvvpid global\ninvvpid single, 3\ninvvpid address, 3, [0x1000]\ninvept single, 0x2001e',
      ),
      [],
    );
    assert.deepEqual(run('vmx', 'invept single, 0x20000\nexpect vmcs vm_instruction_error 28'), []);
    assert.deepEqual(run('svm', 'invlpga [0x1000], 1\nexpect rax 0x1000\nexpect rcx 1\nexpect no tlb 0x1000'), []);
    assert.deepEqual(run('svm', 'clgi\nstgi\nvmsave 0xa000\nvmload 0xa000\nexpect no fault'), []);
  });

  it('goes on with L2 after VMPTRLD of another VMCS and back', () => {
    assert.deepEqual(
      run(
        'vmx',
        'dword 0xf000 = 0x11e57ed0\nvmptrld 0xf000\nexpect vmcs guest_rip 0\nvmptrld 0xe000\nexpect vmcs guest_rip 0x1000\nvmlaunch\nexpect guest_mode 1',
      ),
      [],
    );
  });
});
