/**
 * arch/x86/kvm/mmu/tdp_mmu.c: a huge page becomes a table of small ones, ahead of a fault or at one.
 * Facts: reference kvm-mmu-model.md chapter 15.
 */
import { emit, enter, leave } from '../observer';
import type { Kvm, KvmMmuPage } from '../kvm_host';
import { role_get, role_put } from '../roles';
import { sptep_to_sp } from './pages';
import { tdp_mmu_init_sp_of, tdp_mmu_set_spte } from './tdp_mmu_ops';

/** tdp_mmu_split_huge_page(): a table of smaller pages with the same rights takes the place of a huge page. */
export function tdp_mmu_split_huge_page(
  kvm: Kvm,
  root: KvmMmuPage,
  sptep: number,
  gfn: number,
  level: number,
  lo: number,
  hi: number,
  vcpu: number,
): KvmMmuPage {
  const m = kvm.machine;
  const R = m.roles;
  enter(m, 'tdp_mmu_split_huge_page', vcpu, root);
  const parent = sptep_to_sp(kvm, sptep) ?? root;
  const sp = tdp_mmu_init_sp_of(kvm, gfn, role_put(parent.role, R.level, level - 1), sptep, vcpu);
  kvm.tdp_mmu_pages++;
  const pages = 512 ** (level - 2);
  const first = m.spte.pfn(lo, hi);
  for (let i = 0; i < 512; i++) {
    const pfn = first + i * pages;
    let childLo = ((lo & 0xfff) | (pfn << 12)) >>> 0;
    let childHi = ((hi & 0xfff00000) | Math.floor(pfn / 0x100000)) >>> 0;
    if (level === 2) {
      childLo = (childLo & ~0x80) >>> 0;
      if (m.config.nx_huge_pages && R.getAccess(sp.role, false) & 1) {
        const { x, nx } = m.spte.masks;
        childLo = ((childLo & ~nx.lo) | x.lo) >>> 0;
        childHi = ((childHi & ~nx.hi) | x.hi) >>> 0;
      }
    }
    m.mem.writeQ(sp.spt * 4096 + i * 8, childLo, childHi);
  }
  m.spte.make_nonleaf_spte(sp.spt, role_get(sp.role, R.ad_disabled) === 1);
  tdp_mmu_set_spte(kvm, root, sptep, gfn, level, m.spte.lo, m.spte.hi, true, vcpu);
  emit(m, (o) =>
    o.event({
      kind: 'kvm_mmu_split_huge_page',
      vcpu,
      gfn: BigInt(gfn),
      spte: (BigInt(hi) << 32n) | BigInt(lo),
      level,
      errno: 0,
    }),
  );
  leave(m);
  return sp;
}
