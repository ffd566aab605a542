/** What each view shows, as a drawing with its legend and as a table. */

import {
  type Ramp, colorOf, css, diverging, headColor, headDash, hiddenColor, legendColor, mix, paint, rampOf, rgb, stroke, ticksOf, textOn,
} from "../colors";
import { type Axis, type Description, type Layer, hasWeights, headName, label, cellsWithin, logitsWithin, position, positionName, visibleText, withinOf } from "../description";
import { sharesOfRows } from "../rows";
import { type Within, logitText, positionText, weightText } from "../numbers";
import { inPairs, partName, productsOf, sorted, wavelengthOf } from "../products";
import { PAIR, type Window, farthest, topOf } from "../questions";
import type { Source, Thumbnail } from "../source/source";
import { type State, isCompared, scaleOf, strengthOf } from "../state";
import { lineColor, lineShare, rampOfLines, strokeUnit, strongest } from "../views/lines";
import { cellUnit, inStrength } from "../views/model";
import { type Cells, cellsOf } from "./cells";
import { type Part, sameText } from "./commands";
import type { Field } from "./csv";
import { Drawing, type Ink, beside, fitted, ink, widthOf } from "./svg";

/** What is seen, and where its numbers come from. */
export interface Seen {
  source: Source;
  description: Description;
  state: State;
  part: Part;
  dark: boolean;
}

export interface Taken {
  /** What files of it are called, without an ending. */
  name: string;
  svg(): string;
  rows: Field[][];
}

/** Asks for the numbers of what is seen, and makes of them what can be taken away: of two heads, both. */
export async function take(seen: Seen): Promise<Taken> {
  const { state } = seen;
  if (!isCompared(state)) return takeOne(seen);
  const alone = { ...state, other: null };
  const [one, other] = await Promise.all([
    takeOne({ ...seen, state: { ...alone, heads: [state.head] } }),
    takeOne({ ...seen, state: { ...alone, ...state.other!, heads: [state.other!.head] } }),
  ]);
  return { name: `${one.name}-and-${other.name}`, svg: () => beside(one.svg(), other.svg()), rows: [...one.rows, ...other.rows.slice(1)] };
}

function takeOne(seen: Seen): Promise<Taken> {
  const { view } = seen.state;
  const layer = layer0(seen);
  if (view === "query-key" ? layer.kept !== undefined : (view === "heads" || view === "text") && !hasWeights(layer)) {
    return Promise.reject(new Error("these maps were reduced while the model ran: there are no single weights to save; save the map"));
  }
  switch (seen.state.view) {
    case "map":
      return takeMap(seen);
    case "heads":
      return takeHeads(seen);
    case "text":
      return takeText(seen);
    case "model":
      return takeModel(seen);
    case "query-key":
      return takePair(seen);
  }
}

interface Frame {
  drawing: Drawing;
  ink: Ink;
  layer: Layer;
  name: string;
}

function framed({ description, state, dark }: Seen, what: string, ofHead = true): Frame {
  const layer = description.layers[state.layer];
  const head = ofHead ? `, head ${headName(layer, state.head)}` : "";
  const text = layer.text === undefined ? "" : `${layer.text}, `;
  const place = state.view === "model" ? text.replace(/, $/, "") : `${text}layer ${layer.label}${head}`;
  const title = [place, what, layer.pattern, description.source].filter((said) => said !== "").join(" \u00b7 ");
  const colors = ink(dark);
  const drawing = new Drawing(title, colors);
  drawing.text(16, 24, title, { bold: true });
  const name = `attention ${place} ${state.view}`.replace(/[^\p{L}\p{N}.]+/gu, "-").replace(/-$/, "");
  return { drawing, ink: colors, layer, name };
}

/** The patch of what is not visible, said beside it. */
function notVisible(drawing: Drawing, x: number, y: number, dark: boolean): void {
  drawing.rect(x, y, 11, 11, css(hiddenColor(dark)), { stroke: drawing.ink.line });
  drawing.text(x + 17, y + 10, "not visible", { color: drawing.ink.muted, size: 11 });
}

function tokenOf(description: Description, layer: Layer, axis: Axis, index: number): string {
  const token = label(description, layer, axis, index);
  return token === null ? "" : visibleText(token).trim();
}

function within(layer: Layer, head: number, weight: number): number {
  const { by, share } = withinOf(layer, head);
  if (Number.isNaN(weight)) return Number.NaN;
  return share === Number.POSITIVE_INFINITY ? by : Math.min(by, weight * Math.expm1(share));
}

const WEIGHT_ROW = ["layer", "head", "query", "query_token", "key", "key_token", "weight", "within"];

function weightNames(layer: Layer): string[] {
  return WEIGHT_ROW.map((name) => (name === "weight" && layer.unit ? layer.unit : name));
}

function weightRow(seen: Seen, head: number, query: number, key: number, weight: number): Field[] {
  const { description, state } = seen;
  const layer = description.layers[state.layer];
  return [
    layer.label,
    headName(layer, head),
    position(layer, "query", query),
    label(description, layer, "query", query),
    position(layer, "key", key),
    label(description, layer, "key", key),
    weight,
    within(layer, head, weight),
  ];
}

/** Each query's largest weight, where colors are by row. */
async function rowsOf({ source, state }: Seen, head: number): Promise<Float32Array | null> {
  return strengthOf(state) === "row" ? (await source.sides(state.layer, head)).largest : null;
}

async function takeMap(seen: Seen): Promise<Taken> {
  const { source, description, state, part, dark } = seen;
  const { drawing, layer, name } = framed(seen, state.reduce === "mass" ? "mass" : "");
  const of = { layer, index: state.layer, head: state.head, reduce: state.reduce };
  const [cells, whole] = await Promise.all([
    cellsOf(source, of, part),
    state.reduce === "max" ? source.tile(state.layer, state.head, 0, 0, 0, "max") : null,
  ]);
  const { size, first, rows, columns, values } = cells;
  const [strength, byRow] = [strengthOf(state), await rowsOf(seen, state.head)];
  const colors = rampOf(layer, scaleOf(state, description), strength, topOf(whole ?? values, strength, layer.signed));
  const painted = byRow ? sharesOfRows(values, columns, byRow, first.query / size, size) : values;
  const side = Math.max(1, Math.min(28, 660 / Math.max(rows, columns)));
  const named = (axis: Axis): string[] =>
    Array.from({ length: axis === "query" ? rows : columns }, (_, i) => {
      const index = first[axis] + i * size;
      const token = size === 1 ? tokenOf(description, layer, axis, index) : "";
      return token === "" ? positionText(position(layer, axis, index)) : `${token} ${positionText(position(layer, axis, index))}`;
    });
  const names = { query: named("query"), key: named("key") };
  const every = Math.ceil(14 / side);
  const longest = (all: string[]): number => Math.min(110, Math.max(...all.filter((_, i) => i % every === 0).map((one) => widthOf(one, 11))));
  const left = 34 + longest(names.query);
  const above = 54 + longest(names.key);
  drawing.text(16, above + (rows * side) / 2, "query", { color: drawing.ink.muted, anchor: "middle", turned: true });
  drawing.text(left + (columns * side) / 2, 46, "key", { color: drawing.ink.muted, anchor: "middle" });
  for (let i = 0; i < rows; i += every) {
    drawing.text(left - 6, above + (i + 0.5) * side + 4, fitted(names.query[i], 110, 11), { anchor: "end", size: 11 });
  }
  for (let i = 0; i < columns; i += every) {
    drawing.text(left + (i + 0.5) * side + 4, above - 6, fitted(names.key[i], 110, 11), { size: 11, turned: true });
  }
  paintCells(drawing, cells, painted, colors, dark, left, above, side, names, cellsWithin(layer, state.head, state.reduce, size));
  drawing.rect(left, above, columns * side, rows * side, "none", { stroke: drawing.ink.line });
  const unit = state.reduce === "max" ? (size === 1 ? "weight" : `largest weight in ${size} \u00d7 ${size}`) : size === 1 ? "weight" : `mass in ${size} \u00d7 ${size}`;
  const bottom = above + rows * side + 14;
  drawing.legend(left, bottom, 220, layer.unit === "score" ? "score (logit)" : layer.unit ? `difference of ${unit}` : byRow ? `${unit}, as a share of the row\u2019s largest` : unit, legendColor(colors, dark), ticksOf(colors));
  notVisible(drawing, left + 244, bottom + 17, dark);
  const width = Math.max(left + columns * side, left + 340, widthOf(drawing.title)) + 24;
  return { name, svg: () => drawing.svg(width, bottom + 62), rows: cellRows(seen, cells) };
}

const MOST_RECTS = 4096;

function paintCells(
  drawing: Drawing, cells: Cells, painted: Float32Array, colors: Ramp, dark: boolean, left: number, top: number, side: number, names: Record<Axis, string[]>, within: Within,
): void {
  const { rows, columns, values } = cells;
  if (rows * columns > MOST_RECTS) {
    drawing.image(left, top, columns * side, rows * side, picture(painted, columns, rows, colors, dark));
    return;
  }
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const value = values[y * columns + x];
      const hidden = Number.isNaN(value);
      const fill = css(hidden ? hiddenColor(dark) : colorOf(colors, painted[y * columns + x], dark));
      const said = `${names.query[y]} \u2192 ${names.key[x]}: ${hidden ? "not visible" : weightText(value, within)}`;
      drawing.rect(left + x * side, top + y * side, side, side, fill, { said });
    }
  }
}

/** Cells as the address of a PNG, a pixel each. */
function picture(values: Float32Array, columns: number, rows: number, colors: Ramp, dark: boolean): string {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const image = new ImageData(columns, rows);
  paint(values, colors, new Uint32Array(image.data.buffer), dark);
  canvas.getContext("2d")!.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

/** A row a cell that is visible: of single weights, or of cells with the ends of what they stand for. */
export function cellRows(seen: Seen, { size, first, rows, columns, values }: Cells): Field[][] {
  const { description, state } = seen;
  const layer = description.layers[state.layer];
  const single = size === 1;
  const found: Field[][] = [single ? weightNames(layer) : ["layer", "head", "first_query", "last_query", "first_key", "last_key", state.reduce === "max" ? "largest_weight" : "mass"]];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const value = values[y * columns + x];
      if (Number.isNaN(value)) continue;
      const [query, key] = [first.query + y * size, first.key + x * size];
      if (single) found.push(weightRow(seen, state.head, query, key, value));
      else {
        const ends = (axis: Axis, at: number, end: number) => [position(layer, axis, at), position(layer, axis, Math.min(at + size, end) - 1)];
        found.push([layer.label, headName(layer, state.head), ...ends("query", query, layer.queries), ...ends("key", key, layer.keys), value]);
      }
    }
  }
  return found;
}

async function takeHeads(seen: Seen): Promise<Taken> {
  const { source, description, state, part, dark } = seen;
  const { drawing, layer, name } = framed(seen, `heads ${state.heads.map((head) => headName(layer0(seen), head)).join(", ")}`, false);
  const { queries, keys } = part;
  const rectangle = { queries: [...queries] as [number, number], keys: [...keys] as [number, number] };
  const heads = await Promise.all(
    state.heads.map(async (head) => ({ head, values: await source.weights(state.layer, head, rectangle) })),
  );
  const pinned = state.query !== null ? { axis: "query" as const, index: state.query } : state.key !== null ? { axis: "key" as const, index: state.key } : null;
  const place = pinned && holds(part[pinned.axis === "query" ? "queries" : "keys"], pinned.index) ? pinned : null;
  const found = strongest(heads, queries, keys, place);
  const largest = new Map(await Promise.all(state.heads.map(async (head) => [head, await rowsOf(seen, head)] as const)));
  const colors = rampOfLines(layer, strengthOf(state), heads, found.top);
  const [row, top] = [20, 60];
  const labels = (axis: Axis, [from, end]: Window): string[] => Array.from({ length: end - from }, (_, i) => positionName(description, layer, axis, from + i));
  const names = { query: labels("query", queries), key: labels("key", keys) };
  const room = Math.min(220, Math.max(60, ...names.query.map((one) => widthOf(one)), ...names.key.map((one) => widthOf(one))));
  const [left, right] = [24 + room, 24 + room + 260];
  drawing.text(left, 46, "query", { anchor: "end", color: drawing.ink.muted });
  drawing.text(right, 46, "key", { color: drawing.ink.muted });
  for (const { head, query, key, weight } of found.lines) {
    const [from, to] = [top + (query - queries[0] + 0.5) * row, top + (key - keys[0] + 0.5) * row];
    const { alpha, width } = stroke(lineShare(colors, largest.get(head) ?? null, query, weight), place !== null);
    const d = `M${left + 6} ${from}C${left + 90} ${from} ${right - 90} ${to} ${right - 6} ${to}`;
    const said = `head ${headName(layer, head)}: ${names.query[query - queries[0]]} \u2192 ${names.key[key - keys[0]]}: ${weightText(weight, withinOf(layer, head))}`;
    drawing.path(d, lineColor(layer, head, weight, dark), { alpha, width, dash: headDash(head), said });
  }
  for (const [i, said] of names.query.entries()) drawing.text(left, top + (i + 0.5) * row + 4, fitted(said, room), { anchor: "end", bold: place?.axis === "query" && place.index === queries[0] + i });
  for (const [i, said] of names.key.entries()) drawing.text(right, top + (i + 0.5) * row + 4, fitted(said, room), { bold: place?.axis === "key" && place.index === keys[0] + i });
  let bottom = top + Math.max(names.query.length, names.key.length) * row + 14;
  let x = 16;
  for (const { head } of heads) {
    const said = `head ${headName(layer, head)}`;
    if (x > right + room - 60) [x, bottom] = [16, bottom + 18];
    drawing.path(`M${x} ${bottom + 6}h18`, headColor(head), { alpha: 1, width: 3, dash: headDash(head) });
    drawing.text(x + 22, bottom + 10, said, { size: 11 });
    x += 36 + widthOf(said, 11);
  }
  const tall = drawing.legend(16, bottom + 20, 200, strokeUnit(layer, strengthOf(state)), (share) => mix(rgb(dark ? 0x16181d : 0xffffff), rgb(dark ? 0xececf1 : 0x1b1b20), share), ticksOf(colors));
  const rows: Field[][] = [weightNames(layer)];
  const wide = keys[1] - keys[0];
  for (const { head, values } of heads) {
    for (const [i, weight] of values.entries()) {
      const [query, key] = [queries[0] + Math.floor(i / wide), keys[0] + (i % wide)];
      if (Number.isNaN(weight) || (place && (place.axis === "query" ? query : key) !== place.index)) continue;
      rows.push(weightRow(seen, head, query, key, weight));
    }
  }
  const width = Math.max(right + room + 24, widthOf(drawing.title) + 32);
  return { name, svg: () => drawing.svg(width, bottom + 30 + tall), rows };
}

function layer0({ description, state }: Seen): Layer {
  return description.layers[state.layer];
}

function holds([first, end]: Window, index: number): boolean {
  return index >= first && index < end;
}

async function takeText(seen: Seen): Promise<Taken> {
  const { source, description, state, part, dark } = seen;
  const layer = layer0(seen);
  const picks: Axis = state.flow === "gives" ? "query" : "key";
  const shades: Axis = picks === "query" ? "key" : "query";
  const picked = state[picks];
  if (picked === null && layer.kept !== undefined) throw new Error("pick a token: what keys receive was not kept with these maps");
  const values = await (picked === null
    ? source.sides(state.layer, state.head).then(({ received }) => received)
    : picks === "query"
      ? source.row(state.layer, state.head, picked)
      : source.column(state.layer, state.head, picked));
  const axis = picked === null ? "key" : shades;
  const what = picked === null ? "mean weight received" : picks === "query" ? `what ${positionName(description, layer, "query", picked)} attends to` : `what attends to ${positionName(description, layer, "key", picked)}`;
  const { drawing, name } = framed(seen, what);
  const colors = rampOf(layer, scaleOf(state, description), strengthOf(state), topOf(values, strengthOf(state), layer.signed));
  const [first, end] = part[axis === "query" ? "queries" : "keys"];
  const rows: Field[][] = [["layer", "head", axis, `${axis}_token`, picked === null ? "mean_weight_received" : "weight", "within"]];
  const width = Math.max(760, widthOf(drawing.title) + 32);
  let [x, y] = [16, 44];
  for (let index = first; index < end; index++) {
    const value = values[index];
    const token = label(description, layer, axis, index);
    rows.push([layer.label, headName(layer, state.head), position(layer, axis, index), token, value, within(layer, state.head, value)]);
    const said = token === null ? positionText(position(layer, axis, index)) : visibleText(token).trim();
    const room = widthOf(said) + 10;
    if (x + room > width - 16) [x, y] = [16, y + 26];
    const color = Number.isNaN(value) ? null : colorOf(colors, value, dark);
    const hint = `${positionName(description, layer, axis, index)}: ${weightText(value, withinOf(layer, state.head))}`;
    drawing.rect(x, y, room, 20, color ? css(color) : "none", { radius: 3, said: hint, stroke: color ? "none" : drawing.ink.line });
    drawing.text(x + 5, y + 14, said, { color: color ? textOn(color) : drawing.ink.muted, bold: axis === picks && index === picked });
    x += room + 4;
    if (token !== null && /\n/.test(token)) [x, y] = [16, y + 26];
  }
  drawing.legend(16, y + 34, 220, picked === null ? `mean ${layer.unit ?? "weight"} received from all ${layer.queries} queries` : "weight", legendColor(colors, dark), ticksOf(colors));
  return { name, svg: () => drawing.svg(width, y + 96), rows };
}

async function takeModel(seen: Seen): Promise<Taken> {
  const { source, description, state, dark } = seen;
  const { drawing, name } = framed(seen, "every head", false);
  const shown = sameText(description, layer0(seen));
  const scale = scaleOf(state, description);
  const names = description.statistics?.map((one) => one.name) ?? [];
  const rows: Field[][] = [["layer", "head", layer0(seen).signed ? `farthest_${layer0(seen).unit}` : "largest_weight", "of_queries", ...names, ...(names.length > 0 ? ["tag", "tag_score"] : [])]];
  const side = 64;
  const most = Math.max(...shown.map(({ heads }) => heads));
  for (const [y, layer] of shown.entries()) {
    const index = description.layers.indexOf(layer);
    drawing.text(50, 62 + y * (side + 22) + side / 2, layer.label, { anchor: "end" });
    const heads = Array.from({ length: layer.heads }, (_, head) => head);
    const found = await Promise.all(
      heads.map(async (head): Promise<[Thumbnail, Record<string, Field> | null]> => [await source.thumbnail(index, head, state.all), names.length > 0 ? await source.statistics(index, head) : null]),
    );
    for (const [head, [thumbnail, numbers]] of found.entries()) {
      const most = farthest(thumbnail.values);
      const colors = rampOf(layer, scale, strengthOf(state), topOf(thumbnail.values, strengthOf(state), layer.signed));
      const at: [number, number] = [60 + head * (side + 8), 62 + y * (side + 22)];
      drawing.image(...at, side, side, picture(inStrength(strengthOf(state), thumbnail), thumbnail.columns, thumbnail.rows, colors, dark));
      drawing.rect(...at, side, side, "none", { stroke: drawing.ink.line });
      drawing.text(at[0] + side / 2, at[1] + side + 13, `${headName(layer, head)}: ${thumbnail.queries === null ? "" : "\u2265 "}${weightText(most, withinOf(layer, head))}`, { anchor: "middle", size: 10, color: drawing.ink.muted });
      rows.push([layer.label, headName(layer, head), most, thumbnail.queries ?? layer.queries, ...[...names, ...(names.length > 0 ? ["tag", "tag_score"] : [])].map((one) => numbers?.[one] ?? null)]);
    }
  }
  const bottom = 62 + shown.length * (side + 22) + 10;
  const legend = rampOf(shown[0], scale, strengthOf(state), null);
  drawing.legend(60, bottom, 220, cellUnit(shown[0], strengthOf(state)), legendColor(legend, dark), ticksOf(legend));
  notVisible(drawing, 300, bottom + 17, dark);
  const width = Math.max(60 + most * (side + 8), 420, widthOf(drawing.title)) + 24;
  return { name, svg: () => drawing.svg(width, bottom + 62), rows };
}

async function takePair(seen: Seen): Promise<Taken> {
  const { source, description, state } = seen;
  const layer = layer0(seen);
  const [query, key] = [state.query ?? layer.queries - 1, state.key ?? 0];
  const of = { layer: state.layer, head: state.head, query, key };
  const [pair, vectors] = await Promise.all([
    PAIR.ask(source, of, new AbortController().signal),
    layer.given ? null : source.vectors(state.layer, state.head, query, [key]),
  ]);
  const names = `${positionName(description, layer, "query", query)} \u2192 ${positionName(description, layer, "key", key)}`;
  const { drawing, name } = framed(seen, names);
  const dim = layer.head_dim;
  const products = vectors === null ? [] : productsOf(layer, vectors.subarray(0, dim), vectors.subarray(dim));
  const pairs = state.pairs && layer.rotary !== undefined;
  const parts = sorted(pairs ? inPairs(products, description, layer) : products, state.sort);
  const logit = pair.logit === null ? "" : `logit ${logitText(pair.logit, logitsWithin(layer, state.head))}, `;
  drawing.text(16, 46, `${logit}weight ${weightText(pair.weight, withinOf(layer, state.head))}`);
  const most = Math.max(1e-9, ...parts.map(({ product }) => Math.abs(product)));
  const each = Math.max(5, Math.min(24, 760 / Math.max(1, parts.length)));
  const [zero, tall] = [170, 100];
  for (const [i, part] of parts.entries()) {
    const { dimension, q, k, product } = part;
    const height = (Math.abs(product) / most) * tall;
    const color = css(diverging(product < 0 ? -0.6 : 0.6, seen.dark));
    drawing.rect(16 + i * each, product < 0 ? zero : zero - height, each * 0.8, height, color, { said: part.other === undefined ? `dimension ${dimension}: ${q} \u00d7 ${k} \u00d7 scale = ${product}` : `dimensions ${partName(part)}: ${product}` });
    if (i % Math.ceil(22 / each) === 0) drawing.text(16 + (i + 0.4) * each, zero + tall + 16, `${dimension}`, { size: 10, anchor: "middle", color: drawing.ink.muted });
  }
  drawing.line(16, zero, 16 + parts.length * each, zero, drawing.ink.line);
  drawing.text(16, zero + tall + 34, `bars: query \u00d7 key \u00d7 scale of each ${pairs ? "pair that turns together, then of each other dimension" : "dimension"}, to \u00b1${most.toPrecision(3)}; red raises the score, blue lowers it`, { size: 11, color: drawing.ink.muted });
  const rows: Field[][] = [
    pairs ? ["dimension", "other_dimension", "tokens_to_turn", "query_length", "key_length", "product", "within"] : ["dimension", "query", "key", "product", "within"],
    ...parts.map((part): Field[] => [part.dimension, ...(pairs ? [part.other ?? null, wavelengthOf(part)] : []), part.q, part.k, part.product, part.by.product]),
  ];
  const width = Math.max(32 + parts.length * each, widthOf(drawing.title) + 32, 620);
  return { name, svg: () => drawing.svg(width, zero + tall + 48), rows };
}

