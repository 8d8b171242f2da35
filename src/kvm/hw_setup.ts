/**
 * How KVM sets the processor up: intercepts by vendor and mode, the second stage, and the registers that really govern translation
 * (with shadow paging they are KVM's, not the guest's).
 */
import { noIntercepts } from '../hw/exits';
import type { Op } from '../hw/insn';
import { UncachedMemory, type LinearMemory } from '../hw/linear-memory';
import { CR0, CR4, EFER, MSR, type CpuState } from '../hw/regs';
import { Tlb } from '../hw/tlb';
import type { Translator } from '../hw/translate';
import { INVALID_PAGE, is_guest_mode, type KvmVcpu } from './kvm_host';
import type { Machine } from './machine';
import { nested_merge_intercepts } from './nested';
import { SvmNested } from './svm_nested';
import { VmxNested } from './vmx_nested_state';
import { nested_ept_ad_enabled } from './vmx_nested_ept';
import { VMX_OPS } from '../hw/vmcs';
import { vmx_update_cpu_dirty_logging } from './pml';
import { tdp_has_smep } from './mmu/calc_role';
import { sppt_root_of } from './mmu/spp';
import { role_get } from './roles';

/** Memory as the processor of one vCPU sees it under KVM. */
export class MachineMemory extends UncachedMemory implements LinearMemory {
  vcpu: KvmVcpu | null = null;
  readonly tlb = new Tlb();

  constructor(
    private readonly machine: Machine,
    translator: Translator,
  ) {
    super(translator);
    translator.tlb = this.tlb;
  }

  /** VPID, or ASID on AMD: one per vCPU, never 0. */
  private get vpid(): number {
    return (this.vcpu?.vcpu_id ?? 0) + 1;
  }

  /** Tags of the translations made from now on. */
  private enterContext(s: CpuState): void {
    const { tlb, vpid, machine: m } = this;
    const root = this.vcpu?.mmu.root.hpa ?? INVALID_PAGE;
    const shadow = !m.tdpEnabled;
    // With shadow paging the processor sees KVM's CR3; its PCID is the guest's (kvm_get_active_pcid()).
    const pcid = s.cr4 & CR4.PCIDE ? Number(s.cr3 & 0xfffn) : 0;
    const cr3 = shadow ? root : Number(s.cr3 & 0xffffffffff000n);
    const lo = cr3 >>> 0;
    const hi = Math.floor(cr3 / 0x1_0000_0000);
    tlb.enter(
      vpid,
      pcid,
      shadow || root === INVALID_PAGE ? '' : `${m.config.paging}:0x${root.toString(16)}`,
      lo,
      Math.max(hi, 0),
    );
  }

  override invlpg(lo: number, hi: number): void {
    this.tlb.invlpg(lo, hi);
  }

  override invpcid(type: number, pcid: number, lo: number, hi: number): void {
    this.tlb.invpcid(type, pcid, lo, hi);
  }

  override flush(global: boolean): void {
    if (global) this.tlb.flushCurrent();
    else this.tlb.flushCurrentPcid();
  }

  /** What the hypervisor flushes; see Machine.flush_tlb_*(). */
  flushBy(scope: 'all' | 'current' | 'guest'): void {
    const { tlb, vpid, machine: m } = this;
    const root = this.vcpu?.mmu.root.hpa ?? INVALID_PAGE;
    if (scope === 'guest' || !m.tdpEnabled) tlb.flushVpid(vpid, true);
    else if (m.config.vendor === 'amd') tlb.tlbControl(3, vpid);
    else tlb.invept(scope === 'all' || root === INVALID_PAGE ? null : `ept:0x${root.toString(16)}`);
  }

  override loadRegisters(s: CpuState): void {
    const m = this.machine;
    if (this.vcpu) svm_set_cr0(m, this.vcpu);
    if (m.tdpEnabled) super.loadRegisters(s);
    else this.loadShadowRegisters(s);
    // After the translator, which takes the registers to be those of a bare machine and tags its entries accordingly.
    this.enterContext(s);
  }

  /** The registers under shadow paging: KVM's own tables. */
  private loadShadowRegisters(s: CpuState): void {
    const m = this.machine;
    // Shadow paging: the tables are KVM's own. WP and NX are always on, and without guest paging the protections of user pages
    // make no sense (vmx_set_cr4(), svm_set_cr4(), v6.1).
    const { vcpu } = this;
    const root = vcpu?.mmu.root.hpa ?? INVALID_PAGE;
    const level = vcpu ? role_get(vcpu.mmu.root_role, m.roles.level) : 4;
    const unpaged = s.paging ? 0n : CR4.SMEP | CR4.SMAP | CR4.PKE;
    const pae = level < 4 && vcpu !== null && vcpu.mmu.pae_root !== INVALID_PAGE ? vcpu.mmu.pae_root * 4096 : -1;
    this.translator.setGuest({
      cr0: s.cr0 | CR0.PE | CR0.PG | CR0.WP,
      cr3: root === INVALID_PAGE ? 0n : BigInt(root),
      cr4: ((s.cr4 | CR4.PAE) & ~(CR4.PCIDE | CR4.LA57 | unpaged)) | (level === 5 ? CR4.LA57 : 0n),
      efer: EFER.NXE | (level >= 4 ? EFER.LME | EFER.LMA : 0n),
      pkru: s.pkru,
      pkrs: 0,
      pdptes: pae >= 0 ? [0, 8, 16, 24].map((o) => m.mem.readQ(pae + o)) : [0n, 0n, 0n, 0n],
    });
  }
}

const ALL_BITS = 0xffff_ffff_ffff_ffffn;

/** EPTP (construct_eptp(), reference 6.5): write-back, walk length, A/D enable. */
export function construct_eptp(m: Machine, root: number, level: number, ad = m.config.ept_ad): bigint {
  return BigInt(root) | 6n | (BigInt(level - 1) << 3n) | (ad ? 0x40n : 0n);
}

/** L2 runs with A/D flags only if L1 enabled them in its EPT. */
export const eptp_ad = (m: Machine, vcpu: KvmVcpu): boolean =>
  m.config.ept_ad && (!is_guest_mode(vcpu) || (vcpu.nested instanceof VmxNested && nested_ept_ad_enabled(vcpu.nested)));

/**
 * svm_set_cr0(): while the processor's CR0 is the guest's, only writes that change more than TS and MP exit (and reads do not). With
 * shadow paging PG and WP are always on in the processor; caching is never turned off.
 */
function svm_set_cr0(m: Machine, vcpu: KvmVcpu): void {
  if (m.config.vendor !== 'amd') return;
  const { cr0 } = vcpu.regs;
  const real = (cr0 | (m.tdpEnabled ? 0n : CR0.PG | CR0.WP)) & ~(CR0.CD | CR0.NW);
  const c = vcpu.processor.intercepts;
  if (real === cr0) {
    c.crRead &= ~1;
    c.crWrite &= ~1;
  } else {
    c.crRead |= 1;
    c.crWrite |= 1;
  }
  if (is_guest_mode(vcpu) && vcpu.nested instanceof SvmNested) {
    c.crRead |= vcpu.nested.intercepts[0] & 1;
    c.crWrite |= (vcpu.nested.intercepts[0] >>> 16) & 1;
  }
}

/** Intercepts and second stage for a vCPU as it stands. */
export function configureProcessor(m: Machine, vcpu: KvmVcpu): void {
  const intel = m.config.vendor === 'intel';
  const c = noIntercepts();
  const insns = new Set<Op>(['hlt', 'rsm', 'vmcall', 'vmmcall', 'cpuid'] as Op[]);
  insns.delete('cpuid');
  c.io = true;
  c.msrPassthrough = new Set([MSR.FS_BASE, MSR.GS_BASE, MSR.KERNEL_GS_BASE]);
  c.crRead = m.tdpEnabled ? 0 : 1 << 3;
  c.crWrite = m.tdpEnabled ? 0 : 1 << 3;
  if (intel) {
    // RSM is #UD in VMX non-root operation; KVM emulates it.
    c.exceptions |= 1 << 6;
    // What the guest owns it writes without an exit (KVM_POSSIBLE_CR0_GUEST_BITS, set_cr4_guest_host_mask()); KVM owns the rest.
    const tlbBits = CR4.PGE | CR4.PCIDE | CR4.PAE | CR4.SMEP | CR4.PSE;
    const own0 = CR0.TS | (m.tdpEnabled && m.caps.cr0WpGuestOwned ? CR0.WP : 0n);
    const own4 = (CR4.OSFXSR | CR4.OSXMMEXCPT | CR4.PGE | CR4.FSGSBASE) & ~(m.tdpEnabled ? 0n : tlbBits);
    c.cr0Mask = ALL_BITS & ~own0;
    c.cr4Mask = ALL_BITS & ~own4;
    c.savesRf = true;
    if (m.guestFeatures.has('vmx')) for (const op of VMX_OPS) insns.add(op);
  } else {
    c.exceptions |= 1 << 6;
    c.cr0SelectiveWrite = true;
    c.crWrite |= 1 << 4;
    c.shutdownKeepsEvent = true;
    if (m.guestFeatures.has('svm'))
      for (const op of ['vmrun', 'vmload', 'vmsave', 'stgi', 'clgi', 'skinit', 'invlpga'] as const) insns.add(op);
  }
  if (!m.tdpEnabled) {
    c.exceptions |= 1 << 14;
    insns.add('invlpg');
    insns.add('invpcid');
  }
  c.insns = insns;
  nested_merge_intercepts(vcpu, c);
  vcpu.processor.intercepts = c;
  svm_set_cr0(m, vcpu);
  const p = vcpu.processor;
  p.delivery = { pushBeforeVector: intel, ssBeforeEsp: m.cpu.quirks.has('bochs-tss-ss-first') };
  p.loadsPdptesAlways = m.cpu.quirks.has('bochs-mov-cr0-pdptes');
  const root = vcpu.mmu.root.hpa;
  if (m.tdpEnabled && root !== INVALID_PAGE) {
    const level = role_get(vcpu.mmu.root_role, m.roles.level);
    if (intel) {
      const sppt = m.sppEnabled ? sppt_root_of(vcpu) : INVALID_PAGE;
      vcpu.translator.setSecondStage('ept', {
        eptp: construct_eptp(m, root, level, eptp_ad(m, vcpu)),
        // Shadow EPT would have it where L1 uses it, which the model does not offer.
        mbec: role_get(vcpu.mmu.root_role, m.roles.cr4_smep) === 1 && tdp_has_smep(m),
        spp: sppt !== INVALID_PAGE,
        sppt: sppt === INVALID_PAGE ? undefined : BigInt(sppt),
      });
    } else
      vcpu.translator.setSecondStage('npt', {
        ncr3: BigInt(root),
        hostCr4: CR4.PAE | (level === 5 ? CR4.LA57 : 0n),
        hostEfer: EFER.LME | EFER.LMA | EFER.NXE,
      });
  } else if (!m.tdpEnabled) vcpu.translator.setSecondStage('none');
  vmx_update_cpu_dirty_logging(vcpu);
  p.mmu.loadRegisters(vcpu.regs);
}
