/**
 * The audit: invariants of KVM's MMU, checked on any state. Older kernels had such a check, mmu_audit.c; its five rules are
 * A1 to A5 here, the others are what the code relies on or what its WARNs and BUGs test. docs/audit.md is made from the rules.
 *
 * An audit reads only: it counts no look-up, remembers no slot and populates no page.
 */
import { AuditContext, hex, type FindingPlace } from './audit-context';
import { PAGE_RULES } from './audit-pages';
import { SPP_RULES } from './audit-spp';
import { SPTE_RULES } from './audit-sptes';
import type { KvmMmuPage, KvmVcpu } from './kvm_host';
import type { Machine } from './machine';
import { role_get } from './roles';

/** One invariant. */
export interface AuditRule {
  readonly id: string;
  /** What must hold. */
  readonly sentence: string;
  /** Functions of the kernel that rely on it or check it. */
  readonly reference: string;
  check(c: AuditContext, report: (place: FindingPlace, why: string) => void): void;
}

/** All rules: those of mmu_audit.c first. */
export const AUDIT_RULES: readonly AuditRule[] = [...SPTE_RULES, ...PAGE_RULES, ...SPP_RULES];

/** A rule that does not hold, and where. Plain data: it outlives the state that was audited. */
export interface Finding {
  readonly rule: string;
  /** what does not hold, in a sentence with the numbers */
  readonly why: string;
  /** the shadow page: gfn, role word, level and frame; null when no page is to blame */
  readonly page: { readonly gfn: number; readonly role: number; readonly level: number; readonly pfn: number } | null;
  readonly index: number | null;
  /** address of the entry */
  readonly sptep: number | null;
  readonly spte: bigint | null;
  /** guest frame */
  readonly gfn: number | null;
  readonly vcpu: number | null;
}

/** The rule with this id. @throws RangeError if there is none */
export function auditRule(id: string): AuditRule {
  const rule = AUDIT_RULES.find((r) => r.id === id);
  if (!rule) throw new RangeError(`there is no audit rule ${id}: see docs/audit.md`);
  return rule;
}

/**
 * Checks all rules, or those named.
 * @param options `synced`: the vCPU whose roots were synced just now, for A4
 * @returns what does not hold, by rule in the order of {@link AUDIT_RULES}; empty: clean
 */
export function auditMachine(
  m: Machine,
  options: { readonly rules?: readonly string[]; readonly synced?: KvmVcpu | null } = {},
): Finding[] {
  const c = new AuditContext(m, options.synced ?? null);
  const findings: Finding[] = [];
  for (const rule of AUDIT_RULES) {
    if (options.rules && !options.rules.includes(rule.id)) continue;
    rule.check(c, (place, why) => findings.push(finding(m, rule.id, place, why)));
  }
  return findings;
}

function finding(m: Machine, rule: string, place: FindingPlace, why: string): Finding {
  const { page, vcpu = null, gfn = null } = place;
  const sptep =
    place.sptep ?? (page !== undefined && place.index !== undefined ? page.spt * 4096 + place.index * 8 : null);
  return {
    rule,
    why,
    page: page ? describePage(m, page) : null,
    index: sptep === null ? null : (sptep % 4096) / 8,
    sptep,
    spte: sptep === null ? null : m.mem.readQ(sptep),
    gfn,
    vcpu,
  };
}

const describePage = (m: Machine, sp: KvmMmuPage): NonNullable<Finding['page']> => ({
  gfn: sp.gfn,
  role: sp.role,
  level: role_get(sp.role, m.roles.level),
  pfn: sp.spt,
});

/** The way to a finding: `page of gfn 0x200, level 1, role 0x3781, entry 9 = 0x…`. Empty when it is about the VM as a whole. */
export function findingPath(f: Finding): string {
  const parts: string[] = [];
  if (f.vcpu !== null) parts.push(`vCPU ${f.vcpu}`);
  if (f.page) parts.push(`page of gfn ${hex(f.page.gfn)}`, `level ${f.page.level}`, `role ${hex(f.page.role)}`);
  else if (f.gfn !== null) parts.push(`gfn ${hex(f.gfn)}`);
  if (f.index !== null) parts.push(`entry ${f.index} = ${hex(f.spte ?? 0n)}`);
  return parts.join(', ');
}

/** One line: rule, path, reason. */
export function findingText(f: Finding): string {
  const path = findingPath(f);
  return `${f.rule}: ${path ? `${path}: ` : ''}${f.why}`;
}
