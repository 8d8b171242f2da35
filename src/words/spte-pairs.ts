/**
 * The sptes' predicates and MMIO codec on (lo, hi) pairs of 32-bit halves, for the simulator's walk and fault paths:
 * no bigint, no allocation. Masks come precomputed in `SpteLayout.hot`; frame numbers are plain numbers (<= 2^40).
 * Each function says the same as its namesake in spte-ops.ts; a property test holds them together.
 */
import { SHADOW_NONPRESENT_OR_RSVD_LEN } from './spte-layout';
import type { SpteMasks } from './spte-layout';

const FRAMES_PER_4G = 0x100000;

/** isMmio on halves. */
export function isMmioPair(m: SpteMasks, lo: number, hi: number): boolean {
  return (
    m.mmioEnabled && (lo & m.mmioMask.lo) >>> 0 === m.mmioMatch.lo && (hi & m.mmioMask.hi) >>> 0 === m.mmioMatch.hi
  );
}

/** isShadowPresent on halves. */
export function isShadowPresentPair(m: SpteMasks, lo: number, hi: number): boolean {
  if (m.presentRule === 2) return (lo & m.mmuPresent.lo) !== 0;
  if (m.presentRule === 0) return (lo & 1) !== 0 && !isMmioPair(m, lo, hi);
  return (lo | hi) !== 0 && !isMmioPair(m, lo, hi);
}

/** isAccessTracked on halves. */
export function isAccessTrackedPair(m: SpteMasks, lo: number, hi: number): boolean {
  return m.accTrack.lo !== 0 && (hi & m.adType.hi) >>> m.adShift === 1 && (lo & m.accTrack.lo) === 0;
}

/** Host frame in bits 51:12. */
export function pfnPair(lo: number, hi: number): number {
  return (hi & 0xfffff) * FRAMES_PER_4G + (lo >>> 12);
}

/** decodeGeneration on halves; 0 in eras without a generation. */
export function mmioGenerationPair(m: SpteMasks, lo: number, hi: number): number {
  const low = ((lo >>> m.genLo.shift) & m.genLo.mask) << m.genLo.gen;
  return low | (((hi >>> m.genHi.shift) & m.genHi.mask) << m.genHi.gen);
}

/** The gfn of decodeMmio on halves. */
export function mmioGfnPair(m: SpteMasks, lo: number, hi: number): number {
  const n = SHADOW_NONPRESENT_OR_RSVD_LEN;
  const gpaLo = (lo & m.lowerGfn.lo) | (((lo >>> n) | (hi << (32 - n))) & m.nonpresentOrRsvd.lo);
  const gpaHi = (hi & m.lowerGfn.hi) | ((hi >>> n) & m.nonpresentOrRsvd.hi);
  return (gpaHi >>> 0) * FRAMES_PER_4G + (gpaLo >>> 12);
}

/**
 * encodeMmio into two elements of an array: out[i] = lo, out[i + 1] = hi. The caller checks `m.mmioEnabled`.
 * @param gfn whole number below 2^40
 */
export function encodeMmioPair(
  m: SpteMasks,
  gfn: number,
  access: number,
  generation: number,
  out: Uint32Array,
  i: number,
): void {
  const n = SHADOW_NONPRESENT_OR_RSVD_LEN;
  const gpaLo = (gfn % FRAMES_PER_4G) << 12;
  const gpaHi = Math.floor(gfn / FRAMES_PER_4G);
  const movedLo = gpaLo & m.nonpresentOrRsvd.lo;
  const movedHi = gpaHi & m.nonpresentOrRsvd.hi;
  out[i] =
    (((generation >>> m.genLo.gen) & m.genLo.mask) << m.genLo.shift) |
    m.mmioValue.lo |
    (access & m.mmioAccessMask) |
    gpaLo |
    m.nonpresentOrRsvd.lo |
    (movedLo << n);
  out[i + 1] =
    (((generation >>> m.genHi.gen) & m.genHi.mask) << m.genHi.shift) |
    m.mmioValue.hi |
    gpaHi |
    m.nonpresentOrRsvd.hi |
    (movedHi << n) |
    (movedLo >>> (32 - n));
}
