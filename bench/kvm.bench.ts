/**
 * KVM's side: an EPT violation from exit to spte and retry, for 4K pages of a slot that nobody has touched yet, and memslot look-ups.
 */
import { ACC_WRITE, EPT_VIOLATION, NPF, OK } from '../src/hw/access';
import { KVM_MEM_LOG_DIRTY_PAGES } from '../src/kvm/kvm_host';
import { insnLoad } from '../src/hw/insn';
import { Machine, machineConfig, type MachineConfig } from '../src/kvm/machine';
import { Memslots } from '../src/kvm/memslots';
import { kvm_mmu_page_fault, PFERR_GUEST_FINAL_HI, PFERR_WRITE } from '../src/kvm/mmu/page_fault';
import { middle, type Row } from './bench';

const PAGES = 131_072;
const RUNS = 7;

/** Faults per second over fresh pages: hardware walk, exit, kvm_mmu_page_fault(), second walk. */
function faults(config: Partial<MachineConfig>): number {
  const m = new Machine(machineConfig(config));
  const ram = m.backing('ram', PAGES * 4096);
  m.set_user_memory_region({ as_id: 0, id: 0, flags: 0, gpa: 0, size: PAGES * 4096, hva: ram.hva });
  const vcpu = m.addVcpu();
  m.setRegs(vcpu, { idtr: null });
  vcpu.regs.ripKnown = false;
  // Paging is off: the first access loads the root.
  m.run(vcpu, insnLoad(0n, 4));
  const t = vcpu.translator;
  const start = performance.now();
  for (let page = 1; page < PAGES; page++) {
    const gpa = page * 4096;
    const status = t.translateGpa(gpa, ACC_WRITE);
    if (status !== EPT_VIOLATION && status !== NPF) throw new Error(`page ${page}: status ${status}`);
    kvm_mmu_page_fault(vcpu, gpa >>> 0, 0, PFERR_WRITE, PFERR_GUEST_FINAL_HI);
    if (t.translateGpa(gpa, ACC_WRITE) !== OK) throw new Error(`page ${page} is not mapped`);
  }
  return (PAGES - 1) / ((performance.now() - start) / 1000);
}

/** Nanoseconds per look-up of random frames among as many slots as a VM may have. */
function lookups(): number {
  const count = 32_764;
  const set = new Memslots(0, 0);
  for (let i = 0; i < count; i++)
    set.insert({
      id: i,
      as_id: 0,
      base_gfn: i * 16,
      npages: 8,
      userspace_addr: 0n,
      flags: KVM_MEM_LOG_DIRTY_PAGES,
      dirty_bitmap: null,
      backing: null,
      arch: { lpage_info: [new Int32Array(0), new Int32Array(0)], rmap: [], gfn_write_track: new Map() },
    });
  const n = 1_000_000;
  const gfns = new Float64Array(n);
  let x = 12345;
  for (let i = 0; i < n; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    gfns[i] = x % (count * 16);
  }
  let found = 0;
  const start = performance.now();
  for (let i = 0; i < n; i++) if (set.search(gfns[i]) !== null) found++;
  const ns = ((performance.now() - start) * 1e6) / n;
  if (Math.abs(found / n - 0.5) > 0.05) throw new Error(`${found} of ${n} look-ups found a slot; half should`);
  return ns;
}

const median = (f: () => number) => middle(Array.from({ length: RUNS }, f));

export default function kvm(): Promise<Row[]> {
  return Promise.resolve([
    {
      name: 'TDP fault path, TDP MMU (EPT)',
      unit: 'per s',
      ...median(() => faults({ vendor: 'intel' })),
      note: `${PAGES} fresh 4K pages`,
    },
    { name: 'TDP fault path, TDP MMU (NPT)', unit: 'per s', ...median(() => faults({ vendor: 'amd' })) },
    {
      name: 'memslot look-up among 32,764 slots',
      unit: 'ns',
      ...median(lookups),
      note: 'random frames, half of them in a slot',
    },
  ]);
}
