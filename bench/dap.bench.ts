/**
 * The debug adapter: what a user waits for. Round trips are measured over stdio with a process of its own, as an editor
 * has it; the other rows inside this process.
 */
import { DebugClient } from '@vscode/debugadapter-testsupport';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openTarget } from '../src/targets/open';
import { tableBody } from '../src/adapter/views';
import { middle, type Row } from './bench';

const TEST = fileURLToPath(new URL('../test/dap/', import.meta.url));
const scenario = (name: string): string => join(TEST, 'scenarios', `${name}.mmu`);
const noFiles = { read: () => Promise.reject(new Error('no files here')) };
const quiet = { output: () => {} };

/** A guest table with all of its 512 entries present, mapped once and touched once. */
const FULL_TABLE = `
backing low 4M
memslot add as 0 id 0 gpa 0 size 4M host low
vcpu 0 { cr0 PG|WP|NE|ET|PE  cr3 0x10000  cr4 PAE  efer LME|LMA|NXE  idt none }
tables at 0x10000
map 0 -> 0 W count 512
load 4 [0x1000]
`;

/** A run without an end: what one slice of running gets done, and what going back costs. */
const ENDLESS = `
backing low 1M
memslot add as 0 id 0 gpa 0 size 640K host low
vcpu 0 { cr0 NE|ET|PE  idt none }
repeat forever {
  rmw 4 [0x30000] + 1
}
`;

async function roundTrip(): Promise<Row> {
  const client = new DebugClient('node', join(TEST, 'stdio.mjs'), 'mmuscope');
  await client.start();
  try {
    await client.initializeRequest();
    const initialized = client.waitForEvent('initialized');
    await client.send('launch', { program: scenario('endless'), stopOnEntry: true });
    await initialized;
    const entry = client.waitForEvent('stopped');
    await client.send('configurationDone');
    await entry;
    const samples: number[] = [];
    for (let i = 0; i < 320; i++) {
      const stopped = client.waitForEvent('stopped');
      const begin = performance.now();
      await client.nextRequest({ threadId: 1 });
      await stopped;
      if (i >= 20) samples.push(performance.now() - begin);
    }
    return { name: 'DAP next, request to stopped', unit: 'ms', ...middle(samples), budget: 20, note: 'over stdio' };
  } finally {
    await client.stop();
  }
}

async function expansion(): Promise<Row[]> {
  const target = await openTarget({ scenario: FULL_TABLE }, noFiles);
  await target.run({ kind: 'continue' }, 0, quiet);
  const tree: number[] = [];
  const page: number[] = [];
  for (let i = 0; i < 30; i++) {
    const [frame] = target.frames(0);
    const scope = target.scopes(0, frame).find((s) => s.name === 'Guest page tables');
    let node = scope?.root;
    for (let level = 0; level < 3; level++) node = node?.children?.('indexed', 0, 1)[0];
    const begin = performance.now();
    const count = node?.children?.('indexed').length;
    tree.push(performance.now() - begin);
    if (count !== 512) throw new Error(`${count} entries were expanded instead of 512`);
    const start = performance.now();
    JSON.stringify(tableBody(target.table(0, 'guest', [0, 0, 0]), 1));
    page.push(performance.now() - start);
  }
  return [
    { name: 'expand a page of 512 entries', unit: 'ms', ...middle(tree), budget: 50, note: 'variables' },
    { name: 'mmuscope/table of 512 entries', unit: 'ms', ...middle(page), budget: 50, note: 'with JSON' },
  ];
}

async function time(): Promise<Row[]> {
  const target = await openTarget({ scenario: ENDLESS }, noFiles);
  const run = target.run({ kind: 'continue' }, 0, quiet);
  const SECONDS = 2;
  await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000));
  const asked = performance.now();
  target.pause();
  await run;
  const pause = performance.now() - asked;
  const { statements } = target.position;
  const back: number[] = [];
  for (let i = 0; i < 20; i++) {
    const begin = performance.now();
    await target.run({ kind: 'stepBack' }, 0, quiet);
    back.push(performance.now() - begin);
  }
  return [
    { name: 'statements under the debugger', unit: 'per s', value: statements / SECONDS },
    { name: 'pause in an endless scenario', unit: 'ms', value: pause, budget: 100 },
    { name: 'step back', unit: 'ms', ...middle(back), note: `after ${statements.toLocaleString('en')} statements` },
  ];
}

export default async function dap(): Promise<Row[]> {
  return [await roundTrip(), ...(await expansion()), ...(await time())];
}
