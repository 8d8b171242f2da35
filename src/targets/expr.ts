/**
 * The expression language of conditions, hit filters, logpoints and the debug console.
 *
 *   gpa >= 0xfee00000 && write          numbers: 0x…, decimal, 0b…, with K M G T; flags are 0 or 1
 *   root_role.level == 4 || !smm        names are event fields, registers and words of the MMU
 *   gpa in 0xa0000..0xbffff             a range, both ends included
 *   gpa in slot(1)                      a function that gives ranges
 *   reason == 'EPT_MISCONFIG'           text compares with text
 *
 * Bit operations bind tighter than comparisons (`spte & 7 == 7` is `(spte & 7) == 7`), unlike in C. Arithmetic is on
 * whole numbers without a width. A name that has no value at the moment (a field the event at hand does not have) makes
 * what is computed from it unknown; unknown is not true, so a condition with it does not stop.
 */
import { parseNumber } from '../words/address';
import { TargetError } from './target';
import { suggestion } from '../words/suggest';

/** A value; null is unknown. */
export type ExprValue = bigint | boolean | string | null;

/** Inclusive ranges, what the right side of `in` is. */
export type ExprRange = readonly [first: bigint, last: bigint];

/** Which names may stand in an expression. */
export interface ExprScope {
  /** whether a dotted name is legal */
  has(name: string): boolean;
  /** legal names, for messages and completion */
  names(): readonly string[];
  /** what is wrong with a name that is almost legal: `root_role has no field 'lvel': …` */
  explain?(name: string): string | null;
  /** functions by name, with their parameters for messages: `slot` → `slot(id)` */
  readonly functions?: Readonly<Record<string, { readonly usage: string; readonly min: number; readonly max: number }>>;
}

/** Where the names get their values while an expression is computed. */
export interface ExprEnv {
  get(name: string): ExprValue;
  call?(name: string, args: readonly ExprValue[]): readonly ExprRange[] | null;
}

/** A checked expression. */
export interface Expr {
  readonly text: string;
  /** names used, each once */
  readonly names: readonly string[];
  /** @throws TargetError for a division by zero or a shift that is too far */
  evaluate(env: ExprEnv): ExprValue;
}

/** A mistake in an expression; the message is one sentence that says where. */
export class ExprError extends TargetError {}

type Node = (env: ExprEnv) => ExprValue;
type RangeNode = (env: ExprEnv) => readonly ExprRange[] | null;
/** What is known of a node's type before it runs. */
type Type = 'number' | 'text' | 'any';
interface Typed {
  readonly run: Node;
  readonly type: Type;
}

interface Token {
  readonly kind: 'number' | 'name' | 'text' | 'op' | 'end';
  readonly text: string;
  readonly at: number;
}

const TOKEN =
  /\s*(?:(?<number>\d[0-9a-zA-Z_]*)|(?<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*|\[\d+\])*)|(?<text>'[^']*'|"[^"]*")|(?<op>\|\||&&|==|!=|<=|>=|<<|>>|\.\.|[-+*/%&|^~!<>(),]))/y;

/** Longest expression taken; deeper nesting than this many levels is refused too, so that hostile input cannot overflow. */
const MAX_LENGTH = 4096;
const MAX_DEPTH = 100;

function tokenize(text: string): Token[] {
  if (text.length > MAX_LENGTH) {
    throw new ExprError(`the expression has ${text.length} characters: the limit is ${MAX_LENGTH}`);
  }
  const tokens: Token[] = [];
  let at = 0;
  while (text.slice(at).trim() !== '') {
    TOKEN.lastIndex = at;
    const m = TOKEN.exec(text);
    if (!m?.groups) {
      const bad = text.slice(at).trim()[0];
      const hint =
        bad === '=' ? "; write '==' to compare" : bad === "'" || bad === '"' ? '; the text has no closing quote' : '';
      throw new ExprError(`'${bad}' cannot stand in an expression (column ${text.indexOf(bad, at) + 1})${hint}`);
    }
    const [kind, body] = Object.entries(m.groups).find(([, v]) => v !== undefined) as [Token['kind'], string];
    tokens.push({ kind, text: body, at: TOKEN.lastIndex - body.length });
    at = TOKEN.lastIndex;
  }
  tokens.push({ kind: 'end', text: '', at: text.length });
  return tokens;
}

/** Whether a value counts as true: unknown does not. */
export function isTrue(value: ExprValue): boolean {
  return value !== null && value !== false && value !== 0n && value !== '';
}

const toNumber = (v: ExprValue): bigint | null =>
  v === null ? null : typeof v === 'bigint' ? v : typeof v === 'boolean' ? (v ? 1n : 0n) : null;

const ARITHMETIC: Record<string, (a: bigint, b: bigint) => bigint> = {
  '+': (a, b) => a + b,
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
  '/': (a, b) => a / nonZero(b, '/'),
  '%': (a, b) => a % nonZero(b, '%'),
  '&': (a, b) => a & b,
  '|': (a, b) => a | b,
  '^': (a, b) => a ^ b,
  '<<': (a, b) => a << shiftCount(b),
  '>>': (a, b) => a >> shiftCount(b),
};

const COMPARISON: Record<string, (a: bigint | string, b: bigint | string) => boolean> = {
  '==': (a, b) => a === b,
  '!=': (a, b) => a !== b,
  '<': (a, b) => a < b,
  '<=': (a, b) => a <= b,
  '>': (a, b) => a > b,
  '>=': (a, b) => a >= b,
};

function nonZero(b: bigint, op: string): bigint {
  if (b === 0n) throw new ExprError(`'${op} 0' has no result`);
  return b;
}

function shiftCount(b: bigint): bigint {
  if (b < 0n || b > 128n) throw new ExprError(`a shift by ${b} has no use: the count must lie in 0 .. 128`);
  return b;
}

/** Binary operators by binding strength, weakest first. */
const LEVELS: readonly (readonly string[])[] = [['|'], ['^'], ['&'], ['<<', '>>'], ['+', '-'], ['*', '/', '%']];

class Parser {
  private readonly tokens: Token[];
  private next = 0;
  private depth = 0;
  readonly names = new Set<string>();

  constructor(
    private readonly text: string,
    private readonly scope: ExprScope,
  ) {
    this.tokens = tokenize(text);
  }

  parse(): Node {
    if (this.peek().kind === 'end') throw new ExprError('the expression is empty: write for example gpa >= 0xfee00000');
    const node = this.or();
    const rest = this.peek();
    if (rest.kind !== 'end') {
      throw new ExprError(
        `'${rest.text}' (column ${rest.at + 1}) does not follow from what stands before it: expected an operator such as && || == in + &`,
      );
    }
    return node.run;
  }

  private peek(): Token {
    return this.tokens[this.next];
  }

  private accept(...ops: string[]): string | null {
    const t = this.peek();
    if ((t.kind === 'op' || t.text === 'in') && ops.includes(t.text)) {
      this.next++;
      return t.text;
    }
    return null;
  }

  private expect(op: string, why: string): void {
    const t = this.peek();
    if (!this.accept(op)) {
      throw new ExprError(
        `expected '${op}' ${why}, found ${t.kind === 'end' ? 'the end' : `'${t.text}'`} (column ${t.at + 1})`,
      );
    }
  }

  private or(): Typed {
    if (++this.depth > MAX_DEPTH) throw new ExprError(`the expression nests deeper than ${MAX_DEPTH} levels`);
    let left = this.and();
    while (this.accept('||')) {
      const [a, b] = [left.run, this.and().run];
      left = number((env) => {
        const x = a(env);
        if (isTrue(x)) return true;
        const y = b(env);
        return isTrue(y) ? true : x === null || y === null ? null : false;
      });
    }
    this.depth--;
    return left;
  }

  private and(): Typed {
    let left = this.comparison();
    while (this.accept('&&')) {
      const [a, b] = [left.run, this.comparison().run];
      left = number((env) => {
        const x = a(env);
        if (x !== null && !isTrue(x)) return false;
        const y = b(env);
        if (y !== null && !isTrue(y)) return false;
        return x === null || y === null ? null : true;
      });
    }
    return left;
  }

  private comparison(): Typed {
    const left = this.binary(0);
    const at = this.peek().at;
    const op = this.accept('==', '!=', '<', '<=', '>', '>=', 'in');
    if (!op) return left;
    if (op === 'in') {
      const ranges = this.ranges();
      return number((env) => {
        const x = toNumber(left.run(env));
        const list = ranges(env);
        return x === null || list === null ? null : list.some(([first, last]) => first <= x && x <= last);
      });
    }
    const right = this.binary(0);
    if ((left.type === 'text' && right.type === 'number') || (left.type === 'number' && right.type === 'text')) {
      throw new ExprError(`'${op}' (column ${at + 1}) compares a number with text: put both in quotes or none`);
    }
    const chained = this.peek();
    if (chained.kind === 'op' && chained.text in COMPARISON) {
      throw new ExprError(
        `comparisons cannot be chained (column ${chained.at + 1}): write a < b && b < c, or b in a..c`,
      );
    }
    const compare = COMPARISON[op];
    return number((env) => {
      const [a, b] = [left.run(env), right.run(env)];
      if (a === null || b === null) return null;
      if (typeof a === 'string' || typeof b === 'string') {
        return typeof a === 'string' && typeof b === 'string' ? compare(a, b) : op === '!=';
      }
      return compare(toNumber(a) ?? 0n, toNumber(b) ?? 0n);
    });
  }

  /** Right side of `in`: `a..b` or a function of ranges. */
  private ranges(): RangeNode {
    const t = this.peek();
    const after = this.tokens[this.next + 1];
    if (t.kind === 'name' && after?.text === '(') return this.call(t);
    const first = this.binary(0).run;
    this.expect('..', 'after the start of a range (a..b, both ends included)');
    const last = this.binary(0).run;
    return (env) => {
      const [a, b] = [toNumber(first(env)), toNumber(last(env))];
      return a === null || b === null ? null : [[a, b]];
    };
  }

  private call(t: Token): RangeNode {
    const known = this.scope.functions ?? {};
    const f = Object.hasOwn(known, t.text) ? known[t.text] : undefined;
    if (!f) {
      const usages = Object.values(known).map((k) => k.usage);
      throw new ExprError(
        `there is no function '${t.text}' (column ${t.at + 1})${usages.length ? `: the functions are ${usages.join(', ')}` : ''}`,
      );
    }
    this.next += 2;
    const args: Node[] = [];
    if (!this.accept(')')) {
      do args.push(this.or().run);
      while (this.accept(','));
      this.expect(')', `after the arguments of ${t.text}`);
    }
    if (args.length < f.min || args.length > f.max) {
      throw new ExprError(`${t.text} takes other arguments (column ${t.at + 1}): write ${f.usage}`);
    }
    return (env) =>
      env.call?.(
        t.text,
        args.map((a) => a(env)),
      ) ?? null;
  }

  private binary(level: number): Typed {
    if (level === LEVELS.length) return this.unary();
    let left = this.binary(level + 1);
    for (;;) {
      const at = this.peek().at;
      const op = this.accept(...LEVELS[level]);
      if (!op) return left;
      const right = this.binary(level + 1);
      if (left.type === 'text' || right.type === 'text') {
        throw new ExprError(`'${op}' (column ${at + 1}) needs numbers on both sides, not text`);
      }
      const [a, b, compute] = [left.run, right.run, ARITHMETIC[op]];
      left = number((env) => {
        const [x, y] = [toNumber(a(env)), toNumber(b(env))];
        return x === null || y === null ? null : compute(x, y);
      });
    }
  }

  private unary(): Typed {
    if (this.depth++ > MAX_DEPTH) throw new ExprError(`the expression nests deeper than ${MAX_DEPTH} levels`);
    const op = this.accept('!', '-', '~');
    const node = op ? this.negated(op, this.unary().run) : this.primary();
    this.depth--;
    return node;
  }

  private negated(op: string, a: Node): Typed {
    if (op === '!') {
      return number((env) => {
        const v = a(env);
        return v === null ? null : !isTrue(v);
      });
    }
    return number((env) => {
      const v = toNumber(a(env));
      return v === null ? null : op === '-' ? -v : BigInt.asUintN(64, ~v);
    });
  }

  private primary(): Typed {
    const t = this.peek();
    this.next++;
    switch (t.kind) {
      case 'number': {
        const value = this.literal(t);
        return number(() => value);
      }
      case 'text': {
        const body = t.text.slice(1, -1);
        return { run: () => body, type: 'text' };
      }
      case 'name':
        return this.name(t);
      case 'op':
        if (t.text === '(') {
          const inner = this.or();
          this.expect(')', `to close the '(' of column ${t.at + 1}`);
          return inner;
        }
        break;
      case 'end':
        this.next--;
        throw new ExprError(`'${this.text.trim()}' ends too early: a number or a name has to follow`);
    }
    throw new ExprError(`'${t.text}' (column ${t.at + 1}) stands where a number or a name has to be`);
  }

  private literal(t: Token): bigint {
    if (/^0b[01_]+$/i.test(t.text)) return BigInt(t.text.replaceAll('_', ''));
    try {
      return parseNumber(t.text);
    } catch (error) {
      throw new ExprError(`${(error as Error).message} (column ${t.at + 1})`);
    }
  }

  private name(t: Token): Typed {
    if (t.text === 'true' || t.text === 'false') return number(() => t.text === 'true');
    if (this.peek().text === '(' && this.scope.functions && Object.hasOwn(this.scope.functions, t.text)) {
      throw new ExprError(`${t.text}(…) is a range: write for example gpa in ${this.scope.functions[t.text].usage}`);
    }
    if (!this.scope.has(t.text)) throw unknownName(t, this.scope);
    this.names.add(t.text);
    return { run: (env) => env.get(t.text), type: 'any' };
  }
}

function unknownName(t: Token, scope: ExprScope): ExprError {
  const better = scope.explain?.(t.text);
  if (better) return new ExprError(better);
  const names = scope.names();
  return new ExprError(
    `'${t.text}' (column ${t.at + 1}) is not a name here: the names are ${names.join(', ')}${suggestion(t.text, names)}`,
  );
}

const number = (run: Node): Typed => ({ run, type: 'number' });

/**
 * Checks an expression and makes it ready to be computed.
 * @throws ExprError with one sentence: what is wrong, in which column, and which names are legal.
 */
export function compileExpr(text: string, scope: ExprScope): Expr {
  const parser = new Parser(text, scope);
  const evaluate = parser.parse();
  return { text: text.trim(), names: [...parser.names], evaluate };
}

/** A value as the debug console prints it: small numbers decimal, others hexadecimal. */
export function exprText(value: ExprValue): string {
  if (value === null) return 'unknown';
  if (typeof value !== 'bigint') return String(value);
  return value < 0n ? `-0x${(-value).toString(16)}` : value < 10n ? value.toString() : `0x${value.toString(16)}`;
}

/** A logpoint's message: text with `{expression}` in it; `{{` and `}}` stand for braces. */
export function compileTemplate(text: string, scope: ExprScope): (env: ExprEnv) => string {
  const parts: (string | Expr)[] = [];
  let literal = '';
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if ((c === '{' || c === '}') && text[i + 1] === c) {
      literal += c;
      i++;
    } else if (c === '{') {
      const end = text.indexOf('}', i);
      if (end < 0) throw new ExprError(`'{' (column ${i + 1}) is not closed: write {expression}, or {{ for a brace`);
      parts.push(literal, compileExpr(text.slice(i + 1, end), scope));
      literal = '';
      i = end;
    } else {
      literal += c;
    }
  }
  parts.push(literal);
  return (env) => parts.map((p) => (typeof p === 'string' ? p : exprText(p.evaluate(env)))).join('');
}

/**
 * A hit condition: `3` or `== 3` (the third time only), `>= 3`, `> 3`, `< 3`, `<= 3`, `% 3` (every third time).
 * @throws ExprError if it is none of these.
 */
export function compileHitCondition(text: string): (hits: number) => boolean {
  const m = /^\s*(==|=|>=|>|<=|<|%)?\s*(\d{1,9})\s*$/.exec(text);
  const n = m ? Number(m[2]) : 0;
  if (!m || (m[1] === '%' && n === 0)) {
    throw new ExprError(`'${text}' is not a hit count: write 3, >= 3, > 3, <= 3, < 3 or % 3 (every third time)`);
  }
  switch (m[1]) {
    case '>=':
      return (hits) => hits >= n;
    case '>':
      return (hits) => hits > n;
    case '<=':
      return (hits) => hits <= n;
    case '<':
      return (hits) => hits < n;
    case '%':
      return (hits) => hits % n === 0;
    default:
      return (hits) => hits === n;
  }
}
