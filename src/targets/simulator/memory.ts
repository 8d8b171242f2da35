/**
 * The three memory spaces of the simulated machine, read without changing anything: no page is populated, no cache of a
 * memslot search is filled, no accessed flag is set.
 */
import type { KvmVcpu } from '../../kvm/kvm_host';
import type { Machine } from '../../kvm/machine';
import { type MemoryRead, type MemoryRef, type MemorySpace, TargetError } from '../target';
import { addressSpaceOf, gpaToHost, type Place } from './guest-memory';
import { translateGuest } from './tables';

const PAGE = 4096;
const MAX_PHYSICAL = 1n << 52n;

/** Host place of a guest linear address: the guest's own tables, then the memslots; permissions do not matter. */
function gvaToHost(m: Machine, vcpu: KvmVcpu, gva: bigint): Place {
  const gpa = translateGuest(m, vcpu, gva);
  return gpa === null ? null : gpaToHost(m, addressSpaceOf(vcpu), gpa);
}

/** Host place of one address of a space. */
function placeOf(m: Machine, space: MemorySpace, address: bigint): Place {
  switch (space.kind) {
    case 'hpa':
      if (address >= MAX_PHYSICAL) return null;
      return m.mem.has(Number(address >> 12n)) ? Number(address) : null;
    case 'gpa':
      return address >= MAX_PHYSICAL ? null : gpaToHost(m, space.asId, Number(address));
    case 'gva': {
      const vcpu = m.vcpus[space.vcpu];
      return vcpu ? gvaToHost(m, vcpu, address) : null;
    }
  }
}

/** Checks that a space exists. @throws TargetError that names the legal ones */
export function checkSpace(m: Machine, space: MemorySpace): void {
  if (space.kind === 'gva' && !m.vcpus[space.vcpu]) {
    throw new TargetError(`there is no vCPU ${space.vcpu}: the machine has ${m.vcpus.length}`);
  }
  if (space.kind === 'gpa' && space.asId >= m.addressSpaces) {
    throw new TargetError(`there is no address space ${space.asId}: this kernel has ${m.addressSpaces}`);
  }
}

/** The longest readable run of bytes from an address on, up to `count`. */
export function readMemory(m: Machine, { space, address }: MemoryRef, count: number): MemoryRead {
  checkSpace(m, space);
  const data = new Uint8Array(count);
  let done = 0;
  while (done < count) {
    const at = address + BigInt(done);
    const part = Math.min(count - done, PAGE - Number(at & 0xfffn));
    const place = placeOf(m, space, at);
    if (place === null) break;
    if (place !== 'zeros') data.set(m.mem.readBytes(place, part), done);
    done += part;
  }
  return { data: data.subarray(0, done), unreadable: count - done };
}

/** Writes bytes until the first hole. Guest-physical memory is written as user space would, read-only slots included. */
export function writeMemory(m: Machine, { space, address }: MemoryRef, bytes: Uint8Array): number {
  checkSpace(m, space);
  let done = 0;
  while (done < bytes.length) {
    const at = address + BigInt(done);
    const part = bytes.subarray(done, done + Math.min(bytes.length - done, PAGE - Number(at & 0xfffn)));
    const place = placeOf(m, space, at);
    if (place === null) break;
    if (place !== 'zeros') m.mem.writeBytes(place, part);
    else if (space.kind !== 'gpa' || !m.hostWrite(space.asId, Number(at), part)) break;
    done += part.length;
  }
  return done;
}
