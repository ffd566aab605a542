/** Whole maps as matrices, and what is made of them: keys left out, words, differences, several heads as one. */

import type { Reduce } from "../description";
import { TILE } from "../source/math";
import type { Sides } from "../source/source";

/** Every weight of a head, (rows, columns); NaN: not visible. */
export interface Matrix {
  rows: number;
  columns: number;
  values: Float32Array;
}

/** A matrix whose keys are left out of rows, and of each row what they took, 0 where nothing is seen. */
export function without(of: Matrix, keys: ReadonlySet<number>, queries: ReadonlySet<number>, again: boolean): { matrix: Matrix; left: Float64Array } {
  const { rows, columns } = of;
  const values = of.values.slice();
  const left = new Float64Array(rows);
  for (let t = 0; t < rows; t++) {
    const row = values.subarray(t * columns, (t + 1) * columns);
    let rest = 0;
    for (let s = 0; s < columns; s++) {
      if (Number.isNaN(row[s])) continue;
      if (queries.has(t) || keys.has(s)) {
        if (!queries.has(t)) left[t] += row[s];
        row[s] = Number.NaN;
      } else rest += row[s];
    }
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

/** What stands at the sides of a map; what is signed has no entropy, and the largest is by size. */
export function sidesOf({ rows, columns, values }: Matrix, signed: boolean): Sides {
  const sums = new Float64Array(columns);
  const counts = new Float64Array(columns);
  const entropy = new Float32Array(rows).fill(Number.NaN);
  const largest = new Float32Array(rows).fill(Number.NaN);
  for (let t = 0; t < rows; t++) {
    let [seen, nats, most] = [false, 0, 0];
    for (let s = 0; s < columns; s++) {
      const weight = values[t * columns + s];
      if (Number.isNaN(weight)) continue;
      seen = true;
      sums[s] += weight;
      counts[s]++;
      if (weight > 0) nats -= weight * Math.log(weight);
      most = Math.max(most, Math.abs(weight));
    }
    if (!seen) continue;
    if (!signed) entropy[t] = nats;
    largest[t] = most;
  }
  return { received: Float32Array.from(sums, (sum, s) => (counts[s] > 0 ? sum / counts[s] : Number.NaN)), entropy, largest };
}

/**
 * Cells of a grid over a matrix: `max` is the one farthest from 0, `mass` the sum over keys, the mean over queries that see
 * anything.
 */
export function cellsOf(of: Matrix, size: number, from: { row: number; column: number }, rows: number, columns: number, how: Reduce): Float32Array {
  const out = new Float32Array(rows * columns).fill(Number.NaN);
  for (let r = 0; r < rows; r++) {
    const [top, bottom] = [(from.row + r) * size, Math.min(of.rows, (from.row + r + 1) * size)];
    let counted = 0;
    for (let t = top; t < bottom; t++) {
      for (let s = 0; s < of.columns; s++) {
        if (Number.isNaN(of.values[t * of.columns + s])) continue;
        counted++;
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
      if (!Number.isNaN(found)) out[r * columns + c] = how === "max" ? found : found / counted;
    }
  }
  return out;
}

/** A tile of a map that halves at each level below the finest; NaN where the map has ended. */
export function tileOf(of: Matrix, size: number, row: number, column: number, how: Reduce): Float32Array {
  const rows = Math.max(0, Math.min(TILE, Math.ceil(of.rows / size) - row * TILE));
  const columns = Math.max(0, Math.min(TILE, Math.ceil(of.columns / size) - column * TILE));
  const cells = cellsOf(of, size, { row: row * TILE, column: column * TILE }, rows, columns, how);
  const tile = new Float32Array(TILE * TILE).fill(Number.NaN);
  for (let r = 0; r < rows; r++) tile.set(cells.subarray(r * columns, (r + 1) * columns), r * TILE);
  return tile;
}

/** A map in at most 64 x 64 cells, each the value farthest from 0. */
export function thumbnailOf(of: Matrix): { rows: number; columns: number; values: Float32Array } {
  const [rows, columns] = [Math.min(64, of.rows), Math.min(64, of.columns)];
  const values = new Float32Array(rows * columns).fill(Number.NaN);
  for (let t = 0; t < of.rows; t++) {
    for (let s = 0; s < of.columns; s++) {
      const value = of.values[t * of.columns + s];
      if (Number.isNaN(value)) continue;
      const at = binOf(t, of.rows, rows) * columns + binOf(s, of.columns, columns);
      if (!(Math.abs(values[at]) >= Math.abs(value))) values[at] = value;
    }
  }
  return { rows, columns, values };
}

/** The bin of an index where bins begin at floor(i * size / bins). */
function binOf(index: number, size: number, bins: number): number {
  return Math.floor(((index + 1) * bins - 1) / size);
}
