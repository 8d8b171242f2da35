/** The lines of a generated scenario, and numbers as scenarios write them. */
import { CR0, CR4, EFER } from '../hw/regs';

export const hex = (v: bigint | number): string => `0x${v.toString(16)}`;

/** `0x80050033` as `PG|AM|…` when every bit has a name. */
export function flags(value: bigint, names: Readonly<Record<string, bigint>>): string {
  const found = Object.entries(names)
    .filter(([, bit]) => (value & bit) !== 0n)
    .sort((a, b) => (a[1] > b[1] ? -1 : 1));
  const known = found.reduce((sum, [, bit]) => sum | bit, 0n);
  return value !== 0n && known === value ? found.map(([name]) => name).join('|') : hex(value);
}

export const cr0 = (v: bigint): string => flags(v, CR0);
export const cr4 = (v: bigint): string => flags(v, CR4);
export const efer = (v: bigint): string => flags(v, EFER);

export const MEMSLOT_FLAGS: Readonly<Record<string, bigint>> = { LOG_DIRTY_PAGES: 1n, READONLY: 2n };

/** Collects lines. */
export class Writer {
  readonly out: string[] = [];
  readonly lines = new Map<number, [number, number]>();
  private step = 0;

  line(text = ''): void {
    this.out.push(text);
    const at = this.lines.get(this.step);
    if (at && text) at[1] = this.out.length;
  }

  comment(text: string): void {
    this.line(`# ${text}`);
  }

  begin(n: number, text: string): void {
    this.line();
    this.step = n;
    this.lines.set(n, [this.out.length + 1, this.out.length + 1]);
    this.line(`step ${n} "${text.replaceAll('"', "'")}"`);
  }
}
