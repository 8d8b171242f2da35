/**
 * What the audit looks at: the structures of one VM at one moment, gathered once, and how a rule reports what it finds.
 */
import {
  INVALID_PAGE,
  RsvdBitsValidate,
  type KvmMemorySlot,
  type KvmMmu,
  type KvmMmuPage,
  type KvmVcpu,
} from './kvm_host';
import type { Machine } from './machine';
import { __reset_rsvds_bits_mask, __reset_rsvds_bits_mask_ept, rsvd_bits } from './mmu/metadata';
import { is_obsolete_sp, kvm_mmu_page_get_gfn } from './mmu/pages';
import { role_get } from './roles';
import { peek_role } from './smram';

/** Where a finding is. */
export interface FindingPlace {
  /** the shadow page (of the hash-table MMU, the TDP MMU or an SPPT) */
  readonly page?: KvmMmuPage;
  /** index of the entry in it */
  readonly index?: number;
  /** address of the entry; follows from page and index */
  readonly sptep?: number;
  /** guest frame that the entry maps, or that the finding is about */
  readonly gfn?: number;
  readonly vcpu?: number;
}

/** Reports a violation of the rule being checked. */
export type Report = (place: FindingPlace, why: string) => void;

/** One entry of a shadow page that is not zero, or not what an empty entry is. */
export interface AuditEntry {
  readonly sp: KvmMmuPage;
  readonly level: number;
  readonly index: number;
  readonly sptep: number;
  readonly lo: number;
  readonly hi: number;
  readonly present: boolean;
  readonly leaf: boolean;
  readonly mmio: boolean;
  /** frame that a leaf or MMIO entry maps; of a table entry the first frame below it where that is known, else -1 */
  readonly gfn: number;
}

const hexOf = (n: number | bigint): string => `0x${n.toString(16)}`;
export { hexOf as hex };

/** Everything that rules ask for. Reads only: no look-up is counted, no slot remembered. */
export class AuditContext {
  /** pages of the two MMUs with SPTEs, without SPPT pages */
  readonly pages: readonly KvmMmuPage[];
  /** SPPT pages */
  readonly sppPages: readonly KvmMmuPage[];
  /** entries of {@link pages} that are in use */
  readonly entries: readonly AuditEntry[];
  /** leaves of memory among them */
  readonly leaves: readonly AuditEntry[];
  /** entries among them that point to a table */
  readonly tables: readonly AuditEntry[];
  /** table entries by the frame that they point to */
  readonly parents = new Map<number, AuditEntry[]>();
  private readonly validators = new Map<string, RsvdBitsValidate>();

  constructor(
    readonly m: Machine,
    /** right after kvm_mmu_sync_roots() of this vCPU */
    readonly synced: KvmVcpu | null = null,
  ) {
    const all = [...m.kvm.sp_by_pfn.values()];
    const isSpp = (sp: KvmMmuPage): boolean => role_get(sp.role, m.roles.spp) === 1;
    this.pages = all.filter((sp) => !isSpp(sp));
    this.sppPages = all.filter(isSpp);
    const entries: AuditEntry[] = [];
    for (const sp of this.pages) this.read(sp, entries);
    this.entries = entries;
    this.leaves = entries.filter((e) => e.leaf);
    this.tables = entries.filter((e) => e.present && !e.leaf);
    for (const e of this.tables) {
      const pfn = m.spte.pfn(e.lo, e.hi);
      const list = this.parents.get(pfn);
      if (list) list.push(e);
      else this.parents.set(pfn, [e]);
    }
  }

  private read(sp: KvmMmuPage, out: AuditEntry[]): void {
    const { m } = this;
    const level = role_get(sp.role, m.roles.level);
    const words = m.mem.peek(sp.spt);
    if (words === undefined) return;
    for (let index = 0; index < 512; index++) {
      const lo = words[2 * index];
      const hi = words[2 * index + 1];
      if ((lo === 0 && hi === 0) || m.spte.isNonpresent(lo, hi) || m.spte.isRemoved(lo, hi)) continue;
      const sptep = sp.spt * 4096 + index * 8;
      const present = m.spte.isPresent(lo, hi);
      // A large entry above 1G cannot be: it counts as a table with a reserved bit.
      const leaf = present && level <= 3 && m.spte.isLast(lo, level);
      const mmio = !present && m.spte.isMmio(lo, hi);
      // An indirect page remembers what its leaves map; its MMIO entries say it themselves.
      const gfn = sp.gfns === null || leaf ? kvm_mmu_page_get_gfn(m, sp, index) : mmio ? m.spte.mmioGfn(lo, hi) : -1;
      out.push({ sp, level, index, sptep, lo, hi, present, leaf, mmio, gfn });
    }
  }

  level(sp: KvmMmuPage): number {
    return role_get(sp.role, this.m.roles.level);
  }

  direct(sp: KvmMmuPage): boolean {
    return role_get(sp.role, this.m.roles.direct) === 1;
  }

  invalid(sp: KvmMmuPage): boolean {
    return role_get(sp.role, this.m.roles.invalid) === 1;
  }

  obsolete(sp: KvmMmuPage): boolean {
    return is_obsolete_sp(this.m.kvm, sp);
  }

  /** The slot of a frame as the pages of that role see it. */
  slotOf(sp: KvmMmuPage, gfn: number): KvmMemorySlot | null {
    return peek_role(this.m, sp.role, gfn);
  }

  /** The contexts that can have a root. */
  *mmus(): Generator<[KvmVcpu, KvmMmu]> {
    for (const vcpu of this.m.vcpus) {
      yield [vcpu, vcpu.root_mmu];
      yield [vcpu, vcpu.guest_mmu];
    }
  }

  /** References that vCPUs hold on root pages, by frame: current and cached roots, and the four behind a pae_root. */
  rootReferences(): Map<number, number> {
    const { m } = this;
    const refs = new Map<number, number>();
    const add = (hpa: number): void => {
      if (hpa !== INVALID_PAGE) refs.set(hpa / 4096, (refs.get(hpa / 4096) ?? 0) + 1);
    };
    for (const [, mmu] of this.mmus()) {
      add(mmu.root.hpa);
      for (const r of mmu.prev_roots) add(r.hpa);
      add(mmu.sppt_root);
      if (mmu.root.hpa === INVALID_PAGE || m.kvm.sp_by_pfn.has(mmu.root.hpa / 4096) || mmu.pae_root === INVALID_PAGE)
        continue;
      for (let i = 0; i < 4; i++) {
        const lo = m.mem.readLo(mmu.pae_root * 4096 + i * 8);
        const hi = m.mem.readHi(mmu.pae_root * 4096 + i * 8);
        if (lo & 1) add(((hi & 0xfffff) * 0x100000 + (lo >>> 12)) * 4096);
      }
    }
    if (m.kvm.sppt_root !== INVALID_PAGE) add(m.kvm.sppt_root);
    return refs;
  }

  /** Bits that the processor reserves in the entries of a page. Software bits are free. */
  reservedBits(sp: KvmMmuPage): RsvdBitsValidate {
    const { m } = this;
    const ept = m.config.paging === 'ept';
    const shadowEpt = ept && role_get(sp.role, m.roles.guest_mode) === 1 && !sp.tdp_mmu_page;
    const key = `${ept}${shadowEpt}`;
    let r = this.validators.get(key);
    if (r) return r;
    r = new RsvdBitsValidate();
    const pa_bits_rsvd = rsvd_bits(m.config.maxphyaddr, 51);
    if (ept) __reset_rsvds_bits_mask_ept(r, pa_bits_rsvd, shadowEpt, m.maxHugePageLevel);
    else {
      // Five levels cover the masks of all others; KVM never sets bit 8 of upper entries, which AMD reserves.
      const gbpages = m.hostFeatures.has('pdpe1gb');
      __reset_rsvds_bits_mask(r, { level: 5, pa_bits_rsvd, nx: true, gbpages, pse: true, amd: true });
    }
    this.validators.set(key, r);
    return r;
  }
}
