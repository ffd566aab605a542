/** Where the views get their numbers from: a file's own data, or a server. */

import type { Description, Layer, Reduce } from "../description";
import { Signal } from "../signal";
import type { Rectangle } from "./math";

export interface Thumbnail {
  rows: number;
  columns: number;
  values: Float32Array;
  queries: number | null; // how many queries it was made of, where that is not all
}

/** A number for each key and each query of a head; NaN where there is none. */
export interface Sides {
  received: Float32Array; // (S,) the mean weight that a key receives of all queries that see it
  entropy: Float32Array; // (T,) of a query's weights, in nats
  largest: Float32Array; // (T,) a query's largest weight
}

/** The sides of a layer's head, which lie one after another. */
export function sidesIn({ queries, keys }: Pick<Layer, "queries" | "keys">, all: Float32Array): Sides {
  return { received: all.subarray(0, keys), entropy: all.subarray(keys, keys + queries), largest: all.subarray(keys + queries) };
}

/** Long work on a head that a server is at: the pass before its map's tiles, or the numbers at its sides. */
export interface Pass {
  what: PassKind;
  layer: number;
  head: number;
  done: number;
  rows: number;
}

export type PassKind = "map" | "sides";

/** Whether numbers can be had: what is wrong where they can't, or where they are no longer those of the file. */
export type Health = { state: "well" } | { state: "gone" | "changed"; message: string };

/** The most weights that are asked for at once. */
export const MOST_WEIGHTS = 1 << 22;

/** The most keys whose vectors are asked for at once. */
export const MOST_KEYS = 64;

export interface Source {
  readonly description: Description;
  /** What is at work now, for the panels that wait for it. */
  readonly passes: Signal<readonly Pass[]>;
  readonly health: Signal<Health>;
  /** 256 x 256 cells, NaN where nothing is visible or the map has ended. */
  tile(
    layer: number,
    head: number,
    level: number,
    row: number,
    column: number,
    reduce: Reduce,
    signal?: AbortSignal,
  ): Promise<Float32Array>;
  /** A rectangle of at most {@link MOST_WEIGHTS}, NaN where hidden. */
  weights(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array>;
  /** The same of logits, -Infinity where hidden. */
  logits(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array>;
  /** The weights of one query on every key, (S,). */
  row(layer: number, head: number, query: number, signal?: AbortSignal): Promise<Float32Array>;
  /** The weights of every query on one key, (T,). */
  column(layer: number, head: number, key: number, signal?: AbortSignal): Promise<Float32Array>;
  /** What stands at the sides of a head's map. */
  sides(layer: number, head: number, signal?: AbortSignal): Promise<Sides>;
  /** (1 + keys) * D numbers: q then the k of each key, as their scores use them. At most {@link MOST_KEYS} keys. */
  vectors(layer: number, head: number, query: number, keys: readonly number[], signal?: AbortSignal): Promise<Float32Array>;
  /** A head's number of each statistic, its tag and the statistic that gave it; null where that takes a pass of a minute. */
  statistics(layer: number, head: number, signal?: AbortSignal): Promise<Record<string, number | string | null> | null>;
  /** The map in a few cells; of some of the queries where all would take long and `all` of them are not wanted. */
  thumbnail(layer: number, head: number, all: boolean, signal?: AbortSignal): Promise<Thumbnail>;
  close(): void;
}

/** Whether an error says no more than that nobody waits for the answer. */
export function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === "AbortError";
}
