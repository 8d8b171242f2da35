import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VIEW_TYPES } from '../../webview/messages';
import { ATTRIBUTE_NAMES, MANIFEST, contributes } from './contributes';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Record<string, unknown>;
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

interface Contributes {
  commands: { command: string }[];
  menus: Record<string, { command: string }[]>;
  debuggers: {
    configurationAttributes: { launch: { properties: Record<string, { markdownDescription?: string }> } };
  }[];
  walkthroughs: { steps: { description: string; media: { markdown: string } }[] }[];
  languages: { configuration: string; icon: { light: string } }[];
  grammars: { path: string }[];
}
const ours = contributes() as unknown as Contributes;

describe('package.json', () => {
  it('is what scripts/contributes.ts writes', () => {
    assert.deepEqual(manifest['contributes'], plain(contributes()), 'run: npx tsx scripts/contributes.ts');
    for (const [key, value] of Object.entries(MANIFEST)) assert.deepEqual(manifest[key], plain(value), key);
  });

  it('describes every launch attribute', () => {
    const { properties } = ours.debuggers[0].configurationAttributes.launch;
    assert.deepEqual(Object.keys(properties), ATTRIBUTE_NAMES);
    for (const [name, { markdownDescription }] of Object.entries(properties)) assert.ok(markdownDescription, name);
  });

  it('puts only commands into menus that it contributes', () => {
    const known = new Set(ours.commands.map((c) => c.command));
    for (const [menu, items] of Object.entries(ours.menus)) {
      for (const { command } of items) assert.ok(known.has(command), `${menu}: ${command}`);
    }
  });

  it('registers every command that it contributes, and only those', () => {
    const folder = join(ROOT, 'src/extension');
    const source = readdirSync(folder)
      .filter((f) => f.endsWith('.ts') && !f.endsWith('.test.ts') && f !== 'contributes.ts')
      .map((f) => readFileSync(join(folder, f), 'utf8'))
      .join('\n');
    const registered = [...source.matchAll(/(?:register|command)\(\s*'(mmuscope\.[\w.]+)'/g)].map((m) => m[1]);
    assert.deepEqual([...new Set(registered)].sort(), ours.commands.map((c) => c.command).sort());
  });

  it('points at files that are there', () => {
    const [language] = ours.languages;
    const files = [
      language.configuration,
      language.icon.light,
      ours.grammars[0].path,
      MANIFEST.icon,
      ...ours.walkthroughs.flatMap((w) => w.steps.map((s) => s.media.markdown)),
    ];
    for (const file of files) assert.ok(existsSync(join(ROOT, file)), file);
  });

  it('links walkthrough steps to commands that exist', () => {
    const known = new Set(ours.commands.map((c) => c.command));
    for (const { description } of ours.walkthroughs.flatMap((w) => w.steps)) {
      for (const [, command] of description.matchAll(/\(command:([\w.]+)/g)) {
        assert.ok(known.has(command) || command.startsWith('workbench.'), command);
      }
    }
  });

  it('activates for its panels, so that they come back after a reload', () => {
    for (const type of Object.values(VIEW_TYPES))
      assert.ok(MANIFEST.activationEvents.includes(`onWebviewPanel:${type}` as never), type);
  });
});
