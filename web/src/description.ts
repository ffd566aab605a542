/** What FORMAT.md calls the Description: the run as Python wrote it. */

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
  | { kind: "bits"; blob: Blob };

export interface Layer {
  label: string;
  heads: number;
  head_labels?: number[] | null; // what heads are called, where they are not 0 .. H - 1
  kv_heads: number;
  queries: number;
  keys: number;
  head_dim: number;
  query_labels: number | null;
  key_labels: number | null;
  pattern: string;
  scale: number;
  softcap: number | null;
  sinks: number[] | null;
  alibi: number[] | null;
  levels: number;
  q?: Blob;
  k?: Blob;
  log_sum_exp?: Blob;
  visible?: Visible;
  bias?: Blob | null;
  global?: { rows: number[]; q: Blob; k: Blob } | null;
  overview?: { level: number; max: Blob; mass: Blob } | null;
  thumbnails?: Blob;
}

export interface Description {
  format: number;
  program: string;
  source: string;
  mode: "embedded" | "live";
  labels: string[][];
  layers: Layer[];
}

export type Axis = "query" | "key";
export type Reduce = "max" | "mass";

/** How many positions an axis of a layer has. */
export function extent(layer: Layer, axis: Axis): number {
  return axis === "query" ? layer.queries : layer.keys;
}

/** The label of a position, or null where the run has none. */
export function label(description: Description, layer: Layer, axis: Axis, position: number): string | null {
  const list = axis === "query" ? layer.query_labels : layer.key_labels;
  return list === null ? null : (description.labels[list]?.[position] ?? null);
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

/** What a position is called where there is room for its number and its token. */
export function positionName(description: Description, layer: Layer, axis: Axis, position: number): string {
  const token = label(description, layer, axis, position);
  return token === null ? `${position}` : `${position} \u201c${visibleText(token).trim()}\u201d`;
}
