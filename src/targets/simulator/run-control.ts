/**
 * Motions over the time line: what stepping means, and why a run stopped.
 *
 * Stations of a step are the beginning of a statement, the entry into a KVM function and the read of a table entry by the
 * processor. `stepIn` goes to the next station of any kind, `next` to the next one that is not deeper than the present
 * frame, `stepOut` to where the present frame returns. The reverse motions mirror them. Breakpoints stop all of them.
 */
import type { WhyRecord } from '../../hw/why';
import type { KvmEvent } from '../../kvm/events';
import { eventText } from '../event-info';
import type { Motion, RunReport, Stop, StopReason } from '../target';
import type { Breakpoints, Hit } from './breakpoints';
import type { LiveFrame, Outcome, Station, Timeline, Watcher } from './timeline';

/** Rule of a motion: whether to stop at a station, given the depth of the stack there. */
type Rule = (station: Station, depth: number, line: number) => boolean;

const NEVER: Rule = () => false;

/**
 * Functions that every entry into the guest, or every call of user space, goes through, and those that do no more than call another: they
 * are on the stack, but stepping does not stop at them.
 */
const SCAFFOLD: ReadonlySet<string> = new Set([
  'kvm_arch_vcpu_ioctl_run',
  'vcpu_run',
  '__vcpu_run',
  'vcpu_enter_guest',
  'kvm_mmu_reload',
  'kvm_mmu_load_pgd',
  '__vmx_handle_exit',
  'svm_invoke_exit_handler',
  '__vmx_handle_ept_violation',
  '__kvm_faultin_pfn',
  '__kvm_mmu_faultin_pfn',
  '__kvm_mmu_get_shadow_page',
  '__link_shadow_page',
  'kvm_vm_ioctl',
  'kvm_vm_ioctl_set_memory_region',
  'kvm_set_memory_region',
]);

export class RunControl {
  private hit: Hit | null = null;
  private stoppedEvent: KvmEvent | null = null;
  private report: RunReport = { output: () => {} };
  private searching = false;
  lastStop: Stop | null = null;
  /** kinds of event that are told as they happen */
  traced: ReadonlySet<string> = new Set();
  describe: (event: KvmEvent) => string = (event) => eventText(event);

  constructor(
    readonly timeline: Timeline,
    readonly breakpoints: Breakpoints,
  ) {}

  /** Whether the run stands at the read of a table entry. */
  get reading(): boolean {
    return this.timeline.station === 'read';
  }

  /** Moves; at most one motion at a time. */
  async run(motion: Motion, report: RunReport): Promise<Stop> {
    const { timeline, breakpoints } = this;
    this.report = report;
    breakpoints.log = (text) => report.output(text, 'console', timeline.statement?.line ?? null);
    timeline.onSlice = () => report.progress?.({ ...timeline.position, line: null, statement: null });
    this.hit = null;
    this.stoppedEvent = null;
    const outcome = await this.move(motion);
    breakpoints.takeBaseline();
    this.lastStop = this.explain(motion, outcome);
    return this.lastStop;
  }

  private async move(motion: Motion): Promise<Outcome> {
    const { timeline } = this;
    const depth = this.depth();
    switch (motion.kind) {
      case 'continue':
        return this.forward(NEVER);
      case 'reverseContinue':
        return this.backward(NEVER);
      case 'stepIn':
        return this.forward((station) => isStop(station));
      case 'reverseStepIn':
        return this.backward((station) => isStop(station));
      case 'next':
        if (motion.granularity === 'instruction') return this.forward((station) => isStop(station));
        return this.forward((station, d) => isStop(station) && d <= depth);
      case 'stepBack':
        if (motion.granularity === 'instruction') return this.backward((station) => isStop(station));
        return this.backward((station, d) => isStop(station) && d <= depth);
      case 'stepOut': {
        const height = timeline.frames.length;
        if (height === 0) return this.forward(NEVER);
        return this.forward((station, d) => station === 'statement' || (station === 'leave' && d < height));
      }
      case 'line': {
        const there: Watcher = { statement: ({ line }) => line === motion.line };
        return motion.direction === 'forward' ? timeline.forward(there) : timeline.backward(there);
      }
      case 'event':
        this.searching = false;
        return timeline.toEvent(motion.index);
      case 'tick':
        return timeline.to(motion.tick);
    }
  }

  /**
   * Depth that siblings of the present station have: a statement is 0; the first function in it 1; a read counts as one
   * deeper than the frame that does it. After a return it is that of the function that returned.
   */
  private depth(): number {
    const { station, frames } = this.timeline;
    return station === 'read' || station === 'leave' || station === 'event' ? frames.length + 1 : frames.length;
  }

  private async forward(rule: Rule): Promise<Outcome> {
    this.searching = this.breakpoints.searching = false;
    return this.timeline.forward(this.watcher(rule));
  }

  private async backward(rule: Rule): Promise<Outcome> {
    this.searching = this.breakpoints.searching = true;
    try {
      return await this.timeline.backward(this.watcher(rule));
    } finally {
      this.searching = this.breakpoints.searching = false;
    }
  }

  /** A rule and the breakpoints as one watcher. */
  private watcher(rule: Rule): Watcher {
    const { timeline, breakpoints } = this;
    const { frames } = timeline;
    const memory = (vcpu: number): Hit | null => (breakpoints.watchesMemory ? breakpoints.atAnyTick(vcpu) : null);
    const decide = (station: Station, depth: number, line: number, hit: Hit | null): boolean => {
      if (!hit && !rule(station, depth, line)) return false;
      this.hit = hit;
      return true;
    };
    return {
      statement: (s) => decide('statement', 0, s.line, memory(s.vcpu) ?? breakpoints.atLine(s.line, s.vcpu)),
      enter: (f) => {
        const hit = memory(f.vcpu) ?? (f.kind === 'kvm' ? breakpoints.atFunction(f.name, f.vcpu) : null);
        const steppable = f.kind === 'kvm' && !SCAFFOLD.has(f.name);
        return steppable || hit ? decide('enter', frames.length, 0, hit) : false;
      },
      leave: (f) => decide('leave', frames.length, 0, memory(f.vcpu)),
      read: (_, vcpu) => decide('read', frames.length + 1, 0, memory(vcpu)),
      event: (event) => {
        this.tell(event);
        if (!decide('event', frames.length + 1, 0, memory(event.vcpu) ?? breakpoints.atEvent(event))) return false;
        this.stoppedEvent = event;
        return true;
      },
      failed: (failures) => {
        if (!this.searching) {
          for (const f of failures) this.report.output(`line ${f.line}: ${f.text}`, 'stderr', f.line);
        }
        return decide('failed', 0, 0, breakpoints.atFailure(failures, timeline.statement?.vcpu ?? 0));
      },
      restored: () => breakpoints.takeBaseline(),
    };
  }

  private tell(event: KvmEvent): void {
    if (this.searching || !(this.traced.has(event.kind) || this.traced.has('all'))) return;
    this.report.output(this.describe(event), 'stdout', this.timeline.statement?.line ?? null);
  }

  // ---- why it stopped --------------------------------------------------------------------------------------------

  private explain(motion: Motion, outcome: Outcome): Stop {
    const { timeline, hit } = this;
    const event = this.stoppedEvent;
    const vcpu = this.activeVcpu(event);
    const why: WhyRecord | null = (event && 'why' in event ? event.why : null) ?? null;
    const index = timeline.position.event > 0 ? timeline.position.event - 1 : null;
    const stop = (reason: StopReason, description: string): Stop => ({
      reason,
      vcpu,
      description,
      breakpointIds: hit?.ids ?? [],
      filter: hit?.filter ?? null,
      event: index,
      why,
    });
    switch (outcome) {
      case 'end':
        return stop('end', 'the scenario is over');
      case 'start':
        return stop('entry', 'the start of the run');
      case 'paused':
        return stop('pause', 'paused');
      case 'arrived':
        return timeline.position.tick === 0
          ? stop('entry', 'the start of the run')
          : stop('goto', `tick ${timeline.position.tick}`);
      case 'stopped':
        break;
    }
    if (hit) return stop(hit.reason, event ? this.eventDescription(hit, event) : hit.text);
    if (motion.kind === 'event') return stop('goto', `event ${motion.index}`);
    return stop(motion.kind === 'line' ? 'goto' : 'step', '');
  }

  private eventDescription(hit: Hit, event: KvmEvent): string {
    const where =
      'gpa' in event && typeof event.gpa === 'bigint'
        ? ` at gpa 0x${event.gpa.toString(16)}`
        : 'gva' in event && typeof event.gva === 'bigint'
          ? ` at gva 0x${event.gva.toString(16)}`
          : 'smbase' in event
            ? ` (smbase 0x${event.smbase.toString(16)})`
            : '';
    const how = ['write', 'fetch', 'user'].filter(
      (name) => (event as unknown as Record<string, unknown>)[name] === true,
    );
    const name =
      event.kind === 'npf' ? 'Nested page fault' : event.kind === 'ept_violation' ? 'EPT violation' : hit.text;
    return `${name}${where}${how.length ? ` (${how.join(', ')})` : ''}`;
  }

  /** The vCPU that is doing something at the present position. */
  activeVcpu(event: KvmEvent | null = this.stoppedEvent): number {
    const frame: LiveFrame | undefined = this.timeline.frames.findLast((f) => f.vcpu >= 0);
    return Math.max(0, event && event.vcpu >= 0 ? event.vcpu : (frame?.vcpu ?? this.timeline.statement?.vcpu ?? 0));
  }
}

/** Stations that steps stop at by themselves. */
function isStop(station: Station): boolean {
  return station === 'statement' || station === 'enter' || station === 'read' || station === 'failed';
}
