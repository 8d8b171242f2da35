/**
 * Runs one line of a vector file through src/hw and says where the two disagree. The formats are those of the MMU vectors
 * (ept, spp, guest-paging, npt, ept-2d, npt-2d) and of the paging fixtures (access-vectors, translate-vectors).
 */
import { ACC_AC, ACC_FETCH, ACC_IMPLICIT, ACC_READ, ACC_SHSTK, ACC_USER, ACC_WRITE, GP_PDPTE, NON_CANONICAL, OK, PF, STATUS_NAMES } from '../hw/access'; // prettier-ignore
import { amdFeatures, intelFeatures, type CpuFeatures, type Quirk } from '../hw/features';
import { PhysMemory } from '../hw/memory';
import { PTE_A } from '../hw/paging';
import { secondStage } from '../hw/second-stage';
import {
  R_RIGHTS,
  RIGHT_NX,
  RIGHT_U,
  RIGHT_W,
  S2_FINAL,
  S2_NO_GLA,
  S2_PDPTES,
  S2_TABLE,
  Translator,
} from '../hw/translate';
import { formatWhy } from '../hw/why';
import { WhyRecorder } from '../hw/why-recorder';

/** A parsed line. The formats are told apart by their fields. */
export type Vector = Record<string, any>; // eslint-disable-line @typescript-eslint/no-explicit-any

/** What came of one line. */
export interface VectorOutcome {
  status: 'passed' | 'failed' | 'skipped';
  /** Why it was skipped, or which authority was compared with if not the maker's result. */
  note?: string;
  /** One line for each field that differs: name, what the file says, what src/hw says. */
  differences: { field: string; expected: string; actual: string }[];
  /** The why-record, as text, of a failed line. */
  why: string[];
}

const hex = (v: bigint | number | undefined | null): string =>
  v === undefined || v === null ? 'none' : `0x${BigInt(v).toString(16)}`;
const low = (v: bigint): number => Number(BigInt.asIntN(32, v));
const high = (v: bigint): number => Number(BigInt.asIntN(32, v >> 32n));

/** Writes a 4- or 8-byte entry at a physical address given as text. */
function poke(memory: PhysMemory, address: string, value: string, size: 4 | 8): void {
  const at = Number(BigInt(address));
  const v = BigInt(value);
  if (size === 8) memory.writeQ(at, low(v), high(v));
  else memory.write32(at, Number(v));
}

/** Collects differences of one line. */
class Comparison {
  readonly differences: VectorOutcome['differences'] = [];

  same(field: string, expected: unknown, actual: unknown): void {
    if (String(expected) !== String(actual)) {
      this.differences.push({ field, expected: String(expected), actual: String(actual) });
    }
  }

  sameHex(field: string, expected: string | number | bigint | null | undefined, actual: bigint | number | undefined, mask = 0n): void {
    if (expected === undefined) return;
    const e = expected === null ? undefined : BigInt(expected) & ~mask;
    const a = actual === undefined ? undefined : BigInt(actual) & ~mask;
    if (e !== a) this.differences.push({ field, expected: hex(e), actual: hex(a) });
  } // prettier-ignore
}

const ACCESS_FLAGS: Readonly<Record<string, number>> = {
  r: ACC_READ,
  w: ACC_WRITE,
  x: ACC_FETCH,
  rmw: ACC_WRITE,
  ssr: ACC_READ | ACC_SHSTK,
  ssw: ACC_WRITE | ACC_SHSTK,
};

/** Causes that the vectors name, by the rule of src/hw that says the same. */
const CAUSES: Readonly<Record<string, string>> = {
  'pg.present': 'not_present',
  'pg.pdpte-present': 'not_present',
  'pg.user': 'user_supervisor',
  'pg.write-user': 'write_protect',
  'pg.write-supervisor': 'write_protect',
  'pg.xd': 'execute_disable',
  'pg.smep': 'smep',
  'pg.smap': 'smap',
  'pg.shstk-mode': 'shadow_stack_us',
  'pg.shstk-page': 'not_shadow_stack',
  'ept.present': 'not_present',
  'ept.write-only': 'write_only',
  'ept.rsvd-low': 'reserved_low_bits',
  'ept.rsvd-large': 'reserved_address_bits',
  'ept.rsvd-maxphyaddr': 'reserved_address_bits',
  'ept.memtype': 'memtype',
  'ept.page-size': 'page_size',
};

function causeOf(rule: string | null): string | undefined {
  if (rule === null) return undefined;
  if (rule in CAUSES) return CAUSES[rule];
  if (rule.startsWith('pg.pk')) return 'pkey';
  if (rule.startsWith('pg.rsvd')) return 'reserved';
  if (rule === 'pg.pdpte-rsvd') return 'reserved';
  if (rule.startsWith('ept.') || rule === 'spp.write') return 'permission';
  return rule;
}

/** Where two rules are broken at once, the order in which they are named is the model's own; these sets are interchangeable. */
const UNORDERED = new Set(['user_supervisor', 'write_protect', 'execute_disable', 'smep', 'smap', 'pkey', 'not_shadow_stack', 'shadow_stack_us']); // prettier-ignore
const UNORDERED_MISCONFIG = new Set([
  'write_only',
  'reserved_low_bits',
  'reserved_address_bits',
  'memtype',
  'page_size',
]);

function sameCause(expected: string | undefined, actual: string | undefined): boolean {
  if (expected === undefined || expected === actual) return true;
  if (actual === undefined) return false;
  return (UNORDERED.has(expected) && UNORDERED.has(actual)) || (UNORDERED_MISCONFIG.has(expected) && UNORDERED_MISCONFIG.has(actual));
} // prettier-ignore

const LEVELS = ['', 'pte', 'pde', 'pdpte', 'pml4e', 'pml5e'];

/** Entries before a run, to find what the run wrote. */
class Watch {
  private readonly before = new Map<number, bigint>();

  constructor(
    private readonly memory: PhysMemory,
    addresses: Iterable<string>,
    private readonly size: 4 | 8,
  ) {
    for (const a of addresses) this.before.set(Number(BigInt(a)), this.read(Number(BigInt(a))));
  }

  private read(at: number): bigint {
    return this.size === 8 ? this.memory.readQ(at) : BigInt(this.memory.read32(at));
  }

  /** Address → new value of each entry that differs now. */
  changes(): Map<number, bigint> {
    const out = new Map<number, bigint>();
    for (const [at, was] of this.before) if (this.read(at) !== was) out.set(at, this.read(at));
    return out;
  }
}

/** `0x1000=0x67, …`, ascending: the form in which writes are compared. */
function writesText(writes: Map<number, bigint>): string {
  return [...writes].sort((a, b) => a[0] - b[0]).map(([a, v]) => `${hex(a)}=${hex(v)}`).join(', ') || 'none'; // prettier-ignore
}

interface Run {
  t: Translator;
  why: WhyRecorder;
  compare: Comparison;
}

function start(features: CpuFeatures, memory = new PhysMemory()): Run {
  const t = new Translator(memory, features);
  const why = new WhyRecorder(t);
  t.recorder = why;
  return { t, why, compare: new Comparison() };
}

function finish({ compare, why }: Run, note?: string): VectorOutcome {
  const failed = compare.differences.length > 0;
  return {
    status: failed ? 'failed' : 'passed',
    ...(note === undefined ? {} : { note }),
    differences: compare.differences,
    why: failed ? formatWhy(why.record) : [],
  };
}

const skipped = (note: string): VectorOutcome => ({ status: 'skipped', note, differences: [], why: [] });

/** Runs one line of any of the formats. @throws TypeError if it is of none. */
export function runVector(v: Vector): VectorOutcome {
  if (typeof v.oracle === 'string') return runTranslate(v);
  if (typeof v.stratum === 'string') return runAccess(v);
  const disputed = v.disputed === true;
  if (disputed && v.sdm === undefined) return skipped(`disputed: ${v.dispute}`);
  const note = disputed ? `SDM in place of the emulator: ${v.dispute}` : undefined;
  if ('ncr3' in v && 'la' in v) return run2d(v, note);
  if ('eptp' in v && 'la' in v) return run2d(v, note);
  if ('eptp' in v) return runEpt(v, note);
  if ('ncr3' in v) return runNpt(v, note);
  if ('mode' in v && 'la' in v) return runGuest(v, note);
  throw new TypeError(`line ${v.id ?? ''} has none of the known vector formats (see docs/differences.md)`);
}

/** The result to compare with: the second model's where the line is disputed. */
function expectedOf(v: Vector): Vector {
  if (v.disputed !== true) return v.result;
  const sdm = { ...v.sdm };
  if ('qual' in sdm) sdm.qualification = sdm.qual;
  if ('qual_undef' in sdm) sdm.qual_undefined = sdm.qual_undef;
  // The second model gives kind and code; what it leaves out and both must agree on comes from the line.
  return sdm.kind === v.result.kind ? { ...v.result, ...sdm } : sdm;
}

function runGuest(v: Vector, note: string | undefined): VectorOutcome {
  const cpu = intelFeatures({ maxphyaddr: v.maxphyaddr, page1g: v.page_1g });
  const run = start(cpu);
  const { t, compare } = run;
  const size = v.mode === '32bit' ? 4 : 8;
  for (const level of Object.keys(v.entries)) poke(t.memory, v.entry_addrs[level], v.entries[level], size);
  const expected = expectedOf(v);
  t.setGuest({ cr0: BigInt(v.cr0), cr3: BigInt(v.cr3), cr4: BigInt(v.cr4), efer: BigInt(v.efer), pkru: BigInt(v.pkru), pkrs: BigInt(v.pkrs) }); // prettier-ignore
  if (v.mode === 'pae') {
    const status = t.loadPdptes();
    if (status !== OK) {
      compare.same('kind', expected.kind, STATUS_NAMES[status]);
      return finish(run, note);
    }
  }
  let access = ACCESS_FLAGS[v.access];
  if (v.cpl === 3) access |= ACC_USER;
  if (v.implicit_supervisor) access |= ACC_IMPLICIT;
  if (v.rflags_ac) access |= ACC_AC;
  const watch = new Watch(t.memory, Object.values(v.entry_addrs), size);
  const la = BigInt(v.la);
  const status = t.translate(low(la), high(la), access);
  compare.same('kind', expected.kind, STATUS_NAMES[status]);
  if (expected.kind === 'ok' && status === OK) {
    compare.sameHex('pa', expected.pa, t.hpa);
    compare.same('page_size', expected.page_size, t.pageSize);
    if (expected.level !== undefined) compare.same('level', expected.level, LEVELS[t.pageLevel]);
  }
  if (expected.kind === 'pf' && status === PF) {
    compare.sameHex('error_code', expected.error_code, t.errorCode);
    if (expected.level !== undefined) compare.same('level', expected.level, LEVELS[t.faultLevel]);
    const cause = causeOf(t.failedRule);
    if (!sameCause(expected.cause, cause)) compare.same('cause', expected.cause, cause);
  }
  compareAdWrites(compare, v, expected, watch);
  return finish(run, note);
}

/** `ad_writes` names levels; a faulting line has none. */
function compareAdWrites(compare: Comparison, v: Vector, expected: Vector, watch: Watch): void {
  // Where the SDM decides in place of the emulator, the file does not say what is written.
  if (v.disputed === true && expected.ad_writes === undefined && expected.kind === 'ok') return;
  const wanted = new Map<number, bigint>();
  for (const w of expected.ad_writes ?? []) {
    const address = w.addr ?? w.address ?? v.entry_addrs[w.entry ?? w.level];
    wanted.set(Number(BigInt(address)), BigInt(w.value));
  }
  compare.same('ad_writes', writesText(wanted), writesText(watch.changes()));
}

function runEpt(v: Vector, note: string | undefined): VectorOutcome {
  const cpu = intelFeatures({ maxphyaddr: v.maxphyaddr, ept1g: v.page_1g, eptAdvancedExitInfo: v.adv_exit_info });
  const run = start(cpu);
  const { t, compare, why } = run;
  for (const level of Object.keys(v.entries)) poke(t.memory, v.entry_addrs[level], v.entries[level], 8);
  const addresses: string[] = Object.values(v.entry_addrs);
  if (v.spp_entries !== undefined) {
    for (const l of Object.keys(v.spp_entries)) poke(t.memory, v.spp_entry_addrs[l], v.spp_entries[l], 8);
    addresses.push(...(Object.values(v.spp_entry_addrs) as string[]));
  }
  t.setSecondStage('ept', {
    eptp: BigInt(v.eptp),
    mbec: v.mbec,
    ve: v.ve_enabled,
    spp: v.spp_enabled === true,
    sppt: BigInt(v.sppt_root ?? 0),
  });
  t.accessSize = v.write_size ?? 1;
  t.nmiUnblockingIret = v.nmi_unblocking_iret === true;
  let access = ACCESS_FLAGS[v.access];
  if (v.user) access |= ACC_USER;
  t.r[R_RIGHTS] = (v.user ? RIGHT_U : 0) | (v.gpt_writable ? RIGHT_W : 0) | (v.gpt_nx ? RIGHT_NX : 0);
  const watch = new Watch(t.memory, addresses, 8);
  const gpa = BigInt(v.gpa);
  const purpose = v.gla !== null ? (v.page_walk ? S2_TABLE : S2_FINAL) : v.page_walk ? S2_PDPTES : S2_NO_GLA;
  why.begin(low(gpa), high(gpa), access, false);
  const status = secondStage(t.context, t.stage2, low(gpa), high(gpa), access, purpose);
  why.end(status);

  const expected = expectedOf(v);
  compare.same('kind', expected.kind, STATUS_NAMES[status]);
  if (expected.kind === STATUS_NAMES[status]) {
    if (status === OK) {
      compare.sameHex('hpa', expected.hpa, t.hpa);
      compare.same('page_size', expected.page_size, t.secondStagePageSize);
      compare.same('memtype', expected.memtype, t.memtype);
      compare.same('ipat', expected.ipat, t.ignorePat);
      if (expected.level !== undefined) compare.same('level', expected.level, LEVELS[t.secondStageLevel]);
      compare.same('write_allowed_by_spp', expected.write_allowed_by_spp === true, t.allowedBySpp);
    } else {
      const undefinedBits = BigInt(expected.qual_undefined ?? 0);
      compare.sameHex('qualification', expected.qualification, t.qualLo, undefinedBits);
      compare.sameHex('gpa', expected.gpa ?? v.gpa, t.faultGpa);
      const names = expected.kind.startsWith('spp') ? ['', 'spptl1e', 'spptl2e', 'spptl3e', 'spptl4e'] : LEVELS;
      if (expected.level !== undefined) compare.same('level', expected.level, names[t.faultLevel]);
      const cause = causeOf(t.failedRule);
      if (!sameCause(expected.cause, cause)) compare.same('cause', expected.cause, cause);
    }
  }
  compareAdWrites(compare, { ...v, entry_addrs: { ...v.entry_addrs, ...v.spp_entry_addrs } }, expected, watch);
  return finish(run, note);
}

function runNpt(v: Vector, note: string | undefined): VectorOutcome {
  const run = start(amdFeatures({ maxphyaddr: v.maxphyaddr, page1g: v.page_1g }));
  const { t, compare, why } = run;
  const size = v.nested_mode === '32bit' ? 4 : 8;
  for (const level of Object.keys(v.entries)) poke(t.memory, v.entry_addrs[level], v.entries[level], size);
  t.setSecondStage('npt', { ncr3: BigInt(v.ncr3), hostCr4: BigInt(v.host_cr4), hostEfer: hostEfer(v) });
  const watch = new Watch(t.memory, Object.values(v.entry_addrs), size);
  const gpa = BigInt(v.gpa);
  const access = ACCESS_FLAGS[v.access];
  why.begin(low(gpa), high(gpa), access, false);
  const status = secondStage(t.context, t.stage2, low(gpa), high(gpa), access, v.page_walk ? S2_TABLE : S2_FINAL);
  why.end(status);
  const expected = expectedOf(v);
  compare.same('kind', expected.kind, STATUS_NAMES[status]);
  if (expected.kind === STATUS_NAMES[status]) {
    if (status === OK) {
      compare.sameHex('hpa', expected.hpa, t.hpa);
      if (expected.page_size !== undefined) compare.same('page_size', expected.page_size, t.secondStagePageSize);
      if (expected.level !== undefined) compare.same('level', expected.level, LEVELS[t.secondStageLevel]);
    } else compareNpf(compare, expected, t);
  }
  compareAdWrites(compare, v, expected, watch);
  return finish(run, note);
}

function compareNpf(compare: Comparison, expected: Vector, t: Translator): void {
  compare.sameHex('exitinfo1', expected.exitinfo1, (BigInt(t.qualHi) << 32n) | BigInt(t.qualLo));
  compare.sameHex('exitinfo2', expected.exitinfo2, t.faultGpa);
  if (expected.level !== undefined) compare.same('level', expected.level, LEVELS[t.faultLevel]);
  const cause = causeOf(t.failedRule);
  if (!sameCause(expected.cause, cause)) compare.same('cause', expected.cause, cause);
}

/** Some lines leave EFER.LMA out although the host is in long mode by `nested_mode`; nothing to mend where it is there. */
function hostEfer(v: Vector): bigint {
  return BigInt(v.host_efer);
}

function run2d(v: Vector, note: string | undefined): VectorOutcome {
  const npt = 'ncr3' in v;
  const cpu = npt ? amdFeatures({ maxphyaddr: v.maxphyaddr }) : intelFeatures({ maxphyaddr: v.maxphyaddr });
  const run = start(cpu);
  const { t, compare } = run;
  for (const [address, value] of Object.entries(v.memory)) poke(t.memory, address, value as string, 8);
  t.setGuest({ cr0: BigInt(v.cr0), cr3: BigInt(v.cr3), cr4: BigInt(v.cr4), efer: BigInt(v.efer) });
  if (npt)
    t.setSecondStage('npt', { ncr3: BigInt(v.ncr3), hostCr4: BigInt(v.host_cr4), hostEfer: BigInt(v.host_efer) });
  else t.setSecondStage('ept', { eptp: BigInt(v.eptp), mbec: v.mbec, ve: v.ve_enabled });
  const watch = new Watch(t.memory, Object.keys(v.memory), 8);
  let access = ACCESS_FLAGS[v.access];
  if (v.cpl === 3) access |= ACC_USER;
  const la = BigInt(v.la);
  let status = v.mode === 'pae' ? t.loadPdptes() : OK;
  if (status === OK) status = t.translate(low(la), high(la), access);
  const expected = expectedOf(v);
  compare.same('kind', expected.kind, STATUS_NAMES[status]);
  if (expected.kind === STATUS_NAMES[status]) {
    if (status === OK) {
      compare.sameHex('hpa', expected.hpa, t.hpa);
      compare.same('page_size', expected.page_size, t.pageSize);
    } else if (status === PF) {
      compare.sameHex('error_code', expected.error_code, t.errorCode);
      if (expected.level !== undefined) compare.same('level', expected.level, LEVELS[t.faultLevel]);
      const cause = causeOf(t.failedRule);
      if (!sameCause(expected.cause, cause)) compare.same('cause', expected.cause, cause);
    } else if (npt) compareNpf(compare, expected, t);
    else {
      compare.sameHex('qualification', expected.qualification, t.qualLo, BigInt(expected.qual_undefined ?? 0));
      compare.sameHex('gpa', expected.gpa, t.faultGpa);
      if (expected.level !== undefined) compare.same('level', expected.level, LEVELS[t.faultLevel]);
      const cause = causeOf(t.failedRule);
      if (!sameCause(expected.cause, cause)) compare.same('cause', expected.cause, cause);
    }
  }
  if (expected.writes !== undefined) {
    const wanted = new Map(Object.entries(expected.writes).map(([a, x]) => [Number(BigInt(a)), BigInt(x as string)]));
    compare.same('writes', writesText(wanted), writesText(watch.changes()));
  }
  return finish(run, note);
}

function runAccess(v: Vector): VectorOutcome {
  const run = start(intelFeatures({ maxphyaddr: v.maxphyaddr }));
  const { t, compare } = run;
  for (const e of v.entries) poke(t.memory, e.gpa, e.value, 8);
  t.setGuest({
    cr0: BigInt(v.cr0),
    cr3: BigInt(v.cr3),
    cr4: BigInt(v.cr4),
    efer: BigInt(v.efer),
    pkru: BigInt(v.pkru),
  });
  const la = BigInt(v.la);
  if (v.access.twice) t.translate(low(la), high(la), ACC_READ);
  const access = (v.access.write ? ACC_WRITE : v.access.fetch ? ACC_FETCH : ACC_READ) | (v.access.user ? ACC_USER : 0);
  const status = t.translate(low(la), high(la), access);
  compare.same('fault', v.fault, status !== OK);
  if (v.fault) compare.sameHex('error', v.error, status === PF ? t.errorCode : undefined);
  else compare.sameHex('pa', v.pa, t.hpa);
  const at = (level: number) => v.entries.find((e: Vector) => e.level === level);
  const after = (level: number) => t.memory.readQ(Number(BigInt(at(level).gpa)));
  compare.sameHex('pdeAfter', v.pdeAfter, after(2), BigInt(v.pdeIgnore));
  if (v.pteAfter !== null) compare.sameHex('pteAfter', v.pteAfter, after(1));
  return finish(run);
}

/** Deviations of QEMU that the README of the paging fixtures documents. */
const QEMU_QUIRKS: Quirk[] = ['tcg-no-amd-bit8'];

function runTranslate(v: Vector): VectorOutcome {
  const kvm = v.oracle === 'kvm_translate';
  const features = { maxphyaddr: v.maxphyaddr, page1g: v.gbpages };
  const amd = kvm ? v.vendor === 'AuthenticAMD' : false;
  const cpu = amd ? amdFeatures(features) : intelFeatures({ ...features, quirks: new Set(kvm ? [] : QEMU_QUIRKS) });
  const memory = new PhysMemory();
  const size = v.mode.startsWith('32bit') ? 4 : 8;
  for (const [gpa, value] of v.memory) poke(memory, gpa, value, size);
  const la = BigInt(v.gva);
  const regs = { cr0: BigInt(v.cr0), cr3: BigInt(v.cr3), cr4: BigInt(v.cr4), efer: BigInt(v.efer) };

  // A supervisor read, without SMAP: whether a translation exists at all.
  const probe = start(cpu, memory.fork());
  probe.t.setGuest({ ...regs, cr4: regs.cr4 & ~0x30_0000n });
  if (v.mode === 'pae') probe.t.loadPdptes();
  let status = probe.t.translate(low(la), high(la), ACC_READ);
  if (kvm && status === NON_CANONICAL) return skipped('KVM_TRANSLATE takes a non-canonical address by its low 48 bits');
  probe.compare.same('valid', v.valid, status === OK);
  if (v.valid && status === OK) probe.compare.sameHex('gpa', v.gpa, probe.t.hpa);
  if (kvm) {
    compareAfter(probe.compare, v, probe.t.memory, size, (level, wanted) => !v.valid && wanted === level);
    return finish(probe);
  }
  if (probe.compare.differences.length > 0) return finish(probe);

  const run = start(cpu, memory);
  const { t, compare } = run;
  t.setGuest(regs);
  if (v.mode === 'pae' && t.loadPdptes() === GP_PDPTE)
    return skipped('a PDPTE has a reserved bit: #GP when it is loaded');
  const access = (v.access.write ? ACC_WRITE : v.access.fetch ? ACC_FETCH : ACC_READ) | (v.access.user ? ACC_USER : 0);
  status = t.translate(low(la), high(la), access);
  compare.same('fault', v.fault, status === OK ? null : status === PF ? 'pf' : 'gp');
  if (v.fault === 'pf' && status === PF) {
    // QEMU leaves bit 0 (P) clear with a reserved bit.
    compare.sameHex('error', (v.error & 8) !== 0 ? v.error | 1 : v.error, t.errorCode);
  }
  compareQemuAfter(compare, v, memory, size);
  return finish(run);
}

/** Compares entries after a successful walk; `ignore` excuses single ones. */
function compareAfter(compare: Comparison, v: Vector, memory: PhysMemory, size: 4 | 8, ignore: (before: bigint, wanted: bigint) => boolean): void {
  const after = new Map<string, string>(v.after);
  for (const [gpa, value] of v.memory) {
    const wanted = BigInt(after.get(gpa) ?? value);
    if (ignore(BigInt(value), wanted)) continue;
    const at = Number(BigInt(gpa));
    const actual = size === 8 ? memory.readQ(at) : BigInt(memory.read32(at));
    compare.sameHex(`after ${gpa}`, wanted, actual);
  }
} // prettier-ignore

/**
 * QEMU sets the accessed flag of each level above the one that faults, and some that no processor sets: a 1 GiB page's although the
 * access is refused, and a PAE PDPTE's. Where it faulted, an accessed flag that only QEMU has set is excused on the upper levels.
 */
function compareQemuAfter(compare: Comparison, v: Vector, memory: PhysMemory, size: 4 | 8): void {
  const after = new Map<string, string>(v.after);
  v.memory.forEach(([gpa, value]: [string, string], i: number) => {
    if (v.mode === 'pae' && i === 0) return;
    const at = Number(BigInt(gpa));
    const actual = size === 8 ? memory.readQ(at) : BigInt(memory.read32(at));
    const wanted = BigInt(after.get(gpa) ?? value);
    // A table outside all memory reads as 0 and is not listed: then the last listed entry is an upper one too.
    const upper = v.fault !== null && (i < v.memory.length - 1 || v.unbacked !== null);
    const gigabyte =
      v.fault !== null && (v.mode === '4level' || v.mode === '5level') && i === (v.mode === '4level' ? 1 : 2);
    compare.sameHex(`after ${gpa}`, wanted, actual, upper || gigabyte ? BigInt(PTE_A) : 0n);
  });
}
