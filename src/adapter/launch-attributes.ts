/**
 * The attributes of a launch configuration, as one table. package.json's `configurationAttributes` and the defaults of
 * new configurations are generated from it, the debug adapter checks its launch request with it, docs list it.
 */
import { EVENTS } from '../targets/event-info';
import { TargetError } from '../targets/target';
import { suggestion } from '../words/suggest';
import { KERNEL_ERAS, parseKernel } from '../words/kernels';

/** A JSON Schema as far as VS Code uses it for launch configurations. */
export interface AttributeSchema {
  readonly type: 'string' | 'boolean' | 'integer' | 'array';
  readonly enum?: readonly string[];
  readonly enumDescriptions?: readonly string[];
  readonly items?: {
    readonly type: 'string';
    readonly enum?: readonly string[];
    readonly enumDescriptions?: readonly string[];
  };
  /** values to offer beside any other legal one */
  readonly examples?: readonly string[];
  readonly minimum?: number;
  readonly default?: unknown;
}

export interface LaunchAttribute extends AttributeSchema {
  readonly name: string;
  readonly markdownDescription: string;
  /** what is wrong with a value of the right type; null if nothing */
  readonly check?: (value: never) => string | null;
}

/** What the launch request carries, checked. */
export interface LaunchArguments {
  readonly program?: string;
  readonly scenario?: string;
  readonly stopOnEntry: boolean;
  readonly stopAtEnd: boolean;
  readonly stopAtEvent?: number;
  readonly kernel?: string;
  readonly vendor?: 'intel' | 'amd';
  readonly trace: readonly string[];
  /** run without stopping anywhere (VS Code's Run Without Debugging) */
  readonly noDebug: boolean;
}

const EVENT_NAMES = [...EVENTS.keys()];

export const LAUNCH_ATTRIBUTES: readonly LaunchAttribute[] = [
  {
    name: 'program',
    type: 'string',
    // A variable of launch.json, filled in by VS Code.
    // eslint-disable-next-line no-template-curly-in-string
    default: '${file}',
    markdownDescription: 'The scenario to debug: path of a `.mmu` file.',
  },
  {
    name: 'scenario',
    type: 'string',
    markdownDescription: 'The text of a scenario, in place of `program`.',
  },
  {
    name: 'stopOnEntry',
    type: 'boolean',
    default: false,
    markdownDescription: 'Stop before the first statement.',
  },
  {
    name: 'stopAtEnd',
    type: 'boolean',
    default: true,
    markdownDescription:
      'Stop after the last statement, to look at the end state and to go back from there. Without it the session ends there.',
  },
  {
    name: 'stopAtEvent',
    type: 'integer',
    minimum: 0,
    markdownDescription:
      'Stop where the event of this number happens (the first event is 0), as the timeline and `mmuscope run` count them.',
  },
  {
    name: 'kernel',
    type: 'string',
    examples: KERNEL_ERAS.map((era) => era.id),
    markdownDescription:
      'Model this kernel instead of the one that the scenario names: a release such as `v6.1`, or a patch set.',
    check: (value: string) => {
      try {
        parseKernel(value);
        return null;
      } catch (error) {
        return (error as Error).message;
      }
    },
  },
  {
    name: 'vendor',
    type: 'string',
    enum: ['intel', 'amd'],
    enumDescriptions: ['EPT and VMX', 'NPT and SVM'],
    markdownDescription: 'Model this processor vendor instead of the one that the scenario names.',
  },
  {
    name: 'trace',
    type: 'array',
    items: {
      type: 'string',
      enum: ['all', ...EVENT_NAMES],
      enumDescriptions: ['Every event.', ...[...EVENTS.values()].map((e) => e.meaning)],
    },
    default: [],
    markdownDescription:
      'Events to print in the debug console as they happen: `all`, or kinds such as `kvm_mmu_set_spte`.',
  },
];

/** Attributes that VS Code itself puts into every configuration. */
const COMMON = new Set([
  ...['type', 'request', 'name', 'noDebug', 'presentation', 'preLaunchTask', 'postDebugTask', 'internalConsoleOptions'],
  ...[
    'debugServer',
    'serverReadyAction',
    'windows',
    'osx',
    'linux',
    'suppressMultipleSessionWarning',
    'order',
    'restart',
  ],
  ...['autoExpandLazyVariables', 'cascadeTerminateToConfigurations', 'env', 'console'],
]);

function wrong(name: string, value: unknown, expected: string): TargetError {
  const text = JSON.stringify(value) ?? String(value);
  const shown = text.length > 60 ? `${text.slice(0, 57)}...` : text;
  return new TargetError(`launch attribute '${name}' cannot be ${shown}: ${expected}`);
}

function checkType(attribute: LaunchAttribute, value: unknown): void {
  const { name } = attribute;
  switch (attribute.type) {
    case 'boolean':
      if (typeof value !== 'boolean') throw wrong(name, value, 'it must be true or false');
      return;
    case 'integer':
      if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < (attribute.minimum ?? -Infinity)) {
        throw wrong(name, value, `it must be a whole number from ${attribute.minimum ?? 'any'} up`);
      }
      return;
    case 'string':
      if (typeof value !== 'string') throw wrong(name, value, 'it must be text');
      checkEnum(name, value, attribute.enum);
      return;
    case 'array':
      if (!Array.isArray(value)) throw wrong(name, value, 'it must be a list such as ["kvm_mmu_set_spte"]');
      for (const item of value as unknown[]) {
        if (typeof item !== 'string') throw wrong(name, item, 'it must be a list of names');
        checkEnum(name, item, attribute.items?.enum);
      }
  }
}

function checkEnum(name: string, value: string, legal: readonly string[] | undefined): void {
  if (!legal || legal.includes(value)) return;
  throw wrong(name, value, `it must be one of ${legal.join(', ')}${suggestion(value, legal)}`);
}

/**
 * Checks the arguments of a launch request and fills in the defaults.
 * @throws TargetError that names the attribute and its legal values
 */
export function checkLaunch(given: unknown): LaunchArguments {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new TargetError("the launch request has no arguments: it needs 'program', the path of a .mmu file");
  }
  const args = given as Record<string, unknown>;
  const names = LAUNCH_ATTRIBUTES.map((a) => a.name);
  for (const name of Object.keys(args)) {
    if (names.includes(name) || COMMON.has(name) || name.startsWith('__')) continue;
    throw new TargetError(
      `launch attribute '${name}' is not known: the attributes are ${names.join(', ')}${suggestion(name, names)}`,
    );
  }
  const checked: Record<string, unknown> = { noDebug: args['noDebug'] === true };
  for (const attribute of LAUNCH_ATTRIBUTES) {
    const value = args[attribute.name];
    if (value === undefined || value === null) {
      if (attribute.name !== 'program') checked[attribute.name] = attribute.default;
      continue;
    }
    checkType(attribute, value);
    const complaint = attribute.check?.(value as never);
    if (complaint) throw wrong(attribute.name, value, complaint);
    checked[attribute.name] = value;
  }
  const result = checked as unknown as LaunchArguments;
  if (result.program === undefined && result.scenario === undefined) {
    throw new TargetError(
      "launch attribute 'program' is missing: name the .mmu file to debug, or give its text as 'scenario'",
    );
  }
  if (result.program !== undefined && result.scenario !== undefined) {
    throw new TargetError("launch attributes 'program' and 'scenario' exclude each other: leave one of them out");
  }
  return result;
}

/** `configurationAttributes.launch` of package.json. */
export function launchSchema(): { required: string[]; properties: Record<string, unknown> } {
  const properties = LAUNCH_ATTRIBUTES.map(({ name, check: _, ...schema }) => [name, schema]);
  return { required: [], properties: Object.fromEntries(properties) as Record<string, unknown> };
}
