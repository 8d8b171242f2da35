/**
 * Page tables as trees that can be browsed: the guest's from CR3, and EPT, NPT or shadow tables from each root that KVM
 * keeps. Reading is free of side effects; which entry means what is decided by src/words.
 */
import type { PhysMemory } from '../../hw/memory';
import { INVALID_PAGE, type KvmMmuPage, type KvmVcpu } from '../../kvm/kvm_host';
import type { Machine } from '../../kvm/machine';
import { role_get } from '../../kvm/roles';
import { formatHex } from '../../words/address';
import { gpteShape, LEVELS, type PagingMode } from '../../words/entries';
import { fieldOf } from '../../words/word';
import { type Lexicon, tableName } from '../lexicon';
import { type TableEntry, type TableKind, type TablePage, type TableRoot, TargetError } from '../target';
import { addressSpaceOf, readGuestWord } from './guest-memory';

/** A tree of tables: how to read an entry and where each level's index lies in an address. */
interface Tree {
  readonly root: TableRoot;
  /** bits of the index at a level */
  indexBits(level: number): number;
  readonly entrySize: 4 | 8;
  /** log2 of what an entry of a level covers */
  shift(level: number): number;
  read(entryAddress: number): bigint;
  entry(level: number, raw: bigint): Pick<TableEntry, 'marks' | 'summary' | 'target' | 'descend' | 'mmio' | 'decode'>;
  readonly prefix: string;
}

const PHYSICAL = 0xf_ffff_ffff_f000n;

/** The guest's paging mode; null while paging is off. */
export function pagingMode(vcpu: KvmVcpu): PagingMode | null {
  const s = vcpu.regs;
  if (!s.paging) return null;
  if (s.longModeActive) return s.linearBits === 57 ? '5-level' : '4-level';
  if ((s.cr4 >> 5n) & 1n) return 'pae';
  return (s.cr4 >> 4n) & 1n ? '32-bit-pse' : '32-bit';
}

/**
 * Where a linear address leads in the guest's own tables, whatever the permissions. Entries with reserved bits are
 * followed too: a memory view shows what is there. @returns null where a table entry is not present
 */
export function translateGuest(m: Machine, vcpu: KvmVcpu, gva: bigint): number | null {
  const mode = pagingMode(vcpu);
  if (!mode) return Number(BigInt.asUintN(32, gva));
  const wide = !mode.startsWith('32');
  const s = vcpu.regs;
  if (wide && mode !== 'pae' && !s.isCanonical(gva)) return null;
  const asId = addressSpaceOf(vcpu);
  const bits = wide ? 9 : 10;
  let table = Number(mode === 'pae' ? s.cr3 & 0xffff_ffe0n : wide ? s.cr3 & PHYSICAL : s.cr3 & 0xffff_f000n);
  for (const level of LEVELS[mode]) {
    const shift = BigInt(12 + bits * (level - 1));
    const index = Number((gva >> shift) & ((1n << BigInt(mode === 'pae' && level === 3 ? 2 : bits)) - 1n));
    const raw = readGuestWord(m, asId, table + index * (wide ? 8 : 4), wide ? 8 : 4);
    if (raw === null || (raw & 1n) === 0n) return null;
    if (gpteShape(mode, level, raw) === 'leaf') {
      const offset = (1n << shift) - 1n;
      // PSE-36: bits 20:13 of a 4M entry are address bits 39:32.
      const high = !wide && level === 2 ? ((raw >> 13n) & 0xffn) << 32n : 0n;
      return Number((((wide ? raw & PHYSICAL : raw & 0xffff_f000n) & ~offset) | high) + (gva & offset));
    }
    table = Number(wide ? raw & PHYSICAL : raw & 0xffff_f000n);
  }
  return null;
}

// ---- trees ---------------------------------------------------------------------------------------------------------

function guestTree(m: Machine, vcpu: KvmVcpu, lexicon: Lexicon): Tree | null {
  const mode = pagingMode(vcpu);
  if (!mode) return null;
  const s = vcpu.regs;
  const wide = mode !== '32-bit' && mode !== '32-bit-pse';
  const asId = addressSpaceOf(vcpu);
  const address = mode === 'pae' ? s.cr3 & 0xffff_ffe0n : wide ? s.cr3 & PHYSICAL : s.cr3 & 0xffff_f000n;
  const entrySize = wide ? 8 : 4;
  const nx = ((s.efer >> 11n) & 1n) === 1n;
  const [top] = LEVELS[mode];
  return {
    root: {
      id: 'guest',
      title: `Guest page tables (CR3 ${formatHex(s.cr3)}, ${mode})`,
      kind: 'guest',
      level: top,
      address,
      space: 'gpa',
      current: true,
      asId,
    },
    entrySize,
    indexBits: (level) => (mode === 'pae' && level === 3 ? 2 : wide ? 9 : 10),
    shift: (level) => 12 + (wide ? 9 : 10) * (level - 1),
    read: (at) => readGuestWord(m, asId, at, entrySize) ?? 0n,
    entry: (level, raw) => guestEntry(lexicon, mode, level, raw, nx),
    prefix: '',
  };
}

function guestEntry(
  lexicon: Lexicon,
  mode: PagingMode,
  level: number,
  raw: bigint,
  nx: boolean,
): ReturnType<Tree['entry']> {
  const decode = (): ReturnType<Lexicon['decodeGpte']> => lexicon.decodeGpte(mode, level, raw, nx);
  if ((raw & 1n) === 0n) {
    return {
      marks: raw === 0n ? [] : ['software'],
      summary: raw === 0n ? '' : 'not present',
      target: null,
      descend: false,
      mmio: null,
      decode: () => null,
    };
  }
  const decoded = decode();
  const leaf = gpteShape(mode, level, raw) === 'leaf';
  const bit = (n: bigint): boolean => ((raw >> n) & 1n) === 1n;
  const pdpte = mode === 'pae' && level === 3;
  const marks = ['present', leaf ? 'leaf' : 'table'];
  if (leaf && level > 1) marks.push('large');
  if (!pdpte) {
    if (!bit(1n)) marks.push('readonly');
    if (bit(2n)) marks.push('user');
    if (bit(5n)) marks.push('accessed');
    if (leaf && bit(6n)) marks.push('dirty');
    if (nx && !mode.startsWith('32') && bit(63n)) marks.push('nx');
  }
  if (decoded.reserved !== 0n) marks.push('reserved');
  const base = mode.startsWith('32') ? raw & 0xffff_f000n : raw & PHYSICAL;
  const size = (1n << BigInt(12 + (mode.startsWith('32') ? 10 : 9) * (level - 1))) - 1n;
  return { marks, summary: decoded.summary, target: leaf ? base & ~size : base, descend: !leaf, mmio: null, decode };
}

/** What a root of KVM's own tables is. */
interface RootFacts {
  readonly hpa: number;
  readonly role: number;
  readonly current: boolean;
  readonly note: string;
}

function secondTree(m: Machine, lexicon: Lexicon, facts: RootFacts): Tree {
  const { paging } = m.config;
  const kind: TableKind = paging;
  const level = role_get(facts.role, m.roles.level);
  const smm = role_get(facts.role, m.roles.smm);
  const asId = m.kvm.memslots.length > 1 && smm ? 1 : 0;
  const name = paging === 'ept' ? 'EPT' : paging === 'npt' ? 'NPT' : 'Shadow tables';
  const sp = m.kvm.sp_by_pfn.get(Math.floor(facts.hpa / 4096));
  // The PAE root of shadow paging is four PDPTEs in a page of their own, without a header.
  const pae = level === 3 && !sp;
  const generation = BigInt(m.kvm.memslots[asId]?.generation ?? 0);
  return {
    root: {
      id: `root:${formatHex(facts.hpa)}`,
      title: `${name} (root ${formatHex(facts.hpa)}, as_id ${asId}${facts.note ? `, ${facts.note}` : ''})`,
      kind,
      level: level || 1,
      address: BigInt(facts.hpa),
      space: 'hpa',
      current: facts.current,
      asId,
    },
    entrySize: 8,
    indexBits: (l) => (pae && l === 3 ? 2 : 9),
    shift: (l) => 12 + 9 * (l - 1),
    read: (at) => m.mem.readQ(at),
    entry: (l, raw) => (pae && l === 3 ? paeRootEntry(raw) : spteEntry(lexicon, l, raw, generation)),
    prefix: paging === 'shadow' ? 'shadow ' : `${name} `,
  };
}

function paeRootEntry(raw: bigint): ReturnType<Tree['entry']> {
  const present = (raw & 1n) === 1n;
  const target = present ? raw & PHYSICAL : null;
  const summary = present ? `PDPTE, table at ${formatHex(raw & PHYSICAL)}` : '';
  return {
    marks: present ? ['present', 'table'] : [],
    summary,
    target,
    descend: present,
    mmio: null,
    decode: () => null,
  };
}

function spteEntry(lexicon: Lexicon, level: number, raw: bigint, generation: bigint): ReturnType<Tree['entry']> {
  const s = lexicon.decodeSpte(raw, level);
  const marks: string[] = [];
  let mmio: TableEntry['mmio'] = null;
  switch (s.kind) {
    case 'zero':
    case 'nonpresent':
      break;
    case 'mmio': {
      const current = generation & BigInt(s.layout.mmio.genMask);
      const own = s.generation === null ? null : BigInt(s.generation);
      marks.push('mmio');
      if (own !== null && own !== current) marks.push('stale');
      mmio = {
        gfn: s.gfn ?? 0n,
        access: lexicon.access(s.access ?? 0),
        generation: own,
        currentGeneration: own === null ? null : current,
      };
      break;
    }
    case 'frozen':
      marks.push('removed');
      break;
    case 'other':
      marks.push('software');
      if (/misconfig|RSVD/.test(s.hardwareEffect)) marks.push('reserved');
      break;
    case 'leaf':
    case 'nonleaf': {
      marks.push('present', s.kind === 'leaf' ? 'leaf' : 'table');
      if (s.large) marks.push('large');
      if (!s.rights['w']) marks.push('readonly');
      if (s.rights['u']) marks.push('user');
      if (s.accessed) marks.push('accessed');
      if (s.dirty) marks.push('dirty');
      if (s.rights['nx'] || s.rights['x'] === 0) marks.push('nx');
    }
  }
  return {
    marks,
    summary: s.kind === 'zero' || s.kind === 'nonpresent' ? '' : s.summary,
    target: s.pfn === null ? null : s.pfn << 12n,
    descend: s.kind === 'nonleaf',
    mmio,
    decode: () => s.word,
  };
}

// ---- what the target offers ----------------------------------------------------------------------------------------

/** Every tree of a vCPU: the guest's, the current root's, then the other roots that KVM keeps. */
function trees(m: Machine, vcpu: KvmVcpu, lexicon: Lexicon): Tree[] {
  const found: Tree[] = [];
  const guest = guestTree(m, vcpu, lexicon);
  if (guest) found.push(guest);
  const seen = new Set<number>();
  const add = (hpa: number, role: number, current: boolean, note: string): void => {
    if (hpa === INVALID_PAGE || seen.has(hpa)) return;
    seen.add(hpa);
    found.push(secondTree(m, lexicon, { hpa, role, current, note }));
  };
  const roleAt = (hpa: number, fallback: number): number =>
    m.kvm.sp_by_pfn.get(Math.floor(hpa / 4096))?.role ?? fallback;
  const { mmu } = vcpu;
  add(mmu.root.hpa, roleAt(mmu.root.hpa, mmu.root_role), true, '');
  for (const prev of mmu.prev_roots) add(prev.hpa, roleAt(prev.hpa, mmu.root_role), false, 'previous root');
  const others: KvmMmuPage[] = [
    ...m.kvm.tdp_mmu_roots,
    ...[...m.kvm.active_mmu_pages].filter((sp) => sp.root_count > 0),
  ];
  for (const sp of others) add(sp.spt * 4096, sp.role, false, role_get(sp.role, m.roles.invalid) ? 'invalid' : 'kept');
  return found;
}

export function tableRoots(m: Machine, vcpu: KvmVcpu, lexicon: Lexicon): TableRoot[] {
  return trees(m, vcpu, lexicon).map((t) => t.root);
}

function treeOf(m: Machine, vcpu: KvmVcpu, lexicon: Lexicon, id: string): Tree {
  const all = trees(m, vcpu, lexicon);
  const tree = all.find((t) => t.root.id === id);
  if (tree) return tree;
  throw new TargetError(
    `there is no page table root '${id}' now: the roots are ${all.map((t) => t.root.id).join(', ') || 'none'}`,
  );
}

const hexIndex = (i: number): string => i.toString();

/**
 * A table by the indexes that lead to it.
 * @param before memory at the last stop, to mark what has changed since; null if there is none
 * @throws TargetError if the root, or a table on the way, does not exist
 */
export function tablePage(
  m: Machine,
  vcpu: KvmVcpu,
  lexicon: Lexicon,
  id: string,
  path: readonly number[],
  before: PhysMemory | null,
): TablePage {
  const tree = treeOf(m, vcpu, lexicon, id);
  const { root, entrySize } = tree;
  let [address, level, from] = [Number(root.address), root.level, 0n];
  const crumbs: TablePage['crumbs'][number][] = [
    { path: [], level, index: null, label: `${tree.prefix}${tableName(level)} ${formatHex(address)}` },
  ];
  path.forEach((index, depth) => {
    const count = 1 << tree.indexBits(level);
    if (!Number.isInteger(index) || index < 0 || index >= count) {
      throw new TargetError(`a ${tableName(level)} has entries 0 to ${count - 1}, not ${index}`);
    }
    const entry = tree.entry(level, tree.read(address + index * entrySize));
    if (!entry.descend || entry.target === null) {
      throw new TargetError(
        `entry ${index} of the ${tree.prefix}${tableName(level)} at ${formatHex(address)} leads to no table: ${entry.summary || 'it is empty'}`,
      );
    }
    from += BigInt(index) << BigInt(tree.shift(level));
    address = Number(entry.target);
    level--;
    crumbs.push({
      path: path.slice(0, depth + 1),
      level,
      index,
      label: `[${hexIndex(index)}] ${tree.prefix}${tableName(level)} ${formatHex(address)}`,
    });
  });
  const canonical = (a: bigint): bigint => {
    if (root.kind !== 'guest' || root.level < 4) return a;
    return BigInt.asUintN(64, BigInt.asIntN(root.level === 5 ? 57 : 48, a));
  };
  const coverage = 1n << BigInt(tree.shift(level));
  const sp = root.space === 'hpa' ? m.kvm.sp_by_pfn.get(Math.floor(address / 4096)) : undefined;
  return {
    root,
    path,
    level,
    levelName: `${tree.prefix}${tableName(level)}`,
    address: BigInt(address),
    from: canonical(from),
    coverage,
    entrySize,
    count: 1 << tree.indexBits(level),
    crumbs,
    page: sp ? shadowPage(lexicon, sp) : null,
    entry: (index) => {
      const at = address + index * entrySize;
      const raw = tree.read(at);
      const entry = tree.entry(level, raw);
      const changed = before !== null && root.space === 'hpa' && before.readQ(at) !== raw;
      return {
        index,
        raw,
        address: BigInt(at),
        from: canonical(from + coverage * BigInt(index)),
        ...entry,
        marks: changed ? [...entry.marks, 'changed'] : entry.marks,
      };
    },
  };
}

function shadowPage(lexicon: Lexicon, sp: KvmMmuPage): NonNullable<TablePage['page']> {
  return {
    gfn: BigInt(sp.gfn),
    role: lexicon.decodeRole(sp.role),
    rootCount: sp.tdp_mmu_page ? sp.tdp_mmu_root_count : sp.root_count,
    unsync: sp.unsync,
    tdpMmu: sp.tdp_mmu_page,
  };
}

/** Indexes from the root towards an address, as far as tables go and not below `level`. */
export function tablePath(
  m: Machine,
  vcpu: KvmVcpu,
  lexicon: Lexicon,
  id: string,
  address: bigint,
  lowest = 1,
): number[] {
  const tree = treeOf(m, vcpu, lexicon, id);
  const path: number[] = [];
  let at = Number(tree.root.address);
  for (let level = tree.root.level; level > lowest; level--) {
    const index = Number((address >> BigInt(tree.shift(level))) & ((1n << BigInt(tree.indexBits(level))) - 1n));
    const entry = tree.entry(level, tree.read(at + index * tree.entrySize));
    if (!entry.descend || entry.target === null) break;
    path.push(index);
    at = Number(entry.target);
  }
  return path;
}

/** A field of a role word, 0 where the layout has none. */
export function roleField(lexicon: Lexicon, role: number, name: string): bigint {
  const has = lexicon.pageRole.fields.some((f) => f.name === name);
  return has ? fieldOf(lexicon.pageRole, BigInt(role >>> 0), name) : 0n;
}
