/**
 * A simulated machine: a processor per vCPU, host-physical memory, and KVM with one VM. Everything that a scenario, a debugger or a
 * test does to it goes through here. Deterministic: the same calls give the same states, frames included.
 */
import type { CpuFeatures } from '../hw/features';
import type { Insn } from '../hw/insn';
import { PhysMemory } from '../hw/memory';
import { Processor } from '../hw/processor';
import { CpuState } from '../hw/regs';
import { Translator } from '../hw/translate';
import type { WhyRecord } from '../hw/why';
import { parseKernel } from '../words/kernels';
import { cloneGraph, declareImmutable } from './clone';
import { kernelCaps, type KernelCaps } from './eras';
import { Host, type Backing } from './host';
import { configureProcessor, MachineMemory } from './hw_setup';
import { nested_get_tdp_pdptr, nested_get_tdp_pgd, nested_init } from './nested';
import { guestCpu, type MachineConfig, type RegisterSet, type RunResult } from './machine-config';
import { MachineRecorder } from './recorder';
import { Kvm, KvmVcpu, type KvmMemorySlot, type KvmMmu } from './kvm_host';
import {
  kvm_gpa_to_hpa,
  kvm_set_memory_region,
  type IoctlResult,
  type PfnResult,
  type UserMemoryRegion,
} from './kvm_main';
import { kvm_mmu_after_set_cpuid } from './mmu/calc_role';
import { kvm_vm_ioctl_clear_dirty_log, kvm_vm_ioctl_get_dirty_log, type DirtyLogResult } from './mmu/dirty';
import { KvmPageFault, type RET_PF } from './mmu/fault';
import { kvm_mmu_notifier_invalidate_range_end, kvm_mmu_notifier_invalidate_range_start } from './mmu/notifier';
import { PFERR_WRITE, translate_nested_gpa, type GuestWalker } from './mmu/paging_tmpl';
import { kvm_mmu_unload } from './mmu/roots';
import { kvm_vm_ioctl_get_subpages, kvm_vm_ioctl_set_subpages, type SubpagesResult } from './mmu/spp';
import { SpteFormat } from './mmu/spte';
import { kvm_mmu_zap_all } from './mmu/zap';
import { KernelFrames } from './functions';
import { enter, leave, type Observer } from './observer';
import { RoleCodec } from './roles';
import { peek_mode, smramFlags, smramMemslots } from './smram';
import { vmx_set_tss_addr } from './vmx';
import { run, type UserExit } from './kvm_run';
import type { GuestWork } from './guest_work';
import { kvm_make_request } from './x86_requests';
import { setRegs } from './x86_regs';

export { machineConfig } from './machine-config';
export type { MachineConfig, RegisterSet, RunResult } from './machine-config';
export type { Backing } from './host';
export type { DirtyLogResult } from './mmu/dirty';
export type { IoctlResult, UserMemoryRegion } from './kvm_main';
export type { SubpagesResult } from './mmu/spp';
export type { UserExit } from './kvm_run';

declareImmutable(RoleCodec);

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
  /** what the running statement has the vCPU execute (guest_work.ts) */
  pending: GuestWork | null = null;
  /** the exit that KVM_RUN is to return with (kvm_run.ts) */
  exitToUser: UserExit | null = null;
  /** the emulated instruction did port I/O that user space has to see (kvm_run.ts) */
  pioDone = false;
  /** what the processor's walker tells, while somebody watches */
  recorder: MachineRecorder | null = null;
  private observer_: Observer | null = null;

  constructor(config: MachineConfig) {
    this.config = config;
    const kernel = parseKernel(config.kernel);
    this.caps = Object.freeze(kernelCaps(kernel));
    this.frames = new KernelFrames(kernel);
    this.mem = new PhysMemory();
    this.host = new Host(this.mem, config.maxphyaddr);
    this.roles = new RoleCodec(kernel);
    this.spte = new SpteFormat(config, kernel);
    this.guestFeatures = new Set(config.features);
    this.hostFeatures = new Set([...config.features, 'nx', 'lm', 'pdpe1gb']);
    this.cpu = guestCpu(config);
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

  /** {@link Host.setFrames} */
  setFrames(name: string, offset: number, pfns: readonly number[], pagesPerEntry = 1): void {
    this.host.setFrames(name, offset, pfns, pagesPerEntry);
  }

  /** User space writes memory of a backing. */
  writeBacking(name: string, offset: number, bytes: Uint8Array): void {
    this.host.write(name, offset, bytes);
  }

  /** User space reads memory of a backing. */
  readBacking(name: string, offset: number, length: number): Uint8Array {
    return this.host.read(name, offset, length);
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
    const b = this.host.named(name);
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
    setRegs(vcpu, set);
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

  // ---- Running ----

  /** {@link run} */
  run(vcpu: KvmVcpu, insn: Insn | 'code', limits: { instructions?: number } = {}): RunResult {
    return run(vcpu, insn, limits);
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

  /** The vCPU's translation unit with its TLB. */
  memoryOf(vcpu: KvmVcpu): MachineMemory {
    return vcpu.processor.mmu as MachineMemory;
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
