/** Whether what an `expect` claims is so, and what is so instead. */
import { ruleOf, type RuleId } from '../hw/rules';
import { auditMachine, findingText, type Finding } from '../kvm/audit';
import type { KvmEvent } from '../kvm/events';
import { INVALID_PAGE, type KvmVcpu } from '../kvm/kvm_host';
import { sppt_entry, sppt_root_of } from '../kvm/mmu/spp';
import { sppteLayout } from '../words/entries';
import { decodeWord } from '../words/word';
import type { IoctlResult, Machine, RunResult, UserExit } from '../kvm/machine';
import { controlVerdict } from './expect-control';
import { readSpte, readState, readTlb, type SpteReading } from './inspect';
import { showNumber } from './numbers';
import type { Claim, FieldTest } from './program';
import { EXCEPTIONS, PF_ERROR_FLAGS, type Flag } from './tables';

/** Outcome of one `expect`. */
export interface ExpectResult {
  readonly line: number;
  readonly ok: boolean;
  /** the statement as written */
  readonly text: string;
  /** what was found, in one line */
  readonly actual: string;
}

/** What the last action left behind for expectations. */
export interface LastAction {
  readonly run: RunResult | null;
  readonly ioctl: IoctlResult | null;
  /** frames that a `dirty_log get` reported, rising; null for anything else */
  readonly dirty: readonly number[] | null;
  /** maps that a `subpages get` reported; null for anything else */
  readonly subpages: readonly number[] | null;
  /** null: nobody asked for them */
  readonly events: readonly KvmEvent[] | null;
  /** memslot searches during it */
  readonly lookups: number;
}

/** Verdict of a claim. */
interface Verdict {
  readonly ok: boolean;
  readonly actual: string;
}

const exceptionName = (vector: number): string =>
  Object.entries(EXCEPTIONS).find(([, e]) => e.vector === vector)?.[0] ?? `exception ${vector}`;

/** `P|W` for a word with named bits; the number alone when a bit has no name. */
export function flagText(value: bigint, flags: readonly Flag[]): string {
  const names = flags.filter((f) => f.bit !== 0n && (value & f.bit) === f.bit);
  const known = names.reduce((sum, f) => sum | f.bit, 0n);
  return names.length > 0 && known === value ? names.map((f) => f.name).join('|') : showNumber(value);
}

function exceptionText(e: NonNullable<RunResult['exception']>): string {
  const error =
    e.errorCode === null
      ? ''
      : ` error ${e.vector === 14 ? flagText(BigInt(e.errorCode), PF_ERROR_FLAGS) : showNumber(e.errorCode)}`;
  return `${exceptionName(e.vector)}${error}${e.cr2 === null ? '' : ` cr2 ${showNumber(e.cr2)}`}`;
}

/** One exit to user space in the words of `expect`. */
export function exitText(e: UserExit): string {
  switch (e.reason) {
    case 'mmio':
      return e.fragments
        .map(
          (f) => `mmio ${e.write ? 'write' : 'read'} gpa ${showNumber(f.gpa)} len ${f.len} value ${showNumber(f.data)}`,
        )
        .join(' and ');
    case 'io':
      return `io ${e.write ? 'out' : 'in'} port ${showNumber(e.port)} value ${showNumber(e.data)}`;
    case 'error':
    case 'internal-error':
      return `${e.reason}: ${e.text}`;
    case 'unknown':
      return e.text;
    case 'spp':
      return `spp gpa ${showNumber(e.gpa)}`;
    default:
      return e.reason;
  }
}

/** How a run ended, in one line. */
export function runText(r: RunResult): string {
  const parts = [r.exception ? exceptionText(r.exception) : `end ${r.end}`];
  if (r.delivered) parts.unshift(`${exceptionText(r.delivered)} handled by the guest`);
  if (r.value !== null) parts.push(`value ${showNumber(r.value)}`);
  parts.push(...r.exits.map(exitText));
  if (r.text !== '' && r.exits.length === 0) parts.push(r.text);
  return parts.join(', ');
}

const matches = (wanted: bigint | string, found: unknown): boolean => {
  if (typeof wanted === 'string') return String(found) === wanted;
  if (typeof found === 'bigint') return found === wanted;
  if (typeof found === 'number') return Number.isSafeInteger(found) && BigInt(found) === wanted;
  return typeof found === 'boolean' && (found ? 1n : 0n) === wanted;
};

const fieldText = (v: unknown): string =>
  typeof v === 'bigint' || (typeof v === 'number' && v >= 0)
    ? showNumber(v)
    : typeof v === 'boolean'
      ? v
        ? '1'
        : '0'
      : String(v);

const eventField = (e: KvmEvent, name: string): unknown => (e as unknown as Record<string, unknown>)[name];

/** An event in the words of `expect event`. */
export function eventText(e: KvmEvent): string {
  const fields = Object.entries(e).filter(([k, v]) => k !== 'kind' && k !== 'why' && k !== 'vcpu' && v !== null);
  return [e.kind, ...fields.map(([k, v]) => `${k} ${fieldText(v)}`)].join(' ');
}

const plural = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`;

/** At most three of a list, for one line. */
const some = (list: readonly string[], empty: string): string =>
  list.length === 0 ? empty : `${list.slice(0, 3).join('; ')}${list.length > 3 ? `; and ${list.length - 3} more` : ''}`;

/** Checks a claim against the machine and what the last action did. */
export function evaluateClaim(claim: Claim, machine: Machine, vcpu: KvmVcpu | null, last: LastAction | null): Verdict {
  const run = last?.run ?? null;
  const nothing: Verdict = { ok: false, actual: 'no instruction ran before' };
  switch (claim.kind) {
    case 'value':
      return run
        ? {
            ok: run.value === claim.value,
            actual: run.value === null ? `no value: ${runText(run)}` : `value ${showNumber(run.value)}`,
          }
        : nothing;
    case 'exception': {
      if (!run) return nothing;
      const e = run.exception ?? run.delivered;
      const ok =
        e !== null &&
        e.vector === claim.vector &&
        (claim.error === null || e.errorCode === claim.error) &&
        (claim.cr2 === null || e.cr2 === claim.cr2);
      return { ok, actual: e ? exceptionText(e) : `no fault: ${runText(run)}` };
    }
    case 'no-fault':
      return run ? { ok: run.exception === null && run.delivered === null, actual: runText(run) } : nothing;
    case 'end':
      return run ? { ok: run.end === claim.end, actual: runText(run) } : nothing;
    case 'exits':
      return run
        ? {
            ok: run.exits.length === claim.count,
            actual: `${plural(run.exits.length, 'exit')}${run.exits.length > 0 ? `: ${some(run.exits.map(exitText), '')}` : ''}`,
          }
        : nothing;
    case 'mmio':
    case 'io':
      return run ? exits(claim, run) : nothing;
    case 'errno': {
      if (!last?.ioctl) return { ok: false, actual: 'no ioctl before' };
      const { errno, text } = last.ioctl;
      return {
        ok: errno === 0 ? claim.errno === '0' : text.startsWith(`-${claim.errno}`),
        actual: errno === 0 ? 'errno 0' : text,
      };
    }
    case 'event':
      return events(claim, last);
    case 'why':
      return why(claim.rule, last);
    case 'spte':
      return spte(claim, machine, vcpu);
    case 'memory': {
      const bytes = machine.hostRead(claim.as_id, claim.gpa, claim.size);
      if (bytes === null)
        return { ok: false, actual: `no memslot of address space ${claim.as_id} holds gpa ${showNumber(claim.gpa)}` };
      const value = bytes.reduceRight((sum, b) => (sum << 8n) | BigInt(b), 0n);
      return { ok: value === claim.value, actual: showNumber(value) };
    }
    case 'dirty': {
      const found = last?.dirty ?? null;
      if (found === null)
        return {
          ok: false,
          actual: last?.ioctl && last.ioctl.errno !== 0 ? last.ioctl.text : 'no dirty_log get before',
        };
      const ok = found.length === claim.gfns.length && found.every((g, i) => g === claim.gfns[i]);
      return { ok, actual: found.length === 0 ? 'no dirty' : `dirty ${found.map(showNumber).join(' ')}` };
    }
    case 'tlb':
      return tlb(claim, machine, vcpu);
    case 'subpages': {
      const found = last?.subpages ?? null;
      if (found === null)
        return {
          ok: false,
          actual: last?.ioctl && last.ioctl.errno !== 0 ? last.ioctl.text : 'no subpages get before',
        };
      const ok = found.length === claim.access.length && found.every((a, i) => a === claim.access[i]);
      return { ok, actual: `subpages ${found.map(showNumber).join(' ')}` };
    }
    case 'vmcb':
    case 'vmcs':
      return controlVerdict(claim, machine, vcpu);
    case 'sppte':
      return sppte(claim, machine, vcpu);
    case 'audit':
      return auditVerdict(claim.rules, auditMachine(machine));
    case 'state': {
      const r = readState(machine, vcpu, claim.name, last?.lookups ?? 0);
      return r.value === null
        ? { ok: false, actual: r.text }
        : { ok: r.value === claim.value, actual: `${claim.name} ${showNumber(r.value)}` };
    }
  }
}

function sppte(claim: Extract<Claim, { kind: 'sppte' }>, machine: Machine, vcpu: KvmVcpu | null): Verdict {
  const root = vcpu === null ? INVALID_PAGE : sppt_root_of(vcpu);
  if (root === INVALID_PAGE) return { ok: false, actual: 'the vCPU has no SPPT now (run an instruction first)' };
  const at = sppt_entry(machine, root, claim.gfn, claim.level, 'any');
  if (at === INVALID_PAGE) return { ok: false, actual: `the SPPT has no table of level ${claim.level} for this frame` };
  const raw = machine.mem.readQ(at);
  const { summary } = decodeWord(sppteLayout(claim.level), raw);
  return { ok: raw === claim.raw, actual: `level ${claim.level}: ${showNumber(raw)} (${summary})` };
}

/** Whether nothing at all, or at least these rules, do not hold. */
function auditVerdict(rules: readonly string[], findings: readonly Finding[]): Verdict {
  const found = new Set(findings.map((f) => f.rule));
  const ok = rules.length === 0 ? findings.length === 0 : rules.every((r) => found.has(r));
  return { ok, actual: findings.length === 0 ? 'audit clean' : some(findings.map(findingText), '') };
}

function exits(claim: Extract<Claim, { kind: 'mmio' | 'io' }>, run: RunResult): Verdict {
  const found = run.exits.some((e) => {
    if (e.reason !== claim.kind || (claim.write !== null && e.write !== claim.write)) return false;
    if (e.reason === 'io' && claim.kind === 'io')
      return (claim.port === null || e.port === claim.port) && (claim.value === null || e.data === claim.value);
    if (e.reason !== 'mmio' || claim.kind !== 'mmio') return false;
    return e.fragments.some(
      (f) =>
        (claim.gpa === null || f.gpa === claim.gpa) &&
        (claim.len === null || f.len === claim.len) &&
        (claim.value === null || f.data === claim.value),
    );
  });
  return {
    ok: found !== claim.absent,
    actual: some(run.exits.map(exitText), `no exit to user space: ${runText(run)}`),
  };
}

const fits = (e: KvmEvent, fields: readonly FieldTest[]): boolean =>
  fields.every((f) => matches(f.value, eventField(e, f.name)));

function events(claim: Extract<Claim, { kind: 'event' }>, last: LastAction | null): Verdict {
  const all = last?.events;
  if (!all) return { ok: false, actual: 'no statement ran before' };
  const same = all.filter((e) => e.kind === claim.event);
  const count = same.filter((e) => fits(e, claim.fields)).length;
  const ok = claim.times === null ? count > 0 : count === claim.times;
  const kinds = [...new Set(all.map((e) => e.kind))];
  const actual =
    same.length > 0
      ? `${plural(same.length, 'such event')}${claim.fields.length > 0 ? `, ${count} with these fields` : ''}: ${some(same.map(eventText), '')}`
      : `no ${claim.event}; ${kinds.length === 0 ? 'no events' : `events: ${kinds.join(', ')}`}`;
  return { ok, actual };
}

/** The rules that ended walks of the last action. */
function why(rule: RuleId, last: LastAction | null): Verdict {
  const all = last?.events;
  if (!all) return { ok: false, actual: 'no statement ran before' };
  const rules = all.flatMap((e) => ('why' in e && e.why?.verdict.rule ? [e.why.verdict.rule] : []));
  const text = (id: RuleId): string => `${id} (${ruleOf(id).sentence.replace(/\.$/, '')})`;
  return { ok: rules.includes(rule), actual: some([...new Set(rules)].map(text), 'no walk was refused') };
}

function tlb(claim: Extract<Claim, { kind: 'tlb' }>, machine: Machine, vcpu: KvmVcpu | null): Verdict {
  if (vcpu === null) return { ok: false, actual: 'there is no vCPU yet' };
  const found = readTlb(machine, vcpu, claim.address);
  const actual = some(
    found.map((e) => {
      const { freshness } = e;
      const why = freshness.state === 'fresh' ? 'fresh' : `${freshness.state} (${freshness.why})`;
      const to = e.context.stage2 === '' ? `hpa ${showNumber(e.target)}` : `gpa ${showNumber(e.gpa)}`;
      return `tlb ${showNumber(e.address)} -> ${to} ${why}`;
    }),
    `no tlb ${showNumber(claim.address)}`,
  );
  if (claim.state === 'absent') return { ok: found.length === 0, actual };
  const states = found.map((e) => e.freshness.state);
  return {
    ok: claim.state === 'stale' ? states.includes('stale') : states.length > 0 && states.every((s) => s === 'fresh'),
    actual,
  };
}

const KIND_NAMES: Readonly<Record<string, string>> = { zero: 'none', nonpresent: 'none', nonleaf: 'table' };

function spte(claim: Extract<Claim, { kind: 'spte' }>, machine: Machine, vcpu: KvmVcpu | null): Verdict {
  if (vcpu === null) return { ok: false, actual: 'there is no vCPU yet' };
  const r = readSpte(machine, vcpu, claim.space, claim.address, claim.level);
  if (typeof r === 'string') return { ok: false, actual: r };
  const kind = KIND_NAMES[r.decoded.kind] ?? r.decoded.kind;
  const actual = `level ${r.level}: ${showNumber(r.raw)} (${r.decoded.summary})`;
  if (claim.raw !== null && r.raw !== claim.raw) return { ok: false, actual };
  if (claim.is !== null && claim.is !== kind && !(claim.is === 'present' && (kind === 'leaf' || kind === 'table')))
    return { ok: false, actual };
  for (const f of claim.fields) {
    const found = spteField(r, f.name);
    if (found === undefined) {
      const names = r.decoded.word?.layout.fields.map((x) => x.name).join(', ') ?? 'none';
      return { ok: false, actual: `${actual}; this entry has no field '${f.name}', its fields are ${names}` };
    }
    if (!matches(f.value, found)) return { ok: false, actual: `${actual}; ${f.name} is ${fieldText(found)}` };
  }
  return { ok: true, actual };
}

function spteField(r: SpteReading, name: string): unknown {
  const d = r.decoded;
  switch (name) {
    case 'gen':
      return d.generation ?? undefined;
    case 'gfn':
      return d.gfn ?? undefined;
    case 'access':
      return d.access ?? undefined;
    case 'pfn':
      return d.pfn ?? undefined;
    case 'level':
      return r.level;
    default:
      return d.word?.fields.find((f) => f.field.name === name)?.value;
  }
}
