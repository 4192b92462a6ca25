/** Suggests known names that are similar to an unknown one. */

/** Only this many characters of a name are compared. */
const LENGTH_MAX = 64;

/**
 * Returns the names of `known` that differ from `wanted` in at most a third of its characters (or in `least`
 * characters), closest first. Ignores case and underscores.
 */
export function nearest(wanted: string, known: readonly string[], least = 1): string[] {
  const limit = Math.max(least, Math.floor(Math.min(wanted.length, LENGTH_MAX) / 3));
  return known
    .map((name) => ({ name, distance: editDistance(plain(wanted), plain(name)) }))
    .filter(({ distance }) => distance <= limit)
    .sort((a, b) => a.distance - b.distance)
    .map(({ name }) => name);
}

function plain(name: string): string {
  return name.slice(0, LENGTH_MAX).toLowerCase().replaceAll("_", "");
}

/** Returns the Levenshtein distance of two names. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++) {
      const replaced = row[j]! + (a[i] === b[j] ? 0 : 1);
      next.push(Math.min(replaced, row[j + 1]! + 1, next[j]! + 1));
    }
    row = next;
  }
  return row.at(-1)!;
}
