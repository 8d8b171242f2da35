/**
 * Where an instruction meets the rest of the machine. The processor implements it with page walks and intercepts, KVM's instruction
 * emulator with its own walks, memslots and MMIO; the semantics in exec.ts are written once against it.
 */
import type { Insn } from './insn';

/**
 * Every method that can be stopped answers a boolean. `true`: done, a value (if there is one) is in {@link value}.
 * `false`: something stopped it (an exception, an exit, an MMIO access that user space has to complete); the bus remembers what, the
 * instruction is abandoned and no register has changed.
 */
export interface Bus {
  /** What the last successful read returned, zero-extended. */
  value: bigint;

  /** Reads data at a linear address. `size` in bytes, 1 to 16; the access may cross a page. */
  read(linear: bigint, size: number): boolean;
  /** Writes data. All pages that it touches are checked before the first byte changes. */
  write(linear: bigint, size: number, value: bigint): boolean;
  /** Reads the destination of a read-modify-write instruction: the processor checks it for writing. */
  rmwRead(linear: bigint, size: number): boolean;
  /** Completes a read-modify-write that read `old`. `locked`: the instruction is atomic. */
  rmwWrite(linear: bigint, size: number, old: bigint, value: bigint, locked: boolean): boolean;
  /** A fetch that runs nothing (the `fetch` pseudo-instruction). */
  fetch(linear: bigint): boolean;

  /** Reads a descriptor table, TSS or other system structure: an implicit supervisor access, whatever the CPL. */
  systemRead(linear: bigint, size: number): boolean;
  systemWrite(linear: bigint, size: number, value: bigint): boolean;

  /** Raises a fault. #PF is raised by the accesses themselves. Always false, so that callers can `return bus.exception(…)`. */
  exception(vector: number, errorCode: number | null): false;

  readCr(n: number): boolean;
  writeCr(n: number, value: bigint): boolean;
  readMsr(msr: number): boolean;
  writeMsr(msr: number, value: bigint): boolean;
  writePkru(value: number): boolean;
  invlpg(linear: bigint): boolean;
  /** `type` as in the SDM: 0 individual address, 1 single context, 2 all contexts, 3 all contexts but global. */
  invpcid(type: number, pcid: number, linear: bigint): boolean;
  in(port: number, size: number): boolean;
  out(port: number, size: number, value: bigint): boolean;

  /**
   * Everything whose effect lies outside registers and memory: hlt, rsm, cpuid, software interrupts, the instructions of VMX and SVM.
   * @param address linear address of the memory operand, if there is one
   */
  special(insn: Insn, address: bigint | null): boolean;
}
