/**
 * The six places at which the kernel's mmu_audit.c was called (kvm_mmu_audit()): before and after a page fault, a write to a shadowed
 * guest table, and a sync of the roots. An observer that audits there; it is as slow as that sounds.
 */
import type { WalkStep } from '../hw/why';
import { auditMachine, type Finding } from './audit';
import type { KvmEvent } from './events';
import type { Machine } from './machine';
import type { FrameKind, FrameLocals, Observer } from './observer';

/** Names as mmu_audit.c printed them, with `pre ` or `post ` before. */
const POINTS: Readonly<Record<string, string>> = {
  kvm_mmu_page_fault: 'page fault',
  kvm_mmu_pte_write: 'pte write',
  kvm_mmu_track_write: 'pte write',
  kvm_mmu_sync_roots: 'sync',
};

/** What was found at one point. */
export interface PointFindings {
  /** `pre page fault`, `post sync` … */
  readonly point: string;
  readonly vcpu: number;
  readonly findings: readonly Finding[];
}

/** Audits at the six points; hands on to another observer what it gets. */
export class AuditPoints implements Observer {
  /** points passed so far, whatever they found */
  passed = 0;
  private readonly stack: { readonly point: string | undefined; readonly vcpu: number }[] = [];

  constructor(
    private readonly machine: () => Machine,
    private readonly found: (at: PointFindings) => void,
    private readonly next: Observer | null = null,
  ) {}

  enter(kind: FrameKind, name: string, vcpu: number, locals: FrameLocals): void {
    const point = POINTS[name];
    if (point !== undefined) this.audit(`pre ${point}`, vcpu);
    this.stack.push({ point, vcpu });
    this.next?.enter(kind, name, vcpu, locals);
  }

  leave(): void {
    this.next?.leave();
    const frame = this.stack.pop();
    if (frame?.point !== undefined) this.audit(`post ${frame.point}`, frame.vcpu);
  }

  read(step: WalkStep, vcpu: number): void {
    this.next?.read(step, vcpu);
  }

  event(e: KvmEvent): void {
    this.next?.event(e);
  }

  private audit(point: string, vcpu: number): void {
    const machine = this.machine();
    this.passed++;
    // Only now must nothing be unsync at all (A4).
    const synced = point === 'post sync' ? (machine.vcpus[vcpu] ?? null) : null;
    const findings = auditMachine(machine, { synced });
    if (findings.length > 0) this.found({ point, vcpu, findings });
  }
}
