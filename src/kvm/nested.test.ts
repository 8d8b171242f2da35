import assert from 'node:assert/strict';
import { insnHlt, insnLoad, insnStore } from '../hw/insn';
import { segment } from '../hw/regs';
import { VMCS, VMCS_NAMES, vmcsFieldSize, type VmcsFieldName } from '../hw/vmcs';
import type { KvmEvent } from './events';
import { is_guest_mode, mmu_is_nested, type KvmVcpu } from './kvm_host';
import { Machine, machineConfig, type MachineConfig, type RunResult } from './machine';
import type { Observer } from './observer';
import { role_get } from './roles';
import type { SvmNested } from './svm_nested';
import { VMCS12_OFFSETS, Vmcs12 } from './vmcs12';
import type { VmxNested } from './vmx_nested_state';

const L1_PML4 = 0x10000;
const L2_PML4 = 0x18000;
/** root of L1's EPT or NPT; the tables below it follow page by page, the one of 0x200000.. is {@link LEAVES} */
const SECOND = 0x20000;
const LEAVES = 0x23000;
const HOLE = 0x10000000n;
const CR0 = 0x80010031n;

class Listener implements Observer {
  readonly events: KvmEvent[] = [];
  readonly frames: string[] = [];
  enter(_kind: unknown, name: string): void {
    this.frames.push(name);
  }
  leave(): void {}
  read(): void {}
  event(e: KvmEvent): void {
    this.events.push(e);
  }
  take<K extends KvmEvent['kind']>(kind: K): Extract<KvmEvent, { kind: K }>[] {
    return this.events.filter((e): e is Extract<KvmEvent, { kind: K }> => e.kind === kind);
  }
}

interface World {
  m: Machine;
  vcpu: KvmVcpu;
  l: Listener;
  q: (gpa: number, ...values: bigint[]) => void;
  bytes: (gpa: number, hex: string) => void;
  read: (gpa: number) => bigint;
}

/** L1 in 64-bit mode, tables of L2, and (unless `plain`) a second stage of L1: RWX, or what `leaf` says of pages from 2M on. */
function world(over: Partial<MachineConfig>, leaf: (page: number) => bigint): World {
  const m = new Machine(machineConfig({ kernel: 'v6.1', maxphyaddr: 46, ...over }));
  const low = m.backing('low', 0x400000);
  m.set_user_memory_region({ as_id: 0, id: 0, flags: 0, gpa: 0, size: 0x400000, hva: low.hva });
  const bytes = (gpa: number, hex: string): void => {
    assert.ok(
      m.hostWrite(
        0,
        gpa,
        Uint8Array.from(hex.match(/../g) ?? [], (h) => Number(`0x${h}`)),
      ),
    );
  };
  const q = (gpa: number, ...values: bigint[]): void => {
    const b = new Uint8Array(8 * values.length);
    values.forEach((v, i) => new DataView(b.buffer).setBigUint64(8 * i, v, true));
    assert.ok(m.hostWrite(0, gpa, b));
  };
  const read = (gpa: number): bigint =>
    new DataView((m.hostRead(0, gpa, 8) as Uint8Array).buffer).getBigUint64(0, true);
  const page = (n: number): bigint => BigInt(n) * 4096n;
  for (const root of [L1_PML4, L2_PML4]) {
    const table = (n: number): number => root + n * 0x1000;
    for (let level = 0; level < 2; level++) q(table(level), BigInt(table(level + 1)) | 7n);
    q(table(2), BigInt(table(3)) | 7n, BigInt(table(4)) | 7n);
    for (let i = 0; i < 64; i++) q(table(3) + 8 * i, page(i) | 7n);
    for (let i = 0; i < 16; i++) q(table(4) + 8 * i, page(0x200 + i) | 7n);
    q(table(4) + 8 * 16, HOLE | 7n);
  }
  q(SECOND, BigInt(SECOND + 0x1000) | 7n);
  q(SECOND + 0x1000, BigInt(SECOND + 0x2000) | 7n);
  q(SECOND + 0x2000, BigInt(LEAVES + 0x1000) | 7n, BigInt(LEAVES) | 7n);
  q(SECOND + 0x2000 + 8 * 128, BigInt(LEAVES + 0x2000) | 7n);
  const rwx = m.config.vendor === 'intel' ? 0x37n : 7n;
  for (let i = 0; i < 64; i++) q(LEAVES + 0x1000 + 8 * i, page(i) | rwx);
  for (let i = 0; i < 16; i++) q(LEAVES + 8 * i, leaf(i) && page(0x200 + i) | leaf(i));
  q(LEAVES + 0x2000, HOLE | 7n);
  bytes(0x1200, '8b03e6e0f4');
  const vcpu = m.addVcpu();
  const data = segment({ selector: 0x10 });
  const flat = { cs: segment({ selector: 8, type: 0xb, l: 1 }), ss: data, ds: { ...data }, es: { ...data } };
  m.setRegs(vcpu, { cr0: CR0, cr3: BigInt(L1_PML4), cr4: 0x20n, efer: 0xd00n, idtr: null, ...flat });
  const l = new Listener();
  m.observer = l;
  return { m, vcpu, l, q, bytes, read };
}

/** L1 with a VMCB at 0xa000; its VMRUN is at 0x1000. */
function svm(over: Partial<MachineConfig> = {}, npt = true, leaf: (page: number) => bigint = () => 7n): World {
  const w = world({ vendor: 'amd', paging: 'npt', features: ['nx', 'lm', 'svm', 'npt'], ...over }, leaf);
  const { q, bytes, m, vcpu } = w;
  q(0xa008, 0x8100000000000000n, 3n);
  q(0xa058, 1n);
  if (npt) {
    q(0xa090, 1n);
    q(0xa0b0, BigInt(SECOND));
  }
  for (const at of [0xa400, 0xa420, 0xa430]) q(at, 0xffffffff0c930010n);
  q(0xa410, 0xffffffff0a9b0008n);
  q(0xa4d0, 0x1d00n);
  q(0xa548, 0x20n, BigInt(L2_PML4), CR0, 0x400n, 0xffff0ff0n, 2n, 0x1200n);
  bytes(0x1000, '0f01d8e6e3f4');
  m.setRegs(vcpu, { efer: 0x1d00n });
  return w;
}

const run = ({ m, vcpu }: World, rip: bigint, gpr: Record<number, bigint> = {}): RunResult => {
  m.setRegs(vcpu, { rip, rflags: 2n, gpr });
  vcpu.regs.ripKnown = true;
  return m.run(vcpu, 'code');
};
const statement = ({ m, vcpu }: World, insn: ReturnType<typeof insnLoad>): RunResult => {
  vcpu.regs.ripKnown = false;
  return m.run(vcpu, insn);
};
const vmrun = (w: World, rbx = 0x200000n): RunResult => run(w, 0x1000n, { 0: 0xa000n, 3: rbx });
const port = (r: RunResult): number => {
  const e = r.exits.at(0);
  return e?.reason === 'io' ? e.port : -1;
};
const L1_PORT = 0xe3;
const L2_PORT = 0xe0;

describe('nested SVM', () => {
  it('runs L2 on shadow pages of L1 nested tables, in guest_mmu', () => {
    const w = svm();
    assert.equal(port(vmrun(w)), L2_PORT);
    assert.ok(is_guest_mode(w.vcpu) && mmu_is_nested(w.vcpu) && w.vcpu.mmu === w.vcpu.guest_mmu);
    assert.equal(w.vcpu.mmu.root.pgd, BigInt(SECOND));
    const { root_role } = w.vcpu.mmu;
    const R = w.m.roles;
    assert.equal(role_get(root_role, R.guest_mode), 1);
    assert.equal(role_get(root_role, R.cr0_wp), 0); // CR0.WP of L1 is not asked
    assert.equal(role_get(root_role, R.direct), 0);
    assert.equal(w.vcpu.nested_mmu.root_role, 0);
    assert.ok(w.l.frames.includes('kvm_init_shadow_npt_mmu'));
    assert.deepEqual(
      w.l.events.flatMap((e) => (e.kind === 'l2_enter' ? [e.reason] : [])),
      ['VMRUN'],
    );
  });

  it('keeps its own tables for guests that are not nested, whatever the kernel calls their role', () => {
    const before = svm({ kernel: 'v6.1.0' });
    vmrun(before);
    assert.equal(role_get(before.vcpu.mmu.root_role, before.m.roles.guest_mode), 0); // before the fix of 2025
    const shadow = svm({}, false);
    vmrun(shadow);
    assert.ok(shadow.vcpu.mmu === shadow.vcpu.root_mmu && !mmu_is_nested(shadow.vcpu));
    assert.equal(role_get(shadow.vcpu.mmu.root_role, shadow.m.roles.guest_mode), 1);
    assert.equal(role_get(shadow.vcpu.mmu.root_role, shadow.m.roles.direct), 1);
  });

  it('hands L1 the faults that its own tables cause, and no others', () => {
    const w = svm({}, true, (page) => (page === 1 ? 5n : page === 2 ? 0n : 7n));
    vmrun(w);
    w.l.events.length = 0;
    statement(w, insnStore(0x200008n, 4, 1n));
    assert.equal(w.l.take('kvm_nested_vmexit_inject').length, 0);
    assert.equal(w.read(LEAVES) & 0x60n, 0x60n);

    statement(w, insnStore(0x201000n, 4, 1n));
    const [e] = w.l.take('kvm_nested_vmexit_inject');
    assert.deepEqual([e.exit_code, e.exit_info1, e.exit_info2], [0x400, 0x100000007n, 0x201000n]);
    assert.deepEqual([w.read(0xa070), w.read(0xa078), w.read(0xa080)], [0x400n, 0x100000007n, 0x201000n]);
    assert.ok(!is_guest_mode(w.vcpu) && w.vcpu.mmu === w.vcpu.root_mmu && w.vcpu.walk_mmu === w.vcpu.root_mmu);
    assert.equal(w.vcpu.regs.cr3, BigInt(L1_PML4));
    assert.equal(w.read(0xa550), BigInt(L2_PML4));
    assert.equal(w.read(0x201000), 0n); // L1 must not run the instruction of L2

    w.q(0xa578, 0x1200n);
    assert.equal(port(vmrun(w, 0x202000n)), L1_PORT);
    assert.equal(w.l.take('kvm_nested_vmexit_inject').at(-1)?.exit_info1, 0x100000004n);
    w.q(LEAVES + 16, 0x202007n);
    assert.equal(port(vmrun(w, 0x202000n)), L2_PORT);
  });

  it('reflects what L1 intercepts, by bit, by port and by MSR', () => {
    const w = svm();
    vmrun(w);
    const n = w.vcpu.nested as SvmNested;
    assert.ok(n.intercepted(0x78) && n.intercepted(0x80) && !n.intercepted(0x7b));
    statement(w, insnHlt());
    assert.equal(w.l.take('kvm_nested_vmexit_inject')[0].exit_code, 0x78);

    const ports = svm();
    ports.q(0xa008, 0x8900000000000000n); // HLT, IOIO_PROT, SHUTDOWN
    ports.q(0xa040, 0x30000n);
    assert.equal(port(vmrun(ports)), L2_PORT); // the map lets it through
    ports.m.destroy();
    const stopped = svm();
    stopped.q(0xa008, 0x8900000000000000n);
    stopped.q(0xa040, 0x30000n);
    stopped.q(0x30000 + 0xe0 / 8, 1n);
    assert.equal(port(vmrun(stopped)), L1_PORT);
    assert.equal(stopped.read(0xa070), 0x7bn);
  });

  it('makes an exit of an exception that L1 intercepts, and delivers the others to L2', () => {
    const w = svm();
    w.q(0xa008, 0x8100000000004000n); // #PF
    vmrun(w);
    statement(w, insnLoad(0x280000n, 4));
    const [e] = w.l.take('kvm_nested_vmexit_inject');
    assert.deepEqual([e.exit_code, e.exit_info2], [0x4e, 0x280000n]);
    const plain = svm();
    vmrun(plain);
    const r = statement(plain, insnLoad(0x280000n, 4));
    assert.equal(r.exception?.vector, 14);
    assert.ok(is_guest_mode(plain.vcpu));
  });

  it('refuses a VMCB with a mistake in it', () => {
    for (const [at, value] of [
      [0xa010, 0n], // VMRUN not intercepted
      [0xa058, 0n], // ASID 0
      [0xa4d0, 0xd00n], // no SVME
    ] as const) {
      const w = svm();
      w.q(at, value);
      assert.equal(port(vmrun(w)), L1_PORT);
      assert.equal(w.read(0xa070), 0xffffffffn, `at 0x${at.toString(16)}`);
      assert.ok(!is_guest_mode(w.vcpu));
    }
  });

  it('drops a page of L2 from its shadow when L1 edits the entry and flushes', () => {
    const w = svm();
    vmrun(w);
    statement(w, insnHlt());
    statement(w, insnStore(BigInt(LEAVES), 8, 0x203007n)); // L1 maps another page
    assert.equal(w.l.take('kvm_mmu_unsync_page').length, 1);
    w.q(0x203000, 0x77n);
    w.q(0xa578, 0x1200n);
    const r = vmrun(w);
    assert.equal(port(r), L2_PORT);
    assert.equal(w.vcpu.regs.gpr[0], 0x77n);
    assert.equal(w.l.take('kvm_mmu_sync_page').length, 1);
  });

  it('continues from a copy as from the original', () => {
    const w = svm({}, true, (page) => (page === 1 ? 5n : 7n));
    vmrun(w);
    const copy = Machine.fromSnapshot(w.m.snapshot());
    const other = { ...w, m: copy, vcpu: copy.vcpus[0] };
    statement(other, insnStore(0x201000n, 4, 1n));
    assert.ok(!is_guest_mode(other.vcpu) && is_guest_mode(w.vcpu));
    statement(w, insnStore(0x201000n, 4, 1n));
    assert.ok(!is_guest_mode(w.vcpu));
    assert.equal(w.vcpu.regs.rip, other.vcpu.regs.rip);
  });
});

const EPTP = BigInt(SECOND) | 0x1en;

/** L1 with VMXON and VMCS regions at 0xd000 and 0xe000; VMXON … VMLAUNCH is at 0x1000, VMRESUME at 0x1040, INVEPT at 0x1050. */
function vmx(over: Partial<MachineConfig> = {}, eptp = EPTP, leaf: (page: number) => bigint = () => 0x37n): World {
  const w = world({ vendor: 'intel', paging: 'ept', features: ['nx', 'lm', 'vmx'], ...over }, leaf);
  const { q, bytes, m, vcpu } = w;
  // vmxon [rbx]; vmclear [rsi]; vmptrld [rsi]; until -1: vmwrite [rdi], [rdi+8]; vmlaunch; out 0xe4
  bytes(0x1000, 'f30fc733660fc7360fc736488b17488b47084883faff74090f79d04883c710ebea0f01c2e6e4f4');
  bytes(0x1040, '488b1c25002f00000f01c3e6e4f4');
  bytes(0x1050, 'b801000000660f38800425402f0000e6e0f4');
  bytes(0x1100, 'e6e3f4');
  q(0x2f40, eptp, 0n);
  q(0xd000, 0x11e57ed0n);
  q(0xe000, 0x11e57ed0n);
  q(0x2f10, 0xd000n);
  q(0x2f18, 0xe000n);
  const fields: [VmcsFieldName, bigint][] = [
    ['pin_based_vm_exec_control', 0x16n],
    ['cpu_based_vm_exec_control', 0x940061f2n],
    ['secondary_vm_exec_control', eptp ? 2n : 0n],
    ['vm_exit_controls', 0x36ffbn],
    ['vm_entry_controls', 0x13fbn],
    ['msr_bitmap', 0x30000n],
    ['ept_pointer', eptp],
    ['guest_cr0', CR0],
    ['guest_cr3', BigInt(L2_PML4)],
    ['guest_cr4', 0x2020n],
    ['guest_rip', 0x1200n],
    ['guest_rflags', 2n],
    ['guest_rsp', 0x8000n],
    ['host_cr0', CR0],
    ['host_cr3', BigInt(L1_PML4)],
    ['host_cr4', 0x2020n],
    ['host_rip', 0x1100n],
    ['host_rsp', 0x9000n],
    ['host_tr_selector', 0x38n],
  ];
  for (const s of ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const) {
    const selector = s === 'cs' ? 8n : 0x10n;
    fields.push([`guest_${s}_selector`, selector], [`host_${s}_selector`, selector]);
    fields.push([`guest_${s}_limit`, 0xffffffffn], [`guest_${s}_ar_bytes`, s === 'cs' ? 0xa09bn : 0xc093n]);
  }
  fields.forEach(([name, value], i) => q(0x2000 + 16 * i, BigInt(VMCS[name]), value));
  q(0x2000 + 16 * fields.length, 0xffffffffffffffffn);
  m.setRegs(vcpu, { cr4: 0x2020n });
  return w;
}

const launch = (w: World, rbx = 0x2f10n): RunResult => run(w, 0x1000n, { 3: rbx, 6: 0x2f18n, 7: 0x2000n });
/** The launch routine keeps the VMXON pointer in RBX, so L2 begins with that; here it reads `address` after VMRESUME. */
const resume = (w: World, address: bigint): RunResult => {
  w.q(0x2f00, address);
  return run(w, 0x1040n);
};
const field = (w: World, name: VmcsFieldName): bigint => (w.vcpu.nested as VmxNested).vmcs12.get(name);

describe('nested VMX', () => {
  it('launches L2 over a shadow of L1 EPT', () => {
    const w = vmx();
    assert.equal(port(launch(w)), L2_PORT);
    assert.ok(is_guest_mode(w.vcpu) && mmu_is_nested(w.vcpu));
    const R = w.m.roles;
    const { root_role, page_fault, gva_to_gpa } = w.vcpu.mmu;
    assert.deepEqual([page_fault, gva_to_gpa], ['ept_page_fault', 'ept_gva_to_gpa']);
    assert.deepEqual([role_get(root_role, R.ad_disabled), role_get(root_role, R.guest_mode)], [1, 1]);
    assert.deepEqual([role_get(root_role, R.cr0_wp), role_get(root_role, R.efer_nx)], [0, 0]);
    const [e] = w.l.take('kvm_nested_vmenter');
    assert.deepEqual([e.vmcb, e.nested_rip, e.tdp_enabled, e.guest_pgd], [0xe000n, 0x1200n, 1, EPTP]);
    assert.ok(w.l.frames.includes('ept_page_fault') && w.l.frames.includes('nested_ept_init_mmu_context'));
  });

  it('exits for the fields that are not shadowed, and for no others', () => {
    const w = vmx();
    launch(w);
    const writes = w.l.take('kvm_exit').filter((e) => e.reason === 'VMWRITE').length;
    const v = new Vmcs12();
    // every field of the table but the shadowed ones
    assert.ok(!v.writable(VMCS.ept_pointer) && v.writable(VMCS.guest_rip) && !v.writable(VMCS.vm_exit_reason));
    assert.ok(v.readable(VMCS.vm_exit_reason) && v.readable(VMCS.guest_rip) && !v.readable(VMCS.host_rip));
    const shadowed = ['pin_based_vm_exec_control', 'cpu_based_vm_exec_control', 'guest_cr0', 'guest_cr3', 'guest_cr4'];
    const more = ['guest_rip', 'guest_rflags', 'guest_rsp', 'host_fs_selector', 'host_gs_selector'];
    assert.equal(writes, 19 + 24 - shadowed.length - more.length);
  });

  it('tells L1 what its EPT entry allows', () => {
    for (const [leaf, write, reason, qualification] of [
      [0n, false, 48n, 0x181n],
      [0x35n, true, 48n, 0x182n | (5n << 3n)],
      [0x34n, false, 48n, 0x181n | (4n << 3n)], // execute-only
      [0x32n, false, 49n, null], // write-only: misconfigured
    ] as const) {
      const w = vmx({}, EPTP, (page) => (page === 1 ? leaf : 0x37n));
      launch(w);
      statement(w, write ? insnStore(0x201000n, 4, 1n) : insnLoad(0x201000n, 4));
      assert.ok(!is_guest_mode(w.vcpu), `0x${leaf.toString(16)} should exit`);
      assert.equal(field(w, 'vm_exit_reason'), reason);
      if (qualification !== null) assert.equal(field(w, 'exit_qualification') & 0x1ffn, qualification);
      assert.equal(field(w, 'guest_physical_address'), 0x201000n);
      assert.equal(w.vcpu.regs.rip, 0x1100n);
      assert.deepEqual([w.vcpu.regs.cr3, w.vcpu.regs.gpr[4]], [BigInt(L1_PML4), 0x9000n]);
      assert.equal(w.vcpu.regs.gdtr.limit, 0xffff);
    }
  });

  it('sets accessed and dirty flags in L1 EPT only where the EPTP enables them', () => {
    for (const [ad, flags] of [
      [0n, 0n],
      [0x40n, 0x300n],
    ] as const) {
      const w = vmx({}, EPTP | ad);
      launch(w);
      statement(w, insnStore(0x203000n, 4, 1n));
      assert.equal(w.read(LEAVES + 24) & 0x300n, flags);
      assert.equal(role_get(w.vcpu.mmu.root_role, w.m.roles.ad_disabled), ad ? 0 : 1);
    }
  });

  it('sees an edit of L1 EPT after INVEPT', () => {
    const w = vmx();
    launch(w);
    statement(w, insnLoad(0x200000n, 4));
    statement(w, insnHlt());
    assert.equal(field(w, 'vm_exit_reason'), 12n);
    statement(w, insnStore(BigInt(LEAVES), 8, 0x203037n));
    w.q(0x203000, 0x77n);
    assert.equal(port(run(w, 0x1050n)), L2_PORT);
    (w.vcpu.nested as VmxNested).vmcs12.set('guest_rip', 0x1200n);
    assert.equal(port(resume(w, 0x200000n)), L2_PORT);
    assert.equal(w.vcpu.regs.gpr[0], 0x77n);
    assert.equal(w.l.take('kvm_mmu_sync_page').length, 1);
  });

  it('answers for a device of L2 through an EPT misconfiguration of its own', () => {
    const w = vmx();
    launch(w);
    const first = statement(w, insnLoad(0x210000n, 4));
    assert.equal(first.exits[0]?.reason, 'mmio');
    // L2's tables are read through L1's, as user accesses that may write (accessed flags)
    const walks = w.l.take('kvm_mmu_pagetable_walk').map((e) => [e.addr, e.pferr]);
    assert.ok(walks.some(([addr, pferr]) => addr === BigInt(L2_PML4) && pferr === 6));
    assert.deepEqual(walks.at(-1), [HOLE, 4]);
    w.l.events.length = 0;
    statement(w, insnLoad(0x210000n, 4));
    assert.deepEqual(
      w.l.take('kvm_nested_vmexit').map((e) => e.reason),
      ['EPT_MISCONFIG'],
    );
    assert.equal(w.l.take('check_mmio_spte').length, 1);
    assert.equal(w.l.take('kvm_nested_vmexit_inject').length, 0);
  });

  it('runs L2 without EPT of L1 on root_mmu', () => {
    for (const paging of ['ept', 'shadow'] as const) {
      const w = vmx({ paging }, 0n);
      assert.equal(port(launch(w)), L2_PORT);
      assert.ok(w.vcpu.mmu === w.vcpu.root_mmu && !mmu_is_nested(w.vcpu));
      const R = w.m.roles;
      assert.equal(role_get(w.vcpu.mmu.root_role, R.guest_mode), 1);
      assert.equal(role_get(w.vcpu.mmu.root_role, R.direct), paging === 'ept' ? 1 : 0);
      statement(w, insnHlt());
      assert.equal(role_get(w.vcpu.mmu.root_role, R.guest_mode), 0);
    }
  });

  it('fails VMLAUNCH with the error number of the mistake', () => {
    const controls = vmx();
    controls.q(0x2000, BigInt(VMCS.pin_based_vm_exec_control), 0n);
    assert.equal(port(launch(controls)), 0xe4);
    assert.equal(field(controls, 'vm_instruction_error'), 7n);
    assert.ok(controls.vcpu.regs.rflags & 0x40n);
    const host = vmx();
    host.q(0x2000 + 16 * 15, BigInt(VMCS.host_cr4), 0x20n);
    assert.equal(port(launch(host)), 0xe4);
    assert.equal(field(host, 'vm_instruction_error'), 8n);
    const eptp = vmx({}, BigInt(SECOND) | 0x1fn);
    assert.equal(port(launch(eptp)), 0xe4);
    assert.equal(field(eptp, 'vm_instruction_error'), 7n);
  });
});

describe('an SMI in L2', () => {
  for (const vendor of ['amd', 'intel'] as const)
    it(`leaves L2 for SMM and RSM goes back to it (${vendor})`, () => {
      const w = vendor === 'amd' ? svm() : vmx();
      const smram = w.m.backing('smram', 0x400000);
      w.m.set_user_memory_region({ as_id: 1, id: 0, flags: 0, gpa: 0, size: 0x400000, hva: smram.hva });
      w.m.writeBacking('smram', 0x38000, Uint8Array.of(0x0f, 0xaa)); // RSM
      if (vendor === 'amd') vmrun(w);
      else launch(w);
      const { rip, cr3 } = w.vcpu.regs;
      w.l.events.length = 0;
      w.m.smi(w.vcpu);
      const r = w.m.run(w.vcpu, 'code', { instructions: 1 });
      assert.notEqual(r.end, 'error', r.text);
      assert.deepEqual(
        w.l.events.map((e) => e.kind).filter((k) => /^(smm|l2)_/.test(k)),
        ['l2_exit', 'smm_enter', 'l2_enter', 'smm_exit'],
      );
      assert.ok(is_guest_mode(w.vcpu) && mmu_is_nested(w.vcpu));
      assert.equal(w.vcpu.regs.cr3, cr3);
      assert.ok(w.vcpu.regs.rip === rip || w.vcpu.regs.rip > rip);
    });
});

describe('vmcs12', () => {
  it('has the offsets that KVM fixes', () => {
    const at = (name: VmcsFieldName): number | undefined => VMCS12_OFFSETS.get(name);
    assert.deepEqual(
      [at('io_bitmap_a'), at('ept_pointer'), at('guest_physical_address'), at('pml_address'), at('tsc_multiplier')],
      [40, 120, 168, 312, 328],
    );
    assert.deepEqual(
      [at('cr4_read_shadow'), at('exit_qualification'), at('guest_rip'), at('host_rip')],
      [368, 408, 544, 672],
    );
    assert.deepEqual(
      [at('vm_exit_reason'), at('guest_tr_ar_bytes'), at('vmx_preemption_timer_value'), at('guest_pml_index')],
      [812, 908, 928, 996],
    );
  });

  it('holds every field of the table apart from the others', () => {
    const v = new Vmcs12();
    const names = [...VMCS_NAMES.values()];
    names.forEach((n, i) => v.set(n, BigInt(i + 1)));
    names.forEach((n, i) => assert.equal(v.get(n), BigInt(i + 1), n));
    for (const n of names) assert.ok([2, 4, 8].includes(vmcsFieldSize(VMCS[n])));
  });

  it('gives halves of 64-bit fields by odd encodings', () => {
    const v = new Vmcs12();
    v.write(VMCS.ept_pointer, 0x1122334455667788n);
    assert.equal(v.read(VMCS.ept_pointer + 1), 0x11223344n);
    v.write(VMCS.ept_pointer + 1, 0xaabbccddn);
    assert.equal(v.get('ept_pointer'), 0xaabbccdd55667788n);
    assert.ok(v.has(VMCS.ept_pointer + 1) && !v.has(VMCS.guest_cr0 + 1) && !v.has(0x7ffe));
  });
});
