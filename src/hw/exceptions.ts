/**
 * Delivery of exceptions and interrupts, and IRET: through the IVT in real mode, 8-byte gates in protected mode, 16-byte gates in
 * IA-32e mode. Each table read and each push goes through the Bus, so that it may fault or exit; the caller then keeps the event.
 *
 * Order of the accesses (the same on every processor looked at, emulated or not, see test/fixtures/kvm): gate, code descriptor, stack
 * pointer from the TSS if the stack changes, stack descriptor (protected mode), pushes from the top down.
 *
 * Sources: SDM vol. 3A 6.10-6.15, vol. 2 INT n and IRET; APM vol. 2 8.7-8.9.
 */
import type { Bus } from './bus';
import { EVENT_TYPE, type GuestEvent } from './exits';
import { nextRip, peekStack } from './exec';
import type { Insn } from './insn';
import { truncate, VECTOR, writeGpr } from './operands';
import { GPR, RFLAGS, type CpuState, type Segment } from './regs';
import { readDescriptor, tableAddress, toSegment, touchDescriptor } from './segments';

const VECTORS_WITH_ERROR = new Set([8, 10, 11, 12, 13, 14, 17, 21, 29, 30]);
const CONTRIBUTORY = new Set([0, 10, 11, 12, 13, 21]);

/** Whether this exception pushes an error code. SDM vol. 3A table 6-1. */
export const hasErrorCode = (vector: number): boolean => VECTORS_WITH_ERROR.has(vector);

/**
 * What becomes of a second exception raised while the first is being delivered. SDM vol. 3A table 6-5, APM vol. 2 table 8-1.
 * @returns the event to deliver next: the second one, #DF, or null for shutdown
 */
export function combine(first: GuestEvent, second: GuestEvent): GuestEvent | null {
  if (first.type !== EVENT_TYPE.EXCEPTION) return second;
  if (first.vector === VECTOR.DF) return null;
  const contributory = CONTRIBUTORY.has(second.vector);
  const pageFault = second.vector === VECTOR.PF || second.vector === VECTOR.VE;
  const double =
    (CONTRIBUTORY.has(first.vector) && contributory) ||
    ((first.vector === VECTOR.PF || first.vector === VECTOR.VE) && (contributory || pageFault));
  return double ? { vector: VECTOR.DF, type: EVENT_TYPE.EXCEPTION, errorCode: 0, insnLen: 0 } : second;
}

/** How a model of processor deviates in delivery. */
export interface DeliveryOptions {
  /** Real mode: push FLAGS, CS and IP before the vector is read (Intel's pseudocode and Bochs; AMD's and QEMU read it first). */
  pushBeforeVector: boolean;
  /** 32-bit and 16-bit TSS: SS is read before the stack pointer (quirk bochs-tss-ss-first). */
  ssBeforeEsp: boolean;
}

/**
 * Delivers one event.
 * @returns true when the handler's first instruction is next; false when the bus holds a fault or an exit (no register has changed)
 */
export function deliver(s: CpuState, bus: Bus, e: GuestEvent, options: DeliveryOptions): boolean {
  if (s.mode === 'real') return deliverReal(s, bus, e, options);
  return s.longModeActive ? deliverLong(s, bus, e) : deliverProtected(s, bus, e, options);
}

const isSoftware = (e: GuestEvent): boolean => e.type === EVENT_TYPE.SWINT || e.type === EVENT_TYPE.SWEXC;

/** Error code that names a gate: index, IDT bit, EXT for events from outside the program. SDM vol. 3A 6.13. */
const gateError = (e: GuestEvent): number => (e.vector << 3) | 2 | (e.type === EVENT_TYPE.SWINT ? 0 : 1);
const selectorError = (e: GuestEvent, selector: number): number =>
  (selector & 0xfffc) | (e.type === EVENT_TYPE.SWINT ? 0 : 1);

/** Return address on the frame: faults and interrupts the instruction itself, INT n and INT3 the next one. */
function returnRip(s: CpuState, e: GuestEvent): bigint {
  return isSoftware(e) ? s.rip + BigInt(e.insnLen) : s.rip;
}

function deliverReal(s: CpuState, bus: Bus, e: GuestEvent, options: DeliveryOptions): boolean {
  const at = e.vector * 4;
  if (at + 3 > s.idtr.limit) return bus.exception(VECTOR.GP, 0);
  const address = (s.idtr.base + BigInt(at)) & 0xffff_ffffn;
  let offset = 0n;
  let selector = 0;
  const readVector = (): boolean => {
    if (!bus.systemRead(address, 2)) return false;
    offset = bus.value;
    if (!bus.systemRead(address + 2n, 2)) return false;
    selector = Number(bus.value);
    return true;
  };
  if (!options.pushBeforeVector && !readVector()) return false;
  const frame = [s.rflags & 0xffffn, BigInt(s.cs.selector), returnRip(s, e) & 0xffffn];
  let sp = s.gpr[GPR.RSP] & 0xffffn;
  for (const value of frame) {
    sp = (sp - 2n) & 0xffffn;
    if (!bus.systemWrite((s.ss.base + sp) & 0xffff_ffffn, 2, value)) return false;
  }
  if (options.pushBeforeVector && !readVector()) return false;
  writeGpr(s, GPR.RSP, 2, sp);
  s.rflags &= ~(RFLAGS.IF | RFLAGS.TF | RFLAGS.AC | RFLAGS.RF);
  s.cs = { ...s.cs, selector, base: BigInt(selector) << 4n };
  s.rip = offset;
  return true;
}

/** The parts of a gate that both formats share. */
interface Gate {
  selector: number;
  offset: bigint;
  type: number;
  ist: number;
}

/** Reads and checks the IDT entry of `e`. */
function readGate(s: CpuState, bus: Bus, e: GuestEvent, size: 8 | 16): Gate | null {
  const fail = (vector: number): null => (bus.exception(vector, gateError(e)), null);
  if (e.vector * size + size - 1 > s.idtr.limit) return fail(VECTOR.GP);
  const address = tableAddress(s, s.idtr.base + BigInt(e.vector * size));
  if (!bus.systemRead(address, 8)) return null;
  const raw = bus.value;
  let high = 0n;
  if (size === 16) {
    if (!bus.systemRead(address + 8n, 8)) return null;
    high = bus.value & 0xffff_ffffn;
  }
  const type = Number(raw >> 40n) & 0x1f;
  const legal =
    size === 16 ? type === 0xe || type === 0xf : type === 0xe || type === 0xf || type === 6 || type === 7 || type === 5;
  if (!legal) return fail(VECTOR.GP);
  if (isSoftware(e) && (Number(raw >> 45n) & 3) < s.cpl) return fail(VECTOR.GP);
  if (((raw >> 47n) & 1n) === 0n) return fail(VECTOR.NP);
  return {
    selector: Number(raw >> 16n) & 0xffff,
    offset: (raw & 0xffffn) | (((raw >> 48n) & 0xffffn) << 16n) | (high << 32n),
    type,
    ist: size === 16 ? Number(raw >> 32n) & 7 : 0,
  };
}

/** The code segment of a gate, checked; the privilege level that the handler runs at is its DPL unless it is conforming. */
function readHandlerCode(
  s: CpuState,
  bus: Bus,
  e: GuestEvent,
  selector: number,
): { code: Segment; cpl: number } | null {
  const fail = (vector: number, error: number): null => (bus.exception(vector, error), null);
  const ext = e.type === EVENT_TYPE.SWINT ? 0 : 1;
  if ((selector & 0xfffc) === 0) return fail(VECTOR.GP, ext);
  const limit = selector & 4 ? s.ldtr.limit : s.gdtr.limit;
  if ((selector | 7) > limit) return fail(VECTOR.GP, selectorError(e, selector));
  const d = readDescriptor(s, bus, selector);
  if (!d) return null;
  const code = d.s === 1 && (d.type & 8) !== 0;
  if (!code || d.dpl > s.cpl) return fail(VECTOR.GP, selectorError(e, selector));
  if (s.longModeActive && (!d.l || d.db)) return fail(VECTOR.GP, selectorError(e, selector));
  if (!d.present) return fail(VECTOR.NP, selectorError(e, selector));
  if (!touchDescriptor(bus, d)) return null;
  const conforming = (d.type & 4) !== 0;
  return { code: toSegment(d), cpl: conforming ? s.cpl : d.dpl };
}

/** RFLAGS of the handler: IF is cleared by interrupt gates only. */
function handlerFlags(s: CpuState, type: number): bigint {
  const cleared = RFLAGS.TF | RFLAGS.NT | RFLAGS.RF | RFLAGS.VM | ((type & 1) === 0 ? RFLAGS.IF : 0n);
  return s.rflags & ~cleared;
}

/** RFLAGS on the frame: faults push RF set (SDM vol. 3B 17.3.1.1). */
export function frameFlags(s: CpuState, e: GuestEvent): bigint {
  return e.type === EVENT_TYPE.EXCEPTION && e.vector !== VECTOR.DB ? s.rflags | RFLAGS.RF : s.rflags;
}

/** Error codes of gate and stack checks are selectors; a fault on the new stack itself is #SS or #TS. SDM vol. 2 INT n. */
function deliverLong(s: CpuState, bus: Bus, e: GuestEvent): boolean {
  const gate = readGate(s, bus, e, 16);
  if (!gate) return false;
  const handler = readHandlerCode(s, bus, e, gate.selector);
  if (!handler) return false;
  const toInner = handler.cpl < s.cpl;
  const newStack = toInner || gate.ist !== 0;
  let rsp = s.gpr[GPR.RSP];
  if (newStack) {
    // 64-bit TSS: RSP0-2 at 4, 12, 20; IST1-7 at 36 …
    const at = gate.ist ? 28 + 8 * gate.ist : 4 + 8 * handler.cpl;
    if (at + 7 > s.tr.limit) return bus.exception(VECTOR.TS, selectorError(e, s.tr.selector));
    if (!bus.systemRead(tableAddress(s, s.tr.base + BigInt(at)), 8)) return false;
    rsp = bus.value;
    if (!s.isCanonical(rsp)) return bus.exception(VECTOR.SS, e.type === EVENT_TYPE.SWINT ? 0 : 1);
  }
  rsp &= ~0xfn;
  const frame = [BigInt(s.ss.selector), s.gpr[GPR.RSP], frameFlags(s, e), BigInt(s.cs.selector), returnRip(s, e)];
  if (e.errorCode !== null) frame.push(BigInt(e.errorCode));
  for (const value of frame) {
    rsp = BigInt.asUintN(64, rsp - 8n);
    if (!s.isCanonical(rsp)) return bus.exception(VECTOR.SS, e.type === EVENT_TYPE.SWINT ? 0 : 1);
    if (!bus.systemWrite(rsp, 8, value)) return false;
  }
  s.rflags = handlerFlags(s, gate.type);
  s.gpr[GPR.RSP] = rsp;
  // an inner stack is the null selector with RPL = the new CPL
  if (toInner)
    s.ss = {
      ...s.ss,
      selector: handler.cpl,
      base: 0n,
      limit: 0xffffffff,
      type: 3,
      s: 1,
      dpl: handler.cpl,
      present: 1,
      db: 1,
      g: 1,
      l: 0,
      unusable: 0,
    };
  s.cs = { ...handler.code, selector: (gate.selector & 0xfffc) | handler.cpl };
  s.rip = gate.offset;
  return true;
}

function deliverProtected(s: CpuState, bus: Bus, e: GuestEvent, options: DeliveryOptions): boolean {
  const gate = readGate(s, bus, e, 8);
  if (!gate) return false;
  if (gate.type === 5)
    throw new Error(`vector ${e.vector} goes through a task gate: hardware task switches are not simulated`);
  const handler = readHandlerCode(s, bus, e, gate.selector);
  if (!handler) return false;
  const width = gate.type & 8 ? 4 : 2;
  const mask = width === 4 ? 0xffff_ffffn : 0xffffn;
  const toInner = handler.cpl < s.cpl;
  let stack: Segment = s.ss;
  let sp = truncate(s.gpr[GPR.RSP], s.stackSize);
  let spSize: 2 | 4 = s.ss.db ? 4 : 2;
  const frame: bigint[] = [];
  if (toInner) {
    const inner = innerStack(s, bus, e, handler.cpl, options);
    if (!inner) return false;
    if (s.vm86) for (const name of ['gs', 'fs', 'ds', 'es'] as const) frame.push(BigInt(s[name].selector));
    frame.push(BigInt(s.ss.selector), s.gpr[GPR.RSP] & mask);
    stack = inner.ss;
    sp = inner.esp;
    spSize = inner.ss.db ? 4 : 2;
  } else if (s.vm86) {
    return bus.exception(VECTOR.GP, selectorError(e, gate.selector));
  }
  frame.push(frameFlags(s, e) & mask, BigInt(s.cs.selector), returnRip(s, e) & mask);
  if (e.errorCode !== null) frame.push(BigInt(e.errorCode));
  for (const value of frame) {
    sp = truncate(sp - BigInt(width), spSize);
    if (Number(sp) + width - 1 > stack.limit && (stack.type & 4) === 0)
      return bus.exception(VECTOR.SS, toInner ? selectorError(e, stack.selector) : 0);
    if (!bus.systemWrite((stack.base + sp) & 0xffff_ffffn, width, value)) return false;
  }
  const wasVm86 = s.vm86;
  s.rflags = handlerFlags(s, gate.type);
  if (toInner) {
    s.ss = stack;
    s.gpr[GPR.RSP] = sp;
    if (wasVm86)
      for (const name of ['gs', 'fs', 'ds', 'es'] as const)
        s[name] = { ...s[name], selector: 0, unusable: 1, present: 0 };
  } else {
    writeGpr(s, GPR.RSP, spSize, sp);
  }
  s.cs = { ...handler.code, selector: (gate.selector & 0xfffc) | handler.cpl };
  s.rip = gate.type & 8 ? gate.offset : gate.offset & 0xffffn;
  return true;
}

/** Stack of privilege level `cpl` from a 32- or 16-bit TSS, its descriptor checked. */
function innerStack(
  s: CpuState,
  bus: Bus,
  e: GuestEvent,
  cpl: number,
  { ssBeforeEsp }: DeliveryOptions,
): { ss: Segment; esp: bigint } | null {
  const fail = (vector: number, error: number): null => (bus.exception(vector, error), null);
  const wide = (s.tr.type & 8) !== 0;
  const at = wide ? 4 + 8 * cpl : 2 + 4 * cpl;
  const size = wide ? 4 : 2;
  if (at + (wide ? 5 : 3) > s.tr.limit) return fail(VECTOR.TS, selectorError(e, s.tr.selector));
  const base = s.tr.base + BigInt(at);
  let esp = 0n;
  const readEsp = (): boolean => bus.systemRead(tableAddress(s, base), size) && ((esp = bus.value), true);
  if (!ssBeforeEsp && !readEsp()) return null;
  if (!bus.systemRead(tableAddress(s, base + BigInt(size)), 2)) return null;
  const selector = Number(bus.value);
  if (ssBeforeEsp && !readEsp()) return null;
  if ((selector & 0xfffc) === 0) return fail(VECTOR.TS, selectorError(e, selector));
  const d = readDescriptor(s, bus, selector, VECTOR.TS);
  if (!d) return null;
  if ((selector & 3) !== cpl || d.dpl !== cpl || d.s !== 1 || (d.type & 0xa) !== 2)
    return fail(VECTOR.TS, selectorError(e, selector));
  if (!d.present) return fail(VECTOR.SS, selectorError(e, selector));
  if (!touchDescriptor(bus, d)) return null;
  return { ss: toSegment(d), esp };
}

/** IRET, to the same or an outer privilege level, in all modes (no task return, no return to virtual-8086 mode). SDM vol. 2 IRET. */
export function iret(i: Insn, s: CpuState, bus: Bus): boolean {
  const w = i.opSize;
  const popped: bigint[] = [];
  const pop = (n: number): boolean => {
    while (popped.length < n) {
      if (!peekStack(s, bus, popped.length * w, w)) return false;
      popped.push(bus.value);
    }
    return true;
  };
  if (!pop(3)) return false;
  const [rip, csValue, flags] = popped;
  const selector = Number(csValue & 0xffffn);
  if (s.mode === 'real') {
    s.cs = { ...s.cs, selector, base: BigInt(selector) << 4n };
    s.rip = rip & 0xffffn;
    s.rflags = restoredFlags(s, flags, w);
    writeGpr(s, GPR.RSP, s.stackSize, truncate(s.gpr[GPR.RSP] + BigInt(3 * w), s.stackSize));
    return true;
  }
  const error = selector & 0xfffc;
  if (error === 0) return bus.exception(VECTOR.GP, 0);
  const d = readDescriptor(s, bus, selector);
  if (!d) return false;
  const rpl = selector & 3;
  const conforming = (d.type & 4) !== 0;
  if (d.s !== 1 || (d.type & 8) === 0 || rpl < s.cpl || (conforming ? d.dpl > rpl : d.dpl !== rpl))
    return bus.exception(VECTOR.GP, error);
  if (!d.present) return bus.exception(VECTOR.NP, error);
  const outer = rpl > s.cpl;
  const withStack = outer || s.codeBits === 64;
  if (withStack && !pop(5)) return false;
  let ss: Segment | null = null;
  if (withStack) {
    const ssSelector = Number(popped[4] & 0xffffn);
    if ((ssSelector & 0xfffc) === 0) {
      if (!d.l || rpl === 3) return bus.exception(VECTOR.GP, 0);
      ss = { ...s.ss, selector: ssSelector, dpl: rpl, unusable: 1 };
    } else {
      const sd = readDescriptor(s, bus, ssSelector);
      if (!sd) return false;
      if ((ssSelector & 3) !== rpl || sd.dpl !== rpl || sd.s !== 1 || (sd.type & 0xa) !== 2)
        return bus.exception(VECTOR.GP, ssSelector & 0xfffc);
      if (!sd.present) return bus.exception(VECTOR.SS, ssSelector & 0xfffc);
      if (!touchDescriptor(bus, sd)) return false;
      ss = toSegment(sd);
    }
  }
  if (d.l ? !s.isCanonical(rip) : rip > BigInt(d.limit)) return bus.exception(VECTOR.GP, 0);
  if (!touchDescriptor(bus, d)) return false;
  const rflags = restoredFlags(s, flags, w);
  const stackSize = s.stackSize;
  s.cs = { ...toSegment(d), selector };
  if (ss) {
    s.ss = ss;
    if (d.l) s.gpr[GPR.RSP] = popped[3];
    else writeGpr(s, GPR.RSP, ss.db ? 4 : 2, popped[3]);
  } else {
    writeGpr(s, GPR.RSP, stackSize, truncate(s.gpr[GPR.RSP] + BigInt(3 * w), stackSize));
  }
  s.rip = rip;
  s.rflags = rflags;
  return true;
}

function restoredFlags(s: CpuState, flags: bigint, size: number): bigint {
  let may = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.TF | RFLAGS.DF | RFLAGS.OF | RFLAGS.NT;
  if (size > 2) may |= RFLAGS.RF | RFLAGS.AC | RFLAGS.ID;
  if (s.cpl === 0) may |= RFLAGS.IOPL;
  if (s.cpl <= Number((s.rflags & RFLAGS.IOPL) >> 12n)) may |= RFLAGS.IF;
  return (s.rflags & ~may) | (flags & may) | RFLAGS.FIXED;
}

/** Return address of INT n: kept here so that exec and delivery agree on it. */
export const softwareEvent = (i: Insn, s: CpuState, vector: number): GuestEvent => ({
  vector,
  type: i.op === 'int3' ? EVENT_TYPE.SWEXC : EVENT_TYPE.SWINT,
  errorCode: null,
  insnLen: Number(nextRip(i, s) - s.rip),
});
