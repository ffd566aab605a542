/** Where the map lies: its pointer, its keys, and what stands upon it. */

import { headName, hasWeights } from "../description";
import { useSession, useStore } from "../session";
import { clamp } from "../state";
import { Coarse } from "./coarse";
import { Crosshair } from "./crosshair";
import type { Moving } from "./leaflet";
import { Tooltip, isSingle, usePair } from "./said";
import type { Cell, Tiles } from "./tiles";

/** Where the pointer is on the screen: the map may move under it. */
export interface Pointer {
  clientX: number;
  clientY: number;
}

/** The cell under the pointer, and where that is within the map. */
export interface Hover {
  cell: Cell;
  left: number;
  top: number;
}

/** The cell at a place of the screen; null outside of the map. */
export function cellAt({ map, frame, zoom }: Moving, tiles: Tiles, { clientX, clientY }: Pointer): Hover | null {
  if (!map.current || !frame.current) return null;
  const box = frame.current.getBoundingClientRect();
  const [left, top] = [clientX - box.left, clientY - box.top];
  const { lat, lng } = map.current.containerPointToLatLng([left, top]);
  const [query, key] = [Math.floor(-lat), Math.floor(lng)];
  const { queries, keys } = tiles.shown.layer;
  if (query < 0 || key < 0 || query >= queries || key >= keys) return null;
  return { cell: tiles.cell(query, key, zoom), left, top };
}

/** Brings the crosshair to a cell's weight; of several, to the one farthest from 0. */
function useChoose(size: number): (cell: Cell) => Promise<void> {
  const { source, store } = useSession();
  const { state, layer, set } = useStore();
  return async (cell) => {
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
}

/** What moves the map and its crosshair, which goes by so many queries and keys. */
export function useMoves(moving: Moving, size: number): { zoomBy(by: number): void; reset(): void; onKey(event: KeyboardEvent): boolean } {
  const { store } = useSession();
  const { state, layer, set } = useStore();
  const zoomBy = (by: number): void => {
    const made = moving.map.current!;
    const { query, key } = store.state;
    if (query !== null && key !== null) made.setZoomAround([-(query + 0.5), key + 0.5], made.getZoom() + by);
    else made.setZoom(made.getZoom() + by);
  };
  const reset = (): void => set({ x: null, y: null, zoom: null }, true);
  /** Whether the crosshair moved. */
  const onKey = (event: KeyboardEvent): boolean => {
    const steps: Record<string, [number, number]> = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    };
    const step = steps[event.key];
    if (event.altKey || event.metaKey || event.ctrlKey) return false;
    if (step) {
      const by = size * (event.shiftKey ? 10 : 1);
      const center = moving.map.current!.getCenter();
      const none = state.query === null || state.key === null;
      const query = none ? Math.floor(-center.lat) : state.query! + by * step[0];
      const key = none ? Math.floor(center.lng) : state.key! + by * step[1];
      set({ query: clamp(query, 0, layer.queries - 1), key: clamp(key, 0, layer.keys - 1) });
    } else if (event.key === "+" || event.key === "=") zoomBy(1);
    else if (event.key === "-" || event.key === "_") zoomBy(-1);
    else if (event.key === "0") reset();
    else return false;
    event.preventDefault();
    return step !== undefined;
  };
  return { zoomBy, reset, onKey };
}

/** Where the map lies, and what stands upon it; a click brings the crosshair. */
export function Frame(props: {
  moving: Moving;
  tiles: Tiles;
  size: number;
  of: string;
  hover: Hover | null;
  pointer: Pointer | null;
  point(to: Pointer | null): void;
  onKey(event: KeyboardEvent): boolean;
  dark: boolean;
}) {
  const session = useSession();
  const { state, layer } = useStore();
  const { moving, hover, pointer, point } = props;
  const choose = useChoose(props.size);
  const exact = usePair(...exactly(hover?.cell ?? null));
  const onClick = (event: MouseEvent): void => {
    if (event.detail > 1) return; // the second click of a double click, which zooms
    // A click's coordinates are rounded: where it is at the pointer, what the tooltip says is meant.
    const near = pointer && Math.hypot(pointer.clientX - event.clientX, pointer.clientY - event.clientY) < 2;
    const at = near ? pointer : { clientX: event.clientX, clientY: event.clientY };
    const found = cellAt(moving, props.tiles, at);
    const moved = moving.map.current as unknown as { dragging: { moved(): boolean } };
    if (!found || moved.dragging.moved()) return;
    point(at);
    choose(found.cell).catch((error: Error) => session.fail(error.message));
  };
  return (
    <div
      class="map-frame"
      role="application"
      tabIndex={0}
      aria-label={`Attention map of layer ${layer.label}, head ${headName(layer, state.head)}: ${layer.queries} queries down, ${layer.keys} keys across. Arrow keys move the crosshair, plus and minus zoom, 0 shows the whole map.`}
      onKeyDown={(event) => props.onKey(event) && point(null)}
      onFocus={() => moving.map.current?.scrollWheelZoom.enable()}
      onBlur={() => session.inCell && moving.map.current?.scrollWheelZoom.disable()}
      onPointerMove={(event) => point(event.buttons ? null : { clientX: event.clientX, clientY: event.clientY })}
      onPointerLeave={() => point(null)}
      onClick={onClick}
    >
      <div class="map-leaflet" ref={moving.frame} />
      <Coarse moving={moving} dark={props.dark} />
      <Crosshair point={moving.point} query={state.query} key_={state.key} layer={layer} cell={hover?.cell ?? null} />
      {hover && <Tooltip {...hover} of={props.of} frame={moving.size} exact={exact} layer={layer} />}
    </div>
  );
}

/** The one weight of a cell that is one, to be asked for exactly. */
function exactly(cell: Cell | null): [number | null, number | null] {
  return cell && isSingle(cell) ? [cell.queries[0], cell.keys[0]] : [null, null];
}
