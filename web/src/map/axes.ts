/** The axes of the map: positions and tokens beside what they stand for, drawn again as the map moves. */

import { type Axis, type Description, type Layer, extent, label, position, visibleText } from "../description";
import { countText, roundStep } from "../numbers";

export interface AxisView {
  axis: Axis;
  first: number; // index at the start of the canvas, with its fraction
  pixels: number; // CSS pixels an index
  marked: number | null;
  hovered: [number, number] | null; // half-open
  found: ReadonlySet<number>; // what is looked for
  global: ReadonlySet<number>; // tokens that every query sees, or that see every key
}

const FOUND = "#d98c00";
const GLOBAL = "#1f9e89";

/** Draws an axis over all of a canvas: queries down its height, keys across its width. */
export function drawAxis(canvas: HTMLCanvasElement, description: Description, layer: Layer, view: AxisView): void {
  const down = view.axis === "query";
  const { clientWidth: width, clientHeight: height } = canvas;
  const sharp = devicePixelRatio || 1;
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  const context = canvas.getContext("2d")!;
  context.scale(sharp, sharp);
  const style = getComputedStyle(canvas);
  const [text, muted, accent] = ["--text", "--muted", "--accent"].map((name) => style.getPropertyValue(name).trim());
  context.font = `11.5px ${style.fontFamily}`;
  context.textBaseline = "middle";

  const size = extent(layer, view.axis);
  const labelled = (down ? layer.query_labels : layer.key_labels) !== null;
  const upright = !down && !labelled; // numbers alone lie across
  const step = roundStep((upright ? 64 : 15) / view.pixels);
  const length = down ? height : width;
  const room = (down ? width : upright ? 200 : height) - 10;
  // Round positions, where they follow each other.
  const shift = position(layer, view.axis, 0) % step;
  const from = Math.floor((Math.max(0, view.first) + shift) / step) * step - shift;
  const to = Math.min(size, view.first + length / view.pixels);

  const at = (index: number): number => (index + 0.5 - view.first) * view.pixels;
  const draw = (index: number, ink: string, bold: boolean): void => {
    const middle = at(index);
    const number = countText(position(layer, view.axis, index));
    if (middle < 0 || middle > length) return;
    const half = upright ? context.measureText(number).width / 2 + 3 : 7;
    const place = Math.max(half, Math.min(length - half, middle)); // not cut at the ends
    context.save();
    context.font = `${bold ? "600 " : ""}11.5px ${style.fontFamily}`;
    if (down) context.translate(width - 6, place);
    else {
      context.translate(place, height - 6);
      if (!upright) context.rotate(-Math.PI / 2);
    }
    context.textAlign = down ? "right" : upright ? "center" : "left";
    const token = label(description, layer, view.axis, index);
    context.fillStyle = bold ? ink : token === null ? ink : muted;
    if (token === null) {
      context.fillText(number, 0, upright ? -6 : 0);
    } else if (down) {
      context.fillText(number, 0, 0);
      const taken = context.measureText(number).width + 6;
      context.fillStyle = ink;
      context.fillText(cut(context, visibleText(token).trim(), room - taken), -taken, 0);
    } else {
      const taken = context.measureText(number).width + 6;
      context.fillText(number, 0, 0);
      context.fillStyle = ink;
      context.fillText(cut(context, visibleText(token).trim(), room - taken), taken, 0);
    }
    context.restore();
  };

  // What is global, and what is found, is marked at its place, however small, and named where there is room.
  for (const [indices, ink] of [[view.global, GLOBAL], [view.found, FOUND]] as const) {
    context.fillStyle = ink;
    for (const index of indices) {
      const place = at(index) - view.pixels / 2;
      const size = Math.max(2, view.pixels);
      if (place + size < 0 || place > length) continue;
      if (down) context.fillRect(width - 4, place, 4, size);
      else context.fillRect(place, height - 4, size, 4);
    }
  }

  const special = view.hovered ? Math.floor((view.hovered[0] + view.hovered[1] - 1) / 2) : view.marked;
  const near = (upright ? 56 : 15) / view.pixels;
  for (let index = from < 0 ? from + step : from; index < to; index += step) {
    const hides = [view.marked, view.hovered ? special : null].some(
      (other) => other !== null && other !== index && Math.abs(other - index) < near,
    );
    if (!hides && index !== view.marked && index !== special) draw(index, text, false);
  }
  if (view.marked !== null && !(view.hovered && special !== view.marked && Math.abs(special! - view.marked) < near)) {
    draw(view.marked, accent, true);
  }
  if (view.hovered && special !== view.marked) draw(special!, text, true);
}

/** A text, its end cut where there is no room. */
export function cut(context: CanvasRenderingContext2D, text: string, room: number): string {
  if (context.measureText(text).width <= room) return text;
  const letters = [...text];
  while (letters.length > 1 && context.measureText(`${letters.join("")}\u2026`).width > room) letters.pop();
  return `${letters.join("")}\u2026`;
}
