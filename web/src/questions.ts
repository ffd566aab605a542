/** What the views ask of the source. */

import type { Kind } from "./answers";
import type { Reduce } from "./description";
import type { Source, Thumbnail } from "./source/source";

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

/** What each key receives, the mean over all queries that see it, (S,); NaN where none does. */
export const RECEIVED = floats<OfHead>("received", (source, { layer, head }, signal) =>
  source.received(layer, head, signal),
);

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

/** The size of the largest cell of the whole map in one tile, and the weight that is farthest from 0. */
export const LARGEST: Kind<OfHead & { reduce: Reduce }, { cell: number; weight: number }> = {
  name: "largest",
  bytes: () => 16,
  async ask(source, { layer, head, reduce }, signal) {
    const of = async (how: Reduce): Promise<number> => farthest(await source.tile(layer, head, 0, 0, 0, how, signal));
    const [cell, weight] = await Promise.all([of(reduce), reduce === "max" ? null : of("max")]);
    return { cell: Math.abs(cell), weight: weight ?? cell };
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

/** The largest number by its size. */
export function largest(values: Float32Array): number {
  return Math.abs(farthest(values));
}
