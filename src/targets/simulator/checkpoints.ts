/**
 * Saved states along a run, few however long the run gets.
 *
 * Dense near the place where the user is, thinner with the distance from it: the gap around a checkpoint stays a fraction
 * of its distance from there, so going back d ticks costs at most a fraction of d in running again. The number kept is
 * constant; the run's length changes only how far apart the oldest ones are.
 */

export interface Checkpoint {
  /** tick of the statement (or part of one) that runs next */
  readonly tick: number;
  /** events before it */
  readonly event: number;
  readonly statements: number;
  /** the statement's own tick has passed: the state lies between two parts of a long statement */
  readonly entered: boolean;
  readonly saved: unknown;
  /** what the time line itself has to remember */
  readonly extra: unknown;
}

export class Checkpoints {
  private readonly list: Checkpoint[] = [];

  constructor(private readonly capacity = 96) {}

  get size(): number {
    return this.list.length;
  }

  /** Ticks of all checkpoints, rising. */
  get ticks(): number[] {
    return this.list.map((c) => c.tick);
  }

  /** The last checkpoint at or before a tick. */
  before(tick: number): Checkpoint | undefined {
    return this.list[this.indexBefore(tick)];
  }

  /** The last checkpoint with at most so many events before it. */
  beforeEvent(event: number): Checkpoint | undefined {
    return this.list.findLast((c) => c.event <= event);
  }

  /** Adds a state; `here` is where the user is, around which states are worth most. */
  add(checkpoint: Checkpoint, here: number): void {
    const at = this.indexBefore(checkpoint.tick);
    if (this.list[at]?.tick === checkpoint.tick && this.list[at].entered === checkpoint.entered) return;
    this.list.splice(at + 1, 0, checkpoint);
    while (this.list.length > this.capacity) this.list.splice(this.leastUseful(here), 1);
  }

  /** Forgets what lies after a tick: the run has been changed there. */
  dropAfter(tick: number): void {
    while (this.list.length > 0 && this.list[this.list.length - 1].tick > tick) this.list.pop();
  }

  private indexBefore(tick: number): number {
    let [low, high] = [0, this.list.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.list[middle].tick <= tick) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** The checkpoint whose loss leaves the smallest gap in proportion to its distance. The first one always stays. */
  private leastUseful(here: number): number {
    let [best, bestCost] = [this.list.length - 1, Infinity];
    for (let i = 1; i < this.list.length; i++) {
      const next = this.list[i + 1]?.tick ?? Math.max(here, this.list[i].tick) + 1;
      const gap = next - this.list[i - 1].tick;
      const cost = gap / (Math.abs(here - this.list[i].tick) + 1);
      if (cost < bestCost) [best, bestCost] = [i, cost];
    }
    return best;
  }
}
