/**
 * How a running machine tells whoever listens what it is doing.
 *
 * The simulator is plain synchronous code. While a listener is attached, every call below is one *tick*: a stable coordinate in the
 * run, because runs are deterministic. A listener stops the machine by throwing {@link StopSignal}; the machine is then left exactly
 * as it was at that tick and may only be inspected. To go on, restore a checkpoint and run again to a later (or earlier) tick.
 */
import type { WalkStep } from '../hw/why';
import type { KvmEvent } from './events';
import type { FrameName } from './functions';
import type { Machine } from './machine';

/** What a frame on the simulated call stack stands for. */
export type FrameKind = 'scenario' | 'hw' | 'kvm';

/** The locals of a frame: a live object of the model (struct kvm_page_fault, a walker …), read only when somebody looks. */
export type FrameLocals = object | null;

export interface Observer {
  /** A KVM function (kernel name) or a processor activity (`hw`) begins on vCPU `vcpu` (-1: none, a VM ioctl). */
  enter(kind: FrameKind, name: string, vcpu: number, locals: FrameLocals): void;
  /** The innermost frame ends. */
  leave(): void;
  /** The processor has just read one table entry; its checks follow. */
  read(step: WalkStep, vcpu: number): void;
  /** Something typed happened: a trace event of the kernel or an event of the processor. */
  event(e: KvmEvent): void;
}

/** Thrown by a listener to stop the machine at the current tick. Model code never catches it. */
export class StopSignal extends Error {
  constructor() {
    super('stopped by the debugger');
    this.name = 'StopSignal';
  }
}

/** Enters a frame if somebody watches. */
export function enter(m: Machine, name: FrameName, vcpu: number, locals: FrameLocals): void {
  if (m.observer !== null) m.frames.enter(m.observer, 'kvm', name, vcpu, locals);
}

/** Leaves the innermost frame if somebody watches. */
export function leave(m: Machine): void {
  if (m.observer !== null) m.frames.leave(m.observer);
}

/** Runs `f` with the observer if there is one: events are only built for somebody. */
export function emit(m: Machine, f: (o: Observer) => void): void {
  if (m.observer !== null) f(m.observer);
}
