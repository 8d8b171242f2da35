/*
 * What bench/walk.bench.ts is measured against: address translation in C with the checks of src/hw, for the same work in the same run.
 *
 * It is written as one would write it in C, not as a transcript: 64-bit entries, pointers, structures. Like src/hw it works in sparse
 * host-physical memory (a hash from frame number to frame) and under registers that are known at run time only. All guest modes, EPT
 * and NPT, misconfigurations, reserved bits, access rights, protection keys, accessed and dirty flags, error codes and qualifications,
 * a TLB with PCIDs and global pages.
 *
 *   cc -O2 -o walk walk.c && ./walk [NAME]
 *
 * prints one line "name nanoseconds check" for each piece of work (or the named one); `check` is a sum over the results that the TypeScript side repeats.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

/* ---- Host-physical memory ---- */

struct memory {
    u32 *keys;   /* frame number + 1, 0: free */
    u64 **frames;
    u32 mask, shift, count;
};

static u64 zero_frame[512];

static void memory_init(struct memory *m)
{
    m->mask = 1023;
    m->shift = 22;
    m->count = 0;
    m->keys = calloc(m->mask + 1, sizeof *m->keys);
    m->frames = calloc(m->mask + 1, sizeof *m->frames);
}

static inline u64 *find(const struct memory *m, u64 pa)
{
    u32 pfn = pa >> 12;
    for (u32 i = pfn * 0x9e3779b1u >> m->shift;; i = (i + 1) & m->mask) {
        if (m->keys[i] == pfn + 1)
            return m->frames[i];
        if (m->keys[i] == 0)
            return zero_frame;
    }
}

static void memory_put(struct memory *m, u32 pfn, u64 *frame)
{
    u32 i = pfn * 0x9e3779b1u >> m->shift;
    while (m->keys[i] != 0)
        i = (i + 1) & m->mask;
    m->keys[i] = pfn + 1;
    m->frames[i] = frame;
    m->count++;
}

static u64 *own(struct memory *m, u64 pa)
{
    u64 *f = find(m, pa);
    if (f != zero_frame)
        return f;
    if (m->count * 2 >= m->mask) {
        struct memory old = *m;
        m->mask = old.mask * 2 + 1;
        m->shift--;
        m->count = 0;
        m->keys = calloc(m->mask + 1, sizeof *m->keys);
        m->frames = calloc(m->mask + 1, sizeof *m->frames);
        for (u32 i = 0; i <= old.mask; i++)
            if (old.keys[i] != 0)
                memory_put(m, old.keys[i] - 1, old.frames[i]);
        free(old.keys);
        free(old.frames);
    }
    f = aligned_alloc(4096, 4096);
    memset(f, 0, 4096);
    memory_put(m, pa >> 12, f);
    return f;
}

/* ---- What is asked, what is answered ---- */

enum { READ, WRITE, FETCH, TYPE = 3, USER = 4, IMPLICIT = 8, SHSTK = 16, AC = 32 };
enum { OK, PF, EPT_VIOLATION, EPT_MISCONFIG, NPF, NON_CANONICAL };
enum { FINAL, TABLE };
enum { EC_P = 1, EC_W = 2, EC_U = 4, EC_RSVD = 8, EC_ID = 16, EC_PK = 32, EC_SS = 64 };
enum { RIGHT_W = 1, RIGHT_U = 2, RIGHT_NX = 4, RIGHT_SS = 8 };

#define P 0x001ull
#define A 0x020ull
#define D 0x040ull
#define PS 0x080ull
#define GLOBAL 0x100ull
#define ADDRESS 0x000ffffffffff000ull

struct result {
    u64 hpa, gpa, fault_gpa, qualification;
    u32 error, level, page_shift, s2_level, s2_shift, memtype, ipat, rights, leaf, fault_level;
};

/* ---- Page tables: the guest's and NPT's ---- */

struct paging {
    u64 root;
    int top;               /* 2: 32-bit, 3: PAE, 4, 5 */
    int entry_size;        /* 4 or 8 */
    int index_bits;
    u64 table_rsvd[6], leaf_rsvd[6], leaf_bit[6], fixed[6];
    u64 pdpte[4];
    bool pdpte_registers, wp, smep, smap, nxe;
    u32 fetch_bit, keys, pkru, pkrs;
    u32 pse36_mask;
    int canonical;         /* bits, 0: any address is fine */
    u8 decisions[1024];    /* 1: refused; by access << 4 | rights */
};

struct ept {
    u64 root, rsvd;
    int top;
    bool ad, mbec, sss, large2m, large1g, exec_only, advanced;
};

enum { S2_NONE, S2_EPT, S2_NPT };

struct mmu {
    struct memory *mem;
    struct paging guest, npt;
    struct ept ept;
    int s2;
    struct result r, nested; /* nested: of the walk of NPT's tables */
};

static bool refused(const struct paging *g, u32 access, u32 rights)
{
    bool user = (access & USER) && !(access & IMPLICIT);
    u32 type = access & TYPE;
    if (user && !(rights & RIGHT_U))
        return true;
    if (access & SHSTK)
        return (!user && (rights & RIGHT_U)) || !(rights & RIGHT_SS);
    if (type == WRITE && !(rights & RIGHT_W) && (user || g->wp))
        return true;
    if (type == FETCH && g->nxe && (rights & RIGHT_NX))
        return true;
    if (type == FETCH && !user && g->smep && (rights & RIGHT_U))
        return true;
    return type != FETCH && !user && g->smap && (rights & RIGHT_U) && !((access & AC) && !(access & IMPLICIT));
}

static bool key_refuses(const struct paging *g, u32 access, u32 rights, u32 key)
{
    u32 type = access & TYPE;
    if (type == FETCH)
        return false;
    if (rights & RIGHT_U) {
        u32 bits = g->pkru >> (2 * key) & 3;
        bool user = (access & USER) && !(access & IMPLICIT);
        return (g->keys & 1) && ((bits & 1) || ((bits & 2) && type == WRITE && (user || g->wp)));
    }
    u32 bits = g->pkrs >> (2 * key) & 3;
    return (g->keys & 2) && ((bits & 1) || ((bits & 2) && type == WRITE && g->wp));
}

static u32 access_bits(const struct paging *g, u32 access)
{
    u32 e = 0;
    if ((access & TYPE) == WRITE)
        e |= EC_W;
    if ((access & USER) && !(access & IMPLICIT))
        e |= EC_U;
    if ((access & TYPE) == FETCH)
        e |= g->fetch_bit;
    if (access & SHSTK)
        e |= EC_SS;
    return e;
}

static int fault(struct result *r, const struct paging *g, u32 access, int level, u32 bits)
{
    r->error = bits | access_bits(g, access);
    r->fault_level = level;
    return PF;
}

static int second_stage(struct mmu *x, u64 gpa, u32 access, int purpose);
static int ept_allows_update(struct mmu *x, u64 gpa);

/* Sets accessed and dirty flags of the entries used; `path` holds their host addresses, then their guest-physical ones. */
static int update_flags(struct mmu *x, const struct paging *g, bool nested, u64 path[6][2], int top, int level, bool write)
{
    for (int l = top; l >= level; l--) {
        u64 *f = own(x->mem, path[l][0]);
        u64 bits = l == level && write ? A | D : A;
        u64 e = g->entry_size == 8 ? f[path[l][0] >> 3 & 511] : ((u32 *)f)[path[l][0] >> 2 & 1023];
        if (((e | g->fixed[l]) & bits) == bits)
            continue;
        if (nested) {
            int status = ept_allows_update(x, path[l][1]);
            if (status != OK)
                return status;
        }
        if (g->entry_size == 8)
            f[path[l][0] >> 3 & 511] |= bits;
        else
            ((u32 *)f)[path[l][0] >> 2 & 1023] |= bits;
    }
    return OK;
}

__attribute__((noinline)) static int walk_tables(struct mmu *x, struct paging *g, u64 va, u32 access, bool guest, struct result *r)
{
    const struct memory *m = x->mem;
    bool nested = guest && x->s2 != S2_NONE;
    int level = g->top, top;
    u64 table = g->root, and = ~0ull, or = 0, e;
    u64 path[6][2];
    u64 accessed = A;

    if (level == 3 && g->pdpte_registers) {
        e = g->pdpte[va >> 30 & 3];
        if (!(e & P))
            return fault(r, g, access, 3, 0);
        table = e & ADDRESS;
        level = 2;
    }
    top = level;
    for (;;) {
        u32 shift = 12 + (level - 1) * g->index_bits;
        u32 index = va >> shift & ((1u << g->index_bits) - 1);
        u64 at = table + index * g->entry_size, host = at;
        if (nested) {
            int status = second_stage(x, at, READ, TABLE);
            if (status != OK)
                return status;
            host = x->r.hpa;
        }
        const u64 *f = find(m, host);
        e = g->entry_size == 8 ? f[host >> 3 & 511] : ((const u32 *)f)[host >> 2 & 1023];
        path[level][0] = host;
        path[level][1] = at;
        if (!(e & P))
            return fault(r, g, access, level, 0);
        if (e & g->leaf_bit[level])
            break;
        if (e & g->table_rsvd[level])
            return fault(r, g, access, level, EC_P | EC_RSVD);
        u64 effective = e | g->fixed[level];
        and &= effective;
        or |= e;
        accessed &= effective;
        table = e & ADDRESS;
        level--;
    }
    if (e & g->leaf_rsvd[level])
        return fault(r, g, access, level, EC_P | EC_RSVD);
    u32 rights = ((and & e) >> 1 & 3) | ((or | e) >> 63) << 2;
    if ((access & SHSTK) && (e & (2 | D)) == D && (and & 2))
        rights |= RIGHT_SS;
    u32 key = e >> 59 & 15;
    if (g->decisions[(access & 63) << 4 | rights])
        return fault(r, g, access, level, EC_P | (g->keys && key_refuses(g, access, rights, key) ? EC_PK : 0));
    if (g->keys && key_refuses(g, access, rights, key))
        return fault(r, g, access, level, EC_P | EC_PK);
    bool write = (access & TYPE) == WRITE;
    if (!(accessed & e & A) || (write && !(e & D))) {
        int status = update_flags(x, g, nested, path, top, level, write);
        if (status != OK)
            return status;
    }
    u32 shift = 12 + (level - 1) * g->index_bits;
    u64 offset = (1ull << shift) - 1;
    u64 pa = (e & ADDRESS & ~offset) | (va & offset);
    if (g->entry_size == 4 && level == 2)
        pa |= (u64)(e >> 13 & g->pse36_mask) << 32;
    r->gpa = pa;
    r->level = level;
    r->page_shift = shift;
    r->rights = rights;
    r->leaf = (write || (e & D) ? 1 : 0) | (e & GLOBAL ? 2 : 0) | key << 4;
    return OK;
}

/* ---- EPT ---- */

static int violation(struct mmu *x, u64 gpa, u32 access, int purpose, u64 rights, u64 e, int level, bool update)
{
    u32 type = access & TYPE;
    u64 q = (rights & 7) << 3;
    if (purpose == TABLE && x->ept.ad && !update)
        q |= 3;
    else
        q |= update || type == WRITE ? 2 : type == FETCH ? 4 : 1;
    if (x->ept.mbec && (rights & 0x400))
        q |= 0x40;
    q |= 0x80;
    if (purpose == FINAL) {
        q |= 0x100;
        if (x->ept.advanced) {
            if (x->r.rights & RIGHT_U)
                q |= 0x200;
            if (x->r.rights & RIGHT_W)
                q |= 0x400;
            if (x->r.rights & RIGHT_NX)
                q |= 0x800;
        }
        if (access & SHSTK)
            q |= 0x2000;
    }
    if (x->ept.sss && (e >> 60 & 1))
        q |= 0x4000;
    x->r.qualification = q;
    x->r.fault_gpa = gpa;
    x->r.fault_level = level;
    return EPT_VIOLATION;
}

static int misconfiguration(struct mmu *x, u64 gpa, int level)
{
    x->r.fault_gpa = gpa;
    x->r.fault_level = level;
    return EPT_MISCONFIG;
}

static inline bool ept_malformed(const struct ept *p, u64 e, int level, bool leaf)
{
    if ((e & 3) == 2 || (!(e & 1) && (e & (p->mbec ? 0x404 : 4)) && !p->exec_only) || (e & p->rsvd))
        return true;
    if (!leaf)
        return e & 0xf8;
    if (level == 2 && (!p->large2m || (e & 0x1ff000)))
        return true;
    if (level == 3 && (!p->large1g || (e & 0x3ffff000)))
        return true;
    u32 memtype = e >> 3 & 7;
    return memtype == 2 || memtype == 3 || memtype == 7;
}

__attribute__((noinline)) static int walk_ept(struct mmu *x, u64 gpa, u32 access, int purpose)
{
    const struct ept *p = &x->ept;
    const struct memory *m = x->mem;
    int level = p->top;
    u64 table = p->root, and = ~0ull, e, accessed = EC_P * 0x100;
    u64 path[6];
    u64 present = p->mbec ? 0x407 : 7;
    if (level == 4 && gpa >> 48)
        return violation(x, gpa, access, purpose, 0, 0, level, false);
    for (;;) {
        u64 at = table + (gpa >> (3 + 9 * level) & 511) * 8;
        e = find(m, at)[at >> 3 & 511];
        path[level] = at;
        if (!(e & present))
            return violation(x, gpa, access, purpose, and & e, e, level, false);
        bool leaf = level == 1 || (level <= 3 && (e & PS));
        if (ept_malformed(p, e, level, leaf))
            return misconfiguration(x, gpa, level);
        if (leaf)
            break;
        and &= e;
        accessed &= e;
        table = e & ADDRESS;
        level--;
    }
    u32 type = access & TYPE;
    u64 rights = and & e, need;
    bool write = type == WRITE;
    if (purpose == TABLE) {
        write = p->ad || type == WRITE;
        need = write ? 3 : 1;
    } else if (type == FETCH) {
        need = p->mbec && (x->r.rights & RIGHT_U) ? 0x400 : 4;
    } else {
        need = type == WRITE ? 2 : 1;
    }
    bool allowed = (rights & need) == need;
    if (p->sss && purpose == FINAL && (access & SHSTK) && !(access & USER))
        allowed = (rights & 1) && (and & 2) && (e >> 60 & 1);
    if (!allowed)
        return violation(x, gpa, access, purpose, rights, e, level, false);
    if (p->ad && (!(accessed & e & 0x100) || (write && !(e & 0x200)))) {
        for (int l = p->top; l >= level; l--)
            own(x->mem, path[l])[path[l] >> 3 & 511] |= l == level && write ? 0x300 : 0x100;
    }
    u64 offset = (1ull << (3 + 9 * level)) - 1;
    x->r.hpa = (e & ADDRESS & ~offset) | (gpa & offset);
    x->r.s2_level = level;
    x->r.s2_shift = 3 + 9 * level;
    x->r.memtype = e >> 3 & 7;
    x->r.ipat = e >> 6 & 1;
    return OK;
}

static int ept_allows_update(struct mmu *x, u64 gpa)
{
    if (x->s2 != S2_EPT || x->ept.ad)
        return OK;
    u64 table = x->ept.root, and = ~0ull, e;
    for (int level = x->ept.top;; level--) {
        u64 at = table + (gpa >> (3 + 9 * level) & 511) * 8;
        e = find(x->mem, at)[at >> 3 & 511];
        and &= e;
        if (level == 1 || (level <= 3 && (e & PS)))
            return and & 2 ? OK : violation(x, gpa, WRITE, TABLE, and, e, level, true);
        table = e & ADDRESS;
    }
}

static int second_stage(struct mmu *x, u64 gpa, u32 access, int purpose)
{
    if (x->s2 == S2_EPT)
        return walk_ept(x, gpa, access, purpose);
    if (x->s2 == S2_NPT) {
        u32 asked = (purpose == TABLE ? WRITE : access & TYPE) | USER;
        if (walk_tables(x, &x->npt, gpa, asked, false, &x->nested) == OK) {
            x->r.hpa = x->nested.gpa;
            x->r.s2_level = x->nested.level;
            x->r.s2_shift = x->nested.page_shift;
            return OK;
        }
        x->r.qualification = x->nested.error | (purpose == TABLE ? 2ull : 1ull) << 32;
        x->r.fault_gpa = gpa;
        return NPF;
    }
    x->r.hpa = gpa;
    x->r.s2_level = 0;
    x->r.s2_shift = 52;
    return OK;
}

__attribute__((noinline)) int translate(struct mmu *x, u64 va, u32 access)
{
    int bits = x->guest.canonical;
    if (bits != 0) {
        int shift = 64 - bits;
        if ((u64)((int64_t)(va << shift) >> shift) != va)
            return NON_CANONICAL;
    }
    int status = walk_tables(x, &x->guest, va, access, true, &x->r);
    if (status != OK)
        return status;
    return second_stage(x, x->r.gpa, access, FINAL);
}

/* ---- Set-up from registers ---- */

static void paging_init(struct paging *g, u64 cr0, u64 cr3, u64 cr4, u64 efer, int maxphyaddr)
{
    memset(g, 0, sizeof *g);
    u64 above = 0x000fffffffffffffull & ~((1ull << maxphyaddr) - 1);
    g->wp = cr0 >> 16 & 1;
    g->smep = cr4 >> 20 & 1;
    g->smap = cr4 >> 21 & 1;
    g->nxe = efer >> 11 & 1;
    g->keys = cr4 >> 22 & 1;
    bool pae = cr4 >> 5 & 1, lma = efer >> 10 & 1;
    g->top = !pae ? 2 : !lma ? 3 : cr4 >> 12 & 1 ? 5 : 4;
    g->entry_size = pae ? 8 : 4;
    g->index_bits = pae ? 9 : 10;
    g->root = cr3 & (g->top == 3 ? 0xffffffe0ull : ADDRESS);
    g->pdpte_registers = g->top == 3;
    g->fetch_bit = (pae && g->nxe) || g->smep ? EC_ID : 0;
    g->canonical = g->top == 5 ? 57 : g->top == 4 ? 48 : 0;
    for (int l = 1; l <= g->top; l++) {
        g->leaf_bit[l] = l == 1 ? P : l == 2 && (pae || (cr4 >> 4 & 1)) ? PS : l == 3 && g->top > 3 ? PS : 0;
        u64 all = !pae ? 0 : above | (g->top == 3 ? 0x7ff0000000000000ull : 0) | (g->nxe ? 0 : 1ull << 63);
        if (l >= 4)
            all |= PS;
        g->table_rsvd[l] = g->leaf_rsvd[l] = all;
        if (pae && l == 2)
            g->leaf_rsvd[l] |= 0x1fe000;
        if (pae && l == 3)
            g->leaf_rsvd[l] |= 0x3fffe000;
    }
    if (!pae) {
        g->pse36_mask = 0xff;
        g->leaf_rsvd[2] = 0x200000;
    }
    for (u32 access = 0; access < 64; access++)
        for (u32 rights = 0; rights < 16; rights++)
            g->decisions[access << 4 | rights] = refused(g, access, rights);
}

/* ---- TLB: 256 sets of four ways ---- */

struct tlb_entry {
    u64 hpa, gpa;
    u32 rights, serves, leaf, level, page_shift, s2_level, s2_shift, memtype;
};

struct tlb {
    u64 tags[1024]; /* page number | context << 45 */
    struct tlb_entry entries[1024];
    u8 next[256];
};

static inline struct tlb_entry *tlb_find(struct tlb *t, u64 va, u64 context, u64 globals)
{
    u64 page = va >> 12 & ((1ull << 45) - 1);
    u64 own_tag = page | context << 45, shared = page | globals << 45;
    u32 first = (page & 255) * 4;
    for (u32 i = first; i < first + 4; i++)
        if (t->tags[i] == own_tag || t->tags[i] == shared)
            return &t->entries[i];
    return NULL;
}

__attribute__((noinline)) int translate_cached(struct mmu *x, struct tlb *t, u64 va, u32 access, u64 context, u64 globals)
{
    int bits = x->guest.canonical;
    if (bits != 0 && (u64)((int64_t)(va << (64 - bits)) >> (64 - bits)) != va)
        return NON_CANONICAL;
    struct tlb_entry *e = tlb_find(t, va, context, globals);
    if (e && (e->serves >> (access & TYPE) & 1) && !(access & SHSTK) &&
        !x->guest.decisions[(access & 63) << 4 | e->rights] &&
        (!x->guest.keys || !key_refuses(&x->guest, access, e->rights, e->leaf >> 4))) {
        x->r.hpa = e->hpa | (va & 0xfff);
        x->r.gpa = e->gpa | (va & 0xfff);
        return OK;
    }
    int status = translate(x, va, access);
    if (status != OK)
        return status;
    u64 page = va >> 12 & ((1ull << 45) - 1);
    u32 set = page & 255, i = set * 4 + t->next[set];
    t->next[set] = (t->next[set] + 1) & 3;
    t->tags[i] = page | context << 45;
    t->entries[i] = (struct tlb_entry){
        .hpa = x->r.hpa & ~0xfffull, .gpa = x->r.gpa & ~0xfffull, .rights = x->r.rights,
        .serves = 5 | (x->r.leaf & 1) << 1, .leaf = x->r.leaf, .level = x->r.level,
        .page_shift = x->r.page_shift, .s2_level = x->r.s2_level, .s2_shift = x->r.s2_shift, .memtype = x->r.memtype,
    };
    return OK;
}

/* ---- All leaves of an address space, neighbours of equal rights and consecutive frames merged ---- */

struct leaf_run {
    u64 va, pa, size;
    u32 rights, level;
};

struct leaves {
    struct leaf_run *runs;
    size_t n, room;
};

static void leaves_of(struct mmu *x, u64 table, int level, u64 va, u64 and, u64 or, struct leaves *out)
{
    const struct paging *g = &x->guest;
    const u64 *f = find(x->mem, table);
    u32 shift = 3 + 9 * level;
    for (u32 i = 0; i < 512; i++) {
        u64 e = f[i];
        if (!(e & P))
            continue;
        u64 at = va | (u64)i << shift;
        bool leaf = e & g->leaf_bit[level];
        if (e & (leaf ? g->leaf_rsvd[level] : g->table_rsvd[level]))
            continue;
        if (!leaf) {
            leaves_of(x, e & ADDRESS, level - 1, at, and & e, or | e, out);
            continue;
        }
        u64 size = 1ull << shift, pa = e & ADDRESS & ~(size - 1);
        u32 rights = ((and & e) >> 1 & 3) | ((or | e) >> 63) << 2;
        struct leaf_run *last = out->n ? &out->runs[out->n - 1] : NULL;
        if (last && last->va + last->size == at && last->pa + last->size == pa && last->rights == rights && last->level == (u32)level) {
            last->size += size;
            continue;
        }
        if (out->n == out->room) {
            out->room = out->room ? out->room * 2 : 1024;
            out->runs = realloc(out->runs, out->room * sizeof *out->runs);
        }
        out->runs[out->n++] = (struct leaf_run){ at, pa, size, rights, level };
    }
}

/* ---- The work ---- */

#define PAGES 65536
#define LONG_CR4 0x3000a0ull /* PAE, PGE, SMEP, SMAP */

static u32 next_pfn;

static u64 child(struct memory *m, u64 table, u32 index, u64 flags)
{
    u64 *f = own(m, table);
    if (!(f[index] & 1))
        f[index] = (u64)next_pfn++ << 12 | flags;
    return f[index] & ADDRESS;
}

static void map(struct memory *m, u64 root, u64 va, u64 entry, u64 flags)
{
    u64 t = root;
    for (int shift = 39; shift > 12; shift -= 9)
        t = child(m, t, va >> shift & 511, flags);
    own(m, t)[va >> 12 & 511] = entry;
}

static u64 random_state;

static u32 random32(void)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return random_state >> 33;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static u64 pages[PAGES];

/* Linear pages: `spread` 0, all of a 256 MiB region; else random ones of 64 GiB. In random order. */
static void choose_pages(int spread)
{
    random_state = 1;
    for (u32 i = 0; i < PAGES; i++)
        pages[i] = 0x7f0000000000ull + ((spread ? (u64)(random32() & 0xffffff) : i) << 12);
    for (u32 i = PAGES - 1; i > 0; i--) {
        u32 j = random32() % (i + 1);
        u64 t = pages[i];
        pages[i] = pages[j];
        pages[j] = t;
    }
}

static void report(const char *name, double best, u64 check)
{
    printf("%s %.3f %llu\n", name, best, (unsigned long long)check);
    fflush(stdout);
}

#define MEASURE(name, repeat, count, body)                        \
    do {                                                          \
        double best = 1e30;                                       \
        u64 check = 0;                                            \
        for (int run_ = 0; run_ < (repeat); run_++) {             \
            double start_ = now();                                \
            check = 0;                                            \
            body;                                                 \
            double took_ = (now() - start_) / (count);            \
            if (took_ < best)                                     \
                best = took_;                                     \
        }                                                         \
        report(name, best, check);                                \
    } while (0)

static void walk_1d(const char *name, int spread)
{
    struct memory m;
    struct mmu *x = calloc(1, sizeof *x);
    memory_init(&m);
    x->mem = &m;
    next_pfn = 0x101;
    choose_pages(spread);
    for (u32 i = 0; i < PAGES; i++)
        map(&m, 0x100000, pages[i], (u64)(0x100000 + (i * 0x9e3779b1u & 0xfffff)) << 12 | 0x67, 0x67);
    paging_init(&x->guest, 0x80010033, 0x100000, LONG_CR4, 0xd00, 46);
    MEASURE(name, 30, PAGES, for (u32 i = 0; i < PAGES; i++) {
        if (translate(x, pages[i], READ | USER) != OK)
            abort();
        check = (u32)(check * 31 + (x->r.hpa >> 12));
    });
}

/* Guest tables and pages from gpa 1 MiB on, backed by host frames from 4 GiB on, in EPT or NPT pages of 4 KiB. */
static void walk_2d(const char *name, int kind, int spread)
{
    struct memory m;
    struct mmu *x = calloc(1, sizeof *x);
    u64 flags = kind == S2_EPT ? 7 : 0x67, leaf = kind == S2_EPT ? 0x37 : 0x67, root = 0x400000000ull;
    memory_init(&m);
    x->mem = &m;
    choose_pages(spread);
    u32 next_gfn = 0x101;
    next_pfn = (root >> 12) + 1;
    /* The guest's tables are written at their host addresses: host frame = gfn + 1 Mi. */
    u64 base = 0x100000ull << 12;
    for (u32 i = 0; i < PAGES; i++) {
        u64 t = 0x100000;
        map(&m, root, t, (t + base) | leaf, flags);
        for (int shift = 39; shift > 12; shift -= 9) {
            u64 *f = own(&m, t + base);
            u32 index = pages[i] >> shift & 511;
            if (!(f[index] & 1)) {
                u64 gpa = (u64)next_gfn++ << 12;
                f[index] = gpa | 0x67;
                map(&m, root, gpa, (gpa + base) | leaf, flags);
            }
            t = f[index] & ADDRESS;
        }
        u64 gpa = (u64)(0x80000 + (i * 0x9e3779b1u & 0x3ffff)) << 12;
        own(&m, t + base)[pages[i] >> 12 & 511] = gpa | 0x67;
        map(&m, root, gpa, (gpa + base) | leaf, flags);
    }
    paging_init(&x->guest, 0x80010033, 0x100000, LONG_CR4, 0xd00, 46);
    x->s2 = kind;
    if (kind == S2_EPT)
        x->ept = (struct ept){ .root = root, .rsvd = 0x000fffffffffffffull & ~((1ull << 46) - 1), .top = 4,
                               .large2m = true, .large1g = true, .exec_only = true, .advanced = true };
    else
        paging_init(&x->npt, 0x80010033, root, 0x20, 0xd00, 46);
    MEASURE(name, 15, PAGES, for (u32 i = 0; i < PAGES; i++) {
        if (translate(x, pages[i], READ | USER) != OK)
            abort();
        check = (u32)(check * 31 + (x->r.hpa >> 12));
    });
}

static void tlb_hit(void)
{
    struct memory m;
    struct mmu *x = calloc(1, sizeof *x);
    struct tlb *t = calloc(1, sizeof *t);
    memset(t->tags, 0xff, sizeof t->tags);
    memory_init(&m);
    x->mem = &m;
    next_pfn = 0x101;
    static u64 hot[512];
    random_state = 7;
    for (u32 i = 0; i < 512; i++) {
        hot[i] = 0x7f0000000000ull + ((u64)i << 12);
        map(&m, 0x100000, hot[i], (u64)(0x100000 + (i * 0x9e3779b1u & 0xfffff)) << 12 | 0x67, 0x67);
    }
    static u64 order[PAGES];
    for (u32 i = 0; i < PAGES; i++)
        order[i] = hot[random32() & 511] | (random32() & 0xff8);
    paging_init(&x->guest, 0x80010033, 0x100000, LONG_CR4, 0xd00, 46);
    MEASURE("tlb-hit", 60, PAGES, for (u32 i = 0; i < PAGES; i++) {
        if (translate_cached(x, t, order[i], READ | USER, 2, 0) != OK)
            abort();
        check = (u32)(check * 31 + (x->r.hpa >> 3));
    });
}

static void all_leaves(void)
{
    struct memory m;
    struct mmu *x = calloc(1, sizeof *x);
    memory_init(&m);
    x->mem = &m;
    next_pfn = 0x101;
    /* 4 GiB of pages whose frames descend: no two neighbours can be merged. */
    for (u32 i = 0; i < 1048576; i++)
        map(&m, 0x100000, 0x7f0000000000ull + ((u64)i << 12), (u64)(0x400000 - i) << 12 | 0x67, 0x67);
    paging_init(&x->guest, 0x80010033, 0x100000, LONG_CR4, 0xd00, 46);
    struct leaves out = { 0 };
    MEASURE("leaves", 5, 1e6, {
        out.n = 0;
        leaves_of(x, x->guest.root, 4, 0, ~0ull, 0, &out);
        check = out.n;
    });
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    bool all = argc < 2;
    if (all || !strcmp(what, "walk-dense"))
        walk_1d("walk-dense", 0);
    if (all || !strcmp(what, "walk-spread"))
        walk_1d("walk-spread", 1);
    if (all || !strcmp(what, "ept-dense"))
        walk_2d("ept-dense", S2_EPT, 0);
    if (all || !strcmp(what, "ept-spread"))
        walk_2d("ept-spread", S2_EPT, 1);
    if (all || !strcmp(what, "npt-dense"))
        walk_2d("npt-dense", S2_NPT, 0);
    if (all || !strcmp(what, "tlb-hit"))
        tlb_hit();
    if (all || !strcmp(what, "leaves"))
        all_leaves();
    return 0;
}
