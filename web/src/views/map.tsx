/** The map: a heatmap from the whole down to single weights, with a crosshair and what lies under the pointer. */

import type L from "leaflet";
import { type MutableRef, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { known } from "../answers";
import { isDifference } from "../compare/compare";
import { HeadPicker, LayerPicker, PositionField, Segmented } from "../controls";
import { type Ramp, legendColor, massTop, rampOf } from "../colors";
import { type Layer, type Reduce, beginsGroup, hasWeights, headName, keyHeadText, withinOf } from "../description";
import { useFound } from "../find/find";
import { useRoving } from "../focus";
import { Legend, ScaleSwitches } from "../legend";
import { drawAxis } from "../map/axes";
import { Frame, type Pointer, cellAt, useMoves } from "../map/frame";
import { type Moving, useMap } from "../map/leaflet";
import { MapSides, hasSides, useMargins } from "../map/sides";
import { Readout } from "../map/said";
import { type Cell, MapLayer, Tiles } from "../map/tiles";
import { weightText } from "../numbers";
import { PassNote } from "../pass";
import { COLUMN, LARGEST, ROW, SIDES } from "../questions";
import { useAnswer, useGlobal, useSession, useStore } from "../session";
import { Strongest } from "../whole";
import { Thumb } from "./model";

export function MapControls() {
  const { description } = useSession();
  const { state, layer, set } = useStore();
  const margins = useMargins();
  return (
    <>
      <LayerPicker />
      <HeadPicker />
      <Segmented
        name="What a cell shows"
        value={state.reduce}
        choices={[
          ["max", "max", "A cell of several weights shows the largest"],
          ["mass", "mass", "A cell shows the attention of an average query that falls on its keys"],
        ]}
        onChange={(reduce) => set({ reduce }, true)}
      />
      <ScaleSwitches />
      {hasSides(layer) && !isDifference(state, description) && (
        <button
          type="button"
          class="toggle"
          aria-pressed={margins}
          title="At the sides of the map: the weight that each key receives, and each query\u2019s entropy"
          onClick={() => set({ margins: !margins }, true)}
        >
          sides
        </button>
      )}
      <PositionField axis="query" />
      <PositionField axis="key" />
    </>
  );
}

export function MapView(props: { dark: boolean }) {
  const { source } = useSession();
  const { state, layer } = useStore();
  const moving = useMap();
  const tiles = useMemo(
    () => new Tiles(source, { layerIndex: state.layer, layer, head: state.head, reduce: state.reduce }),
    [source, state.layer, state.head, state.reduce],
  );
  const level = tiles.level(moving.zoom);
  const size = 2 ** (tiles.finest - level);
  const { colors, heard, largest } = useColors(tiles, level);
  useTiles(tiles, colors, props.dark, moving, heard);
  const [pointer, setPointer] = useState<Pointer | null>(null);
  // What is under the pointer changes as the map moves under it, too.
  const hover = pointer && cellAt(moving, tiles, pointer);
  const [queryAxis, keyAxis] = useAxes(moving, hover?.cell ?? null, props.dark);
  const moves = useMoves(moving, size);
  const margins = useMargins();
  const of = unitOf(layer, state.reduce, size);
  return (
    <div class="map-view">
      <div class={`map-grid ${layer.key_labels === null ? "numbers-across" : ""} ${layer.query_labels === null ? "numbers-down" : ""} ${margins ? "with-sides" : ""}`}>
        <div class="map-corner" aria-hidden="true">
          <span class="map-corner-key">key {"\u2192"}</span>
          <span class="map-corner-query">query {"\u2193"}</span>
        </div>
        <canvas class="axis axis-key" ref={keyAxis} aria-hidden="true" />
        <canvas class="axis axis-query" ref={queryAxis} aria-hidden="true" />
        <Frame moving={moving} tiles={tiles} size={size} of={of} hover={hover} pointer={pointer} point={setPointer} onKey={moves.onKey} dark={props.dark} />
        {margins && <MapSides moving={moving} dark={props.dark} />}
        <MapButtons zoomBy={moves.zoomBy} reset={moves.reset} />
        <PassNote what="map" layer={state.layer} head={state.head} />
        <PassNote what="sides" layer={state.layer} head={state.head} />
      </div>
      <div class="below">
        <Legend
          ramp={colors}
          unit={colors.rows ? `${of}, as a share of the row\u2019s largest` : of}
          color={legendColor(colors, props.dark)}
          dark={props.dark}
          layer={layer}
          largest={largest === null ? null : `${layer.unit ?? "weight"} ${weightText(largest, withinOf(layer, state.head))}`}
        />
        <Readout />
        <Wholes />
        <Strip dark={props.dark} />
      </div>
    </div>
  );
}

/** What a cell of so many queries and keys shows. */
function unitOf(layer: Layer, reduce: Reduce, size: number): string {
  const max = reduce === "max";
  const unit = layer.unit === "score" ? "score (logit)" : `${layer.unit === "difference" ? "difference of " : ""}${max ? "weight" : "mass"}`;
  return size === 1 ? unit : `${max ? (layer.unit ? `${layer.unit} farthest from 0` : "largest weight") : unit} in ${size} \u00d7 ${size}`;
}

/** The heads of the layer beside the map, a small map each, where the page has room. */
function Strip(props: { dark: boolean }) {
  const { state, layer, set } = useStore();
  const roving = useRoving<number>(
    state.head,
    (head) => head >= 0 && head < layer.heads,
    (key, from) => ({ ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: layer.heads - 1 })[key] ?? null,
  );
  if (layer.heads < 2) return null;
  return (
    <div class="map-strip" role="group" aria-label="Heads of this layer" ref={roving.group} onKeyDown={roving.onKeyDown}>
      {Array.from({ length: layer.heads }, (_, head) => (
        <div key={`${state.layer} ${head}`} class={beginsGroup(layer, head) ? "begins-group" : ""} title={keyHeadText(layer, head) ?? undefined}>
          <Thumb
            layer={state.layer}
            head={head}
            dark={props.dark}
            current={head === state.head}
            beside
            stop={roving.stop(head)}
            onFocus={() => roving.came(head)}
            onOpen={() => set({ head }, true)}
          />
          <span class="map-strip-name">{headName(layer, head)}</span>
        </div>
      ))}
    </div>
  );
}

/** The whole row of the crosshair's query and the whole column of its key, where the page has room beside the map. */
function Wholes() {
  const { state, layer: own, set } = useStore();
  const { query, key, layer, head } = state;
  const row = useAnswer(ROW, query === null || !hasWeights(own) ? null : { layer, head, query });
  const column = useAnswer(COLUMN, key === null || !hasWeights(own) ? null : { layer, head, key });
  return (
    <div class="map-whole">
      <Strongest row={row} axis="key" window={null} chosen={key} onGo={(to) => set({ key: to }, true)} />
      <Strongest row={column} axis="query" window={null} chosen={query} onGo={(to) => set({ query: to }, true)} />
    </div>
  );
}

/**
 * The scale of a map's colors. The largest weight of the whole map is in the one tile of level 0. Masses grow with their
 * cells: a top a level, which is guessed from both ends, so that colors do not change whenever a brighter cell comes
 * into view.
 */
function useColors(tiles: Tiles, level: number): { colors: Ramp; largest: number | null; heard(level: number, top: number): void } {
  const { state, layer, scale, strength: wanted } = useStore();
  const sides = useAnswer(SIDES, wanted === "row" ? { layer: state.layer, head: state.head } : null);
  const rows = known(sides)?.largest ?? null;
  const strength = wanted === "row" && rows === null ? "relative" : wanted;
  const [tops, setTops] = useState<{ of: Tiles; at: Record<number, number> }>({ of: tiles, at: {} });
  const whole = known(useAnswer(LARGEST, { layer: state.layer, head: state.head, reduce: state.reduce }));
  const seen = tops.of === tiles ? (tops.at[level] ?? 0) : 0; // another map's are nothing here
  let top: number | null = null;
  if (whole) {
    const { cell, weight } = strength === "robust" ? whole.robust : whole;
    top = state.reduce === "max" ? cell : massTop(cell, Math.abs(weight), level, tiles.finest);
    if (state.reduce === "mass" && strength !== "robust") top = Math.max(top, seen);
  }
  return {
    colors: { ...rampOf(layer, scale, strength, top), ...(rows ? { rows } : {}) },
    largest: whole?.weight ?? null,
    heard: (at, found) =>
      setTops((known) => {
        const before = known.of === tiles ? known.at : {};
        return { of: tiles, at: { ...before, [at]: Math.max(found, before[at] ?? 0) } };
      }),
  };
}

/** Puts the tiles upon the map, in the colors of the page. */
function useTiles(tiles: Tiles, colors: Ramp, dark: boolean, { map }: Moving, heard: (level: number, top: number) => void): void {
  const session = useSession();
  const { layer } = tiles.shown;
  const made = useRef<MapLayer | null>(null);
  useEffect(() => {
    const shown = new MapLayer(tiles, colors, dark, { value: heard, failed: (message) => session.fail(message) });
    made.current = shown;
    shown.addTo(map.current!);
    session.fail(null);
    return () => {
      shown.remove();
      made.current = null;
    };
  }, [tiles, layer.queries, layer.keys]);
  useEffect(() => made.current?.recolor(colors, dark), [colors.top, colors.low, colors.scale, colors.rows, dark, tiles]);
}

/** The axes, which follow every move: the canvases of the queries' and of the keys'. */
function useAxes(moving: Moving, cell: Cell | null, dark: boolean): MutableRef<HTMLCanvasElement | null>[] {
  const { description } = useSession();
  const { state, layer } = useStore();
  const axes = { query: useRef<HTMLCanvasElement>(null), key: useRef<HTMLCanvasElement>(null) };
  const hovered = { query: cell?.queries ?? null, key: cell?.keys ?? null };
  const found = { query: useFound("query"), key: useFound("key") };
  const marks = { query: useGlobal("query"), key: useGlobal("key") };
  useEffect(() => {
    const made = moving.map.current;
    if (!made) return;
    const corner: L.LatLng = made.containerPointToLatLng([0, 0]);
    for (const axis of ["query", "key"] as const) {
      drawAxis(axes[axis].current!, description, layer, {
        axis,
        first: axis === "query" ? -corner.lat : corner.lng,
        pixels: 2 ** made.getZoom(),
        marked: state[axis],
        hovered: hovered[axis],
        found: found[axis],
        global: marks[axis],
      });
    }
  }, [moving.moves, cell?.queries.join(), cell?.keys.join(), state.query, state.key, moving.size.width, moving.size.height, dark, layer, found.query, found.key, marks.query, marks.key]);
  return [axes.query, axes.key];
}

function MapButtons(props: { zoomBy(by: number): void; reset(): void }) {
  return (
    <div class="map-buttons">
      <button type="button" aria-label="Zoom in" onClick={() => props.zoomBy(1)}>
        +
      </button>
      <button type="button" aria-label="Zoom out" onClick={() => props.zoomBy(-1)}>
        {"\u2212"}
      </button>
      <button type="button" aria-label="Show the whole map" title="Show the whole map" onClick={props.reset}>
        {"\u2922"}
      </button>
    </div>
  );
}
