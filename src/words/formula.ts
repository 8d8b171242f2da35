/**
 * The formulas that say where a role bit comes from, as a kernel developer would write them: `CR4.SMEP && !CR0.WP`,
 * `EFER.LMA ? (CR4.LA57 ? 5 : 4) : 2`, `max(level, 3)`. They are shown as they stand and evaluated over the registers of a vCPU,
 * so that what the reader sees is what was computed.
 *
 * Grammar: `?:` over `||` over `&&` over `= < <= > >=` over `!`, `max(a, b)`, `(…)`, numbers, and names (`CR4.SMEP`, `is_smm`).
 */

/** Values of the names in a formula; a name that is not there, or undefined, is unknown. */
export type Inputs = Readonly<Record<string, number | undefined>>;

type Node =
  | { readonly op: 'number'; readonly value: number }
  | { readonly op: 'name'; readonly name: string }
  | { readonly op: 'not'; readonly of: Node }
  | { readonly op: '&&' | '||' | '=' | '<' | '<=' | '>' | '>=' | 'max'; readonly left: Node; readonly right: Node }
  | { readonly op: '?'; readonly test: Node; readonly yes: Node; readonly no: Node };

/** A formula that was read once. */
export interface Formula {
  readonly text: string;
  /** Names it mentions, in order of appearance, each once. */
  readonly names: readonly string[];
  /** Its value, or undefined if a name that matters is unknown. Booleans are 0 and 1. */
  evaluate(inputs: Inputs): number | undefined;
}

const TOKEN = /\s*(\d+|[A-Za-z_][\w.]*|&&|\|\||<=|>=|[()!?:=<>,])/y;

/** Reads a formula. @throws Error that quotes the formula and names the place. */
export function parseFormula(text: string): Formula {
  const tokens: string[] = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.trimEnd().length) {
    const at = TOKEN.lastIndex;
    const m = TOKEN.exec(text);
    if (m === null) throw new Error(`formula '${text}': cannot read '${text.slice(at).trim()}'`);
    tokens.push(m[1]);
  }
  const names: string[] = [];
  let next = 0;
  const take = (token: string): boolean => tokens[next] === token && ++next > 0;
  const need = (token: string): void => {
    if (!take(token)) throw new Error(`formula '${text}': expected '${token}' before '${tokens[next] ?? 'its end'}'`);
  };

  function choice(): Node {
    const test = binary(0);
    if (!take('?')) return test;
    const yes = choice();
    need(':');
    return { op: '?', test, yes, no: choice() };
  }
  const LEVELS = [['||'], ['&&'], ['=', '<', '<=', '>', '>=']] as const;
  function binary(level: number): Node {
    const operators = LEVELS[level];
    if (operators === undefined) return unary();
    let left = binary(level + 1);
    for (;;) {
      const op = operators.find((o) => take(o));
      if (op === undefined) return left;
      left = { op, left, right: binary(level + 1) };
    }
  }
  function unary(): Node {
    if (take('!')) return { op: 'not', of: unary() };
    if (take('(')) {
      const inner = choice();
      need(')');
      return inner;
    }
    const token = tokens[next++];
    if (token === undefined || !/^\w/.test(token)) {
      throw new Error(`formula '${text}': expected a value before '${token ?? 'its end'}'`);
    }
    if (/^\d/.test(token)) return { op: 'number', value: Number(token) };
    if (token === 'max') {
      need('(');
      const left = choice();
      need(',');
      const right = choice();
      need(')');
      return { op: 'max', left, right };
    }
    if (!names.includes(token)) names.push(token);
    return { op: 'name', name: token };
  }

  const root = choice();
  if (next < tokens.length) throw new Error(`formula '${text}': did not expect '${tokens[next] ?? ''}'`);
  return { text, names, evaluate: (inputs) => evaluate(root, inputs) };
}

/** Three-valued: `0 && unknown` is 0, as far as the answer does not hang on what is unknown. */
function evaluate(node: Node, inputs: Inputs): number | undefined {
  switch (node.op) {
    case 'number':
      return node.value;
    case 'name':
      return inputs[node.name];
    case 'not': {
      const value = evaluate(node.of, inputs);
      return value === undefined ? undefined : Number(value === 0);
    }
    case '?': {
      const test = evaluate(node.test, inputs);
      if (test !== undefined) return evaluate(test === 0 ? node.no : node.yes, inputs);
      const yes = evaluate(node.yes, inputs);
      return yes === evaluate(node.no, inputs) ? yes : undefined;
    }
    case '&&':
    case '||': {
      const decisive = node.op === '||';
      const left = evaluate(node.left, inputs);
      const right = evaluate(node.right, inputs);
      const decides = (v: number | undefined): boolean => v !== undefined && (v !== 0) === decisive;
      if (decides(left) || decides(right)) return Number(decisive);
      return left === undefined || right === undefined ? undefined : Number(!decisive);
    }
    default: {
      const left = evaluate(node.left, inputs);
      const right = evaluate(node.right, inputs);
      if (left === undefined || right === undefined) return undefined;
      switch (node.op) {
        case '=':
          return Number(left === right);
        case '<':
          return Number(left < right);
        case '<=':
          return Number(left <= right);
        case '>':
          return Number(left > right);
        case '>=':
          return Number(left >= right);
        case 'max':
          return Math.max(left, right);
      }
    }
  }
}
