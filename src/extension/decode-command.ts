/** *Decode Value…*: an input that decodes while one types, every reading a line; one reading opened field by field. */
import * as vscode from 'vscode';
import { basisOf } from './hover';
import type { RoleDecoderPanel } from './role-decoder-panel';
import type { Sessions } from './sessions';
import { settingsFor } from './settings';
import type { Explanation } from '../words/explain';

/** What the command can be called with; all of it optional. */
export interface DecodeArguments {
  /** hexadecimal, with or without 0x */
  readonly value?: string;
  readonly as?: string;
  readonly context?: string;
}

interface ReadingItem extends vscode.QuickPickItem {
  readonly explanation?: Explanation;
  readonly value?: bigint;
  /** chosen: type this word in front */
  readonly as?: string;
}

const COPY: vscode.QuickInputButton = { iconPath: new vscode.ThemeIcon('copy'), tooltip: 'Copy as text' };
const ROLES: vscode.QuickInputButton = {
  iconPath: new vscode.ThemeIcon('symbol-boolean'),
  tooltip: 'Show in the Role Decoder',
};

/** Digits with or without 0x, or a decimal number with 0d, and after or before it what to read it as: `spte 4223a21`. */
function parse(text: string): { value: bigint; as: string | undefined } | undefined {
  const words = text
    .trim()
    .replace(/\bas\b/i, ' ')
    .split(/\s+/);
  const number =
    words.find((w) => /^0x[\da-f_']+$/i.test(w)) ??
    words.find((w) => /^[\da-f_']+$/i.test(w) && /\d/.test(w)) ??
    words.find((w) => /^[\da-f]+$/i.test(w));
  if (number === undefined) return undefined;
  const digits = number.replace(/^0x/i, '').replace(/[_']/g, '');
  if (digits === '' || digits.length > 16) return undefined;
  return { value: BigInt(`0x${digits}`), as: words.find((w) => w !== number && w !== '') };
}

export async function decodeValue(
  sessions: Sessions,
  roles: RoleDecoderPanel,
  given: DecodeArguments = {},
): Promise<void> {
  const { explanationToText, decodableWords } = await import(/* webpackChunkName: "words" */ '../words/explain');
  const { meaningOf, roleWordFor } = await import(/* webpackChunkName: "words" */ './text/meaning');
  const settings = settingsFor();
  const session = basisOf(sessions.active);
  const kernel = session?.kernel ?? settings.kernel;

  const input = vscode.window.createQuickPick<ReadingItem>();
  input.title = `Decode Value (${kernel}, ${session?.vendor ?? settings.vendor})`;
  input.placeholder = 'A value, as 0x600000003088b77 or "role 1003784" or "spte 4223a21"';
  input.matchOnDescription = true;
  input.matchOnDetail = true;

  const items = (text: string): ReadingItem[] => {
    const question = parse(text);
    if (question === undefined) return hints(text, decodableWords());
    const { value } = question;
    // Every item must pass the filter of the list, which VS Code matches with what is typed.
    const always = { alwaysShow: true };
    try {
      const context = given.context !== undefined && text === given.value ? { context: given.context } : {};
      const { explanations, own } = meaningOf({ value, as: question.as, ...context, session, settings });
      const role = (e: Explanation): string | undefined => roleWordFor(e, kernel);
      return explanations.flatMap((explanation, i) => [
        ...(i === own && i > 0
          ? [{ label: 'other kernels, other words', kind: vscode.QuickPickItemKind.Separator }]
          : []),
        {
          ...always,
          label: explanation.summary,
          description: explanation.title,
          ...(i === 0 ? detailOf(explanation) : {}),
          buttons: [COPY, ...(role(explanation) === undefined ? [] : [ROLES])],
          explanation,
          value,
        },
      ]);
    } catch (error) {
      return [{ ...always, label: `$(error) ${error instanceof Error ? error.message : String(error)}` }];
    }
  };

  const copy = async (item: ReadingItem): Promise<void> => {
    if (item.explanation === undefined || item.value === undefined) return;
    await vscode.env.clipboard.writeText(`0x${item.value.toString(16)} ${explanationToText([item.explanation])}`);
    vscode.window.setStatusBarMessage(`Copied: ${item.label}`, 3000);
  };
  const showRole = (item: ReadingItem): void => {
    if (item.explanation === undefined || item.value === undefined) return;
    roles.show({ word: roleWordFor(item.explanation, kernel), value: `0x${item.value.toString(16)}` });
  };

  /** One reading, a line a field; Back returns to the readings. */
  const open = (item: ReadingItem): void => {
    const { explanation, value } = item;
    if (explanation === undefined || value === undefined) return;
    const fields = vscode.window.createQuickPick();
    fields.title = `0x${value.toString(16)} as ${explanation.title}`;
    fields.placeholder = explanation.summary;
    fields.matchOnDescription = true;
    fields.matchOnDetail = true;
    fields.buttons = [
      vscode.QuickInputButtons.Back,
      COPY,
      ...(roleWordFor(explanation, kernel) === undefined ? [] : [ROLES]),
    ];
    fields.items = [
      ...explanation.notes.map((note) => ({ label: `$(info) ${note}` })),
      ...explanation.fields.map((f) => ({
        label: f.name,
        description: `${f.value}   bits ${f.bits}`,
        detail: f.meaning,
      })),
    ];
    fields.onDidTriggerButton((button) => {
      if (button === COPY) void copy(item);
      else if (button === ROLES) {
        fields.hide();
        showRole(item);
      } else {
        fields.dispose();
        input.show();
      }
    });
    fields.onDidAccept(() => {
      const field = fields.selectedItems[0];
      if (field !== undefined)
        void vscode.env.clipboard.writeText(`${field.label} ${field.description ?? ''} ${field.detail ?? ''}`.trim());
      fields.hide();
    });
    fields.onDidHide(() => fields.dispose());
    fields.show();
  };

  input.onDidChangeValue((text) => {
    input.items = items(text);
  });
  input.onDidTriggerItemButton(({ item, button }) => {
    if (button === COPY) void copy(item);
    else {
      input.hide();
      showRole(item);
    }
  });
  input.onDidAccept(() => {
    const item = input.selectedItems[0];
    if (item?.explanation !== undefined) open(item);
    else if (item?.as !== undefined) {
      input.value = `${item.as} ${input.value.replace(/[a-z_-]*$/i, '')}`;
      input.items = items(input.value);
    }
  });
  input.value =
    given.value === undefined
      ? await suggestion()
      : given.as === undefined
        ? given.value
        : `${given.as} ${given.value}`;
  input.items = items(input.value);
  input.show();
}

/** What a reader of the list has to know at once; where a fact was not verified is told with the fields. */
function detailOf({ notes }: Explanation): { detail?: string } {
  const text = notes.filter((note) => !note.includes('not verified')).join(' ');
  return text === '' ? {} : { detail: text };
}

/** Before there is a value: the words that can be asked for. */
function hints(text: string, words: readonly { name: string; description: string }[]): ReadingItem[] {
  if (text.trim() !== '' && !/^[a-z][\w-]*\s*$/i.test(text.trim())) {
    return [{ label: `$(info) '${text.trim()}' is not a hexadecimal value of up to 64 bits`, alwaysShow: true }];
  }
  return words.map(({ name, description }) => ({ label: name, description, as: name }));
}

/** What is selected in the editor or lies in the clipboard, if it is a value. */
async function suggestion(): Promise<string> {
  const editor = vscode.window.activeTextEditor;
  const selected = editor === undefined ? '' : editor.document.getText(editor.selection);
  if (/^\s*(?:0x)?[\da-f_']{1,16}\s*$/i.test(selected)) return selected.trim();
  const clipboard = await vscode.env.clipboard.readText();
  return /^\s*0x[\da-f_']{1,18}\s*$/i.test(clipboard) ? clipboard.trim() : '';
}
