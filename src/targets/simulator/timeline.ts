/**
 * A run as a line that can be walked in both directions.
 *
 * The coordinate is the *tick*: the number of the call with which the running machine reports something (a statement
 * begins, a KVM function is entered or left, a table entry is read, an event happens). Runs are deterministic, so a tick
 * names one state for ever. Forward, the program runs; a {@link Watcher} looks at every tick and may stop it there, in
 * the middle of simulated code, by StopSignal. From there nothing can be resumed: to go on (or back) the nearest saved
 * state is restored and the program runs again, unwatched, up to the tick in question.
 *
 * Long runs go in slices, so that the process stays responsive; {@link Timeline.pause} takes effect between slices.
 */
import type { WalkStep } from '../../hw/why';
import type { KvmEvent } from '../../kvm/events';
import { type FrameKind, type FrameLocals, type Observer, StopSignal } from '../../kvm/observer';
import type { EventEntry } from '../target';
import { TargetError } from '../target';
import { type Checkpoint, Checkpoints } from './checkpoints';
import type { Failure, Program, Statement } from './program';

/** A frame of the simulated call stack while it is live. */
export interface LiveFrame {
  readonly kind: FrameKind;
  readonly name: string;
  readonly vcpu: number;
  readonly locals: FrameLocals;
  /** tick at which it was entered */
  readonly tick: number;
  /** table entries read directly in it, in order */
  readonly reads: WalkStep[];
}

/** Looks at the ticks of a run; whatever returns true stops it there. */
export interface Watcher {
  statement?(statement: Statement): boolean;
  enter?(frame: LiveFrame): boolean;
  /** the frame has just been taken off the stack */
  leave?(frame: LiveFrame): boolean;
  read?(step: WalkStep, vcpu: number): boolean;
  event?(event: KvmEvent): boolean;
  /** expectations that failed in the statement that has just ended */
  failed?(failures: readonly Failure[]): boolean;
  /** the state was replaced by an earlier one */
  restored?(): void;
}

/** What kind of tick the run stands at. */
export type Station = 'statement' | 'enter' | 'leave' | 'read' | 'event' | 'failed' | 'end';

export type Outcome =
  /** the watcher said so */
  | 'stopped'
  /** the tick asked for was reached */
  | 'arrived'
  /** the program is over */
  | 'end'
  | 'paused'
  /** going back: nothing found, the run stands at its first tick */
  | 'start';

/** Milliseconds of running between two looks at the outside world. */
const SLICE_MS = 12;
/** A checkpoint costs more than running so few ticks or statements again. */
const MIN_TICKS = 400;
const MIN_STATEMENTS = 64;
/** A save that seems to take longer was held up by something else, such as the garbage collector. */
const MAX_SAVE_MS = 5;
/** Share of the running time that checkpoints may take: one tenth. */
const SAVE_SHARE = 10;
/** Events kept; older ones are found again by running again. */
const MAX_EVENTS = 20_000;

const yieldToOthers = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** What a checkpoint remembers beside the program's state. */
interface Extra {
  readonly memo: ReadonlyMap<string, KvmEvent>;
}

export class Timeline implements Observer {
  readonly checkpoints: Checkpoints;
  /** the stack of the statement at hand, outermost first */
  readonly frames: LiveFrame[] = [];
  /** reads that belong to no frame (a processor that does not say which activity it is in) */
  readonly looseReads: WalkStep[] = [];
  /** last events by key, see {@link memoKeys} */
  private memo = new Map<string, KvmEvent>();
  /** Under which keys an event is remembered as the last of its kind. */
  memoKeys: (event: KvmEvent) => readonly string[] = () => [];

  /** ticks so far: the next one gets this number */
  private tick = 0;
  private eventCount = 0;
  private statementCount = 0;
  /** the tick of the statement at hand has passed */
  private entered = false;
  /** tick at which the run stands */
  private at = -1;
  /** standing in the middle of simulated code, so that running on needs a restore */
  private inside = false;
  private isEnd = false;
  private kind: Station = 'statement';

  private watcher: Watcher | null = null;
  /** first tick that is looked at; those before are passed in silence */
  private watchFrom = 0;
  /** tick to stop at in any case */
  private limit = Infinity;
  private outcome: Outcome = 'arrived';
  private busy = false;
  private pauseWanted = false;
  private lastSave = -Infinity;
  private saveCost = 0;

  /** expectations that were not met, by tick */
  private readonly failedAt = new Map<number, readonly Failure[]>();
  private readonly patches = new Map<number, (() => void)[]>();
  private eventStore: EventEntry[] = [];
  private highestEvent = 0;
  /** told now and then during long runs */
  onSlice: (() => void) | null = null;

  constructor(
    readonly program: Program,
    capacity?: number,
  ) {
    this.checkpoints = new Checkpoints(capacity);
    program.observer = this;
  }

  // ---- where it stands -------------------------------------------------------------------------------------------

  get position(): { tick: number; event: number; statements: number } {
    return { tick: Math.max(this.at, 0), event: this.eventCount, statements: this.statementCount };
  }
  get running(): boolean {
    return this.busy;
  }
  get ended(): boolean {
    return this.isEnd;
  }
  /** What kind of tick the run stands at. */
  get station(): Station {
    return this.isEnd ? 'end' : this.kind;
  }
  /** The statement at hand: about to run, or running; null before the start and at the end. */
  get statement(): Statement | null {
    return this.isEnd ? null : this.current;
  }
  /** Events known, also of ticks after the present one that have been seen before. */
  get knownEvents(): number {
    return this.highestEvent;
  }
  /** Expectations known not to be met, in the order of the run. */
  get failures(): Failure[] {
    return [...this.failedAt].sort(([a], [b]) => a - b).flatMap(([, list]) => list);
  }
  /** Whether the machine stands in the middle of simulated code. */
  get midway(): boolean {
    return this.inside;
  }
  /** The last event that was remembered under a key. */
  lastOf(key: string): KvmEvent | null {
    return this.memo.get(key) ?? null;
  }
  private current: Statement | null = null;

  // ---- moving ----------------------------------------------------------------------------------------------------

  /** Runs on until the watcher stops it, the program ends or somebody pauses it. */
  async forward(watcher: Watcher): Promise<Outcome> {
    return this.exclusive(async () => {
      if (this.isEnd) return 'end';
      const from = this.at;
      if (this.inside) this.restore(this.checkpointBefore(from));
      return this.drive(watcher, from + 1, Infinity);
    });
  }

  /** Back to the last tick before the present one at which the watcher would have stopped. */
  async backward(watcher: Watcher): Promise<Outcome> {
    return this.exclusive(async () => {
      let end = this.at;
      while (end > 0) {
        const checkpoint = this.checkpointBefore(end - 1);
        const found = await this.lastMatch(checkpoint, watcher, end);
        if (found === 'paused') {
          this.restore(checkpoint);
          await this.drive(null, Infinity, checkpoint.tick);
          return 'paused';
        }
        if (found >= 0) {
          this.restore(checkpoint);
          watcher.restored?.();
          return this.drive(
            onlyAt(watcher, found, () => this.tick - 1),
            checkpoint.tick,
            Infinity,
          );
        }
        end = checkpoint.tick;
      }
      await this.go(0);
      return 'start';
    });
  }

  /** Goes to a tick, past or future. `end` if the run is shorter. */
  async to(tick: number): Promise<Outcome> {
    return this.exclusive(() => this.go(tick));
  }

  /** Goes to where an event happens. `end` if the run has fewer. */
  async toEvent(index: number): Promise<Outcome> {
    return this.exclusive(async () => {
      const wanted: Watcher = { event: () => this.eventCount - 1 === index };
      const backwards = index < this.eventCount;
      if (backwards || this.inside) this.restore(this.nearestFor(index));
      if (this.isEnd && !backwards) return 'end';
      return this.drive(wanted, 0, Infinity);
    });
  }

  /** Makes a run in progress stop at the end of its slice. */
  pause(): void {
    if (this.busy) this.pauseWanted = true;
  }

  /** Changes the present state, and does so again whenever the run passes here. What was after this tick is forgotten. */
  patch(apply: () => void): void {
    if (this.busy) throw new TargetError('the state can be changed only while the run is stopped');
    const list = this.patches.get(this.at) ?? [];
    apply();
    this.patches.set(this.at, [...list, apply]);
    for (const tick of this.patches.keys()) if (tick > this.at) this.patches.delete(tick);
    for (const tick of this.failedAt.keys()) if (tick > this.at) this.failedAt.delete(tick);
    this.checkpoints.dropAfter(this.at);
    this.eventStore = this.eventStore.filter((e) => e.index < this.eventCount);
    this.highestEvent = this.eventCount;
  }

  /** Events by index, found again by running again if they have been forgotten. The position stays. */
  async events(start: number, count: number): Promise<EventEntry[]> {
    const first = Math.max(0, start);
    const last = Math.min(this.highestEvent, start + count);
    if (first >= last) return [];
    const base = this.eventStore[0]?.index ?? this.highestEvent;
    if (first >= base) return this.eventStore.slice(first - base, last - base);
    return this.exclusive(async () => {
      const home = this.at;
      const atEnd = this.isEnd;
      const found: EventEntry[] = [];
      const collector: Watcher = {
        event: (event) => {
          const index = this.eventCount - 1;
          if (index >= first && index < last) found.push(this.entry(index, event));
          return index >= last - 1;
        },
      };
      this.restore(this.nearestFor(first));
      await this.drive(collector, 0, Infinity);
      await this.go(atEnd ? Infinity : home);
      return found;
    });
  }

  // ---- the machine's reports: one tick each ----------------------------------------------------------------------

  enter(kind: FrameKind, name: string, vcpu: number, locals: FrameLocals): void {
    const tick = this.tick++;
    const frame: LiveFrame = { kind, name, vcpu, locals, tick, reads: [] };
    this.frames.push(frame);
    if (this.mayPass(tick, 'enter')) return;
    if (this.watcher?.enter?.(frame)) this.stop(tick, 'enter', 'stopped');
  }

  leave(): void {
    const tick = this.tick++;
    const frame = this.frames.pop();
    if (this.mayPass(tick, 'leave') || !frame) return;
    if (this.watcher?.leave?.(frame)) this.stop(tick, 'leave', 'stopped');
  }

  read(step: WalkStep, vcpu: number): void {
    const tick = this.tick++;
    (this.frames.at(-1)?.reads ?? this.looseReads).push(step);
    if (this.mayPass(tick, 'read')) return;
    if (this.watcher?.read?.(step, vcpu)) this.stop(tick, 'read', 'stopped');
  }

  event(event: KvmEvent): void {
    const tick = this.tick++;
    const index = this.eventCount++;
    this.remember(index, tick, event);
    for (const key of this.memoKeys(event)) this.memo.set(key, event);
    if (this.mayPass(tick, 'event')) return;
    if (this.watcher?.event?.(event)) this.stop(tick, 'event', 'stopped');
  }

  /** Silent ticks, patches and the tick that was asked for; the watcher has no say before `watchFrom`. */
  private mayPass(tick: number, kind: Station): boolean {
    if (this.patches.size > 0) this.applyPatches(tick);
    if (tick >= this.limit) this.stop(tick, kind, 'arrived');
    return tick < this.watchFrom;
  }

  private applyPatches(tick: number): void {
    for (const apply of this.patches.get(tick) ?? []) apply();
  }

  private stop(tick: number, kind: Station, outcome: Outcome): never {
    this.at = tick;
    this.kind = kind;
    this.outcome = outcome;
    throw new StopSignal();
  }

  // ---- running ---------------------------------------------------------------------------------------------------

  private async exclusive<T>(action: () => Promise<T>): Promise<T> {
    if (this.busy) throw new TargetError('the run is in progress: pause it first');
    this.busy = true;
    this.pauseWanted = false;
    try {
      return await action();
    } finally {
      this.busy = false;
      this.watcher = null;
    }
  }

  /** Runs from a state between two statements (or two parts of one). */
  private async drive(watcher: Watcher | null, watchFrom: number, limit: number): Promise<Outcome> {
    this.watcher = watcher;
    this.watchFrom = watchFrom;
    this.limit = limit;
    let sliceEnd = performance.now() + SLICE_MS;
    for (;;) {
      if (!this.entered) {
        const outcome = this.beginStatement();
        if (outcome) return outcome;
      } else {
        this.saveIfDue();
      }
      if (performance.now() >= sliceEnd) {
        this.onSlice?.();
        await yieldToOthers();
        if (this.pauseWanted && this.tick > watchFrom) return 'paused';
        sliceEnd = performance.now() + SLICE_MS;
      }
      let failures: readonly Failure[] | null;
      try {
        failures = this.program.step();
      } catch (error) {
        this.inside = true;
        if (error instanceof StopSignal) return this.outcome;
        // A defect of the model: the state can be looked at, and gone back from.
        this.at = this.tick - 1;
        throw error;
      }
      this.at = this.tick - 1;
      if (failures === null) continue;
      this.entered = false;
      const outcome = failures.length > 0 ? this.reportFailures(failures) : null;
      if (outcome) return outcome;
    }
  }

  /** The tick of failed expectations: their statement is complete, the next one has not begun. */
  private reportFailures(failures: readonly Failure[]): Outcome | null {
    const tick = this.tick++;
    this.at = tick;
    this.kind = 'failed';
    this.failedAt.set(tick, failures);
    this.frames.length = 0;
    if (this.patches.size > 0) this.applyPatches(tick);
    if (tick >= this.limit) return 'arrived';
    return tick >= this.watchFrom && this.watcher?.failed?.(failures) ? 'stopped' : null;
  }

  /** The tick of a statement: the machine has done everything before it and nothing of it. */
  private beginStatement(): Outcome | null {
    const statement = this.program.next;
    this.frames.length = 0;
    this.looseReads.length = 0;
    this.inside = false;
    if (!statement) {
      this.isEnd = true;
      this.at = this.tick;
      if (this.patches.size > 0) this.applyPatches(this.tick);
      return 'end';
    }
    this.saveIfDue();
    const tick = this.tick++;
    this.current = statement;
    this.statementCount++;
    this.entered = true;
    this.kind = 'statement';
    this.at = tick;
    if (this.patches.size > 0) this.applyPatches(tick);
    if (tick >= this.limit) return 'arrived';
    if (tick >= this.watchFrom && this.watcher?.statement?.(statement)) return 'stopped';
    return null;
  }

  private async go(tick: number): Promise<Outcome> {
    if (!this.inside && !this.isEnd && tick === this.at) return 'arrived';
    const checkpoint = this.checkpoints.before(tick);
    const canRunOn = !this.inside && !this.isEnd && this.tick <= tick && !(checkpoint && checkpoint.tick > this.tick);
    if (!canRunOn) this.restore(this.checkpointBefore(tick));
    return this.drive(null, Infinity, tick);
  }

  /** Runs a stretch and says at which tick the watcher would have stopped last, -1 if at none. */
  private async lastMatch(from: Checkpoint, watcher: Watcher, end: number): Promise<number | 'paused'> {
    let found = -1;
    this.restore(from);
    watcher.restored?.();
    const outcome = await this.drive(
      observing(watcher, () => (found = this.tick - 1)),
      from.tick,
      end,
    );
    return outcome === 'paused' ? 'paused' : found;
  }

  // ---- checkpoints -----------------------------------------------------------------------------------------------

  private saveIfDue(): void {
    const last = this.checkpoints.before(this.tick);
    if (last) {
      if (this.tick - last.tick < MIN_TICKS && this.statementCount - last.statements < MIN_STATEMENTS) return;
      if (performance.now() - this.lastSave < this.saveCost * SAVE_SHARE) return;
    }
    const begin = performance.now();
    const extra: Extra = { memo: new Map(this.memo) };
    this.checkpoints.add(
      {
        tick: this.tick,
        event: this.eventCount,
        statements: this.statementCount,
        entered: this.entered,
        saved: this.program.save(),
        extra,
      },
      this.tick,
    );
    this.lastSave = performance.now();
    this.saveCost = Math.min(this.lastSave - begin, MAX_SAVE_MS);
  }

  private checkpointBefore(tick: number): Checkpoint {
    const checkpoint = this.checkpoints.before(tick);
    if (!checkpoint) throw new TargetError('the run has no past yet');
    return checkpoint;
  }

  private nearestFor(event: number): Checkpoint {
    return this.checkpoints.beforeEvent(event) ?? this.checkpointBefore(0);
  }

  private restore(checkpoint: Checkpoint): void {
    this.program.restore(checkpoint.saved);
    this.tick = checkpoint.tick;
    this.eventCount = checkpoint.event;
    this.statementCount = checkpoint.statements;
    this.entered = checkpoint.entered;
    this.memo = new Map((checkpoint.extra as Extra).memo);
    this.at = checkpoint.tick - 1;
    this.kind = 'statement';
    this.inside = false;
    this.isEnd = false;
    this.frames.length = 0;
    this.looseReads.length = 0;
    this.current = this.program.next;
  }

  // ---- events ----------------------------------------------------------------------------------------------------

  private remember(index: number, tick: number, event: KvmEvent): void {
    const next = (this.eventStore.at(-1)?.index ?? this.highestEvent - 1) + 1;
    if (index === next) {
      this.eventStore.push({ ...this.entry(index, event), tick });
      if (this.eventStore.length > MAX_EVENTS) this.eventStore.splice(0, MAX_EVENTS / 4);
    }
    if (index >= this.highestEvent) this.highestEvent = index + 1;
  }

  private entry(index: number, event: KvmEvent): EventEntry {
    return { index, tick: this.tick - 1, line: this.current?.line ?? null, event };
  }
}

/** A watcher that never stops but tells where the other one would have. */
function observing(watcher: Watcher, match: () => void): Watcher {
  const note = (hit: boolean | undefined): boolean => {
    if (hit) match();
    return false;
  };
  return {
    statement: (s) => note(watcher.statement?.(s)),
    enter: (f) => note(watcher.enter?.(f)),
    leave: (f) => note(watcher.leave?.(f)),
    read: (s, v) => note(watcher.read?.(s, v)),
    event: (e) => note(watcher.event?.(e)),
    failed: (f) => note(watcher.failed?.(f)),
  };
}

/** A watcher that stops only at one tick. */
function onlyAt(watcher: Watcher, tick: number, now: () => number): Watcher {
  const here = (hit: boolean | undefined): boolean => hit === true && now() === tick;
  return {
    statement: (s) => here(watcher.statement?.(s)),
    enter: (f) => here(watcher.enter?.(f)),
    leave: (f) => here(watcher.leave?.(f)),
    read: (s, v) => here(watcher.read?.(s, v)),
    event: (e) => here(watcher.event?.(e)),
    failed: (f) => here(watcher.failed?.(f)),
  };
}
