/** The lines of the chosen query and key, and the outline of the cell under the pointer. */

import type { Layer } from "../description";
import type { Moving } from "./leaflet";
import type { Cell } from "./tiles";

export function Crosshair(props: {
  point: Moving["point"];
  query: number | null;
  key_: number | null;
  layer: Layer;
  cell: Cell | null;
}) {
  const { query, key_: key, point, layer, cell } = props;
  const lines = [];
  const start = point(query ?? 0, key ?? 0);
  const end = point((query ?? 0) + 1, (key ?? 0) + 1);
  const [from, to] = [point(0, 0), point(layer.queries, layer.keys)];
  if (start && end && from && to) {
    const least = (one: number, other: number) => Math.max(1, other - one);
    if (query !== null) {
      const style = { top: start.y, height: least(start.y, end.y), left: from.x, width: to.x - from.x };
      lines.push(<div class="cross cross-query" style={style} />);
    }
    if (key !== null) {
      const style = { left: start.x, width: least(start.x, end.x), top: from.y, height: to.y - from.y };
      lines.push(<div class="cross cross-key" style={style} />);
    }
  }
  if (cell) {
    const [first, last] = [point(cell.queries[0], cell.keys[0]), point(cell.queries[1], cell.keys[1])];
    if (first && last && last.x - first.x >= 5) {
      const style = { left: first.x, top: first.y, width: last.x - first.x, height: last.y - first.y };
      lines.push(<div class="cross-cell" style={style} />);
    }
  }
  return (
    <div class="crosshair" aria-hidden="true">
      {lines}
    </div>
  );
}
