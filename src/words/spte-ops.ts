/** The predicates of arch/x86/kvm/mmu/spte.h, access tracking, and MMIO sptes, on bigint values. */
import { WordError, formatHex } from './address';
import type { SpteLayout } from './spte-layout';
import { SHADOW_NONPRESENT_OR_RSVD_LEN } from './spte-layout';
import { bits } from './word';

/** is_mmio_spte: caching is on and the masked bits match. */
export function isMmio(l: SpteLayout, spte: bigint): boolean {
  return l.mmio.enabled && (spte & l.mmio.mask) === l.mmio.match;
}

/** is_shadow_present_pte: KVM has a mapping or a table here, whatever the hardware thinks of R, W, X or P. */
export function isShadowPresent(l: SpteLayout, spte: bigint): boolean {
  switch (l.era.present) {
    case 'bit 11':
      return (spte & l.mmuPresent) !== 0n;
    case 'bit 0':
      return (spte & 1n) !== 0n && !isMmio(l, spte);
    case 'nonzero':
      return spte !== 0n && !isMmio(l, spte);
  }
}

/** is_last_spte: a present spte of this level maps memory rather than pointing to a table. */
export function isLeaf(l: SpteLayout, spte: bigint, level: number): boolean {
  return level === 1 || (spte & l.large) !== 0n;
}

/** is_removed_spte / is_frozen_spte: the entry of a table that is being freed. */
export function isFrozen(l: SpteLayout, spte: bigint): boolean {
  return l.frozenValue !== null && spte === l.frozenValue;
}

/** Value of the A/D type field: 0 enabled, 1 disabled, 2 write-protect for PML. 0 in eras without the field. */
export function adTypeOf(l: SpteLayout, spte: bigint): number {
  return l.era.adType ? Number((spte & l.adType) >> BigInt(l.era.adType.lsb)) : 0;
}

/** Whether hardware accessed/dirty bits count for this spte (spte_ad_enabled). */
export function adEnabled(l: SpteLayout, spte: bigint): boolean {
  return adTypeOf(l, spte) !== 1;
}

/** is_access_track_spte: no hardware A/D, and the bits that access tracking clears are clear. EPT only. */
export function isAccessTracked(l: SpteLayout, spte: bigint): boolean {
  return l.accTrack !== 0n && !adEnabled(l, spte) && (spte & l.accTrack) === 0n;
}

/** mark_spte_for_access_track for an spte without A/D: saves R and X (and XU), clears RWX. Identity if already done. */
export function accessTrack(l: SpteLayout, spte: bigint): bigint {
  const saved = l.era.accTrackSaved;
  if (!saved || isAccessTracked(l, spte)) return spte;
  return (spte | ((spte & saved.savedBits) << BigInt(saved.shift))) & ~l.accTrack;
}

/** restore_acc_track_spte: puts R and X (and XU) back. W comes back only through a write fault. */
export function restoreAccessTracked(l: SpteLayout, spte: bigint): bigint {
  const saved = l.era.accTrackSaved;
  if (!saved) return spte;
  const kept = (spte >> BigInt(saved.shift)) & saved.savedBits;
  return (spte & ~l.accTrack & ~(saved.savedBits << BigInt(saved.shift))) | kept;
}

/** Spte bits that hold a generation. Bits of the generation that the era does not store are dropped. */
export function encodeGeneration(l: SpteLayout, generation: bigint | number): bigint {
  const gen = BigInt(generation);
  return l.era.mmio.gen.reduce(
    (spte, p) => spte | (((gen >> BigInt(p.genLsb)) & bits(0, p.width)) << BigInt(p.spteLsb)),
    0n,
  );
}

/** Generation stored in an MMIO spte, or null in eras without one (v3.1 .. v3.10). */
export function decodeGeneration(l: SpteLayout, spte: bigint): number | null {
  if (l.era.mmio.gen.length === 0) return null;
  return Number(
    l.era.mmio.gen.reduce((gen, p) => gen | (((spte >> BigInt(p.spteLsb)) & bits(0, p.width)) << BigInt(p.genLsb)), 0n),
  );
}

/**
 * make_mmio_spte / mark_mmio_spte: the value that makes the next access to the page fault recognisably.
 * @param gfn frame without memslot
 * @param access ACC_* bits of the mapping; only those that the era keeps are stored
 * @param generation memslot generation of the vCPU's address space; ignored before v3.11
 * @throws WordError if MMIO caching is off in this layout
 */
export function encodeMmio(
  l: SpteLayout,
  gfn: bigint | number,
  access: number,
  generation: bigint | number = 0,
): bigint {
  if (!l.mmio.enabled) {
    throw new WordError(
      `${l.id} with ${l.hostPhysBits} physical address bits caches no MMIO: there is no bit that would fault recognisably`,
    );
  }
  const gpa = BigInt(gfn) << 12n;
  if (gpa > bits(0, 64)) throw new WordError(`gfn ${formatHex(BigInt(gfn))} does not fit an spte`);
  return (
    encodeGeneration(l, generation) |
    l.mmio.value |
    BigInt(access & l.mmio.accessMask) |
    gpa |
    l.nonpresentOrRsvd |
    ((gpa & l.nonpresentOrRsvd) << BigInt(SHADOW_NONPRESENT_OR_RSVD_LEN))
  );
}

/** What an MMIO spte says. `generation` is null where none is stored; `access` is 0 where it cannot be read back. */
export interface MmioContent {
  readonly gfn: bigint;
  readonly access: number;
  readonly generation: number | null;
}

/** get_mmio_spte_gfn, _access and _generation. Meaningful only if `isMmio`. */
export function decodeMmio(l: SpteLayout, spte: bigint): MmioContent {
  const gpa = (spte & l.lowerGfn) | ((spte >> BigInt(SHADOW_NONPRESENT_OR_RSVD_LEN)) & l.nonpresentOrRsvd);
  // Until v4.20 access is whatever of the low 12 bits is neither mark nor generation; on EPT that leaves nothing.
  const oldStyle = l.era.l1tf === 'no' || l.era.l1tf === 'narrow hosts';
  const access = oldStyle ? spte & 0xfffn & ~(l.mmio.mask | l.mmio.genField) : spte & BigInt(l.mmio.accessMask);
  return { gfn: gpa >> 12n, access: Number(access), generation: decodeGeneration(l, spte) };
}
