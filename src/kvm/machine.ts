/**
 * A simulated machine: a processor per vCPU, host-physical memory, and KVM with one VM. Everything that a scenario, a debugger or a
 * test does to it goes through here. Deterministic: the same calls give the same states, frames included.
 */
import type { CpuFeatures, Quirk } from '../hw/features';
import { amdFeatures, intelFeatures, QUIRKS } from '../hw/features';
import { EVENT_TYPE, type GuestEvent, type VmExit } from '../hw/exits';
import type { Insn } from '../hw/insn';
import { PhysMemory } from '../hw/memory';
import { Processor } from '../hw/processor';
import { CpuState, CR0, EFER } from '../hw/regs';
import { Translator } from '../hw/translate';
import type { WhyRecord } from '../hw/why';
import { parseKernel } from '../words/kernels';
import { cloneGraph, declareImmutable } from './clone';
import { kernelCaps, type KernelCaps } from './eras';
import { Host, type Backing } from './host';
import { configureProcessor, MachineMemory } from './hw_setup';
import {
  kvm_leave_nested,
  nested_get_tdp_pdptr,
  nested_get_tdp_pgd,
  nested_init,
  nested_is_exception_vmexit,
} from './nested';
import type { MachineConfig, RegisterSet, RunResult } from './machine-config';
import { MachineRecorder } from './recorder';
import { is_smm, Kvm, KvmVcpu, type KvmMemorySlot, type KvmMmu } from './kvm_host';
import {
  kvm_gpa_to_hpa,
  kvm_set_memory_region,
  kvm_vcpu_gfn_to_memslot,
  type IoctlResult,
  type PfnResult,
  type UserMemoryRegion,
} from './kvm_main';
import { kvm_mmu_after_set_cpuid, kvm_mmu_reset_context } from './mmu/calc_role';
import { kvm_vm_ioctl_clear_dirty_log, kvm_vm_ioctl_get_dirty_log, type DirtyLogResult } from './mmu/dirty';
import { KvmPageFault, type RET_PF } from './mmu/fault';
import { kvm_mmu_notifier_invalidate_range_end, kvm_mmu_notifier_invalidate_range_start } from './mmu/notifier';
import { rsvd_bits } from './mmu/metadata';
import { PFERR_WRITE, translate_nested_gpa, type GuestWalker } from './mmu/paging_tmpl';
import { kvm_mmu_unload } from './mmu/roots';
import { kvm_vm_ioctl_get_subpages, kvm_vm_ioctl_set_subpages, type SubpagesResult } from './mmu/spp';
import { SpteFormat } from './mmu/spte';
import { kvm_mmu_zap_all } from './mmu/zap';
import { KernelFrames } from './functions';
import { emit, enter, leave, type Observer } from './observer';
import { RoleCodec } from './roles';
import { peek_mode, smramFlags, smramMemslots } from './smram';
import { vmx_set_tss_addr } from './vmx';
import { vcpu_run, type GuestWork, type UserExit } from './x86';
import { kvm_make_request } from './x86_requests';

export { machineConfig } from './machine-config';
export type { MachineConfig, RegisterSet, RunResult } from './machine-config';
export type { Backing } from './host';
export type { DirtyLogResult } from './mmu/dirty';
export type { IoctlResult, UserMemoryRegion } from './kvm_main';
export type { SubpagesResult } from './mmu/spp';
export type { UserExit } from './x86';

const DF_VECTOR = 8;

/** exception_class() (SDM vol. 3A table 6-4) */
function exception_class(vector: number): 'benign' | 'contributory' | 'page-fault' {
  if (vector === 14) return 'page-fault';
  return [0, 10, 11, 12, 13].includes(vector) ? 'contributory' : 'benign';
}

const MEM_READ_RESULT = 0xd0000000n;

declareImmutable(RoleCodec);

/** kvm_x86_ops.flush_tlb_… of the two modules. */
const FLUSHES = {
  intel: {
    all: 'vmx_flush_tlb_all',
    current: 'vmx_flush_tlb_current',
    guest: 'vmx_flush_tlb_guest',
    gva: 'vmx_flush_tlb_gva',
  },
  amd: {
    all: 'svm_flush_tlb_all',
    current: 'svm_flush_tlb_current',
    guest: 'svm_flush_tlb_guest',
    gva: 'svm_flush_tlb_gva',
  },
} as const;

/** A copy of a whole machine, to be restored any number of times. */
export interface MachineState {
  readonly machine: Machine;
}

export class Machine {
  readonly config: MachineConfig;
  readonly caps: KernelCaps;
  /** open KVM functions under the names of the kernel */
  readonly frames: KernelFrames;
  readonly mem: PhysMemory;
  readonly host: Host;
  readonly roles: RoleCodec;
  readonly spte: SpteFormat;
  readonly kvm: Kvm;
  /** CPUID of the guest */
  readonly guestFeatures: ReadonlySet<string>;
  readonly hostFeatures: ReadonlySet<string>;
  readonly cpu: CpuFeatures;
  readonly tdpEnabled: boolean;
  readonly tdpMmuEnabled: boolean;
  /** sub-page permissions are in use */
  readonly sppEnabled: boolean;
  /** max_huge_page_level */
  readonly maxHugePageLevel: number;
  readonly nrips: boolean;
  /** no translation survives a VM entry (emulated processors) */
  readonly flushOnEntry: boolean;
  readonly decodeAssists: boolean;
  /** memslot flags beyond the merged ones (the SMRAM alternatives) */
  readonly extraMemslotFlags: number;
  /** one fault at a time: KVM's struct lives on the stack */
  readonly fault = new KvmPageFault();
  readonly pfnResult: PfnResult = { kind: 'noslot', pfn: -1, writable: false };
  /** the record of the last walk that somebody watched */
  lastWhy: WhyRecord | null = null;
  lastFaultWrite = false;
  /** length of the instruction that caused the EPT violation being handled; 0 for one without bytes */
  exitInsnLength = 0;
  /** `idt none` by vCPU: survives SMM */
  readonly idtPolicy = new Map<number, boolean>();
  readonly warnings: string[] = [];
  /** MMIO reads answered so far by the default policy */
  mmioReads = 0;
  lastPioValue = 0n;
  private pending: GuestWork | null = null;
  private exitToUser: UserExit | null = null;
  private pioDone = false;
  private observer_: Observer | null = null;
  private recorder: MachineRecorder | null = null;

  constructor(config: MachineConfig) {
    this.config = config;
    const kernel = parseKernel(config.kernel);
    this.caps = Object.freeze(kernelCaps(kernel));
    this.frames = new KernelFrames(kernel);
    this.mem = new PhysMemory();
    this.host = new Host(this.mem, config.maxphyaddr);
    this.roles = new RoleCodec(kernel);
    this.spte = new SpteFormat(config, kernel);
    const quirks = new Set(config.quirks.filter((q): q is Quirk => q in QUIRKS));
    this.guestFeatures = new Set(config.features);
    this.hostFeatures = new Set([...config.features, 'nx', 'lm', 'pdpe1gb']);
    const f = this.guestFeatures;
    const over: Partial<CpuFeatures> = {
      maxphyaddr: config.guestMaxphyaddr ?? config.maxphyaddr,
      nx: f.has('nx'),
      smep: f.has('smep'),
      smap: f.has('smap'),
      pku: f.has('pku'),
      pks: f.has('pks'),
      la57: f.has('la57'),
      pcid: f.has('pcid'),
      invpcid: f.has('invpcid'),
      lam: f.has('lam'),
      shstk: f.has('shstk'),
      eptAd: config.ept_ad,
      quirks,
    };
    this.cpu = config.vendor === 'intel' ? intelFeatures(over) : amdFeatures(over);
    this.tdpEnabled = config.paging !== 'shadow';
    this.tdpMmuEnabled = this.tdpEnabled && config.tdp_mmu && this.caps.tdpMmu !== 'absent';
    this.sppEnabled = config.spp && config.paging === 'ept' && this.caps.spp !== 'absent';
    this.maxHugePageLevel = 3;
    this.flushOnEntry = config.quirks.some(
      (q) => q === 'tlb-flush-on-entry' || q.startsWith('tcg-') || q.startsWith('bochs-'),
    );
    this.nrips = !config.quirks.includes('no-nrips');
    this.decodeAssists = !config.quirks.includes('no-decode-assists');
    this.extraMemslotFlags = smramFlags(config.smram_design);
    const first = (as: number): number => {
      switch (this.caps.memslotGeneration) {
        case 'none':
          return 0;
        case 'plus2-from-minus150':
          return -150;
        case 'plus2-from-as-150':
          return 2 * as - 150;
        case 'plus2-from-as':
          return as;
      }
    };
    this.kvm = new Kvm(this, smramMemslots(config.smram_design, this.caps.addressSpaces, first));
    if (config.tss_addr !== undefined && config.vendor === 'intel' && !this.tdpEnabled)
      vmx_set_tss_addr(this, config.tss_addr);
  }

  /** Who listens; null runs at full speed. Set it before a run, not during one. */
  get observer(): Observer | null {
    return this.observer_;
  }

  set observer(o: Observer | null) {
    this.observer_ = o;
    this.recorder = o ? new MachineRecorder(this) : null;
    for (const vcpu of this.vcpus) vcpu.translator.recorder = null;
  }

  /** How many views of memory there are: two with SMM, however they are described. */
  get addressSpaces(): number {
    return this.config.smram_design === 'address-spaces' ? this.kvm.memslots.length : 2;
  }

  get vcpus(): KvmVcpu[] {
    return this.kvm.vcpus;
  }

  // ---- Setting up: what a VMM does ----

  /** KVM_CREATE_VCPU and KVM_SET_CPUID2: a vCPU in its reset state. */
  addVcpu(): KvmVcpu {
    const state = new CpuState();
    const translator = new Translator(this.mem, this.cpu);
    const memory = new MachineMemory(this, translator);
    const processor = new Processor(state, memory, this.mem);
    const vcpu = new KvmVcpu(this.kvm, this.vcpus.length, state, processor, translator);
    memory.vcpu = vcpu;
    vcpu.maxphyaddr = this.cpu.maxphyaddr;
    vcpu.nested = nested_init(this);
    this.vcpus.push(vcpu);
    configureProcessor(this, vcpu);
    this.registersChanged(vcpu);
    kvm_mmu_after_set_cpuid(vcpu);
    return vcpu;
  }

  /** Host memory that slots can be backed by. @throws Error with a sentence when it cannot be made */
  backing(
    name: string,
    size: number,
    opts: { huge?: boolean; hva?: bigint; readonly?: boolean; populate?: boolean } = {},
  ): Backing {
    const b = this.host.map(name, size, opts);
    if (opts.populate !== false) for (let i = 0; i < b.pfns.length; i++) this.host.populate(b, i);
    return b;
  }

  /** Pins host frames of a backing from byte `offset` on; each of `pfns` stands for `pagesPerEntry` 4K pages. */
  setFrames(name: string, offset: number, pfns: readonly number[], pagesPerEntry = 1): void {
    const b = this.host.find(name);
    if (!b) throw new Error(`there is no backing "${name}"`);
    pfns.forEach((pfn, i) => {
      const at = offset + i * pagesPerEntry * 4096;
      const data: (Uint32Array | null)[] = [];
      for (let p = 0; p < pagesPerEntry; p++) {
        const index = at / 4096 + p;
        const old = b.pfns[index];
        data.push(old >= 0 && old !== pfn + p ? (this.mem.peek(old)?.slice() ?? null) : null);
      }
      this.host.pin(b, at, pfn, pagesPerEntry);
      data.forEach((d, p) => {
        if (d) this.mem.frame(pfn + p).set(d);
      });
    });
  }

  /** KVM_SET_USER_MEMORY_REGION. */
  set_user_memory_region(r: UserMemoryRegion): IoctlResult {
    return kvm_set_memory_region(this.kvm, r);
  }

  /** KVM_GET_DIRTY_LOG: the slot's bitmap, bit per page; armed again unless protection is manual. */
  getDirtyLog(as_id: number, id: number): DirtyLogResult {
    return kvm_vm_ioctl_get_dirty_log(this.kvm, as_id, id);
  }

  /** KVM_CLEAR_DIRTY_LOG (manual protection). `bitmap` starts at first_page. */
  clearDirtyLog(as_id: number, id: number, first_page: number, num_pages: number, bitmap: Uint32Array): IoctlResult {
    return kvm_vm_ioctl_clear_dirty_log(this.kvm, as_id, id, first_page, num_pages, bitmap);
  }

  /**
   * The host takes memory of a backing away (madvise(MADV_DONTNEED), page migration): the MMU notifier unmaps it, and the next
   * access gets fresh pages of zeros. Offset and size in bytes, page aligned.
   */
  invalidateBacking(name: string, offset: number, size: number): void {
    const b = this.host.find(name);
    if (!b) throw new Error(`there is no backing "${name}"`);
    const start = b.hva + BigInt(offset);
    const end = start + BigInt(size);
    kvm_mmu_notifier_invalidate_range_start(this.kvm, start, end);
    for (let page = offset / 4096; page < (offset + size) / 4096; page++) this.host.discard(b, page);
    kvm_mmu_notifier_invalidate_range_end(this.kvm);
  }

  /** KVM_SUBPAGES_SET_ACCESS: a map for each page from gfn_base on; bit i: the 128 bytes at 128 * i are writable. */
  setSubpages(gfn_base: number, access: readonly number[]): SubpagesResult {
    return kvm_vm_ioctl_set_subpages(this.kvm, gfn_base, access);
  }

  /** KVM_SUBPAGES_GET_ACCESS. */
  getSubpages(gfn_base: number, npages: number): SubpagesResult {
    return kvm_vm_ioctl_get_subpages(this.kvm, gfn_base, npages);
  }

  /** User space writes memory of a backing. */
  writeBacking(name: string, offset: number, bytes: Uint8Array): void {
    const b = this.host.find(name);
    if (!b) throw new Error(`there is no backing "${name}"`);
    for (let i = 0; i < bytes.length; i++) {
      const at = offset + i;
      this.mem.write8(this.host.populate(b, Math.floor(at / 4096)) * 4096 + (at % 4096), bytes[i]);
    }
  }

  /** User space reads memory of a backing. */
  readBacking(name: string, offset: number, length: number): Uint8Array {
    const b = this.host.find(name);
    if (!b) throw new Error(`there is no backing "${name}"`);
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i++) {
      const pfn = b.pfns[Math.floor((offset + i) / 4096)];
      out[i] = pfn >= 0 ? this.mem.read8(pfn * 4096 + ((offset + i) % 4096)) : 0;
    }
    return out;
  }

  /** User space writes guest memory through its own mapping (read-only slots included). @returns false where there is no slot */
  hostWrite(as_id: number, gpa: number, bytes: Uint8Array): boolean {
    for (let i = 0; i < bytes.length; i++) {
      const hpa = this.gpaToHpa(as_id, gpa + i);
      if (hpa < 0) return false;
      this.mem.write8(hpa, bytes[i]);
    }
    return true;
  }

  /** User space reads guest memory; null where there is no slot. */
  hostRead(as_id: number, gpa: number, length: number): Uint8Array | null {
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i++) {
      const hpa = this.gpaToHpa(as_id, gpa + i);
      if (hpa < 0) return null;
      out[i] = this.mem.read8(hpa);
    }
    return out;
  }

  /** Host address behind a guest-physical one of an address space, or -1. No access is counted, no walk is made. */
  gpaToHpa(as_id: number, gpa: number): number {
    const slot = this.slotAt(as_id, Math.floor(gpa / 4096));
    return slot ? kvm_gpa_to_hpa(this, slot, gpa, false) : -1;
  }

  /** KVM_SET_SREGS and KVM_SET_REGS: takes the registers over and resets the MMU if one of them governs it. */
  setRegs(vcpu: KvmVcpu, set: RegisterSet): void {
    const s = vcpu.regs;
    const { cpl, gpr, gdtr, idtr, ...plain } = set;
    const before = [s.cr0, s.cr3, s.cr4, s.efer];
    Object.assign(s, plain);
    if (gdtr) Object.assign(s.gdtr, gdtr);
    if (idtr === null) {
      s.idtUsed = false;
      this.idtPolicy.set(vcpu.vcpu_id, false);
    } else if (idtr) {
      s.idtUsed = true;
      this.idtPolicy.set(vcpu.vcpu_id, true);
      Object.assign(s.idtr, idtr);
    }
    for (const [i, v] of Object.entries(gpr ?? {})) if (v !== undefined) s.gpr[Number(i)] = v;
    if (cpl !== undefined) {
      s.cs.dpl = cpl;
      s.ss.dpl = cpl;
    }
    // KVM_SET_SREGS is refused for EFER.LMA without LME and PG; user space sets both, so follow it here.
    if (s.cr0 & (1n << 31n) && s.efer & EFER.LME && s.cr4 & (1n << 5n)) s.efer |= EFER.LMA;
    const after = [s.cr0, s.cr3, s.cr4, s.efer];
    const pae = (s.cr0 & (1n << 31n)) !== 0n && (s.cr4 & (1n << 5n)) !== 0n && (s.efer & EFER.LMA) === 0n;
    // __set_regs() drops an exception that was queued but not injected yet.
    const general = gpr !== undefined || plain.rip !== undefined || plain.rflags !== undefined;
    if (general && vcpu.exception?.injected === false) vcpu.exception = null;
    const { rip, rflags, pkru, ...special } = plain;
    void [rip, rflags, pkru];
    // __set_sregs() loads the PDPTEs and resets the MMU each time with PAE paging, else when a register that governs it changed.
    const sregs = cpl !== undefined || gdtr !== undefined || idtr !== undefined || Object.keys(special).length > 0;
    if (after.some((v, i) => v !== before[i]) || (sregs && pae)) {
      if (pae) {
        const values = this.readPdptrs(vcpu, s.cr3);
        if (values) values.forEach((v, i) => (s.pdptrs[i] = v));
      }
      this.registersChanged(vcpu);
      // __set_sregs(): only CR0, CR4 and EFER matter to the MMU, and CR3 through the root's pgd.
      kvm_mmu_reset_context(vcpu);
    } else this.registersChanged(vcpu);
  }

  /** KVM_SMI */
  smi(vcpu: KvmVcpu): void {
    kvm_make_request('SMI', vcpu);
  }

  /** The VM's last file descriptor is closed: kvm_destroy_vm(). Nothing may run afterwards. */
  destroy(): void {
    enter(this, 'kvm_destroy_vm', -1, null);
    kvm_mmu_zap_all(this.kvm);
    for (const vcpu of this.vcpus) {
      enter(this, 'kvm_arch_vcpu_destroy', vcpu.vcpu_id, null);
      kvm_mmu_unload(vcpu);
      leave(this);
    }
    leave(this);
  }

  /** kvm_vcpu_reset() after an INIT, which is what KVM on AMD does with a shutdown. */
  initReset(vcpu: KvmVcpu): void {
    enter(this, 'kvm_vcpu_reset', vcpu.vcpu_id, vcpu.regs);
    kvm_leave_nested(vcpu);
    const s = vcpu.regs;
    const kept = s.cr0 & (CR0.CD | CR0.NW);
    const { idtUsed, cr2, cr3 } = s;
    const gpr = s.gpr.slice();
    s.copyFrom(new CpuState());
    s.idtUsed = idtUsed;
    s.cr0 = CR0.ET | kept;
    if (!this.caps.shutdownResets) {
      // init_vmcb() alone
      s.cr0 = CR0.ET | CR0.CD | CR0.NW;
      s.cr2 = cr2;
      s.cr3 = cr3;
      s.gpr.set(gpr);
    }
    vcpu.exception = null;
    this.registersChanged(vcpu);
    kvm_mmu_reset_context(vcpu);
    leave(this);
  }

  // ---- Running ----

  /**
   * KVM_RUN until an instruction without code is done, or (`code`) until the guest's code exits to user space for anything but MMIO.
   * MMIO is answered by {@link mmioRead}, as a VMM would, and the run goes on.
   */
  run(vcpu: KvmVcpu, insn: Insn | 'code', limits: { instructions?: number } = {}): RunResult {
    const work: GuestWork = {
      insn,
      count: 0,
      limit: limits.instructions ?? 100_000,
      done: false,
      exception: null,
      delivered: null,
    };
    vcpu.regs.loaded = null;
    vcpu.halted = false;
    const result: RunResult = { end: 'done', value: null, exception: null, delivered: null, exits: [], text: '' };
    const smmBefore = is_smm(vcpu);
    for (;;) {
      this.pending = work;
      vcpu.processor.stopOnDelivery = insn !== 'code' && !vcpu.regs.idtUsed;
      const exit = vcpu_run(vcpu, work);
      if (exit === null) {
        if (insn === 'code') {
          result.end = 'limit';
          result.text = `the code ran for ${work.count} instructions without an exit to user space`;
        }
        break;
      }
      if (exit.reason === 'mmio') {
        exit.smm = is_smm(vcpu) ? 1 : 0;
        if (!exit.write) for (const f of exit.fragments) f.data = this.mmioRead(f.gpa, f.len);
        // What user space supplied is what the completion finds in kvm_run.
        exit.fragments.forEach((f, i) => (vcpu.mmio_fragments[i].data = f.data));
        emit(this, (o) => o.event({ kind: 'kvm_userspace_exit', vcpu: vcpu.vcpu_id, reason: 6, errno: 0 }));
        result.exits.push(exit);
        continue;
      }
      emit(this, (o) =>
        o.event({ kind: 'kvm_userspace_exit', vcpu: vcpu.vcpu_id, reason: exitNumber(exit), errno: 0 }),
      );
      result.exits.push(exit);
      result.end = exit.reason === 'internal-error' || exit.reason === 'unknown' ? 'error' : exit.reason;
      if (exit.reason === 'error' || exit.reason === 'internal-error' || exit.reason === 'unknown')
        result.text = exit.text;
      if (result.end === 'io' && insn !== 'code' && insn.op !== 'out' && insn.op !== 'in') continue;
      break;
    }
    this.pending = null;
    this.closeHwFrame();
    result.value = vcpu.regs.loaded;
    result.exception = work.exception;
    result.delivered = work.delivered;
    if (work.exception) result.end = 'fault';
    else if (result.end === 'io' && insn !== 'code') result.end = 'done';
    void smmBefore;
    return result;
  }

  /** What user space answers to an MMIO read: distinct values, as a VMM under test would. Deterministic. */
  mmioRead(gpa: number, len: number): bigint {
    void gpa;
    this.mmioReads++;
    const v = MEM_READ_RESULT + BigInt(this.mmioReads);
    return len >= 8 ? v : v & ((1n << BigInt(8 * len)) - 1n);
  }

  /** Enters the guest; called by vcpu_enter_guest(). */
  runGuest(vcpu: KvmVcpu, work: GuestWork): VmExit {
    if (this.recorder) {
      this.recorder.attach(vcpu);
      vcpu.translator.recorder = this.recorder;
      // Set per run: a function that lived in the processor would tie a copy of the machine to this one.
      vcpu.processor.onEvent = (e, address) => this.guestEvent(vcpu, e, address);
    }
    // An emulated processor loads CR3 at each entry and forgets everything with it.
    if (this.flushOnEntry) this.memoryOf(vcpu).tlb.flushAll();
    const insn = work.insn;
    const exit = vcpu.processor.run(() => {
      if (insn === 'code') {
        if (work.count >= work.limit) return null;
        work.count++;
        return 'fetch';
      }
      if (work.done) return null;
      if (work.count > 0) {
        work.done = true;
        return null;
      }
      work.count = 1;
      return insn;
    });
    const e = exit.delivered;
    if (e?.type === EVENT_TYPE.EXCEPTION)
      work.delivered = { vector: e.vector, errorCode: e.errorCode, cr2: e.vector === 14 ? vcpu.regs.cr2 : null };
    if (insn !== 'code' && !work.done) work.count = 0;
    // The instruction that exits runs again; it is not one more.
    else if (insn === 'code' && exit.kind !== 'done' && work.count > 0) work.count--;
    vcpu.translator.recorder = null;
    vcpu.processor.onEvent = null;
    return exit;
  }

  /** The processor begins to deliver an exception. */
  private guestEvent(vcpu: KvmVcpu, e: GuestEvent, address: bigint | null): void {
    const o = this.observer_;
    if (!o || e.type !== EVENT_TYPE.EXCEPTION) return;
    if (e.vector === 14)
      o.event({
        kind: 'guest_page_fault',
        vcpu: vcpu.vcpu_id,
        gva: address ?? vcpu.regs.cr2,
        errorCode: e.errorCode ?? 0,
        injected: false,
        why: this.lastWhy,
      });
    else
      o.event({
        kind: 'guest_exception',
        vcpu: vcpu.vcpu_id,
        vector: e.vector,
        errorCode: e.errorCode,
        why: this.lastWhy,
      });
  }

  /** The pseudo-instruction of the running statement completed inside KVM (emulated, or skipped). */
  pseudoDone(vcpu: KvmVcpu, insn: Insn | null): void {
    void vcpu;
    const w = this.pending;
    if (!w) return;
    if (w.insn === 'code') w.count++;
    else if (insn === w.insn || insn === null || insn.op === w.insn.op) w.done = true;
  }

  /** L2's instruction has become an exit to L1, which must not run it in L2's stead. */
  pseudoAbandoned(): void {
    if (this.pending && this.pending.insn !== 'code') this.pending.done = true;
  }

  /** The pseudo-instruction that the emulator is to run, or null when it must decode code. */
  pendingPseudo(vcpu: KvmVcpu): Insn | null {
    void vcpu;
    return this.pending && this.pending.insn !== 'code' ? this.pending.insn : null;
  }

  /** Notes an exit to user space; the vCPU loop picks it up. */
  userExit(vcpu: KvmVcpu, exit: UserExit): void {
    void vcpu;
    this.exitToUser = exit;
  }

  takeUserExit(): UserExit | null {
    const e = this.exitToUser;
    this.exitToUser = null;
    return e;
  }

  /** HLT without an interrupt controller in the kernel: user space waits. */
  haltExit(vcpu: KvmVcpu): number {
    vcpu.halted = true;
    this.userExit(vcpu, { reason: 'hlt' });
    return 0;
  }

  pioOut(vcpu: KvmVcpu, port: number, size: number, value: bigint): void {
    emit(this, (o) => o.event({ kind: 'kvm_pio', vcpu: vcpu.vcpu_id, rw: 1, port, size, count: 1, val: value }));
    this.userExit(vcpu, { reason: 'io', port, size, write: true, data: value, smm: is_smm(vcpu) ? 1 : 0 });
    this.pioDone = true;
  }

  pioIn(vcpu: KvmVcpu, port: number, size: number): void {
    this.lastPioValue = (1n << BigInt(8 * size)) - 1n;
    emit(this, (o) =>
      o.event({ kind: 'kvm_pio', vcpu: vcpu.vcpu_id, rw: 0, port, size, count: 1, val: this.lastPioValue }),
    );
  }

  /** Whether the emulated instruction did port I/O that user space has to see. */
  takePio(): boolean {
    const p = this.pioDone;
    this.pioDone = false;
    return p;
  }

  /** kvm_multiple_exception(): queues an exception, on top of one whose delivery it interrupts. */
  queueException(vcpu: KvmVcpu, vector: number, errorCode: number | null, payload: bigint | null): void {
    const first = vcpu.exception;
    kvm_make_request('EVENT', vcpu);
    // An exception of L2 that L1 intercepts becomes an exit; one that is merely injected again does not (kvm_multiple_exception()).
    if (nested_is_exception_vmexit(vcpu, vector, errorCode)) {
      vcpu.exception_vmexit = { vector, errorCode, payload, injected: false };
      return;
    }
    if (first?.injected) {
      if (first.vector === DF_VECTOR) {
        vcpu.exception = null;
        kvm_make_request('TRIPLE_FAULT', vcpu);
        return;
      }
      const was = exception_class(first.vector);
      const is = exception_class(vector);
      if ((was === 'contributory' && is === 'contributory') || (was === 'page-fault' && is !== 'benign')) {
        vcpu.exception = { vector: DF_VECTOR, errorCode: 0, payload: null, injected: false };
        return;
      }
    }
    vcpu.exception = { vector, errorCode, payload, injected: false };
  }

  // ---- What KVM tells the processor ----

  /** Registers changed: the translation unit takes them over. */
  registersChanged(vcpu: KvmVcpu): void {
    vcpu.processor.mmu.loadRegisters(vcpu.regs);
  }

  /** kvm_x86_load_mmu_pgd: EPTP, nCR3 or the shadow CR3. */
  load_mmu_pgd(vcpu: KvmVcpu): void {
    configureProcessor(this, vcpu);
  }

  flush_tlb_all(vcpu: KvmVcpu, reason: string): void {
    enter(this, FLUSHES[this.config.vendor].all, vcpu.vcpu_id, null);
    this.flushed(vcpu, 'all', reason);
    this.memoryOf(vcpu).flushBy('all');
    leave(this);
  }

  flush_tlb_current(vcpu: KvmVcpu, reason: string): void {
    enter(this, FLUSHES[this.config.vendor].current, vcpu.vcpu_id, null);
    this.flushed(vcpu, 'current', reason);
    this.memoryOf(vcpu).flushBy('current');
    leave(this);
  }

  flush_tlb_guest(vcpu: KvmVcpu, reason: string): void {
    enter(this, FLUSHES[this.config.vendor].guest, vcpu.vcpu_id, null);
    this.flushed(vcpu, 'guest', reason);
    this.memoryOf(vcpu).flushBy('guest');
    leave(this);
  }

  flush_tlb_gva(vcpu: KvmVcpu, gva: bigint): void {
    enter(this, FLUSHES[this.config.vendor].gva, vcpu.vcpu_id, null);
    this.flushed(vcpu, 'gva', `INVLPG 0x${gva.toString(16)}`);
    vcpu.processor.mmu.invlpg(Number(gva & 0xffffffffn), Number(gva >> 32n));
    leave(this);
  }

  /** The vCPU's translation unit with its TLB. */
  memoryOf(vcpu: KvmVcpu): MachineMemory {
    return vcpu.processor.mmu as MachineMemory;
  }

  private flushed(vcpu: KvmVcpu, scope: string, reason: string): void {
    emit(this, (o) => o.event({ kind: 'tlb_flush', vcpu: vcpu.vcpu_id, scope, reason }));
  }

  // ---- What the walkers ask ----

  /** CR3 (or its nested kin) of a context. */
  guestPgd(vcpu: KvmVcpu, mmu: KvmMmu): bigint {
    return mmu === vcpu.guest_mmu ? this.nestedPgd(vcpu) : vcpu.regs.cr3;
  }

  /** A cached PDPTE of a context. */
  guestPdptr(vcpu: KvmVcpu, mmu: KvmMmu, index: number): bigint {
    return mmu === vcpu.guest_mmu ? nested_get_tdp_pdptr(vcpu, index) : vcpu.regs.pdptrs[index];
  }

  /** Root of L1's tables for L2: nCR3 or EPTP. */
  nestedPgd(vcpu: KvmVcpu): bigint {
    return nested_get_tdp_pgd(vcpu);
  }

  /**
   * kvm_translate_gpa() for the page of a guest table: KVM reads it and, where the tables have A/D flags, may write it.
   * @returns the L1 address, or -1 with the fault of L1's tables in `w`
   */
  translateTableGpa(vcpu: KvmVcpu, mmu: KvmMmu, gpa: number, w: GuestWalker): number {
    if (mmu !== vcpu.nested_mmu) return gpa;
    const offset = gpa % 4096;
    const page = translate_nested_gpa(vcpu, gpa - offset, PFERR_WRITE, w);
    return page < 0 ? page : page + offset;
  }

  /** kvm_translate_gpa() for the final address; identity without nesting. */
  translateFinalGpa(vcpu: KvmVcpu, mmu: KvmMmu, gpa: number, access: number, w: GuestWalker): number {
    return mmu === vcpu.nested_mmu ? translate_nested_gpa(vcpu, gpa, access, w) : gpa;
  }

  /** The four PDPTEs at CR3, or null when one that is present has a reserved bit set (reference 6.6). */
  readPdptrs(vcpu: KvmVcpu, cr3: bigint): bigint[] | null {
    const base = Number(cr3 & 0xffffffe0n);
    const slot = kvm_vcpu_gfn_to_memslot(vcpu, Math.floor(base / 4096));
    const out: bigint[] = [];
    const rsvd = rsvd_bits(5, 8) | rsvd_bits(1, 2) | rsvd_bits(vcpu.maxphyaddr, 63);
    for (let i = 0; i < 4; i++) {
      const hpa = kvm_gpa_to_hpa(this, slot, base + 8 * i, false);
      if (hpa < 0) return null;
      const v = this.mem.readQ(hpa);
      if (v & 1n && v & rsvd) return null;
      out.push(v);
    }
    return out;
  }

  /** Whether the access that was last translated is a write. */
  lastAccessWrite(): boolean {
    return this.lastWhy?.access.text.endsWith('write') ?? false;
  }

  /** RET_PF_* as the era numbers it. */
  retPfNumber(r: RET_PF): number {
    const p = this.caps.retPf;
    return [p.CONTINUE, p.RETRY, p.EMULATE, p.INVALID, p.FIXED, p.SPURIOUS, 6, p.WRITE_PROTECTED][r] ?? r;
  }

  /** Ends the frame of a page walk that an exit left open. */
  closeHwFrame(): void {
    this.recorder?.close();
  }

  /** Something that KVM would print to the log. */
  warn(text: string): void {
    this.warnings.push(text);
  }

  /** The slot of a gfn as normal mode (0) or SMM (1) sees it, for user space and displays. */
  slotAt(as_id: number, gfn: number): KvmMemorySlot | null {
    return as_id < this.addressSpaces ? peek_mode(this, as_id === 1, gfn) : null;
  }

  // ---- Time ----

  /** The whole state, independent of what happens later. Memory is shared copy-on-write. */
  snapshot(): MachineState {
    return { machine: copy(this) };
  }

  /** A machine that continues from a snapshot; the snapshot stays usable. */
  static fromSnapshot(state: MachineState): Machine {
    return copy(state.machine);
  }
}

/** Copies a machine without its observer. */
function copy(m: Machine): Machine {
  const o = m.observer;
  m.observer = null;
  try {
    return cloneGraph(m);
  } finally {
    m.observer = o;
  }
}

function exitNumber(e: UserExit): number {
  switch (e.reason) {
    case 'io':
      return 2;
    case 'hlt':
      return 5;
    case 'mmio':
      return 6;
    case 'shutdown':
      return 8;
    case 'internal-error':
      return 17;
    case 'error':
    case 'unknown':
      return 0;
    case 'spp':
      return 29;
  }
}
