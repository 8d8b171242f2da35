import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { openTarget } from '../open';
import type { Motion, TreeNode } from '../target';
import type { Simulator } from './simulator';

const EXAMPLES = fileURLToPath(new URL('../../../examples/', import.meta.url));
const quiet = { output: () => {} };
const files = { read: () => Promise.reject(new Error('no files here')) };

async function open(scenario: string): Promise<Simulator> {
  const target = await openTarget({ scenario }, files);
  target.setExceptionBreakpoints([]);
  return target;
}

/** All that the machine's memory, registers and MMUs are, and the stack, as one short text. */
function digest(target: Simulator): string {
  const m = target.machine;
  const hash = createHash('sha1');
  for (const pfn of m.mem.frames()) hash.update(`${pfn}`).update(m.mem.peek(pfn) ?? new Uint32Array());
  for (const vcpu of m.vcpus) {
    const { mmu, regs, hflags, mmio_gfn, mmio_gen } = vcpu;
    hash.update(`${regs.cr0} ${regs.cr3} ${regs.rip} ${regs.gpr.join()} ${hflags} ${mmio_gfn} ${mmio_gen}`);
    hash.update(`${mmu.root_role} ${mmu.cpu_role_base} ${mmu.root.hpa} ${mmu.prev_roots.map((r) => r.hpa).join()}`);
  }
  for (const set of m.kvm.memslots) hash.update(`${set.generation} ${set.slots.map((s) => s.id).join()}`);
  hash.update([...m.kvm.sp_by_pfn.values()].map((sp) => `${sp.gfn}/${sp.role}/${sp.spt}`).join());
  const stack = target
    .frames(0)
    .map((f) => `${f.kind} ${f.name}`)
    .join(' < ');
  return `${target.position.tick} ${target.position.event} ${stack} ${hash.digest('hex')}`;
}

async function go(target: Simulator, motion: Motion): Promise<string> {
  const { reason } = await target.run(motion, 0, quiet);
  return reason;
}

const TICKS: Motion = { kind: 'next', granularity: 'instruction' };

describe('the simulator as a target', function () {
  this.timeout(60_000);
  const scenarios = readdirSync(EXAMPLES).filter((name) => name.endsWith('.mmu'));

  for (const name of scenarios) {
    it(`${name}: any tick, reached in any order, is the state of the straight run`, async () => {
      const text = readFileSync(EXAMPLES + name, 'utf8');
      const straight = await open(text);
      const states = new Map<number, string>();
      while ((await go(straight, TICKS)) !== 'end' && states.size < 400)
        states.set(straight.position.tick, digest(straight));
      const ticks = [...states.keys()];
      assert.ok(ticks.length > 50);

      const wandering = await open(text);
      await fc.assert(
        fc.asyncProperty(fc.nat(ticks.length - 1), async (i) => {
          await go(wandering, { kind: 'tick', tick: ticks[i] });
          assert.equal(digest(wandering), states.get(ticks[i]));
        }),
        { numRuns: 60 },
      );
    });
  }

  it('looking at everything changes nothing', async () => {
    const text = readFileSync(`${EXAMPLES}smm.mmu`, 'utf8');
    const [watched, alone] = [await open(text), await open(text)];
    for (let i = 0; i < 60; i++) {
      const step: Motion = i % 3 ? TICKS : { kind: 'next' };
      await go(watched, step);
      lookAround(watched);
      await go(alone, step);
      assert.equal(digest(watched), digest(alone), `step ${i}`);
    }
  });

  it('steps back over every kind of station to where it came from', async () => {
    const target = await open(readFileSync(`${EXAMPLES}mmio.mmu`, 'utf8'));
    await go(target, { kind: 'event', index: 30 });
    const forward: string[] = [digest(target)];
    for (let i = 0; i < 40; i++) {
      await go(target, TICKS);
      forward.push(digest(target));
    }
    for (let i = forward.length - 2; i > 0; i--) {
      await go(target, { kind: 'stepBack', granularity: 'instruction' });
      assert.equal(digest(target), forward[i]);
    }
  });
});

/** Opens every scope, three levels deep, and asks for what the webviews ask for. */
function lookAround(target: Simulator): void {
  const expand = (node: TreeNode, depth: number): void => {
    if (depth > 0) for (const child of node.children?.() ?? []) expand(child, depth - 1);
  };
  for (const vcpu of target.vcpus()) {
    for (const frame of target.frames(vcpu.index)) {
      for (const scope of target.scopes(vcpu.index, frame)) expand(scope.root, 3);
    }
    if (target.machine.vcpus.length === 0) continue;
    target.mmus(vcpu.index);
    target.registers(vcpu.index);
    for (const root of target.tableRoots(vcpu.index)) {
      const page = target.table(vcpu.index, root.id, []);
      for (let i = 0; i < page.count; i++) page.entry(i).decode();
    }
    for (const address of [0x1000n, 0x30100n, 0x200000n, 0xa0000n, 0x1234567890n]) {
      try {
        target.walk({ vcpu: vcpu.index, address, from: 'gva', write: true });
        target.walk({ vcpu: vcpu.index, address, from: 'gpa' });
      } catch {
        // No root to walk from: nothing was looked at.
      }
      target.readMemory({ space: { kind: 'gva', vcpu: vcpu.index }, address }, 64);
      target.readMemory({ space: { kind: 'gpa', asId: 0 }, address }, 64);
    }
    target.evaluate('root_mmu', vcpu.index, null, 'watch');
  }
}
