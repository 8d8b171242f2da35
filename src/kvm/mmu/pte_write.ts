/**
 * kvm_mmu_pte_write(): a guest page table that KVM shadows was written by an emulated instruction.
 * Facts: reference kvm-mmu-model.md 18.4, worked numbers 31.3 and 31.4.
 */
import { enter, leave } from '../observer';
import type { KvmMmuPage, KvmVcpu } from '../kvm_host';
import { role_get } from '../roles';
import { kvm_flush_remote_tlbs } from '../x86_requests';
import { gfn_valid_sp_with_gptes, kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page, mmu_page_zap_pte } from './pages';

const WRITE_FLOOD_LIMIT = 3;

/**
 * detect_write_misaligned(): a write that touches more than one entry, or a part that nobody uses for entries.
 * @param four the page shadows four-byte entries
 */
export function detect_write_misaligned(four: boolean, gpa: number, bytes: number): boolean {
  const offset = gpa % 4096;
  const size = four ? 4 : 8;
  // Some guests clear the low byte of an entry to make it not present.
  if (!(offset & (size - 1)) && bytes === 1) return false;
  return ((offset ^ (offset + bytes - 1)) & ~(size - 1)) !== 0 || bytes < 4;
}

/** detect_write_flooding(): a table that is written again and again without being used is no page table any more. */
function detect_write_flooding(level: number, sp: KvmMmuPage): boolean {
  if (level === 1) return false;
  return ++sp.write_flooding_count >= WRITE_FLOOD_LIMIT;
}

/**
 * get_written_sptes(): index and number of the shadow entries behind a guest entry; null when it lies in another quadrant.
 * @param level of the shadow page
 */
export function get_written_sptes(
  four: boolean,
  level: number,
  quadrant: number,
  gpa: number,
): { index: number; count: number } | null {
  let off = gpa % 4096;
  let count = 1;
  if (four) {
    off *= 2;
    if (level === 2) {
      // A 4M guest entry is covered by two shadow entries of 2M.
      off &= ~7;
      off *= 2;
      count = 2;
    }
    const q = off >> 12;
    off &= 0xfff;
    if (q !== quadrant) return null;
  }
  return { index: off >> 3, count };
}

/** kvm_page_track_write(): who follows writes to guest memory hears of one; that is the shadow MMU alone. */
export function kvm_page_track_write(vcpu: KvmVcpu, gpa: number, value: bigint, bytes: number): void {
  const m = vcpu.kvm.machine;
  enter(m, 'kvm_page_track_write', vcpu.vcpu_id, null);
  kvm_mmu_pte_write(vcpu, gpa, value, bytes);
  leave(m);
}

/** Tells the shadow MMU of an emulated write of `bytes` bytes at gpa, which is in guest memory already. */
export function kvm_mmu_pte_write(vcpu: KvmVcpu, gpa: number, value: bigint, bytes: number): void {
  const kvm = vcpu.kvm;
  if (kvm.indirect_shadow_pages === 0) return;
  const m = kvm.machine;
  const R = m.roles;
  enter(m, 'kvm_mmu_pte_write', vcpu.vcpu_id, { gpa, value, bytes });
  // A PAE guest writes its entries in halves.
  enter(m, 'mmu_pte_write_fetch_gpte', vcpu.vcpu_id, null);
  if ((vcpu.regs.cr4 & (1n << 5n)) !== 0n && bytes === 4) {
    gpa -= gpa % 8;
    bytes = 8;
  }
  leave(m);
  kvm.stat['mmu_pte_write'] = (kvm.stat['mmu_pte_write'] ?? 0) + 1;
  const invalid: KvmMmuPage[] = [];
  let flush = false;
  for (const sp of gfn_valid_sp_with_gptes(kvm, Math.floor(gpa / 4096))) {
    const four = R.has4ByteGpte(sp.role);
    const level = role_get(sp.role, R.level);
    if (detect_write_misaligned(four, gpa, bytes) || detect_write_flooding(level, sp)) {
      kvm_mmu_prepare_zap_page(kvm, sp, invalid, vcpu.vcpu_id);
      kvm.stat['mmu_flooded'] = (kvm.stat['mmu_flooded'] ?? 0) + 1;
      continue;
    }
    const written = get_written_sptes(four, level, role_get(sp.role, R.quadrant), gpa);
    if (!written) continue;
    for (let i = 0; i < written.count; i++) {
      const sptep = sp.spt * 4096 + (written.index + i) * 8;
      const present = m.spte.isPresent(m.mem.readLo(sptep), m.mem.readHi(sptep));
      mmu_page_zap_pte(kvm, sp, sptep, null);
      if (present) flush = true;
    }
  }
  enter(m, 'kvm_mmu_remote_flush_or_zap', vcpu.vcpu_id, null);
  if (invalid.length) kvm_mmu_commit_zap_page(kvm, invalid);
  else if (flush) kvm_flush_remote_tlbs(kvm, 'a shadowed guest table was written');
  leave(m);
  leave(m);
}
