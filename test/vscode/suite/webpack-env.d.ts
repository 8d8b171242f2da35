/** What webpack's `import.meta.webpackContext` gives, in lazy mode. */
interface ImportMeta {
  webpackContext(
    folder: string,
    options: { recursive: boolean; regExp: RegExp; mode: 'lazy' },
  ): { (file: string): Promise<unknown>; keys(): string[] };
}
