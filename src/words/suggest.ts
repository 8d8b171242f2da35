/** Finding what somebody meant to type, for messages that name the mistake and its remedy. */

/** Edit distance with swapped neighbours as one edit (optimal string alignment); anything above `limit` is as good. */
function distance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) > limit) return limit + 1;
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        row[j] = Math.min(row[j], before[j - 2] + 1);
    }
    before = last;
    last = row;
  }
  return last[b.length];
}

/**
 * Distance, but a beginning is likelier than a misspelling of something else, and a part left out at either end
 * (tdp_page_fault for kvm_tdp_page_fault) counts as about one mistake.
 */
function nearness(wanted: string, candidate: string, limit: number): number {
  if (wanted.length >= 2 && candidate !== wanted && candidate.startsWith(wanted)) return 0.5;
  const extra = Math.abs(wanted.length - candidate.length);
  const contained =
    Math.min(wanted.length, candidate.length) >= 4 && (candidate.includes(wanted) || wanted.includes(candidate));
  const d = distance(wanted, candidate, limit);
  return contained ? Math.min(d, 1 + extra / 10) : d;
}

/**
 * The legal word that `word` most likely was meant to be, or undefined when none is near (more than a third of its
 * letters differ). Case, blanks and the separators `-`, `_`, `.` do not count as mistakes.
 */
export function nearest(word: string, legal: Iterable<string>): string | undefined {
  const plain = (s: string): string => s.toLowerCase().replace(/[-_.\s]/g, '');
  const wanted = plain(word);
  if (wanted === '') return undefined;
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(wanted.length / 3)) + 1;
  for (const candidate of legal) {
    const d = nearness(wanted, plain(candidate), bestDistance);
    if (d < bestDistance) [best, bestDistance] = [candidate, d];
  }
  return best;
}

/** `; did you mean 'x'?` or nothing, to end a message with. */
export function suggestion(word: string, legal: Iterable<string>): string {
  const near = nearest(word, legal);
  return near === undefined ? '' : `; did you mean '${near}'?`;
}

/** `a, b or c`. */
export function orList(words: readonly string[]): string {
  if (words.length <= 1) return words[0] ?? '';
  return `${words.slice(0, -1).join(', ')} or ${words[words.length - 1]}`;
}

/** What to write instead of an unknown word: the near one if there is one, else (or also, when the list is short) all legal words. */
export function remedy(word: string, legal: readonly string[]): string {
  const near = suggestion(word, legal);
  if (near === '') return `; it can be ${orList(legal)}`;
  return legal.length <= 24 ? `${near} It can be ${orList(legal)}` : near;
}
