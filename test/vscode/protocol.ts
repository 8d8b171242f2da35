/**
 * What the harness (a Node process outside VS Code) and the extension host say to each other: JSON over HTTP on the
 * loopback address named by MMUSCOPE_HARNESS in the environment. The extension host asks `POST /next` for work, does
 * it, answers with `POST /done`, and asks again; while it works it may ask favours with `POST /ask`.
 */

/** Names the harness's address in the environment of VS Code's server. */
export const HARNESS_VARIABLE = 'MMUSCOPE_HARNESS';

/** Work for the extension host. */
export type Job =
  | { readonly id: number; readonly kind: 'tests'; readonly grep?: string | undefined }
  | { readonly id: number; readonly kind: 'call'; readonly code: string; readonly args: unknown }
  | { readonly id: number; readonly kind: 'end' };

/** How a job ended. */
export interface JobResult {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

/** One test of the suite that ran inside the extension host. */
export interface TestRecord {
  readonly title: string;
  readonly state: 'passed' | 'failed' | 'pending';
  readonly milliseconds: number;
  readonly error?: string;
}

/** The outcome of the suite that ran inside the extension host. */
export interface SuiteReport {
  readonly tests: readonly TestRecord[];
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** Favours that only the outside can do: it holds the browser. */
export type Favour =
  | { readonly what: 'screenshot'; readonly name: string }
  | { readonly what: 'frameText'; readonly selector: string; readonly containing?: string; readonly timeout?: number }
  | { readonly what: 'press'; readonly keys: string }
  | { readonly what: 'click'; readonly selector: string; readonly inFrame?: boolean }
  | { readonly what: 'theme'; readonly theme: Theme };

export type Theme = 'light' | 'dark' | 'highContrast' | 'highContrastLight';

/** VS Code's own themes by name. */
export const THEMES: Readonly<Record<Theme, string>> = {
  light: 'Light 2026',
  dark: 'Dark 2026',
  highContrast: 'Default High Contrast',
  highContrastLight: 'Default High Contrast Light',
};
