/**
 * The results of the last translation, as a {@link Translator} shows them. Its hot callers read the words of `r` instead.
 */
import {
  R_ERROR, R_FAULT_GPA_HI, R_FAULT_GPA_LO, R_FAULT_LEVEL, R_GPA_HI, R_GPA_LO, R_GVA_HI, R_GVA_LO, R_HPA_HI, R_HPA_LO, R_IPAT,
  R_LEVEL, R_MEMTYPE, R_PAGE_SHIFT, R_QUAL_HI, R_QUAL_LO, R_RIGHTS, R_RULE, R_S2_LEVEL, R_S2_SHIFT, R_SPP_ALLOWED, R_TABLE_WALK,
} from './access'; // prettier-ignore
import { RULES, type RuleId } from './rules';
import { T_IPAT, T_LEVEL, T_MEMTYPE, T_RIGHTS, T_S2_LEVEL, T_S2_SHIFT, T_SHIFT, type TlbBank } from './tlb-bank';

const number52 = (lo: number, hi: number): number => (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);

/** Results of a translation. */
export abstract class TranslationResults {
  /** The result words (R_* of access.ts), for callers that cannot afford a getter. */
  abstract readonly r: Int32Array;
  /** The TLB entry that served the last translation; null if it walked. */
  protected hitBank: TlbBank | null = null;
  protected hitOffset = 0;

  /** A result word: after a TLB hit it is in the entry. */
  private word(inResult: number, inEntry: number): number {
    return this.hitBank === null ? this.r[inResult] : this.hitBank.data[this.hitOffset + inEntry];
  }

  /** Whether the last translation came from the TLB. */
  get fromTlb(): boolean {
    return this.hitBank !== null;
  }

  /** Effective guest rights of the page (RIGHT_*), all levels combined. */
  get rights(): number {
    return this.word(R_RIGHTS, T_RIGHTS);
  }

  /** Host-physical address, after OK. */
  get hpa(): number {
    return number52(this.r[R_HPA_LO], this.r[R_HPA_HI]);
  }

  /** Guest-physical address that the linear address leads to, if the guest's own walk succeeded. */
  get gpa(): number {
    return number52(this.r[R_GPA_LO], this.r[R_GPA_HI]);
  }

  /** Level of the guest entry that maps the page (1 … 3), 0 with paging off. */
  get pageLevel(): number {
    return this.word(R_LEVEL, T_LEVEL);
  }

  /** Size of the guest's page in bytes. */
  get pageSize(): number {
    return 2 ** this.word(R_PAGE_SHIFT, T_SHIFT);
  }

  /** Level of the second stage's entry that maps the page, 0 without second stage. */
  get secondStageLevel(): number {
    return this.word(R_S2_LEVEL, T_S2_LEVEL);
  }

  /** Size in bytes of the second stage's page. */
  get secondStagePageSize(): number {
    return 2 ** this.word(R_S2_SHIFT, T_S2_SHIFT);
  }

  /** EPT memory type, -1 without EPT. */
  get memtype(): number {
    return this.word(R_MEMTYPE, T_MEMTYPE);
  }

  /** EPT ignore-PAT bit. */
  get ignorePat(): boolean {
    return this.word(R_IPAT, T_IPAT) !== 0;
  }

  /** #PF error code, after PF. */
  get errorCode(): number {
    return this.r[R_ERROR];
  }

  /** Exit qualification (EPT, SPP) or EXITINFO1 (NPT), low 32 bits. */
  get qualLo(): number {
    return this.r[R_QUAL_LO] >>> 0;
  }

  get qualHi(): number {
    return this.r[R_QUAL_HI] >>> 0;
  }

  /** Guest-physical address of a second-stage fault (the VMCS field, EXITINFO2). */
  get faultGpa(): number {
    return number52(this.r[R_FAULT_GPA_LO], this.r[R_FAULT_GPA_HI]);
  }

  /** Linear address of the last translation that failed, which CR2 and the guest-linear-address field get. */
  get faultGvaLo(): number {
    return this.r[R_GVA_LO] >>> 0;
  }

  get faultGvaHi(): number {
    return this.r[R_GVA_HI] >>> 0;
  }

  /** Whether the second-stage fault hit an access to a guest paging-structure entry. */
  get faultIsTableWalk(): boolean {
    return this.r[R_TABLE_WALK] !== 0;
  }

  /** Level of the entry at which the last walk failed. */
  get faultLevel(): number {
    return this.r[R_FAULT_LEVEL];
  }

  /** The rule that the last walk broke, null if none. */
  get failedRule(): RuleId | null {
    const n = this.r[R_RULE];
    return n === 0 ? null : (RULES[n].id as RuleId);
  }

  /** Whether the last write went through only by a sub-page permission. */
  get allowedBySpp(): boolean {
    return this.r[R_SPP_ALLOWED] !== 0;
  }
}
