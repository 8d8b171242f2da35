/** Collecting diagnostics at places of the syntax tree, and evaluating the values found there. */
import type { AstNode, CstNode } from 'langium';
import { GrammarUtils } from 'langium';
import type { Term, Value } from './generated/ast';
import { readNumber } from './numbers';
import type { Diagnostic, HostAddress, Severity } from './program';
import { nearest, orList } from '../words/suggest';
import type { Flag } from './tables';

/** What a value is for: how names in it are read and what it may be at most. */
export interface Place {
  /** for messages: `cr0`, `gpa`, `size` */
  readonly what: string;
  /** names that are bits (or, with `pick`, plain values) here */
  readonly flags?: readonly Flag[];
  /** a name stands for a value and cannot be combined with `|` */
  readonly pick?: boolean;
  /** largest value */
  readonly max?: bigint;
}

const MAX_U64 = (1n << 64n) - 1n;

/** Where a node (or one property of it) stands, as a diagnostic wants it. */
export function placeOf(cst: CstNode | undefined): {
  line: number;
  column: number;
  endLine: number;
  endColumn: number;
} {
  if (!cst) return { line: 1, column: 1, endLine: 1, endColumn: 2 };
  const { start, end } = cst.range;
  return { line: start.line + 1, column: start.character + 1, endLine: end.line + 1, endColumn: end.character + 1 };
}

export class Findings {
  readonly list: Diagnostic[] = [];
  /** names defined so far by `let`, and their values */
  readonly constants = new Map<string, bigint>();
  /** backings so far and their sizes in bytes */
  readonly backings = new Map<string, { size: number; huge: boolean }>();

  report(severity: Severity, code: string, node: AstNode | undefined, message: string, property?: string): void {
    const cst = node && property !== undefined ? GrammarUtils.findNodeForProperty(node.$cstNode, property) : undefined;
    this.list.push({ severity, code, message, ...placeOf(cst ?? node?.$cstNode) });
  }

  error(code: string, node: AstNode | undefined, message: string, property?: string): void {
    this.report('error', code, node, message, property);
  }

  warn(code: string, node: AstNode | undefined, message: string, property?: string): void {
    this.report('warning', code, node, message, property);
  }

  /** A literal, or null after reporting what is wrong with it. */
  literal(node: AstNode, text: string | undefined, what: string, property?: string): bigint | null {
    if (text === undefined) return null;
    const { value, error } = readNumber(text);
    if (error === null) return value;
    this.error('number', node, `${what}: ${error}`, property);
    return null;
  }

  /** A value, or null when it is missing (a syntax error reported elsewhere) or wrong (reported here). */
  value(v: Value | undefined, place: Place): bigint | null {
    if (!v || v.terms.length === 0) return null;
    let sum = 0n;
    for (const [i, term] of v.terms.entries()) {
      const one = this.term(term, place);
      if (one === null) return null;
      sum = i > 0 && v.operators[i - 1] === '+' ? sum + one : sum | one;
    }
    if (sum > MAX_U64) {
      this.error('number', v, `${place.what}: 0x${sum.toString(16)} does not fit 64 bits`);
      return null;
    }
    if (place.max !== undefined && sum > place.max) {
      this.error(
        'number',
        v,
        `${place.what}: 0x${sum.toString(16)} is too large, the largest value is 0x${place.max.toString(16)}`,
      );
      return null;
    }
    return sum;
  }

  private term(term: Term, place: Place): bigint | null {
    if (term.number !== undefined) return this.literal(term, term.number, place.what);
    const name = term.ref?.$refText;
    if (name === undefined) return null;
    const flag = place.flags?.find((f) => f.name === name);
    if (flag) return flag.bit;
    const constant = this.constants.get(name);
    if (constant !== undefined) return constant;
    this.unknownName(term, name, place);
    return null;
  }

  private unknownName(node: AstNode, name: string, place: Place): void {
    if (place.flags) {
      const legal = place.flags.map((f) => f.name);
      const near = nearest(name, [...legal, ...this.constants.keys()]);
      const kind = place.pick ? 'a value' : 'a flag';
      this.error(
        'unknown-flag',
        node,
        `'${name}' is not ${kind} of ${place.what}${near ? `; did you mean '${near}'?` : ';'} ${near ? 'Legal' : 'legal'} names are ${legal.join(', ')}`,
      );
    } else if (this.backings.has(name)) {
      this.error('unknown-name', node, `${place.what} is a number, but '${name}' is a backing`);
    } else {
      const near = nearest(name, this.constants.keys());
      this.error(
        'unknown-name',
        node,
        `'${name}' has no value${near ? `; did you mean '${near}'?` : `: give it one before this line with let ${name} = …`}`,
      );
    }
  }

  /** A value that must be an exact number below 2^53. */
  number(v: Value | undefined, place: Place): number | null {
    const n = this.value(v, { ...place, max: place.max ?? (1n << 53n) - 1n });
    return n === null ? null : Number(n);
  }

  /** Whether a value begins with the name of a backing. */
  namesBacking(v: Value | undefined): boolean {
    const name = v?.terms[0]?.ref?.$refText;
    return name !== undefined && this.backings.has(name);
  }

  /** `BACKING+OFFSET`, or null after reporting. */
  host(v: Value | undefined, what: string): HostAddress | null {
    if (!v || v.terms.length === 0) return null;
    const name = v.terms[0].ref?.$refText;
    if (name === undefined || !this.backings.has(name)) {
      const known = [...this.backings.keys()];
      const near = name === undefined ? undefined : nearest(name, known);
      const found = name === undefined ? 'a number' : `'${name}'`;
      const instead = near
        ? `; did you mean '${near}'?`
        : known.length > 0
          ? `; write one of ${orList(known)}, with an offset if needed (${known[0]}+0x1000)`
          : ': there is none yet, map one before this line with backing NAME SIZE';
      this.error('unknown-backing', v, `${what} must name a backing, but ${found} is none${instead}`);
      return null;
    }
    let offset = 0n;
    for (const term of v.terms.slice(1)) {
      const one = this.term(term, { what: `offset in ${name}` });
      if (one === null) return null;
      offset += one;
    }
    if (v.operators.includes('|')) {
      this.error('number', v, `an offset is added to a backing with +, not with |`);
      return null;
    }
    const size = this.backings.get(name)?.size ?? 0;
    if (offset >= BigInt(size)) {
      this.error(
        'beyond-backing',
        v,
        `offset 0x${offset.toString(16)} lies beyond backing '${name}', which has 0x${size.toString(16)} bytes`,
      );
      return null;
    }
    return { backing: name, offset: Number(offset) };
  }
}
