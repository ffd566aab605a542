/** Rows of maps as matrices, and what is made of them: keys left out, words, differences, several heads as one. */

import type { Reduce } from "../description";
import type { Cells } from "../source/math";
import type { Sides } from "../source/source";

/** Weights of some queries on all keys, (rows, columns); NaN: not visible. */
export interface Matrix {
  rows: number;
  columns: number;
  values: Float32Array;
}

/**
 * Rows, of queries from `first` on, whose keys are left out, and some of which are; and what that took of the other rows
 * that see anything: its sum, and of how many.
 */
export function without(
  of: Matrix,
  keys: ReadonlySet<number>,
  queries: ReadonlySet<number>,
  again: boolean,
  first = 0,
): { matrix: Matrix; left: { sum: number; count: number } } {
  const { rows, columns } = of;
  const values = of.values.slice();
  const left = { sum: 0, count: 0 };
  for (let t = 0; t < rows; t++) {
    const row = values.subarray(t * columns, (t + 1) * columns);
    if (queries.has(first + t)) {
      row.fill(Number.NaN);
      continue;
    }
    let [rest, seen] = [0, false];
    for (let s = 0; s < columns; s++) {
      if (Number.isNaN(row[s])) continue;
      seen = true;
      if (keys.has(s)) {
        left.sum += row[s];
        row[s] = Number.NaN;
      } else rest += row[s];
    }
    if (seen) left.count++;
    if (!again) continue;
    // A rest of 0 has no shares: the row is blank.
    for (let s = 0; s < columns; s++) row[s] = rest > 0 ? row[s] / rest : Number.NaN;
  }
  return { matrix: { rows, columns, values }, left };
}

/** Runs of queries and of keys as one: the sum over the keys, the mean over the queries that see anything. */
export function merged(of: Matrix, queries: readonly number[], keys: readonly number[]): Matrix {
  const rows = queries.length - 1;
  const columns = keys.length - 1;
  const values = new Float32Array(rows * columns).fill(Number.NaN);
  const sums = new Float64Array(columns);
  const seen = new Uint8Array(columns);
  for (let a = 0; a < rows; a++) {
    sums.fill(0);
    seen.fill(0);
    let counted = 0;
    for (let t = queries[a]; t < queries[a + 1]; t++) {
      let any = false;
      for (let b = 0; b < columns; b++) {
        for (let s = keys[b]; s < keys[b + 1]; s++) {
          const weight = of.values[t * of.columns + s];
          if (Number.isNaN(weight)) continue;
          any = true;
          seen[b] = 1;
          sums[b] += weight;
        }
      }
      if (any) counted++;
    }
    for (let b = 0; b < columns; b++) if (seen[b]) values[a * columns + b] = sums[b] / counted;
  }
  return { rows, columns, values };
}

/** A - B; what one side alone sees has weight 0 on the other. */
export function difference(a: Matrix, b: Matrix): Matrix {
  const values = a.values.map((weight, i) => {
    const other = b.values[i];
    if (Number.isNaN(weight) && Number.isNaN(other)) return Number.NaN;
    return (Number.isNaN(weight) ? 0 : weight) - (Number.isNaN(other) ? 0 : other);
  });
  return { ...a, values };
}

/** The mean or the largest of several heads; what one does not see is 0 there. */
export function together(all: readonly Matrix[], how: "mean" | "max"): Matrix {
  const values = new Float32Array(all[0].values.length);
  for (let i = 0; i < values.length; i++) {
    let [sum, most, seen] = [0, Number.NEGATIVE_INFINITY, false];
    for (const one of all) {
      const weight = one.values[i];
      if (Number.isNaN(weight)) continue;
      seen = true;
      sum += weight;
      most = Math.max(most, weight);
    }
    values[i] = !seen ? Number.NaN : how === "mean" ? sum / all.length : most;
  }
  return { ...all[0], values };
}

/** What stands at the sides of a map, as its rows come in; what is signed has no entropy, and the largest is by size. */
export class SideSums {
  private readonly sums: Float64Array;
  private readonly counts: Float64Array;
  private readonly entropy: Float32Array;
  private readonly largest: Float32Array;

  constructor(
    queries: number,
    keys: number,
    private readonly signed: boolean,
  ) {
    this.sums = new Float64Array(keys);
    this.counts = new Float64Array(keys);
    this.entropy = new Float32Array(queries).fill(Number.NaN);
    this.largest = new Float32Array(queries).fill(Number.NaN);
  }

  /** Takes in the rows from `first` on. */
  add({ rows, columns, values }: Matrix, first: number): void {
    for (let t = 0; t < rows; t++) {
      let [seen, nats, most] = [false, 0, 0];
      for (let s = 0; s < columns; s++) {
        const weight = values[t * columns + s];
        if (Number.isNaN(weight)) continue;
        seen = true;
        this.sums[s] += weight;
        this.counts[s]++;
        if (weight > 0) nats -= weight * Math.log(weight);
        most = Math.max(most, Math.abs(weight));
      }
      if (!seen) continue;
      if (!this.signed) this.entropy[first + t] = nats;
      this.largest[first + t] = most;
    }
  }

  made(): Sides {
    const received = Float32Array.from(this.sums, (sum, s) => (this.counts[s] > 0 ? sum / this.counts[s] : Number.NaN));
    return { received, entropy: this.entropy, largest: this.largest };
  }
}

/**
 * Cells of a grid over a matrix: `max` is the one farthest from 0, `mass` the sum over keys, the mean over queries that see
 * anything.
 */
export function cellsOf(of: Matrix, size: number, from: { row: number; column: number }, rows: number, columns: number, how: Reduce): Cells {
  const values = new Float32Array(rows * columns).fill(Number.NaN);
  const counts = new Float64Array(rows);
  for (let r = 0; r < rows; r++) {
    const [top, bottom] = [(from.row + r) * size, Math.min(of.rows, (from.row + r + 1) * size)];
    for (let t = top; t < bottom; t++) {
      for (let s = 0; s < of.columns; s++) {
        if (Number.isNaN(of.values[t * of.columns + s])) continue;
        counts[r]++;
        break;
      }
    }
    for (let c = 0; c < columns; c++) {
      let found = Number.NaN;
      const [left, right] = [(from.column + c) * size, Math.min(of.columns, (from.column + c + 1) * size)];
      for (let t = top; t < bottom; t++) {
        for (let s = left; s < right; s++) {
          const value = of.values[t * of.columns + s];
          if (Number.isNaN(value)) continue;
          if (how === "max") found = Math.abs(found) >= Math.abs(value) ? found : value;
          else found = (Number.isNaN(found) ? 0 : found) + value;
        }
      }
      if (!Number.isNaN(found)) values[r * columns + c] = how === "max" ? found : found / counts[r];
    }
  }
  return { rows, columns, values, counts };
}

/** Cells one under the other. */
export function stacked(parts: readonly Cells[]): Cells {
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  const { columns } = parts[0];
  const [values, counts] = [new Float32Array(rows * columns), new Float64Array(rows)];
  let at = 0;
  for (const part of parts) {
    values.set(part.values, at * columns);
    counts.set(part.counts, at);
    at += part.rows;
  }
  return { rows, columns, values, counts };
}

/** Cells along a side of a thumbnail, at most. */
export const THUMBNAIL_CELLS = 64;

/** A map in a few cells, each the value farthest from 0, as its rows come in. */
export class ThumbnailCells {
  readonly rows: number;
  readonly columns: number;
  private readonly values: Float32Array;

  constructor(
    private readonly queries: number,
    keys: number,
  ) {
    [this.rows, this.columns] = [Math.min(THUMBNAIL_CELLS, queries), Math.min(THUMBNAIL_CELLS, keys)];
    this.values = new Float32Array(this.rows * this.columns).fill(Number.NaN);
  }

  /** Takes in the rows from `first` on. */
  add(of: Matrix, first: number): void {
    for (let t = 0; t < of.rows; t++) {
      const row = binOf(first + t, this.queries, this.rows) * this.columns;
      for (let s = 0; s < of.columns; s++) {
        const value = of.values[t * of.columns + s];
        if (Number.isNaN(value)) continue;
        const at = row + binOf(s, of.columns, this.columns);
        if (!(Math.abs(this.values[at]) >= Math.abs(value))) this.values[at] = value;
      }
    }
  }

  get found(): { rows: number; columns: number; values: Float32Array } {
    const { rows, columns, values } = this;
    return { rows, columns, values };
  }
}

/** The bin of an index where bins begin at floor(i * size / bins). */
function binOf(index: number, size: number, bins: number): number {
  return Math.floor(((index + 1) * bins - 1) / size);
}
