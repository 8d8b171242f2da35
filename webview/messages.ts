/**
 * What the extension and its webviews say to each other. Every message has a `type` out of the constants below; bodies are the plain
 * JSON of the debug session's custom requests, passed on as they are.
 *
 * A view starts by sending `ready`. What it must survive a reload with, it keeps through setState; VS Code hands that back to
 * the webview and to the extension's panel serializer.
 */
import type { RolesBody, RootsBody, TableBody, WhyView } from '../src/adapter/protocol';

/** View types: names of the panels, in package.json's activation events too. */
export const VIEW_TYPES = { roles: 'mmuscope.roleDecoder', tables: 'mmuscope.tables' } as const;

/** Names of the messages from the extension to a view. */
export const TO_VIEW = {
  session: 'session',
  roles: 'roles',
  showWord: 'showWord',
  roots: 'roots',
  table: 'table',
  why: 'why',
  goTo: 'goTo',
  failed: 'failed',
} as const;

/** Names of the messages from a view to the extension. */
export const FROM_VIEW = {
  ready: 'ready',
  selectThread: 'selectThread',
  table: 'table',
  copy: 'copy',
  decode: 'decode',
  openMemory: 'openMemory',
} as const;

/** What a view needs to know of the debug session that it follows. */
export interface SessionInfo {
  readonly id: string;
  /** name of the launch configuration */
  readonly name: string;
  /** what is debugged: a file path or a description */
  readonly title: string;
  readonly kernel: string;
  readonly vendor: 'intel' | 'amd';
  readonly paging: string;
  /** false while it runs: what is shown is of the last stop */
  readonly stopped: boolean;
  /** counts stops, so that a view can tell an old answer from a new one */
  readonly stop: number;
  /** why it stopped, one line; null before the first stop */
  readonly reason: string | null;
  readonly threadId: number;
  readonly threads: readonly ThreadInfo[];
}

/** A vCPU as far as the views need it; null is unknown. */
export interface ThreadInfo {
  /** DAP thread id */
  readonly id: number;
  readonly name: string;
  readonly smm: boolean | null;
  readonly guestMode: boolean | null;
}

/** Session or, between sessions, null. `defaults` are the settings that hold then. */
export interface SessionMessage {
  readonly type: typeof TO_VIEW.session;
  readonly session: SessionInfo | null;
  readonly defaults: { readonly kernel: string; readonly vendor: 'intel' | 'amd' };
}
/** The role words at a stop. */
export interface RolesMessage {
  readonly type: typeof TO_VIEW.roles;
  readonly stop: number;
  readonly body: RolesBody;
}
/** A word that the user wants to see: from a hover, the palette, a variable. */
export interface ShowWordMessage {
  readonly type: typeof TO_VIEW.showWord;
  /** root_role, cpu_role …; undefined: the first word that it fits */
  readonly word?: string;
  readonly value: string;
  readonly kernel?: string;
}
/** Trees to browse at a stop. */
export interface RootsMessage {
  readonly type: typeof TO_VIEW.roots;
  readonly stop: number;
  readonly body: RootsBody;
}
/** One page of a table. */
export interface TableMessage {
  readonly type: typeof TO_VIEW.table;
  readonly stop: number;
  /** of the request that it answers */
  readonly request: number;
  readonly body: TableBody;
}
/** What was walked before the stop; null if the stop has no walk. Comes before the roots of the same stop. */
export interface WhyMessage {
  readonly type: typeof TO_VIEW.why;
  readonly stop: number;
  readonly why: WhyView | null;
}
/** The user asked, from outside the view, to look at an address. */
export interface GoToMessage {
  readonly type: typeof TO_VIEW.goTo;
  readonly address: string;
  /** which tree; undefined: the one that is open */
  readonly kind?: 'guest' | 'second';
}
/** A request failed: one sentence. */
export interface FailedMessage {
  readonly type: typeof TO_VIEW.failed;
  readonly request: number | null;
  readonly message: string;
}

export type ToRolesView = SessionMessage | RolesMessage | ShowWordMessage | FailedMessage;
export type ToTablesView = SessionMessage | RootsMessage | TableMessage | WhyMessage | GoToMessage | FailedMessage;

export interface ReadyMessage {
  readonly type: typeof FROM_VIEW.ready;
}
export interface SelectThreadMessage {
  readonly type: typeof FROM_VIEW.selectThread;
  readonly threadId: number;
}
/** Wants a page: by path, or by address as far down as tables go. */
export interface TableRequestMessage {
  readonly type: typeof FROM_VIEW.table;
  readonly request: number;
  readonly threadId: number;
  readonly root?: string;
  readonly path?: readonly number[];
  readonly address?: string;
  readonly level?: number;
}
export interface CopyMessage {
  readonly type: typeof FROM_VIEW.copy;
  readonly text: string;
}
/** Wants *Decode Value…* for a word. */
export interface DecodeMessage {
  readonly type: typeof FROM_VIEW.decode;
  readonly value: string;
  readonly as?: string;
}
/** Wants VS Code's memory view of a place. */
export interface OpenMemoryMessage {
  readonly type: typeof FROM_VIEW.openMemory;
  readonly memoryReference: string;
}

export type FromRolesView = ReadyMessage | SelectThreadMessage | CopyMessage | DecodeMessage;
export type FromTablesView =
  ReadyMessage | SelectThreadMessage | TableRequestMessage | CopyMessage | DecodeMessage | OpenMemoryMessage;
