import assert from 'node:assert/strict';
import type { AstNode, LangiumDocument } from 'langium';
import {
  clearDocuments,
  expectCompletion,
  expectFoldings,
  expectFormatting,
  expectGoToDefinition,
  expectHighlight,
  expectHover,
  expectSemanticToken,
  highlightHelper,
  parseHelper,
  validationHelper,
} from 'langium/test';
import type { CompletionList, DocumentSymbol } from 'vscode-languageserver';
import { SemanticTokenTypes } from 'vscode-languageserver';
import { TextDocument } from 'vscode-languageserver-textdocument';
import { parseScenario } from '../parse';
import { createMmuServices } from '../services';
import { EVENT_FIELDS, MACHINE_SETTINGS, REGISTERS } from '../tables';
import { statementWords } from '../syntax';
import { GUEST } from '../testing/helpers';
import { proposal } from './names-and-checks';

const { mmu } = createMmuServices();
const parse = parseHelper(mmu);
const params = (document: LangiumDocument): { textDocument: { uri: string } } => ({
  textDocument: { uri: document.textDocument.uri },
});

afterEach(() => clearDocuments(mmu));

describe('completion', () => {
  const complete = async (text: string): Promise<string[]> => {
    let labels: string[] = [];
    const keep = (list: CompletionList): void => void (labels = list.items.map((i) => i.label));
    await expectCompletion(mmu)({ text, index: 0, assert: keep, disposeAfterCheck: true });
    return labels;
  };
  const offers = async (text: string, ...wanted: string[]): Promise<void> => {
    const labels = await complete(text);
    for (const w of wanted) assert.ok(labels.includes(w), `${text}: ${w} is not among ${labels.join(' ')}`);
  };

  it('offers every statement at the beginning of a line', async () => {
    assert.deepEqual((await complete('<|>')).sort(), [...statementWords()].sort());
    assert.deepEqual((await complete('hlt\nl<|>\nnop')).sort(), [...statementWords()].sort());
    assert.deepEqual((await complete('repeat 2 {\n  <|>\n}')).sort(), [...statementWords()].sort());
  });

  it('offers what can follow, and no new statement on the same line', async () => {
    assert.deepEqual(await complete('load 4 [0] <|>'), ['user', 'ac', 'at']);
    assert.deepEqual(await complete('memslot <|>'), ['add', 'move', 'flags', 'delete']);
    assert.deepEqual(await complete('memslot add id 1 gpa 0 <|>'), ['size']);
    await offers('vcpu 1: <|>', 'load', 'setregs', 'expect');
    assert.equal((await complete('vcpu 1: <|>')).includes('machine'), false);
  });

  it('offers settings and their values in the machine block', async () => {
    assert.deepEqual((await complete('machine {\n  <|>\n}')).sort(), MACHINE_SETTINGS.map((s) => s.name).sort());
    await offers('machine {\n  kernel <|>\n}', 'v6.1', 'v7.3', 'spp-v12');
    assert.equal((await complete('machine { kernel <|> }'))[0], 'spp-v12');
    await offers('machine {\n  vendor <|>', 'intel', 'amd');
    await offers('machine {\n  features nx, <|>', 'smep', 'la57', 'none');
    await offers('machine {\n  tdp_mmu o<|>', 'on', 'off');
    await offers('machine { paging ept  <|> }', 'kernel');
  });

  it('offers registers and their flags', async () => {
    assert.deepEqual((await complete('setregs { <|> }')).sort(), REGISTERS.map((r) => r.name).sort());
    await offers('vcpu 0 {\n  cr0 PG|<|>\n}', 'WP', 'PE');
    await offers('vcpu 0 {\n  cr0 PG\n  efer <|>\n}', 'LME', 'NXE');
    await offers('vcpu 0 { idt <|> }', 'none');
    assert.deepEqual(await complete('mov <|>'), ['cr0', 'cr2', 'cr3', 'cr4']);
    await offers('mov cr4, PAE|<|>', 'SMEP');
    await offers('wrmsr <|>', 'EFER', 'PAT');
    await offers('wrmsr EFER, <|>', 'LME');
    await offers('run at 0 <|>', 'rbx', 'cpl', 'limit');
    await offers('run at 0 rflags=<|>', 'AC');
  });

  it('offers fields of VMCBs and VMCSs and their bits', async () => {
    await offers('vmcb 0xa000 {\n  <|>\n}', 'n_cr3', 'intercept', 'cs', 'es.attrib');
    await offers('vmcb 0xa000 { intercept HLT|<|> }', 'VMRUN', 'SHUTDOWN');
    await offers('vmcb 0xa000 { cs <|> }', 'CODE64', 'DATA');
    await offers('vmcb 0xa000 {\n  n_cr3 0x20000  efer <|>', 'SVME');
    await offers('vmwrite {\n  ept_pointer WB|<|>\n}', 'WALK4', 'AD');
    await offers('vcpu 1: vmwrite {\n  <|>\n}', 'guest_rip', 'guest_cs');
    await offers('vmwrite <|>', 'guest_rip', 'ept_pointer');
    await offers('vmwrite guest_cr0, <|>', 'PG', 'WP');
    assert.ok(!(await complete('vmwrite guest_cr0, <|>')).includes('guest_rip'));
    await offers('vmread <|>', 'exit_qualification');
    await offers('invept <|>', 'single', 'global');
    await offers('invept single, <|>', 'WALK4');
    await offers('invvpid <|>', 'address', 'single-nonglobal');
    await offers('expect vmcs <|>', 'vm_exit_reason');
    await offers('expect vmcs vm_exit_reason <|>', 'EPT_VIOLATION');
    await offers('expect vmcb 0xa000 <|>', 'exitcode', 'exitinfo1');
    await offers('expect vmcb 0xa000 exitcode <|>', 'NPF', 'HLT');
  });

  it('offers names of the document', async () => {
    const names = 'let uart = 0x1000\nbacking low 2M\nbacking data 2M\n';
    assert.deepEqual(await complete(`${names}load 4 [<|>]`), ['uart']);
    assert.deepEqual(await complete(`${names}memslot add id 1 gpa 0 size 2M host <|>`), ['low', 'data', 'uart']);
    assert.deepEqual(await complete(`${names}frames <|>`), ['low', 'data']);
    await offers(`${names}qword <|>`, 'low', 'uart');
    await offers(`${names}memslot add id 1 gpa 0 size 2M host low flags <|>`, 'READONLY', 'LOG_DIRTY_PAGES');
    await offers(`${names}map 0 -> 0 <|>`, '2M', 'W', 'NX', 'count');
    await offers(`${names}map 0 -> 0 W|<|>`, 'U', 'NX');
    await offers(`${names}invpcid <|>`, 'address', 'all');
  });

  it('offers what can be expected', async () => {
    await offers(
      'expect <|>',
      'value',
      '#PF',
      'no',
      'cr0',
      'smm',
      'cpu_role',
      'cpu_role.smm',
      'root_role.level',
      'spte',
    );
    await offers('expect #<|>', '#PF', '#GP');
    await offers('machine { kernel v4.4 }\nexpect root_role.<|>', 'root_role.smm', 'root_role.cr4_pae');
    assert.deepEqual(await complete('expect no <|>'), ['fault', 'dirty', 'mmio', 'io', 'event', 'tlb']);
    assert.deepEqual((await complete('expect event <|>')).sort(), Object.keys(EVENT_FIELDS).sort());
    await offers('expect event check_mmio_spte <|>', 'spte_gen', 'kvm_gen', 'times');
    await offers('expect event kvm_page_fault error_code <|>', 'P', 'RSVD');
    await offers('expect #PF error P|<|>', 'W', 'RSVD');
    await offers('expect end <|>', 'hlt', 'done');
    await offers('expect errno <|>', '0', 'EEXIST');
    await offers('expect spte gfn 1 is <|>', 'mmio', 'leaf');
    await offers('expect spte gfn 1 is mmio <|>', 'gen', 'gfn');
    await offers('expect spte gfn 1 is leaf <|>', 'w', 'x', 'nx', 'pfn');
    await offers('expect why <|>', 'pg.smap', 'ept.present');
    assert.deepEqual(await complete('expect tlb 0x1000 <|>'), ['stale', 'fresh']);
    await offers('expect cr4 <|>', 'PAE');
  });

  it('works while other lines are wrong, and not in comments and texts', async () => {
    await offers('mapp 1 2 3\nmachine { kernal\n}\nvcpu 0 {\nexpect\n}\nmov cr0, <|>', 'PG');
    assert.deepEqual(await complete('hlt # <|>'), []);
    assert.deepEqual(await complete('note "<|>'), []);
    assert.deepEqual(await complete('# <|>'), []);
  });

  it('replaces the word at the cursor and explains itself', async () => {
    await expectCompletion(mmu)({
      text: 'expect cpu_role.s<|>',
      index: 0,
      assert: ({ items }) => {
        const item = items.find((i) => i.label === 'cpu_role.smm');
        assert.deepEqual(item?.textEdit, {
          newText: 'cpu_role.smm',
          range: { start: { line: 0, character: 7 }, end: { line: 0, character: 17 } },
        });
      },
      disposeAfterCheck: true,
    });
    await expectCompletion(mmu)({
      text: 'memslot <|>',
      index: 0,
      assert: ({ items }) => {
        const doc = items.find((i) => i.label === 'add')?.documentation;
        assert.match(typeof doc === 'object' ? doc.value : '', /KVM_SET_USER_MEMORY_REGION with a new slot/);
      },
      disposeAfterCheck: true,
    });
  });
});

describe('hover', () => {
  const shows = (text: string, ...wanted: RegExp[]): Promise<void> =>
    wanted.reduce(async (before, hover) => {
      await before;
      await expectHover(mmu)({ text, index: 0, hover, disposeAfterCheck: true });
    }, Promise.resolve());

  it('explains statements and the words in them', async () => {
    await shows('memslot a<|>dd id 0 gpa 0 size 4K host low', /KVM_SET_USER_MEMORY_REGION with a new slot/);
    await shows('memslot add id 0 g<|>pa 0 size 4K host low', /^Guest-physical address\.$/);
    await shows('<|>smi', /KVM_SMI/);
    await shows('vcpu 1: lo<|>ad 4 [0]', /The guest reads SIZE bytes/);
    await shows('load 4 [0] us<|>er', /At CPL 3/);
    await shows('expect no fa<|>ult', /raised no exception/);
    await shows('expect m<|>mio read', /KVM_EXIT_MMIO/);
    await shows('repeat fore<|>ver {\nhlt\n}', /Without end/);
  });

  it('explains names by where they stand', async () => {
    await shows('machine { ma<|>xphyaddr 46 }', /\*\*maxphyaddr\*\* setting: physical-address bits of the host/);
    await shows('machine { kernel v6<|>.12 }', /FROZEN_SPTE/);
    await shows('machine { features nx, sm<|>ap }', /\*\*smap\*\* value: CR4.SMAP/);
    await shows('setregs { c<|>r3 0 }', /\*\*cr3\*\* register: guest-physical address of the root/);
    await shows('expect event check_mm<|>io_spte', /fields spte, kvm_gen, spte_gen/);
    await shows('expect gen<|>eration 2', /memslot generation of address space 0/);
    await shows('expect spte gfn 1 is mm<|>io', /\*\*mmio\*\* value: a cached MMIO page/);
    await shows('let uart = 0x1000\nload 4 [ua<|>rt]', /\*\*uart\*\* constant: = 0x1000/);
    await shows('backing low 2M\nmemslot add id 0 gpa 0 size 2M host l<|>ow', /\*\*low\*\* backing: backing of 2M/);
  });

  it('explains fields of VMCBs and VMCSs', async () => {
    await shows('vmcb 0xa000 { n_c<|>r3 0x20000 }', /\*\*n_cr3\*\* field: VMCB offset 0x0b0: nCR3/);
    await shows('vmcb 0xa000 { intercept HL<|>T|VMRUN }', /exit code 0x78/, /`0x101000000`/);
    await shows('vmcb 0xa000 { cs CO<|>DE64 }', /64-bit code/);
    await shows('vmwrite { guest_r<|>ip 0x1000 }', /VMCS field 0x681e: guest state, natural width/);
    await shows('vmwrite ept_po<|>inter, 0x2005e', /VMCS field 0x201a: control, 64 bits/);
    await shows('vmwrite ept_pointer, 0x2<|>005e', /EPTP/, /4-level EPT at 0x20000 WB A\/D/);
    await shows('expect vmcs exit_qualification 0x1<|>aa', /qualification/i, /write/i);
    await shows('vm<|>launch', /VMLAUNCH by L1/);
    await shows('expect vm<|>cs vm_exit_reason HLT', /current VMCS of L1/);
  });

  it('decodes numbers by what they are', async () => {
    await shows('mov cr0, 0x8001<|>0001', /CR0/, /PG\|WP\|PE/);
    await shows('mov cr4, PAE|SM<|>EP', /\*\*SMEP\*\* flag/, /`0x100020`/, /PAE/);
    await shows('expect root_role 0x<|>3784', /page role, v6\.1/, /efer_nx/);
    await shows('machine { kernel v4.4 }\nexpect root_role 0x<|>3784', /page role, v4\.[24]/);
    await shows('expect spte gpa 0x10000000 = 0x3e0010<|>000036', /MMIO/);
    await shows('expect event kvm_mmu_get_page role 0x<|>3784', /page role/);
    await shows('expect #PF error P|<|>W', /0x3/);
    await shows('load 4 [0x20<|>9008]', /PML4 0 · PDPT 0 · PD 1 · PT 9 · offset 0x8/);
    await shows('qword 0x10000 = 0x80000000000<|>11007', /present/i);
    await shows('backing low 6<|>40K', /`0xa0000` = `655360` = `640K`/);
    await shows('let a = 0x1000\nload 4 [a+0x<|>20]', /`0x1020`/);
    await shows('load 4 [12<|>ab]', /write 0x12ab/);
  });

  it('says nothing in comments, texts and blank lines', async () => {
    for (const text of ['hlt # lo<|>ad', 'note "lo<|>ad"', '<|>\nhlt'])
      await expectHover(mmu)({ text, index: 0, hover: undefined, disposeAfterCheck: true });
  });
});

describe('names', () => {
  it('are found from where they are used', async () => {
    await expectGoToDefinition(mmu)({
      text: 'let <|uart|> = 1\nload 4 [ua<|>rt]',
      index: 0,
      rangeIndex: 0,
      disposeAfterCheck: true,
    });
    await expectGoToDefinition(mmu)({
      text: 'backing <|low|> 2M\nframes l<|>ow 0: 1',
      index: 0,
      rangeIndex: 0,
      disposeAfterCheck: true,
    });
    await expectHighlight(mmu)({
      text: 'let <|ua<|>rt|> = 1\nload 4 [<|uart|>]\nload 4 [<|uart|>+4]',
      disposeAfterCheck: true,
    });
  });

  const rename = async (source: string, line: number, character: number, newName: string): Promise<string> => {
    const document = await parse(source);
    const edit = await mmu.lsp.RenameProvider?.rename(document, {
      ...params(document),
      position: { line, character },
      newName,
    });
    const edits = edit?.changes?.[document.textDocument.uri] ?? [];
    return TextDocument.applyEdits(document.textDocument, edits);
  };

  it('are renamed everywhere, and only they', async () => {
    const source =
      'let uart = 0x1000 # uart\nbacking low 2M\nload 4 [uart+8]\nmemslot add id 0 gpa uart size 4K host low+uart\n';
    assert.equal(
      await rename(source, 0, 5, 'serial'),
      source.replaceAll('uart', 'serial').replace('# serial', '# uart'),
    );
    assert.equal(await rename(source, 3, 42, 'ram'), source.replaceAll('low', 'ram'));
    assert.equal(await rename('setregs { cr0 PG }\nmov cr0, PG', 0, 11, 'x'), 'setregs { cr0 PG }\nmov cr0, PG');
  });

  it('are not renamed to what would not parse', async () => {
    const source = 'let uart = 1\nload 4 [uart]\n';
    await assert.rejects(rename(source, 0, 5, 'size'), /'size' is a word of the language: choose another name/);
    await assert.rejects(rename(source, 0, 5, '4you'), /'4you' is not a name/);
  });

  it('stay inside their document', async () => {
    await parse('let other = 1\n');
    const document = await parse('load 4 [other]\n');
    const linked = document.references.map((r) => ('ref' in r ? r.ref?.$type : null));
    assert.deepEqual(linked, [undefined]);
  });
});

describe('diagnostics and quick fixes', () => {
  it('are those of parseScenario', async () => {
    const source = `${GUEST}lod 4 [0]\nmov cr0, PX\nmemslot add id 3 gpa 0 size 4K host low\n`;
    const { diagnostics } = await validationHelper(mmu)(source);
    const wanted = parseScenario(source).diagnostics;
    assert.equal(wanted.length, 3);
    assert.deepEqual(
      diagnostics.map((d) => [d.range.start.line + 1, d.range.start.character + 1, d.message, d.code]),
      wanted.map((d) => [d.line, d.column, d.message, d.code]),
    );
  });

  it('write what the message proposes', async () => {
    const source = 'mapp 0 -> 0\nlod 4 [0]\nhlt @\n';
    const document = await parse(source, { validation: true });
    const actions = await mmu.lsp.CodeActionProvider?.getCodeActions(document, {
      ...params(document),
      range: { start: { line: 0, character: 0 }, end: { line: 9, character: 0 } },
      context: { diagnostics: document.diagnostics ?? [] },
    });
    const edits = (actions ?? []).flatMap((a) =>
      'edit' in a ? (a.edit?.changes?.[document.textDocument.uri] ?? []) : [],
    );
    assert.deepEqual(
      actions?.map((a) => a.title),
      ["Change to 'map'", "Change to 'load'"],
    );
    assert.equal(TextDocument.applyEdits(document.textDocument, edits), 'map 0 -> 0\nload 4 [0]\nhlt @\n');
    assert.equal(proposal('no idea'), null);
  });
});

describe('outline', () => {
  const outline = (symbols: readonly DocumentSymbol[]): unknown[] =>
    symbols.map((s) => (s.children?.length ? [s.name, outline(s.children)] : s.name));

  it('shows machine, vCPUs and steps with what happens in them', async () => {
    const document = await parse(
      'machine {\n  kernel v6.1\n}\nlet a = 1\nbacking low 2M\nmemslot add id 0 gpa 0 size 2M host low\nvcpu 0 { cr0 PE }\nqword 0 = 1\nstep 1 "first"\nload 4 [0]\nexpect no fault\nrepeat 2 {\n  hlt\n}\nnote "second"\nvcpu 0: smi\n',
    );
    const symbols = (await mmu.lsp.DocumentSymbolProvider?.getSymbols(document, params(document))) ?? [];
    assert.deepEqual(outline(symbols), [
      ['machine', ['kernel']],
      'a',
      'low',
      'memslot add id 0 gpa 0 size 2M host low',
      ['vcpu 0', ['cr0']],
      ['step 1 "first"', ['load 4 [0]', ['repeat 2', ['hlt']]]],
      ['note "second"', ['vcpu 0: smi']],
    ]);
    const step = symbols[5];
    assert.deepEqual([step.range.start.line, step.range.end.line], [8, 13]);
    for (const s of symbols)
      assert.ok(s.selectionRange.start.line >= s.range.start.line && s.selectionRange.end.line <= s.range.end.line);
  });
});

describe('folding', () => {
  it('folds blocks, runs of comments and steps', async () => {
    await expectFoldings(mmu)({
      text: '<|# one\n# two|>\n<|machine {\n  kernel v6.1|>\n}\n<|step 1\nhlt\n<|repeat 2 {\n  nop\n  hlt|>\n}|>\n# alone\nstep 2\n',
      disposeAfterCheck: true,
    });
  });
});

describe('colours', () => {
  it('tell names apart', async () => {
    const tokens = await highlightHelper<AstNode>(mmu)(
      'machine { <|kernel|> <|v6.1|> }\nlet <|uart|> = 1\nbacking <|low|> 2M\n<|load|> 4 [<|uart|>]\nsetregs { <|cr0|> <|PG|> }\nexpect event <|kvm_entry|> <|rip|> 0\nmemslot add id 0 gpa 0 size 4K host <|low|>\nexpect <|#PF|> error <|P|>',
    );
    const types = [
      SemanticTokenTypes.property,
      SemanticTokenTypes.enumMember,
      SemanticTokenTypes.variable,
      SemanticTokenTypes.namespace,
      SemanticTokenTypes.function,
      SemanticTokenTypes.variable,
      SemanticTokenTypes.variable,
      SemanticTokenTypes.enumMember,
      SemanticTokenTypes.event,
      SemanticTokenTypes.property,
      SemanticTokenTypes.namespace,
      SemanticTokenTypes.event,
      SemanticTokenTypes.enumMember,
    ];
    types.forEach((tokenType, rangeIndex) => expectSemanticToken(tokens, { rangeIndex, tokenType }));
  });
});

describe('formatting in the editor', () => {
  it('formats the whole document', async () => {
    await expectFormatting(mmu)({
      before:
        '\n\nmachine {\n kernel    v6.1   vendor intel # x\n      }\n\n\n\nload   4 [ 0x1000 ]   user# why\nmemslot add id 0 gpa 0 size 4K host low + 0x1000 flags READONLY | LOG_DIRTY_PAGES\n',
      after:
        'machine {\n  kernel v6.1  vendor intel  # x\n}\n\nload 4 [0x1000] user  # why\nmemslot add id 0 gpa 0 size 4K host low+0x1000 flags READONLY|LOG_DIRTY_PAGES\n',
      disposeAfterCheck: true,
    });
  });

  it('formats a range only', async () => {
    await expectFormatting(mmu)({
      before: 'hlt  user\nhlt   user\nhlt    user\n',
      after: 'hlt  user\nhlt user\nhlt    user\n',
      range: { start: { line: 1, character: 0 }, end: { line: 1, character: 3 } },
      disposeAfterCheck: true,
    });
  });

  it('formats the line that is left, and the closing brace', async () => {
    const document = await parse('repeat 2 {\nhlt   user\n\n   }\n');
    const edits = (ch: string, line: number): Promise<string> => {
      const list = mmu.lsp.Formatter?.formatDocumentOnType(document, {
        ...params(document),
        ch,
        position: { line, character: 0 },
        options: { insertSpaces: true, tabSize: 2 },
      });
      return Promise.resolve(list).then((e) => TextDocument.applyEdits(document.textDocument, e ?? []));
    };
    assert.equal(await edits('\n', 2), 'repeat 2 {\n  hlt user\n\n   }\n');
    assert.equal(await edits('}', 3), 'repeat 2 {\nhlt   user\n\n}\n');
  });
});
