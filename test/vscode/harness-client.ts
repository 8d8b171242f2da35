/**
 * The extension host's end of protocol.ts, for the tests of test/vscode/suite. Where there is no harness (a desktop VS
 * Code under @vscode/test-electron) `harness` is undefined and a test that needs it skips:
 *
 *   if (!harness) this.skip();
 *   await harness.screenshot('decoder');
 *   assert.match(await harness.frameText('mmu-decoder'), /cr0_wp/);
 */
import { request } from 'node:http';
import { HARNESS_VARIABLE, type Favour, type Theme } from './protocol';

/** What a suite can ask of the harness. */
export interface Harness {
  /** Writes test-results/NAME.png; returns its path from the checkout. */
  screenshot(name: string): Promise<string>;
  /** The visible text at a selector inside a webview, as soon as there is some (that contains `containing`). */
  frameText(selector: string, options?: { containing?: string; timeout?: number }): Promise<string>;
  /** Presses a key as playwright names it: `F5`, `Control+Shift+P`. */
  press(keys: string): Promise<void>;
  /** Clicks what a selector matches, in the workbench or in a webview. */
  click(selector: string, options?: { inFrame?: boolean }): Promise<void>;
  theme(theme: Theme): Promise<void>;
}

const address = process.env[HARNESS_VARIABLE];

export const harness: Harness | undefined =
  address === undefined
    ? undefined
    : {
        screenshot: async (name) => (await ask({ what: 'screenshot', name })) as string,
        frameText: async (selector, options = {}) => (await ask({ what: 'frameText', selector, ...options })) as string,
        press: async (keys) => {
          await ask({ what: 'press', keys });
        },
        click: async (selector, options = {}) => {
          await ask({ what: 'click', selector, ...options });
        },
        theme: async (theme) => {
          await ask({ what: 'theme', theme });
        },
      };

async function ask(favour: Favour): Promise<unknown> {
  return post('/ask', favour);
}

/** One request to the harness. @throws the harness's sentence when it could not do it. */
export async function post(path: string, body: unknown): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const req = request(`${address ?? ''}${path}`, { method: 'POST', agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => (text += part));
      response.on('end', () => {
        const value: unknown = JSON.parse(text);
        if (response.statusCode === 200) resolve(value);
        else reject(new Error((value as { error: string }).error));
      });
      response.on('error', reject);
    });
    req.on('error', reject);
    req.end(JSON.stringify(body));
  });
}
