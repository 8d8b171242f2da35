/** Runs the MMU vectors: guest paging, EPT with SPP, NPT, and guest paging through EPT or NPT. */
import { ACC_AC, ACC_IMPLICIT, ACC_USER, OK, PF, R_RIGHTS, RIGHT_NX, RIGHT_U, RIGHT_W } from '../hw/access';
import { S2_FINAL, S2_NO_GLA, S2_PDPTES, S2_TABLE, STATUS_NAMES } from '../hw/access';
import { amdFeatures, intelFeatures } from '../hw/features';
import { secondStage } from '../hw/second-stage';
import type { Translator } from '../hw/translate';
import {
  accessFlags, high, LEVELS, low, poke, Run, sameCause, SPPT_LEVELS, Watch, writesText, type VectorOutcome,
} from './vectors-compare'; // prettier-ignore
import type { Ept2dVector, EptVector, GuestVector, MmuResult, Npt2dVector, NptVector } from './vectors-format';

type MmuVector = GuestVector | EptVector | NptVector | Ept2dVector | Npt2dVector;

/** The result to compare with: where a line is disputed, the second model's in place of the emulator's. */
function expectedOf(v: MmuVector): MmuResult {
  if (v.disputed !== true || v.sdm === undefined) return v.result;
  const { qual, qual_undef, ...rest } = v.sdm;
  const sdm: MmuResult = { ...rest };
  if (qual !== undefined) sdm.qualification = qual;
  if (qual_undef !== undefined) sdm.qual_undefined = qual_undef;
  // What the second model leaves out, it agrees on as long as the kind is the same.
  return sdm.kind === v.result.kind ? { ...v.result, ...sdm } : sdm;
}

/** What the note of a disputed line says; undefined for others. */
function noteOf(v: MmuVector): string | undefined {
  return v.disputed === true ? `the SDM decides: ${v.dispute ?? ''}` : undefined;
}

function pokeEntries(t: Translator, entries: GuestVector['entries'], addresses: GuestVector['entries'], size: 4 | 8): void {
  for (const [level, value] of Object.entries(entries)) poke(t.memory, addresses[level]!, value!, size);
} // prettier-ignore

/** Writes that a result names, by address; a fault writes nothing unless it says so. */
function compareAdWrites(run: Run, v: MmuVector, expected: MmuResult, addresses: GuestVector['entries'], watch: Watch): void {
  // Where the SDM decides against the emulator's fault, the line does not say what is written.
  if (v.disputed === true && expected.ad_writes === undefined && expected.kind === 'ok') return;
  const wanted = new Map<number, bigint>();
  for (const w of expected.ad_writes ?? []) {
    const address = w.addr ?? w.address ?? addresses[w.entry ?? w.level ?? ''];
    if (address === undefined) throw new Error(`${v.id}: an entry of ad_writes has neither address nor level`);
    wanted.set(Number(BigInt(address)), BigInt(w.value));
  }
  run.same('ad_writes', writesText(wanted), writesText(watch.changes()));
} // prettier-ignore

function comparePageFault(run: Run, expected: MmuResult): void {
  run.sameNumber('error_code', expected.error_code, run.t.errorCode);
  run.sameIfGiven('level', expected.level, LEVELS[run.t.faultLevel]);
  sameCause(run, expected.cause);
}

function compareNpf(run: Run, expected: MmuResult): void {
  const { t } = run;
  run.sameNumber('exitinfo1', expected.exitinfo1, (BigInt(t.qualHi) << 32n) | BigInt(t.qualLo));
  run.sameNumber('exitinfo2', expected.exitinfo2, t.faultGpa);
  run.sameIfGiven('level', expected.level, LEVELS[t.faultLevel]);
  sameCause(run, expected.cause);
}

function compareEptFault(run: Run, expected: MmuResult, gpa: string | undefined): void {
  const { t } = run;
  run.sameNumber('qualification', expected.qualification, t.qualLo, BigInt(expected.qual_undefined ?? 0));
  run.sameNumber('gpa', expected.gpa ?? gpa, t.faultGpa);
  const names = expected.kind.startsWith('spp') ? SPPT_LEVELS : LEVELS;
  run.sameIfGiven('level', expected.level, names[t.faultLevel]);
  sameCause(run, expected.cause);
}

function setGuest(t: Translator, v: GuestVector | Ept2dVector | Npt2dVector): void {
  const keys = 'pkru' in v ? { pkru: BigInt(v.pkru), pkrs: BigInt(v.pkrs) } : {};
  t.setGuest({ cr0: BigInt(v.cr0), cr3: BigInt(v.cr3), cr4: BigInt(v.cr4), efer: BigInt(v.efer), ...keys });
}

/** Guest paging alone. */
export function runGuest(v: GuestVector): VectorOutcome {
  const run = new Run(intelFeatures({ maxphyaddr: v.maxphyaddr, page1g: v.page_1g ?? true }));
  const { t } = run;
  const size = v.mode === '32bit' ? 4 : 8;
  pokeEntries(t, v.entries, v.entry_addrs, size);
  setGuest(t, v);
  const expected = expectedOf(v);
  const note = noteOf(v);
  if (v.mode === 'pae') {
    const status = t.loadPdptes();
    if (status !== OK) {
      run.same('kind', expected.kind, STATUS_NAMES[status]);
      return run.outcome(note);
    }
  }
  let access = accessFlags(v.access);
  if (v.cpl === 3) access |= ACC_USER;
  if (v.implicit_supervisor) access |= ACC_IMPLICIT;
  if (v.rflags_ac) access |= ACC_AC;
  const watch = new Watch(t.memory, Object.values(v.entry_addrs) as string[], size);
  const la = BigInt(v.la);
  const status = t.translate(low(la), high(la), access);
  run.same('kind', expected.kind, STATUS_NAMES[status]);
  if (expected.kind === 'ok' && status === OK) {
    run.sameNumber('pa', expected.pa, t.hpa);
    run.sameIfGiven('page_size', expected.page_size, t.pageSize);
    run.sameIfGiven('level', expected.level, LEVELS[t.pageLevel]);
  }
  if (expected.kind === 'pf' && status === PF) comparePageFault(run, expected);
  compareAdWrites(run, v, expected, v.entry_addrs, watch);
  return run.outcome(note);
}

/** One walk of EPT, with the SPPT if the line has one. */
export function runEpt(v: EptVector): VectorOutcome {
  const run = new Run(
    intelFeatures({ maxphyaddr: v.maxphyaddr, ept1g: v.page_1g ?? true, eptAdvancedExitInfo: v.adv_exit_info }),
  );
  const { t, why } = run;
  const addresses = { ...v.entry_addrs, ...v.spp_entry_addrs };
  pokeEntries(t, { ...v.entries, ...v.spp_entries }, addresses, 8);
  t.setSecondStage('ept', {
    eptp: BigInt(v.eptp),
    mbec: v.mbec,
    ve: v.ve_enabled,
    spp: v.spp_enabled === true,
    sppt: BigInt(v.sppt_root ?? 0),
  });
  t.accessSize = v.write_size ?? 1;
  t.nmiUnblockingIret = v.nmi_unblocking_iret === true;
  const access = accessFlags(v.access) | (v.user ? ACC_USER : 0);
  // The guest's own walk is not part of the line, only what came of it.
  t.r[R_RIGHTS] = (v.user ? RIGHT_U : 0) | (v.gpt_writable ? RIGHT_W : 0) | (v.gpt_nx ? RIGHT_NX : 0);
  const purpose = v.gla === null ? (v.page_walk ? S2_PDPTES : S2_NO_GLA) : v.page_walk ? S2_TABLE : S2_FINAL;
  const watch = new Watch(t.memory, Object.values(addresses) as string[], 8);
  const gpa = BigInt(v.gpa);
  why.begin(low(gpa), high(gpa), access, false);
  const status = secondStage(t.context, t.stage2, low(gpa), high(gpa), access, purpose);
  why.end(status);

  const expected = expectedOf(v);
  run.same('kind', expected.kind, STATUS_NAMES[status]);
  if (expected.kind === STATUS_NAMES[status]) {
    if (status === OK) {
      run.sameNumber('hpa', expected.hpa, t.hpa);
      run.sameIfGiven('page_size', expected.page_size, t.secondStagePageSize);
      run.sameIfGiven('memtype', expected.memtype, t.memtype);
      run.sameIfGiven('ipat', expected.ipat, t.ignorePat);
      run.sameIfGiven('level', expected.level, LEVELS[t.secondStageLevel]);
      run.same('write_allowed_by_spp', expected.write_allowed_by_spp === true, t.allowedBySpp);
    } else {
      compareEptFault(run, expected, v.gpa);
    }
  }
  compareAdWrites(run, v, expected, addresses, watch);
  return run.outcome(noteOf(v));
}

/** One nested walk of an AMD processor. */
export function runNpt(v: NptVector): VectorOutcome {
  const run = new Run(amdFeatures({ maxphyaddr: v.maxphyaddr, page1g: v.page_1g ?? true }));
  const { t, why } = run;
  const size = v.nested_mode === '32bit' ? 4 : 8;
  pokeEntries(t, v.entries, v.entry_addrs, size);
  t.setSecondStage('npt', { ncr3: BigInt(v.ncr3), hostCr4: BigInt(v.host_cr4), hostEfer: BigInt(v.host_efer) });
  const watch = new Watch(t.memory, Object.values(v.entry_addrs) as string[], size);
  const gpa = BigInt(v.gpa);
  const access = accessFlags(v.access);
  why.begin(low(gpa), high(gpa), access, false);
  const status = secondStage(t.context, t.stage2, low(gpa), high(gpa), access, v.page_walk ? S2_TABLE : S2_FINAL);
  why.end(status);
  const expected = expectedOf(v);
  run.same('kind', expected.kind, STATUS_NAMES[status]);
  if (expected.kind === STATUS_NAMES[status]) {
    if (status === OK) {
      run.sameNumber('hpa', expected.hpa, t.hpa);
      run.sameIfGiven('page_size', expected.page_size, t.secondStagePageSize);
      run.sameIfGiven('level', expected.level, LEVELS[t.secondStageLevel]);
    } else {
      compareNpf(run, expected);
    }
  }
  compareAdWrites(run, v, expected, v.entry_addrs, watch);
  return run.outcome(noteOf(v));
}

/** The guest's walk and the nested walk together. */
export function run2d(v: Ept2dVector | Npt2dVector): VectorOutcome {
  const { maxphyaddr } = v;
  const run = new Run(v.format === 'npt-2d' ? amdFeatures({ maxphyaddr }) : intelFeatures({ maxphyaddr }));
  const { t } = run;
  for (const [address, value] of Object.entries(v.memory)) poke(t.memory, address, value, 8);
  setGuest(t, v);
  if (v.format === 'npt-2d') {
    t.setSecondStage('npt', { ncr3: BigInt(v.ncr3), hostCr4: BigInt(v.host_cr4), hostEfer: BigInt(v.host_efer) });
  } else {
    t.setSecondStage('ept', { eptp: BigInt(v.eptp), mbec: v.mbec, ve: v.ve_enabled });
  }
  const watch = new Watch(t.memory, Object.keys(v.memory), 8);
  const access = accessFlags(v.access) | (v.cpl === 3 ? ACC_USER : 0);
  const la = BigInt(v.la);
  let status = v.mode === 'pae' ? t.loadPdptes() : OK;
  if (status === OK) status = t.translate(low(la), high(la), access);

  const expected = expectedOf(v);
  run.same('kind', expected.kind, STATUS_NAMES[status]);
  if (expected.kind === STATUS_NAMES[status]) {
    if (status === OK) {
      run.sameNumber('hpa', expected.hpa, t.hpa);
      run.sameIfGiven('page_size', expected.page_size, t.pageSize);
    } else if (status === PF) comparePageFault(run, expected);
    else if (v.format === 'npt-2d') compareNpf(run, expected);
    else compareEptFault(run, expected, undefined);
  }
  if (expected.writes !== undefined) {
    const wanted = new Map(Object.entries(expected.writes).map(([a, x]) => [Number(BigInt(a)), BigInt(x)]));
    run.same('writes', writesText(wanted), writesText(watch.changes()));
  }
  return run.outcome(noteOf(v));
}
