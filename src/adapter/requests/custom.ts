/** The requests of protocol.ts, for the webviews and other clients. */
import { KERNEL_ERAS, parseKernel } from '../../words/kernels';
import { parseNumber } from '../../words/address';
import { explain } from '../../words/explain';
import { TargetError } from '../../targets/target';
import type { Context } from '../context';
import { bounded, handler, type RequestHandler } from '../handler';
import type {
  DecodeArguments,
  DecodeBody,
  EventsArguments,
  EventsBody,
  Hex,
  LayoutView,
  RolesArguments,
  RolesBody,
  RootsArguments,
  RootsBody,
  StateBody,
  TableArguments,
  TableBody,
  WhyArguments,
  WhyBody,
} from '../protocol';
import {
  eventView,
  hex,
  layoutView,
  memslotView,
  mmuView,
  registerView,
  rootView,
  stopView,
  tableBody,
  vcpuView,
  whyView,
} from '../views';

const MAX_EVENTS = 5000;
const DEFAULT_EVENTS = 200;

/** A 64-bit argument. @throws TargetError that names it */
function word(name: string, text: Hex | undefined): bigint | undefined {
  if (text === undefined) return undefined;
  try {
    return parseNumber(text);
  } catch (error) {
    throw new TargetError(`argument '${name}': ${(error as Error).message}`);
  }
}

function state(context: Context): StateBody {
  const { target } = context;
  const { info, running } = target;
  const slots = running ? null : target.memslots();
  return {
    target: info.kind,
    title: info.title,
    kernel: info.kernel ?? 'unknown',
    vendor: info.vendor ?? 'intel',
    paging: info.paging ?? 'unknown',
    maxphyaddr: info.maxphyaddr,
    running,
    ended: target.ended,
    position: { ...target.position },
    stop: target.lastStop ? stopView(target.lastStop) : null,
    vcpus: running ? [] : target.vcpus().map(vcpuView),
    memslots: slots ? slots.slots.map(memslotView) : [],
    memslotGenerations: slots ? slots.generations.map((g) => ({ asId: g.asId, generation: hex(g.generation) })) : [],
    lacks: [...info.lacks],
  };
}

function roles(context: Context, args: RolesArguments): RolesBody {
  const target = context.stopped;
  const vcpu = context.vcpuOf(args.threadId);
  const kernel = target.info.kernel ?? 'unknown';
  const layoutKernel = args.kernel === undefined ? kernel : kernelName(args.kernel);
  const mmus = target.mmus(vcpu, layoutKernel);
  const layouts = new Map<string, LayoutView>();
  const registers = target.registers(vcpu);
  for (const { decoded } of mmus.flatMap((m) => m.words)) layouts.set(decoded.layout.id, layoutView(decoded.layout));
  for (const { decoded } of registers) if (decoded) layouts.set(decoded.layout.id, layoutView(decoded.layout));
  return {
    threadId: vcpu + 1,
    kernel,
    layoutKernel,
    vendor: target.info.vendor ?? 'intel',
    mmus: mmus.map(mmuView),
    registers: registers.map(registerView),
    layouts: [...layouts.values()],
    kernels: KERNEL_ERAS.map(({ id, title }) => ({ id, title })),
  };
}

function kernelName(text: string): string {
  try {
    return parseKernel(text).name;
  } catch (error) {
    throw new TargetError((error as Error).message);
  }
}

function roots(context: Context, args: RootsArguments): RootsBody {
  const target = context.stopped;
  const vcpu = context.vcpuOf(args.threadId);
  return { threadId: vcpu + 1, roots: target.tableRoots(vcpu).map(rootView) };
}

function table(context: Context, args: TableArguments): TableBody {
  const target = context.stopped;
  const vcpu = context.vcpuOf(args.threadId);
  const all = target.tableRoots(vcpu);
  const root = args.root ?? (all.find((r) => r.current) ?? all[0])?.id;
  if (root === undefined) throw new TargetError('this vCPU has no page tables yet');
  const address = word('address', args.address);
  if (address !== undefined && args.path) throw new TargetError("mmuscope/table: give either 'path' or 'address'");
  const path = (args.path ?? []) as unknown[];
  if (!path.every((i): i is number => Number.isInteger(i))) {
    throw new TargetError("mmuscope/table: 'path' must be a list of indexes");
  }
  const wanted = address === undefined ? path : target.tablePath(vcpu, root, address, args.level);
  return tableBody(target.table(vcpu, root, wanted), vcpu + 1);
}

async function events(context: Context, args: EventsArguments): Promise<EventsBody> {
  const target = context.stopped;
  const count = bounded(args.count, DEFAULT_EVENTS, MAX_EVENTS);
  const total = target.eventCount;
  const asked = args.start ?? -count;
  const start = asked < 0 ? Math.max(0, total + asked) : Math.min(asked, total);
  const kinds = args.kinds && new Set(args.kinds);
  const list = await target.events(start, count);
  return {
    total,
    start,
    events: list.filter((e) => !kinds || kinds.has(e.event.kind)).map((e) => eventView(e, target.words)),
    position: target.position.event,
  };
}

function why(context: Context, args: WhyArguments): WhyBody {
  const target = context.stopped;
  const vcpu = context.vcpuOf(args.threadId);
  const [gva, gpa] = [word('gva', args.gva), word('gpa', args.gpa)];
  if (gva !== undefined && gpa !== undefined) throw new TargetError("mmuscope/why: give either 'gva' or 'gpa'");
  const { write, fetch, user } = args;
  const address = gva ?? gpa;
  if (address === undefined) {
    const record = target.lastStop?.why ?? null;
    return { why: record && whyView(record, target) };
  }
  const from = gva === undefined ? 'gpa' : 'gva';
  return { why: whyView(target.walk({ vcpu, address, from, write, fetch, user }), target) };
}

function decode(context: Context, args: DecodeArguments): DecodeBody {
  const info = context.hasTarget ? context.target.info : null;
  const value = word('value', args.value) ?? 0n;
  try {
    const found = explain(value, {
      as: args.as,
      kernel: args.kernel ?? info?.kernel ?? undefined,
      vendor: args.vendor ?? info?.vendor ?? undefined,
      context: args.context,
    });
    return {
      explanations: found.map(({ as, title, layoutId, summary, fields, notes }) => ({
        as,
        title,
        layoutId,
        summary,
        fields: fields.map((f) => ({ ...f })),
        notes: [...notes],
      })),
    };
  } catch (error) {
    throw new TargetError((error as Error).message);
  }
}

export const custom: Record<string, RequestHandler> = {
  'mmuscope/state': handler({}, state),
  'mmuscope/roles': handler({ threadId: 'integer?', kernel: 'string?' }, roles),
  'mmuscope/roots': handler({ threadId: 'integer?' }, roots),
  'mmuscope/table': handler(
    { threadId: 'integer?', root: 'string?', path: 'array?', address: 'string?', level: 'integer?' },
    table,
  ),
  'mmuscope/events': handler({ start: 'integer?', count: 'integer?', kinds: 'array?' }, events),
  'mmuscope/why': handler(
    { threadId: 'integer?', gva: 'string?', gpa: 'string?', write: 'boolean?', fetch: 'boolean?', user: 'boolean?' },
    why,
  ),
  'mmuscope/decode': handler(
    { value: 'string', as: 'string?', kernel: 'string?', vendor: 'string?', context: 'string?' },
    decode,
  ),
};
