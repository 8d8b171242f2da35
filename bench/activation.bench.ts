import { openWorkbench } from '../test/vscode/harness';
import { middle, type Row } from './bench';

const WINDOWS = 3;

/** From asking the extension to activate until it has, in a window of its own each time; nothing of it is loaded yet. */
export default async function activation(): Promise<Row[]> {
  const samples: number[] = [];
  for (let i = 0; i < WINDOWS; i++) {
    const workbench = await openWorkbench();
    try {
      const [wasActive, ms] = await workbench.host(async (vscode) => {
        const extension = vscode.extensions.getExtension('mmuscope.mmuscope');
        const active = extension?.isActive ?? true;
        const start = performance.now();
        await extension?.activate();
        return [active, performance.now() - start] as const;
      });
      if (wasActive) throw new Error('The extension was active in an empty window before it was asked.');
      samples.push(ms);
    } finally {
      await workbench.close();
    }
  }
  return [{ name: 'activation', unit: 'ms', ...middle(samples), note: `median of ${WINDOWS} windows` }];
}
