/**
 * Builds a why-record from what a walk tells. Attach one as `translator.recorder`, translate, take `record`.
 */
import {
  ACC_FETCH, ACC_IMPLICIT, ACC_SHSTK, ACC_TYPE, ACC_USER, ACC_WRITE, OK, PF, NPF,
  PML_FULL, EPT_VIOLATION, VE, SPP_MISS, SPP_MISCONFIG,
  EPT_MISCONFIG, NON_CANONICAL, GP_PDPTE, STATUS_NAMES,
} from './access'; // prettier-ignore
import { RULES, type RuleId } from './rules';
import type { TlbKind } from './tlb';
import type { Translator } from './translate';
import {
  join64,
  type WalkCheck,
  type WalkRecorder,
  type WalkStep,
  type WalkTable,
  type WalkVerdict,
  type WhyRecord,
} from './why';

const hex = (v: bigint | number) => `0x${v.toString(16)}`;

/** `user write`, `supervisor shadow stack read` … for ACC_* flags. */
export function accessText(access: number): string {
  const type = access & ACC_TYPE;
  const words: string[] = [];
  if ((access & ACC_IMPLICIT) !== 0) words.push('implicit supervisor');
  else words.push((access & ACC_USER) !== 0 ? 'user' : 'supervisor');
  if ((access & ACC_SHSTK) !== 0) words.push('shadow-stack');
  words.push(type === ACC_WRITE ? 'write' : type === ACC_FETCH ? 'fetch' : 'read');
  return words.join(' ');
}

/** A recorder that keeps the last translation as a {@link WhyRecord}. */
export class WhyRecorder implements WalkRecorder {
  record: WhyRecord = { access: { text: '' }, steps: [], cached: [], checked: [], verdict: { kind: 'ok', text: '' } };

  constructor(private readonly translator: Translator) {}

  begin(lo: number, hi: number, access: number, gvaValid: boolean): void {
    const address = join64(lo, hi);
    this.record = {
      access: { text: accessText(access), ...(gvaValid ? { gva: address } : { gpa: address }) },
      steps: [],
      cached: [],
      checked: [],
      verdict: { kind: 'ok', text: 'not finished' },
    };
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
    const step: WalkStep = {
      table,
      level,
      entryAddress: join64(addressLo, addressHi),
      space: table === 'guest' ? 'gpa' : 'hpa',
      hostAddress: join64(hostLo, hostHi),
      index,
      raw: join64(rawLo, rawHi),
      size,
      checked: [],
    };
    if (table !== 'guest') step.forLevel = forLevel;
    this.record.steps.push(step);
  }

  cached(kind: TlbKind, level: number, lo: number, hi: number, targetLo: number, targetHi: number): void {
    this.record.cached.push({ kind, level, address: join64(lo, hi), target: join64(targetLo, targetHi) });
  }

  checked(rule: number, ok: boolean, by: string): void {
    this.record.steps.at(-1)?.checked.push(check(rule, ok, by));
  }

  decided(rule: number, ok: boolean, by: string): void {
    this.record.checked.push(check(rule, ok, by));
  }

  wrote(hostLo: number, hostHi: number, rawLo: number, rawHi: number): void {
    const address = join64(hostLo, hostHi);
    const step = this.record.steps.findLast((s) => s.hostAddress === address);
    if (step !== undefined) step.written = step.size === 8 ? join64(rawLo, rawHi) : join64(rawLo, 0);
  }

  end(status: number): void {
    this.record.verdict = verdictOf(this.translator, status);
  }
}

function check(rule: number, ok: boolean, by: string): WalkCheck {
  const id = RULES[rule].id as RuleId;
  return by === '' ? { rule: id, ok } : { rule: id, ok, by };
}

const PF_BITS = ['P', 'W', 'U', 'RSVD', 'I', 'PK', 'SS'];

/** Names of the bits that are set in a #PF error code, `P|W|U`; `0` if none. */
export function errorCodeText(error: number): string {
  const names = PF_BITS.filter((_, i) => (error & (1 << i)) !== 0);
  return names.length === 0 ? '0' : names.join('|');
}

/** The verdict of the translation that `t` has just made. */
export function verdictOf(t: Translator, status: number): WalkVerdict {
  const kind = STATUS_NAMES[status];
  const rule = status === OK ? null : t.failedRule;
  const why = rule === null ? '' : `: ${rule} failed`;
  const qualification = (BigInt(t.qualHi) << 32n) | BigInt(t.qualLo);
  const at = `gpa ${hex(t.faultGpa)}`;
  const base = { kind, ...(rule === null ? {} : { rule }) };
  const fault = { ...base, qualification, gpa: BigInt(t.faultGpa) };
  switch (status) {
    case OK:
      return { ...base, hpa: BigInt(t.hpa), gpa: BigInt(t.gpa), text: `translated to hpa ${hex(t.hpa)}` };
    case PF:
      return { ...base, errorCode: t.errorCode, text: `#PF, error code ${hex(t.errorCode)} (${errorCodeText(t.errorCode)})${why}` }; // prettier-ignore
    case EPT_VIOLATION:
      return { ...fault, text: `EPT violation at ${at}, qualification ${hex(qualification)}${why}` };
    case VE:
      return { ...fault, text: `#VE (EPT violation) at ${at}, qualification ${hex(qualification)}${why}` };
    case EPT_MISCONFIG:
      return { ...base, gpa: BigInt(t.faultGpa), text: `EPT misconfiguration at ${at}${why}` };
    case NPF:
      return { ...fault, text: `nested page fault at ${at}, EXITINFO1 ${hex(qualification)}${why}` };
    case SPP_MISS:
      return { ...fault, text: `SPP miss at ${at}, qualification ${hex(qualification)}${why}` };
    case SPP_MISCONFIG:
      return { ...fault, text: `SPP misconfiguration at ${at}, qualification ${hex(qualification)}${why}` };
    case PML_FULL:
      return { ...base, gpa: BigInt(t.faultGpa), text: `page-modification log full at ${at}${why}` };
    case NON_CANONICAL:
      return { ...base, text: `#GP(0), or #SS(0) for a stack access${why}` };
    case GP_PDPTE:
      return { ...base, text: `#GP(0) from loading the PDPTEs${why}` };
    default:
      throw new RangeError(`${status} is no translation status`);
  }
}
