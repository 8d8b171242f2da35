/**
 * Shadow PTEs: one import for the eras' facts (spte-tables.ts), a layout on a host (spte-layout.ts), the predicates and
 * the MMIO codec (spte-ops.ts; spte-pairs.ts for hot paths), field tables (spte-words.ts) and reading (spte-decode.ts).
 */
export { SPTE_ERAS } from './spte-tables';
export type { GenPart, PagingType, SpteEra } from './spte-tables';
export { spteLayout } from './spte-layout';
export type { SpteLayout, SpteMasks, SpteOptions } from './spte-layout';
export * from './spte-ops';
export * from './spte-pairs';
export { EPT_MEMTYPES, spteWord, spteWords } from './spte-words';
export type { SpteWordKind } from './spte-words';
export { decodeSpte } from './spte-decode';
export type { DecodedSpte, SpteKind } from './spte-decode';
