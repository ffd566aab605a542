/** What a view opens on where nothing was chosen: the strongest link between two tokens, the head with the clearest. */

import type { Kind } from "./answers";
import { type Layer, position } from "./description";
import { type OfHead, THUMBNAIL } from "./questions";
import type { Thumbnail } from "./source/source";

export interface Link {
  query: number;
  key: number;
}

const NEAR = 512; // the most queries, and keys, of a part that is searched

/** Whether a link says something: not of a token to itself, nor to the first key, which takes what heads have to spare. */
export function tells(layer: Layer, query: number, key: number): boolean {
  if (key === 0) return false;
  return layer.positions === null || position(layer, "query", query) !== position(layer, "key", key);
}

/** The edges of a thumbnail's cells. */
function edges(size: number, cells: number): number[] {
  return Array.from({ length: cells + 1 }, (_, i) => Math.floor((i * size) / cells));
}

/** The cell of a thumbnail with the strongest link that may tell something; null where there is none. */
export function clearest(layer: Layer, { rows, columns, values }: Thumbnail): { row: number; column: number; weight: number } | null {
  const [queries, keys] = [edges(layer.queries, rows), edges(layer.keys, columns)];
  let best: { row: number; column: number; weight: number } | null = null;
  for (let row = 0; row < rows; row++) {
    // A query that sees few keys gives each of them much: that says nothing.
    let seen = 0;
    for (let column = 0; column < columns; column++) if (!Number.isNaN(values[row * columns + column])) seen++;
    if (seen < Math.min(4, columns)) continue;
    for (let column = 0; column < columns; column++) {
      const weight = values[row * columns + column];
      const own = queries[row + 1] - queries[row] === 1 && keys[column + 1] - keys[column] === 1;
      if (own ? !tells(layer, queries[row], keys[column]) : column === 0 || row === column) continue;
      if (weight > (best?.weight ?? 0)) best = { row, column, weight };
    }
  }
  return best;
}

/** The strongest link of a head that tells something. */
export const TELLING: Kind<OfHead, Link> = {
  name: "telling",
  bytes: () => 16,
  async ask(source, { layer: index, head }, signal) {
    const layer = source.description.layers[index];
    const thumbnail = await THUMBNAIL.ask(source, { layer: index, head, all: false }, signal);
    const cell = clearest(layer, thumbnail);
    const last = { query: layer.queries - 1, key: 0 };
    if (!cell) return last;
    const part = (size: number, cells: number, at: number): [number, number] => {
      const [first, end] = edges(size, cells).slice(at, at + 2);
      return [first, Math.min(end, first + NEAR)];
    };
    const queries = part(layer.queries, thumbnail.rows, cell.row);
    const keys = part(layer.keys, thumbnail.columns, cell.column);
    const weights = await source.weights(index, head, { queries, keys }, signal);
    const columns = keys[1] - keys[0];
    let best = 0;
    let found: Link = last;
    for (const [i, weight] of weights.entries()) {
      const link = { query: queries[0] + Math.floor(i / columns), key: keys[0] + (i % columns) };
      if (!(weight > best) || !tells(layer, link.query, link.key)) continue;
      [best, found] = [weight, link];
    }
    return found;
  },
};

const MOST = 48; // heads that are looked at

/** The head of a layer with the clearest link; 0 where none stands out. */
export const CLEAREST: Kind<{ layer: number }, number> = {
  name: "clearest",
  bytes: () => 8,
  async ask(source, { layer: index }, signal) {
    const layer = source.description.layers[index];
    let [best, found] = [0, 0];
    for (let head = 0; head < Math.min(MOST, layer.heads); head++) {
      const weight = clearest(layer, await source.thumbnail(index, head, false, signal))?.weight ?? 0;
      if (weight > best) [best, found] = [weight, head];
    }
    return found;
  },
};
