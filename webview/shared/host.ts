/** The webview's end of the messages: VS Code's API, typed. */

/** What VS Code gives to a webview. */
interface VsCodeApi {
  postMessage(message: unknown): void;
  getState(): unknown;
  setState(state: unknown): void;
}

declare function acquireVsCodeApi(): VsCodeApi;

/** Sends, listens, and keeps state over a reload of the window. */
export interface Host<ToView, FromView, State> {
  send(message: FromView): void;
  listen(listener: (message: ToView) => void): void;
  /** What `save` kept before the reload; undefined the first time, and whenever `version` is not the one that saved it. */
  restore(): State | undefined;
  save(state: State): void;
}

/** Connects to VS Code. Once a page: VS Code hands its API out only once. */
export function connect<ToView, FromView, State extends object>(version: number): Host<ToView, FromView, State> {
  const api = acquireVsCodeApi();
  return {
    send: (message) => api.postMessage(message),
    listen: (listener) => window.addEventListener('message', (event: MessageEvent<ToView>) => listener(event.data)),
    restore: () => {
      const kept = api.getState() as (State & { version?: number }) | null | undefined;
      return kept?.version === version ? kept : undefined;
    },
    save: (state) => api.setState({ ...state, version }),
  };
}
