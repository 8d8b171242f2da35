/**
 * What the walkers of one processor share: memory, features, the result words, the recorder. One object per vCPU, reused for each walk,
 * so that a walk allocates nothing.
 */
import { R_COUNT } from './access';
import type { CpuFeatures } from './features';
import type { PhysMemory } from './memory';
import type { Tlb } from './tlb';
import type { WalkRecorder } from './why';

/** Per-processor working storage of the walkers. */
export class WalkContext {
  /** Result words, see R_* in access.ts. */
  readonly r = new Int32Array(R_COUNT);
  /**
   * Entries whose accessed flag has to be set once the walk has succeeded: guest walk in words 0 …, second stage in words 48 … .
   * Eight words each: host address of the entry (lo, hi), its address in the walk (lo, hi), flags; EPT: two words, the host address.
   */
  readonly pending = new Int32Array(96);
  /**
   * For the paging-structure caches: what the guest walk had found at each level when it left it. Four words by level: table the
   * entry refers to (lo, hi), AND of low halves, OR of high halves.
   */
  readonly path = new Int32Array(24);
  /** Caches that the running translation uses; null: none. */
  tlb: Tlb | null = null;
  /** Set when a table of the guest was read from a page without EPT bit 58, for guest-paging verification. */
  unverified = false;
  recorder: WalkRecorder | null = null;
  /** The running translation must leave memory as it is (ACC_DRY). */
  dry = false;
  /** Size in bytes of the access, for sub-page permissions. */
  accessSize = 1;
  /** The access is made by an IRET that unblocked NMIs (qualification bit 12). */
  nmiUnblockingIret = false;
  /** Guest level whose entry is being fetched, for the recorder; 0 for the final access. */
  forLevel = 0;

  constructor(
    public memory: PhysMemory,
    public features: CpuFeatures,
  ) {}
}
