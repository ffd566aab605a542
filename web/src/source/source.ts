/** Where the views get their numbers from: a file's own data, or a server. */

import type { Description, Reduce } from "../description";
import type { Rectangle } from "./math";

export interface Thumbnail {
  rows: number;
  columns: number;
  values: Float32Array;
}

/** The pass over a head that a server makes before its tiles. */
export interface Pass {
  layer: number;
  head: number;
  done: number;
  rows: number;
}

export interface Source {
  readonly description: Description;
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
  /** A rectangle of at most 512 x 512, NaN where hidden. */
  weights(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array>;
  /** A rectangle of at most 512 x 512, -Infinity where hidden. */
  logits(layer: number, head: number, rectangle: Rectangle, signal?: AbortSignal): Promise<Float32Array>;
  /** 2 * D numbers: q then k, as the score uses them. */
  vectors(layer: number, head: number, query: number, key: number, signal?: AbortSignal): Promise<Float32Array>;
  /** Null where it would take a long pass that nobody has asked for yet. */
  thumbnail(layer: number, head: number, signal?: AbortSignal): Promise<Thumbnail | null>;
  /** Called while a pass is made, and with null when none is. */
  onPass: ((pass: Pass | null) => void) | null;
  close(): void;
}

/** Whether an error says no more than that nobody waits for the answer. */
export function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === "AbortError";
}
