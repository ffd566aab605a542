/** The map: a heatmap from the whole down to single weights, with a crosshair and what lies under the pointer. */

import L from "leaflet";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { HeadPicker, LayerPicker, PositionField, ScaleSwitch, Segmented } from "../controls";
import { massTop, pixel, ramp, rgb } from "../colors";
import { type Layer, hasWeights, headName, label, position, positionName, visibleText } from "../description";
import { Legend } from "../legend";
import { drawAxis } from "../map/axes";
import { type Cell, MAX_ZOOM, MapLayer, Tiles, largest } from "../map/tiles";
import { logitText, rangeText, weightText } from "../numbers";
import { useAnswer, useSession, useSize, useStore } from "../session";
import { type State, clamp } from "../state";

/** Where the pointer is, in CSS pixels within the map. */
interface Pointer {
  left: number;
  top: number;
}

interface Hover extends Pointer {
  cell: Cell;
}

export function MapControls() {
  const { state, set } = useStore();
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
      <ScaleSwitch />
      <PositionField axis="query" />
      <PositionField axis="key" />
    </>
  );
}

export function MapView(props: { dark: boolean }) {
  const session = useSession();
  const { source, description, store } = session;
  const { state, layer, scale, set } = useStore();
  const [frame, frameSize] = useSize<HTMLDivElement>();
  const queryAxis = useRef<HTMLCanvasElement>(null);
  const keyAxis = useRef<HTMLCanvasElement>(null);
  const map = useRef<L.Map | null>(null);
  const tileLayer = useRef<MapLayer | null>(null);
  const [view, setView] = useState({ zoom: 0, moves: 0 });
  const [pointer, setPointer] = useState<Pointer | null>(null);
  const [tops, setTops] = useState<Record<number, number>>({});

  const tiles = useMemo(
    () => new Tiles(source, { layerIndex: state.layer, layer, head: state.head, reduce: state.reduce }),
    [source, state.layer, state.head, state.reduce],
  );
  // The largest weight of the whole map is in the one tile of level 0. Masses grow with their cells: a top a level, which
  // is guessed from both ends, so that colors do not change whenever a brighter cell comes into view.
  const whole = useAnswer(
    (signal) =>
      Promise.all([
        tiles.get(0, 0, 0).then(largest),
        state.reduce === "max" ? null : source.tile(state.layer, state.head, 0, 0, 0, "max", signal).then(largest),
      ]),
    [state.layer, state.head, state.reduce],
  );
  const level = tiles.level(view.zoom);
  const [largestCell, largestWeight] = (whole.fresh && whole.value) || [null, null];
  const top =
    largestCell === null || largestWeight === null
      ? largestCell
      : Math.max(massTop(largestCell, largestWeight, level, tiles.finest), tops[level] ?? 0);
  const colors = ramp(scale, top ?? 1, layer.keys);
  const hidden = pixel(rgb(props.dark ? 0x33343c : 0xdfe0e4));
  useEffect(() => setTops({}), [tiles]);

  // What is under the pointer changes as the map moves under it, too.
  const cellAt = ({ left, top }: Pointer): Hover | null => {
    if (!map.current) return null;
    const { lat, lng } = map.current.containerPointToLatLng([left, top]);
    const [query, key] = [Math.floor(-lat), Math.floor(lng)];
    if (query < 0 || key < 0 || query >= layer.queries || key >= layer.keys) return null;
    return { cell: tiles.cell(query, key, view.zoom), left, top };
  };
  const hover = pointer && cellAt(pointer);

  // A map that shows the whole does so on any screen: only what its user does puts a place into the address.
  const quiet = useRef(false);
  const quietly = (move: () => void): void => {
    quiet.current = true;
    move();
    quiet.current = false;
  };

  // The map itself, once a layer's size is known.
  useEffect(() => {
    const made = L.map(frame.current!, {
      crs: L.CRS.Simple,
      attributionControl: false,
      zoomControl: false,
      keyboard: false,
      zoomSnap: 0,
      zoomDelta: 1,
      wheelPxPerZoomLevel: 110,
      wheelDebounceTime: 20,
      minZoom: -30,
      maxZoom: MAX_ZOOM,
      maxBoundsViscosity: 0.8,
      bounceAtZoomLimits: false,
      fadeAnimation: false,
      doubleClickZoom: true,
    });
    map.current = made;
    fit(made, layer);
    const { x, y, zoom } = store.state;
    if (zoom !== null) made.setView([-(y ?? layer.queries / 2), x ?? layer.keys / 2], zoom, { animate: false });
    const moved = (): void => setView(({ moves }) => ({ zoom: made.getZoom(), moves: moves + 1 }));
    made.on("move zoom viewreset resize", moved);
    made.on("moveend", () => {
      if (quiet.current) return;
      const { lat, lng } = made.getCenter();
      store.set({ x: lng, y: -lat, zoom: made.getZoom() });
    });
    moved();
    return () => {
      made.remove();
      map.current = tileLayer.current = null;
    };
  }, [layer.queries, layer.keys]);

  // Back and forward move the map too.
  useEffect(() => {
    const made = map.current!;
    const { x, y, zoom } = state;
    if (zoom === null) {
      quietly(() => fit(made, layer));
      return;
    }
    const { lat, lng } = made.getCenter();
    const away = Math.hypot((x ?? lng) - lng, (y ?? -lat) + lat) * 2 ** zoom;
    if (away > 2 || Math.abs(zoom - made.getZoom()) > 0.01) {
      quietly(() => made.setView([-(y ?? -lat), x ?? lng], zoom, { animate: false }));
    }
  }, [state.x, state.y, state.zoom]);

  useEffect(() => {
    const made = map.current!;
    quietly(() => {
      made.invalidateSize({ animate: false, pan: false });
      made.setMinZoom(-30);
      const whole = made.getBoundsZoom(boundsOf(layer), false, L.point(6, 6));
      made.setMinZoom(Math.min(whole, MAX_ZOOM) - 1);
      made.setMaxBounds(boundsOf(layer).pad(0.6));
      if (store.state.zoom === null) fit(made, layer);
    });
  }, [frameSize.width, frameSize.height, layer.queries, layer.keys]);

  useEffect(() => {
    const made = new MapLayer(tiles, colors, hidden, {
      value: (at, largest) => setTops((known) => ({ ...known, [at]: Math.max(largest, known[at] ?? 0) })),
      failed: (message) => session.fail(message),
    });
    tileLayer.current = made;
    made.addTo(map.current!);
    return () => {
      made.remove();
    };
  }, [tiles, layer.queries, layer.keys]);

  useEffect(() => tileLayer.current?.recolor(colors, hidden), [colors.top, colors.scale, hidden, tiles]);

  // Axes follow every move.
  useEffect(() => {
    const made = map.current;
    if (!made) return;
    const pixels = 2 ** made.getZoom();
    const corner = made.containerPointToLatLng([0, 0]);
    drawAxis(queryAxis.current!, description, layer, {
      axis: "query", first: -corner.lat, pixels, marked: state.query, hovered: hover?.cell.queries ?? null,
    });
    drawAxis(keyAxis.current!, description, layer, {
      axis: "key", first: corner.lng, pixels, marked: state.key, hovered: hover?.cell.keys ?? null,
    });
  }, [view, pointer, state.query, state.key, frameSize.width, frameSize.height, props.dark, layer]);

  const size = 2 ** (tiles.finest - level);
  const pointerOf = (event: { clientX: number; clientY: number }): Pointer => {
    const box = frame.current!.getBoundingClientRect();
    return { left: event.clientX - box.left, top: event.clientY - box.top };
  };

  const choose = async (cell: Cell): Promise<void> => {
    let [query, key] = [cell.queries[0], cell.keys[0]];
    if (size > 1 && size <= 512 && hasWeights(layer)) {
      // The largest weight of the cell is what one wants to see.
      const found = await source.weights(state.layer, state.head, { queries: cell.queries, keys: cell.keys });
      let best = -1;
      for (const [i, value] of found.entries()) {
        if (value > best) {
          best = value;
          query = cell.queries[0] + Math.floor(i / (cell.keys[1] - cell.keys[0]));
          key = cell.keys[0] + (i % (cell.keys[1] - cell.keys[0]));
        }
      }
    }
    set({ query, key }, true);
  };

  const onKeyDown = (event: KeyboardEvent): void => {
    const made = map.current!;
    const steps: Record<string, [number, number]> = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    };
    const step = steps[event.key];
    if (step && !event.altKey && !event.metaKey && !event.ctrlKey) {
      const by = size * (event.shiftKey ? 10 : 1);
      const center = made.getCenter();
      const none = state.query === null || state.key === null;
      const query = none ? Math.floor(-center.lat) : state.query! + by * step[0];
      const key = none ? Math.floor(center.lng) : state.key! + by * step[1];
      set({ query: clamp(query, 0, layer.queries - 1), key: clamp(key, 0, layer.keys - 1) });
      setPointer(null);
    } else if (event.key === "+" || event.key === "=") zoomBy(1);
    else if (event.key === "-" || event.key === "_") zoomBy(-1);
    else if (event.key === "0") reset();
    else if (event.key === "Escape") set({ query: null, key: null }, true);
    else return;
    event.preventDefault();
  };

  // The crosshair stays in sight.
  useEffect(() => {
    if (state.query === null || state.key === null || !map.current) return;
    const made = map.current;
    const place: L.LatLngTuple = [-(state.query + 0.5), state.key + 0.5];
    if (!made.getBounds().contains(place)) made.panTo(place, { animate: false });
  }, [state.query, state.key]);

  const zoomBy = (by: number): void => {
    const made = map.current!;
    const { query, key } = store.state;
    if (query !== null && key !== null) made.setZoomAround([-(query + 0.5), key + 0.5], made.getZoom() + by);
    else made.setZoom(made.getZoom() + by);
  };
  const reset = (): void => {
    set({ x: null, y: null, zoom: null }, true);
  };

  const point = (query: number, key: number): L.Point | null =>
    map.current ? map.current.latLngToContainerPoint([-query, key]) : null;
  const exact = useExact(state, hover);
  const unit = state.reduce === "max" ? "weight" : "mass";
  const of = size === 1 ? unit : `${state.reduce === "max" ? "largest weight" : "mass"} in ${size} \u00d7 ${size}`;

  return (
    <div class="map-view">
      <div class={`map-grid ${layer.key_labels === null ? "numbers-across" : ""} ${layer.query_labels === null ? "numbers-down" : ""}`}>
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
          onPointerMove={(event) => setPointer(event.buttons ? null : pointerOf(event))}
          onPointerLeave={() => setPointer(null)}
          onClick={(event) => {
            // A click's coordinates are rounded: where it is at the pointer, what the tooltip says is meant.
            const under = pointerOf(event);
            const near = hover && Math.hypot(hover.left - under.left, hover.top - under.top) < 2;
            const found = near ? hover : cellAt(under);
            const moved = map.current as unknown as { dragging: { moved(): boolean } };
            if (found && !moved.dragging.moved()) {
              setPointer(found);
              choose(found.cell).catch((error: Error) => session.fail(error.message));
            }
          }}
        >
          <div class="map-leaflet" ref={frame} />
          <Crosshair point={point} state={state} layer={layer} hover={hover} moves={view.moves} />
          {hover && <Tooltip hover={hover} of={of} frame={frameSize} exact={exact} layer={layer} />}
        </div>
        <div class="map-buttons">
          <button type="button" aria-label="Zoom in" onClick={() => zoomBy(1)}>
            +
          </button>
          <button type="button" aria-label="Zoom out" onClick={() => zoomBy(-1)}>
            {"\u2212"}
          </button>
          <button type="button" aria-label="Show the whole map" title="Show the whole map" onClick={reset}>
            {"\u2922"}
          </button>
        </div>
      </div>
      <div class="below">
        <Legend ramp={colors} unit={of} />
        <Readout />
      </div>
    </div>
  );
}

function boundsOf(layer: Layer): L.LatLngBounds {
  return L.latLngBounds([-layer.queries, 0], [0, layer.keys]);
}

/** Brings the whole map into sight. */
function fit(map: L.Map, layer: Layer): void {
  map.fitBounds(boundsOf(layer), { animate: false, maxZoom: 5.5, padding: [6, 6] });
}

/** Weight and logit of the one weight under the pointer, where the pointer rests on one. */
function useExact(state: State, hover: Hover | null): { weight: number; logit: number | null } | null {
  const { source } = useSession();
  const single = hover && hover.cell.queries[1] - hover.cell.queries[0] === 1 ? hover.cell : null;
  const query = single?.queries[0] ?? null;
  const key = single?.keys[0] ?? null;
  return usePair(source, state, query, key);
}

function usePair(
  source: ReturnType<typeof useSession>["source"],
  state: State,
  query: number | null,
  key: number | null,
): { weight: number; logit: number | null } | null {
  const { layer } = useStore();
  const answer = useAnswer(
    (signal) => {
      if (query === null || key === null || !hasWeights(layer)) return null;
      const one = { queries: [query, query + 1] as [number, number], keys: [key, key + 1] as [number, number] };
      return Promise.all([
        source.weights(state.layer, state.head, one, signal),
        layer.given ? null : source.logits(state.layer, state.head, one, signal),
      ]).then(([weights, logits]) => ({ weight: weights[0], logit: logits && logits[0] }));
    },
    [state.layer, state.head, query, key],
  );
  return answer.fresh ? answer.value : null;
}

function Crosshair(props: {
  point(query: number, key: number): L.Point | null;
  state: State;
  layer: Layer;
  hover: Hover | null;
  moves: number;
}) {
  const { query, key } = props.state;
  const lines = [];
  if (query !== null || key !== null) {
    const start = props.point(query ?? 0, key ?? 0);
    const end = props.point((query ?? 0) + 1, (key ?? 0) + 1);
    if (start && end) {
      const least = (from: number, to: number) => Math.max(1, to - from);
      const [from, to] = [props.point(0, 0)!, props.point(props.layer.queries, props.layer.keys)!];
      if (query !== null) {
        const style = { top: start.y, height: least(start.y, end.y), left: from.x, width: to.x - from.x };
        lines.push(<div class="cross cross-query" style={style} />);
      }
      if (key !== null) {
        const style = { left: start.x, width: least(start.x, end.x), top: from.y, height: to.y - from.y };
        lines.push(<div class="cross cross-key" style={style} />);
      }
    }
  }
  if (props.hover) {
    const { queries, keys } = props.hover.cell;
    const start = props.point(queries[0], keys[0]);
    const end = props.point(queries[1], keys[1]);
    if (start && end && end.x - start.x >= 5) {
      const style = { left: start.x, top: start.y, width: end.x - start.x, height: end.y - start.y };
      lines.push(<div class="cross-cell" style={style} />);
    }
  }
  return (
    <div class="crosshair" aria-hidden="true">
      {lines}
    </div>
  );
}

function Tooltip(props: {
  hover: Hover;
  of: string;
  frame: { width: number; height: number };
  exact: { weight: number; logit: number | null } | null;
  layer: Layer;
}) {
  const { description } = useSession();
  const { cell, left, top } = props.hover;
  const right = left > props.frame.width - 230;
  const above = top > props.frame.height - 130;
  const style = {
    left: right ? undefined : left + 16,
    right: right ? props.frame.width - left + 16 : undefined,
    top: above ? undefined : top + 16,
    bottom: above ? props.frame.height - top + 12 : undefined,
  };
  const single = cell.queries[1] - cell.queries[0] === 1 && cell.keys[1] - cell.keys[0] === 1;
  const name = (axis: "query" | "key", [first, end]: [number, number]) => {
    const token = single ? label(description, props.layer, axis, first) : null;
    return (
      <>
        <dt>{end - first === 1 ? axis : axis === "query" ? "queries" : "keys"}</dt>
        <dd>
          {rangeText(position(props.layer, axis, first), position(props.layer, axis, end - 1))}
          {token !== null && <bdi class="token">{visibleText(token)}</bdi>}
        </dd>
      </>
    );
  };
  return (
    <dl class="tooltip" role="tooltip" style={style}>
      {name("query", cell.queries)}
      {name("key", cell.keys)}
      <dt>{single ? props.of : props.of.replace(/ in .*/, "")}</dt>
      <dd class="number" data-value="weight">
        {cell.value === null ? "\u2026" : weightText(cell.value)}
      </dd>
      {single && !props.layer.given && (
        <>
          <dt>logit</dt>
          <dd class="number" data-value="logit">
            {logitOf(props.exact)}
          </dd>
        </>
      )}
    </dl>
  );
}

/** What the crosshair stands on, in words; it is what a screen reader says. */
function Readout() {
  const { source, description, announce } = useSession();
  const { state, layer, set } = useStore();
  const pair = usePair(source, state, state.query, state.key);
  const names = state.query !== null && state.key !== null
    ? [
        positionName(description, layer, "query", state.query),
        positionName(description, layer, "key", state.key),
      ]
    : null;
  useEffect(() => {
    if (names && pair) {
      const logit = pair.logit === null ? "" : `, logit ${logitText(pair.logit)}`;
      const said = Number.isNaN(pair.weight) ? "hidden" : `weight ${weightText(pair.weight)}${logit}`;
      announce(`query ${names[0]}, key ${names[1]}: ${said}`);
    }
  }, [pair]);
  if (!names) {
    return <p class="readout muted">Click a cell or use the arrow keys to set the crosshair. Drag, scroll or pinch to move.</p>;
  }
  return (
    <p class="readout">
      <span>
        query <bdi>{names[0]}</bdi> {"\u2192"} key <bdi>{names[1]}</bdi>
      </span>
      {hasWeights(layer) && (
        <span>
          weight <b data-value="weight">{pair ? weightText(pair.weight) : "\u2026"}</b>
        </span>
      )}
      {layer.kept !== undefined ? (
        <span class="muted">reduced while the model ran{hasWeights(layer) ? "" : ": no single weights"}</span>
      ) : layer.given ? (
        <span class="muted">given, not computed</span>
      ) : (
        <>
          <span>
            logit <b data-value="logit">{logitOf(pair)}</b>
          </span>
          <button type="button" class="link" onClick={() => set({ view: "query-key" }, true)}>
            Why this number?
          </button>
        </>
      )}
    </p>
  );
}

function logitOf(pair: { logit: number | null } | null): string {
  return pair && pair.logit !== null ? logitText(pair.logit) : "\u2026";
}
