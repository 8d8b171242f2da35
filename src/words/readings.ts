/** How each word is read: error codes, registers, numbers and addresses here, the larger ones in files of their own. */
import { formatHex, formatSize, gva, isCanonical } from './address';
import { CR0, CR4, EFER, PKRS, PKRU, RFLAGS } from './controls';
import { ENTRY_NAMES, epteLayout, npteLayout } from './entries';
import { readEntries, readGpte, readSppte } from './entry-readings';
import {
  CR_QUALIFICATION,
  EPT_QUALIFICATION,
  INTERRUPTION_INFO,
  IOIO_EXITINFO1,
  IO_QUALIFICATION,
  KVM_EXIT_REASON,
  NPF_EXITINFO1,
  PFERR_ERAS,
  PF_ERROR_CODE,
  SPP_QUALIFICATION,
  SVM_EXIT_CODE,
  VMX_EXIT_REASON,
  eptConversionText,
  eptQualificationToPferr,
  errnoName,
  memslotFlagsLayout,
  npfToPferr,
  pferrLayout,
  retPfLayout,
} from './errors';
import type { KernelVersion } from './kernels';
import { KERNEL_ERAS, inRange } from './kernels';
import { cr3Layout, eptpLayout, ncr3Layout, spptpLayout } from './pointers';
import type { Reader } from './reading';
import { across, plain, under } from './reading';
import { readCpuRole, readExtendedRole, readRole } from './role-readings';
import { accessText } from './roles';
import { readSpte } from './spte-readings';
import type { WordLayout } from './word';
import { bitList, bits, decodeWord } from './word';
import type { WordName } from './word-names';

const isAccessCode = (value: bigint) => value <= 0x1fn;

const readPferr: Reader = (value, { kernel }) => {
  const fit = () =>
    isAccessCode(value) ? 0.5 : (value >> 32n) % 4n !== 0n && (value & 0xffffffffn) <= 0x3fn ? 0.6 : 0.1;
  if (kernel) return under('pferr', pferrLayout(kernel), value, { fit: fit(), kernels: kernel.name });
  const candidates = PFERR_ERAS.map((e) => ({ layout: e.layout, ranges: [e.range] }));
  return across('pferr', 'KVM page-fault error code (PFERR_*)', candidates, value, fit);
};

/** What KVM hands on: for the kernel, or for one kernel of each way to convert. */
function conversionNotes(value: bigint, kernel?: KernelVersion): string[] {
  const say = (k: KernelVersion | string, name: string) => {
    const code = eptQualificationToPferr(k, value);
    const words = decodeWord(pferrLayout(k), code).fields.flatMap((f) => (f.value ? [f.field.name] : []));
    return `${name} passes ${formatHex(code)} (${words.join('|') || '0'}) to kvm_mmu_page_fault`;
  };
  if (kernel) return [`${say(kernel, kernel.name)}: ${eptConversionText(kernel).formula}.`];
  return [`${['v4.4', 'v6.1', 'v7.3'].map((k) => say(k, k)).join('; ')}.`];
}

const readEptQualification: Reader = (value, { kernel }) => {
  const plausible = value < 0x1000n && (value & 7n) !== 0n;
  const fit = plausible ? (value & 0x80n ? 0.7 : 0.3) : 0.05;
  return under('ept-qualification', EPT_QUALIFICATION, value, { fit, notes: conversionNotes(value, kernel) });
};

const readNpf: Reader = (value, { kernel }) => {
  const stage = (value >> 32n) & 3n;
  const fit =
    (stage === 1n || stage === 2n) && (value & 4n) !== 0n ? 0.85 : isAccessCode(value) && value & 4n ? 0.25 : 0.05;
  const notes = kernel && npfToPferr(kernel, value) !== value ? [`${kernel.name} keeps the low 32 bits only.`] : [];
  return under('npf', NPF_EXITINFO1, value, { fit, notes });
};

const readPfec: Reader = (value) => under('pfec', PF_ERROR_CODE, value, { fit: isAccessCode(value) ? 0.6 : 0.2 });

function readRegister(word: WordName, layout: WordLayout, fit: (value: bigint) => number): Reader {
  return (value) => under(word, layout, value, { fit: fit(value) });
}

const readEptp: Reader = (value, { hostPhysBits }) => {
  const type = value & 7n;
  const length = (value >> 3n) & 7n;
  const good = (type === 6n || type === 0n) && (length === 3n || length === 4n) && value >> 12n !== 0n;
  return under('eptp', eptpLayout(hostPhysBits), value, { fit: good && type === 6n ? 0.55 : good ? 0.2 : 0.05 });
};

const readCr3: Reader = (value, { hostPhysBits }) =>
  (['long', 'long-pcid', 'pae', '32-bit'] as const).flatMap((mode, i) =>
    under('cr3', cr3Layout(mode, hostPhysBits), value, { fit: 0.2 - i * 0.01 }),
  );

const readRetPf: Reader = (value, { kernel }) => {
  if (kernel) return under('ret-pf', retPfLayout(kernel), value, { kernels: kernel.name });
  const candidates = KERNEL_ERAS.map(({ kernel: k }) => ({
    layout: retPfLayout(k),
    ranges: k.patchSet ? [] : [{ from: k.name, to: k.name }],
    patchSets: k.patchSet ? [k.patchSet] : [],
  }));
  return across('ret-pf', 'what the page-fault path returns', candidates, value, () => 0.1);
};

const readAccess: Reader = (value, { kernel }) => {
  if (value > 15n) return [];
  const four = kernel ? inRange(kernel, { from: 'v7.2', to: 'v7.3' }) : undefined;
  const three =
    value <= 7n ? [plain('access', 'access bits, up to v7.1', `${accessText(Number(value))} (x=1 w=2 u=4)`, 0.1)] : [];
  const wide = [
    plain('access', 'access bits, v7.2 and later', `${accessText(Number(value), 4)} (r=1 w=2 u=4 x=8)`, 0.1),
  ];
  return four === undefined ? [...three, ...wide] : four ? wide : three;
};

const readGeneration: Reader = (value, { kernel }) => {
  const parity = !kernel || inRange(kernel, { from: 'v5.0', to: 'v7.3' });
  const notes = parity
    ? [`From v5.0 the lowest bit is the address space (${value & 1n}); each memslot update adds 2.`]
    : ['An odd generation means that a memslot update is in progress.'];
  return [plain('generation', 'memslot generation', `generation ${value} (${formatHex(value)})`, 0.05, notes)];
};

const readErrno: Reader = (value) => {
  const signed = value >> 32n ? BigInt.asIntN(64, value) : BigInt.asIntN(32, value);
  if (signed >= 0n || signed < -4095n) return [];
  return [plain('errno', 'negative errno', `${errnoName(Number(signed))} (${signed})`, 0.7)];
};

/** Table indexes of an address, top level first. */
function indexes(address: bigint, levels: readonly number[]): string {
  const parts = levels.map(
    (l) => `${ENTRY_NAMES[l].replace(/E$/, '')}[${(address >> BigInt(12 + 9 * (l - 1))) & 511n}]`,
  );
  return [...parts, `+ ${formatHex(address & 0xfffn)}`].join(' ');
}

const readGva: Reader = (value) => {
  const canonical48 = isCanonical(gva(value));
  const canonical57 = isCanonical(gva(value), 57);
  const levels = canonical48 ? [4, 3, 2, 1] : [5, 4, 3, 2, 1];
  const notes = canonical57
    ? canonical48
      ? []
      : ['Canonical only with 5-level paging.']
    : ['Not canonical: an access raises #GP.'];
  const high = value >> 63n === 1n && canonical48;
  return [plain('gva', 'linear address', `${formatHex(value)}: ${indexes(value, levels)}`, high ? 0.65 : 0.04, notes)];
};

function readPhysical(word: 'gpa' | 'hpa', frameName: string): Reader {
  return (value) => {
    if (value >> 52n) return [];
    const summary = `${formatHex(value)}: ${frameName} ${formatHex(value >> 12n)} ${indexes(value, [4, 3, 2, 1])}`;
    return [plain(word, `${word === 'gpa' ? 'guest' : 'host'} physical address`, summary, 0.03)];
  };
}

function readFrame(word: 'gfn' | 'pfn', what: string): Reader {
  return (value) => {
    if (value >> 52n) {
      const error =
        value >> 62n
          ? [
              plain(
                word,
                `${what} frame number`,
                `${formatHex(value)}: not a frame (KVM marks error and no-slot frames by bits 63:62)`,
                0.02,
              ),
            ]
          : [];
      return error;
    }
    const size = value !== 0n && (value & 0xffn) === 0n ? ` (${formatSize(value << 12n)})` : '';
    const summary = `${formatHex(value)}: address ${formatHex(value << 12n)}${size}`;
    return [plain(word, `${what} frame number`, summary, 0.02)];
  };
}

const readNumber: Reader = (value) => {
  const set = value === 0n ? 'no bit set' : `bits ${bitList(value)}`;
  return [plain('number', 'number', `${formatHex(value)} = ${value}, ${set}`, 0.01)];
};

/** A register value with the bits that a running guest always has set. */
const hasBits = (mask: bigint, fit: number) => (value: bigint) => ((value & mask) === mask ? fit : 0.08);

/** One reader per word. */
export const READERS: Readonly<Record<WordName, Reader>> = {
  spte: readSpte,
  role: readRole,
  cpu_role: readCpuRole,
  ext_role: readExtendedRole,
  gpte: (v, o) => readGpte('gpte', ['5-level', 'pae', '32-bit-pse', '32-bit'], v, o),
  'gpte-long': (v, o) => readGpte('gpte-long', ['5-level'], v, o),
  'gpte-pae': (v, o) => readGpte('gpte-pae', ['pae'], v, o),
  'gpte-32': (v, o) => readGpte('gpte-32', ['32-bit-pse', '32-bit'], v, o),
  epte: readEntries('epte', epteLayout),
  npte: readEntries('npte', npteLayout),
  sppte: readSppte,
  pfec: readPfec,
  pferr: readPferr,
  'ept-qualification': readEptQualification,
  npf: readNpf,
  'spp-qualification': (v) => under('spp-qualification', SPP_QUALIFICATION, v, { fit: v === 0x800n ? 0.4 : 0.05 }),
  'cr-qualification': (v) => under('cr-qualification', CR_QUALIFICATION, v, { fit: 0.05 }),
  'io-qualification': (v) => under('io-qualification', IO_QUALIFICATION, v, { fit: 0.04 }),
  ioio: (v) => under('ioio', IOIO_EXITINFO1, v, { fit: 0.04 }),
  'intr-info': (v) => under('intr-info', INTERRUPTION_INFO, v, { fit: v >> 31n === 1n ? 0.6 : 0.02 }),
  cr0: readRegister('cr0', CR0, hasBits(bits(0) | bits(31) | bits(4), 0.85)),
  cr3: readCr3,
  cr4: readRegister('cr4', CR4, (v) => (v & 0x20n && v < 1n << 29n && v > 0x20n ? 0.35 : 0.08)),
  efer: readRegister('efer', EFER, hasBits(0x500n, 0.75)),
  rflags: readRegister('rflags', RFLAGS, (v) => (v & 2n && v & 0x200n ? 0.3 : 0.05)),
  pkru: readRegister('pkru', PKRU, (v) => (v === 0x55555554n ? 0.9 : 0.02)),
  pkrs: readRegister('pkrs', PKRS, () => 0.02),
  eptp: readEptp,
  spptp: (v, o) => under('spptp', spptpLayout(o.hostPhysBits), v, { fit: 0.03 }),
  ncr3: (v, o) => under('ncr3', ncr3Layout(o.hostPhysBits), v, { fit: 0.03 }),
  'vmx-exit': readRegister('vmx-exit', VMX_EXIT_REASON, (v) => (v < 76n ? 0.1 : v >> 31n === 1n ? 0.15 : 0.02)),
  'svm-exit': readRegister('svm-exit', SVM_EXIT_CODE, (v) => (v >= 0x400n && v <= 0x403n ? 0.3 : v < 0xa3n ? 0.1 : 0)),
  'kvm-exit': readRegister('kvm-exit', KVM_EXIT_REASON, (v) => (v < 40n ? 0.1 : 0)),
  'ret-pf': readRetPf,
  'memslot-flags': (v, o) =>
    under('memslot-flags', memslotFlagsLayout(o.kernel ?? 'v7.3'), v, { fit: 0.03, kernels: o.kernel?.name }),
  access: readAccess,
  generation: readGeneration,
  errno: readErrno,
  gva: readGva,
  gpa: readPhysical('gpa', 'gfn'),
  hpa: readPhysical('hpa', 'pfn'),
  hva: (v) =>
    readGva(v, {}, true).map((r) => ({ ...r, word: 'hva' as const, layoutId: 'hva', title: 'host virtual address' })),
  gfn: readFrame('gfn', 'guest'),
  pfn: readFrame('pfn', 'host'),
  number: readNumber,
};
