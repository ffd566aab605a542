/** Answers what the views ask, from the file's chunks. Runs in the worker. */

import { type Blob as Stored, type Description, type Layer, type Reduce, type Visible, position } from "../description";
import { bit, cells, floats, numbers, unpack } from "./decode";
import { type Cells, type Head, type Rectangle, TILE, halve, logits, reduce, seen, tileOf, weights } from "./math";

export type Request =
  | { kind: "tile"; layer: number; head: number; level: number; row: number; column: number; reduce: Reduce }
  | { kind: "weights" | "logits"; layer: number; head: number; rectangle: Rectangle }
  | { kind: "vectors"; layer: number; head: number; query: number; keys: readonly number[] }
  | { kind: "sides" | "thumbnail"; layer: number; head: number };

/** Awaited between steps of long work; throws where nobody waits any longer. */
export type Pause = () => Promise<void>;

const KEPT_HEADS = 48;

export class Engine {
  private readonly chunks = new Map<number, Promise<Uint8Array>>();
  private readonly unpacked = new Map<Stored, Promise<Uint8Array>>();
  private readonly heads = new Map<string, Promise<Head>>();
  private readonly levels = new Map<string, Cells>();

  constructor(
    private readonly description: Description,
    private readonly readChunk: (index: number) => Promise<Uint8Array>,
  ) {}

  async answer(request: Request, pause: Pause): Promise<Float32Array> {
    const layer = this.description.layers[request.layer];
    switch (request.kind) {
      case "thumbnail":
        return cells(layer.thumbnails!, await this.bytes(layer.thumbnails!), request.head);
      case "sides":
        return this.sides(layer, request.head);
      case "tile":
        return this.tile(layer, request, pause);
      case "weights":
        if (layer.kept !== undefined) return this.keptWeights(request.layer, request.head, request.rectangle);
        return weights(await this.head(request.layer, request.head), request.rectangle);
      case "logits":
        return logits(await this.head(request.layer, request.head), request.rectangle);
      case "vectors": {
        const head = await this.head(request.layer, request.head);
        const k = head.globalK !== null && head.globalRows.has(request.query) ? head.globalK : head.k;
        const of = (vectors: Float64Array, index: number): Float64Array => vectors.subarray(index * head.dim, (index + 1) * head.dim);
        const out = new Float32Array((1 + request.keys.length) * head.dim);
        out.set(of(head.q, request.query));
        for (const [i, key] of request.keys.entries()) out.set(of(k, key), (i + 1) * head.dim);
        return out;
      }
    }
  }

  /** What keys receive, and each query's entropy and largest weight, one after another. */
  private async sides(layer: Layer, head: number): Promise<Float32Array> {
    const [received, entropy, largest] = [layer.received!, layer.entropy!, layer.largest!];
    const out = new Float32Array(layer.keys + 2 * layer.queries);
    out.set(await this.part(received, head));
    out.set(await this.part(entropy, head), layer.keys);
    out.set(await this.part(largest, head), layer.keys + layer.queries);
    return out;
  }

  private async tile(
    layer: Layer,
    { layer: index, head: number, level, row, column, reduce: how }: Request & { kind: "tile" },
    pause: Pause,
  ): Promise<Float32Array> {
    if (layer.overview && level <= layer.overview.level) {
      return tileOf(await this.coarse(index, number, level, how), row, column);
    }
    const head = await this.head(index, number);
    const size = 2 ** (layer.levels - 1 - level);
    const steps = reduce(
      head,
      {
        queries: [row * TILE * size, Math.min(layer.queries, (row + 1) * TILE * size)],
        keys: [column * TILE * size, Math.min(layer.keys, (column + 1) * TILE * size)],
        size,
      },
      how,
    );
    for (;;) {
      const step = steps.next();
      if (step.done) {
        const columns = Math.ceil((Math.min(layer.keys, (column + 1) * TILE * size) - column * TILE * size) / size);
        return tileOf({ values: step.value, rows: step.value.length / columns, columns }, 0, 0);
      }
      await pause();
    }
  }

  /** Weights of a map that was reduced before to cells of one weight each. */
  private async keptWeights(index: number, head: number, { queries, keys }: Rectangle): Promise<Float32Array> {
    const { values, columns } = await this.coarse(index, head, this.description.layers[index].kept!, "max");
    const wide = keys[1] - keys[0];
    const found = new Float32Array((queries[1] - queries[0]) * wide);
    for (let t = queries[0]; t < queries[1]; t++) {
      found.set(values.subarray(t * columns + keys[0], t * columns + keys[1]), (t - queries[0]) * wide);
    }
    return found;
  }

  /** A level that is not finer than the overview, from the overview's cells. */
  private async coarse(index: number, head: number, level: number, how: Reduce): Promise<Cells> {
    const name = `${index} ${head} ${level} ${how}`;
    const known = this.levels.get(name);
    if (known) return known;
    const layer = this.description.layers[index];
    const overview = layer.overview!;
    let made: Cells;
    if (level === overview.level) {
      const blob = overview[how];
      const logSumExp = await this.logSumExp(layer, head);
      made = {
        rows: blob.shape[1],
        columns: blob.shape[2],
        values: cells(blob, await this.bytes(blob), head),
        counts: seen(logSumExp, 2 ** (layer.levels - 1 - level)),
      };
    } else {
      made = halve(await this.coarse(index, head, level + 1, how), how);
    }
    keep(this.levels, name, made, 24);
    return made;
  }

  private head(index: number, head: number): Promise<Head> {
    const name = `${index} ${head}`;
    const known = this.heads.get(name);
    if (known) {
      keep(this.heads, name, known, KEPT_HEADS); // the latest used are kept
      return known;
    }
    const made = this.decode(this.description.layers[index], head);
    keep(this.heads, name, made, KEPT_HEADS);
    made.catch(() => this.heads.delete(name));
    return made;
  }

  private async decode(layer: Layer, head: number): Promise<Head> {
    const { queries, keys, head_dim: dim } = layer;
    const kv = Math.floor((head * layer.kv_heads) / layer.heads);
    const q = await this.part(layer.q!, head);
    const k = await this.part(layer.k!, kv);
    const globalRows = new Set(layer.global?.rows ?? []);
    let globalK: Float64Array | null = null;
    if (layer.global) {
      globalK = await this.part(layer.global.k, kv);
      const own = await this.part(layer.global.q, head);
      for (const [i, row] of layer.global.rows.entries()) q.set(own.subarray(i * dim, (i + 1) * dim), row * dim);
    }
    const bias = layer.bias ? await this.part(layer.bias, layer.bias.shape[0] === 1 ? 0 : head) : null;
    const { band, sees } = await this.visibility(layer.visible!, head, keys);
    return {
      queries,
      keys,
      dim,
      q,
      k,
      globalK,
      globalRows,
      scale: layer.scale,
      softcap: layer.softcap,
      slope: layer.alibi?.[head] ?? 0,
      distance: (query, key) => Math.abs(position(layer, "query", query) - position(layer, "key", key)),
      bias,
      logSumExp: await this.logSumExp(layer, head),
      band,
      sees,
    };
  }

  private async visibility(visible: Visible, head: number, keys: number): Promise<Pick<Head, "band" | "sees">> {
    const everything = { low: Number.NEGATIVE_INFINITY, high: Number.POSITIVE_INFINITY };
    if (visible.kind === "bits") {
      const bits = await this.bytes(visible.blobs.length === 1 ? visible.blobs[0] : visible.blobs[head]);
      return { band: everything, sees: (query, key) => bit(bits, query * keys + key) };
    }
    const ofKeys = visible.keys ? await this.bytes(visible.keys) : null;
    const ofQueries = visible.queries ? await this.bytes(visible.queries) : null;
    const sees =
      ofKeys || ofQueries
        ? (query: number, key: number) =>
            (ofKeys === null || bit(ofKeys, key)) && (ofQueries === null || bit(ofQueries, query))
        : null;
    return { band: { low: visible.low ?? everything.low, high: visible.high ?? everything.high }, sees };
  }

  private async logSumExp(layer: Layer, head: number): Promise<Float32Array> {
    const all = floats(await this.bytes(layer.log_sum_exp!));
    return all.subarray(head * layer.queries, (head + 1) * layer.queries);
  }

  /** One entry of a blob's first dimension. */
  private async part(blob: Stored, index: number): Promise<Float64Array> {
    const size = blob.shape.slice(1).reduce((a, b) => a * b, 1);
    const steps = blob.steps ? floats(await this.bytes(blob.steps)) : null;
    return numbers(blob, await this.bytes(blob), index * size, (index + 1) * size, steps);
  }

  private bytes(blob: Stored): Promise<Uint8Array> {
    let made = this.unpacked.get(blob);
    if (!made) {
      let chunk = this.chunks.get(blob.chunk);
      if (!chunk) {
        chunk = this.readChunk(blob.chunk);
        this.chunks.set(blob.chunk, chunk);
      }
      made = chunk.then((bytes) => unpack(blob, bytes));
      this.unpacked.set(blob, made);
    }
    return made;
  }
}

/** Keeps the latest `most` entries of a map. */
function keep<V>(map: Map<string, V>, name: string, value: V, most: number): void {
  map.delete(name);
  map.set(name, value);
  if (map.size > most) map.delete(map.keys().next().value as string);
}
