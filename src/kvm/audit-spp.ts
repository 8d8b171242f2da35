/** Audit rules about sub-page permissions: the SPPT and the leaves that send the processor there. */
import type { AuditRule } from './audit';

export const SPP_RULES: readonly AuditRule[] = [];
