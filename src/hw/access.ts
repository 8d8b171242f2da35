/**
 * What a translation is asked (access flags) and what it answers (status codes, the result words). Small integers, because they are
 * made and read once per memory access of the simulated processor.
 */

// ---- Access: what the processor wants to do at a linear address. Type in bits 1:0, the rest are flags. ----

export const ACC_READ = 0;
export const ACC_WRITE = 1;
export const ACC_FETCH = 2;
/** Mask of the type. */
export const ACC_TYPE = 3;
/** The access is made at CPL 3. */
export const ACC_USER = 4;
/** Implicit supervisor access (descriptor tables, TSS, IDT): supervisor-mode at any CPL, RFLAGS.AC does not lift SMAP. SDM vol. 3A, "Access Rights". */
export const ACC_IMPLICIT = 8;
/** Shadow-stack access (CALL, RET, RSTORSSP, WRSS …): type read or write. SDM vol. 1, "Control-flow Enforcement Technology". */
export const ACC_SHSTK = 16;
/** RFLAGS.AC is 1 (matters for explicit supervisor accesses while CR4.SMAP = 1). */
export const ACC_AC = 32;
/** Number of different values of the flags above. */
export const ACC_COUNT = 64;
/** Answer without side effects: no accessed or dirty flag is written, TLBs are neither used nor filled. For debuggers. */
export const ACC_DRY = 64;

// ---- Status of a translation ----

/** Translated: see `hpa`. */
export const OK = 0;
/** #PF in the guest: `errorCode`, fault address is the linear address. */
export const PF = 1;
/** EPT violation, exit reason 48: `qual`, `faultGpa`. */
export const EPT_VIOLATION = 2;
/** EPT misconfiguration, exit reason 49: `faultGpa`. */
export const EPT_MISCONFIG = 3;
/** Nested page fault, #VMEXIT code 0x400: `qual` is EXITINFO1, `faultGpa` EXITINFO2. */
export const NPF = 4;
/** SPP-related event, exit reason 66, an SPPT entry is not valid: `qual` (bit 11 set), `faultGpa`. */
export const SPP_MISS = 5;
/** SPP-related event, exit reason 66, an SPPT entry has a reserved bit set: `qual` (bit 11 clear), `faultGpa`. */
export const SPP_MISCONFIG = 6;
/** EPT violation that is delivered as virtualization exception (#VE, vector 20). Results as EPT_VIOLATION. */
export const VE = 7;
/** The linear address is not canonical: #GP(0), or #SS(0) if the access is a stack access (the caller knows). */
export const NON_CANONICAL = 8;
/** Loading a PAE PDPTE with a reserved bit set: #GP(0) from the instruction that loads CR3, CR0 or CR4. */
export const GP_PDPTE = 9;
/** Page-modification log full, exit reason 62: `faultGpa`. Nothing was changed; the access is made again after the exit. */
export const PML_FULL = 10;

/** Names of the statuses above, by number. */
export const STATUS_NAMES = [
  'ok', 'pf', 'ept_violation', 'ept_misconfig', 'npf', 'spp_miss', 'spp_misconfig', 've', 'non_canonical', 'gp_pdpte',
  'pml_full',
] as const; // prettier-ignore

// ---- #PF error code bits. SDM vol. 3A, "Page-Fault Exceptions"; APM vol. 2, "Page-Fault Error Code". ----

export const PFEC_P = 1;
export const PFEC_W = 2;
export const PFEC_U = 4;
export const PFEC_RSVD = 8;
export const PFEC_ID = 16;
export const PFEC_PK = 32;
export const PFEC_SS = 64;

// ---- Result words: indices into Translator.r ----

/** Host-physical address, low and high half. */
export const R_HPA_LO = 0;
export const R_HPA_HI = 1;
/** Guest-physical address that the linear address translates to. */
export const R_GPA_LO = 2;
export const R_GPA_HI = 3;
/** Level of the guest entry that maps the page (1 = PTE …), 0 with paging off. */
export const R_LEVEL = 4;
/** log2 of the guest's page size, 12 … 30; 32 with paging off. */
export const R_PAGE_SHIFT = 5;
/** Level and log2 page size of the second stage's mapping; 0 and 52 without one. */
export const R_S2_LEVEL = 6;
export const R_S2_SHIFT = 7;
/** EPT memory type (bits 5:3) of the mapping, -1 without EPT. */
export const R_MEMTYPE = 8;
/** EPT ignore-PAT (bit 6) of the mapping. */
export const R_IPAT = 9;
/** #PF error code. */
export const R_ERROR = 10;
/** Exit qualification (EPT, SPP) or EXITINFO1 (NPT). */
export const R_QUAL_LO = 11;
export const R_QUAL_HI = 12;
/** Guest-physical address of a second-stage fault. */
export const R_FAULT_GPA_LO = 13;
export const R_FAULT_GPA_HI = 14;
/** Linear address of the last translation that failed. */
export const R_GVA_LO = 15;
export const R_GVA_HI = 16;
/** 1 if a second-stage fault hit an access to a guest paging-structure entry. */
export const R_TABLE_WALK = 17;
/** Level of the entry at which the walk failed. */
export const R_FAULT_LEVEL = 18;
/** Rule that failed: index into RULES (rules.ts), 0 if none. */
export const R_RULE = 19;
/** Effective guest rights of the page: RIGHT_* bits. */
export const R_RIGHTS = 20;
/** 1 if a write went through only because of the sub-page permission vector. */
export const R_SPP_ALLOWED = 21;
/** Output of the walk of one stage, before the caller moves it to its place. */
export const R_OUT_LO = 22;
export const R_OUT_HI = 23;
export const R_OUT_LEVEL = 24;
export const R_OUT_SHIFT = 25;
/** Effective rights that the second stage gives: EPT bits 0, 1, 2 and 10, or RIGHT_* bits with NPT. */
export const R_S2_RIGHTS = 26;
/** Flags of the leaf guest entry worth caching: RIGHT_* style, see LEAF_*. */
export const R_LEAF_FLAGS = 27;
export const R_COUNT = 32;

// ---- Effective rights of a guest (or NPT) mapping: all levels combined ----

export const RIGHT_W = 1;
export const RIGHT_U = 2;
export const RIGHT_NX = 4;
/** The mapping is a shadow-stack page: W = 0 and D = 1 in the last entry, W = 1 in all others. SDM vol. 3A, "Access Rights". */
export const RIGHT_SS = 8;

// ---- R_LEAF_FLAGS ----

export const LEAF_DIRTY = 1;
export const LEAF_GLOBAL = 2;
/** Protection key in bits 7:4. */
export const LEAF_PKEY_SHIFT = 4;

// ---- What the second stage is asked for ----

/** The final access to where the linear address leads. */
export const S2_FINAL = 0;
/** An access to a guest paging-structure entry. */
export const S2_TABLE = 1;
/** An access without a linear address. */
export const S2_NO_GLA = 2;
/** A load of the PAE PDPTEs: a read for EPT even with accessed and dirty flags, an access to a guest table for NPT. */
export const S2_PDPTES = 3;
