/**
 * What a value means here and now: the session's kernel and vendor if there is one, else what the text tells and the settings say,
 * with every other layout that fits after it.
 */
import type { Explanation, ExplainOptions } from '../../words/explain';
import { explain, explanationToMarkdown } from '../../words/explain';
import { mmuWords } from '../../words/roles';
import type { TextHints } from './values';

/** The machine of a debug session. */
export interface SessionBasis {
  readonly title: string;
  readonly kernel: string;
  readonly vendor: 'intel' | 'amd';
  readonly pagingType: 'ept' | 'legacy';
  readonly hostPhysBits: number | null;
}

/** What holds without a session. */
export interface SettingsBasis {
  readonly kernel: string;
  readonly vendor: 'intel' | 'amd';
  readonly hostPhysBits: number;
}

export interface Question {
  readonly value: bigint;
  /** what the text calls the value */
  readonly name?: string | undefined;
  /** the line, and some before it */
  readonly context?: string | undefined;
  /** the user says what it is */
  readonly as?: string | undefined;
  readonly session: SessionBasis | null;
  readonly settings: SettingsBasis;
  readonly hints?: TextHints;
}

export interface Meaning {
  /** likeliest first; never empty */
  readonly explanations: readonly Explanation[];
  /** how many of them are of the basis; the rest is what other kernels would make of it */
  readonly own: number;
  /** by whose tables it was read: `v6.1, intel (session smm.mmu)` */
  readonly basis: string;
}

/** @throws WordError if the value cannot be the word that the user says it is */
export function meaningOf(question: Question): Meaning {
  const { value, session, settings, hints = {} } = question;
  const place: ExplainOptions = {
    ...(question.context === undefined ? {} : { context: question.context }),
    ...(question.name === undefined ? {} : { name: question.name }),
    ...(question.as === undefined ? {} : { as: question.as }),
  };
  if (session !== null) {
    // A trace says itself whose processor it is from; the session's is no better than that.
    const vendor = hints.vendor ?? session.vendor;
    const pagingType = hints.pagingType ?? session.pagingType;
    const machine = { kernel: session.kernel, vendor, pagingType };
    const bits = session.hostPhysBits === null ? {} : { hostPhysBits: session.hostPhysBits };
    const explanations = explain(value, { ...place, ...machine, ...bits });
    return { explanations, own: explanations.length, basis: `${session.kernel}, ${vendor} · session ${session.title}` };
  }
  const kernel = hints.kernel ?? settings.kernel;
  const vendor = hints.vendor ?? settings.vendor;
  const own = explain(value, {
    ...place,
    kernel,
    vendor,
    hostPhysBits: settings.hostPhysBits,
    ...(hints.pagingType === undefined ? {} : { pagingType: hints.pagingType }),
  });
  const seen = new Set(own.map(same));
  const others = otherReadings(value, { ...place, ...(hints.vendor === undefined ? {} : { vendor: hints.vendor }) });
  const added = others.filter((e) => !seen.has(same(e)));
  const from = [
    hints.kernel && 'file name',
    hints.vendor && 'exits of the trace',
    !(hints.kernel && hints.vendor) && 'settings',
  ];
  return {
    explanations: [...own, ...added],
    own: own.length,
    basis: `${kernel}, ${vendor} · from ${from.filter(Boolean).join(' and ')}`,
  };
}

/** Without a kernel every layout is tried. A word that only some kernels have is no error here. */
function otherReadings(value: bigint, options: ExplainOptions): readonly Explanation[] {
  try {
    return explain(value, options);
  } catch {
    return [];
  }
}

const same = (e: Explanation): string => `${e.as} ${e.summary}`;

/** Plain numbers and addresses are no meaning that anyone waits for over a text. */
const IDLE = new Set(['number', 'gva', 'gpa', 'hpa', 'hva', 'gfn', 'pfn', 'errno', 'vmx-exit', 'svm-exit', 'kvm-exit']);

/** Whether a hover is worth it: something was named, or at least one reading is of a word. */
export function worthShowing(meaning: Meaning, named: boolean): boolean {
  return named || meaning.explanations.some((e) => !IDLE.has(e.as));
}

/** The role word of a view that an explanation is of; undefined if it is of another word. */
export function roleWordFor(explanation: Explanation, kernel: string): string | undefined {
  const { words } = mmuWords(kernel);
  if (explanation.as === 'role') return words.find((w) => w.bits === 32)?.name ?? words[0]?.name;
  if (explanation.as === 'cpu_role') return words.find((w) => w.bits === 64)?.name;
  return undefined;
}

/** How many other readings a hover lists. */
const OTHERS = 5;

/** A hover's text. `links` are commands for the line at its end, as markdown. */
export function meaningMarkdown(value: bigint, meaning: Meaning, links: readonly string[]): string {
  const { explanations, basis } = meaning;
  const body = explanationToMarkdown(explanations, OTHERS);
  return [`\`0x${value.toString(16)}\` ${body}`, '---', [`*${basis}*`, ...links].join(' · ')].join('\n\n');
}
