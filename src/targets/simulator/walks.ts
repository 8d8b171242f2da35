/** Translating an address on request, with the record of every read and check, and without changing anything. */
import { ACC_AC, ACC_DRY, ACC_FETCH, ACC_READ, ACC_USER, ACC_WRITE } from '../../hw/access';
import { WhyRecorder } from '../../hw/why-recorder';
import type { WalkStep, WhyRecord } from '../../hw/why';
import { INVALID_PAGE, type KvmVcpu } from '../../kvm/kvm_host';
import type { Machine } from '../../kvm/machine';
import { ENTRY_NAMES } from '../../words/entries';
import { EPT_QUALIFICATION, NPF_EXITINFO1, PF_ERROR_CODE, SPP_QUALIFICATION } from '../../words/errors';
import { decodeWord, type Decoded, type WordLayout } from '../../words/word';
import type { Lexicon } from '../lexicon';
import { TargetError, type WalkRequest } from '../target';
import { undisturbed } from './guest-memory';
import { pagingMode } from './tables';

/** @throws TargetError where there is nothing to walk: no vCPU, no root, an address that is none */
export function walk(m: Machine, request: WalkRequest): WhyRecord {
  const vcpu = m.vcpus[request.vcpu];
  if (!vcpu) throw new TargetError(`there is no vCPU ${request.vcpu} yet`);
  if (vcpu.mmu.root.hpa === INVALID_PAGE) {
    throw new TargetError(
      `vCPU ${request.vcpu} has no root to walk from: KVM makes one at the next entry (kvm_mmu_load)`,
    );
  }
  if (request.from === 'gpa' && !m.tdpEnabled) {
    throw new TargetError('with shadow paging the processor has no second stage: walk a gva');
  }
  if (request.from === 'gpa' && request.address >> 52n) {
    throw new TargetError(`0x${request.address.toString(16)} is not a guest-physical address: those have 52 bits`);
  }
  return undisturbed(vcpu, () => {
    const t = vcpu.translator;
    const recorder = new WhyRecorder(t);
    t.recorder = recorder;
    const access = accessOf(request, vcpu) | ACC_DRY;
    const { address } = request;
    if (request.from === 'gpa') t.translateGpa(Number(address), access);
    else t.translate(Number(BigInt.asIntN(32, address)), Number(BigInt.asIntN(32, address >> 32n)), access);
    return recorder.record;
  });
}

function accessOf({ write, fetch, user }: WalkRequest, vcpu: KvmVcpu): number {
  const type = fetch ? ACC_FETCH : write ? ACC_WRITE : ACC_READ;
  const ac = (vcpu.regs.rflags >> 18n) & 1n ? ACC_AC : 0;
  return type | ((user ?? vcpu.regs.cpl === 3) ? ACC_USER : 0) | ac;
}

const TABLE_PREFIX: Readonly<Record<WalkStep['table'], string>> = {
  guest: '',
  ept: 'EPT ',
  npt: 'NPT ',
  sppt: 'SPPT ',
  shadow: 'shadow ',
};

export function describeStep(
  m: Machine,
  vcpu: KvmVcpu,
  lexicon: Lexicon,
  step: WalkStep,
): { levelName: string; summary: string } {
  const levelName = `${TABLE_PREFIX[step.table]}${ENTRY_NAMES[step.level] ?? `level ${step.level}`}`;
  if (step.table === 'sppt') return { levelName, summary: '' };
  const ours = step.table !== 'guest' || !m.tdpEnabled;
  const mode = pagingMode(vcpu);
  if (ours) return { levelName, summary: lexicon.decodeSpte(step.raw, step.level).summary };
  if (!mode || (step.raw & 1n) === 0n) return { levelName, summary: 'not present' };
  const nx = ((vcpu.regs.efer >> 11n) & 1n) === 1n;
  try {
    return { levelName, summary: lexicon.decodeGpte(mode, step.level, step.raw, nx).summary };
  } catch {
    // A record of an earlier mode: its entries do not fit the tables of now.
    return { levelName, summary: '' };
  }
}

/** The code that each kind of verdict delivers. */
const CODES: Readonly<Partial<Record<WhyRecord['verdict']['kind'], readonly [name: string, layout: WordLayout]>>> = {
  pf: ['error code', PF_ERROR_CODE],
  ept_violation: ['exit qualification', EPT_QUALIFICATION],
  ve: ['exit qualification', EPT_QUALIFICATION],
  npf: ['EXITINFO1', NPF_EXITINFO1],
  spp_miss: ['exit qualification', SPP_QUALIFICATION],
  spp_misconfig: ['exit qualification', SPP_QUALIFICATION],
};

export function verdictCodes(why: WhyRecord): { name: string; decoded: Decoded }[] {
  const code = CODES[why.verdict.kind];
  const value = why.verdict.errorCode === undefined ? why.verdict.qualification : BigInt(why.verdict.errorCode);
  return code && value !== undefined ? [{ name: code[0], decoded: decodeWord(code[1], value) }] : [];
}
