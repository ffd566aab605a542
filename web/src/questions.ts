/** What the views ask of the source. */

import type { Kind } from "./answers";
import type { Reduce } from "./description";
import type { Sides, Source, Thumbnail } from "./source/source";
import type { Strength } from "./state";

export interface OfHead {
  layer: number;
  head: number;
}

/** A half-open range of indices. */
export type Window = readonly [number, number];

function floats<Q extends object>(
  name: string,
  ask: (source: Source, question: Q, signal: AbortSignal) => Promise<Float32Array>,
): Kind<Q, Float32Array> {
  return { name, ask, bytes: (values) => values.byteLength };
}

/** The weights of some queries on some keys, (queries, keys); NaN: hidden. */
export const WEIGHTS = floats<OfHead & { queries: Window; keys: Window }>("weights", (source, at, signal) =>
  source.weights(at.layer, at.head, { queries: [...at.queries], keys: [...at.keys] }, signal),
);

/** The weights of one query on every key, (S,). */
export const ROW = floats<OfHead & { query: number }>("row", (source, { layer, head, query }, signal) =>
  source.row(layer, head, query, signal),
);

/** The weights of every query on one key, (T,). */
export const COLUMN = floats<OfHead & { key: number }>("column", (source, { layer, head, key }, signal) =>
  source.column(layer, head, key, signal),
);

/** What stands at the sides of a head's map: what keys receive, and each query's entropy and largest weight. */
export const SIDES: Kind<OfHead, Sides> = {
  name: "sides",
  bytes: ({ received, entropy, largest }) => received.byteLength + entropy.byteLength + largest.byteLength,
  ask: (source, { layer, head }, signal) => source.sides(layer, head, signal),
};

/** A query's vector and those of some keys, as their scores use them, (1 + keys, D). */
export const VECTORS = floats<OfHead & { query: number; keys: readonly number[] }>("vectors", (source, at, signal) =>
  source.vectors(at.layer, at.head, at.query, at.keys, signal),
);

export interface Pair {
  weight: number;
  logit: number | null; // null: weights were given without
}

/** The weight of one query on one key, and its logit. */
export const PAIR: Kind<OfHead & { query: number; key: number }, Pair> = {
  name: "pair",
  bytes: () => 16,
  async ask(source, { layer, head, query, key }, signal) {
    const one = { queries: [query, query + 1] as [number, number], keys: [key, key + 1] as [number, number] };
    const { given, kept } = source.description.layers[layer];
    const [weights, logits] = await Promise.all([
      source.weights(layer, head, one, signal),
      given || kept !== undefined ? null : source.logits(layer, head, one, signal),
    ]);
    return { weight: weights[0], logit: logits && logits[0] };
  },
};

/** Of the whole map in one tile: the size of its largest cell and the weight farthest from 0, and where few are beyond. */
export interface Ends {
  cell: number;
  weight: number;
  robust: { cell: number; weight: number };
}

export const LARGEST: Kind<OfHead & { reduce: Reduce }, Ends> = {
  name: "largest",
  bytes: () => 32,
  async ask(source, { layer, head, reduce }, signal) {
    const of = (how: Reduce): Promise<Float32Array> => source.tile(layer, head, 0, 0, 0, how, signal);
    const [cells, weights] = await Promise.all([of(reduce), reduce === "max" ? null : of("max")]);
    const { signed } = source.description.layers[layer];
    return {
      cell: largest(cells),
      weight: farthest(weights ?? cells),
      robust: { cell: robust(cells, signed), weight: robust(weights ?? cells, signed) },
    };
  },
};

/** A head's map in a few cells, of all queries or, where that would take long, of some. */
export const THUMBNAIL: Kind<OfHead & { all: boolean }, Thumbnail> = {
  name: "thumbnail",
  bytes: (thumbnail) => thumbnail.values.byteLength,
  ask: (source, { layer, head, all }, signal) => source.thumbnail(layer, head, all, signal),
};

/** The number farthest from 0, NaN left out; 0 where there is none. */
export function farthest(values: Float32Array): number {
  let found = 0;
  for (const value of values) if (Math.abs(value) > Math.abs(found)) found = value;
  return found;
}

/** The size that one of a hundred weights is beyond; of what goes to both sides of 0, one of fifty on either side. */
export function robust(values: Float32Array, signed = false): number {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort();
  if (sorted.length === 0) return 0;
  return signed ? Math.max(Math.abs(percentile(sorted, 2)), Math.abs(percentile(sorted, 98))) : percentile(sorted, 99);
}

/** A percentile of ascending numbers, between the two that are nearest to it in proportion. */
function percentile(sorted: Float32Array, percent: number): number {
  const at = (percent / 100) * (sorted.length - 1);
  const below = Math.floor(at);
  return sorted[below] + (at - below) * (sorted[Math.min(sorted.length - 1, below + 1)] - sorted[below]);
}

/** Where the colors of some weights end: at the largest, or where few are beyond. */
export function topOf(values: Float32Array, strength: Strength, signed = false): number {
  return (strength === "robust" ? robust(values, signed) : 0) || largest(values);
}

/** The largest number by its size. */
export function largest(values: Float32Array): number {
  return Math.abs(farthest(values));
}
