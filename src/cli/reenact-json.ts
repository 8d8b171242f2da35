/** JSON of a probe, read with the place in every message. */

/** Input that is no state file. The message is one sentence: what, where, what to do instead. */
export class StateFileError extends Error {
  override readonly name = 'StateFileError';
}

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** A place in a JSON file, for messages, and the value there. */
export class JsonNode {
  constructor(
    readonly value: Json | undefined,
    readonly path: string,
  ) {}

  /** The root of a JSON text; `what` names the kind of file in messages. */
  static parse(text: string, what: string): JsonNode {
    try {
      return new JsonNode(JSON.parse(text) as Json, '');
    } catch (e) {
      throw new StateFileError(
        `the ${what} file is not JSON (${(e as Error).message}): give the .${what}.json of a probe run`,
      );
    }
  }

  private fail(wanted: string): never {
    const found = this.value === undefined ? 'nothing' : JSON.stringify(this.value).slice(0, 40);
    throw new StateFileError(
      `${this.path || 'the file'} should be ${wanted}, but is ${found}: is this a file of a probe run?`,
    );
  }

  has(key: string): boolean {
    return this.at(key).value !== undefined && this.at(key).value !== null;
  }

  at(key: string): JsonNode {
    const v = this.value;
    if (v === null || typeof v !== 'object' || Array.isArray(v)) return this.fail('an object');
    return new JsonNode(Object.hasOwn(v, key) ? v[key] : undefined, this.path ? `${this.path}.${key}` : key);
  }

  list(): JsonNode[] {
    const v = this.value;
    if (!Array.isArray(v)) return this.fail('a list');
    return v.map((x, i) => new JsonNode(x, `${this.path}[${i}]`));
  }

  entries(): [string, JsonNode][] {
    const v = this.value;
    if (v === null || typeof v !== 'object' || Array.isArray(v)) return this.fail('an object');
    return Object.keys(v).map((k) => [k, this.at(k)]);
  }

  text(): string {
    return typeof this.value === 'string' ? this.value : this.fail('a text');
  }

  flag(): boolean {
    return typeof this.value === 'boolean' ? this.value : this.fail('true or false');
  }

  int(): number {
    return typeof this.value === 'number' && Number.isSafeInteger(this.value)
      ? this.value
      : this.fail('a whole number');
  }

  word(): bigint {
    const v = this.value;
    if (typeof v === 'number' && Number.isSafeInteger(v) && v >= 0) return BigInt(v);
    if (typeof v === 'string' && /^(0x[0-9a-f]{1,16}|[0-9]{1,20})$/i.test(v)) return BigInt(v);
    return this.fail('a number such as "0x1000"');
  }

  optional<T>(key: string, read: (n: JsonNode) => T): T | null {
    return this.has(key) ? read(this.at(key)) : null;
  }
}
