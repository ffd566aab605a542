/** The cells of a part of a map, out of the tiles that hold them. */

import type { Layer, Reduce } from "../description";
import { TILE } from "../source/math";
import type { Source } from "../source/source";
import type { Part } from "./commands";

/** Cells of `size` queries by `size` keys each, from a multiple of `size` on; the last are cut at the map's end. */
export interface Cells {
  size: number;
  first: { query: number; key: number };
  rows: number;
  columns: number;
  values: Float32Array; // NaN: not visible
}

const MOST = 512; // cells along a side

/** The finest cells of a part of a map that are few enough to be drawn. */
export async function cellsOf(
  source: Source,
  { layer, index, head, reduce }: { layer: Layer; index: number; head: number; reduce: Reduce },
  { queries, keys }: Part,
  signal?: AbortSignal,
): Promise<Cells> {
  const finest = layer.levels - 1;
  const along = ([first, end]: readonly [number, number], size: number) => Math.ceil(end / size) - Math.floor(first / size);
  let level = layer.kept ?? finest;
  while (level > 0 && Math.max(along(queries, 2 ** (finest - level)), along(keys, 2 ** (finest - level))) > MOST) level--;
  const size = 2 ** (finest - level);
  const [top, left] = [Math.floor(queries[0] / size), Math.floor(keys[0] / size)];
  const [rows, columns] = [along(queries, size), along(keys, size)];
  const values = new Float32Array(rows * columns).fill(Number.NaN);
  const tiles: Promise<void>[] = [];
  for (let y = Math.floor(top / TILE); y * TILE < top + rows; y++) {
    for (let x = Math.floor(left / TILE); x * TILE < left + columns; x++) {
      tiles.push(
        source.tile(index, head, level, y, x, reduce, signal).then((tile) => {
          for (let r = Math.max(top, y * TILE); r < Math.min(top + rows, (y + 1) * TILE); r++) {
            const [from, to] = [Math.max(left, x * TILE), Math.min(left + columns, (x + 1) * TILE)];
            const start = (r - y * TILE) * TILE - x * TILE;
            values.set(tile.subarray(start + from, start + to), (r - top) * columns + from - left);
          }
        }),
      );
    }
  }
  await Promise.all(tiles);
  return { size, first: { query: top * size, key: left * size }, rows, columns, values };
}
