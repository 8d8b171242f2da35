/**
 * What the test knows of one vCPU: its control registers, and when it was last told to forget which translations. SDM vol. 3A 4.10.4
 * says which instruction forgets what; where it leaves a choice, nothing counts as forgotten.
 */
import { CR0, CR4, EFER } from '../../src/hw/regs';
import type { Machine } from '../../src/kvm/machine';
import type { LinearPage, GuestMode } from './layout';
import { verdict, walk, type AccessKind, type Controls, type Outcome, type Root, type Visited, type WalkResult } from './oracle';
import type { EntryValue, Reference } from './reference'; // prettier-ignore

interface PastRoot {
  readonly root: Root;
  readonly until: number;
}

/** Registers that SMM saves and RSM brings back. */
interface Saved {
  cr0: bigint;
  cr3: bigint;
  cr4: bigint;
  efer: bigint;
  root: Root;
  pcid: number;
}

export class Cpu {
  cr0: bigint;
  cr3: bigint;
  cr4: bigint;
  efer: bigint;
  pkru = 0;
  smm = false;
  saved: Saved | null = null;
  root: Root;
  pcid = 0;
  /** by PCID: roots that were in use */
  private readonly pastRoots = new Map<number, PastRoot[]>();
  private allFlushed = 0;
  private readonly pcidFlushed = new Map<number, number>();
  /** by linear page: the last INVLPG of it, for global entries and by PCID */
  private readonly pageFlushed = new Map<LinearPage, { global: number; pcid: Map<number, number> }>();

  constructor(
    readonly id: number,
    private readonly guest: GuestMode,
    private readonly machine: Machine['config'],
    private readonly ref: Reference,
    regs: { cr0: bigint; cr3: bigint; cr4: bigint; efer: bigint },
    pdptes: readonly EntryValue[] | null,
  ) {
    this.cr0 = regs.cr0;
    this.cr3 = regs.cr3;
    this.cr4 = regs.cr4;
    this.efer = regs.efer;
    this.root = { gfn: Number(regs.cr3 >> 12n), pdptes };
  }

  /** The address space that the vCPU sees. */
  get as(): number {
    return this.smm ? 1 : 0;
  }

  get paging(): boolean {
    return (this.cr0 & CR0.PG) !== 0n;
  }

  controls(ac: boolean): Controls {
    const bit = (word: bigint, mask: bigint): boolean => (word & mask) !== 0n;
    return {
      mode: this.paging ? this.guest : 'off',
      wp: bit(this.cr0, CR0.WP),
      nxe: bit(this.efer, EFER.NXE),
      smep: bit(this.cr4, CR4.SMEP),
      smap: bit(this.cr4, CR4.SMAP),
      pse: bit(this.cr4, CR4.PSE),
      pke: bit(this.cr4, CR4.PKE),
      pkru: this.pkru,
      ac,
      maxphyaddr: this.machine.maxphyaddr,
      pages1g: this.machine.features.includes('pdpe1gb'),
      amd: this.machine.vendor === 'amd',
    };
  }

  // ---- What is forgotten ----

  /** Everything, global entries too. */
  flushAll(): void {
    this.allFlushed = ++this.ref.now;
    this.pcidFlushed.clear();
    this.pageFlushed.clear();
    this.pastRoots.clear();
  }

  /** Entries of a PCID that are not global. */
  flushPcid(pcid: number): void {
    this.pcidFlushed.set(pcid, ++this.ref.now);
  }

  /** INVLPG: the page in the current PCID, and global. */
  flushPage(page: LinearPage, pcid = this.pcid, global = true): void {
    const now = ++this.ref.now;
    let p = this.pageFlushed.get(page);
    if (!p) this.pageFlushed.set(page, (p = { global: 0, pcid: new Map() }));
    p.pcid.set(pcid, now);
    if (global) p.global = now;
  }

  /** Since when translations of a page may be remembered: entries that are not global, and global ones. */
  private since(page: LinearPage): { local: number; global: number } {
    const p = this.pageFlushed.get(page);
    const global = Math.max(this.allFlushed, p?.global ?? 0);
    const local = Math.max(this.allFlushed, this.pcidFlushed.get(this.pcid) ?? 0, p?.pcid.get(this.pcid) ?? 0);
    return { local, global: Math.min(global, local) };
  }

  /** The time before which nothing is remembered any more. */
  get horizon(): number {
    return this.allFlushed;
  }

  /** Another root, or another PCID, from now on. */
  switchRoot(root: Root, pcid: number): void {
    const list = this.pastRoots.get(this.pcid);
    const past = { root: this.root, until: ++this.ref.now };
    if (list) list.push(past);
    else this.pastRoots.set(this.pcid, [past]);
    this.root = root;
    this.pcid = pcid;
  }

  // ---- What may happen ----

  /**
   * Everything that an access to a linear page may come to.
   * @param strict with the entries as memory holds them now: what a walk without caches does
   * @param visited receives the entries that a walk may have read
   * @returns null when nothing is promised
   */
  outcomes(
    page: LinearPage,
    kind: AccessKind,
    user: boolean,
    ac: boolean,
    strict: boolean,
    visited: Visited[] | null,
  ): Outcome[] | null {
    if (!page.canonical) return [{ kind: 'gp' }];
    const c = this.controls(ac);
    const out: Outcome[] = [];
    // Shadow pages do not tell EFER.NXE = 0 from 1: what was mapped while XD meant something stays mapped when it has become a reserved
    // bit (v5.19+ kvm_calc_shadow_mmu_root_page_role()).
    const withNx = this.machine.paging === 'shadow' && !c.nxe && c.mode !== '32' ? { ...c, nxe: true } : null;
    const take = (found: WalkResult[] | null, onlyGlobal: boolean): boolean => {
      if (found === null) return false;
      for (const r of found) {
        if (onlyGlobal && !(r.kind === 'leaf' && r.global)) continue;
        const v = verdict(c, r, kind, user);
        if (v === null) return false;
        out.push(v);
      }
      return true;
    };
    const { now } = this.ref;
    const since = strict ? { local: now, global: now } : this.since(page);
    const from = (root: Root, t: number): WalkResult[] | null => walk(this.ref, this.as, c, root, page.index, t, visited);
    if (withNx !== null)
      for (const root of [this.root, ...(this.pastRoots.get(this.pcid) ?? []).filter((p) => p.until > since.local).map((p) => p.root)])
        for (const r of walk(this.ref, this.as, withNx, root, page.index, since.local, null) ?? []) {
          const v = verdict(withNx, r, kind, user);
          if (v?.kind === 'access') out.push(v);
        }
    if (!take(from(this.root, since.local), false)) return null;
    if (strict) return out;
    for (const p of this.pastRoots.get(this.pcid) ?? [])
      if (p.until > since.local && !take(from(p.root, since.local), false)) return null;
    if ((this.cr4 & CR4.PGE) !== 0n) {
      if (since.global < since.local && !take(from(this.root, since.global), true)) return null;
      // Global entries serve every PCID, whichever they were read under.
      for (const list of this.pastRoots.values())
        for (const p of list) if (p.until > since.global && !take(from(p.root, since.global), true)) return null;
    }
    return out;
  } // prettier-ignore
}
