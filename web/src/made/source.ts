/** Maps that are made of others', as a source: every view takes it as it takes any. */

import type { Description, Reduce } from "../description";
import type { Rectangle } from "../source/math";
import type { Sides, Source, Thumbnail } from "../source/source";
import { type Matrix, sidesOf, thumbnailOf, tileOf } from "./matrix";

/** The most queries, and keys, of maps that are made whole here. */
export const MOST_MADE = 2048;

const BLOCK = 512; // queries, and keys, that are asked for at once
const KEPT = 64 << 20; // bytes of matrices

/** Every weight of a head, or every score: NaN where not visible. */
export async function wholeOf(source: Source, layer: number, head: number, what: "weights" | "logits" = "weights"): Promise<Matrix> {
  const { queries, keys } = source.description.layers[layer];
  const values = new Float32Array(queries * keys);
  for (let t = 0; t < queries; t += BLOCK) {
    for (let s = 0; s < keys; s += BLOCK) {
      const part: Rectangle = { queries: [t, Math.min(queries, t + BLOCK)], keys: [s, Math.min(keys, s + BLOCK)] };
      const found = await source[what](layer, head, part);
      if (what === "logits") for (const [i, score] of found.entries()) if (score === Number.NEGATIVE_INFINITY) found[i] = Number.NaN;
      const wide = part.keys[1] - s;
      for (let y = t; y < part.queries[1]; y++) values.set(found.subarray((y - t) * wide, (y - t + 1) * wide), y * keys + s);
    }
  }
  return { rows: queries, columns: keys, values };
}

export class MadeSource implements Source {
  private readonly kept = new Map<string, { matrix: Promise<Matrix>; bytes: number }>();

  /** Of `description`'s layers; `make` gives the whole map of one of its heads, and `base` what can't be made. */
  constructor(
    readonly description: Description,
    private readonly base: Source,
    private readonly make: (layer: number, head: number) => Promise<Matrix>,
  ) {}

  get passes() {
    return this.base.passes;
  }

  get health() {
    return this.base.health;
  }

  async tile(layer: number, head: number, level: number, row: number, column: number, reduce: Reduce): Promise<Float32Array> {
    const finest = this.description.layers[layer].levels - 1;
    return tileOf(await this.matrix(layer, head), 2 ** (finest - level), row, column, reduce);
  }

  async weights(layer: number, head: number, { queries, keys }: Rectangle): Promise<Float32Array> {
    const { values, columns } = await this.matrix(layer, head);
    const wide = keys[1] - keys[0];
    const found = new Float32Array((queries[1] - queries[0]) * wide);
    for (let t = queries[0]; t < queries[1]; t++) {
      found.set(values.subarray(t * columns + keys[0], t * columns + keys[1]), (t - queries[0]) * wide);
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

  async sides(layer: number, head: number): Promise<Sides> {
    return sidesOf(await this.matrix(layer, head), this.description.layers[layer].signed ?? false);
  }

  async thumbnail(layer: number, head: number): Promise<Thumbnail> {
    return { ...thumbnailOf(await this.matrix(layer, head)), queries: null };
  }

  async statistics(): Promise<null> {
    return null; // those of the base are of other maps
  }

  close(): void {
    // The base is somebody else's.
  }

  private matrix(layer: number, head: number): Promise<Matrix> {
    const name = `${layer} ${head}`;
    const { queries, keys } = this.description.layers[layer];
    const known = this.kept.get(name);
    const matrix = known?.matrix ?? this.make(layer, head);
    if (!known) matrix.catch(() => this.kept.delete(name));
    this.kept.delete(name);
    this.kept.set(name, { matrix, bytes: queries * keys * 4 }); // the latest used are kept
    let bytes = [...this.kept.values()].reduce((sum, one) => sum + one.bytes, 0);
    for (const [other, one] of this.kept) {
      if (bytes <= KEPT || other === name) break;
      this.kept.delete(other);
      bytes -= one.bytes;
    }
    return matrix;
  }
}
