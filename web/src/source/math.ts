/** The formula of one head, for any rectangle of its map, and the cells of maps longer than the picture. */

import type { Reduce } from "../description";

export const TILE = 256;

/** One head, decoded. */
export interface Head {
  queries: number; // T
  keys: number; // S
  dim: number; // D
  q: Float64Array; // (T, D), rows of global queries with their own projection
  k: Float64Array; // (S, D)
  globalK: Float64Array | null; // (S, D) of global queries
  globalRows: ReadonlySet<number>;
  scale: number;
  softcap: number | null;
  slope: number; // ALiBi; 0: none
  distance: (query: number, key: number) => number; // between their positions
  bias: Float64Array | null; // (T, S)
  logSumExp: Float32Array; // (T,), NaN: sees nothing
  band: { low: number; high: number }; // low <= s - t <= high, of indices
  sees: ((query: number, key: number) => boolean) | null; // within the band; null: all of it
}

/** Keys `from` (inclusive) to `to` (exclusive) that the band lets `query` see, within the given ones. */
function span(head: Head, query: number, firstKey: number, endKey: number): [number, number] {
  const from = Math.min(endKey, Math.max(firstKey, query + head.band.low));
  return [from, Math.max(from, Math.min(endKey, query + head.band.high + 1))];
}

/** Writes the logits of `query` over keys `from` to `to` into `row` at `from - firstKey`; -Infinity: hidden. */
function logitsOfRow(head: Head, query: number, from: number, to: number, firstKey: number, row: Float64Array): void {
  const { q, dim, scale, softcap, slope, bias, sees } = head;
  const k = head.globalK !== null && head.globalRows.has(query) ? head.globalK : head.k;
  const start = query * dim;
  let key = from;
  for (; key + 4 <= to; key += 4) {
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    const k0 = key * dim;
    const k1 = k0 + dim;
    const k2 = k1 + dim;
    const k3 = k2 + dim;
    for (let i = 0; i < dim; i++) {
      const x = q[start + i];
      a += x * k[k0 + i];
      b += x * k[k1 + i];
      c += x * k[k2 + i];
      d += x * k[k3 + i];
    }
    const at = key - firstKey;
    row[at] = a * scale;
    row[at + 1] = b * scale;
    row[at + 2] = c * scale;
    row[at + 3] = d * scale;
  }
  for (; key < to; key++) {
    let sum = 0;
    for (let i = 0; i < dim; i++) sum += q[start + i] * k[key * dim + i];
    row[key - firstKey] = sum * scale;
  }
  if (softcap !== null) {
    for (let s = from; s < to; s++) row[s - firstKey] = softcap * Math.tanh(row[s - firstKey] / softcap);
  }
  if (bias !== null) {
    for (let s = from; s < to; s++) row[s - firstKey] += bias[query * head.keys + s];
  }
  if (slope !== 0) {
    for (let s = from; s < to; s++) row[s - firstKey] -= slope * head.distance(query, s);
  }
  if (sees !== null) {
    for (let s = from; s < to; s++) if (!sees(query, s)) row[s - firstKey] = Number.NEGATIVE_INFINITY;
  }
}

/** A half-open rectangle of a map. */
export interface Rectangle {
  queries: [number, number];
  keys: [number, number];
}

/** Logits of a rectangle, -Infinity where hidden. */
export function logits(head: Head, { queries, keys }: Rectangle): Float32Array {
  const width = keys[1] - keys[0];
  const out = new Float32Array((queries[1] - queries[0]) * width).fill(Number.NEGATIVE_INFINITY);
  const row = new Float64Array(width);
  for (let t = queries[0]; t < queries[1]; t++) {
    const [from, to] = span(head, t, keys[0], keys[1]);
    logitsOfRow(head, t, from, to, keys[0], row);
    out.set(row.subarray(from - keys[0], to - keys[0]), (t - queries[0]) * width + from - keys[0]);
  }
  return out;
}

/** Weights of a rectangle, NaN where hidden. */
export function weights(head: Head, rectangle: Rectangle): Float32Array {
  const out = logits(head, rectangle);
  const { queries, keys } = rectangle;
  const width = keys[1] - keys[0];
  for (let t = queries[0], at = 0; t < queries[1]; t++) {
    for (let end = at + width; at < end; at++) {
      out[at] = out[at] === Number.NEGATIVE_INFINITY ? Number.NaN : Math.exp(out[at] - head.logSumExp[t]);
    }
  }
  return out;
}

/** A grid of cells over a map: `size` queries by `size` keys each, the last ones cut at the map's end. */
export interface Grid extends Rectangle {
  size: number;
}

/**
 * The cells of a grid, exactly; NaN where nothing is visible. A generator that yields after each row of cells, so that
 * whoever runs it can stop in between.
 */
export function* reduce(head: Head, grid: Grid, how: Reduce): Generator<void, Float32Array, void> {
  const { queries, keys, size } = grid;
  const rows = Math.ceil((queries[1] - queries[0]) / size);
  const columns = Math.ceil((keys[1] - keys[0]) / size);
  const out = new Float32Array(rows * columns);
  const best = new Float64Array(columns);
  const row = new Float64Array(keys[1] - keys[0]);
  for (let r = 0; r < rows; r++) {
    best.fill(Number.NaN);
    let counted = 0;
    const end = Math.min(queries[1], queries[0] + (r + 1) * size);
    for (let t = queries[0] + r * size; t < end; t++) {
      const logSumExp = head.logSumExp[t];
      if (Number.isNaN(logSumExp)) continue;
      counted++;
      const [from, to] = span(head, t, keys[0], keys[1]);
      logitsOfRow(head, t, from, to, keys[0], row);
      for (let s = from - keys[0]; s < to - keys[0]; s++) {
        const logit = row[s];
        if (logit === Number.NEGATIVE_INFINITY) continue;
        const column = Math.floor(s / size);
        const known = best[column];
        if (how === "max") {
          if (!(known >= logit - logSumExp)) best[column] = logit - logSumExp; // exp once a cell: it is monotone
        } else {
          const weight = Math.exp(logit - logSumExp);
          best[column] = Number.isNaN(known) ? weight : known + weight;
        }
      }
    }
    for (let c = 0; c < columns; c++) {
      out[r * columns + c] = how === "max" ? Math.exp(best[c]) : best[c] / Math.max(counted, 1);
    }
    yield;
  }
  return out;
}

/** Cells of a map and how many queries of each row see anything. */
export interface Cells {
  rows: number;
  columns: number;
  values: Float32Array;
  counts: Float64Array; // (rows,)
}

/** Cells twice as large each way: of max the one farthest from 0, mass of mass. An odd end stands alone. */
export function halve(cells: Cells, how: Reduce): Cells {
  const rows = Math.ceil(cells.rows / 2);
  const columns = Math.ceil(cells.columns / 2);
  const values = new Float32Array(rows * columns);
  const counts = new Float64Array(rows);
  for (let r = 0; r < rows; r++) {
    const below = Math.min(cells.rows, 2 * r + 2);
    for (let y = 2 * r; y < below; y++) counts[r] += cells.counts[y];
    for (let c = 0; c < columns; c++) {
      const right = Math.min(cells.columns, 2 * c + 2);
      let found = Number.NaN;
      for (let y = 2 * r; y < below; y++) {
        for (let x = 2 * c; x < right; x++) {
          const value = cells.values[y * cells.columns + x];
          if (Number.isNaN(value)) continue;
          if (how === "max") found = Math.abs(found) >= Math.abs(value) ? found : value;
          else found = (Number.isNaN(found) ? 0 : found) + value * cells.counts[y];
        }
      }
      values[r * columns + c] = how === "max" ? found : found / Math.max(counts[r], 1);
    }
  }
  return { rows, columns, values, counts };
}

/** How many queries of each row of cells see anything. */
export function seen(logSumExp: Float32Array, size: number): Float64Array {
  const counts = new Float64Array(Math.ceil(logSumExp.length / size));
  for (let t = 0; t < logSumExp.length; t++) if (!Number.isNaN(logSumExp[t])) counts[Math.floor(t / size)]++;
  return counts;
}

/** Cells cut out of a map, as a 256 x 256 tile; NaN where the map has ended. */
export function tileOf(cells: Pick<Cells, "rows" | "columns" | "values">, row: number, column: number): Float32Array {
  const tile = new Float32Array(TILE * TILE).fill(Number.NaN);
  const left = column * TILE;
  const right = Math.min(cells.columns, left + TILE);
  for (let y = 0; y < TILE && row * TILE + y < cells.rows; y++) {
    const start = (row * TILE + y) * cells.columns;
    tile.set(cells.values.subarray(start + left, start + right), y * TILE);
  }
  return tile;
}
