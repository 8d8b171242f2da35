/**
 * Roots of indirect MMUs: mmu_alloc_shadow_roots() and mmu_alloc_special_roots(). Facts: reference kvm-mmu-model.md 6.2.
 */
import { enter, leave } from '../observer';
import { INVALID_PAGE, type KvmVcpu } from '../kvm_host';
import { kvm_vcpu_is_visible_gfn } from '../kvm_main';
import { role_get } from '../roles';
import { kvm_make_request } from '../x86_requests';
import { make_mmu_pages_available } from './pages';
import { mmu_alloc_root } from './roots';

const PM_BITS = 0x1 | 0x20 | 0x2 | 0x4;

/** The guest's root as the context defines it: CR3, EPTP or nCR3. */
export function get_guest_pgd(vcpu: KvmVcpu): bigint {
  return vcpu.mmu.get_guest_pgd === 'get_guest_cr3' ? vcpu.regs.cr3 : vcpu.kvm.machine.nestedPgd(vcpu);
}

/** mmu_alloc_special_roots(): tables above the four PAE roots when the host walks more levels than the guest has. */
export function mmu_alloc_special_roots(vcpu: KvmVcpu): void {
  const m = vcpu.kvm.machine;
  const mmu = vcpu.mmu;
  const R = m.roles;
  const level = role_get(mmu.root_role, R.level);
  const guest = role_get(mmu.cpu_role_base, R.level);
  if (level === 3) {
    if (mmu.pae_root === INVALID_PAGE) mmu.pae_root = m.host.allocPage();
    return;
  }
  if (role_get(mmu.root_role, R.direct) || guest >= 4 || level < 4) return;
  enter(m, 'mmu_alloc_special_roots', vcpu.vcpu_id, mmu);
  if (mmu.pae_root === INVALID_PAGE) mmu.pae_root = m.host.allocPage();
  if (mmu.pml4_root === INVALID_PAGE) mmu.pml4_root = m.host.allocPage();
  if (level > 4 && mmu.pml5_root === INVALID_PAGE) mmu.pml5_root = m.host.allocPage();
  leave(m);
}

/** mmu_alloc_shadow_roots(). @returns false when the vCPU cannot go on: root outside memslots (triple fault) or no pages */
export function mmu_alloc_shadow_roots(vcpu: KvmVcpu): boolean {
  const m = vcpu.kvm.machine;
  const mmu = vcpu.mmu;
  const R = m.roles;
  enter(m, 'mmu_alloc_shadow_roots', vcpu.vcpu_id, mmu);
  const ok = alloc();
  leave(m);
  return ok;

  function alloc(): boolean {
    const pgd = get_guest_pgd(vcpu);
    const root_gfn = Number((pgd & 0xffffffffff000n) >> 12n);
    if (!kvm_vcpu_is_visible_gfn(vcpu, root_gfn)) {
      kvm_make_request('TRIPLE_FAULT', vcpu);
      return false;
    }
    const guest = role_get(mmu.cpu_role_base, R.level);
    const level = role_get(mmu.root_role, R.level);
    const pdptrs: bigint[] = [];
    if (guest === 3)
      for (let i = 0; i < 4; i++) {
        const pdptr = m.guestPdptr(vcpu, mmu, i);
        pdptrs.push(pdptr);
        if (pdptr & 1n && !kvm_vcpu_is_visible_gfn(vcpu, Number((pdptr & 0xffffffffff000n) >> 12n))) {
          kvm_make_request('TRIPLE_FAULT', vcpu);
          return false;
        }
      }
    if (!make_mmu_pages_available(vcpu)) return false;
    if (guest >= 4) {
      mmu.root.hpa = mmu_alloc_root(vcpu, root_gfn, 0, level);
      mmu.root.pgd = pgd;
      return true;
    }
    const pm = level >= 4 ? PM_BITS : 1;
    const write = (table: number, index: number, hpa: number, bits: number): void => {
      m.mem.writeQ(table * 4096 + index * 8, ((hpa % 0x100000000) + bits) >>> 0, Math.floor(hpa / 0x100000000));
    };
    for (let i = 0; i < 4; i++) {
      let gfn = root_gfn;
      if (guest === 3) {
        if (!(pdptrs[i] & 1n)) {
          m.mem.writeQ(mmu.pae_root * 4096 + i * 8, 0, 0);
          continue;
        }
        gfn = Number((pdptrs[i] & 0xffffffffff000n) >> 12n);
      }
      write(mmu.pae_root, i, mmu_alloc_root(vcpu, gfn, i, 2), pm);
    }
    if (level === 5) {
      write(mmu.pml4_root, 0, mmu.pae_root * 4096, pm);
      write(mmu.pml5_root, 0, mmu.pml4_root * 4096, pm);
      mmu.root.hpa = mmu.pml5_root * 4096;
    } else if (level === 4) {
      write(mmu.pml4_root, 0, mmu.pae_root * 4096, pm);
      mmu.root.hpa = mmu.pml4_root * 4096;
    } else mmu.root.hpa = mmu.pae_root * 4096;
    mmu.root.pgd = pgd;
    return true;
  }
}
