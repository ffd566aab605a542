/** Which part of a map is in sight. */

import type { Layer } from "../description";
import { type State, USUAL_WINDOW, WINDOW, windowOf } from "../state";
import type { Description } from "../description";
import type { Part } from "./commands";

/** The queries and keys whose cells a map of so many CSS pixels shows, a part of a cell for all of it. */
export function partOfMap(state: State, layer: Layer, width: number, height: number): Part {
  const { x, y, zoom } = state;
  if (x === null || y === null || zoom === null) return { queries: [0, layer.queries], keys: [0, layer.keys] };
  const pixels = 2 ** zoom;
  const along = (middle: number, size: number, room: number): [number, number] => {
    const half = room / pixels / 2;
    const first = Math.max(0, Math.min(size - 1, Math.floor(middle - half + 1e-6)));
    return [first, Math.max(first + 1, Math.min(size, Math.ceil(middle + half - 1e-6)))];
  };
  return { queries: along(y, layer.queries, height), keys: along(x, layer.keys, width) };
}

/** What a view shows: of the map what is in sight, of views with windows these, of the others all. */
export function partOf(state: State, description: Description, frame: { width: number; height: number }): Part {
  const layer = description.layers[state.layer];
  if (state.view === "map") return partOfMap(state, layer, frame.width, frame.height);
  if (state.view === "heads" || state.view === "text") {
    const usual = state.view === "heads" ? USUAL_WINDOW.heads : WINDOW;
    return { queries: windowOf(state, description, "query", usual), keys: windowOf(state, description, "key", usual) };
  }
  return { queries: [0, layer.queries], keys: [0, layer.keys] };
}
