/**
 * What a processor must do with an access, written from the SDM (vol. 3A chapter 4, "Paging") and the APM (vol. 2 chapter 5) alone:
 * the entries of a walk one after another, the rules on each, the rights of all together. Deliberately slow and plain, and without any
 * walker of src/.
 *
 * A processor may use an entry as it was at any time since it was last told to forget it. So a walk has a set of possible results: one
 * if nothing was edited since, more otherwise. Whatever is not among them is wrong.
 */
import type { EntryValue, Reference } from './reference';

/** Registers that decide about a walk and its verdict. */
export interface Controls {
  mode: 'off' | '32' | 'pae' | '4level' | '5level';
  wp: boolean;
  nxe: boolean;
  smep: boolean;
  smap: boolean;
  pse: boolean;
  pke: boolean;
  pkru: number;
  /** RFLAGS.AC */
  ac: boolean;
  maxphyaddr: number;
  /** 1 GiB pages exist */
  pages1g: boolean;
  amd: boolean;
}

export type AccessKind = 'load' | 'store' | 'rmw' | 'fetch';

/** One entry that a walk looked at. */
export interface Visited {
  readonly page: number;
  readonly gfn: number;
  readonly offset: number;
  readonly leaf: boolean;
}

/** Where one possible walk leads. */
export interface WalkResult {
  readonly kind: 'absent' | 'reserved' | 'unreadable' | 'leaf' | 'unspecified';
  readonly gpa: number;
  readonly w: boolean;
  readonly u: boolean;
  readonly nx: boolean;
  readonly key: number;
  readonly global: boolean;
  /** all entries had A, the last one D */
  readonly accessed: boolean;
  readonly dirty: boolean;
}

/** One thing that may happen. */
export type Outcome =
  | { readonly kind: 'fault'; readonly code: number }
  | { readonly kind: 'access'; readonly gpa: number; readonly via: WalkResult | null }
  | { readonly kind: 'gp' };

const P = 1;
const W = 2;
const U = 4;
const RSVD = 8;
const ID = 16;
const PK = 32;

/** More possible walks than this: nothing is promised about the address. */
const MAX_RESULTS = 64;

const result = (kind: WalkResult['kind']): WalkResult => ({
  kind,
  gpa: 0,
  w: false,
  u: false,
  nx: false,
  key: 0,
  global: false,
  accessed: false,
  dirty: false,
});

/** Whether an entry that is present has a reserved bit set; SDM tables 4-5 to 4-20 and APM 5.3, 5.4. */
function reserved(c: Controls, level: number, lo: number, hi: number): boolean {
  if (c.mode === '32') return level === 2 && c.pse && (lo & 0x80) !== 0 && (lo & 0x200000) !== 0;
  const address = (0xfffff & ~(2 ** (c.maxphyaddr - 32) - 1)) >>> 0;
  if ((hi & address) !== 0) return true;
  if (!c.nxe && hi >>> 31 === 1) return true;
  if (c.mode === 'pae' && (hi & 0x7ff00000) !== 0) return true;
  const large = (lo & 0x80) !== 0;
  if (level >= 4) return large || (c.amd && (lo & 0x100) !== 0);
  if (level === 3) return large && (!c.pages1g || (lo & 0x3fffe000) !== 0);
  if (level === 2) return large && (lo & 0x1fe000) !== 0;
  return false;
}

const isLeaf = (c: Controls, level: number, lo: number): boolean =>
  level === 1 || ((lo & 0x80) !== 0 && (level === 2 ? c.mode !== '32' || c.pse : level === 3));

/** Where a walk starts: the frame of the top table, or (PAE) the four PDPTEs. */
export interface Root {
  readonly gfn: number;
  readonly pdptes: readonly EntryValue[] | null;
}

/**
 * Every possible walk of a linear page.
 * @param index of the page at each level, by level - 1
 * @param since the last time that the processor was told to forget
 * @param visited receives each entry looked at
 * @returns null when there are too many
 */
export function walk(
  ref: Reference,
  as: number,
  c: Controls,
  root: Root,
  index: readonly number[],
  since: number,
  visited: Visited[] | null,
): WalkResult[] | null {
  const size = c.mode === '32' ? 4 : 8;
  const out: WalkResult[] = [];
  const levels = c.mode === '32' ? 2 : c.mode === 'pae' ? 3 : c.mode === '4level' ? 4 : 5;

  const push = (r: WalkResult): boolean => {
    out.push(r);
    return out.length <= MAX_RESULTS;
  };

  const down = (gfn: number, level: number, w: boolean, u: boolean, nx: boolean, accessed: boolean): boolean => {
    const offset = index[level - 1] * size;
    const values: EntryValue[] = [];
    // KVM sets no flags in tables that the guest cannot write (v6.1 update_accessed_dirty_bits()).
    const fixed = ref.slotAt(as, gfn)?.spec.readonly === true;
    ref.values(as, gfn, offset, size, since, values);
    for (const e of values) {
      if (e.page < 0) {
        visited?.push({ page: -1, gfn, offset, leaf: false });
        if (!push(result('unreadable'))) return false;
        continue;
      }
      const leaf = (e.lo & 1) !== 0 && isLeaf(c, level, e.lo);
      visited?.push({ page: e.page, gfn, offset, leaf });
      if ((e.lo & 1) === 0) {
        if (!push(result('absent'))) return false;
        continue;
      }
      if (reserved(c, level, e.lo, e.hi)) {
        if (!push(result('reserved'))) return false;
        continue;
      }
      const w2 = w && (e.lo & 2) !== 0;
      const u2 = u && (e.lo & 4) !== 0;
      const nx2 = nx || (c.nxe && e.hi >>> 31 === 1);
      const a2 = accessed && (fixed || (e.lo & 0x20) !== 0);
      const frame = size === 4 ? e.lo >>> 12 : (e.hi & 0xfffff) * 0x100000 + (e.lo >>> 12);
      if (!leaf) {
        if (!down(frame, level - 1, w2, u2, nx2, a2)) return false;
        continue;
      }
      let base = frame;
      if (level > 1) {
        const bits = size === 4 ? 10 : 9;
        const pages = 2 ** (bits * (level - 1));
        base = frame - (frame % pages);
        // PSE-36: bits 20:13 of a 4 MiB page's entry are address bits 39:32
        if (size === 4) base += ((e.lo >>> 13) & 0xff) * 0x100000;
        for (let l = level - 1; l >= 1; l--) base += index[l - 1] * 2 ** (bits * (l - 1));
        // How many of these bits exist, processors (and KVM, which knows four) disagree about.
        if (size === 4 && (e.lo & 0x1e0000) !== 0) {
          if (!push(result('unspecified'))) return false;
          continue;
        }
      }
      const ok = push({
        kind: 'leaf',
        gpa: base * 4096,
        w: w2,
        u: u2,
        nx: nx2,
        key: c.mode === '4level' || c.mode === '5level' ? (e.hi >>> 27) & 15 : 0,
        global: (e.lo & 0x100) !== 0,
        accessed: a2,
        dirty: fixed || (e.lo & 0x40) !== 0,
      });
      if (!ok) return false;
    }
    return true;
  };

  if (root.pdptes) {
    const e = root.pdptes[index[2]];
    if ((e.lo & 1) === 0) return [result('absent')];
    return down((e.hi & 0xfffff) * 0x100000 + (e.lo >>> 12), 2, true, true, false, true) ? out : null;
  }
  return down(root.gfn, levels, true, true, false, true) ? out : null;
}

/** #PF error code or 0 for an access through a page with these rights. SDM vol. 3A 4.6 and 4.7. */
export function denied(c: Controls, r: WalkResult, kind: AccessKind, user: boolean): number {
  const write = kind === 'store' || kind === 'rmw';
  const fetch = kind === 'fetch';
  let no: boolean;
  if (user) no = !r.u || (write && !r.w) || (fetch && r.nx);
  else if (fetch) no = r.nx || (r.u && c.smep);
  else no = (write && !r.w && c.wp) || (r.u && c.smap && !c.ac);
  let code = 0;
  if (no) code = P;
  if (c.pke && r.u && !fetch && (c.mode === '4level' || c.mode === '5level')) {
    const bits = (c.pkru >>> (2 * r.key)) & 3;
    if ((bits & 1) !== 0 || ((bits & 2) !== 0 && write && (user || c.wp))) code |= P | PK;
  }
  return code === 0 ? 0 : code | flags(c, kind, user);
}

/** The bits of an error code that tell about the access. SDM vol. 3A 4.7. */
export function flags(c: Controls, kind: AccessKind, user: boolean): number {
  const write = kind === 'store' || kind === 'rmw';
  const id = kind === 'fetch' && (c.smep || (c.nxe && c.mode !== '32'));
  return (write ? W : 0) | (user ? U : 0) | (id ? ID : 0);
}

/** What an access through one walk comes to; null when nothing is said about it. */
export function verdict(c: Controls, r: WalkResult, kind: AccessKind, user: boolean): Outcome | null {
  switch (r.kind) {
    case 'unspecified':
      return null;
    // `unreadable`, a table where there is no memory: KVM reports the address as not mapped (v6.1 walk_addr_generic()).
    case 'absent':
    case 'unreadable':
      return { kind: 'fault', code: flags(c, kind, user) };
    case 'reserved':
      return { kind: 'fault', code: P | RSVD | flags(c, kind, user) };
    case 'leaf': {
      const code = denied(c, r, kind, user);
      return code === 0 ? { kind: 'access', gpa: r.gpa, via: r } : { kind: 'fault', code };
    }
  }
}
