/** Lines between tokens: which weights are drawn, how strong, and the picture of them. */

import { type Ramp, css, diverging, headColor, headDash, stroke, weightRamp } from "../colors";
import { type Axis, type Layer, withinOf } from "../description";
import type { Place } from "../focus";
import { weightText } from "../numbers";
import { type Window, robust } from "../questions";
import type { Strength } from "../state";

const ROW_HEIGHT = 24; // CSS pixels a token, at least

/** CSS pixels a token of so many rows: more where there is room for it. */
export function rowHeight(rows: number, { width, height }: { width: number; height: number }): number {
  return Math.max(ROW_HEIGHT, Math.min(48, Math.floor(width / 80), Math.floor(height / Math.max(1, rows))));
}

const MOST_LINES = 5000; // of one picture

/** One head's weights over the window, or of each key one. */
export interface HeadWeights {
  head: number;
  values: Float32Array; // (queries, keys) of the window
}

/** A weight that is drawn as a line. */
export interface Line {
  head: number;
  query: number;
  key: number;
  weight: number;
}

/** A line's color: its head's, or of a difference what tells which side is larger. */
export function lineColor(layer: Layer, head: number, weight: number, dark: boolean): string {
  return layer.signed ? css(diverging(weight < 0 ? -0.75 : 0.75, dark)) : headColor(head);
}

/** The scale of lines: `largest` is that of what is shown; where few are beyond is of each head's weights, of the head with the most. */
export function rampOfLines(layer: Layer, strength: Strength, heads: readonly HeadWeights[], largest: number): Ramp {
  const few = strength === "robust" ? Math.max(0, ...heads.map(({ values }) => robust(values, layer.signed))) : 0;
  return weightRamp("linear", strength, few || largest, layer.keys);
}

/** How strong a line is, 0 to 1; by row, of its query's largest weight. */
export function lineShare(ramp: Ramp, largest: Float32Array | null, query: number, weight: number): number {
  return ramp.share(Math.abs(weight) / (largest?.[query] || 1));
}

/** What the strength of lines is of. */
export function strokeUnit({ unit }: Layer, strength: Strength): string {
  if (strength === "row") return `${unit ?? "weight"}, as a share of the query\u2019s largest`;
  if (unit === undefined) return "weight";
  return `size of the ${unit}; ${unit === "difference" ? "red: the first is larger, blue: the second" : "red: above 0, blue: below"}`;
}

/** The strongest lines, the strongest last; with a place, those that start or end there. */
export function strongest(
  heads: HeadWeights[],
  queries: Window,
  keys: Window,
  place: Place | null,
): { top: number; most: number; head: number; lines: Line[] } {
  const width = keys[1] - keys[0];
  const from = place?.axis === "query" ? place.index : queries[0];
  const to = place?.axis === "query" ? place.index + 1 : queries[1];
  const left = place?.axis === "key" ? place.index : keys[0];
  const right = place?.axis === "key" ? place.index + 1 : keys[1];
  let most = 0; // the weight farthest from 0
  let of = heads[0]?.head ?? 0;
  for (const { head, values } of heads) {
    for (let t = from; t < to; t++) {
      for (let s = left; s < right; s++) {
        const weight = values[(t - queries[0]) * width + s - keys[0]];
        if (Math.abs(weight) > Math.abs(most)) [most, of] = [weight, head];
      }
    }
  }
  const top = Math.abs(most);
  // Counted in bins first: a window of 512 x 512 in 16 heads has four million weights, and a few thousand lines are seen.
  const bins = new Float64Array(256);
  const bin = (weight: number): number => Math.min(255, Math.floor((Math.abs(weight) / top) * 256));
  const each = (use: (head: number, query: number, key: number, weight: number) => void): void => {
    for (const { head, values } of heads) {
      for (let t = from; t < to; t++) {
        for (let s = left; s < right; s++) {
          const weight = values[(t - queries[0]) * width + s - keys[0]];
          if (Math.abs(weight) > 0) use(head, t, s, weight);
        }
      }
    }
  };
  each((_head, _query, _key, weight) => bins[bin(weight)]++);
  let least = 255;
  for (let count = bins[255]; least > (place ? 0 : 3) && count + bins[least - 1] <= MOST_LINES; least--) count += bins[least - 1];
  const lines: Line[] = [];
  each((head, query, key, weight) => {
    if (bin(weight) >= least && lines.length < 4 * MOST_LINES) lines.push({ head, query, key, weight });
  });
  return { top, most, head: of, lines: lines.sort((a, b) => Math.abs(a.weight) - Math.abs(b.weight)) }; // the strongest are drawn last
}

/** What a picture of lines is of, and where things stand in it, in CSS pixels. */
export interface Picture {
  layer: Layer;
  heads: readonly number[]; // those that are shown, in their order
  windows: Record<Axis, Window>;
  place: Place | null; // the token whose lines alone are drawn
  width: number;
  height: number;
  row: number; // a token's height
  gap: number; // the tokens' share of the width, each side
  bars: number; // between a token and its lines
  scrolled: number;
  dark: boolean;
  shareOf(line: Line): number; // how strong a line is, 0 to 1
}

/** Draws lines, the strongest last, and at a token's other ends a bar for each head; or what keys receive of all queries. */
export function draw(element: HTMLCanvasElement, picture: Picture, lines: readonly Line[], received: readonly HeadWeights[]): void {
  const sharp = devicePixelRatio || 1;
  element.width = Math.round(picture.width * sharp);
  element.height = Math.round(picture.height * sharp);
  const context = element.getContext("2d")!;
  context.scale(sharp, sharp);
  for (const line of lines) drawLine(context, picture, line);
  context.setLineDash([]);
  const { place, windows } = picture;
  if (place === null) {
    for (const { head, values } of received) {
      for (let key = windows.key[0]; key < windows.key[1]; key++) drawBar(context, picture, "key", { head, query: 0, key, weight: values[key] });
    }
    return;
  }
  const other: Axis = place.axis === "query" ? "key" : "query";
  for (const line of lines) drawBar(context, picture, other, line);
  const style = getComputedStyle(element);
  context.font = `${(11 * picture.row) / ROW_HEIGHT}px ${style.fontFamily}`;
  context.fillStyle = style.color;
  drawNumbers(context, picture, other, lines);
}

/** Where the lines of both sides begin. */
function ends({ width, gap }: Picture): { query: number; key: number } {
  return { query: width * gap, key: width * (1 - gap) };
}

/** The middle of a token's row. */
function middle({ windows, scrolled, row }: Picture, axis: Axis, index: number): number {
  return (index - windows[axis][0] + 0.5) * row - scrolled;
}

function drawLine(context: CanvasRenderingContext2D, picture: Picture, line: Line): void {
  const { layer, heads, place, height, row, dark } = picture;
  const { head, query, key, weight } = line;
  const spread = place ? row - 10 : 6; // heads side by side where their lines meet
  const lane = ((heads.indexOf(head) + 0.5) / heads.length - 0.5) * spread;
  const from = middle(picture, "query", query) + (place?.axis === "query" ? 0 : lane);
  const to = middle(picture, "key", key) + (place?.axis === "key" ? 0 : lane);
  if (Math.max(from, to) < -row || Math.min(from, to) > height + row) return;
  const { query: left, key: right } = ends(picture);
  const { alpha, width } = stroke(picture.shareOf(line), place !== null);
  context.strokeStyle = lineColor(layer, head, weight, dark);
  context.setLineDash(headDash(head));
  context.globalAlpha = alpha;
  context.lineWidth = width;
  context.beginPath();
  context.moveTo(left, from);
  context.bezierCurveTo(left + (right - left) * 0.35, from, right - (right - left) * 0.35, to, right, to);
  context.stroke();
}

/** A head's bar beside a token. */
function drawBar(context: CanvasRenderingContext2D, picture: Picture, axis: Axis, line: Line): void {
  if (!(Math.abs(line.weight) > 0)) return;
  const { layer, heads, bars, height, row, dark } = picture;
  const y = middle(picture, axis, line[axis]) - row / 2 + 2;
  if (y < -row || y > height) return;
  const { query: left, key: right } = ends(picture);
  const room = bars / heads.length;
  const x = (axis === "key" ? right : left - bars) + heads.indexOf(line.head) * room;
  context.globalAlpha = picture.shareOf(line);
  context.fillStyle = lineColor(layer, line.head, line.weight, dark);
  context.fillRect(x, y, Math.max(1, room - 1), row - 4);
}

/** Of each token the largest weight, as a number at the end of its lines. */
function drawNumbers(context: CanvasRenderingContext2D, picture: Picture, axis: Axis, lines: readonly Line[]): void {
  const written = new Map<number, Line>();
  for (const line of lines) {
    if (Math.abs(line.weight) >= Math.abs(written.get(line[axis])?.weight ?? 0)) written.set(line[axis], line);
  }
  const { query: left, key: right } = ends(picture);
  context.globalAlpha = 1;
  context.textBaseline = "middle";
  context.textAlign = axis === "key" ? "right" : "left";
  for (const [index, line] of written) {
    if (picture.shareOf(line) < 0.02) continue;
    const text = weightText(line.weight, withinOf(picture.layer, line.head));
    context.fillText(text, axis === "key" ? right - 6 : left + 6, middle(picture, axis, index) - picture.row / 4);
  }
}
