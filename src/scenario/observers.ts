/** Listening together: several observers on one machine. */
import type { KvmEvent } from '../kvm/events';
import type { Observer } from '../kvm/observer';

/**
 * One observer that tells each of `observers` in order; nulls are left out. A StopSignal thrown by one passes through at once, so
 * put those that only collect before those that may stop.
 * @returns null when nobody listens, so that the machine runs at full speed
 */
export function composeObservers(...observers: readonly (Observer | null | undefined)[]): Observer | null {
  const all = observers.filter((o): o is Observer => o !== null && o !== undefined);
  if (all.length <= 1) return all[0] ?? null;
  return {
    enter(kind, name, vcpu, locals) {
      for (const o of all) o.enter(kind, name, vcpu, locals);
    },
    leave() {
      for (const o of all) o.leave();
    },
    read(step, vcpu) {
      for (const o of all) o.read(step, vcpu);
    },
    event(e) {
      for (const o of all) o.event(e);
    },
  };
}

/** Keeps the events, ignores the rest. */
export class EventCollector implements Observer {
  readonly events: KvmEvent[] = [];
  enter(): void {}
  leave(): void {}
  read(): void {}
  event(e: KvmEvent): void {
    this.events.push(e);
  }
}
