/**
 * Descriptors and loading of segment registers. SDM vol. 3A 3.4.5 (descriptors), 5.5-5.8 (privilege checks), vol. 2 MOV, LTR, LLDT.
 */
import type { Bus } from './bus';
import { VECTOR } from './operands';
import { CR0, type CpuState, type Segment, type SegmentName } from './regs';

/** A segment descriptor of the GDT or LDT, decoded. `raw` is the eight bytes as they are in memory. */
export interface Descriptor extends Segment {
  raw: bigint;
  /** Linear address of the descriptor. */
  address: bigint;
}

/** Decodes the eight bytes of a code, data or system descriptor. SDM vol. 3A figure 3-8. */
export function decodeDescriptor(raw: bigint, selector: number, address = 0n): Descriptor {
  const lo = Number(raw & 0xffff_ffffn);
  const hi = Number(raw >> 32n);
  const g = (hi >>> 23) & 1;
  const pages = (lo & 0xffff) | (hi & 0xf0000);
  return {
    raw,
    address,
    selector,
    base: BigInt(((lo >>> 16) | ((hi & 0xff) << 16) | (hi & 0xff000000)) >>> 0),
    limit: g ? ((pages << 12) | 0xfff) >>> 0 : pages,
    type: (hi >>> 8) & 15,
    s: (hi >>> 12) & 1,
    dpl: (hi >>> 13) & 3,
    present: (hi >>> 15) & 1,
    l: (hi >>> 21) & 1,
    db: (hi >>> 22) & 1,
    g,
    unusable: 0,
  };
}

/** The hidden part of a segment register that a descriptor fills. */
export function toSegment(d: Descriptor): Segment {
  return {
    selector: d.selector,
    base: d.base,
    limit: d.limit,
    type: d.type,
    s: d.s,
    dpl: d.dpl,
    present: d.present,
    l: d.l,
    db: d.db,
    g: d.g,
    unusable: 0,
  };
}

/**
 * Reads the descriptor that a selector names.
 * @param vector the exception for a selector outside its table (#GP, or #TS while a stack switch is under way)
 * @returns null if the bus was told of a fault or holds an exit
 */
export function readDescriptor(s: CpuState, bus: Bus, selector: number, vector: number = VECTOR.GP): Descriptor | null {
  const local = (selector & 4) !== 0;
  const base = local ? s.ldtr.base : s.gdtr.base;
  const limit = local ? (s.ldtr.unusable || !s.ldtr.present ? -1 : s.ldtr.limit) : s.gdtr.limit;
  if ((selector | 7) > limit) {
    bus.exception(vector, selector & 0xfffc);
    return null;
  }
  const address = tableAddress(s, base + BigInt(selector & 0xfff8));
  return bus.systemRead(address, 8) ? decodeDescriptor(bus.value, selector, address) : null;
}

/** Linear addresses are 32 bits wide outside IA-32e mode. */
export function tableAddress(s: CpuState, linear: bigint): bigint {
  return BigInt.asUintN(s.longModeActive ? 64 : 32, linear);
}

/** Sets the accessed flag of a code or data descriptor that is about to be loaded, if it is clear. */
export function touchDescriptor(bus: Bus, d: Descriptor): boolean {
  if (d.type & 1 || !d.s) return true;
  if (!bus.systemWrite(d.address + 5n, 1, ((d.raw >> 40n) & 0xffn) | 1n)) return false;
  d.type |= 1;
  return true;
}

/** MOV or POP to ES, SS, DS, FS or GS. */
export function loadSegment(s: CpuState, bus: Bus, name: SegmentName, selector: number): boolean {
  if ((s.cr0 & CR0.PE) === 0n || s.vm86) {
    // real mode changes selector and base only; the limit stays ("unreal" mode)
    const old = s[name];
    s[name] = { ...old, selector, base: BigInt(selector) << 4n, unusable: 0 };
    return true;
  }
  const rpl = selector & 3;
  if ((selector & 0xfffc) === 0) {
    const allowed = name !== 'ss' || (s.codeBits === 64 && s.cpl < 3 && rpl === s.cpl);
    if (!allowed) return bus.exception(VECTOR.GP, 0);
    s[name] = {
      ...s[name],
      selector,
      base: name === 'fs' || name === 'gs' ? 0n : s[name].base,
      unusable: 1,
      present: 0,
      dpl: name === 'ss' ? s.cpl : 0,
    };
    return true;
  }
  const d = readDescriptor(s, bus, selector);
  if (!d) return false;
  const error = selector & 0xfffc;
  const writableData = d.s === 1 && (d.type & 0xa) === 2;
  const readable = d.s === 1 && ((d.type & 8) === 0 || (d.type & 2) !== 0);
  if (name === 'ss') {
    if (rpl !== s.cpl || d.dpl !== s.cpl || !writableData) return bus.exception(VECTOR.GP, error);
    if (!d.present) return bus.exception(VECTOR.SS, error);
  } else {
    const conforming = (d.type & 0xc) === 0xc;
    if (!readable || (!conforming && (rpl > d.dpl || s.cpl > d.dpl))) return bus.exception(VECTOR.GP, error);
    if (!d.present) return bus.exception(VECTOR.NP, error);
  }
  if (!touchDescriptor(bus, d)) return false;
  s[name] = toSegment(d);
  return true;
}

/** Far jump to a code segment (no gates, no task switch): how a guest changes between 16-, 32- and 64-bit code. */
export function farJump(s: CpuState, bus: Bus, selector: number, offset: bigint): boolean {
  if ((s.cr0 & CR0.PE) === 0n || s.vm86) {
    s.cs = { ...s.cs, selector, base: BigInt(selector) << 4n };
    s.rip = offset;
    return true;
  }
  if ((selector & 0xfffc) === 0) return bus.exception(VECTOR.GP, 0);
  const d = readDescriptor(s, bus, selector);
  if (!d) return false;
  const error = selector & 0xfffc;
  const code = d.s === 1 && (d.type & 8) !== 0;
  const conforming = (d.type & 4) !== 0;
  if (!code || (conforming ? d.dpl > s.cpl : (selector & 3) > s.cpl || d.dpl !== s.cpl))
    return bus.exception(VECTOR.GP, error);
  if (s.longModeActive && d.l && d.db) return bus.exception(VECTOR.GP, error);
  if (!d.present) return bus.exception(VECTOR.NP, error);
  if (!touchDescriptor(bus, d)) return false;
  s.cs = { ...toSegment(d), selector: (selector & 0xfffc) | s.cpl };
  s.rip = offset;
  return true;
}

/** LTR and LLDT. The descriptor is 16 bytes in IA-32e mode. */
export function loadSystemSegment(s: CpuState, bus: Bus, which: 'tr' | 'ldtr', selector: number): boolean {
  if ((selector & 0xfffc) === 0) {
    if (which === 'tr') return bus.exception(VECTOR.GP, 0);
    s.ldtr = { ...s.ldtr, selector, unusable: 1, present: 0 };
    return true;
  }
  const error = selector & 0xfffc;
  if (selector & 4) return bus.exception(VECTOR.GP, error);
  const d = readDescriptor(s, bus, selector);
  if (!d) return false;
  const wanted = which === 'ldtr' ? d.type === 2 : d.type === 9 || (d.type === 1 && !s.longModeActive);
  if (d.s !== 0 || !wanted) return bus.exception(VECTOR.GP, error);
  if (!d.present) return bus.exception(VECTOR.NP, error);
  let base = d.base;
  if (s.longModeActive) {
    if (!bus.systemRead(d.address + 8n, 8)) return false;
    base |= (bus.value & 0xffff_ffffn) << 32n;
  }
  if (which === 'tr') {
    if (!bus.systemWrite(d.address + 5n, 1, ((d.raw >> 40n) & 0xffn) | 2n)) return false;
    d.type |= 2;
  }
  s[which] = { ...toSegment(d), base };
  return true;
}
