/**
 * arch/x86/kvm/mmu/spte.c: what a shadow page table entry means to KVM and how one is built.
 * Entries are pairs of unsigned 32-bit halves; functions that build one leave it in `f.lo` and `f.hi`.
 * Facts: reference kvm-mmu-model.md chapters 16, 22, 23; spte-layouts.json.
 */
import { encodeGeneration, spteLayout, type PagingType, type SpteLayout, type SpteMasks } from '../../words/sptes';
import type { KernelVersion } from '../../words/kernels';
import { toPair, type Pair } from '../../words/word';
import type { MachineConfig } from '../machine';
import { ACC_ALL, ACC_EXEC, ACC_USER, ACC_WRITE, type KvmMemorySlot, type KvmMmuPage, type KvmVcpu } from '../kvm_host';
import { kvm_slot_dirty_track_enabled, kvm_vcpu_memslots, mark_page_dirty_in_slot } from '../kvm_main';
import { spp_mark_new_leaf } from './spp';
import { mmu_try_to_unsync_pages } from './unsync';
import { role_get } from '../roles';

export const PT_PRESENT_LO = 1;
export const PT_WRITABLE_LO = 2;
export const PT_USER_LO = 4;
export const PT_PAGE_SIZE_LO = 0x80;
const ZERO: Pair = { lo: 0, hi: 0 };

/** The sptes of one machine: the kernel's layout on this host. `lo`/`hi` receive what the builders build. */
export class SpteFormat {
  readonly layout: SpteLayout;
  readonly masks: SpteMasks;
  readonly pagingType: PagingType;
  readonly enable_mmio_caching: boolean;
  /** kvm_ad_enabled(): shadow_accessed_mask is not 0 */
  readonly kvm_ad_enabled: boolean;
  /** shadow-present by bit 11 (v5.13+), by being non-zero (v4.19..v5.12) or by bit 0 */
  private readonly presentLo: number;
  private readonly presentHi: number;
  private readonly presentByBit: boolean;
  /** values of the A/D type field (SPTE_TDP_AD_*), 0 where there is none */
  private readonly adDisabled: Pair;
  private readonly adWrprotOnly: Pair;
  /** SHADOW_NONPRESENT_VALUE: 0; bit 63 (suppress #VE) in v6.11 and later, with EPT and without */
  readonly nonpresentLo: number;
  readonly nonpresentHi: number;
  /** REMOVED_SPTE (v5.10..v6.11), FROZEN_SPTE later: non-present, and no other thread may overwrite it; 0 where there is none */
  readonly frozenLo: number;
  readonly frozenHi: number;
  /** get_mt_mask() for RAM without non-coherent DMA: write-back and ignore PAT (v6.1 vmx_get_mt_mask); 0 outside EPT */
  private readonly memtypeRamLo: number;
  private readonly savedBits: number;
  private readonly savedShift: number;
  lo = 0;
  hi = 0;

  constructor(config: MachineConfig, kernel: KernelVersion) {
    this.pagingType = config.paging === 'ept' ? 'ept' : 'legacy';
    const layout = spteLayout(kernel, this.pagingType, {
      hostPhysBits: config.maxphyaddr,
      l1tf: config.l1tf,
      mmioCaching: config.mmio_caching,
      eptAd: config.ept_ad,
      eptExecOnly: true,
    });
    this.layout = layout;
    // From v7.2 on EPT's R comes from ACC_READ, which this model does not tell from ACC_USER: of EPT both mean R. X and XU go together
    // without mode-based execute control.
    const { hot } = layout;
    this.masks =
      layout.xu === 0n
        ? hot
        : { ...hot, user: { lo: 1, hi: 0 }, x: { lo: hot.x.lo | hot.xu.lo, hi: hot.x.hi | hot.xu.hi } };
    this.enable_mmio_caching = layout.mmio.enabled;
    this.kvm_ad_enabled = layout.accessed !== 0n;
    this.presentByBit = layout.era.present !== 'nonzero';
    this.presentLo = layout.era.present === 'bit 11' ? 1 << 11 : layout.era.present === 'bit 0' ? 1 : 0xffffffff;
    this.presentHi = this.presentByBit ? 0 : 0xffffffff;
    const type = layout.era.adType;
    this.adDisabled = type ? toPair(1n << BigInt(type.lsb)) : ZERO;
    this.adWrprotOnly = type ? toPair(2n << BigInt(type.lsb)) : ZERO;
    this.memtypeRamLo = this.pagingType === 'ept' ? (6 << 3) | 0x40 : 0;
    ({ lo: this.nonpresentLo, hi: this.nonpresentHi } = layout.hot.nonpresentValue);
    ({ lo: this.frozenLo, hi: this.frozenHi } = layout.hot.frozenValue);
    this.savedBits = Number(layout.era.accTrackSaved?.savedBits ?? 0n);
    this.savedShift = layout.era.accTrackSaved?.shift ?? 32;
  }

  /** is_shadow_present_pte() */
  isPresent(lo: number, hi: number): boolean {
    if (((lo & this.presentLo) | (hi & this.presentHi)) === 0) return false;
    // Only the MMU-present bit of v5.13+ tells the two apart by itself.
    return this.presentLo === 1 << 11 || (!this.isMmio(lo, hi) && !this.isRemoved(lo, hi));
  }

  /** is_mmio_spte() */
  isMmio(lo: number, hi: number): boolean {
    const m = this.masks;
    return (
      this.enable_mmio_caching &&
      (lo & m.mmioMask.lo) >>> 0 === m.mmioMatch.lo &&
      (hi & m.mmioMask.hi) >>> 0 === m.mmioMatch.hi
    );
  }

  /** is_last_spte() */
  isLast(lo: number, level: number): boolean {
    return level === 1 || (lo & PT_PAGE_SIZE_LO) !== 0;
  }

  /** is_removed_spte() */
  isRemoved(lo: number, hi: number): boolean {
    return this.frozenLo !== 0 && lo === this.frozenLo && hi === this.frozenHi;
  }

  /** Whether an entry is SHADOW_NONPRESENT_VALUE: neither present nor a cached MMIO entry nor frozen. */
  isNonpresent(lo: number, hi: number): boolean {
    return lo === this.nonpresentLo && hi === this.nonpresentHi;
  }

  /** is_writable_pte() */
  isWritable(lo: number): boolean {
    return (lo & PT_WRITABLE_LO) !== 0;
  }

  /** is_mmu_writable_spte() (v5.13+; before: host- and MMU-writable) */
  isMmuWritable(lo: number, hi: number): boolean {
    const m = this.masks.mmuWritable;
    return ((lo & m.lo) | (hi & m.hi)) !== 0;
  }

  /** is_host_writable */
  isHostWritable(lo: number, hi: number): boolean {
    const m = this.masks.hostWritable;
    return ((lo & m.lo) | (hi & m.hi)) !== 0;
  }

  /** is_executable_pte() */
  isExecutable(lo: number, hi: number): boolean {
    // X of the supervisor: what shadow EPT has without MBEC.
    const { x } = this.layout.hot;
    const { nx } = this.masks;
    return (lo & (x.lo | nx.lo)) >>> 0 === x.lo && (hi & (x.hi | nx.hi)) >>> 0 === x.hi;
  }

  /** spte_ad_enabled(): the type field is not "disabled" */
  adEnabled(lo: number, hi: number): boolean {
    const t = this.masks.adType;
    if ((t.lo | t.hi) === 0) return true;
    return (lo & t.lo) >>> 0 !== this.adDisabled.lo || (hi & t.hi) >>> 0 !== this.adDisabled.hi;
  }

  /** spte_ad_need_write_protect(): dirty tracking of this entry goes by W, not by D. */
  adNeedsWriteProtect(lo: number, hi: number): boolean {
    const { adType: t, dirty: d } = this.masks;
    return (d.lo | d.hi) === 0 || ((lo & t.lo) | (hi & t.hi)) !== 0;
  }

  /** is_access_track_spte() */
  isAccessTrack(lo: number, hi: number): boolean {
    const a = this.masks.accTrack;
    return (a.lo | a.hi) !== 0 && !this.adEnabled(lo, hi) && ((lo & a.lo) | (hi & a.hi)) === 0;
  }

  /** spte_to_pfn(): address bits 51:12 */
  pfn(lo: number, hi: number): number {
    return (hi & 0xfffff) * 0x100000 + (lo >>> 12);
  }

  /** is_dirty_spte() */
  isDirty(lo: number, hi: number): boolean {
    const d = this.masks.dirty;
    if (this.adEnabled(lo, hi) && d.lo | d.hi) return ((lo & d.lo) | (hi & d.hi)) !== 0;
    return this.isWritable(lo);
  }

  /** is_accessed_spte() */
  isAccessed(lo: number, hi: number): boolean {
    const a = this.masks.accessed;
    if (this.adEnabled(lo, hi) && a.lo | a.hi) return ((lo & a.lo) | (hi & a.hi)) !== 0;
    return !this.isAccessTrack(lo, hi);
  }

  /** make_mmio_spte(): gfn, access and the generation of the vCPU's memslots in an entry that faults recognisably. */
  make_mmio_spte(vcpu: KvmVcpu, gfn: number, access: number): void {
    const m = this.masks;
    const gen = toPair(encodeGeneration(this.layout, kvm_vcpu_memslots(vcpu).generation));
    const allowed = this.layout.mmio.accessMask;
    const gpaLo = (gfn * 4096) >>> 0;
    const gpaHi = Math.floor(gfn / 0x100000);
    const np = m.nonpresentOrRsvd;
    // The address bits that hide behind the always-set ones (L1TF) move up by the width of that field.
    const movedLo = (gpaLo & np.lo) >>> 0;
    const movedHi = (gpaHi & np.hi) >>> 0;
    const shiftLo = (movedLo << 5) >>> 0;
    const shiftHi = ((movedHi << 5) | (movedLo >>> 27)) >>> 0;
    this.lo = (gen.lo | m.mmioValue.lo | (access & allowed) | gpaLo | np.lo | shiftLo) >>> 0;
    this.hi = (gen.hi | m.mmioValue.hi | gpaHi | np.hi | shiftHi) >>> 0;
  }

  /** get_mmio_spte_generation() */
  mmioGeneration(lo: number, hi: number): number {
    let gen = 0;
    for (const p of this.layout.era.mmio.gen) {
      const from =
        p.spteLsb >= 32 ? hi >>> (p.spteLsb - 32) : (lo >>> p.spteLsb) | (p.spteLsb ? hi << (32 - p.spteLsb) : 0);
      gen |= (from & (2 ** p.width - 1)) << p.genLsb;
    }
    return gen;
  }

  /** get_mmio_spte_gfn() */
  mmioGfn(lo: number, hi: number): number {
    const m = this.masks;
    const np = m.nonpresentOrRsvd;
    const l = m.lowerGfn;
    const upLo = ((lo >>> 5) | (hi << 27)) >>> 0;
    const upHi = hi >>> 5;
    const gpaLo = ((lo & l.lo) | (upLo & np.lo)) >>> 0;
    const gpaHi = ((hi & l.hi) | (upHi & np.hi)) >>> 0;
    return gpaHi * 0x100000 + (gpaLo >>> 12);
  }

  /** get_mmio_spte_access() */
  mmioAccess(lo: number): number {
    return lo & this.layout.mmio.accessMask;
  }

  /** make_nonleaf_spte(): full rights; restrictions live in leaves and in the child's role.access. */
  make_nonleaf_spte(childPfn: number, ad_disabled: boolean): void {
    const m = this.masks;
    let lo = m.mmuPresent.lo | m.present.lo | PT_WRITABLE_LO | m.user.lo | m.x.lo;
    let hi = m.mmuPresent.hi | m.present.hi | m.user.hi | m.x.hi;
    lo |= childPfn << 12;
    hi |= Math.floor(childPfn / 0x100000);
    if (ad_disabled) {
      lo |= this.adDisabled.lo;
      hi |= this.adDisabled.hi;
    } else {
      lo |= m.accessed.lo;
      hi |= m.accessed.hi;
    }
    this.lo = lo >>> 0;
    this.hi = hi >>> 0;
  }

  /** mark_spte_for_access_track(): the entry in lo/hi loses A, or R and X where there are no A/D bits. */
  mark_spte_for_access_track(): void {
    const m = this.masks;
    if (this.adEnabled(this.lo, this.hi) && m.accessed.lo | m.accessed.hi) {
      this.lo = (this.lo & ~m.accessed.lo) >>> 0;
      this.hi = (this.hi & ~m.accessed.hi) >>> 0;
      return;
    }
    if (this.isAccessTrack(this.lo, this.hi) || (m.accTrack.lo | m.accTrack.hi) === 0) return;
    // Saved bits sit at bits >= 32 for every layout that tracks.
    this.hi = (this.hi | ((this.lo & this.savedBits) << (this.savedShift - 32))) >>> 0;
    this.lo = (this.lo & ~m.accTrack.lo) >>> 0;
    this.hi = (this.hi & ~m.accTrack.hi) >>> 0;
  }

  /** restore_acc_track_spte() on the entry in lo/hi. */
  restore_acc_track_spte(): void {
    const m = this.masks;
    const saved = (this.hi >>> (this.savedShift - 32)) & this.savedBits;
    this.lo = ((this.lo & ~m.accTrack.lo) | saved) >>> 0;
    this.hi = (this.hi & ~m.accTrack.hi & ~(this.savedBits << (this.savedShift - 32))) >>> 0;
  }

  /**
   * make_spte(): the leaf for gfn -> pfn in page `sp`, left in lo/hi.
   * @returns true when write access had to be withheld because the gfn is a shadowed guest page table.
   */
  make_spte(
    vcpu: KvmVcpu,
    sp: KvmMmuPage,
    slot: KvmMemorySlot | null,
    pte_access: number,
    gfn: number,
    pfn: number,
    oldLo: number,
    prefetch: boolean,
    can_unsync: boolean,
    host_writable: boolean,
  ): boolean {
    const machine = vcpu.kvm.machine;
    const m = this.masks;
    const R = machine.roles;
    const level = role_get(sp.role, R.level);
    let lo = m.mmuPresent.lo | m.present.lo;
    let hi = m.mmuPresent.hi | m.present.hi;
    let wrprot = false;
    const adDisabled = role_get(sp.role, R.ad_disabled) === 1;
    if (adDisabled) {
      lo |= this.adDisabled.lo;
      hi |= this.adDisabled.hi;
    } else if (machine.config.pml || !machine.caps.adWrprotNeedsPml) {
      const ofL2 =
        machine.caps.adWrprotFor === 'guest_mode' ? role_get(sp.role, R.guest_mode) === 1 : vcpu.mmu === vcpu.guest_mmu;
      if (ofL2) {
        lo |= this.adWrprotOnly.lo;
        hi |= this.adWrprotOnly.hi;
      }
    }
    const adFlags = !adDisabled || machine.caps.adFlagsAlways;
    if (!prefetch && adFlags) {
      lo |= m.accessed.lo;
      hi |= m.accessed.hi;
    }
    if (level > 1 && pte_access & ACC_EXEC && machine.config.nx_huge_pages) pte_access &= ~ACC_EXEC;
    if (pte_access & ACC_EXEC) {
      lo |= m.x.lo;
      hi |= m.x.hi;
      // X for the user goes with that for the supervisor in TDP, and has no part in shadow EPT without MBEC.
      if (this.layout.xu !== 0n && !role_get(sp.role, R.cr4_smep)) lo &= ~this.layout.hot.xu.lo;
    } else {
      lo |= m.nx.lo;
      hi |= m.nx.hi;
    }
    if (pte_access & ACC_USER) {
      lo |= m.user.lo;
      hi |= m.user.hi;
    }
    if (level > 1) lo |= PT_PAGE_SIZE_LO;
    lo |= this.memtypeRamLo;
    if (host_writable) {
      lo |= m.hostWritable.lo;
      hi |= m.hostWritable.hi;
    } else pte_access &= ~ACC_WRITE;
    lo |= pfn << 12;
    hi |= Math.floor(pfn / 0x100000);
    if (pte_access & ACC_WRITE) {
      lo |= PT_WRITABLE_LO | m.mmuWritable.lo;
      hi |= m.mmuWritable.hi;
      // The bit is tested on whatever was there, even an MMIO spte: such an entry gets no D either (as the kernel's code has it).
      const { writableKeepsDirty } = machine.caps;
      const was = this.isWritable(oldLo) && (writableKeepsDirty !== 'sync' || !can_unsync);
      if (!was) {
        if (mmu_try_to_unsync_pages(vcpu, slot, gfn, can_unsync, prefetch) !== 0) {
          wrprot = true;
          pte_access &= ~ACC_WRITE;
          lo &= ~(PT_WRITABLE_LO | m.mmuWritable.lo);
          hi &= ~m.mmuWritable.hi;
        }
      }
      if (pte_access & ACC_WRITE && adFlags && (!was || writableKeepsDirty === 'never')) {
        lo |= m.dirty.lo;
        hi |= m.dirty.hi;
      }
    }
    this.lo = lo >>> 0;
    this.hi = hi >>> 0;
    if (machine.sppEnabled && spp_mark_new_leaf(machine, slot, gfn, level) && kvm_slot_dirty_track_enabled(slot))
      mark_page_dirty_in_slot(slot, gfn);
    if (prefetch) this.mark_spte_for_access_track();
    if (this.lo & PT_WRITABLE_LO && kvm_slot_dirty_track_enabled(slot)) mark_page_dirty_in_slot(slot, gfn);
    return wrprot;
  }

  /** The access bits that a leaf grants, for the fault path's spurious test (ACC_* of this era). */
  accessOf(lo: number, hi: number): number {
    let a = 0;
    if (this.isExecutable(lo, hi)) a |= ACC_EXEC;
    if (this.isWritable(lo)) a |= ACC_WRITE;
    const u = this.masks.user;
    if ((u.lo | u.hi) === 0 || ((lo & u.lo) | (hi & u.hi)) !== 0) a |= ACC_USER;
    return a & ACC_ALL;
  }
}
