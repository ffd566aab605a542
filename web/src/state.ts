/** What is shown, and its place in the address: a link shows what its sender saw. */

import { type Axis, type Description, type Layer, type Reduce, extent, offset } from "./description";

export const VIEWS = ["heads", "model", "map", "text", "query-key"] as const;
export type View = (typeof VIEWS)[number];
export type Scale = "linear" | "log";
export type Theme = "auto" | "light" | "dark";
export type Flow = "gives" | "receives";
export type Sort = "order" | "size";
/** The order of heads in the model view: of layers, by a number, or by what they are in a word. */
/** The kinds of keys that can be left out. */
export const OUT = ["special", "first", "punctuation"] as const;
export type Out = (typeof OUT)[number];
/** Maps that are seen as one: of the heads of a layer, or of a head's layers; or the scores in place of weights. */
export const TOGETHER = ["mean-heads", "max-heads", "mean-layers", "max-layers"] as const;
export type Together = (typeof TOGETHER)[number];
export const RANKS = ["order", "most", "least", "role"] as const;
export type Rank = (typeof RANKS)[number];
/** How two heads are compared. */
export const HOWS = ["side", "difference"] as const;
export type How = (typeof HOWS)[number];
/** A layer, by its index, and a head. */
export interface Other {
  layer: number;
  head: number;
}
/**
 * Where colors end: at 1, so that heads compare; at the largest of what is shown; where one of a hundred is beyond; or of
 * each query at its own largest.
 */
export const STRENGTHS = ["absolute", "relative", "robust", "row"] as const;
export type Strength = (typeof STRENGTHS)[number];

/** The most tokens that a window of a view shows. */
export const WINDOW = 512;

/** Keys beyond which colors of maps are logarithmic where nothing else is said. */
const LONG = 2048;

/** The map's least and greatest zoom, log2 of CSS pixels a weight: 128 pixels a weight. */
export const LEAST_ZOOM = -30;
export const MAX_ZOOM = 7;

/** How many it shows where nothing else is said. */
export const USUAL_WINDOW = { heads: 64, text: WINDOW };

export interface State {
  view: View;
  layer: number; // index in layers
  head: number;
  heads: number[]; // of the heads view, ascending
  query: number | null; // null: none is chosen
  key: number | null;
  reduce: Reduce;
  scale: Scale | null; // null: what suits the view
  strength: Strength;
  margins: boolean | null; // whether numbers stand at the map's sides; null: where they are there at once
  x: number | null; // keys and queries at the middle of the map; null: the whole map
  y: number | null;
  zoom: number | null; // log2 of CSS pixels a weight
  theme: Theme;
  first: number; // window of the heads, text and query-key views
  keys: number | null; // where the window of keys begins; null: with that of the queries
  count: number | null; // null: what suits the view
  flow: Flow;
  sort: Sort;
  pairs: boolean; // whether dimensions that turn together are one
  find: string; // what is looked for
  findAxis: Axis;
  stat: string | null; // the number that heads are colored by
  rank: Rank;
  role: string | null; // of the heads that are shown; null: all
  other: Other | null; // what is compared with
  how: How;
  out: readonly Out[]; // the kinds of keys that are left out
  again: boolean; // whether rows are made to sum to 1 again
  words: boolean; // whether tokens are seen as words
  together: Together | null; // what is seen as one map; null: each head
  logits: boolean; // whether the map is of scores, before softmax
  sides: readonly [number, number] | null; // the sentence of the queries, and that of the keys
  all: boolean; // whether thumbnails are of all queries, where that takes long
}

/** What a page without a fragment shows. */
export function initial(description: Description): State {
  const { layers } = description;
  const many = layers.length > 1 || layers[0].heads > 1;
  return {
    view: many ? "model" : "map",
    layer: 0,
    head: 0,
    heads: Array.from({ length: Math.min(layers[0].heads, 16) }, (_, head) => head),
    query: null,
    key: null,
    reduce: "max",
    scale: null,
    strength: "absolute",
    margins: null,
    x: null,
    y: null,
    zoom: null,
    theme: "auto",
    first: 0,
    keys: null,
    count: null,
    flow: "gives",
    sort: "order",
    pairs: false,
    find: "",
    findAxis: "query",
    stat: null,
    rank: "order",
    role: null,
    other: null,
    how: "side",
    out: [],
    again: false,
    words: false,
    together: null,
    logits: false,
    sides: null,
    all: false,
  };
}

/** Reads a fragment, with or without its #. Nothing in it is trusted: the unknown is left out, numbers are clamped. */
export function parse(fragment: string, description: Description): State {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = initial(description);
  const one = <T extends string>(name: string, choices: readonly T[], usual: T): T => {
    const value = fields.get(name) as T;
    return choices.includes(value) ? value : usual;
  };
  const whole = (name: string, most: number): number | null => {
    const value = fields.get(name);
    if (value === null || !/^-?\d+$/.test(value)) return null;
    return Math.min(most, Math.max(0, Number(value)));
  };
  const real = (name: string, least: number, most: number): number | null => {
    const value = fields.get(name)?.trim() ?? "";
    return value !== "" && Number.isFinite(Number(value)) ? clamp(Number(value), least, most) : null;
  };

  const layer = whole("layer", description.layers.length - 1) ?? 0;
  const { heads, queries, keys } = description.layers[layer];
  const listed = fields.get("heads");
  const read: State = {
    view: one("view", VIEWS, state.view),
    layer,
    head: whole("head", heads - 1) ?? 0,
    heads: listed === null ? usualHeads(heads) : parseHeads(listed, heads),
    query: whole("query", queries - 1),
    key: whole("key", keys - 1),
    reduce: one("reduce", ["max", "mass"], state.reduce),
    scale: one<Scale | "">("scale", ["linear", "log"], "") || null,
    strength: one("strength", STRENGTHS, state.strength),
    margins: fields.get("margins") === "1" ? true : fields.get("margins") === "0" ? false : null,
    x: real("x", 0, keys),
    y: real("y", 0, queries),
    zoom: real("zoom", LEAST_ZOOM, MAX_ZOOM),
    theme: one("theme", ["auto", "light", "dark"], state.theme),
    first: whole("first", Math.max(queries, keys) - 1) ?? 0,
    keys: whole("keys", keys - 1),
    count: whole("count", WINDOW) || null,
    flow: one("flow", ["gives", "receives"], state.flow),
    sort: one("sort", ["order", "size"], state.sort),
    pairs: fields.get("pairs") === "1",
    find: (fields.get("find") ?? "").slice(0, MOST_FOUND),
    findAxis: one("findAxis", ["query", "key"], state.findAxis),
    stat: one<string>("stat", (description.statistics ?? []).map(({ name }) => name), "") || null,
    rank: one("rank", RANKS, state.rank),
    role: one<string>("role", description.tags ?? [], "") || null,
    other: parseOther(fields.get("with"), description),
    how: one("how", HOWS, state.how),
    out: OUT.filter((kind) => (fields.get("out") ?? "").split(",").includes(kind)),
    again: fields.get("again") === "1",
    words: fields.get("words") === "1",
    together: one<Together | "">("together", TOGETHER, "") || null,
    logits: fields.get("logits") === "1",
    sides: parseSides(fields.get("sides")),
    all: fields.get("all") === "1",
  };
  return fields.has("first") ? read : { ...read, ...opening(read, description, read.view) };
}

/** Writes a state as a fragment, without what is as usual. */
export function format(state: State, description: Description): string {
  const usual = initial(description);
  const fields: string[] = [];
  const add = (name: string, value: string | number | null): void => {
    if (value !== null) fields.push(`${name}=${value}`);
  };
  add("view", state.view);
  add("layer", state.layer);
  add("head", state.head);
  add("query", state.query);
  add("key", state.key);
  for (const name of ["reduce", "scale", "strength", "theme", "flow", "sort", "findAxis", "stat", "rank", "role", "how"] as const) {
    add(name, state[name] === usual[name] ? null : state[name]);
  }
  add("margins", state.margins === null ? null : Number(state.margins));
  if (state.view === "map") {
    add("x", state.x === null ? null : round(state.x));
    add("y", state.y === null ? null : round(state.y));
    add("zoom", state.zoom === null ? null : round(state.zoom));
  }
  const all = usualHeads(description.layers[state.layer].heads);
  add("heads", state.heads.join() === all.join() ? null : state.heads.join(","));
  const usualFirst = opening({ ...state, first: 0 }, description, state.view).first ?? 0;
  add("first", state.first === usualFirst ? null : state.first);
  add("keys", state.keys);
  add("count", state.count);
  add("find", state.find === "" ? null : encodeURIComponent(state.find));
  add("out", state.out.length === 0 ? null : state.out.join(","));
  add("again", state.again ? 1 : null);
  add("words", state.words ? 1 : null);
  add("together", state.together);
  add("logits", state.logits ? 1 : null);
  add("sides", state.sides === null ? null : state.sides.join("."));
  add("with", state.other === null ? null : `${state.other.layer}.${state.other.head}`);
  add("all", state.all ? 1 : null);
  add("pairs", state.pairs ? 1 : null);
  return fields.join("&");
}

/** A changed state, brought into the range of the layer it names. */
export function changed(state: State, patch: Partial<State>, description: Description): State {
  const next = { ...state, ...patch };
  const layer = description.layers[next.layer];
  next.head = Math.min(next.head, layer.heads - 1);
  if (next.query !== null) next.query = clamp(next.query, 0, layer.queries - 1);
  if (next.key !== null) next.key = clamp(next.key, 0, layer.keys - 1);
  next.first = clamp(next.first, 0, Math.max(layer.queries, layer.keys) - 1);
  if (next.keys !== null) next.keys = clamp(next.keys, 0, layer.keys - 1);
  if (next.layer !== state.layer) {
    const before = description.layers[state.layer];
    if (before.heads !== layer.heads) next.heads = usualHeads(layer.heads);
    if (before.queries !== layer.queries || before.keys !== layer.keys) next.x = next.y = next.zoom = null;
  }
  return next;
}

/** The views that show two heads. */
const COMPARED: readonly View[] = ["map", "text", "heads", "query-key"];

/** Whether what is seen is two heads, beside each other or as one. */
export function isCompared({ view, other }: State): boolean {
  return other !== null && COMPARED.includes(view);
}

/** The color scale of a view: among thousands of keys most weights are too small to be seen beside a map's largest. */
export function scaleOf(state: State, description: Description): Scale {
  if (state.scale !== null) return state.scale;
  const maps = state.view === "map" || state.view === "model";
  return maps && description.layers.some(({ keys }) => keys > LONG) ? "log" : "linear";
}

/** Where the colors of a view may end: masses have no largest of a row. */
export function strengthsOf({ view, reduce }: State): readonly Strength[] {
  return STRENGTHS.filter((one) => one !== "row" || view !== "map" || reduce === "max");
}

/** Where they end. */
export function strengthOf(state: State): Strength {
  return strengthsOf(state).includes(state.strength) ? state.strength : "relative";
}

/** The longer axis of a layer: the one that windows are counted along. */
export function longer(layer: Layer): Axis {
  return layer.queries >= layer.keys ? "query" : "key";
}

/** From the index of a query or key to that of what stands at the same position along the longer axis. */
function alongLonger(layer: Layer, axis: Axis): number {
  if (axis === longer(layer)) return 0;
  return axis === "query" ? (offset(layer) ?? 0) : -(offset(layer) ?? 0);
}

/** The window of indices that a view shows along an axis: where both axes have it, the same positions. */
export function windowOf(state: State, description: Description, axis: Axis, usual: number): [number, number] {
  const layer = description.layers[state.layer];
  const size = extent(layer, axis);
  const count = Math.min(state.count ?? usual, WINDOW, size);
  const own = axis === "key" ? state.keys : null;
  const first = clamp(own ?? state.first - alongLonger(layer, axis), 0, size - count);
  return [first, first + count];
}

/** Whether a window of indices, its end not in it, holds one. */
export function holds([first, end]: [number, number], index: number): boolean {
  return index >= first && index < end;
}

/** What brings the index of a query or key into its window: nothing where it is in sight. */
export function bringing(state: State, description: Description, axis: Axis, index: number, window: [number, number]): Partial<State> | null {
  if (holds(window, index)) return null;
  const start = Math.max(0, index - ((window[1] - window[0]) >> 1));
  return axis === "key" ? { keys: start } : { first: Math.max(0, start + alongLonger(description.layers[state.layer], axis)) };
}

/** What changes as a view is opened: its window comes to what is chosen. */
export function opening(state: State, description: Description, view: View): Partial<State> {
  const axis = state.query !== null ? "query" : "key";
  const chosen = state[axis];
  const layer = description.layers[state.layer];
  if ((view !== "heads" && view !== "text") || chosen === null) return { view };
  const along = longer(layer);
  const there = clamp(chosen + alongLonger(layer, axis), 0, extent(layer, along) - 1);
  const windows = (of: Axis): [number, number] => windowOf(state, description, of, USUAL_WINDOW[view]);
  const inside = holds(windows(axis), chosen) && (offset(layer) === null || holds(windows(along), there));
  const [first, end] = windows(axis);
  return inside ? { view } : { view, first: Math.max(0, there - ((end - first) >> 1)) };
}

export function clamp(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value));
}

function usualHeads(heads: number): number[] {
  return Array.from({ length: Math.min(heads, 16) }, (_, head) => head);
}

const MOST_FOUND = 200; // letters

function parseSides(text: string | null): [number, number] | null {
  const read = /^(\d{1,4})\.(\d{1,4})$/.exec(text ?? "");
  return read ? [Number(read[1]), Number(read[2])] : null;
}

function parseOther(text: string | null, description: Description): Other | null {
  const read = /^(\d{1,9})\.(\d{1,9})$/.exec(text ?? "");
  if (!read) return null;
  const layer = clamp(Number(read[1]), 0, description.layers.length - 1);
  return { layer, head: clamp(Number(read[2]), 0, description.layers[layer].heads - 1) };
}

function parseHeads(text: string, heads: number): number[] {
  const named = text.split(",").filter((part) => /^\d{1,9}$/.test(part));
  return [...new Set(named.map(Number))].filter((head) => head < heads).sort((a, b) => a - b);
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
