import assert from 'node:assert/strict';
import { describe, it } from 'mocha';
import { ACC_FETCH, ACC_WRITE, OK } from './access';
import { EVENT_TYPE, noIntercepts } from './exits';
import { insnFetch, insnHlt, insnLoad, insnMovToCr, insnRmw, insnRsm, insnStore, insnWrpkru, type Insn } from './insn';
import { CR0, CR4, EFER, RFLAGS } from './regs';
import { realWorld, runCode, world, WORLD, type World } from './testing/world';

const RAX = 0, RCX = 1, RDX = 2, RBX = 3, RSP = 4, RSI = 6, RDI = 7; // prettier-ignore

/** Runs one pseudo-instruction. */
function once(w: World, i: Insn): ReturnType<typeof runCode> {
  let left: Insn | null = i;
  return w.cpu.run(() => {
    const now = left;
    left = null;
    return now;
  });
}

describe('processor: instructions', () => {
  it('runs code until HLT', () => {
    const w = world();
    w.code(0x8b, 0x03, 0x89, 0x43, 0x08, 0xf4); // mov eax,[rbx]; mov [rbx+8],eax; hlt
    w.mem.write32(0x20000, 0xcafe);
    w.s.gpr[RBX] = 0x20000n;
    const exit = runCode(w);
    assert.equal(exit.kind, 'hlt');
    assert.equal(w.mem.read32(0x20008), 0xcafe);
    assert.equal(w.s.rip, BigInt(WORLD.code + 6));
  });

  it('fetches before it reads', () => {
    const w = world();
    w.code(0x8b, 0x03, 0xf4);
    w.s.gpr[RBX] = 0x20000n;
    runCode(w);
    assert.deepEqual(w.accesses, ['x 1000', 'r 20000', 'x 1002']);
  });

  it('fetches the second page only of an instruction that reaches it', () => {
    const w = world();
    w.mem.writeBytes(0x1ffe, Uint8Array.from([0x90, 0x8b, 0x03, 0xf4]));
    w.s.rip = 0x1ffen;
    w.s.gpr[RBX] = 0x20000n;
    runCode(w);
    assert.deepEqual(w.accesses, ['x 1ffe', 'x 1fff', 'x 2000', 'r 20000', 'x 2001']);
  });

  it('changes nothing when the second page of a store faults', () => {
    const w = world();
    w.code(0x48, 0x89, 0x03); // mov [rbx], rax
    w.map(0x21000, 0);
    w.mem.writeQ(0x20ff8, 0x11111111, 0x11111111);
    w.s.gpr[RBX] = 0x20ffcn;
    w.s.gpr[RAX] = 0xffff_ffff_ffff_ffffn;
    w.cpu.intercepts = { ...noIntercepts(), exceptions: 1 << 14 };
    const exit = runCode(w);
    assert.equal(exit.kind, 'exception');
    assert.equal(exit.gva, 0x21000n);
    assert.equal(w.mem.readQ(0x20ff8), 0x1111_1111_1111_1111n);
    assert.equal(w.s.rip, 0x1000n);
  });

  it('reads and writes across a page with the bytes in order', () => {
    const w = world();
    once(w, insnStore(0x20ffdn, 8, 0x8877665544332211n));
    once(w, insnLoad(0x20ffdn, 8));
    assert.equal(w.s.loaded, 0x8877665544332211n);
    assert.deepEqual([...w.mem.readBytes(0x20ffd, 8)], [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    once(w, insnStore(0x20ff8n, 16, 1n << 64n));
    assert.equal(w.mem.read8(0x21000), 1);
  });

  it('checks a read-modify-write for writing before it reads', () => {
    const w = world();
    w.code(0xf0, 0x01, 0x03, 0xf4);
    w.s.gpr[RBX] = 0x20000n;
    w.s.gpr[RAX] = 5n;
    w.mem.write32(0x20000, 7);
    runCode(w);
    assert.equal(w.mem.read32(0x20000), 12);
    assert.ok(w.accesses.includes('w 20000') && !w.accesses.includes('r 20000'));
  });

  it('pushes before it calls, and pushes nothing when the push faults', () => {
    const w = world();
    w.code(0xff, 0xd3); // call rbx
    w.mem.writeBytes(0x20000, Uint8Array.from([0xc3])); // ret
    w.mem.writeBytes(0x1002, Uint8Array.from([0xf4]));
    w.s.gpr[RBX] = 0x20000n;
    assert.equal(runCode(w).kind, 'hlt');
    assert.deepEqual(w.accesses, ['x 1000', 'w 7ff8', 'x 20000', 'r 7ff8', 'x 1002']);
    assert.equal(w.s.gpr[RSP], BigInt(WORLD.stack0));

    const v = world();
    v.code(0xff, 0xd3);
    v.map(0x7000, 0x7001); // read-only
    v.cpu.intercepts = { ...noIntercepts(), exceptions: 1 << 14 };
    assert.equal(runCode(v).exception?.errorCode, 3);
    assert.equal(v.s.gpr[RSP], BigInt(WORLD.stack0));
    assert.equal(v.s.rip, 0x1000n);
  });

  it('clears the upper half of a register that 32 bits are written to, and no more', () => {
    const w = world();
    w.code(0xb8, 1, 0, 0, 0, 0x66, 0xbb, 2, 0, 0xb5, 3, 0xf4); // mov eax,1; mov bx,2; mov ch,3
    w.s.gpr.fill(0xffff_ffff_ffff_ffffn);
    w.s.gpr[RSP] = 0x8000n;
    runCode(w);
    assert.equal(w.s.gpr[RAX], 1n);
    assert.equal(w.s.gpr[RBX], 0xffff_ffff_ffff_0002n);
    assert.equal(w.s.gpr[RCX], 0xffff_ffff_ffff_03ffn);
  });

  it('compares and exchanges, setting ZF', () => {
    const w = world();
    w.code(0xf0, 0x0f, 0xc7, 0x0e, 0xf4); // lock cmpxchg8b [rsi]
    w.s.gpr[RSI] = 0x20000n;
    w.mem.writeQ(0x20000, 0x33333333, 0x44444444);
    w.s.gpr[RAX] = 0x33333333n;
    w.s.gpr[RDX] = 0x44444444n;
    w.s.gpr[RBX] = 1n;
    w.s.gpr[RCX] = 2n;
    runCode(w);
    assert.equal(w.mem.readQ(0x20000), 0x2_0000_0001n);
    assert.ok(w.s.rflags & RFLAGS.ZF);
    w.s.rip = 0x1000n;
    runCode(w);
    assert.equal(w.mem.readQ(0x20000), 0x2_0000_0001n);
    assert.equal(w.s.rflags & RFLAGS.ZF, 0n);
    assert.deepEqual([w.s.gpr[RDX], w.s.gpr[RAX]], [2n, 1n]);
  });

  it('repeats string stores one at a time, restartable in between', () => {
    const w = world();
    w.code(0xf3, 0x48, 0xab, 0xf4); // rep stosq
    w.map(0x21000, 0);
    w.s.gpr[RDI] = 0x20ff0n;
    w.s.gpr[RCX] = 4n;
    w.s.gpr[RAX] = 7n;
    w.cpu.intercepts = { ...noIntercepts(), exceptions: 1 << 14 };
    assert.equal(runCode(w).gva, 0x21000n);
    assert.deepEqual([w.s.gpr[RDI], w.s.gpr[RCX], w.s.rip], [0x21000n, 2n, 0x1000n]);
    w.map(0x21000, 0x21007);
    assert.equal(runCode(w).kind, 'hlt');
    assert.equal(w.mem.readQ(0x21008), 7n);
  });

  it('adds with carry and branches on flags', () => {
    const w = world();
    // mov eax,-1; add eax,1; adc ebx,0; jc/jne +1 (not taken: ZF=1 after add kept? adc clears) ; hlt
    w.code(0xb8, 0xff, 0xff, 0xff, 0xff, 0x83, 0xc0, 0x01, 0x83, 0xd3, 0x00, 0x75, 0x01, 0xf4, 0xb9, 5, 0, 0, 0, 0xf4);
    runCode(w);
    assert.deepEqual([w.s.gpr[RAX], w.s.gpr[RBX], w.s.gpr[RCX]], [0n, 1n, 5n]);
  });

  it('runs 16-bit code with 32-bit prefixes in real mode', () => {
    const w = realWorld();
    w.s.ds = { ...w.s.ds, limit: 0xffffffff };
    w.mem.write32(0x20_0000, 0x12345678);
    w.code(0x67, 0x66, 0x8b, 0x03, 0xf4);
    w.s.gpr[RBX] = 0x20_0000n;
    assert.equal(runCode(w).kind, 'hlt');
    assert.equal(w.s.gpr[RAX], 0x12345678n);
  });

  it('checks segment limits outside 64-bit code', () => {
    const w = world(false);
    w.s.ds = { ...w.s.ds, limit: 0xfff };
    w.code(0x8b, 0x03);
    w.s.gpr[RBX] = 0xffdn;
    w.cpu.intercepts = { ...noIntercepts(), exceptions: 1 << 13 };
    assert.equal(runCode(w).exception?.vector, 13);
    w.s.gpr[RBX] = 0xffcn;
    w.cpu.intercepts = { ...noIntercepts(), insns: new Set(['hlt']) };
    w.mem.write8(0x1002, 0xf4);
    assert.equal(runCode(w).kind, 'hlt');
  });

  it('refuses non-canonical addresses: #GP, or #SS through the stack', () => {
    const w = world();
    w.cpu.intercepts = { ...noIntercepts(), exceptions: (1 << 13) | (1 << 12) };
    w.s.gpr[RBX] = 0x8000_0000_0000n;
    w.code(0x8b, 0x03);
    assert.equal(runCode(w).exception?.vector, 13);
    w.s.gpr[RSP] = 0x8000_0000_0000n;
    w.code(0x58);
    assert.equal(runCode(w).exception?.vector, 12);
  });
});

describe('processor: exceptions', () => {
  it('delivers in 64-bit mode: gate, descriptor, pushes from the top', () => {
    const w = world();
    w.map(0x20000, 0);
    w.code(0x8b, 0x03);
    w.s.gpr[RBX] = 0x20008n;
    const exit = runCode(w);
    assert.equal(exit.kind, 'hlt');
    assert.equal(exit.delivered?.vector, 14);
    assert.equal(w.s.cr2, 0x20008n);
    assert.deepEqual(w.accesses.slice(2, -1), [
      'rs 40e0',
      'rs 40e8',
      'rs 5008',
      'ws 7ff8',
      'ws 7ff0',
      'ws 7fe8',
      'ws 7fe0',
      'ws 7fd8',
      'ws 7fd0',
    ]);
    assert.equal(w.mem.readQ(0x7fd0), 0n); // error code
    assert.equal(w.mem.readQ(0x7fd8), 0x1000n); // rip
    assert.equal(w.mem.readQ(0x7ff0), 0x8000n); // rsp
    assert.equal(w.s.gpr[RSP], 0x7fd0n);
  });

  it('takes the stack of the TSS from ring 3', () => {
    const w = world(true, 3);
    w.map(0x20000, 0x20003); // supervisor only
    w.code(0x8b, 0x03);
    w.s.gpr[RBX] = 0x20000n;
    const exit = runCode(w);
    assert.equal(exit.delivered?.errorCode, 5);
    assert.deepEqual(w.accesses.slice(0, 7), [
      'xu 1000',
      'ru 20000',
      'rs 40e0',
      'rs 40e8',
      'rs 5008',
      'rs 6004',
      'ws 8ff8',
    ]);
    assert.equal(w.s.cpl, 0);
    assert.equal(w.s.ss.selector, 0);
    assert.equal(w.mem.readQ(0x8ff8), 0x23n);
  });

  it('delivers in 32-bit protected mode, with a stack switch from ring 3', () => {
    const w = world(false, 3);
    w.code(0x0f, 0x0b); // ud2
    const exit = runCode(w);
    assert.equal(exit.kind, 'hlt');
    assert.equal(w.s.rip, BigInt(WORLD.handlers + 6 * 16 + 1));
    assert.deepEqual(w.accesses.slice(1, -1), [
      'rs 4030',
      'rs 5028',
      'rs 6004',
      'rs 6008',
      'rs 5010',
      'ws 8ffc',
      'ws 8ff8',
      'ws 8ff4',
      'ws 8ff0',
      'ws 8fec',
    ]);
    assert.equal(w.mem.read32(0x8fec), 0x1000);
    assert.equal(w.s.ss.selector, 0x10);
  });

  it('delivers through the vector table in real mode', () => {
    const w = realWorld();
    w.mem.write32(6 * 4, 0x0300_0010); // 0300:0010
    w.mem.write8(0x3010, 0xf4);
    w.code(0x0f, 0x0b);
    assert.equal(runCode(w).kind, 'hlt');
    assert.equal(w.s.cs.base, 0x3000n);
    assert.equal(w.mem.read16(0x6ffa), 0x1000);
    assert.equal(w.accesses[1], 'rs 18');
    const v = realWorld();
    v.cpu.delivery = { pushBeforeVector: true, ssBeforeEsp: false };
    v.mem.write32(6 * 4, 0x0300_0010);
    v.mem.write8(0x3010, 0xf4);
    v.code(0x0f, 0x0b);
    runCode(v);
    assert.equal(v.accesses[1], 'ws 6ffe');
  });

  it('returns from a handler with IRET', () => {
    for (const long of [true, false]) {
      const w = world(long, 3);
      w.code(0xcd, 0x06, 0x90, 0x0f, 0x0b); // int 6 — the gate's DPL is 0: #GP; so open it
      w.mem.write8(WORLD.idt + 6 * (long ? 16 : 8) + 5, 0xee);
      w.mem.writeBytes(WORLD.handlers + 96, Uint8Array.from(long ? [0x48, 0xcf] : [0xcf]));
      w.cpu.intercepts = { ...noIntercepts(), exceptions: 1 << 6 };
      const rsp = w.s.gpr[RSP];
      const exit = runCode(w);
      assert.equal(exit.exception?.type, EVENT_TYPE.EXCEPTION);
      assert.equal(w.s.rip, 0x1003n);
      assert.equal(w.s.cpl, 3);
      assert.equal(w.s.gpr[RSP], rsp);
    }
  });

  it('refuses INT n through a gate of ring 0 from ring 3 with the gate in the error code', () => {
    const w = world(true, 3);
    w.code(0xcd, 0x06);
    w.cpu.intercepts = { ...noIntercepts(), exceptions: 1 << 13 };
    const exit = runCode(w);
    assert.equal(exit.exception?.errorCode, (6 << 3) | 2);
    assert.equal(exit.idtVectoring?.type, EVENT_TYPE.SWINT);
  });

  it('turns a fault while delivering a fault into #DF, and the next into shutdown', () => {
    const w = world();
    w.map(0x20000, 0);
    w.map(0x7000, 0x7001); // the stack cannot be pushed to: #PF while delivering #PF
    const seen: number[] = [];
    w.cpu.onEvent = (e) => seen.push(e.vector);
    w.code(0x8b, 0x03);
    w.s.gpr[RBX] = 0x20000n;
    w.cpu.intercepts.shutdownKeepsEvent = true;
    const exit = runCode(w);
    assert.equal(exit.kind, 'shutdown');
    assert.deepEqual(seen, [14, 8]);
    assert.equal(exit.idtVectoring?.vector, 14);
  });

  it('shuts down without an IDT', () => {
    const w = world();
    w.s.idtr.limit = 0;
    w.map(0x20000, 0);
    w.code(0x8b, 0x03);
    w.s.gpr[RBX] = 0x20000n;
    const exit = runCode(w);
    assert.equal(exit.kind, 'shutdown');
    assert.equal(exit.idtVectoring, null);
    assert.equal(w.s.rip, 0x1000n);
  });

  it('delivers a second fault after a benign first one', () => {
    const w = world();
    w.mem.writeQ(WORLD.idt + 6 * 16, 0, 0); // gate of #UD not valid: #GP with the gate's index and EXT
    w.code(0x0f, 0x0b);
    const exit = runCode(w);
    assert.equal(exit.delivered?.vector, 13);
    assert.equal(exit.delivered?.errorCode, (6 << 3) | 3);
  });

  it('ends a pseudo-instruction after delivery, or without delivery when no IDT is wanted', () => {
    const w = world();
    w.s.ripKnown = false;
    w.cpu.stopOnDelivery = true;
    w.map(0x20000, 0);
    const exit = once(w, insnStore(0x20000n, 4, 1n));
    assert.equal(exit.kind, 'done');
    assert.equal(exit.exception?.errorCode, 2);
    assert.equal(w.s.rip, BigInt(WORLD.handlers + 14 * 16));
    const v = world();
    v.s.ripKnown = false;
    v.s.idtUsed = false;
    v.map(0x20000, 0);
    const end = once(v, insnFetch(0x20000n));
    assert.equal(end.exception?.errorCode, 0x10); // EFER.NXE = 1: I/D is reported
    assert.equal(v.s.cr2, 0x20000n);
    assert.deepEqual(v.accesses, ['x 20000']);
  });

  it('reports an intercepted page fault by error code mask and match', () => {
    const w = world();
    w.map(0x20000, 0);
    w.map(0x21000, 0x21001);
    w.cpu.intercepts = { ...noIntercepts(), exceptions: 1 << 14, pfecMask: 1, pfecMatch: 1 };
    w.s.ripKnown = false;
    w.cpu.stopOnDelivery = true;
    assert.equal(once(w, insnLoad(0x20000n, 4)).kind, 'done'); // P=0: not intercepted
    const exit = once(w, insnStore(0x21000n, 4, 0n));
    assert.equal(exit.kind, 'exception');
    assert.equal(exit.gva, 0x21000n);
    assert.equal(w.s.cr2, 0x20000n); // an intercepted fault does not load CR2
  });

  it('delivers an injected event before anything else, intercepted or not', () => {
    const w = world();
    w.code(0xf4);
    w.cpu.intercepts = { ...noIntercepts(), exceptions: 1 << 14 };
    w.cpu.inject = { vector: 14, type: EVENT_TYPE.EXCEPTION, errorCode: 2, insnLen: 0 };
    w.s.cr2 = 0x5000n;
    const exit = runCode(w);
    assert.equal(exit.kind, 'hlt');
    assert.equal(w.s.cr2, 0x5000n);
    assert.equal(w.cpu.inject, null);
    assert.equal(w.s.rip, BigInt(WORLD.handlers + 14 * 16 + 1));
  });
});

describe('processor: exits', () => {
  it('stops on intercepted instructions with RIP on them', () => {
    const w = world();
    w.cpu.intercepts = { ...noIntercepts(), io: true, insns: new Set(['hlt', 'rsm', 'invlpg']) };
    w.code(0xe6, 0xe0, 0xf4);
    w.s.gpr[RAX] = 0x1234n;
    const io = runCode(w).io;
    assert.deepEqual([io?.port, io?.size, io?.write, io?.value, io?.nextRip], [0xe0, 1, true, 0x34n, 0x1002n]);
    assert.equal(w.s.rip, 0x1000n);
    w.code(0xf4);
    assert.equal(runCode(w).kind, 'hlt');
    w.code(0x0f, 0xaa);
    assert.equal(runCode(w).kind, 'rsm');
    w.code(0x0f, 0x01, 0x3b);
    w.s.gpr[RBX] = 0x1234n;
    assert.equal(runCode(w).address, 0x1234n);
  });

  it('raises #UD for RSM that nobody intercepts', () => {
    const w = world();
    w.cpu.intercepts.exceptions = 1 << 6;
    w.s.ripKnown = false;
    assert.equal(once(w, insnRsm()).exception?.vector, 6);
  });

  it('checks privilege before intercepts', () => {
    const w = world(true, 3);
    w.cpu.intercepts = { ...noIntercepts(), exceptions: 1 << 13, insns: new Set(['hlt', 'invlpg']), crWrite: 0xffff };
    for (const code of [[0xf4], [0x0f, 0x01, 0x3b], [0x0f, 0x22, 0xc0], [0x0f, 0x30]]) {
      w.code(...code);
      assert.equal(runCode(w).exception?.vector, 13);
    }
  });

  it('knows the three ways of intercepting MOV to CR0', () => {
    const value = CR0.PG | CR0.PE | CR0.ET | CR0.NE;
    const w = world();
    w.s.ripKnown = false;
    w.cpu.intercepts.cr0SelectiveWrite = true;
    assert.deepEqual(once(w, insnMovToCr(0, value)).cr, { n: 0, write: true, value, reg: -1, selective: true });
    assert.equal(once(w, insnMovToCr(0, w.s.cr0 | CR0.TS)).kind, 'done');
    const v = world();
    v.cpu.intercepts = { ...noIntercepts(), cr0Mask: ~CR0.WP & 0xffff_ffffn, cr0Shadow: v.s.cr0 };
    v.s.ripKnown = false;
    assert.equal(once(v, insnMovToCr(0, v.s.cr0 & ~CR0.WP)).kind, 'done');
    assert.equal(v.s.cr0 & CR0.WP, 0n);
    assert.equal(once(v, insnMovToCr(0, v.s.cr0 | CR0.TS)).kind, 'cr_access');
    v.cpu.intercepts.crWrite = 1 << 3;
    assert.equal(once(v, insnMovToCr(3, 0x10000n)).cr?.n, 3);
  });

  it('takes the guest’s own CR0 for the read shadow when none is set', () => {
    const w = world();
    w.s.ripKnown = false;
    w.cpu.intercepts = { ...noIntercepts(), cr0Mask: ~CR0.WP & 0xffff_ffffn };
    assert.equal(once(w, insnMovToCr(0, w.s.cr0 & ~CR0.WP)).kind, 'done');
    assert.equal(w.s.cr0 & CR0.WP, 0n);
    assert.equal(once(w, insnMovToCr(0, w.s.cr0 ^ CR0.AM)).kind, 'cr_access');
  });

  it('saves RF of an interrupted delivery on VMX, and clears it with the next instruction', () => {
    const w = world();
    w.map(0x20000, 0);
    w.map(WORLD.idt, 0); // the gate cannot be read: #PF while delivering #PF, and so on
    w.code(0x8b, 0x03, 0x90, 0xf4);
    w.s.gpr[RBX] = 0x20000n;
    w.cpu.intercepts.savesRf = true;
    assert.equal(runCode(w).kind, 'shutdown');
    assert.equal(w.s.rflags & RFLAGS.RF, RFLAGS.RF);
    w.s.rip = 0x1002n;
    assert.equal(runCode(w).kind, 'hlt');
    assert.equal(w.s.rflags & RFLAGS.RF, 0n);
    const v = world();
    v.s.idtr.limit = 0;
    v.code(0x0f, 0x0b);
    assert.equal(runCode(v).kind, 'shutdown');
    assert.equal(v.s.rflags & RFLAGS.RF, 0n);
  });

  it('refuses illegal control register values', () => {
    const w = world();
    w.s.ripKnown = false;
    w.cpu.intercepts.exceptions = 1 << 13;
    const bad: [number, bigint][] = [
      [0, CR0.PG], // PG without PE
      [0, CR0.PE | CR0.NW | CR0.PG],
      [0, CR0.PE], // PG off in 64-bit code
      [4, 0n], // PAE off in long mode
      [4, CR4.PAE | CR4.LA57],
      [3, 1n << 60n],
    ];
    for (const [n, value] of bad)
      assert.equal(once(w, insnMovToCr(n, value)).exception?.vector, 13, `cr${n} = ${value}`);
    assert.equal(once(w, insnMovToCr(4, CR4.PAE | CR4.SMEP)).kind, 'done');
  });

  it('enters long mode when paging is turned on with EFER.LME', () => {
    const w = world(false);
    w.s.cr4 = CR4.PAE;
    w.s.efer = EFER.LME;
    w.s.cr3 = BigInt(WORLD.root);
    w.code(0x0f, 0x22, 0xc0, 0x8b, 0x03, 0xf4);
    w.s.gpr[RAX] = w.s.cr0 | CR0.PG;
    w.s.gpr[RBX] = 0x20000n;
    assert.equal(runCode(w).kind, 'hlt');
    assert.equal(w.s.efer & EFER.LMA, EFER.LMA);
    assert.equal(w.s.mode, 'compatibility');
    assert.equal(w.mem.readLo(WORLD.root + 0x3000 + 8 * 0x20) & 0x20, 0x20); // paging walked: accessed
  });

  it('hands protection keys to the walk as soon as WRPKRU ran', () => {
    const w = world();
    w.s.cr4 |= CR4.PKE;
    w.mem.writeQ(WORLD.root + 0x3000 + 8 * 0x20, 0x20007, 1 << 27); // key 1
    w.cpu.mmu.loadRegisters(w.s);
    w.s.ripKnown = false;
    w.cpu.stopOnDelivery = true;
    assert.equal(once(w, insnLoad(0x20000n, 4)).exception, null);
    once(w, insnWrpkru(1 << 2));
    assert.equal(once(w, insnLoad(0x20000n, 4)).exception?.errorCode, 0x21);
  });

  it('stops on a second-stage fault and repeats the instruction when it is resolved', () => {
    const w = world();
    const { translator } = w;
    // nested tables at 0x400000: everything but page 0x20 and the IDT's page
    const npt = 0x400000;
    w.mem.writeQ(npt, (npt + 0x1000) | 7, 0);
    w.mem.writeQ(npt + 0x1000, (npt + 0x2000) | 7, 0);
    w.mem.writeQ(npt + 0x2000, (npt + 0x3000) | 7, 0);
    for (let p = 0; p < 512; p++) if (p !== 0x20 && p !== 4) w.mem.writeQ(npt + 0x3000 + 8 * p, (p << 12) | 0x67, 0);
    translator.setSecondStage('npt', { ncr3: npt, hostCr4: CR4.PAE, hostEfer: EFER.LME | EFER.LMA | EFER.NXE });
    w.code(0xf0, 0x01, 0x03, 0xf4);
    w.s.gpr[RBX] = 0x20004n;
    w.s.gpr[RAX] = 1n;
    let exit = runCode(w);
    assert.deepEqual([exit.kind, exit.gpa, exit.gva, exit.codeLo & 7, exit.codeHi], ['npf', 0x20004, 0x20004n, 6, 1]);
    assert.equal(w.s.rip, 0x1000n);
    w.mem.writeQ(npt + 0x3000 + 8 * 0x20, 0x20067, 0);
    assert.equal(runCode(w).kind, 'hlt');
    assert.equal(w.mem.read32(0x20004), 1);
    // an exit while delivering names the event; injected again it goes on
    w.map(0x21000, 0);
    w.code(0x8b, 0x03);
    w.s.gpr[RBX] = 0x21000n;
    exit = runCode(w);
    assert.deepEqual([exit.kind, exit.gpa, exit.insn], ['npf', 0x40e0, null]);
    assert.deepEqual(exit.idtVectoring, { vector: 14, type: EVENT_TYPE.EXCEPTION, errorCode: 0, insnLen: 0 });
    assert.equal(w.s.cr2, 0x21000n);
    w.mem.writeQ(npt + 0x3000 + 8 * 4, 0x4067, 0);
    w.cpu.inject = exit.idtVectoring;
    exit = runCode(w);
    assert.equal(exit.kind, 'hlt');
    assert.equal(exit.delivered?.vector, 14);
  });

  it('says where an instruction is that it does not know', () => {
    const w = world();
    w.code(0x0f, 0x58, 0xc1);
    assert.throws(() => runCode(w), /instruction at 0x1000 \(bytes 0f 58 c1/);
  });

  it('treats `done` as the end of what it was given', () => {
    const w = world();
    w.s.ripKnown = false;
    assert.equal(once(w, insnRmw(0x20000n, 4, 5n)).kind, 'done');
    assert.equal(w.s.loaded, 0n);
    assert.equal(w.mem.read32(0x20000), 5);
    assert.equal(once(w, insnHlt()).kind, 'hlt');
    assert.equal(w.cpu.mmu.translate(0x20000, 0, ACC_WRITE), OK);
    assert.equal(w.cpu.mmu.translate(0x20000, 0, ACC_FETCH), OK);
  });
});
