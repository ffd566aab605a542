/** What FORMAT.md calls the Description: the run as Python wrote it. */

import { FLOAT32, type Within, positionText } from "./numbers";

export interface Blob {
  chunk: number;
  offset: number;
  length: number;
  deflate: boolean;
  dtype: "f32" | "f16" | "q12" | "q16" | "bits" | "u8map" | "u16map";
  shape: number[];
  steps?: Blob;
  tops?: number[];
}

export type Visible =
  | { kind: "band"; low: number | null; high: number | null; keys: Blob | null; queries: Blob | null }
  | { kind: "bits"; blobs: Blob[] }; // one for all heads, or one a head

/** Where an axis stands in its sequence: the first position where the others follow in steps of 1, else every one. */
export type Positions = number | number[];

/** What makes a layer's maps again: FORMAT.md says how. */
export interface Origin {
  command: string | null;
  inputs: string | null;
  options: string | null;
  head: boolean;
  first: [query: number, key: number];
  cropped: boolean;
}

/** A number that Python counted of each head. */
export interface Statistic {
  name: string;
  about: string;
  unit: string;
}

export interface Layer {
  label: string;
  text?: string; // of which text it is, where the page has several
  origin?: Origin | undefined;
  statistics?: Record<string, (number | string | null)[]>; // of each head
  query_words?: number; // indices into numbers: where each word begins, and the last ends
  key_words?: number;
  special_keys?: number; // likewise: the keys that are special tokens
  global_keys?: number | undefined; // and the global tokens
  global_queries?: number | undefined;
  key_heads?: { of: number; each: number[] } | undefined; // the key head that each head reads, where they share them
  signed?: boolean; // values may be below 0: a difference of two, scores
  unit?: "difference" | "score"; // what a value is called, where that is no weight
  made?: boolean; // of other weights, here: keys left out, words, a difference
  heads: number;
  head_labels?: number[] | null; // what heads are called, where they are not 0 .. H - 1
  kv_heads: number;
  queries: number;
  keys: number;
  head_dim: number;
  query_labels: number | null;
  key_labels: number | null;
  positions: { queries: Positions; keys: Positions } | null; // null: keys are of another sequence, there is no order
  pattern: string;
  scale: number;
  softcap: number | null;
  rotary?: { pairs: number; frequencies: (number | null)[] }; // dimensions that turn together: an index into numbers, and radians a position
  sinks: number[] | null;
  alibi: number[] | null;
  levels: number;
  kept?: number | undefined; // the finest level there is: the map was reduced while the model ran, and no single weight was kept
  given?: boolean; // the weights were given: there is no q, no k and no logit
  accuracy: { weights: number[] | null; logs: number[]; logits: number[]; sides: number[] }; // of each head
  q?: Blob;
  k?: Blob;
  log_sum_exp?: Blob;
  received?: Blob;
  entropy?: Blob;
  largest?: Blob;
  visible?: Visible;
  bias?: Blob | null;
  global?: { rows: number[]; q: Blob; k: Blob } | null;
  overview?: { level: number; max: Blob; mass: Blob } | null;
  thumbnails?: Blob;
}

/** The version of FORMAT.md that this page reads. */
export const FORMAT = 3;

export interface Description {
  format: number;
  program: string;
  source: string;
  mode: "embedded" | "live";
  statistics?: Statistic[] | undefined;
  tags?: string[];
  labels: string[][];
  numbers?: number[][]; // lists that layers share
  layers: Layer[];
}

export type Axis = "query" | "key";
export type Reduce = "max" | "mass";

/** Reads a description. Throws where it is of another format. */
export function read(json: string): Description {
  const description = JSON.parse(json) as Description;
  if (description.format !== FORMAT) throw new Error(`format ${description.format} is not one this page can read`);
  return description;
}

/** Whether single weights of a layer can be had; of maps that were reduced while the model ran there are cells alone. */
export function hasWeights(layer: Layer): boolean {
  return layer.kept === undefined || layer.kept === layer.levels - 1;
}

/** Weights of a pass that a server makes in less than a second. */
export const CHEAP = 30_000_000;

/** Whether what needs all weights of a head of a layer is there at once: out of a file, or of a short pass. */
export function isCheap({ mode }: Description, { queries, keys, made }: Layer): boolean {
  return (mode === "embedded" && !made) || queries * keys <= CHEAP;
}

/** How many queries or keys a layer has. */
export function extent(layer: Layer, axis: Axis): number {
  return axis === "query" ? layer.queries : layer.keys;
}

function positions(layer: Layer, axis: Axis): Positions {
  if (layer.positions === null) return 0; // another sequence: each is called by its index
  return axis === "query" ? layer.positions.queries : layer.positions.keys;
}

/** Where the query or key of an index stands in its sequence: what it is called, and what distances are between. */
export function position(layer: Layer, axis: Axis, index: number): number {
  const at = positions(layer, axis);
  return typeof at === "number" ? at + index : at[index];
}

/** The index of the query or key that stands at a position, or nearest to it. */
export function indexAt(layer: Layer, axis: Axis, wanted: number): number {
  const at = positions(layer, axis);
  const size = extent(layer, axis);
  if (typeof at === "number") return Math.max(0, Math.min(size - 1, wanted - at));
  let best = 0;
  for (let i = 1; i < size; i++) if (Math.abs(at[i] - wanted) < Math.abs(at[best] - wanted)) best = i;
  return best;
}

/** The least and the largest position of an axis. */
export function bounds(layer: Layer, axis: Axis): [number, number] {
  const at = positions(layer, axis);
  if (typeof at === "number") return [at, at + extent(layer, axis) - 1];
  return [at.reduce((a, b) => Math.min(a, b)), at.reduce((a, b) => Math.max(a, b))];
}

/** How many keys the key of a query's own position is after the query's index, where that is the same for all; else null. */
export function offset(layer: Layer): number | null {
  if (layer.positions === null) return null;
  const { queries, keys } = layer.positions;
  return typeof queries === "number" && typeof keys === "number" ? queries - keys : null;
}

/** Whether queries and keys are the same tokens, so that one text shows both. */
export function isOneText(layer: Layer): boolean {
  if (layer.positions === null || layer.queries !== layer.keys || layer.query_labels !== layer.key_labels) return false;
  const { queries, keys } = layer.positions;
  return JSON.stringify(queries) === JSON.stringify(keys);
}

/** The layers, by their indices, of a text; of the one text of a page, whose layers name none, all. */
export function layersOf({ layers }: Description, text: string | undefined): number[] {
  return layers.flatMap((one, index) => (one.text === text ? [index] : []));
}

/** The label of a query or key, or null where the run has none. */
export function label(description: Description, layer: Layer, axis: Axis, index: number): string | null {
  const list = axis === "query" ? layer.query_labels : layer.key_labels;
  return list === null ? null : (description.labels[list]?.[index] ?? null);
}

/** How far a head's weights, and sums of them, may be from what the formula gives. */
export function withinOf(layer: Layer, head: number): Within {
  const { weights, logs } = layer.accuracy;
  return { by: weights?.[head] ?? Number.POSITIVE_INFINITY, share: logs[head] + FLOAT32.share };
}

/** How far cells of `size` queries and keys of a head's map may be. */
export function cellsWithin(layer: Layer, head: number, reduce: Reduce, size: number): Within {
  if (layer.overview && size >= 2 ** (layer.levels - 1 - layer.overview.level)) {
    return { by: layer.overview[reduce].tops![head] * (1 / 131_068 + 4 * FLOAT32.share), share: Number.POSITIVE_INFINITY };
  }
  const one = withinOf(layer, head);
  return reduce === "mass" && size > 1 ? { by: Number.POSITIVE_INFINITY, share: one.share } : one;
}

/** How far what stands at the sides of a head's map may be: counted of exact weights, or of those that were made here. */
export function sidesWithin(layer: Layer, head: number): Within {
  if (layer.made) return withinOf(layer, head);
  return { by: Number.POSITIVE_INFINITY, share: layer.accuracy.sides[head] + FLOAT32.share };
}

/** How far a head's logits may be. */
export function logitsWithin(layer: Layer, head: number): number {
  return layer.accuracy.logits[head];
}

/** Which key head a query head reads, in words, where heads share them; else null. */
export function keyHeadText({ key_heads: shared }: Layer, head: number): string | null {
  return shared ? `reads key head ${shared.each[head]} of ${shared.of}` : null;
}

/** Whether a head reads another key head than the one before it. */
export function beginsGroup({ key_heads: shared }: Layer, head: number): boolean {
  return shared !== undefined && head > 0 && shared.each[head] !== shared.each[head - 1];
}

const NONE: ReadonlySet<number> = new Set();

/** The indices of an axis that are global tokens: which every query sees, or which see every key. */
export function globalOf({ numbers }: Description, layer: Layer, axis: Axis): ReadonlySet<number> {
  const place = axis === "key" ? layer.global_keys : layer.global_queries;
  return place === undefined ? NONE : new Set(numbers![place]);
}

/** What a head of a layer is called. */
export function headName(layer: Layer, head: number): string {
  return `${layer.head_labels?.[head] ?? head}`;
}

/** A token as people can read it: what has no shape of its own gets one. */
export function visibleText(token: string): string {
  const shown = token
    .replace(/\r\n|\n|\r/g, "\u21b5")
    .replace(/\t/g, "\u21e5")
    .replace(/[\u0000-\u001f]/g, (letter) => String.fromCharCode(0x2400 + letter.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, codeName);
  return shown.trim() === "" ? "\u2423".repeat(Math.max(1, shown.length)) : shown;
}

/** A letter that shows nothing, or turns around what follows it, by its number. */
function codeName(letter: string): string {
  return `[U+${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
}

/** What a query or key is called where there is room for its position and its token. */
export function positionName(description: Description, layer: Layer, axis: Axis, index: number): string {
  const token = label(description, layer, axis, index);
  const number = positionText(position(layer, axis, index));
  return token === null ? number : `${number} \u201c${visibleText(token).trim()}\u201d`;
}
