/** Runs one line of any vector format through src/hw. */
import { skipped, type VectorOutcome } from './vectors-compare';
import type { Vector } from './vectors-format';
import { run2d, runEpt, runGuest, runNpt } from './vectors-mmu';
import { runAccess, runTranslate } from './vectors-paging';

/** Runs one line and says where the two sides disagree. */
export function runVector(v: Vector): VectorOutcome {
  if ('disputed' in v && v.disputed === true && v.sdm === undefined) {
    return skipped(`disputed, and the manual leaves it open: ${v.dispute ?? ''}`);
  }
  switch (v.format) {
    case 'guest':
      return runGuest(v);
    case 'ept':
      return runEpt(v);
    case 'npt':
      return runNpt(v);
    case 'ept-2d':
    case 'npt-2d':
      return run2d(v);
    case 'access':
      return runAccess(v);
    case 'translate':
      return runTranslate(v);
  }
}
