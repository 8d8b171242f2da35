/**
 * The virtual machine control block of AMD-V as memory holds it: one page, two areas. A table of the fields that paging, exits and
 * world switches need; everything that reads or writes a VMCB goes through it.
 * Source: APM vol. 2 appendix B (layout), 15.9 and appendix C (intercepts and exit codes).
 */
import type { Op } from './insn';
import type { PhysMemory } from './memory';
import type { CpuState, Segment } from './regs';
import { segment } from './regs';

/** One field: byte offset in the VMCB, size in bytes. */
export interface VmcbField {
  readonly offset: number;
  readonly size: 1 | 2 | 4 | 8;
  readonly meaning: string;
}

const f = (offset: number, size: VmcbField['size'], meaning: string): VmcbField => ({ offset, size, meaning });

/** Control area (0x000..0x3ff) and state-save area (0x400..), segments apart (see {@link VMCB_SEGMENTS}). */
export const VMCB_FIELDS = {
  intercept_cr: f(0x000, 4, 'CR reads in bits 15:0, CR writes in bits 31:16'),
  intercept_dr: f(0x004, 4, 'DR reads and writes'),
  intercept_exceptions: f(0x008, 4, 'exception vectors'),
  intercept_word3: f(0x00c, 4, 'INTR … SHUTDOWN'),
  intercept_word4: f(0x010, 4, 'VMRUN … MCOMMIT'),
  intercept_word5: f(0x014, 4, 'INVLPGB and later ones'),
  iopm_base_pa: f(0x040, 8, 'I/O permission map'),
  msrpm_base_pa: f(0x048, 8, 'MSR permission map'),
  tsc_offset: f(0x050, 8, 'TSC offset'),
  asid: f(0x058, 4, 'guest ASID'),
  tlb_ctl: f(0x05c, 1, 'TLB control'),
  int_ctl: f(0x060, 4, 'virtual interrupt control'),
  int_vector: f(0x064, 4, 'virtual interrupt vector'),
  int_state: f(0x068, 4, 'interrupt shadow'),
  exit_code: f(0x070, 4, 'exit code'),
  exit_code_hi: f(0x074, 4, 'exit code, high half'),
  exit_info_1: f(0x078, 8, 'EXITINFO1'),
  exit_info_2: f(0x080, 8, 'EXITINFO2'),
  exit_int_info: f(0x088, 4, 'EXITINTINFO: the event whose delivery the exit interrupted'),
  exit_int_info_err: f(0x08c, 4, 'its error code'),
  nested_ctl: f(0x090, 8, 'bit 0: nested paging'),
  event_inj: f(0x0a8, 4, 'event to inject'),
  event_inj_err: f(0x0ac, 4, 'its error code'),
  nested_cr3: f(0x0b0, 8, 'nCR3: root of the nested page tables'),
  next_rip: f(0x0c8, 8, 'nRIP'),
  cpl: f(0x4cb, 1, 'CPL'),
  efer: f(0x4d0, 8, 'EFER'),
  cr4: f(0x548, 8, 'CR4'),
  cr3: f(0x550, 8, 'CR3'),
  cr0: f(0x558, 8, 'CR0'),
  dr7: f(0x560, 8, 'DR7'),
  dr6: f(0x568, 8, 'DR6'),
  rflags: f(0x570, 8, 'RFLAGS'),
  rip: f(0x578, 8, 'RIP'),
  rsp: f(0x5d8, 8, 'RSP'),
  rax: f(0x5f8, 8, 'RAX'),
  star: f(0x600, 8, 'STAR'),
  lstar: f(0x608, 8, 'LSTAR'),
  cstar: f(0x610, 8, 'CSTAR'),
  sfmask: f(0x618, 8, 'SFMASK'),
  kernel_gs_base: f(0x620, 8, 'KernelGsBase'),
  sysenter_cs: f(0x628, 8, 'SYSENTER_CS'),
  sysenter_esp: f(0x630, 8, 'SYSENTER_ESP'),
  sysenter_eip: f(0x638, 8, 'SYSENTER_EIP'),
  cr2: f(0x640, 8, 'CR2'),
  g_pat: f(0x668, 8, 'guest PAT'),
} as const satisfies Record<string, VmcbField>;

export type VmcbFieldName = keyof typeof VMCB_FIELDS;

/** Segments of the state-save area: selector (2), attributes (2), limit (4), base (8). */
export const VMCB_SEGMENTS = {
  es: 0x400,
  cs: 0x410,
  ss: 0x420,
  ds: 0x430,
  fs: 0x440,
  gs: 0x450,
  gdtr: 0x460,
  ldtr: 0x470,
  idtr: 0x480,
  tr: 0x490,
} as const;

export type VmcbSegmentName = keyof typeof VMCB_SEGMENTS;

/** Exit codes. An intercept's bit number in the intercept words is its exit code (words 0 to 5 from bit 0). */
export const SVM_EXIT = {
  READ_CR0: 0x00,
  WRITE_CR0: 0x10,
  EXCP_BASE: 0x40,
  INTR: 0x60,
  NMI: 0x61,
  CR0_SEL_WRITE: 0x65,
  RDTSC: 0x6e,
  CPUID: 0x72,
  RSM: 0x73,
  SWINT: 0x75,
  INVD: 0x76,
  HLT: 0x78,
  INVLPG: 0x79,
  INVLPGA: 0x7a,
  IOIO: 0x7b,
  MSR: 0x7c,
  SHUTDOWN: 0x7f,
  VMRUN: 0x80,
  VMMCALL: 0x81,
  VMLOAD: 0x82,
  VMSAVE: 0x83,
  STGI: 0x84,
  CLGI: 0x85,
  SKINIT: 0x86,
  WBINVD: 0x89,
  NPF: 0x400,
  /** an exit that no guest sees: KVM leaves L2 of its own accord */
  SW: 0xf0000000,
  /** VMEXIT_INVALID */
  ERR: 0xffffffff,
} as const;

/** Instructions that an intercept of their own stops, with the exit code and the name that KVM's trace prints. */
export const SVM_INSN_EXITS: readonly (readonly [Op, number, string])[] = [
  ['rdtsc', SVM_EXIT.RDTSC, 'rdtsc'],
  ['cpuid', SVM_EXIT.CPUID, 'cpuid'],
  ['int', SVM_EXIT.SWINT, 'swint'],
  ['invd', SVM_EXIT.INVD, 'invd'],
  ['hlt', SVM_EXIT.HLT, 'hlt'],
  ['invlpg', SVM_EXIT.INVLPG, 'invlpg'],
  ['invlpga', SVM_EXIT.INVLPGA, 'invlpga'],
  ['vmrun', SVM_EXIT.VMRUN, 'vmrun'],
  ['vmmcall', SVM_EXIT.VMMCALL, 'hypercall'],
  ['vmload', SVM_EXIT.VMLOAD, 'vmload'],
  ['vmsave', SVM_EXIT.VMSAVE, 'vmsave'],
  ['stgi', SVM_EXIT.STGI, 'stgi'],
  ['clgi', SVM_EXIT.CLGI, 'clgi'],
  ['skinit', SVM_EXIT.SKINIT, 'skinit'],
  ['wbinvd', SVM_EXIT.WBINVD, 'wbinvd'],
];

/** A VMCB in host-physical memory. */
export class Vmcb {
  /** @param hpa byte address of the page */
  constructor(
    readonly mem: PhysMemory,
    readonly hpa: number,
  ) {}

  get(name: VmcbFieldName): bigint {
    const { offset, size } = VMCB_FIELDS[name];
    const at = this.hpa + offset;
    if (size === 8) return this.mem.readQ(at);
    return BigInt(size === 4 ? this.mem.read32(at) >>> 0 : size === 2 ? this.mem.read16(at) : this.mem.read8(at));
  }

  /** A field of at most four bytes. */
  num(name: VmcbFieldName): number {
    return Number(this.get(name));
  }

  set(name: VmcbFieldName, value: bigint | number): void {
    const { offset, size } = VMCB_FIELDS[name];
    const at = this.hpa + offset;
    const v = BigInt(value);
    if (size === 8) this.mem.writeQ(at, Number(v & 0xffffffffn), Number((v >> 32n) & 0xffffffffn));
    else if (size === 4) this.mem.write32(at, Number(v & 0xffffffffn));
    else if (size === 2) this.mem.write16(at, Number(v & 0xffffn));
    else this.mem.write8(at, Number(v & 0xffn));
  }

  /** A segment; the attributes are those of a descriptor with bits 11:8 (limit 19:16) squeezed out (APM vol. 2 15.5.1). */
  segment(name: VmcbSegmentName): Segment {
    const at = this.hpa + VMCB_SEGMENTS[name];
    const attr = this.mem.read16(at + 2);
    return segment({
      selector: this.mem.read16(at),
      limit: this.mem.read32(at + 4) >>> 0,
      base: this.mem.readQ(at + 8),
      type: attr & 15,
      s: (attr >> 4) & 1,
      dpl: (attr >> 5) & 3,
      present: (attr >> 7) & 1,
      l: (attr >> 9) & 1,
      db: (attr >> 10) & 1,
      g: (attr >> 11) & 1,
      unusable: (attr >> 7) & 1 ? 0 : 1,
    });
  }

  setSegment(name: VmcbSegmentName, s: Segment): void {
    const at = this.hpa + VMCB_SEGMENTS[name];
    const attr = s.type | (s.s << 4) | (s.dpl << 5) | (s.present << 7) | (s.l << 9) | (s.db << 10) | (s.g << 11);
    this.mem.write16(at, s.selector);
    this.mem.write16(at + 2, s.unusable ? 0 : attr);
    this.mem.write32(at + 4, s.limit);
    this.mem.writeQ(at + 8, Number(s.base & 0xffffffffn), Number(s.base >> 32n));
  }

  table(name: 'gdtr' | 'idtr'): { base: bigint; limit: number } {
    const at = this.hpa + VMCB_SEGMENTS[name];
    return { limit: this.mem.read32(at + 4) >>> 0, base: this.mem.readQ(at + 8) };
  }

  setTable(name: 'gdtr' | 'idtr', t: { base: bigint; limit: number }): void {
    const at = this.hpa + VMCB_SEGMENTS[name];
    this.mem.write32(at + 4, t.limit);
    this.mem.writeQ(at + 8, Number(t.base & 0xffffffffn), Number(t.base >> 32n));
  }

  /** The state that VMRUN loads (APM vol. 2 15.5.1), put into `s`. FS, GS, TR, LDTR stay: VMLOAD loads them. */
  loadVmrunState(s: CpuState): void {
    for (const name of ['es', 'cs', 'ss', 'ds'] as const) s[name] = this.segment(name);
    s.ss = { ...s.ss, dpl: this.num('cpl') };
    Object.assign(s.gdtr, this.table('gdtr'));
    Object.assign(s.idtr, this.table('idtr'));
    s.rflags = this.get('rflags') | 2n;
    s.efer = this.get('efer');
    s.cr0 = this.get('cr0');
    s.cr2 = this.get('cr2');
    s.cr3 = this.get('cr3');
    s.cr4 = this.get('cr4');
    s.dr6 = this.get('dr6');
    s.dr7 = this.get('dr7');
    s.gpr[0] = this.get('rax');
    s.gpr[4] = this.get('rsp');
    s.rip = this.get('rip');
  }

  /** The state that #VMEXIT stores (APM vol. 2 15.6). */
  storeVmrunState(s: CpuState): void {
    for (const name of ['es', 'cs', 'ss', 'ds'] as const) this.setSegment(name, s[name]);
    this.setTable('gdtr', s.gdtr);
    this.setTable('idtr', s.idtr);
    this.set('rflags', s.rflags);
    this.set('efer', s.efer);
    this.set('cr0', s.cr0);
    this.set('cr2', s.cr2);
    this.set('cr3', s.cr3);
    this.set('cr4', s.cr4);
    this.set('dr6', s.dr6);
    this.set('dr7', s.dr7);
    this.set('rax', s.gpr[0]);
    this.set('rsp', s.gpr[4]);
    this.set('rip', s.rip);
    this.set('cpl', s.cpl);
  }
}

/** MSRs that VMLOAD and VMSAVE move besides FS, GS, TR and LDTR (APM vol. 3, VMLOAD). */
export const VMLOAD_MSRS: readonly (readonly [VmcbFieldName, number])[] = [
  ['star', 0xc0000081],
  ['lstar', 0xc0000082],
  ['cstar', 0xc0000083],
  ['sfmask', 0xc0000084],
  ['kernel_gs_base', 0xc0000102],
  ['sysenter_cs', 0x174],
  ['sysenter_esp', 0x175],
  ['sysenter_eip', 0x176],
];
