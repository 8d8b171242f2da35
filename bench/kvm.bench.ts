/**
 * KVM's side: an EPT violation from exit to spte and retry, for 4K pages of a slot that nobody has touched yet, and memslot look-ups.
 */
import { ACC_WRITE, EPT_VIOLATION, NPF, OK, PF } from '../src/hw/access';
import { KVM_MEM_LOG_DIRTY_PAGES, type KvmVcpu } from '../src/kvm/kvm_host';
import { insnLoad } from '../src/hw/insn';
import { CR0, CR4, EFER } from '../src/hw/regs';
import { Machine, machineConfig, type MachineConfig } from '../src/kvm/machine';
import { Memslots } from '../src/kvm/memslots';
import { kvm_mmu_page_fault, PFERR_GUEST_FINAL_HI, PFERR_WRITE } from '../src/kvm/mmu/page_fault';
import { bytesInUse, middle, type Row } from './bench';

const PAGES = 131_072;
const RUNS = 7;
/** Where the guest's own page tables are: behind the pages they map. */
const TABLES = 0x4000_0000;

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

/**
 * Guest page tables at TABLES that map PAGES 4K pages one to one from linear address 0 on, in 4-level paging. The leaves are not accessed
 * yet, so that KVM prefetches none of them and has to set A and D.
 */
function guestTables(m: Machine): bigint {
  const tables = PAGES / 512;
  const words = new BigUint64Array((2 + 1 + tables) * 512);
  // PML4, PDPT, one page directory, page tables.
  words[0] = BigInt(TABLES + 0x1000) | 7n;
  words[512] = BigInt(TABLES + 0x2000) | 7n;
  for (let i = 0; i < tables; i++) words[1024 + i] = BigInt(TABLES + 0x3000 + i * 0x1000) | 7n;
  for (let i = 0; i < PAGES; i++) words[1536 + i] = BigInt(i * 0x1000) | 7n;
  m.hostWrite(0, TABLES, new Uint8Array(words.buffer));
  return BigInt(TABLES);
}

/** A machine whose guest runs on shadow page tables, before it has touched a page. */
function shadowMachine(): { m: Machine; vcpu: KvmVcpu } {
  const m = new Machine(machineConfig({ vendor: 'amd', paging: 'shadow' }));
  for (const [id, name, gpa, size] of [
    [0, 'ram', 0, PAGES * 4096],
    [1, 'tables', TABLES, (PAGES / 512 + 3) * 4096],
  ] as const) {
    const { hva } = m.backing(name, size);
    m.set_user_memory_region({ as_id: 0, id, flags: 0, gpa, size, hva });
  }
  const cr3 = guestTables(m);
  const vcpu = m.addVcpu();
  m.setRegs(vcpu, {
    cr0: CR0.PG | CR0.WP | CR0.NE | CR0.ET | CR0.PE,
    cr3,
    cr4: CR4.PAE,
    efer: EFER.LME | EFER.LMA | EFER.NXE,
    idtr: null,
  });
  vcpu.regs.ripKnown = false;
  m.run(vcpu, insnLoad(0n, 4));
  return { m, vcpu };
}

/** Shadow faults per second over pages that the guest maps and KVM does not yet: walk, #PF, kvm_mmu_page_fault(), second walk. */
function shadowFaults(): number {
  const { vcpu } = shadowMachine();
  const t = vcpu.translator;
  const start = performance.now();
  for (let page = 1; page < PAGES; page++) {
    const gva = page * 4096;
    const status = t.translate(gva, 0, ACC_WRITE);
    if (status !== PF) throw new Error(`page ${page}: status ${status}`);
    kvm_mmu_page_fault(vcpu, gva, 0, PFERR_WRITE, 0);
    if (t.translate(gva, 0, ACC_WRITE) !== OK) throw new Error(`page ${page} is not mapped`);
  }
  return (PAGES - 1) / ((performance.now() - start) / 1000);
}

/**
 * MiB that a million mapped 4K pages cost over the page tables themselves: structures of KVM and of the host.
 */
async function mapped(config: Partial<MachineConfig>): Promise<number> {
  const pages = 1_048_576;
  const before = await bytesInUse();
  const m = new Machine(machineConfig(config));
  const size = pages * 4096;
  m.set_user_memory_region({ as_id: 0, id: 0, flags: 0, gpa: 0, size, hva: m.backing('ram', size).hva });
  const vcpu = m.addVcpu();
  m.setRegs(vcpu, { idtr: null });
  vcpu.regs.ripKnown = false;
  m.run(vcpu, insnLoad(0n, 4));
  // Without TDP, paging off in the guest: shadow pages of its physical addresses.
  const tdp = m.tdpEnabled;
  for (let page = 1; page < pages; page++)
    kvm_mmu_page_fault(vcpu, (page * 4096) >>> 0, 0, PFERR_WRITE, tdp ? PFERR_GUEST_FINAL_HI : 0);
  for (let page = 1; page < pages; page += 997) {
    const status = tdp
      ? vcpu.translator.translateGpa(page * 4096, ACC_WRITE)
      : vcpu.translator.translate((page * 4096) >>> 0, 0, ACC_WRITE);
    if (status !== OK) throw new Error(`page ${page} is not mapped: status ${status}`);
  }
  const tables = m.kvm.sp_by_pfn.size;
  const bytes = (await bytesInUse()) - before - tables * 4096;
  return bytes / 2 ** 20;
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

export default async function kvm(): Promise<Row[]> {
  return [
    {
      name: 'TDP fault path, TDP MMU (EPT)',
      unit: 'per s',
      ...median(() => faults({ vendor: 'intel' })),
      budget: 1e6,
      note: `${PAGES} fresh 4K pages`,
    },
    { name: 'TDP fault path, TDP MMU (NPT)', unit: 'per s', ...median(() => faults({ vendor: 'amd' })), budget: 1e6 },
    {
      name: 'shadow fault path',
      unit: 'per s',
      ...median(shadowFaults),
      budget: 3e5,
      note: `${PAGES} pages that the guest maps`,
    },
    { name: '1 Mi pages, TDP MMU, over the tables', unit: 'MiB', value: await mapped({ vendor: 'intel' }), budget: 64 },
    {
      name: '1 Mi pages, hash-table MMU, over the tables',
      unit: 'MiB',
      value: await mapped({ vendor: 'intel', tdp_mmu: false }),
      budget: 64,
    },
    {
      name: '1 Mi pages, shadow MMU, over the tables',
      unit: 'MiB',
      value: await mapped({ vendor: 'amd', paging: 'shadow' }),
      budget: 64,
    },
    {
      name: 'memslot look-up among 32,764 slots',
      unit: 'ns',
      ...median(lookups),
      budget: 100,
      note: 'random frames, half of them in a slot',
    },
  ];
}
