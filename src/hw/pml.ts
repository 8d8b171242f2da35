/**
 * The page-modification log: where the processor notes which pages became dirty under EPT.
 * Source: SDM vol. 3C, "Page-Modification Logging" and "VM-Execution Control Fields" (PML address, PML index).
 */
import type { PhysMemory } from './memory';

/** Entries of the log: one 4 KiB page of 64-bit addresses. */
export const PML_ENTRIES = 512;

/** The PML address and the PML index of a VMCS. */
export class PmlState {
  /** Next entry to fill, counting down; outside 0..511 the log is full. */
  index = PML_ENTRIES - 1;

  /** @param pfn host frame of the log */
  constructor(readonly pfn: number) {}

  get full(): boolean {
    return this.index < 0 || this.index >= PML_ENTRIES;
  }

  /** Notes the page of guest-physical hi:lo and counts down. Not to be called on a full log. */
  log(memory: PhysMemory, lo: number, hi: number): void {
    memory.writeQ(this.pfn * 4096 + this.index * 8, (lo & 0xffff_f000) >>> 0, hi >>> 0);
    this.index = (this.index - 1) & 0xffff;
  }
}
