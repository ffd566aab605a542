/** Maps that are made of others', as a source: every view takes it as it takes any. */

import type { Description, Reduce } from "../description";
import type { Window } from "../questions";
import { Signal } from "../signal";
import { type Cells, type Rectangle, TILE, halve, tileOf } from "../source/math";
import { MOST_WEIGHTS, type Pass, type Sides, type Source, type Thumbnail } from "../source/source";
import { Shared } from "../source/shared";
import { type Matrix, SideSums, ThumbnailCells, THUMBNAIL_CELLS, cellsOf, stacked } from "./matrix";

/** The most queries, and keys, of maps that others are made of here. */
export const MOST_MADE = 65_536;

/** Queries, and keys, up to which a map is made whole for whatever is asked of it. */
const SHORT = 2048;

const OVERVIEW = 1024; // cells along a side of what is kept of a whole map
const KEPT = 64 << 20; // bytes of blocks

/** Some rows of a made map. */
export interface Made {
  matrix: Matrix;
  left: { sum: number; count: number }; // the weight that was left out of them, and of how many queries
}

/** Makes rows of a head's map. */
export type Make = (layer: number, head: number, rows: Window) => Promise<Made>;

/** What is kept of a whole map: cells few enough, what stands at its sides, and what was left out. */
interface Whole {
  size: number; // queries, and keys, of a cell
  cells: Record<Reduce, Cells>;
  sides: Sides;
  thumbnail: Thumbnail;
  left: Made["left"];
}

/** Weights, or scores, of some queries on all keys: NaN where not visible. */
export async function rowsOf(source: Source, layer: number, head: number, [first, end]: Window, what: "weights" | "logits" = "weights"): Promise<Matrix> {
  const { keys } = source.description.layers[layer];
  const values = new Float32Array((end - first) * keys);
  const step = Math.max(1, Math.floor(MOST_WEIGHTS / keys)); // whole rows: a server makes all of one for any part of it
  for (let t = first; t < end; t += step) {
    const found = await source[what](layer, head, { queries: [t, Math.min(end, t + step)], keys: [0, keys] });
    if (what === "logits") for (const [i, score] of found.entries()) if (score === Number.NEGATIVE_INFINITY) found[i] = Number.NaN;
    values.set(found, (t - first) * keys);
  }
  return { rows: end - first, columns: keys, values };
}

export class MadeSource implements Source {
  readonly passes = new Signal<readonly Pass[]>([]);
  private readonly blocks = new Map<string, { made: Promise<Made>; bytes: number }>();
  private readonly wholes = new Map<string, Whole>();
  private readonly shared = new Shared();

  /** Of `description`'s layers; `make` gives rows of a head of them, of `parts` maps at once, out of `base`. */
  constructor(
    readonly description: Description,
    private readonly base: Source,
    private readonly make: Make,
    private readonly parts: (layer: number) => number = () => 1,
  ) {}

  get health() {
    return this.base.health;
  }

  async tile(layer: number, head: number, level: number, row: number, column: number, reduce: Reduce, signal?: AbortSignal): Promise<Float32Array> {
    const { queries, levels } = this.description.layers[layer];
    const size = 2 ** (levels - 1 - level);
    if (size >= this.sizeOf(layer)) {
      const whole = await this.whole(layer, head, signal);
      let cells = whole.cells[reduce];
      for (let at = whole.size; at < size; at *= 2) cells = halve(cells, reduce);
      return tileOf(cells, row, column);
    }
    const rows: [number, number] = [row * TILE * size, Math.min(queries, (row + 1) * TILE * size)];
    return tileOf(await this.cells(layer, head, rows, column, size, reduce), 0, 0);
  }

  async weights(layer: number, head: number, { queries, keys }: Rectangle): Promise<Float32Array> {
    const wide = keys[1] - keys[0];
    const found = new Float32Array((queries[1] - queries[0]) * wide);
    for (const [first, end] of this.cut(layer, queries)) {
      const { matrix, from } = await this.block(layer, head, first);
      for (let t = first; t < end; t++) {
        const start = (t - from) * matrix.columns;
        found.set(matrix.values.subarray(start + keys[0], start + keys[1]), (t - queries[0]) * wide);
      }
    }
    return found;
  }

  logits(): Promise<Float32Array> {
    return Promise.reject(new Error("what is made of weights has no logits"));
  }

  vectors(): Promise<Float32Array> {
    return Promise.reject(new Error("what is made of weights has no query and key vectors"));
  }

  row(layer: number, head: number, query: number): Promise<Float32Array> {
    return this.weights(layer, head, { queries: [query, query + 1], keys: [0, this.description.layers[layer].keys] });
  }

  column(layer: number, head: number, key: number): Promise<Float32Array> {
    return this.weights(layer, head, { queries: [0, this.description.layers[layer].queries], keys: [key, key + 1] });
  }

  async sides(layer: number, head: number, signal?: AbortSignal): Promise<Sides> {
    return (await this.whole(layer, head, signal)).sides;
  }

  /** The map in a few cells; of one that is long the middle query of each row of cells, where not all are wanted. */
  async thumbnail(layer: number, head: number, all: boolean, signal?: AbortSignal): Promise<Thumbnail> {
    const { queries, keys } = this.description.layers[layer];
    if (all || Math.max(queries, keys) <= SHORT || this.wholes.has(`${layer} ${head}`)) return (await this.whole(layer, head, signal)).thumbnail;
    const cells = new ThumbnailCells(queries, keys);
    for (let row = 0; row < cells.rows; row++) {
      const middle = Math.floor(((row + 0.5) * queries) / cells.rows);
      if (signal?.aborted) throw new DOMException("aborted", "AbortError");
      cells.add((await this.make(layer, head, [middle, middle + 1])).matrix, middle);
    }
    return { ...cells.found, queries: THUMBNAIL_CELLS };
  }

  /** The share of an average query's weight that was left out: its sum, and of how many queries. */
  async left(layer: number, head: number, signal?: AbortSignal): Promise<Made["left"]> {
    return (await this.whole(layer, head, signal)).left;
  }

  async statistics(): Promise<null> {
    return null; // those of the base are of other maps
  }

  close(): void {
    // The base is somebody else's.
  }

  /** How many queries, and keys, a cell of what is kept of a whole map has. */
  private sizeOf(layer: number): number {
    const { queries, keys } = this.description.layers[layer];
    return 2 ** Math.max(0, Math.ceil(Math.log2(Math.max(queries, keys) / OVERVIEW)));
  }

  /** How many rows are made at once: a power of 2, so that no row of cells is in two blocks. */
  private step(layer: number): number {
    const { keys } = this.description.layers[layer];
    return Math.max(64, 2 ** Math.floor(Math.log2(MOST_WEIGHTS / (keys * this.parts(layer)))));
  }

  /** A range of rows, cut where blocks end. */
  private *cut(layer: number, [first, end]: Window): Generator<[number, number]> {
    const step = this.step(layer);
    for (let at = first; at < end; at = Math.floor(at / step) * step + step) yield [at, Math.min(end, Math.floor(at / step) * step + step)];
  }

  /** The block that holds a row, and the row it begins with. */
  private async block(layer: number, head: number, row: number): Promise<Made & { from: number }> {
    const step = this.step(layer);
    const { queries, keys } = this.description.layers[layer];
    const from = Math.floor(row / step) * step;
    const end = Math.min(queries, from + step);
    const name = `${layer} ${head} ${from}`;
    const made = this.blocks.get(name)?.made ?? this.make(layer, head, [from, end]);
    if (!this.blocks.has(name)) made.catch(() => this.blocks.delete(name));
    this.blocks.delete(name);
    this.blocks.set(name, { made, bytes: (end - from) * keys * 4 }); // the latest used are kept
    let bytes = [...this.blocks.values()].reduce((sum, one) => sum + one.bytes, 0);
    for (const [other, one] of this.blocks) {
      if (bytes <= KEPT || other === name) break;
      this.blocks.delete(other);
      bytes -= one.bytes;
    }
    return { ...(await made), from };
  }

  /** Cells of some rows of the map, and of a tile's columns. */
  private async cells(layer: number, head: number, rows: Window, column: number, size: number, reduce: Reduce): Promise<Cells> {
    const { keys } = this.description.layers[layer];
    const columns = Math.min(TILE, Math.ceil(keys / size) - column * TILE);
    const parts: Cells[] = [];
    for (const [first, end] of this.cut(layer, rows)) {
      const { matrix, from } = await this.block(layer, head, first);
      const at = { row: (first - from) / size, column: column * TILE };
      parts.push(cellsOf(matrix, size, at, Math.ceil((end - first) / size), columns, reduce));
    }
    return stacked(parts);
  }

  /** One pass over a head's map, shared by whoever waits for it; one after another. */
  private whole(layer: number, head: number, signal?: AbortSignal): Promise<Whole> {
    const name = `${layer} ${head}`;
    return this.shared.wait(
      name,
      async (stop) => {
        const known = this.wholes.get(name);
        if (known) return known;
        const made = await this.pass(layer, head, stop);
        this.wholes.set(name, made);
        if (this.wholes.size > 24) this.wholes.delete(this.wholes.keys().next().value as string);
        return made;
      },
      signal,
    );
  }

  private async pass(layer: number, head: number, stop: AbortSignal): Promise<Whole> {
    const { queries, keys, signed } = this.description.layers[layer];
    const size = this.sizeOf(layer);
    const columns = Math.ceil(keys / size);
    const [max, mass]: [Cells[], Cells[]] = [[], []];
    const [sides, thumbnail] = [new SideSums(queries, keys, signed ?? false), new ThumbnailCells(queries, keys)];
    const left = { sum: 0, count: 0 };
    const others = this.passes.value.filter((one) => one.layer !== layer || one.head !== head);
    try {
      for (const [first, end] of this.cut(layer, [0, queries])) {
        if (stop.aborted) throw new DOMException("aborted", "AbortError");
        const { matrix, left: gone } = await this.block(layer, head, first);
        const rows = Math.ceil((end - first) / size);
        max.push(cellsOf(matrix, size, { row: 0, column: 0 }, rows, columns, "max"));
        mass.push(size === 1 ? max[max.length - 1] : cellsOf(matrix, size, { row: 0, column: 0 }, rows, columns, "mass"));
        sides.add(matrix, first);
        thumbnail.add(matrix, first);
        left.sum += gone.sum;
        left.count += gone.count;
        if (queries > SHORT) this.passes.set([...others, { what: "map", layer, head, done: end, rows: queries }]);
      }
    } finally {
      this.passes.set(this.passes.value.filter((one) => one.layer !== layer || one.head !== head));
    }
    const cells = { max: stacked(max), mass: stacked(mass) };
    return { size, cells, sides: sides.made(), thumbnail: { ...thumbnail.found, queries: null }, left };
  }
}
