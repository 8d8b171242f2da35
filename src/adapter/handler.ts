/**
 * What a request handler is: the shape of its arguments, the capability that announces it, and the function. One table
 * entry holds all three, so that nothing is announced that is not there and nothing unchecked reaches the function.
 */
import type { DebugProtocol } from '@vscode/debugprotocol';
import { TargetError } from '../targets/target';
import type { Context } from './context';

/** Types of arguments; `?` marks optional ones. */
type ArgumentType = 'string' | 'integer' | 'boolean' | 'array' | 'object';
export type Shape = Readonly<Record<string, ArgumentType | `${ArgumentType}?`>>;

export interface RequestHandler {
  readonly shape: Shape;
  readonly capabilities: DebugProtocol.Capabilities;
  run(context: Context, args: unknown): unknown;
}

/**
 * Makes a handler.
 * @param shape arguments that must (or may) be there, with their types; more are let through, as the protocol wants it
 * @param run answers with the body of the response; throws TargetError for an error that the user should read
 */
export function handler<A>(
  shape: Shape,
  run: (context: Context, args: A) => unknown,
  capabilities: DebugProtocol.Capabilities = {},
): RequestHandler {
  return { shape, capabilities, run: (context, args) => run(context, args as A) };
}

/** Largest integer that the protocol's references and counts may be. */
const MAX_INTEGER = 2 ** 31 - 1;

function fits(value: unknown, type: ArgumentType): boolean {
  switch (type) {
    case 'integer':
      return typeof value === 'number' && Number.isInteger(value) && Math.abs(value) <= Number.MAX_SAFE_INTEGER;
    case 'array':
      return Array.isArray(value);
    case 'object':
      return typeof value === 'object' && value !== null && !Array.isArray(value);
    case 'string':
    case 'boolean':
      return typeof value === type;
  }
}

/** Checks a request's arguments. @returns them as an object. @throws TargetError that names the argument. */
export function checkArguments(command: string, shape: Shape, given: unknown): Record<string, unknown> {
  if (given !== undefined && given !== null && !fits(given, 'object')) {
    throw new TargetError(`${command}: the arguments must be an object`);
  }
  const args = { ...(given as Record<string, unknown> | null | undefined) };
  for (const [name, declared] of Object.entries(shape)) {
    const optional = declared.endsWith('?');
    const type = declared.replace('?', '') as ArgumentType;
    if (optional && (args[name] === undefined || args[name] === null)) {
      delete args[name];
      continue;
    }
    if (!fits(args[name], type)) {
      const article = /^[aeio]/.test(type) ? 'an' : 'a';
      throw new TargetError(`${command}: argument '${name}' must be ${article} ${type}`);
    }
  }
  return args;
}

/** A count argument within bounds. */
export function bounded(value: number | undefined, fallback: number, max = MAX_INTEGER): number {
  return Math.min(Math.max(value ?? fallback, 0), max);
}
