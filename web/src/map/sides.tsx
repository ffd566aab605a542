/** What stands at the sides of the map: what each key receives below it, each query's entropy to its right. */

import { useEffect, useRef } from "preact/hooks";
import { type Asked, known, part, pending } from "../answers";
import { type Axis, type Layer, extent, isCheap, sidesWithin } from "../description";
import { logitText, tickText, weightText } from "../numbers";
import { type OfHead, SIDES } from "../questions";
import { useAnswer, useSession, useStore } from "../session";
import type { Sides } from "../source/source";
import type { Moving } from "./leaflet";

/** Whether there can be numbers at the sides: of weights; a difference, or scores, have no entropy. */
export function hasSides(layer: Layer): boolean {
  return layer.kept === undefined && !layer.signed;
}

/** Whether they stand there: where nobody said, where they are there at once. */
export function useMargins(): boolean {
  const { description } = useSession();
  const { state, layer } = useStore();
  return hasSides(layer) && (state.margins ?? isCheap(description, layer));
}

/** The numbers at the sides of the head that is shown. */
export function useSides(): Asked<OfHead, Sides> {
  const { state } = useStore();
  const shown = useMargins();
  return useAnswer(SIDES, shown ? { layer: state.layer, head: state.head } : null);
}

/** What a key receives, in words. */
export function receivedText(layer: Layer, head: number, value: number): string {
  return Number.isNaN(value) ? "nothing: no query sees it" : weightText(value, sidesWithin(layer, head));
}

/** A query's entropy, in words: a share `d` of each weight changes it by no more than `d` times itself and 1. */
export function entropyText(layer: Layer, head: number, value: number): string {
  if (Number.isNaN(value)) return "none";
  return `${logitText(value, (value + 1) * Math.expm1(sidesWithin(layer, head).share))} nats`;
}

const NAMES = {
  key: ["weight received", "", "The mean weight that a key receives, over all queries that see it"],
  query: ["entropy", " nats", "The entropy of a query\u2019s weights"],
} as const;

export function MapSides(props: { moving: Moving; dark: boolean }) {
  const asked = useSides();
  return (
    <>
      <Side axis="key" numbers={part(asked, ({ received }) => received)} {...props} />
      <Side axis="query" numbers={part(asked, ({ entropy }) => entropy)} {...props} />
    </>
  );
}

/** The numbers of one axis as bars from 0, with what their largest is. */
function Side(props: { axis: Axis; numbers: Asked<OfHead, Float32Array>; moving: Moving; dark: boolean }) {
  const { layer } = useStore();
  const { axis, moving, dark } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const numbers = known(props.numbers);
  const top = numbers?.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0) ?? 0;
  useEffect(() => {
    const map = moving.map.current;
    if (!map) return;
    const corner = map.containerPointToLatLng([0, 0]);
    const first = axis === "query" ? -corner.lat : corner.lng;
    drawSide(canvas.current!, numbers, { down: axis === "query", first, pixels: 2 ** map.getZoom(), top, size: extent(layer, axis) });
  }, [numbers, moving.moves, moving.size.width, moving.size.height, dark]);
  const [name, unit, about] = NAMES[axis];
  return (
    <>
      <canvas class={`side side-${axis}`} ref={canvas} aria-hidden="true" />
      <p class={`side-name side-name-${axis}`} title={about}>
        {name}
        <span>{numbers === null ? pending(props.numbers) : `to ${tickText(top)}${unit}`}</span>
      </p>
    </>
  );
}

interface SideView {
  down: boolean;
  first: number; // index at the start of the canvas, with its fraction
  pixels: number; // CSS pixels an index
  top: number; // the number that the far end stands for
  size: number; // how many there are
}

/** The least and the largest of the numbers that a part of an axis stands for; null where there is none. */
export function endsOf(numbers: Float32Array, [from, end]: readonly [number, number]): [number, number] | null {
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let i = Math.max(0, from); i < Math.min(numbers.length, end); i++) {
    if (Number.isNaN(numbers[i])) continue;
    least = Math.min(least, numbers[i]);
    most = Math.max(most, numbers[i]);
  }
  return least <= most ? [least, most] : null;
}

/** Bars over all of a canvas: of each pixel, or each index where that is wider, from 0 to the least, and lighter to the most. */
function drawSide(canvas: HTMLCanvasElement, numbers: Float32Array | null, { down, first, pixels, top, size }: SideView): void {
  const { clientWidth: width, clientHeight: height } = canvas;
  const sharp = devicePixelRatio || 1;
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  if (numbers === null || top === 0) return;
  const context = canvas.getContext("2d")!;
  context.scale(sharp, sharp);
  context.fillStyle = getComputedStyle(canvas).color;
  const [length, room] = down ? [height, width - 4] : [width, height - 4];
  const bar = (at: number, wide: number, [from, end]: [number, number], alpha: number): void => {
    context.globalAlpha = alpha;
    const [near, far] = [(room * Math.abs(from)) / top, (room * Math.abs(end)) / top];
    if (down) context.fillRect(near, at, far - near, wide);
    else context.fillRect(at, near, wide, far - near);
  };
  const step = Math.max(1, pixels);
  const start = pixels > 1 ? (Math.floor(first) - first) * pixels : 0;
  for (let at = start; at < length; at += step) {
    const from = first + at / pixels;
    const index = pixels > 1 ? Math.round(from) : Math.floor(from);
    if (index >= size) break;
    const ends = endsOf(numbers, [index, Math.max(index + 1, Math.ceil(from + step / pixels - 1e-6))]);
    if (!ends) continue;
    const gap = step > 4 ? 1 : 0;
    bar(at + gap / 2, step - gap, [0, ends[0]], 0.75);
    bar(at + gap / 2, step - gap, ends, 0.3);
  }
}
