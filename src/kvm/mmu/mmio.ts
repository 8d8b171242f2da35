/**
 * Cached MMIO: the vCPU's one-entry cache and MMIO sptes. Facts: reference kvm-mmu-model.md chapter 23; seed 2.
 */
import { enter, leave } from '../observer';
import type { KvmVcpu } from '../kvm_host';
import { kvm_vcpu_memslots } from '../kvm_main';
import { RET_PF } from './fault';
import { is_rsvd_bits_set } from './metadata';
import { get_walk, is_tdp_mmu } from './direct_map';
import { kvm_tdp_mmu_get_walk, newSpteWalk } from './tdp_mmu';
import { mmu_is_nested } from '../kvm_host';

const walkScratch = newSpteWalk();

/** Generation that the vCPU's cache is compared with: address space 0 in kernels with that quirk. */
const cacheGeneration = (vcpu: KvmVcpu): { generation: number; updateInProgress: boolean } =>
  vcpu.kvm.machine.caps.mmioCacheGenerationOfAs0 ? vcpu.kvm.memslots[0] : kvm_vcpu_memslots(vcpu);

/** vcpu_cache_mmio_info() */
export function vcpu_cache_mmio_info(vcpu: KvmVcpu, gva: bigint, gfn: number, access: number): void {
  const slots = cacheGeneration(vcpu);
  if (slots.updateInProgress) return;
  const m = vcpu.kvm.machine;
  enter(m, 'vcpu_cache_mmio_info', vcpu.vcpu_id, vcpu);
  // With nested paging the gva is an L2 address and means nothing here.
  vcpu.mmio_gva = mmu_is_nested(vcpu) ? 0n : gva & ~0xfffn;
  vcpu.mmio_access = access;
  vcpu.mmio_gfn = gfn;
  vcpu.mmio_gen = slots.generation;
  leave(m);
}

const vcpu_match_mmio_gen = (vcpu: KvmVcpu): boolean => vcpu.mmio_gen === cacheGeneration(vcpu).generation;

/** vcpu_clear_mmio_info(); null is MMIO_GVA_ANY. */
export function vcpu_clear_mmio_info(vcpu: KvmVcpu, gva: bigint | null): void {
  if (gva !== null && vcpu.mmio_gva !== (gva & ~0xfffn)) return;
  vcpu.mmio_gva = 0n;
}

/** vcpu_match_mmio_gva() */
export const vcpu_match_mmio_gva = (vcpu: KvmVcpu, gva: bigint): boolean =>
  vcpu_match_mmio_gen(vcpu) && vcpu.mmio_gva !== 0n && vcpu.mmio_gva === (gva & ~0xfffn);

/** vcpu_match_mmio_gpa() */
export const vcpu_match_mmio_gpa = (vcpu: KvmVcpu, gpa: number): boolean =>
  vcpu_match_mmio_gen(vcpu) && vcpu.mmio_gfn !== 0 && vcpu.mmio_gfn === Math.floor(gpa / 4096);

/** mmio_info_in_cache(): `addr` is a gpa if direct, else a gva. */
export function mmio_info_in_cache(vcpu: KvmVcpu, addr: bigint, direct: boolean): boolean {
  // A nested walk may turn one gpa into another; the cache cannot tell.
  if (mmu_is_nested(vcpu)) return false;
  return direct ? vcpu_match_mmio_gpa(vcpu, Number(addr)) : vcpu_match_mmio_gva(vcpu, addr);
}

/** check_mmio_spte(): does the generation in the spte match the memslots? */
function check_mmio_spte(vcpu: KvmVcpu, lo: number, hi: number): boolean {
  const m = vcpu.kvm.machine;
  const slots = kvm_vcpu_memslots(vcpu);
  if (slots.updateInProgress) return false;
  enter(m, 'check_mmio_spte', vcpu.vcpu_id, null);
  const kvm_gen = slots.generation & m.spte.layout.mmio.genMask;
  const spte_gen = m.spte.mmioGeneration(lo, hi);
  if (m.observer)
    m.observer.event({
      kind: 'check_mmio_spte',
      vcpu: vcpu.vcpu_id,
      spte: (BigInt(hi) << 32n) | BigInt(lo),
      kvm_gen: BigInt(kvm_gen >>> 0),
      spte_gen: BigInt(spte_gen >>> 0),
    });
  leave(m);
  return kvm_gen === spte_gen;
}

/** handle_mmio_page_fault(): EMULATE on a hit, INVALID for a stale generation, RETRY if somebody zapped the entry. */
export function handle_mmio_page_fault(vcpu: KvmVcpu, addr: bigint, direct: boolean): RET_PF {
  const kvm = vcpu.kvm;
  const m = kvm.machine;
  enter(m, 'handle_mmio_page_fault', vcpu.vcpu_id, vcpu);
  const ret = lookUp();
  leave(m);
  return ret;

  function hit(how: 'spte' | 'vcpu-cache', spte: bigint | null, generation: bigint | null): void {
    vcpu.stat['mmio_cache_hits'] = (vcpu.stat['mmio_cache_hits'] ?? 0) + 1;
    if (m.observer)
      m.observer.event({
        kind: 'mmio_hit',
        vcpu: vcpu.vcpu_id,
        gpa: direct ? addr : BigInt(vcpu.mmio_gfn) << 12n,
        gfn: BigInt(vcpu.mmio_gfn),
        write: m.lastFaultWrite,
        spte,
        generation,
        how,
        why: m.lastWhy,
      });
  }

  function lookUp(): RET_PF {
    enter(m, 'mmio_info_in_cache', vcpu.vcpu_id, vcpu);
    const inCache = mmio_info_in_cache(vcpu, addr, direct);
    leave(m);
    if (inCache) {
      hit('vcpu-cache', null, null);
      return RET_PF.EMULATE;
    }
    enter(m, 'get_mmio_spte', vcpu.vcpu_id, null);
    const w = walkScratch;
    const tdp = is_tdp_mmu(vcpu);
    enter(m, tdp ? 'kvm_tdp_mmu_get_walk' : 'get_walk', vcpu.vcpu_id, null);
    if (tdp) kvm_tdp_mmu_get_walk(vcpu, Math.floor(Number(addr) / 4096), w);
    else get_walk(vcpu, addr, w);
    leave(m);
    leave(m);
    if (w.count === 0) return RET_PF.RETRY;
    const last = w.count - 1;
    const lo = w.lo[last];
    const hi = w.hi[last];
    for (let i = 0; i < w.count; i++)
      if (
        m.spte.isPresent(w.lo[i], w.hi[i]) &&
        is_rsvd_bits_set(vcpu.mmu.shadow_zero_check, w.lo[i], w.hi[i], w.level[i])
      ) {
        m.warn(
          `reserved bits set on MMU-present spte 0x${((BigInt(w.hi[i]) << 32n) | BigInt(w.lo[i])).toString(16)} at level ${w.level[i]}`,
        );
        return -22 as RET_PF;
      }
    if (!m.spte.isMmio(lo, hi)) return RET_PF.RETRY;
    const gfn = m.spte.mmioGfn(lo, hi);
    const access = m.spte.mmioAccess(lo);
    if (!check_mmio_spte(vcpu, lo, hi)) return RET_PF.INVALID;
    const cachedAddr = direct ? 0n : addr;
    if (m.observer)
      m.observer.event({
        kind: 'handle_mmio_page_fault',
        vcpu: vcpu.vcpu_id,
        addr: cachedAddr,
        gfn: BigInt(gfn),
        access,
      });
    vcpu_cache_mmio_info(vcpu, cachedAddr, gfn, access);
    hit('spte', (BigInt(hi) << 32n) | BigInt(lo), BigInt(m.spte.mmioGeneration(lo, hi)));
    return RET_PF.EMULATE;
  }
}
