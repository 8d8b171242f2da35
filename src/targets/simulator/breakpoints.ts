/**
 * Breakpoints of every kind over the ticks of a run: on lines, on KVM functions, on events (exception filters) and on
 * bytes of memory, each with a condition, a hit count and a log message if wanted. Says at a tick whether to stop and
 * why; knows nothing of how the run moves.
 */
import type { KvmEvent } from '../../kvm/events';
import { EVENTS, eventField } from '../event-info';
import {
  compileExpr,
  compileHitCondition,
  compileTemplate,
  type Expr,
  type ExprEnv,
  type ExprScope,
  isTrue,
} from '../expr';
import { FILTERS } from '../filters';
import { functionDoubt } from '../kvm-functions';
import type {
  BreakpointOptions,
  BreakpointResult,
  DataBreakpoint,
  ExceptionFilter,
  FunctionBreakpoint,
  LineBreakpoint,
  StopReason,
} from '../target';
import { TargetError } from '../target';
import { suggestion } from '../../words/suggest';
import type { Failure } from './program';

/** Names of the machine's state that conditions may use, beside the fields of the event at hand. */
export interface StateNames {
  readonly scope: ExprScope;
  env(vcpu: number): ExprEnv;
}

/** Memory that a data breakpoint watches. */
export interface WatchedBytes {
  readonly title: string;
  /** the bytes now; null where there is no memory */
  read(): Uint8Array | null;
}

/** A breakpoint that was hit. */
export interface Hit {
  readonly reason: StopReason;
  readonly ids: readonly number[];
  readonly filter: string | null;
  readonly text: string;
}

interface Breakpoint {
  readonly id: number;
  readonly condition: Expr | null;
  readonly hitCondition: ((hits: number) => boolean) | null;
  readonly log: ((env: ExprEnv) => string) | null;
  hits: number;
}

interface DataWatch extends Breakpoint {
  readonly bytes: WatchedBytes;
  last: Uint8Array | null;
}

/** The state's names with more names in front of them. */
function extended(scope: ExprScope, more: readonly string[]): ExprScope {
  return {
    has: (name) => more.includes(name) || scope.has(name),
    names: () => [...more, ...scope.names()],
    explain: scope.explain?.bind(scope),
    functions: scope.functions,
  };
}

export class Breakpoints {
  private nextId = 1;
  private readonly lines = new Map<number, Breakpoint[]>();
  private readonly functions = new Map<string, Breakpoint[]>();
  private readonly filters = new Map<string, Breakpoint[]>();
  private data: DataWatch[] = [];
  /** looking back: conditions count, hit counts and log messages do not */
  searching = false;
  log: (text: string) => void = () => {};

  constructor(
    private readonly state: StateNames,
    private readonly kernel: string,
  ) {}

  // ---- setting ---------------------------------------------------------------------------------------------------

  /** @param executable lines that a breakpoint can sit on, rising */
  setLines(wanted: readonly LineBreakpoint[], executable: readonly number[]): BreakpointResult[] {
    this.lines.clear();
    return wanted.map((b) => {
      const line = executable.find((l) => l >= b.line) ?? executable.at(-1);
      if (line === undefined)
        return { id: this.nextId++, verified: false, message: 'the scenario has no statement to stop at' };
      return this.define(b, ['line'], (bp) => append(this.lines, line, bp), { line });
    });
  }

  setFunctions(wanted: readonly FunctionBreakpoint[]): BreakpointResult[] {
    this.functions.clear();
    return wanted.map((b) => {
      const name = b.name.trim().replace(/\(\)$/, '');
      const doubt = functionDoubt(name, this.kernel);
      return this.define(
        b,
        [],
        (bp) => append(this.functions, name, bp),
        doubt ? { verified: false, message: doubt } : {},
      );
    });
  }

  setFilters(wanted: readonly ExceptionFilter[]): BreakpointResult[] {
    this.filters.clear();
    return wanted.map((b) => {
      const info = FILTERS.find((f) => f.filter === b.filter);
      if (!info) {
        const legal = FILTERS.map((f) => f.filter);
        const message = `there is no exception filter '${b.filter}': the filters are ${legal.join(', ')}${suggestion(b.filter, legal)}`;
        return { id: this.nextId++, verified: false, message };
      }
      const fields = info.kinds.flatMap((kind) => Object.keys(EVENTS.get(kind)?.fields ?? {}));
      const names = [...new Set(info.kinds.length ? [...fields, 'kind'] : ['line'])];
      return this.define(b, names, (bp) => append(this.filters, info.filter, bp));
    });
  }

  setData(wanted: readonly (DataBreakpoint & { readonly bytes: WatchedBytes | string })[]): BreakpointResult[] {
    this.data = [];
    return wanted.map((b) => {
      const { bytes } = b;
      if (typeof bytes === 'string') return { id: this.nextId++, verified: false, message: bytes };
      return this.define(b, [], (bp) => this.data.push({ ...bp, bytes, last: bytes.read() }));
    });
  }

  private define(
    options: BreakpointOptions,
    names: readonly string[],
    put: (breakpoint: Breakpoint) => void,
    result: Partial<BreakpointResult> = {},
  ): BreakpointResult {
    const id = this.nextId++;
    const scope = extended(this.state.scope, names);
    try {
      put({
        id,
        condition: options.condition?.trim() ? compileExpr(options.condition, scope) : null,
        hitCondition: options.hitCondition?.trim() ? compileHitCondition(options.hitCondition) : null,
        log: options.logMessage ? compileTemplate(options.logMessage, scope) : null,
        hits: 0,
      });
    } catch (error) {
      if (!(error instanceof TargetError)) throw error;
      return { ...result, id, verified: false, message: error.message };
    }
    return { id, verified: true, ...result };
  }

  // ---- matching, at the tick where it happens --------------------------------------------------------------------

  atLine(line: number, vcpu: number): Hit | null {
    const hit = this.match(this.lines.get(line), vcpu, (name) => (name === 'line' ? BigInt(line) : undefined));
    return hit && { reason: 'breakpoint', ids: hit, filter: null, text: '' };
  }

  atFunction(name: string, vcpu: number): Hit | null {
    const hit = this.match(this.functions.get(name), vcpu);
    return hit && { reason: 'function breakpoint', ids: hit, filter: null, text: name };
  }

  atEvent(event: KvmEvent): Hit | null {
    if (this.filters.size === 0) return null;
    for (const info of FILTERS) {
      if (!info.kinds.includes(event.kind)) continue;
      const own = info.kinds.flatMap((kind) => Object.keys(EVENTS.get(kind)?.fields ?? {}));
      const hit = this.match(this.filters.get(info.filter), Math.max(event.vcpu, 0), (name) =>
        own.includes(name) || name === 'kind' ? eventField(event, name) : undefined,
      );
      if (hit) return { reason: 'exception', ids: hit, filter: info.filter, text: info.label };
    }
    return null;
  }

  atFailure(failures: readonly Failure[], vcpu: number): Hit | null {
    const [first] = failures;
    const hit = this.match(this.filters.get('expect'), vcpu, (name) =>
      name === 'line' ? BigInt(first.line) : undefined,
    );
    return hit && { reason: 'exception', ids: hit, filter: 'expect', text: first.text };
  }

  /** Whether any data breakpoint is set: then {@link atAnyTick} has to be asked at every tick. */
  get watchesMemory(): boolean {
    return this.data.length > 0;
  }

  atAnyTick(vcpu: number): Hit | null {
    for (const watch of this.data) {
      const now = watch.bytes.read();
      if (same(now, watch.last)) continue;
      const [before] = [watch.last, (watch.last = now)];
      const hit = this.match([watch], vcpu);
      if (hit) {
        return {
          reason: 'data breakpoint',
          ids: hit,
          filter: null,
          text: `${watch.bytes.title}: ${change(before, now)}`,
        };
      }
    }
    return null;
  }

  /** The state has been replaced: what is there now is what changes are measured against. */
  takeBaseline(): void {
    for (const watch of this.data) watch.last = watch.bytes.read();
  }

  /** Ids of those of the list that say stop; null if none does. Log messages are written instead of stopping. */
  private match(
    list: readonly Breakpoint[] | undefined,
    vcpu: number,
    own: (name: string) => ReturnType<ExprEnv['get']> | undefined = () => undefined,
  ): number[] | null {
    if (!list || list.length === 0) return null;
    const state = this.state.env(Math.max(vcpu, 0));
    const env: ExprEnv = {
      get: (name) => {
        const value = own(name);
        return value === undefined ? state.get(name) : value;
      },
      call: state.call?.bind(state),
    };
    const ids = list.filter((b) => this.applies(b, env)).map((b) => b.id);
    return ids.length > 0 ? ids : null;
  }

  private applies(b: Breakpoint, env: ExprEnv): boolean {
    try {
      if (b.condition && !isTrue(b.condition.evaluate(env))) return false;
      if (this.searching) return b.log === null;
      if (b.hitCondition && !b.hitCondition(++b.hits)) return false;
      if (!b.log) return true;
      this.log(b.log(env));
    } catch (error) {
      if (!(error instanceof TargetError)) throw error;
      this.log(`condition of breakpoint ${b.id}: ${error.message}`);
    }
    return false;
  }
}

function append<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  map.set(key, [...(map.get(key) ?? []), value]);
}

function same(a: Uint8Array | null, b: Uint8Array | null): boolean {
  if (a === null || b === null || a.length !== b.length) return a === b;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** What changed, as little-endian numbers if they are of that size. */
function change(before: Uint8Array | null, now: Uint8Array | null): string {
  const text = (bytes: Uint8Array | null): string => {
    if (bytes === null) return 'no memory';
    const hexBytes = Array.from(bytes, (b) => b.toString(16).padStart(2, '0'));
    return bytes.length <= 8 ? `0x${BigInt(`0x${[...hexBytes].reverse().join('')}`).toString(16)}` : hexBytes.join(' ');
  };
  if (before && now && now.length > 8) {
    const at = now.findIndex((b, i) => b !== before[i]);
    const start = at & ~7;
    return `+0x${start.toString(16)} ${text(before.subarray(start, start + 8))} → ${text(now.subarray(start, start + 8))}`;
  }
  return `${text(before)} → ${text(now)}`;
}
