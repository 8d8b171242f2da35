/**
 * arch/x86/kvm/x86.c: what a change of a control register means to the MMU, be it the guest's, user space's or a reset.
 * Facts: reference kvm-mmu-model.md 5.8, 6.6.
 */
import { CpuState, CR0, cr0Fault, CR4, cr4Fault, EFER, MSR } from '../hw/regs';
import { enter, leave } from './observer';
import type { KvmVcpu } from './kvm_host';
import { kvm_init_mmu, kvm_mmu_reset_context } from './mmu/calc_role';
import { kvm_mmu_free_roots, kvm_mmu_new_pgd, kvm_mmu_unload } from './mmu/roots';
import { kvm_make_request } from './x86_requests';
import type { RegisterSet } from './machine-config';
import { kvm_gpa_to_hpa, kvm_vcpu_gfn_to_memslot } from './kvm_main';
import { rsvd_bits } from './mmu/metadata';
import { kvm_leave_nested } from './nested';

/** The four PDPTEs at CR3, or null when one that is present has a reserved bit set (reference 6.6). */
export function read_pdptrs(vcpu: KvmVcpu, cr3: bigint): bigint[] | null {
  const m = vcpu.kvm.machine;
  const base = Number(cr3 & 0xffffffe0n);
  const slot = kvm_vcpu_gfn_to_memslot(vcpu, Math.floor(base / 4096));
  const out: bigint[] = [];
  const rsvd = rsvd_bits(5, 8) | rsvd_bits(1, 2) | rsvd_bits(vcpu.maxphyaddr, 63);
  for (let i = 0; i < 4; i++) {
    const hpa = kvm_gpa_to_hpa(m, slot, base + 8 * i, false);
    if (hpa < 0) return null;
    const v = m.mem.readQ(hpa);
    if (v & 1n && v & rsvd) return null;
    out.push(v);
  }
  return out;
}

/** load_pdptrs(): PAE PDPTEs from CR3. @returns false: a reserved bit is set, the CR write gets #GP */
export function load_pdptrs(vcpu: KvmVcpu, cr3: bigint): boolean {
  const m = vcpu.kvm.machine;
  enter(m, 'load_pdptrs', vcpu.vcpu_id, null);
  const values = read_pdptrs(vcpu, cr3);
  leave(m);
  if (!values) return false;
  const changed = values.some((v, i) => v !== vcpu.regs.pdptrs[i]);
  if (!m.tdpEnabled && changed) kvm_mmu_free_roots(vcpu, vcpu.mmu, true, () => false);
  for (let i = 0; i < 4; i++) vcpu.regs.pdptrs[i] = values[i];
  kvm_make_request('LOAD_MMU_PGD', vcpu);
  return true;
}

const paePaging = (vcpu: KvmVcpu, cr0: bigint, cr4: bigint): boolean =>
  (cr0 & CR0.PG) !== 0n && (cr4 & CR4.PAE) !== 0n && (vcpu.regs.efer & EFER.LMA) === 0n;

/** kvm_set_cr0(). @returns false for #GP */
export function kvm_set_cr0(vcpu: KvmVcpu, cr0: bigint): boolean {
  const m = vcpu.kvm.machine;
  const s = vcpu.regs;
  const old = s.cr0;
  enter(m, 'kvm_set_cr0', vcpu.vcpu_id, s);
  cr0 |= CR0.ET;
  if (cr0Fault(s, cr0, s.codeBits === 64)) {
    leave(m);
    return false;
  }
  if (cr0 & CR0.PG && !(old & CR0.PG) && s.efer & EFER.LME) s.efer |= EFER.LMA;
  else if (!(cr0 & CR0.PG) && s.efer & EFER.LMA) s.efer &= ~EFER.LMA;
  if (
    !(s.efer & EFER.LME) &&
    cr0 & CR0.PG &&
    ((cr0 ^ old) & (CR0.PG | CR0.CD | CR0.NW)) !== 0n &&
    paePaging(vcpu, cr0, s.cr4)
  ) {
    if (!load_pdptrs(vcpu, s.cr3)) {
      leave(m);
      return false;
    }
  }
  s.cr0 = cr0;
  m.registersChanged(vcpu);
  kvm_post_set_cr0(vcpu, old, cr0);
  leave(m);
  return true;
}

/** kvm_post_set_cr0() */
export function kvm_post_set_cr0(vcpu: KvmVcpu, old: bigint, cr0: bigint): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_post_set_cr0', vcpu.vcpu_id, null);
  const changed = old ^ cr0;
  // With TDP a change of WP alone keeps the roots: they do not depend on it.
  if (changed === CR0.WP && m.tdpEnabled && m.caps.tdpRoleFixed) kvm_init_mmu(vcpu);
  else {
    if (changed & CR0.PG && !(cr0 & CR0.PG)) kvm_make_request('TLB_FLUSH_GUEST', vcpu);
    if (changed & (CR0.PG | CR0.WP)) kvm_mmu_reset_context(vcpu);
  }
  leave(m);
}

/** kvm_set_cr4(). @returns false for #GP */
export function kvm_set_cr4(vcpu: KvmVcpu, cr4: bigint): boolean {
  const m = vcpu.kvm.machine;
  const s = vcpu.regs;
  const old = s.cr4;
  enter(m, 'kvm_set_cr4', vcpu.vcpu_id, s);
  const bad =
    cr4Fault(s, cr4) !== null ||
    (cr4 & CR4.SMEP && !m.guestFeatures.has('smep')) ||
    (cr4 & CR4.SMAP && !m.guestFeatures.has('smap')) ||
    (cr4 & CR4.PKE && !m.guestFeatures.has('pku')) ||
    (cr4 & CR4.LA57 && !m.guestFeatures.has('la57')) ||
    (cr4 & CR4.VMXE && !m.guestFeatures.has('vmx')) ||
    (paePaging(vcpu, s.cr0, cr4) &&
      ((cr4 ^ old) & (CR4.PGE | CR4.PSE | CR4.PAE | CR4.SMEP)) !== 0n &&
      !load_pdptrs(vcpu, s.cr3));
  if (bad) {
    leave(m);
    return false;
  }
  s.cr4 = cr4;
  m.registersChanged(vcpu);
  kvm_post_set_cr4(vcpu, old, cr4);
  leave(m);
  return true;
}

/** kvm_post_set_cr4() */
function kvm_post_set_cr4(vcpu: KvmVcpu, old: bigint, cr4: bigint): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_post_set_cr4', vcpu.vcpu_id, null);
  const changed = old ^ cr4;
  const pcideCleared = (changed & old & CR4.PCIDE) !== 0n;
  if (
    changed & (CR4.PSE | CR4.PAE | CR4.LA57 | CR4.SMEP | CR4.SMAP | CR4.PKE) ||
    (pcideCleared && m.caps.pcideResetsContext) ||
    (changed & CR4.PGE && m.caps.pgeResetsContext)
  )
    kvm_mmu_reset_context(vcpu);
  if (!m.tdpEnabled && cr4 & CR4.PCIDE && !(old & CR4.PCIDE)) kvm_mmu_unload(vcpu);
  if (changed & CR4.PGE || pcideCleared) kvm_make_request('TLB_FLUSH_GUEST', vcpu);
  else if (changed & CR4.PAE || (cr4 & CR4.SMEP && !(old & CR4.SMEP))) kvm_make_request('TLB_FLUSH_CURRENT', vcpu);
  leave(m);
}

/** kvm_set_cr3(). @returns false for #GP */
export function kvm_set_cr3(vcpu: KvmVcpu, value: bigint): boolean {
  const m = vcpu.kvm.machine;
  const s = vcpu.regs;
  enter(m, 'kvm_set_cr3', vcpu.vcpu_id, s);
  let cr3 = value;
  let skip_tlb_flush = false;
  let pcid = 0n;
  if (s.cr4 & CR4.PCIDE) {
    skip_tlb_flush = (cr3 & (1n << 63n)) !== 0n;
    cr3 &= ~(1n << 63n);
    pcid = cr3 & 0xfffn;
  }
  const pae = paePaging(vcpu, s.cr0, s.cr4);
  const ok = body();
  leave(m);
  return ok;

  function body(): boolean {
    // PAE paging is never cut short: the PDPTEs may have changed in memory.
    if (cr3 !== s.cr3 || pae) {
      if (cr3 >> BigInt(vcpu.maxphyaddr)) return false;
      if (pae && !load_pdptrs(vcpu, cr3)) return false;
      if (cr3 !== s.cr3) kvm_mmu_new_pgd(vcpu, cr3);
      s.cr3 = cr3;
      m.registersChanged(vcpu);
    }
    if (!skip_tlb_flush) kvm_invalidate_pcid(vcpu, pcid);
    return true;
  }
}

/** kvm_invalidate_pcid() */
export function kvm_invalidate_pcid(vcpu: KvmVcpu, pcid: bigint): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_invalidate_pcid', vcpu.vcpu_id, null);
  if (m.tdpEnabled) kvm_make_request('TLB_FLUSH_GUEST', vcpu);
  else {
    const active = vcpu.regs.cr4 & CR4.PCIDE ? vcpu.regs.cr3 & 0xfffn : 0n;
    if (active === pcid) {
      kvm_make_request('MMU_SYNC', vcpu);
      kvm_make_request('TLB_FLUSH_CURRENT', vcpu);
    }
    if (vcpu.regs.cr4 & CR4.PCIDE)
      kvm_mmu_free_roots(vcpu, vcpu.mmu, false, (i) => (vcpu.mmu.prev_roots[i].pgd & 0xfffn) === pcid);
  }
  leave(m);
}

/** set_efer(). @returns false for #GP */
export function set_efer(vcpu: KvmVcpu, value: bigint): boolean {
  const m = vcpu.kvm.machine;
  const s = vcpu.regs;
  enter(m, 'set_efer', vcpu.vcpu_id, s);
  const old = s.efer;
  const known = EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE | EFER.SVME;
  const bad =
    (value & ~known) !== 0n ||
    (value & EFER.NXE && !m.guestFeatures.has('nx')) ||
    (value & EFER.SVME && !m.guestFeatures.has('svm')) ||
    ((value ^ old) & EFER.LME && s.cr0 & CR0.PG);
  if (!bad) {
    s.efer = (value & ~EFER.LMA) | (old & EFER.LMA);
    m.registersChanged(vcpu);
    if ((s.efer ^ old) & (EFER.LME | EFER.NXE)) kvm_mmu_reset_context(vcpu);
  }
  leave(m);
  return !bad;
}

/** kvm_set_msr() for the MSRs that the model knows. @returns false for #GP */
export function kvm_set_msr(vcpu: KvmVcpu, index: number, value: bigint): boolean {
  if (index === MSR.EFER) return set_efer(vcpu, value);
  vcpu.regs.msrs.set(index, value);
  if (index === MSR.PKRS) {
    vcpu.regs.pkrs = Number(value & 0xffffffffn);
    vcpu.kvm.machine.registersChanged(vcpu);
  }
  return true;
}

/** kvm_get_msr() */
export function kvm_get_msr(vcpu: KvmVcpu, index: number): bigint | null {
  if (index === MSR.EFER) return vcpu.regs.efer;
  return vcpu.regs.msrs.get(index) ?? null;
}

/** KVM_SET_SREGS and KVM_SET_REGS: takes the registers over and resets the MMU if one of them governs it. */
export function setRegs(vcpu: KvmVcpu, set: RegisterSet): void {
  const m = vcpu.kvm.machine;
  const s = vcpu.regs;
  const { cpl, gpr, gdtr, idtr, ...plain } = set;
  const before = [s.cr0, s.cr3, s.cr4, s.efer];
  Object.assign(s, plain);
  if (gdtr) Object.assign(s.gdtr, gdtr);
  if (idtr === null) {
    s.idtUsed = false;
    m.idtPolicy.set(vcpu.vcpu_id, false);
  } else if (idtr) {
    s.idtUsed = true;
    m.idtPolicy.set(vcpu.vcpu_id, true);
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
      const values = read_pdptrs(vcpu, s.cr3);
      if (values) values.forEach((v, i) => (s.pdptrs[i] = v));
    }
    m.registersChanged(vcpu);
    // __set_sregs(): only CR0, CR4 and EFER matter to the MMU, and CR3 through the root's pgd.
    kvm_mmu_reset_context(vcpu);
  } else m.registersChanged(vcpu);
}

/** kvm_vcpu_reset() after an INIT, which is what KVM on AMD does with a shutdown. */
export function kvm_vcpu_reset(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_vcpu_reset', vcpu.vcpu_id, vcpu.regs);
  kvm_leave_nested(vcpu);
  const s = vcpu.regs;
  const kept = s.cr0 & (CR0.CD | CR0.NW);
  const { idtUsed, cr2, cr3 } = s;
  const gpr = s.gpr.slice();
  s.copyFrom(new CpuState());
  s.idtUsed = idtUsed;
  s.cr0 = CR0.ET | kept;
  if (!m.caps.shutdownResets) {
    // init_vmcb() alone
    s.cr0 = CR0.ET | CR0.CD | CR0.NW;
    s.cr2 = cr2;
    s.cr3 = cr3;
    s.gpr.set(gpr);
  }
  vcpu.exception = null;
  m.registersChanged(vcpu);
  kvm_mmu_reset_context(vcpu);
  leave(m);
}
