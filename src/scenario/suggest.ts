/** Finding what somebody meant to type, for messages that name the mistake and its remedy. */

/** Edit distance with swapped neighbours as one edit (optimal string alignment). */
function distance(a: string, b: string): number {
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

/** The legal word nearest to `word`, or null when none is near (more than a third of its letters differ). Ignores case, `-` and `_`. */
export function nearest(word: string, legal: Iterable<string>): string | null {
  const plain = (s: string): string => s.toLowerCase().replace(/[-_.]/g, '');
  const wanted = plain(word);
  let best: string | null = null;
  let bestDistance = Math.max(1, Math.floor(wanted.length / 3)) + 1;
  for (const candidate of legal) {
    const legalPlain = plain(candidate);
    // A beginning is likelier than a misspelling of something else.
    const d =
      wanted.length >= 2 && legalPlain !== wanted && legalPlain.startsWith(wanted) ? 0.5 : distance(wanted, legalPlain);
    if (d < bestDistance) [best, bestDistance] = [candidate, d];
  }
  return best;
}

/** `a, b or c`. */
export function orList(words: readonly string[]): string {
  if (words.length <= 1) return words[0] ?? '';
  return `${words.slice(0, -1).join(', ')} or ${words[words.length - 1]}`;
}

/** What to write instead of an unknown word: the near one if there is one, else (or also, when the list is short) all legal words. */
export function remedy(word: string, legal: readonly string[]): string {
  const near = nearest(word, legal);
  const list = legal.length <= 24 || near === null ? `; it can be ${orList(legal)}` : '';
  return near === null ? list : `; did you mean '${near}'?${list === '' ? '' : ` It can be ${orList(legal)}`}`;
}
