/**
 * Deep copy of a graph of model objects: class instances, arrays, maps, sets, typed arrays, in whatever cycles. The checkpoints of
 * time travel are made with it.
 */

/** Objects of these classes answer how they are copied. */
export interface Forkable {
  fork(): object;
}

/** Classes whose instances never change after construction, so that copies may share them. */
const immutable = new Set<unknown>();

/** Declares a class immutable for {@link cloneGraph}. */
export function declareImmutable(...classes: (abstract new (...args: never[]) => unknown)[]): void {
  for (const c of classes) immutable.add(c);
}

const isForkable = (o: object): o is Forkable => 'fork' in o && typeof o.fork === 'function';

/**
 * Copies everything reachable from `root`. Functions and frozen plain data are shared; objects with a `fork()` copy themselves.
 * @param preset objects that are to be replaced by given ones
 */
export function cloneGraph<T extends object>(root: T, preset: ReadonlyMap<object, object> = new Map()): T {
  const seen = new Map<object, object>(preset);

  const value = (v: unknown): unknown => (typeof v === 'object' && v !== null ? object(v) : v);

  function object(o: object): object {
    const known = seen.get(o);
    if (known) return known;
    if (immutable.has(o.constructor) || Object.isFrozen(o)) return o;
    if (ArrayBuffer.isView(o)) {
      const copy = (o as Uint8Array).slice();
      seen.set(o, copy);
      return copy;
    }
    if (Array.isArray(o)) {
      const copy: unknown[] = new Array(o.length);
      seen.set(o, copy);
      for (let i = 0; i < o.length; i++) copy[i] = value(o[i]);
      return copy;
    }
    if (o instanceof Map) {
      const copy = new Map<unknown, unknown>();
      seen.set(o, copy);
      for (const [k, v] of o) copy.set(value(k), value(v));
      return copy;
    }
    if (o instanceof Set) {
      const copy = new Set<unknown>();
      seen.set(o, copy);
      for (const v of o) copy.add(value(v));
      return copy;
    }
    if (isForkable(o)) {
      const copy = o.fork();
      seen.set(o, copy);
      return copy;
    }
    const copy = Object.create(Object.getPrototypeOf(o) as object | null) as Record<PropertyKey, unknown>;
    seen.set(o, copy);
    for (const key of Reflect.ownKeys(o)) {
      const d = Object.getOwnPropertyDescriptor(o, key);
      if (!d) continue;
      if ('value' in d) d.value = value(d.value);
      Object.defineProperty(copy, key, d);
    }
    return copy;
  }

  return object(root) as T;
}
