import assert from 'node:assert/strict';
import { describe, it } from 'mocha';
import { decodeInsn, insnText } from './insn';

const bytes = (hex: string): Uint8Array => Uint8Array.from(hex.split(' ').map((b) => parseInt(b, 16)));

/** code, mode, length, text */
const CASES: readonly [string, 16 | 32 | 64, number, string][] = [
  ['8b 03 e6 e0', 64, 2, 'mov eax, [rbx]'],
  ['48 89 03', 64, 3, 'mov [rbx], rax'],
  ['f0 01 03', 64, 3, 'lock add [rbx], eax'],
  ['ff d3', 64, 2, 'call rbx'],
  ['ff d3', 32, 2, 'call ebx'],
  ['0f 01 3b', 64, 3, 'invlpg [rbx]'],
  ['0f 22 c0', 64, 3, 'mov cr0, rax'],
  ['0f 22 d8', 32, 3, 'mov cr3, eax'],
  ['0f 20 e0', 64, 3, 'mov rax, cr4'],
  ['44 0f 22 c0', 64, 4, 'mov cr8, rax'],
  ['0f 30', 64, 2, 'wrmsr'],
  ['f0 0f c7 0e', 64, 4, 'lock cmpxchg8b [rsi]'],
  ['f0 48 0f c7 0e', 64, 5, 'lock cmpxchg16b [rsi]'],
  ['0f aa', 16, 2, 'rsm'],
  ['0f 01 d8', 64, 3, 'vmrun'],
  ['0f 01 ef', 64, 3, 'wrpkru'],
  ['67 66 8b 03', 16, 4, 'mov eax, [ebx]'],
  ['67 66 89 03', 16, 4, 'mov [ebx], eax'],
  ['8b 47 04', 16, 3, 'mov ax, [bx+0x4]'],
  ['8b 46 00', 16, 3, 'mov ax, ss:[bp]'],
  ['a1 34 12', 16, 3, 'mov ax, [0x1234]'],
  ['48 a1 88 77 66 55 44 33 22 11', 64, 10, 'mov rax, [0x1122334455667788]'],
  ['8b 05 10 00 00 00', 64, 6, 'mov eax, [rip+0x10]'],
  ['8b 05 10 00 00 00', 32, 6, 'mov eax, [0x10]'],
  ['65 48 8b 04 25 00 00 00 00', 64, 9, 'mov rax, gs:[0x0]'],
  ['48 8b 54 cb f8', 64, 5, 'mov rdx, [rbx+rcx*8-0x8]'],
  ['f3 0f c7 34 25 00 2f 00 00', 64, 9, 'vmxon [0x2f00]'],
  ['66 0f c7 34 25 00 2f 00 00', 64, 9, 'vmclear [0x2f00]'],
  ['0f c7 34 25 08 2f 00 00', 64, 8, 'vmptrld [0x2f08]'],
  ['0f 79 d0', 64, 3, 'vmwrite rdx, rax'],
  ['0f 78 d1', 64, 3, 'vmread rcx, rdx'],
  ['66 0f 38 80 04 25 40 2f 00 00', 64, 10, 'invept rax, [0x2f40]'],
  ['66 0f 38 82 0e', 64, 5, 'invpcid rcx, [rsi]'],
  ['48 83 fa ff', 64, 4, 'cmp rdx, -0x1'],
  ['76 35', 64, 2, 'jbe 0x35'],
  ['b8 01 00 00 00', 64, 5, 'mov eax, 0x1'],
  ['49 b8 88 77 66 55 44 33 22 11', 64, 10, 'mov r8, 0x1122334455667788'],
  ['b4 01', 64, 2, 'mov ah, 0x1'],
  ['40 b4 01', 64, 3, 'mov spl, 0x1'],
  ['41 54', 64, 2, 'push r12'],
  ['6a ff', 64, 2, 'push -0x1'],
  ['e6 e0', 64, 2, 'out 0xe0, al'],
  ['ed', 32, 1, 'in eax, dx'],
  ['48 87 03', 64, 3, 'xchg [rbx], rax'],
  ['0f b6 03', 64, 3, 'movzx eax, [rbx]'],
  ['48 63 c3', 64, 3, 'movsx rax, ebx'],
  ['40', 32, 1, 'inc eax'],
  ['0f 01 15 00 10 00 00', 32, 7, 'lgdt [0x1000]'],
  ['8e d8', 32, 2, 'mov ds, ax'],
  ['0f 01 c1', 64, 3, 'vmcall'],
  ['0f 01 ca', 64, 3, 'clac'],
];

describe('instruction decoder', () => {
  for (const [code, mode, length, text] of CASES) {
    it(`${code} in ${mode}-bit code is ${text}`, () => {
      const i = decodeInsn(bytes(code), mode);
      assert.equal(insnText(i), text);
      assert.equal(i.len, length);
    });
  }

  it('says when bytes are missing', () => {
    assert.equal(decodeInsn(bytes('48 8b'), 64).op, 'truncated');
    assert.equal(decodeInsn(new Uint8Array(0), 64).op, 'truncated');
    assert.equal(decodeInsn(bytes('b8 01 00'), 32).op, 'truncated');
  });

  it('refuses more than 15 bytes as an invalid instruction', () => {
    assert.equal(decodeInsn(new Uint8Array(15).fill(0x66), 64).op, 'ud');
  });

  it('refuses LOCK on what cannot be locked', () => {
    assert.equal(decodeInsn(bytes('f0 8b 03'), 64).op, 'ud');
    assert.equal(decodeInsn(bytes('f0 01 c3'), 64).op, 'ud');
    assert.equal(decodeInsn(bytes('f0 0f b1 0b'), 64).op, 'cmpxchg');
  });

  it('claims nothing about opcodes that it does not know', () => {
    assert.equal(decodeInsn(bytes('0f 58 c1'), 64).op, 'unknown');
    assert.equal(decodeInsn(bytes('c5 f8 77'), 64).op, 'unknown');
  });

  it('counts a REX prefix only right before the opcode', () => {
    const i = decodeInsn(bytes('48 66 89 03'), 64);
    assert.equal(i.opSize, 2);
    assert.equal(i.len, 4);
  });

  it('keeps the carry of segment overrides: cs, ds, es, ss are ignored in 64-bit code', () => {
    assert.equal(insnText(decodeInsn(bytes('2e 8b 03'), 64)), 'mov eax, [rbx]');
    assert.equal(insnText(decodeInsn(bytes('2e 8b 03'), 32)), 'mov eax, cs:[ebx]');
  });
});
