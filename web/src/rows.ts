/** What a whole row, or column, of weights says, wherever a view's window is. */

import type { Sum } from "./numbers";
import type { Window } from "./questions";

export interface Strong {
  index: number;
  weight: number;
}

/** The largest weights of a row by their size, the largest first, wherever they are. */
export function strongest(row: Float32Array, count: number): Strong[] {
  const best: Strong[] = [];
  for (let index = 0; index < row.length; index++) {
    const weight = row[index];
    const size = Math.abs(weight);
    if (!(size > 0) || (best.length === count && size <= Math.abs(best[count - 1].weight))) continue;
    let at = best.length;
    while (at > 0 && Math.abs(best[at - 1].weight) < size) at--;
    best.splice(at, 0, { index, weight });
    if (best.length > count) best.pop();
  }
  return best;
}

/** The sums of a row's weights within a window and outside of it. */
export function sums(row: Float32Array, [first, end]: Window): { inside: Sum; outside: Sum } {
  const inside = { sum: 0, count: 0 };
  const outside = { sum: 0, count: 0 };
  for (let index = 0; index < row.length; index++) {
    const weight = row[index];
    if (Number.isNaN(weight)) continue;
    const of = index >= first && index < end ? inside : outside;
    of.sum += weight;
    of.count++;
  }
  return { inside, outside };
}

/**
 * Rows of cells as shares of the largest weight of their queries: `largest` of each query, `size` queries to a row, from
 * the row `first` on.
 */
export function sharesOfRows(values: Float32Array, columns: number, largest: Float32Array, first = 0, size = 1): Float32Array {
  return values.map((value, i) => {
    const row = first + Math.floor(i / columns);
    let top = 0;
    for (let t = row * size; t < Math.min(largest.length, (row + 1) * size); t++) if (largest[t] > top) top = largest[t];
    return top > 0 ? value / top : value;
  });
}

/** The largest of each row by its size. */
export function largestOfRows(values: Float32Array, columns: number): Float32Array {
  const found = new Float32Array(values.length / columns);
  for (const [i, value] of values.entries()) {
    const row = Math.floor(i / columns);
    if (Math.abs(value) > found[row]) found[row] = Math.abs(value);
  }
  return found;
}

/** How many of a row are visible. */
export function visible(row: Float32Array): number {
  let count = 0;
  for (const weight of row) if (!Number.isNaN(weight)) count++;
  return count;
}
