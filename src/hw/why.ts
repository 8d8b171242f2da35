/**
 * Why-records: what the processor read and checked on the way to a verdict, in order. Every view prints the same record.
 */
import type { RuleId } from './rules';
import { ruleOf } from './rules';
import type { TlbKind } from './tlb';

/** The kind of table that a step reads. `shadow` is for tables that KVM made in place of the guest's; hardware reads them as `guest`. */
export type WalkTable = 'guest' | 'ept' | 'npt' | 'sppt' | 'shadow';

/** One check, with the register, control bit or CPUID value that asked for it. */
export interface WalkCheck {
  rule: RuleId;
  ok: boolean;
  by?: string;
}

/** One table entry that the processor read. */
export interface WalkStep {
  table: WalkTable;
  /** 1 = PTE … 5 = PML5E; SPPT: 4 … 1. */
  level: number;
  /** Address of the entry in `space`. */
  entryAddress: bigint;
  space: 'gpa' | 'hpa';
  /** Where the entry lies in host-physical memory; equal to `entryAddress` for second-stage tables. */
  hostAddress: bigint;
  /** Index of the entry in its table. */
  index: number;
  raw: bigint;
  /** Size of the entry in bytes. */
  size: 4 | 8;
  checked: WalkCheck[];
  /** Of a second-stage step: the guest level whose entry it translates the address of; 0 for the final address. */
  forLevel?: number;
  /** Value that the processor wrote back (accessed and dirty flags), if it did. */
  written?: bigint;
}

/** How a walk ended. */
export interface WalkVerdict {
  kind:
    | 'ok'
    | 'pf'
    | 'ept_violation'
    | 'ept_misconfig'
    | 'npf'
    | 'spp_miss'
    | 'spp_misconfig'
    | 've'
    | 'non_canonical'
    | 'gp_pdpte'
    | 'pml_full';
  /** The rule that decided against the access. */
  rule?: RuleId;
  /** #PF error code. */
  errorCode?: number;
  /** Exit qualification, or EXITINFO1. */
  qualification?: bigint;
  /** Guest-physical address of a second-stage fault. */
  gpa?: bigint;
  hpa?: bigint;
  /** One line for people. */
  text: string;
}

/** A remembered translation that was used in place of reading tables. */
export interface CachedStep {
  kind: TlbKind;
  /** Level of the entry that it stands for. */
  level: number;
  address: bigint;
  /** Page: its host-physical address. Paging structure: the next table, in the guest's terms. */
  target: bigint;
}

/** A whole walk. */
export interface WhyRecord {
  access: {
    /** `read`, `write`, `fetch`, with `user`, `implicit`, `shadow stack` before it. */
    text: string;
    gva?: bigint;
    gpa?: bigint;
  };
  steps: WalkStep[];
  /** Translations that came from the TLB or a paging-structure cache. */
  cached: CachedStep[];
  /** Checks that are about no single entry: canonical form, access rights of the whole mapping. */
  checked: WalkCheck[];
  verdict: WalkVerdict;
}

/**
 * What a walker tells while it works. `read` is called when the entry has been read and before anything about it is checked; a
 * listener may throw from it to stop there, the walker need not recover. Addresses and entries come as halves (signed or unsigned).
 */
export interface WalkRecorder {
  /** A translation begins. `gvaValid` is false for accesses by guest-physical address. */
  begin(lo: number, hi: number, access: number, gvaValid: boolean): void;
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
  ): void;
  /** A remembered translation took the place of a walk, or of its first steps. Address that it covers, and where it leads. */
  cached(kind: TlbKind, level: number, lo: number, hi: number, targetLo: number, targetHi: number): void;
  /** A check of the entry last read. */
  checked(rule: number, ok: boolean, by: string): void;
  /** A check of the mapping as a whole. */
  decided(rule: number, ok: boolean, by: string): void;
  /** The entry at this host address was written back with accessed or dirty flags. */
  wrote(hostLo: number, hostHi: number, rawLo: number, rawHi: number): void;
  /** The translation ended; the translator's result fields are set. */
  end(status: number): void;
}

/** Joins two 32-bit halves, signed or not. */
export function join64(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}

/** The record as lines of text, the form that CLI, tests and hovers print. */
export function formatWhy(record: WhyRecord): string[] {
  const hex = (v: bigint) => `0x${v.toString(16)}`;
  const lines: string[] = [];
  const { access } = record;
  lines.push(`${access.text}${access.gva !== undefined ? ` of gva ${hex(access.gva)}` : ''}${access.gpa !== undefined ? ` of gpa ${hex(access.gpa)}` : ''}`); // prettier-ignore
  const checks = (list: WalkCheck[], indent: string) => {
    for (const c of list) {
      const by = c.by === undefined || c.by === '' ? '' : ` [${c.by}]`;
      lines.push(`${indent}${c.ok ? 'ok  ' : 'FAIL'} ${c.rule}${by}${c.ok ? '' : `: ${ruleOf(c.rule).sentence}`}`);
    }
  };
  for (const c of record.cached) {
    const what =
      c.kind === 'page' ? 'TLB' : c.kind === 'paging-structure' ? 'paging-structure cache' : 'guest-physical mapping';
    lines.push(`  ${what}, level ${c.level}: ${hex(c.address)} -> ${hex(c.target)}, no table read`);
  }
  for (const s of record.steps) {
    const inner =
      s.forLevel === undefined ? '' : s.forLevel === 0 ? ' for the final address' : ` for guest level ${s.forLevel}`;
    const indent = s.forLevel === undefined ? '  ' : '    ';
    const host = s.space === 'gpa' && s.hostAddress !== s.entryAddress ? ` (hpa ${hex(s.hostAddress)})` : '';
    const written = s.written === undefined ? '' : `, written back as ${hex(s.written)}`;
    lines.push(`${indent}${s.table} level ${s.level}[${s.index}] at ${s.space} ${hex(s.entryAddress)}${host} = ${hex(s.raw)}${written}${inner}`); // prettier-ignore
    checks(s.checked, `${indent}  `);
  }
  checks(record.checked, '  ');
  lines.push(record.verdict.text);
  return lines;
}
