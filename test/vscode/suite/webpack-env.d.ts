/** What webpack's `import.meta.webpackContext` gives, in eager mode: bundled in one file, run when asked for. */
interface ImportMeta {
  webpackContext(
    folder: string,
    options: { recursive: boolean; regExp: RegExp; mode: 'eager' },
  ): { (file: string): Promise<unknown>; keys(): string[] };
}
