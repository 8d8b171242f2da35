/**
 * Finds the numbers of a text line that words are made of, and what the line calls them: ftrace (bare hexadecimal after
 * a field name), QEMU and oops register dumps, JSON, prose with 0x.
 */

/** A number in a line. */
export interface FoundValue {
  /** First and one-past-last character. */
  readonly start: number;
  readonly end: number;
  readonly value: bigint;
  /** Name that the line gives it, in lower case with `_` for `-`; `cr0` for the value of `cr_write 0 = …`. */
  readonly name?: string;
}

/** What a trace line tells besides its values. */
export interface LineFacts {
  /** `kvm_mmu_set_spte`, if the line is an event. */
  readonly event?: string;
  /** After `level` or `"level":`. */
  readonly level?: number;
  /** Exit reason of a kvm_exit line, as printed: `EPT_VIOLATION`, `npf`, `PF excp`. */
  readonly reason?: string;
  /** After `vcpu`. */
  readonly vcpu?: number;
  /** intr_info of a kvm_exit line. */
  readonly intrInfo?: bigint;
  /** The rights that kvm_mmu_set_spte prints, without brackets: `rwxu`, `r-x-`. */
  readonly rights?: string;
}

/** Names after which ftrace and register dumps print hexadecimal without 0x. */
const BARE_HEX_NAMES = new Set([
  ...['spte', 'old_spte', 'new_spte', 'old', 'new', 'pte', 'pferr', 'gfn', 'pfn', 'gpa', 'gva', 'addr', 'address'],
  ...['gen', 'kvm_gen', 'spte_gen', 'access', 'at', 'error_code', 'info1', 'info2', 'qual', 'hva', 'role', 'base_role'],
  ...[
    'root_role',
    'cpu_role',
    'mmu_role',
    'cr0',
    'cr2',
    'cr3',
    'cr4',
    'efer',
    'rip',
    'rfl',
    'rflags',
    'eflags',
    'eptp',
  ],
  ...['pgd', 'p4d', 'pud', 'pmd', 'msr', 'pkru', 'npte', 'epte', 'sppte', 'sptep', 'table_gfn', 'root_hpa', 'ncr3'],
]);

/** Names whose value a JSON line may give as a decimal number. */
const JSON_DECIMALS = new Set([
  ...['role', 'base_role', 'root_role', 'cpu_role', 'mmu_role', 'spte', 'old_spte', 'new_spte', 'gfn', 'pfn', 'gpa'],
  ...['error_code', 'gen', 'kvm_gen', 'spte_gen', 'cr0', 'cr3', 'cr4', 'efer', 'gva', 'pte', 'pferr'],
]);

const TOKEN = /(?<![\w.$])(?:0[xX](?<hex>[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*)|(?<bare>[0-9a-fA-F]{1,16}))(?!\w|\.\w)/g;
const NAME = /([A-Za-z_#][\w.-]*)(?:["'\]]*\s*(?::=|[:=])\s*["'(]*|\(|["']?\s+)$/;

/**
 * The values of a line, left to right. A number with 0x is always found; one without if a name that ftrace prints
 * hexadecimal after precedes it, or if its length leaves no doubt (16 digits, or 8 and more with a letter).
 */
export function findValues(line: string): FoundValue[] {
  const facts = lineFacts(line);
  const json = /^\s*[[{"]/.test(line) && line.includes('":');
  const found: FoundValue[] = [];
  for (const m of line.matchAll(TOKEN)) {
    const start = m.index;
    const end = start + m[0].length;
    const before = line.slice(0, start);
    const name = nameOf(before, facts);
    const { hex, bare } = m.groups as { hex?: string; bare?: string };
    if (hex !== undefined) {
      const digits = hex.replaceAll('_', '');
      if (digits.replace(/^0+/, '').length <= 16) found.push({ start, end, value: BigInt(`0x${digits}`), name });
    } else if (json && /":\s*$/.test(before)) {
      if (name && JSON_DECIMALS.has(name) && /^\d+$/.test(bare!))
        found.push({ start, end, value: BigInt(bare!), name });
    } else if (isBareHex(bare!, name, facts)) {
      found.push({ start, end, value: BigInt(`0x${bare!}`), name });
    }
  }
  return found;
}

function isBareHex(text: string, name: string | undefined, facts: LineFacts): boolean {
  if (text.length === 16) return true;
  if (text.length >= 8 && /\d/.test(text) && /[a-fA-F]/.test(text)) return true;
  if (!name || !BARE_HEX_NAMES.has(name)) return false;
  // Flag letters (`error_code P|W`, `pferr 10 F`) are upper case; what the kernel prints with %x is not.
  if (/^[A-F]+$/.test(text)) return false;
  // `at` is a port in kvm_pio, and a word in prose.
  return name !== 'at' || facts.event === 'kvm_mmu_set_spte';
}

function nameOf(before: string, facts: LineFacts): string | undefined {
  const cr = /\bcr_(?:read|write) (\w) = (?:0x)?$/.exec(before);
  if (cr) return `cr${cr[1]}`;
  const msr = /\bmsr_(?:read|write) ([0-9a-f]+) = (?:0x)?$/.exec(before);
  if (msr) return msr[1] === 'c0000080' ? 'efer' : msr[1] === '6e1' ? 'pkrs' : 'msr_value';
  if (/\bmsr_(?:read|write) $/.test(before)) return 'msr';
  if (/#PF \($/.test(before)) return 'error_code';
  if (/\bpfn? error_code\($|#PF: error_code\($/.test(before)) return 'error_code';
  // Up to v4.19 kvm_exit prints `info %llx %llx`.
  if (facts.event === 'kvm_exit' && /\binfo $/.test(before)) return 'info1';
  if (facts.event === 'kvm_exit' && /\binfo [0-9a-f]+ $/.test(before)) return 'info2';
  if (/\bEPT pointer\s*=\s*$/i.test(before)) return 'eptp';
  // KVM's structures as JSON: {"role":{"word":…}}, {"cpu_role":{"as_u64":…}}.
  const nested = /"(\w+)"\s*:\s*\{\s*"(?:word|as_u64)"\s*:\s*"?$/.exec(before);
  if (nested) return nested[1].toLowerCase();
  const name = NAME.exec(before)?.[1];
  return name?.toLowerCase().replaceAll('-', '_').replace(/^.*\./, '');
}

/** What a trace line tells about all of its values. */
export function lineFacts(line: string): LineFacts {
  const event =
    /\d\.\d+:\s+(?:kvm(?:mmu)?:)?(\w+):\s/.exec(line)?.[1] ??
    /(?:^|\s|:)((?:kvm|vcpu)_\w+|(?:mark|check|handle)_mmio_\w+|fast_page_fault): /.exec(line)?.[1] ??
    /"event"\s*:\s*"(\w+)"/.exec(line)?.[1];
  const level = /\blevel"?\s*[:=]?\s*(\d)\b/.exec(line)?.[1];
  const reason = /\breason"?\s*[:=]?\s*"?(.+?)"? (?:rip|guest_rip)\b/.exec(line)?.[1];
  const rights = /\(([r-][w-][x-][u-]?)\)/.exec(line)?.[1];
  const intrInfo = /\bintr_info"?\s*[:=]?\s*"?(0x[0-9a-f]+)/.exec(line)?.[1];
  const vcpu = /\bvcpu(?:_id"?)?\s*[:=]?\s*"?(?:0x)?(\d+)/.exec(line)?.[1];
  return {
    event,
    vcpu: vcpu === undefined ? undefined : Number(vcpu),
    level: level === undefined ? undefined : Number(level),
    reason,
    rights,
    intrInfo: intrInfo === undefined ? undefined : BigInt(intrInfo),
  };
}
