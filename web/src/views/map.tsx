/** The map: a heatmap from the whole down to single weights, with a crosshair and what lies under the pointer. */

import type L from "leaflet";
import { type MutableRef, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { known } from "../answers";
import { isDifference } from "../compare/compare";
import { HeadPicker, LayerPicker, PositionField, Segmented } from "../controls";
import { type Ramp, legendColor, massTop, rampOf } from "../colors";
import { beginsGroup, hasWeights, headName, keyHeadText, withinOf } from "../description";
import { useFound } from "../find/find";
import { useRoving } from "../focus";
import { Legend, ScaleSwitches } from "../legend";
import { drawAxis } from "../map/axes";
import { Crosshair } from "../map/crosshair";
import { type Moving, useMap } from "../map/leaflet";
import { MapSides, hasSides, useMargins } from "../map/sides";
import { Readout, Tooltip, isSingle, usePair } from "../map/said";
import { type Cell, MapLayer, Tiles } from "../map/tiles";
import { weightText } from "../numbers";
import { PassNote } from "../pass";
import { COLUMN, LARGEST, ROW, SIDES } from "../questions";
import { useAnswer, useGlobal, useSession, useStore } from "../session";
import { clamp } from "../state";
import { Strongest } from "../whole";
import { Thumb } from "./model";

/** Where the pointer is on the screen: the map may move under it. */
interface Pointer {
  clientX: number;
  clientY: number;
}

/** The cell under the pointer, and where that is within the map. */
interface Hover {
  cell: Cell;
  left: number;
  top: number;
}

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
  const session = useSession();
  const { source, store, inCell } = session;
  const { state, layer, set } = useStore();
  const [pointer, setPointer] = useState<Pointer | null>(null);
  const moving = useMap();
  const tiles = useMemo(
    () => new Tiles(source, { layerIndex: state.layer, layer, head: state.head, reduce: state.reduce }),
    [source, state.layer, state.head, state.reduce],
  );
  const level = tiles.level(moving.zoom);
  const size = 2 ** (tiles.finest - level);
  const { colors, heard, largest } = useColors(tiles, level);
  useTiles(tiles, colors, props.dark, moving, heard);

  const cellAt = ({ clientX, clientY }: Pointer): Hover | null => {
    const { map, frame } = moving;
    if (!map.current || !frame.current) return null;
    const box = frame.current.getBoundingClientRect();
    const [left, top] = [clientX - box.left, clientY - box.top];
    const { lat, lng } = map.current.containerPointToLatLng([left, top]);
    const [query, key] = [Math.floor(-lat), Math.floor(lng)];
    if (query < 0 || key < 0 || query >= layer.queries || key >= layer.keys) return null;
    return { cell: tiles.cell(query, key, moving.zoom), left, top };
  };
  // What is under the pointer changes as the map moves under it, too.
  const hover = pointer && cellAt(pointer);
  const [queryAxis, keyAxis] = useAxes(moving, hover?.cell ?? null, props.dark);

  /** Brings the crosshair to a cell's weight; of several, to the one farthest from 0. */
  const choose = async (cell: Cell): Promise<void> => {
    let [query, key] = [cell.queries[0], cell.keys[0]];
    if (size > 1 && size <= 512 && hasWeights(layer)) {
      const found = await source.weights(state.layer, state.head, { queries: cell.queries, keys: cell.keys });
      if (store.state.layer !== state.layer || store.state.head !== state.head) return; // of a head that was left
      let best = -1;
      for (const [i, value] of found.entries()) {
        if (Math.abs(value) > best) {
          best = Math.abs(value);
          query = cell.queries[0] + Math.floor(i / (cell.keys[1] - cell.keys[0]));
          key = cell.keys[0] + (i % (cell.keys[1] - cell.keys[0]));
        }
      }
    }
    set({ query, key }, true);
  };

  const zoomBy = (by: number): void => {
    const made = moving.map.current!;
    const { query, key } = store.state;
    if (query !== null && key !== null) made.setZoomAround([-(query + 0.5), key + 0.5], made.getZoom() + by);
    else made.setZoom(made.getZoom() + by);
  };
  const reset = (): void => set({ x: null, y: null, zoom: null }, true);

  const onKeyDown = (event: KeyboardEvent): void => {
    const steps: Record<string, [number, number]> = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    };
    const step = steps[event.key];
    if (event.altKey || event.metaKey || event.ctrlKey) return;
    if (step) {
      const by = size * (event.shiftKey ? 10 : 1);
      const center = moving.map.current!.getCenter();
      const none = state.query === null || state.key === null;
      const query = none ? Math.floor(-center.lat) : state.query! + by * step[0];
      const key = none ? Math.floor(center.lng) : state.key! + by * step[1];
      set({ query: clamp(query, 0, layer.queries - 1), key: clamp(key, 0, layer.keys - 1) });
      setPointer(null);
    } else if (event.key === "+" || event.key === "=") zoomBy(1);
    else if (event.key === "-" || event.key === "_") zoomBy(-1);
    else if (event.key === "0") reset();
    else return;
    event.preventDefault();
  };

  const margins = useMargins();
  const exact = usePair(...exactly(hover?.cell ?? null));
  const unit = layer.unit === "score" ? "score (logit)" : `${layer.unit === "difference" ? "difference of " : ""}${state.reduce === "max" ? "weight" : "mass"}`;
  const of = size === 1 ? unit : `${state.reduce === "max" ? (layer.unit ? `${layer.unit} farthest from 0` : "largest weight") : unit} in ${size} \u00d7 ${size}`;
  return (
    <div class="map-view">
      <div class={`map-grid ${layer.key_labels === null ? "numbers-across" : ""} ${layer.query_labels === null ? "numbers-down" : ""} ${margins ? "with-sides" : ""}`}>
        <div class="map-corner" aria-hidden="true">
          <span class="map-corner-key">key {"\u2192"}</span>
          <span class="map-corner-query">query {"\u2193"}</span>
        </div>
        <canvas class="axis axis-key" ref={keyAxis} aria-hidden="true" />
        <canvas class="axis axis-query" ref={queryAxis} aria-hidden="true" />
        <div
          class="map-frame"
          role="application"
          tabIndex={0}
          aria-label={`Attention map of layer ${layer.label}, head ${headName(layer, state.head)}: ${layer.queries} queries down, ${layer.keys} keys across. Arrow keys move the crosshair, plus and minus zoom, 0 shows the whole map.`}
          onKeyDown={onKeyDown}
          onFocus={() => moving.map.current?.scrollWheelZoom.enable()}
          onBlur={() => inCell && moving.map.current?.scrollWheelZoom.disable()}
          onPointerMove={(event) => setPointer(event.buttons ? null : { clientX: event.clientX, clientY: event.clientY })}
          onPointerLeave={() => setPointer(null)}
          onClick={(event) => {
            if (event.detail > 1) return; // the second click of a double click, which zooms
            // A click's coordinates are rounded: where it is at the pointer, what the tooltip says is meant.
            const near = pointer && Math.hypot(pointer.clientX - event.clientX, pointer.clientY - event.clientY) < 2;
            const at = near ? pointer : { clientX: event.clientX, clientY: event.clientY };
            const found = cellAt(at);
            const moved = moving.map.current as unknown as { dragging: { moved(): boolean } };
            if (found && !moved.dragging.moved()) {
              setPointer(at);
              choose(found.cell).catch((error: Error) => session.fail(error.message));
            }
          }}
        >
          <div class="map-leaflet" ref={moving.frame} />
          <Crosshair point={moving.point} query={state.query} key_={state.key} layer={layer} cell={hover?.cell ?? null} />
          {hover && <Tooltip {...hover} of={of} frame={moving.size} exact={exact} layer={layer} />}
        </div>
        {margins && <MapSides moving={moving} dark={props.dark} />}
        <MapButtons zoomBy={zoomBy} reset={reset} />
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

/** The one weight of a cell that is one, to be asked for exactly. */
function exactly(cell: Cell | null): [number | null, number | null] {
  return cell && isSingle(cell) ? [cell.queries[0], cell.keys[0]] : [null, null];
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
