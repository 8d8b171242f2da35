/* eslint-disable no-template-curly-in-string -- VS Code writes its variables so: ${file} */
/**
 * `contributes` of package.json, generated so that launch.json's IntelliSense, the settings and the tables of the code cannot drift
 * apart: `npx tsx scripts/contributes.ts` writes it, and a test fails when that was forgotten.
 */
import { LAUNCH_ATTRIBUTES, launchSchema } from '../adapter/launch-attributes';
import { KERNEL_ERAS } from '../words/kernels';

const CATEGORY = 'MMU Scope';
const DEBUG_TYPE = 'mmuscope';
const LANGUAGE = 'mmu';

const COMMANDS = [
  { command: 'mmuscope.decodeValue', title: 'Decode Value…', icon: '$(symbol-numeric)' },
  { command: 'mmuscope.openRoleDecoder', title: 'Open Role Decoder', icon: '$(symbol-boolean)' },
  { command: 'mmuscope.openTables', title: 'Open Tables', icon: '$(table)' },
  { command: 'mmuscope.walkAddress', title: 'Walk Address…', icon: '$(git-commit)' },
  { command: 'mmuscope.debugScenario', title: 'Debug Scenario', icon: '$(debug-alt)' },
  { command: 'mmuscope.runScenario', title: 'Run Scenario Without Debugging', icon: '$(run)' },
  { command: 'mmuscope.openExample', title: 'Open an Example…', icon: '$(beaker)' },
  { command: 'mmuscope.variable.decode', title: 'Decode Value' },
  { command: 'mmuscope.variable.showInTables', title: 'Show in Tables' },
  { command: 'mmuscope.variable.showInRoleDecoder', title: 'Show in Role Decoder' },
].map((command) => ({ ...command, category: CATEGORY }));

const inSession = `debugType == '${DEBUG_TYPE}'`;
const onScenario = `resourceLangId == ${LANGUAGE}`;

const MENUS = {
  commandPalette: [
    { command: 'mmuscope.variable.decode', when: 'false' },
    { command: 'mmuscope.variable.showInTables', when: 'false' },
    { command: 'mmuscope.variable.showInRoleDecoder', when: 'false' },
    { command: 'mmuscope.walkAddress', when: `inDebugMode && ${inSession}` },
    { command: 'mmuscope.debugScenario', when: `editorLangId == ${LANGUAGE}` },
    { command: 'mmuscope.runScenario', when: `editorLangId == ${LANGUAGE}` },
  ],
  'editor/title/run': [
    { command: 'mmuscope.debugScenario', when: onScenario, group: 'navigation@1' },
    { command: 'mmuscope.runScenario', when: onScenario, group: 'navigation@2' },
  ],
  'editor/title': [
    { command: 'mmuscope.openTables', when: `${onScenario} && inDebugMode && ${inSession}`, group: 'navigation@8' },
    {
      command: 'mmuscope.openRoleDecoder',
      when: `${onScenario} && inDebugMode && ${inSession}`,
      group: 'navigation@9',
    },
  ],
  'editor/context': [{ command: 'mmuscope.decodeValue', when: onScenario, group: 'z_commands' }],
  'debug/variables/context': variableMenu(),
  'debug/watch/context': variableMenu(),
  'debug/toolBar': [
    { command: 'mmuscope.openTables', when: inSession, group: 'navigation@90' },
    { command: 'mmuscope.openRoleDecoder', when: inSession, group: 'navigation@91' },
  ],
} as const;

function variableMenu(): readonly { command: string; when: string; group: string }[] {
  return [
    { command: 'mmuscope.variable.decode', when: inSession, group: '1_mmuscope@1' },
    { command: 'mmuscope.variable.showInTables', when: inSession, group: '1_mmuscope@2' },
    { command: 'mmuscope.variable.showInRoleDecoder', when: inSession, group: '1_mmuscope@3' },
  ];
}

const CONFIGURATION = {
  title: CATEGORY,
  properties: {
    'mmuscope.defaultKernel': {
      order: 1,
      type: 'string',
      default: 'v6.1',
      anyOf: [
        { enum: KERNEL_ERAS.map((era) => era.id), enumDescriptions: KERNEL_ERAS.map((era) => era.title) },
        { type: 'string', pattern: '^v?\\d+\\.\\d+' },
      ],
      markdownDescription:
        'Kernel by whose layouts role words and sptes are read while no debug session runs: a release (`v6.1`, `6.1.176`, `6.1.0-50-amd64`) or a patch set. In a session its own kernel counts.',
    },
    'mmuscope.defaultVendor': {
      order: 2,
      type: 'string',
      default: 'intel',
      enum: ['intel', 'amd'],
      enumDescriptions: ['Intel: EPT, VMX exit qualifications', 'AMD: NPT, EXITINFO1'],
      markdownDescription:
        'Vendor of the host processor by which sptes and exit codes are read while no debug session runs.',
    },
    'mmuscope.defaultHostPhysicalBits': {
      order: 3,
      type: 'integer',
      default: 46,
      minimum: 32,
      maximum: 52,
      markdownDescription:
        'Physical address bits of the host (MAXPHYADDR, the first number of `address sizes` in `/proc/cpuinfo`) while no debug session runs. It decides which bits of an spte are reserved, and so where KVM keeps the gfn of cached MMIO.',
    },
    'mmuscope.hover.values': {
      order: 4,
      type: 'string',
      default: 'words',
      enum: ['words', 'all', 'off'],
      enumDescriptions: [
        'Values that look like words: named so (`spte`, `role`, `error_code`, `cr4` …), or of eight digits and more',
        'Every hexadecimal number',
        'No hovers',
      ],
      markdownDescription: 'Which hexadecimal values are decoded when the pointer rests on them.',
    },
    'mmuscope.hover.languages': {
      order: 5,
      type: 'array',
      items: { type: 'string' },
      uniqueItems: true,
      default: ['*'],
      markdownDescription:
        'Languages in which values are decoded on hover, by identifier (`plaintext`, `log`, `c`, `diff`, `mmu` …); `*` is all of them.',
    },
  },
} as const;

const SNIPPETS = [
  {
    label: 'MMU Scope: Debug a scenario',
    description: 'Debugs a .mmu scenario; stops at its end, so that you can step back from there',
    body: {
      type: DEBUG_TYPE,
      request: 'launch',
      name: '${1:Debug scenario}',
      program: '^"\\${workspaceFolder}/${2:scenario.mmu}"',
    },
  },
  {
    label: 'MMU Scope: Debug the open scenario',
    description: 'Debugs the .mmu file of the active editor, from its first statement',
    body: {
      type: DEBUG_TYPE,
      request: 'launch',
      name: 'Debug the open scenario',
      program: '^"\\${file}"',
      stopOnEntry: true,
    },
  },
  {
    label: 'MMU Scope: Trace a scenario',
    description: 'Runs a scenario and prints the events of KVM’s MMU in the debug console',
    body: {
      type: DEBUG_TYPE,
      request: 'launch',
      name: '${1:Trace scenario}',
      program: '^"\\${workspaceFolder}/${2:scenario.mmu}"',
      trace: ['${3:kvm_mmu_set_spte}'],
    },
  },
  {
    label: 'MMU Scope: Compare kernels',
    description: 'Debugs a scenario under another kernel than the one that it names',
    body: {
      type: DEBUG_TYPE,
      request: 'launch',
      name: '${1:Scenario under v5.10}',
      program: '^"\\${workspaceFolder}/${2:scenario.mmu}"',
      kernel: '${3:v5.10}',
    },
  },
] as const;

const WALKTHROUGH = {
  id: 'start',
  title: 'Get started with MMU Scope',
  description: 'See what the processor and KVM see: guest page tables, EPT and NPT, role words, cached MMIO sptes.',
  when: 'true',
  steps: [
    {
      id: 'debug',
      title: 'Debug a scenario',
      description:
        'A scenario is a machine, its memslots, and what guest and user space do, one statement a line. Open one, set a breakpoint in the margin, and press F5.\n[Open an example](command:mmuscope.openExample)\nStep into a statement: first you stop at each table entry that the processor reads, then in each KVM function that handles the exit. Stepping goes backwards too.',
      media: { markdown: 'media/walkthrough/debug.md' },
      completionEvents: ['onContext:mmuscope.hasDebugged'],
    },
    {
      id: 'decode',
      title: 'Decode any word',
      description:
        'Rest the pointer on an spte, a role word or an error code: in a trace, a log, a patch, the debug console. Or paste one.\n[Decode a value](command:mmuscope.decodeValue)\nWithout a session the layouts of your default kernel are used.\n[Choose the kernel](command:workbench.action.openSettings?%5B%22mmuscope.default%22%5D)',
      media: { markdown: 'media/walkthrough/decode.md' },
      completionEvents: ['onCommand:mmuscope.decodeValue'],
    },
    {
      id: 'look',
      title: 'Look at roles and tables',
      description:
        'The Role Decoder puts cpu_role and root_role side by side and says where each bit comes from. Turn a register over and see which roles follow.\n[Open the Role Decoder](command:mmuscope.openRoleDecoder)\nThe tables view shows a page of 512 entries at a time and follows your stops.\n[Open the tables](command:mmuscope.openTables)',
      media: { markdown: 'media/walkthrough/look.md' },
      completionEvents: ['onCommand:mmuscope.openRoleDecoder', 'onCommand:mmuscope.openTables'],
    },
  ],
};

/** The whole of `contributes`. */
export function contributes(): Record<string, unknown> {
  return {
    languages: [
      {
        id: LANGUAGE,
        aliases: ['MMU Scenario', 'mmu'],
        extensions: ['.mmu'],
        configuration: './language-configuration.json',
        icon: { light: './media/mmu-file.svg', dark: './media/mmu-file.svg' },
      },
    ],
    grammars: [{ language: LANGUAGE, scopeName: 'source.mmu', path: './syntaxes/mmu.tmLanguage.json' }],
    breakpoints: [{ language: LANGUAGE }],
    debuggers: [
      {
        type: DEBUG_TYPE,
        label: 'MMU Scope',
        languages: [LANGUAGE],
        configurationAttributes: { launch: launchSchema() },
        initialConfigurations: [
          { type: DEBUG_TYPE, request: 'launch', name: 'Debug the open scenario', program: '${file}' },
        ],
        configurationSnippets: SNIPPETS,
        strings: {
          unverifiedBreakpoints: 'Breakpoints are set when the scenario has been read and checked.',
        },
      },
    ],
    commands: COMMANDS,
    menus: MENUS,
    configuration: CONFIGURATION,
    walkthroughs: [WALKTHROUGH],
  };
}

/** The rest of package.json that the extension is responsible for. */
export const MANIFEST = {
  activationEvents: [
    'onDebugResolve:mmuscope',
    'onDebugInitialConfigurations',
    'onDebugDynamicConfigurations:mmuscope',
    'onWebviewPanel:mmuscope.roleDecoder',
    'onWebviewPanel:mmuscope.tables',
    'onStartupFinished',
  ],
  capabilities: {
    untrustedWorkspaces: {
      supported: true,
      description:
        'Scenarios run in a simulator inside the extension: nothing of the workspace is executed on this machine.',
    },
    virtualWorkspaces: {
      supported: true,
      description: 'Scenarios, hovers and views work on any file system; only the command line needs files on disk.',
    },
  },
  icon: 'media/icon.png',
  galleryBanner: { color: '#14202e', theme: 'dark' },
} as const;

/** Names of the launch attributes, for tests that look for them in the manifest. */
export const ATTRIBUTE_NAMES: readonly string[] = LAUNCH_ATTRIBUTES.map((a) => a.name);
