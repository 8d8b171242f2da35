/** The commands, apart from what they do in other files. */
import * as vscode from 'vscode';
import { startScenario } from './debug-configurations';
import { decodeValue, type DecodeArguments } from './decode-command';
import type { RoleDecoderPanel } from './role-decoder-panel';
import type { Sessions } from './sessions';
import type { TablesPanel } from './tables-panel';
import { placeOf, roleWordOf, wordOf, type VariableLike } from './text/variables';

export interface Parts {
  readonly extensionUri: vscode.Uri;
  readonly sessions: Sessions;
  readonly roles: RoleDecoderPanel;
  readonly tables: TablesPanel;
}

/** What VS Code passes to commands on a variable. */
interface VariableContext {
  readonly variable?: VariableLike;
}

export function registerCommands({ extensionUri, sessions, roles, tables }: Parts): vscode.Disposable {
  const register = (command: string, run: (argument: unknown) => unknown): vscode.Disposable =>
    vscode.commands.registerCommand(command, run);
  const onVariable = (run: (variable: VariableLike) => unknown) => (argument: unknown) => {
    const { variable } = (argument ?? {}) as VariableContext;
    if (variable !== undefined) return run(variable);
  };
  return vscode.Disposable.from(
    register('mmuscope.decodeValue', (argument) => decodeValue(sessions, roles, argumentsOf(argument))),
    register('mmuscope.openRoleDecoder', (argument) => {
      const word = argument as { value?: string; word?: string } | undefined;
      if (typeof word?.value === 'string')
        roles.show({ value: word.value, ...(word.word === undefined ? {} : { word: word.word }) });
      else roles.open();
    }),
    register('mmuscope.openTables', () => tables.open()),
    register('mmuscope.walkAddress', (argument) => walkAddress(sessions, tables, argument)),
    register('mmuscope.debugScenario', (uri) => startScenario(uri instanceof vscode.Uri ? uri : undefined, false)),
    register('mmuscope.runScenario', (uri) => startScenario(uri instanceof vscode.Uri ? uri : undefined, true)),
    register('mmuscope.openExample', () => openExample(extensionUri)),
    register(
      'mmuscope.variable.decode',
      onVariable((variable) => {
        const value = wordOf(variable);
        if (value === undefined) return say(`${variable.name} shows no hexadecimal value to decode.`);
        return decodeValue(sessions, roles, { value, context: `${variable.name}: ${variable.value}` });
      }),
    ),
    register(
      'mmuscope.variable.showInTables',
      onVariable((variable) => {
        const place = placeOf(variable);
        if (place === undefined)
          return say(`${variable.name} is no address of the guest: tables translate gva and gpa.`);
        tables.goTo(place);
      }),
    ),
    register(
      'mmuscope.variable.showInRoleDecoder',
      onVariable((variable) => {
        const value = wordOf(variable);
        const word = roleWordOf(variable);
        if (value === undefined) return say(`${variable.name} shows no role word.`);
        if (word === undefined || word === 'role') roles.show({ value });
        else roles.show({ value, word });
      }),
    ),
  );
}

function say(sentence: string): void {
  void vscode.window.showInformationMessage(sentence);
}

/** A hover's link passes an object, a key binding may pass a bare value, and the palette nothing. */
function argumentsOf(argument: unknown): DecodeArguments {
  if (typeof argument === 'string') return { value: argument };
  const { value, as, context } = (argument ?? {}) as Record<string, unknown>;
  return {
    ...(typeof value === 'string' ? { value } : {}),
    ...(typeof as === 'string' ? { as } : {}),
    ...(typeof context === 'string' ? { context } : {}),
  };
}

/** Asks for an address and by which tables to translate it, prints the walk with its reasons and shows where it ends. */
async function walkAddress(sessions: Sessions, tables: TablesPanel, argument: unknown): Promise<void> {
  const session = sessions.stopped;
  if (session === null) return say('An address can be walked while a debug session is stopped.');
  const given = typeof argument === 'string' ? argument : undefined;
  const text =
    given ??
    (await vscode.window.showInputBox({
      title: 'Walk Address',
      prompt:
        'gva 0x… is walked through the guest’s tables and the second stage, gpa 0x… through the second stage alone.',
      placeHolder: 'gva 0x201000   or   gpa 0xfee00000   (with write, fetch or user after it)',
      value:
        session.state?.vcpus.find((v) => v.threadId === session.threadId)?.mode === 'real mode' ? 'gpa 0x' : 'gva 0x',
      valueSelection: [4, 6],
      validateInput: (input) =>
        readWalk(input) === undefined ? 'Type gva or gpa and a hexadecimal address.' : undefined,
    }));
  if (text === undefined) return;
  const walk = readWalk(text);
  if (walk === undefined) return say(`'${text}' is not an address: type gva or gpa and hexadecimal digits.`);
  const { kind, address, write, fetch, user } = walk;
  const { threadId } = session;
  try {
    const { why } = await session.request('mmuscope/why', { threadId, [kind]: address, write, fetch, user });
    if (why !== null) vscode.debug.activeDebugConsole.appendLine(why.text);
  } catch (error) {
    return say(error instanceof Error ? error.message : String(error));
  }
  tables.goTo({ address, kind: kind === 'gva' ? 'guest' : 'second' });
}

interface Walk {
  readonly kind: 'gva' | 'gpa';
  readonly address: string;
  readonly write: boolean;
  readonly fetch: boolean;
  readonly user: boolean;
}

function readWalk(text: string): Walk | undefined {
  const m = /^\s*(?:(gva|gpa)\s+)?(0x[\da-f_]+|[\da-f_]+)((?:\s+(?:read|write|fetch|user))*)\s*$/i.exec(text);
  if (m === null) return undefined;
  const digits = (m[2] ?? '').replace(/^0x/i, '').replaceAll('_', '');
  if (digits === '' || digits.length > 16) return undefined;
  const more = (m[3] ?? '').toLowerCase();
  return {
    kind: m[1]?.toLowerCase() === 'gpa' ? 'gpa' : 'gva',
    address: `0x${BigInt(`0x${digits}`).toString(16)}`,
    write: more.includes('write'),
    fetch: more.includes('fetch'),
    user: more.includes('user'),
  };
}

/** The scenarios that come with the extension. They are opened where they are, so that breakpoints can be set in them. */
async function openExample(extensionUri: vscode.Uri): Promise<void> {
  const folder = vscode.Uri.joinPath(extensionUri, 'examples');
  const files = (await vscode.workspace.fs.readDirectory(folder))
    .map(([name]) => name)
    .filter((name) => name.endsWith('.mmu'));
  const items = await Promise.all(
    files.sort().map(async (name) => {
      const uri = vscode.Uri.joinPath(folder, name);
      const text = new TextDecoder().decode(await vscode.workspace.fs.readFile(uri));
      return { label: name, detail: headOf(text), uri };
    }),
  );
  const chosen =
    items.length === 1
      ? items[0]
      : await vscode.window.showQuickPick(items, { title: 'Open an Example', matchOnDetail: true });
  if (chosen !== undefined) await vscode.window.showTextDocument(chosen.uri);
}

/** The comment at the head of a scenario, in one line. */
function headOf(text: string): string {
  const lines = text.split(/\r?\n/);
  const end = lines.findIndex((line) => !line.startsWith('#'));
  return lines
    .slice(0, end)
    .map((line) => line.replace(/^#\s*/, ''))
    .join(' ');
}
