/**
 * A machine next to what must be true of it. {@link World.step} does an operation to both and compares: what the guest saw, what memory
 * holds, what the processor's tables would let it do next.
 */
import {
  ACC_AC, ACC_DRY, ACC_FETCH, ACC_READ, ACC_USER, ACC_WRITE, NON_CANONICAL, OK, PF,
} from '../../src/hw/access'; // prettier-ignore
import {
  insnFetch, insnInvlpg, insnInvpcid, insnLoad, insnMovToCr, insnNop, insnRmw, insnRsm, insnStore, insnWrmsr, insnWrpkru, type Insn,
} from '../../src/hw/insn'; // prettier-ignore
import { CR0, CR4, EFER, MSR, RFLAGS, segment } from '../../src/hw/regs';
import type { KvmVcpu } from '../../src/kvm/kvm_host';
import { is_smm, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY } from '../../src/kvm/kvm_host';
import { auditMachine, findingText, type Finding } from '../../src/kvm/audit';
import { Machine, machineConfig, type RunResult } from '../../src/kvm/machine';
import { sp_has_gptes, is_obsolete_sp, kvm_mmu_role_as_id } from '../../src/kvm/mmu/pages';
import { Cpu } from './cpu';
import { BACKINGS, LEAF_GFNS, PAGE, SAVE_GFN, TABLE_GFN, TABLES, type LinearPage } from './layout';
import type { AccessKind, Outcome, Root, Visited } from './oracle';
import { atKey, EDITOR, GUEST_VCPUS, modeOf, type Mode, type Op } from './operations';
import { placeOf, pageIn, Reference, type EntryValue, type SlotState } from './reference';
import type { GoldenConfig } from './layout';

/** Something that must not be. */
export class GoldenFailure extends Error {}

/** How often things happened: a test that never gets anywhere must not pass. */
export interface Tally {
  operations: number;
  /** accesses with exactly one allowed outcome, and with several */
  promised: number;
  several: number;
  skipped: number;
  ram: number;
  mmio: number;
  readonlyWrites: number;
  faults: number;
  probes: number;
  probesOk: number;
  smm: number;
  slots: number;
  /** ioctls of sub-page permissions, and writes that they refused */
  spp: number;
  sppDenied: number;
  audits: number;
}

export const newTally = (): Tally => ({
  operations: 0,
  promised: 0,
  several: 0,
  skipped: 0,
  ram: 0,
  mmio: 0,
  readonlyWrites: 0,
  faults: 0,
  probes: 0,
  probesOk: 0,
  smm: 0,
  slots: 0,
  spp: 0,
  sppDenied: 0,
  audits: 0,
});

/** Operations between two looks at all of memory. */
const FULL_EVERY = 32;
const WATCHED = Array.from({ length: 0xa00 }, (_, i) => i);
const EFAULT = -14;
const KINDS: readonly AccessKind[] = ['load', 'store', 'fetch'];
const hex = (n: number | bigint): string => `0x${n.toString(16)}`;

/** How much {@link World} looks at. */
export interface Depth {
  /** operations between two audits; 0: none */
  readonly auditEvery?: number;
  /** operations between two looks at all of memory */
  readonly fullEvery?: number;
}

export class World {
  readonly mode: Mode;
  readonly ref = new Reference();
  readonly cpus: Cpu[] = [];
  m: Machine;
  private readonly tdp: boolean;
  /** address spaces */
  private readonly spaces: readonly number[];
  private steps = 0;
  /** frame that the vCPU of the access being done remembers as MMIO, where the kernel does not know for which address space */
  private remembered = -1;

  constructor(
    config: GoldenConfig,
    readonly tally: Tally = newTally(),
    private readonly depth: Depth = {},
  ) {
    this.mode = modeOf(config);
    this.m = new Machine(machineConfig({ ...config.machine, maxExitsPerInstruction: 300 }));
    this.tdp = this.m.tdpEnabled;
    this.spaces = this.m.caps.addressSpaces === 2 ? [0, 1] : [0];
    this.setUp();
  }

  // ---- The beginning ----

  private setUp(): void {
    const { m, ref, mode } = this;
    for (const b of BACKINGS) m.backing(b.name, b.pages * PAGE, { huge: b.huge });
    for (const spec of mode.slots) {
      if (!spec.initially) continue;
      const s: SlotState = { spec, gfn: spec.gfns[0], logging: false, young: false, remembered: false, dirty: new Set(), maps: new Map() };
      this.expectErrno(this.setSlot(s, spec.pages), 0, 'adding a slot');
      ref.slots[spec.as_id].push(s);
    }
    const { shape, guest } = mode;
    const data = LEAF_GFNS.filter((g) => g < 0x40 || g >= 0x80);
    for (const as of this.spaces) {
      if (as === 1 && ref.pageAt(1, TABLE_GFN) === ref.pageAt(0, TABLE_GFN)) break;
      for (let t = 0; t < TABLES; t++) {
        const level = shape.home[t];
        const below = shape.home.flatMap((h, i) => (h === level - 1 ? [i] : []));
        shape.indices[level - 1].forEach((index, n) => {
          const gfn = level === 1 ? data[(t * 7 + n) % data.length] : TABLE_GFN + below[(t + n) % below.length];
          const rights = guest === 'pae' && level === 3 ? 1 : 7;
          this.userWrite(as, TABLE_GFN + t, index * shape.entrySize, shape.entrySize, BigInt(gfn * PAGE + rights));
        });
      }
    }
    // Read-only memory that can serve as a table.
    for (let i = 0; i < 8; i++) this.userWrite(0, 0x101, i * shape.entrySize, shape.entrySize, BigInt((0x20 + i) * PAGE + 0x27));
    for (let i = 0; i < GUEST_VCPUS; i++) this.addGuest(i);
    const editor = m.addVcpu();
    const regs = { cr0: CR0.PE | CR0.ET | CR0.NE, cr3: 0n, cr4: 0n, efer: 0n };
    m.setRegs(editor, { ...regs, ...flat(32), idtr: null });
    editor.regs.ripKnown = false;
    this.cpus.push(new Cpu(EDITOR, mode.guest, m.config, ref, regs, null));
  } // prettier-ignore

  private addGuest(id: number): void {
    const { m, mode, ref } = this;
    const { guest } = mode;
    const long = guest === '4level' || guest === '5level';
    const vcpu = m.addVcpu();
    // The state-save areas are at SMBASE + 0xfe00: one page for each vCPU.
    vcpu.smbase = 0x30000 - id * PAGE;
    const regs = {
      cr0: CR0.PE | CR0.ET | CR0.NE | CR0.WP | CR0.PG,
      cr3: BigInt((TABLE_GFN + (id % 2)) * PAGE),
      cr4: (guest === '32' ? CR4.PSE : CR4.PAE) | (guest === '5level' ? CR4.LA57 : 0n) | (id === 0 ? CR4.PGE : 0n),
      efer: (long ? EFER.LME | EFER.LMA : 0n) | (guest === '32' ? 0n : EFER.NXE),
    };
    m.setRegs(vcpu, { ...regs, ...flat(long ? 64 : 32), idtr: null });
    vcpu.regs.ripKnown = false;
    const pdptes = guest === 'pae' ? this.pdptesAt(0, TABLE_GFN + (id % 2)) : null;
    this.cpus.push(new Cpu(id, guest, m.config, ref, regs, pdptes));
  }

  private pdptesAt(as: number, gfn: number): EntryValue[] {
    const out: EntryValue[] = [];
    for (let i = 0; i < 4; i++) {
      const v: EntryValue[] = [];
      this.ref.values(as, gfn, 8 * i, 8, this.ref.now, v);
      out.push(v[0]);
    }
    return out;
  }

  /** User space writes through its own mapping of guest memory. */
  private userWrite(as: number, gfn: number, offset: number, size: number, value: bigint): void {
    const bytes = Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
    if (!this.m.hostWrite(as, gfn * PAGE + offset, bytes)) throw new GoldenFailure(`user space cannot write gfn ${hex(gfn)}`);
    this.ref.write(this.ref.pageAt(as, gfn), offset, size, value);
  } // prettier-ignore

  private setSlot(s: SlotState, pages: number): number {
    const { spec } = s;
    const flags = (spec.readonly ? KVM_MEM_READONLY : 0) | (s.logging ? KVM_MEM_LOG_DIRTY_PAGES : 0);
    const b = this.m.host.find(spec.backing);
    return this.m.set_user_memory_region({
      as_id: spec.as_id,
      id: spec.id,
      flags,
      gpa: s.gfn * PAGE,
      size: pages * PAGE,
      hva: (b?.hva ?? 0n) + BigInt(spec.first * PAGE),
    }).errno;
  }

  private expectErrno(got: number, wanted: number, what: string): void {
    if (got !== wanted) throw new GoldenFailure(`${what}: errno ${got}, ${wanted} was to be`);
  }

  // ---- Operations ----

  /** Does one operation. @throws GoldenFailure (or whatever the machine throws) when something is wrong */
  step(op: Op): void {
    this.steps++;
    this.tally.operations++;
    this.act(op);
    this.afterwards(op);
    const { auditEvery = 0, fullEvery = FULL_EVERY } = this.depth;
    if (auditEvery > 0 && this.steps % auditEvery === 0) this.audit();
    if (this.steps % fullEvery === 0) this.checkAll();
  }

  private act(op: Op): void {
    switch (op.kind) {
      case 'access':
        return this.opAccess(op);
      case 'edit':
        return this.opEdit(op);
      case 'invlpg': {
        const cpu = this.cpus[op.vcpu];
        const page = this.mode.pages[op.page];
        this.insn(cpu, insnInvlpg(page.gva));
        if (page.canonical) cpu.flushPage(page);
        return;
      }
      case 'invpcid':
        return this.opInvpcid(op);
      case 'cr3':
        return this.opCr3(op);
      case 'cr0':
        return this.opCr0(op);
      case 'cr4':
        return this.opCr4(op);
      case 'nxe': {
        const cpu = this.cpus[op.vcpu];
        if (this.mode.guest === '32' || cpu.smm || !this.canToggleCr4(cpu)) return;
        cpu.efer ^= EFER.NXE;
        this.insn(cpu, insnWrmsr(MSR.EFER, cpu.efer));
        this.flush(cpu);
        return;
      }
      case 'pkru': {
        const cpu = this.cpus[op.vcpu];
        if (cpu.smm || (cpu.cr4 & CR4.PKE) === 0n) return;
        cpu.pkru = op.value;
        this.insn(cpu, insnWrpkru(op.value));
        return;
      }
      case 'flush':
        return this.flush(this.cpus[op.vcpu]);
      case 'smm':
        return this.opSmm(this.cpus[op.vcpu]);
      case 'smm-paging':
        return this.opSmmPaging(this.cpus[op.vcpu], op.table);
      case 'slot':
        return this.opSlot(op);
      case 'dirty-get':
        return this.opDirtyGet(op.slot);
      case 'dirty-clear':
        return this.opDirtyClear(op.slot, op.mask);
      case 'spp':
        return this.opSpp(op);
      case 'invalidate':
        return this.opInvalidate(op.slot, op.index);
      case 'host-write':
        return this.opHostWrite(op);
      case 'snapshot':
        this.m = Machine.fromSnapshot(this.m.snapshot());
        return;
    }
  }

  private vcpu(cpu: Cpu): KvmVcpu {
    return this.m.vcpus[cpu.id];
  }

  /** An instruction that must simply be done. */
  private insn(cpu: Cpu, insn: Insn, wanted: 'done' | 'gp' = 'done'): void {
    const r = this.m.run(this.vcpu(cpu), insn);
    const got = r.exception === null ? r.end : r.exception.vector === 13 ? 'gp' : `exception ${r.exception.vector}`;
    if (got !== wanted) throw new GoldenFailure(`vCPU ${cpu.id}: ${insn.op} ends with ${got} (${r.text}), not ${wanted}`);
  }

  private flush(cpu: Cpu): void {
    if (cpu.smm && !cpu.paging) return;
    if (!this.canToggleCr4(cpu)) return;
    for (let i = 0; i < 2; i++) {
      cpu.cr4 ^= CR4.PGE;
      this.insn(cpu, insnMovToCr(4, cpu.cr4));
      this.reloadPdptes(cpu);
    }
    cpu.flushAll();
  }

  /** With PAE paging a MOV to CR4 loads the PDPTEs, which must be fit for it. */
  private canToggleCr4(cpu: Cpu): boolean {
    return cpu.root.pdptes === null || !cpu.paging || this.pdptesOk(cpu, cpu.root.gfn) === 'ok';
  }

  private reloadPdptes(cpu: Cpu): void {
    if (cpu.root.pdptes === null || !cpu.paging) return;
    cpu.switchRoot({ gfn: cpu.root.gfn, pdptes: this.pdptesAt(cpu.as, cpu.root.gfn) }, cpu.pcid);
  }

  /** `gp`: a reserved bit; `no`: the table lies where KVM may lose it. */
  private pdptesOk(cpu: Cpu, gfn: number): 'ok' | 'gp' | 'no' {
    const max = this.m.config.maxphyaddr;
    const high = (0xffffffff & ~(2 ** (max - 32) - 1)) >>> 0;
    let ok: 'ok' | 'gp' | 'no' = 'ok';
    for (const e of this.pdptesAt(cpu.as, gfn)) {
      if ((e.lo & 1) === 0) continue;
      if ((e.lo & 0x1e6) !== 0 || (e.hi & high) !== 0) return 'gp';
      const frame = (e.hi & 0xfffff) * 0x100000 + (e.lo >>> 12);
      if (frame >= (cpu.smm ? 0x30 : 0x40)) ok = 'no';
    }
    return ok;
  }

  private opAccess(op: Extract<Op, { kind: 'access' }>): void {
    const cpu = this.cpus[op.vcpu];
    if (!cpu.paging) {
      if (op.access === 'fetch') return;
      this.access(cpu, null, BigInt(op.gfn * PAGE + op.offset), op.access, op.size, false, false, op.value);
      return;
    }
    const page = this.mode.pages[op.page];
    const gva = page.gva + BigInt(op.offset);
    // SMM begins at CPL 0 in real mode, with whatever segments: no user code there.
    const user = op.user && !cpu.smm;
    this.access(cpu, page, gva, op.access, op.size, user, op.ac, op.value);
  }

  private opEdit(op: Extract<Op, { kind: 'edit' }>): void {
    const gpa = (TABLE_GFN + op.table) * PAGE + op.index * op.size;
    const user = this.cpus[op.vcpu];
    const page = this.pageThrough(user, op);
    // What is remembered of an entry matters only after a use.
    if (user.paging) this.access(user, page, page.gva + 0x408n, 'load', 4, false, false, 0n);
    this.access(this.cpus[EDITOR], null, BigInt(gpa), 'store', op.size, false, false, op.value);
    for (const cpu of this.cpus.slice(0, GUEST_VCPUS)) {
      if (op.flush === 'all' || (op.flush === 'one' && cpu.id === op.vcpu)) this.flush(cpu);
      else if (op.flush === 'invlpg') {
        this.insn(cpu, insnInvlpg(page.gva));
        if (page.canonical) cpu.flushPage(page);
      }
    }
    if (user.paging) this.access(user, page, page.gva + 0x408n, 'load', 4, false, false, 0n);
  }

  /** A page that the entry about to be edited translates, if one is soon found; else the page of the operation. */
  private pageThrough(cpu: Cpu, op: Extract<Op, { kind: 'edit' }>): LinearPage {
    const { pages, pagesAt, shape } = this.mode;
    const own = pages[op.page];
    if (!cpu.paging) return own;
    const near = pagesAt.get(atKey(shape.home[op.table], op.index)) ?? [];
    const at = this.ref.pageAt(cpu.as, TABLE_GFN + op.table);
    const first = near.indexOf(op.page);
    if (first < 0) return own;
    const visited: Visited[] = [];
    for (let i = 0; i < Math.min(16, near.length); i++) {
      const page = pages[near[(first + i) % near.length]];
      visited.length = 0;
      cpu.outcomes(page, 'load', false, false, true, visited);
      if (visited.some((v) => v.page === at && v.offset === op.index * op.size)) return page;
    }
    return own;
  }

  private opInvpcid(op: Extract<Op, { kind: 'invpcid' }>): void {
    const cpu = this.cpus[op.vcpu];
    // With shadow paging KVM decodes INVPCID from the instruction's bytes, which pseudo-instructions do not have.
    if (!this.tdp || cpu.smm || this.mode.guest === '32' || this.mode.guest === 'pae') return;
    const page = this.mode.pages[op.page];
    const pcid = (cpu.cr4 & CR4.PCIDE) === 0n ? 0 : op.pcid;
    if (op.type === 0 && !page.canonical) return;
    this.insn(cpu, insnInvpcid(op.type, pcid, page.gva));
    if (op.type === 0) cpu.flushPage(page, pcid, false);
    else if (op.type === 1) cpu.flushPcid(pcid);
    else if (op.type === 2) cpu.flushAll();
    else for (let p = 0; p < 4; p++) cpu.flushPcid(p);
  }

  private opCr3(op: Extract<Op, { kind: 'cr3' }>): void {
    const cpu = this.cpus[op.vcpu];
    const gfn = TABLE_GFN + op.table;
    const pcids = (cpu.cr4 & CR4.PCIDE) !== 0n;
    const pcid = pcids ? op.pcid : 0;
    const noflush = pcids && op.noflush;
    let root: Root = { gfn, pdptes: null };
    const value = BigInt(gfn * PAGE + pcid);
    if (this.mode.guest === 'pae' && cpu.paging) {
      const fit = this.pdptesOk(cpu, gfn);
      if (fit === 'gp' && this.m.config.paging !== 'npt') {
        this.insn(cpu, insnMovToCr(3, value), 'gp');
        return;
      }
      if (fit !== 'ok') return;
      root = { gfn, pdptes: this.pdptesAt(cpu.as, gfn) };
    } else if (this.mode.guest === 'pae') root = { gfn, pdptes: cpu.root.pdptes };
    this.insn(cpu, insnMovToCr(3, value | (noflush ? 1n << 63n : 0n)));
    cpu.cr3 = value;
    cpu.switchRoot(root, pcid);
    if (!noflush) cpu.flushPcid(pcid);
  }

  private opCr0(op: Extract<Op, { kind: 'cr0' }>): void {
    const cpu = this.cpus[op.vcpu];
    if (cpu.smm) return;
    if (op.bit === 'WP') {
      cpu.cr0 ^= CR0.WP;
      this.insn(cpu, insnMovToCr(0, cpu.cr0));
      return;
    }
    if (this.mode.guest !== '32' && this.mode.guest !== 'pae') return;
    if (!cpu.paging && this.mode.guest === 'pae' && this.pdptesOk(cpu, cpu.root.gfn) !== 'ok') return;
    cpu.cr0 ^= CR0.PG;
    this.insn(cpu, insnMovToCr(0, cpu.cr0));
    if (cpu.paging) this.reloadPdptes(cpu);
    else cpu.flushAll();
  }

  private opCr4(op: Extract<Op, { kind: 'cr4' }>): void {
    const cpu = this.cpus[op.vcpu];
    const features = this.m.guestFeatures;
    const { guest } = this.mode;
    const long = guest === '4level' || guest === '5level';
    if (cpu.smm || !this.canToggleCr4(cpu)) return;
    if (op.bit === 'PKE' && (!features.has('pku') || !long)) return;
    // Nothing in the role of a shadow page tells CR4.PSE, so pages made before a change are found after it (v6.1 kvm_calc_cpu_role()).
    if (op.bit === 'PSE' && (guest !== '32' || !this.tdp)) return;
    if (op.bit === 'PCIDE' && (!long || !features.has('pcid') || (cpu.cr3 & 0xfffn) !== 0n)) return;
    const was = (cpu.cr4 & CR4[op.bit]) !== 0n;
    cpu.cr4 ^= CR4[op.bit];
    this.insn(cpu, insnMovToCr(4, cpu.cr4));
    // PAE, PGE, PSE and SMEP load the PDPTEs (SDM vol. 3A 4.4.1).
    if (['PGE', 'PSE', 'SMEP'].includes(op.bit)) this.reloadPdptes(cpu);
    if (op.bit === 'PGE' || (op.bit === 'PCIDE' && was)) cpu.flushAll();
    // A change of PSE alone forgets nothing, so software has to.
    if (op.bit === 'PSE') this.flush(cpu);
    if (op.bit === 'PKE') cpu.pkru = this.vcpu(cpu).regs.pkru;
  }

  private opSmm(cpu: Cpu): void {
    if (this.m.caps.addressSpaces === 1) return;
    this.tally.smm++;
    if (!cpu.smm) {
      this.m.smi(this.vcpu(cpu));
      this.insn(cpu, insnNop());
      cpu.saved = { cr0: cpu.cr0, cr3: cpu.cr3, cr4: cpu.cr4, efer: cpu.efer, root: cpu.root, pcid: cpu.pcid };
      cpu.smm = true;
      cpu.cr0 &= ~(CR0.PE | CR0.EM | CR0.TS | CR0.PG);
      cpu.cr4 = 0n;
      cpu.efer = 0n;
      cpu.switchRoot({ gfn: cpu.root.gfn, pdptes: cpu.root.pdptes }, 0);
      return;
    }
    const s = cpu.saved!;
    const pae = s.root.pdptes !== null && (s.cr0 & CR0.PG) !== 0n;
    // Older kernels load them before they leave SMM, so from its address space (v4.20 em_rsm(); mended in v5.1).
    const from = this.m.caps.smmExitFirst ? 0 : 1;
    cpu.smm = from === 1;
    // RSM loads the PDPTEs from memory; with a reserved bit in one the processor would shut down.
    if (pae && this.pdptesOk(cpu, s.root.gfn) !== 'ok') {
      cpu.smm = true;
      return;
    }
    const root = pae ? { gfn: s.root.gfn, pdptes: this.pdptesAt(from, s.root.gfn) } : s.root;
    cpu.smm = false;
    this.insn(cpu, insnRsm());
    cpu.saved = null;
    cpu.cr0 = s.cr0;
    cpu.cr3 = s.cr3;
    cpu.cr4 = s.cr4;
    cpu.efer = s.efer;
    cpu.switchRoot(root, s.pcid);
  }

  /** The SMM handler turns paging on, in the mode of the guest, with tables of its own address space. */
  private opSmmPaging(cpu: Cpu, table: number): void {
    if (!cpu.smm || cpu.paging) return;
    const { guest } = this.mode;
    const gfn = TABLE_GFN + table;
    if (guest === 'pae' && this.pdptesOk(cpu, gfn) !== 'ok') return;
    const long = guest === '4level' || guest === '5level';
    cpu.cr4 = guest === '32' ? CR4.PSE : CR4.PAE;
    if (guest === '5level') cpu.cr4 |= CR4.LA57;
    this.insn(cpu, insnMovToCr(4, cpu.cr4));
    cpu.cr3 = BigInt(gfn * PAGE);
    this.insn(cpu, insnMovToCr(3, cpu.cr3));
    cpu.efer = (long ? EFER.LME : 0n) | (guest === '32' ? 0n : EFER.NXE);
    this.insn(cpu, insnWrmsr(MSR.EFER, cpu.efer));
    cpu.cr0 |= CR0.PE | CR0.PG | CR0.WP;
    this.insn(cpu, insnMovToCr(0, cpu.cr0));
    if (long) cpu.efer |= EFER.LMA;
    cpu.switchRoot({ gfn, pdptes: guest === 'pae' ? this.pdptesAt(1, gfn) : null }, 0);
    cpu.flushAll();
    this.vcpu(cpu).regs.idtUsed = false;
  }

  // ---- What user space does ----

  private slotState(n: number): { spec: Mode['slots'][number]; s: SlotState | undefined } {
    const spec = this.mode.slots[n];
    return { spec, s: this.ref.slots[spec.as_id].find((x) => x.spec.id === spec.id) };
  }

  /** Shadow pages are gone, because slots of an address space changed. */
  private zapped(as: number): void {
    this.ref.slots.forEach((list, i) => {
      for (const s of list) {
        s.remembered = i !== as && (s.remembered || s.young);
        s.young = false;
      }
    });
  }

  private overlaps(as: number, gfn: number, pages: number, id: number): boolean {
    return this.ref.slots[as].some((x) => x.spec.id !== id && gfn < x.gfn + x.spec.pages && x.gfn < gfn + pages);
  }

  private opSlot(op: Extract<Op, { kind: 'slot' }>): void {
    const { spec, s } = this.slotState(op.slot);
    const list = this.ref.slots[spec.as_id];
    const gfn = spec.gfns[op.where % spec.gfns.length];
    const EEXIST = -17;
    this.tally.slots++;
    if (op.action === 'log') {
      if (!s || spec.readonly) return;
      s.logging = !s.logging;
      s.dirty.clear();
      this.expectErrno(this.setSlot(s, spec.pages), 0, 'changing flags');
      return;
    }
    if (spec.fixed) return;
    if (!s) {
      const fresh: SlotState = { spec, gfn, logging: (op.where & 8) !== 0 && !spec.readonly, young: true, remembered: false, dirty: new Set(), maps: new Map() };
      if (this.overlaps(spec.as_id, gfn, spec.pages, spec.id)) {
        this.expectErrno(this.setSlot(fresh, spec.pages), EEXIST, 'adding a slot over another');
        return;
      }
      this.expectErrno(this.setSlot(fresh, spec.pages), 0, 'adding a slot');
      this.ref.changeSlots(spec.as_id, WATCHED, () => list.push(fresh));
    } else if (op.action === 'exist') {
      this.expectErrno(this.setSlot(s, 0), 0, 'deleting a slot');
      this.zapped(spec.as_id);
      this.ref.changeSlots(spec.as_id, WATCHED, () => list.splice(list.indexOf(s), 1));
    } else {
      const old = s.gfn;
      if (gfn === old) return;
      s.gfn = gfn;
      const bad = this.overlaps(spec.as_id, gfn, spec.pages, spec.id);
      const errno = this.setSlot(s, spec.pages);
      s.gfn = old;
      this.expectErrno(errno, bad ? EEXIST : 0, 'moving a slot');
      if (bad) return;
      // Zapped while the slot was nowhere: accesses since then found it at its new place.
      this.zapped(spec.as_id);
      this.ref.changeSlots(spec.as_id, WATCHED, () => (s.gfn = gfn));
      s.maps.clear();
    }
  }

  /** A slot that logs, the nearest after this one if it does not. */
  private loggingSlot(n: number): ReturnType<World['slotState']> {
    const { length } = this.mode.slots;
    for (let i = 0; i < length; i++) {
      const found = this.slotState((n + i) % length);
      if (found.s?.logging) return found;
    }
    return this.slotState(n);
  }

  private opDirtyGet(n: number): void {
    const { spec, s } = this.loggingSlot(n);
    if (!s?.logging) return;
    const r = this.m.getDirtyLog(spec.as_id, spec.id);
    this.expectErrno(r.errno, 0, 'KVM_GET_DIRTY_LOG');
    this.checkBitmap(s, r.bitmap, 'KVM_GET_DIRTY_LOG');
    if (!this.m.config.dirtyLogManualProtect) s.dirty.clear();
  }

  private opDirtyClear(n: number, mask: number): void {
    const { spec, s } = this.loggingSlot(n);
    if (!s?.logging || !this.m.config.dirtyLogManualProtect) return;
    const words = Math.ceil(spec.pages / 32);
    const bits = Uint32Array.from({ length: words }, (_, i) => (mask % 5 === 0 ? 0xffffffff : Math.imul(mask, 2654435761 + i)));
    const r = this.m.clearDirtyLog(spec.as_id, spec.id, 0, spec.pages, bits);
    this.expectErrno(r.errno, 0, 'KVM_CLEAR_DIRTY_LOG');
    for (const p of s.dirty) if ((bits[p >>> 5] >>> (p & 31)) & 1) s.dirty.delete(p);
  } // prettier-ignore

  /** KVM_SUBPAGES_SET_ACCESS: page after page, as far as there is a slot. */
  private opSpp(op: Extract<Op, { kind: 'spp' }>): void {
    const { ref, m } = this;
    const { gfn, maps } = op;
    // What sub-pages of read-only memory may do nobody says.
    const writable = maps.findIndex((_, i) => ref.slotAt(0, gfn + i)?.spec.readonly === true);
    if (writable >= 0) return;
    this.tally.spp++;
    const hole = maps.findIndex((_, i) => ref.slotAt(0, gfn + i) === null);
    const done = hole < 0 ? maps.length : hole;
    const r = m.setSubpages(gfn, maps);
    this.expectErrno(r.errno, hole < 0 ? 0 : EFAULT, 'KVM_SUBPAGES_SET_ACCESS');
    if (r.npages !== done) throw new GoldenFailure(`KVM_SUBPAGES_SET_ACCESS did ${r.npages} pages, not ${done}`);
    for (let i = 0; i < done; i++) {
      const s = ref.slotAt(0, gfn + i) as SlotState;
      if (maps[i] === 0xffffffff) s.maps.delete(gfn + i - s.gfn);
      else s.maps.set(gfn + i - s.gfn, maps[i]);
    }
    for (const first of [gfn - 1, gfn, gfn + 1]) {
      if (ref.slotAt(0, first) === null) continue;
      const [access] = m.getSubpages(first, 1).access;
      if (access !== ref.mapAt(0, first))
        throw new GoldenFailure(`KVM_SUBPAGES_GET_ACCESS of gfn ${hex(first)}: ${hex(access)}, not ${hex(ref.mapAt(0, first))}`);
    }
    for (const offset of [op.offset, op.offset ^ 0x380])
      this.access(this.cpus[EDITOR], null, BigInt(gfn * PAGE + offset), 'store', 4, false, false, BigInt(offset));
  } // prettier-ignore

  private checkBitmap(s: SlotState, bitmap: Uint32Array, what: string): void {
    for (const p of s.dirty)
      if (((bitmap[p >>> 5] >>> (p & 31)) & 1) === 0)
        throw new GoldenFailure(`${what} of slot ${s.spec.as_id}:${s.spec.id}: page ${p} was written and is not reported`);
  }

  /** Pages that KVM shadows: user space that writes to them behind KVM's back gets what it deserves. */
  private shadowed(page: number): boolean {
    const { kvm } = this.m;
    if (this.tdp) return false;
    for (const sps of kvm.mmu_page_hash.values())
      for (const sp of sps)
        if (sp_has_gptes(this.m, sp) && !is_obsolete_sp(kvm, sp))
          if (this.ref.pageAt(kvm_mmu_role_as_id(this.m, sp.role), sp.gfn) === page) return true;
    return false;
  }

  private opInvalidate(n: number, index: number): void {
    const { spec } = this.slotState(n);
    const huge = BACKINGS.find((b) => b.name === spec.backing)!.huge;
    const first = huge ? spec.first + 512 * (index % (spec.pages / 512)) : spec.first + (index % spec.pages);
    const count = huge ? 512 : 1;
    const page = pageIn(spec.backing, first);
    if (isSaveArea(page)) return;
    for (let i = 0; i < count; i++) if (this.shadowed(page + i)) return;
    // PDPTEs of zeros are fine, but a root must stay.
    this.m.invalidateBacking(spec.backing, first * PAGE, count * PAGE);
    for (let i = 0; i < count; i++) if (this.ref.touched.has(page + i)) this.ref.zero(page + i);
  }

  private opHostWrite(op: Extract<Op, { kind: 'host-write' }>): void {
    const { spec } = this.slotState(op.slot);
    const index = op.index % Math.min(spec.pages, 24);
    const page = pageIn(spec.backing, spec.first + index);
    if (isSaveArea(page) || this.shadowed(page)) return;
    const bytes = Uint8Array.from({ length: 8 }, (_, i) => Number((op.value >> BigInt(8 * i)) & 0xffn));
    this.m.writeBacking(spec.backing, (spec.first + index) * PAGE + op.offset, bytes);
    this.ref.write(page, op.offset, 8, op.value);
  }

  // ---- Accesses ----

  private access(
    cpu: Cpu,
    page: LinearPage | null,
    gva: bigint,
    kind: AccessKind,
    size: 1 | 2 | 4 | 8,
    user: boolean,
    ac: boolean,
    value: bigint,
  ): void {
    const { tally } = this;
    const visited: Visited[] = [];
    const offset = Number(gva & 0xfffn);
    const { mmio_gfn, mmio_gen } = this.vcpu(cpu);
    this.remembered = this.m.caps.mmioCacheGenerationOfAs0 && mmio_gen === this.m.kvm.memslots[0].generation ? mmio_gfn : -1;
    const outs: Outcome[] | null =
      page === null
        ? [{ kind: 'access', gpa: Number(gva) - offset, via: null }]
        : cpu.outcomes(page, kind, user, ac, false, visited);
    if (page !== null && outs !== null && !ac && this.keptOpen(cpu, kind, user)) outs.push(...(cpu.outcomes(page, kind, user, true, false, null) ?? []));
    // An emulated read-modify-write walks twice, so it may take both a remembered translation and the present one.
    // The same goes for a slot that stale MMIO sptes hide: KVM may read the device and write the memory.
    const torn = kind === 'rmw' && outs !== null && ((outs.length > 1 && outs.some((o) => this.isMmio(cpu, o))) || outs.some((o) => this.isYoung(cpu, o)));
    if (outs === null || torn || this.confused(cpu, visited, offset)) {
      tally.skipped++;
      return;
    }
    // The entries as they are now: where nothing else was possible, they are what was walked.
    const direct: Visited[] = [];
    if (page !== null && outs.length === 1) cpu.outcomes(page, kind, user, ac, true, direct);
    const vcpu = this.vcpu(cpu);
    const { regs } = vcpu;
    const insn =
      kind === 'load'
        ? insnLoad(gva, size)
        : kind === 'store'
          ? insnStore(gva, size, value)
          : kind === 'rmw'
            ? insnRmw(gva, size, value)
            : insnFetch(gva);
    const acBefore = regs.rflags & RFLAGS.AC;
    if (ac) regs.rflags |= RFLAGS.AC;
    if (user) setCpl(vcpu, 3);
    if (ac || user) this.m.registersChanged(vcpu);
    const r = this.m.run(vcpu, insn);
    if (ac) regs.rflags = (regs.rflags & ~RFLAGS.AC) | acBefore;
    if (user) setCpl(vcpu, 0);
    if (ac || user) this.m.registersChanged(vcpu);
    if (kind === 'fetch' && (r.end === 'error' || r.exception?.vector === 6)) this.m.setRegs(vcpu, { rflags: regs.rflags });

    if (outs.length === 1) tally.promised++;
    else tally.several++;
    const text = `vCPU ${cpu.id}: ${kind} of ${size} at ${hex(gva)}${user ? ' user' : ''}${ac ? ' ac' : ''}`;
    const stored: { page: number; offset: number; size: number }[] = [];
    const written = kind === 'store' || kind === 'rmw';
    const done = outs.find((o) => this.matches(cpu, o, r, kind, size, offset, gva, value, visited));
    if (done === undefined)
      throw new GoldenFailure(`${text}: ${resultText(r)}; allowed: ${outs.map((o) => this.outcomeText(cpu, o, kind, offset)).join(' | ')}`);
    if (done.kind === 'access') {
      const slot = this.ref.slotAt(cpu.as, done.gpa / PAGE);
      if (slot === null) tally.mmio++;
      else if (r.end === 'spp') tally.sppDenied++;
      else if (written && slot.spec.readonly) tally.readonlyWrites++;
      else tally.ram++;
      if (written && slot !== null && !slot.spec.readonly && r.exits.length === 0) this.stored(cpu, outs, r, kind, size, offset, value, visited, stored);
    } else tally.faults++;
    this.takeFlags(cpu, visited, gva, written, text);
    const simple = outs.length === 1 && done.kind === 'access' && page !== null && sameEntries(visited, direct);
    // A cached MMIO access of shadow paging does without a walk, so nobody sets D (v6.1 vcpu_mmio_gva_to_gpa()).
    const cached = !this.tdp && done.kind === 'access' && this.ref.slotAt(cpu.as, done.gpa / PAGE) === null;
    if (simple) this.mustHaveFlags(cpu, visited, written && !cached, stored, text);
    if (page === null) return;
    for (const k of KINDS) this.probe(cpu, page, k, user, ac);
    if (!cpu.smm) for (const k of KINDS) this.probe(cpu, page, k, !user, ac);
  } // prettier-ignore

  private isMmio(cpu: Cpu, o: Outcome): boolean {
    return o.kind === 'access' && this.ref.slotAt(cpu.as, o.gpa / PAGE)?.spec.readonly !== false;
  }

  /**
   * Whether stale MMIO information may hide a slot. A sync of an unsync page gives stale MMIO sptes the present generation, also where a
   * memslot has come meanwhile; the kernel does so, too (v6.1 sync_mmio_spte()): until the next zap the new slot may be hidden. And the one
   * frame that a vCPU remembers as MMIO stays so in the other address space, and as long as address space 0 does not change (up to 6.1.176
   * vcpu_match_mmio_gen()).
   */
  private mayBeHidden(gfn: number, slot: SlotState | null): boolean {
    if (slot === null) return false;
    return (!this.tdp && (slot.young || slot.remembered)) || gfn === this.remembered;
  }

  private isYoung(cpu: Cpu, o: Outcome): boolean {
    return o.kind === 'access' && this.mayBeHidden(o.gpa / PAGE, this.ref.slotAt(cpu.as, o.gpa / PAGE));
  }

  /**
   * KVM's emulator takes the address of the exit for that of the operand if their page offsets agree. For an exit that a guest table in a
   * hole caused that is wrong; the kernel has this, too (v6.1 emulator_read_write_onepage()). For a table in read-only memory, whose
   * accessed flag the processor wants to set, KVM unprotects and retries for ever (v6.1 kvm_mmu_page_fault(); mended in v6.12).
   */
  private confused(cpu: Cpu, visited: readonly Visited[], offset: number): boolean {
    if (!this.tdp) return false;
    // Writes to guest tables by the processor itself do not ask the SPPT, and KVM takes them for what the SPPT would say.
    if (this.mode.spp && visited.some((v) => this.ref.mapAt(cpu.as, v.gfn) !== 0xffffffff)) return true;
    return visited.some((v) => (v.page < 0 ? v.offset === offset : this.ref.slotAt(cpu.as, v.gfn)?.spec.readonly !== false));
  }

  /** The accessed and dirty bits of walked entries that lie in `size` bytes at an offset of a page. */
  private flagBits(visited: readonly Visited[], page: number, offset: number, size: number): bigint {
    let bits = 0n;
    for (const v of visited)
      if (v.page === page && v.offset >= offset && v.offset < offset + size) bits |= 0x60n << BigInt(8 * (v.offset - offset));
    return bits;
  }

  private pfnOf(page: number): number {
    const { name, index } = placeOf(page);
    return this.m.host.find(name)!.pfns[index];
  }

  private actual32(page: number, offset: number): number {
    const pfn = this.pfnOf(page);
    return pfn < 0 ? 0 : this.m.mem.read32(pfn * PAGE + (offset & ~3)) >>> 0;
  }

  private actual(page: number, offset: number, size: number): bigint {
    const pfn = this.pfnOf(page);
    if (pfn < 0) return 0n;
    let v = 0n;
    for (let i = size - 1; i >= 0; i--) v = (v << 8n) | BigInt(this.m.mem.read8(pfn * PAGE + offset + i));
    return v;
  }

  /** Whether what happened is this outcome. Memory is looked at for stores only. */
  private matches(
    cpu: Cpu,
    o: Outcome,
    r: RunResult,
    kind: AccessKind,
    size: number,
    offset: number,
    gva: bigint,
    value: bigint,
    visited: readonly Visited[],
  ): boolean {
    if (o.kind === 'gp') return r.exception?.vector === 13 && r.exits.length === 0;
    // With shadow paging KVM knows an MMIO page without a walk: it reads for a read-modify-write before it finds out that writing is
    // not allowed (v6.1 x86_emulate_insn()).
    const early = kind === 'rmw' && !this.tdp && r.exits.length === 1 && r.exits[0].reason === 'mmio' && !r.exits[0].write;
    if (o.kind === 'fault')
      return r.exception?.vector === 14 && r.exception.errorCode === o.code && r.exception.cr2 === gva && (r.exits.length === 0 || early);
    const mask = (1n << BigInt(8 * size)) - 1n;
    const gpa = o.gpa + offset;
    const slot = this.ref.slotAt(cpu.as, o.gpa / PAGE);
    if (kind === 'fetch') {
      if (slot === null) return r.exception?.vector === 6 || (r.exception === null && r.end === 'error');
      return r.exception === null && r.end === 'done' && r.exits.length === 0;
    }
    if (kind !== 'load' && slot !== null && this.ref.forbidden(cpu.as, o.gpa / PAGE, offset, size)) {
      const [e] = r.exits;
      return r.exception === null && r.end === 'spp' && r.exits.length === 1 && e.reason === 'spp' && e.gpa === gpa && this.unchanged(cpu, o, offset, size);
    }
    if (r.exception !== null || r.end !== 'done') return false;
    const mmio = (i: number, write: boolean, data: bigint | null): boolean => {
      const e = r.exits[i];
      if (e?.reason !== 'mmio' || e.write !== write || e.fragments.length !== 1) return false;
      const f = e.fragments[0];
      return f.gpa === gpa && f.len === size && (data === null || (f.data & mask) === data);
    };
    const hidden = this.mayBeHidden(o.gpa / PAGE, slot) && r.exits.length > 0;
    if (slot === null || hidden) {
      const device =
        kind === 'load'
          ? r.exits.length === 1 && mmio(0, false, r.value)
          : kind === 'store'
            ? r.exits.length === 1 && mmio(0, true, value)
            : r.exits.length === 2 && mmio(0, false, r.value) && r.value !== null && mmio(1, true, (r.value + value) & mask);
      if (device || slot === null) return device;
    }
    const page = this.ref.pageAt(cpu.as, o.gpa / PAGE);
    const before = this.ref.read(page, offset, size);
    // The walk sets flags first: whoever reads the entry sees them.
    const flagged = (v: bigint | null): boolean =>
      v !== null && ((v ^ before) & ~this.flagBits(visited, page, offset, size)) === 0n && (before & ~v) === 0n;
    if (kind === 'load') return r.exits.length === 0 && flagged(r.value);
    if (kind === 'rmw' && !flagged(r.value)) return false;
    const after = kind === 'store' ? value : ((r.value ?? 0n) + value) & mask;
    if (slot.spec.readonly) return r.exits.length === 1 && mmio(0, true, after);
    return r.exits.length === 0 && this.actual(page, offset, size) === after;
  } // prettier-ignore

  /** Whether a place still holds what it held before. */
  private unchanged(cpu: Cpu, o: Extract<Outcome, { kind: 'access' }>, offset: number, size: number): boolean {
    const page = this.ref.pageAt(cpu.as, o.gpa / PAGE);
    return this.actual(page, offset, size) === this.ref.read(page, offset, size);
  }

  /** Enters a store into the reference memory: at the one place where memory changed. */
  private stored(
    cpu: Cpu,
    outs: readonly Outcome[],
    r: RunResult,
    kind: AccessKind,
    size: number,
    offset: number,
    value: bigint,
    visited: readonly Visited[],
    stored: { page: number; offset: number; size: number }[],
  ): void {
    const mask = (1n << BigInt(8 * size)) - 1n;
    const places = new Map<number, { gfn: number; after: bigint; changed: boolean }>();
    for (const o of outs) {
      if (o.kind !== 'access') continue;
      const gfn = o.gpa / PAGE;
      const slot = this.ref.slotAt(cpu.as, gfn);
      if (slot === null || slot.spec.readonly) continue;
      const page = this.ref.pageAt(cpu.as, gfn);
      const before = this.ref.read(page, offset, size);
      const after = kind === 'store' ? value : ((r.value ?? 0n) + value) & mask;
      const flagged = ((r.value ?? 0n) ^ before) & ~this.flagBits(visited, page, offset, size);
      if (this.actual(page, offset, size) !== after || (kind === 'rmw' && flagged !== 0n)) continue;
      places.set(page, { gfn, after, changed: before !== after });
    }
    const changed = [...places].filter(([, p]) => p.changed);
    if (changed.length > 1) throw new GoldenFailure('one store changed two places');
    const chosen = changed.length === 1 ? changed : places.size === 1 ? [...places] : [];
    for (const [page, p] of chosen) {
      // A store into an entry of its own walk replaces one whose flags are set by then.
      for (const v of visited)
        if (v.page === page && v.offset < offset + size && offset < v.offset + 4)
          this.ref.setFlags(page, v.offset, (this.ref.read32(page, v.offset) | 0x20 | (v.leaf ? 0x40 : 0)) >>> 0);
      this.ref.write(page, offset, size, p.after);
      const names = new Set(outs.flatMap((o) => (o.kind === 'access' && this.ref.pageAt(cpu.as, o.gpa / PAGE) === page ? [o.gpa / PAGE] : [])));
      if (names.size === 1) this.ref.markDirty(cpu.as, p.gfn);
    }
    for (const page of places.keys()) stored.push({ page, offset, size });
  } // prettier-ignore

  /** Accessed and dirty flags that the processor, or KVM in its place, may have set on the way. */
  private takeFlags(
    cpu: Cpu,
    visited: readonly Visited[],
    gva: bigint,
    write: boolean,
    text: string,
  ): void {
    for (const v of visited) {
      if (v.page < 0) continue;
      const had = this.ref.read32(v.page, v.offset);
      const has = this.actual32(v.page, v.offset);
      if (had === has) continue;
      // Deciding whether to retry an instruction, KVM walks as for a write; it does for MMIO in the first linear page, which its cache
      // of one entry cannot hold (v6.1 retry_instruction()).
      const retried = !this.tdp && gva < 4096n;
      const leaf = visited.some((x) => x.leaf && x.page === v.page && x.offset === v.offset);
      const may = 0x20 | (leaf && (write || retried) ? 0x40 : 0);
      if ((has & ~had & ~may) !== 0 || (had & ~has) !== 0)
        throw new GoldenFailure(
          `${text}: the entry at gfn ${hex(v.gfn)} offset ${hex(v.offset)} turned from ${hex(had)} to ${hex(has)}`,
        );
      this.ref.setFlags(v.page, v.offset, has);
      this.ref.markDirty(cpu.as, v.gfn);
    }
  }

  private mustHaveFlags(
    cpu: Cpu,
    visited: readonly Visited[],
    write: boolean,
    stored: readonly { page: number; offset: number; size: number }[],
    text: string,
  ): void {
    for (const v of visited) {
      if (v.page < 0 || this.ref.slotAt(cpu.as, v.gfn)?.spec.readonly !== false) continue;
      if (stored.some((s) => s.page === v.page && s.offset < v.offset + 4 && v.offset < s.offset + s.size)) continue;
      const must = 0x20 | (v.leaf && write ? 0x40 : 0);
      const has = this.ref.read32(v.page, v.offset);
      if ((has & must) !== must)
        throw new GoldenFailure(
          `${text}: the entry at gfn ${hex(v.gfn)} offset ${hex(v.offset)} is ${hex(has)}, without ${(has & 0x20) === 0 ? 'A' : 'D'}`,
        );
    }
  }

  // ---- The golden property ----

  /** Asks the processor, without letting it do anything, what it would do: it must be something that it may do. */
  private probe(cpu: Cpu, page: LinearPage, kind: AccessKind, user: boolean, ac: boolean): void {
    const vcpu = this.vcpu(cpu);
    if (vcpu.requests.size > 0 || vcpu.mmu.root.hpa < 0 || vcpu.smi_pending) return;
    const { tally } = this;
    tally.probes++;
    const t = vcpu.translator;
    const type = kind === 'load' ? ACC_READ : kind === 'store' ? ACC_WRITE : ACC_FETCH;
    const status = t.translate(page.lo, page.hi, type | (user ? ACC_USER : 0) | (ac ? ACC_AC : 0) | ACC_DRY);
    if (status !== OK && !(this.tdp && (status === PF || status === NON_CANONICAL))) return;
    const { hpa, errorCode } = t;
    const text = `vCPU ${cpu.id} would ${kind} at ${hex(page.gva)}${user ? ' user' : ''}${ac ? ' ac' : ''}`;
    const outs: Outcome[] | null = cpu.paging
      ? cpu.outcomes(page, kind, user, ac, this.tdp, null)
      : [{ kind: 'access', gpa: page.lo, via: null }];
    if (outs === null) return;
    if (status !== OK) {
      const ok = outs.some((o) => (status === PF ? o.kind === 'fault' && o.code === errorCode : o.kind === 'gp'));
      if (!ok)
        throw new GoldenFailure(`${text}: status ${status} error ${hex(errorCode)}; allowed: ${outs.map((o) => this.outcomeText(cpu, o, kind, 0)).join(' | ')}`);
      return;
    }
    tally.probesOk++;
    if (this.keptOpen(cpu, kind, user)) return;
    const reasons: string[] = [];
    for (const o of outs) {
      const why = this.refusal(cpu, o, kind, hpa);
      if (why === null) return;
      reasons.push(why);
    }
    throw new GoldenFailure(`${text}: it gets hpa ${hex(hpa)}, but ${reasons.join('; or ')}`);
  } // prettier-ignore

  /**
   * With CR0.WP = 0 and SMAP on, a write by the kernel with AC = 1 to a read-only user page makes a shadow entry for the kernel alone,
   * through which SMAP no longer applies. The kernel has this gap, too (v6.1 paging_tmpl.h page_fault()).
   */
  private keptOpen(cpu: Cpu, kind: AccessKind, user: boolean): boolean {
    return !this.tdp && !user && kind !== 'fetch' && (cpu.cr0 & CR0.WP) === 0n && (cpu.cr4 & CR4.SMAP) !== 0n;
  }

  /** Why an outcome does not justify that the tables lead to `hpa`; null when it does. */
  private refusal(cpu: Cpu, o: Outcome, kind: AccessKind, hpa: number): string | null {
    if (o.kind !== 'access') return `the guest's tables say ${this.outcomeText(cpu, o, kind, 0)}`;
    const gfn = Math.floor(o.gpa / PAGE);
    const slot = this.ref.slotAt(cpu.as, gfn);
    if (slot === null) return `gfn ${hex(gfn)} has no memslot`;
    const pfn = this.pfnOf(this.ref.pageAt(cpu.as, gfn));
    if (pfn !== Math.floor(hpa / PAGE)) return `gfn ${hex(gfn)} is at pfn ${hex(pfn)}`;
    if (!this.tdp && o.via && !o.via.accessed) return 'an entry on the way was never accessed';
    if (kind !== 'store') return null;
    if (slot.spec.readonly) return `gfn ${hex(gfn)} is read-only`;
    if (this.ref.forbidden(cpu.as, gfn, 0, 1)) return `the sub-page may not be written: the map of gfn ${hex(gfn)} is ${hex(this.ref.mapAt(cpu.as, gfn))}`;
    if (!this.tdp && o.via && !o.via.dirty) return "the page's entry is clean";
    if (slot.logging && !this.m.config.pml) {
      const bitmap = this.m.kvm.memslots[cpu.as].byId(slot.spec.id)?.dirty_bitmap;
      const p = gfn - slot.gfn;
      if (!bitmap || ((bitmap[p >>> 5] >>> (p & 31)) & 1) === 0) return `gfn ${hex(gfn)} is logged and not dirty yet`;
    }
    return null;
  }

  private outcomeText(cpu: Cpu, o: Outcome, kind: AccessKind, offset: number): string {
    if (o.kind === 'gp') return '#GP';
    if (o.kind === 'fault') return `#PF ${hex(o.code)}`;
    const gfn = Math.floor(o.gpa / PAGE);
    const slot = this.ref.slotAt(cpu.as, gfn);
    const at = `gpa ${hex(o.gpa + offset)}`;
    if (slot === null) return `MMIO at ${at}`;
    const p = this.ref.pageAt(cpu.as, gfn);
    const place = placeOf(p);
    return `${slot.spec.readonly && kind !== 'load' ? 'read-only ' : ''}RAM at ${at} (${place.name}+${hex(place.index * PAGE)}, ${hex(this.ref.read(p, offset & ~7, 8))})`;
  } // prettier-ignore

  // ---- Checks after operations ----

  private afterwards(op: Op): void {
    for (const cpu of this.cpus) {
      const { regs, kvm } = this.vcpu(cpu);
      const smm = is_smm(kvm.vcpus[cpu.id]);
      if (smm !== cpu.smm) throw new GoldenFailure(`vCPU ${cpu.id} is ${smm ? '' : 'not '}in SMM`);
      const cr0 = CR0.PE | CR0.PG | CR0.WP;
      if ((regs.cr0 & cr0) !== (cpu.cr0 & cr0) || regs.cr3 !== cpu.cr3 || regs.cr4 !== cpu.cr4 || regs.efer !== cpu.efer)
        throw new GoldenFailure(
          `vCPU ${cpu.id} after ${op.kind}: cr0 ${hex(regs.cr0)} cr3 ${hex(regs.cr3)} cr4 ${hex(regs.cr4)} efer ${hex(regs.efer)}, wanted ${hex(cpu.cr0)} ${hex(cpu.cr3)} ${hex(cpu.cr4)} ${hex(cpu.efer)}`,
        );
    }
    // One more page each time, on the vCPUs in turn.
    const cpu = this.cpus[this.steps % GUEST_VCPUS];
    const page = this.mode.pages[(this.steps * 7) % Math.min(48, this.mode.pages.length)];
    for (const k of KINDS) this.probe(cpu, page, k, (this.steps & 4) !== 0 && !cpu.smm, (this.steps & 8) !== 0);
  }

  private audit(): void {
    this.tally.audits++;
    const findings = auditMachine(this.m).filter((f) => !this.knownFlaw(f));
    if (findings.length > 0) throw new GoldenFailure(`audit: ${findings.map(findingText).join('; ')}`);
  }

  /** What {@link matches} calls hidden: a sync gave a stale MMIO spte the present generation, although there is a memslot by now; a vCPU that uses it remembers it. */
  private knownFlaw(f: Finding): boolean {
    if ((f.rule !== 'M2' && f.rule !== 'M3') || this.tdp || f.gfn === null) return false;
    const as = f.page !== null ? kvm_mmu_role_as_id(this.m, f.page.role) : this.cpus[f.vcpu ?? 0].as;
    const slot = this.ref.slotAt(as, f.gfn);
    return slot !== null && (slot.young || (f.rule === 'M3' && slot.remembered));
  }

  /** Everything that is too much for each operation. */
  checkAll(): void {
    const { ref, m } = this;
    for (const page of ref.touched) {
      const pfn = this.pfnOf(page);
      const frame = pfn < 0 ? undefined : m.mem.peek(pfn);
      const at = page * 1024;
      // The save area of SMM is the machine's own.
      if (isSaveArea(page)) continue;
      for (let w = 0; w < 1024; w++) {
        const has = frame === undefined ? 0 : frame[w] >>> 0;
        if (has !== ref.words[at + w]) {
          const { name, index } = placeOf(page);
          throw new GoldenFailure(`${name}+${hex(index * PAGE + w * 4)} holds ${hex(has)}, not ${hex(ref.words[at + w])}`);
        }
      }
    }
    for (const as of this.spaces)
      for (const s of ref.slots[as]) {
        const bitmap = m.kvm.memslots[as].byId(s.spec.id)?.dirty_bitmap;
        // With PML the processor's log may not have been read yet.
        if (s.logging && bitmap && !m.config.pml) this.checkBitmap(s, bitmap, 'the bitmap');
      }
    ref.prune(Math.min(...this.cpus.slice(0, GUEST_VCPUS).map((c) => c.horizon)));
  } // prettier-ignore
}

/** Pages of state-save areas: the machine's own. */
const isSaveArea = (page: number): boolean =>
  page <= pageIn('smram', SAVE_GFN - 0x30) && page > pageIn('smram', SAVE_GFN - 0x30) - GUEST_VCPUS;

const sameEntries = (a: readonly Visited[], b: readonly Visited[]): boolean =>
  a.length === b.length && a.every((v, i) => v.page === b[i].page && v.offset === b[i].offset);

function setCpl(vcpu: KvmVcpu, cpl: number): void {
  vcpu.regs.cs.dpl = cpl;
  vcpu.regs.ss.dpl = cpl;
}

/** Flat segments of a width. */
function flat(bits: 32 | 64): { cs: ReturnType<typeof segment>; ss: ReturnType<typeof segment>; ds: ReturnType<typeof segment>; es: ReturnType<typeof segment> } {
  const db = bits === 32 ? 1 : 0;
  const data = segment({ selector: 0x10, db });
  return { cs: segment({ selector: 8, type: 0xb, l: bits === 64 ? 1 : 0, db }), ss: { ...data }, ds: { ...data }, es: { ...data } };
} // prettier-ignore

function resultText(r: RunResult): string {
  if (r.exception)
    return `#${r.exception.vector} error ${hex(r.exception.errorCode ?? 0)} cr2 ${hex(r.exception.cr2 ?? 0n)}`;
  const exits = r.exits.map((e) =>
    e.reason === 'mmio'
      ? `mmio ${e.write ? 'write' : 'read'} ${e.fragments.map((f) => `${hex(f.gpa)}/${f.len}=${hex(f.data)}`).join(',')}`
      : e.reason,
  );
  return `${r.end}${r.value === null ? '' : ` value ${hex(r.value)}`} ${exits.join(' ')} ${r.text}`;
}
