/** Runs the paging vectors: kvm-unit-tests' access test, KVM_TRANSLATE, and accesses made in QEMU. */
import { ACC_READ, ACC_USER, GP_PDPTE, NON_CANONICAL, OK, PF } from '../hw/access';
import { amdFeatures, intelFeatures, type Quirk } from '../hw/features';
import { PhysMemory } from '../hw/memory';
import { PTE_A } from '../hw/paging';
import { high, low, plainAccess, poke, Run, skipped, type VectorOutcome } from './vectors-compare';
import type { AccessVector, TranslateVector } from './vectors-format';

/** kvm-unit-tests predicts the accessed and dirty flags of PDE and PTE only. */
export function runAccess(v: AccessVector): VectorOutcome {
  const run = new Run(intelFeatures({ maxphyaddr: v.maxphyaddr }));
  const { t } = run;
  for (const e of v.entries) poke(t.memory, e.gpa, e.value, 8);
  t.setGuest({
    cr0: BigInt(v.cr0),
    cr3: BigInt(v.cr3),
    cr4: BigInt(v.cr4),
    efer: BigInt(v.efer),
    pkru: BigInt(v.pkru),
  });
  const la = BigInt(v.la);
  if (v.access.twice) t.translate(low(la), high(la), ACC_READ);
  const status = t.translate(low(la), high(la), plainAccess(v.access) | (v.access.user ? ACC_USER : 0));
  run.same('fault', v.fault, status !== OK);
  if (v.fault) run.sameNumber('error', v.error, status === PF ? t.errorCode : undefined);
  else run.sameNumber('pa', v.pa, t.hpa);
  const after = (level: number): bigint | undefined => {
    const entry = v.entries.find((e) => e.level === level);
    return entry === undefined ? undefined : t.memory.readQ(Number(BigInt(entry.gpa)));
  };
  run.sameNumber('pdeAfter', v.pdeAfter, after(2), BigInt(v.pdeIgnore));
  if (v.pteAfter !== null) run.sameNumber('pteAfter', v.pteAfter, after(1));
  return run.outcome();
}

/** CR4.SMEP and CR4.SMAP: `valid` is about a supervisor read with both off. */
const SMEP_SMAP = 0x30_0000n;

export function runTranslate(v: TranslateVector): VectorOutcome {
  return v.oracle === 'kvm_translate' ? runKvmTranslate(v) : runQemu(v);
}

function setUp(v: TranslateVector, cr4Without = 0n): Run {
  const kvmAmd = v.vendor === 'AuthenticAMD';
  // QEMU calls itself AuthenticAMD but does not reserve bit 8 of a PML4E: run as on Intel, where it is ignored.
  const features = { maxphyaddr: v.maxphyaddr, page1g: v.gbpages };
  const run = new Run(kvmAmd ? amdFeatures(features) : intelFeatures(features), new PhysMemory());
  for (const [gpa, value] of v.memory) poke(run.t.memory, gpa, value, entrySize(v));
  run.t.setGuest({
    cr0: BigInt(v.cr0),
    cr3: BigInt(v.cr3),
    cr4: BigInt(v.cr4) & ~cr4Without,
    efer: BigInt(v.efer),
  });
  return run;
}

const entrySize = (v: TranslateVector): 4 | 8 => (v.mode.startsWith('32bit') ? 4 : 8);

function runKvmTranslate(v: TranslateVector): VectorOutcome {
  const run = setUp(v, SMEP_SMAP);
  const la = BigInt(v.gva);
  const status = run.t.translate(low(la), high(la), ACC_READ);
  if (status === NON_CANONICAL) return skipped('KVM_TRANSLATE takes a non-canonical address by its low 48 bits');
  run.same('valid', v.valid, status === OK);
  if (v.valid && status === OK) run.sameNumber('gpa', v.gpa, run.t.hpa);
  compareAfter(run, v, () => 0n);
  return run.outcome();
}

function runQemu(v: TranslateVector): VectorOutcome {
  const la = BigInt(v.gva);
  const probe = setUp(v, SMEP_SMAP);
  if (v.mode === 'pae' && probe.t.loadPdptes() === GP_PDPTE)
    return skipped('a PDPTE has a reserved bit: #GP when it is loaded');
  const mapped = probe.t.translate(low(la), high(la), ACC_READ);
  probe.same('valid', v.valid, mapped === OK);
  if (v.valid && mapped === OK) probe.sameNumber('gpa', v.gpa, probe.t.hpa);
  if (probe.differs || v.access === undefined) return probe.outcome();

  const run = setUp(v);
  const { t } = run;
  if (v.mode === 'pae') t.loadPdptes();
  const status = t.translate(low(la), high(la), plainAccess(v.access) | (v.access.user ? ACC_USER : 0));
  run.same('fault', v.fault, status === OK ? null : status === PF ? 'pf' : 'gp');
  if (v.fault === 'pf' && status === PF && typeof v.error === 'number') {
    // QEMU leaves bit 0 (P) clear with a reserved bit.
    run.sameNumber('error', (v.error & 8) !== 0 ? v.error | 1 : v.error, t.errorCode);
  }
  // When the access faults, QEMU has set accessed flags of the levels above; and the flag of a 1 GiB page that refuses the access. A
  // table outside all memory reads as 0 and is not listed: then the last listed entry is an upper one too.
  const gigabyte = v.mode === '4level' ? 1 : v.mode === '5level' ? 2 : -1;
  const last = v.memory.length - (v.unbacked === null ? 1 : 0);
  compareAfter(run, v, (i) => (v.fault !== null && (i < last || i === gigabyte) ? BigInt(PTE_A) : 0n));
  return run.differs ? run.outcome() : runQemuAsItIs(v);
}

/** What QEMU does otherwise than processors, by the names that src/hw has for it. */
const TCG: readonly Quirk[] = [
  'tcg-rsvd-without-p',
  'tcg-accessed-per-level',
  'tcg-pae-pdpte-reload',
  'tcg-1g-a-on-refused',
  'tcg-no-amd-bit8',
];

/** With these quirks src/hw is QEMU: error code and every entry afterwards are the same, nothing excused. */
function runQemuAsItIs(v: TranslateVector): VectorOutcome {
  const run = new Run(amdFeatures({ maxphyaddr: v.maxphyaddr, page1g: v.gbpages, quirks: new Set(TCG) }));
  const { t } = run;
  for (const [gpa, value] of v.memory) poke(t.memory, gpa, value, entrySize(v));
  t.setGuest({ cr0: BigInt(v.cr0), cr3: BigInt(v.cr3), cr4: BigInt(v.cr4), efer: BigInt(v.efer) });
  const la = BigInt(v.gva);
  const access = v.access ?? { write: false, fetch: false, user: false };
  const status = t.translate(low(la), high(la), plainAccess(access) | (access.user ? ACC_USER : 0));
  run.same('fault with quirks', v.fault, status === OK ? null : status === PF ? 'pf' : 'gp');
  if (v.fault === 'pf') run.sameNumber('error with quirks', v.error, t.errorCode);
  const after = new Map(v.after);
  for (const [gpa, value] of v.memory) {
    const at = Number(BigInt(gpa));
    const actual = entrySize(v) === 8 ? t.memory.readQ(at) : BigInt(t.memory.read32(at));
    run.sameNumber(`after ${gpa} with quirks`, after.get(gpa) ?? value, actual);
  }
  return run.outcome();
}

/** Compares the entries afterwards. `ignore` gives the bits of the i-th that may differ. */
function compareAfter(run: Run, v: TranslateVector, ignore: (i: number) => bigint): void {
  const after = new Map(v.after);
  v.memory.forEach(([gpa, value], i) => {
    // QEMU sets bit 5 of a PAE PDPTE, which is reserved there.
    if (v.mode === 'pae' && i === 0) return;
    const at = Number(BigInt(gpa));
    const actual = entrySize(v) === 8 ? run.t.memory.readQ(at) : BigInt(run.t.memory.read32(at));
    run.sameNumber(`after ${gpa}`, after.get(gpa) ?? value, actual, ignore(i));
  });
}
