/**
 * The words of one source: its kernel, vendor and host decide which tables read them. Every view of a target names
 * entries, roles and codes through one of these.
 */
import { accessText, cpuRoleLayout, hasExtendedRole, pageRoleLayout } from '../words/roles';
import { decodeSpte, type DecodedSpte, spteLayout, type SpteLayout, type SpteOptions } from '../words/sptes';
import { decodeGpte, ENTRY_NAMES, type PagingMode } from '../words/entries';
import { decodeWord, type Decoded, type WordLayout } from '../words/word';
import type { WordReader } from './event-info';

export interface LexiconOptions extends SpteOptions {
  readonly kernel: string;
  readonly vendor: 'intel' | 'amd';
  readonly paging: 'ept' | 'npt' | 'shadow';
  /** MAXPHYADDR of the guest, for reserved bits of its entries */
  readonly guestPhysBits: number;
  /** the host's spte layout, if it is known already */
  readonly sptes?: SpteLayout;
}

export class Lexicon implements WordReader {
  readonly sptes: SpteLayout;
  readonly pageRole: WordLayout;
  /** null up to v4.19, where the role is one word */
  readonly cpuRoleWord: WordLayout | null;

  constructor(readonly options: LexiconOptions) {
    const { kernel, paging } = options;
    this.sptes = options.sptes ?? spteLayout(kernel, paging === 'ept' ? 'ept' : 'legacy', options);
    this.pageRole = pageRoleLayout(kernel);
    this.cpuRoleWord = hasExtendedRole(kernel) ? cpuRoleLayout(kernel) : null;
  }

  role(word: bigint): string {
    return decodeWord(this.pageRole, BigInt.asUintN(32, word)).summary;
  }

  cpuRole(word: bigint): string {
    return this.cpuRoleWord ? decodeWord(this.cpuRoleWord, BigInt.asUintN(64, word)).summary : this.role(word);
  }

  spte(word: bigint, level: number | undefined): string {
    return decodeSpte(this.sptes, word, level).summary;
  }

  access(bits: number): string {
    const width = this.pageRole.fields.find((f) => f.name === 'access')?.width === 4 ? 4 : 3;
    return accessText(bits, width);
  }

  decodeSpte(word: bigint, level: number): DecodedSpte {
    return decodeSpte(this.sptes, word, level);
  }

  decodeRole(word: number): Decoded {
    return decodeWord(this.pageRole, BigInt(word >>> 0));
  }

  decodeGpte(mode: PagingMode, level: number, word: bigint, nx: boolean): Decoded {
    return decodeGpte(mode, level, word, { maxPhyAddr: this.options.guestPhysBits, nx });
  }
}

/** Names of tables by level, without the E of their entries: PT, PD, PDPT, PML4, PML5. */
export function tableName(level: number): string {
  return (ENTRY_NAMES[level] ?? `level ${level} entry`).replace(/E$/, '');
}
