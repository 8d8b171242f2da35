import assert from 'node:assert/strict';
import {
  ACC_AC, ACC_FETCH, ACC_IMPLICIT, ACC_READ, ACC_SHSTK, ACC_USER, ACC_WRITE, EPT_MISCONFIG, EPT_VIOLATION, GP_PDPTE, NON_CANONICAL,
  NPF, OK, PF, PML_FULL, SPP_MISCONFIG, SPP_MISS, STATUS_NAMES, VE,
} from './access'; // prettier-ignore
import { amdFeatures, intelFeatures, type CpuFeatures } from './features';
import { PhysMemory } from './memory';
import { PmlState } from './pml';
import { RULES, ruleOf, type RuleId } from './rules';
import { halves, mapEpt, mapPath, poke64, type EptPathOptions, type PathOptions } from './testing/tables';
import { Translator, type EptControls } from './translate';
import { checkEptp, checkSpptp } from './vmx-pointers';
import { WhyRecorder } from './why-recorder';

/** What a case came to: status name and failed rule, as recorded. */
interface Verdict {
  status: string;
  rule: RuleId | null;
  /** Rules that the why-record says were checked and held, or failed. */
  checked: Map<RuleId, boolean>;
}

const VA = 0x7f12_3456_7000n;
const KERNEL_VA = 0xffff_8000_1234_5000n;
const CR0 = 0x8001_0033n;
const CR0_NO_WP = 0x8000_0033n;
const CR4 = 0x20n;
const EFER = 0xd00n;
const PSE = 0x10n;
const SMEP = 1n << 20n;
const SMAP = 1n << 21n;
const PKE = 1n << 22n;
const PKS = 1n << 24n;
const LAM_SUP = 1n << 28n;
const XD = 1n << 63n;

function recorded(t: Translator, run: () => number): Verdict {
  const why = new WhyRecorder(t);
  t.recorder = why;
  const status = run();
  t.recorder = null;
  const checked = new Map<RuleId, boolean>();
  const all = [...why.record.steps.flatMap((s) => s.checked), ...why.record.checked];
  for (const c of all) checked.set(c.rule, (checked.get(c.rule) ?? true) && c.ok);
  return { status: STATUS_NAMES[status], rule: t.failedRule, checked };
}

interface GuestCase extends Partial<PathOptions> {
  cpu?: Partial<CpuFeatures>;
  amd?: boolean;
  cr0?: bigint;
  cr3?: bigint;
  cr4?: bigint;
  efer?: bigint;
  pkru?: bigint;
  pkrs?: bigint;
  access?: number;
  /** Address to translate if not that of the path. */
  at?: bigint;
}

/** An access through one path of guest tables. */
function guest(o: GuestCase = {}): Verdict {
  const memory = new PhysMemory();
  const mode = o.mode ?? '4level';
  const va = o.va ?? (mode === '32bit' || mode === 'pae' ? 0x8123_4000n : VA);
  mapPath(memory, { ...o, va, mode });
  const t = new Translator(memory, o.amd === true ? amdFeatures(o.cpu) : intelFeatures(o.cpu));
  const cr4 = mode === '32bit' ? 0n : mode === '5level' ? CR4 | (1n << 12n) : CR4;
  const efer = mode === '32bit' || mode === 'pae' ? EFER & ~0x500n : EFER;
  t.setGuest({
    cr0: o.cr0 ?? CR0,
    cr3: 0x1000n | (o.cr3 ?? 0n),
    cr4: cr4 | (o.cr4 ?? 0n),
    efer: o.efer ?? efer,
    pkru: o.pkru ?? 0,
    pkrs: o.pkrs ?? 0,
  });
  return recorded(t, () => {
    const loaded = mode === 'pae' ? t.loadPdptes() : OK;
    return loaded !== OK ? loaded : t.translate(...halves(o.at ?? va), o.access ?? ACC_READ);
  });
}

interface EptCase extends Partial<EptPathOptions> {
  /** PML with this index */
  pmlIndex?: number;
  cpu?: Partial<CpuFeatures>;
  controls?: Partial<EptControls>;
  access?: number;
  /** Flags of the guest's entries; without, the access is by guest-physical address with paging off. */
  guest?: bigint;
  /** Flags of the guest's last entry in their place. */
  guestLeaf?: bigint;
  /** Flags of the EPT entry of the guest's last table. */
  table?: bigint;
  eptp?: bigint;
  sppt?: { level: number; value: bigint };
  at?: bigint;
}

/** An access through guest tables that lie in EPT pages, to gpa 0x40000000. */
function ept(o: EptCase = {}): Verdict {
  const memory = new PhysMemory();
  const levels = o.levels ?? 4;
  const gpa = o.gpa ?? 0x4000_0000n;
  // Guest tables at gpa 0x1000 … 0x4000 are where EPT says: hpa 0x600000 + gpa.
  mapPath(memory, {
    root: 0x60_1000,
    va: VA,
    page: gpa,
    flags: o.guest ?? 0x67n,
    flagsAt: o.guestLeaf === undefined ? {} : { 1: o.guestLeaf },
  });
  for (let gfn = 1; gfn <= 4; gfn++) {
    mapEpt(memory, { levels, gpa: BigInt(gfn) << 12n, page: BigInt(0x60_0000 + gfn * 0x1000), leafFlags: gfn === 4 ? o.table : undefined }); // prettier-ignore
  }
  // The guest's entries hold guest-physical addresses of tables.
  for (let gfn = 1; gfn < 4; gfn++) {
    const table = 0x60_0000 + gfn * 0x1000;
    for (let at = table; at < table + 0x1000; at += 8) {
      const lo = memory.readLo(at);
      if (lo !== 0) memory.writeQ(at, lo - 0x60_0000, memory.readHi(at));
    }
  }
  mapEpt(memory, { ...o, levels, gpa });
  if (o.sppt !== undefined) {
    let table = 0x20_0000;
    for (let level = 4; level >= 1; level--) {
      const at = table + Number((gpa >> BigInt(3 + 9 * level)) & 511n) * 8;
      poke64(memory, at, o.sppt.level === level ? o.sppt.value : level === 1 ? 0x5555_5555_5555_5555n : BigInt(table + 0x1001)); // prettier-ignore
      table += 0x1000;
    }
  }
  const t = new Translator(memory, intelFeatures(o.cpu));
  t.setGuest({ cr0: CR0, cr3: 0x1000n, cr4: CR4, efer: EFER });
  const eptp = o.eptp ?? 0x10_0006n | BigInt((levels - 1) << 3);
  t.setSecondStage('ept', { spp: o.sppt !== undefined, sppt: 0x20_0000, ...o.controls, eptp });
  if (o.pmlIndex !== undefined) Object.assign((t.stage2.ept!.pml = new PmlState(0x300)), { index: o.pmlIndex });
  t.accessSize = 8;
  return recorded(t, () => t.translate(...halves((o.at ?? VA) | (gpa & 0xfffn)), o.access ?? ACC_READ | ACC_USER));
}

function npt(gpa: bigint, hostCr4: bigint, hostEfer: bigint): Verdict {
  const memory = new PhysMemory();
  const mode = hostCr4 === 0n ? '32bit' : '4level';
  mapPath(memory, { mode, root: 0x10_0000, va: gpa, flags: 0x67n, page: 0x7000n });
  const t = new Translator(memory, amdFeatures());
  t.setSecondStage('npt', { ncr3: 0x10_0000n, hostCr4, hostEfer });
  return recorded(t, () => t.translateGpa(Number(gpa), ACC_READ));
}

const pointer = (rule: RuleId | null): Verdict => ({
  status: rule === null ? 'ok' : 'vm-entry',
  rule,
  checked: new Map(),
});

const name = (status: number): string => STATUS_NAMES[status];
const pf = name(PF);
const violation = name(EPT_VIOLATION);
const misconfig = name(EPT_MISCONFIG);

interface RuleCase {
  /** What the access ends with where the rule bites. */
  ends: string;
  bites: () => Verdict;
  /** The nearest thing that the rule lets pass; it may be that the rule does not apply. */
  spares: () => Verdict;
}

const CASES: Record<RuleId, RuleCase> = {
  'la.canonical': {
    ends: name(NON_CANONICAL),
    bites: () => guest({ at: VA | (1n << 47n) }),
    spares: () => guest({ va: KERNEL_VA }),
  },
  'la.lam-user': {
    ends: name(NON_CANONICAL),
    // LAM_U48 looks at bit 47, which has to equal bit 63; without LAM bit 62 alone would do.
    bites: () => guest({ cr3: 1n << 62n, at: VA | (1n << 47n) | (0x2an << 48n) }),
    spares: () => guest({ cr3: 1n << 62n, at: VA | (0x2an << 48n) }),
  },
  'la.lam-supervisor': {
    ends: name(NON_CANONICAL),
    bites: () => guest({ cr4: LAM_SUP, va: KERNEL_VA, at: (KERNEL_VA & ~(1n << 47n)) ^ (5n << 55n) }),
    spares: () => guest({ cr4: LAM_SUP, va: KERNEL_VA, at: KERNEL_VA ^ (5n << 55n) }),
  },
  'pg.present': {
    ends: pf,
    bites: () => guest({ flagsAt: { 2: 0x66n } }),
    spares: () => guest({ flagsAt: { 2: 0x61n } }),
  },
  'pg.rsvd-maxphyaddr': {
    ends: pf,
    bites: () => guest({ flagsAt: { 3: 0x67n | (1n << 46n) } }),
    spares: () => guest({ cpu: { maxphyaddr: 47 }, flagsAt: { 1: 0x67n | (1n << 46n) } }),
  },
  'pg.rsvd-pae-high': {
    ends: pf,
    bites: () => guest({ mode: 'pae', flagsAt: { 1: 0x67n | (1n << 60n) } }),
    spares: () => guest({ flagsAt: { 1: 0x67n | (1n << 60n) } }),
  },
  'pg.rsvd-xd': {
    ends: pf,
    bites: () => guest({ efer: 0x500n, flagsAt: { 1: 0x67n | XD } }),
    spares: () => guest({ flagsAt: { 1: 0x67n | XD } }),
  },
  'pg.rsvd-ps': {
    ends: pf,
    bites: () => guest({ flagsAt: { 4: 0xe7n } }),
    spares: () => guest({ flagsAt: { 1: 0xe7n } }),
  },
  'pg.rsvd-amd-bit8': {
    ends: pf,
    bites: () => guest({ amd: true, flagsAt: { 4: 0x167n } }),
    spares: () => guest({ flagsAt: { 4: 0x167n } }),
  },
  'pg.rsvd-1g': {
    ends: pf,
    bites: () => guest({ leaf: 3, cpu: { page1g: false } }),
    spares: () => guest({ leaf: 3 }),
  },
  'pg.rsvd-large': {
    ends: pf,
    bites: () => guest({ leaf: 2, flagsAt: { 2: 0xe7n | (1n << 13n) } }),
    // Bit 12 is PAT.
    spares: () => guest({ leaf: 2, flagsAt: { 2: 0xe7n | (1n << 12n) } }),
  },
  'pg.rsvd-pse36': {
    ends: pf,
    bites: () => guest({ mode: '32bit', leaf: 2, cr4: PSE, flagsAt: { 2: 0xe7n | (1n << 21n) } }),
    spares: () => guest({ mode: '32bit', leaf: 2, cr4: PSE, flagsAt: { 2: 0xe7n | (0xffn << 13n) } }),
  },
  'pg.pdpte-present': {
    ends: pf,
    bites: () => guest({ mode: 'pae', flagsAt: { 3: 0n } }),
    spares: () => guest({ mode: 'pae' }),
  },
  'pg.pdpte-rsvd': {
    ends: name(GP_PDPTE),
    bites: () => guest({ mode: 'pae', flagsAt: { 3: 3n } }),
    // A PDPTE that is not present may hold anything: the walk then ends at pg.pdpte-present.
    spares: () => guest({ mode: 'pae', flagsAt: { 3: 1n | (7n << 9n) } }),
  },
  'pg.user': {
    ends: pf,
    bites: () => guest({ access: ACC_READ | ACC_USER, flagsAt: { 3: 0x63n } }),
    spares: () => guest({ access: ACC_READ | ACC_USER | ACC_IMPLICIT, flagsAt: { 3: 0x63n } }),
  },
  'pg.write-user': {
    ends: pf,
    bites: () => guest({ access: ACC_WRITE | ACC_USER, cr0: CR0_NO_WP, flagsAt: { 2: 0x65n } }),
    spares: () => guest({ access: ACC_READ | ACC_USER, flagsAt: { 2: 0x65n } }),
  },
  'pg.write-supervisor': {
    ends: pf,
    bites: () => guest({ access: ACC_WRITE, flagsAt: { 1: 0x65n } }),
    spares: () => guest({ access: ACC_WRITE, cr0: CR0_NO_WP, flagsAt: { 1: 0x65n } }),
  },
  'pg.xd': {
    ends: pf,
    bites: () => guest({ access: ACC_FETCH, flagsAt: { 3: 0x67n | XD } }),
    spares: () => guest({ access: ACC_READ, flagsAt: { 3: 0x67n | XD } }),
  },
  'pg.smep': {
    ends: pf,
    bites: () => guest({ access: ACC_FETCH, cr4: SMEP }),
    spares: () => guest({ access: ACC_FETCH, cr4: SMEP, flagsAt: { 2: 0x63n } }),
  },
  'pg.smap': {
    ends: pf,
    bites: () => guest({ access: ACC_READ | ACC_AC | ACC_IMPLICIT, cr4: SMAP }),
    spares: () => guest({ access: ACC_READ | ACC_AC, cr4: SMAP }),
  },
  'pg.shstk-mode': {
    ends: pf,
    bites: () => guest({ access: ACC_READ | ACC_SHSTK, flagsAt: { 1: 0x65n } }),
    spares: () => guest({ access: ACC_READ | ACC_SHSTK | ACC_USER, flagsAt: { 1: 0x65n } }),
  },
  'pg.shstk-page': {
    ends: pf,
    bites: () => guest({ access: ACC_WRITE | ACC_SHSTK | ACC_USER, flagsAt: { 1: 0x25n } }),
    spares: () => guest({ access: ACC_WRITE | ACC_SHSTK | ACC_USER, flagsAt: { 1: 0x65n } }),
  },
  'pg.pkru-ad': {
    ends: pf,
    bites: () => guest({ cr4: PKE, pkru: 1n << 6n, flagsAt: { 1: 0x67n | (3n << 59n) } }),
    spares: () => guest({ cr4: PKE, pkru: 1n << 6n, access: ACC_FETCH, flagsAt: { 1: 0x67n | (3n << 59n) } }),
  },
  'pg.pkru-wd': {
    ends: pf,
    bites: () => guest({ cr4: PKE, pkru: 2n << 6n, access: ACC_WRITE, flagsAt: { 1: 0x67n | (3n << 59n) } }),
    spares: () => guest({ cr4: PKE, pkru: 2n << 6n, access: ACC_WRITE, cr0: CR0_NO_WP, flagsAt: { 1: 0x67n | (3n << 59n) } }), // prettier-ignore
  },
  'pg.pkrs-ad': {
    ends: pf,
    bites: () => guest({ cr4: PKS, pkrs: 1n << 30n, flagsAt: { 1: 0x63n | (15n << 59n) } }),
    spares: () => guest({ cr4: PKE, pkrs: 1n << 30n, flagsAt: { 1: 0x63n | (15n << 59n) } }),
  },
  'pg.pkrs-wd': {
    ends: pf,
    bites: () => guest({ cr4: PKS, pkrs: 2n, access: ACC_WRITE, flagsAt: { 2: 0x63n } }),
    spares: () => guest({ cr4: PKS, pkrs: 2n, access: ACC_WRITE, cr0: CR0_NO_WP, flagsAt: { 2: 0x63n } }),
  },
  'npt.gpa-width': {
    ends: name(NPF),
    bites: () => npt(0x1_0000_1000n, 0n, 0n),
    spares: () => npt(0x1_0000_1000n, 0x20n, 0xd00n),
  },
  'ept.gpa-width': {
    ends: violation,
    bites: () => ept({ cpu: { maxphyaddr: 52 }, gpa: 1n << 48n }),
    spares: () => ept({ cpu: { maxphyaddr: 52 }, gpa: 1n << 48n, levels: 5 }),
  },
  'ept.present': {
    ends: violation,
    bites: () => ept({ leafFlags: 0x430n }),
    // With mode-based execute control bit 10 alone makes it present; then it lacks R.
    spares: () => ept({ controls: { mbec: true }, flags: 0x407n, leafFlags: 0x430n, access: ACC_FETCH | ACC_USER }),
  },
  'ept.write-only': {
    ends: misconfig,
    bites: () => ept({ leafFlags: 0x36n }),
    spares: () => ept({ leafFlags: 0x33n }),
  },
  'ept.exec-only': {
    ends: misconfig,
    bites: () => ept({ leafFlags: 0x34n, access: ACC_FETCH | ACC_USER, cpu: { eptExecuteOnly: false } }),
    spares: () => ept({ leafFlags: 0x34n, access: ACC_FETCH | ACC_USER }),
  },
  'ept.rsvd-low': {
    ends: misconfig,
    bites: () => ept({ flagsAt: { 2: 0x47n } }),
    spares: () => ept({ flagsAt: { 2: 0x907n } }),
  },
  'ept.page-size': {
    ends: misconfig,
    bites: () => ept({ leaf: 3, cpu: { ept1g: false } }),
    spares: () => ept({ leaf: 3, page: 0x8000_0000n }),
  },
  'ept.rsvd-large': {
    ends: misconfig,
    bites: () => ept({ leaf: 2, leafFlags: 0x10b7n }),
    spares: () => ept({ leaf: 2, leafFlags: 0xfb7n }),
  },
  'ept.rsvd-maxphyaddr': {
    ends: misconfig,
    bites: () => ept({ leafFlags: 0x37n | (1n << 51n) }),
    spares: () => ept({ leafFlags: 0x37n | (1n << 52n) }),
  },
  'ept.memtype': {
    ends: misconfig,
    bites: () => ept({ leafFlags: 0x3fn }),
    spares: () => ept({ leafFlags: 0x2fn }),
  },
  'ept.read': {
    ends: violation,
    bites: () => ept({ leafFlags: 0x34n }),
    spares: () => ept({ leafFlags: 0x31n }),
  },
  'ept.write': {
    ends: violation,
    bites: () => ept({ leafFlags: 0x35n, access: ACC_WRITE | ACC_USER }),
    spares: () => ept({ leafFlags: 0x33n, access: ACC_WRITE | ACC_USER }),
  },
  'ept.exec': {
    ends: violation,
    bites: () => ept({ leafFlags: 0x33n, access: ACC_FETCH | ACC_USER }),
    spares: () => ept({ leafFlags: 0x35n, access: ACC_FETCH | ACC_USER }),
  },
  'ept.exec-user': {
    ends: violation,
    bites: () => ept({ leafFlags: 0x37n, flags: 0x407n, controls: { mbec: true }, access: ACC_FETCH | ACC_USER }),
    spares: () => ept({ leafFlags: 0x437n, flags: 0x407n, controls: { mbec: true }, access: ACC_FETCH | ACC_USER }),
  },
  'ept.supervisor-shstk': {
    ends: violation,
    bites: () => supervisorShadowStack(0x37n),
    spares: () => supervisorShadowStack(0x31n | (1n << 60n)),
  },
  'ept.ad-table-write': {
    ends: violation,
    bites: () => ept({ eptp: 0x10_005en, table: 0x35n }),
    spares: () => ept({ eptp: 0x10_001en, table: 0x35n }),
  },
  'ept.ad-update': {
    ends: violation,
    bites: () => ept({ guest: 0x47n, table: 0x35n }),
    spares: () => ept({ guest: 0x67n, table: 0x35n }),
  },
  'ept.paging-write': {
    ends: violation,
    bites: () => ept({ eptp: 0x10_005en, controls: { pagingWrite: true }, table: 0x35n }),
    spares: () => ept({ eptp: 0x10_005en, controls: { pagingWrite: true }, table: 0x35n | (1n << 58n) }),
  },
  'ept.verify-paging': {
    ends: violation,
    bites: () => ept({ controls: { verifyPaging: true }, leafFlags: 0x37n | (1n << 57n) }),
    spares: () => ept({ controls: { verifyPaging: true } }),
  },
  've.suppress': {
    ends: violation,
    bites: () => ept({ controls: { ve: true }, leafFlags: 0x34n | (1n << 63n) }),
    spares: () => ept({ controls: { ve: true }, leafFlags: 0x34n }),
  },
  'pml.room': {
    ends: name(PML_FULL),
    bites: () => ept({ eptp: 0x10_005en, pmlIndex: 0xffff, access: ACC_WRITE | ACC_USER }),
    spares: () => ept({ eptp: 0x10_005en, pmlIndex: 511, access: ACC_WRITE | ACC_USER }),
  },
  'spp.eligible': {
    ends: violation,
    bites: () => ept({ sppt: { level: 0, value: 0n }, leafFlags: 0x35n, access: ACC_WRITE | ACC_USER }),
    spares: () => ept({ sppt: { level: 0, value: 0n }, leafFlags: 0x35n | (1n << 61n), access: ACC_WRITE | ACC_USER }),
  },
  'spp.valid': {
    ends: name(SPP_MISS),
    bites: () => spp({ level: 3, value: 0x20_2000n }),
    spares: () => spp({ level: 3, value: 0x20_2001n }),
  },
  'spp.rsvd': {
    ends: name(SPP_MISCONFIG),
    bites: () => spp({ level: 4, value: 0x20_1003n }),
    spares: () => spp({ level: 4, value: 0x20_1001n }),
  },
  'spp.rsvd-vector': {
    ends: name(SPP_MISCONFIG),
    bites: () => spp({ level: 1, value: 0x5555_5555_5555_5557n }),
    spares: () => spp({ level: 1, value: 0x5555_5555_5555_5555n }),
  },
  'spp.write': {
    ends: violation,
    bites: () => spp({ level: 1, value: 0x5555_5555_5555_5554n }),
    spares: () => spp({ level: 1, value: 1n }),
  },
  'eptp.memtype': {
    ends: 'vm-entry',
    bites: () => pointer(checkEptp(0x10_001dn, intelFeatures())),
    spares: () => pointer(checkEptp(0x10_0018n, intelFeatures())),
  },
  'eptp.walk-length': {
    ends: 'vm-entry',
    bites: () => pointer(checkEptp(0x10_0026n, intelFeatures({ ept5: false }))),
    spares: () => pointer(checkEptp(0x10_0026n, intelFeatures())),
  },
  'eptp.ad': {
    ends: 'vm-entry',
    bites: () => pointer(checkEptp(0x10_005en, intelFeatures({ eptAd: false }))),
    spares: () => pointer(checkEptp(0x10_005en, intelFeatures())),
  },
  'eptp.sss': {
    ends: 'vm-entry',
    bites: () => pointer(checkEptp(0x10_009en, intelFeatures({ eptSss: false }))),
    spares: () => pointer(checkEptp(0x10_009en, intelFeatures())),
  },
  'eptp.rsvd': {
    ends: 'vm-entry',
    bites: () => pointer(checkEptp(0x10_011en, intelFeatures())),
    spares: () => pointer(checkEptp((1n << 46n) - 0x1000n + 0x1en, intelFeatures())),
  },
  'spptp.ept': {
    ends: 'vm-entry',
    bites: () => pointer(checkSpptp(0x20_0000n, false, intelFeatures())),
    spares: () => pointer(checkSpptp(0x20_0000n, true, intelFeatures())),
  },
  'spptp.rsvd': {
    ends: 'vm-entry',
    bites: () => pointer(checkSpptp(0x20_0008n, true, intelFeatures())),
    spares: () => pointer(checkSpptp(0x20_0000n, true, intelFeatures())),
  },
};

function supervisorShadowStack(leafFlags: bigint): Verdict {
  return ept({ eptp: 0x10_009en, guest: 0x63n, guestLeaf: 0x61n, leafFlags, access: ACC_READ | ACC_SHSTK });
}

function spp(sppt: { level: number; value: bigint }): Verdict {
  return ept({ sppt, leafFlags: 0x35n | (1n << 61n), access: ACC_WRITE | ACC_USER });
}

describe('rules of translation', () => {
  it('each has a number, a sentence, a reference and a consequence', () => {
    assert.equal(new Set(RULES.map((r) => r.id)).size, RULES.length);
    for (const r of RULES.slice(1)) {
      assert.match(r.sentence, /^[A-Z].*\.$/);
      assert.match(r.reference, /SDM|APM/);
      assert.notEqual(r.consequence, '');
    }
    assert.throws(() => ruleOf(9999), /no translation rule 9999/);
  });

  it('each has a case here', () => {
    assert.deepEqual(
      RULES.slice(1).map((r) => r.id).filter((id) => !(id in CASES)),
      [],
    ); // prettier-ignore
  });

  for (const [id, c] of Object.entries(CASES) as [RuleId, RuleCase][]) {
    it(`${id}: bites, and spares what it should`, () => {
      const bitten = c.bites();
      assert.equal(bitten.status, c.ends);
      if (c.ends === 'vm-entry') assert.equal(bitten.rule, id);
      else if (id === 've.suppress' || id === 'spp.eligible') assert.notEqual(bitten.checked.get(id), true);
      else {
        assert.equal(bitten.rule, id);
        assert.equal(bitten.checked.get(id), false, 'the why-record says so too');
      }
      const spared = c.spares();
      assert.notEqual(spared.rule, id);
      assert.notEqual(spared.checked.get(id), false, 'no failed check of it in the why-record');
      assert.equal(spared.status, id === 've.suppress' ? name(VE) : 'ok');
    });
  }
});
