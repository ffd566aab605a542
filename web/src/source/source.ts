/** Where the views get their numbers from: a file's own data, or a server. */

import type { Description, Reduce } from "../description";
import { Signal } from "../signal";
import type { Rectangle } from "./math";

export interface Thumbnail {
  rows: number;
  columns: number;
  values: Float32Array;
  queries: number | null; // how many queries it was made of, where that is not all
}

/** Long work on a head that a server is at: the pass before its map's tiles, or what its keys receive. */
export interface Pass {
  what: PassKind;
  layer: number;
  head: number;
  done: number;
  rows: number;
}

export type PassKind = "map" | "received";

/** Whether numbers can be had: what is wrong where they can't, or where they are no longer those of the file. */
export type Health = { state: "well" } | { state: "gone" | "changed"; message: string };

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
  /** A rectangle of at most 512 x 512 weights, NaN where hidden. */
  weights(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array>;
  /** The same of logits, -Infinity where hidden. */
  logits(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array>;
  /** The weights of one query on every key, (S,). */
  row(layer: number, head: number, query: number, signal?: AbortSignal): Promise<Float32Array>;
  /** The weights of every query on one key, (T,). */
  column(layer: number, head: number, key: number, signal?: AbortSignal): Promise<Float32Array>;
  /** The mean weight that each key receives of all queries that see it, (S,), NaN where none does. */
  received(layer: number, head: number, signal?: AbortSignal): Promise<Float32Array>;
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
