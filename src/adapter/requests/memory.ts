/**
 * Memory in three spaces: guest-physical, host-physical, guest-linear.
 *
 * VS Code asks with count 0 whether a reference can be read at all, takes data plus unreadableBytes for the whole answer
 * (it must add up to the count asked for) and stops at the first unreadable byte.
 */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { formatMemoryReference, parseMemoryReference, TargetError } from '../../targets/target';
import type { Context } from '../context';
import { handler, type RequestHandler } from '../handler';

/** Bytes answered at once at most; the client asks for pages of at most 128 KiB. */
const MAX_READ = 16 << 20;
const TOP = 1n << 64n;

function place(context: Context, memoryReference: string, offset: number) {
  const ref = parseMemoryReference(memoryReference, context.target.lastStop?.vcpu ?? 0);
  const address = ref.address + BigInt(offset);
  if (address < 0n || address >= TOP) {
    throw new TargetError(`${memoryReference} with offset ${offset} lies outside of the 64-bit address space`);
  }
  return { ...ref, address };
}

function readMemory(context: Context, args: DebugProtocol.ReadMemoryArguments): object {
  const target = context.stopped;
  const ref = place(context, args.memoryReference, args.offset ?? 0);
  if (args.count < 0 || args.count > MAX_READ) {
    throw new TargetError(`readMemory: cannot read ${args.count} bytes at once: ask for 0 to ${MAX_READ}`);
  }
  const address = `0x${ref.address.toString(16)}`;
  if (args.count === 0) return { address };
  const inside = TOP - ref.address < BigInt(args.count) ? Number(TOP - ref.address) : args.count;
  const { data } = target.readMemory(ref, inside);
  context.noteMemory(args.memoryReference, args.offset ?? 0, (args.offset ?? 0) + args.count);
  const unreadableBytes = args.count - data.length;
  return {
    address,
    ...(data.length ? { data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64') } : {}),
    ...(unreadableBytes ? { unreadableBytes } : {}),
  };
}

function writeMemory(context: Context, args: DebugProtocol.WriteMemoryArguments): object {
  const target = context.stopped;
  if (!target.info.features.writeMemory) throw new TargetError(`the memory of a ${target.info.kind} cannot be changed`);
  const ref = place(context, args.memoryReference, args.offset ?? 0);
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(args.data)) throw new TargetError('writeMemory: the data is not base64');
  const data = Buffer.from(args.data, 'base64');
  const bytesWritten = target.writeMemory(ref, data);
  if (bytesWritten < data.length && !args.allowPartial) {
    const hole = formatMemoryReference({ ...ref, address: ref.address + BigInt(bytesWritten) });
    throw new TargetError(`there is no memory at ${hole}: ${bytesWritten} of ${data.length} bytes were written`);
  }
  context.after(() => context.stateChanged());
  return { offset: 0, bytesWritten };
}

export const memory: Record<string, RequestHandler> = {
  readMemory: handler({ memoryReference: 'string', offset: 'integer?', count: 'integer' }, readMemory, {
    supportsReadMemoryRequest: true,
  }),
  writeMemory: handler(
    { memoryReference: 'string', offset: 'integer?', data: 'string', allowPartial: 'boolean?' },
    writeMemory,
    { supportsWriteMemoryRequest: true },
  ),
};
