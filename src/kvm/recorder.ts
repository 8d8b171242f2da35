/**
 * What the processor's walker tells, passed on to the machine's observer: a frame per translation, a tick per table entry read, and
 * the why-record that faults and exits carry.
 */
import { ACC_DRY, OK } from '../hw/access';
import { accessText, WhyRecorder } from '../hw/why-recorder';
import type { TlbKind } from '../hw/tlb';
import type { WalkRecorder, WalkTable } from '../hw/why';
import { join64 } from '../hw/why';
import type { KvmVcpu } from './kvm_host';
import type { Machine } from './machine';

export class MachineRecorder implements WalkRecorder {
  private inner: WhyRecorder | null = null;
  private vcpu = -1;
  /** a hardware frame is open */
  private open = false;

  constructor(private readonly machine: Machine) {}

  /** The vCPU that enters the guest now. */
  attach(vcpu: KvmVcpu): void {
    this.vcpu = vcpu.vcpu_id;
    this.inner = new WhyRecorder(vcpu.translator);
  }

  begin(lo: number, hi: number, access: number, gvaValid: boolean): void {
    if (access & ACC_DRY) return;
    this.close();
    this.inner?.begin(lo, hi, access, gvaValid);
    const address = `0x${join64(lo, hi).toString(16)}`;
    const record = this.inner?.record ?? null;
    this.machine.lastWhy = record;
    this.open = true;
    this.machine.observer?.enter(
      'hw',
      `page walk: ${accessText(access)} of ${gvaValid ? 'gva' : 'gpa'} ${address}`,
      this.vcpu,
      record,
    );
  }

  read(
    table: WalkTable,
    level: number,
    addressLo: number,
    addressHi: number,
    hostLo: number,
    hostHi: number,
    index: number,
    rawLo: number,
    rawHi: number,
    size: 4 | 8,
    forLevel: number,
  ): void {
    const inner = this.inner;
    if (!inner) return;
    inner.read(table, level, addressLo, addressHi, hostLo, hostHi, index, rawLo, rawHi, size, forLevel);
    const step = inner.record.steps.at(-1);
    if (step) this.machine.observer?.read(step, this.vcpu);
  }

  cached(kind: TlbKind, level: number, lo: number, hi: number, targetLo: number, targetHi: number): void {
    this.inner?.cached(kind, level, lo, hi, targetLo, targetHi);
  }

  checked(rule: number, ok: boolean, by: string): void {
    this.inner?.checked(rule, ok, by);
  }

  decided(rule: number, ok: boolean, by: string): void {
    this.inner?.decided(rule, ok, by);
  }

  wrote(hostLo: number, hostHi: number, rawLo: number, rawHi: number): void {
    this.inner?.wrote(hostLo, hostHi, rawLo, rawHi);
  }

  end(status: number): void {
    this.inner?.end(status);
    // A walk that failed stays on the stack while KVM handles what came of it.
    if (status === OK) this.close();
  }

  /** Ends the open frame, if there is one. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    this.machine.observer?.leave();
  }
}
