/** Every head of every layer at a glance; a click opens its map. */

import { type MutableRef, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { known } from "../answers";
import { legendColor, paint, rampOf } from "../colors";
import { type Layer, beginsGroup, headName, isCheap, keyHeadText, layersOf, withinOf } from "../description";
import { Segmented } from "../controls";
import { useRoving } from "../focus";
import { Legend, ScaleSwitches } from "../legend";
import { countText, weightText } from "../numbers";
import { type OfHead, THUMBNAIL, farthest, topOf } from "../questions";
import { largestOfRows, sharesOfRows } from "../rows";
import { useAnswer, usePass, useSession, useStore } from "../session";
import { Signal } from "../signal";
import type { Thumbnail } from "../source/source";
import type { Strength } from "../state";
import { type Counted, askedFor } from "../statistics";
import { LookedAt, NumberChip, NumberControls, Ranked, type ThumbProps, isOfRole, useCounted } from "./ranked";

export function ModelControls() {
  const { description } = useSession();
  const { state, set } = useStore();
  const cheap = description.layers.every((layer) => isCheap(description, layer));
  return (
    <>
      <ScaleSwitches />
      <NumberControls />
      {cheap ? null : (
        <Segmented
          name="Queries that thumbnails are made of"
          value={state.all ? "all" : "some"}
          choices={[
            ["some", "some queries", "Long maps in a moment: each row of a thumbnail is of one query"],
            ["all", "all heads, all queries", "Reads every head that is in sight, one after another"],
          ]}
          onChange={(queries) => set({ all: queries === "all" }, true)}
        />
      )}
      <span class="muted note">Rows are layers, columns heads. In each map queries go down, keys across.</span>
    </>
  );
}

export function ModelView(props: { dark: boolean }) {
  const { description } = useSession();
  const { state, scale, strength, set } = useStore();
  const counted = useCounted();
  const asked = askedFor(description, state);
  const looked = useMemo(() => new Signal<OfHead | null>(null), []); // which redraws its numbers, and not a thousand maps
  const look = (head: OfHead): void => looked.set(head);
  const layers = description.layers; // of every text; those of the one that is shown are drawn
  const shown = layersOf(description, layers[state.layer].text).map((index) => ({ layer: layers[index], index }));
  const heads = Math.max(...shown.map(({ layer }) => layer.heads));
  const roving = useRoving<string>(
    `${state.layer} ${state.head}`,
    () => true,
    (key, from) => {
      const steps: Record<string, [number, number]> = {
        ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
      };
      const step = steps[key];
      if (!step) return null;
      const [atLayer, atHead] = from.split(" ").map(Number);
      const layer = Math.max(shown[0].index, Math.min(shown[shown.length - 1].index, atLayer + step[0]));
      return `${layer} ${Math.max(0, Math.min(layers[layer].heads - 1, atHead + step[1]))}`;
    },
  );
  const numbered = useMemo(() => new Map(counted.heads.map((one) => [`${one.layer} ${one.head}`, one])), [counted]);
  const of = (layer: number, head: number): Counted => numbered.get(`${layer} ${head}`)!;
  const open = (head: OfHead): void => set({ view: "map", ...head, x: null, y: null, zoom: null }, true);
  const ramp = rampOf(layers[state.layer], scale, strength, null);
  return (
    <div class="model-view">
      <Legend
        ramp={ramp}
        unit={cellUnit(layers[state.layer], strength)}
        color={legendColor(ramp, props.dark)}
        dark={props.dark}
        layer={layers[state.layer]}
      />
      {asked.rank !== "order" ? (
        <Ranked counted={counted} dark={props.dark} thumb={Thumb} onLook={look} onOpen={open} />
      ) : (
        <div
          class="model-grid"
          role="grid"
          aria-label="Heads of all layers"
          ref={roving.group}
          onKeyDown={roving.onKeyDown}
          style={{ "--heads": heads }}
        >
          <div role="row" class="model-row model-top">
            <span role="columnheader" class="model-corner">
              layer
            </span>
            {Array.from({ length: heads }, (_, head) => (
              <span
                key={head}
                role="columnheader"
                class={shown.every(({ layer }) => beginsGroup(layer, head)) ? "begins-group" : ""}
                title={shown.length === 1 ? (keyHeadText(shown[0].layer, head) ?? undefined) : undefined}
              >
                {columnName(shown.map(({ layer }) => layer), head)}
              </span>
            ))}
          </div>
          {shown.map(({ layer, index }) => (
            <div role="row" class="model-row" key={index}>
              <span role="rowheader" title={`layer ${layer.label}: ${layer.pattern}, ${layer.queries} queries, ${layer.keys} keys`}>
                {layer.label}
              </span>
              {Array.from({ length: layer.heads }, (_, head) => (
                <div
                  role="gridcell"
                  key={head}
                  class={`${isOfRole(of(index, head), asked.role) ? "" : "not-of-role"} ${beginsGroup(layer, head) ? "begins-group" : ""}`}
                  onPointerEnter={() => look({ layer: index, head })}
                >
                  <Thumb
                    layer={index}
                    head={head}
                    dark={props.dark}
                    current={index === state.layer && head === state.head}
                    stop={roving.stop(`${index} ${head}`)}
                    onFocus={() => {
                      roving.came(`${index} ${head}`);
                      look({ layer: index, head });
                    }}
                    onOpen={() => open({ layer: index, head })}
                  />
                  <NumberChip of={of(index, head)} range={counted.range} dark={props.dark} />
                </div>
              ))}
            </div>
          ))}
        </div>
      )}
      <LookedAt looked={looked} />
    </div>
  );
}

/** What the colors of thumbnails are of. */
export function cellUnit({ unit }: Layer, strength: Strength): string {
  const what = unit ? `${unit} farthest from 0 in a cell` : "largest weight in a cell";
  const shares = { absolute: "", relative: "the head\u2019s", robust: "what 1 % of the head\u2019s cells are beyond", row: "the row\u2019s largest" };
  const of = shares[strength === "absolute" && unit === "score" ? "relative" : strength]; // scores have no 1
  return of === "" ? what : `${what}, as a share of ${of}`;
}

/** The cells of a thumbnail as its colors take them: by row, as shares of the row's largest. */
export function inStrength(strength: Strength, { columns, values }: Thumbnail): Float32Array {
  return strength === "row" ? sharesOfRows(values, columns, largestOfRows(values, columns)) : values;
}

/** What a column's heads are called, where all layers agree; else each thumbnail says it alone. */
function columnName(layers: Layer[], head: number): string {
  const names = new Set(layers.filter(({ heads }) => head < heads).map((layer) => headName(layer, head)));
  return names.size === 1 ? [...names][0] : "";
}

/** Paints a map in a few cells into a canvas, in the colors that are chosen. */
export function useThumbnail(canvas: MutableRef<HTMLCanvasElement | null>, layer: Layer, found: Thumbnail | null, dark: boolean): void {
  const { scale, strength } = useStore();
  const ramp = rampOf(layer, scale, strength, found ? topOf(found.values, strength, layer.signed) : null);
  useEffect(() => {
    if (!found || !canvas.current) return;
    const { rows, columns } = found;
    canvas.current.width = columns;
    canvas.current.height = rows;
    const image = new ImageData(columns, rows);
    paint(inStrength(strength, found), ramp, new Uint32Array(image.data.buffer), dark);
    canvas.current.getContext("2d")!.putImageData(image, 0, 0);
  }, [found, ramp.scale, ramp.top, ramp.signed, strength, dark]);
}

/** A head's map in a few cells, which opens it. */
export function Thumb(props: ThumbProps) {
  const { description } = useSession();
  const { state } = useStore();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [seen, setSeen] = useState(false);
  const at = { layer: props.layer, head: props.head };
  const asked = useAnswer(THUMBNAIL, seen ? { ...at, all: false } : null);
  const partly = known(asked)?.queries ?? null;
  const whole = useAnswer(THUMBNAIL, partly !== null && state.all ? { ...at, all: true } : null);
  const found = known(whole) ?? known(asked);
  const pass = usePass("map", props.layer, props.head);
  const layer = description.layers[props.layer];
  const farthestOf = found ? farthest(found.values) : 0;

  // Asked for when it comes into sight: a model can have a thousand heads.
  useEffect(() => {
    const watcher = new IntersectionObserver(([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      watcher.disconnect();
      setSeen(true);
    });
    watcher.observe(canvas.current!);
    return () => watcher.disconnect();
  }, []);

  useThumbnail(canvas, layer, found, props.dark);
  const some = found?.queries ?? null;
  const most = found ? weightText(farthestOf, withinOf(layer, props.head)) : null;
  const name = `Layer ${layer.label}, head ${headName(layer, props.head)}`;
  const shared = keyHeadText(layer, props.head);
  const of = some === null ? "" : `, of ${countText(some)} of ${countText(layer.queries)} queries`;
  return (
    <>
      <button
        type="button"
        class={props.beside ? "map-strip-thumb" : "thumb"}
        {...props.stop}
        aria-current={props.current ? "true" : undefined}
        aria-label={`${name}: open its map`}
        title={most === null ? name : `${name}${shared === null ? "" : `, ${shared}`}: ${layer.signed ? "farthest from 0" : "largest weight"} ${most}${of}`}
        onFocus={props.onFocus}
        onClick={props.onOpen}
      >
        <canvas ref={canvas} width={1} height={1} aria-hidden="true" />
        {pass && <progress aria-label={`Reading ${name}`} max={pass.rows} value={pass.done} />}
      </button>
      {!props.beside && (
        <span class="thumb-top">{most === null ? (asked.state === "failed" ? "?" : "") : some === null ? most : `\u2265 ${most}`}</span>
      )}
    </>
  );
}
