/**
 * A scenario as the interpreter, the debugger and the command line see it: statements with their place in the text and what they
 * do, every number and flag resolved. The syntax tree is gone by then; nothing here knows Langium.
 */
import type { RuleId } from '../hw/rules';
import type { MachineConfig } from '../kvm/machine';
import type { KvmEventKind } from '../kvm/events';

export type Severity = 'error' | 'warning' | 'info';

/** Something to say about a place in the text. Lines and columns start at 1; the end column is the one after the last character. */
export interface Diagnostic {
  readonly severity: Severity;
  /** stable id of the check: `syntax`, `unknown-flag`, `memslot-overlap` …; the list is {@link DIAGNOSTICS} */
  readonly code: string;
  readonly message: string;
  readonly line: number;
  readonly column: number;
  readonly endLine: number;
  readonly endColumn: number;
}

/** `mmio.mmu:12:20: error: …`, the form that compilers use and editors link. */
export const formatDiagnostic = (uri: string, d: Diagnostic): string =>
  `${uri}:${d.line}:${d.column}: ${d.severity}: ${d.message}`;

/** A value or a register write. `limit` only for descriptor tables; `none` for an empty one. */
export interface RegisterWrite {
  readonly name: string;
  readonly value: bigint;
  readonly none: boolean;
  readonly limit: number | null;
}

/** Who executes an instruction: the vCPU's state, changed for this one instruction. */
export interface InsnModifiers {
  /** at CPL 3 */
  readonly user: boolean;
  /** with RFLAGS.AC */
  readonly ac: boolean;
  /** RIP: the fetch is simulated too; null leaves RIP out of it */
  readonly rip: bigint | null;
}

/** Instruction statements. Addresses are linear (gva). */
export type GuestInsn =
  | { readonly op: 'load'; readonly size: 1 | 2 | 4 | 8 | 16; readonly address: bigint }
  | {
      readonly op: 'store' | 'rmw';
      readonly size: 1 | 2 | 4 | 8 | 16;
      readonly address: bigint;
      readonly value: bigint;
    }
  | { readonly op: 'fetch' | 'invlpg'; readonly address: bigint }
  | { readonly op: 'invpcid'; readonly type: number; readonly pcid: number; readonly address: bigint }
  | { readonly op: 'mov'; readonly cr: number; readonly value: bigint }
  | { readonly op: 'wrmsr'; readonly msr: number; readonly value: bigint }
  | { readonly op: 'rdmsr'; readonly msr: number }
  | { readonly op: 'wrpkru'; readonly value: number }
  | { readonly op: 'out'; readonly port: number; readonly value: bigint }
  | { readonly op: 'in'; readonly port: number }
  | {
      /** VMCS or VMCB by physical address */
      readonly op: 'vmxon' | 'vmclear' | 'vmptrld' | 'vmrun' | 'vmload' | 'vmsave';
      readonly address: bigint;
    }
  | { readonly op: 'vmread'; readonly field: number }
  /** one VMWRITE for each, in this order */
  | { readonly op: 'vmwrite'; readonly writes: readonly { readonly field: number; readonly value: bigint }[] }
  /** the 128-bit descriptor: EPTP, or VPID and linear address */
  | { readonly op: 'invept' | 'invvpid'; readonly type: number; readonly descriptor: bigint }
  | { readonly op: 'invlpga'; readonly address: bigint; readonly asid: number }
  | { readonly op: PlainOp };

export type PlainOp =
  | 'hlt'
  | 'rsm'
  | 'nop'
  | 'clac'
  | 'stac'
  | 'ud2'
  | 'vmcall'
  | 'vmmcall'
  | 'vmlaunch'
  | 'vmresume'
  | 'vmxoff'
  | 'vmptrst'
  | 'stgi'
  | 'clgi';

/** A field of a VMCB (`at`: byte offset) or a VMCS (`at`: encoding) and what it must hold. */
export interface ControlValue {
  readonly name: string;
  readonly at: number;
  readonly size: 1 | 2 | 4 | 8;
  readonly value: bigint;
}

/** Bytes of a backing. */
export interface HostAddress {
  readonly backing: string;
  readonly offset: number;
}

/** One field that an event or an spte must have. */
export interface FieldTest {
  readonly name: string;
  readonly value: bigint | string;
}

/** What an `expect` claims. */
export type Claim =
  | { readonly kind: 'value'; readonly value: bigint }
  | { readonly kind: 'exception'; readonly vector: number; readonly error: number | null; readonly cr2: bigint | null }
  | { readonly kind: 'no-fault' }
  | { readonly kind: 'end'; readonly end: string }
  | { readonly kind: 'exits'; readonly count: number }
  | {
      readonly kind: 'mmio';
      readonly absent: boolean;
      readonly write: boolean | null;
      readonly gpa: number | null;
      readonly len: number | null;
      readonly value: bigint | null;
    }
  | {
      readonly kind: 'io';
      readonly absent: boolean;
      readonly write: boolean | null;
      readonly port: number | null;
      readonly value: bigint | null;
    }
  | { readonly kind: 'errno'; readonly errno: string }
  | {
      readonly kind: 'event';
      readonly event: KvmEventKind;
      readonly fields: readonly FieldTest[];
      /** how many; null: at least one */
      readonly times: number | null;
    }
  /** a walk of the last statement ended because of this rule */
  | { readonly kind: 'why'; readonly rule: RuleId }
  | {
      readonly kind: 'spte';
      readonly space: 'gpa' | 'gva';
      readonly address: bigint;
      /** null: the level where the walk ends */
      readonly level: number | null;
      readonly raw: bigint | null;
      readonly is: string | null;
      readonly fields: readonly FieldTest[];
    }
  | {
      readonly kind: 'memory';
      readonly as_id: number;
      readonly size: 1 | 2 | 4 | 8;
      readonly gpa: number;
      readonly value: bigint;
    }
  /** fields of a VMCB in guest memory */
  | { readonly kind: 'vmcb'; readonly as_id: number; readonly gpa: number; readonly fields: readonly ControlValue[] }
  /** fields of the current VMCS of L1 */
  | { readonly kind: 'vmcs'; readonly fields: readonly ControlValue[] }
  /** maps that the last `subpages get` reported */
  | { readonly kind: 'subpages'; readonly access: readonly number[] }
  /** an entry of the sub-page permission table */
  | { readonly kind: 'sppte'; readonly gfn: number; readonly level: number; readonly raw: bigint }
  /** rules that do not hold; empty: all hold */
  | { readonly kind: 'audit'; readonly rules: readonly string[] }
  /** frames that the last `dirty_log get` reported, rising; empty: none */
  | { readonly kind: 'dirty'; readonly gfns: readonly number[] }
  /** what the vCPU's TLB holds for a linear address; absent: nothing */
  | { readonly kind: 'tlb'; readonly address: bigint; readonly state: 'stale' | 'fresh' | 'absent' }
  | { readonly kind: 'state'; readonly name: string; readonly value: bigint };

/** What a statement does. Sizes, guest-physical addresses and offsets are bytes. */
export type Op =
  | { readonly kind: 'machine' }
  | { readonly kind: 'let' }
  | { readonly kind: 'smi' }
  | {
      readonly kind: 'backing';
      readonly name: string;
      readonly size: number;
      readonly huge: boolean;
      readonly readonly: boolean;
      readonly hva: bigint | null;
    }
  | { readonly kind: 'frames'; readonly backing: string; readonly offset: number; readonly pfns: readonly number[] }
  | {
      readonly kind: 'memslot-add';
      readonly as_id: number;
      readonly id: number;
      readonly gpa: number;
      readonly size: number;
      /** null when the hva is given raw */
      readonly host: HostAddress | null;
      readonly hva: bigint | null;
      readonly flags: number;
    }
  | { readonly kind: 'memslot-move'; readonly as_id: number; readonly id: number; readonly gpa: number }
  | { readonly kind: 'memslot-flags'; readonly as_id: number; readonly id: number; readonly flags: number }
  | { readonly kind: 'memslot-delete'; readonly as_id: number; readonly id: number }
  | { readonly kind: 'vcpu'; readonly registers: readonly RegisterWrite[] }
  | { readonly kind: 'setregs'; readonly registers: readonly RegisterWrite[] }
  | { readonly kind: 'tables'; readonly as_id: number; readonly address: number }
  | {
      readonly kind: 'map';
      readonly gva: bigint;
      readonly gpa: number;
      /** bytes of one page: 4K, 2M, 4M, 1G */
      readonly size: number;
      /** bits of the leaf entry beside the address; bit 63 is NX */
      readonly flags: bigint;
      readonly count: number;
    }
  | { readonly kind: 'unmap'; readonly gva: bigint; readonly count: number }
  | {
      readonly kind: 'write';
      readonly as_id: number;
      /** null when `host` says where */
      readonly gpa: number | null;
      readonly host: HostAddress | null;
      readonly bytes: Uint8Array;
    }
  | {
      readonly kind: 'vmcb';
      readonly as_id: number;
      readonly gpa: number;
      /** at offsets in the page */
      readonly writes: readonly { readonly at: number; readonly bytes: Uint8Array }[];
    }
  | { readonly kind: 'invalidate'; readonly host: HostAddress; readonly size: number }
  | {
      readonly kind: 'dirty-log-get';
      readonly as_id: number;
      readonly id: number;
    }
  | {
      readonly kind: 'dirty-log-clear';
      readonly as_id: number;
      readonly id: number;
      /** part of the slot; null: all of it */
      readonly part: { readonly gpa: number; readonly size: number } | null;
    }
  | { readonly kind: 'subpages-set'; readonly gfn: number; readonly access: readonly number[] }
  | { readonly kind: 'subpages-get'; readonly gfn: number; readonly count: number }
  | { readonly kind: 'audit' }
  | {
      readonly kind: 'poke';
      readonly space: 'gpa' | 'gva';
      readonly address: bigint;
      /** null: the level where the walk ends */
      readonly level: number | null;
      readonly value: bigint;
    }
  | { readonly kind: 'insn'; readonly insn: GuestInsn; readonly modifiers: InsnModifiers }
  | {
      readonly kind: 'run';
      readonly rip: bigint | null;
      readonly registers: readonly RegisterWrite[];
      readonly limit: number | null;
    }
  | {
      readonly kind: 'repeat';
      /** null: forever */
      readonly count: number | null;
      /** index of the first statement after the body */
      readonly end: number;
    }
  | { readonly kind: 'step'; readonly number: number; readonly text: string }
  | { readonly kind: 'note'; readonly text: string }
  | { readonly kind: 'expect'; readonly claim: Claim };

/** One statement. Lines and columns start at 1. */
export interface Statement {
  /** place in {@link ScenarioProgram.statements} */
  readonly index: number;
  readonly line: number;
  readonly column: number;
  readonly endLine: number;
  readonly endColumn: number;
  /** as written, inner lines of a block included */
  readonly text: string;
  /** vCPU that it runs on or is about; -1: the VM or user space */
  readonly vcpu: number;
  /** index of the `repeat` around it; -1: none */
  readonly parent: number;
  readonly op: Op;
  /** the next `expect`s want to know the events during this statement */
  readonly collectsEvents: boolean;
}

export class ScenarioProgram {
  /** where the text is from: a path or URI, for messages only */
  readonly uri: string;
  readonly text: string;
  readonly machineConfig: MachineConfig;
  /** all statements in the order of the text; a `repeat` precedes its body */
  readonly statements: readonly Statement[];

  constructor(uri: string, text: string, machineConfig: MachineConfig, statements: readonly Statement[]) {
    this.uri = uri;
    this.text = text;
    this.machineConfig = machineConfig;
    this.statements = statements;
  }

  /** Lines that breakpoints can sit on: the first line of each statement, rising. */
  get executableLines(): number[] {
    return this.statements.map((s) => s.line);
  }

  /** The line that a breakpoint on `line` sits on: its statement's first line, else the next statement's; null after the last. */
  breakpointLine(line: number): number | null {
    const inside = this.statements.find((s) => s.op.kind !== 'repeat' && s.line <= line && line <= s.endLine);
    return (inside ?? this.statements.find((s) => s.line >= line))?.line ?? null;
  }

  /** The innermost statement that a line belongs to. */
  statementAt(line: number): Statement | null {
    let found: Statement | null = null;
    for (const s of this.statements) if (s.line <= line && line <= s.endLine) found = s;
    return found;
  }
}
